use std::collections::BTreeMap;

use super::*;

fn config() -> AcpiConfig {
    AcpiConfig {
        cpus: 3,
        low_ram_top: 0x8000_0000,
        high_window: Some(HighWindow { base: 1 << 36, len_bytes: 1 << 35 }),
        hpet: true,
        serial: true,
        pm_base: PM_BASE,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn name_at(bytes: &[u8], at: usize) -> String {
    String::from_utf8(bytes[at..at + 56].to_vec()).unwrap().trim_end_matches('\0').to_owned()
}

/// Does what the firmware does with the script. Files are by name: their address and contents.
fn load(acpi: &AcpiTables) -> BTreeMap<String, (u64, Vec<u8>)> {
    let source = BTreeMap::from([(TABLES_FILE, &acpi.tables), (RSDP_FILE, &acpi.rsdp)]);
    let mut memory = BTreeMap::new();
    let mut next = 0x7ff0_0000u64;
    assert_eq!(acpi.loader.len() % 128, 0);
    for record in acpi.loader.chunks_exact(128) {
        let file = name_at(record, 4);
        match u32_at(record, 0) {
            1 => {
                let align = u64::from(u32_at(record, 60));
                assert!(align.is_power_of_two());
                let high = record[64] == 1;
                let address = if high { next.next_multiple_of(align) } else { 0xf_5a00 };
                let contents = source[file.as_str()].clone();
                next = address + contents.len() as u64;
                assert!(memory.insert(file, (address, contents)).is_none());
            }
            2 => {
                let address = memory[&name_at(record, 60)].0;
                let (offset, len) = (u32_at(record, 116) as usize, usize::from(record[120]));
                let target_len = memory[&name_at(record, 60)].1.len() as u64;
                let pointer = &mut memory.get_mut(&file).unwrap().1[offset..offset + len];
                let mut value = [0; 8];
                value[..len].copy_from_slice(pointer);
                let in_file = u64::from_le_bytes(value);
                assert!(in_file < target_len, "a pointer out of its file");
                pointer.copy_from_slice(&(in_file + address).to_le_bytes()[..len]);
            }
            3 => {
                let [offset, start, len] = [60, 64, 68].map(|at| u32_at(record, at) as usize);
                let bytes = &mut memory.get_mut(&file).unwrap().1;
                assert_eq!(bytes[offset], 0);
                bytes[offset] = 0u8.wrapping_sub(sum(&bytes[start..start + len]));
            }
            other => panic!("command {other}"),
        }
    }
    memory
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The table at `address`, with its checksum checked.
fn table_at(memory: &BTreeMap<String, (u64, Vec<u8>)>, address: u64) -> &[u8] {
    let (base, bytes) = &memory[TABLES_FILE];
    let start = usize::try_from(address - base).unwrap();
    let table = &bytes[start..start + u32_at(bytes, start + 4) as usize];
    if &table[..4] != b"FACS" {
        assert_eq!(sum(table), 0, "{:?}", &table[..4]);
    }
    table
}

#[test]
fn the_loaded_tables_are_all_found_and_add_up() {
    let memory = load(&AcpiTables::new(&config()));
    let rsdp = &memory[RSDP_FILE].1;
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!((sum(&rsdp[..20]), sum(rsdp), rsdp.len()), (0, 0, 36));

    let rsdt = table_at(&memory, u64::from(u32_at(rsdp, 16)));
    let xsdt = table_at(&memory, u64::from_le_bytes(rsdp[24..32].try_into().unwrap()));
    let from_rsdt: Vec<_> = rsdt[36..].chunks_exact(4).map(|entry| u64::from(u32_at(entry, 0))).collect();
    let from_xsdt: Vec<_> =
        xsdt[36..].chunks_exact(8).map(|entry| u64::from_le_bytes(entry.try_into().unwrap())).collect();
    assert_eq!(from_rsdt, from_xsdt);
    let tables: Vec<_> = from_xsdt.iter().map(|address| table_at(&memory, *address)).collect();
    let names: Vec<_> = tables.iter().map(|table| std::str::from_utf8(&table[..4]).unwrap()).collect();
    assert_eq!(names, ["FACP", "APIC", "HPET", "WAET"]);

    let fadt = tables[0];
    assert_eq!((fadt.len(), fadt[8]), (244, 3));
    let facs = u64::from(u32_at(fadt, 36));
    assert_eq!((facs % 64, table_at(&memory, facs).len()), (0, 64));
    let dsdt = u64::from(u32_at(fadt, 40));
    assert_eq!(dsdt, u64::from_le_bytes(fadt[140..148].try_into().unwrap()));
    assert_eq!(&table_at(&memory, dsdt)[..4], b"DSDT");
    assert_eq!(table_at(&memory, facs)[..4], *b"FACS");
}

#[test]
fn fixed_registers_are_where_the_fadt_says() {
    let fadt = tables::fadt(0x600, 0, 64).bytes;
    assert_eq!(fadt[46..48], [9, 0]);
    assert_eq!(fadt[48..54], [0xb2, 0, 0, 0, 0xf1, 0xf0]);
    assert_eq!([56, 64, 76, 80].map(|at| u32_at(&fadt, at)), [0x600, 0x604, 0x608, 0xafe0]);
    assert_eq!(fadt[88..93], [4, 2, 0, 4, 4]);
    assert_eq!(fadt[108], 0x32);
    assert_eq!(fadt[109..111], [3, 0]);
    assert_eq!(fadt[116..129], [1, 8, 0, 0, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0, 6]);
    assert_eq!(fadt[148..156], [1, 32, 0, 0, 0, 6, 0, 0]);
    assert_eq!(fadt[172..180], [1, 16, 0, 0, 4, 6, 0, 0]);
    assert_eq!(fadt[208..216], [1, 32, 0, 0, 8, 6, 0, 0]);
    assert_eq!(fadt[220..228], [1, 32, 0, 0, 0xe0, 0xaf, 0, 0]);
}

#[test]
fn every_cpu_is_in_the_madt_and_the_dsdt() {
    for cpus in [1, 3, 255] {
        let madt = tables::madt(cpus).bytes;
        let mut rest = &madt[44..];
        let mut found = Vec::new();
        while let [kind, len, ..] = *rest {
            if kind == 0 {
                found.push((rest[2], rest[3], u32_at(rest, 4)));
            }
            rest = &rest[usize::from(len)..];
        }
        let expected: Vec<_> = (0..cpus.min(254)).map(|cpu| (cpu, cpu, 1)).collect();
        assert_eq!(found, expected);
        let dsdt = dsdt::dsdt(&AcpiConfig { cpus, ..config() }).bytes;
        let processors = dsdt.windows(2).filter(|term| *term == [0x5b, 0x83]).count();
        assert_eq!(processors, usize::from(cpus.min(254)));
    }
}

#[test]
fn the_dsdt_follows_the_configuration() {
    let has = |config: &AcpiConfig, name: &[u8; 4]| dsdt::dsdt(config).bytes.windows(4).any(|window| window == name);
    let all = config();
    let least = AcpiConfig { hpet: false, serial: false, high_window: None, ..config() };
    for (name, optional) in [(b"HPET", true), (b"COM1", true), (b"KBD_", false), (b"LNKS", false), (b"_PRT", false)] {
        assert!(has(&all, name));
        assert_eq!(has(&least, name), !optional);
    }
    let names: Vec<_> = load(&AcpiTables::new(&least)).into_keys().collect();
    assert_eq!(names, [RSDP_FILE, TABLES_FILE]);
}

#[test]
#[ignore = "writes the tables to the folder in BENCHTOP_ACPI_DUMP, to look at with iasl -d"]
fn dump() {
    let folder = std::env::var_os("BENCHTOP_ACPI_DUMP").unwrap();
    let folder = std::path::Path::new(&folder);
    let memory = load(&AcpiTables::new(&config()));
    let (base, bytes) = &memory[TABLES_FILE];
    for at in (64..bytes.len()).step_by(16) {
        let header = &bytes[at..];
        if header.len() > 36 && header[..4].iter().all(u8::is_ascii_uppercase) && header[10..16] == *b"BNCHTP" {
            let table = table_at(&memory, base + at as u64);
            let name = String::from_utf8(header[..4].to_vec()).unwrap();
            std::fs::write(folder.join(name).with_extension("dat"), table).unwrap();
        }
    }
}
