//! Which server of which cluster this machine is: a few files beside the keys, never in the data directory.
//!
//! They tell a machine whose disk was lost from one that is new, so that neither begins a second cluster nor votes twice.

use anyhow::{Context, Result};
use caravel_peers::PeerTls;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Below `/etc/caravel`.
const DIR: &str = "peer";

/// What this machine knows of its place before it has read its store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// 32 hexadecimal digits.
    pub cluster: String,
    pub id: u64,
    /// It began the cluster.
    pub founder: bool,
    /// Its disk is on the cluster's roster. From then on the disk must be there.
    pub admitted: bool,
    /// Number and address of servers that were there when it joined.
    pub peers: Vec<(u64, String)>,
}

impl Place {
    /// The cluster's number.
    pub fn cluster(&self) -> Result<u128> {
        u128::from_str_radix(&self.cluster, 16).context("the cluster's number")
    }

    /// What is written down in `etc`, if anything.
    pub fn load(etc: &Path) -> Result<Option<Self>> {
        let path = file(etc, "server.json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("{} cannot be read", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    pub fn save(&self, etc: &Path) -> Result<()> {
        write(&file(etc, "server.json"), &serde_json::to_vec_pretty(self)?)
    }
}

/// The certificate for the peers' port that lies in `etc`, if all of it does.
pub(crate) fn load_tls(etc: &Path) -> Result<Option<PeerTls>> {
    let [ca, certificate, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| {
        let path = file(etc, name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    });
    let all = ca?.zip(certificate?).zip(key?);
    Ok(all.map(|((ca, certificate), key)| PeerTls {
        ca,
        certificate,
        key,
    }))
}

pub(crate) fn save_tls(etc: &Path, tls: &PeerTls) -> Result<()> {
    write(&file(etc, "ca.pem"), tls.ca.as_bytes())?;
    write(&file(etc, "cert.pem"), tls.certificate.as_bytes())?;
    write(&file(etc, "key.pem"), tls.key.as_bytes())
}

/// This machine is no server of any cluster any more.
pub(crate) fn forget(etc: &Path) -> Result<()> {
    let dir = etc.join(DIR);
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn file(etc: &Path, name: &str) -> PathBuf {
    etc.join(DIR).join(name)
}

/// Whole or not at all, for root only, on the disk when this returns.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let beside = path.with_extension("new");
    let written = || {
        let mut out = fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&beside)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        fs::rename(&beside, path)?;
        fs::File::open(dir)?.sync_all()
    };
    written().with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn it_is_written_down_for_root_only() {
        let etc = tempfile::tempdir().unwrap();
        assert_eq!(Place::load(etc.path()).unwrap(), None);
        let place = Place {
            cluster: format!("{:032x}", 5),
            id: 3,
            founder: false,
            admitted: true,
            peers: vec![(1, "192.0.2.1:2380".into())],
        };
        place.save(etc.path()).unwrap();
        assert_eq!(Place::load(etc.path()).unwrap(), Some(place.clone()));
        assert_eq!(place.cluster().unwrap(), 5);
        let mode = fs::metadata(etc.path().join("peer/server.json")).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_certificate_without_its_key_is_none() {
        let etc = tempfile::tempdir().unwrap();
        assert!(load_tls(etc.path()).unwrap().is_none());
        let tls = PeerTls {
            ca: "ca".into(),
            certificate: "cert".into(),
            key: "key".into(),
        };
        save_tls(etc.path(), &tls).unwrap();
        assert_eq!(load_tls(etc.path()).unwrap().unwrap().key, "key");
        fs::remove_file(file(etc.path(), "key.pem")).unwrap();
        assert!(load_tls(etc.path()).unwrap().is_none());
    }
}
