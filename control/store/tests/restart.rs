//! What is acknowledged survives: restarts, kill -9, and damage is refused by name.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use caravel_api::{Encoded, Key, KeyRange, Revision};
use caravel_store::{Change, Expect, Limits, OpenError, Store, StoreConfig, Txn, WatchError};

fn config(dir: &Path) -> StoreConfig {
    StoreConfig::single(dir.join("data"), dir.join("keys"))
}

fn key(name: &str) -> Key {
    Key::from(format!("/registry/core/configmaps/default/{name}"))
}

fn put(name: &str, size: usize) -> Txn {
    let json = format!(
        r#"{{"metadata":{{"name":"{name}","uid":"uid-{name}"}},"data":"{}"}}"#,
        "x".repeat(size)
    );
    Txn::new().with(Change::Put {
        key: key(name),
        expect: Expect::Any,
        object: Encoded::new(json).unwrap(),
    })
}

fn contents(store: &Store) -> Vec<(String, u64, usize)> {
    store
        .snapshot()
        .list(&KeyRange::all())
        .map(|entry| (entry.key.to_string(), entry.revision.0, entry.json.len()))
        .collect()
}

#[tokio::test]
async fn a_restart_finds_everything_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    let mut identity = None;
    for round in 0..3 {
        let store = Store::open(config(dir.path())).await.unwrap();
        assert_eq!(contents(&store), expected, "round {round}");
        assert_eq!(*identity.get_or_insert(store.identity()), store.identity());
        let before = store.snapshot().revision();
        for n in 0..20 {
            store
                .commit(put(
                    &format!("n{n}"),
                    if n == 7 { 300_000 } else { 100 * round + n },
                ))
                .await
                .unwrap();
        }
        store
            .commit(Txn::new().with(Change::Delete {
                key: key("n3"),
                expect: Expect::Any,
            }))
            .await
            .unwrap();
        assert_eq!(store.snapshot().revision(), Revision(before.0 + 21));
        assert!(store.snapshot().by_uid("uid-n7").unwrap().json.len() > 300_000);
        expected = contents(&store);
        store.shutdown().await;
    }
    // The past before the restart is gone, and said to be.
    let store = Store::open(config(dir.path())).await.unwrap();
    assert!(matches!(
        store.watch(KeyRange::all(), Revision(1)).await,
        Err(WatchError::Gone)
    ));
    assert!(
        store
            .watch(KeyRange::all(), store.snapshot().revision())
            .await
            .is_ok()
    );
    store.shutdown().await;
}

#[tokio::test]
async fn the_log_is_purged_and_the_state_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        log_entries: 20,
        snapshot_every: 50,
        tail_bytes: 4_000,
        ..Limits::default()
    };
    let store = Store::open(StoreConfig {
        limits,
        ..config(dir.path())
    })
    .await
    .unwrap();
    for n in 0..2_000 {
        store
            .commit(put(&format!("n{}", n % 300), 50))
            .await
            .unwrap();
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while store.status().log_bytes > 1_000_000 && tokio::time::Instant::now() < deadline {
        tokio::task::yield_now().await;
    }
    assert!(store.status().log_bytes < 1_000_000, "{:?}", store.status());
    let expected = contents(&store);
    assert_eq!(expected.len(), 300);
    store.shutdown().await;
    let store = Store::open(StoreConfig {
        limits,
        ..config(dir.path())
    })
    .await
    .unwrap();
    assert_eq!(contents(&store), expected);
    store.shutdown().await;
}

/// Not a test by itself: the process that the next test kills.
#[tokio::test]
async fn writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os("CARAVEL_STORE_TEST_DIR") else {
        return;
    };
    let limits = Limits {
        log_entries: 100,
        snapshot_every: 200,
        ..Limits::default()
    };
    let store = Store::open(StoreConfig {
        limits,
        ..config(Path::new(&dir))
    })
    .await
    .unwrap();
    let start = store.snapshot().revision().0;
    let writers = (0..8_u64).map(|writer| {
        let store = store.clone();
        async move {
            for n in 0_u64.. {
                let size = if n % 50 == 3 { 150_000 } else { 200 };
                let committed = store
                    .commit(put(&format!("w{writer}-{start}-{}", n % 40), size))
                    .await
                    .unwrap();
                // Only what is acknowledged is told.
                let line = format!(
                    "acknowledged w{writer}-{start}-{} {} .\n",
                    n % 40,
                    committed.revision
                );
                std::io::stderr().write_all(line.as_bytes()).unwrap();
            }
        }
    });
    futures::future::join_all(writers).await;
}

#[tokio::test]
async fn kill_minus_nine_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = std::collections::BTreeMap::<String, u64>::new();
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writes_until_it_is_killed", "--nocapture"])
            .env("CARAVEL_STORE_TEST_DIR", dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines {
            let line = line.unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            // The last line may be cut.
            let ["acknowledged", name, revision, "."] = words[..] else {
                continue;
            };
            acknowledged.insert(name.to_owned(), revision.parse().unwrap());
            seen += 1;
            if seen == 60 + 47 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let store = Store::open(config(dir.path())).await.unwrap();
        let snapshot = store.snapshot();
        for (name, revision) in &acknowledged {
            let found = snapshot
                .entry(&key(name))
                .unwrap_or_else(|| panic!("{name} is lost in round {round}"));
            assert!(
                found.revision.0 >= *revision,
                "{name}: {} < {revision}",
                found.revision
            );
        }
        store.shutdown().await;
    }
    assert!(acknowledged.len() > 50);
}

async fn refused(dir: &Path, what: &str) -> OpenError {
    match Store::open(config(dir)).await {
        Ok(_) => panic!("{what}: it was opened"),
        Err(error) => error,
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn damage_is_refused_and_named() {
    let origin = tempfile::tempdir().unwrap();
    let store = Store::open(config(origin.path())).await.unwrap();
    for n in 0..150 {
        store.commit(put(&format!("n{n}"), 700)).await.unwrap();
    }
    let expected = contents(&store);
    store.shutdown().await;

    let zeroed = |path: &Path, at: u64, length: usize| {
        use std::os::unix::fs::FileExt;
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&vec![0xa5; length], at).unwrap();
    };
    type Harm<'a> = Box<dyn Fn(&Path) + 'a>;
    let cases: Vec<(&str, &str, Harm)> = vec![
        (
            "no database",
            "sled",
            Box::new(|data| fs::remove_dir_all(data.join("sled")).unwrap()),
        ),
        (
            "no guard",
            "guard",
            Box::new(|data| fs::remove_file(data.join("guard")).unwrap()),
        ),
        (
            "a guard of nothing",
            "guard",
            Box::new(|data| fs::write(data.join("guard"), b"").unwrap()),
        ),
        (
            "a guard of zeros",
            "guard",
            Box::new(|data| fs::write(data.join("guard"), vec![0; 8192]).unwrap()),
        ),
        (
            "an emptied database",
            "sled",
            Box::new(|data| {
                fs::remove_dir_all(data.join("sled")).unwrap();
                fs::create_dir(data.join("sled")).unwrap();
            }),
        ),
        (
            "the database cut to half",
            "sled",
            Box::new(|data| {
                let file = fs::OpenOptions::new()
                    .write(true)
                    .open(data.join("sled/db"))
                    .unwrap();
                file.set_len(file.metadata().unwrap().len() / 2).unwrap();
                for name in fs::read_dir(data.join("sled")).unwrap() {
                    let path = name.unwrap().path();
                    if path
                        .file_name()
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .starts_with("snap")
                    {
                        fs::remove_file(path).unwrap();
                    }
                }
            }),
        ),
    ];
    for (name, file, harm) in cases {
        let dir = tempfile::tempdir().unwrap();
        copy(origin.path(), dir.path());
        harm(&dir.path().join("data"));
        let error = refused(dir.path(), name).await;
        let text = error.to_string();
        assert!(matches!(error, OpenError::Damaged { .. }), "{name}: {text}");
        assert!(
            text.contains(&format!("data/{file}")) && text.contains("restore a backup"),
            "{name}: {text}"
        );
    }

    // Wherever bytes are overwritten: either it is noticed, or nothing that was acknowledged is missing.
    let length = fs::metadata(origin.path().join("data/sled/db"))
        .unwrap()
        .len();
    let mut noticed = 0;
    for step in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        copy(origin.path(), dir.path());
        let at = length * step / 12;
        zeroed(&dir.path().join("data/sled/db"), at + 777, 300);
        match Store::open(config(dir.path())).await {
            Ok(store) => {
                assert_eq!(contents(&store), expected, "damage at {at} was served");
                store.shutdown().await;
            }
            Err(error) => {
                noticed += 1;
                assert!(error.to_string().contains("data/sled"), "at {at}: {error}");
            }
        }
    }
    assert!(noticed > 0, "no damage hit anything");
}

#[tokio::test]
async fn keys_and_identity_must_be_the_right_ones() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(dir.path())).await.unwrap();
    store.commit(put("a", 10)).await.unwrap();
    store.shutdown().await;
    let raw = fs::read(dir.path().join("data/sled/db")).unwrap();
    assert!(
        !raw.windows(9).any(|window| window == b"xxxxxxxxx"),
        "an object lies on the disk unsealed"
    );

    let foreign = Store::open(StoreConfig {
        cluster: Some(7),
        ..config(dir.path())
    })
    .await;
    assert!(
        matches!(foreign, Err(OpenError::Config(text)) if text.contains("belongs to another cluster"))
    );
    let renumbered = Store::open(StoreConfig {
        node_id: 2,
        ..config(dir.path())
    });
    let renumbered = renumbered.await.unwrap();
    assert_eq!(renumbered.identity().node, 1, "a disk keeps its number");
    renumbered.shutdown().await;
    let inside = Store::open(StoreConfig::single(
        dir.path().join("d2"),
        dir.path().join("d2/keys"),
    ))
    .await;
    assert!(matches!(inside, Err(OpenError::Config(_))));

    let keys = dir.path().join("keys");
    fs::rename(&keys, dir.path().join("kept")).unwrap();
    assert!(matches!(
        refused(dir.path(), "other keys").await,
        OpenError::Keys(_)
    ));
    fs::create_dir(&keys).unwrap();
    fs::write(keys.join("store-1.key"), [7; 32]).unwrap();
    fs::set_permissions(
        keys.join("store-1.key"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    let text = refused(dir.path(), "other keys").await.to_string();
    assert!(text.contains("keys in"), "{text}");
    fs::remove_dir_all(&keys).unwrap();
    fs::rename(dir.path().join("kept"), &keys).unwrap();
    let store = Store::open(config(dir.path())).await.unwrap();
    assert_eq!(contents(&store).len(), 1);
    store.shutdown().await;
}
