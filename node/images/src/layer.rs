//! Unpacks one layer's tar stream into a directory that overlayfs takes as a lower directory.
//!
//! Every path is opened beneath the layer's own root by the kernel (`openat2` with `RESOLVE_BENEATH`), so neither
//! `..` nor a symbolic link of the layer itself leads outside: such a layer is refused, not repaired. Whiteouts become
//! overlay's own (character device 0/0, `trusted.overlay.opaque`). Never creates a device that is not one of the
//! harmless ones, and never sets an attribute that steers overlayfs.
//! Format: OCI image-spec, layer.md.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid,
};
use tar::{Archive, Entry, EntryType};

/// What one layer may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of the uncompressed archive.
    pub bytes: u64,
}

impl Limits {
    pub const ENTRIES: u64 = 1_000_000;
    pub const BYTES: u64 = 32 << 30;
    /// Real layers compress three to ten times; two hundred is a bomb.
    const RATIO: u64 = 200;
    const FREE: u64 = 256 << 20;

    /// The limits of a layer that takes `compressed` bytes as stored.
    pub fn of(compressed: u64) -> Self {
        Self {
            entries: Self::ENTRIES,
            bytes: Self::BYTES.min(Self::FREE + compressed.saturating_mul(Self::RATIO)),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("read the layer: {0}")]
    Read(#[source] io::Error),
    #[error("layer unpacks to more than {0} bytes: refused as a decompression bomb")]
    TooLarge(u64),
    #[error("layer has more than {0} entries: refused")]
    TooMany(u64),
    #[error("layer entry {path:?}: {why}: refused")]
    Refused { path: PathBuf, why: &'static str },
    #[error("create layer entry {path:?}: {source}")]
    Create { path: PathBuf, source: io::Error },
}

/// Unpacks the uncompressed `tar` into `root`, an existing empty directory.
pub(crate) fn unpack(tar: impl Read, root: &Path, limits: Limits) -> Result<(), LayerError> {
    let root_fd = fs::open(
        root,
        OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|source| LayerError::Create {
        path: root.to_owned(),
        source: source.into(),
    })?;
    let mut archive = Archive::new(Capped {
        inner: tar,
        left: limits.bytes,
    });
    archive.set_ignore_zeros(false);
    let mut unpacker = Unpacker {
        root: root_fd,
        directories: BTreeMap::new(),
    };
    let mut count = 0;
    for entry in archive.entries().map_err(|e| read_error(e, limits))? {
        let mut entry = entry.map_err(|e| read_error(e, limits))?;
        count += 1;
        if count > limits.entries {
            return Err(LayerError::TooMany(limits.entries));
        }
        unpacker.entry(&mut entry, limits)?;
    }
    // What follows the end mark still counts for the layer's digest.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(|e| read_error(e, limits))?;
    unpacker.finish()
}

fn read_error(error: io::Error, limits: Limits) -> LayerError {
    if error
        .get_ref()
        .is_some_and(|inner| inner.is::<CapReached>())
    {
        LayerError::TooLarge(limits.bytes)
    } else {
        LayerError::Read(error)
    }
}

struct Unpacker {
    root: OwnedFd,
    /// Modification times of directories, set at the end because creating entries changes them.
    directories: BTreeMap<PathBuf, i64>,
}

impl Unpacker {
    fn entry<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        limits: Limits,
    ) -> Result<(), LayerError> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let written = entry.path().map_err(LayerError::Read)?.into_owned();
        let refuse = |why| LayerError::Refused {
            path: written.clone(),
            why,
        };
        let path = relative(&written).ok_or_else(|| refuse("its path leads outside the layer"))?;
        let Some(name) = path.file_name() else {
            return self.directory(Path::new("."), entry, &written);
        };
        let parent_path = path.parent().unwrap_or(Path::new(""));
        let parent = self.parent(parent_path, &written)?;
        let create = |source: rustix::io::Errno| LayerError::Create {
            path: written.clone(),
            source: source.into(),
        };

        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return match hidden {
                b".wh..opq" => xattr::FileExt::set_xattr(
                    &readable(&parent, &written)?,
                    "trusted.overlay.opaque",
                    b"y",
                )
                .map_err(|source| LayerError::Create {
                    path: written.clone(),
                    source,
                }),
                b"" | b"." | b".." => Err(refuse("it is not a valid whiteout")),
                other if other.starts_with(b".wh.") => Ok(()), // aufs' own bookkeeping
                other => {
                    let hidden = OsStr::from_bytes(other);
                    clear(&parent, hidden).map_err(create)?;
                    fs::mknodat(&parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)
                        .map_err(create)
                }
            };
        }

        let header = entry.header();
        let mode = Mode::from_raw_mode(header.mode().map_err(LayerError::Read)? & 0o7777);
        match kind {
            EntryType::Directory => return self.directory(&path, entry, &written),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                clear(&parent, name).map_err(create)?;
                let file = fs::openat(
                    &parent,
                    name,
                    OFlags::CREATE
                        | OFlags::EXCL
                        | OFlags::WRONLY
                        | OFlags::NOFOLLOW
                        | OFlags::CLOEXEC,
                    Mode::from_raw_mode(0o600),
                )
                .map_err(create)?;
                let mut file = File::from(file);
                io::copy(entry, &mut file).map_err(|e| read_error(e, limits))?;
            }
            EntryType::Symlink => {
                let target = link(entry, &written)?;
                clear(&parent, name).map_err(create)?;
                fs::symlinkat(&target, &parent, name).map_err(create)?;
            }
            EntryType::Link => {
                let target = link(entry, &written)?;
                let target = relative(&target)
                    .ok_or_else(|| refuse("its hard link leads outside the layer"))?;
                let source_name = target
                    .file_name()
                    .ok_or_else(|| refuse("its hard link names no file"))?
                    .to_owned();
                let source = self
                    .open_directory(target.parent().unwrap_or(Path::new("")))
                    .map_err(|e| {
                        if e == rustix::io::Errno::XDEV || e == rustix::io::Errno::LOOP {
                            refuse("its hard link leads outside the layer")
                        } else {
                            create(e)
                        }
                    })?;
                let same = fs::fstat(&source)
                    .and_then(|a| {
                        fs::fstat(&parent).map(|b| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
                    })
                    .map_err(create)?;
                if same && source_name == name {
                    return Ok(());
                }
                let about =
                    fs::statat(&source, &source_name, AtFlags::SYMLINK_NOFOLLOW).map_err(create)?;
                if FileType::from_raw_mode(about.st_mode) == FileType::CharacterDevice {
                    return Err(refuse("it is a hard link to a device"));
                }
                clear(&parent, name).map_err(create)?;
                // The link shares its target's inode: owner, mode and attributes are the target's.
                return fs::linkat(&source, &source_name, &parent, name, AtFlags::empty())
                    .map_err(create);
            }
            EntryType::Fifo => {
                clear(&parent, name).map_err(create)?;
                fs::mknodat(&parent, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
                    .map_err(create)?;
            }
            EntryType::Char => {
                let major = header
                    .device_major()
                    .map_err(LayerError::Read)?
                    .unwrap_or(0);
                let minor = header
                    .device_minor()
                    .map_err(LayerError::Read)?
                    .unwrap_or(0);
                // null, zero, full, random, urandom; tty, console, ptmx: what old base images carry in /dev.
                if !matches!((major, minor), (1, 3 | 5 | 7 | 8 | 9) | (5, 0..=2)) {
                    return Err(refuse("it is a device that images may not carry"));
                }
                clear(&parent, name).map_err(create)?;
                fs::mknodat(
                    &parent,
                    name,
                    FileType::CharacterDevice,
                    Mode::from_raw_mode(0o600),
                    fs::makedev(major, minor),
                )
                .map_err(create)?;
            }
            EntryType::Block => return Err(refuse("it is a block device")),
            _ => return Err(refuse("it is of a kind that images may not carry")),
        }
        self.attributes(
            &parent,
            name,
            entry,
            (kind != EntryType::Symlink).then_some(mode),
            &written,
        )
    }

    fn directory<R: Read>(
        &mut self,
        path: &Path,
        entry: &mut Entry<'_, R>,
        written: &Path,
    ) -> Result<(), LayerError> {
        let create = |source: rustix::io::Errno| LayerError::Create {
            path: written.to_owned(),
            source: source.into(),
        };
        let mode = Mode::from_raw_mode(entry.header().mode().map_err(LayerError::Read)? & 0o7777);
        let mtime = entry.header().mtime().unwrap_or(0) as i64;
        let Some(name) = path.file_name() else {
            let root = self.root.try_clone().map_err(|source| LayerError::Create {
                path: written.to_owned(),
                source,
            })?;
            self.directories.insert(PathBuf::from("."), mtime);
            return self.attributes(&root, OsStr::new("."), entry, Some(mode), written);
        };
        let parent = self.parent(path.parent().unwrap_or(Path::new("")), written)?;
        match fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(about) if FileType::from_raw_mode(about.st_mode) == FileType::Directory => {}
            Ok(_) => {
                fs::unlinkat(&parent, name, AtFlags::empty()).map_err(create)?;
                fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)).map_err(create)?;
            }
            Err(_) => fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)).map_err(create)?,
        }
        self.directories.insert(path.to_owned(), mtime);
        self.attributes(&parent, name, entry, Some(mode), written)
    }

    /// Owner, then mode (changing the owner clears set-id bits), then extended attributes, then times.
    fn attributes<R: Read>(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        entry: &mut Entry<'_, R>,
        mode: Option<Mode>,
        written: &Path,
    ) -> Result<(), LayerError> {
        let create = |source: rustix::io::Errno| LayerError::Create {
            path: written.to_owned(),
            source: source.into(),
        };
        let header = entry.header();
        let uid = u32::try_from(header.uid().unwrap_or(0))
            .ok()
            .filter(|id| *id != u32::MAX);
        let gid = u32::try_from(header.gid().unwrap_or(0))
            .ok()
            .filter(|id| *id != u32::MAX);
        let (Some(uid), Some(gid)) = (uid, gid) else {
            return Err(LayerError::Refused {
                path: written.to_owned(),
                why: "its owner is out of range",
            });
        };
        let mtime = header.mtime().unwrap_or(0) as i64;
        match fs::chownat(
            parent,
            name,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        ) {
            // Without the privilege (a test run by a user) files stay their creator's.
            Err(rustix::io::Errno::PERM) if !nix::unistd::geteuid().is_root() => {}
            other => other.map_err(create)?,
        }
        let Some(mode) = mode else {
            return Ok(());
        };
        // The entry is not a symbolic link: it was created above, in a directory that nobody else writes.
        fs::chmodat(parent, name, mode, AtFlags::empty()).map_err(create)?;
        let mut attributes = Vec::new();
        if let Some(extensions) = entry.pax_extensions().map_err(LayerError::Read)? {
            for extension in extensions {
                let extension = extension.map_err(LayerError::Read)?;
                let Ok(key) = extension.key() else { continue };
                if let Some(attribute) = key.strip_prefix("SCHILY.xattr.") {
                    if attribute.starts_with("trusted.") || attribute.starts_with("user.overlay.") {
                        return Err(LayerError::Refused {
                            path: written.to_owned(),
                            why: "it sets an attribute that steers the overlay",
                        });
                    }
                    attributes.push((attribute.to_owned(), extension.value_bytes().to_vec()));
                }
            }
        }
        if !attributes.is_empty() {
            let fd = fs::openat(
                parent,
                name,
                OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(create)?;
            let file = File::from(fd);
            for (attribute, value) in attributes {
                match xattr::FileExt::set_xattr(&file, &attribute, &value) {
                    Err(error)
                        if attribute.starts_with("security.capability")
                            || attribute.starts_with("user.") =>
                    {
                        // The file system may lack them; the kubelet's own runtimes go on as well.
                        tracing::debug!(path = %written.display(), attribute, %error, "extended attribute not kept");
                    }
                    Err(error) => {
                        tracing::debug!(path = %written.display(), attribute, %error, "extended attribute not kept")
                    }
                    Ok(()) => {}
                }
            }
        }
        set_mtime(parent, name, mtime).map_err(create)
    }

    /// The directory that an entry lies in, created where the layer does not carry it.
    fn parent(&self, path: &Path, written: &Path) -> Result<OwnedFd, LayerError> {
        let fail = |error: rustix::io::Errno| match error {
            rustix::io::Errno::XDEV | rustix::io::Errno::LOOP => LayerError::Refused {
                path: written.to_owned(),
                why: "a symbolic link on its path leads outside the layer",
            },
            rustix::io::Errno::NOTDIR => LayerError::Refused {
                path: written.to_owned(),
                why: "its parent is not a directory",
            },
            other => LayerError::Create {
                path: written.to_owned(),
                source: other.into(),
            },
        };
        match self.open_directory(path) {
            Err(rustix::io::Errno::NOENT) => {}
            other => return other.map_err(fail),
        }
        let mut so_far = PathBuf::new();
        for part in path.components() {
            let above = self.open_directory(&so_far).map_err(fail)?;
            match fs::mkdirat(&above, part.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => so_far.push(part),
                Err(error) => return Err(fail(error)),
            }
        }
        self.open_directory(path).map_err(fail)
    }

    fn open_directory(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        fs::openat2(
            &self.root,
            path,
            OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        )
    }

    fn finish(self) -> Result<(), LayerError> {
        // Deepest first: setting a child's time does not change its parent's, but the order costs nothing.
        for (path, mtime) in self.directories.iter().rev() {
            set_mtime(&self.root, path.as_os_str(), *mtime).map_err(|source| {
                LayerError::Create {
                    path: path.clone(),
                    source: source.into(),
                }
            })?;
        }
        Ok(())
    }
}

fn set_mtime(parent: &impl AsFd, name: &OsStr, seconds: i64) -> rustix::io::Result<()> {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    fs::utimensat(
        parent,
        name,
        &Timestamps {
            last_access: time,
            last_modification: time,
        },
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

/// Takes away what lies under `name`, unless it is a directory with content.
fn clear(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(rustix::io::Errno::ISDIR) => fs::unlinkat(parent, name, AtFlags::REMOVEDIR),
        Err(error) => Err(error),
    }
}

fn readable(directory: &OwnedFd, written: &Path) -> Result<File, LayerError> {
    fs::openat(
        directory,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map(File::from)
    .map_err(|source| LayerError::Create {
        path: written.to_owned(),
        source: source.into(),
    })
}

fn link<R: Read>(entry: &Entry<'_, R>, written: &Path) -> Result<PathBuf, LayerError> {
    match entry.link_name().map_err(LayerError::Read)? {
        Some(target) if !target.as_os_str().is_empty() => Ok(target.into_owned()),
        _ => Err(LayerError::Refused {
            path: written.to_owned(),
            why: "it is a link to nothing",
        }),
    }
}

/// The path without leading `/` and `./`; `None` where it climbs.
fn relative(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

#[derive(Debug, thiserror::Error)]
#[error("limit reached")]
struct CapReached;

struct Capped<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            // One more byte tells "exactly at the limit" from "over it".
            return match self.inner.read(&mut [0])? {
                0 => Ok(0),
                _ => Err(io::Error::other(CapReached)),
            };
        }
        let most = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.inner.read(&mut buffer[..most])?;
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
