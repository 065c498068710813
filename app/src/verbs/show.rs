//! `show`: a VM and its devices.

use benchtop_control::command::{DeviceInfo, VmInfo};
use benchtop_control::config::{DiskBus, DiskConfig, DiskFormat};
use benchtop_control::{Bundle, Failure, FailureKind, Size, VmState};
use benchtop_machine::monitor::image;
use clap::Args;
use serde::Serialize;

use crate::output::{Output, table};
use crate::target::{Found, Target, booted, look, running, unreachable};

/// `show`.
#[derive(Debug, Args)]
pub struct Show {
    /// VM
    pub vm: String,
}

/// What `show --json` prints.
#[derive(Serialize)]
struct Shown {
    path: Option<std::path::PathBuf>,
    #[serde(flatten)]
    info: VmInfo,
    boot: Option<benchtop_control::config::BootFrom>,
    cpu_model: Option<String>,
    previous_uuid: Option<uuid::Uuid>,
    firmware: Option<std::path::PathBuf>,
}

impl Show {
    /// Runs the verb.
    ///
    /// # Errors
    /// No such VM.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let shown = match Target::find(&self.vm) {
            Ok(target) => {
                let info = match look(&target.bundle, &target.config)? {
                    Found::Client(mut client) => client.show()?,
                    Found::Nothing => {
                        if booted(&self.vm)?.is_some() {
                            output.warning(&format!(
                                "{} is off; verbs for a running VM reach the one of that name that `boot` runs",
                                target.name(),
                            ));
                        }
                        info_when_off(&target)
                    }
                    Found::Unreachable(monitor) => VmInfo {
                        state: VmState::Unreachable,
                        reason: Some(unreachable(target.name(), &monitor).why),
                        pid: Some(monitor.pid()),
                        ..info_when_off(&target)
                    },
                };
                Shown {
                    path: Some(target.bundle.path().to_path_buf()),
                    info,
                    boot: Some(target.config.boot),
                    cpu_model: Some(target.config.cpu_model.clone()),
                    previous_uuid: target.config.previous_uuid,
                    firmware: target.config.firmware.clone(),
                }
            }
            Err(failure) if failure.kind == FailureKind::NotFound => Shown {
                path: None,
                info: running(&self.vm)?.show()?,
                boot: None,
                cpu_model: None,
                previous_uuid: None,
                firmware: None,
            },
            Err(failure) => return Err(failure),
        };
        output.result("show", &shown, || text(&shown))
    }
}

/// What the configuration says of a VM that is off.
pub fn info_when_off(target: &Target) -> VmInfo {
    let config = &target.config;
    let disks = config.disks.iter().map(|disk| DeviceInfo {
        name: disk.name.clone(),
        kind: "disk".to_owned(),
        bus: disk.bus,
        file: Some(disk.file.clone()),
        format: Some(disk.format.name().to_owned()),
        cache: Some(disk.cache),
        size_bytes: size_bytes(&target.bundle, disk),
    });
    let cds = config.cds.iter().map(|cd| DeviceInfo {
        name: cd.name.clone(),
        kind: "cd".to_owned(),
        bus: DiskBus::Ide,
        file: cd.iso.clone(),
        format: None,
        cache: None,
        size_bytes: cd.iso.as_ref().and_then(|iso| iso.metadata().ok()).map(|metadata| metadata.len()),
    });
    VmInfo {
        name: config.name.clone(),
        uuid: config.uuid,
        state: VmState::Off,
        reason: None,
        accel: None,
        pid: None,
        memory_bytes: config.memory.bytes(),
        cpus: config.cpus,
        devices: disks.chain(cds).collect(),
        sandbox: None,
    }
}

/// The size of a disk, where its image says it.
fn size_bytes(bundle: &Bundle, disk: &DiskConfig) -> Option<u64> {
    let file = bundle.open_file(&disk.file, false).ok()?;
    if disk.format == DiskFormat::Strata {
        return benchtop_strata::facts(&file).map(|facts| facts.size_bytes);
    }
    benchtop_images::info(&file, image::image_format(disk.format)).ok().map(|info| info.virtual_bytes)
}

fn text(shown: &Shown) -> String {
    let info = &shown.info;
    let mut rows = vec![vec!["name".to_owned(), info.name.clone()]];
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    if let Some(path) = &shown.path {
        row("path", path.display().to_string());
    }
    row("uuid", info.uuid.to_string());
    let state = match &info.reason {
        Some(reason) => format!("{}: {reason}", info.state.name()),
        None => info.state.name().to_owned(),
    };
    row("state", state);
    if let Some(accel) = &info.accel {
        row("accelerator", accel.clone());
    }
    if let Some(pid) = info.pid {
        row("monitor", format!("process {pid}"));
    }
    row("memory", Size(info.memory_bytes).human());
    row("cpus", info.cpus.to_string());
    if let Some(boot) = shown.boot {
        row("boots from", format!("{boot:?}").to_lowercase());
    }
    for device in &info.devices {
        let file = device.file.as_ref().map_or_else(|| "empty".to_owned(), |file| file.display().to_string());
        let size = device.size_bytes.map(|bytes| format!(", {}", Size(bytes).human())).unwrap_or_default();
        let cache = device.cache.map(|cache| format!(", {cache}")).unwrap_or_default();
        let format = device.format.as_ref().map(|format| format!(", {format}")).unwrap_or_default();
        row(&device.name, format!("{file}{format}{size}{cache}"));
    }
    if let Some(sandbox) = &info.sandbox {
        let word = |on: bool| if on { "on" } else { "off" };
        row("sandbox", format!("files {}, system calls {}", word(sandbox.landlock), word(sandbox.seccomp)));
    }
    table(&rows)
}
