//! Upgrades: SIGUSR2 starts this program anew beside the process that serves, which passes its listening
//! sockets on. Then connections that can move go on in the new program ([`super::moving`]), and the old one
//! ends with the last that cannot.

mod program;
pub mod words;

use std::collections::VecDeque;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Pid;
use tracing::{info, warn};

use self::program::Beside;
pub use self::program::Program;
use self::words::Word;
use super::config::Endpoint;
use super::helper;
use super::helper::process::Process;
use super::listen::Listeners;
use super::logbook::Login;
use super::moving::FORMAT;
use super::serve::Manager;
use super::socket::Messenger;
use super::startups::Standing;
use crate::base::{Instant, escape};
use crate::limits::{
    LISTENERS_MAX, PARCEL_BYTES_MAX, STANDINGS_A_MESSAGE, STANDINGS_MAX, UPGRADE_ANSWER_TIME_MAX,
    UPGRADE_CHECK_TIME_MAX, UPGRADE_FAULT_BYTES_MAX, UPGRADE_START_TIME_MAX, UPGRADES_DRAINING_MAX,
};
use crate::{reactor, services};

/// What tells a program that it is to take another's place: the number of that other's process.
const VARIABLE: &str = "TIDEGATE_UPGRADE";
/// Where the PidFile of that process is, which the program that takes its place takes away where it has
/// another. One of a version that does not know this leaves it.
const PID_FILE_VARIABLE: &str = "TIDEGATE_UPGRADE_PID_FILE";
/// The numbers of earlier programs that know what to do with [`Word::Moves`].
const MOVERS_VARIABLE: &str = "TIDEGATE_UPGRADE_MOVES";
/// Where it finds its end of the socket pair.
const SOCKET_FD: i32 = 3;
/// How long it is waited until a queue has room again.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// Bounds of the time that an upgrade takes.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub check: Duration,
    pub start: Duration,
    pub answer: Duration,
}

impl Default for Times {
    fn default() -> Times {
        Times {
            check: UPGRADE_CHECK_TIME_MAX,
            start: UPGRADE_START_TIME_MAX,
            answer: UPGRADE_ANSWER_TIME_MAX,
        }
    }
}

/// What the next program is told by its environment, of which earlier versions know nothing.
#[derive(Debug, Default)]
pub struct Aside {
    /// The PidFile that it takes away where its own is another.
    pub pid_file: Option<PathBuf>,
    /// The programs whose connections may move, this one among them.
    pub movers: Vec<u32>,
}

/// What is passed on to the next program, a message each, with what is attached.
pub type Legacy = VecDeque<(Vec<u8>, Option<OwnedFd>)>;

/// What a new program is told.
///
/// # Errors
/// There is no descriptor left.
pub fn legacy(
    generations: u64,
    listeners: &Listeners,
    standings: &[Standing],
    formers: &[Former],
    manager: &Manager,
) -> io::Result<Legacy> {
    let mut all = Legacy::new();
    let mut put = |word: Word, passenger| all.push_back((word.encode(), passenger));
    put(Word::Begin { generations, given: listeners.are_given() }, None);
    for (endpoint, socket) in listeners.each() {
        put(Word::Listener(endpoint.clone()), Some(socket.try_clone()?));
    }
    for some in standings.chunks(STANDINGS_A_MESSAGE) {
        put(Word::Standings(some.to_vec()), None);
    }
    for Former { pid, messenger, .. } in formers {
        put(Word::Former { pid: *pid }, Some(messenger.as_owned_fd().try_clone()?));
    }
    if let Manager::Front(line) = manager {
        put(Word::Line { front: line.front() }, Some(line.as_fd().try_clone_to_owned()?));
    }
    put(Word::Serve, None);
    Ok(all)
}

/// An upgrade that is under way. Dropped, it comes to nothing.
pub struct Attempt {
    stage: Stage,
    until: Instant,
}

enum Stage {
    /// The new program looks at its configuration.
    Checking {
        child: Check,
        said: Vec<u8>,
    },
    /// It starts.
    Starting {
        heir: Heir,
        legacy: Legacy,
    },
    Over,
}

struct Check {
    child: Process,
    output: PipeReader,
}

/// How far an upgrade has got.
#[derive(Debug)]
pub enum Step {
    /// There is nothing to do yet.
    Wait,
    /// The configuration is well: the program is to be started.
    Checked,
    /// It accepts.
    Ready(Heir),
}

impl Attempt {
    /// Has the program that is there now check its configuration.
    ///
    /// # Errors
    /// It cannot be started; the text names it.
    pub fn begin(program: &Program, times: Times) -> anyhow::Result<Attempt> {
        let (child, output) = program
            .check()
            .with_context(|| format!("cannot start {}", program.path().display()))?;
        let child = Check { child: Process::new(child, "checks its configuration", ""), output };
        let flags = OFlag::from_bits_retain(fcntl(&child.output, FcntlArg::F_GETFL)?);
        fcntl(&child.output, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let until = reactor::now().after(times.check);
        Ok(Attempt { stage: Stage::Checking { child, said: Vec::new() }, until })
    }

    /// Starts the program, once its configuration was found well.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        &mut self,
        program: &Program,
        legacy: Legacy,
        (open_files, aside): (Option<u64>, &Aside),
        times: Times,
    ) -> anyhow::Result<()> {
        let (ours, theirs) = Messenger::pair().context("cannot make a socket pair")?;
        let process = program
            .start_beside(theirs.as_owned_fd(), open_files, aside)
            .with_context(|| format!("cannot start {}", program.path().display()))?;
        let heir = Heir { process, messenger: ours };
        self.stage = Stage::Starting { heir, legacy };
        self.until = reactor::now().after(times.start);
        Ok(())
    }

    /// Readable when there may be another step to take.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.stage {
            Stage::Checking { child, .. } => Some(child.output.as_fd()),
            Stage::Starting { heir, .. } => Some(heir.as_fd()),
            Stage::Over => None,
        }
    }

    /// How long nothing has to be done, unless there is something to read.
    pub fn pause(&self) -> Duration {
        let left = self.until.since(reactor::now());
        match &self.stage {
            Stage::Starting { legacy, .. } if !legacy.is_empty() => left.min(FULL_PAUSE),
            _ => left,
        }
    }

    /// Goes on as far as it can without waiting.
    ///
    /// # Errors
    /// The new program is no good; the text says why, in its own words where it has any.
    pub fn step(&mut self) -> anyhow::Result<Step> {
        let late = self.until <= reactor::now();
        match &mut self.stage {
            Stage::Checking { child, said } => match child.step(said)? {
                true => Ok(Step::Checked),
                false if late => bail!("the check of its configuration does not end"),
                false => Ok(Step::Wait),
            },
            Stage::Starting { heir, legacy } => {
                heir.tell_all(legacy)?;
                match heir.hear().context("it cannot be heard")? {
                    None if late => bail!("it does not begin to serve"),
                    None => Ok(Step::Wait),
                    Some((Word::Ready, _)) => match std::mem::replace(&mut self.stage, Stage::Over)
                    {
                        Stage::Starting { heir, .. } => Ok(Step::Ready(heir)),
                        _ => Ok(Step::Wait),
                    },
                    Some((Word::Failed(why), _)) => bail!("{}", escape(why.as_bytes())),
                    Some(_) => bail!("it says what no program says that takes another's place"),
                }
            }
            Stage::Over => Ok(Step::Wait),
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Stage::Starting { heir, .. } = &self.stage {
            heir.process.signal(Signal::SIGKILL);
        }
    }
}

impl Check {
    /// Whether it has ended well.
    fn step(&mut self, said: &mut Vec<u8>) -> anyhow::Result<bool> {
        let mut chunk = [0; 1024];
        loop {
            match self.output.read(&mut chunk) {
                Ok(0) => break,
                Ok(len) => {
                    let room = (UPGRADE_FAULT_BYTES_MAX as usize).saturating_sub(said.len());
                    said.extend_from_slice(chunk.get(..len.min(room)).unwrap_or_default());
                }
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) => return Err(why.into()),
            }
        }
        // Whoever has closed its output has nothing left to do but to end.
        let status = self.child.end()?;
        if !status.success() {
            let lines = said.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let lines: Vec<String> = lines.map(|line| escape(line).to_string()).collect();
            bail!("its check of the configuration ended with {status}: {}", lines.join("; "));
        }
        Ok(true)
    }
}

/// The program that takes our place, and the way to it.
#[derive(Debug)]
pub struct Heir {
    process: Beside,
    messenger: Messenger,
}

impl Heir {
    pub const fn pid(&self) -> u32 {
        self.process.pid
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.messenger.as_owned_fd().as_fd()
    }

    /// To the program, which does nothing to one that has ended.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// The next word, if there is one.
    ///
    /// # Errors
    /// It is gone, or what it says is no word.
    pub fn hear(&self) -> io::Result<Option<(Word, Option<OwnedFd>)>> {
        hear(&self.messenger)
    }

    /// A session that is recorded has moved, and its end is the new program's to record.
    pub fn leave_session(&self, login: Login, process: &OwnedFd) {
        let _ = self.messenger.try_send(&Word::Session(login).encode(), Some(process.as_fd()));
    }

    /// Everything is its from now on.
    ///
    /// # Errors
    /// It is gone.
    pub fn leave(&self) -> io::Result<()> {
        self.messenger.try_send(&Word::Yours.encode(), None)
    }

    fn tell_all(&self, legacy: &mut Legacy) -> anyhow::Result<()> {
        while let Some((message, passenger)) = legacy.front() {
            match self.messenger.try_send(message, passenger.as_ref().map(AsFd::as_fd)) {
                Ok(()) => drop(legacy.pop_front()),
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // It may have said why before it left.
                Err(_) => break,
            }
        }
        Ok(())
    }
}

fn hear(messenger: &Messenger) -> io::Result<Option<(Word, Option<OwnedFd>)>> {
    let readable = helper::is_readable(messenger, Duration::ZERO).map_err(io::Error::other)?;
    if !readable {
        return Ok(None);
    }
    let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
    let gone = || io::Error::new(io::ErrorKind::UnexpectedEof, "it has ended");
    let (len, passenger) = helper::next_message(messenger, &mut buffer)?.ok_or_else(gone)?;
    let word = Word::decode(buffer.get(..len).unwrap_or_default());
    let word = word.map(|word| Some((word, passenger)));
    word.map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))
}

/// An earlier program that still has sessions.
#[derive(Debug)]
pub struct Former {
    pid: u32,
    messenger: Messenger,
    /// Names the process (pidfd_open(2)).
    process: OwnedFd,
    /// Its connections may move.
    moves: bool,
}

impl Former {
    /// # Errors
    /// It has ended.
    fn new(pid: u32, messenger: Messenger) -> io::Result<Former> {
        let process = services::watch_process(pid.cast_signed())?;
        // Its number is its own as long as its end of the pair is open.
        let mut ends = [PollFd::new(messenger.as_owned_fd().as_fd(), PollFlags::empty())];
        poll(&mut ends, PollTimeout::ZERO)?;
        match ends.iter().any(|end| end.any().unwrap_or(false)) {
            true => Err(io::Error::from_raw_os_error(libc::ESRCH)),
            false => Ok(Former { pid, messenger, process, moves: false }),
        }
    }

    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// It knows how connections move.
    pub const fn moves(&self) -> bool {
        self.moves
    }

    /// Its connections may come by this way, if it is of our format and its host keys are among these.
    pub fn offer(&self, host_keys: Vec<String>, onward: bool, way: &OwnedFd) {
        let word = Word::Moves { format: FORMAT, host_keys, onward };
        let _ = self.messenger.try_send(&word.encode(), Some(way.as_fd()));
    }

    /// The sessions that it has left to us to record.
    pub fn sessions(&self) -> Vec<(Login, OwnedFd)> {
        let mut all = Vec::new();
        while let Ok(Some((word, process))) = hear(&self.messenger) {
            if let (Word::Session(login), Some(process)) = (word, process) {
                all.push((login, process));
            }
        }
        all
    }

    /// Readable when it has ended.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    /// Its last session has ended.
    pub fn is_over(&self) -> bool {
        let mut processes = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        let over = matches!(poll(&mut processes, PollTimeout::ZERO), Ok(1));
        if over {
            info!(pid = self.pid, "The earlier program, process {}, has ended", self.pid);
        }
        over
    }

    /// Waits so long for its word that its place is ours. Whether it came.
    ///
    /// # Errors
    /// It is gone, or says something else.
    fn gives(&self, time: Duration) -> anyhow::Result<bool> {
        let until = reactor::now().after(time);
        loop {
            let left = until.since(reactor::now());
            if helper::is_readable(&self.messenger, left)? {
                return match hear(&self.messenger).context("the earlier program keeps its place")? {
                    Some((Word::Yours, _)) => Ok(true),
                    _ => bail!("the earlier program does not say whose its place is"),
                };
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }

    /// The time is over: it cannot say that word any more. Whether it has said it before after all, for then
    /// it accepts no more.
    fn has_given(&self) -> bool {
        self.messenger.refuse_more();
        self.gives(Duration::ZERO).unwrap_or(false)
    }

    /// It is to end its sessions, and to give them this long.
    pub fn end(&self, signal: Signal, drain: Duration) {
        self.tell(&Word::End { signal: signal as i32, drain });
    }

    /// Files of logs were moved away.
    pub fn reopen(&self) {
        self.tell(&Word::Reopen);
    }

    /// It does not end as it was told to. Its number is its own until it has.
    pub fn signal(&self, signal: Signal) {
        warn!(pid = self.pid, "The earlier program, process {}, is sent {signal}", self.pid);
        let _ = kill(Pid::from_raw(self.pid.cast_signed()), signal);
    }

    fn tell(&self, word: &Word) {
        let _ = self.messenger.try_send(&word.encode(), None);
    }
}

/// What this program was given by the one whose place it takes.
#[derive(Debug)]
pub struct Inheritance {
    /// The way to it.
    giver: Former,
    pub listeners: Listeners,
    pub generations: u64,
    pub standings: Vec<Standing>,
    formers: Vec<Former>,
    /// The way to the process in front, and its number.
    pub line: Option<(OwnedFd, u32)>,
    pub pid_file: Option<PathBuf>,
}

/// Whether this process was started to take another's place.
pub fn is_heir() -> bool {
    giver().is_some()
}

/// The number of the process that says so in the environment and has made the socket pair: a variable
/// that was left over names nobody.
fn giver() -> Option<u32> {
    let told: i32 = std::env::var(VARIABLE).ok()?.parse().ok()?;
    // SAFETY: takes two numbers.
    Errno::result(unsafe { libc::fcntl(SOCKET_FD, libc::F_GETFD) }).ok()?;
    // SAFETY: it is open, and is not closed meanwhile.
    let socket = unsafe { BorrowedFd::borrow_raw(SOCKET_FD) };
    let maker = getsockopt(&socket, sockopt::PeerCredentials).ok()?.pid();
    (maker == told).then_some(told.cast_unsigned())
}

/// What another program passes on to this one, if it was started for that. To be called once.
///
/// # Errors
/// The other one is gone, or is of a version that says what this one does not understand.
pub fn inherit() -> anyhow::Result<Option<Inheritance>> {
    let Some(pid) = giver() else { return Ok(None) };
    // SAFETY: it is open, and nothing else in this process knows the number.
    let socket = unsafe { OwnedFd::from_raw_fd(SOCKET_FD) };
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    let messenger = Messenger::from_fd(socket);
    let mut hearing = Hearing::default();
    while !hearing.complete {
        hearing.next(&messenger)?;
    }
    let Hearing { begin, listeners, standings, mut formers, line, .. } = hearing;
    let (generations, given) = begin.context("the earlier program did not say how it stands")?;
    let listeners = Listeners::inherited(listeners, given);
    let mut giver = Former::new(pid, messenger).context("the earlier program has ended")?;
    let movers = std::env::var(MOVERS_VARIABLE).unwrap_or_default();
    let movers: Vec<u32> = movers.split_whitespace().flat_map(str::parse).collect();
    for former in formers.iter_mut().chain([&mut giver]) {
        former.moves = movers.contains(&former.pid);
    }
    let pid_file = std::env::var_os(PID_FILE_VARIABLE).map(PathBuf::from);
    Ok(Some(Inheritance { giver, listeners, generations, standings, formers, line, pid_file }))
}

#[derive(Default)]
struct Hearing {
    begin: Option<(u64, bool)>,
    listeners: Vec<(Endpoint, OwnedFd)>,
    standings: Vec<Standing>,
    formers: Vec<Former>,
    line: Option<(OwnedFd, u32)>,
    complete: bool,
}

impl Hearing {
    fn next(&mut self, messenger: &Messenger) -> anyhow::Result<()> {
        let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
        let next = helper::next_message(messenger, &mut buffer)?;
        let (len, passenger) = next.context("the earlier program has ended")?;
        let word = Word::decode(buffer.get(..len).unwrap_or_default());
        let word = word.context("the earlier program is of a version that is not understood")?;
        match (word, passenger) {
            (Word::Begin { generations, given }, None) => self.begin = Some((generations, given)),
            (Word::Listener(endpoint), Some(socket)) if self.listeners.len() < LISTENERS_MAX => {
                self.listeners.push((endpoint, socket));
            }
            (Word::Standings(some), None) if self.standings.len() < 2 * STANDINGS_MAX => {
                self.standings.extend(some);
            }
            (Word::Former { pid }, Some(socket)) if self.formers.len() < UPGRADES_DRAINING_MAX => {
                // One that has ended meanwhile is none.
                self.formers.extend(Former::new(pid, Messenger::from_fd(socket)));
            }
            (Word::Line { front }, Some(line)) => self.line = Some((line, front)),
            (Word::Serve, None) => self.complete = true,
            _ => bail!("the earlier program passes on what this one does not take"),
        }
        Ok(())
    }
}

impl Inheritance {
    /// The number of the program whose place this is to be.
    pub const fn pid(&self) -> u32 {
        self.giver.pid
    }

    /// This program accepts. Waits until the other one does not, for so long at most, and answers with all
    /// that still have sessions. Of the two one goes on, whenever the other's word comes.
    ///
    /// # Errors
    /// It is gone, or goes on itself: there is nothing to serve here.
    pub fn take(self, time: Duration) -> anyhow::Result<Vec<Former>> {
        let Inheritance { giver, mut formers, .. } = self;
        giver.tell(&Word::Ready);
        if !giver.gives(time)? && !giver.has_given() {
            bail!("the earlier program does not answer");
        }
        formers.push(giver);
        Ok(formers)
    }

    /// It comes to nothing.
    pub fn fail(&self, why: &anyhow::Error) {
        self.listeners.resume();
        self.giver.tell(&Word::Failed(format!("{why:#}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The two ends of an upgrade at which the new program is about to say that it accepts.
    fn pair() -> (Messenger, Inheritance) {
        let (old, new) = Messenger::pair().expect("a pair");
        let giver = Former::new(std::process::id(), new).expect("it is there");
        let inheritance = Inheritance {
            giver,
            listeners: Listeners::default(),
            generations: 0,
            standings: Vec::new(),
            formers: Vec::new(),
            line: None,
            pid_file: None,
        };
        (old, inheritance)
    }

    fn yours(old: &Messenger) -> io::Result<()> {
        old.try_send(&Word::Yours.encode(), None)
    }

    /// Whenever the word comes, one of the two goes on, and one alone.
    #[test]
    fn r21_a_word_that_comes_late_is_heard_or_cannot_be_said() {
        // In time, and within the last moment.
        for time in [UPGRADE_ANSWER_TIME_MAX, Duration::ZERO] {
            let (old, new) = pair();
            yours(&old).expect("it is heard");
            assert_eq!(new.take(time).expect("it is ours").len(), 1);
            assert!(matches!(hear(&old), Ok(Some((Word::Ready, _)))));
        }
        // The time is over, and the word comes before the new one has left.
        let (old, new) = pair();
        assert!(!new.giver.gives(Duration::ZERO).expect("it is there"));
        yours(&old).expect("it is heard");
        assert!(new.giver.has_given());
        // Its way to the old one is what it was.
        new.giver.end(Signal::SIGTERM, Duration::ZERO);
        assert!(matches!(hear(&old), Ok(Some((Word::End { .. }, _)))));
        assert!(!new.giver.is_over(), "it has sessions");
        // The new one has left.
        let (old, new) = pair();
        assert!(!new.giver.gives(Duration::ZERO).expect("it is there"));
        assert!(!new.giver.has_given());
        assert!(yours(&old).is_err(), "the old one knows");
        let (old, new) = pair();
        new.take(Duration::ZERO).expect_err("nothing was said");
        assert!(yours(&old).is_err(), "the old one knows");
        // The old one has left, without the word and with it.
        let (old, new) = pair();
        drop(old);
        assert!(new.take(UPGRADE_ANSWER_TIME_MAX).is_err());
        let (old, new) = pair();
        yours(&old).expect("it is heard");
        drop(old);
        assert!(new.take(UPGRADE_ANSWER_TIME_MAX).is_ok());
    }

    /// The same at any moment.
    #[test]
    fn r21_two_programs_never_both_go_on_nor_both_leave() {
        for round in 0..200 {
            let (old, new) = pair();
            // From well before the time is over to well behind that.
            let at = reactor::now().after(Duration::from_micros(round * 15));
            let gives = std::thread::Builder::new().spawn(move || {
                while reactor::now() < at {
                    std::hint::spin_loop();
                }
                (yours(&old).is_ok(), old)
            });
            let gives = gives.expect("a thread");
            let taken = new.take(Duration::ZERO).is_ok();
            let (given, _old) = gives.join().expect("no panic");
            assert_eq!(taken, given, "round {round}");
        }
    }

    /// One program's number is another's later.
    #[test]
    fn an_earlier_program_that_is_gone_is_none() {
        let (old, new) = Messenger::pair().expect("a pair");
        drop(old);
        assert!(Former::new(std::process::id(), new).is_err());
    }
}
