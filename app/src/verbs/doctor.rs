//! `doctor`: what this host can do.

use benchtop_control::{Failure, FailureKind, Library, RuntimeFolder, Size};
use benchtop_machine::monitor::{firmware, host, open, sandbox};
use clap::Args;
use serde::Serialize;

use crate::output::{Output, table};

/// `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {}

/// One thing that was looked at.
#[derive(Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    /// VMs run without it, less well.
    optional: bool,
    found: String,
    fix: Option<String>,
}

impl Check {
    fn of(name: &'static str, result: Result<String, Failure>) -> Self {
        match result {
            Ok(found) => Self { name, ok: true, optional: false, found, fix: None },
            Err(failure) => {
                let found = format!("{}: {}", failure.what, failure.why);
                Self { name, ok: false, optional: false, found, fix: Some(failure.fix) }
            }
        }
    }

    /// `found` is what is said where it is there, and where it is not.
    fn optional(name: &'static str, ok: bool, found: [&str; 2], fix: &str) -> Self {
        let fix = (!ok).then(|| fix.to_owned());
        Self { name, ok, optional: true, found: found[usize::from(!ok)].to_owned(), fix }
    }
}

impl Doctor {
    /// Runs the verb. The exit code is 5 where VMs can not run.
    ///
    /// # Errors
    /// The result can not be printed.
    pub fn run(&self, output: &Output) -> Result<u8, Failure> {
        let checks = [
            // Where it is missing, the software CPU runs VMs.
            Check {
                optional: true,
                ..Check::of(
                    "kvm",
                    open::open_hypervisor(open::Accelerator::Kvm).map(|accel| format!("{} can be used", accel.name())),
                )
            },
            Check::of("firmware", firmware::find(None).map(|found| found.bios.display().to_string())),
            Check::of("runtime folder", RuntimeFolder::open().map(|folder| folder.path().display().to_string())),
            Check::of("library", library()),
            Check::of("memory", memory()),
            Check::optional(
                "landlock",
                sandbox::has_landlock(),
                ["the kernel confines a VM's files", "the kernel does not confine a VM's files"],
                "Use Linux 5.13 or later with Landlock enabled (lsm=landlock,…).",
            ),
            Check::optional(
                "seccomp",
                has_seccomp(),
                ["the kernel filters a VM's system calls", "the kernel has no filter for system calls"],
                "Use a kernel with CONFIG_SECCOMP_FILTER.",
            ),
        ];
        let capable = checks.iter().all(|check| check.ok || check.optional);
        let fields = serde_json::json!({ "ok": capable, "checks": checks });
        output.result("doctor", &fields, || {
            let rows: Vec<Vec<String>> = checks
                .iter()
                .flat_map(|check| {
                    let word = match (check.ok, check.optional) {
                        (true, _) => "ok",
                        (false, true) => "missing",
                        (false, false) => "wrong",
                    };
                    let row = vec![check.name.to_owned(), word.to_owned(), check.found.clone()];
                    let fix = check.fix.as_ref().map(|fix| vec![String::new(), String::new(), fix.clone()]);
                    std::iter::once(row).chain(fix)
                })
                .collect();
            table(&rows)
        })?;
        Ok(if capable { 0 } else { FailureKind::NotCapable.exit_code() })
    }
}

fn library() -> Result<String, Failure> {
    let library = Library::of_user()?;
    let count = library.paths()?.len();
    Ok(format!("{} ({count} VMs)", library.folder().display()))
}

fn memory() -> Result<String, Failure> {
    host::memory_bytes().map(|bytes| Size(bytes).human()).ok_or_else(|| {
        let why = "This host does not say how much memory it has.";
        Failure::new(FailureKind::Failed, "can not check the memory", why, "Mount /proc.")
    })
}

fn has_seccomp() -> bool {
    std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail")
        .is_ok_and(|actions| actions.split_whitespace().any(|action| action == "errno"))
}
