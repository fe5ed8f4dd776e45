//! What a step does to the lab, and how it is seen to have happened.

use crate::client::Client;
use crate::faults::{Faults, Seen};
use crate::history::{Action, Operation, Outcome, Restored};
use crate::lab::Lab;
use crate::load::Load;
use crate::scenario::{LEADER, Step};
use anyhow::{Context as _, ensure};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// For whatever is expected to happen soon. Generous: these are not figures.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Bytes of an object that is to fill disks.
const BULK: usize = 300_000;
pub const AGAIN: Duration = Duration::from_millis(100);

mod behind;
mod members;
mod nodes;
mod restore;

pub struct Field<'a> {
    lab: &'a Lab,
    load: Arc<Load>,
    clients: BTreeMap<String, Client>,
    pub roles: Vec<String>,
    paused: u64,
    faults: Faults,
    /// Large objects written, while disks are full: sled uses what it has for long.
    bulk: Option<usize>,
    backup: Option<restore::Backup>,
    pub restored: Option<Restored>,
    pub notes: Vec<String>,
}

/// Is the leader left without a majority that it hears and that hears it?
fn deposes(links: &[(usize, usize)], servers: usize) -> bool {
    let is_cut = |from, to| links.contains(&(from, to));
    let followers = (1..servers).filter(|other| !is_cut(LEADER, *other) && !is_cut(*other, LEADER));
    followers.count() < servers / 2
}

impl<'a> Field<'a> {
    pub fn new(lab: &'a Lab, load: Arc<Load>, clients: BTreeMap<String, Client>) -> Self {
        Field {
            lab,
            load,
            clients,
            roles: vec![],
            paused: 0,
            faults: Faults::default(),
            bulk: None,
            backup: None,
            restored: None,
            notes: vec![],
        }
    }

    fn name(&self, who: usize) -> anyhow::Result<String> {
        self.roles
            .get(who)
            .cloned()
            .context("roles are not known yet, or the lab has too few servers")
    }

    fn names(&self, who: &[usize]) -> anyhow::Result<Vec<String>> {
        who.iter().map(|who| self.name(*who)).collect()
    }

    pub async fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Roles => self.roles = self.look_for_roles().await?,
            Step::Kill(who) => {
                let names = self.names(who)?;
                self.kill(&names).await?;
                self.load.mark(format!("killed {names:?}"), true);
            }
            Step::Stop(who) => {
                let name = self.name(*who)?;
                let leads = self.lab.status().await?.leader() == Some(name.as_str());
                self.lab.lab("stop", &[&name]).await?;
                self.load.mark(format!("stopped {name}"), leads);
            }
            Step::Start(who) => {
                for name in self.names(who)? {
                    self.lab.lab("start", &[&name]).await?;
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
                let before = self.lab.status().await?.cuts.len();
                for (from, to) in links {
                    let (from, to) = (self.name(*from)?, self.name(*to)?);
                    self.lab.lab("cut", &["--one-way", &from, &to]).await?;
                }
                let fault = deposes(links, self.clients.len());
                self.load
                    .mark(format!("cut {links:?} of {:?}", self.roles), fault);
                let cuts = self.lab.status().await?.cuts.len() - before;
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
            Step::Mend(a, b) => {
                let (a, b) = (self.name(*a)?, self.name(*b)?);
                self.lab.lab("heal", &[&a, &b]).await?;
                self.load.mark(format!("healed {a} and {b}"), false);
            }
            Step::OtherLeader => {
                let former = self.name(LEADER)?;
                self.write_bulk(async |field: &Self| {
                    let status = field.lab.status().await?;
                    Ok(status.leader().is_some_and(|leader| leader != former))
                })
                .await?;
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
            Step::OutOfTouch(who) => self.out_of_touch(*who).await?,
            Step::Refused => self.refused().await?,
            Step::Clock(who, seconds) => {
                let name = self.name(*who)?;
                self.faults.move_clock(self.lab, &name, *seconds)?;
                let is = self.date(&name).await?;
                ensure!(
                    (is - seconds).abs() < 600,
                    "the clock of {name} differs by {is} s and not by {seconds} s"
                );
                self.load
                    .mark(format!("moved the clock of {name} by {seconds} s"), false);
            }
            Step::Loose(who) => {
                for name in self.names(who)? {
                    self.lab.lab("stop", &[&name]).await?;
                    self.faults.loosen(self.lab, &name).await?;
                    self.lab.lab("start", &[&name]).await?;
                    self.ready().await?;
                }
            }
            Step::Slow(who, time) => {
                let name = self.name(*who)?;
                self.faults.slow(&name, *time).await?;
                let millis = time.as_millis();
                self.load
                    .mark(format!("a sync of {name} takes {millis} ms"), false);
            }
            Step::PowerCut(who) => self.cut_power(self.names(who)?, false).await?,
            Step::PowerLost(who) => self.cut_power(self.names(who)?, true).await?,
            Step::Small(who) => {
                let name = self.name(*who)?;
                self.lab.lab("stop", &[&name]).await?;
                self.faults.shrink(self.lab, &name).await?;
                self.lab.lab("start", &[&name]).await?;
                self.ready().await?;
            }
            Step::Fill(who) => {
                let name = self.name(*who)?;
                self.faults.fill(self.lab, &name).await?;
                self.load.mark(format!("filled the disk of {name}"), false);
                self.bulk.get_or_insert(0);
            }
            Step::Free(who) => {
                let name = self.name(*who)?;
                self.faults.free(self.lab, &name).await?;
                self.load.mark(format!("freed the disk of {name}"), false);
                self.bulk = None;
            }
            Step::Damage { who, how, trials } => {
                let name = self.name(*who)?;
                let trials = crate::faults::Damage::all(*how, *trials);
                for damage in trials {
                    self.damage(&name, damage).await?;
                }
            }
            Step::Wipe(who) => self.wipe(*who).await?,
            Step::Backup => self.save_backup().await?,
            Step::Restore(who) => self.restore(*who).await?,
            Step::Outgrow(who) => self.outgrow(*who).await?,
            Step::Installing(who) => self.installing(*who).await?,
            Step::Overdue(who) => self.overdue(*who).await?,
            Step::NodesStay(time) => self.nodes_stay(*time).await?,
            Step::Claims(who, within) => self.claims(*who, *within).await?,
        }
        Ok(())
    }

    async fn cut_power(&mut self, names: Vec<String>, all: bool) -> anyhow::Result<()> {
        for name in &names {
            self.faults.fail(name).await?;
        }
        self.kill(&names).await?;
        self.load.mark(format!("cut the power of {names:?}"), true);
        for name in &names {
            let seen = self.faults.cut_power(name, all).await?;
            self.notes.push(format!("{name}: {seen}"));
        }
        Ok(())
    }

    async fn kill(&self, names: &[String]) -> anyhow::Result<()> {
        for name in names {
            self.lab.lab("kill", &[name]).await?;
        }
        let status = self.lab.status().await?;
        let alive = status
            .servers()
            .find(|host| host.running && names.contains(&host.name));
        ensure!(alive.is_none(), "{names:?} still run after kill -9");
        Ok(())
    }

    /// The leader, then the others.
    async fn look_for_roles(&self) -> anyhow::Result<Vec<String>> {
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

    /// Writes large objects, if a disk is full, until `enough`.
    async fn write_bulk(
        &mut self,
        enough: impl AsyncFn(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        while let Some(count) = self.bulk
            && !enough(self).await?
            && Instant::now() < end
        {
            for client in self.clients.values() {
                let name = format!("bulk-{count}-{}", client.server);
                client.bulk(self.load.namespace(), &name, BULK).await;
            }
            self.bulk = Some(count + 1);
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

    async fn ended(&self, name: &str) -> anyhow::Result<()> {
        self.until("the server ends by itself", async |field: &Self| {
            let status = field.lab.status().await?;
            Ok(status
                .servers()
                .any(|host| host.name == name && !host.running))
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
        let read = |one: &Operation| waited(one) && one.action == Action::Read;
        let wrote = |one: &Operation| waited(one) && one.action != Action::Read;
        self.until(
            "the woken server answers reads and writes that waited for it",
            async |field: &Self| Ok(field.load.count(&read) > 0 && field.load.count(&wrote) > 0),
        )
        .await?;
        let served = self.load.count(&|one: &Operation| {
            read(one) && !matches!(one.outcome, Outcome::Unknown | Outcome::Refused)
        });
        let accepted = self
            .load
            .count(&|one: &Operation| wrote(one) && one.acknowledged().is_some());
        self.notes.push(format!(
            "sent to the leader while it slept and answered when it woke: {} reads ({served} served), {} writes ({accepted} accepted)",
            self.load.count(&read),
            self.load.count(&wrote)
        ));
        Ok(())
    }

    /// A server without a leader for long: it is not ready, its watches end, and it answers reads with 503.
    async fn out_of_touch(&mut self, who: usize) -> anyhow::Result<()> {
        let name = self.name(who)?;
        let client = self.clients[&name].clone();
        let begun = Instant::now();
        self.until("the server says that it is not ready", async |_: &Self| {
            Ok(!client.ready().await)
        })
        .await?;
        let unready = begun.elapsed();
        let status = client.status_of(self.load.namespace()).await;
        ensure!(
            status == Some(503),
            "a read at {name} is answered with {status:?} and not with 503"
        );
        let watch = client.watch(self.load.namespace(), 0).await;
        let refused = watch.is_ok_and(|answer| answer.status() == 503);
        ensure!(refused, "{name} begins a watch");
        self.notes.push(format!(
            "{name} was not ready after {:.1} s without a leader; reads and watches: 503",
            unready.as_secs_f64()
        ));
        Ok(())
    }

    /// All disks are full: writes are refused with a word of the reason, and reads go on.
    async fn refused(&mut self) -> anyhow::Result<()> {
        let since = self.load.now();
        let all = |field: &Self| {
            field
                .clients
                .values()
                .map(Client::refused_as_full)
                .sum::<u64>()
        };
        let before = all(self);
        self.write_bulk(async |field: &Self| Ok(all(field) > before))
            .await?;
        let read = |one: &Operation| {
            one.invoked > since
                && one.action == Action::Read
                && matches!(one.outcome, Outcome::Done { .. })
        };
        self.until(
            "writes are refused because of the full disk, and reads served",
            async |field: &Self| Ok(all(field) - before >= 20 && field.load.count(&read) >= 20),
        )
        .await?;
        let slowest = self.load.slowest(&|one: &Operation| {
            one.invoked > since && one.action != Action::Read && one.outcome == Outcome::Refused
        });
        self.notes.push(format!(
            "while the disks were full: {} writes refused with 507, the slowest after {slowest} ms, {} reads served",
            all(self) - before,
            self.load.count(&read)
        ));
        Ok(())
    }

    /// How much later it is at a server than here, in seconds.
    async fn date(&self, name: &str) -> anyhow::Result<i64> {
        let made = self.clients[name].made_at(self.load.namespace()).await?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        Ok(made - now.as_secs() as i64)
    }

    /// A stopped server's files are damaged, and it is started. Whatever it does must be right; then it is as it was.
    async fn damage(&mut self, name: &str, damage: crate::faults::Damage) -> anyhow::Result<()> {
        self.lab.lab("stop", &[name]).await?;
        let done = self.faults.damage(self.lab, name, damage).await?;
        // It may have refused before the lab looks whether it runs, which the lab then says.
        let started = self.lab.lab("start", &[name]).await;
        let client = &self.clients[name];
        let end = Instant::now() + PATIENCE;
        let seen = loop {
            if client.ready().await {
                break Seen::Served;
            }
            let status = self.lab.status().await?;
            if status
                .servers()
                .any(|host| host.name == name && !host.running)
            {
                break Seen::Refused;
            }
            ensure!(
                Instant::now() < end,
                "{name} neither serves nor refuses after {done}; its start: {started:?}"
            );
            sleep(AGAIN).await;
        };
        let words = self.lab.last_words(name)?;
        let mended = words.contains("mended");
        self.notes.push(match seen {
            Seen::Served if mended => format!("{done}: repaired from another server"),
            Seen::Served => format!("{done}: harmless"),
            Seen::Refused => format!("{done}: {words}"),
        });
        if let Seen::Refused = seen {
            ensure!(
                ["damaged", "sealed", "keys", "whole"]
                    .iter()
                    .any(|word| words.contains(word)),
                "{name} refused without saying that its files are damaged: {words}; its start: {started:?}"
            );
            self.faults.undo_damage(self.lab, name)?;
            self.lab.lab("start", &[name]).await?;
        }
        self.ready().await
    }

    /// Whatever was done is undone.
    pub async fn mend(&mut self) -> anyhow::Result<()> {
        self.lab.lab("heal", &[]).await?;
        for name in self.clients.keys() {
            self.lab.lab("resume", &[name]).await?;
            self.faults.mend(self.lab, name).await?;
            self.lab.lab("start", &[name]).await?;
        }
        self.ready().await
    }
}

#[cfg(test)]
mod tests {
    use super::deposes;

    #[test]
    fn a_leader_needs_a_majority_both_ways() {
        for (links, servers, expected) in [
            (&[(0, 1), (1, 0)][..], 3, false),
            (&[(1, 2), (2, 1)], 3, false),
            (&[(0, 1), (2, 0)], 3, true),
            (&[(0, 1), (0, 2), (0, 3)], 5, true),
            (&[(0, 1), (2, 0)], 5, false),
        ] {
            assert_eq!(deposes(links, servers), expected, "{links:?}");
        }
    }
}
