//! What a client does on one channel.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tidegate::base::{Instant, SeededEntropy};
use tidegate::connection::{ChannelId, ChannelKind, ChannelRequest, Connection, WindowSize};
use tidegate::transport::{Client as ClientRole, Env, Error};

use crate::bytes::Flow;
use crate::child::Program;
use crate::copy::{Copy, CopyPlan};
use crate::forward::{Forward, ForwardPlan};
use crate::office::Office;
use crate::tally::Tally;
use crate::times::SLACK;
use crate::transfer::{Transfer, TransferPlan};

#[derive(Clone, Debug)]
pub enum TaskPlan {
    Exec(ExecPlan),
    Sftp(TransferPlan),
    Scp(CopyPlan),
    Forward(ForwardPlan),
}

impl TaskPlan {
    /// The channel it is done on.
    pub fn channel(&self) -> ChannelKind {
        match self {
            TaskPlan::Forward(plan) => plan.channel(),
            _ => ChannelKind::Session,
        }
    }
}

/// A command, or a shell.
#[derive(Clone, Debug)]
pub struct ExecPlan {
    pub program: Program,
    pub seed: u64,
    /// What it is sent; nothing is sent to programs that do not read.
    pub input: u64,
    /// The largest piece sent at a time.
    pub piece: u32,
    pub terminal: bool,
    pub shell: bool,
    pub variables: u32,
    pub want_reply: bool,
    /// Data is sent without waiting for the program to be there.
    pub eager: bool,
    pub signal: Option<&'static str>,
    /// The channel is closed once so much output has come.
    pub closes_after: Option<u64>,
    /// Received data is consumed in one go whenever so much has come.
    pub gulp: u32,
    /// Nothing is done on the channel until the gateway closes it for being idle: not before this
    /// time, and before long where only the channel itself counts.
    pub idle: Option<(Duration, bool)>,
    /// Between two pieces of input.
    pub pace: Duration,
    /// It asks for something that is not done on a connection which logins share.
    pub odd: bool,
}

#[derive(Debug)]
pub struct Task {
    id: ChannelId,
    kind: Kind,
    over: bool,
}

#[derive(Debug)]
enum Kind {
    Exec(Box<Exec>),
    Sftp(Box<Transfer>),
    Scp(Box<Copy>),
    Forward(Box<Forward>),
}

#[derive(Debug)]
struct Exec {
    plan: ExecPlan,
    input: Flow,
    output: Flow,
    errors: Flow,
    asked: u32,
    answered: u32,
    refused: u32,
    started: bool,
    eof_sent: bool,
    eof_seen: bool,
    signalled: bool,
    closing: bool,
    exit: Option<Ending>,
    /// Received and not consumed.
    owed: u32,
    /// What started it may fail, by arrangement.
    lenient: bool,
    /// When it was asked for, and when it was known to run.
    asked_at: Instant,
    runs_since: Option<Instant>,
    /// What could be sent at first.
    window: u32,
    /// Of the next piece of input.
    next_at: Instant,
    what: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Ending {
    Status(u32),
    Signal(String),
}

impl Task {
    pub fn new(plan: TaskPlan, id: ChannelId, office: Rc<RefCell<Office>>) -> Task {
        let kind = match plan {
            TaskPlan::Exec(plan) => {
                let office = office.borrow();
                let lenient = office.manners.spawn_fails > 0 || office.manners.lost > 0;
                Kind::Exec(Box::new(Exec::new(
                    plan,
                    lenient || office.arranged.lost + office.arranged.spoilt > 0,
                )))
            }
            TaskPlan::Sftp(plan) => Kind::Sftp(Box::new(Transfer::new(plan, office))),
            TaskPlan::Scp(plan) => Kind::Scp(Box::new(Copy::new(plan, office))),
            TaskPlan::Forward(plan) => Kind::Forward(Box::new(Forward::new(plan, office))),
        };
        Task { id, kind, over: false }
    }

    pub const fn is_over(&self) -> bool {
        self.over
    }

    pub const fn is_session(&self) -> bool {
        !matches!(self.kind, Kind::Forward(_))
    }

    pub fn count(&self, tally: &mut Tally) {
        match &self.kind {
            Kind::Exec(exec) => exec.count(tally),
            Kind::Sftp(sftp) => sftp.count(tally),
            Kind::Scp(scp) => scp.count(tally),
            Kind::Forward(forward) => forward.count(tally),
        }
    }

    /// It has received what it has not consumed, and will.
    pub fn is_digesting(&self) -> bool {
        match &self.kind {
            Kind::Exec(exec) => exec.owed > 0,
            Kind::Sftp(sftp) => sftp.owed > 0,
            Kind::Scp(scp) => scp.owed > 0,
            Kind::Forward(forward) => forward.owed > 0,
        }
    }

    /// When it goes on by itself.
    pub fn wakes_at(&self) -> Option<Instant> {
        match &self.kind {
            Kind::Exec(exec) => (!exec.plan.pace.is_zero()).then_some(exec.next_at),
            _ => None,
        }
    }

    pub fn opened(
        &mut self,
        conn: &mut Connection<ClientRole>,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        match &mut self.kind {
            Kind::Exec(exec) => exec.opened(self.id, conn, env),
            Kind::Sftp(sftp) => sftp.opened(self.id, conn, env),
            Kind::Scp(scp) => scp.opened(self.id, conn, env),
            Kind::Forward(forward) => {
                forward.opened();
                Ok(())
            }
        }
    }

    pub fn request_done(
        &mut self,
        ok: bool,
        conn: &mut Connection<ClientRole>,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        match &mut self.kind {
            Kind::Exec(exec) => exec.request_done(self.id, ok, conn, env),
            Kind::Sftp(sftp) => {
                sftp.request_done(ok);
                Ok(())
            }
            Kind::Scp(scp) => {
                scp.request_done(ok);
                Ok(())
            }
            Kind::Forward(_) => panic!("nobody asked"),
        }
    }

    pub fn data(&mut self, extended: Option<u32>, bytes: &[u8]) {
        match &mut self.kind {
            Kind::Exec(exec) => exec.data(extended, bytes),
            Kind::Sftp(sftp) => sftp.data(extended, bytes),
            Kind::Scp(scp) => scp.data(extended, bytes),
            Kind::Forward(forward) => forward.data(extended, bytes),
        }
    }

    /// How a program ended.
    pub fn told(&mut self, request: &ChannelRequest) {
        let exit = match request {
            ChannelRequest::ExitStatus { code } => Ending::Status(*code),
            ChannelRequest::ExitSignal { name, .. } => Ending::Signal(name.to_string()),
            _ => return,
        };
        match &mut self.kind {
            Kind::Exec(exec) => {
                assert_eq!(exec.exit, None, "{} ends twice", exec.what);
                exec.exit = Some(exit);
            }
            served => match (served, exit) {
                (Kind::Sftp(sftp), Ending::Status(code)) => sftp.exited(code),
                (Kind::Scp(scp), Ending::Status(code)) => scp.exited(code),
                (served, Ending::Signal(name)) => panic!("{served:?} ended by {name}"),
                (Kind::Exec(_) | Kind::Forward(_), _) => panic!("nothing was started"),
            },
        }
    }

    pub fn ended(&mut self) {
        match &mut self.kind {
            Kind::Exec(exec) => exec.eof_seen = true,
            Kind::Sftp(sftp) => sftp.ended(),
            Kind::Scp(scp) => scp.ended(),
            Kind::Forward(forward) => forward.ended(),
        }
    }

    pub fn peer_closed(&mut self) {
        match &mut self.kind {
            Kind::Exec(exec) => exec.closing = true,
            Kind::Sftp(sftp) => sftp.peer_closed(),
            Kind::Scp(scp) => scp.peer_closed(),
            Kind::Forward(forward) => forward.peer_closed(),
        }
    }

    /// The channel is no more; it had been opened, or was never to be. `proxied`: by way of a host.
    ///
    /// # Panics
    /// When the task did not get what it came for.
    pub fn closed(&mut self, opened: bool, now: Instant, excused: bool, proxied: bool) {
        assert!(opened || !self.is_session() || excused, "a session was refused");
        self.over = true;
        if excused {
            return;
        }
        match &mut self.kind {
            Kind::Exec(exec) => exec.check_complete(now),
            Kind::Sftp(sftp) => sftp.check_complete(),
            Kind::Scp(scp) => scp.check_complete(),
            Kind::Forward(forward) => forward.check_complete(opened, proxied),
        }
    }

    /// Does one thing more; false when there is nothing to do now.
    pub fn pump(
        &mut self,
        conn: &mut Connection<ClientRole>,
        env: &mut Env<'_>,
        chance: &mut SeededEntropy,
    ) -> Result<bool, Error> {
        match &mut self.kind {
            Kind::Exec(exec) => exec.pump(self.id, conn, env, chance),
            Kind::Sftp(sftp) => sftp.pump(self.id, conn, env, chance),
            Kind::Scp(scp) => scp.pump(self.id, conn, env, chance),
            Kind::Forward(forward) => forward.pump(self.id, conn, env, chance),
        }
    }
}

impl Exec {
    fn new(plan: ExecPlan, lenient: bool) -> Exec {
        let (seed, sent) = (plan.seed, plan.input);
        let none = Flow::new(seed, 0);
        let (input, output, errors) = match &plan.program {
            Program::Cat => (Flow::new(seed, sent), Flow::new(seed, sent), none),
            Program::Source { out, err, .. } if plan.terminal => {
                assert_eq!(err.len, 0, "a terminal has one output");
                (none.clone(), out.clone(), none)
            }
            Program::Source { out, err, .. } => (none, out.clone(), err.clone()),
            Program::Leave { out, .. } | Program::Hush { out, .. } => {
                (none.clone(), out.clone(), none)
            }
            Program::Sink { .. } | Program::Early { .. } => {
                (Flow::new(seed, sent), none.clone(), none)
            }
            _ => (Flow::new(seed, sent), none.clone(), none),
        };
        let what = plan.program.command(seed);
        Exec {
            plan,
            input,
            output,
            errors,
            asked: 0,
            answered: 0,
            refused: 0,
            started: false,
            eof_sent: false,
            eof_seen: false,
            signalled: false,
            closing: false,
            exit: None,
            owed: 0,
            lenient,
            asked_at: Instant::ZERO,
            runs_since: None,
            window: 0,
            next_at: Instant::ZERO,
            what,
        }
    }

    fn opened(
        &mut self,
        id: ChannelId,
        conn: &mut Connection<ClientRole>,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        if self.plan.terminal {
            let size = WindowSize { columns: 80, rows: 24, width_pixels: 0, height_pixels: 0 };
            let modes = Box::from([0u8]);
            let pty = ChannelRequest::PtyReq { term: "xterm".into(), size, modes };
            self.ask(id, &pty, conn, env)?;
        }
        for n in 0..self.plan.variables {
            let name = format!("LC_{n}").into();
            let variable = ChannelRequest::Env { name, value: Box::from(*b"x") };
            self.ask(id, &variable, conn, env)?;
        }
        if self.plan.odd {
            let odd = ChannelRequest::Other { name: "odd@tidegate.invalid".into() };
            assert!(conn.request(id, &odd, false, env)?, "an open channel takes requests");
        }
        let start = if self.plan.shell {
            ChannelRequest::Shell
        } else {
            ChannelRequest::Exec { command: self.what.as_bytes().into() }
        };
        self.ask(id, &start, conn, env)?;
        self.started = self.plan.eager || !self.plan.want_reply;
        self.asked_at = env.now;
        self.window = conn.credit(id);
        Ok(())
    }

    fn ask(
        &mut self,
        id: ChannelId,
        request: &ChannelRequest,
        conn: &mut Connection<ClientRole>,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        let sent = conn.request(id, request, self.plan.want_reply, env)?;
        assert!(sent, "an open channel takes requests");
        self.asked += u32::from(self.plan.want_reply);
        Ok(())
    }

    fn request_done(
        &mut self,
        id: ChannelId,
        ok: bool,
        conn: &mut Connection<ClientRole>,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        self.answered += 1;
        assert!(self.answered <= self.asked, "{}: answered more than was asked", self.what);
        if !ok {
            assert!(self.lenient || self.signalled, "{} was refused", self.what);
            self.refused += 1;
        }
        let last = self.answered == self.asked;
        if last && ok {
            self.started = true;
            self.runs_since.get_or_insert(env.now);
        }
        // It could not be started: there is nothing to wait for.
        if last && !ok && !self.signalled {
            self.closing = true;
            return conn.close(id, env);
        }
        Ok(())
    }

    fn data(&mut self, extended: Option<u32>, bytes: &[u8]) {
        self.owed += bytes.len() as u32;
        assert!(!self.eof_seen, "{}: data behind EOF", self.what);
        match extended {
            None => self.output.check(bytes, &self.what),
            Some(1) => self.errors.check(bytes, &self.what),
            Some(other) => panic!("{}: a stream {other}", self.what),
        }
    }

    fn pump(
        &mut self,
        id: ChannelId,
        conn: &mut Connection<ClientRole>,
        env: &mut Env<'_>,
        chance: &mut SeededEntropy,
    ) -> Result<bool, Error> {
        let output = self.output.at + self.errors.at;
        let over = self.eof_seen || self.output.left() + self.errors.left() == 0;
        // A window that is used up must be granted again, whatever the gulp.
        if self.owed > 0 && (self.owed >= self.plan.gulp || over || chance.below(4) == 0) {
            conn.consumed(id, std::mem::take(&mut self.owed), env)?;
        }
        if self.closing {
            return Ok(false);
        }
        if self.plan.closes_after.is_some_and(|after| self.started && output >= after) {
            self.closing = true;
            conn.close(id, env)?;
            return Ok(false);
        }
        let Some(signal) = self.plan.signal.filter(|_| self.started && !self.signalled) else {
            return self.send(id, conn, env, chance);
        };
        // What a deaf program is sent has to pile up first.
        let deaf = matches!(self.plan.program, Program::Deaf);
        // And what nobody reads has to be taken all the same.
        let shut = matches!(self.plan.program, Program::Shut);
        if self.input.left() > 0 && (shut || deaf && conn.credit(id) > 0) {
            return self.send(id, conn, env, chance);
        }
        if self.answered == self.asked && self.exit.is_none() {
            self.signalled = true;
            let signal = ChannelRequest::Signal { name: signal.into() };
            self.ask(id, &signal, conn, env)?;
        }
        Ok(false)
    }

    fn send(
        &mut self,
        id: ChannelId,
        conn: &mut Connection<ClientRole>,
        env: &mut Env<'_>,
        chance: &mut SeededEntropy,
    ) -> Result<bool, Error> {
        if !self.started || self.eof_sent {
            return Ok(false);
        }
        if self.input.left() == 0 {
            let program = &self.plan.program;
            let waits = matches!(
                program,
                Program::Wait | Program::Stubborn | Program::Deaf | Program::Shut
            );
            let waits = waits && (self.plan.signal.is_some() || self.plan.idle.is_some());
            // What was read is granted again, all but what makes no WINDOW_ADJUST yet.
            let packets = conn.packet_max(id).saturating_mul(3);
            let grain = (self.window / 8).max(packets).min(self.window / 2);
            let owed = self.output.left() > 0 || conn.credit(id) <= self.window - grain;
            let waits = waits || matches!(program, Program::Cat) && owed;
            // It goes on in silence, which the client has to hear of.
            let waits = waits || matches!(program, Program::Hush { .. }) && !self.eof_seen;
            let ends = !self.plan.terminal && !waits;
            if ends {
                self.eof_sent = true;
                conn.send_eof(id, env)?;
            }
            return Ok(ends);
        }
        let most = u64::from(self.plan.piece.min(conn.credit(id)));
        if most == 0 || self.next_at > env.now {
            return Ok(false);
        }
        let bytes = self.input.peek(1 + chance.below(most));
        let written = conn.write_data(id, None, &bytes, env);
        if written {
            self.input.advance(bytes.len());
            self.next_at = env.now.after(self.plan.pace);
        }
        Ok(written)
    }

    fn count(&self, tally: &mut Tally) {
        let name = self.what.split(' ').next().unwrap_or_default();
        tally.count(name, 1);
        tally.count("terminal", u64::from(self.plan.terminal));
        tally.count("shell", u64::from(self.plan.shell));
        tally.count("closed early", u64::from(self.plan.closes_after.is_some()));
        tally.count("idle too long", u64::from(self.plan.idle.is_some()));
        tally.count("seldom heard of", u64::from(!self.plan.pace.is_zero()));
    }

    /// It was closed for being idle, neither too early nor too late.
    fn check_idle(&self, (time, alone): (Duration, bool), now: Instant) {
        let what = &self.what;
        assert_eq!(self.exit, None, "{what} was idle, and yet it ended");
        let failed = self.lenient && !self.plan.want_reply;
        let idle = now.since(self.asked_at);
        assert!(idle >= time || failed, "{what} was closed after {idle:?}");
        let idle = self.runs_since.map_or(Duration::ZERO, |since| now.since(since));
        assert!(!alone || idle <= time + SLACK, "{what} was closed only after {idle:?}");
    }

    fn check_complete(&self, now: Instant) {
        let what = &self.what;
        if self.plan.closes_after.is_some() || self.refused > 0 {
            return;
        }
        if let Some(time) = self.plan.idle {
            return self.check_idle(time, now);
        }
        if self.exit.is_none() {
            // It could not be started, and the client did not ask to be told.
            assert!(self.lenient && !self.plan.want_reply, "{what} ended without a word: {self:?}");
            return;
        }
        let expected = match &self.plan.program {
            Program::Source { code, .. }
            | Program::Early { code, .. }
            | Program::Leave { code, .. }
            | Program::Hush { code, .. }
            | Program::Exit { code } => Ending::Status(*code),
            Program::Die { name } => Ending::Signal((*name).to_owned()),
            Program::Stubborn => match self.plan.signal {
                Some("KILL") => Ending::Signal("KILL".to_owned()),
                _ => Ending::Status(0),
            },
            _ => match self.plan.signal {
                Some(name) => Ending::Signal(name.to_owned()),
                None => Ending::Status(0),
            },
        };
        assert_eq!(self.exit.as_ref(), Some(&expected), "{what}");
        assert!(self.eof_seen, "{what} closed without EOF");
        assert_eq!(self.output.left(), 0, "{what}: output is missing");
        assert_eq!(self.errors.left(), 0, "{what}: errors are missing");
        assert_eq!(self.answered, self.asked, "{what}: answers are missing");
    }
}
