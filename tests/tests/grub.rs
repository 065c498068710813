//! GRUB's rescue CD: real firmware and a real boot loader on our CD-ROM, disk, screen and keyboard.

use anyhow::Result;
use benchtop_tests::guests::sample;
use benchtop_tests::vm::{self, Bench};

fn guests(test: &str) -> Option<(String, String)> {
    if !vm::can_run(test) {
        return None;
    }
    match (sample("grub-rescue-cdrom.iso"), sample("sample-disk.img")) {
        (Some(iso), Some(disk)) => Some((iso.display().to_string(), disk.display().to_string())),
        _ => {
            vm::skip(test, "the sample guests are not there: cargo xtask guests");
            None
        }
    }
}

#[test]
fn the_rescue_cd_shows_its_menu() -> Result<()> {
    let Some((iso, disk)) = guests("the_rescue_cd_shows_its_menu") else { return Ok(()) };
    let bench = Bench::new()?;
    let picture = bench.path("menu.png");
    bench.run(&[
        "boot",
        "--accel",
        "kvm",
        "--memory",
        "256M",
        "--iso",
        &iso,
        "--disk",
        &disk,
        "--discard-writes",
        "--timeout",
        "240s",
        "--until",
        "GNU GRUB",
        "--screenshot",
        &picture.to_string_lossy(),
    ])?;
    assert!(std::fs::read(&picture)?.starts_with(b"\x89PNG"));
    Ok(())
}

/// The same on our own processor: SeaBIOS and GRUB go through real mode, protected mode and back, many times.
#[test]
fn the_rescue_cd_shows_its_menu_on_the_software_cpu() -> Result<()> {
    let name = "the_rescue_cd_shows_its_menu_on_the_software_cpu";
    let Some(iso) = sample("grub-rescue-cdrom.iso") else {
        vm::skip(name, "the sample guests are not there: cargo xtask guests");
        return Ok(());
    };
    let (bench, iso) = (Bench::new()?, iso.display().to_string());
    let boot = ["boot", "--accel", "software", "--memory", "256M", "--iso", &iso, "--timeout", "120s"];
    bench.run(&[&boot[..], &["--until", "GNU GRUB"]].concat())?;
    Ok(())
}

/// The prompt, typed at as a user would. With its modules named, GRUB does not try every file system it knows. That
/// it reads files of the disc shows in its having modules at all.
#[test]
fn grub_lists_and_reads_files_from_the_disk_and_the_cd() -> Result<()> {
    let name = "grub_lists_and_reads_files_from_the_disk_and_the_cd";
    let Some((iso, disk)) = guests(name) else { return Ok(()) };
    let bench = Bench::new()?;
    let texts = [
        "c",
        "insmod part_msdos\\n",
        "insmod ext2\\n",
        "ls (cd)/boot/grub\\n",
        "ls (hd0,msdos1)/\\n",
        "cat (hd0,msdos1)/hello.txt\\n",
    ];
    // Lines of the screen, which `--until` takes as one text: the end of the disc's list, the disk's, the file.
    let until = "roms/grub> ls (hd0,msdos1)/lost+found/ boot/ hello.txt pattern.bin\
                 grub> cat (hd0,msdos1)/hello.txtHello from an ext4 disk";
    let mut arguments = vec!["boot", "--accel", "kvm", "--memory", "256M", "--iso", &iso, "--disk", &disk];
    arguments.extend(["--discard-writes", "--timeout", "400s", "--until", until]);
    for text in texts {
        arguments.extend(["--type", text]);
    }
    bench.run(&arguments)?;
    Ok(())
}

#[test]
fn a_bundle_is_made_started_seen_typed_at_and_stopped() -> Result<()> {
    let Some((iso, _)) = guests("a_bundle_is_made_started_seen_typed_at_and_stopped") else { return Ok(()) };
    let bench = Bench::new()?;
    bench.run(&["new", "story", "--iso", &iso, "--disk", "16M", "--memory", "256M"])?;
    bench.run(&["start", "story", "--accel", "kvm"])?;
    let picture = bench.path("screen.png");
    bench.run(&["screenshot", "story", &picture.to_string_lossy()])?;
    assert!(std::fs::read(&picture)?.starts_with(b"\x89PNG"));
    bench.run(&["type", "story", "c"])?;
    let stats: serde_json::Value = serde_json::from_str(&bench.run(&["stats", "story", "--json"])?)?;
    assert_eq!(stats["schema"], "benchtop.stats/1");
    bench.run(&["stop", "story", "--force"])?;
    let list: serde_json::Value = serde_json::from_str(&bench.run(&["list", "--json"])?)?;
    assert!(list.to_string().contains("story"));
    Ok(())
}
