//! Making a disk, and opening one: superblock, head, the log since.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use benchtop_block::{BlockError, BlockErrorKind};
use parking_lot::{Condvar, Mutex, RwLock};

use crate::StrataDisk;
use crate::checkpoint::Checkpoints;
use crate::core::Core;
use crate::disk::io_error;
use crate::due::Pressure;
use crate::graves::Graves;
use crate::head::{Base, HeadV1, LogPosition, Written};
use crate::identity::Identity;
use crate::keeper::Wanted;
use crate::layout::{Address, PLACES, SEGMENT_BYTES, Tag};
use crate::log::Log;
use crate::medium::Medium;
use crate::pages::{Root, Store, no_key};
use crate::passwords::password_slot;
use crate::points::{Points, Retention};
use crate::record::Op;
use crate::repair::RepairReport;
use crate::replay::{Found, Reader};
use crate::resize::blocks;
use crate::seal::{Cipher, Epoch, Key, Keyring, Salt, random};
use crate::slots::{self, Cost, Slots};
use crate::space::Space;
use crate::state::{Changes, State};
use crate::superblock::{self, Refused, Superblock, can_be_size};

/// Percent of the live data that garbage may take while the disk is busy, unless somebody wants it otherwise. Small
/// commits leave as much as they write: it is cleared away when there is time.
const GARBAGE_PERCENT: u64 = 100;

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

/// How to open one.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions<'a> {
    /// A password or a recovery key; asked for only if the disk is encrypted.
    pub password: Option<&'a [u8]>,
    /// For reading only: nothing is written.
    pub read_only: bool,
    /// What the disk was when it was last seen. An older or another one is refused: [`ROLLED_BACK`](crate::ROLLED_BACK),
    /// [`OTHER_DISK`](crate::OTHER_DISK).
    pub expected: Option<Identity>,
    /// An older copy is what is wanted.
    pub accept_rollback: bool,
}

/// What an opening is for.
pub(crate) enum Purpose<'a> {
    Reading,
    Writing,
    /// What can not be read is told, and with consent taken out of the map; else for reading.
    Repair(&'a mut RepairReport, bool),
}

impl Purpose<'_> {
    /// Whether an older state may do where the newest fails like this. A host that can not read it now may be able to
    /// later, so only a repair gives it up for that.
    fn passes_over(&self, error: &BlockError) -> bool {
        match error.kind() {
            BlockErrorKind::Corrupt => true,
            BlockErrorKind::Io => matches!(self, Self::Repair(..)),
            _ => false,
        }
    }
}

fn corrupt(context: impl Into<String>) -> BlockError {
    BlockError::new(BlockErrorKind::Corrupt, context)
}

fn no_randomness() -> BlockError {
    BlockError::new(BlockErrorKind::Io, "the host gives no random numbers")
}

pub(crate) fn no_memory() -> BlockError {
    BlockError::new(BlockErrorKind::Io, "the host has no memory for keys")
}

/// What came before what is opened, and what a disk begins as.
struct Begin {
    checkpoints: Checkpoints,
    replayed: Replayed,
    retention: Retention,
    cipher: Cipher,
}

impl StrataDisk {
    /// Makes an empty disk in `medium`, which must be empty, and opens it.
    ///
    /// # Errors
    /// `Unsupported` for a size or a password that can not be, or the host's.
    pub fn create(medium: Arc<dyn Medium>, options: &CreateOptions) -> Result<Self, BlockError> {
        let size_bytes = options.size_bytes;
        if !can_be_size(size_bytes) {
            let context = format!("a disk can not have {size_bytes} bytes");
            return Err(BlockError::new(BlockErrorKind::Unsupported, context));
        }
        let uuid = random().ok_or_else(no_randomness)?;
        let mut slots = Slots::default();
        let (cipher, master) = match &options.password {
            None => (Cipher::plain(superblock::VERSION), None),
            Some((password, cost)) => {
                let master: Key = zeroize::Zeroizing::new(random().ok_or_else(no_randomness)?);
                slots[0] = Some(password_slot(password, *cost, &master, &uuid)?);
                (Cipher::for_this_host(), Some(master))
            }
        };
        let superblock = Superblock {
            version: superblock::VERSION,
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
        let store = Store::new(medium, Keyring::new(master.as_ref()).ok_or_else(no_memory)?, Space::new());
        let root = Root::empty(blocks(size_bytes));
        let log = LogPosition { segment: 1, place: 0, slot: 0, seq: 0, tag: [0; 16] };
        let now = Base { root, log, size_bytes };
        let replayed = Replayed::new(Points::default(), &now);
        let checkpoints = Checkpoints::new(superblock, now);
        let begin = Begin { checkpoints, replayed, retention: options.retention, cipher };
        Core::begin(store, begin, None).map(Self::of)
    }

    /// Opens the disk in `medium`. `password` is asked for only if it is encrypted.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn open(medium: Arc<dyn Medium>, password: Option<&[u8]>, read_only: bool) -> Result<Self, BlockError> {
        Self::open_with(medium, &OpenOptions { password, read_only, ..OpenOptions::default() })
    }

    /// Opens the disk in `medium`.
    ///
    /// # Errors
    /// `Unsupported` for what is no Strata disk or of another version, `Corrupt`, or the host's. A wrong password is
    /// `Unsupported` with [`WRONG_PASSWORD`] as its text, a disk that is not the expected one likewise with
    /// [`ROLLED_BACK`](crate::ROLLED_BACK) or [`OTHER_DISK`](crate::OTHER_DISK).
    pub fn open_with(medium: Arc<dyn Medium>, options: &OpenOptions<'_>) -> Result<Self, BlockError> {
        let purpose = if options.read_only { Purpose::Reading } else { Purpose::Writing };
        let result = Self::open_for(&medium, options, purpose);
        if result.is_err() && !options.read_only {
            forget_what_failed(&*medium);
        }
        result
    }

    pub(crate) fn open_for(
        medium: &Arc<dyn Medium>,
        options: &OpenOptions<'_>,
        purpose: Purpose<'_>,
    ) -> Result<Self, BlockError> {
        let unlock = &mut |superblock: &_| unlock(superblock, options.password);
        Core::open(medium, unlock, options, purpose).map(Self::of)
    }
}

/// What a sync failed to write stays in the host's cache and looks as if it were on its disk. Whoever opens the file next
/// is to find what is there.
pub(crate) fn forget_what_failed(medium: &dyn Medium) {
    if let Err(error) = medium.forget() {
        tracing::warn!(%error, "the host's cache may hold what it failed to write");
    }
}

impl Core {
    /// Opens the newest state that is whole; `unlock` has the keys of a superblock.
    pub fn open(
        medium: &Arc<dyn Medium>,
        unlock: &mut dyn FnMut(&Superblock) -> Result<Keyring, BlockError>,
        options: &OpenOptions<'_>,
        mut purpose: Purpose<'_>,
    ) -> Result<Self, BlockError> {
        let mut refused = None;
        let candidates = superblock::read_all(&**medium).map_err(io_error("reading the superblock"))?;
        if let Purpose::Repair(report, _) = &mut purpose {
            // The place of the second one is empty on a disk that was just made.
            for (superblock, block) in &candidates {
                if let (Err(why), true) = (superblock, block.iter().any(|byte| *byte != 0)) {
                    report.superblock_refused(*why);
                }
            }
        }
        for (superblock, block) in candidates {
            let superblock = match superblock {
                Ok(superblock) => superblock,
                Err(why) => {
                    refused = refused.or(Some(refusal(why)));
                    continue;
                }
            };
            options.expected.as_ref().map_or(Ok(()), |expected| expected.check_disk(&superblock))?;
            let keys = unlock(&superblock)?;
            let generation = superblock.generation;
            let result =
                if superblock::is_authentic(&block, &keys.superblock_key(superblock.has_slots()).ok_or_else(no_key)?) {
                    Self::open_head(medium, keys, superblock, options, &mut purpose)
                } else {
                    Err(corrupt("the superblock is not authentic"))
                };
            match result {
                Err(error) if purpose.passes_over(&error) => {
                    tracing::warn!(%error, generation, "a state of the disk can not be used; trying the one before");
                    if let Purpose::Repair(report, _) = &mut purpose {
                        report.state_lost(generation, &error);
                    }
                    refused = Some(error);
                }
                result => return result,
            }
        }
        Err(refused.unwrap_or_else(|| refusal(Refused::NotOne)))
    }

    fn open_head(
        medium: &Arc<dyn Medium>,
        keys: Keyring,
        superblock: Superblock,
        options: &OpenOptions<'_>,
        purpose: &mut Purpose<'_>,
    ) -> Result<Self, BlockError> {
        let written = Written { area: superblock.head_area, len: superblock.head_len, tag: superblock.head_tag };
        let key = keys.key(superblock.cipher, &superblock.head_salt).ok_or_else(no_key)?;
        let head = HeadV1::read(&**medium, &key, superblock.head_generation, &written)?;
        let HeadV1 { now, bases, epochs, space, points, graves, retention, conversion } = head;
        let newest = epochs.last().ok_or_else(|| corrupt("the disk has no epochs"))?;
        if (newest.cipher, newest.salt) != (superblock.cipher, superblock.head_salt)
            || superblock.size_bytes != now.size_bytes
            || (epochs.iter().any(|epoch| epoch.cipher.is_secret()) && !superblock.has_slots())
            || epochs.iter().any(|epoch| epoch.cipher.version() > superblock.version)
        {
            return Err(corrupt("the superblock and the head contradict each other"));
        }
        let cipher = newest.cipher;
        keys.set_epochs(&epochs).ok_or_else(|| corrupt("the disk's epochs are not in order"))?;
        let mut space = Space::restore(space).ok_or_else(|| corrupt("the disk's segments contradict each other"))?;
        if !space.cut_log(now.log.segment, now.log.place, now.log.slot) {
            return Err(corrupt("the disk's log is where it can not be"));
        }
        let graves = Graves::restore(graves).ok_or_else(|| corrupt("the disk's lists contradict themselves"))?;
        let known = points.clone();
        let points = Points::restore(points).ok_or_else(|| corrupt("the restore points are not in order"))?;
        let store = Store::new(medium.clone(), keys, space);
        let mut replayed = replay(&store, &now, points, &retention, matches!(purpose, Purpose::Repair(..)))?;
        if !options.accept_rollback
            && let Some(expected) = &options.expected
        {
            expected.check_age(superblock.generation, replayed.seq)?;
        }
        let checkpoints = Checkpoints { bases, conversion, graves, known, ..Checkpoints::new(superblock, now) };
        match purpose {
            Purpose::Reading => Self::view(store, checkpoints, replayed, retention),
            Purpose::Writing => Self::begin(store, Begin { checkpoints, replayed, retention, cipher }, None),
            Purpose::Repair(report, false) => {
                let seq = replayed.seq;
                crate::repair::mend(&store, &mut replayed, seq, report, false)?;
                Self::view(store, checkpoints, replayed, retention)
            }
            Purpose::Repair(report, true) => {
                Self::begin(store, Begin { checkpoints, replayed, retention, cipher }, Some(report))
            }
        }
    }

    /// Begins an epoch and makes the checkpoint that records it.
    fn begin(store: Store, begin: Begin, repair: Option<&mut RepairReport>) -> Result<Self, BlockError> {
        let Begin { checkpoints, mut replayed, retention, cipher } = begin;
        // What was just read may be in the host's cache only, left there by a process that was killed or a write that
        // failed. It must be durable before anything that only an older state needs is overwritten.
        store.medium.sync().map_err(io_error("making what was found durable"))?;
        let salt: Salt = random().ok_or_else(no_randomness)?;
        // A number without a record: what this epoch writes is of it or later.
        let seq = replayed.seq + 1;
        store.keys.begin(Epoch { first: seq, salt, cipher }).ok_or_else(no_key)?;
        let file_bytes = store.medium.size().map_err(io_error("asking for the file's length"))?;
        for (offset, len) in store.space.read().free_ranges(file_bytes) {
            // What an earlier life freed, or began and did not end. Room that stays taken harms nobody.
            let _kept = store.medium.punch(offset, len);
        }
        let log = Log::begin(&mut store.space.write(), seq)?;
        if let Some(report) = repair {
            crate::repair::mend(&store, &mut replayed, seq, report, true)?;
        }
        let core = Self::with(store, checkpoints, replayed, retention, log, false);
        core.make_checkpoint(&mut core.checkpoints.lock())?;
        Ok(core)
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
        let Replayed { points, changes, records, tag, size_bytes, root, .. } = replayed;
        let synced = log.seq();
        let mut state = State::new(root, log, points, retention);
        state.log.previous = tag;
        (state.changes, state.records) = (changes, records);
        state.converting = checkpoints.conversion.is_some();
        Self {
            size_bytes: AtomicU64::new(size_bytes),
            store,
            state: Mutex::new(state),
            moved: Condvar::new(),
            full: Condvar::new(),
            reserved_until: AtomicU64::new(0),
            pens: AtomicUsize::new(0),
            large_reads: AtomicU64::new(0),
            synced: Mutex::new(synced),
            gate: RwLock::new(()),
            readers: RwLock::new(()),
            keeping: Mutex::new(()),
            syncing: Mutex::new(()),
            checkpoints: Mutex::new(checkpoints),
            stripes: Self::stripes(),
            wanted: Wanted::default(),
            pressure: Pressure::default(),
            garbage_percent: AtomicU64::new(GARBAGE_PERCENT),
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
    if !superblock.has_slots() {
        return Keyring::new(None).ok_or_else(no_memory);
    }
    let Some(password) = password else { return refuse(NEEDS_PASSWORD) };
    match slots::unlock(&superblock.slots, password, &superblock.uuid) {
        Some(master) => Keyring::new(Some(&master)).ok_or_else(no_memory),
        None => refuse(WRONG_PASSWORD),
    }
}

/// Blocks of the log after which it is refused: eight times what a disk writes before it waits for a checkpoint.
const LOG_BLOCKS_MAX: u64 = 4 << 20;

/// What the log said.
pub(crate) struct Replayed {
    pub(crate) points: Points,
    pub(crate) changes: Changes,
    pub(crate) records: Vec<(Address, u64)>,
    pub(crate) size_bytes: u64,
    /// The map that the changes are over.
    pub(crate) root: Root,
    pub(crate) seq: u64,
    tag: Tag,
    /// Where the next record would be.
    pub(crate) end: LogPosition,
    blocks: u64,
}

impl Replayed {
    fn new(points: Points, from: &Base) -> Self {
        Self {
            points,
            changes: Changes::default(),
            records: Vec::new(),
            size_bytes: from.size_bytes,
            root: from.root,
            seq: from.log.seq,
            tag: from.log.tag,
            end: from.log,
            blocks: 0,
        }
    }
}

/// Reads the log from the checkpoint to its end.
fn replay(
    store: &Store,
    now: &Base,
    points: Points,
    retention: &Retention,
    passes_over: bool,
) -> Result<Replayed, BlockError> {
    let file_bytes = store.medium.size().map_err(io_error("asking for the file's length"))?;
    // A place that the file only begins counts.
    let places_max = u32::try_from(file_bytes.saturating_sub(PLACES).div_ceil(SEGMENT_BYTES)).unwrap_or(u32::MAX);
    let mut replayed = Replayed::new(points, now);
    let mut reader = Reader::new(store, now.log, true);
    reader.pass_over(passes_over);
    while let Some(found) = reader.next()? {
        let record = &found.record;
        {
            let mut space = store.space.write();
            space.mark(found.address, 1 + record.data_count() as u64);
        }
        apply(store, &now.root, &mut replayed, &found)?;
        for op in &record.ops {
            match op {
                Op::Name { point, name } => replayed.points.name(*point, record.time_ms, name),
                Op::Drop { point } => {
                    replayed.points.drop_point(*point);
                }
                Op::Write { .. } | Op::Zero { .. } | Op::Resize { .. } => {}
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
    (replayed.seq, replayed.tag, replayed.end) = (seq, tag, reader.position());
    Ok(replayed)
}

/// What changed from a checkpoint up to a restore point.
///
/// # Errors
/// `Corrupt` when the log does not reach it.
pub(crate) fn replay_until(store: &Store, base: &Base, point: u64) -> Result<Replayed, BlockError> {
    let mut retrace = Retrace::new(store, base);
    retrace.until(point)?;
    Ok(retrace.replayed)
}

/// What changed from a checkpoint up to one restore point after the other: the log between them is read once.
pub(crate) struct Retrace<'a> {
    store: &'a Store,
    reader: Reader<'a>,
    pub(crate) base: Base,
    pub(crate) replayed: Replayed,
}

impl<'a> Retrace<'a> {
    pub(crate) fn new(store: &'a Store, base: &Base) -> Self {
        let reader = Reader::new(store, base.log, false);
        Self { store, reader, base: *base, replayed: Replayed::new(Points::default(), base) }
    }

    /// Goes on to a point that is not before the last one.
    ///
    /// # Errors
    /// `Corrupt` when the log does not reach it.
    pub(crate) fn until(&mut self, point: u64) -> Result<(), BlockError> {
        while self.reader.position().seq < point {
            let found = self.reader.next()?;
            let found = found.ok_or_else(|| corrupt(format!("the log ends before restore point {point}")))?;
            apply(self.store, &self.base.root, &mut self.replayed, &found)?;
            let mut known = |id, _place| self.store.space.read().knows(id);
            if !self.reader.follow(&found, &mut known) && self.reader.position().seq < point {
                return Err(corrupt(format!("the log breaks off before restore point {point}")));
            }
        }
        Ok(())
    }
}

/// Takes up what one record changed on the guest's disk.
fn apply(store: &Store, root: &Root, replayed: &mut Replayed, found: &Found) -> Result<(), BlockError> {
    let seq = found.record.seq;
    replayed.records.push((found.address, seq));
    replayed.blocks += 1 + found.record.data_count() as u64;
    replayed.changes.check_bounds(replayed.blocks <= LOG_BLOCKS_MAX)?;
    let mut writes = found.writes();
    for op in &found.record.ops {
        match op {
            Op::Write { .. } => {
                let Some((lba, pointer)) = writes.next() else { continue };
                if lba >= blocks(replayed.size_bytes) {
                    return Err(corrupt("the log writes behind the end of the disk"));
                }
                replayed.changes.order += 1;
                let order = replayed.changes.order;
                replayed.changes.change(lba, pointer, order, seq);
            }
            Op::Zero { lba, count } => {
                let end = lba.checked_add(*count).filter(|end| *end <= blocks(replayed.size_bytes));
                let Some(end) = end else { return Err(corrupt("the log clears behind the end of the disk")) };
                replayed.changes.zero(store, root, *lba, end, seq)?;
            }
            Op::Resize { size_bytes } => {
                if !can_be_size(*size_bytes) {
                    return Err(corrupt("the log gives the disk a size that no disk can have"));
                }
                let old = std::mem::replace(&mut replayed.size_bytes, *size_bytes);
                if *size_bytes < old {
                    replayed.changes.zero(store, root, blocks(*size_bytes), blocks(old), seq)?;
                }
            }
            Op::Name { .. } | Op::Drop { .. } => {}
        }
    }
    Ok(())
}
