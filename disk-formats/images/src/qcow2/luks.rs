//! LUKS version 1 inside a qcow2 image: from a password to the disk's key, and decryption with it.
//!
//! Sources: "LUKS On-Disk Format Specification" 1.2.1 (header, key slots, anti-forensic splitter), and "Qcow2 Image File
//! Format", section Full disk encryption header pointer. All numbers are big-endian.
//!
//! Built: AES-128 and AES-256 as `xts-plain64`, the default of the programs that write such images, with SHA-1, SHA-256
//! or SHA-512; reading alone. The number of a sector is where it lies in the file, not on the disk.
//!
//! Bounds: a header asks for at most [`MAX_ITERATIONS`] rounds of PBKDF2 in all, which take a few minutes, and for
//! 256 KiB of key material at a time.

use std::num::NonZeroU32;

use aes::cipher::KeyInit;
use aes::{Aes128, Aes256};
use benchtop_block::{BlockError, SECTOR_BYTES};
use benchtop_memory::VolatileSlice;
use ring::{digest, pbkdf2};
use xts_mode::{Xts128, get_tweak_default};
use zeroize::Zeroizing;

use crate::error::{corrupt, unsupported};
use crate::fields::{be16, be32};
use crate::file::ImageFile;

/// Rounds that all slots and digests together may take. Writers choose a number that takes their host two seconds, up to
/// 20 million, which count twice for the usual key of two hashes' length; so eight such slots can be tried.
const MAX_ITERATIONS: u64 = 400_000_000;
/// Parts that a key is split into; every writer makes 4000.
const MAX_STRIPES: u32 = 4096;
const HEADER_BYTES: usize = 592;
const MAGIC: &[u8] = b"LUKS\xba\xbe";
const SLOTS: usize = 8;
const SLOT_BYTES: usize = 48;
const SLOT_ACTIVE: u32 = 0x00ac_71f3;
const DIGEST_BYTES: usize = 20;
/// How much is decrypted at once, in bytes; whole sectors.
const CHUNK_BYTES: u64 = 64 << 10;

/// Offsets in the header, in bytes.
mod field {
    pub const VERSION: usize = 6;
    pub const CIPHER: usize = 8;
    pub const MODE: usize = 40;
    pub const HASH: usize = 72;
    pub const KEY_BYTES: usize = 108;
    pub const DIGEST: usize = 112;
    pub const DIGEST_SALT: usize = 132;
    pub const DIGEST_ITERATIONS: usize = 164;
    pub const SLOTS: usize = 208;
}

/// Offsets in a key slot, in bytes.
mod slot {
    pub const STATE: usize = 0;
    pub const ITERATIONS: usize = 4;
    pub const SALT: usize = 8;
    /// In sectors from the header's start.
    pub const MATERIAL: usize = 40;
    pub const STRIPES: usize = 44;
}

/// Where a qcow2 header says that the LUKS header and its key material are, in bytes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub start: u64,
    pub len: u64,
}

/// Decrypts. Its key schedules are wiped when it goes.
pub(super) enum Cipher {
    Aes128(Box<Xts128<Aes128>>),
    Aes256(Box<Xts128<Aes256>>),
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Aes128(_) => "aes-128-xts",
            Self::Aes256(_) => "aes-256-xts",
        })
    }
}

impl Cipher {
    /// From the two keys of XTS, one after the other: 32 or 64 bytes.
    fn new(key: &[u8]) -> Result<Self, BlockError> {
        let (data, tweak) = key.split_at(key.len() / 2);
        let wrong = |_error| unsupported("this length of a LUKS key is not built");
        Ok(match key.len() {
            32 => Self::Aes128(Box::new(Xts128::new(
                Aes128::new_from_slice(data).map_err(wrong)?,
                Aes128::new_from_slice(tweak).map_err(wrong)?,
            ))),
            _ => Self::Aes256(Box::new(Xts128::new(
                Aes256::new_from_slice(data).map_err(wrong)?,
                Aes256::new_from_slice(tweak).map_err(wrong)?,
            ))),
        })
    }

    /// Decrypts whole sectors in place, the first of which has this number.
    fn decrypt(&self, bytes: &mut [u8], first_sector: u64) {
        let (sector, first) = (SECTOR_BYTES as usize, u128::from(first_sector));
        match self {
            Self::Aes128(xts) => xts.decrypt_area(bytes, sector, first, get_tweak_default),
            Self::Aes256(xts) => xts.decrypt_area(bytes, sector, first, get_tweak_default),
        }
    }

    /// Reads whole sectors at `offset_bytes` of the file, a multiple of a sector, and decrypts them on their way:
    /// `into` never holds what is encrypted.
    ///
    /// # Errors
    /// The host's.
    pub fn read(&self, file: &ImageFile, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        let wanted = benchtop_block::pieces::len_bytes(into);
        let mut rest = benchtop_block::pieces::Scatter::new(into);
        let mut done = 0;
        while done < wanted {
            let here = (wanted - done).min(CHUNK_BYTES);
            let at = offset_bytes.saturating_add(done);
            let mut bytes = file.read_bytes(at, here as usize)?;
            self.decrypt(&mut bytes, at / SECTOR_BYTES);
            let mut left = &bytes[..];
            for slice in rest.take(here) {
                let Some((part, after)) = left.split_at_checked(slice.len()) else { break };
                slice.copy_from(part);
                left = after;
            }
            done += here;
        }
        Ok(())
    }
}

/// A hash by its name, and its use in PBKDF2.
#[derive(Clone, Copy)]
struct Hash {
    digest: &'static digest::Algorithm,
    pbkdf2: pbkdf2::Algorithm,
}

impl Hash {
    fn from_name(name: &[u8]) -> Result<Self, BlockError> {
        let (digest, pbkdf2): (&digest::Algorithm, _) = match name {
            b"sha1" => (&digest::SHA1_FOR_LEGACY_USE_ONLY, pbkdf2::PBKDF2_HMAC_SHA1),
            b"sha256" => (&digest::SHA256, pbkdf2::PBKDF2_HMAC_SHA256),
            b"sha512" => (&digest::SHA512, pbkdf2::PBKDF2_HMAC_SHA512),
            other => {
                return Err(unsupported(format!("the LUKS hash {:?} is not built", String::from_utf8_lossy(other))));
            }
        };
        Ok(Self { digest, pbkdf2 })
    }

    /// The specification's diffusion: each part of a digest's length becomes its own hash, numbered.
    fn diffuse(&self, bytes: &mut [u8]) {
        for (number, part) in (0u32..).zip(bytes.chunks_mut(self.digest.output_len())) {
            let mut context = digest::Context::new(self.digest);
            context.update(&number.to_be_bytes());
            context.update(part);
            let hash = context.finish();
            part.copy_from_slice(hash.as_ref().get(..part.len()).unwrap_or_default());
        }
    }

    /// Merges what the anti-forensic splitter made of a key.
    fn merge(&self, material: &[u8], key_bytes: usize) -> Zeroizing<Vec<u8>> {
        let mut key = Zeroizing::new(vec![0; key_bytes]);
        let mut stripes = material.chunks_exact(key_bytes).peekable();
        while let Some(stripe) = stripes.next() {
            key.iter_mut().zip(stripe).for_each(|(byte, other)| *byte ^= other);
            if stripes.peek().is_some() {
                self.diffuse(&mut key);
            }
        }
        key
    }
}

/// What a LUKS header says, checked as far as a password is not needed for it.
struct Header {
    bytes: Vec<u8>,
    hash: Hash,
    /// 32 or 64.
    key_bytes: usize,
}

/// A text that ends at the first zero.
fn text(bytes: &[u8], at: usize) -> &[u8] {
    let field = bytes.get(at..at + 32).unwrap_or_default();
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

impl Header {
    fn read(file: &ImageFile, place: &Place) -> Result<Self, BlockError> {
        let bytes = file.read_metadata(place.start, HEADER_BYTES, "LUKS header")?;
        if place.len < HEADER_BYTES as u64 || !bytes.starts_with(MAGIC) {
            return Err(corrupt("the LUKS header is missing"));
        }
        let version = be16(&bytes, field::VERSION);
        let (cipher, mode) = (text(&bytes, field::CIPHER), text(&bytes, field::MODE));
        let key_bytes = be32(&bytes, field::KEY_BYTES);
        if version != 1 {
            return Err(unsupported(format!("LUKS version {version} is not built")));
        }
        if cipher != b"aes" || mode != b"xts-plain64" || !matches!(key_bytes, 32 | 64) {
            let (cipher, mode) = (String::from_utf8_lossy(cipher), String::from_utf8_lossy(mode));
            return Err(unsupported(format!(
                "LUKS with {cipher:?}, {mode:?} and {key_bytes} bytes of keys is not built"
            )));
        }
        Ok(Self { hash: Hash::from_name(text(&bytes, field::HASH))?, key_bytes: key_bytes as usize, bytes })
    }

    fn derive(
        &self,
        secret: &[u8],
        salt_at: usize,
        iterations: u32,
        budget: &mut u64,
        into: &mut [u8],
    ) -> Result<(), BlockError> {
        let rounds = NonZeroU32::new(iterations).ok_or_else(|| corrupt("a LUKS key has no iterations"))?;
        // Each part of a hash's length takes all rounds.
        let cost = u64::from(iterations) * (into.len().div_ceil(self.hash.digest.output_len()) as u64);
        *budget = budget
            .checked_sub(cost)
            .ok_or_else(|| unsupported(format!("LUKS keys of more than {MAX_ITERATIONS} iterations are not built")))?;
        let salt = self.bytes.get(salt_at..salt_at + 32).unwrap_or_default();
        pbkdf2::derive(self.hash.pbkdf2, rounds, salt, secret, into);
        Ok(())
    }

    /// Tries the slot at an offset of the header.
    fn try_slot(
        &self,
        file: &ImageFile,
        place: &Place,
        at: usize,
        password: &[u8],
        budget: &mut u64,
    ) -> Result<Option<Cipher>, BlockError> {
        let stripes = be32(&self.bytes, at + slot::STRIPES);
        if !(1..=MAX_STRIPES).contains(&stripes) {
            return Err(unsupported(format!("a LUKS key split into {stripes} parts is not built")));
        }
        let len = self.key_bytes * stripes as usize;
        let offset = u64::from(be32(&self.bytes, at + slot::MATERIAL)) * SECTOR_BYTES;
        let sectors = len.next_multiple_of(SECTOR_BYTES as usize);
        if offset.checked_add(sectors as u64).is_none_or(|end| end > place.len) {
            return Err(corrupt("a LUKS key lies outside the LUKS header"));
        }
        let mut slot_key = Zeroizing::new(vec![0; self.key_bytes]);
        let iterations = be32(&self.bytes, at + slot::ITERATIONS);
        self.derive(password, at + slot::SALT, iterations, budget, &mut slot_key)?;
        // The qcow2 header's check vouches for the place.
        let mut material = Zeroizing::new(file.read_metadata(place.start + offset, sectors, "LUKS key")?);
        Cipher::new(&slot_key)?.decrypt(&mut material, 0);
        let key = self.hash.merge(material.get(..len).unwrap_or_default(), self.key_bytes);
        let mut digest = [0; DIGEST_BYTES];
        let iterations = be32(&self.bytes, field::DIGEST_ITERATIONS);
        self.derive(&key, field::DIGEST_SALT, iterations, budget, &mut digest)?;
        let expected = self.bytes.get(field::DIGEST..field::DIGEST + DIGEST_BYTES).unwrap_or_default();
        if digest == expected { Cipher::new(&key).map(Some) } else { Ok(None) }
    }
}

/// The cipher of the disk, if the password opens one of the key slots.
///
/// # Errors
/// `Unsupported` naming what is not built, `Corrupt` where the header contradicts itself, or the host's.
pub(super) fn unlock(file: &ImageFile, place: &Place, password: &[u8]) -> Result<Option<Cipher>, BlockError> {
    let header = Header::read(file, place)?;
    let mut budget = MAX_ITERATIONS;
    for at in (0..SLOTS).map(|index| field::SLOTS + index * SLOT_BYTES) {
        if be32(&header.bytes, at + slot::STATE) == SLOT_ACTIVE
            && let Some(cipher) = header.try_slot(file, place, at, password, &mut budget)?
        {
            return Ok(Some(cipher));
        }
    }
    Ok(None)
}
