//! The descriptor: a text that says of which extents a disk consists.

use benchtop_block::BlockError;

use super::{corrupt, unsupported};

/// Extents of one disk, at most: each is an open file.
pub(super) const MAX_EXTENTS: usize = 512;
/// Sectors of a disk, at most: 64 TiB.
pub(super) const MAX_SECTORS: u64 = 64 << 31;

/// Where the content of an extent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExtentStorage {
    /// Byte for byte in a file.
    Flat { name: String, start_sectors: u64 },
    /// In a sparse file.
    Sparse { name: String },
    /// Nowhere.
    Zero,
}

/// A run of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExtentLine {
    pub(super) read_only: bool,
    /// At most [`MAX_SECTORS`], not 0.
    pub(super) sectors: u64,
    pub(super) storage: ExtentStorage,
}

/// What a descriptor says.
#[derive(Clone, Debug)]
pub(super) struct Descriptor {
    pub(super) create_type: String,
    /// In order; together not more than 64 TiB.
    pub(super) extents: Vec<ExtentLine>,
    /// Where in the text the eight hexadecimal digits of the content's identity are, in bytes.
    pub(super) content_id_at: Option<u64>,
}

/// Whether a name says a file of the same folder and nothing else, on every host.
pub(super) fn is_plain_name(name: &str) -> bool {
    let forbidden = |character: char| {
        character.is_control() || matches!(character, '/' | '\\' | ':' | '"' | char::REPLACEMENT_CHARACTER)
    };
    !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && !name.chars().any(forbidden)
}

impl Descriptor {
    /// Reads a descriptor, which may end in zeroes.
    ///
    /// # Errors
    /// `Corrupt`, or `Unsupported` naming what is not built.
    pub(super) fn parse(text: &[u8]) -> Result<Self, BlockError> {
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        let content_id_at = content_id_at(text);
        let text = String::from_utf8_lossy(text);
        let mut create_type = String::new();
        let mut extents = Vec::new();
        let mut sectors = 0u64;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let access = line.split_whitespace().next().unwrap_or_default();
            if matches!(access, "RW" | "RDONLY" | "NOACCESS") {
                let extent = parse_extent(line)?;
                sectors = sectors.saturating_add(extent.sectors);
                if extents.len() >= MAX_EXTENTS || sectors > MAX_SECTORS {
                    return Err(unsupported("a VMDK of that many extents or sectors is not built"));
                }
                extents.push(extent);
                continue;
            }
            let Some((key, value)) = line.split_once('=') else { continue };
            let value = value.trim().trim_matches('"');
            match key.trim().to_ascii_lowercase().as_str() {
                "createtype" => value.clone_into(&mut create_type),
                "parentcid" if !value.eq_ignore_ascii_case("ffffffff") => {
                    return Err(unsupported("a VMDK with a parent (a snapshot) is not built"));
                }
                "encoding" if !value.eq_ignore_ascii_case("UTF-8") && !text.is_ascii() => {
                    return Err(unsupported(format!("a VMDK descriptor in {value:?} is not built")));
                }
                _ => {}
            }
        }
        if extents.is_empty() {
            return Err(corrupt("the VMDK descriptor names no extents"));
        }
        let known = [
            "monolithicSparse",
            "streamOptimized",
            "monolithicFlat",
            "twoGbMaxExtentSparse",
            "twoGbMaxExtentFlat",
            "vmfs",
            "custom",
        ];
        if !known.contains(&create_type.as_str()) {
            return Err(unsupported(format!("a VMDK of the type {create_type:?} is not built")));
        }
        Ok(Self { create_type, extents, content_id_at })
    }

    /// The files it names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.extents.iter().filter_map(|extent| match &extent.storage {
            ExtentStorage::Flat { name, .. } | ExtentStorage::Sparse { name } => Some(name.as_str()),
            ExtentStorage::Zero => None,
        })
    }
}

/// `ACCESS SECTORS TYPE ["NAME" [START]]`.
fn parse_extent(line: &str) -> Result<ExtentLine, BlockError> {
    let wrong = || corrupt(format!("this is no VMDK extent: {:?}", line.chars().take(200).collect::<String>()));
    let (facts, rest) = line.split_once('"').unwrap_or((line, ""));
    let mut facts = facts.split_whitespace();
    let access = facts.next().unwrap_or_default();
    if access == "NOACCESS" {
        return Err(unsupported("a VMDK extent without access is not built"));
    }
    let sectors: u64 = facts.next().and_then(|number| number.parse().ok()).ok_or_else(wrong)?;
    if sectors == 0 || sectors > MAX_SECTORS {
        return Err(wrong());
    }
    let kind = facts.next().ok_or_else(wrong)?;
    let storage = if kind == "ZERO" {
        ExtentStorage::Zero
    } else {
        let (name, start) = rest.split_once('"').ok_or_else(wrong)?;
        if !is_plain_name(name) {
            return Err(unsupported(format!("a VMDK extent outside the image's folder is refused: {name:?}")));
        }
        let name = name.to_owned();
        match kind {
            // ESX's flat files differ in nothing but the word.
            "FLAT" | "VMFS" => {
                let start = start.trim();
                let start_sectors = if start.is_empty() { 0 } else { start.parse().map_err(|_error| wrong())? };
                if start_sectors > MAX_SECTORS {
                    return Err(wrong());
                }
                ExtentStorage::Flat { name, start_sectors }
            }
            "SPARSE" => ExtentStorage::Sparse { name },
            other => return Err(unsupported(format!("VMDK extents of the type {other:?} are not built"))),
        }
    };
    Ok(ExtentLine { read_only: access == "RDONLY", sectors, storage })
}

/// Where the line `CID=` has its digits, if there are eight.
fn content_id_at(text: &[u8]) -> Option<u64> {
    let mut at = 0;
    for line in text.split(|byte| *byte == b'\n') {
        if let Some(digits) = line.strip_prefix(b"CID=") {
            let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
            let whole = digits.len() == 8 && digits.iter().all(u8::is_ascii_hexdigit);
            return whole.then_some(at + 4);
        }
        at += line.len() as u64 + 1;
    }
    None
}

/// A new identity of the content: programs that keep snapshots tell by it that a disk was written. Never FFFFFFFFh,
/// which means none.
pub(super) fn new_content_id() -> String {
    let [a, b, c, d, ..] = *uuid::Uuid::new_v4().as_bytes();
    format!("{:08x}", u32::from_le_bytes([a, b, c, d]) & 0x7fff_ffff)
}

/// The text of a new image of so many sectors, whose extents are these lines.
pub(super) fn new_text(create_type: &str, extents: &str, sectors: u64) -> String {
    let content_id = new_content_id();
    // The largest geometry an IDE disk has; more sectors are reached by their number.
    let cylinders = (sectors / (16 * 63)).clamp(1, 16383);
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={content_id}\nparentCID=ffffffff\ncreateType=\"{create_type}\"\n\n\
         # Extent description\n{extents}\n\
         # The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\nddb.adapterType = \"ide\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(extents: &str) -> String {
        format!(
            "# Disk DescriptorFile\nversion=1\r\nCID=0123abcd\r\nparentCID=ffffffff\ncreateType=\"custom\"\n{extents}\n"
        )
    }

    #[test]
    fn extents_are_read() {
        let text = text("RW 10 SPARSE \"a b.vmdk\"\nRDONLY 20 FLAT \"c\" 7\nRW 30 ZERO\nRW 1 VMFS \"d\"");
        let descriptor = Descriptor::parse(text.as_bytes()).unwrap();
        assert_eq!(descriptor.names().collect::<Vec<_>>(), ["a b.vmdk", "c", "d"]);
        assert_eq!(descriptor.extents[1].storage, ExtentStorage::Flat { name: "c".into(), start_sectors: 7 });
        assert!(descriptor.extents[1].read_only && !descriptor.extents[0].read_only);
        let at = descriptor.content_id_at.unwrap() as usize;
        assert_eq!(&text[at..at + 8], "0123abcd");
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in ["/etc/passwd", "../x", "a/b", "a\\b", "C:x", "", ".", "..", "x\u{1}", "\\\\host\\share"] {
            let error = Descriptor::parse(text(&format!("RW 10 FLAT \"{name}\" 0")).as_bytes()).unwrap_err();
            assert!(error.to_string().contains("outside"), "{name}: {error}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for extents in [
            "",
            "RW",
            "RW 0 ZERO",
            "RW x ZERO",
            "RW 1",
            "RW 1 FLAT",
            "RW 1 FLAT \"a",
            "RW 1 FLAT \"a\" z",
            "RW 18446744073709551615 ZERO",
            "RW 1 SESPARSE \"a\"",
            "NOACCESS 1 ZERO",
            "RW 1 FLAT \"a\" 99999999999999999",
        ] {
            Descriptor::parse(text(extents).as_bytes()).unwrap_err();
        }
        let many = "RW 1 ZERO\n".repeat(MAX_EXTENTS + 1);
        Descriptor::parse(text(&many).as_bytes()).unwrap_err();
        Descriptor::parse(text("RW 1 ZERO").replace("ffffffff", "12345678").as_bytes()).unwrap_err();
        Descriptor::parse(text("RW 1 ZERO").replace("custom", "fullDevice").as_bytes()).unwrap_err();
    }
}
