//! [`Failure`]: an error as a person reads it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a failure is to a script: each kind is one exit code of the CLI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Anything without a kind of its own. Exit code 1.
    Failed,
    /// The request makes no sense. Exit code 2.
    Usage,
    /// No such VM, disk or snapshot. Exit code 3.
    NotFound,
    /// Running, locked, or off where it must not be. Exit code 4.
    WrongState,
    /// No permission, or a host that is not capable. Exit code 5.
    NotCapable,
    /// Bad password. Exit code 6.
    BadPassword,
    /// Integrity or rollback detected. Exit code 7.
    Integrity,
    /// No space on the host. Exit code 8.
    NoSpace,
    /// Not in time. Exit code 9.
    Timeout,
    /// A check found damage. Exit code 10.
    Damage,
    /// A check found only leaks. Exit code 11.
    Leaks,
    /// Interrupted by the user. Exit code 130.
    Interrupted,
}

impl FailureKind {
    /// The exit code of a process that ends with this.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::WrongState => 4,
            Self::NotCapable => 5,
            Self::BadPassword => 6,
            Self::Integrity => 7,
            Self::NoSpace => 8,
            Self::Timeout => 9,
            Self::Damage => 10,
            Self::Leaks => 11,
            Self::Interrupted => 130,
        }
    }
}

/// An error in three parts: what failed, why, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its kind.
    pub kind: FailureKind,
    /// What failed, a sentence without its full stop.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do.
    pub fix: String,
}

impl Failure {
    /// A failure of `kind`.
    pub fn new(kind: FailureKind, what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { kind, what: what.into(), why: why.into(), fix: fix.into() }
    }

    /// A failure of the host's file system, its kind taken from `error`.
    pub fn from_io(what: impl Into<String>, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let (kind, fix) = match error.kind() {
            ErrorKind::NotFound => (FailureKind::NotFound, "Check the path."),
            ErrorKind::PermissionDenied => {
                (FailureKind::NotCapable, "Give your user access to it, or choose another place.")
            }
            ErrorKind::ReadOnlyFilesystem => (FailureKind::NotCapable, "Choose a place that can be written."),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                (FailureKind::NoSpace, "Free some space on that file system, or choose another one.")
            }
            // However much is free: the file system, or a limit of the user's, has no files of that size.
            ErrorKind::FileTooLarge => (FailureKind::Failed, "Make it smaller, or choose another file system."),
            ErrorKind::AlreadyExists => (FailureKind::Failed, "Choose another name, or remove what is there."),
            ErrorKind::TimedOut | ErrorKind::WouldBlock => (FailureKind::Timeout, "Try again."),
            _ => (FailureKind::Failed, "Look at the reason above; the host's log may say more."),
        };
        Self::new(kind, what, capitalised(&error.to_string()), fix)
    }

    /// The same failure with other advice.
    #[must_use]
    pub fn with_fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// The same failure as another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: FailureKind) -> Self {
        self.kind = kind;
        self
    }
}

/// A cause, as its chain of sources reads in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    capitalised(&text)
}

/// `text` with a capital first letter and a full stop.
fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    let mut out: String = match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => return String::new(),
    };
    if !out.ends_with(['.', '!', '?']) {
        out.push('.');
    }
    out
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if !self.why.is_empty() {
            write!(f, "\n  why: {}", self.why)?;
        }
        if !self.fix.is_empty() {
            write!(f, "\n  do:  {}", self.fix)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_conditions_keep_their_meaning() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(Failure::from_io("can not save", &full).kind.exit_code(), 8);
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        assert_eq!(Failure::from_io("can not open", &denied).kind.exit_code(), 5);
        let large = Failure::from_io("can not make", &std::io::Error::from(std::io::ErrorKind::FileTooLarge));
        assert!(large.kind == FailureKind::Failed && large.fix.contains("smaller"));
    }

    #[test]
    fn three_parts_are_shown() {
        let failure = Failure::new(FailureKind::Usage, "can not do it", "It is too large.", "Make it smaller.");
        assert_eq!(failure.to_string(), "can not do it\n  why: It is too large.\n  do:  Make it smaller.");
    }
}
