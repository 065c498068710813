//! The state as FNSTENV, FNSAVE and FXSAVE lay it out, and the MMX registers (SDM volume 1, 8.1.10, 9.2, 10.5; volume
//! 2A, FXSAVE).

use super::{Class, F80, FCS_FDS_DEPRECATED, Fpu, LastInstruction, STATUS_WITHOUT_TOP, status};

/// The layout of the environment, chosen by the operand size and by whether the processor is in protected mode (and
/// not virtual-8086 mode): SDM volume 1, figures 8-9 to 8-12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EnvironmentLayout {
    /// 16-bit operand size, real or virtual-8086 mode: 14 bytes.
    Real16,
    /// 16-bit operand size, protected mode: 14 bytes.
    Protected16,
    /// 32-bit operand size, real or virtual-8086 mode: 28 bytes.
    Real32,
    /// 32-bit operand size, protected mode, and in 64-bit mode whatever the operand size is but 16: 28 bytes.
    Protected32,
}

impl EnvironmentLayout {
    /// The bytes of FNSTENV's operand.
    pub const fn environment_bytes(self) -> usize {
        match self {
            Self::Real16 | Self::Protected16 => 14,
            Self::Real32 | Self::Protected32 => 28,
        }
    }

    /// The bytes of FNSAVE's operand: the environment and eight registers of ten bytes.
    pub const fn save_bytes(self) -> usize {
        self.environment_bytes() + 80
    }
}

/// The environment, of which the first [`EnvironmentLayout::environment_bytes`] count.
pub type Environment = [u8; 28];
/// The state of FNSAVE, of which the first [`EnvironmentLayout::save_bytes`] count.
pub type SavedState = [u8; 108];

/// How FXSAVE and XSAVE write the instruction and data pointers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FxsaveFormat {
    /// 64-bit offsets: REX.W set.
    Wide,
    /// 32-bit offsets and selectors.
    Narrow,
}

fn put<const N: usize>(bytes: &mut [u8], offset: usize, value: [u8; N]) {
    if let Some(slot) = bytes.get_mut(offset..).and_then(|rest| rest.first_chunk_mut::<N>()) {
        *slot = value;
    }
}

fn get<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes.get(offset..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
}

fn get16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(get(bytes, offset))
}

fn get32(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(get(bytes, offset))
}

fn get_register(bytes: &[u8], offset: usize) -> F80 {
    F80 { mantissa: u64::from_le_bytes(get(bytes, offset)), sign_exponent: get16(bytes, offset.wrapping_add(8)) }
}

fn put_register(bytes: &mut [u8], offset: usize, value: F80) {
    put(bytes, offset, value.mantissa.to_le_bytes());
    put(bytes, offset.wrapping_add(8), value.sign_exponent.to_le_bytes());
}

impl Fpu {
    /// The full tag word, whose fields follow from what the registers hold (SDM volume 1, 8.1.7).
    pub fn tag_word(&self) -> u16 {
        (0..8).fold(0, |word, physical: usize| {
            let tag = match self.register(physical).class() {
                _ if self.valid >> physical & 1 == 0 => 3,
                Class::Normal => 0,
                Class::Zero => 1,
                _ => 2,
            };
            word | tag << (2 * physical)
        })
    }

    fn set_tag_word(&mut self, word: u16) {
        self.valid = (0..8).fold(0, |valid, physical| valid | (((word >> (2 * physical) & 3 != 3) as u32) << physical));
    }

    fn set_status_word(&mut self, word: u16) {
        self.top = (word >> 11 & 7) as u32;
        self.status = word & STATUS_WITHOUT_TOP;
        self.summarize();
    }

    fn selectors(&self) -> (u16, u16) {
        if FCS_FDS_DEPRECATED { (0, 0) } else { (self.last.code_segment, self.last.data_segment) }
    }

    /// FNSTENV: the bytes to be written. [`Fpu::commit_environment`] is to follow when they are.
    pub fn environment(&self, layout: EnvironmentLayout) -> Environment {
        let mut bytes = [0; 28];
        let last = self.last;
        let (code_segment, data_segment) = self.selectors();
        // In real mode the pointers are linear addresses.
        let linear_instruction = last.instruction_pointer.wrapping_add((last.code_segment as u64) << 4) as u32;
        let linear_data = last.data_pointer.wrapping_add((last.data_segment as u64) << 4) as u32;
        let words: [u32; 7] = match layout {
            EnvironmentLayout::Protected16 | EnvironmentLayout::Protected32 => [
                self.control as u32,
                self.status_word() as u32,
                self.tag_word() as u32,
                last.instruction_pointer as u32,
                code_segment as u32 | ((last.opcode as u32) << 16),
                last.data_pointer as u32,
                data_segment as u32,
            ],
            EnvironmentLayout::Real16 => [
                self.control as u32,
                self.status_word() as u32,
                self.tag_word() as u32,
                linear_instruction,
                (linear_instruction >> 16 & 0xf) << 12 | last.opcode as u32,
                linear_data,
                (linear_data >> 16 & 0xf) << 12,
            ],
            EnvironmentLayout::Real32 => [
                self.control as u32,
                self.status_word() as u32,
                self.tag_word() as u32,
                linear_instruction | 0xffff_0000,
                (linear_instruction >> 16) << 12 | last.opcode as u32,
                linear_data | 0xffff_0000,
                (linear_data >> 16) << 12,
            ],
        };
        for (index, word) in words.into_iter().enumerate() {
            match layout {
                EnvironmentLayout::Real16 | EnvironmentLayout::Protected16 => {
                    put(&mut bytes, 2 * index, (word as u16).to_le_bytes());
                }
                EnvironmentLayout::Real32 | EnvironmentLayout::Protected32 => {
                    // Reserved halves are written as ones.
                    let reserved = if matches!(index, 0..=2 | 6) { 0xffff_0000 } else { 0 };
                    let reserved = if layout == EnvironmentLayout::Real32 && index == 6 { 0 } else { reserved };
                    put(&mut bytes, 4 * index, (word | reserved).to_le_bytes());
                }
            }
        }
        bytes
    }

    /// The second step of FNSTENV: all exceptions are masked.
    pub const fn commit_environment(&mut self) {
        self.control |= status::EXCEPTIONS;
        self.summarize();
    }

    /// FLDENV. Unmasked exceptions that it loads are pending at the next waiting instruction.
    pub fn set_environment(&mut self, layout: EnvironmentLayout, bytes: &Environment) {
        let word = |index: usize| match layout {
            EnvironmentLayout::Real16 | EnvironmentLayout::Protected16 => get16(bytes, 2 * index) as u32,
            EnvironmentLayout::Real32 | EnvironmentLayout::Protected32 => get32(bytes, 4 * index),
        };
        self.set_control_word(word(0) as u16);
        self.set_status_word(word(1) as u16);
        self.set_tag_word(word(2) as u16);
        let mut last = LastInstruction::default();
        match layout {
            EnvironmentLayout::Protected16 => {
                last.instruction_pointer = word(3) as u64;
                last.code_segment = word(4) as u16;
                last.data_pointer = word(5) as u64;
                last.data_segment = word(6) as u16;
            }
            EnvironmentLayout::Protected32 => {
                last.instruction_pointer = word(3) as u64;
                last.code_segment = word(4) as u16;
                last.opcode = (word(4) >> 16) as u16 & 0x7ff;
                last.data_pointer = word(5) as u64;
                last.data_segment = word(6) as u16;
            }
            EnvironmentLayout::Real16 | EnvironmentLayout::Real32 => {
                let high = if layout == EnvironmentLayout::Real16 { 0xf } else { 0xffff };
                last.instruction_pointer = ((word(3) & 0xffff) | (word(4) >> 12 & high) << 16) as u64;
                last.opcode = word(4) as u16 & 0x7ff;
                last.data_pointer = ((word(5) & 0xffff) | (word(6) >> 12 & high) << 16) as u64;
            }
        }
        if FCS_FDS_DEPRECATED {
            (last.code_segment, last.data_segment) = (0, 0);
        }
        self.last = last;
    }

    /// FNSAVE: the bytes to be written. [`Fpu::commit_save`] is to follow when they are.
    pub fn saved_state(&self, layout: EnvironmentLayout) -> SavedState {
        let mut bytes = [0; 108];
        let environment = self.environment(layout);
        let start = layout.environment_bytes();
        for (to, from) in bytes.iter_mut().zip(environment).take(start) {
            *to = from;
        }
        for index in 0..8 {
            put_register(&mut bytes, start + 10 * index, self.st(index));
        }
        bytes
    }

    /// The second step of FNSAVE: what FNINIT does.
    pub const fn commit_save(&mut self) {
        self.initialize();
    }

    /// FRSTOR.
    pub fn set_saved_state(&mut self, layout: EnvironmentLayout, bytes: &SavedState) {
        self.set_environment(layout, &get(bytes, 0));
        for index in 0..8 {
            let physical = self.physical(index);
            self.set_register(physical, get_register(bytes, layout.environment_bytes() + 10 * index));
        }
    }

    /// Writes the part of an FXSAVE area, or of the legacy region of an XSAVE area, that is this unit's: bytes 0 to 23
    /// and 32 to 159. The rest is left alone.
    pub fn fxsave(&self, area: &mut [u8; 512], format: FxsaveFormat) {
        put(area, 0, self.control.to_le_bytes());
        put(area, 2, self.status_word().to_le_bytes());
        put(area, 4, (self.valid as u16).to_le_bytes());
        put(area, 6, self.last.opcode.to_le_bytes());
        match format {
            FxsaveFormat::Wide => {
                put(area, 8, self.last.instruction_pointer.to_le_bytes());
                put(area, 16, self.last.data_pointer.to_le_bytes());
            }
            FxsaveFormat::Narrow => {
                let (code_segment, data_segment) = self.selectors();
                put(area, 8, (self.last.instruction_pointer as u32).to_le_bytes());
                put(area, 12, (code_segment as u32).to_le_bytes());
                put(area, 16, (self.last.data_pointer as u32).to_le_bytes());
                put(area, 20, (data_segment as u32).to_le_bytes());
            }
        }
        for index in 0..8 {
            put(area, 32 + 16 * index, self.st(index).to_bits().to_le_bytes());
        }
    }

    /// Loads from an FXSAVE area what [`Fpu::fxsave`] writes there.
    pub fn fxrstor(&mut self, area: &[u8; 512], format: FxsaveFormat) {
        self.set_control_word(get16(area, 0));
        self.set_status_word(get16(area, 2));
        self.valid = (get16(area, 4) & 0xff) as u32;
        let mut last = LastInstruction { opcode: get16(area, 6) & 0x7ff, ..LastInstruction::default() };
        match format {
            FxsaveFormat::Wide => {
                last.instruction_pointer = u64::from_le_bytes(get(area, 8));
                last.data_pointer = u64::from_le_bytes(get(area, 16));
            }
            FxsaveFormat::Narrow => {
                last.instruction_pointer = get32(area, 8) as u64;
                last.data_pointer = get32(area, 16) as u64;
                if !FCS_FDS_DEPRECATED {
                    last.code_segment = get16(area, 12);
                    last.data_segment = get16(area, 20);
                }
            }
        }
        self.last = last;
        for index in 0..8 {
            let physical = self.physical(index);
            self.set_register(physical, get_register(area, 32 + 16 * index));
        }
    }

    /// What every MMX instruction but EMMS does to the unit: TOP becomes 0 and all registers are tagged valid (SDM
    /// volume 1, 9.5.1). The caller has looked at [`Fpu::pending`].
    #[inline]
    pub const fn enter_mmx(&mut self) {
        self.top = 0;
        self.valid = 0xff;
    }

    /// What an MMX store has done by the time that it faults: TOP alone is 0.
    #[inline]
    pub const fn begin_mmx(&mut self) {
        self.top = 0;
    }

    /// MM`index`, of which the low three bits count.
    #[inline]
    pub const fn mmx(&self, index: usize) -> u64 {
        self.mantissas[index & 7]
    }

    /// Writes MM`index`: the significand of the register, whose sign and exponent become ones.
    #[inline]
    pub const fn set_mmx(&mut self, index: usize, value: u64) {
        self.set_register(index, F80 { mantissa: value, sign_exponent: 0xffff });
    }

    /// EMMS: all registers are tagged empty.
    #[inline]
    pub const fn emms(&mut self) {
        self.top = 0;
        self.valid = 0;
    }
}
