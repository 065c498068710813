//! Configuration accesses, BARs and PAM as a guest and a board see them.

use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::Bus;
use crate::PciFunction;
use crate::bus::DeadlineObserver;
use crate::conformance::device_round_trip;

struct Toy {
    config: ConfigSpace,
}

impl Toy {
    fn new() -> Self {
        let mut config = ConfigSpace::new(PciIdentity {
            vendor: 0x1234,
            device: 0x5678,
            class: 0x01_0000,
            revision: 0,
            subsystem_vendor: 0,
            subsystem: 0,
        });
        config.add_io_bar(0, 256);
        config.add_mmio_bar(1, 0x4000);
        Self { config }
    }
}

impl Device for Toy {
    fn reset(&mut self) {
        self.config.reset();
    }
    fn save(&self) -> SavedState {
        SavedState::encode("toy", 1, &self.config.save())
    }
    fn restore(&mut self, state: &SavedState) -> Result<(), RestoreError> {
        self.config.restore("toy", &state.decode("toy", 1)?, &[])
    }
    fn pci(&mut self) -> Option<&mut dyn PciFunction> {
        Some(self)
    }
}

impl PciFunction for Toy {
    fn config_read(&mut self, offset: u8) -> u32 {
        self.config.read(offset)
    }
    fn config_write(&mut self, offset: u8, value: u32, byte_mask: u32) {
        self.config.write(offset, value, byte_mask);
    }
    fn bars(&self) -> Vec<BarMapping> {
        self.config.bars()
    }
}

/// Keeps what is mapped, and the log of PAM changes.
#[derive(Default)]
struct Board {
    mapped: Mutex<Vec<(String, u8, u64, u64)>>,
    pam: Mutex<Vec<[PamState; 13]>>,
}

fn entry(function: &Arc<Attachment>, bar: &BarMapping) -> (String, u8, u64, u64) {
    (function.name.clone(), bar.index, bar.base, bar.len_bytes)
}

impl BarMapper for Board {
    fn map(&self, function: &Arc<Attachment>, bar: &BarMapping) {
        let mut mapped = self.mapped.lock();
        let io = |index: u8| index == 0;
        for (_, index, base, len) in &*mapped {
            if io(*index) == io(bar.index) {
                assert!(bar.base >= base + len || *base >= bar.base + bar.len_bytes, "mapped BARs overlap");
            }
        }
        mapped.push(entry(function, bar));
    }
    fn unmap(&self, function: &Arc<Attachment>, bar: &BarMapping) {
        let mut mapped = self.mapped.lock();
        let place = mapped.iter().position(|known| *known == entry(function, bar)).expect("only what is mapped");
        mapped.remove(place);
    }
    fn config_written(&self, function: &Arc<Attachment>) {
        // The function must not be locked here.
        assert!(function.device.try_lock().is_some());
    }
}

impl PamMapper for Board {
    fn pam_changed(&self, pam: &[PamState; 13]) {
        self.pam.lock().push(*pam);
    }
}

struct NoDeadlines;
impl DeadlineObserver for NoDeadlines {
    fn deadline_changed(&self, _: usize, _: Option<u64>) {}
}

fn bridge() -> (HostBridge, Arc<Board>) {
    let board = Arc::new(Board::default());
    let mut host = HostBridge::new(0x8000_0000..0xfec0_0000, board.clone(), board.clone());
    let bus = Bus::new(Arc::new(NoDeadlines));
    for (slot, function, name) in [(3, 0, "first"), (3, 2, "second")] {
        let attachment = bus.attach(name, Arc::new(Mutex::new(Toy::new())));
        assert!(host.add_function(slot, function, attachment.clone()));
        assert!(!host.add_function(slot, function, attachment.clone()));
        assert!(!host.add_function(0, 0, attachment));
    }
    (host, board)
}

fn select(host: &mut HostBridge, slot: u32, function: u32, offset: u32) {
    let address = 0x8000_0000 | (slot << 11) | (function << 8) | offset;
    host.port_write(0xcf8, &address.to_le_bytes());
}

fn read32(host: &mut HostBridge, slot: u32, function: u32, offset: u32) -> u32 {
    select(host, slot, function, offset);
    let mut data = [0xff; 4];
    host.port_read(0xcfc, &mut data);
    u32::from_le_bytes(data)
}

fn write32(host: &mut HostBridge, slot: u32, function: u32, offset: u32, value: u32) {
    select(host, slot, function, offset);
    host.port_write(0xcfc, &value.to_le_bytes());
}

#[test]
fn widths_of_the_two_ports() {
    let (mut host, _) = bridge();
    assert_eq!(read32(&mut host, 0, 0, 0), 0x1237_8086);
    assert_eq!(read32(&mut host, 0, 0, 0x2c), 0x1100_1af4);
    assert_eq!(read32(&mut host, 3, 2, 0), 0x5678_1234);
    assert_eq!(read32(&mut host, 3, 1, 0), 0xffff_ffff);
    let mut byte = [0xff];
    select(&mut host, 0, 0, 0);
    host.port_read(0xcfe, &mut byte);
    assert_eq!(byte, [0x37]);
    let mut word = [0xff; 2];
    host.port_read(0xcfe, &mut word);
    assert_eq!(word, [0x37, 0x12]);
    // Across the end of the port group only the first byte is the bridge's.
    word = [0xff; 2];
    host.port_read(0xcff, &mut word);
    assert_eq!(word, [0x12, 0xff]);
    // Narrow accesses to CONFADD leave it alone.
    host.port_write(0xcf8, &[0]);
    host.port_write(0xcf8, &[0, 0]);
    let mut dword = [0xff; 4];
    host.port_read(0xcf8, &mut dword);
    assert_eq!(u32::from_le_bytes(dword), 0x8000_0000);
    // Disabled, or another bus.
    for address in [0_u32, 0x8001_0000] {
        host.port_write(0xcf8, &address.to_le_bytes());
        host.port_read(0xcfc, &mut dword);
        assert_eq!(dword, [0xff; 4]);
    }
    select(&mut host, 3, 0, 0x3c);
    host.port_write(0xcfc, &[11]);
    assert_eq!(read32(&mut host, 3, 0, 0x3c), 11);
}

#[test]
fn bars_follow_the_registers() {
    let (mut host, board) = bridge();
    write32(&mut host, 3, 0, 0x10, 0xc000);
    write32(&mut host, 3, 0, 0x14, 0xf000_0000);
    assert!(board.mapped.lock().is_empty());
    write32(&mut host, 3, 0, 4, 3);
    assert_eq!(
        *board.mapped.lock(),
        [("first".to_owned(), 0, 0xc000, 256), ("first".to_owned(), 1, 0xf000_0000, 0x4000)]
    );
    // The sizing pattern unmaps and the old value maps again.
    write32(&mut host, 3, 0, 0x14, 0xffff_ffff);
    assert_eq!(board.mapped.lock().len(), 1);
    assert_eq!(read32(&mut host, 3, 0, 0x14), 0xffff_c000);
    write32(&mut host, 3, 0, 0x14, 0xf000_0000);
    assert_eq!(board.mapped.lock().len(), 2);
    host.reset();
    assert!(board.mapped.lock().is_empty());
    host.remap();
    assert_eq!(board.mapped.lock().len(), 2);
}

#[test]
fn overlaps_are_settled_by_registers_alone() {
    let (mut host, board) = bridge();
    write32(&mut host, 3, 2, 0x14, 0xf000_0000);
    write32(&mut host, 3, 2, 4, 2);
    assert_eq!(board.mapped.lock()[0].0, "second");
    // The lower function comes later and wins all the same.
    write32(&mut host, 3, 0, 0x14, 0xf000_0000);
    write32(&mut host, 3, 0, 4, 2);
    assert_eq!(*board.mapped.lock(), [("first".to_owned(), 1, 0xf000_0000, 0x4000)]);
    // It goes away, and the other is there again.
    write32(&mut host, 3, 0, 0x14, 0xf100_0000);
    assert_eq!(board.mapped.lock().len(), 2);
    // Over RAM, over the IOAPIC: not mapped.
    for base in [0x10_0000, 0x7fff_c000, 0xfebf_e000_u32 + 0x2000, 0xfee0_0000] {
        write32(&mut host, 3, 0, 0x14, base);
        assert_eq!(board.mapped.lock().len(), 1, "{base:#x}");
    }
}

#[test]
fn pam_is_told_once_a_write() {
    let (mut host, board) = bridge();
    write32(&mut host, 0, 0, 0x58, 0x3333_3000);
    assert_eq!(board.pam.lock().len(), 1);
    let both = PamState { read_ram: true, write_ram: true };
    let mut expected = [PamState::default(); 13];
    expected[0] = both;
    expected[1..5].fill(both);
    assert_eq!(board.pam.lock()[0], expected);
    // The same again, and a register that is not PAM: nothing to tell.
    write32(&mut host, 0, 0, 0x58, 0x3333_3000);
    write32(&mut host, 0, 0, 0x50, 0x0102_0304);
    assert_eq!(board.pam.lock().len(), 1);
    select(&mut host, 0, 0, 0x5c);
    host.port_write(0xcff, &[0x21]);
    expected[11] = PamState { read_ram: true, write_ram: false };
    expected[12] = PamState { read_ram: false, write_ram: true };
    assert_eq!(board.pam.lock()[1], expected);
    host.reset();
    assert_eq!(board.pam.lock()[2], [PamState::default(); 13]);
    assert_eq!(PAM_REGIONS[0], (0xf_0000, 0x1_0000));
    assert_eq!(PAM_REGIONS[12], (0xe_c000, 0x4000));
}

#[test]
fn smram_locks() {
    let (mut host, _) = bridge();
    select(&mut host, 0, 0, 0x70);
    host.port_write(0xcfe, &[0x4a]);
    assert_eq!(read32(&mut host, 0, 0, 0x70), 0x004a_0000);
    host.port_write(0xcfe, &[0x5a]);
    assert_eq!(read32(&mut host, 0, 0, 0x70), 0x001a_0000);
    host.port_write(0xcfe, &[0x02]);
    assert_eq!(read32(&mut host, 0, 0, 0x70), 0x001a_0000);
}

#[test]
fn round_trip() {
    device_round_trip(
        || Box::new(bridge().0),
        |device| {
            let io = device.port_io().unwrap();
            io.port_write(0xcf8, &0x8000_0058_u32.to_le_bytes());
            io.port_write(0xcfc, &0x3131_3000_u32.to_le_bytes());
        },
    );
}

proptest! {
    /// Whatever is written, mapped BARs do not overlap (the board asserts it) and lie where BARs may.
    #[test]
    fn hostile_writes(writes in prop::collection::vec((0xcf0_u16..0xd08, 0_u8..3, any::<u32>(), any::<bool>()), 0..200)) {
        let (mut host, board) = bridge();
        for (port, width, value, aim) in writes {
            if aim {
                let offset = [0x04, 0x10, 0x14][value as usize % 3];
                select(&mut host, 3, value & 2, offset);
                let value = if value & 0x80 == 0 { (value & 0xf0ff_ffff) | 3 } else { (value % 16) << 28 };
                host.port_write(0xcfc, &value.to_le_bytes());
            } else {
                host.port_write(port, &value.to_le_bytes()[..1 << width]);
            }
            let mut data = vec![0xff; 1 << width];
            host.port_read(port, &mut data);
        }
        for (_, index, base, len) in &*board.mapped.lock() {
            if *index == 1 {
                prop_assert!(*base >= 0x8000_0000 && base + len <= 0xfec0_0000);
            }
        }
    }
}
