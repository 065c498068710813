//! The lock-down: after it the process opens nothing outside the bundle, and asks the host for little.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use benchtop_control::command::SandboxInfo;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::seccomp;

/// The newest rules this program knows; an older kernel enforces those it has.
const RULES: ABI = ABI::V6;

/// What stays possible.
#[derive(Debug, Default)]
pub struct Allowed<'a> {
    /// The bundle: its files may be read, written, made and removed.
    pub bundle: Option<BorrowedFd<'a>>,
    /// The VM's runtime folder: its files may be removed.
    pub runtime: Option<BorrowedFd<'a>>,
}

/// Locks the process down for good, and tries whether it holds. To be called while there is one thread: what is
/// enforced on it, the threads it starts inherit.
///
/// A kernel that lacks one of the means is warned of, for the other still helps.
pub fn lock_down(allowed: &Allowed<'_>) -> SandboxInfo {
    let landlock = match confine_files(allowed) {
        Ok(RulesetStatus::NotEnforced) => {
            tracing::warn!("this kernel has no Landlock: the monitor could open any file of yours");
            false
        }
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(%error, "files could not be confined");
            false
        }
    };
    // Whatever Landlock did: a filter needs it, and a program without either must not gain privileges.
    let no_new_privileges = rustix::thread::set_no_new_privs(true).is_ok();
    let seccomp = match seccomp::apply() {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(error = %error, "system calls could not be filtered");
            false
        }
    };
    let mut info = SandboxInfo { landlock, seccomp, no_new_privileges, ..SandboxInfo::default() };
    for path in outside() {
        let (verdict, list) = match try_open(&path) {
            true => ("could be opened", &mut info.opened),
            false => ("refused", &mut info.refused),
        };
        tracing::debug!(path = %path.display(), verdict, "outside the bundle");
        list.push(path);
    }
    info
}

/// Whether this kernel can confine files.
pub fn has_landlock() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create)
        .is_ok()
}

/// Places a VM has no business in.
fn outside() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    [Some(PathBuf::from("/")), Some(PathBuf::from("/etc/passwd")), home].into_iter().flatten().collect()
}

fn try_open(path: &Path) -> bool {
    File::open(path).is_ok()
}

fn confine_files(allowed: &Allowed<'_>) -> Result<RulesetStatus, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(RULES))?
        .handle_access(AccessNet::from_all(RULES))?
        .scope(Scope::from_all(RULES))?
        .create()?;
    if let Some(bundle) = allowed.bundle {
        rules = rules.add_rule(PathBeneath::new(bundle, in_bundle()))?;
    }
    if let Some(runtime) = allowed.runtime {
        rules = rules.add_rule(PathBeneath::new(runtime, BitFlags::from(AccessFs::RemoveFile)))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

/// What a monitor does in its bundle. It makes no links, devices, sockets or pipes, and runs nothing.
fn in_bundle() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
}
