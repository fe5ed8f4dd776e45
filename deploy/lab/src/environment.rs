//! `lab env`: shell exports for `kubectl` and for suites that look at nodes from below.

use crate::daemon;
use crate::layout::Layout;
use crate::record::Record;
use crate::resolver::ZONE;
use anyhow::Context as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

/// Where a node looks for static pods.
const STATIC_PODS: &str = "/etc/caravel/static-pods";

/// Lines `export NAME=VALUE`; the scripts that they name are written on the way.
pub fn exports(layout: &Layout) -> anyhow::Result<String> {
    let record = Record::load(layout)?;
    let caravel = daemon::program()?;
    let (caravel, dir) = (
        quote(&caravel.to_string_lossy()),
        quote(&layout.dir().to_string_lossy()),
    );
    let script = |name: &str, line: String| -> anyhow::Result<String> {
        let path = layout.bin().join(name);
        fs::create_dir_all(layout.bin())?;
        fs::write(&path, format!("#!/bin/sh\n{line}\n"))
            .with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path.to_string_lossy().into_owned())
    };
    let mut all = vec![
        (
            "KUBECONFIG",
            layout.kubeconfig().to_string_lossy().into_owned(),
        ),
        ("CARAVEL_SERVERS", record.server_urls().join(",")),
        (
            "ACC_NODE_EXEC",
            script(
                "node-exec",
                format!(
                    "node=$1; shift; exec {caravel} lab exec --dir {dir} \"$node\" -- sh -c \"$*\""
                ),
            )?,
        ),
        (
            "ACC_NODE_STOP",
            script(
                "node-stop",
                format!("exec {caravel} lab kill --dir {dir} \"$1\""),
            )?,
        ),
        (
            "ACC_NODE_START",
            script(
                "node-start",
                format!("exec {caravel} lab start --dir {dir} \"$1\""),
            )?,
        ),
        ("ACC_STATIC_POD_DIR", STATIC_PODS.to_owned()),
        ("ACC_EXTERNAL_HOST", format!("www.{ZONE}")),
    ];
    if record.nodes().count() >= 3 {
        all.push(("ACC_MULTI_NODE", "1".to_owned()));
    }
    Ok(all
        .iter()
        .map(|(name, value)| format!("export {name}={}\n", quote(value)))
        .collect())
}

fn quote(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-:,=@".contains(&b);
    if text.bytes().all(plain) && !text.is_empty() {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn quotes_for_the_shell() {
        for (text, quoted) in [
            ("/a/b-1", "/a/b-1"),
            ("a b", "'a b'"),
            ("it's", "'it'\\''s'"),
            ("", "''"),
        ] {
            assert_eq!(quote(text), quoted);
        }
    }
}
