//! Disks that an NBD server has, named by URI where a file can stand.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use benchtop_block::{BlockError, BlockErrorKind, DiskBackend};
use benchtop_control::failure::chain;
use benchtop_control::{Failure, FailureKind};
use benchtop_machine::monitor::block_failure;
use benchtop_nbd::{Address, NO_SUCH_EXPORT, NbdDisk, Tls, Uri, WANTS_TLS};
use clap::Args;
use zeroize::Zeroizing;

/// The longest file of certificates or keys, in bytes.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// The longest path of a socket: 108 bytes with the zero behind it (unix(7)).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Whom to trust, and who we are, for servers with TLS.
#[derive(Clone, Debug, Default, Args)]
pub struct TlsArgs {
    /// For nbds:// disks: whom to trust, a file of certificates of authorities (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The certificate to show to the server, where it asks for one
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The key of that certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

impl TlsArgs {
    /// The same for a server of that name.
    fn for_host(&self, what: &str, host: &str) -> Result<Tls, Failure> {
        let Some(authorities) = &self.tls_ca else {
            let why = "It is reached by TLS, and nothing says whom to trust.";
            let fix = "Give --tls-ca FILE, the certificate of the authority that vouches for the server.";
            return Err(Failure::new(FailureKind::Usage, what, why, fix));
        };
        let authorities = read(authorities)?;
        let client = match (&self.tls_cert, &self.tls_key) {
            (Some(chain), Some(key)) => Some((read(chain)?, read(key)?)),
            _ => None,
        };
        let client = client.as_ref().map(|(chain, key)| (&chain[..], &key[..]));
        Tls::new(&authorities, client, host).map_err(|error| {
            let fix = "Certificates and keys are PEM files: --tls-ca, --tls-cert, --tls-key.";
            Failure::new(FailureKind::Usage, what, chain(&error), fix)
        })
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let what = || format!("can not read {}", path.display());
    let mut bytes = Zeroizing::new(Vec::new());
    let file = File::open(path).map_err(|error| Failure::from_io(what(), &error))?;
    file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| Failure::from_io(what(), &error))?;
    if bytes.len() as u64 > PEM_BYTES_MAX {
        return Err(Failure::new(FailureKind::Usage, what(), "It is too long for a certificate.", "Name a PEM file."));
    }
    Ok(bytes)
}

/// Takes a URI apart.
///
/// # Errors
/// It is wrong.
pub fn parse(text: &str) -> Result<Uri, Failure> {
    Uri::parse(text).map_err(|error| {
        let what = format!("did not understand the disk `{text}`");
        let fix = "Write nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH; with TLS nbds instead of nbd.";
        Failure::new(FailureKind::Usage, what, chain(&error), fix)
    })
}

/// Connects to an export; `what` begins the message.
///
/// # Errors
/// The server can not be reached, is not to be trusted, has no such export, or only reads where that is not enough.
pub fn connect(what: &str, uri: &Uri, tls: &TlsArgs, read_only: bool) -> Result<Arc<NbdDisk>, Failure> {
    let Uri { address, export, tls_host } = uri;
    if let Address::Unix(path) = address {
        check_socket_path(what, path, SOCKET_PATH_BYTES_MAX)?;
    }
    let disk = match tls_host {
        Some(host) => NbdDisk::connect_with_tls(address, export, read_only, &tls.for_host(what, host)?),
        None => NbdDisk::connect(address, export, read_only),
    };
    let disk = disk.map_err(|error| failure(what, &error))?;
    if disk.info().read_only && !read_only {
        let why = "The server lets nobody write to this export.";
        let fix = "Serve it so that it can be written; a VM can also run with --discard-writes.";
        return Err(Failure::new(FailureKind::NotCapable, what, why, fix));
    }
    Ok(Arc::new(disk))
}

/// A server that can not be used.
fn failure(what: &str, error: &BlockError) -> Failure {
    let failure = block_failure(what, error);
    match (error.kind(), error.to_string().as_str()) {
        (_, NO_SUCH_EXPORT) => failure
            .with_kind(FailureKind::NotFound)
            .with_fix("Put the name of one that it has behind the host's: nbd://HOST/EXPORT."),
        (_, WANTS_TLS) => failure.with_fix("Write nbds instead of nbd, and give --tls-ca FILE."),
        (BlockErrorKind::Unsupported, _) => {
            failure.with_fix("Change the server's settings, or the URI; nothing was changed.")
        }
        (BlockErrorKind::Corrupt, _) => {
            failure.with_kind(FailureKind::Failed).with_fix("See whether an NBD server is at this address.")
        }
        _ => failure.with_fix("See whether the server runs, and whether this is its address."),
    }
}

/// Refuses a path that no socket can have.
///
/// # Errors
/// It is longer than that.
pub fn check_socket_path(what: &str, path: &Path, bytes_max: usize) -> Result<(), Failure> {
    let len = path.as_os_str().len();
    if len <= bytes_max {
        return Ok(());
    }
    let why = format!("The path of the socket has {len} bytes, and at most {bytes_max} are possible.");
    Err(Failure::new(FailureKind::Usage, what, why, "Choose a shorter one, or a relative one from a folder near it."))
}

/// A failure of a disk in use, which may be one of these.
pub fn disk_failure(what: &str, disk: &dyn DiskBackend, error: &BlockError) -> Failure {
    let failure = block_failure(what, error);
    if disk.info().format == "nbd" && error.kind() == BlockErrorKind::Io {
        return failure.with_fix("See whether the server still runs, then do it again.");
    }
    failure
}
