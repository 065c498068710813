//! Reading and writing fields of fixed blocks. Reading past the end gives zeroes, writing past it nothing: blocks have
//! a fixed length and every field lies inside it, which the formats' tests show.

/// Copies `N` bytes at `at`.
pub fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(field) = at.checked_add(N).and_then(|end| bytes.get(at..end)) {
        out.copy_from_slice(field);
    }
    out
}

/// A `u64`, little endian.
pub fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get(bytes, at))
}

/// A `u32`, little endian.
pub fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get(bytes, at))
}

/// A `u16`, little endian.
pub fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(get(bytes, at))
}

/// Puts `field` at `at`.
pub fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(into) = at.checked_add(field.len()).and_then(|end| bytes.get_mut(at..end)) {
        into.copy_from_slice(field);
    }
}
