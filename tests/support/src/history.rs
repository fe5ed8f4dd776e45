//! What clients did and what they were told, with times of one clock. The only evidence that the checks use.
//!
//! Every value is written at most once in a run, so that whoever sees it knows whose write it is.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::io::{BufRead as _, Write as _};
use std::path::Path;

/// Nanoseconds since the run began.
pub type Time = u64;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Of an object that must not exist.
    Create { value: String },
    /// By the resourceVersion under which `expected` had been read.
    Update { expected: String, value: String },
    /// A consistent GET.
    Read,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Of a write: acknowledged. Of a read: the value.
    Done { value: String, revision: u64 },
    /// There is no such object.
    Absent,
    /// Of a create: it exists. Of an update: it has another value than the expected one.
    Conflict,
    /// The server said, or the lack of a connection shows, that nothing happened.
    Refused,
    /// It may have happened, or may happen later.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    pub server: String,
    pub key: String,
    pub action: Action,
    pub invoked: Time,
    pub returned: Time,
    pub outcome: Outcome,
}

impl Operation {
    /// What it wrote or would have.
    pub fn value(&self) -> Option<&str> {
        match &self.action {
            Action::Create { value } | Action::Update { value, .. } => Some(value),
            Action::Read => None,
        }
    }

    /// The revision of a write that was acknowledged.
    pub fn acknowledged(&self) -> Option<u64> {
        match (&self.action, &self.outcome) {
            (Action::Read, _) => None,
            (_, Outcome::Done { revision, .. }) => Some(*revision),
            _ => None,
        }
    }
}

/// Something done to the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub at: Time,
    pub what: String,
    /// Whether it takes the leader away, so that the time to the next write is of interest.
    pub fault: bool,
}

/// An object at the end: the values written to it, in their order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Final {
    pub key: String,
    pub values: Vec<String>,
}

/// An object that a backup brought back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub key: String,
    pub values: Vec<String>,
    pub revision: u64,
}

/// The cluster was begun again from a backup: what was written after the backup is gone by definition, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// When no server of before ran any more, and none of after yet.
    pub at: Time,
    /// Of the backup.
    pub revision: u64,
    /// The least revision that anything can have since.
    pub since: u64,
    /// What the restored cluster held before anything was written to it.
    pub objects: Vec<Kept>,
}

/// One line of a history file.
#[derive(Serialize, Deserialize)]
enum Line {
    Operation(Operation),
    Mark(Mark),
    Final(Final),
    Restored(Restored),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    pub operations: Vec<Operation>,
    pub marks: Vec<Mark>,
    pub end: Vec<Final>,
    pub restored: Option<Restored>,
}

impl History {
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let file =
            std::fs::File::create(path).with_context(|| format!("write {}", path.display()))?;
        let mut file = std::io::BufWriter::new(file);
        let lines = (self.operations.iter().cloned().map(Line::Operation))
            .chain(self.marks.iter().cloned().map(Line::Mark))
            .chain(self.end.iter().cloned().map(Line::Final))
            .chain(self.restored.iter().cloned().map(Line::Restored));
        for line in lines {
            serde_json::to_writer(&mut file, &line)?;
            file.write_all(b"\n")?;
        }
        Ok(file.flush()?)
    }

    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let file = std::fs::File::open(path).with_context(|| format!("read {}", path.display()))?;
        let mut history = History::default();
        for line in std::io::BufReader::new(file).lines() {
            match serde_json::from_str(&line?)? {
                Line::Operation(operation) => history.operations.push(operation),
                Line::Mark(mark) => history.marks.push(mark),
                Line::Final(object) => history.end.push(object),
                Line::Restored(restored) => history.restored = Some(restored),
            }
        }
        Ok(history)
    }
}
