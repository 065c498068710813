//! `rm`: remove a VM and its disks.

use benchtop_control::{Failure, Library, RuntimeFolder};
use clap::Args;

use crate::output::Output;

/// `rm`.
#[derive(Debug, Args)]
pub struct Rm {
    /// VM
    pub vm: String,
}

impl Rm {
    /// Runs the verb. A VM whose configuration can not be read can be removed too.
    ///
    /// # Errors
    /// It runs, or the host refused.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let bundle = Library::of_user()?.find(&self.vm)?;
        let _lock = bundle.lock()?;
        output.confirm(&format!("Remove {} and its disks for good?", bundle.path().display()))?;
        let config = bundle.config().ok();
        std::fs::remove_dir_all(bundle.path())
            .map_err(|error| Failure::from_io(format!("can not remove {}", bundle.path().display()), &error))?;
        if let (Some(config), Ok(runtime)) = (&config, RuntimeFolder::open()) {
            runtime.forget_vm(&config.uuid.to_string());
        }
        let fields = serde_json::json!({ "name": bundle.folder_name(), "path": bundle.path() });
        output.done("rm", &fields, || format!("removed {}", bundle.path().display()))
    }
}
