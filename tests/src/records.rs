//! The numbered records that the bare-metal guest's `mode=writeloop` writes round a ring of slots, as the host finds
//! them in the image.

use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::guests::crc32;

/// What a record takes.
pub const SLOT_BYTES: u64 = 4096;

/// The highest number the guest has named as complete. A line that is not whole may lack digits and does not count.
pub fn last_reported(serial: &str) -> Option<u32> {
    let (whole, _begun) = serial.rsplit_once('\n')?;
    whole.lines().rev().find_map(|line| line.strip_prefix("done ")?.parse().ok())
}

/// The number of the record in each slot, if all its sectors are whole and agree.
fn records(image: &Path, slots: u32) -> Result<Vec<Option<u32>>> {
    let mut content = Vec::new();
    fs::File::open(image)?.take(u64::from(slots) * SLOT_BYTES).read_to_end(&mut content)?;
    let word = |sector: &[u8], index: usize| {
        u32::from_le_bytes([sector[index * 4], sector[index * 4 + 1], sector[index * 4 + 2], sector[index * 4 + 3]])
    };
    let slot_number = |slot: &[u8]| {
        let first = word(slot, 0);
        slot.chunks_exact(512)
            .all(|sector| {
                let body = [&sector[..8], &sector[12..]].concat();
                word(sector, 0) == first && word(sector, 2) == crc32(&body)
            })
            .then_some(first)
    };
    Ok(content.chunks_exact(SLOT_BYTES as usize).map(slot_number).collect())
}

/// Checks that the records `first` to `done`, which the guest named as complete, are in `image`, as far as the ring of
/// `slots` has not gone over them again.
///
/// # Errors
/// One that is not, or the host's.
pub fn check(image: &Path, slots: u32, first: u32, done: u32) -> Result<()> {
    let found = records(image, slots)?;
    ensure!(found.len() == slots as usize, "the image has {} slots of {slots}", found.len());
    for back in 0..slots.min((done + 1).saturating_sub(first)) {
        let number = done - back;
        let in_slot = found[(number % slots) as usize];
        // The one write in flight may be torn: it went to the slot of the oldest record.
        let overtaken = back == slots - 1;
        ensure!(
            in_slot.is_some_and(|in_slot| in_slot >= number) || overtaken,
            "record {number} was reported complete, but its slot holds {in_slot:?}"
        );
    }
    Ok(())
}
