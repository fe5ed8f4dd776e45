//! Each check sees its breach, and a good run passes all of them.

use super::*;
use crate::history::{Final, Kept, Mark, Restored};

fn write(key: &str, times: (Time, Time), value: &str, outcome: Outcome) -> Operation {
    let action = match value.split_once('>') {
        Some((expected, value)) => Action::Update {
            expected: expected.into(),
            value: value.into(),
        },
        None => Action::Create {
            value: value.into(),
        },
    };
    let (server, key) = ("s".into(), key.into());
    Operation {
        server,
        key,
        action,
        invoked: times.0,
        returned: times.1,
        outcome,
    }
}

fn done(value: &str, revision: u64) -> Outcome {
    Outcome::Done {
        value: value.into(),
        revision,
    }
}

fn read(key: &str, times: (Time, Time), outcome: Outcome) -> Operation {
    Operation {
        action: Action::Read,
        ..write(key, times, "", outcome)
    }
}

fn good() -> History {
    let end = Final {
        key: "k".into(),
        values: vec!["a".into(), "b".into()],
    };
    History {
        operations: vec![
            write("k", (0, 1), "a", done("a", 10)),
            read("k", (2, 3), done("a", 10)),
            write("k", (4, 3_000_000), "a>b", done("b", 12)),
            write("k", (4, 6), "a>c", Outcome::Refused),
            read("k", (3_000_001, 3_000_002), done("b", 12)),
        ],
        marks: vec![Mark {
            at: 2,
            what: "kill".into(),
            fault: true,
        }],
        end: vec![end],
        restored: None,
    }
}

#[test]
fn a_good_run_passes() {
    let verdict = judge(&good());
    assert_eq!(verdict.wrong, [""; 0]);
    assert_eq!(
        (
            verdict.acknowledged,
            verdict.refused,
            verdict.lost,
            verdict.stale
        ),
        (2, 1, 0, 0)
    );
    assert_eq!(verdict.recoveries, [Some(2)]);
}

#[test]
fn each_check_sees_its_breach() {
    type Breach = fn(&mut History);
    let breaches: [(&str, Breach); 6] = [
        ("lost:", |h| h.end[0].values.truncate(1)),
        ("twice", |h| h.end[0].values.push("b".into())),
        ("refused, and yet it happened", |h| {
            h.end[0].values.push("c".into())
        }),
        ("stale", |h| h.operations[4].outcome = done("a", 10)),
        ("not linearizable", |h| {
            h.operations[4].outcome = Outcome::Absent
        }),
        ("was acknowledged before this began", |h| {
            h.operations[2].outcome = done("b", 9)
        }),
    ];
    for (expected, breach) in breaches {
        let mut history = good();
        breach(&mut history);
        let wrong = judge(&history).wrong;
        assert!(
            wrong.iter().any(|wrong| wrong.contains(expected)),
            "{expected}: {wrong:?}"
        );
    }
}

/// A backup at revision 11: `b` was given up, `d` was written after the restore.
fn brought_back() -> History {
    let mut history = good();
    let updated = ["a".to_owned(), "d".to_owned()];
    let again = [
        read("k", (4_000_001, 4_000_002), done("a", 10)),
        write("k", (4_000_003, 4_000_004), "a>d", done("d", 1_011)),
        read("k", (4_000_005, 4_000_006), done("d", 1_011)),
    ];
    history.operations.extend(again);
    history.end[0].values = updated.to_vec();
    history.restored = Some(Restored {
        at: 4_000_000,
        revision: 11,
        since: 1_011,
        objects: vec![Kept {
            key: "k".into(),
            values: vec!["a".into()],
            revision: 10,
        }],
    });
    history
}

#[test]
fn a_restore_gives_up_what_is_later_than_the_backup_and_nothing_else() {
    let verdict = judge(&brought_back());
    assert_eq!(verdict.wrong, [""; 0]);
    let figures = (verdict.acknowledged, verdict.given_up, verdict.lost);
    // The backup's own object counts as written.
    assert_eq!(figures, (4, 1, 0));

    type Breach = fn(&mut History);
    fn restored(history: &mut History) -> &mut Restored {
        history.restored.as_mut().unwrap()
    }
    let breaches: [(&str, Breach); 6] = [
        ("lost:", |h| restored(h).objects.clear()),
        ("later than the backup", |h| {
            restored(h).objects[0].values.push("b".into());
        }),
        ("lost:", |h| restored(h).revision = 13),
        ("later than the backup", |h| {
            restored(h).objects[0].revision = 12;
        }),
        ("stale", |h| h.operations[5].outcome = Outcome::Absent),
        ("and is", |h| h.end[0].values = vec!["d".into()]),
    ];
    for (expected, breach) in breaches {
        let mut history = brought_back();
        breach(&mut history);
        let wrong = judge(&history).wrong;
        assert!(
            wrong.iter().any(|wrong| wrong.contains(expected)),
            "{expected}: {wrong:?}"
        );
    }
}

#[test]
fn nobody_watches_on_over_a_restore() {
    use Seen::{Bookmark, Change, Listed};
    let history = brought_back();
    let told = |seen: &[Seen]| restored::told(seen, history.restored.as_ref().unwrap()).is_ok();
    assert!(told(&[
        Listed(10),
        Change(12),
        Listed(1_011),
        Change(1_012)
    ]));
    assert!(!told(&[Listed(10), Change(12), Change(1_012)]));
    assert!(!told(&[Listed(10), Bookmark(1_012)]));
    assert!(!told(&[Listed(10), Change(12)]));
}

#[test]
fn the_watch_contract() {
    use Seen::{Bookmark, Change, Listed};
    let truth = BTreeSet::from([3, 5, 8, 9]);
    let cases: [(&str, &[Seen]); 11] = [
        ("", &[]),
        ("", &[Listed(1), Change(3), Bookmark(3), Bookmark(4)]),
        (
            "",
            &[
                Listed(1),
                Change(3),
                Change(5),
                Bookmark(6),
                Change(8),
                Change(9),
            ],
        ),
        ("", &[Listed(1), Change(3), Listed(8), Change(9)]),
        ("", &[Listed(4), Change(5)]),
        ("revision 5 never came", &[Listed(1), Change(3), Change(8)]),
        (
            "revision 5 came after 5",
            &[Listed(1), Change(3), Change(5), Change(5)],
        ),
        (
            "revision 5 came after 8",
            &[Listed(5), Change(8), Change(5)],
        ),
        (
            "revision 5 never came before the bookmark",
            &[Listed(3), Bookmark(7)],
        ),
        ("a bookmark for 4", &[Listed(3), Change(5), Bookmark(4)]),
        (
            "listed revision 2 after 3",
            &[Listed(1), Change(3), Listed(2)],
        ),
    ];
    for (expected, seen) in cases {
        let found = watch_contract(seen, &truth).err().unwrap_or_default();
        assert!(
            found.starts_with(expected) && found.is_empty() == expected.is_empty(),
            "{seen:?}: {found:?}"
        );
    }
}
