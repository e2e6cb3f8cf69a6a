//! What is said to a recorder about the sessions of one connection, a message each, and what it answers.

use crate::limits::{RECORD_TEXT_BYTES_MAX, TAPE_FRAME_BYTES_MAX, TAPE_OUTPUT_BYTES_MAX};
use crate::wire::{Malformed, Reader};

/// Something that happened in the session of this channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// It is to be recorded from now on. `terminal` is empty where it has none; `what`: what it runs.
    Begin { channel: u32, columns: u32, rows: u32, terminal: &'a str, what: &'a str },
    /// Bytes on their way to the client, on either stream.
    Output { channel: u32, bytes: &'a [u8] },
    /// The terminal has another size.
    Resize { channel: u32, columns: u32, rows: u32 },
    /// Its program has ended with this status.
    Status { channel: u32, code: u32 },
    /// Its program was ended by this signal.
    Signal { channel: u32, name: &'a str },
    /// It is closed.
    End { channel: u32 },
}

impl<'a> Frame<'a> {
    pub fn encode(&self) -> Box<[u8]> {
        let mut out = Vec::new();
        let (kind, channel) = match *self {
            Frame::Begin { channel, .. } => (1, channel),
            Frame::Output { channel, .. } => (2, channel),
            Frame::Resize { channel, .. } => (3, channel),
            Frame::Status { channel, .. } => (4, channel),
            Frame::Signal { channel, .. } => (5, channel),
            Frame::End { channel } => (6, channel),
        };
        out.push(kind);
        out.extend(channel.to_be_bytes());
        match *self {
            Frame::Begin { columns, rows, terminal, what, .. } => {
                out.extend(columns.to_be_bytes());
                out.extend(rows.to_be_bytes());
                for text in [terminal, what] {
                    out.extend((text.len() as u32).to_be_bytes());
                    out.extend_from_slice(text.as_bytes());
                }
            }
            Frame::Output { bytes, .. } => out.extend_from_slice(bytes),
            Frame::Resize { columns, rows, .. } => {
                out.extend(columns.to_be_bytes());
                out.extend(rows.to_be_bytes());
            }
            Frame::Status { code, .. } => out.extend(code.to_be_bytes()),
            Frame::Signal { name, .. } => out.extend_from_slice(name.as_bytes()),
            Frame::End { .. } => {}
        }
        out.into_boxed_slice()
    }

    /// # Errors
    /// It is none.
    pub fn decode(bytes: &'a [u8]) -> Result<Frame<'a>, Malformed> {
        let mut r = Reader::new(bytes);
        let (kind, channel) = (r.byte()?, r.uint32()?);
        let frame = match kind {
            1 => Frame::Begin {
                channel,
                columns: r.uint32()?,
                rows: r.uint32()?,
                terminal: r.utf8(RECORD_TEXT_BYTES_MAX)?,
                what: r.utf8(RECORD_TEXT_BYTES_MAX)?,
            },
            2 => return Ok(Frame::Output { channel, bytes: r.rest() }),
            3 => Frame::Resize { channel, columns: r.uint32()?, rows: r.uint32()? },
            4 => Frame::Status { channel, code: r.uint32()? },
            5 => {
                let name = std::str::from_utf8(r.rest()).map_err(|_| Malformed::Utf8)?;
                return Ok(Frame::Signal { channel, name });
            }
            6 => Frame::End { channel },
            _ => return Err(Malformed::Number),
        };
        r.end()?;
        Ok(frame)
    }
}

/// What a recorder answers to each frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// So many have been written, this one included.
    Taken(u64),
    /// It cannot write, and takes no more.
    Failed(String),
}

impl Answer {
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Answer::Taken(count) => [&[0][..], &count.to_be_bytes()].concat(),
            Answer::Failed(why) => [&[1], why.as_bytes()].concat(),
        }
    }

    /// # Errors
    /// It is none.
    pub fn decode(bytes: &[u8]) -> Result<Answer, Malformed> {
        let mut r = Reader::new(bytes);
        match r.byte()? {
            0 => {
                let count = r.uint64()?;
                r.end().map(|()| Answer::Taken(count))
            }
            1 => Ok(Answer::Failed(String::from_utf8_lossy(r.rest()).into_owned())),
            _ => Err(Malformed::Number),
        }
    }
}

const _: () = assert!(TAPE_OUTPUT_BYTES_MAX + 5 <= TAPE_FRAME_BYTES_MAX);
const _: () = assert!(2 * RECORD_TEXT_BYTES_MAX as usize + 21 <= TAPE_FRAME_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_travel_whole() {
        let (channel, columns, rows) = (7, 80, 24);
        for frame in [
            Frame::Begin { channel, columns, rows, terminal: "xterm", what: "shell" },
            Frame::Output { channel, bytes: b"\xff\x1b[m" },
            Frame::Resize { channel, columns, rows },
            Frame::Status { channel, code: 3 },
            Frame::Signal { channel, name: "TERM" },
            Frame::End { channel },
        ] {
            let bytes = frame.encode();
            assert_eq!(Frame::decode(&bytes), Ok(frame));
            assert!(Frame::decode(&bytes[..4]).is_err());
        }
        for answer in [Answer::Taken(u64::MAX - 1), Answer::Failed("disk full".to_owned())] {
            assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        }
        assert!(Answer::decode(&[]).is_err() && Answer::decode(&[0, 1]).is_err());
        assert!(Frame::decode(&[9, 0, 0, 0, 0]).is_err());
    }
}
