//! VDI images: header and block map.

use std::sync::LazyLock;

use benchtop_images::Format;

use super::image::Target;

static TARGET: LazyLock<Target> = LazyLock::new(|| Target::of(Format::Vdi, 4 << 20, 1 << 20, |_| Ok(())));

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
        super::TARGET.expect_sound();
    }
}
