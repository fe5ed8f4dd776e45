//! Each check fails on a store that is broken on purpose, and on none that is not.
//!
//! `cargo test --workspace --features caravel-sim/sabotage --test sabotage`

use std::process::Command;

/// What is broken, and how the checks put it.
const SABOTAGES: [(&str, &str); 5] = [
    ("skip-flush", "on its disk"),
    ("early-vote", "granted"),
    ("stale-read", "a consistent read"),
    ("drop-event", "watch contract"),
    ("forward-loop", "a loop's write"),
];

/// Seeds within which it must be noticed.
const SEEDS: &str = "12";

fn play(sabotage: &str, seeds: &str) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_caravel-sim"))
        .args(["--seeds", seeds, "--first"])
        .env("CARAVEL_SABOTAGE", sabotage)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (said.contains(", 0 broken;"), said)
}

fn noticed(which: usize) {
    let (sabotage, complaint) = SABOTAGES[which];
    let (whole, said) = play(sabotage, SEEDS);
    assert!(!whole, "{sabotage} was not noticed:\n{said}");
    assert!(said.contains(complaint), "{sabotage}: {said}");
}

#[test]
fn a_flush_that_is_skipped() {
    noticed(0);
}

#[test]
fn a_vote_answered_before_it_is_stored() {
    noticed(1);
}

#[test]
fn consistent_reads_from_a_deposed_leader() {
    noticed(2);
}

#[test]
fn a_watch_event_dropped() {
    noticed(3);
}

#[test]
fn a_loops_write_forwarded() {
    noticed(4);
}

#[test]
fn nothing_is_noticed_where_nothing_is_broken() {
    let (whole, said) = play("", "2");
    assert!(whole, "{said}");
}
