//! Fills each ClusterRole that aggregates with the rules of those it selects.
//!
//! Follows `pkg/controller/clusterroleaggregation`; which rules those are is [`caravel_auth::policy::aggregate`]'s to say.

use caravel_api::ObjectName;
use caravel_auth::policy::aggregate;
use caravel_store::{Snapshot, Undecodable};
use k8s_openapi::api::rbac::v1::ClusterRole;

use crate::action::{Action, Plan, name_of};
use crate::row::{Changed, Row, Situation, on};

pub const CONTROLLER: Row = Row {
    name: "clusterrole-aggregation",
    identity: "clusterrole-aggregation-controller",
    workers: 1,
    wakes: &[on::<ClusterRole>(aggregating)],
    reconcile,
};

/// Every role that aggregates: the changed one may have entered or left any of them.
fn aggregating(changed: &Changed<'_>) -> Vec<ObjectName> {
    let roles = changed
        .cluster
        .all::<ClusterRole>(None)
        .filter_map(Result::ok);
    roles
        .filter(|role| role.aggregation_rule.is_some())
        .map(|role| name_of(&*role))
        .collect()
}

fn reconcile(cluster: &Snapshot, key: &ObjectName, _: &Situation<'_>) -> Result<Plan, Undecodable> {
    let Some(role) = cluster.get::<ClusterRole>(key)? else {
        return Ok(Plan::nothing());
    };
    let all = cluster
        .all::<ClusterRole>(None)
        .collect::<Result<Vec<_>, _>>()?;
    let Some(rules) = aggregate(&role, all.iter().map(|role| &**role)) else {
        return Ok(Plan::nothing());
    };
    if role.rules.as_deref().unwrap_or_default() == rules {
        return Ok(Plan::nothing());
    }
    let mut role = (*role).clone();
    role.rules = Some(rules);
    Ok(Plan::of(vec![Action::update(&role)]))
}

#[cfg(test)]
mod tests {
    use crate::testing::plan;

    #[tokio::test]
    async fn a_role_has_the_rules_of_those_it_selects() {
        let view = |rules: &str| {
            format!(
                "{{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {{name: view, uid: v}}, aggregationRule: {{clusterRoleSelectors: [{{matchLabels: {{view: 'yes'}}}}]}}, rules: [{rules}]}}"
            )
        };
        let part = "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: part, uid: p, labels: {view: 'yes'}}, rules: [{apiGroups: [x.io], resources: [things], verbs: [get]}]}".to_owned();
        let rule = "{apiGroups: [x.io], resources: [things], verbs: [get]}";
        for (objects, expected) in [
            (vec![view(""), part.clone()], "update clusterrole view\n"),
            (vec![view(rule), part.clone()], ""),
            (vec![view(rule)], "update clusterrole view\n"),
        ] {
            assert_eq!(plan(&super::CONTROLLER, "view", &objects).await, expected);
        }
        assert_eq!(plan(&super::CONTROLLER, "part", &[part]).await, "");
    }
}
