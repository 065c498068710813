//! Memory for keys: locked, so that it is not swapped out; kept out of core dumps; wiped when a key is dropped.
//!
//! A pool maps chunks of 64 cells of 1 KiB. A [`Secret`] is one value in one cell. What a cipher's library leaves on
//! the stack while it makes a key schedule is overwritten as far as it can be reached from here; registers are not.
//!
//! Where the host does not lock so much memory the pool says so once and goes on; elsewhere than on Linux it can not
//! ask to be kept out of core dumps.
#![expect(unsafe_code, reason = "locked mappings, and values that are placed in them and wiped")]
// UNSAFETY: a chunk is one anonymous mapping that lives as long as its pool, which every secret in it keeps alive. Each
// cell belongs to at most one secret: the bit that says so changes under the pool's lock. A cell is larger and more
// strictly aligned than any type placed in it, which is checked when the program is compiled.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use parking_lot::Mutex;

const CELL_BYTES: usize = 1024;
const CELLS: usize = 64;
const CHUNK_BYTES: usize = CELL_BYTES * CELLS;

/// A mapping of [`CHUNK_BYTES`], and which of its cells are in use.
#[derive(Debug)]
struct Chunk {
    at: NonNull<u8>,
    used: u64,
}

// SAFETY: the mapping belongs to the pool and to no thread.
unsafe impl Send for Chunk {}

impl Chunk {
    #[cfg(unix)]
    fn map() -> Option<(Self, bool)> {
        use rustix::mm::{MapFlags, ProtFlags, mlock, mmap_anonymous};
        let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping, wherever the kernel likes.
        let at = unsafe { mmap_anonymous(std::ptr::null_mut(), CHUNK_BYTES, access, kind) }.ok()?;
        // SAFETY: the mapping just made, of this length; locking changes nothing in it.
        let locked = unsafe { mlock(at, CHUNK_BYTES) }.is_ok();
        #[cfg(target_os = "linux")]
        // SAFETY: the same; this advice changes nothing in it.
        let hidden = unsafe { rustix::mm::madvise(at, CHUNK_BYTES, rustix::mm::Advice::LinuxDontDump) }.is_ok();
        #[cfg(not(target_os = "linux"))]
        let hidden = false;
        Some((Self { at: NonNull::new(at.cast())?, used: 0 }, locked && hidden))
    }

    #[cfg(not(unix))]
    fn map() -> Option<(Self, bool)> {
        // SAFETY: the layout has a size.
        let at = unsafe { std::alloc::alloc_zeroed(Self::layout()) };
        Some((Self { at: NonNull::new(at)?, used: 0 }, false))
    }

    #[cfg(not(unix))]
    fn layout() -> std::alloc::Layout {
        std::alloc::Layout::new::<Cells>()
    }

    fn cell(&self, index: usize) -> NonNull<u8> {
        debug_assert!(index < CELLS, "{index}");
        // SAFETY: `index` is below CELLS, so the offset lies in the mapping.
        unsafe { self.at.add(index % CELLS * CELL_BYTES) }
    }
}

/// What a chunk is aligned as where there is no mapping.
#[cfg(not(unix))]
#[repr(align(4096))]
struct Cells(#[expect(dead_code, reason = "only its layout is used")] [u8; CHUNK_BYTES]);

impl Drop for Chunk {
    fn drop(&mut self) {
        wipe(self.at, CHUNK_BYTES);
        #[cfg(unix)]
        // SAFETY: the mapping `map` made; nothing points into it any more, for secrets keep their pool alive.
        let unmapped = unsafe { rustix::mm::munmap(self.at.as_ptr().cast(), CHUNK_BYTES) };
        #[cfg(unix)]
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
        #[cfg(not(unix))]
        // SAFETY: what `map` allocated with this layout.
        unsafe {
            std::alloc::dealloc(self.at.as_ptr(), Self::layout());
        }
    }
}

/// Overwrites memory in a way no compiler leaves out.
fn wipe(at: NonNull<u8>, len: usize) {
    for index in (0..len).step_by(8) {
        // SAFETY: callers own `len` bytes at `at`, a multiple of 8 and aligned to 8.
        unsafe { at.add(index).cast::<u64>().write_volatile(0) };
    }
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
}

/// Overwrites the stack below the caller, where what it called left things.
#[inline(never)]
fn wipe_stack() {
    let mut below = std::mem::MaybeUninit::<[u64; 1024]>::uninit();
    if let Some(at) = NonNull::new(below.as_mut_ptr().cast()) {
        wipe(at, size_of_val(&below));
    }
}

/// Where secrets are kept.
#[derive(Clone, Debug, Default)]
pub struct SecretPool(Arc<Mutex<Chunks>>);

#[derive(Debug, Default)]
struct Chunks {
    all: Vec<Chunk>,
    /// It was said that the host does not protect them.
    warned: bool,
}

impl SecretPool {
    /// Keeps what `make` gives; nothing when it gives nothing or the host has no memory.
    pub fn keep<T>(&self, make: impl FnOnce() -> Option<T>) -> Option<Secret<T>> {
        const { assert!(size_of::<T>() <= CELL_BYTES && align_of::<T>() <= CELL_BYTES, "a secret fits its cell") };
        let cell = self.take()?;
        let kept = place(cell.at, make);
        // Where the value came through.
        wipe_stack();
        if kept {
            Some(Secret { cell, pool: self.clone(), value: PhantomData })
        } else {
            self.give_back(cell);
            None
        }
    }

    fn take(&self) -> Option<Cell> {
        let Chunks { all: chunks, warned } = &mut *self.0.lock();
        if chunks.iter().all(|chunk| chunk.used == u64::MAX) {
            let (chunk, protected) = Chunk::map()?;
            if !protected && !std::mem::replace(warned, true) {
                tracing::warn!(
                    "keys of a disk are in memory that may be swapped out or dumped: raise the locked memory limit"
                );
            }
            chunks.push(chunk);
        }
        let (number, chunk) = chunks.iter_mut().enumerate().find(|(_, chunk)| chunk.used != u64::MAX)?;
        let index = chunk.used.trailing_ones() as usize;
        chunk.used |= 1 << index;
        Some(Cell { chunk: number, index, at: chunk.cell(index) })
    }

    fn give_back(&self, cell: Cell) {
        wipe(cell.at, CELL_BYTES);
        if let Some(chunk) = self.0.lock().all.get_mut(cell.chunk) {
            chunk.used &= !(1 << cell.index);
        }
    }

    /// All bytes of all chunks: for tests of what is left.
    #[cfg(test)]
    fn bytes(&self) -> Vec<u8> {
        let Chunks { all: chunks, .. } = &*self.0.lock();
        // SAFETY: the mapping is CHUNK_BYTES long, and the tests that ask keep no secret changing meanwhile.
        chunks
            .iter()
            .flat_map(|chunk| unsafe { std::slice::from_raw_parts(chunk.at.as_ptr(), CHUNK_BYTES) })
            .copied()
            .collect()
    }
}

/// In a frame of its own, so that it lies where [`wipe_stack`] wipes afterwards.
#[inline(never)]
fn place<T>(at: NonNull<u8>, make: impl FnOnce() -> Option<T>) -> bool {
    let Some(value) = make() else { return false };
    // SAFETY: the cell is the caller's alone, and large and aligned enough for a T, which `keep` checked.
    unsafe { at.cast::<T>().write(value) };
    true
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    chunk: usize,
    index: usize,
    at: NonNull<u8>,
}

/// A value in a pool, wiped when it is dropped.
pub struct Secret<T> {
    cell: Cell,
    pool: SecretPool,
    value: PhantomData<T>,
}

// SAFETY: a secret owns its value as a box would; the pool is behind a lock.
unsafe impl<T: Send> Send for Secret<T> {}
// SAFETY: the same.
unsafe impl<T: Sync> Sync for Secret<T> {}

impl<T> std::ops::Deref for Secret<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `keep` put a T there, nobody else has the cell, and the pool outlives the secret.
        unsafe { self.cell.at.cast::<T>().as_ref() }
    }
}

impl<T> Drop for Secret<T> {
    fn drop(&mut self) {
        // SAFETY: there is a T, which is not used again.
        unsafe { self.cell.at.cast::<T>().drop_in_place() };
        self.pool.give_back(self.cell);
    }
}

impl<T> std::fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_what_was_dropped() {
        let pool = SecretPool::default();
        let first = pool.keep(|| Some([0xa5u8; 600])).unwrap();
        let second = pool.keep(|| Some([0x5au8; 32])).unwrap();
        assert_eq!((first[599], second[31]), (0xa5, 0x5a));
        let count = |byte| pool.bytes().into_iter().filter(|found| *found == byte).count();
        assert_eq!((count(0xa5), count(0x5a)), (600, 32));
        drop(first);
        assert_eq!((count(0xa5), count(0x5a)), (0, 32));
        let third = pool.keep(|| Some([0xa5u8; 600])).unwrap();
        assert_eq!(third.cell.index, 0, "its cell is used again");
        drop((second, third));
        assert!(pool.bytes().iter().all(|byte| *byte == 0));
        assert!(pool.keep(|| None::<[u8; 8]>).is_none());
    }

    #[test]
    fn there_is_room_for_many() {
        let pool = SecretPool::default();
        let secrets: Vec<_> = (0..1000u64).map(|number| pool.keep(|| Some([number; 4])).unwrap()).collect();
        assert!(secrets.iter().zip(0..).all(|(secret, number)| **secret == [number; 4]));
        drop(secrets);
        assert!(pool.bytes().iter().all(|byte| *byte == 0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn it_is_kept_out_of_core_dumps() {
        let pool = SecretPool::default();
        let secret = pool.keep(|| Some([7u8; 32])).unwrap();
        let at = secret.cell.at.as_ptr().addr();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            if let Some((from, until)) = line.split(' ').next().and_then(|range| range.split_once('-')) {
                let number = |text| usize::from_str_radix(text, 16).unwrap_or(0);
                inside = (number(from)..number(until)).contains(&at);
            }
            if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
                assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
                return;
            }
        }
        panic!("the mapping is not listed");
    }
}
