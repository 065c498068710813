//! VMDK images: sparse extents, descriptors (embedded, apart, or the input itself as text) and compressed streams.

use std::sync::LazyLock;

use benchtop_block::MemoryDisk;
use benchtop_images::image::{CreateOptions, Variant};
use benchtop_images::{Format, vmdk};

use super::image::{Seed, Sparse, Target, seeds};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let variants = [Variant::SplitDynamic, Variant::Dynamic, Variant::Fixed, Variant::SplitFixed];
    let new = |variant| seeds(&CreateOptions { variant, ..CreateOptions::new(Format::Vmdk, 1 << 20) });
    let mut seeds = variants.map(new).concat();
    seeds.push(stream());
    Target { seeds, fix: |_| Ok(()) }
});

/// A streamOptimized image.
fn stream() -> Seed {
    let mut content = vec![0; 300 << 10];
    content[..1000].fill(1);
    content[200 << 10..].fill(7);
    let mut bytes = Vec::new();
    vmdk::export_stream_optimized(&MemoryDisk::from_bytes(&content), "image", &mut bytes, &mut |_| ())
        .expect("an image in memory");
    Seed { format: Format::Vmdk, files: vec![("image".to_owned(), Sparse::of(&bytes))] }
}

/// Runs one input; see `image.rs` for what it says.
pub fn run(data: &[u8]) {
    TARGET.run(data);
}

#[cfg(test)]
mod tests {
    #[test]
    fn changed_vmdk_images_do_no_harm() {
        super::super::smoke(super::run);
    }
    #[test]
    fn every_seed_is_sound() {
        super::TARGET.expect_sound();
    }
}
