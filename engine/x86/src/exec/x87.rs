//! x87: operands in and out; what is computed is [`fpu`](crate::fpu)'s.

use iced_x86::{Code, CpuidFeature, Instruction, Mnemonic as M, OpKind};

use crate::attempt;
use crate::cpu::{Cpu, Trap, cr0, vector};
use crate::flags;
use crate::fpu::{Arithmetic, Constant, Environment, EnvironmentLayout, FpuOp, FpuStore, Operands, SavedState};
use crate::lower::{Mode, is_memory};
use crate::op::{Flow, Handler, Op, reg, seg};

impl Cpu {
    /// Whether an x87 instruction may be carried out.
    ///
    /// # Errors
    /// #NM.
    #[inline(always)]
    fn x87(&mut self) -> Result<(), Trap> {
        if self.cr0 & (cr0::EM | cr0::TS) != 0 { Err(self.raise(vector::NM)) } else { Ok(()) }
    }

    /// Whether one that waits may: what an earlier one left is reported first.
    ///
    /// # Errors
    /// #NM or #MF.
    #[inline(always)]
    fn waits(&mut self) -> Result<(), Trap> {
        self.x87()?;
        if self.fpu.pending() { Err(self.raise(vector::MF)) } else { Ok(()) }
    }

    /// Notes where the instruction and its operand are.
    #[inline(always)]
    fn record(&mut self, op: &Op, data: Option<u64>) {
        let begin = self.next_rip(op).wrapping_sub(op.len.into());
        let (code, segment) = (self.segs[usize::from(seg::CS)].selector, self.segs[usize::from(op.seg & 7)].selector);
        self.fpu.record(op.imm as u16, (code, begin), data.map(|offset| (segment, offset)));
    }

    fn integer_flags(&mut self, found: crate::fpu::IntegerFlags) {
        let bit = |is: bool, flag: u64| if is { flag } else { 0 };
        let value = bit(found.zero, flags::ZF) | bit(found.parity, flags::PF) | bit(found.carry, flags::CF);
        self.flags.set_arithmetic(value);
    }
}

/// An operand of up to 10 bytes.
fn load(cpu: &mut Cpu, op: &Op, bytes: usize) -> Result<u128, Trap> {
    let address = cpu.address(op);
    Ok(match bytes {
        0 => 0,
        2 => cpu.load::<u16>(op.seg, address)?.into(),
        4 => cpu.load::<u32>(op.seg, address)?.into(),
        8 => cpu.load::<u64>(op.seg, address)?.into(),
        _ => {
            let low = cpu.load::<u64>(op.seg, address)?;
            u128::from(cpu.load::<u16>(op.seg, address.wrapping_add(8))?) << 64 | u128::from(low)
        }
    })
}

/// Makes a handler for one operation.
macro_rules! operation {
    ($op:expr) => {{
        fn handler(cpu: &mut Cpu, op: &Op) -> Flow {
            const OP: FpuOp = $op;
            if OP.is_waiting() {
                attempt!(cpu.waits());
            } else {
                attempt!(cpu.x87());
            }
            let memory = attempt!(load(cpu, op, OP.operand_bytes()));
            if OP.is_recorded() {
                let data = (OP.operand_bytes() > 0).then(|| cpu.address(op));
                cpu.record(op, data);
            }
            if let Some(found) = cpu.fpu.execute(OP, usize::from(op.extra & 7), memory) {
                cpu.integer_flags(found);
            }
            Flow::Next
        }
        handler as Handler
    }};
}

macro_rules! storing {
    ($store:expr) => {{
        fn handler(cpu: &mut Cpu, op: &Op) -> Flow {
            const STORE: FpuStore = $store;
            attempt!(cpu.waits());
            let address = cpu.address(op);
            let pending = cpu.fpu.store(STORE);
            match pending.length_bytes {
                0 => {}
                2 => attempt!(cpu.store::<u16>(op.seg, address, pending.bits as u64)),
                4 => attempt!(cpu.store::<u32>(op.seg, address, pending.bits as u64)),
                8 => attempt!(cpu.store::<u64>(op.seg, address, pending.bits as u64)),
                _ => {
                    // Both or none; the first is the one that a fault tells of.
                    let behind = address.wrapping_add(8);
                    attempt!(cpu.load_to_write::<u64>(op.seg, address));
                    attempt!(cpu.load_to_write::<u16>(op.seg, behind));
                    attempt!(cpu.store::<u64>(op.seg, address, pending.bits as u64));
                    attempt!(cpu.store::<u16>(op.seg, behind, (pending.bits >> 64) as u64));
                }
            }
            cpu.record(op, Some(address));
            cpu.fpu.commit(pending);
            cpu.stored()
        }
        handler as Handler
    }};
}

macro_rules! arithmetic {
    ($which:ident, $operands:expr) => {
        match $operands {
            Operands::St0Sti => operation!(FpuOp::Arithmetic(Arithmetic::$which, Operands::St0Sti)),
            Operands::StiSt0 => operation!(FpuOp::Arithmetic(Arithmetic::$which, Operands::StiSt0)),
            Operands::StiSt0Pop => operation!(FpuOp::Arithmetic(Arithmetic::$which, Operands::StiSt0Pop)),
            Operands::M32 => operation!(FpuOp::Arithmetic(Arithmetic::$which, Operands::M32)),
            Operands::M64 => operation!(FpuOp::Arithmetic(Arithmetic::$which, Operands::M64)),
            Operands::I16 => operation!(FpuOp::Arithmetic(Arithmetic::$which, Operands::I16)),
            Operands::I32 => operation!(FpuOp::Arithmetic(Arithmetic::$which, Operands::I32)),
        }
    };
}

/// FCMOVcc. The condition is in `dst`, as of Jcc.
fn conditional(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.waits());
    cpu.record(op, None);
    let holds = cpu.flags.holds(op.dst);
    cpu.fpu.conditional_move(holds, usize::from(op.extra & 7));
    Flow::Next
}

fn wait(cpu: &mut Cpu, _op: &Op) -> Flow {
    // FWAIT looks at TS only with MP (Intel SDM volume 3, 2.5).
    if cpu.cr0 & (cr0::MP | cr0::TS) == cr0::MP | cr0::TS {
        cpu.raise(vector::NM);
        return Flow::Trap;
    }
    if cpu.fpu.pending() {
        cpu.raise(vector::MF);
        return Flow::Trap;
    }
    Flow::Next
}

fn fnstcw(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.x87());
    let value = cpu.fpu.control_word().into();
    attempt!(cpu.store::<u16>(op.seg, cpu.address(op), value));
    cpu.stored()
}

fn fnstsw(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.x87());
    let value = cpu.fpu.status_word().into();
    attempt!(cpu.store::<u16>(op.seg, cpu.address(op), value));
    cpu.stored()
}

fn fnstsw_ax(cpu: &mut Cpu, _op: &Op) -> Flow {
    attempt!(cpu.x87());
    let value = cpu.fpu.status_word().into();
    cpu.set::<u16>(reg::AX, value);
    Flow::Next
}

/// Those that the 287 and the 8087 had and no later one minds.
fn nothing(cpu: &mut Cpu, _op: &Op) -> Flow {
    attempt!(cpu.x87());
    Flow::Next
}

fn layout(cpu: &Cpu, wide: bool) -> EnvironmentLayout {
    match (cpu.is_protected(), wide) {
        (false, false) => EnvironmentLayout::Real16,
        (true, false) => EnvironmentLayout::Protected16,
        (false, true) => EnvironmentLayout::Real32,
        (true, true) => EnvironmentLayout::Protected32,
    }
}

/// Stores bytes, all or nothing as far as pages go: both ends are looked at before.
fn put(cpu: &mut Cpu, op: &Op, alignment: usize, bytes: &[u8]) -> Result<(), Trap> {
    let address = cpu.address(op);
    cpu.check_alignment(op.seg, address, alignment)?;
    // In the order in which Intel's processors meet with faults: the first part, the last byte.
    if alignment == 4 {
        cpu.load_to_write::<u32>(op.seg, address)?;
    } else {
        cpu.load_to_write::<u16>(op.seg, address)?;
    }
    cpu.load_to_write::<u8>(op.seg, address.wrapping_add(bytes.len() as u64 - 1))?;
    for (pair, at) in bytes.as_chunks::<2>().0.iter().zip((0u64..).step_by(2)) {
        cpu.store::<u16>(op.seg, address.wrapping_add(at), u16::from_le_bytes(*pair).into())?;
    }
    Ok(())
}

fn take(cpu: &mut Cpu, op: &Op, alignment: usize, bytes: &mut [u8]) -> Result<(), Trap> {
    let address = cpu.address(op);
    cpu.check_alignment(op.seg, address, alignment)?;
    // In the order in which Intel's processors meet with faults: the first part, the last byte.
    if alignment == 4 {
        cpu.load::<u32>(op.seg, address)?
    } else {
        cpu.load::<u16>(op.seg, address)?
    };
    cpu.load::<u8>(op.seg, address.wrapping_add(bytes.len() as u64 - 1))?;
    for (pair, at) in bytes.as_chunks_mut::<2>().0.iter_mut().zip((0u64..).step_by(2)) {
        *pair = (cpu.load::<u16>(op.seg, address.wrapping_add(at))? as u16).to_le_bytes();
    }
    Ok(())
}

/// Bytes that environments and states are aligned to, where that is checked (Intel SDM volume 3, table 6-7).
fn alignment(wide: bool) -> usize {
    if wide { 4 } else { 2 }
}

fn fnstenv<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.x87());
    let layout = layout(cpu, WIDE);
    let environment = cpu.fpu.environment(layout);
    attempt!(put(cpu, op, alignment(WIDE), &environment[..layout.environment_bytes()]));
    cpu.fpu.commit_environment();
    cpu.stored()
}

fn fldenv<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.waits());
    let layout = layout(cpu, WIDE);
    let mut environment: Environment = [0; 28];
    attempt!(take(cpu, op, alignment(WIDE), &mut environment[..layout.environment_bytes()]));
    cpu.fpu.set_environment(layout, &environment);
    Flow::Next
}

fn fnsave<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.x87());
    let layout = layout(cpu, WIDE);
    let state = cpu.fpu.saved_state(layout);
    attempt!(put(cpu, op, alignment(WIDE), &state[..layout.environment_bytes() + 80]));
    cpu.fpu.commit_save();
    cpu.stored()
}

fn frstor<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    attempt!(cpu.waits());
    let layout = layout(cpu, WIDE);
    let mut state: SavedState = [0; 108];
    attempt!(take(cpu, op, alignment(WIDE), &mut state[..layout.environment_bytes() + 80]));
    cpu.fpu.set_saved_state(layout, &state);
    Flow::Next
}

/// Which operands an arithmetic instruction has.
fn operands(i: &Instruction, pops: bool, integer: bool) -> Operands {
    if is_memory(i, 0) {
        return match (integer, i.memory_size().size()) {
            (true, 2) => Operands::I16,
            (true, _) => Operands::I32,
            (false, 4) => Operands::M32,
            (false, _) => Operands::M64,
        };
    }
    match (pops, i.op_register(0) == iced_x86::Register::ST0 && is_st0_first(i)) {
        (true, _) => Operands::StiSt0Pop,
        (_, true) => Operands::St0Sti,
        _ => Operands::StiSt0,
    }
}

/// Whether it is of opcode D8: with ST(0) twice the operands do not tell.
fn is_st0_first(i: &Instruction) -> bool {
    matches!(
        i.code(),
        Code::Fadd_st0_sti
            | Code::Fmul_st0_sti
            | Code::Fsub_st0_sti
            | Code::Fsubr_st0_sti
            | Code::Fdiv_st0_sti
            | Code::Fdivr_st0_sti
    )
}

/// The register of the stack that is not ST(0), or that.
fn sti(i: &Instruction) -> u8 {
    let of = |operand: u32| {
        let is = operand < i.op_count() && i.op_kind(operand) == OpKind::Register && i.op_register(operand).is_st();
        if is { i.op_register(operand).number() as u8 } else { 0 }
    };
    of(0).max(of(1))
}

/// Whether a feature is a floating-point unit. FISTTP came with SSE3, FCMOVcc with CMOVcc; both name their unit, too.
fn is_x87(feature: CpuidFeature) -> bool {
    matches!(feature, CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU287XL_ONLY | CpuidFeature::FPU387)
}

/// The handler, if it is one of these.
pub fn lower(i: &Instruction, op: &mut Op, _mode: Mode) -> Option<Handler> {
    // WAIT is as old as the processor itself.
    let is_x87 = i.mnemonic() == M::Wait || i.code().cpuid_features().iter().any(|feature| is_x87(*feature));
    if !is_x87 {
        return None;
    }
    op.extra = sti(i);
    let memory = is_memory(i, 0);
    let bytes = if memory { i.memory_size().size() } else { 0 };
    macro_rules! by_size {
        ($($size:literal => $handler:expr),* $(,)?) => {
            match bytes { $($size => $handler,)* _ => return None }
        };
    }
    Some(match i.mnemonic() {
        M::Fadd => arithmetic!(Add, operands(i, false, false)),
        M::Faddp => arithmetic!(Add, operands(i, true, false)),
        M::Fiadd => arithmetic!(Add, operands(i, false, true)),
        M::Fmul => arithmetic!(Mul, operands(i, false, false)),
        M::Fmulp => arithmetic!(Mul, operands(i, true, false)),
        M::Fimul => arithmetic!(Mul, operands(i, false, true)),
        M::Fsub => arithmetic!(Sub, operands(i, false, false)),
        M::Fsubp => arithmetic!(Sub, operands(i, true, false)),
        M::Fisub => arithmetic!(Sub, operands(i, false, true)),
        M::Fsubr => arithmetic!(Subr, operands(i, false, false)),
        M::Fsubrp => arithmetic!(Subr, operands(i, true, false)),
        M::Fisubr => arithmetic!(Subr, operands(i, false, true)),
        M::Fdiv => arithmetic!(Div, operands(i, false, false)),
        M::Fdivp => arithmetic!(Div, operands(i, true, false)),
        M::Fidiv => arithmetic!(Div, operands(i, false, true)),
        M::Fdivr => arithmetic!(Divr, operands(i, false, false)),
        M::Fdivrp => arithmetic!(Divr, operands(i, true, false)),
        M::Fidivr => arithmetic!(Divr, operands(i, false, true)),
        M::Fcom if memory => by_size!(4 => operation!(FpuOp::FcomM32), 8 => operation!(FpuOp::FcomM64)),
        M::Fcom => operation!(FpuOp::FcomSti),
        M::Fcomp if memory => by_size!(4 => operation!(FpuOp::FcompM32), 8 => operation!(FpuOp::FcompM64)),
        M::Fcomp => operation!(FpuOp::FcompSti),
        M::Ficom => by_size!(2 => operation!(FpuOp::FicomM16), 4 => operation!(FpuOp::FicomM32)),
        M::Ficomp => by_size!(2 => operation!(FpuOp::FicompM16), 4 => operation!(FpuOp::FicompM32)),
        M::Fcompp => operation!(FpuOp::Fcompp),
        M::Fucom => operation!(FpuOp::FucomSti),
        M::Fucomp => operation!(FpuOp::FucompSti),
        M::Fucompp => operation!(FpuOp::Fucompp),
        M::Fcomi => operation!(FpuOp::Fcomi),
        M::Fcomip => operation!(FpuOp::Fcomip),
        M::Fucomi => operation!(FpuOp::Fucomi),
        M::Fucomip => operation!(FpuOp::Fucomip),
        M::Ftst => operation!(FpuOp::Ftst),
        M::Fxam => operation!(FpuOp::Fxam),
        M::Fld if i.op_kind(i.op_count() - 1) == OpKind::Memory => by_size!(
            4 => operation!(FpuOp::FldM32), 8 => operation!(FpuOp::FldM64), 10 => operation!(FpuOp::FldM80)
        ),
        M::Fld => operation!(FpuOp::FldSti),
        M::Fild => by_size!(
            2 => operation!(FpuOp::FildM16), 4 => operation!(FpuOp::FildM32), 8 => operation!(FpuOp::FildM64)
        ),
        M::Fbld => operation!(FpuOp::Fbld),
        M::Fld1 => operation!(FpuOp::FldConstant(Constant::One)),
        M::Fldl2t => operation!(FpuOp::FldConstant(Constant::Log2Of10)),
        M::Fldl2e => operation!(FpuOp::FldConstant(Constant::Log2OfE)),
        M::Fldpi => operation!(FpuOp::FldConstant(Constant::Pi)),
        M::Fldlg2 => operation!(FpuOp::FldConstant(Constant::Log10Of2)),
        M::Fldln2 => operation!(FpuOp::FldConstant(Constant::LnOf2)),
        M::Fldz => operation!(FpuOp::FldConstant(Constant::Zero)),
        M::Fst if memory => by_size!(4 => storing!(FpuStore::FstM32), 8 => storing!(FpuStore::FstM64)),
        M::Fst => operation!(FpuOp::FstSti),
        M::Fstp if memory => by_size!(
            4 => storing!(FpuStore::FstpM32), 8 => storing!(FpuStore::FstpM64), 10 => storing!(FpuStore::FstpM80)
        ),
        M::Fstp => operation!(FpuOp::FstpSti),
        M::Fstpnce => operation!(FpuOp::FstpnceSti),
        M::Fist => by_size!(2 => storing!(FpuStore::FistM16), 4 => storing!(FpuStore::FistM32)),
        M::Fistp => by_size!(
            2 => storing!(FpuStore::FistpM16), 4 => storing!(FpuStore::FistpM32), 8 => storing!(FpuStore::FistpM64)
        ),
        M::Fisttp => by_size!(
            2 => storing!(FpuStore::FisttpM16), 4 => storing!(FpuStore::FisttpM32), 8 => storing!(FpuStore::FisttpM64)
        ),
        M::Fbstp => storing!(FpuStore::Fbstp),
        M::Fxch => operation!(FpuOp::Fxch),
        M::Ffree => operation!(FpuOp::Ffree),
        M::Ffreep => operation!(FpuOp::Ffreep),
        M::Fincstp => operation!(FpuOp::Fincstp),
        M::Fdecstp => operation!(FpuOp::Fdecstp),
        M::Fnop => operation!(FpuOp::Fnop),
        M::Fchs => operation!(FpuOp::Fchs),
        M::Fabs => operation!(FpuOp::Fabs),
        M::Fsqrt => operation!(FpuOp::Fsqrt),
        M::Frndint => operation!(FpuOp::Frndint),
        M::Fscale => operation!(FpuOp::Fscale),
        M::Fxtract => operation!(FpuOp::Fxtract),
        M::Fprem => operation!(FpuOp::Fprem),
        M::Fprem1 => operation!(FpuOp::Fprem1),
        M::F2xm1 => operation!(FpuOp::F2xm1),
        M::Fyl2x => operation!(FpuOp::Fyl2x),
        M::Fyl2xp1 => operation!(FpuOp::Fyl2xp1),
        M::Fptan => operation!(FpuOp::Fptan),
        M::Fpatan => operation!(FpuOp::Fpatan),
        M::Fsin => operation!(FpuOp::Fsin),
        M::Fcos => operation!(FpuOp::Fcos),
        M::Fsincos => operation!(FpuOp::Fsincos),
        M::Fninit => operation!(FpuOp::Fninit),
        M::Fnclex => operation!(FpuOp::Fnclex),
        M::Fldcw => operation!(FpuOp::Fldcw),
        M::Fcmovb | M::Fcmove | M::Fcmovbe | M::Fcmovu | M::Fcmovnb | M::Fcmovne | M::Fcmovnbe | M::Fcmovnu => {
            op.dst = match i.mnemonic() {
                M::Fcmovb => 2,
                M::Fcmove => 4,
                M::Fcmovbe => 6,
                M::Fcmovu => 10,
                M::Fcmovnb => 3,
                M::Fcmovne => 5,
                M::Fcmovnbe => 7,
                _ => 11,
            };
            conditional
        }
        M::Wait => wait,
        M::Fnstcw => fnstcw,
        M::Fnstsw if memory => fnstsw,
        M::Fnstsw => fnstsw_ax,
        M::Fneni | M::Fndisi | M::Fnsetpm | M::Frstpm => nothing,
        M::Fnstenv if i.code() == Code::Fnstenv_m14byte => fnstenv::<false>,
        M::Fnstenv => fnstenv::<true>,
        M::Fldenv if i.code() == Code::Fldenv_m14byte => fldenv::<false>,
        M::Fldenv => fldenv::<true>,
        M::Fnsave if i.code() == Code::Fnsave_m94byte => fnsave::<false>,
        M::Fnsave => fnsave::<true>,
        M::Frstor if i.code() == Code::Frstor_m94byte => frstor::<false>,
        M::Frstor => frstor::<true>,
        _ => return None,
    })
}
