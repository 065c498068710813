//! System instructions that are nobody else's: identification, time, bases of FS and GS, XCR0, HLT.

use crate::attempt;
use crate::cpu::{Cpu, Effect, Trap, cr4, vector};
use crate::op::{Flow, Int, Op, reg, seg};

/// XCR0: x87, and SSE.
const XCR0: (u64, u64) = (1, 2);
/// CPUID leaf 1, ECX: CR4.OSXSAVE.
const OSXSAVE: u32 = 1 << 27;

/// HLT.
pub fn hlt(cpu: &mut Cpu, _op: &Op) -> Flow {
    attempt!(cpu.supervisor());
    cpu.effect(Effect::Halt);
    Flow::Leave
}

/// CPUID. One of its bits follows CR4 (Intel SDM volume 2, CPUID).
pub fn cpuid(cpu: &mut Cpu, _op: &Op) -> Flow {
    let (leaf, subleaf) = (cpu.get::<u32>(reg::AX) as u32, cpu.get::<u32>(reg::CX) as u32);
    let [ax, bx, mut cx, dx] = cpu.cpuid.lookup(leaf, subleaf);
    if leaf == 1 {
        cx = cx & !OSXSAVE | if cpu.cr4 & cr4::OSXSAVE != 0 { OSXSAVE } else { 0 };
    }
    for (number, value) in [(reg::AX, ax), (reg::BX, bx), (reg::CX, cx), (reg::DX, dx)] {
        cpu.set::<u32>(number, value.into());
    }
    Flow::Next
}

/// EDX:EAX.
fn set_pair(cpu: &mut Cpu, value: u64) {
    cpu.set::<u32>(reg::AX, value);
    cpu.set::<u32>(reg::DX, value >> 32);
}

fn may_tell_time(cpu: &mut Cpu) -> Result<(), Trap> {
    if cpu.cr4 & cr4::TSD != 0 && cpu.cpl > 0 { Err(cpu.gp()) } else { Ok(()) }
}

/// RDTSC.
pub fn rdtsc(cpu: &mut Cpu, _op: &Op) -> Flow {
    attempt!(may_tell_time(cpu));
    let ticks = cpu.clock.ticks();
    set_pair(cpu, ticks);
    Flow::Next
}

/// RDTSCP.
pub fn rdtscp(cpu: &mut Cpu, _op: &Op) -> Flow {
    if !cpu.has(0x8000_0001, 3, 27) {
        cpu.raise(vector::UD);
        return Flow::Trap;
    }
    attempt!(may_tell_time(cpu));
    let ticks = cpu.clock.ticks();
    set_pair(cpu, ticks);
    cpu.set::<u32>(reg::CX, cpu.msrs.tsc_aux);
    Flow::Next
}

/// RDPMC: there are no counters.
pub fn rdpmc(cpu: &mut Cpu, _op: &Op) -> Flow {
    cpu.gp();
    Flow::Trap
}

/// XGETBV.
pub fn xgetbv(cpu: &mut Cpu, _op: &Op) -> Flow {
    attempt!(has_xcr(cpu));
    if cpu.get::<u32>(reg::CX) != 0 {
        cpu.gp();
        return Flow::Trap;
    }
    set_pair(cpu, cpu.xcr0);
    Flow::Next
}

/// XSETBV.
pub fn xsetbv(cpu: &mut Cpu, _op: &Op) -> Flow {
    attempt!(has_xcr(cpu));
    attempt!(cpu.supervisor());
    let value = cpu.get::<u32>(reg::DX) << 32 | cpu.get::<u32>(reg::AX);
    let (x87, sse) = XCR0;
    if cpu.get::<u32>(reg::CX) != 0 || value & x87 == 0 || value & !(x87 | sse) != 0 {
        cpu.gp();
        return Flow::Trap;
    }
    cpu.xcr0 = value;
    Flow::Leave
}

fn has_xcr(cpu: &mut Cpu) -> Result<(), Trap> {
    if cpu.cr4 & cr4::OSXSAVE != 0 { Ok(()) } else { Err(cpu.raise(vector::UD)) }
}

/// SWAPGS.
pub fn swapgs(cpu: &mut Cpu, _op: &Op) -> Flow {
    if !cpu.is_64() {
        cpu.raise(vector::UD);
        return Flow::Trap;
    }
    attempt!(cpu.supervisor());
    let (base, kernel) = (cpu.segs[usize::from(seg::GS)].base, cpu.msrs.kernel_gs_base);
    cpu.msrs.kernel_gs_base = base;
    cpu.set_base(seg::GS, kernel);
    Flow::Leave
}

fn has_bases(cpu: &mut Cpu) -> Result<(), Trap> {
    if cpu.is_64() && cpu.cr4 & cr4::FSGSBASE != 0 { Ok(()) } else { Err(cpu.raise(vector::UD)) }
}

/// RDFSBASE and RDGSBASE: `extra` is the segment register.
pub fn read_base<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(has_bases(cpu));
    let base = cpu.segs[usize::from(op.extra & 7)].base;
    cpu.set::<T>(op.dst, base);
    Flow::Next
}

/// WRFSBASE and WRGSBASE.
pub fn write_base<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(has_bases(cpu));
    let base = cpu.get::<T>(op.dst);
    if !cpu.is_canonical(base) {
        cpu.gp();
        return Flow::Trap;
    }
    cpu.set_base(op.extra, base);
    Flow::Next
}
