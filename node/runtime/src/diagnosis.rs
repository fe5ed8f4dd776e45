//! Why libcontainer failed. Its errors lose their causes on the way between its processes, but it logs
//! each with `tracing` where it happens: those lines go to a file (never to a stream that the
//! container gets), and the first of them is the cause.

use std::fmt::{Debug, Write as _};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

pub struct Diagnosis {
    path: PathBuf,
}

impl Diagnosis {
    /// Collects from now on, in this process and those it forks.
    pub fn collect(path: PathBuf) -> std::io::Result<Diagnosis> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        // A second call in one process changes nothing.
        let _ = tracing::subscriber::set_global_default(ErrorLines(file));
        Ok(Diagnosis { path })
    }

    /// The error and, when it says more, the cause.
    pub fn explain(&self, error: &(dyn std::error::Error + 'static)) -> String {
        compose(
            &nested(error),
            &std::fs::read_to_string(&self.path).unwrap_or_default(),
        )
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn compose(error: &str, lines: &str) -> String {
    // A wrong command is the user's mistake and known by one sentence alone.
    if let Some(start) = error.find("exec: \"") {
        return error[start..].to_owned();
    }
    match lines.lines().next() {
        Some(cause) if !error.contains(cause) => format!("{error}: {cause}"),
        _ => error.to_owned(),
    }
}

fn nested(error: &(dyn std::error::Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        // A tenant's error arrives padded with zero bytes.
        let text = error.to_string().replace('\0', "");
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}

struct ErrorLines(File);

impl Subscriber for ErrorLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let _ = (&self.0).write_all(format!("{}{}\n", line.message, line.fields).as_bytes());
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let value = format!("{value:?}").replace('\n', " ");
        if field.name() == "message" {
            self.message = value;
        } else {
            let _ = write!(self.fields, " {}={value}", field.name());
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sentences() {
        for (error, lines, want) in [
            (
                "failed to create container: exec: \"x\": no",
                "noise",
                "exec: \"x\": no",
            ),
            (
                "failed to mount",
                "failed to open /a err=ENOENT\nfailed to mount",
                "failed to mount: failed to open /a err=ENOENT",
            ),
            ("failed", "", "failed"),
        ] {
            assert_eq!(super::compose(error, lines), want);
        }
    }
}
