//! An unmodified kube-rs client does to a real cluster what controllers do: list, watch, patch, apply, delete.
//!
//! Run by `tests/e2e/55-kube-rs.sh` with KUBECONFIG and a namespace; exits non-zero at the first surprise.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let namespace = std::env::args()
        .nth(1)
        .context("usage: kube-rs-client NAMESPACE")?;
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let client = Client::try_default()
        .await
        .context("no cluster: is KUBECONFIG set?")?;
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    tokio::time::timeout(PATIENCE * 3, drive(&maps))
        .await
        .context("it took too long")??;
    println!("kube-rs lists, watches, patches, applies and deletes");
    Ok(())
}

async fn drive(maps: &Api<ConfigMap>) -> Result<()> {
    let labels = ListParams::default().labels("made-by=kube-rs");
    let mut events = watcher(
        maps.clone(),
        watcher::Config::default().labels("made-by=kube-rs"),
    )
    .boxed();
    wait(&mut events, |e| matches!(e, Event::InitDone))
        .await
        .context("the watcher's first list")?;

    let made: ConfigMap = serde_json::from_value(
        json!({"metadata": {"name": "k", "labels": {"made-by": "kube-rs"}}, "data": {"a": "1"}}),
    )?;
    let created = maps
        .create(&PostParams::default(), &made)
        .await
        .context("create")?;
    ensure!(
        created.metadata.uid.is_some() && created.metadata.resource_version.is_some(),
        "no uid or version: {created:?}"
    );
    wait(
        &mut events,
        |e| matches!(e, Event::Apply(m) if m.data == made.data),
    )
    .await
    .context("the watcher sees the creation")?;
    ensure!(
        maps.list(&labels).await?.items.len() == 1,
        "the list has exactly the new object"
    );

    maps.patch(
        "k",
        &PatchParams::default(),
        &Patch::Merge(json!({"data": {"b": "2"}})),
    )
    .await
    .context("merge patch")?;
    maps.patch(
        "k",
        &PatchParams::default(),
        &Patch::Strategic(json!({"metadata": {"annotations": {"n": "v"}}})),
    )
    .await
    .context("strategic patch")?;
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "k"}, "data": {"c": "3"}});
    let now = maps
        .patch("k", &PatchParams::apply("kube-rs"), &Patch::Apply(&applied))
        .await
        .context("server-side apply")?;
    let keys: Vec<&str> = now.data.iter().flatten().map(|(k, _)| k.as_str()).collect();
    ensure!(keys == ["a", "b", "c"], "the patches add up: {keys:?}");
    ensure!(
        now.metadata
            .managed_fields
            .iter()
            .flatten()
            .any(|f| f.manager.as_deref() == Some("kube-rs")),
        "no field is managed by kube-rs"
    );
    wait(
        &mut events,
        |e| matches!(e, Event::Apply(m) if m.data.as_ref().is_some_and(|d| d.contains_key("c"))),
    )
    .await
    .context("the watcher sees the apply")?;

    let stale = maps.replace("k", &PostParams::default(), &created).await;
    match stale {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        other => bail!("a stale replace is not a conflict: {other:?}"),
    }
    maps.delete("k", &DeleteParams::default())
        .await
        .context("delete")?;
    wait(&mut events, |e| matches!(e, Event::Delete(_)))
        .await
        .context("the watcher sees the deletion")?;
    ensure!(
        maps.list(&labels).await?.items.is_empty(),
        "nothing is left"
    );
    Ok(())
}

async fn wait<S>(events: &mut S, wanted: impl Fn(&Event<ConfigMap>) -> bool) -> Result<()>
where
    S: futures::Stream<Item = Result<Event<ConfigMap>, watcher::Error>> + Unpin,
{
    let found = async {
        while let Some(event) = events.next().await {
            if wanted(&event?) {
                return Ok(());
            }
        }
        bail!("the watcher ended")
    };
    tokio::time::timeout(PATIENCE, found).await?
}
