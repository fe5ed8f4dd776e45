//! The ways between replicas: messages are late, overtake each other, come twice or never, in one direction or both.
//!
//! Messages are bytes, as between real servers. What may come twice is what openraft must bear twice; a user's write
//! comes at most once, as over TCP. A stream of appends keeps its order and breaks as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use caravel_store::simulation::Payload;
use caravel_store::wire::{self, SnapshotHead, Wire};
use caravel_store::{
    Appended, Assembly, Batch, ForwardError, Image, LogId, Outcomes, Peer, Target, Transport,
    TypeConfig, Vote,
};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use openraft::AnyError;
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{RPCError, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;

use crate::world::World;

/// How long a user's write or a read may take on its way.
const FORWARD: Duration = Duration::from_secs(3);
/// How long it takes to learn that nobody is there.
const REFUSED: Duration = Duration::from_millis(20);
/// Requests of a stream under way.
const PIPELINE: usize = 16;

/// The weather.
#[derive(Clone, Debug)]
pub struct Weather {
    /// Of a thousand messages.
    pub lost: u32,
    pub doubled: u32,
    /// Of a thousand messages, those that are late by up to `late`.
    pub delayed: u32,
    pub late: Duration,
}

impl Weather {
    pub const FAIR: Weather = Weather {
        lost: 1,
        doubled: 10,
        delayed: 10,
        late: Duration::from_millis(150),
    };
}

pub struct Network {
    pub weather: Weather,
    pub streams: bool,
    rng: StdRng,
    peers: BTreeMap<u64, Peer>,
    cut: BTreeSet<(u64, u64)>,
}

enum Fate {
    Lost,
    After(Duration, Option<Duration>),
}

impl Network {
    pub fn new(rng: StdRng, streams: bool) -> Self {
        Network {
            weather: Weather::FAIR,
            streams,
            rng,
            peers: BTreeMap::new(),
            cut: BTreeSet::new(),
        }
    }

    pub fn join(&mut self, id: u64, peer: Peer) {
        self.peers.insert(id, peer);
    }

    pub fn leave(&mut self, id: u64) {
        self.peers.remove(&id);
    }

    pub fn cut(&mut self, from: u64, to: u64) {
        self.cut.insert((from, to));
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    fn open(&self, from: u64, to: u64) -> bool {
        !self.cut.contains(&(from, to))
    }

    fn delay(&mut self) -> Duration {
        let micros = self.rng.random_range(100..2_000);
        let late = self.rng.random_range(0..1000) < self.weather.delayed;
        let longest = self.weather.late.as_micros() as u64;
        let more = if late {
            self.rng.random_range(0..=longest)
        } else {
            0
        };
        Duration::from_micros(micros + more)
    }

    fn fate(&mut self) -> Fate {
        if self.rng.random_range(0..1000) < self.weather.lost {
            return Fate::Lost;
        }
        let delay = self.delay();
        let doubled = self.rng.random_range(0..1000) < self.weather.doubled;
        let second = doubled.then(|| delay + self.delay() + self.delay() * 20);
        Fate::After(delay, second)
    }
}

/// Why there is no answer.
enum Silence {
    /// Nobody is there to take it: nothing happened.
    Refused,
    /// It may have come, or may yet.
    Unknown,
}

type Unanswered = Unreachable<TypeConfig>;

impl From<Silence> for Unanswered {
    fn from(silence: Silence) -> Self {
        Unreachable::new(&AnyError::error(match silence {
            Silence::Refused => "nobody is there",
            Silence::Unknown => "no answer in time",
        }))
    }
}

/// What one life of one replica sends with.
pub struct Way {
    pub world: World,
    pub from: u64,
    pub life: u64,
}

impl Way {
    /// Sends `question` and waits for its answer. `again`: it may come twice.
    async fn ask<Q, A, F>(
        &self,
        to: u64,
        what: &'static str,
        within: Duration,
        question: &Q,
        again: bool,
        answer: impl Fn(Peer, Q) -> F + Send + Sync + 'static,
    ) -> Result<A, Silence>
    where
        Q: Wire,
        A: Wire,
        F: Future<Output = Result<A, Silence>> + Send,
    {
        let (world, from, life) = (&self.world, self.from, self.life);
        if !world.lives(from, life) {
            return pending().await;
        }
        let bytes: Arc<[u8]> = wire::encode(question).into();
        let fate = world.network().fate();
        world.count(|totals| totals.messages += 1);
        let (reply, replied) = oneshot::channel::<Result<Vec<u8>, Silence>>();
        let (delay, second) = match fate {
            Fate::Lost => {
                world.count(|totals| totals.lost += 1);
                sleep(within).await;
                return Err(Silence::Unknown);
            }
            Fate::After(delay, second) => (delay, second.filter(|_| again)),
        };
        let answer = Arc::new(answer);
        let mut deliveries = vec![(delay, Some(reply))];
        deliveries.extend(second.map(|second| (second, None)));
        for (delay, reply) in deliveries {
            let (world, bytes, answer) = (world.clone(), bytes.clone(), answer.clone());
            tokio::spawn(async move {
                sleep(delay).await;
                if !world.network().open(from, to) {
                    return world.count(|totals| totals.lost += 1);
                }
                let peer = world.network().peers.get(&to).cloned();
                let Some((peer, there)) = peer.zip(world.life(to)) else {
                    world.count(|totals| totals.refused_connections += 1);
                    drop(reply.map(|reply| reply.send(Err(Silence::Refused))));
                    return;
                };
                if reply.is_none() {
                    world.count(|totals| totals.duplicated += 1);
                }
                world.trace(format_args!("{from}>{to} {what} {}", bytes.len()));
                let Ok(question) = wire::decode::<Q>(&bytes) else {
                    return world.fail(format!("{what} cannot be read back"));
                };
                let answer = answer(peer, question).await;
                world.step();
                if !world.lives(to, there) {
                    return;
                }
                let delay = match world.network().fate() {
                    Fate::Lost => return world.count(|totals| totals.lost += 1),
                    Fate::After(delay, _) => delay,
                };
                let answer = answer.map(|answer| wire::encode(&answer));
                sleep(delay).await;
                if world.network().open(to, from) {
                    drop(reply.map(|reply| reply.send(answer)));
                }
            });
        }
        let Ok(Ok(answer)) = timeout(within, replied).await else {
            return Err(Silence::Unknown);
        };
        if !world.lives(from, life) {
            return pending().await;
        }
        wire::decode(&answer?).map_err(|_| Silence::Unknown)
    }

    /// Carries one message of a stream; false if the stream breaks.
    async fn carry(world: &World, from: u64, to: u64, patience: Duration) -> bool {
        let fate = world.network().fate();
        world.count(|totals| totals.messages += 1);
        match fate {
            // What is lost is sent again, and holds up what follows.
            Fate::Lost => sleep(Duration::from_millis(200)).await,
            Fate::After(delay, _) => sleep(delay).await,
        }
        if world.network().open(from, to) {
            return true;
        }
        sleep(patience).await;
        false
    }
}

/// The peer's consensus has stopped.
fn stopped<E>(_: E) -> Silence {
    Silence::Unknown
}

/// What an acknowledged append promises to have.
fn appended(request: &AppendEntriesRequest<TypeConfig>) -> Option<LogId> {
    let last = request.entries.last().map(|entry| entry.log_id);
    last.or(request.prev_log_id)
}

#[async_trait]
impl Transport for Way {
    fn streams(&self) -> bool {
        self.world.network().streams
    }

    async fn append(
        &self,
        to: &Target,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (id, world) = (to.id, self.world.clone());
        let handle = move |peer: Peer, request: AppendEntriesRequest<TypeConfig>| {
            let world = world.clone();
            async move {
                let (vote, last) = (request.vote, appended(&request));
                let answer = peer.append(request).await.map_err(stopped)?;
                match &answer {
                    AppendEntriesResponse::Success => world.promised_log(id, vote, last),
                    AppendEntriesResponse::PartialSuccess(last) => {
                        world.promised_log(id, vote, *last);
                    }
                    AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => {}
                }
                Ok(answer)
            }
        };
        let answer = self.ask(id, "append", option.hard_ttl(), &request, true, handle);
        Ok(answer.await.map_err(Unanswered::from)?)
    }

    async fn appends(
        &self,
        to: &Target,
        mut requests: BoxStream<'static, AppendEntriesRequest<TypeConfig>>,
        option: RPCOption,
    ) -> Result<Appended, RPCError<TypeConfig>> {
        let (world, from, life, id) = (self.world.clone(), self.from, self.life, to.id);
        if !world.lives(from, life) {
            return pending().await;
        }
        let peer = world.network().peers.get(&id).cloned();
        let Some((peer, there)) = peer.zip(world.life(id)) else {
            world.count(|totals| totals.refused_connections += 1);
            sleep(REFUSED).await;
            return Err(Unanswered::from(Silence::Refused).into());
        };
        let patience = option.hard_ttl();
        let (arriving, arrived) = mpsc::channel(PIPELINE);
        let (answering, answered) = mpsc::channel(PIPELINE);
        let (out, failing) = (world.clone(), answering.clone());
        let votes = Arc::new(parking_lot::Mutex::new(None::<Vote>));
        let under = votes.clone();
        tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                let bytes = wire::encode(&request);
                let carried = out.lives(from, life)
                    && Way::carry(&out, from, id, patience).await
                    && out.lives(id, there);
                if !carried {
                    out.trace(format_args!("{from}>{id} appends break"));
                    let broken = RPCError::from(Unanswered::from(Silence::Unknown));
                    drop(failing.send(Err(broken)).await);
                    return;
                }
                out.trace(format_args!("{from}>{id} appends {}", bytes.len()));
                let Ok(request) = wire::decode::<AppendEntriesRequest<TypeConfig>>(&bytes) else {
                    return out.fail("an append cannot be read back".into());
                };
                *under.lock() = Some(request.vote);
                if arriving.send(request).await.is_err() {
                    out.trace(format_args!("{from}>{id} appends unwanted"));
                    return;
                }
            }
        });
        tokio::spawn(async move {
            let mut answers = std::pin::pin!(peer.appends(ReceiverStream::new(arrived)));
            while let Some(answer) = answers.next().await {
                world.step();
                let broken = RPCError::from(Unanswered::from(Silence::Unknown));
                if !world.lives(id, there) {
                    let _ = answering.send(Err(broken)).await;
                    return;
                }
                let Ok(answer) = answer else {
                    let _ = answering.send(Err(broken)).await;
                    return;
                };
                if let (Ok(last), Some(vote)) = (&answer, *votes.lock()) {
                    world.promised_log(id, vote, *last);
                }
                let bytes = wire::encode(&answer);
                if !Way::carry(&world, id, from, patience).await || !world.lives(from, life) {
                    world.trace(format_args!("{id}>{from} appends' answers break"));
                    let _ = answering.send(Err(broken)).await;
                    return;
                }
                let Ok(answer) = wire::decode::<StreamAppendResult<TypeConfig>>(&bytes) else {
                    return world.fail("an answer cannot be read back".into());
                };
                world.trace(format_args!("{id}>{from} answer {answer:?}"));
                if answering.send(Ok(answer)).await.is_err() {
                    world.trace(format_args!("{id}>{from} answer unwanted"));
                    return;
                }
            }
            world.trace(format_args!("{id}>{from} answers end"));
        });
        Ok(ReceiverStream::new(answered).boxed())
    }

    async fn vote(
        &self,
        to: &Target,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (id, world) = (to.id, self.world.clone());
        let handle = move |peer: Peer, request: VoteRequest<TypeConfig>| {
            let world = world.clone();
            async move {
                let answer = peer.vote(request).await.map_err(stopped)?;
                if answer.vote_granted {
                    world.promised_vote(id, answer.vote);
                }
                Ok(answer)
            }
        };
        let answer = self.ask(id, "vote", option.hard_ttl(), &request, true, handle);
        Ok(answer.await.map_err(Unanswered::from)?)
    }

    async fn pre_vote(
        &self,
        to: &Target,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let handle =
            |peer: Peer, request| async move { peer.pre_vote(request).await.map_err(stopped) };
        let answer = self.ask(to.id, "pre-vote", option.hard_ttl(), &request, true, handle);
        Ok(answer.await.map_err(Unanswered::from)?)
    }

    async fn snapshot(
        &self,
        to: &Target,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, Image>,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let head = SnapshotHead {
            vote,
            meta: snapshot.meta,
        };
        let frames: Vec<_> = snapshot.snapshot.frames().collect();
        let world = self.world.clone();
        let handle = move |peer: Peer, head: SnapshotHead| {
            let (frames, world) = (frames.clone(), world.clone());
            async move {
                let mut assembly = Assembly::new();
                let whole = frames.iter().try_for_each(|frame| assembly.push(frame));
                let image = whole.and_then(|()| assembly.finish());
                let Ok(image) = image else {
                    world.fail("a snapshot cannot be read back".into());
                    return Err(Silence::Unknown);
                };
                let snapshot = SnapshotOf::<TypeConfig, Image> {
                    meta: head.meta,
                    snapshot: image,
                };
                let answer = peer.snapshot(head.vote, snapshot).await.map_err(stopped)?;
                world.count(|totals| totals.snapshot_installs += 1);
                Ok(answer)
            }
        };
        let within = option.hard_ttl().min(Duration::from_secs(5));
        let answer = self.ask(to.id, "snapshot", within, &head, true, handle);
        Ok(answer.await.map_err(Unanswered::from)?)
    }

    async fn transfer_leader(
        &self,
        to: &Target,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let handle = |peer: Peer, request| async move {
            peer.transfer_leader(request).await.map_err(stopped)
        };
        let answer = self.ask(to.id, "transfer", option.hard_ttl(), &request, true, handle);
        Ok(answer.await.map_err(Unanswered::from)?)
    }

    async fn propose(&self, to: &Target, batch: Batch) -> Result<Outcomes, ForwardError> {
        let handle = |peer: Peer, batch| async move {
            peer.propose(batch).await.map_err(|error| match error {
                ForwardError::Nothing | ForwardError::Full(_) => Silence::Refused,
                ForwardError::Unknown => Silence::Unknown,
            })
        };
        let answer = self.ask(to.id, "propose", FORWARD, &batch, false, handle);
        answer.await.map_err(|silence| match silence {
            Silence::Refused => ForwardError::Nothing,
            Silence::Unknown => ForwardError::Unknown,
        })
    }

    async fn read_index(&self, to: &Target) -> Result<Option<LogId>, ForwardError> {
        let nothing: Option<LogId> = None;
        let handle = |peer: Peer, _: Option<LogId>| async move {
            peer.read_index().await.map_err(|_| Silence::Refused)
        };
        let answer = self.ask(to.id, "read-index", FORWARD, &nothing, true, handle);
        answer.await.map_err(|_| ForwardError::Nothing)
    }
}

/// What a payload is, in a word for the trace.
pub fn word(payload: &Payload) -> String {
    match payload {
        Payload::Blank => "blank".into(),
        Payload::Normal(command) => command.to_string(),
        Payload::Membership(membership) => {
            let voters: Vec<u64> = membership.voter_ids().collect();
            format!("voters {voters:?}")
        }
    }
}
