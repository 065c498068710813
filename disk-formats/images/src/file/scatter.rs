//! A scatter list taken piece by piece.

use benchtop_memory::VolatileSlice;

/// What is left of a scatter list.
#[derive(Debug)]
pub(crate) struct Scatter<'s, 'm> {
    slices: &'s [VolatileSlice<'m>],
    /// Bytes of the first slice that were taken.
    taken: usize,
}

impl<'s, 'm> Scatter<'s, 'm> {
    /// All of `slices`.
    pub(crate) fn new(slices: &'s [VolatileSlice<'m>]) -> Self {
        Self { slices, taken: 0 }
    }

    /// The next `len_bytes`, or what is left.
    pub(crate) fn take(&mut self, len_bytes: u64) -> Vec<VolatileSlice<'m>> {
        let mut wanted = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        let mut list = Vec::new();
        while let Some((first, rest)) = self.slices.split_first() {
            if wanted == 0 {
                break;
            }
            let here = (first.len() - self.taken).min(wanted);
            if let Ok(part) = first.subslice(self.taken, here) {
                list.push(part);
            }
            wanted -= here;
            self.taken += here;
            if self.taken == first.len() {
                self.slices = rest;
                self.taken = 0;
            }
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_where_they_are_asked_to() {
        let (mut a, mut b, mut c) = ([0u8; 5], [0u8; 0], [0u8; 9]);
        let slices =
            [VolatileSlice::from(&mut a[..]), VolatileSlice::from(&mut b[..]), VolatileSlice::from(&mut c[..])];
        let mut rest = Scatter::new(&slices);
        let lens = |list: Vec<VolatileSlice<'_>>| list.iter().map(VolatileSlice::len).collect::<Vec<_>>();
        assert_eq!(lens(rest.take(3)), [3]);
        assert!(lens(rest.take(0)).is_empty());
        assert_eq!(lens(rest.take(4)), [2, 0, 2]);
        assert_eq!(lens(rest.take(100)), [7]);
        assert!(lens(rest.take(1)).is_empty());
    }
}
