//! The server's side of the fixed newstyle handshake: options until the client goes.

use std::io;

use benchtop_block::SECTOR_BYTES;

use super::Served;
use crate::protocol::{
    ALLOCATION, Fields, GREETING, MAX_PAYLOAD_BYTES, OPTION, OPTION_REPLY, handshake, info, option, reply,
};
use crate::stream::{Hurried, Stream};

/// Options one client may send; those that exist are a dozen.
const MAX_OPTIONS: usize = 128;
/// Data of one option that is looked at, in bytes: a name of 4096 and many requests for information fit.
const MAX_OPTION_BYTES: u32 = 64 << 10;
/// Data of one option that is skipped to answer that it is too big, in bytes; for more the client loses the connection.
const MAX_SKIPPED_BYTES: u32 = 1 << 20;
/// The number of the context `base:allocation`.
pub(super) const ALLOCATION_ID: u32 = 1;

/// What client and server agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Negotiated {
    /// Structured replies.
    pub structured: bool,
    /// The context `base:allocation`.
    pub allocation: bool,
}

/// What follows an option.
enum Next {
    Option,
    Transmission,
    End,
}

/// Runs the handshake: what was agreed on, or `None` where the client wants nothing more.
///
/// # Errors
/// The host's, `TimedOut` after the options' time, `InvalidData` where the client breaks the protocol.
pub(super) fn run(stream: &Stream, served: &Served) -> io::Result<Option<Negotiated>> {
    let stream = Hurried::new(stream, served.options.handshake);
    let mut session = Session { stream: &stream, served, negotiated: Negotiated::default(), no_zeroes: false };
    let going = session.run()?;
    let negotiated = session.negotiated;
    stream.finish()?;
    Ok(going.then_some(negotiated))
}

struct Session<'a> {
    stream: &'a Hurried<'a>,
    served: &'a Served,
    negotiated: Negotiated,
    /// The client does not want the padding after an export's size.
    no_zeroes: bool,
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Session<'_> {
    /// Whether transmission follows.
    fn run(&mut self) -> io::Result<bool> {
        let offered = handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES;
        let mut greeting = Vec::with_capacity(18);
        greeting.extend(GREETING.to_be_bytes());
        greeting.extend(OPTION.to_be_bytes());
        greeting.extend(offered.to_be_bytes());
        self.stream.send(&greeting)?;
        let flags = u32::from_be_bytes(self.stream.array()?);
        if flags & !u32::from(offered) != 0 {
            return Err(invalid("the client has flags nobody offered"));
        }
        self.no_zeroes = flags & u32::from(handshake::NO_ZEROES) != 0;
        for _ in 0..MAX_OPTIONS {
            let header: [u8; 16] = self.stream.array()?;
            let mut fields = Fields(&header);
            let (Some(OPTION), Some(number), Some(len)) = (fields.u64(), fields.u32(), fields.u32()) else {
                return Err(invalid("an option does not begin as one"));
            };
            if len > MAX_OPTION_BYTES {
                self.skip(number, len)?;
                continue;
            }
            let mut data = vec![0; len as usize];
            self.stream.receive(&mut data)?;
            match self.option(number, &data)? {
                Next::Option => {}
                Next::Transmission => return Ok(true),
                Next::End => return Ok(false),
            }
        }
        Err(invalid("the client sends options without end"))
    }

    fn skip(&mut self, number: u32, len: u32) -> io::Result<()> {
        if len > MAX_SKIPPED_BYTES || number == option::EXPORT_NAME {
            return Err(invalid("an option has far too much data"));
        }
        let mut left = len as usize;
        let mut buffer = [0; 4096];
        while left > 0 {
            let part = left.min(buffer.len());
            self.stream.receive(&mut buffer[..part])?;
            left -= part;
        }
        self.answer(number, reply::TOO_BIG, b"the option has too much data")
    }

    fn answer(&self, number: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(20 + data.len());
        bytes.extend(OPTION_REPLY.to_be_bytes());
        bytes.extend(number.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        // Nothing sent here comes near 4 GiB.
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        self.stream.send(&bytes)
    }

    fn refuse(&self, number: u32, kind: u32, why: &str) -> io::Result<Next> {
        self.answer(number, kind, why.as_bytes())?;
        Ok(Next::Option)
    }

    fn accept(&self, number: u32) -> io::Result<Next> {
        self.answer(number, reply::ACK, &[])?;
        Ok(Next::Option)
    }

    fn option(&mut self, number: u32, data: &[u8]) -> io::Result<Next> {
        match number {
            option::EXPORT_NAME => self.export_name(data),
            option::ABORT => {
                // The client need not wait for this.
                self.accept(number).map_or(Ok(Next::End), |_| Ok(Next::End))
            }
            option::LIST if data.is_empty() => self.list(),
            option::INFO | option::GO => self.info(number, data),
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.negotiated.structured = true;
                self.accept(number)
            }
            option::LIST | option::STRUCTURED_REPLY => self.refuse(number, reply::INVALID, "the option has no data"),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.meta_context(number, data),
            option::STARTTLS => self.refuse(number, reply::UNSUPPORTED, "TLS is not built"),
            _ => self.refuse(number, reply::UNSUPPORTED, "this option is not known"),
        }
    }

    /// The old way to go, which has no way to refuse.
    fn export_name(&self, name: &[u8]) -> io::Result<Next> {
        if !self.served.is_called(name) {
            return Ok(Next::End);
        }
        let mut bytes = Vec::with_capacity(134);
        bytes.extend(self.served.info.size_bytes.to_be_bytes());
        bytes.extend(self.served.flags(self.negotiated.structured).to_be_bytes());
        if !self.no_zeroes {
            bytes.extend([0; 124]);
        }
        self.stream.send(&bytes)?;
        Ok(Next::Transmission)
    }

    fn list(&self) -> io::Result<Next> {
        let name = self.served.export.name.as_bytes();
        // At most 4096 bytes.
        let mut data = (name.len() as u32).to_be_bytes().to_vec();
        data.extend(name);
        data.extend(self.served.export.description.as_bytes());
        self.answer(option::LIST, reply::SERVER, &data)?;
        self.accept(option::LIST)
    }

    fn info(&self, number: u32, data: &[u8]) -> io::Result<Next> {
        let Some((name, wanted)) = parse_info(data) else {
            return self.refuse(number, reply::INVALID, "the option's data is not a name and kinds of information");
        };
        if !self.served.is_called(name) {
            return self.refuse(number, reply::UNKNOWN, "there is no export of this name");
        }
        let served = self.served;
        let tell = |kind: u16, data: &[u8]| {
            let mut bytes = kind.to_be_bytes().to_vec();
            bytes.extend(data);
            self.answer(number, reply::INFO, &bytes)
        };
        let mut export = served.info.size_bytes.to_be_bytes().to_vec();
        export.extend(served.flags(self.negotiated.structured).to_be_bytes());
        tell(info::EXPORT, &export)?;
        let wants = |kind: u16| wanted.chunks_exact(2).any(|bytes| bytes == kind.to_be_bytes());
        if wants(info::NAME) {
            tell(info::NAME, served.export.name.as_bytes())?;
        }
        if wants(info::DESCRIPTION) && !served.export.description.is_empty() {
            tell(info::DESCRIPTION, served.export.description.as_bytes())?;
        }
        // Told unasked, too: a client may then keep to it, and one that does not gets errors it can understand.
        let mut sizes = Vec::with_capacity(12);
        for size in block_sizes(served.info.physical_block_bytes) {
            sizes.extend(size.to_be_bytes());
        }
        tell(info::BLOCK_SIZE, &sizes)?;
        self.accept(number)?;
        Ok(if number == option::GO { Next::Transmission } else { Next::Option })
    }

    fn meta_context(&mut self, number: u32, data: &[u8]) -> io::Result<Next> {
        let set = number == option::SET_META_CONTEXT;
        if set {
            // Whatever comes of this one, it replaces what an earlier one chose.
            self.negotiated.allocation = false;
        }
        if !self.negotiated.structured {
            return self.refuse(number, reply::INVALID, "structured replies must be agreed on first");
        }
        let Some((name, all, matched)) = parse_contexts(data, !set) else {
            return self.refuse(number, reply::INVALID, "the option's data is not a name and queries");
        };
        if !self.served.is_called(name) {
            return self.refuse(number, reply::UNKNOWN, "there is no export of this name");
        }
        if matched || (all && !set) {
            // When listing, the number means nothing and is 0.
            let id = if set { ALLOCATION_ID } else { 0 };
            let mut bytes = id.to_be_bytes().to_vec();
            bytes.extend(ALLOCATION);
            self.answer(number, reply::META_CONTEXT, &bytes)?;
            self.negotiated.allocation |= set;
        }
        self.accept(number)
    }
}

/// Smallest, preferred and largest size of a transfer, in bytes.
fn block_sizes(physical_block_bytes: u32) -> [u32; 3] {
    let preferred = physical_block_bytes.clamp(4096, MAX_PAYLOAD_BYTES);
    let preferred = if preferred.is_power_of_two() { preferred } else { 4096 };
    [SECTOR_BYTES as u32, preferred, MAX_PAYLOAD_BYTES]
}

/// An export's name and the wanted kinds of information, two bytes each.
fn parse_info(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = Fields(data);
    let name = fields.counted()?;
    let count = fields.u16()?;
    let wanted = fields.bytes(usize::from(count) * 2)?;
    fields.end()?;
    Some((name, wanted))
}

/// An export's name, whether there is no query at all, and whether one asks for `base:allocation`. A query for a whole
/// namespace counts where `wildcard`.
fn parse_contexts(data: &[u8], wildcard: bool) -> Option<(&[u8], bool, bool)> {
    let mut fields = Fields(data);
    let name = fields.counted()?;
    let count = fields.u32()?;
    let mut matched = false;
    // Each query takes at least four of the at most 64 Ki bytes, so the count ends with the data.
    for _ in 0..count {
        let query = fields.counted()?;
        matched |= query == ALLOCATION || (wildcard && query == b"base:");
    }
    fields.end()?;
    Some((name, count == 0, matched))
}
