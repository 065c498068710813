//! The memory map the firmware passes on: `etc/e820`.

/// The name of the file.
pub const FILE: &str = "etc/e820";

const TYPE_RAM: u32 = 1;
const TYPE_RESERVED: u32 = 2;

/// The contents of [`FILE`]: a 20-byte entry (base, length, type; little endian) for each `(base, length in bytes)`.
///
/// `reserved` are ranges the guest must leave alone beyond those the firmware knows itself (its own image, its data
/// area): the pages an accelerator keeps for itself, for example. Empty ranges are left out.
pub fn table(ram: &[(u64, u64)], reserved: &[(u64, u64)]) -> Vec<u8> {
    let entries = ram.iter().map(|range| (range, TYPE_RAM)).chain(reserved.iter().map(|range| (range, TYPE_RESERVED)));
    let mut table = Vec::new();
    for (&(base, len_bytes), kind) in entries {
        if len_bytes == 0 {
            continue;
        }
        table.extend(base.to_le_bytes());
        table.extend(len_bytes.to_le_bytes());
        table.extend(kind.to_le_bytes());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_twenty_bytes() {
        let table = table(&[(0, 0x4000_0000), (1 << 32, 0)], &[(0xfeff_c000, 0x4000)]);
        assert_eq!(table.len(), 40);
        assert_eq!(table[..20], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(table[20..], [0, 0xc0, 0xff, 0xfe, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
    }
}
