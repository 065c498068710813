//! All that is not compared, and why. What is not in here is.

use benchtop_x86::cpu::vector;
use iced_x86::{CpuidFeature as Feature, FlowControl, Instruction, Mnemonic as M, OpKind, Register, RflagsBits as R};

use crate::layout::{Bits, State, Stop};

/// Instructions that are not carried out on both, with the reason.
const EXCLUDED: &[(&[M], &str)] = &[
    (&[M::Syscall, M::Sysenter], "they are the host kernel's"),
    (&[M::Rdtsc, M::Rdtscp, M::Rdpmc], "time and counters are the host's"),
    (&[M::Cpuid], "the guest's is a table of its own"),
    (&[M::Sgdt, M::Sidt, M::Sldt, M::Str, M::Smsw], "the host may have UMIP, and its kernel answers then"),
    (&[M::Lar, M::Lsl, M::Verr, M::Verw], "they tell of the host's descriptors"),
    (
        &[M::Retf, M::Iret, M::Iretd, M::Iretq, M::Lds, M::Les, M::Lss, M::Lfs, M::Lgs, M::Arpl],
        "segment registers are the host thread's own: FS is its thread pointer (tested in src/system/tests)",
    ),
    (
        &[M::Tzcnt, M::Lzcnt, M::Andn, M::Bextr, M::Blsi, M::Blsr, M::Blsmsk],
        "the guest has no BMI1 and no LZCNT, so the encodings mean BSF, BSR, or nothing",
    ),
    (&[M::Reservednop], "0F 0D with a register: a NOP on some processors, undefined on others"),
    (&[M::Fstdw, M::Fstsg], "the 387's only: FNSTSW on today's"),
    (&[M::Fnstdw, M::Fnstsg], "the 387's only"),
];

/// What of the state is not compared, with the reason; see [`masks`] and [`is_undefined`].
pub const NOT_COMPARED: &[&str] = &[
    "FIP, FDP and FOP (FXSAVE bytes 6 to 23, and where FSTENV and FSAVE put them): when they are recorded, and whether \
     selectors are, differs by model (Intel SDM volume 1, 8.1.8; CPUID 7 EBX bits 6 and 13)",
    "the operand of FBSTP and of FSTP of 80 bits that faults in its second page: Intel's processors store the first \
     bytes, ours none",
    "FSTENV and FSAVE of 16 bits at odd addresses with AC: #GP in compatibility mode on Intel's, #AC on ours",
    "flags that the manual leaves undefined, by the decoder's table",
    "results that it leaves undefined: SHLD and SHRD of 16 bits by more than 16, BSWAP of 16 bits",
    "BT with memory and RSI as the bit's number, and branches into themselves: the harness can not place them",
    "bit 0 of a page fault's error code in Linux's half of addresses, which its kernel always sets",
];

/// Results that are compared with a tolerance: x87 within one unit in the last place (Intel SDM volume 1, 8.3.10),
const X87_APPROXIMATE: &[M] = &[M::F2xm1, M::Fyl2x, M::Fyl2xp1, M::Fptan, M::Fpatan, M::Fsin, M::Fcos, M::Fsincos];
/// and SSE within the relative error of 1.5 * 2^-12 that each may have (volume 2, RCPPS, RSQRTPS).
const SSE_APPROXIMATE: &[M] = &[M::Rcpps, M::Rcpss, M::Rsqrtps, M::Rsqrtss];

/// What random programs do not have, with the reason; single cases of it are compared.
const NOT_IN_PROGRAMS: &[(&[M], &str)] = &[
    (X87_APPROXIMATE, "a difference in the last place would go on into everything"),
    (SSE_APPROXIMATE, "a difference in the last place would go on into everything"),
    (
        &[M::Fxsave, M::Fxsave64, M::Fnstenv, M::Fnsave],
        "FIP, FDP and FOP, which differ, would become data (FNSAVE and FNSTENV change masks, too)",
    ),
    (
        &[M::Fxrstor, M::Fxrstor64, M::Fldenv, M::Frstor, M::Fldcw, M::Ldmxcsr],
        "data would become masks of exceptions; there is FLDCW and LDMXCSR of values that are chosen",
    ),
    (&[M::Popf, M::Popfd, M::Popfq], "data would become TF and AC; there is POPF of values that are chosen"),
    (&[M::Enter, M::Leave, M::Popa, M::Popad], "they need a frame; there is ENTER with LEAVE"),
    (
        &[M::In, M::Out, M::Insb, M::Insw, M::Insd, M::Outsb, M::Outsw, M::Outsd, M::Cli, M::Sti, M::Bound],
        "they would stop it each time",
    ),
];

/// Why an instruction is not in random programs.
pub fn left_out_of_programs(instruction: &Instruction) -> Option<&'static str> {
    let mnemonic = instruction.mnemonic();
    if let Some((_, why)) = NOT_IN_PROGRAMS.iter().find(|(mnemonics, _)| mnemonics.contains(&mnemonic)) {
        return Some(why);
    }
    let far_bit = matches!(mnemonic, M::Bt | M::Bts | M::Btr | M::Btc)
        && instruction.op0_kind() == OpKind::Memory
        && instruction.op1_kind() == OpKind::Register;
    if far_bit {
        return Some("a bit's number is an address");
    }
    let shift = matches!(mnemonic, M::Shld | M::Shrd) && instruction.op1_register().size() == 2;
    if shift || (mnemonic == M::Bswap && instruction.op0_register().size() == 2) {
        return Some("its result can be undefined");
    }
    None
}

/// Features that the guest has. Of others it knows nothing, while the host may.
const FEATURES: &[Feature] = &[
    Feature::INTEL8086,
    Feature::INTEL186,
    Feature::INTEL286,
    Feature::INTEL386,
    Feature::INTEL486,
    Feature::INTEL8086_ONLY,
    Feature::X64,
    Feature::CMOV,
    Feature::CX8,
    Feature::CMPXCHG16B,
    Feature::CLFSH,
    Feature::POPCNT,
    Feature::MOVBE,
    Feature::MSR,
    Feature::FPU,
    Feature::FPU287,
    Feature::FPU387,
    Feature::FXSR,
    Feature::MMX,
    Feature::SSE,
    Feature::SSE2,
    Feature::SSE3,
    Feature::SSSE3,
    Feature::SSE4_1,
    Feature::SSE4_2,
    Feature::AES,
    Feature::PCLMULQDQ,
    Feature::MULTIBYTENOP,
    Feature::PAUSE,
    Feature::CET_IBT,
    Feature::BMI1,
    Feature::LZCNT,
];

/// Why an instruction is not carried out on both.
pub fn excluded(instruction: &Instruction) -> Option<&'static str> {
    if let Some((_, why)) = EXCLUDED.iter().find(|(mnemonics, _)| mnemonics.contains(&instruction.mnemonic())) {
        return Some(why);
    }
    if !instruction.code().cpuid_features().iter().all(|feature| FEATURES.contains(feature)) {
        return Some("the guest does not have the feature, the host may");
    }
    let loads_segment = instruction.op_count() > 0
        && instruction.op0_kind() == OpKind::Register
        && instruction.op0_register().is_segment_register()
        && instruction.mnemonic() != M::Push;
    let is_far = (0..instruction.op_count())
        .any(|operand| matches!(instruction.op_kind(operand), OpKind::FarBranch16 | OpKind::FarBranch32))
        || instruction.is_jmp_far_indirect()
        || instruction.is_call_far_indirect();
    if loads_segment || is_far {
        return Some(
            "segment registers are the host thread's own: FS is its thread pointer (tested in src/system/tests)",
        );
    }
    if instruction.mnemonic() == M::Int && instruction.immediate8() == 0x80 {
        return Some("INT 80h is a system call");
    }
    if instruction.flow_control() == FlowControl::XbeginXabortXend {
        return Some("the guest has no transactions");
    }
    None
}

/// Flags whose value the manual leaves open after this instruction.
pub fn undefined_flags(instruction: &Instruction, start: &State) -> u64 {
    let mut undefined = instruction.rflags_undefined();
    let count = start.regs[1] & 31;
    match instruction.mnemonic() {
        // With a count of 0 nothing changes (volume 2, SHLD).
        M::Shld | M::Shrd | M::Shl | M::Shr | M::Sar | M::Sal
            if instruction.op_register(instruction.op_count() - 1) == Register::CL
                && (if operand_bytes(instruction) == 8 { start.regs[1] & 63 } else { count }) == 0 =>
        {
            undefined = 0;
        }
        _ => {}
    }
    rflags(undefined)
}

/// The decoder's names of flags, as bits of RFLAGS.
pub fn rflags(flags: u32) -> u64 {
    [(R::OF, 0x800), (R::SF, 0x80), (R::ZF, 0x40), (R::AF, 0x10), (R::CF, 1), (R::PF, 4), (R::DF, 0x400)]
        .into_iter()
        .filter(|(flag, _)| flags & flag != 0)
        .fold(0, |bits, (_, flag)| bits | flag)
}

fn operand_bytes(instruction: &Instruction) -> usize {
    match instruction.op0_kind() {
        OpKind::Register => instruction.op0_register().size(),
        _ => instruction.memory_size().size(),
    }
}

/// Whether the manual leaves the whole result open, or it depends on what the harness can not place.
pub fn is_undefined(instruction: &Instruction, start: &State) -> bool {
    let count = if instruction.op_count() == 3 && instruction.op2_kind() == OpKind::Immediate8 {
        u64::from(instruction.immediate8())
    } else {
        start.regs[1]
    };
    match instruction.mnemonic() {
        // Volume 2, SHLD: a count beyond the operand's size.
        M::Shld | M::Shrd => instruction.op1_register().size() == 2 && count & 31 > 16,
        // The address would be the bit's number as well.
        M::Bt | M::Bts | M::Btr | M::Btc => {
            instruction.op0_kind() == OpKind::Memory && instruction.op1_register().full_register() == Register::RSI
        }
        // The host: #AC in 64-bit mode and #GP in compatibility mode; ours: #AC.
        M::Fnstenv | M::Fnsave if matches!(instruction.memory_size().size(), 14 | 94) => {
            start.flags & 0x4_0000 != 0 && start.regs[6] & 1 != 0
        }
        // Volume 2, BSWAP: with 16 bits the result is undefined.
        M::Bswap => instruction.op0_register().size() == 2,
        _ => branches_into_itself(instruction),
    }
}

/// Such may go on for ever.
fn branches_into_itself(instruction: &Instruction) -> bool {
    instruction.op_count() > 0
        && matches!(instruction.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64)
        && instruction.near_branch_target() < instruction.len() as u64
}

/// Where Linux's half of addresses begins, the gap before it counted (TASK_SIZE_MAX).
const LINUX_HALF: u64 = 0x7fff_ffff_f000;

/// Why user code came to an end, without what Linux changes: for addresses of its own half it says that the page is
/// there, so that nobody learns which are.
pub fn comparable(stop: Stop) -> Stop {
    let hides = stop.address.is_some_and(|address| address >= LINUX_HALF);
    if hides { Stop { error: stop.error | 1, ..stop } } else { stop }
}

/// What of two states is compared, and how.
pub struct Masks {
    pub flags: u64,
    pub x87: Tolerance,
    pub sse: Tolerance,
    /// Linear addresses that are not compared.
    pub memory: Vec<std::ops::Range<u64>>,
    /// C1 of the x87 status word is compared.
    pub c1: bool,
}

/// How near two results have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    Exact,
    /// One unit in the last place.
    Ulp,
    /// A relative error of 1.5 * 2^-12 of each.
    TwelveBits,
}

/// What is compared after an instruction, or its fault.
pub fn masks(instruction: &Instruction, start: &State, stop: &Stop) -> Masks {
    let mnemonic = instruction.mnemonic();
    let x87 = if X87_APPROXIMATE.contains(&mnemonic) { Tolerance::Ulp } else { Tolerance::Exact };
    let sse = if SSE_APPROXIMATE.contains(&mnemonic) { Tolerance::TwelveBits } else { Tolerance::Exact };
    let image = match mnemonic {
        M::Fxsave | M::Fxsave64 => 6..24,
        M::Fnstenv | M::Fnsave if matches!(instruction.memory_size().size(), 14 | 94) => 6..14,
        M::Fnstenv | M::Fnsave => 12..28,
        _ => 0..0,
    };
    let begin = start.regs[6];
    let mut memory = Vec::new();
    memory.push(begin.wrapping_add(image.start)..begin.wrapping_add(image.end));
    if stop.vector == vector::PF && matches!(mnemonic, M::Fbstp | M::Fstp) && instruction.memory_size().size() == 10 {
        memory.push(begin..begin.wrapping_add(10));
    }
    // After an approximation it says how that was rounded.
    let c1 = x87 == Tolerance::Exact;
    // Of what was not carried out nothing is undefined.
    let done = matches!(stop.vector, vector::DB | vector::BP | vector::OF);
    let undefined = if done { undefined_flags(instruction, start) } else { 0 };
    Masks { flags: crate::compare::FLAGS & !undefined, x87, sse, memory, c1 }
}

/// What is compared where a program stops, undefined flags not yet left out.
pub fn all() -> Masks {
    Masks { flags: crate::compare::FLAGS, x87: Tolerance::Exact, sse: Tolerance::Exact, memory: Vec::new(), c1: true }
}

/// The mask of a register in a mode: code of 32 bits has no upper halves.
pub fn register_mask(bits: Bits) -> u64 {
    if bits == Bits::B32 { 0xffff_ffff } else { u64::MAX }
}
