//! A bootable ISO 9660 image: one boot image (El Torito, no emulation) and a few files in the root.
//!
//! ECMA-119 for the volume, "El Torito" 1.0 for the boot record and its catalogue. Only what firmware and a boot
//! loader look at: one volume descriptor, level 1 names, no Rock Ridge or Joliet.

use anyhow::{Context, Result, ensure};

/// Bytes of a logical block.
pub const BLOCK_BYTES: usize = 2048;

const CATALOG_BLOCK: u32 = 19;
const PATH_TABLE_L_BLOCK: u32 = 20;
const PATH_TABLE_M_BLOCK: u32 = 21;
const ROOT_BLOCK: u32 = 22;
const FIRST_FILE_BLOCK: u32 = 23;

/// A file in the root directory: a level 1 name such as `DATA.BIN`, and its content.
pub type File<'a> = (&'a str, &'a [u8]);

/// Puts an image together. `boot` is loaded at 0000:7C00 as a whole, at most 512 KiB.
///
/// # Errors
/// A boot image or a directory that is too large.
pub fn bootable(boot: &[u8], files: &[File<'_>]) -> Result<Vec<u8>> {
    ensure!(boot.len() <= 512 * 1024, "a boot image of {} bytes is too large", boot.len());
    let mut entries = vec![("BOOT.BIN", boot)];
    entries.extend_from_slice(files);
    let mut next = FIRST_FILE_BLOCK;
    let mut placed = Vec::new();
    for (name, data) in entries {
        placed.push((next, name, data));
        next += u32::try_from(data.len().div_ceil(BLOCK_BYTES).max(1)).context("file too large")?;
    }
    let total = next;

    let mut image = vec![0; total as usize * BLOCK_BYTES];
    put(&mut image, 16, &primary_descriptor(total));
    put(&mut image, 17, &boot_record());
    put(&mut image, 18, &descriptor(255));
    put(&mut image, CATALOG_BLOCK, &catalog(boot.len()));
    put(&mut image, PATH_TABLE_L_BLOCK, &path_table(ROOT_BLOCK.to_le_bytes(), 1u16.to_le_bytes()));
    put(&mut image, PATH_TABLE_M_BLOCK, &path_table(ROOT_BLOCK.to_be_bytes(), 1u16.to_be_bytes()));
    let mut root = Vec::new();
    root.extend(record(&[0], ROOT_BLOCK, BLOCK_BYTES, true)?);
    root.extend(record(&[1], ROOT_BLOCK, BLOCK_BYTES, true)?);
    for (block, name, data) in &placed {
        root.extend(record(format!("{name};1").as_bytes(), *block, data.len(), false)?);
    }
    ensure!(root.len() <= BLOCK_BYTES, "too many files for one directory block");
    put(&mut image, ROOT_BLOCK, &root);
    for (block, _, data) in placed {
        put(&mut image, block, data);
    }
    Ok(image)
}

fn put(image: &mut [u8], block: u32, data: &[u8]) {
    let start = block as usize * BLOCK_BYTES;
    image[start..start + data.len()].copy_from_slice(data);
}

/// The head every volume descriptor has (ECMA-119 8.1).
fn descriptor(kind: u8) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK_BYTES];
    bytes[0] = kind;
    bytes[1..6].copy_from_slice(b"CD001");
    bytes[6] = 1;
    bytes
}

fn both_endian_32(value: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&value.to_le_bytes());
    bytes[4..].copy_from_slice(&value.to_be_bytes());
    bytes
}

fn both_endian_16(value: u16) -> [u8; 4] {
    let mut bytes = [0; 4];
    bytes[..2].copy_from_slice(&value.to_le_bytes());
    bytes[2..].copy_from_slice(&value.to_be_bytes());
    bytes
}

fn primary_descriptor(total_blocks: u32) -> Vec<u8> {
    let mut bytes = descriptor(1);
    bytes[8..72].fill(b' ');
    bytes[40..48].copy_from_slice(b"BENCHTOP");
    bytes[80..88].copy_from_slice(&both_endian_32(total_blocks));
    bytes[120..124].copy_from_slice(&both_endian_16(1));
    bytes[124..128].copy_from_slice(&both_endian_16(1));
    bytes[128..132].copy_from_slice(&both_endian_16(2048));
    bytes[132..140].copy_from_slice(&both_endian_32(10));
    bytes[140..144].copy_from_slice(&PATH_TABLE_L_BLOCK.to_le_bytes());
    bytes[148..152].copy_from_slice(&PATH_TABLE_M_BLOCK.to_be_bytes());
    if let Ok(root) = record(&[0], ROOT_BLOCK, BLOCK_BYTES, true) {
        bytes[156..156 + root.len()].copy_from_slice(&root);
    }
    bytes[190..813].fill(b' ');
    // Dates: digits "0", which means not given.
    for start in [813, 830, 847, 864] {
        bytes[start..start + 16].fill(b'0');
    }
    bytes[881] = 1;
    bytes
}

fn boot_record() -> Vec<u8> {
    let mut bytes = descriptor(0);
    bytes[7..30].copy_from_slice(b"EL TORITO SPECIFICATION");
    bytes[0x47..0x4b].copy_from_slice(&CATALOG_BLOCK.to_le_bytes());
    bytes
}

fn catalog(boot_bytes: usize) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    bytes[30] = 0x55;
    bytes[31] = 0xaa;
    // All words of the validation entry add up to 0; with no id string, only the key does not.
    bytes[28..30].copy_from_slice(&0u16.wrapping_sub(1).wrapping_sub(0xaa55).to_le_bytes());
    bytes[32] = 0x88;
    let sectors = u16::try_from(boot_bytes.div_ceil(512)).unwrap_or(u16::MAX);
    bytes[38..40].copy_from_slice(&sectors.to_le_bytes());
    bytes[40..44].copy_from_slice(&FIRST_FILE_BLOCK.to_le_bytes());
    bytes
}

fn path_table(root: [u8; 4], parent: [u8; 2]) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[0] = 1;
    bytes[2..6].copy_from_slice(&root);
    bytes[6..8].copy_from_slice(&parent);
    bytes
}

/// A directory record (ECMA-119 9.1).
fn record(name: &[u8], block: u32, bytes: usize, directory: bool) -> Result<Vec<u8>> {
    let len = (33 + name.len()).next_multiple_of(2);
    let mut record = vec![0; len];
    record[0] = u8::try_from(len).context("name too long")?;
    record[2..10].copy_from_slice(&both_endian_32(block));
    record[10..18].copy_from_slice(&both_endian_32(u32::try_from(bytes).context("file too large")?));
    record[18..21].copy_from_slice(&[126, 1, 1]);
    record[25] = if directory { 2 } else { 0 };
    record[28..32].copy_from_slice(&both_endian_16(1));
    record[32] = u8::try_from(name.len()).context("name too long")?;
    record[33..33 + name.len()].copy_from_slice(name);
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firmware_finds_the_boot_image_and_a_loader_its_files() {
        let boot = vec![0x90; 3000];
        let data: Vec<u8> = (0..5000u32).map(|i| (i % 251) as u8).collect();
        let image = bootable(&boot, &[("DATA.BIN", &data)]).unwrap();
        assert_eq!(&image[17 * 2048 + 7..][..23], b"EL TORITO SPECIFICATION");
        let catalog = &image[19 * 2048..][..64];
        let sum = catalog[..32].chunks(2).fold(0u16, |sum, w| sum.wrapping_add(u16::from_le_bytes([w[0], w[1]])));
        assert_eq!((sum, catalog[32], catalog[38]), (0, 0x88, 6));
        let boot_block = u32::from_le_bytes(catalog[40..44].try_into().unwrap()) as usize;
        assert_eq!(image[boot_block * 2048..][..boot.len()], boot);
        assert_eq!(image[(boot_block + 2) * 2048..][..data.len()], data);
        assert!(bootable(&vec![0; 600 * 1024], &[]).is_err());
    }
}
