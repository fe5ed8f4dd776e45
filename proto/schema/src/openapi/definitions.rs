//! The types' definitions in the words of either OpenAPI: v3 (`components.schemas`) and v2 (`definitions`).
//!
//! Upstream: `kube-openapi/pkg/builder3`, `pkg/schemaconv`; what clients rely on is kept: references by full name,
//! `x-kubernetes-group-version-kind`, patch strategies, list and map types.

use std::collections::BTreeSet;

use caravel_api::kinds::Row;
use serde_json::{Map, Value, json};

use crate::facts::{Fact, Facts};
use crate::tree::reference;

/// Which OpenAPI a definition is written for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Dialect {
    V2,
    V3,
}

impl Dialect {
    pub(super) fn reference(self, definition: &str) -> Value {
        match self {
            Dialect::V2 => json!({"$ref": format!("#/definitions/{definition}")}),
            Dialect::V3 => json!({"$ref": format!("#/components/schemas/{definition}")}),
        }
    }
}

pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

/// Everything there is to make documents from.
pub(super) struct Source {
    raw: Map<String, Value>,
    facts: Facts,
}

impl Source {
    pub(super) fn read() -> Source {
        Source {
            raw: crate::roots::definitions(),
            facts: Facts::read(),
        }
    }

    pub(super) fn knows(&self, definition: &str) -> bool {
        self.raw.contains_key(definition)
    }

    /// The definitions of some kinds and all that they refer to.
    pub(super) fn definitions(
        &self,
        rows: &[&Row],
        others: &[String],
        dialect: Dialect,
    ) -> Map<String, Value> {
        let mut wanted: Vec<String> = others.to_vec();
        for name in [
            "APIResourceList",
            "DeleteOptions",
            "ListMeta",
            "Patch",
            "Status",
        ] {
            wanted.push(format!("{META}{name}"));
        }
        wanted.extend(rows.iter().map(|row| row.definition.to_owned()));
        let mut definitions = Map::new();
        let mut seen = BTreeSet::new();
        while let Some(name) = wanted.pop() {
            let Some(raw) = self.raw.get(&name) else {
                continue;
            };
            if seen.insert(name.clone()) {
                references(raw, &mut wanted);
                definitions.insert(name.clone(), self.definition(&name, raw, dialect));
            }
        }
        for row in rows {
            if let Some(definition) = definitions.get_mut(row.definition) {
                definition["x-kubernetes-group-version-kind"] =
                    json!([gvk(row.group, row.version, row.kind)]);
            }
            if row.has_verb("list") {
                definitions.insert(format!("{}List", row.definition), list(row, dialect));
            }
        }
        for name in ["DeleteOptions", "Status"] {
            if let Some(definition) = definitions.get_mut(&format!("{META}{name}")) {
                definition["x-kubernetes-group-version-kind"] = json!([gvk("", "v1", name)]);
            }
        }
        definitions
    }

    fn definition(&self, name: &str, raw: &Value, dialect: Dialect) -> Value {
        let mut definition = raw.clone();
        let Some(object) = definition.as_object_mut() else {
            return definition;
        };
        match (name, dialect) {
            (QUANTITY, Dialect::V3) => {
                object.insert(
                    "oneOf".into(),
                    json!([{"type": "string"}, {"type": "number"}]),
                );
            }
            (INT_OR_STRING, Dialect::V3) => {
                object.insert("format".into(), "int-or-string".into());
                object.insert(
                    "oneOf".into(),
                    json!([{"type": "integer"}, {"type": "string"}]),
                );
            }
            (QUANTITY | INT_OR_STRING, Dialect::V2) => {
                object.insert("type".into(), "string".into());
                if name == INT_OR_STRING {
                    object.insert("format".into(), "int-or-string".into());
                }
            }
            _ => {}
        }
        object.remove("x-kubernetes-int-or-string");
        if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
            for (field, property) in properties.iter_mut() {
                *property = written(property, dialect);
                annotate(property, &self.facts.of(name, field));
            }
        }
        if self.facts.of(name, ".").map_type == "atomic" {
            object.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        definition
    }
}

/// A property with its references in the dialect's form.
fn written(property: &Value, dialect: Dialect) -> Value {
    let mut property = property.clone();
    let target = reference(&property).map(str::to_owned);
    let Some(object) = property.as_object_mut() else {
        return property;
    };
    if let Some(target) = target {
        object.remove("allOf");
        object.remove("$ref");
        match dialect {
            Dialect::V2 => object.extend([(
                "$ref".to_owned(),
                dialect.reference(&target)["$ref"].clone(),
            )]),
            // A reference hides what stands beside it; upstream wraps it so that the description counts.
            Dialect::V3 => {
                object.extend([("allOf".to_owned(), json!([dialect.reference(&target)]))])
            }
        }
    }
    for part in ["items", "additionalProperties"] {
        if let Some(inner) = object.get(part).filter(|inner| inner.is_object()) {
            let inner = written(inner, dialect);
            object.insert(part.into(), inner);
        }
    }
    property
}

fn annotate(property: &mut Value, fact: &Fact) {
    let Some(property) = property.as_object_mut() else {
        return;
    };
    let mut note = |name: &str, value: &str| {
        if !value.is_empty() {
            property.insert(name.into(), value.into());
        }
    };
    note("x-kubernetes-patch-strategy", fact.patch_strategy);
    note("x-kubernetes-patch-merge-key", fact.patch_merge_key);
    note("x-kubernetes-list-type", fact.list_type);
    note("x-kubernetes-map-type", fact.map_type);
    note("default", fact.default);
    if !fact.list_map_keys.is_empty() {
        let keys: Vec<&str> = fact.list_map_keys.split(',').collect();
        property.insert("x-kubernetes-list-map-keys".into(), json!(keys));
    }
}

/// What a definition refers to.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            if let Some(target) = object.get("$ref").and_then(Value::as_str) {
                found.extend(target.rsplit('/').next().map(str::to_owned));
            }
            object.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

fn list(row: &Row, dialect: Dialect) -> Value {
    let string = |description: &str| json!({"type": "string", "description": description});
    let item = match dialect {
        Dialect::V2 => dialect.reference(row.definition),
        Dialect::V3 => json!({"allOf": [dialect.reference(row.definition)], "default": {}}),
    };
    let metadata = written(
        &json!({"$ref": format!("{META}ListMeta"), "description": "Standard list metadata."}),
        dialect,
    );
    json!({
        "description": format!("{0}List is a list of {0} objects.", row.kind),
        "type": "object",
        "properties": {
            "apiVersion": string("APIVersion defines the versioned schema of this representation of an object."),
            "kind": string("Kind is a string value representing the REST resource this object represents."),
            "metadata": metadata,
            "items": {"type": "array", "items": item, "description": "Items is the list of objects."},
        },
        "required": ["items"],
        "x-kubernetes-group-version-kind": [gvk(row.group, row.version, &format!("{}List", row.kind))],
    })
}

pub(super) fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "kind": kind, "version": version})
}

/// The definition of a kind by its group's module, as upstream names them.
pub(super) fn definition_of(group: &str, version: &str, kind: &str) -> String {
    let module = if group.is_empty() {
        "core"
    } else {
        group.split('.').next().unwrap_or(group)
    };
    format!("io.k8s.api.{module}.{version}.{kind}")
}
