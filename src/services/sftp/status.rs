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
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure::new(status_of(errno))
    }
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
}
