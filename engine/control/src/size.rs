//! [`Size`]: a number of bytes as people write it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes. Written with a binary unit where it is a whole number of it: `512M`, `4G`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(pub u64);

/// A text that is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a size; write a number and a unit, such as 512M or 4G")]
pub struct SizeError(String);

/// Units and how far they shift, largest first.
const UNITS: [(&str, u32); 5] = [("P", 50), ("T", 40), ("G", 30), ("M", 20), ("K", 10)];

impl Size {
    /// `count` mebibytes.
    pub const fn mebibytes(count: u32) -> Self {
        Self((count as u64) << 20)
    }

    /// The number of bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// For reading, three significant digits and a unit: `1.86 GiB`.
    pub fn human(self) -> String {
        for (unit, shift) in UNITS {
            let one = 1u64 << shift;
            if self.0 >= one {
                let hundredths = u128::from(self.0) * 100 / u128::from(one);
                let (whole, rest) = (hundredths / 100, hundredths % 100);
                return match whole {
                    _ if rest == 0 => format!("{whole} {unit}iB"),
                    0..=9 => format!("{whole}.{rest:02} {unit}iB"),
                    10..=99 => format!("{whole}.{} {unit}iB", rest / 10),
                    _ => format!("{whole} {unit}iB"),
                };
            }
        }
        format!("{} B", self.0)
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let wrong = || SizeError(text.to_owned());
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let unit = unit.trim().to_ascii_uppercase();
        let unit = unit.strip_suffix("IB").or_else(|| unit.strip_suffix('B')).unwrap_or(&unit);
        let shift = match unit {
            "" => 0,
            unit => UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole: u64 = whole.parse().map_err(|_not_a_number| wrong())?;
        let mut bytes = whole.checked_mul(1 << shift).ok_or_else(wrong)?;
        if number.contains('.') {
            // At most nine digits, so that the product fits 128 bits; a fraction of a byte is refused.
            if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
                return Err(wrong());
            }
            let digits = u32::try_from(fraction.len()).map_err(|_long| wrong())?;
            let parts = fraction.parse::<u128>().map_err(|_not_a_number| wrong())? << shift;
            let scale = 10u128.pow(digits);
            if !parts.is_multiple_of(scale) {
                return Err(wrong());
            }
            let extra = u64::try_from(parts / scale).map_err(|_large| wrong())?;
            bytes = bytes.checked_add(extra).ok_or_else(wrong)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in UNITS {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl TryFrom<String> for Size {
    type Error = SizeError;

    fn try_from(text: String) -> Result<Self, SizeError> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_are_binary() {
        for (text, bytes) in [
            ("512M", 512 << 20),
            ("4G", 4 << 30),
            ("4GiB", 4 << 30),
            ("1.5g", 3 << 29),
            ("64 k", 64 << 10),
            ("4096", 4096),
            ("0", 0),
            ("2T", 2 << 40),
        ] {
            assert_eq!(text.parse::<Size>(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "G", "-1G", "1X", "1.", "1.3", "99999999999G", "1 G G", ".5G", "0x10"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn reads_well() {
        assert_eq!(Size(0).human(), "0 B");
        assert_eq!(Size(1 << 30).human(), "1 GiB");
        assert_eq!(Size(2_000_000_000).human(), "1.86 GiB");
        assert_eq!(Size(700 << 20).human(), "700 MiB");
    }

    proptest! {
        #[test]
        fn any_size_survives(bytes: u64) {
            prop_assert_eq!(Size(bytes).to_string().parse::<Size>(), Ok(Size(bytes)));
        }

        #[test]
        fn any_text_is_answered(text in ".{0,40}") {
            let _answer = text.parse::<Size>();
        }
    }
}
