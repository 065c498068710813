//! The expansion ROM that makes the firmware's first boot entry ours (Plug and Play BIOS specification 1.0A, §4.3:
//! a ROM with a bootstrap entry vector).

use super::{DOORBELL_PORT, TRAMPOLINE};

/// Its name among the fw_cfg files.
pub const FILE_NAME: &str = "genroms/benchtop-kernel.rom";
/// The same without its folder, as the firmware's boot order has it.
pub const ROM_NAME: &str = "benchtop-kernel.rom";

const SIZE: usize = 512;
const INIT: usize = 0x40;
const BOOTSTRAP: usize = 0x48;
const PNP_HEADER: usize = 0x20;
const PNP_HEADER_BYTES: usize = 0x20;

/// The ROM image.
pub fn rom() -> Vec<u8> {
    let mut rom = vec![0; SIZE];
    let mut put = |at: usize, bytes: &[u8]| rom[at..at + bytes.len()].copy_from_slice(bytes);
    // Expansion header: signature, length in 512-byte units, entry (a jump to INIT).
    put(0, &[0x55, 0xaa, (SIZE / 512) as u8, 0xe9]);
    put(4, &((INIT - 6) as u16).to_le_bytes());
    put(0x1a, &(PNP_HEADER as u16).to_le_bytes());
    // Plug and Play header: revision 1.0, length in paragraphs, device type 0, bootstrap entry vector.
    put(PNP_HEADER, b"$PnP\x01");
    put(PNP_HEADER + 5, &[(PNP_HEADER_BYTES / 16) as u8]);
    put(PNP_HEADER + 0x1a, &(BOOTSTRAP as u16).to_le_bytes());
    // INIT: say that there is an initial program load device attached (§3.3), and return.
    put(
        INIT,
        &[
            0xb8, 0x20, 0x00, // mov ax, 0020h
            0xcb, // retf
        ],
    );
    let port = DOORBELL_PORT.to_le_bytes();
    let segment = ((TRAMPOLINE >> 4) as u16).to_le_bytes();
    put(
        BOOTSTRAP,
        &[
            0xba, port[0], port[1], // mov dx, doorbell
            0xee,    // out dx, al
            0xea, 0x00, 0x00, segment[0], segment[1], // jmp far trampoline:0000
        ],
    );
    let header = &rom[PNP_HEADER..PNP_HEADER + PNP_HEADER_BYTES];
    rom[PNP_HEADER + 9] = checksum(header);
    rom[SIZE - 1] = checksum(&rom);
    rom
}

/// What makes the bytes sum to 0.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_checksums_hold() {
        let rom = rom();
        assert_eq!(checksum(&rom), 0);
        assert_eq!(checksum(&rom[PNP_HEADER..PNP_HEADER + PNP_HEADER_BYTES]), 0);
        // The entry jump lands on INIT: a near jump is relative to its own end.
        assert_eq!(6 + usize::from(u16::from_le_bytes([rom[4], rom[5]])), INIT);
    }
}
