use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;

use super::*;
use crate::gateway::confine::{Cell, limit};
use crate::gateway::socket::Messenger;
use nix::sys::resource::Resource;

const INSIDE: &str = "TIDEGATE_TEST_INSIDE";

fn errno(result: libc::c_long) -> i32 {
    if result < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 }
}

/// Only for a process that may do none of it.
fn try_everything() -> Vec<(&'static str, i32)> {
    let of = |call, one: usize, two: usize, three: usize| {
        // SAFETY: none of these calls is given memory.
        errno(unsafe { libc::syscall(call, one, two, three, 0, 0, 0) })
    };
    let here = libc::AT_FDCWD as usize;
    vec![
        ("openat", of(libc::SYS_openat, here, 0, 0)),
        ("socket", of(libc::SYS_socket, libc::AF_INET as usize, libc::SOCK_STREAM as usize, 0)),
        ("connect", of(libc::SYS_connect, 3, 0, 0)),
        ("accept4", of(libc::SYS_accept4, 3, 0, 0)),
        ("execve", of(libc::SYS_execve, 0, 0, 0)),
        ("clone", of(libc::SYS_clone, libc::SIGCHLD as usize, 0, 0)),
        ("ptrace", of(libc::SYS_ptrace, 0, 0, 0)),
        ("kill", of(libc::SYS_kill, 1, 0, 0)),
        ("read", of(libc::SYS_read, 0, 0, 0)),
        ("write elsewhere", of(libc::SYS_write, 1, 0, 0)),
        ("shutdown elsewhere", of(libc::SYS_shutdown, 4, 2, 0)),
        ("dup", of(libc::SYS_dup, 3, 0, 0)),
        ("fcntl", of(libc::SYS_fcntl, 3, libc::F_DUPFD as usize, 0)),
        ("io_uring_setup", of(libc::SYS_io_uring_setup, 8, 0, 0)),
        ("epoll_create1", of(libc::SYS_epoll_create1, 0, 0, 0)),
        ("prctl", of(libc::SYS_prctl, libc::PR_SET_DUMPABLE as usize, 1, 0)),
        ("memory to run", of(libc::SYS_mprotect, 0, 0, libc::PROT_EXEC as usize)),
    ]
}

/// Runs in a process of its own, and says through the descriptor that a signer has for its log.
fn inside() {
    let edge = Cell::find(None).expect("a cell");
    let cell = Cell::find_apart(None, &edge).expect("a cell");
    let (one, other) = Messenger::pair().expect("a socket pair");
    // SAFETY: takes two numbers; the copy is nobody else's.
    let three = unsafe { libc::dup2(one.as_owned_fd().as_raw_fd(), DELEGATE_FD) };
    assert_eq!(three, DELEGATE_FD);
    cell.enter(64).expect("entered");
    limit(Resource::RLIMIT_NOFILE, 0).expect("no more files");
    close().expect("closed");
    let all = try_everything();
    // SAFETY: it was made above.
    let socket = Messenger::from_fd(unsafe { OwnedFd::from_raw_fd(DELEGATE_FD) });
    socket.send(b"still").expect("what it is for works");
    let allowed: Vec<_> = all.iter().filter(|(_, errno)| *errno != libc::EPERM).collect();
    eprintln!("found {} calls, allowed {allowed:?}", all.len());
    std::mem::forget((one, other, socket));
}

/// SECURITY cases 132 and 134: of what a signer may not do, nothing works.
#[test]
fn case_132_a_signer_opens_nothing_and_has_what_it_was_sent() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    if !nix::unistd::geteuid().is_root() {
        return println!("only root can give rights up");
    }
    let this = std::thread::current().name().expect("a test").to_owned();
    let mut again = Command::new(std::env::current_exe().expect("this program"));
    again.args(["--exact", "--nocapture", &this]).env(INSIDE, "1");
    let output = again.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("found 17 calls, allowed []"), "{text}");
}
