//! A vCPU on its thread.

#![expect(unsafe_code, reason = "reads the exit's description, a union in the page shared with the kernel")]
// UNSAFETY: KVM_RUN's exit reason says which member of the union is valid; each is read right after that exit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE,
    kvm_mp_state,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::kick::Kick;
use super::tsc::{Paused, read_msr, write_msr};
use super::vm::KvmVm;
use super::{call, registers};
use crate::state::{Element, EntryState, PowerOn, VcpuStateV1};
use crate::{BackdoorRegisters, CpuIo, HypervisorError, StopReason, Vcpu, VcpuHandle, VcpuSeed, Vm};

const IA32_TSC_DEADLINE: u32 = 0x6e0;

/// A vCPU without a thread.
#[derive(Debug)]
pub(super) struct KvmSeed {
    pub fd: VcpuFd,
    pub vm: Arc<KvmVm>,
    pub kick: Arc<Kick>,
    pub msrs: Arc<[u32]>,
    pub power_on: PowerOn,
    pub id: u32,
}

impl VcpuSeed for KvmSeed {
    fn handle(&self) -> Arc<dyn VcpuHandle> {
        self.kick.clone()
    }

    fn bind(self: Box<Self>) -> Result<Box<dyn Vcpu>, HypervisorError> {
        let Self { fd, vm, kick, msrs, power_on, id } = *self;
        kick.bind()?;
        // Its registers were set when it was made: an INIT or SIPI that another vCPU has sent since must not be lost.
        Ok(Box::new(KvmVcpu { fd, vm, kick, msrs, power_on, takes_pic: id == 0, may_be_halted: false, paused: None }))
    }
}

/// A vCPU.
#[derive(Debug)]
struct KvmVcpu {
    fd: VcpuFd,
    vm: Arc<KvmVm>,
    kick: Arc<Kick>,
    msrs: Arc<[u32]>,
    power_on: PowerOn,
    /// The PIC's INTR is wired to this one.
    takes_pic: bool,
    /// The last KVM_RUN may have been waiting in HLT.
    may_be_halted: bool,
    /// Since [`Vcpu::tsc_pause`]: the TSC, and the APIC timer's deadline that was taken away.
    paused: Option<(Paused, u64)>,
}

impl Drop for KvmVcpu {
    fn drop(&mut self) {
        self.kick.unbind();
    }
}

/// What an exit was, in values that do not borrow the vCPU.
enum Exit {
    Port { port: u16, input: bool, data: *mut u8, len: usize },
    MmioRead { gpa: u64, data: *mut u8, len: usize },
    MmioWrite { gpa: u64, data: *const u8, len: usize },
    IoapicEoi(u8),
    InterruptWindow,
    Interrupted,
    Again,
    Halted,
    Shutdown,
    InternalError,
    Stuck(String),
}

fn classify(result: Result<VcpuExit<'_>, kvm_ioctls::Error>) -> Result<Exit, HypervisorError> {
    Ok(match result {
        Ok(VcpuExit::IoIn(port, data)) => Exit::Port { port, input: true, data: data.as_mut_ptr(), len: data.len() },
        Ok(VcpuExit::IoOut(port, data)) => {
            Exit::Port { port, input: false, data: data.as_ptr().cast_mut(), len: data.len() }
        }
        Ok(VcpuExit::MmioRead(gpa, data)) => Exit::MmioRead { gpa, data: data.as_mut_ptr(), len: data.len() },
        Ok(VcpuExit::MmioWrite(gpa, data)) => Exit::MmioWrite { gpa, data: data.as_ptr(), len: data.len() },
        Ok(VcpuExit::IoapicEoi(vector)) => Exit::IoapicEoi(vector),
        Ok(VcpuExit::IrqWindowOpen) => Exit::InterruptWindow,
        Ok(VcpuExit::Intr) => Exit::Interrupted,
        Ok(VcpuExit::Hlt) => Exit::Halted,
        Ok(VcpuExit::Shutdown) => Exit::Shutdown,
        Ok(VcpuExit::FailEntry(reason, cpu)) => {
            Exit::Stuck(format!("the processor refused to enter the guest (reason {reason:#x}, host CPU {cpu})"))
        }
        Ok(VcpuExit::InternalError) => Exit::InternalError,
        Ok(VcpuExit::MemoryFault { flags, gpa, size }) => {
            Exit::Stuck(format!("no memory behind {gpa:#x} + {size:#x} (flags {flags:#x})"))
        }
        Ok(other) => Exit::Stuck(format!("exit {other:?}")),
        Err(error) if error.errno() == libc::EINTR => Exit::Interrupted,
        Err(error) if error.errno() == libc::EAGAIN => Exit::Again,
        Err(error) if error.errno() == libc::EFAULT => Exit::Stuck("the host could not give guest memory".into()),
        Err(error) => return Err(call("KVM_RUN")(error)),
    })
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl KvmVcpu {
    fn enter(&mut self, io: &dyn CpuIo) -> Result<Exit, HypervisorError> {
        self.vm.gate.enter();
        let result = classify(self.fd.run());
        self.vm.gate.leave();
        self.vm.drain_coalesced(io);
        result
    }

    /// Before the guest is entered: hands it the PIC's interrupt if it can take one, else asks to be told when it can.
    ///
    /// The interrupt is queued where KVM_GET_VCPU_EVENTS shows it, not with KVM_INTERRUPT: with the split irqchip that
    /// call has a place of its own, which can be neither saved nor cleared, so a save or a reset that comes before the
    /// guest is entered again would lose or invent an interrupt.
    fn offer_interrupt(&mut self, io: &dyn CpuIo) -> Result<(), HypervisorError> {
        if !self.takes_pic {
            return Ok(());
        }
        let mut window = io.pic_pending();
        // True also before an access that KVM has yet to finish: no access changes IF, and KVM finishes it first.
        if window && self.fd.get_kvm_run().ready_for_interrupt_injection != 0 {
            if let Some(vector) = io.pic_acknowledge() {
                self.inject(vector)?;
            }
            window = io.pic_pending();
        }
        self.fd.get_kvm_run().request_interrupt_window = window.into();
        Ok(())
    }

    fn inject(&mut self, vector: u8) -> Result<(), HypervisorError> {
        let mut events = self.fd.get_vcpu_events().map_err(call("KVM_GET_VCPU_EVENTS"))?;
        events.interrupt.injected = 1;
        events.interrupt.nr = vector;
        events.interrupt.soft = 0;
        // Only what is always valid: a pending NMI that another vCPU sent meanwhile stays.
        events.flags = 0;
        self.fd.set_vcpu_events(&events).map_err(call("KVM_SET_VCPU_EVENTS"))?;
        if self.may_be_halted {
            let state = self.fd.get_mp_state().map_err(call("KVM_GET_MP_STATE"))?;
            if state.mp_state == KVM_MP_STATE_HALTED {
                self.fd
                    .set_mp_state(kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE })
                    .map_err(call("KVM_SET_MP_STATE"))?;
            }
        }
        // It has one now; KVM's word is renewed at the next exit.
        self.fd.get_kvm_run().ready_for_interrupt_injection = 0;
        Ok(())
    }

    fn port(&mut self, io: &dyn CpuIo, port: u16, input: bool, data: &mut [u8]) -> Result<(), HypervisorError> {
        // SAFETY: the exit was KVM_EXIT_IO, so this member is the valid one.
        let width = usize::from(unsafe { self.fd.get_kvm_run().__bindgen_anon_1.io.size });
        if !input {
            io.port_write(port, width, data);
            return Ok(());
        }
        match (io.backdoor_port(), &mut *data) {
            (Some(backdoor), [a, b, c, d]) if backdoor == port && width == 4 => {
                [*a, *b, *c, *d] = self.backdoor(io)?.to_le_bytes();
            }
            _ => io.port_read(port, width, data),
        }
        Ok(())
    }

    /// An IN from the VMware backdoor. Depending on how KVM executes the instruction, EAX comes from the exit's data
    /// when it is finished or is as set here; so it is put in both places. The other registers are as set here: KVM
    /// reads them afresh after KVM_SET_REGS.
    fn backdoor(&mut self, io: &dyn CpuIo) -> Result<u32, HypervisorError> {
        let mut regs = self.fd.get_regs().map_err(call("KVM_GET_REGS"))?;
        let before = BackdoorRegisters {
            eax: regs.rax as u32,
            ebx: regs.rbx as u32,
            ecx: regs.rcx as u32,
            edx: regs.rdx as u32,
            esi: regs.rsi as u32,
            edi: regs.rdi as u32,
        };
        let mut after = before;
        io.backdoor(&mut after);
        // As with any 32-bit write, the upper half of a register that changes is cleared.
        let put = |register: &mut u64, before: u32, after: u32| {
            if before != after {
                *register = after.into();
            }
        };
        put(&mut regs.rbx, before.ebx, after.ebx);
        put(&mut regs.rcx, before.ecx, after.ecx);
        put(&mut regs.rdx, before.edx, after.edx);
        put(&mut regs.rsi, before.esi, after.esi);
        put(&mut regs.rdi, before.edi, after.edi);
        regs.rax = after.eax.into();
        self.fd.set_regs(&regs).map_err(call("KVM_SET_REGS"))?;
        Ok(after.eax)
    }

    /// A report for people: where the guest is and what it was about to do.
    fn stuck(&mut self, what: &str) -> HypervisorError {
        let (Ok(regs), Ok(sregs)) = (self.fd.get_regs(), self.fd.get_sregs()) else {
            return HypervisorError::Stuck { reason: what.into() };
        };
        let linear = sregs.cs.base.wrapping_add(regs.rip);
        let bytes = match self.fd.translate_gva(linear) {
            Ok(translation) if translation.valid != 0 => self.vm.peek(translation.physical_address, 15),
            _ => Vec::new(),
        };
        let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let reason = format!(
            "{what}: RIP {:#x}, CS base {:#x}, CR0 {:#x}, EFER {:#x}, instruction bytes {}",
            regs.rip,
            sregs.cs.base,
            sregs.cr0,
            sregs.efer,
            if bytes.is_empty() { "not readable".into() } else { bytes.join(" ") }
        );
        HypervisorError::Stuck { reason }
    }

    fn write(&mut self, element: Element, state: &VcpuStateV1) -> Result<(), HypervisorError> {
        registers::write(&self.fd, element, state)
    }

    /// Renews KVM's word on whether the guest can take an interrupt, after its state was changed under it.
    fn settle(&mut self) -> Result<(), HypervisorError> {
        self.may_be_halted = true;
        self.kick.arm();
        self.vm.gate.enter();
        let exit = classify(self.fd.run());
        self.vm.gate.leave();
        match exit? {
            Exit::Interrupted | Exit::Again => Ok(()),
            _ => Err(HypervisorError::State { field: "an access under way".into() }),
        }
    }

    /// Takes the deadline of the APIC timer away for the time of a pause.
    fn take_deadline(&self) -> Result<u64, HypervisorError> {
        let deadline = read_msr(&self.fd, IA32_TSC_DEADLINE)?.unwrap_or(0);
        if deadline != 0 {
            write_msr(&self.fd, IA32_TSC_DEADLINE, 0)?;
        }
        Ok(deadline)
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self, io: &dyn CpuIo) -> Result<StopReason, HypervisorError> {
        if self.kick.take() {
            count(&self.kick.counts.kicked);
            return Ok(StopReason::Kicked);
        }
        loop {
            self.offer_interrupt(io)?;
            let exit = self.enter(io)?;
            let counts = &self.kick.counts;
            self.may_be_halted = false;
            match exit {
                Exit::Port { port, input, data, len } => {
                    count(&counts.port);
                    // SAFETY: `len` bytes at `data` are the exit's data in the vCPU's mapping, which lives as long as
                    // `fd` and which nothing else uses until the next KVM_RUN.
                    let data = unsafe { std::slice::from_raw_parts_mut(data, len) };
                    self.port(io, port, input, data)?;
                }
                Exit::MmioRead { gpa, data, len } => {
                    count(&counts.mmio);
                    // SAFETY: as above.
                    io.mmio_read(gpa, unsafe { std::slice::from_raw_parts_mut(data, len) });
                }
                Exit::MmioWrite { gpa, data, len } => {
                    count(&counts.mmio);
                    // SAFETY: as above.
                    io.mmio_write(gpa, unsafe { std::slice::from_raw_parts(data, len) });
                }
                Exit::IoapicEoi(vector) => {
                    count(&counts.ioapic_eoi);
                    io.ioapic_eoi(vector);
                }
                // The window also opens at HLT, and KVM then reports it with the vCPU halted.
                Exit::InterruptWindow => {
                    count(&counts.interrupt_window);
                    self.may_be_halted = true;
                }
                // Only here, where KVM has finished what was begun, is there a way out for a kick.
                Exit::Interrupted => {
                    self.may_be_halted = true;
                    if self.kick.take() {
                        count(&counts.kicked);
                        return Ok(StopReason::Kicked);
                    }
                }
                Exit::Again => {}
                Exit::Halted => {
                    count(&counts.other);
                    return Ok(StopReason::Halted);
                }
                Exit::Shutdown => {
                    count(&counts.other);
                    return Ok(StopReason::Shutdown);
                }
                Exit::InternalError => {
                    count(&counts.other);
                    // SAFETY: the exit was KVM_EXIT_INTERNAL_ERROR, so this member is the valid one.
                    let suberror = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal.suberror };
                    let what = match suberror {
                        KVM_INTERNAL_ERROR_EMULATION => "KVM could not emulate an instruction".into(),
                        KVM_INTERNAL_ERROR_DELIVERY_EV => "KVM could not deliver an event".into(),
                        other => format!("KVM reported internal error {other}"),
                    };
                    return Err(self.stuck(&what));
                }
                Exit::Stuck(what) => {
                    count(&counts.other);
                    return Err(self.stuck(&what));
                }
            }
        }
    }

    fn reset(&mut self) -> Result<(), HypervisorError> {
        // An INIT or SIPI that is under way is taken before the state is overwritten.
        self.fd.get_mp_state().map_err(call("KVM_GET_MP_STATE"))?;
        self.vm.tsc.reset(&self.fd)?;
        registers::reset(&self.fd, &self.power_on)?;
        if let Some((_, deadline)) = &mut self.paused {
            *deadline = 0;
        }
        self.settle()
    }

    fn save(&mut self) -> Result<VcpuStateV1, HypervisorError> {
        let mut state = registers::blank();
        // Reading it makes KVM take an INIT or SIPI that is under way, which changes everything else.
        registers::read(&self.fd, &self.msrs, Element::RunState, &mut state)?;
        for element in Element::ALL {
            registers::read(&self.fd, &self.msrs, element, &mut state)?;
        }
        state.tsc.ticks = self.vm.tsc.save(&self.fd, self.paused.as_ref().map(|(paused, _)| paused))?;
        if let Some((_, deadline)) = self.paused
            && let Some(msr) = state.msrs.iter_mut().find(|msr| msr.index == IA32_TSC_DEADLINE)
        {
            msr.value = deadline;
        }
        Ok(state)
    }

    fn restore(&mut self, state: &VcpuStateV1) -> Result<(), HypervisorError> {
        state.validate()?;
        self.fd.get_mp_state().map_err(call("KVM_GET_MP_STATE"))?;
        for element in Element::ALL {
            if element == Element::Tsc {
                let paused = self.paused.as_mut().map(|(paused, _)| paused);
                self.vm.tsc.restore(&self.fd, paused, state.tsc.ticks)?;
            } else {
                self.write(element, state)?;
            }
        }
        self.settle()?;
        if self.paused.is_some() {
            let taken = self.take_deadline()?;
            if let Some((_, deadline)) = &mut self.paused {
                *deadline = taken;
            }
        }
        Ok(())
    }

    fn set_entry(&mut self, entry: &EntryState) -> Result<(), HypervisorError> {
        let mut state = registers::blank();
        registers::read(&self.fd, &self.msrs, Element::Special, &mut state)?;
        state.special = entry.special(&state.special);
        state.general = entry.general();
        self.write(Element::Special, &state)?;
        self.write(Element::General, &state)?;
        self.settle()
    }

    fn tsc_pause(&mut self) -> Result<(), HypervisorError> {
        if self.paused.is_none() {
            let paused = self.vm.tsc.pause(&self.fd)?;
            self.paused = Some((paused, self.take_deadline()?));
        }
        Ok(())
    }

    fn tsc_resume(&mut self) -> Result<(), HypervisorError> {
        if let Some((paused, deadline)) = self.paused.take() {
            self.vm.tsc.resume(&self.fd, paused)?;
            if deadline != 0 {
                write_msr(&self.fd, IA32_TSC_DEADLINE, deadline)?;
            }
        }
        Ok(())
    }
}
