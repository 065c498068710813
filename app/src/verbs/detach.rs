//! `detach`: take a disk or drive from a VM that is off.

use benchtop_control::{Failure, FailureKind};
use clap::Args;

use crate::output::Output;
use crate::target::Target;

/// `detach`.
#[derive(Debug, Args)]
pub struct Detach {
    /// VM
    pub vm: String,
    /// Device, as `show` prints it
    pub device: String,
    /// Even if the guest uses it
    #[arg(long)]
    pub force: bool,
}

impl Detach {
    /// Runs the verb. A disk's image stays in the bundle.
    ///
    /// # Errors
    /// No such device, or the VM runs.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let mut target = Target::find(&self.vm)?;
        let what = || format!("can not detach `{}` from `{}`", self.device, self.vm);
        if !target.config.device_names().any(|name| name == self.device) {
            return Err(Failure::new(
                FailureKind::NotFound,
                what(),
                "The VM has no such device.",
                "`benchtop show` lists its devices.",
            ));
        }
        if target.client()?.is_some() {
            return Err(Failure::new(
                FailureKind::WrongState,
                what(),
                "It is running, and IDE drives can not be unplugged while it runs.",
                "Eject a disc with `benchtop cd eject`, or stop the VM first.",
            ));
        }
        let mut file = None;
        target.change(|config| {
            file = config.disks.iter().find(|disk| disk.name == self.device).map(|disk| disk.file.clone());
            config.disks.retain(|disk| disk.name != self.device);
            config.cds.retain(|cd| cd.name != self.device);
            Ok(())
        })?;
        // Another disk may have its name one day.
        if let Err(error) = target.bundle.forget_disk_identity(&self.device) {
            tracing::warn!(%error, "how old {} was could not be forgotten", self.device);
        }
        let image = file.map(|file| target.bundle.path().join(file));
        let fields = serde_json::json!({ "name": target.name(), "device": self.device, "image": image });
        output.done("detach", &fields, || match &image {
            Some(image) => format!("detached {}; its image stays at {}", self.device, image.display()),
            None => format!("detached {}", self.device),
        })
    }
}
