//! Each promise that the model watches over, broken once.

use std::sync::Arc;

use caravel_api::{Encoded, Key, KeyRange, Revision};
use caravel_store::simulation::Payload;
use caravel_store::{Batch, Change, Command, Epoch, Expect, LogId, Proposal, Txn};
use caravel_store::{Level, Raise, Splice};
use openraft::impls::leader_id_adv::LeaderId;

use super::{Event, Model};

fn id(term: u64, node_id: u64, index: u64) -> LogId {
    LogId {
        leader_id: LeaderId { term, node_id },
        index,
    }
}

fn key(name: &str) -> Key {
    Key::from(format!("/registry/core/configmaps/sim/{name}"))
}

fn object(value: &str, reign: &str) -> Encoded {
    let json = format!(r#"{{"metadata":{{"name":"a"}},"value":"{value}","reign":"{reign}"}}"#);
    Encoded::new(json).unwrap()
}

fn write(name: &str, value: &str, expect: Expect, epoch: Option<Epoch>, reign: &str) -> Payload {
    let txn = Txn::new().with(Change::Put {
        key: key(name),
        expect,
        object: object(value, reign),
    });
    normal(epoch, txn)
}

fn normal(epoch: Option<Epoch>, txn: Txn) -> Payload {
    Payload::Normal(Command::Batch(Batch(Arc::new(vec![Proposal {
        epoch,
        txn,
    }]))))
}

fn put(name: &str, value: &str) -> Payload {
    write(name, value, Expect::Any, None, "")
}

/// Two objects, at revisions 1 and 2.
fn begun() -> Model {
    let mut model = Model::default();
    model.apply(&id(1, 1, 0), &Payload::Blank).unwrap();
    model.apply(&id(1, 1, 1), &put("a", "v1")).unwrap();
    model.apply(&id(1, 1, 2), &put("b", "v2")).unwrap();
    model
}

fn broken(result: Result<(), String>, complaint: &str) {
    let said = result.expect_err(complaint);
    assert!(said.contains(complaint), "{said}");
}

#[test]
fn logs_match_and_reigns_belong_to_one_life() {
    let mut model = Model::default();
    model.logged(1, None, &id(1, 1, 5), &put("a", "x")).unwrap();
    model.logged(2, None, &id(1, 1, 5), &put("a", "x")).unwrap();
    broken(
        model.logged(2, None, &id(1, 1, 5), &put("a", "y")),
        "log matching",
    );
    model
        .logged(1, Some(&id(1, 1, 5)), &id(2, 2, 6), &Payload::Blank)
        .unwrap();
    broken(
        model.logged(3, Some(&id(1, 3, 5)), &id(2, 2, 6), &Payload::Blank),
        "log matching",
    );
    assert_eq!(model.leads((2, 2), 1), Ok(true));
    assert_eq!(model.leads((2, 2), 1), Ok(false));
    assert!(model.leads((2, 2), 2).unwrap_err().contains("election"));
}

#[test]
fn replicas_are_in_the_state_that_their_log_says() {
    let model = begun();
    let digest = model.digest;
    model.state(2, &id(1, 1, 2), 2, digest).unwrap();
    broken(model.state(2, &id(1, 1, 2), 2, digest + 1), "with state");
    broken(model.state(2, &id(1, 1, 2), 3, digest), "at revision 3");
    broken(model.state(2, &id(2, 2, 2), 2, digest), "machine safety");
    broken(model.state(2, &id(1, 1, 3), 2, digest), "nobody has seen");
}

#[test]
fn what_is_acknowledged_is_there_and_what_is_refused_is_not() {
    let mut model = begun();
    model.acknowledged(1, &key("a"), "v1").unwrap();
    broken(model.acknowledged(2, &key("b"), "other"), "lost write");
    // Acknowledged before the model saw it, and then it was something else.
    model.acknowledged(3, &key("a"), "v3").unwrap();
    broken(model.settled(), "lost write");
    broken(model.apply(&id(2, 2, 3), &put("a", "v4")), "lost write");

    let mut model = begun();
    broken(model.denied("v2"), "nothing happened");
    model.denied("v5").unwrap();
    broken(
        model.apply(&id(1, 1, 3), &put("a", "v5")),
        "nothing happened",
    );
    let mut model = begun();
    broken(model.apply(&id(1, 1, 3), &put("b", "v1")), "a second time");
}

#[test]
fn what_does_not_hold_or_is_of_another_reign_changes_nothing() {
    let mut model = begun();
    let planned = Some(Epoch { term: 1, node: 1 });
    for (index, payload) in [
        write("a", "v3", Expect::Absent, None, ""),
        write("a", "v4", Expect::At(caravel_api::Revision(9)), None, ""),
        write("a", "v5", Expect::Any, planned, "1/1"),
    ]
    .iter()
    .enumerate()
    {
        model.apply(&id(2, 2, 3 + index as u64), payload).unwrap();
    }
    assert_eq!((model.revision(), model.deposed), (2, 1));
    // The same write without its reign, as one would come that was handed on.
    let handed_on = write("a", "v6", Expect::Any, None, "1/1");
    broken(model.apply(&id(2, 2, 6), &handed_on), "a loop's write");
}

#[test]
fn what_is_of_level_2_comes_after_the_raise() {
    let splice = || {
        let old = object("v1", "").at(Revision(1));
        let new = object("v3", "").json;
        let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
        let tail = old.iter().rev().zip(new.iter().rev());
        let tail = tail.take_while(|(a, b)| a == b).count();
        let splice = Splice {
            head: head as u32,
            tail: tail as u32,
            middle: new.slice(head..new.len() - tail),
        };
        let change = Change::Splice {
            key: key("a"),
            at: Revision(1),
            splice,
        };
        normal(None, Txn::new().with(change))
    };
    broken(begun().apply(&id(1, 1, 3), &splice()), "the level is 1");
    let raise = Payload::Normal(Command::Raise(Raise {
        epoch: Epoch { term: 1, node: 1 },
        to: Level(2),
    }));
    // Decided in another reign, it does nothing.
    let mut model = begun();
    model.apply(&id(2, 2, 3), &raise).unwrap();
    broken(model.apply(&id(2, 2, 4), &splice()), "the level is 1");
    let mut model = begun();
    model.apply(&id(1, 1, 3), &raise).unwrap();
    model.apply(&id(1, 1, 4), &splice()).unwrap();
    assert_eq!((model.raises, model.revision()), (1, 3));
    model.acknowledged(3, &key("a"), "v3").unwrap();
}

#[test]
fn consistent_reads_see_everything_known() {
    let mut model = begun();
    model.read(2, 1, 2, &key("a"), Some("v1")).unwrap();
    assert_eq!(model.told, 2);
    broken(
        model.read(2, 2, 1, &key("a"), Some("v1")),
        "was known before",
    );
    broken(model.read(2, 2, 2, &key("b"), None), "which has");
    model.read(2, 0, 1, &key("b"), None).unwrap();
}

#[test]
fn watches_see_each_change_once_and_in_order() {
    let model = begun();
    let all = KeyRange::all();
    let event = |name: &str, value: &str| Event {
        key: key(name),
        deleted: false,
        value: value.into(),
    };
    model.watched(&all, 0, 1, Some(&event("a", "v1"))).unwrap();
    model.watched(&all, 2, 2, None).unwrap();
    model
        .watched(&KeyRange::one(&key("b")), 0, 2, Some(&event("b", "v2")))
        .unwrap();
    for (after, revision, seen) in [
        (0, 2, Some(event("b", "v2"))),
        (1, 1, Some(event("a", "v1"))),
        (2, 1, None),
        (1, 2, None),
        (1, 2, Some(event("b", "v1"))),
        (2, 3, None),
    ] {
        broken(
            model.watched(&all, after, revision, seen.as_ref()),
            "watch contract",
        );
    }
}
