//! Encrypting and decrypting in place: nothing is lost, nothing plain is left, and a cut of power only delays it.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use benchtop_block::DiskBackend;
use benchtop_block::conformance::{Sequence, read, write};
use benchtop_strata::{CryptStatus, NEEDS_PASSWORD, StrataDisk, WRONG_PASSWORD};
use common::{COST, Memory, assert_whole, fill, first, options};

const MARK: &[u8; 16] = b"a plain secret!!";
const BLOCKS: u64 = 600;

fn marked(block: u64) -> Vec<u8> {
    let mut bytes = MARK.repeat(256);
    bytes[..8].copy_from_slice(&block.to_le_bytes());
    bytes
}

fn plain_disk(medium: &Arc<Memory>, password: Option<&str>) -> StrataDisk {
    let disk = StrataDisk::create(medium.clone(), &options(64 << 20, password)).unwrap();
    for block in 0..BLOCKS {
        write(&disk, block * 8192, &marked(block), &[], false).unwrap();
    }
    disk.checkpoint().unwrap();
    // Some of it dies before, and leaves what it leaves.
    for block in 0..50 {
        write(&disk, block * 8192, &marked(block), &[], false).unwrap();
    }
    disk.discard(100 * 8192, 8192 * 10).unwrap();
    disk.snapshot("a snapshot with a secret name").unwrap();
    disk
}

fn assert_content(disk: &StrataDisk) {
    for block in 0..BLOCKS {
        let expected = if (100..110).contains(&block) { vec![0; 4096] } else { marked(block) };
        assert!(read(disk, block * 8192, 4096, &[]).unwrap() == expected, "{block}");
    }
    assert_whole(disk);
}

fn on(disk: &StrataDisk) -> bool {
    disk.convert(&mut |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn nothing_plain_is_left() {
    for never_punches in [false, true] {
        let medium = if never_punches { Memory::that_never_punches() } else { Memory::new() };
        let mut disk = plain_disk(&medium, None);
        assert_eq!(disk.crypt_status(), CryptStatus::Plain);
        assert!(disk.encrypt(b"pass", COST, false).is_err(), "points are not dropped without consent");
        assert_eq!(disk.crypt_status(), CryptStatus::Plain);
        disk.encrypt(b"pass", COST, true).unwrap();
        assert_eq!(disk.crypt_status(), CryptStatus::Encrypting);
        assert!(disk.encrypt(b"pass", COST, true).is_err() && disk.decrypt(true).is_err());
        assert!(disk.snapshot("now").is_err(), "no points until it is done");
        assert!(medium.holds(MARK));
        let mut rounds = 0;
        let stop = disk.convert(&mut |progress| {
            rounds += 1;
            assert!(progress.done_bytes <= progress.total_bytes);
            if rounds == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let done_early = stop.unwrap();
        drop(disk);
        assert_eq!(StrataDisk::open(medium.clone(), None, false).unwrap_err().to_string(), NEEDS_PASSWORD);
        let disk = StrataDisk::open(medium.clone(), Some(b"pass"), false).unwrap();
        assert!(done_early || disk.crypt_status() == CryptStatus::Encrypting);
        assert!(on(&disk) && on(&disk));
        assert_eq!(disk.crypt_status(), CryptStatus::Encrypted);
        assert_content(&disk);
        assert!(!medium.holds(MARK), "blocks");
        assert!(!medium.holds(b"secret name"), "heads and records");
        disk.flush().unwrap();
        disk.snapshot("later").unwrap();
        drop(disk);
        assert_eq!(StrataDisk::open(medium.clone(), Some(b"word"), false).unwrap_err().to_string(), WRONG_PASSWORD);
        let mut disk = StrataDisk::open(medium.clone(), Some(b"pass"), false).unwrap();
        assert_content(&disk);
        assert!(!medium.holds(MARK) && !medium.holds(b"later"));
        // And back.
        disk.decrypt(true).unwrap();
        assert_eq!(disk.crypt_status(), CryptStatus::Decrypting);
        drop(disk);
        assert_eq!(StrataDisk::open(medium.clone(), None, false).unwrap_err().to_string(), NEEDS_PASSWORD);
        let disk = StrataDisk::open(medium.clone(), Some(b"pass"), false).unwrap();
        assert!(on(&disk));
        assert_eq!((disk.crypt_status(), disk.key_slots().len()), (CryptStatus::Plain, 0));
        assert_content(&disk);
        drop(disk);
        assert_content(&StrataDisk::open(medium, None, false).unwrap());
    }
}

#[test]
fn a_cut_only_delays_it() {
    for decrypts in [false, true] {
        let origin = Memory::new();
        drop(plain_disk(&origin, decrypts.then_some("pass")));
        let mut steps = 0;
        let mut random = Sequence::new(3);
        let mut kinds = std::collections::HashSet::new();
        loop {
            let medium = origin.copy();
            let before = decrypts.then_some(&b"pass"[..]);
            let mut disk = StrataDisk::open(medium.clone(), before, false).unwrap();
            medium.cut_after(steps);
            let begun = if decrypts { disk.decrypt(true) } else { disk.encrypt(b"pass", COST, true) };
            let done = begun.and_then(|()| disk.convert(&mut |_| ControlFlow::Continue(()))).is_ok();
            drop(disk);
            let medium = medium.after_cut(&mut random);
            let disk = StrataDisk::open(medium.clone(), Some(b"pass"), false).unwrap();
            let status = disk.crypt_status();
            kinds.insert(format!("{status:?}"));
            assert_content(&disk);
            assert!(on(&disk));
            let gone = match status {
                CryptStatus::Encrypting | CryptStatus::Encrypted => !medium.holds(MARK),
                CryptStatus::Decrypting => disk.crypt_status() == CryptStatus::Plain,
                CryptStatus::Plain => true,
            };
            assert!(gone, "step {steps}, {status:?}");
            assert_content(&disk);
            if done {
                break;
            }
            steps += 1 + steps / 200;
        }
        assert_eq!(kinds.len(), 3, "{kinds:?}");
    }
}

#[test]
fn guests_go_on_meanwhile() {
    let medium = Memory::new();
    let mut disk = plain_disk(&medium, None);
    disk.encrypt(b"pass", COST, true).unwrap();
    let disk = Arc::new(disk);
    let guest = {
        let disk = disk.clone();
        std::thread::Builder::new()
            .name("guest".to_owned())
            .spawn(move || {
                for round in 0..20u8 {
                    fill(&disk, round + 1, 400, 200);
                    disk.discard(700 * 4096, 4096).unwrap();
                    disk.flush().unwrap();
                }
            })
            .unwrap()
    };
    assert!(on(&disk));
    guest.join().unwrap();
    assert!((400..600).all(|block| first(&disk, block) == 20));
    assert_eq!(read(&*disk, 0, 4096, &[]).unwrap(), marked(0));
    assert_whole(&disk);
    assert!(!medium.holds(MARK));
}

/// The end of a conversion waited for those who write, who waited for it: it took the locks in another order than they.
#[test]
fn guests_that_never_rest_do_not_stop_its_end() {
    let ended = Arc::new(AtomicBool::new(false));
    let medium = Memory::new();
    let mut disk = plain_disk(&medium, None);
    disk.encrypt(b"pass", COST, true).unwrap();
    let disk = Arc::new(disk);
    let guests: Vec<_> = (0..3u64)
        .map(|number| {
            let (disk, ended) = (disk.clone(), ended.clone());
            let body = move || {
                while !ended.load(Ordering::Relaxed) {
                    fill(&disk, 7, 400 + number * 50, 1);
                    disk.discard((701 + number) * 4096, 4096).unwrap();
                }
            };
            std::thread::Builder::new().name("guest".to_owned()).spawn(body).unwrap()
        })
        .collect();
    assert!(on(&disk));
    ended.store(true, Ordering::Relaxed);
    guests.into_iter().for_each(|guest| guest.join().unwrap());
    assert_whole(&disk);
}
