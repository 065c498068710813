//! The verbs of disk images: every format made, looked at, copied, compared and checked; passwords, consent, restore
//! points.

#![expect(clippy::unwrap_used, reason = "only tests use this")]

#[expect(dead_code, reason = "this file uses a part of it")]
mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{World, skip};

const FORMATS: [&str; 7] = ["strata", "raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx"];
/// What `qemu-img` calls ours.
const FOREIGN: [(&str, &str); 6] =
    [("raw", "raw"), ("qcow2", "qcow2"), ("vmdk", "vmdk"), ("vdi", "vdi"), ("vhd", "vpc"), ("vhdx", "vhdx")];
const MIB: u64 = 1 << 20;

fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// A sparse raw disk of 40 MiB: data at its start, its end, across boundaries of every format, and zeroes that are
/// stored.
fn sample(path: &Path) -> Vec<u8> {
    let file = std::fs::File::create(path).unwrap();
    file.set_len(40 * MIB).unwrap();
    let mut state = 1u64;
    for (at, len) in [(0, 4096), (65_024, 1536), (2 * MIB - 512, 1024), (9 * MIB, MIB), (40 * MIB - 512, 512)] {
        let data: Vec<u8> = (0..len)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect();
        file.write_all_at(&data, at).unwrap();
    }
    file.write_all_at(&vec![0; MIB as usize], 20 * MIB).unwrap();
    drop(file);
    std::fs::read(path).unwrap()
}

fn with<'a>(arguments: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [arguments, more].concat()
}

fn write_at(path: &Path, at: u64, data: &[u8]) {
    std::fs::File::options().write(true).open(path).unwrap().write_all_at(data, at).unwrap();
}

#[test]
fn an_image_of_every_format() {
    let world = World::new();
    for format in FORMATS {
        let file = format!("a.{format}");
        // By its extension, and by its word.
        world.ok(["disk", "create", &file, "--size", "64M"]);
        let other = format!("b-{format}");
        world.ok(["disk", "create", &other, "--size", "64M", "--format", format]);
        for (name, said) in [(file, ""), (other, if format == "raw" { ",format=raw" } else { "" })] {
            let (code, info) = world.json(["disk", "info", &format!("{name}{said}")]);
            assert_eq!((code, info["format"].as_str()), (0, Some(format)), "{info}");
            assert_eq!((&info["schema"], &info["size_bytes"]), (&"benchtop.disk.info/1".into(), &(64 * MIB).into()));
            assert_eq!(info["needs_repair"], false);
            world.fails(1, ["disk", "create", &name, "--size", "1M"]);
            let (code, map) = world.json(["disk", "map", &name]);
            assert_eq!((code, &map["data_bytes"], &map["zero_bytes"]), (0, &0.into(), &(64 * MIB).into()), "{map}");
            let (code, check) = world.json(["disk", "check", &name]);
            assert_eq!((code, &check["damages"], &check["leaks"]), (0, &0.into(), &0.into()), "{check}");
        }
    }
    world.ok(["disk", "create", "c.img", "--size", "1M"]);
    assert_eq!(world.json(["disk", "info", "c.img"]).1["format"], "raw");
    world.ok(["disk", "create", "nothing-known", "--size", "1M"]);
    assert_eq!(world.json(["disk", "info", "nothing-known"]).1["format"], "strata");
    // Nothing else was left behind.
    let names = std::fs::read_dir(world.path(".")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.filter(|name| name.to_string_lossy().starts_with('.')).count(), 0);
    assert_eq!(world.run(["disk", "create", "x", "--size", "1M", "--format", "tape"]).code, 2);
    world.fails(2, ["disk", "create", "x.vhd", "--size", "1M", "--encrypt"]);
    world.fails(2, ["disk", "create", "x.vhd", "--size", "1M", "--retention", "off"]);
    // A password makes no encrypted disk by itself.
    std::fs::write(world.path("password"), "secret").unwrap();
    let failed = world.fails(2, ["disk", "create", "x.strata", "--size", "1M", "--password-file", "password"]);
    assert!(failed.stderr.contains("--encrypt"), "{}", failed.stderr);
    world.fails(1, ["disk", "create", "x.vhd", "--size", "8T"]);
    assert!(!world.path("x").exists() && !world.path("x.vhd").exists());
}

#[test]
fn copies_in_every_format_hold_the_same() {
    let world = World::new();
    let content = sample(&world.path("source.img"));
    let qemu = has("qemu-img");
    if !qemu {
        skip("copies_in_every_format_hold_the_same", "no qemu-img: its word on our images is missing");
    }
    let mut last = "source.img".to_owned();
    // Each of the one before, so that every format is read and written.
    for format in FORMATS {
        let file = format!("copy.{format}");
        let (code, made) = world.json(["disk", "convert", &last, &file, "--verify"]);
        assert_eq!((code, &made["verified"], &made["format"]), (0, &true.into(), &format.into()), "{made}");
        let (code, compared) = world.json(["disk", "compare", "source.img", &file]);
        assert_eq!((code, &compared["equal"]), (0, &true.into()), "{format}: {compared}");
        world.ok(["disk", "check", &file]);
        // Zeroes are found, stored or not.
        assert!(made["written_bytes"].as_u64().unwrap() < 4 * MIB, "{made}");
        let (_, map) = world.json(["disk", "map", &file]);
        assert!(map["data_bytes"].as_u64().unwrap() < 16 * MIB, "{map}");
        if let Some((_, name)) = FOREIGN.iter().find(|(ours, _)| *ours == format && qemu) {
            let arguments = ["compare", "-f", "raw", "-F", name, "source.img", &file];
            let said = Command::new("qemu-img").args(arguments).current_dir(world.path(".")).output().unwrap();
            assert!(said.status.success(), "{format}: {}", String::from_utf8_lossy(&said.stdout));
        }
        last = file;
    }
    world.ok(["disk", "convert", &last, "back.raw"]);
    assert!(std::fs::read(world.path("back.raw")).unwrap()[..content.len()] == content);
    // One byte makes them different, and where is said.
    write_at(&world.path("back.raw"), 30 * MIB + 7, &[1]);
    let (code, compared) = world.json(["disk", "compare", "back.raw", "copy.strata"]);
    assert_eq!((code, &compared["first_difference"]), (1, &(30 * MIB + 7).into()), "{compared}");
    assert!(world.run(["disk", "compare", "back.raw", "source.img"]).stdout.contains("they differ"));
}

#[test]
fn what_qemu_writes_is_imported() {
    let test = "what_qemu_writes_is_imported";
    if !has("qemu-img") {
        return skip(test, "no qemu-img");
    }
    let world = World::new();
    sample(&world.path("source.img"));
    for (ours, theirs) in FOREIGN {
        let file = format!("from-qemu.{ours}");
        let arguments = ["convert", "-f", "raw", "-O", theirs, "source.img", &file];
        assert!(Command::new("qemu-img").args(arguments).current_dir(world.path(".")).status().unwrap().success());
        assert_eq!(world.json(["disk", "info", &file]).1["format"], ours);
        world.ok(["disk", "check", &file]);
        world.ok(["disk", "convert", &file, &format!("{ours}.strata"), "--verify"]);
        world.ok(["disk", "compare", "source.img", &format!("{ours}.strata")]);
    }
}

#[test]
fn a_target_is_replaced_only_by_force_and_never_in_use() {
    let world = World::new();
    sample(&world.path("source.img"));
    world.ok(["disk", "create", "target.strata", "--size", "1M"]);
    assert!(world.fails(1, ["disk", "convert", "source.img", "target.strata"]).stderr.contains("--force"));
    assert_eq!(world.json(["disk", "info", "target.strata"]).1["size_bytes"], MIB);
    world.ok(["disk", "convert", "source.img", "target.strata", "--force"]);
    assert_eq!(world.json(["disk", "info", "target.strata"]).1["size_bytes"], 40 * MIB);
    let held = std::fs::File::options().read(true).write(true).open(world.path("target.strata")).unwrap();
    assert!(benchtop_block::file::try_lock(&held, benchtop_block::file::Lock::Exclusive).unwrap());
    for arguments in [
        &["disk", "convert", "source.img", "target.strata", "--force"][..],
        &["disk", "convert", "target.strata", "x.raw"],
        &["disk", "check", "target.strata"],
        &["disk", "map", "target.strata"],
        &["disk", "snap", "list", "target.strata"],
        &["disk", "snap", "take", "target.strata", "x"],
        &["disk", "serve", "target.strata", "--socket", "x.sock"],
        &["disk", "compare", "source.img", "target.strata"],
        &["disk", "fork", "target.strata", "x.strata"],
    ] {
        world.fails(4, arguments);
    }
    // What it is may be asked all the same.
    let (code, info) = world.json(["disk", "info", "target.strata"]);
    assert_eq!((code, &info["in_use"]), (0, &true.into()));
    drop(held);
    world.ok(["disk", "check", "target.strata"]);
    world.fails(3, ["disk", "convert", "missing", "x.raw"]);
    world.fails(3, ["disk", "convert", "source.img", "missing/x.raw"]);
    world.fails(1, ["disk", "convert", "source.img", "library", "--force"]);
    // What looks like a VM's disk is not made as a file.
    world.ok(["new", "one", "--disk", "1M", "--memory", "64M"]);
    for arguments in [
        &["disk", "convert", "source.img", "one:disk0"][..],
        &["disk", "convert", "source.img", "one:disk7", "--force"],
        &["disk", "create", "one:disk1", "--size", "1M"],
    ] {
        world.fails(2, arguments);
    }
    assert!(!world.path("x.raw").exists());
}

#[test]
fn ctrl_c_leaves_no_half_copy() {
    let world = World::new();
    let path = world.path("source.img");
    let block: Vec<u8> = (0..MIB).map(|at| (at % 251) as u8 + 1).collect();
    std::fs::write(&path, block.repeat(512)).unwrap();
    let before = std::fs::read_dir(world.path(".")).unwrap().count();
    let mut command = world.command();
    command.args(["disk", "convert", "source.img", "target.strata", "--progress", "json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let first: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!((&first["schema"], &first["total_bytes"]), (&"benchtop.progress/1".into(), &(512 * MIB).into()));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let said: String = lines.map_while(Result::ok).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
    assert_eq!(std::fs::read_dir(world.path(".")).unwrap().count(), before);
}

#[test]
fn passwords_open_and_wrong_ones_do_not() {
    let world = World::new();
    sample(&world.path("source.img"));
    for (name, text) in [("right", "open sesame\n"), ("wrong", "please\n"), ("empty", "\n")] {
        std::fs::write(world.path(name), text).unwrap();
    }
    // Nobody to ask.
    world.fails(6, ["disk", "create", "e.strata", "--size", "40M", "--encrypt"]);
    world.fails(6, ["disk", "create", "e.strata", "--size", "40M", "--encrypt", "--password-file", "empty"]);
    assert!(!world.path("e.strata").exists());
    let right = ["--password-file", "right"];
    world.ok(with(&["disk", "convert", "source.img", "e.strata", "--encrypt", "--verify"], &right));
    for verb in [
        &["disk", "check", "e.strata"][..],
        &["disk", "map", "e.strata"],
        &["disk", "convert", "e.strata", "x.raw"],
        &["disk", "compare", "source.img", "e.strata"],
        &["disk", "snap", "list", "e.strata"],
        &["disk", "snap", "take", "e.strata", "one"],
        &["disk", "serve", "e.strata", "--socket", "x.sock"],
        &["disk", "fork", "e.strata", "x.strata"],
    ] {
        let none = world.fails(6, verb);
        assert!(none.stderr.contains("--password-file"), "{}", none.stderr);
        world.fails(6, with(verb, &["--password-file", "wrong"]));
        world.fails(3, with(verb, &["--password-file", "missing"]));
    }
    world.ok(with(&["disk", "compare", "source.img", "e.strata"], &right));
    world.ok(with(&["disk", "check", "e.strata"], &right));
    // Of two disks each has its own.
    world.ok(["disk", "convert", "source.img", "f.strata", "--encrypt", "--new-password-file", "wrong"]);
    let both = with(&["disk", "compare", "e.strata", "f.strata"], &right);
    assert!(world.fails(6, both.clone()).stderr.contains("--other-password-file"));
    world.ok(with(&both, &["--other-password-file", "wrong"]));
    world.fails(6, with(&both, &["--other-password-file", "right"]));
    world.ok(["disk", "compare", "source.img", "f.strata", "--other-password-file", "wrong"]);
    let (_, info) = world.json(["disk", "info", "e.strata"]);
    assert_eq!(
        (&info["encrypted"], &info["size_bytes"], &info["points"]),
        (&true.into(), &(40 * MIB).into(), &None::<u8>.into())
    );
    assert!(world.json(with(&["disk", "info", "e.strata"], &right)).1["points"].is_u64());
    world.fails(6, ["disk", "info", "e.strata", "--password-file", "wrong"]);
    // A descriptor does as well, and nothing of the source is in the file.
    let script = "exec \"$0\" disk convert e.strata plain.raw --password-fd 3 3<right";
    let program = env!("CARGO_BIN_EXE_benchtop");
    let status = Command::new("sh").args(["-c", script, program]).current_dir(world.path(".")).output().unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    assert!(String::from_utf8_lossy(&status.stderr).contains("warning"), "it says that the copy is not encrypted");
    let (plain, sealed) =
        (std::fs::read(world.path("plain.raw")).unwrap(), std::fs::read(world.path("e.strata")).unwrap());
    assert!(plain == std::fs::read(world.path("source.img")).unwrap());
    let piece = &plain[9 << 20..(9 << 20) + 64];
    assert!(!sealed.windows(piece.len()).any(|window| window == piece));
    // A fork is encrypted with the same password, and another one can be given.
    world.ok(with(&["disk", "fork", "e.strata", "same.strata"], &right));
    world.ok(with(&["disk", "compare", "source.img", "same.strata"], &right));
    world.ok(with(&["disk", "fork", "e.strata", "other.strata", "--new-password-file", "wrong"], &right));
    world.fails(6, with(&["disk", "check", "other.strata"], &right));
    world.ok(["disk", "check", "other.strata", "--password-file", "wrong"]);
    world.fails(2, with(&["disk", "fork", "e.strata", "x.qcow2"], &right));
}

#[test]
fn snapshots_are_taken_gone_to_and_removed() {
    let world = World::new();
    sample(&world.path("one.img"));
    sample(&world.path("two.img"));
    write_at(&world.path("two.img"), 5 * MIB, b"another state");
    world.ok(["disk", "convert", "one.img", "d.strata"]);
    world.ok(["disk", "snap", "take", "d.strata", "before"]);
    world.fails(1, ["disk", "snap", "take", "d.strata", "before"]);
    world.fails(2, ["disk", "snap", "take", "d.strata", "#7"]);
    // Something changes: through NBD, as a guest would.
    if !has("qemu-io") {
        return skip("snapshots_are_taken_gone_to_and_removed", "no qemu-io to write to a disk");
    }
    let mut server = Serving::start(&world, &["disk", "serve", "d.strata", "--socket", "s.sock"]);
    let write = Command::new("qemu-io")
        .args(["-f", "raw", "-c", "write -P 7 5M 64k", "-c", "flush", &server.uri])
        .output()
        .unwrap();
    assert!(write.status.success(), "{}", String::from_utf8_lossy(&write.stderr));
    server.end();
    assert_eq!(world.run(["disk", "compare", "one.img", "d.strata"]).code, 1);
    world.ok(["disk", "snap", "take", "d.strata", "after"]);
    let (_, list) = world.json(["disk", "snap", "list", "d.strata"]);
    assert_eq!(list["schema"], "benchtop.disk.snap.list/1");
    let points = list["points"].as_array().unwrap();
    let named: Vec<&str> = points.iter().filter_map(|point| point["name"].as_str()).collect();
    assert_eq!(named, ["before", "after"]);
    assert!(points.iter().all(|point| point["time"].as_str().unwrap().ends_with('Z')));
    // A fork of the past shares nothing with it.
    world.ok(["disk", "fork", "d.strata", "past.strata", "--snapshot", "before", "--verify"]);
    world.ok(["disk", "compare", "one.img", "past.strata"]);
    world.ok(["disk", "snap", "go", "d.strata", "before"]);
    world.ok(["disk", "compare", "one.img", "d.strata"]);
    world.ok(["disk", "check", "d.strata"]);
    // One can always go forward again.
    let number = points.iter().find(|point| point["name"] == "after").unwrap()["number"].as_u64().unwrap();
    world.ok(["disk", "snap", "go", "d.strata", "--at", &format!("#{number}")]);
    assert_eq!(world.run(["disk", "compare", "one.img", "d.strata"]).code, 1);
    world.ok(["disk", "snap", "go", "d.strata", "--at", "2999-01-01T00:00:00Z"]);
    world.fails(3, ["disk", "snap", "go", "d.strata", "--at", "1999-01-01T00:00:00Z"]);
    world.fails(3, ["disk", "snap", "go", "d.strata", "never"]);
    world.fails(3, ["disk", "snap", "go", "d.strata", "--at", "#999999"]);
    assert_eq!(world.run(["disk", "snap", "go", "d.strata", "--at", "someday"]).code, 2);
    // Without restore points, what it holds now becomes a snapshot first.
    world.ok(["disk", "create", "off.strata", "--size", "40M", "--retention", "off"]);
    world.ok(["disk", "snap", "take", "off.strata", "first"]);
    world.ok(["disk", "snap", "go", "off.strata", "first"]);
    let (_, retention) = world.json(["disk", "retention", "off.strata"]);
    assert_eq!((&retention["schema"], &retention["every_flush"]), (&"benchtop.disk.retention/1".into(), &false.into()));
    world.ok(["disk", "retention", "off.strata", "all=2h"]);
    let (_, retention) = world.json(["disk", "retention", "off.strata", "show"]);
    assert_eq!((&retention["every_flush"], &retention["all_ns"]), (&true.into(), &7_200_000_000_000u64.into()));
    world.fails(2, ["disk", "retention", "off.strata", "for ever"]);
    world.fails(1, ["disk", "retention", "one.img", "off"]);
    let (_, compacted) = world.json(["disk", "compact", "d.strata"]);
    assert!(compacted["used_bytes"].as_u64() <= compacted["used_bytes_before"].as_u64(), "{compacted}");
    world.ok(["disk", "check", "d.strata"]);
    let (_, kept) = world.json(["disk", "snap", "list", "off.strata"]);
    assert!(kept["points"][1]["name"].as_str().unwrap().starts_with("before going to first"), "{kept}");
    world.ok(["disk", "snap", "rm", "d.strata", "before"]);
    world.fails(3, ["disk", "snap", "rm", "d.strata", "before"]);
    world.ok(["disk", "check", "d.strata"]);
    world.fails(1, ["disk", "snap", "list", "one.img"]);
}

/// A server in a child process.
struct Serving {
    child: std::process::Child,
    uri: String,
}

impl Serving {
    fn start(world: &World, arguments: &[&str]) -> Self {
        let mut child = world.command().args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut uri = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut uri).unwrap();
        Self { child, uri: uri.trim().to_owned() }
    }

    /// Asks it to end, which it does well.
    fn end(&mut self) {
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success());
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let (_killed, _ended) = (self.child.kill(), self.child.wait());
    }
}

#[test]
fn real_clients_use_a_served_disk() {
    let test = "real_clients_use_a_served_disk";
    if !["qemu-img", "qemu-io", "nbdinfo", "nbdcopy"].into_iter().all(has) {
        return skip(test, "qemu-img, qemu-io, nbdinfo or nbdcopy is missing");
    }
    let world = World::new();
    sample(&world.path("source.img"));
    std::fs::write(world.path("key"), "secret").unwrap();
    let client = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(world.path(".")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program} {arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let password = ["--password-file", "key"];
    for (name, encrypt, password) in
        [("plain.strata", &[][..], &[][..]), ("sealed.strata", &["--encrypt"], &password), ("x.qcow2", &[], &[])]
    {
        world.ok([&["disk", "create", name, "--size", "40M"], encrypt, password].concat());
        let serve = [&["disk", "serve", name, "--socket", "a b.sock", "--cache", "writeback"], password].concat();
        let mut server = Serving::start(&world, &serve);
        assert!(server.uri.starts_with("nbd+unix:///?socket=/") && server.uri.contains("%20"), "{}", server.uri);
        // The disk is in use, and so is the socket.
        world.fails(4, [&["disk", "check", name], password].concat());
        world.fails(4, ["disk", "serve", "source.img", "--socket", "a b.sock"]);
        let facts: serde_json::Value = serde_json::from_str(&client("nbdinfo", &["--json", &server.uri])).unwrap();
        let export = &facts["exports"][0];
        assert_eq!((&export["export-size"], &export["can_multi_conn"]), (&(40 * MIB).into(), &true.into()), "{facts}");
        client("nbdcopy", &["--flush", "source.img", &server.uri]);
        client("qemu-img", &["compare", "-f", "raw", "-F", "raw", "source.img", &server.uri]);
        client("nbdcopy", &[&server.uri, "back.img"]);
        assert!(std::fs::read(world.path("back.img")).unwrap() == std::fs::read(world.path("source.img")).unwrap());
        client("qemu-io", &["-f", "raw", "-c", "write -P 9 1M 1M", "-c", "discard 9M 1M", "-c", "flush", &server.uri]);
        client("qemu-io", &["-f", "raw", "-c", "read -P 9 1M 1M", "-c", "read -P 0 9M 1M", &server.uri]);
        server.end();
        assert!(!world.path("a b.sock").exists());
        world.ok([&["disk", "check", name], password].concat());
        assert_eq!(world.run([&["disk", "compare", "source.img", name], password].concat()).code, 1);
    }
    let mut server =
        Serving::start(&world, &["disk", "serve", "plain.strata", "--listen", "127.0.0.1:0", "--read-only"]);
    assert!(server.uri.starts_with("nbd://127.0.0.1:"), "{}", server.uri);
    let facts: serde_json::Value = serde_json::from_str(&client("nbdinfo", &["--json", &server.uri])).unwrap();
    assert_eq!(facts["exports"][0]["is_read_only"], true, "{facts}");
    server.end();
    world.fails(2, ["disk", "serve", "plain.strata", "--listen", "0.0.0.0:0"]);
    assert_eq!(world.run(["disk", "serve", "plain.strata"]).code, 2);
}

#[test]
fn files_that_an_image_names_need_consent() {
    let test = "files_that_an_image_names_need_consent";
    if !has("qemu-img") {
        return skip(test, "no qemu-img");
    }
    let world = World::new();
    std::fs::create_dir(world.path("images")).unwrap();
    sample(&world.path("images/base.img"));
    sample(&world.path("outside.img"));
    std::os::unix::fs::symlink("../outside.img", world.path("images/link.img")).unwrap();
    let make = |name: &str, base: &str| {
        let arguments = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, name, "40M"];
        let made = Command::new("qemu-img").args(arguments).current_dir(world.path("images")).status().unwrap();
        assert!(made.success());
    };
    make("inside.qcow2", "base.img");
    make("outside.qcow2", "../outside.img");
    make("link.qcow2", "link.img");
    assert_eq!(world.json(["disk", "info", "images/inside.qcow2"]).1["backing"], "base.img");
    let run = |image: &str, more: &[&str]| world.run([&["disk", "compare", "outside.img", image], more].concat());
    let refused = run("images/inside.qcow2", &[]);
    assert!(refused.code == 1 && refused.stderr.contains("--yes"), "{}", refused.stderr);
    assert_eq!(run("images/inside.qcow2", &["--yes"]).code, 0);
    assert_eq!(run("images/inside.qcow2", &["--allow-file", "images/base.img"]).code, 0);
    for image in ["images/outside.qcow2", "images/link.qcow2"] {
        let refused = run(image, &["--yes"]);
        assert!(refused.code != 0 && refused.stderr.contains("why:"), "{image}: {}", refused.stderr);
        assert_eq!(run(image, &["--allow-file", "outside.img"]).code, 0, "{image}");
    }
    assert!(run("images/outside.qcow2", &["--yes"]).stderr.contains("--allow-file"));
    // A disk that consists of several files.
    let arguments =
        ["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", "base.img", "split.vmdk"];
    assert!(Command::new("qemu-img").args(arguments).current_dir(world.path("images")).status().unwrap().success());
    assert_eq!(run("images/split.vmdk", &[]).code, 1);
    assert_eq!(run("images/split.vmdk", &["--yes"]).code, 0);
    // Its first file is a short text.
    world.ok(["disk", "info", "images/split.vmdk"]);
}

/// Its snapshots stay; its other restore points go with consent only.
#[test]
fn restore_points_go_with_consent() {
    let world = World::new();
    sample(&world.path("source.img"));
    world.ok(["disk", "convert", "source.img", "d.strata"]);
    world.ok(["disk", "snap", "take", "d.strata", "kept"]);
    let names = || {
        let (_, list) = world.json(["disk", "snap", "list", "d.strata"]);
        list["points"].as_array().unwrap().iter().map(|point| point["name"].clone()).collect::<Vec<_>>()
    };
    let before = names();
    assert!(before.iter().any(serde_json::Value::is_null) && before.contains(&"kept".into()), "{before:?}");
    let refused = world.fails(2, ["disk", "retention", "d.strata", "off"]);
    assert!(refused.stderr.contains("restore point") && refused.stderr.contains("--yes"), "{}", refused.stderr);
    world.fails(2, ["disk", "retention", "d.strata", "all=0s,hourly=0s,budget=1%,least=0"]);
    assert_eq!(names(), before);
    // What takes none away needs none.
    world.ok(["disk", "retention", "d.strata", "all=2d"]);
    world.ok(["disk", "retention", "d.strata", "off", "--yes"]);
    assert_eq!(names(), ["kept"]);
    world.ok(["disk", "retention", "d.strata", "off"]);
}

/// Strata's were everybody's to read.
#[test]
fn disks_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    sample(&world.path("source.img"));
    for format in FORMATS {
        world.ok(["disk", "create", &format!("a.{format}"), "--size", "40M"]);
        world.ok(["disk", "convert", "source.img", &format!("b.{format}")]);
    }
    world.ok(["disk", "fork", "b.strata", "c.strata"]);
    world.ok(["new", "one", "--disk", "1M", "--disk", "1M,format=raw", "--memory", "64M"]);
    let disks =
        FORMATS.iter().flat_map(|format| [world.path(&format!("a.{format}")), world.path(&format!("b.{format}"))]);
    let vm = ["disks/disk0.strata", "disks/disk1.raw"].map(|name| world.bundle("one").join(name));
    for path in disks.chain(vm).chain([world.path("c.strata")]) {
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
    }
}

/// They stayed for ever.
#[test]
fn what_a_killed_copy_leaves_goes_with_the_next() {
    let world = World::new();
    let block: Vec<u8> = (0..MIB).map(|at| (at % 251) as u8 + 1).collect();
    std::fs::write(world.path("source.img"), block.repeat(512)).unwrap();
    let hidden = || {
        let names = std::fs::read_dir(world.path(".")).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with(".benchtop-")).count()
    };
    let mut command = world.command();
    command.args(["disk", "convert", "source.img", "target.strata", "--progress", "json"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut first).unwrap();
    // While it works, it is left alone.
    let said = world.ok(["disk", "create", "one.strata", "--size", "1M"]).stderr;
    let stays = child.try_wait().unwrap().is_none().then(hidden);
    child.kill().unwrap();
    child.wait().unwrap();
    if stays != Some(1) {
        return skip("what_a_killed_copy_leaves_goes_with_the_next", "the copy was done too early");
    }
    assert!(!said.contains("removed"), "{said}");
    assert!(!world.path("target.strata").exists() && hidden() == 1);
    let said = world.ok(["disk", "create", "two.strata", "--size", "1M"]).stderr;
    assert!(said.contains("removed ") && said.contains(".benchtop-"), "{said}");
    assert_eq!(hidden(), 0);
}

#[test]
fn damage_has_exit_codes() {
    let world = World::new();
    sample(&world.path("source.img"));
    world.ok(["disk", "convert", "source.img", "d.strata"]);
    // A bit of stored data.
    let content = std::fs::read(world.path("d.strata")).unwrap();
    let source = std::fs::read(world.path("source.img")).unwrap();
    let piece = &source[9 << 20..(9 << 20) + 64];
    let at = content.windows(piece.len()).position(|window| window == piece).unwrap();
    write_at(&world.path("d.strata"), at as u64 + 5, &[!content[at + 5]]);
    let (code, check) = world.json(["disk", "check", "d.strata"]);
    assert_eq!((code, &check["damages"]), (10, &1.into()), "{check}");
    assert!(world.run(["disk", "check", "d.strata"]).stdout.contains("damage"));
    // It is an error and never data.
    world.fails(7, ["disk", "convert", "d.strata", "x.raw"]);
    assert!(!world.path("x.raw").exists());
    // Both superblocks.
    for at in [0, 64 << 10] {
        write_at(&world.path("d.strata"), at + 100, &[0xff; 64]);
    }
    let gone = world.run(["disk", "check", "d.strata"]);
    assert!([1, 7, 10].contains(&gone.code), "{}", gone.stderr);
    for format in ["qcow2", "vdi", "vhdx", "vmdk"] {
        let name = format!("cut.{format}");
        world.ok(["disk", "convert", "source.img", &name]);
        let file = std::fs::File::options().write(true).open(world.path(&name)).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        let run = world.run(["disk", "check", &name]);
        assert_eq!(run.code, 10, "{name}: {}{}", run.stdout, run.stderr);
    }
}

#[test]
fn disks_become_larger_and_with_consent_smaller() {
    let world = World::new();
    for name in ["a.raw", "a.qcow2", "a.vdi", "a.vhdx"] {
        world.ok(["disk", "create", name, "--size", "40M"]);
        world.ok(["disk", "resize", name, "80M"]);
        let size = || world.json(["disk", "info", name]).1["size_bytes"].as_u64().unwrap();
        assert_eq!(size(), 80 * MIB, "{name}");
        // Where no consent helps, none is asked for.
        let (code, fix) = if ["a.raw", "a.qcow2"].contains(&name) { (2, "--shrink") } else { (1, "disk convert") };
        let refused = world.fails(code, ["disk", "resize", name, "40M"]);
        assert!(refused.stderr.contains(fix), "{}", refused.stderr);
        assert_eq!(size(), 80 * MIB, "{name}");
        world.fails(2, ["disk", "resize", name, "0"]);
    }
    for name in ["a.raw", "a.qcow2"] {
        world.ok(["disk", "resize", name, "40M", "--shrink"]);
        world.ok(["disk", "check", name]);
    }
    world.fails(1, ["disk", "resize", "a.vdi", "40M", "--shrink"]);
}
