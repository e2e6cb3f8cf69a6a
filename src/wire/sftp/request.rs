use super::{Attributes, Extensions, extension, framed, kind};
use crate::limits::{
    SFTP_HANDLE_BYTES_MAX, SFTP_PACKET_BYTES_MAX, SFTP_PATH_BYTES_MAX, USER_BYTES_MAX,
};
use crate::wire::{Malformed, NoSpace, Reader, Writer};

/// One request of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The client's name for the request, repeated in the reply. INIT has none; it is 0 there.
    pub id: u32,
    pub operation: Operation<'a>,
}

/// What is asked (draft §4 and §6, OpenSSH's PROTOCOL 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    Init {
        version: u32,
        extensions: Extensions<'a>,
    },
    /// `flags` are those of [`super::open`].
    Open {
        path: &'a [u8],
        flags: u32,
        attributes: Attributes,
    },
    Close {
        handle: &'a [u8],
    },
    Read {
        handle: &'a [u8],
        offset: u64,
        len: u32,
    },
    Write {
        handle: &'a [u8],
        offset: u64,
        data: &'a [u8],
    },
    LinkStat {
        path: &'a [u8],
    },
    HandleStat {
        handle: &'a [u8],
    },
    SetStat {
        path: &'a [u8],
        attributes: Attributes,
    },
    HandleSetStat {
        handle: &'a [u8],
        attributes: Attributes,
    },
    OpenDirectory {
        path: &'a [u8],
    },
    ReadDirectory {
        handle: &'a [u8],
    },
    Remove {
        path: &'a [u8],
    },
    MakeDirectory {
        path: &'a [u8],
        attributes: Attributes,
    },
    RemoveDirectory {
        path: &'a [u8],
    },
    RealPath {
        path: &'a [u8],
    },
    Stat {
        path: &'a [u8],
    },
    Rename {
        from: &'a [u8],
        to: &'a [u8],
    },
    ReadLink {
        path: &'a [u8],
    },
    /// The draft (§6.10) puts the link's path first; OpenSSH sends the target first (PROTOCOL 4.1), and
    /// nearly everybody follows OpenSSH. So do we.
    SymbolicLink {
        target: &'a [u8],
        path: &'a [u8],
    },
    PosixRename {
        from: &'a [u8],
        to: &'a [u8],
    },
    VfsStat {
        path: &'a [u8],
    },
    HandleVfsStat {
        handle: &'a [u8],
    },
    HardLink {
        existing: &'a [u8],
        path: &'a [u8],
    },
    Fsync {
        handle: &'a [u8],
    },
    LinkSetStat {
        path: &'a [u8],
        attributes: Attributes,
    },
    Limits,
    ExpandPath {
        path: &'a [u8],
    },
    /// Zero `len` means up to the end of the file.
    CopyData {
        from: &'a [u8],
        from_offset: u64,
        len: u64,
        to: &'a [u8],
        to_offset: u64,
    },
    HomeDirectory {
        user: &'a [u8],
    },
    /// Hashes of blocks (draft-ietf-secsh-filexfer-13 §9.1.2). `hashes`: names with commas between, the
    /// most wanted first. Zero `len` means up to the end of the file, zero `block` one hash of all.
    CheckFile {
        handle: &'a [u8],
        hashes: &'a [u8],
        offset: u64,
        len: u64,
        block: u32,
    },
    /// Lists of `uint32`, back to back.
    NamesById {
        users: &'a [u8],
        groups: &'a [u8],
    },
    /// An extension we do not know.
    Extended {
        name: &'a [u8],
        data: &'a [u8],
    },
    /// A kind we do not know.
    Unknown {
        kind: u8,
        data: &'a [u8],
    },
}

impl<'a> Request<'a> {
    /// Reads a packet without its length. Trailing bytes are an error.
    pub fn parse(packet: &'a [u8]) -> Result<Request<'a>, Malformed> {
        let mut body = Reader::new(packet);
        let kind = body.byte()?;
        if kind == kind::INIT {
            let version = body.uint32()?;
            let extensions = Extensions::decode(&mut body)?;
            return Ok(Request { id: 0, operation: Operation::Init { version, extensions } });
        }
        let id = body.uint32()?;
        let operation = Operation::decode(kind, &mut body)?;
        body.end()?;
        Ok(Request { id, operation })
    }

    /// Writes the whole packet, length first.
    pub fn write(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        framed(out, |out| {
            out.byte(self.operation.kind())?;
            if !matches!(self.operation, Operation::Init { .. }) {
                out.uint32(self.id)?;
            }
            self.operation.encode(out)
        })
    }
}

impl<'a> Operation<'a> {
    pub const fn kind(&self) -> u8 {
        match self {
            Operation::Init { .. } => kind::INIT,
            Operation::Open { .. } => kind::OPEN,
            Operation::Close { .. } => kind::CLOSE,
            Operation::Read { .. } => kind::READ,
            Operation::Write { .. } => kind::WRITE,
            Operation::LinkStat { .. } => kind::LSTAT,
            Operation::HandleStat { .. } => kind::FSTAT,
            Operation::SetStat { .. } => kind::SETSTAT,
            Operation::HandleSetStat { .. } => kind::FSETSTAT,
            Operation::OpenDirectory { .. } => kind::OPENDIR,
            Operation::ReadDirectory { .. } => kind::READDIR,
            Operation::Remove { .. } => kind::REMOVE,
            Operation::MakeDirectory { .. } => kind::MKDIR,
            Operation::RemoveDirectory { .. } => kind::RMDIR,
            Operation::RealPath { .. } => kind::REALPATH,
            Operation::Stat { .. } => kind::STAT,
            Operation::Rename { .. } => kind::RENAME,
            Operation::ReadLink { .. } => kind::READLINK,
            Operation::SymbolicLink { .. } => kind::SYMLINK,
            Operation::Unknown { kind, .. } => *kind,
            _ => kind::EXTENDED,
        }
    }

    fn decode(kind: u8, body: &mut Reader<'a>) -> Result<Operation<'a>, Malformed> {
        Ok(match kind {
            kind::OPEN => Operation::Open {
                path: path(body)?,
                flags: body.uint32()?,
                attributes: Attributes::decode(body)?,
            },
            kind::CLOSE => Operation::Close { handle: handle(body)? },
            kind::READ => Operation::Read {
                handle: handle(body)?,
                offset: body.uint64()?,
                len: body.uint32()?,
            },
            kind::WRITE => Operation::Write {
                handle: handle(body)?,
                offset: body.uint64()?,
                data: body.string(SFTP_PACKET_BYTES_MAX)?,
            },
            kind::LSTAT => Operation::LinkStat { path: path(body)? },
            kind::FSTAT => Operation::HandleStat { handle: handle(body)? },
            kind::SETSTAT => {
                Operation::SetStat { path: path(body)?, attributes: Attributes::decode(body)? }
            }
            kind::FSETSTAT => Operation::HandleSetStat {
                handle: handle(body)?,
                attributes: Attributes::decode(body)?,
            },
            kind::OPENDIR => Operation::OpenDirectory { path: path(body)? },
            kind::READDIR => Operation::ReadDirectory { handle: handle(body)? },
            kind::REMOVE => Operation::Remove { path: path(body)? },
            kind::MKDIR => Operation::MakeDirectory {
                path: path(body)?,
                attributes: Attributes::decode(body)?,
            },
            kind::RMDIR => Operation::RemoveDirectory { path: path(body)? },
            kind::REALPATH => Operation::RealPath { path: path(body)? },
            kind::STAT => Operation::Stat { path: path(body)? },
            kind::RENAME => Operation::Rename { from: path(body)?, to: path(body)? },
            kind::READLINK => Operation::ReadLink { path: path(body)? },
            kind::SYMLINK => Operation::SymbolicLink { target: path(body)?, path: path(body)? },
            kind::EXTENDED => Operation::decode_extended(body)?,
            kind => Operation::Unknown { kind, data: rest(body)? },
        })
    }

    fn decode_extended(body: &mut Reader<'a>) -> Result<Operation<'a>, Malformed> {
        Ok(match body.string(SFTP_PATH_BYTES_MAX)? {
            extension::POSIX_RENAME => {
                Operation::PosixRename { from: path(body)?, to: path(body)? }
            }
            extension::STATVFS => Operation::VfsStat { path: path(body)? },
            extension::FSTATVFS => Operation::HandleVfsStat { handle: handle(body)? },
            extension::HARDLINK => Operation::HardLink { existing: path(body)?, path: path(body)? },
            extension::FSYNC => Operation::Fsync { handle: handle(body)? },
            extension::LSETSTAT => {
                Operation::LinkSetStat { path: path(body)?, attributes: Attributes::decode(body)? }
            }
            extension::LIMITS => Operation::Limits,
            extension::EXPAND_PATH => Operation::ExpandPath { path: path(body)? },
            extension::COPY_DATA => Operation::CopyData {
                from: handle(body)?,
                from_offset: body.uint64()?,
                len: body.uint64()?,
                to: handle(body)?,
                to_offset: body.uint64()?,
            },
            extension::HOME_DIRECTORY => {
                Operation::HomeDirectory { user: body.string(USER_BYTES_MAX)? }
            }
            extension::CHECK_FILE => Operation::CheckFile {
                handle: handle(body)?,
                hashes: body.string(SFTP_PATH_BYTES_MAX)?,
                offset: body.uint64()?,
                len: body.uint64()?,
                block: body.uint32()?,
            },
            extension::NAMES_BY_ID => Operation::NamesById {
                users: body.string(SFTP_PACKET_BYTES_MAX)?,
                groups: body.string(SFTP_PACKET_BYTES_MAX)?,
            },
            name => Operation::Extended { name, data: rest(body)? },
        })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        match *self {
            Operation::Init { version, extensions } => {
                out.uint32(version)?;
                extensions.encode(out)
            }
            Operation::Open { path, flags, attributes } => {
                out.string(path)?;
                out.uint32(flags)?;
                attributes.encode(out)
            }
            Operation::Close { handle: one }
            | Operation::HandleStat { handle: one }
            | Operation::ReadDirectory { handle: one }
            | Operation::LinkStat { path: one }
            | Operation::OpenDirectory { path: one }
            | Operation::Remove { path: one }
            | Operation::RemoveDirectory { path: one }
            | Operation::RealPath { path: one }
            | Operation::Stat { path: one }
            | Operation::ReadLink { path: one } => out.string(one),
            Operation::Read { handle, offset, len } => {
                out.string(handle)?;
                out.uint64(offset)?;
                out.uint32(len)
            }
            Operation::Write { handle, offset, data } => {
                out.string(handle)?;
                out.uint64(offset)?;
                out.string(data)
            }
            Operation::SetStat { path: what, attributes }
            | Operation::MakeDirectory { path: what, attributes }
            | Operation::HandleSetStat { handle: what, attributes } => {
                out.string(what)?;
                attributes.encode(out)
            }
            Operation::Rename { from: one, to: other }
            | Operation::SymbolicLink { target: one, path: other } => {
                out.string(one)?;
                out.string(other)
            }
            Operation::Unknown { data, .. } => out.bytes(data),
            _ => self.encode_extended(out),
        }
    }

    fn encode_extended(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        match *self {
            Operation::PosixRename { from, to } => {
                strings(out, &[extension::POSIX_RENAME, from, to])
            }
            Operation::VfsStat { path } => strings(out, &[extension::STATVFS, path]),
            Operation::HandleVfsStat { handle } => strings(out, &[extension::FSTATVFS, handle]),
            Operation::HardLink { existing, path } => {
                strings(out, &[extension::HARDLINK, existing, path])
            }
            Operation::Fsync { handle } => strings(out, &[extension::FSYNC, handle]),
            Operation::LinkSetStat { path, attributes } => {
                strings(out, &[extension::LSETSTAT, path])?;
                attributes.encode(out)
            }
            Operation::Limits => out.string(extension::LIMITS),
            Operation::ExpandPath { path } => strings(out, &[extension::EXPAND_PATH, path]),
            Operation::CopyData { from, from_offset, len, to, to_offset } => {
                strings(out, &[extension::COPY_DATA, from])?;
                out.uint64(from_offset)?;
                out.uint64(len)?;
                out.string(to)?;
                out.uint64(to_offset)
            }
            Operation::CheckFile { handle, hashes, offset, len, block } => {
                strings(out, &[extension::CHECK_FILE, handle, hashes])?;
                out.uint64(offset)?;
                out.uint64(len)?;
                out.uint32(block)
            }
            Operation::HomeDirectory { user } => strings(out, &[extension::HOME_DIRECTORY, user]),
            Operation::NamesById { users, groups } => {
                strings(out, &[extension::NAMES_BY_ID, users, groups])
            }
            Operation::Extended { name, data } => {
                out.string(name)?;
                out.bytes(data)
            }
            // Every other operation has a kind of its own and was written by `encode`.
            _ => Ok(()),
        }
    }
}

/// The longest a WRITE is before its data: length, kind, id, handle, offset, data length.
pub const WRITE_HEADER_BYTES_MAX: usize = 4 + 1 + 4 + 4 + SFTP_HANDLE_BYTES_MAX as usize + 8 + 4;

/// A WRITE up to its data, which streams and is never held together in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteHeader<'a> {
    pub id: u32,
    pub handle: &'a [u8],
    pub offset: u64,
    /// Bytes of data that follow.
    pub len: u32,
    /// Bytes of the packet behind the data, to be skipped: Go's pkg/sftp sends whole buffers of
    /// which only the front counts, and OpenSSH's server lets it.
    pub trailing: u32,
}

impl<'a> WriteHeader<'a> {
    /// How many bytes from the front of a WRITE packet, its length included, the header takes.
    /// `front` is at least its first 13 bytes.
    pub fn total(front: &[u8]) -> Result<usize, Malformed> {
        let mut body = Reader::new(front);
        body.bytes(4 + 1 + 4)?;
        let handle = body.uint32()?;
        if handle > SFTP_HANDLE_BYTES_MAX {
            return Err(Malformed::OverLimit);
        }
        Ok(13 + handle as usize + 12)
    }

    /// Reads a header of exactly [`WriteHeader::total`] bytes, and checks that the data is inside the
    /// packet.
    pub fn parse(front: &'a [u8]) -> Result<WriteHeader<'a>, Malformed> {
        let mut body = Reader::new(front);
        let packet = body.uint32()?;
        if body.byte()? != kind::WRITE {
            return Err(Malformed::Number);
        }
        let id = body.uint32()?;
        let handle = handle(&mut body)?;
        let offset = body.uint64()?;
        let len = body.uint32()?;
        body.end()?;
        if len > SFTP_PACKET_BYTES_MAX {
            return Err(Malformed::OverLimit);
        }
        let expected = (front.len() - 4) as u64 + u64::from(len);
        let trailing = u64::from(packet).checked_sub(expected).ok_or(Malformed::Truncated)?;
        let trailing = u32::try_from(trailing).map_err(|_| Malformed::OverLimit)?;
        Ok(WriteHeader { id, handle, offset, len, trailing })
    }

    /// Writes the header of a packet whose `len` data bytes follow from elsewhere.
    pub fn write(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        let handle = u32::try_from(self.handle.len()).map_err(|_| NoSpace)?;
        let behind = self.len.saturating_add(self.trailing);
        out.uint32((1 + 4 + 4 + 8 + 4u32).saturating_add(handle).saturating_add(behind))?;
        out.byte(kind::WRITE)?;
        out.uint32(self.id)?;
        out.string(self.handle)?;
        out.uint64(self.offset)?;
        out.uint32(self.len)
    }
}

fn path<'a>(body: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    body.string(SFTP_PATH_BYTES_MAX)
}

fn handle<'a>(body: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    body.string(SFTP_HANDLE_BYTES_MAX)
}

fn rest<'a>(body: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    body.bytes(body.rest().len())
}

fn strings(out: &mut Writer<'_>, all: &[&[u8]]) -> Result<(), NoSpace> {
    all.iter().try_for_each(|one| out.string(one))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(operation: Operation<'_>) {
        let mut space = [0; 1024];
        let mut out = Writer::new(&mut space);
        let id = if matches!(operation, Operation::Init { .. }) { 0 } else { 77 };
        let request = Request { id, operation };
        request.write(&mut out).expect("room");
        let (length, packet) = out.written().split_first_chunk::<4>().expect("length");
        assert_eq!(u32::from_be_bytes(*length) as usize, packet.len());
        assert_eq!(Request::parse(packet), Ok(request));
        let mut longer = packet.to_vec();
        longer.push(0);
        if !matches!(operation, Operation::Extended { .. } | Operation::Unknown { .. }) {
            assert!(Request::parse(&longer).is_err(), "{operation:?} takes a trailing byte");
            assert!(Request::parse(&packet[..packet.len() - 1]).is_err(), "{operation:?} cut");
        }
    }

    #[test]
    fn every_operation_round_trips() {
        let (path, to, handle) = (&b"/a\xff"[..], &b"b c"[..], &b"\0\0\0\x01"[..]);
        let attributes = Attributes {
            size: Some(1 << 40),
            owner: Some((1, 2)),
            permissions: Some(0o100644),
            times: Some((3, 4)),
        };
        let all = [
            Operation::Open { path, flags: 0x1b, attributes },
            Operation::Close { handle },
            Operation::Read { handle, offset: 1 << 33, len: 9 },
            Operation::Write { handle, offset: 1, data: b"xyz" },
            Operation::LinkStat { path },
            Operation::HandleStat { handle },
            Operation::SetStat { path, attributes: Attributes::EMPTY },
            Operation::HandleSetStat { handle, attributes },
            Operation::OpenDirectory { path },
            Operation::ReadDirectory { handle },
            Operation::Remove { path },
            Operation::MakeDirectory { path, attributes },
            Operation::RemoveDirectory { path },
            Operation::RealPath { path: b"" },
            Operation::Stat { path },
            Operation::Rename { from: path, to },
            Operation::ReadLink { path },
            Operation::SymbolicLink { target: to, path },
            Operation::PosixRename { from: path, to },
            Operation::VfsStat { path },
            Operation::HandleVfsStat { handle },
            Operation::HardLink { existing: path, path: to },
            Operation::Fsync { handle },
            Operation::LinkSetStat { path, attributes },
            Operation::Limits,
            Operation::ExpandPath { path: b"~" },
            Operation::CopyData { from: handle, from_offset: 1, len: 2, to: handle, to_offset: 3 },
            Operation::HomeDirectory { user: b"me" },
            Operation::CheckFile { handle, hashes: b"sha256", offset: 1, len: 2, block: 256 },
            Operation::NamesById { users: &[0, 0, 0, 1], groups: &[] },
            Operation::Extended { name: b"x@y", data: b"z" },
            Operation::Unknown { kind: 21, data: b"z" },
        ];
        all.into_iter().for_each(round_trip);
    }

    #[test]
    fn init_carries_extensions() {
        let mut space = [0; 64];
        let extensions = Extensions::collect(&[(b"a@b", b"1")], &mut space).expect("room");
        round_trip(Operation::Init { version: 3, extensions });
        round_trip(Operation::Init { version: 6, extensions: Extensions::NONE });
    }

    #[test]
    fn long_paths_and_handles_are_refused() {
        let mut space = vec![0; 80_000];
        for (operation, limit) in [
            (Operation::Stat { path: &[b'x'; 4097] }, "path"),
            (Operation::Close { handle: &[0; 257] }, "handle"),
            (Operation::HomeDirectory { user: &[b'u'; 256] }, "user"),
        ] {
            let mut out = Writer::new(&mut space);
            Request { id: 1, operation }.write(&mut out).expect("room");
            assert_eq!(Request::parse(&out.written()[4..]), Err(Malformed::OverLimit), "{limit}");
        }
    }

    #[test]
    fn write_headers_stand_alone() {
        let data = [9; 40];
        let operation = Operation::Write { handle: b"hndl", offset: 5, data: &data };
        let mut space = [0; 128];
        let mut out = Writer::new(&mut space);
        Request { id: 3, operation }.write(&mut out).expect("room");
        let packet = out.written().to_vec();
        let total = WriteHeader::total(&packet[..13]).expect("header");
        assert_eq!(total, 29);
        let header = WriteHeader::parse(&packet[..total]).expect("header");
        assert_eq!(header, WriteHeader { id: 3, handle: b"hndl", offset: 5, len: 40, trailing: 0 });
        let mut space = [0; 64];
        let mut out = Writer::new(&mut space);
        header.write(&mut out).expect("room");
        assert_eq!(out.written(), &packet[..total]);
        let mut lying = packet[..total].to_vec();
        lying[3] -= 1;
        assert_eq!(WriteHeader::parse(&lying), Err(Malformed::Truncated));
        lying[3] += 3;
        assert_eq!(WriteHeader::parse(&lying).expect("header").trailing, 2);
        assert!(total <= WRITE_HEADER_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn arbitrary_packets_never_panic(packet in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(request) = Request::parse(&packet) {
                let mut space = [0; 1024];
                let mut out = Writer::new(&mut space);
                request.write(&mut out).expect("room");
                // Extended attributes are dropped, so only the meaning has to survive.
                prop_assert_eq!(Request::parse(&out.written()[4..]), Ok(request));
            }
            if packet.len() >= 13 {
                let _ = WriteHeader::total(&packet);
                let _ = WriteHeader::parse(&packet);
            }
        }

        #[test]
        fn arbitrary_bodies_of_known_kinds_never_panic(
            kind in prop_oneof![3u8..=20, Just(200u8), Just(1u8)],
            name in 0usize..11,
            body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut packet = vec![kind, 0, 0, 0, 1];
            if kind == 200 {
                let name = extension::OFFERED[name].0;
                packet.extend_from_slice(&(name.len() as u32).to_be_bytes());
                packet.extend_from_slice(name);
            }
            packet.extend_from_slice(&body);
            let _ = Request::parse(&packet);
        }
    }
}
