//! Comparison and examination (SDM volume 1, 8.3.6).

use super::f80::{Class, F80};
use super::round::Control;
use super::round::status::{C0, C1, C2, C3, DE, IE};
use std::cmp::Ordering;

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// The order, or `None` for unordered.
    pub order: Option<Ordering>,
    /// Status word bits: #IA and #D.
    pub flags: u16,
}

impl Comparison {
    /// What comparing with something invalid or empty gives.
    pub(super) const INVALID: Self = Self { order: None, flags: IE };

    /// C3, C2 and C0 (SDM volume 1, table 8-6).
    #[inline]
    pub const fn condition_codes(self) -> u16 {
        match self.order {
            Some(Ordering::Greater) => 0,
            Some(Ordering::Less) => C0,
            Some(Ordering::Equal) => C3,
            None => C3 | C2 | C0,
        }
    }

    /// What FCOMI puts into EFLAGS (SDM volume 1, table 8-7).
    #[inline]
    pub const fn integer_flags(self) -> IntegerFlags {
        let codes = self.condition_codes();
        IntegerFlags { zero: codes & C3 != 0, parity: codes & C2 != 0, carry: codes & C0 != 0 }
    }
}

/// The flags of EFLAGS that FCOMI, FCOMIP, FUCOMI and FUCOMIP write; OF, SF and AF are cleared by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntegerFlags {
    /// ZF.
    pub zero: bool,
    /// PF.
    pub parity: bool,
    /// CF.
    pub carry: bool,
}

/// A number that orders as the value does, for all but NaNs and unsupported encodings.
#[inline]
fn order_key(value: F80) -> i128 {
    // A pseudo-denormal is worth what it would be with exponent 1.
    let exponent = if value.exponent() == 0 && value.mantissa >> 63 != 0 { 1 } else { value.exponent() };
    let magnitude = ((exponent as i128) << 64) | value.mantissa as i128;
    if value.is_negative() { -magnitude } else { magnitude }
}

/// Compares two values. `quiet` is that of the FUCOM family: quiet NaNs are merely unordered.
#[inline]
pub fn compare(a: F80, b: F80, quiet: bool) -> Comparison {
    if a.is_normal() && b.is_normal() {
        let order = match (a.is_negative(), b.is_negative()) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => (a.sign_exponent, a.mantissa).cmp(&(b.sign_exponent, b.mantissa)),
            (true, true) => (b.sign_exponent, b.mantissa).cmp(&(a.sign_exponent, a.mantissa)),
        };
        return Comparison { order: Some(order), flags: 0 };
    }
    for class in [a.class(), b.class()] {
        match class {
            Class::Unsupported | Class::SignalingNan => return Comparison::INVALID,
            Class::QuietNan | Class::Denormal | Class::Zero | Class::Normal | Class::Infinity => {}
        }
    }
    if a.class() == Class::QuietNan || b.class() == Class::QuietNan {
        return Comparison { order: None, flags: if quiet { 0 } else { IE } };
    }
    let denormal = a.class() == Class::Denormal || b.class() == Class::Denormal;
    let flags = if denormal { DE } else { 0 };
    Comparison { order: Some(order_key(a).cmp(&order_key(b))), flags }
}

/// The class of a register as FXAM reports it in C3, C2, C0, with the sign in C1 (SDM volume 2A, FXAM).
pub fn examine(value: F80, empty: bool) -> u16 {
    let sign = if value.is_negative() { C1 } else { 0 };
    let class = match value.class() {
        _ if empty => C3 | C0,
        Class::Unsupported => 0,
        Class::SignalingNan | Class::QuietNan => C0,
        Class::Normal => C2,
        Class::Infinity => C2 | C0,
        Class::Zero => C3,
        Class::Denormal => C3 | C2,
    };
    sign | class
}

/// Whether a comparison that raises `flags` may pop.
#[inline]
pub(super) const fn may_pop(control: Control, flags: u16) -> bool {
    control.unmasked(flags) == 0
}
