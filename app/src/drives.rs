//! `--disk` and its options: `SIZE[,bus=ide][,cache=M][,format=F]` and `FILE[,bus=…][,cache=…][,format=…]`.

use std::path::PathBuf;
use std::str::FromStr;

use benchtop_control::config::{CacheMode, DiskBus, DiskFormat};
use benchtop_control::{Failure, FailureKind, Size};

use crate::cli::not_built;

/// What follows the commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriveOptions {
    /// Controller.
    pub bus: DiskBus,
    /// Cache mode.
    pub cache: CacheMode,
    /// Image format, where it is said.
    pub format: Option<DiskFormat>,
}

/// A disk to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDisk {
    /// Its size.
    pub size: Size,
    /// Its options.
    pub options: DriveOptions,
}

/// A disk that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFile {
    /// Its image.
    pub path: PathBuf,
    /// Its options.
    pub options: DriveOptions,
}

fn usage(text: &str, why: impl Into<String>) -> Failure {
    let fix = "Write for example 20G or 20G,cache=writeback.";
    Failure::new(FailureKind::Usage, format!("did not understand the disk `{text}`"), why, fix)
}

/// The same where a disk that is there was to be named.
fn file_usage(failure: Failure) -> Failure {
    match failure.kind {
        FailureKind::Usage => failure.with_fix("Write for example disk.qcow2 or disk.img,format=raw,cache=writeback."),
        _ => failure,
    }
}

/// Splits options off from the end, so that a file's name may hold commas.
fn split(text: &str) -> Result<(&str, DriveOptions), Failure> {
    let mut options = DriveOptions::default();
    let mut rest = text;
    while let Some((before, last)) = rest.rsplit_once(',') {
        let Some((key, value)) = last.split_once('=') else { break };
        match key {
            "bus" => match value {
                "ide" => options.bus = DiskBus::Ide,
                "lsi" | "pvscsi" => return Err(not_built(&format!("the disk controller {value}"))),
                _ => return Err(usage(text, format!("`{value}` is no disk controller."))),
            },
            "cache" => options.cache = CacheMode::from_str(value).map_err(|why| usage(text, why))?,
            "format" if value == "nbd" => {
                return Err(usage(text, "A disk that a server has is named by URI: nbd://HOST/EXPORT."));
            }
            "format" => {
                options.format = Some(DiskFormat::from_str(value).map_err(|why| usage(text, format!("{why}.")))?);
            }
            _ => break,
        }
        rest = before;
    }
    Ok((rest, options))
}

impl NewDisk {
    /// Reads a disk to make.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let (size, options) = split(text)?;
        let size = size.parse::<Size>().map_err(|error| usage(text, format!("{error}.")))?;
        check_size(size).map_err(|why| usage(text, why))?;
        Ok(Self { size, options })
    }
}

impl DiskFile {
    /// Reads a disk that is there.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let (path, options) = split(text).map_err(file_usage)?;
        if path.is_empty() {
            return Err(file_usage(usage(text, "It has no file name.")));
        }
        Ok(Self { path: path.into(), options })
    }
}

/// What a disk's size can be.
///
/// # Errors
/// A sentence.
pub fn check_size(size: Size) -> Result<(), &'static str> {
    if size.bytes() == 0 {
        return Err("A disk can not be empty.");
    }
    if !size.bytes().is_multiple_of(512) {
        return Err("A disk is a whole number of sectors of 512 bytes.");
    }
    if size > Size(1 << 57) {
        return Err("It is more than ATA can address (128P).");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_follow_commas() {
        let disk = NewDisk::parse("20G,cache=writeback,bus=ide").unwrap();
        assert_eq!(disk.size, Size(20 << 30));
        assert_eq!(disk.options.cache, CacheMode::Writeback);
        let file = DiskFile::parse("a,b=c.img,cache=unsafe").unwrap();
        assert_eq!(file.path, PathBuf::from("a,b=c.img"));
        assert_eq!(file.options.cache, CacheMode::Unsafe);
        assert_eq!(DiskFile::parse("x,format=vhdx").unwrap().options.format, Some(DiskFormat::Vhdx));
    }

    #[test]
    fn what_is_not_built_is_told_from_what_is_wrong() {
        assert_eq!(NewDisk::parse("20G,bus=lsi").unwrap_err().kind, FailureKind::Failed);
        for wrong in ["20G,bus=scsi", "0", "1", "x", "20G,cache=fast", "20G,speed=9", "20G,format=tape", ""] {
            assert_eq!(NewDisk::parse(wrong).unwrap_err().kind, FailureKind::Usage, "{wrong}");
        }
    }
}
