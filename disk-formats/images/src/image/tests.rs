mod hostile;
mod import;
mod luks;
mod maintain;
mod room;

use std::path::{Path, PathBuf};
use std::process::Command;

use benchtop_block::BlockErrorKind;
use benchtop_block::conformance::{Sequence, read, write};

use super::*;
use crate::mapped::testing::{content, open_file, run};

/// A folder for the images of a test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Tries again while another test's child holds our files.
fn patiently<T>(mut attempt: impl FnMut() -> Result<T, OpenError>) -> Result<T, OpenError> {
    for _ in 0..400 {
        match attempt() {
            Err(OpenError::Block(error)) if error.kind() == BlockErrorKind::InUse => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            result => return result,
        }
    }
    attempt()
}

/// Opens an image with all files it names, from its own folder.
fn open_all(path: &Path, format: Format, read_only: bool) -> Result<Arc<dyn DiskBackend>, OpenError> {
    let folder = path.parent().unwrap();
    let named = |wanted: &NamedFile<'_>| Ok(Named::File(open_file(&folder.join(wanted.name), wanted.read_only)));
    let options = OpenOptions { read_only, named: Some(&named), password: None };
    patiently(|| open(open_file(path, read_only), format, &options))
}

fn resized(path: &Path, format: Format, size: u64, shrink: Shrink) -> Result<(), OpenError> {
    let folder = path.parent().unwrap();
    let named = |wanted: &NamedFile<'_>| Ok(Named::File(open_file(&folder.join(wanted.name), wanted.read_only)));
    let options = OpenOptions { read_only: false, named: Some(&named), password: None };
    patiently(|| resize(open_file(path, false), format, size, shrink, &options))
}

fn check_all(path: &Path, format: Format) -> CheckReport {
    let folder = path.parent().unwrap();
    let named = |wanted: &NamedFile<'_>| Ok(Named::File(open_file(&folder.join(wanted.name), wanted.read_only)));
    let options = OpenOptions { read_only: true, named: Some(&named), password: None };
    patiently(|| Ok(check(open_file(path, true), format, &options)?)).unwrap()
}

/// Writes and discards at random, on the disk and in `model`. Not all formats discard.
fn disturb(disk: &dyn DiskBackend, model: &mut [u8], seed: u64) {
    let discards = disk.info().discard == benchtop_block::DiscardBehavior::Zeroes;
    let mut sequence = Sequence::new(seed);
    for step in 0..80 {
        let start = sequence.below(model.len() as u64 / 512) as usize * 512;
        let len = (1 + sequence.below(if step % 8 == 0 { 900 } else { 30 })) as usize * 512;
        let end = (start + len).min(model.len());
        if step % 4 == 3 && discards {
            disk.discard(start as u64, (end - start) as u64).unwrap();
            model[start..end].fill(0);
        } else {
            let bytes = sequence.bytes(end - start);
            write(disk, start as u64, &bytes, &[700], step % 9 == 0).unwrap();
            model[start..end].copy_from_slice(&bytes);
        }
    }
    disk.flush().unwrap();
}

/// Every format and variant that can be made.
fn all_kinds() -> Vec<(Format, Variant)> {
    use Variant::{Dynamic, Fixed, SplitDynamic, SplitFixed};
    let mut kinds = vec![(Format::Raw, Dynamic), (Format::Qcow2, Dynamic)];
    kinds.extend(
        [Format::Vdi, Format::Vhd, Format::Vhdx].iter().flat_map(|format| [(*format, Dynamic), (*format, Fixed)]),
    );
    kinds.extend([Dynamic, Fixed, SplitDynamic, SplitFixed].map(|variant| (Format::Vmdk, variant)));
    kinds
}

fn qemu_name(format: Format) -> &'static str {
    if format == Format::Vhd { "vpc" } else { format.name() }
}
