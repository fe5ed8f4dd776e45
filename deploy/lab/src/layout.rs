//! Where everything of a lab lies, and what its things in the kernel are called. All of it follows from the directory.

use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};

pub const DEFAULT_DIR: &str = "/var/lib/caravel-lab/default";
/// Directories that every host has for itself: (on the host, in the lab's directory of the host).
pub const OWN: &[(&str, &str)] = &[
    ("/etc/caravel", "etc"),
    ("/var/lib/caravel", "lib"),
    ("/var/lib/kubelet", "kubelet"),
    ("/var/log/pods", "pods"),
    ("/var/log/containers", "containers"),
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    dir: PathBuf,
    id: String,
}

impl Layout {
    /// `dir` need not exist; it is made absolute, so that the same lab is meant from anywhere.
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        let dir = std::path::absolute(dir)?;
        let dir = dir.canonicalize().unwrap_or(dir);
        for (own, _) in OWN.iter().chain(&[("/run", "")]) {
            anyhow::ensure!(
                !dir.starts_with(own),
                "a lab cannot lie under {own}: every host has its own; choose another --dir"
            );
        }
        let id = hex::encode(&Sha256::digest(dir.as_os_str().as_encoded_bytes())[..3]);
        Ok(Self { dir, id })
    }

    /// Six hex digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn record(&self) -> PathBuf {
        self.dir.join("lab.json")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig.yaml")
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    /// A private tmpfs that pins namespaces.
    pub fn pins(&self) -> PathBuf {
        self.dir.join("ns")
    }

    pub fn pin(&self, host: &str, namespace: &str) -> PathBuf {
        self.pins().join(format!("{host}.{namespace}"))
    }

    pub fn host(&self, host: &str) -> PathBuf {
        self.dir.join("hosts").join(host)
    }

    /// A file that is `on_host` (one of the [`OWN`] directories) on the host, as seen from the machine.
    pub fn host_file(&self, host: &str, on_host: &str) -> Option<PathBuf> {
        OWN.iter().find_map(|(own, dir)| {
            Path::new(on_host)
                .strip_prefix(own)
                .ok()
                .map(|rest| self.host(host).join(dir).join(rest))
        })
    }

    pub fn bin(&self) -> PathBuf {
        self.dir.join("bin")
    }

    pub fn pid_file(&self, name: &str) -> PathBuf {
        self.dir.join("pids").join(name)
    }

    /// Name of the bridge; with a dash and a number, of the veths on it. At most 15 bytes.
    pub fn bridge(&self) -> String {
        format!("cvl{}", self.id)
    }

    pub fn veth(&self, index: usize) -> String {
        format!("cvl{}-{index}", self.id)
    }

    pub fn table(&self) -> String {
        format!("caravel_lab_{}", self.id)
    }

    /// Path of the lab's cgroup below each hierarchy's root.
    pub fn cgroup(&self) -> String {
        format!("/caravel-lab-{}", self.id)
    }

    pub fn host_cgroup(&self, host: &str) -> String {
        format!("{}/{host}", self.cgroup())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_follow_from_the_directory() {
        let lab = Layout::new(Path::new("/nowhere/lab")).unwrap();
        assert_eq!(lab, Layout::new(Path::new("/nowhere/lab")).unwrap());
        assert_ne!(
            lab.id(),
            Layout::new(Path::new("/nowhere/other")).unwrap().id()
        );
        assert!(lab.veth(99).len() <= 15);
        assert_eq!(
            lab.host_file("n", "/etc/caravel/config.yaml").unwrap(),
            Path::new("/nowhere/lab/hosts/n/etc/config.yaml")
        );
        assert!(Layout::new(Path::new("/run/lab")).is_err());
    }
}
