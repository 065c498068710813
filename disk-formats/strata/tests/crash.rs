//! Power fails at every write: what was promised must be there, and nothing half-written.
//!
//! The medium keeps what is durable apart from what was only written. A cut lets any of the sectors written since the
//! last sync arrive, and loses the others: torn and out of order, as hardware does. After every cut the disk opens,
//! passes its check, and holds exactly what it held after some step since the last flush: a prefix of the writes.
//!
//! BENCHTOP_CRASHES and BENCHTOP_SEED say how many cuts, and which; `cargo xtask soak` asks for many.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use benchtop_block::DiskBackend;
use benchtop_block::conformance::{Sequence, read, write};
use benchtop_strata::{Cost, CreateOptions, Medium, Retention, StrataDisk};
use parking_lot::Mutex;

const PAGE: u64 = 4096;
const SECTOR: usize = 512;
const BLOCKS: u64 = 200;
const COST: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };

/// Sparse bytes.
#[derive(Clone, Default)]
struct Bytes(HashMap<u64, Arc<[u8; PAGE as usize]>>);

impl Bytes {
    fn put(&mut self, offset: u64, bytes: &[u8]) {
        for (index, byte) in bytes.chunks(SECTOR).enumerate() {
            let at = offset + (index * SECTOR) as u64;
            let page = self.0.entry(at / PAGE).or_insert_with(|| Arc::new([0; PAGE as usize]));
            let within = (at % PAGE) as usize;
            Arc::make_mut(page)[within..within + byte.len()].copy_from_slice(byte);
        }
    }

    fn get(&self, offset: u64, into: &mut [u8]) {
        for (index, part) in into.chunks_mut(SECTOR).enumerate() {
            let at = offset + (index * SECTOR) as u64;
            let within = (at % PAGE) as usize;
            match self.0.get(&(at / PAGE)) {
                Some(page) => part.copy_from_slice(&page[within..within + part.len()]),
                None => part.fill(0),
            }
        }
    }

    fn end(&self) -> u64 {
        self.0.keys().max().map_or(0, |page| (page + 1) * PAGE)
    }
}

#[derive(Default)]
struct State {
    durable: Bytes,
    /// As the process sees it.
    seen: Bytes,
    /// Sectors written since the last sync, in order.
    unsynced: Vec<(u64, Vec<u8>)>,
}

/// A medium whose power can be cut.
#[derive(Default)]
struct Fault {
    state: Mutex<State>,
    /// Writes and syncs so far.
    steps: AtomicU64,
    /// The step at which the power goes.
    cut_at: AtomicU64,
    /// Syncs do nothing: the negative control.
    lies: bool,
}

impl Fault {
    fn new(durable: Bytes, cut_at: u64, lies: bool) -> Self {
        let state = State { seen: durable.clone(), durable, unsynced: Vec::new() };
        Self { state: Mutex::new(state), steps: AtomicU64::new(0), cut_at: AtomicU64::new(cut_at), lies }
    }

    fn step(&self) -> io::Result<()> {
        let step = self.steps.fetch_add(1, Ordering::Relaxed);
        if step >= self.cut_at.load(Ordering::Relaxed) { Err(io::Error::other("no power")) } else { Ok(()) }
    }

    /// What is on the disk when the power is back.
    fn after_cut(&self, random: &mut Sequence) -> Bytes {
        let state = self.state.lock();
        let mut bytes = state.durable.clone();
        // All, none, or any: each is a way that hardware fails.
        let (way, newest_first) = (random.below(4), random.below(2) == 0);
        let mut arrived: Vec<&(u64, Vec<u8>)> =
            state.unsynced.iter().filter(|_| way == 0 || (way > 1 && random.below(2) == 0)).collect();
        if newest_first && way == 3 {
            arrived.reverse();
        }
        arrived.into_iter().for_each(|(offset, sector)| bytes.put(*offset, sector));
        bytes
    }
}

impl Medium for Fault {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.state.lock().seen.get(offset, into);
        Ok(())
    }

    fn write_at(&self, offset: u64, from: &[&[u8]]) -> io::Result<()> {
        let cut = self.step();
        let mut state = self.state.lock();
        let mut at = offset;
        for part in from {
            for sector in part.chunks(SECTOR) {
                state.seen.put(at, sector);
                // The write under way when the power goes may arrive in part, too.
                state.unsynced.push((at, sector.to_vec()));
                at += sector.len() as u64;
            }
        }
        cut
    }

    fn sync(&self) -> io::Result<()> {
        self.step()?;
        let State { durable, unsynced, .. } = &mut *self.state.lock();
        if !self.lies {
            unsynced.drain(..).for_each(|(offset, sector)| durable.put(offset, &sector));
        }
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.step()?;
        // Room that was given back holds nothing to rely on, from now on or later.
        let mut state = self.state.lock();
        let junk = vec![0xdd; SECTOR];
        for at in (offset..offset + len).step_by(PAGE as usize) {
            if state.seen.0.contains_key(&(at / PAGE)) {
                state.seen.put(at, &junk);
                state.unsynced.push((at, junk.clone()));
            }
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.state.lock().seen.end())
    }
}

/// What each block holds: the number of its write, or 0 for zeroes.
type Content = Vec<u64>;

/// What the disk may be after a cut: the content at the last flush, and the changes since, in order.
struct Model {
    flushed: Content,
    now: Content,
    since: Vec<(usize, u64)>,
    snapshots: Vec<(String, Content)>,
    dropped: Vec<String>,
    counter: u64,
}

impl Model {
    fn change(&mut self, block: u64, value: u64) {
        self.now[block as usize] = value;
        self.since.push((block as usize, value));
    }

    fn flush(&mut self) {
        self.flushed = self.now.clone();
        self.since.clear();
    }

    /// Whether `found` is what the disk held at some moment since the flush.
    fn allows(&self, found: &Content) -> bool {
        let mut content = self.flushed.clone();
        let mut wrong = content.iter().zip(found).filter(|(a, b)| a != b).count();
        for (block, value) in &self.since {
            if wrong == 0 {
                return true;
            }
            let was = content[*block] == found[*block];
            content[*block] = *value;
            let is = *value == found[*block];
            wrong = wrong + usize::from(was) - usize::from(is);
        }
        wrong == 0
    }
}

fn block_of(value: u64) -> Vec<u8> {
    // Every word is another, so that no sector of one block could be another's.
    let word = |index: u64| if index == 0 { value } else { value.wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ index << 32) };
    (0..PAGE / 8).flat_map(|index| word(index).to_le_bytes()).collect()
}

fn content(disk: &StrataDisk) -> Content {
    (0..BLOCKS)
        .map(|block| {
            let bytes = read(disk, block * PAGE, PAGE as usize, &[]).expect("every block can be read");
            let value = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
            assert!(bytes == block_of(value), "block {block} is half-written");
            value
        })
        .collect()
}

/// Works until the power goes, or `steps` are done.
fn work(disk: &mut StrataDisk, model: &mut Model, random: &mut Sequence, steps: u64) -> Option<()> {
    for _ in 0..steps {
        match random.below(43) {
            0..20 => {
                let first = random.below(BLOCKS);
                let count = 1 + random.below((BLOCKS - first).min(12));
                let mut bytes = Vec::new();
                for block in first..first + count {
                    model.counter += 1;
                    let value = if random.below(8) == 0 { 0 } else { model.counter };
                    bytes.extend(block_of(value));
                    model.change(block, value);
                }
                write(disk, first * PAGE, &bytes, &[], false).ok()?;
            }
            20..22 => {
                let first = random.below(BLOCKS);
                let count = 1 + random.below(BLOCKS - first);
                (first..first + count).for_each(|block| model.change(block, 0));
                disk.discard(first * PAGE, count * PAGE).ok()?;
            }
            22..36 => {
                if random.below(4) == 0 {
                    disk.sync().ok()?
                } else {
                    disk.flush().ok()?
                }
                model.flush();
            }
            36 if random.below(2) == 0 => disk.checkpoint().ok()?,
            36 => disk.compact(0).ok()?,
            37 | 38 => {
                model.counter += 1;
                let name = format!("s{}", model.counter);
                let content = model.now.clone();
                disk.snapshot(&name).ok()?;
                model.flush();
                model.snapshots.push((name, content));
            }
            40 => {
                // What is behind the blocks that are looked at comes and goes.
                disk.resize((BLOCKS + random.below(3) * random.below(1 << 20)) * PAGE, true).ok()?;
                model.flush();
            }
            41 if !disk.key_slots().is_empty() => {
                if let Some(slot) = disk.key_slots().iter().find(|slot| slot.index > 0) {
                    disk.remove_key_slot(slot.index).ok()?;
                } else {
                    disk.add_password(b"another", COST).ok()?;
                }
            }
            _ => {
                let points = disk.points().expect("lists can be read");
                if points.is_empty() {
                    continue;
                }
                let point = &points[random.below(points.len() as u64) as usize];
                model.dropped.extend(point.name.clone());
                disk.drop_point(point.seq).ok()?;
                model.flush();
            }
        }
    }
    Some(())
}

/// What went wrong, for the negative control.
#[derive(Debug)]
struct Lost(String);

/// One life: work, cut, look.
fn life(
    before: Bytes,
    model: &mut Model,
    random: &mut Sequence,
    password: Option<&[u8]>,
    lies: bool,
) -> Result<Bytes, Lost> {
    let cut_at = 1 + random.below(260);
    let fault = Arc::new(Fault::new(before, cut_at, lies));
    if let Ok(mut disk) = StrataDisk::open(fault.clone(), password, false) {
        // What it found counts as flushed: opening makes it durable.
        let end = work(&mut disk, model, random, 200);
        fault.cut_at.store(0, Ordering::Relaxed);
        drop(disk);
        let _cut_or_done = end;
    }
    let bytes = fault.after_cut(random);
    let fault = Arc::new(Fault::new(bytes.clone(), u64::MAX, false));
    let disk =
        StrataDisk::open(fault.clone(), password, false).map_err(|error| Lost(format!("it does not open: {error}")))?;
    let report = disk.check();
    if report.damages > 0 {
        return Err(Lost(format!("{report:?}")));
    }
    let found = content(&disk);
    if !model.allows(&found) {
        return Err(Lost(format!("{found:?}\nis nothing that was there since\n{:?}", model.flushed)));
    }
    // From here on the disk is what was found.
    model.now = found;
    model.flush();
    let points = disk.points().expect("lists can be read");
    drop(disk);
    for (name, expected) in &model.snapshots {
        let Some(point) = points.iter().find(|point| point.name.as_deref() == Some(name)) else {
            if model.dropped.contains(name) {
                continue;
            }
            return Err(Lost(format!("snapshot {name} is gone")));
        };
        let mut past = StrataDisk::open(fault.clone(), password, true).map_err(|error| Lost(error.to_string()))?;
        past.rewind(point.seq).map_err(|error| Lost(error.to_string()))?;
        if content(&past) != *expected {
            return Err(Lost(format!("snapshot {name} has changed")));
        }
    }
    let keep = model.snapshots.len().saturating_sub(3);
    model.snapshots.drain(..keep);
    let state = fault.state.lock();
    Ok(state.seen.clone())
}

fn crash(seed: u64, cuts: u64, password: Option<&str>, retention: Retention, lies: bool) -> Result<(), Lost> {
    let mut random = Sequence::new(seed);
    let options = CreateOptions {
        size_bytes: BLOCKS * PAGE,
        retention,
        password: password.map(|password| (password.as_bytes().to_vec().into(), COST)),
    };
    let fault = Arc::new(Fault::new(Bytes::default(), u64::MAX, false));
    drop(StrataDisk::create(fault.clone(), &options).expect("a disk is made"));
    let mut bytes = fault.state.lock().seen.clone();
    let zero = vec![0; BLOCKS as usize];
    let mut model = Model {
        flushed: zero.clone(),
        now: zero,
        since: Vec::new(),
        snapshots: Vec::new(),
        dropped: Vec::new(),
        counter: 0,
    };
    for cut in 0..cuts {
        bytes = life(bytes, &mut model, &mut random, password.map(str::as_bytes), lies)
            .map_err(|Lost(why)| Lost(format!("seed {seed}, cut {cut}: {why}")))?;
    }
    Ok(())
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn nothing_promised_is_lost() {
    let crashes = from_environment("BENCHTOP_CRASHES", 80);
    let first = from_environment("BENCHTOP_SEED", 1);
    for (index, (password, retention)) in [
        (None, Retention::default()),
        (Some("secret"), Retention::default()),
        (None, Retention::OFF),
        (None, Retention { budget_min_bytes: 100 * 4096, budget_percent: 0, ..Retention::default() }),
    ]
    .into_iter()
    .enumerate()
    {
        // Disks are young again after a while, so that failures are short to tell.
        for life in 0..crashes.div_ceil(4 * 20) {
            let seed = first + life * 4 + index as u64;
            if let Err(Lost(why)) = crash(seed, 20, password, retention, false) {
                panic!("{why}");
            }
        }
    }
}

/// Blocks that one thread has for itself.
const LANE_BLOCKS: usize = (BLOCKS / 4) as usize;

/// One thread's work until the power goes: writes and flushes, all in its own blocks.
fn lane_work(disk: &StrataDisk, lane: usize, model: &mut Model, random: &mut Sequence) -> Option<()> {
    for _ in 0..200 {
        match random.below(12) {
            0..8 => {
                let first = random.below(LANE_BLOCKS as u64);
                let count = 1 + random.below((LANE_BLOCKS as u64 - first).min(12));
                let mut bytes = Vec::new();
                for block in first..first + count {
                    model.counter += 4;
                    let value = if random.below(8) == 0 { 0 } else { model.counter };
                    bytes.extend(block_of(value));
                    model.change(block, value);
                }
                write(disk, ((lane * LANE_BLOCKS) as u64 + first) * PAGE, &bytes, &[], false).ok()?;
            }
            8..11 => {
                disk.flush().ok()?;
                model.flush();
            }
            _ if lane == 0 => disk.checkpoint().ok()?,
            _ if lane == 1 => disk.compact(0).ok()?,
            _ => disk.sync().ok()?,
        }
    }
    Some(())
}

#[test]
fn threads_lose_nothing_either() {
    let lives = from_environment("BENCHTOP_CRASHES", 80).div_ceil(4);
    let mut random = Sequence::new(from_environment("BENCHTOP_SEED", 1));
    for password in [None, Some("secret")] {
        let cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };
        let options = CreateOptions {
            size_bytes: BLOCKS * PAGE,
            retention: Retention { budget_min_bytes: 100 * PAGE, budget_percent: 0, ..Retention::default() },
            password: password.map(|password| (password.as_bytes().to_vec().into(), cost)),
        };
        let fault = Arc::new(Fault::new(Bytes::default(), u64::MAX, false));
        drop(StrataDisk::create(fault.clone(), &options).expect("a disk is made"));
        let mut bytes = fault.state.lock().seen.clone();
        let zero = vec![0; LANE_BLOCKS];
        let mut models: Vec<Model> = (0..4)
            .map(|lane| Model {
                flushed: zero.clone(),
                now: zero.clone(),
                since: Vec::new(),
                snapshots: Vec::new(),
                dropped: Vec::new(),
                counter: lane,
            })
            .collect();
        for life in 0..lives {
            let fault = Arc::new(Fault::new(bytes, 20 + random.below(600), false));
            let seeds: Vec<u64> = (0..4).map(|_| random.below(u64::MAX)).collect();
            if let Ok(disk) = StrataDisk::open(fault.clone(), password.map(str::as_bytes), false) {
                std::thread::scope(|scope| {
                    for ((lane, model), seed) in models.iter_mut().enumerate().zip(seeds) {
                        let disk = &disk;
                        scope.spawn(move || lane_work(disk, lane, model, &mut Sequence::new(seed)));
                    }
                });
                fault.cut_at.store(0, Ordering::Relaxed);
            }
            let after = fault.after_cut(&mut random);
            let fault = Arc::new(Fault::new(after, u64::MAX, false));
            let disk = StrataDisk::open(fault.clone(), password.map(str::as_bytes), false).expect("it opens");
            let report = disk.check();
            assert_eq!(report.damages, 0, "life {life}: {report:?}");
            let found = content(&disk);
            for (lane, (model, found)) in models.iter_mut().zip(found.chunks(LANE_BLOCKS)).enumerate() {
                let found = found.to_vec();
                let differs: Vec<_> = (0..LANE_BLOCKS)
                    .filter(|block| found[*block] != model.flushed[*block])
                    .map(|block| (block, model.flushed[block], found[block]))
                    .collect();
                assert!(model.allows(&found), "life {life}, lane {lane}: {differs:?}, changes {:?}", model.since);
                model.now = found;
                model.flush();
            }
            drop(disk);
            bytes = fault.state.lock().seen.clone();
        }
    }
}

#[test]
fn a_medium_that_lies_is_found_out() {
    let found = (1..20).any(|seed| crash(seed, 20, None, Retention::default(), true).is_err());
    assert!(found, "the test would not notice lost writes");
}
