//! Writes an ISO with the bare-metal guest: `cargo run -p benchtop-tests --example bare_iso -- OUT.iso mode=verify`.

use anyhow::{Context, Result};
use benchtop_tests::guests::BareGuest;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let out = arguments.next().context("usage: bare_iso OUT.iso [mode=… key=value…]")?;
    let command = arguments.collect::<Vec<_>>().join(" ");
    let data: Vec<u8> = (0..600_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(&out, BareGuest::build()?.iso(&command, &data)?)?;
    Ok(())
}
