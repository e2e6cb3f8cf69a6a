//! Programs that a gateway starts: the other ends of its pipes and terminals.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use tidegate::base::{Instant, SeededEntropy};
use tidegate::reactor::Fd;
use tidegate::reactor::sim::SimWorld;
use tidegate::services::{Exit, Script};

use crate::bytes::Flow;
use crate::chance::{one_in, up_to};

/// What a program does with its streams.
#[derive(Clone, Debug)]
pub enum Program {
    /// Gives back what it reads.
    Cat,
    /// Writes so much to both outputs, then exits with the code. Never reads.
    Source {
        out: Flow,
        err: Flow,
        code: u32,
    },
    /// Reads to the end, then exits: with 0 if it read just that.
    Sink {
        input: Flow,
    },
    /// Reads that much and exits without waiting for the rest.
    Early {
        input: Flow,
        code: u32,
    },
    /// Exits at once; something it left running writes so much and then ends.
    Leave {
        out: Flow,
        code: u32,
    },
    Exit {
        code: u32,
    },
    /// A signal of its own ends it.
    Die {
        name: &'static str,
    },
    /// Does nothing until a signal comes or its input ends.
    Wait,
    /// The same, and no signal but KILL impresses it.
    Stubborn,
    /// Reads nothing and does nothing until a signal comes.
    Deaf,
    /// Closes its input at once and does nothing until a signal comes.
    Shut,
    /// Writes so much, closes its outputs, and goes on until its input ends.
    Hush {
        out: Flow,
        code: u32,
    },
}

impl Program {
    /// The command line that [`Program::parse`] reads.
    pub fn command(&self, seed: u64) -> String {
        match self {
            Program::Cat => "cat".to_owned(),
            Program::Source { out, err, code } => {
                format!("source {seed} {} {} {code}", out.len, err.len)
            }
            Program::Sink { input } => format!("sink {seed} {}", input.len),
            Program::Early { input, code } => format!("early {seed} {} {code}", input.len),
            Program::Leave { out, code } => format!("leave {seed} {} {code}", out.len),
            Program::Exit { code } => format!("exit {code}"),
            Program::Die { name } => format!("die {name}"),
            Program::Wait => "wait".to_owned(),
            Program::Stubborn => "stubborn".to_owned(),
            Program::Deaf => "deaf".to_owned(),
            Program::Shut => "shut".to_owned(),
            Program::Hush { out, code } => format!("hush {seed} {} {code}", out.len),
        }
    }

    pub fn parse(command: &str) -> Option<Program> {
        let mut words = command.split_whitespace();
        let kind = words.next()?;
        if kind == "die" {
            let name = words.next()?;
            return Some(Program::Die { name: NAMES.iter().map(|n| n.1).find(|n| *n == name)? });
        }
        let numbers: Vec<u64> = words.map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(match (kind, &numbers[..]) {
            ("cat", []) => Program::Cat,
            ("source", [seed, out, err, code]) => Program::Source {
                out: Flow::new(*seed, *out),
                err: Flow::new(!*seed, *err),
                code: *code as u32,
            },
            ("sink", [seed, len]) => Program::Sink { input: Flow::new(*seed, *len) },
            ("early", [seed, len, code]) => {
                Program::Early { input: Flow::new(*seed, *len), code: *code as u32 }
            }
            ("leave", [seed, len, code]) => {
                Program::Leave { out: Flow::new(*seed, *len), code: *code as u32 }
            }
            ("exit", [code]) => Program::Exit { code: *code as u32 },
            ("wait", []) => Program::Wait,
            ("stubborn", []) => Program::Stubborn,
            ("deaf", []) => Program::Deaf,
            ("shut", []) => Program::Shut,
            ("hush", [seed, len, code]) => {
                Program::Hush { out: Flow::new(*seed, *len), code: *code as u32 }
            }
            _ => return None,
        })
    }
}

/// Its ends of the pipes, or the terminal's slave as both.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    pub stdin: Option<Fd>,
    pub stdout: Option<Fd>,
    pub stderr: Option<Fd>,
    pub terminal: Option<Fd>,
}

/// A running program.
#[derive(Debug)]
pub struct SimChild {
    program: Program,
    streams: Streams,
    watch: Fd,
    script: Arc<Mutex<Script>>,
    heard: usize,
    /// Read and not written yet.
    buffer: Vec<u8>,
    busy_until: Instant,
    /// How long it may be busy with something else between two steps.
    dawdles: Duration,
    /// It has dawdled and done nothing since: programs that wake one another by it would never rest.
    dawdled: bool,
    exited: bool,
    /// How it ended, which somebody else is told a moment later.
    untold: Option<(Instant, Exit)>,
    /// It was told so late.
    pub told_late: bool,
}

/// Bytes moved in one step.
const STEP_BYTES: u64 = 32 * 1024;

enum Next {
    Onward,
    /// Something has to be read or written by the other end first.
    Stuck,
    Exit(Exit),
}

impl SimChild {
    pub fn new(
        program: Program,
        streams: Streams,
        watch: Fd,
        script: Arc<Mutex<Script>>,
        dawdles: Duration,
    ) -> SimChild {
        let busy_until = Instant::ZERO;
        SimChild {
            program,
            streams,
            watch,
            script,
            heard: 0,
            buffer: Vec::new(),
            busy_until,
            dawdles,
            dawdled: false,
            exited: false,
            untold: None,
            told_late: false,
        }
    }

    /// It has exited and nothing holds its streams.
    pub fn is_over(&self) -> bool {
        let Streams { stdin, stdout, stderr, terminal } = self.streams;
        let told = self.exited && self.untold.is_none();
        told && [stdin, stdout, stderr, terminal].iter().all(Option::is_none)
    }

    /// Goes on for a while.
    pub fn step(&mut self, world: &SimWorld, entropy: &mut SeededEntropy) {
        if let Some((_, exit)) = self.untold.take_if(|(at, _)| *at <= world.now()) {
            self.script.lock().unwrap_or_else(PoisonError::into_inner).exit = Some(exit);
            self.told_late = true;
        }
        self.hear_signals(world, entropy);
        if self.is_over() || self.busy_until > world.now() {
            return;
        }
        if !self.dawdles.is_zero() && !self.dawdled && one_in(entropy, 3) {
            self.dawdled = true;
            self.busy_until = world.now().after(up_to(entropy, self.dawdles));
            world.wake_at(self.busy_until);
            return;
        }
        for _ in 0..4 {
            match self.act(world, entropy) {
                Next::Onward => self.dawdled = false,
                Next::Stuck => return,
                Next::Exit(exit) => return self.exit(exit, world, entropy),
            }
        }
        world.wake_at(world.now().after(Duration::from_nanos(1)));
    }

    /// Without a terminal, which would be hung up, what neither reads nor writes hears nothing of its client's
    /// end: here somebody else ends it.
    pub fn end_if_it_outlives_its_client(&mut self, world: &SimWorld) {
        let hears_nothing = matches!(self.program, Program::Deaf | Program::Shut);
        if hears_nothing && self.streams.terminal.is_none() {
            self.exited = true;
            self.let_go(world);
        }
    }

    fn hear_signals(&mut self, world: &SimWorld, entropy: &mut SeededEntropy) {
        let signals: Vec<Signal> = {
            let script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
            script.signals[self.heard..].to_vec()
        };
        self.heard += signals.len();
        for signal in signals {
            let ends = match signal {
                Signal::SIGCONT => false,
                Signal::SIGKILL => true,
                _ => !matches!(self.program, Program::Stubborn),
            };
            let name = NAMES.iter().find(|(known, _)| *known == signal);
            if let Some((_, name)) = name.filter(|_| ends && !self.exited) {
                self.exit(Exit::Signal { name, core_dumped: false }, world, entropy);
            }
        }
    }

    fn act(&mut self, world: &SimWorld, entropy: &mut SeededEntropy) -> Next {
        let step = 1 + entropy.below(STEP_BYTES);
        match &mut self.program {
            Program::Cat => self.pass_on(step, world),
            Program::Source { out, err, code } => {
                let exit = Next::Exit(Exit::Status(*code));
                // Its errors come somewhere in between.
                let which = err.left() > 0 && (out.left() == 0 || one_in(entropy, 4));
                let to = self.streams.terminal.or(if which {
                    self.streams.stderr
                } else {
                    self.streams.stdout
                });
                let flow = if which { err } else { out };
                if flow.left() == 0 { exit } else { emit(flow, step, to, world) }
            }
            Program::Leave { out, .. } if self.exited => match out.left() {
                0 => {
                    self.let_go(world);
                    Next::Stuck
                }
                _ => match emit(out, step, self.streams.stdout, world) {
                    Next::Exit(_) => {
                        self.let_go(world);
                        Next::Stuck
                    }
                    next => next,
                },
            },
            Program::Leave { code, .. } | Program::Exit { code } => Next::Exit(Exit::Status(*code)),
            Program::Die { name } => Next::Exit(Exit::Signal { name, core_dumped: false }),
            Program::Sink { .. } | Program::Early { .. } => self.swallow(step, world),
            Program::Wait | Program::Stubborn => self.ignore(step, world),
            Program::Deaf => Next::Stuck,
            Program::Shut => {
                close(&mut [&mut self.streams.stdin], world);
                Next::Stuck
            }
            Program::Hush { out, .. } if out.left() > 0 => {
                emit(out, step, self.streams.stdout, world)
            }
            Program::Hush { code, .. } => {
                let exit = Next::Exit(Exit::Status(*code));
                close(&mut [&mut self.streams.stdout, &mut self.streams.stderr], world);
                match self.ignore(step, world) {
                    Next::Exit(_) => exit,
                    next => next,
                }
            }
        }
    }

    fn pass_on(&mut self, step: u64, world: &SimWorld) -> Next {
        if self.buffer.is_empty() {
            match self.read(step, world) {
                Ok(bytes) if bytes.is_empty() => return Next::Exit(Exit::Status(0)),
                Ok(bytes) => self.buffer = bytes,
                Err(next) => return next,
            }
        }
        let Some(stdout) = self.streams.terminal.or(self.streams.stdout) else {
            return Next::Exit(PIPE);
        };
        match world.write(stdout, &self.buffer) {
            Ok(len) => {
                self.buffer.drain(..len);
                Next::Onward
            }
            Err(errno) if errno.0 == libc::EAGAIN => Next::Stuck,
            Err(_) => Next::Exit(PIPE),
        }
    }

    fn swallow(&mut self, step: u64, world: &SimWorld) -> Next {
        let step = match &self.program {
            Program::Early { input, code } if input.left() == 0 => {
                return Next::Exit(Exit::Status(*code));
            }
            Program::Early { input, .. } => step.min(input.left()),
            _ => step,
        };
        let bytes = match self.read(step, world) {
            Ok(bytes) => bytes,
            Err(next) => return next,
        };
        match &mut self.program {
            Program::Sink { input } | Program::Early { input, .. } if !bytes.is_empty() => {
                input.check(&bytes, "a program's input");
                Next::Onward
            }
            Program::Sink { input } => Next::Exit(Exit::Status(u32::from(input.left() > 0))),
            _ => Next::Exit(Exit::Status(99)),
        }
    }

    fn ignore(&mut self, step: u64, world: &SimWorld) -> Next {
        match self.read(step, world) {
            Ok(bytes) if bytes.is_empty() => Next::Exit(Exit::Status(0)),
            Ok(_) => Next::Onward,
            Err(next) => next,
        }
    }

    /// Nothing at the end of the input.
    fn read(&self, max: u64, world: &SimWorld) -> Result<Vec<u8>, Next> {
        let Some(stdin) = self.streams.terminal.or(self.streams.stdin) else {
            return Ok(Vec::new());
        };
        let mut bytes = vec![0; max as usize];
        match world.read(stdin, &mut bytes) {
            Ok(len) => {
                bytes.truncate(len);
                Ok(bytes)
            }
            Err(errno) if errno.0 == libc::EAGAIN => Err(Next::Stuck),
            // The master of its terminal is gone.
            Err(_) => Ok(Vec::new()),
        }
    }

    fn exit(&mut self, exit: Exit, world: &SimWorld, entropy: &mut SeededEntropy) {
        if self.exited {
            return;
        }
        self.exited = true;
        let leaves = matches!((&self.program, exit), (Program::Leave { .. }, Exit::Status(_)));
        if leaves {
            close(&mut [&mut self.streams.stdin, &mut self.streams.stderr], world);
            self.streams.stdout = self.streams.stdout.or(self.streams.terminal.take());
        } else {
            self.let_go(world);
        }
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        if script.let_go && one_in(entropy, 2) {
            let at = world.now().after(up_to(entropy, UNTOLD_MAX));
            world.wake_at(at.max(world.now().after(Duration::from_nanos(1))));
            self.untold = Some((at, exit));
        } else {
            script.exit = Some(exit);
        }
        world.exit(self.watch);
    }

    fn let_go(&mut self, world: &SimWorld) {
        let Streams { stdin, stdout, stderr, terminal } = &mut self.streams;
        close(&mut [stdin, stdout, stderr, terminal], world);
    }
}

fn close(streams: &mut [&mut Option<Fd>], world: &SimWorld) {
    for fd in streams.iter_mut().filter_map(|stream| stream.take()) {
        world.close(fd);
    }
}

fn emit(flow: &mut Flow, step: u64, to: Option<Fd>, world: &SimWorld) -> Next {
    let Some(fd) = to else { return Next::Exit(PIPE) };
    match world.write(fd, &flow.peek(step)) {
        Ok(len) => {
            flow.advance(len);
            Next::Onward
        }
        Err(errno) if errno.0 == libc::EAGAIN => Next::Stuck,
        Err(_) => Next::Exit(PIPE),
    }
}

/// How long a parent takes to wait for it.
const UNTOLD_MAX: Duration = Duration::from_millis(20);

/// Nobody reads what it writes.
const PIPE: Exit = Exit::Signal { name: "PIPE", core_dumped: false };

const NAMES: [(Signal, &str); 6] = [
    (Signal::SIGHUP, "HUP"),
    (Signal::SIGINT, "INT"),
    (Signal::SIGKILL, "KILL"),
    (Signal::SIGTERM, "TERM"),
    (Signal::SIGUSR1, "USR1"),
    (Signal::SIGPIPE, "PIPE"),
];
