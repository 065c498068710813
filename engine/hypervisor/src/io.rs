//! What a vCPU needs of the board while it runs.

/// General registers a VMware-backdoor access reads and changes (hardware: port 5658h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackdoorRegisters {
    /// EAX: magic in, result out.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX: the command in its low half.
    pub ecx: u32,
    /// EDX: the port in its low half.
    pub edx: u32,
    /// ESI.
    pub esi: u32,
    /// EDI.
    pub edi: u32,
}

/// The board, as a running vCPU sees it. Called on vCPU threads, by several at once.
pub trait CpuIo: Sync {
    /// IN or REP INS: `data` is whole elements of `width` bytes.
    fn port_read(&self, port: u16, width: usize, data: &mut [u8]);
    /// OUT or REP OUTS.
    fn port_write(&self, port: u16, width: usize, data: &[u8]);
    /// A load from an address that is no memory slot. 1 to 8 bytes.
    fn mmio_read(&self, gpa: u64, data: &mut [u8]);
    /// A store to such an address, or to a read-only slot.
    fn mmio_write(&self, gpa: u64, data: &[u8]);
    /// A port write that was gathered without an exit.
    fn coalesced_port_write(&self, port: u16, data: &[u8]);
    /// An MMIO store that was gathered without an exit.
    fn coalesced_mmio_write(&self, gpa: u64, data: &[u8]);
    /// The port whose IN carries registers beyond EAX (the VMware backdoor), if the board has it.
    fn backdoor_port(&self) -> Option<u16>;
    /// A 32-bit IN from [`backdoor_port`](Self::backdoor_port).
    fn backdoor(&self, registers: &mut BackdoorRegisters);
    /// Whether the PIC asserts INTR. Asked for vCPU 0 only, before it enters the guest.
    fn pic_pending(&self) -> bool;
    /// The PIC's INTA cycle: the vector to deliver, or `None` if the request went away (nothing is then delivered).
    fn pic_acknowledge(&self) -> Option<u8>;
    /// A local APIC broadcast an EOI for `vector`: level-triggered IOAPIC entries look at their lines again.
    fn ioapic_eoi(&self, vector: u8);
}
