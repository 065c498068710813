//! A device the board keeps by its own type, beside its place on the bus.

use std::sync::Arc;

use benchtop_devices::bus::Attachment;
use benchtop_devices::{Bus, Device, PortRange};
use parking_lot::Mutex;

/// A device on the bus.
pub struct Placed<T> {
    bus: Arc<Bus>,
    /// The device.
    pub device: Arc<Mutex<T>>,
    /// Its place on the bus.
    pub attachment: Arc<Attachment>,
}

impl<T: Device + 'static> Placed<T> {
    /// Puts `device` on the bus at fixed `ports`.
    pub fn new(bus: &Arc<Bus>, name: &str, device: T, ports: &[PortRange]) -> Self {
        let device = Arc::new(Mutex::new(device));
        let attachment = bus.attach(name, device.clone());
        for range in ports {
            bus.map_ports(&attachment, *range);
        }
        Self { bus: bus.clone(), device, attachment }
    }

    /// Does something to the device outside a guest access, and looks at its deadline after.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let result = work(&mut self.device.lock());
        self.bus.with_device(&self.attachment, |_device| ());
        result
    }
}
