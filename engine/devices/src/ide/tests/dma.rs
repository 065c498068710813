//! Bus-master DMA, and what requests cost a guest that does as libata does.

use benchtop_block::CacheMode;
use benchtop_memory::Gpa;

use super::{Asked, BM, Machine, PRDS, RAM_BYTES, pattern};
use crate::{PciFunction, PortIo};

fn expected(first: u64, count: u64) -> Vec<u8> {
    (first..first + count).flat_map(pattern).collect()
}

#[test]
fn data_moves_between_disk_and_memory() {
    let (mut machine, disk) = Machine::with_cache(2000, CacheMode::Writeback, true);
    disk.fill(0, 1000);
    machine.set_prds(&[(0x1_0000, 4096)]);
    machine.command28(16, 8, 0xc8);
    assert_eq!(machine.inb(0x3f6), 0x58, "waits for START");
    machine.start_dma(true);
    assert_eq!(machine.stop_dma(), 0x04);
    assert_eq!(machine.status(), 0x50);
    assert_eq!(machine.guest_bytes(0x1_0000, 4096), expected(16, 8));
    assert_eq!(machine.wires[0].rises(), 1);
    // START first, then the command; pieces of any even length; FUA.
    machine.memory.write(Gpa(0x2_0000), &expected(300, 8)).unwrap();
    machine.set_prds(&[(0x2_0000, 6), (0x2_0006, 1018), (0x2_0400, 3072)]);
    machine.start_dma(false);
    assert_eq!(machine.inb(BM + 2) & 5, 1);
    disk.take_asked();
    machine.command48(1500, 8, 0x3d);
    let asked = disk.take_asked();
    assert!(asked == [Asked::Write(1500, 8, true)] || asked == [Asked::Write(1500, 8, false), Asked::Flush]);
    assert_eq!(machine.stop_dma(), 0x04);
    let written: Vec<u8> = (1500..1508).flat_map(|number| disk.sector(number)).collect();
    assert_eq!(written, expected(300, 8));
    // A count of 0 is 64 KiB.
    machine.set_prds(&[(0x3_0000, 0)]);
    machine.command28(0, 128, 0xc8);
    machine.start_dma(true);
    assert_eq!((machine.stop_dma(), machine.status()), (0x04, 0x50));
    assert_eq!(machine.guest_bytes(0x3_0000, 0x1_0000), expected(0, 128));
}

#[test]
fn tables_that_do_not_fit() {
    let (mut machine, disk) = Machine::with_disk(2000);
    disk.fill(0, 1000);
    let end = RAM_BYTES as u32;
    type Regions<'a> = &'a [(u32, u32)];
    let cases: [(Regions<'_>, u8, u8); 7] = [
        // Longer than the transfer: the engine goes on waiting.
        (&[(0x1_0000, 8192)], 0x05, 0x50),
        (&[(0x1_0000, 4096), (0x4_0000, 4096)], 0x05, 0x50),
        // Shorter: refused, at once.
        (&[(0x1_0000, 2048)], 0x04, 0x51),
        (&[(0x1_0000, 4094)], 0x04, 0x51),
        // Not memory.
        (&[(0xfee0_0000, 4096)], 0x06, 0x51),
        (&[(end - 2048, 4096)], 0x06, 0x51),
        (&[(0x1_0000, 2048), (0xffff_fffe, 2048)], 0x06, 0x51),
    ];
    for (regions, engine, status) in cases {
        machine.memory.write(Gpa(0x1_0000), &[0xee; 8192]).unwrap();
        machine.set_prds(regions);
        machine.command28(16, 8, 0xc8);
        machine.start_dma(true);
        assert_eq!(machine.stop_dma(), engine, "{regions:x?}");
        assert_eq!(machine.status(), status);
        let moved = machine.guest_bytes(0x1_0000, 4096);
        assert_eq!(moved, if status == 0x50 { expected(16, 8) } else { vec![0xee; 4096] });
        assert_eq!(machine.guest_bytes(0x1_1000, 4096), [0xee; 4096], "no more than was asked for");
    }
    // A table outside memory, and one that runs into its 64 KiB boundary.
    for table in [0xffff_fff8u32, end, 0x1_fff8] {
        machine.memory.write(Gpa(0x1_fff8), &[0, 0, 1, 0, 2, 0, 0, 0]).unwrap();
        machine.outl(BM + 4, table);
        machine.command28(16, 8, 0xc8);
        machine.start_dma(true);
        assert_eq!(machine.stop_dma() & 0x05, 0x04);
        assert_eq!(machine.status(), 0x51);
    }
    // A table as long as one can be, of the shortest regions.
    let mut table = Vec::new();
    for _ in 0..8192 {
        table.extend([0, 0, 1, 0, 2, 0, 0, 0]);
    }
    machine.memory.write(Gpa(0x2_0000), &table).unwrap();
    machine.outl(BM + 4, 0x2_0000);
    machine.command28(16, 32, 0xc8);
    machine.start_dma(true);
    assert_eq!((machine.stop_dma(), machine.status()), (0x05, 0x50));
    machine.command28(16, 33, 0xc8);
    machine.start_dma(true);
    assert_eq!((machine.stop_dma(), machine.status()), (0x04, 0x51));
}

#[test]
fn a_function_that_may_not_master_the_bus_waits() {
    let (mut machine, disk) = Machine::with_disk(2000);
    disk.fill(0, 100);
    machine.ide.config_write(0x04, 0x0001, 0xff);
    machine.set_prds(&[(0x1_0000, 4096)]);
    machine.command28(16, 8, 0xc8);
    machine.start_dma(true);
    assert_eq!((machine.inb(BM + 2), machine.inb(0x3f6)), (0x01, 0x58));
    assert_eq!(machine.guest_bytes(0x1_0000, 4096), [0; 4096]);
    machine.ide.config_write(0x04, 0x0005, 0xff);
    assert_eq!((machine.stop_dma(), machine.status()), (0x04, 0x50));
    assert_eq!(machine.guest_bytes(0x1_0000, 4096), expected(16, 8));
}

#[test]
fn disk_errors_end_the_transfer() {
    let (mut machine, disk) = Machine::with_disk(2000);
    disk.bad.lock().push(20);
    machine.set_prds(&[(0x1_0000, 4096)]);
    machine.command28(16, 8, 0xc8);
    machine.start_dma(true);
    assert_eq!((machine.stop_dma(), machine.status(), machine.inb(0x1f1)), (0x04, 0x51, 0x40));
    disk.fail_writes.store(true, std::sync::atomic::Ordering::SeqCst);
    machine.command28(16, 8, 0xca);
    machine.start_dma(false);
    assert_eq!((machine.stop_dma(), machine.status(), machine.inb(0x1f1)), (0x04, 0x71, 0x04));
}

#[test]
fn ranges_are_trimmed() {
    let (mut machine, disk) = Machine::with_disk(2000);
    disk.fill(0, 100);
    let mut trim = |ranges: &[(u64, u16)], count: u16, feature: u8| {
        let mut list = vec![0; 512];
        for (entry, (first, count)) in list.chunks_exact_mut(8).zip(ranges) {
            entry.copy_from_slice(&(first | u64::from(*count) << 48).to_le_bytes());
        }
        machine.memory.write(Gpa(0x1_0000), &list).unwrap();
        machine.set_prds(&[(0x1_0000, 4096)]);
        machine.outb(0x1f1, feature);
        disk.take_asked();
        machine.command48(0, count, 0x06);
        machine.start_dma(false);
        machine.stop_dma();
        // Under write-through each discard is made durable too.
        let discards = disk.take_asked().into_iter().filter(|asked| *asked != Asked::Flush).collect();
        (machine.status(), discards)
    };
    assert_eq!(trim(&[(1, 2), (10, 0), (50, 5)], 1, 1), (0x50, vec![Asked::Discard(1, 2), Asked::Discard(50, 5)]));
    assert_eq!(trim(&[(1, 2), (3, 4), (9, 1)], 1, 1).1, [Asked::Discard(1, 6), Asked::Discard(9, 1)]);
    assert_eq!(trim(&[(1, 2), (1999, 2)], 1, 1), (0x51, vec![]), "all or nothing");
    assert_eq!(trim(&[(0xffff_ffff_ffff, 0xffff)], 1, 1), (0x51, vec![]));
    assert_eq!(trim(&[(1, 2)], 1, 0), (0x51, vec![]));
    assert_eq!(trim(&[(1, 2)], 9, 1), (0x51, vec![]));
    assert_eq!(trim(&[(1, 2)], 0, 1), (0x51, vec![]));
    assert_eq!(disk.sector(1), [0; 512]);
}

#[test]
fn packets_by_dma() {
    let (mut machine, disk) = Machine::with_cd(100);
    disk.fill(0, 400);
    let mut packet = |cdb: &[u8], regions: &[(u32, u32)]| {
        machine.set_prds(regions);
        machine.outl(BM + 12, PRDS);
        machine.outb(0x176, 0xa0);
        machine.outb(0x171, 1);
        machine.outb(0x177, 0xa0);
        let mut bytes = [0; 12];
        bytes[..cdb.len()].copy_from_slice(cdb);
        machine.ide.port_write_string(0x170, 2, &bytes);
        machine.outb(BM + 10, 6);
        machine.outb(BM + 8, 9);
        let engine = machine.inb(BM + 10);
        machine.outb(BM + 8, 0);
        (engine, machine.inb(0x177), machine.inb(0x172) & 3)
    };
    assert_eq!(packet(&[0x00], &[(0x1_0000, 2048)]).1, 0x41);
    assert_eq!(packet(&[0x28, 0, 0, 0, 0, 5, 0, 0, 2], &[(0x1_0000, 4096)]), (0x04, 0x50, 3));
    assert_eq!(packet(&[0x28, 0, 0, 0, 0, 5, 0, 0, 2], &[(0x2_0000, 2048)]), (0x04, 0x41, 3));
    assert_eq!(packet(&[0x28, 0, 0, 0, 0, 5, 0, 0, 2], &[(0xf000_0000, 4096)]), (0x06, 0x41, 3));
    assert_eq!(packet(&[0x12, 0, 0, 0, 36], &[(0x3_0000, 36)]), (0x04, 0x50, 3));
    assert_eq!(
        packet(&[0xbe, 0, 0, 0, 0, 0, 0, 0, 70, 0xf8], &[(0x4_0000, 0), (0x5_0000, 0), (0x6_0000, 33568)]).1,
        0x50
    );
    assert_eq!(packet(&[0x55, 0x10, 0, 0, 0, 0, 0, 0, 8], &[(0x7_0000, 8)]), (0x04, 0x50, 3));
    assert_eq!(machine.guest_bytes(0x1_0000, 4096), expected(20, 8));
    assert_eq!(machine.guest_bytes(0x2_0000, 2048), [0; 2048]);
    assert_eq!(machine.guest_bytes(0x3_0000, 2), [0x05, 0x80]);
    let last = machine.guest_bytes(0x4_0000 + 69 * 2352 + 16, 2048);
    assert_eq!(last, expected(69 * 4, 4));
}

/// The accesses of Linux's ata_piix (libata-sff) for one request, with what a hypervisor may gather gathered.
struct Libata<'a>(&'a mut Machine);

impl Libata<'_> {
    fn latch(&mut self, port: u16, value: u8) {
        self.0.ide.port_write_coalesced(port, &[value]);
    }

    /// Selects the device and loads the task file.
    fn load(&mut self, lba: u32, count: u8) {
        self.0.inb(0x1f7);
        self.latch(0x1f6, 0xe0);
        self.0.inb(0x3f6);
        self.0.inb(0x1f7);
        let [b0, b1, b2, b3] = lba.to_le_bytes();
        for (register, value) in [(1, 0), (2, count), (3, b0), (4, b1), (5, b2), (6, 0xe0 | b3)] {
            self.latch(0x1f0 + register, value);
        }
        self.0.inb(0x1f7);
    }

    fn exec(&mut self, code: u8) {
        self.0.outb(0x1f7, code);
        self.0.inb(0x3f6);
    }

    fn clear_interrupt(&mut self) {
        let status = self.0.inb(BM + 2);
        self.0.outb(BM + 2, status);
    }

    fn dma(&mut self, lba: u32, write: bool) {
        self.load(lba, 8);
        self.0.ide.port_write_coalesced(BM + 4, &PRDS.to_le_bytes());
        let command = self.0.inb(BM) & !8 | if write { 0 } else { 8 };
        self.0.outb(BM, command);
        self.exec(if write { 0xca } else { 0xc8 });
        let command = self.0.inb(BM);
        self.0.outb(BM, command | 1);
        assert!(self.0.wires[0].level());
        assert_eq!(self.0.inb(BM + 2) & 7, 4);
        let command = self.0.inb(BM);
        self.0.outb(BM, command & !1);
        self.0.inb(0x3f6);
        assert_eq!(self.0.inb(0x3f6) & 0x80, 0);
        assert_eq!(self.0.inb(0x1f7), 0x50);
        self.clear_interrupt();
    }

    fn pio_read(&mut self, lba: u32) -> Vec<u8> {
        self.load(lba, 8);
        self.exec(0xc4);
        assert!(self.0.wires[0].level());
        assert_eq!(self.0.inb(0x3f6) & 0x80, 0);
        assert_eq!(self.0.inb(0x1f7), 0x58);
        self.clear_interrupt();
        let data = (0..8).flat_map(|_| self.0.ins(0x1f0, 4, 512)).collect();
        self.0.inb(0x3f6);
        assert_eq!(self.0.inb(0x1f7), 0x50);
        data
    }

    fn pio_write(&mut self, lba: u32, data: &[u8]) {
        self.load(lba, 8);
        self.exec(0xc5);
        assert_eq!(self.0.inb(0x1f7), 0x58);
        for dword in data.chunks(4) {
            self.0.ide.port_write_coalesced(0x1f0, dword);
        }
        self.0.inb(0x3f6);
        assert!(self.0.wires[0].level());
        assert_eq!(self.0.inb(0x3f6) & 0x80, 0);
        assert_eq!(self.0.inb(0x1f7), 0x50);
        self.clear_interrupt();
    }
}

#[test]
fn a_request_costs_few_exits() {
    let (mut machine, disk) = Machine::with_cache(2000, CacheMode::Writethrough, true);
    disk.fill(0, 100);
    machine.set_prds(&[(0x1_0000, 4096)]);
    let cost = |machine: &mut Machine, work: &mut dyn FnMut(&mut Libata<'_>)| {
        let before = machine.ide.stats(0, 0);
        work(&mut Libata(machine));
        let after = machine.ide.stats(0, 0);
        assert_eq!((after.commands - before.commands, after.interrupts - before.interrupts), (1, 1));
        after.pio_read + after.pio_write - before.pio_read - before.pio_write
    };
    assert!(cost(&mut machine, &mut |libata| libata.dma(16, false)) <= 18);
    assert!(cost(&mut machine, &mut |libata| libata.dma(500, true)) <= 18);
    assert!(cost(&mut machine, &mut |libata| assert_eq!(libata.pio_read(32), expected(32, 8))) <= 20);
    assert!(cost(&mut machine, &mut |libata| libata.pio_write(600, &expected(40, 8))) <= 20);
    assert_eq!(machine.guest_bytes(0x1_0000, 4096), expected(16, 8));
    assert_eq!((disk.sector(507), disk.sector(607)), (pattern(23), pattern(47)));
    assert_eq!(machine.ide.stats(1, 0), super::super::UnitStats::default());
}

#[test]
fn gathered_data_is_looked_for() {
    use crate::Device;

    let (mut machine, _) = Machine::with_disk(2000);
    let deadline = |machine: &mut Machine| machine.ide.poll().and_then(|poll| poll.deadline_ns());
    assert_eq!(deadline(&mut machine), None);
    machine.command28(0, 2, 0x30);
    assert_eq!(deadline(&mut machine), Some(1_000_000));
    machine.clock.set_ns(1_000_000);
    machine.ide.poll().unwrap().poll(1_000_000);
    assert_eq!(deadline(&mut machine), Some(3_000_000));
    for _ in 0..20 {
        let at = deadline(&mut machine).unwrap();
        machine.clock.set_ns(at);
        machine.ide.poll().unwrap().poll(at);
        assert!(deadline(&mut machine).unwrap() - at <= 64_000_000);
    }
    machine.ide.port_write_string(0x1f0, 2, &[1; 512]);
    assert_eq!(deadline(&mut machine).unwrap() - machine.clock.now_ns(), 1_000_000);
    machine.ide.port_write_string(0x1f0, 2, &[1; 512]);
    assert_eq!(deadline(&mut machine), None);
}
