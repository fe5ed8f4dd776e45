//! Mounting a part of a volume, without being led out of it.
//!
//! A container may put links into its volumes. The part is therefore opened by the kernel with every step
//! confined to the volume, and what was opened (not what the name means later) is bound to a place of ours,
//! as upstream's `subpath` package does.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::content::inside;
use crate::error::{Cause, io as failed};
use crate::mounter::Mounter;

/// Binds `sub` of the volume at `volume` to a path below the Pod's directory and returns that path. A part
/// that is not there is made as a directory. `index` tells a container's mounts apart.
///
/// # Errors
/// A path that leads out of the volume, or what the system said.
pub fn sub_path(
    pod_dir: &Path,
    volume_name: &str,
    volume: &Path,
    container: &str,
    index: usize,
    sub: &str,
    mounter: &mut dyn Mounter,
) -> Result<PathBuf, Cause> {
    let sub = inside(sub)?;
    let part = match open_inside(volume, &sub) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_inside(volume, &sub).and_then(|()| open_inside(volume, &sub))
        }
        other => other,
    }
    .map_err(failed("open subPath", &volume.join(&sub)))?;
    let target = pod_dir
        .join("volume-subpaths")
        .join(volume_name)
        .join(container)
        .join(index.to_string());
    let is_dir = File::from(part.try_clone().map_err(failed("open", volume))?)
        .metadata()
        .map_err(failed("look at", volume))?
        .is_dir();
    if !target.exists() {
        let parent = if is_dir {
            target.as_path()
        } else {
            target.parent().unwrap_or(pod_dir)
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(parent)
            .map_err(failed("create", parent))?;
        if !is_dir {
            fs::write(&target, "").map_err(failed("create", &target))?;
        }
    }
    mounter
        .bind(part.as_fd(), &target)
        .map_err(failed("bind", &target))?;
    Ok(target)
}

fn open_inside(volume: &Path, sub: &str) -> io::Result<OwnedFd> {
    let root = File::open(volume)?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let fd = openat2(root.as_raw_fd(), sub, how)?;
    // SAFETY: openat2 has just returned this descriptor and nobody else holds it.
    #[allow(unsafe_code)]
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(owned)
}

/// Makes the missing directories one by one, each inside the last.
fn make_inside(volume: &Path, sub: &str) -> io::Result<()> {
    let mut so_far = String::new();
    for part in sub.split('/') {
        let parent = if so_far.is_empty() {
            File::open(volume)?.into()
        } else {
            open_inside(volume, &so_far)?
        };
        match nix::sys::stat::mkdirat(
            Some(parent.as_raw_fd()),
            part,
            nix::sys::stat::Mode::from_bits_truncate(0o750),
        ) {
            Ok(()) | Err(nix::Error::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        so_far = if so_far.is_empty() {
            part.to_owned()
        } else {
            format!("{so_far}/{part}")
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::mounter::FakeMounter;

    #[test]
    fn a_part_stays_inside() {
        let top = tempfile::tempdir().unwrap();
        let (pod, volume) = (top.path().join("pod"), top.path().join("v"));
        fs::create_dir_all(volume.join("dir")).unwrap();
        fs::write(volume.join("dir/file"), "").unwrap();
        symlink("dir/file", volume.join("link")).unwrap();
        symlink("../../../etc", volume.join("out")).unwrap();
        symlink("/etc/passwd", volume.join("absolute")).unwrap();
        let mut mounter = FakeMounter::default();
        let mut index = 0;
        let mut try_it = |sub: &str| {
            index += 1;
            sub_path(&pod, "v", &volume, "c", index, sub, &mut mounter)
        };
        for good in ["dir", "dir/file", "link", "new/deep"] {
            assert!(try_it(good).is_ok(), "{good}");
        }
        assert!(volume.join("new/deep").is_dir());
        for bad in ["../x", "out/passwd", "absolute", "/etc"] {
            assert!(try_it(bad).is_err(), "{bad}");
        }
        let bound: Vec<_> = mounter
            .mounts
            .values()
            .map(|m| m.rsplit('/').next().unwrap().to_owned())
            .collect();
        assert!(
            bound.contains(&"file".to_owned()) && bound.contains(&"deep".to_owned()),
            "{bound:?}"
        );
    }
}
