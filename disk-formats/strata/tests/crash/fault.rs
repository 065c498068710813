//! A medium whose power can be cut, whose host fails and fills up, and that can be made to break its promises.
//!
//! What is durable is kept apart from what was only written. A cut lets any of the sectors written since the last sync
//! arrive, and loses the others: torn and out of order, as hardware does.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use benchtop_block::conformance::Sequence;
use benchtop_strata::Medium;
use parking_lot::Mutex;

pub const PAGE: u64 = 4096;
const SECTOR: usize = 512;
const SECTORS: u32 = PAGE as u32 / SECTOR as u32;
/// Where superblocks end and heads begin; where heads end (docs/format.md).
const HEADS: u64 = 1 << 20;
const PLACES: u64 = 132 << 20;

type Page = [u8; PAGE as usize];

static ZEROES: LazyLock<Arc<Page>> = LazyLock::new(|| Arc::new([0; PAGE as usize]));
/// What a page without room of its own holds.
static HOLE: LazyLock<Arc<Page>> = LazyLock::new(|| Arc::new([0xdd; PAGE as usize]));

/// Pages are numbered one after the other: a multiplication spreads them well enough.
#[derive(Default)]
pub struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

type Spreads = BuildHasherDefault<Spread>;

/// Sparse bytes. A copy shares its pages until one of the two writes.
#[derive(Clone, Default)]
pub struct Bytes {
    pages: HashMap<u64, Arc<Page>, Spreads>,
    /// Behind the last page.
    end: u64,
}

impl Bytes {
    fn insert(&mut self, page: u64, content: Arc<Page>) {
        self.end = self.end.max((page + 1) * PAGE);
        self.pages.insert(page, content);
    }

    /// The sectors of `mask` become those of `page`.
    fn put(&mut self, written: &Written, mask: u8) {
        if mask == u8::MAX {
            self.insert(written.page, written.content.clone());
            return;
        }
        self.end = self.end.max((written.page + 1) * PAGE);
        let page = Arc::make_mut(self.pages.entry(written.page).or_insert_with(|| Arc::new([0; PAGE as usize])));
        for sector in (0..SECTORS).filter(|sector| mask >> sector & 1 == 1) {
            let at = sector as usize * SECTOR..(sector as usize + 1) * SECTOR;
            page[at.clone()].copy_from_slice(&written.content[at]);
        }
    }

    /// Writes, and says what became of the pages.
    fn write(&mut self, offset: u64, bytes: &[u8], mut each: impl FnMut(Written)) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let len = (PAGE as usize - within).min(bytes.len() - done);
            let part = &bytes[done..done + len];
            let content = if let Ok(whole) = <&Page>::try_from(part) {
                // Much is written ahead of the log.
                if *whole == **ZEROES { ZEROES.clone() } else { Arc::new(*whole) }
            } else {
                let mut page = self.pages.get(&(at / PAGE)).map_or([0; PAGE as usize], |page| **page);
                page[within..within + len].copy_from_slice(part);
                Arc::new(page)
            };
            self.insert(at / PAGE, content.clone());
            let (first, last) = (within / SECTOR, (within + len).div_ceil(SECTOR));
            let mask = (first..last).fold(0, |mask, sector| mask | 1 << sector);
            each(Written { page: at / PAGE, mask, content });
            done += len;
        }
    }

    fn read(&self, offset: u64, into: &mut [u8]) {
        let mut done = 0;
        while done < into.len() {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let len = (PAGE as usize - within).min(into.len() - done);
            match self.pages.get(&(at / PAGE)) {
                Some(page) => into[done..done + len].copy_from_slice(&page[within..within + len]),
                None => into[done..done + len].fill(0),
            }
            done += len;
        }
    }
}

/// Sectors of one page that were written.
#[derive(Clone)]
struct Written {
    page: u64,
    mask: u8,
    content: Arc<Page>,
}

/// What a medium does that it should not: the negative controls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    None,
    /// Syncs do nothing.
    Syncs,
    /// A sync does nothing for heads. They follow with the sync after the one that brought their superblock: as if it
    /// were written first.
    HeadsLate,
    /// Likewise the map's pages and the log.
    PlacesLate,
    /// A sync does nothing for the write before it: as if it were acknowledged first.
    LastWriteLate,
}

impl Lie {
    /// How many syncs leave a write for the next one. `last`: it is of the newest call.
    fn delays(self, offset: u64, last: bool) -> u32 {
        let delayed = match self {
            Self::None => false,
            Self::Syncs => return u32::MAX,
            Self::HeadsLate if (HEADS..PLACES).contains(&offset) => return 2,
            Self::HeadsLate => false,
            Self::PlacesLate => offset >= PLACES,
            Self::LastWriteLate => last,
        };
        u32::from(delayed)
    }
}

#[derive(Default)]
struct State {
    durable: Bytes,
    /// As the process sees it.
    seen: Bytes,
    /// Written since the last sync, in order, with the number of the call.
    unsynced: Vec<(u64, Written)>,
    /// What a lie kept back over a sync, and over how many more it will.
    late: Vec<(u64, Written, u32)>,
    /// What a sync failed to make durable: a later one says nothing of it, and it may have arrived.
    limbo: Vec<Written>,
}

/// The medium.
pub struct Fault {
    state: Mutex<State>,
    /// Writes and syncs so far.
    steps: AtomicU64,
    /// The step at which the power goes.
    cut_at: AtomicU64,
    /// The next write, or sync, from this step on fails once.
    write_fails_at: AtomicU64,
    sync_fails_at: AtomicU64,
    /// Bytes of the largest write so far.
    largest_write: AtomicU64,
    /// How often what the host's cache has was forgotten.
    forgotten: AtomicU64,
    /// The host has no more room.
    full: AtomicBool,
    lie: Lie,
}

impl Fault {
    pub fn new(durable: Bytes, cut_at: u64, lie: Lie) -> Self {
        let never = || AtomicU64::new(u64::MAX);
        Self {
            state: Mutex::new(State { seen: durable.clone(), durable, ..State::default() }),
            steps: AtomicU64::new(0),
            cut_at: AtomicU64::new(cut_at),
            write_fails_at: never(),
            sync_fails_at: never(),
            largest_write: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
            full: AtomicBool::new(false),
            lie,
        }
    }

    /// Nothing fails, ever.
    pub fn kind(durable: Bytes) -> Arc<Self> {
        Arc::new(Self::new(durable, u64::MAX, Lie::None))
    }

    /// One write and one sync will fail, each from that step on.
    pub fn fail(&self, write: u64, sync: u64) {
        self.write_fails_at.store(write, Ordering::Relaxed);
        self.sync_fails_at.store(sync, Ordering::Relaxed);
    }

    /// Whether the host has no room for pages that have none.
    pub fn fill_up(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    /// The power goes after so many more writes and syncs.
    pub fn cut_after(&self, steps: u64) {
        self.cut_at.store(self.steps() + steps, Ordering::Relaxed);
    }

    /// Nothing works any more.
    pub fn cut(&self) {
        self.cut_at.store(0, Ordering::Relaxed);
    }

    /// Whether the power is gone.
    pub fn is_cut(&self) -> bool {
        self.steps.load(Ordering::Relaxed) > self.cut_at.load(Ordering::Relaxed)
    }

    /// Writes and syncs so far.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Bytes of the largest write so far.
    pub fn largest_write(&self) -> u64 {
        self.largest_write.load(Ordering::Relaxed)
    }

    /// How often a disk was opened anew on this medium.
    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// What the process sees.
    pub fn seen(&self) -> Bytes {
        self.state.lock().seen.clone()
    }

    fn step(&self) -> io::Result<u64> {
        let step = self.steps.fetch_add(1, Ordering::Relaxed);
        if step >= self.cut_at.load(Ordering::Relaxed) { Err(io::Error::other("no power")) } else { Ok(step) }
    }

    /// Whether it is time for the failure at `at`, which happens once.
    fn fails(at: &AtomicU64, step: u64) -> bool {
        step >= at.load(Ordering::Relaxed) && at.swap(u64::MAX, Ordering::Relaxed) != u64::MAX
    }

    /// What is on the disk when the power is back.
    pub fn after_cut(&self, random: &mut Sequence) -> Bytes {
        // All, none, or any: each is a way that hardware fails.
        let (way, newest_first) = (random.below(4), random.below(2) == 0);
        self.after_cut_in(way, newest_first, random)
    }

    /// Likewise; `way` is 0 for everything, 1 for nothing, 2 and 3 for any sectors, 3 perhaps in the wrong order.
    pub fn after_cut_in(&self, way: u64, newest_first: bool, random: &mut Sequence) -> Bytes {
        let state = self.state.lock();
        let mut bytes = state.durable.clone();
        let mut waiting: Vec<(u64, &Written)> = Vec::new();
        waiting.extend(state.late.iter().map(|(call, written, _)| (*call, written)));
        waiting.extend(state.unsynced.iter().map(|(call, written)| (*call, written)));
        waiting.sort_by_key(|(call, _)| *call);
        let mut arrived: Vec<(&Written, u8)> = Vec::new();
        for written in state.limbo.iter().chain(waiting.into_iter().map(|(_, written)| written)) {
            let any = match way {
                0 => u8::MAX,
                1 => 0,
                _ => random.below(256) as u8,
            };
            arrived.push((written, written.mask & any));
        }
        if newest_first && way == 3 {
            arrived.reverse();
        }
        arrived.into_iter().filter(|(_, mask)| *mask != 0).for_each(|(written, mask)| bytes.put(written, mask));
        bytes
    }
}

impl Medium for Fault {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.state.lock().seen.read(offset, into);
        Ok(())
    }

    fn write_at(&self, offset: u64, from: &[&[u8]]) -> io::Result<()> {
        let step = self.step();
        let mut state = self.state.lock();
        let State { seen, unsynced, .. } = &mut *state;
        let end = offset + from.iter().map(|part| part.len() as u64).sum::<u64>();
        self.largest_write.fetch_max(end - offset, Ordering::Relaxed);
        if self.full.load(Ordering::Relaxed) {
            let mut pages = offset / PAGE..end.div_ceil(PAGE);
            if pages.any(|page| seen.pages.get(&page).is_none_or(|page| Arc::ptr_eq(page, &HOLE))) {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        let call = self.steps.load(Ordering::Relaxed);
        let mut at = offset;
        for part in from {
            // The write under way when the power goes may arrive in part, too.
            seen.write(at, part, |written| unsynced.push((call, written)));
            at += part.len() as u64;
        }
        if Self::fails(&self.write_fails_at, step?) { Err(io::Error::other("a write failed")) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let step = self.step()?;
        let State { durable, unsynced, late, limbo, .. } = &mut *self.state.lock();
        if Self::fails(&self.sync_fails_at, step) {
            limbo.extend(unsynced.drain(..).map(|(_, written)| written));
            return Err(io::Error::other("a sync failed"));
        }
        if self.lie == Lie::Syncs {
            return Ok(());
        }
        let newest = unsynced.last().map(|(call, _)| *call);
        let mut still = Vec::new();
        for (call, written, left) in late.drain(..) {
            if left > 0 {
                still.push((call, written, left - 1));
            } else {
                durable.put(&written, written.mask);
            }
        }
        for (call, written) in unsynced.drain(..) {
            match self.lie.delays(written.page * PAGE, Some(call) == newest) {
                0 => durable.put(&written, written.mask),
                delay => still.push((call, written, delay - 1)),
            }
        }
        *late = still;
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.step()?;
        // Room that was given back holds nothing to rely on, from now on or later.
        let call = self.steps.load(Ordering::Relaxed);
        let State { seen, unsynced, .. } = &mut *self.state.lock();
        for page in offset / PAGE..((offset + len) / PAGE).min(seen.end / PAGE) {
            if let Some(content) = seen.pages.get_mut(&page).filter(|content| !Arc::ptr_eq(content, &HOLE)) {
                *content = HOLE.clone();
                unsynced.push((call, Written { page, mask: u8::MAX, content: HOLE.clone() }));
            }
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.state.lock().seen.end)
    }

    fn forget(&self) -> io::Result<()> {
        self.forgotten.fetch_add(1, Ordering::Relaxed);
        let State { durable, seen, unsynced, limbo, .. } = &mut *self.state.lock();
        for (index, written) in limbo.drain(..).enumerate() {
            // Some of it had arrived.
            durable.put(&written, written.mask & (0x5a_u8).rotate_left(index as u32 % 3));
        }
        *seen = durable.clone();
        unsynced.iter().for_each(|(_, written)| seen.put(written, written.mask));
        Ok(())
    }
}
