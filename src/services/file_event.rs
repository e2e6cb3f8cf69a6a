use crate::wire::sftp::StatusCode;

/// Something that a client has done with a file, or was not let do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEvent {
    /// `open_read`, `close`, `remove`, and so on.
    pub operation: &'static str,
    pub path: Vec<u8>,
    /// The second path of those that have two.
    pub to: Vec<u8>,
    /// Bytes that were read and written, of a file that is closed.
    pub moved: Option<(u64, u64)>,
    /// How it went.
    pub status: StatusCode,
}
