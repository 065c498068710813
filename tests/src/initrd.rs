//! Initial RAM disks for Linux guests: busybox, a script that the kernel starts, and more files.
//!
//! The format is that of the kernel's documentation, driver-api/early-userspace/buffer-format: "newc" of cpio.

use std::fs;

use anyhow::{Context, Result};

use crate::guests;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const TRAILER: &str = "TRAILER!!!";

/// One with a busybox, `init` as the script that is started, and `files` by their paths.
///
/// # Errors
/// `cargo xtask guests` has not been run.
pub fn with_busybox(init: &str, files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let busybox = guests::sample("linux/busybox").context("no busybox: cargo xtask guests fetches it")?;
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "proc", "sys", "tmp", "modules"] {
        archive.add(folder, FOLDER, &[]);
    }
    archive.add("bin/busybox", PROGRAM, &fs::read(busybox)?);
    for (path, content) in files {
        archive.add(path, PROGRAM, content);
    }
    archive.add("init", PROGRAM, init.as_bytes());
    archive.add(TRAILER, 0, &[]);
    Ok(archive.bytes)
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    files: usize,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.files += 1;
        // Inode, mode, owner, group, links, time, size, device, device of a node, length of the name, checksum.
        let fields = [self.files, mode as usize, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
