//! Collects what validation finds, with paths that cost nothing until something is wrong.

use caravel_api::{FieldError, FieldErrors, Path};
use serde_json::Value;

/// Where in an object: a chain of borrowed steps, written out only for a finding.
#[derive(Clone, Copy, Debug)]
pub enum At<'a> {
    Root,
    Member(&'a At<'a>, &'a str),
    Item(&'a At<'a>, usize),
    Key(&'a At<'a>, &'a str),
}

impl<'a> At<'a> {
    pub fn child<'b>(&'b self, name: &'b str) -> At<'b> {
        At::Member(self, name)
    }

    pub fn index(&self, at: usize) -> At<'_> {
        At::Item(self, at)
    }

    pub fn key<'b>(&'b self, key: &'b str) -> At<'b> {
        At::Key(self, key)
    }

    pub fn path(&self) -> Path {
        match self {
            At::Root => Path::root(),
            At::Member(parent, name) => parent.path().child(name),
            At::Item(parent, at) => parent.path().index(*at),
            At::Key(parent, key) => parent.path().key(key),
        }
    }
}

/// What was found wrong so far.
#[derive(Debug, Default)]
pub struct Found(FieldErrors);

impl Found {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn into_errors(self) -> FieldErrors {
        self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn required(&mut self, at: &At, detail: impl Into<String>) {
        self.0.push(FieldError::required(&at.path(), detail));
    }

    pub fn invalid(&mut self, at: &At, value: impl Into<Value>, detail: impl Into<String>) {
        self.0.push(FieldError::invalid(&at.path(), value, detail));
    }

    /// One finding per fault of the value.
    pub fn faults(&mut self, at: &At, value: &str, faults: Vec<String>) {
        for fault in faults {
            self.invalid(at, value, fault);
        }
    }

    /// As [`faults`](Self::faults), for a number.
    pub fn number_faults(&mut self, at: &At, value: i64, faults: Vec<String>) {
        for fault in faults {
            self.invalid(at, value, fault);
        }
    }

    pub fn forbidden(&mut self, at: &At, detail: impl Into<String>) {
        self.0.push(FieldError::forbidden(&at.path(), detail));
    }

    pub fn not_supported(&mut self, at: &At, value: impl Into<Value>, supported: &[&str]) {
        self.0
            .push(FieldError::not_supported(&at.path(), value, supported));
    }

    pub fn duplicate(&mut self, at: &At, value: impl Into<Value>) {
        self.0.push(FieldError::duplicate(&at.path(), value));
    }

    pub fn not_found(&mut self, at: &At, value: impl Into<Value>) {
        self.0.push(FieldError::not_found(&at.path(), value));
    }

    pub fn too_long(&mut self, at: &At, max: usize) {
        self.0.push(FieldError::too_long(&at.path(), max));
    }

    pub fn too_many(&mut self, at: &At, actual: usize, max: usize) {
        self.0.push(FieldError::too_many(&at.path(), actual, max));
    }

    pub fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    /// `new` must be what `old` was.
    pub fn immutable<T: PartialEq + serde::Serialize>(&mut self, at: &At, new: &T, old: &T) {
        if new != old {
            self.0
                .push(FieldError::immutable(&at.path(), serde_json::json!(new)));
        }
    }

    /// The value must be set and one of these.
    pub fn one_of(&mut self, at: &At, value: Option<&str>, supported: &[&str]) {
        match value {
            None | Some("") => self.required(at, ""),
            Some(value) if supported.contains(&value) => {}
            Some(value) => self.not_supported(at, value, supported),
        }
    }

    pub fn not_negative(&mut self, at: &At, value: i64) {
        if value < 0 {
            self.invalid(at, value, NOT_NEGATIVE);
        }
    }
}

pub const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

impl From<Found> for FieldErrors {
    fn from(found: Found) -> FieldErrors {
        found.0
    }
}

/// A text that is there and not empty.
pub fn text(value: &Option<String>) -> Option<&str> {
    value.as_deref().filter(|value| !value.is_empty())
}

/// Drops a member that says what leaving it out says (upstream's `omitempty` on plain values).
pub fn drop_zero<T: Default + PartialEq>(member: &mut Option<T>) {
    if member.as_ref().is_some_and(|value| *value == T::default()) {
        *member = None;
    }
}

/// Fills a member that is absent or empty.
pub fn default_text(member: &mut Option<String>, value: &str) {
    if member.as_deref().unwrap_or_default().is_empty() {
        *member = Some(value.to_owned());
    }
}
