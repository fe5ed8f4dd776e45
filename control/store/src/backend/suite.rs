//! What every disk must do, run on the real one and on its fake.

use std::io;
use std::path::Path;

use caravel_api::Key;

use super::Backend;
use super::memory::MemoryDisk;
use super::sled::SledBackend;
use crate::simulation::Disk;

fn on_each(test: impl Fn(&mut dyn FnMut() -> Box<dyn Backend>)) {
    let disk = MemoryDisk::default();
    test(&mut || Box::new(disk.clone()));
    let simulated = Disk::new();
    test(&mut || Box::new(simulated.powered()));
    let dir = tempfile::tempdir().unwrap();
    let open = |path: &Path| SledBackend::open(&path.join("db"), 1 << 20).unwrap();
    test(&mut || Box::new(open(dir.path())));
}

fn log(backend: &mut dyn Backend) -> Vec<(u64, usize)> {
    let mut found = Vec::new();
    backend
        .scan_log(&mut |index, record| {
            assert!(record.iter().all(|byte| u64::from(*byte) == index % 251));
            found.push((index, record.len()));
            Ok(())
        })
        .unwrap();
    found
}

fn record(index: u64, length: usize) -> (u64, Vec<u8>) {
    (index, vec![(index % 251) as u8; length])
}

#[test]
fn the_log_keeps_its_order_and_its_long_records() {
    on_each(|open| {
        let mut backend = open();
        backend
            .append(vec![
                record(1, 10),
                record(2, 0),
                record(3, 65_536),
                record(4, 65_537),
                record(5, 700_000),
            ])
            .unwrap();
        backend.append(vec![record(6, 131_072)]).unwrap();
        backend.flush().unwrap();
        let all = [
            (1, 10),
            (2, 0),
            (3, 65_536),
            (4, 65_537),
            (5, 700_000),
            (6, 131_072),
        ];
        assert_eq!(log(&mut *backend), all);
        drop(backend);
        let mut backend = open();
        assert_eq!(log(&mut *backend), all);
        assert_eq!(backend.read_log(3, 6).unwrap().len(), 3);
        backend.truncate(5).unwrap();
        assert_eq!(log(&mut *backend), all[..4]);
        backend.append(vec![record(5, 1)]).unwrap();
        while !backend.purge(4, 1).unwrap() {}
        assert_eq!(log(&mut *backend), [(4, 65_537), (5, 1)]);
        assert!(backend.purge(4, 10).unwrap());
    });
}

#[test]
fn objects_change_together_with_what_was_applied() {
    on_each(|open| {
        let mut backend = open();
        let objects = |backend: &mut dyn Backend| {
            let mut found = Vec::new();
            backend
                .scan_state(7, &mut |key, record| {
                    found.push((key.to_string(), record.len()));
                    io::Result::Ok(())
                })
                .unwrap();
            found
        };
        let key = |name: &str| Key::from(format!("/registry/core/pods/a/{name}"));
        let put = |name: &str, length: usize| (key(name), Some(vec![1; length]));
        backend
            .state(
                7,
                vec![put("a", 5), put("a-b", 200_000), put("b", 1)],
                Some(b"one"),
            )
            .unwrap();
        backend.state(8, vec![put("z", 5)], None).unwrap();
        backend.flush().unwrap();
        drop(backend);
        let mut backend = open();
        let name = |name: &str| key(name).to_string();
        assert_eq!(
            objects(&mut *backend),
            [(name("a"), 5), (name("a-b"), 200_000), (name("b"), 1)]
        );
        assert_eq!(backend.applied(7).unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(backend.applied(8).unwrap(), None);
        backend
            .state(7, vec![put("a-b", 70_000), (key("b"), None)], Some(b"two"))
            .unwrap();
        assert_eq!(
            objects(&mut *backend),
            [(name("a"), 5), (name("a-b"), 70_000)]
        );
        backend
            .state(7, vec![(key("a-b"), None), put("a", 6)], None)
            .unwrap();
        assert_eq!(objects(&mut *backend), [(name("a"), 6)]);
        assert_eq!(backend.applied(7).unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(backend.generations().unwrap(), [7, 8]);
        while !backend.drop_state(8, 1).unwrap() {}
        assert_eq!(backend.generations().unwrap(), [7]);
    });
}

#[test]
fn meta_is_a_small_map() {
    on_each(|open| {
        let mut backend = open();
        backend.put_meta("vote", b"1").unwrap();
        backend.put_meta("vote", b"2").unwrap();
        backend.put_meta("other", b"").unwrap();
        backend.flush().unwrap();
        drop(backend);
        let meta = open().meta().unwrap();
        assert_eq!(meta.get("vote").map(Vec::as_slice), Some(&b"2"[..]));
        assert_eq!(meta.len(), 2);
    });
}

#[test]
fn the_fake_forgets_what_was_not_flushed() {
    let disk = MemoryDisk::careful();
    let mut backend = disk.clone();
    backend.append(vec![record(1, 1)]).unwrap();
    backend.flush().unwrap();
    backend.append(vec![record(2, 1)]).unwrap();
    assert_eq!(log(&mut disk.power_cut()), [(1, 1)]);
    disk.fail("no space");
    assert!(backend.append(vec![record(3, 1)]).is_err());
}
