//! Keyboard and pointer: the 8042 with its two PS/2 devices, and the VMware backdoor's absolute pointer.
//!
//! ```text
//!   text, chords ─▶ keymap ─▶ KeyCode ─▶ Keyboard ─┐
//!                                                  ├─▶ I8042 (60h, 64h) ─▶ IRQ 1, IRQ 12
//!   motion, wheel, buttons ─▶ Mouse ───────────────┘
//!   absolute position ─▶ Backdoor (5658h) ─ a packet without motion on the mouse announces it
//! ```

pub mod backdoor;
mod i8042;
mod keyboard;
mod keycode;
pub mod keymap;
mod mouse;
mod queue;

pub use backdoor::{Backdoor, BackdoorCall, PointerSample};
pub use i8042::{I8042, KEYBOARD_PORTS};
pub use keycode::KeyCode;
pub use mouse::MouseButtons;

#[cfg(test)]
mod tests;
