//! A new process, and what it does before it becomes its program.
//!
//! The kernel shares our memory with it and keeps the thread that makes it waiting until then (as vfork(2)
//! does), so the cost does not grow with the size of this process. In between it makes system calls alone,
//! on what was prepared before. posix_spawn(3) would do, but it sets no limits.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// Of the new process before it becomes its program: its calls are few and flat.
const STACK_BYTES: usize = 64 << 10;
/// The kernel's signals are 1 to 64.
const SIGNALS_MAX: c_int = 64;
/// Of a set of signals, for the kernel.
const SIGNALS_BYTES: usize = 8;

/// A program that a new process becomes as the leader of a session of its own, without blocked signals, and
/// with none ignored: whatever started us (`nohup`, a background job of a script) or what Rust ignores
/// (SIGPIPE) must not reach it.
pub(super) struct Birth<'a> {
    pub program: &'a CStr,
    pub arguments: &'a [CString],
    pub environment: &'a [CString],
    /// Taken in this order; one that fails ends it.
    pub steps: &'a [Step<'a>],
    /// The limits of open files that hold for the program from its first instruction on.
    pub open_files: Option<libc::rlimit>,
}

/// What becomes of its descriptors and directory.
pub(super) enum Step<'a> {
    /// The program has it, by this number.
    Duplicate(BorrowedFd<'a>, RawFd),
    /// Its standard input by another number as well.
    Copy(RawFd),
    /// It is opened for reading and writing as standard input; a terminal becomes the controlling one.
    Open(&'a CStr),
    EnterOpen(BorrowedFd<'a>),
    Enter(&'a CStr),
}

/// What both processes look at.
struct Shared<'a> {
    birth: &'a Birth<'a>,
    /// With a null at the end, as in the next.
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    /// The `errno` of what failed in the new process.
    failed: AtomicI32,
}

impl Birth<'_> {
    /// Answers the number of the process, which has become the program.
    ///
    /// # Errors
    /// A step failed, the program cannot be run, or the system lacks processes or memory.
    pub fn start(&self) -> io::Result<i32> {
        let pointers = |texts: &[CString]| -> Vec<*const c_char> {
            texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
        };
        let shared = Shared {
            birth: self,
            arguments: pointers(self.arguments),
            environment: pointers(self.environment),
            failed: AtomicI32::new(0),
        };
        let mut stack = Box::<[u128]>::new_uninit_slice(STACK_BYTES / size_of::<u128>());
        let top = stack.as_mut_ptr_range().end.cast();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let blocked = Blocked::all();
        // SAFETY: this thread goes on when the new process has left our memory, so `shared` and its stack
        // outlive its use of them; no handler of ours runs in it, for every signal is blocked.
        let made =
            unsafe { libc::clone(become_it, top, flags, ptr::from_ref(&shared).cast_mut().cast()) };
        let pid = Errno::result(made);
        drop(blocked);
        match (pid?, shared.failed.load(Ordering::Relaxed)) {
            (pid, 0) => Ok(pid),
            (pid, why) => {
                let _ = waitpid(Pid::from_raw(pid), None);
                Err(io::Error::from_raw_os_error(why))
            }
        }
    }

    /// # Errors
    /// What failed.
    fn prepare(&self) -> Result<(), Errno> {
        let default = [0_u64; 4];
        for signal in 1..=SIGNALS_MAX {
            // By the kernel's own call, which takes the two that the C library keeps to itself as well.
            // SAFETY: the kernel reads a sigaction of it, which is no larger; all zero is the default.
            unsafe {
                libc::syscall(
                    libc::SYS_rt_sigaction,
                    signal,
                    default.as_ptr(),
                    ptr::null_mut::<c_void>(),
                    SIGNALS_BYTES,
                );
            }
        }
        // SAFETY: takes nothing.
        Errno::result(unsafe { libc::setsid() })?;
        self.steps.iter().try_for_each(Step::take)?;
        if let Some(limits) = &self.open_files {
            // SAFETY: reads one rlimit.
            Errno::result(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, limits) })?;
        }
        set_blocked(0);
        Ok(())
    }
}

impl Step<'_> {
    /// # Errors
    /// What failed.
    fn take(&self) -> Result<(), Errno> {
        // SAFETY: numbers, and texts that end with a NUL and live during the calls.
        let result = unsafe {
            match self {
                // Copying a descriptor onto itself would leave it close-on-exec.
                Step::Duplicate(from, to) if from.as_raw_fd() == *to => {
                    libc::fcntl(*to, libc::F_SETFD, 0)
                }
                Step::Duplicate(from, to) => libc::dup2(from.as_raw_fd(), *to),
                Step::Copy(to) => libc::dup2(libc::STDIN_FILENO, *to),
                Step::Open(path) => {
                    match libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) {
                        0 => libc::fcntl(libc::STDIN_FILENO, libc::F_SETFD, 0),
                        opened if opened > 0 => libc::dup2(opened, libc::STDIN_FILENO),
                        failed => failed,
                    }
                }
                Step::EnterOpen(directory) => libc::fchdir(directory.as_raw_fd()),
                Step::Enter(path) => libc::chdir(path.as_ptr()),
            }
        };
        Errno::result(result).map(drop)
    }
}

/// In the new process.
extern "C" fn become_it(shared: *mut c_void) -> c_int {
    // SAFETY: `start` passes it, and waits meanwhile.
    let shared = unsafe { &*shared.cast::<Shared<'_>>() };
    let why = shared.birth.prepare().err().unwrap_or_else(|| {
        let (arguments, environment) = (shared.arguments.as_ptr(), shared.environment.as_ptr());
        // SAFETY: texts and lists that live during the call, each list with a null at its end.
        unsafe { libc::execve(shared.birth.program.as_ptr(), arguments, environment) };
        Errno::last()
    });
    shared.failed.store(why as i32, Ordering::Relaxed);
    // SAFETY: ends this process alone, without a line of ours.
    unsafe { libc::_exit(127) }
}

/// This thread hears no signal.
struct Blocked(u64);

impl Blocked {
    fn all() -> Blocked {
        Blocked(set_blocked(u64::MAX))
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        set_blocked(self.0);
    }
}

/// Answers what this thread had blocked before. By the kernel's own call, as above.
fn set_blocked(signals: u64) -> u64 {
    let mut before = 0_u64;
    // SAFETY: the kernel reads one set and writes another, of so many bytes.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const signals,
            &raw mut before,
            SIGNALS_BYTES,
        );
    }
    before
}
