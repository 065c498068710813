//! The KVM backend.
