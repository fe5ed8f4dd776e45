//! Carries out a plan by a hand, and remembers what was refused.
//!
//! Creates go in batches of 1, 2, 4, ... that end with the first refusal (upstream's `slowStartBatch`), so that a
//! quota refuses one pod and not five hundred. Nothing is retried here: the loop looks again.

use std::time::Duration;

use caravel_api::{ApiError, Revision};
use caravel_store::Epoch;
use futures::future::join_all;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::action::{Action, Note, Outcomes};
use crate::events::EventRecord;
use crate::hand::{Applied, Hand};

/// Deletes that go together.
const DELETES: usize = 32;
const CREATES: usize = 128;
const DEADLINE: Duration = Duration::from_secs(30);

/// What came of a plan.
#[derive(Debug, Default)]
pub struct Done {
    pub outcomes: Outcomes,
    /// The newest revision written; look again only at or after it.
    pub revision: Revision,
    /// The outcome of a write is unknown: the next look needs a barrier.
    pub unknown: bool,
}

pub struct CarryOut<'a> {
    pub hand: &'a dyn Hand,
    pub epoch: Epoch,
    pub identity: &'static str,
    pub events: &'a mpsc::Sender<EventRecord>,
}

impl CarryOut<'_> {
    pub async fn plan(&self, actions: Vec<Action>) -> Done {
        let mut done = Done::default();
        let mut rest = actions.into_iter().peekable();
        while let Some(action) = rest.next() {
            let goes_with: fn(&Action) -> bool = match action {
                Action::Create { .. } => |next| matches!(next, Action::Create { .. }),
                Action::Delete { .. } => |next| matches!(next, Action::Delete { .. }),
                _ => |_| false,
            };
            let mut together = vec![action];
            while let Some(next) = rest.next_if(goes_with) {
                together.push(next);
            }
            if !self.together(together, &mut done).await {
                break;
            }
        }
        done
    }

    async fn together(&self, actions: Vec<Action>, done: &mut Done) -> bool {
        let slow = matches!(actions[0], Action::Create { .. });
        let mut size = if slow { 1 } else { DELETES };
        let mut rest = actions.into_iter();
        let mut all_done = true;
        loop {
            let batch: Vec<Action> = rest.by_ref().take(size).collect();
            if batch.is_empty() {
                return all_done;
            }
            for result in join_all(batch.into_iter().map(|action| self.one(action))).await {
                match result {
                    Ok(Some(applied)) => done.revision = done.revision.max(applied.revision),
                    Ok(None) => {}
                    Err((line, error)) => {
                        done.unknown |= error.code == 504;
                        all_done = false;
                        done.outcomes.refused.push((line, error));
                    }
                }
            }
            if !all_done && (slow || done.unknown) {
                return all_done;
            }
            if slow {
                size = (size * 2).min(CREATES);
            }
        }
    }

    async fn one(&self, action: Action) -> Result<Option<Applied>, (String, ApiError)> {
        let (line, note) = match &action {
            Action::Emit(record) => {
                self.emit(record.clone());
                return Ok(None);
            }
            Action::Create { note, .. } | Action::Delete { note, .. } => {
                (action.to_string(), note.clone())
            }
            other => (other.to_string(), None),
        };
        let create = matches!(action, Action::Create { .. });
        tracing::debug!(controller = self.identity, action = line, "carrying out");
        let result = timeout(DEADLINE, self.hand.apply(self.epoch, self.identity, action))
            .await
            .unwrap_or_else(|_| {
                Err(ApiError::timeout(
                    "the write took too long; it may have been committed",
                    0,
                ))
            });
        match result {
            Ok(applied) => {
                if let Some(note) = note {
                    self.emit(tell(&note, self.identity, Ok(&applied.name)));
                }
                Ok(Some(applied))
            }
            // Gone already is what was wanted, or makes the rest pointless: the next look sees it.
            Err(error) if !create && error.is_not_found() => Ok(None),
            Err(error) => {
                if let Some(note) = note {
                    self.emit(tell(&note, self.identity, Err(&error)));
                }
                Err((line, error))
            }
        }
    }

    fn emit(&self, record: EventRecord) {
        if record.reason.is_empty() {
            return;
        }
        if let Err(error) = self.events.try_send(record) {
            tracing::debug!(controller = self.identity, %error, "an event was dropped: the recorder is behind");
        }
    }
}

fn tell(note: &Note, component: &str, result: Result<&str, &ApiError>) -> EventRecord {
    match result {
        Ok(name) => EventRecord::normal(
            note.about.clone(),
            component,
            note.done.0,
            note.done.1.replace("{name}", name),
        ),
        Err(error) => EventRecord::warning(
            note.about.clone(),
            component,
            note.failed.0,
            note.failed.1.replace("{error}", &error.to_string()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;

    use super::*;
    use crate::testing::cluster;

    fn create(name: &str) -> Action {
        let row = caravel_api::kinds::by_kind("", "v1", "ConfigMap").unwrap();
        let object = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "a"}});
        let note = Note {
            about: ObjectReference::default(),
            done: ("Made", "Made {name}".to_owned()),
            failed: ("Refused", "Error: {error}".to_owned()),
        };
        Action::Create {
            row,
            namespace: "a".to_owned(),
            object,
            note: None,
        }
        .noted(note)
    }

    #[tokio::test]
    async fn creates_start_slowly_and_end_with_the_first_refusal() {
        for (refused, made, told) in [
            (
                "create configmap a/m0",
                1,
                vec!["Warning Refused: Error: quota".to_owned()],
            ),
            (
                "create configmap a/m2",
                3,
                [
                    "Normal Made: Made m0",
                    "Normal Made: Made m1",
                    "Warning Refused: Error: quota",
                ]
                .map(str::to_owned)
                .to_vec(),
            ),
            (
                "nothing",
                8,
                (0..8)
                    .map(|at| format!("Normal Made: Made m{at}"))
                    .collect(),
            ),
        ] {
            let (store, hand) = cluster(&[] as &[&str]).await;
            *hand.refuse.lock() = Some((
                refused.to_owned(),
                ApiError::forbidden_because("", "", "", "quota"),
            ));
            let (events, mut records) = mpsc::channel(64);
            let epoch = store.leadership().borrow().unwrap();
            let actions: Vec<Action> = (0..8).map(|at| create(&format!("m{at}"))).collect();
            let done = CarryOut {
                hand: &*hand,
                epoch,
                identity: "test",
                events: &events,
            }
            .plan(actions)
            .await;
            assert_eq!(hand.log.lock().len(), made, "{refused}");
            assert_eq!(done.outcomes.refused.is_empty(), refused == "nothing");
            let mut heard: Vec<String> = std::iter::from_fn(|| records.try_recv().ok())
                .map(|record| record.to_string().replace("forbidden: ", ""))
                .collect();
            // What is made together is told in any order.
            heard.sort();
            assert_eq!(heard, told);
        }
    }
}
