//! The tree of types: what a value may contain, how its lists and maps merge, and under which keys.
//!
//! Built once from the types of `k8s-openapi` and the table of field facts; it carries no descriptions (those are read
//! again, when somebody asks for an OpenAPI document) so that it stays small. It never fails: what it does not know is
//! `Shape::Untyped`, which merges as upstream's "deduced" type does (maps by key, lists as a whole).

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::{Map, Value};

use crate::facts::Facts;

/// All types of one API, addressed by definition (`io.k8s.api.apps.v1.Deployment`).
pub struct Schema {
    nodes: Vec<Shape>,
    by_definition: HashMap<Box<str>, u32>,
}

/// One type in a [`Schema`]. Cheap to copy.
#[derive(Clone, Copy)]
pub struct TypeRef<'a> {
    schema: &'a Schema,
    id: u32,
}

/// What a type looks like.
#[derive(Debug)]
pub enum Shape {
    /// An object with known fields, sorted by name. `atomic`: merged and owned as a whole.
    Struct { fields: Vec<Field>, atomic: bool },
    /// An object with arbitrary keys and values of one type.
    Map { value: u32, atomic: bool },
    /// A list.
    List { item: u32, kind: ListKind },
    /// A string, number or boolean.
    Scalar,
    /// Anything. `atomic`: merged and owned as a whole, else maps by key.
    Untyped { atomic: bool },
}

/// How a list merges (`x-kubernetes-list-type`).
#[derive(Debug)]
pub enum ListKind {
    Atomic,
    Set,
    Map(Vec<ListKey>),
}

/// One key of a list of maps.
#[derive(Debug)]
pub struct ListKey {
    pub name: Box<str>,
    pub default: Option<Value>,
}

/// One field of a struct, with how strategic merge patch treats it.
#[derive(Debug)]
pub struct Field {
    pub name: Box<str>,
    pub required: bool,
    pub merge: bool,
    pub replace: bool,
    pub merge_key: Box<str>,
    ty: u32,
}

const UNTYPED: u32 = 0;
const ATOMIC: u32 = 1;
const SCALAR: u32 = 2;

/// Definitions whose content is not described anywhere: owned as a whole.
const OPAQUE: &[&str] = &[
    "io.k8s.apimachinery.pkg.runtime.RawExtension",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
];

impl Schema {
    /// The built-in types.
    pub fn get() -> &'static Schema {
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        SCHEMA.get_or_init(|| Schema::build(&crate::roots::definitions(), &Facts::read()))
    }

    /// The type of a definition; one nobody knows is untyped.
    pub fn of(&self, definition: &str) -> TypeRef<'_> {
        TypeRef {
            schema: self,
            id: self
                .by_definition
                .get(definition)
                .copied()
                .unwrap_or(UNTYPED),
        }
    }

    /// A type that accepts anything, for custom resources without a schema.
    pub fn untyped() -> TypeRef<'static> {
        TypeRef {
            schema: Schema::get(),
            id: UNTYPED,
        }
    }

    /// How many fields the largest type has.
    #[cfg(test)]
    pub(crate) fn widest(&self) -> usize {
        let fields = |shape: &Shape| {
            if let Shape::Struct { fields, .. } = shape {
                fields.len()
            } else {
                0
            }
        };
        self.nodes.iter().map(fields).max().unwrap_or(0)
    }

    fn build(definitions: &Map<String, Value>, facts: &Facts) -> Schema {
        let mut schema = Schema {
            nodes: vec![
                Shape::Untyped { atomic: false },
                Shape::Untyped { atomic: true },
                Shape::Scalar,
            ],
            by_definition: HashMap::with_capacity(definitions.len()),
        };
        for name in definitions.keys() {
            let id = schema.push(Shape::Scalar);
            schema.by_definition.insert(name.as_str().into(), id);
        }
        for (name, definition) in definitions {
            let shape = schema.definition(name, definition, facts);
            let id = schema.by_definition[name.as_str()] as usize;
            schema.nodes[id] = shape;
        }
        schema.nodes.shrink_to_fit();
        schema
    }

    fn push(&mut self, shape: Shape) -> u32 {
        self.nodes.push(shape);
        (self.nodes.len() - 1) as u32
    }

    fn definition(&mut self, name: &str, definition: &Value, facts: &Facts) -> Shape {
        if OPAQUE.contains(&name) {
            return Shape::Untyped { atomic: true };
        }
        if name.ends_with(".JSONSchemaPropsOrArray")
            || name.ends_with(".JSONSchemaPropsOrBool")
            || name.ends_with(".JSONSchemaPropsOrStringArray")
        {
            return Shape::Untyped { atomic: false };
        }
        let Some(properties) = definition.get("properties").and_then(Value::as_object) else {
            return match definition.get("type").and_then(Value::as_str) {
                Some("object") => Shape::Struct {
                    fields: Vec::new(),
                    atomic: false,
                },
                _ => Shape::Scalar,
            };
        };
        let required: Vec<&str> = definition
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let mut fields: Vec<Field> = properties
            .iter()
            .map(|(field, property)| {
                let fact = facts.of(name, field);
                Field {
                    name: field.as_str().into(),
                    required: required.contains(&field.as_str()),
                    merge: fact.patch_strategy.split(',').any(|one| one == "merge"),
                    replace: fact.patch_strategy == "replace",
                    merge_key: fact.patch_merge_key.into(),
                    ty: self.property(name, field, property, facts),
                }
            })
            .collect();
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        Shape::Struct {
            fields,
            atomic: facts.of(name, ".").map_type == "atomic",
        }
    }

    fn property(&mut self, definition: &str, field: &str, property: &Value, facts: &Facts) -> u32 {
        let fact = facts.of(definition, field);
        if let Some(name) = reference(property) {
            let id = self.by_definition.get(name).copied().unwrap_or(UNTYPED);
            // A field may be atomic though its type is not, as a Service's selector's is.
            return if fact.map_type == "atomic" {
                ATOMIC
            } else {
                id
            };
        }
        match property.get("type").and_then(Value::as_str) {
            Some("array") => {
                let item = property
                    .get("items")
                    .map_or(UNTYPED, |items| self.property("", "", items, facts));
                let kind = match fact.list_type {
                    "set" => ListKind::Set,
                    "map" => ListKind::Map(self.keys(property, fact.list_map_keys, facts)),
                    _ => ListKind::Atomic,
                };
                self.push(Shape::List { item, kind })
            }
            Some("object") => match property.get("additionalProperties") {
                Some(values) => {
                    let value = self.property("", "", values, facts);
                    self.push(Shape::Map {
                        value,
                        atomic: fact.map_type == "atomic",
                    })
                }
                None => UNTYPED,
            },
            Some(_) => SCALAR,
            None if property.get("x-kubernetes-int-or-string").is_some() => SCALAR,
            None => UNTYPED,
        }
    }

    fn keys(&self, list: &Value, keys: &str, facts: &Facts) -> Vec<ListKey> {
        let item = list.get("items").and_then(reference).unwrap_or("");
        keys.split(',')
            .map(|key| {
                let default = facts.of(item, key).default;
                ListKey {
                    name: key.into(),
                    default: (!default.is_empty()).then(|| Value::from(default)),
                }
            })
            .collect()
    }
}

/// The definition a property refers to.
pub(crate) fn reference(property: &Value) -> Option<&str> {
    let direct = property.get("$ref").and_then(Value::as_str);
    let wrapped = || property.get("allOf")?.get(0)?.get("$ref")?.as_str();
    direct.or_else(wrapped)?.rsplit('/').next()
}

impl<'a> TypeRef<'a> {
    /// What this type looks like.
    pub fn shape(self) -> &'a Shape {
        &self.schema.nodes[self.id as usize]
    }

    /// The type at an index found inside a [`Shape`].
    pub(crate) fn at(self, id: u32) -> TypeRef<'a> {
        TypeRef {
            schema: self.schema,
            id,
        }
    }

    pub(crate) fn field_type(self, field: &Field) -> TypeRef<'a> {
        self.at(field.ty)
    }

    /// A struct's field by name.
    pub fn field(self, name: &str) -> Option<&'a Field> {
        match self.shape() {
            Shape::Struct { fields, .. } => fields
                .binary_search_by(|field| (*field.name).cmp(name))
                .ok()
                .map(|index| &fields[index]),
            _ => None,
        }
    }

    /// The type of what is found under a key of an object, and of any key where that is known.
    pub fn child(self, key: &str) -> Option<TypeRef<'a>> {
        match self.shape() {
            Shape::Struct { .. } => self.field(key).map(|field| self.at(field.ty)),
            Shape::Map { value, .. } => Some(self.at(*value)),
            Shape::Untyped { .. } => Some(self),
            Shape::List { .. } | Shape::Scalar => None,
        }
    }

    /// The type of a list's items.
    pub fn item(self) -> TypeRef<'a> {
        match self.shape() {
            Shape::List { item, .. } => self.at(*item),
            _ => self.at(UNTYPED),
        }
    }

    /// How a list merges; what is no list is atomic.
    pub fn list_kind(self) -> &'a ListKind {
        match self.shape() {
            Shape::List { kind, .. } => kind,
            _ => &ListKind::Atomic,
        }
    }
}
