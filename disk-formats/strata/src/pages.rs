//! The map: a tree of pages, 128 pointers each, that is never changed in place. A changed page is written anew, and so
//! are the pages above it, up to a root; whoever keeps an old root keeps the whole map as it was.

use std::sync::Arc;

use benchtop_block::{BlockError, BlockErrorKind};
use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::buffer::{Blocks, Pool};
use crate::layout::{Address, BLOCK_BYTES, Block, Pointer, SEGMENT_BLOCKS, Tag};
use crate::medium::Medium;
use crate::seal::Keyring;
use crate::space::{Kind, Space};

/// Bits of a block number that one level of the tree takes.
pub const LEVEL_BITS: u32 = 7;
/// Pointers in a page.
pub const FANOUT: u64 = 1 << LEVEL_BITS;
/// Levels that the largest disk needs: 2^45 blocks.
pub const LEVELS_MAX: u8 = 7;
/// Pages kept in memory, at most: 64 MiB, which map 8 GiB.
const CACHED_PAGES: usize = 16384;
/// Pages read at once, at most, while there is room for all of them: 256 KiB, which the host reads in about twice the
/// time that one takes.
const NEAR_PAGES: u64 = 64;
/// The text of the error for a part of the disk that a repair gave up.
pub const GIVEN_UP: &str = "this part of the disk was lost in a repair; writing or discarding it makes it usable";
/// Locks for those who miss pages that lie together: one of them reads for all.
const MISSES: usize = 16;

/// The top of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// The top page.
    pub pointer: Pointer,
    /// Levels of pages: 1 is one page of guest blocks.
    pub levels: u8,
}

impl Root {
    /// The empty map of a disk of so many blocks.
    pub fn empty(blocks: u64) -> Self {
        let mut levels = 1;
        while levels < LEVELS_MAX && FANOUT << (LEVEL_BITS * u32::from(levels - 1)) < blocks {
            levels += 1;
        }
        Self { pointer: Pointer::NONE, levels }
    }

    /// Blocks it can map.
    pub fn capacity(&self) -> u64 {
        FANOUT << (LEVEL_BITS * u32::from(self.levels.clamp(1, LEVELS_MAX) - 1))
    }
}

/// Where blocks are and how they are opened: what every reader of the file needs.
pub struct Store {
    /// The file.
    pub medium: Arc<dyn Medium>,
    /// The keys.
    pub keys: Keyring,
    /// The segments.
    pub space: RwLock<Space>,
    /// Buffers.
    pub pool: Pool,
    cache: Mutex<LruCache<Address, Arc<Block>>>,
    misses: [Mutex<()>; MISSES],
}

fn damaged(what: &str, pointer: &Pointer) -> BlockError {
    let (segment, slot) = (pointer.address.segment(), pointer.address.slot());
    BlockError::new(BlockErrorKind::Corrupt, format!("{what} at segment {segment}, block {slot} is damaged"))
}

impl Store {
    /// Over `medium`.
    pub fn new(medium: Arc<dyn Medium>, keys: Keyring, space: Space) -> Self {
        let capacity = std::num::NonZeroUsize::new(CACHED_PAGES).unwrap_or(std::num::NonZeroUsize::MIN);
        Self {
            medium,
            keys,
            space: RwLock::new(space),
            pool: Pool::default(),
            cache: Mutex::new(LruCache::new(capacity)),
            misses: std::array::from_fn(|_| Mutex::new(())),
        }
    }

    /// Where the block is in the file.
    ///
    /// # Errors
    /// `Corrupt` when its segment is not known.
    pub fn locate(&self, pointer: &Pointer) -> Result<u64, BlockError> {
        self.locate_in(&self.space.read(), pointer)
    }

    /// The same, of who has the segments already.
    pub fn locate_in(&self, space: &Space, pointer: &Pointer) -> Result<u64, BlockError> {
        if pointer.is_lost() {
            return Err(BlockError::new(BlockErrorKind::Corrupt, GIVEN_UP));
        }
        space.locate(pointer.address).ok_or_else(|| damaged("the place of a block", pointer))
    }

    /// Opens a block that was read, in place.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn open(&self, pointer: &Pointer, bytes: &mut [u8]) -> Result<(), BlockError> {
        let key = self.keys.of(pointer.birth).ok_or_else(|| damaged("a block", pointer))?;
        if key.open_block(pointer.address, bytes, &pointer.tag) { Ok(()) } else { Err(damaged("a block", pointer)) }
    }

    /// Reads a page, from memory if it is there.
    ///
    /// # Errors
    /// `Corrupt`, or the host's.
    pub fn page(&self, pointer: &Pointer) -> Result<Arc<Block>, BlockError> {
        if pointer.is_lost() {
            let mut page = [0; BLOCK_BYTES];
            (0..FANOUT).for_each(|index| set_entry(&mut page, index, &Pointer::LOST));
            return Ok(Arc::new(page));
        }
        match self.cached(pointer) {
            Some(page) => Ok(page),
            None => self.read_page(pointer),
        }
    }

    fn cached(&self, pointer: &Pointer) -> Option<Arc<Block>> {
        self.cache.lock().get(&pointer.address).cloned()
    }

    fn read_page(&self, pointer: &Pointer) -> Result<Arc<Block>, BlockError> {
        let offset = self.locate(pointer)?;
        let mut buffer = self.pool.take(1);
        let read = self.medium.read_at(offset, buffer.bytes_mut());
        read.map_err(|error| BlockError::from_io(format!("reading the map at {offset:#x} failed"), error))?;
        let page = self.open_page(pointer, buffer.bytes_mut())?;
        self.pool.put(buffer);
        Ok(page)
    }

    /// Opens a page that was read, and keeps it.
    fn open_page(&self, pointer: &Pointer, bytes: &mut [u8]) -> Result<Arc<Block>, BlockError> {
        self.open(pointer, bytes)?;
        let page: Arc<Block> = Arc::new(crate::bytes::get(bytes, 0));
        if *page == [0; BLOCK_BYTES] {
            // Nobody writes one; a map full of them could be searched for ever.
            return Err(damaged("an empty page of the map", pointer));
        }
        self.cache.lock().put(pointer.address, page.clone());
        Ok(page)
    }

    /// Reads page `index` of those below `parent`, and with it those beside it that lie together with it in the file, as
    /// long as memory has room for them: who reads all over a disk soon wants them, too.
    fn page_below(&self, parent: &Block, index: u64) -> Result<Arc<Block>, BlockError> {
        let pointer = entry(parent, index);
        if pointer.is_lost() {
            return self.page(&pointer);
        }
        if let Some(page) = self.cached(&pointer) {
            return Ok(page);
        }
        let has_room = {
            let cache = self.cache.lock();
            cache.len() + NEAR_PAGES as usize <= cache.cap().get()
        };
        if !has_room {
            return self.read_page(&pointer);
        }
        let _one_reads = self.misses[pointer.address.segment() as usize % MISSES].lock();
        if let Some(page) = self.cached(&pointer) {
            return Ok(page);
        }
        let near = near(parent, index);
        let first = entry(parent, near.start);
        let count = near.end - near.start;
        let (offset, wanted) = (self.locate(&first)?, self.locate(&pointer)?);
        if count == 1 || offset + (index - near.start) * BLOCK_BYTES as u64 != wanted {
            return self.read_page(&pointer);
        }
        let mut buffer = self.pool.take(count as usize);
        if self.medium.read_at(offset, buffer.bytes_mut()).is_err() {
            self.pool.put(buffer);
            return self.read_page(&pointer);
        }
        for other in near.clone().filter(|other| *other != index) {
            // Who needs one that is damaged reads it again, and hears of it.
            let _damaged = self.open_page(&entry(parent, other), buffer.block_mut((other - near.start) as usize));
        }
        let page = self.open_page(&pointer, buffer.block_mut((index - near.start) as usize));
        self.pool.put(buffer);
        page
    }

    /// Forgets all pages: the next read of one is from the file.
    #[cfg(test)]
    pub fn forget_pages(&self) {
        self.cache.lock().clear();
    }

    /// What the tree says of a guest block.
    ///
    /// # Errors
    /// `Corrupt`, or the host's.
    pub fn lookup(&self, root: &Root, lba: u64) -> Result<Pointer, BlockError> {
        let mut pointer = [Pointer::NONE];
        self.lookup_run(root, lba, &mut pointer)?;
        Ok(pointer[0])
    }

    /// What the tree says of the guest blocks from `lba` on.
    ///
    /// # Errors
    /// `Corrupt`, or the host's.
    pub fn lookup_run(&self, root: &Root, lba: u64, into: &mut [Pointer]) -> Result<(), BlockError> {
        let (mut lba, mut rest) = (lba, into);
        while !rest.is_empty() {
            let first = lba % FANOUT;
            let (here, after) = rest.split_at_mut(rest.len().min((FANOUT - first) as usize));
            match self.bottom_page(root, lba)? {
                Some(page) => {
                    (first..).zip(here.iter_mut()).for_each(|(index, pointer)| *pointer = entry(&page, index))
                }
                None => here.fill(Pointer::NONE),
            }
            lba += here.len() as u64;
            rest = after;
        }
        Ok(())
    }

    /// The page that has the pointer to a guest block, if the tree has one.
    fn bottom_page(&self, root: &Root, lba: u64) -> Result<Option<Arc<Block>>, BlockError> {
        if lba >= root.capacity() || root.pointer.address.is_none() {
            return Ok(None);
        }
        let mut page = self.page(&root.pointer)?;
        for level in (1..root.levels).rev() {
            let index = digit(lba, level);
            if entry(&page, index).address.is_none() {
                return Ok(None);
            }
            page = self.page_below(&page, index)?;
        }
        Ok(Some(page))
    }

    /// The first mapped guest block in `from..until`, if any.
    ///
    /// # Errors
    /// `Corrupt`, or the host's.
    pub fn next_mapped(&self, root: &Root, from: u64, until: u64) -> Result<Option<(u64, Pointer)>, BlockError> {
        let mut lba = from;
        'search: while lba < until.min(root.capacity()) {
            let mut pointer = root.pointer;
            for level in (0..root.levels).rev() {
                if pointer.address.is_none() {
                    // Nothing below here: on to what comes after it.
                    let span = LEVEL_BITS * (u32::from(level) + 1);
                    lba = ((lba >> span) + 1) << span;
                    continue 'search;
                }
                pointer = entry(&*self.page(&pointer)?, digit(lba, level));
            }
            if !pointer.address.is_none() {
                return Ok(Some((lba, pointer)));
            }
            lba += 1;
        }
        Ok(None)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// Which pointers of a page, with that of `index` among them, are to blocks that follow each other in one segment.
fn near(page: &Block, index: u64) -> std::ops::Range<u64> {
    let middle = entry(page, index).address;
    let follows = |other: u64| {
        let address = entry(page, other).address;
        address.segment() == middle.segment() && address.bits().wrapping_sub(middle.bits()) == other.wrapping_sub(index)
    };
    let group = index - index % NEAR_PAGES;
    let from = (group..index).rev().take_while(|other| follows(*other)).last().unwrap_or(index);
    let until = (index + 1..group + NEAR_PAGES).take_while(|other| follows(*other)).last().unwrap_or(index);
    from..until + 1
}

/// Which pointer of a page on that level leads to the block; level 0 holds guest blocks.
fn digit(lba: u64, level: u8) -> u64 {
    lba >> (LEVEL_BITS * u32::from(level)) & (FANOUT - 1)
}

/// A pointer of a page.
pub fn entry(page: &Block, index: u64) -> Pointer {
    let at = index as usize * Pointer::BYTES;
    Pointer::decode(&crate::bytes::get(page, at))
}

/// Changes a pointer of a page.
pub fn set_entry(page: &mut Block, index: u64, pointer: &Pointer) {
    crate::bytes::put(page, index as usize * Pointer::BYTES, &pointer.encode());
}

/// Writes pages, and lists, one after the other into segments of their own.
pub struct PageWriter<'a> {
    store: &'a Store,
    /// The checkpoint the pages belong to.
    birth: u64,
    segment: Option<Open>,
    /// Sealed, not yet written.
    waiting: Blocks,
    /// How many of it are in use; they follow each other in the file from `first` on.
    used: usize,
    first: u64,
    /// All blocks so far.
    written: Vec<Address>,
}

/// Pages written at once: a guest waits no longer than for one such write.
const WAITING_BLOCKS: usize = 64;

/// The segment that is being filled.
#[derive(Clone, Copy)]
struct Open {
    id: u64,
    offset: u64,
    next: u64,
}

impl<'a> PageWriter<'a> {
    /// For a checkpoint.
    pub fn new(store: &'a Store, birth: u64) -> Self {
        let waiting = store.pool.take(WAITING_BLOCKS);
        Self { store, birth, segment: None, waiting, used: 0, first: 0, written: Vec::new() }
    }

    /// Makes room for `count` blocks that follow each other; says where the first goes, and where that is in the file.
    fn allocate(&mut self, count: u64) -> Result<(Address, u64), BlockError> {
        let open = match self.segment {
            Some(open) if open.next + count <= SEGMENT_BLOCKS => open,
            _ => {
                self.write_out()?;
                let mut space = self.store.space.write();
                if let Some(full) = self.segment.take() {
                    space.end(full.id);
                }
                let begun = space.begin(Kind::Pages).ok_or_else(no_place)?;
                Open { id: begun.segment, offset: crate::layout::place_offset(begun.place), next: 0 }
            }
        };
        let address = Address::new(open.id, open.next);
        self.segment = Some(Open { next: open.next + count, ..open });
        self.store.space.write().mark(address, count);
        self.written.extend((0..count).map(|index| Address::new(open.id, open.next + index)));
        Ok((address, open.offset + open.next * BLOCK_BYTES as u64))
    }

    /// Writes one page to the next free block.
    ///
    /// # Errors
    /// No place, or the host's.
    pub fn put(&mut self, page: &Block) -> Result<Pointer, BlockError> {
        let (address, offset) = self.allocate(1)?;
        if self.used == 0 {
            self.first = offset;
        }
        let key = self.store.keys.of(self.birth).ok_or_else(no_key)?;
        let block = self.waiting.block_mut(self.used);
        block.copy_from_slice(page);
        let tag = key.seal_block(address, block).ok_or_else(no_key)?;
        self.used += 1;
        self.store.cache.lock().put(address, Arc::new(*page));
        if self.used == WAITING_BLOCKS {
            self.write_out()?;
        }
        Ok(Pointer { address, birth: self.birth, tag })
    }

    fn write_out(&mut self) -> Result<(), BlockError> {
        if self.used == 0 {
            return Ok(());
        }
        let written = self.store.medium.write_at(self.first, &[self.waiting.run(0, self.used)]);
        self.used = 0;
        written.map_err(|error| BlockError::from_io(format!("writing the map at {:#x} failed", self.first), error))
    }

    /// Writes a list, which may take up to a segment; says where, and its tag.
    ///
    /// # Errors
    /// The host's.
    pub fn put_list(&mut self, mut bytes: Vec<u8>) -> Result<(Address, Tag), BlockError> {
        let (address, offset) = self.allocate(bytes.len().div_ceil(BLOCK_BYTES) as u64)?;
        self.write_out()?;
        let key = self.store.keys.of(self.birth).ok_or_else(no_key)?;
        let tag = key.seal_list(address, &mut bytes).ok_or_else(no_key)?;
        let written = self.store.medium.write_at(offset, &[&bytes]);
        written.map_err(|error| BlockError::from_io(format!("writing a list at {offset:#x} failed"), error))?;
        Ok((address, tag))
    }

    /// All blocks it has put somewhere: what to free if the checkpoint fails.
    pub fn take_written(&mut self) -> Vec<Address> {
        std::mem::take(&mut self.written)
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// The host's.
    pub fn finish(&mut self) -> Result<(), BlockError> {
        if let Some(open) = self.segment.take() {
            self.store.space.write().end(open.id);
        }
        self.write_out()
    }

    /// Gives guest blocks new pointers: `changes` are in ascending order, each block once. `replaced` hears of every
    /// pointer that the new tree no longer has: of guest blocks with their number, of pages with none.
    ///
    /// # Errors
    /// `Corrupt`, or the host's.
    pub fn update(
        &mut self,
        root: &Root,
        changes: &[(u64, Pointer)],
        replaced: &mut dyn FnMut(Option<u64>, Pointer),
    ) -> Result<Root, BlockError> {
        debug_assert!(changes.is_sorted_by(|a, b| a.0 < b.0), "in order, once each");
        if changes.is_empty() {
            return Ok(*root);
        }
        let pointer = self.update_page(root.pointer, root.levels - 1, changes, replaced)?;
        Ok(Root { pointer, levels: root.levels })
    }

    /// As deep as the tree has levels, which are at most [`LEVELS_MAX`].
    fn update_page(
        &mut self,
        old: Pointer,
        level: u8,
        changes: &[(u64, Pointer)],
        replaced: &mut dyn FnMut(Option<u64>, Pointer),
    ) -> Result<Pointer, BlockError> {
        let mut page = if old.address.is_none() { [0; BLOCK_BYTES] } else { *self.store.page(&old)? };
        let before = page;
        for run in changes.chunk_by(|a, b| digit(a.0, level) == digit(b.0, level)) {
            let index = digit(run[0].0, level);
            let there = entry(&page, index);
            let new = if level == 0 {
                if !there.address.is_none() && there.address != run[0].1.address {
                    replaced(Some(run[0].0), there);
                }
                run[0].1
            } else {
                self.update_page(there, level - 1, run, replaced)?
            };
            set_entry(&mut page, index, &new);
        }
        if page == before {
            return Ok(old);
        }
        if !old.address.is_none() {
            replaced(None, old);
        }
        if page == [0; BLOCK_BYTES] { Ok(Pointer::NONE) } else { self.put(&page) }
    }
}

/// The file is as long as it can be.
pub fn no_place() -> BlockError {
    BlockError::new(BlockErrorKind::NoSpace, "the disk file has no place left")
}

/// The cipher refused, or a birth belongs to no epoch.
pub fn no_key() -> BlockError {
    BlockError::new(BlockErrorKind::Corrupt, "no key for a block to be written")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::medium::{HostCache, HostFile};
    use crate::seal::{Cipher, Epoch};

    fn store() -> Store {
        let keys = Keyring::new(None).unwrap();
        keys.begin(Epoch { first: 0, salt: [0; 32], cipher: Cipher::Highway }).unwrap();
        Store::new(Arc::new(HostFile::new(tempfile::tempfile().unwrap(), HostCache::Reads)), keys, Space::new())
    }

    fn pointer(number: u64) -> Pointer {
        Pointer { address: Address::new(1000 + number, number % 1024), birth: number, tag: [number as u8; 16] }
    }

    #[test]
    fn an_old_root_keeps_the_old_map() {
        let store = store();
        let empty = Root::empty(1 << 20);
        assert_eq!(empty.levels, 3);
        let mut gone = Vec::new();
        let mut writer = PageWriter::new(&store, 1);
        let first: Vec<_> = [0, 1, 127, 128, 5000, (1 << 20) - 1].map(|lba| (lba, pointer(lba))).into();
        let old = writer.update(&empty, &first, &mut |lba, old| gone.push((lba, old))).unwrap();
        assert!(gone.is_empty());
        writer.finish().unwrap();
        let mut writer = PageWriter::new(&store, 2);
        let changes = [(1, pointer(9)), (5000, Pointer::NONE)];
        let new = writer.update(&old, &changes, &mut |lba, old| gone.push((lba, old))).unwrap();
        writer.finish().unwrap();
        let blocks: Vec<_> = gone.iter().filter_map(|(lba, _)| *lba).collect();
        assert_eq!(blocks, [1, 5000]);
        // Two bottom pages, the one above them, the root; the page of 5000 is gone as a whole.
        assert_eq!(gone.len(), 2 + 4);
        for (lba, pointer) in first {
            assert_eq!(store.lookup(&old, lba).unwrap(), pointer, "{lba}");
        }
        assert_eq!(store.lookup(&new, 1).unwrap(), pointer(9));
        assert_eq!(store.lookup(&new, 5000).unwrap(), Pointer::NONE);
        assert_eq!(store.next_mapped(&new, 129, 1 << 20).unwrap().unwrap().0, (1 << 20) - 1);
        assert_eq!(store.next_mapped(&old, 129, 1 << 20).unwrap().unwrap().0, 5000);
        assert_eq!(store.next_mapped(&old, 129, 5000).unwrap(), None);
    }

    #[test]
    fn a_damaged_page_is_an_error() {
        let store = store();
        let mut writer = PageWriter::new(&store, 1);
        let root = writer.update(&Root::empty(64), &[(3, pointer(3))], &mut |_, _| {}).unwrap();
        writer.finish().unwrap();
        let offset = store.locate(&root.pointer).unwrap();
        store.medium.write_at(offset, &[&[0xff]]).unwrap();
        store.forget_pages();
        assert_eq!(store.lookup(&root, 3).unwrap_err().kind(), BlockErrorKind::Corrupt);
    }

    #[test]
    fn every_size_has_its_levels() {
        for (blocks, levels) in [(1, 1), (128, 1), (129, 2), (1 << 14, 2), ((1 << 14) + 1, 3), (1 << 45, 7)] {
            let root = Root::empty(blocks);
            assert_eq!(root.levels, levels, "{blocks}");
            assert!(root.capacity() >= blocks);
        }
    }
}
