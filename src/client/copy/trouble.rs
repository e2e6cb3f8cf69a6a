use std::fmt;

use crate::base::escape;
use nix::errno::Errno;

use crate::wire::sftp::StatusCode;

/// Why something could not be done with a server's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    Refused {
        code: StatusCode,
        text: Box<[u8]>,
    },
    /// The session is over.
    Lost(String),
    /// The server answers what makes no sense, or what was asked makes none.
    Odd(&'static str),
}

impl Trouble {
    pub fn is_no_such_file(&self) -> bool {
        matches!(self, Trouble::Refused { code: StatusCode::NoSuchFile, .. })
    }

    /// Whether a session was lost, so that the same may go well another time.
    pub fn is_loss(why: &anyhow::Error) -> bool {
        matches!(why.downcast_ref::<Trouble>(), Some(Trouble::Lost(_)))
    }

    /// What somebody can do about it.
    fn hint(&self) -> &'static str {
        match self {
            Trouble::Refused { code: StatusCode::PermissionDenied, .. } => {
                "; the account there may not do that"
            }
            Trouble::Refused { code: StatusCode::Failure, text } => match &text[..] {
                b"No space left on device" | b"Disk quota exceeded" => {
                    "; no room is left there: make some, and give the same command again"
                }
                // OpenSSH's server says no more than that.
                b"" | b"Failure" => {
                    "; is there room left there, and does everything on the way to it exist?"
                }
                _ => "",
            },
            Trouble::Refused { code: StatusCode::OpUnsupported, .. } => {
                "; the server knows no such request"
            }
            Trouble::Lost(_) => "; the same command goes on where this one ended",
            _ => "",
        }
    }
}

/// What went wrong with a file of ours, and what can be done.
pub fn ours(errno: Errno) -> anyhow::Error {
    let hint = match errno {
        Errno::ENOSPC | Errno::EDQUOT => {
            "; no room is left here: make some, and give the same command again"
        }
        Errno::EACCES | Errno::EPERM | Errno::EROFS => "; this account may not do that here",
        _ => "",
    };
    anyhow::anyhow!("{}{hint}", errno.desc())
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Refused { code, text } if text.is_empty() => f.write_str(code.text())?,
            Trouble::Refused { text, .. } => write!(f, "{}", escape(text))?,
            Trouble::Lost(why) => write!(f, "connection lost: {why}")?,
            Trouble::Odd(what) => f.write_str(what)?,
        }
        f.write_str(self.hint())
    }
}

impl std::error::Error for Trouble {}
