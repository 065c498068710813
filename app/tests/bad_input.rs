//! What is wrong is said in three parts, with the documented exit code, and changes nothing.

mod common;

use common::{World, as_nobody, assert_three_parts, blank_iso, can_run_vms, fifo, is_root, run, skip};

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

/// What `start` refuses is refused where it is named: a VM was made that could not start.
#[test]
fn a_disc_that_would_not_start() {
    let world = World::new();
    world.ok(["new", "one", "--memory", "64M"]);
    std::fs::write(world.path("text.iso"), "no disc").unwrap();
    std::fs::write(world.path("short.iso"), vec![0; 0x8003]).unwrap();
    std::fs::write(world.path("disk.qcow2"), [&b"QFI\xfb"[..], &[0; 70_000]].concat()).unwrap();
    fifo(&world.path("pipe.iso"));
    let before = world.snapshot();
    for iso in ["text.iso", "short.iso", "disk.qcow2", "pipe.iso"] {
        world.fails(1, ["new", "two", "--iso", iso]);
        world.fails(1, ["cd", "insert", "one", iso]);
        world.fails(1, ["attach", "one", "cd", iso]);
    }
    world.fails(5, ["set", "one", "firmware=/nowhere"]);
    let unlocked =
        |files: Vec<_>| files.into_iter().filter(|(path, _): &(std::path::PathBuf, _)| !path.ends_with("lock"));
    assert!(unlocked(world.snapshot()).eq(unlocked(before)));
}

/// Nothing said how to start a VM whose disc had gone.
#[test]
fn a_disc_that_went_away() {
    if !can_run_vms("a_disc_that_went_away") {
        return;
    }
    let world = World::new();
    blank_iso(&world.path("disc.iso"));
    world.ok(["new", "one", "--iso", "disc.iso", "--memory", "64M"]);
    std::fs::remove_file(world.path("disc.iso")).unwrap();
    assert!(world.fails(3, ["start", "one"]).stderr.contains("benchtop cd eject 'one:cd0'"));
    std::fs::write(world.path("disc.iso"), "no disc").unwrap();
    assert!(world.fails(1, ["start", "one"]).stderr.contains("benchtop cd eject 'one:cd0'"));
    world.ok(["cd", "eject", "one:cd0"]);
    world.ok(["start", "one"]);
    world.ok(["stop", "one", "--force"]);
}

/// A line of 70 000 characters ended `list` with a panic, and a name could clear the screen.
#[test]
fn a_bundle_with_a_line_of_any_length() {
    let world = World::new();
    world.ok(["new", "one", "--memory", "64M"]);
    let path = world.bundle("one").join("machine.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("cpus = 2", &format!("cpus = 2\n{} = 1", "x".repeat(70_000)))).unwrap();
    std::fs::create_dir(world.library().join("\u{1b}[2J\u{202e}.benchtop")).unwrap();
    std::fs::write(world.library().join("\u{1b}[2J\u{202e}.benchtop/machine.toml"), "\u{1b}[2J").unwrap();
    let list = world.ok(["list"]);
    assert!(list.stdout.lines().all(|line| line.len() < 200), "{}", list.stdout);
    assert!(list.stdout.contains("one") && list.stdout.matches("damaged").count() == 2, "{}", list.stdout);
    let why = world.fails(1, ["show", "one"]).stderr;
    assert!(why.contains("unknown field") && why.len() < 4000, "{why}");
    let said = [list.stdout, world.run(["list", "--json"]).stdout, world.run(["show", "\u{1b}[2J\u{202e}"]).stderr];
    for text in said {
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");
    }
    assert!(!world.run(["\u{1b}[2J"]).stderr.contains('\u{1b}'));
}

/// These waited for the other end of a pipe for ever.
#[test]
fn pipes_in_the_place_of_files() {
    let world = World::new();
    world.ok(["new", "one", "--memory", "64M"]);
    fifo(&world.path("pipe"));
    world.fails(1, ["disk", "info", "pipe"]);
    fifo(&world.bundle("one").join("logs/monitor.log"));
    world.fails(5, ["start", "one"]);
    fifo(&world.bundle("one").join("machine.toml.new"));
    world.fails(1, ["set", "one", "cpus=1"]);
    if can_run_vms("pipes_in_the_place_of_files") {
        world.fails(1, ["boot", "--memory", "64M", "--kernel", "pipe"]);
    }
}

#[test]
fn disks_too_small_or_too_large() {
    let world = World::new();
    std::fs::write(world.path("empty"), []).unwrap();
    assert!(world.fails(1, ["disk", "info", "empty"]).stderr.contains("It is empty."));
    let large = world.run(["disk", "create", "large", "--size", "128P"]);
    // Some file systems have room for it.
    if large.code != 0 {
        assert!(large.code == 1 && large.stderr.contains("Make it smaller"), "{}", large.stderr);
    }
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
    std::fs::write(&path, text.replace("disks/disk0.strata", "../../../etc/passwd")).unwrap();
    world.fails(1, ["start", "one"]);
    std::fs::write(&path, text).unwrap();
    std::fs::remove_file(world.bundle("one").join("disks/disk0.strata")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", world.bundle("one").join("disks/disk0.strata")).unwrap();
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

/// KVM that was asked for is refused with the reason; else the software CPU takes its place, and that is said.
#[test]
fn no_permission_on_kvm() {
    let world = World::new();
    let test = "no_permission_on_kvm";
    let boot = |more: &[&str]| {
        let mut command = as_nobody(test, env!("CARGO_BIN_EXE_benchtop").as_ref())?;
        command
            .env("BENCHTOP_LIBRARY", world.library())
            .args(["boot", "--memory", "64M", "--timeout", "1s"])
            .args(more);
        Some(run(&mut command))
    };
    if !std::path::Path::new("/dev/kvm").exists() {
        return skip(test, "no /dev/kvm");
    }
    let Some(refused) = boot(&["--accel", "kvm"]) else { return };
    if refused.code == 126 {
        return skip(test, "the other user can not run the program where it is");
    }
    if refused.code != 5 {
        return skip(test, "everybody may use /dev/kvm here");
    }
    let denied = "no permission to use kvm";
    assert!(refused.stderr.contains(denied) || refused.stderr.contains("No permission"), "{}", refused.stderr);
    assert_three_parts(&refused);
    let Some(instead) = boot(&[]) else { return };
    assert!(instead.stderr.contains("the software CPU runs this VM"), "{}", instead.stderr);
    // Nothing is there to boot, so that its time is over; where there is no firmware it can not begin.
    assert!([5, 9].contains(&instead.code), "{}", instead.stderr);
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
    let disk = world.bundle("one").join("disks/disk0.strata");
    world.fails(4, ["boot".as_ref(), "--disk".as_ref(), disk.as_os_str()]);
    world.fails(4, ["disk".as_ref(), "check".as_ref(), disk.as_os_str()]);
    for action in ["check", "repair", "map"] {
        world.fails(4, ["disk", action, "one:disk0"]);
    }
    for more in
        [&["snap", "take", "one:disk0", "x"][..], &["convert", "one:disk0", "x.raw"], &["resize", "one:disk0", "2M"]]
    {
        world.fails(4, [&["disk"], more].concat());
    }
    assert_eq!(world.json(["disk", "info", "one:disk0"]).1["in_use"], true);
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
