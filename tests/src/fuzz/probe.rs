//! What a file plainly is, from the input itself; whatever that says, all that can be asked of the file.

use std::os::unix::fs::FileExt;

use benchtop_block::DiskBackend;
use benchtop_images::image::{self, OpenOptions};
use benchtop_images::probe::{PROBE_BYTES, probe, probe_file, require_raw};
use benchtop_images::{Format, IsoDisk};

use super::Input;
use super::exercise::exercise;
use super::image::{again, in_memory};

/// Where signatures are, in bytes of the file.
const PLACES: [u64; 4] = [0, 64, 0x8001, 0x8801];

/// Puts the input where one of the signatures belongs, and asks.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let way = input.byte();
    let Ok(file) = in_memory() else { return };
    let place = PLACES[usize::from(way & 3)];
    let tail = if way & 4 == 0 { 0 } else { u64::from(input.byte()) << 9 };
    let mut start = vec![0; place as usize];
    start.extend_from_slice(input.0);
    start.resize(start.len() + tail as usize, 0);
    if file.write_all_at(&start, 0).is_err() {
        return;
    }
    let format = probe(&start);
    assert_eq!(format, probe(&start[..start.len().min(PROBE_BYTES)]), "what lies behind the start matters");
    let of_file = probe_file(&file).ok();
    // Only a fixed VHD is told by its end.
    assert!(of_file == Some(format) || of_file == Some(Format::Vhd) && format == Format::Raw);
    let raw = matches!(of_file, Some(Format::Raw | Format::Iso));
    assert_eq!(require_raw(&file).is_ok(), raw);
    for format in [of_file.unwrap_or(format), Format::Raw, Format::Iso] {
        drop(image::info(&file, format).ok());
        if let Ok(file) = again(&file, true) {
            drop(image::check(file, format, &OpenOptions::default()).ok());
        }
        let open = || {
            let options = OpenOptions { read_only: true, ..OpenOptions::default() };
            image::open(again(&file, true).ok()?, format, &options).ok()
        };
        exercise(&open, false, &mut Input(input.0));
    }
    if let Some(disk) = again(&file, true).ok().and_then(|file| IsoDisk::open(file).ok()) {
        assert!(disk.info().read_only);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn files_of_any_kind_do_no_harm() {
        super::super::smoke(super::run);
    }
}
