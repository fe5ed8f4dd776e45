//! What this disk can do at best: appends to one file, each followed by `fdatasync`, one after another.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use crate::figures::summary;

#[derive(clap::Args)]
pub struct Args {
    /// The file to write; it is removed at the end
    #[arg(long)]
    file: PathBuf,
    #[arg(long, default_value_t = 1024)]
    size: usize,
    #[arg(long, default_value_t = 3)]
    seconds: u64,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut file = File::create(&args.file).context("create the file")?;
    let record = vec![b'x'; args.size];
    let (begun, mut latencies) = (Instant::now(), Vec::new());
    while begun.elapsed() < Duration::from_secs(args.seconds) {
        let start = Instant::now();
        file.write_all(&record).context("append")?;
        file.sync_data().context("fdatasync")?;
        latencies.push(start.elapsed());
    }
    let per_s = latencies.len() as f64 / begun.elapsed().as_secs_f64();
    std::fs::remove_file(&args.file).context("remove the file")?;
    let mut figures = summary(latencies);
    figures["per_s"] = json!(per_s.round());
    println!("{figures}");
    Ok(())
}
