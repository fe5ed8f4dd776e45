//! `caravel doctor`: its flags.

use super::{AdminArgs, Output};
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub admin: AdminArgs,
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Also write a support bundle, without secrets.
    #[arg(long, value_name = "FILE.tar.gz")]
    pub bundle: Option<PathBuf>,
}
