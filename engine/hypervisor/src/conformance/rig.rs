//! A VM small enough to look at whole, and a board that writes down what it is told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use benchtop_memory::SharedRegion;
use parking_lot::Mutex;

use crate::{
    BackdoorRegisters, CpuIo, Hypervisor, HypervisorError, MemorySlot, StopReason, Vcpu, VcpuHandle, VcpuSeed, Vm,
    VmSetup,
};

/// Where the guest code is put and starts, in real mode with all segments at 0.
pub const CODE: usize = 0x1000;
/// Where guest code leaves its results.
pub const RESULT: usize = 0x2000;
/// RAM from 0.
pub const RAM_BYTES: u64 = 0x8_0000;
/// `out 0xf4, al; hlt; jmp hlt`: how guest code ends.
pub const STOP: &[u8] = &[0xe6, 0xf4, 0xf4, 0xeb, 0xfd];
/// The port that ends a run.
const STOP_PORT: u16 = 0xf4;
/// A guest that takes this long hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the board was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Port, width and the bytes answered.
    PortRead(u16, usize, Vec<u8>),
    /// Port, width, bytes.
    PortWrite(u16, usize, Vec<u8>),
    /// Address and the bytes answered.
    MmioRead(u64, Vec<u8>),
    /// Address, bytes.
    MmioWrite(u64, Vec<u8>),
    /// Port, bytes.
    GatheredPort(u16, Vec<u8>),
    /// Address, bytes.
    GatheredMmio(u64, Vec<u8>),
    /// Vector.
    Eoi(u8),
}

type Hook<'a> = Box<dyn Fn(&Event) + Sync + 'a>;

/// A board that writes everything down and answers reads with 1, 2, 3 and so on, byte by byte.
pub struct Recorder<'a> {
    events: Mutex<Vec<Event>>,
    next: Mutex<u8>,
    stopped: AtomicBool,
    handles: Vec<Arc<dyn VcpuHandle>>,
    hook: Hook<'a>,
    /// Vectors the PIC has to deliver.
    pub pic: Mutex<VecDeque<u8>>,
    /// The PIC's acknowledge cycle kicks.
    pub kick_on_acknowledge: AtomicBool,
}

impl Recorder<'_> {
    /// What it was told so far, without the end of the run.
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().clone()
    }

    /// Whether the guest said it is done.
    pub fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// All vCPUs stop.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.handles.iter().for_each(|handle| handle.kick());
    }

    fn record(&self, event: Event) {
        (self.hook)(&event);
        self.events.lock().push(event);
    }

    fn answer(&self, data: &mut [u8]) {
        let mut next = self.next.lock();
        for byte in data {
            *byte = *next;
            *next = next.wrapping_add(1);
        }
    }
}

impl CpuIo for Recorder<'_> {
    fn port_read(&self, port: u16, width: usize, data: &mut [u8]) {
        self.answer(data);
        self.record(Event::PortRead(port, width, data.to_vec()));
    }

    fn port_write(&self, port: u16, width: usize, data: &[u8]) {
        if port == STOP_PORT {
            self.stop();
        } else {
            self.record(Event::PortWrite(port, width, data.to_vec()));
        }
    }

    fn mmio_read(&self, gpa: u64, data: &mut [u8]) {
        self.answer(data);
        self.record(Event::MmioRead(gpa, data.to_vec()));
    }

    fn mmio_write(&self, gpa: u64, data: &[u8]) {
        self.record(Event::MmioWrite(gpa, data.to_vec()));
    }

    fn coalesced_port_write(&self, port: u16, data: &[u8]) {
        self.record(Event::GatheredPort(port, data.to_vec()));
    }

    fn coalesced_mmio_write(&self, gpa: u64, data: &[u8]) {
        self.record(Event::GatheredMmio(gpa, data.to_vec()));
    }

    fn backdoor_port(&self) -> Option<u16> {
        Some(0x5658)
    }

    fn backdoor(&self, registers: &mut BackdoorRegisters) {
        *registers = BackdoorRegisters {
            eax: registers.eax.wrapping_add(1),
            ebx: registers.ebx.wrapping_add(2),
            ecx: registers.ecx.wrapping_add(3),
            edx: registers.edx,
            esi: registers.esi.wrapping_add(4),
            edi: registers.edi.wrapping_add(5),
        };
    }

    fn pic_pending(&self) -> bool {
        !self.pic.lock().is_empty()
    }

    fn pic_acknowledge(&self) -> Option<u8> {
        if self.kick_on_acknowledge.load(Ordering::SeqCst) {
            self.handles.iter().for_each(|handle| handle.kick());
        }
        self.pic.lock().pop_front()
    }

    fn ioapic_eoi(&self, vector: u8) {
        self.record(Event::Eoi(vector));
    }
}

/// A VM with RAM and a reset vector that jumps to [`CODE`].
pub struct Rig {
    /// The VM.
    pub vm: Arc<dyn Vm>,
    /// Its RAM.
    pub ram: SharedRegion,
    /// vCPUs that have no thread yet, in order.
    pub seeds: VecDeque<Box<dyn VcpuSeed>>,
    /// All vCPUs.
    pub handles: Vec<Arc<dyn VcpuHandle>>,
}

/// Zero-filled memory.
pub fn region(len_bytes: u64) -> SharedRegion {
    SharedRegion::new("conformance", len_bytes).expect("the host has a page to give")
}

/// A plain slot over all of `region`.
pub fn slot(slot: u32, gpa: u64, region: &SharedRegion) -> MemorySlot {
    MemorySlot {
        slot,
        gpa,
        region: region.clone(),
        offset_bytes: 0,
        len_bytes: region.len() as u64,
        read_only: false,
        log_dirty: false,
    }
}

impl Rig {
    /// One with this many vCPUs and this code.
    pub fn new(hypervisor: &dyn Hypervisor, cpus: u32, code: &[u8]) -> Self {
        let setup = VmSetup { cpus, cpu_model: crate::cpuid::BENCHTOP_V1.into(), ioapic_pins: 24 };
        let parts = hypervisor.build(&setup).expect("a VM can be made");
        let ram = region(RAM_BYTES);
        let rom = region(0x1000);
        // jmp 0:1000h
        assert!(rom.write(0xff0, &[0xea, 0x00, 0x10, 0x00, 0x00]));
        assert!(ram.write(CODE, code));
        parts.vm.map(&slot(0, 0, &ram)).expect("RAM can be mapped");
        parts.vm.map(&slot(1, 0xffff_f000, &rom)).expect("ROM can be mapped");
        let handles = parts.seeds.iter().map(|seed| seed.handle()).collect();
        Self { vm: parts.vm, ram, seeds: parts.seeds.into(), handles }
    }

    /// The next vCPU, for the calling thread.
    pub fn bind(&mut self) -> Box<dyn Vcpu> {
        let seed = self.seeds.pop_front().expect("there is a vCPU left");
        seed.bind().expect("a vCPU can be bound")
    }

    /// A board.
    pub fn board(&self) -> Recorder<'static> {
        self.board_with(|_| ())
    }

    /// A board that calls `hook` for everything it is told.
    pub fn board_with<'a>(&self, hook: impl Fn(&Event) + Sync + 'a) -> Recorder<'a> {
        Recorder {
            events: Mutex::default(),
            next: Mutex::new(1),
            stopped: AtomicBool::new(false),
            handles: self.handles.clone(),
            hook: Box::new(hook),
            pic: Mutex::default(),
            kick_on_acknowledge: AtomicBool::new(false),
        }
    }

    /// A board that kicks the first vCPU whenever it is told something.
    pub fn board_that_kicks(&self) -> Recorder<'static> {
        let handle = self.handles[0].clone();
        self.board_with(move |_| handle.kick())
    }

    /// Puts code or data into RAM.
    pub fn poke(&self, at: usize, bytes: &[u8]) {
        assert!(self.ram.write(at, bytes));
    }

    /// Reads RAM.
    pub fn peek<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        assert!(self.ram.read(at, &mut bytes));
        bytes
    }

    /// Points a real-mode interrupt vector at 0:`handler`.
    pub fn vector(&self, vector: usize, handler: u16) {
        let [low, high] = handler.to_le_bytes();
        self.poke(vector * 4, &[low, high, 0, 0]);
    }
}

/// Runs until the guest says it is done.
pub fn run_to_stop(vcpu: &mut dyn Vcpu, board: &Recorder<'_>) {
    loop {
        match with_patience(board, || vcpu.run(board)) {
            Ok(StopReason::Kicked) if board.stopped() => return,
            Ok(StopReason::Kicked) => {}
            other => panic!("the vCPU stopped: {other:?}; the board was told {:?}", board.events()),
        }
    }
}

/// Runs until the first stop of any kind.
pub fn run_once(vcpu: &mut dyn Vcpu, board: &Recorder<'_>) -> Result<StopReason, HypervisorError> {
    with_patience(board, || vcpu.run(board))
}

/// Runs until a kick, which the guest or the check caused.
pub fn run_to_kick(vcpu: &mut dyn Vcpu, board: &Recorder<'_>) {
    let stop = run_once(vcpu, board);
    assert!(matches!(stop, Ok(StopReason::Kicked)), "the vCPU stopped: {stop:?}; told {:?}", board.events());
}

/// A guest that hangs is stopped, so that the check fails instead.
fn with_patience<T>(board: &Recorder<'_>, run: impl FnOnce() -> T) -> T {
    let (done, wait) = std::sync::mpsc::sync_channel::<()>(1);
    let late = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let late = &late;
        scope.spawn(move || {
            if wait.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                late.store(true, Ordering::SeqCst);
                board.handles.iter().for_each(|handle| handle.kick());
            }
        });
        let result = run();
        drop(done);
        result
    });
    assert!(!late.load(Ordering::SeqCst), "the guest hangs; the board was told {:?}", board.events());
    result
}

/// One piece of code from several.
pub fn code(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}
