//! What a write says about itself beside its object: dry run, field validation, field manager.
//! Upstream: apimachinery/pkg/apis/meta/v1/validation, with its messages.

use crate::query::Query;
use caravel_api::{ApiError, FieldError, FieldErrors, Path};

/// What to do about fields nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Validation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// Options of create, update and patch.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteOptions {
    pub dry_run: bool,
    pub validation: Validation,
    /// Who writes, for managedFields.
    pub manager: String,
    /// Whether the client named the manager itself.
    pub manager_given: bool,
    /// Take fields from other managers (server-side apply).
    pub force: Option<bool>,
}

impl WriteOptions {
    /// `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`; it names the object of a 422.
    pub(crate) fn parse(
        query: &Query,
        user_agent: Option<&str>,
        kind: &str,
    ) -> Result<Self, ApiError> {
        let mut errors = Vec::new();
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let validation = match query.text("fieldValidation").unwrap_or("Warn") {
            "Ignore" => Validation::Ignore,
            "Warn" => Validation::Warn,
            "Strict" => Validation::Strict,
            other => {
                errors.push(FieldError::not_supported(
                    &Path::new("fieldValidation"),
                    other,
                    &["Ignore", "Strict", "Warn"],
                ));
                Validation::Warn
            }
        };
        let given = query.text("fieldManager");
        if let Some(manager) = given {
            if manager.chars().count() > 128 {
                errors.push(FieldError::too_long(&Path::new("fieldManager"), 128));
            }
            if let Some(bad) = manager.chars().find(|character| character.is_control()) {
                errors.push(FieldError::invalid(
                    &Path::new("fieldManager"),
                    manager,
                    format!("should only contain printable characters, found {bad:?}"),
                ));
            }
        }
        refuse(kind, errors)?;
        Ok(Self {
            dry_run,
            validation,
            manager: given.map_or_else(|| manager_of(user_agent), str::to_owned),
            manager_given: given.is_some(),
            force: query.get("force").map(|_| query.flag("force")),
        })
    }
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut Vec<FieldError>) -> bool {
    let mut dry = false;
    for value in values {
        match value {
            "All" => dry = true,
            "" => {}
            other => errors.push(FieldError::not_supported(
                &Path::new("dryRun"),
                other,
                &["All"],
            )),
        }
    }
    dry
}

/// As of a list in a body (`DeleteOptions.dryRun`).
pub(crate) fn dry_run_list(values: &[String], kind: &str) -> Result<bool, ApiError> {
    let mut errors = Vec::new();
    let dry = dry_run(values.iter().map(String::as_str), &mut errors);
    refuse(kind, errors)?;
    Ok(dry)
}

/// 422 about an options object, if there is anything wrong.
pub(crate) fn refuse(kind: &str, errors: Vec<FieldError>) -> Result<(), ApiError> {
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid_kind(
            "meta.k8s.io",
            kind,
            "",
            &FieldErrors(errors),
        ))
    }
}

/// The first word of the user agent, as upstream names a manager that did not say its name.
fn manager_of(user_agent: Option<&str>) -> String {
    let name = user_agent
        .unwrap_or_default()
        .split('/')
        .next()
        .unwrap_or_default();
    let name: String = name
        .chars()
        .filter(|character| !character.is_control())
        .take(128)
        .collect();
    if name.is_empty() {
        "unknown".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let parse = |text: &str| {
            WriteOptions::parse(
                &Query::parse(Some(text)),
                Some("kubectl/v1.32 (linux)"),
                "CreateOptions",
            )
        };
        let plain = parse("").unwrap();
        assert_eq!(
            (plain.dry_run, plain.validation, plain.manager.as_str()),
            (false, Validation::Warn, "kubectl")
        );
        let full = parse("dryRun=All&fieldValidation=Strict&fieldManager=me").unwrap();
        assert_eq!(
            (full.dry_run, full.validation, full.manager.as_str()),
            (true, Validation::Strict, "me")
        );
        let error = parse("dryRun=x").unwrap_err();
        assert_eq!(error.code, 422);
        assert_eq!(
            error.message,
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: \"x\": supported values: \"All\""
        );
    }
}
