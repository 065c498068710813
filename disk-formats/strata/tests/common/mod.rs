//! What the tests of disks share: a medium in memory that can be copied, cut and damaged.
#![allow(dead_code, reason = "each test program uses a part")]

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use benchtop_block::DiskBackend;
use benchtop_block::conformance::{Sequence, read, write};
use benchtop_strata::{Cost, CreateOptions, Medium, Retention, StrataDisk};
use parking_lot::Mutex;

const PAGE: u64 = 4096;

/// Cheap to try.
pub const COST: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };

type Sectors = Vec<(u64, Vec<u8>)>;
type Pages = BTreeMap<u64, Box<[u8; PAGE as usize]>>;

/// Sparse bytes in memory. A copy is another file.
#[derive(Default)]
pub struct Memory {
    pages: Mutex<Pages>,
    /// What a cut of power leaves for certain, and the sectors that may have arrived beyond it.
    durable: Mutex<(Pages, Sectors)>,
    /// After so many more writes and syncs nothing works any more.
    power: Mutex<Option<u64>>,
    /// Pages that the host can not read.
    unreadable: Mutex<Vec<u64>>,
    /// Room is not given back.
    never_punches: bool,
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        let pages = self.pages.lock().clone();
        Self { durable: Mutex::new((pages.clone(), Vec::new())), pages: Mutex::new(pages), ..Self::default() }
    }
}

impl Memory {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// On a host that does not give room back.
    pub fn that_never_punches() -> Arc<Self> {
        Arc::new(Self { never_punches: true, ..Self::default() })
    }

    pub fn copy(&self) -> Arc<Self> {
        Arc::new(self.clone())
    }

    /// All that is not zeroes: offset and content of each page.
    pub fn save(&self) -> Vec<u8> {
        let pages = self.pages.lock();
        let kept = pages.iter().filter(|(_, page)| page.iter().any(|byte| *byte != 0));
        kept.flat_map(|(number, page)| (number * PAGE).to_le_bytes().into_iter().chain(page.iter().copied())).collect()
    }

    /// What [`save`](Self::save) gave.
    pub fn load(saved: &[u8]) -> Arc<Self> {
        let memory = Self::new();
        for page in saved.chunks_exact(8 + PAGE as usize) {
            let (offset, bytes) = page.split_at(8);
            memory.put(u64::from_le_bytes(offset.try_into().expect("eight bytes")), bytes);
        }
        memory
    }

    /// The power goes after so many steps.
    pub fn cut_after(&self, steps: u64) {
        *self.power.lock() = Some(steps);
    }

    /// What is there when the power is back: of the sectors written since the last sync, some arrived.
    pub fn after_cut(&self, random: &mut Sequence) -> Arc<Self> {
        let (durable, unsynced) = &*self.durable.lock();
        let left = Self { pages: Mutex::new(durable.clone()), ..Self::default() };
        let way = random.below(4);
        for (offset, sector) in unsynced {
            if way == 0 || (way > 1 && random.below(2) == 0) {
                left.put(*offset, sector);
            }
        }
        left.copy()
    }

    fn remember(&self, offset: u64, bytes: &[u8]) {
        let sectors = (0u64..).zip(bytes.chunks(512)).map(|(index, sector)| (offset + index * 512, sector.to_vec()));
        self.durable.lock().1.extend(sectors);
    }

    fn step(&self) -> io::Result<()> {
        match &mut *self.power.lock() {
            None => Ok(()),
            Some(0) => Err(io::Error::other("no power")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    pub fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read_at(offset, &mut bytes).expect("memory can be read");
        bytes
    }

    pub fn put(&self, offset: u64, bytes: &[u8]) {
        put(&mut self.pages.lock(), offset, bytes);
    }

    pub fn flip(&self, offset: u64) {
        let byte = self.bytes(offset, 1)[0];
        self.put(offset, &[byte ^ 0x10]);
    }

    pub fn make_unreadable(&self, page: u64) {
        self.unreadable.lock().push(page);
    }

    pub fn truncate(&self, len: u64) {
        let mut pages = self.pages.lock();
        pages.retain(|page, _| page * PAGE < len);
        if let Some(page) = pages.get_mut(&(len / PAGE)) {
            page[(len % PAGE) as usize..].fill(0);
        }
    }

    /// Offsets of the pages that hold anything.
    pub fn written(&self) -> Vec<u64> {
        let pages = self.pages.lock();
        pages.iter().filter(|(_, page)| page.iter().any(|byte| *byte != 0)).map(|(page, _)| page * PAGE).collect()
    }

    /// Whether any page has these bytes somewhere.
    pub fn holds(&self, needle: &[u8]) -> bool {
        self.pages.lock().values().any(|page| page.windows(needle.len()).any(|window| window == needle))
    }
}

fn put(pages: &mut Pages, offset: u64, bytes: &[u8]) {
    let mut done = 0;
    while done < bytes.len() {
        let at = offset + done as u64;
        let within = (at % PAGE) as usize;
        let len = (PAGE as usize - within).min(bytes.len() - done);
        let page = pages.entry(at / PAGE).or_insert_with(|| Box::new([0; PAGE as usize]));
        page[within..within + len].copy_from_slice(&bytes[done..done + len]);
        done += len;
    }
}

impl Medium for Memory {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let unreadable = self.unreadable.lock();
        if unreadable.iter().any(|page| (offset / PAGE * PAGE..offset + into.len() as u64).contains(page)) {
            return Err(io::Error::other("a bad sector"));
        }
        let pages = self.pages.lock();
        let mut done = 0;
        while done < into.len() {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let len = (PAGE as usize - within).min(into.len() - done);
            match pages.get(&(at / PAGE)) {
                Some(page) => into[done..done + len].copy_from_slice(&page[within..within + len]),
                None => into[done..done + len].fill(0),
            }
            done += len;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, from: &[&[u8]]) -> io::Result<()> {
        let step = self.step();
        let mut at = offset;
        for part in from {
            self.put(at, part);
            // The write under way when the power goes may arrive in part, too.
            self.remember(at, part);
            at += part.len() as u64;
        }
        step
    }

    fn sync(&self) -> io::Result<()> {
        self.step()?;
        let (durable, unsynced) = &mut *self.durable.lock();
        for (offset, sector) in unsynced.drain(..) {
            put(durable, offset, &sector);
        }
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.step()?;
        if self.never_punches {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut pages = self.pages.lock();
        for page in offset / PAGE..(offset + len) / PAGE {
            if pages.remove(&page).is_some() {
                self.remember(page * PAGE, &[0; PAGE as usize]);
            }
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.pages.lock().keys().next_back().map_or(0, |page| (page + 1) * PAGE))
    }
}

pub fn options(size_bytes: u64, password: Option<&str>) -> CreateOptions {
    let password = password.map(|password| (password.as_bytes().to_vec().into(), COST));
    CreateOptions { size_bytes, retention: Retention::default(), password }
}

/// Writes `count` blocks of `value` from block `from` on.
pub fn fill(disk: &StrataDisk, value: u8, from: u64, count: u64) {
    for block in from..from + count {
        write(disk, block * PAGE, &[value; PAGE as usize], &[], false).expect("a write succeeds");
    }
}

/// The first byte of a block.
pub fn first(disk: &StrataDisk, block: u64) -> u8 {
    read(disk, block * PAGE, 512, &[]).expect("a read succeeds")[0]
}

pub fn assert_whole(disk: &StrataDisk) {
    let report = disk.check();
    assert_eq!((report.damage.as_slice(), report.leaked_blocks), (&[][..], 0), "{report:?}");
}

pub fn size(disk: &StrataDisk) -> u64 {
    disk.info().size_bytes
}
