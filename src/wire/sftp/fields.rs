use crate::limits::{SFTP_NAME_BYTES_MAX, SFTP_PACKET_BYTES_MAX};
use crate::wire::{Malformed, NoSpace, Reader, Writer};

const SIZE: u32 = 0x0000_0001;
const OWNER: u32 = 0x0000_0002;
const PERMISSIONS: u32 = 0x0000_0004;
const TIMES: u32 = 0x0000_0008;
const EXTENDED: u32 = 0x8000_0000;

/// File attributes (draft §5). What is `None` is not sent, or not to be changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub size: Option<u64>,
    /// User and group number.
    pub owner: Option<(u32, u32)>,
    /// The mode of POSIX, file type included.
    pub permissions: Option<u32>,
    /// Access and modification time, in seconds since 1970.
    pub times: Option<(u32, u32)>,
}

impl Attributes {
    pub const EMPTY: Attributes =
        Attributes { size: None, owner: None, permissions: None, times: None };

    pub fn decode(body: &mut Reader<'_>) -> Result<Attributes, Malformed> {
        let flags = body.uint32()?;
        let mut attributes = Attributes::EMPTY;
        if flags & SIZE != 0 {
            attributes.size = Some(body.uint64()?);
        }
        if flags & OWNER != 0 {
            attributes.owner = Some((body.uint32()?, body.uint32()?));
        }
        if flags & PERMISSIONS != 0 {
            attributes.permissions = Some(body.uint32()?);
        }
        if flags & TIMES != 0 {
            attributes.times = Some((body.uint32()?, body.uint32()?));
        }
        if flags & EXTENDED != 0 {
            // Vendors' pairs are read past. A count larger than the packet ends in `Truncated`.
            for _ in 0..body.uint32()? {
                body.string(SFTP_PACKET_BYTES_MAX)?;
                body.string(SFTP_PACKET_BYTES_MAX)?;
            }
        }
        Ok(attributes)
    }

    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        let mut flags = 0;
        flags |= if self.size.is_some() { SIZE } else { 0 };
        flags |= if self.owner.is_some() { OWNER } else { 0 };
        flags |= if self.permissions.is_some() { PERMISSIONS } else { 0 };
        flags |= if self.times.is_some() { TIMES } else { 0 };
        out.uint32(flags)?;
        if let Some(size) = self.size {
            out.uint64(size)?;
        }
        if let Some((user, group)) = self.owner {
            out.uint32(user)?;
            out.uint32(group)?;
        }
        if let Some(permissions) = self.permissions {
            out.uint32(permissions)?;
        }
        if let Some((access, modification)) = self.times {
            out.uint32(access)?;
            out.uint32(modification)?;
        }
        Ok(())
    }
}

/// The entries of a NAME reply (draft §7), checked when parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names<'a> {
    count: u32,
    entries: &'a [u8],
}

impl<'a> Names<'a> {
    /// `entries` as [`put_name`] wrote them, `count` of them.
    pub const fn from_encoded(count: u32, entries: &'a [u8]) -> Names<'a> {
        Names { count, entries }
    }

    pub const fn count(&self) -> u32 {
        self.count
    }

    /// How long the entries are, encoded.
    pub const fn encoded_bytes(&self) -> usize {
        self.entries.len()
    }

    /// Name, long name and attributes of each entry.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8], Attributes)> + use<'a> {
        let mut rest = Reader::new(self.entries);
        (0..self.count).map_while(move |_| entry(&mut rest).ok())
    }

    pub(super) fn decode(body: &mut Reader<'a>) -> Result<Names<'a>, Malformed> {
        let count = body.uint32()?;
        let entries = body.rest();
        for _ in 0..count {
            entry(body)?;
        }
        let len = entries.len() - body.rest().len();
        Ok(Names { count, entries: entries.get(..len).unwrap_or(&[]) })
    }

    pub(super) fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.uint32(self.count)?;
        out.bytes(self.entries)
    }
}

/// Writes one entry of a NAME reply.
pub fn put_name(
    out: &mut Writer<'_>,
    name: &[u8],
    long_name: &[u8],
    attributes: &Attributes,
) -> Result<(), NoSpace> {
    out.string(name)?;
    out.string(long_name)?;
    attributes.encode(out)
}

fn entry<'a>(body: &mut Reader<'a>) -> Result<(&'a [u8], &'a [u8], Attributes), Malformed> {
    let name = body.string(SFTP_NAME_BYTES_MAX)?;
    let long_name = body.string(SFTP_NAME_BYTES_MAX)?;
    Ok((name, long_name, Attributes::decode(body)?))
}

/// The extension pairs of an INIT or VERSION (draft §4): name and data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extensions<'a>(&'a [u8]);

impl<'a> Extensions<'a> {
    pub const NONE: Extensions<'static> = Extensions(&[]);

    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = Reader::new(self.0);
        std::iter::from_fn(move || if rest.is_empty() { None } else { pair(&mut rest).ok() })
    }

    /// The data of extension `name`, when it is offered.
    pub fn find(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.iter().find(|(offered, _)| *offered == name).map(|(_, data)| data)
    }

    pub(super) fn decode(body: &mut Reader<'a>) -> Result<Extensions<'a>, Malformed> {
        let all = body.rest();
        while !body.is_empty() {
            pair(body)?;
        }
        Ok(Extensions(all))
    }

    pub(super) fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.bytes(self.0)
    }

    /// Encodes pairs into `space`, for [`super::Reply::Version`].
    pub fn collect(
        pairs: &[(&[u8], &[u8])],
        space: &'a mut [u8],
    ) -> Result<Extensions<'a>, NoSpace> {
        let mut out = Writer::new(space);
        for (name, data) in pairs {
            out.string(name)?;
            out.string(data)?;
        }
        let len = out.len();
        Ok(Extensions(space.get(..len).ok_or(NoSpace)?))
    }
}

fn pair<'a>(body: &mut Reader<'a>) -> Result<(&'a [u8], &'a [u8]), Malformed> {
    Ok((body.string(SFTP_PACKET_BYTES_MAX)?, body.string(SFTP_PACKET_BYTES_MAX)?))
}

/// The answer to `statvfs@openssh.com` (PROTOCOL 4.4): the numbers of statvfs(3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VfsStatus {
    pub block_bytes: u64,
    pub fragment_bytes: u64,
    /// In fragments.
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub files_available: u64,
    pub file_system: u64,
    /// 1: read-only; 2: no set-id bits.
    pub flags: u64,
    pub name_bytes_max: u64,
}

impl VfsStatus {
    pub const ENCODED_BYTES: usize = 11 * 8;
    pub const READ_ONLY: u64 = 1;
    pub const NO_SET_ID: u64 = 2;

    pub fn decode(body: &mut Reader<'_>) -> Result<VfsStatus, Malformed> {
        Ok(VfsStatus {
            block_bytes: body.uint64()?,
            fragment_bytes: body.uint64()?,
            blocks: body.uint64()?,
            blocks_free: body.uint64()?,
            blocks_available: body.uint64()?,
            files: body.uint64()?,
            files_free: body.uint64()?,
            files_available: body.uint64()?,
            file_system: body.uint64()?,
            flags: body.uint64()?,
            name_bytes_max: body.uint64()?,
        })
    }

    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        let fields = [
            self.block_bytes,
            self.fragment_bytes,
            self.blocks,
            self.blocks_free,
            self.blocks_available,
            self.files,
            self.files_free,
            self.files_available,
            self.file_system,
            self.flags,
            self.name_bytes_max,
        ];
        fields.into_iter().try_for_each(|field| out.uint64(field))
    }
}

/// The answer to `limits@openssh.com` (PROTOCOL 4.8). Zero means unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub packet_bytes: u64,
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub open_handles: u64,
}

impl Limits {
    pub const ENCODED_BYTES: usize = 4 * 8;

    pub fn decode(body: &mut Reader<'_>) -> Result<Limits, Malformed> {
        Ok(Limits {
            packet_bytes: body.uint64()?,
            read_bytes: body.uint64()?,
            write_bytes: body.uint64()?,
            open_handles: body.uint64()?,
        })
    }

    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        let fields = [self.packet_bytes, self.read_bytes, self.write_bytes, self.open_handles];
        fields.into_iter().try_for_each(|field| out.uint64(field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_skip_the_extended_pairs_and_bound_their_count() {
        let mut packet = vec![0x80, 0, 0, 4, 0, 0, 1, 0xa4, 0, 0, 0, 1];
        packet.extend_from_slice(&[0, 0, 0, 1, b'x', 0, 0, 0, 0]);
        let mut body = Reader::new(&packet);
        let attributes = Attributes::decode(&mut body).expect("valid");
        assert_eq!(attributes, Attributes { permissions: Some(0o644), ..Attributes::EMPTY });
        assert_eq!(body.end(), Ok(()));
        let lying = [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert_eq!(Attributes::decode(&mut Reader::new(&lying)), Err(Malformed::Truncated));
    }

    #[test]
    fn extensions_are_found_by_name() {
        let mut space = [0; 64];
        let pairs: [(&[u8], &[u8]); 2] = [(b"a", b"1"), (b"b@c", b"")];
        let extensions = Extensions::collect(&pairs, &mut space).expect("room");
        assert_eq!(extensions.find(b"b@c"), Some(&b""[..]));
        assert_eq!(extensions.find(b"b"), None);
        assert_eq!(extensions.iter().count(), 2);
        assert_eq!(Extensions::collect(&pairs, &mut [0; 4]), Err(NoSpace));
    }
}
