//! Decoded code, kept: blocks of instructions that are carried out one after the other.
//!
//! A block is known by the host's page its bytes are in, where in the page, and the mode. Before it is carried out its
//! bytes are compared with those it was made from: so it does not matter who changed them, be it this processor, another
//! one, or a device. That costs a compare or two of 8 bytes a block, and needs no word to anybody who writes.

use std::collections::HashMap;

use crate::exec::fused::fuse;
use crate::lower::{Decoded, LEN_MAX, Lowered, Mode, Part, decode};
use crate::memory::{CODE_WORDS, CodeWords, HostPage, PAGE};
use crate::op::Op;

/// Instructions of a block, at most.
const OPS_MAX: usize = 64;
/// Instructions kept in all, at most: some 48 MiB.
const KEPT_MAX: usize = 1 << 20;
/// Places of the table by linear address.
const TABLE: usize = 4096;

/// Decoded code.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    page: HostPage,
    /// Where in the page it begins.
    at: u16,
    /// Bytes of the code.
    pub len: u16,
    /// How many of them are in the next page: it is one instruction then.
    pub beyond: u16,
    mode: Mode,
    /// Its instructions, and where its bytes are kept.
    ops: (u32, u32),
    bytes: u32,
}

/// What was found for a linear address: all that the next time needs, in one or two lines of the host's cache.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Found {
    linear: u64,
    page: HostPage,
    block: u32,
    /// Its instructions.
    ops: (u32, u32),
    /// Bytes of its code; 0 if they are too many for `words`, or reach into another page.
    len: u16,
    mode: Mode,
    words: CodeWords,
}

const NOTHING: Found = Found {
    linear: 0,
    page: HostPage::NONE,
    block: u32::MAX,
    ops: (0, 0),
    len: 0,
    mode: Mode { bits: 0, single: false },
    words: [0; CODE_WORDS],
};

fn place(linear: u64) -> usize {
    (linear as usize ^ (linear >> 12) as usize) % TABLE
}

/// All blocks of a processor.
pub struct Blocks {
    blocks: Vec<Block>,
    ops: Vec<Op>,
    bytes: Vec<u8>,
    by_place: HashMap<(HostPage, u16, Mode), u32>,
    table: Box<[Found]>,
}

impl Default for Blocks {
    fn default() -> Self {
        Self {
            blocks: Vec::new(),
            ops: Vec::new(),
            bytes: Vec::new(),
            by_place: HashMap::new(),
            table: vec![NOTHING; TABLE].into_boxed_slice(),
        }
    }
}

impl Blocks {
    /// The instructions of a block.
    #[inline(always)]
    pub fn ops(&self, block: &Block) -> &[Op] {
        self.ops.get(block.ops.0 as usize..block.ops.1 as usize).unwrap_or_default()
    }

    #[inline(always)]
    fn bytes(&self, block: &Block) -> &[u8] {
        let from = block.bytes as usize;
        self.bytes.get(from..from + usize::from(block.len)).unwrap_or_default()
    }

    fn is(&self, block: &Block, page: HostPage, at: u16, mode: Mode) -> bool {
        block.page == page && block.at == at && block.mode == mode
    }

    /// Whether the block's bytes are still there.
    #[inline(always)]
    fn is_true(&self, block: &Block, beyond: Option<HostPage>) -> bool {
        let (here, there) = self.bytes(block).split_at(usize::from(block.len - block.beyond));
        block.page.holds(block.at.into(), here) && (there.is_empty() || beyond.is_some_and(|page| page.holds(0, there)))
    }

    /// The instructions of the block at an address and the bytes of their code, if it was found before and its bytes are
    /// what they were: the quick way, which not every block can go.
    #[inline(always)]
    pub fn quick(&self, linear: u64, page: HostPage, mode: Mode) -> Option<(&[Op], u16)> {
        let found = self.table.get(place(linear))?;
        let same = found.linear == linear && found.page == page && found.mode == mode;
        if !same || !page.holds_words((linear & (PAGE - 1)) as usize, &found.words, found.len) {
            return None;
        }
        let ops = self.ops.get(found.ops.0 as usize..found.ops.1 as usize)?;
        Some((ops, found.len))
    }

    /// Notes where a block was found.
    fn remember(&mut self, linear: u64, number: u32, block: &Block) {
        let mut words = [0; CODE_WORDS];
        let bytes = self.bytes(block);
        let is_short = block.beyond == 0 && bytes.len() <= size_of::<CodeWords>();
        if is_short {
            for (word, piece) in words.iter_mut().zip(bytes.chunks(8)) {
                let mut whole = [0; 8];
                whole.iter_mut().zip(piece).for_each(|(to, from)| *to = *from);
                *word = u64::from_le_bytes(whole);
            }
        }
        let len = if is_short { block.len } else { 0 };
        let Block { page, ops, mode, .. } = *block;
        if let Some(found) = self.table.get_mut(place(linear)) {
            *found = Found { linear, page, block: number, ops, len, mode, words };
        }
    }

    /// The block at an address, if it is known and its bytes are what they were. `beyond`: the page after it, which is
    /// asked for if the block reaches there.
    #[inline(always)]
    pub fn find(&mut self, linear: u64, page: HostPage, mode: Mode, beyond: Option<HostPage>) -> Option<Block> {
        let at = (linear & (PAGE - 1)) as u16;
        if let Some(found) = self.table.get(place(linear))
            && found.linear == linear
            && let Some(block) = self.blocks.get(found.block as usize)
            && self.is(block, page, at, mode)
        {
            let block = *block;
            return (block.beyond > 0 && beyond.is_none() || self.is_true(&block, beyond)).then_some(block);
        }
        let number = *self.by_place.get(&(page, at, mode))?;
        let block = *self.blocks.get(number as usize)?;
        if block.beyond > 0 && beyond.is_none() {
            return Some(block);
        }
        if !self.is_true(&block, beyond) {
            return None;
        }
        self.remember(linear, number, &block);
        Some(block)
    }

    /// Adds an instruction to the block that begins at `first`, or makes one of it and the last.
    fn push(&mut self, first: usize, before: Part, lowered: &Lowered) {
        if let (Part::Compare(compare), Part::Branch(code)) = (before, lowered.part)
            && let Some(last) = self.ops.get_mut(first..).and_then(<[Op]>::last_mut)
            && let Some(both) = fuse(last, compare, &lowered.op, code)
        {
            *last = both;
            return;
        }
        self.ops.push(lowered.op);
    }

    /// Makes the block at an address. Its first instruction may end in the page `beyond`; without that, None says that
    /// it is needed.
    pub fn make(&mut self, linear: u64, page: HostPage, mode: Mode, beyond: Option<HostPage>) -> Option<Block> {
        if self.ops.len() > KEPT_MAX {
            *self = Self::default();
        }
        let at = (linear & (PAGE - 1)) as usize;
        let mut code = [0; PAGE as usize + LEN_MAX];
        let here = (PAGE as usize - at).min(OPS_MAX * LEN_MAX);
        page.read(at, code.get_mut(..here)?);
        let first = self.ops.len();
        let mut done = 0;
        let mut across = 0;
        let mut before = Part::No;
        while self.ops.len() - first < if mode.single { 1 } else { OPS_MAX } {
            let rest = code.get(done..here).unwrap_or_default();
            let rest = rest.get(..LEN_MAX).unwrap_or(rest);
            if rest.is_empty() {
                break;
            }
            match decode(rest, done as u16, mode) {
                Decoded::One(lowered) => {
                    self.push(first, before, &lowered);
                    before = lowered.part;
                    done += usize::from(lowered.op.len);
                    if !lowered.goes_on {
                        break;
                    }
                }
                Decoded::More if done > 0 => break,
                Decoded::More => {
                    let page = beyond?;
                    page.read(0, code.get_mut(here..here + LEN_MAX)?);
                    let whole = code.get(..here + LEN_MAX)?;
                    let Decoded::One(lowered) = decode(whole.get(..LEN_MAX)?, 0, mode) else { return None };
                    self.ops.push(lowered.op);
                    done = usize::from(lowered.op.len);
                    across = done.saturating_sub(here);
                    break;
                }
            }
        }
        let block = Block {
            page,
            at: at as u16,
            len: done as u16,
            beyond: across as u16,
            mode,
            ops: (first as u32, self.ops.len() as u32),
            bytes: self.bytes.len() as u32,
        };
        self.bytes.extend_from_slice(code.get(..done)?);
        let number = self.blocks.len() as u32;
        self.blocks.push(block);
        self.by_place.insert((page, at as u16, mode), number);
        self.remember(linear, number, &block);
        Some(block)
    }
}
