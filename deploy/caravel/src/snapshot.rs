//! `caravel snapshot`: save, list, verify and restore backups.

use crate::cli::{Output, SnapshotCommand};
use crate::{member, server};
use anyhow::Context as _;
use caravel_rpc::cluster::v1::{SaveSnapshotRequest, SnapshotInfo};
use caravel_server::backups;
use caravel_store::backup::{self, BackupHead};
use serde_json::json;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often progress is shown.
const SAY: Duration = Duration::from_secs(1);

pub async fn run(command: SnapshotCommand) -> anyhow::Result<()> {
    match command {
        SnapshotCommand::Save { admin, file } => {
            let (_, mut client) = member::connect(&admin).await?;
            let answer = client.save_snapshot(SaveSnapshotRequest {}).await;
            let pieces = answer
                .map_err(|status| member::refused(&status))?
                .into_inner();
            let path = save(pieces, file).await?;
            println!("{}", path.display());
        }
        SnapshotCommand::List { dir, output } => {
            let found = backups::list(&dir)?;
            match output {
                Output::Table => print!("{}", table(&found)),
                Output::Json => println!("{:#}", document(&found)),
            }
        }
        SnapshotCommand::Verify { file, keys } => {
            let head = tokio::task::spawn_blocking(move || verify(&file, &keys)).await??;
            println!("whole: {}", words(&head));
        }
        SnapshotCommand::Restore {
            file,
            replace,
            server,
        } => {
            let config = server::config(*server)?;
            let restored =
                tokio::task::spawn_blocking(move || backups::restore(&config, &file, replace));
            let (head, aside) = restored.await??;
            println!("restored: {}", words(&head));
            if let Some(aside) = aside {
                println!("the store that was here is now {}", aside.display());
            }
            println!(
                "start this server as before; the others: move their data directory away, and start them with --join URL --token TOKEN"
            );
        }
    }
    Ok(())
}

/// Writes what arrives into a file that is there only when it is whole.
async fn save(
    mut pieces: tonic::Streaming<caravel_rpc::cluster::v1::SaveSnapshotResponse>,
    file: Option<PathBuf>,
) -> anyhow::Result<PathBuf> {
    let next = pieces.message().await;
    let first = next
        .map_err(|status| member::refused(&status))?
        .context("the server sent nothing")?;
    let info = first.info.context("the server sent no head")?;
    let path = file.unwrap_or_else(|| backups::file_name(&head(&info)).into());
    let part = path.with_extension("part");
    let mut out = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&part)
        .with_context(|| format!("write {}", part.display()))?;
    let (mut bytes, mut said) = (0, Instant::now());
    let mut piece = first.piece;
    loop {
        out.write_all(&piece)
            .with_context(|| format!("write {}", part.display()))?;
        bytes += piece.len();
        if said.elapsed() > SAY {
            said = Instant::now();
            eprintln!("{:.1} MiB of revision {}", mib(bytes as u64), info.revision);
        }
        match pieces.message().await {
            Ok(Some(next)) => piece = next.piece,
            Ok(None) => break,
            Err(status) => {
                // Half a backup is none.
                let _ = fs::remove_file(&part);
                return Err(member::refused(&status));
            }
        }
    }
    out.sync_all()?;
    fs::rename(&part, &path).with_context(|| format!("write {}", path.display()))?;
    eprintln!("{} in {:.1} MiB", words(&head(&info)), mib(bytes as u64));
    Ok(path)
}

fn head(info: &SnapshotInfo) -> BackupHead {
    BackupHead {
        cluster: info.cluster.clone(),
        revision: info.revision,
        objects: info.objects,
        created: info.created,
    }
}

fn verify(file: &Path, keys: &Path) -> anyhow::Result<BackupHead> {
    let open = fs::File::open(file).with_context(|| format!("open {}", file.display()))?;
    let read = backup::read(std::io::BufReader::new(open), keys);
    let said = || {
        format!(
            "{}, opened with the keys in {} (--keys: the directory etc/keys of a server of its cluster)",
            file.display(),
            keys.display()
        )
    };
    Ok(read.with_context(said)?.head)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn words(head: &BackupHead) -> String {
    format!(
        "revision {}, {} objects, taken at {}",
        head.revision,
        head.objects,
        when(head.created)
    )
}

fn when(seconds: u64) -> String {
    let at = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| k8s_openapi::jiff::Timestamp::from_second(seconds).ok());
    at.map_or_else(|| seconds.to_string(), |at| at.to_string())
}

fn table(found: &[backups::Found]) -> String {
    let mut text = format!(
        "{:<22} {:<12} {:<10} {:<10} FILE\n",
        "TAKEN", "REVISION", "OBJECTS", "MIB"
    );
    for one in found {
        let unknown = || "unreadable".to_owned();
        let head = one.head.as_ref();
        text.push_str(&format!(
            "{:<22} {:<12} {:<10} {:<10.1} {}\n",
            head.map_or_else(unknown, |head| when(head.created)),
            head.map_or_else(String::new, |head| head.revision.to_string()),
            head.map_or_else(String::new, |head| head.objects.to_string()),
            mib(one.bytes),
            one.path.display()
        ));
    }
    text
}

fn document(found: &[backups::Found]) -> serde_json::Value {
    let all = found.iter().map(|one| {
        json!({
            "path": one.path,
            "bytes": one.bytes,
            "snapshot": one.head,
        })
    });
    json!({ "snapshots": all.collect::<Vec<_>>() })
}
