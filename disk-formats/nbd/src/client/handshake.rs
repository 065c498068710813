//! The client's side of the fixed newstyle handshake.

use std::io;
use std::time::Duration;

use benchtop_block::{BlockError, BlockErrorKind};

use crate::protocol::{
    ALLOCATION, Fields, GREETING, MAX_PAYLOAD_BYTES, OPTION, OPTION_REPLY, handshake, info, option, reply,
};
use crate::stream::{Hurried, Stream};
use crate::tls::{self, Tls};

/// Data of one reply at most, in bytes; a description of 4096 fits.
const MAX_REPLY_BYTES: u32 = 64 << 10;
/// Replies to one option at most.
const MAX_REPLIES: usize = 128;

/// The text of the error for a server that has no such export.
pub const NO_SUCH_EXPORT: &str = "the NBD server has no export of this name";
/// The text of the error for a server that only speaks to clients with TLS.
pub const WANTS_TLS: &str = "the NBD server wants TLS";

/// What the server is and has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub size_bytes: u64,
    /// Transmission flags.
    pub flags: u16,
    /// It answers with chunks.
    pub structured: bool,
    /// The number of the context `base:allocation`.
    pub allocation: Option<u32>,
    pub min_block_bytes: u32,
    pub preferred_block_bytes: u32,
    pub max_block_bytes: u32,
}

impl Found {
    /// Whether a transmission flag is set.
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

fn broken(why: &str) -> BlockError {
    BlockError::new(BlockErrorKind::Corrupt, format!("the NBD server breaks the protocol: {why}"))
}

fn unsupported(why: impl Into<String>) -> BlockError {
    BlockError::new(BlockErrorKind::Unsupported, why)
}

fn lost(error: io::Error) -> BlockError {
    BlockError::from_io("the handshake with the NBD server failed", error)
}

/// Agrees on the export `name` within `time`, by TLS where that is asked for and never without it then.
///
/// # Errors
/// `Unsupported` for what the server wants or lacks, `Corrupt` where it breaks the protocol, or the host's.
pub(super) fn run(stream: &mut Stream, name: &str, time: Duration, tls: Option<&Tls>) -> Result<Found, BlockError> {
    let hurried = Hurried::new(stream, time);
    let deadline = hurried.deadline();
    let session = Session { stream: &hurried, name: name.as_bytes() };
    let no_zeroes = session.greet()?;
    let encrypted = match tls {
        Some(tls) => {
            session.ask(option::STARTTLS, &[], |_, _| Ok(()))?.map_err(Refused::into_no_tls)?;
            Some(tls::Session::begin(&hurried, tls)?)
        }
        None => None,
    };
    if let Some(encrypted) = encrypted {
        stream.encrypt(encrypted);
    }
    let stream = Hurried::until(stream, deadline);
    let session = Session { stream: &stream, name: name.as_bytes() };
    let structured = session.ask(option::STRUCTURED_REPLY, &[], |_, _| Ok(()))?.is_ok();
    let allocation = if structured { session.choose_allocation()? } else { None };
    let mut found = Found {
        size_bytes: 0,
        flags: 0,
        structured,
        allocation,
        // What the protocol says of servers that say nothing; of the first, what ours need.
        min_block_bytes: 1,
        preferred_block_bytes: 4096,
        max_block_bytes: MAX_PAYLOAD_BYTES,
    };
    session.go(&mut found, no_zeroes)?;
    stream.finish().map_err(lost)?;
    Ok(found)
}

struct Session<'a> {
    stream: &'a Hurried<'a>,
    name: &'a [u8],
}

/// Why the server does not do what an option asks.
struct Refused {
    kind: u32,
    text: String,
}

impl Refused {
    fn into_no_tls(self) -> BlockError {
        unsupported(format!("the NBD server has no TLS (it refused with {:#x})", self.kind))
    }

    fn into_error(self) -> BlockError {
        let Self { kind, text } = self;
        match kind {
            reply::TLS_REQUIRED => unsupported(WANTS_TLS),
            reply::UNKNOWN => unsupported(NO_SUCH_EXPORT),
            reply::POLICY => unsupported(format!("the NBD server does not allow this: {text}")),
            reply::BLOCK_SIZE_REQUIRED => unsupported(format!("the NBD server needs block sizes agreed on: {text}")),
            reply::SHUTDOWN => BlockError::new(BlockErrorKind::Io, "the NBD server is shutting down"),
            _ => BlockError::new(BlockErrorKind::Io, format!("the NBD server refused with {kind:#x}: {text}")),
        }
    }
}

impl Session<'_> {
    /// Greetings: whether padding can be done without.
    fn greet(&self) -> Result<bool, BlockError> {
        let greeting: [u8; 16] = self.stream.array().map_err(lost)?;
        let mut fields = Fields(&greeting);
        if fields.u64() != Some(GREETING) {
            return Err(broken("this is no NBD server"));
        }
        if fields.u64() != Some(OPTION) {
            return Err(unsupported("the NBD server only knows the oldstyle handshake, which is not built"));
        }
        let flags = u16::from_be_bytes(self.stream.array().map_err(lost)?);
        if flags & handshake::FIXED_NEWSTYLE == 0 {
            return Err(unsupported("the NBD server does not know the fixed newstyle handshake"));
        }
        let ours = flags & (handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
        self.stream.send(&u32::from(ours).to_be_bytes()).map_err(lost)?;
        Ok(ours & handshake::NO_ZEROES != 0)
    }

    fn send(&self, number: u32, data: &[u8]) -> Result<(), BlockError> {
        let mut bytes = Vec::with_capacity(16 + data.len());
        bytes.extend(OPTION.to_be_bytes());
        bytes.extend(number.to_be_bytes());
        // Little more than a name of 4096 bytes.
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        self.stream.send(&bytes).map_err(lost)
    }

    /// Sends an option and gives its replies to `each`, but for the last, which says how it went.
    fn ask(
        &self,
        number: u32,
        data: &[u8],
        mut each: impl FnMut(u32, &[u8]) -> Result<(), BlockError>,
    ) -> Result<Result<(), Refused>, BlockError> {
        self.send(number, data)?;
        for _ in 0..MAX_REPLIES {
            let header: [u8; 20] = self.stream.array().map_err(lost)?;
            let mut fields = Fields(&header);
            let start = (fields.u64(), fields.u32());
            let (Some(kind), Some(len)) = (fields.u32(), fields.u32()) else { return Err(broken("a short reply")) };
            if start != (Some(OPTION_REPLY), Some(number)) {
                return Err(broken("a reply does not begin as one"));
            }
            if len > MAX_REPLY_BYTES {
                return Err(broken("a reply of more than 64 KiB"));
            }
            let mut data = vec![0; len as usize];
            self.stream.receive(&mut data).map_err(lost)?;
            if kind & reply::ERROR != 0 {
                // Shown to people, so without what could drive their terminal.
                let text = String::from_utf8_lossy(&data);
                let text = text.chars().filter(|letter| !letter.is_control()).take(200).collect();
                return Ok(Err(Refused { kind, text }));
            }
            if kind == reply::ACK {
                return Ok(Ok(()));
            }
            each(kind, &data)?;
        }
        Err(broken("replies without end"))
    }

    /// The export's name after its length.
    fn counted_name(&self) -> Vec<u8> {
        // At most 4096 bytes.
        let mut data = (self.name.len() as u32).to_be_bytes().to_vec();
        data.extend(self.name);
        data
    }

    fn choose_allocation(&self) -> Result<Option<u32>, BlockError> {
        let mut data = self.counted_name();
        data.extend(1u32.to_be_bytes());
        data.extend((ALLOCATION.len() as u32).to_be_bytes());
        data.extend(ALLOCATION);
        let mut id = None;
        let outcome = self.ask(option::SET_META_CONTEXT, &data, |kind, data| {
            let mut fields = Fields(data);
            if kind == reply::META_CONTEXT
                && let Some(number) = fields.u32()
                && fields.0 == ALLOCATION
            {
                id = Some(number);
            }
            Ok(())
        })?;
        Ok(if outcome.is_ok() { id } else { None })
    }

    fn go(&self, found: &mut Found, no_zeroes: bool) -> Result<(), BlockError> {
        let mut data = self.counted_name();
        data.extend(1u16.to_be_bytes());
        data.extend(info::BLOCK_SIZE.to_be_bytes());
        let mut told = false;
        let outcome = self.ask(option::GO, &data, |kind, data| {
            if kind == reply::INFO {
                told |= take_info(found, data).ok_or_else(|| broken("information about the export is cut short"))?;
            }
            Ok(())
        })?;
        match outcome {
            Ok(()) if !told => return Err(broken("it does not tell the export's size")),
            Ok(()) => {}
            Err(refused) if refused.kind == reply::UNSUPPORTED => self.go_the_old_way(found, no_zeroes)?,
            Err(refused) => return Err(refused.into_error()),
        }
        let Found { min_block_bytes: min, preferred_block_bytes: preferred, max_block_bytes: max, .. } = *found;
        if !min.is_power_of_two() || !preferred.is_power_of_two() || min > preferred || max < preferred.max(512) {
            return Err(broken("its block sizes contradict each other"));
        }
        Ok(())
    }

    fn go_the_old_way(&self, found: &mut Found, no_zeroes: bool) -> Result<(), BlockError> {
        self.send(option::EXPORT_NAME, self.name)?;
        // The server can only hang up on a name it does not know.
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => unsupported(NO_SUCH_EXPORT),
            _ => lost(error),
        };
        found.size_bytes = u64::from_be_bytes(self.stream.array().map_err(failed)?);
        found.flags = u16::from_be_bytes(self.stream.array().map_err(failed)?);
        if !no_zeroes {
            self.stream.receive(&mut [0; 124]).map_err(failed)?;
        }
        Ok(())
    }
}

/// Takes one piece of information: whether it was the size and flags. `None` where it is cut short.
fn take_info(found: &mut Found, data: &[u8]) -> Option<bool> {
    let mut fields = Fields(data);
    match fields.u16()? {
        info::EXPORT => {
            found.size_bytes = fields.u64()?;
            found.flags = fields.u16()?;
            Some(true)
        }
        info::BLOCK_SIZE => {
            found.min_block_bytes = fields.u32()?;
            found.preferred_block_bytes = fields.u32()?;
            found.max_block_bytes = fields.u32()?;
            Some(false)
        }
        _ => Some(false),
    }
}
