//! What a disk request reads into or writes from: pieces of guest memory, or a host buffer a device owns.

use vm_memory::VolatileSlice;

use crate::{Gpa, GuestMemory, OutOfRam};

/// An ordered list of pieces of guest RAM, checked when they were added.
///
/// The pieces stay valid as long as the list lives: RAM is not unmapped while a [`GuestMemory`] clone exists.
#[derive(Clone, Debug)]
pub struct ScatterList {
    memory: GuestMemory,
    segments: Vec<(Gpa, u32)>,
    total_bytes: u64,
}

impl ScatterList {
    /// An empty list over `memory`.
    pub fn new(memory: &GuestMemory) -> Self {
        Self { memory: memory.clone(), segments: Vec::new(), total_bytes: 0 }
    }

    /// Adds a piece; one that continues the last piece is merged with it. An empty piece adds nothing.
    ///
    /// # Errors
    /// [`OutOfRam`]; the list is then unchanged.
    pub fn push(&mut self, gpa: Gpa, len_bytes: u32) -> Result<(), OutOfRam> {
        if len_bytes == 0 {
            return Ok(());
        }
        self.memory.slice(gpa, u64::from(len_bytes))?;
        self.total_bytes += u64::from(len_bytes);
        if let Some((last, last_len)) = self.segments.last_mut()
            && last.checked_add(u64::from(*last_len)) == Some(gpa)
            && let Some(merged) = last_len.checked_add(len_bytes)
            && self.memory.contains(*last, u64::from(merged))
        {
            *last_len = merged;
            return Ok(());
        }
        self.segments.push((gpa, len_bytes));
        Ok(())
    }

    /// Bytes in all pieces together.
    pub fn len_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The pieces as (address, length in bytes).
    pub fn segments(&self) -> &[(Gpa, u32)] {
        &self.segments
    }

    /// The pieces of `len_bytes` from `offset_bytes`, in order. Shorter than asked where the list ends first.
    pub fn slices(&self, offset_bytes: u64, len_bytes: u64) -> impl Iterator<Item = VolatileSlice<'_>> {
        let end = offset_bytes.saturating_add(len_bytes);
        let mut position = 0u64;
        self.segments.iter().filter_map(move |&(gpa, len)| {
            let start = position;
            position += u64::from(len);
            let from = offset_bytes.max(start);
            let to = end.min(position);
            if from >= to {
                return None;
            }
            self.memory.slice(gpa.checked_add(from - start)?, to - from).ok()
        })
    }
}

/// The memory of one request. It travels with the request and comes back with its completion, so a device that was
/// reset meanwhile has nothing left for a late completion to write into.
#[derive(Clone, Debug)]
pub enum IoBuffer {
    /// No data: flush, discard.
    None,
    /// A buffer the device owns (PIO).
    Host(Vec<u8>),
    /// Guest memory (DMA).
    Guest(ScatterList),
}

impl IoBuffer {
    /// Bytes it holds.
    pub fn len_bytes(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Host(bytes) => bytes.len() as u64,
            Self::Guest(list) => list.len_bytes(),
        }
    }

    /// `len_bytes` from `offset_bytes` as slices, for the image to fill or to write out. Shorter where it ends first.
    ///
    /// `&mut`, because a host buffer is lent through the slices.
    pub fn slices(&mut self, offset_bytes: u64, len_bytes: u64) -> Vec<VolatileSlice<'_>> {
        match self {
            Self::None => Vec::new(),
            Self::Host(bytes) => {
                let start = usize::try_from(offset_bytes).unwrap_or(usize::MAX).min(bytes.len());
                let len = usize::try_from(len_bytes).unwrap_or(usize::MAX).min(bytes.len() - start);
                match &mut bytes[start..start + len] {
                    [] => Vec::new(),
                    piece => vec![VolatileSlice::from(piece)],
                }
            }
            Self::Guest(list) => list.slices(offset_bytes, len_bytes).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_a_list_crosses_pieces() {
        let memory = GuestMemory::new(&[(0, 0x4000)]).unwrap();
        let mut list = ScatterList::new(&memory);
        list.push(Gpa(0x1000), 4).unwrap();
        list.push(Gpa(0x1004), 4).unwrap();
        list.push(Gpa(0x3000), 8).unwrap();
        assert_eq!(list.segments(), [(Gpa(0x1000), 8), (Gpa(0x3000), 8)]);
        assert!(list.push(Gpa(0x3fff), 2).is_err());
        assert_eq!(list.len_bytes(), 16);
        memory.write(Gpa(0x1006), &[1, 2]).unwrap();
        memory.write(Gpa(0x3000), &[3, 4]).unwrap();
        let mut got = Vec::new();
        for slice in list.slices(6, 4) {
            let mut piece = vec![0u8; slice.len()];
            slice.copy_to(&mut piece);
            got.extend(piece);
        }
        assert_eq!(got, [1, 2, 3, 4]);
    }
}
