//! Every instruction form that user code may use, on our processor and on the host's, with random and extreme operands.
//! What must not be compared (flags that the manual leaves undefined) comes from one table, the decoder's.
#![cfg(all(target_arch = "x86_64", unix))]
#![expect(unsafe_code, reason = "instructions are carried out by the host")]
#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod guest;
mod native;

use std::collections::BTreeMap;

use guest::{DATA, DATA_LEN, Guest};
use iced_x86::{
    Code as Form, CpuidFeature as Feature, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory,
    Mnemonic as M, OpKind, Register,
};
use native::{Code, Context};

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A number of the kind that finds mistakes.
    fn value(&mut self) -> u64 {
        let bits = 8 << self.below(4);
        let top = 1u64 << (bits - 1);
        match self.below(8) {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => top,
            4 => top - 1,
            5 => self.below(64),
            6 => u64::MAX << self.below(64),
            _ => self.next(),
        }
    }

    fn float(&mut self) -> u32 {
        match self.below(10) {
            0 => 0,
            1 => 0x8000_0000,
            2 => 0x7f80_0000 | (self.below(2) as u32) << 31,
            3 => 0x7f80_0001 | self.next() as u32 & 0x807f_ffff,
            4 => 0x7fc0_0000 | self.next() as u32 & 0x803f_ffff,
            5 => self.next() as u32 & 0x807f_ffff,
            6 => (self.below(1000) as f32 - 500.0).to_bits(),
            _ => self.next() as u32,
        }
    }

    fn double(&mut self) -> u64 {
        match self.below(10) {
            0 => 0,
            1 => 1 << 63,
            2 => 0x7ff << 52 | self.below(2) << 63,
            3 => 0x7ff << 52 | 1 | self.next() & 0x8007_ffff_ffff_ffff,
            4 => 0xfff << 51 | self.next() & 0x8007_ffff_ffff_ffff,
            5 => self.next() & 0x800f_ffff_ffff_ffff,
            6 => (self.below(1000) as f64 - 500.0).to_bits(),
            7 => (self.next() as i32 as f64 / 3.0).to_bits(),
            _ => self.next(),
        }
    }

    fn vector(&mut self) -> u128 {
        match self.below(3) {
            0 => u128::from(self.value()) << 64 | u128::from(self.value()),
            1 => (0..4).fold(0, |value, _| value << 32 | u128::from(self.float())),
            _ => u128::from(self.double()) << 64 | u128::from(self.double()),
        }
    }

    fn extended(&mut self) -> [u8; 10] {
        let mantissa = match self.below(6) {
            0 => 1 << 63,
            1 => u64::MAX,
            2 => self.next(),
            3 => 0,
            4 => self.next() | 3 << 62,
            _ => self.next() | 1 << 63,
        };
        let exponent = match self.below(6) {
            0 => 0x7fff,
            1 => 0,
            2 => self.next() as u16 & 0x7fff,
            _ => 0x3fff + self.below(140) as u16 - 70,
        } | (self.below(2) as u16) << 15;
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&mantissa.to_le_bytes());
        bytes[8..].copy_from_slice(&exponent.to_le_bytes());
        bytes
    }
}

const FEATURES: &[Feature] = &[
    Feature::INTEL8086,
    Feature::INTEL186,
    Feature::INTEL286,
    Feature::INTEL386,
    Feature::INTEL486,
    Feature::X64,
    Feature::CMOV,
    Feature::CX8,
    Feature::CMPXCHG16B,
    Feature::POPCNT,
    Feature::MOVBE,
    Feature::FPU,
    Feature::FPU287,
    Feature::FPU387,
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
    Feature::CET_IBT,
    Feature::BMI1,
    Feature::LZCNT,
];

/// Whether it does nothing but compute.
fn is_computation(instruction: &Instruction) -> bool {
    let code = instruction.code();
    if instruction.flow_control() != FlowControl::Next
        || instruction.has_segment_prefix()
        || instruction.is_privileged()
        || !code.cpuid_features().iter().all(|feature| FEATURES.contains(feature))
    {
        return false;
    }
    if matches!(
        instruction.mnemonic(),
        M::Cpuid | M::In | M::Out | M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd | M::Cli | M::Sti
            | M::Lar | M::Lsl | M::Verr | M::Verw | M::Str | M::Sldt | M::Sgdt | M::Sidt | M::Smsw | M::Xlatb
            | M::Rdpmc | M::Fnstenv | M::Fldenv | M::Fnsave | M::Frstor | M::Fxsave | M::Fxrstor | M::Fxsave64
            | M::Fxrstor64 | M::Maskmovq | M::Maskmovdqu | M::Fstdw | M::Fstsg | M::Ldmxcsr | M::Lfs | M::Lgs | M::Lss
            // What the host has and ours does not.
            | M::Tzcnt | M::Lzcnt | M::Andn | M::Bextr
            // 0F 0D with a register: a NOP on some, undefined on others.
            | M::Reservednop
            // Comes later, or is listed: the control word may unmask what is pending.
            | M::Fldcw
    ) {
        return false;
    }
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let touches =
        |register: Register| info.used_registers().iter().any(|used| used.register().full_register() == register);
    let segments = (0..instruction.op_count()).any(|operand| {
        instruction.op_kind(operand) == OpKind::Register && instruction.op_register(operand).is_segment_register()
    });
    let memory_is_plain = (0..instruction.op_count()).all(|operand| match instruction.op_kind(operand) {
        OpKind::Memory => {
            instruction.memory_base() == Register::RSI
                && instruction.memory_index() == Register::None
                && instruction.memory_displacement64() == 0
        }
        OpKind::MemoryESDI | OpKind::MemorySegSI | OpKind::MemorySegESI | OpKind::MemoryESEDI => false,
        _ => true,
    });
    !touches(Register::RSP) && !segments && memory_is_plain
}

/// All forms, with the bytes of some encodings of each.
fn forms(random: &mut Random) -> BTreeMap<(u16, bool), Vec<Vec<u8>>> {
    let mut forms: BTreeMap<(u16, bool), Vec<Vec<u8>>> = BTreeMap::new();
    let maps: [&[u8]; 4] = [&[], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];
    let prefixes: [&[u8]; 9] =
        [&[], &[0x66], &[0xf3], &[0xf2], &[0xf0], &[0x66, 0xf3], &[0x66, 0xf2], &[0x66, 0xf0], &[0xf0, 0xf3]];
    for map in maps {
        for opcode in 0..=255u8 {
            for prefix in prefixes {
                for rex in [None, Some(0x40), Some(0x48), Some(0x44), Some(0x4d)] {
                    for modrm in 0..64u8 {
                        // [RSI], or a register.
                        let register = random.below(8) as u8;
                        let memory = modrm & 1 == 0;
                        let modrm = if memory { modrm << 2 & 0x38 | 6 } else { 0xc0 | modrm << 2 & 0x38 | register };
                        if memory && rex == Some(0x4d) {
                            continue;
                        }
                        let mut bytes = prefix.to_vec();
                        bytes.extend(rex);
                        bytes.extend_from_slice(map);
                        bytes.push(opcode);
                        bytes.push(modrm);
                        bytes.extend((0..8).map(|_| random.next() as u8));
                        let mut decoder = Decoder::new(64, &bytes, DecoderOptions::NONE);
                        let instruction = decoder.decode();
                        if instruction.is_invalid() || !is_computation(&instruction) {
                            continue;
                        }
                        bytes.truncate(instruction.len());
                        let has_memory = instruction.op_kinds().any(|kind| kind == OpKind::Memory);
                        let list = forms.entry((instruction.code() as u16, has_memory)).or_default();
                        if list.len() < 24 && !list.contains(&bytes) {
                            list.push(bytes);
                        }
                    }
                }
            }
        }
    }
    forms
}

fn context(random: &mut Random, data: u64, instruction: &Instruction) -> Context {
    let mut context = Context { fx: [0; 512], regs: [0; 16], flags: 2 };
    context.regs.iter_mut().for_each(|register| *register = random.value());
    let middle = data + DATA_LEN as u64 / 2;
    let aligned = random.below(2) == 0;
    let near = |random: &mut Random| middle + random.below(64) * if aligned { 16 } else { 1 };
    (context.regs[6], context.regs[7]) = (near(random), near(random));
    if instruction.has_rep_prefix() || instruction.has_repne_prefix() {
        context.regs[1] = random.below(40);
    }
    if matches!(instruction.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc) && instruction.op0_kind() == OpKind::Memory {
        // A register's bit may be far away.
        for (number, register) in context.regs.iter_mut().enumerate() {
            if number != 6 {
                let far = random.below(0x4000) as i64 - 0x2000;
                *register = *register & !0xffff_ffff | far as u32 as u64;
                if instruction.op1_register().size() == 8 {
                    *register = far as u64;
                }
            }
        }
    }
    context.flags = 2 | match random.below(4) {
        0 => 0,
        1 => 0x8d5,
        _ => random.next() & 0x8d5,
    };
    if random.below(4) == 0 {
        context.flags |= 0x400;
    }
    // FCW: all masked; precision and rounding vary. MXCSR likewise.
    let control = 0x3f | (random.below(4) as u16) << 10 | [0, 2, 3, 3][random.below(4) as usize] << 8 | 0x40;
    context.fx[0..2].copy_from_slice(&control.to_le_bytes());
    context.fx[2..4].copy_from_slice(&((random.below(8) as u16) << 11 | random.next() as u16 & 0x4700).to_le_bytes());
    context.fx[4] = if random.below(2) == 0 { 0xff } else { random.next() as u8 };
    let mxcsr = 0x1f80 | if random.below(2) == 0 { 0 } else { random.next() as u32 & 0xe040 };
    context.fx[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    context.fx[28..32].copy_from_slice(&0xffffu32.to_le_bytes());
    for number in 0..8 {
        context.fx[32 + number * 16..42 + number * 16].copy_from_slice(&random.extended());
    }
    for number in 0..16 {
        context.fx[160 + number * 16..176 + number * 16].copy_from_slice(&random.vector().to_le_bytes());
    }
    context
}

fn is_approximate(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::F2xm1
            | M::Fyl2x
            | M::Fyl2xp1
            | M::Fptan
            | M::Fpatan
            | M::Fsin
            | M::Fcos
            | M::Fsincos
            | M::Rcpps
            | M::Rcpss
            | M::Rsqrtps
            | M::Rsqrtss
    )
}

/// Whether the manual leaves the result open, or the operands are not for the host.
fn is_undefined(instruction: &Instruction, start: &Context) -> bool {
    let count = if instruction.op_count() == 3 && instruction.op2_kind() == OpKind::Immediate8 {
        u64::from(instruction.immediate8())
    } else {
        start.regs[1]
    };
    match instruction.mnemonic() {
        M::Shld | M::Shrd => instruction.op1_register().size() == 2 && count & 31 > 16,
        // The address would be the bit's number as well.
        M::Bt | M::Bts | M::Btr | M::Btc => {
            instruction.op0_kind() == OpKind::Memory && instruction.op1_register().full_register() == Register::RSI
        }
        _ => false,
    }
}

/// How two results differ.
fn difference(instruction: &Instruction, ours: &Context, theirs: &Context) -> Option<String> {
    for number in (0..16).filter(|number| *number != 4) {
        if ours.regs[number] != theirs.regs[number] {
            return Some(format!("register {number}: {:#x}, host {:#x}", ours.regs[number], theirs.regs[number]));
        }
    }
    let defined = 0xcd5 & !flags(instruction.rflags_undefined());
    if (ours.flags ^ theirs.flags) & defined != 0 {
        return Some(format!("flags {:#x}, host {:#x}, of {defined:#x}", ours.flags, theirs.flags));
    }
    if is_approximate(instruction.mnemonic()) {
        return None;
    }
    let parts: [(&str, std::ops::Range<usize>); 5] =
        [("FCW", 0..2), ("FSW", 2..4), ("FTW", 4..5), ("MXCSR", 24..28), ("ST", 32..160)];
    // C1 after FCOMI and its like: cleared by Intel's, left by AMD's.
    let mut theirs = theirs.clone();
    if matches!(instruction.mnemonic(), M::Fcomi | M::Fcomip | M::Fucomi | M::Fucomip) {
        theirs.fx[3] = theirs.fx[3] & !2 | ours.fx[3] & 2;
    }
    for (name, part) in parts.into_iter().chain([("XMM", 160..416)]) {
        if ours.fx[part.clone()] != theirs.fx[part.clone()] {
            let show = |fx: &[u8; 512]| {
                fx[part.clone()]
                    .chunks(16)
                    .map(|part| part.iter().rev().map(|byte| format!("{byte:02x}")).collect::<String>())
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            return Some(format!("{name}:\n  ours {}\n  host {}", show(&ours.fx), show(&theirs.fx)));
        }
    }
    None
}

/// The decoder's names of flags, as bits of RFLAGS.
fn flags(bits: u32) -> u64 {
    use iced_x86::RflagsBits as R;
    [(R::OF, 0x800), (R::SF, 0x80), (R::ZF, 0x40), (R::AF, 0x10), (R::CF, 1), (R::PF, 4), (R::DF, 0x400)]
        .into_iter()
        .filter(|(flag, _)| bits & flag != 0)
        .fold(0, |bits, (_, flag)| bits | flag)
}

/// A form as it is shown.
fn name(code: u16, memory: bool) -> String {
    let form = Form::values().nth(code.into()).unwrap();
    format!("{form:?}{}", if memory { " (memory)" } else { "" })
}

#[test]
fn every_form_computes_what_the_host_does() {
    let cases: u64 = std::env::var("BENCHTOP_CASES").map_or(100, |cases| cases.parse().unwrap());
    let shows = std::env::var_os("BENCHTOP_SHOW").is_some();
    let only = std::env::var("BENCHTOP_FORM").ok();
    let mut random = Random(0x1234_5678_9abc_def1);
    let forms = forms(&mut random);
    let code = Code::new();
    let mut guest = Guest::new();
    let data = guest.data();
    let (mut run, mut faults, mut wrong) = (0u64, 0u64, Vec::new());
    for ((form, memory), encodings) in &forms {
        let name = name(*form, *memory);
        if only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        for _ in 0..cases {
            let bytes = &encodings[random.below(encodings.len() as u64) as usize];
            let instruction = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
            let start = context(&mut random, data, &instruction);
            if is_undefined(&instruction, &start) {
                continue;
            }
            let before: Vec<u8> = (0..DATA_LEN / 16).flat_map(|_| random.vector().to_le_bytes()).collect();
            assert!(guest.region.write(DATA, &before));
            let mut ours = start.clone();
            let result = guest.run(bytes, &mut ours);
            if let Err(why) = result {
                // These fault, and the host would end the test: the operands are not for it.
                let may =
                    matches!(instruction.mnemonic(), M::Div | M::Idiv | M::Aam) || (*memory && start.regs[6] & 15 != 0);
                if may {
                    faults += 1;
                    continue;
                }
                wrong.push(format!("{name}: {bytes:02x?}: {why}"));
                break;
            }
            let mut after = vec![0; DATA_LEN];
            assert!(guest.region.read(DATA, &mut after));
            assert!(guest.region.write(DATA, &before));
            if shows {
                eprintln!("{name}: {bytes:02x?}");
            }
            let mut theirs = start.clone();
            code.run(bytes, &mut theirs);
            let mut host = vec![0; DATA_LEN];
            assert!(guest.region.read(DATA, &mut host));
            run += 1;
            let differs = difference(&instruction, &ours, &theirs).or_else(|| {
                let at = (0..DATA_LEN).find(|at| after[*at] != host[*at] && !is_approximate(instruction.mnemonic()))?;
                Some(format!("memory at {at:#x}: {:02x?}, host {:02x?}", &after[at..at + 16], &host[at..at + 16]))
            });
            if let Some(differs) = differs {
                let registers = [instruction.op0_register(), instruction.op1_register()];
                wrong.push(format!(
                    "{name}: {bytes:02x?}: {differs}\n  flags {:#x} regs {:x?} {registers:?}",
                    start.flags, start.regs
                ));
                break;
            }
        }
    }
    println!("{} forms, {run} cases compared, {faults} faulted, {} forms wrong", forms.len(), wrong.len());
    assert!(wrong.is_empty(), "{} of {} forms:\n{}", wrong.len(), forms.len(), wrong.join("\n"));
}
