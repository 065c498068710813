//! Disks that an NBD server has: ours (`disk serve`), and QEMU's where it is installed.

#![expect(clippy::unwrap_used, reason = "only tests use this")]

#[expect(dead_code, reason = "this file uses a part of it")]
mod common;
mod guest;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{World, can_run_vms, skip};

const MIB: usize = 1 << 20;

/// A server that ends with the test.
struct Served {
    child: Child,
    uri: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

/// Ours.
fn serve(world: &World, disk: &str, options: &[&str]) -> Served {
    let arguments = ["disk", "serve", disk, "--socket", &format!("{disk}.sock")];
    let mut child = world.command().args(arguments).args(options).stdout(Stdio::piped()).spawn().unwrap();
    let mut uri = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut uri).unwrap();
    Served { child, uri: uri.trim().to_owned() }
}

/// QEMU's, of an export `theirs`.
fn qemu_nbd(test: &str, world: &World, disk: &str, options: &[&str]) -> Option<Served> {
    let socket = world.path(&format!("{disk}.qemu"));
    let mut command = Command::new("qemu-nbd");
    command.args(["-t", "-e", "4", "-f", "raw", "-x", "theirs", "--discard=unmap", "-k"]).arg(&socket);
    let Ok(child) = command.args(options).arg(world.path(disk)).spawn() else {
        skip(test, "qemu-nbd is not installed");
        return None;
    };
    let started = Instant::now();
    while !socket.exists() {
        assert!(started.elapsed() < Duration::from_secs(20), "qemu-nbd does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    Some(Served { child, uri: format!("nbd+unix:///theirs?socket={}", socket.display()) })
}

/// A disk with data at both ends and a hole.
fn sample(path: &Path, seed: u64) -> Vec<u8> {
    let mut content = vec![0; 8 * MIB];
    for (at, chunk) in content.chunks_exact_mut(8).enumerate().filter(|(at, _)| !(MIB / 8..5 * MIB / 8).contains(at)) {
        chunk.copy_from_slice(&(at as u64 + seed).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    }
    std::fs::write(path, &content).unwrap();
    content
}

#[test]
fn an_export_is_read_as_a_file_is() {
    let world = World::new();
    let content = sample(&world.path("a.raw"), 1);
    world.ok(["disk", "convert", "a.raw", "a.strata"]);
    let ours = serve(&world, "a.strata", &["--read-only"]);
    let theirs = qemu_nbd("an_export_is_read_as_a_file_is", &world, "a.raw", &["-r"]);
    for served in std::iter::once(&ours).chain(&theirs) {
        let uri = served.uri.as_str();
        let (_, info) = world.json(["disk", "info", uri]);
        let expected = serde_json::json!([uri, "nbd", 8 * MIB, true, null]);
        assert_eq!(
            serde_json::json!([
                info["file"],
                info["format"],
                info["size_bytes"],
                info["read_only"],
                info["file_bytes"]
            ]),
            expected
        );
        let (_, map) = world.json(["disk", "map", uri]);
        assert_eq!(map["size_bytes"], 8 * MIB);
        assert!(map["data_bytes"].as_u64().unwrap() >= 4 * MIB as u64, "{map}");
        world.ok(["disk", "compare", uri, "a.raw"]);
        world.ok(["disk", "compare", "a.raw", uri]);
        world.ok(["disk", "convert", uri, "copy.qcow2", "--verify", "--force"]);
        world.ok(["disk", "convert", "copy.qcow2", "copy.raw", "--force"]);
        assert!(std::fs::read(world.path("copy.raw")).unwrap() == content);
        // Nobody may write, and what wants a file says so.
        world.fails(5, ["disk", "convert", "a.raw", uri, "--force"]);
        for verb in ["check", "repair", "compact"] {
            world.fails(1, ["disk", verb, uri]);
        }
        world.fails(1, ["disk", "resize", uri, "9M"]);
        world.fails(1, ["disk", "snap", "list", uri]);
        world.fails(1, ["crypt", "status", uri]);
        world.fails(2, ["disk", "info", &format!("{uri},format=qcow2")]);
    }
    if let Some(theirs) = theirs {
        let other = theirs.uri.replace("theirs", "others");
        let failed = world.fails(3, ["disk", "info", &other]);
        assert!(failed.stderr.contains("no export of this name"), "{}", failed.stderr);
    }
}

#[test]
fn an_export_is_written_with_consent() {
    let world = World::new();
    let content = sample(&world.path("a.raw"), 1);
    sample(&world.path("b.raw"), 2);
    sample(&world.path("c.raw"), 3);
    world.ok(["disk", "convert", "b.raw", "b.strata"]);
    world.ok(["disk", "create", "large.raw", "--size", "9M"]);
    let mut files = vec![(serve(&world, "b.strata", &[]), "b.strata")];
    files.extend(qemu_nbd("an_export_is_written_with_consent", &world, "c.raw", &[]).map(|served| (served, "c.raw")));
    for (served, file) in files {
        let uri = served.uri.as_str();
        let failed = world.fails(1, ["disk", "convert", "a.raw", uri]);
        assert!(failed.stderr.contains("--force"), "{}", failed.stderr);
        world.fails(2, ["disk", "convert", "a.raw", uri, "--force", "--format", "qcow2"]);
        world.fails(2, ["disk", "convert", "a.raw", uri, "--force", "--encrypt"]);
        world.fails(1, ["disk", "convert", "large.raw", uri, "--force"]);
        world.ok(["disk", "convert", "a.raw", uri, "--force", "--verify"]);
        // A smaller disk leaves nothing of the larger behind.
        let (_, done) = world.json(["disk", "compare", "a.raw", uri]);
        assert_eq!(done["equal"], true);
        std::fs::write(world.path("small.raw"), &content[..MIB]).unwrap();
        world.ok(["disk", "convert", "small.raw", uri, "--force", "--verify"]);
        rustix::process::kill_process(rustix::process::Pid::from_child(&served.child), rustix::process::Signal::TERM)
            .unwrap();
        let mut served = served;
        served.child.wait().unwrap();
        world.ok(["disk", "compare", "small.raw", file]);
    }
}

#[test]
fn what_can_not_be_reached_is_told_apart() {
    let world = World::new();
    sample(&world.path("a.raw"), 1);
    let socket = world.path("nobody");
    world.fails(3, ["disk", "info", &format!("nbd+unix:///?socket={}", socket.display())]);
    // A port where nobody listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let failed = world.fails(1, ["disk", "map", &format!("nbd://127.0.0.1:{port}/x")]);
    assert!(failed.stderr.contains("the server runs"), "{}", failed.stderr);
    for wrong in ["nbd:///x", "nbd://a:b/", "nbd+unix:///", "nbds+unix:///?socket=x", "nbd://u@h/"] {
        world.fails(2, ["disk", "info", wrong]);
        world.fails(2, ["disk", "convert", "a.raw", wrong, "--force"]);
    }
    world.fails(2, ["disk", "info", "a.raw,format=nbd"]);
    // TLS needs somebody to trust, before anybody is spoken to.
    let failed = world.fails(2, ["disk", "info", "nbds://127.0.0.1/"]);
    assert!(failed.stderr.contains("--tls-ca"), "{}", failed.stderr);
    world.fails(2, ["disk", "info", "nbds://127.0.0.1/", "--tls-ca", "a.raw"]);
    world.fails(3, ["disk", "info", "nbds://127.0.0.1/", "--tls-ca", "missing.pem"]);
}

/// Runs a program that makes certificates; false where it is not there.
fn openssl(world: &World, arguments: &[&str]) -> bool {
    let status = Command::new("openssl").args(arguments).current_dir(world.dir.path()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

#[test]
fn an_export_is_reached_by_tls() {
    let test = "an_export_is_reached_by_tls";
    let world = World::new();
    let mut content = sample(&world.path("a.raw"), 1);
    content[..512].copy_from_slice(&guest::boot_sector(2));
    std::fs::write(world.path("a.raw"), content).unwrap();
    std::fs::create_dir(world.path("pki")).unwrap();
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let authority = ["-x509", "-keyout", "pki/ca-key.pem", "-out", "pki/ca-cert.pem", "-subj", "/CN=tests"];
    let server = [
        "-x509",
        "-CA",
        "pki/ca-cert.pem",
        "-CAkey",
        "pki/ca-key.pem",
        "-keyout",
        "pki/server-key.pem",
        "-out",
        "pki/server-cert.pem",
        "-subj",
        "/CN=server",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ];
    if ![&authority[..], &server].iter().all(|part| openssl(&world, &[&["req"][..], &key, part].concat())) {
        skip(test, "openssl is not installed, or too old");
        return;
    }
    let credentials = "tls-creds-x509,id=t,endpoint=server,verify-peer=no,dir=";
    let credentials = format!("{credentials}{}", world.path("pki").display());
    let options = ["--object", &credentials, "--tls-creds", "t"];
    let Some(theirs) = qemu_nbd(test, &world, "a.raw", &options) else { return };
    let tls = format!("{}&tls-hostname=localhost", theirs.uri.replace("nbd+unix", "nbds+unix"));
    let by = |uri: &str, ca: &str| -> Vec<String> {
        ["disk", "compare", "a.raw", uri, "--tls-ca", ca].map(str::to_owned).to_vec()
    };
    let told = world.run(by(&tls, "pki/ca-cert.pem"));
    assert_eq!(told.code, 0, "{}", told.stderr);
    // Connected before the lock-down, used after it.
    if can_run_vms(test) {
        let boot = ["boot", "--memory", "64M", "--timeout", "60s", "--until", "DISK OK", "--disk"];
        world.ok([&boot[..], &[&tls, "--tls-ca", "pki/ca-cert.pem"]].concat());
    }
    let failed = world.fails(1, by(&theirs.uri, "pki/ca-cert.pem"));
    assert!(failed.stderr.contains("wants TLS") && failed.stderr.contains("nbds"), "{}", failed.stderr);
    let failed = world.fails(1, by(&tls.replace("=localhost", "=example.org"), "pki/ca-cert.pem"));
    assert!(failed.stderr.contains("certificate"), "{}", failed.stderr);
    // A server without TLS is never spoken to in the clear.
    world.ok(["disk", "create", "plain.raw", "--size", "1M"]);
    let plain = serve(&world, "plain.raw", &[]);
    let plain = format!("{}&tls-hostname=localhost", plain.uri.replace("nbd+unix", "nbds+unix"));
    let failed = world.fails(1, by(&plain, "pki/ca-cert.pem"));
    assert!(failed.stderr.contains("has no TLS"), "{}", failed.stderr);
}

/// The guest sees the error of its own disk when the server is gone.
#[test]
fn a_vm_boots_from_an_export_and_sees_it_vanish() {
    if !can_run_vms("a_vm_boots_from_an_export_and_sees_it_vanish") {
        return;
    }
    let world = World::new();
    let mut content = guest::boot_sector(2);
    content.resize(MIB, 0);
    std::fs::write(world.path("boot.raw"), content).unwrap();
    let served = serve(&world, "boot.raw", &[]);
    let boot = ["boot", "--memory", "64M", "--timeout", "60s", "--disk"];
    world.ok([&boot[..], &[&served.uri, "--until", "DISK OK"]].concat());
    let vm = [&boot[..], &[&served.uri, "--until", "DISK GONE", "--serial", "serial"]].concat();
    let mut vm = world.command().args(vm).stdout(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while !std::fs::read_to_string(world.path("serial")).is_ok_and(|text| text.contains("DISK OK")) {
        assert!(started.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(served);
    assert_eq!(vm.wait().unwrap().code(), Some(0));
    // One that nobody may write is one for VMs that keep their writes to themselves.
    std::fs::remove_file(world.path("boot.raw.sock")).unwrap_or_default();
    let served = serve(&world, "boot.raw", &["--read-only"]);
    world.fails(5, [&boot[..], &[&served.uri, "--until", "DISK OK"]].concat());
    world.ok([&boot[..], &[&served.uri, "--until", "DISK OK", "--discard-writes"]].concat());
}
