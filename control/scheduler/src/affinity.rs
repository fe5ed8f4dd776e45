//! A pod's rules about nodes and about other pods, read from its spec into what can be asked quickly.
//!
//! Upstream: `k8s.io/component-helpers/scheduling/corev1/nodeaffinity`, `scheduler/framework/types.go` (`AffinityTerm`).
//! What cannot be read selects nothing; validation has refused it before.

use std::collections::{BTreeMap, BTreeSet};

use caravel_api::selector::{Operator, Requirement, Selector};
use k8s_openapi::api::core::v1::{
    NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSpec,
};

use crate::cluster::NodeView;

/// Which nodes a pod must and would like to be on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeRules {
    /// `nodeSelector`: all of these labels.
    selector: Vec<Requirement>,
    /// Required terms: one of them, if there are any.
    required: Option<Vec<NodeTerm>>,
    /// Preferred terms by weight.
    pub preferred: Vec<(i64, NodeTerm)>,
}

/// All of these.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeTerm {
    labels: Vec<Requirement>,
    /// On `metadata.name`, the only field there is.
    name: Vec<Requirement>,
    /// An empty or unreadable term selects nothing.
    valid: bool,
}

impl NodeRules {
    pub fn read(spec: &PodSpec) -> NodeRules {
        let affinity = spec
            .affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.as_ref());
        let empty = BTreeMap::new();
        NodeRules {
            selector: Selector::from_map(spec.node_selector.as_ref().unwrap_or(&empty))
                .requirements,
            required: affinity
                .and_then(|affinity| {
                    affinity
                        .required_during_scheduling_ignored_during_execution
                        .as_ref()
                })
                .map(|required| {
                    required
                        .node_selector_terms
                        .iter()
                        .map(NodeTerm::read)
                        .collect()
                }),
            preferred: affinity
                .into_iter()
                .flat_map(|affinity| {
                    affinity
                        .preferred_during_scheduling_ignored_during_execution
                        .iter()
                        .flatten()
                })
                .map(|term| (i64::from(term.weight), NodeTerm::read(&term.preference)))
                .collect(),
        }
    }

    /// Are there no required rules?
    pub fn are_free(&self) -> bool {
        self.selector.is_empty() && self.required.is_none()
    }

    pub fn allow(&self, node: &NodeView) -> bool {
        self.selector
            .iter()
            .all(|requirement| requirement.matches(&node.labels))
            && self
                .required
                .as_ref()
                .is_none_or(|terms| terms.iter().any(|term| term.matches(node)))
    }

    /// The only nodes that can do, if every required term names them (upstream's `PreFilterResult`).
    pub fn only(&self) -> Option<BTreeSet<&str>> {
        let terms = self.required.as_ref().filter(|terms| !terms.is_empty())?;
        let mut all = BTreeSet::new();
        for term in terms {
            let mut names: Option<BTreeSet<&str>> = None;
            for requirement in term
                .name
                .iter()
                .filter(|requirement| requirement.operator == Operator::In)
            {
                let these: BTreeSet<&str> = requirement.values.iter().map(String::as_str).collect();
                names = Some(names.map_or(these.clone(), |names| {
                    names.intersection(&these).copied().collect()
                }));
            }
            all.extend(names?);
        }
        Some(all)
    }
}

impl NodeTerm {
    fn read(term: &NodeSelectorTerm) -> NodeTerm {
        let labels: Option<Vec<Requirement>> = term
            .match_expressions
            .iter()
            .flatten()
            .map(requirement)
            .collect();
        let name: Option<Vec<Requirement>> = term
            .match_fields
            .iter()
            .flatten()
            .map(|field| requirement(field).filter(|field| field.key == "metadata.name"))
            .collect();
        let valid = labels.is_some() && name.is_some();
        let (labels, name) = (labels.unwrap_or_default(), name.unwrap_or_default());
        NodeTerm {
            valid: valid && !(labels.is_empty() && name.is_empty()),
            labels,
            name,
        }
    }

    pub fn matches(&self, node: &NodeView) -> bool {
        let named = |requirement: &Requirement| match requirement.operator {
            Operator::In => requirement.values.contains(&node.name),
            Operator::NotIn => !requirement.values.contains(&node.name),
            _ => false,
        };
        self.valid
            && self
                .labels
                .iter()
                .all(|requirement| requirement.matches(&node.labels))
            && self.name.iter().all(named)
    }
}

fn requirement(written: &NodeSelectorRequirement) -> Option<Requirement> {
    let operator = match written.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return None,
    };
    Some(Requirement {
        key: written.key.clone(),
        operator,
        values: written.values.iter().flatten().cloned().collect(),
    })
}

/// Which pods a pod wants near or far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodRules {
    pub near: Vec<PodTerm>,
    pub far: Vec<PodTerm>,
    /// Preferences by weight; far ones have negative weights.
    pub preferred: Vec<(i64, PodTerm)>,
}

/// Pods of these namespaces that this selector selects, in the same place by `topology_key`.
#[derive(Clone, Debug, PartialEq)]
pub struct PodTerm {
    pub selector: Selector,
    pub topology_key: String,
    pub namespaces: BTreeSet<String>,
    /// Namespaces by label; `{}` is all of them. The others are worked out by [`PodRules::resolve`].
    pub namespace_selector: Option<Selector>,
}

impl PodRules {
    pub fn read(spec: &PodSpec, namespace: &str) -> PodRules {
        let Some(affinity) = &spec.affinity else {
            return PodRules::default();
        };
        let mut rules = PodRules::default();
        if let Some(near) = &affinity.pod_affinity {
            let required = near
                .required_during_scheduling_ignored_during_execution
                .iter()
                .flatten();
            rules.near = required
                .map(|term| PodTerm::read(term, namespace))
                .collect();
            for term in near
                .preferred_during_scheduling_ignored_during_execution
                .iter()
                .flatten()
            {
                rules.preferred.push((
                    i64::from(term.weight),
                    PodTerm::read(&term.pod_affinity_term, namespace),
                ));
            }
        }
        if let Some(far) = &affinity.pod_anti_affinity {
            let required = far
                .required_during_scheduling_ignored_during_execution
                .iter()
                .flatten();
            rules.far = required
                .map(|term| PodTerm::read(term, namespace))
                .collect();
            for term in far
                .preferred_during_scheduling_ignored_during_execution
                .iter()
                .flatten()
            {
                rules.preferred.push((
                    -i64::from(term.weight),
                    PodTerm::read(&term.pod_affinity_term, namespace),
                ));
            }
        }
        rules
    }

    pub fn is_empty(&self) -> bool {
        self.near.is_empty() && self.far.is_empty() && self.preferred.is_empty()
    }

    /// Works out which namespaces are selected by label.
    pub fn resolve(&mut self, selected: impl Fn(&Selector) -> Vec<String>) {
        let preferred = self.preferred.iter_mut().map(|(_, term)| term);
        for term in self.near.iter_mut().chain(&mut self.far).chain(preferred) {
            if let Some(selector) = term
                .namespace_selector
                .as_ref()
                .filter(|selector| !selector.is_empty())
            {
                term.namespaces.extend(selected(selector));
            }
        }
    }
}

impl PodTerm {
    fn read(term: &PodAffinityTerm, namespace: &str) -> PodTerm {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(namespace.to_owned());
        }
        let read = |selector| {
            Selector::from_label_selector(Some(selector)).unwrap_or_else(|_| Selector::nothing())
        };
        PodTerm {
            selector: term
                .label_selector
                .as_ref()
                .map_or_else(Selector::nothing, read),
            topology_key: term.topology_key.clone(),
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(read),
        }
    }

    pub fn selects(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        let everywhere = self
            .namespace_selector
            .as_ref()
            .is_some_and(Selector::is_empty);
        (everywhere || self.namespaces.contains(namespace)) && self.selector.matches(labels)
    }
}

/// How evenly pods are to be spread over the places that a label names.
#[derive(Clone, Debug, PartialEq)]
pub struct SpreadRule {
    pub max_skew: i64,
    pub key: String,
    /// `DoNotSchedule`; else only preferred.
    pub hard: bool,
    pub selector: Selector,
    pub min_domains: Option<i64>,
    /// Count only nodes that the pod's node rules allow.
    pub honor_affinity: bool,
    /// Count only nodes whose taints the pod tolerates.
    pub honor_taints: bool,
}

impl SpreadRule {
    pub fn read_all(spec: &PodSpec, labels: &BTreeMap<String, String>) -> Vec<SpreadRule> {
        let rules = spec.topology_spread_constraints.iter().flatten();
        rules
            .map(|rule| {
                let mut selector = Selector::from_label_selector(rule.label_selector.as_ref())
                    .unwrap_or_else(|_| Selector::nothing());
                if !rule
                    .match_label_keys
                    .iter()
                    .flatten()
                    .any(|key| key.is_empty())
                {
                    for key in rule.match_label_keys.iter().flatten() {
                        if let Some(value) = labels.get(key) {
                            let values = BTreeSet::from([value.clone()]);
                            selector.requirements.push(Requirement {
                                key: key.clone(),
                                operator: Operator::In,
                                values,
                            });
                        }
                    }
                }
                SpreadRule {
                    max_skew: i64::from(rule.max_skew),
                    key: rule.topology_key.clone(),
                    hard: rule.when_unsatisfiable == "DoNotSchedule",
                    selector,
                    min_domains: rule.min_domains.map(i64::from),
                    honor_affinity: rule.node_affinity_policy.as_deref() != Some("Ignore"),
                    honor_taints: rule.node_taints_policy.as_deref() == Some("Honor"),
                }
            })
            .collect()
    }
}
