//! User code on the host's own processor, up to the exception that ends it.
//!
//! ```text
//!   run ─ INT3 ─▶ signal: keeps the host's registers, puts the code's into the frame ─ sigreturn ─▶ code
//!   run ◀─ sigreturn ─ signal: keeps the code's registers, puts the host's into the frame ◀─ exception ─┘
//! ```
//!
//! The kernel's signal frame has all there is to know of an exception: vector, error code, CR2. Entering by `sigreturn`
//! sets all registers at once, TF, AC and the code segment among them, so code of 32 bits runs just as well.
#![expect(unsafe_code, reason = "user code runs on the host's processor")]

use std::arch::{asm, naked_asm};
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};

use crate::layout::{BASE, Bits, Kind, LEN, PAGE, PAGES, State, Stop, USER_DATA};

const SIGNALS: [c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];
/// Registers of a signal frame, in the order of their encoding.
const REGISTERS: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];
/// Of an XSAVE area: what the kernel does not use for itself,
const FX_LEN: usize = 416;
/// where XSTATE_BV is,
const XSTATE_BV: usize = 512;
/// and x87 and SSE in it.
const X87_SSE: u64 = 3;
const SIGNAL_STACK_LEN: usize = 0x1_0000;

/// What the signal handler is given and gives.
struct Exchange {
    running: bool,
    state: State,
    code_selector: u16,
    stop: Stop,
    host_registers: [i64; 23],
    host_fx: [u8; FX_LEN],
}

/// Of the one test that runs.
static EXCHANGE: AtomicPtr<Exchange> = AtomicPtr::new(std::ptr::null_mut());
static ONE: Mutex<()> = Mutex::new(());

/// The host's processor, with the pages mapped. There is one at a time.
pub struct Host {
    exchange: *mut Exchange,
    signal_stack: Vec<u8>,
    _one: MutexGuard<'static, ()>,
}

impl Host {
    pub fn new() -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
        // SAFETY: nothing else is there, or it fails.
        let address = unsafe {
            mmap_anonymous(
                std::ptr::without_provenance_mut(BASE as usize),
                LEN,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
            )
        };
        let address: *mut u8 = address.expect("pages below 4 GiB").cast();
        // Every page is there from now on: the kernel's own page faults would be seen by the code.
        // SAFETY: the mapping has that size.
        unsafe { address.write_bytes(0x5a, LEN) };
        for (number, kind) in PAGES.into_iter().enumerate() {
            protect(address, number, kind);
        }
        let exchange = Box::into_raw(Box::new(Exchange {
            running: false,
            state: State { regs: [0; 16], rip: 0, flags: 0, fx: [0; 512] },
            code_selector: 0,
            stop: Stop { vector: 0, error: 0, address: None },
            host_registers: [0; 23],
            host_fx: [0; FX_LEN],
        }));
        let mut signal_stack = vec![0; SIGNAL_STACK_LEN];
        let stack = libc::stack_t { ss_sp: signal_stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: SIGNAL_STACK_LEN };
        // SAFETY: the stack lives as long as the thread uses it, see `drop`; the handler is written for these signals.
        // DS and ES mean nothing to code of 64 bits, so the thread may have these; code of 32 bits needs them.
        unsafe {
            assert_eq!(libc::sigaltstack(&raw const stack, std::ptr::null_mut()), 0);
            EXCHANGE.store(exchange, Ordering::SeqCst);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = enter as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            for signal in SIGNALS {
                assert_eq!(libc::sigaction(signal, &raw const action, std::ptr::null_mut()), 0);
            }
            asm!("mov ds, {0:x}", "mov es, {0:x}", in(reg) USER_DATA);
        }
        Self { exchange, signal_stack, _one: one }
    }

    /// Whether the kernel has a segment for code of 32 bits.
    pub fn has(bits: Bits) -> bool {
        let usable: u8;
        // SAFETY: it only looks at a descriptor.
        unsafe { asm!("verr {0:x}", "setz {1}", in(reg) bits.code(), out(reg_byte) usable) };
        usable != 0
    }

    /// Copies from the pages, which must be readable.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        assert!(is_all(offset, bytes.len(), |kind| kind != Kind::Nothing));
        // SAFETY: the pages are there and readable, and no code runs.
        unsafe {
            let from: *const u8 = std::ptr::without_provenance(BASE as usize + offset);
            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len());
        }
    }

    /// Copies to the pages, which must be writable.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(is_all(offset, bytes.len(), |kind| matches!(kind, Kind::Code | Kind::Data)));
        // SAFETY: the pages are there and writable, and no code runs.
        unsafe {
            let to: *mut u8 = std::ptr::without_provenance_mut(BASE as usize + offset);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }

    /// Runs user code from `state` on until an exception ends it. The caller sees to it that the code writes to nothing
    /// but the pages, makes no system call, and comes to an end.
    pub fn run(&mut self, state: &mut State, bits: Bits) -> Stop {
        // SAFETY: the exchange lives as long as this; the handler, which uses it, runs in this thread, between these
        // accesses. INT3 comes back with all registers as they were.
        unsafe {
            (*self.exchange).state = state.clone();
            (*self.exchange).code_selector = bits.code();
            // Code may have set NT and ID, which a signal frame does not.
            asm!("pushfq", "and dword ptr [rsp], 0xffdfbfff", "popfq", "int3");
            *state = (*self.exchange).state.clone();
            (*self.exchange).stop
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: no code runs any more: the handlers go before what they use.
        unsafe {
            for signal in SIGNALS {
                libc::signal(signal, libc::SIG_DFL);
            }
            EXCHANGE.store(std::ptr::null_mut(), Ordering::SeqCst);
            drop(Box::from_raw(self.exchange));
            let none = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
            libc::sigaltstack(&raw const none, std::ptr::null_mut());
            self.signal_stack.clear();
            let pages = std::ptr::without_provenance_mut::<c_void>(BASE as usize);
            assert!(rustix::mm::munmap(pages, LEN).is_ok());
        }
    }
}

fn protect(address: *mut u8, number: usize, kind: Kind) {
    let allowed = match kind {
        Kind::Nothing => MprotectFlags::empty(),
        Kind::Code => MprotectFlags::READ | MprotectFlags::WRITE | MprotectFlags::EXEC,
        Kind::Data => MprotectFlags::READ | MprotectFlags::WRITE,
        Kind::Fixed => MprotectFlags::READ,
    };
    // SAFETY: a page of our mapping; nothing refers to it.
    unsafe {
        let page = address.add(number * PAGE);
        mprotect(page.cast(), PAGE, allowed).expect("a page's protection");
        if kind == Kind::Nothing {
            // A page that is there and must not be used at all is not the same as none.
            let flags = MapFlags::PRIVATE | MapFlags::FIXED;
            mmap_anonymous(page.cast(), PAGE, ProtFlags::empty(), flags).expect("no page");
        }
    }
}

fn is_all(offset: usize, len: usize, kind: impl Fn(Kind) -> bool) -> bool {
    len == 0
        || PAGES
            .get(offset / PAGE..=(offset + len - 1) / PAGE)
            .is_some_and(|pages| pages.iter().all(|page| kind(*page)))
}

/// The signal handler. AC is still as the code had it, and ours is not written for that.
#[unsafe(naked)]
unsafe extern "C" fn enter(signal: c_int, info: *const c_void, context: *mut libc::ucontext_t) {
    naked_asm!("pushfq", "and dword ptr [rsp], 0xfffbffff", "popfq", "jmp {handle}", handle = sym handle)
}

extern "C" fn handle(signal: c_int, _info: *const c_void, context: *mut libc::ucontext_t) {
    // SAFETY: the kernel gives a frame with an XSAVE area behind its registers. The exchange is there while the handler
    // is, and nobody else uses it meanwhile.
    unsafe {
        let exchange = EXCHANGE.load(Ordering::SeqCst);
        let machine = &mut (*context).uc_mcontext;
        let fx: *mut u8 = machine.fpregs.cast();
        let Some(exchange) = exchange.as_mut() else {
            // A mistake of the test itself: it comes again, and ends it.
            libc::signal(signal, libc::SIG_DFL);
            return;
        };
        exchange.running = !exchange.running;
        if exchange.running {
            exchange.host_registers = machine.gregs;
            std::ptr::copy_nonoverlapping(fx, exchange.host_fx.as_mut_ptr(), FX_LEN);
            put(machine, exchange);
            std::ptr::copy_nonoverlapping(exchange.state.fx.as_ptr(), fx, FX_LEN);
        } else {
            get(machine, exchange);
            std::ptr::copy_nonoverlapping(fx, exchange.state.fx.as_mut_ptr(), FX_LEN);
            machine.gregs = exchange.host_registers;
            std::ptr::copy_nonoverlapping(exchange.host_fx.as_ptr(), fx, FX_LEN);
        }
        let in_use: *mut u64 = fx.add(XSTATE_BV).cast();
        *in_use |= X87_SSE;
    }
}

fn put(machine: &mut libc::mcontext_t, exchange: &Exchange) {
    let registers = &mut machine.gregs;
    for (place, value) in REGISTERS.iter().zip(exchange.state.regs) {
        registers[*place as usize] = value.cast_signed();
    }
    registers[libc::REG_RIP as usize] = exchange.state.rip.cast_signed();
    registers[libc::REG_EFL as usize] = exchange.state.flags.cast_signed();
    let selectors = registers[libc::REG_CSGSFS as usize].cast_unsigned();
    let selectors = selectors & 0x0000_ffff_ffff_0000 | u64::from(exchange.code_selector) | u64::from(USER_DATA) << 48;
    registers[libc::REG_CSGSFS as usize] = selectors.cast_signed();
}

fn get(machine: &libc::mcontext_t, exchange: &mut Exchange) {
    let word = |place: c_int| machine.gregs[place as usize].cast_unsigned();
    for (place, value) in REGISTERS.iter().zip(&mut exchange.state.regs) {
        *value = word(*place);
    }
    exchange.state.rip = word(libc::REG_RIP);
    exchange.state.flags = word(libc::REG_EFL);
    let vector = word(libc::REG_TRAPNO) as u8;
    exchange.stop = Stop {
        vector,
        error: word(libc::REG_ERR) as u32,
        address: (vector == benchtop_x86::cpu::vector::PF).then(|| word(libc::REG_CR2)),
    };
}
