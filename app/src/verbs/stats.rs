//! `stats`: what devices and CPUs do.

use std::time::{Duration, Instant};

use benchtop_control::stats::VmStats;
use benchtop_control::{Command, Failure, FailureKind, Size};
use clap::Args;

use crate::output::{Output, table};
use crate::target::{ended_unexpectedly, follow, running};
use crate::verbs::boot::parse_duration;

/// `stats`.
#[derive(Debug, Args)]
pub struct Stats {
    /// VM
    pub vm: String,
    /// Again and again, until the VM is off; with --json a document each time
    #[arg(long, value_name = "TIME", value_parser = parse_duration, num_args = 0..=1, default_missing_value = "1s")]
    pub watch: Option<Duration>,
}

impl Stats {
    /// Runs the verb.
    ///
    /// # Errors
    /// The VM is off, or with `--watch` its monitor was killed meanwhile.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let mut client = running(&self.vm)?;
        let Some(every) = self.watch else {
            let stats = client.stats()?;
            return output.result("stats", &stats, || text(&stats));
        };
        client.command(Command::Subscribe)?;
        let mut off = None;
        loop {
            match client.stats() {
                Ok(stats) => output.result("stats", &stats, || text(&stats))?,
                // The connection ended: the events before its end say why.
                Err(failure) if failure.kind == FailureKind::Failed => {}
                Err(failure) => return Err(failure),
            }
            let next = Instant::now() + every.max(Duration::from_millis(100));
            loop {
                let left = next.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                let ended = follow(&mut client, Some(left), &mut off)?;
                match &off {
                    Some(_) => return Ok(()),
                    None if ended => return Err(ended_unexpectedly(&self.vm)),
                    None => {}
                }
            }
        }
    }
}

fn text(stats: &VmStats) -> String {
    let seconds = stats.uptime_ns / 1_000_000_000;
    let mut rows =
        vec![["DEVICE", "READ", "WRITTEN", "REQUESTS", "EXITS", "AT RISK", "P99"].map(str::to_owned).to_vec()];
    for device in &stats.devices {
        let requests = &device.requests;
        let exits = &device.exits;
        let total = |parts: &[u64]| parts.iter().fold(0u64, |sum, part| sum.saturating_add(*part)).to_string();
        rows.push(vec![
            device.name.clone(),
            Size(device.bytes.read).human(),
            Size(device.bytes.written).human(),
            total(&[requests.read, requests.write, requests.flush, requests.other]),
            total(&[exits.pio_read, exits.pio_write, exits.mmio_read, exits.mmio_write]),
            Size(device.bytes_at_risk).human(),
            format!("{} µs", device.latency_ns.p99 / 1000),
        ]);
    }
    let mut text = format!("{} for {seconds} s\n{}", stats.accel, table(&rows));
    for (index, vcpu) in stats.vcpus.iter().enumerate() {
        let exits = &vcpu.exits;
        text.push_str(&format!(
            "cpu{index} exits: port {}, mmio {}, interrupt controller {}, kicks {}, other {}\n",
            exits.port, exits.mmio, exits.interrupt_controller, exits.kicked, exits.other
        ));
    }
    text
}
