//! The replicated state machine: applies entries to a clone of the state, then lets readers see it.
//!
//! Apply is pure and never waits for a disk: it changes memory, answers, and hands the changes to the writer. A
//! snapshot is a handle on the state, O(1); bytes are made of it only for a transfer.

use std::io;
use std::sync::Arc;

use caravel_api::{Key, Revision};
use futures::{Stream, StreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Batch, Command, LogId, Membership, Outcomes, Proposal, Refusal, TypeConfig};
use crate::config::StoreConfig;
use crate::entry::Entry;
use crate::event::{Event, EventKind};
use crate::io::{IoHandle, Job};
use crate::level::{self, Level};
use crate::record::Applied;
use crate::simulation::Digests;
use crate::state::redo::Skipped;
use crate::state::{Changed, NotDone, State};
use crate::txn::{Change, Committed, Epoch};
use crate::watch::Hub;

/// Entries applied before readers see the result.
const TOGETHER: usize = 64;

/// What readers of this replica share with the state machine.
pub(crate) struct Served {
    pub state: RwLock<Arc<State>>,
    pub hub: Arc<Hub>,
    /// Whose entry was applied last.
    pub applied_under: watch::Sender<Option<Epoch>>,
    /// How far the log is applied.
    pub applied: watch::Sender<Option<LogId>>,
}

impl Served {
    pub fn new(state: State, hub: Hub, applied: Option<LogId>) -> Self {
        let under = applied.as_ref().map(epoch);
        Served {
            state: RwLock::new(Arc::new(state)),
            hub: Arc::new(hub),
            applied_under: watch::Sender::new(under),
            applied: watch::Sender::new(applied),
        }
    }

    fn passed(&self, applied: LogId) {
        let under = Some(epoch(&applied));
        self.applied_under
            .send_if_modified(|last| std::mem::replace(last, under) != under);
        self.applied.send_replace(Some(applied));
    }
}

fn epoch(id: &LogId) -> Epoch {
    Epoch {
        term: id.leader_id.term,
        node: id.leader_id.node_id,
    }
}

/// A state machine's snapshot: the state itself, shared.
#[derive(Clone)]
pub struct Image(pub(crate) Arc<State>);

pub(crate) struct Machine {
    served: Arc<Served>,
    applied: Option<LogId>,
    membership: Membership,
    io: IoHandle,
    supports: Level,
    digests: Option<Digests>,
}

impl Machine {
    pub fn new(
        served: Arc<Served>,
        applied: Option<LogId>,
        membership: Membership,
        io: IoHandle,
        config: &StoreConfig,
    ) -> Self {
        Machine {
            served,
            applied,
            membership,
            io,
            supports: config.supports,
            digests: config.digests.clone(),
        }
    }

    fn snapshot(&self) -> SnapshotOf<TypeConfig, Image> {
        let meta = SnapshotMetaOf::<TypeConfig> {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        };
        SnapshotOf::<TypeConfig, Image> {
            meta,
            snapshot: Image(self.served.state.read().clone()),
        }
    }

    fn record(&self, state: &State) -> Applied {
        Applied {
            log_id: self.applied,
            membership: self.membership.clone(),
            revision: state.revision(),
            level: state.level(),
            count: state.count() as u64,
        }
    }
}

/// What applying one proposal did, in an entry of `under`.
///
/// # Errors
/// This replica's state is not the others': it must stop.
fn judge(
    state: &mut State,
    proposal: &Proposal,
    under: Epoch,
    changed: &mut Vec<Changed>,
) -> Result<Result<Committed, Refusal>, NotDone> {
    if proposal.epoch.is_some_and(|epoch| epoch != under) {
        return Ok(Err(Refusal::Deposed));
    }
    match state.apply(&proposal.txn, changed) {
        Ok(committed) => Ok(Ok(committed)),
        Err(NotDone::Conflict(conflict)) => {
            Ok(Err(Refusal::Conflict(conflict.key, conflict.revision)))
        }
        Err(differs) => Err(differs),
    }
}

/// What cannot be told from the entry alone, should it be redone.
fn without_effect<'a>(
    index: u64,
    batch: &'a Batch,
    outcomes: &'a Outcomes,
) -> impl Iterator<Item = Skipped> + use<'a> {
    let judged = batch.0.iter().zip(&outcomes.0).zip(0..);
    judged.flat_map(move |((proposal, outcome), number)| {
        let skipped = move |change| Skipped {
            index,
            proposal: number,
            change,
        };
        let refused = outcome.is_err().then(|| skipped(None));
        let changes = proposal.txn.changes.iter();
        let found = outcome.iter().flat_map(|done| &done.revisions);
        let nothing = changes
            .zip(found)
            .zip(0..)
            .filter_map(move |((change, found), at)| {
                let is = matches!(change, Change::Delete { .. }) && *found == Revision(0);
                is.then(|| skipped(Some(at)))
            });
        refused.into_iter().chain(nothing)
    })
}

fn event(changed: Changed, seen: Instant) -> Arc<Event> {
    let kind = match (changed.deleted, &changed.previous) {
        (true, _) => EventKind::Deleted,
        (false, Some(_)) => EventKind::Modified,
        (false, None) => EventKind::Added,
    };
    Arc::new(Event::new(kind, changed.entry, changed.previous, seen))
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Image;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunks = entries.ready_chunks(TOGETHER);
        while let Some(chunk) = chunks.next().await {
            let mut state = State::clone(&self.served.state.read());
            let mut changed = Vec::new();
            let mut skipped = Vec::new();
            let mut answers = Vec::with_capacity(chunk.len());
            for item in chunk {
                let (entry, responder) = item?;
                let under = epoch(&entry.log_id);
                level::applicable(&entry, state.level(), self.supports)?;
                let outcomes = match &entry.payload {
                    EntryPayload::Blank => Outcomes::default(),
                    EntryPayload::Normal(Command::Batch(batch)) => {
                        let judged = batch.0.iter();
                        let judged = judged
                            .map(|proposal| judge(&mut state, proposal, under, &mut changed))
                            .collect::<Result<_, _>>();
                        let outcomes = Outcomes(judged.map_err(io::Error::other)?);
                        skipped.extend(without_effect(entry.log_id.index, batch, &outcomes));
                        outcomes
                    }
                    EntryPayload::Normal(Command::Raise(raise)) => {
                        if raise.epoch == under {
                            state.raise(raise.to);
                            tracing::info!(level = %state.level(), "the level of the cluster");
                        }
                        Outcomes::default()
                    }
                    EntryPayload::Membership(membership) => {
                        self.membership = Membership::new(Some(entry.log_id), membership.clone());
                        Outcomes::default()
                    }
                };
                self.applied = Some(entry.log_id);
                if let Some(digests) = &self.digests {
                    digests.add(entry.log_id.index, state.digest());
                }
                answers.extend(responder.map(|responder| (responder, outcomes)));
            }
            let to_disk: Vec<(Key, Option<Arc<Entry>>)> = changed
                .iter()
                .map(|changed| {
                    (
                        changed.entry.key.clone(),
                        (!changed.deleted).then(|| changed.entry.clone()),
                    )
                })
                .collect();
            self.io.send(Job::State {
                changed: to_disk,
                skipped,
                applied: self.record(&state),
            })?;
            let seen = Instant::now();
            let events = changed
                .into_iter()
                .map(|changed| event(changed, seen))
                .collect();
            let revision: Revision = state.revision();
            self.served.hub.publish(events, revision, || {
                *self.served.state.write() = Arc::new(state)
            });
            if let Some(applied) = self.applied {
                self.served.passed(applied);
            }
            for (responder, outcomes) in answers {
                responder.send(outcomes);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(self.snapshot())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig>,
        snapshot: Image,
    ) -> Result<(), io::Error> {
        let Image(state) = snapshot;
        level::holdable(state.level(), self.supports)?;
        let revision = state.revision();
        let applied = Applied {
            log_id: meta.last_log_id,
            membership: meta.last_membership.clone(),
            revision,
            level: state.level(),
            count: state.count() as u64,
        };
        self.io
            .ask(|reply| Job::Install {
                state: state.clone(),
                applied,
                reply,
            })
            .await?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.served
            .hub
            .reset(revision, || *self.served.state.write() = state);
        if let Some(applied) = self.applied {
            self.served.passed(applied);
        }
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, Image>>, io::Error> {
        // The state is its own snapshot, as new as can be.
        Ok(self.applied.is_some().then(|| self.snapshot()))
    }
}

/// A snapshot taken already: building it costs nothing.
pub(crate) struct Builder(SnapshotOf<TypeConfig, Image>);

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Image;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, Image>, io::Error> {
        Ok(SnapshotOf::<TypeConfig, Image> {
            meta: self.0.meta.clone(),
            snapshot: self.0.snapshot.clone(),
        })
    }
}
