//! The way back from the disks: completions to the controller, trouble to the supervisor.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use benchtop_block::{BlockError, Completed, CompletionSink, DiskObserver};
use benchtop_devices::Bus;
use benchtop_devices::bus::Attachment;
use benchtop_hypervisor::Vm;

use crate::cpu_io::BoardIo;
use crate::supervisor::Supervisor;

/// Takes completions on worker threads and hands them to a controller.
pub struct Completions {
    // Weak, because the bus holds the controller and the controller this. A circle would keep disks open for ever.
    bus: Weak<Bus>,
    vm: Arc<dyn Vm>,
    io: Weak<BoardIo>,
    target: OnceLock<Weak<Attachment>>,
}

impl Completions {
    /// A way to nobody yet.
    pub fn new(bus: &Arc<Bus>, vm: Arc<dyn Vm>, io: &Arc<BoardIo>) -> Arc<Self> {
        Arc::new(Self { bus: Arc::downgrade(bus), vm, io: Arc::downgrade(io), target: OnceLock::new() })
    }

    /// Says to whom. Called once.
    pub fn connect(&self, target: &Arc<Attachment>) {
        // A second call would be a mistake of the board's; the first one holds.
        let _first = self.target.set(Arc::downgrade(target));
    }
}

impl fmt::Debug for Completions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completions").finish_non_exhaustive()
    }
}

impl CompletionSink for Completions {
    fn complete(&self, completed: Completed) {
        // Writes the guest made before this completion must be seen by the registers before it changes them.
        let (Some(bus), Some(io)) = (self.bus.upgrade(), self.io.upgrade()) else { return };
        self.vm.drain_coalesced(&*io);
        if let Some(target) = self.target.get().and_then(Weak::upgrade) {
            bus.with_device(&target, |device| device.complete(completed));
        }
    }
}

/// Pauses the machine where a disk can not go on without help.
pub struct DiskTrouble {
    pub supervisor: Arc<Supervisor>,
}

impl DiskObserver for DiskTrouble {
    fn out_of_space(&self, error: &BlockError) {
        let why = with_cause(error);
        self.supervisor.pause(format!("the host has no space for the disk ({why}); free some and resume"));
    }

    fn poisoned(&self, error: &BlockError) {
        let why = with_cause(error);
        self.supervisor.pause(format!("the host failed to make writes durable ({why}); resume reopens the disk"));
    }
}

/// The error with the host's own words.
fn with_cause(error: &BlockError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
