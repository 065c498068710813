//! Encrypted qcow2 images, as QEMU makes them.

use super::*;
use crate::mapped::testing::put_at;

const SIZE: u64 = 4 << 20;

/// An encrypted image with a known content, if QEMU is here.
fn encrypted(folder: &Folder, more: &str) -> Option<(PathBuf, Vec<u8>)> {
    let (raw, image) = (folder.path("disk.raw"), folder.path("disk.qcow2"));
    let bytes = crate::mapped::testing::sample_raw(&raw, SIZE);
    let options = format!("encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10{more}");
    let (from, to) = (raw.to_str().unwrap(), image.to_str().unwrap());
    let secret = "secret,id=s,data=pass word";
    let create = ["create", "-q", "-f", "qcow2", "--object", secret, "-o", &options, to, "4M"];
    run("luks", "qemu-img", &create)?;
    let target = format!("driver=qcow2,encrypt.key-secret=s,file.filename={to}");
    run("luks", "qemu-img", &["convert", "-n", "--object", secret, "--target-image-opts", from, &target])?;
    Some((image, bytes))
}

fn open_with(path: &Path, password: Option<&str>, read_only: bool) -> Result<Arc<dyn DiskBackend>, OpenError> {
    let password = password.map(|password| Zeroizing::new(password.as_bytes().to_vec()));
    let options = OpenOptions { read_only, named: None, password: password.as_ref() };
    patiently(|| open(open_file(path, read_only), Format::Qcow2, &options))
}

#[test]
fn the_password_opens_the_disk_and_no_other_does() {
    for more in [
        "",
        ",encrypt.cipher-alg=aes-128",
        ",encrypt.hash-alg=sha1",
        ",encrypt.hash-alg=sha512",
        ",cluster_size=512",
        ",extended_l2=on",
        ",cluster_size=2M",
    ] {
        let folder = Folder::new();
        let Some((path, bytes)) = encrypted(&folder, more) else { return };
        assert!(info(&open_file(&path, true), Format::Qcow2).unwrap().encrypted);
        assert!(matches!(open_with(&path, None, true), Err(OpenError::PasswordNeeded)));
        assert!(matches!(open_with(&path, Some("Pass word"), true), Err(OpenError::PasswordWrong)));
        let disk = open_with(&path, Some("pass word"), true).unwrap_or_else(|error| panic!("{more}: {error}"));
        assert!(content(&*disk) == bytes, "{more}");
        assert!(read(&*disk, 512, 3 << 19, &[5 * 512, 512]).unwrap() == bytes[512..512 + (3 << 19)], "{more}");
        drop(disk);
        let error = open_with(&path, Some("pass word"), false).err().unwrap();
        assert!(matches!(&error, OpenError::Block(error) if error.kind() == BlockErrorKind::Unsupported), "{error}");
        assert_eq!(check_all(&path, Format::Qcow2), CheckReport::default(), "{more}");
    }
}

#[test]
fn a_backing_file_of_an_encrypted_image_is_read_as_it_is() {
    let folder = Folder::new();
    let Some((path, bytes)) = encrypted(&folder, "") else { return };
    let over = folder.path("over.qcow2");
    let options = CreateOptions {
        backing: Some(("disk.qcow2".into(), "qcow2".into())),
        ..CreateOptions::new(Format::Qcow2, SIZE)
    };
    drop(create(&over, &options).unwrap());
    let named = |_: &NamedFile<'_>| Ok(Named::File(open_file(&path, true)));
    let password = Zeroizing::new(b"pass word".to_vec());
    let options = OpenOptions { read_only: false, named: Some(&named), password: Some(&password) };
    let disk = patiently(|| open(open_file(&over, false), Format::Qcow2, &options)).unwrap();
    write(&*disk, 512, &[7; 512], &[], true).unwrap();
    let mut expected = bytes;
    expected[512..1024].fill(7);
    assert!(content(&*disk) == expected);
}

/// No header makes it take much time or memory, and none opens with a wrong key.
#[test]
fn headers_that_lie_are_refused() {
    let folder = Folder::new();
    let Some((path, bytes)) = encrypted(&folder, ",cluster_size=64k") else { return };
    let original = std::fs::read(&path).unwrap();
    let start = original.windows(6).position(|window| window == b"LUKS\xba\xbe").unwrap();
    let file = open_file(&path, false);
    let started = std::time::Instant::now();
    let mut refused = 0;
    for at in (0..116).step_by(3).chain(166..168).chain((208..272).step_by(3)) {
        for flip in [0x80, 0x01].into_iter().take(1 + at % 2) {
            put_at(&file, (start + at) as u64, &[original[start + at] ^ flip]);
            match open_with(&path, Some("pass word"), true) {
                Ok(disk) => assert!(content(&*disk) == bytes, "byte {at}"),
                Err(_) => refused += 1,
            }
        }
        put_at(&file, (start + at) as u64, &[original[start + at]]);
    }
    assert!(refused > 25, "{refused}");
    // All slots ask for all the rounds a number can say.
    for slot in 0..8 {
        put_at(&file, (start + 208 + slot * 48) as u64, &[0x00, 0xac, 0x71, 0xf3, 0xff, 0xff, 0xff, 0xff]);
    }
    let error = open_with(&path, Some("pass word"), true).err().unwrap();
    assert!(error.to_string().contains("iterations"), "{error}");
    assert!(started.elapsed().as_secs() < 120, "{:?}", started.elapsed());
    // Where the header is said to be.
    for (at, value) in [(0u64, u64::MAX), (0, 0), (0, 512), (8, u64::MAX), (8, 0), (8, 600)] {
        std::fs::write(&path, &original).unwrap();
        let extension = original.windows(4).position(|window| window == 0x0537_be77_u32.to_be_bytes()).unwrap() as u64;
        put_at(&open_file(&path, false), extension + 8 + at, &value.to_be_bytes());
        open_with(&path, Some("pass word"), true).err().unwrap();
    }
}
