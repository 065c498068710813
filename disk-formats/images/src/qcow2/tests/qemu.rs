//! Beside QEMU's own tools: images they made are read and written here, images written here pass their checks.

use std::process::{Command, Output};

use benchtop_block::conformance::{self, Sequence, read, write};

use super::*;
use crate::RawDisk;

const SIZE: usize = 8 << 20;

fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    Command::new(program).args(arguments).output().ok()
}

/// Whether the tools are here; says so if not.
fn has_qemu(test: &str) -> bool {
    let found = ["qemu-img", "qemu-io"].iter().all(|program| run(program, &["--version"]).is_some());
    if !found {
        println!("SKIPPED {test}: qemu-img and qemu-io are not installed");
    }
    found
}

/// Runs what must succeed, again where a lock of ours outlived its disk (see [`reopen`]).
fn must(program: &str, arguments: &[&str]) -> String {
    for _ in 0..100 {
        let output = run(program, arguments).unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() {
            return text;
        }
        assert!(text.contains("Failed to get") && text.contains("lock"), "{program} {arguments:?}: {text}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{program} {arguments:?}: the image stays locked");
}

fn img(arguments: &[&str]) -> String {
    must("qemu-img", arguments)
}

/// Zeroes, data that packs and data that does not, in pieces that end anywhere.
fn content(seed: u64) -> Vec<u8> {
    let mut sequence = Sequence::new(seed);
    let mut bytes = Vec::with_capacity(SIZE);
    while bytes.len() < SIZE {
        let len = (1 + sequence.below(400)) as usize * 512;
        match sequence.below(4) {
            0 | 1 => bytes.resize(bytes.len() + len, 0),
            2 => {
                let start = bytes.len();
                bytes.resize(start + len, sequence.below(256) as u8);
                bytes[start..].iter_mut().step_by(7).for_each(|byte| *byte ^= sequence.below(4) as u8);
            }
            _ => bytes.extend(sequence.bytes(len)),
        }
    }
    bytes.truncate(SIZE);
    bytes
}

/// Writes and discards at random, on the disk and in `model`.
fn disturb(disk: &dyn DiskBackend, model: &mut [u8], seed: u64) {
    let mut sequence = Sequence::new(seed);
    for step in 0..120 {
        let start = sequence.below(model.len() as u64 / 512) as usize * 512;
        let len = (1 + sequence.below(if step % 8 == 0 { 900 } else { 30 })) as usize * 512;
        let end = (start + len).min(model.len());
        if step % 5 == 4 {
            disk.discard(start as u64, (end - start) as u64).unwrap();
            model[start..end].fill(0);
        } else {
            let bytes = sequence.bytes(end - start);
            write(disk, start as u64, &bytes, &[], step % 20 == 0).unwrap();
            model[start..end].copy_from_slice(&bytes);
        }
    }
}

/// The image at `path` holds `model`, says QEMU, and nothing is wrong with it.
fn judged(path: &Path, model: &[u8]) {
    let raw = path.with_extension("model");
    std::fs::write(&raw, model).unwrap();
    let (path, raw) = (path.to_str().unwrap(), raw.to_str().unwrap());
    img(&["compare", "-f", "qcow2", "-F", "raw", path, raw]);
    let text = img(&["check", "-f", "qcow2", path]);
    assert!(text.contains("No errors were found"), "{text}");
}

/// Files that end within a cluster, or right behind what was written or given out: the rule that refuses what a file
/// was cut to must accept all that QEMU makes.
#[test]
fn files_that_qemu_left_short_are_whole() {
    if !has_qemu("files_that_qemu_left_short_are_whole") {
        return;
    }
    const END: u64 = (5 << 20) + 1536;
    let mut short = 0;
    for cluster_bytes in [16384u64, 65536, 2 << 20] {
        for (extended, how) in [false, true]
            .into_iter()
            .flat_map(|extended| ["off", "metadata", "falloc", "full"].map(|how| (extended, how)))
        {
            let place = Place::new();
            let path = place.path("disk.qcow2");
            let name = path.to_str().unwrap();
            let extended_l2 = if extended { "on" } else { "off" };
            let shape = format!("preallocation={how},cluster_size={cluster_bytes},extended_l2={extended_l2}");
            img(&["create", "-q", "-f", "qcow2", "-o", &shape, name, &END.to_string()]);
            let mut model = vec![0; END as usize];
            // Alone, in the last cluster, and in one that a discard made a hole of.
            for (step, at) in [END - 512, 5120, 3 << 20].into_iter().enumerate() {
                let what = format!("{shape}, step {step}");
                short += u64::from(!std::fs::metadata(&path).unwrap().len().is_multiple_of(cluster_bytes));
                assert!(read(&reopen(&path, true).unwrap(), 0, model.len(), &[]).unwrap() == model, "{what}");
                assert_eq!(check(&File::open(&path).unwrap()).unwrap(), CheckReport::default(), "{what}");
                let fill = format!("write -P {} {at} 512", step + 1);
                must("qemu-io", &["-f", "qcow2", "-d", "unmap", "-c", &fill, "-c", "discard 1048576 300000", name]);
                model[at as usize..][..512].fill(step as u8 + 1);
            }
            for how in ["off", "metadata", "falloc"] {
                img(&["resize", "-q", "-f", "qcow2", &format!("--preallocation={how}"), name, "+1000448"]);
                model.resize(model.len() + 1_000_448, 0);
                assert!(read(&reopen(&path, true).unwrap(), 0, model.len(), &[]).unwrap() == model, "{shape}, {how}");
                assert_eq!(check(&File::open(&path).unwrap()).unwrap(), CheckReport::default(), "{shape}, {how}");
            }
            let disk = reopen(&path, false).unwrap_or_else(|error| panic!("{shape}: {error}"));
            disturb(&disk, &mut model, cluster_bytes);
            assert!(read(&disk, 0, model.len(), &[]).unwrap() == model, "{shape}");
            drop(disk);
            judged(&path, &model);
        }
    }
    assert!(short > 10, "only {short} files ended within a cluster");
}

#[test]
fn every_kind_of_image_is_read_and_written() {
    if !has_qemu("every_kind_of_image_is_read_and_written") {
        return;
    }
    let mut kinds: Vec<(String, bool)> = Vec::new();
    for bits in 9..=21 {
        kinds.push((format!("compat=1.1,cluster_size={}", 1 << bits), false));
    }
    for bits in [1, 2, 4, 8, 32, 64] {
        kinds.push((format!("compat=1.1,refcount_bits={bits},cluster_size=4096"), bits >= 8));
    }
    for bits in [14, 16, 18, 21] {
        kinds.push((format!("compat=1.1,extended_l2=on,cluster_size={}", 1 << bits), false));
        kinds.push((format!("compat=1.1,extended_l2=on,cluster_size={}", 1 << bits), true));
    }
    for bits in [9, 12, 16, 21] {
        kinds.push((format!("compat=0.10,cluster_size={}", 1 << bits), bits != 9));
        kinds.push((format!("compat=1.1,cluster_size={}", 1 << bits), true));
        kinds.push((format!("compat=1.1,compression_type=zstd,cluster_size={}", 1 << bits), true));
    }
    for how in ["metadata", "falloc", "full"] {
        kinds.push((format!("compat=1.1,preallocation={how}"), false));
        kinds.push((format!("compat=0.10,preallocation={how}"), false));
    }
    kinds.push(("compat=1.1,preallocation=metadata,extended_l2=on".into(), false));
    kinds.push(("compat=1.1,lazy_refcounts=on".into(), false));
    for (number, (kind, packed)) in kinds.iter().enumerate() {
        let place = Place::new();
        let (raw, path) = (place.path("source.raw"), place.path("disk.qcow2"));
        let mut model = content(number as u64 % 5);
        std::fs::write(&raw, &model).unwrap();
        let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", kind];
        if *packed {
            arguments.push("-c");
        }
        arguments.extend([raw.to_str().unwrap(), path.to_str().unwrap()]);
        img(&arguments);
        conformance::read_only(&reopen(&path, true).unwrap_or_else(|error| panic!("{kind}: {error}")), &model);
        let report = check(&File::open(&path).unwrap()).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(report, CheckReport::default(), "{kind}, packed: {packed}");
        let disk = reopen(&path, false).unwrap_or_else(|error| panic!("{kind}: {error}"));
        disturb(&disk, &mut model, number as u64);
        assert!(read(&disk, 0, SIZE, &[]).unwrap() == model, "{kind}, packed: {packed}");
        drop(disk);
        judged(&path, &model);
    }
}

#[test]
fn images_made_here_pass_their_check() {
    if !has_qemu("images_made_here_pass_their_check") {
        return;
    }
    for (number, shape) in shapes(SIZE as u64).iter().enumerate() {
        let place = Place::new();
        let path = place.path("disk.qcow2");
        let disk = Qcow2Disk::open(create(&path, shape).unwrap(), false).unwrap();
        let mut model = vec![0; SIZE];
        disturb(&disk, &mut model, number as u64 + 50);
        drop(disk);
        judged(&path, &model);
        // And they write it in turn, which is read here.
        let file = path.to_str().unwrap();
        must(
            "qemu-io",
            &["-f", "qcow2", "-c", "write -P 0x5a 100k 300k", "-c", "discard 1M 1M", "-c", "write -z 3M 64k", file],
        );
        model[100 << 10..400 << 10].fill(0x5a);
        model[3 << 20..(3 << 20) + 65536].fill(0);
        let disk = reopen(&path, false).unwrap();
        model[1 << 20..2 << 20].copy_from_slice(&read(&disk, 1 << 20, 1 << 20, &[]).unwrap());
        assert!(read(&disk, 0, SIZE, &[]).unwrap() == model, "{shape:?}");
        disturb(&disk, &mut model, 99);
        drop(disk);
        judged(&path, &model);
    }
}

#[test]
fn snapshots_are_listed_and_keep_their_content() {
    if !has_qemu("snapshots_are_listed_and_keep_their_content") {
        return;
    }
    for kind in
        ["compat=1.1", "compat=0.10,cluster_size=4096", "compat=1.1,extended_l2=on", "compat=1.1,compression_type=zstd"]
    {
        let place = Place::new();
        let (raw, path) = (place.path("source.raw"), place.path("disk.qcow2"));
        let (path_name, raw_name) = (path.to_str().unwrap(), raw.to_str().unwrap());
        let mut model = content(3);
        std::fs::write(&raw, &model).unwrap();
        let pack: &[&str] = if kind.contains("zstd") { &["-c"] } else { &[] };
        let arguments =
            [&["convert", "-f", "raw", "-O", "qcow2", "-o", kind][..], pack, &[raw_name, path_name]].concat();
        img(&arguments);
        let mut then = Vec::new();
        for name in ["first one", "second"] {
            img(&["snapshot", "-c", name, path_name]);
            then.push((name, model.clone()));
            let disk = reopen(&path, false).unwrap();
            disturb(&disk, &mut model, then.len() as u64);
            let listed = disk.snapshots().unwrap();
            assert_eq!(
                listed.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(),
                then.iter().map(|(name, _)| *name).collect::<Vec<_>>()
            );
            let last = listed.last().unwrap();
            assert_eq!(
                (last.id.as_str(), last.disk_bytes, last.state_bytes),
                (format!("{}", then.len()).as_str(), SIZE as u64, 0)
            );
            assert!(last.date_seconds > 1_700_000_000);
            drop(disk);
            judged(&path, &model);
        }
        for (name, model) in &then {
            img(&["convert", "-f", "qcow2", "-l", name, "-O", "raw", path_name, raw_name]);
            assert!(std::fs::read(&raw).unwrap() == *model, "{kind}: snapshot {name} changed");
        }
        let report = check(&File::open(&path).unwrap()).unwrap();
        assert_eq!(report, CheckReport::default(), "{kind}");
    }
}

#[test]
fn overlays_show_what_their_backing_file_holds() {
    if !has_qemu("overlays_show_what_their_backing_file_holds") {
        return;
    }
    for kind in
        ["compat=1.1", "compat=0.10,cluster_size=512", "compat=1.1,extended_l2=on", "compat=1.1,cluster_size=2M"]
    {
        let place = Place::new();
        let (base, path) = (place.path("base.raw"), place.path("disk.qcow2"));
        let base_content = content(4);
        // The base is shorter than the disk.
        std::fs::write(&base, &base_content[..SIZE - (1 << 20) - 512]).unwrap();
        let size = SIZE.to_string();
        img(&["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "-o", kind, path.to_str().unwrap(), &size]);
        let mut model = base_content;
        model[SIZE - (1 << 20) - 512..].fill(0);
        let backing = Arc::new(RawDisk::open(File::open(&base).unwrap(), true).unwrap());
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let disk = Qcow2Disk::open_with_backing(file, false, backing).unwrap();
        assert!(read(&disk, 0, SIZE, &[]).unwrap() == model, "{kind}");
        disturb(&disk, &mut model, 11);
        assert!(read(&disk, 0, SIZE, &[]).unwrap() == model, "{kind}");
        drop(disk);
        judged(&path, &model);
    }
}

/// With lazy refcounts an image that was not closed counts next to nothing.
#[test]
fn an_image_that_was_not_closed_is_repaired() {
    if !has_qemu("an_image_that_was_not_closed_is_repaired") {
        return;
    }
    for kind in [
        "lazy_refcounts=on",
        "lazy_refcounts=on,cluster_size=512",
        "lazy_refcounts=on,extended_l2=on",
        "lazy_refcounts=on,refcount_bits=1",
    ] {
        let place = Place::new();
        let path = place.path("disk.qcow2");
        let name = path.to_str().unwrap();
        img(&["create", "-q", "-f", "qcow2", "-o", kind, name, &SIZE.to_string()]);
        let script = [
            "-c",
            "write -P 1 0 1M",
            "-c",
            "write -P 2 3M 700k",
            "-c",
            "write -z 64k 64k",
            "-c",
            "flush",
            "-c",
            "abort",
        ];
        let arguments = [&["-f", "qcow2"][..], &script, &[name]].concat();
        assert!(!run("qemu-io", &arguments).unwrap().status.success());
        let facts = info(&File::open(&path).unwrap()).unwrap();
        assert!(facts.dirty, "{kind}");
        let mut model = vec![0; SIZE];
        model[..1 << 20].fill(1);
        model[64 << 10..128 << 10].fill(0);
        model[3 << 20..(3 << 20) + (700 << 10)].fill(2);
        conformance::read_only(&reopen(&path, true).unwrap(), &model);
        let disk = reopen(&path, false).unwrap();
        disturb(&disk, &mut model, 5);
        drop(disk);
        judged(&path, &model);
    }
}

/// Threads at work, then their check.
#[test]
fn what_threads_leave_passes_their_check() {
    if !has_qemu("what_threads_leave_passes_their_check") {
        return;
    }
    for shape in [options(SIZE as u64, 4096, 16, false), options(SIZE as u64, 65536, 16, true)] {
        let place = Place::new();
        let path = place.path("disk.qcow2");
        let disk = Qcow2Disk::open(create(&path, &shape).unwrap(), false).unwrap();
        let part = SIZE / 4;
        let parts: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let work = |thread: usize| {
                let disk = &disk;
                move || {
                    let mut model = vec![0u8; part];
                    let mut sequence = Sequence::new(thread as u64 + 1);
                    for step in 0..200 {
                        // Parts begin within clusters that two threads share.
                        let start = sequence.below(part as u64 / 512) as usize * 512;
                        let end = (start + 512 * (1 + sequence.below(50)) as usize).min(part);
                        let offset = (thread * part + start) as u64;
                        if step % 6 == 5 {
                            disk.discard(offset, (end - start) as u64).unwrap();
                            model[start..end].fill(0);
                        } else {
                            let bytes = sequence.bytes(end - start);
                            write(disk, offset, &bytes, &[], step % 16 == 0).unwrap();
                            model[start..end].copy_from_slice(&bytes);
                        }
                    }
                    model
                }
            };
            let threads: Vec<_> = (0..4).map(|thread| scope.spawn(work(thread))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        drop(disk);
        judged(&path, &parts.concat());
    }
}
