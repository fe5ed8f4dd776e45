//! Layers that are good, and layers that must be refused.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use tar::{Builder, EntryType, Header};

use super::*;

enum Item {
    File(&'static str, &'static str, u32),
    Dir(&'static str),
    Sym(&'static str, &'static str),
    Hard(&'static str, &'static str),
    Dev(&'static str, EntryType, u32, u32),
    Attribute(&'static str, &'static str),
}
use Item::*;

fn tar_of(items: &[Item]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for item in items {
        let mut header = Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        header.set_mode(0o644);
        header.set_size(0);
        let (name, target, body): (&str, Option<&str>, &str) = match item {
            File(name, body, mode) => {
                header.set_entry_type(EntryType::Regular);
                header.set_mode(*mode);
                (name, None, body)
            }
            Dir(name) => {
                header.set_entry_type(EntryType::Directory);
                header.set_mode(0o755);
                (name, None, "")
            }
            Sym(name, target) => {
                header.set_entry_type(EntryType::Symlink);
                (name, Some(target), "")
            }
            Hard(name, target) => {
                header.set_entry_type(EntryType::Link);
                (name, Some(target), "")
            }
            Dev(name, kind, major, minor) => {
                header.set_entry_type(*kind);
                header.set_device_major(*major).unwrap();
                header.set_device_minor(*minor).unwrap();
                (name, None, "")
            }
            Attribute(name, key) => {
                builder
                    .append_pax_extensions([(*key, b"y".as_slice())])
                    .unwrap();
                header.set_entry_type(EntryType::Regular);
                (name, None, "")
            }
        };
        header.set_size(body.len() as u64);
        // Written by hand: the builder refuses the very names that are tested.
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..name.len()].copy_from_slice(name.as_bytes());
        if let Some(target) = target {
            gnu.linkname[..target.len()].copy_from_slice(target.as_bytes());
        }
        header.set_cksum();
        builder.append(&header, body.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn unpacked(items: &[Item]) -> (tempfile::TempDir, Result<(), LayerError>) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let result = unpack(
        tar_of(items).as_slice(),
        &root,
        Limits {
            entries: 100,
            bytes: 1 << 20,
        },
    );
    (directory, result)
}

#[test]
fn good_layers_keep_what_they_say() {
    let (directory, result) = unpacked(&[
        Dir("./usr/lib/"),
        Sym("lib", "usr/lib"),
        File("lib/a", "through a link inside", 0o4755),
        Hard("b", "usr/lib/a"),
        Sym("absolute", "/etc/passwd"),
        File("no/parent/yet", "x", 0o600),
        File("no/parent/yet", "again", 0o600),
        Dev("dev/null", EntryType::Char, 1, 3),
    ]);
    result.unwrap();
    let root = directory.path().join("root");
    assert_eq!(
        std::fs::read_to_string(root.join("usr/lib/a")).unwrap(),
        "through a link inside"
    );
    assert_eq!(
        std::fs::metadata(root.join("usr/lib/a"))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777,
        0o4755
    );
    assert_eq!(
        std::fs::metadata(root.join("b")).unwrap().ino(),
        std::fs::metadata(root.join("usr/lib/a")).unwrap().ino()
    );
    assert_eq!(
        std::fs::metadata(root.join("usr/lib")).unwrap().mtime(),
        1_000_000
    );
    assert_eq!(
        std::fs::read_to_string(root.join("no/parent/yet")).unwrap(),
        "again"
    );
}

#[test]
fn whiteouts_become_overlays_own() {
    let (directory, result) = unpacked(&[
        File("a/.wh.gone", "", 0o644),
        File("b/.wh..wh..opq", "", 0o644),
        File("b/new", "n", 0o644),
    ]);
    result.unwrap();
    let root = directory.path().join("root");
    let gone = std::fs::symlink_metadata(root.join("a/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(
        xattr::get(root.join("b"), "trusted.overlay.opaque").unwrap(),
        Some(b"y".to_vec())
    );
}

#[test]
fn tricks_are_refused() {
    for (name, items) in [
        ("climbing", vec![File("../evil", "x", 0o644)]),
        ("climbing inside", vec![File("a/../../evil", "x", 0o644)]),
        (
            "through an absolute link",
            vec![Sym("out", "/tmp"), File("out/evil", "x", 0o644)],
        ),
        (
            "through a climbing link",
            vec![Sym("out", "../.."), File("out/evil", "x", 0o644)],
        ),
        ("a hard link out", vec![Hard("evil", "../../etc/passwd")]),
        (
            "a hard link through a link",
            vec![Sym("out", "/etc"), Hard("evil", "out/passwd")],
        ),
        ("a block device", vec![Dev("disk", EntryType::Block, 8, 0)]),
        ("memory", vec![Dev("mem", EntryType::Char, 1, 1)]),
        (
            "a hand-made whiteout",
            vec![Dev("etc", EntryType::Char, 0, 0)],
        ),
        ("a whiteout of ..", vec![File("a/.wh...", "", 0o644)]),
        (
            "overlay's attributes",
            vec![Attribute("f", "SCHILY.xattr.trusted.overlay.redirect")],
        ),
        (
            "a loop of links",
            vec![Sym("a", "b"), Sym("b", "a"), File("a/x", "", 0o644)],
        ),
    ] {
        let (directory, result) = unpacked(&items);
        assert!(
            matches!(result, Err(LayerError::Refused { .. })),
            "{name}: {result:?}"
        );
        assert!(!directory.path().join("evil").exists(), "{name}");
        assert!(!Path::new("/tmp/evil").exists(), "{name}");
    }
}

#[test]
fn bombs_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let tar = tar_of(&[File("a", "0123456789", 0o644), File("b", "", 0o644)]);
    assert!(matches!(
        unpack(
            tar.as_slice(),
            directory.path(),
            Limits {
                entries: 1,
                bytes: 1 << 20
            }
        ),
        Err(LayerError::TooMany(1))
    ));
    assert!(matches!(
        unpack(
            tar.as_slice(),
            directory.path(),
            Limits {
                entries: 9,
                bytes: 700
            }
        ),
        Err(LayerError::TooLarge(700))
    ));
    // A long file of zeros behind a small one: the limit holds while it is written.
    let zeros = io::Read::chain(tar.as_slice(), io::repeat(0)).take(1 << 22);
    assert!(matches!(
        unpack(
            zeros,
            directory.path(),
            Limits {
                entries: 9,
                bytes: 1 << 20
            }
        ),
        Err(LayerError::TooLarge(_))
    ));
}
