//! The bus: which device answers at a port or an address.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::{AccessCounters, Device, Mmio, PortIo, PortRange, SharedDevice};

/// Told when an access may have changed a device's next deadline.
pub trait DeadlineObserver: Send + Sync {
    /// `deadline_ns` is what the device `id` now says.
    fn deadline_changed(&self, id: usize, deadline_ns: Option<u64>);
}

/// A device on the bus.
pub struct Attachment {
    /// Name as `show` and `stats` print it.
    pub name: String,
    /// The device.
    pub device: SharedDevice,
    /// Exits it cost.
    pub counters: AccessCounters,
    id: usize,
    has_deadline: bool,
    last_deadline: AtomicU64,
}

const NO_DEADLINE: u64 = u64::MAX;

impl Attachment {
    /// Its number on this bus, as [`DeadlineObserver`] is told it.
    pub fn id(&self) -> usize {
        self.id
    }
}

#[derive(Clone)]
struct MmioRange {
    base: u64,
    len_bytes: u64,
    target: Arc<Attachment>,
}

#[derive(Default)]
struct Maps {
    /// Index by port into `port_targets`, plus one; 0 is nobody.
    ports: Vec<u16>,
    port_targets: Vec<Arc<Attachment>>,
    /// Sorted by base; ranges may overlap, the earlier registered one wins.
    mmio: Vec<MmioRange>,
}

/// Which of a device's counters an access counts in.
type Counter = fn(&AccessCounters) -> &AtomicU64;

/// Ports and MMIO of one machine. Shared by all vCPU threads.
pub struct Bus {
    maps: RwLock<Maps>,
    attachments: RwLock<Vec<Arc<Attachment>>>,
    observer: Arc<dyn DeadlineObserver>,
}

impl Bus {
    /// An empty bus: reads give all ones, writes go nowhere.
    pub fn new(observer: Arc<dyn DeadlineObserver>) -> Self {
        let maps = Maps { ports: vec![0; 0x1_0000], ..Maps::default() };
        Self { maps: RwLock::new(maps), attachments: RwLock::default(), observer }
    }

    /// Puts a device on the bus, with no ports or addresses yet.
    pub fn attach(&self, name: &str, device: SharedDevice) -> Arc<Attachment> {
        let has_deadline = device.lock().poll().is_some();
        let mut attachments = self.attachments.write();
        let attachment = Arc::new(Attachment {
            name: name.to_owned(),
            device,
            counters: AccessCounters::default(),
            id: attachments.len(),
            has_deadline,
            last_deadline: AtomicU64::new(NO_DEADLINE),
        });
        attachments.push(attachment.clone());
        attachment
    }

    /// All devices, in the order they were attached.
    pub fn attachments(&self) -> Vec<Arc<Attachment>> {
        self.attachments.read().clone()
    }

    /// Ports of `range` now go to `target`. A port somebody else holds stays theirs: fixed devices are registered
    /// first, so a BAR moved over them changes nothing.
    pub fn map_ports(&self, target: &Arc<Attachment>, range: PortRange) {
        let mut maps = self.maps.write();
        let index = match maps.port_targets.iter().position(|known| Arc::ptr_eq(known, target)) {
            Some(index) => index,
            None => {
                maps.port_targets.push(target.clone());
                maps.port_targets.len() - 1
            }
        };
        let Ok(tag) = u16::try_from(index + 1) else { return };
        for port in range_of(range) {
            if maps.ports[port] == 0 {
                maps.ports[port] = tag;
            }
        }
    }

    /// Takes back those ports of `range` that `target` holds.
    pub fn unmap_ports(&self, target: &Arc<Attachment>, range: PortRange) {
        let mut maps = self.maps.write();
        let Some(index) = maps.port_targets.iter().position(|known| Arc::ptr_eq(known, target)) else { return };
        for port in range_of(range) {
            if usize::from(maps.ports[port]) == index + 1 {
                maps.ports[port] = 0;
            }
        }
    }

    /// Whether every port of `range` goes to `target`.
    pub fn holds_ports(&self, target: &Arc<Attachment>, range: PortRange) -> bool {
        let maps = self.maps.read();
        let Some(index) = maps.port_targets.iter().position(|known| Arc::ptr_eq(known, target)) else { return false };
        range_of(range).all(|port| usize::from(maps.ports[port]) == index + 1)
    }

    /// Loads and stores in `[base, base + len_bytes)` now go to `target`, where nobody else was before.
    pub fn map_mmio(&self, target: &Arc<Attachment>, base: u64, len_bytes: u64) {
        self.maps.write().mmio.push(MmioRange { base, len_bytes, target: target.clone() });
    }

    /// Takes back a range as it was mapped.
    pub fn unmap_mmio(&self, target: &Arc<Attachment>, base: u64, len_bytes: u64) {
        self.maps.write().mmio.retain(|range| {
            !(range.base == base && range.len_bytes == len_bytes && Arc::ptr_eq(&range.target, target))
        });
    }

    /// Takes every device off: the end of a machine. Devices that hold their way back to the bus are let go.
    pub fn clear(&self) {
        let mut maps = self.maps.write();
        maps.ports.fill(0);
        maps.port_targets.clear();
        maps.mmio.clear();
        self.attachments.write().clear();
    }

    fn port_target(&self, port: u16) -> Option<Arc<Attachment>> {
        let maps = self.maps.read();
        let tag = usize::from(maps.ports[usize::from(port)]);
        maps.port_targets.get(tag.checked_sub(1)?).cloned()
    }

    fn mmio_target(&self, gpa: u64) -> Option<Arc<Attachment>> {
        let maps = self.maps.read();
        let hit = maps.mmio.iter().find(|range| gpa >= range.base && gpa - range.base < range.len_bytes)?;
        Some(hit.target.clone())
    }

    /// IN or REP INS: `data` is whole elements of `width` bytes (1, 2 or 4). Bytes nobody drives read FFh.
    pub fn port_read(&self, port: u16, width: usize, data: &mut [u8]) {
        data.fill(0xff);
        let access = |io: &mut dyn PortIo| {
            if data.len() == width { io.port_read(port, data) } else { io.port_read_string(port, width, data) }
        };
        self.access_port(port, |counters| &counters.pio_read, access);
    }

    /// OUT or REP OUTS.
    pub fn port_write(&self, port: u16, width: usize, data: &[u8]) {
        let access = |io: &mut dyn PortIo| {
            if data.len() == width { io.port_write(port, data) } else { io.port_write_string(port, width, data) }
        };
        self.access_port(port, |counters| &counters.pio_write, access);
    }

    /// A write the hypervisor gathered in its ring: it cost no exit.
    pub fn coalesced_port_write(&self, port: u16, data: &[u8]) {
        self.access_port(port, |counters| &counters.coalesced, |io| io.port_write_coalesced(port, data));
    }

    /// A load. Bytes nobody drives read FFh.
    pub fn mmio_read(&self, gpa: u64, data: &mut [u8]) {
        data.fill(0xff);
        self.access_mmio(gpa, |counters| &counters.mmio_read, |io| io.mmio_read(gpa, data));
    }

    /// A store.
    pub fn mmio_write(&self, gpa: u64, data: &[u8]) {
        self.access_mmio(gpa, |counters| &counters.mmio_write, |io| io.mmio_write(gpa, data));
    }

    /// A store the hypervisor gathered in its ring.
    pub fn coalesced_mmio_write(&self, gpa: u64, data: &[u8]) {
        self.access_mmio(gpa, |counters| &counters.coalesced, |io| io.mmio_write(gpa, data));
    }

    fn access_port(&self, port: u16, counter: Counter, access: impl FnOnce(&mut dyn PortIo)) {
        let Some(target) = self.port_target(port) else { return };
        AccessCounters::count(counter(&target.counters));
        self.with_device(&target, |device| device.port_io().map(access));
    }

    fn access_mmio(&self, gpa: u64, counter: Counter, access: impl FnOnce(&mut dyn Mmio)) {
        let Some(target) = self.mmio_target(gpa) else { return };
        AccessCounters::count(counter(&target.counters));
        self.with_device(&target, |device| device.mmio().map(access));
    }

    /// Runs `work` on a device and looks at its deadline after. Outside this file, for what is no guest access: input,
    /// completions, timers.
    pub fn with_device<R>(&self, target: &Arc<Attachment>, work: impl FnOnce(&mut dyn Device) -> R) -> R {
        let mut device = target.device.lock();
        let result = work(&mut *device);
        self.note_deadline(target, &mut *device);
        result
    }

    fn note_deadline(&self, target: &Arc<Attachment>, device: &mut dyn Device) {
        if !target.has_deadline {
            return;
        }
        let deadline_ns = device.poll().and_then(|poll| poll.deadline_ns());
        // Told while the device is still locked, so that two threads can not report out of order.
        if target.last_deadline.swap(deadline_ns.unwrap_or(NO_DEADLINE), Ordering::Relaxed)
            != deadline_ns.unwrap_or(NO_DEADLINE)
        {
            self.observer.deadline_changed(target.id, deadline_ns);
        }
    }
}

fn range_of(range: PortRange) -> std::ops::Range<usize> {
    let first = usize::from(range.first);
    first..(first + usize::from(range.count)).min(0x1_0000)
}
