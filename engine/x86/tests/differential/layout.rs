//! What both processors are given: the same pages at the same linear addresses, the same registers; and what comes back.

use std::ops::Range;

/// Bytes of a page.
pub const PAGE: usize = 0x1000;
/// The first page's linear address: below 4 GiB, so that code of 32 bits reaches it.
pub const BASE: u64 = 0x1000_0000;

/// What user code may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is not there.
    Nothing,
    /// Everything.
    Code,
    /// Read and write.
    Data,
    /// Read.
    Fixed,
}

use Kind::{Code, Data, Fixed, Nothing};

/// The pages, so that every kind has every other as its neighbour.
pub const PAGES: [Kind; 20] = [
    Nothing, Code, Code, Code, Code, Nothing, Data, Data, Data, Data, Nothing, Fixed, Data, Nothing, Data, Fixed,
    Nothing, Data, Data, Nothing,
];
/// Bytes of all.
pub const LEN: usize = PAGES.len() * PAGE;
/// Where code is, as offsets from [`BASE`];
pub const CODE: Range<usize> = PAGE..5 * PAGE;
/// data;
pub const DATA: Range<usize> = 6 * PAGE..10 * PAGE;
/// what can only be read, with data behind it;
pub const FIXED: Range<usize> = 11 * PAGE..12 * PAGE;
/// data with what can only be read behind it;
pub const BEFORE_FIXED: Range<usize> = 14 * PAGE..15 * PAGE;
/// and the stack.
pub const STACK: Range<usize> = 17 * PAGE..19 * PAGE;
/// All of what user code can write, but its code.
pub const WRITABLE: [Range<usize>; 4] = [6 * PAGE..10 * PAGE, 12 * PAGE..13 * PAGE, 14 * PAGE..15 * PAGE, STACK];

/// The linear address of an offset.
pub const fn linear(offset: usize) -> u64 {
    BASE + offset as u64
}

/// Registers of user code: what an instruction reads and changes.
#[derive(Clone, PartialEq, Eq)]
pub struct State {
    /// In the order of their encoding.
    pub regs: [u64; 16],
    pub rip: u64,
    pub flags: u64,
    /// An FXSAVE64 area.
    pub fx: [u8; 512],
}

/// Why user code came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    pub vector: u8,
    /// The error code, 0 where there is none.
    pub error: u32,
    /// Of a page fault: the address.
    pub address: Option<u64>,
}

/// The mode that user code is in: compatibility mode, or 64-bit mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bits {
    B32,
    B64,
}

impl Bits {
    pub fn count(self) -> u32 {
        if self == Self::B32 { 32 } else { 64 }
    }

    /// The selector of its code.
    pub fn code(self) -> u16 {
        if self == Self::B32 { USER_CODE_32 } else { USER_CODE_64 }
    }

    /// General registers that there are.
    pub fn registers(self) -> usize {
        if self == Self::B32 { 8 } else { 16 }
    }
}

// As Linux has them: what an instruction says about selectors can be compared, too.
pub const USER_CODE_32: u16 = 0x23;
pub const USER_DATA: u16 = 0x2b;
pub const USER_CODE_64: u16 = 0x33;
