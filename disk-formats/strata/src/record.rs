//! A record of the log: what changed, in one block beside the data it speaks of.
//!
//! Record and data are written together, in any order the host likes: a record counts only if it and all its data are
//! whole. Each holds the tag of the one before, so the log is one chain from the head to its end.

use crate::bytes::{get, get_u16, get_u32, get_u64, put};
use crate::layout::{BLOCK_BYTES, Block, Tag};

/// Data blocks of one record, at most.
pub const DATA_MAX: usize = 160;
/// Bytes of a record before its sealed part: the tag.
pub const SEALED_AT: usize = 16;
/// Bytes of a snapshot's name, at most.
pub const NAME_BYTES_MAX: usize = 120;

const OPS_AT: usize = SEALED_AT + 64;
const COMMIT: u16 = 1;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A guest block has new content: the next data block of this record.
    Write {
        /// Which.
        lba: u64,
        /// Of the data block.
        tag: Tag,
    },
    /// Guest blocks read as zeroes.
    Zero {
        /// The first.
        lba: u64,
        /// How many.
        count: u64,
    },
    /// A restore point gets a name.
    Name {
        /// Its record.
        point: u64,
        /// The name.
        name: String,
    },
    /// A restore point is no longer wanted.
    Drop {
        /// Its record.
        point: u64,
    },
    /// The guest's disk has another size from here on; what lies behind the end is gone.
    Resize {
        /// In bytes.
        size_bytes: u64,
    },
}

impl Op {
    /// Bytes it takes in a record.
    pub fn len(&self) -> usize {
        match self {
            Self::Write { .. } => 25,
            Self::Zero { .. } => 17,
            Self::Name { name, .. } => 10 + name.len(),
            Self::Drop { .. } | Self::Resize { .. } => 9,
        }
    }
}

/// Bytes all operations of a record may take.
pub const OPS_BYTES_MAX: usize = BLOCK_BYTES - OPS_AT;

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number: one more than the one before.
    pub seq: u64,
    /// Tag of the one before.
    pub previous: Tag,
    /// When it was closed, in milliseconds since 1970.
    pub time_ms: u64,
    /// The segment the log goes on in when this one is full.
    pub next_segment: u64,
    /// Where that lies.
    pub next_place: u32,
    /// A flush ends here: a state that can be returned to.
    pub commit: bool,
    /// The changes, in order.
    pub ops: Vec<Op>,
}

impl Record {
    /// Data blocks that follow it.
    pub fn data_count(&self) -> usize {
        self.ops.iter().filter(|op| matches!(op, Op::Write { .. })).count()
    }

    /// Writes it into a block, not yet sealed: the first [`SEALED_AT`] bytes are for the tag.
    pub fn encode(&self, bytes: &mut [u8]) {
        bytes.fill(0);
        let at = SEALED_AT;
        put(bytes, at, &self.seq.to_le_bytes());
        put(bytes, at + 8, &self.previous);
        put(bytes, at + 24, &self.time_ms.to_le_bytes());
        put(bytes, at + 32, &self.next_segment.to_le_bytes());
        put(bytes, at + 40, &self.next_place.to_le_bytes());
        put(bytes, at + 44, &(if self.commit { COMMIT } else { 0 }).to_le_bytes());
        put(bytes, at + 46, &(self.data_count() as u16).to_le_bytes());
        let mut at = OPS_AT;
        for op in &self.ops {
            match op {
                Op::Write { lba, tag } => {
                    put(bytes, at, &[1]);
                    put(bytes, at + 1, &lba.to_le_bytes());
                    put(bytes, at + 9, tag);
                }
                Op::Zero { lba, count } => {
                    put(bytes, at, &[2]);
                    put(bytes, at + 1, &lba.to_le_bytes());
                    put(bytes, at + 9, &count.to_le_bytes());
                }
                Op::Name { point, name } => {
                    put(bytes, at, &[3]);
                    put(bytes, at + 1, &point.to_le_bytes());
                    put(bytes, at + 9, &[name.len() as u8]);
                    put(bytes, at + 10, name.as_bytes());
                }
                Op::Drop { point } => {
                    put(bytes, at, &[4]);
                    put(bytes, at + 1, &point.to_le_bytes());
                }
                Op::Resize { size_bytes } => {
                    put(bytes, at, &[5]);
                    put(bytes, at + 1, &size_bytes.to_le_bytes());
                }
            }
            at += op.len();
        }
    }

    /// Reads an opened block. `None` when it is none.
    pub fn decode(block: &Block) -> Option<Self> {
        let bytes = &block[..];
        let at = SEALED_AT;
        let mut ops = Vec::new();
        let mut position = OPS_AT;
        while position < BLOCK_BYTES && bytes[position] != 0 {
            let number = get_u64(bytes, position + 1);
            let op = match bytes[position] {
                1 => Op::Write { lba: number, tag: get(bytes, position + 9) },
                2 => Op::Zero { lba: number, count: get_u64(bytes, position + 9) },
                3 => {
                    let len = usize::from(*bytes.get(position + 9)?);
                    let name = bytes.get(position + 10..(position + 10).checked_add(len)?)?;
                    Op::Name { point: number, name: std::str::from_utf8(name).ok()?.to_owned() }
                }
                4 => Op::Drop { point: number },
                5 => Op::Resize { size_bytes: number },
                _ => return None,
            };
            position += op.len();
            if position > BLOCK_BYTES {
                return None;
            }
            ops.push(op);
        }
        let record = Self {
            seq: get_u64(bytes, at),
            previous: get(bytes, at + 8),
            time_ms: get_u64(bytes, at + 24),
            next_segment: get_u64(bytes, at + 32),
            next_place: get_u32(bytes, at + 40),
            commit: get_u16(bytes, at + 44) & COMMIT != 0,
            ops,
        };
        let data = record.data_count();
        (data <= DATA_MAX && data == usize::from(get_u16(bytes, at + 46))).then_some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::new_block;

    #[test]
    fn records_survive_their_bytes() {
        let mut ops: Vec<_> = (0..150).map(|lba| Op::Write { lba, tag: [lba as u8; 16] }).collect();
        ops.push(Op::Zero { lba: 7, count: 9 });
        ops.push(Op::Name { point: 3, name: "before the upgrade".to_owned() });
        ops.push(Op::Drop { point: 2 });
        ops.push(Op::Resize { size_bytes: 1 << 40 });
        assert!(ops.iter().map(Op::len).sum::<usize>() <= OPS_BYTES_MAX);
        let record =
            Record { seq: 5, previous: [1; 16], time_ms: 2, next_segment: 3, next_place: 4, commit: true, ops };
        let mut block = new_block();
        record.encode(&mut block[..]);
        assert_eq!(Record::decode(&block), Some(record));
    }

    #[test]
    fn a_full_record_has_room_for_its_data() {
        let ops: Vec<_> = (0..DATA_MAX as u64).map(|lba| Op::Write { lba, tag: [0; 16] }).collect();
        assert!(ops.iter().map(Op::len).sum::<usize>() <= OPS_BYTES_MAX);
    }

    #[test]
    fn nonsense_is_no_record() {
        let mut block = new_block();
        block[OPS_AT] = 9;
        assert_eq!(Record::decode(&block), None);
        block.fill(3);
        assert_eq!(Record::decode(&block), None);
        block.fill(1);
        assert_eq!(Record::decode(&block), None);
    }
}
