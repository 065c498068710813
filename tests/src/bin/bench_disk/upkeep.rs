//! What our disks do in the background, asked for now.

use anyhow::Result;
use benchtop_strata::StrataDisk;

/// Puts `disk` in order: what lies scattered is written anew, what is left of nearly empty segments moves together.
///
/// # Errors
/// The disk's.
pub fn compact(disk: &StrataDisk) -> Result<()> {
    disk.compact(10)?;
    Ok(())
}

/// The same, until nothing more can be gained.
///
/// # Errors
/// The disk's.
pub fn compact_all(disk: &StrataDisk) -> Result<()> {
    disk.compact(0)?;
    Ok(())
}

/// Gives back what no restore point needs any more: what the disk does by itself when it is at rest.
///
/// # Errors
/// The disk's.
pub fn free(disk: &StrataDisk) -> Result<()> {
    disk.compact(10)?;
    Ok(())
}
