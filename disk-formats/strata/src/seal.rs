//! What turns a block into what is stored, and proves on reading that it is the same one.
//!
//! A block is sealed under the key of the *epoch* in which it was written. An epoch is one opening of the disk for
//! writing: it begins with a random salt, recorded durably before the first block is sealed with it, so that two copies
//! of one file that are both opened never share a key. Within an epoch every address is written once, so the address
//! is the nonce.

use highway::{HighwayHash as _, HighwayHasher};
use parking_lot::RwLock;
use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::layout::{Address, Tag};
use crate::secret_memory::{Secret, SecretPool};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// A key, wiped when it is dropped.
pub type Key = Zeroizing<[u8; KEY_BYTES]>;
/// What makes an epoch's key its own.
pub type Salt = [u8; 32];

/// How blocks are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Cipher {
    /// Not secret: the tag is a checksum (BLAKE3, 16 bytes). Of disks of version 1.
    Blake3,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305,
    /// Not secret: the tag is a checksum (HighwayHash-128), three times as fast on one block. Since version 2.
    Highway,
}

impl Cipher {
    /// The one for new epochs of an encrypted disk: AES where the processor has it, which is faster and leaks nothing
    /// through its caches; else ChaCha20.
    pub fn for_this_host() -> Self {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        let has_aes = std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
        #[cfg(target_arch = "aarch64")]
        let has_aes = std::arch::is_aarch64_feature_detected!("aes");
        #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
        let has_aes = false;
        if has_aes { Self::Aes256Gcm } else { Self::ChaCha20Poly1305 }
    }

    /// The one for new epochs of a plain disk of that version.
    pub fn plain(version: u32) -> Self {
        if version < Self::Highway.version() { Self::Blake3 } else { Self::Highway }
    }

    /// The version of the format that has it first.
    pub fn version(self) -> u32 {
        if self == Self::Highway { 2 } else { 1 }
    }

    /// Whether it takes a key to read what is sealed so.
    pub fn is_secret(self) -> bool {
        self.algorithm().is_some()
    }

    /// As the superblock spells it.
    pub fn code(self) -> u8 {
        match self {
            Self::Blake3 => 0,
            Self::Aes256Gcm => 1,
            Self::ChaCha20Poly1305 => 2,
            Self::Highway => 3,
        }
    }

    /// The cipher of that code.
    pub fn from_code(code: u8) -> Option<Self> {
        let all = [Self::Blake3, Self::Aes256Gcm, Self::ChaCha20Poly1305, Self::Highway];
        all.into_iter().find(|cipher| cipher.code() == code)
    }

    fn algorithm(self) -> Option<&'static aead::Algorithm> {
        match self {
            Self::Blake3 | Self::Highway => None,
            Self::Aes256Gcm => Some(&aead::AES_256_GCM),
            Self::ChaCha20Poly1305 => Some(&aead::CHACHA20_POLY1305),
        }
    }
}

/// Random bytes.
pub fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes)
}

/// What a nonce is for: none is used for two things.
#[derive(Clone, Copy)]
enum Purpose {
    Block = 0,
    Head = 1,
    List = 2,
}

fn nonce(purpose: Purpose, number: u64) -> Nonce {
    let mut bytes = [0; aead::NONCE_LEN];
    bytes[0] = purpose as u8;
    bytes[4..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// The key of one epoch.
pub enum EpochKey {
    /// Of a plain disk: the epoch's salt, so that a guest, who does not see it, can not make a block that passes for
    /// something else.
    Blake3(Salt),
    /// The same.
    Highway(highway::Key),
    /// Of an encrypted one.
    Sealing(Secret<LessSafeKey>),
}

impl EpochKey {
    fn seal(&self, purpose: Purpose, number: u64, bytes: &mut [u8]) -> Option<Tag> {
        let mut tag = [0; 16];
        match self {
            Self::Blake3(salt) => tag = blake3_tag(salt, purpose, number, bytes),
            Self::Highway(key) => tag = highway_tag(key, purpose, number, bytes),
            Self::Sealing(key) => {
                let sealed = key.seal_in_place_separate_tag(nonce(purpose, number), Aad::empty(), bytes).ok()?;
                tag.copy_from_slice(sealed.as_ref().get(..16)?);
            }
        }
        Some(tag)
    }

    fn open(&self, purpose: Purpose, number: u64, bytes: &mut [u8], tag: &Tag) -> bool {
        match self {
            Self::Blake3(salt) => blake3_tag(salt, purpose, number, bytes) == *tag,
            Self::Highway(key) => highway_tag(key, purpose, number, bytes) == *tag,
            Self::Sealing(key) => key
                .open_in_place_separate_tag(nonce(purpose, number), Aad::empty(), aead::Tag::from(*tag), bytes, 0..)
                .is_ok(),
        }
    }

    /// Seals the block that goes to `address`, in place. `None` when the cipher refuses, which it never has cause to.
    pub fn seal_block(&self, address: Address, bytes: &mut [u8]) -> Option<Tag> {
        self.seal(Purpose::Block, address.bits(), bytes)
    }

    /// Opens the block of `address`, in place. False when it is not what `tag` was made of.
    pub fn open_block(&self, address: Address, bytes: &mut [u8], tag: &Tag) -> bool {
        self.open(Purpose::Block, address.bits(), bytes, tag)
    }

    /// Seals a list whose first block goes to `address`, in place.
    pub fn seal_list(&self, address: Address, bytes: &mut [u8]) -> Option<Tag> {
        self.seal(Purpose::List, address.bits(), bytes)
    }

    /// Opens a list.
    pub fn open_list(&self, address: Address, bytes: &mut [u8], tag: &Tag) -> bool {
        self.open(Purpose::List, address.bits(), bytes, tag)
    }

    /// Seals a head of that generation, in place.
    pub fn seal_head(&self, generation: u64, bytes: &mut [u8]) -> Option<Tag> {
        self.seal(Purpose::Head, generation, bytes)
    }

    /// Opens a head.
    pub fn open_head(&self, generation: u64, bytes: &mut [u8], tag: &Tag) -> bool {
        self.open(Purpose::Head, generation, bytes, tag)
    }
}

/// The first half of BLAKE3, keyed by the salt and by what the bytes are for: a block in another's place is as wrong as
/// a damaged one.
fn blake3_tag(salt: &Salt, purpose: Purpose, number: u64, bytes: &[u8]) -> Tag {
    let mut key = *salt;
    key[23] = purpose as u8;
    key[24..].copy_from_slice(&number.to_le_bytes());
    let mut tag = [0; 16];
    tag.copy_from_slice(&blake3::keyed_hash(&key, bytes).as_bytes()[..16]);
    tag
}

/// HighwayHash-128 under the salt of 32 bytes that say what the bytes are for, and of the bytes: likewise.
fn highway_tag(key: &highway::Key, purpose: Purpose, number: u64, bytes: &[u8]) -> Tag {
    let mut what = [0; 32];
    what[0] = purpose as u8;
    what[8..16].copy_from_slice(&number.to_le_bytes());
    let mut hasher = HighwayHasher::new(highway::Key(key.0));
    hasher.append(&what);
    hasher.append(bytes);
    let [low, high] = hasher.finalize128();
    let mut tag = [0; 16];
    tag[..8].copy_from_slice(&low.to_le_bytes());
    tag[8..].copy_from_slice(&high.to_le_bytes());
    tag
}

/// An epoch: which births are its own, and its salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Epoch {
    /// The first record of it.
    pub first: u64,
    /// Random.
    pub salt: Salt,
    /// How its blocks are protected: epochs differ while a disk is encrypted or decrypted in place.
    pub cipher: Cipher,
}

/// Derives a key of `master` for one use.
pub fn derive(master: &Key, salt: &[u8], info: &[u8]) -> Option<Key> {
    struct Length;
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            KEY_BYTES
        }
    }
    let pseudorandom = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(&master[..]);
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    pseudorandom.expand(&[info], Length).ok()?.fill(&mut key[..]).ok()?;
    Some(key)
}

/// All keys of an open disk.
pub struct Keyring {
    secrets: SecretPool,
    /// Of an encrypted disk, and of one that is becoming or was one.
    master: RwLock<Option<Secret<[u8; KEY_BYTES]>>>,
    /// Ascending by first record, with their keys.
    epochs: RwLock<Vec<(Epoch, std::sync::Arc<EpochKey>)>>,
}

impl Keyring {
    /// Of a disk without epochs so far. A master key for one that has key slots, none for a plain one. `None` when the
    /// host has no memory.
    pub fn new(master: Option<&Key>) -> Option<Self> {
        let ring = Self { secrets: SecretPool::default(), master: RwLock::new(None), epochs: RwLock::new(Vec::new()) };
        ring.set_master(master)?;
        Some(ring)
    }

    /// Of the same disk, before its epochs are known.
    pub fn anew(&self) -> Option<Self> {
        Self::new(self.master().as_ref())
    }

    /// Takes another master key, or none. Keys made of the old one stay.
    pub fn set_master(&self, master: Option<&Key>) -> Option<()> {
        *self.master.write() = match master {
            Some(master) => Some(self.secrets.keep(|| Some(**master))?),
            None => None,
        };
        Some(())
    }

    /// A copy of the master key, to be wrapped.
    pub fn master(&self) -> Option<Key> {
        self.master.read().as_ref().map(|master| Zeroizing::new(**master))
    }

    /// The key of an epoch with `cipher` and `salt`, not remembered.
    pub fn key(&self, cipher: Cipher, salt: &Salt) -> Option<EpochKey> {
        let Some(algorithm) = cipher.algorithm() else {
            let word = |index: usize| crate::bytes::get_u64(salt, index * 8);
            return Some(match cipher {
                Cipher::Highway => EpochKey::Highway(highway::Key([word(0), word(1), word(2), word(3)])),
                _ => EpochKey::Blake3(*salt),
            });
        };
        let key = derive(&self.master()?, salt, b"strata epoch")?;
        let secret = self.secrets.keep(|| Some(LessSafeKey::new(UnboundKey::new(algorithm, &key[..]).ok()?)))?;
        Some(EpochKey::Sealing(secret))
    }

    /// A key of its own for the superblock's checksum; zeroes where no key slot is used, for that one anybody can make.
    /// `None` without the key it takes.
    pub fn superblock_key(&self, has_slots: bool) -> Option<Key> {
        if !has_slots {
            return Some(Zeroizing::new([0; KEY_BYTES]));
        }
        derive(&self.master()?, &[], b"strata superblock")
    }

    /// The newest epoch, in which heads and blocks are sealed now.
    pub fn newest(&self) -> Option<(Epoch, std::sync::Arc<EpochKey>)> {
        self.epochs.read().last().cloned()
    }

    /// The keys of the newest epochs, at most two.
    pub fn newest_two(&self) -> Vec<std::sync::Arc<EpochKey>> {
        self.epochs.read().iter().rev().take(2).map(|(_, key)| key.clone()).collect()
    }

    /// Takes these epochs instead of what it had. `None` when they are not in order.
    pub fn set_epochs(&self, epochs: &[Epoch]) -> Option<()> {
        if !epochs.is_sorted_by(|a, b| a.first < b.first) {
            return None;
        }
        let keyed: Option<Vec<_>> = epochs
            .iter()
            .map(|epoch| Some((*epoch, std::sync::Arc::new(self.key(epoch.cipher, &epoch.salt)?))))
            .collect();
        *self.epochs.write() = keyed?;
        Some(())
    }

    /// Begins an epoch. One that wrote nothing and begins at the same record is replaced.
    pub fn begin(&self, epoch: Epoch) -> Option<()> {
        let key = std::sync::Arc::new(self.key(epoch.cipher, &epoch.salt)?);
        let mut epochs = self.epochs.write();
        epochs.retain(|(old, _)| old.first < epoch.first);
        epochs.push((epoch, key));
        Some(())
    }

    /// Forgets the epochs before record `first`, of which nothing is left, and their keys.
    pub fn forget_before(&self, first: u64) {
        self.epochs.write().retain(|(epoch, _)| epoch.first >= first);
    }

    /// The epochs.
    pub fn epochs(&self) -> Vec<Epoch> {
        self.epochs.read().iter().map(|(epoch, _)| *epoch).collect()
    }

    /// The key under which a block of that birth was sealed.
    pub fn of(&self, birth: u64) -> Option<std::sync::Arc<EpochKey>> {
        let epochs = self.epochs.read();
        let after = epochs.partition_point(|(epoch, _)| epoch.first <= birth);
        epochs.get(after.checked_sub(1)?).map(|(_, key)| key.clone())
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(cipher: Cipher) -> Keyring {
        let master = cipher.is_secret().then(|| Zeroizing::new([9; 32]));
        let ring = Keyring::new(master.as_ref()).unwrap();
        ring.begin(Epoch { first: 1, salt: [1; 32], cipher }).unwrap();
        ring.begin(Epoch { first: 10, salt: [2; 32], cipher }).unwrap();
        ring
    }

    #[test]
    fn a_block_opens_only_as_what_it_was_sealed_as() {
        for cipher in (0..4).filter_map(Cipher::from_code) {
            let ring = ring(cipher);
            let (here, there) = (Address::new(1, 2), Address::new(1, 3));
            let mut bytes = [5; 4096];
            let tag = ring.of(3).unwrap().seal_block(here, &mut bytes).unwrap();
            assert_eq!(bytes == [5; 4096], !cipher.is_secret());
            let sealed = bytes;
            assert!(!ring.of(3).unwrap().open_block(there, &mut bytes.clone(), &tag), "another address");
            assert!(!ring.of(10).unwrap().open_block(here, &mut bytes.clone(), &tag), "another epoch");
            bytes[4095] ^= 1;
            assert!(!ring.of(3).unwrap().open_block(here, &mut bytes, &tag), "another content");
            bytes = sealed;
            assert!(ring.of(9).unwrap().open_block(here, &mut bytes, &tag));
            assert_eq!(bytes, [5; 4096]);
        }
    }

    #[test]
    fn epochs_are_found_by_birth() {
        let ring = ring(Cipher::Aes256Gcm);
        assert!(ring.of(0).is_none());
        let cipher = Cipher::Aes256Gcm;
        ring.begin(Epoch { first: 10, salt: [3; 32], cipher }).unwrap();
        assert_eq!(ring.epochs().iter().map(|epoch| epoch.salt[0]).collect::<Vec<_>>(), [1, 3]);
        assert!(ring.set_epochs(&[Epoch { first: 2, salt: [0; 32], cipher }; 2]).is_none());
        ring.forget_before(10);
        assert_eq!(ring.epochs().len(), 1);
    }
}
