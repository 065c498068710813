//! Packet commands on the secondary master.

use super::{Machine, pattern};

fn block(number: u64) -> Vec<u8> {
    (number * 4..number * 4 + 4).flat_map(pattern).collect()
}

fn ready(machine: &mut Machine) {
    assert_eq!(machine.packet(&[0x00], 0), Err(0x64));
    assert_eq!(machine.sense(), (6, 0x29, 0));
    assert_eq!(machine.packet(&[0x00], 0), Ok(vec![]));
}

#[test]
fn firmware_finds_the_drive() {
    let (mut machine, _) = Machine::with_cd(100);
    machine.outb(0x176, 0xa0);
    machine.outb(0x376, 0x0e);
    machine.outb(0x376, 0x0a);
    assert_eq!(machine.inb(0x177), 0);
    assert_eq!((machine.inb(0x174), machine.inb(0x175)), (0x14, 0xeb));
    machine.outb(0x177, 0xec);
    assert_eq!((machine.inb(0x177), machine.inb(0x171)), (0x51, 4));
    assert_eq!((machine.inb(0x174), machine.inb(0x175)), (0x14, 0xeb));
    machine.outb(0x177, 0xa1);
    assert_eq!(machine.inb(0x177), 0x58);
    let data = machine.ins(0x170, 2, 512);
    assert_eq!((data[1] & 0x1f, data[1], data[0]), (5, 0x85, 0xc0));
    assert_eq!(machine.inb(0x177), 0x50);
    ready(&mut machine);
}

#[test]
fn blocks_are_as_long_as_the_guest_allows() {
    let (mut machine, _) = Machine::with_cd(100);
    ready(&mut machine);
    let read = [0x28, 0, 0, 0, 0, 3, 0, 0, 40];
    let whole: Vec<u8> = (3..43).flat_map(block).collect();
    for (limit, first) in [(2048, 2048), (0, 0xfffe), (0xffff, 0xfffe), (1, 2), (3, 2), (2047, 2046), (4096, 4096)] {
        let blocks = machine.packet(&read, limit).unwrap();
        assert_eq!(blocks[0].len(), first, "limit {limit:#x}");
        assert_eq!(blocks.concat(), whole, "limit {limit:#x}");
    }
    assert_eq!(machine.packet(&read, 2048).unwrap().len(), 40);
    // A reply of odd length, its last byte padded to a word.
    let inquiry = machine.packet(&[0x12, 0, 0, 0, 5], 0xfffe).unwrap();
    assert_eq!(inquiry, [vec![0x05, 0x80, 0x00, 0x21, 31]]);
    assert_eq!(machine.packet(&[0x12, 0, 0, 0, 0], 0), Ok(vec![]));
}

#[test]
fn reads_past_the_end_and_bad_blocks() {
    let (mut machine, disk) = Machine::with_cd(100);
    ready(&mut machine);
    for cdb in [
        vec![0x28, 0, 0, 0, 0, 100, 0, 0, 1],
        vec![0x28, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 1],
        vec![0xa8, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff],
        vec![0xbe, 0, 0, 0, 0, 99, 0, 0, 2, 0x10],
    ] {
        assert_eq!(machine.packet(&cdb, 2048), Err(0x54));
        assert_eq!(machine.sense(), (5, 0x21, 0));
    }
    assert_eq!(machine.packet(&[0x28, 0, 0, 0, 0, 99, 0, 0, 0], 2048), Ok(vec![]));
    assert_eq!(machine.sense(), (0, 0, 0));
    disk.bad.lock().push(4 * 20 + 1);
    assert_eq!(machine.packet(&[0x28, 0, 0, 0, 0, 18, 0, 0, 10], 2048), Err(0x34));
    let data = machine.packet(&[0x03, 0, 0, 0, 18], 18).unwrap().concat();
    assert_eq!((data[0], data[2], data[6], data[12]), (0xf0, 3, 20, 0x11));
}

#[test]
fn whole_sectors() {
    let (mut machine, _) = Machine::with_cd(100);
    ready(&mut machine);
    let data = machine.packet(&[0xbe, 0, 0, 0, 0, 16, 0, 0, 2, 0xf8], 2352).unwrap();
    assert_eq!(data.len(), 2);
    assert_eq!(data[1][12..16], [0x00, 0x02, 0x17, 0x01]);
    assert_eq!(data[1][16..2064], block(17));
    assert_eq!(machine.packet(&[0xb9, 0, 0, 0, 2, 16, 0, 2, 18, 0x10], 0).unwrap().concat().len(), 4096);
    assert_eq!(machine.packet(&[0xbe, 0, 0, 0, 0, 16, 0, 0, 2, 0], 2352), Ok(vec![]));
    // Header only: many small blocks gathered into one data block.
    assert_eq!(machine.packet(&[0xbe, 0, 0, 0, 0, 0, 0, 0, 100, 0x20], 0).unwrap().concat().len(), 400);
}

#[test]
fn parameter_lists_go_out() {
    let (mut machine, _) = Machine::with_cd(100);
    ready(&mut machine);
    let mut select = |list: &[u8], limit: u8| {
        machine.outb(0x176, 0xa0);
        machine.outb(0x171, 0);
        machine.outb(0x174, limit);
        machine.outb(0x175, 0);
        machine.outb(0x177, 0xa0);
        let cdb = [0x55, 0x10, 0, 0, 0, 0, 0, 0, list.len() as u8, 0, 0, 0];
        crate::PortIo::port_write_string(&mut machine.ide, 0x170, 2, &cdb);
        let mut sent = 0;
        while machine.inb(0x177) & 8 != 0 {
            assert_eq!(machine.inb(0x172) & 3, 0);
            let len_bytes = usize::from(machine.inb(0x174));
            let end = sent + len_bytes;
            let mut block = list[sent..end].to_vec();
            block.resize(len_bytes.next_multiple_of(2), 0);
            crate::PortIo::port_write_string(&mut machine.ide, 0x170, 2, &block);
            sent = end;
        }
        assert_eq!(sent, list.len());
        machine.inb(0x171)
    };
    let good = [0, 0, 0, 0, 0, 0, 0, 0, 0x01, 6, 0, 5, 0, 0, 0, 0];
    assert_eq!(select(&good, 0), 0);
    assert_eq!(select(&good, 6), 0);
    assert_eq!(select(&good[..15], 0), 0x54);
    assert_eq!(select(&[0, 0, 0, 0, 0, 0, 0, 0, 0x3e, 0], 0), 0x54);
    assert_eq!(select(&[0; 3], 1), 0x54);
}

#[test]
fn a_disc_is_swapped() {
    use benchtop_block::Disk;

    let (mut machine, _) = Machine::with_cd(100);
    ready(&mut machine);
    let other = super::SparseDisk::new(50 * 4);
    assert!(machine.packet(&[0x1e, 0, 0, 0, 1], 0).is_ok());
    assert!(machine.ide.cd_insert(1, 0, Disk::inline(other.clone())).is_err());
    let event = |machine: &mut Machine| machine.packet(&[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8], 8).unwrap().concat();
    assert_eq!(event(&mut machine), [0, 4, 4, 0x10, 1, 2, 0, 0]);
    assert_eq!(event(&mut machine), [0, 4, 4, 0x10, 0, 2, 0, 0]);
    assert!(machine.packet(&[0x1e, 0, 0, 0, 0], 0).is_ok());
    assert!(machine.ide.cd_insert(1, 0, Disk::inline(other)).unwrap().is_some());
    assert_eq!(event(&mut machine)[4], 2);
    assert_eq!(machine.packet(&[0x00], 0), Err(0x24));
    assert_eq!(machine.packet(&[0x00], 0), Err(0x64));
    assert_eq!(machine.sense(), (6, 0x28, 0));
    assert_eq!(machine.packet(&[0x25], 8).unwrap().concat(), [0, 0, 0, 49, 0, 0, 8, 0]);
    assert!(machine.ide.cd_eject(1, 0, false).unwrap().is_some());
    assert_eq!(machine.packet(&[0x25], 8), Err(0x24));
    assert_eq!(machine.sense(), (2, 0x3a, 2));
}
