#[cfg(feature = "sim")]
use std::cell::RefCell;
#[cfg(feature = "sim")]
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::OnceLock;
#[cfg(feature = "sim")]
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{getegid, geteuid};

use super::reaper;
use crate::limits::PIPE_BYTES;
use crate::reactor::Fd;

/// `pidfd_send_signal` to the whole process group (Linux 6.9).
const TO_PROCESS_GROUP: libc::c_uint = 1 << 2;
/// RFC 4254 §6.10 lists the names; everything else has to be somebody's own.
const OTHER_SIGNAL: &str = "SIG@openssh.com";

/// Our ends of a child's standard streams; non-blocking and close-on-exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pipes {
    pub stdin: Fd,
    pub stdout: Fd,
    pub stderr: Fd,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Status(u32),
    /// `name` without the SIG prefix (RFC 4254 §6.10).
    Signal {
        name: &'static str,
        core_dumped: bool,
    },
}

/// A started process, leader of its own session and process group.
///
/// Dropping one whose end has not been seen hangs its group up and leaves it to the reaper, so that
/// no path, however odd, leaves a zombie behind.
#[derive(Debug)]
pub struct Child {
    handle: Handle,
    pid: i32,
    pipes: Option<Pipes>,
    exit: Option<Exit>,
}

#[derive(Debug)]
enum Handle {
    System(OwnedFd),
    /// Another process of ours has started it, and whoever is its parent now waits for it.
    Adopted(OwnedFd),
    #[cfg(feature = "sim")]
    Scripted(Fd, Arc<Mutex<Script>>),
    Retired,
}

/// A simulated process: what it was sent, and how it ended once it has.
#[cfg(feature = "sim")]
#[derive(Debug, Default)]
pub struct Script {
    pub signals: Vec<Signal>,
    pub exit: Option<Exit>,
    /// It was let go of: how it ended may be told a moment after its end can be seen.
    pub let_go: bool,
}

#[cfg(feature = "sim")]
thread_local! {
    /// Simulated processes on their way to another shard, by what they are watched by.
    static LET_GO: RefCell<BTreeMap<i32, Arc<Mutex<Script>>>> = const { RefCell::new(BTreeMap::new()) };
}

impl Child {
    pub(super) const fn system(pid: i32, pidfd: OwnedFd, pipes: Option<Pipes>) -> Child {
        Child { handle: Handle::System(pidfd), pid, pipes, exit: None }
    }

    /// One that another process has let go of by [`Child::let_go`]; nobody else has its pidfd.
    pub fn adopted(pid: i32, pidfd: Fd) -> Child {
        #[cfg(feature = "sim")]
        if let Some(script) = LET_GO.with_borrow_mut(|let_go| let_go.remove(&pidfd.0)) {
            return Child { handle: Handle::Scripted(pidfd, script), pid, pipes: None, exit: None };
        }
        // SAFETY: a descriptor that was given up for this, and that nobody else has.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd.0) };
        Child { handle: Handle::Adopted(pidfd), pid, pipes: None, exit: None }
    }

    /// Another process could go on with it, and would learn how it ends.
    pub fn can_be_let_go(&self) -> bool {
        match self.handle {
            Handle::System(_) | Handle::Adopted(_) => kernel_tells_ends(),
            #[cfg(feature = "sim")]
            Handle::Scripted(..) => true,
            Handle::Retired => false,
        }
    }

    /// Gives up what names the process (a pidfd), for another one to go on with. As long as we are there, it
    /// is waited for here.
    pub fn let_go(mut self) -> Option<Fd> {
        match std::mem::replace(&mut self.handle, Handle::Retired) {
            Handle::System(pidfd) => {
                // Where there is no descriptor left it is waited for when we have ended.
                pidfd.try_clone().into_iter().for_each(reaper::adopt);
                Some(Fd(pidfd.into_raw_fd()))
            }
            Handle::Adopted(pidfd) => Some(Fd(pidfd.into_raw_fd())),
            #[cfg(feature = "sim")]
            Handle::Scripted(fd, script) => {
                script.lock().into_iter().for_each(|mut script| script.let_go = true);
                LET_GO.with_borrow_mut(|let_go| let_go.insert(fd.0, script));
                Some(fd)
            }
            Handle::Retired => None,
        }
    }

    /// For the simulator: `watch` becomes readable when the script has an exit.
    #[cfg(feature = "sim")]
    pub const fn scripted(watch: Fd, pipes: Option<Pipes>, script: Arc<Mutex<Script>>) -> Child {
        Child { handle: Handle::Scripted(watch, script), pid: 0, pipes, exit: None }
    }

    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Becomes readable when the process has ended.
    pub fn watch(&self) -> Fd {
        match &self.handle {
            Handle::System(pidfd) | Handle::Adopted(pidfd) => Fd(pidfd.as_raw_fd()),
            #[cfg(feature = "sim")]
            Handle::Scripted(fd, _) => *fd,
            Handle::Retired => Fd(-1),
        }
    }

    /// Absent with a terminal. Whoever takes them closes them.
    pub const fn take_pipes(&mut self) -> Option<Pipes> {
        self.pipes.take()
    }

    #[cfg(test)]
    pub(super) fn pipes(&self) -> Option<[Fd; 3]> {
        self.pipes.map(|pipes| [pipes.stdin, pipes.stdout, pipes.stderr])
    }

    /// Sends `signal` to the process and everything that it started and did not detach.
    pub fn signal(&self, signal: Signal) -> bool {
        match &self.handle {
            Handle::System(pidfd) => signal_group(pidfd, self.pid, self.exit.is_some(), signal),
            // It may have been waited for.
            Handle::Adopted(pidfd) => signal_group(pidfd, self.pid, true, signal),
            #[cfg(feature = "sim")]
            Handle::Scripted(_, script) => script.lock().is_ok_and(|mut script| {
                script.signals.push(signal);
                true
            }),
            Handle::Retired => false,
        }
    }

    /// What a lost terminal does to its processes. Stopped ones have to run to hear of it.
    pub fn hang_up(&self) {
        self.signal(Signal::SIGHUP);
        self.signal(Signal::SIGCONT);
    }

    /// `None` while it runs. The process is gone from the process table once this has answered.
    pub fn reap(&mut self) -> Option<Exit> {
        if self.exit.is_none() {
            self.exit = match &self.handle {
                Handle::System(pidfd) => reap(pidfd),
                Handle::Adopted(pidfd) => told_end(pidfd, self.pid),
                #[cfg(feature = "sim")]
                Handle::Scripted(_, script) => script.lock().ok().and_then(|script| script.exit),
                Handle::Retired => None,
            };
        }
        self.exit
    }

    /// Its end can be seen a moment before it is told: its parent has to wait for it first.
    pub fn is_adopted(&self) -> bool {
        match &self.handle {
            Handle::Adopted(_) => true,
            #[cfg(feature = "sim")]
            Handle::Scripted(_, script) => script.lock().is_ok_and(|script| script.let_go),
            _ => false,
        }
    }

    /// Makes one of its pipes hold more, for a stream that moves bulk. A pipe of 64 KiB costs up to
    /// a quarter more processor time and twice the wall time than one of 256 KiB when both ends are
    /// busy. Best effort: the kernel bounds what one account may have.
    pub fn widen(&self, pipe: Fd) {
        if let Handle::System(pidfd) | Handle::Adopted(pidfd) = &self.handle {
            widen(pidfd, pipe);
        }
    }

    /// Ends the hold on the process: the watch to be closed by the caller, or nothing when the
    /// process still runs and is the reaper's now.
    pub fn retire(mut self) -> Option<Fd> {
        let over = self.reap().is_some();
        if matches!(self.handle, Handle::System(_)) {
            self.close_pipes();
        }
        match std::mem::replace(&mut self.handle, Handle::Retired) {
            Handle::System(pidfd) if over => Some(Fd(pidfd.into_raw_fd())),
            Handle::Adopted(pidfd) => Some(Fd(pidfd.into_raw_fd())),
            Handle::System(pidfd) => {
                reaper::adopt(pidfd);
                None
            }
            #[cfg(feature = "sim")]
            Handle::Scripted(fd, _) => Some(fd),
            Handle::Retired => None,
        }
    }
}

impl Child {
    fn close_pipes(&mut self) {
        if let Some(pipes) = self.pipes.take() {
            for fd in [pipes.stdin, pipes.stdout, pipes.stderr] {
                let _ = nix::unistd::close(fd.0);
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let (Handle::System(_) | Handle::Adopted(_)) = &self.handle else { return };
        self.close_pipes();
        let over = self.reap().is_some();
        if !over {
            self.hang_up();
        }
        if let Handle::System(pidfd) = std::mem::replace(&mut self.handle, Handle::Retired)
            && !over
        {
            reaper::adopt(pidfd);
        }
    }
}

/// RFC 4254 §6.9: the signals that a client may send, by name without the SIG prefix.
pub fn signal_by_name(name: &[u8]) -> Option<Signal> {
    NAMES.iter().find(|(_, known)| known.as_bytes() == name).map(|(signal, _)| *signal)
}

/// `None` while the process runs. The status is lost when the kernel was told to discard it
/// (SIGCHLD ignored); that counts as a failure.
pub(super) fn reap(pidfd: &OwnedFd) -> Option<Exit> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
    match waitid(Id::PIDFd(pidfd.as_fd()), flags) {
        Ok(WaitStatus::Exited(_, code)) => Some(Exit::Status((code & 0xff) as u32)),
        Ok(WaitStatus::Signaled(_, signal, core_dumped)) => {
            Some(Exit::Signal { name: name_of(signal), core_dumped })
        }
        Ok(_) | Err(Errno::EINTR) => None,
        // A real-time signal has no name in nix, but the process was waited for.
        Err(Errno::EINVAL) => Some(Exit::Signal { name: OTHER_SIGNAL, core_dumped: false }),
        Err(_) => Some(Exit::Status(255)),
    }
}

/// `struct pidfd_info` of linux/pidfd.h in its first version.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// PIDFD_GET_INFO: `_IOWR(0xFF, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: libc::Ioctl = 0xc040_ff0b_u32 as libc::Ioctl;
/// How it ended, once its parent has waited for it (Linux 6.15).
const PIDFD_INFO_EXIT: u64 = 1 << 3;

fn told_end(pidfd: &OwnedFd, pid: i32) -> Option<Exit> {
    told_status(pidfd).or_else(|| left_status(pidfd, pid)).map(exit_of)
}

/// The same of one that nobody has waited for yet, if it is one of our own rights: the system's first process may
/// take its time.
fn left_status(pidfd: &OwnedFd, pid: i32) -> Option<i32> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    let status = left_in(&read("stat")?)?;
    // Of others the kernel says 0, whatever it was.
    let known = status != 0 || has_rights(&read("status")?, geteuid().as_raw(), getegid().as_raw());
    // SAFETY: a descriptor that is open, numbers, and no details of the signal.
    let there = unsafe {
        let none = std::ptr::null::<libc::siginfo_t>();
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), 0, none, 0)
    };
    // The number was its own, for it is still.
    (known && there == 0).then_some(status)
}

/// The status in `/proc/PID/stat` of a process that has ended. Its name, which may be anything, ends at the last
/// parenthesis.
fn left_in(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let ended = fields.next()? == "Z";
    fields.next_back()?.parse().ok().filter(|_| ended)
}

/// All of its numbers in `/proc/PID/status` are these, and it had no capabilities that others lack.
fn has_rights(status: &str, uid: u32, gid: u32) -> bool {
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let all = |name: &str, id: u32| {
        line(name).is_some_and(|ids| ids.split_whitespace().all(|one| one.parse() == Ok(id)))
    };
    let plain = line("CapPrm:").is_some_and(|caps| caps.trim().bytes().all(|digit| digit == b'0'));
    all("Uid:", uid) && all("Gid:", gid) && (plain || uid == 0)
}

/// How a process ended that is no child of ours, as wait(2) gives it. `None` as long as nobody has waited for it.
pub fn told_status(pidfd: &OwnedFd) -> Option<i32> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the kernel reads and writes the structure, whose size is in the number, and keeps nothing.
    let told = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    let told = told == 0 && info.mask & PIDFD_INFO_EXIT != 0;
    told.then_some(info.exit_code)
}

/// Of a status as wait(2) gives it.
fn exit_of(status: i32) -> Exit {
    match status & 0x7f {
        0 => Exit::Status(((status >> 8) & 0xff) as u32),
        number => {
            let name = Signal::try_from(number).map_or(OTHER_SIGNAL, name_of);
            Exit::Signal { name, core_dumped: status & 0x80 != 0 }
        }
    }
}

/// Whether [`told_status`] will ever say anything.
pub fn kernel_tells_ends() -> bool {
    static TELLS: OnceLock<bool> = OnceLock::new();
    let tells = || {
        let uname = nix::sys::utsname::uname().ok()?;
        let release = uname.release().to_str()?;
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?) >= KERNEL_THAT_TELLS_ENDS)
    };
    *TELLS.get_or_init(|| tells().unwrap_or(false))
}

const KERNEL_THAT_TELLS_ENDS: (u32, u32) = (6, 15);

/// By the name without SIG; what is none of [`NAMES`] is somebody's own.
pub(super) fn known_signal_name(name: &[u8]) -> &'static str {
    signal_by_name(name).map_or(OTHER_SIGNAL, name_of)
}

const NAMES: [(Signal, &str); 13] = [
    (Signal::SIGABRT, "ABRT"),
    (Signal::SIGALRM, "ALRM"),
    (Signal::SIGFPE, "FPE"),
    (Signal::SIGHUP, "HUP"),
    (Signal::SIGILL, "ILL"),
    (Signal::SIGINT, "INT"),
    (Signal::SIGKILL, "KILL"),
    (Signal::SIGPIPE, "PIPE"),
    (Signal::SIGQUIT, "QUIT"),
    (Signal::SIGSEGV, "SEGV"),
    (Signal::SIGTERM, "TERM"),
    (Signal::SIGUSR1, "USR1"),
    (Signal::SIGUSR2, "USR2"),
];

fn name_of(signal: Signal) -> &'static str {
    NAMES.iter().find(|(known, _)| *known == signal).map_or(OTHER_SIGNAL, |(_, name)| name)
}

/// Through the pidfd a number used again cannot be hit, even after the leader was reaped. Older
/// kernels only know the number, which is safe exactly until then.
fn signal_group(pidfd: &OwnedFd, pid: i32, reaped: bool, signal: Signal) -> bool {
    // SAFETY: the siginfo pointer may be null; nothing else is passed by address.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal as libc::c_int,
            std::ptr::null::<libc::siginfo_t>(),
            TO_PROCESS_GROUP,
        )
    };
    match Errno::result(sent) {
        Ok(_) => true,
        Err(Errno::EINVAL | Errno::ENOSYS) if !reaped => {
            nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), signal).is_ok()
        }
        Err(_) => false,
    }
}

fn widen(_alive: &OwnedFd, pipe: Fd) {
    // SAFETY: the caller holds the pipe open; it is borrowed for this call alone.
    let pipe = unsafe { std::os::fd::BorrowedFd::borrow_raw(pipe.0) };
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES as i32));
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::*;

    #[test]
    fn ends_of_other_processes_children_are_told() {
        assert_eq!(exit_of(3 << 8), Exit::Status(3));
        assert_eq!(exit_of(9), Exit::Signal { name: "KILL", core_dumped: false });
        assert_eq!(exit_of(6 | 0x80), Exit::Signal { name: "ABRT", core_dumped: true });
        assert_eq!(exit_of(40), Exit::Signal { name: OTHER_SIGNAL, core_dumped: false });
        if !kernel_tells_ends() {
            return eprintln!("this kernel does not tell how processes of others end");
        }
        for (script, end) in [
            ("exit 7", Exit::Status(7)),
            ("exit 0", Exit::Status(0)),
            ("kill -TERM $$", Exit::Signal { name: "TERM", core_dumped: false }),
        ] {
            let mut sh = std::process::Command::new("/bin/sh");
            let mut sh = sh.args(["-c", &format!("read line; {script}")]);
            sh = sh.stdin(std::process::Stdio::piped());
            let mut sh = sh.spawn().expect("a shell");
            let pidfd = crate::services::watch_process(sh.id() as i32).expect("a watch");
            let mut child = Child::adopted(sh.id() as i32, Fd(pidfd.into_raw_fd()));
            assert_eq!(child.reap(), None, "it runs");
            drop(sh.stdin.take());
            // Before anybody waits for it, and then.
            for _ in 0..4000 {
                if child.reap().is_some() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            assert_eq!(child.reap(), Some(end), "{script}");
            sh.wait().expect("its end");
            let Handle::Adopted(pidfd) = &child.handle else { panic!("it was adopted") };
            assert_eq!(told_status(pidfd).map(exit_of), Some(end), "{script}");
            assert!(child.retire().is_some_and(|fd| nix::unistd::close(fd.0).is_ok()));
        }
    }

    #[test]
    fn a_status_is_believed_of_processes_of_the_same_rights() {
        let stat = |state: &str, code: &str| format!("7 (a) b (c)) {state} 1 2 3 {code}\n");
        assert_eq!(left_in(&stat("Z", "1280")), Some(1280));
        assert_eq!((left_in(&stat("S", "0")), left_in("7 (x) Z"), left_in("")), (None, None, None));
        let status = |uids: &str, caps: &str| {
            format!("State:\tZ\nUid:\t{uids}\nGid:\t5\t5\t5\t5\nCapPrm:\t{caps}\n")
        };
        let (none, some) = ("0000000000000000", "0000000000000400");
        assert!(has_rights(&status("7\t7\t7\t7", none), 7, 5));
        assert!(has_rights(&status("0\t0\t0\t0", some), 0, 5));
        for (status, uid, gid) in [
            (status("7\t7\t0\t7", none), 7, 5),
            (status("7\t7\t7\t7", some), 7, 5),
            (status("7\t7\t7\t7", none), 7, 6),
            (String::new(), 7, 5),
        ] {
            assert!(!has_rights(&status, uid, gid), "{status}");
        }
    }

    #[test]
    fn only_the_names_of_the_rfc_are_signals() {
        for (signal, name) in NAMES {
            assert_eq!(signal_by_name(name.as_bytes()), Some(signal));
        }
        for odd in ["", "SIGTERM", "term", "STOP", "TERM\n", "9"] {
            assert_eq!(signal_by_name(odd.as_bytes()), None, "{odd:?}");
        }
    }

    #[test]
    fn a_scripted_process_keeps_to_its_script() {
        let script = Arc::new(Mutex::new(Script::default()));
        let pipes = Pipes { stdin: Fd(901), stdout: Fd(902), stderr: Fd(903) };
        let mut child = Child::scripted(Fd(900), Some(pipes), Arc::clone(&script));
        assert_eq!((child.watch(), child.take_pipes()), (Fd(900), Some(pipes)));
        assert_eq!(child.reap(), None);
        child.hang_up();
        script.lock().unwrap().exit = Some(Exit::Status(3));
        assert_eq!(child.reap(), Some(Exit::Status(3)));
        assert_eq!(child.retire(), Some(Fd(900)), "the watch is the caller's to close");
        assert_eq!(script.lock().unwrap().signals, [Signal::SIGHUP, Signal::SIGCONT]);
    }
}
