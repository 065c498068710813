//! Where things are in the file, and how a block is named. docs/format.md holds the byte maps.

use serde::{Deserialize, Serialize};

/// The unit of everything: guest blocks, records, pages.
pub const BLOCK_BYTES: usize = 4096;
/// Blocks in a segment.
pub const SEGMENT_BLOCKS: u64 = 1024;
/// Bytes of a segment, and of the place in the file that holds one.
pub const SEGMENT_BYTES: u64 = SEGMENT_BLOCKS * BLOCK_BYTES as u64;
/// The two superblocks.
pub const SUPERBLOCKS: [u64; 2] = [0, 64 << 10];
/// The two areas for heads.
pub const HEADS: [u64; 2] = [1 << 20, 65 << 20];
/// The most a head may hold, in bytes.
pub const HEAD_BYTES_MAX: usize = 64 << 20;
/// Where the first place begins.
pub const PLACES: u64 = 132 << 20;
/// The largest disk: 2^48 sectors of 512 bytes, what an ATA disk can be.
pub const SIZE_BYTES_MAX: u64 = 1 << 57;

const SLOT_BITS: u32 = 10;
/// The largest number that fits an address of seven bytes. No segment has it: see [`Pointer::LOST`].
pub const SEGMENT_MAX: u64 = (1 << 46) - 1;

/// One block: the number of its segment, which is never used twice, and its slot in it. Where the segment lies in the
/// file may change; the address does not. 0 is no block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address(u64);

impl Address {
    /// No block: the guest's block reads as zeroes.
    pub const NONE: Self = Self(0);

    /// `slot` of `segment`, which counts from 1.
    pub fn new(segment: u64, slot: u64) -> Self {
        debug_assert!((1..=SEGMENT_MAX).contains(&segment) && slot < SEGMENT_BLOCKS, "{segment}, {slot}");
        Self(segment << SLOT_BITS | slot)
    }

    /// Its segment.
    pub fn segment(self) -> u64 {
        self.0 >> SLOT_BITS
    }

    /// Its slot in the segment.
    pub fn slot(self) -> u64 {
        self.0 & (SEGMENT_BLOCKS - 1)
    }

    /// Whether it is [`NONE`](Self::NONE).
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// From a number that may be anything: what it names must be looked for with care.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// As a number, for nonces and checksums.
    pub fn bits(self) -> u64 {
        self.0
    }
}

/// Where a place begins in the file.
pub fn place_offset(place: u32) -> u64 {
    PLACES + u64::from(place) * SEGMENT_BYTES
}

/// How far behind the beginning of its place an offset in the file is.
pub fn within_place(offset: u64) -> u64 {
    offset.saturating_sub(PLACES) % SEGMENT_BYTES
}

/// What authenticates one block.
pub type Tag = [u8; 16];

/// Names a block, says since which record it is what it is, and authenticates its content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// Where it is.
    pub address: Address,
    /// Number of the record (for pages: the checkpoint) that wrote it.
    pub birth: u64,
    /// Of its ciphertext, or its checksum.
    pub tag: Tag,
}

impl Pointer {
    /// Bytes of one in a page.
    pub const BYTES: usize = 31;
    /// To a block that could not be read and was given up: reading it is an error. Its segment has the one number that
    /// no segment ever gets. Instead of a page it stands for one full of itself.
    pub const LOST: Self = Self { address: Address(SEGMENT_MAX << SLOT_BITS), birth: 0, tag: [0; 16] };

    /// Whether the block was given up.
    pub fn is_lost(&self) -> bool {
        self.address == Self::LOST.address
    }

    /// To no block.
    pub const NONE: Self = Self { address: Address::NONE, birth: 0, tag: [0; 16] };

    /// As stored: the address in seven bytes, the birth in eight, the tag.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..7].copy_from_slice(&self.address.0.to_le_bytes()[..7]);
        bytes[7..15].copy_from_slice(&self.birth.to_le_bytes());
        bytes[15..].copy_from_slice(&self.tag);
        bytes
    }

    /// Reads one; anything is a pointer, and what it names must be looked for with care.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        let (mut address, mut birth, mut tag) = ([0; 8], [0; 8], [0; 16]);
        address[..7].copy_from_slice(&bytes[..7]);
        birth.copy_from_slice(&bytes[7..15]);
        tag.copy_from_slice(&bytes[15..]);
        Self { address: Address(u64::from_le_bytes(address)), birth: u64::from_le_bytes(birth), tag }
    }
}

/// One block's bytes.
pub type Block = [u8; BLOCK_BYTES];

/// A zeroed block on the heap.
pub fn new_block() -> Box<Block> {
    Box::new([0; BLOCK_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_survive_their_bytes() {
        let pointer = Pointer { address: Address::new(SEGMENT_MAX, 1023), birth: u64::MAX, tag: [7; 16] };
        assert_eq!(Pointer::decode(&pointer.encode()), pointer);
        assert_eq!((pointer.address.segment(), pointer.address.slot()), (SEGMENT_MAX, 1023));
        assert_eq!(Pointer::decode(&[0; 31]), Pointer::NONE);
    }
}
