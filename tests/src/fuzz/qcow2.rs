//! qcow2 images: header and extensions, tables, refcounts, compressed clusters, snapshots, LUKS, backing files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::LazyLock;

use benchtop_images::{Format, qcow2};

use super::image::{Sparse, Target, again, used};

const CLUSTER: usize = 4096;
/// A cluster of one letter, packed with deflate.
const DEFLATED: [u8; 22] =
    [0xed, 0xc1, 1, 0x0d, 0, 0, 0, 0xc2, 0xa0, 0x6c, 0xef, 0x5f, 0xca, 0x1e, 0x0e, 0x28, 0, 0, 0, 0xe0, 0xdd, 0];
/// The same as a Zstandard frame of one run (RFC 8878, 3.1.1).
const ZSTD: [u8; 11] = [0x28, 0xb5, 0x2f, 0xfd, 0x60, 0, 0x0f, 3, 0x80, 0, b'A'];

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let usual = qcow2::CreateOptions { cluster_bytes: CLUSTER as u64, ..qcow2::CreateOptions::new(1 << 20) };
    let new = |options: &qcow2::CreateOptions| used(Format::Qcow2, |path: &Path| qcow2::create(path, options));
    let plain = new(&usual);
    let backing = Some(("behind".to_owned(), "raw".to_owned()));
    let mut seeds = plain.to_vec();
    seeds.extend(new(&qcow2::CreateOptions { cluster_bytes: 512, refcount_bits: 64, ..usual.clone() }));
    seeds.extend(new(&qcow2::CreateOptions { cluster_bytes: 16 << 10, extended_l2: true, ..usual.clone() }));
    seeds.extend(new(&qcow2::CreateOptions { refcount_bits: 1, backing, ..usual.clone() }));
    seeds.extend(new(&qcow2::CreateOptions::new(4 << 20)));
    let changes: [fn(&mut Vec<u8>); 5] =
        [|bytes| deflate(bytes), |bytes| zstd(bytes), |bytes| version_2(bytes), snapshot, encrypt];
    for change in changes {
        let mut seed = plain[0].clone();
        let mut bytes = seed.files[0].1.bytes();
        change(&mut bytes);
        seed.files[0].1 = Sparse::of(&bytes);
        // Nobody counted the clusters that came to it.
        seeds.push(seed.fix(|file| qcow2::repair(again(file, false)?).map(drop).map_err(io::Error::other)));
    }
    Target { seeds, fix }
});

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..at + what.len()].copy_from_slice(what);
}

/// An offset in an image, without the flags beside it.
fn offset(bytes: &[u8], at: usize) -> usize {
    bytes[at..at + 8].iter().fold(0, |number, byte| number << 8 | usize::from(*byte)) & 0x00ff_ffff_ffff_fe00
}

/// Puts `packed` where the first cluster of the disk is.
fn pack(bytes: &mut [u8], packed: &[u8]) {
    let entry = offset(bytes, offset(bytes, 40));
    let cluster = offset(bytes, entry);
    bytes[cluster..cluster + CLUSTER].fill(0);
    put(bytes, cluster, packed);
    // Bit 62: compressed. Above the offset: no more sectors than the first.
    put(bytes, entry, &(1 << 62 | cluster as u64).to_be_bytes());
}

fn deflate(bytes: &mut [u8]) {
    pack(bytes, &DEFLATED);
}

fn zstd(bytes: &mut [u8]) {
    pack(bytes, &ZSTD);
    // Incompatible feature 3, a longer header, and the type.
    put(bytes, 72, &8u64.to_be_bytes());
    put(bytes, 100, &112u32.to_be_bytes());
    put(bytes, 104, &[1, 0, 0, 0, 0, 0, 0, 0]);
}

fn version_2(bytes: &mut [u8]) {
    put(bytes, 4, &2u32.to_be_bytes());
    bytes[72..CLUSTER].fill(0);
}

/// Makes room for so many clusters at the end, which nobody counts.
fn extend(bytes: &mut Vec<u8>, clusters: usize) -> usize {
    let at = bytes.len().next_multiple_of(CLUSTER);
    bytes.resize(at + clusters * CLUSTER, 0);
    at
}

/// A snapshot of the disk as it is, with a copy of its L1 table.
fn snapshot(bytes: &mut Vec<u8>) {
    let at = extend(bytes, 2);
    let (l1, copy) = (offset(bytes, 40), at + CLUSTER);
    bytes.copy_within(l1..l1 + CLUSTER, copy);
    put(bytes, 60, &1u32.to_be_bytes());
    put(bytes, 64, &(at as u64).to_be_bytes());
    put(bytes, at, &(copy as u64).to_be_bytes());
    put(bytes, at + 8, &1u32.to_be_bytes());
    put(bytes, at + 12, &[0, 1, 0, 1]);
    put(bytes, at + 36, &16u32.to_be_bytes());
    put(bytes, at + 40 + 8, &(1u64 << 20).to_be_bytes());
    put(bytes, at + 40 + 16, b"1a");
}

/// A LUKS header at the end of the file, with one key that [`super::image::PASSWORD`] opens.
fn encrypt(bytes: &mut Vec<u8>) {
    let at = extend(bytes, 1);
    // The bytes 0, 1, … 31 are the key. With all salts 0 and one round of each derivation that gives these two.
    let material = *b"\xbc\x92\x69\x85\xbf\x78\xae\xa7\xc4\x84\x86\x1b\xba\x1c\x22\x72\
                      \x6e\x4f\xe4\x4e\xf5\x01\x25\xee\xbb\xd1\x38\xff\xb9\xa3\x93\xaa";
    let digest = *b"\x29\xa1\x95\x3f\x0d\x21\x49\xdd\xd6\x0e\xd1\xe1\xc9\xe8\x24\xa6\x9c\x90\xed\xbf";
    put(bytes, 32, &2u32.to_be_bytes());
    let extension = [0x0537_be77u64 << 32 | 16, at as u64, CLUSTER as u64, 0];
    put(bytes, 104, &extension.map(u64::to_be_bytes).concat());
    for (place, what) in [(0, &b"LUKS\xba\xbe\0\x01aes"[..]), (40, b"xts-plain64"), (72, b"sha256")] {
        put(bytes, at + place, what);
    }
    put(bytes, at + 104, &[2u32, 32].map(u32::to_be_bytes).concat());
    put(bytes, at + 112, &digest);
    put(bytes, at + 164, &1u32.to_be_bytes());
    put(bytes, at + 208, &[0x00ac_71f3, 1u32].map(u32::to_be_bytes).concat());
    put(bytes, at + 208 + 40, &[2, 1u32].map(u32::to_be_bytes).concat());
    put(bytes, at + 1024, &material);
}

/// Rounds of key derivation are as many as the header says, up to a stated bound of minutes; a fuzzer has no minutes.
fn fix(file: &File) -> io::Result<()> {
    let mut method = [0; 4];
    file.read_at(&mut method, 32)?;
    if method == [0; 4] {
        return Ok(());
    }
    let mut bytes = vec![0; file.metadata()?.len().min(1 << 22) as usize];
    let got = file.read_at(&mut bytes, 0)?;
    for at in (0..got).step_by(512) {
        if bytes[at..].starts_with(b"LUKS") {
            let slots = (0..8).map(|slot| 208 + 48 * slot + 4);
            for counter in slots.chain([164]) {
                file.write_all_at(&[0, 0], (at + counter) as u64)?;
            }
        }
    }
    Ok(())
}

/// Runs one input; see `image.rs` for what it says.
pub fn run(data: &[u8]) {
    TARGET.run(data);
}

#[cfg(test)]
mod tests {
    use benchtop_images::image;

    #[test]
    fn changed_qcow2_images_do_no_harm() {
        super::super::smoke(super::run);
    }

    #[test]
    fn every_seed_opens_as_what_it_is_meant_to_be() {
        super::TARGET.expect_sound();
        let info = |seed: usize| super::TARGET.seeds[seed].info();
        let count = super::TARGET.seeds.len();
        assert_eq!(info(count - 2).snapshots.len(), 1);
        assert!(info(count - 1).encrypted);
        let image::ImageInfo { variant, .. } = info(count - 3);
        assert_eq!(variant, "v2");
    }
}
