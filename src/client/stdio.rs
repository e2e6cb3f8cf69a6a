//! Our standard streams as descriptors that a shard can own, without a trace left on them: others,
//! such as the shell behind us, use the same ones.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::isatty;

use crate::reactor::Fd;
use crate::services::local::Stdio;

/// Descriptors that were made non-blocking because they could not be opened anew; they are as they
/// were when this is dropped.
#[derive(Debug, Default)]
pub struct Borrowed {
    changed: Vec<(OwnedFd, OFlag)>,
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        for (fd, flags) in &self.changed {
            let _ = fcntl(fd.as_fd(), FcntlArg::F_SETFL(*flags));
        }
    }
}

impl Borrowed {
    /// All three, or without the first.
    ///
    /// # Errors
    /// One is closed, or the process is out of descriptors.
    pub fn streams(&mut self, with_input: bool) -> io::Result<Stdio> {
        let input = match with_input {
            true => Some(self.stream(io::stdin().as_fd(), OFlag::O_RDONLY)?),
            false => None,
        };
        let output = Some(self.stream(io::stdout().as_fd(), OFlag::O_WRONLY)?);
        let errors = Some(self.stream(io::stderr().as_fd(), OFlag::O_WRONLY)?);
        Ok(Stdio { input, output, errors })
    }

    /// A descriptor of the same file that never waits. Flags such as O_NONBLOCK belong to what was
    /// opened, not to the number: so pipes and terminals are opened anew where that goes.
    fn stream(&mut self, fd: BorrowedFd<'_>, way: OFlag) -> io::Result<Fd> {
        let kind = SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT;
        let waits = kind == SFlag::S_IFIFO || kind == SFlag::S_IFSOCK || isatty(fd)?;
        let own = fd.try_clone_to_owned()?;
        if !waits {
            return Ok(Fd(own.into_raw_fd()));
        }
        if kind != SFlag::S_IFSOCK {
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let flags = way | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
            if let Ok(anew) = open(path.as_str(), flags, Mode::empty()) {
                return Ok(Fd(anew.into_raw_fd()));
            }
        }
        let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
        if !flags.contains(OFlag::O_NONBLOCK) {
            fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
            self.changed.push((own.try_clone()?, flags));
        }
        Ok(Fd(own.into_raw_fd()))
    }
}
