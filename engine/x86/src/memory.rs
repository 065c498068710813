//! Fast memory: from a linear address to the host's bytes, by a table of translations. The one file with `unsafe`.
//!
//! An entry is for a page of linear addresses, and says which accesses need no closer look. Where the page is not plain
//! memory, or is written for the first time, or may not be touched, there is none, and the slow path (`access`) sorts it
//! out. There is a table for each way of being allowed: user, supervisor, supervisor who may touch user pages; and one
//! that stays empty, for when each access has to be looked at (alignment checks, data breakpoints).

#![expect(unsafe_code, reason = "guest memory is reached by address; SAFETY says why each is inside a mapping")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::map::Map;
use crate::op::Int;

/// Bits of a page.
pub const PAGE_BITS: u32 = 12;
/// Bytes of a page.
pub const PAGE: u64 = 1 << PAGE_BITS;
/// Entries of a table.
const ENTRIES: usize = 4096;
/// Tables.
const WAYS: usize = 4;
/// Words of code that are compared at once.
pub const CODE_WORDS: usize = 12;
/// Code, in words; where it ends within one, zeroes follow.
pub type CodeWords = [u64; CODE_WORDS];
/// No page: the stamp of an entry in use is not 0.
const NONE: u64 = 0;
/// The last stamp: what is free below a page's address.
const STAMP_MAX: u64 = PAGE - 1;

/// Who accesses: which table is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// CPL 3.
    User = 0,
    /// Supervisor who must not touch user pages (SMAP).
    Supervisor = 1,
    /// Supervisor who may.
    SupervisorAnywhere = 2,
    /// Somebody whose accesses are all looked at.
    Watched = 3,
}

/// A page of the host's that holds a page of the guest's. Whoever has one keeps the [`Map`] it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostPage(usize);

/// A translation. Pages are noted with a stamp in their lower bits: with a new one for all, no old entry counts.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Page that may be read,
    read: u64,
    /// written,
    write: u64,
    /// executed.
    execute: u64,
    host: usize,
}

const EMPTY: Entry = Entry { read: NONE, write: NONE, execute: NONE, host: 0 };

/// What an entry allows.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// Reading.
    pub read: bool,
    /// Writing.
    pub write: bool,
    /// Executing.
    pub execute: bool,
}

/// Memory as one processor sees it.
pub struct Memory {
    entries: Box<[Entry; ENTRIES * WAYS]>,
    /// What entries that count have in the lower bits of their pages.
    stamp: u64,
    /// The table in use, as the number of its first entry.
    table: usize,
    /// Host address of the page that code is being executed from: whoever writes there may change the block.
    code: usize,
    /// The guest's memory, kept as long as an entry leads there.
    pub map: Arc<Map>,
}

/// The entry for an address. Programs like to have things a power of two apart: those shall not all share one.
#[inline(always)]
fn index(linear: u64) -> usize {
    let page = linear >> PAGE_BITS;
    (page ^ page >> ENTRIES.trailing_zeros()) as usize % ENTRIES
}

/// On the heap from the start: there are too many for a stack.
fn no_entries() -> Box<[Entry; ENTRIES * WAYS]> {
    let entries: Box<[Entry]> = vec![EMPTY; ENTRIES * WAYS].into_boxed_slice();
    entries.try_into().unwrap_or_else(|_never| Box::new([EMPTY; ENTRIES * WAYS]))
}

/// Locked accesses that are not aligned: the host has no atomic ones for them.
static SPLIT: Mutex<()> = Mutex::new(());

/// A number at any address.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Loose<T>(T);

impl Memory {
    /// Of the guest memory in `map`.
    pub fn new(map: Arc<Map>) -> Self {
        Self { entries: no_entries(), stamp: 1, table: ENTRIES, code: 0, map }
    }

    /// Whose table is used.
    pub fn set_way(&mut self, way: Way) {
        self.table = way as usize * ENTRIES;
    }

    /// Whose table is used.
    pub fn way(&self) -> Way {
        match self.table / ENTRIES {
            0 => Way::User,
            1 => Way::Supervisor,
            2 => Way::SupervisorAnywhere,
            _ => Way::Watched,
        }
    }

    /// Forgets all translations.
    pub fn flush(&mut self) {
        self.stamp += 1;
        if self.stamp > STAMP_MAX {
            self.entries.fill(EMPTY);
            self.stamp = 1;
        }
    }

    /// Forgets those of one page.
    pub fn flush_page(&mut self, linear: u64) {
        let index = index(linear);
        (0..WAYS).for_each(|way| self.entries[way * ENTRIES + index] = EMPTY);
    }

    /// Takes another map: what was translated before is forgotten.
    pub fn set_map(&mut self, map: Arc<Map>) {
        self.flush();
        self.code = 0;
        self.map = map;
    }

    /// Notes a translation.
    pub fn remember(&mut self, linear: u64, host: HostPage, allowed: Allowed) {
        if self.table == Way::Watched as usize * ENTRIES {
            return;
        }
        let page = self.tag(linear);
        let entry = &mut self.entries[self.table + index(linear)];
        let same = entry.host == host.0;
        // What was allowed before and leads to the same page stays allowed.
        let tag = |is: bool, before: u64| if is || (same && before == page) { page } else { NONE };
        *entry = Entry {
            read: tag(allowed.read, entry.read),
            write: tag(allowed.write, entry.write),
            execute: tag(allowed.execute, entry.execute),
            host: host.0,
        };
    }

    #[inline(always)]
    fn entry(&self, linear: u64) -> &Entry {
        // Tables are powers of two in size, so that no bound has to be checked.
        &self.entries[(self.table + index(linear)) & (ENTRIES * WAYS - 1)]
    }

    /// What an entry that has the page of this address has.
    #[inline(always)]
    fn tag(&self, linear: u64) -> u64 {
        linear & !(PAGE - 1) | self.stamp
    }

    /// Whether an access lies within a page, and where in it.
    #[inline(always)]
    fn within<T: Int>(linear: u64) -> Option<usize> {
        let at = (linear & (PAGE - 1)) as usize;
        (at <= PAGE as usize - T::BYTES).then_some(at)
    }

    /// Reads, if nothing has to be looked at.
    #[inline(always)]
    pub fn load<T: Int>(&self, linear: u64) -> Option<u64> {
        let entry = self.entry(linear);
        if entry.read != self.tag(linear) {
            return None;
        }
        let at = Self::within::<T>(linear)?;
        // SAFETY: the entry's host page is one of `map`, which is kept; `at` and the bytes after it are within it.
        Some(unsafe { load::<T>(entry.host + at) })
    }

    /// Reads what is going to be written, if nothing has to be looked at.
    #[inline(always)]
    pub fn load_to_write<T: Int>(&self, linear: u64) -> Option<u64> {
        let entry = self.entry(linear);
        if entry.write != self.tag(linear) || entry.read != entry.write {
            return None;
        }
        let at = Self::within::<T>(linear)?;
        // SAFETY: as in `load`.
        Some(unsafe { load::<T>(entry.host + at) })
    }

    /// Writes, if nothing has to be looked at. Some(true): the page that is being executed was written.
    #[inline(always)]
    pub fn store<T: Int>(&mut self, linear: u64, value: u64) -> Option<bool> {
        let entry = self.entry(linear);
        if entry.write != self.tag(linear) {
            return None;
        }
        let at = Self::within::<T>(linear)?;
        // SAFETY: as in `load`, and the page may be written.
        unsafe { store::<T>(entry.host + at, value) };
        Some(entry.host == self.code)
    }

    /// Replaces what is there by what `change` makes of it, if nothing has to be looked at: says what was there, and
    /// whether the page that is being executed was written. Atomically, as other processors see it.
    pub fn exchange<T: Int>(&mut self, linear: u64, change: impl FnMut(u64) -> u64) -> Option<(u64, bool)> {
        let entry = self.entry(linear);
        if entry.write != self.tag(linear) || entry.read != entry.write {
            return None;
        }
        let (at, host) = (Self::within::<T>(linear)?, entry.host);
        Some((HostPage(host).exchange::<T>(at, change), host == self.code))
    }

    /// Likewise for 16 aligned bytes (CMPXCHG16B).
    pub fn exchange_16(&mut self, linear: u64, change: impl FnMut(u128) -> u128) -> Option<(u128, bool)> {
        let entry = self.entry(linear);
        if entry.write != self.tag(linear) || entry.read != entry.write || linear & 15 != 0 {
            return None;
        }
        let host = entry.host;
        Some((HostPage(host).exchange_16((linear & (PAGE - 1)) as usize, change), host == self.code))
    }

    /// The page that code at this address is in, if it may be executed without a closer look.
    #[inline(always)]
    pub fn code_page(&self, linear: u64) -> Option<HostPage> {
        let entry = self.entry(linear);
        (entry.execute == self.tag(linear)).then_some(HostPage(entry.host))
    }

    /// Code of this page is executed from now on.
    #[inline(always)]
    pub fn executes(&mut self, page: HostPage) {
        self.code = page.0;
    }

    /// Whether that is the page which code is executed from.
    pub fn is_code(&self, page: HostPage) -> bool {
        page.0 == self.code
    }

    /// Bytes that may be accessed at once from here on, within the page: for long string instructions. The host's
    /// address, and whether the page is that of the code.
    pub fn run(&self, linear: u64, write: bool) -> Option<(HostPage, usize)> {
        let entry = self.entry(linear);
        let tag = if write { entry.write } else { entry.read };
        (tag == self.tag(linear)).then_some((HostPage(entry.host), (linear & (PAGE - 1)) as usize))
    }
}

impl HostPage {
    /// None that anybody has.
    pub const NONE: Self = Self(0);

    /// The page at a host address.
    ///
    /// # Safety
    /// 4096 bytes from there on are mapped, and stay so as long as anybody has this.
    pub(crate) unsafe fn at(address: usize) -> Self {
        Self(address)
    }

    /// Reads up to the end of the page.
    pub fn read(self, at: usize, into: &mut [u8]) {
        let len = into.len().min((PAGE as usize).saturating_sub(at));
        for (index, byte) in into.iter_mut().take(len).enumerate() {
            // SAFETY: within the page.
            *byte = unsafe { load::<u8>(self.0 + at + index) } as u8;
        }
    }

    /// Writes up to the end of the page.
    pub fn write(self, at: usize, from: &[u8]) {
        let len = from.len().min((PAGE as usize).saturating_sub(at));
        for (index, byte) in from.iter().take(len).enumerate() {
            // SAFETY: within the page.
            unsafe { store::<u8>(self.0 + at + index, u64::from(*byte)) };
        }
    }

    /// Whether these bytes are there.
    #[inline(always)]
    pub fn holds(self, at: usize, bytes: &[u8]) -> bool {
        if at + bytes.len() > PAGE as usize {
            return false;
        }
        let (words, rest) = bytes.as_chunks::<8>();
        let mut from = self.0 + at;
        for word in words {
            // SAFETY: within the page, as was just seen.
            if unsafe { load::<u64>(from) } != u64::from_le_bytes(*word) {
                return false;
            }
            from += 8;
        }
        for byte in rest {
            // SAFETY: as above.
            if unsafe { load::<u8>(from) } != u64::from(*byte) {
                return false;
            }
            from += 1;
        }
        true
    }

    /// Whether the first `len` bytes of these words are there. False as well where that can not be seen at once: near the
    /// page's end, and of nothing.
    #[inline(always)]
    pub fn holds_words(self, at: usize, words: &CodeWords, len: u16) -> bool {
        if at > PAGE as usize - size_of::<CodeWords>() {
            return false;
        }
        let mut left = u32::from(len);
        for (index, word) in words.iter().enumerate() {
            // SAFETY: all words lie within the page, as was just seen.
            let differs = unsafe { load::<u64>(self.0 + at + 8 * index) } ^ word;
            if left <= 8 {
                return left > 0 && differs << (64 - 8 * left) == 0;
            }
            if differs != 0 {
                return false;
            }
            left -= 8;
        }
        false
    }

    /// Reads a number that lies within the page.
    pub fn load<T: Int>(self, at: usize) -> u64 {
        let at = at.min(PAGE as usize - T::BYTES);
        // SAFETY: within the page.
        unsafe { load::<T>(self.0 + at) }
    }

    /// Writes a number that lies within the page.
    pub fn store<T: Int>(self, at: usize, value: u64) {
        let at = at.min(PAGE as usize - T::BYTES);
        // SAFETY: within the page.
        unsafe { store::<T>(self.0 + at, value) }
    }

    /// Copies `len` bytes upwards, as byte after byte would, if both lie within their pages and the places do not
    /// overlap so that it would matter. False when nothing was done.
    pub fn copy(self, at: usize, to: Self, to_at: usize, len: usize) -> bool {
        let (from, into) = (self.0 + at, to.0 + to_at);
        if at + len > PAGE as usize || to_at + len > PAGE as usize || (from < into && into < from + len) {
            return false;
        }
        // SAFETY: both are within their pages. Another processor may write there meanwhile: what is copied then is
        // some of its bytes, as on the hardware.
        unsafe { std::ptr::copy(from as *const u8, into as *mut u8, len) };
        true
    }

    /// Fills `len` bytes, if they lie within the page. False when nothing was done.
    pub fn fill(self, at: usize, value: u8, len: usize) -> bool {
        if at + len > PAGE as usize {
            return false;
        }
        // SAFETY: within the page.
        unsafe { std::ptr::write_bytes((self.0 + at) as *mut u8, value, len) };
        true
    }

    /// Replaces what is there by what `change` makes of it, atomically. Says what was there.
    pub fn exchange<T: Int>(self, at: usize, mut change: impl FnMut(u64) -> u64) -> u64 {
        let at = at.min(PAGE as usize - T::BYTES);
        let address = self.0 + at;
        if !address.is_multiple_of(T::BYTES) {
            let _one = SPLIT.lock();
            // SAFETY: within the page.
            unsafe {
                let old = load::<T>(address);
                store::<T>(address, change(old));
                return old;
            }
        }
        // SAFETY: aligned and within the page; guest memory is never made into a reference otherwise.
        unsafe {
            match T::BYTES {
                1 => {
                    let atom = AtomicU8::from_ptr(address as *mut u8);
                    let mut next = |old: u8| Some(change(old.into()) as u8);
                    u64::from(atom.fetch_update(Ordering::SeqCst, Ordering::SeqCst, &mut next).unwrap_or_default())
                }
                2 => {
                    let atom = AtomicU16::from_ptr(address as *mut u16);
                    let mut next = |old: u16| Some(change(old.into()) as u16);
                    u64::from(atom.fetch_update(Ordering::SeqCst, Ordering::SeqCst, &mut next).unwrap_or_default())
                }
                4 => {
                    let atom = AtomicU32::from_ptr(address as *mut u32);
                    let mut next = |old: u32| Some(change(old.into()) as u32);
                    u64::from(atom.fetch_update(Ordering::SeqCst, Ordering::SeqCst, &mut next).unwrap_or_default())
                }
                _ => {
                    let atom = AtomicU64::from_ptr(address as *mut u64);
                    let mut next = |old: u64| Some(change(old));
                    atom.fetch_update(Ordering::SeqCst, Ordering::SeqCst, &mut next).unwrap_or_default()
                }
            }
        }
    }

    /// Likewise for 16 bytes. Atomic among processors that use this; one that writes 8 of the bytes may be missed.
    pub fn exchange_16(self, at: usize, mut change: impl FnMut(u128) -> u128) -> u128 {
        let at = at.min(PAGE as usize - 16);
        let _one = SPLIT.lock();
        let (low, high) = (self.load::<u64>(at), self.load::<u64>(at + 8));
        let old = u128::from(high) << 64 | u128::from(low);
        let new = change(old);
        self.store::<u64>(at, new as u64);
        self.store::<u64>(at + 8, (new >> 64) as u64);
        old
    }
}

/// Reads a number, in one go where the host can.
///
/// # Safety
/// The bytes are mapped.
#[inline(always)]
unsafe fn load<T: Int>(address: usize) -> u64 {
    // SAFETY: mapped, says the caller; `Loose` needs no alignment. Volatile: others may write meanwhile.
    unsafe {
        match T::BYTES {
            1 => u64::from((address as *const u8).read_volatile()),
            2 => u64::from(u16::from_le((address as *const Loose<u16>).read_volatile().0)),
            4 => u64::from(u32::from_le((address as *const Loose<u32>).read_volatile().0)),
            _ => u64::from_le((address as *const Loose<u64>).read_volatile().0),
        }
    }
}

/// Writes a number, in one go where the host can.
///
/// # Safety
/// The bytes are mapped and can be written.
#[inline(always)]
unsafe fn store<T: Int>(address: usize, value: u64) {
    // SAFETY: mapped, says the caller; `Loose` needs no alignment.
    unsafe {
        match T::BYTES {
            1 => (address as *mut u8).write_volatile(value as u8),
            2 => (address as *mut Loose<u16>).write_volatile(Loose((value as u16).to_le())),
            4 => (address as *mut Loose<u32>).write_volatile(Loose((value as u32).to_le())),
            _ => (address as *mut Loose<u64>).write_volatile(Loose(value.to_le())),
        }
    }
}
