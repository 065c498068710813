//! A vCPU on its thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use benchtop_x86::cpu::{Cpu, Effect, Exception, Request, vector};
use benchtop_x86::cpuid::CpuidTable;
use benchtop_x86::op::reg;
use benchtop_x86::run::{Exit, Processor};
use benchtop_x86::system::Event;

use super::apic::Apic;
use super::convert;
use super::vm::{Shared, Signals, SoftwareVm};
use crate::state::{Element, EntryState, EventsV1, ExceptionV1, MsrV1, RunStateV1, TscV1, VcpuStateV1};
use crate::{BackdoorRegisters, CpuIo, HypervisorError, StopReason, Vcpu, VcpuHandle, VcpuSeed};

/// Instructions between two looks at the timer.
const BUDGET: u64 = 20_000;
const APIC_BASE: u32 = 0x1b;
const TSC_ADJUST: u32 = 0x3b;
const TSC_DEADLINE: u32 = 0x6e0;
const X2APIC: std::ops::RangeInclusive<u32> = 0x800..=0x8ff;
/// The x2APIC's ICR, of 64 bits.
const ICR: u32 = 0x830;

pub struct SoftwareSeed {
    pub vm: Arc<SoftwareVm>,
    pub id: u32,
    pub cpuid: Arc<CpuidTable>,
}

impl VcpuSeed for SoftwareSeed {
    fn handle(&self) -> Arc<dyn VcpuHandle> {
        self.shared()
    }

    fn bind(self: Box<Self>) -> Result<Box<dyn Vcpu>, HypervisorError> {
        let shared = self.shared();
        let (map, seen) = self.vm.map_now();
        let mut cpu = Cpu::new(map, self.cpuid.clone(), self.vm.rates.tsc_khz);
        cpu.reset();
        // All count from one moment on.
        cpu.clock = benchtop_x86::time::Clock::since(self.vm.began, self.vm.rates.tsc_khz);
        shared.seen.store(seen, Ordering::SeqCst);
        let state = if self.id == 0 { RunStateV1::Runnable } else { RunStateV1::Uninitialized };
        Ok(Box::new(SoftwareVcpu {
            processor: Processor::new(cpu, shared.attention.clone()),
            vm: self.vm.clone(),
            id: self.id as usize,
            shared,
            state,
            tsc_adjust: 0,
            owed: None,
            paused: None,
        }))
    }
}

impl SoftwareSeed {
    fn shared(&self) -> Arc<Shared> {
        self.vm.vcpus[self.id as usize].clone()
    }
}

struct SoftwareVcpu {
    processor: Processor,
    vm: Arc<SoftwareVm>,
    id: usize,
    shared: Arc<Shared>,
    state: RunStateV1,
    tsc_adjust: u64,
    /// An interrupt or exception that was acknowledged and is yet to be delivered: of a restored state.
    owed: Option<Event>,
    /// When the clock was stopped.
    paused: Option<Instant>,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl SoftwareVcpu {
    /// Takes what other threads left.
    fn signals(&mut self) -> Signals {
        let mut signals = self.shared.signals.lock();
        let taken = Signals { nmi: false, kicked: signals.kicked, init: signals.init, sipi: signals.sipi };
        (signals.kicked, signals.init, signals.sipi) = (false, false, None);
        taken
    }

    /// INIT and SIPI.
    fn starts(&mut self, signals: &Signals) {
        if signals.init {
            self.processor.cpu.init();
            self.shared.apic.lock().init();
            self.owed = None;
            self.state = if self.id == 0 { RunStateV1::Runnable } else { RunStateV1::InitReceived };
        }
        if let (Some(vector), RunStateV1::InitReceived) = (signals.sipi, self.state) {
            self.processor.cpu.sipi(vector);
            self.state = RunStateV1::Runnable;
        }
    }

    /// Takes the most important of what waits, if it can be taken. False: a triple fault.
    fn interrupts(&mut self, io: &dyn CpuIo) -> bool {
        self.processor.window = false;
        if !self.processor.is_between() {
            return true;
        }
        if let Some(event) = self.owed.take() {
            return self.processor.take(event).is_ok();
        }
        if self.state == RunStateV1::Halted && !self.wakes(io) {
            return true;
        }
        let nmi = !self.processor.cpu.nmi_masked
            && !self.processor.is_shadowed()
            && std::mem::take(&mut self.shared.signals.lock().nmi);
        if nmi {
            self.state = RunStateV1::Runnable;
            return self.processor.take(Event::Nmi).is_ok();
        }
        let local = self.shared.apic.lock().pending();
        let pic = self.id == 0 && self.shared.apic.lock().takes_pic() && io.pic_pending();
        if local.is_none() && !pic {
            return true;
        }
        if !self.processor.takes_interrupts() {
            self.processor.window = true;
            return true;
        }
        let vector = match local {
            Some(vector) => {
                self.shared.apic.lock().acknowledge(vector);
                Some(vector)
            }
            None => {
                count(&self.shared.counts.interrupt_window);
                io.pic_acknowledge()
            }
        };
        let Some(vector) = vector else { return true };
        self.state = RunStateV1::Runnable;
        // A kick that came with it is heard first: what was acknowledged is in the state then.
        self.owed = Some(Event::External(vector));
        if self.shared.attention.load(Ordering::SeqCst) {
            return true;
        }
        self.owed.take().is_none_or(|event| self.processor.take(event).is_ok())
    }

    /// Whether a halted vCPU goes on.
    fn wakes(&self, io: &dyn CpuIo) -> bool {
        if self.shared.signals.lock().nmi && !self.processor.cpu.nmi_masked {
            return true;
        }
        let apic = self.shared.apic.lock();
        let waits = apic.pending().is_some() || (self.id == 0 && apic.takes_pic() && io.pic_pending());
        waits && self.processor.takes_interrupts()
    }

    /// Sleeps until somebody leaves something, or the timer is due.
    fn sleep(&self, io: &dyn CpuIo) {
        let due = self.shared.apic.lock().due();
        if self.wakes(io) {
            return;
        }
        let mut signals = self.shared.signals.lock();
        if self.shared.attention.load(Ordering::SeqCst) || signals.kicked || signals.init || signals.sipi.is_some() {
            return;
        }
        match due {
            Some(due) => drop(self.shared.wakes.wait_until(&mut signals, due)),
            None => self.shared.wakes.wait(&mut signals),
        }
    }

    /// Comes in: with the memory map of now.
    fn enter(&mut self) {
        self.shared.inside.store(true, Ordering::SeqCst);
        let version = self.vm.version();
        if self.shared.seen.load(Ordering::SeqCst) < version {
            let (map, version) = self.vm.map_now();
            self.processor.cpu.memory.set_map(map);
            self.shared.seen.store(version, Ordering::SeqCst);
        }
    }

    fn leave(&self) {
        self.shared.inside.store(false, Ordering::SeqCst);
    }

    /// Answers what an instruction asks for.
    fn answer(&mut self, request: Request, io: &dyn CpuIo) -> bool {
        let value = match request {
            Request::In(port, bytes) => {
                count(&self.shared.counts.port);
                if bytes == 4 && io.backdoor_port() == Some(port) {
                    self.backdoor(io)
                } else {
                    let mut data = [0; 4];
                    io.port_read(port, bytes.into(), &mut data[..usize::from(bytes & 7)]);
                    u32::from_le_bytes(data).into()
                }
            }
            Request::Load(gpa, bytes) => {
                if self.shared.apic.lock().is_at(gpa) {
                    self.apic_load(gpa)
                } else {
                    count(&self.shared.counts.mmio);
                    let mut data = [0; 8];
                    io.mmio_read(gpa, &mut data[..usize::from(bytes).min(8)]);
                    u64::from_le_bytes(data)
                }
            }
            Request::ReadMsr(index) => match self.read_msr(index) {
                Some(value) => value,
                None => {
                    let fault = Exception { vector: vector::GP, error: Some(0), address: 0 };
                    self.processor.cpu.answers.given.clear();
                    return self.processor.take(Event::Exception(fault)).is_ok();
                }
            },
        };
        self.processor.answer(request, value);
        true
    }

    fn apic_load(&self, gpa: u64) -> u64 {
        let register = self.shared.apic.lock().read(gpa as usize & 0xff0);
        u64::from(register) >> (8 * (gpa & 3))
    }

    fn read_msr(&self, index: u32) -> Option<u64> {
        let apic = self.shared.apic.lock();
        match index {
            APIC_BASE => Some(apic.base()),
            TSC_ADJUST => Some(self.tsc_adjust),
            TSC_DEADLINE => Some(apic.deadline()),
            index if X2APIC.contains(&index) && apic.is_x2apic() => {
                let offset = (index as usize & 0xff) << 4;
                let high = if index == ICR { u64::from(apic.read(0x310)) << 32 } else { 0 };
                Some(high | u64::from(apic.read(offset)))
            }
            _ => None,
        }
    }

    fn write_msr(&mut self, index: u32, value: u64, io: &dyn CpuIo) {
        match index {
            APIC_BASE => {
                self.shared.apic.lock().set_base(value);
            }
            TSC_ADJUST => {
                let ticks = self.processor.cpu.clock.ticks();
                self.processor.cpu.clock.set(ticks.wrapping_add(value.wrapping_sub(self.tsc_adjust)));
                self.tsc_adjust = value;
            }
            TSC_DEADLINE => {
                let ticks = self.processor.cpu.clock.ticks();
                self.shared.apic.lock().set_deadline(value, ticks, self.vm.rates.tsc_khz);
            }
            index if X2APIC.contains(&index) => {
                let offset = (index as usize & 0xff) << 4;
                let action = {
                    let mut apic = self.shared.apic.lock();
                    if !apic.is_x2apic() {
                        return;
                    }
                    let action = apic.write(offset, value as u32, (value >> 32) as u32);
                    self.processor.cpu.cr8 = apic.task_priority();
                    action
                };
                self.vm.act(self.id, action, io);
            }
            _ => {}
        }
    }

    /// An IN from the VMware backdoor: all registers go out and come back.
    fn backdoor(&mut self, io: &dyn CpuIo) -> u64 {
        const DI: u8 = reg::DI;
        let cpu = &mut self.processor.cpu;
        let get = |cpu: &Cpu, number: u8| cpu.get::<u32>(number) as u32;
        let before = BackdoorRegisters {
            eax: get(cpu, reg::AX),
            ebx: get(cpu, reg::BX),
            ecx: get(cpu, reg::CX),
            edx: get(cpu, reg::DX),
            esi: get(cpu, reg::SI),
            edi: get(cpu, DI),
        };
        let mut after = before;
        io.backdoor(&mut after);
        // As with any 32-bit write, the upper half of a register that changes is cleared. EDX has the port: the
        // instruction, which begins anew, must find it.
        for (number, before, after) in [
            (reg::BX, before.ebx, after.ebx),
            (reg::CX, before.ecx, after.ecx),
            (reg::SI, before.esi, after.esi),
            (DI, before.edi, after.edi),
        ] {
            if before != after {
                cpu.set::<u32>(number, after.into());
            }
        }
        after.eax.into()
    }

    /// Does what an instruction left. Says whether it halts.
    fn effect(&mut self, effect: Effect, io: &dyn CpuIo) {
        match effect {
            Effect::Store(gpa, bytes, value) => {
                let action = {
                    let mut apic = self.shared.apic.lock();
                    apic.is_at(gpa).then(|| {
                        let action = apic.write(gpa as usize & 0xff0, value as u32, 0);
                        self.processor.cpu.cr8 = apic.task_priority();
                        action
                    })
                };
                match action {
                    Some(action) => self.vm.act(self.id, action, io),
                    None => {
                        count(&self.shared.counts.mmio);
                        let data = value.to_le_bytes();
                        io.mmio_write(gpa, &data[..usize::from(bytes).min(8)]);
                    }
                }
            }
            Effect::Out(port, bytes, value) => {
                count(&self.shared.counts.port);
                let data = value.to_le_bytes();
                io.port_write(port, bytes.into(), &data[..usize::from(bytes).min(4)]);
            }
            Effect::WriteMsr(index, value) => self.write_msr(index, value, io),
            Effect::Priority(cr8) => self.shared.apic.lock().set_task_priority(cr8),
            Effect::Halt => self.state = RunStateV1::Halted,
        }
    }

    fn stuck(&self, why: &str) -> HypervisorError {
        let cpu = &self.processor.cpu;
        HypervisorError::Stuck {
            reason: format!(
                "{why}: RIP {:#x}, CS base {:#x}, CR0 {:#x}, EFER {:#x}",
                cpu.rip, cpu.segs[1].base, cpu.cr0, cpu.efer
            ),
        }
    }

    fn write(&mut self, element: Element, state: &VcpuStateV1) {
        let cpu = &mut self.processor.cpu;
        match element {
            Element::General => convert::set_general(cpu, &state.general),
            Element::Special => convert::set_special(cpu, &state.special),
            Element::Debug => convert::set_debug(cpu, &state.debug),
            Element::Extended => convert::set_extended(cpu, &state.extended),
            Element::Xcr => cpu.xcr0 = state.xcr0 & 3,
            Element::Msrs => {
                convert::set_msrs(cpu, &state.msrs);
                let find = |index: u32| state.msrs.iter().find(|msr| msr.index == index).map(|msr| msr.value);
                self.tsc_adjust = find(TSC_ADJUST).unwrap_or_default();
                if let Some(deadline) = find(TSC_DEADLINE) {
                    let ticks = cpu.clock.ticks();
                    self.shared.apic.lock().set_deadline(deadline, ticks, self.vm.rates.tsc_khz);
                }
            }
            Element::LocalApic => {
                let mut apic = self.shared.apic.lock();
                apic.restore(state.special.apic_base, &state.local_apic);
                cpu.cr8 = apic.task_priority();
            }
            Element::Events => {
                let EventsV1 { exception, interrupt, shadow, nmi_injected, nmi_pending, nmi_masked, sipi_vector: _ } =
                    state.events;
                let exception = exception.map(|ExceptionV1 { vector, error_code, injected: _ }| {
                    Event::Exception(Exception { vector, error: error_code, address: cpu.cr2 })
                });
                let interrupt = interrupt.map(
                    |(vector, software)| {
                        if software { Event::Software(vector) } else { Event::External(vector) }
                    },
                );
                self.owed = exception.or(interrupt).or(nmi_injected.then_some(Event::Nmi));
                (cpu.shadow_ss, cpu.shadow_sti) = (shadow & 1 != 0, shadow & 2 != 0);
                cpu.nmi_masked = nmi_masked;
                self.shared.signals.lock().nmi = nmi_pending;
            }
            Element::RunState => self.state = state.run_state,
            Element::Tsc => cpu.clock.set(state.tsc.ticks),
        }
    }

    fn settle(&mut self) {
        let cpu = &mut self.processor.cpu;
        cpu.memory.flush();
        cpu.effects.clear();
        cpu.answers.given.clear();
        cpu.debug_due = 0;
        cpu.renew();
    }
}

impl Vcpu for SoftwareVcpu {
    fn run(&mut self, io: &dyn CpuIo) -> Result<StopReason, HypervisorError> {
        loop {
            self.shared.attention.store(false, Ordering::SeqCst);
            let signals = self.signals();
            self.starts(&signals);
            // Between two instructions only: what was begun is finished first.
            if signals.kicked {
                if self.processor.is_between() {
                    count(&self.shared.counts.kicked);
                    return Ok(StopReason::Kicked);
                }
                self.shared.signals.lock().kicked = true;
                self.shared.attention.store(true, Ordering::SeqCst);
            }
            self.shared.apic.lock().look(Instant::now());
            match self.state {
                RunStateV1::Runnable => {}
                RunStateV1::Halted if self.owed.is_some() || self.wakes(io) => {}
                _ => {
                    self.sleep(io);
                    continue;
                }
            }
            if !self.interrupts(io) {
                count(&self.shared.counts.other);
                return Ok(StopReason::Shutdown);
            }
            if self.state == RunStateV1::Halted || self.owed.is_some() {
                continue;
            }
            self.enter();
            let exit = self.processor.run(BUDGET);
            self.leave();
            match exit {
                Exit::Budget | Exit::Attention => {}
                Exit::Ask(request) => {
                    if !self.answer(request, io) {
                        count(&self.shared.counts.other);
                        return Ok(StopReason::Shutdown);
                    }
                }
                Exit::Effects(effects) => effects.into_iter().for_each(|effect| self.effect(effect, io)),
                Exit::Shutdown => {
                    count(&self.shared.counts.other);
                    return Ok(StopReason::Shutdown);
                }
                Exit::Stuck(why) => {
                    count(&self.shared.counts.other);
                    return Err(self.stuck(why));
                }
            }
        }
    }

    fn reset(&mut self) -> Result<(), HypervisorError> {
        let clock = self.processor.cpu.clock;
        self.processor.cpu.reset();
        self.processor.cpu.clock = clock;
        {
            let mut signals = self.shared.signals.lock();
            (signals.init, signals.sipi, signals.nmi) = (false, None, false);
        }
        *self.shared.apic.lock() = Apic::new(self.id as u32);
        self.owed = None;
        self.tsc_adjust = 0;
        self.state = if self.id == 0 { RunStateV1::Runnable } else { RunStateV1::Uninitialized };
        self.settle();
        Ok(())
    }

    fn save(&mut self) -> Result<VcpuStateV1, HypervisorError> {
        let signals = self.signals();
        self.starts(&signals);
        self.shared.signals.lock().kicked |= signals.kicked;
        let (apic_base, local_apic, deadline) = {
            let apic = self.shared.apic.lock();
            (apic.base(), apic.save(), apic.deadline())
        };
        let nmi_pending = self.shared.signals.lock().nmi;
        let tsc_adjust = self.tsc_adjust;
        let cpu = &mut self.processor.cpu;
        let mut msrs = convert::saved_msrs(cpu);
        msrs.push(MsrV1 { index: TSC_ADJUST, value: tsc_adjust });
        msrs.push(MsrV1 { index: TSC_DEADLINE, value: deadline });
        msrs.sort_unstable_by_key(|msr| msr.index);
        let mut events = EventsV1 {
            shadow: u8::from(cpu.shadow_ss) | u8::from(cpu.shadow_sti) << 1,
            nmi_pending,
            nmi_masked: cpu.nmi_masked,
            ..EventsV1::default()
        };
        match &self.owed {
            Some(Event::Exception(exception)) => {
                let Exception { vector, error, .. } = *exception;
                events.exception = Some(ExceptionV1 { vector, error_code: error, injected: true });
            }
            Some(Event::Software(vector)) => events.interrupt = Some((*vector, true)),
            Some(Event::External(vector)) => events.interrupt = Some((*vector, false)),
            Some(Event::Nmi) => events.nmi_injected = true,
            None => {}
        }
        Ok(VcpuStateV1 {
            general: convert::general(cpu),
            special: convert::special(cpu, apic_base),
            debug: convert::debug(cpu),
            extended: convert::extended(cpu),
            xcr0: cpu.xcr0,
            msrs,
            local_apic,
            events,
            run_state: self.state,
            tsc: TscV1 { ticks: cpu.clock.ticks() },
        })
    }

    fn restore(&mut self, state: &VcpuStateV1) -> Result<(), HypervisorError> {
        state.validate()?;
        // General registers first: RFLAGS.VM decides what the segments' privilege level is.
        self.write(Element::General, state);
        for element in Element::ALL {
            self.write(element, state);
        }
        self.settle();
        Ok(())
    }

    fn set_entry(&mut self, entry: &EntryState) -> Result<(), HypervisorError> {
        let base = self.shared.apic.lock().base();
        let cpu = &mut self.processor.cpu;
        let special = entry.special(&convert::special(cpu, base));
        convert::set_general(cpu, &entry.general());
        convert::set_special(cpu, &special);
        self.settle();
        Ok(())
    }

    fn tsc_pause(&mut self) -> Result<(), HypervisorError> {
        if self.paused.is_none() {
            self.processor.cpu.clock.pause();
            self.paused = Some(Instant::now());
        }
        Ok(())
    }

    fn tsc_resume(&mut self) -> Result<(), HypervisorError> {
        if let Some(paused) = self.paused.take() {
            self.processor.cpu.clock.resume();
            let stood: Duration = paused.elapsed();
            self.shared.apic.lock().delay(stood);
        }
        Ok(())
    }
}

impl Drop for SoftwareVcpu {
    fn drop(&mut self) {
        self.leave();
        // Whoever maps memory looks no more.
        self.shared.seen.store(self.vm.version(), Ordering::SeqCst);
    }
}
