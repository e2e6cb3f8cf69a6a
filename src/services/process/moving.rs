//! A program that goes on behind another process of ours.

use super::*;
use crate::limits::{END_UNTOLD_PAUSE, END_UNTOLD_TRIES_MAX};
use crate::services::child::known_signal_name;
use crate::services::{Luggage, Unpacking};
use crate::wire::Malformed;

impl Process {
    /// It runs, or has ended and its output goes on, and another process would learn of its end.
    pub fn may_move(&self) -> bool {
        let known = match &self.phase {
            Phase::Running => self.child.as_ref().is_some_and(Child::can_be_let_go),
            Phase::Exited(_) => true,
            Phase::Preparing(_) | Phase::Starting { .. } | Phase::Failed(_) => false,
        };
        let asked = self.agent_wanted.is_some() || self.display_wanted.is_some();
        known && !self.gone && !asked && self.early_signals.is_empty()
    }

    /// Begins nothing more.
    pub fn halt(&mut self, io: &mut Io<'_>) {
        self.halted = true;
        if self.watching {
            io.cancel(TAG_WATCH);
        }
        self.input.halt(io);
        self.output.halt(io);
        self.errors.halt(io);
    }

    /// Goes on, here or where it has come to.
    pub fn go_on(&mut self, io: &mut Io<'_>) {
        self.halted = false;
        self.output.go_on();
        self.errors.go_on();
        self.watch(io);
        self.input.go_on(io);
        self.pump(io);
    }

    /// What has halted, with nothing in flight.
    pub fn pack(&mut self, out: &mut Luggage, io: &mut Io<'_>) {
        match &self.phase {
            Phase::Exited(Exit::Status(code)) => {
                out.byte(EXITED);
                out.uint32(*code);
            }
            Phase::Exited(Exit::Signal { name, core_dumped }) => {
                out.byte(SIGNALLED);
                out.string(name.as_bytes());
                out.boolean(*core_dumped);
            }
            _ => {
                out.byte(RUNNING);
                out.uint32(self.child.as_ref().map_or(0, Child::pid).cast_unsigned());
                let pidfd = self.child.take().and_then(Child::let_go);
                out.descriptor(pidfd);
            }
        }
        if let Some(watch) = self.child.take().and_then(Child::retire) {
            io.close_fd(watch);
        }
        [self.signals, self.eof_sent, self.close_sent].into_iter().for_each(|is| out.boolean(is));
        out.boolean(self.terminal.is_some());
        if let Some(terminal) = self.terminal.take() {
            out.string(terminal.path().to_bytes());
            out.descriptor(Some(terminal.into_master()));
        }
        self.input.pack(out);
        self.output.pack(out);
        self.errors.pack(out);
        self.gone = true;
    }

    /// What [`Process::pack`] packed; [`Process::go_on`] is to be called. Where it fails the descriptors are
    /// nobody's.
    pub fn unpack(login: Arc<Login>, from: &mut Unpacking<'_>) -> Result<Process, Malformed> {
        let (phase, child) = match from.byte()? {
            RUNNING => {
                let pid = from.uint32()?.cast_signed();
                (Phase::Running, Some((pid, from.open_descriptor()?)))
            }
            EXITED => (Phase::Exited(Exit::Status(from.uint32()?)), None),
            SIGNALLED => {
                let name = known_signal_name(from.string()?);
                let core_dumped = from.boolean()?;
                (Phase::Exited(Exit::Signal { name, core_dumped }), None)
            }
            _ => return Err(Malformed::Range),
        };
        let [signals, eof_sent, close_sent] = [from.boolean()?, from.boolean()?, from.boolean()?];
        let terminal = match from.boolean()? {
            true => {
                let path = CString::new(from.string()?).map_err(|_| Malformed::Range)?;
                Some((from.open_descriptor()?, path))
            }
            false => None,
        };
        let master = terminal.as_ref().map(|(master, _)| *master);
        let end = if master.is_some() { End::Terminal } else { End::Pipe };
        let input = Input::unpack((TAG_INPUT, end), master, from)?;
        let output = Output::unpack(Output::new(TAG_OUTPUT, None), end, master, from)?;
        let errors = Output::new(TAG_ERRORS, Some(STDERR));
        let errors = Output::unpack(errors, End::Pipe, None, from)?;
        Ok(Process {
            phase,
            child: child.map(|(pid, pidfd)| Child::adopted(pid, pidfd)),
            terminal: terminal.map(|(master, path)| Terminal::adopted(master, path)),
            signals,
            eof_sent,
            close_sent,
            input,
            output,
            errors,
            ..Process::new(login)
        })
    }

    /// It has ended, but its parent, who is not we, has not waited for it yet.
    pub(super) fn wait_for_word(&mut self, io: &mut Io<'_>) {
        let tries = self.untold.map_or(0, |(_, tries)| tries) + 1;
        let at = io.now().after(END_UNTOLD_PAUSE);
        self.untold = Some((at, tries));
        io.wake_at(at);
    }

    /// Asks again how it has ended, if it is time.
    pub(super) fn hear_word(&mut self, io: &mut Io<'_>) {
        let Some((at, tries)) = self.untold else { return };
        if self.gone || !matches!(self.phase, Phase::Running) || io.now() < at {
            return;
        }
        let exit = self.child.as_mut().and_then(Child::reap);
        match exit.or((tries > END_UNTOLD_TRIES_MAX).then_some(UNTOLD)) {
            Some(exit) => {
                self.untold = None;
                self.tell_exit(exit, io);
                self.finish_if_done(io);
            }
            None => self.wait_for_word(io),
        }
    }
}

/// As of one whose end cannot be watched.
const UNTOLD: Exit = Exit::Status(255);

const RUNNING: u8 = 0;
const EXITED: u8 = 1;
const SIGNALLED: u8 = 2;
