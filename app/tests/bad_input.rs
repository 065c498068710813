//! What is wrong is said in three parts, with the documented exit code, and changes nothing.

mod common;

use common::{World, as_nobody, assert_three_parts, blank_iso, can_run_vms, is_root, run, skip};

#[test]
fn a_missing_or_unreadable_iso() {
    let world = World::new();
    world.fails(3, ["new", "one", "--iso", "missing.iso"]);
    std::fs::write(world.path("empty.iso"), []).unwrap();
    world.fails(1, ["new", "one", "--iso", "empty.iso"]);
    assert!(world.snapshot().is_empty());
    world.ok(["new", "one", "--memory", "64M"]);
    let before = world.snapshot();
    world.fails(3, ["cd", "insert", "one", "missing.iso"]);
    assert_eq!(world.snapshot(), before);
}

#[test]
fn an_iso_of_somebody_else() {
    let world = World::new();
    blank_iso(&world.path("disc.iso"));
    let Some(mut command) = as_nobody("an_iso_of_somebody_else", env!("CARGO_BIN_EXE_benchtop").as_ref()) else {
        return;
    };
    use std::os::unix::fs::PermissionsExt;
    let mode = |name: &str, mode: u32| {
        std::fs::set_permissions(world.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(".", 0o755);
    mode("library", 0o777);
    mode("disc.iso", 0o600);
    command.env("BENCHTOP_LIBRARY", world.library()).args(["new", "one", "--iso"]).arg(world.path("disc.iso"));
    let run = run(&mut command);
    if run.code == 126 {
        return skip("an_iso_of_somebody_else", "the other user can not run the program where it is");
    }
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert_three_parts(&run);
    assert!(world.snapshot().is_empty());
}

#[test]
fn a_bundle_from_a_newer_version() {
    let world = World::new();
    world.ok(["new", "one", "--memory", "64M"]);
    let path = world.bundle("one").join("machine.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace("benchtop.machine/1", "benchtop.machine/7");
    std::fs::write(&path, text).unwrap();
    for arguments in [&["show", "one"][..], &["set", "one", "cpus=1"], &["start", "one"]] {
        let run = world.fails(1, arguments);
        assert!(run.stderr.contains("newer version"), "{}", run.stderr);
    }
    assert!(std::fs::read_to_string(&path).unwrap().contains("benchtop.machine/7"));
    // It is listed all the same, with the reason.
    let (code, list) = world.json(["list"]);
    assert_eq!(code, 0);
    assert!(list["vms"][0]["error"]["why"].as_str().unwrap().contains("newer version"));
}

#[test]
fn a_truncated_configuration() {
    let world = World::new();
    world.ok(["new", "one", "--disk", "1M", "--memory", "64M"]);
    let path = world.bundle("one").join("machine.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    for len in [0, 10, text.len() / 2, text.len() - 5] {
        std::fs::write(&path, &text[..len]).unwrap();
        world.fails(1, ["show", "one"]);
        world.fails(1, ["start", "one"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text[..len]);
    }
}

#[test]
fn a_configuration_that_leads_out_of_its_bundle() {
    let world = World::new();
    world.ok(["new", "one", "--disk", "1M", "--memory", "64M"]);
    let path = world.bundle("one").join("machine.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("disks/disk0.raw", "../../../etc/passwd")).unwrap();
    world.fails(1, ["start", "one"]);
    std::fs::write(&path, text).unwrap();
    std::fs::remove_file(world.bundle("one").join("disks/disk0.raw")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", world.bundle("one").join("disks/disk0.raw")).unwrap();
    if can_run_vms("a_configuration_that_leads_out_of_its_bundle") {
        world.fails(5, ["start", "one"]);
    }
}

#[test]
fn impossible_memory() {
    let world = World::new();
    for (code, memory) in [(2, "0"), (2, "1K"), (5, "900G"), (2, "2P"), (2, "100000001")] {
        world.fails(code, ["new", "one", "--memory", memory]);
        world.fails(code, ["boot", "--memory", memory]);
    }
    assert_eq!(world.run(["new", "one", "--memory", "lots"]).code, 2);
    assert!(world.snapshot().is_empty());
}

#[test]
fn a_full_host_disk() {
    let world = World::new();
    let small = world.path("small");
    std::fs::create_dir(&small).unwrap();
    // The least there is: with the first files it is full.
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4k,nr_inodes=6", "tmpfs"])
        .arg(&small)
        .status();
    if !is_root() || !mounted.is_ok_and(|status| status.success()) {
        return skip("a_full_host_disk", "no small file system can be mounted");
    }
    let result = run(world.command().env("BENCHTOP_LIBRARY", &small).args(["new", "one", "--memory", "64M"]));
    let left = std::fs::read_dir(&small).unwrap().count();
    let disk = run(world.command().args(["disk", "create"]).arg(small.join("x/y.raw")).args(["--size", "1M"]));
    let unmounted = std::process::Command::new("umount").arg(&small).status();
    assert!(unmounted.unwrap().success());
    assert_eq!(result.code, 8, "{}", result.stderr);
    assert_three_parts(&result);
    assert_eq!(left, 0);
    assert_eq!(disk.code, 3, "{}", disk.stderr);
}

#[test]
fn no_permission_on_kvm() {
    let world = World::new();
    let test = "no_permission_on_kvm";
    let Some(mut command) = as_nobody(test, env!("CARGO_BIN_EXE_benchtop").as_ref()) else { return };
    if !std::path::Path::new("/dev/kvm").exists() {
        return skip(test, "no /dev/kvm");
    }
    let run = run(command.env("BENCHTOP_LIBRARY", world.library()).args(["boot", "--memory", "64M"]));
    if run.code == 126 {
        return skip(test, "the other user can not run the program where it is");
    }
    if run.code != 5 {
        return skip(test, "everybody may use /dev/kvm here");
    }
    assert!(run.stderr.contains("no permission to use kvm") || run.stderr.contains("No permission"), "{}", run.stderr);
    assert_three_parts(&run);
}

#[test]
fn no_firmware() {
    if !can_run_vms("no_firmware") {
        return;
    }
    let world = World::new();
    std::fs::create_dir(world.path("nothing")).unwrap();
    let run = world.fails(5, ["boot", "--memory", "64M", "--firmware", "nothing", "--screenshot", "x.png"]);
    assert!(run.stderr.contains("seabios"), "{}", run.stderr);
    assert!(!world.path("x.png").exists());
}

#[test]
fn a_disk_in_use() {
    if !can_run_vms("a_disk_in_use") {
        return;
    }
    let world = World::new();
    world.ok(["new", "one", "--disk", "1M", "--memory", "64M", "--start"]);
    let disk = world.bundle("one").join("disks/disk0.raw");
    world.fails(4, ["boot".as_ref(), "--disk".as_ref(), disk.as_os_str()]);
    world.fails(4, ["start", "one"]);
    world.fails(4, ["rm", "one", "--yes"]);
    world.fails(4, ["set", "one", "cpus=1"]);
    world.ok(["stop", "one", "--force"]);
    world.ok(["rm", "one", "--yes"]);
}

#[test]
fn verbs_for_a_running_vm_on_one_that_is_off() {
    let world = World::new();
    world.ok(["new", "one", "--memory", "64M"]);
    for arguments in [
        &["stop", "one"][..],
        &["pause", "one"],
        &["resume", "one"],
        &["reset", "one"],
        &["type", "one", "x"],
        &["keys", "one", "f1"],
        &["stats", "one"],
        &["console", "one"],
        &["screenshot", "one", "x.png"],
    ] {
        world.fails(4, arguments);
    }
    for arguments in [&["stop", "two"][..], &["start", "two"], &["stats", "two"]] {
        world.fails(3, arguments);
    }
    assert!(!world.path("x.png").exists());
}
