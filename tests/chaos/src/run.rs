//! One scenario on a lab: load and watchers start, the steps are done, everything is mended, and the evidence is collected.
//!
//! A step whose fault cannot be seen to have happened fails the run: a test that tried nothing must not pass.

use crate::client::Client;
use crate::history::{Action, Final, History, Operation, Outcome};
use crate::lab::Lab;
use crate::load::{Load, Shape};
use crate::scenario::{LEADER, Length, Scenario, Step};
use crate::verdict::{Verdict, judge, judge_watches};
use crate::watchers::Watchers;
use anyhow::{Context as _, ensure};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// For whatever is expected to happen soon. Generous: these are not figures.
const PATIENCE: Duration = Duration::from_secs(90);
const AGAIN: Duration = Duration::from_millis(100);

struct Field<'a> {
    lab: &'a Lab,
    load: Arc<Load>,
    clients: BTreeMap<String, Client>,
    roles: Vec<String>,
    paused: u64,
    notes: Vec<String>,
}

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
    let all: Vec<Client> = clients.values().cloned().collect();
    let first = all.first().context("the lab has no servers")?;
    let seconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs();
    let namespace = format!("{}-{seconds}", scenario.name);
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    first
        .must("POST", "/api/v1/namespaces", Some(&body))
        .await?;

    let load = Load::new(all.clone(), &namespace, shape);
    let watching = Watchers::start(&all, &namespace, watchers);
    let mut workers = load.start();
    let mut field = Field {
        lab,
        load: load.clone(),
        clients,
        roles: vec![],
        paused: 0,
        notes: vec![],
    };
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
        let _ = first
            .must("DELETE", &format!("/api/v1/namespaces/{namespace}"), None)
            .await;
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
            .create(namespace, &key, &value, Duration::from_secs(15))
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
            ensure!(
                *agreed == items,
                "{} has other objects than the servers before it",
                client.server
            );
        }
        agreed = Some(items);
    }
    agreed.context("no servers")
}

impl Field<'_> {
    fn name(&self, who: usize) -> anyhow::Result<String> {
        self.roles
            .get(who)
            .cloned()
            .context("roles are not known yet")
    }

    async fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Roles => self.roles = self.roles().await?,
            Step::Kill(who) => {
                for who in who {
                    self.lab.lab("kill", &[&self.name(*who)?]).await?;
                }
                let names: Vec<String> = who
                    .iter()
                    .map(|who| self.name(*who))
                    .collect::<Result<_, _>>()?;
                let status = self.lab.status().await?;
                let alive = status
                    .servers()
                    .find(|host| host.running && names.contains(&host.name));
                ensure!(alive.is_none(), "{names:?} still run after kill -9");
                self.load.mark(format!("killed {names:?}"), true);
            }
            Step::Stop(who) => {
                let name = self.name(*who)?;
                let leads = self.lab.status().await?.leader() == Some(name.as_str());
                self.lab.lab("stop", &[&name]).await?;
                self.load.mark(format!("stopped {name}"), leads);
            }
            Step::Start(who) => {
                for who in who {
                    self.lab.lab("start", &[&self.name(*who)?]).await?;
                }
            }
            Step::Pause(who) => {
                let name = self.name(*who)?;
                self.lab.lab("pause", &[&name]).await?;
                self.paused = self.load.mark(format!("paused {name}"), *who == LEADER);
                let status = self.lab.status().await?;
                ensure!(
                    status
                        .servers()
                        .any(|host| host.name == name && host.paused),
                    "{name} is not paused"
                );
            }
            Step::Resume(who) => self.resume(*who).await?,
            Step::Cut(links) => {
                self.load
                    .mark(format!("cutting {links:?} of {:?}", self.roles), true);
                for (from, to) in links {
                    let (from, to) = (self.name(*from)?, self.name(*to)?);
                    self.lab.lab("cut", &["--one-way", &from, &to]).await?;
                }
                let cuts = self.lab.status().await?.cuts.len();
                ensure!(
                    cuts == links.len(),
                    "{cuts} cuts instead of {}",
                    links.len()
                );
            }
            Step::Heal => {
                let cuts = self.lab.status().await?.cuts;
                let dropped: u64 = cuts.iter().map(|cut| cut.dropped).sum();
                ensure!(dropped > 0, "the cuts dropped no packet");
                self.lab.lab("heal", &[]).await?;
                self.load.mark("healed".to_owned(), false);
            }
            Step::OtherLeader => {
                let former = self.name(LEADER)?;
                self.until("another server leads", async |field: &Self| {
                    let status = field.lab.status().await?;
                    Ok(status.leader().is_some_and(|leader| leader != former))
                })
                .await?;
            }
            Step::Written(count) => {
                let since = self.load.now();
                self.until("writes are accepted", async |field: &Self| {
                    Ok(field.load.written_since(since) >= *count)
                })
                .await?;
            }
            Step::Ready => self.ready().await?,
            Step::Load(time) => sleep(*time).await,
            Step::Remove(who) => self.remove(*who).await?,
            Step::Rejoin(who) => self.rejoin(*who).await?,
        }
        Ok(())
    }

    /// The leader, then the others.
    async fn roles(&self) -> anyhow::Result<Vec<String>> {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.lab.status().await?;
            if let Some(leader) = status.leader() {
                let others = status
                    .servers()
                    .map(|host| host.name.as_str())
                    .filter(|name| *name != leader);
                return Ok(std::iter::once(leader)
                    .chain(others)
                    .map(str::to_owned)
                    .collect());
            }
            ensure!(Instant::now() < end, "nobody leads");
            sleep(AGAIN).await;
        }
    }

    async fn until(
        &self,
        what: &str,
        is: impl AsyncFn(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        while !is(self).await? {
            ensure!(
                Instant::now() < end,
                "not within {} s: {what}",
                PATIENCE.as_secs()
            );
            sleep(AGAIN).await;
        }
        Ok(())
    }

    async fn ready(&self) -> anyhow::Result<()> {
        self.until("all servers are ready", async |field: &Self| {
            for host in field.lab.status().await?.servers() {
                let client = &field.clients[&host.name];
                if host.running && !client.ready().await {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await
    }

    /// Requests lay in its socket while it slept. It answers them as what it believes to be, which the history judges.
    async fn resume(&mut self, who: usize) -> anyhow::Result<()> {
        let name = self.name(who)?;
        let woken = self.load.now();
        self.lab.lab("resume", &[&name]).await?;
        self.load.mark(format!("woke {name}"), false);
        let paused = self.paused;
        let waited = move |one: &Operation| {
            one.server == name
                && one.invoked >= paused
                && one.invoked < woken
                && one.returned > woken
        };
        self.until(
            "the woken server answers what waited for it",
            async |field: &Self| Ok(field.load.count(&waited) > 0),
        )
        .await?;
        let reads = self
            .load
            .count(&|one: &Operation| waited(one) && one.action == Action::Read);
        let served = self.load.count(&|one: &Operation| {
            waited(one)
                && one.action == Action::Read
                && !matches!(one.outcome, Outcome::Unknown | Outcome::Refused)
        });
        let writes = self
            .load
            .count(&|one: &Operation| waited(one) && one.action != Action::Read);
        let accepted = self
            .load
            .count(&|one: &Operation| waited(one) && one.acknowledged().is_some());
        self.notes.push(format!(
            "sent to the leader while it slept and answered when it woke: {reads} reads ({served} served), {writes} writes ({accepted} accepted)"
        ));
        Ok(())
    }

    async fn remove(&mut self, who: usize) -> anyhow::Result<()> {
        let name = self.name(who)?;
        let voters = self.lab.voters().await?;
        let (id, _) = voters
            .iter()
            .find(|(_, voter)| *voter == name)
            .context("it has no vote")?;
        self.lab
            .admin(&["member", "remove", &id.to_string()])
            .await?;
        let left = self.lab.voters().await?;
        ensure!(
            left.len() == 2 && left.iter().all(|(_, voter)| *voter != name),
            "voters are {left:?}"
        );
        self.load.mark(format!("removed {name}"), false);
        Ok(())
    }

    async fn rejoin(&mut self, who: usize) -> anyhow::Result<()> {
        let name = self.name(who)?;
        self.until("the removed server ends by itself", async |field: &Self| {
            let status = field.lab.status().await?;
            Ok(status
                .servers()
                .any(|host| host.name == name && !host.running))
        })
        .await?;
        self.lab.renew(&name).await?;
        self.lab.lab("start", &[&name]).await?;
        self.until("it has a vote again", async |field: &Self| {
            Ok(field
                .lab
                .voters()
                .await?
                .iter()
                .any(|(_, voter)| *voter == name))
        })
        .await
    }

    /// Whatever was done is undone.
    async fn mend(&self) -> anyhow::Result<()> {
        self.lab.lab("heal", &[]).await?;
        for name in self.clients.keys() {
            self.lab.lab("resume", &[name]).await?;
            self.lab.lab("start", &[name]).await?;
        }
        self.ready().await
    }
}
