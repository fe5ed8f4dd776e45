//! Watchers that live through faults: each lists once, and then watches on from the last revision it has seen, at another
//! server when one fails. 410 is the only reason to list again.

use crate::client::{Client, register, revision};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A server that sends nothing for so long is left. The load sends more often.
const SILENCE: Duration = Duration::from_secs(10);

/// What one watcher saw, in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It listed, and had all up to here.
    Listed(u64),
    Change(u64),
    /// All changes up to here were sent.
    Bookmark(u64),
}

#[derive(Default)]
pub struct Watched {
    pub watchers: Vec<Mutex<Vec<Seen>>>,
    /// What happened at each revision, as the first watcher saw it: object and value.
    pub changes: Mutex<BTreeMap<u64, (String, String)>>,
    pub odd: Mutex<Vec<String>>,
}

pub struct Watchers {
    pub watched: Arc<Watched>,
    tasks: tokio::task::JoinSet<()>,
}

impl Watchers {
    pub fn start(clients: &[Client], namespace: &str, count: usize) -> Self {
        let watched = Arc::new(Watched {
            watchers: (0..count).map(|_| Mutex::default()).collect(),
            ..Watched::default()
        });
        let mut tasks = tokio::task::JoinSet::new();
        for watcher in 0..count {
            let (clients, namespace) = (clients.to_vec(), namespace.to_owned());
            let watched = watched.clone();
            tasks.spawn(async move { watched.watch(watcher, &clients, &namespace).await });
        }
        Self { watched, tasks }
    }

    /// Waits until all have seen `revision`, and ends them. How many have not, in the given time?
    pub async fn end(mut self, revision: u64, within: Duration) -> (Arc<Watched>, usize) {
        let end = tokio::time::Instant::now() + within;
        let behind = || {
            let watchers = self.watched.watchers.iter();
            watchers
                .filter(|seen| last(&seen.lock()).is_none_or(|at| at < revision))
                .count()
        };
        while behind() > 0 && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let behind = behind();
        self.tasks.shutdown().await;
        (self.watched, behind)
    }
}

fn last(seen: &[Seen]) -> Option<u64> {
    seen.last().map(|seen| match seen {
        Seen::Listed(at) | Seen::Change(at) | Seen::Bookmark(at) => *at,
    })
}

impl Watched {
    async fn watch(&self, watcher: usize, clients: &[Client], namespace: &str) {
        let mut turn = watcher;
        let mut at = None;
        loop {
            let client = &clients[turn % clients.len()];
            match at {
                None => {
                    if let Ok((revision, _)) = client.list(namespace).await {
                        self.watchers[watcher].lock().push(Seen::Listed(revision));
                        at = Some(revision);
                        continue;
                    }
                }
                Some(after) => match self.follow(watcher, client, namespace, after).await {
                    Followed::Gone => {
                        at = None;
                        continue;
                    }
                    Followed::Ended => at = last(&self.watchers[watcher].lock()),
                },
            }
            turn += 1;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn follow(
        &self,
        watcher: usize,
        client: &Client,
        namespace: &str,
        after: u64,
    ) -> Followed {
        let Ok(answer) = client.watch(namespace, after).await else {
            return Followed::Ended;
        };
        match answer.status().as_u16() {
            200 => {}
            410 => return Followed::Gone,
            _ => return Followed::Ended,
        }
        let mut body = answer.into_body();
        let mut text: Vec<u8> = Vec::new();
        loop {
            let Some(end) = text.iter().position(|byte| *byte == b'\n') else {
                match tokio::time::timeout(SILENCE, body.frame()).await {
                    Ok(Some(Ok(frame))) => text.extend(frame.into_data().unwrap_or_default()),
                    // The end of the server cuts lines off, too.
                    _ => return Followed::Ended,
                }
                continue;
            };
            let line: Vec<u8> = text.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).unwrap_or_default();
            let object = &event["object"];
            let seen = match event["type"].as_str() {
                Some("ADDED" | "MODIFIED") => self.change(object).map(Seen::Change),
                Some("BOOKMARK") => revision(object).map(Seen::Bookmark),
                Some("ERROR") if object["code"] == 410 => return Followed::Gone,
                Some("ERROR") => return Followed::Ended,
                _ => None,
            };
            match seen {
                Some(seen) => self.watchers[watcher].lock().push(seen),
                None => self.odd.lock().push(format!("{}: {event}", client.server)),
            }
        }
    }

    /// Notes what happened at a revision; all watchers must be told the same.
    fn change(&self, object: &Value) -> Option<u64> {
        let register = register(object)?;
        let name = object["metadata"]["name"].as_str()?.to_owned();
        let what = (name, register.values.last()?.clone());
        let mut changes = self.changes.lock();
        let first = changes
            .entry(register.revision)
            .or_insert_with(|| what.clone());
        if *first != what {
            let odd = format!(
                "revision {} is {first:?} to one watcher and {what:?} to another",
                register.revision
            );
            self.odd.lock().push(odd);
        }
        Some(register.revision)
    }
}

enum Followed {
    Gone,
    Ended,
}
