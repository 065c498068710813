//! `screenshot`: a picture of the screen.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use benchtop_control::screen::Picture;
use benchtop_control::{Failure, FailureKind};
use clap::Args;

use crate::files::Replacement;
use crate::output::Output;
use crate::target::running;

/// `screenshot`.
#[derive(Debug, Args)]
pub struct Screenshot {
    /// VM
    pub vm: String,
    /// PNG file to write
    pub file: PathBuf,
}

impl Screenshot {
    /// Runs the verb. A regular file is replaced wholly or not at all.
    ///
    /// # Errors
    /// The VM is off, or the file can not be written.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let picture = running(&self.vm)?.screen()?;
        let target = Replacement::begin(&self.file)?;
        write_png(target.file(), &picture, &self.file)?;
        target.finish()?;
        let fields =
            serde_json::json!({ "name": self.vm, "file": self.file, "width": picture.width, "height": picture.height });
        output.done("screenshot", &fields, || {
            format!("wrote {} ({} × {})", self.file.display(), picture.width, picture.height)
        })
    }
}

/// Writes a picture as PNG; `path` is for messages.
///
/// # Errors
/// The host's.
pub fn write_png(file: &File, picture: &Picture, path: &Path) -> Result<(), Failure> {
    let mut out = BufWriter::new(file);
    let mut encoder = png::Encoder::new(&mut out, picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder
        .write_header()
        .and_then(|mut writer| writer.write_image_data(&picture.rgba).and_then(|()| writer.finish()));
    let what = format!("can not write {}", path.display());
    match written {
        Ok(()) => out.flush().map_err(|error| Failure::from_io(what, &error)),
        Err(png::EncodingError::IoError(error)) => Err(Failure::from_io(what, &error)),
        Err(error) => Err(Failure::new(FailureKind::Failed, what, format!("{error}."), "Try again.")),
    }
}
