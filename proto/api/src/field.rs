//! What is wrong with an object, field by field, in upstream's words.
//!
//! Follows `k8s.io/apimachinery/pkg/util/validation/field`: `spec.x[0].y: Invalid value: "v": detail`.

use std::fmt;

use serde_json::Value;

/// The way to a field, as upstream prints it: `spec.containers[0].env[key].name`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    pub fn new(name: &str) -> Self {
        Path(name.to_owned())
    }

    /// The object itself: messages about it begin with the member's name.
    pub fn root() -> Self {
        Path::default()
    }

    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() {
            Path(name.to_owned())
        } else {
            Path(format!("{}.{name}", self.0))
        }
    }

    pub fn index(&self, at: usize) -> Self {
        Path(format!("{}[{at}]", self.0))
    }

    pub fn key(&self, key: &str) -> Self {
        Path(format!("{}[{key}]", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// What is wrong, in upstream's classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TypeInvalid,
    Internal,
}

impl FieldErrorKind {
    fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }

    /// The `reason` of the cause in a Status.
    pub fn cause(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }

    fn shows_value(self) -> bool {
        !matches!(
            self,
            Self::Required | Self::Forbidden | Self::TooLong | Self::Internal
        )
    }
}

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub kind: FieldErrorKind,
    pub path: String,
    /// What stood there; `None` where upstream shows no value.
    pub value: Option<Value>,
    pub detail: String,
}

impl FieldError {
    fn new(
        kind: FieldErrorKind,
        path: &Path,
        value: Option<Value>,
        detail: impl Into<String>,
    ) -> Self {
        FieldError {
            kind,
            path: path.to_string(),
            value,
            detail: detail.into(),
        }
    }

    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Required, path, None, detail)
    }

    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Invalid, path, Some(value.into()), detail)
    }

    pub fn type_invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(
            FieldErrorKind::TypeInvalid,
            path,
            Some(value.into()),
            detail,
        )
    }

    pub fn not_supported(path: &Path, value: impl Into<Value>, supported: &[&str]) -> Self {
        let detail = if supported.is_empty() {
            String::new()
        } else {
            let mut quoted: Vec<String> =
                supported.iter().map(|value| format!("{value:?}")).collect();
            quoted.sort();
            format!("supported values: {}", quoted.join(", "))
        };
        Self::new(
            FieldErrorKind::NotSupported,
            path,
            Some(value.into()),
            detail,
        )
    }

    pub fn duplicate(path: &Path, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::Duplicate, path, Some(value.into()), "")
    }

    pub fn not_found(path: &Path, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::NotFound, path, Some(value.into()), "")
    }

    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Forbidden, path, None, detail)
    }

    /// `max` is in bytes.
    pub fn too_long(path: &Path, max: usize) -> Self {
        Self::new(
            FieldErrorKind::TooLong,
            path,
            None,
            format!("may not be more than {max} bytes"),
        )
    }

    pub fn too_many(path: &Path, actual: usize, max: usize) -> Self {
        let items = if max == 1 { "item" } else { "items" };
        Self::new(
            FieldErrorKind::TooMany,
            path,
            Some(actual.into()),
            format!("must have at most {max} {items}"),
        )
    }

    pub fn immutable(path: &Path, value: impl Into<Value>) -> Self {
        Self::invalid(path, value, "field is immutable")
    }

    pub fn internal(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Internal, path, None, detail)
    }

    /// The message without the path, as it stands in a Status's cause.
    pub fn body(&self) -> String {
        let mut text = self.kind.text().to_owned();
        if self.kind.shows_value()
            && let Some(value) = &self.value
        {
            text.push_str(&match value {
                Value::String(value) => format!(": {value:?}"),
                Value::Null => ": null".to_owned(),
                other => format!(": {other}"),
            });
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

/// Everything wrong with an object; empty means valid.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldErrors(pub Vec<FieldError>);

impl FieldErrors {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    pub fn extend(&mut self, others: impl IntoIterator<Item = FieldError>) {
        self.0.extend(others);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, FieldError> {
        self.0.iter()
    }

    /// As upstream's aggregate: one message, or `[a, b]`; equal messages once.
    pub fn message(&self) -> String {
        let mut messages: Vec<String> = Vec::new();
        for error in &self.0 {
            let text = error.to_string();
            if !messages.contains(&text) {
                messages.push(text);
            }
        }
        match messages.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        }
    }
}

impl From<FieldError> for FieldErrors {
    fn from(error: FieldError) -> Self {
        FieldErrors(vec![error])
    }
}

impl IntoIterator for FieldErrors {
    type Item = FieldError;
    type IntoIter = std::vec::IntoIter<FieldError>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<FieldError> for FieldErrors {
    fn from_iter<I: IntoIterator<Item = FieldError>>(errors: I) -> Self {
        FieldErrors(errors.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_upstreams() {
        let path = Path::new("spec").child("x").index(0).child("y");
        for (error, text) in [
            (
                FieldError::invalid(&path, "v", "detail"),
                r#"spec.x[0].y: Invalid value: "v": detail"#,
            ),
            (
                FieldError::invalid(&path, -1, "must be positive"),
                "spec.x[0].y: Invalid value: -1: must be positive",
            ),
            (
                FieldError::required(&path, ""),
                "spec.x[0].y: Required value",
            ),
            (
                FieldError::not_supported(&path, "z", &["b", "a"]),
                r#"spec.x[0].y: Unsupported value: "z": supported values: "a", "b""#,
            ),
            (
                FieldError::too_long(&path, 63),
                "spec.x[0].y: Too long: may not be more than 63 bytes",
            ),
            (
                FieldError::too_many(&path, 3, 1),
                "spec.x[0].y: Too many: 3: must have at most 1 item",
            ),
            (
                FieldError::duplicate(&path.key("k"), "n"),
                r#"spec.x[0].y[k]: Duplicate value: "n""#,
            ),
            (
                FieldError::forbidden(&path, "may not"),
                "spec.x[0].y: Forbidden: may not",
            ),
            (
                FieldError::immutable(&path, true),
                "spec.x[0].y: Invalid value: true: field is immutable",
            ),
        ] {
            assert_eq!(error.to_string(), text);
        }
        let errors = FieldErrors(vec![
            FieldError::required(&path, ""),
            FieldError::required(&path, ""),
            FieldError::required(&Path::new("a"), "b"),
        ]);
        assert_eq!(
            errors.message(),
            "[spec.x[0].y: Required value, a: Required value: b]"
        );
    }
}
