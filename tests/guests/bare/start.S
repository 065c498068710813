/*
 * Entry of the bare-metal guest: real mode, protected mode, and long mode.
 *
 * The program runs at CPL 0 and goes down to CPL 3 for its long computations (make_native), because there every virtual
 * machine monitor lets the processor run by itself, while some emulate CPL 0. What runs at CPL 0 keeps to plain
 * instructions and never uses IRET: an interrupt is only let in where the guest waits for one (wait_irq), and its
 * handler goes on at a fixed place.
 *
 * SeaBIOS loads this image at 0000:7C00 (El Torito, no emulation).
 */
        .set CODE0, 0x08
        .set DATA0, 0x10
        .set STAR_SYSRET, 0x1b          /* + 16: CS 2Bh, + 8: SS 23h */
        .set DATA3, 0x23
        .set CODE0_32, 0x30
        .set TSS_SELECTOR, 0x38
        .set FAULT_STACK_TOP, 0x80000
        .set STACK_TOP, 0x90000
        .set AP_STACK_TOP, 0x88000
        .set PML4, 0x91000
        .set PDPT, 0x92000
        .set DIRECTORIES, 0x93000       /* four, of 512 pages of 2 MiB */
        .set MSR_EFER, 0xc0000080
        .set MSR_STAR, 0xc0000081

        .section .start, "awx"
        .code16
        .globl _start
_start:
        jmp     real_entry
        .org    64
        /* The command, written here by whoever builds the ISO: NUL-terminated, "mode key=value …". */
        .globl command
command:
        .ascii  "hello"
        .org    512

        .balign 8
gdt:
        .quad   0
        .quad   0x00af9b000000ffff      /* 08: code, CPL 0, 64-bit */
        .quad   0x00cf93000000ffff      /* 10: data, CPL 0 */
        .quad   0                       /* 18: 32-bit code for SYSRET; not used */
        .quad   0x00cff3000000ffff      /* 20: data, CPL 3 */
        .quad   0x00affb000000ffff      /* 28: code, CPL 3, 64-bit */
        .quad   0x00cf9b000000ffff      /* 30: code, CPL 0, 32-bit */
        .word   103, tss, 0x8900, 0     /* 38: TSS; it lies below 64 KiB */
        .quad   0
gdt_end:
        .balign 4
        .word   0
gdtr:   .word   gdt_end - gdt - 1
        .long   gdt
        .word   0
idtr:   .word   64 * 16 - 1
        .quad   idt
        .balign 8
tss:    .long   0, FAULT_STACK_TOP, 0
        .space  102 - 12
        .word   104                     /* I/O map base past the limit: no map; IOPL 3 needs none */
        .globl idt
        .balign 16
idt:    .space  64 * 16
        .globl irq_seen, fault_vector, fault_code, fault_rip
irq_seen:       .long 0
        .balign 8
resume_rsp:     .quad 0
fault_vector:   .quad 0
fault_code:     .quad 0
fault_rip:      .quad 0

real_entry:
        movb    $0xff, %al              /* the firmware's interrupts are over */
        outb    %al, $0x21
        outb    %al, $0xa1
        movl    $boot_cpu, %ebx
        jmp     go_protected

        .code32
boot_cpu:
        movl    $PML4, %edi
        xorl    %eax, %eax
        movl    $2048, %ecx
        rep stosl
        movl    $PDPT + 7, PML4
        movl    $PDPT, %edi
        movl    $DIRECTORIES + 7, %eax
1:      movl    %eax, (%edi)
        addl    $8, %edi
        addl    $0x1000, %eax
        cmpl    $DIRECTORIES + 0x4007, %eax
        jne     1b
        movl    $DIRECTORIES, %edi
        movl    $0x87, %eax
1:      movl    %eax, (%edi)
        movl    $0, 4(%edi)
        addl    $8, %edi
        addl    $0x200000, %eax
        jnc     1b

        movl    $FAULT_STACK_TOP, %esp
        movl    $main_entry, %esi
        movl    $STACK_TOP, %edi
        xorl    %ebp, %ebp
        jmp     go_long

second_cpu:
        movl    $AP_STACK_TOP - 0x1000, %esp
        movl    $ap_main, %esi
        movl    $AP_STACK_TOP, %edi
        movl    $1, %ebp

/* To %esi in long mode with the stack %edi; %ebp is 1 on the second processor, which has no TSS and takes no interrupts. */
go_long:
        movl    $MSR_EFER, %ecx
        movl    $0x101, %eax            /* LME, SCE */
        xorl    %edx, %edx
        wrmsr
        movl    %cr4, %eax
        orl     $0x20, %eax             /* PAE */
        movl    %eax, %cr4
        movl    $PML4, %eax
        movl    %eax, %cr3
        movl    %cr0, %eax
        orl     $0x80000000, %eax
        movl    %eax, %cr0
        ljmp    $CODE0, $long_entry

        .code64
long_entry:
        lidt    idtr(%rip)
        testl   %ebp, %ebp
        jnz     1f
        movw    $TSS_SELECTOR, %ax
        ltr     %ax
1:      movl    $MSR_STAR, %ecx
        movl    $STAR_SYSRET << 16 | CODE0, %edx
        xorl    %eax, %eax
        wrmsr
        movl    %edi, %esp
        jmp     *%rsi

/* void leave_native(void): from CPL 3 to CPL 0, on the same stack, by an exception that every processor knows. */
        .globl leave_native
leave_native:
        ud2

/* void make_native(void): from CPL 0 to CPL 3, on the same stack, with interrupts off. */
        .globl make_native
make_native:
        movl    $1f, %ecx
        movl    $2, %r11d
        sysretq
1:      ret

main_entry:
        movl    $__bss_start, %edi
        movl    $__bss_end, %ecx
        subl    %edi, %ecx
        xorl    %eax, %eax
        rep stosb
        xorl    %ebp, %ebp
        call    main
1:      pause
        jmp     1b

/*
 * u32 wait_irq(u64 deadline): lets interrupts in until one has come, and says which (1 << IRQ), or 0 once the TSC has
 * passed the deadline. Interrupts are off on return.
 */
        .globl wait_irq
wait_irq:
        call    save_registers
        sti
1:      pause
        rdtsc
        shlq    $32, %rdx
        orq     %rdx, %rax
        cmpq    %rdi, %rax
        jb      1b
        cli
irq_resume:
        cld
        movl    irq_seen(%rip), %eax
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbp
        popq    %rbx
        ret

/* u32 halt_for_irq(void): as wait_irq, but the processor halts meanwhile, without a deadline. */
        .globl halt_for_irq
halt_for_irq:
        call    save_registers
        sti
1:      hlt
        jmp     1b

/* Pushes what a function must keep, under the return address of this one's caller. */
save_registers:
        popq    %rax
        pushq   %rbx
        pushq   %rbp
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        movq    %rsp, resume_rsp(%rip)
        movl    $0, irq_seen(%rip)
        jmp     *%rax

        .macro irq number
        .globl irq_entry_\number
irq_entry_\number:
        movl    $(1 << \number), %eax
        jmp     irq_common
        .endm
        irq 0
        irq 1
        irq 2
        irq 3
        irq 4
        irq 5
        irq 6
        irq 7
        irq 8
        irq 9
        irq 10
        irq 11
        irq 12
        irq 13
        irq 14
        irq 15

irq_common:
        movl    %eax, irq_seen(%rip)
        movb    $0x20, %al
        testl   $0xff00, irq_seen(%rip)
        jz      1f
        outb    %al, $0xa0
1:      outb    %al, $0x20
        movq    resume_rsp(%rip), %rsp
        jmp     irq_resume

/* Exceptions. Those with an error code push one more word. */
        .macro fault number, has_code
        .globl fault_entry_\number
fault_entry_\number:
        .if \has_code
        popq    fault_code(%rip)
        .endif
        .if \number == 6
        cmpq    $leave_native, (%rsp)
        jne     1f
        movq    24(%rsp), %rsp
        ret
1:
        .endif
        popq    fault_rip(%rip)
        movq    $\number, fault_vector(%rip)
        jmp     fault_common
        .endm
        fault 0, 0
        fault 1, 0
        fault 2, 0
        fault 3, 0
        fault 4, 0
        fault 5, 0
        fault 6, 0
        fault 7, 0
        fault 8, 1
        fault 9, 0
        fault 10, 1
        fault 11, 1
        fault 12, 1
        fault 13, 1
        fault 14, 1
        fault 15, 0
        fault 16, 0
        fault 17, 1
        fault 18, 0
        fault 19, 0

fault_common:
        movl    $FAULT_STACK_TOP, %esp
        jmp     report_fault

/* Where the first processor comes from real_entry, and the second from a page this is copied to. %ebx: what next. */
        .globl ap_start, ap_end
        .code16
ap_start:
        movl    $second_cpu, %ebx
go_protected:
        cli
        cld
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        lgdtl   gdtr
        movl    %cr0, %eax
        orl     $1, %eax
        movl    %eax, %cr0
        ljmpl   $CODE0_32, $protected_entry
ap_end:

        .code32
protected_entry:
        movw    $DATA0, %ax
        movw    %ax, %ss
        movw    $DATA3, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %fs
        movw    %ax, %gs
        jmp     *%ebx

        .section .note.GNU-stack, "", @progbits
