//! All instruction forms of user code, with some encodings of each.

use std::collections::BTreeMap;

use iced_x86::{Code as Opcode, ConstantOffsets, Decoder, DecoderError, DecoderOptions, Instruction, OpKind};

use crate::layout::{Bits, DATA, linear};
use crate::random::Random;
use crate::table;

/// What an encoding is of: the opcode, whether it has an operand in memory, and the mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Form {
    pub bits: Bits,
    pub opcode: u16,
    pub memory: bool,
}

impl Form {
    pub fn name(self) -> String {
        let opcode = Opcode::values().nth(self.opcode.into()).unwrap();
        format!("{opcode:?}{}, {} bits", if self.memory { " (memory)" } else { "" }, self.bits.count())
    }
}

/// Encodings, and what was left out: how many forms for which reason.
#[derive(Default)]
pub struct Forms {
    pub encodings: BTreeMap<Form, Vec<Vec<u8>>>,
    pub excluded: BTreeMap<&'static str, std::collections::BTreeSet<Form>>,
    /// Bytes that are no instruction.
    pub invalid: Vec<(Bits, Vec<u8>)>,
}

const ENCODINGS_MAX: usize = 24;
/// With segment registers that mean nothing in 64-bit mode and are all alike in the other.
const PREFIXES: [&[u8]; 11] = [
    &[],
    &[0x66],
    &[0xf3],
    &[0xf2],
    &[0xf0],
    &[0x66, 0xf3],
    &[0x66, 0xf2],
    &[0x66, 0xf0],
    &[0xf0, 0xf3],
    &[0x36],
    &[0x2e, 0x66],
];

/// Reads what bytes mean.
pub fn decode(bits: Bits, bytes: &[u8]) -> Instruction {
    Decoder::new(bits.count(), bytes, DecoderOptions::NONE).decode()
}

/// All of a mode.
pub fn forms(random: &mut Random, bits: Bits) -> Forms {
    let mut forms = Forms::default();
    let maps: [&[u8]; 4] = [&[], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];
    let rexes: &[Option<u8>] =
        if bits == Bits::B64 { &[None, Some(0x40), Some(0x48), Some(0x44), Some(0x4d)] } else { &[None] };
    for map in maps {
        for opcode in 0..=255u8 {
            let escapes = match map {
                [] => opcode == 0x0f || is_prefix(bits, opcode),
                [0x0f] => matches!(opcode, 0x38 | 0x3a),
                _ => false,
            };
            if escapes {
                continue;
            }
            for prefix in PREFIXES {
                for rex in rexes {
                    for modrm in 0..64u8 {
                        // [RSI], or a register.
                        let register = random.below(8) as u8;
                        let memory = modrm & 1 == 0;
                        let modrm = if memory { modrm << 2 & 0x38 | 6 } else { 0xc0 | modrm << 2 & 0x38 | register };
                        if memory && *rex == Some(0x4d) {
                            continue;
                        }
                        let mut bytes = prefix.to_vec();
                        bytes.extend(rex);
                        bytes.extend_from_slice(map);
                        bytes.push(opcode);
                        bytes.push(modrm);
                        bytes.extend((0..8).map(|_| random.next() as u8));
                        forms.add(random, bits, bytes);
                    }
                }
            }
        }
    }
    forms
}

/// Whether a byte is a prefix.
pub fn is_prefix(bits: Bits, byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
        || (bits == Bits::B64 && matches!(byte, 0x40..=0x4f))
}

impl Forms {
    fn add(&mut self, random: &mut Random, bits: Bits, mut bytes: Vec<u8>) {
        let mut decoder = Decoder::new(bits.count(), &bytes, DecoderOptions::NONE);
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            let error = decoder.last_error();
            if error == DecoderError::InvalidInstruction && is_surely_invalid(bits, &bytes) {
                bytes.truncate(14);
                self.invalid.push((bits, bytes));
            }
            return;
        }
        let offsets = decoder.get_constant_offsets(&instruction);
        bytes.truncate(instruction.len());
        let memory = instruction.op_kinds().any(|kind| kind == OpKind::Memory);
        let form = Form { bits, opcode: instruction.code() as u16, memory };
        if let Some(why) = table::excluded(&instruction) {
            self.excluded.entry(why).or_default().insert(form);
            return;
        }
        aim(random, offsets, &instruction, &mut bytes);
        let list = self.encodings.entry(form).or_default();
        if list.len() < ENCODINGS_MAX && !list.contains(&bytes) {
            list.push(bytes);
        }
    }
}

/// Makes absolute addresses and far branch targets lie in the pages, mostly.
fn aim(random: &mut Random, offsets: ConstantOffsets, instruction: &Instruction, bytes: &mut [u8]) {
    let far = offsets.has_immediate() && offsets.immediate_size() == 4;
    let branches =
        instruction.is_jcc_short_or_near() || instruction.is_jmp_short_or_near() || instruction.is_call_near();
    if branches && far {
        let distance = random.below(0x1800) as i32 - 0xc00;
        let at = offsets.immediate_offset();
        bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
    }
    // MOV AL, [address] and its like.
    let absolute = instruction.op_kinds().any(|kind| kind == OpKind::Memory)
        && instruction.memory_base() == iced_x86::Register::None
        && instruction.memory_index() == iced_x86::Register::None;
    if absolute {
        // Behind what random programs count with.
        let address = linear(DATA.start) + 0x100 + random.below(0x1000);
        let (at, width) = (offsets.displacement_offset(), offsets.displacement_size());
        bytes[at..at + width].copy_from_slice(&address.to_le_bytes()[..width]);
    }
}

/// Whether bytes that the decoder has no instruction for are one on no processor, as far as is known: not what the
/// decoder was built without (VEX, EVEX, XOP, 3DNow!), and not what the guest does not have.
fn is_surely_invalid(bits: Bits, bytes: &[u8]) -> bool {
    let opcode = bytes.iter().position(|byte| !is_prefix(bits, *byte));
    let Some(opcode) = opcode else { return false };
    match bytes[opcode] {
        0xc4 | 0xc5 | 0x62 | 0x8f | 0xd5 => false,
        // 3DNow!, and groups in which each new feature has its own.
        0x0f => !matches!(
            bytes[opcode + 1],
            0x0f | 0x01 | 0xae | 0xc7 | 0x1c | 0x1e | 0x0d | 0x38 | 0x3a | 0xa6 | 0xa7 | 0x04 | 0x0a
        ),
        _ => true,
    }
}
