//! Runs instructions of the host on given operands.

use std::arch::asm;

/// The registers an instruction may read and write.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct State {
    /// XMM1.
    pub(super) a: u128,
    /// XMM2.
    pub(super) b: u128,
    /// XMM0, which some instructions imply.
    pub(super) c: u128,
    /// MM1.
    pub(super) m: u64,
    /// MM2.
    pub(super) n: u64,
    pub(super) rax: u64,
    pub(super) rdx: u64,
    pub(super) rcx: u64,
    /// CF, PF, AF, ZF, SF and OF.
    pub(super) flags: u64,
    pub(super) mxcsr: u32,
    /// Whether the instruction raised #XM.
    pub(super) trapped: u32,
}

/// The machine code of an instruction, and with `imm` of its 256 forms by immediate, 16 bytes apart.
macro_rules! code {
    ($text:expr) => {{
        let address: usize;
        // SAFETY: jumps over the code, and takes its address.
        unsafe {
            std::arch::asm!("lea {p}, [rip + 22f]", "jmp 33f", "22:", $text, "ret", "33:", p = out(reg) address);
        }
        address
    }};
    (imm $text:expr) => {{
        let address: usize;
        // SAFETY: jumps over the code, and takes its address.
        unsafe {
            std::arch::asm!(
                "lea {p}, [rip + 22f]",
                "jmp 33f",
                ".p2align 4",
                "22:",
                ".set simd_immediate, 0",
                ".rept 256",
                ".p2align 4",
                concat!($text, ", simd_immediate"),
                "ret",
                ".set simd_immediate, simd_immediate + 1",
                ".endr",
                "33:",
                p = out(reg) address,
            );
        }
        address
    }};
}
pub(super) use code;

/// Calls the code with the registers of `state`.
pub(super) fn run(code: usize, state: &mut State) {
    let mut normal = 0x1f80u32;
    let trapped: u64;
    // SAFETY: `code` is from `code!`: an instruction on the registers below and a return. All of them are declared,
    // MXCSR and the x87 state are as before at the end.
    unsafe {
        asm!(
            "movdqu xmm1, [rdi]",
            "movdqu xmm2, [rdi + 16]",
            "movdqu xmm0, [rdi + 32]",
            "movq mm1, [rdi + 48]",
            "movq mm2, [rdi + 56]",
            "mov rax, [rdi + 64]",
            "mov rdx, [rdi + 72]",
            "mov rcx, [rdi + 80]",
            "stmxcsr [rsi]",
            "ldmxcsr [rdi + 96]",
            "push [rdi + 88]",
            "popfq",
            "call r8",
            "pushfq",
            "pop [rdi + 88]",
            "stmxcsr [rdi + 96]",
            "ldmxcsr [rsi]",
            "movdqu [rdi], xmm1",
            "movdqu [rdi + 16], xmm2",
            "movdqu [rdi + 32], xmm0",
            "movq [rdi + 48], mm1",
            "movq [rdi + 56], mm2",
            "mov [rdi + 64], rax",
            "mov [rdi + 72], rdx",
            "mov [rdi + 80], rcx",
            "emms",
            in("rdi") &raw mut *state,
            in("rsi") &raw mut normal,
            in("r8") code,
            inout("r9") 0u64 => trapped,
            out("rax") _, out("rcx") _, out("rdx") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _,
            out("mm1") _, out("mm2") _,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
        );
    }
    state.flags &= FLAGS;
    state.trapped = trapped as u32;
}

/// Lets #XM end the code of [`code!`] early, with R9 set. Without this, exceptions must stay masked.
#[cfg(target_os = "linux")]
fn catch_traps() -> bool {
    use std::sync::Once;

    /// What the kernel calls a `struct sigaction`.
    #[repr(C)]
    struct Action {
        handler: usize,
        flags: u64,
        restorer: usize,
        mask: u64,
    }

    extern "C" fn handler(_: i32, _: usize, context: *mut u64) {
        // The words of a `ucontext_t` where the kernel keeps registers.
        const R9: usize = 6;
        const RSP: usize = 20;
        const RIP: usize = 21;
        // SAFETY: the kernel passes the context, and the interrupted code is from `code!`, which was called and has
        // pushed nothing: the stack holds the address to return to.
        unsafe {
            let stack = *context.add(RSP) as *const u64;
            *context.add(RIP) = *stack;
            *context.add(RSP) += 8;
            *context.add(R9) = 1;
        }
    }

    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        const SIGFPE: u64 = 8;
        const SA_SIGINFO_RESTORER_NODEFER: u64 = 0x4400_0004;
        let restorer = code!("mov eax, 15\nsyscall");
        let handler: extern "C" fn(i32, usize, *mut u64) = handler;
        let action = Action { handler: handler as usize, flags: SA_SIGINFO_RESTORER_NODEFER, restorer, mask: 0 };
        let result: i64;
        // SAFETY: rt_sigaction, with a handler and a restorer that live as long as the program.
        unsafe {
            asm!(
                "syscall",
                inout("rax") 13i64 => result,
                in("rdi") SIGFPE,
                in("rsi") &raw const action,
                in("rdx") 0,
                in("r10") 8,
                out("rcx") _,
                out("r11") _,
            );
        }
        assert_eq!(result, 0, "rt_sigaction");
    });
    true
}

#[cfg(not(target_os = "linux"))]
fn catch_traps() -> bool {
    false
}

/// The arithmetic flags.
pub(super) const FLAGS: u64 = 0x8d5;

/// Random numbers: xorshift*.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(name: &str) -> Self {
        Self(
            name.bytes().fold(0x9e37_79b9_7f4a_7c15, |seed, b| (seed ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)) | 1,
        )
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }

    fn lanes(&mut self, values: &[u64], bits: u32) -> u128 {
        (0..128 / bits).fold(0, |all, i| {
            let v = values[self.below(values.len() as u64) as usize] & (u64::MAX >> (64 - bits));
            all | u128::from(v) << (i * bits)
        })
    }

    /// A vector of integers.
    pub(super) fn integers(&mut self) -> u128 {
        let random = u128::from(self.next()) << 64 | u128::from(self.next());
        match self.below(8) {
            0 => self.lanes(&[0, 1, 2, 0x7f, 0x80, 0x81, 0xfe, 0xff], 8),
            1 => self.lanes(&[0, 1, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0x8001, 0xff80, 0xffff], 16),
            2 => self.lanes(&[0, 1, 0x7fff, 0x8000, 0xffff, 0x1_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_8000, !0], 32),
            3 => self.lanes(&[0, 1, 1 << 31, 1 << 63, (1 << 63) - 1, u64::MAX], 64),
            // Few different bytes, for strings.
            4 => random & (u128::MAX / 255 * 3),
            // Shift counts.
            5 => random & (63 << 64 | 63),
            _ => random,
        }
    }

    /// A vector of singles or doubles.
    pub(super) fn floats(&mut self, double: bool) -> u128 {
        if double {
            u128::from(self.float(52, 11)) << 64 | u128::from(self.float(52, 11))
        } else {
            (0..4).fold(0, |all, i| all | u128::from(self.float(23, 8)) << (32 * i))
        }
    }

    fn float(&mut self, fraction_bits: u32, exponent_bits: u32) -> u64 {
        let exponents = (1u64 << exponent_bits) - 1;
        let bias = exponents / 2;
        let all = (1u64 << fraction_bits) - 1;
        let sign = self.below(2) << (fraction_bits + exponent_bits);
        let random = self.next() & all;
        let fraction = match self.below(8) {
            0 => 0,
            1 => all,
            2 => 1,
            // Few high bits: exact results and halfway cases.
            3 => random & (all << (fraction_bits - 4)) & all,
            4 => random & (all << (fraction_bits / 2)) & all,
            5 => all - (random & 15),
            6 => random & 15,
            _ => random,
        };
        let exponent = match self.below(16) {
            0 => 0,
            1 => exponents,
            2 => 1 + self.below(3),
            3 => exponents - 1 - self.below(3),
            4 => bias / 2 + self.below(5),
            5 => bias + bias / 2 + self.below(5),
            // Products and quotients about the least and the greatest number.
            6 => bias / 2 - self.below(30).min(bias / 2),
            7 => self.below(exponents + 1),
            8 => bias + 28 + self.below(8),
            9 => bias + 58 + self.below(10).min(bias - 58),
            10 => fraction_bits.into(),
            11 => bias + u64::from(fraction_bits) - 2 + self.below(4),
            12 | 13 => bias - 1 + self.below(4),
            _ => bias - 10 + self.below(40),
        };
        sign | exponent.min(exponents) << fraction_bits | fraction
    }
}

/// What operands are like.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Operands {
    Integers,
    Singles,
    Doubles,
}

fn operands(random: &mut Random, kind: Operands) -> State {
    let mut vector = || match kind {
        Operands::Integers => random.integers(),
        Operands::Singles => random.floats(false),
        Operands::Doubles => random.floats(true),
    };
    let (a, b) = (vector(), vector());
    let c = random.integers();
    let near = |random: &mut Random| match random.below(3) {
        0 => random.next(),
        1 => (random.below(40) as i64 - 20) as u64,
        _ => random.integers() as u64 >> random.below(64),
    };
    let (rax, rdx, rcx) = (near(random), near(random), near(random));
    let sticky = if random.below(2) == 0 { 0 } else { random.next() as u32 & 0x3f };
    let modes = if random.below(3) == 0 { 0 } else { random.next() as u32 & 0xe040 };
    let (m, n) =
        if random.below(2) == 0 { (a as u64, b as u64) } else { (random.integers() as u64, random.integers() as u64) };
    let masks = if random.below(8) == 0 && catch_traps() { random.next() as u32 & 0x1f80 } else { 0x1f80 };
    let (flags, mxcsr) = (random.next() & FLAGS, masks | sticky | modes);
    State { a, b, c, m, n, rax, rdx, rcx, flags, mxcsr, trapped: 0 }
}

/// Every NaN made the same one.
fn with_one_nan(value: u128, kind: Operands) -> u128 {
    let bits = if matches!(kind, Operands::Singles) { 32 } else { 64 };
    (0..128 / bits).fold(0, |all, lane| {
        let one = value >> (lane * bits);
        let (is_nan, quiet) = match bits {
            32 => (f32::from_bits(one as u32).is_nan(), u128::from(f32::NAN.to_bits())),
            _ => (f64::from_bits(one as u64).is_nan(), u128::from(f64::NAN.to_bits())),
        };
        let lane_mask = u128::MAX >> (128 - bits);
        all | (if is_nan { quiet } else { one & lane_mask }) << (lane * bits)
    })
}

/// Compares the instruction with the model for many operands. Returns what it did, if they differ anywhere.
pub(super) fn check(
    name: &str,
    code: usize,
    immediates: bool,
    kind: Operands,
    rounds: u32,
    model: impl Fn(&mut State, u8),
) -> Option<String> {
    let mut random = Random::new(name);
    for _ in 0..rounds {
        let before = operands(&mut random, kind);
        let imm = if immediates { random.next() as u8 } else { 0 };
        let (mut host, mut ours) = (before, before);
        run(code + usize::from(imm) * 16, &mut host);
        model(&mut ours, imm);
        if name.starts_with("dpp") {
            // Of several NaNs, processors do not agree which the sum is.
            host.a = with_one_nan(host.a, kind);
            ours.a = with_one_nan(ours.a, kind);
        }
        if host != ours {
            return Some(format!("{name} {imm:#x}\n  of   {before:x?}\n  host {host:x?}\n  ours {ours:x?}"));
        }
    }
    None
}

/// A table of instructions, each with a model of what it does to the [`State`].
macro_rules! against_host {
    ($kind:ident, $rounds:expr, $feature:tt: $($text:literal $(, $imm:tt)? => |$s:ident $(, $i:ident)?| $model:expr;)*) => {
        if std::arch::is_x86_feature_detected!($feature) {
            let mut failures = Vec::new();
            $(
                failures.extend($crate::simd::tests::harness::check(
                    $text,
                    $crate::simd::tests::harness::code!($($imm)? $text),
                    [$(stringify!($imm))?].contains(&"imm"),
                    $crate::simd::tests::harness::Operands::$kind,
                    $rounds,
                    |$s: &mut $crate::simd::tests::harness::State, imm: u8| {
                        let _ = imm;
                        $(let $i = imm;)?
                        $model;
                    },
                ));
            )*
            assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
        } else {
            $(println!("skipped, as the host lacks {}: {}", $feature, $text);)*
        }
    };
}
pub(super) use against_host;
