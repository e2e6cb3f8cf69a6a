use nix::errno::Errno;

use crate::wire::sftp::StatusCode;

/// The status a failed system call is answered with, exactly as OpenSSH's sftp-server chooses it;
/// clients and scripts know these.
pub const fn status_of(errno: Errno) -> StatusCode {
    match errno {
        Errno::ENOENT | Errno::ENOTDIR | Errno::EBADF | Errno::ELOOP => StatusCode::NoSuchFile,
        Errno::EPERM | Errno::EACCES | Errno::EFAULT => StatusCode::PermissionDenied,
        Errno::ENAMETOOLONG | Errno::EINVAL => StatusCode::BadMessage,
        Errno::ENOSYS => StatusCode::OpUnsupported,
        _ => StatusCode::Failure,
    }
}

/// Why a job did not do what was asked, as the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: StatusCode,
    pub text: &'static str,
}

impl Failure {
    pub const fn new(code: StatusCode) -> Failure {
        Failure { code, text: code.text() }
    }

    /// The one of this code that is told in these words, or else in the code's own.
    pub fn told_as(code: StatusCode, words: &[u8]) -> Failure {
        let known = ERRNO_TEXTS.iter().find(|(_, text)| text.as_bytes() == words);
        known.map_or(Failure::new(code), |(_, text)| Failure { code, text })
    }
}

impl From<StatusCode> for Failure {
    fn from(code: StatusCode) -> Failure {
        Failure::new(code)
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        let code = status_of(errno);
        match errno_text(errno) {
            Some(text) if code == StatusCode::Failure => Failure { code, text },
            _ => Failure::new(code),
        }
    }
}

/// What a failure that has no code of its own is called, in the words of strerror(3): version 3 has one code
/// for a full disk and for everything else, and many clients show the text.
const ERRNO_TEXTS: [(Errno, &str); 15] = [
    (Errno::ENOSPC, "No space left on device"),
    (Errno::EDQUOT, "Disk quota exceeded"),
    (Errno::EIO, "Input/output error"),
    (Errno::EROFS, "Read-only file system"),
    (Errno::EFBIG, "File too large"),
    (Errno::EEXIST, "File exists"),
    (Errno::ENOTEMPTY, "Directory not empty"),
    (Errno::EISDIR, "Is a directory"),
    (Errno::EXDEV, "Invalid cross-device link"),
    (Errno::EBUSY, "Device or resource busy"),
    (Errno::ETXTBSY, "Text file busy"),
    (Errno::EMFILE, "Too many open files"),
    (Errno::ENFILE, "Too many open files"),
    (Errno::EMLINK, "Too many links"),
    (Errno::ESTALE, "Stale file handle"),
];

fn errno_text(errno: Errno) -> Option<&'static str> {
    ERRNO_TEXTS.iter().find(|(one, _)| *one == errno).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_map_as_in_openssh() {
        let table = [
            (Errno::ENOENT, 2),
            (Errno::ENOTDIR, 2),
            (Errno::EBADF, 2),
            (Errno::ELOOP, 2),
            (Errno::EPERM, 3),
            (Errno::EACCES, 3),
            (Errno::EFAULT, 3),
            (Errno::ENAMETOOLONG, 5),
            (Errno::EINVAL, 5),
            (Errno::ENOSYS, 8),
            (Errno::EEXIST, 4),
            (Errno::ENOSPC, 4),
            (Errno::EDQUOT, 4),
            (Errno::EIO, 4),
            (Errno::EROFS, 4),
            (Errno::EISDIR, 4),
            (Errno::ENOTEMPTY, 4),
            (Errno::EXDEV, 4),
            (Errno::EFBIG, 4),
            (Errno::EMFILE, 4),
            (Errno::EAGAIN, 4),
            (Errno::EOPNOTSUPP, 4),
        ];
        for (errno, number) in table {
            assert_eq!(status_of(errno).number(), number, "{errno}");
        }
    }

    #[test]
    fn a_failure_without_a_code_of_its_own_is_named_as_the_system_names_it() {
        let text = |errno| Failure::from(errno).text;
        for errno in [Errno::ENOSPC, Errno::EDQUOT, Errno::EIO, Errno::EROFS, Errno::ENOTEMPTY] {
            let system = std::io::Error::from_raw_os_error(errno as i32).to_string();
            assert!(system.starts_with(&format!("{} (", text(errno))), "{system}");
        }
        // What has a code has OpenSSH's words for it.
        assert_eq!((text(Errno::ENOENT), text(Errno::EAGAIN)), ("No such file", "Failure"));
    }
}
