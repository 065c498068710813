//! Where a server is: NBD URIs (doc/uri.md of the NetworkBlockDevice project).

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use benchtop_block::{BlockError, BlockErrorKind};

/// With and without TLS.
const SCHEMES: [&str; 4] = ["nbd", "nbd+unix", "nbds", "nbds+unix"];
/// The port of NBD (IANA).
const PORT: u16 = 10809;

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// A host by name or number, and a port.
    Tcp(String, u16),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// What an NBD URI names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// Where the server is.
    pub address: Address,
    /// The export's name.
    pub export: String,
    /// The name its certificate must be of, where it is reached by TLS.
    pub tls_host: Option<String>,
}

impl Uri {
    /// Whether a text begins as an NBD URI, and so is no file's name.
    pub fn is_one(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| SCHEMES.contains(&scheme))
    }

    /// Reads `nbd://HOST[:PORT]/[EXPORT]` or `nbd+unix:///[EXPORT]?socket=PATH`, with percent-encoding in names and path;
    /// `nbds` in the place of `nbd` means TLS, with `tls-hostname=NAME` in the query where the server's certificate is of
    /// another name than HOST.
    ///
    /// # Errors
    /// `Unsupported` for what is no NBD URI, or asks for what is not built.
    pub fn parse(uri: &str) -> Result<Self, BlockError> {
        let wrong = |why: &str| BlockError::new(BlockErrorKind::Unsupported, why);
        let not_one = || wrong("this is not an NBD URI");
        let (scheme, rest) = uri.split_once("://").ok_or_else(not_one)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let export = decode(path).and_then(|name| String::from_utf8(name).ok()).ok_or_else(not_one)?;
        let item = |name: &str| query.split('&').find_map(|item| item.strip_prefix(name)?.strip_prefix('='));
        if item("tls-psk-file").is_some() {
            return Err(wrong("TLS to an NBD server by a shared key is not built"));
        }
        let (address, host) = match scheme {
            // No user names without shared keys.
            "nbd" | "nbds" => {
                let (host, port) = split_port(authority).ok_or_else(not_one)?;
                (Address::Tcp(host.clone(), port), Some(host))
            }
            "nbd+unix" | "nbds+unix" if authority.is_empty() => {
                let path = item("socket").and_then(decode).filter(|path| !path.is_empty() && !path.contains(&0));
                let path = path.ok_or_else(|| wrong("the URI names no socket"))?;
                (Address::Unix(OsString::from_vec(path).into()), None)
            }
            _ => return Err(not_one()),
        };
        let tls_host = match scheme {
            "nbds" | "nbds+unix" => {
                let said = item("tls-hostname").and_then(decode).and_then(|name| String::from_utf8(name).ok());
                let host = said.or(host).ok_or_else(|| {
                    wrong("the URI does not say of what name the server's certificate is (tls-hostname=NAME)")
                })?;
                Some(host)
            }
            _ => None,
        };
        Ok(Self { address, export, tls_host })
    }
}

/// Host and port; a number with colons stands in brackets.
fn split_port(authority: &str) -> Option<(String, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() || host.contains('@') {
        return None;
    }
    Some((host.to_owned(), port.map_or(Some(PORT), |port| port.parse().ok())?))
}

/// Percent-decoding (RFC 3986, section 2.1).
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            u8::try_from(digit(rest.next()?)? * 16 + digit(rest.next()?)?).ok()?
        } else {
            byte
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_taken_apart() {
        let tcp = |host: &str, port| Address::Tcp(host.to_owned(), port);
        let unix = |path: &str| Address::Unix(path.into());
        for (uri, address, export, tls_host) in [
            ("nbd://localhost", tcp("localhost", 10809), "", None),
            ("nbd://10.0.0.1:7/disk%20one", tcp("10.0.0.1", 7), "disk one", None),
            ("nbd://[::1]:9/", tcp("::1", 9), "", None),
            ("nbd+unix:///x?a=b&socket=/run/a%3fb", unix("/run/a?b"), "x", None),
            ("nbds://a/", tcp("a", 10809), "", Some("a")),
            ("nbds://10.0.0.1/?tls-hostname=b%2ec", tcp("10.0.0.1", 10809), "", Some("b.c")),
            ("nbds+unix:///x?socket=s&tls-hostname=d", unix("s"), "x", Some("d")),
        ] {
            let (export, tls_host) = (export.to_owned(), tls_host.map(str::to_owned));
            assert_eq!(Uri::parse(uri).unwrap(), Uri { address, export, tls_host }, "{uri}");
            assert!(Uri::is_one(uri));
        }
        for uri in [
            "",
            "http://a/",
            "nbd:///x",
            "nbd://a:b/",
            "nbd://[::1/",
            "nbd://u@a/",
            "nbd://a/%4",
            "nbd://a/%ff",
            "nbd+unix:///",
            "nbd+unix:///?socket=",
            "nbd+unix:///?socket=%00",
            "nbd+unix://a/?socket=b",
            "nbds+unix:///?socket=b",
            "nbds://a/?tls-psk-file=k",
        ] {
            assert_eq!(Uri::parse(uri).unwrap_err().kind(), BlockErrorKind::Unsupported, "{uri}");
        }
        assert!(!Uri::is_one("http://a/") && !Uri::is_one("nbd:a") && !Uri::is_one("disk.raw"));
    }
}
