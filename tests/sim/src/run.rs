//! One seed, from the first start to the last check.

use std::collections::BTreeMap;
use std::time::Duration;

use caravel_store::Level;
use caravel_support::history::Operation;
use caravel_support::linear::{self, Violation};
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::faults::{Fault, plan};
use crate::load::{self, Client};
use crate::network::Weather;
use crate::totals::Totals;
use crate::watchers;
use crate::world::{Trap, World};

/// How long what went wrong may take to be well again.
const RECOVERY: Duration = Duration::from_secs(60);
/// Loops and watchers.
const LOOPS: u64 = 2;
const WATCHERS: u64 = 4;

pub struct Report {
    pub seed: u64,
    pub broken: Option<String>,
    pub hash: u64,
    pub lines: u64,
    pub totals: Totals,
    pub last: Vec<String>,
}

/// Plays a seed. Must be called on a thread of its own, in a process whose entropy is the seed's.
pub fn play(seed: u64, seconds: u64, print: bool) -> anyhow::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    let report = runtime.block_on(async {
        let world = World::new(seed, print);
        let mut failed = world.failed();
        let broken = tokio::select! {
            biased;
            _ = failed.wait_for(Option::is_some) => None,
            () = whole(world.clone(), seconds) => None,
        };
        let broken: Option<String> = broken.or_else(|| failed.borrow().clone());
        let trace = world.traced();
        Report {
            seed,
            broken,
            hash: trace.hash(),
            lines: trace.lines(),
            last: trace.last().cloned().collect(),
            totals: {
                drop(trace);
                world.totals()
            },
        }
    });
    // What still runs belongs to nobody.
    runtime.shutdown_background();
    Ok(report)
}

async fn whole(world: World, seconds: u64) {
    let mut random = world.random(0);
    for id in 1..=3 {
        world.start(id).await;
    }
    let members = (1..=3).map(|id| (id, format!("server-{id}"))).collect();
    let Some((first, _)) = world.store(1) else {
        return;
    };
    if let Err(error) = first.form(members).await {
        return world.fail(format!("forming the cluster: {error}"));
    }
    drop(first);
    let led = || world.leader().is_some();
    if !world.until("the first leader", RECOVERY, led).await {
        return;
    }
    let begun = Instant::now();
    let end = begun + Duration::from_secs(seconds);
    let mut clients = JoinSet::new();
    for number in 0..load::CLIENTS {
        clients.spawn(Client::new(&world, number).work(end));
    }
    let mut others = JoinSet::new();
    for number in 0..LOOPS {
        others.spawn(load::act_for_leader(world.clone(), number, end));
    }
    let (ending, ended) = tokio::sync::watch::channel(None);
    let mut watchers = JoinSet::new();
    for number in 0..WATCHERS {
        watchers.spawn(watchers::follow(world.clone(), number, ended.clone()));
    }
    let plan = plan(&mut random, seconds);
    let mut effects = JoinSet::new();
    let rise = Duration::from_secs(random.random_range(0..seconds.max(2) / 2));
    effects.spawn(raise(world.clone(), begun + rise, end));
    // The number of the next machine; none is ever used again.
    let mut next = 4;
    for (at, fault) in plan {
        sleep_until(begun + at).await;
        world.trace(format_args!("fault: {fault}"));
        world.count(|totals| totals.faults += 1);
        happen(&world, &mut random, &mut effects, &mut next, fault);
    }
    sleep_until(end).await;
    while effects.join_next().await.is_some() {}
    settle(&world).await;
    let mut history = Vec::new();
    while let Some(done) = clients.join_next().await {
        history.extend(done.unwrap_or_default());
    }
    while others.join_next().await.is_some() {}
    let last = last_write(&world).await;
    ending.send_replace(last);
    let followed = timeout(RECOVERY, async {
        while watchers.join_next().await.is_some() {}
    });
    if followed.await.is_err() {
        world.fail(format!("watch contract: a watch never reached {last:?}"));
    }
    world.step();
    let settled = world.model().settled();
    world.require(settled);
    world.require(linearizable(history));
}

fn any(random: &mut StdRng, of: &[u64]) -> Option<u64> {
    (!of.is_empty()).then(|| of[random.random_range(0..of.len())])
}

fn happen(
    world: &World,
    random: &mut StdRng,
    effects: &mut JoinSet<()>,
    next: &mut u64,
    fault: Fault,
) {
    let running = world.running();
    let leader = world.leader().map(|(id, _)| id);
    let others: Vec<u64> = running
        .iter()
        .copied()
        .filter(|id| Some(*id) != leader)
        .collect();
    let choose = |leads: bool, random: &mut StdRng| match leader {
        Some(leader) if leads => Some(leader),
        _ => any(random, &others),
    };
    let here = world.clone();
    match fault {
        Fault::Crash {
            leader,
            writes,
            down,
        } => {
            let Some(id) = choose(leader, random) else {
                return;
            };
            if let (Some(writes), Some(disk)) = (writes, world.disk(id)) {
                disk.fail_after(writes);
            } else {
                world.crash(id);
            }
            effects.spawn(async move {
                // A disk that nobody writes to fails all the same.
                for _ in 0..20 {
                    sleep(Duration::from_millis(50)).await;
                    here.reap();
                    if here.life(id).is_none() {
                        break;
                    }
                }
                here.crash(id);
                back(here, down).await;
            });
        }
        Fault::CrashAll { down } => {
            running.iter().for_each(|id| world.crash(*id));
            effects.spawn(back(here, down));
        }
        Fault::CrashVoter { down } => {
            world.set_trap(Trap::AfterVote);
            // Someone is asked for a vote soon.
            if let Some(id) = leader {
                world.crash(id);
            }
            effects.spawn(async move {
                sleep(Duration::from_secs(2)).await;
                back(here, down).await;
            });
        }
        Fault::CrashFollower { down } => {
            world.set_trap(Trap::AfterAppend);
            effects.spawn(async move {
                sleep(Duration::from_millis(500)).await;
                back(here, down).await;
            });
        }
        Fault::Isolate { leader, lasts } => {
            if let Some(id) = choose(leader, random) {
                apart(world, &[id], &world.all());
                effects.spawn(heal(here, lasts));
            }
        }
        Fault::Lag { lasts } => {
            if let Some(id) = choose(false, random) {
                apart(world, &[id], &world.all());
                effects.spawn(heal(here, lasts));
            }
        }
        Fault::OneWay { from_leader, lasts } => {
            if let (Some(leader), Some(other)) = (leader, any(random, &others)) {
                let (from, to) = if from_leader {
                    (leader, other)
                } else {
                    (other, leader)
                };
                world.network().cut(from, to);
                effects.spawn(heal(here, lasts));
            }
        }
        Fault::Split { lasts } => {
            let all = world.all();
            let few: Vec<u64> = all
                .iter()
                .copied()
                .filter(|_| random.random_bool(0.4))
                .collect();
            apart(world, &few, &all);
            effects.spawn(heal(here, lasts));
        }
        Fault::Weather {
            lost,
            doubled,
            delayed,
            late,
            lasts,
        } => {
            world.network().weather = Weather {
                lost,
                doubled,
                delayed,
                late,
            };
            effects.spawn(async move {
                sleep(lasts).await;
                here.network().weather = Weather::FAIR;
            });
        }
        Fault::SlowDisk { times, lasts } => {
            if let Some(id) = any(random, &running) {
                world.slow_disk(id, times);
                effects.spawn(async move {
                    sleep(lasts).await;
                    here.slow_disk(id, 0);
                });
            }
        }
        Fault::Transfer => {
            if let Some((id, store)) = world.leader() {
                effects.spawn(async move {
                    let deadline = Instant::now() + Duration::from_secs(3);
                    let moved = store.members().transfer(None, deadline).await;
                    here.trace(format_args!("{id} hands over: {moved:?}"));
                    if moved.is_ok() {
                        here.count(|totals| totals.leader_transfers += 1);
                    }
                });
            }
        }
        Fault::Replace => {
            let gone = any(random, &world.all());
            let new = *next;
            *next += 1;
            effects.spawn(replace(here, Some(new), gone));
        }
        Fault::Resize => {
            let all = world.all();
            let gone = (all.len() > 4).then(|| any(random, &all)).flatten();
            let new = (all.len() < 5).then_some(*next);
            *next += u64::from(new.is_some());
            effects.spawn(replace(here, new, gone));
        }
    }
}

fn apart(world: &World, few: &[u64], all: &[u64]) {
    let mut network = world.network();
    for one in few {
        for other in all.iter().filter(|other| !few.contains(other)) {
            network.cut(*one, *other);
            network.cut(*other, *one);
        }
    }
}

async fn heal(world: World, lasts: Duration) {
    sleep(lasts).await;
    world.trace(format_args!("all ways are open"));
    world.network().heal();
}

/// Somewhere in the first half the level rises, whoever leads then.
async fn raise(world: World, at: Instant, end: Instant) {
    sleep_until(at).await;
    while Instant::now() < end {
        let leader = world.leader().and_then(|(id, store)| {
            let epoch = *store.leadership().borrow();
            Some((id, store, epoch?))
        });
        if let Some((id, store, epoch)) = leader {
            let members = store.members().list().into_iter();
            let reports = members.map(|member| (member.id, Level::HIGHEST));
            let raised = store.raise(epoch, &reports.collect()).await;
            world.trace(format_args!("{id} raises the level: {raised:?}"));
            if raised == Ok(Level::HIGHEST) {
                return;
            }
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// Whoever is down comes back.
async fn back(world: World, down: Duration) {
    sleep(down).await;
    world.reap();
    let running = world.running();
    for id in world.all() {
        if !running.contains(&id) {
            world.start(id).await;
        }
    }
}

/// `new` joins as a learner and gets a vote; then `gone` is taken out and thrown away. Each step may fail.
async fn replace(world: World, new: Option<u64>, gone: Option<u64>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    if let Some(new) = new {
        world.start(new).await;
        let joined = attempt(&world, deadline, |members| async move {
            members.add(new, &format!("server-{new}")).await?;
            let soon = Instant::now() + Duration::from_secs(4);
            members.promote(new, soon).await
        });
        let joined = joined.await;
        world.trace(format_args!("{new} joins: {joined}"));
        if !joined {
            // Half a member helps nobody.
            let removed = attempt(
                &world,
                deadline + Duration::from_secs(20),
                |members| async move { members.remove(new).await },
            );
            if removed.await && !member(&world, new) {
                world.scrap(new);
            }
            return;
        }
    }
    if let Some(gone) = gone {
        let removed = attempt(&world, deadline, |members| async move {
            members.remove(gone).await
        });
        let removed = removed.await;
        world.trace(format_args!("{gone} is removed: {removed}"));
        if removed && !member(&world, gone) {
            world.scrap(gone);
        }
    }
}

/// Does the leader count it among the members?
fn member(world: &World, id: u64) -> bool {
    world
        .leader()
        .is_none_or(|(_, store)| store.members().list().iter().any(|one| one.id == id))
}

/// Asks whoever leads until it is done. What is done already is done.
async fn attempt<F>(
    world: &World,
    deadline: Instant,
    ask: impl Fn(caravel_store::Members) -> F,
) -> bool
where
    F: Future<Output = Result<(), caravel_store::MemberError>>,
{
    use caravel_store::MemberError;
    while Instant::now() < deadline {
        if let Some((_, store)) = world.leader() {
            match timeout(Duration::from_secs(6), ask(store.members())).await {
                Ok(Ok(()) | Err(MemberError::Unknown(_))) => return true,
                Ok(Err(MemberError::Last(_) | MemberError::Majority { .. })) => return false,
                Ok(Err(_)) | Err(_) => {}
            }
        }
        sleep(Duration::from_millis(200)).await;
    }
    false
}

/// Everything that was broken is whole again.
async fn settle(world: &World) {
    world.trace(format_args!("everything is whole again"));
    world.disarm();
    world.network().heal();
    world.network().weather = Weather::FAIR;
    for id in world.all() {
        world.slow_disk(id, 0);
    }
    back(world.clone(), Duration::ZERO).await;
}

/// A last write that all members come to have.
async fn last_write(world: &World) -> Option<u64> {
    let deadline = Instant::now() + RECOVERY;
    let mut written = None;
    let mut tries = 0;
    while written.is_none() {
        if Instant::now() > deadline {
            world.fail("no write was accepted after everything was whole again".into());
            return None;
        }
        tries += 1;
        if let Some((_, store)) = world.leader() {
            written = load::last(world, &store, tries).await;
        }
        sleep(Duration::from_millis(100)).await;
    }
    let revision = written?;
    let reached = || {
        let Some((_, leader)) = world.leader() else {
            return false;
        };
        let members = leader.members().list();
        members.iter().all(|member| {
            world
                .store(member.id)
                .is_some_and(|(store, _)| store.snapshot().revision().0 >= revision)
        })
    };
    world
        .until("every member has the last write", RECOVERY, reached)
        .await;
    written
}

fn linearizable(history: Vec<Operation>) -> Result<(), String> {
    let mut keys: BTreeMap<String, Vec<Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(operation.key.clone())
            .or_default()
            .push(operation);
    }
    for (key, operations) in keys {
        match linear::check(&operations) {
            // What takes too long to decide is decided by the model.
            Ok(()) | Err(Violation::Undecided) => {}
            Err(Violation::None(operation)) => {
                return Err(format!(
                    "linearizability of {key}: no order explains {operation:?}"
                ));
            }
        }
    }
    Ok(())
}
