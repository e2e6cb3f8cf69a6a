use super::{Attributes, Extensions, Names, StatusCode, framed, kind};
use crate::limits::{SFTP_HANDLE_BYTES_MAX, SFTP_PACKET_BYTES_MAX, SFTP_STATUS_TEXT_BYTES_MAX};
use crate::wire::{Malformed, NoSpace, Reader, Writer};

/// Length, kind, id and data length: what stands before the data of a DATA reply.
pub const DATA_HEADER_BYTES: u32 = 13;

/// One reply of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// The request's. VERSION has none; it is 0 there.
    pub id: u32,
    pub reply: Reply<'a>,
}

/// What is replied (draft §4 and §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    Version {
        version: u32,
        extensions: Extensions<'a>,
    },
    /// `text` is for people and may hold anything; escape it before it is shown.
    Status {
        code: StatusCode,
        text: &'a [u8],
    },
    Handle(&'a [u8]),
    Data(&'a [u8]),
    Names(Names<'a>),
    Attributes(Attributes),
    /// The request says how to read it.
    Extended(&'a [u8]),
}

impl<'a> Response<'a> {
    /// Reads a packet without its length. Trailing bytes are an error.
    pub fn parse(packet: &'a [u8]) -> Result<Response<'a>, Malformed> {
        let mut body = Reader::new(packet);
        let kind = body.byte()?;
        if kind == kind::VERSION {
            let version = body.uint32()?;
            let extensions = Extensions::decode(&mut body)?;
            return Ok(Response { id: 0, reply: Reply::Version { version, extensions } });
        }
        let id = body.uint32()?;
        let reply = match kind {
            kind::STATUS => status(&mut body)?,
            kind::HANDLE => Reply::Handle(body.string(SFTP_HANDLE_BYTES_MAX)?),
            kind::DATA => Reply::Data(body.string(SFTP_PACKET_BYTES_MAX)?),
            kind::NAME => Reply::Names(Names::decode(&mut body)?),
            kind::ATTRS => Reply::Attributes(Attributes::decode(&mut body)?),
            kind::EXTENDED_REPLY => Reply::Extended(body.bytes(body.rest().len())?),
            _ => return Err(Malformed::Number),
        };
        body.end()?;
        Ok(Response { id, reply })
    }

    /// Writes the whole packet, length first.
    pub fn write(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        framed(out, |out| match self.reply {
            Reply::Version { version, extensions } => {
                out.byte(kind::VERSION)?;
                out.uint32(version)?;
                extensions.encode(out)
            }
            Reply::Status { code, text } => {
                self.front(kind::STATUS, out)?;
                out.uint32(code.number())?;
                out.string(text)?;
                // The language tag; OpenSSH leaves it empty too.
                out.string(b"")
            }
            Reply::Handle(handle) => {
                self.front(kind::HANDLE, out)?;
                out.string(handle)
            }
            Reply::Data(data) => {
                self.front(kind::DATA, out)?;
                out.string(data)
            }
            Reply::Names(names) => {
                self.front(kind::NAME, out)?;
                names.encode(out)
            }
            Reply::Attributes(attributes) => {
                self.front(kind::ATTRS, out)?;
                attributes.encode(out)
            }
            Reply::Extended(data) => {
                self.front(kind::EXTENDED_REPLY, out)?;
                out.bytes(data)
            }
        })
    }

    fn front(&self, kind: u8, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.byte(kind)?;
        out.uint32(self.id)
    }
}

/// What stands before the `len` bytes of a DATA reply that are already in their place.
pub const fn data_header(id: u32, len: u32) -> [u8; DATA_HEADER_BYTES as usize] {
    let [l0, l1, l2, l3] = len.saturating_add(1 + 4 + 4).to_be_bytes();
    let [i0, i1, i2, i3] = id.to_be_bytes();
    let [d0, d1, d2, d3] = len.to_be_bytes();
    [l0, l1, l2, l3, kind::DATA, i0, i1, i2, i3, d0, d1, d2, d3]
}

fn status<'a>(body: &mut Reader<'a>) -> Result<Reply<'a>, Malformed> {
    let code = StatusCode::from_number(body.uint32()?);
    // Servers older than version 3 end here.
    if body.is_empty() {
        return Ok(Reply::Status { code, text: b"" });
    }
    let text = body.string(SFTP_STATUS_TEXT_BYTES_MAX)?;
    if !body.is_empty() {
        body.string(SFTP_STATUS_TEXT_BYTES_MAX)?;
    }
    Ok(Reply::Status { code, text })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Limits, VfsStatus, put_name};
    use super::*;

    fn round_trip(reply: Reply<'_>) -> Vec<u8> {
        let mut space = [0; 1024];
        let mut out = Writer::new(&mut space);
        let id = if matches!(reply, Reply::Version { .. }) { 0 } else { 0x0102_0304 };
        let response = Response { id, reply };
        response.write(&mut out).expect("room");
        let (length, packet) = out.written().split_first_chunk::<4>().expect("length");
        assert_eq!(u32::from_be_bytes(*length) as usize, packet.len());
        assert_eq!(Response::parse(packet), Ok(response));
        out.written().to_vec()
    }

    #[test]
    fn every_reply_round_trips() {
        let mut space = [0; 64];
        let extensions = Extensions::collect(&[(b"a@b", b"1")], &mut space).expect("room");
        round_trip(Reply::Version { version: 3, extensions });
        round_trip(Reply::Status { code: StatusCode::NoSuchFile, text: b"No such file" });
        round_trip(Reply::Handle(b"\0\0\0\0"));
        let whole = round_trip(Reply::Data(b"data"));
        assert_eq!(whole[..13], data_header(0x0102_0304, 4));
        round_trip(Reply::Attributes(Attributes { size: Some(3), ..Attributes::EMPTY }));
        let mut space = [0; 128];
        let mut out = Writer::new(&mut space);
        put_name(&mut out, b"a\xff", b"-rw a", &Attributes::EMPTY).expect("room");
        put_name(&mut out, b"b", b"", &Attributes { size: Some(1), ..Attributes::EMPTY })
            .expect("room");
        let names = Names::from_encoded(2, out.written());
        assert_eq!(names.iter().map(|(name, ..)| name.len()).collect::<Vec<_>>(), [2, 1]);
        round_trip(Reply::Names(names));
        round_trip(Reply::Extended(b"xyz"));
    }

    #[test]
    fn extended_answers_round_trip() {
        let mut space = [0; 128];
        let mut out = Writer::new(&mut space);
        let status = VfsStatus { blocks: 9, name_bytes_max: 255, ..VfsStatus::default() };
        status.encode(&mut out).expect("room");
        assert_eq!(out.len(), VfsStatus::ENCODED_BYTES);
        assert_eq!(VfsStatus::decode(&mut Reader::new(out.written())), Ok(status));
        let mut out = Writer::new(&mut space);
        let limits = Limits { packet_bytes: 1, read_bytes: 2, write_bytes: 3, open_handles: 4 };
        limits.encode(&mut out).expect("room");
        assert_eq!(out.len(), Limits::ENCODED_BYTES);
        assert_eq!(Limits::decode(&mut Reader::new(out.written())), Ok(limits));
    }

    #[test]
    fn old_status_and_lying_counts() {
        let bare = [kind::STATUS, 0, 0, 0, 1, 0, 0, 0, 4];
        let expected = Reply::Status { code: StatusCode::Failure, text: b"" };
        assert_eq!(Response::parse(&bare), Ok(Response { id: 1, reply: expected }));
        let lying = [kind::NAME, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(Response::parse(&lying), Err(Malformed::Truncated));
        assert_eq!(Response::parse(&[kind::OPEN, 0, 0, 0, 1]), Err(Malformed::Number));
    }

    proptest! {
        #[test]
        fn arbitrary_packets_never_panic(
            kind in prop_oneof![Just(2u8), 101u8..=105, Just(201u8), any::<u8>()],
            body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut packet = vec![kind];
            packet.extend_from_slice(&body);
            if let Ok(Response { reply: Reply::Names(names), .. }) = Response::parse(&packet) {
                prop_assert_eq!(names.iter().count(), names.count() as usize);
            }
        }
    }
}
