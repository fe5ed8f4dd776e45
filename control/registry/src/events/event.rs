//! Events of `events.k8s.io/v1`: the core group's under other names. Stored as the core group's.
//!
//! Follows `pkg/apis/events/v1/conversion.go` and `pkg/apis/core/validation/events.go`.

use caravel_api::FieldErrors;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::events::v1::{Event, EventSeries};

use crate::core::event::{self, Names};
use crate::found::{At, Found, drop_zero, text};
use crate::strategy::Strategy;

impl Strategy for Event {
    const FIELDS: &'static [&'static str] = &[
        "action",
        "reason",
        "regarding.apiVersion",
        "regarding.fieldPath",
        "regarding.kind",
        "regarding.name",
        "regarding.namespace",
        "regarding.resourceVersion",
        "regarding.uid",
        "reportingController",
        "type",
    ];

    fn normalise(&mut self) {
        drop_zero(&mut self.deprecated_count);
        for member in [
            &mut self.note,
            &mut self.reason,
            &mut self.type_,
            &mut self.action,
            &mut self.reporting_controller,
        ] {
            drop_zero(member);
        }
    }

    fn validate(&self) -> FieldErrors {
        let mut found = Found::new();
        if self.event_time.is_none() {
            found.required(&At::Root.child("eventTime"), "");
        }
        if let Some(series) = &self.series
            && series.count < 2
        {
            found.invalid(
                &At::Root.child("series").child("count"),
                series.count,
                "should be at least 2",
            );
        }
        let kind = text(&self.type_).unwrap_or_default();
        if !matches!(kind, "Normal" | "Warning") {
            found.invalid(
                &At::Root.child("type"),
                "",
                format!("has invalid value: {kind}"),
            );
        }
        for (name, set) in [
            (
                "deprecatedFirstTimestamp",
                self.deprecated_first_timestamp.is_some(),
            ),
            (
                "deprecatedLastTimestamp",
                self.deprecated_last_timestamp.is_some(),
            ),
            ("deprecatedCount", self.deprecated_count.is_some()),
            (
                "deprecatedSource",
                self.deprecated_source
                    .as_ref()
                    .is_some_and(|source| text(&source.component).or(text(&source.host)).is_some()),
            ),
        ] {
            if set {
                found.invalid(&At::Root.child(name), "", "needs to be unset");
            }
        }
        let mut errors = event::validate(&to_core(self.clone()), Names::EVENTS);
        errors.extend(found.into_errors());
        errors
    }

    /// Old Events are served in this version too; their writers may go on counting.
    fn validate_update(&self, old: &Self) -> FieldErrors {
        let mut found = Found::new();
        for (name, same) in [
            ("eventTime", self.event_time == old.event_time),
            (
                "reportingController",
                self.reporting_controller == old.reporting_controller,
            ),
            (
                "reportingInstance",
                self.reporting_instance == old.reporting_instance,
            ),
            ("action", self.action == old.action),
            ("reason", self.reason == old.reason),
            ("regarding", self.regarding == old.regarding),
            ("related", self.related == old.related),
            ("note", self.note == old.note),
            ("type", self.type_ == old.type_),
        ] {
            if !same {
                found.invalid(
                    &At::Root.child(name),
                    serde_json::Value::Null,
                    "field is immutable",
                );
            }
        }
        found.into_errors()
    }

    fn field(&self, path: &str) -> Option<String> {
        let event = to_core(self.clone());
        match path {
            "reportingController" => event::field(&event, "reportingComponent"),
            "reason" | "action" | "type" => event::field(&event, path),
            _ => event::field(
                &event,
                &format!("involvedObject.{}", path.strip_prefix("regarding.")?),
            ),
        }
    }

    fn from_stored(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json).map(from_core)
    }

    fn to_stored(&self) -> Vec<u8> {
        serde_json::to_vec(&to_core(self.clone())).expect(
            "Kubernetes types have string keys and no failing serialiser for times in range",
        )
    }
}

/// As the core group says it.
pub fn to_core(event: Event) -> core::Event {
    core::Event {
        action: event.action,
        count: event.deprecated_count,
        event_time: event.event_time,
        first_timestamp: event.deprecated_first_timestamp,
        involved_object: event.regarding.unwrap_or_default(),
        last_timestamp: event.deprecated_last_timestamp,
        message: event.note,
        metadata: event.metadata,
        reason: event.reason,
        related: event.related,
        reporting_component: Some(event.reporting_controller.unwrap_or_default()),
        reporting_instance: Some(event.reporting_instance.unwrap_or_default()),
        series: event.series.map(|series| core::EventSeries {
            count: Some(series.count),
            last_observed_time: Some(series.last_observed_time),
        }),
        source: event.deprecated_source,
        type_: event.type_,
    }
}

/// As `events.k8s.io/v1` says it.
pub fn from_core(event: core::Event) -> Event {
    let series = event.series.and_then(|series| {
        Some(EventSeries {
            count: series.count.unwrap_or_default(),
            last_observed_time: series.last_observed_time?,
        })
    });
    Event {
        action: event.action,
        deprecated_count: event.count,
        deprecated_first_timestamp: event.first_timestamp,
        deprecated_last_timestamp: event.last_timestamp,
        deprecated_source: event.source,
        event_time: event.event_time,
        metadata: event.metadata,
        note: event.message,
        reason: event.reason,
        regarding: Some(event.involved_object),
        related: event.related,
        reporting_controller: event.reporting_component.filter(|name| !name.is_empty()),
        reporting_instance: event.reporting_instance.filter(|name| !name.is_empty()),
        series,
        type_: event.type_,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Resource, Typed};
    use serde_json::{Value, json};

    #[test]
    fn two_views_of_one_event() {
        let events = Typed::<Event>::NEW;
        let written = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "namespace": "n"}, "eventTime": "2020-01-01T00:00:00.000000Z",
            "reportingController": "a.b/c", "reportingInstance": "c-1", "action": "Bind", "reason": "Bound", "note": "hello", "type": "Normal",
            "regarding": {"kind": "Pod", "namespace": "n", "name": "p"}
        });
        let object = events.from_value(written.clone()).unwrap();
        assert_eq!(events.validate(&*object).message(), "[]");
        let stored = events.encode_stored(&*object);
        let core: Value = serde_json::from_slice(&stored).unwrap();
        assert_eq!(
            (
                &core["apiVersion"],
                &core["message"],
                &core["involvedObject"]["name"]
            ),
            (&json!("v1"), &json!("hello"), &json!("p"))
        );
        assert_eq!(events.decode_stored(&stored).unwrap().to_value(), written);
        assert_eq!(
            events.field(&*object, "regarding.name").as_deref(),
            Some("p")
        );
        assert_eq!(events.field(&*object, "regarding.colour"), None);
        let bad = events.from_value(json!({"metadata": {"name": "e", "namespace": "n"}, "regarding": {"namespace": "n"}, "type": "Odd"})).unwrap();
        let message = events.validate(&*bad).message();
        assert!(
            message.contains("eventTime: Required value")
                && message.contains("has invalid value: Odd"),
            "{message}"
        );
    }
}
