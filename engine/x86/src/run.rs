//! Carrying code out, block by block, and what comes out of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::blocks::{Block, Blocks};
use crate::cpu::{Cause, Cpu, Effect, Exception, Request, Trap, vector};
use crate::flags;
use crate::lower::Mode;
use crate::memory::{HostPage, PAGE};
use crate::mmu::{Access, Who};
use crate::op::{Flow, Op, START, seg};
use crate::system::{Event, Shutdown};

/// Why a processor came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It needs something; see [`Processor::answer`].
    Ask(Request),
    /// It leaves something to do, in order.
    Effects(Vec<Effect>),
    /// Somebody wants its attention.
    Attention,
    /// It has done as many instructions as it was to.
    Budget,
    /// A triple fault.
    Shutdown,
    /// It can not go on.
    Stuck(&'static str),
}

/// A processor with its decoded code.
pub struct Processor {
    /// Its state.
    pub cpu: Cpu,
    /// It comes out as soon as it would take an interrupt.
    pub window: bool,
    blocks: Blocks,
    attention: Arc<AtomicBool>,
}

/// DR6: single step.
const DR6_BS: u64 = 1 << 14;

impl Processor {
    /// With the state of `cpu`. It comes out when `attention` is set.
    pub fn new(cpu: Cpu, attention: Arc<AtomicBool>) -> Self {
        Self { cpu, window: false, blocks: Blocks::default(), attention }
    }

    /// Answers what was asked, with the value in the low bytes.
    pub fn answer(&mut self, request: Request, value: u64) {
        self.cpu.answers.given.push((request, value));
    }

    /// Whether an interrupt would be taken now.
    pub fn takes_interrupts(&self) -> bool {
        self.cpu.flags.rest & flags::IF != 0 && !self.is_shadowed() && self.is_between()
    }

    /// Whether the last instruction holds interrupts off.
    pub fn is_shadowed(&self) -> bool {
        self.cpu.shadow_sti || self.cpu.shadow_ss
    }

    /// Whether no instruction is begun and waits for an answer.
    pub fn is_between(&self) -> bool {
        self.cpu.answers.given.is_empty()
    }

    /// Takes an interrupt, an NMI or an exception.
    ///
    /// # Errors
    /// A triple fault.
    pub fn take(&mut self, event: Event) -> Result<(), Shutdown> {
        self.cpu.shadow_sti = false;
        self.cpu.shadow_ss = false;
        self.cpu.deliver(event)
    }

    /// Runs `budget` instructions or some more, unless something else comes up.
    pub fn run(&mut self, budget: u64) -> Exit {
        let until = self.cpu.instructions.wrapping_add(budget);
        loop {
            let held = self.is_shadowed() || !self.is_between();
            if !held {
                if self.attention.load(Ordering::Relaxed) || (self.window && self.takes_interrupts()) {
                    return Exit::Attention;
                }
                if self.cpu.instructions.wrapping_sub(until) as i64 >= 0 {
                    return Exit::Budget;
                }
            }
            let watched = self.cpu.flags.rest & (flags::TF | flags::RF) != 0 || self.cpu.dr[7] & 0xff != 0;
            let exit = if held || watched { self.step(true, watched) } else { self.quick(until) };
            if let Some(exit) = exit {
                return exit;
            }
        }
    }

    /// Carries out one instruction, come what may.
    pub fn step_one(&mut self) -> Option<Exit> {
        let watched = self.cpu.flags.rest & (flags::TF | flags::RF) != 0 || self.cpu.dr[7] & 0xff != 0;
        self.step(true, watched)
    }

    /// Carries out blocks as long as nothing has to be looked at but where they are: the same as [`step`](Self::step),
    /// sooner. What makes a closer look necessary is a flag, or comes with [`Flow::Leave`], or with `leave`.
    #[inline(always)]
    fn quick(&mut self, until: u64) -> Option<Exit> {
        let flags = self.cpu.flags.rest;
        loop {
            let Self { cpu, blocks, .. } = self;
            let code = &cpu.segs[usize::from(seg::CS)];
            let linear = code.start.wrapping_add(cpu.rip) & cpu.linear_mask;
            let mode = Mode { bits: cpu.code_bits(), single: false };
            let Some(page) = cpu.memory.code_page(linear) else { return self.step(false, false) };
            let Some((ops, len)) = blocks.quick(linear, page, mode) else { return self.step(false, false) };
            if mode.bits != 64 && cpu.rip.wrapping_add(u64::from(len) - 1) > u64::from(code.limit) {
                return self.step(false, false);
            }
            cpu.memory.executes(page);
            cpu.answers.used = 0;
            cpu.regs[usize::from(START)] = cpu.rip;
            let (op, flow) = carry_out(cpu, ops)?;
            // What is before it in the block is done, too.
            let done = 1 + (op as *const Op as usize - ops.as_ptr() as usize) / size_of::<Op>();
            cpu.instructions = cpu.instructions.wrapping_add(done as u64);
            match flow {
                Flow::Jump => {}
                Flow::Next => cpu.rip = cpu.next_rip(op),
                Flow::Leave | Flow::Again | Flow::Trap => {
                    let (next, len) = (op.next, op.len);
                    return self.done(next, len, flow);
                }
            }
            // Nothing was asked for: that ends in a trap first, and goes on in `step`.
            if cpu.leave {
                return self.over(flow);
            }
            let over = cpu.instructions.wrapping_sub(until) as i64 >= 0;
            if over || cpu.flags.rest != flags || self.attention.load(Ordering::Relaxed) {
                return None;
            }
        }
    }

    /// Carries out a block, or one instruction.
    fn step(&mut self, single: bool, watched: bool) -> Option<Exit> {
        let block = match self.block(single) {
            Ok(block) => block,
            Err(Trap) => return self.trapped(None),
        };
        let traces = watched && self.cpu.flags.rest & flags::TF != 0;
        if watched && self.breaks() {
            return self.trapped(None);
        }
        let resumes = self.cpu.flags.rest & flags::RF != 0;
        let shadows = (self.cpu.shadow_sti, self.cpu.shadow_ss);
        (self.cpu.shadow_sti, self.cpu.shadow_ss) = (false, false);
        let start = self.cpu.rip;
        self.cpu.regs[usize::from(START)] = start;
        let Self { cpu, blocks, .. } = self;
        let ops = blocks.ops(&block);
        let mut flow = Flow::Next;
        let mut last = None;
        for (op, done) in ops.iter().zip(1u64..) {
            flow = (op.run)(cpu, op);
            if flow != Flow::Next {
                last = Some((op, done));
                break;
            }
        }
        let (op, done) = match last {
            Some(last) => last,
            None => (ops.last()?, ops.len() as u64),
        };
        cpu.instructions = cpu.instructions.wrapping_add(done);
        let (next, len) = (op.next, op.len);
        if flow == Flow::Trap && matches!(cpu.trap, Cause::Outside(_)) {
            // It is not over: what held interrupts off still does.
            (cpu.shadow_sti, cpu.shadow_ss) = shadows;
        }
        // What the instruction itself put there stays: IRET brings RF back for the instruction that it returns to.
        if resumes && !matches!(flow, Flow::Again | Flow::Trap) {
            cpu.flags.rest &= !flags::RF;
        }
        if traces && flow != Flow::Trap {
            cpu.debug_due |= DR6_BS;
        }
        self.done(next, len, flow)
    }

    /// What comes after an instruction: it was `len` bytes long, the next one is `next` bytes from the block's begin.
    #[inline(never)]
    fn done(&mut self, next: u16, len: u8, flow: Flow) -> Option<Exit> {
        let cpu = &mut self.cpu;
        let start = cpu.regs[usize::from(START)];
        let begin = start.wrapping_add((next - u16::from(len)).into()) & cpu.rip_mask;
        let next = start.wrapping_add(next.into()) & cpu.rip_mask;
        match flow {
            Flow::Jump => {}
            Flow::Next | Flow::Leave => cpu.rip = next,
            Flow::Again => cpu.rip = begin,
            Flow::Trap => {
                cpu.rip = begin;
                if matches!(cpu.trap, Cause::Outside(_)) {
                    cpu.instructions = cpu.instructions.wrapping_sub(1);
                }
                return self.trapped(Some(next));
            }
        }
        self.over(flow)
    }

    /// An instruction is done; what it left is looked at.
    fn over(&mut self, flow: Flow) -> Option<Exit> {
        let cpu = &mut self.cpu;
        cpu.answers.given.clear();
        cpu.leave = false;
        let exit = (!cpu.effects.is_empty()).then(|| Exit::Effects(std::mem::take(&mut cpu.effects)));
        if cpu.debug_due != 0 && !cpu.shadow_ss {
            cpu.dr[6] |= std::mem::take(&mut cpu.debug_due);
            if flow == Flow::Again {
                // Between elements the image has RF (Intel SDM volume 3, 17.3.1.1).
                cpu.flags.rest |= flags::RF;
            }
            let debug = Exception { vector: vector::DB, error: None, address: 0 };
            if cpu.deliver(Event::Exception(debug)).is_err() {
                return Some(Exit::Shutdown);
            }
        }
        exit
    }

    /// What could not be carried out.
    #[cold]
    fn trapped(&mut self, next: Option<u64>) -> Option<Exit> {
        let cpu = &mut self.cpu;
        cpu.effects.clear();
        cpu.leave = false;
        let delivered = match cpu.trap {
            Cause::Outside(request) => {
                cpu.answers.used = 0;
                return Some(Exit::Ask(request));
            }
            Cause::Stuck(why) => return Some(Exit::Stuck(why)),
            Cause::Exception(exception) => {
                cpu.answers.given.clear();
                cpu.debug_due = 0;
                cpu.deliver(Event::Exception(exception))
            }
            Cause::Software(vector) => {
                cpu.answers.given.clear();
                cpu.rip = next.unwrap_or(cpu.rip);
                cpu.deliver(Event::Software(vector))
            }
        };
        delivered.is_err().then_some(Exit::Shutdown)
    }

    /// Whether a breakpoint on the next instruction is due (Intel SDM volume 3, 17.3.1.1).
    #[cold]
    fn breaks(&mut self) -> bool {
        let cpu = &mut self.cpu;
        if cpu.flags.rest & flags::RF != 0 {
            return false;
        }
        let linear = cpu.segs[usize::from(seg::CS)].start.wrapping_add(cpu.rip) & cpu.linear_mask;
        let dr7 = cpu.dr[7];
        let hit = (0..4usize).filter(|number| {
            dr7 >> (number * 2) & 3 != 0 && dr7 >> (16 + number * 4) & 3 == 0 && cpu.dr[*number] == linear
        });
        let bits = hit.fold(0, |bits, number| bits | 1 << number);
        if bits == 0 {
            return false;
        }
        cpu.dr[6] |= bits;
        cpu.raise(vector::DB);
        true
    }

    /// The block at RIP.
    #[inline(always)]
    fn block(&mut self, single: bool) -> Result<Block, Trap> {
        let cpu = &mut self.cpu;
        cpu.answers.used = 0;
        let linear = cpu.segs[usize::from(seg::CS)].start.wrapping_add(cpu.rip) & cpu.linear_mask;
        let mut mode = Mode { bits: cpu.code_bits(), single };
        for _ in 0..2 {
            let cpu = &mut self.cpu;
            let page = match cpu.memory.code_page(linear) {
                Some(page) => page,
                None => fetch(cpu, linear)?,
            };
            cpu.memory.executes(page);
            let found = match self.blocks.find(linear, page, mode, None) {
                Some(block) if block.beyond == 0 => block,
                _ => self.find_slow(linear, page, mode)?,
            };
            // A block that ends beyond the code segment is done one by one, up to there.
            let cpu = &mut self.cpu;
            if !cpu.is_64() {
                let limit = u64::from(cpu.segs[usize::from(seg::CS)].limit);
                if cpu.rip.wrapping_add(u64::from(found.len) - 1) > limit {
                    if mode.single {
                        return Err(cpu.gp());
                    }
                    mode.single = true;
                    continue;
                }
            }
            return Ok(found);
        }
        Err(self.cpu.gp())
    }

    #[cold]
    fn find_slow(&mut self, linear: u64, page: HostPage, mode: Mode) -> Result<Block, Trap> {
        if self.blocks.find(linear, page, mode, None).is_none()
            && let Some(block) = self.blocks.make(linear, page, mode, None)
        {
            return Ok(block);
        }
        // It reaches into the next page.
        let next = (linear & !(PAGE - 1)).wrapping_add(PAGE) & self.cpu.linear_mask;
        let beyond = fetch(&mut self.cpu, next)?;
        if let Some(block) = self.blocks.find(linear, page, mode, Some(beyond)) {
            return Ok(block);
        }
        self.blocks.make(linear, page, mode, Some(beyond)).ok_or_else(|| self.cpu.gp())
    }
}

/// Carries out instructions of a block, up to the first after which something has to be looked at, or the last: which
/// that was. A function of its own, so that the loop has the host's registers for itself.
#[inline(never)]
fn carry_out<'a>(cpu: &mut Cpu, ops: &'a [Op]) -> Option<(&'a Op, Flow)> {
    let (last, before) = ops.split_last()?;
    for op in before {
        let flow = (op.run)(cpu, op);
        if flow != Flow::Next {
            return Some((op, flow));
        }
    }
    let flow = (last.run)(cpu, last);
    Some((last, flow))
}

/// The page that code at an address is in.
#[cold]
fn fetch(cpu: &mut Cpu, linear: u64) -> Result<HostPage, Trap> {
    if let Some(page) = cpu.memory.code_page(linear) {
        return Ok(page);
    }
    if cpu.is_64() && !cpu.is_canonical(linear) {
        return Err(cpu.gp());
    }
    let translation = cpu.translate(linear, Access::Execute, Who::Current)?;
    let Some(page) = cpu.memory.map.page(translation.gpa, false) else {
        cpu.trap = Cause::Stuck("the guest executes what is no memory");
        return Err(Trap);
    };
    let allowed = crate::memory::Allowed { read: false, write: false, execute: true };
    cpu.memory.remember(linear, page.host, allowed);
    Ok(page.host)
}
