//! Files that were made to harm their reader: everything in them is authentic, for a plain disk is so for anybody.
//! Nothing may panic, take for ever or take all memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use benchtop_block::conformance::{Sequence, read, write};
use benchtop_block::{BlockErrorKind, DiskBackend};

use crate::head::HeadV1;
use crate::layout::{Address, BLOCK_BYTES, Pointer, SUPERBLOCKS, new_block, place_offset};
use crate::medium::{HostCache, HostFile, Medium};
use crate::pages::{FANOUT, PageWriter, Root, Store, set_entry};
use crate::record::{Op, SEALED_AT};
use crate::seal::{Cipher, Keyring};
use crate::space::Space;
use crate::superblock::Superblock;
use crate::{CreateOptions, OpenOptions, Retention, StrataDisk};

/// Generous: the machines that run tests are busy.
const LONG: Duration = Duration::from_secs(100);

fn medium() -> Arc<dyn Medium> {
    Arc::new(HostFile::new(tempfile::tempfile().unwrap(), HostCache::Reads))
}

fn options(size_bytes: u64) -> CreateOptions {
    CreateOptions { size_bytes, retention: Retention::default(), password: None }
}

/// Gives the disk a map in which every block of every level is the same one.
fn map_everything(disk: &StrataDisk) {
    write(disk, 0, &[1; BLOCK_BYTES], &[], true).unwrap();
    disk.checkpoint().unwrap();
    let root = disk.core().state.lock().root;
    let data = disk.core().store.lookup(&root, 0).unwrap();
    let core = disk.core();
    let mut writer = PageWriter::new(&core.store, core.state.lock().log.seq());
    let mut pointer = data;
    for _ in 0..root.levels {
        let mut page = new_block();
        (0..FANOUT).for_each(|index| set_entry(&mut page, index, &pointer));
        pointer = writer.put(&page).unwrap();
    }
    writer.finish().unwrap();
    disk.core().state.lock().root = Root { pointer, ..root };
    // Twice: the state before could be opened.
    disk.checkpoint().unwrap();
    disk.checkpoint().unwrap();
}

#[test]
fn a_log_that_clears_more_than_there_can_be_is_refused_soon() {
    for count in [1, 200_000] {
        let medium = medium();
        let disk = StrataDisk::create(medium.clone(), &options(1 << 57)).unwrap();
        map_everything(&disk);
        for number in 0..count {
            // The same again and again, or always another part.
            let op =
                if count == 1 { Op::Zero { lba: 0, count: 1 << 45 } } else { Op::Zero { lba: number, count: 4096 } };
            let core = disk.core();
            let mut state = core.state.lock();
            state.log.push(&mut core.store.space.write(), op, 0).unwrap();
        }
        disk.core().commit(true).unwrap();
        disk.abandon();
        let begin = Instant::now();
        let error = StrataDisk::open(medium, None, false).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::Corrupt, "{error}");
        assert!(begin.elapsed() < LONG, "{:?}", begin.elapsed());
    }
}

#[test]
fn a_map_without_end_is_checked_repaired_and_cleared_in_parts() {
    let medium = medium();
    let disk = StrataDisk::create(medium.clone(), &options(1 << 57)).unwrap();
    map_everything(&disk);
    let begin = Instant::now();
    assert_eq!(read(&disk, 1 << 56, 4096, &[]).unwrap(), [1; 4096]);
    disk.check();
    assert_eq!(disk.extent_at(0, 1 << 57).unwrap().len_bytes, 1 << 30);
    drop(disk);
    let (disk, report) = StrataDisk::repair(medium, &OpenOptions::default(), true).unwrap();
    // One path down is believed; the same pages in other places are not.
    assert_eq!(read(&disk, 0, 4096, &[]).unwrap(), [1; 4096]);
    assert_eq!(read(&disk, 1 << 56, 4096, &[]).unwrap_err().kind(), BlockErrorKind::Corrupt);
    assert_eq!(report.lost_bytes, (1 << 57) - (FANOUT << 12));
    disk.discard(1 << 56, 4 << 20).unwrap();
    assert_eq!(read(&disk, 1 << 56, 4096, &[]).unwrap(), [0; 4096]);
    assert!(begin.elapsed() < LONG, "{:?}", begin.elapsed());
}

#[test]
fn a_guest_that_clears_again_and_again_can_be_opened() {
    let medium = medium();
    let disk = StrataDisk::create(medium.clone(), &options(1 << 30)).unwrap();
    for mib in 0..64 {
        write(&disk, mib << 20, &[1; 1 << 20], &[], false).unwrap();
    }
    disk.checkpoint().unwrap();
    for _ in 0..1000 {
        disk.discard(0, 64 << 20).unwrap();
    }
    disk.flush().unwrap();
    assert!(disk.core().state.lock().changes.work <= 3 * crate::state::WORK_DUE);
    disk.abandon();
    let disk = StrataDisk::open(medium, None, false).unwrap();
    assert_eq!(read(&disk, 0, 4096, &[]).unwrap(), [0; 4096]);
}

/// A plain disk with something of everything, its superblock, its head, and where a record lies.
fn example(medium: &Arc<dyn Medium>) -> (Superblock, HeadV1, Address) {
    let disk = StrataDisk::create(medium.clone(), &options(64 << 20)).unwrap();
    for block in 0..300u64 {
        write(&disk, block * 16384, &[block as u8 | 1; 4096], &[], block % 50 == 0).unwrap();
    }
    disk.snapshot("one").unwrap();
    disk.checkpoint().unwrap();
    let superblock = disk.core().checkpoints.lock().superblock.clone();
    write(&disk, 0, &[3; 8192], &[], false).unwrap();
    disk.discard(16384, 65536).unwrap();
    let seq = disk.snapshot("two").unwrap();
    let record = disk.core().state.lock().records.iter().find(|(_, number)| *number == seq).unwrap().0;
    disk.abandon();
    let key = Keyring::new(None).unwrap().key(superblock.cipher, &superblock.head_salt).unwrap();
    let written =
        crate::head::Written { area: superblock.head_area, len: superblock.head_len, tag: superblock.head_tag };
    let head = HeadV1::read(&**medium, &key, superblock.head_generation, &written).unwrap();
    (superblock, head, record)
}

/// Whatever it is: opened, read, checked, repaired.
fn use_it(medium: &Arc<dyn Medium>) {
    for read_only in [true, false] {
        let Ok(disk) = StrataDisk::open(medium.clone(), None, read_only) else { continue };
        for block in 0..20u64 {
            let _content = read(&disk, block * 16384, 512, &[]);
        }
        let _extent = disk.extent_at(0, 1 << 20);
        disk.check();
        let points: Vec<u64> = disk.points().unwrap().iter().map(|point| point.seq).take(3).collect();
        drop(disk);
        if read_only {
            for point in points {
                if let Ok(mut disk) = StrataDisk::open(medium.clone(), None, true) {
                    let _past = disk.rewind(point);
                }
            }
            let _report = StrataDisk::repair(medium.clone(), &OpenOptions::default(), false).map(|(_, report)| report);
        }
    }
}

fn mutate(random: &mut Sequence, bytes: &mut [u8]) {
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len() as u64) as usize;
        match random.below(3) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = 0xff,
            _ => {
                let end = bytes.len().min(at + 8);
                bytes[at..end].fill([0, 0xff, 0x7f][random.below(3) as usize]);
            }
        }
    }
}

fn write_superblock(medium: &dyn Medium, superblock: &Superblock) {
    let key = zeroize::Zeroizing::new([0; 32]);
    SUPERBLOCKS.iter().for_each(|offset| medium.write_at(*offset, &[&superblock.encode(&key)[..]]).unwrap());
}

#[test]
fn authentic_nonsense_does_no_harm() {
    let mut random = Sequence::new(5);
    let key = Keyring::new(None).unwrap().key(Cipher::Highway, &[0; 32]).unwrap();
    for round in 0..150 {
        let medium = medium();
        let (mut superblock, head, record) = example(&medium);
        match round % 3 {
            0 => {
                let mut bytes = superblock.encode(&zeroize::Zeroizing::new([0; 32]));
                mutate(&mut random, &mut bytes[12..256]);
                let mac = *blake3::keyed_hash(&[0; 32], &bytes[..4032]).as_bytes();
                bytes[4032..4064].copy_from_slice(&mac);
                let checksum = *blake3::hash(&bytes[..4064]).as_bytes();
                bytes[4064..].copy_from_slice(&checksum);
                SUPERBLOCKS.iter().for_each(|offset| medium.write_at(*offset, &[&bytes[..]]).unwrap());
            }
            1 => {
                let mut bytes = postcard::to_stdvec(&head).unwrap();
                mutate(&mut random, &mut bytes);
                superblock.head_tag = key.seal_head(superblock.head_generation, &mut bytes).unwrap();
                let offset = crate::layout::HEADS[usize::from(superblock.head_area)];
                medium.write_at(offset, &[&bytes]).unwrap();
                write_superblock(&*medium, &superblock);
            }
            _ => {
                let offset = Space::restore(head.space.clone()).unwrap().locate(record).unwrap();
                let mut block = new_block();
                medium.read_at(offset, &mut block[..]).unwrap();
                mutate(&mut random, &mut block[SEALED_AT..]);
                let tag = key.seal_block(record, &mut block[SEALED_AT..]).unwrap();
                block[..SEALED_AT].copy_from_slice(&tag);
                medium.write_at(offset, &[&block[..]]).unwrap();
            }
        }
        use_it(&medium);
    }
}

#[test]
fn authentic_nonsense_in_pages_does_no_harm() {
    let mut random = Sequence::new(6);
    for _ in 0..60 {
        let medium = medium();
        let disk = StrataDisk::create(medium.clone(), &options(64 << 20)).unwrap();
        for block in 0..300u64 {
            write(&disk, block * 16384, &[block as u8 | 1; 4096], &[], false).unwrap();
        }
        disk.checkpoint().unwrap();
        let root = disk.core().state.lock().root;
        let mut page = *disk.core().store.page(&root.pointer).unwrap();
        let core = disk.core();
        let (store, seq): (&Store, u64) = (&core.store, core.state.lock().log.seq());
        mutate(&mut random, &mut page[..310]);
        if random.below(4) == 0 {
            // A page that is a guest's block, a page that is above itself, a page of another level.
            let below = disk.core().store.lookup(&root, 0).unwrap();
            set_entry(&mut page, 0, if random.below(2) == 0 { &below } else { &root.pointer });
            set_entry(&mut page, 1, &Pointer { birth: u64::MAX, ..below });
        }
        let mut writer = PageWriter::new(store, seq);
        let pointer = writer.put(&page).unwrap();
        writer.finish().unwrap();
        disk.core().state.lock().root = Root { pointer, ..root };
        disk.checkpoint().unwrap();
        disk.abandon();
        use_it(&medium);
    }
    assert_eq!(place_offset(0), 132 << 20);
}
