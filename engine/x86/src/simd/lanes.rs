//! Vectors and their lanes.

/// A 128-bit value, lane 0 in the least significant bits.
pub type Xmm = u128;

mod sealed {
    pub trait Sealed {}
    impl Sealed for u64 {}
    impl Sealed for u128 {}
}

/// A vector an integer instruction works on: `u64` (MMX) or [`Xmm`].
pub trait Vector: Copy + sealed::Sealed {
    /// Its size in bytes.
    const BYTES: u32;
    /// The value in the low bits of 128.
    fn wide(self) -> Xmm;
    /// The low bits of 128.
    fn narrow(v: Xmm) -> Self;
}

impl Vector for u64 {
    const BYTES: u32 = 8;
    #[inline(always)]
    fn wide(self) -> Xmm {
        u128::from(self)
    }
    #[inline(always)]
    fn narrow(v: Xmm) -> Self {
        v as u64
    }
}

impl Vector for u128 {
    const BYTES: u32 = 16;
    #[inline(always)]
    fn wide(self) -> Xmm {
        self
    }
    #[inline(always)]
    fn narrow(v: Xmm) -> Self {
        v
    }
}

/// Applies an operation whose result holds the first operand's share in its low and the second's in its high half:
/// the 64-bit form is the 128-bit form of both operands as one.
#[inline(always)]
pub(super) fn by_halves<V: Vector>(a: V, b: V, f: impl Fn(Xmm, Xmm) -> Xmm) -> V {
    if V::BYTES == 8 {
        let both = a.wide() | b.wide() << 64;
        V::narrow(f(both, both))
    } else {
        V::narrow(f(a.wide(), b.wide()))
    }
}

macro_rules! lane_access {
    ($split:ident, $join:ident, $zip:ident, $lane:ty, $count:literal) => {
        #[inline(always)]
        pub(super) fn $split(v: Xmm) -> [$lane; $count] {
            std::array::from_fn(|i| (v >> (i * (128 / $count))) as $lane)
        }
        #[inline(always)]
        pub(super) fn $join(lanes: [$lane; $count]) -> Xmm {
            lanes.iter().rev().fold(0, |all, lane| all << (128 / $count) | u128::from(*lane))
        }
        #[inline(always)]
        pub(super) fn $zip(a: Xmm, b: Xmm, f: impl Fn($lane, $lane) -> $lane) -> Xmm {
            let (a, b) = ($split(a), $split(b));
            $join(std::array::from_fn(|i| f(a[i], b[i])))
        }
    };
}

#[inline(always)]
pub(super) fn split8(v: Xmm) -> [u8; 16] {
    v.to_le_bytes()
}

#[inline(always)]
pub(super) fn join8(lanes: [u8; 16]) -> Xmm {
    u128::from_le_bytes(lanes)
}
lane_access!(split16, join16, zip16, u16, 8);
lane_access!(split32, join32, zip32, u32, 4);
lane_access!(split64, join64, zip64, u64, 2);

#[inline(always)]
pub(super) fn map32(a: Xmm, f: impl Fn(u32) -> u32) -> Xmm {
    join32(split32(a).map(f))
}

#[inline(always)]
pub(super) fn map64(a: Xmm, f: impl Fn(u64) -> u64) -> Xmm {
    join64(split64(a).map(f))
}

/// All ones where a comparison holds.
macro_rules! mask_of {
    ($lane:ty, $holds:expr) => {
        if $holds { <$lane>::MAX } else { 0 }
    };
}

/// Defines two-operand operations on 128 bits for both widths.
macro_rules! lanewise {
    ($($(#[$doc:meta])* $name:ident, |$a:ident, $b:ident| $result:expr;)*) => {
        $(
            $(#[$doc])*
            #[inline]
            pub fn $name<V: $crate::simd::Vector>(a: V, b: V) -> V {
                let ($a, $b) = (a.wide(), b.wide());
                V::narrow($result)
            }
        )*
    };
}
