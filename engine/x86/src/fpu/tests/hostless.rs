//! What needs no host: the layouts of the state, the two steps of a store, pending exceptions, and operands of any bits.

use super::super::{
    Arithmetic, Constant, Environment, EnvironmentLayout, F80, Fpu, FpuOp, FpuStore, LastInstruction, Operands,
    SavedState, status,
};
use super::operands::Random;

const LAYOUT: EnvironmentLayout = EnvironmentLayout::Protected32;
const ROUNDS: usize = 5_000;

/// A state whose words are anything, so that exceptions may be pending and reserved bits are set.
fn any_state(random: &mut Random) -> SavedState {
    let mut state = random.unit().saved_state(LAYOUT);
    for word in [0, 4, 8] {
        state[word..word + 2].copy_from_slice(&(random.next() as u16).to_le_bytes());
    }
    state
}

#[test]
fn layouts_are_the_manuals() {
    let mut unit = Fpu::new();
    unit.execute(FpuOp::FldM80, 0, F80::ONE.to_bits());
    unit.record(0xfb2d, (0x1234, 0x0001_2345), Some((0x5678, 0x0009_8765)));
    let expected = LastInstruction {
        instruction_pointer: 0x1_2345,
        data_pointer: 0x9_8765,
        code_segment: 0x1234,
        data_segment: 0x5678,
        opcode: 0x32d,
    };
    assert_eq!(unit.last_instruction(), expected);
    let words = |environment: Environment| -> Vec<u16> {
        environment.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
    };
    // Figures 8-9 to 8-12 of SDM volume 1. The linear addresses are 12345 + 12340 and 98765 + 56780.
    let real_16 = words(unit.environment(EnvironmentLayout::Real16));
    assert_eq!(real_16[..7], [0x37f, 0x3800, 0x3fff, 0x4685, 0x232d, 0xeee5, 0xe000]);
    let protected_16 = words(unit.environment(EnvironmentLayout::Protected16));
    assert_eq!(protected_16[..7], [0x37f, 0x3800, 0x3fff, 0x2345, 0, 0x8765, 0]);
    let real_32 = words(unit.environment(EnvironmentLayout::Real32));
    let expected =
        [0x37f, 0xffff, 0x3800, 0xffff, 0x3fff, 0xffff, 0x4685, 0xffff, 0x232d, 0, 0xeee5, 0xffff, 0xe000, 0];
    assert_eq!(real_32, expected);
    let protected_32 = words(unit.environment(EnvironmentLayout::Protected32));
    let expected = [0x37f, 0xffff, 0x3800, 0xffff, 0x3fff, 0xffff, 0x2345, 1, 0, 0x32d, 0x8765, 9, 0, 0xffff];
    assert_eq!(protected_32, expected);

    for layout in [EnvironmentLayout::Real16, EnvironmentLayout::Real32, EnvironmentLayout::Protected32] {
        let saved = unit.saved_state(layout);
        let mut again = Fpu::new();
        again.set_saved_state(layout, &saved);
        assert_eq!(again.last_instruction().opcode, 0x32d);
        assert_eq!(again.st(0), F80::ONE);
        assert!(!again.is_empty(0) && again.is_empty(1));
        let linear = layout != EnvironmentLayout::Protected32;
        let pointer = if linear { 0x2_4685 } else { 0x1_2345 };
        assert_eq!(again.last_instruction().instruction_pointer, pointer);
    }
    unit.commit_save();
    assert_eq!((unit.tag_word(), unit.status_word(), unit.control_word()), (0xffff, 0, 0x37f));
}

#[test]
fn a_store_that_faults_changes_nothing() {
    let mut unit = Fpu::new();
    unit.execute(FpuOp::FldConstant(Constant::Pi), 0, 0);
    let before = unit.clone();
    let pending = unit.store(FpuStore::FstpM32);
    assert_eq!((pending.bits, pending.length_bytes), (0x4049_0fdb, 4));
    assert_eq!(unit, before);
    unit.commit(pending);
    assert!(unit.is_empty(0));
    assert_eq!(unit.status_word() & status::EXCEPTIONS, status::PE);
}

#[test]
fn an_unmasked_exception_waits() {
    let mut unit = Fpu::new();
    unit.set_control_word(0x037b);
    unit.execute(FpuOp::FldConstant(Constant::Zero), 0, 0);
    unit.execute(FpuOp::FldConstant(Constant::One), 0, 0);
    assert!(!unit.pending());
    let divide = FpuOp::Arithmetic(Arithmetic::Div, Operands::St0Sti);
    unit.execute(divide, 1, 0);
    assert!(unit.pending());
    assert_eq!(unit.st(0), F80::ONE);
    assert_eq!(unit.status_word() & (status::ES | status::B | status::ZE), status::ES | status::B | status::ZE);
    unit.execute(FpuOp::Fnclex, 0, 0);
    assert!(!unit.pending());
}

#[test]
fn no_bits_panic() {
    let mut random = Random::new(45);
    let operations = [
        FpuOp::F2xm1,
        FpuOp::Fyl2x,
        FpuOp::Fyl2xp1,
        FpuOp::Fptan,
        FpuOp::Fpatan,
        FpuOp::Fsin,
        FpuOp::Fcos,
        FpuOp::Fsincos,
        FpuOp::Fprem,
        FpuOp::Fprem1,
        FpuOp::Fscale,
        FpuOp::Fxtract,
        FpuOp::Fsqrt,
        FpuOp::Frndint,
        FpuOp::Fbld,
        FpuOp::Fxch,
    ];
    for _ in 0..ROUNDS {
        let state = any_state(&mut random);
        for operation in operations {
            let mut unit = Fpu::new();
            unit.set_saved_state(LAYOUT, &state);
            unit.execute(operation, random.next() as usize, random.value().to_bits());
            for index in 0..8 {
                let bits = (random.next() as u128) << 64 | random.mantissa() as u128;
                unit.set_st(index, F80::from_bits(bits));
            }
            unit.execute(operation, random.next() as usize, random.value().to_bits());
        }
    }
}
