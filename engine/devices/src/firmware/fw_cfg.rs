//! fw_cfg: the port through which the firmware reads what the board knows.
//!
//! A selector (510h, 16 bits) picks an item; its bytes then come one by one from 511h, or in one go by DMA through the
//! 64-bit register at 514h-51Bh (big endian; writing the low half starts the transfer). Everything here is read only.
//! The interface is the one of QEMU's `docs/specs/fw_cfg.rst`, which SeaBIOS and Linux implement.

mod builder;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use benchtop_memory::{Gpa, GuestMemory};
use serde::{Deserialize, Serialize};

use crate::{Device, PortIo, PortRange, RestoreError, SavedState};

pub use builder::{FwCfgBuilder, FwCfgError, PcKeys};

const KIND: &str = "fw_cfg";
const VERSION: u32 = 1;

const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
const DMA_HIGH: u16 = 0x514;
const DMA_LOW: u16 = 0x518;
const DMA_END: u16 = 0x51b;

/// What the DMA register reads as.
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";

/// Asks for the write channel, which this device does not have; not part of the item's number.
const WRITE_CHANNEL: u16 = 0x4000;

const CONTROL_ERROR: u32 = 1;
const CONTROL_READ: u32 = 1 << 1;
const CONTROL_SKIP: u32 = 1 << 2;
const CONTROL_SELECT: u32 = 1 << 3;
const CONTROL_WRITE: u32 = 1 << 4;

/// Most bytes one DMA request may move. A request for more is refused, so that the work of one trap stays bounded; it
/// is far above any item a board has.
const DMA_MAX_BYTES: u32 = 16 << 20;

const ZEROES: [u8; 4096] = [0; 4096];

/// The fw_cfg device. Built with [`FwCfgBuilder`].
#[derive(Debug)]
pub struct FwCfg {
    memory: GuestMemory,
    items: BTreeMap<u16, Vec<u8>>,
    selector: u16,
    /// Next byte of the selected item. It may be past its end.
    offset: u32,
    dma_high: u32,
}

#[derive(Serialize, Deserialize)]
struct FwCfgV1 {
    selector: u16,
    offset: u32,
    dma_high: u32,
}

impl FwCfg {
    /// The ports it answers at.
    pub const PORTS: PortRange = PortRange { first: SELECTOR, count: DMA_END - SELECTOR + 1 };

    fn new(memory: GuestMemory, items: BTreeMap<u16, Vec<u8>>) -> Self {
        Self { memory, items, selector: 0, offset: 0, dma_high: 0 }
    }

    /// The bytes of item `key`, as the guest reads them.
    pub fn item(&self, key: u16) -> Option<&[u8]> {
        self.items.get(&(key & !WRITE_CHANNEL)).map(Vec::as_slice)
    }

    fn select(&mut self, key: u16) {
        self.selector = key & !WRITE_CHANNEL;
        self.offset = 0;
    }

    /// Up to `len` bytes from the present position.
    fn rest(&self, len: usize) -> &[u8] {
        let item = self.item(self.selector).unwrap_or_default();
        let start = usize::try_from(self.offset).unwrap_or(usize::MAX).min(item.len());
        let end = start.saturating_add(len).min(item.len());
        &item[start..end]
    }

    /// Past the end of an item, and where there is none, zeroes are read.
    fn read_data(&mut self, out: &mut [u8]) {
        let found = self.rest(out.len());
        let (copied, beyond) = out.split_at_mut(found.len());
        copied.copy_from_slice(found);
        beyond.fill(0);
        self.advance(out.len());
    }

    fn advance(&mut self, len: usize) {
        self.offset = self.offset.saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
    }

    fn start_dma(&mut self, request: Gpa) {
        // Read once; what the guest changes afterwards has no effect. A request that is not in RAM has nowhere to
        // put its result either.
        let Ok(bytes) = self.memory.read_array::<16>(request) else { return };
        let [c0, c1, c2, c3, l0, l1, l2, l3, address @ ..] = bytes;
        let control = u32::from_be_bytes([c0, c1, c2, c3]);
        let len = u32::from_be_bytes([l0, l1, l2, l3]);
        let address = Gpa(u64::from_be_bytes(address));
        if control & CONTROL_SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let done = if control & CONTROL_READ != 0 {
            self.dma_read(address, len)
        } else if control & CONTROL_WRITE != 0 {
            false
        } else {
            if control & CONTROL_SKIP != 0 {
                self.offset = self.offset.saturating_add(len);
            }
            true
        };
        let result = if done { 0 } else { CONTROL_ERROR };
        if self.memory.write(request, &result.to_be_bytes()).is_err() {
            tracing::debug!(%request, "fw_cfg DMA result lost");
        }
    }

    /// False where the request is refused; nothing is then written.
    fn dma_read(&mut self, address: Gpa, len: u32) -> bool {
        if len > DMA_MAX_BYTES {
            return false;
        }
        let Ok(target) = self.memory.slice(address, u64::from(len)) else { return len == 0 };
        let found = self.rest(len as usize);
        target.copy_from(found);
        let mut filled = found.len();
        while filled < target.len() {
            let Ok(hole) = target.subslice(filled, ZEROES.len().min(target.len() - filled)) else { return false };
            hole.copy_from(&ZEROES);
            filled += hole.len();
        }
        self.advance(len as usize);
        true
    }
}

impl PortIo for FwCfg {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        for (port, byte) in (port..=DMA_END).zip(data) {
            match port {
                DATA => self.read_data(std::slice::from_mut(byte)),
                DMA_HIGH..=DMA_END => *byte = DMA_SIGNATURE[usize::from(port - DMA_HIGH)],
                _ => {}
            }
        }
    }

    fn port_read_string(&mut self, port: u16, width: usize, data: &mut [u8]) {
        if port == DATA && width == 1 {
            return self.read_data(data);
        }
        for element in data.chunks_exact_mut(width) {
            self.port_read(port, element);
        }
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        match (port, data) {
            (SELECTOR, &[low, high, ..]) => self.select(u16::from_le_bytes([low, high])),
            (DMA_HIGH, &[a, b, c, d]) => self.dma_high = u32::from_be_bytes([a, b, c, d]),
            (DMA_LOW, &[a, b, c, d]) => {
                let low = u32::from_be_bytes([a, b, c, d]);
                // The high half falls back to 0: firmware below 4 GiB writes the low half only.
                let high = std::mem::take(&mut self.dma_high);
                self.start_dma(Gpa(u64::from(high) << 32 | u64::from(low)));
            }
            _ => {}
        }
    }
}

impl Device for FwCfg {
    fn reset(&mut self) {
        self.select(0);
        self.dma_high = 0;
    }

    fn save(&self) -> SavedState {
        // The items are the board's, which is built again from the VM's settings before a state is restored.
        let Self { memory: _, items: _, selector, offset, dma_high } = self;
        let state = FwCfgV1 { selector: *selector, offset: *offset, dma_high: *dma_high };
        SavedState::encode(KIND, VERSION, &state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), RestoreError> {
        // Any value is one a guest can have set: the selector may name nothing, the offset may be past the end.
        let FwCfgV1 { selector, offset, dma_high } = state.decode(KIND, VERSION)?;
        self.selector = selector & !WRITE_CHANNEL;
        self.offset = offset;
        self.dma_high = dma_high;
        Ok(())
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }
}
