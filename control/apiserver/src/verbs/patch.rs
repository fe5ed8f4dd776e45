//! patch in its four forms, one of which (apply) also creates. Upstream: apiserver/pkg/endpoints/handlers/patch.go.

use super::{check_depth, decode, read, writer, written, yaml_to_json};
use crate::body::Body;
use crate::options::{Validation, WriteOptions, refuse};
use crate::server::ApiServer;
use crate::stack::Ask;
use crate::write::{Current, Part, Target, Writer};
use bytes::Bytes;
use caravel_api::{ApiError, FieldError, FieldErrors, Path, Row};
use caravel_registry::Object;
use caravel_schema::managed::{self, ApplyError};
use caravel_schema::patch::{PatchError, json, merge, strategic};
use http::{Response, header};
use serde_json::Value;

/// The forms of a patch, by content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Merge,
    Strategic,
    Apply,
}

const FORMS: &[(&str, Form)] = &[
    ("application/json-patch+json", Form::Json),
    ("application/merge-patch+json", Form::Merge),
    ("application/strategic-merge-patch+json", Form::Strategic),
    ("application/apply-patch+yaml", Form::Apply),
];

pub(crate) fn form(ask: &Ask) -> Result<Form, ApiError> {
    let kind = ask
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    FORMS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(kind))
        .map(|(_, form)| *form)
        .ok_or_else(|| {
            let accepted: Vec<&str> = FORMS.iter().map(|(name, _)| *name).collect();
            ApiError::unsupported_media_type(&accepted)
        })
}

/// A patch as it was sent.
pub(crate) struct Patch {
    pub form: Form,
    bytes: Bytes,
    value: Value,
}

impl Patch {
    pub(crate) async fn read(ask: &Ask, body: Body) -> Result<Self, ApiError> {
        let form = form(ask)?;
        let mut bytes = read(body).await?;
        if form == Form::Apply {
            bytes = yaml_to_json(&bytes)?;
        }
        Self::parse(form, bytes)
    }

    pub(crate) fn parse(form: Form, bytes: Bytes) -> Result<Self, ApiError> {
        check_depth(&bytes)?;
        let value = serde_json::from_slice(&bytes)
            .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
        Ok(Self { form, bytes, value })
    }

    /// Applies one of the three plain forms to a value of this type.
    pub(crate) fn apply(
        &self,
        old: &Value,
        ty: caravel_schema::TypeRef<'_>,
    ) -> Result<Value, ApiError> {
        match self.form {
            Form::Json => json::apply(old, &self.bytes).map_err(refused),
            Form::Merge => Ok(merge::apply(old, &self.value)),
            Form::Strategic => strategic::apply(old, &self.value, ty).map_err(refused),
            Form::Apply => Err(ApiError::internal("server-side apply is not a plain patch")),
        }
    }
}

fn refused(error: PatchError) -> ApiError {
    let text = error.to_string();
    match error.code() {
        413 => ApiError::too_large(text),
        422 => ApiError::new(
            422,
            "Invalid",
            format!("the server rejected our request due to an error in our request: {text}"),
        ),
        _ => ApiError::bad_request(text),
    }
}

/// Answers a PATCH of an object or of its status.
pub(crate) async fn patch(
    api: &ApiServer,
    ask: &Ask,
    target: &Target,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let mut writer = writer(api, ask, "PatchOptions")?;
    let patch = Patch::read(ask, body).await?;
    check_options(&writer.options, patch.form)?;
    if patch.form == Form::Apply {
        return apply(&writer, ask, target, &patch).await;
    }
    let mut warnings = Vec::new();
    let validation = std::mem::take(&mut writer.options.validation);
    let done = writer.update(target, part(target), |current: &Current<'_>| {
        let ty = api.schema.of(target.row.definition);
        let patched = patch.apply(&current.old.to_value(), ty)?;
        warnings = strict(&patched, ty, validation)?;
        caravel_registry::resource(target.row)
            .from_value(patched.clone())
            .map_err(|error| match patch.form {
                // Upstream shows what it decoded last, which is the patch itself here.
                Form::Strategic => invalid_text(go(&patch.value), error.to_string()),
                _ => invalid_patch(&patched, error.to_string()),
            })
    });
    let done = done.await?;
    written(ask, target, done, warnings)
}

fn part(target: &Target) -> Part {
    if target.subresource == "status" {
        Part::Status
    } else {
        Part::Main
    }
}

fn invalid_patch(value: &Value, why: impl Into<String>) -> ApiError {
    invalid_text(value.to_string(), why)
}

fn invalid_text(text: String, why: impl Into<String>) -> ApiError {
    let errors = FieldErrors(vec![FieldError::invalid(&Path::new("patch"), text, why)]);
    ApiError::invalid_kind("", "", "", &errors)
}

/// A value as Go's `%+v` shows it: `map[data:map[a:5]]`.
fn go(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go).collect::<Vec<_>>().join(" ")),
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            let members: Vec<_> = members
                .into_iter()
                .map(|(name, value)| format!("{name}:{}", go(value)))
                .collect();
            format!("map[{}]", members.join(" "))
        }
        other => other.to_string(),
    }
}

/// Unknown fields of a patch's result: an error, or what to warn about.
fn strict(
    patched: &Value,
    ty: caravel_schema::TypeRef<'_>,
    validation: Validation,
) -> Result<Vec<String>, ApiError> {
    if validation == Validation::Ignore {
        return Ok(Vec::new());
    }
    let bytes = serde_json::to_vec(patched).map_err(ApiError::internal)?;
    let unknown = caravel_schema::unknown_fields(&bytes, ty);
    if validation == Validation::Strict && !unknown.is_empty() {
        return Err(invalid_patch(
            patched,
            format!("strict decoding error: {}", unknown.join(", ")),
        ));
    }
    Ok(unknown)
}

fn from_patched(row: &'static Row, patched: Value) -> Result<Box<dyn Object>, ApiError> {
    caravel_registry::resource(row)
        .from_value(patched.clone())
        .map_err(|error| invalid_patch(&patched, error.to_string()))
}

fn check_options(options: &WriteOptions, form: Form) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    if form == Form::Apply {
        if !options.manager_given {
            errors.push(FieldError::required(
                &Path::new("fieldManager"),
                "is required for apply patch",
            ));
        }
    } else if options.force.is_some() {
        errors.push(FieldError::forbidden(
            &Path::new("force"),
            "may not be specified for non-apply patch",
        ));
    }
    refuse("PatchOptions", errors)
}

/// Server-side apply: changes the object, or makes it.
async fn apply(
    writer: &Writer<'_>,
    ask: &Ask,
    target: &Target,
    patch: &Patch,
) -> Result<Response<Body>, ApiError> {
    let row = target.row;
    let applied = &patch.value;
    check_applied(applied, target)?;
    let unknown =
        caravel_schema::unknown_fields(&patch.bytes, writer.api.schema.of(row.definition));
    if writer.options.validation == Validation::Strict && !unknown.is_empty() {
        return Err(ApiError::bad_request(format!(
            "strict decoding error: {}",
            unknown.join(", ")
        )));
    }
    let warnings = if writer.options.validation == Validation::Warn {
        unknown
    } else {
        Vec::new()
    };
    for _ in 0..2 {
        let exists = writer.api.store.snapshot().entry(&target.key()).is_some();
        let done = if exists {
            writer
                .update(target, part(target), |current: &Current<'_>| {
                    let merged = merged(writer, target, Some(&current.old.to_value()), applied)?;
                    Ok(crate::write::Edited {
                        object: from_patched(row, merged)?,
                        tracked: true,
                    })
                })
                .await
        } else if target.subresource.is_empty() {
            let merged = merged(writer, target, None, applied)?;
            let json = serde_json::to_vec(&merged).map_err(ApiError::internal)?;
            let (mut object, _) = decode(writer.api, row, &json, Validation::Ignore)?;
            object.meta_mut().name = Some(target.name.clone());
            writer.create(target.clone(), object, false).await
        } else {
            Err(ApiError::not_found(row, &target.name))
        };
        match done {
            // Somebody created or deleted it in between: once more.
            Err(error) if error.is_already_exists() || (error.is_not_found() && exists) => {}
            done => return written(ask, target, done?, warnings),
        }
    }
    Err(ApiError::stale(row, &target.name))
}

fn merged(
    writer: &Writer<'_>,
    target: &Target,
    live: Option<&Value>,
    applied: &Value,
) -> Result<Value, ApiError> {
    let row = target.row;
    let who = managed::Writer {
        manager: &writer.options.manager,
        api_version: &row.api_version(),
        subresource: target.subresource,
        now: caravel_api::time::now(),
    };
    let force = writer.options.force.unwrap_or(false);
    managed::apply(
        live,
        applied,
        writer.api.schema.of(row.definition),
        &who,
        force,
    )
    .map_err(|error| match error {
        ApplyError::Conflict { message, causes } => ApiError::apply_conflict(
            message,
            causes.into_iter().map(|cause| (cause.message, cause.field)),
        ),
        ApplyError::Malformed(why) => ApiError::bad_request(why),
    })
}

fn check_applied(applied: &Value, target: &Target) -> Result<(), ApiError> {
    let text = |pointer: &str| {
        applied
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    if text("/apiVersion") != target.row.api_version() || text("/kind") != target.row.kind {
        return Err(ApiError::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {}, expected: {}",
            text("/apiVersion"),
            target.row.api_version()
        )));
    }
    let name = text("/metadata/name");
    if !name.is_empty() && name != target.name {
        return Err(ApiError::bad_request(format!(
            "metadata.name: Invalid value: {name:?}: the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    if applied
        .pointer("/metadata/managedFields")
        .is_some_and(|fields| !fields.is_null())
    {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    Ok(())
}
