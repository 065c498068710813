//! Exports a raw image on a unix socket until standard input ends:
//! `serve FILE SOCKET [writethrough|writeback|unsafe]`.

use std::error::Error;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use benchtop_block::CacheMode;
use benchtop_images::raw::RawDisk;
use benchtop_nbd::{Export, Listener, Server, ServerOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (file, socket, mode) = match arguments.as_slice() {
        [file, socket] => (file, socket, "writethrough"),
        [file, socket, mode] => (file, socket, mode.as_str()),
        _ => return Err("usage: serve FILE SOCKET [writethrough|writeback|unsafe]".into()),
    };
    let cache = match mode {
        "writethrough" => CacheMode::Writethrough,
        "writeback" => CacheMode::Writeback,
        "unsafe" => CacheMode::Unsafe,
        _ => return Err(format!("no such cache mode: {mode}").into()),
    };
    let file = File::options().read(true).write(true).open(file)?;
    let backend = Arc::new(RawDisk::open(file, false)?);
    let export = Export { name: String::new(), description: String::new(), backend, cache, read_only: false };
    let server = Server::new(export, ServerOptions::default())?;
    server.listen(Listener::unix(Path::new(socket))?)?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(server.shutdown()?)
}
