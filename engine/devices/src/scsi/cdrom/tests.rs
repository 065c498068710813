//! The drive without a transport.
