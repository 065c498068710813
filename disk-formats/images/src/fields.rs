//! Numbers at fixed places of a header or table.

/// The `N` bytes at `at`; zeroes where the header is too short.
pub(crate) fn bytes_at<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    at.checked_add(N).and_then(|end| header.get(at..end)).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}

/// A little-endian number of two bytes.
pub(crate) fn le16(header: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(header, at))
}

/// A little-endian number of four bytes.
pub(crate) fn le32(header: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(header, at))
}

/// A little-endian number of eight bytes.
pub(crate) fn le64(header: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(header, at))
}

/// A big-endian number of two bytes.
pub(crate) fn be16(header: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes_at(header, at))
}

/// A big-endian number of four bytes.
pub(crate) fn be32(header: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes_at(header, at))
}

/// A big-endian number of eight bytes.
pub(crate) fn be64(header: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes_at(header, at))
}

/// Puts `bytes` at `at`; nothing where they do not fit, which no caller's constant makes happen.
pub(crate) fn put(header: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = at.checked_add(bytes.len()).and_then(|end| header.get_mut(at..end)) {
        place.copy_from_slice(bytes);
    }
}
