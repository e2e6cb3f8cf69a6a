//! Memory that two processes see.

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

/// A mapping of a memfd whose size nobody can change.
#[derive(Debug)]
pub(super) struct Shared {
    start: NonNull<AtomicU64>,
    bytes: NonZeroUsize,
}

// SAFETY: the memory is mapped until this is dropped, and is read and written by atomic operations alone.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(super) fn create(bytes: usize) -> io::Result<(Shared, OwnedFd)> {
        let fd =
            memfd_create(c"tidegate figures", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        ftruncate(&fd, bytes as i64)?;
        // Whoever made it shorter would end the process that reads it.
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
        Ok((Shared::map(&fd, bytes)?, fd))
    }

    pub(super) fn open(fd: &OwnedFd, most: usize) -> io::Result<Shared> {
        let seals = SealFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GET_SEALS)?);
        let bytes = usize::try_from(fstat(fd)?.st_size).unwrap_or(usize::MAX);
        if !seals.contains(SealFlag::F_SEAL_SHRINK) || bytes > most {
            return Err(Errno::EINVAL.into());
        }
        Shared::map(fd, bytes)
    }

    fn map(fd: &OwnedFd, bytes: usize) -> io::Result<Shared> {
        let bytes = NonZeroUsize::new(bytes).ok_or(Errno::EINVAL)?;
        let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses the place; nothing that is mapped already is replaced.
        let start = unsafe { mmap(None, bytes, rights, MapFlags::MAP_SHARED, fd.as_fd(), 0)? };
        Ok(Shared { start: start.cast(), bytes })
    }

    pub(super) fn cells(&self) -> &[AtomicU64] {
        // SAFETY: so many bytes are mapped there, at the start of a page, for as long as this is there; the
        // file behind them cannot shrink. Any bits are an AtomicU64, and nobody touches them otherwise.
        unsafe {
            std::slice::from_raw_parts(self.start.as_ptr(), self.bytes.get() / size_of::<u64>())
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: it was mapped so, and nobody has a reference into it any more.
        let _ = unsafe { munmap(self.start.cast::<c_void>(), self.bytes.get()) };
    }
}
