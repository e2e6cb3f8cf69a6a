use std::cell::Cell;
use std::rc::Rc;

use crate::wire::sftp::{Attributes, Extensions, Operation, Reply, StatusCode, extension};

/// The extensions of a server that count for copying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    pub posix_rename: bool,
    pub fsync: bool,
    pub limits: bool,
    /// It can hash blocks.
    pub check_file: bool,
    /// It hashes, and one session of it carries as much as is under way at any delay. No extension says so.
    pub deep: bool,
    /// What is asked of one file it does one after the other, as the draft has it (§6.1). No extension says so.
    pub in_order: bool,
}

impl Offers {
    pub(super) fn read(extensions: &Extensions<'_>) -> Offers {
        let has = |name| extensions.find(name).is_some();
        Offers {
            posix_rename: has(extension::POSIX_RENAME),
            fsync: has(extension::FSYNC),
            limits: has(extension::LIMITS),
            check_file: has(extension::CHECK_FILE),
            deep: false,
            in_order: false,
        }
    }
}

/// A server's reply to one request, in memory of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `text` may hold anything; escape it before it is shown.
    Status {
        code: StatusCode,
        text: Box<[u8]>,
    },
    Handle(Box<[u8]>),
    Data(Box<[u8]>),
    /// Name and attributes of each entry.
    Names(Vec<(Box<[u8]>, Attributes)>),
    Attributes(Attributes),
    /// The request says how to read it.
    Extended(Box<[u8]>),
}

impl Answer {
    /// `None` for what answers no request.
    pub(super) fn read(reply: &Reply<'_>) -> Option<Answer> {
        Some(match reply {
            Reply::Version { .. } => return None,
            Reply::Status { code, text } => Answer::Status { code: *code, text: (*text).into() },
            Reply::Handle(handle) => Answer::Handle((*handle).into()),
            Reply::Data(data) => Answer::Data((*data).into()),
            Reply::Names(names) => Answer::Names(
                names.iter().map(|(name, _, attributes)| (name.into(), attributes)).collect(),
            ),
            Reply::Attributes(attributes) => Answer::Attributes(*attributes),
            Reply::Extended(data) => Answer::Extended((*data).into()),
        })
    }
}

/// The bytes that one [`super::SftpClient::start_move`] moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Offset in the server's file.
    pub there: u64,
    /// Offset in our file.
    pub here: u64,
    pub len: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the server to us.
    Get,
    Put,
}

/// What is asked of the server's file behind the last WRITE of a move, without waiting for what comes of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    SetStat(Attributes),
    Fsync,
    Stat,
    Close,
}

impl Last {
    pub(super) const fn of(self, handle: &[u8]) -> Operation<'_> {
        match self {
            Last::SetStat(attributes) => Operation::HandleSetStat { handle, attributes },
            Last::Fsync => Operation::Fsync { handle },
            Last::Stat => Operation::HandleStat { handle },
            Last::Close => Operation::Close { handle },
        }
    }
}

/// All that is asked behind a move's last WRITE.
#[derive(Debug, Default)]
pub struct Behind {
    /// In this order, each answered by its ticket.
    pub asks: Vec<(u32, Last)>,
    /// Set once the handle's CLOSE has left: the name may be another file's from then on.
    pub closed: Rc<Cell<bool>>,
}

/// How a move has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moved {
    /// All of it.
    Whole,
    /// The file it comes from has ended at this place of the stretch.
    Short(u64),
    /// Our file could not be read or written.
    Here(nix::errno::Errno),
    There {
        code: StatusCode,
        text: Box<[u8]>,
    },
}

/// What a server's files have to tell whoever turns the shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SftpNote {
    /// The server speaks SFTP.
    Ready(Offers),
    Answered {
        ticket: u32,
        answer: Answer,
    },
    Moved {
        ticket: u32,
        moved: Moved,
    },
    /// The server's program has ended, as one does that is killed.
    Ended,
    /// The server does not keep to the protocol; nothing more will be answered.
    Broken(&'static str),
}
