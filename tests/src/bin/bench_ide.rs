//! `cargo xtask bench ide`: 4 KiB IDE requests by our bare-metal guest, on Benchtop and on QEMU, same KVM, one run.
//!
//! Exits and device accesses per request are differences between a run with N requests and one with none, so that what
//! firmware does cancels out. QEMU's accesses are counted by its trace in a pass apart from the timed one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benchtop_tests::vm::Bench;

const DISK_BYTES: u64 = 64 << 20;
/// Fewer for the traced pass: its log has a line an access.
const TRACED_REQUESTS: u32 = 100;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |otherwise| arguments.next().map_or(Ok(otherwise), |text| text.parse::<u32>());
    let (runs, requests) = (number(5)?, number(1000)?);
    let bench = Bench::new()?;
    let disk = bench.disk("disk.img", DISK_BYTES)?;
    // No holes: a first touch costs the host's file system more than the request.
    fs::write(&disk, vec![0x5a; DISK_BYTES as usize])?;

    println!("4 KiB requests, depth 1, cache=writeback, medians of {runs} runs of {requests}; QEMU: -M pc -accel kvm");
    println!("| request | exits, Benchtop | coalesced | accesses, QEMU | req/s, Benchtop | req/s, QEMU | ratio |");
    println!("|---|---|---|---|---|---|---|");
    for op in ["dma-read", "dma-write", "pio-read", "pio-write"] {
        let iso = bench.bare_iso(&format!("mode=bench op={op} count={requests}"))?;
        let none = bench.bare_iso(&format!("mode=bench op={op} count=0"))?;
        let few = bench.bare_iso(&format!("mode=bench op={op} count={TRACED_REQUESTS}"))?;
        let (mut ours, mut theirs, mut exits) = (Vec::new(), Vec::new(), None);
        for _ in 0..runs {
            let (rate, counted) = run_benchtop(&bench, &iso, &disk)?;
            ours.push(rate);
            exits = Some(counted);
            theirs.push(rate_of(&run_qemu(&bench, &iso, &disk, None)?)?);
        }
        let (_, base) = run_benchtop(&bench, &none, &disk)?;
        let counted = exits.context("no runs")?;
        let per = |index: usize| (counted[index] - base[index]) / f64::from(requests);
        let accesses = traced(&bench, &few, &disk)? - traced(&bench, &none, &disk)?;
        let (ours, theirs) = (median(ours), median(theirs));
        println!(
            "| {op} | {:.2} | {:.2} | {:.2} | {ours:.0} | {theirs:.0} | {:.2} |",
            per(0),
            per(1),
            accesses / f64::from(TRACED_REQUESTS),
            ours / theirs
        );
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Requests a second, by the guest's own clock; 0 where it made none.
fn rate_of(serial: &str) -> Result<f64> {
    let line =
        serial.lines().find(|line| line.starts_with("bench requests")).with_context(|| format!("COM1:\n{serial}"))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    ensure!(words.len() == 5, "{line}");
    let (count, micros): (f64, f64) = (words[2].parse()?, words[4].parse()?);
    Ok(count * 1e6 / micros.max(1.0))
}

/// Rate, and the disk's exits and coalesced accesses over the whole life of the VM.
fn run_benchtop(bench: &Bench, iso: &Path, disk: &Path) -> Result<(f64, [f64; 2])> {
    let stats = bench.path("stats.json");
    let option = format!("{},cache=writeback", disk.display());
    let stats_option = stats.display().to_string();
    let mut guest = bench.boot(iso, &["--disk", &option, "--stats", &stats_option, "--timeout", "120s"])?;
    let serial = guest.finish(Duration::from_secs(150))?;
    let document: serde_json::Value = serde_json::from_slice(&fs::read(&stats)?)?;
    let device = document["devices"]
        .as_array()
        .and_then(|devices| devices.iter().find(|device| device["name"] == "disk0"))
        .context("no disk0 in the figures")?;
    let exits: f64 = ["pio_read", "pio_write", "mmio_read", "mmio_write"]
        .iter()
        .map(|kind| device["exits"][kind].as_f64().unwrap_or_default())
        .sum();
    Ok((rate_of(&serial)?, [exits, device["coalesced"].as_f64().unwrap_or_default()]))
}

fn run_qemu(bench: &Bench, iso: &Path, disk: &Path, trace: Option<&Path>) -> Result<String> {
    let serial: PathBuf = bench.path("qemu-serial.txt");
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args([
            "-M",
            "pc",
            "-accel",
            "kvm",
            "-m",
            "128",
            "-display",
            "none",
            "-nodefaults",
            "-vga",
            "std",
            "-boot",
            "d",
        ])
        .args(["-device", "isa-debugcon,iobase=0x402,chardev=debug", "-chardev", "null,id=debug"])
        .arg("-serial")
        .arg(format!("file:{}", serial.display()))
        .arg("-drive")
        .arg(format!("file={},format=raw,if=ide,index=0,cache=writeback", disk.display()))
        .arg("-drive")
        .arg(format!("file={},format=raw,if=ide,index=2,media=cdrom", iso.display()))
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    if let Some(trace) = trace {
        command.args(["-trace", "memory_region_ops_*", "-D"]).arg(trace);
    }
    let status = command.status().context("could not start qemu-system-x86_64")?;
    ensure!(status.success(), "QEMU: {status}");
    Ok(String::from_utf8_lossy(&fs::read(&serial)?).replace('\r', ""))
}

/// Accesses to the IDE registers between the guest's marks on the debug port.
fn traced(bench: &Bench, iso: &Path, disk: &Path) -> Result<f64> {
    let log = bench.path("trace.txt");
    run_qemu(bench, iso, disk, Some(&log))?;
    let text = fs::read_to_string(&log)?;
    fs::remove_file(&log)?;
    let mut inside = false;
    let mut count = 0u32;
    for line in text.lines() {
        let field = |name: &str| {
            line.split_once(name).and_then(|(_, rest)| rest.split([' ', '\'']).next()).unwrap_or_default().to_owned()
        };
        let address = field("addr 0x");
        if address == "402" && line.contains("write") {
            inside = match field("value 0x").as_str() {
                "41" => true,
                "61" => false,
                _ => inside,
            };
        }
        let port = u32::from_str_radix(&address, 16).unwrap_or_default();
        if inside && (matches!(port, 0x1f0..=0x1f7 | 0x3f6) || (0xc000..0xd000).contains(&port)) {
            count += 1;
        }
    }
    Ok(f64::from(count))
}
