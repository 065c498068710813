//! The IDE function with a disk and a CD-ROM: ports, bus master, PRD tables and CDBs that a hostile driver makes up.

use std::collections::VecDeque;
use std::sync::Arc;

use benchtop_block::{Completed, CompletionSink, Disk, MemoryDisk};
use benchtop_devices::ide::{AtaIdentity, IdeController};
use benchtop_devices::scsi::cdrom::{CdDrive, CdTransport};
use benchtop_devices::{Device, PciFunction, PortIo, VirtualClock, Wire};
use benchtop_memory::{Gpa, GuestMemory};
use parking_lot::Mutex;

use super::Input;

const RAM_BYTES: u64 = 1 << 20;
const BUS_MASTER: u16 = 0xc000;
const COMMANDS: [u8; 28] = [
    0x20, 0x24, 0x30, 0x34, 0xc4, 0x29, 0xc5, 0x39, 0xc6, 0xc8, 0x25, 0xca, 0x35, 0x40, 0xe7, 0xea, 0xec, 0xef, 0xa0,
    0xa1, 0x08, 0x90, 0x91, 0x06, 0xb0, 0xf8, 0x27, 0x00,
];
const PACKETS: [u8; 16] =
    [0x00, 0x03, 0x12, 0x1b, 0x1e, 0x25, 0x28, 0xa8, 0xbe, 0x43, 0x46, 0x4a, 0x51, 0x5a, 0xad, 0xbd];

#[derive(Debug, Default)]
struct Queue(Mutex<VecDeque<Completed>>);

impl CompletionSink for Queue {
    fn complete(&self, completed: Completed) {
        self.0.lock().push_back(completed);
    }
}

fn controller(memory: &GuestMemory, queue: &Arc<Queue>) -> IdeController {
    let mut ide =
        IdeController::new(memory.clone(), [Wire::disconnected(), Wire::disconnected()], VirtualClock::stopped());
    ide.set_sink(queue.clone());
    ide.attach_disk(0, 0, Disk::inline(Arc::new(MemoryDisk::new(1 << 20))), AtaIdentity::default());
    let medium = Disk::inline(Arc::new(MemoryDisk::new(1 << 18)));
    ide.attach_cd(1, 0, CdDrive::new(CdTransport::Atapi, "1", Some(medium)), AtaIdentity::default());
    ide.config_write(0x20, u32::from(BUS_MASTER), !0);
    ide.config_write(0x04, 5, !0);
    ide.config_write(0x40, 0x8000_8000, !0);
    ide
}

/// Runs operations taken from `data` on a fresh controller.
pub fn run(data: &[u8]) {
    let Ok(memory) = GuestMemory::new(&[(0, RAM_BYTES)]) else { return };
    let queue = Arc::new(Queue::default());
    let mut ide = controller(&memory, &queue);
    let mut input = Input(data);
    while !input.is_empty() {
        step(&mut ide, &memory, &queue, &mut input);
    }
}

fn step(ide: &mut IdeController, memory: &GuestMemory, queue: &Queue, input: &mut Input<'_>) {
    let operation = input.byte();
    let channel = u16::from(operation >> 7);
    let command = [0x1f0, 0x170][usize::from(channel)];
    let control = [0x3f6, 0x376][usize::from(channel)];
    match operation & 0x0f {
        0..=2 => {
            let register = u16::from(input.byte() % 7);
            ide.port_write(command + 1 + register, &[input.byte()]);
        }
        3 | 4 => {
            let choice = usize::from(input.byte());
            ide.port_write(command + 7, &[COMMANDS[choice % COMMANDS.len()]]);
        }
        5 => {
            // A whole packet.
            ide.port_write(command + 6, &[0xa0]);
            ide.port_write(command + 1, &[input.byte() & 1]);
            ide.port_write(command + 4, &[input.byte()]);
            ide.port_write(command + 5, &[input.byte()]);
            ide.port_write(command + 7, &[0xa0]);
            let mut cdb = [0; 12];
            cdb.fill_with(|| input.byte());
            cdb[0] = PACKETS[usize::from(cdb[0]) % PACKETS.len()];
            ide.port_write_string(command, 2, &cdb);
        }
        6 => {
            let width = input.width();
            let mut data = vec![0xff; width * usize::from(input.word() % 2048 + 1)];
            ide.port_read_string(command, width, &mut data);
        }
        7 => {
            let width = input.width();
            let data = vec![input.byte(); width * usize::from(input.word() % 2048 + 1)];
            ide.port_write_string(command, width, &data);
        }
        8 => {
            let mut data = [0xff; 4];
            let width = input.width();
            ide.port_read(command + u16::from(input.byte() % 8), &mut data[..width]);
            ide.port_read(control, &mut data[..1]);
        }
        9 => ide.port_write(control, &[input.byte()]),
        10 => {
            let port = BUS_MASTER + channel * 8 + u16::from(input.byte() % 8);
            let width = input.width();
            ide.port_write(port, &input.dword().to_le_bytes()[..width]);
        }
        11 => {
            let mut data = [0xff; 4];
            ide.port_read(BUS_MASTER + u16::from(input.byte() % 16), &mut data);
        }
        12 => {
            // A PRD of anywhere, at the start of memory, where the table pointer of a careful driver leads.
            let place = u64::from(input.byte() & 0x1f) * 8;
            let prd = [input.dword().to_le_bytes(), input.dword().to_le_bytes()].concat();
            // Past the end of memory is a fault of this harness, which never goes there.
            assert!(memory.write(Gpa(place), &prd).is_ok());
            ide.port_write(BUS_MASTER + channel * 8 + 4, &[0; 4]);
        }
        13 => {
            let next = queue.0.lock().pop_front();
            if let Some(completed) = next {
                ide.complete(completed);
            }
        }
        14 => match input.byte() % 4 {
            0 => ide.reset(),
            1 => {
                let state = ide.save();
                assert!(ide.restore(&state).is_ok(), "a state just saved must restore");
            }
            2 => {
                let mut state = ide.save();
                let at = usize::from(input.word());
                if let Some(byte) = state.data.get_mut(at) {
                    *byte ^= input.byte();
                }
                if ide.restore(&state).is_err() {
                    ide.reset();
                }
            }
            _ => {
                let medium = Disk::inline(Arc::new(MemoryDisk::new(1 << 18)));
                // A locked tray refuses, which is an answer like any other.
                if ide.cd_eject(1, 0, input.byte() & 1 == 1).is_ok() && ide.cd_insert(1, 0, medium).is_err() {
                    ide.reset();
                }
            }
        },
        _ => {
            let offset = input.byte() & 0xfc;
            let value = input.dword();
            // The bus-master registers stay where this harness looks for them.
            if offset != 0x20 {
                ide.config_write(offset, value, !0);
            }
            ide.config_read(offset);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn made_up_drivers_do_no_harm() {
        super::super::smoke(super::run);
    }
}
