//! The SSE4.2 string comparisons.
//!
//! They compare every element of one string with every element of the other, aggregate the outcomes to one bit for
//! each element of the second string, and return the bits or the number of the first or last.

use super::lanes::{Xmm, split8, split16};
use super::rflags::{CF, OF, SF, ZF};
use super::{packsswb, pcmpeqb, pcmpeqw, pmovmskb};

/// What a comparison came to.
struct Outcome {
    /// A bit for each element of the second string.
    bits: u32,
    /// How many elements an operand holds.
    count: u32,
    /// CF, ZF, SF and OF; PF and AF are always cleared.
    flags: u64,
}

/// A bit for each element in which the operands are equal.
#[inline(always)]
fn equal(a: Xmm, b: Xmm, imm: u8) -> u32 {
    if imm & 1 != 0 { pmovmskb(packsswb(pcmpeqw(a, b), 0)) } else { pmovmskb(pcmpeqb(a, b)) }
}

/// An element of an operand in all places.
#[inline(always)]
fn broadcast(v: Xmm, i: u32, imm: u8) -> Xmm {
    let quadword = if imm & 1 != 0 {
        u64::from((v >> (16 * i)) as u16) * (u64::MAX / 0xffff)
    } else {
        u64::from((v >> (8 * i)) as u8) * (u64::MAX / 0xff)
    };
    u128::from(quadword) << 64 | u128::from(quadword)
}

fn elements(v: Xmm, imm: u8) -> [i32; 16] {
    let (words, signed) = (imm & 1 != 0, imm & 2 != 0);
    let mut elements = [0; 16];
    if words {
        for (element, word) in elements.iter_mut().zip(split16(v)) {
            *element = if signed { i32::from(word as i16) } else { i32::from(word) };
        }
    } else {
        for (element, byte) in elements.iter_mut().zip(split8(v)) {
            *element = if signed { i32::from(byte as i8) } else { i32::from(byte) };
        }
    }
    elements
}

fn compare(a: Xmm, b: Xmm, lengths: Option<(i64, i64)>, imm: u8) -> Outcome {
    let count = if imm & 1 != 0 { 8 } else { 16 };
    let explicit = |length: i64| length.unsigned_abs().min(count) as u32;
    let implicit = |v: Xmm| equal(v, 0, imm).trailing_zeros().min(count as u32);
    let (a_length, b_length) = match lengths {
        Some((a, b)) => (explicit(a), explicit(b)),
        None => (implicit(a), implicit(b)),
    };
    let count = count as u32;
    let valid = |length: u32| (1u32 << length) - 1;
    let (all, a_valid, b_valid) = (valid(count), valid(a_length), valid(b_length));

    // Elements past an end make a comparison false, true, or no matter, depending on the aggregation.
    let occurrences = |i: u32| equal(broadcast(a, i, imm), b, imm) & b_valid;
    let mut bits = match imm >> 2 & 3 {
        0 => (0..a_length).fold(0, |bits, i| bits | occurrences(i)),
        1 => {
            let (first, second) = (elements(a, imm), elements(b, imm));
            // An odd element out, whose range has no upper end, matches nothing.
            let (ranges, _) = first[..a_length as usize].as_chunks();
            let holds = |e: i32| ranges.iter().any(|[from, to]| *from <= e && e <= *to);
            (0..b_length).fold(0, |bits, j| bits | u32::from(holds(second[j as usize])) << j)
        }
        2 => equal(a, b, imm) & a_valid & b_valid | all & !(a_valid | b_valid),
        // The needle may run over the end of the operand (the rest is in the next), but not of the string.
        _ => (0..a_length).fold(all, |bits, i| bits & (occurrences(i) >> i | all & !(all >> i))),
    };
    match imm >> 4 & 3 {
        1 => bits ^= all,
        3 => bits ^= b_valid,
        _ => {}
    }
    let mut flags = 0;
    for (flag, set) in [(CF, bits != 0), (ZF, b_length < count), (SF, a_length < count), (OF, bits & 1 == 1)] {
        if set {
            flags |= flag;
        }
    }
    Outcome { bits, count, flags }
}

/// The value for ECX, and the flags.
fn index(outcome: Outcome, imm: u8) -> (u32, u64) {
    let index = match (outcome.bits, imm & 0x40 != 0) {
        (0, _) => outcome.count,
        (bits, true) => bits.ilog2(),
        (bits, false) => bits.trailing_zeros(),
    };
    (index, outcome.flags)
}

/// The value for XMM0, and the flags.
fn mask(outcome: Outcome, imm: u8) -> (Xmm, u64) {
    let bits = u128::from(outcome.bits);
    let mask = if imm & 0x40 == 0 {
        bits
    } else {
        let size = 128 / outcome.count;
        let lane = u128::MAX >> (128 - size);
        (0..outcome.count).fold(0, |all, i| all | if bits >> i & 1 == 1 { lane << (i * size) } else { 0 })
    };
    (mask, outcome.flags)
}

/// Strings of explicit lengths (EAX or RAX, and EDX or RDX, sign-extended): the index for ECX, and CF ZF SF OF (PF
/// and AF are cleared).
pub fn pcmpestri(a: Xmm, b: Xmm, a_length: i64, b_length: i64, imm: u8) -> (u32, u64) {
    index(compare(a, b, Some((a_length, b_length)), imm), imm)
}

/// As [`pcmpestri`], but the mask for XMM0.
pub fn pcmpestrm(a: Xmm, b: Xmm, a_length: i64, b_length: i64, imm: u8) -> (Xmm, u64) {
    mask(compare(a, b, Some((a_length, b_length)), imm), imm)
}

/// Strings that end with a zero element: the index for ECX, and CF ZF SF OF (PF and AF are cleared).
pub fn pcmpistri(a: Xmm, b: Xmm, imm: u8) -> (u32, u64) {
    index(compare(a, b, None, imm), imm)
}

/// As [`pcmpistri`], but the mask for XMM0.
pub fn pcmpistrm(a: Xmm, b: Xmm, imm: u8) -> (Xmm, u64) {
    mask(compare(a, b, None, imm), imm)
}
