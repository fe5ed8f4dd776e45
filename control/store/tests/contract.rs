//! What the store promises to everybody, on disk and in memory alike.

use std::collections::BTreeMap;
use std::time::Duration;

use caravel_api::{Encoded, Key, KeyRange, Revision};
use caravel_store::{
    BackendKind, Change, CommitError, Epoch, EventKind, Expect, Gone, Limits, MAX_OBJECT,
    RingLimits, Store, StoreConfig, Txn, Watch, WatchError, WatchItem,
};
use tokio::time::{Instant, timeout};

fn key(name: &str) -> Key {
    Key::from(format!("/registry/core/configmaps/default/{name}"))
}

fn object(name: &str, extra: &str) -> Encoded {
    Encoded::new(format!(r#"{{"metadata":{{"name":"{name}","namespace":"default","uid":"uid-{name}"}},"data":{{"x":"{extra}"}}}}"#)).unwrap()
}

fn put(name: &str, expect: Expect, extra: &str) -> Change {
    Change::Put {
        key: key(name),
        expect,
        object: object(name, extra),
    }
}

fn one(change: Change) -> Txn {
    Txn::new().with(change)
}

/// Runs `test` on a store in memory and on one on disk.
async fn on_each(config: impl Fn(StoreConfig) -> StoreConfig, test: impl AsyncFn(Store)) {
    let dir = tempfile::tempdir().unwrap();
    for backend in [BackendKind::Memory, BackendKind::Sled] {
        let base = StoreConfig {
            backend,
            ..StoreConfig::single(dir.path().join("data"), dir.path().join("keys"))
        };
        let store = Store::open(config(base)).await.unwrap();
        test(store.clone()).await;
        store.shutdown().await;
    }
}

async fn next(watch: &mut Watch) -> WatchItem {
    timeout(Duration::from_secs(10), watch.next())
        .await
        .expect("an item within the deadline")
        .expect("not gone")
}

async fn next_event(watch: &mut Watch) -> (EventKind, String, u64) {
    loop {
        if let WatchItem::Event(event) = next(watch).await {
            return (event.kind, event.entry.meta.name.clone(), event.revision.0);
        }
    }
}

#[tokio::test]
async fn each_changed_object_has_a_revision_of_its_own() {
    on_each(std::convert::identity, async |store| {
        let base = store.snapshot().revision().0;
        let txn = Txn::new()
            .with(put("a", Expect::Absent, "1"))
            .with(put("b", Expect::Any, "1"))
            .with(Change::Check {
                key: key("c"),
                expect: Expect::Absent,
            });
        let committed = store.commit(txn).await.unwrap();
        assert_eq!(
            committed.revisions,
            [Revision(base + 1), Revision(base + 2), Revision(0)]
        );
        assert_eq!(committed.revision, Revision(base + 2));
        let snapshot = store.snapshot();
        let a = snapshot.entry(&key("a")).unwrap();
        assert_eq!(a.revision, Revision(base + 1));
        let json = String::from_utf8(a.json.to_vec()).unwrap();
        assert!(
            json.contains(&format!(r#""resourceVersion":"{}""#, base + 1)),
            "{json}"
        );
        assert_eq!(snapshot.by_uid("uid-b").unwrap().key, key("b"));
        assert_eq!(
            snapshot.count(&KeyRange::prefix("/registry/core/configmaps/")),
            2
        );

        // A snapshot does not change.
        store
            .commit(one(Change::Delete {
                key: key("a"),
                expect: Expect::At(Revision(base + 1)),
            }))
            .await
            .unwrap();
        assert!(snapshot.entry(&key("a")).is_some());
        assert!(store.snapshot().entry(&key("a")).is_none());
        assert!(
            store
                .fresh_snapshot()
                .await
                .unwrap()
                .by_uid("uid-a")
                .is_none()
        );
    })
    .await;
}

#[tokio::test]
async fn a_transaction_happens_whole_or_not_at_all() {
    on_each(std::convert::identity, async |store| {
        let first = store
            .commit(one(put("a", Expect::Absent, "1")))
            .await
            .unwrap()
            .revision;
        let at = |revision| Expect::At(Revision(revision));
        for (expect, refused) in [
            (Expect::Absent, true),
            (at(first.0 + 5), true),
            (at(0), true),
        ] {
            let txn = Txn::new()
                .with(put("new", Expect::Absent, "1"))
                .with(Change::Check {
                    key: key("a"),
                    expect,
                });
            let result = store.commit(txn.clone()).await;
            assert_eq!(
                result,
                Err(CommitError::Conflict(key("a"), first)),
                "{expect:?}"
            );
            assert_eq!(store.check(&txn).is_err(), refused);
            assert!(store.snapshot().entry(&key("new")).is_none());
        }
        assert_eq!(
            store.commit(one(put("b", at(7), "1"))).await,
            Err(CommitError::Conflict(key("b"), Revision(0)))
        );
        assert_eq!(store.snapshot().revision(), first);
        // Deleting what is not there changes nothing.
        let nothing = store
            .commit(one(Change::Delete {
                key: key("b"),
                expect: Expect::Any,
            }))
            .await
            .unwrap();
        assert_eq!(
            (nothing.revision, nothing.revisions),
            (first, vec![Revision(0)])
        );
        let too_large = store
            .commit(one(put("big", Expect::Any, &"x".repeat(MAX_OBJECT))))
            .await;
        assert_eq!(too_large, Err(CommitError::TooLarge));
        // Just below the limit is kept, in pieces.
        store
            .commit(one(put("big", Expect::Any, &"x".repeat(MAX_OBJECT - 200))))
            .await
            .unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_watch_sees_every_change_once_and_in_order() {
    on_each(std::convert::identity, async |store| {
        let start = store.snapshot().revision();
        let mut pods = store
            .watch(KeyRange::prefix("/registry/core/pods/"), start)
            .await
            .unwrap();
        let mut all = store.watch(KeyRange::all(), start).await.unwrap();
        let mut single = store.watch(KeyRange::one(&key("b")), start).await.unwrap();
        let mut range = store
            .watch(
                KeyRange::prefix("/registry/core/configmaps/default/"),
                start,
            )
            .await
            .unwrap();
        let base = start.0;
        store
            .commit(Txn::new().with(put("a", Expect::Absent, "1")).with(put(
                "b",
                Expect::Absent,
                "1",
            )))
            .await
            .unwrap();
        store.commit(one(put("a", Expect::Any, "2"))).await.unwrap();
        store
            .commit(one(Change::Delete {
                key: key("b"),
                expect: Expect::Any,
            }))
            .await
            .unwrap();
        let expected = [
            (EventKind::Added, "a".to_owned(), base + 1),
            (EventKind::Added, "b".to_owned(), base + 2),
            (EventKind::Modified, "a".to_owned(), base + 3),
            (EventKind::Deleted, "b".to_owned(), base + 4),
        ];
        for event in &expected {
            assert_eq!(next_event(&mut range).await, *event);
            assert_eq!(next_event(&mut all).await, *event);
        }
        assert_eq!(next_event(&mut single).await, expected[1]);
        let WatchItem::Event(deleted) = next(&mut single).await else {
            panic!("an event")
        };
        let frame = String::from_utf8(deleted.frame().to_vec()).unwrap();
        assert!(
            frame.starts_with(r#"{"type":"DELETED","object":{"#) && frame.ends_with("}\n"),
            "{frame}"
        );
        assert!(
            frame.contains(&format!(r#""resourceVersion":"{}""#, base + 4)),
            "{frame}"
        );
        assert_eq!(
            deleted.previous.as_ref().unwrap().revision,
            Revision(base + 2)
        );
        // Encoded once for everybody.
        assert_eq!(deleted.frame().as_ptr(), deleted.frame().as_ptr());
        // From the middle of the past.
        let mut late = store
            .watch(
                KeyRange::prefix("/registry/core/configmaps/"),
                Revision(base + 2),
            )
            .await
            .unwrap();
        assert_eq!(next_event(&mut late).await, expected[2]);
        assert_eq!(late.progress(), Revision(base + 3));
        // Nothing of another kind.
        assert!(pods.try_next().unwrap().is_none());
        assert_eq!(pods.progress(), Revision(base + 4));
    })
    .await;
}

#[tokio::test]
async fn a_watch_that_falls_behind_is_told() {
    let small = |config: StoreConfig| StoreConfig {
        rings: RingLimits {
            bytes: 20_000,
            ..RingLimits::default()
        },
        ..config
    };
    on_each(small, async |store| {
        let start = store.snapshot().revision();
        let maps = KeyRange::prefix("/registry/core/configmaps/");
        let mut slow = store.watch(maps.clone(), start).await.unwrap();
        let mut slow_on_all = store.watch(KeyRange::all(), start).await.unwrap();
        let mut quiet = store
            .watch(KeyRange::prefix("/registry/core/pods/"), start)
            .await
            .unwrap();
        for round in 0..50 {
            store
                .commit(one(put(
                    "a",
                    Expect::Any,
                    &format!("{round}{}", "x".repeat(500)),
                )))
                .await
                .unwrap();
        }
        assert!(matches!(slow.next().await, Err(Gone)));
        assert!(matches!(slow.next().await, Err(Gone)));
        assert!(matches!(slow_on_all.next().await, Err(Gone)));
        assert!(matches!(
            store.watch(maps.clone(), start).await,
            Err(WatchError::Gone)
        ));
        // A busy kind takes nothing from a quiet one.
        assert!(quiet.try_next().unwrap().is_none());
        let now = store.snapshot().revision();
        let mut fresh = store.watch(maps, now).await.unwrap();
        store
            .commit(one(put("a", Expect::Any, "last")))
            .await
            .unwrap();
        assert_eq!(next_event(&mut fresh).await.2, now.0 + 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn idle_watches_report_how_far_they_are() {
    let store = Store::memory().await.unwrap();
    let mut watch = store
        .watch(
            KeyRange::prefix("/registry/core/pods/"),
            store.snapshot().revision(),
        )
        .await
        .unwrap();
    let committed = store.commit(one(put("a", Expect::Any, "1"))).await.unwrap();
    let before = Instant::now();
    let WatchItem::Progress(revision) = watch.next().await.unwrap() else {
        panic!("a bookmark")
    };
    assert_eq!(revision, committed.revision);
    assert!(before.elapsed() >= Duration::from_secs(59));
}

#[tokio::test(start_paused = true)]
async fn the_future_is_waited_for_a_little() {
    let store = Store::memory().await.unwrap();
    let ahead = Revision(store.snapshot().revision().0 + 1);
    let maps = KeyRange::prefix("/registry/core/configmaps/");
    assert!(matches!(
        store.watch(maps.clone(), ahead).await,
        Err(WatchError::NotYet)
    ));
    let late = store
        .at_least(ahead, Instant::now() + Duration::from_secs(3))
        .await
        .unwrap_err();
    assert_eq!(
        late.to_string(),
        format!(
            "Too large resource version: {}, current: {}",
            ahead,
            ahead.0 - 1
        )
    );
    let (watch, _) = tokio::join!(
        store.watch(maps, ahead),
        store.commit(one(put("a", Expect::Any, "1")))
    );
    assert!(watch.is_ok());
}

#[tokio::test]
async fn only_the_reigning_leader_writes_under_its_epoch() {
    on_each(std::convert::identity, async |store| {
        let epoch = store.leadership().borrow().unwrap();
        store
            .commit_under(epoch, one(put("a", Expect::Any, "1")))
            .await
            .unwrap();
        for other in [
            Epoch {
                term: epoch.term + 1,
                ..epoch
            },
            Epoch { term: 0, ..epoch },
            Epoch { node: 9, ..epoch },
        ] {
            assert_eq!(
                store
                    .commit_under(other, one(put("a", Expect::Any, "2")))
                    .await,
                Err(CommitError::Deposed)
            );
        }
    })
    .await;
}

#[tokio::test]
async fn too_many_writes_are_refused_and_leave_room_again() {
    let narrow = |config: StoreConfig| StoreConfig {
        limits: Limits {
            proposals: 8,
            ..Limits::default()
        },
        ..config
    };
    on_each(narrow, async |store| {
        let names: Vec<String> = (0..64).map(|n| format!("n{n}")).collect();
        let results = futures::future::join_all(
            names
                .iter()
                .map(|name| store.commit(one(put(name, Expect::Any, "1")))),
        )
        .await;
        let refused = results
            .iter()
            .filter(|result| **result == Err(CommitError::Busy))
            .count();
        assert_eq!(refused, 64 - 8);
        assert_eq!(store.snapshot().count(&KeyRange::all()), 8);
        store
            .commit(one(put("later", Expect::Any, "1")))
            .await
            .unwrap();
    })
    .await;
}

#[tokio::test]
async fn many_writers_agree_on_one_order() {
    on_each(std::convert::identity, async |store| {
        let start = store.snapshot().revision();
        let mut watch = store.watch(KeyRange::all(), start).await.unwrap();
        let names: Vec<String> = (0..20).map(|n| format!("n{n}")).collect();
        let writers = names.iter().map(|name| async {
            let mut revisions = Vec::new();
            for round in 0..20 {
                revisions.push(
                    store
                        .commit(one(put(name, Expect::Any, &round.to_string())))
                        .await
                        .unwrap()
                        .revision,
                );
            }
            revisions
        });
        let written = futures::future::join_all(writers).await;
        let mut seen: BTreeMap<String, Vec<Revision>> = BTreeMap::new();
        let mut last = start;
        for _ in 0..400 {
            let (_, name, revision) = next_event(&mut watch).await;
            assert_eq!(revision, last.0 + 1);
            last = Revision(revision);
            seen.entry(name).or_default().push(Revision(revision));
        }
        for (name, revisions) in names.iter().zip(written) {
            assert_eq!(seen[name], revisions);
        }
    })
    .await;
}

#[tokio::test]
async fn owners_and_nodes_are_found_across_kinds() {
    let store = Store::memory().await.unwrap();
    let pod = |node: &str, owner: &str| {
        Encoded::new(format!(
            r#"{{"metadata":{{"name":"p","namespace":"default","uid":"pod","ownerReferences":[{{"apiVersion":"v1","kind":"X","name":"x","uid":"{owner}"}}]}},"spec":{{"nodeName":"{node}"}}}}"#
        ))
        .unwrap()
    };
    let key = Key::from("/registry/core/pods/default/p");
    for (node, owner) in [("n1", "o1"), ("n2", "o1"), ("n2", "o2")] {
        store
            .commit(one(Change::Put {
                key: key.clone(),
                expect: Expect::Any,
                object: pod(node, owner),
            }))
            .await
            .unwrap();
        let snapshot = store.snapshot();
        for candidate in ["n1", "n2"] {
            assert_eq!(
                snapshot.on_node(candidate).count(),
                usize::from(candidate == node)
            );
        }
        for candidate in ["o1", "o2"] {
            assert_eq!(
                snapshot.owned_by(candidate).count(),
                usize::from(candidate == owner)
            );
        }
    }
    store
        .commit(one(Change::Delete {
            key,
            expect: Expect::Any,
        }))
        .await
        .unwrap();
    let snapshot = store.snapshot();
    assert_eq!(
        snapshot.on_node("n2").count() + snapshot.owned_by("o2").count(),
        0
    );
}
