//! Requests in flight when the guest resets, stops or looks away (CVE-2023-5088 and its kind).

use benchtop_block::{CacheMode, Disk, DiskOptions};
use benchtop_memory::Gpa;

use super::{BM, Machine, SparseDisk, identity, pattern};
use crate::scsi::cdrom::{CdDrive, CdTransport};
use crate::{Device, PciFunction, PortIo};

fn slow_disk() -> (Machine, std::sync::Arc<SparseDisk>) {
    let (machine, disk) = Machine::with_cache(2000, CacheMode::Writeback, false);
    disk.fill(0, 100);
    disk.hold();
    (machine, disk)
}

fn start_read(machine: &mut Machine) {
    machine.set_prds(&[(0x1_0000, 4096)]);
    machine.command28(16, 8, 0xc8);
    machine.start_dma(true);
    assert_eq!((machine.inb(BM + 2), machine.inb(0x3f6)), (0x01, 0x80));
}

#[test]
fn a_request_completes_later() {
    let (mut machine, disk) = slow_disk();
    start_read(&mut machine);
    // Busy: registers are the device's.
    machine.command28(99, 1, 0xca);
    assert_eq!((machine.inb(0x1f3), machine.inb(0x3f6)), (16, 0x80));
    assert!(machine.ide.is_busy());
    disk.release();
    machine.deliver(1);
    assert_eq!(machine.wires[0].rises(), 1);
    assert_eq!((machine.stop_dma(), machine.status()), (0x04, 0x50));
    assert_eq!(machine.guest_bytes(0x1_0000, 512), pattern(16));
    // PIO, likewise.
    machine.command28(20, 2, 0x20);
    machine.deliver(1);
    assert_eq!(machine.status(), 0x58);
    assert_eq!(machine.ins(0x1f0, 2, 1024)[512..], pattern(21));
    machine.command28(30, 1, 0x30);
    machine.ide.port_write_string(0x1f0, 2, &pattern(7));
    assert_eq!(machine.status(), 0x80);
    machine.deliver(1);
    assert_eq!((machine.status(), disk.sector(30)), (0x50, pattern(7)));
}

#[test]
fn a_software_reset_waits_for_the_request() {
    let (mut machine, disk) = slow_disk();
    start_read(&mut machine);
    for _ in 0..3 {
        machine.outb(0x3f6, 0x04);
        assert_eq!(machine.inb(0x3f6), 0x80);
        machine.outb(0x3f6, 0x00);
        assert_eq!(machine.inb(0x3f6), 0x80, "a read may still write memory");
    }
    machine.outb(BM, 0);
    disk.release();
    machine.deliver(1);
    assert_eq!((machine.status(), machine.inb(0x1f1), machine.inb(0x1f3)), (0x50, 1, 1));
    assert_eq!(machine.inb(BM + 2), 0);
    assert_eq!(machine.wires[0].rises(), 0, "no interrupt of the old command");
    // And it works.
    assert_eq!(machine.inb(0x1f6), 0xa0);
    start_read_done(&mut machine);
}

fn start_read_done(machine: &mut Machine) {
    machine.set_prds(&[(0x1_0000, 4096)]);
    machine.command28(16, 8, 0xc8);
    machine.start_dma(true);
    machine.deliver(1);
    assert_eq!((machine.stop_dma(), machine.status()), (0x04, 0x50));
}

#[test]
fn a_reset_held_while_the_request_comes_back() {
    let (mut machine, disk) = slow_disk();
    start_read(&mut machine);
    machine.outb(0x3f6, 0x04);
    disk.release();
    machine.deliver(1);
    assert_eq!(machine.inb(0x3f6), 0x80);
    machine.outb(0x3f6, 0x00);
    assert_eq!(machine.inb(0x3f6), 0x50);
    machine.outb(BM, 0);
    start_read_done(&mut machine);
}

#[test]
fn stopping_the_engine_waits_for_the_request() {
    for by_config in [false, true] {
        let (mut machine, disk) = slow_disk();
        start_read(&mut machine);
        if by_config {
            machine.ide.config_write(0x04, 0x0001, 0xff);
        } else {
            machine.outb(BM, 0);
        }
        assert_eq!((machine.inb(BM + 2), machine.inb(0x3f6)), (0x01, 0x80));
        disk.release();
        machine.deliver(1);
        assert_eq!((machine.inb(BM + 2), machine.status(), machine.inb(0x1f1)), (0x00, 0x51, 4));
        assert_eq!(machine.wires[0].rises(), 0);
    }
}

#[test]
fn a_write_goes_where_it_was_sent() {
    let (mut machine, disk) = slow_disk();
    machine.memory.write(Gpa(0x1_0000), &pattern(77)).unwrap();
    machine.set_prds(&[(0x1_0000, 512)]);
    machine.command28(1000, 1, 0xca);
    machine.start_dma(false);
    machine.outb(0x3f6, 0x04);
    machine.outb(0x3f6, 0x00);
    machine.command28(0, 1, 0xca);
    let first = disk.sector(0);
    disk.release();
    machine.deliver(1);
    assert_eq!((disk.sector(0), disk.sector(1000)), (first, pattern(77)));
    assert_eq!(machine.status(), 0x50);
}

#[test]
fn power_on_disowns_the_request() {
    let (mut machine, disk) = slow_disk();
    start_read(&mut machine);
    machine.ide.reset();
    assert_eq!((machine.status(), machine.inb(0x1f3)), (0x50, 1));
    disk.release();
    machine.deliver(1);
    assert_eq!((machine.status(), machine.wires[0].rises()), (0x50, 0));
    assert_eq!(machine.ide.config_read(4) & 0xffff, 0);
}

#[test]
fn a_disc_is_taken_out_while_it_is_read() {
    let (mut machine, disk) = (Machine::new(), SparseDisk::new(4000));
    disk.fill(0, 4000);
    let medium = Disk::new(disk.clone(), DiskOptions { inline: false, ..DiskOptions::default() });
    let drive = CdDrive::new(CdTransport::Atapi, "CD0001", Some(medium));
    machine.ide.attach_cd(1, 0, drive, identity());
    assert_eq!(machine.packet(&[0x00], 0), Err(0x64));
    let read = |machine: &mut Machine| {
        disk.hold();
        machine.outb(0x174, 0);
        machine.outb(0x175, 8);
        machine.outb(0x177, 0xa0);
        machine.ide.port_write_string(0x170, 2, &[0x28, 0, 0, 0, 0, 9, 0, 0, 100, 0, 0, 0]);
        assert_eq!(machine.inb(0x376), 0x80);
    };
    read(&mut machine);
    assert!(machine.ide.cd_eject(1, 0, true).unwrap().is_some());
    disk.release();
    machine.deliver(1);
    // What was begun is finished from the disc that was in.
    for number in 9..109u64 {
        if machine.inb(0x177) & 0x80 != 0 {
            machine.deliver(1);
        }
        assert_eq!(machine.inb(0x177), 0x58);
        assert_eq!(machine.ins(0x170, 2, 2048)[..512], pattern(number * 4));
    }
    assert_eq!(machine.inb(0x177), 0x50);
    // DEVICE RESET with a request out.
    let medium = Disk::new(disk.clone(), DiskOptions { inline: false, ..DiskOptions::default() });
    assert!(machine.ide.cd_insert(1, 0, medium).unwrap().is_none());
    assert_eq!(machine.packet(&[0x00], 0), Err(0x64));
    read(&mut machine);
    let rises = machine.wires[1].rises();
    machine.outb(0x177, 0x08);
    assert_eq!(machine.inb(0x376), 0x80);
    disk.release();
    machine.deliver(1);
    assert_eq!((machine.inb(0x376), machine.inb(0x174), machine.inb(0x175)), (0, 0x14, 0xeb));
    assert_eq!(machine.wires[1].rises(), rises);
}
