//! Passwords and recovery keys: what opens a disk, before and after changes, and what a cut of power leaves.

mod common;

use benchtop_strata::WRONG_PASSWORD;
use benchtop_strata::{Cost, Identity, NEEDS_PASSWORD, OTHER_DISK, OpenOptions, ROLLED_BACK, SlotKind, StrataDisk};
use common::{COST, Memory, assert_whole, fill, first, options};

fn refusal(result: Result<StrataDisk, benchtop_block::BlockError>) -> String {
    result.expect_err("it is refused").to_string()
}

#[test]
fn passwords_come_and_go() {
    let medium = Memory::new();
    let disk = StrataDisk::create(medium.clone(), &options(8 << 20, Some("one"))).unwrap();
    fill(&disk, 7, 0, 100);
    assert_eq!(disk.add_password(b"two", COST).unwrap(), 1);
    let (index, key) = disk.add_recovery_key().unwrap();
    let kinds: Vec<_> = disk.key_slots().iter().map(|slot| (slot.index, slot.kind)).collect();
    assert_eq!(index, 2);
    assert_eq!(kinds, [(0, SlotKind::Password), (1, SlotKind::Password), (2, SlotKind::RecoveryKey)]);
    assert_eq!((disk.slot_of(b"two"), disk.slot_of(key.as_bytes()), disk.slot_of(b"three")), (Some(1), Some(2), None));
    disk.change_password(0, b"uno", COST).unwrap();
    assert!(disk.change_password(2, b"x", COST).is_err(), "a recovery key is no password");
    assert!(disk.change_password(5, b"x", COST).is_err(), "nothing there");
    assert!(disk.add_password(b"", COST).is_err());
    assert!(disk.add_password(b"x", Cost { memory_kib: 1 << 21, ..COST }).is_err());
    drop(disk);
    let typed = key.to_lowercase().replace('-', " ");
    for (secret, opens) in [("one", false), ("uno", true), ("two", true), (&**key, true), (&typed, true)] {
        match StrataDisk::open(medium.clone(), Some(secret.as_bytes()), true) {
            Ok(disk) => assert!(opens && first(&disk, 99) == 7),
            Err(error) => assert!(!opens && error.to_string() == WRONG_PASSWORD, "{secret}: {error}"),
        }
    }
    let disk = StrataDisk::open(medium.clone(), Some(b"two"), false).unwrap();
    disk.remove_key_slot(0).unwrap();
    disk.remove_key_slot(1).unwrap();
    assert!(disk.remove_key_slot(2).is_err(), "the last one stays");
    assert!(disk.remove_key_slot(1).is_err(), "it is gone");
    drop(disk);
    assert_eq!(refusal(StrataDisk::open(medium.clone(), Some(b"two"), false)), WRONG_PASSWORD);
    assert_eq!(refusal(StrataDisk::open(medium.clone(), None, false)), NEEDS_PASSWORD);
    let disk = StrataDisk::open(medium, Some(key.as_bytes()), false).unwrap();
    for _ in 0..7 {
        disk.add_password(b"more", COST).unwrap();
    }
    assert!(disk.add_password(b"more", COST).is_err(), "there are eight");
    assert_whole(&disk);
}

#[test]
fn a_removed_password_is_in_neither_superblock() {
    let medium = Memory::new();
    let disk = StrataDisk::create(medium.clone(), &options(8 << 20, Some("old"))).unwrap();
    let before = medium.copy();
    disk.add_password(b"new", COST).unwrap();
    disk.remove_key_slot(0).unwrap();
    // At once, not only after a checkpoint: damage to either copy does not bring the old one back.
    let now = medium.copy();
    for place in [0, 64 << 10] {
        let damaged = now.copy();
        damaged.flip(place + 40);
        assert_eq!(refusal(StrataDisk::open(damaged.clone(), Some(b"old"), true)), WRONG_PASSWORD);
        assert!(StrataDisk::open(damaged, Some(b"new"), true).is_ok());
    }
    drop(disk);
    // As docs/format.md says: who kept the first bytes of an older copy still gets the key from it.
    for place in [0, 64 << 10] {
        medium.put(place, &before.bytes(place, 4096));
    }
    assert!(StrataDisk::open(medium, Some(b"old"), true).is_ok());
}

#[test]
fn a_cut_leaves_the_old_passwords_or_the_new() {
    let origin = Memory::new();
    drop(StrataDisk::create(origin.clone(), &options(8 << 20, Some("old"))).unwrap());
    let mut done = false;
    let mut random = benchtop_block::conformance::Sequence::new(5);
    for steps in 0.. {
        let medium = origin.copy();
        let disk = StrataDisk::open(medium.clone(), Some(b"old"), false).unwrap();
        fill(&disk, 3, 0, 10);
        medium.cut_after(steps);
        let result = disk.change_password(0, b"new", COST).and_then(|()| {
            fill(&disk, 4, 0, 10);
            benchtop_block::DiskBackend::flush(&disk)
        });
        done = result.is_ok();
        drop(disk);
        let survivor = medium.after_cut(&mut random);
        let opened = [b"old", b"new"].map(|secret| StrataDisk::open(survivor.copy(), Some(secret), false).is_ok());
        assert_ne!(opened[0], opened[1], "step {steps}: exactly one opens it");
        assert!(opened[1] || !done);
        if done {
            break;
        }
    }
    assert!(done);
}

#[test]
fn an_older_copy_is_noticed_by_who_remembers() {
    for password in [None, Some("secret")] {
        let secret = password.map(str::as_bytes);
        let medium = Memory::new();
        let disk = StrataDisk::create(medium.clone(), &options(8 << 20, password)).unwrap();
        fill(&disk, 1, 0, 10);
        let first_identity = disk.identity();
        drop(disk);
        let old = medium.copy();
        let disk = StrataDisk::open(medium.clone(), secret, false).unwrap();
        fill(&disk, 2, 0, 10);
        benchtop_block::DiskBackend::flush(&disk).unwrap();
        let identity = disk.identity();
        assert!(identity.generation > first_identity.generation && identity.record > first_identity.record);
        assert_eq!(identity.uuid, first_identity.uuid);
        // As it is in the middle of its life: the log is rolled back, the superblock is not.
        let cut = medium.copy();
        drop(disk);
        let expect = |expected, medium: &Memory, accept_rollback| {
            let options =
                OpenOptions { password: secret, expected: Some(expected), accept_rollback, ..OpenOptions::default() };
            StrataDisk::open_with(medium.copy(), &options)
        };
        assert!(expect(identity, &medium, false).is_ok());
        assert!(expect(first_identity, &medium, false).is_ok(), "newer than remembered");
        assert!(expect(identity, &cut, false).is_ok());
        assert_eq!(refusal(expect(identity, &old, false)), ROLLED_BACK);
        assert_eq!(first(&expect(identity, &old, true).unwrap(), 0), 1, "a backup can be accepted");
        // The newest records are taken away, and the log ends where it did before.
        let last = *cut.written().last().unwrap();
        for offset in cut.written().into_iter().filter(|offset| *offset + (64 << 10) > last && *offset >= 132 << 20) {
            cut.put(offset, &[0; 4096]);
        }
        assert_eq!(refusal(expect(identity, &cut, false)), ROLLED_BACK);
        let other = Identity { uuid: [0; 16], ..identity };
        assert_eq!(refusal(expect(other, &medium, false)), OTHER_DISK);
        assert_eq!(refusal(expect(other, &medium, true)), OTHER_DISK);
    }
}

#[test]
fn a_plain_disk_in_place_of_an_encrypted_one_is_noticed() {
    let medium = Memory::new();
    let disk = StrataDisk::create(medium.clone(), &options(8 << 20, Some("secret"))).unwrap();
    let identity = disk.identity();
    drop(disk);
    let forged = Memory::new();
    drop(StrataDisk::create(forged.clone(), &options(8 << 20, None)).unwrap());
    // The attacker even gives it the name of the other.
    let expected = Identity { uuid: StrataDisk::open(forged.clone(), None, true).unwrap().identity().uuid, ..identity };
    let options = OpenOptions { password: Some(b"secret"), expected: Some(expected), ..OpenOptions::default() };
    assert_eq!(refusal(StrataDisk::open_with(forged, &options)), OTHER_DISK);
}
