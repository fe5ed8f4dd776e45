//! Followers that lack so much of the log that only a snapshot brings them up to date, and servers that claim to lead.

use super::{AGAIN, Field, PATIENCE};
use anyhow::ensure;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Bytes of an object that is to fill the log, and how many are written at once.
const LARGE: usize = 900_000;
const AT_ONCE: usize = 3;
/// How much is written at the least, so that installing it takes a while.
const LEAST: usize = 60;
/// Longer than this no log is.
const MOST: usize = 2_000;

impl Field<'_> {
    /// The purge of the leader must go past what `who` has, or nothing was tried.
    pub(super) async fn outgrow(&mut self, who: usize) -> anyhow::Result<()> {
        let (name, leader) = (self.name(who)?, self.name(crate::scenario::LEADER)?);
        let has = self.clients[&name]
            .metric("caravel_raft_last_log_index")
            .await?;
        let client = self.clients[&leader].clone();
        let mut purged = 0;
        for round in 0..MOST / AT_ONCE {
            let mut writes = JoinSet::new();
            for one in 0..AT_ONCE {
                let (client, namespace) = (client.clone(), self.load.namespace().to_owned());
                // The same again and again: it is the log that is to grow.
                let object = format!("large-{}", (round * AT_ONCE + one) % LEAST);
                writes.spawn(async move { client.bulk(&namespace, &object, LARGE).await });
            }
            while writes.join_next().await.is_some() {}
            purged = client.metric("caravel_raft_purged_index").await?;
            if purged > has && round * AT_ONCE >= LEAST {
                self.notes.push(format!(
                    "{name} has the log up to {has}; {leader} has purged it up to {purged}"
                ));
                return Ok(());
            }
        }
        anyhow::bail!("{name} has the log up to {has}, and {leader} purged only up to {purged}")
    }

    pub(super) async fn installing(&mut self, who: usize) -> anyhow::Result<()> {
        let name = self.name(who)?;
        // Much was written: another may lead by now.
        let now = self.look_for_roles().await?;
        ensure!(now[0] != name, "{name} leads, which was cut off");
        let others = self
            .roles
            .iter()
            .filter(|one| **one != name && **one != now[0]);
        self.roles = [
            vec![now[0].clone(), name.clone()],
            others.cloned().collect(),
        ]
        .concat();
        let leader = self.name(crate::scenario::LEADER)?;
        let sent = |field: &Self| field.lab.said(&name, "a snapshot arrives");
        let installed = |field: &Self| field.lab.said(&name, "a snapshot was installed");
        let (sent_before, installed_before) = (sent(self)?, installed(self)?);
        self.lab.lab("heal", &[]).await?;
        let healed = self.load.mark("healed".to_owned(), false);
        let end = Instant::now() + PATIENCE;
        while sent(self)? == sent_before {
            ensure!(Instant::now() < end, "{leader} sends {name} no snapshot");
            sleep(Duration::from_millis(5)).await;
        }
        self.kill(std::slice::from_ref(&leader)).await?;
        self.load
            .mark(format!("killed {leader} while {name} catches up"), true);
        let took = (self.load.now() - healed) / 1_000_000;
        let in_time = installed(self)? == installed_before;
        self.notes.push(match in_time {
            true => format!(
                "{leader} was killed {took} ms after the cut was healed, before {name} had its snapshot"
            ),
            false => format!("{name} had its snapshot before {leader} was killed"),
        });
        Ok(())
    }

    /// Whether it does is noted; what follows from it the history tells.
    pub(super) async fn claims(&mut self, who: usize, within: Duration) -> anyhow::Result<()> {
        let name = self.name(who)?;
        let end = Instant::now() + within;
        while Instant::now() < end {
            if self.lab.status().await?.leader() == Some(name.as_str()) {
                self.notes.push(format!("{name} says that it leads"));
                return Ok(());
            }
            sleep(AGAIN).await;
        }
        self.notes
            .push(format!("{name} does not say that it leads"));
        Ok(())
    }
}
