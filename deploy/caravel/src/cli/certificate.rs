//! `caravel certificate`: its commands.

use super::{AdminArgs, Output};
use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub enum CertificateCommand {
    /// The certificates of authority, administrator, servers and nodes, and when they end.
    List {
        #[command(flatten)]
        admin: AdminArgs,
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Which key each server seals its data with.
    Keys {
        #[command(flatten)]
        admin: AdminArgs,
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Replace the key that all data is sealed with. It is used once every server holds it; what the old one sealed is
    /// sealed again; then the old one is put aside, for backups that it sealed.
    RotateKeys {
        #[command(flatten)]
        admin: AdminArgs,
        /// Return as soon as the rotation has begun.
        #[arg(long)]
        no_wait: bool,
    },
}
