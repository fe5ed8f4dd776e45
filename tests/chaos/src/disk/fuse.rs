//! The disk as the kernel sees it: mounted over a directory of a host, and told what to do by lines on standard input.
//!
//! Nothing is cached by the kernel, so that what a power cut changed is seen. `slow MS`, `lie`, `fail`, `cut SEED`, `lose`
//! and `end` are answered with a line each, in order. Whoever waits for a slow sync cannot be killed before it is answered: `fail`
//! answers those, without having done it, and is over with the power cut that follows.

use super::{Disk, File, Node, ROOT};
use anyhow::Context as _;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const NOW: Duration = Duration::ZERO;
/// So that a slow sync holds up nobody else.
const THREADS: usize = 4;
/// How often a slow sync looks whether it fails.
const GLANCE: Duration = Duration::from_millis(20);

struct Shown {
    disk: Arc<Mutex<Disk>>,
    /// Milliseconds that a sync takes.
    slow: Arc<AtomicU64>,
    /// A sync that takes time fails at once.
    fails: Arc<AtomicBool>,
}

/// Mounts a copy of what lies in `dir` over it, until standard input ends or says so; then what it holds is left in `dir`.
pub fn serve(dir: &Path) -> anyhow::Result<()> {
    let disk = Disk::load(dir).with_context(|| format!("read {}", dir.display()))?;
    let disk = Arc::new(Mutex::new(disk));
    let slow = Arc::new(AtomicU64::new(0));
    let fails = Arc::new(AtomicBool::new(false));
    let shown = Shown {
        disk: disk.clone(),
        slow: slow.clone(),
        fails: fails.clone(),
    };
    let mut config = fuser::Config::default();
    config.mount_options = vec![
        fuser::MountOption::FSName("caravel-chaos".to_owned()),
        fuser::MountOption::DefaultPermissions,
    ];
    config.n_threads = Some(THREADS);
    // The directory that the mount covers. By its path this process would ask itself, and wait for ever, where a server that
    // is broken holds on to the mount.
    let below = std::fs::File::open(dir)?;
    let session = fuser::spawn_mount(shown, dir, &config).context("mount (is there /dev/fuse?)")?;
    let mut answers = std::io::stdout();
    writeln!(answers, "mounted")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["slow", time] => {
                slow.store(time.parse()?, Ordering::Relaxed);
                writeln!(answers, "slow")?;
            }
            ["lie"] => {
                disk.lock().lies = true;
                writeln!(answers, "lies")?;
            }
            ["fail"] => {
                fails.store(true, Ordering::Relaxed);
                writeln!(answers, "fails")?;
            }
            ["cut", _] | ["lose"] => {
                fails.store(false, Ordering::Relaxed);
                let taken = match words.get(1) {
                    Some(seed) => disk.lock().cut(seed.parse()?),
                    None => disk.lock().lose(),
                };
                writeln!(answers, "{} {} {}", taken.loose, taken.lost, taken.names)?;
            }
            ["end"] => break,
            _ => anyhow::bail!("no such command: {line}"),
        }
        answers.flush()?;
    }
    drop(session);
    let below = format!("/proc/self/fd/{}", below.as_raw_fd());
    keep(&disk.lock(), ROOT, Path::new(&below))
        .with_context(|| format!("write {}", dir.display()))?;
    writeln!(answers, "ended")?;
    Ok(())
}

/// Leaves what the disk holds in a directory, and nothing else.
fn keep(disk: &Disk, number: u64, to: &Path) -> std::io::Result<()> {
    let Some(Node::Dir(names)) = disk.node(number) else {
        return Ok(());
    };
    for entry in std::fs::read_dir(to)? {
        let entry = entry?;
        let known = entry
            .file_name()
            .to_str()
            .is_some_and(|name| names.contains_key(name));
        match (known, entry.file_type()?.is_dir()) {
            (true, _) => {}
            (false, true) => std::fs::remove_dir_all(entry.path())?,
            (false, false) => std::fs::remove_file(entry.path())?,
        }
    }
    for (name, number) in names {
        let path = to.join(name);
        match disk.node(*number) {
            Some(Node::File(file)) => std::fs::write(path, &file.bytes)?,
            Some(Node::Dir(_)) => {
                if !path.exists() {
                    std::fs::create_dir(&path)?;
                }
                keep(disk, *number, &path)?;
            }
            None => {}
        }
    }
    Ok(())
}

fn attributes(number: u64, node: &Node) -> FileAttr {
    let (kind, perm, size) = match node {
        Node::File(file) => (FileType::RegularFile, 0o600, file.bytes.len() as u64),
        Node::Dir(_) => (FileType::Directory, 0o700, 0),
    };
    FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Shown {
    fn entry(&self, number: u64, reply: ReplyEntry) {
        match self.disk.lock().node(number) {
            Some(node) => reply.entry(&NOW, &attributes(number, node), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (name, mut disk) = (name.to_string_lossy(), self.disk.lock());
        if disk.child(parent.0, &name).is_none() {
            return reply.error(Errno::ENOENT);
        }
        disk.name(parent.0, &name, None);
        reply.ok();
    }

    fn synced(&self, number: u64, reply: ReplyEmpty) {
        let until = Instant::now() + Duration::from_millis(self.slow.load(Ordering::Relaxed));
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            if self.fails.load(Ordering::Relaxed) {
                return reply.error(Errno::EIO);
            }
            std::thread::sleep(left.min(GLANCE));
        }
        self.disk.lock().sync(number);
        reply.ok();
    }
}

impl Filesystem for Shown {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.disk.lock().child(parent.0, &name.to_string_lossy());
        match found {
            Some(number) => self.entry(number, reply),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.disk.lock().node(ino.0) {
            Some(node) => reply.attr(&NOW, &attributes(ino.0, node)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut disk = self.disk.lock();
        if let Some(size) = size {
            disk.resize(ino.0, size as usize);
        }
        match disk.node(ino.0) {
            Some(node) => reply.attr(&NOW, &attributes(ino.0, node)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let made = self.disk.lock().make(
            parent.0,
            &name.to_string_lossy(),
            Node::Dir(BTreeMap::new()),
        );
        self.entry(made, reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut disk = self.disk.lock();
        let (old, new) = (name.to_string_lossy(), newname.to_string_lossy());
        let Some(number) = disk.child(parent.0, &old) else {
            return reply.error(Errno::ENOENT);
        };
        disk.name(newparent.0, &new, Some(number));
        disk.name(parent.0, &old, None);
        reply.ok();
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let mut disk = self.disk.lock();
        let made = disk.make(
            parent.0,
            &name.to_string_lossy(),
            Node::File(File::default()),
        );
        match disk.node(made) {
            Some(node) => reply.created(
                &NOW,
                &attributes(made, node),
                Generation(0),
                FileHandle(0),
                FopenFlags::FOPEN_DIRECT_IO,
            ),
            None => reply.error(Errno::EIO),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk.lock().node(ino.0) {
            Some(Node::File(file)) => {
                let begin = (offset as usize).min(file.bytes.len());
                let end = (begin + size as usize).min(file.bytes.len());
                reply.data(&file.bytes[begin..end]);
            }
            _ => reply.error(Errno::EISDIR),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if self.disk.lock().write(ino.0, offset as usize, data) {
            reply.written(data.len() as u32);
        } else {
            reply.error(Errno::EBADF);
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = 1 << 20;
        reply.statfs(blocks, blocks, blocks, blocks, blocks, 4096, 255, 4096);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.synced(ino.0, reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.synced(ino.0, reply);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let disk = self.disk.lock();
        let Some(Node::Dir(names)) = disk.node(ino.0) else {
            return reply.error(Errno::ENOTDIR);
        };
        for (at, (name, number)) in names.iter().enumerate().skip(offset as usize) {
            let kind = match disk.node(*number) {
                Some(Node::Dir(_)) => FileType::Directory,
                _ => FileType::RegularFile,
            };
            if reply.add(INodeNo(*number), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
