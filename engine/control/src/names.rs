//! What a VM may be called.

/// The longest name, in bytes: with its suffix it must fit a file name of any host.
pub const NAME_BYTES_MAX: usize = 100;

/// Says what is wrong with a VM's name, if anything.
///
/// # Errors
/// A sentence for a person.
pub fn check_vm_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("A name can not be empty.");
    }
    if name.len() > NAME_BYTES_MAX {
        return Err("A name has at most 100 bytes.");
    }
    if name != name.trim() {
        return Err("A name can not begin or end with a space.");
    }
    if name.starts_with(['.', '-']) || name.ends_with('.') {
        return Err("A name can not begin with a dot or a hyphen, nor end with a dot.");
    }
    if name.chars().any(|c| c.is_control() || r#"/\:*?"<>|"#.contains(c)) {
        return Err(r#"A name can not hold control characters or any of / \ : * ? " < > |"#);
    }
    Ok(())
}

/// Says what is wrong with a disk's serial number, if anything: ATA has room for 20 printable ASCII characters.
///
/// # Errors
/// A sentence for a person.
pub fn check_serial(serial: &str) -> Result<(), &'static str> {
    if serial.is_empty() || serial.len() > 20 {
        return Err("A serial number has 1 to 20 characters.");
    }
    if !serial.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        return Err("A serial number is printable ASCII.");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_be_folders_everywhere() {
        for good in ["Debian 12", "été", "a", "win-11_x64", "x.y"] {
            assert_eq!(check_vm_name(good), Ok(()), "{good}");
        }
        for bad in ["", " a", "a ", ".", "..", ".hidden", "-x", "a/b", "a:b", "a\nb", "con?", &"x".repeat(101)] {
            assert!(check_vm_name(bad).is_err(), "{bad}");
        }
    }
}
