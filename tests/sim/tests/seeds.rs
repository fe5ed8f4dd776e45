//! Seeds of the simulator, as a test: as many as fit a few minutes on two cores, some of them twice.
//!
//! `CARAVEL_SIM_SEEDS=500` plays more of them.

use std::process::Command;

#[test]
fn seeds_keep_every_promise_and_replay_exactly() {
    let seeds = std::env::var("CARAVEL_SIM_SEEDS").unwrap_or_else(|_| "100".into());
    let output = Command::new(env!("CARGO_BIN_EXE_caravel-sim"))
        .args(["--seeds", &seeds, "--twice", "5", "--jobs", "2"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{why}");
}
