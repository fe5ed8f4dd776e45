//! What a controller may want done. A plan is a list of these, and one hand carries out every plan.
//!
//! Actions are values: they print, compare and carry the revision or uid that they were decided on, so that a
//! decision made on what is no longer true is refused and taken again.

use std::fmt;

use caravel_api::{ApiError, Kind, NodeName, ObjectName, Revision, Row, Uid};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use serde_json::Value;

use crate::events::EventRecord;

/// What becomes of the dependents of a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// How an object is to be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletion {
    /// Delete only the object that has this uid; empty: whichever has the name.
    pub uid: Uid,
    pub grace_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
    /// Delete only at this revision.
    pub revision: Option<Revision>,
}

/// Which event (reason and message) tells how an action ended. `{name}` in `done` is the object's name, `{error}` in
/// `failed` the refusal; an empty reason tells nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub about: ObjectReference,
    pub done: (&'static str, String),
    pub failed: (&'static str, String),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// `object` has metadata.name or metadata.generateName.
    Create {
        row: &'static Row,
        namespace: String,
        object: Value,
        note: Option<Note>,
    },
    /// `object` carries the resourceVersion it was read at.
    Update {
        row: &'static Row,
        name: ObjectName,
        object: Value,
    },
    UpdateStatus {
        row: &'static Row,
        name: ObjectName,
        object: Value,
    },
    Delete {
        row: &'static Row,
        name: ObjectName,
        how: Deletion,
        note: Option<Note>,
    },
    /// Takes finalizers out of a namespace's spec (`namespaces/<name>/finalize`).
    Finalize { namespace: String, object: Value },
    /// `uid`: only the pod that was looked at.
    Bind {
        pod: ObjectName,
        uid: Uid,
        node: NodeName,
    },
    /// Never reaches a hand: the recorder turns it into writes of Events.
    Emit(EventRecord),
}

impl Action {
    pub fn create<K: Kind>(object: &K) -> Self {
        let namespace = object.metadata().namespace.clone().unwrap_or_default();
        Action::Create {
            row: K::row(),
            namespace,
            object: value(object),
            note: None,
        }
    }

    pub fn update<K: Kind>(object: &K) -> Self {
        Action::Update {
            row: K::row(),
            name: name_of(object),
            object: value(object),
        }
    }

    pub fn update_status<K: Kind>(object: &K) -> Self {
        Action::UpdateStatus {
            row: K::row(),
            name: name_of(object),
            object: value(object),
        }
    }

    /// Deletes exactly this object, by its uid, with the kind's own propagation.
    pub fn delete<K: Kind>(object: &K) -> Self {
        let uid = Uid::from(object.metadata().uid.as_deref().unwrap_or_default());
        Action::Delete {
            row: K::row(),
            name: name_of(object),
            how: Deletion {
                uid,
                ..Deletion::default()
            },
            note: None,
        }
    }

    pub fn noted(mut self, with: Note) -> Self {
        if let Action::Create { note, .. } | Action::Delete { note, .. } = &mut self {
            *note = Some(with);
        }
        self
    }
}

/// An object as it goes to the API, `apiVersion` and `kind` included.
fn value<K: Kind>(object: &K) -> Value {
    serde_json::to_value(object).expect("typed objects have string keys only")
}

pub fn name_of<K: Kind>(object: &K) -> ObjectName {
    let metadata = object.metadata();
    ObjectName::new(
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

/// A reference to `object`, as events and notes carry it.
pub fn reference<K: Kind>(object: &K) -> ObjectReference {
    let metadata = object.metadata();
    ObjectReference {
        api_version: Some(K::row().api_version()),
        kind: Some(K::row().kind.to_owned()),
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        resource_version: metadata.resource_version.clone(),
        uid: metadata.uid.clone(),
        field_path: None,
    }
}

/// One line, as tests and traces show it.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Create {
                row,
                namespace,
                object,
                ..
            } => {
                let metadata = &object["metadata"];
                let name = match (metadata["name"].as_str(), metadata["generateName"].as_str()) {
                    (Some(name), _) => name.to_owned(),
                    (None, base) => format!("{}*", base.unwrap_or_default()),
                };
                write!(
                    f,
                    "create {} {}",
                    row.singular,
                    ObjectName::new(namespace.clone(), name)
                )
            }
            Action::Update { row, name, .. } => write!(f, "update {} {name}", row.singular),
            Action::UpdateStatus { row, name, .. } => write!(f, "status {} {name}", row.singular),
            Action::Delete { row, name, how, .. } => {
                write!(f, "delete {} {name}", row.singular)?;
                match how.propagation {
                    Some(propagation) => {
                        write!(f, " {}", format!("{propagation:?}").to_lowercase())
                    }
                    None => Ok(()),
                }
            }
            Action::Finalize { namespace, .. } => write!(f, "finalize namespace {namespace}"),
            Action::Bind { pod, node, .. } => write!(f, "bind {pod} to {node}"),
            Action::Emit(record) => write!(f, "event {record}"),
        }
    }
}

/// What is to be done, in order, and when to look again even if nothing changes.
///
/// Consecutive creates are carried out in batches of 1, 2, 4, ... and end at the first batch in which one fails
/// (upstream's slow start); consecutive deletes go together. An action that fails ends the plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub again_at: Option<Timestamp>,
}

impl Plan {
    pub fn nothing() -> Self {
        Plan::default()
    }

    pub fn of(actions: Vec<Action>) -> Self {
        Plan {
            actions,
            again_at: None,
        }
    }

    pub fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// Looks again at `at`, or sooner if that was wanted already.
    pub fn again(&mut self, at: Timestamp) {
        self.again_at = Some(self.again_at.map_or(at, |before| before.min(at)));
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for action in &self.actions {
            writeln!(f, "{action}")?;
        }
        match self.again_at {
            Some(at) => writeln!(f, "again at {at}"),
            None => Ok(()),
        }
    }
}

/// What became of the previous plan's actions: the line of each that was refused, and why. Empty after a restart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcomes {
    pub refused: Vec<(String, ApiError)>,
}

impl Outcomes {
    /// The first refusal of an action whose line begins so: `create pod`.
    pub fn refusal(&self, line: &str) -> Option<&ApiError> {
        self.refused
            .iter()
            .find(|(action, _)| action.starts_with(line))
            .map(|(_, error)| error)
    }
}
