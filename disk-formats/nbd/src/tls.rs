//! TLS to a server, as the protocol's `NBD_OPT_STARTTLS` begins it.

use std::io::{self, Read, Write};
use std::sync::Arc;

use benchtop_block::{BlockError, BlockErrorKind};
use parking_lot::Mutex;
use rustls::client::Resumption;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::stream::Hurried;

/// What is received at once, in bytes: no more than the connection takes in while nothing of it was read.
const RECEIVE_BYTES: usize = 16 << 10;
/// What is encrypted before it is sent, in bytes.
const SEND_BYTES: usize = 64 << 10;

/// Whom to trust, and who we are.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

fn refused(what: &str, why: &dyn std::fmt::Display) -> BlockError {
    // A server's words are shown to people, so without what could drive their terminal.
    let why: String = why.to_string().chars().filter(|letter| !letter.is_control()).take(300).collect();
    BlockError::new(BlockErrorKind::Unsupported, format!("{what}: {why}"))
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, BlockError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(refused(what, &"there is no certificate in it")),
        found => found.map_err(|error| refused(what, &error)),
    }
}

impl Tls {
    /// Trusts servers of the name `host` whose certificate one of those in `authorities` vouches for. `client` is the
    /// certificate that we show, after it those that vouch for it, and its key. All in PEM.
    ///
    /// # Errors
    /// `Unsupported` for what is none, or can not be used.
    pub fn new(authorities: &[u8], client: Option<(&[u8], &[u8])>, host: &str) -> Result<Self, BlockError> {
        let what = "the certificate authority's file can not be used";
        let mut roots = RootCertStore::empty();
        for certificate in certificates(authorities, what)? {
            roots.add(certificate).map_err(|error| refused(what, &error))?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| refused("TLS can not be used", &error))?
            .with_root_certificates(roots);
        let mut config = match client {
            None => config.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = certificates(chain, "the client's certificate can not be used")?;
                let what = "the client's key can not be used";
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| refused(what, &error))?;
                config.with_client_auth_cert(chain, key).map_err(|error| refused(what, &error))?
            }
        };
        // One connection, so nothing to go on from.
        config.resumption = Resumption::disabled();
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|error| refused(&format!("`{host}` is no name of a server"), &error))?;
        Ok(Self { config: Arc::new(config), name })
    }
}

/// The TLS of a connection.
#[derive(Debug)]
pub(crate) struct Session {
    connection: Mutex<ClientConnection>,
    /// Held while something is sent, so that records leave in the order in which they were made.
    sending: Mutex<Vec<u8>>,
    received: Mutex<Received>,
}

/// Bytes of the socket that were not decrypted yet.
#[derive(Debug)]
struct Received {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

/// What is there without waiting for the socket.
pub(crate) enum Ready {
    /// So many bytes; 0 at the end.
    Bytes(usize),
    /// Nothing.
    Nothing,
}

fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Session {
    /// Agrees on keys with the server, which is about to speak TLS.
    ///
    /// # Errors
    /// `Unsupported` where the server is not to be trusted or does not trust us, or the host's.
    pub fn begin(stream: &Hurried<'_>, tls: &Tls) -> Result<Self, BlockError> {
        let failed = |error| BlockError::from_io("the TLS handshake with the NBD server failed", error);
        let connection = ClientConnection::new(tls.config.clone(), tls.name.clone());
        let mut connection = connection.map_err(|error| refused("TLS can not be used", &error))?;
        // The caller has bounds of its own for what it sends.
        connection.set_buffer_limit(None);
        let mut received = Received { bytes: vec![0; RECEIVE_BYTES], start: 0, end: 0 };
        let mut out = Vec::new();
        loop {
            while connection.wants_write() {
                out.clear();
                connection.write_tls(&mut out).map_err(failed)?;
                stream.send(&out).map_err(failed)?;
            }
            if !connection.is_handshaking() {
                break;
            }
            let count = stream.receive_some(&mut received.bytes).map_err(failed)?;
            let mut rest = received.bytes.get(..count).unwrap_or_default();
            while !rest.is_empty() {
                connection.read_tls(&mut rest).map_err(failed)?;
                if let Err(error) = connection.process_new_packets() {
                    out.clear();
                    // So that the server can say why, too; it need not hear it.
                    let told = connection.write_tls(&mut out).and_then(|_count| stream.send(&out));
                    told.unwrap_or_default();
                    return Err(refused("no TLS connection to the NBD server can be made", &error));
                }
            }
        }
        Ok(Self { connection: Mutex::new(connection), sending: Mutex::new(out), received: Mutex::new(received) })
    }

    /// Encrypts `bytes` and gives them to `send`.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn send(&self, bytes: &[u8], send: impl Fn(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut out = self.sending.lock();
        for piece in bytes.chunks(SEND_BYTES) {
            out.clear();
            {
                let mut connection = self.connection.lock();
                connection.writer().write_all(piece)?;
                // With what the connection itself has to say since the last time.
                while connection.wants_write() {
                    connection.write_tls(&mut *out)?;
                }
            }
            send(&out)?;
        }
        Ok(())
    }

    /// Takes what was decrypted, and fetches from the socket with `receive`, once, where that is nothing. One caller at a
    /// time waits there; those who send meanwhile are not kept.
    ///
    /// # Errors
    /// Those of `receive`, `UnexpectedEof` where the server ends without a word, or `InvalidData` for what is no TLS.
    pub fn receive(&self, into: &mut [u8], receive: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<Ready> {
        if into.is_empty() {
            return Ok(Ready::Bytes(0));
        }
        let mut received = self.received.lock();
        if let Some(count) = self.take(&mut received, into)? {
            return Ok(Ready::Bytes(count));
        }
        let Received { bytes, start, end } = &mut *received;
        (*start, *end) = (0, receive(bytes)?);
        if *end == 0 {
            // An end that the server did not announce is told by the reader below.
            self.connection.lock().read_tls(&mut io::empty())?;
        }
        Ok(self.take(&mut received, into)?.map_or(Ready::Nothing, Ready::Bytes))
    }

    /// Decrypts what has been received until there is something: how many bytes, 0 at the end.
    fn take(&self, received: &mut Received, into: &mut [u8]) -> io::Result<Option<usize>> {
        let mut connection = self.connection.lock();
        loop {
            match connection.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result.map(Some),
            }
            let Received { bytes, start, end } = received;
            let mut rest = bytes.get(*start..*end).unwrap_or_default();
            if rest.is_empty() {
                return Ok(None);
            }
            let count = connection.read_tls(&mut rest)?;
            *start += count;
            connection.process_new_packets().map_err(broken)?;
            if count == 0 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "TLS takes nothing in"));
            }
        }
    }
}
