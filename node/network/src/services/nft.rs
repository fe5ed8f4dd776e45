//! The kernel's firewall, by the `nft` program (one transaction per call).

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::{Firewall, FirewallError, RuleDiff};

/// The table `ip caravel` of the namespace that the calling thread is in.
#[derive(Debug, Default)]
pub struct Nft;

impl Firewall for Nft {
    fn apply(&mut self, change: &RuleDiff) -> Result<(), FirewallError> {
        if change.is_empty() {
            return Ok(());
        }
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(change.script.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        match output.status.success() {
            true => Ok(()),
            false => Err(FirewallError::Refused(first_lines(&output.stderr))),
        }
    }

    fn present(&mut self) -> Result<bool, FirewallError> {
        let status = Command::new("nft")
            .args(["list", "map", "ip", "caravel", "services"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        Ok(status.success())
    }
}

/// Enough of nft's complaint to act on; it repeats the whole script otherwise.
fn first_lines(stderr: &[u8]) -> String {
    String::from_utf8_lossy(stderr)
        .lines()
        .take(4)
        .collect::<Vec<_>>()
        .join("; ")
}
