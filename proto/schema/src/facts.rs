//! The facts about fields that a Rust type does not carry: patch strategies, list and map types.
//!
//! Source: `data/field-facts.tsv`, derived from the published Kubernetes v1.37 API schema. The few schema defaults that
//! list keys rely on are in `DEFAULTS` (upstream: the `+default` markers in `k8s.io/api/core/v1/types.go`).

use std::collections::HashMap;

const TABLE: &str = include_str!("data/field-facts.tsv");

/// Defaults of fields that are keys of lists; without them a list item that leaves the field out has no identity.
const DEFAULTS: &[(&str, &str, &str)] = &[
    ("io.k8s.api.core.v1.ContainerPort", "protocol", "TCP"),
    ("io.k8s.api.core.v1.ServicePort", "protocol", "TCP"),
];

/// What is known of one field (or, under the name `.`, of a whole type).
#[derive(Clone, Copy, Default)]
pub(crate) struct Fact {
    pub patch_strategy: &'static str,
    pub patch_merge_key: &'static str,
    pub list_type: &'static str,
    pub list_map_keys: &'static str,
    pub map_type: &'static str,
    pub default: &'static str,
}

/// The whole table, by definition and field.
pub(crate) struct Facts(HashMap<(&'static str, &'static str), Fact>);

impl Facts {
    pub(crate) fn read() -> Facts {
        let mut facts: HashMap<(&str, &str), Fact> = HashMap::new();
        for line in TABLE
            .lines()
            .filter(|line| !line.starts_with('#') && !line.starts_with("definition\t"))
        {
            let mut column = line.split('\t');
            let mut next = || column.next().unwrap_or("");
            let (definition, field) = (next(), next());
            let fact = Fact {
                patch_strategy: next(),
                patch_merge_key: next(),
                list_type: next(),
                list_map_keys: next(),
                map_type: next(),
                default: next(),
            };
            facts.insert((definition, field), fact);
        }
        for (definition, field, default) in DEFAULTS {
            facts.entry((definition, field)).or_default().default = default;
        }
        Facts(facts)
    }

    pub(crate) fn of<'a>(&'a self, definition: &'a str, field: &'a str) -> Fact {
        self.0
            .get(&(definition, field))
            .copied()
            .unwrap_or_default()
    }
}
