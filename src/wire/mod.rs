//! Floor 1: the encodings of RFC 4251 and one struct a message. Knows no state, does no I/O.
//!
//! Every decoder bounds a length before it believes it and ends with [`Reader::end`], so trailing
//! bytes are an error everywhere.

pub mod agent;
pub mod auth;
pub mod channel;
pub mod number;
pub mod proxy;
mod reader;
pub mod request;
pub mod sftp;
pub mod transport;
mod writer;

pub use reader::{Malformed, NameList, Reader, mpint_magnitude};
pub use writer::{NoSpace, Writer};

/// One SSH message: its number and its fields (RFC 4250 §4.1).
pub trait Message<'a>: Sized {
    /// The message number: the first byte of a payload.
    const NUMBER: u8;

    /// Reads the fields that follow the number. Implementations leave `body` at its end; the
    /// provided [`Message::parse`] checks that.
    fn decode(body: &mut Reader<'a>) -> Result<Self, Malformed>;

    /// Writes the fields that follow the number.
    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace>;

    /// Decodes a whole payload, number included.
    fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut body = Reader::new(payload);
        if body.byte()? != Self::NUMBER {
            return Err(Malformed::Number);
        }
        let message = Self::decode(&mut body)?;
        body.end()?;
        Ok(message)
    }

    /// Encodes a whole payload, number included.
    fn write(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.byte(Self::NUMBER)?;
        self.encode(out)
    }
}
