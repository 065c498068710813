//! What to boot from, in the words SeaBIOS matches its drives against: the file `bootorder`.

use std::fmt;

/// The name of the file.
pub const FILE: &str = "bootorder";

/// Something to boot from. It displays as SeaBIOS's device path: numbers in hex without leading zeros, and no function
/// number where it is 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BootDevice {
    /// A hard disk or CD-ROM on the PIIX3's IDE function at 00:01.1.
    Ide {
        /// 0 primary, 1 secondary.
        channel: u8,
        /// 0 master, 1 slave.
        unit: u8,
    },
    /// A disk or CD-ROM on a SCSI host bus adapter.
    Scsi {
        /// The adapter's slot on bus 0.
        slot: u8,
        /// The adapter's function.
        function: u8,
        /// SCSI target.
        target: u8,
        /// Logical unit.
        lun: u16,
    },
    /// A network card's boot ROM.
    Network {
        /// The card's slot on bus 0.
        slot: u8,
        /// The card's function.
        function: u8,
    },
    /// An option ROM given to the firmware as a file below `genroms/`.
    Rom {
        /// The file's name without the folder.
        name: String,
    },
    /// Boot nothing that is not listed.
    Halt,
}

struct PciAddress(u8, u8);

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self(slot, 0) => write!(f, "{slot:x}"),
            Self(slot, function) => write!(f, "{slot:x},{function:x}"),
        }
    }
}

impl fmt::Display for BootDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Ide { channel, unit } => write!(f, "/pci@i0cf8/ide@1,1/drive@{channel:x}/disk@{unit:x}"),
            Self::Scsi { slot, function, target, lun } => {
                write!(f, "/pci@i0cf8/scsi@{}/channel@0/disk@{target:x},{lun:x}", PciAddress(slot, function))
            }
            Self::Network { slot, function } => {
                write!(f, "/pci@i0cf8/ethernet@{}/ethernet-phy@0", PciAddress(slot, function))
            }
            Self::Rom { ref name } => write!(f, "/rom@genroms/{name}"),
            Self::Halt => f.write_str("HALT"),
        }
    }
}

/// The contents of [`FILE`]: one path a line, the first to try first, closed by a zero byte.
pub fn file(order: &[BootDevice]) -> Vec<u8> {
    let mut lines: Vec<String> = order.iter().map(ToString::to_string).collect();
    lines.push(String::from("\0"));
    lines.join("\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_in_seabios_words() {
        let order = [
            BootDevice::Ide { channel: 1, unit: 0 },
            BootDevice::Scsi { slot: 16, function: 0, target: 10, lun: 0 },
            BootDevice::Scsi { slot: 5, function: 2, target: 0, lun: 1 },
            BootDevice::Network { slot: 3, function: 0 },
            BootDevice::Halt,
        ];
        let text = String::from_utf8(file(&order)).unwrap();
        assert_eq!(
            text,
            "/pci@i0cf8/ide@1,1/drive@1/disk@0\n/pci@i0cf8/scsi@10/channel@0/disk@a,0\n\
             /pci@i0cf8/scsi@5,2/channel@0/disk@0,1\n/pci@i0cf8/ethernet@3/ethernet-phy@0\nHALT\n\0"
        );
    }
}
