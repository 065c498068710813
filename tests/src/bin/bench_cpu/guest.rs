//! What is run: a Linux kernel, and programs in its initial RAM disk.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use benchtop_tests::guests::{repository, sample};
use benchtop_tests::initrd;
use benchtop_tests::vm::Bench;

/// What is measured, in order: our own programs (tests/guests/cpu/cpu.c), then busybox's.
pub const PROGRAMS: [&str; 9] = ["integer", "branch", "memory", "call", "sse2", "x87", "string", "sha256", "gzip"];
/// How many of them are our own.
const OWN: usize = 7;
/// What the first line from user space says.
pub const MARKER: &str = "USERSPACE-MARKER";
/// What GRUB says when it is up, on the CD.
pub const GRUB: &str = "GRUB-UP";
/// What the last line says.
pub const DONE: &str = "ALL-DONE";
/// The kernel's command line.
pub const APPEND: &str = "console=ttyS0 quiet mitigations=off panic=-1 tsc=reliable";

/// Files of it.
pub struct Guest {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    /// The programs, for the host itself.
    pub programs: PathBuf,
    /// Programs that are run; all if empty.
    pub only: Vec<String>,
}

impl Guest {
    /// Compiles and packs it.
    ///
    /// # Errors
    /// A tool that fails, or `cargo xtask guests` has not been run.
    pub fn make(bench: &Bench, only: &[String]) -> Result<Self> {
        let kernel = sample("linux/vmlinuz").context("no kernel: cargo xtask guests fetches it")?;
        let programs = bench.path("cpu");
        let status = Command::new("gcc")
            .args([
                "-O2",
                "-fwrapv",
                "-static",
                "-nostdlib",
                "-ffreestanding",
                "-fno-stack-protector",
                "-Wall",
                "-Wextra",
            ])
            .args(["-Werror", "-o"])
            .arg(&programs)
            .arg(repository().join("tests/guests/cpu/cpu.c"))
            .status()
            .context("could not start gcc")?;
        ensure!(status.success(), "gcc failed");
        let initrd = bench.path("initrd");
        fs::write(&initrd, initrd::with_busybox(&init(only), &[("bin/cpu", &fs::read(&programs)?)])?)?;
        Ok(Self { kernel, initrd, programs, only: only.to_vec() })
    }

    /// The names of our own programs that are run, as arguments.
    pub fn own(&self) -> Vec<&str> {
        own(&self.only)
    }

    /// A CD that GRUB boots it from, for who can not be given a kernel.
    ///
    /// # Errors
    /// `grub-mkrescue`'s.
    pub fn cd(&self, bench: &Bench) -> Result<PathBuf> {
        let (folder, iso) = (bench.path("cd"), bench.path("cd.iso"));
        if iso.is_file() {
            return Ok(iso);
        }
        fs::create_dir_all(folder.join("boot/grub"))?;
        fs::copy(&self.kernel, folder.join("kernel"))?;
        fs::copy(&self.initrd, folder.join("initrd"))?;
        let menu = format!(
            "set timeout=0\nserial --unit=0\nterminal_output serial\necho {GRUB}\nlinux /kernel {APPEND}\n\
             initrd /initrd\nboot\n"
        );
        fs::write(folder.join("boot/grub/grub.cfg"), menu)?;
        let output = Command::new("grub-mkrescue").arg("-o").arg(&iso).arg(&folder).output();
        let output = output.context("could not start grub-mkrescue")?;
        ensure!(output.status.success(), "grub-mkrescue: {}", String::from_utf8_lossy(&output.stderr));
        Ok(iso)
    }
}

fn own(only: &[String]) -> Vec<&'static str> {
    PROGRAMS[..OWN].iter().filter(|name| only.is_empty() || only.iter().any(|one| one == *name)).copied().collect()
}

/// What the kernel starts. Lines are printed as our own programs print them.
fn init(only: &[String]) -> String {
    let has = |name: &str| only.is_empty() || only.iter().any(|one| one == name);
    let mut script = format!(
        "#!/bin/busybox sh\nb=/bin/busybox\n$b mount -t devtmpfs d /dev\n$b mount -t tmpfs t /tmp\necho {MARKER}\n"
    );
    if !own(only).is_empty() {
        script += &format!("/bin/cpu {}\n", own(only).join(" "));
    }
    if has("sha256") {
        script += "$b dd if=/dev/zero of=/tmp/zero bs=1M count=16 2>/dev/null\necho BENCH sha256 begin\n\
                   set -- $($b sha256sum /tmp/zero)\necho BENCH sha256 end $1\n";
    }
    if has("gzip") {
        script += "$b cat $b $b $b > /tmp/three\necho BENCH gzip begin\n$b gzip -c /tmp/three > /tmp/small\n\
                   echo BENCH gzip end\n";
    }
    script + &format!("echo {DONE}\n$b sleep 1\n$b poweroff -f\n")
}
