//! Reads and makes files inside a root directory that the image's author controls: the kernel resolves
//! every path with that directory as `/`, so that no symbolic link leads out of it (openat2,
//! RESOLVE_IN_ROOT).
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// Files that name users are small; a larger one is cut.
const LARGEST: u64 = 4 * 1024 * 1024;

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

const RESOLVE_IN_ROOT: u64 = 0x10;
const RESOLVE_NO_MAGICLINKS: u64 = 0x02;

fn open(root: &OwnedFd, path: &Path, flags: i32) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let how = OpenHow {
        flags: (flags | libc::O_CLOEXEC) as u64,
        mode: 0,
        resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
    };
    // SAFETY: both pointers are valid for the call and the size is that of the structure.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            root.as_raw_fd(),
            path.as_ptr(),
            &how,
            size_of::<OpenHow>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn open_root(root: &Path) -> io::Result<OwnedFd> {
    Ok(File::open(root)?.into())
}

/// A small text file's content; empty when there is none.
pub fn read(root: &Path, path: &str) -> io::Result<String> {
    let fd = match open(
        &open_root(root)?,
        Path::new(path),
        libc::O_RDONLY | libc::O_NONBLOCK,
    ) {
        Ok(fd) => fd,
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
            ) =>
        {
            return Ok(String::new());
        }
        Err(error) => return Err(error),
    };
    let file = File::from(fd);
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `mkdir -p` below `root`.
pub fn make_directory(root: &Path, path: &Path) -> io::Result<()> {
    let top = open_root(root)?;
    let mut done = std::path::PathBuf::from("/");
    for component in path.components() {
        let name = match component {
            Component::Normal(name) => name,
            Component::ParentDir => {
                done.pop();
                continue;
            }
            _ => continue,
        };
        let parent = open(&top, &done, libc::O_PATH | libc::O_DIRECTORY)?;
        done.push(name);
        let name = CString::new(name.as_bytes())?;
        // SAFETY: the pointer is valid for the call.
        if unsafe { libc::mkdirat(parent.as_raw_fd(), name.as_ptr(), 0o755) } < 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EEXIST) {
                return Err(error);
            }
        }
    }
    open(&top, &done, libc::O_PATH | libc::O_DIRECTORY).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_do_not_lead_out() {
        let outside = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("passwd"), "secret").unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("etc")).unwrap();
        assert_eq!(read(root.path(), "/etc/passwd").unwrap(), "");
        assert!(make_directory(root.path(), Path::new("/etc/made")).is_err());
        assert!(!outside.path().join("made").exists());
        make_directory(root.path(), Path::new("/srv/../a/b")).unwrap();
        std::fs::write(root.path().join("a/b/f"), "x").unwrap();
        assert_eq!(read(root.path(), "a/b/f").unwrap(), "x");
        assert_eq!(read(root.path(), "/a").unwrap(), "");
    }
}
