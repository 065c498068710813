//! The head: everything a checkpoint keeps beside the pages of the map. It is written whole, in turn to two areas.

use benchtop_block::{BlockError, BlockErrorKind};
use serde::{Deserialize, Serialize};

use crate::graves::GravesV1;
use crate::layout::{HEAD_BYTES_MAX, HEADS, Tag};
use crate::medium::Medium;
use crate::pages::Root;
use crate::points::{Point, Retention};
use crate::seal::{Epoch, EpochKey};
use crate::space::SpaceV1;

/// Records that a disk can have: a billion a second for a century. Sums with smaller numbers can not overflow.
const SEQ_MAX: u64 = 1 << 62;

/// Where the log goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPosition {
    /// The segment.
    pub segment: u64,
    /// Where it lies.
    pub place: u32,
    /// The block in it.
    pub slot: u64,
    /// Number of the record before.
    pub seq: u64,
    /// Its tag.
    pub tag: Tag,
}

/// A checkpoint that points are counted from: the map as it was, and the log from there on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The map.
    pub root: Root,
    /// The log; its `seq` is the checkpoint's number.
    pub log: LogPosition,
    /// Size of the guest's disk then.
    pub size_bytes: u64,
}

/// The disk is being encrypted or decrypted in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversion {
    /// Blocks born before this record are still to be written anew.
    pub first: u64,
    /// The segment in which the log went on then: whatever lies in an earlier one is older.
    pub first_segment: u64,
    /// Which points are kept when it is done; until then none is made.
    pub retention: Retention,
}

/// Version 1, as postcard writes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeadV1 {
    /// The newest map, and the log that changes it.
    pub now: Base,
    /// Older ones that kept points need, ascending.
    pub bases: Vec<Base>,
    /// Openings for writing.
    pub epochs: Vec<Epoch>,
    /// Segments and places.
    pub space: SpaceV1,
    /// Restore points.
    pub points: Vec<Point>,
    /// Blocks that only points need.
    pub graves: GravesV1,
    /// Which points are kept.
    pub retention: Retention,
    /// Work that goes on after the next opening.
    pub conversion: Option<Conversion>,
}

/// A head that was written: what the superblock says of it.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// Which area.
    pub area: u8,
    /// Length in bytes.
    pub len: u32,
    /// What authenticates it.
    pub tag: Tag,
}

impl HeadV1 {
    /// Writes it to an area, 0 or 1. Not yet synced.
    ///
    /// # Errors
    /// `NoSpace` when it does not fit, else the host's.
    pub fn write(&self, medium: &dyn Medium, key: &EpochKey, generation: u64, area: u8) -> Result<Written, BlockError> {
        let mut bytes = postcard::to_stdvec(self).map_err(|error| {
            BlockError::new(BlockErrorKind::Io, format!("the head can not be written down: {error}"))
        })?;
        if bytes.len() > HEAD_BYTES_MAX {
            let context = "the disk's list of points and segments is longer than its area; drop restore points";
            return Err(BlockError::new(BlockErrorKind::NoSpace, context));
        }
        let len = bytes.len() as u32;
        let tag = key.seal_head(generation, &mut bytes).ok_or_else(crate::pages::no_key)?;
        medium
            .write_at(HEADS[usize::from(area)], &[&bytes])
            .map_err(|error| BlockError::from_io("writing the head failed", error))?;
        Ok(Written { area, len, tag })
    }

    /// Reads the one that `written` describes.
    ///
    /// # Errors
    /// `Corrupt`, or the host's.
    pub fn read(medium: &dyn Medium, key: &EpochKey, generation: u64, written: &Written) -> Result<Self, BlockError> {
        let corrupt = |why: &str| BlockError::new(BlockErrorKind::Corrupt, format!("the disk's head {why}"));
        let offset = HEADS.get(usize::from(written.area)).ok_or_else(|| corrupt("is nowhere"))?;
        if written.len as usize > HEAD_BYTES_MAX {
            return Err(corrupt("is too long"));
        }
        let mut bytes = vec![0; written.len as usize];
        medium.read_at(*offset, &mut bytes).map_err(|error| BlockError::from_io("reading the head failed", error))?;
        if !key.open_head(generation, &mut bytes, &written.tag) {
            return Err(corrupt("is damaged"));
        }
        let head: Self = postcard::from_bytes(&bytes).map_err(|_error| corrupt("can not be understood"))?;
        let sane = |base: &Base| {
            (1..=crate::pages::LEVELS_MAX).contains(&base.root.levels)
                && base.log.slot < crate::layout::SEGMENT_BLOCKS
                && (1..=crate::layout::SEGMENT_MAX).contains(&base.log.segment)
                && base.log.seq < SEQ_MAX
                && crate::superblock::can_be_size(base.size_bytes)
                && base.root.capacity() >= crate::resize::blocks(base.size_bytes)
        };
        if sane(&head.now) && head.bases.iter().all(sane) { Ok(head) } else { Err(corrupt("contradicts itself")) }
    }
}
