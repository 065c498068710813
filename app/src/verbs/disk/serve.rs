//! `disk serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use benchtop_control::config::CacheMode;
use benchtop_control::{Failure, FailureKind, Size};
use benchtop_machine::monitor::block_failure;
use benchtop_machine::monitor::identity::RECORD_EVERY;
use benchtop_machine::monitor::open::block_cache;
use benchtop_nbd::{Export, Listener, Server, ServerOptions};
use clap::{ArgGroup, Args};

use crate::image::{Access, Source};
use crate::output::Output;
use crate::remote::{SOCKET_PATH_BYTES_MAX, check_socket_path};
use crate::signals::Signals;

/// `disk serve`.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("where").required(true).args(["socket", "listen"]),
    override_usage = "benchtop disk serve [OPTIONS] <DISK> <--socket <PATH>|--listen <127.0.0.1:PORT>>"
)]
pub struct Serve {
    /// Disk: FILE[,format=F] or VM:DISK
    pub disk: String,
    /// Listen on a unix socket that only you can connect to
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Listen on a loopback port, which every local user can connect to; port 0 takes a free one
    #[arg(long, value_name = "127.0.0.1:PORT")]
    pub listen: Option<SocketAddr>,
    /// When a write is answered: writethrough, writeback or unsafe
    #[arg(long, default_value_t, value_name = "MODE")]
    pub cache: CacheMode,
    /// Refuse writes, and leave the image as it is
    #[arg(long)]
    pub read_only: bool,
    /// How to open it.
    #[command(flatten)]
    pub access: Access,
}

impl Serve {
    /// Runs the action, until Ctrl-C or SIGTERM: that is its good end.
    ///
    /// # Errors
    /// What failed; at the end, that what was written could not be made durable.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let source = Source::find(&self.disk)?;
        let what = source.what("serve");
        if let Some(path) = &self.socket {
            // It is made with a ~ at its end.
            check_socket_path(&what, path, SOCKET_PATH_BYTES_MAX - 1)?;
        }
        let opened = source.open(output, &self.access, self.read_only)?;
        let signals = Signals::watch()?;
        let failed = |error| block_failure(&what, &error);
        let size_bytes = opened.disk.backend.info().size_bytes;
        let export = Export {
            name: String::new(),
            description: source.name.clone(),
            backend: opened.disk.backend.clone(),
            cache: block_cache(self.cache),
            read_only: self.read_only,
        };
        let listener = match (&self.socket, self.listen) {
            (Some(path), _) => Listener::unix(path).map_err(|error| self.refused(&what, &error))?,
            (None, Some(address)) => Listener::tcp(address).map_err(|error| self.refused(&what, &error))?,
            (None, None) => {
                let fix = "Give it --socket PATH or --listen 127.0.0.1:PORT.";
                return Err(Failure::new(FailureKind::Usage, what, "Nothing says where.", fix));
            }
        };
        let uri = self.uri(&listener)?;
        let server = Server::new(export, ServerOptions::default()).map_err(failed)?;
        server.listen(listener).map_err(failed)?;
        let fields = serde_json::json!({
            "disk": self.disk, "uri": uri, "format": opened.disk.format.name(), "size_bytes": size_bytes,
            "cache": self.cache.name(), "read_only": self.read_only,
        });
        output.result("disk.serve", &fields, || uri.clone())?;
        if self.cache == CacheMode::Unsafe && !self.read_only {
            output.warning("flushes are ignored: a crash of this host can destroy the disk");
        }
        output.remark(&format!("serving {} ({}); Ctrl-C ends it", source.name, Size(size_bytes).human()));
        signals.wait(RECORD_EVERY, || opened.remember())?;
        server.shutdown().map_err(failed)
    }

    fn refused(&self, what: &str, error: &benchtop_block::BlockError) -> Failure {
        use benchtop_block::BlockErrorKind;
        let failure = block_failure(what, error);
        let why = benchtop_control::failure::chain(error);
        match error.kind() {
            BlockErrorKind::InUse => {
                Failure::new(FailureKind::WrongState, what, why, "Choose another socket, or end the other server.")
            }
            BlockErrorKind::Unsupported => {
                Failure::new(FailureKind::Usage, what, why, "Listen on 127.0.0.1 and reach it through ssh.")
            }
            _ => failure,
        }
    }

    /// How clients name it.
    fn uri(&self, listener: &Listener) -> Result<String, Failure> {
        if let Some(address) = listener.tcp_address() {
            return Ok(format!("nbd://{address}"));
        }
        let socket = self.socket.as_deref().unwrap_or("".as_ref());
        let path = std::path::absolute(socket).map_err(|error| Failure::from_io("can not name the socket", &error))?;
        let encoded: String = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).iter().map(percent).collect();
        Ok(format!("nbd+unix:///?socket={encoded}"))
    }
}

/// A byte of a query (RFC 3986, section 3.4), all but the plainest encoded.
fn percent(byte: &u8) -> String {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'~' => char::from(*byte).to_string(),
        _ => format!("%{byte:02X}"),
    }
}
