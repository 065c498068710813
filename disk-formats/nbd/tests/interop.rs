//! Server and client against those of QEMU and libnbd, where they are installed.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use benchtop_block::conformance::{self, Sequence, read, write};
use benchtop_block::{CacheMode, DiskBackend, ExtentKind};
use benchtop_images::raw::RawDisk;
use benchtop_nbd::{Address, Export, Listener, NbdDisk, Server, ServerOptions};
use tempfile::TempDir;

const SIZE: u64 = 16 << 20;

/// Whether all of `programs` are there; says so where `test` is skipped.
fn can_run(test: &str, programs: &[&str]) -> bool {
    for program in programs {
        let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_err() {
            println!("SKIPPED {test}: {program} is not installed");
            return false;
        }
    }
    true
}

/// What a program that must succeed prints.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{program} {arguments:?}: {told}");
    told
}

/// A raw image with some data and much hole, served.
struct Bench {
    directory: TempDir,
    server: Server,
    content: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut content = vec![0; SIZE as usize];
        content[1 << 20..(1 << 20) + 300_032].copy_from_slice(&Sequence::new(1).bytes(300_032));
        content[SIZE as usize - 4096..].fill(9);
        let path = directory.path().join("disk.raw");
        let file = File::options().create_new(true).read(true).write(true).open(path).unwrap();
        file.set_len(SIZE).unwrap();
        let backend = Arc::new(RawDisk::open(file, false).unwrap());
        write(&*backend, 1 << 20, &content[1 << 20..(1 << 20) + 300_032], &[], false).unwrap();
        write(&*backend, SIZE - 4096, &[9; 4096], &[], false).unwrap();
        let (name, description) = ("disk".to_owned(), "for tests".to_owned());
        let export = Export { name, description, backend, cache: CacheMode::Writeback, read_only: false };
        let server = Server::new(export, ServerOptions::default()).unwrap();
        server.listen(Listener::unix(&directory.path().join("nbd.sock")).unwrap()).unwrap();
        Self { directory, server, content }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///disk?socket={}", self.path("nbd.sock"))
    }

    /// Ends the server and gives back what is in the image.
    fn end(self) -> Vec<u8> {
        self.server.shutdown().unwrap();
        fs::read(self.directory.path().join("disk.raw")).unwrap()
    }
}

#[test]
fn qemu_img_copies_out_and_in_and_sees_holes() {
    if !can_run("qemu_img_copies_out_and_in_and_sees_holes", &["qemu-img"]) {
        return;
    }
    let bench = Bench::new();
    let (uri, copy) = (bench.uri(), bench.path("copy.raw"));
    run("qemu-img", &["convert", "-O", "raw", &uri, &copy]);
    assert!(fs::read(&copy).unwrap() == bench.content);
    assert!(run("qemu-img", &["compare", &uri, &copy]).contains("identical"));
    let map = run("qemu-img", &["map", "--output=json", "-f", "raw", &uri]);
    assert!(map.contains("\"zero\": true") && map.contains("\"data\": true"), "{map}");
    let mut other = Sequence::new(2).bytes(SIZE as usize);
    other[4 << 20..12 << 20].fill(0);
    fs::write(&copy, &other).unwrap();
    // Into many connections at once, without regard to order.
    run("qemu-img", &["convert", "-n", "-W", "-m", "16", "-f", "raw", "-O", "raw", &copy, &uri]);
    assert!(run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, &copy]).contains("identical"));
    assert!(bench.end() == other);
}

#[test]
fn qemu_io_does_every_kind_of_request() {
    if !can_run("qemu_io_does_every_kind_of_request", &["qemu-io"]) {
        return;
    }
    let bench = Bench::new();
    let commands = [
        "write -P 5 0 1M",
        "write -f -P 6 4k 4k",
        "write -z 8k 4k",
        "write -z -u 12k 4k",
        "discard 16k 64k",
        "flush",
        "read -P 5 0 4k",
        "read -P 6 4k 4k",
        "read -P 0 8k 72k",
        "aio_write -P 7 2M 8M",
        "aio_read -P 5 80k 512k",
        "aio_flush",
        "read -P 7 2M 8M",
    ];
    let uri = bench.uri();
    let mut arguments = vec!["-f", "raw", "-t", "none"];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    arguments.push(&uri);
    let told = run("qemu-io", &arguments);
    assert!(!told.contains("failed") && !told.contains("rror"), "{told}");
    let bytes = bench.end();
    assert_eq!((bytes[0], bytes[4096], bytes[8192], bytes[81_920], bytes[2 << 20]), (5, 6, 0, 5, 7));
}

#[test]
fn libnbd_reads_writes_and_describes() {
    if !can_run("libnbd_reads_writes_and_describes", &["nbdinfo", "nbdcopy"]) {
        return;
    }
    let bench = Bench::new();
    let (uri, copy) = (bench.uri(), bench.path("copy.raw"));
    let info = run("nbdinfo", &[&uri]);
    for part in [
        "newstyle-fixed without TLS, using structured packets",
        "export-size: 16777216",
        "base:allocation",
        "can_multi_conn: true",
        "can_fast_zero: true",
        "block_size_minimum: 512",
        "block_size_maximum: 33554432",
    ] {
        assert!(info.contains(part), "{part}: {info}");
    }
    assert!(run("nbdinfo", &["--list", &uri]).contains("export=\"disk\""));
    assert!(run("nbdinfo", &["--map", &uri]).contains("hole,zero"));
    run("nbdcopy", &[&uri, &copy]);
    assert!(fs::read(&copy).unwrap() == bench.content);
    let other = Sequence::new(3).bytes(SIZE as usize);
    fs::write(&copy, &other).unwrap();
    run("nbdcopy", &["--flush", &copy, &uri]);
    assert!(bench.end() == other);
}

#[test]
fn fio_verifies_what_it_writes() {
    if !can_run("fio_verifies_what_it_writes", &["fio"]) {
        return;
    }
    if !run("fio", &["--enghelp"]).contains("nbd") {
        println!("SKIPPED fio_verifies_what_it_writes: fio has no nbd engine");
        return;
    }
    let bench = Bench::new();
    let uri = format!("--uri=nbd+unix:///?socket={}", bench.path("nbd.sock"));
    let arguments = ["--name=v", "--ioengine=nbd", &uri, "--rw=randwrite", "--bsrange=512-128k", "--iodepth=16"];
    let verify =
        ["--verify=crc32c", "--size=16M", "--io_size=32M", "--fsync=50", "--verify_fatal=1", "--verify_state_save=0"];
    run("fio", &[&arguments[..], &verify].concat());
    bench.end();
}

/// A `qemu-nbd` that ends with the test.
struct Theirs(Child);

impl Drop for Theirs {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        self.0.wait().map(drop).unwrap_or_default();
    }
}

fn qemu_nbd(socket: &Path, image: &Path) -> Theirs {
    let mut command = Command::new("qemu-nbd");
    command.args(["-t", "-e", "4", "-f", "raw", "-x", "theirs", "--discard=unmap", "-k"]).arg(socket).arg(image);
    let child = Theirs(command.spawn().unwrap());
    let started = Instant::now();
    while !socket.exists() {
        assert!(started.elapsed() < Duration::from_secs(20), "qemu-nbd does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

#[test]
fn our_client_conforms_on_qemu_nbd() {
    if !can_run("our_client_conforms_on_qemu_nbd", &["qemu-nbd"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (socket, image): (PathBuf, PathBuf) = (directory.path().join("nbd.sock"), directory.path().join("disk.raw"));
    File::create(&image).unwrap().set_len(2 << 20).unwrap();
    let _theirs = qemu_nbd(&socket, &image);
    let connect = || NbdDisk::connect(&Address::Unix(socket.clone()), "theirs", false).unwrap();
    conformance::run(connect);
    let disk = connect();
    disk.discard(0, 2 << 20).unwrap();
    write(&disk, 1 << 20, &[7; 4096], &[], true).unwrap();
    assert_eq!(read(&disk, 1 << 20, 4096, &[]).unwrap(), [7; 4096]);
    let extent = disk.extent_at(0, 2 << 20).unwrap();
    // A file system without holes has one run of data.
    assert!(extent.len_bytes == 1 << 20 || extent.kind == ExtentKind::Data, "{extent:?}");
    assert!(NbdDisk::connect(&Address::Unix(socket), "ours", false).is_err());
}
