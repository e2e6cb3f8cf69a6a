//! The system calls of an edge, and of a relay: serving connections that are there, and no more.

use seccompiler::SeccompCmpOp;

use crate::gateway::confine::{Calls, all, calls_of_all, close as close_to};

/// Once every thread is there: see [`close_to`]. `accepts`: connections come from listening sockets.
///
/// # Errors
/// The kernel has no seccomp; the process must end.
pub fn close(accepts: bool) -> anyhow::Result<()> {
    let mut calls = calls()?;
    if accepts {
        calls.insert(libc::SYS_accept4, Vec::new());
    }
    close_to(calls)
}

/// What it takes besides what every process does. None opens, makes or names anything.
const PLAIN: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_shutdown,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_ppoll,
    libc::SYS_io_uring_enter,
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
];

/// The same, which only this processor has.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_time];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// Options of sockets that may be set.
const OPTIONS: [(i32, i32); 6] = [
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_QUICKACK),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
];

fn calls() -> anyhow::Result<Calls> {
    let mut calls = calls_of_all()?;
    for call in PLAIN.iter().chain(OLDER) {
        calls.insert(*call, Vec::new());
    }
    for command in [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL] {
        let rule = all([(1, SeccompCmpOp::Eq, command as u64)])?;
        calls.entry(libc::SYS_fcntl).or_default().push(rule);
    }
    for (level, option) in OPTIONS {
        let level = (1, SeccompCmpOp::Eq, level as u64);
        let rule = all([level, (2, SeccompCmpOp::Eq, option as u64)])?;
        calls.entry(libc::SYS_setsockopt).or_default().push(rule);
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::fs;
    use std::io;
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;

    use super::*;
    use crate::gateway::config::DriverChoice;
    use crate::gateway::confine::Cell;
    use crate::gateway::drivers::{self, Manner};
    use crate::limits::EDGE_FILES_MAX;

    const INSIDE: &str = "TIDEGATE_TEST_INSIDE";

    /// What system calls say: the number of their error, 0 for none.
    fn errno(result: libc::c_long) -> i32 {
        if result < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 }
    }

    /// How many calls [`try_everything`] makes.
    const CALLS: usize = 15;

    /// Only for a process that may do none of it.
    fn try_everything() -> [(&'static str, i32); CALLS] {
        let path = CString::new("/").expect("a path");
        let at = path.as_ptr();
        let of = |call, one: usize, two: usize, three: usize| {
            // SAFETY: none of these calls is given memory but for a path that outlives it.
            errno(unsafe { libc::syscall(call, one, two, three, 0, 0, 0) })
        };
        let here = libc::AT_FDCWD as usize;
        [
            ("openat", of(libc::SYS_openat, here, at as usize, 0)),
            ("openat2", of(libc::SYS_openat2, here, at as usize, 0)),
            ("socket", of(libc::SYS_socket, libc::AF_INET as usize, libc::SOCK_STREAM as usize, 0)),
            ("connect", of(libc::SYS_connect, 0, 0, 0)),
            ("bind", of(libc::SYS_bind, 0, 0, 0)),
            ("listen", of(libc::SYS_listen, 0, 0, 0)),
            ("execve", of(libc::SYS_execve, at as usize, 0, 0)),
            ("ptrace", of(libc::SYS_ptrace, 0, 0, 0)),
            ("clone", of(libc::SYS_clone, libc::SIGCHLD as usize, 0, 0)),
            ("kill", of(libc::SYS_kill, 1, 0, 0)),
            ("io_uring_setup", of(libc::SYS_io_uring_setup, 8, 0, 0)),
            ("io_uring_register", of(libc::SYS_io_uring_register, 0, 0, 0)),
            ("setuid", of(libc::SYS_setuid, 0, 0, 0)),
            ("unshare", of(libc::SYS_unshare, libc::CLONE_NEWUSER as usize, 0, 0)),
            ("memfd_create", of(libc::SYS_memfd_create, at as usize, 0, 0)),
        ]
    }

    /// Runs in a process of its own, and says on its standard output what it found.
    fn inside() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let cell = Cell::find(None).expect("a cell");
        let landlocked = cell.enter(EDGE_FILES_MAX).expect("entered");
        // Landlock by itself, before the filter hides what it says.
        let connected = TcpStream::connect(address).map_err(|why| why.raw_os_error());
        let listed = fs::read_dir("/").map(|_| ()).map_err(|why| why.raw_os_error());
        let driver = drivers::open_as(DriverChoice::Auto, Manner { confined: true, alone: false })
            .expect("a driver");
        let accepts = std::env::var(INSIDE).is_ok_and(|which| which == "edge");
        close(accepts).expect("closed");
        let status: Vec<i32> = try_everything().into_iter().map(|(_, errno)| errno).collect();
        // SAFETY: takes a number that is no descriptor, and no memory.
        let accept4 = errno(unsafe { libc::syscall(libc::SYS_accept4, -1, 0, 0, 0) });
        drop(driver);
        println!("found {landlocked} {connected:?} {listed:?} accept4: {accept4}, {status:?}");
    }

    /// SECURITY case 132: of what an edge or a relay may not do, nothing works.
    #[test]
    fn case_132_an_edge_can_open_and_begin_nothing() {
        if std::env::var_os(INSIDE).is_some() {
            return inside();
        }
        if !nix::unistd::geteuid().is_root() {
            println!("only root can give rights up");
            return;
        }
        let this = std::thread::current().name().expect("a test").to_owned();
        for which in ["edge", "relay"] {
            let mut again = Command::new(std::env::current_exe().expect("this program"));
            again.args(["--exact", "--nocapture", &this]).env(INSIDE, which);
            let output = again.output().expect("it starts");
            let text = String::from_utf8_lossy(&output.stdout);
            let found = text.lines().find_map(|line| line.split_once("found ")).expect(&text).1;
            let denied = format!("{:?}", vec![libc::EPERM; CALLS]);
            assert!(found.ends_with(&denied), "{found}");
            let accept4 = if which == "edge" { libc::EBADF } else { libc::EPERM };
            assert!(found.contains(&format!("accept4: {accept4},")), "{found}");
            if found.starts_with("true ") {
                let refused = format!("Err(Some({0})) Err(Some({0}))", libc::EACCES);
                assert!(found.contains(&refused), "Landlock: {found}");
            }
        }
    }
}
