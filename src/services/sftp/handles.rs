use slab::Slab;

use super::longname::AccountNames;
use super::open::FileId;
use crate::limits::SFTP_HANDLES_MAX;
use crate::reactor::Fd;

/// How the client names an open file: a place in the table, and a number that no other handle of
/// the session had, so that a handle kept after its CLOSE names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandleName {
    key: u32,
    serial: u32,
}

impl HandleName {
    /// What is not of our making becomes a name that no handle has.
    pub fn parse(bytes: &[u8]) -> HandleName {
        match <[u8; 8]>::try_from(bytes) {
            Ok([a, b, c, d, e, f, g, h]) => HandleName {
                key: u32::from_be_bytes([a, b, c, d]),
                serial: u32::from_be_bytes([e, f, g, h]),
            },
            Err(_) => HandleName { key: u32::MAX, serial: 0 },
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

    /// Empties the table.
    pub fn drain(&mut self) -> impl Iterator<Item = Handle> + '_ {
        self.open.drain().map(|(_, handle)| handle)
    }
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
