//! Images that say with a table where each block of the disk lies in the file.
//!
//! ```text
//!   VdiDisk · VhdDisk · VhdxDisk · VmdkDisk ─▶ MappedDisk ─▶ Layout (the format: slots, entries, commit)
//!                                                  └──────▶ Table (pages of the map) · ImageFile (I/O, poison)
//! ```
//!
//! Blocks are added at the end of the file and never move or go away, so a transfer to a block that exists needs no
//! lock. A discard makes holes in the file and leaves the map as it is: other programs find nothing unusual.
//!
//! **Order.** An entry changes in memory when the block's data is written, and goes to the file in a commit: data is
//! synced, then the entries are written and synced. So after a crash an entry never names a block whose content was
//! not durable, and an uncommitted block is only room lost at the end of the file. A flush and a forced write commit;
//! so do many changed pages, and closing.
//!
//! **Bounds.** 8 MiB of the map are in memory, and as much again at most while all of it is being changed.

mod own;
mod survey;
mod table;

#[cfg(test)]
pub(crate) mod crash;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use benchtop_block::{BlockError, BlockErrorKind, DiskBackend, DiskInfo, Extent, ExtentKind, pieces};
use benchtop_memory::VolatileSlice;
use parking_lot::Mutex;

use crate::file::ImageFile;
use crate::image::CheckReport;

pub(crate) use own::Own;
pub(crate) use survey::{survey, zero_tail};
pub(crate) use table::PageCopy;
use table::{MAX_CHANGED, Table};

/// Blocks looked at by one [`DiskBackend::extent_at`], at most.
const MAX_EXTENT_BLOCKS: u64 = 1 << 16;

/// Where a block of the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nowhere: it reads as zeroes, and a write makes room for it.
    Absent,
    /// At this offset of the file.
    At(u64),
    /// At this offset of the file, in a form that [`Layout::unpack`] understands. It can not be written.
    Packed(u64),
}

/// The entry of a block in the map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) page: u64,
    /// Offset in the page, in bytes.
    pub(crate) at: usize,
}

/// Room for a new block, in offsets of the file.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    /// Where the room begins.
    pub(crate) start_bytes: u64,
    /// Where the block's data begins.
    pub(crate) data_bytes: u64,
    /// Where the room ends and the next one may begin.
    pub(crate) end_bytes: u64,
    /// The new entry as it stands in the map: 4 or 8 bytes.
    pub(crate) entry: Vec<u8>,
}

/// What a format says of its map. Called with the map locked, except `commit`, `before_sync`, `written` and `unpack`.
pub(crate) trait Layout: Send + Sync {
    /// Where the entry of a block of the disk is.
    fn slot(&self, block: u64) -> Slot;

    /// Offset in the file and length of a page of the map, at most 4096 bytes; `None` for one that is not stored and
    /// whose entries are all absent.
    fn page(&self, page: u64) -> Option<(u64, usize)>;

    /// Headers and tables. No entry leads there.
    fn own(&self) -> &Own;

    /// Bytes before the data of a block that belong to it.
    fn before_data(&self) -> u64 {
        0
    }

    /// What an entry says; `entry` begins with it. Checks that it is possible.
    fn decode(&self, block: u64, entry: &[u8]) -> Result<Place, BlockError>;

    /// Room for a block from `end_bytes` of the file on.
    fn reserve(&self, block: u64, end_bytes: u64) -> Result<Room, BlockError>;

    /// What belongs into new room beside zeroes, written before the data.
    fn prepare(&self, _file: &ImageFile, _room: &Room) -> Result<(), BlockError> {
        Ok(())
    }

    /// Before the first write of a session.
    fn begin(&self, _file: &ImageFile) -> Result<(), BlockError> {
        Ok(())
    }

    /// After data of a block that was there was written.
    fn written(&self, _file: &ImageFile, _data_bytes: u64, _in_block: u64, _len: u64) -> Result<(), BlockError> {
        Ok(())
    }

    /// What must be durable before changed entries are.
    fn before_sync(&self, _file: &ImageFile, _end_bytes: u64) -> Result<(), BlockError> {
        Ok(())
    }

    /// Writes changed pages and makes them durable. The data they name is durable.
    fn commit(&self, file: &ImageFile, pages: &[PageCopy]) -> Result<(), BlockError> {
        for copy in pages {
            if let Some((offset_bytes, _)) = self.page(copy.page) {
                file.write_bytes(offset_bytes, &copy.bytes)?;
            }
        }
        file.sync()
    }

    /// After the last commit, when something was written.
    fn close(&self, _file: &ImageFile) -> Result<(), BlockError> {
        Ok(())
    }

    /// How much of the file a packed block takes, in bytes.
    fn packed_bytes(&self, _file: &ImageFile, block: u64, _offset_bytes: u64) -> Result<u64, BlockError> {
        Err(unknown_form(block))
    }

    /// The content of a packed block, as long as a block.
    fn unpack(&self, _file: &ImageFile, block: u64, _offset_bytes: u64) -> Result<std::sync::Arc<[u8]>, BlockError> {
        Err(unknown_form(block))
    }
}

fn unknown_form(block: u64) -> BlockError {
    BlockError::new(BlockErrorKind::Corrupt, format!("block {block} has a form this format does not know"))
}

/// A part of a request that lies in one block.
struct Run<'a> {
    block: u64,
    in_block: u64,
    slices: Vec<VolatileSlice<'a>>,
}

/// An open image with a block map.
pub(crate) struct MappedDisk<L: Layout> {
    file: ImageFile,
    layout: L,
    info: DiskInfo,
    block_bytes: usize,
    table: Mutex<Table>,
    /// One commit at a time.
    committing: Mutex<()>,
    /// Something was written since the image was opened.
    begun: AtomicBool,
}

impl<L: Layout> MappedDisk<L> {
    /// `block_bytes` is a positive multiple of a sector; `end_bytes` is where the next block goes, at the earliest: for
    /// a writer not before what [`survey()`] says.
    pub(crate) fn new(file: ImageFile, layout: L, info: DiskInfo, block_bytes: u32, end_bytes: u64) -> Self {
        Self {
            file,
            layout,
            info,
            block_bytes: block_bytes.max(512) as usize,
            table: Mutex::new(Table::new(end_bytes)),
            committing: Mutex::new(()),
            begun: AtomicBool::new(false),
        }
    }

    /// Where in the file a transfer to a stored block goes. One that leaves the file is refused: a table may say
    /// anything, and a write must not make the file grow to there.
    fn in_file(&self, start_bytes: u64, in_block: u64, len_bytes: u64) -> Result<u64, BlockError> {
        let at = start_bytes.saturating_add(in_block);
        self.file.check_stored(at, len_bytes)?;
        Ok(at)
    }

    fn runs<'a>(&self, offset_bytes: u64, slices: &[VolatileSlice<'a>]) -> Vec<Run<'a>> {
        let mut runs: Vec<Run<'a>> = Vec::new();
        let gathered: Result<(), std::convert::Infallible> =
            pieces::for_each(offset_bytes, slices, self.block_bytes, |piece| {
                match runs.last_mut() {
                    Some(run) if run.block == piece.unit => run.slices.push(piece.memory),
                    _ => {
                        runs.push(Run { block: piece.unit, in_block: piece.offset as u64, slices: vec![piece.memory] })
                    }
                }
                Ok(())
            });
        match gathered {
            Ok(()) => runs,
            Err(never) => match never {},
        }
    }

    fn place(&self, table: &mut Table, block: u64) -> Result<Place, BlockError> {
        let slot = self.layout.slot(block);
        if let Some(bytes) = table.get(slot.page) {
            return self.layout.decode(block, bytes.get(slot.at..).unwrap_or_default());
        }
        let Some((offset_bytes, len)) = self.layout.page(slot.page) else { return Ok(Place::Absent) };
        let bytes = self.file.read_metadata(offset_bytes, len, "block map")?;
        let place = self.layout.decode(block, bytes.get(slot.at..).unwrap_or_default());
        table.insert(slot.page, bytes);
        place
    }

    fn read_run(&self, run: &Run<'_>) -> Result<(), BlockError> {
        let place = self.place(&mut self.table.lock(), run.block)?;
        match place {
            Place::Absent => run.slices.iter().for_each(pieces::zero),
            Place::At(start_bytes) => {
                let at = self.in_file(start_bytes, run.in_block, pieces::len_bytes(&run.slices))?;
                self.file.read(at, &run.slices)?;
            }
            Place::Packed(offset_bytes) => {
                let content = self.layout.unpack(&self.file, run.block, offset_bytes)?;
                let mut rest = usize::try_from(run.in_block).ok().and_then(|at| content.get(at..)).unwrap_or_default();
                for slice in &run.slices {
                    let Some((here, after)) = rest.split_at_checked(slice.len()) else {
                        let context = format!("block {} is shorter than it must be", run.block);
                        return Err(BlockError::new(BlockErrorKind::Corrupt, context));
                    };
                    slice.copy_from(here);
                    rest = after;
                }
            }
        }
        Ok(())
    }

    fn write_run(&self, run: &Run<'_>) -> Result<(), BlockError> {
        let mut place = self.place(&mut self.table.lock(), run.block)?;
        if place == Place::Absent {
            if self.table.lock().count_changed() >= MAX_CHANGED {
                self.commit()?;
            }
            match self.write_new(run)? {
                Place::Absent => return Ok(()),
                // Another thread made it first.
                made => place = made,
            }
        }
        let Place::At(start_bytes) = place else {
            let context = "a block that is compressed can not be written";
            return Err(BlockError::new(BlockErrorKind::Unsupported, context));
        };
        let len_bytes = pieces::len_bytes(&run.slices);
        self.file.write(self.in_file(start_bytes, run.in_block, len_bytes)?, &run.slices)?;
        self.layout.written(&self.file, start_bytes, run.in_block, len_bytes)
    }

    /// Makes room and writes, unless the block is there by now: then its place is the answer, else `Absent`.
    fn write_new(&self, run: &Run<'_>) -> Result<Place, BlockError> {
        let mut table = self.table.lock();
        let place = self.place(&mut table, run.block)?;
        if place != Place::Absent {
            return Ok(place);
        }
        let slot = self.layout.slot(run.block);
        if self.layout.page(slot.page).is_none() {
            let context = format!("the image has no table for block {}, and making one is not built", run.block);
            return Err(BlockError::new(BlockErrorKind::Unsupported, context));
        }
        let room = self.layout.reserve(run.block, table.end_bytes)?;
        // What a crash or another program left behind the last block must not show.
        let file_bytes = self.file.len_bytes();
        if room.start_bytes < file_bytes {
            self.file.zero(room.start_bytes, file_bytes.min(room.end_bytes) - room.start_bytes)?;
        }
        self.file.grow(room.end_bytes)?;
        self.layout.prepare(&self.file, &room)?;
        self.file.write(room.data_bytes.saturating_add(run.in_block), &run.slices)?;
        if !table.set(slot.page, slot.at, &room.entry) {
            let context = format!("the map has no entry for block {}", run.block);
            return Err(BlockError::new(BlockErrorKind::Corrupt, context));
        }
        table.end_bytes = room.end_bytes;
        Ok(Place::Absent)
    }

    /// Makes everything that was written before durable, data before the entries that name it.
    fn commit(&self) -> Result<(), BlockError> {
        let one = self.committing.lock();
        self.file.check_poison()?;
        let (copies, end_bytes) = {
            let mut table = self.table.lock();
            (table.begin_commit(), table.end_bytes)
        };
        let result = self.commit_copies(&copies, end_bytes);
        self.table.lock().end_commit(result.is_ok());
        drop(one);
        result
    }

    fn commit_copies(&self, copies: &[PageCopy], end_bytes: u64) -> Result<(), BlockError> {
        if copies.is_empty() {
            return self.file.sync();
        }
        self.layout.before_sync(&self.file, end_bytes)?;
        self.file.sync()?;
        self.layout.commit(&self.file, copies)
    }

    fn begin(&self) -> Result<(), BlockError> {
        if self.begun.load(Relaxed) {
            return Ok(());
        }
        let one = self.committing.lock();
        if !self.begun.load(Relaxed) {
            self.layout.begin(&self.file)?;
            self.begun.store(true, Relaxed);
        }
        drop(one);
        Ok(())
    }

    fn check_write(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        self.info.check_write(offset_bytes, len_bytes)?;
        self.file.check_poison()
    }

    fn discard_range(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        let block_bytes = self.block_bytes as u64;
        let mut at = offset_bytes;
        let end = offset_bytes.saturating_add(len_bytes);
        while at < end {
            let in_block = at % block_bytes;
            let here = (block_bytes - in_block).min(end - at);
            let place = self.place(&mut self.table.lock(), at / block_bytes)?;
            if let Place::At(start_bytes) = place {
                self.file.discard(self.in_file(start_bytes, in_block, here)?, here)?;
            }
            at = at.saturating_add(here);
        }
        Ok(())
    }
}

/// A disk of a format whose description of itself can be checked.
pub(crate) trait Checked: DiskBackend {
    /// See [`image::check`](crate::image::check).
    fn check(&self) -> Result<CheckReport, BlockError>;
}

impl<L: Layout> Checked for MappedDisk<L> {
    fn check(&self) -> Result<CheckReport, BlockError> {
        survey::check(self)
    }
}

impl<L: Layout> DiskBackend for MappedDisk<L> {
    fn info(&self) -> DiskInfo {
        self.info.clone()
    }

    fn read_at(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), BlockError> {
        self.info.check_range(offset_bytes, pieces::len_bytes(into))?;
        self.runs(offset_bytes, into).iter().try_for_each(|run| self.read_run(run))
    }

    fn write_at(&self, offset_bytes: u64, from: &[VolatileSlice<'_>], fua: bool) -> Result<(), BlockError> {
        self.check_write(offset_bytes, pieces::len_bytes(from))?;
        self.begin()?;
        let written = self.runs(offset_bytes, from).iter().try_for_each(|run| self.write_run(run));
        written.and_then(|()| if fua { self.commit() } else { Ok(()) })
    }

    fn flush(&self) -> Result<(), BlockError> {
        if self.info.read_only { Ok(()) } else { self.commit() }
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BlockError> {
        self.check_write(offset_bytes, len_bytes)?;
        if len_bytes == 0 || self.info.discard == benchtop_block::DiscardBehavior::Ignored {
            return Ok(());
        }
        self.begin()?;
        self.discard_range(offset_bytes, len_bytes)
    }

    fn extent_at(&self, offset_bytes: u64, limit_bytes: u64) -> Result<Extent, BlockError> {
        self.info.check_range(offset_bytes, limit_bytes)?;
        if limit_bytes == 0 {
            return Err(BlockError::new(BlockErrorKind::OutOfRange, "an empty range has no extents"));
        }
        let block_bytes = self.block_bytes as u64;
        let in_block = offset_bytes % block_bytes;
        let first = offset_bytes / block_bytes;
        let here = (block_bytes - in_block).min(limit_bytes);
        let mut table = self.table.lock();
        match self.place(&mut table, first)? {
            Place::Packed(_) => return Ok(Extent { kind: ExtentKind::Data, len_bytes: here }),
            Place::At(start_bytes) => return Ok(self.file.extent(start_bytes.saturating_add(in_block), here)),
            Place::Absent => {}
        }
        let mut len_bytes = here;
        for block in first + 1..first.saturating_add(MAX_EXTENT_BLOCKS) {
            if len_bytes >= limit_bytes || self.place(&mut table, block)? != Place::Absent {
                break;
            }
            len_bytes = len_bytes.saturating_add(block_bytes);
        }
        Ok(Extent { kind: ExtentKind::Zeroes, len_bytes: len_bytes.min(limit_bytes) })
    }

    fn reopen(&self) -> Result<(), BlockError> {
        if self.info.read_only {
            return Ok(());
        }
        self.file.reopen()?;
        self.commit()
    }
}

impl<L: Layout> Drop for MappedDisk<L> {
    fn drop(&mut self) {
        // There is nobody to tell of a failure. Whoever cares for the writes has flushed.
        if self.begun.load(Relaxed) && !self.table.lock().is_durable() && self.commit().is_err() {
            return;
        }
        if self.begun.load(Relaxed) && self.file.check_poison().is_ok() {
            self.layout.close(&self.file).unwrap_or_default();
        }
    }
}

/// Makes a public type with a `backend` field that is a [`DiskBackend`] itself a [`DiskBackend`].
macro_rules! delegate_backend {
    ($disk:ty) => {
        impl benchtop_block::DiskBackend for $disk {
            fn info(&self) -> benchtop_block::DiskInfo {
                self.backend.info()
            }

            fn read_at(
                &self,
                offset_bytes: u64,
                into: &[benchtop_memory::VolatileSlice<'_>],
            ) -> Result<(), benchtop_block::BlockError> {
                self.backend.read_at(offset_bytes, into)
            }

            fn write_at(
                &self,
                offset_bytes: u64,
                from: &[benchtop_memory::VolatileSlice<'_>],
                fua: bool,
            ) -> Result<(), benchtop_block::BlockError> {
                self.backend.write_at(offset_bytes, from, fua)
            }

            fn flush(&self) -> Result<(), benchtop_block::BlockError> {
                self.backend.flush()
            }

            fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), benchtop_block::BlockError> {
                self.backend.discard(offset_bytes, len_bytes)
            }

            fn extent_at(
                &self,
                offset_bytes: u64,
                limit_bytes: u64,
            ) -> Result<benchtop_block::Extent, benchtop_block::BlockError> {
                self.backend.extent_at(offset_bytes, limit_bytes)
            }

            fn reopen(&self) -> Result<(), benchtop_block::BlockError> {
                self.backend.reopen()
            }
        }

        impl std::fmt::Debug for $disk {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($disk))
                    .field("info", &benchtop_block::DiskBackend::info(self))
                    .finish_non_exhaustive()
            }
        }
    };
}
pub(crate) use delegate_backend;
