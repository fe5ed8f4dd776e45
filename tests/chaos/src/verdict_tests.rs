//! Each check sees its breach, and a good run passes all of them.

use super::*;
use crate::history::{Final, Mark};

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
