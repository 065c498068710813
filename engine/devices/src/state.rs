//! Saved device state: types apart from the runtime ones (`...V1`), tagged, versioned, and untrusted when read back.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// One device's saved state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedState {
    /// What kind of device: `ide`, `pit`, ….
    pub kind: String,
    /// Version of the layout of `data`.
    pub version: u32,
    /// The state, by `postcard`.
    pub data: Vec<u8>,
}

/// Why a saved state was refused.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It belongs to another device.
    #[error("state of a `{found}` given to a `{expected}`")]
    Kind {
        /// This device.
        expected: &'static str,
        /// What the state says.
        found: String,
    },
    /// It is of a version this build does not know.
    #[error("{kind}: saved state version {found} is not known here (newest known: {known})")]
    Version {
        /// The device.
        kind: &'static str,
        /// The state's version.
        found: u32,
        /// The newest version known.
        known: u32,
    },
    /// It can not be decoded.
    #[error("{kind}: saved state is damaged")]
    Damaged {
        /// The device.
        kind: &'static str,
        /// Where it stopped making sense.
        source: postcard::Error,
    },
    /// A field has a value the device can not have.
    #[error("{kind}: saved state has an impossible {field}")]
    Field {
        /// The device.
        kind: &'static str,
        /// The field.
        field: &'static str,
    },
}

impl SavedState {
    /// Encodes `state`.
    ///
    /// # Panics
    /// Never for the plain structs this is used with: `postcard` fails only on unsized maps and sequences.
    pub fn encode<T: Serialize>(kind: &'static str, version: u32, state: &T) -> Self {
        let data = postcard::to_stdvec(state).expect("plain structs always encode");
        Self { kind: kind.to_owned(), version, data }
    }

    /// Decodes the state of a `kind` whose only known version is `version`.
    ///
    /// # Errors
    /// Another kind or version, damage, or trailing bytes.
    pub fn decode<T: DeserializeOwned>(&self, kind: &'static str, version: u32) -> Result<T, RestoreError> {
        if self.kind != kind {
            return Err(RestoreError::Kind { expected: kind, found: self.kind.clone() });
        }
        if self.version != version {
            return Err(RestoreError::Version { kind, found: self.version, known: version });
        }
        let (state, rest) =
            postcard::take_from_bytes(&self.data).map_err(|source| RestoreError::Damaged { kind, source })?;
        match rest {
            [] => Ok(state),
            _ => Err(RestoreError::Field { kind, field: "length" }),
        }
    }
}

/// Turns a runtime type and a saved one that has the same fields into each other. Both are taken apart whole: a field
/// that only one of them has does not compile. Whether the saved values are possible is for the device to check.
macro_rules! same_fields {
    ($runtime:ident, $saved:ident; $($field:ident),+) => {
        impl From<$runtime> for $saved {
            fn from($runtime { $($field),+ }: $runtime) -> Self {
                Self { $($field),+ }
            }
        }

        impl From<$saved> for $runtime {
            fn from($saved { $($field),+ }: $saved) -> Self {
                Self { $($field),+ }
            }
        }
    };
}

pub(crate) use same_fields;
