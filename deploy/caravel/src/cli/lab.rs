//! The lab's commands.

use super::Output;
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Args, Debug, Clone)]
pub struct LabDir {
    /// The lab's directory: everything of it lies there, and it is the lab's name.
    #[arg(long, env = "CARAVEL_LAB", value_name = "DIR", default_value = caravel_lab::layout::DEFAULT_DIR)]
    pub dir: PathBuf,
}

#[derive(Subcommand, Debug)]
pub enum LabCommand {
    /// Build a cluster and wait until it is ready. One that is there already is brought back to be ready.
    Up {
        #[command(flatten)]
        dir: LabDir,
        /// Servers: 1, 3 or 5.
        #[arg(long, default_value_t = 1)]
        servers: usize,
        /// Nodes.
        #[arg(long, default_value_t = 2)]
        nodes: usize,
        /// An image archive, or a directory of them, that every node shall have. May be repeated.
        #[arg(long, value_name = "PATH")]
        images: Vec<PathBuf>,
        /// Hosts reach this machine only: no masquerading, names beyond the lab do not resolve.
        #[arg(long)]
        isolated: bool,
        /// A line for every server's config.yaml, as `KEY: VALUE`. May be repeated.
        #[arg(long, value_name = "LINE")]
        server_config: Vec<String>,
        /// A line for every node's config.yaml, as `KEY: VALUE`. May be repeated.
        #[arg(long, value_name = "LINE")]
        node_config: Vec<String>,
    },
    /// Remove a lab: processes, containers, namespaces, mounts, links, rules, cgroups, files.
    Down {
        #[command(flatten)]
        dir: LabDir,
    },
    /// Show the hosts.
    Status {
        #[command(flatten)]
        dir: LabDir,
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Run a command on a host, as root.
    Exec {
        #[command(flatten)]
        dir: LabDir,
        host: String,
        #[arg(last = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// End a host's daemon in order; its containers go on.
    Stop {
        #[command(flatten)]
        dir: LabDir,
        host: String,
    },
    /// Start a host's daemon. One that runs goes on.
    Start {
        #[command(flatten)]
        dir: LabDir,
        host: String,
    },
    /// End a host's daemon by SIGKILL; its containers go on.
    Kill {
        #[command(flatten)]
        dir: LabDir,
        host: String,
    },
    /// Freeze a host's daemon (SIGSTOP): it answers nothing and believes that no time passes.
    Pause {
        #[command(flatten)]
        dir: LabDir,
        host: String,
    },
    /// Wake a frozen daemon.
    Resume {
        #[command(flatten)]
        dir: LabDir,
        host: String,
    },
    /// Drop all packets between two hosts, of open connections too.
    Cut {
        #[command(flatten)]
        dir: LabDir,
        a: String,
        b: String,
        /// Only those from A to B.
        #[arg(long)]
        one_way: bool,
    },
    /// Let packets through again: between two hosts, or everywhere.
    Heal {
        #[command(flatten)]
        dir: LabDir,
        #[arg(num_args = 2, value_names = ["A", "B"])]
        pair: Vec<String>,
    },
    /// Print shell exports: KUBECONFIG, CARAVEL_SERVERS, and what test suites ask for.
    Env {
        #[command(flatten)]
        dir: LabDir,
    },
    /// The images of the lab's nodes.
    #[command(subcommand)]
    Image(LabImageCommand),
    /// Serve the API's port of a lab (started by `lab up`).
    #[command(hide = true)]
    Balance {
        #[command(flatten)]
        dir: LabDir,
    },
}

#[derive(Subcommand, Debug)]
pub enum LabImageCommand {
    /// Import archives on every node.
    Import {
        #[command(flatten)]
        dir: LabDir,
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}
