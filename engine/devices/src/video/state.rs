//! Saved state of the adapter. Video memory is not in it: the board saves that as a region, as it does RAM.

use serde::{Deserialize, Serialize};

use crate::pci::config::ConfigSpaceV1;
use crate::{RestoreError, SavedState};

use super::Vga;
use super::dispi::{Dispi, REGISTER_COUNT};
use super::registers::{Dac, Registers};

const KIND: &str = "vga";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct VgaV1 {
    config: ConfigSpaceV1,
    misc: u8,
    feature: u8,
    sequencer_index: u8,
    sequencer: Vec<u8>,
    crtc_index: u8,
    crtc: Vec<u8>,
    graphics_index: u8,
    graphics: Vec<u8>,
    attribute_index: u8,
    attribute_data_next: bool,
    attribute: Vec<u8>,
    dac_mask: u8,
    dac_read_index: u8,
    dac_write_index: u8,
    dac_component: u8,
    dac_reading: bool,
    dac_gathered: [u8; 3],
    /// 256 times red, green, blue.
    dac_colours: Vec<u8>,
    dispi_index: u16,
    dispi: [u16; REGISTER_COUNT],
    latch: u32,
    big_endian: bool,
}

pub(super) fn save(vga: &Vga) -> SavedState {
    let Registers {
        misc,
        feature,
        sequencer_index,
        sequencer,
        crtc_index,
        crtc,
        graphics_index,
        graphics,
        attribute_index,
        attribute_data_next,
        attribute,
        dac,
    } = &vga.registers;
    // Eight-bit follows from DISPI.
    let Dac { mask, read_index, write_index, component, reading, gathered, colours, eight_bit: _ } = dac;
    let state = VgaV1 {
        config: vga.config.save(),
        misc: *misc,
        feature: *feature,
        sequencer_index: *sequencer_index,
        sequencer: sequencer.to_vec(),
        crtc_index: *crtc_index,
        crtc: crtc.to_vec(),
        graphics_index: *graphics_index,
        graphics: graphics.to_vec(),
        attribute_index: *attribute_index,
        attribute_data_next: *attribute_data_next,
        attribute: attribute.to_vec(),
        dac_mask: *mask,
        dac_read_index: *read_index,
        dac_write_index: *write_index,
        dac_component: *component,
        dac_reading: *reading,
        dac_gathered: *gathered,
        dac_colours: colours.as_flattened().to_vec(),
        dispi_index: vga.dispi.index,
        dispi: vga.dispi.values,
        latch: vga.latch,
        big_endian: vga.big_endian,
    };
    SavedState::encode(KIND, VERSION, &state)
}

pub(super) fn restore(vga: &mut Vga, saved: &SavedState) -> Result<(), RestoreError> {
    let state: VgaV1 = saved.decode(KIND, VERSION)?;
    let colours: [u8; 768] = array(state.dac_colours, "palette")?;
    let mut dac_colours = [[0; 3]; 256];
    dac_colours.as_flattened_mut().copy_from_slice(&colours);
    let bounded = |value: u8, end: u8, field| if value < end { Ok(value) } else { Err(bad(field)) };
    let dispi = Dispi { index: state.dispi_index, values: state.dispi };
    if dispi.bank_bytes() >= vga.vram.len() {
        return Err(bad("bank"));
    }
    let registers = Registers {
        misc: state.misc,
        feature: state.feature,
        sequencer_index: bounded(state.sequencer_index, 8, "sequencer index")?,
        sequencer: array(state.sequencer, "sequencer")?,
        crtc_index: state.crtc_index,
        crtc: array(state.crtc, "CRT controller")?,
        graphics_index: bounded(state.graphics_index, 16, "graphics index")?,
        graphics: array(state.graphics, "graphics controller")?,
        attribute_index: bounded(state.attribute_index, 0x40, "attribute index")?,
        attribute_data_next: state.attribute_data_next,
        attribute: array(state.attribute, "attribute controller")?,
        dac: Dac {
            mask: state.dac_mask,
            read_index: state.dac_read_index,
            write_index: state.dac_write_index,
            component: bounded(state.dac_component, 3, "DAC component")?,
            reading: state.dac_reading,
            gathered: state.dac_gathered,
            colours: dac_colours,
            eight_bit: dispi.dac_eight_bit(),
        },
    };
    vga.config.restore(KIND, &state.config, &[])?;
    vga.registers = registers;
    vga.dispi = dispi;
    vga.latch = state.latch;
    vga.big_endian = state.big_endian;
    vga.last_status = (u64::MAX, 0);
    vga.changed();
    Ok(())
}

fn array<const N: usize>(bytes: Vec<u8>, field: &'static str) -> Result<[u8; N], RestoreError> {
    bytes.try_into().ok().ok_or(bad(field))
}

fn bad(field: &'static str) -> RestoreError {
    RestoreError::Field { kind: KIND, field }
}
