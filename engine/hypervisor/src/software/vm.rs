//! The VM: its memory map, and messages between its parts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use benchtop_x86::map::{Map, Slot};
use parking_lot::{Condvar, Mutex, RwLock};

use super::apic::{Action, Apic, delivery};
use crate::{ClockRates, CpuIo, ExitCounts, HypervisorError, MemorySlot, Msi, VcpuHandle, Vm};

/// How often somebody who waits for a vCPU looks.
const LOOKS_EVERY: Duration = Duration::from_micros(20);

/// What other threads leave for a vCPU.
#[derive(Debug, Default)]
pub struct Signals {
    /// Come out.
    pub kicked: bool,
    /// INIT,
    pub init: bool,
    /// then perhaps SIPI.
    pub sipi: Option<u8>,
    /// An NMI.
    pub nmi: bool,
}

/// Counters of exits.
#[derive(Debug, Default)]
pub struct Counts {
    pub port: AtomicU64,
    pub mmio: AtomicU64,
    pub interrupt_window: AtomicU64,
    pub ioapic_eoi: AtomicU64,
    pub kicked: AtomicU64,
    pub other: AtomicU64,
}

/// What is shared of a vCPU.
#[derive(Debug)]
pub struct Shared {
    /// Something is to be looked at.
    pub attention: Arc<AtomicBool>,
    pub apic: Mutex<Apic>,
    pub signals: Mutex<Signals>,
    /// A halted vCPU waits for it, with `signals`.
    pub wakes: Condvar,
    /// It carries out guest code, with the map of number `seen` or a newer one.
    pub inside: AtomicBool,
    pub seen: AtomicU64,
    pub counts: Counts,
}

impl Shared {
    pub fn new(id: u32) -> Self {
        Self {
            attention: Arc::new(AtomicBool::new(false)),
            apic: Mutex::new(Apic::new(id)),
            signals: Mutex::new(Signals::default()),
            wakes: Condvar::new(),
            inside: AtomicBool::new(false),
            seen: AtomicU64::new(0),
            counts: Counts::default(),
        }
    }

    /// Has the vCPU look at what changed.
    pub fn wake(&self) {
        self.attention.store(true, Ordering::SeqCst);
        // Under the lock, so that who is about to wait has not looked yet or waits already.
        drop(self.signals.lock());
        self.wakes.notify_all();
    }
}

impl VcpuHandle for Shared {
    fn kick(&self) {
        self.signals.lock().kicked = true;
        self.wake();
    }

    fn exits(&self) -> ExitCounts {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ExitCounts {
            port: get(&self.counts.port),
            mmio: get(&self.counts.mmio),
            interrupt_window: get(&self.counts.interrupt_window),
            ioapic_eoi: get(&self.counts.ioapic_eoi),
            kicked: get(&self.counts.kicked),
            other: get(&self.counts.other),
        }
    }
}

/// A VM on the software CPU.
pub struct SoftwareVm {
    slots: Mutex<BTreeMap<u32, Slot>>,
    map: RwLock<Arc<Map>>,
    /// Counts maps.
    version: AtomicU64,
    pub vcpus: Vec<Arc<Shared>>,
    pub rates: ClockRates,
    /// Ticks of the TSC are counted from here, for all vCPUs alike.
    pub began: Instant,
}

impl SoftwareVm {
    pub fn new(cpus: u32, rates: ClockRates) -> Self {
        Self {
            slots: Mutex::default(),
            map: RwLock::default(),
            version: AtomicU64::new(1),
            vcpus: (0..cpus).map(|id| Arc::new(Shared::new(id))).collect(),
            rates,
            began: Instant::now(),
        }
    }

    /// The map, and its number.
    pub fn map_now(&self) -> (Arc<Map>, u64) {
        let map = self.map.read();
        (map.clone(), self.version.load(Ordering::SeqCst))
    }

    /// The number of the map.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    /// Puts a new map in force: when this returns, no vCPU uses the old one.
    fn renew(&self, slots: &BTreeMap<u32, Slot>) {
        let version = {
            let mut map = self.map.write();
            *map = Arc::new(Map::new(slots.values().cloned()));
            self.version.fetch_add(1, Ordering::SeqCst) + 1
        };
        self.vcpus.iter().for_each(|vcpu| vcpu.attention.store(true, Ordering::SeqCst));
        for vcpu in &self.vcpus {
            // Who is outside takes the new one when it comes in; a callback that called us is outside.
            while vcpu.inside.load(Ordering::SeqCst) && vcpu.seen.load(Ordering::SeqCst) < version {
                std::thread::sleep(LOOKS_EVERY);
            }
        }
    }

    /// Delivers an interrupt. `wide`: the destination has 32 bits.
    pub fn deliver(&self, low: u32, destination: u32, wide: bool, is_for: impl Fn(usize) -> bool) {
        let (vector, mode, logical) = (low as u8, low >> 8 & 7, low >> 11 & 1 != 0);
        let level = low >> 15 & 1 != 0;
        let addressed = |index: &usize| {
            is_for(*index)
                && self.vcpus.get(*index).is_some_and(|vcpu| {
                    let apic = vcpu.apic.lock();
                    // INIT and SIPI reach a processor whose APIC is not enabled by software, too.
                    apic.is_addressed(destination, logical, wide)
                })
        };
        let mut targets = (0..self.vcpus.len()).filter(addressed);
        let first = (mode == delivery::LOWEST).then(|| targets.next().into_iter().collect::<Vec<usize>>());
        for index in first.unwrap_or_else(|| targets.collect()) {
            let Some(vcpu) = self.vcpus.get(index) else { continue };
            match mode {
                delivery::FIXED | delivery::LOWEST => {
                    vcpu.apic.lock().accept(vector, level);
                }
                delivery::NMI => vcpu.signals.lock().nmi = true,
                // The level de-assert, which no processor since the Pentium 4 minds.
                delivery::INIT if level && low >> 14 & 1 == 0 => continue,
                delivery::INIT => {
                    let mut signals = vcpu.signals.lock();
                    (signals.init, signals.sipi) = (true, None);
                }
                delivery::STARTUP => vcpu.signals.lock().sipi = Some(vector),
                _ => continue,
            }
            vcpu.wake();
        }
    }

    /// What a local APIC's register write asks for.
    pub fn act(&self, from: usize, action: Action, io: &dyn CpuIo) {
        match action {
            Action::None => {}
            Action::Eoi(vector) => {
                if let Some(vcpu) = self.vcpus.get(from) {
                    vcpu.counts.ioapic_eoi.fetch_add(1, Ordering::Relaxed);
                }
                io.ioapic_eoi(vector);
            }
            Action::Send(low, destination) => {
                let shorthand = low >> 18 & 3;
                let wide = self.vcpus.get(from).is_some_and(|vcpu| vcpu.apic.lock().is_x2apic());
                // ICR's level bit says assert; only INIT has anything to de-assert.
                let low = if low >> 8 & 7 == delivery::INIT { low } else { low & !(1 << 15) };
                let everybody = if wide { u32::MAX } else { 0xff };
                match shorthand {
                    1 => self.deliver(low & !(1 << 11), everybody, wide, |index| index == from),
                    2 => self.deliver(low & !(1 << 11), everybody, wide, |_| true),
                    3 => self.deliver(low & !(1 << 11), everybody, wide, |index| index != from),
                    _ => self.deliver(low, destination, wide, |_| true),
                }
            }
        }
    }
}

impl Vm for SoftwareVm {
    fn map(&self, slot: &MemorySlot) -> Result<(), HypervisorError> {
        let mut slots = self.slots.lock();
        let words = (slot.len_bytes / 4096).div_ceil(64);
        let same = slots.get(&slot.slot).is_some_and(|old| {
            old.gpa == slot.gpa
                && old.len_bytes == slot.len_bytes
                && old.offset_bytes == slot.offset_bytes
                && old.read_only == slot.read_only
                && old.dirty.is_some() == slot.log_dirty
                && old.region.host_address() == slot.region.host_address()
        });
        if same {
            return Ok(());
        }
        let new = Slot {
            number: slot.slot,
            gpa: slot.gpa,
            len_bytes: slot.len_bytes,
            region: slot.region.clone(),
            offset_bytes: slot.offset_bytes,
            read_only: slot.read_only,
            dirty: slot.log_dirty.then(|| (0..words).map(|_| AtomicU64::new(0)).collect()),
        };
        // Sound first: of one that is not, the end may be beyond all numbers.
        let overlaps = |new: &Slot| {
            slots.values().any(|old| {
                old.number != new.number && old.gpa < new.gpa + new.len_bytes && new.gpa < old.gpa + old.len_bytes
            })
        };
        if !new.is_sound() || overlaps(&new) {
            slots.remove(&slot.slot);
            self.renew(&slots);
            return Err(HypervisorError::Call {
                call: "mapping memory",
                source: std::io::Error::from(std::io::ErrorKind::InvalidInput),
            });
        }
        slots.insert(slot.slot, new);
        self.renew(&slots);
        Ok(())
    }

    fn unmap(&self, slot: u32) -> Result<(), HypervisorError> {
        let mut slots = self.slots.lock();
        if slots.remove(&slot).is_some() {
            self.renew(&slots);
        }
        Ok(())
    }

    fn take_dirty(&self, slot: u32) -> Result<Vec<u64>, HypervisorError> {
        let slots = self.slots.lock();
        let Some(dirty) = slots.get(&slot).and_then(|slot| slot.dirty.clone()) else {
            return Err(HypervisorError::Call {
                call: "taking the dirty log",
                source: std::io::Error::from(std::io::ErrorKind::NotFound),
            });
        };
        let taken = dirty.iter().map(|word| word.swap(0, Ordering::SeqCst)).collect();
        // Translations that were made before mark nothing any more: they are forgotten before this returns, so that what
        // they still wrote was there by then.
        self.renew(&slots);
        Ok(taken)
    }

    fn signal_msi(&self, msi: Msi) -> Result<(), HypervisorError> {
        if msi.address >> 20 != 0xfee {
            return Ok(());
        }
        let (address, data) = (msi.address as u32, msi.data);
        let destination = address >> 12 & 0xff;
        let logical = address >> 2 & 1;
        // Trigger mode is bit 15 in both; the destination mode is the address's.
        let low = data & 0x87ff | logical << 11;
        self.deliver(low, destination, false, |_| true);
        Ok(())
    }

    fn mirror_ioapic(&self, _entries: &[Option<Msi>]) -> Result<(), HypervisorError> {
        // Each EOI of a level-triggered interrupt is told anyway.
        Ok(())
    }

    fn coalesce_ports(&self, _first: u16, _count: u16) -> Result<bool, HypervisorError> {
        Ok(false)
    }

    fn uncoalesce_ports(&self, _first: u16, _count: u16) -> Result<(), HypervisorError> {
        Ok(())
    }

    fn coalesce_mmio(&self, _gpa: u64, _len_bytes: u64) -> Result<bool, HypervisorError> {
        Ok(false)
    }

    fn drain_coalesced(&self, _io: &dyn CpuIo) {}

    fn clock_rates(&self) -> ClockRates {
        self.rates
    }

    fn can_stop_tsc(&self) -> bool {
        true
    }
}
