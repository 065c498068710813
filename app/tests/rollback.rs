//! A VM remembers its disks: an older copy, another disk, or a plain one in the place of an encrypted one is refused, and
//! a good disk never is, whenever a process was killed.

#![expect(clippy::unwrap_used, reason = "only tests use this")]

#[expect(dead_code, reason = "this file uses a part of it")]
mod common;
mod guest;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Run, World, can_run_vms};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

const ACCEPT: [&str; 4] = ["disk", "check", "one:disk0", "--accept-rollback"];

/// A world with a VM `one` of two disks that were in use.
fn world(options: &[&str]) -> World {
    let world = World::new();
    std::fs::write(world.path("key"), "password one\n").unwrap();
    let new = ["new", "one", "--disk", "8M", "--disk", "8M", "--memory", "64M", "--cpus", "1"];
    world.ok([&new[..], options].concat());
    world
}

fn disk(world: &World, index: u32) -> PathBuf {
    world.bundle("one").join(format!("disks/disk{index}.strata"))
}

fn record(world: &World) -> PathBuf {
    world.bundle("one").join("state/disk0.identity")
}

fn refused(world: &World, arguments: &[&str]) -> Run {
    let run = world.fails(7, arguments);
    assert!(run.stderr.contains("benchtop disk check 'one:disk0' --accept-rollback"), "{}", run.stderr);
    run
}

/// Every verb that opens the disk.
fn verbs() -> Vec<Vec<&'static str>> {
    let verbs = [
        "disk check one:disk0",
        "disk info one:disk0",
        "disk map one:disk0",
        "disk compact one:disk0",
        "disk resize one:disk0 16M",
        "disk repair one:disk0 --yes",
        "disk snap take one:disk0 name",
        "disk snap list one:disk0",
        "disk snap rm one:disk0 #1",
        "disk snap go one:disk0 --at #1",
        "disk retention one:disk0 off --yes",
        "disk convert one:disk0 out.raw",
        "disk compare one:disk0 one:disk1",
        "disk compare one:disk1 one:disk0",
        "disk fork one:disk0 fork.strata",
        "disk serve one:disk0 --socket nbd.sock",
        "crypt status one:disk0",
        "crypt verify one:disk0",
        "crypt enable one --new-password-file key",
    ];
    verbs.iter().map(|line| line.split(' ').collect()).collect()
}

#[test]
fn an_old_copy_is_refused_until_it_is_accepted() {
    let world = world(&[]);
    let old = std::fs::read(disk(&world, 0)).unwrap();
    world.ok(["disk", "snap", "take", "one:disk0", "first"]);
    let kept = std::fs::read(disk(&world, 0)).unwrap();
    std::fs::write(disk(&world, 0), &old).unwrap();
    let before = world.snapshot();
    for verb in verbs() {
        let run = refused(&world, &verb);
        assert!(run.stderr.contains("older copy"), "{verb:?}: {}", run.stderr);
    }
    if can_run_vms("an_old_copy_is_refused_until_it_is_accepted") {
        refused(&world, &["start", "one"]);
        std::fs::remove_file(world.bundle("one").join("logs/monitor.log")).unwrap();
    }
    let without_lock = |files: Vec<(PathBuf, Vec<u8>)>| -> Vec<(PathBuf, Vec<u8>)> {
        files.into_iter().filter(|(path, _)| !path.ends_with("lock")).collect()
    };
    assert!(without_lock(world.snapshot()) == without_lock(before), "something was changed");
    // The file by itself is a file like any other.
    world.ok([std::ffi::OsStr::new("disk"), "check".as_ref(), disk(&world, 0).as_os_str()]);
    world.ok(ACCEPT);
    world.ok(["disk", "snap", "take", "one:disk0", "second"]);
    // The newer one is welcome back.
    std::fs::write(disk(&world, 0), &kept).unwrap();
    let now = world.run(["disk", "check", "one:disk0"]);
    assert!([0, 7].contains(&now.code), "{}", now.stderr);
    world.ok(ACCEPT);
    assert!(world.ok(["disk", "snap", "list", "one:disk0"]).stdout.contains("first"));
    // A bundle outside of the library is named by its path.
    std::fs::rename(world.bundle("one"), world.path("one.benchtop")).unwrap();
    std::fs::write(world.path("one.benchtop/disks/disk0.strata"), &old).unwrap();
    let failed = world.fails(7, ["disk", "check", "./one.benchtop:disk0"]);
    assert!(failed.stderr.contains("'./one.benchtop:disk0' --accept-rollback"), "{}", failed.stderr);
    if can_run_vms("an_old_copy_is_refused_until_it_is_accepted") {
        let failed = world.fails(7, ["start", "./one.benchtop"]);
        let name = format!("'{}:disk0' --accept-rollback", world.path("one.benchtop").display());
        assert!(failed.stderr.contains(&name), "{}", failed.stderr);
    }
    // Of what nobody remembers nothing can be accepted.
    world.ok(["disk", "create", "alone.strata", "--size", "1M"]);
    world.fails(2, ["disk", "check", "alone.strata", "--accept-rollback"]);
}

#[test]
fn another_disk_is_refused_and_can_not_be_accepted() {
    let world = world(&[]);
    std::fs::rename(disk(&world, 0), world.path("x")).unwrap();
    std::fs::rename(disk(&world, 1), disk(&world, 0)).unwrap();
    std::fs::rename(world.path("x"), disk(&world, 1)).unwrap();
    for verb in verbs() {
        world.fails(7, &verb);
    }
    refused(&world, &ACCEPT);
    world.fails(7, ["disk", "check", "one:disk1", "--accept-rollback"]);
    std::fs::rename(disk(&world, 0), world.path("x")).unwrap();
    std::fs::rename(disk(&world, 1), disk(&world, 0)).unwrap();
    std::fs::rename(world.path("x"), disk(&world, 1)).unwrap();
    world.ok(["disk", "compare", "one:disk0", "one:disk1"]);
    // No disk at all.
    let kept = std::fs::read(disk(&world, 0)).unwrap();
    std::fs::write(disk(&world, 0), vec![0; 1 << 20]).unwrap();
    refused(&world, &["disk", "check", "one:disk0"]);
    refused(&world, &ACCEPT);
    std::fs::write(disk(&world, 0), kept).unwrap();
    world.ok(["disk", "check", "one:disk0"]);
    // A disk that was taken out of the VM is no more remembered.
    world.ok(["detach", "one", "disk0"]);
    assert!(!record(&world).exists());
}

/// The same disk from before it was encrypted has its UUID, and takes no password.
#[test]
fn a_plain_disk_in_the_place_of_an_encrypted_one_is_refused() {
    let world = world(&[]);
    let plain = std::fs::read(disk(&world, 0)).unwrap();
    world.ok(["crypt", "enable", "one:disk0", "--new-password-file", "key", "--yes"]);
    let encrypted = std::fs::read(disk(&world, 0)).unwrap();
    std::fs::write(disk(&world, 0), &plain).unwrap();
    refused(&world, &["disk", "check", "one:disk0"]);
    refused(&world, &["disk", "check", "one:disk0", "--password-file", "key"]);
    refused(&world, &ACCEPT);
    std::fs::write(disk(&world, 0), &encrypted).unwrap();
    world.ok(["disk", "check", "one:disk0", "--password-file", "key"]);
    // Decrypted by its owner it is as good as before.
    world.ok(["crypt", "disable", "one:disk0", "--password-file", "key", "--yes"]);
    world.ok(["disk", "check", "one:disk0"]);
    std::fs::write(disk(&world, 0), &encrypted).unwrap();
    world.fails(7, ["disk", "check", "one:disk0", "--password-file", "key"]);
}

#[test]
fn a_record_that_can_not_be_used_is_no_reason_to_do_without() {
    let world = world(&[]);
    let whole = std::fs::read_to_string(record(&world)).unwrap();
    let hostile =
        ["", "{", "\u{0}", "[[[[[[[[", &whole.replace("1", "2"), &whole.replace(':', ": -"), &" ".repeat(1 << 16)];
    for content in hostile {
        std::fs::write(record(&world), content).unwrap();
        for verb in [&["disk", "check", "one:disk0"][..], &["disk", "snap", "take", "one:disk0", "x"]] {
            refused(&world, verb);
        }
    }
    std::fs::File::create(record(&world)).unwrap().set_len(1 << 40).unwrap();
    refused(&world, &["disk", "check", "one:disk0"]);
    std::fs::remove_file(record(&world)).unwrap();
    common::fifo(&record(&world));
    refused(&world, &["disk", "check", "one:disk0"]);
    std::fs::remove_file(record(&world)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", record(&world)).unwrap();
    refused(&world, &["disk", "check", "one:disk0"]);
    world.ok(ACCEPT);
    assert!(std::fs::symlink_metadata(record(&world)).unwrap().is_file());
    world.ok(["disk", "check", "one:disk0"]);
    // A bundle from before there were records.
    std::fs::remove_dir_all(world.bundle("one").join("state")).unwrap();
    world.ok(["disk", "check", "one:disk0"]);
    assert!(!record(&world).exists());
    world.ok(["disk", "snap", "take", "one:disk0", "x"]);
    assert!(record(&world).exists());
}

#[test]
fn a_bundle_is_moved_copied_and_restored_as_a_whole() {
    let world = world(&[]);
    let copy = |from: PathBuf, to: PathBuf| {
        assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    };
    copy(world.bundle("one"), world.path("backup"));
    copy(world.bundle("one"), world.bundle("two"));
    world.ok(["disk", "snap", "take", "one:disk0", "x"]);
    world.ok(["disk", "snap", "take", "two:disk0", "y"]);
    std::fs::rename(world.bundle("one"), world.bundle("three")).unwrap();
    world.ok(["disk", "snap", "take", "three:disk0", "z"]);
    std::fs::remove_dir_all(world.bundle("three")).unwrap();
    copy(world.path("backup"), world.bundle("one"));
    world.ok(["disk", "snap", "take", "one:disk0", "x"]);
}

/// What is damaged may be the newest state: giving it up makes the disk older, with consent.
#[test]
fn a_repair_may_make_a_disk_older() {
    use std::os::unix::fs::FileExt;
    let world = world(&[]);
    world.ok(["disk", "snap", "take", "one:disk0", "first"]);
    // The head that the newer superblock names (format.md, "Superblock" and "Head").
    let file = std::fs::File::options().read(true).write(true).open(disk(&world, 0)).unwrap();
    let superblock = |offset| {
        let mut bytes = [0; 64];
        file.read_exact_at(&mut bytes, offset).unwrap();
        (u64::from_le_bytes(bytes[32..40].try_into().unwrap()), bytes[13])
    };
    let (generation, area) = superblock(0).max(superblock(64 << 10));
    // As if it had been recorded a moment later.
    let mut recorded: serde_json::Value = serde_json::from_slice(&std::fs::read(record(&world)).unwrap()).unwrap();
    recorded["generation"] = generation.into();
    std::fs::write(record(&world), recorded.to_string()).unwrap();
    world.ok(["disk", "check", "one:disk0"]);
    let head = [1 << 20, 65 << 20][usize::from(area)];
    let mut byte = [0];
    file.read_exact_at(&mut byte, head + 20).unwrap();
    file.write_all_at(&[byte[0] ^ 1], head + 20).unwrap();
    let failed = refused(&world, &["disk", "check", "one:disk0"]);
    assert!(failed.stderr.contains("disk repair"), "{}", failed.stderr);
    let looked = world.run(["disk", "repair", "one:disk0"]);
    assert_eq!(looked.code, 10, "{}{}", looked.stdout, looked.stderr);
    refused(&world, &["disk", "snap", "take", "one:disk0", "x"]);
    world.ok(["disk", "repair", "one:disk0", "--yes"]);
    world.ok(["disk", "check", "one:disk0"]);
    world.ok(["disk", "snap", "take", "one:disk0", "x"]);
}

/// Runs the program and kills it after a while; whether it was still running.
fn killed_after(world: &World, micros: u64, arguments: &[&str]) -> bool {
    let mut child = world.command().args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_micros(micros));
    child.kill().unwrap();
    child.wait().unwrap().code().is_none()
}

#[test]
fn a_verb_that_is_killed_leaves_a_disk_that_opens() {
    let world = world(&[]);
    let mut killed = 0;
    for round in 0..60 {
        let name = format!("s{round}");
        let verb = match round % 3 {
            0 => vec!["disk", "snap", "take", "one:disk0", &name],
            1 => vec!["disk", "compact", "one:disk0"],
            _ => vec!["disk", "resize", "one:disk0", if round % 2 == 0 { "8M" } else { "9M" }, "--shrink"],
        };
        killed += usize::from(killed_after(&world, 1000 + round * 500, &verb));
        world.ok(["disk", "check", "one:disk0"]);
    }
    assert!(killed > 5, "{killed}");
}

#[test]
fn a_conversion_that_is_killed_leaves_a_disk_that_opens() {
    let world = world(&[]);
    let mut killed = 0;
    for round in 0..7 {
        let enable = ["crypt", "enable", "one:disk0", "--new-password-file", "key", "--password-file", "key", "--yes"];
        let disable = ["crypt", "disable", "one:disk0", "--password-file", "key", "--yes"];
        for verb in [&enable[..], &disable] {
            killed += usize::from(killed_after(&world, 200_000 + round * 250_000, verb));
            let checked = world.run(["disk", "check", "one:disk0", "--password-file", "key"]);
            assert_eq!(checked.code, 0, "{verb:?} killed in round {round}: {}", checked.stderr);
            // To its end, so that the other way can begin.
            let ended = world.run(verb);
            assert!([0, 4].contains(&ended.code), "{}", ended.stderr);
        }
    }
    assert!(killed > 2, "{killed}");
}

#[test]
fn a_monitor_that_is_killed_leaves_disks_that_open() {
    if !can_run_vms("a_monitor_that_is_killed_leaves_disks_that_open") {
        return;
    }
    let world = world(&[]);
    // A guest that writes without end.
    let mut content = guest::boot_sector(3);
    content.resize(1 << 20, 0);
    std::fs::write(world.path("boot.raw"), content).unwrap();
    let mut server =
        world.command().args(["disk", "serve", "one:disk0", "--socket", "s"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut uri = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut uri).unwrap();
    world.ok(["disk", "convert", "boot.raw", uri.trim(), "--force"]);
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    assert!(server.wait().unwrap().success());
    let number = |world: &World| {
        let recorded: serde_json::Value = serde_json::from_slice(&std::fs::read(record(world)).unwrap()).unwrap();
        recorded["record"].as_u64().unwrap()
    };
    let before = number(&world);
    for round in 0..8u64 {
        std::fs::remove_file(world.path("serial")).unwrap_or_default();
        world.ok(["start", "one", "--serial", "serial"]);
        let (_, shown) = world.json(["show", "one"]);
        let pid = i32::try_from(shown["pid"].as_u64().unwrap()).unwrap();
        // In its firmware, or while the guest writes.
        let writes = || std::fs::read_to_string(world.path("serial")).is_ok_and(|text| text.contains("DISK OK"));
        let started = Instant::now();
        while round % 2 == 1 && !writes() {
            assert!(started.elapsed() < Duration::from_secs(60), "the guest does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(round * 60));
        let pid = Pid::from_raw(pid).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        while test_kill_process(pid).is_ok() && world.run(["disk", "check", "one:disk0"]).code == 4 {
            std::thread::sleep(Duration::from_millis(10));
        }
        world.ok(["disk", "check", "one:disk0"]);
    }
    // An opening takes a number or two, and each write one.
    world.ok(["disk", "snap", "take", "one:disk0", "after"]);
    assert!(number(&world) > before + 40, "the guest wrote little: {before}, {}", number(&world));
    // Killed while it starts, too.
    for round in 0..12 {
        killed_after(&world, 5_000 + round * 4_000, &["start", "one"]);
        world.run(["stop", "one", "--force"]);
    }
    // A clean end is recorded, and an older copy of both disks is then noticed at the start.
    let old = std::fs::read(disk(&world, 0)).unwrap();
    world.ok(["start", "one"]);
    world.ok(["stop", "one", "--force"]);
    world.ok(["disk", "check", "one:disk0"]);
    std::fs::write(disk(&world, 0), old).unwrap();
    refused(&world, &["start", "one"]);
    world.ok(ACCEPT);
    world.ok(["start", "one"]);
    world.ok(["stop", "one", "--force"]);
}
