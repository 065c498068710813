//! Paging: from linear to guest-physical addresses (Intel SDM volume 3, chapter 4).

use crate::cpu::{Cause, Cpu, Exception, Trap, cr0, cr4, efer, vector};
use crate::flags;
use crate::memory::{PAGE, Way};

/// What is done at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store, or a load that a store follows.
    Write,
    /// An instruction is fetched.
    Execute,
}

/// Who does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The instruction, at the current privilege level.
    Current,
    /// The processor itself: tables, and what interrupts push for an inner level. A supervisor access at any level.
    Processor,
}

/// A translation.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    /// The guest-physical address.
    pub gpa: u64,
    /// The page may be written without another walk.
    pub writable: bool,
}

const P: u64 = 1;
const RW: u64 = 1 << 1;
const US: u64 = 1 << 2;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const NX: u64 = 1 << 63;
/// Bits of a physical address that this processor has.
pub const PHYSICAL_BITS: u32 = 40;
const ADDRESS: u64 = ((1 << PHYSICAL_BITS) - 1) & !(PAGE - 1);
/// Those of an entry of 8 bytes that must be 0.
const RESERVED: u64 = ((1 << 52) - 1) & !((1 << PHYSICAL_BITS) - 1);

/// Error code of a page fault.
const ERROR_P: u32 = 1;
const ERROR_W: u32 = 2;
const ERROR_U: u32 = 4;
const ERROR_RSVD: u32 = 8;
const ERROR_I: u32 = 16;

impl Cpu {
    /// Sets whose table of translations is used: to be called by [`renew`](Self::renew).
    pub fn renew_memory(&mut self) {
        let watched = self.watches();
        let way = match (watched, self.cpl == 3) {
            (true, _) => Way::Watched,
            (_, true) => Way::User,
            _ if self.cr4 & cr4::SMAP != 0 && self.flags.rest & flags::AC == 0 => Way::Supervisor,
            _ => Way::SupervisorAnywhere,
        };
        self.memory.set_way(way);
    }

    /// Whether each access has to be looked at: alignment checks, and data breakpoints.
    fn watches(&self) -> bool {
        let aligned = self.cr0 & cr0::AM != 0 && self.flags.rest & flags::AC != 0 && self.cpl == 3;
        aligned || self.watches_data()
    }

    /// Whether a breakpoint on data or ports is set (Intel SDM volume 3, 17.2.4).
    pub fn watches_data(&self) -> bool {
        (0..4).any(|number| self.dr[7] >> (number * 2) & 3 != 0 && self.dr[7] >> (16 + number * 4) & 3 != 0)
    }

    /// Translates an address.
    ///
    /// # Errors
    /// A page fault.
    pub fn translate(&mut self, linear: u64, access: Access, who: Who) -> Result<Translation, Trap> {
        if self.cr0 & cr0::PG == 0 {
            return Ok(Translation { gpa: linear & 0xffff_ffff, writable: true });
        }
        let user = self.cpl == 3 && who == Who::Current;
        match self.walk(linear, access, user, who) {
            Ok(translation) => Ok(translation),
            Err(present) => {
                let mut error = present;
                if access == Access::Write {
                    error |= ERROR_W;
                }
                if user {
                    error |= ERROR_U;
                }
                let executes = self.cr4 & cr4::SMEP != 0 || (self.efer & efer::NXE != 0 && self.cr4 & cr4::PAE != 0);
                if access == Access::Execute && executes {
                    error |= ERROR_I;
                }
                self.trap = Cause::Exception(Exception { vector: vector::PF, error: Some(error), address: linear });
                Err(Trap)
            }
        }
    }

    /// Walks the tables. An error is the bits P and RSVD of the error code.
    fn walk(&mut self, linear: u64, access: Access, user: bool, who: Who) -> Result<Translation, u32> {
        let pae = self.cr4 & cr4::PAE != 0;
        let long = self.is_long();
        let nxe = self.efer & efer::NXE != 0;
        let levels: u32 = match (long, pae) {
            (true, _) if self.cr4 & cr4::LA57 != 0 => 5,
            (true, _) => 4,
            (false, true) => 3,
            (false, false) => 2,
        };
        let (index_bits, entry_bytes) = if pae { (9, 8u64) } else { (10, 4) };
        let mut table = match levels {
            2 => self.cr3 & 0xffff_f000,
            3 => self.cr3 & 0xffff_ffe0,
            _ => self.cr3 & ADDRESS,
        };
        let mut rights = RW | US;
        let mut nx = false;
        let mut level = levels;
        loop {
            level -= 1;
            let shift = 12 + index_bits * level;
            let at = table + (linear >> shift & ((1 << index_bits) - 1)) * entry_bytes;
            let entry = self.table_entry(at, entry_bytes).ok_or(0u32)?;
            if entry & P == 0 {
                return Err(0);
            }
            let directory_pointer = levels == 3 && level == 2;
            let large = entry & PS != 0
                && match level {
                    0 => false,
                    1 => pae || self.cr4 & cr4::PSE != 0,
                    2 => long,
                    _ => false,
                };
            let mut reserved = 0;
            if pae {
                reserved |= RESERVED;
                if !nxe {
                    reserved |= NX;
                }
                if directory_pointer {
                    // CR3's four entries (volume 3, 4.4.1).
                    reserved |= RW | US | 0x1e0 | NX;
                }
                if level >= 3 || (level == 2 && !long && !directory_pointer) {
                    reserved |= PS;
                }
                if large {
                    reserved |= ((1u64 << shift) - 1) & !0x1fff;
                }
            } else if large {
                // 40-bit physical addresses by PSE-36; the other bits up to 21 must be 0.
                reserved |= 1 << 21;
            }
            if entry & reserved != 0 {
                return Err(ERROR_P | ERROR_RSVD);
            }
            if !directory_pointer {
                rights &= entry;
                nx |= pae && nxe && entry & NX != 0;
            }
            if level > 0 && !large {
                if !directory_pointer && entry & A == 0 {
                    self.set_bits(at, entry_bytes, A);
                }
                table = if pae { entry & ADDRESS } else { entry & 0xffff_f000 };
                continue;
            }
            if !self.is_allowed(access, user, who, rights, nx) {
                return Err(ERROR_P);
            }
            let needed = if access == Access::Write { A | D } else { A };
            if entry & needed != needed {
                self.set_bits(at, entry_bytes, needed);
            }
            let offset = (1u64 << shift) - 1;
            let base = match (pae, large) {
                (true, _) => entry & ADDRESS & !offset,
                (false, true) => entry & 0xffc0_0000 | (entry & 0x1f_e000) << 19,
                (false, false) => entry & 0xffff_f000,
            };
            let dirty = access == Access::Write || entry & D != 0;
            let writable = dirty && self.is_allowed(Access::Write, user, who, rights, nx);
            return Ok(Translation { gpa: base | linear & offset, writable });
        }
    }

    /// Whether the rights of a page allow it (volume 3, 4.6).
    fn is_allowed(&self, access: Access, user: bool, who: Who, rights: u64, nx: bool) -> bool {
        let user_page = rights & US != 0;
        let writes = access == Access::Write;
        if user {
            return user_page && (!writes || rights & RW != 0) && !(access == Access::Execute && nx);
        }
        match access {
            Access::Execute => !(nx || (user_page && self.cr4 & cr4::SMEP != 0)),
            Access::Read | Access::Write => {
                let kept_off = user_page
                    && self.cr4 & cr4::SMAP != 0
                    && (self.flags.rest & flags::AC == 0 || (who == Who::Processor && self.cpl == 3));
                !kept_off && (!writes || rights & RW != 0 || self.cr0 & cr0::WP == 0)
            }
        }
    }

    fn table_entry(&self, gpa: u64, bytes: u64) -> Option<u64> {
        let page = self.memory.map.page(gpa, false)?.host;
        let at = (gpa & (PAGE - 1)) as usize;
        Some(if bytes == 8 { page.load::<u64>(at) } else { page.load::<u32>(at) })
    }

    fn set_bits(&self, gpa: u64, bytes: u64, bits: u64) {
        let Some(page) = self.memory.map.page(gpa, true).filter(|page| page.writable) else { return };
        let at = (gpa & (PAGE - 1)) as usize;
        if bytes == 8 {
            page.host.exchange::<u64>(at, |entry| entry | bits);
        } else {
            page.host.exchange::<u32>(at, |entry| entry | bits);
        }
    }

    /// Whether an address is canonical: the bits above those that paging uses are all alike.
    pub fn is_canonical(&self, linear: u64) -> bool {
        let bits = if self.cr4 & cr4::LA57 != 0 { 57 } else { 48 };
        let shift = 64 - bits;
        ((linear << shift) as i64 >> shift) as u64 == linear
    }
}
