//! Clients of every server: writers that compare and swap, readers that must see everything known, and loops that act
//! only for the leader. Each value is written at most once, so that whoever sees it knows whose it is.

use std::future::Future;
use std::time::Duration;

use caravel_api::{Encoded, Key, Revision};
use caravel_store::{Change, CommitError, Committed, Expect, Store, Txn};
use caravel_support::history::{Action, Operation, Outcome};
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use crate::model::marks;
use crate::world::World;

/// Clients, and keys that all of them want.
pub const CLIENTS: u64 = 4;
const SHARED: u32 = 5;
/// Keys of one client alone.
const OWN: u32 = 8;

pub fn key(kind: &str, name: &str) -> Key {
    Key::from(format!("/registry/core/{kind}/sim/{name}"))
}

fn object(name: &str, value: &str, reign: Option<(u64, u64)>, padding: usize) -> Encoded {
    let reign = reign.map_or(String::new(), |(term, node)| {
        format!(r#""reign":"{term}/{node}","#)
    });
    let json = format!(
        r#"{{"metadata":{{"name":"{name}"}},{reign}"value":"{value}","x":"{}"}}"#,
        "x".repeat(padding)
    );
    Encoded::new(json).expect("made right above")
}

/// What a client is told, unless its server loses power first.
async fn answered<T>(
    world: &World,
    node: u64,
    life: u64,
    asked: impl Future<Output = T>,
) -> Option<T> {
    let mut asked = std::pin::pin!(asked);
    loop {
        tokio::select! {
            biased;
            answer = &mut asked => return world.lives(node, life).then_some(answer),
            () = sleep(Duration::from_millis(100)) => {
                if !world.lives(node, life) {
                    return None;
                }
            }
        }
    }
}

pub struct Client {
    world: World,
    number: u64,
    random: StdRng,
    written: u64,
    history: Vec<Operation>,
}

impl Client {
    pub fn new(world: &World, number: u64) -> Self {
        Client {
            world: world.clone(),
            number,
            random: world.random(100 + number),
            written: 0,
            history: Vec::new(),
        }
    }

    /// Works until `end`, and tells what it did to shared keys.
    pub async fn work(mut self, end: Instant) -> Vec<Operation> {
        while Instant::now() < end {
            let pause = self.random.random_range(20..220);
            sleep(Duration::from_millis(pause)).await;
            let running = self.world.running();
            if running.is_empty() {
                continue;
            }
            let node = running[self.random.random_range(0..running.len())];
            let Some((store, life)) = self.world.store(node) else {
                continue;
            };
            match self.random.random_range(0..10) {
                0..4 => self.swap(&store, node, life).await,
                4..7 => self.put(&store, node, life).await,
                7 => self.remove(&store, node, life).await,
                _ => {
                    let name = self.shared();
                    self.read(&store, node, life, &name).await;
                }
            }
        }
        self.history
    }

    fn shared(&mut self) -> String {
        format!("shared-{}", self.random.random_range(0..SHARED))
    }

    fn value(&mut self) -> String {
        self.written += 1;
        format!("c{}-{}", self.number, self.written)
    }

    fn note(&mut self, node: u64, name: &str, action: Action, invoked: Duration, outcome: Outcome) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.history.push(Operation {
            server: node.to_string(),
            key: name.to_owned(),
            action,
            invoked: nanos(invoked),
            returned: nanos(self.world.now()),
            outcome,
        });
    }

    /// A consistent read: the value and its revision.
    async fn read(
        &mut self,
        store: &Store,
        node: u64,
        life: u64,
        name: &str,
    ) -> Option<(Option<String>, Revision)> {
        let world = self.world.clone();
        let (invoked, floor) = (world.now(), world.model().told);
        let read = answered(&world, node, life, store.fresh_snapshot()).await;
        let snapshot = match read {
            Some(Ok(snapshot)) => snapshot,
            Some(Err(_)) | None => return None,
        };
        world.step();
        let key = key("configmaps", name);
        let found = snapshot.entry(&key);
        let value = found.as_ref().map(|entry| marks(&entry.json).0);
        let revision = snapshot.revision().0;
        world.trace(format_args!(
            "c{} reads {name} on {node}: {value:?} at {revision}",
            self.number
        ));
        let seen = world
            .model()
            .read(node, floor, revision, &key, value.as_deref());
        world.require(seen);
        world.count(|totals| totals.consistent_reads += 1);
        let outcome = match &value {
            Some(value) => Outcome::Done {
                value: value.clone(),
                revision: found.as_ref().map_or(0, |entry| entry.revision.0),
            },
            None => Outcome::Absent,
        };
        self.note(node, name, Action::Read, invoked, outcome);
        Some((value, found.map_or(Revision(0), |entry| entry.revision)))
    }

    /// Compare and swap of a key that others want too.
    async fn swap(&mut self, store: &Store, node: u64, life: u64) {
        let name = self.shared();
        // What it compares with may be old: any replica will do.
        let read = if self.random.random_bool(0.5) {
            self.read(store, node, life, &name).await
        } else {
            let found = store.snapshot().entry(&key("configmaps", &name));
            Some((
                found.as_ref().map(|entry| marks(&entry.json).0),
                found.map_or(Revision(0), |entry| entry.revision),
            ))
        };
        let Some((expected, revision)) = read else {
            return;
        };
        let value = self.value();
        // Much of it stays the same, so that updates are told as what they change once the level allows.
        let object = object(&name, &value, None, 200);
        let key = key("configmaps", &name);
        let (txn, action) = match expected {
            None => (
                Txn::create(key.clone(), object),
                Action::Create {
                    value: value.clone(),
                },
            ),
            Some(expected) => (
                Txn::update(key.clone(), revision, object),
                Action::Update {
                    expected,
                    value: value.clone(),
                },
            ),
        };
        let invoked = self.world.now();
        let committed = answered(&self.world, node, life, store.commit(txn)).await;
        let outcome = self.told(node, &key, &value, committed);
        self.note(node, &name, action, invoked, outcome);
    }

    /// Writes keys of its own, several at once at times.
    async fn put(&mut self, store: &Store, node: u64, life: u64) {
        let kind = if self.random.random_bool(0.5) {
            "configmaps"
        } else {
            "pods"
        };
        let mut txn = Txn::new();
        let mut written = Vec::new();
        for _ in 0..self.random.random_range(1..4) {
            let name = format!("own-{}-{}", self.number, self.random.random_range(0..OWN));
            let key = key(kind, &name);
            if written.iter().any(|(other, _)| *other == key) {
                continue;
            }
            let value = self.value();
            let padding = if self.random.random_bool(0.02) {
                3_000
            } else {
                100
            };
            txn = txn.with(Change::Put {
                key: key.clone(),
                expect: Expect::Any,
                object: object(&name, &value, None, padding),
            });
            written.push((key, value));
        }
        let committed = answered(&self.world, node, life, store.commit(txn)).await;
        match committed {
            Some(Ok(committed)) => {
                let each = written.iter().zip(&committed.revisions);
                for ((key, value), revision) in each {
                    let all = Committed {
                        revision: *revision,
                        revisions: Vec::new(),
                    };
                    self.told(node, key, value, Some(Ok(all)));
                }
            }
            other => {
                for (key, value) in &written {
                    self.told(node, key, value, other.clone());
                }
            }
        }
    }

    async fn remove(&mut self, store: &Store, node: u64, life: u64) {
        let name = format!("own-{}-{}", self.number, self.random.random_range(0..OWN));
        let txn = Txn::new().with(Change::Delete {
            key: key("pods", &name),
            expect: Expect::Any,
        });
        let committed = answered(&self.world, node, life, store.commit(txn)).await;
        if let Some(Ok(committed)) = committed {
            let mut model = self.world.model();
            model.told = model.told.max(committed.revision.0);
        }
    }

    /// Takes an answer at its word.
    fn told(
        &self,
        node: u64,
        key: &Key,
        value: &str,
        answer: Option<Result<Committed, CommitError>>,
    ) -> Outcome {
        told(&self.world, node, key, value, answer)
    }
}

fn told(
    world: &World,
    node: u64,
    key: &Key,
    value: &str,
    answer: Option<Result<Committed, CommitError>>,
) -> Outcome {
    world.step();
    let said = match &answer {
        Some(Ok(committed)) => format!("at {}", committed.revision),
        Some(Err(error)) => error.to_string(),
        None => "(power lost)".into(),
    };
    world.trace(format_args!("{value} in {key} by {node}: {said}"));
    match answer {
        Some(Ok(committed)) => {
            world.count(|totals| totals.writes += 1);
            let kept = world.model().acknowledged(committed.revision.0, key, value);
            world.require(kept);
            Outcome::Done {
                value: value.to_owned(),
                revision: committed.revision.0,
            }
        }
        Some(Err(CommitError::Unknown)) | None => {
            world.count(|totals| totals.unknown_outcomes += 1);
            Outcome::Unknown
        }
        Some(Err(error)) => {
            let kept = world.model().denied(value);
            world.require(kept);
            match error {
                CommitError::Conflict(..) => Outcome::Conflict,
                _ => Outcome::Refused,
            }
        }
    }
}

/// A loop of the one that leads: it looks, thinks for a while, and writes under the reign in which it looked.
pub async fn act_for_leader(world: World, number: u64, end: Instant) {
    let mut random = world.random(200 + number);
    let mut written = 0;
    while Instant::now() < end {
        sleep(Duration::from_millis(random.random_range(50..300))).await;
        let running = world.running();
        let leads = running.into_iter().find_map(|id| {
            let (store, life) = world.store(id)?;
            let epoch = (*store.leadership().borrow())?;
            Some((id, store, life, epoch))
        });
        let Some((node, store, life, epoch)) = leads else {
            continue;
        };
        written += 1;
        let (name, value) = (format!("loop-{number}"), format!("l{number}-{written}"));
        let key = key("leases", &name);
        // A plan may be held back for long, and its leader be deposed and elected again meanwhile.
        let held = if random.random_bool(0.2) { 4_000 } else { 150 };
        sleep(Duration::from_millis(random.random_range(0..held))).await;
        if !world.lives(node, life) {
            continue;
        }
        let txn = Txn::new().with(Change::Put {
            key: key.clone(),
            expect: Expect::Any,
            object: object(&name, &value, Some((epoch.term, epoch.node)), 20),
        });
        let committed = answered(&world, node, life, store.commit_under(epoch, txn)).await;
        match &committed {
            Some(Ok(_)) => world.count(|totals| totals.loop_writes += 1),
            Some(Err(CommitError::Deposed)) => {
                world.count(|totals| totals.loop_writes_deposed += 1);
            }
            Some(Err(_)) | None => {}
        }
        told(&world, node, &key, &value, committed);
    }
}

/// One more write, by whoever is asked; its revision, if it was acknowledged.
pub async fn last(world: &World, store: &Store, tries: u32) -> Option<u64> {
    let (name, value) = ("last", format!("last-{tries}"));
    let mut revision = None;
    // One of each kind, so that every watch has something to end with.
    for kind in ["configmaps", "pods"] {
        let key = key(kind, name);
        let value = format!("{value}-{kind}");
        let txn = Txn::new().with(Change::Put {
            key: key.clone(),
            expect: Expect::Any,
            object: object(name, &value, None, 0),
        });
        let node = store.identity().node;
        let committed = store.commit(txn).await;
        revision = committed
            .as_ref()
            .ok()
            .map(|committed| committed.revision.0);
        told(world, node, &key, &value, Some(committed));
    }
    revision
}
