//! The audit log's flags. What is recorded is the API server's; follows upstream's `--audit-log-*`.

use caravel_server::AuditLog;
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug, Clone)]
pub struct AuditArgs {
    /// A file for a record of every request (audit.k8s.io/v1 Events, one a line, without bodies). Default: no records.
    #[arg(long, env = "CARAVEL_AUDIT_LOG_PATH", value_name = "FILE")]
    pub audit_log_path: Option<PathBuf>,
    /// Megabytes after which that file is put aside and a new one begun.
    #[arg(
        long,
        env = "CARAVEL_AUDIT_LOG_MAXSIZE",
        value_name = "MB",
        default_value_t = 100
    )]
    pub audit_log_maxsize: u64,
    /// How many files that were put aside are kept.
    #[arg(
        long,
        env = "CARAVEL_AUDIT_LOG_MAXBACKUP",
        value_name = "FILES",
        default_value_t = 10
    )]
    pub audit_log_maxbackup: usize,
}

impl AuditArgs {
    /// Where records go, if anywhere.
    pub fn into_log(self) -> Option<AuditLog> {
        Some(AuditLog {
            path: self.audit_log_path?,
            max_bytes: self.audit_log_maxsize.max(1) << 20,
            backups: self.audit_log_maxbackup,
        })
    }
}
