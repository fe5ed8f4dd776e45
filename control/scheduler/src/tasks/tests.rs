//! The loop over a memory store and a fake hand: pods and nodes in, places and words out.

use caravel_controllers::fake::FakeHand;
use serde_json::{Value, json};

use super::*;

struct Lab {
    store: Store,
    hand: Arc<FakeHand>,
    cancel: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl Lab {
    async fn start() -> Lab {
        let store = Store::memory().await.unwrap();
        let hand = Arc::new(FakeHand::new(store.clone()));
        let cancel = CancellationToken::new();
        let running = tokio::spawn(run(store.clone(), hand.clone(), cancel.clone()));
        Lab {
            store,
            hand,
            cancel,
            running,
        }
    }

    async fn node(&self, name: &str, cpu: &str) {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "10"}}});
        self.hand.put(&node).await.unwrap();
    }

    async fn pod(&self, name: &str, cpu: &str, priority: i32) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "ns", "uid": name},
            "spec": {"priority": priority, "schedulerName": "default-scheduler", "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
        });
        self.hand.put(&pod).await.unwrap();
    }

    fn value(&self, name: &str) -> Value {
        let entry = self.store.snapshot().entry(&Pod::row().key("ns", name));
        entry.map_or(Value::Null, |entry| {
            serde_json::from_slice(&entry.json).unwrap()
        })
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !holds() {
            assert!(
                Instant::now() < deadline,
                "{what}: {:?}",
                self.hand.log.lock()
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn events(&self) -> Vec<String> {
        let range = k8s_openapi::api::core::v1::Event::row().prefix(None);
        let events = self.store.snapshot();
        events
            .list(&range)
            .map(|entry| serde_json::from_slice::<Value>(&entry.json).unwrap())
            .map(|event| {
                format!(
                    "{} {}",
                    event["reason"].as_str().unwrap(),
                    event["message"].as_str().unwrap()
                )
            })
            .collect()
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.running.await.unwrap();
    }
}

#[tokio::test]
async fn a_pod_waits_for_a_node_and_gets_it() {
    let lab = Lab::start().await;
    lab.pod("p", "1", 0).await;
    lab.until("it is told", || {
        lab.value("p")["status"]["conditions"][0]["message"]
            == "no nodes available to schedule pods"
    })
    .await;
    lab.node("n", "4").await;
    lab.until("it is bound", || lab.value("p")["spec"]["nodeName"] == "n")
        .await;
    lab.until("events", || {
        let events = lab.events();
        events.contains(&"FailedScheduling no nodes available to schedule pods".to_owned())
            && events.contains(&"Scheduled Successfully assigned ns/p to n".to_owned())
    })
    .await;
    lab.stop().await;
}

#[tokio::test]
async fn pods_that_do_not_fit_together_are_not_bound_together() {
    let lab = Lab::start().await;
    lab.node("a", "1").await;
    lab.node("b", "1").await;
    for name in ["p1", "p2", "p3"] {
        lab.pod(name, "1", 0).await;
    }
    let placed = || {
        ["p1", "p2", "p3"]
            .iter()
            .filter(|name| lab.value(name)["spec"]["nodeName"].is_string())
            .count()
    };
    let refused = || {
        ["p1", "p2", "p3"]
            .iter()
            .filter(|name| lab.value(name)["status"]["conditions"][0]["reason"] == "Unschedulable")
            .count()
    };
    lab.until("two of three", || placed() == 2 && refused() == 1)
        .await;
    lab.stop().await;
}

#[tokio::test]
async fn one_that_matters_more_makes_another_go() {
    let lab = Lab::start().await;
    lab.node("n", "1").await;
    lab.pod("low", "1", 1).await;
    lab.until("low is bound", || {
        lab.value("low")["spec"]["nodeName"] == "n"
    })
    .await;
    lab.pod("high", "1", 9).await;
    lab.until("high is bound", || {
        lab.value("high")["spec"]["nodeName"] == "n"
    })
    .await;
    assert_eq!(lab.value("low"), Value::Null);
    lab.until("it is told", || {
        lab.events()
            .contains(&"Preempted Preempted by pod high on node n".to_owned())
    })
    .await;
    lab.stop().await;
}
