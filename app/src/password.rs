//! Passwords: from a prompt, a descriptor or a file, and never from arguments or the environment.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use benchtop_control::{Failure, FailureKind};
use benchtop_machine::monitor::image::{PASSWORD_BYTES_MAX, Password, wants_password};
use clap::Args;
use rustix::process::{Resource, Rlimit, setrlimit};
use zeroize::Zeroizing;

use crate::output::Output;
use crate::plain;

/// How often a wrong password may be typed.
const TRIES: usize = 3;

/// Where the password of an encrypted disk comes from, if not from a prompt.
#[derive(Clone, Debug, Default, Args)]
pub struct PasswordArgs {
    /// Read the password from this open descriptor: a pipe or a file
    #[arg(long, value_name = "N", conflicts_with = "password_file")]
    pub password_fd: Option<u32>,
    /// Read the password from this file
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

/// The same for a disk that is made, or gets another password.
#[derive(Clone, Debug, Default, Args)]
pub struct NewPasswordArgs {
    /// Read the new password from this open descriptor
    #[arg(long, value_name = "N", conflicts_with = "new_password_file")]
    pub new_password_fd: Option<u32>,
    /// Read the new password from this file
    #[arg(long, value_name = "FILE")]
    pub new_password_file: Option<PathBuf>,
}

/// The same for the second of two disks, where it has another one.
#[derive(Clone, Debug, Default, Args)]
pub struct OtherPasswordArgs {
    /// Read the second disk's password, where it is another one, from this open descriptor
    #[arg(long, value_name = "N", conflicts_with = "other_password_file")]
    pub other_password_fd: Option<u32>,
    /// Read the second disk's password, where it is another one, from this file
    #[arg(long, value_name = "FILE")]
    pub other_password_file: Option<PathBuf>,
}

impl OtherPasswordArgs {
    /// Where it comes from; `None` if nothing was said.
    pub fn said(&self) -> Option<PasswordArgs> {
        let said = self.other_password_fd.is_some() || self.other_password_file.is_some();
        said.then(|| PasswordArgs {
            password_fd: self.other_password_fd,
            password_file: self.other_password_file.clone(),
        })
    }
}

impl From<&NewPasswordArgs> for PasswordArgs {
    fn from(args: &NewPasswordArgs) -> Self {
        Self { password_fd: args.new_password_fd, password_file: args.new_password_file.clone() }
    }
}

impl PasswordArgs {
    /// Whether one was given, rightly or wrongly.
    pub fn is_given(&self) -> bool {
        self.password_fd.is_some() || self.password_file.is_some()
    }

    /// The password that was given, if one was.
    ///
    /// # Errors
    /// It can not be read, is empty or too long.
    pub fn given(&self) -> Result<Option<Password>, Failure> {
        let path = match (self.password_fd, &self.password_file) {
            (None, None) => return Ok(None),
            // Opened anew, which any descriptor of a pipe or a file allows, and without trusting its number.
            (Some(number), _) => PathBuf::from(format!("/dev/fd/{number}")),
            (None, Some(path)) => path.clone(),
        };
        let what = format!("can not read the password from {}", path.display());
        File::open(&path)
            .map_err(|error| Failure::from_io(what.as_str(), &error))
            .and_then(|file| read(file, &what))
            .map(Some)
    }

    /// Opens something with the password that was given, or without one and then, where that is asked for, with one
    /// from a prompt.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn unlock<T>(
        &self,
        output: &Output,
        name: &str,
        mut open: impl FnMut(Option<&Password>) -> Result<T, Failure>,
    ) -> Result<(T, Option<Password>), Failure> {
        if let Some(password) = self.given()? {
            return open(Some(&password)).map(|opened| (opened, Some(password)));
        }
        let mut failure = match open(None) {
            Ok(opened) => return Ok((opened, None)),
            Err(failure) if wants_password(&failure) && can_prompt(output) => failure,
            Err(failure) => return Err(failure),
        };
        for _ in 0..TRIES {
            let password = prompt(&format!("Password of {name}: "))?;
            match open(Some(&password)) {
                Ok(opened) => return Ok((opened, Some(password))),
                Err(wrong) if wrong.kind == FailureKind::BadPassword => {
                    output.remark(&wrong.why);
                    failure = wrong;
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(failure)
    }

    /// A password for something new: what was given, or typed twice.
    ///
    /// # Errors
    /// None was given and there is no terminal; the two differ.
    pub fn new_password(&self, output: &Output, name: &str) -> Result<Password, Failure> {
        if let Some(password) = self.given()? {
            return Ok(password);
        }
        let what = format!("can not encrypt {name}");
        if !can_prompt(output) {
            let fix = "Give a password with --password-fd or --password-file.";
            return Err(Failure::new(
                FailureKind::BadPassword,
                what,
                "There is no terminal to ask for a password.",
                fix,
            ));
        }
        let password = prompt(&format!("New password of {name}: "))?;
        if prompt("The same again: ")? != password {
            return Err(Failure::new(FailureKind::BadPassword, what, "The two are not the same.", "Try again."));
        }
        Ok(password)
    }
}

/// Reads all of `file`, without the end of its last line.
fn read(file: File, what: &str) -> Result<Password, Failure> {
    no_core_dumps(what)?;
    // Large enough from the start: a buffer that grows leaves its old places unwiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(PASSWORD_BYTES_MAX + 3));
    let limit = bytes.capacity() as u64;
    file.take(limit).read_to_end(&mut bytes).map_err(|error| Failure::from_io(what, &error))?;
    for end in [b'\n', b'\r'] {
        if bytes.last() == Some(&end) {
            bytes.pop();
        }
    }
    check(bytes, what)
}

fn check(password: Password, what: &str) -> Result<Password, Failure> {
    let why = match password.len() {
        0 => "It is empty.".to_owned(),
        1..=PASSWORD_BYTES_MAX => return Ok(password),
        _ => format!("It is longer than {PASSWORD_BYTES_MAX} bytes."),
    };
    Err(Failure::new(FailureKind::BadPassword, what, why, "Choose another one."))
}

fn can_prompt(output: &Output) -> bool {
    !output.is_json() && std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

fn prompt(question: &str) -> Result<Password, Failure> {
    let what = "can not ask for the password";
    no_core_dumps(what)?;
    let text = rpassword::prompt_password(plain::line(question)).map_err(|error| Failure::from_io(what, &error))?;
    check(Zeroizing::new(text.into_bytes()), "can not use that password")
}

/// A crash of a process that knows a password leaves no picture of its memory.
fn no_core_dumps(what: &str) -> Result<(), Failure> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(|error| Failure::from_io(what, &error.into()))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    fn read_text(text: &[u8]) -> Result<Password, Failure> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        file.rewind().unwrap();
        read(file, "test")
    }

    #[test]
    fn a_password_is_a_line_or_bytes() {
        assert_eq!(read_text(b"secret\n").unwrap()[..], *b"secret");
        assert_eq!(read_text(b"secret\r\n").unwrap()[..], *b"secret");
        assert_eq!(read_text(b" two\nlines \n").unwrap()[..], *b" two\nlines ");
        assert_eq!(read_text(&[7; PASSWORD_BYTES_MAX]).unwrap().len(), PASSWORD_BYTES_MAX);
        for wrong in [&b""[..], b"\n", &[7; PASSWORD_BYTES_MAX + 1]] {
            assert_eq!(read_text(wrong).unwrap_err().kind, FailureKind::BadPassword);
        }
    }
}
