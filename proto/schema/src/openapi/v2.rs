//! The one document of OpenAPI v2: all group versions, v3's paths said in v2's words.

use caravel_api::kinds::{KINDS, Row};
use serde_json::{Map, Value, json};

use super::definitions::{Dialect, Source};
use super::paths;

pub(super) fn document(source: &Source) -> Value {
    let rows: Vec<&Row> = KINDS.iter().collect();
    let mut all = Map::new();
    for (group, version, rows) in super::group_versions() {
        for (path, item) in paths::paths(group, version, &rows, &|definition| {
            source.knows(definition)
        }) {
            all.insert(path, path_item(item));
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": super::VERSION},
        "paths": all,
        "definitions": source.definitions(&rows, &super::subresource_definitions(&rows), Dialect::V2),
    })
}

fn path_item(item: Value) -> Value {
    let Value::Object(parts) = item else {
        return item;
    };
    Value::Object(
        parts
            .into_iter()
            .map(|(name, part)| {
                let part = if name == "parameters" {
                    parameters(part)
                } else {
                    operation(part)
                };
                (name, part)
            })
            .collect(),
    )
}

fn operation(mut operation: Value) -> Value {
    let Some(object) = operation.as_object_mut() else {
        return operation;
    };
    let mut list = match parameters(object.remove("parameters").unwrap_or_else(|| json!([]))) {
        Value::Array(list) => list,
        _ => Vec::new(),
    };
    object.insert(
        "produces".into(),
        json!(["application/json", "application/yaml"]),
    );
    object.insert("consumes".into(), json!(["*/*"]));
    if let Some(body) = object.remove("requestBody") {
        let content = body["content"].as_object().cloned().unwrap_or_default();
        object.insert("consumes".into(), content.keys().cloned().collect());
        let schema = content
            .values()
            .next()
            .map_or_else(|| json!({}), |content| referring(&content["schema"]));
        list.push(
            json!({"name": "body", "in": "body", "required": body["required"], "schema": schema}),
        );
    }
    if !list.is_empty() {
        object.insert("parameters".into(), Value::Array(list));
    }
    if let Some(responses) = object.get_mut("responses").and_then(Value::as_object_mut) {
        for response in responses.values_mut() {
            let mut plain = json!({"description": response["description"]});
            if let Some(content) = response["content"]
                .as_object()
                .and_then(|content| content.values().next())
            {
                plain["schema"] = referring(&content["schema"]);
            }
            *response = plain;
        }
    }
    operation
}

/// A v3 schema that is a reference or a plain type, with v2's address.
fn referring(schema: &Value) -> Value {
    match schema["$ref"]
        .as_str()
        .and_then(|target| target.rsplit('/').next())
    {
        Some(definition) => Dialect::V2.reference(definition),
        None => schema.clone(),
    }
}

fn parameters(list: Value) -> Value {
    let Value::Array(list) = list else {
        return list;
    };
    list.into_iter()
        .map(|mut parameter| {
            if let Some(object) = parameter.as_object_mut()
                && let Some(Value::Object(schema)) = object.remove("schema")
            {
                object.extend(schema);
            }
            parameter
        })
        .collect()
}
