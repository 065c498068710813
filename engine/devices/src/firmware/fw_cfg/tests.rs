use proptest::prelude::*;

use super::*;
use crate::firmware::{AcpiTables, BootDevice, SmbiosTables};

fn memory() -> GuestMemory {
    GuestMemory::new(&[(0, 0x20_0000), (0x1_0000_0000, 0x10_0000)]).unwrap()
}

fn device(memory: &GuestMemory) -> FwCfg {
    FwCfgBuilder::new()
        .pc_keys(&PcKeys { cpus: 2, max_cpus: 4, boot_menu: true, serial_console: false })
        .file("etc/zebra", vec![9; 3])
        .file("etc/apple", (0..=255).collect())
        .file("etc/empty", Vec::new())
        .build(memory.clone())
        .unwrap()
}

fn select(fw_cfg: &mut FwCfg, key: u16) {
    fw_cfg.port_write(0x510, &key.to_le_bytes());
}

fn bytes(fw_cfg: &mut FwCfg, count: usize) -> Vec<u8> {
    (0..count)
        .map(|_| {
            let mut byte = [0xff];
            fw_cfg.port_read(0x511, &mut byte);
            byte[0]
        })
        .collect()
}

fn dma(fw_cfg: &mut FwCfg, at: u64, control: u32, len: u32, address: u64) -> u32 {
    let mut request = control.to_be_bytes().to_vec();
    request.extend(len.to_be_bytes());
    request.extend(address.to_be_bytes());
    fw_cfg.memory.write(Gpa(at), &request).unwrap();
    fw_cfg.port_write(0x514, &((at >> 32) as u32).to_be_bytes());
    fw_cfg.port_write(0x518, &(at as u32).to_be_bytes());
    u32::from_be_bytes(fw_cfg.memory.read_array(Gpa(at)).unwrap())
}

#[test]
fn items_read_byte_by_byte_and_end_in_zeroes() {
    let mut fw_cfg = device(&memory());
    select(&mut fw_cfg, 0);
    assert_eq!(bytes(&mut fw_cfg, 6), *b"QEMU\0\0");
    select(&mut fw_cfg, 1);
    assert_eq!(bytes(&mut fw_cfg, 4), [3, 0, 0, 0]);
    select(&mut fw_cfg, 5);
    assert_eq!(bytes(&mut fw_cfg, 2), [2, 0]);
    select(&mut fw_cfg, 0x1234);
    assert_eq!(bytes(&mut fw_cfg, 2), [0, 0]);
    select(&mut fw_cfg, 0x8002);
    assert_eq!(bytes(&mut fw_cfg, 2), [1, 0]);
}

#[test]
fn the_directory_is_sorted_and_leads_to_the_files() {
    let mut fw_cfg = device(&memory());
    select(&mut fw_cfg, 0x19);
    let directory = bytes(&mut fw_cfg, 4 + 3 * 64);
    assert_eq!(directory[..4], [0, 0, 0, 3]);
    let entries: Vec<_> = directory[4..]
        .chunks_exact(64)
        .map(|entry| {
            let size = u32::from_be_bytes(entry[..4].try_into().unwrap());
            let key = u16::from_be_bytes(entry[4..6].try_into().unwrap());
            let name = String::from_utf8(entry[8..].to_vec()).unwrap();
            (size, key, name.trim_end_matches('\0').to_owned())
        })
        .collect();
    let expected = [(256, 0x20, "etc/apple"), (0, 0x21, "etc/empty"), (3, 0x22, "etc/zebra")];
    assert_eq!(entries, expected.map(|(size, key, name)| (size, key, name.to_owned())));
    select(&mut fw_cfg, 0x22);
    assert_eq!(bytes(&mut fw_cfg, 4), [9, 9, 9, 0]);
}

#[test]
fn a_string_read_takes_the_same_bytes() {
    let mut fw_cfg = device(&memory());
    select(&mut fw_cfg, 0x20);
    let mut start = [0xff; 200];
    fw_cfg.port_read_string(0x511, 1, &mut start);
    let mut rest = [0xff; 100];
    fw_cfg.port_read_string(0x511, 1, &mut rest);
    let all: Vec<u8> = start.into_iter().chain(rest).collect();
    assert_eq!(all[..256], (0..=255).collect::<Vec<u8>>());
    assert_eq!(all[256..], [0; 44]);
}

#[test]
fn dma_reads_into_ram_and_fills_up_with_zeroes() {
    let memory = memory();
    let mut fw_cfg = device(&memory);
    memory.write(Gpa(0x8000), &[0xee; 0x3000]).unwrap();
    assert_eq!(dma(&mut fw_cfg, 0x1000, 0x20 << 16 | 0b1010, 0x2800, 0x8000), 0);
    let mut got = vec![0; 0x2801];
    memory.read(Gpa(0x8000), &mut got).unwrap();
    assert_eq!(got[..256], (0..=255).collect::<Vec<u8>>());
    assert!(got[256..0x2800].iter().all(|byte| *byte == 0));
    assert_eq!(got[0x2800], 0xee);

    // Skip, then read on from there; both ends above 4 GiB.
    assert_eq!(dma(&mut fw_cfg, 0x1_0000_0000, 0x20 << 16 | 0b1100, 16, 0), 0);
    assert_eq!(dma(&mut fw_cfg, 0x1_0000_0000, 0b10, 2, 0x1_0000_0100), 0);
    assert_eq!(memory.read_array(Gpa(0x1_0000_0100)), Ok([16, 17]));

    // The high half of the address is 0 again.
    fw_cfg.memory.write(Gpa(0x40), &[0, 0, 0, 0b10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x20, 0]).unwrap();
    fw_cfg.port_write(0x518, &0x40u32.to_be_bytes());
    assert_eq!(memory.read_array(Gpa(0x2000)), Ok([18]));
}

#[test]
fn dma_that_is_refused_says_so_and_writes_nothing() {
    let memory = memory();
    let mut fw_cfg = device(&memory);
    memory.write(Gpa(0x1f_fff0), &[0xee; 16]).unwrap();
    for (control, len, address) in [
        (0x20 << 16 | 0b1010, 17, 0x1f_fff0),
        (0x20 << 16 | 0b1010, u32::MAX, 0),
        (0x20 << 16 | 0b1010, 1, 0xfed0_0000),
        (0x20 << 16 | 0b1010, 8, u64::MAX - 2),
        (0x20 << 16 | 0b1_1000, 4, 0x4000),
    ] {
        assert_eq!(dma(&mut fw_cfg, 0x1000, control, len, address), 1, "{control:#x} {len:#x} {address:#x}");
    }
    assert_eq!(memory.read_array(Gpa(0x1f_fff0)), Ok([0xee; 16]));
    let mut signature = [0; 4];
    fw_cfg.port_read(0x514, &mut signature);
    assert_eq!(signature, *b"QEMU");
    fw_cfg.port_read(0x518, &mut signature);
    assert_eq!(signature, *b" CFG");
}

#[test]
fn the_boards_files_have_the_names_firmware_looks_for() {
    let acpi = AcpiTables { rsdp: vec![1], tables: vec![2], loader: vec![3] };
    let smbios = SmbiosTables { anchor: vec![4], tables: vec![5] };
    let mut fw_cfg = FwCfgBuilder::new()
        .acpi(acpi)
        .smbios(smbios)
        .memory_map(&[(0, 0x20_0000)], &[])
        .boot_order(&[BootDevice::Halt])
        .build(memory())
        .unwrap();
    let directory = fw_cfg.item(0x19).unwrap().to_vec();
    let names: Vec<_> = directory[4..]
        .chunks_exact(64)
        .map(|entry| String::from_utf8(entry[8..].to_vec()).unwrap().trim_end_matches('\0').to_owned())
        .collect();
    let expected = [
        "bootorder",
        "etc/acpi/rsdp",
        "etc/acpi/tables",
        "etc/e820",
        "etc/smbios/smbios-anchor",
        "etc/smbios/smbios-tables",
        "etc/table-loader",
    ];
    assert_eq!(names, expected);
    select(&mut fw_cfg, 0x22);
    assert_eq!(bytes(&mut fw_cfg, 2), [2, 0]);
}

#[test]
fn names_that_do_not_fit_are_refused() {
    let long = "x".repeat(56);
    let refused = FwCfgBuilder::new().file(&long, Vec::new()).build(memory());
    assert_eq!(refused.err(), Some(FwCfgError::Name(long)));
    assert!(FwCfgBuilder::new().file(&"x".repeat(55), Vec::new()).build(memory()).is_ok());
}

#[test]
fn round_trip() {
    crate::conformance::device_round_trip(
        || Box::new(device(&memory())),
        |fw_cfg| {
            if let Some(io) = fw_cfg.port_io() {
                io.port_write(0x510, &0x20u16.to_le_bytes());
                io.port_read(0x511, &mut [0]);
                io.port_write(0x514, &[1, 2, 3, 4]);
            }
        },
    );
}

proptest! {
    #[test]
    fn garbage_is_survived(
        accesses in prop::collection::vec(
            (0x50eu16..0x520, prop::collection::vec(any::<u8>(), 1..=4), any::<bool>()),
            0..64,
        ),
    ) {
        let mut fw_cfg = device(&memory());
        for (port, mut data, write) in accesses {
            if write {
                fw_cfg.port_write(port, &data);
            } else {
                fw_cfg.port_read(port, &mut data);
                fw_cfg.port_read_string(port, 1, &mut data);
            }
        }
    }
}
