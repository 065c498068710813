//! The board: every device in its place, and what the machine does to all of them at once.

mod assemble;
mod figures;
mod firmware;
mod outputs;
mod placed;
mod sink;

use std::sync::Arc;

use benchtop_block::Disk;
use benchtop_devices::chipset::pm::Pm;
use benchtop_devices::ide::IdeController;
use benchtop_devices::input::I8042;
use benchtop_devices::input::keymap::KeyEvent;
use benchtop_devices::pci::host::HostBridge;
use benchtop_devices::serial::SerialPort;
use benchtop_devices::video::Vga;
use benchtop_devices::{Bus, VirtualClock};
use benchtop_hypervisor::Vm;
use benchtop_memory::{Gpa, GuestMemory};
use parking_lot::Mutex;

use crate::cpu_io::BoardIo;
use crate::drives::{Drive, DriveKind};
use crate::supervisor::Supervisor;
use crate::timers::Timers;
use crate::vcpus::Vcpus;
use crate::{MachineError, Screen};

use placed::Placed;

/// APM commands by which an operating system switches ACPI mode on and off, as the FADT tells it.
const ACPI_ENABLE: u8 = 0xf1;
const ACPI_DISABLE: u8 = 0xf0;

/// A disk or disc the board waits for before it stands still.
struct Medium {
    drive: Drive,
    disk: Option<Disk>,
}

/// All of one PC.
pub struct Board {
    accel: &'static str,
    vm: Arc<dyn Vm>,
    memory: GuestMemory,
    bus: Arc<Bus>,
    clock: VirtualClock,
    timers: Arc<Timers>,
    supervisor: Arc<Supervisor>,
    vcpus: Arc<Vcpus>,
    /// One a vCPU; the first also serves threads that are none.
    ios: Vec<Arc<BoardIo>>,
    host: Placed<HostBridge>,
    vga: Placed<Vga>,
    i8042: Placed<I8042>,
    com1: Placed<SerialPort>,
    pm: Placed<Pm>,
    ide: Placed<IdeController>,
    media: Mutex<Vec<Medium>>,
    observer: Arc<sink::DiskTrouble>,
}

impl Board {
    /// Where requests for the whole machine are left.
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Lets everything run. Writes that waited for space are tried again, and a poisoned image is reopened first.
    pub fn go(&self) -> Result<(), MachineError> {
        for disk in self.disks() {
            if disk.is_poisoned() {
                disk.reopen().map_err(|error| MachineError::Disk(error.to_string()))?;
            }
            disk.retry_parked();
        }
        self.vcpus.on_each(|_, vcpu| vcpu.tsc_resume())?;
        self.clock.resume();
        self.timers.set_running(true);
        self.vcpus.run();
        Ok(())
    }

    /// Stops vCPUs, clock, timers and disks, in this order.
    pub fn stand_still(&self) -> Result<(), MachineError> {
        self.vcpus.park();
        self.vcpus.on_each(|_, vcpu| vcpu.tsc_pause())?;
        self.clock.pause();
        self.timers.set_running(false);
        self.drain();
        Ok(())
    }

    fn drain(&self) {
        self.vm.drain_coalesced(&*self.ios[0]);
        for disk in self.disks() {
            disk.drain();
        }
    }

    fn disks(&self) -> Vec<Disk> {
        self.media.lock().iter().filter_map(|medium| medium.disk.clone()).collect()
    }

    /// Puts devices and vCPUs into their state at power-on. Everything stands still.
    pub fn reset(&self) -> Result<(), MachineError> {
        for attachment in self.bus.attachments() {
            self.bus.with_device(&attachment, |device| device.reset());
        }
        self.host.with(HostBridge::remap);
        self.supervisor.reset_a20();
        self.vcpus.on_each(|_, vcpu| vcpu.reset())?;
        Ok(())
    }

    /// Ends all threads that run for the guest. Everything stands still.
    pub fn stop(&self) {
        self.vcpus.stop();
        self.timers.stop();
    }

    /// Makes durable what was acknowledged. Nothing runs any more.
    pub fn close(&self) {
        for medium in self.media.lock().drain(..) {
            if let Some(disk) = medium.disk {
                disk.drain();
                if !disk.info().read_only
                    && let Err(error) = disk.sync()
                {
                    tracing::error!(disk = medium.drive.name, %error, "the last sync failed: writes may be lost");
                }
            }
        }
        self.bus.clear();
    }

    /// The power button.
    pub fn power_button(&self) {
        self.pm.with(Pm::press_power_button);
    }

    /// What the firmware's SMI handler would do on a PC with system management mode.
    pub fn apm_command(&self, command: u8) {
        match command {
            ACPI_ENABLE => self.pm.with(|pm| pm.acpi_enable(true)),
            ACPI_DISABLE => self.pm.with(|pm| pm.acpi_enable(false)),
            _ => {}
        }
    }

    /// The picture on the screen.
    pub fn screen(&self) -> Screen {
        self.vm.drain_coalesced(&*self.ios[0]);
        let (state, vram) = {
            let vga = self.vga.device.lock();
            (vga.screen_state(), vga.vram().clone())
        };
        let frame = state.render(&vram);
        Screen { width: frame.width, height: frame.height, rgba: frame.rgba }
    }

    /// The text on the screen.
    pub fn text_screen(&self) -> Option<Vec<String>> {
        self.vm.drain_coalesced(&*self.ios[0]);
        self.vga.device.lock().text_screen()
    }

    /// A key goes down or up.
    pub fn key(&self, event: KeyEvent) -> bool {
        self.i8042.with(|i8042| i8042.key(event.key, event.pressed))
    }

    /// Whether the guest has read all keys.
    pub fn keyboard_drained(&self) -> bool {
        self.i8042.device.lock().keyboard_drained()
    }

    /// How many keys the firmware has that nobody asked it for yet: from head to tail of its ring (BIOS data area,
    /// 40:1Ah and 40:1Ch, offsets from 1Eh to 3Dh, two bytes a key). An operating system that does without firmware
    /// leaves them alike.
    pub fn firmware_held_keys(&self) -> usize {
        let Ok([head_low, head_high, tail_low, tail_high]) = self.memory.read_array(Gpa(0x41a)) else { return 0 };
        let (head, tail) = (u16::from_le_bytes([head_low, head_high]), u16::from_le_bytes([tail_low, tail_high]));
        let buffer = 0x1e..0x3e;
        if !buffer.contains(&head) || !buffer.contains(&tail) {
            return 0;
        }
        usize::from((tail + 0x20 - head) % 0x20 / 2)
    }

    /// Input for COM1; says how many bytes were taken.
    pub fn serial_input(&self, bytes: &[u8]) -> usize {
        self.com1.with(|com1| com1.receive(bytes))
    }

    /// A new disc.
    pub fn cd_insert(&self, name: &str, disc: Disk, force: bool) -> Result<(), MachineError> {
        let mut media = self.media.lock();
        let medium = cd(&mut media, name)?;
        disc.set_observer(self.observer.clone());
        let Drive { channel, unit, .. } = medium.drive;
        let locked = |_locked| MachineError::TrayLocked(name.to_owned());
        if force {
            self.ide.with(|ide| ide.cd_eject(channel, unit, true)).map_err(locked)?;
        }
        self.ide.with(|ide| ide.cd_insert(channel, unit, disc.clone())).map_err(locked)?;
        medium.disk = Some(disc);
        Ok(())
    }

    /// The disc goes out.
    pub fn cd_eject(&self, name: &str, force: bool) -> Result<(), MachineError> {
        let mut media = self.media.lock();
        let medium = cd(&mut media, name)?;
        let Drive { channel, unit, .. } = medium.drive;
        match self.ide.with(|ide| ide.cd_eject(channel, unit, force)) {
            Ok(_) => {
                medium.disk = None;
                Ok(())
            }
            Err(_locked) => Err(MachineError::TrayLocked(name.to_owned())),
        }
    }
}

fn cd<'a>(media: &'a mut [Medium], name: &str) -> Result<&'a mut Medium, MachineError> {
    media
        .iter_mut()
        .find(|medium| medium.drive.kind == DriveKind::Cd && medium.drive.name == name)
        .ok_or_else(|| MachineError::NoDevice(name.to_owned()))
}
