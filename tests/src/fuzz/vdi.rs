//! VDI images: header and block map.

use std::sync::LazyLock;

use benchtop_images::Format;
use benchtop_images::image::{CreateOptions, Variant};

use super::image::{Target, seeds};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let dynamic = CreateOptions::new(Format::Vdi, 4 << 20);
    let fixed = CreateOptions { variant: Variant::Fixed, ..CreateOptions::new(Format::Vdi, 1 << 20) };
    Target { seeds: [seeds(&dynamic), seeds(&fixed)].concat(), fix: |_| Ok(()) }
});

/// Runs one input; see `image.rs` for what it says.
pub fn run(data: &[u8]) {
    TARGET.run(data);
}

#[cfg(test)]
mod tests {
    #[test]
    fn changed_vdi_images_do_no_harm() {
        super::super::smoke(super::run);
    }
    #[test]
    fn every_seed_is_sound() {
        for (number, seed) in super::TARGET.seeds.iter().enumerate() {
            seed.expect_sound(&format!("seed {number}"));
        }
    }
}
