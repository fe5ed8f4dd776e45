//! The last step inside the container: the checks and the exec itself. Ours instead of libcontainer's
//! because a wrong command is the commonest mistake and deserves upstream's sentence, and because what
//! this program changed in its signals must not leak into the container.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use oci_spec::runtime::Spec;

use crate::fds;
use crate::runtime::Size;

#[derive(Clone)]
pub struct Payload;

impl Executor for Payload {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let args = arguments(spec).ok_or(ExecutorError::InvalidArg)?;
        let program = find(&args[0], path_variable(spec)).map_err(ExecutorError::Other)?;
        restore_signals();
        set_size(spec);
        let program =
            CString::new(program.as_os_str().as_bytes()).map_err(|_| ExecutorError::InvalidArg)?;
        let args = args
            .iter()
            .map(|arg| CString::new(arg.as_bytes()).map_err(|_| ExecutorError::InvalidArg))
            .collect::<Result<Vec<_>, _>>()?;
        let error = match nix::unistd::execv(&program, &args) {
            Err(nix::errno::Errno::ENOEXEC) => "exec format error".to_owned(),
            Err(errno) => errno.desc().to_lowercase(),
            Ok(never) => match never {},
        };
        Err(ExecutorError::Other(format!(
            "exec {}: {error}",
            program.to_string_lossy()
        )))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let args = arguments(spec).ok_or_else(|| {
            ExecutorValidationError::ArgValidationError("no command specified".into())
        })?;
        find(&args[0], path_variable(spec))
            .map(drop)
            .map_err(ExecutorValidationError::ArgValidationError)
    }
}

/// The terminal's size, where it is known beforehand.
fn set_size(spec: &Spec) {
    let process = spec
        .process()
        .as_ref()
        .filter(|process| process.terminal() == Some(true));
    if let Some(size) = process.and_then(|process| process.console_size()) {
        let side = |length: u64| u16::try_from(length).unwrap_or(u16::MAX);
        let _ = fds::resize(
            &0,
            Size {
                width: side(size.width()),
                height: side(size.height()),
            },
        );
    }
}

fn arguments(spec: &Spec) -> Option<&Vec<String>> {
    spec.process()
        .as_ref()?
        .args()
        .as_ref()
        .filter(|args| !args.is_empty())
}

fn path_variable(spec: &Spec) -> &str {
    spec.process()
        .as_ref()
        .and_then(|process| process.env().as_ref())
        .and_then(|env| {
            env.iter()
                .rev()
                .find_map(|entry| entry.strip_prefix("PATH="))
        })
        .unwrap_or("")
}

/// As Go's `exec.LookPath`, whose errors users know.
fn find(name: &str, path: &str) -> Result<PathBuf, String> {
    if name.is_empty() {
        return Err("exec: no command".to_owned());
    }
    if name.contains('/') {
        return executable(Path::new(name))
            .map(|()| PathBuf::from(name))
            .map_err(|why| {
                format!("exec: \"{name}\": stat {name}: {why}").replace(
                    &format!("stat {name}: permission denied"),
                    "permission denied",
                )
            });
    }
    let mut refused = false;
    for directory in path.split(':') {
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(why) => refused |= why == "permission denied",
        }
    }
    let why = if refused {
        "permission denied"
    } else {
        "executable file not found in $PATH"
    };
    Err(format!("exec: \"{name}\": {why}"))
}

fn executable(path: &Path) -> Result<(), String> {
    let meta = std::fs::metadata(path).map_err(|error| match error.raw_os_error() {
        Some(libc::EACCES) => "permission denied".to_owned(),
        _ => "no such file or directory".to_owned(),
    })?;
    if meta.is_dir() {
        return Err("permission denied".to_owned());
    }
    nix::unistd::access(path, nix::unistd::AccessFlags::X_OK)
        .map_err(|_| "permission denied".to_owned())
}

/// Rust ignores SIGPIPE and the shim blocks SIGCHLD; both would be inherited through exec.
fn restore_signals() {
    let none = nix::sys::signal::SigSet::empty();
    let _ = none.thread_set_mask();
    for signal in nix::sys::signal::Signal::iterator() {
        // SAFETY: the default disposition runs no code of ours; single-threaded and about to exec.
        let _ = unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences() {
        for (name, path, want) in [
            (
                "nosuch",
                "/bin:/usr/bin",
                Err("exec: \"nosuch\": executable file not found in $PATH"),
            ),
            (
                "/no/such",
                "",
                Err("exec: \"/no/such\": stat /no/such: no such file or directory"),
            ),
            ("/etc", "", Err("exec: \"/etc\": permission denied")),
            ("sh", "/nowhere:/bin", Ok("/bin/sh")),
        ] {
            let got = find(name, path);
            assert_eq!(
                got.as_deref()
                    .map(|p| p.to_str().unwrap())
                    .map_err(String::as_str),
                want
            );
        }
    }
}
