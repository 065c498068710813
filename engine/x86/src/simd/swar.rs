//! Bytes and words calculated with side by side in one integer.
//!
//! The compiler does not find vector instructions for lanes taken from a `u128`, and would take each lane apart; this
//! takes a few instructions for all lanes. The lanes' highest bits are treated apart, to keep carries and borrows from
//! the neighbours.

/// The highest bits of bytes.
pub(super) const BYTES: u128 = u128::MAX / 0xff * 0x80;
/// The highest bits of words.
pub(super) const WORDS: u128 = u128::MAX / 0xffff * 0x8000;

/// The lowest bits, for lanes of which `high` are the highest.
const fn lowest(high: u128) -> u128 {
    high.rotate_left(1)
}

/// All bits of the lanes whose highest bit is set.
#[inline(always)]
pub(super) fn spread(bits: u128, high: u128) -> u128 {
    let set = bits & high;
    // A lane's highest bit less its lowest is the bits below the highest.
    let lowest = if high == BYTES { set >> 7 } else { set >> 15 };
    set | set.wrapping_sub(lowest)
}

#[inline(always)]
pub(super) fn select(mask: u128, a: u128, b: u128) -> u128 {
    b ^ (a ^ b) & mask
}

#[inline(always)]
pub(super) fn add(a: u128, b: u128, high: u128) -> u128 {
    (a & !high).wrapping_add(b & !high) ^ (a ^ b) & high
}

#[inline(always)]
pub(super) fn sub(a: u128, b: u128, high: u128) -> u128 {
    (a | high).wrapping_sub(b & !high) ^ (a ^ !b) & high
}

/// The most positive value, or the most negative where the highest bit is set.
#[inline(always)]
fn limit(signs: u128, high: u128) -> u128 {
    !high ^ spread(signs, high)
}

#[inline(always)]
pub(super) fn add_signed(a: u128, b: u128, high: u128) -> u128 {
    let sum = add(a, b, high);
    select(spread(!(a ^ b) & (a ^ sum), high), limit(a, high), sum)
}

#[inline(always)]
pub(super) fn sub_signed(a: u128, b: u128, high: u128) -> u128 {
    let difference = sub(a, b, high);
    select(spread((a ^ b) & (a ^ difference), high), limit(a, high), difference)
}

#[inline(always)]
pub(super) fn add_unsigned(a: u128, b: u128, high: u128) -> u128 {
    let sum = add(a, b, high);
    sum | spread(a & b | (a | b) & !sum, high)
}

/// All bits of the lanes where `a` is less, and the difference.
#[inline(always)]
fn borrow(a: u128, b: u128, high: u128) -> (u128, u128) {
    let difference = sub(a, b, high);
    (spread(!a & b | (!a | b) & difference, high), difference)
}

#[inline(always)]
pub(super) fn sub_unsigned(a: u128, b: u128, high: u128) -> u128 {
    let (less, difference) = borrow(a, b, high);
    difference & !less
}

#[inline(always)]
pub(super) fn less_unsigned(a: u128, b: u128, high: u128) -> u128 {
    borrow(a, b, high).0
}

#[inline(always)]
pub(super) fn less_signed(a: u128, b: u128, high: u128) -> u128 {
    borrow(a ^ high, b ^ high, high).0
}

#[inline(always)]
pub(super) fn equal(a: u128, b: u128, high: u128) -> u128 {
    let different = a ^ b;
    !spread((different & !high).wrapping_add(!high) | different, high)
}

/// Averages, rounded up.
#[inline(always)]
pub(super) fn average(a: u128, b: u128, high: u128) -> u128 {
    (a | b).wrapping_sub(((a ^ b) & !lowest(high)) >> 1)
}
