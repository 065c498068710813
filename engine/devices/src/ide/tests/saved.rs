//! Save and restore in the middle of everything.

use benchtop_block::CacheMode;

use super::{BM, Machine, SparseDisk, identity, pattern};
use crate::conformance::{device_round_trip, save_restore_round_trip};
use crate::scsi::cdrom::{CdDrive, CdTransport};
use crate::{Device, PortIo};

fn full() -> Machine {
    let (mut machine, disk) = Machine::with_cache(3000, CacheMode::Writeback, true);
    disk.fill(0, 30);
    let disc = SparseDisk::new(400);
    disc.fill(36, 240);
    let medium = benchtop_block::Disk::inline(disc);
    machine.ide.attach_cd(1, 0, CdDrive::new(CdTransport::Atapi, "CD0001", Some(medium)), identity());
    machine
}

fn out(device: &mut dyn Device, port: u16, value: u8) {
    device.port_io().unwrap().port_write(port, &[value]);
}

#[test]
fn a_disk_in_the_middle_of_reading() {
    let make = || -> Box<dyn Device> {
        let (mut machine, _) = Machine::with_cache(3000, CacheMode::Writeback, true);
        machine.ide.reset();
        Box::new(machine.ide)
    };
    device_round_trip(make, |device| {
        for (register, value) in [(1, 0x82), (7, 0xef), (2, 4), (7, 0xc6), (2, 9), (3, 5), (6, 0xe0), (7, 0xc4)] {
            out(device, 0x1f0 + register, value);
        }
        device.port_io().unwrap().port_read_string(0x1f0, 2, &mut [0; 700]);
        device.pci().unwrap().config_write(4, 5, 0xffff);
    });
}

#[test]
fn a_drive_in_the_middle_of_a_packet() {
    let disc = SparseDisk::new(400);
    let make = || -> Box<dyn Device> {
        let (mut machine, _) = Machine::with_cache(3000, CacheMode::Writeback, true);
        let medium = benchtop_block::Disk::inline(disc.clone());
        machine.ide.attach_cd(1, 0, CdDrive::new(CdTransport::Atapi, "CD0001", Some(medium)), identity());
        Box::new(machine.ide)
    };
    save_restore_round_trip(make, |device| {
        out(device, 0x177, 0xa0);
        device.port_io().unwrap().port_write_string(0x170, 2, &[0x28, 0, 0, 0]);
        for (register, value) in [(1, 0), (2, 1), (7, 0xc6), (2, 100), (3, 5), (6, 0xe0), (7, 0xc5)] {
            out(device, 0x1f0 + register, value);
        }
        device.port_io().unwrap().port_write_string(0x1f0, 2, &[0x5a; 512 * 5 + 6]);
    });
}

/// Takes the machine apart and goes on with another.
fn moved(machine: &Machine) -> Machine {
    let mut twin = full();
    twin.ide.restore(&machine.ide.save()).unwrap();
    twin
}

#[test]
fn transfers_go_on() {
    let mut machine = full();
    machine.command28(5, 20, 0xc4);
    let mut data = machine.ins(0x1f0, 2, 600);
    let mut machine = moved(&machine);
    data.extend(machine.ins(0x1f0, 2, 20 * 512 - 600));
    assert_eq!(data, (5..25).flat_map(pattern).collect::<Vec<_>>());
    assert_eq!(machine.status(), 0x50);

    machine.command28(100, 2, 0x30);
    machine.ide.port_write_string(0x1f0, 2, &pattern(0)[..100]);
    let mut machine = moved(&machine);
    machine.ide.port_write_string(0x1f0, 2, &pattern(0)[100..]);
    machine.ide.port_write_string(0x1f0, 2, &pattern(1));
    assert_eq!(machine.pio_read(0x20, 100, 2, 1), [pattern(0), pattern(1)].concat());

    // A DMA command that waits for START: memory is saved elsewhere, so the descriptors are written again.
    machine.command28(7, 1, 0xc8);
    let mut machine = moved(&machine);
    machine.set_prds(&[(0x1_0000, 512)]);
    machine.start_dma(true);
    assert_eq!((machine.stop_dma(), machine.guest_bytes(0x1_0000, 512)), (0x04, pattern(7).to_vec()));

    assert_eq!(machine.packet(&[0x00], 0), Err(0x64));
    machine.outb(0x174, 0);
    machine.outb(0x175, 8);
    machine.outb(0x177, 0xa0);
    machine.ide.port_write_string(0x170, 2, &[0x28, 0, 0, 0, 0, 9, 0, 0, 60, 0, 0, 0]);
    let mut data = machine.ins(0x170, 2, 3000);
    let mut machine = moved(&machine);
    assert!(machine.wires[1].level());
    data.extend(machine.ins(0x170, 2, 60 * 2048 - 3000));
    assert_eq!(data, (36..276).flat_map(pattern).collect::<Vec<_>>());
    assert_eq!(machine.inb(0x177), 0x50);
}

#[test]
fn a_disc_that_is_gone_ends_the_transfer() {
    let mut machine = full();
    assert_eq!(machine.packet(&[0x00], 0), Err(0x64));
    machine.outb(0x175, 8);
    machine.outb(0x177, 0xa0);
    machine.ide.port_write_string(0x170, 2, &[0x28, 0, 0, 0, 0, 9, 0, 0, 60, 0, 0, 0]);
    let mut twin = full();
    assert!(twin.ide.cd_eject(1, 0, true).unwrap().is_some());
    twin.ide.restore(&machine.ide.save()).unwrap();
    assert_eq!((twin.inb(0x177), twin.inb(0x171) >> 4), (0x41, 2));
    // Units of another kind are not taken for one another.
    let mut other = Machine::new();
    assert!(other.ide.restore(&machine.ide.save()).is_err());
    assert_eq!(other.inb(BM), 0);
}
