//! A backup taken under load, and a cluster begun again from it: what it held is compared byte for byte with what comes back.
//!
//! The truth about the backup is not taken from the program's own reading of it: each object is fetched by itself after the
//! backup, and those whose revision is not later than the backup's are what it must hold.

use super::{AGAIN, Field, PATIENCE};
use crate::client::{Client, path, revision};
use crate::history::{Kept, Restored};
use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How far above the backup's revision everything lies that is written after a restore.
const APART: u64 = 1_000_000_000;
/// Secrets that nobody changes.
const SECRETS: u8 = 20;
/// How long a server of the old cluster gets to be heard, which it must not be.
const OLD: Duration = Duration::from_secs(8);
/// Objects of the load, which nobody else changes, and of the cluster, which goes on by itself once it is back.
const LOAD: [&str; 2] = ["configmaps", "secrets"];
const CLUSTER: [&str; 7] = [
    "/api/v1/namespaces",
    "/api/v1/serviceaccounts",
    "/api/v1/services",
    "/api/v1/nodes",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "/apis/apps/v1/deployments",
];

pub(super) struct Backup {
    file: PathBuf,
    revision: u64,
    /// Path and bytes of each object that it must hold.
    objects: BTreeMap<String, Vec<u8>>,
    /// Where a list of before would go on.
    page: String,
    container: Container,
}

/// A container that must not notice anything.
#[derive(Debug, PartialEq, Eq)]
struct Container {
    id: String,
    restarts: u64,
    /// Its process, and when that began by the kernel's clock.
    process: (u32, String),
}

impl Field<'_> {
    fn any(&self) -> anyhow::Result<&Client> {
        self.clients
            .values()
            .next()
            .context("the lab has no servers")
    }

    pub(super) async fn save_backup(&mut self) -> anyhow::Result<()> {
        let namespace = self.load.namespace().to_owned();
        self.make_fixed(&namespace).await?;
        let container = self.run_container(&namespace).await?;
        let file = self.lab.dir.join("chaos.snapshot");
        let begun = self.load.written_since(0);
        self.lab
            .admin(&["snapshot", "save", &file.to_string_lossy()])
            .await?;
        let meanwhile = self.load.written_since(0) - begun;
        let dir = self.lab.dir.to_string_lossy();
        let list = ["snapshot", "list", "--dir", &dir, "--output", "json"];
        let listed: Value = serde_json::from_str(&self.lab.own(&list).await?)?;
        let head = &listed["snapshots"][0]["snapshot"];
        let revision = head["revision"]
            .as_u64()
            .context("a backup without a revision")?;
        let client = self.any()?.clone();
        let first = format!("{}?limit=3", path(&namespace, ""));
        let page = client.must("GET", &first, None).await?;
        let token = page["metadata"]["continue"]
            .as_str()
            .context("one page only")?;
        let page = format!("{first}&continue={token}");
        let mut objects = BTreeMap::new();
        let paths = LOAD.map(|plural| format!("/api/v1/namespaces/{namespace}/{plural}"));
        for list in paths.iter().map(String::as_str).chain(CLUSTER) {
            for path in paths_of(&client, list).await? {
                let (status, bytes) = client.raw(&path).await?;
                if status == 200 && revision_of(&bytes).is_some_and(|at| at <= revision) {
                    objects.insert(path, bytes);
                }
            }
        }
        ensure!(
            objects.len() > usize::from(SECRETS),
            "the backup holds too little"
        );
        self.notes.push(format!(
            "a backup of revision {revision} with {} objects; {meanwhile} writes were acknowledged while it was taken; {} objects of it are known by their bytes",
            head["objects"],
            objects.len()
        ));
        self.load.mark(format!("saved revision {revision}"), false);
        self.backup = Some(Backup {
            file,
            revision,
            objects,
            page,
            container,
        });
        Ok(())
    }

    async fn make_fixed(&self, namespace: &str) -> anyhow::Result<()> {
        let client = self.any()?;
        for n in 0..SECRETS {
            let text: String = (0..=n).map(|i| char::from(b'a' + (n ^ i) % 26)).collect();
            let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("fixed-{n}")},
                "stringData": {"secret": text.repeat(usize::from(n) * 40 + 1)}});
            let to = format!("/api/v1/namespaces/{namespace}/secrets");
            client.must("POST", &to, Some(&body)).await?;
        }
        Ok(())
    }

    async fn run_container(&self, namespace: &str) -> anyhow::Result<Container> {
        let client = self.any()?;
        let pods = format!("/api/v1/namespaces/{namespace}/pods");
        let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "through"}, "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "busybox:1.36", "command": ["sleep", marker(namespace)]}]}});
        client.must("POST", &pods, Some(&body)).await?;
        let end = Instant::now() + PATIENCE;
        loop {
            match container(client, namespace).await {
                Ok(container) => return Ok(container),
                Err(error) => ensure!(Instant::now() < end, "the pod does not run: {error:#}"),
            }
            sleep(AGAIN).await;
        }
    }

    pub(super) async fn restore(&mut self, who: usize) -> anyhow::Result<()> {
        let backup = self.backup.take().context("there is no backup")?;
        let name = self.name(who)?;
        let others: Vec<String> = self
            .roles
            .iter()
            .filter(|one| **one != name)
            .cloned()
            .collect();
        let last = self.load.newest();
        ensure!(
            last > backup.revision,
            "nothing was written after the backup"
        );
        let all = self.roles.clone();
        self.kill(&all).await?;
        self.load.hold(true);
        let end = Instant::now() + PATIENCE;
        while !self.load.is_idle() {
            ensure!(Instant::now() < end, "the load does not stop");
            sleep(AGAIN).await;
        }
        let at = self.load.mark(
            format!("killed {all:?} to restore revision {}", backup.revision),
            true,
        );
        let status = self.lab.status().await?;
        let address = status
            .servers()
            .find(|host| host.name == name)
            .map(|host| host.address.clone());
        let (file, address) = (
            backup.file.to_string_lossy(),
            address.context("no address")?,
        );
        let program = self.lab.program.to_string_lossy();
        let restore = [
            "snapshot",
            "restore",
            &file,
            "--replace",
            "--advertise-address",
            &address,
        ];
        let said = self
            .lab
            .exec(&name, &[&[&*program], &restore[..]].concat())
            .await?;
        ensure!(said.contains("restored: "), "restoring says {said:?}");
        let begun = Instant::now();
        self.lab.lab("start", &[&name]).await?;
        let client = self.clients[&name].clone();
        self.until("the restored server is ready", async |_: &Self| {
            Ok(client.ready().await)
        })
        .await?;
        let up = begun.elapsed();
        let since = backup.revision + APART;
        let objects = self.compare(&client, &backup).await?;
        self.all_gone(&client, &backup, last).await?;
        self.restored = Some(Restored {
            at,
            revision: backup.revision,
            since,
            objects,
        });
        self.load.hold(false);
        self.notes.push(format!(
            "{name} was ready {:.1} s after its start from the backup",
            up.as_secs_f64()
        ));
        self.old_one_is_refused(&others[0], &client).await?;
        for other in &others {
            self.lab.renew(other).await?;
            self.lab.lab("start", &[other]).await?;
            self.until("it has a vote", async |field: &Self| {
                let voters = field.lab.voters().await;
                Ok(voters.is_ok_and(|voters| voters.iter().any(|(_, voter)| voter == other)))
            })
            .await?;
        }
        self.went_on(&backup).await
    }

    /// Each object byte for byte as it was; what the load had then.
    async fn compare(&mut self, client: &Client, backup: &Backup) -> anyhow::Result<Vec<Kept>> {
        let namespace = self.load.namespace().to_owned();
        let since = backup.revision + APART;
        let (now, items) = client.list(&namespace).await?;
        ensure!(
            now >= since,
            "revision {now} after the restore of {}",
            backup.revision
        );
        let (mut same, mut changed) = (0, 0);
        for (path, bytes) in &backup.objects {
            let (status, back) = client.raw(path).await?;
            let later = revision_of(&back).is_some_and(|at| at >= since);
            match (status, &back == bytes) {
                (200, true) => same += 1,
                (200, false) if later && !path.contains(&namespace) => changed += 1,
                _ => anyhow::bail!(
                    "{path} was {} and is, with {status}, {}",
                    String::from_utf8_lossy(bytes),
                    String::from_utf8_lossy(&back)
                ),
            }
        }
        self.notes.push(format!(
            "{same} objects came back byte for byte, {changed} were changed by the restored cluster since; the next revision is {now}"
        ));
        let objects = items.into_iter().map(|(key, register)| Kept {
            key,
            values: register.values,
            revision: register.revision,
        });
        Ok(objects.collect())
    }

    /// Nobody goes on from what was before: not a watch, not a list in pages, not a list of an exact revision.
    async fn all_gone(
        &mut self,
        client: &Client,
        backup: &Backup,
        last: u64,
    ) -> anyhow::Result<()> {
        let namespace = self.load.namespace().to_owned();
        for after in [
            1,
            backup.revision - 1,
            backup.revision,
            backup.revision + 1,
            last,
        ] {
            let gone = client.is_gone(&namespace, after).await?;
            ensure!(gone, "a watch goes on after revision {after}");
        }
        let exact = format!(
            "{}?resourceVersionMatch=Exact&resourceVersion={}",
            path(&namespace, ""),
            backup.revision
        );
        for old in [&backup.page, &exact] {
            let (status, _) = client.raw(old).await?;
            ensure!(
                status == 410,
                "{old} is answered with {status} and not with 410"
            );
        }
        self.notes
            .push("watches, a page and an exact list of before: 410".to_owned());
        Ok(())
    }

    /// One that has the old cluster's disk is no member of the new one, serves nothing and is heard by nobody.
    async fn old_one_is_refused(&mut self, name: &str, restored: &Client) -> anyhow::Result<()> {
        self.lab.lab("start", &[name]).await?;
        let client = self.clients[name].clone();
        let end = Instant::now() + OLD;
        let mut asked = 0;
        while Instant::now() < end {
            ensure!(
                !client.ready().await,
                "{name} of the old cluster says that it is ready"
            );
            let read = client.status_of(self.load.namespace()).await;
            ensure!(read != Some(200), "{name} of the old cluster serves reads");
            ensure!(restored.ready().await, "the restored server is not ready");
            // The lab's balancer may not have seen yet which of them is ready.
            if let Ok(voters) = self.lab.voters().await {
                ensure!(
                    voters.len() == 1,
                    "with a server of the old cluster there are {voters:?}"
                );
                asked += 1;
            }
            sleep(AGAIN).await;
        }
        ensure!(
            asked > 0 && self.lab.said(name, "waiting for a majority")? > 0,
            "{name} tried nothing"
        );
        self.lab.lab("stop", &[name]).await?;
        self.notes.push(format!(
            "{name} of the old cluster was refused: not ready, no reads, no member"
        ));
        Ok(())
    }

    async fn went_on(&mut self, backup: &Backup) -> anyhow::Result<()> {
        let namespace = self.load.namespace().to_owned();
        let client = self.any()?.clone();
        let pod = format!("/api/v1/namespaces/{namespace}/pods/through");
        self.until("the pod and its node are ready again", async |_: &Self| {
            let pod = client.must("GET", &pod, None);
            let nodes = client.must("GET", "/api/v1/nodes", None);
            let (Ok(pod), Ok(nodes)) = (pod.await, nodes.await) else {
                return Ok(false);
            };
            let mut nodes = nodes["items"].as_array().into_iter().flatten();
            Ok(is_ready(&pod) && nodes.all(is_ready))
        })
        .await?;
        let now = container(&client, &namespace).await?;
        ensure!(
            now == backup.container,
            "the container was {:?} and is {now:?}",
            backup.container
        );
        self.notes.push(format!(
            "the container went on as process {}",
            now.process.0
        ));
        Ok(())
    }
}

/// Tells this run's container from all others.
fn marker(namespace: &str) -> String {
    namespace.chars().filter(char::is_ascii_digit).collect()
}

pub(super) fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|one| one["type"] == "Ready" && one["status"] == "True")
}

async fn container(client: &Client, namespace: &str) -> anyhow::Result<Container> {
    let pod = client
        .must(
            "GET",
            &format!("/api/v1/namespaces/{namespace}/pods/through"),
            None,
        )
        .await?;
    ensure!(is_ready(&pod), "not ready");
    let status = &pod["status"]["containerStatuses"][0];
    Ok(Container {
        id: status["containerID"]
            .as_str()
            .context("no container")?
            .to_owned(),
        restarts: status["restartCount"].as_u64().context("no count")?,
        process: process(&marker(namespace))?,
    })
}

/// The process `sleep MARKER` of this machine, and when it began.
fn process(marker: &str) -> anyhow::Result<(u32, String)> {
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = words.split(|byte| *byte == 0);
        let is = words.next().is_some_and(|word| word.ends_with(b"sleep"))
            && words.next() == Some(marker.as_bytes());
        if is {
            let stat = std::fs::read_to_string(entry.path().join("stat"))?;
            // proc(5): the name may have blanks, and ends with the last bracket; the 22nd field is when it began.
            let began = stat
                .rsplit_once(") ")
                .and_then(|(_, rest)| rest.split(' ').nth(19));
            return Ok((
                pid,
                began.context("a process without a beginning")?.to_owned(),
            ));
        }
    }
    anyhow::bail!("no process sleeps {marker}")
}

/// The paths of all objects in a list.
async fn paths_of(client: &Client, list: &str) -> anyhow::Result<Vec<String>> {
    let found = client.must("GET", list, None).await?;
    let items = found["items"].as_array().context("a list without items")?;
    let paths = items.iter().filter_map(|item| {
        let name = item["metadata"]["name"].as_str()?;
        Some(match item["metadata"]["namespace"].as_str() {
            Some(namespace) if !list.contains("/namespaces/") => {
                let (group, plural) = list.rsplit_once('/')?;
                format!("{group}/namespaces/{namespace}/{plural}/{name}")
            }
            _ => format!("{list}/{name}"),
        })
    });
    Ok(paths.collect())
}

fn revision_of(bytes: &[u8]) -> Option<u64> {
    revision(&serde_json::from_slice(bytes).ok()?)
}
