//! Errors of the engine as a person reads them.

use benchtop_block::{BlockError, BlockErrorKind};
use benchtop_control::failure::chain;
use benchtop_control::{Failure, FailureKind};
use benchtop_hypervisor::HypervisorError;
use benchtop_strata::{NEEDS_PASSWORD, WRONG_PASSWORD};

use super::image::{in_use, no_password, wrong_password};
use crate::MachineError;

/// An accelerator that refused.
pub fn hypervisor_failure(what: &str, error: &HypervisorError) -> Failure {
    let (kind, fix) = match error {
        HypervisorError::NotAvailable { .. } => (
            FailureKind::NotCapable,
            "Switch on virtualization in the computer's firmware and load its module (`modprobe kvm_intel` or `kvm_amd`); \
             `benchtop doctor` checks.",
        ),
        HypervisorError::NoPermission { .. } => (
            FailureKind::NotCapable,
            "Add your user to the group that owns /dev/kvm (`sudo usermod -aG kvm $USER`) and log in again.",
        ),
        HypervisorError::Lacks { .. } => (FailureKind::NotCapable, "Use a newer kernel on this host."),
        _ => (FailureKind::Failed, "Look at the reason above; the monitor's log may say more."),
    };
    Failure::new(kind, what, chain(error), fix)
}

/// A machine that refused.
pub fn machine_failure(what: &str, error: &MachineError) -> Failure {
    let (kind, fix) = match error {
        MachineError::Hypervisor(error) => return hypervisor_failure(what, error),
        MachineError::Disk(_) => (FailureKind::Failed, "Free some space on the host, then resume; else stop the VM."),
        MachineError::Host { source, .. } if source.kind() == std::io::ErrorKind::OutOfMemory => {
            (FailureKind::NotCapable, "Close other programs, or give the VM less memory.")
        }
        MachineError::Host { .. } => (FailureKind::Failed, "Look at the reason above."),
        MachineError::Config(_) => (FailureKind::Failed, "Change the VM with `benchtop set`."),
        MachineError::NoDevice(_) => (FailureKind::NotFound, "`benchtop show` lists the devices."),
        MachineError::TrayLocked(_) => {
            (FailureKind::WrongState, "Eject it inside the guest, or take it out all the same with --force.")
        }
        MachineError::KeysNotRead { .. } => {
            (FailureKind::Failed, "Look at its screen; type the rest when it reads keys again.")
        }
        MachineError::NoKey(_) => (FailureKind::Usage, "Only what a US keyboard has can be typed."),
        MachineError::BadChord(_) => (
            FailureKind::Usage,
            "Write keys with - between, as ctrl-alt-del; `benchtop keys --help` names them. Nothing was pressed.",
        ),
    };
    Failure::new(kind, what, chain(error), fix)
}

/// A disk that refused.
pub fn block_failure(what: &str, error: &BlockError) -> Failure {
    let text = error.to_string();
    if text == NEEDS_PASSWORD {
        return no_password(what);
    }
    if text == WRONG_PASSWORD {
        return wrong_password(what);
    }
    let host = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    let (kind, fix) = match error.kind() {
        BlockErrorKind::InUse => return in_use(what),
        BlockErrorKind::NoSpace => (FailureKind::NoSpace, "Free some space on its file system.".to_owned()),
        BlockErrorKind::ReadOnly => {
            (FailureKind::NotCapable, "Make the file writable, or add --discard-writes.".to_owned())
        }
        BlockErrorKind::Corrupt => (
            FailureKind::Integrity,
            "`benchtop disk check` says more; restore the image from a backup if it can not be repaired.".to_owned(),
        ),
        BlockErrorKind::OutOfRange | BlockErrorKind::Unsupported => {
            (FailureKind::Failed, "Check that this is the right file; nothing was changed.".to_owned())
        }
        _ => match host {
            // The host's own conditions have kinds and advice of their own.
            Some(host) => (Failure::from_io(what, host).kind, Failure::from_io(what, host).fix),
            None => (FailureKind::Failed, "Check the file and its file system.".to_owned()),
        },
    };
    Failure::new(kind, what, chain(error), fix)
}
