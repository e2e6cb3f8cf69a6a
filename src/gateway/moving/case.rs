//! Luggage that is too large for a message: a file in memory, of which the other process has a descriptor.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;

use crate::limits::LUGGAGE_BYTES_MAX;

/// Puts it in.
///
/// # Errors
/// There is no memory or descriptor left.
pub fn close(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(c"tidegate luggage", flags)?);
    file.write_all(bytes)?;
    Ok(file.into())
}

/// Takes it out. What an account sends may be any descriptor, so that one that somebody could have us wait for is
/// not read: only files in memory have seals.
///
/// # Errors
/// It is no such file, or too large, or shorter than it said.
pub fn open(file: &OwnedFd) -> io::Result<Vec<u8>> {
    fcntl(file.as_fd(), FcntlArg::F_GET_SEALS)?;
    let size = u32::try_from(fstat(file)?.st_size).unwrap_or(u32::MAX);
    if size > LUGGAGE_BYTES_MAX {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    let mut bytes = vec![0; size as usize];
    File::from(file.try_clone()?).read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn what_is_put_in_comes_out() {
        for len in [0, 1, 3_000_000] {
            let bytes: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            let file = close(&bytes).expect("a file");
            assert!(open(&file).expect("bytes") == bytes);
        }
    }

    /// SECURITY case 136: nothing that an account sends has root's process wait or take more than there may be.
    #[test]
    fn case_136_what_is_no_file_in_memory_is_not_read() {
        let (pipe, _writer) = std::io::pipe().expect("a pipe");
        assert!(open(&pipe.into()).is_err());
        let plain = OwnedFd::from(File::open("/proc/self/exe").expect("a file"));
        assert!(open(&plain).is_err(), "its file system may be anybody's");
        let file = close(b"x").expect("a file");
        nix::unistd::ftruncate(&file, i64::from(LUGGAGE_BYTES_MAX) + 1).expect("a size");
        assert!(open(&file).is_err(), "too large {}", file.as_raw_fd());
    }
}
