//! What is done to a disk as a whole: keys, size, identity.

use std::ops::ControlFlow;

use benchtop_block::BlockError;
use zeroize::Zeroizing;

use crate::StrataDisk;
use crate::convert::{CryptStatus, Progress};
use crate::identity::Identity;
use crate::passwords::SlotInfo;
use crate::slots::Cost;

impl StrataDisk {
    /// Which disk this is, and how old, as far as it is durable.
    pub fn identity(&self) -> Identity {
        self.core().identity()
    }

    /// Gives the guest's disk another size, a multiple of 512 bytes. What is added reads as zeroes; what is cut off
    /// needs consent, and only restore points still have it. A cut of power while it shrinks may leave a part of what
    /// was to go as zeroes, and the size as it was.
    ///
    /// # Errors
    /// `Unsupported` for a size that no disk can have, or a smaller one without consent; `ReadOnly`; `Corrupt`; the
    /// host's.
    pub fn resize(&mut self, size_bytes: u64, allow_shrink: bool) -> Result<(), BlockError> {
        self.core().resize(size_bytes, allow_shrink)
    }

    /// The used key slots. None for a plain disk.
    pub fn key_slots(&self) -> Vec<SlotInfo> {
        self.core().key_slots()
    }

    /// Adds a password; says its slot.
    ///
    /// # Errors
    /// `Unsupported` for a plain disk, an empty password, a cost that is not allowed, or when all slots are used;
    /// `ReadOnly`; the host's, after which the disk takes no more writes until it is opened anew.
    pub fn add_password(&self, password: &[u8], cost: Cost) -> Result<usize, BlockError> {
        self.core().add_password(password, cost)
    }

    /// Makes a recovery key; says its slot and the key, which is kept nowhere and shown this once.
    ///
    /// # Errors
    /// As [`add_password`](Self::add_password).
    pub fn add_recovery_key(&self) -> Result<(usize, Zeroizing<String>), BlockError> {
        self.core().add_recovery_key()
    }

    /// Puts a new password in the place of another. The old one opens the disk no more; see
    /// [`remove_key_slot`](Self::remove_key_slot) for what copies of the file still allow.
    ///
    /// # Errors
    /// As [`add_password`](Self::add_password), and `Unsupported` when the slot holds no password.
    pub fn change_password(&self, index: usize, password: &[u8], cost: Cost) -> Result<(), BlockError> {
        self.core().change_password(index, password, cost)
    }

    /// Removes a password or recovery key. Afterwards no place of the file holds what it opened; whoever has an older
    /// copy of the file, or of its first 128 KiB, and the old password still gets the master key, which stays the same.
    ///
    /// # Errors
    /// `Unsupported` when the slot is empty or the last; `ReadOnly`; the host's.
    pub fn remove_key_slot(&self, index: usize) -> Result<(), BlockError> {
        self.core().remove_key_slot(index)
    }

    /// The slot that this password or recovery key opens, if any: to ask for the old password before a change.
    pub fn slot_of(&self, secret: &[u8]) -> Option<usize> {
        self.core().slot_of(secret)
    }

    /// Whether the disk is encrypted.
    pub fn crypt_status(&self) -> CryptStatus {
        self.core().crypt_status()
    }

    /// Begins to encrypt a plain disk. From here on it needs the password, and what is written is encrypted;
    /// [`convert`](Self::convert) does the rest. Restore points can not be encrypted: they go, with consent.
    ///
    /// # Errors
    /// `Unsupported` when the disk is encrypted or being converted, has points and `drop_points` is false, or the
    /// password or its cost is not allowed; `ReadOnly`; the host's, after which the disk is to be opened anew.
    pub fn encrypt(&mut self, password: &[u8], cost: Cost, drop_points: bool) -> Result<(), BlockError> {
        self.core().encrypt(password, cost, drop_points)
    }

    /// Begins to decrypt an encrypted disk: as [`encrypt`](Self::encrypt), the other way. It needs its password until
    /// [`convert`](Self::convert) is done.
    ///
    /// # Errors
    /// As [`encrypt`](Self::encrypt).
    pub fn decrypt(&mut self, drop_points: bool) -> Result<(), BlockError> {
        self.core().decrypt(drop_points)
    }

    /// Goes on with encrypting or decrypting until it is done, or `progress` breaks off. True when nothing is left to
    /// do, in the file either: what was there before is overwritten or given back to the host. (What a host's own
    /// snapshots, or a flash disk's spare blocks, still hold is not in reach.) May be called while guests use the disk.
    ///
    /// # Errors
    /// `Corrupt` for a block that can not be read: it must be overwritten or discarded first; the host's.
    pub fn convert(&self, progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<bool, BlockError> {
        self.core().convert(progress)
    }
}
