//! `boot`: a throw-away VM in the foreground.

mod run;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use benchtop_control::config::{BootFrom, CPU_MODEL, CPUS_MAX, IDE_DRIVES_MAX};
use benchtop_control::names::check_vm_name;
use benchtop_control::{Failure, FailureKind, Library, Size};
use benchtop_machine::monitor::image::ImageUse;
use benchtop_machine::monitor::open::{self, DiskUse, Opened, VmDisk};
use benchtop_machine::monitor::{firmware, host};
use benchtop_machine::{CdPart, DirectKernel};
use benchtop_nbd::Uri;
use clap::Args;

use crate::cli::AccelChoice;
use crate::drives::DiskFile;
use crate::image::{Access, Source};
use crate::output::Output;
use crate::verbs::start::create;

/// `boot`.
#[derive(Debug, Args)]
#[command(after_help = "Texts of --type are typed in order, each once the text screen has stood still for a second \
    while no disk was read.\nIn TEXT, \\n is Enter, \\t is Tab and \\e is Escape.")]
pub struct Boot {
    /// Disc in its CD-ROM drive
    #[arg(long, value_name = "FILE")]
    pub iso: Option<PathBuf>,
    /// Disks, as their options were written
    #[arg(
        long = "disk",
        value_name = "FILE",
        help = "Disk: FILE or nbd://HOST/EXPORT[,bus=ide][,cache=writethrough|writeback|unsafe][,format=strata|raw|…]"
    )]
    pub disks: Vec<String>,
    /// Kernel to start: bzImage or PVH ELF
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Its initial RAM disk
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// Its command line
    #[arg(long, value_name = "TEXT", requires = "kernel", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// Firmware: a folder, or a BIOS file
    #[arg(long, value_name = "PATH")]
    pub firmware: Option<PathBuf>,
    /// RAM
    #[arg(long, default_value = "1G", value_name = "SIZE")]
    pub memory: Size,
    /// CPUs
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub cpus: u32,
    /// What runs the guest's instructions
    #[arg(long, value_enum, default_value_t)]
    pub accel: AccelChoice,
    /// What to boot from: cd or disk
    #[arg(long, value_name = "cd|disk")]
    pub boot: Option<BootFrom>,
    /// Name by which other verbs reach it
    #[arg(long)]
    pub name: Option<String>,
    /// Text to type
    #[arg(long = "type", value_name = "TEXT", allow_hyphen_values = true)]
    pub texts: Vec<String>,
    /// Where the serial port's output goes: a file, or - for standard output
    #[arg(long, value_name = "-|FILE")]
    pub serial: Option<String>,
    /// PNG file for the screen at the end
    #[arg(long, value_name = "FILE")]
    pub screenshot: Option<PathBuf>,
    /// JSON file for the figures at the end
    #[arg(long, value_name = "FILE")]
    pub stats: Option<PathBuf>,
    /// Leave the disks as they are: writes live in memory
    #[arg(long)]
    pub discard_writes: bool,
    /// End where the guest resets the machine
    #[arg(long)]
    pub no_reboot: bool,
    /// End after this time, with exit code 9
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// End as soon as this text is seen on the serial port or the text screen
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub until: Option<String>,
    /// How to open the disks: one password serves all.
    #[command(flatten)]
    pub access: Access,
}

impl Boot {
    /// Runs the verb.
    ///
    /// # Errors
    /// What failed.
    pub fn run(&self, output: &Output) -> Result<u8, Failure> {
        self.check(output)?;
        let opened = self.open(output)?;
        // Last, so that a VM that can not start leaves no empty files behind.
        let outputs = run::Outputs {
            serial: match self.serial.as_deref() {
                None => None,
                Some("-") => Some(Box::new(std::io::stdout())),
                Some(path) => Some(Box::new(create(path.as_ref())?)),
            },
            screenshot: self.screenshot.as_deref().map(create).transpose()?,
            stats: self.stats.as_deref().map(create).transpose()?,
        };
        run::run(self, output, opened, outputs)
    }

    /// What can be said without opening anything.
    fn check(&self, output: &Output) -> Result<(), Failure> {
        let usage = |why: String, fix: &str| Err(Failure::new(FailureKind::Usage, "can not boot that", why, fix));
        host::check_memory(self.memory)?;
        if self.cpus == 0 || self.cpus > CPUS_MAX {
            return usage(format!("A VM has from 1 to {CPUS_MAX} CPUs, not {}.", self.cpus), "Choose another number.");
        }
        if self.disks.len() >= IDE_DRIVES_MAX {
            return usage(
                format!("IDE has room for {IDE_DRIVES_MAX} drives, and one is the CD-ROM."),
                "Give it fewer disks.",
            );
        }
        if self.until.as_deref() == Some("") {
            return usage("An empty text is seen at once.".to_owned(), "Say what --until shall wait for.");
        }
        if self.serial.as_deref() == Some("-") && output.is_json() {
            return usage("Both --serial - and --json write to standard output.".to_owned(), "Use --serial FILE.");
        }
        if let Some(name) = &self.name {
            if let Err(why) = check_vm_name(name) {
                return usage(why.to_owned(), "Choose another name.");
            }
            if Library::of_user()?.find(name).is_ok() {
                return usage(format!("The library has a VM `{name}`."), "Choose another name.");
            }
        }
        Ok(())
    }

    /// Opens everything.
    fn open(&self, output: &Output) -> Result<Opened, Failure> {
        let hypervisor = open::open_hypervisor(self.accel.accelerator(output)?)?;
        let firmware = firmware::load(self.firmware.as_deref())?;
        let mut devices = Vec::new();
        let mut disks = Vec::new();
        for (index, text) in self.disks.iter().enumerate() {
            let file = DiskFile::parse(text)?;
            let (cache, format, read_only) = (file.options.cache, file.options.format, self.discard_writes);
            let text = file.path.to_str().unwrap_or_default();
            let source = match Uri::is_one(text) {
                true => Source::of_export(text.to_owned(), format)?,
                false => Source::of_file(file.path.clone(), format),
            };
            let disk = match source.connect(&self.access.tls, read_only)? {
                Some(connected) => open::connected_disk(connected, cache, read_only),
                None => {
                    let opened = self.access.password.unlock(output, &source.name, |password| {
                        source.with_named(output, &self.access, |options| {
                            let image = ImageUse { format, read_only, password, named: options.named, expected: None };
                            open::open_disk(&file.path, DiskUse { cache, image })
                        })
                    })?;
                    opened.0
                }
            };
            let name = format!("disk{index}");
            devices.push(open::disk_info(&name, file.options.bus, &file.path, &disk));
            disks.push(VmDisk { name, bus: file.options.bus, image: disk, serial: format!("BTBOOT{index:02}") });
        }
        let medium = match &self.iso {
            Some(path) => Some(open::medium(open::open_iso(path)?, path)?),
            None => None,
        };
        devices.push(open::cd_info("cd0", self.iso.as_deref(), medium.as_ref()));
        let direct_kernel = match &self.kernel {
            None => None,
            Some(kernel) => Some(DirectKernel {
                kernel: open::open_regular("kernel", kernel)?,
                initrd: self.initrd.as_deref().map(|path| open::open_regular("initrd", path)).transpose()?,
                command_line: self.append.clone().unwrap_or_default(),
            }),
        };
        let from = self.boot.unwrap_or(if medium.is_some() { BootFrom::Cd } else { BootFrom::Disk });
        Ok(Opened {
            name: self.name.clone().unwrap_or_else(|| "boot".to_owned()),
            uuid: uuid::Uuid::new_v4(),
            memory: self.memory,
            cpus: self.cpus,
            cpu_model: CPU_MODEL.to_owned(),
            boot: from,
            firmware,
            direct_kernel,
            disks,
            cds: vec![CdPart { name: "cd0".to_owned(), medium }],
            devices,
            hypervisor,
            no_reboot: self.no_reboot,
        })
    }
}

/// Reads `60s`, `500ms`, `2m`, `1h`; a number alone is seconds.
///
/// # Errors
/// A sentence.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time; write for example 60s");
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_not_a_number| wrong())?;
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    // A year is long enough, and deadlines that far can be represented everywhere.
    match number.checked_mul(millis) {
        Some(millis @ 1..=31_536_000_000) => Ok(Duration::from_millis(millis)),
        _ => Err(wrong()),
    }
}

/// A time as [`parse_duration`] reads it, with a space: `60 s`, `300 ms`.
pub fn human_duration(time: Duration) -> String {
    match time.subsec_millis() {
        0 => format!("{} s", time.as_secs()),
        _ => format!("{} ms", time.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(parse_duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(human_duration(Duration::from_millis(300)), "300 ms");
        assert_eq!(human_duration(Duration::from_secs(60)), "60 s");
        for wrong in ["", "s", "-1s", "0s", "1d", "1 s", "99999999999999h"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
