//! A disk that can lose its power: a small tree of files in memory that knows what `fsync` has made durable.
//!
//! Pure: `fuse.rs` shows it to the kernel. A write is seen by readers at once. When the power goes, each 512-byte sector that was
//! written since the last `fsync` of its file is as any of the writes left it, or as it was before all of them, each sector by
//! its own; lengths likewise; names that no `fsync` covered are undone from some point on, newest first. As POSIX allows: of
//! what was not synced nothing is promised. `fsync` of a file makes the name under which it was made durable too, as ext4 does.

pub mod fuse;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::path::Path;

pub const ROOT: u64 = 1;
const SECTOR: usize = 512;

#[derive(Debug, Default)]
pub struct File {
    pub bytes: Vec<u8>,
    /// Of each sector written since the last sync: what it held before each of the writes.
    older: BTreeMap<usize, Vec<[u8; SECTOR]>>,
    durable: usize,
}

#[derive(Debug)]
pub enum Node {
    File(File),
    Dir(BTreeMap<String, u64>),
}

/// A change of a name that is not durable: what it meant before.
#[derive(Debug)]
struct Renamed {
    dir: u64,
    name: String,
    before: Option<u64>,
    now: Option<u64>,
}

/// What a power cut took.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Sectors that no sync covered, and those of them that are not as the last write left them.
    pub loose: usize,
    pub lost: usize,
    pub names: usize,
}

#[derive(Debug)]
pub struct Disk {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    names: Vec<Renamed>,
    /// A sync keeps nothing: what a test must notice.
    pub lies: bool,
}

impl Default for Disk {
    fn default() -> Self {
        Disk {
            nodes: BTreeMap::from([(ROOT, Node::Dir(BTreeMap::new()))]),
            next: ROOT + 1,
            names: Vec::new(),
            lies: false,
        }
    }
}

impl Disk {
    /// With what lies in a directory, all of it durable.
    pub fn load(from: &Path) -> std::io::Result<Self> {
        let mut disk = Disk::default();
        disk.load_into(ROOT, from)?;
        disk.names.clear();
        Ok(disk)
    }

    fn load_into(&mut self, dir: u64, from: &Path) -> std::io::Result<()> {
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() {
                let made = self.make(dir, &name, Node::Dir(BTreeMap::new()));
                self.load_into(made, &entry.path())?;
            } else {
                let bytes = std::fs::read(entry.path())?;
                let durable = bytes.len();
                let file = File {
                    bytes,
                    durable,
                    ..File::default()
                };
                self.make(dir, &name, Node::File(file));
            }
        }
        Ok(())
    }

    pub fn node(&self, number: u64) -> Option<&Node> {
        self.nodes.get(&number)
    }

    pub fn child(&self, dir: u64, name: &str) -> Option<u64> {
        match self.nodes.get(&dir)? {
            Node::Dir(names) => names.get(name).copied(),
            Node::File(_) => None,
        }
    }

    pub fn make(&mut self, dir: u64, name: &str, node: Node) -> u64 {
        let number = self.next;
        self.next += 1;
        self.nodes.insert(number, node);
        self.name(dir, name, Some(number));
        number
    }

    /// Gives a name to another node, or takes it away. What it meant is kept until that is durable.
    pub fn name(&mut self, dir: u64, name: &str, now: Option<u64>) {
        let before = self.set_name(dir, name, now);
        self.names.push(Renamed {
            dir,
            name: name.to_owned(),
            before,
            now,
        });
    }

    fn set_name(&mut self, dir: u64, name: &str, now: Option<u64>) -> Option<u64> {
        let Some(Node::Dir(names)) = self.nodes.get_mut(&dir) else {
            return None;
        };
        match now {
            Some(number) => names.insert(name.to_owned(), number),
            None => names.remove(name),
        }
    }

    pub fn write(&mut self, number: u64, at: usize, bytes: &[u8]) -> bool {
        let Some(Node::File(file)) = self.nodes.get_mut(&number) else {
            return false;
        };
        let end = at + bytes.len();
        file.remember(at, end);
        if file.bytes.len() < end {
            file.bytes.resize(end, 0);
        }
        file.bytes[at..end].copy_from_slice(bytes);
        true
    }

    pub fn resize(&mut self, number: u64, length: usize) -> bool {
        let Some(Node::File(file)) = self.nodes.get_mut(&number) else {
            return false;
        };
        file.remember(length, file.bytes.len());
        file.bytes.resize(length, 0);
        true
    }

    pub fn sync(&mut self, number: u64) {
        if self.lies {
            return;
        }
        let is_dir = match self.nodes.get_mut(&number) {
            Some(Node::File(file)) => {
                file.older.clear();
                file.durable = file.bytes.len();
                false
            }
            Some(Node::Dir(_)) => true,
            None => return,
        };
        self.names.retain(|one| {
            if is_dir {
                one.dir != number
            } else {
                one.now != Some(number)
            }
        });
    }

    /// The power goes and comes back.
    pub fn cut(&mut self, seed: u64) -> Taken {
        let mut random = StdRng::seed_from_u64(seed);
        self.keep(&mut |most| random.random_range(0..=most))
    }

    /// The same, and nothing is left of what was not synced.
    pub fn lose(&mut self) -> Taken {
        self.keep(&mut |_| 0)
    }

    /// `some` says how much is kept of so much.
    fn keep(&mut self, some: &mut dyn FnMut(usize) -> usize) -> Taken {
        let mut taken = Taken::default();
        let kept = some(self.names.len());
        for undone in self.names.split_off(kept).into_iter().rev() {
            self.set_name(undone.dir, &undone.name, undone.before);
            taken.names += 1;
        }
        self.names.clear();
        for node in self.nodes.values_mut() {
            if let Node::File(file) = node {
                file.cut(some, &mut taken);
            }
        }
        taken
    }
}

impl File {
    /// Before `from..to` changes.
    fn remember(&mut self, from: usize, to: usize) {
        for sector in from / SECTOR..to.div_ceil(SECTOR) {
            let mut old = [0; SECTOR];
            let begin = (sector * SECTOR).min(self.bytes.len());
            let end = ((sector + 1) * SECTOR).min(self.bytes.len());
            old[..end - begin].copy_from_slice(&self.bytes[begin..end]);
            self.older.entry(sector).or_default().push(old);
        }
    }

    fn cut(&mut self, some: &mut dyn FnMut(usize) -> usize, taken: &mut Taken) {
        let (short, long) = (
            self.durable.min(self.bytes.len()),
            self.durable.max(self.bytes.len()),
        );
        let length = short + some(long - short);
        self.bytes.resize(long, 0);
        for (sector, older) in std::mem::take(&mut self.older) {
            taken.loose += 1;
            let version = some(older.len());
            let begin = sector * SECTOR;
            let end = (begin + SECTOR).min(self.bytes.len());
            if version < older.len() && begin < end {
                self.bytes[begin..end].copy_from_slice(&older[version][..end - begin]);
            }
            taken.lost += usize::from(version < older.len() || end > length);
        }
        self.bytes.truncate(length);
        self.durable = length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(disk: &Disk, name: &str) -> Option<Vec<u8>> {
        match disk.node(disk.child(ROOT, name)?)? {
            Node::File(file) => Some(file.bytes.clone()),
            Node::Dir(_) => None,
        }
    }

    #[test]
    fn what_was_synced_stays_and_the_rest_is_torn() {
        let mut torn = 0;
        for seed in 0..50 {
            let mut disk = Disk::default();
            let file = disk.make(ROOT, "a", Node::File(File::default()));
            disk.write(file, 0, &[1; 4 * SECTOR]);
            disk.sync(file);
            disk.write(file, SECTOR, &[2; 2 * SECTOR]);
            disk.write(file, 4 * SECTOR, &[3; SECTOR]);
            disk.cut(seed);
            let after = bytes(&disk, "a").unwrap();
            assert!(after.len() >= 4 * SECTOR && after.len() <= 5 * SECTOR);
            assert!(after[..SECTOR].iter().all(|byte| *byte == 1), "seed {seed}");
            assert!(after[3 * SECTOR..4 * SECTOR].iter().all(|byte| *byte == 1));
            let middle = [after[SECTOR], after[2 * SECTOR]];
            assert!(middle.iter().all(|byte| [1, 2].contains(byte)));
            torn += usize::from(middle[0] != middle[1]);
        }
        assert!(torn > 0, "one sector may be kept and the next lost");
    }

    #[test]
    fn names_are_durable_with_their_directory_or_their_file() {
        let mut gone = 0;
        for seed in 0..20 {
            let mut disk = Disk::default();
            let kept = disk.make(ROOT, "kept", Node::File(File::default()));
            disk.sync(kept);
            disk.make(ROOT, "also", Node::File(File::default()));
            disk.sync(ROOT);
            disk.make(ROOT, "loose", Node::File(File::default()));
            disk.name(ROOT, "kept", None);
            disk.cut(seed);
            assert!(bytes(&disk, "also").is_some());
            gone += usize::from(bytes(&disk, "loose").is_none());
            if bytes(&disk, "loose").is_none() {
                assert!(bytes(&disk, "kept").is_some(), "undone from the end");
            }
        }
        assert!(gone > 0 && gone < 20);
    }

    #[test]
    fn nothing_may_be_left_of_what_was_not_synced() {
        let mut disk = Disk::default();
        let file = disk.make(ROOT, "a", Node::File(File::default()));
        disk.write(file, 0, &[1; SECTOR]);
        disk.sync(file);
        disk.write(file, 0, &[2; SECTOR]);
        disk.write(file, 0, &[3; 2 * SECTOR]);
        disk.make(ROOT, "b", Node::File(File::default()));
        let taken = disk.lose();
        assert_eq!((taken.loose, taken.lost, taken.names), (2, 2, 1));
        assert_eq!(bytes(&disk, "a"), Some(vec![1; SECTOR]));
        assert_eq!(bytes(&disk, "b"), None);
    }

    #[test]
    fn a_disk_that_lies_loses_what_it_said_was_safe() {
        let lost = (0..20).any(|seed| {
            let mut disk = Disk {
                lies: true,
                ..Disk::default()
            };
            let file = disk.make(ROOT, "a", Node::File(File::default()));
            disk.write(file, 0, &[1; SECTOR]);
            disk.sync(file);
            disk.sync(ROOT);
            disk.cut(seed);
            bytes(&disk, "a") != Some(vec![1; SECTOR])
        });
        assert!(lost);
    }
}
