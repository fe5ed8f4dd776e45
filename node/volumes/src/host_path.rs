//! Paths of the machine itself, checked or made as the Pod asks (upstream's hostPath types).

use std::fs::{self, DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use crate::error::{Cause, io};

/// The path, which is then there and of the kind asked for.
pub(crate) fn prepare(source: &HostPathVolumeSource) -> Result<PathBuf, Cause> {
    let path = PathBuf::from(&source.path);
    let kind = source.type_.as_deref().unwrap_or("");
    let wrong = |expected| Cause::HostPathType {
        path: source.path.clone(),
        expected,
    };
    let found = fs::metadata(&path).ok();
    match kind {
        // No check; container engines make a directory of what is not there.
        "" | "DirectoryOrCreate" if found.is_none() => {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&path)
                .map_err(io("create", &path))?;
        }
        "" => {}
        "FileOrCreate" if found.is_none() => create_file(&path)?,
        "DirectoryOrCreate" | "Directory" if !found.as_ref().is_some_and(|m| m.is_dir()) => {
            return Err(wrong("a directory"));
        }
        "FileOrCreate" | "File" if !found.as_ref().is_some_and(|m| m.is_file()) => {
            return Err(wrong("a file"));
        }
        "Socket" if !found.as_ref().is_some_and(|m| m.file_type().is_socket()) => {
            return Err(wrong("a socket file"));
        }
        "CharDevice"
            if !found
                .as_ref()
                .is_some_and(|m| m.file_type().is_char_device()) =>
        {
            return Err(wrong("a character device"));
        }
        "BlockDevice"
            if !found
                .as_ref()
                .is_some_and(|m| m.file_type().is_block_device()) =>
        {
            return Err(wrong("a block device"));
        }
        _ => {}
    }
    Ok(path)
}

fn create_file(path: &Path) -> Result<(), Cause> {
    let made = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o644)
        .open(path);
    made.map(drop).map_err(io("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        fs::write(at("file"), "").unwrap();
        for (name, kind, expected) in [
            ("file", "File", Ok(())),
            ("file", "Directory", Err("is not a directory")),
            (".", "Directory", Ok(())),
            (".", "File", Err("is not a file")),
            ("none", "Directory", Err("is not a directory")),
            ("none", "File", Err("is not a file")),
            ("none", "Socket", Err("is not a socket file")),
            ("new-file", "FileOrCreate", Ok(())),
            ("new-dir/deep", "DirectoryOrCreate", Ok(())),
            ("made", "", Ok(())),
        ] {
            let source = HostPathVolumeSource {
                path: at(name),
                type_: Some(kind.into()),
            };
            match (prepare(&source), expected) {
                (Ok(path), Ok(())) => assert!(path.exists(), "{name} {kind}"),
                (Err(cause), Err(end)) => {
                    assert!(cause.to_string().ends_with(end), "{name} {kind}: {cause}")
                }
                (got, _) => panic!("{name} {kind}: {got:?}"),
            }
        }
    }
}
