//! Pulls from a registry of this test's own, over plain HTTP on loopback, honest and otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::Registries;
use crate::registries::Mirror;

struct Registry {
    host: String,
    asked: Arc<AtomicUsize>,
}

/// Serves each path of `pages`; everything else is 404.
async fn registry(pages: BTreeMap<String, Vec<u8>>) -> Registry {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    tokio::spawn(async move {
        let pages = Arc::new(pages);
        while let Ok((mut stream, _)) = listener.accept().await {
            let (pages, counter) = (pages.clone(), counter.clone());
            tokio::spawn(async move {
                let mut head = Vec::new();
                let mut buffer = [0; 4096];
                while let Ok(read) = stream.read(&mut buffer).await {
                    if read == 0 {
                        return;
                    }
                    head.extend_from_slice(&buffer[..read]);
                    while let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") {
                        let text = String::from_utf8_lossy(&head[..end]).into_owned();
                        head.drain(..end + 4);
                        let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
                        if path.contains("/manifests/") {
                            counter.fetch_add(1, Ordering::SeqCst);
                        }
                        let (status, body) = match pages.get(&path) {
                            Some(body) => ("200 OK", body.clone()),
                            None if path == "/v2/" => ("200 OK", Vec::new()),
                            None => ("404 Not Found", br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#.to_vec()),
                        };
                        let answer = format!(
                            "HTTP/1.1 {status}\r\ncontent-type: application/vnd.oci.image.manifest.v1+json\r\ncontent-length: {}\r\n\r\n",
                            body.len()
                        );
                        if stream.write_all(answer.as_bytes()).await.is_err()
                            || stream.write_all(&body).await.is_err()
                        {
                            return;
                        }
                    }
                }
            });
        }
    });
    Registry { host, asked }
}

/// The pages of a small image, and its manifest's digest.
fn image(repository: &str, tag: &str) -> (BTreeMap<String, Vec<u8>>, String) {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    builder
        .append_data(&mut header, "bin/sh", &b"hello"[..])
        .unwrap();
    let layer = builder.into_inner().unwrap();
    let config = format!(r#"{{"architecture":"{}","os":"linux","config":{{"Cmd":["sh"]}},"rootfs":{{"diff_ids":["{}"]}}}}"#, crate::manifest::architecture(), digest_of(&layer)).into_bytes();
    let describe = |bytes: &[u8]| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}"#,
            digest_of(bytes),
            bytes.len()
        )
    };
    let manifest = format!(r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]}}"#, describe(&config), describe(&layer)).into_bytes();
    let digest = digest_of(&manifest);
    let blob = |bytes: &[u8]| format!("/v2/{repository}/blobs/{}", digest_of(bytes));
    let pages = [
        (
            format!("/v2/{repository}/manifests/{tag}"),
            manifest.clone(),
        ),
        (format!("/v2/{repository}/manifests/{digest}"), manifest),
        (blob(&config), config),
        (blob(&layer), layer),
    ];
    (pages.into(), digest)
}

fn store(registry: &str, endpoint: &str) -> (tempfile::TempDir, ImageStore) {
    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirror {
        endpoint: vec![endpoint.to_owned()],
    };
    let registries = Registries {
        mirrors: [(registry.to_owned(), mirror)].into(),
        ..Registries::default()
    };
    let store = ImageStore::open(dir.path(), registries).unwrap();
    (dir, store)
}

#[tokio::test]
async fn by_tag_and_by_digest_once_for_all_who_ask() {
    let (pages, digest) = image("team/app", "1.0");
    let registry = registry(pages).await;
    let (_dir, store) = store("example.test", &format!("http://{}", registry.host));
    let pulls = (0..8).map(|_| store.pull("example.test/team/app:1.0", &[]));
    let pulled: Vec<_> = futures::future::join_all(pulls).await;
    let first = pulled[0].as_ref().unwrap();
    assert!(pulled.iter().all(|p| p.as_ref().is_ok_and(|i| i == first)));
    assert_eq!(
        registry.asked.load(Ordering::SeqCst),
        1,
        "one transfer for eight who ask"
    );
    assert_eq!(
        first.references,
        [
            "example.test/team/app:1.0".to_owned(),
            format!("example.test/team/app@{digest}")
        ]
    );
    assert_eq!(
        std::fs::read(first.layers[0].join("bin/sh")).unwrap(),
        b"hello"
    );

    let by_digest = format!("example.test/team/app@{digest}");
    assert_eq!(store.get(&by_digest).unwrap().as_ref(), Some(first));
    assert_eq!(store.pull(&by_digest, &[]).await.unwrap().id, first.id);
}

#[tokio::test]
async fn what_a_registry_gets_wrong_is_refused() {
    let (good, digest) = image("app", "1");
    let other = format!("sha256:{}", "0".repeat(64));
    for (story, change, asked, says) in [
        ("another layer", "/blobs/", "example.test/app:1", "igest"),
        (
            "another manifest",
            "/manifests/sha256",
            &format!("example.test/app@{digest}"),
            "igest",
        ),
        ("no such tag", "", "example.test/app:2", "anifest"),
        (
            "no such digest",
            "",
            &format!("example.test/app@{other}"),
            "anifest",
        ),
    ] {
        let mut pages = good.clone();
        for (path, body) in &mut pages {
            if !change.is_empty() && path.contains(change) {
                let last = body.len() - 1;
                body[last] ^= 1;
            }
        }
        let registry = registry(pages).await;
        let (dir, store) = store("example.test", &format!("http://{}", registry.host));
        let error = store.pull(asked, &[]).await.unwrap_err();
        assert_eq!(error.reason, Reason::ErrImagePull, "{story}");
        assert!(error.message.contains(says), "{story}: {}", error.message);
        assert!(store.list().unwrap().is_empty(), "{story}");
        assert_eq!(
            std::fs::read_dir(dir.path().join("layers"))
                .unwrap()
                .count(),
            0,
            "{story}"
        );
    }
}

#[tokio::test]
async fn a_silent_registry_holds_up_nobody_else() {
    let (pages, _) = image("app", "1");
    let registry = registry(pages).await;
    // Accepts and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mirror = |endpoint: String| Mirror {
        endpoint: vec![endpoint],
    };
    let registries = Registries {
        mirrors: [
            (
                "silent.test".to_owned(),
                mirror(format!("http://{address}")),
            ),
            (
                "example.test".to_owned(),
                mirror(format!("http://{}", registry.host)),
            ),
        ]
        .into(),
        ..Registries::default()
    };
    let store = ImageStore::open(dir.path(), registries).unwrap();
    tokio::select! {
        biased;
        _ = store.pull("silent.test/app:1", &[]) => panic!("it cannot answer"),
        pulled = store.pull("example.test/app:1", &[]) => drop(pulled.unwrap()),
    }
}
