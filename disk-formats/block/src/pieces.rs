//! Arithmetic on the scatter lists of a request.

use benchtop_memory::VolatileSlice;

/// Bytes in all `slices` together.
pub fn len_bytes(slices: &[VolatileSlice<'_>]) -> u64 {
    slices.iter().fold(0, |sum: u64, slice| sum.saturating_add(slice.len() as u64))
}

/// One piece of a request that lies in one unit of the disk and in one slice.
#[derive(Debug)]
pub struct Piece<'a> {
    /// Which unit of the disk.
    pub unit: u64,
    /// Where in it, in bytes.
    pub offset: usize,
    /// The memory.
    pub memory: VolatileSlice<'a>,
}

/// Cuts the request that starts at `offset_bytes` at every multiple of `unit_bytes` and at every end of a slice, and
/// calls `each` with the pieces in order until one fails. `unit_bytes` must not be 0.
///
/// # Errors
/// The first of `each`.
pub fn for_each<'a, E>(
    offset_bytes: u64,
    slices: &[VolatileSlice<'a>],
    unit_bytes: usize,
    mut each: impl FnMut(Piece<'a>) -> Result<(), E>,
) -> Result<(), E> {
    let mut position = offset_bytes;
    for slice in slices {
        let mut rest = *slice;
        while !rest.is_empty() {
            let offset = (position % unit_bytes as u64) as usize;
            let here = rest.len().min(unit_bytes - offset);
            // `here` is at most the slice's length, so neither half can fail; ending early is the safe answer.
            let Ok((memory, after)) = rest.split_at(here) else { return Ok(()) };
            each(Piece { unit: position / unit_bytes as u64, offset, memory })?;
            position = position.saturating_add(here as u64);
            rest = after;
        }
    }
    Ok(())
}

/// Fills `slice` with zeroes.
pub fn zero(slice: &VolatileSlice<'_>) {
    const ZEROES: [u8; 4096] = [0; 4096];
    let mut done = 0;
    while done < slice.len() {
        let len = (slice.len() - done).min(ZEROES.len());
        let Ok(part) = slice.subslice(done, len) else { return };
        part.copy_from(&ZEROES[..len]);
        done += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_at_units_and_at_slices() {
        let (mut a, mut b) = ([1u8; 10], [2u8; 7]);
        let slices = [VolatileSlice::from(&mut a[..]), VolatileSlice::from(&mut b[..])];
        assert_eq!(len_bytes(&slices), 17);
        let mut seen = Vec::new();
        for_each(6, &slices, 8, |piece| {
            seen.push((piece.unit, piece.offset, piece.memory.len()));
            Ok::<_, ()>(())
        })
        .unwrap();
        assert_eq!(seen, [(0, 6, 2), (1, 0, 8), (2, 0, 7)]);
        zero(&slices[0]);
        assert_eq!(a, [0; 10]);
    }
}
