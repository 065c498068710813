//! The superblock: what can be read without a key, and where the newest head is. It is written in turn to two places,
//! so that one of them is always whole.

use crate::bytes::{get, get_u32, get_u64, put};
use crate::layout::{BLOCK_BYTES, Block, HEAD_BYTES_MAX, HEADS, SIZE_BYTES_MAX, SUPERBLOCKS, Tag};
use crate::medium::Medium;
use crate::seal::{Cipher, Key, Salt};
use crate::slots::{self, SLOT_BYTES, Slot, Slots};

/// What a Strata file begins with.
pub const MAGIC: [u8; 8] = *b"STRATA\x1a\n";
/// The version of the format that new disks have. Older ones keep theirs.
pub const VERSION: u32 = 2;

const SLOTS_AT: usize = 256;
const MAC_AT: usize = BLOCK_BYTES - 64;
const CHECKSUM_AT: usize = BLOCK_BYTES - 32;

/// All of it. Byte map: docs/format.md.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Of the format: says which ciphers there may be.
    pub version: u32,
    /// Of the disk, for ever.
    pub uuid: [u8; 16],
    /// Counts superblocks written; the larger of two is the newer.
    pub generation: u64,
    /// Size of the guest's disk.
    pub size_bytes: u64,
    /// How the head is protected, and what is written now.
    pub cipher: Cipher,
    /// Which of the two areas holds the head.
    pub head_area: u8,
    /// Its length in bytes.
    pub head_len: u32,
    /// Number it was sealed under.
    pub head_generation: u64,
    /// What authenticates it.
    pub head_tag: Tag,
    /// Salt of the epoch it was sealed in.
    pub head_salt: Salt,
    /// Passwords and recovery keys.
    pub slots: Slots,
}

/// Why a superblock can not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is not one, or damaged.
    NotOne,
    /// Of a version this program does not know.
    Version(u32),
}

impl Superblock {
    /// As stored.
    pub fn encode(&self, key: &Key) -> Box<Block> {
        let mut bytes = crate::layout::new_block();
        let block = &mut bytes[..];
        put(block, 0, &MAGIC);
        put(block, 8, &self.version.to_le_bytes());
        put(block, 12, &[self.cipher.code(), self.head_area]);
        put(block, 16, &self.uuid);
        put(block, 32, &self.generation.to_le_bytes());
        put(block, 40, &self.size_bytes.to_le_bytes());
        put(block, 48, &self.head_generation.to_le_bytes());
        put(block, 56, &self.head_len.to_le_bytes());
        put(block, 64, &self.head_tag);
        put(block, 80, &self.head_salt);
        for (index, slot) in self.slots.iter().enumerate() {
            put(block, SLOTS_AT + index * SLOT_BYTES, &Slot::encode(slot.as_ref()));
        }
        let mac = blake3::keyed_hash(key, &bytes[..MAC_AT]);
        put(&mut bytes[..], MAC_AT, mac.as_bytes());
        let checksum = blake3::hash(&bytes[..CHECKSUM_AT]);
        put(&mut bytes[..], CHECKSUM_AT, checksum.as_bytes());
        bytes
    }

    /// Reads one. Whether it is authentic is [`is_authentic`]'s question: the key may lie in it.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn decode(block: &Block) -> Result<Self, Refused> {
        let block = &block[..];
        if get(block, 0) != MAGIC {
            return Err(Refused::NotOne);
        }
        let version = get_u32(block, 8);
        if !(1..=VERSION).contains(&version) {
            return Err(Refused::Version(version));
        }
        if get::<32>(block, CHECKSUM_AT) != *blake3::hash(&block[..CHECKSUM_AT]).as_bytes() {
            return Err(Refused::NotOne);
        }
        let [cipher, head_area] = get(block, 12);
        let mut slots = Slots::default();
        for (index, slot) in slots.iter_mut().enumerate() {
            let at = SLOTS_AT + index * SLOT_BYTES;
            *slot = Slot::decode(&block[at..at + SLOT_BYTES]).map_err(|()| Refused::NotOne)?;
        }
        let superblock = Self {
            version,
            uuid: get(block, 16),
            generation: get_u64(block, 32),
            size_bytes: get_u64(block, 40),
            cipher: Cipher::from_code(cipher).ok_or(Refused::NotOne)?,
            head_area,
            head_len: get_u32(block, 56),
            head_generation: get_u64(block, 48),
            head_tag: get(block, 64),
            head_salt: get(block, 80),
            slots,
        };
        let sane = usize::from(head_area) < HEADS.len()
            && superblock.head_len as usize <= HEAD_BYTES_MAX
            && can_be_size(superblock.size_bytes)
            && superblock.cipher.version() <= version
            && slots::can_be_paid(&superblock.slots)
            && superblock.generation < u64::MAX / 2;
        if sane { Ok(superblock) } else { Err(Refused::NotOne) }
    }

    /// The area for the next head: the one that this superblock's does not lie in. Superblocks are also written without
    /// a new head, so the generation does not say it.
    pub fn next_area(&self) -> u8 {
        1 - self.head_area.min(1)
    }

    /// Whether a password is needed.
    pub fn has_slots(&self) -> bool {
        self.slots.iter().any(Option::is_some)
    }

    /// Where it goes.
    pub fn offset(&self) -> u64 {
        SUPERBLOCKS[usize::from(self.generation % 2 == 1)]
    }
}

/// Whether a guest's disk can have so many bytes.
pub fn can_be_size(size_bytes: u64) -> bool {
    (512..=SIZE_BYTES_MAX).contains(&size_bytes) && size_bytes.is_multiple_of(512)
}

/// Whether the owner of `key` wrote this block.
pub fn is_authentic(block: &Block, key: &Key) -> bool {
    // A blake3::Hash compares in constant time.
    blake3::Hash::from_bytes(get(&block[..], MAC_AT)) == blake3::keyed_hash(key, &block[..MAC_AT])
}

/// What a file says of its disk to anybody. Whoever has the file can forge it: it is for showing, and for refusing early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Of the disk, for ever.
    pub uuid: [u8; 16],
    /// Size of the guest's disk.
    pub size_bytes: u64,
    /// It opens with a password only: a key slot is used, as also on a disk that is being decrypted.
    pub encrypted: bool,
}

/// Reads the newer superblock of a file, whatever the length of its log; `None` where there is none that is whole.
#[cfg(unix)]
pub fn facts(file: &std::fs::File) -> Option<Facts> {
    let read = |offset| {
        let mut block = crate::layout::new_block();
        std::os::unix::fs::FileExt::read_exact_at(file, &mut block[..], offset).ok()?;
        Superblock::decode(&block).ok()
    };
    let newest = SUPERBLOCKS.into_iter().filter_map(read).max_by_key(|superblock| superblock.generation)?;
    Some(Facts { uuid: newest.uuid, size_bytes: newest.size_bytes, encrypted: newest.has_slots() })
}

/// What was found where a superblock should be.
pub type Candidate = (Result<Superblock, Refused>, Box<Block>);

/// The superblocks of a file, the newest first. One that the host can not read is as good as damaged.
///
/// # Errors
/// The host's, when it can read neither.
pub fn read_all(medium: &dyn Medium) -> std::io::Result<Vec<Candidate>> {
    let mut found = Vec::new();
    let mut failed = None;
    for offset in SUPERBLOCKS {
        let mut block = crate::layout::new_block();
        match medium.read_at(offset, &mut block[..]) {
            Ok(()) => found.push((Superblock::decode(&block), block)),
            Err(error) => {
                found.push((Err(Refused::NotOne), crate::layout::new_block()));
                if let Some(error) = failed.replace(error) {
                    return Err(error);
                }
            }
        }
    }
    found.sort_by_key(|(superblock, _)| {
        std::cmp::Reverse(superblock.as_ref().map_or(0, |superblock| superblock.generation))
    });
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    fn example() -> Superblock {
        Superblock {
            version: VERSION,
            uuid: [1; 16],
            generation: 7,
            size_bytes: 1 << 30,
            cipher: Cipher::Aes256Gcm,
            head_area: 1,
            head_len: 1234,
            head_generation: 7,
            head_tag: [2; 16],
            head_salt: [3; 32],
            slots: Default::default(),
        }
    }

    #[test]
    fn it_survives_its_bytes() {
        let key = Zeroizing::new([5; 32]);
        let block = example().encode(&key);
        assert_eq!(Superblock::decode(&block), Ok(example()));
        assert!(is_authentic(&block, &key));
        assert!(!is_authentic(&block, &Zeroizing::new([6; 32])));
    }

    #[cfg(unix)]
    #[test]
    fn the_newer_superblock_that_is_whole_says_what_the_disk_is() {
        use std::os::unix::fs::FileExt;
        let file = tempfile::tempfile().unwrap();
        assert_eq!(facts(&file), None);
        let key = Zeroizing::new([5; 32]);
        let put = |superblock: &Superblock, spoil: u8| {
            let mut block = superblock.encode(&key);
            block[200] ^= spoil;
            file.write_all_at(&block[..], superblock.offset()).unwrap();
        };
        let (old, new) = (example(), Superblock { generation: 8, size_bytes: 1 << 31, ..example() });
        put(&old, 0);
        let said = |size_bytes| Some(Facts { uuid: [1; 16], size_bytes, encrypted: false });
        assert_eq!(facts(&file), said(1 << 30));
        put(&new, 0);
        assert_eq!(facts(&file), said(1 << 31));
        put(&new, 1);
        assert_eq!(facts(&file), said(1 << 30));
        put(&old, 1);
        assert_eq!(facts(&file), None);
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let block = example().encode(&Zeroizing::new([5; 32]));
        for at in 0..BLOCK_BYTES {
            let mut damaged = block.clone();
            damaged[at] ^= 0x10;
            assert!(Superblock::decode(&damaged).is_err(), "byte {at}");
        }
    }
}
