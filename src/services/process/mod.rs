//! Commands, shells and terminals: a program started for a session channel (RFC 4254 §6).

#[cfg(test)]
mod bench;
mod environment;
mod moving;

pub use environment::{Environment, EnvironmentSpec, environment, is_variable};

use std::ffi::CString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::signal::Signal;

use super::forward::Display;
use super::stream::{End, Input, Output};
use super::{
    Account, Child, Done, Exit, Io, Job, Prelude, Program, Rules, Service, SpawnSpec, Terminal,
    TerminalSpec, signal_by_name,
};
use crate::base::Instant;
use crate::connection::WindowSize;
use crate::limits::{CHANNEL_LINGER_TIME, ENV_BYTES_MAX, ENV_COUNT_MAX, SERVICE_PAUSE};
use crate::reactor::{Chunk, Errno, Op};

const TAG_INPUT: u16 = 0;
const TAG_OUTPUT: u16 = 1;
const TAG_ERRORS: u16 = 2;
const TAG_WATCH: u16 = 3;
const TAG_TERMINAL: u16 = 4;
const TAG_SPAWN: u16 = 5;

/// RFC 4254 §5.2: SSH_EXTENDED_DATA_STDERR.
const STDERR: u32 = 1;

/// Signals kept for a program that is being started.
const EARLY_SIGNALS_MAX: usize = 8;

/// Who a session's programs run as and what they are told; the same for all sessions of a login.
#[derive(Clone, Debug)]
pub struct Login {
    pub account: Account,
    pub client: SocketAddr,
    pub server: SocketAddr,
    /// SetEnv.
    pub set_env: Vec<(String, String)>,
    /// The soft limit of open files for programs; `None` leaves them ours.
    pub open_files: Option<u64>,
    pub rules: Rules,
}

/// What to start, decided by policy.
#[derive(Debug)]
pub struct Start {
    pub program: Program,
    /// What the client asked for, when something else is run in its place.
    pub original_command: Option<CString>,
    /// The client may send signals. As in OpenSSH, not to a forced command or a subsystem.
    pub signals: bool,
    /// What comes before it.
    pub prelude: Prelude,
}

/// A program behind a session channel.
///
/// It is prepared by `pty-req` and `env`, started once, and over when the program has ended and its
/// output has been read. Like OpenSSH it tells the exit status at once, then goes on forwarding as
/// long as somebody holds the other ends of the pipes; a terminal is over with its program.
///
/// When the channel is lost, a program at a terminal is hung up. One without has what came written
/// and then reads the end of its input, and nobody reads what it says, as in OpenSSH.
#[derive(Debug)]
pub struct Process {
    login: Arc<Login>,
    phase: Phase,
    terminal: Option<Terminal>,
    child: Option<Child>,
    /// Its end is watched for.
    watching: bool,
    /// Nothing is to be begun.
    halted: bool,
    /// It has ended, and nobody has told how; when to ask again, and how often that was done.
    untold: Option<(Instant, u32)>,
    input: Input,
    output: Output,
    errors: Output,
    /// The output is over and EOF waits for the end of the program, until then.
    eof_due: Option<Instant>,
    eof_sent: bool,
    close_sent: bool,
    /// The channel exists no more.
    gone: bool,
    /// Until when what a channel brought that exists no more is written.
    deadline: Option<Instant>,
    signals: bool,
    /// Came before the program was there.
    early_signals: Vec<Signal>,
    /// A socket for the client's agent is being made; whether its request wants an answer.
    agent_wanted: Option<bool>,
    /// Where programs find the client's agent.
    agent: Option<PathBuf>,
    /// A display is being made; whether its request wants an answer.
    display_wanted: Option<bool>,
    /// Where programs find the client's X server.
    display: Option<Display>,
}

#[derive(Debug)]
enum Phase {
    Preparing(Box<Preparations>),
    Starting {
        want_reply: bool,
    },
    Running,
    Exited(Exit),
    /// It could not be started. The text is for the log.
    Failed(String),
}

#[derive(Debug, Default)]
struct Preparations {
    term: Box<str>,
    variables: Vec<(Box<str>, Box<[u8]>)>,
    /// A terminal is being made; whether its request wants an answer.
    terminal_wanted: Option<bool>,
    /// The size changed while it was being made.
    resized: Option<WindowSize>,
    /// What to start once the terminal is there; whether that request wants an answer.
    start: Option<(Start, bool)>,
}

impl Process {
    pub fn new(login: Arc<Login>) -> Process {
        Process {
            login,
            phase: Phase::Preparing(Box::default()),
            terminal: None,
            child: None,
            watching: false,
            halted: false,
            untold: None,
            input: Input::new(TAG_INPUT),
            output: Output::new(TAG_OUTPUT, None),
            errors: Output::new(TAG_ERRORS, Some(STDERR)),
            eof_due: None,
            eof_sent: false,
            close_sent: false,
            gone: false,
            deadline: None,
            signals: false,
            early_signals: Vec::new(),
            agent_wanted: None,
            agent: None,
            display_wanted: None,
            display: None,
        }
    }

    /// RFC 4254 §6.2. Answers the request, now or when the terminal is there.
    pub fn request_terminal(
        &mut self,
        term: &str,
        size: WindowSize,
        modes: Box<[u8]>,
        want_reply: bool,
        io: &mut Io<'_>,
    ) {
        let taken = self.terminal.is_some();
        let Phase::Preparing(preparations) = &mut self.phase else {
            return answer(want_reply, false, io);
        };
        if taken || preparations.terminal_wanted.is_some() || preparations.start.is_some() {
            return answer(want_reply, false, io);
        }
        preparations.term = term.into();
        preparations.terminal_wanted = Some(want_reply);
        let uid = self.login.account.uid;
        io.job(TAG_TERMINAL, Job::Terminal(Box::new(TerminalSpec { uid, size, modes })));
    }

    /// The client's agent is to be had before the program starts. `false` when that was asked for
    /// already.
    pub const fn await_agent(&mut self, want_reply: bool) -> bool {
        let first = self.agent_wanted.is_none() && !self.gone;
        if first {
            self.agent_wanted = Some(want_reply);
        }
        first
    }

    /// Where the client's agent can be found from now on; `None`: nowhere. Answers the request.
    pub fn agent_made(&mut self, path: Option<PathBuf>, io: &mut Io<'_>) {
        let made = path.is_some();
        self.agent = path;
        if let Some(want_reply) = self.agent_wanted.take().filter(|_| !self.gone) {
            answer(want_reply, made, io);
            self.spawn_if_prepared(io);
        }
    }

    /// The client's X server is to be had before the program starts. `false` when that was asked for
    /// already, or comes too late.
    pub const fn await_display(&mut self, want_reply: bool) -> bool {
        let first = self.display_wanted.is_none() && self.display.is_none();
        let first = first && self.is_preparing() && !self.gone;
        if first {
            self.display_wanted = Some(want_reply);
        }
        first
    }

    /// Where the client's X server can be found; `None`: nowhere. Answers the request.
    pub fn display_made(&mut self, display: Option<Display>, io: &mut Io<'_>) {
        let made = display.is_some();
        self.display = display;
        if let Some(want_reply) = self.display_wanted.take().filter(|_| !self.gone) {
            answer(want_reply, made, io);
            self.spawn_if_prepared(io);
        }
    }

    /// RFC 4254 §6.4, for a variable that policy let through.
    pub fn set_variable(&mut self, name: &str, value: &[u8]) -> bool {
        let Phase::Preparing(preparations) = &mut self.phase else { return false };
        let lengths = preparations.variables.iter().map(|(name, value)| name.len() + value.len());
        let bytes = lengths.sum::<usize>() + name.len() + value.len();
        let room = preparations.variables.len() < ENV_COUNT_MAX && bytes <= ENV_BYTES_MAX;
        if !room || preparations.start.is_some() || !is_variable(name, value) {
            return false;
        }
        preparations.variables.push((name.into(), value.into()));
        true
    }

    /// RFC 4254 §6.5: `shell` and `exec`. Answers the request once the program runs or cannot. Only
    /// the first one is carried out.
    pub fn start(&mut self, start: Start, want_reply: bool, io: &mut Io<'_>) {
        let Phase::Preparing(preparations) = &mut self.phase else {
            return answer(want_reply, false, io);
        };
        if preparations.start.is_some() {
            return answer(want_reply, false, io);
        }
        self.signals = start.signals;
        preparations.start = Some((start, want_reply));
        self.spawn_if_prepared(io);
    }

    /// RFC 4254 §6.7.
    pub fn resize(&mut self, size: WindowSize) -> bool {
        if let Some(terminal) = &self.terminal {
            return terminal.resize(size);
        }
        match &mut self.phase {
            Phase::Preparing(preparations) if preparations.terminal_wanted.is_some() => {
                preparations.resized = Some(size);
                true
            }
            _ => false,
        }
    }

    /// RFC 4254 §6.9: to the program and what it started. Names that RFC 4254 §6.10 does not list
    /// are refused.
    pub fn signal(&mut self, name: &str) -> bool {
        let Some(signal) = signal_by_name(name.as_bytes()).filter(|_| self.signals) else {
            return false;
        };
        match (&self.phase, &self.child) {
            (Phase::Running, Some(child)) => child.signal(signal),
            // A client that asked for no answer cannot know that the program is not there yet.
            (Phase::Preparing(_) | Phase::Starting { .. }, _) => {
                let room = self.early_signals.len() < EARLY_SIGNALS_MAX;
                self.early_signals.extend(Some(signal).filter(|_| room));
                room
            }
            _ => false,
        }
    }

    /// Nobody reads the program's output any more (OpenSSH PROTOCOL §2.1, `eow@openssh.com`): it
    /// hears that as from a pipe without a reader.
    pub fn stop_output(&mut self, io: &mut Io<'_>) -> bool {
        let running = matches!(self.phase, Phase::Running) && self.terminal.is_none();
        if running {
            self.output.stop(io);
            self.pump(io);
        }
        running
    }

    /// RFC 4335.
    pub fn send_break(&self) -> bool {
        let running = matches!(self.phase, Phase::Running);
        running && self.terminal.as_ref().is_some_and(Terminal::send_break)
    }

    /// Nothing has been started and nothing was asked to be.
    pub const fn is_preparing(&self) -> bool {
        matches!(&self.phase, Phase::Preparing(preparations) if preparations.start.is_none())
    }

    /// A terminal was asked for: one is being made or there.
    pub const fn has_terminal(&self) -> bool {
        let wanted = match &self.phase {
            Phase::Preparing(preparations) => preparations.terminal_wanted.is_some(),
            _ => false,
        };
        wanted || self.terminal.is_some()
    }

    /// The channel is gone, and what it brought has not all been written.
    pub fn lingers(&self) -> bool {
        self.gone && self.deadline.is_some() && self.input.is_busy()
    }

    /// Bytes of the channel that have not been written.
    pub const fn unwritten(&self) -> u32 {
        self.input.unwritten()
    }

    /// Another service takes the channel over: what was prepared here is given back.
    pub fn make_way(&mut self, io: &mut Io<'_>) {
        self.input.stop(io);
        if let Some(terminal) = self.terminal.take() {
            io.close_fd(terminal.into_master());
        }
    }

    /// How it went, for the log; `None` when nothing was ever started.
    pub fn outcome(&self) -> Option<String> {
        Some(match &self.phase {
            Phase::Preparing(_) => return None,
            Phase::Starting { .. } => "closed while it was being started".to_owned(),
            Phase::Running => "closed while it ran".to_owned(),
            Phase::Exited(Exit::Status(code)) => format!("exit status {code}"),
            Phase::Exited(Exit::Signal { name, core_dumped: true }) => {
                format!("ended by signal {name}, core dumped")
            }
            Phase::Exited(Exit::Signal { name, .. }) => format!("ended by signal {name}"),
            Phase::Failed(why) => format!("not started: {why}"),
        })
    }

    // ---- Starting ----------------------------------------------------------------------------

    fn spawn_if_prepared(&mut self, io: &mut Io<'_>) {
        let Phase::Preparing(preparations) = &mut self.phase else { return };
        let asked = self.agent_wanted.is_some() || self.display_wanted.is_some();
        if preparations.terminal_wanted.is_some() || asked {
            return;
        }
        let Some((start, want_reply)) = preparations.start.take() else { return };
        let terminal = self.terminal.as_ref().map(Terminal::path);
        let env = environment(&EnvironmentSpec {
            account: &self.login.account,
            client: self.login.client,
            server: self.login.server,
            accepted: &preparations.variables,
            set: &self.login.set_env,
            rules: &self.login.rules,
            terminal: terminal.map(|path| (path, &*preparations.term)),
            original_command: start.original_command.as_deref(),
            agent: self.agent.as_deref(),
            display: self.display.as_ref().map(|display| &*display.name),
        });
        let spec = SpawnSpec {
            account: self.login.account.clone(),
            program: start.program,
            env,
            user_environment: self.login.rules.user_environment.clone(),
            prelude: start.prelude,
            pty: terminal.map(Into::into),
            peer: self.login.client,
            open_files: self.login.open_files,
            display: self.display.clone(),
            auth_info: self.login.rules.auth_info.clone(),
            text: self.login.rules.session_text.clone(),
        };
        self.phase = Phase::Starting { want_reply };
        io.job(TAG_SPAWN, Job::Spawn(Box::new(spec)));
    }

    fn terminal_made(&mut self, done: Done, io: &mut Io<'_>) {
        if let Done::Terminal(Ok(terminal)) = done {
            self.terminal = Some(terminal);
        }
        if self.gone {
            return;
        }
        let Phase::Preparing(preparations) = &mut self.phase else { return };
        let want_reply = preparations.terminal_wanted.take().unwrap_or(false);
        if let (Some(terminal), Some(size)) = (&self.terminal, preparations.resized.take()) {
            terminal.resize(size);
        }
        answer(want_reply, self.terminal.is_some(), io);
        // As in OpenSSH, a program whose terminal could not be had runs without one.
        self.spawn_if_prepared(io);
    }

    fn spawned(&mut self, done: Done, io: &mut Io<'_>) {
        let Phase::Starting { want_reply } = self.phase else { return };
        match done {
            Done::Spawned(Ok(child)) if self.gone => {
                if self.terminal.is_some() {
                    child.hang_up();
                }
                self.hold(child);
                self.input.resume(io);
            }
            Done::Spawned(Ok(child)) => {
                self.phase = Phase::Running;
                answer(want_reply, true, io);
                for signal in std::mem::take(&mut self.early_signals) {
                    child.signal(signal);
                }
                self.hold(child);
                self.watch(io);
                self.input.resume(io);
                self.pump(io);
            }
            failed => {
                self.phase = Phase::Failed(match failed {
                    Done::Spawned(Err(failed)) => failed.to_string(),
                    _ => "a defect".to_owned(),
                });
                if self.gone {
                    self.input.abandon(io);
                } else {
                    answer(want_reply, false, io);
                    self.input.stop(io);
                    // Whoever wants no answer must still learn that there is nothing to wait for.
                    if !want_reply {
                        self.close_sent = true;
                        io.close();
                    }
                }
            }
        }
    }

    fn hold(&mut self, mut child: Child) {
        match (child.take_pipes(), &self.terminal) {
            (Some(pipes), _) => {
                self.input.open(pipes.stdin, End::Pipe);
                self.output.open(pipes.stdout, End::Pipe);
                self.errors.open(pipes.stderr, End::Pipe);
            }
            (None, Some(terminal)) => {
                self.input.open(terminal.master(), End::Terminal);
                self.output.open(terminal.master(), End::Terminal);
            }
            (None, None) => {}
        }
        self.child = Some(child);
    }

    // ---- Ending ------------------------------------------------------------------------------

    fn watch(&mut self, io: &mut Io<'_>) {
        let running = matches!(self.phase, Phase::Running) && !self.gone;
        let may = running && !self.watching && !self.halted && self.untold.is_none();
        if let Some(child) = self.child.as_ref().filter(|_| may) {
            self.watching = true;
            io.submit(TAG_WATCH, Op::Readable { fd: child.watch() });
        }
    }

    fn watched(&mut self, result: Result<u32, Errno>, io: &mut Io<'_>) {
        self.watching = false;
        if self.gone || matches!(self.phase, Phase::Exited(_)) {
            return;
        }
        let Some(child) = &mut self.child else { return };
        let exit = match (child.reap(), result) {
            (Some(exit), _) => exit,
            (None, Ok(_)) if child.is_adopted() => return self.wait_for_word(io),
            // It was asked back.
            (None, Err(errno)) if errno.0 == libc::ECANCELED => return self.watch(io),
            (None, Ok(_)) => return self.watch(io),
            // It cannot be watched: let go of it. Its release leaves it to the reaper.
            (None, Err(_)) => {
                child.hang_up();
                Exit::Status(255)
            }
        };
        self.tell_exit(exit, io);
        self.finish_if_done(io);
    }

    fn tell_exit(&mut self, exit: Exit, io: &mut Io<'_>) {
        self.phase = Phase::Exited(exit);
        match exit {
            Exit::Status(code) => io.exit_status(code),
            Exit::Signal { name, core_dumped } => io.exit_signal(name, core_dumped),
        }
        // What it left running may still write, but reads nothing more from us.
        self.input.stop(io);
    }

    fn pump(&mut self, io: &mut Io<'_>) {
        self.output.pump(io);
        self.errors.pump(io);
        if self.output.lacks_credit(io) {
            self.errors.yield_credit(io);
        } else if self.errors.lacks_credit(io) {
            self.output.yield_credit(io);
        }
        self.finish_if_done(io);
    }

    /// Something has been started or may have been: requests wait in the connection while one of
    /// them is carried out, but data does not wait behind them.
    const fn awaits_data(&self) -> bool {
        match &self.phase {
            Phase::Preparing(preparations) => {
                preparations.start.is_some() || preparations.terminal_wanted.is_some()
            }
            _ => true,
        }
    }

    /// A program that ends closes its output a moment before it can be waited for. Some clients
    /// leave at EOF, so the exit status of such a one has to go first: EOF waits, but not for long,
    /// for the program may also go on in silence.
    fn has_lingered(&mut self, io: &mut Io<'_>) -> bool {
        if let Some(exit) = self.child.as_mut().and_then(Child::reap) {
            self.tell_exit(exit, io);
            return true;
        }
        // Its end was seen, and how it ended is told soon.
        if self.untold.is_some() {
            return false;
        }
        let due = self.eof_due;
        if due.is_none() {
            self.eof_due = Some(io.now().after(SERVICE_PAUSE));
            io.pause();
        }
        due.is_some_and(|due| due <= io.now())
    }

    /// What a program leaves in the background may keep its terminal open for ever, and whoever
    /// logged out would wait: once nothing is there to be read, the output is over.
    fn end_terminal(&mut self, io: &mut Io<'_>) {
        let exited = matches!(self.phase, Phase::Exited(_)) && !self.output.is_done();
        if exited && self.terminal.as_ref().is_some_and(|terminal| !terminal.has_output()) {
            self.output.stop(io);
        }
    }

    /// EOF when the output has been read, CLOSE when the program has ended as well.
    fn finish_if_done(&mut self, io: &mut Io<'_>) {
        self.end_terminal(io);
        let started = matches!(self.phase, Phase::Running | Phase::Exited(_));
        if !started || !self.output.is_done() || !self.errors.is_done() {
            return;
        }
        if !self.eof_sent {
            if matches!(self.phase, Phase::Running) && !self.has_lingered(io) {
                return;
            }
            self.eof_sent = true;
            io.eof();
        }
        if !self.close_sent && matches!(self.phase, Phase::Exited(_)) {
            self.close_sent = true;
            io.close();
        }
    }
}

impl Service for Process {
    fn on_data(&mut self, data: Chunk, extended: Option<u32>, io: &mut Io<'_>) {
        if self.gone || self.close_sent {
            io.give_back(data.lease);
        } else if extended.is_some() || !self.awaits_data() {
            // Nobody asked for it (RFC 4254 §5.2 knows no extended data from a client).
            io.discard(data);
        } else {
            self.input.data(data, io);
        }
    }

    fn on_eof(&mut self, io: &mut Io<'_>) {
        self.input.end(io);
    }

    fn on_completion(&mut self, tag: u16, op: Op, result: Result<u32, Errno>, io: &mut Io<'_>) {
        let silent = (self.gone || self.close_sent) && self.deadline.is_none();
        match (tag, op) {
            (TAG_INPUT, Op::Write { from, .. }) => {
                self.input.written(from, result, self.child.as_ref(), silent, io);
            }
            (TAG_INPUT, Op::Writable { .. }) => self.input.may_write(silent, io),
            (TAG_WATCH, _) => self.watched(result, io),
            (TAG_OUTPUT | TAG_ERRORS, op) => {
                let stream = if tag == TAG_OUTPUT { &mut self.output } else { &mut self.errors };
                if self.gone {
                    stream.abandoned(op, io);
                } else {
                    stream.completed(op, result, self.child.as_ref(), io);
                    self.pump(io);
                }
            }
            _ => {}
        }
    }

    fn on_done(&mut self, tag: u16, done: Done, io: &mut Io<'_>) {
        match tag {
            TAG_TERMINAL => self.terminal_made(done, io),
            TAG_SPAWN => self.spawned(done, io),
            _ => {}
        }
    }

    fn on_ready(&mut self, io: &mut Io<'_>) {
        if self.gone && self.deadline.is_some_and(|deadline| deadline <= io.now()) {
            self.deadline = None;
            self.input.abandon(io);
            return;
        }
        self.hear_word(io);
        self.input.resume(io);
        if !self.gone {
            self.pump(io);
        }
    }

    fn on_turn_over(&mut self, io: &mut Io<'_>) {
        self.input.resume(io);
    }

    fn yield_memory(&mut self, io: &mut Io<'_>) {
        self.input.yield_memory(io);
    }

    fn on_close(&mut self, io: &mut Io<'_>) {
        self.gone = true;
        if matches!(self.phase, Phase::Running) {
            io.cancel(TAG_WATCH);
        }
        // Whoever finished in order keeps what it left running in the background.
        if let (Some(child), Some(_), false) = (&self.child, &self.terminal, self.close_sent) {
            child.hang_up();
        }
        let reads = matches!(self.phase, Phase::Starting { .. } | Phase::Running);
        if reads && self.terminal.is_none() {
            let deadline = io.now().after(CHANNEL_LINGER_TIME);
            self.deadline = Some(deadline);
            io.wake_at(deadline);
            self.input.write_out(io);
        } else {
            self.input.abandon(io);
        }
        self.output.stop(io);
        self.errors.stop(io);
    }

    fn release(&mut self, io: &mut Io<'_>) {
        let streams = [self.input.take_fd(), self.output.take_fd(), self.errors.take_fd()];
        let terminal = self.terminal.take().map(Terminal::into_master);
        // Still running, it is the reaper's from here on, and closing its pipes ends it if the
        // hang-up did not.
        let watch = self.child.take().and_then(Child::retire);
        for fd in streams.into_iter().chain([terminal, watch]).flatten() {
            io.close_fd(fd);
        }
    }
}

fn answer(want_reply: bool, ok: bool, io: &mut Io<'_>) {
    if want_reply {
        io.answer_request(ok);
    }
}

#[cfg(test)]
mod tests;
