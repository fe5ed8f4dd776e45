//! Histories made by hand, good and bad. One operation a line: BEGIN END WHAT, where WHAT is `+v` (create), `a>b` (update),
//! `=v` (read), `=-` (read: absent); `?` after it: outcome unknown; `!` after it: conflict; `~`: refused; `0`: absent.

use super::{Violation, check};
use crate::history::{Action, Operation, Outcome};

fn parse(text: &str) -> Vec<Operation> {
    let operation = |line: &str| {
        let [invoked, returned, what] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let body = what.trim_end_matches(['?', '!', '~', '0']);
        let action = match (body.strip_prefix('+'), body.split_once('>')) {
            (Some(value), _) => Action::Create {
                value: value.into(),
            },
            (_, Some((expected, value))) => Action::Update {
                expected: expected.into(),
                value: value.into(),
            },
            _ => Action::Read,
        };
        let value = body
            .trim_start_matches(['+', '='])
            .rsplit('>')
            .next()
            .unwrap();
        let outcome = match what.chars().last() {
            Some('?') => Outcome::Unknown,
            Some('!') => Outcome::Conflict,
            Some('~') => Outcome::Refused,
            Some('0') => Outcome::Absent,
            _ if value == "-" => Outcome::Absent,
            _ => Outcome::Done {
                value: value.into(),
                revision: 0,
            },
        };
        Operation {
            server: "s".into(),
            key: "k".into(),
            action,
            invoked: invoked.parse().unwrap(),
            returned: returned.parse().unwrap(),
            outcome,
        }
    };
    text.lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .map(operation)
        .collect()
}

#[test]
fn good_histories_are_accepted() {
    for (name, text) in [
        ("nothing", ""),
        (
            "one after another",
            "0 1 =-\n2 3 +a\n4 5 =a\n6 7 a>b\n8 9 =b",
        ),
        (
            "a read beside a write sees either",
            "0 1 +a\n2 9 a>b\n3 4 =a\n5 6 =b",
        ),
        (
            "of two writers one wins, the other is told",
            "0 1 +a\n2 9 a>b\n2 9 a>c!\n10 11 =b",
        ),
        (
            "a conflict may be answered before the winner is",
            "0 1 +a\n2 4 a>c!\n2 9 a>b",
        ),
        ("two creates", "0 5 +a\n0 5 +b!\n6 7 =a"),
        (
            "an unknown write that never happens",
            "0 1 +a\n2 3 a>b?\n4 5 =a\n6 7 a>c\n8 9 =c",
        ),
        (
            "an unknown write that happens late",
            "0 1 +a\n2 3 a>b?\n4 5 =a\n6 7 =b\n8 9 b>c",
        ),
        (
            "an unknown write seen only by its successor",
            "0 1 +a\n2 3 a>b?\n4 5 b>c\n6 7 =c",
        ),
        ("an unknown create", "0 1 +a?\n2 3 =-\n4 5 +b!\n6 7 =a"),
        ("a refused write", "0 1 +a\n2 3 a>b~\n4 5 =a"),
        ("an update of nothing", "0 1 a>b0\n2 3 +c"),
        (
            "at the same instant everything is concurrent",
            "0 1 +a\n1 2 =-",
        ),
        ("unknown reads say nothing", "0 1 +a\n2 3 =zz?\n4 5 =a"),
        (
            "many at once",
            "0 9 +a\n0 9 a>b\n0 9 b>c\n0 9 c>d\n0 9 =b\n0 9 =d\n0 9 a>x!\n0 9 =-",
        ),
    ] {
        assert_eq!(check(&parse(text)), Ok(()), "{name}");
    }
}

#[test]
fn bad_histories_are_rejected_at_the_answer_that_is_wrong() {
    for (name, wrong, text) in [
        ("a stale read", 2, "0 1 +a\n2 3 a>b\n4 5 =a"),
        ("an acknowledged create is gone", 1, "0 1 +a\n2 3 =-"),
        (
            "an acknowledged update is gone",
            3,
            "0 1 +a\n2 3 a>b\n4 5 =b\n6 7 =a",
        ),
        (
            "two writers both win",
            1,
            "0 1 +a\n2 9 a>b\n3 10 a>c\n11 12 =c",
        ),
        ("one write wins twice", 2, "0 1 +a\n2 3 a>b\n4 5 a>c"),
        (
            "time goes back between two reads",
            3,
            "0 1 +a\n2 20 a>b\n3 4 =b\n5 6 =a",
        ),
        ("a read from the future", 1, "0 1 +a\n2 3 =b\n4 5 a>b"),
        ("a refused write happened", 2, "0 1 +a\n2 3 a>b~\n4 5 =b"),
        (
            "a write that conflicted happened",
            1,
            "0 1 +a\n2 3 a>b!\n4 5 =b",
        ),
        ("a conflict with nobody", 1, "0 1 +a\n2 3 a>b!\n4 5 =a"),
        ("a create that conflicts with nothing", 0, "0 1 +a!\n2 3 =-"),
        (
            "an unknown write happened before it was sent",
            1,
            "0 1 +a\n2 3 =b\n4 5 a>b?",
        ),
        (
            "an unknown write happened twice",
            4,
            "0 1 +a\n2 3 a>b?\n4 5 =b\n6 7 b>a2\n8 9 =b",
        ),
        (
            "an unknown write happened and then not",
            3,
            "0 1 +a\n2 3 a>b?\n4 5 =b\n6 7 =a",
        ),
        ("a value from nowhere", 1, "0 1 +a\n2 3 =z"),
    ] {
        let operations = parse(text);
        let found = check(&operations);
        let expected = Err(Violation::None(Box::new(operations[wrong].clone())));
        assert_eq!(found, expected, "{name}");
    }
}

/// Every order of answers of a few concurrent operations, judged by trying all orders.
#[test]
fn agrees_with_trying_every_order() {
    use rand::{Rng as _, SeedableRng as _};
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..4000 {
        let count = random.random_range(2..6);
        let lines: Vec<String> = (0..count)
            .map(|i| {
                let begin = random.random_range(0..8);
                let end = begin + random.random_range(0..6);
                let value = |n: u32| ["a", "b", "c", "d", "e", "f"][n as usize];
                let what = match random.random_range(0..4) {
                    0 => format!("+{}", value(i)),
                    1 => format!("{}>{}", value(random.random_range(0..count)), value(i)),
                    2 => format!("={}", value(random.random_range(0..count))),
                    _ => "=-".to_owned(),
                };
                let suffix = match (what.starts_with('='), random.random_range(0..6)) {
                    (false, 0) => "?",
                    (false, 1) => "!",
                    _ => "",
                };
                format!("{begin} {end} {what}{suffix}")
            })
            .collect();
        let operations = parse(&lines.join("\n"));
        let expected = brute(&operations, &mut vec![], None);
        assert_eq!(check(&operations).is_ok(), expected, "{lines:#?}");
        if expected { good += 1 } else { bad += 1 }
    }
    assert!(good > 300 && bad > 300, "{good} good, {bad} bad");
}

fn brute(operations: &[Operation], done: &mut Vec<usize>, state: Option<&str>) -> bool {
    let open: Vec<usize> = (0..operations.len())
        .filter(|i| !done.contains(i))
        .collect();
    if open
        .iter()
        .all(|i| operations[*i].outcome == Outcome::Unknown)
    {
        return true;
    }
    open.iter().any(|i| {
        let one = &operations[*i];
        let before = |other: &usize| {
            let other = &operations[*other];
            other.outcome != Outcome::Unknown && other.returned < one.invoked
        };
        if open.iter().any(before) {
            return false;
        }
        let expected = match &one.action {
            Action::Update { expected, .. } => Some(expected.as_str()),
            _ => None,
        };
        let after = match (&one.outcome, one.value()) {
            (Outcome::Unknown, Some(value)) if state == expected => Some(value),
            (Outcome::Unknown, _) => state,
            (Outcome::Done { .. }, Some(value)) if state == expected => Some(value),
            (Outcome::Done { value, .. }, None) if state == Some(value) => state,
            (Outcome::Absent, _) if state.is_none() => state,
            (Outcome::Conflict, _) if state != expected => state,
            _ => return false,
        };
        done.push(*i);
        let fits = brute(operations, done, after);
        done.pop();
        fits
    })
}
