//! Passwords: each slot wraps the same master key for one of them, so that a password can be added, changed or removed
//! without touching the data.

use argon2::{Algorithm, Argon2, Params, Version};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::bytes::{get, get_u32, put};
use crate::seal::{KEY_BYTES, Key, random};

/// Slots in a superblock.
pub const SLOTS: usize = 8;
/// Bytes of a slot as stored: kind, three costs, salt, wrapped key, tag.
pub const SLOT_BYTES: usize = 128;
/// The most memory a slot may ask for, in KiB: a file can not make its reader take more.
const MEMORY_KIB_MAX: u32 = 1 << 20;
const TIME_MAX: u32 = 64;
const LANES_MAX: u32 = 16;

/// What unlocking costs whoever tries, with Argon2id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for Cost {
    /// RFC 9106's second recommendation: 64 MiB, three passes, four lanes.
    fn default() -> Self {
        Self { memory_kib: 64 << 10, passes: 3, lanes: 4 }
    }
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    cost: Cost,
    salt: [u8; 32],
    wrapped: [u8; KEY_BYTES + 16],
}

/// The key that a password gives with that salt.
fn stretch(password: &[u8], cost: Cost, salt: &[u8; 32]) -> Option<Key> {
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(KEY_BYTES)).ok()?;
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(password, salt, &mut key[..]).ok()?;
    Some(key)
}

/// The wrapping key is used once, for the salt is new with every slot: the nonce can be fixed.
fn wrapper(key: &Key) -> Option<LessSafeKey> {
    Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key[..]).ok()?))
}

impl Slot {
    /// Wraps `master` for `password`. `None` when the host has no randomness or memory.
    pub fn new(password: &[u8], cost: Cost, master: &Key, disk: &[u8; 16]) -> Option<Self> {
        let salt = random()?;
        let key = wrapper(&stretch(password, cost, &salt)?)?;
        let mut wrapped = Zeroizing::new([0; KEY_BYTES]);
        wrapped.copy_from_slice(&master[..]);
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(disk), &mut wrapped[..]).ok()?;
        let mut both = [0; KEY_BYTES + 16];
        both[..KEY_BYTES].copy_from_slice(&wrapped[..]);
        put(&mut both, KEY_BYTES, tag.as_ref());
        Some(Self { cost, salt, wrapped: both })
    }

    /// The master key, if this is the password.
    pub fn open(&self, password: &[u8], disk: &[u8; 16]) -> Option<Key> {
        let key = wrapper(&stretch(password, self.cost, &self.salt)?)?;
        let mut both = Zeroizing::new(self.wrapped);
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let master = key.open_in_place(nonce, Aad::from(disk), &mut both[..]).ok()?;
        let mut out = Zeroizing::new([0; KEY_BYTES]);
        out.copy_from_slice(master.get(..KEY_BYTES)?);
        Some(out)
    }

    /// As stored.
    pub fn encode(slot: Option<&Self>) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        let Some(Self { cost, salt, wrapped }) = slot else { return bytes };
        put(&mut bytes, 0, &1u32.to_le_bytes());
        put(&mut bytes, 4, &cost.memory_kib.to_le_bytes());
        put(&mut bytes, 8, &cost.passes.to_le_bytes());
        put(&mut bytes, 12, &cost.lanes.to_le_bytes());
        put(&mut bytes, 16, salt);
        put(&mut bytes, 48, wrapped);
        bytes
    }

    /// Reads one: empty, or with costs that can be paid. `Err` for what is neither.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, ()> {
        let cost = Cost { memory_kib: get_u32(bytes, 4), passes: get_u32(bytes, 8), lanes: get_u32(bytes, 12) };
        match get_u32(bytes, 0) {
            0 => Ok(None),
            1 if cost.memory_kib <= MEMORY_KIB_MAX && cost.passes <= TIME_MAX && cost.lanes <= LANES_MAX => {
                Ok(Some(Self { cost, salt: get(bytes, 16), wrapped: get(bytes, 48) }))
            }
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_opens_for_its_password_and_disk_only() {
        let cost = Cost { memory_kib: 64, passes: 1, lanes: 1 };
        let master = Zeroizing::new([3; 32]);
        let slot = Slot::new(b"right", cost, &master, &[1; 16]).unwrap();
        let slot = Slot::decode(&Slot::encode(Some(&slot))).unwrap().unwrap();
        assert_eq!(slot.open(b"right", &[1; 16]).unwrap(), master);
        assert!(slot.open(b"wrong", &[1; 16]).is_none());
        assert!(slot.open(b"right", &[2; 16]).is_none());
        assert_eq!(Slot::decode(&Slot::encode(None)), Ok(None));
    }

    #[test]
    fn a_slot_that_asks_for_too_much_is_refused() {
        let slot = Slot { cost: Cost { memory_kib: u32::MAX, passes: 1, lanes: 1 }, salt: [0; 32], wrapped: [0; 48] };
        assert_eq!(Slot::decode(&Slot::encode(Some(&slot))), Err(()));
    }
}
