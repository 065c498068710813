//! `cargo xtask bench cpu`: the software CPU beside QEMU's TCG and Bochs, one kernel, one initial RAM disk, one run.
//!
//! ```text
//!   main ─▶ guest     kernel, initial RAM disk and programs; a CD of them for Bochs
//!     └───▶ engine    starts each, and takes the host's time of each line on COM1
//! ```
//!
//! Times are the host's: the guest's clock need not be real time. They are of one line to the next, so that how a
//! machine comes up does not count; of the boot, from the start of the program, or for Bochs from when GRUB is up, which
//! the others do not have. Runs are interleaved, figures are medians. What the programs work out must agree. Nothing
//! here is an assertion about speed.

mod engine;
mod guest;

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use benchtop_tests::vm::Bench;
use clap::Parser;

use crate::engine::{Engine, Measured};
use crate::guest::{Guest, PROGRAMS};

/// The options, those of `cargo xtask bench cpu`.
#[derive(Parser)]
#[command(name = "bench-cpu", about = "The software CPU beside TCG and Bochs")]
struct Options {
    /// Runs of each, of which the median is taken
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// Who is measured
    #[arg(long, value_delimiter = ',', default_values_t = Engine::ALL)]
    engines: Vec<Engine>,
    /// Programs that are measured; all without it
    #[arg(long, value_delimiter = ',')]
    programs: Vec<String>,
}

/// What the boot is called.
const BOOT: &str = "boot to marker";

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(options.runs > 0, "at least one run is needed");
    let unknown = options.programs.iter().find(|name| !PROGRAMS.contains(&name.as_str()));
    ensure!(unknown.is_none(), "no program is called {unknown:?}; there are {PROGRAMS:?}");
    let bench = Bench::new()?;
    let guest = Guest::make(&bench, &options.programs)?;
    let mut all: BTreeMap<Engine, Vec<Measured>> = BTreeMap::new();
    for run in 1..=options.runs {
        for engine in &options.engines {
            eprintln!("run {run} of {}: {engine}", options.runs);
            all.entry(*engine).or_default().push(engine.run(&bench, &guest)?);
        }
    }
    let results: Vec<_> = all.values().flatten().map(|measured| &measured.results).collect();
    ensure!(results.windows(2).all(|pair| pair[0] == pair[1]), "the programs worked out different things: {results:?}");
    println!(
        "Seconds, medians of {} runs (± half the range), one CPU, 512 MiB; the same results everywhere",
        options.runs
    );
    for engine in &options.engines {
        println!("{engine}: {}", engine.version()?);
    }
    println!();
    print(&options.engines, &all);
    Ok(())
}

fn print(engines: &[Engine], all: &BTreeMap<Engine, Vec<Measured>>) {
    let times = |engine: &Engine, name: &str| -> Vec<f64> {
        all.get(engine).into_iter().flatten().filter_map(|measured| measured.seconds.get(name).copied()).collect()
    };
    let ratio = |engine: Engine, name: &str| {
        let ratio = median(times(&engine, name)) / median(times(&Engine::Benchtop, name));
        if ratio.is_finite() { format!("{ratio:.2}") } else { "-".to_owned() }
    };
    let names: Vec<String> = engines.iter().map(ToString::to_string).collect();
    println!("| program | {} | × Bochs' speed | × TCG's time |", names.join(" | "));
    println!("|---|{}---|---|", "---|".repeat(engines.len()));
    for name in std::iter::once(BOOT).chain(PROGRAMS) {
        let cells: Vec<String> = engines.iter().map(|engine| cell(times(engine, name))).collect();
        let slower = median(times(&Engine::Benchtop, name)) / median(times(&Engine::Tcg, name));
        let slower = if slower.is_finite() { format!("{slower:.2}") } else { "-".to_owned() };
        println!("| {name} | {} | {} | {slower} |", cells.join(" | "), ratio(Engine::Bochs, name));
    }
}

fn cell(times: Vec<f64>) -> String {
    let (least, most) =
        times.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), time| (low.min(*time), high.max(*time)));
    match median(times) {
        middle if middle.is_nan() => "-".to_owned(),
        middle => format!("{middle:.3} ±{:.0}%", (most - least) / middle * 50.0),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
