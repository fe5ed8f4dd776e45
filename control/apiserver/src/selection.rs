//! Which objects a list or a watch is about: label and field selectors over stored entries.
//!
//! Labels and the fields that every entry's metadata knows cost no decoding; other fields decode the object.

use crate::query::Query;
use caravel_api::selector::{FieldRequirement, Selector, parse_fields};
use caravel_api::{ApiError, Row};
use caravel_registry::Resource;
use caravel_store::Entry;

/// Both selectors of a request.
pub(crate) struct Selection {
    resource: &'static dyn Resource,
    labels: Selector,
    fields: Vec<FieldRequirement>,
}

impl Selection {
    /// Reads `labelSelector` and `fieldSelector`; a field that cannot be selected by is 400.
    pub(crate) fn parse(row: &'static Row, query: &Query) -> Result<Self, ApiError> {
        let resource = caravel_registry::resource(row);
        let labels = match query.text("labelSelector") {
            Some(text) => {
                Selector::parse(text).map_err(|bad| ApiError::bad_request(bad.to_string()))?
            }
            None => Selector::everything(),
        };
        let fields = match query.text("fieldSelector") {
            Some(text) => {
                parse_fields(text).map_err(|bad| ApiError::bad_request(bad.to_string()))?
            }
            None => Vec::new(),
        };
        for field in &fields {
            if !resource.selectable(&field.path) {
                return Err(ApiError::bad_request(format!(
                    "field label not supported: {}",
                    field.path
                )));
            }
        }
        Ok(Self {
            resource,
            labels,
            fields,
        })
    }

    /// Whether everything is selected.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The one name that is selected, if the selection says so.
    pub(crate) fn name(&self) -> Option<&str> {
        self.fields
            .iter()
            .find(|field| field.equal && field.path == "metadata.name")
            .map(|field| field.value.as_str())
    }

    /// Whether an entry is meant.
    pub(crate) fn matches(&self, entry: &Entry) -> bool {
        if !self.labels.matches(&entry.meta.labels) {
            return false;
        }
        let mut object = None;
        self.fields.iter().all(|field| {
            let holds = |value: &str| (value == field.value) == field.equal;
            match field.path.as_str() {
                "metadata.name" => holds(&entry.meta.name),
                "metadata.namespace" => holds(&entry.meta.namespace),
                "spec.nodeName" => holds(entry.meta.node.as_deref().unwrap_or_default()),
                path => {
                    let object = object.get_or_insert_with(|| self.resource.decode_stored(&entry.json));
                    match object {
                        Ok(object) => holds(&self.resource.field(&**object, path).unwrap_or_default()),
                        Err(error) => {
                            tracing::error!(key = %entry.key, %error, "a stored object cannot be read");
                            false
                        }
                    }
                }
            }
        })
    }
}
