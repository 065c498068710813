//! What the verbs of disks refuse, and whether what they advise then can be done.

#![expect(clippy::unwrap_used, reason = "only tests use this")]

#[expect(dead_code, reason = "this file uses a part of it")]
mod common;

use common::{World, fifo};

/// A world with a raw disk `source.img`, a Strata disk `d.strata` of it, and a password in `password`.
fn world() -> World {
    let world = World::new();
    std::fs::write(world.path("source.img"), [7; 1 << 20]).unwrap();
    std::fs::write(world.path("password"), "secret\n").unwrap();
    world.ok(["disk", "convert", "source.img", "d.strata"]);
    world
}

/// They made plain disks.
#[test]
fn a_password_without_encryption_is_refused() {
    let world = world();
    for arguments in [
        &["disk", "create", "x.strata", "--size", "1M", "--password-file", "password"][..],
        &["disk", "create", "x.strata", "--size", "1M", "--password-fd", "0"],
        &["disk", "convert", "source.img", "x.strata", "--new-password-file", "password"],
        &["disk", "convert", "source.img", "x.strata", "--new-password-fd", "0"],
        &["disk", "fork", "d.strata", "x.strata", "--new-password-file", "password"],
        &["new", "x", "--disk", "1M", "--password-file", "password"],
    ] {
        let refused = world.fails(2, arguments);
        assert!(refused.stderr.contains("--encrypt"), "{arguments:?}: {}", refused.stderr);
    }
    assert!(!world.path("x.strata").exists() && !world.bundle("x").exists());
    // That of the source makes no claim about the copy.
    world.ok(["disk", "convert", "source.img", "e.strata", "--encrypt", "--new-password-file", "password"]);
    world.ok(["disk", "convert", "e.strata", "plain.raw", "--password-file", "password"]);
    world.ok(["disk", "fork", "e.strata", "f.strata", "--password-file", "password"]);
}

#[test]
fn what_is_advised_is_there() {
    let world = world();
    let why = world.fails(1, ["disk", "create", "d.strata", "--size", "1M"]).stderr;
    assert!(why.contains("exists") && !why.contains("--force"), "{why}");
    for format in ["vmdk", "vdi", "vhd", "vhdx"] {
        let name = format!("a.{format}");
        world.ok(["disk", "create", &name, "--size", "40M"]);
        for arguments in [&["disk", "resize", &name, "20M"][..], &["disk", "resize", &name, "20M", "--shrink"]] {
            let why = world.fails(1, arguments).stderr;
            assert!(why.contains("disk convert") && !why.contains("--shrink"), "{why}");
        }
    }
    std::fs::hard_link(world.path("d.strata"), world.path("same")).unwrap();
    std::os::unix::fs::symlink("d.strata", world.path("link")).unwrap();
    for target in ["d.strata", "same", "link"] {
        for verb in ["convert", "fork"] {
            for force in [&[][..], &["--force"]] {
                let why = world.fails(2, [&["disk", verb, "d.strata", target], force].concat()).stderr;
                assert!(why.contains("same file"), "{why}");
            }
        }
    }
    for force in [&[][..], &["--force"]] {
        let why = world.fails(1, [&["disk", "convert", "source.img", "library"], force].concat()).stderr;
        assert!(why.contains("a directory") && !why.contains("--force"), "{why}");
    }
    let why = world.fails(1, ["disk", "compact", "source.img"]).stderr;
    assert!(why.contains("only Strata disks can be compacted"), "{why}");
    for text in ["", "source.img,format=foo", ",format=raw"] {
        let why = world.fails(2, ["disk", "info", text]).stderr;
        assert!(why.contains("FILE,format=F") && !why.contains("20G"), "{why}");
    }
    let why = world.fails(2, ["disk", "serve", "d.strata", "--socket", &"x".repeat(200)]).stderr;
    assert!(why.contains("200 bytes"), "{why}");
    let why = world.fails(2, ["disk", "info", &format!("nbd+unix:///?socket=/{}", "x".repeat(199))]).stderr;
    assert!(why.contains("200 bytes"), "{why}");
    // Cut off, both superblocks: what a check says is not to check, and what a repair says not to repair.
    let file = std::fs::File::options().write(true).open(world.path("d.strata")).unwrap();
    for at in [0, 64 << 10] {
        std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 64], at + 100).unwrap();
    }
    for verb in ["check", "repair"] {
        let run = world.run(["disk", verb, "d.strata,format=strata"]);
        assert!(run.code != 0 && !run.stderr.contains(&format!("disk {verb}`")), "{}", run.stderr);
    }
}

#[test]
fn what_is_no_file_is_called_what_it_is() {
    let world = world();
    fifo(&world.path("pipe"));
    std::os::unix::fs::symlink("loop", world.path("loop")).unwrap();
    for (name, kind) in
        [("library", "a directory"), ("pipe", "a pipe"), ("/dev/null", "a device"), ("loop", "leads in a circle")]
    {
        for verb in [&["disk", "info", name][..], &["disk", "resize", name, "4M"], &["disk", "convert", name, "x.raw"]]
        {
            let why = world.fails(1, verb).stderr;
            assert!(why.contains(kind), "{verb:?}: {why}");
        }
    }
}

#[test]
fn usage_names_what_can_be_chosen() {
    let world = world();
    for (arguments, choices) in [
        (&["disk", "serve", "d.strata"][..], ["--socket", "--listen"]),
        (&["disk", "snap", "go", "d.strata"], ["NAME", "--at"]),
        (&["disk", "compact", "d.strata", "--garbage", "abc"], ["percent", "1000"]),
    ] {
        let run = world.run(arguments);
        assert!(run.code == 2 && choices.iter().all(|choice| run.stderr.contains(choice)), "{}", run.stderr);
        let (code, document) = world.json(arguments);
        let why = document["error"]["why"].as_str().unwrap();
        assert!(code == 2 && choices.iter().all(|choice| why.contains(choice)), "{why}");
    }
}
