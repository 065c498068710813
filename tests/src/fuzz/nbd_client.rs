//! The NBD client, and a server that answers anything. The server's side is written before the client begins: its
//! cookies count from 0, and one request is in flight at a time.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use benchtop_block::DiskBackend;
use benchtop_memory::VolatileSlice;
use benchtop_nbd::{NbdDisk, Tls};

use super::Input;

/// Requests of one input at most.
const MAX_REQUESTS: u64 = 32;
/// What the server sends at most, in bytes: less than a socket holds.
const MAX_BYTES: usize = 96 << 10;
const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";
/// An authority that vouches for nobody: its key was thrown away.
const AUTHORITY: &[u8] = b"\
-----BEGIN CERTIFICATE-----
MIIBejCCAR+gAwIBAgIUIQjokjI4UafbUkDd4kp288nDwWgwCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyNzAxNDYyMFoYDzIxMjYxMTAzMDE0
NjIwWjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AATPxlf99bcKeOawXjHqZAi9XZp3v6tq0ksOQtSOARrTQ6oymDkYT6zCYEb5GrnB
98j7fgmsnxtAFyZnaM0KbJlVo1MwUTAdBgNVHQ4EFgQUhD+CAT6VtZqdCkkb1B/m
maXEYOUwHwYDVR0jBBgwFoAUhD+CAT6VtZqdCkkb1B/mmaXEYOUwDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNJADBGAiEAq1s8fINIG2UG11gXMCdnL2Tce3cN
H6gTFgntp6XvDa4CIQCxdnFObfDQEP+eB4X2k28TI3nb6/8JamD4AMcX0D2kRQ==
-----END CERTIFICATE-----";

/// What the client is made to do; it sends few enough bytes to fit the socket.
#[derive(Clone, Copy, Debug)]
enum Call {
    Read { offset: u64, len: usize },
    Write { offset: u64, len: usize, fua: bool },
    Flush,
    Discard { offset: u64, len: u64 },
    Extent { offset: u64, len: u64 },
}

impl Call {
    fn new(input: &mut Input<'_>) -> Self {
        let kind = input.byte();
        let (offset, len) = (u64::from(input.byte()) << 9, (1 + usize::from(kind >> 5)) << 9);
        match kind & 7 {
            0..=2 => Self::Read { offset, len },
            3 => Self::Write { offset, len: len.min(2048), fua: kind & 8 != 0 },
            4 => Self::Flush,
            5 => Self::Discard { offset, len: len as u64 },
            _ => Self::Extent { offset, len: if kind & 8 == 0 { len as u64 } else { 1 << 20 } },
        }
    }

    fn run(self, disk: &dyn DiskBackend) {
        match self {
            Self::Read { offset, len } => {
                let mut bytes = vec![0; len];
                disk.read_at(offset, &[VolatileSlice::from(&mut bytes[..])]).unwrap_or_default();
            }
            Self::Write { offset, len, fua } => {
                let mut bytes = vec![7; len];
                disk.write_at(offset, &[VolatileSlice::from(&mut bytes[..])], fua).unwrap_or_default();
            }
            Self::Flush => disk.flush().unwrap_or_default(),
            Self::Discard { offset, len } => disk.discard(offset, len).unwrap_or_default(),
            Self::Extent { offset, len } => {
                if let Ok(extent) = disk.extent_at(offset, len) {
                    let told = extent.len_bytes;
                    assert!(told > 0 && told <= len && told.is_multiple_of(512), "an extent of {told} of {len}");
                }
            }
        }
    }
}

fn reply(bytes: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    bytes.extend_from_slice(&0x0003_e889_0455_65a9u64.to_be_bytes());
    bytes.extend_from_slice(&[option, kind, data.len() as u32].map(u32::to_be_bytes).concat());
    bytes.extend_from_slice(data);
}

/// A handshake that succeeds unless the input has it otherwise: whether replies will be structured.
fn handshake(bytes: &mut Vec<u8>, input: &mut Input<'_>) -> bool {
    let way = input.byte();
    bytes.extend_from_slice(GREETING);
    let structured = way & 3 != 0;
    reply(bytes, 8, if structured { 1 } else { 0x8000_0001 }, &[]);
    if structured {
        if way & 4 == 0 {
            reply(bytes, 10, 4, b"\0\0\0\x07base:allocation");
        }
        reply(bytes, 10, 1, &[]);
    }
    let size = match way >> 3 & 3 {
        0 => input.qword(),
        _ => 128 << 10,
    };
    let flags = if way & 0x20 == 0 { 0x016d } else { input.word() };
    let export = [&[0, 0][..], &size.to_be_bytes(), &flags.to_be_bytes()].concat();
    if way & 0xc0 == 0xc0 {
        // As the older option has it.
        reply(bytes, 7, 0x8000_0001, &[]);
        bytes.extend_from_slice(&export[2..]);
        return structured;
    }
    reply(bytes, 7, 3, &export);
    if way & 0x40 != 0 {
        let sizes = [1u32, 512, 4096, 65536, 1 << 20, 32 << 20, u32::MAX, input.dword()];
        let size = |choice: u8| sizes[usize::from(choice) % sizes.len()];
        let sizes = [size(input.byte()), size(input.byte()), size(input.byte())].map(u32::to_be_bytes);
        reply(bytes, 7, 3, &[&[0, 3][..], &sizes.concat()].concat());
    }
    reply(bytes, 7, 1, &[]);
    structured
}

/// A chunk of an answer.
fn chunk(bytes: &mut Vec<u8>, cookie: u64, kind: u16, done: bool, data: &[u8]) {
    bytes.extend_from_slice(&0x668e_33efu32.to_be_bytes());
    bytes.extend_from_slice(&u16::from(done).to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
}

/// What answers `call`, rightly unless the input has it otherwise.
fn answer(bytes: &mut Vec<u8>, cookie: u64, call: Call, structured: bool, input: &mut Input<'_>) {
    let way = input.byte();
    let cookie = if way & 0x1f == 1 { u64::from(input.byte()) } else { cookie };
    let data = if let Call::Read { len, .. } = call { vec![way; len] } else { Vec::new() };
    if !structured || way & 0x1f == 2 {
        let error = if way & 0xe0 == 0 { u32::from(input.byte()) } else { 0 };
        bytes.extend_from_slice(&[0x6744_6698, error].map(u32::to_be_bytes).concat());
        bytes.extend_from_slice(&cookie.to_be_bytes());
        bytes.extend_from_slice(if error == 0 { &data } else { &[] });
        return;
    }
    match way & 0x1f {
        3 | 4 => {
            // An error, with a text that may be shorter than it says.
            let told = u16::from(input.byte() % 16);
            let len = usize::from(input.byte() % 16);
            let text = input.take(len);
            let payload = [&u32::from(input.byte()).to_be_bytes()[..], &told.to_be_bytes(), &text].concat();
            chunk(bytes, cookie, 0x8001 + u16::from(way >> 5), way & 1 == 1, &payload);
        }
        5 | 6 => {
            let len = usize::from(input.byte() % 32);
            let payload = input.take(len);
            chunk(bytes, cookie, u16::from(input.byte() % 8), way & 1 == 1, &payload);
        }
        _ => {}
    }
    match call {
        Call::Read { offset, .. } => {
            // In two parts, the second of which may be a hole, and both anywhere.
            let cut = match way >> 5 {
                0 => usize::from(input.word()),
                1..=3 => data.len() / 2,
                _ => data.len(),
            };
            let (head, tail) = data.split_at(cut.min(data.len()));
            let offset = if way & 0x1f == 7 { input.qword() } else { offset };
            chunk(bytes, cookie, 1, tail.is_empty(), &[&offset.to_be_bytes()[..], head].concat());
            let after = offset.wrapping_add(head.len() as u64).to_be_bytes();
            if !tail.is_empty() && way & 0x20 == 0 {
                chunk(bytes, cookie, 1, true, &[&after[..], tail].concat());
            } else if !tail.is_empty() {
                let len = if way & 0x1f == 8 { input.dword() } else { tail.len() as u32 };
                chunk(bytes, cookie, 2, true, &[&after[..], &len.to_be_bytes()].concat());
            }
        }
        Call::Extent { len, .. } => {
            let context = if way & 0x1f == 9 { input.dword() } else { 7 };
            let mut payload = context.to_be_bytes().to_vec();
            for _ in 0..1 + (way >> 5) / 3 {
                let len = if way & 0x1f == 10 { input.dword() } else { len as u32 };
                payload.extend([len, u32::from(input.byte() & 3)].map(u32::to_be_bytes).concat());
            }
            chunk(bytes, cookie, 5, true, &payload);
        }
        _ => chunk(bytes, cookie, 0, true, &[]),
    }
}

/// Plays the server that `data` makes up, and uses the disk that comes of it.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mode = input.byte();
    let (mut bytes, mut calls) = (Vec::new(), Vec::new());
    let tls = mode & 0x20 != 0;
    if tls {
        // As far as a server comes that nobody vouches for: all the rest is records of TLS, or none.
        bytes.extend_from_slice(GREETING);
        reply(&mut bytes, 5, if mode & 7 == 0 { 0x8000_0001 } else { 1 }, &[]);
        let mut records = input.byte() % 8;
        while records > 0 && !input.is_empty() {
            let (kind, len) = (20 + input.byte() % 5, usize::from(input.word() % 1024));
            let body = input.take(len);
            bytes.extend_from_slice(&[kind, 3, 3]);
            bytes.extend_from_slice(&(body.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&body);
            records -= 1;
        }
        bytes.extend_from_slice(input.0);
    } else if mode & 7 == 0 {
        bytes.extend_from_slice(input.0);
        calls.extend((0..4).map(|_| Call::new(&mut input)));
    } else {
        let structured = handshake(&mut bytes, &mut input);
        for cookie in 0..MAX_REQUESTS {
            if input.is_empty() || bytes.len() > MAX_BYTES {
                break;
            }
            let call = Call::new(&mut input);
            answer(&mut bytes, cookie, call, structured, &mut input);
            calls.push(call);
        }
    }
    if mode & 8 != 0 {
        let change = input.byte();
        let at = usize::from(input.word()) % bytes.len().max(1);
        bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= change);
    }
    let Ok((ours, mut theirs)) = UnixStream::pair() else { return };
    if theirs.write_all(&bytes).and_then(|()| theirs.shutdown(Shutdown::Write)).is_err() {
        return;
    }
    let read_only = mode & 0x10 != 0;
    let disk = match tls {
        false => NbdDisk::from_unix(ours, "disk", read_only),
        true => {
            let tls = Tls::new(AUTHORITY, None, "localhost");
            tls.and_then(|tls| NbdDisk::from_unix_with_tls(ours, "disk", read_only, &tls))
        }
    };
    assert!(!tls || disk.is_err(), "a server that nobody vouches for was taken");
    if let Ok(disk) = disk {
        let disk: Arc<dyn DiskBackend> = Arc::new(disk);
        assert!(disk.info().size_bytes.is_multiple_of(512));
        calls.iter().for_each(|call| call.run(&*disk));
        disk.reopen().unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn servers_of_all_kinds_do_no_harm() {
        super::super::smoke(super::run);
    }
}
