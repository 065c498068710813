//! The server against clients that speak the protocol byte by byte, well or badly.

use std::io::{Read, Write};
use std::time::Instant;

use benchtop_block::MemoryDisk;
use benchtop_block::conformance::{read, write};
use benchtop_block::fault::{FaultDisk, FaultPlan};

use super::*;
use crate::protocol::{
    GREETING, OPTION, OPTION_REPLY, REQUEST, Request, SIMPLE_REPLY, STRUCTURED_REPLY, chunk, command, errno, option,
    reply,
};

const MIB: u32 = 1 << 20;

fn export(backend: Arc<dyn DiskBackend>, cache: CacheMode) -> Export {
    let (name, description) = ("disk".to_owned(), "a test".to_owned());
    Export { name, description, backend, cache, read_only: false }
}

fn server(backend: Arc<dyn DiskBackend>, cache: CacheMode) -> Server {
    let options = ServerOptions { handshake: Duration::from_millis(300), ..ServerOptions::default() };
    Server::new(export(backend, cache), options).unwrap()
}

/// A client that does what the test says.
struct Client(UnixStream);

impl Client {
    fn new(server: &Server) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        server.serve(theirs).unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(ours)
    }

    /// A client past the greetings.
    fn greeted(server: &Server) -> Self {
        let mut client = Self::new(server);
        assert_eq!(client.u64(), GREETING);
        assert_eq!(client.u64(), OPTION);
        assert_eq!(client.u16(), 3);
        client.send(&3u32.to_be_bytes());
        client
    }

    /// A client in transmission, with structured replies and the allocation context or without.
    fn going(server: &Server, structured: bool) -> Self {
        let mut client = Self::greeted(server);
        if structured {
            assert_eq!(client.ask(option::STRUCTURED_REPLY, &[]), [(reply::ACK, vec![])]);
            let query = b"\0\0\0\x04disk\0\0\0\x01\0\0\0\x0fbase:allocation";
            let replies = client.ask(option::SET_META_CONTEXT, query);
            assert_eq!(replies[0], (reply::META_CONTEXT, b"\0\0\0\x01base:allocation".to_vec()));
        }
        let replies = client.ask(option::GO, b"\0\0\0\0\0\0");
        assert_eq!(replies.last(), Some(&(reply::ACK, vec![])));
        client
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.bytes(2).try_into().unwrap())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes(8).try_into().unwrap())
    }

    fn option(&mut self, number: u32, data: &[u8]) {
        let mut bytes = OPTION.to_be_bytes().to_vec();
        bytes.extend(number.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        self.send(&bytes);
    }

    /// An option and its replies up to the last.
    fn ask(&mut self, number: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.option(number, data);
        let mut replies = Vec::new();
        loop {
            assert_eq!((self.u64(), self.u32()), (OPTION_REPLY, number));
            let (kind, len) = (self.u32(), self.u32());
            replies.push((kind, self.bytes(len as usize)));
            if kind == reply::ACK || kind & reply::ERROR != 0 {
                return replies;
            }
        }
    }

    fn request(&mut self, command: u16, flags: u16, cookie: u64, offset_bytes: u64, len_bytes: u32, data: &[u8]) {
        let mut bytes = Vec::new();
        Request { flags, command, cookie, offset_bytes, len_bytes }.encode(&mut bytes);
        bytes.extend(data);
        self.send(&bytes);
    }

    /// Error and cookie of a simple reply.
    fn simple(&mut self) -> (u32, u64) {
        assert_eq!(self.u32(), SIMPLE_REPLY);
        (self.u32(), self.u64())
    }

    /// Flags, type, cookie and payload.
    fn chunk(&mut self) -> (u16, u16, u64, Vec<u8>) {
        assert_eq!(self.u32(), STRUCTURED_REPLY);
        let (flags, kind, cookie, len) = (self.u16(), self.u16(), self.u64(), self.u32());
        (flags, kind, cookie, self.bytes(len as usize))
    }

    /// The error number of a structured reply that is only that.
    fn error(&mut self) -> u32 {
        let (flags, kind, _, payload) = self.chunk();
        assert_eq!((flags, kind), (chunk::DONE, chunk::ERROR));
        u32::from_be_bytes(*payload.first_chunk().unwrap())
    }

    /// That the server hangs up without another byte.
    fn expect_cut(mut self) {
        let mut rest = Vec::new();
        // A reset is an end as well.
        let read = self.0.read_to_end(&mut rest);
        assert!(read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset) || rest.is_empty());
    }
}

fn memory() -> Server {
    server(Arc::new(MemoryDisk::new(64 << 20)), CacheMode::Writeback)
}

#[test]
fn options_are_answered_one_by_one() {
    let server = memory();
    let mut client = Client::greeted(&server);
    let list = client.ask(option::LIST, &[]);
    assert_eq!(list, [(reply::SERVER, b"\0\0\0\x04diska test".to_vec()), (reply::ACK, vec![])]);
    assert_eq!(client.ask(option::LIST, &[1])[0].0, reply::INVALID);
    assert_eq!(client.ask(option::STARTTLS, &[])[0].0, reply::UNSUPPORTED);
    assert_eq!(client.ask(11, &[])[0].0, reply::UNSUPPORTED);
    assert_eq!(client.ask(option::INFO, b"\0\0\0\x03abc\0\0")[0].0, reply::UNKNOWN);
    for data in [&b""[..], b"\0\0\0\x05disk", b"\0\0\0\0\0\x01\0", b"\0\0\0\0\0\0\0", b"\xff\xff\xff\xff\0\0"] {
        assert_eq!(client.ask(option::GO, data)[0].0, reply::INVALID, "{data:?}");
    }
    assert_eq!(client.ask(option::LIST_META_CONTEXT, b"\0\0\0\0\0\0\0\0")[0].0, reply::INVALID);
    assert_eq!(client.ask(option::STRUCTURED_REPLY, &[1])[0].0, reply::INVALID);
    assert_eq!(client.ask(option::STRUCTURED_REPLY, &[])[0].0, reply::ACK);
    for query in [&b"\0\0\0\0\0\0\0\0"[..], b"\0\0\0\0\0\0\0\x01\0\0\0\x05base:"] {
        let listed = client.ask(option::LIST_META_CONTEXT, query);
        assert_eq!(listed[0], (reply::META_CONTEXT, b"\0\0\0\0base:allocation".to_vec()));
        // Choosing needs the whole name.
        assert_eq!(client.ask(option::SET_META_CONTEXT, query), [(reply::ACK, vec![])]);
    }
    let huge = client.ask(option::SET_META_CONTEXT, b"\0\0\0\0\xff\xff\xff\xff\0\0\0\0");
    assert_eq!(huge[0].0, reply::INVALID);
    assert_eq!(client.ask(option::LIST, &vec![0; 70_000])[0].0, reply::TOO_BIG);
    let info = client.ask(option::INFO, b"\0\0\0\x04disk\0\x02\0\x01\0\x02");
    let flags = server.served.flags(true).to_be_bytes();
    assert_eq!(info[0], (reply::INFO, [&[0, 0, 0, 0, 0, 0, 4, 0, 0, 0], &flags[..]].concat()));
    assert_eq!(info[1], (reply::INFO, b"\0\x01disk".to_vec()));
    assert_eq!(info[2], (reply::INFO, b"\0\x02a test".to_vec()));
    assert_eq!(info[3], (reply::INFO, vec![0, 3, 0, 0, 2, 0, 0, 0, 16, 0, 2, 0, 0, 0]));
    assert_eq!(client.ask(option::ABORT, &[])[0].0, reply::ACK);
    client.expect_cut();
}

#[test]
fn the_old_way_to_go_works() {
    let server = memory();
    let mut client = Client::greeted(&server);
    client.option(option::EXPORT_NAME, b"disk");
    assert_eq!((client.u64(), client.u16()), (64 << 20, server.served.flags(false)));
    client.request(command::READ, 0, 5, 0, 512, &[]);
    assert_eq!((client.simple(), client.bytes(512)), ((0, 5), vec![0; 512]));
    let mut client = Client::greeted(&server);
    client.option(option::EXPORT_NAME, b"other");
    client.expect_cut();
}

#[test]
fn broken_handshakes_are_cut() {
    let server = memory();
    let started = Instant::now();
    let mut strange_flags = Client::new(&server);
    strange_flags.bytes(18);
    strange_flags.send(&[0x80, 0, 0, 3]);
    strange_flags.expect_cut();
    let mut no_option = Client::greeted(&server);
    no_option.send(&[7; 16]);
    no_option.expect_cut();
    let mut too_big = Client::greeted(&server);
    too_big.send(&[&OPTION.to_be_bytes()[..], &[0, 0, 0, 3, 0xff, 0xff, 0xff, 0xff]].concat());
    too_big.expect_cut();
    assert!(started.elapsed() < Duration::from_secs(5));
    let mut endless = Client::greeted(&server);
    for _ in 0..128 {
        endless.ask(99, &[]);
    }
    endless.expect_cut();
    // Silence, at once or in the middle of an option, ends after the time for the handshake.
    let mut silent = Client::new(&server);
    silent.bytes(18);
    silent.expect_cut();
    let mut half = Client::greeted(&server);
    half.send(&OPTION.to_be_bytes()[..4]);
    half.expect_cut();
}

#[test]
fn requests_that_are_wrong_are_refused_and_the_connection_lives() {
    let server = memory();
    let mut client = Client::going(&server, true);
    let size = 64 << 20;
    for (command, flags, offset, len, error) in [
        (command::READ, 0, 1, 512, errno::INVAL),
        (command::READ, 0, 0, 511, errno::INVAL),
        (command::READ, 0, size, 512, errno::INVAL),
        (command::READ, 0, !511, 512, errno::INVAL),
        (command::READ, 0, 0, 33 * MIB, errno::INVAL),
        (command::READ, command::FLAG_NO_HOLE, 0, 512, errno::INVAL),
        (command::READ, command::FLAG_DF, 0, 2 * MIB, errno::OVERFLOW),
        (command::READ, 1 << 15, 0, 512, errno::INVAL),
        (command::WRITE_ZEROES, 0, size - 512, 1024, errno::NOSPC),
        (command::WRITE_ZEROES, command::FLAG_NO_HOLE | command::FLAG_FAST_ZERO, 0, 512, errno::NOTSUP),
        (command::TRIM, 0, size, 512, errno::INVAL),
        (command::BLOCK_STATUS, 0, 0, 0, errno::INVAL),
        (5, 0, 0, 512, errno::INVAL),
        (8, 0, 0, 512, errno::INVAL),
        (0xffff, 0, 0, 512, errno::INVAL),
    ] {
        client.request(command, flags, 9, offset, len, &[]);
        assert_eq!(client.error(), error, "command {command}, flags {flags}, {offset:#x}+{len:#x}");
    }
    for (offset, len, error) in [(size, 512, errno::NOSPC), (7, 512, errno::INVAL), (0, 100_001, errno::INVAL)] {
        client.request(command::WRITE, 0, 9, offset, len, &vec![1; len as usize]);
        assert_eq!(client.error(), error);
    }
    client.request(command::READ, command::FLAG_DF | command::FLAG_FUA, 10, 0, MIB, &[]);
    let (flags, kind, cookie, payload) = client.chunk();
    assert_eq!((flags, kind, cookie, payload.len()), (chunk::DONE, chunk::OFFSET_DATA, 10, 8 + MIB as usize));
    assert!(payload.iter().all(|byte| *byte == 0));
    for command in [command::READ, command::WRITE, command::TRIM, command::WRITE_ZEROES] {
        client.request(command, 0, 11, 0, 0, &[]);
        if command == command::READ {
            assert_eq!(client.chunk(), (chunk::DONE, chunk::NONE, 11, vec![]));
        } else {
            assert_eq!(client.simple(), (0, 11));
        }
    }
    client.request(command::DISCONNECT, 0, 0, 0, 0, &[]);
    client.expect_cut();
}

#[test]
fn what_can_not_be_followed_is_cut() {
    let server = memory();
    let mut no_request = Client::going(&server, true);
    no_request.send(&[1; 28]);
    no_request.expect_cut();
    let mut too_long = Client::going(&server, true);
    too_long.request(command::WRITE, 0, 1, 0, 33 * MIB, &[]);
    too_long.expect_cut();
    // A client that goes away in the middle leaves nothing behind.
    let mut half = Client::going(&server, true);
    half.send(&REQUEST.to_be_bytes());
    drop(half);
    let mut data = Client::going(&server, true);
    data.request(command::WRITE, 0, 1, 0, 4096, &[1; 100]);
    drop(data);
    server.shutdown().unwrap();
}

#[test]
fn long_transfers_come_in_parts() {
    let disk = Arc::new(MemoryDisk::new(64 << 20));
    let server = server(disk.clone(), CacheMode::Writeback);
    let len = 5 * MIB + 512;
    let bytes: Vec<u8> = (0..len).map(|index| (index % 251) as u8).collect();
    for structured in [true, false] {
        let mut client = Client::going(&server, structured);
        client.request(command::WRITE, command::FLAG_FUA, 1, 1024, len, &bytes);
        assert_eq!(client.simple(), (0, 1));
        assert!(read(&*disk, 1024, len as usize, &[]).unwrap() == bytes);
        client.request(command::READ, 0, 2, 1024, len, &[]);
        let mut got = Vec::new();
        if structured {
            loop {
                let (flags, kind, cookie, payload) = client.chunk();
                assert_eq!((kind, cookie), (chunk::OFFSET_DATA, 2));
                assert_eq!(payload[..8], (1024 + got.len() as u64).to_be_bytes());
                got.extend(&payload[8..]);
                if flags & chunk::DONE != 0 {
                    break;
                }
            }
        } else {
            assert_eq!(client.simple(), (0, 2));
            got = client.bytes(len as usize);
        }
        assert!(got == bytes);
        disk.discard(0, 64 << 20).unwrap();
    }
}

#[test]
fn zeroes_are_holes_unless_they_may_not_be() {
    let disk = Arc::new(MemoryDisk::new(64 << 20));
    let server = server(disk.clone(), CacheMode::Writeback);
    let mut client = Client::going(&server, true);
    for (flags, allocated) in [(command::FLAG_NO_HOLE, 3 * u64::from(MIB)), (command::FLAG_FAST_ZERO, 0)] {
        write(&*disk, 0, &vec![7; 3 * MIB as usize], &[], false).unwrap();
        client.request(command::WRITE_ZEROES, flags, 1, 0, 3 * MIB, &[]);
        assert_eq!(client.simple(), (0, 1));
        assert!(read(&*disk, 0, 3 * MIB as usize, &[]).unwrap().iter().all(|byte| *byte == 0));
        assert_eq!(disk.allocated_bytes(), allocated);
    }
}

/// Every other 64 KiB is a hole.
#[derive(Debug)]
struct Striped(MemoryDisk);

impl DiskBackend for Striped {
    fn info(&self) -> DiskInfo {
        DiskInfo { read_only: true, ..self.0.info() }
    }

    fn read_at(&self, offset: u64, into: &[benchtop_memory::VolatileSlice<'_>]) -> Result<(), BlockError> {
        self.0.read_at(offset, into)
    }

    fn write_at(&self, _: u64, _: &[benchtop_memory::VolatileSlice<'_>], _: bool) -> Result<(), BlockError> {
        Err(BlockError::new(BlockErrorKind::ReadOnly, "not reached"))
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> Result<(), BlockError> {
        Ok(())
    }

    fn extent_at(&self, offset: u64, limit: u64) -> Result<benchtop_block::Extent, BlockError> {
        use benchtop_block::ExtentKind::{Data, Zeroes};
        let kind = if (offset >> 16).is_multiple_of(2) { Data } else { Zeroes };
        // In two parts, to be put together.
        let len_bytes = (0x8000 - offset % 0x8000).min(limit);
        Ok(benchtop_block::Extent { kind, len_bytes })
    }
}

#[test]
fn extents_are_merged_and_bounded_and_the_export_can_be_read_only() {
    let server = server(Arc::new(Striped(MemoryDisk::new(1 << 30))), CacheMode::Writethrough);
    let mut client = Client::going(&server, true);
    let extents = |(flags, kind, _, payload): (u16, u16, u64, Vec<u8>)| {
        assert_eq!((flags, kind, &payload[..4]), (chunk::DONE, chunk::BLOCK_STATUS, &[0, 0, 0, 1][..]));
        let numbers = payload[4..].chunks_exact(4).map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap()));
        let numbers: Vec<_> = numbers.collect();
        numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect::<Vec<_>>()
    };
    client.request(command::BLOCK_STATUS, 0, 1, 0x8000, 0x2_0000, &[]);
    assert_eq!(extents(client.chunk()), [(0x8000, 0), (0x1_0000, 3), (0x8000, 0)]);
    client.request(command::BLOCK_STATUS, command::FLAG_REQ_ONE, 1, 0x8000, 0x2_0000, &[]);
    assert_eq!(extents(client.chunk()), [(0x8000, 0)]);
    client.request(command::BLOCK_STATUS, 0, 1, 0, 1 << 30, &[]);
    let many = extents(client.chunk());
    assert_eq!((many.len(), many[1023]), (1024, (0x1_0000, 3)));
    client.request(command::WRITE, 0, 1, 0, 512, &[1; 512]);
    assert_eq!(client.error(), errno::PERM);
    client.request(command::FLUSH, 0, 1, 0, 0, &[]);
    assert_eq!(client.simple(), (0, 1));
    server.shutdown().unwrap();
}

/// Writes that are held do not keep reads behind them waiting, and the number in flight is bounded.
#[test]
fn answers_overtake_each_other() {
    let disk = Arc::new(FaultDisk::new(1 << 20));
    let options = ServerOptions { max_in_flight: 4, ..ServerOptions::default() };
    let server = Server::new(export(disk.clone(), CacheMode::Writethrough), options).unwrap();
    let mut client = Client::going(&server, true);
    // The server learns that durable writes take long here, and that they do not come alone.
    disk.set_plan(FaultPlan { delay: Duration::from_millis(2), ..FaultPlan::default() });
    for cookie in 0..8 {
        client.request(command::WRITE, 0, cookie, 0, 512, &[1; 512]);
    }
    (0..8).for_each(|_| assert_eq!(client.simple().0, 0));
    disk.set_plan(FaultPlan { hold_writes: true, ..FaultPlan::default() });
    let begun = disk.counts().writes_begun;
    let mut burst = Vec::new();
    for cookie in 10..13 {
        Request { flags: 0, command: command::WRITE, cookie, offset_bytes: cookie * 512, len_bytes: 512 }
            .encode(&mut burst);
        burst.extend([cookie as u8; 512]);
    }
    Request { flags: 0, command: command::READ, cookie: 20, offset_bytes: 0, len_bytes: 512 }.encode(&mut burst);
    client.send(&burst);
    assert_eq!(client.chunk().2, 20);
    disk.wait_until(|counts| counts.writes_begun == begun + 3);
    for cookie in 30..40 {
        client.request(command::WRITE, 0, cookie, 0, 512, &[1; 512]);
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(disk.counts().writes_begun, begun + 4, "more than four requests in flight");
    disk.set_plan(FaultPlan::default());
    let mut cookies: Vec<u64> =
        (0..13).map(|_| client.simple()).map(|(error, cookie)| cookie + u64::from(error)).collect();
    cookies.sort_unstable();
    assert_eq!(cookies, (10..13).chain(30..40).collect::<Vec<_>>());
    server.shutdown().unwrap();
}

#[test]
fn what_is_answered_is_as_durable_as_the_mode_says() {
    for cache in [CacheMode::Writethrough, CacheMode::Writeback, CacheMode::Unsafe] {
        let disk = Arc::new(FaultDisk::new(1 << 20));
        let server = server(disk.clone(), cache);
        let mut client = Client::going(&server, false);
        client.request(command::WRITE, 0, 1, 0, 512, &[1; 512]);
        assert_eq!(client.simple(), (0, 1));
        assert_eq!(disk.durable(0, 512)[0] == 1, cache == CacheMode::Writethrough, "{cache:?}");
        client.request(command::WRITE, command::FLAG_FUA, 1, 512, 512, &[2; 512]);
        assert_eq!(client.simple(), (0, 1));
        assert_eq!(disk.durable(512, 512)[0] == 2, cache != CacheMode::Unsafe, "{cache:?}");
        client.request(command::WRITE_ZEROES, command::FLAG_FUA, 1, 512, 512, &[]);
        assert_eq!(client.simple(), (0, 1));
        assert_eq!(disk.durable(512, 512)[0], 0);
        client.request(command::WRITE, 0, 1, 1024, 512, &[3; 512]);
        assert_eq!(client.simple(), (0, 1));
        client.request(command::FLUSH, 0, 1, 0, 0, &[]);
        assert_eq!(client.simple(), (0, 1));
        assert_eq!(disk.durable(1024, 512)[0] == 3, cache != CacheMode::Unsafe, "{cache:?}");
        client.request(command::WRITE, 0, 1, 2048, 512, &[4; 512]);
        assert_eq!(client.simple(), (0, 1));
        server.shutdown().unwrap();
        assert_eq!(disk.durable(2048, 512)[0] == 4, cache != CacheMode::Unsafe, "{cache:?}");
    }
}

#[test]
fn failures_of_the_disk_are_told() {
    let disk = Arc::new(FaultDisk::new(1 << 20));
    let server = server(disk.clone(), CacheMode::Writeback);
    let mut client = Client::going(&server, true);
    disk.set_plan(FaultPlan { no_space_after: Some(0), ..FaultPlan::default() });
    client.request(command::WRITE, 0, 1, 0, 512, &[1; 512]);
    assert_eq!(client.error(), errno::NOSPC);
    disk.set_plan(FaultPlan { fail_sync: Some(0), ..FaultPlan::default() });
    client.request(command::FLUSH, 0, 1, 0, 0, &[]);
    assert_eq!(client.error(), errno::IO);
    client.request(command::WRITE, 0, 1, 0, 512, &[1; 512]);
    assert_eq!(client.error(), errno::IO);
    assert_eq!(server.shutdown().unwrap_err().kind(), BlockErrorKind::Poisoned);
}

#[test]
fn shutting_down_answers_what_has_arrived_and_flushes() {
    let disk = Arc::new(FaultDisk::new(1 << 20));
    let server = server(disk.clone(), CacheMode::Writeback);
    let mut client = Client::going(&server, false);
    let idle = Client::going(&server, true);
    assert_eq!(server.connections(), 2);
    disk.set_plan(FaultPlan { hold_writes: true, ..FaultPlan::default() });
    for cookie in 0..20u64 {
        client.request(command::WRITE, 0, cookie, cookie * 512, 512, &[cookie as u8 + 1; 512]);
    }
    disk.wait_until(|counts| counts.writes_begun > 0);
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| server.shutdown());
        std::thread::sleep(Duration::from_millis(50));
        disk.set_plan(FaultPlan::default());
        ended.join().unwrap().unwrap();
    });
    (0..20).for_each(|_| assert_eq!(client.simple().0, 0));
    client.expect_cut();
    idle.expect_cut();
    assert!((0..20).all(|index| disk.durable(index * 512, 512)[0] == index as u8 + 1));
}

#[test]
fn a_client_that_takes_no_answers_is_cut_in_the_end() {
    let disk = Arc::new(MemoryDisk::new(64 << 20));
    let options = ServerOptions { drain: Duration::from_millis(100), ..ServerOptions::default() };
    let server = Server::new(export(disk, CacheMode::Writeback), options).unwrap();
    let mut client = Client::going(&server, true);
    for cookie in 0..10 {
        client.request(command::READ, 0, cookie, 0, 32 * MIB, &[]);
    }
    let started = Instant::now();
    server.shutdown().unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn clients_beyond_the_limit_are_turned_away() {
    let options = ServerOptions { max_connections: 1, ..ServerOptions::default() };
    let server = Server::new(export(Arc::new(MemoryDisk::new(4096)), CacheMode::Writeback), options).unwrap();
    let first = Client::going(&server, true);
    let (_ours, theirs) = UnixStream::pair().unwrap();
    assert_eq!(server.serve(theirs).unwrap_err().kind(), BlockErrorKind::InUse);
    drop(first);
    assert!(server.registry.wait_empty(Duration::from_secs(10)));
    Client::going(&server, true);
}

/// Bytes at random, after a handshake that went well, never do more than end their connection.
#[test]
fn noise_is_survived() {
    let server = memory();
    let mut sequence = benchtop_block::conformance::Sequence::new(11);
    for round in 0..60 {
        let mut client = Client::going(&server, round % 2 == 0);
        client.0.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        for _ in 0..sequence.below(40) {
            let mut bytes = REQUEST.to_be_bytes().to_vec();
            let small = |bytes: &mut Vec<u8>, value: u64| bytes.extend((value as u16).to_be_bytes());
            small(&mut bytes, sequence.below(64) & sequence.below(64));
            small(&mut bytes, sequence.below(9));
            bytes.extend(sequence.below(u64::MAX).to_be_bytes());
            bytes.extend((sequence.below(1 << 18) * 512).to_be_bytes());
            bytes.extend(((sequence.below(64) * 512) as u32).to_be_bytes());
            let extra = sequence.below(2000) as usize;
            bytes.extend(sequence.bytes(extra));
            // The server may have cut it already.
            if client.0.write_all(&bytes).is_err() {
                break;
            }
        }
    }
    assert!(server.registry.wait_empty(Duration::from_secs(20)));
    let mut client = Client::going(&server, false);
    client.request(command::READ, 0, 1, 0, 512, &[]);
    assert_eq!(client.simple(), (0, 1));
}
