//! The small devices of the board on one bus: every port and register, time that passes, reset, save and restore.

use std::sync::Arc;
use std::time::Duration;

use benchtop_devices::bus::{Attachment, DeadlineObserver};
use benchtop_devices::chipset::control::SystemControl;
use benchtop_devices::chipset::debug_port::DebugPort;
use benchtop_devices::chipset::dma::Dma;
use benchtop_devices::chipset::hpet::{Hpet, HpetWires, LegacyIrq};
use benchtop_devices::chipset::ioapic::{self, IoApic, IoApicOutput, Message};
use benchtop_devices::chipset::pic::{Pic, PicOutput};
use benchtop_devices::chipset::piix3::Piix3;
use benchtop_devices::chipset::pit::Pit;
use benchtop_devices::chipset::pm::Pm;
use benchtop_devices::chipset::router::InterruptRouter;
use benchtop_devices::chipset::rtc::{BootClass, CmosLayout, Rtc};
use benchtop_devices::firmware::{FwCfg, FwCfgBuilder};
use benchtop_devices::input::{Backdoor, BackdoorCall, I8042, PointerSample};
use benchtop_devices::pci::host::{BarMapper, HostBridge, PamMapper, PamState};
use benchtop_devices::serial::SerialPort;
use benchtop_devices::video::Vga;
use benchtop_devices::{BarMapping, Bus, Device, PortRange, VirtualClock, Wire};
use benchtop_memory::GuestMemory;
use parking_lot::Mutex;

use super::Input;

#[derive(Debug)]
struct Nothing;

impl DeadlineObserver for Nothing {
    fn deadline_changed(&self, _id: usize, _deadline_ns: Option<u64>) {}
}

impl PicOutput for Nothing {
    fn intr_changed(&self, _level: bool) {}
}

impl IoApicOutput for Nothing {
    fn send_msi(&self, _address: u64, _data: u32) {}
    fn mirror(&self, _entries: &[Option<Message>]) {}
}

impl SystemControl for Nothing {
    fn request_reset(&self) {}
    fn request_power_off(&self) {}
    fn set_a20(&self, _enabled: bool) {}
    fn a20(&self) -> bool {
        true
    }
    fn apm_command(&self, _command: u8) {}
}

impl PamMapper for Nothing {
    fn pam_changed(&self, _pam: &[PamState; 13]) {}
}

impl BarMapper for Nothing {
    fn map(&self, _function: &Arc<Attachment>, _bar: &BarMapping) {}
    fn unmap(&self, _function: &Arc<Attachment>, _bar: &BarMapping) {}
}

struct Board {
    bus: Bus,
    clock: VirtualClock,
    vga: Arc<Mutex<Vga>>,
    backdoor: Arc<Mutex<Backdoor>>,
}

fn attach<D: Device + 'static>(bus: &Bus, name: &str, device: D, ports: &[PortRange]) -> Arc<Attachment> {
    let attachment = bus.attach(name, Arc::new(Mutex::new(device)));
    for range in ports {
        bus.map_ports(&attachment, *range);
    }
    attachment
}

fn board() -> std::io::Result<Board> {
    let clock = VirtualClock::stopped();
    let nothing = Arc::new(Nothing);
    let bus = Bus::new(nothing.clone());
    let pic = Arc::new(Mutex::new(Pic::new(nothing.clone())));
    let ioapic = Arc::new(Mutex::new(IoApic::new(nothing.clone())));
    let router = InterruptRouter::new(pic.clone(), ioapic.clone());
    let pic = bus.attach("pic", pic);
    for range in benchtop_devices::chipset::pic::PORTS {
        bus.map_ports(&pic, range);
    }
    let ioapic = bus.attach("ioapic", ioapic);
    bus.map_mmio(&ioapic, ioapic::BASE, ioapic::LEN_BYTES);
    attach(&bus, "pit", Pit::new(clock.clone(), router.isa_wire(0)), &benchtop_devices::chipset::pit::PORTS);
    attach(&bus, "dma", Dma::new(), &benchtop_devices::chipset::dma::PORTS);
    attach(&bus, "debug-port", DebugPort::new(), &[DebugPort::PORTS]);
    let keyboard = I8042::new(router.isa_wire(1), router.isa_wire(12), nothing.clone(), clock.clone());
    attach(&bus, "i8042", keyboard, &[PortRange { first: 0x60, count: 1 }, PortRange { first: 0x64, count: 1 }]);
    let com1 = SerialPort::new(0x3f8, router.isa_wire(4), clock.clone(), Box::new(|_| {}));
    attach(&bus, "com1", com1, &[PortRange { first: 0x3f8, count: 8 }]);
    let piix3 = Piix3::new(router.clone(), nothing.clone());
    let piix3 = attach(&bus, "piix3", piix3, &benchtop_devices::chipset::piix3::PORTS);
    let pm = attach(&bus, "pm", Pm::new(clock.clone(), router.isa_wire(9), nothing.clone()), &[]);
    bus.map_ports(&pm, PortRange { first: 0x600, count: 0x40 });
    let screen = Arc::new(Mutex::new(Vga::new(1 << 20, &[0x55, 0xaa, 1], clock.clone())?));
    let vga = bus.attach("vga", screen.clone());
    for range in benchtop_devices::video::PORTS {
        bus.map_ports(&vga, range);
    }
    bus.map_mmio(&vga, 0xa_0000, 0x2_0000);
    let irq0 = LegacyIrq::new(router.isa_wire(0));
    let irq8 = LegacyIrq::new(router.isa_wire(8));
    let layout =
        CmosLayout { low_ram_bytes: 64 << 20, high_ram_bytes: 0, cpus: 1, boot_order: vec![BootClass::HardDisk] };
    attach(&bus, "rtc", Rtc::new(clock.clone(), irq8.timer_wire(), layout), &[Rtc::PORTS]);
    let wires = HpetWires { irq0, irq8, pins: std::array::from_fn(|_| Wire::disconnected()) };
    let hpet = attach(&bus, "hpet", Hpet::new(clock.clone(), wires), &[]);
    bus.map_mmio(&hpet, Hpet::BASE, Hpet::LEN_BYTES);
    let memory = GuestMemory::new(&[(0, 1 << 20)])?;
    let files = FwCfgBuilder::new().file("etc/file", vec![7; 300]).build(memory).map_err(std::io::Error::other)?;
    attach(&bus, "fw-cfg", files, &[FwCfg::PORTS]);
    let backdoor = Arc::new(Mutex::new(Backdoor::new(64, 1_000_000_000, None)));
    bus.attach("backdoor", backdoor.clone());
    let mut bridge = HostBridge::new(0xc000_0000..0xfec0_0000, nothing.clone(), nothing);
    for (slot, function, attachment) in [(1, 0, piix3), (1, 3, pm), (2, 0, vga)] {
        assert!(bridge.add_function(slot, function, attachment), "each slot is free once");
    }
    let ports = [0xcf8, 0xcfc].map(|first| PortRange { first, count: 4 });
    attach(&bus, "host-bridge", bridge, &ports);
    Ok(Board { bus, clock, vga: screen, backdoor })
}

/// Ports somebody answers at: most operations go there.
const PORTS: [(u16, u16); 18] = [
    (0x00, 32),
    (0x20, 2),
    (0x40, 4),
    (0x60, 5),
    (0x80, 32),
    (0xa0, 2),
    (0xb2, 2),
    (0xc0, 32),
    (0x1ce, 3),
    (0x3b0, 48),
    (0x3f8, 8),
    (0x4d0, 2),
    (0x600, 64),
    (0xcf8, 8),
    (0xcf9, 1),
    (0x402, 1),
    (0x70, 2),
    (0x510, 12),
];

/// Where registers and memory are seen by address.
const WINDOWS: [u64; 4] = [ioapic::BASE, Hpet::BASE, 0xa_0000, 0xb_0000];

/// Runs operations taken from `data` on a fresh board.
pub fn run(data: &[u8]) {
    let Ok(board) = board() else { return };
    let mut input = Input(data);
    while !input.is_empty() {
        step(&board, &mut input);
    }
}

fn step(board: &Board, input: &mut Input<'_>) {
    let bus = &board.bus;
    match input.byte() & 0x0f {
        0..=4 => {
            let (first, count) = PORTS[usize::from(input.byte()) % PORTS.len()];
            let port = first + u16::from(input.byte()) % count;
            let width = input.width();
            bus.port_write(port, width, &input.dword().to_le_bytes()[..width]);
        }
        5 | 6 => {
            let (first, count) = PORTS[usize::from(input.byte()) % PORTS.len()];
            let port = first + u16::from(input.byte()) % count;
            let width = input.width();
            bus.port_read(port, width, &mut [0; 4][..width]);
        }
        7 => {
            // A configuration access, whole.
            let address = 0x8000_0000 | u32::from(input.byte() % 3) << 11 | u32::from(input.word() & 0x7fc);
            bus.port_write(0xcf8, 4, &address.to_le_bytes());
            bus.port_write(0xcfc, 4, &input.dword().to_le_bytes());
            bus.port_read(0xcfc, 4, &mut [0; 4]);
        }
        8 => {
            let width = input.width();
            let mut data = vec![0; width * usize::from(input.word() % 4096 + 1)];
            bus.port_read(input.word(), width, &mut data);
        }
        9 | 10 => {
            let gpa = WINDOWS[usize::from(input.byte()) % WINDOWS.len()] + u64::from(input.word());
            bus.mmio_write(gpa, &input.dword().to_le_bytes());
        }
        11 => {
            let gpa = WINDOWS[usize::from(input.byte()) % WINDOWS.len()] + u64::from(input.word());
            bus.mmio_read(gpa, &mut [0; 8]);
        }
        12 => {
            board.clock.advance(Duration::from_micros(u64::from(input.word()) * 16));
            let now_ns = board.clock.now_ns();
            for attachment in bus.attachments() {
                bus.with_device(&attachment, |device| {
                    if let Some(poll) = device.poll()
                        && poll.deadline_ns().is_some_and(|deadline_ns| deadline_ns <= now_ns)
                    {
                        poll.poll(now_ns);
                    }
                });
            }
        }
        13 => {
            let (first, count) = PORTS[usize::from(input.byte()) % PORTS.len()];
            let port = first + u16::from(input.byte()) % count;
            bus.port_write(port, 1, &vec![input.byte(); usize::from(input.byte()) + 1]);
        }
        14 => outside(board, input),
        _ => life(bus, input),
    }
}

/// What the board does besides guest accesses: pictures, and the pointer's calls, which come with registers.
fn outside(board: &Board, input: &mut Input<'_>) {
    match input.byte() % 3 {
        0 => {
            let vga = board.vga.lock();
            let frame = vga.render();
            assert_eq!(frame.rgba.len() as u64, u64::from(frame.width) * u64::from(frame.height) * 4);
            let _no_text_in_graphics = vga.text_screen();
        }
        1 => {
            let sample = PointerSample { x: input.word(), y: input.word(), ..PointerSample::default() };
            board.backdoor.lock().pointer(sample);
        }
        _ => {
            let (ebx, ecx) = (input.dword(), u32::from(input.byte()));
            let mut call = BackdoorCall { eax: 0x564d_5868, ebx, ecx, edx: 0x5658, esi: 0, edi: 0 };
            board.backdoor.lock().call(&mut call);
        }
    }
}

/// Reset, save and restore, and states that somebody has tampered with, of one device.
fn life(bus: &Bus, input: &mut Input<'_>) {
    let attachments = bus.attachments();
    let chosen = &attachments[usize::from(input.byte()) % attachments.len()];
    bus.with_device(chosen, |device| match input.byte() % 3 {
        0 => device.reset(),
        1 => {
            let state = device.save();
            assert!(device.restore(&state).is_ok(), "{}: a state just saved must restore", chosen.name);
        }
        _ => {
            let mut state = device.save();
            let at = usize::from(input.word());
            if let Some(byte) = state.data.get_mut(at) {
                *byte ^= input.byte();
            }
            if device.restore(&state).is_err() {
                device.reset();
            }
        }
    });
}

#[cfg(test)]
mod tests {
    #[test]
    fn made_up_accesses_do_no_harm() {
        super::super::smoke(super::run);
    }
}
