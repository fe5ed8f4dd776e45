//! Archives in, images out; and those that must be refused.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::{ImageStore, Registries};

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, body) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, *body).unwrap();
    }
    builder.into_inner().unwrap()
}

fn sha(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

struct Case {
    store: ImageStore,
    dir: tempfile::TempDir,
}

fn case() -> Case {
    let dir = tempfile::tempdir().unwrap();
    Case {
        store: ImageStore::open(&dir.path().join("store"), Registries::default()).unwrap(),
        dir,
    }
}

impl Case {
    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn config(diff: &str) -> Vec<u8> {
    format!(r#"{{"architecture":"{}","os":"linux","config":{{"Env":["A=1"],"Cmd":["sh"],"Entrypoint":null,"WorkingDir":"/w","StopSignal":"SIGQUIT"}},"rootfs":{{"type":"layers","diff_ids":["sha256:{diff}"]}}}}"#, crate::manifest::architecture()).into_bytes()
}

fn docker_archive(layer: &[u8], diff: &str) -> Vec<u8> {
    let config = config(diff);
    let manifest = r#"[{"Config":"c.json","RepoTags":["busybox:1.36"],"Layers":["l/layer.tar"]}]"#;
    tar_of(&[
        ("l/layer.tar", layer),
        ("c.json", &config),
        ("manifest.json", manifest.as_bytes()),
    ])
}

#[tokio::test]
async fn docker_archives_and_layouts_are_imported() {
    let case = case();
    let layer = tar_of(&[("bin/sh", b"#!"), ("etc/passwd", b"root")]);
    let image = &case
        .store
        .import(&case.file("a.tar.gz", &gzip(&docker_archive(&layer, &sha(&layer)))))
        .await
        .unwrap()[0];
    assert_eq!(image.references, ["docker.io/library/busybox:1.36"]);
    assert_eq!(image.config.cmd, ["sh"]);
    assert_eq!(image.config.stop_signal.as_deref(), Some("SIGQUIT"));
    assert_eq!(
        std::fs::read(image.layers[0].join("bin/sh")).unwrap(),
        b"#!"
    );
    assert_eq!(
        case.store.get("busybox:1.36").unwrap().as_ref(),
        Some(image)
    );
    assert_eq!(case.store.get(&image.id).unwrap().as_ref(), Some(image));
    assert_eq!(case.store.get("busybox:1.37").unwrap(), None);

    // The same content as an OCI layout with a compressed layer, under another name: the layer is shared.
    let zipped = gzip(&layer);
    let config = config(&sha(&layer));
    let describe = |bytes: &[u8], more: &str| {
        format!(
            r#"{{"mediaType":"x","digest":"sha256:{}","size":{}{more}}}"#,
            sha(bytes),
            bytes.len()
        )
    };
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        describe(&config, ""),
        describe(&zipped, "")
    )
    .into_bytes();
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        describe(
            &manifest,
            r#","annotations":{"org.opencontainers.image.ref.name":"other:2"}"#
        )
    );
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", sha(bytes));
    let layout = tar_of(&[
        ("index.json", index.as_bytes()),
        (&blob(&manifest), &manifest),
        (&blob(&config), &config),
        (&blob(&zipped), &zipped),
    ]);
    let other = &case
        .store
        .import(&case.file("b.tar", &layout))
        .await
        .unwrap()[0];
    assert_eq!(other.layers, image.layers);

    // A second process sees it; a collection takes only what nobody names.
    let again = ImageStore::open(&case.dir.path().join("store"), Registries::default()).unwrap();
    assert_eq!(again.list().unwrap().len(), 1, "two names of one identity");
    assert!(case.store.remove("busybox:1.36").unwrap());
    assert!(again.get("busybox:1.36").unwrap().is_none());
    case.store.gc(&BTreeSet::new()).unwrap();
    assert!(
        again.get("other:2").unwrap().unwrap().layers[0]
            .join("bin/sh")
            .exists()
    );
    assert!(case.store.remove("other:2").unwrap());
    // A container stands on it: the layer stays though no image has it any more.
    let standing = image.layers.iter().cloned().collect();
    let freed = case.store.gc(&standing).unwrap();
    assert!(freed > 0 && image.layers[0].join("bin/sh").exists());
    case.store.gc(&BTreeSet::new()).unwrap();
    assert!(!image.layers[0].exists());
}

#[tokio::test]
async fn images_of_a_directory_are_pinned_while_it_has_them() {
    let case = case();
    let layer = tar_of(&[("bin/sh", b"#!")]);
    let directory = case.dir.path().join("images");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(
        directory.join("a.tar"),
        docker_archive(&layer, &sha(&layer)),
    )
    .unwrap();
    let imported = case.store.import_directory(&directory).await;
    let id = imported[0].as_ref().unwrap()[0].id.clone();
    assert_eq!(case.store.pinned(), BTreeSet::from([id.clone()]));
    assert!(
        case.store.import_directory(&directory).await.is_empty(),
        "it has not changed"
    );
    assert_eq!(
        case.store.pinned(),
        BTreeSet::from([id]),
        "also at a later start"
    );
    std::fs::remove_file(directory.join("a.tar")).unwrap();
    assert_eq!(case.store.pinned(), BTreeSet::new());
}

#[tokio::test]
async fn what_lies_is_refused() {
    let case = case();
    let layer = tar_of(&[("bin/sh", b"#!")]);
    for (name, bytes, says) in [
        (
            "diff.tar",
            docker_archive(&layer, &"0".repeat(64)),
            "refused",
        ),
        (
            "bomb.tar",
            docker_archive(
                &gzip(&tar_of(&[("zeros", &vec![0; 300 << 20])])),
                &sha(&layer),
            ),
            "bomb",
        ),
        ("empty.tar", tar_of(&[("x", b"")]), "neither"),
        (
            "garbage.tar",
            b"not a tar at all, but long enough to be looked at as if it were one".repeat(20),
            "import",
        ),
        (
            "digest.tar",
            tar_of(&[(
                "index.json",
                format!(
                    r#"{{"manifests":[{{"digest":"sha256:{}","size":1}}]}}"#,
                    "a".repeat(64)
                )
                .as_bytes(),
            )]),
            "no blob",
        ),
        (
            "traversal.tar",
            tar_of(&[(
                "index.json",
                br#"{"manifests":[{"digest":"sha256:../../../../etc/passwd","size":1}]}"#,
            )]),
            "not a sha256 digest",
        ),
    ] {
        let error = case
            .store
            .import(&case.file(name, &bytes))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(says), "{name}: {error}");
    }
    assert!(case.store.list().unwrap().is_empty());
    let left: Vec<_> = std::fs::read_dir(case.dir.path().join("store/layers"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_directory_is_imported_once() {
    let case = case();
    let layer = tar_of(&[("bin/sh", b"#!")]);
    let images = case.dir.path().join("images");
    std::fs::create_dir(&images).unwrap();
    std::fs::write(images.join("b.tar"), docker_archive(&layer, &sha(&layer))).unwrap();
    std::fs::write(images.join("a.tar"), b"broken").unwrap();
    let first = case.store.import_directory(&images).await;
    assert_eq!(
        first.iter().map(Result::is_ok).collect::<Vec<_>>(),
        [false, true]
    );
    assert_eq!(
        case.store.import_directory(&images).await.len(),
        1,
        "only the broken one is tried again"
    );
    assert!(
        case.store
            .import_directory(Path::new("/does/not/exist"))
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn a_registry_that_refuses_fails_at_once() {
    let case = case();
    let error = case.store.pull("127.0.0.1:1/x:1", &[]).await.unwrap_err();
    assert_eq!(error.reason.as_str(), "ErrImagePull");
    assert!(
        error
            .message
            .contains("failed to pull and unpack image \"127.0.0.1:1/x:1\""),
        "{}",
        error.message
    );
    assert_eq!(
        case.store
            .pull("No Such", &[])
            .await
            .unwrap_err()
            .reason
            .as_str(),
        "InvalidImageName"
    );
}
