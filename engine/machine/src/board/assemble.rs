//! Putting the board together: what is made first is what others are wired to.

use std::sync::Arc;
use std::thread::JoinHandle;

use benchtop_devices::chipset::debug_port::DebugPort;
use benchtop_devices::chipset::dma::{self, Dma};
use benchtop_devices::chipset::hpet::{Hpet, HpetWires, LegacyIrq};
use benchtop_devices::chipset::ioapic::{self, IoApic};
use benchtop_devices::chipset::pic::{self, Pic};
use benchtop_devices::chipset::piix3::{self, Piix3};
use benchtop_devices::chipset::pit::{self, Pit};
use benchtop_devices::chipset::pm::Pm;
use benchtop_devices::chipset::router::InterruptRouter;
use benchtop_devices::chipset::rtc::{BootClass, CmosLayout, Rtc};
use benchtop_devices::firmware::FwCfg;
use benchtop_devices::ide::{self, AtaIdentity, IdeController};
use benchtop_devices::input::{Backdoor, I8042, KEYBOARD_PORTS};
use benchtop_devices::pci::host::{self, HostBridge};
use benchtop_devices::scsi::cdrom::{CdDrive, CdTransport};
use benchtop_devices::serial::{COM1_BASE, SerialPort, SerialSink};
use benchtop_devices::video::{self, Vga};
use benchtop_devices::{Bus, PortRange, VirtualClock, Wire};
use benchtop_hypervisor::{Hypervisor, RESERVED_GPA, RESERVED_LEN_BYTES, VmSetup};
use parking_lot::Mutex;

use super::firmware::{self, FirmwareFacts};
use super::outputs::{Bars, Intr, IoApicPins, Messages};
use super::placed::Placed;
use super::sink::{Completions, DiskTrouble};
use super::{Board, Medium};
use crate::address_space::{self, AddressSpace};
use crate::cpu_io::BoardIo;
use crate::drives::{self, Drive};
use crate::kernel::{self, Loader};
use crate::machine::named;
use crate::supervisor::Supervisor;
use crate::timers::Timers;
use crate::vcpus::{VcpuNews, Vcpus};
use crate::{MachineError, MachineEvent, MachineParts};

/// PCI slots.
const PIIX_SLOT: u8 = 1;
const VGA_SLOT: u8 = 2;
/// Where the IOAPIC starts and PCI memory ends.
const PCI_HOLE_END: u64 = 0xfec0_0000;
/// Least RAM SeaBIOS and its tables run in.
const LEAST_MEMORY: u64 = 4 << 20;
const MIB: u64 = 1 << 20;

impl Board {
    /// Builds the board of `parts` on `hypervisor`, and the threads that serve it. Everything stands still.
    pub fn assemble(
        hypervisor: &dyn Hypervisor,
        parts: MachineParts,
    ) -> Result<(Self, Vec<JoinHandle<()>>), MachineError> {
        let MachineParts {
            uuid,
            memory_bytes,
            cpus,
            cpu_model,
            boot,
            firmware,
            direct_kernel,
            disks,
            cds,
            no_reboot: _,
            on_event,
        } = parts;
        if memory_bytes < LEAST_MEMORY || memory_bytes % MIB != 0 {
            return Err(MachineError::Config("memory must be whole MiB, at least 4".into()));
        }
        let cpu_count = u8::try_from(cpus)
            .ok()
            .filter(|count| (1..=254).contains(count))
            .ok_or_else(|| MachineError::Config("a VM has 1 to 254 CPUs".into()))?;
        let host_error = |what| move |source| MachineError::Host { what, source };

        let memory = address_space::allocate_ram(memory_bytes).map_err(host_error("allocating guest memory"))?;
        let vm_parts = hypervisor.build(&VmSetup { cpus, cpu_model, ioapic_pins: ioapic::PINS as u32 })?;
        let vm = vm_parts.vm;
        let space = Arc::new(AddressSpace::new(vm.clone(), memory.clone(), firmware::image(&firmware.bios)?)?);
        let clock = VirtualClock::stopped();
        let timers = Timers::new(clock.clone());
        let bus = Arc::new(Bus::new(timers.clone()));
        let supervisor = Supervisor::new();

        // Interrupt controllers.
        let intr = Arc::new(Intr::default());
        let pic = Placed::new(&bus, "pic", Pic::new(intr.clone()), &pic::PORTS);
        let ioapic = Placed::new(&bus, "ioapic", IoApic::new(Arc::new(Messages(vm.clone()))), &[]);
        bus.map_mmio(&ioapic.attachment, ioapic::BASE, ioapic::LEN_BYTES);
        let router = InterruptRouter::new(pic.device.clone(), ioapic.device.clone());
        bus.attach("interrupt-router", Arc::new(Mutex::new(router.clone())));

        // Timers.
        let irq0 = LegacyIrq::new(router.isa_wire(0));
        let irq8 = LegacyIrq::new(router.isa_wire(8));
        Placed::new(&bus, "pit", Pit::new(clock.clone(), irq0.timer_wire()), &pit::PORTS);
        let ram = memory.regions();
        let low_bytes = ram.first().map_or(0, |ram| ram.region.len() as u64);
        let layout = CmosLayout {
            low_ram_bytes: low_bytes,
            high_ram_bytes: memory_bytes - low_bytes,
            cpus: cpu_count,
            boot_order: vec![BootClass::Cd, BootClass::HardDisk],
        };
        Placed::new(&bus, "rtc", Rtc::new(clock.clone(), irq8.timer_wire(), layout), &[Rtc::PORTS]);
        let pins = Arc::new(IoApicPins(ioapic.device.clone()));
        let hpet_pins = std::array::from_fn(|index| Wire::new(pins.clone(), 20 + index as u32));
        let hpet = Placed::new(&bus, "hpet", Hpet::new(clock.clone(), HpetWires { irq0, irq8, pins: hpet_pins }), &[]);
        bus.map_mmio(&hpet.attachment, Hpet::BASE, Hpet::LEN_BYTES);

        // ISA devices.
        Placed::new(&bus, "dma", Dma::new(), &dma::PORTS);
        Placed::new(&bus, "debug-port", DebugPort::new(), &[DebugPort::PORTS]);
        let keyboard = I8042::new(router.isa_wire(1), router.isa_wire(12), supervisor.clone(), clock.clone());
        let i8042 = Placed::new(&bus, "i8042", keyboard, &KEYBOARD_PORTS);
        let serial_sink: SerialSink = {
            let on_event = on_event.clone();
            Box::new(move |bytes: &[u8]| on_event(MachineEvent::Serial(bytes.to_vec())))
        };
        let com1 = SerialPort::new(COM1_BASE, router.isa_wire(4), clock.clone(), serial_sink);
        let com1_ports = com1.ports();
        let com1 = Placed::new(&bus, "com1", com1, &[com1_ports]);
        let rates = vm.clock_rates();
        let backdoor = Backdoor::new(
            u32::try_from(memory_bytes / MIB).unwrap_or(u32::MAX),
            u64::from(rates.tsc_khz) * 1000,
            rates.apic_bus_khz.checked_mul(1000),
        );
        let backdoor = Placed::new(&bus, "backdoor", backdoor, &[]);

        // PCI functions.
        let piix3 = Placed::new(&bus, "piix3", Piix3::new(router.clone(), supervisor.clone()), &piix3::PORTS);
        let pm = Placed::new(&bus, "pm", Pm::new(clock.clone(), router.isa_wire(9), supervisor.clone()), &[]);
        let ide = IdeController::new(memory.clone(), [router.isa_wire(14), router.isa_wire(15)], clock.clone());
        let ide = Placed::new(&bus, "ide", ide, &ide::PORTS);
        let vga = Vga::new(video::DEFAULT_VRAM_BYTES, &firmware.vga_bios, clock.clone())
            .map_err(host_error("allocating video memory"))?;
        let vga = Placed::new(&bus, "vga", vga, &video::PORTS);
        bus.map_mmio(&vga.attachment, video::COALESCED_WINDOW.0, video::COALESCED_WINDOW.1);

        // Drives.
        let names = |names: &mut dyn Iterator<Item = &String>| names.cloned().collect::<Vec<_>>();
        let disk_names = names(&mut disks.iter().map(|part| &part.name));
        let cd_names = names(&mut cds.iter().map(|part| &part.name));
        let drives = drives::place(&disk_names, &cd_names)?;
        let place = |name: &str| drives.iter().find(|drive| drive.name == name).cloned();
        let observer = Arc::new(DiskTrouble { supervisor: supervisor.clone() });
        let mut media = Vec::new();
        for part in disks {
            let Some(drive) = place(&part.name) else { continue };
            part.disk.set_observer(observer.clone());
            let identity = identity("Benchtop Hard Disk", part.serial);
            ide.with(|ide| ide.attach_disk(drive.channel, drive.unit, part.disk.clone(), identity));
            media.push(Medium { drive, disk: Some(part.disk) });
        }
        for part in cds {
            let Some(drive) = place(&part.name) else { continue };
            let serial = cd_serial(&drive);
            let cd = CdDrive::new(CdTransport::Atapi, &serial, part.medium.clone());
            let identity = identity("Benchtop CD-ROM", serial);
            ide.with(|ide| ide.attach_cd(drive.channel, drive.unit, cd, identity));
            media.push(Medium { drive, disk: part.medium });
        }

        // The host bridge comes last: it needs all functions.
        let bars = Arc::new(Bars::new(bus.clone(), space.clone(), vm.clone()));
        let mut bridge = HostBridge::new(low_bytes..PCI_HOLE_END, bars, space.clone());
        let functions = [
            (PIIX_SLOT, 0, &piix3.attachment),
            (PIIX_SLOT, 1, &ide.attachment),
            (PIIX_SLOT, 3, &pm.attachment),
            (VGA_SLOT, 0, &vga.attachment),
        ];
        for (slot, function, attachment) in functions {
            if !bridge.add_function(slot, function, attachment.clone()) {
                return Err(MachineError::Config(format!("PCI function {slot:02x}.{function} is taken")));
            }
        }
        let host_ports = [host::CONFIG_ADDRESS_PORT, host::CONFIG_DATA_PORT].map(|first| PortRange { first, count: 4 });
        let host = Placed::new(&bus, "host-bridge", bridge, &host_ports);
        host.with(HostBridge::remap);

        // Firmware, and a kernel that it starts.
        let facts = FirmwareFacts {
            memory: &memory,
            reserved: &[(RESERVED_GPA, RESERVED_LEN_BYTES)],
            cpus: cpu_count,
            boot,
            drives: &drives,
            uuid,
            direct_kernel: direct_kernel.is_some(),
        };
        Placed::new(&bus, "fw-cfg", firmware::fw_cfg(&facts)?, &[FwCfg::PORTS]);
        if let Some(direct_kernel) = direct_kernel {
            let loader = Loader::new(memory.clone(), direct_kernel)?;
            let ports = PortRange { first: kernel::DOORBELL_PORT, count: 1 };
            Placed::new(&bus, "kernel-loader", loader, &[ports]);
        }

        // vCPUs.
        let ios: Vec<_> = (0..cpus)
            .map(|_| Arc::new(BoardIo::new(bus.clone(), space.clone(), router.clone(), backdoor.device.clone())))
            .collect();
        let completions = Completions::new(&bus, vm.clone(), &ios[0]);
        completions.connect(&ide.attachment);
        ide.with(|ide| ide.set_sink(completions));
        for range in ide::COALESCED_PORTS {
            vm.coalesce_ports(range.first, range.count)?;
        }
        vm.coalesce_mmio(video::COALESCED_WINDOW.0, video::COALESCED_WINDOW.1)?;
        let news = {
            let supervisor = supervisor.clone();
            move |vcpu: usize, news: VcpuNews| match news {
                VcpuNews::Shutdown => supervisor.triple_fault(),
                VcpuNews::Failed(error) => supervisor.fail(format!("vCPU {vcpu}: {error}")),
            }
        };
        let vcpus = Vcpus::spawn(vm_parts.seeds, &ios, Arc::new(news)).map_err(host_error("starting a vCPU thread"))?;
        let vcpus = Arc::new(vcpus);
        supervisor.set_vcpus(&vcpus);
        if let Some(first) = vcpus.handles().first() {
            intr.connect(first.clone());
        }
        vcpus.on_each(|_, vcpu| vcpu.reset())?;

        let threads = vec![named("timers", timer_thread(&timers, &bus, &vm, &ios[0]))?];
        let accel = hypervisor.name();
        let media = Mutex::new(media);
        let board = Self {
            accel,
            vm,
            memory,
            bus,
            clock,
            timers,
            supervisor,
            vcpus,
            ios,
            host,
            vga,
            i8042,
            com1,
            pm,
            ide,
            media,
            observer,
        };
        Ok((board, threads))
    }
}

fn identity(model: &str, serial: String) -> AtaIdentity {
    AtaIdentity { model: model.to_owned(), serial, firmware: "1.0".to_owned(), wwn: None }
}

fn cd_serial(drive: &Drive) -> String {
    format!("BTCD{}{}", drive.channel, drive.unit)
}

/// The timer thread's body.
fn timer_thread(
    timers: &Arc<Timers>,
    bus: &Arc<Bus>,
    vm: &Arc<dyn benchtop_hypervisor::Vm>,
    io: &Arc<BoardIo>,
) -> impl FnOnce() + Send + 'static {
    let (timers, vm, io) = (timers.clone(), vm.clone(), io.clone());
    let attachments = bus.attachments();
    let bus = Arc::downgrade(bus);
    move || {
        timers.run(|device, now_ns| {
            // What the guest wrote before this moment comes first.
            vm.drain_coalesced(&*io);
            let (Some(bus), Some(attachment)) = (bus.upgrade(), attachments.get(device)) else { return };
            bus.with_device(attachment, |device| {
                if let Some(poll) = device.poll() {
                    poll.poll(now_ns);
                }
            });
        });
    }
}
