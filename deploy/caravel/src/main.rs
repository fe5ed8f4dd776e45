//! The `caravel` program: every command, one file each, and the order in which a process comes to life.
//!
//! Commands read flags, files and the environment, and hand plain configurations to the crates that do the work.

mod audit;
mod balancer;
mod certificate;
mod check;
mod cli;
mod dns;
mod doctor;
mod file;
mod image;
mod joining;
mod kubeconfig;
mod lab;
mod member;
mod name_server;
mod node;
mod server;
mod snapshot;
mod tasks;
mod token;
mod up;

use clap::{CommandFactory as _, FromArgMatches as _};
use std::ffi::OsString;
use std::process::ExitCode;

/// Small machines run this beside their work; blocking work has threads of its own.
const WORKERS: usize = 2;

/// glibc's takes a sixth of the processor time of a write (`docs/benchmarks.md`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    // These clone processes and must never see a second thread: before anything else.
    match args.get(1).and_then(|a| a.to_str()) {
        Some("shim") => caravel_runtime::shim::main(args.into_iter().skip(2)),
        Some("exec-helper") => caravel_runtime::exec_helper::main(args.into_iter().skip(2)),
        _ => {}
    }
    let env = |name: &str| std::env::var_os(name).is_some();
    let args = match file::merge(args, &cli::Cli::command(), &env, &|path| {
        std::fs::read_to_string(path)
    }) {
        Ok(args) => args,
        Err(error) => return fail(&error.into()),
    };
    let cli = match cli::Cli::command()
        .try_get_matches_from(args)
        .and_then(|m| cli::Cli::from_arg_matches(&m))
    {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    log_to_stderr(&cli);
    caravel_client::connect::install_crypto();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(32)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::from(error).context("start the runtime")),
    };
    let result = runtime.block_on(run(cli.command));
    // What still blocks (a read from a terminal) is not waited for.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

async fn run(command: cli::Command) -> anyhow::Result<ExitCode> {
    use cli::Command;
    match command {
        Command::Server(args) => server::run(*args, tasks::terminated())
            .await
            .map(|()| ExitCode::SUCCESS),
        Command::Node(args) => Box::pin(node::run(*args, tasks::terminated()))
            .await
            .map(|()| ExitCode::SUCCESS),
        Command::Up(args) => Box::pin(up::run(*args)).await.map(|()| ExitCode::SUCCESS),
        Command::Lab(command) => lab::run(command).await,
        Command::Dns(args) => dns::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Image(command) => image::run(command).await.map(|()| ExitCode::SUCCESS),
        Command::Member(command) => member::run(command).await.map(|()| ExitCode::SUCCESS),
        Command::Snapshot(command) => snapshot::run(command).await.map(|()| ExitCode::SUCCESS),
        Command::Token(command) => token::run(command).await.map(|()| ExitCode::SUCCESS),
        Command::Kubeconfig(args) => kubeconfig::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Certificate(command) => {
            certificate::run(command).await.map(|()| ExitCode::SUCCESS)
        }
        Command::Doctor(args) => Box::pin(doctor::run(args)).await,
        Command::Check(args) => check::run(&args),
        Command::Completion { shell } => {
            clap_complete::generate(
                shell,
                &mut cli::Cli::command(),
                "caravel",
                &mut std::io::stdout(),
            );
            Ok(ExitCode::SUCCESS)
        }
        Command::Version => {
            println!("caravel {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn log_to_stderr(cli: &cli::Cli) {
    use tracing_subscriber::EnvFilter;
    // Lab commands speak to a person by themselves; each heartbeat that fails says nothing that is not said elsewhere.
    let default = if cli.command.is_daemon() {
        "info,kube_client::client::builder=off,tower=warn,openraft=warn,openraft::core::heartbeat=error,hyper=warn,hickory_server=warn"
    } else {
        "warn,openraft=error,kube_client=off"
    };
    let filter = cli
        .log
        .as_deref()
        .map_or_else(|| EnvFilter::new(default), EnvFilter::new);
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    if cli.log_json {
        subscriber.json().init()
    } else {
        subscriber.init()
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("caravel: {error:#}");
    ExitCode::FAILURE
}
