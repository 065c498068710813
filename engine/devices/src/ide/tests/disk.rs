//! ATA commands by PIO, addressing, identification, the cache.

use std::sync::atomic::Ordering;

use benchtop_block::CacheMode;

use super::{Asked, Machine, pattern};
use crate::PortIo;

fn identify(machine: &mut Machine) -> Vec<u16> {
    machine.outb(0x1f6, 0xa0);
    machine.outb(0x1f7, 0xec);
    assert_eq!(machine.status(), 0x58);
    let data = machine.ins(0x1f0, 2, 512);
    assert_eq!(machine.status(), 0x50);
    assert_eq!(data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    data.chunks_exact(2).map(|word| u16::from_le_bytes([word[0], word[1]])).collect()
}

fn expected(first: u64, count: u64) -> Vec<u8> {
    (first..first + count).flat_map(pattern).collect()
}

#[test]
fn firmware_finds_the_disk_and_nothing_else() {
    let (mut machine, _) = Machine::with_disk(1000);
    for (device, present) in [(0xa0, true), (0xb0, false)] {
        machine.outb(0x1f6, device);
        machine.outb(0x1f2, 0x55);
        machine.outb(0x1f3, 0xaa);
        assert_eq!((machine.inb(0x1f2), machine.inb(0x1f3), machine.inb(0x1f6)), (0x55, 0xaa, device));
        machine.outb(0x3f6, 0x0e);
        if present {
            assert_eq!(machine.inb(0x3f6), 0x80);
        }
        machine.outb(0x3f6, 0x0a);
        machine.outb(0x1f6, device);
        assert_eq!(machine.status(), if present { 0x50 } else { 0 });
        machine.outb(0x3f6, 0x08);
        // IDENTIFY PACKET DEVICE is not for disks.
        machine.outb(0x1f7, 0xa1);
        assert_eq!(machine.status(), if present { 0x51 } else { 0 });
    }
    machine.outb(0x176, 0xa0);
    machine.outb(0x172, 0x55);
    assert_eq!((machine.inb(0x172), machine.inb(0x177), machine.inb(0x376)), (0, 0, 0));
    assert_eq!(machine.inb(0x3f7), 0xff);
}

#[test]
fn identify_tells_what_is_so() {
    let (mut machine, _) = Machine::with_disk(1 << 30);
    let words = identify(&mut machine);
    assert_eq!(words[0], 0x0040);
    assert_eq!(u32::from(words[60]) | u32::from(words[61]) << 16, 0x0fff_ffff);
    assert_eq!(u64::from(words[100]) | u64::from(words[101]) << 16, 1 << 30);
    assert_eq!(words[1], 16383);
    assert_eq!(words[59], 0x0110);
    assert_eq!(words[63], 0x0407);
    // The user's write-through leaves no cache to offer.
    assert_eq!((words[82] >> 5 & 1, words[85] >> 5 & 1), (0, 0));
    assert_eq!(words[106], 0x6003);
    assert_eq!((words[108], words[111]), (0x5000, 0x5678));
    assert_eq!((words[169] & 1, words[69]), (1, 0x4020));
    let model: Vec<u8> = words[27..47].iter().flat_map(|word| word.to_be_bytes()).collect();
    assert!(model.starts_with(b"Benchtop Disk   "));
    // SET MULTIPLE and SET FEATURES show.
    machine.outb(0x1f2, 8);
    machine.outb(0x1f7, 0xc6);
    machine.outb(0x1f1, 3);
    machine.outb(0x1f2, 0x21);
    machine.outb(0x1f7, 0xef);
    assert_eq!(machine.status(), 0x50);
    let words = identify(&mut machine);
    assert_eq!((words[59], words[63]), (0x0108, 0x0207));
}

#[test]
fn pio_reads_with_every_command() {
    let (mut machine, disk) = Machine::with_disk(2000);
    disk.fill(0, 2000);
    assert_eq!(machine.pio_read(0x20, 5, 1, 1), expected(5, 1));
    assert_eq!(machine.pio_read(0x20, 7, 256, 1), expected(7, 256));
    assert_eq!(machine.pio_read(0x24, 100, 600, 1), expected(100, 600));
    disk.take_asked();
    assert_eq!(machine.pio_read(0xc4, 1, 35, 16), expected(1, 35));
    assert_eq!(disk.take_asked(), [Asked::Read(1, 35)], "one request for the command");
    assert_eq!(machine.pio_read(0x29, 3, 300, 16), expected(3, 300));
    assert_eq!(disk.take_asked(), [Asked::Read(3, 256), Asked::Read(259, 44)]);
    // Last sector and nothing left in the registers.
    assert_eq!((machine.inb(0x1f2), machine.inb(0x1f3), machine.inb(0x1f4)), (0, 302u16 as u8, 1));
    // Words, and bytes, which each use up a word.
    machine.command28(5, 1, 0x20);
    let mut word = [0; 2];
    machine.ide.port_read(0x1f0, &mut word);
    assert_eq!(word, pattern(5)[..2]);
    assert_eq!(machine.inb(0x1f0), pattern(5)[2]);
    assert_eq!(machine.ins(0x1f0, 2, 508), pattern(5)[4..]);
    assert_eq!(machine.status(), 0x50);
}

#[test]
fn interrupts_of_a_pio_read() {
    let (mut machine, disk) = Machine::with_disk(2000);
    disk.fill(0, 64);
    machine.command28(0, 3, 0x20);
    for sector in 0..3 {
        assert_eq!(machine.wires[0].rises(), sector + 1);
        assert_eq!(machine.inb(0x3f6), 0x58);
        assert!(machine.wires[0].level());
        assert_eq!(machine.status(), 0x58);
        assert!(!machine.wires[0].level());
        machine.ins(0x1f0, 2, 512);
    }
    assert_eq!(machine.wires[0].rises(), 3, "none after the last word");
    // Masked, the interrupt stays pending and comes when it is let through.
    machine.outb(0x3f6, 0x0a);
    machine.command28(0, 1, 0x20);
    assert!(!machine.wires[0].level());
    machine.outb(0x3f6, 0x08);
    assert!(machine.wires[0].level());
    // The other unit hides it.
    machine.ins(0x1f0, 2, 512);
    machine.outb(0x1f6, 0xf0);
    assert!(!machine.wires[0].level());
    machine.outb(0x1f6, 0xe0);
    assert!(machine.wires[0].level());
    assert_eq!(machine.inb(super::BM + 2) & 4, 4);
}

#[test]
fn pio_writes_with_every_command() {
    let (mut machine, disk) = Machine::with_disk(2000);
    for (code, first, count, block) in
        [(0x30, 10, 3, 1), (0xc5, 100, 20, 16), (0x34, 200, 300, 1), (0x39, 600, 40, 16), (0xce, 700, 17, 16)]
    {
        disk.take_asked();
        let rises = machine.wires[0].rises();
        if code == 0x30 || code == 0xc5 {
            machine.command28(first as u32, count as u8, code);
        } else {
            machine.command48(first, count as u16, code);
        }
        assert_eq!(machine.wires[0].rises(), rises, "no interrupt for the first block");
        let data = expected(first, count);
        for block in data.chunks(block * 512) {
            assert_eq!(machine.status() & 0x89, 0x08);
            machine.ide.port_write_string(0x1f0, 4, block);
        }
        assert_eq!(machine.wires[0].rises(), rises + count.div_ceil(block as u64));
        assert_eq!(machine.status(), 0x50);
        let written: Vec<u8> = (first..first + count).flat_map(|number| disk.sector(number)).collect();
        assert_eq!(written, data, "{code:#x}");
        let writes = disk.take_asked().into_iter().filter(|asked| matches!(asked, Asked::Write(..))).count();
        assert_eq!(writes as u64, count.div_ceil(256));
    }
}

#[test]
fn ranges_are_checked_to_the_last_sector() {
    let capacity = (1u64 << 28) + 100;
    let (mut machine, disk) = Machine::with_disk(capacity);
    // 28 bits reach no further than 2^28.
    disk.fill((1 << 28) - 2, 4);
    disk.fill(capacity - 2, 2);
    assert_eq!(machine.pio_read(0x20, (1 << 28) - 1, 1, 1), expected((1 << 28) - 1, 1));
    assert_eq!(machine.pio_read(0x24, (1 << 28) - 1, 2, 1), expected((1 << 28) - 1, 2));
    assert_eq!(machine.pio_read(0x24, capacity - 2, 2, 1), expected(capacity - 2, 2));
    for (lba, count) in [
        (capacity - 1, 2),
        (capacity, 1),
        (capacity + 1, 1),
        (1 << 32, 1),
        ((1 << 48) - 1, 1),
        ((1 << 48) - 1, 0),
        (capacity - 0xffff, 0),
    ] {
        for code in [0x24, 0x25, 0x29, 0x34, 0x35, 0x39, 0x3d, 0x42, 0xce] {
            disk.take_asked();
            machine.command48(lba, count, code);
            assert_eq!(machine.status(), 0x51, "{lba:#x}+{count} {code:#x}");
            assert_eq!(machine.inb(0x1f1), 0x10);
            let low = machine.inb(0x1f3);
            machine.outb(0x3f6, 0x80);
            let high = machine.inb(0x1f3);
            machine.outb(0x3f6, 0);
            let bad = lba.max(capacity);
            assert_eq!((low, high), (bad as u8, (bad >> 24) as u8));
            assert!(disk.take_asked().is_empty());
        }
    }
    // 48-bit native maximum, and what 28 bits can say.
    machine.command48(0, 1, 0x27);
    assert_eq!(machine.inb(0x1f3), 99);
    machine.command28(0, 1, 0xf8);
    assert_eq!((machine.inb(0x1f3), machine.inb(0x1f6)), (0xff, 0xef));
}

#[test]
fn the_largest_disk_is_reached() {
    let capacity = (1u64 << 48) - 1;
    let (mut machine, disk) = Machine::with_disk(capacity);
    disk.fill(capacity - 1, 1);
    assert_eq!(machine.pio_read(0x24, capacity - 1, 1, 1), expected(capacity - 1, 1));
    machine.command48(capacity, 1, 0x24);
    assert_eq!((machine.status(), machine.inb(0x1f1)), (0x51, 0x10));
}

#[test]
fn cylinders_heads_and_sectors() {
    let (mut machine, disk) = Machine::with_disk(20000);
    disk.fill(0, 20000);
    let mut chs = |cylinder: u16, head: u8, sector: u8| {
        for (register, value) in
            [(2, 1), (3, sector), (4, cylinder as u8), (5, (cylinder >> 8) as u8), (6, 0xa0 | head), (7, 0x20)]
        {
            machine.outb(0x1f0 + register, value);
        }
        let status = machine.status();
        if status & 1 != 0 { Err(machine.inb(0x1f1)) } else { Ok(machine.ins(0x1f0, 2, 512)) }
    };
    assert_eq!(chs(0, 0, 1), Ok(expected(0, 1)));
    assert_eq!(chs(2, 3, 4), Ok(expected((2 * 16 + 3) * 63 + 3, 1)));
    for (cylinder, head, sector) in [(0, 0, 0), (0, 0, 64), (30, 0, 1), (0xffff, 15, 63)] {
        assert_eq!(chs(cylinder, head, sector), Err(0x10));
    }
    machine.outb(0x1f2, 32);
    machine.outb(0x1f6, 0xa3);
    machine.outb(0x1f7, 0x91);
    assert_eq!(machine.status(), 0x50);
    machine.outb(0x1f2, 1);
    for (register, value) in [(3, 5), (4, 1), (5, 0), (6, 0xa2), (7, 0x20)] {
        machine.outb(0x1f0 + register, value);
    }
    assert_eq!(machine.ins(0x1f0, 2, 512), expected((4 + 2) * 32 + 4, 1));
    machine.outb(0x1f2, 0);
    machine.outb(0x1f7, 0x91);
    assert_eq!(machine.status(), 0x51);
}

#[test]
fn a_bad_sector_is_named() {
    let (mut machine, disk) = Machine::with_disk(2000);
    disk.fill(0, 2000);
    disk.bad.lock().push(77);
    machine.command28(10, 100, 0x20);
    for number in 10..77 {
        assert_eq!(machine.status() & 0x89, 0x08, "{number}");
        assert_eq!(machine.ins(0x1f0, 2, 512), pattern(number));
    }
    assert_eq!((machine.status(), machine.inb(0x1f1), machine.inb(0x1f3)), (0x51, 0x40, 77));
    assert!(machine.ins(0x1f0, 2, 512).iter().all(|byte| *byte == 0xff));
    machine.command28(70, 20, 0x40);
    assert_eq!((machine.status(), machine.inb(0x1f1)), (0x51, 0x40));
    machine.command28(78, 20, 0x40);
    assert_eq!(machine.status(), 0x50);
}

#[test]
fn failed_writes_and_flushes_are_told() {
    let (mut machine, disk) = Machine::with_cache(2000, CacheMode::Writeback, true);
    disk.fail_flush.store(true, Ordering::SeqCst);
    machine.outb(0x1f7, 0xe7);
    assert_eq!((machine.status(), machine.inb(0x1f1)), (0x71, 4));
    let (mut machine, disk) = Machine::with_disk(2000);
    disk.fail_writes.store(true, Ordering::SeqCst);
    machine.command28(4, 1, 0x30);
    machine.ide.port_write_string(0x1f0, 2, &[7; 512]);
    assert_eq!((machine.status(), machine.inb(0x1f1)), (0x71, 4));
    disk.change_info(|info| info.read_only = true);
    for code in [0x30, 0xc5, 0xca, 0x06] {
        machine.command28(4, 1, code);
        assert_eq!((machine.status(), machine.inb(0x1f1)), (0x51, 4));
    }
}

#[test]
fn the_write_cache_has_a_ceiling() {
    let feature = |machine: &mut Machine, value: u8| {
        machine.outb(0x1f1, value);
        machine.outb(0x1f7, 0xef);
        machine.status()
    };
    let (mut machine, _) = Machine::with_cache(2000, CacheMode::Writethrough, true);
    assert_eq!(feature(&mut machine, 0x02), 0x51);
    assert_eq!(identify(&mut machine)[85] & 0x20, 0);
    let (mut machine, disk) = Machine::with_cache(2000, CacheMode::Writeback, true);
    assert_eq!(identify(&mut machine)[85] & 0x20, 0x20);
    machine.command28(0, 1, 0x30);
    machine.ide.port_write_string(0x1f0, 2, &[7; 512]);
    disk.take_asked();
    assert_eq!(feature(&mut machine, 0x82), 0x50);
    assert_eq!(disk.take_asked(), [Asked::Flush], "what was cached becomes durable first");
    let words = identify(&mut machine);
    assert_eq!((words[82] & 0x20, words[85] & 0x20), (0x20, 0));
    machine.command28(0, 1, 0x30);
    machine.ide.port_write_string(0x1f0, 2, &[8; 512]);
    assert_eq!(machine.status(), 0x50);
    assert!(disk.take_asked().iter().any(|asked| *asked == Asked::Flush || matches!(asked, Asked::Write(_, _, true))));
    assert_eq!(feature(&mut machine, 0x02), 0x50);
    assert_eq!(identify(&mut machine)[85] & 0x20, 0x20);
}

#[test]
fn transfer_modes_that_piix3_has() {
    let (mut machine, _) = Machine::with_disk(2000);
    for mode in 0..=255 {
        machine.outb(0x1f1, 3);
        machine.outb(0x1f2, mode);
        machine.outb(0x1f7, 0xef);
        let known = matches!(mode, 0 | 1 | 0x08..=0x0c | 0x20..=0x22);
        assert_eq!(machine.status(), if known { 0x50 } else { 0x51 }, "{mode:#x}");
    }
}

#[test]
fn smart_and_power() {
    let (mut machine, _) = Machine::with_disk(2000);
    let smart = |machine: &mut Machine, feature: u8, high: u8| {
        machine.outb(0x1f1, feature);
        machine.outb(0x1f2, 1);
        machine.outb(0x1f3, 0);
        machine.outb(0x1f4, 0x4f);
        machine.outb(0x1f5, high);
        machine.outb(0x1f7, 0xb0);
        machine.status()
    };
    for feature in [0xd0, 0xd1, 0xd5] {
        assert_eq!(smart(&mut machine, feature, 0xc2), 0x58);
        machine.ins(0x1f0, 2, 512);
    }
    assert_eq!(smart(&mut machine, 0xda, 0xc2), 0x50);
    assert_eq!((machine.inb(0x1f4), machine.inb(0x1f5)), (0x4f, 0xc2));
    assert_eq!(smart(&mut machine, 0xd0, 0xc3), 0x51);
    assert_eq!(smart(&mut machine, 0xd9, 0xc2), 0x50);
    assert_eq!(smart(&mut machine, 0xd0, 0xc2), 0x51);
    machine.outb(0x1f7, 0xe5);
    assert_eq!((machine.status(), machine.inb(0x1f2)), (0x50, 0xff));
    machine.outb(0x1f7, 0xe0);
    machine.outb(0x1f7, 0xe5);
    assert_eq!((machine.status(), machine.inb(0x1f2)), (0x50, 0));
}

#[test]
fn previous_contents_are_read_back() {
    let (mut machine, _) = Machine::with_disk(2000);
    machine.outb(0x1f4, 0x12);
    machine.outb(0x1f4, 0x34);
    assert_eq!(machine.inb(0x1f4), 0x34);
    machine.outb(0x3f6, 0x80);
    assert_eq!(machine.inb(0x1f4), 0x12);
    machine.outb(0x1f3, 1);
    assert_eq!(machine.inb(0x1f4), 0x34, "a write of the command block ends it");
}
