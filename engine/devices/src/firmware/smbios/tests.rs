use super::*;

fn config(ram: &[(u64, u64)]) -> SmbiosConfig {
    SmbiosConfig {
        uuid: [0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff],
        manufacturer: String::from("Benchtop"),
        product: String::from("Benchtop PC"),
        version: String::from("1"),
        serial: String::new(),
        cpus: 2,
        ram: ram.to_vec(),
    }
}

struct Parsed {
    kind: u8,
    handle: u16,
    formatted: Vec<u8>,
    strings: Vec<String>,
}

fn parse(tables: &[u8]) -> Vec<Parsed> {
    let mut structures = Vec::new();
    let mut rest = tables;
    while let [kind, len, ..] = *rest {
        let formatted = rest[..usize::from(len)].to_vec();
        let tail = &rest[usize::from(len)..];
        let end = tail.windows(2).position(|pair| pair == [0, 0]).unwrap();
        let strings: Vec<_> =
            tail[..end].split(|byte| *byte == 0).map(|text| String::from_utf8(text.to_vec()).unwrap()).collect();
        let strings = if end == 0 { Vec::new() } else { strings };
        let handle = u16::from_le_bytes([formatted[2], formatted[3]]);
        structures.push(Parsed { kind, handle, formatted, strings });
        rest = &tail[end + 2..];
    }
    structures
}

#[test]
fn structures_have_the_lengths_of_their_version() {
    let tables = SmbiosTables::new(&config(&[(0, 0xc000_0000), (1 << 32, 0x4000_0000)]));
    let structures = parse(&tables.tables);
    let shapes: Vec<_> = structures.iter().map(|one| (one.kind, one.formatted.len())).collect();
    let expected = [
        (1, 0x1b),
        (2, 0x0f),
        (3, 0x16),
        (4, 0x2a),
        (4, 0x2a),
        (16, 0x17),
        (17, 0x28),
        (19, 0x1f),
        (19, 0x1f),
        (32, 0x0b),
        (127, 4),
    ];
    assert_eq!(shapes, expected);
    let mut handles: Vec<_> = structures.iter().map(|one| one.handle).collect();
    handles.dedup();
    assert_eq!(handles.len(), structures.len());
    assert_eq!(structures[0].strings, ["Benchtop", "Benchtop PC", "1"]);
    // Little endian up to the third field; no serial number.
    let system = &structures[0].formatted;
    assert_eq!(system[7], 0);
    assert_eq!(system[8..18], [0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99]);
    assert_eq!(structures[8].formatted[4..12], [0, 0, 0x40, 0, 0xff, 0xff, 0x4f, 0]);

    let anchor = &tables.anchor;
    assert_eq!((anchor.len(), &anchor[..4], &anchor[16..21]), (31, b"_SM_".as_slice(), b"_DMI_".as_slice()));
    assert_eq!(anchor[5], 31);
    assert_eq!(usize::from(u16::from_le_bytes([anchor[22], anchor[23]])), tables.tables.len());
    assert_eq!(usize::from(u16::from_le_bytes([anchor[28], anchor[29]])), structures.len());
    assert_eq!(anchor[30], 0x28);
}

#[test]
fn large_memory_is_several_devices() {
    let tables = SmbiosTables::new(&config(&[(0, 0xc000_0000), (1 << 32, 61 << 30)]));
    let structures = parse(&tables.tables);
    let sizes: Vec<_> = structures
        .iter()
        .filter(|one| one.kind == 17)
        .map(|one| u16::from_le_bytes([one.formatted[12], one.formatted[13]]))
        .collect();
    assert_eq!(sizes, [16384; 4]);
    let huge = SmbiosTables::new(&config(&[(0, 1 << 30), (1 << 32, 1 << 44)]));
    let array = parse(&huge.tables).into_iter().find(|one| one.kind == 16).unwrap().formatted;
    assert_eq!(array[7..11], 0x8000_0000u32.to_le_bytes());
    assert_eq!(array[15..23], ((1u64 << 44) + (1 << 30)).to_le_bytes());
}

#[test]
fn odd_input_is_cut_to_fit() {
    let mut odd = config(&[(0, 1)]);
    odd.cpus = 0;
    odd.product = "x\0y".repeat(100);
    let structures = parse(&SmbiosTables::new(&odd).tables);
    assert_eq!(structures[0].strings[1].len(), 64);
    assert_eq!(structures.iter().filter(|one| one.kind == 4).count(), 1);
    assert_eq!(structures.last().unwrap().kind, 127);
}
