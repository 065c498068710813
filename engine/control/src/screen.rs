//! The shared screen: a file beside the socket that the monitor draws into and clients read or map.
//!
//! ```text
//!   0   8  magic "BTSCREEN"
//!   8   4  layout version, 1
//!  12   4  width in pixels
//!  16   4  height
//!  20   4  zero
//!  24   8  sequence: odd while the monitor draws, grows by 2 with every picture
//!  64   …  rows of R, G, B, A bytes without padding
//! ```
//! All numbers are little-endian. A reader takes the sequence before and after, and reads again when it changed.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags};

use crate::failure::{Failure, FailureKind};
use crate::runtime::{RuntimeFolder, SCREEN};

const MAGIC: [u8; 8] = *b"BTSCREEN";
const VERSION: u32 = 1;
const SEQUENCE_AT: u64 = 24;
const PIXELS_AT: u64 = 64;
/// The most pixels either way: what the video device can set, with room.
const SIDE_MAX: u32 = 16_384;
/// The most bytes of a picture.
const PICTURE_BYTES_MAX: u64 = 256 << 20;
/// How often a reader tries again.
const ATTEMPTS: u32 = 100;

/// What the screen shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Rows of R, G, B, A bytes.
    pub rgba: Vec<u8>,
}

/// The monitor's side.
#[derive(Debug)]
pub struct ScreenWriter {
    file: File,
    sequence: u64,
}

impl ScreenWriter {
    /// Makes a new file in the folder of a VM, readable by its user alone.
    ///
    /// # Errors
    /// The host's.
    pub fn create(folder: &RuntimeFolder) -> std::io::Result<Self> {
        folder.remove(SCREEN);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(folder, SCREEN, flags, Mode::RUSR | Mode::WUSR)?);
        Ok(Self { file, sequence: 0 })
    }

    /// Shows a picture.
    ///
    /// # Errors
    /// The host's; a picture of an impossible size.
    pub fn draw(&mut self, width: u32, height: u32, rgba: &[u8]) -> std::io::Result<()> {
        if picture_bytes(width, height).is_none_or(|bytes| u64::try_from(rgba.len()) != Ok(bytes)) {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "a picture of an impossible size"));
        }
        let mut header = [0; 64];
        let mut put = |at: usize, bytes: &[u8]| {
            for (to, from) in header.iter_mut().skip(at).zip(bytes) {
                *to = *from;
            }
        };
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &width.to_le_bytes());
        put(16, &height.to_le_bytes());
        put(24, &self.sequence.wrapping_add(1).to_le_bytes());
        self.file.write_all_at(&header, 0)?;
        self.file.write_all_at(rgba, PIXELS_AT)?;
        self.sequence = self.sequence.wrapping_add(2);
        self.file.write_all_at(&self.sequence.to_le_bytes(), SEQUENCE_AT)
    }
}

/// Reads the picture in the folder of a VM.
///
/// # Errors
/// There is none, it is another user's, or it makes no sense.
pub fn read(folder: &RuntimeFolder) -> Result<Picture, Failure> {
    let what = "can not read the screen";
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat(folder, SCREEN, flags, Mode::empty())
        .map_err(|error| Failure::from_io(what, &error.into()))?;
    let stat = rustix::fs::fstat(&file).map_err(|error| Failure::from_io(what, &error.into()))?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(Failure::new(
            FailureKind::NotCapable,
            what,
            "The screen file is another user's.",
            "Remove it and start the VM again.",
        ));
    }
    let file = File::from(file);
    for _attempt in 0..ATTEMPTS {
        match try_read(&file).map_err(|error| Failure::from_io(what, &error))? {
            Some(picture) => return Ok(picture),
            // Drawing takes a millisecond or two; there is nothing to wait on but time.
            None => std::thread::sleep(std::time::Duration::from_millis(2)),
        }
    }
    Err(Failure::new(FailureKind::Failed, what, "It never held a whole picture.", "Try again."))
}

/// One attempt; `None` where the monitor drew meanwhile.
fn try_read(file: &File) -> std::io::Result<Option<Picture>> {
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0)?;
    let field = |at: usize| {
        let bytes = header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
        u32::from_le_bytes(bytes)
    };
    let before = header.get(24..32).unwrap_or_default().to_vec();
    if before.first().is_some_and(|low| low % 2 == 1) {
        return Ok(None);
    }
    let nonsense = || std::io::Error::new(std::io::ErrorKind::InvalidData, "the screen file makes no sense");
    if !header.starts_with(&MAGIC) || field(8) != VERSION {
        return Err(nonsense());
    }
    let (width, height) = (field(12), field(16));
    let bytes = picture_bytes(width, height).and_then(|bytes| usize::try_from(bytes).ok()).ok_or_else(nonsense)?;
    let mut rgba = vec![0; bytes];
    file.read_exact_at(&mut rgba, PIXELS_AT)?;
    let mut after = [0; 8];
    file.read_exact_at(&mut after, SEQUENCE_AT)?;
    Ok((after.as_slice() == before.as_slice()).then_some(Picture { width, height, rgba }))
}

fn picture_bytes(width: u32, height: u32) -> Option<u64> {
    if width == 0 || height == 0 || width > SIDE_MAX || height > SIDE_MAX {
        return None;
    }
    Some(u64::from(width) * u64::from(height) * 4).filter(|bytes| *bytes <= PICTURE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folder() -> (tempfile::TempDir, RuntimeFolder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = RuntimeFolder::open_at(dir.path(), "vm").unwrap();
        (dir, folder)
    }

    #[test]
    fn pictures_of_any_size_are_read_back() {
        let (_dir, folder) = folder();
        let mut writer = ScreenWriter::create(&folder).unwrap();
        for (width, height) in [(640, 480), (1, 1), (80, 25)] {
            let rgba: Vec<u8> = (0..width * height * 4).map(|at| (at % 251) as u8).collect();
            writer.draw(width, height, &rgba).unwrap();
            assert_eq!(read(&folder).unwrap(), Picture { width, height, rgba });
        }
        assert!(writer.draw(2, 2, &[0; 15]).is_err());
        let mode = std::fs::metadata(folder.path().join(SCREEN)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_impossible_file_is_an_error() {
        let (_dir, folder) = folder();
        for bytes in [vec![], vec![0; 64], {
            let mut bytes = vec![0xff; 64];
            bytes[..8].copy_from_slice(&MAGIC);
            bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
            bytes[24] = 0;
            bytes
        }] {
            std::fs::write(folder.path().join(SCREEN), &bytes).unwrap();
            assert!(read(&folder).is_err());
        }
    }
}
