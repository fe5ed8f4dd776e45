//! The load: workers that create, update and read, and write down what they were told.
//!
//! An object is a register that also keeps its own history: each update appends a value to those that it read, so that at
//! the end the objects themselves say which writes happened, in which order, and how often. After a number of values an object
//! is left for the next generation of its slot, and is created again by whoever comes first.

use crate::client::{Client, Register};
use crate::history::{Action, Mark, Operation, Outcome, Time};
use parking_lot::Mutex;
use rand::Rng as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SLOTS: usize = 6;
/// Values in one object.
const FULL: usize = 60;

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub workers: usize,
    /// Between two operations of a worker.
    pub pace: Duration,
    /// Those who go to any server wait this long; those who stay with theirs wait longer than any fault lasts.
    pub roaming: Duration,
    pub staying: Duration,
}

pub struct Load {
    clients: Vec<Client>,
    namespace: String,
    shape: Shape,
    begun: Instant,
    generations: [AtomicU64; SLOTS],
    stop: AtomicBool,
    /// Nobody begins anything; so many are at something still.
    held: AtomicBool,
    busy: AtomicUsize,
    operations: Mutex<Vec<Operation>>,
    marks: Mutex<Vec<Mark>>,
}

impl Load {
    pub fn new(clients: Vec<Client>, namespace: &str, shape: Shape) -> Arc<Self> {
        Arc::new(Self {
            clients,
            namespace: namespace.to_owned(),
            shape,
            begun: Instant::now(),
            generations: Default::default(),
            stop: AtomicBool::new(false),
            held: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            operations: Mutex::default(),
            marks: Mutex::default(),
        })
    }

    pub fn start(self: &Arc<Self>) -> tokio::task::JoinSet<()> {
        let mut workers = tokio::task::JoinSet::new();
        for worker in 0..self.shape.workers {
            let load = self.clone();
            workers.spawn(async move { load.work(worker).await });
        }
        workers
    }

    /// Workers end with the operation that they are at.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// From now on nobody begins an operation, or again.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
    }

    pub fn is_idle(&self) -> bool {
        self.held.load(Ordering::SeqCst) && self.busy.load(Ordering::SeqCst) == 0
    }

    /// Counts the operation that follows as under way, once nobody holds it up. False: the load has ended.
    async fn begin(&self) -> bool {
        loop {
            self.busy.fetch_add(1, Ordering::SeqCst);
            if self.stop.load(Ordering::Relaxed) {
                self.end();
                return false;
            }
            if !self.held.load(Ordering::SeqCst) {
                return true;
            }
            self.end();
            tokio::time::sleep(self.shape.pace).await;
        }
    }

    fn end(&self) {
        self.busy.fetch_sub(1, Ordering::SeqCst);
    }

    pub fn now(&self) -> Time {
        self.begun.elapsed().as_nanos() as Time
    }

    pub fn mark(&self, what: String, fault: bool) -> Time {
        let at = self.now();
        self.marks.lock().push(Mark { at, what, fault });
        at
    }

    /// Acknowledged writes that began after `since`.
    pub fn written_since(&self, since: Time) -> usize {
        let operations = self.operations.lock();
        let recent = operations
            .iter()
            .rev()
            .take_while(|one| one.returned >= since);
        recent
            .filter(|one| one.invoked >= since && one.acknowledged().is_some())
            .count()
    }

    /// The highest revision that was acknowledged.
    pub fn newest(&self) -> u64 {
        let operations = self.operations.lock();
        operations
            .iter()
            .filter_map(Operation::acknowledged)
            .max()
            .unwrap_or(0)
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn count(&self, is: &dyn Fn(&Operation) -> bool) -> usize {
        self.operations.lock().iter().filter(|one| is(one)).count()
    }

    /// Of those operations, how long the longest took, in milliseconds.
    pub fn slowest(&self, is: &dyn Fn(&Operation) -> bool) -> u64 {
        let operations = self.operations.lock();
        let times = operations.iter().filter(|one| is(one));
        times
            .map(|one| (one.returned - one.invoked) / 1_000_000)
            .max()
            .unwrap_or(0)
    }

    pub fn take(&self) -> (Vec<Operation>, Vec<Mark>) {
        (
            std::mem::take(&mut self.operations.lock()),
            std::mem::take(&mut self.marks.lock()),
        )
    }

    /// Writes to an object of its own without reading it before, so that a server that sleeps finds writes when it wakes.
    async fn insist(&self, worker: usize, client: &Client) {
        let within = self.shape.staying;
        let mut known: Option<(String, Register)> = None;
        for count in 1.. {
            if !self.begin().await {
                return;
            }
            let value = format!("{worker}.{count}");
            let outcome = match &known {
                Some((key, read)) => self.update(client, key, read, value.clone(), within).await,
                None => {
                    let key = format!("w{worker}-{count}");
                    let outcome = self.create(client, &key, value.clone(), within).await;
                    known = Some((
                        key,
                        Register {
                            values: vec![],
                            revision: 0,
                        },
                    ));
                    outcome
                }
            };
            self.end();
            // What became of it is not known, or it is full: begin another.
            known = match (outcome, known) {
                (Outcome::Done { revision, .. }, Some((key, mut read)))
                    if read.values.len() < FULL =>
                {
                    read.values.push(value);
                    Some((key, Register { revision, ..read }))
                }
                (Outcome::Refused, Some((key, read))) if read.revision > 0 => Some((key, read)),
                _ => None,
            };
            tokio::time::sleep(self.shape.pace * 2).await;
        }
    }

    /// Every other worker stays with one server, whatever becomes of it; some of those only write.
    async fn work(&self, worker: usize) {
        if worker.is_multiple_of(4) {
            let home = &self.clients[worker / 4 % self.clients.len()];
            return self.insist(worker, home).await;
        }
        let home = worker
            .is_multiple_of(2)
            .then(|| &self.clients[worker / 2 % self.clients.len()]);
        let within = if home.is_some() {
            self.shape.staying
        } else {
            self.shape.roaming
        };
        let mut count = 0;
        while self.begin().await {
            let any = || &self.clients[rand::rng().random_range(0..self.clients.len())];
            let slot = rand::rng().random_range(0..SLOTS);
            let generation = self.generations[slot].load(Ordering::Relaxed);
            let key = format!("r{slot}-{generation}");
            let read = self.read(home.unwrap_or_else(any), &key, within).await;
            count += 1;
            let value = format!("{worker}.{count}");
            let writer = home.unwrap_or_else(any);
            match read {
                Some(Some(read)) if read.values.len() >= FULL => {
                    let next = generation + 1;
                    self.generations[slot].fetch_max(next, Ordering::Relaxed);
                }
                Some(Some(_)) if count % 3 == 0 => {}
                Some(Some(read)) => {
                    self.update(writer, &key, &read, value, within).await;
                }
                Some(None) => {
                    self.create(writer, &key, value, within).await;
                }
                None => {}
            }
            self.end();
            tokio::time::sleep(self.shape.pace).await;
        }
    }

    /// `Some(None)`: there is no such object.
    async fn read(&self, client: &Client, key: &str, within: Duration) -> Option<Option<Register>> {
        let invoked = self.now();
        let (outcome, read) = client.read(&self.namespace, key, within).await;
        let absent = outcome == Outcome::Absent;
        self.record(client, key, Action::Read, invoked, outcome);
        (absent || read.is_some()).then_some(read)
    }

    async fn create(&self, client: &Client, key: &str, value: String, within: Duration) -> Outcome {
        let invoked = self.now();
        let outcome = client.create(&self.namespace, key, &value, within).await;
        let action = Action::Create { value };
        self.record(client, key, action, invoked, outcome.clone());
        outcome
    }

    async fn update(
        &self,
        client: &Client,
        key: &str,
        read: &Register,
        value: String,
        within: Duration,
    ) -> Outcome {
        let invoked = self.now();
        let outcome = client
            .update(&self.namespace, key, read, &value, within)
            .await;
        let expected = read.values.last().cloned().unwrap_or_default();
        self.record(
            client,
            key,
            Action::Update { expected, value },
            invoked,
            outcome.clone(),
        );
        outcome
    }

    fn record(&self, client: &Client, key: &str, action: Action, invoked: Time, outcome: Outcome) {
        self.operations.lock().push(Operation {
            server: client.server.clone(),
            key: key.to_owned(),
            action,
            invoked,
            returned: self.now(),
            outcome,
        });
    }
}
