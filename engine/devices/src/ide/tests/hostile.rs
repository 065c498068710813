//! A guest that does whatever it likes.

use benchtop_block::CacheMode;
use benchtop_memory::Gpa;
use proptest::prelude::*;

use super::{BM, Machine, SparseDisk, identity, pattern};
use crate::scsi::cdrom::{CdDrive, CdTransport};
use crate::{Device, PciFunction, PortIo};

/// Disk as primary master, a drive with a disc as secondary master, an empty one as its slave.
fn full() -> (Machine, std::sync::Arc<SparseDisk>) {
    let (mut machine, disk) = Machine::with_cache(3000, CacheMode::Writeback, true);
    let disc = SparseDisk::new(400);
    disc.fill(0, 400);
    let cd = |medium| CdDrive::new(CdTransport::Atapi, "CD0001", medium);
    machine.ide.attach_cd(1, 0, cd(Some(benchtop_block::Disk::inline(disc))), identity());
    machine.ide.attach_cd(1, 1, cd(None), identity());
    (machine, disk)
}

const UNITS: [(u16, u8); 4] = [(0x1f0, 0xe0), (0x1f0, 0xf0), (0x170, 0xe0), (0x170, 0xf0)];

/// Serves a command until it asks for nothing more. Counts the data blocks.
fn serve(machine: &mut Machine, base: u16) {
    machine.start_dma(true);
    machine.outb(BM + 8, 9);
    for _ in 0..2000 {
        let status = machine.inb(base + 7);
        assert_eq!(status & 0x80, 0, "wedged");
        if status & 8 == 0 {
            machine.outb(BM, 0);
            machine.outb(BM + 8, 0);
            return;
        }
        machine.ide.port_write_string(base, 2, &[0; 2048]);
        machine.ins(base, 4, 4096);
    }
    // A DMA command without a list may wait for ever; a reset ends it.
    machine.outb(base + 0x206, 4);
    machine.outb(base + 0x206, 0);
    assert_eq!(machine.inb(base + 7) & 0x88, 0);
}

#[test]
fn every_command_on_every_kind_of_unit() {
    let (mut machine, _) = full();
    for (base, device) in UNITS {
        for code in 0..=255u8 {
            for (feature, count, high) in [(0, 1, 0), (3, 0, 0xff), (1, 8, 0), (0xff, 0xff, 0xc2)] {
                machine.set_prds(&[(0x1_0000, 0), (0x2_0000, 0), (0x3_0000, 0)]);
                machine.outl(BM + 12, 0x1000);
                machine.outb(base + 6, device);
                for (register, value) in [(1, feature), (2, count), (3, 1), (4, 0x4f), (5, high)] {
                    machine.outb(base + register, value);
                }
                machine.outb(base + 7, code);
                serve(&mut machine, base);
            }
        }
    }
    // And the units still work.
    machine.outb(0x3f6, 4);
    machine.outb(0x3f6, 0);
    assert_eq!(machine.pio_read(0x20, 5, 1, 1).len(), 512);
}

#[test]
fn every_packet_with_and_without_a_disc() {
    let (mut machine, _) = full();
    for device in [0xa0, 0xb0] {
        for code in 0..=255u8 {
            for (fill, limit, dma) in
                [(0, 0, 0), (0xff, 0xffff, 0), (1, 1, 0), (0x10, 3, 0), (2, 2048, 1), (0xff, 0, 1), (0, 0, 2)]
            {
                machine.set_prds(&[(0x1_0000, 0), (0x2_0000, 0)]);
                machine.outl(BM + 12, 0x1000);
                machine.outb(0x176, device);
                machine.outb(0x171, dma);
                let [low, high] = u16::to_le_bytes(limit);
                machine.outb(0x174, low);
                machine.outb(0x175, high);
                machine.outb(0x177, 0xa0);
                let mut cdb = [fill; 12];
                cdb[0] = code;
                machine.ide.port_write_string(0x170, 2, &cdb);
                serve(&mut machine, 0x170);
            }
        }
    }
}

#[test]
fn nothing_of_an_abandoned_transfer_shows() {
    let (mut machine, disk) = full();
    disk.fill(9, 1);
    machine.command28(20, 100, 0xc5);
    machine.ide.port_write_string(0x1f0, 2, &[0xee; 8192]);
    machine.outb(0x3f6, 4);
    machine.outb(0x3f6, 0);
    assert_eq!(machine.ins(0x1f0, 2, 4096), [0xff; 4096]);
    assert_eq!(machine.pio_read(0x20, 9, 1, 1), pattern(9));
    // Reading on past a command's end gives nothing either.
    machine.command28(9, 1, 0x20);
    assert_eq!(machine.ins(0x1f0, 4, 2048)[512..], [0xff; 1536]);
    // A short reply ends where it ends.
    machine.outb(0x174, 0);
    machine.outb(0x175, 8);
    machine.outb(0x177, 0xa0);
    machine.ide.port_write_string(0x170, 2, &[0x12, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    let reply = machine.ins(0x170, 2, 64);
    assert_eq!((&reply[..6], &reply[6..]), (&[5, 0x80, 0, 0x21, 31, 0][..], &[0xff; 58][..]));
    // Unwritten sectors of a gathered write never reach the disk.
    assert_eq!(disk.sector(20), [0; 512]);
}

#[derive(Clone, Copy, Debug)]
enum Access {
    Read(u16, usize),
    Write(u16, usize, u32),
    ReadString(u16, usize, usize),
    WriteString(u16, usize, usize),
    Config(u8, u32),
    Memory(u16, u32),
    Reset,
    SaveAndRestore,
}

fn access() -> impl Strategy<Value = Access> {
    let port = prop_oneof![
        6 => 0x1f0u16..0x1f8,
        1 => Just(0x3f6u16),
        6 => 0x170u16..0x178,
        1 => Just(0x376u16),
        3 => BM..BM + 16,
    ];
    let width = prop_oneof![4 => Just(1usize), 1 => Just(2usize), 1 => Just(4usize)];
    let value = prop_oneof![
        3 => any::<u8>().prop_map(u32::from),
        2 => prop::sample::select(vec![
            0x20u32, 0x24, 0xc4, 0x30, 0xc5, 0xc8, 0xca, 0x06, 0xa0, 0xa1, 0xec, 0xef, 0x08, 0x90, 0xe0, 0xf0, 0x1000,
        ]),
        1 => any::<u32>(),
    ];
    let length = 1usize..600;
    prop_oneof![
        8 => (port.clone(), width.clone()).prop_map(|(port, width)| Access::Read(port, width)),
        20 => (port.clone(), width.clone(), value).prop_map(|(port, width, value)| Access::Write(port, width, value)),
        6 => (port.clone(), width.clone(), length.clone()).prop_map(|(port, width, n)| Access::ReadString(port, width, n)),
        6 => (port, width, length).prop_map(|(port, width, n)| Access::WriteString(port, width, n)),
        1 => (prop::sample::select(vec![4u8, 0x20, 0x40, 0x44]), any::<u32>()).prop_map(|(at, v)| Access::Config(at, v)),
        2 => (any::<u16>(), any::<u32>()).prop_map(|(at, value)| Access::Memory(at, value)),
        1 => Just(Access::Reset),
        2 => Just(Access::SaveAndRestore),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// No panic, nothing wedged, every state can be saved and restored, and the data port never gives what was not read
    /// from a disk: the byte EEh is on none until the guest has written it there.
    #[test]
    fn any_sequence_of_accesses_is_survived(accesses in prop::collection::vec(access(), 1..300)) {
        let (mut machine, disk) = full();
        for access in accesses {
            match access {
                Access::Read(port, width) => {
                    let mut data = [0xff; 4];
                    machine.ide.port_read(port, &mut data[..width]);
                }
                Access::Write(port, width, value) => machine.ide.port_write(port, &value.to_le_bytes()[..width]),
                Access::ReadString(port, width, n) => {
                    let data = machine.ins(port, width, n * width);
                    if (port == 0x1f0 || port == 0x170) && data.contains(&0xee) {
                        prop_assert!((0..3000).any(|number| disk.sector(number).contains(&0xee)));
                    }
                }
                Access::WriteString(port, width, n) => {
                    machine.ide.port_write_string(port, width, &vec![0xee; n * width]);
                }
                Access::Config(at, value) => machine.ide.config_write(at, value, u32::MAX),
                Access::Memory(at, value) => {
                    machine.memory.write(Gpa(u64::from(at)), &value.to_le_bytes()).unwrap();
                }
                Access::Reset => machine.ide.reset(),
                Access::SaveAndRestore => {
                    let state = machine.ide.save();
                    let (mut twin, _) = full();
                    prop_assert!(twin.ide.restore(&state).is_ok(), "{state:?}");
                    prop_assert_eq!(twin.ide.save(), state);
                }
            }
            // The disks are served at once, so nothing is ever left busy.
            prop_assert!(!machine.ide.is_busy());
            if let Some(deadline) = machine.ide.poll().and_then(|poll| poll.deadline_ns()) {
                prop_assert!(deadline > 0);
            }
        }
        // A reset gets back two working units.
        machine.ide.config_write(0x20, u32::from(BM) | 1, u32::MAX);
        for base in [0x1f0u16, 0x170] {
            machine.outb(base + 0x206, 4);
            machine.outb(base + 0x206, 0);
        }
        prop_assert_eq!(machine.inb(0x1f7), 0x50);
        machine.outb(0x1f6, 0xe0);
        prop_assert_eq!(machine.pio_read(0x20, 5, 2, 1).len(), 1024);
    }
}
