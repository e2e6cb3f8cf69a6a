use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::OnceLock;
#[cfg(feature = "sim")]
use std::sync::{Arc, Mutex};

use nix::fcntl::{OFlag, open, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::{Mode, fchmodat, stat};
use nix::unistd::{Gid, Group, Uid, chown, geteuid};

use super::modes::apply_modes;
use crate::connection::WindowSize;
use crate::reactor::Fd;

/// What a `pty-req` asked for.
#[derive(Debug)]
pub struct TerminalSpec {
    /// The account that will own the terminal; the process must already run as it.
    pub uid: u32,
    pub size: WindowSize,
    /// Encoded terminal modes (RFC 4254 §8).
    pub modes: Box<[u8]>,
}

/// The master side of a pseudo-terminal and the name of its slave. Closes the master when it is
/// dropped before [`Terminal::into_master`].
#[derive(Debug)]
pub struct Terminal {
    side: Side,
    path: CString,
}

#[derive(Debug)]
enum Side {
    System(Fd),
    #[cfg(feature = "sim")]
    Scripted(Fd, Arc<Mutex<WindowSize>>),
    Taken,
}

/// Makes a pseudo-terminal of the wanted size and modes. Blocks only as long as the kernel takes
/// to make one.
///
/// # Errors
/// The system has no more of them, or the process does not run as the account.
pub fn open_terminal(spec: &TerminalSpec) -> io::Result<Terminal> {
    if geteuid() != Uid::from_raw(spec.uid) {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let master = open_master(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = ptsname_r(&master)?;
    settle_owner(&path)?;
    set_size(Fd(master.as_raw_fd()), spec.size)?;
    set_modes(&master, &spec.modes)?;
    let path = CString::new(path).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    Ok(Terminal { side: Side::System(Fd(master.into_raw_fd())), path })
}

impl Terminal {
    /// For the simulator: a descriptor of its own, and a window whose size it can look at.
    #[cfg(feature = "sim")]
    pub const fn scripted(master: Fd, path: CString, size: Arc<Mutex<WindowSize>>) -> Terminal {
        Terminal { side: Side::Scripted(master, size), path }
    }

    /// One that another process has made, and given up by [`Terminal::into_master`].
    pub fn adopted(master: Fd, path: CString) -> Terminal {
        #[cfg(feature = "sim")]
        if crate::reactor::sim::is_simulated(master) {
            return Terminal::scripted(master, path, Arc::default());
        }
        Terminal { side: Side::System(master), path }
    }

    /// Non-blocking and close-on-exec.
    pub const fn master(&self) -> Fd {
        match self.side {
            Side::System(fd) => fd,
            #[cfg(feature = "sim")]
            Side::Scripted(fd, _) => fd,
            Side::Taken => Fd(-1),
        }
    }

    pub fn path(&self) -> &CStr {
        &self.path
    }

    /// The kernel tells the foreground processes with SIGWINCH.
    pub fn resize(&self, size: WindowSize) -> bool {
        match &self.side {
            Side::System(fd) => set_size(*fd, size).is_ok(),
            #[cfg(feature = "sim")]
            Side::Scripted(_, seen) => seen.lock().is_ok_and(|mut seen| {
                *seen = size;
                true
            }),
            Side::Taken => false,
        }
    }

    /// Something that was written to it is there to be read.
    pub fn has_output(&self) -> bool {
        match &self.side {
            Side::System(fd) => {
                let mut fds = [PollFd::new(borrow(*fd), PollFlags::POLLIN)];
                let polled = poll(&mut fds, PollTimeout::ZERO);
                polled.is_ok() && fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLIN))
            }
            #[cfg(feature = "sim")]
            Side::Scripted(..) => true,
            Side::Taken => false,
        }
    }

    /// RFC 4335: a break on the line.
    pub fn send_break(&self) -> bool {
        match &self.side {
            Side::System(fd) => nix::sys::termios::tcsendbreak(borrow(*fd), 0).is_ok(),
            #[cfg(feature = "sim")]
            Side::Scripted(..) => true,
            Side::Taken => false,
        }
    }

    /// The descriptor, for the caller to close.
    pub fn into_master(mut self) -> Fd {
        let master = self.master();
        self.side = Side::Taken;
        master
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Side::System(fd) = self.side {
            let _ = nix::unistd::close(fd.0);
        }
    }
}

/// The system's devices, for a process whose root does not have them.
static DEVICES: OnceLock<OwnedFd> = OnceLock::new();

/// Keeps the way to the system's terminals open. To be called before the process enters another root.
///
/// # Errors
/// There is no /dev.
pub(super) fn keep_devices() -> io::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let kept = open("/dev", flags, Mode::empty())?;
    DEVICES.get_or_init(|| kept);
    Ok(())
}

/// The directory that the names of terminals begin with, where the process's root has another.
pub(super) fn devices() -> Option<&'static OwnedFd> {
    DEVICES.get()
}

/// A terminal's name from [`devices`] on.
pub(super) fn below_devices(path: &CStr) -> &CStr {
    const DEVICES_LEN: usize = "/dev/".len();
    let below = path.to_bytes_with_nul().get(DEVICES_LEN..).unwrap_or_default();
    CStr::from_bytes_with_nul(below).unwrap_or(path)
}

fn open_master(flags: OFlag) -> io::Result<PtyMaster> {
    let Some(devices) = devices() else { return Ok(posix_openpt(flags)?) };
    let master = openat(devices, "ptmx", flags, Mode::empty())?;
    // SAFETY: it is the master of a new pseudo-terminal, and nobody else has it.
    Ok(unsafe { PtyMaster::from_owned_fd(master) })
}

/// The slave belongs to whoever opened the master, which is the account. As root, its group and
/// mode are put right where the mount options do not do it: `tty` may write (`wall`, `write`) and
/// nobody else anything.
fn settle_owner(path: &str) -> io::Result<()> {
    if !geteuid().is_root() || devices().is_some() {
        return Ok(());
    }
    let found = stat(path)?;
    let group = Group::from_name("tty").ok().flatten().map(|group| group.gid);
    let (gid, mode) = match group {
        Some(gid) => (gid, 0o620),
        None => (Gid::from_raw(found.st_gid), 0o600),
    };
    if found.st_uid != 0 || found.st_gid != gid.as_raw() {
        chown(path, Some(Uid::from_raw(0)), Some(gid))?;
    }
    if found.st_mode & 0o777 != mode {
        let flags = nix::sys::stat::FchmodatFlags::FollowSymlink;
        fchmodat(nix::fcntl::AT_FDCWD, path, Mode::from_bits_truncate(mode), flags)?;
    }
    Ok(())
}

/// The size of the window that a terminal is shown in. `None`: it is no terminal.
pub fn window_size(terminal: BorrowedFd<'_>) -> Option<WindowSize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize and keeps no pointer to it.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    nix::errno::Errno::result(result).ok()?;
    Some(WindowSize {
        columns: size.ws_col.into(),
        rows: size.ws_row.into(),
        width_pixels: size.ws_xpixel.into(),
        height_pixels: size.ws_ypixel.into(),
    })
}

fn set_size(master: Fd, size: WindowSize) -> io::Result<()> {
    let side = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    let size = libc::winsize {
        ws_row: side(size.rows),
        ws_col: side(size.columns),
        ws_xpixel: side(size.width_pixels),
        ws_ypixel: side(size.height_pixels),
    };
    // SAFETY: TIOCSWINSZ reads one winsize and keeps no pointer to it.
    let result = unsafe { libc::ioctl(master.0, libc::TIOCSWINSZ, &raw const size) };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// On the master these calls act on the slave's settings, so the slave need not be opened. Not
/// through nix, which drops flags that it has no name for (IUCLC, XCASE).
fn set_modes(master: &PtyMaster, encoded: &[u8]) -> io::Result<()> {
    let mut settings = std::mem::MaybeUninit::<libc::termios>::uninit();
    // SAFETY: tcgetattr fills the whole structure when it answers 0.
    let mut settings = unsafe {
        nix::errno::Errno::result(libc::tcgetattr(master.as_raw_fd(), settings.as_mut_ptr()))?;
        settings.assume_init()
    };
    apply_modes(encoded, &mut settings);
    // SAFETY: reads one initialised termios and keeps no pointer to it.
    let result = unsafe { libc::tcsetattr(master.as_raw_fd(), libc::TCSANOW, &raw const settings) };
    nix::errno::Errno::result(result)?;
    Ok(())
}

const fn borrow<'a>(fd: Fd) -> BorrowedFd<'a> {
    // SAFETY: only called on a master that the `Terminal` at hand still owns.
    unsafe { BorrowedFd::borrow_raw(fd.0) }
}
