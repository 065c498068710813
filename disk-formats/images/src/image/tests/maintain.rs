//! Resizing, checking and repairing.

use super::*;
use crate::mapped::testing::put_at;

const SIZE: u64 = (5 << 20) + 512 * 9;

/// Grows an image step by step, and lets QEMU look at it after each.
#[test]
fn disks_grow_and_what_is_new_is_zeroes() {
    for (format, variant) in [
        (Format::Raw, Variant::Dynamic),
        (Format::Qcow2, Variant::Dynamic),
        (Format::Vdi, Variant::Dynamic),
        (Format::Vdi, Variant::Fixed),
        (Format::Vhd, Variant::Dynamic),
        (Format::Vhdx, Variant::Dynamic),
        (Format::Vmdk, Variant::Dynamic),
    ] {
        let folder = Folder::new();
        let (path, raw) = (folder.path("disk.img"), folder.path("disk.raw"));
        drop(create(&path, &CreateOptions { variant, ..CreateOptions::new(format, SIZE) }).unwrap());
        let mut model = vec![0; SIZE as usize];
        for (seed, size) in [SIZE + 512, SIZE + (64 << 10), 30 << 20, 90 << 20].into_iter().enumerate() {
            let what = format!("{format} {variant:?} {size}");
            let disk = open_all(&path, format, false).unwrap();
            disturb(&*disk, &mut model, seed as u64);
            drop(disk);
            resized(&path, format, size, Shrink::Refused).unwrap_or_else(|error| panic!("{what}: {error}"));
            model.resize(size as usize, 0);
            let disk = open_all(&path, format, false).unwrap();
            assert_eq!(disk.info().size_bytes, size, "{what}");
            assert!(content(&*disk) == model, "{what}");
            let end = model.len();
            write(&*disk, size - 512, &[3; 512], &[], true).unwrap();
            model[end - 512..].fill(3);
            drop(disk);
            if format != Format::Raw {
                assert_eq!(check_all(&path, format), CheckReport::default(), "{what}");
            }
            std::fs::write(&raw, &model).unwrap();
            let (name, image, raw) = (qemu_name(format), path.to_str().unwrap(), raw.to_str().unwrap());
            if run("resize", "qemu-img", &["compare", "-f", name, "-F", "raw", image, raw]).is_some()
                && !matches!(format, Format::Raw | Format::Vhd)
            {
                run("resize", "qemu-img", &["check", "-f", name, image]).unwrap();
            }
        }
    }
}

/// Small clusters, so that the L1 table must move; and down again, and up.
#[test]
fn a_qcow2_disk_changes_its_size_any_way() {
    for (cluster, backing_bytes, version) in [
        (512, 0u64, 3),
        (4096, 0, 3),
        (65536, 0, 3),
        (512, 3 << 20, 3),
        (65536, 7 << 20, 3),
        (512, 3 << 20, 2),
        (65536, 7 << 20, 2),
    ] {
        let folder = Folder::new();
        let path = folder.path("disk.qcow2");
        let mut base = Vec::new();
        let mut options = CreateOptions { cluster_bytes: Some(cluster), ..CreateOptions::new(Format::Qcow2, 2 << 20) };
        if backing_bytes > 0 {
            base = Sequence::new(5).bytes(backing_bytes as usize);
            std::fs::write(folder.path("base"), &base).unwrap();
            options.backing = Some(("base".into(), "raw".into()));
        }
        drop(create(&path, &options).unwrap());
        if version == 2 {
            let name = path.to_str().unwrap();
            std::fs::remove_file(&path).unwrap();
            let shape = format!("compat=0.10,cluster_size={cluster}");
            let create = ["create", "-q", "-f", "qcow2", "-o", &shape, "-b", "base", "-F", "raw", name, "2M"];
            if run("resize", "qemu-img", &create).is_none() {
                return;
            }
        }
        let mut model = base.clone();
        model.resize(2 << 20, 0);
        for (seed, size) in [9 << 20, (3 << 20) + 512, (3 << 20) + 1024, 1 << 20, 20 << 20].into_iter().enumerate() {
            let what = format!("{cluster} {backing_bytes} {size}, version {version}");
            let disk = open_all(&path, Format::Qcow2, false).unwrap();
            disturb(&*disk, &mut model, seed as u64);
            drop(disk);
            if size < model.len() as u64 {
                let error = resized(&path, Format::Qcow2, size, Shrink::Refused).unwrap_err();
                assert!(matches!(error, OpenError::Block(error) if error.kind() == BlockErrorKind::OutOfRange));
            }
            resized(&path, Format::Qcow2, size, Shrink::Allowed).unwrap_or_else(|error| panic!("{what}: {error}"));
            model.resize(size as usize, 0);
            assert!(content(&*open_all(&path, Format::Qcow2, true).unwrap()) == model, "{what}");
            let report = check_all(&path, Format::Qcow2);
            assert_eq!(report, CheckReport::default(), "{what}");
            run("resize", "qemu-img", &["check", path.to_str().unwrap()]);
        }
        let error = resized(&path, Format::Qcow2, 1 << 60, Shrink::Refused).unwrap_err();
        assert!(matches!(error, OpenError::Block(error) if error.kind() == BlockErrorKind::OutOfRange));
    }
}

/// The file as it was at each step of growing and shrinking, with all, none, or some of what was not synced: sound, and
/// of one size or the other.
#[test]
fn a_cut_while_a_disk_changes_its_size_is_survived() {
    crate::file::recording::without_syncs();
    let growing = [1 << 20, 90 << 20];
    for format in [Format::Qcow2, Format::Vdi, Format::Vhd, Format::Vhdx, Format::Vmdk] {
        cut(format, growing, true);
        // The negative control: on a host that does not sync the same must fail. A VHDX repeats what its log holds, and
        // to a VMDK a table that is not there is one of zeroes, so they may pass.
        if matches!(format, Format::Qcow2 | Format::Vdi | Format::Vhd) {
            let lied_to = std::panic::AssertUnwindSafe(|| cut(format, growing, false));
            assert!(std::panic::catch_unwind(lied_to).is_err(), "{format}: the test finds nothing");
        }
    }
    cut(Format::Qcow2, [1 << 20, 256 << 10], true);
}

fn cut(format: Format, sizes: [u64; 2], honest: bool) {
    use crate::file::recording;
    let folder = Folder::new();
    let path = folder.path("disk.img");
    let cluster_bytes = (format == Format::Qcow2).then_some(512);
    drop(create(&path, &CreateOptions { cluster_bytes, ..CreateOptions::new(format, sizes[0]) }).unwrap());
    let kept = Sequence::new(2).bytes(128 << 10);
    let disk = open_all(&path, format, false).unwrap();
    write(&*disk, 0, &kept, &[], false).unwrap();
    write(&*disk, 512 << 10, &kept, &[], false).unwrap();
    drop(disk);
    let before = std::fs::read(&path).unwrap();
    recording::start();
    resized(&path, format, sizes[1], Shrink::Allowed).unwrap();
    let events = recording::take();
    let mut chance = Sequence::new(7);
    let cut_path = folder.path("cut.img");
    let step = (events.len() / 150).max(1);
    for cut in (0..=events.len()).step_by(step).chain(events.len().saturating_sub(8)..=events.len()) {
        for _ in 0..2 {
            let bytes = crate::mapped::crash::after_cut(&before, &events[..cut], honest, &mut chance);
            std::fs::write(&cut_path, &bytes).unwrap();
            let what = format!("{format} to {}, cut {cut} of {}", sizes[1], events.len());
            let disk = open_all(&cut_path, format, false).unwrap_or_else(|error| panic!("{what}: {error}"));
            let size = disk.info().size_bytes;
            assert!(sizes.contains(&size), "{what}: {size}");
            assert!(read(&*disk, 0, kept.len(), &[]).unwrap() == kept, "{what}");
            if sizes[1] > sizes[0] {
                assert!(read(&*disk, 512 << 10, kept.len(), &[]).unwrap() == kept, "{what}");
            }
            if size > sizes[0] {
                assert!(read(&*disk, sizes[0], 1 << 20, &[]).unwrap().iter().all(|byte| *byte == 0), "{what}");
            }
            drop(disk);
            assert_eq!(check_all(&cut_path, format).damages, 0, "{what}");
        }
    }
}

#[test]
fn what_can_not_be_resized_says_so() {
    let folder = Folder::new();
    for (format, variant, size) in [
        (Format::Vmdk, Variant::Fixed, 9 << 20),
        (Format::Vmdk, Variant::SplitDynamic, 9 << 20),
        (Format::Vhd, Variant::Fixed, 9 << 20),
        (Format::Vhdx, Variant::Fixed, 9 << 20),
        (Format::Vdi, Variant::Dynamic, 1 << 20),
        (Format::Vdi, Variant::Dynamic, 8 << 40),
    ] {
        let path = folder.path(&format!("{format}-{variant:?}-{size}"));
        drop(create(&path, &CreateOptions { variant, ..CreateOptions::new(format, SIZE) }).unwrap());
        let before = std::fs::read(&path).unwrap();
        let error = resized(&path, format, size, Shrink::Allowed).unwrap_err();
        assert!(matches!(error, OpenError::Block(error) if error.kind() == BlockErrorKind::Unsupported));
        assert!(std::fs::read(&path).unwrap() == before);
    }
    for size in [0, 1000] {
        let path = folder.path(&size.to_string());
        drop(create(&path, &CreateOptions::new(Format::Raw, SIZE)).unwrap());
        resized(&path, Format::Raw, size, Shrink::Allowed).unwrap_err();
    }
}

/// Counts of clusters that are wrong are found and put right; so is a footer that is gone.
#[test]
fn what_is_wrong_is_found_and_repaired() {
    let folder = Folder::new();
    let path = folder.path("disk.qcow2");
    drop(create(&path, &CreateOptions::new(Format::Qcow2, SIZE)).unwrap());
    let disk = open_all(&path, Format::Qcow2, false).unwrap();
    write(&*disk, 0, &[1; 200 << 10], &[], true).unwrap();
    drop(disk);
    let bytes = std::fs::read(&path).unwrap();
    let table = u64::from_be_bytes(bytes[48..56].try_into().unwrap()) as usize;
    let block = u64::from_be_bytes(bytes[table..table + 8].try_into().unwrap());
    let file = open_file(&path, false);
    // Of two clusters in use the count is 0, one that is not is counted; and the image calls itself corrupt.
    put_at(&file, block + 8, &[0, 0, 0, 0]);
    put_at(&file, block + 200, &[0, 1]);
    put_at(&file, 79, &[2]);
    let report = check_all(&path, Format::Qcow2);
    assert_eq!((report.damages, report.leaks), (2, 1), "{report:?}");
    assert!(info(&file, Format::Qcow2).unwrap().needs_repair);
    open_all(&path, Format::Qcow2, false).err().unwrap();
    drop(file);
    let repaired = patiently(|| Ok(repair(open_file(&path, false), Format::Qcow2)?)).unwrap();
    assert_eq!(repaired, CheckReport::default());
    assert!(!info(&open_file(&path, true), Format::Qcow2).unwrap().needs_repair);
    run("repair", "qemu-img", &["check", path.to_str().unwrap()]);
    let disk = open_all(&path, Format::Qcow2, false).unwrap();
    assert_eq!(read(&*disk, 0, 200 << 10, &[]).unwrap(), [1; 200 << 10]);
    drop(disk);

    let path = folder.path("disk.vhd");
    drop(create(&path, &CreateOptions::new(Format::Vhd, SIZE)).unwrap());
    let len = std::fs::metadata(&path).unwrap().len();
    put_at(&open_file(&path, false), len - 512, &[0; 512]);
    assert!(info(&open_file(&path, true), Format::Vhd).unwrap().needs_repair);
    let repaired = patiently(|| Ok(repair(open_file(&path, false), Format::Vhd)?)).unwrap();
    assert_eq!(repaired, CheckReport::default());
    assert!(!info(&open_file(&path, true), Format::Vhd).unwrap().needs_repair);
}

/// An image that nobody closed says so, and no longer does when it was repaired.
#[test]
fn images_that_were_not_closed_are_put_right() {
    for format in [Format::Vmdk, Format::Vhdx] {
        let folder = Folder::new();
        let (path, cut) = (folder.path("disk"), folder.path("cut"));
        drop(create(&path, &CreateOptions::new(format, SIZE)).unwrap());
        let disk = open_all(&path, format, false).unwrap();
        write(&*disk, 0, &[4; 8192], &[], true).unwrap();
        std::fs::copy(&path, &cut).unwrap();
        drop(disk);
        assert!(info(&open_file(&cut, true), format).unwrap().needs_repair, "{format}");
        let repaired = patiently(|| Ok(repair(open_file(&cut, false), format)?)).unwrap();
        assert_eq!(repaired, CheckReport::default(), "{format}");
        assert!(!info(&open_file(&cut, true), format).unwrap().needs_repair, "{format}");
        let disk = open_all(&cut, format, true).unwrap();
        assert_eq!(read(&*disk, 0, 8192, &[]).unwrap(), [4; 8192]);
    }
}

/// Blocks in one place, and behind the end of the file.
#[test]
fn tables_that_lie_are_found() {
    let folder = Folder::new();
    for (format, entries_at, entry_bytes) in
        [(Format::Vhd, 1536u64, 4usize), (Format::Vdi, 1 << 20, 4), (Format::Vhdx, 3 << 20, 8)]
    {
        let path = folder.path(&format!("disk.{format}"));
        drop(create(&path, &CreateOptions::new(format, 40 << 20)).unwrap());
        let disk = open_all(&path, format, false).unwrap();
        for at in [0, 10 << 20, 20 << 20] {
            write(&*disk, at, &[1; 512], &[], false).unwrap();
        }
        drop(disk);
        assert_eq!(check_all(&path, format), CheckReport::default());
        let mut bytes = std::fs::read(&path).unwrap();
        let at = entries_at as usize;
        let block = match format {
            Format::Vhd => 2 << 20,
            Format::Vdi => 1 << 20,
            _ => 8 << 20,
        };
        let other = at + (10 << 20) / block * entry_bytes;
        let first: Vec<u8> = bytes[at..at + entry_bytes].to_vec();
        bytes[other..other + entry_bytes].copy_from_slice(&first);
        std::fs::write(&path, &bytes).unwrap();
        let report = check_all(&path, format);
        assert_eq!(report.damages, 1, "{format}: {report:?}");
        assert!(report.findings[0].contains("share room"), "{report:?}");
    }
    for format in [Format::Raw, Format::Iso] {
        let path = folder.path("raw");
        std::fs::write(&path, [0; 4096]).unwrap();
        assert_eq!(
            check(open_file(&path, true), format, &OpenOptions::default()).unwrap_err().kind(),
            BlockErrorKind::Unsupported
        );
    }
}

/// Consent: each name is asked for once, with the way that led there, and a refusal ends it.
#[test]
fn a_chain_is_asked_for_name_by_name() {
    let folder = Folder::new();
    std::fs::write(folder.path("base"), [9; 8192]).unwrap();
    for (name, backing, format) in [("middle", "base", "raw"), ("top", "middle", "qcow2")] {
        let backing = Some((backing.to_owned(), format.to_owned()));
        drop(
            create(&folder.path(name), &CreateOptions { backing, ..CreateOptions::new(Format::Qcow2, 8192) }).unwrap(),
        );
    }
    let asked = std::cell::RefCell::new(Vec::new());
    let named = |wanted: &NamedFile<'_>| {
        assert!(wanted.role == NamedRole::Backing && wanted.read_only);
        asked.borrow_mut().push((wanted.name.to_owned(), wanted.through.to_vec()));
        Ok(Named::File(open_file(&folder.path(wanted.name), true)))
    };
    let options = OpenOptions { read_only: false, named: Some(&named), password: None };
    let disk = patiently(|| open(open_file(&folder.path("top"), false), Format::Qcow2, &options)).unwrap();
    assert_eq!(read(&*disk, 0, 8192, &[]).unwrap(), [9; 8192]);
    drop(disk);
    let asked = asked.into_inner();
    assert!(asked.ends_with(&[("middle".into(), vec![]), ("base".into(), vec!["middle".into()])]), "{asked:?}");
    let alone = OpenOptions { read_only: true, ..OpenOptions::default() };
    patiently(|| open(open_file(&folder.path("top"), true), Format::Qcow2, &alone)).err().unwrap();
    // An image that is its own backing file has an end, too.
    let own = folder.path("own");
    let backing = Some(("own".to_owned(), "qcow2".to_owned()));
    drop(create(&own, &CreateOptions { backing, ..CreateOptions::new(Format::Qcow2, 8192) }).unwrap());
    let named = |_: &NamedFile<'_>| Ok(Named::File(open_file(&own, true)));
    let options = OpenOptions { read_only: true, named: Some(&named), password: None };
    let error = patiently(|| open(open_file(&own, true), Format::Qcow2, &options)).err().unwrap();
    assert!(error.to_string().contains("chain"), "{error}");
}
