//! Whole-VM tests: what they share.
