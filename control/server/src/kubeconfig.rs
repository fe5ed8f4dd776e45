//! Files for people, written whole and readable by their owner only: the administrator's kubeconfig and the join token.

use anyhow::{Context, Result};
use caravel_auth::Authority;
use caravel_client::{Credential, Kubeconfig};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Writes the administrator's kubeconfig (0600), with a certificate of its own.
pub(crate) fn write(authority: &Authority, path: &Path, server: &str) -> Result<()> {
    let issued = authority.issue_admin()?;
    let file = Kubeconfig {
        cluster: "caravel".to_owned(),
        user: "kubernetes-admin".to_owned(),
        server: server.to_owned(),
        ca: authority.ca_pem().to_owned(),
        credential: Credential::Certificate {
            cert: issued.cert_pem,
            key: issued.key_pem,
        },
        namespace: None,
    };
    private(path, &file.to_yaml()?)
        .with_context(|| format!("write the kubeconfig {}", path.display()))
}

/// Writes a file that only its owner reads, all of it or nothing.
pub(crate) fn private(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let draft = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(draft, path)
}
