//! The lab under test, by the commands that a person has.

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

const PATIENCE: Duration = Duration::from_secs(60);
/// Seconds by which a server's clock is moved, on its host.
const CLOCK: &str = "/etc/caravel/clock";

pub struct Lab {
    pub program: PathBuf,
    pub dir: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Host {
    pub name: String,
    pub role: String,
    pub address: String,
    pub running: bool,
    pub paused: bool,
    pub leader: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Cut {
    pub dropped: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    pub hosts: Vec<Host>,
    pub cuts: Vec<Cut>,
}

impl Status {
    pub fn servers(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|host| host.role == "server")
    }

    pub fn leader(&self) -> Option<&str> {
        self.servers()
            .find(|host| host.leader)
            .map(|host| host.name.as_str())
    }
}

impl Lab {
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig.yaml")
    }

    /// A command of the program. Servers that it starts look at the clock file on their host.
    fn program(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_remove("KUBECONFIG")
            .env("CARAVEL_TEST_CLOCK", CLOCK)
            .kill_on_drop(true);
        command
    }

    /// `caravel lab VERB --dir DIR ARGS...`, to be started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.program();
        let (verb, rest) = args.split_first().unwrap_or((&"status", &[]));
        command
            .args(["lab", verb, "--dir"])
            .arg(&self.dir)
            .args(rest);
        command
    }

    /// Runs a script on a host.
    pub async fn sh(&self, host: &str, script: &str) -> anyhow::Result<()> {
        self.exec(host, &["bash", "-c", script]).await.map(drop)
    }

    /// Runs a command on a host; what it prints.
    pub async fn exec(&self, host: &str, words: &[&str]) -> anyhow::Result<String> {
        let script = words.join(" ");
        let mut command = self.command(&[&["exec", host, "--"], words].concat());
        let out = tokio::time::timeout(PATIENCE, command.output())
            .await
            .with_context(|| format!("on {host} this does not end: {script}"))??;
        anyhow::ensure!(
            out.status.success(),
            "on {host}: {script}: {}",
            String::from_utf8_lossy(&out.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// A host's clock file.
    pub fn clock(&self, host: &str) -> PathBuf {
        self.dir.join("hosts").join(host).join("etc/clock")
    }

    /// What a server stores, as seen from here, where nothing is mounted over it.
    pub fn store(&self, host: &str) -> PathBuf {
        self.dir.join("hosts").join(host).join("lib/server/db")
    }

    pub fn wipe(&self, host: &str) -> anyhow::Result<()> {
        std::fs::remove_dir_all(self.store(host)).context("empty a server's disk")
    }

    /// The end of a server's log: what it refused, or did last.
    pub fn last_words(&self, host: &str) -> anyhow::Result<String> {
        let log = std::fs::read_to_string(self.dir.join("logs").join(format!("{host}.log")))?;
        let lines: Vec<&str> = log.lines().collect();
        let ends = |line: &&&str| line.contains("caravel: ") || line.contains("the server is up");
        let from = lines.iter().rposition(|line| ends(&line));
        // A server says what it mends before it is up.
        let mended = lines[lines.len().saturating_sub(60)..]
            .iter()
            .rev()
            .take_while(|line| !line.contains("asked to end"))
            .find(|line| line.contains("mended"));
        let last = from.map_or("", |from| lines[from]);
        Ok(mended.map_or(last.to_owned(), |mended| format!("{mended} {last}")))
    }

    /// How often a host's daemon has said something.
    pub fn said(&self, host: &str, what: &str) -> anyhow::Result<usize> {
        let log = std::fs::read_to_string(self.dir.join("logs").join(format!("{host}.log")))?;
        Ok(log.lines().filter(|line| line.contains(what)).count())
    }

    async fn run(&self, args: &[&str], more: &[(&str, &Path)]) -> anyhow::Result<String> {
        let mut command = self.program();
        command.args(args);
        for (flag, value) in more {
            command.arg(flag).arg(value);
        }
        let out = tokio::time::timeout(PATIENCE, command.output())
            .await
            .with_context(|| format!("caravel {} does not end", args.join(" ")))??;
        anyhow::ensure!(
            out.status.success(),
            "caravel {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&out.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// A command that asks no server.
    pub async fn own(&self, args: &[&str]) -> anyhow::Result<String> {
        self.run(args, &[]).await
    }

    /// `caravel lab VERB --dir DIR ARGS...`
    pub async fn lab(&self, verb: &str, args: &[&str]) -> anyhow::Result<String> {
        let dir = self.dir.to_string_lossy();
        self.run(&[&["lab", verb, "--dir", &dir], args].concat(), &[])
            .await
    }

    pub async fn status(&self) -> anyhow::Result<Status> {
        let text = self.lab("status", &["--output", "json"]).await?;
        serde_json::from_str(&text).context("read what `lab status` says")
    }

    /// A command for administrators, by way of whichever server is ready.
    pub async fn admin(&self, args: &[&str]) -> anyhow::Result<String> {
        self.run(args, &[("--kubeconfig", &self.kubeconfig())])
            .await
    }

    /// What the doctor says, also where it finds problems.
    pub async fn doctor(&self) -> anyhow::Result<String> {
        let mut command = self.program();
        command
            .args(["doctor", "--kubeconfig"])
            .arg(self.kubeconfig());
        let out = tokio::time::timeout(PATIENCE, command.output())
            .await
            .context("the doctor does not end")??;
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Numbers and names of the voters.
    pub async fn voters(&self) -> anyhow::Result<Vec<(u64, String)>> {
        let text = self.admin(&["member", "list", "--output", "json"]).await?;
        let list: Value = serde_json::from_str(&text)?;
        let members = list["members"].as_array().context("no members")?.iter();
        Ok(members
            .filter(|member| member["role"] == "voter")
            .filter_map(|member| {
                Some((member["id"].as_u64()?, member["name"].as_str()?.to_owned()))
            })
            .collect())
    }

    /// Empties a server's disk and gives it a new token.
    pub async fn renew(&self, host: &str) -> anyhow::Result<()> {
        let host = self.dir.join("hosts").join(host);
        let token = self.admin(&["token", "create", "--role", "server"]).await?;
        let disk = host.join("lib/server");
        if disk.exists() {
            std::fs::remove_dir_all(disk).context("empty the server's disk")?;
        }
        std::fs::write(host.join("etc/join-token"), token).context("write the token")?;
        // The one that began the cluster was not told of others.
        let config = host.join("etc/config.yaml");
        let mut text = std::fs::read_to_string(&config)?;
        if !text.contains("\njoin:") {
            text.push_str("token-file: /etc/caravel/join-token\njoin:\n");
            for server in self.status().await?.servers().filter(|s| s.running) {
                text.push_str(&format!("- https://{}:6443\n", server.address));
            }
            std::fs::write(config, text)?;
        }
        Ok(())
    }
}
