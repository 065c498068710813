//! The table loader's script: records of 128 bytes, little endian.

const RECORD_BYTES: usize = 128;
const NAME_BYTES: usize = 56;

const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;

/// Where the firmware puts a file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Zone {
    /// Below the end of RAM under 4 GiB.
    High = 1,
    /// F_0000h to F_FFFFh, where operating systems look for the root pointer.
    FSegment = 2,
}

#[derive(Debug, Default)]
pub(super) struct Loader {
    bytes: Vec<u8>,
}

impl Loader {
    /// Puts the file into memory. Every file needs this once, before anything else about it.
    pub(super) fn allocate(&mut self, file: &str, align_bytes: u32, zone: Zone) {
        self.record(ALLOCATE, &[file], &[&align_bytes.to_le_bytes(), &[zone as u8]]);
    }

    /// Adds the address of `target` to the `len_bytes` at `offset` of `file`, which hold an offset into `target`.
    pub(super) fn add_pointer(&mut self, file: &str, target: &str, offset: u32, len_bytes: u8) {
        self.record(ADD_POINTER, &[file, target], &[&offset.to_le_bytes(), &[len_bytes]]);
    }

    /// Sets the byte at `offset` so that the `len_bytes` from `start` add up to 0.
    pub(super) fn add_checksum(&mut self, file: &str, offset: u32, start: u32, len_bytes: u32) {
        let numbers = [offset, start, len_bytes].map(u32::to_le_bytes);
        self.record(ADD_CHECKSUM, &[file], &[&numbers[0], &numbers[1], &numbers[2]]);
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn record(&mut self, command: u32, names: &[&str], fields: &[&[u8]]) {
        let end = self.bytes.len() + RECORD_BYTES;
        self.bytes.extend(command.to_le_bytes());
        for name in names {
            let start = self.bytes.len();
            self.bytes.extend(name.as_bytes());
            self.bytes.resize(start + NAME_BYTES, 0);
        }
        for field in fields {
            self.bytes.extend(*field);
        }
        self.bytes.resize(end, 0);
    }
}
