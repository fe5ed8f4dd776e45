//! The kernel's mount table as far as volumes need it: an edge with a fake.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounts and unmounts. Both are idempotent.
pub trait Mounter: Send {
    /// A file system in memory at `target`, of at most `bytes` (none: half of the machine's memory).
    fn tmpfs(&mut self, target: &Path, bytes: Option<u64>) -> io::Result<()>;
    /// What `source` refers to, at `target` too.
    fn bind(&mut self, source: BorrowedFd<'_>, target: &Path) -> io::Result<()>;
    /// Everything mounted at or below `top`, deepest first.
    fn below(&mut self, top: &Path) -> io::Result<Vec<PathBuf>>;
    /// Takes the topmost mount off `target`.
    fn unmount(&mut self, target: &Path) -> io::Result<()>;
}

/// The calling process' mount namespace.
#[derive(Debug, Default)]
pub struct KernelMounter;

impl Mounter for KernelMounter {
    fn tmpfs(&mut self, target: &Path, bytes: Option<u64>) -> io::Result<()> {
        if self.below(target)?.iter().any(|m| m == target) {
            return Ok(());
        }
        let options = bytes.map(|b| format!("size={b}"));
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(
            Some("tmpfs"),
            target,
            Some("tmpfs"),
            flags,
            options.as_deref(),
        )
        .map_err(io::Error::from)
    }

    fn bind(&mut self, source: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
        if self.below(target)?.iter().any(|m| m == target) {
            return Ok(());
        }
        let source = format!("/proc/self/fd/{}", source.as_raw_fd());
        mount(
            Some(source.as_str()),
            target,
            None::<&str>,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            None::<&str>,
        )
        .map_err(io::Error::from)
    }

    fn below(&mut self, top: &Path) -> io::Result<Vec<PathBuf>> {
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        let mut found: Vec<PathBuf> = table
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .map(unescape)
            .filter(|path| path.starts_with(top))
            .collect();
        found.sort();
        found.reverse();
        Ok(found)
    }

    fn unmount(&mut self, target: &Path) -> io::Result<()> {
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Paths in the mount table have blanks and the like as octal numbers.
fn unescape(path: &str) -> PathBuf {
    let mut out = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = rest
            .get(1..4)
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match (first, octal) {
            (b'\\', Some(byte)) => {
                out.push(byte);
                rest = &rest[4..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(String::from_utf8_lossy(&out).into_owned())
}

/// A mount table in memory.
#[derive(Debug, Default)]
pub struct FakeMounter {
    /// What is mounted where.
    pub mounts: BTreeMap<PathBuf, String>,
}

impl Mounter for FakeMounter {
    fn tmpfs(&mut self, target: &Path, bytes: Option<u64>) -> io::Result<()> {
        std::fs::metadata(target)?;
        self.mounts
            .entry(target.to_owned())
            .or_insert_with(|| match bytes {
                Some(bytes) => format!("tmpfs size={bytes}"),
                None => "tmpfs".into(),
            });
        Ok(())
    }

    fn bind(&mut self, source: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
        std::fs::metadata(target)?;
        let source = std::fs::read_link(format!("/proc/self/fd/{}", source.as_raw_fd()))?;
        self.mounts
            .entry(target.to_owned())
            .or_insert_with(|| format!("bind {}", source.display()));
        Ok(())
    }

    fn below(&mut self, top: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self
            .mounts
            .keys()
            .rev()
            .filter(|m| m.starts_with(top))
            .cloned()
            .collect())
    }

    fn unmount(&mut self, target: &Path) -> io::Result<()> {
        self.mounts.remove(target);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn suite(mut mounter: impl Mounter) {
        let top = tempfile::tempdir().unwrap();
        let (a, b) = (top.path().join("a b"), top.path().join("c"));
        std::fs::create_dir(&a).unwrap();
        std::fs::create_dir(&b).unwrap();
        for _ in 0..2 {
            mounter.tmpfs(&a, Some(1 << 20)).unwrap();
        }
        let source = std::fs::File::open(&a).unwrap();
        for _ in 0..2 {
            mounter.bind(source.as_fd(), &b).unwrap();
        }
        assert!(mounter.tmpfs(&top.path().join("none"), None).is_err());
        assert_eq!(mounter.below(top.path()).unwrap(), [b.clone(), a.clone()]);
        for path in [&b, &a, &a] {
            mounter.unmount(path).unwrap();
        }
        assert!(mounter.below(top.path()).unwrap().is_empty());
    }

    #[test]
    fn suite_on_the_fake() {
        suite(FakeMounter::default());
    }

    #[test]
    fn suite_on_the_kernel() {
        if nix::unistd::geteuid().is_root() {
            suite(KernelMounter);
        }
    }
}
