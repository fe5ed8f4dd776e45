//! Faults of disks and clocks, each done to one server of the lab, and undone.

use crate::lab::Lab;
use anyhow::{Context as _, ensure};
use rand::Rng as _;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);
/// What a server stores, on its host.
const STORE: &str = "/var/lib/caravel/server/db";
/// Where what it stored lies meanwhile.
const ASIDE: &str = "/run/chaos-aside";
const SMALL_MIB: usize = 160;

/// What became of a server whose files were damaged.
pub enum Seen {
    Served,
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Some bits are turned over.
    Flip,
    /// The end is missing.
    Truncate,
}

/// One damage to one of a server's files, by its number in the order of their names.
#[derive(Clone, Copy, Debug)]
pub struct Damage {
    how: How,
    file: usize,
}

impl Damage {
    pub fn all(how: How, trials: usize) -> Vec<Self> {
        (0..trials).map(|file| Damage { how, file }).collect()
    }
}

/// A mounted disk that can lose its power.
struct Loose {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Loose {
    async fn order(&mut self, order: &str) -> anyhow::Result<String> {
        self.orders
            .write_all(format!("{order}\n").as_bytes())
            .await?;
        self.answer().await
    }

    async fn answer(&mut self) -> anyhow::Result<String> {
        let line = timeout(PATIENCE, self.answers.next_line()).await;
        line.context("the disk does not answer")??
            .context("the disk has ended")
    }
}

#[derive(Default)]
pub struct Faults {
    loose: BTreeMap<String, Loose>,
    small: Vec<String>,
    moved: Vec<String>,
}

impl Faults {
    pub fn move_clock(&mut self, lab: &Lab, host: &str, seconds: i64) -> anyhow::Result<()> {
        self.moved.push(host.to_owned());
        std::fs::write(lab.clock(host), seconds.to_string()).context("move a clock")
    }

    /// The server must be stopped.
    pub async fn loosen(&mut self, lab: &Lab, host: &str) -> anyhow::Result<()> {
        let own = std::env::current_exe().context("find this program")?;
        let mut child = lab
            .command(&["exec", host, "--", &own.to_string_lossy(), "disk", STORE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().context("standard input")?;
        let answers = BufReader::new(child.stdout.take().context("standard output")?).lines();
        let mut loose = Loose {
            child,
            orders,
            answers,
        };
        let said = loose.answer().await?;
        ensure!(said == "mounted", "the disk says {said:?}");
        self.loose.insert(host.to_owned(), loose);
        Ok(())
    }

    fn of(&mut self, host: &str) -> anyhow::Result<&mut Loose> {
        self.loose
            .get_mut(host)
            .with_context(|| format!("the disk of {host} is not in our hands"))
    }

    pub async fn slow(&mut self, host: &str, time: Duration) -> anyhow::Result<()> {
        let order = format!("slow {}", time.as_millis());
        self.of(host)?.order(&order).await.map(drop)
    }

    /// Syncs that are under way fail, so that their process can be killed before they are done.
    pub async fn fail(&mut self, host: &str) -> anyhow::Result<()> {
        self.of(host)?.order("fail").await.map(drop)
    }

    /// What was not synced is torn, or all of it gone.
    pub async fn cut_power(&mut self, host: &str, all: bool) -> anyhow::Result<String> {
        let seed: u64 = rand::rng().random_range(0..1 << 32);
        let order = match all {
            true => "lose".to_owned(),
            false => format!("cut {seed}"),
        };
        let said = self.of(host)?.order(&order).await?;
        let numbers: Vec<&str> = said.split(' ').collect();
        let [loose, lost, names] = numbers[..] else {
            anyhow::bail!("the disk says {said:?}")
        };
        Ok(format!(
            "of {loose} sectors that were not synced {lost} are not as written; {names} names undone"
        ))
    }

    /// A file system of its own, small. The server must be stopped.
    pub async fn shrink(&mut self, lab: &Lab, host: &str) -> anyhow::Result<()> {
        let script = format!(
            "set -e; rm -rf {ASIDE}; cp -a {STORE} {ASIDE}; truncate -s {SMALL_MIB}M {ASIDE}.disk; \
             mkfs.ext4 -q -F -O ^has_journal {ASIDE}.disk; mount -o loop {ASIDE}.disk {STORE}; cp -a {ASIDE}/. {STORE}/"
        );
        self.small.push(host.to_owned());
        lab.sh(host, &script).await
    }

    pub async fn fill(&mut self, lab: &Lab, host: &str) -> anyhow::Result<()> {
        ensure!(
            self.small.iter().any(|name| name == host),
            "the disk of {host} is not small"
        );
        lab.sh(
            host,
            &format!("! dd if=/dev/zero of={STORE}/filler bs=64k 2> /dev/null"),
        )
        .await
        .context("a disk could not be filled")
    }

    pub async fn free(&mut self, lab: &Lab, host: &str) -> anyhow::Result<()> {
        lab.sh(host, &format!("rm {STORE}/filler")).await
    }

    /// Damages one file of a stopped server; what was done.
    pub async fn damage(
        &mut self,
        lab: &Lab,
        host: &str,
        damage: Damage,
    ) -> anyhow::Result<String> {
        let (store, kept) = (lab.store(host), kept(lab, host));
        if kept.exists() {
            std::fs::remove_dir_all(&kept)?;
        }
        copy(&store, &kept)?;
        let mut files = Vec::new();
        list(&store, &mut files)?;
        files.sort();
        let path = &files[damage.file % files.len()];
        let mut bytes = std::fs::read(path)?;
        let name = path.strip_prefix(&store)?.display().to_string();
        ensure!(!bytes.is_empty(), "{name} is empty");
        let did = match damage.how {
            How::Flip => {
                // Where something is written: sled's file ends in room that is not used yet.
                let used = bytes
                    .iter()
                    .rposition(|byte| *byte != 0)
                    .unwrap_or(bytes.len() - 1);
                let at = rand::rng().random_range(0..=used);
                bytes[at] ^= 1 << rand::rng().random_range(0..8);
                format!("a bit of {name} turned over at {at} of {}", bytes.len())
            }
            How::Truncate => {
                let length = rand::rng().random_range(0..bytes.len());
                bytes.truncate(length);
                format!("{name} cut off at {length}")
            }
        };
        std::fs::write(path, bytes)?;
        Ok(did)
    }

    /// The server has refused, and has ended: nothing was written since.
    pub fn undo_damage(&mut self, lab: &Lab, host: &str) -> anyhow::Result<()> {
        let store = lab.store(host);
        std::fs::remove_dir_all(&store)?;
        copy(&kept(lab, host), &store)
    }

    /// Its files are where they were, and its clock is right. A server whose disk was in our hands is stopped.
    pub async fn mend(&mut self, lab: &Lab, host: &str) -> anyhow::Result<()> {
        if self.moved.iter().any(|name| name == host) {
            std::fs::remove_file(lab.clock(host)).ok();
        }
        let kept = kept(lab, host);
        if kept.exists() {
            std::fs::remove_dir_all(kept)?;
        }
        if let Some(mut loose) = self.loose.remove(host) {
            lab.lab("stop", &[host]).await?;
            let said = loose.order("end").await?;
            ensure!(said == "ended", "the disk says {said:?}");
            timeout(PATIENCE, loose.child.wait()).await??;
        }
        if let Some(at) = self.small.iter().position(|name| name == host) {
            self.small.remove(at);
            lab.lab("stop", &[host]).await?;
            let script = format!(
                "set -e; rm -f {STORE}/filler; rm -rf {ASIDE}; cp -a {STORE} {ASIDE}; umount {STORE}; \
                 find {STORE} -mindepth 1 -delete; cp -a {ASIDE}/. {STORE}/; rm -rf {ASIDE} {ASIDE}.disk; rmdir {STORE}/lost+found || true"
            );
            lab.sh(host, &script).await?;
        }
        Ok(())
    }
}

fn kept(lab: &Lab, host: &str) -> PathBuf {
    lab.dir.join("chaos-kept").join(host)
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(&entry.path(), files)?;
        } else if entry.metadata()?.len() > 0 {
            files.push(entry.path());
        }
    }
    Ok(())
}
