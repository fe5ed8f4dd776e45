//! The simulated machines: their disks, the replicas that run on them one life after another, and what is watched.
//!
//! One thread, one paused clock. Whatever breaks a promise is kept with the trace, and ends the run.

use std::collections::BTreeMap;
use std::fmt::Arguments;
use std::sync::Arc;
use std::time::Duration;

use caravel_api::Revision;
use caravel_store::simulation::Disk;
use caravel_store::{Limits, LogId, RingLimits, Store, StoreConfig, Timing, Vote, WriteBehind};
use parking_lot::{Mutex, MutexGuard};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::model::{Model, object_digest};
use crate::network::{Network, Way, word};
use crate::totals::Totals;
use crate::trace::Trace;

/// When a replica is to lose its power of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// When one has just granted a vote.
    AfterVote,
    /// When one has just acknowledged entries.
    AfterAppend,
}

#[derive(Clone)]
pub struct World(Arc<Inner>);

struct Inner {
    seed: u64,
    begun: Instant,
    network: Mutex<Network>,
    machines: Mutex<BTreeMap<u64, Machine>>,
    model: Mutex<Model>,
    trace: Mutex<Trace>,
    totals: Mutex<Totals>,
    disks: Mutex<StdRng>,
    traps: Mutex<Vec<Trap>>,
    failed: watch::Sender<Option<String>>,
}

#[derive(Default)]
struct Machine {
    disk: Disk,
    life: u64,
    running: Option<Store>,
    /// How much slower than others its disk is.
    slow: Arc<Mutex<u32>>,
    seen: Seen,
    /// What it has promised others.
    vote: Option<Vote>,
    log: Option<(Vote, LogId)>,
}

/// How far a replica has been looked at.
#[derive(Default)]
struct Seen {
    last: Option<LogId>,
    applied: Option<LogId>,
    /// The index from which its log has not been compared.
    next: u64,
}

impl World {
    pub fn new(seed: u64, print: bool) -> Self {
        let random = |stream: u64| StdRng::seed_from_u64(seed.wrapping_mul(8) + stream);
        World(Arc::new(Inner {
            seed,
            begun: Instant::now(),
            network: Mutex::new(Network::new(random(1), seed % 4 != 3)),
            machines: Mutex::default(),
            model: Mutex::default(),
            trace: Mutex::new(Trace::new(print)),
            totals: Mutex::default(),
            disks: Mutex::new(random(2)),
            traps: Mutex::default(),
            failed: watch::Sender::new(None),
        }))
    }

    /// Randomness for one purpose, apart from all others.
    pub fn random(&self, purpose: u64) -> StdRng {
        StdRng::seed_from_u64(self.0.seed.wrapping_mul(1_000_003).wrapping_add(purpose))
    }

    pub fn now(&self) -> Duration {
        self.0.begun.elapsed()
    }

    pub fn network(&self) -> MutexGuard<'_, Network> {
        self.0.network.lock()
    }

    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.0.model.lock()
    }

    pub fn trace(&self, what: Arguments<'_>) {
        self.0.trace.lock().line(self.now(), what);
    }

    pub fn traced(&self) -> MutexGuard<'_, Trace> {
        self.0.trace.lock()
    }

    pub fn count(&self, add: impl FnOnce(&mut Totals)) {
        add(&mut self.0.totals.lock());
    }

    /// A promise was broken. The first one counts.
    pub fn fail(&self, what: String) {
        self.trace(format_args!("BROKEN {what}"));
        self.0.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert(what);
            first
        });
    }

    pub fn require(&self, holds: Result<(), String>) {
        if let Err(what) = holds {
            self.fail(what);
        }
    }

    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.0.failed.subscribe()
    }

    /// The counts of everything.
    pub fn totals(&self) -> Totals {
        let mut totals = self.0.totals.lock().clone();
        let model = self.model();
        totals.elections = model.reigns();
        totals.membership_changes = model.memberships;
        totals.level_raises = model.raises;
        totals.spliced_updates = model.splices;
        totals.loop_writes_deposed += model.deposed;
        drop(model);
        totals.seconds = self.now().as_secs();
        let machines = self.0.machines.lock();
        totals.log_truncations = machines.values().map(|one| one.disk.truncations()).sum();
        totals
    }

    /// The machines that are there, running or not.
    pub fn all(&self) -> Vec<u64> {
        self.0.machines.lock().keys().copied().collect()
    }

    /// Those whose replica runs.
    pub fn running(&self) -> Vec<u64> {
        let machines = self.0.machines.lock();
        let living = machines.iter().filter(|(_, one)| one.living().is_some());
        living.map(|(id, _)| *id).collect()
    }

    /// The replica of a machine, if it runs, and the number of its life.
    pub fn store(&self, id: u64) -> Option<(Store, u64)> {
        let machines = self.0.machines.lock();
        let machine = machines.get(&id)?;
        Some((machine.living()?.clone(), machine.life))
    }

    pub fn life(&self, id: u64) -> Option<u64> {
        let machines = self.0.machines.lock();
        let machine = machines.get(&id)?;
        machine.living().map(|_| machine.life)
    }

    pub fn lives(&self, id: u64, life: u64) -> bool {
        self.life(id) == Some(life)
    }

    /// The replica that says it leads, in the newest reign of those who do.
    pub fn leader(&self) -> Option<(u64, Store)> {
        let machines = self.0.machines.lock();
        let leading = machines.iter().filter_map(|(id, machine)| {
            let store = machine.living()?;
            let epoch = (*store.leadership().borrow())?;
            Some((epoch, *id, store.clone()))
        });
        let newest = leading.max_by_key(|(epoch, ..)| *epoch);
        newest.map(|(_, id, store)| (id, store))
    }

    /// Starts the replica of a machine, which is made if it is new.
    pub async fn start(&self, id: u64) {
        let (disk, slow, life) = {
            let mut machines = self.0.machines.lock();
            let machine = machines.entry(id).or_default();
            if machine.running.is_some() {
                return;
            }
            machine.life += 1;
            machine.seen = Seen::default();
            (machine.disk.clone(), machine.slow.clone(), machine.life)
        };
        let way = Way {
            world: self.clone(),
            from: id,
            life,
        };
        let world = self.clone();
        let latency = Arc::new(move || {
            let usual = world.0.disks.lock().random_range(200..3_000);
            Duration::from_micros(usual * u64::from(1 + *slow.lock()))
        });
        let opened = Store::open_simulated(config(id), Arc::new(way), &disk, latency).await;
        let store = match opened {
            Ok(store) => store,
            Err(error) => return self.fail(format!("node {id} does not start: {error}")),
        };
        let place = store.place();
        self.trace(format_args!(
            "{id} starts life {life} with vote {} last {} applied {}",
            shown(place.vote.as_ref()),
            shown(place.last.as_ref()),
            shown(place.applied.as_ref()),
        ));
        let mut machines = self.0.machines.lock();
        let Some(machine) = machines.get_mut(&id) else {
            return;
        };
        machine.running = Some(store.clone());
        let kept = machine.kept(id, place.vote, place.last);
        drop(machines);
        self.network().join(id, store.peer());
        self.require(kept);
        let world = self.clone();
        tokio::spawn(async move {
            let why = store.failure().await;
            if world.lives(id, life) {
                world.fail(format!("node {id} stopped by itself: {why}"));
            }
        });
    }

    /// Takes the power from a machine. Of what its disk has not flushed, a part may be there later.
    pub fn crash(&self, id: u64) {
        let mut machines = self.0.machines.lock();
        let Some(machine) = machines.get_mut(&id) else {
            return;
        };
        let Some(store) = machine.running.take() else {
            return;
        };
        machine.disk.kill();
        let unflushed = machine.disk.unflushed();
        let keep = self.0.disks.lock().random_range(0..=unflushed);
        let lost = machine.disk.restore(keep);
        drop(machines);
        self.network().leave(id);
        self.count(|totals| {
            totals.crashes += 1;
            totals.dropped_flushes += lost as u64;
        });
        self.trace(format_args!(
            "{id} loses power, and {lost} of {unflushed} unflushed writes"
        ));
        // What is left of the process can reach neither its disk nor anybody.
        tokio::spawn(async move { store.shutdown().await });
    }

    /// Reaps those whose disk died under them.
    pub fn reap(&self) {
        let dead: Vec<u64> = {
            let machines = self.0.machines.lock();
            let dead = machines
                .iter()
                .filter(|(_, one)| one.running.is_some() && one.disk.is_dead());
            dead.map(|(id, _)| *id).collect()
        };
        for id in dead {
            self.crash(id);
        }
    }

    /// The machine is taken away for good.
    pub fn scrap(&self, id: u64) {
        self.crash(id);
        let machine = self.0.machines.lock().remove(&id);
        if let Some(machine) = machine {
            self.count(|totals| totals.log_truncations += machine.disk.truncations());
        }
    }

    pub fn disk(&self, id: u64) -> Option<Disk> {
        self.0.machines.lock().get(&id).map(|one| one.disk.clone())
    }

    pub fn slow_disk(&self, id: u64, times: u32) {
        if let Some(machine) = self.0.machines.lock().get(&id) {
            *machine.slow.lock() = times;
        }
    }

    pub fn set_trap(&self, trap: Trap) {
        self.0.traps.lock().push(trap);
    }

    /// No trap is left.
    pub fn disarm(&self) {
        self.0.traps.lock().clear();
    }

    fn sprung(&self, trap: Trap, id: u64) {
        let mut traps = self.0.traps.lock();
        if let Some(at) = traps.iter().position(|set| *set == trap) {
            traps.remove(at);
            drop(traps);
            let world = self.clone();
            // Its answer is on its way by then.
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                world.crash(id);
            });
        }
    }

    /// A replica has told others that it granted this vote.
    pub fn promised_vote(&self, id: u64, vote: Vote) {
        if let Some(machine) = self.0.machines.lock().get_mut(&id)
            && machine.vote < Some(vote)
        {
            machine.vote = Some(vote);
        }
        self.trace(format_args!("{id} grants {vote}"));
        self.sprung(Trap::AfterVote, id);
    }

    /// A replica has told others that its disk has the log up to `last`, under this leader.
    pub fn promised_log(&self, id: u64, vote: Vote, last: Option<LogId>) {
        let Some(last) = last else { return };
        let mut machines = self.0.machines.lock();
        let Some(machine) = machines.get_mut(&id) else {
            return;
        };
        let news = machine
            .log
            .is_none_or(|(under, kept)| under < vote || (under == vote && kept.index < last.index));
        if news {
            machine.log = Some((vote, last));
        }
        drop(machines);
        if news {
            self.sprung(Trap::AfterAppend, id);
        }
    }

    /// Looks at every replica: at what it has in its log, what it has applied, and what it serves.
    pub fn step(&self) {
        self.reap();
        let mut found = Vec::new();
        {
            let mut machines = self.0.machines.lock();
            let mut model = self.model();
            for (id, machine) in machines.iter_mut() {
                let Some(store) = machine.living().cloned() else {
                    continue;
                };
                let life = machine.life;
                let looked = look(*id, life, &store, &mut machine.seen, &mut model);
                match looked {
                    Ok(news) => found.extend(news),
                    Err(broken) => {
                        drop(model);
                        drop(machines);
                        return self.fail(broken);
                    }
                }
            }
        }
        self.count(|totals| totals.checks += 1);
        for news in found {
            self.trace(format_args!("{news}"));
        }
    }

    /// Where everybody is, for whoever reads the trace of a failure.
    pub fn tell_places(&self) {
        for id in self.all() {
            let Some((store, life)) = self.store(id) else {
                self.trace(format_args!("{id} is down"));
                continue;
            };
            let (place, status) = (store.place(), store.status());
            self.trace(format_args!(
                "{id} in life {life}: vote {} last {} applied {} leader {:?} voters {:?}",
                shown(place.vote.as_ref()),
                shown(place.last.as_ref()),
                shown(place.applied.as_ref()),
                status.leader,
                status.voters
            ));
        }
    }

    /// Waits for something that must come about.
    pub async fn until(
        &self,
        what: &str,
        within: Duration,
        mut holds: impl FnMut() -> bool,
    ) -> bool {
        let deadline = Instant::now() + within;
        while !holds() {
            if Instant::now() > deadline {
                self.tell_places();
                self.fail(format!("{what}: not within {within:?}"));
                return false;
            }
            sleep(Duration::from_millis(20)).await;
        }
        true
    }
}

impl Machine {
    fn living(&self) -> Option<&Store> {
        self.running.as_ref().filter(|_| !self.disk.is_dead())
    }

    /// Has the disk what was promised?
    fn kept(&self, id: u64, vote: Option<Vote>, last: Option<LogId>) -> Result<(), String> {
        if vote < self.vote {
            return Err(format!(
                "node {id} granted {} and has {} on its disk",
                shown(self.vote.as_ref()),
                shown(vote.as_ref())
            ));
        }
        match self.log {
            Some((under, promised)) if vote == Some(under) && last < Some(promised) => {
                Err(format!(
                    "node {id} acknowledged {promised} and has {} on its disk",
                    shown(last.as_ref())
                ))
            }
            _ => Ok(()),
        }
    }
}

fn shown<T: std::fmt::Display>(some: Option<&T>) -> String {
    some.map_or_else(|| "-".into(), ToString::to_string)
}

/// What is new of one replica, against everything known.
fn look(
    id: u64,
    life: u64,
    store: &Store,
    seen: &mut Seen,
    model: &mut Model,
) -> Result<Vec<String>, String> {
    let mut news = Vec::new();
    let place = store.place();
    if place.last != seen.last || place.applied != seen.applied {
        // What was truncated comes again with other entries; what is applied stays.
        if place.last.map(|last| last.index) <= seen.last.map(|last| last.index) {
            seen.next = seen
                .next
                .min(seen.applied.map_or(0, |applied| applied.index));
        }
        let entries = store.entries(seen.next.saturating_sub(1));
        let mut previous = None;
        for (at, payload) in &entries {
            if at.index >= seen.next {
                model.logged(id, previous, at, payload)?;
            }
            previous = Some(at);
        }
        seen.last = place.last;
        seen.next = place.last.map_or(0, |last| last.index + 1);
    }
    if let Some(applied) = place.applied
        && place.applied != seen.applied
    {
        if model.end() <= applied.index {
            for (at, payload) in store.entries(model.end()) {
                if at.index > applied.index {
                    break;
                }
                model.apply(&at, &payload)?;
                news.push(format!("{id} applies {at} first: {}", word(&payload)));
            }
        }
        let snapshot = store.snapshot();
        let digest = snapshot
            .list(&caravel_api::KeyRange::all())
            .map(|entry| object_digest(&entry.key, entry.revision.0, &entry.json))
            .fold(0_u64, u64::wrapping_add);
        let Revision(revision) = snapshot.revision();
        model.state(id, &applied, revision, digest)?;
        if place.applied.map(|id| id.index + 1) == Some(model.end())
            && store.level() != model.level()
        {
            return Err(format!(
                "node {id} is at level {} after {applied}; it should be at {}",
                store.level(),
                model.level()
            ));
        }
        seen.applied = Some(applied);
    }
    if let Some(epoch) = *store.leadership().borrow()
        && model.leads((epoch.term, epoch.node), life)?
    {
        news.push(format!("{id} leads in term {}", epoch.term));
    }
    Ok(news)
}

fn config(id: u64) -> StoreConfig {
    StoreConfig {
        node_id: id,
        cluster: Some(1),
        address: format!("server-{id}"),
        bootstrap: false,
        timing: Timing {
            commit: Duration::from_secs(4),
            leader_within: Duration::from_secs(3),
            contact: Duration::from_secs(5),
            snapshot: Duration::from_secs(10),
            ..Timing::default()
        },
        limits: Limits {
            log_entries: 40,
            snapshot_every: 40,
            tail_bytes: 256 << 10,
            behind: WriteBehind {
                after: Duration::from_millis(500),
                bytes: 4 << 10,
                step: 200,
                pace: Duration::from_millis(5),
            },
            ..Limits::default()
        },
        rings: RingLimits {
            bytes: 48 << 10,
            age: Duration::from_secs(30),
            progress: Duration::from_secs(2),
        },
        ..StoreConfig::memory()
    }
}
