//! Reading and writing the text of `machine.toml`.

use serde::Deserialize;

use crate::config::{InvalidConfig, SCHEMA, VmConfig};

/// The largest file that is read: a real one has a few hundred bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 20;
/// The longest message about one.
const MESSAGE_CHARS_MAX: usize = 200;

/// The first line of a file this program wrote.
const HEADER: &str = "# A Benchtop machine. It may be edited while the machine is off.";
/// And its last: TOML cut between two tables is still TOML, so a file with the first line and without this one lost
/// devices.
const TRAILER: &str = "# end of machine";

/// Why a `machine.toml` was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Written by a later version.
    #[error("it was written by a newer version of Benchtop (its schema is {0})")]
    Newer(String),
    /// Not a machine at all.
    #[error("it is no Benchtop machine (its schema is `{0}`)")]
    Foreign(String),
    /// The end is missing.
    #[error("it is cut short: its last line is missing")]
    Truncated,
    /// Not TOML, or cut short, or with fields missing or unknown.
    #[error("it can not be read: {0}")]
    Syntax(String),
    /// Fields that can not be.
    #[error(transparent)]
    Invalid(#[from] InvalidConfig),
    /// Far too large.
    #[error("it is larger than 1 MiB")]
    TooLarge,
}

/// The one field every version has.
#[derive(Deserialize)]
struct SchemaOnly {
    schema: String,
}

/// Reads a configuration.
///
/// # Errors
/// [`ConfigError`].
pub fn parse(text: &str) -> Result<VmConfig, ConfigError> {
    if u64::try_from(text.len()).is_ok_and(|len| len > FILE_BYTES_MAX) {
        return Err(ConfigError::TooLarge);
    }
    let has_line = |line: &str| text.lines().any(|other| other.trim_end() == line);
    if has_line(HEADER) && !has_line(TRAILER) {
        return Err(ConfigError::Truncated);
    }
    // The schema first: a newer file may well have fields this version does not know.
    let head: SchemaOnly = toml::from_str(text).map_err(|error| ConfigError::Syntax(one_line(text, &error)))?;
    if head.schema != SCHEMA {
        let version = head.schema.strip_prefix("benchtop.machine/").and_then(|text| text.parse::<u32>().ok());
        return Err(match version {
            Some(version) if version > 1 => ConfigError::Newer(head.schema),
            _ => ConfigError::Foreign(head.schema),
        });
    }
    let config: VmConfig = toml::from_str(text).map_err(|error| ConfigError::Syntax(one_line(text, &error)))?;
    config.validate()?;
    Ok(config)
}

/// Writes a configuration, after the same checks as for reading.
///
/// # Errors
/// [`ConfigError`].
pub fn print(config: &VmConfig) -> Result<String, ConfigError> {
    config.validate()?;
    let body = toml::to_string_pretty(config).map_err(|error| ConfigError::Syntax(error.to_string()))?;
    Ok(format!("{HEADER}\n{body}\n{TRAILER}\n"))
}

/// TOML's own message and the number of the line it speaks of, in one line; the line itself may be of any length.
fn one_line(text: &str, error: &toml::de::Error) -> String {
    let message: Vec<&str> = error.message().split_whitespace().collect();
    let message = message.join(" ");
    let mut short: String = message.chars().take(MESSAGE_CHARS_MAX).collect();
    if short.len() < message.len() {
        short.push('…');
    }
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => format!("line {}: {short}", before.matches('\n').count() + 1),
        None => short,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{CdConfig, DiskConfig};

    fn sample() -> VmConfig {
        let mut config = VmConfig::new("Debian 12");
        config.disks.push(DiskConfig {
            name: "disk0".to_owned(),
            file: "disks/disk0.strata".into(),
            format: crate::config::DiskFormat::Strata,
            bus: crate::config::DiskBus::Ide,
            cache: crate::config::CacheMode::Writeback,
            serial: config.serial_for_disk(0),
        });
        config.cds.push(CdConfig { name: "cd0".to_owned(), iso: Some("/tmp/x.iso".into()) });
        config
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = print(&sample()).unwrap();
        let read = parse(&text).unwrap();
        assert_eq!(print(&read).unwrap(), text);
        assert!(text.contains("memory = \"2G\""), "{text}");
    }

    #[test]
    fn a_newer_version_is_named() {
        let text = print(&sample()).unwrap().replace("machine/1", "machine/2") + "\nflux = true\n";
        assert_eq!(parse(&text), Err(ConfigError::Newer("benchtop.machine/2".to_owned())));
        let text = text.replace("benchtop.machine/2", "something/1");
        assert!(matches!(parse(&text), Err(ConfigError::Foreign(_))));
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error() {
        let text = print(&sample()).unwrap();
        // The last byte is the newline, without which nothing is lost.
        for cut in 0..text.len() - 1 {
            assert!(parse(&text[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn unknown_fields_are_errors() {
        let text = print(&sample()).unwrap().replace("cpus = 2", "cpus = 2\ncpu = 4");
        assert!(matches!(parse(&text), Err(ConfigError::Syntax(_))));
    }

    /// A message repeated a line of any length, with a picture of where in it the error is.
    /// Machines made before disks had formats.
    #[test]
    fn a_disk_without_a_format_is_raw() {
        let text = print(&sample()).unwrap();
        assert!(text.contains("format = \"strata\"\n"), "{text}");
        let config = parse(&text.replace("format = \"strata\"\n", "")).unwrap();
        assert_eq!(config.disks[0].format, crate::config::DiskFormat::Raw);
        assert!(parse(&text.replace("\"strata\"", "\"tape\"")).is_err());
    }

    #[test]
    fn a_message_is_short_and_names_the_line() {
        let text = print(&sample()).unwrap().replace("cpus = 2", &format!("cpus = 2\n{} = 4", "x".repeat(70_000)));
        let Err(ConfigError::Syntax(message)) = parse(&text) else { panic!("it was accepted") };
        assert!(message.len() < 400 && !message.contains('\n'), "{message}");
        let line = text.lines().position(|line| line.starts_with("xxx")).unwrap() + 1;
        assert!(message.starts_with(&format!("line {line}: unknown field")), "{message}");
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in ".{0,200}") {
            let _answer = parse(&text);
        }
    }
}
