//! Rounds of AES.
//!
//! Table lookups leak keys to whoever shares the cache; so does all else an emulator does with guest memory, and
//! instructions that do not are not at hand.

use super::lanes::{Xmm, join32, split8, split32};

const fn double(v: u8) -> u8 {
    v << 1 ^ if v & 0x80 != 0 { 0x1b } else { 0 }
}

const fn times(a: u8, b: u8) -> u8 {
    let (mut sum, mut a, mut bit) = (0, a, 0);
    while bit < 8 {
        if b >> bit & 1 == 1 {
            sum ^= a;
        }
        a = double(a);
        bit += 1;
    }
    sum
}

static SUBSTITUTE: [u8; 256] = {
    let mut table = [0; 256];
    let mut v = 0;
    while v < 256 {
        // The inverse is the 254th power: 254 = 2 + 4 + ... + 128.
        let (mut power, mut inverse, mut i) = (v as u8, 1, 1);
        while i < 8 {
            power = times(power, power);
            inverse = times(inverse, power);
            i += 1;
        }
        let x = inverse;
        table[v] = x ^ x.rotate_left(1) ^ x.rotate_left(2) ^ x.rotate_left(3) ^ x.rotate_left(4) ^ 0x63;
        v += 1;
    }
    table
};

static UNSUBSTITUTE: [u8; 256] = {
    let mut table = [0; 256];
    let mut v = 0;
    while v < 256 {
        table[SUBSTITUTE[v] as usize] = v as u8;
        v += 1;
    }
    table
};

/// What the byte at row 0 adds to its column in MixColumns with these factors; other rows' are its rotations.
const fn mix(v: u8, factors: [u8; 4]) -> u32 {
    u32::from_le_bytes([times(v, factors[0]), times(v, factors[1]), times(v, factors[2]), times(v, factors[3])])
}

const FORWARD: [u8; 4] = [2, 1, 1, 3];
const BACKWARD: [u8; 4] = [14, 9, 13, 11];

const fn tables(substitute: Option<&[u8; 256]>, factors: [u8; 4]) -> [u32; 256] {
    let mut table = [0; 256];
    let mut v = 0;
    while v < 256 {
        let byte = match substitute {
            Some(substitute) => substitute[v],
            None => v as u8,
        };
        table[v] = mix(byte, factors);
        v += 1;
    }
    table
}

static ENCRYPT: [u32; 256] = tables(Some(&SUBSTITUTE), FORWARD);
static DECRYPT: [u32; 256] = tables(Some(&UNSUBSTITUTE), BACKWARD);
static UNMIX: [u32; 256] = tables(None, BACKWARD);

/// One round by a table: the byte of row `r` of column `c` comes from column `c + r * step`.
#[inline(always)]
fn round(state: Xmm, key: Xmm, table: &[u32; 256], step: usize) -> Xmm {
    let bytes = split8(state);
    let column = |c: usize| {
        (0..4).fold(0, |all, r| all ^ table[usize::from(bytes[4 * ((c + r * step) % 4) + r])].rotate_left(8 * r as u32))
    };
    join32([column(0), column(1), column(2), column(3)]) ^ key
}

#[inline(always)]
fn last_round(state: Xmm, key: Xmm, table: &[u8; 256], step: usize) -> Xmm {
    let bytes = split8(state);
    let column =
        |c: usize| u32::from_le_bytes(std::array::from_fn(|r| table[usize::from(bytes[4 * ((c + r * step) % 4) + r])]));
    join32([column(0), column(1), column(2), column(3)]) ^ key
}

/// One round of encryption.
#[inline]
pub fn aesenc(state: Xmm, key: Xmm) -> Xmm {
    round(state, key, &ENCRYPT, 1)
}

/// The last round of encryption.
#[inline]
pub fn aesenclast(state: Xmm, key: Xmm) -> Xmm {
    last_round(state, key, &SUBSTITUTE, 1)
}

/// One round of decryption, for the equivalent inverse cipher.
#[inline]
pub fn aesdec(state: Xmm, key: Xmm) -> Xmm {
    round(state, key, &DECRYPT, 3)
}

/// The last round of decryption.
#[inline]
pub fn aesdeclast(state: Xmm, key: Xmm) -> Xmm {
    last_round(state, key, &UNSUBSTITUTE, 3)
}

/// Turns an encryption round key into a decryption one: InvMixColumns.
#[inline]
pub fn aesimc(key: Xmm) -> Xmm {
    round(key, 0, &UNMIX, 0)
}

/// The parts of the next round key that need SubBytes; `imm` is the round constant.
#[inline]
pub fn aeskeygenassist(key: Xmm, imm: u8) -> Xmm {
    let [_, x1, _, x3] = split32(key);
    let substitute = |x: u32| u32::from_le_bytes(x.to_le_bytes().map(|b| SUBSTITUTE[usize::from(b)]));
    let (x1, x3, constant) = (substitute(x1), substitute(x3), u32::from(imm));
    join32([x1, x1.rotate_right(8) ^ constant, x3, x3.rotate_right(8) ^ constant])
}
