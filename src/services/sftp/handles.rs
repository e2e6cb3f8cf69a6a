use slab::Slab;

use super::longname::AccountNames;
use super::open::FileId;
use crate::limits::SFTP_HANDLES_MAX;
use crate::reactor::Fd;
use crate::services::{Luggage, Unpacking};
use crate::wire::Malformed;

/// How the client names an open file: a place in the table, and a number that no other handle of
/// the session had, so that a handle kept after its CLOSE names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandleName {
    key: u32,
    serial: u32,
}

impl HandleName {
    /// One that no handle has.
    pub const NOBODY: HandleName = HandleName { key: u32::MAX, serial: 0 };

    /// What is not of our making becomes a name that no handle has.
    pub fn parse(bytes: &[u8]) -> HandleName {
        match <[u8; 8]>::try_from(bytes) {
            Ok([a, b, c, d, e, f, g, h]) => HandleName {
                key: u32::from_be_bytes([a, b, c, d]),
                serial: u32::from_be_bytes([e, f, g, h]),
            },
            Err(_) => HandleName::NOBODY,
        }
    }

    pub fn to_bytes(self) -> [u8; 8] {
        let [a, b, c, d] = self.key.to_be_bytes();
        let [e, f, g, h] = self.serial.to_be_bytes();
        [a, b, c, d, e, f, g, h]
    }
}

/// A file that reads and writes go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFile {
    pub fd: Fd,
    pub file: FileId,
    /// A plain file; what is not may answer "try again" without end.
    pub regular: bool,
    pub writable: bool,
    /// Writes go to the end whatever their offset says.
    pub append: bool,
    /// Where it ends, as far as this session knows; of use where there is a quota.
    pub end: u64,
}

#[derive(Debug)]
pub enum Handle {
    File(OpenFile),
    /// The account names met so far travel with the listing.
    Directory {
        fd: Fd,
        accounts: Box<AccountNames>,
    },
}

impl Handle {
    pub const fn fd(&self) -> Fd {
        match self {
            Handle::File(file) => file.fd,
            Handle::Directory { fd, .. } => *fd,
        }
    }
}

/// The open handles of a session.
#[derive(Debug, Default)]
pub struct Handles {
    open: Slab<(u32, Handle)>,
    last_serial: u32,
}

impl Handles {
    /// Serial numbers continue from `salt`, so that another session's handles do not fit here.
    pub const fn starting_at(salt: u32) -> Handles {
        Handles { open: Slab::new(), last_serial: salt }
    }

    pub fn is_full(&self) -> bool {
        self.open.len() >= SFTP_HANDLES_MAX
    }

    pub fn insert(&mut self, handle: Handle) -> HandleName {
        self.last_serial = self.last_serial.wrapping_add(1);
        let serial = self.last_serial;
        HandleName { key: self.open.insert((serial, handle)) as u32, serial }
    }

    pub fn find(&mut self, name: HandleName) -> Option<&mut Handle> {
        let (serial, handle) = self.open.get_mut(name.key as usize)?;
        (*serial == name.serial).then_some(handle)
    }

    pub fn file(&mut self, name: HandleName) -> Option<OpenFile> {
        match self.find(name)? {
            Handle::File(file) => Some(*file),
            Handle::Directory { .. } => None,
        }
    }

    pub fn remove(&mut self, name: HandleName) -> Option<Handle> {
        self.find(name)?;
        Some(self.open.remove(name.key as usize).1)
    }

    /// The name of what is open on a descriptor.
    pub fn name_of(&self, fd: Fd) -> HandleName {
        let found = self.open.iter().find(|(_, (_, handle))| handle.fd() == fd);
        found.map_or(HandleName::NOBODY, |(key, (serial, _))| HandleName {
            key: key as u32,
            serial: *serial,
        })
    }

    /// In the order of their places.
    pub fn descriptors(&self) -> impl Iterator<Item = Fd> + '_ {
        self.open.iter().map(|(_, (_, handle))| handle.fd())
    }

    /// For another process, which has the descriptors from then on.
    pub fn pack(&self, out: &mut Luggage) {
        out.uint32(self.last_serial);
        out.uint32(self.open.len() as u32);
        for (key, (serial, handle)) in &self.open {
            out.uint32(key as u32);
            out.uint32(*serial);
            out.descriptor(Some(handle.fd()));
            out.boolean(matches!(handle, Handle::File(_)));
            if let Handle::File(file) = handle {
                for number in [file.file.device, file.file.inode, file.end] {
                    out.uint64(number);
                }
                for is in [file.regular, file.writable, file.append] {
                    out.boolean(is);
                }
            }
        }
    }

    /// What [`Handles::pack`] packed, under the names that the client knows. What an error leaves here is to be
    /// closed.
    pub fn unpack(&mut self, from: &mut Unpacking<'_>) -> Result<(), Malformed> {
        self.last_serial = from.uint32()?;
        let mut open = Vec::new();
        let all = unpack_all(&mut open, from);
        self.open = open.into_iter().collect();
        all
    }

    /// Empties the table.
    pub fn drain(&mut self) -> impl Iterator<Item = Handle> + '_ {
        self.open.drain().map(|(_, handle)| handle)
    }
}

/// A place is no larger than how many there may be at once, and none is there twice.
fn unpack_all(
    open: &mut Vec<(usize, (u32, Handle))>,
    from: &mut Unpacking<'_>,
) -> Result<(), Malformed> {
    for _ in 0..from.uint32()? {
        let (key, serial) = (from.uint32()? as usize, from.uint32()?);
        let follows = open.last().is_none_or(|(before, _)| key > *before);
        if key >= SFTP_HANDLES_MAX || !follows {
            return Err(Malformed::Range);
        }
        let fd = from.open_descriptor()?;
        open.push((key, (serial, Handle::Directory { fd, accounts: Box::default() })));
        if from.boolean()? {
            let file = FileId { device: from.uint64()?, inode: from.uint64()? };
            let end = from.uint64()?;
            let [regular, writable, append] = [from.boolean()?, from.boolean()?, from.boolean()?];
            if let Some((_, (_, handle))) = open.last_mut() {
                *handle = Handle::File(OpenFile { fd, file, regular, writable, append, end });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(fd: i32) -> Handle {
        Handle::Directory { fd: Fd(fd), accounts: Box::default() }
    }

    /// SECURITY 111: forged, stale and foreign handles are errors.
    #[test]
    fn names_that_are_not_current_find_nothing() {
        let mut handles = Handles::starting_at(u32::MAX);
        let first = handles.insert(directory(3));
        let second = handles.insert(directory(4));
        assert_eq!(HandleName::parse(&first.to_bytes()), first);
        assert_eq!(handles.find(second).map(|handle| handle.fd()), Some(Fd(4)));
        assert_eq!(handles.file(first), None);
        assert!(handles.remove(first).is_some());
        assert!(handles.remove(first).is_none());
        let third = handles.insert(directory(5));
        assert_eq!(third.to_bytes()[..4], first.to_bytes()[..4], "the place is used again");
        assert!(handles.find(first).is_none());
        for forged in [&b""[..], &[0; 4], &[0xff; 8], &[0; 9], &[0; 8]] {
            assert!(handles.find(HandleName::parse(forged)).is_none(), "{forged:?}");
        }
        let mut other = Handles::starting_at(77);
        other.insert(directory(3));
        assert!(other.find(third).is_none());
        assert_eq!(handles.drain().count(), 2);
    }
}
