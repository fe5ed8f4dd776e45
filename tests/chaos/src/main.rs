//! `caravel-chaos`: faults on a real cluster under load, and checks of what its clients were told.
//!
//! Read it from `scenario` (the faults, as a table) to `run` (what is done) to `verdict` (what must hold). The checks know
//! nothing of the product: they read a history that `check` reads again from a file.

mod client;
mod disk;
mod faults;
mod field;
mod lab;
mod load;
mod run;
mod scenario;
mod verdict;
mod watchers;

use caravel_support::{history, linear};
use clap::Parser;
use scenario::{Length, SCENARIOS};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(
    about = "Faults on a lab of three servers under load, and checks of what clients were told"
)]
enum Cli {
    /// Run scenarios on a lab that is up.
    Run(RunArgs),
    /// Check a history again.
    Check { file: PathBuf },
    /// The scenarios.
    List,
    /// Mounts a disk over a directory, which can be slow and lose its power. Takes orders on standard input.
    #[command(hide = true)]
    Disk { dir: PathBuf },
}

#[derive(clap::Args)]
struct RunArgs {
    /// The program under test.
    #[arg(long)]
    caravel: PathBuf,
    /// The lab.
    #[arg(long)]
    dir: PathBuf,
    /// Where histories are kept.
    #[arg(long)]
    histories: PathBuf,
    /// How often the leader is killed.
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// Of the 63 combinations of cut links, how many.
    #[arg(long, default_value_t = 63)]
    cuts: usize,
    /// Seconds that the leader sleeps.
    #[arg(long, default_value_t = 30)]
    pause: u64,
    /// Seconds that a cut lasts.
    #[arg(long, default_value_t = 6)]
    hold: u64,
    /// How often the power is cut.
    #[arg(long, default_value_t = 10)]
    power: usize,
    /// How many damages to files, of each kind.
    #[arg(long, default_value_t = 12)]
    damages: usize,
    #[arg(long, default_value_t = 12)]
    workers: usize,
    /// Milliseconds between two operations of a worker.
    #[arg(long, default_value_t = 40)]
    pace: u64,
    #[arg(long, default_value_t = 30)]
    watchers: usize,
    /// Names of scenarios; none means all.
    scenarios: Vec<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse() {
        Cli::Disk { dir } => {
            tokio::task::block_in_place(|| disk::fuse::serve(&dir))?;
            Ok(ExitCode::SUCCESS)
        }
        Cli::Run(args) => all(&args).await,
        Cli::Check { file } => {
            let verdict = verdict::judge(&history::History::load(&file)?);
            println!("{verdict}");
            Ok(exit(verdict.wrong.is_empty()))
        }
        Cli::List => {
            for scenario in SCENARIOS {
                println!("{:<26} {}", scenario.name, scenario.why);
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn exit(well: bool) -> ExitCode {
    ExitCode::from(u8::from(!well))
}

async fn all(args: &RunArgs) -> anyhow::Result<ExitCode> {
    for name in &args.scenarios {
        let known = SCENARIOS.iter().any(|scenario| scenario.name == name);
        anyhow::ensure!(
            known,
            "there is no scenario {name:?}; `caravel-chaos list` shows them"
        );
    }
    std::fs::create_dir_all(&args.histories)?;
    let lab = lab::Lab {
        program: args.caravel.clone(),
        dir: args.dir.clone(),
    };
    let length = Length {
        kills: args.kills,
        cuts: args.cuts.min(63),
        pause: Duration::from_secs(args.pause),
        hold: Duration::from_secs(args.hold),
        power: args.power,
        damages: args.damages,
    };
    let shape = load::Shape {
        workers: args.workers,
        pace: Duration::from_millis(args.pace),
        roaming: Duration::from_secs(8),
        staying: Duration::from_secs(args.pause + 15),
    };
    let wanted =
        |name: &str| args.scenarios.is_empty() || args.scenarios.iter().any(|one| one == name);
    let mut well = true;
    let servers = lab.status().await?.servers().count();
    for scenario in SCENARIOS.iter().filter(|scenario| wanted(scenario.name)) {
        if scenario.servers != servers {
            println!("skip {}: needs {} servers", scenario.name, scenario.servers);
            continue;
        }
        let begun = Instant::now();
        let proof = run::run(&lab, scenario, &length, shape, args.watchers).await?;
        proof
            .history
            .save(&args.histories.join(format!("{}.jsonl", scenario.name)))?;
        let passed = proof.verdict.wrong.is_empty();
        well &= passed;
        let word = if passed { "ok  " } else { "FAIL" };
        println!(
            "{word} {} ({} s): {}",
            scenario.name,
            begun.elapsed().as_secs(),
            proof.verdict
        );
        for note in proof.notes {
            println!("     {note}");
        }
    }
    Ok(exit(well))
}
