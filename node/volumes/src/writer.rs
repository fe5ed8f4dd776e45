//! Files of a volume, changed all at once.
//!
//! As upstream's AtomicWriter: the files lie in a directory named after the time; `..data` is a link to it that is
//! replaced by a rename; each top-level name is a link into `..data`. A reader sees the old files or the new ones.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use crate::content::{File, Files};
use crate::error::{Cause, io as failed};

const DATA: &str = "..data";

/// Makes the directory hold exactly `files`. Returns whether anything changed.
pub(crate) fn write(dir: &Path, files: &Files, group: Option<u32>) -> Result<bool, Cause> {
    let current = fs::read_link(dir.join(DATA)).ok();
    if let Some(current) = &current
        && same(&dir.join(current), files)
    {
        return Ok(false);
    }
    let stamp = jiff::Timestamp::now()
        .strftime("..%Y_%m_%d_%H_%M_%S.%9f")
        .to_string();
    let fresh = dir.join(&stamp);
    DirBuilder::new()
        .mode(0o755)
        .create(&fresh)
        .map_err(failed("create", &fresh))?;
    for (path, file) in files {
        let target = fresh.join(path);
        write_file(&fresh, &target, file, group).map_err(failed("write", &target))?;
    }
    let link = dir.join("..data_tmp");
    match fs::remove_file(&link) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &link)(e)),
        _ => {}
    }
    symlink(&stamp, &link).map_err(failed("link", &link))?;
    let data = dir.join(DATA);
    fs::rename(&link, &data).map_err(failed("replace", &data))?;
    let wanted: BTreeSet<&str> = files.keys().filter_map(|p| p.split('/').next()).collect();
    for name in &wanted {
        let visible = dir.join(name);
        let to = Path::new(DATA).join(name);
        if fs::read_link(&visible).ok().as_deref() != Some(to.as_path()) {
            symlink(&to, &visible).map_err(failed("link", &visible))?;
        }
    }
    for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
        let entry = entry.map_err(failed("list", dir))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let path = entry.path();
        if name == DATA || name == stamp {
            continue;
        } else if name.starts_with("..") {
            fs::remove_dir_all(&path)
                .or_else(|_| fs::remove_file(&path))
                .map_err(failed("remove", &path))?;
        } else if !wanted.contains(name) {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
    }
    Ok(true)
}

fn write_file(top: &Path, target: &Path, file: &File, group: Option<u32>) -> io::Result<()> {
    if let Some(parent) = target.parent().filter(|p| *p != top) {
        DirBuilder::new()
            .mode(0o755)
            .recursive(true)
            .create(parent)?;
    }
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(file.mode)
        .open(target)?;
    out.write_all(&file.content)?;
    // The mask of the process must not take bits away; a volume's group may read what its owner may.
    let mode = if group.is_some() {
        file.mode | ((file.mode & 0o400) >> 3)
    } else {
        file.mode
    };
    out.set_permissions(fs::Permissions::from_mode(mode))?;
    if let Some(group) = group {
        std::os::unix::fs::chown(target, None, Some(group))?;
    }
    Ok(())
}

fn same(dir: &Path, files: &Files) -> bool {
    let mut found = 0;
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => pending.push(entry.path()),
                _ => found += 1,
            }
        }
    }
    found == files.len()
        && files
            .iter()
            .all(|(path, file)| fs::read(dir.join(path)).is_ok_and(|now| now == file.content))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter()
            .map(|(p, c)| {
                (
                    (*p).to_owned(),
                    File {
                        content: c.as_bytes().to_vec(),
                        mode: 0o640,
                    },
                )
            })
            .collect()
    }

    fn visible(dir: &Path) -> String {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.retain(|n| !n.starts_with(".."));
        names.sort();
        names
            .iter()
            .map(|n| {
                format!(
                    "{n}={}",
                    fs::read_to_string(dir.join(n)).unwrap_or("dir".into())
                )
            })
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn files_change_all_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert!(write(dir, &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap());
        assert_eq!(visible(dir), "a=1 sub=dir");
        assert_eq!(fs::read_to_string(dir.join("sub/b")).unwrap(), "2");
        assert_eq!(
            fs::metadata(dir.join("a")).unwrap().permissions().mode() & 0o777,
            0o640
        );
        assert!(
            !write(dir, &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap(),
            "nothing changed"
        );
        let before = fs::read_link(dir.join(DATA)).unwrap();
        assert!(write(dir, &files(&[("a", "3"), ("c", "4")]), None).unwrap());
        assert_eq!(visible(dir), "a=3 c=4");
        assert!(!dir.join(before).exists(), "old files are gone");
        assert!(write(dir, &Files::new(), None).unwrap());
        assert_eq!(visible(dir), "");
    }
}
