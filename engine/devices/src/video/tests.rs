//! The adapter, driven through ports and windows as guests drive it.
