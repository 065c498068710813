//! How two states differ.

use crate::layout::{Bits, State};
use crate::table::{Masks, Tolerance, register_mask};

/// Arithmetic flags, DF, TF, NT, RF, AC, ID.
pub const FLAGS: u64 = 0x25_4dd5;
/// C1 in the high byte of the status word.
const C1: u8 = 2;

/// The first difference, if there is one.
pub fn difference(bits: Bits, masks: &Masks, ours: &State, theirs: &State) -> Option<String> {
    let mask = register_mask(bits);
    for number in 0..bits.registers() {
        if (ours.regs[number] ^ theirs.regs[number]) & mask != 0 {
            return Some(format!("register {number}: {:#x}, host {:#x}", ours.regs[number], theirs.regs[number]));
        }
    }
    if ours.rip != theirs.rip {
        return Some(format!("RIP {:#x}, host {:#x}", ours.rip, theirs.rip));
    }
    if (ours.flags ^ theirs.flags) & masks.flags != 0 {
        return Some(format!("flags {:#x}, host {:#x}, of {:#x}", ours.flags, theirs.flags, masks.flags));
    }
    let mut theirs = theirs.clone();
    if !masks.c1 {
        theirs.fx[3] = theirs.fx[3] & !C1 | ours.fx[3] & C1;
    }
    for (name, part) in [("FCW", 0..2), ("FSW", 2..4), ("FTW", 4..5), ("MXCSR", 24..28)] {
        if ours.fx[part.clone()] != theirs.fx[part.clone()] {
            return Some(format!("{name} {}, host {}", hex(&ours.fx[part.clone()]), hex(&theirs.fx[part])));
        }
    }
    for number in 0..8 {
        let part = 32 + number * 16..42 + number * 16;
        let (a, b) = (&ours.fx[part.clone()], &theirs.fx[part]);
        if a != b && !(masks.x87 == Tolerance::Ulp && is_next(a, b)) {
            return Some(format!("ST{number} {}, host {}", hex(a), hex(b)));
        }
    }
    for number in 0..bits.registers() {
        let part = 160 + number * 16..176 + number * 16;
        let (a, b) = (&ours.fx[part.clone()], &theirs.fx[part]);
        if a != b && !(masks.sse == Tolerance::TwelveBits && is_near(a, b)) {
            return Some(format!("XMM{number} {}, host {}", hex(a), hex(b)));
        }
    }
    None
}

/// Bytes as one number.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether two numbers of 80 bits are neighbours: their encodings, read as one number, are.
fn is_next(a: &[u8], b: &[u8]) -> bool {
    let word = |bytes: &[u8]| {
        let value = bytes.iter().rev().fold(0u128, |value, byte| value << 8 | u128::from(*byte));
        // Without the integer bit, which says nothing, carries reach the exponent.
        (value >> 79, (value >> 64 & 0x7fff) << 63 | value & (u128::from(u64::MAX) >> 1))
    };
    let ((sign_a, a), (sign_b, b)) = (word(a), word(b));
    sign_a == sign_b && a.abs_diff(b) <= 1
}

fn is_near(a: &[u8], b: &[u8]) -> bool {
    let singles = |bytes: &[u8]| -> Vec<f32> {
        bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    // Each may be off by 1.5 * 2^-12.
    let most = 3.0 / 4096.0;
    singles(a)
        .iter()
        .zip(singles(b))
        .all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_finite() && b.is_finite() && ((a - b) / b).abs() <= most))
}
