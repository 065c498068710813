//! What the fuzz targets run (tests/fuzz), and their smoke tests with made-up input.

pub mod board;
mod exercise;
pub mod ide;
mod image;
pub mod nbd_client;
pub mod nbd_server;
pub mod probe;
pub mod qcow2;
pub mod strata;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;

/// Reads an operation's fields from fuzz input; at the end everything is 0.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn dword(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn qword(&mut self) -> u64 {
        u64::from(self.dword()) | u64::from(self.dword()) << 32
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }

    /// 1, 2 or 4.
    fn width(&mut self) -> usize {
        1 << (self.byte() % 3)
    }
}

#[cfg(test)]
fn smoke(run: fn(&[u8])) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(3);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    while std::time::Instant::now() < end {
        let data: Vec<u8> = (0..2048)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect();
        run(&data);
    }
}
