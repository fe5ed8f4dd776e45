//! Opening a data directory: reads everything back, believes nothing that does not fit together, and says which
//! file is wrong and what to do.
//!
//! Order matters at the first start: keys, then the database with its identity, then the guard. Whatever is
//! interrupted there has acknowledged nothing and is begun anew. From then on the guard must be there and agree.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::RngCore;

use crate::backend::Backend;
use crate::backend::memory::MemoryDisk;
use crate::backend::sled::SledBackend;
use crate::config::{BackendKind, StoreConfig};
use crate::guard::Guard;
use crate::io::reseal::OldSeals;
use crate::io::{Behind, Redone, Resume, Writer, open_log_entry};
use crate::keys::KeyRing;
use crate::level;
use crate::mend::{self, Lost, Received};
use crate::raft::log::Tail;
use crate::raft::{LogId, Membership, Vote};
use crate::record::{self, Identity, MetaRecords, RecordError, names};
use crate::seal::{SealError, Sealer};
use crate::state::State;
use objects::{load_applied, load_state};

mod objects;

/// The database, inside the data directory.
const DATABASE: &str = "sled";
/// The guard file, beside it.
const GUARD: &str = "guard";

const REMEDY: &str = "This server will not serve it. With other servers left: move the data directory away and join again as a new \
                      server. With none: restore a backup";

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing damaged is ever served.
    #[error("{file} is damaged: {what}. {remedy}.", file = file.display())]
    Damaged {
        file: PathBuf,
        what: String,
        remedy: String,
    },
    /// It is whole, and this release cannot read it.
    #[error("{file} was written by a newer release: {what}", file = file.display())]
    Newer { file: PathBuf, what: String },
    #[error("opening {file}: {cause}", file = file.display())]
    Io { file: PathBuf, cause: io::Error },
    #[error(transparent)]
    Keys(#[from] crate::keys::KeyError),
    #[error("{0}")]
    Config(String),
    #[error("starting consensus: {0}")]
    Raft(String),
    /// The objects cannot be read, but another replica can give its own (`Store::open_mended`).
    #[error("{file} is damaged: {what}. {remedy}.", file = .0.file.display(), what = .0.what, remedy = REMEDY)]
    Lost(Box<Lost>),
}

/// A store as found on its disk.
pub(crate) struct Found {
    pub writer: Writer,
    pub tail: Tail,
    pub state: State,
    pub applied: Option<LogId>,
    pub membership: Membership,
    pub identity: Identity,
    /// The objects are not there, and these are what is needed instead.
    pub lost: Option<Lost>,
}

/// Opens what `config` names. Blocks for as long as reading everything takes.
pub(crate) fn open(config: &StoreConfig) -> Result<Found, OpenError> {
    match config.backend {
        BackendKind::Memory => open_backend(
            config,
            Box::new(MemoryDisk::volatile()),
            KeyRing::ephemeral(),
            Witness::None,
        ),
        BackendKind::Sled => open_directory(config),
    }
}

/// Opens a store on a given disk in memory.
#[cfg(test)]
pub(crate) fn open_memory(
    config: &StoreConfig,
    disk: MemoryDisk,
    keys: KeyRing,
) -> Result<Found, OpenError> {
    open_disk(config, Box::new(disk), keys)
}

/// Opens a store on a given disk, which has no second witness.
pub(crate) fn open_disk(
    config: &StoreConfig,
    disk: Box<dyn Backend>,
    keys: KeyRing,
) -> Result<Found, OpenError> {
    open_backend(config, disk, keys, Witness::None)
}

/// Opens a store whose objects are lost, to be given those of another replica.
pub(crate) fn open_with_received(
    config: &StoreConfig,
    received: Received,
) -> Result<Found, OpenError> {
    let found = open(config)?;
    match found.lost {
        Some(lost) if !received.serves(&lost) => Err(OpenError::Lost(Box::new(lost))),
        Some(lost) => {
            level::holdable(received.image.0.level(), config.supports)
                .map_err(|error| from_disk(&lost.file, error.into()))?;
            anew(config, found.writer, Some(received))?;
            open(config)
        }
        None => Ok(found),
    }
}

fn anew(config: &StoreConfig, writer: Writer, received: Option<Received>) -> Result<(), OpenError> {
    let database = config.dir.join(DATABASE);
    mend::write_anew(&database, writer, config.limits.cache_bytes, received)
        .map_err(|cause| from_disk(&database, cause))
}

/// Has a store been begun in `dir`?
#[must_use]
pub fn is_begun(dir: &Path) -> bool {
    dir.join(GUARD).exists() || dir.join(DATABASE).join("db").exists()
}

/// The cluster that a store on disk belongs to, 32 hexadecimal digits. The store must not be open.
///
/// # Errors
/// As opening it.
pub fn cluster_of(config: &StoreConfig) -> Result<String, OpenError> {
    Ok(format!("{:032x}", open(config)?.identity.cluster))
}

enum Witness {
    None,
    Known(Guard),
    /// To be made here, once the database says whose it is.
    ToMake(PathBuf),
}

fn open_found(config: &StoreConfig) -> Result<Found, OpenError> {
    let (database, witness) = (config.dir.join(DATABASE), config.dir.join(GUARD));
    let fail = |file: &Path, cause| OpenError::Io {
        file: file.to_owned(),
        cause,
    };
    if config.keys_dir.starts_with(&config.dir) {
        return Err(OpenError::Config(format!(
            "the keys directory {} lies in the data directory; keep it elsewhere",
            config.keys_dir.display()
        )));
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.dir)
        .map_err(|cause| fail(&config.dir, cause))?;
    let known = witness
        .try_exists()
        .map_err(|cause| fail(&witness, cause))?;
    if known && !database.join("db").exists() {
        return Err(damaged(
            &database,
            "it is missing, but this server has stored data here".into(),
        ));
    }
    let keys = KeyRing::open(&config.keys_dir, !known)?;
    let guard = match known {
        true => Witness::Known(Guard::open(&witness).map_err(|cause| match cause.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                damaged(&witness, cause.to_string())
            }
            _ => fail(&witness, cause),
        })?),
        false => Witness::ToMake(witness),
    };
    let backend = SledBackend::open(&database, config.limits.cache_bytes)
        .map_err(|cause| from_disk(&database, cause))?;
    open_backend(config, Box::new(backend), keys, guard)
}

fn open_directory(config: &StoreConfig) -> Result<Found, OpenError> {
    let refused = |lost: &Lost| damaged(&lost.file, lost.what.clone());
    let found = open_found(config)?;
    match &found.lost {
        // The whole log is there: it makes all objects again.
        Some(lost) if lost.since.is_none() => {
            tracing::warn!(what = %lost.what, "mended: the objects are made again from the log");
            anew(config, found.writer, None)?;
            let found = open_found(config)?;
            match &found.lost {
                Some(lost) => Err(refused(lost)),
                None => Ok(found),
            }
        }
        Some(lost) if lost.members.is_empty() => Err(refused(lost)),
        _ => Ok(found),
    }
}

fn damaged(file: &Path, what: String) -> OpenError {
    OpenError::Damaged {
        file: file.to_owned(),
        what,
        remedy: REMEDY.to_owned(),
    }
}

fn from_disk(file: &Path, cause: io::Error) -> OpenError {
    match cause.kind() {
        io::ErrorKind::InvalidData => damaged(file, cause.to_string()),
        io::ErrorKind::Unsupported => OpenError::Newer {
            file: file.to_owned(),
            what: cause.to_string(),
        },
        _ => OpenError::Io {
            file: file.to_owned(),
            cause,
        },
    }
}

fn open_backend(
    config: &StoreConfig,
    mut backend: Box<dyn Backend>,
    keys: KeyRing,
    witness: Witness,
) -> Result<Found, OpenError> {
    let file = config.dir.join(DATABASE);
    let wrong = |what: String| damaged(&file, what);
    let sealer = Arc::new(Sealer::new(keys));
    let mut meta = MetaRecords::new();
    let mut old = OldSeals::default();
    for (name, sealed) in backend.meta().map_err(|cause| from_disk(&file, cause))? {
        old.see(sealer.is_old(&sealed));
        let record = sealer
            .open("meta", name.as_bytes(), sealed)
            .map_err(|error| unsealed(&file, config, &name, error))?;
        meta.insert(name, record);
    }
    let read =
        |error: RecordError| from_disk(&file, io::Error::new(error.kind(), error.to_string()));
    let vote: Option<Vote> = meta
        .get(names::VOTE)
        .map(|record| record::read_vote(record))
        .transpose()
        .map_err(read)?;
    let committed = meta
        .get(names::COMMITTED)
        .map(|record| record::read_log_id(record))
        .transpose()
        .map_err(read)?;
    let purged = meta
        .get(names::PURGED)
        .map(|record| record::read_log_id(record))
        .transpose()
        .map_err(read)?;
    let generation = meta
        .get(names::GENERATION)
        .map(|record| record::read_number(record))
        .transpose()
        .map_err(read)?
        .unwrap_or(0);
    let identity = meta
        .get(names::IDENTITY)
        .map(|record| record::read_identity(record))
        .transpose()
        .map_err(read)?;

    let tail = load_log(
        &mut *backend,
        &sealer,
        config,
        purged,
        vote,
        committed,
        &mut old,
    )
    .map_err(|cause| from_disk(&file, cause))?;
    let log_end = tail.last.map_or(0, |last| last.index + 1);
    let identity = match identity {
        Some(identity) => identity,
        None if log_end > 0 || vote.is_some() => {
            return Err(wrong("it does not say which server it belongs to".into()));
        }
        None => {
            let new = new_identity(config);
            let sealed = sealer.seal("meta", names::IDENTITY.as_bytes(), &record::identity(&new));
            backend
                .put_meta(names::IDENTITY, &sealed)
                .and_then(|()| backend.flush())
                .map_err(|cause| from_disk(&file, cause))?;
            new
        }
    };
    if config
        .cluster
        .is_some_and(|named| named != identity.cluster)
    {
        return Err(OpenError::Config(format!(
            "{} belongs to another cluster ({:032x}). Give this server its own data directory",
            config.dir.display(),
            identity.cluster
        )));
    }
    let guard = match witness {
        Witness::None => None,
        Witness::ToMake(path) if log_end > 0 || vote.is_some() => {
            return Err(damaged(
                &path,
                "it is missing, so nothing tells whether the database is whole".into(),
            ));
        }
        Witness::ToMake(path) => {
            let guard = Guard::create(&path, identity).and_then(|guard| {
                fs::File::open(&config.dir)?.sync_all()?;
                Ok(guard)
            });
            Some(guard.map_err(|cause| OpenError::Io { file: path, cause })?)
        }
        Witness::Known(guard) => {
            let said = guard.testimony();
            if said.identity != identity {
                return Err(wrong(
                    "it belongs to another server than the guard file beside it".into(),
                ));
            }
            if log_end < said.flushed {
                return Err(wrong(format!(
                    "its log ends before entry {log_end}, but entries before {} were written",
                    said.flushed
                )));
            }
            if vote < said.vote {
                return Err(wrong(
                    "it has forgotten a vote that this server gave".into(),
                ));
            }
            Some(guard)
        }
    };

    let redo = meta
        .get(names::REDO)
        .map(|record| record::read_redo(record))
        .transpose()
        .map_err(read)?
        .filter(|redo| redo.generation == generation);
    let applied = load_applied(&mut *backend, &sealer, generation, &mut old);
    let written = applied.as_ref().ok().and_then(|applied| applied.log_id);
    let loaded = match &applied {
        Ok(applied) if applied.log_id < purged => Err(invalid(
            "its objects are older than its log reaches back".into(),
        )),
        Ok(applied) => load_state(
            &mut *backend,
            &sealer,
            generation,
            (applied, redo),
            config.supports,
            &mut old,
        ),
        Err(cause) => Err(io::Error::new(cause.kind(), cause.to_string())),
    };
    let mut lost = None;
    let mut redone = Redone::default();
    let (state, applied) = match (loaded, applied) {
        (Ok((state, lacking)), Ok(applied)) => {
            redone = lacking;
            (state, redone.applied.clone().unwrap_or(applied))
        }
        (Err(cause), applied) if cause.kind() == io::ErrorKind::InvalidData => {
            let known = applied.as_ref().map(|applied| {
                mend::others(applied.membership.membership().nodes(), identity.node)
            });
            lost = Some(Lost {
                file: file.clone(),
                what: cause.to_string(),
                identity,
                members: known.unwrap_or_default(),
                // A snapshot may have brought more than the log has.
                since: match &applied {
                    Ok(applied) if applied.log_id > tail.last => applied.log_id,
                    _ => purged,
                },
            });
            (State::default(), record::Applied::default())
        }
        (Err(cause), _) | (_, Err(cause)) => return Err(from_disk(&file, cause)),
    };
    let stale = backend
        .generations()
        .map_err(|cause| from_disk(&file, cause))?
        .into_iter()
        .filter(|other| *other != generation)
        .collect();
    let resume = Resume {
        generation,
        log_end,
        purged_below: purged.map_or(0, |purged| purged.index + 1),
        vote,
        stale,
        old,
        behind: Behind::new(config.limits.behind, written, redone),
    };
    let writer = Writer::new(backend, sealer, guard, resume);
    Ok(Found {
        writer,
        tail,
        state,
        applied: applied.log_id,
        membership: applied.membership,
        identity,
        lost,
    })
}

fn unsealed(file: &Path, config: &StoreConfig, name: &str, error: SealError) -> OpenError {
    match error {
        SealError::NoKey(_) => OpenError::Config(format!(
            "{}: {error}. Restore the keys in {}",
            file.display(),
            config.keys_dir.display()
        )),
        _ => damaged(
            file,
            format!(
                "its record {name}: {error} (or the keys in {} are not the ones it was sealed with)",
                config.keys_dir.display()
            ),
        ),
    }
}

fn new_identity(config: &StoreConfig) -> Identity {
    let mut random = rand::rng();
    let new = (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64());
    Identity {
        cluster: config.cluster.unwrap_or(new),
        node: config.node_id,
        incarnation: random.next_u64(),
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads and verifies the whole log; keeps its end.
fn load_log(
    backend: &mut dyn Backend,
    sealer: &Sealer,
    config: &StoreConfig,
    purged: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    old: &mut OldSeals,
) -> io::Result<Tail> {
    let mut tail = Tail {
        vote,
        committed,
        purged,
        last: purged,
        entries: Default::default(),
        bytes: 0,
        sizes: Default::default(),
        total: 0,
        limit: config.limits.tail_bytes,
    };
    backend.scan_log(&mut |index, sealed| {
        // Left by an interrupted purge; the writer goes on with it.
        if purged.is_some_and(|purged| index <= purged.index) {
            return Ok(());
        }
        let expected = tail.last.map_or(0, |last| last.index + 1);
        if index != expected {
            return Err(invalid(format!("its log lacks entry {expected}")));
        }
        if sealer.is_old(&sealed) {
            old.log_below = index + 1;
        }
        let entry = open_log_entry(sealer, index, sealed)?;
        level::readable(&entry, config.supports)?;
        tail.push(entry);
        Ok(())
    })?;
    Ok(tail)
}
