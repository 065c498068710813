//! Passwords and recovery keys of an open disk: listed, added, changed, removed. No data is rewritten: every slot wraps
//! the same master key.

use benchtop_block::{BlockError, BlockErrorKind};
use zeroize::Zeroizing;

use crate::core::Core;
use crate::disk::io_error;
use crate::pages::no_key;
use crate::seal::{Key, random};
use crate::slots::{self, Cost, Slot, SlotKind, Slots};
use crate::superblock::Superblock;

/// A used key slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotInfo {
    /// Its number, 0 to 7.
    pub index: usize,
    /// What it is opened with.
    pub kind: SlotKind,
    /// What one try costs.
    pub cost: Cost,
}

/// `Unsupported`, and why.
pub(crate) fn refused(context: impl Into<String>) -> BlockError {
    BlockError::new(BlockErrorKind::Unsupported, context)
}

fn no_slot(index: usize) -> BlockError {
    refused(format!("key slot {index} is empty"))
}

/// A slot of a password, if it may be one.
///
/// # Errors
/// `Unsupported` for an empty password or a cost that no reader would pay; `Io` when the host has no memory for it.
pub(crate) fn password_slot(password: &[u8], cost: Cost, master: &Key, disk: &[u8; 16]) -> Result<Slot, BlockError> {
    if password.is_empty() {
        return Err(refused("a password can not be empty"));
    }
    if !cost.is_allowed() {
        return Err(refused("trying the password would take more memory or time than a disk may ask for"));
    }
    Slot::new(SlotKind::Password, password, cost, master, disk).ok_or_else(|| {
        BlockError::new(BlockErrorKind::Io, "the host gives no random numbers, or not the memory the password costs")
    })
}

impl Core {
    /// See [`StrataDisk::key_slots`](crate::StrataDisk::key_slots).
    pub fn key_slots(&self) -> Vec<SlotInfo> {
        let checkpoints = self.checkpoints.lock();
        let slots = checkpoints.superblock.slots.iter().enumerate();
        slots
            .filter_map(|(index, slot)| slot.as_ref().map(|slot| (index, slot)))
            .map(|(index, slot)| SlotInfo { index, kind: slot.kind, cost: slot.cost })
            .collect()
    }

    /// See [`StrataDisk::add_password`](crate::StrataDisk::add_password).
    pub fn add_password(&self, password: &[u8], cost: Cost) -> Result<usize, BlockError> {
        let (master, uuid) = self.master()?;
        let slot = password_slot(password, cost, &master, &uuid)?;
        self.add_slot(slot)
    }

    /// See [`StrataDisk::add_recovery_key`](crate::StrataDisk::add_recovery_key).
    pub fn add_recovery_key(&self) -> Result<(usize, Zeroizing<String>), BlockError> {
        let (master, uuid) = self.master()?;
        let no_randomness = || BlockError::new(BlockErrorKind::Io, "the host gives no random numbers");
        let key = Zeroizing::new(random().ok_or_else(no_randomness)?);
        let slot = Slot::new(SlotKind::RecoveryKey, &key[..], Cost::RANDOM, &master, &uuid);
        let index = self.add_slot(slot.ok_or_else(no_randomness)?)?;
        Ok((index, crate::recovery::show(&key)))
    }

    /// See [`StrataDisk::change_password`](crate::StrataDisk::change_password).
    pub fn change_password(&self, index: usize, password: &[u8], cost: Cost) -> Result<(), BlockError> {
        let (master, uuid) = self.master()?;
        let slot = password_slot(password, cost, &master, &uuid)?;
        self.change_slots(|slots| match slots.get_mut(index) {
            Some(Some(old)) if old.kind == SlotKind::Password => {
                *old = slot;
                Ok(())
            }
            Some(Some(_)) => Err(refused(format!("key slot {index} holds a recovery key"))),
            _ => Err(no_slot(index)),
        })
    }

    /// See [`StrataDisk::remove_key_slot`](crate::StrataDisk::remove_key_slot).
    pub fn remove_key_slot(&self, index: usize) -> Result<(), BlockError> {
        self.change_slots(|slots| {
            let used = slots.iter().flatten().count();
            let slot = slots.get_mut(index).filter(|slot| slot.is_some()).ok_or_else(|| no_slot(index))?;
            if used == 1 {
                return Err(refused("the last key slot can not be removed: nobody could open the disk"));
            }
            *slot = None;
            Ok(())
        })
    }

    /// See [`StrataDisk::slot_of`](crate::StrataDisk::slot_of).
    pub fn slot_of(&self, secret: &[u8]) -> Option<usize> {
        let superblock = self.checkpoints.lock().superblock.clone();
        (0..slots::SLOTS).find(|index| {
            let mut only = Slots::default();
            only[*index].clone_from(&superblock.slots[*index]);
            only[*index].is_some() && slots::unlock(&only, secret, &superblock.uuid).is_some()
        })
    }

    fn master(&self) -> Result<(Key, [u8; 16]), BlockError> {
        if self.read_only {
            return Err(BlockError::new(BlockErrorKind::ReadOnly, "the disk is open for reading only"));
        }
        let master = self.store.keys.master().ok_or_else(|| refused("the disk is not encrypted"))?;
        Ok((master, self.checkpoints.lock().superblock.uuid))
    }

    fn add_slot(&self, slot: Slot) -> Result<usize, BlockError> {
        let mut index = 0;
        self.change_slots(|slots| {
            index = slots.iter().position(Option::is_none).ok_or_else(|| refused("all eight key slots are used"))?;
            slots[index] = Some(slot);
            Ok(())
        })?;
        Ok(index)
    }

    /// Changes the slots and writes them to both places.
    fn change_slots(&self, change: impl FnOnce(&mut Slots) -> Result<(), BlockError>) -> Result<(), BlockError> {
        if self.read_only {
            return Err(BlockError::new(BlockErrorKind::ReadOnly, "the disk is open for reading only"));
        }
        let mut checkpoints = self.checkpoints.lock();
        if self.state.lock().poisoned {
            return Err(BlockError::new(BlockErrorKind::Poisoned, "an earlier sync of this disk failed"));
        }
        let mut next = checkpoints.superblock.clone();
        change(&mut next.slots)?;
        if !slots::can_be_paid(&next.slots) {
            return Err(refused("trying all passwords would take more time than a disk may ask for"));
        }
        self.write_superblocks(&mut checkpoints.superblock, next)
    }

    /// Writes a superblock with the head of now to both places, one after the other, so that the older holds nothing
    /// that the newer does not. A cut in between leaves one of each, and the next checkpoint replaces the older.
    pub(crate) fn write_superblocks(&self, current: &mut Superblock, next: Superblock) -> Result<(), BlockError> {
        let key = self.store.keys.superblock_key(next.has_slots()).ok_or_else(no_key)?;
        let medium = &*self.store.medium;
        for _ in 0..2 {
            let next = Superblock { generation: current.generation + 1, ..next.clone() };
            let written = medium
                .write_at(next.offset(), &[&next.encode(&key)[..]])
                .map_err(io_error("writing the superblock"))
                .and_then(|()| self.sync("writing the superblock"));
            if let Err(error) = written {
                // Which of the two is in force is open now.
                self.state.lock().poisoned = true;
                return Err(error);
            }
            *current = next;
        }
        Ok(())
    }
}
