//! Programs at terminals of their own.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::pty::{Winsize, openpty};

/// A program at a terminal of so many rows and columns, which it has for its own; the terminal's two ends.
pub fn start(mut command: Command, (rows, columns): (u16, u16)) -> (Child, File, OwnedFd) {
    let pty = openpty(&size(rows, columns), None).expect("a terminal");
    let end = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
    command.stdin(end()).stdout(end()).stderr(end());
    let own = || {
        // Whoever runs the tests may ignore what is typed at a terminal, as `nohup` and `&` do.
        for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTSTP] {
            // SAFETY: the default action needs no function of ours.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        // SAFETY: two system calls on numbers; standard input is the new terminal.
        let taken = unsafe { libc::setsid() >= 0 && libc::ioctl(0, libc::TIOCSCTTY, 0) == 0 };
        if taken { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(own) };
    let child = command.spawn().expect("it starts");
    (child, File::from(pty.master), pty.slave)
}

/// Changes the size of the window.
pub fn resize(master: &File, (rows, columns): (u16, u16)) {
    let size = size(rows, columns);
    // SAFETY: TIOCSWINSZ reads one winsize.
    unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
