//! Making things durable in an order that leaves a consistent image wherever the power fails.
//!
//! ```text
//!   data, refcount blocks ─(sync)─ refcount table ─▶ sync ─▶ L2 tables ─▶ sync ─▶ L1 table ─▶ sync ─▶ frees
//! ```
//!
//! Counts go up before anything names a cluster, and down after nothing does, so that a cut leaves at worst clusters
//! that are counted and not used. All of it happens in a commit: between commits changes of metadata stay in memory.
//! Commits run one at a time, and those who wait for one share the next.

use std::sync::atomic::Ordering::SeqCst;

use benchtop_block::BlockError;
use benchtop_memory::VolatileSlice;

use super::Qcow2Disk;
use super::meta::Batch;

/// How much is read and written again at once after a failed sync, in bytes.
const REWRITE_BYTES: u64 = 256 << 10;

impl Qcow2Disk {
    /// Makes all that completed before this call durable.
    ///
    /// # Errors
    /// `Poisoned` when a sync fails, now or earlier; else the host's, and all is still to be committed.
    pub(super) fn commit(&self) -> Result<(), BlockError> {
        // A commit that starts from now on is good enough.
        let needed = self.commits_started.load(SeqCst) + 1;
        let mut done = self.commits_done.lock();
        self.file.check_poison()?;
        if *done >= needed {
            return Ok(());
        }
        let number = self.commits_started.fetch_add(1, SeqCst) + 1;
        let mut batch = self.meta.lock().begin_commit();
        let result = self.write_batch(&batch);
        self.meta.lock().end_commit(&mut batch, result.is_ok());
        result?;
        *done = number;
        if !batch.frees.is_empty() {
            // Nothing in the file names these clusters, and whoever did was waited for before the entry changed.
            let unused = self.meta.lock().unused_after(&batch.frees, &self.file);
            for run in unused.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
                let bits = self.header.layout.cluster_bits;
                let start = run.first().copied().unwrap_or(0) << bits;
                self.file.give_room_back(start, (run.len() as u64) << bits);
            }
            self.meta.lock().give_back(&batch.frees, &self.file);
        }
        Ok(())
    }

    fn write_batch(&self, batch: &Batch) -> Result<(), BlockError> {
        for write in &batch.refcount_blocks {
            write.write(&self.file)?;
        }
        if !batch.refcount_table.is_empty() {
            self.file.sync()?;
            self.write_entries(&batch.refcount_table)?;
        }
        self.file.sync()?;
        if !batch.l2.is_empty() {
            for write in &batch.l2 {
                write.write(&self.file)?;
            }
            self.file.sync()?;
        }
        if !batch.l1.is_empty() {
            self.write_entries(&batch.l1)?;
            self.file.sync()?;
        }
        Ok(())
    }

    /// Writes entries of a table, neighbours together.
    fn write_entries(&self, entries: &[(u64, u64)]) -> Result<(), BlockError> {
        for run in entries.chunk_by(|a, b| a.0 + 8 == b.0) {
            let Some((offset, _)) = run.first() else { continue };
            let bytes: Vec<u8> = run.iter().flat_map(|(_, entry)| entry.to_be_bytes()).collect();
            self.file.write_bytes(*offset, &bytes)?;
        }
        Ok(())
    }

    /// Commits if so much waits for it that memory would not be bounded otherwise.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub(super) fn commit_if_due(&self) -> Result<(), BlockError> {
        let due = self.meta.lock().is_commit_due();
        if due { self.commit() } else { Ok(()) }
    }

    /// After a failed sync the host may call pages clean that it never wrote. Metadata that was not durable is still
    /// in memory and a commit writes it again; what was copied around a guest's write is read back and written again.
    ///
    /// # Errors
    /// The host's; the image stays poisoned.
    pub(super) fn recover(&self) -> Result<(), BlockError> {
        self.file.unpoison()?;
        let fills = self.meta.lock().unsafe_fills();
        let rewritten = fills.into_iter().try_for_each(|range| {
            let mut at = range.start;
            while at < range.end {
                let mut bytes = self.file.read_bytes(at, (range.end - at).min(REWRITE_BYTES) as usize)?;
                self.file.write(at, &[VolatileSlice::from(&mut bytes[..])])?;
                at += bytes.len() as u64;
            }
            Ok(())
        });
        rewritten.and_then(|()| self.commit()).inspect_err(|_error| self.file.poison_again())
    }
}
