//! What this host has.

use benchtop_control::config::{MEMORY_MAX, MEMORY_MIN};
use benchtop_control::{Failure, FailureKind, Size};

/// Bytes of RAM this host has, where it says.
pub fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Checks that a VM can have this much RAM.
///
/// # Errors
/// A size no VM has is a wrong use; one this host does not have is the host's limit.
pub fn check_memory(memory: Size) -> Result<(), Failure> {
    let what = format!("can not give a VM {memory} of memory");
    let usage = |why: String| Err(Failure::new(FailureKind::Usage, what.clone(), why, "Write for example 2G."));
    if memory < MEMORY_MIN || memory > MEMORY_MAX {
        return usage(format!("A VM has from {MEMORY_MIN} to {MEMORY_MAX}."));
    }
    if !memory.bytes().is_multiple_of(1 << 20) {
        return usage("Memory is a whole number of MiB.".to_owned());
    }
    match memory_bytes() {
        Some(host) if memory.bytes() > host => Err(Failure::new(
            FailureKind::NotCapable,
            what.clone(),
            format!("This host has {}.", Size(host).human()),
            "Give it less; the guest and this host share the memory.",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_and_too_much_are_refused() {
        assert_eq!(check_memory(Size(0)).unwrap_err().kind, FailureKind::Usage);
        assert_eq!(check_memory(Size(1 << 40)).unwrap_err().kind, FailureKind::NotCapable);
        assert_eq!(check_memory(Size(64 << 20)), Ok(()));
    }
}
