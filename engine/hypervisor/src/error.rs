//! Errors of the accelerators.

/// Why an accelerator refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// The device node is missing: no hardware virtualization, or its module is not loaded.
    #[error("{name} is not available on this host")]
    NotAvailable {
        /// The accelerator.
        name: &'static str,
        /// What the host said.
        source: std::io::Error,
    },
    /// The user may not use it.
    #[error("no permission to use {name}")]
    NoPermission {
        /// The accelerator.
        name: &'static str,
        /// What the host said.
        source: std::io::Error,
    },
    /// The host's version lacks something needed.
    #[error("{name} on this host lacks {what}")]
    Lacks {
        /// The accelerator.
        name: &'static str,
        /// What is missing.
        what: &'static str,
    },
    /// A call failed.
    #[error("{call} failed")]
    Call {
        /// The call, by the accelerator's own name for it.
        call: &'static str,
        /// What the host said.
        source: std::io::Error,
    },
    /// The guest did something the accelerator can not go on from.
    #[error("the vCPU can not go on: {reason}")]
    Stuck {
        /// What the accelerator reported, with the registers that matter.
        reason: String,
    },
    /// A saved vCPU state was refused.
    #[error("saved vCPU state: impossible {field}")]
    State {
        /// The element at fault.
        field: String,
    },
}
