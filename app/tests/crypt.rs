//! The life of a Strata disk: encrypted in place, its passwords, decrypted; resized; repaired.

#![expect(clippy::unwrap_used, reason = "only tests use this")]

#[expect(dead_code, reason = "this file uses a part of it")]
mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Run, World};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// A raw disk whose every 512 bytes are different.
fn sample(path: &Path, mib: u64) -> Vec<u8> {
    let words = (0..mib * MIB / 8).flat_map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1).to_le_bytes());
    let content: Vec<u8> = words.collect();
    std::fs::write(path, &content).unwrap();
    content
}

/// A world with passwords in files `one`, `two`, `three` and `wrong`, and a disk `d.strata` of `source.img`.
fn world(mib: u64) -> World {
    let world = World::new();
    for name in ["one", "two", "three", "wrong"] {
        std::fs::write(world.path(name), format!("password {name}\n")).unwrap();
    }
    sample(&world.path("source.img"), mib);
    world.ok(["disk", "convert", "source.img", "d.strata"]);
    world
}

/// The arguments with `--password-file`.
fn by<'a>(password: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    [arguments, &["--password-file", password]].concat()
}

fn status(world: &World, password: &str) -> Value {
    let (code, status) = world.json(by(password, &["crypt", "status", "d.strata"]));
    assert_eq!(code, 0, "{status}");
    status["disks"][0].clone()
}

/// Whether a stretch of the source is in a file as it is.
fn is_readable(world: &World, file: &str) -> bool {
    let source = std::fs::read(world.path("source.img")).unwrap();
    let (piece, content) = (&source[MIB as usize..][..64], std::fs::read(world.path(file)).unwrap());
    content.windows(piece.len()).any(|window| window == piece)
}

#[test]
fn a_disk_is_encrypted_has_passwords_and_is_decrypted() {
    let world = world(8);
    let enable = ["crypt", "enable", "d.strata", "--new-password-file", "one"];
    assert_eq!(world.json(["crypt", "status", "d.strata"]).1["disks"][0]["state"], "plain");
    assert!(is_readable(&world, "d.strata"));
    world.ok(["disk", "snap", "take", "d.strata", "before"]);
    // Restore points go, with consent.
    let refused = world.fails(2, enable);
    assert!(refused.stderr.contains("restore points") && refused.stderr.contains("--yes"), "{}", refused.stderr);
    world.fails(6, ["crypt", "enable", "d.strata", "--yes"]);
    for arguments in [&["crypt", "disable", "d.strata"][..], &["crypt", "rm-slot", "d.strata", "0"]] {
        world.fails(4, arguments);
    }
    world.ok(["disk", "check", "d.strata"]);
    let (code, enabled) = world.json([&enable[..], &["--yes"]].concat());
    assert_eq!((code, &enabled["schema"], &enabled["encrypted"]), (0, &"benchtop.crypt.enable/1".into(), &true.into()));
    assert!(!is_readable(&world, "d.strata"));
    world.fails(4, enable);
    world.fails(6, ["disk", "check", "d.strata"]);
    for verb in
        [&["disk", "check", "d.strata"][..], &["crypt", "status", "d.strata"], &["crypt", "disable", "d.strata"]]
    {
        world.fails(6, by("wrong", verb));
    }
    // Without the password, what anybody can see.
    let unknown = &world.json(["crypt", "status", "d.strata"]).1["disks"][0];
    assert_eq!((&unknown["encrypted"], &unknown["state"]), (&true.into(), &Value::Null));
    // A second password, and the first goes.
    let add = ["crypt", "add-slot", "d.strata", "--new-password-file", "two"];
    world.fails(6, add);
    world.fails(6, by("wrong", &add));
    let (_, added) = world.json(by("one", &add));
    assert_eq!(added["disks"][0]["slot"], 1, "{added}");
    assert_eq!(status(&world, "two")["slots"].as_array().unwrap().len(), 2);
    world.fails(3, by("one", &["crypt", "rm-slot", "d.strata", "7"]));
    assert_eq!(world.run(by("one", &["crypt", "rm-slot", "d.strata", "8"])).code, 2);
    world.ok(by("one", &["crypt", "rm-slot", "d.strata", "0"]));
    world.fails(6, by("one", &["disk", "check", "d.strata"]));
    world.fails(4, by("two", &["crypt", "rm-slot", "d.strata", "1"]));
    // Another password in its place.
    world.ok(by("two", &["crypt", "change", "d.strata", "--new-password-file", "three"]));
    world.fails(6, by("two", &["disk", "check", "d.strata"]));
    world.ok(by("three", &["crypt", "verify", "d.strata"]));
    // A recovery key is one line, and opens as a password does.
    let key = world.ok(by("three", &["crypt", "recovery-key", "d.strata"])).stdout;
    assert_eq!((key.lines().count(), key.trim().split('-').count()), (1, 8), "a recovery key");
    std::fs::write(world.path("key"), key.to_lowercase()).unwrap();
    world.ok(by("key", &["disk", "compare", "source.img", "d.strata"]));
    // A mistake in it is found, and where.
    let last = if key.trim().ends_with('0') { "1" } else { "0" };
    std::fs::write(world.path("typo"), format!("{}{last}", &key.trim()[..key.trim().len() - 1])).unwrap();
    assert!(world.fails(6, by("typo", &["disk", "check", "d.strata"])).stderr.contains("group 8"));
    let facts = status(&world, "key");
    let kinds: Vec<_> = facts["slots"].as_array().unwrap().iter().map(|slot| slot["kind"].clone()).collect();
    assert_eq!((&facts["state"], kinds), (&"encrypted".into(), vec!["recovery key".into(), "password".into()]));
    // A password that was forgotten is replaced.
    world.fails(2, by("key", &["crypt", "change", "d.strata", "--new-password-file", "one"]));
    world.ok(by("key", &["crypt", "change", "d.strata", "--slot", "1", "--new-password-file", "one"]));
    world.fails(6, by("three", &["disk", "check", "d.strata"]));
    world.ok(by("one", &["disk", "check", "d.strata"]));
    // Plain again.
    let (code, disabled) = world.json(by("key", &["crypt", "disable", "d.strata", "--yes"]));
    assert_eq!((code, &disabled["encrypted"]), (0, &false.into()), "{disabled}");
    world.ok(["disk", "compare", "source.img", "d.strata"]);
    world.ok(["disk", "check", "d.strata"]);
    assert_eq!(world.json(["disk", "info", "d.strata"]).1["encrypted"], false);
    assert_eq!(world.json(["crypt", "status", "d.strata"]).1["disks"][0]["slots"], Value::Array(Vec::new()));
    world.fails(4, ["crypt", "recovery-key", "d.strata"]);
    // What is of another format has no passwords here.
    world.fails(1, ["crypt", "enable", "source.img", "--new-password-file", "one"]);
    assert_eq!(world.json(["crypt", "status", "source.img"]).1["disks"][0]["state"], "plain");
    world.fails(3, ["crypt", "status", "nothing"]);
    world.fails(2, ["crypt", "dance", "d.strata"]);
}

/// Turns a bit of what is stored of the source's byte `at`.
fn damage(world: &World, disk: &str, at: usize) {
    let source = std::fs::read(world.path("source.img")).unwrap();
    let content = std::fs::read(world.path(disk)).unwrap();
    let piece = &source[at..at + 64];
    let place = content.windows(piece.len()).position(|window| window == piece).unwrap();
    let file = std::fs::File::options().write(true).open(world.path(disk)).unwrap();
    file.write_all_at(&[!content[place + 5]], place as u64 + 5).unwrap();
}

/// It said that it was repaired, with exit code 10 and not a word of what was left.
#[test]
fn damage_that_restore_points_keep_goes_with_them() {
    let world = world(8);
    world.ok(["disk", "retention", "d.strata", "off", "--yes"]);
    world.ok(["disk", "snap", "take", "d.strata", "old"]);
    let number = world.json(["disk", "snap", "list", "d.strata"]).1["points"][0]["number"].as_u64().unwrap();
    damage(&world, "d.strata", 3 << 20);
    // Now and then: a repair is what comes first.
    let said = world.run(["disk", "check", "d.strata"]);
    assert!(said.code == 10 && said.stdout.contains("benchtop disk repair"), "{}", said.stdout);
    let run = world.run(["disk", "repair", "d.strata", "--yes"]);
    assert_eq!(run.code, 10, "{}{}", run.stdout, run.stderr);
    let remove = format!("benchtop disk snap rm d.strata '#{number}'");
    let named = format!("1 restore point holds damage: #{number} (snapshot old)");
    assert!(run.stdout.contains(&named) && run.stdout.contains(&remove), "{}", run.stdout);
    assert!(!run.stdout.contains("it was repaired"), "{}", run.stdout);
    // What is lost is no damage, and what the snapshot holds can not be repaired.
    for verb in ["check", "repair"] {
        let said = world.run(["disk", verb, "d.strata"]);
        assert!(said.code == 10 && said.stdout.contains(&remove), "{verb}: {}{}", said.stdout, said.stderr);
        assert!(!said.stdout.contains(&format!("benchtop disk {verb}")), "{verb}: {}", said.stdout);
        let (_, document) = world.json(["disk", verb, "d.strata"]);
        assert_eq!(document["points_damaged"][0]["number"], number, "{document}");
    }
    // A snapshot of what was repaired holds no damage.
    world.ok(["disk", "snap", "take", "d.strata", "new"]);
    let (_, document) = world.json(["disk", "check", "d.strata"]);
    assert_eq!(document["points_damaged"].as_array().unwrap().len(), 1, "{document}");
    world.ok(["disk", "snap", "rm", "d.strata", "old"]);
    world.ok(["disk", "check", "d.strata"]);
    world.ok(["disk", "repair", "d.strata"]);
}

/// Runs `arguments`, and interrupts it when it first says how far it is.
fn interrupt(world: &World, arguments: &[&str]) -> Run {
    let mut command = world.command();
    command.args(["--progress", "json", "--yes"]).args(arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(first["schema"], "benchtop.progress/1");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let stderr: String = lines.map_while(Result::ok).map(|line| line + "\n").collect();
    Run { code: child.wait().unwrap().code().unwrap_or(-1), stdout: String::new(), stderr }
}

#[test]
fn what_ctrl_c_stops_goes_on() {
    let world = world(256);
    let enable = ["crypt", "enable", "d.strata", "--new-password-file", "one"];
    let run = interrupt(&world, &enable);
    assert_eq!(run.code, 130, "{}", run.stderr);
    assert!(run.stderr.contains("goes on"), "{}", run.stderr);
    assert_eq!(status(&world, "one")["state"], "encrypting");
    let refused = world.fails(4, by("one", &["crypt", "disable", "d.strata"]));
    assert!(
        refused.stderr.contains("being encrypted") && refused.stderr.contains("crypt enable"),
        "{}",
        refused.stderr
    );
    let refused = world.fails(1, by("one", &["disk", "snap", "take", "d.strata", "x"]));
    assert!(refused.stderr.contains("crypt enable"), "{}", refused.stderr);
    world.fails(6, ["disk", "check", "d.strata"]);
    world.ok(by("one", &["disk", "compare", "source.img", "d.strata"]));
    world.ok(enable);
    assert_eq!(status(&world, "one")["state"], "encrypted");
    assert!(!is_readable(&world, "d.strata"));
    let disable = by("one", &["crypt", "disable", "d.strata"]);
    assert_eq!(interrupt(&world, &disable).code, 130);
    // Until it is done, it takes its password.
    assert_eq!(status(&world, "one")["state"], "decrypting");
    world.fails(6, ["disk", "check", "d.strata"]);
    assert_eq!(world.json(["disk", "info", "d.strata"]).1["encrypted"], true);
    world.fails(4, [&enable[..], &["--yes"]].concat());
    world.ok(disable);
    world.ok(["disk", "compare", "source.img", "d.strata"]);
}

#[test]
fn the_disks_of_a_vm_go_together() {
    let world = world(1);
    world.ok(["new", "vm", "--disk", "4M", "--disk", "8M", "--memory", "64M"]);
    world.ok(["crypt", "enable", "vm", "--new-password-file", "one", "--yes"]);
    let (_, status) = world.json(by("one", &["crypt", "status", "vm"]));
    let states: Vec<_> = status["disks"].as_array().unwrap().iter().map(|disk| disk["state"].clone()).collect();
    assert_eq!(states, ["encrypted", "encrypted"]);
    world.ok(by("one", &["crypt", "change", "vm", "--new-password-file", "two"]));
    world.fails(6, by("one", &["disk", "check", "vm:disk1"]));
    world.ok(by("two", &["disk", "check", "vm:disk1"]));
    // A key of its own for each.
    let refused = world.fails(2, by("two", &["crypt", "recovery-key", "vm"]));
    assert!(refused.stderr.contains("vm:disk0"), "{}", refused.stderr);
    world.fails(2, by("two", &["crypt", "rm-slot", "vm", "0"]));
    // Where one is left over, it is done and the other is not touched.
    world.ok(by("two", &["crypt", "disable", "vm:disk0", "--yes"]));
    world.ok(by("two", &["crypt", "disable", "vm", "--yes"]));
    world.ok(["disk", "check", "vm:disk1"]);
    world.fails(4, ["crypt", "disable", "vm"]);
    // A file of the same name would be another meaning.
    std::fs::copy(world.path("d.strata"), world.path("vm")).unwrap();
    world.fails(2, ["crypt", "status", "vm"]);
    assert_eq!(world.json(["crypt", "status", "./vm"]).1["disks"][0]["state"], "plain");
    world.ok(["new", "empty", "--memory", "64M"]);
    world.fails(2, ["crypt", "status", "empty"]);
}

#[test]
fn strata_disks_become_larger_and_with_consent_smaller() {
    let world = world(8);
    let size = || world.json(["disk", "info", "d.strata"]).1["size_bytes"].as_u64().unwrap();
    world.ok(["disk", "resize", "d.strata", "3G"]);
    assert_eq!(size(), 3 << 30);
    world.ok(["disk", "check", "d.strata"]);
    let refused = world.fails(2, ["disk", "resize", "d.strata", "4M"]);
    assert!(refused.stderr.contains("--shrink"), "{}", refused.stderr);
    assert_eq!(size(), 3 << 30);
    let (code, resized) = world.json(["disk", "resize", "d.strata", "4M", "--shrink"]);
    assert_eq!((code, &resized["old_size_bytes"]), (0, &(3u64 << 30).into()), "{resized}");
    assert_eq!(size(), 4 * MIB);
    world.ok(["disk", "check", "d.strata"]);
    world.ok(["disk", "resize", "d.strata", "8M"]);
    // What was cut off does not come back, but in a restore point.
    world.ok(["disk", "convert", "d.strata", "back.raw"]);
    let (back, source) =
        (std::fs::read(world.path("back.raw")).unwrap(), std::fs::read(world.path("source.img")).unwrap());
    let middle = 4 * MIB as usize;
    assert!(back[..middle] == source[..middle] && back[middle..].iter().all(|byte| *byte == 0));
    world.fails(2, ["disk", "resize", "d.strata", "0"]);
    world.ok(["crypt", "enable", "d.strata", "--new-password-file", "one", "--yes"]);
    world.fails(6, ["disk", "resize", "d.strata", "16M"]);
    world.ok(by("one", &["disk", "resize", "d.strata", "16M"]));
    assert_eq!(size(), 16 * MIB);
}

#[test]
fn a_damaged_disk_is_repaired_with_consent() {
    let world = world(8);
    world.ok(["disk", "retention", "d.strata", "off", "--yes"]);
    let (code, clean) = world.json(["disk", "repair", "d.strata"]);
    assert_eq!((code, &clean["repaired"], &clean["lost_bytes"]), (0, &false.into(), &0.into()), "{clean}");
    // A bit of one block, in a copy.
    std::fs::copy(world.path("d.strata"), world.path("bad.strata")).unwrap();
    let source = std::fs::read(world.path("source.img")).unwrap();
    let content = std::fs::read(world.path("bad.strata")).unwrap();
    let piece = &source[3 << 20..(3 << 20) + 64];
    let at = content.windows(piece.len()).position(|window| window == piece).unwrap();
    let file = std::fs::File::options().write(true).open(world.path("bad.strata")).unwrap();
    file.write_all_at(&[!content[at + 5]], at as u64 + 5).unwrap();
    drop(file);
    let before = std::fs::read(world.path("bad.strata")).unwrap();
    let (code, looked) = world.json(["disk", "repair", "bad.strata"]);
    assert_eq!((code, &looked["repaired"], &looked["lost_bytes"]), (10, &false.into(), &4096.into()), "{looked}");
    assert_eq!(looked["lost"][0]["offset_bytes"], 3 << 20, "{looked}");
    assert!(std::fs::read(world.path("bad.strata")).unwrap() == before, "nothing was changed");
    let said = world.run(["disk", "repair", "bad.strata"]).stdout;
    assert!(said.contains("4096 bytes at 3145728 can not be read") && said.contains("--yes"), "{said}");
    let (code, repaired) = world.json(["disk", "repair", "bad.strata", "--yes"]);
    assert_eq!((code, &repaired["repaired"], &repaired["damages"]), (0, &true.into(), &0.into()), "{repaired}");
    assert_eq!(repaired["lost_bytes"], 4096);
    // What is lost is an error, and no damage any more.
    world.ok(["disk", "check", "bad.strata"]);
    let (code, again) = world.json(["disk", "repair", "bad.strata", "--yes"]);
    assert_eq!((code, &again["repaired"], &again["lost_bytes"]), (0, &false.into(), &4096.into()), "{again}");
    world.fails(7, ["disk", "convert", "bad.strata", "x.raw"]);
    // One superblock of two can be missing.
    std::fs::copy(world.path("d.strata"), world.path("half.strata")).unwrap();
    let file = std::fs::File::options().write(true).open(world.path("half.strata")).unwrap();
    file.write_all_at(&[0xff; 512], 64 << 10).unwrap();
    drop(file);
    world.ok(["disk", "repair", "half.strata", "--yes"]);
    world.ok(["disk", "compare", "source.img", "half.strata"]);
    // Both: there is nothing to repair.
    let file = std::fs::File::options().write(true).open(world.path("half.strata")).unwrap();
    for at in [0, 64 << 10] {
        file.write_all_at(&[0xff; 512], at + 100).unwrap();
    }
    drop(file);
    world.fails(1, ["disk", "repair", "half.strata", "--yes"]);
}
