//! Containers over one root file system, started in turn by Caravel's shim and by the engines that are installed.
//!
//! Ours: the time of `Runtime::start` in a sandbox that is there (a pod's first container finds it there too), that
//! is spawning the shim, mounting the overlay, libcontainer's create and start, the report back. An engine: the time
//! of `ENGINE run --detach`, which makes its namespaces itself and mounts no overlay. Both end when the process runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use caravel_runtime::{ContainerSpec, Runtime, SandboxSpec, Shims, ShimsConfig};
use serde_json::{Map, Value, json};

use crate::figures::summary;

#[derive(clap::Args)]
pub struct Args {
    /// The `caravel` program, which is its own shim
    #[arg(long)]
    program: PathBuf,
    /// A root file system with busybox in it
    #[arg(long)]
    rootfs: PathBuf,
    /// An empty directory; its path must be short, for the sockets in it
    #[arg(long)]
    work: PathBuf,
    #[arg(long, default_value_t = 30)]
    count: usize,
    /// Engines to compare with
    #[arg(long, value_delimiter = ',', default_value = "crun,runc")]
    engines: Vec<String>,
}

const POD: &str = "bench";

pub async fn run(args: Args) -> anyhow::Result<()> {
    let cgroup = format!("/caravel-bench-{}", std::process::id());
    let config = ShimsConfig {
        program: args.program.clone(),
        run: args.work.join("run"),
        data: args.work.join("data"),
        cgroup_parent: cgroup.clone(),
    };
    let shims = Shims::open(config).await?;
    let mut sandboxes = Vec::new();
    for _ in 0..args.count {
        let begun = Instant::now();
        shims.create_sandbox(sandbox()).await?;
        sandboxes.push(begun.elapsed());
        shims.remove_sandbox(POD).await?;
    }
    shims.create_sandbox(sandbox()).await?;
    for engine in &args.engines {
        bundle(engine, &args.rootfs, &args.work.join(engine))?;
    }
    let mut ours = Vec::new();
    let mut theirs = vec![Vec::new(); args.engines.len()];
    let result = async {
        for n in 0..args.count {
            ours.push(shim(&shims, &args.rootfs, n).await?);
            for (engine, times) in args.engines.iter().zip(&mut theirs) {
                times.push(by_engine(engine, &args.work.join(engine), n)?);
            }
        }
        anyhow::Ok(())
    }
    .await;
    shims.remove_sandbox(POD).await?;
    remove_cgroups(&cgroup);
    result?;
    let mut figures = Map::new();
    figures.insert("sandbox".into(), summary(sandboxes));
    figures.insert("caravel".into(), summary(ours));
    for (engine, times) in args.engines.iter().zip(theirs) {
        figures.insert(engine.clone(), summary(times));
    }
    println!("{}", Value::Object(figures));
    Ok(())
}

fn sandbox() -> SandboxSpec {
    SandboxSpec {
        pod_uid: POD.into(),
        hostname: POD.into(),
        ..SandboxSpec::default()
    }
}

fn command() -> Vec<String> {
    ["/bin/sleep", "600"].map(str::to_owned).to_vec()
}

async fn shim(shims: &Arc<Shims>, rootfs: &Path, n: usize) -> anyhow::Result<Duration> {
    let id = format!("bench-{n}");
    let spec = ContainerSpec {
        id: id.clone(),
        pod_uid: POD.into(),
        lower: vec![rootfs.to_owned()],
        args: command(),
        ..ContainerSpec::default()
    };
    let begun = Instant::now();
    let started = shims.start(spec).await;
    let elapsed = begun.elapsed();
    shims.remove(&id).await?;
    started?;
    Ok(elapsed)
}

/// The engine's own default bundle, over our root and without a terminal.
fn bundle(engine: &str, rootfs: &Path, dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)?;
    let status = Command::new(engine).arg("spec").current_dir(dir).status();
    if !status
        .with_context(|| format!("run {engine}; is it installed?"))?
        .success()
    {
        bail!("{engine} spec failed");
    }
    let path = dir.join("config.json");
    let mut spec: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(command());
    spec["root"] = json!({"path": rootfs, "readonly": true});
    std::fs::write(&path, serde_json::to_vec(&spec)?)?;
    Ok(())
}

fn by_engine(engine: &str, bundle: &Path, n: usize) -> anyhow::Result<Duration> {
    let id = format!("caravel-bench-{}-{n}", std::process::id());
    let mut run = Command::new(engine);
    // A detached engine gives its own streams to the container: none of ours may wait for it.
    run.args(["run", "--detach", "--bundle"])
        .arg(bundle)
        .arg(&id);
    run.stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let begun = Instant::now();
    let status = run.status()?;
    let elapsed = begun.elapsed();
    Command::new(engine)
        .args(["delete", "--force", &id])
        .stderr(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("{engine} run failed: {status}");
    }
    Ok(elapsed)
}

/// The groups above the pods', which the runtime keeps for the next pod. Emptied by now; best effort.
fn remove_cgroups(parent: &str) {
    let Ok(controllers) = std::fs::read_dir("/sys/fs/cgroup") else {
        return;
    };
    let roots: Vec<PathBuf> = controllers
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .chain([PathBuf::from("/sys/fs/cgroup")])
        .collect();
    for root in roots {
        for below in ["kubepods/burstable", "kubepods/besteffort", "kubepods", ""] {
            let _ = std::fs::remove_dir(root.join(parent.trim_start_matches('/')).join(below));
        }
    }
}
