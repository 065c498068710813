//! VHD images: footer, dynamic header and block table. Checksums are made right again, so that what they guard is read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

use benchtop_images::Format;

use super::image::Target;

static TARGET: LazyLock<Target> = LazyLock::new(|| Target::of(Format::Vhd, 6 << 20, 1 << 20, fix));

/// The structures that carry a checksum: how they begin, their length, and where it is, in bytes.
const SUMMED: [(&[u8], usize, usize); 2] = [(b"conectix", 512, 64), (b"cxsparse", 1024, 36)];

fn fix(file: &File) -> io::Result<()> {
    let len = file.metadata()?.len();
    let mut start = [0; 4096];
    let got = file.read_at(&mut start, 0)?;
    let mut at = (0..got as u64).step_by(512).collect::<Vec<_>>();
    at.extend(len.checked_sub(512));
    for at in at {
        let mut bytes = [0; 1024];
        let got = file.read_at(&mut bytes, at)?;
        for (cookie, len, sum_at) in SUMMED {
            if got >= len && bytes.starts_with(cookie) {
                bytes[sum_at..sum_at + 4].fill(0);
                let sum = !bytes[..len].iter().map(|byte| u32::from(*byte)).sum::<u32>();
                file.write_all_at(&sum.to_be_bytes(), at + sum_at as u64)?;
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
    #[test]
    fn changed_vhd_images_do_no_harm() {
        super::super::smoke(super::run);
    }
    #[test]
    fn every_seed_is_sound() {
        super::TARGET.expect_sound();
    }
}
