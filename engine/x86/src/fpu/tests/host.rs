//! The host's own x87, one function an instruction: it loads a whole state, executes, and stores the whole state.

use super::super::SavedState;
use std::arch::asm;

/// Runs one instruction on a state: the state, the memory operand and the flags in AH's layout, each in and out.
pub type HostInstruction = fn(&mut SavedState, &mut [u8; 16], &mut u64);

/// A [`HostInstruction`] whose memory operand, if any, is at RCX.
macro_rules! host {
    ($($instruction:literal),+) => {{
        #[expect(unsafe_code, reason = "the host's FPU is the reference")]
        fn run(state: &mut $crate::fpu::SavedState, memory: &mut [u8; 16], flags: &mut u64) {
            // SAFETY: the state and the operand are as long as the instructions need, and FNSAVE leaves the unit as
            // FNINIT does, which is how the calling convention wants it.
            unsafe {
                std::arch::asm!(
                    "frstor [rsi]",
                    "sahf",
                    $($instruction,)+
                    "fnsave [rdi]",
                    "pushfq",
                    "pop rax",
                    in("rsi") std::ptr::from_ref(state),
                    in("rdi") std::ptr::from_mut(state),
                    in("rcx") std::ptr::from_mut(memory),
                    inout("rax") *flags,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                );
            }
        }
        run as $crate::fpu::tests::host::HostInstruction
    }};
}
pub(super) use host;

/// The FXSAVE area of what FRSTOR loads, written over `area`.
#[expect(unsafe_code, reason = "the host's FPU is the reference")]
pub fn fxsave(state: &SavedState, area: [u8; 512]) -> [u8; 512] {
    let mut area = Area(area);
    // SAFETY: both areas are as long and as aligned as the instructions need; FNINIT restores the convention's state.
    unsafe {
        asm!(
            "frstor [rsi]", "fxsave64 [rdi]", "fninit",
            in("rsi") std::ptr::from_ref(state),
            in("rdi") std::ptr::from_mut(&mut area),
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
        );
    }
    area.0
}

/// What FNSAVE stores of what FXRSTOR loads.
#[expect(unsafe_code, reason = "the host's FPU is the reference")]
pub fn fxrstor(area: [u8; 512]) -> SavedState {
    let mut area = Area(area);
    // MXCSR, which must not have reserved bits set.
    area.0[24..32].copy_from_slice(&[0x80, 0x1f, 0, 0, 0, 0, 0, 0]);
    let mut kept = Area([0; 512]);
    let mut state = [0; 108];
    // SAFETY: the areas are as long and as aligned as the instructions need; the second FXRSTOR restores all the
    // registers that the first one changed.
    unsafe {
        asm!(
            "fxsave64 [rdx]", "fxrstor64 [rsi]", "fnsave [rdi]", "fxrstor64 [rdx]",
            in("rsi") std::ptr::from_ref(&area),
            in("rdi") std::ptr::from_mut(&mut state),
            in("rdx") std::ptr::from_mut(&mut kept),
        );
    }
    state
}

#[repr(align(16))]
struct Area([u8; 512]);

/// What FNSTENV stores, and what it leaves.
#[repr(C)]
#[derive(Default)]
pub struct Environments {
    pub wide: [u8; 28],
    pub control_after: u16,
    pub status_after: u16,
    pub narrow: [u8; 14],
}

/// FNSTENV of both operand sizes on what FRSTOR loads.
#[expect(unsafe_code, reason = "the host's FPU is the reference")]
pub fn environments(state: &SavedState) -> Environments {
    let mut environments = Environments::default();
    // SAFETY: the structure has room for what is stored at the offsets; FNINIT restores the convention's state.
    unsafe {
        asm!(
            "frstor [rsi]",
            "fnstenv [rdi]",
            "fnstcw [rdi + 28]",
            "fnstsw [rdi + 30]",
            "add rdi, 32",
            // FNSTENV with an operand size of 16 bits.
            ".byte 0x66, 0xd9, 0x37",
            "fninit",
            in("rsi") std::ptr::from_ref(state),
            inout("rdi") std::ptr::from_mut(&mut environments) => _,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
        );
    }
    environments
}
