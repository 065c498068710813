//! A VM that runs: its monitor, who may talk to it, and what it can not do. The guest is the firmware, which finds
//! nothing to boot.

#![expect(clippy::unwrap_used, reason = "only tests use this")]

#[expect(dead_code, reason = "this file uses a part of it")]
mod common;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use benchtop_control::{Client, Command, FailureKind, RuntimeFolder};

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

    /// A verb that waits for the VM, which runs, long enough to be about to wait.
    fn waiting(&self, verb: &[&str]) -> std::process::Child {
        let mut command = self.world.command();
        command.args(verb);
        if verb[0] == "start" {
            command.arg("--wait");
        } else {
            self.world.run(["start", "one"]);
        }
        // Input that stays open, so that a console stays connected.
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        assert!(soon(|| self.world.json(["show", "one"]).1["state"] == "running"));
        std::thread::sleep(Duration::from_millis(700));
        child
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
    // Its guest reads no keys: they would be lost.
    for verb in ["type", "keys"] {
        assert!(vm.world.fails(4, [verb, "one", "a"]).stderr.contains("paused"));
    }
    vm.world.ok(["resume", "one"]);
    vm.world.ok(["reset", "one"]);
    assert_eq!(state(), "running");
    vm.world.ok(["type", "one", "hello\\n"]);
    vm.world.ok(["keys", "one", "ctrl-alt-del", "f12"]);
    vm.world.fails(2, ["type", "one", "€"]);
    // The first is not pressed: the guest would be reset.
    let refused = vm.world.fails(2, ["keys", "one", "f12", "ctrl-bogus"]);
    assert!(refused.stderr.contains("There is no key `bogus`."), "{}", refused.stderr);
    vm.world.ok(["screenshot", "one", "x.png"]);
    assert!(std::fs::read(vm.world.path("x.png")).unwrap().starts_with(b"\x89PNG"));
    let (_, stats) = vm.world.json(["stats", "one"]);
    assert_eq!(stats["schema"], "benchtop.stats/1");
    assert_eq!(stats["accel"], "kvm");
    assert!(stats["start_ns"].as_u64().unwrap() > 0);
    assert_eq!(vm.world.json(["list"]).1["vms"][0]["state"], "running");
    // The firmware does not know the power button.
    assert!(vm.world.fails(9, ["stop", "one", "--timeout", "300ms"]).stderr.contains("within 300 ms"));
    vm.world.ok(["stop", "one", "--force"]);
    assert_eq!(state(), "off");
    assert!(!vm.runtime("control.sock").exists() && !vm.runtime("screen").exists());
    vm.world.ok(["start", "one"]);
}

/// Its password is asked for at every start, and given in ways that nobody else sees.
#[test]
fn a_vm_with_an_encrypted_disk() {
    if !can_run_vms("a_vm_with_an_encrypted_disk") {
        return;
    }
    let world = World::new();
    std::fs::write(world.path("right"), "open sesame").unwrap();
    std::fs::write(world.path("wrong"), "please").unwrap();
    let right = ["--password-file", "right"];
    world.ok([&["new", "one", "--encrypt", "--disk", "8M", "--disk", "8M", "--memory", "64M"], &right[..]].concat());
    assert!(world.fails(6, ["start", "one"]).stderr.contains("no password was given"));
    assert!(world.fails(6, ["start", "one", "--password-file", "wrong"]).stderr.contains("wrong"));
    world.ok([&["start", "one"], &right[..]].concat());
    let (_, shown) = world.json(["show", "one"]);
    assert_eq!((&shown["state"], &shown["devices"][1]["size_bytes"]), (&"running".into(), &(8 << 20).into()));
    // Not among its arguments, nor in its environment; and a crash of it leaves no picture of its memory.
    for file in ["cmdline", "environ"] {
        let said = std::fs::read(format!("/proc/{}/{file}", shown["pid"])).unwrap();
        assert!(!String::from_utf8_lossy(&said).contains("sesame"), "{file}");
    }
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", shown["pid"])).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    world.ok(["stop", "one", "--force"]);
    world.ok([&["disk", "check", "one:disk1"], &right[..]].concat());
    let disk = world.bundle("one").join("disks/disk0.strata");
    let boot = ["boot", "--memory", "64M", "--timeout", "60s", "--until", "SeaBIOS", "--disk", disk.to_str().unwrap()];
    world.fails(6, boot);
    world.ok([&boot[..], &right].concat());
    world.ok([&boot[..], &right, &["--discard-writes"]].concat());
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
    // What the next start would refuse is refused now.
    std::fs::write(vm.world.path("text.iso"), "no disc").unwrap();
    vm.world.fails(1, ["cd", "insert", "one", "text.iso"]);
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

/// `stats --watch | head -1` never ended: that nobody reads was no error.
#[test]
fn figures_that_nobody_reads_end() {
    let Some(vm) = Running::start("figures_that_nobody_reads_end") else { return };
    let mut command = vm.world.command();
    command.args(["stats", "one", "--watch", "100ms", "--json"]).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let status = (0..200).find_map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        child.try_wait().unwrap()
    });
    if status.is_none() {
        child.kill().unwrap();
    }
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((status.and_then(|status| status.code()), said.as_str()), (Some(141), ""));
}

/// A picture replaced the pipe or the link it was to be written to, and made a file private.
#[test]
fn a_picture_goes_where_it_is_sent() {
    let Some(vm) = Running::start("a_picture_goes_where_it_is_sent") else { return };
    let piped = vm.world.command().args(["screenshot", "one", "/dev/stdout"]).output().unwrap();
    assert!(piped.status.success() && piped.stdout.starts_with(b"\x89PNG"), "{piped:?}");
    let (file, link) = (vm.world.path("x.png"), vm.world.path("link.png"));
    std::fs::write(&file, "old").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("x.png", &link).unwrap();
    vm.world.ok(["screenshot", "one", "link.png"]);
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert!(std::fs::read(&file).unwrap().starts_with(b"\x89PNG"));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    // At any time, also before the firmware has set a mode.
    let (_, shot) = vm.world.json(["screenshot", "one", "x.png"]);
    assert!(shot["width"].as_u64().unwrap() >= 320 && shot["height"].as_u64().unwrap() >= 200, "{shot}");
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
    // Nothing but results and errors, and no colours in a pipe.
    let quiet = boot(&["--until", "SeaBIOS", "--discard-writes", "--quiet"]);
    assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""));
    assert!(!seen.stderr.contains('\u{1b}'), "{}", seen.stderr);
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
    // Another signal is not called Ctrl-C.
    let mut command = world.command();
    command.args(["boot", "--memory", "64M", "--name", "brief"]).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    assert!(soon(|| world.run(["show", "brief"]).code == 0));
    let asked = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(asked.success());
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code() == Some(130) && said.contains("A signal asked it to end."), "{said}");
}

fn kill(pid: u64) {
    let killed = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(killed.success());
}

/// A VM whose runtime folder was removed said it was off, could not be started because it was running, and could not
/// be stopped.
#[test]
fn a_vm_without_its_socket_can_be_ended() {
    let Some(vm) = Running::start("a_vm_without_its_socket_can_be_ended") else { return };
    // Another session of the same user, as cron or sudo make one: the monitor says where it listens.
    std::fs::create_dir(vm.world.path("elsewhere")).unwrap();
    let shown = run(vm.world.command().env("XDG_RUNTIME_DIR", vm.world.path("elsewhere")).args(["show", "one"]));
    assert!(shown.stdout.contains("running"), "{}{}", shown.stdout, shown.stderr);
    // The end of the user's last session.
    std::fs::remove_dir_all(vm.world.path("runtime/benchtop")).unwrap();
    assert_eq!(vm.world.json(["list"]).1["vms"][0]["state"], "unreachable");
    let (_, shown) = vm.world.json(["show", "one"]);
    assert_eq!((&shown["state"], &shown["pid"]), (&"unreachable".into(), &vm.pid.into()));
    let number = format!("process {}", vm.pid);
    for verb in [&["stop", "one"][..], &["start", "one"], &["rm", "one", "--yes"], &["stats", "one"]] {
        let refused = vm.world.fails(4, verb);
        assert!(refused.stderr.contains(&number), "{verb:?}: {}", refused.stderr);
    }
    vm.world.ok(["stop", "one", "--force"]);
    assert_eq!(vm.world.json(["show", "one"]).1["state"], "off");
    vm.world.fails(4, ["stop", "one", "--force"]);
    vm.world.ok(["start", "one"]);
}

/// What waits for a VM's end took the end of a killed monitor for a good one.
#[test]
fn a_killed_monitor_is_told_to_who_waits() {
    let test = "a_killed_monitor_is_told_to_who_waits";
    let Some(vm) = Running::start(test) else { return };
    for verb in [&["stop", "one"][..], &["console", "one"], &["stats", "one", "--watch", "200ms"], &["start", "one"]] {
        let child = vm.waiting(verb);
        kill(vm.world.json(["show", "one"]).1["pid"].as_u64().unwrap());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{verb:?}: {said}");
        assert!(said.contains("ended unexpectedly"), "{verb:?}: {said}");
        assert!(!said.contains("runs on"), "{verb:?}: {said}");
    }
}

/// A VM that goes off in good order is success for all of them.
#[test]
fn a_good_end_is_told_to_who_waits() {
    let Some(vm) = Running::start("a_good_end_is_told_to_who_waits") else { return };
    for verb in [&["stop", "one"][..], &["console", "one"], &["stats", "one", "--watch", "10s"], &["start", "one"]] {
        let child = vm.waiting(verb);
        vm.world.ok(["stop", "one", "--force"]);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{verb:?}: {said}");
        assert!(!said.contains("runs on"), "{verb:?}: {said}");
    }
}

/// Silent clients that filled the table kept every command out.
#[test]
fn silent_clients_do_not_lock_anybody_out() {
    let Some(vm) = Running::start("silent_clients_do_not_lock_anybody_out") else { return };
    let crowd: Vec<_> = (0..60).map(|_| vm.socket()).collect();
    let begun = Instant::now();
    assert_eq!(vm.world.json(["list"]).1["vms"][0]["state"], "running");
    vm.world.ok(["stop", "one", "--force"]);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    drop(crowd);
}

/// One client could connect thousands of consoles.
#[test]
fn consoles_have_a_limit() {
    let Some(vm) = Running::start("consoles_have_a_limit") else { return };
    let runtime = RuntimeFolder::open_at(&vm.world.path("runtime"), "benchtop").unwrap();
    let mut client = Client::connect(&runtime, &vm.uuid).unwrap().unwrap();
    let mut consoles = Vec::new();
    let refused = (0..100).find_map(|_| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        consoles.push(ours);
        client.request(Command::Console, &[theirs.as_fd()]).err()
    });
    assert!(consoles.len() <= 32, "{}", consoles.len());
    assert_eq!(refused.unwrap().kind, FailureKind::WrongState);
    // Full of those that stay, there is still room for who asks and goes.
    assert_eq!(vm.world.run(["console", "one"]).code, 4);
    assert_eq!(vm.world.json(["list"]).1["vms"][0]["state"], "running");
    vm.world.ok(["stop", "one", "--force"]);
}

/// `new` took the name of a running throw-away VM, and no verb reached that one any longer.
#[test]
fn a_booted_vm_keeps_its_name() {
    if !can_run_vms("a_booted_vm_keeps_its_name") {
        return;
    }
    let world = World::new();
    world.ok(["new", "other", "--memory", "64M"]);
    let mut child = world.command().args(["boot", "--memory", "64M", "--name", "gb"]).spawn().unwrap();
    assert!(soon(|| world.run(["show", "gb"]).code == 0));
    world.fails(4, ["new", "gb", "--memory", "64M"]);
    world.fails(4, ["set", "other", "name=gb"]);
    let (_, list) = world.json(["list"]);
    assert_eq!((&list["vms"][1]["name"], &list["vms"][1]["state"]), (&"gb".into(), &"running".into()));
    assert!(list["vms"][1]["path"].is_null());
    // A bundle that got the name in spite of that does not hide it.
    std::fs::rename(world.bundle("other"), world.bundle("gb")).unwrap();
    world.ok(["stats", "gb"]);
    assert!(world.ok(["show", "gb"]).stderr.contains("`boot`"));
    world.ok(["stop", "gb", "--force"]);
    child.wait().unwrap();
    world.fails(4, ["stats", "gb"]);
    world.ok(["new", "other", "--memory", "64M"]);
}

/// It was refused.
#[test]
fn a_vm_with_a_bundle_runs_on_the_software_cpu() {
    if !common::has_firmware() {
        return skip("a_vm_with_a_bundle_runs_on_the_software_cpu", "no SeaBIOS");
    }
    let world = World::new();
    world.ok(["new", "one", "--disk", "8M", "--memory", "64M", "--cpus", "2"]);
    world.ok(["start", "one", "--accel", "software"]);
    let (_, shown) = world.json(["show", "one"]);
    assert_eq!((&shown["state"], &shown["accel"]), (&"running".into(), &"software".into()), "{shown}");
    world.ok(["pause", "one"]);
    world.ok(["resume", "one"]);
    let (_, stats) = world.json(["stats", "one"]);
    assert_eq!(stats["accel"], "software", "{stats}");
    world.ok(["stop", "one", "--force"]);
}
