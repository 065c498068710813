//! The controller's saved state. It is taken with the disks drained, so no request is ever part of it.

use serde::{Deserialize, Serialize};

use super::IdeController;
use super::ata::{AtaDisk, MAX_MULTIPLE, MAX_TRIM_BLOCKS, is_transfer_mode};
use super::bmdma::BusMaster;
use super::channel::{Channel, Drive};
use super::phase::{
    Cdb, DataIn, DataOut, DmaCommand, DmaWork, PIO_BUFFER_BYTES, Phase, SECTOR, SectorRun, Source, Target,
};
use super::taskfile::{
    ABRT, BSY, CONTROL_HOB, CONTROL_NIEN, CONTROL_SRST, DEVICE_FIXED, DRDY, DRQ, DSC, ERR, Geometry, LBA48_LIMIT,
    Registers,
};
use crate::pci::config::ConfigSpaceV1;
use crate::scsi::cdrom::{BlockLayout, CdDrive, CdDriveV1, DATA_BLOCK_BYTES};
use crate::scsi::{MediaRead, Sense};
use crate::{RestoreError, SavedState};

const KIND: &str = "ide";
const VERSION: u32 = 1;
/// Most bytes a buffer can hold: what is left of one fetch, and another.
const BUFFER_LIMIT: usize = 2 * PIO_BUFFER_BYTES;

#[derive(Debug, Serialize, Deserialize)]
struct IdeV1 {
    config: ConfigSpaceV1,
    channels: [ChannelV1; 2],
}

#[derive(Debug, Serialize, Deserialize)]
struct ChannelV1 {
    device: u8,
    control: u8,
    bus_master: BusMaster,
    resetting: bool,
    phase: PhaseV1,
    units: [UnitV1; 2],
}

#[derive(Debug, Serialize, Deserialize)]
struct UnitV1 {
    registers: Registers,
    interrupt: bool,
    drive: DriveV1,
}

#[derive(Debug, Serialize, Deserialize)]
enum DriveV1 {
    None,
    Disk(DiskV1),
    Cd { transfer_mode: u8, drive: CdDriveV1 },
}

#[derive(Debug, Serialize, Deserialize)]
struct DiskV1 {
    geometry: Geometry,
    multiple: u8,
    transfer_mode: u8,
    look_ahead: bool,
    smart: bool,
    standby: bool,
    revert: bool,
    write_cache_off: bool,
}

#[derive(Debug, Serialize, Deserialize)]
enum PhaseV1 {
    Idle,
    DataIn { unread: Vec<u8>, block_bytes: u32, limit: u32, source: SourceV1 },
    DataOut { written: Vec<u8>, block_bytes: u32, limit: u32, target: Target },
    Dma { len_bytes: u64, work: WorkV1 },
}

#[derive(Debug, Serialize, Deserialize)]
enum SourceV1 {
    Reply,
    Packet,
    Sectors(SectorRun),
    Disc(MediaReadV1),
}

#[derive(Debug, Serialize, Deserialize)]
enum WorkV1 {
    Read(SectorRun),
    Write { run: SectorRun, fua: bool },
    Trim,
    Reply(Vec<u8>),
    Disc(MediaReadV1),
    Parameters(Cdb),
}

/// A [`MediaRead`] without its disk, which is the drive's.
#[derive(Debug, Serialize, Deserialize)]
struct MediaReadV1 {
    first_block: u32,
    blocks: u32,
    layout: BlockLayout,
}

impl From<&MediaRead> for MediaReadV1 {
    fn from(read: &MediaRead) -> Self {
        let MediaRead { disk: _, first_block, blocks, layout } = read;
        Self { first_block: *first_block, blocks: *blocks, layout: *layout }
    }
}

pub(super) fn save(controller: &IdeController) -> SavedState {
    let [primary, secondary] = &controller.channels;
    let state = IdeV1 { config: controller.config.save(), channels: [save_channel(primary), save_channel(secondary)] };
    SavedState::encode(KIND, VERSION, &state)
}

fn save_channel(channel: &Channel) -> ChannelV1 {
    let in_flight = matches!(channel.phase, Phase::Busy { .. });
    let unit = |index: usize| {
        let unit = &channel.units[index];
        let mut registers = unit.registers;
        if in_flight && index == channel.selected() {
            // The board broke its word to drain the disks: the command is lost, and the guest must see that.
            (registers.status, registers.error) = (DRDY | DSC | ERR, ABRT);
        }
        let drive = match &unit.drive {
            None => DriveV1::None,
            Some(Drive::Disk(disk)) => DriveV1::Disk(DiskV1 {
                geometry: disk.geometry,
                multiple: disk.multiple,
                transfer_mode: disk.transfer_mode,
                look_ahead: disk.look_ahead,
                smart: disk.smart,
                standby: disk.standby,
                revert: disk.revert,
                write_cache_off: disk.is_write_cache_off(),
            }),
            Some(Drive::Cd(cd)) => DriveV1::Cd { transfer_mode: cd.transfer_mode, drive: cd.drive.save() },
        };
        UnitV1 { registers, interrupt: unit.interrupt, drive }
    };
    ChannelV1 {
        device: channel.device,
        control: channel.control,
        bus_master: channel.bus_master,
        resetting: channel.resetting,
        phase: save_phase(&channel.phase),
        units: [unit(0), unit(1)],
    }
}

fn save_phase(phase: &Phase) -> PhaseV1 {
    // Buffers are at most 256 KiB.
    let short = |len_bytes: usize| u32::try_from(len_bytes).unwrap_or(u32::MAX);
    match phase {
        Phase::Idle | Phase::Busy { .. } => PhaseV1::Idle,
        Phase::DataIn(DataIn { buffer, position, block_end, limit, source }) => PhaseV1::DataIn {
            unread: buffer[*position..].to_vec(),
            block_bytes: short(block_end - position),
            limit: short(*limit),
            source: match source {
                Source::Reply => SourceV1::Reply,
                Source::Packet => SourceV1::Packet,
                Source::Sectors(run) => SourceV1::Sectors(*run),
                Source::Disc(read) => SourceV1::Disc(read.into()),
            },
        },
        Phase::DataOut(DataOut { buffer, block_end, limit, target }) => PhaseV1::DataOut {
            written: buffer.clone(),
            block_bytes: short(block_end - buffer.len()),
            limit: short(*limit),
            target: *target,
        },
        Phase::Dma(DmaCommand { len_bytes, work }) => PhaseV1::Dma {
            len_bytes: *len_bytes,
            work: match work {
                DmaWork::Read(run) => WorkV1::Read(*run),
                DmaWork::Write { run, fua } => WorkV1::Write { run: *run, fua: *fua },
                DmaWork::Trim => WorkV1::Trim,
                DmaWork::Reply(bytes) => WorkV1::Reply(bytes.clone()),
                DmaWork::Disc(read) => WorkV1::Disc(read.into()),
                DmaWork::Parameters(cdb) => WorkV1::Parameters(*cdb),
            },
        },
    }
}

fn field(field: &'static str) -> RestoreError {
    RestoreError::Field { kind: KIND, field }
}

fn check(holds: bool, name: &'static str) -> Result<(), RestoreError> {
    if holds { Ok(()) } else { Err(field(name)) }
}

pub(super) fn restore(controller: &mut IdeController, state: &SavedState) -> Result<(), RestoreError> {
    let IdeV1 { config, channels } = state.decode(KIND, VERSION)?;
    controller.config.restore(KIND, &config, &[])?;
    let may_master = controller.config.bus_master_enabled();
    for (channel, state) in controller.channels.iter_mut().zip(channels) {
        restore_channel(channel, state)?;
        channel.may_master = may_master;
    }
    Ok(())
}

fn restore_channel(channel: &mut Channel, state: ChannelV1) -> Result<(), RestoreError> {
    let ChannelV1 { device, control, bus_master, resetting, phase, units } = state;
    check(device & DEVICE_FIXED == DEVICE_FIXED, "device register")?;
    check(control & !(CONTROL_HOB | CONTROL_NIEN | CONTROL_SRST) == 0, "control register")?;
    check(bus_master.is_valid(), "bus master register")?;
    // SRST holds the reset; nothing else does once the disks are drained.
    check(resetting == (control & CONTROL_SRST != 0), "reset state")?;
    channel.clear();
    (channel.device, channel.control, channel.bus_master, channel.resetting) = (device, control, bus_master, resetting);
    let selected = channel.selected();
    let idle = matches!(phase, PhaseV1::Idle);
    for (index, (unit, UnitV1 { registers, interrupt, drive })) in channel.units.iter_mut().zip(units).enumerate() {
        check(registers.status & BSY == 0, "status")?;
        check((registers.status & DRQ != 0) == (!idle && index == selected), "status")?;
        match (&mut unit.drive, drive) {
            (None, DriveV1::None) => check(!interrupt, "interrupt")?,
            (Some(Drive::Disk(disk)), DriveV1::Disk(state)) => restore_disk(disk, state)?,
            (Some(Drive::Cd(cd)), DriveV1::Cd { transfer_mode, drive }) => {
                check(is_transfer_mode(transfer_mode), "transfer mode")?;
                cd.transfer_mode = transfer_mode;
                cd.drive.restore(&drive);
            }
            _ => return Err(field("unit")),
        }
        unit.registers = registers;
        unit.interrupt = interrupt;
    }
    check(!resetting || idle, "phase")?;
    match restore_phase(channel, phase)? {
        Some(phase) => {
            channel.phase = phase;
            channel.expect_data();
        }
        // The disc it was reading is not there any more.
        None => channel.packet_failed(Sense::NO_MEDIUM),
    }
    channel.restore_line();
    Ok(())
}

fn restore_disk(disk: &mut AtaDisk, state: DiskV1) -> Result<(), RestoreError> {
    let DiskV1 { geometry, multiple, transfer_mode, look_ahead, smart, standby, revert, write_cache_off } = state;
    check((1..=16).contains(&geometry.heads) && geometry.sectors != 0, "geometry")?;
    check(multiple <= MAX_MULTIPLE && (multiple == 0 || multiple.is_power_of_two()), "multiple count")?;
    check(is_transfer_mode(transfer_mode), "transfer mode")?;
    (disk.geometry, disk.multiple, disk.transfer_mode) = (geometry, multiple, transfer_mode);
    (disk.look_ahead, disk.smart, disk.standby, disk.revert) = (look_ahead, smart, standby, revert);
    if disk.disk.set_guest_write_cache(!write_cache_off).is_err() {
        // The user's mode is stricter now than when the state was saved; IDENTIFY will say so.
        tracing::debug!("write cache stays off: the user's mode");
    }
    Ok(())
}

/// Judges a saved phase against what is attached. `None` where the medium it reads from is gone.
fn restore_phase(channel: &mut Channel, phase: PhaseV1) -> Result<Option<Phase>, RestoreError> {
    Ok(Some(match phase {
        PhaseV1::Idle => Phase::Idle,
        PhaseV1::DataIn { unread, block_bytes, limit, source } => {
            let (block_end, limit) = (block_bytes as usize, limit as usize);
            check(unread.len() <= BUFFER_LIMIT && (1..=unread.len()).contains(&block_end), "data buffer")?;
            check((1..=0xfffe).contains(&limit) && block_end <= limit, "data block")?;
            let source = match source {
                SourceV1::Reply => {
                    check(channel.ata().is_some() || channel.atapi().is_some(), "data source")?;
                    Source::Reply
                }
                SourceV1::Packet => {
                    check(channel.atapi().is_some(), "data source")?;
                    Source::Packet
                }
                SourceV1::Sectors(run) => {
                    let in_buffer = (unread.len() / SECTOR) as u64;
                    check(limit % SECTOR == 0 && limit <= usize::from(MAX_MULTIPLE) * SECTOR, "data block")?;
                    check(run.next >= in_buffer && is_on_disk(channel, run), "sector range")?;
                    Source::Sectors(run)
                }
                SourceV1::Disc(read) => match restore_read(channel, &read, true)? {
                    Some(read) => Source::Disc(read),
                    None => return Ok(None),
                },
            };
            Phase::DataIn(DataIn { buffer: unread, position: 0, block_end, limit, source })
        }
        PhaseV1::DataOut { written, block_bytes, limit, target } => {
            let (block_bytes, limit) = (block_bytes as usize, limit as usize);
            check(written.len() < PIO_BUFFER_BYTES, "data buffer")?;
            check((1..=0xfffe).contains(&limit) && (1..=limit).contains(&block_bytes), "data block")?;
            let block_end = written.len() + block_bytes;
            let total = match target {
                Target::Packet { .. } => 12,
                Target::Parameters { len_bytes, .. } => usize::from(len_bytes),
                Target::Sectors { run, .. } => {
                    check(limit % SECTOR == 0 && limit <= usize::from(MAX_MULTIPLE) * SECTOR, "data block")?;
                    check(block_end % SECTOR == 0 && is_on_disk(channel, run), "sector range")?;
                    run.left as usize * SECTOR
                }
            };
            let is_disk = matches!(target, Target::Sectors { .. });
            let attached = if is_disk { channel.ata().is_some() } else { channel.atapi().is_some() };
            check(attached && block_end <= total, "data target")?;
            Phase::DataOut(DataOut { buffer: written, block_end, limit, target })
        }
        PhaseV1::Dma { len_bytes, work } => {
            let sectors = |run: SectorRun| u64::from(run.left) * SECTOR as u64;
            let (expected, work) = match work {
                WorkV1::Read(run) => {
                    check(run.left > 0 && is_on_disk(channel, run), "sector range")?;
                    (sectors(run), DmaWork::Read(run))
                }
                WorkV1::Write { run, fua } => {
                    check(run.left > 0 && is_on_disk(channel, run), "sector range")?;
                    (sectors(run), DmaWork::Write { run, fua })
                }
                WorkV1::Trim => {
                    let blocks = len_bytes / SECTOR as u64;
                    let known = (1..=u64::from(MAX_TRIM_BLOCKS)).contains(&blocks);
                    check(channel.ata().is_some() && known, "DMA command")?;
                    (blocks * SECTOR as u64, DmaWork::Trim)
                }
                WorkV1::Reply(bytes) => {
                    check(channel.atapi().is_some() && (1..=0xffff).contains(&bytes.len()), "DMA command")?;
                    (bytes.len() as u64, DmaWork::Reply(bytes))
                }
                WorkV1::Parameters(cdb) => {
                    check(channel.atapi().is_some() && (1..=0xffff).contains(&len_bytes), "DMA command")?;
                    (len_bytes, DmaWork::Parameters(cdb))
                }
                WorkV1::Disc(read) => match restore_read(channel, &read, false)? {
                    Some(read) => (read.len_bytes(), DmaWork::Disc(read)),
                    None => return Ok(None),
                },
            };
            check(len_bytes == expected, "DMA length")?;
            Phase::Dma(DmaCommand { len_bytes, work })
        }
    }))
}

fn is_on_disk(channel: &mut Channel, run: SectorRun) -> bool {
    let sectors = channel.ata().map_or(0, |disk| disk.sectors);
    run.next <= LBA48_LIMIT && run.left <= 0x1_0000 && run.next + u64::from(run.left) <= sectors
}

/// A planned read on the drive's disc; `None` where there is none or it is too short now.
fn restore_read(
    channel: &mut Channel,
    read: &MediaReadV1,
    may_be_empty: bool,
) -> Result<Option<MediaRead>, RestoreError> {
    let MediaReadV1 { first_block, blocks, layout } = read;
    let (first_block, blocks, layout) = (*first_block, *blocks, *layout);
    check(layout.block_bytes() > 0 && (blocks > 0 || may_be_empty), "disc read")?;
    let drive = channel.atapi().ok_or(field("disc read"))?;
    let Some(disk) = CdDrive::medium(&drive.drive).cloned() else { return Ok(None) };
    let end = (u64::from(first_block) + u64::from(blocks)) * DATA_BLOCK_BYTES as u64;
    Ok((end <= disk.info().size_bytes).then_some(MediaRead { disk, first_block, blocks, layout }))
}
