//! Any state, any tables: whatever comes of it, the processor goes on or stops.

use super::{Bench, CODE, GDT, IDT, TSS};
use crate::cpu::Effect;
use crate::run::Exit;

/// A number after the other (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 8) % end
    }
}

/// System instructions, up to where their operands begin.
const OPCODES: [&[u8]; 41] = [
    &[0xcd],
    &[0xcc],
    &[0xce],
    &[0xf1],
    &[0xcf],
    &[0x48, 0xcf],
    &[0x66, 0xcf],
    &[0xcb],
    &[0xca],
    &[0x48, 0xcb],
    &[0xea],
    &[0x9a],
    &[0x66, 0xea],
    &[0xff, 0x18],
    &[0xff, 0x28],
    &[0x48, 0xff, 0x18],
    &[0x8e],
    &[0x8c],
    &[0xc4],
    &[0x0f, 0xb2],
    &[0x0f, 0x05],
    &[0x48, 0x0f, 0x07],
    &[0x0f, 0x34],
    &[0x0f, 0x35],
    &[0x0f, 0x22],
    &[0x0f, 0x20],
    &[0x0f, 0x23],
    &[0x0f, 0x21],
    &[0x0f, 0x01],
    &[0x0f, 0x00],
    &[0x0f, 0x02],
    &[0x0f, 0x03],
    &[0x0f, 0x30],
    &[0x0f, 0x32],
    &[0x9d],
    &[0x66, 0x9d],
    &[0x9c],
    &[0xfb],
    &[0xf3, 0x6c],
    &[0xf3, 0x6f],
    &[0xec],
];

/// A descriptor that may well be one.
fn descriptor(numbers: &mut Numbers) -> u64 {
    let kind = numbers.below(0x100) | 0x80;
    let offset = numbers.below(0x1_0000);
    let selector = numbers.below(0x80);
    let rest = numbers.next() & 0x00f0_0007_0000_0000;
    let wide = if numbers.below(2) == 0 { 0xffff } else { offset };
    let (base, flags) = if kind & 0x10 == 0 { (selector, rest & 0x7_0000_0000) } else { (0, rest) };
    wide | base << 16 | kind << 40 | flags
}

fn word(numbers: &mut Numbers) -> u64 {
    match numbers.below(8) {
        0 => numbers.next(),
        1 => numbers.next() & 0xffff_ffff,
        2 => 0xc000_0080 + numbers.below(4),
        3 => numbers.below(0x80),
        4 => u64::MAX - numbers.below(16),
        5 => numbers.next() & 0x2_7fff | 2,
        _ => numbers.below(0x1_0000),
    }
}

#[test]
fn nothing_makes_it_panic() {
    let mut numbers = Numbers(0x1234_5678_9abc_def1);
    for round in 0..1000 {
        let level = if numbers.below(2) == 0 { 0 } else { 3 };
        let mut bench = match numbers.below(3) {
            0 => Bench::real(&[]),
            1 => Bench::protected(level, &[]),
            _ => Bench::long(level, &[]),
        };
        for at in (GDT + 0x48..GDT + 0x100).chain(IDT..IDT + 0x400).step_by(8) {
            let value = descriptor(&mut numbers);
            bench.put_64(at, value);
        }
        for at in (TSS..TSS + 0x68).chain(0x6000..0xa000).step_by(4) {
            let value = word(&mut numbers) as u32;
            bench.put_32(at, value);
        }
        let mut at = CODE;
        for _ in 0..8 {
            let opcode = OPCODES[numbers.below(OPCODES.len() as u64) as usize];
            bench.put(at, opcode);
            at += opcode.len() as u64;
            for _ in 0..numbers.below(4) {
                let byte = numbers.next() as u8;
                bench.put(at, &[byte]);
                at += 1;
            }
        }
        for number in 0..16 {
            let value = word(&mut numbers);
            bench.cpu().regs[number] = value;
        }
        if numbers.below(2) == 0 {
            let cpu = bench.cpu();
            cpu.regs[4] = 0x8000 + numbers.below(0x100);
        }
        if numbers.below(2) == 0 {
            let (flags, dr7) = (numbers.next() & 0x3f_7dd5, numbers.next() & 0xffff_03ff);
            let cpu = bench.cpu();
            let flags = if cpu.is_v86() || cpu.is_long() || cpu.cpl == 0 { flags & !(1 << 17) } else { flags };
            cpu.flags.set(flags);
            cpu.dr[7] |= dr7;
            cpu.renew();
        }
        for _ in 0..12 {
            let begun = (bench.cpu().rip, bench.cpu().regs[4], bench.cpu().cpl);
            match bench.processor.step_one() {
                Some(Exit::Ask(request)) => {
                    assert_eq!((bench.cpu().rip, bench.cpu().regs[4], bench.cpu().cpl), begun, "round {round}");
                    let value = word(&mut numbers);
                    bench.processor.answer(request, value);
                }
                Some(Exit::Shutdown | Exit::Stuck(_)) => break,
                Some(Exit::Effects(effects)) if effects.contains(&Effect::Halt) => break,
                _ => {}
            }
        }
    }
}
