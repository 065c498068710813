//! IDENTIFY DEVICE and IDENTIFY PACKET DEVICE data (ATA8-ACS sections 7.16 and 7.17), by word.

use benchtop_block::DiscardBehavior;

use super::AtaIdentity;
use super::ata::{AtaDisk, MAX_MULTIPLE, MAX_TRIM_BLOCKS};
use super::atapi::AtapiDrive;
use super::phase::SECTOR;
use super::smart::with_checksum;
use super::taskfile::LBA28_LIMIT;

/// The 256 words.
struct Words([u16; 256]);

impl Words {
    fn set_text(&mut self, first: usize, words: usize, text: &str) {
        let mut bytes = text.bytes().filter(|b| (0x20..0x7f).contains(b)).chain(std::iter::repeat(b' '));
        for word in &mut self.0[first..first + words] {
            // The first character of each pair is in the high byte.
            let mut next = || bytes.next().unwrap_or(b' ');
            *word = u16::from_be_bytes([next(), next()]);
        }
    }

    fn set_number(&mut self, first: usize, words: usize, value: u64) {
        for (index, word) in self.0[first..first + words].iter_mut().enumerate() {
            // The low half-word of what was shifted down.
            *word = (value >> (16 * index)) as u16;
        }
    }

    fn set_identity(&mut self, identity: &AtaIdentity) {
        self.set_text(10, 10, &identity.serial);
        self.set_text(23, 4, &identity.firmware);
        self.set_text(27, 20, &identity.model);
    }

    fn set_transfer_mode(&mut self, mode: u8) {
        // Multiword DMA 0 to 2 supported, and which of them is active.
        self.0[63] = 0x0007 | if mode & 0xf8 == 0x20 { 0x100 << (mode & 7) } else { 0 };
        // PIO 3 and 4, with the cycle times in ns they allow.
        self.0[64] = 0x0003;
        self.0[65..69].fill(120);
    }

    fn finish(mut self) -> [u8; SECTOR] {
        self.0[255] = 0x00a5;
        let mut data = [0; SECTOR];
        for (bytes, word) in data.chunks_exact_mut(2).zip(self.0) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        with_checksum(data)
    }
}

/// IDENTIFY DEVICE of a disk as it is set now.
pub(super) fn disk(disk: &AtaDisk) -> [u8; SECTOR] {
    let info = disk.disk.info();
    let mut words = Words([0; 256]);
    let lba28 = disk.sectors.min(LBA28_LIMIT - 1);
    let cylinders = (disk.sectors / (16 * 63)).min(16383);
    let (heads, spt) = (u64::from(disk.geometry.heads), u64::from(disk.geometry.sectors));
    let current_cylinders = (disk.sectors.min(16383 * 16 * 63) / (heads * spt)).min(0xffff);
    words.0[0] = 0x0040;
    words.set_number(1, 1, cylinders);
    words.0[3] = 16;
    words.0[6] = 63;
    words.set_identity(&disk.identity);
    words.0[47] = 0x8000 | u16::from(MAX_MULTIPLE);
    // 32-bit accesses to the data port work.
    words.0[48] = 0x0001;
    // IORDY, LBA, DMA.
    words.0[49] = 0x0b00;
    words.0[50] = 0x4000;
    words.0[51] = 0x0200;
    words.0[52] = 0x0200;
    words.0[53] = 0x0007;
    words.set_number(54, 1, current_cylinders);
    words.set_number(55, 1, heads);
    words.set_number(56, 1, spt);
    words.set_number(57, 2, current_cylinders * heads * spt);
    words.0[59] = if disk.multiple == 0 { 0 } else { 0x0100 | u16::from(disk.multiple) };
    words.set_number(60, 2, lba28);
    words.set_transfer_mode(disk.transfer_mode);
    // ATA/ATAPI-4 to 7.
    words.0[80] = 0x00f0;
    words.0[81] = 0x0016;
    let cache = |on: bool| if on { 1 << 5 } else { 0 };
    // NOP, look-ahead, power management, SMART; then what is enabled of it.
    words.0[82] = 0x4049 | cache(disk.may_cache_writes());
    words.0[85] = 0x4008 | u16::from(disk.look_ahead) << 6 | u16::from(disk.smart) | cache(disk.caches_writes());
    // FLUSH CACHE, FLUSH CACHE EXT, 48-bit addresses.
    words.0[83] = 0x7400;
    words.0[86] = 0x3400;
    // FUA commands; a world-wide name.
    words.0[84] = 0x4040 | if disk.identity.wwn.is_some() { 0x0100 } else { 0 };
    words.0[87] = words.0[84];
    // An 80-wire cable; device 0.
    words.0[93] = 0x6001;
    words.set_number(100, 4, disk.sectors);
    let logical_per_physical = (u64::from(info.physical_block_bytes) / SECTOR as u64).max(1);
    words.0[106] = match logical_per_physical.ilog2() {
        0 => 0x4000,
        exponent => 0x6000 | u16::try_from(exponent.min(15)).unwrap_or(0),
    };
    if let Some(wwn) = disk.identity.wwn {
        for (index, word) in words.0[108..112].iter_mut().enumerate() {
            *word = (wwn >> (48 - 16 * index)) as u16;
        }
    }
    if info.discard != DiscardBehavior::Ignored {
        words.set_number(105, 1, u64::from(MAX_TRIM_BLOCKS));
        words.0[169] = 0x0001;
        if info.discard == DiscardBehavior::Zeroes {
            words.0[69] = 0x4020;
        }
    }
    words.0[209] = 0x4000;
    // Not a rotating medium.
    words.0[217] = 0x0001;
    words.finish()
}

/// IDENTIFY PACKET DEVICE of a CD-ROM drive.
pub(super) fn packet(drive: &AtapiDrive) -> [u8; SECTOR] {
    let mut words = Words([0; 256]);
    // ATAPI, CD-ROM, removable, DRQ within 50 microseconds, 12-byte packets.
    words.0[0] = 0x85c0;
    words.set_identity(&drive.identity);
    words.0[48] = 0x0001;
    // IORDY, LBA, DMA.
    words.0[49] = 0x0b00;
    words.0[53] = 0x0006;
    words.set_transfer_mode(drive.transfer_mode);
    // ATA/ATAPI-4.
    words.0[80] = 0x001e;
    words.0[81] = 0x0016;
    // NOP, DEVICE RESET, PACKET.
    words.0[82] = 0x4210;
    words.0[83] = 0x4000;
    words.0[84] = 0x4000;
    words.0[85] = 0x4210;
    words.0[87] = 0x4000;
    words.0[93] = 0x6001;
    words.finish()
}
