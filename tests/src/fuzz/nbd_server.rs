//! The NBD server, and a client that sends anything: options and requests, in pieces the input makes or byte by byte.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use benchtop_block::{CacheMode, MemoryDisk};
use benchtop_nbd::{Export, Server, ServerOptions};

use super::Input;

/// Size of the disk, in bytes.
const DISK_BYTES: u64 = 128 << 10;
/// Options and requests of one input at most.
const MAX_MESSAGES: usize = 64;
/// How long an answer may take: the machine may be busy, but nothing here waits for anything.
const PATIENCE: Duration = Duration::from_secs(8);
const OPTION: &[u8] = b"IHAVEOPT";
const ALLOCATION: &[u8] = b"base:allocation";

/// An option with its data.
fn option(bytes: &mut Vec<u8>, number: u32, data: &[u8]) {
    bytes.extend_from_slice(OPTION);
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
}

/// An option that the input chooses, mostly well formed.
fn some_option(bytes: &mut Vec<u8>, input: &mut Input<'_>) {
    let number = u32::from(input.byte() % 12);
    let name: &[u8] = if input.byte() & 3 == 0 { b"other" } else { b"disk" };
    let mut data = Vec::new();
    if matches!(number, 6 | 7 | 9 | 10) {
        data.extend_from_slice(&(name.len() as u32).to_be_bytes());
    }
    data.extend_from_slice(name);
    match number {
        6 | 7 => {
            let count = u16::from(input.byte() % 4);
            data.extend_from_slice(&count.to_be_bytes());
            (0..count).for_each(|_| data.extend_from_slice(&[0, input.byte() % 5]));
        }
        9 | 10 => {
            data.extend_from_slice(&1u32.to_be_bytes());
            data.extend_from_slice(&(ALLOCATION.len() as u32).to_be_bytes());
            data.extend_from_slice(ALLOCATION);
        }
        1 => {}
        _ => data.clear(),
    }
    match input.byte() % 8 {
        0 => data.truncate(usize::from(input.byte())),
        1 => data.extend_from_slice(&input.take(5)),
        2 => {
            let at = usize::from(input.byte());
            let change = input.byte();
            data.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= change);
        }
        _ => {}
    }
    option(bytes, number, &data);
}

/// A request, mostly on the disk.
fn request(bytes: &mut Vec<u8>, cookie: u64, input: &mut Input<'_>) {
    let (command, flags, way) = (u16::from(input.byte() % 10), input.byte(), input.byte());
    let offset = match way & 3 {
        0 => input.qword(),
        1 => DISK_BYTES - u64::from(input.byte()) * 256,
        _ => u64::from(input.byte()) << 9,
    };
    let len = match way >> 2 & 7 {
        0 => input.dword(),
        1 => u32::from(input.word()),
        _ => u32::from(input.byte() % 64) << 9,
    };
    // No more data than fits, so that most requests are followed by another.
    let len = if command == 1 && way & 0x80 == 0 { len.min(16 << 10) } else { len };
    bytes.extend_from_slice(&0x2560_9513u32.to_be_bytes());
    bytes.extend_from_slice(&(u16::from(flags) & if flags & 0x80 == 0 { 0x1f } else { 0xff }).to_be_bytes());
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&len.to_be_bytes());
    if command == 1 {
        bytes.resize(bytes.len() + len.min(64 << 10) as usize, way);
    }
}

/// What the client sends.
fn messages(input: &mut Input<'_>) -> Vec<u8> {
    let mode = input.byte();
    if mode & 7 == 0 {
        return input.0.to_vec();
    }
    let mut bytes = vec![0, 0, 0, mode >> 3 & 3];
    if mode & 7 != 1 {
        // Most clients ask for everything there is, and then for the export.
        if mode & 0x20 == 0 {
            option(&mut bytes, 8, &[]);
            let context = [&[0, 0, 0, 4][..], b"disk", &[0, 0, 0, 1, 0, 0, 0, 15], ALLOCATION].concat();
            option(&mut bytes, 10, &context);
        }
        option(&mut bytes, 7, b"\0\0\0\x04disk\0\x01\0\x03");
    }
    for message in 0..MAX_MESSAGES as u64 {
        if input.is_empty() {
            break;
        }
        match input.byte() % 16 {
            0 => bytes.extend_from_slice(&input.take(7)),
            1..=4 if mode & 7 == 1 => some_option(&mut bytes, input),
            _ if mode & 7 == 1 && message < 2 => some_option(&mut bytes, input),
            _ => request(&mut bytes, message, input),
        }
    }
    bytes
}

fn is_passing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Sends all of `bytes` and takes all answers, both as the other side can.
fn talk(mut socket: UnixStream, bytes: &[u8]) -> std::io::Result<()> {
    socket.set_nonblocking(true)?;
    let mut rest = bytes;
    let mut answers = vec![0; 64 << 10];
    let begin = Instant::now();
    while !rest.is_empty() {
        match socket.write(rest) {
            Ok(sent) => rest = &rest[sent..],
            Err(error) if is_passing(&error) => std::thread::yield_now(),
            // It has hung up, and may: what it still said is there to be read.
            Err(_) => break,
        }
        match socket.read(&mut answers) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(error) if !is_passing(&error) => return Err(error),
            _ => {}
        }
        assert!(begin.elapsed() < PATIENCE, "the server takes nothing more and does not hang up");
    }
    socket.shutdown(Shutdown::Write).unwrap_or_default();
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    loop {
        match socket.read(&mut answers) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Ok(_) => {}
            // The fuzzer's own timer.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        assert!(begin.elapsed() < PATIENCE, "the server does not come to an end");
    }
}

/// Sends what `data` says to a fresh server with a disk in memory, and waits until it has hung up.
///
/// # Panics
/// Where the server does not hang up, or does not end.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let export = Export {
        name: "disk".to_owned(),
        description: "for clients of all kinds".to_owned(),
        backend: Arc::new(MemoryDisk::new(DISK_BYTES)),
        cache: if flags & 1 == 0 { CacheMode::Writeback } else { CacheMode::Writethrough },
        read_only: flags & 6 == 6,
    };
    let options = ServerOptions { max_in_flight: usize::from(flags >> 3 & 3) + 1, ..ServerOptions::default() };
    let server = Server::new(export, options).expect("an export");
    let Ok((ours, theirs)) = UnixStream::pair() else { return };
    server.serve(theirs).expect("a first client");
    talk(ours, &messages(&mut input)).expect("a server that answers or hangs up");
    server.shutdown().expect("a server that ends");
}

#[cfg(test)]
mod tests {
    #[test]
    fn clients_of_all_kinds_do_no_harm() {
        super::super::smoke(super::run);
    }
}
