//! Which pod has which address of this node's range.
//!
//! One file per pod under the state directory (`<uid>` holds the address) is the whole truth, so a
//! restarted daemon knows every address in use. Addresses are handed out in turn, so that one just
//! freed is not given to a stranger at once. The network, the gateway (first) and the broadcast
//! address are never given out.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;

/// Why an address could not be had or remembered.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// Every address of the range is in use.
    #[error("no free address left in {0}: delete pods or give the node a larger range")]
    Exhausted(Ipv4Net),
    /// The state directory could not be read or written.
    #[error("address book {path}: {source}")]
    Io {
        /// The file or directory concerned.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The address book of one node.
#[derive(Debug)]
pub struct Ipam {
    range: Ipv4Net,
    dir: PathBuf,
    taken: BTreeMap<String, Ipv4Addr>,
    last: Ipv4Addr,
}

impl Ipam {
    /// Opens the book in `dir`, forgetting entries that lie outside `range`.
    pub fn open(dir: &Path, range: Ipv4Net) -> Result<Self, IpamError> {
        let io = |source| IpamError::Io {
            path: dir.to_owned(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(io)?;
        let mut taken = BTreeMap::new();
        for entry in std::fs::read_dir(dir).map_err(io)? {
            let entry = entry.map_err(io)?;
            let Ok(text) = std::fs::read_to_string(entry.path()) else {
                continue;
            };
            if let (Ok(ip), Some(uid)) =
                (text.trim().parse::<Ipv4Addr>(), entry.file_name().to_str())
                && range.contains(&ip)
            {
                taken.insert(uid.to_owned(), ip);
            }
        }
        let last = taken
            .values()
            .max()
            .copied()
            .unwrap_or_else(|| gateway(range));
        Ok(Self {
            range,
            dir: dir.to_owned(),
            taken,
            last,
        })
    }

    /// The address of this pod: the one it has, or the next free one.
    pub fn allocate(&mut self, uid: &str) -> Result<Ipv4Addr, IpamError> {
        if let Some(ip) = self.taken.get(uid) {
            return Ok(*ip);
        }
        let ip = next_free(self.range, self.last, |ip| {
            self.taken.values().any(|t| *t == ip)
        })
        .ok_or(IpamError::Exhausted(self.range))?;
        let path = self.dir.join(uid);
        std::fs::write(&path, ip.to_string()).map_err(|source| IpamError::Io { path, source })?;
        self.taken.insert(uid.to_owned(), ip);
        self.last = ip;
        Ok(ip)
    }

    /// Gives the pod's address back. Unknown pods are no error.
    pub fn release(&mut self, uid: &str) -> Result<(), IpamError> {
        let path = self.dir.join(uid);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(IpamError::Io { path, source });
            }
            _ => {}
        }
        self.taken.remove(uid);
        Ok(())
    }

    /// Every pod with an address, for finding leftovers.
    pub fn pods(&self) -> impl Iterator<Item = (&str, Ipv4Addr)> {
        self.taken.iter().map(|(uid, ip)| (uid.as_str(), *ip))
    }

    /// The address of this pod, if it has one.
    pub fn get(&self, uid: &str) -> Option<Ipv4Addr> {
        self.taken.get(uid).copied()
    }
}

/// The bridge's own address: the first of the range.
pub fn gateway(range: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(range.network()) + 1)
}

fn next_free(range: Ipv4Net, last: Ipv4Addr, taken: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
    let first = u32::from(range.network()) + 2;
    let end = u32::from(range.broadcast());
    let count = end.checked_sub(first).filter(|n| *n > 0)?;
    let start = u32::from(last).max(first - 1) + 1 - first;
    (0..count)
        .map(|i| Ipv4Addr::from(first + (start + i) % count))
        .find(|ip| !taken(*ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_out_in_turn_and_remembers() {
        let dir = tempfile::tempdir().unwrap();
        let range: Ipv4Net = "10.42.1.0/29".parse().unwrap();
        let mut book = Ipam::open(dir.path(), range).unwrap();
        let ips: Vec<_> = ["a", "b", "c"]
            .map(|u| book.allocate(u).unwrap().to_string())
            .into();
        assert_eq!(ips, ["10.42.1.2", "10.42.1.3", "10.42.1.4"]);
        assert_eq!(
            book.allocate("a").unwrap().to_string(),
            "10.42.1.2",
            "asking twice changes nothing"
        );
        book.release("a").unwrap();
        assert_eq!(
            book.allocate("d").unwrap().to_string(),
            "10.42.1.5",
            "a freed address rests"
        );

        let mut book = Ipam::open(dir.path(), range).unwrap();
        assert_eq!(book.get("d").unwrap().to_string(), "10.42.1.5");
        assert_eq!(book.allocate("e").unwrap().to_string(), "10.42.1.6");
        assert_eq!(
            book.allocate("f").unwrap().to_string(),
            "10.42.1.2",
            "wraps past the end"
        );
        assert!(matches!(book.allocate("g"), Err(IpamError::Exhausted(_))));
        book.release("nobody").unwrap();
    }
}
