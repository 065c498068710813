//! Making, listing, changing and removing VMs that never run.

#[expect(dead_code, reason = "this file uses a part of it")]
mod common;

use common::{World, blank_iso};

#[test]
fn a_vm_from_new_to_rm() {
    let world = World::new();
    blank_iso(&world.path("disc.iso"));
    world.ok(["new", "one", "--iso", "disc.iso", "--disk", "64M,cache=writeback", "--memory", "64M", "--cpus", "1"]);
    let (code, shown) = world.json(["show", "one"]);
    assert_eq!(code, 0);
    assert_eq!(shown["schema"], "benchtop.show/1");
    assert_eq!(shown["state"], "off");
    assert_eq!(shown["memory_bytes"], 64 << 20);
    assert_eq!(shown["devices"][0]["name"], "disk0");
    assert_eq!(shown["devices"][0]["size_bytes"], 64 << 20);
    assert_eq!(shown["devices"][0]["cache"], "writeback");
    assert!(shown["devices"][1]["file"].as_str().unwrap().starts_with('/'));
    let (_, list) = world.json(["list"]);
    assert_eq!(list["schema"], "benchtop.list/1");
    assert_eq!(list["vms"][0]["name"], "one");
    let (_, disk) = world.json(["disk", "info", "one:disk0"]);
    assert_eq!((&disk["format"], &disk["size_bytes"]), (&"strata".into(), &(64 << 20).into()));
    assert!(disk["allocated_bytes"].as_u64().unwrap() < 1 << 20, "{disk}");
    assert_eq!(
        (&shown["devices"][0]["format"], &shown["devices"][1]["format"]),
        (&"strata".into(), &None::<u8>.into())
    );
    // Without a terminal, only --yes confirms.
    world.fails(2, ["rm", "one"]);
    world.ok(["rm", "one", "--yes"]);
    world.fails(3, ["show", "one"]);
}

#[test]
fn disks_of_a_new_vm_have_the_format_that_was_asked_for() {
    let world = World::new();
    for format in ["strata", "raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx"] {
        world.ok(["new", format, "--disk", &format!("64M,format={format}"), "--memory", "64M"]);
        let (_, shown) = world.json(["show", format]);
        let device = &shown["devices"][0];
        assert_eq!((&device["format"], &device["size_bytes"]), (&format.into(), &(64 << 20).into()), "{shown}");
        world.ok(["disk", "check", &format!("{format}:disk0")]);
        // What the file says of itself does not count: it is the guest's.
        world.fails(
            2,
            ["disk", "info", &format!("{format}:disk0,format={}", if format == "raw" { "vdi" } else { "raw" })],
        );
    }
    world.fails(2, ["new", "none", "--encrypt", "--memory", "64M"]);
    world.fails(2, ["new", "none", "--encrypt", "--disk", "1M,format=raw", "--memory", "64M"]);
    world.fails(6, ["new", "none", "--encrypt", "--disk", "1M", "--memory", "64M"]);
    world.fails(3, ["show", "none"]);
}

/// A guest can write any signature into its raw disk.
#[test]
fn a_raw_disk_of_a_vm_stays_raw() {
    let world = World::new();
    world.ok(["new", "one", "--disk", "1M,format=raw", "--memory", "64M"]);
    let path = world.bundle("one").join("disks/disk0.raw");
    let mut content = vec![0; 1 << 20];
    content[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    std::fs::write(&path, &content).unwrap();
    world.ok(["disk", "convert", "one:disk0", "x.raw"]);
    assert!(std::fs::read(world.path("x.raw")).unwrap() == content);
    world.fails(1, ["disk", "convert", "x.raw", "y.raw"]);
    world.ok(["disk", "convert", "x.raw,format=raw", "y.raw"]);
    assert!(std::fs::read(world.path("y.raw")).unwrap() == content);
    // The bundle can not make other files readable either.
    let config = world.bundle("one").join("machine.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("format = \"raw\"", "format = \"qcow2\"")).unwrap();
    world.fails(1, ["disk", "convert", "one:disk0", "z.raw"]);
}

#[test]
fn bundles_belong_to_their_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    world.ok(["new", "one", "--disk", "1M", "--memory", "64M"]);
    let mode = |path: &str| std::fs::metadata(world.bundle("one").join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        [mode("."), mode("disks"), mode("machine.toml"), mode("disks/disk0.strata")],
        [0o700, 0o700, 0o600, 0o600]
    );
}

#[test]
fn settings_change_together_or_not_at_all() {
    let world = World::new();
    world.ok(["new", "one", "--memory", "64M"]);
    world.ok(["set", "one", "memory=128M", "cpus=2", "boot=cd"]);
    let (_, shown) = world.json(["show", "one"]);
    assert_eq!((&shown["memory_bytes"], &shown["cpus"]), (&(128 << 20).into(), &2.into()));
    let before = world.snapshot();
    for (code, change) in [
        (2, "memory=0"),
        (2, "cpus=0"),
        (2, "flux=1"),
        (2, "boot=net"),
        (3, "disk7.cache=unsafe"),
        (2, "uuid=x"),
        (2, "name=a/b"),
    ] {
        world.fails(code, ["set", "one", "cpus=1", change]);
    }
    // The lock file is new, everything else is as it was.
    let after: Vec<_> = world.snapshot().into_iter().filter(|(path, _)| !path.ends_with("lock")).collect();
    let before: Vec<_> = before.into_iter().filter(|(path, _)| !path.ends_with("lock")).collect();
    assert_eq!(after, before);
}

#[test]
fn discs_and_drives_of_a_vm_that_is_off() {
    let world = World::new();
    blank_iso(&world.path("disc.iso"));
    world.ok(["new", "one", "--memory", "64M"]);
    world.ok(["cd", "insert", "one", "disc.iso"]);
    let file = |index: usize| world.json(["show", "one"]).1["devices"][index]["file"].clone();
    assert!(file(0).as_str().unwrap().ends_with("disc.iso"));
    world.ok(["cd", "eject", "one:cd0"]);
    assert!(file(0).is_null());
    world.ok(["attach", "one", "cd"]);
    world.ok(["attach", "one", "cd", "disc.iso"]);
    assert!(file(0).as_str().unwrap().ends_with("disc.iso"));
    world.fails(3, ["cd", "eject", "one"]);
    world.ok(["detach", "one", "cd1"]);
    world.fails(3, ["detach", "one", "cd1"]);
    world.fails(3, ["cd", "insert", "one:cd5", "disc.iso"]);
}

#[test]
fn a_copy_gets_its_own_identity_with_an_undo() {
    let world = World::new();
    world.ok(["new", "one", "--disk", "1M", "--memory", "64M"]);
    let copied = std::process::Command::new("cp").arg("-r").arg(world.bundle("one")).arg(world.bundle("two")).status();
    assert!(copied.unwrap().success());
    let uuid = |name: &str| world.json(["show", name]).1["uuid"].as_str().unwrap().to_owned();
    let original = uuid("one");
    let listed = world.ok(["list"]);
    assert!(listed.stderr.contains("is a copy of another VM"), "{}", listed.stderr);
    assert_eq!(uuid("one"), original);
    assert_ne!(uuid("two"), original);
    world.ok(["set", "two", &format!("uuid={original}")]);
    world.ok(["list"]);
    assert_eq!(uuid("two"), original);
}

/// Every `list` gave the bundle another UUID.
#[test]
fn a_link_to_a_bundle_is_no_copy() {
    let world = World::new();
    world.ok(["new", "one", "--memory", "64M"]);
    std::os::unix::fs::symlink("one.benchtop", world.bundle("m")).unwrap();
    let before = world.snapshot();
    let (_, list) = world.json(["list"]);
    assert_eq!(list["vms"].as_array().unwrap().len(), 1);
    assert_eq!(list["vms"][0]["name"], "one");
    assert_eq!(world.ok(["list"]).stderr, "");
    assert_eq!(world.json(["show", "m"]).1["uuid"], world.json(["show", "one"]).1["uuid"]);
    assert_eq!(world.snapshot(), before);
}

#[test]
fn what_is_not_built_says_so() {
    let world = World::new();
    world.ok(["new", "one", "--memory", "64M"]);
    let before = world.snapshot();
    for arguments in [
        &["suspend", "one"][..],
        &["snap", "take", "one", "--no-memory"],
        &["time", "one", "--back", "10m"],
        &["crypt", "rekey", "one"],
        &["import", "x.ova"],
        &["export", "one", "x.ova"],
        &["disk", "trace", "record", "x.strata"],
        &["disk", "mirror", "add", "one:disk0", "--to", "b"],
        &["attach", "one", "disk", "x.raw", "--bus", "lsi"],
        &["new", "two", "--disk", "1G,bus=pvscsi"],
        &["start", "one", "--accel", "whpx"],
        &["boot", "--accel", "whpx"],
    ] {
        let run = world.fails(1, arguments);
        assert!(run.stderr.contains("not built yet"), "{arguments:?}: {}", run.stderr);
    }
    let before: Vec<_> = before.into_iter().map(|(path, _)| path).collect();
    let after: Vec<_> =
        world.snapshot().into_iter().map(|(path, _)| path).filter(|path| !path.ends_with("lock")).collect();
    assert_eq!(after.into_iter().filter(|path| !path.ends_with("monitor.log")).collect::<Vec<_>>(), before);
}

#[test]
fn errors_are_documents_too() {
    let world = World::new();
    let (code, error) = world.json(["show", "nobody"]);
    assert_eq!(code, 3);
    assert_eq!(error["schema"], "benchtop.error/1");
    assert_eq!(error["exit_code"], 3);
    assert_eq!(error["error"]["kind"], "not_found");
    for part in ["what", "why", "fix"] {
        assert!(!error["error"][part].as_str().unwrap().is_empty());
    }
    let (code, error) = world.json(["frobnicate"]);
    assert_eq!((code, &error["error"]["kind"]), (2, &"usage".into()));
}

#[test]
fn disks_are_made_sparse_and_never_replaced() {
    let world = World::new();
    world.ok(["disk", "create", "a.raw", "--size", "1G"]);
    let (_, info) = world.json(["disk", "info", "a.raw"]);
    assert_eq!((&info["size_bytes"], &info["allocated_bytes"]), (&(1 << 30).into(), &0.into()));
    world.fails(1, ["disk", "create", "a.raw", "--size", "2G"]);
    assert_eq!(std::fs::metadata(world.path("a.raw")).unwrap().len(), 1 << 30);
    world.ok(["disk", "create", "c.strata", "--size", "1T"]);
    assert!(world.json(["disk", "info", "c.strata"]).1["allocated_bytes"].as_u64().unwrap() < 1 << 20);
    world.fails(2, ["disk", "create", "b.raw", "--size", "0"]);
    world.fails(2, ["disk", "frobnicate"]);
    world.fails(3, ["disk", "info", "missing.raw"]);
}

#[test]
fn completions_know_the_verbs() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(world.ok(["completions", shell]).stdout.contains("screenshot"));
    }
}
