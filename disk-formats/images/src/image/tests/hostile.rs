//! Images of every kind with damage of every kind: whatever is asked of them, the answer is an error or the disk, soon
//! and in little memory.

use std::time::{Duration, Instant};

use super::*;

const SIZE: u64 = 3 << 20;
/// Places of an image that are changed, at most, each in several ways.
const PLACES: usize = 120;
/// Lengths that an image is cut to.
const CUTS: usize = 60;
/// For everything that is asked of one image; far more than it takes.
const MAX_TIME: Duration = Duration::from_secs(20);
/// Address space of the process that asks, in KiB: what the modules promise in all, and the program.
const LIMIT_KIB: u64 = 600 << 10;
/// Set for that process, to the folder of what QEMU made.
const LIMITED: &str = "BENCHTOP_TEST_LIMITED";

/// The files of an image by their names, in memory.
#[derive(Clone)]
struct Files(Vec<(String, Vec<u8>)>);

fn memory_file(bytes: &[u8]) -> File {
    #[cfg(target_os = "linux")]
    let file = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).map(File::from);
    #[cfg(not(target_os = "linux"))]
    let file = tempfile::tempfile();
    let file = file.unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (index, page) in bytes.chunks(4096).enumerate().filter(|(_, page)| page.iter().any(|byte| *byte != 0)) {
        crate::mapped::testing::put_at(&file, index as u64 * 4096, page);
    }
    file
}

impl Files {
    /// The first is the image, the others are what it may name.
    fn read(folder: &Folder) -> Self {
        let names = std::fs::read_dir(folder.0.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort_by_key(|name| (name != "disk.img", name.clone()));
        let read = |name: String| (name.clone(), std::fs::read(folder.path(&name)).unwrap());
        Self(names.into_iter().map(read).collect())
    }

    /// Everything that can be asked of an image; how much of it failed.
    fn exercise(&self, format: Format) -> usize {
        let started = Instant::now();
        let files: Vec<(&str, File)> = self.0.iter().map(|(name, bytes)| (&name[..], memory_file(bytes))).collect();
        let main = || files[0].1.try_clone().unwrap();
        let named = |wanted: &NamedFile<'_>| {
            let found = files.iter().find(|(name, _)| *name == wanted.name);
            found.map(|(_, file)| Named::File(file.try_clone().unwrap())).ok_or_else(|| unsupported("nobody has it"))
        };
        let password = Zeroizing::new(b"x".to_vec());
        let mut failures = 0;
        let mut note = |failed: bool| failures += usize::from(failed);
        let reading = OpenOptions { read_only: true, named: Some(&named), password: Some(&password) };
        let writing = OpenOptions { read_only: false, ..reading };
        probe_file(&files[0].1).unwrap();
        note(info(&files[0].1, format).is_err());
        note(format != Format::Raw && check(main(), format, &reading).is_err());
        for options in [&reading, &writing] {
            match open(main(), format, options) {
                Ok(disk) => note(!use_disk(&*disk, !options.read_only)),
                Err(_) => note(true),
            }
        }
        let repairs = matches!(format, Format::Qcow2 | Format::Vhd | Format::Vhdx | Format::Vmdk);
        for size in [SIZE + (70 << 20), 1 << 20] {
            note(resize(main(), format, size, Shrink::Allowed, &writing).is_err());
        }
        note(repairs && repair(main(), format).is_err());
        assert!(started.elapsed() < MAX_TIME, "{format}: {:?}", started.elapsed());
        failures
    }
}

/// Uses both ends of a disk; whether all went well.
fn use_disk(disk: &dyn DiskBackend, writing: bool) -> bool {
    let size = disk.info().size_bytes;
    let mut well = true;
    for at in [0, size / 2 / 512 * 512, size.saturating_sub(192 << 10) / 512 * 512] {
        let len = (size - at).min(192 << 10);
        let mut left = len;
        while left > 0 {
            let Ok(extent) = disk.extent_at(at + len - left, left) else {
                well = false;
                break;
            };
            assert!((1..=left).contains(&extent.len_bytes));
            left -= extent.len_bytes;
        }
        well &= read(disk, at, len as usize, &[700]).is_ok();
        if writing {
            well &= write(disk, at, &[1; 1024][..len.min(1024) as usize], &[], at == 0).is_ok();
            well &= disk.discard(at, len.min(80 << 10)).is_ok();
            well &= disk.flush().is_ok();
        }
    }
    well
}

/// Kinds of which QEMU's images are taken: format and options.
const MADE_BY_QEMU: [(Format, &str, &[&str]); 5] = [
    (Format::Qcow2, "compression_type=zlib,cluster_size=4k", &["-c"]),
    (Format::Qcow2, "compression_type=zstd", &["-c"]),
    (Format::Qcow2, "extended_l2=on,cluster_size=16k", &[]),
    (Format::Qcow2, "compat=0.10,cluster_size=512", &[]),
    (Format::Vmdk, "subformat=streamOptimized", &[]),
];

/// A small image of each kind with some data, and what QEMU made in a folder.
fn samples(made: &Path) -> Vec<(String, Format, Files)> {
    let mut samples = Vec::new();
    for (format, variant) in all_kinds() {
        let folder = Folder::new();
        let path = folder.path("disk.img");
        drop(create(&path, &CreateOptions { variant, ..CreateOptions::new(format, SIZE) }).unwrap());
        let disk = open_all(&path, format, false).unwrap();
        for at in [0, 700 << 10, SIZE - 4096] {
            write(&*disk, at, &[0x5a; 4096], &[], false).unwrap();
        }
        drop(disk);
        samples.push((format!("{format} {variant:?}"), format, Files::read(&folder)));
    }
    for (index, (format, options, _)) in MADE_BY_QEMU.iter().enumerate() {
        if let Ok(bytes) = std::fs::read(made.join(index.to_string())) {
            samples.push((format!("{format} {options}"), *format, Files(vec![("disk.img".into(), bytes)])));
        }
    }
    samples
}

/// Has QEMU make what it is to make, in a folder. Its program does not run where memory is limited.
fn make_by_qemu(folder: &Path) {
    let raw = folder.join("raw");
    let mut bytes = vec![0; SIZE as usize];
    bytes[..40_000].fill(0x5a);
    bytes[2 << 20..(2 << 20) + 9000].fill(0x5a);
    std::fs::write(&raw, bytes).unwrap();
    for (index, (format, options, more)) in MADE_BY_QEMU.iter().enumerate() {
        let image = folder.join(index.to_string());
        let start = ["convert", "-f", "raw", "-O", format.name(), "-o", options];
        let end = [raw.to_str().unwrap(), image.to_str().unwrap()];
        if run("hostile", "qemu-img", &[&start[..], more, &end[..]].concat()).is_none() {
            return;
        }
    }
}

/// Where a file may say something of the image: its beginning, its end, and what is neither zero nor the disk's.
fn places(bytes: &[u8], chance: &mut Sequence) -> Vec<usize> {
    let speaks = |(at, byte): (usize, &u8)| {
        let near = at < 128 || at + 64 > bytes.len();
        (near || (*byte != 0 && *byte != 0x5a && *byte != 0xff)).then_some(at)
    };
    let mut places: Vec<usize> = bytes.iter().enumerate().filter_map(speaks).collect();
    // And a few of the rest, so that empty tables are filled, too.
    places.extend((0..20).map(|_| chance.below(bytes.len() as u64) as usize));
    while places.len() > PLACES {
        let at = chance.below(places.len() as u64) as usize;
        places.swap_remove(at);
    }
    places
}

/// Runs the test of this name, `body`, in a process of its own whose memory is limited, where the host has limits. It is
/// given the folder of what QEMU made.
fn in_little_memory(test: &str, body: fn(&Path)) {
    if let Some(made) = std::env::var_os(LIMITED) {
        return body(Path::new(&made));
    }
    let folder = Folder::new();
    make_by_qemu(folder.0.path());
    if cfg!(not(target_os = "linux")) {
        return body(folder.0.path());
    }
    let name = format!("image::tests::hostile::{test}");
    let script = format!("ulimit -v {LIMIT_KIB} && exec \"$0\" --exact \"$1\" --test-threads=1");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(std::env::current_exe().unwrap()).arg(&name).env(LIMITED, folder.0.path());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn no_damage_harms_more_than_the_image() {
    in_little_memory("no_damage_harms_more_than_the_image", damage);
}

fn damage(made: &Path) {
    for (what, format, files) in samples(made) {
        let mut chance = Sequence::new(what.len() as u64);
        let whole = files.exercise(format);
        let mut harmed = 0;
        for index in 0..files.0.len() {
            // The bytes of a disk say nothing.
            if files.0[index].0.contains("-f") {
                continue;
            }
            for at in places(&files.0[index].1, &mut chance) {
                let bit = 1 << chance.below(8);
                for change in 0..3 {
                    let mut changed = files.clone();
                    let bytes = &mut changed.0[index].1;
                    match change {
                        0 => bytes[at] ^= bit,
                        1 => bytes[at] = !bytes[at],
                        _ => {
                            let aligned = at - at % 4;
                            let end = (aligned + 4).min(bytes.len());
                            let extreme = [[0xff; 4], [0x80, 0, 0, 0], [0, 0, 0, 0x80], [0; 4]];
                            bytes[aligned..end].copy_from_slice(&extreme[chance.below(4) as usize][..end - aligned]);
                        }
                    }
                    harmed += usize::from(changed.exercise(format) > whole);
                }
            }
        }
        assert!(harmed > 10 || format == Format::Raw, "{what}: only {harmed}");
    }
}

#[test]
fn a_file_cut_anywhere_is_answered() {
    in_little_memory("a_file_cut_anywhere_is_answered", cut);
}

fn cut(made: &Path) {
    for (_, format, files) in samples(made) {
        let mut chance = Sequence::new(3);
        for index in 0..files.0.len() {
            let len = files.0[index].1.len() as u64;
            let mut lens: Vec<u64> = (0..CUTS).map(|_| chance.below(len)).collect();
            lens.extend([0, 1, 4, 511, 512, 513, 1024, 4096, len - 1, len.saturating_sub(512)]);
            for cut in lens {
                let mut changed = files.clone();
                changed.0[index].1.truncate(cut as usize);
                changed.exercise(format);
            }
        }
    }
}

/// A compressed cluster that would unpack to far more than a cluster; tables that name themselves; a descriptor that is
/// its own extent.
#[test]
fn bombs_and_loops_end() {
    in_little_memory("bombs_and_loops_end", bombs);
}

fn bombs(_made: &Path) {
    use std::io::Write as _;
    let folder = Folder::new();
    let path = folder.path("disk.img");
    drop(create(&path, &CreateOptions::new(Format::Qcow2, SIZE)).unwrap());
    let disk = open_all(&path, Format::Qcow2, false).unwrap();
    write(&*disk, 0, &[1; 128 << 10], &[], true).unwrap();
    drop(disk);
    let files = Files::read(&folder);
    let whole = &files.0[0].1;
    let number = |at: usize| u64::from_be_bytes(whole[at..at + 8].try_into().unwrap()) & 0x00ff_ffff_ffff_fe00;
    let (l1, counts) = (number(40) as usize, number(48) as usize);
    let l2 = number(l1) as usize;
    let data = number(l2);

    // 1 GiB of zeroes, deflated twice as long as a cluster allows, at the place of the first cluster.
    let mut bomb = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..1024 {
        bomb.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    let mut bytes = whole.clone();
    let end = (data as usize + (128 << 10)).min(bytes.len());
    let len = bomb.len().min(end - data as usize);
    bytes[data as usize..data as usize + len].copy_from_slice(&bomb[..len]);
    let entry = 1u64 << 62 | 127 << 54 | data;
    bytes[l2..l2 + 8].copy_from_slice(&entry.to_be_bytes());
    Files(vec![("disk.img".into(), bytes)]).exercise(Format::Qcow2);

    for (at, target) in [
        (l1, l1),
        (l1, 0),
        (l1, counts),
        (l2, l1),
        (l2, l2),
        (l2, 0),
        (counts, counts),
        (counts, l1),
        (40, l2),
        (48, l1),
        (48, 0),
        (64, l1),
    ] {
        for copied in [0, 1u64 << 63] {
            let mut bytes = whole.clone();
            let mark = if at < 512 { 0 } else { copied };
            bytes[at..at + 8].copy_from_slice(&(target as u64 | mark).to_be_bytes());
            bytes[63] = u8::from(at == 64) * 200;
            Files(vec![("disk.img".into(), bytes)]).exercise(Format::Qcow2);
        }
    }

    for kind in ["FLAT \"disk.img\" 0", "SPARSE \"disk.img\""] {
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\ncreateType=\"custom\"\nRW 1 {kind}\n"
        );
        let mut bytes = text.into_bytes();
        bytes.resize(4096, b'\n');
        Files(vec![("disk.img".into(), bytes)]).exercise(Format::Vmdk);
    }
}
