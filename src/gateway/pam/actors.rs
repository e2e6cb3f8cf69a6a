//! The processes that act for the account, each started and waited for by the one that keeps its session: first
//! one, and where its connection goes on in another program, another one of that program.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, sigaction};

use super::session::Buffer;
use super::words::Order;
use crate::base::Instant;
use crate::gateway::broker::{DELEGATE_FD, set_out};
use crate::gateway::signals::SIGNALS;
use crate::gateway::socket::Messenger;
use crate::limits::DELEGATE_ENDING_TIME;
use crate::{reactor, services};

/// One that was started, and what comes next. There are never two: limits of the account count both.
pub struct Actors {
    current: Option<Actor>,
    next: Option<Part>,
    /// Where they complain.
    log: OwnedFd,
    /// What they run, where it is not this program.
    program: Option<OwnedFd>,
    /// Another one is about to be ordered.
    expected: bool,
    /// Of the latest that has ended.
    status: ExitStatus,
}

/// What one is started with.
pub struct Part {
    pub gid: u32,
    pub words: Vec<Vec<u8>>,
    /// `NAME=VALUE`, each.
    pub variables: Vec<Vec<u8>>,
    /// Its end of a socket pair.
    pub socket: OwnedFd,
}

struct Actor {
    child: Child,
    /// Readable when it has ended.
    watch: OwnedFd,
    /// When it has to have ended, since another one waits for that.
    until: Option<Instant>,
}

impl Actor {
    fn is_over(&self) -> bool {
        let mut watch = [PollFd::new(self.watch.as_fd(), PollFlags::POLLIN)];
        poll(&mut watch, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }
}

impl Actors {
    pub fn new(first: Part, log: OwnedFd) -> Actors {
        let status = ExitStatus::default();
        Actors { current: None, next: Some(first), log, program: None, expected: false, status }
    }

    /// Starts one, which gives root's uid up itself.
    fn start(&self, part: Part) -> anyhow::Result<Actor> {
        let (gid, socket) = (part.gid, part.socket.as_raw_fd());
        let mut command = match &self.program {
            Some(program) => Command::new(format!("/proc/self/fd/{}", program.as_raw_fd())),
            None => Command::new("/proc/self/exe"),
        };
        command.arg0("tidegate").args(part.words.into_iter().map(OsString::from_vec)).env_clear();
        for variable in &part.variables {
            let mut parts = variable.splitn(2, |byte| *byte == b'=').map(OsStr::from_bytes);
            if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
                command.env(name, value);
            }
        }
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(self.log.try_clone()?);
        // SAFETY: between fork and exec only system calls are made, on numbers.
        unsafe {
            command.pre_exec(move || {
                set_out(socket)?;
                Errno::result(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
                Ok(())
            });
        }
        let child = command.spawn().context("cannot start the process")?;
        let number = child.id().cast_signed();
        SERVED.store(number, Ordering::SeqCst);
        let early = EARLY.swap(0, Ordering::SeqCst);
        if early > 0 {
            pass_on(early);
        }
        Ok(Actor { child, watch: services::watch_process(number)?, until: None })
    }

    /// Does what the gateway orders until the last has ended. Without a gateway that one goes on until it ends by
    /// itself. Answers how it has.
    ///
    /// # Errors
    /// One that is wanted cannot be started.
    pub fn attend(mut self, line: &Messenger) -> anyhow::Result<ExitStatus> {
        let mut told = true;
        loop {
            if let Some(mut over) = self.current.take_if(|actor| actor.is_over()) {
                // Before its number can be another's.
                SERVED.store(0, Ordering::SeqCst);
                self.status = over.child.wait()?;
            }
            if self.current.is_none() {
                self.current = self.next.take().map(|part| self.start(part)).transpose()?;
            }
            if self.current.is_none() && !(self.expected && told) {
                return Ok(self.status);
            }
            if !self.wait(told.then_some(line))? {
                continue;
            }
            match Buffer::new().next(line) {
                Ok(Some((order, passenger))) => self.obey(order, passenger)?,
                _ => told = false,
            }
        }
    }

    fn obey(&mut self, order: Order<'_>, passenger: Option<OwnedFd>) -> anyhow::Result<()> {
        match (order, passenger) {
            (Order::Start { gid, words, variables }, Some(socket)) => {
                self.expected = false;
                self.next = Some(Part { gid, words, variables, socket });
                let until = reactor::now().after(DELEGATE_ENDING_TIME);
                self.current.iter_mut().for_each(|former| former.until = Some(until));
            }
            (Order::Program, Some(program)) => self.program = Some(out_of_the_way(&program)?),
            (Order::Expect(expected), None) => self.expected = expected,
            (Order::Kill, None) => {
                (self.expected, self.next) = (false, None);
                if let Some(actor) = &mut self.current {
                    actor.child.kill()?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Until it has ended, or is late and killed, or the gateway says something: that is `true`.
    fn wait(&mut self, line: Option<&Messenger>) -> anyhow::Result<bool> {
        let end = self.current.as_ref().map(|actor| actor.watch.as_fd());
        let fds = line.map(|line| line.as_owned_fd().as_fd()).into_iter().chain(end);
        let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let due = self.current.as_ref().and_then(|actor| actor.until);
        let left = due.map(|due| due.since(reactor::now()).as_millis() + 1);
        let left = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, left) {
            Err(Errno::EINTR) => return Ok(false),
            polled => drop(polled?),
        }
        let said = line.is_some() && fds.first().is_some_and(|line| line.any().unwrap_or(false));
        let now = reactor::now();
        if let Some(late) =
            self.current.as_mut().filter(|actor| actor.until.is_some_and(|due| due <= now))
        {
            late.child.kill()?;
            late.until = None;
        }
        Ok(said)
    }
}

/// Under a number that no process of ours finds something else at.
fn out_of_the_way(fd: &OwnedFd) -> nix::Result<OwnedFd> {
    let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(DELEGATE_FD + 1))?;
    // SAFETY: the kernel has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// The process that acts for the account; 0: there is none, or none any more.
static SERVED: AtomicI32 = AtomicI32::new(0);
/// A signal that came before there was one, which hears it then.
static EARLY: AtomicI32 = AtomicI32::new(0);

/// A session that is open is closed: what ends processes (a service manager reaches all of them at once)
/// is said to the one that acts for the account, and its end is waited for. Programs that modules start
/// have none of this.
///
/// # Errors
/// The kernel's.
pub fn outlast_signals() -> nix::Result<()> {
    let action = SigAction::new(SigHandler::Handler(pass_on), SaFlags::SA_RESTART, SigSet::empty());
    for signal in SIGNALS {
        // SAFETY: the handler does nothing but what signal-safety(7) allows.
        unsafe { sigaction(signal, &action)? };
    }
    Ok(())
}

extern "C" fn pass_on(signal: libc::c_int) {
    let (served, before) = (SERVED.load(Ordering::SeqCst), Errno::last_raw());
    if served > 0 {
        // SAFETY: takes numbers; the process has not been waited for, so the number is its own.
        unsafe { libc::kill(served, signal) };
    } else {
        EARLY.store(signal, Ordering::SeqCst);
    }
    Errno::set_raw(before);
}
