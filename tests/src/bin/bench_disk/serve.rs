//! Our NBD server as a process of its own: `bench-disk serve FILE SOCKET CACHING [PASSWORD]`, until standard input ends.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use benchtop_block::CacheMode;
use benchtop_nbd::{Export, Listener, Server, ServerOptions};
use benchtop_strata::StrataDisk;
use clap::ValueEnum as _;

use crate::medium::{self, Caching};

/// Serves until told to end.
///
/// # Errors
/// The disk can not be opened or the socket not made, or the last flush fails.
pub fn serve(arguments: &[String]) -> Result<()> {
    let (file, socket, caching, password) = match arguments {
        [file, socket, caching] => (file, socket, caching, None),
        [file, socket, caching, password] => (file, socket, caching, Some(password.as_bytes())),
        _ => bail!("usage: serve FILE SOCKET direct|host [PASSWORD]"),
    };
    let caching = Caching::from_str(caching, true).ok().context("direct or host")?;
    let medium = medium::open(Path::new(file), false, caching)?;
    let backend = Arc::new(StrataDisk::open(medium, password, false)?);
    let cache = CacheMode::Writeback;
    let export = Export { name: String::new(), description: String::new(), backend, cache, read_only: false };
    let server = Server::new(export, ServerOptions::default())?;
    server.listen(Listener::unix(Path::new(socket))?)?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(server.shutdown()?)
}
