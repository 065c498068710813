//! Beside QEMU: images it makes of every kind are read as what they were made of; images made here pass its checks and
//! compare equal after random writes and discards.

use super::*;
use crate::mapped::testing::sample_raw;

const SIZE: u64 = (9 << 20) + 512 * 40;

/// Format and options of every kind of image that QEMU writes.
const KINDS: [(&str, &str, &[&str]); 33] = [
    ("raw", "", &[]),
    ("qcow2", "compat=0.10", &[]),
    ("qcow2", "compat=1.1", &[]),
    ("qcow2", "compat=1.1,lazy_refcounts=on", &[]),
    ("qcow2", "extended_l2=on,cluster_size=64k", &[]),
    ("qcow2", "extended_l2=on,cluster_size=2M", &[]),
    ("qcow2", "compression_type=zstd", &["-c"]),
    ("qcow2", "compression_type=zlib", &["-c"]),
    ("qcow2", "compat=0.10", &["-c"]),
    ("qcow2", "compression_type=zstd,cluster_size=2M", &["-c"]),
    ("qcow2", "extended_l2=on,cluster_size=16k", &["-c"]),
    ("qcow2", "cluster_size=512", &[]),
    ("qcow2", "cluster_size=4k,refcount_bits=1", &[]),
    ("qcow2", "cluster_size=2M,refcount_bits=64", &[]),
    ("qcow2", "preallocation=metadata", &[]),
    ("qcow2", "preallocation=falloc", &[]),
    ("qcow2", "preallocation=full", &[]),
    ("qcow2", "preallocation=metadata,extended_l2=on", &[]),
    ("vmdk", "subformat=monolithicSparse", &[]),
    ("vmdk", "subformat=monolithicFlat", &[]),
    ("vmdk", "subformat=twoGbMaxExtentSparse", &[]),
    ("vmdk", "subformat=twoGbMaxExtentFlat", &[]),
    ("vmdk", "subformat=streamOptimized", &[]),
    ("vmdk", "subformat=monolithicSparse,zeroed_grain=on", &[]),
    ("vmdk", "subformat=monolithicSparse,compat6=on", &[]),
    ("vdi", "", &[]),
    ("vdi", "static=on", &[]),
    ("vpc", "subformat=dynamic,force_size=on", &[]),
    ("vpc", "subformat=fixed,force_size=on", &[]),
    ("vhdx", "subformat=dynamic", &[]),
    ("vhdx", "subformat=fixed", &[]),
    ("vhdx", "subformat=dynamic,block_size=1M", &[]),
    ("vhdx", "subformat=dynamic,log_size=2M,block_state_zero=off", &[]),
];

#[test]
fn whatever_qemu_writes_is_read() {
    for (index, (format, options, more)) in KINDS.into_iter().enumerate() {
        let folder = Folder::new();
        let (raw, image) = (folder.path("disk.raw"), folder.path("disk.img"));
        let bytes = sample_raw(&raw, SIZE);
        let mut arguments = vec!["convert", "-f", "raw", "-O", format];
        if !options.is_empty() {
            arguments.extend(["-o", options]);
        }
        arguments.extend(more);
        arguments.extend([raw.to_str().unwrap(), image.to_str().unwrap()]);
        if run("import", "qemu-img", &arguments).is_none() {
            return;
        }
        let what = format!("{format} {options} {more:?}");
        let known = Format::from_name(format).unwrap();
        let file = open_file(&image, true);
        assert_eq!(probe_file(&file).unwrap(), known, "{what}");
        let facts = info(&file, known).unwrap();
        assert_eq!(
            (facts.virtual_bytes, facts.needs_repair, facts.encrypted),
            (SIZE, false, false),
            "{what}: {facts:?}"
        );
        let disk = open_all(&image, known, true).unwrap();
        assert_eq!(disk.info().size_bytes, SIZE, "{what}");
        assert!(content(&*disk) == bytes, "{what}");
        drop(disk);
        if known != Format::Raw {
            let report = check_all(&image, known);
            assert_eq!(report, CheckReport::default(), "{what}");
        }
        // And written, where that is possible.
        if options.contains("streamOptimized") {
            continue;
        }
        let mut model = bytes;
        let disk = open_all(&image, known, false).unwrap_or_else(|error| panic!("{what}: {error}"));
        disturb(&*disk, &mut model, index as u64);
        assert!(content(&*disk) == model, "{what}");
        drop(disk);
        std::fs::write(&raw, &model).unwrap();
        let names = [image.to_str().unwrap(), raw.to_str().unwrap()];
        run("import", "qemu-img", &["compare", "-f", format, "-F", "raw", names[0], names[1]]).unwrap();
        if !matches!(known, Format::Raw | Format::Vhd) && !options.contains("Flat") {
            run("import", "qemu-img", &["check", "-f", format, names[0]]).unwrap();
        }
    }
}

#[test]
fn whatever_is_made_here_qemu_reads_and_finds_sound() {
    for (format, variant) in all_kinds() {
        let folder = Folder::new();
        let (raw, image) = (folder.path("disk.raw"), folder.path("disk.img"));
        let what = format!("{format} {variant:?}");
        drop(create(&image, &CreateOptions { variant, ..CreateOptions::new(format, SIZE) }).unwrap());
        let mut model = vec![0; SIZE as usize];
        for seed in 0..2 {
            let disk = open_all(&image, format, false).unwrap();
            disturb(&*disk, &mut model, seed);
            assert!(content(&*disk) == model, "{what}");
        }
        let file = open_file(&image, true);
        assert_eq!(info(&file, format).unwrap().virtual_bytes, SIZE, "{what}");
        if format != Format::Raw {
            assert_eq!(probe_file(&file).unwrap(), format, "{what}");
            assert_eq!(check_all(&image, format), CheckReport::default(), "{what}");
        }
        drop(file);
        std::fs::write(&raw, &model).unwrap();
        let (name, image, raw) = (qemu_name(format), image.to_str().unwrap(), raw.to_str().unwrap());
        if run("export", "qemu-img", &["compare", "-f", name, "-F", "raw", image, raw]).is_none() {
            return;
        }
        let flat = matches!(variant, Variant::Fixed | Variant::SplitFixed) && format == Format::Vmdk;
        if !matches!(format, Format::Raw | Format::Vhd) && !flat {
            run("export", "qemu-img", &["check", "-f", name, image]).unwrap();
        }
    }
}

/// More than one file of a split image, with a write over the seam.
#[test]
fn a_split_image_continues_in_its_next_file() {
    for (variant, extents) in [
        (Variant::SplitDynamic, ["big-s001.vmdk", "big-s002.vmdk", "big-s003.vmdk"]),
        (Variant::SplitFixed, ["big-f001.vmdk", "big-f002.vmdk", "big-f003.vmdk"]),
    ] {
        let folder = Folder::new();
        let path = folder.path("big.vmdk");
        let size = (4 << 30) + (1 << 20);
        let options = CreateOptions { variant, ..CreateOptions::new(Format::Vmdk, size) };
        assert_eq!(info(&create(&path, &options).unwrap(), Format::Vmdk).unwrap().extents, extents);
        let disk = open_all(&path, Format::Vmdk, false).unwrap();
        let bytes = Sequence::new(1).bytes(1 << 20);
        let at = (2 << 30) - (512 << 10);
        write(&*disk, at, &bytes, &[], true).unwrap();
        assert!(read(&*disk, at, 1 << 20, &[]).unwrap() == bytes);
        drop(disk);
        let pattern = folder.path("piece");
        let name = path.to_str().unwrap();
        let arguments = ["dd", "-f", "vmdk", "-O", "raw", "bs=512k", "skip=4095", "count=4097"];
        let (from, to) = (format!("if={name}"), format!("of={}", pattern.display()));
        if run("split", "qemu-img", &[&arguments[..], &[&from, &to]].concat()).is_some() {
            assert!(std::fs::read(&pattern).unwrap() == bytes, "{variant:?}");
        }
        // Nothing is left of an image that could not be made.
        std::fs::remove_file(folder.path(extents[0])).unwrap();
        std::fs::remove_file(&path).unwrap();
        create(&path, &options).unwrap_err();
        assert!(!folder.path(extents[0]).exists() && !path.exists() && folder.path(extents[1]).exists());
    }
}
