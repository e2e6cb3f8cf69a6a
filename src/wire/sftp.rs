//! The SSH File Transfer Protocol, version 3 (draft-ietf-secsh-filexfer-02), and the extensions of
//! section 4 of OpenSSH's PROTOCOL file. Both directions: what a client asks, what a server replies.
//!
//! A packet is `uint32 length, byte kind, uint32 id, ...`. `parse` takes a packet without its
//! length; `write` writes one with it. Names and paths are bytes: the protocol names no character
//! set, and file systems have none.

mod fields;
mod reply;
mod request;

pub use fields::{Attributes, Extensions, Limits, Names, VfsStatus, put_name};
pub use reply::{DATA_HEADER_BYTES, Reply, Response, data_header};
pub use request::{Operation, Request, WRITE_HEADER_BYTES_MAX, WriteHeader};

use super::{NoSpace, Writer};

/// The version we speak (draft §4).
pub const VERSION: u32 = 3;

/// Packet kinds (draft §3).
pub mod kind {
    pub const INIT: u8 = 1;
    pub const VERSION: u8 = 2;
    pub const OPEN: u8 = 3;
    pub const CLOSE: u8 = 4;
    pub const READ: u8 = 5;
    pub const WRITE: u8 = 6;
    pub const LSTAT: u8 = 7;
    pub const FSTAT: u8 = 8;
    pub const SETSTAT: u8 = 9;
    pub const FSETSTAT: u8 = 10;
    pub const OPENDIR: u8 = 11;
    pub const READDIR: u8 = 12;
    pub const REMOVE: u8 = 13;
    pub const MKDIR: u8 = 14;
    pub const RMDIR: u8 = 15;
    pub const REALPATH: u8 = 16;
    pub const STAT: u8 = 17;
    pub const RENAME: u8 = 18;
    pub const READLINK: u8 = 19;
    pub const SYMLINK: u8 = 20;
    pub const STATUS: u8 = 101;
    pub const HANDLE: u8 = 102;
    pub const DATA: u8 = 103;
    pub const NAME: u8 = 104;
    pub const ATTRS: u8 = 105;
    pub const EXTENDED: u8 = 200;
    pub const EXTENDED_REPLY: u8 = 201;
}

/// The `pflags` of an OPEN (draft §6.3).
pub mod open {
    pub const READ: u32 = 0x01;
    pub const WRITE: u32 = 0x02;
    pub const APPEND: u32 = 0x04;
    pub const CREATE: u32 = 0x08;
    pub const TRUNCATE: u32 = 0x10;
    pub const EXCLUSIVE: u32 = 0x20;
}

/// Names of the extensions, as requests and as a VERSION packet lists them.
pub mod extension {
    pub const POSIX_RENAME: &[u8] = b"posix-rename@openssh.com";
    pub const STATVFS: &[u8] = b"statvfs@openssh.com";
    pub const FSTATVFS: &[u8] = b"fstatvfs@openssh.com";
    pub const HARDLINK: &[u8] = b"hardlink@openssh.com";
    pub const FSYNC: &[u8] = b"fsync@openssh.com";
    pub const LSETSTAT: &[u8] = b"lsetstat@openssh.com";
    pub const LIMITS: &[u8] = b"limits@openssh.com";
    pub const EXPAND_PATH: &[u8] = b"expand-path@openssh.com";
    pub const COPY_DATA: &[u8] = b"copy-data";
    pub const HOME_DIRECTORY: &[u8] = b"home-directory";
    pub const NAMES_BY_ID: &[u8] = b"users-groups-by-id@openssh.com";

    pub const CHECK_FILE: &[u8] = b"check-file-handle";

    /// The one hash of [`CHECK_FILE`] that we know.
    pub const CHECK_FILE_HASH: &[u8] = b"sha256";

    /// What a server of ours offers, with the revision of each (PROTOCOL 4.2 to 4.12).
    pub const OFFERED: [(&[u8], &[u8]); 12] = [
        (POSIX_RENAME, b"1"),
        (STATVFS, b"2"),
        (FSTATVFS, b"2"),
        (HARDLINK, b"1"),
        (FSYNC, b"1"),
        (LSETSTAT, b"1"),
        (LIMITS, b"1"),
        (EXPAND_PATH, b"1"),
        (COPY_DATA, b"1"),
        (HOME_DIRECTORY, b"1"),
        (NAMES_BY_ID, b"1"),
        (CHECK_FILE, b"1"),
    ];
}

/// The codes a STATUS carries (draft §7), less the two that only a client's library makes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StatusCode {
    Ok,
    Eof,
    NoSuchFile,
    PermissionDenied,
    Failure,
    BadMessage,
    NoConnection,
    ConnectionLost,
    OpUnsupported,
    /// A code of a later version or of a vendor.
    Other(u32),
}

impl StatusCode {
    pub const fn from_number(number: u32) -> StatusCode {
        match number {
            0 => StatusCode::Ok,
            1 => StatusCode::Eof,
            2 => StatusCode::NoSuchFile,
            3 => StatusCode::PermissionDenied,
            4 => StatusCode::Failure,
            5 => StatusCode::BadMessage,
            6 => StatusCode::NoConnection,
            7 => StatusCode::ConnectionLost,
            8 => StatusCode::OpUnsupported,
            other => StatusCode::Other(other),
        }
    }

    pub const fn number(self) -> u32 {
        match self {
            StatusCode::Ok => 0,
            StatusCode::Eof => 1,
            StatusCode::NoSuchFile => 2,
            StatusCode::PermissionDenied => 3,
            StatusCode::Failure => 4,
            StatusCode::BadMessage => 5,
            StatusCode::NoConnection => 6,
            StatusCode::ConnectionLost => 7,
            StatusCode::OpUnsupported => 8,
            StatusCode::Other(other) => other,
        }
    }

    /// The words that go with the code; OpenSSH's own, which some clients compare.
    pub const fn text(self) -> &'static str {
        match self {
            StatusCode::Ok => "Success",
            StatusCode::Eof => "End of file",
            StatusCode::NoSuchFile => "No such file",
            StatusCode::PermissionDenied => "Permission denied",
            StatusCode::Failure => "Failure",
            StatusCode::BadMessage => "Bad message",
            StatusCode::NoConnection => "No connection",
            StatusCode::ConnectionLost => "Connection lost",
            StatusCode::OpUnsupported => "Operation unsupported",
            StatusCode::Other(_) => "Unknown error",
        }
    }
}

/// Runs `body` behind a length that is filled in afterwards.
fn framed(
    out: &mut Writer<'_>,
    body: impl FnOnce(&mut Writer<'_>) -> Result<(), NoSpace>,
) -> Result<(), NoSpace> {
    let at = out.len();
    out.uint32(0)?;
    body(out)?;
    let len = u32::try_from(out.len() - at - 4).map_err(|_| NoSpace)?;
    out.patch_uint32(at, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes_keep_their_numbers() {
        for number in (0..=8).chain([9, 31, u32::MAX]) {
            assert_eq!(StatusCode::from_number(number).number(), number);
        }
        assert_eq!(StatusCode::from_number(9), StatusCode::Other(9));
        assert_eq!(StatusCode::OpUnsupported.text(), "Operation unsupported");
    }
}
