//! Events of the core group, which is also the form in which all Events are stored.
//!
//! Follows `pkg/registry/core/event` and `pkg/apis/core/validation/events.go`.

use caravel_api::FieldErrors;
use k8s_openapi::api::core::v1::Event;

use crate::found::{At, Found, drop_zero, text};
use crate::names;
use crate::strategy::Strategy;

const TEXT_MAX: usize = 128;
const NOTE_MAX: usize = 1024;

impl Strategy for Event {
    const FIELDS: &'static [&'static str] = &[
        "action",
        "involvedObject.apiVersion",
        "involvedObject.fieldPath",
        "involvedObject.kind",
        "involvedObject.name",
        "involvedObject.namespace",
        "involvedObject.resourceVersion",
        "involvedObject.uid",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ];

    fn normalise(&mut self) {
        drop_zero(&mut self.count);
        for member in [
            &mut self.message,
            &mut self.reason,
            &mut self.type_,
            &mut self.action,
        ] {
            drop_zero(member);
        }
    }

    fn validate(&self) -> FieldErrors {
        validate(self, Names::CORE)
    }

    fn field(&self, path: &str) -> Option<String> {
        field(self, path)
    }
}

/// What an Event's members are called in the version that its writer speaks.
#[derive(Clone, Copy)]
pub struct Names {
    pub object: &'static str,
    pub controller: &'static str,
    pub note: &'static str,
}

impl Names {
    pub const CORE: Names = Names {
        object: "involvedObject",
        controller: "reportingComponent",
        note: "message",
    };
    pub const EVENTS: Names = Names {
        object: "regarding",
        controller: "reportingController",
        note: "note",
    };
}

/// The value of a selectable field.
pub fn field(event: &Event, path: &str) -> Option<String> {
    let object = &event.involved_object;
    let value = match path {
        "involvedObject.kind" => &object.kind,
        "involvedObject.namespace" => &object.namespace,
        "involvedObject.name" => &object.name,
        "involvedObject.uid" => &object.uid,
        "involvedObject.apiVersion" => &object.api_version,
        "involvedObject.resourceVersion" => &object.resource_version,
        "involvedObject.fieldPath" => &object.field_path,
        "reason" => &event.reason,
        "action" => &event.action,
        "type" => &event.type_,
        "reportingComponent" => &event.reporting_component,
        "source" => {
            let component = event
                .source
                .as_ref()
                .and_then(|source| source.component.clone())
                .filter(|component| !component.is_empty());
            return Some(
                component
                    .or_else(|| event.reporting_component.clone())
                    .unwrap_or_default(),
            );
        }
        _ => return None,
    };
    Some(value.clone().unwrap_or_default())
}

/// What is wrong with an Event; those with an `eventTime` are of the new make and checked in full.
pub fn validate(event: &Event, names: Names) -> FieldErrors {
    let mut found = Found::new();
    let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
    let about = event
        .involved_object
        .namespace
        .as_deref()
        .unwrap_or_default();
    let object_at = At::Root.child(names.object);
    let at = object_at.child("namespace");
    if about.is_empty() {
        // What has no namespace is told of in the default one, or in the system's.
        if !matches!(namespace, "default" | "kube-system") {
            found.invalid(&at, about, "does not match event.namespace");
        }
    } else if about != namespace {
        found.invalid(&at, about, "does not match event.namespace");
    }
    if event.event_time.is_none() {
        return found.into_errors();
    }
    let controller_at = At::Root.child(names.controller);
    match text(&event.reporting_component) {
        None => found.required(&controller_at, ""),
        Some(name) => found.faults(&controller_at, name, names::qualified_name(name)),
    }
    for (name, value) in [
        ("reportingInstance", &event.reporting_instance),
        ("action", &event.action),
        ("reason", &event.reason),
    ] {
        let at = At::Root.child(name);
        match text(value) {
            None => found.required(&at, ""),
            Some(value) if value.len() > TEXT_MAX => found.invalid(
                &at,
                value,
                format!("can have at most {TEXT_MAX} characters"),
            ),
            Some(_) => {}
        }
    }
    if event
        .message
        .as_ref()
        .is_some_and(|message| message.len() > NOTE_MAX)
    {
        found.invalid(
            &At::Root.child(names.note),
            "",
            format!("can have at most {NOTE_MAX} characters"),
        );
    }
    found.into_errors()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events() {
        for (event, want) in [
            (
                json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "a"}}),
                "[]",
            ),
            (
                json!({"metadata": {"namespace": "default"}, "involvedObject": {"kind": "Node"}}),
                "[]",
            ),
            (
                json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "b"}}),
                "involvedObject.namespace: Invalid value: \"b\": does not match event.namespace",
            ),
            (
                json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "a"}, "eventTime": "2020-01-01T00:00:00.000000Z"}),
                "[reportingComponent: Required value, reportingInstance: Required value, action: Required value, reason: Required value]",
            ),
        ] {
            let event: Event = serde_json::from_value(event).unwrap();
            assert_eq!(event.validate().message(), want);
        }
    }
}
