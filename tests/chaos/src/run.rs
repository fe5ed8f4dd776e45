//! One scenario on a lab: load and watchers start, the steps are done, everything is mended, and the evidence is collected.
//!
//! A step whose fault cannot be seen to have happened fails the run: a test that tried nothing must not pass.

use crate::client::Client;
use crate::field::{AGAIN, Field, PATIENCE};
use crate::history::{Action, Final, History, Operation, Outcome};
use crate::lab::Lab;
use crate::load::{Load, Shape};
use crate::scenario::{Length, Scenario, Step};
use crate::verdict::{Verdict, judge, judge_watches};
use crate::watchers::Watchers;
use anyhow::{Context as _, ensure};
use serde_json::json;
use std::collections::BTreeMap;
use tokio::time::{Instant, sleep, timeout};

pub struct Proof {
    pub history: History,
    pub verdict: Verdict,
    pub notes: Vec<String>,
}

pub async fn run(
    lab: &Lab,
    scenario: &Scenario,
    length: &Length,
    shape: Shape,
    watchers: usize,
) -> anyhow::Result<Proof> {
    let clients = clients(lab).await?;
    let all: Vec<Client> = clients.values().cloned().collect();
    let namespace = make_namespace(&all, scenario.name).await?;
    let load = Load::new(all.clone(), &namespace, shape);
    let watching = Watchers::start(&all, &namespace, watchers);
    let mut workers = load.start();
    let mut field = Field::new(lab, load.clone(), clients);
    let mut failed = field.step(&Step::Written(20)).await.err();
    if failed.is_none() {
        for (i, step) in (scenario.steps)(length).iter().enumerate() {
            if let Err(error) = field.step(step).await {
                failed = Some(error.context(format!(
                    "step {}: {step:?} (roles {:?})",
                    i + 1,
                    field.roles
                )));
                break;
            }
        }
    }
    let mended = field.mend().await;
    load.stop();
    let ended = timeout(shape.staying + PATIENCE, async {
        while workers.join_next().await.is_some() {}
    })
    .await;
    let (mut operations, marks) = load.take();
    let collected = async {
        mended.context("mend the lab")?;
        ended.context("the workers do not end")?;
        let end = write_end(&load, &all, &namespace, &mut operations).await?;
        let (watched, behind) = watching.end(end, PATIENCE).await;
        let end = objects(&all, &namespace).await?;
        Ok::<_, anyhow::Error>((watched, behind, end))
    };
    let collected = collected.await;
    let mut history = History {
        operations,
        marks,
        end: vec![],
        restored: field.restored.take(),
    };
    let (watched, behind) = match collected {
        Ok((watched, behind, end)) => {
            history.end = end;
            (Some(watched), behind)
        }
        Err(error) => {
            failed = Some(match failed {
                Some(first) => first.context(format!("then: {error:#}")),
                None => error,
            });
            (None, 0)
        }
    };
    let mut verdict = if watched.is_some() {
        judge(&history)
    } else {
        Verdict::default()
    };
    if let Some(watched) = watched {
        judge_watches(&watched, &history, behind, &mut verdict);
        let path = format!("/api/v1/namespaces/{namespace}");
        for client in &all {
            if client.must("DELETE", &path, None).await.is_ok() {
                break;
            }
        }
    }
    if let Some(error) = failed {
        verdict.wrong.insert(0, format!("{error:#}"));
    }
    Ok(Proof {
        history,
        verdict,
        notes: field.notes,
    })
}

/// One for each server.
async fn clients(lab: &Lab) -> anyhow::Result<BTreeMap<String, Client>> {
    let kubeconfig =
        std::fs::read_to_string(lab.kubeconfig()).context("read the lab's kubeconfig")?;
    let mut clients = BTreeMap::new();
    for host in lab.status().await?.servers() {
        let url = format!("https://{}:6443", host.address);
        clients.insert(
            host.name.clone(),
            Client::new(&kubeconfig, &host.name, &url).await?,
        );
    }
    Ok(clients)
}

/// Of its own for every run, which must wait for whatever the run before it left.
async fn make_namespace(clients: &[Client], name: &str) -> anyhow::Result<String> {
    let seconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs();
    let name = format!("{name}-{seconds}");
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let end = Instant::now() + PATIENCE;
    for client in clients.iter().cycle() {
        match client.must("POST", "/api/v1/namespaces", Some(&body)).await {
            Ok(_) => return Ok(name),
            Err(error) => ensure!(
                Instant::now() < end,
                "no namespace for the run can be made: {error:#}"
            ),
        }
        sleep(AGAIN).await;
    }
    anyhow::bail!("the lab has no servers")
}

/// One last write, after which there is no other. Its revision.
async fn write_end(
    load: &Load,
    clients: &[Client],
    namespace: &str,
    operations: &mut Vec<Operation>,
) -> anyhow::Result<u64> {
    let end = Instant::now() + PATIENCE;
    for i in 0.. {
        let client = &clients[i % clients.len()];
        let (key, value) = (format!("end-{i}"), format!("end.{i}"));
        let invoked = load.now();
        let outcome = client
            .create(namespace, &key, &value, std::time::Duration::from_secs(15))
            .await;
        let revision = match outcome {
            Outcome::Done { revision, .. } => Some(revision),
            _ => None,
        };
        let (server, action) = (client.server.clone(), Action::Create { value });
        operations.push(Operation {
            server,
            key,
            action,
            invoked,
            returned: load.now(),
            outcome,
        });
        if let Some(revision) = revision {
            return Ok(revision);
        }
        ensure!(Instant::now() < end, "no server accepts a write at the end");
        sleep(AGAIN).await;
    }
    unreachable!("counts for ever")
}

/// The objects at the end, which all servers must agree on.
async fn objects(clients: &[Client], namespace: &str) -> anyhow::Result<Vec<Final>> {
    let mut agreed: Option<Vec<Final>> = None;
    for client in clients {
        let (_, items) = client.list(namespace).await?;
        let mut items: Vec<Final> = items
            .into_iter()
            .map(|(key, register)| Final {
                key,
                values: register.values,
            })
            .collect();
        items.sort_by(|a, b| a.key.cmp(&b.key));
        if let Some(agreed) = &agreed {
            let other = agreed.iter().zip(&items).find(|(a, b)| a != b);
            ensure!(
                *agreed == items,
                "{} has other objects than the servers before it: {other:?}",
                client.server
            );
        }
        agreed = Some(items);
    }
    agreed.context("no servers")
}
