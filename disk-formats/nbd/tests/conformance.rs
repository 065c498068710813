//! The disks' conformance suite through client and server, and the client against servers that are wrong.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use benchtop_block::conformance::{self, read, write};
use benchtop_block::fault::{FaultDisk, FaultPlan};
use benchtop_block::{BlockErrorKind, CacheMode, DiscardBehavior, DiskBackend, ExtentKind, MemoryDisk};
use benchtop_memory::VolatileSlice;
use benchtop_nbd::{Address, Export, Listener, NbdDisk, Server, ServerOptions, Uri};

fn server(backend: Arc<dyn DiskBackend>, read_only: bool) -> Server {
    let (name, description) = ("disk".to_owned(), String::new());
    let export = Export { name, description, backend, cache: CacheMode::Writeback, read_only };
    Server::new(export, ServerOptions::default()).unwrap()
}

fn client(server: &Server) -> NbdDisk {
    let (ours, theirs) = UnixStream::pair().unwrap();
    server.serve(theirs).unwrap();
    NbdDisk::from_unix(ours, "disk", false).unwrap()
}

/// A client with a server of its own, which ends after it.
struct Both {
    client: NbdDisk,
    _server: Server,
}

impl DiskBackend for Both {
    fn info(&self) -> benchtop_block::DiskInfo {
        self.client.info()
    }

    fn read_at(&self, offset_bytes: u64, into: &[VolatileSlice<'_>]) -> Result<(), benchtop_block::BlockError> {
        self.client.read_at(offset_bytes, into)
    }

    fn write_at(
        &self,
        offset_bytes: u64,
        from: &[VolatileSlice<'_>],
        fua: bool,
    ) -> Result<(), benchtop_block::BlockError> {
        self.client.write_at(offset_bytes, from, fua)
    }

    fn flush(&self) -> Result<(), benchtop_block::BlockError> {
        self.client.flush()
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), benchtop_block::BlockError> {
        self.client.discard(offset_bytes, len_bytes)
    }

    fn extent_at(
        &self,
        offset_bytes: u64,
        limit_bytes: u64,
    ) -> Result<benchtop_block::Extent, benchtop_block::BlockError> {
        self.client.extent_at(offset_bytes, limit_bytes)
    }
}

#[test]
fn conforms() {
    conformance::run(|| {
        let server = server(Arc::new(MemoryDisk::new(1 << 20)), false);
        Both { client: client(&server), _server: server }
    });
}

#[test]
fn conforms_read_only_over_tcp_and_a_socket_with_a_name() {
    let bytes = conformance::Sequence::new(3).bytes(1 << 16);
    let server = server(Arc::new(MemoryDisk::from_bytes(&bytes)), true);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nbd.sock");
    let tcp = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = tcp.tcp_address().unwrap();
    server.listen(tcp).unwrap();
    server.listen(Listener::unix(&path).unwrap()).unwrap();
    let uri = Uri::parse(&format!("nbd+unix:///?socket={}", path.display())).unwrap();
    let (unix, no_name) = (uri.address, uri.export);
    let tcp = Address::Tcp("127.0.0.1".to_owned(), address.port());
    conformance::read_only(&NbdDisk::connect(&tcp, "disk", false).unwrap(), &bytes);
    conformance::read_only(&NbdDisk::connect(&unix, &no_name, false).unwrap(), &bytes);
    let error = NbdDisk::connect(&unix, "other", false).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (BlockErrorKind::Unsupported, "the NBD server has no export of this name")
    );
    server.shutdown().unwrap();
    assert!(!path.exists());
    assert_eq!(NbdDisk::connect(&unix, "", false).unwrap_err().kind(), BlockErrorKind::Io);
}

#[test]
fn connections_share_the_disk_and_long_transfers_are_cut() {
    let server = server(Arc::new(MemoryDisk::new(64 << 20)), false);
    let (first, second) = (client(&server), client(&server));
    assert_eq!(first.info().discard, DiscardBehavior::Zeroes);
    let bytes = conformance::Sequence::new(5).bytes(3 << 20);
    write(&first, 512, &bytes, &[1, 1 << 20, 3, 5000], true).unwrap();
    assert!(read(&second, 512, bytes.len(), &[700_000, 9]).unwrap() == bytes);
    second.discard(0, 64 << 20).unwrap();
    assert!(read(&first, 512, bytes.len(), &[]).unwrap().iter().all(|byte| *byte == 0));
    assert_eq!(first.extent_at(0, 64 << 20).unwrap().kind, ExtentKind::Data);
}

#[test]
fn a_failed_sync_poisons_and_a_lost_server_is_said() {
    let disk = Arc::new(FaultDisk::new(1 << 20));
    let server = server(disk.clone(), false);
    let client = client(&server);
    client.reopen().unwrap();
    disk.set_plan(FaultPlan { no_space_after: Some(0), ..FaultPlan::default() });
    assert_eq!(write(&client, 0, &[1; 512], &[], true).unwrap_err().kind(), BlockErrorKind::NoSpace);
    disk.set_plan(FaultPlan { fail_sync: Some(0), ..FaultPlan::default() });
    let error = client.flush().unwrap_err();
    assert_eq!(error.kind(), BlockErrorKind::Io);
    assert!(error.to_string().contains("the plan says"), "{error}");
    assert_eq!(write(&client, 0, &[1; 512], &[], false).unwrap_err().kind(), BlockErrorKind::Poisoned);
    assert_eq!(client.reopen().unwrap_err().kind(), BlockErrorKind::Unsupported);
    read(&client, 0, 512, &[]).unwrap();
    assert!(server.shutdown().is_err());
    for _ in 0..2 {
        let error = read(&client, 0, 512, &[]).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::Io);
        assert!(error.to_string().contains("lost"), "{error}");
    }
}

/// A server that says `script` whatever it is asked, and what becomes of a read or a question for extents.
fn scripted(handshake: &[&[u8]], script: &[&[u8]]) -> Result<Vec<u8>, benchtop_block::BlockError> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let bytes = [handshake.concat(), script.concat()].concat();
    theirs.write_all(&bytes).unwrap();
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    let disk = NbdDisk::from_unix(ours, "", false)?;
    let result = read(&disk, 512, 1024, &[]);
    drop(disk);
    theirs.read_to_end(&mut Vec::new()).unwrap_or_default();
    result
}

const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";
const REPLY: &[u8] = b"\0\x03\xe8\x89\x04\x55\x65\xa9";
/// Structured replies are taken, the context is not known.
const STRUCTURED: &[u8] =
    b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x08\0\0\0\x01\0\0\0\0\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x0a\x80\0\0\x01\0\0\0\0";

/// One megabyte, with flags and flush, and the end of the option.
fn went(flags: u8) -> Vec<u8> {
    let size = [&[0, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0, 12, 0, 0][..], &(1u64 << 20).to_be_bytes(), &[0, flags]].concat();
    [REPLY, &size, REPLY, &[0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0]].concat()
}

fn chunk(flags: u8, kind: u16, cookie: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x66\x8e\x33\xef\0".to_vec();
    bytes.push(flags);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 0, 0, 0, 0, 0, 0, cookie]);
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn data(offset: u64, len: usize) -> Vec<u8> {
    [&offset.to_be_bytes()[..], &vec![7; len]].concat()
}

#[test]
fn servers_that_lie_are_found_out() {
    let going = [GREETING, STRUCTURED, &went(5)];
    let hole = [&1024u64.to_be_bytes()[..], &512u32.to_be_bytes()].concat();
    // In parts, in any order, and with a hole.
    let good = scripted(&going, &[&chunk(0, 2, 0, &hole), &chunk(1, 1, 0, &data(512, 512))]).unwrap();
    assert_eq!((good[0], good[511], good[512], good[1023]), (7, 7, 0, 0));
    let kind = |script: &[&[u8]]| scripted(&going, script).unwrap_err().kind();
    assert_eq!(kind(&[&chunk(1, 1, 0, &data(512, 512))]), BlockErrorKind::Corrupt, "half of it");
    assert_eq!(kind(&[&chunk(1, 0, 0, &[])]), BlockErrorKind::Corrupt, "nothing of it");
    assert_eq!(kind(&[&chunk(1, 0x8001, 0, b"\0\0\0\x1c\0\0")]), BlockErrorKind::NoSpace);
    assert_eq!(kind(&[&chunk(1, 0x8001, 0, b"\0\0\0\x05\xff\xff")]), BlockErrorKind::Io, "a text that is not there");
    for broken in [
        chunk(1, 1, 0, &data(0, 1024)),
        chunk(1, 1, 0, &data(512, 1025)),
        chunk(1, 1, 0, &data(u64::MAX, 1024)),
        chunk(1, 1, 0, &data(512, 0)),
        chunk(1, 1, 1, &data(512, 1024)),
        chunk(1, 5, 0, &[0; 12]),
        chunk(1, 77, 0, &[]),
        chunk(1, 0x8001, 0, &[0; 5]),
        chunk(1, 0x8001, 0, &[0; 100_000]),
        b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
        vec![0; 32],
        chunk(1, 1, 0, &data(512, 1024))[..100].to_vec(),
    ] {
        let error = scripted(&going, &[&broken]).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::Io, "{broken:?}");
        assert!(error.to_string().contains("lost"), "{error}");
    }
}

#[test]
fn handshakes_that_can_not_be_are_refused() {
    let refusal = |kind: u8| [REPLY, &[0, 0, 0, 7, 0x80, 0, 0, kind, 0, 0, 0, 0]].concat();
    let kind = |handshake: &[&[u8]]| scripted(handshake, &[]).unwrap_err().kind();
    assert_eq!(kind(&[b"SSH-2.0-OpenSSH_9\r\n"]), BlockErrorKind::Corrupt);
    // The oldstyle's second magic number.
    assert_eq!(kind(&[b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53"]), BlockErrorKind::Unsupported);
    assert_eq!(kind(&[b"NBDMAGICIHAVEOPT\0\0"]), BlockErrorKind::Unsupported);
    for number in [2, 5, 6, 8] {
        assert_eq!(kind(&[GREETING, STRUCTURED, &refusal(number)]), BlockErrorKind::Unsupported);
    }
    // Writable without a flush.
    assert_eq!(kind(&[GREETING, STRUCTURED, &went(1)]), BlockErrorKind::Unsupported);
    let only_end = [REPLY, &[0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0]].concat();
    assert_eq!(kind(&[GREETING, STRUCTURED, &only_end]), BlockErrorKind::Corrupt);
    let sizes = |sizes: [u32; 3]| {
        let mut bytes = [REPLY, &[0, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0, 14, 0, 3]].concat();
        sizes.iter().for_each(|size| bytes.extend(size.to_be_bytes()));
        bytes
    };
    for wrong in [[0, 4096, 1 << 20], [512, 0, 1 << 20], [512, 5000, 1 << 20], [8192, 4096, 1 << 20], [1, 1, 1]] {
        assert_eq!(kind(&[GREETING, STRUCTURED, &sizes(wrong), &went(5)]), BlockErrorKind::Corrupt, "{wrong:?}");
    }
    let large = sizes([4096, 4096, 1 << 20]);
    assert_eq!(kind(&[GREETING, STRUCTURED, &large, &went(5)]), BlockErrorKind::Unsupported);
    // The old way to go, after a server that only knows that.
    let old = [0, 0, 0, 0, 0, 0x10, 0, 0, 0, 5];
    let simple = b"\x66\x8e\x33\xef";
    assert_eq!(kind(&[GREETING, STRUCTURED, &refusal(1), &old, simple]), BlockErrorKind::Io);
}
