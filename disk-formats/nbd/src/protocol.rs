//! Numbers and headers of the NBD protocol. All integers on the wire are big-endian.

/// Data of one read or write at most, in bytes: what the protocol lets every client and server assume.
pub const MAX_PAYLOAD_BYTES: u32 = 32 << 20;

/// Bytes of a name or a description at most ("NBD_MAX_STRING" of the protocol's string rules).
pub(crate) const MAX_STRING_BYTES: usize = 4096;

/// First of the server's greeting: "NBDMAGIC".
pub(crate) const GREETING: u64 = 0x4e42_444d_4147_4943;
/// Second of the greeting, and first of every option: "IHAVEOPT".
pub(crate) const OPTION: u64 = 0x4948_4156_454f_5054;
/// First of every reply to an option.
pub(crate) const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
/// First of every request.
pub(crate) const REQUEST: u32 = 0x2560_9513;
/// First of a simple reply.
pub(crate) const SIMPLE_REPLY: u32 = 0x6744_6698;
/// First of a chunk of a structured reply.
pub(crate) const STRUCTURED_REPLY: u32 = 0x668e_33ef;

/// The one metadata context both sides know.
pub(crate) const ALLOCATION: &[u8] = b"base:allocation";

/// Flags of the greeting; the client answers with the same bits (as 32 instead of 16).
pub(crate) mod handshake {
    pub const FIXED_NEWSTYLE: u16 = 1;
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Options.
pub(crate) mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Types of replies to options.
pub(crate) mod reply {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    /// Set in every type that is an error.
    pub const ERROR: u32 = 1 << 31;
    pub const UNSUPPORTED: u32 = ERROR | 1;
    pub const POLICY: u32 = ERROR | 2;
    pub const INVALID: u32 = ERROR | 3;
    pub const TLS_REQUIRED: u32 = ERROR | 5;
    pub const UNKNOWN: u32 = ERROR | 6;
    pub const SHUTDOWN: u32 = ERROR | 7;
    pub const BLOCK_SIZE_REQUIRED: u32 = ERROR | 8;
    pub const TOO_BIG: u32 = ERROR | 9;
}

/// Kinds of information about an export.
pub(crate) mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags of an export.
pub(crate) mod transmission {
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Requests.
pub(crate) mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISCONNECT: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;

    pub const FLAG_FUA: u16 = 1;
    pub const FLAG_NO_HOLE: u16 = 1 << 1;
    pub const FLAG_DF: u16 = 1 << 2;
    pub const FLAG_REQ_ONE: u16 = 1 << 3;
    pub const FLAG_FAST_ZERO: u16 = 1 << 4;
}

/// Chunks of structured replies.
pub(crate) mod chunk {
    /// Flag: no more chunks follow.
    pub const DONE: u16 = 1;

    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    /// Set in every type that is an error.
    pub const IS_ERROR: u16 = 1 << 15;
    pub const ERROR: u16 = IS_ERROR | 1;
}

/// Flags of an extent in the context `base:allocation`.
pub(crate) mod allocation {
    pub const HOLE: u32 = 1;
    pub const ZERO: u32 = 1 << 1;
}

/// Error numbers of replies, the same on every host.
pub(crate) mod errno {
    pub const PERM: u32 = 1;
    pub const IO: u32 = 5;
    pub const INVAL: u32 = 22;
    pub const NOSPC: u32 = 28;
    pub const OVERFLOW: u32 = 75;
    pub const NOTSUP: u32 = 95;
}

/// Bytes of a request's header.
pub(crate) const REQUEST_BYTES: usize = 28;
/// Bytes of a simple reply's header.
pub(crate) const SIMPLE_BYTES: usize = 16;
/// Bytes of a chunk's header.
pub(crate) const CHUNK_BYTES: usize = 20;
/// Bytes before the data in the payload of an `OFFSET_DATA` chunk.
pub(crate) const DATA_OFFSET_BYTES: usize = 8;

/// A request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub flags: u16,
    pub command: u16,
    pub cookie: u64,
    pub offset_bytes: u64,
    pub len_bytes: u32,
}

impl Request {
    /// The header in `bytes`, or `None` where the magic number is wrong.
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Option<Self> {
        let mut fields = Fields(bytes);
        (fields.u32()? == REQUEST).then_some(())?;
        Some(Self {
            flags: fields.u16()?,
            command: fields.u16()?,
            cookie: fields.u64()?,
            offset_bytes: fields.u64()?,
            len_bytes: fields.u32()?,
        })
    }

    /// Appends the header to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(REQUEST.to_be_bytes());
        out.extend(self.flags.to_be_bytes());
        out.extend(self.command.to_be_bytes());
        out.extend(self.cookie.to_be_bytes());
        out.extend(self.offset_bytes.to_be_bytes());
        out.extend(self.len_bytes.to_be_bytes());
    }
}

/// Takes fields from the front of received bytes; `None` where they end too soon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(first)
    }

    /// Bytes after their length in 32 bits.
    pub fn counted(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.bytes(len as usize)
    }

    /// That nothing is left.
    pub fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_wire_and_a_wrong_magic_does_not() {
        let request = Request { flags: 1, command: 6, cookie: u64::MAX - 1, offset_bytes: 1 << 40, len_bytes: 77 };
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        let mut bytes: [u8; REQUEST_BYTES] = bytes.try_into().unwrap();
        assert_eq!(Request::decode(&bytes), Some(request));
        bytes[3] ^= 1;
        assert_eq!(Request::decode(&bytes), None);
    }

    #[test]
    fn fields_end_where_the_bytes_do() {
        let mut fields = Fields(&[0, 0, 0, 2, 7, 8, 9]);
        assert_eq!(fields.counted(), Some(&[7, 8][..]));
        assert_eq!((fields.u16(), fields.end()), (None, None));
        assert_eq!(Fields(&[0xff, 0xff, 0xff, 0xff, 1]).counted(), None);
    }
}
