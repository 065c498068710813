//! What is done to a disk until its power goes: by a guest, by people, by a failing host.

use std::ops::ControlFlow;

use benchtop_block::conformance::{Sequence, write};
use benchtop_block::{BlockError, BlockErrorKind, DiskBackend};
use benchtop_strata::{Cost, CryptStatus, Retention, StrataDisk};

use crate::fault::{Fault, PAGE};
use crate::model::{BLOCKS, Marked, Model, block_of, content};

pub const COST: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };
pub const PASSWORD: &[u8] = b"secret";

/// What one seed's disk is like, and what is done to it.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub encrypted: bool,
    pub retention: Retention,
    /// Restore points go by themselves.
    pub thins: bool,
    /// Writes as large as the disk, which fill segments.
    pub large: bool,
    /// It is encrypted and decrypted again and again.
    pub converts: bool,
    /// Writes and syncs fail, and the host fills up.
    pub failing: bool,
}

impl Kind {
    /// Each kind in turn, so that a few seeds have all.
    pub fn of(seed: u64) -> Self {
        let scarce = Retention { budget_min_bytes: 100 * PAGE, budget_percent: 0, ..Retention::default() };
        let (encrypted, retention, thins) = match seed % 4 {
            0 => (false, Retention::default(), false),
            1 => (true, Retention::default(), false),
            2 => (false, Retention::OFF, true),
            _ => (false, scarce, true),
        };
        Self {
            encrypted,
            retention,
            thins,
            large: seed / 4 % 8 == 1,
            converts: seed / 4 % 4 == 2,
            failing: seed % 3 == 1,
        }
    }
}

/// The newest restore point, or 0.
fn newest(disk: &StrataDisk) -> Result<u64, BlockError> {
    Ok(disk.points()?.last().map_or(0, |point| point.seq))
}

/// One step of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Write {
        first: u64,
        count: u64,
        through: bool,
    },
    Discard {
        first: u64,
        count: u64,
    },
    Flush,
    Sync,
    Checkpoint,
    Amend,
    Compact,
    Snapshot,
    Drop,
    Go,
    Resize(u64),
    KeySlot,
    /// Encrypts, or decrypts.
    Convert,
    /// Goes on with it for so many rounds at most.
    ConvertOn(u64),
    /// The host fills up, or has room again.
    Room,
}

impl Step {
    pub fn random(kind: &Kind, random: &mut Sequence) -> Self {
        match random.below(48) {
            0..20 => {
                let first = random.below(BLOCKS);
                let most = if kind.large && random.below(3) == 0 { BLOCKS } else { 12 };
                let count = 1 + random.below((BLOCKS - first).min(most));
                Self::Write { first, count, through: random.below(16) == 0 }
            }
            20..22 => {
                let first = random.below(BLOCKS);
                Self::Discard { first, count: 1 + random.below(BLOCKS - first) }
            }
            22..25 => Self::Sync,
            25..34 => Self::Flush,
            34 | 35 => Self::Amend,
            36 => [Self::Checkpoint, Self::Amend, Self::Compact][random.below(3) as usize],
            37 | 38 => Self::Snapshot,
            39 => Self::Go,
            // What is behind the blocks that are looked at comes and goes.
            40 => Self::Resize(BLOCKS + random.below(3) * random.below(1 << 20)),
            41 => Self::KeySlot,
            42 if kind.failing => Self::Room,
            43 | 44 if kind.converts => {
                if random.below(3) == 0 {
                    Self::Convert
                } else {
                    Self::ConvertOn(random.below(4))
                }
            }
            _ => Self::Drop,
        }
    }

    /// Carries it out. What it changes is in the model before the disk hears of it.
    pub fn carry_out(
        self,
        disk: &mut StrataDisk,
        fault: &Fault,
        model: &mut Model,
        random: &mut Sequence,
    ) -> Result<(), BlockError> {
        let converting = matches!(disk.crypt_status(), CryptStatus::Encrypting | CryptStatus::Decrypting);
        match self {
            Self::Write { first, count, through } => {
                let mut bytes = Vec::new();
                for block in first..first + count {
                    model.counter += 1;
                    let value = if random.below(8) == 0 { 0 } else { model.counter };
                    bytes.extend(block_of(value));
                    model.change(block, value);
                }
                write(disk, first * PAGE, &bytes, &[], through)?;
                if through {
                    model.flush();
                }
            }
            Self::Discard { first, count } => {
                (first..first + count).for_each(|block| model.change(block, 0));
                disk.discard(first * PAGE, count * PAGE)?;
            }
            Self::Sync => {
                disk.sync()?;
                model.flush();
            }
            Self::Flush => {
                // Every flush of something new can be returned to.
                let before = if random.below(6) == 0 { Some(newest(disk)?) } else { None };
                disk.flush()?;
                model.flush();
                if let Some(before) = before {
                    model.mark_flush(before, newest(disk)?, model.now.clone());
                }
            }
            Self::Checkpoint => disk.checkpoint()?,
            Self::Amend => disk.amend()?,
            Self::Compact => disk.compact(0)?,
            Self::Snapshot if !converting => {
                model.counter += 1;
                let name = format!("s{}", model.counter);
                let content = model.now.clone();
                let seq = disk.snapshot(&name)?;
                model.flush();
                model.marked.retain(|marked| marked.seq != seq);
                model.marked.push(Marked { name: Some(name), seq, content, dropped: false });
            }
            Self::Go if !converting => {
                let points = disk.points()?;
                // Others may go just when they are gone to.
                let stays = |marked: &&Marked| marked.name.is_some() || disk.retention() == Retention::default();
                let is_there = |marked: &&Marked| points.iter().any(|point| point.seq == marked.seq);
                let there: Vec<&Marked> = model.marked.iter().filter(stays).filter(is_there).collect();
                if !there.is_empty() {
                    let marked = there[random.below(there.len() as u64) as usize];
                    let (seq, content) = (marked.seq, marked.content.clone());
                    let (before, then) = (newest(disk)?, model.now.clone());
                    model.change_all(&content);
                    disk.go(seq)?;
                    model.flush();
                    // What was left can be returned to.
                    model.mark_flush(before, newest(disk)?, then);
                }
            }
            Self::Drop if !converting => {
                let points = disk.points()?;
                if !points.is_empty() {
                    let seq = points[random.below(points.len() as u64) as usize].seq;
                    model.marked.iter_mut().filter(|marked| marked.seq == seq).for_each(|marked| marked.dropped = true);
                    disk.drop_point(seq)?;
                    model.flush();
                }
            }
            Self::Resize(blocks) => {
                disk.resize(blocks * PAGE, true)?;
                model.flush();
            }
            Self::KeySlot if !converting && !disk.key_slots().is_empty() => {
                if let Some(slot) = disk.key_slots().iter().find(|slot| slot.index > 0) {
                    disk.remove_key_slot(slot.index)?;
                } else {
                    disk.add_password(b"another", COST)?;
                }
            }
            Self::Convert if !converting => {
                model.marked.iter_mut().for_each(|marked| marked.dropped = true);
                match disk.crypt_status() {
                    CryptStatus::Plain => disk.encrypt(PASSWORD, COST, true)?,
                    _ => disk.decrypt(true)?,
                }
                model.flush();
            }
            Self::ConvertOn(rounds) => {
                let mut left = rounds;
                let mut progress = |_| {
                    left = left.wrapping_sub(1);
                    if left == u64::MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                };
                disk.convert(&mut progress)?;
            }
            Self::Room => fault.fill_up(random.below(2) == 0),
            // Not while it is being encrypted or decrypted.
            Self::Snapshot | Self::Go | Self::Drop | Self::KeySlot | Self::Convert => {}
        }
        Ok(())
    }
}

/// Works until the power goes, or `steps` are done. A failure of the host that the disk can be opened anew after is
/// gone on from.
pub fn work(
    disk: &mut StrataDisk,
    fault: &Fault,
    kind: &Kind,
    model: &mut Model,
    random: &mut Sequence,
    steps: u64,
) -> Result<(), String> {
    for _ in 0..steps {
        let step = Step::random(kind, random);
        let before = model.clone();
        if let Err(error) = step.carry_out(disk, fault, model, random) {
            if fault.is_cut() {
                return Ok(());
            }
            if !kind.failing {
                return Err(format!("{step:?} failed with the power on: {error}"));
            }
            after_failure(disk, fault, before, model, &error).map_err(|why| format!("{step:?}, {error}: {why}"))?;
            if fault.is_cut() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A step failed, but the power is there: the guest has what it had, and what the step changed in part.
fn after_failure(
    disk: &StrataDisk,
    fault: &Fault,
    before: Model,
    model: &mut Model,
    error: &BlockError,
) -> Result<(), String> {
    if error.kind() == BlockErrorKind::Unsupported {
        return Err("it was refused".to_owned());
    }
    fault.fill_up(false);
    let forgotten = fault.forgotten();
    // Does nothing if nothing is amiss but room. Another failure may be due meanwhile.
    let mut opened = disk.reopen();
    for _ in 0..2 {
        opened = opened.or_else(|_error| disk.reopen());
    }
    if let Err(error) = opened {
        return if fault.is_cut() { Ok(()) } else { Err(format!("it can not be opened anew: {error}")) };
    }
    let found = content(disk)?;
    if fault.forgotten() > forgotten {
        if !model.allows(&found) && !before.allows(&found) {
            return Err(format!("{found:?}\nis nothing that was there since\n{:?}", before.flushed));
        }
        // It was opened anew, which made what was found durable.
        model.settle(found);
        return Ok(());
    }
    let reached = model.since.get(before.since.len()..).unwrap_or_default().to_vec();
    let (marked, counter) = (std::mem::take(&mut model.marked), model.counter);
    *model = Model { marked, counter, ..before };
    // The step was done in part, and promised nothing.
    for (block, found) in (0..).zip(&found) {
        if model.now[block as usize] != *found {
            if !reached.iter().any(|change| change.block as u64 == block && change.value == *found) {
                return Err(format!("block {block} holds {found}, which nobody wrote"));
            }
            model.change(block, *found);
        }
    }
    Ok(())
}
