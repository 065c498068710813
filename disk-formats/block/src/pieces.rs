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

/// A scatter list taken piece by piece: what is left of it.
#[derive(Debug)]
pub struct Scatter<'s, 'm> {
    slices: &'s [VolatileSlice<'m>],
    /// Bytes of the first slice that were taken.
    taken: usize,
}

impl<'s, 'm> Scatter<'s, 'm> {
    /// All of `slices`.
    pub fn new(slices: &'s [VolatileSlice<'m>]) -> Self {
        Self { slices, taken: 0 }
    }

    /// The next `len_bytes`, or what is left.
    pub fn take(&mut self, len_bytes: u64) -> Vec<VolatileSlice<'m>> {
        let mut wanted = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        let mut list = Vec::new();
        while let Some(part) = self.next(wanted) {
            wanted -= part.len();
            list.push(part);
        }
        list
    }

    /// Leaves out the next `len_bytes`.
    fn skip(&mut self, len_bytes: u64) {
        let mut wanted = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        while let Some(part) = self.next(wanted) {
            wanted -= part.len();
        }
    }

    /// Of the next `len` bytes those that lie in one slice; never empty.
    fn next(&mut self, len: usize) -> Option<VolatileSlice<'m>> {
        while let Some((first, rest)) = self.slices.split_first() {
            let here = (first.len() - self.taken).min(len);
            // `here` is at most what is left of the slice, so this can not fail; ending early is the safe answer.
            let part = first.subslice(self.taken, here).ok();
            self.taken += here;
            if self.taken == first.len() {
                (self.slices, self.taken) = (rest, 0);
            }
            if here > 0 || len == 0 {
                return part.filter(|part| !part.is_empty());
            }
        }
        None
    }
}

/// Copies `into.len()` bytes from `offset_bytes` of `from`, or as many as there are.
pub fn gather(from: &[VolatileSlice<'_>], offset_bytes: u64, mut into: &mut [u8]) {
    let mut rest = Scatter::new(from);
    rest.skip(offset_bytes);
    while let Some(part) = rest.next(into.len()) {
        let (here, after) = into.split_at_mut(part.len());
        part.copy_to(here);
        into = after;
    }
}

/// Copies `from` to `offset_bytes` of `into`, or as much as there is room for.
pub fn scatter(mut from: &[u8], into: &[VolatileSlice<'_>], offset_bytes: u64) {
    let mut rest = Scatter::new(into);
    rest.skip(offset_bytes);
    while let Some(part) = rest.next(from.len()) {
        let (here, after) = from.split_at(part.len());
        part.copy_from(here);
        from = after;
    }
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

    #[test]
    fn a_scatter_list_is_taken_as_it_is_asked_for() {
        let (mut a, mut b, mut c) = ([0u8; 5], [0u8; 0], [0u8; 9]);
        let slices =
            [VolatileSlice::from(&mut a[..]), VolatileSlice::from(&mut b[..]), VolatileSlice::from(&mut c[..])];
        let mut rest = Scatter::new(&slices);
        let lens = |list: Vec<VolatileSlice<'_>>| list.iter().map(VolatileSlice::len).collect::<Vec<_>>();
        assert_eq!(lens(rest.take(3)), [3]);
        assert!(lens(rest.take(0)).is_empty());
        assert_eq!(lens(rest.take(4)), [2, 2]);
        assert_eq!(lens(rest.take(100)), [7]);
        assert!(lens(rest.take(1)).is_empty());
    }

    #[test]
    fn bytes_are_scattered_and_gathered_from_anywhere() {
        let numbers: Vec<u8> = (1..=14).collect();
        for offset in 0..16usize {
            for len in 0..16usize {
                let (mut a, mut b, mut c) = ([0u8; 5], [0u8; 0], [0u8; 9]);
                let slices =
                    [VolatileSlice::from(&mut a[..]), VolatileSlice::from(&mut b[..]), VolatileSlice::from(&mut c[..])];
                scatter(&numbers[..len.min(14)], &slices, offset as u64);
                let mut got = [9u8; 20];
                gather(&slices, offset as u64, &mut got[..len]);
                let there = len.min(14usize.saturating_sub(offset));
                assert_eq!(got[..there], numbers[..there], "{len} at {offset}");
                assert!(got[there..].iter().all(|byte| *byte == 9), "{len} at {offset}");
                let whole = [&a[..], &c[..]].concat();
                assert!(whole[..offset.min(14)].iter().all(|byte| *byte == 0), "{len} at {offset}");
            }
        }
    }
}
