//! One instruction on the host's own processor.

use std::arch::naked_asm;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// What an instruction reads and changes: registers in the order of their encoding (RSP is not touched), flags, and an
/// FXSAVE area.
#[repr(C, align(64))]
#[derive(Clone)]
pub struct Context {
    pub fx: [u8; 512],
    pub regs: [u64; 16],
    pub flags: u64,
}

/// Memory that can be executed.
pub struct Code {
    address: *mut u8,
}

impl Code {
    pub fn new() -> Self {
        // SAFETY: a new mapping, which nobody else has.
        let address = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                4096,
                ProtFlags::READ | ProtFlags::WRITE | ProtFlags::EXEC,
                MapFlags::PRIVATE,
            )
        };
        Self { address: address.expect("memory for code").cast() }
    }

    /// Carries out one instruction that does not jump, fault, or touch RSP.
    pub fn run(&self, instruction: &[u8], context: &mut Context) {
        assert!(instruction.len() <= 15);
        // SAFETY: the mapping is a page; the instruction and a RET fit. The caller chose an instruction that only
        // changes what `context` has and the memory its registers point to.
        unsafe {
            std::ptr::copy_nonoverlapping(instruction.as_ptr(), self.address, instruction.len());
            self.address.add(instruction.len()).write(0xc3);
            enter(context, self.address);
        }
    }
}

/// Loads everything, calls the code, and stores everything.
#[unsafe(naked)]
unsafe extern "sysv64" fn enter(context: *mut Context, code: *const u8) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 16",
        "mov [rsp + 8], rdi",
        "mov [rsp], rsi",
        "fxrstor64 [rdi]",
        "mov rax, [rdi + 640]",
        "push rax",
        "popfq",
        "mov rax, [rdi + 512]",
        "mov rcx, [rdi + 520]",
        "mov rdx, [rdi + 528]",
        "mov rbx, [rdi + 536]",
        "mov rbp, [rdi + 552]",
        "mov rsi, [rdi + 560]",
        "mov r8, [rdi + 576]",
        "mov r9, [rdi + 584]",
        "mov r10, [rdi + 592]",
        "mov r11, [rdi + 600]",
        "mov r12, [rdi + 608]",
        "mov r13, [rdi + 616]",
        "mov r14, [rdi + 624]",
        "mov r15, [rdi + 632]",
        "mov rdi, [rdi + 568]",
        "call [rsp]",
        "mov [rsp], rdi",
        "mov rdi, [rsp + 8]",
        "mov [rdi + 512], rax",
        "mov [rdi + 520], rcx",
        "mov [rdi + 528], rdx",
        "mov [rdi + 536], rbx",
        "mov [rdi + 552], rbp",
        "mov [rdi + 560], rsi",
        "mov [rdi + 576], r8",
        "mov [rdi + 584], r9",
        "mov [rdi + 592], r10",
        "mov [rdi + 600], r11",
        "mov [rdi + 608], r12",
        "mov [rdi + 616], r13",
        "mov [rdi + 624], r14",
        "mov [rdi + 632], r15",
        "mov rax, [rsp]",
        "mov [rdi + 568], rax",
        "pushfq",
        "pop rax",
        "mov [rdi + 640], rax",
        "fxsave64 [rdi]",
        "fninit",
        "cld",
        "mov dword ptr [rsp], 0x1f80",
        "ldmxcsr [rsp]",
        "add rsp, 16",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}
