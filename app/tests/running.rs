//! A VM that runs: its monitor, who may talk to it, and what it can not do. The guest is the firmware, which finds
//! nothing to boot.

#![expect(clippy::unwrap_used, reason = "only tests use this")]

#[expect(dead_code, reason = "this file uses a part of it")]
mod common;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use common::{World, as_nobody, blank_iso, can_run_vms, run, skip};

/// Whether `holds` comes true within ten seconds.
fn soon(holds: impl Fn() -> bool) -> bool {
    (0..200).any(|_| {
        let held = holds();
        if !held {
            std::thread::sleep(Duration::from_millis(50));
        }
        held
    })
}

/// A world with a running VM, which is stopped at the end.
struct Running {
    world: World,
    uuid: String,
    pid: u64,
}

impl Running {
    fn start(test: &str) -> Option<Self> {
        if !can_run_vms(test) {
            return None;
        }
        let world = World::new();
        world.ok(["new", "one", "--disk", "8M", "--memory", "64M", "--cpus", "1"]);
        world.ok(["start", "one"]);
        let (_, shown) = world.json(["show", "one"]);
        assert_eq!(shown["state"], "running");
        let uuid = shown["uuid"].as_str().unwrap().to_owned();
        let pid = shown["pid"].as_u64().unwrap();
        Some(Self { world, uuid, pid })
    }

    fn runtime(&self, name: &str) -> PathBuf {
        self.world.path("runtime/benchtop").join(&self.uuid).join(name)
    }

    fn socket(&self) -> UnixStream {
        let socket = UnixStream::connect(self.runtime("control.sock")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.world.run(["stop", "one", "--force"]);
    }
}

#[test]
fn a_vm_from_start_to_stop() {
    let Some(vm) = Running::start("a_vm_from_start_to_stop") else { return };
    let state = || vm.world.json(["show", "one"]).1["state"].as_str().unwrap().to_owned();
    vm.world.ok(["pause", "one"]);
    assert_eq!(state(), "paused");
    vm.world.fails(4, ["stop", "one"]);
    vm.world.ok(["resume", "one"]);
    vm.world.ok(["reset", "one"]);
    assert_eq!(state(), "running");
    vm.world.ok(["type", "one", "hello\\n"]);
    vm.world.ok(["keys", "one", "ctrl-alt-del", "f12"]);
    vm.world.fails(2, ["type", "one", "€"]);
    vm.world.ok(["screenshot", "one", "x.png"]);
    assert!(std::fs::read(vm.world.path("x.png")).unwrap().starts_with(b"\x89PNG"));
    let (_, stats) = vm.world.json(["stats", "one"]);
    assert_eq!(stats["schema"], "benchtop.stats/1");
    assert_eq!(stats["accel"], "kvm");
    assert!(stats["start_ns"].as_u64().unwrap() > 0);
    assert_eq!(vm.world.json(["list"]).1["vms"][0]["state"], "running");
    // The firmware does not know the power button.
    vm.world.fails(9, ["stop", "one", "--timeout", "300ms"]);
    vm.world.ok(["stop", "one", "--force"]);
    assert_eq!(state(), "off");
    assert!(!vm.runtime("control.sock").exists() && !vm.runtime("screen").exists());
    vm.world.ok(["start", "one"]);
}

#[test]
fn the_monitor_can_not_open_what_is_outside_its_bundle() {
    let test = "the_monitor_can_not_open_what_is_outside_its_bundle";
    let Some(vm) = Running::start(test) else { return };
    let (_, shown) = vm.world.json(["show", "one"]);
    let sandbox = &shown["sandbox"];
    assert_eq!((&sandbox["seccomp"], &sandbox["no_new_privileges"]), (&true.into(), &true.into()));
    // The host's own word for it, for every thread.
    for task in std::fs::read_dir(format!("/proc/{}/task", vm.pid)).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
        assert_eq!((field("Seccomp:").as_str(), field("NoNewPrivs:").as_str()), ("2", "1"), "{}", field("Name:"));
    }
    if sandbox["landlock"] == false {
        return skip(test, "this kernel has no Landlock");
    }
    assert_eq!(sandbox["opened"].as_array().unwrap().len(), 0, "{sandbox}");
    assert!(sandbox["refused"].as_array().unwrap().contains(&"/etc/passwd".into()), "{sandbox}");
}

#[test]
fn a_disc_is_inserted_by_passed_descriptor() {
    let Some(vm) = Running::start("a_disc_is_inserted_by_passed_descriptor") else { return };
    blank_iso(&vm.world.path("disc.iso"));
    vm.world.ok(["cd", "insert", "one", "disc.iso"]);
    let file = || vm.world.json(["show", "one"]).1["devices"][1]["file"].clone();
    assert!(file().as_str().unwrap().ends_with("disc.iso"));
    // Its configuration follows, so that the disc is there at the next start.
    let config = || std::fs::read_to_string(vm.world.bundle("one").join("machine.toml")).unwrap();
    assert!(config().contains("disc.iso"));
    vm.world.ok(["cd", "eject", "one"]);
    assert!(file().is_null() && !config().contains("disc.iso"));
    vm.world.ok(["attach", "one", "cd", "disc.iso"]);
    vm.world.fails(4, ["attach", "one", "cd", "disc.iso"]);
    vm.world.fails(4, ["attach", "one", "cd"]);
    vm.world.fails(4, ["detach", "one", "cd0"]);
    vm.world.fails(3, ["cd", "eject", "one:cd3"]);
}

#[test]
fn another_user_is_refused() {
    let test = "another_user_is_refused";
    let Some(vm) = Running::start(test) else { return };
    let lock = vm.world.bundle("one").join("lock");
    let paths = [vm.runtime("control.sock"), vm.runtime("screen"), lock.clone()];
    for path in &paths {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
    // The folders on the way are opened to everybody, so that each file stands for itself.
    let open = |path: PathBuf| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    for folder in [vm.world.path("."), vm.world.library(), vm.world.bundle("one"), vm.world.path("runtime")] {
        open(folder);
    }
    open(vm.world.path("runtime/benchtop"));
    open(vm.runtime("."));
    for path in [&paths[1], &paths[2]] {
        let Some(mut command) = as_nobody(test, "/bin/sh".as_ref()) else { return };
        let refused = run(command.args(["-c", "exec 3<>\"$0\""]).arg(path));
        assert_ne!(refused.code, 0, "{}", path.display());
        assert!(refused.stderr.to_lowercase().contains("permission denied"), "{}", refused.stderr);
    }
    // Even a socket that anybody can reach is of no use: the other side's user is asked for.
    std::fs::set_permissions(&paths[0], std::fs::Permissions::from_mode(0o777)).unwrap();
    let Some(mut command) = as_nobody(test, "/usr/bin/python3".as_ref()) else { return };
    let script = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.settimeout(10)\ns.connect(sys.argv[1])\n\
        try:\n s.sendall(b'x')\n print('closed' if s.recv(1)==b'' else 'heard')\n\
        except (BrokenPipeError,ConnectionResetError): print('closed')";
    let Ok(output) = command.args(["-c", script]).arg(&paths[0]).output() else {
        return skip(test, "no python3 to be the other user with");
    };
    if matches!(output.status.code(), Some(126 | 127)) {
        return skip(test, "no python3 to be the other user with");
    }
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "closed", "{output:?}");
    std::fs::set_permissions(vm.runtime("."), std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::set_permissions(vm.world.path("runtime/benchtop"), std::fs::Permissions::from_mode(0o700)).unwrap();
    vm.world.ok(["show", "one"]);
}

#[test]
fn clients_that_talk_nonsense_are_dropped() {
    let Some(vm) = Running::start("clients_that_talk_nonsense_are_dropped") else { return };
    let dropped = |bytes: &[u8]| {
        let mut socket = vm.socket();
        socket.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // Closed with unread input is a reset, which is as good.
        matches!(socket.read_to_end(&mut answer), Ok(0)) || answer.is_empty()
    };
    assert!(dropped(&[0xff; 64]));
    assert!(dropped(b"\x05\0\0\0hello"));
    assert!(dropped(b"\x02\0\0\0{}"));
    // Half a message, and silence: it waits alone.
    let mut silent = vm.socket();
    silent.write_all(b"\xff\0\0\0{").unwrap();
    // More clients than there is room for wait until others go.
    let crowd: Vec<_> = (0..40).map(|_| UnixStream::connect(vm.runtime("control.sock")).unwrap()).collect();
    drop(crowd);
    vm.world.ok(["show", "one"]);
    drop(silent);
}

#[test]
fn a_client_that_never_listens_is_dropped() {
    let Some(vm) = Running::start("a_client_that_never_listens_is_dropped") else { return };
    let mut socket = vm.socket();
    let request = br#"{"schema":"benchtop.control/1","id":1,"command":{"verb":"stats"}}"#;
    let mut frame = u32::try_from(request.len()).unwrap().to_le_bytes().to_vec();
    frame.extend(request);
    socket.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    for _ in 0..100_000 {
        if socket.write_all(&frame).is_err() {
            break;
        }
    }
    vm.world.ok(["show", "one"]);
}

#[test]
fn a_killed_monitor_leaves_a_vm_that_starts_again() {
    let Some(vm) = Running::start("a_killed_monitor_leaves_a_vm_that_starts_again") else { return };
    let killed = std::process::Command::new("kill").args(["-9", &vm.pid.to_string()]).status().unwrap();
    assert!(killed.success());
    assert!(soon(|| vm.world.json(["show", "one"]).1["state"] == "off"));
    vm.world.ok(["start", "one"]);
}

#[test]
fn a_monitor_that_is_asked_to_end_does() {
    let Some(vm) = Running::start("a_monitor_that_is_asked_to_end_does") else { return };
    let asked = std::process::Command::new("kill").args(["-TERM", &vm.pid.to_string()]).status().unwrap();
    assert!(asked.success());
    assert!(soon(|| !vm.runtime("control.sock").exists()), "the socket is still there");
}

#[test]
fn boot_ends_as_it_was_told() {
    if !can_run_vms("boot_ends_as_it_was_told") {
        return;
    }
    let world = World::new();
    world.ok(["disk", "create", "a.raw", "--size", "1M"]);
    let boot = |rest: &[&str]| {
        let mut arguments = vec!["boot", "--memory", "64M", "--disk", "a.raw", "--timeout", "60s"];
        arguments.extend(rest);
        world.run(arguments)
    };
    let seen = boot(&["--until", "SeaBIOS", "--screenshot", "x.png", "--stats", "x.json", "--discard-writes"]);
    assert_eq!(seen.code, 0, "{}", seen.stderr);
    assert!(std::fs::read(world.path("x.png")).unwrap().starts_with(b"\x89PNG"));
    let stats: serde_json::Value = serde_json::from_slice(&std::fs::read(world.path("x.json")).unwrap()).unwrap();
    assert_eq!(stats["schema"], "benchtop.stats/1");
    world.fails(9, ["boot", "--memory", "64M", "--timeout", "1s", "--until", "never shown"]);
}

#[test]
fn ctrl_c_ends_a_boot() {
    if !can_run_vms("ctrl_c_ends_a_boot") {
        return;
    }
    let world = World::new();
    let mut child = world.command().args(["boot", "--memory", "64M", "--name", "brief"]).spawn().unwrap();
    assert!(soon(|| world.run(["show", "brief"]).code == 0));
    world.ok(["keys", "brief", "esc"]);
    world.ok(["screenshot", "brief", "x.png"]);
    world.ok(["stats", "brief"]);
    let asked = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(asked.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(world.run(["show", "brief"]).code, 3);
}
