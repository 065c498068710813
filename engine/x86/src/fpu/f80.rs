//! The double extended-precision format and its classes (SDM volume 1, 4.2.2 and 8.2.2).

/// Exponent bias of the double extended-precision format.
pub(super) const BIAS: i32 = 16383;
/// The biased exponent of infinities and NaNs.
pub(super) const EXPONENT_MAX: u16 = 0x7fff;
/// The explicit integer bit (J) of the significand.
pub(super) const INTEGER_BIT: u64 = 1 << 63;
/// The bit that tells a quiet NaN from a signalling one.
pub(super) const QUIET_BIT: u64 = 1 << 62;

/// A double extended-precision value as it lies in a register: any 80 bits, valid number or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct F80 {
    /// The significand, with its explicit integer bit in bit 63.
    pub mantissa: u64,
    /// The sign in bit 15 and the biased exponent in bits 14:0.
    pub sign_exponent: u16,
}

/// What an encoding stands for (SDM volume 1, tables 4-3 and 8-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// ±0.
    Zero,
    /// Exponent 0 and integer bit 0; also the pseudo-denormal, whose integer bit is 1: both raise #D and have the value
    /// they would have with exponent 1.
    Denormal,
    /// A normalised finite number.
    Normal,
    /// ±∞.
    Infinity,
    /// A signalling NaN.
    SignalingNan,
    /// A quiet NaN.
    QuietNan,
    /// Unnormal, pseudo-infinity or pseudo-NaN: an invalid operand since the 387.
    Unsupported,
}

impl F80 {
    /// +0.
    pub const ZERO: Self = Self::new(false, 0, 0);
    /// +1.
    pub const ONE: Self = Self::new(false, BIAS as u16, INTEGER_BIT);
    /// The real indefinite: the answer to a masked invalid operation (SDM volume 1, 4.8.3.7).
    pub const INDEFINITE: Self = Self::new(true, EXPONENT_MAX, INTEGER_BIT | QUIET_BIT);

    /// A value from its sign, biased exponent (of which 15 bits count) and significand.
    #[inline]
    pub const fn new(negative: bool, exponent: u16, mantissa: u64) -> Self {
        Self { mantissa, sign_exponent: (exponent & EXPONENT_MAX) | ((negative as u16) << 15) }
    }

    /// ±∞.
    #[inline]
    pub const fn infinity(negative: bool) -> Self {
        Self::new(negative, EXPONENT_MAX, INTEGER_BIT)
    }

    /// ±0.
    #[inline]
    pub const fn zero(negative: bool) -> Self {
        Self::new(negative, 0, 0)
    }

    /// The value from the low 80 bits of `bits`, as a ten-byte memory operand has them.
    #[inline]
    pub const fn from_bits(bits: u128) -> Self {
        Self { mantissa: bits as u64, sign_exponent: (bits >> 64) as u16 }
    }

    /// The 80 bits of the value, as a ten-byte memory operand has them.
    #[inline]
    pub const fn to_bits(self) -> u128 {
        self.mantissa as u128 | ((self.sign_exponent as u128) << 64)
    }

    /// Whether the sign bit is set.
    #[inline]
    pub const fn is_negative(self) -> bool {
        self.sign_exponent & 0x8000 != 0
    }

    /// The biased exponent.
    #[inline]
    pub const fn exponent(self) -> u16 {
        self.sign_exponent & EXPONENT_MAX
    }

    /// Whether this is a normalised finite number, the case that arithmetic takes its quick path for.
    #[inline]
    pub(super) const fn is_normal(self) -> bool {
        (self.exponent().wrapping_sub(1)) < EXPONENT_MAX - 1 && self.mantissa & INTEGER_BIT != 0
    }

    /// The class of the encoding.
    #[inline]
    pub const fn class(self) -> Class {
        let integer = self.mantissa & INTEGER_BIT != 0;
        match self.exponent() {
            0 if self.mantissa == 0 => Class::Zero,
            0 => Class::Denormal,
            _ if !integer => Class::Unsupported,
            EXPONENT_MAX if self.mantissa == INTEGER_BIT => Class::Infinity,
            EXPONENT_MAX if self.mantissa & QUIET_BIT == 0 => Class::SignalingNan,
            EXPONENT_MAX => Class::QuietNan,
            _ => Class::Normal,
        }
    }

    /// The value with its sign changed.
    #[inline]
    pub const fn negated(self) -> Self {
        Self { mantissa: self.mantissa, sign_exponent: self.sign_exponent ^ 0x8000 }
    }

    /// The value with its sign cleared.
    #[inline]
    pub const fn absolute(self) -> Self {
        Self { mantissa: self.mantissa, sign_exponent: self.sign_exponent & EXPONENT_MAX }
    }

    /// A NaN as an instruction hands it on: quiet.
    #[inline]
    pub(super) const fn quieted(self) -> Self {
        Self { mantissa: self.mantissa | QUIET_BIT, sign_exponent: self.sign_exponent }
    }

    /// The biased exponent and normalised significand of a finite number other than zero; a denormal's exponent is
    /// less than 1.
    #[inline]
    pub(super) const fn normalized(self) -> (i32, u64) {
        let exponent = self.exponent() as i32;
        if exponent != 0 {
            return (exponent, self.mantissa);
        }
        let shift = self.mantissa.leading_zeros();
        (1 - shift as i32, self.mantissa.unbounded_shl(shift))
    }
}
