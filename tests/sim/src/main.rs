//! The whole quorum in one process, on simulated time, disks and network: real replicas (consensus, log, state machine,
//! watches, forwarding, barriers, snapshots, membership), and everything that can go wrong, chosen by a seed.
//!
//! Every seed is a process of its own with one thread, tokio's paused clock, and a source of entropy that is the seed
//! (`entropy.rs`): then the same seed is the same run, to the last message. A runtime made for simulation
//! (`openraft-rt-sim`) was not taken: it would have to replace tokio's channels and clock throughout the store, and what
//! is proven should be the code that runs.
//!
//! `caravel-sim --seed 7 --trace` plays one seed and prints all of it; `caravel-sim --seeds 500` plays many, adds up what
//! happened, and fails if a kind of fault never did.

mod entropy;
mod faults;
mod load;
mod model;
mod network;
mod run;
mod totals;
mod trace;
mod watchers;
mod world;

use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Context as _;
use clap::Parser;
use totals::Totals;

/// Plays the quorum on simulated time, disk and network.
#[derive(Parser)]
struct Cli {
    /// Play this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Print everything that happens.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Play this many seeds, one after another, each in a process of its own.
    #[arg(long, default_value_t = 50)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Simulated seconds of load and faults per seed.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Play the first so many seeds a second time; the traces must be the same.
    #[arg(long, default_value_t = 0)]
    twice: u64,
    /// Stop at the first seed that breaks a promise.
    #[arg(long)]
    first: bool,
    /// Processes at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.seed {
        Some(seed) => one(seed, &cli),
        None => many(&cli),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn one(seed: u64, cli: &Cli) -> anyhow::Result<bool> {
    let (seconds, print) = (cli.seconds, cli.trace);
    entropy::begin(seed);
    // A thread that has asked for no randomness yet.
    let played = std::thread::spawn(move || run::play(seed, seconds, print));
    let report = played
        .join()
        .map_err(|_| anyhow::anyhow!("seed {seed} panicked"))??;
    if let Some(broken) = &report.broken {
        if !print {
            report.last.iter().for_each(|line| println!("{line}"));
        }
        println!("seed={seed} BROKEN {broken}");
    }
    println!(
        "seed={} trace={:016x} lines={} {}",
        report.seed, report.hash, report.lines, report.totals
    );
    Ok(report.broken.is_none())
}

/// What a seed's process said last.
struct Played {
    broken: Option<String>,
    trace: String,
    totals: Totals,
}

fn child(seed: u64, seconds: u64) -> anyhow::Result<Played> {
    let program = std::env::current_exe().context("which program this is")?;
    let output = Command::new(program)
        .args([
            "--seed",
            &seed.to_string(),
            "--seconds",
            &seconds.to_string(),
        ])
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("playing seed {seed}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let last = said.lines().last().unwrap_or_default();
    let word = |name: &str| {
        let found = last.split(' ').find_map(|word| word.strip_prefix(name));
        found.unwrap_or_default().to_owned()
    };
    let mut broken = said
        .lines()
        .rev()
        .find_map(|line| line.split_once(" BROKEN ").map(|(_, what)| what.to_owned()));
    if broken.is_none() && !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        broken = Some(format!("{}: {}", output.status, why.trim()));
    }
    Ok(Played {
        broken,
        trace: word("trace="),
        totals: Totals::parse(last),
    })
}

fn many(cli: &Cli) -> anyhow::Result<bool> {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let tasks = cli.seeds + cli.twice;
    let played: Mutex<BTreeMap<u64, Vec<Played>>> = Mutex::default();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let work = || -> anyhow::Result<()> {
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                let enough = cli.first && stop.load(Ordering::Relaxed);
                if task >= tasks || enough {
                    return Ok(());
                }
                let seed = cli.from
                    + if task < cli.seeds {
                        task
                    } else {
                        task - cli.seeds
                    };
                let one = child(seed, cli.seconds)?;
                if let Some(broken) = &one.broken {
                    stop.store(true, Ordering::Relaxed);
                    println!("seed {seed}: {broken}");
                    println!(
                        "  again: caravel-sim --seed {seed} --seconds {} --trace",
                        cli.seconds
                    );
                }
                let mut played = played.lock().unwrap_or_else(|broken| broken.into_inner());
                played.entry(seed).or_default().push(one);
            }
        };
        let workers: Vec<_> = (0..cli.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker
                .join()
                .map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        Ok(())
    })?;
    let played = played
        .into_inner()
        .unwrap_or_else(|broken| broken.into_inner());
    let mut totals = Totals::default();
    let (mut failed, mut same, mut differ) = (0, 0, 0);
    for (seed, runs) in &played {
        totals.add(&runs[0].totals);
        failed += u64::from(runs.iter().any(|run| run.broken.is_some()));
        if let [first, second] = runs.as_slice() {
            if first.trace == second.trace && !first.trace.is_empty() {
                same += 1;
            } else {
                differ += 1;
                println!(
                    "seed {seed}: {} the first time, {} the second",
                    first.trace, second.trace
                );
            }
        }
    }
    println!("{totals}");
    println!(
        "{} seeds, {failed} broken; {same} of {} played twice were the same",
        played.len(),
        same + differ
    );
    let zeros = totals.zeros();
    if !zeros.is_empty() {
        println!("never happened: {}", zeros.join(", "));
    }
    Ok(failed == 0 && differ == 0 && zeros.is_empty())
}
