//! Key slots: each wraps the same master key for one password or recovery key, so that these can be added, changed or
//! removed without touching the data.

use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Params, Version};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::bytes::{get, get_u32, put};
use crate::seal::{KEY_BYTES, Key, random};

/// Slots in a superblock.
pub const SLOTS: usize = 8;
/// Bytes of a slot as stored: kind, three costs, salt, wrapped key, tag.
pub const SLOT_BYTES: usize = 128;
/// The most memory a slot may ask for, in KiB: a file can not make its reader take more. Slots are tried one after the
/// other, so it is also the most that all of them take.
const MEMORY_KIB_MAX: u32 = 1 << 20;
const PASSES_MAX: u32 = 64;
const LANES_MAX: u32 = 16;
/// The most work one slot may ask for: KiB filled, all passes together. Some seconds.
const SLOT_WORK_KIB_MAX: u64 = 4 << 20;
/// The most that all slots of a superblock may ask for together: what a wrong password costs.
const WORK_KIB_MAX: u64 = 16 << 20;

/// What unlocking costs whoever tries, with Argon2id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Memory in KiB, 8 per lane to 1 GiB.
    pub memory_kib: u32,
    /// Passes over it, 1 to 64. Memory times passes is at most 4 GiB.
    pub passes: u32,
    /// Lanes, 1 to 16.
    pub lanes: u32,
}

impl Default for Cost {
    /// RFC 9106's second recommendation: 64 MiB, three passes, four lanes.
    fn default() -> Self {
        Self { memory_kib: 64 << 10, passes: 3, lanes: 4 }
    }
}

impl Cost {
    /// Of a recovery key, which is random: nobody finds it by trying, whatever a try costs.
    pub(crate) const RANDOM: Self = Self { memory_kib: 8, passes: 1, lanes: 1 };

    /// KiB filled by one try.
    fn work_kib(self) -> u64 {
        u64::from(self.memory_kib) * u64::from(self.passes)
    }

    /// Whether a slot may have it: a file with others is not read, so none is written.
    pub fn is_allowed(self) -> bool {
        (1..=LANES_MAX).contains(&self.lanes)
            && (8 * self.lanes..=MEMORY_KIB_MAX).contains(&self.memory_kib)
            && (1..=PASSES_MAX).contains(&self.passes)
            && self.work_kib() <= SLOT_WORK_KIB_MAX
    }

    /// What one try with this host's processor takes about `target` for: from [`Cost::default`] up to 1 GiB and four
    /// passes. Never less than the default, however slow the host is. It tries once with the default.
    pub fn calibrate(target: Duration) -> Self {
        let least = Self::default();
        let begin = Instant::now();
        if stretch(b"calibration", least, &[0; 32]).is_none() {
            return least;
        }
        Self::scaled(target, begin.elapsed())
    }

    /// The cost for `target` when the default took `took`.
    fn scaled(target: Duration, took: Duration) -> Self {
        let least = Self::default();
        let times = (target.as_micros() / took.as_micros().max(1)).clamp(1, 64) as u32;
        let memory_kib = (least.memory_kib * times).min(MEMORY_KIB_MAX);
        // Memory is what an attacker's machine has least of, so it is spent first.
        let passes = if times > 21 { 4 } else { least.passes };
        Self { memory_kib, passes, ..least }
    }
}

/// What a slot is opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// A password somebody chose.
    Password,
    /// A recovery key.
    RecoveryKey,
}

impl SlotKind {
    fn code(self) -> u32 {
        match self {
            Self::Password => 1,
            Self::RecoveryKey => 2,
        }
    }
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// What it is opened with.
    pub kind: SlotKind,
    /// What trying costs.
    pub cost: Cost,
    salt: [u8; 32],
    wrapped: [u8; KEY_BYTES + 16],
}

/// The key that a password gives with that salt. `None` when the host has not so much memory.
fn stretch(password: &[u8], cost: Cost, salt: &[u8; 32]) -> Option<Key> {
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(KEY_BYTES)).ok()?;
    let mut memory = Vec::new();
    memory.try_reserve_exact(params.block_count()).ok()?;
    memory.resize(params.block_count(), argon2::Block::new());
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let done = argon.hash_password_into_with_memory(password, salt, &mut key[..], &mut memory);
    // What the key was made of; ours to wipe.
    memory.fill(argon2::Block::new());
    std::hint::black_box(&mut memory);
    done.ok()?;
    Some(key)
}

/// The wrapping key is used once, for the salt is new with every slot: the nonce can be fixed.
fn wrapper(key: &Key) -> Option<LessSafeKey> {
    Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key[..]).ok()?))
}

impl Slot {
    /// Wraps `master` for `secret`. `None` when the host has no randomness or memory.
    pub fn new(kind: SlotKind, secret: &[u8], cost: Cost, master: &Key, disk: &[u8; 16]) -> Option<Self> {
        let salt = random()?;
        let key = wrapper(&stretch(secret, cost, &salt)?)?;
        let mut wrapped = Zeroizing::new([0; KEY_BYTES]);
        wrapped.copy_from_slice(&master[..]);
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(disk), &mut wrapped[..]).ok()?;
        let mut both = [0; KEY_BYTES + 16];
        both[..KEY_BYTES].copy_from_slice(&wrapped[..]);
        put(&mut both, KEY_BYTES, tag.as_ref());
        Some(Self { kind, cost, salt, wrapped: both })
    }

    /// The master key, if this is the secret.
    pub fn open(&self, secret: &[u8], disk: &[u8; 16]) -> Option<Key> {
        let key = wrapper(&stretch(secret, self.cost, &self.salt)?)?;
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
        let Some(Self { kind, cost, salt, wrapped }) = slot else { return bytes };
        put(&mut bytes, 0, &kind.code().to_le_bytes());
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
        let kind = match get_u32(bytes, 0) {
            0 => return Ok(None),
            1 => SlotKind::Password,
            // What a try of a random key costs protects nothing and could only be there to make it slow.
            2 if cost == Cost::RANDOM => SlotKind::RecoveryKey,
            _ => return Err(()),
        };
        if cost.is_allowed() {
            Ok(Some(Self { kind, cost, salt: get(bytes, 16), wrapped: get(bytes, 48) }))
        } else {
            Err(())
        }
    }
}

/// All slots of a disk.
pub type Slots = [Option<Slot>; SLOTS];

/// Whether trying a password at all of them is not too much work.
pub fn can_be_paid(slots: &Slots) -> bool {
    slots.iter().flatten().map(|slot| slot.cost.work_kib()).sum::<u64>() <= WORK_KIB_MAX
}

/// The master key, if `secret` is a password or a recovery key of one of the slots.
pub fn unlock(slots: &Slots, secret: &[u8], disk: &[u8; 16]) -> Option<Key> {
    let of = |kind| slots.iter().flatten().filter(move |slot| slot.kind == kind);
    let recovery = std::str::from_utf8(secret).ok().and_then(|text| crate::recovery::parse(text).ok());
    let by_recovery = recovery.and_then(|key| of(SlotKind::RecoveryKey).find_map(|slot| slot.open(&key[..], disk)));
    by_recovery.or_else(|| of(SlotKind::Password).find_map(|slot| slot.open(secret, disk)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Cost = Cost { memory_kib: 64, passes: 1, lanes: 1 };

    #[test]
    fn a_slot_opens_for_its_password_and_disk_only() {
        let master = Zeroizing::new([3; 32]);
        let slot = Slot::new(SlotKind::Password, b"right", CHEAP, &master, &[1; 16]).unwrap();
        let slot = Slot::decode(&Slot::encode(Some(&slot))).unwrap().unwrap();
        assert_eq!(slot.open(b"right", &[1; 16]).unwrap(), master);
        assert!(slot.open(b"wrong", &[1; 16]).is_none());
        assert!(slot.open(b"right", &[2; 16]).is_none());
        assert_eq!(Slot::decode(&Slot::encode(None)), Ok(None));
    }

    #[test]
    fn slots_that_ask_for_too_much_are_refused() {
        let slot = |kind, memory_kib, passes, lanes| {
            let cost = Cost { memory_kib, passes, lanes };
            Slot { kind, cost, salt: [0; 32], wrapped: [0; 48] }
        };
        let decoded = |slot: &Slot| Slot::decode(&Slot::encode(Some(slot)));
        for (memory_kib, passes, lanes) in
            [(u32::MAX, 1, 1), (1 << 20, 5, 1), (64, 65, 1), (1 << 10, 1, 17), (64, 0, 1), (64, 1, 0), (7, 1, 1)]
        {
            assert_eq!(decoded(&slot(SlotKind::Password, memory_kib, passes, lanes)), Err(()), "{memory_kib} {passes}");
        }
        assert_eq!(decoded(&slot(SlotKind::RecoveryKey, 64, 1, 1)), Err(()));
        let dear = slot(SlotKind::Password, 1 << 20, 4, 4);
        assert!(decoded(&dear).is_ok());
        let mut slots = Slots::default();
        slots[..4].fill(Some(dear.clone()));
        assert!(can_be_paid(&slots));
        slots[4] = Some(dear);
        assert!(!can_be_paid(&slots), "eight slots of the dearest kind would take a minute");
    }

    #[test]
    fn calibration_stays_within_bounds() {
        let second = Duration::from_secs(1);
        let cost = |took_ms| Cost::scaled(second, Duration::from_millis(took_ms));
        assert_eq!(cost(5000), Cost::default(), "never less than the default");
        assert_eq!(cost(250).memory_kib, 256 << 10);
        for took_ms in [0, 1, 10, 40, 60, 100] {
            assert!(cost(took_ms).is_allowed() && cost(took_ms).memory_kib >= 640 << 10, "{took_ms}");
        }
        assert!(Cost::calibrate(Duration::ZERO).is_allowed());
    }
}
