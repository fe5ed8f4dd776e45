//! The paths of one group version, as v3 writes them; v2 is made from these.
//!
//! Clients look for little here: kubectl finds a kind by the operations' `x-kubernetes-group-version-kind`, and asks
//! whether its patch takes `fieldValidation` and `dryRun`, and strategic merge. Upstream: `apiserver/pkg/endpoints/installer.go`.

use caravel_api::kinds::{Row, Subresource};
use serde_json::{Map, Value, json};

use super::definitions::{Dialect, META, definition_of, gvk};

const LISTING: &[(&str, &str, &str)] = &[
    (
        "allowWatchBookmarks",
        "boolean",
        "allowWatchBookmarks requests watch events with type \"BOOKMARK\".",
    ),
    (
        "continue",
        "string",
        "The continue option should be set when retrieving more results from the server.",
    ),
    (
        "fieldSelector",
        "string",
        "A selector to restrict the list of returned objects by their fields. Defaults to everything.",
    ),
    (
        "labelSelector",
        "string",
        "A selector to restrict the list of returned objects by their labels. Defaults to everything.",
    ),
    (
        "limit",
        "integer",
        "limit is a maximum number of responses to return for a list call.",
    ),
    (
        "resourceVersion",
        "string",
        "resourceVersion sets a constraint on what resource versions a request may be served from.",
    ),
    (
        "resourceVersionMatch",
        "string",
        "resourceVersionMatch determines how resourceVersion is applied to list calls.",
    ),
    (
        "sendInitialEvents",
        "boolean",
        "`sendInitialEvents=true` may be set together with `watch=true`.",
    ),
    (
        "timeoutSeconds",
        "integer",
        "Timeout for the list/watch call.",
    ),
    (
        "watch",
        "boolean",
        "Watch for changes to the described resources and return them as a stream of add, update, and remove notifications.",
    ),
];
const WRITING: &[(&str, &str, &str)] = &[
    (
        "dryRun",
        "string",
        "When present, indicates that modifications should not be persisted. Valid values are: - All: all dry run stages will be processed",
    ),
    (
        "fieldManager",
        "string",
        "fieldManager is a name associated with the actor or entity that is making these changes.",
    ),
    (
        "fieldValidation",
        "string",
        "fieldValidation instructs the server on how to handle objects in the request containing unknown or duplicate fields. Valid values are: - Ignore - Warn - Strict",
    ),
];
const FORCE: (&str, &str, &str) = (
    "force",
    "boolean",
    "Force is going to \"force\" Apply requests. It means user will re-acquire conflicting fields owned by other people.",
);
const DELETING: &[(&str, &str, &str)] = &[
    (
        "dryRun",
        "string",
        "When present, indicates that modifications should not be persisted. Valid values are: - All: all dry run stages will be processed",
    ),
    (
        "gracePeriodSeconds",
        "integer",
        "The duration in seconds before the object should be deleted.",
    ),
    (
        "orphanDependents",
        "boolean",
        "Deprecated: please use the PropagationPolicy.",
    ),
    (
        "propagationPolicy",
        "string",
        "Whether and how garbage collection will be performed.",
    ),
];
/// Patches of built-in kinds.
const PATCHES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
const OUTPUTS: &[&str] = &["application/json", "application/yaml"];

/// `/api/v1`, `/apis/apps/v1`
pub(super) fn root(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{group}/{version}")
    }
}

/// Every path of the rows of one group version.
pub(super) fn paths(
    group: &str,
    version: &str,
    rows: &[&Row],
    knows: &dyn Fn(&str) -> bool,
) -> Map<String, Value> {
    let root = root(group, version);
    let mut paths = Map::new();
    let resources = Shape {
        row: None,
        definition: format!("{META}APIResourceList"),
        knows,
    };
    paths.insert(
        format!("{root}/"),
        json!({"get": resources.operation("get", "get", "getAPIResources", &[], None)}),
    );
    for row in rows {
        let shape = Shape {
            row: Some(gvk(row.group, row.version, row.kind)),
            definition: row.definition.to_owned(),
            knows,
        };
        let collection = if row.is_namespaced() {
            format!("{root}/namespaces/{{namespace}}/{}", row.plural)
        } else {
            format!("{root}/{}", row.plural)
        };
        let name = operation_name(row);
        let scope = if row.is_namespaced() {
            "Namespaced"
        } else {
            ""
        };
        let mut on_all = Map::new();
        if row.has_verb("list") {
            let listed = Shape {
                definition: format!("{}List", row.definition),
                ..shape.clone()
            };
            on_all.insert(
                "get".into(),
                listed.operation(
                    "get",
                    "list",
                    &format!("list{}{scope}{}", name.0, name.1),
                    LISTING,
                    None,
                ),
            );
            if row.is_namespaced() {
                let operation = listed.operation(
                    "get",
                    "list",
                    &format!("list{}{}ForAllNamespaces", name.0, name.1),
                    LISTING,
                    None,
                );
                paths.insert(
                    format!("{root}/{}", row.plural),
                    item(json!({"get": operation}), false, false),
                );
            }
        }
        if row.has_verb("create") {
            let id = format!("create{}{scope}{}", name.0, name.1);
            on_all.insert(
                "post".into(),
                shape.operation("post", "post", &id, WRITING, Some(&shape.definition)),
            );
        }
        if row.has_verb("deletecollection") {
            let id = format!("delete{}Collection{scope}{}", name.0, name.1);
            let gone = Shape {
                definition: format!("{META}Status"),
                ..shape.clone()
            };
            let options = format!("{META}DeleteOptions");
            on_all.insert(
                "delete".into(),
                gone.operation(
                    "delete",
                    "deletecollection",
                    &id,
                    &[DELETING, LISTING].concat(),
                    Some(&options),
                ),
            );
        }
        paths.insert(
            collection.clone(),
            item(Value::Object(on_all), row.is_namespaced(), false),
        );
        let on_one = one(row.verbs, &shape, &name, scope, "");
        if !on_one.is_empty() {
            paths.insert(
                format!("{collection}/{{name}}"),
                item(Value::Object(on_one), row.is_namespaced(), true),
            );
        }
        for sub in row.subresources {
            let operations = subresource(row, sub, &name, scope, knows);
            paths.insert(
                format!("{collection}/{{name}}/{}", sub.name),
                item(operations, row.is_namespaced(), true),
            );
        }
    }
    paths
}

fn subresource(
    row: &Row,
    sub: &Subresource,
    name: &(String, String),
    scope: &str,
    knows: &dyn Fn(&str) -> bool,
) -> Value {
    let (group, version, kind) = sub.kind;
    let own = (group, version, kind) == (row.group, row.version, row.kind);
    let definition = if own {
        row.definition.to_owned()
    } else {
        definition_of(group, version, kind)
    };
    let shape = Shape {
        row: Some(gvk(group, version, kind)),
        definition,
        knows,
    };
    let suffix = camel(sub.name);
    let mut operations = one(sub.verbs, &shape, name, scope, &suffix);
    if sub.verbs.contains(&"create") {
        let id = format!("create{}{scope}{}{suffix}", name.0, name.1);
        operations.insert(
            "post".into(),
            shape.operation("post", "post", &id, WRITING, Some(&shape.definition)),
        );
    }
    Value::Object(operations)
}

fn one(
    verbs: &[&str],
    shape: &Shape<'_>,
    name: &(String, String),
    scope: &str,
    suffix: &str,
) -> Map<String, Value> {
    let id = |verb: &str| format!("{verb}{}{scope}{}{suffix}", name.0, name.1);
    let mut operations = Map::new();
    if verbs.contains(&"get") {
        operations.insert(
            "get".into(),
            shape.operation("get", "get", &id("read"), &[], None),
        );
    }
    if verbs.contains(&"update") {
        operations.insert(
            "put".into(),
            shape.operation(
                "put",
                "put",
                &id("replace"),
                WRITING,
                Some(&shape.definition),
            ),
        );
    }
    if verbs.contains(&"patch") {
        let parameters = [WRITING, &[FORCE]].concat();
        operations.insert(
            "patch".into(),
            shape.operation(
                "patch",
                "patch",
                &id("patch"),
                &parameters,
                Some(&format!("{META}Patch")),
            ),
        );
    }
    if verbs.contains(&"delete") {
        let gone = Shape {
            definition: format!("{META}Status"),
            ..shape.clone()
        };
        let options = format!("{META}DeleteOptions");
        operations.insert(
            "delete".into(),
            gone.operation("delete", "delete", &id("delete"), DELETING, Some(&options)),
        );
    }
    operations
}

/// What an operation is about.
#[derive(Clone)]
struct Shape<'a> {
    row: Option<Value>,
    /// What it answers.
    definition: String,
    knows: &'a dyn Fn(&str) -> bool,
}

impl Shape<'_> {
    fn schema(&self, definition: &str) -> Value {
        let listed = definition
            .strip_suffix("List")
            .is_some_and(|item| (self.knows)(item));
        if listed || (self.knows)(definition) {
            Dialect::V3.reference(definition)
        } else {
            json!({"type": "string"})
        }
    }

    fn operation(
        &self,
        method: &str,
        action: &str,
        id: &str,
        parameters: &[(&str, &str, &str)],
        body: Option<&str>,
    ) -> Value {
        let content: Map<String, Value> = OUTPUTS
            .iter()
            .map(|output| {
                (
                    (*output).to_owned(),
                    json!({"schema": self.schema(&self.definition)}),
                )
            })
            .collect();
        let answer = |description: &str| json!({"description": description, "content": content});
        let mut responses = Map::from_iter([
            ("200".to_owned(), answer("OK")),
            ("401".to_owned(), json!({"description": "Unauthorized"})),
        ]);
        if matches!(method, "post" | "put" | "patch") {
            responses.insert("201".into(), answer("Created"));
        }
        if matches!(method, "post" | "delete") {
            responses.insert("202".into(), answer("Accepted"));
        }
        let mut operation = json!({
            "operationId": id,
            "description": format!("{action} objects"),
            "responses": responses,
            "x-kubernetes-action": action,
        });
        if !parameters.is_empty() {
            operation["parameters"] = parameters
                .iter()
                .map(|(name, kind, text)| query(name, kind, text))
                .collect();
        }
        if let Some(gvk) = &self.row {
            operation["x-kubernetes-group-version-kind"] = gvk.clone();
        }
        if let Some(body) = body {
            let schema = json!({"schema": self.schema(body)});
            let accepted: &[&str] = if method == "patch" { PATCHES } else { &["*/*"] };
            let content: Map<String, Value> = accepted
                .iter()
                .map(|input| ((*input).to_owned(), schema.clone()))
                .collect();
            operation["requestBody"] = json!({"content": content, "required": method != "delete"});
        }
        operation
    }
}

fn query(name: &str, kind: &str, text: &str) -> Value {
    json!({"name": name, "in": "query", "description": text, "schema": {"type": kind, "uniqueItems": true}})
}

fn item(mut operations: Value, namespaced: bool, named: bool) -> Value {
    let path = |name: &str, text: &str| json!({"name": name, "in": "path", "required": true, "description": text, "schema": {"type": "string", "uniqueItems": true}});
    let mut parameters = vec![query(
        "pretty",
        "string",
        "If 'true', then the output is pretty printed.",
    )];
    if namespaced {
        parameters.push(path(
            "namespace",
            "object name and auth scope, such as for teams and projects",
        ));
    }
    if named {
        parameters.push(path("name", "name of the object"));
    }
    operations["parameters"] = Value::Array(parameters);
    operations
}

/// (`AppsV1`, `Deployment`): the parts of an operation's id around the scope.
fn operation_name(row: &Row) -> (String, String) {
    let group = if row.group.is_empty() {
        "core"
    } else {
        row.group.trim_end_matches(".k8s.io")
    };
    let group: String = group.split('.').map(camel).collect();
    (
        format!("{group}{}", camel(row.version)),
        row.kind.to_owned(),
    )
}

fn camel(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}
