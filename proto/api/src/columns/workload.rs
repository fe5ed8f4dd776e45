//! Columns of Deployments and ReplicaSets.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use crate::selector::Selector;
use crate::table::{AGE, Column, NAME, Printer, age, at, list, name, number, text};

const CONTAINERS: Column =
    Column::text("Containers", "Names of each container in the template.").wide();
const IMAGES: Column = Column::text(
    "Images",
    "Images referenced by each container in the template.",
)
.wide();
const SELECTOR: Column = Column::text("Selector", "Label selector for pods.").wide();

pub(crate) const DEPLOYMENT: Printer = Printer {
    columns: &[
        NAME,
        Column::text("Ready", "Number of the pod with ready state"),
        Column::number(
            "Up-to-date",
            "Total number of non-terminated pods targeted by this deployment that have the desired template spec.",
        ),
        Column::number(
            "Available",
            "Total number of available pods (ready for at least minReadySeconds) targeted by this deployment.",
        ),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let mut cells = vec![
            name(object),
            format!(
                "{}/{}",
                number(object, "status.readyReplicas"),
                number(object, "spec.replicas")
            )
            .into(),
            number(object, "status.updatedReplicas").into(),
            number(object, "status.availableReplicas").into(),
        ];
        cells.extend(template(object, now));
        cells
    },
};

pub(crate) const REPLICA_SET: Printer = Printer {
    columns: &[
        NAME,
        Column::number("Desired", "Replicas is the number of desired pods."),
        Column::number(
            "Current",
            "Replicas is the most recently observed number of non-terminating pods.",
        ),
        Column::number(
            "Ready",
            "The number of non-terminating pods targeted by this ReplicaSet with a Ready Condition.",
        ),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let mut cells = vec![
            name(object),
            number(object, "spec.replicas").into(),
            number(object, "status.replicas").into(),
            number(object, "status.readyReplicas").into(),
        ];
        cells.extend(template(object, now));
        cells
    },
};

fn template(object: &Value, now: Timestamp) -> [Value; 4] {
    let containers = list(object, "spec.template.spec.containers");
    let joined = |field: &str| {
        containers
            .iter()
            .map(|container| text(container, field))
            .collect::<Vec<_>>()
            .join(",")
    };
    let selector =
        serde_json::from_value::<Option<LabelSelector>>(at(object, "spec.selector").clone())
            .ok()
            .and_then(|selector| Selector::from_label_selector(selector.as_ref()).ok())
            .map_or_else(|| "<error>".to_owned(), |selector| selector.to_string());
    [
        age(object, now),
        joined("name").into(),
        joined("image").into(),
        if selector.is_empty() {
            "<none>".into()
        } else {
            selector.into()
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_deployment_is_printed_as_upstream() {
        let object = json!({"metadata": {"name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y"}]}}},
            "status": {"readyReplicas": 2, "updatedReplicas": 3}});
        let cells = (DEPLOYMENT.cells)(&object, "2026-01-01T00:01:00Z".parse().unwrap());
        assert_eq!(
            Value::from(cells),
            json!(["web", "2/3", 3, 0, "60s", "a,b", "x:1,y", "app=web"])
        );
    }
}
