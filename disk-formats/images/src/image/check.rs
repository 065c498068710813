//! Checking and repairing images.

use std::fs::File;

use benchtop_block::BlockError;

use super::{OpenOptions, open_vmdk, strata, unsupported};
use crate::file::ImageFile;
use crate::probe::Format;
use crate::{VdiDisk, VhdDisk, VhdxDisk, qcow2, vhd, vmdk};

/// Findings that are put into words, at most.
const MAX_FINDINGS: usize = 32;

/// What a check found. Nothing at all where both numbers are 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Places that are wrong: data is lost, or a write could destroy some.
    pub damages: u64,
    /// Clusters or blocks that take room and hold nothing: no data is in danger.
    pub leaks: u64,
    /// The first of them in words.
    pub findings: Vec<String>,
}

impl CheckReport {
    pub(crate) fn damage(&mut self, count: u64, what: impl FnOnce() -> String) {
        self.damages = self.damages.saturating_add(count);
        self.note(count, what);
    }

    fn leak(&mut self, count: u64, what: impl FnOnce() -> String) {
        self.leaks = self.leaks.saturating_add(count);
        self.note(count, what);
    }

    /// Adds what was found in another part.
    pub(crate) fn add(&mut self, other: Self) {
        self.damages = self.damages.saturating_add(other.damages);
        self.leaks = self.leaks.saturating_add(other.leaks);
        let left = MAX_FINDINGS.saturating_sub(self.findings.len());
        self.findings.extend(other.findings.into_iter().take(left));
    }

    fn note(&mut self, count: u64, what: impl FnOnce() -> String) {
        if count > 0 && self.findings.len() < MAX_FINDINGS {
            self.findings.push(what());
        }
    }

    fn of_qcow2(found: qcow2::CheckReport) -> Self {
        let qcow2::CheckReport {
            leaked_clusters,
            uncounted_clusters,
            wrong_marks,
            shared_tables,
            cut_clusters,
            marked_compressed,
            unpackable_clusters,
        } = found;
        let mut report = Self::default();
        report.damage(uncounted_clusters, || format!("{uncounted_clusters} clusters are used and not counted"));
        report.damage(wrong_marks, || format!("{wrong_marks} clusters are marked as used once and are not"));
        report.damage(shared_tables, || format!("{shared_tables} clusters of tables are used by something else, too"));
        report.damage(cut_clusters, || {
            format!("the file was cut short: {cut_clusters} clusters of data are behind its end, wholly or in part")
        });
        report.damage(marked_compressed, || {
            format!("{marked_compressed} compressed clusters are marked as used once, which none may be")
        });
        report.damage(unpackable_clusters, || format!("{unpackable_clusters} compressed clusters can not be unpacked"));
        report.leak(leaked_clusters, || format!("{leaked_clusters} clusters are counted and not used"));
        report
    }
}

/// Checks what an image says of itself, and changes nothing: qcow2's counts of clusters, that its data lies in the file
/// and that what is compressed can be unpacked; of VMDK, VDI, VHD and VHDX that every block lies in the file, and that no
/// two blocks, tables or headers share room. A VHDX that was not closed is checked as its log leaves it. `options` serve
/// as for [`open`](super::open), and the image is opened for reading whatever they say; what else the disk holds is not
/// looked at. Up to 512 MiB of memory, which only images of many TiB take.
///
/// # Errors
/// `Unsupported` for raw and ISO images, which say nothing of themselves, and for images too large to check; `Corrupt`
/// where the image is too damaged to be followed; else as `open`.
pub fn check(file: File, format: Format, options: &OpenOptions<'_>) -> Result<CheckReport, BlockError> {
    let options = OpenOptions { read_only: true, ..*options };
    match format {
        Format::Qcow2 => qcow2::check(&file).map(CheckReport::of_qcow2),
        Format::Vmdk => open_vmdk(file, &options, &[])?.check(),
        Format::Vdi => VdiDisk::open(file, true)?.check(),
        Format::Vhd => VhdDisk::open(file, true)?.check(),
        Format::Vhdx => VhdxDisk::open(file, true)?.check(),
        Format::Raw | Format::Iso => {
            Err(unsupported(format!("a {format} image is nothing but its content, so there is nothing to check")))
        }
        Format::Strata => Err(strata()),
    }
}

/// Repairs an image in place, as far as that loses nothing: counts the clusters of a qcow2 image anew and takes the
/// marks "dirty" and "corrupt" away; replays a VHDX log; puts a lost VHD footer back; takes the mark "in use" of a sound
/// VMDK away. `file` must allow writing. What
/// is found afterwards is the answer. A crash in between leaves the image as it was or repaired.
///
/// # Errors
/// `Unsupported` where the format has nothing to repair by; `Corrupt` for damage that can not be repaired without loss;
/// `InUse`; `ReadOnly`; or the host's.
pub fn repair(file: File, format: Format) -> Result<CheckReport, BlockError> {
    match format {
        Format::Qcow2 => qcow2::repair(file).map(CheckReport::of_qcow2),
        // Opening them for writing is the repair.
        Format::Vhdx => VhdxDisk::open(file, false)?.check(),
        Format::Vhd => {
            let file = ImageFile::open(file, false)?;
            vhd::restore_footer(&file)?;
            VhdDisk::on(file)?.check()
        }
        Format::Raw | Format::Iso => check(file, format, &OpenOptions::default()),
        Format::Vmdk => vmdk::repair(ImageFile::open(file, false)?),
        Format::Vdi => {
            Err(unsupported("a VDI image holds nothing to repair it by; copy what can be read into a new image"))
        }
        Format::Strata => Err(strata()),
    }
}
