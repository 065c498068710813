//! Making a disk, and opening one: superblock, head, the log since.

use std::sync::Arc;

use benchtop_block::{BlockError, BlockErrorKind};
use parking_lot::{Condvar, Mutex, RwLock};

use crate::StrataDisk;
use crate::checkpoint::Checkpoints;
use crate::disk::{Writer, io_error};
use crate::head::{Base, HeadV1, LogPosition, Written};
use crate::layout::{Address, BLOCK_BYTES, PLACES, SEGMENT_BYTES, SIZE_BYTES_MAX, Tag};
use crate::log::Log;
use crate::medium::Medium;
use crate::pages::{Root, Store, no_key};
use crate::points::{Points, Retention};
use crate::record::Op;
use crate::replay::{Found, Reader};
use crate::seal::{Cipher, Epoch, Key, Keyring, Salt, random};
use crate::slots::{Cost, SLOTS, Slot};
use crate::space::Space;
use crate::state::{Changes, State};
use crate::superblock::{self, Refused, Superblock};

/// How to make a disk.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Size of the guest's disk in bytes, a multiple of 512.
    pub size_bytes: u64,
    /// Which restore points are kept.
    pub retention: Retention,
    /// The password and what trying it costs; none for a plain disk.
    pub password: Option<(zeroize::Zeroizing<Vec<u8>>, Cost)>,
}

fn corrupt(context: impl Into<String>) -> BlockError {
    BlockError::new(BlockErrorKind::Corrupt, context)
}

fn no_randomness() -> BlockError {
    BlockError::new(BlockErrorKind::Io, "the host gives no random numbers")
}

/// Blocks of a disk of that size.
fn blocks(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(BLOCK_BYTES as u64)
}

impl StrataDisk {
    /// Makes an empty disk in `medium`, which must be empty, and opens it.
    ///
    /// # Errors
    /// `Unsupported` for a size that can not be, or the host's.
    pub fn create(medium: Arc<dyn Medium>, options: &CreateOptions) -> Result<Self, BlockError> {
        let size_bytes = options.size_bytes;
        if !(512..=SIZE_BYTES_MAX).contains(&size_bytes) || !size_bytes.is_multiple_of(512) {
            let context = format!("a disk can not have {size_bytes} bytes");
            return Err(BlockError::new(BlockErrorKind::Unsupported, context));
        }
        let uuid = random().ok_or_else(no_randomness)?;
        let mut slots: [Option<Slot>; SLOTS] = Default::default();
        let (cipher, master) = match &options.password {
            None => (Cipher::Plain, None),
            Some((password, cost)) => {
                let master: Key = zeroize::Zeroizing::new(random().ok_or_else(no_randomness)?);
                slots[0] = Some(Slot::new(password, *cost, &master, &uuid).ok_or_else(no_randomness)?);
                (Cipher::Aes256Gcm, Some(master))
            }
        };
        let superblock = Superblock {
            uuid,
            generation: 0,
            size_bytes,
            cipher,
            head_area: 0,
            head_len: 0,
            head_generation: 0,
            head_tag: [0; 16],
            head_salt: [0; 32],
            slots,
        };
        let store = Store::new(medium, Keyring::new(cipher, master), Space::new());
        let root = Root::empty(blocks(size_bytes));
        let now = Base { root, log: LogPosition { segment: 1, place: 0, slot: 0, seq: 0, tag: [0; 16] } };
        let begin = Replayed::new(Points::default(), &now.log);
        let checkpoints = Checkpoints { superblock, now, bases: Vec::new() };
        Self::begin(store, checkpoints, begin, options.retention)
    }

    /// Opens the disk in `medium`. `password` is asked for only if it is encrypted.
    ///
    /// # Errors
    /// `Unsupported` for what is no Strata disk or of another version, `Corrupt`, or the host's. A wrong password is
    /// `Unsupported` with [`WRONG_PASSWORD`] as its text.
    pub fn open(medium: Arc<dyn Medium>, password: Option<&[u8]>, read_only: bool) -> Result<Self, BlockError> {
        let mut refused = None;
        for (superblock, block) in superblock::read_all(&*medium).map_err(io_error("reading the superblock"))? {
            let superblock = match superblock {
                Ok(superblock) => superblock,
                Err(why) => {
                    refused = refused.or(Some(refusal(why)));
                    continue;
                }
            };
            let keys = unlock(&superblock, password)?;
            if !superblock::is_authentic(&block, &keys.superblock_key().ok_or_else(no_key)?) {
                refused = Some(corrupt("the superblock is not authentic"));
                continue;
            }
            match Self::open_head(&medium, keys, superblock, read_only) {
                Err(error) if error.kind() == BlockErrorKind::Corrupt => refused = Some(error),
                result => return result,
            }
        }
        Err(refused.unwrap_or_else(|| refusal(Refused::NotOne)))
    }

    fn open_head(
        medium: &Arc<dyn Medium>,
        keys: Keyring,
        superblock: Superblock,
        read_only: bool,
    ) -> Result<Self, BlockError> {
        let written = Written { area: superblock.head_area, len: superblock.head_len, tag: superblock.head_tag };
        let key = keys.key(&superblock.head_salt).ok_or_else(no_key)?;
        let head = HeadV1::read(&**medium, &key, superblock.head_generation, &written)?;
        let HeadV1 { now, bases, epochs, space, points, graves, retention } = head;
        keys.set_epochs(&epochs).ok_or_else(|| corrupt("the disk's epochs are not in order"))?;
        let mut space = Space::restore(space).ok_or_else(|| corrupt("the disk's segments contradict each other"))?;
        if now.root.capacity() < blocks(superblock.size_bytes) {
            return Err(corrupt("the map is too small for the disk"));
        }
        space.cut_log(now.log.segment, now.log.slot);
        let points = Points::restore(points, graves).ok_or_else(|| corrupt("the restore points are not in order"))?;
        let store = Store::new(medium.clone(), keys, space);
        let replayed = replay(&store, &now, points, &retention, superblock.size_bytes)?;
        let checkpoints = Checkpoints { superblock, now, bases };
        if read_only {
            return Self::view(store, checkpoints, replayed, retention);
        }
        Self::begin(store, checkpoints, replayed, retention)
    }

    /// Begins an epoch and makes the checkpoint that records it.
    fn begin(
        store: Store,
        checkpoints: Checkpoints,
        replayed: Replayed,
        retention: Retention,
    ) -> Result<Self, BlockError> {
        let salt: Salt = random().ok_or_else(no_randomness)?;
        // A number without a record: what this epoch writes is of it or later.
        let seq = replayed.seq + 1;
        store.keys.begin(Epoch { first: seq, salt }).ok_or_else(no_key)?;
        let log = Log::begin(&mut store.space.write(), seq)?;
        let disk = Self::with(store, checkpoints, replayed, retention, log, false);
        disk.checkpoint()?;
        Ok(disk)
    }

    /// A disk that is only read.
    fn view(
        store: Store,
        checkpoints: Checkpoints,
        replayed: Replayed,
        retention: Retention,
    ) -> Result<Self, BlockError> {
        // Nothing is written into this segment, and the space is not saved.
        let log = Log::begin(&mut store.space.write(), replayed.seq)?;
        Ok(Self::with(store, checkpoints, replayed, retention, log, true))
    }

    fn with(
        store: Store,
        checkpoints: Checkpoints,
        replayed: Replayed,
        retention: Retention,
        log: Log,
        read_only: bool,
    ) -> Self {
        let Replayed { points, changes, records, tag, .. } = replayed;
        let synced = log.seq();
        let mut state = State::new(checkpoints.now.root, log, points, retention);
        (state.changes, state.records) = (changes, records);
        Self {
            size_bytes: checkpoints.superblock.size_bytes,
            store,
            state: Mutex::new(state),
            published: Condvar::new(),
            writer: Mutex::new(Writer { previous: tag }),
            synced: Mutex::new(synced),
            gate: RwLock::new(()),
            readers: RwLock::new(()),
            checkpoints: Mutex::new(checkpoints),
            stripes: Self::stripes(),
            read_only,
        }
    }
}

/// The text of the error for a wrong password.
pub const WRONG_PASSWORD: &str = "the password is wrong";
/// The text of the error for a missing one.
pub const NEEDS_PASSWORD: &str = "the disk is encrypted and needs its password";

fn refusal(why: Refused) -> BlockError {
    let context = match why {
        Refused::NotOne => "this is no Strata disk, or both its superblocks are damaged".to_owned(),
        Refused::Version(version) => format!("the disk is of version {version}, which this program does not know"),
    };
    BlockError::new(BlockErrorKind::Unsupported, context)
}

fn unlock(superblock: &Superblock, password: Option<&[u8]>) -> Result<Keyring, BlockError> {
    let refuse = |text| Err(BlockError::new(BlockErrorKind::Unsupported, text));
    if superblock.cipher == Cipher::Plain {
        return Ok(Keyring::new(Cipher::Plain, None));
    }
    let Some(password) = password else { return refuse(NEEDS_PASSWORD) };
    match superblock.slots.iter().flatten().find_map(|slot| slot.open(password, &superblock.uuid)) {
        Some(master) => Ok(Keyring::new(superblock.cipher, Some(master))),
        None => refuse(WRONG_PASSWORD),
    }
}

/// What the log said.
pub(crate) struct Replayed {
    points: Points,
    pub(crate) changes: Changes,
    records: Vec<(Address, u64)>,
    seq: u64,
    tag: Tag,
}

impl Replayed {
    fn new(points: Points, from: &LogPosition) -> Self {
        Self { points, changes: Changes::default(), records: Vec::new(), seq: from.seq, tag: from.tag }
    }
}

/// Reads the log from the checkpoint to its end.
fn replay(
    store: &Store,
    now: &Base,
    points: Points,
    retention: &Retention,
    size_bytes: u64,
) -> Result<Replayed, BlockError> {
    let file_bytes = store.medium.size().map_err(io_error("asking for the file's length"))?;
    // A place that the file only begins counts.
    let places_max = u32::try_from(file_bytes.saturating_sub(PLACES).div_ceil(SEGMENT_BYTES)).unwrap_or(u32::MAX);
    let mut replayed = Replayed::new(points, &now.log);
    let mut reader = Reader::new(store, now.log, true);
    while let Some(found) = reader.next()? {
        let record = &found.record;
        {
            let mut space = store.space.write();
            space.mark(found.address);
            found.writes().for_each(|(_, pointer)| space.mark(pointer.address));
        }
        apply(store, &now.root, &mut replayed, &found, blocks(size_bytes))?;
        for op in &record.ops {
            match op {
                Op::Name { point, name } => replayed.points.name(*point, record.time_ms, name),
                Op::Drop { point } => {
                    replayed.points.drop_point(*point);
                }
                Op::Write { .. } | Op::Zero { .. } => {}
            }
        }
        if record.commit && retention.every_flush {
            replayed.points.add(record.seq, record.time_ms);
        }
        let mut allowed = |id, place| store.space.write().adopt(id, place, places_max);
        if !reader.follow(&found, &mut allowed) {
            break;
        }
    }
    let LogPosition { seq, tag, .. } = reader.position();
    (replayed.seq, replayed.tag) = (seq, tag);
    Ok(replayed)
}

/// The changes from a checkpoint up to a restore point.
///
/// # Errors
/// `Corrupt` when the log does not reach it.
pub(crate) fn replay_until(store: &Store, base: &Base, point: u64, size_bytes: u64) -> Result<Changes, BlockError> {
    let mut replayed = Replayed::new(Points::default(), &base.log);
    let mut reader = Reader::new(store, base.log, false);
    while reader.position().seq < point {
        let found = reader.next()?.ok_or_else(|| corrupt(format!("the log ends before restore point {point}")))?;
        apply(store, &base.root, &mut replayed, &found, blocks(size_bytes))?;
        let mut known = |id, place| store.space.read().lies_at(id, place);
        if !reader.follow(&found, &mut known) && reader.position().seq < point {
            return Err(corrupt(format!("the log breaks off before restore point {point}")));
        }
    }
    Ok(replayed.changes)
}

/// Takes up what one record changed on the guest's disk.
fn apply(store: &Store, root: &Root, replayed: &mut Replayed, found: &Found, blocks: u64) -> Result<(), BlockError> {
    let seq = found.record.seq;
    replayed.records.push((found.address, seq));
    let mut writes = found.writes();
    for op in &found.record.ops {
        match op {
            Op::Write { .. } => {
                let Some((lba, pointer)) = writes.next() else { continue };
                if lba >= blocks {
                    return Err(corrupt("the log writes behind the end of the disk"));
                }
                replayed.changes.order += 1;
                let order = replayed.changes.order;
                replayed.changes.change(lba, pointer, order, seq);
            }
            Op::Zero { lba, count } => {
                let end = lba.checked_add(*count).filter(|end| *end <= blocks);
                let Some(end) = end else { return Err(corrupt("the log clears behind the end of the disk")) };
                replayed.changes.zero(store, root, *lba, end, seq)?;
            }
            Op::Name { .. } | Op::Drop { .. } => {}
        }
    }
    Ok(())
}
