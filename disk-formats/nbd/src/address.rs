//! Where a server is: NBD URIs (doc/uri.md of the NetworkBlockDevice project).

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use benchtop_block::{BlockError, BlockErrorKind};

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

impl Address {
    /// Address and export name in a URI: `nbd://HOST[:PORT]/[NAME]` or `nbd+unix:///[NAME]?socket=PATH`, with
    /// percent-encoding in name and path.
    ///
    /// # Errors
    /// `Unsupported` for the schemes with TLS and for what is no NBD URI.
    pub fn parse_uri(uri: &str) -> Result<(Self, String), BlockError> {
        let wrong = |why: &str| BlockError::new(BlockErrorKind::Unsupported, format!("{why}: {uri}"));
        let not_one = || wrong("this is not an NBD URI");
        let (scheme, rest) = uri.split_once("://").ok_or_else(not_one)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let name = decode(path).and_then(|name| String::from_utf8(name).ok()).ok_or_else(not_one)?;
        match scheme {
            "nbd" => {
                // No user names without TLS.
                let (host, port) = split_port(authority).ok_or_else(not_one)?;
                Ok((Self::Tcp(host, port), name))
            }
            "nbd+unix" if authority.is_empty() => {
                let socket = query.split('&').find_map(|item| item.strip_prefix("socket="));
                let path = socket.and_then(decode).filter(|path| !path.is_empty() && !path.contains(&0));
                let path = path.ok_or_else(|| wrong("the URI names no socket"))?;
                Ok((Self::Unix(OsString::from_vec(path).into()), name))
            }
            "nbds" | "nbds+unix" => Err(wrong("TLS to an NBD server is not built")),
            _ => Err(not_one()),
        }
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
        for (uri, address, name) in [
            ("nbd://localhost", tcp("localhost", 10809), ""),
            ("nbd://10.0.0.1:7/disk%20one", tcp("10.0.0.1", 7), "disk one"),
            ("nbd://[::1]:9/", tcp("::1", 9), ""),
            ("nbd+unix:///x?a=b&socket=/run/a%3fb", Address::Unix("/run/a?b".into()), "x"),
        ] {
            assert_eq!(Address::parse_uri(uri).unwrap(), (address, name.to_owned()), "{uri}");
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
            "nbds://a/",
        ] {
            assert_eq!(Address::parse_uri(uri).unwrap_err().kind(), BlockErrorKind::Unsupported, "{uri}");
        }
    }
}
