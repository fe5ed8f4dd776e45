//! A support bundle: what is known of a cluster in one file, for who is to help. Without secrets: it holds how things are
//! and what happened, never what pods, ConfigMaps and Secrets say; and every text goes through `redact`.

use super::facts::Facts;
use super::redact::redact;
use anyhow::Context as _;
use caravel_client::{Kubeconfig, connect};
use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::time::timeout;

/// Each question, each time.
const WITHIN: Duration = Duration::from_secs(10);
/// Lines of the journal, and most objects of one kind.
const LINES: &str = "5000";
const OBJECTS: usize = 5000;

/// What is asked of the API: file, path, and the fields that are kept.
const ASKED: &[(&str, &str, &[&str])] = &[
    ("version.json", "/version", &[]),
    ("readyz.txt", "/readyz?verbose", &[]),
    ("metrics.txt", "/metrics", &[]),
    ("nodes.json", "/api/v1/nodes", &["status"]),
    ("pods.json", "/api/v1/pods", &["status"]),
    ("namespaces.json", "/api/v1/namespaces", &["status"]),
    ("services.json", "/api/v1/services", &["spec"]),
    ("deployments.json", "/apis/apps/v1/deployments", &["status"]),
    (
        "leases.json",
        "/apis/coordination.k8s.io/v1/leases",
        &["spec"],
    ),
    (
        "events.json",
        "/api/v1/events",
        &[
            "reason",
            "type",
            "message",
            "count",
            "involvedObject",
            "lastTimestamp",
            "source",
        ],
    ),
];

/// Writes it, for its owner only.
///
/// # Errors
/// A file that cannot be written. What cannot be asked is noted in the bundle.
pub async fn write(
    file: &Path,
    kubeconfig: &Kubeconfig,
    facts: &Facts,
    findings: &Value,
) -> anyhow::Result<()> {
    let mut files = vec![
        ("findings.json".to_owned(), format!("{findings:#}\n")),
        ("servers.txt".to_owned(), format!("{:#?}\n", facts.servers)),
        ("members.txt".to_owned(), format!("{:#?}\n", facts.members)),
        (
            "program.txt".to_owned(),
            format!("caravel {}\n", env!("CARGO_PKG_VERSION")),
        ),
    ];
    let client = connect::connect(&kubeconfig.config()).await;
    for (name, path, kept) in ASKED {
        let text = match &client {
            Ok(client) => ask(client, path, kept).await,
            Err(error) => format!("not asked: {error}\n"),
        };
        files.push(((*name).to_owned(), text));
    }
    files.push(("journal.txt".to_owned(), journal().await));
    for path in [
        "/proc/version",
        "/proc/mounts",
        "/proc/meminfo",
        "/proc/loadavg",
    ] {
        if let Ok(text) = fs::read_to_string(path) {
            files.push((format!("machine{path}.txt"), text));
        }
    }
    pack(file, &files).with_context(|| format!("write {}", file.display()))
}

fn pack(file: &Path, files: &[(String, String)]) -> std::io::Result<()> {
    let out = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(file)?;
    let mut archive = tar::Builder::new(GzEncoder::new(out, Compression::default()));
    let now = Timestamp::now().as_second();
    for (name, text) in files {
        let text = redact(text);
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(now).unwrap_or(0));
        archive.append_data(&mut header, format!("caravel/{name}"), text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.sync_all()
}

async fn ask(client: &kube::Client, path: &str, kept: &[&str]) -> String {
    let request = http::Request::get(path).body(Vec::new());
    let request = match request {
        Ok(request) => request,
        Err(error) => return format!("not asked: {error}\n"),
    };
    let text = match timeout(WITHIN, client.request_text(request)).await {
        Ok(Ok(text)) => text,
        Ok(Err(error)) => return format!("not answered: {error}\n"),
        Err(_) => return format!("not answered within {} s\n", WITHIN.as_secs()),
    };
    if kept.is_empty() {
        return text;
    }
    match serde_json::from_str::<Value>(&text) {
        Ok(list) => format!("{:#}\n", bare(&list, kept)),
        Err(error) => format!("not understood: {error}\n"),
    }
}

/// Of each object its name and the fields that are kept; nothing that a user wrote as a value.
fn bare(list: &Value, kept: &[&str]) -> Value {
    let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    let bare = items.iter().take(OBJECTS).map(|item| {
        let mut object = serde_json::Map::new();
        for name in [
            "namespace",
            "name",
            "creationTimestamp",
            "deletionTimestamp",
        ] {
            let value = &item["metadata"][name];
            if !value.is_null() {
                object.insert(name.to_owned(), value.clone());
            }
        }
        for field in kept {
            let mut value = item[*field].clone();
            // What a container said as it ended is its own.
            forget(&mut value, "terminated", "message");
            if !value.is_null() {
                object.insert((*field).to_owned(), value);
            }
        }
        Value::Object(object)
    });
    json!({ "count": items.len(), "items": bare.collect::<Vec<_>>() })
}

fn forget(value: &mut Value, within: &str, field: &str) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if name == within
                    && let Value::Object(inner) = member
                {
                    inner.remove(field);
                }
                forget(member, within, field);
            }
        }
        Value::Array(members) => members
            .iter_mut()
            .for_each(|member| forget(member, within, field)),
        _ => {}
    }
}

/// The end of this machine's journal of Caravel, where there is one.
async fn journal() -> String {
    let asked = tokio::process::Command::new("journalctl")
        .args(["--unit", "caravel*", "--no-pager", "--lines", LINES])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match timeout(WITHIN, asked).await {
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(Err(error)) => format!("no journal here: {error}\n"),
        Err(_) => "the journal did not answer\n".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_users_wrote_stays_out() {
        let pods = json!({ "items": [{
            "metadata": { "name": "a", "namespace": "b", "annotations": { "x": "hunter2" } },
            "spec": { "containers": [{ "env": [{ "name": "P", "value": "hunter2" }] }] },
            "status": { "phase": "Running", "containerStatuses": [{
                "lastState": { "terminated": { "exitCode": 1, "message": "hunter2" } } }] },
        }] });
        let kept = bare(&pods, &["status"]);
        assert!(!kept.to_string().contains("hunter2"), "{kept}");
        assert_eq!(kept["items"][0]["name"], "a");
        assert_eq!(kept["items"][0]["status"]["phase"], "Running");
    }

    #[test]
    fn a_bundle_is_an_archive_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("b.tar.gz");
        let files = [("x/y.txt".to_owned(), "a token=abc b\n".to_owned())];
        pack(&file, &files).unwrap();
        let read = flate2::read::GzDecoder::new(fs::File::open(&file).unwrap());
        let mut archive = tar::Archive::new(read);
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
            found.push((entry.path().unwrap().display().to_string(), text));
        }
        assert_eq!(
            found,
            [(
                "caravel/x/y.txt".to_owned(),
                "a token=<redacted> b\n".to_owned()
            )]
        );
    }
}
