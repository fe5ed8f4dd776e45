//! Servers that leave the quorum, lose their disks, and come back as new ones.

use super::{AGAIN, Field, PATIENCE};
use anyhow::{Context as _, ensure};
use tokio::time::{Instant, sleep};

impl Field<'_> {
    pub(super) async fn remove(&mut self, who: usize) -> anyhow::Result<()> {
        let name = self.name(who)?;
        let voters = self.lab.voters().await?;
        let known = voters.iter().find(|(_, voter)| *voter == name);
        let (id, _) = known.context("it has no vote")?;
        self.remove_number(*id).await?;
        self.load.mark(format!("removed {name}"), false);
        Ok(())
    }

    /// By any server; one that is out of touch does not know how, so it is asked again.
    async fn remove_number(&mut self, id: u64) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let removed = self.lab.admin(&["member", "remove", &id.to_string()]).await;
            let voters = self.lab.voters().await;
            let there = voters.map(|voters| voters.iter().any(|(voter, _)| *voter == id));
            match (removed, there) {
                (_, Ok(false)) => return Ok(()),
                (Err(error), _) | (Ok(_), Err(error)) => {
                    ensure!(Instant::now() < end, "{error:#}");
                    self.notes.push(format!("tried again: {error:#}"));
                }
                (Ok(_), Ok(true)) => ensure!(Instant::now() < end, "{id} is still a voter"),
            }
            sleep(AGAIN).await;
        }
    }

    /// It lost its disk. Never again under its number: it refuses, or joins as a new one where it still has a token.
    pub(super) async fn wipe(&mut self, who: usize) -> anyhow::Result<()> {
        let name = self.name(who)?;
        let voters = self.lab.voters().await?;
        let known = voters.iter().find(|(_, voter)| *voter == name);
        let old = known.context("it has no vote")?.0;
        self.kill(std::slice::from_ref(&name)).await?;
        self.lab.wipe(&name)?;
        self.lab.lab("start", &[&name]).await?;
        let end = Instant::now() + PATIENCE;
        let joined = loop {
            let voters = self.lab.voters().await.unwrap_or_default();
            let new = voters
                .iter()
                .find(|(id, voter)| *voter == name && *id != old);
            let status = self.lab.status().await?;
            let runs = status
                .servers()
                .any(|host| host.name == name && host.running);
            match (new, runs) {
                (Some((id, _)), _) => break Some(*id),
                (None, false) => break None,
                (None, true) => ensure!(Instant::now() < end, "{name} neither joins nor refuses"),
            }
            sleep(AGAIN).await;
        };
        match joined {
            Some(id) => self
                .notes
                .push(format!("{name} lost its disk as {old} and joined as {id}")),
            None => {
                let why = self.lab.last_words(&name)?;
                ensure!(
                    why.contains("is empty"),
                    "{name} refused for another reason: {why}"
                );
                self.notes
                    .push(format!("{name} lost its disk and refused: {why}"));
            }
        }
        // It is a person who removes it, as with etcd; who does not know is told.
        let command = format!("caravel member remove {old}`");
        self.until("the doctor names the lost number", async |field: &Self| {
            Ok(field.lab.doctor().await?.contains(&command))
        })
        .await?;
        self.remove_number(old).await?;
        if joined.is_none() {
            self.rejoin(who).await?;
        }
        Ok(())
    }

    pub(super) async fn rejoin(&mut self, who: usize) -> anyhow::Result<()> {
        let name = self.name(who)?;
        self.ended(&name).await?;
        self.lab.renew(&name).await?;
        self.lab.lab("start", &[&name]).await?;
        self.until("it has a vote again", async |field: &Self| {
            let voters = field.lab.voters().await;
            Ok(voters.is_ok_and(|voters| voters.iter().any(|(_, voter)| *voter == name)))
        })
        .await
    }
}
