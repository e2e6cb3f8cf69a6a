//! A gateway makes room for the next program, and what is left when it takes no connections any more.

use std::os::fd::OwnedFd;
use std::process;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use tracing::{error, info, warn};

use super::{
    Ending, Gateway, Listeners, Manager, ONLY_CHECK, PidFile, RETIRED_CHECK, Start, audit_outlet,
    time_or,
};
use crate::base::Instant;
use crate::gateway::control::Order;
use crate::gateway::front::Line;
use crate::gateway::generation::Generation;
use crate::gateway::host_keys::HostKeys;
use crate::gateway::moving::{Entrance, Exit, FORMAT};
use crate::gateway::pid_file;
use crate::gateway::signals::{Signals, Woken};
use crate::gateway::socket::Messenger;
use crate::gateway::systemd::Notifier;
use crate::gateway::upgrade::words::Word;
use crate::gateway::upgrade::{self, Aside, Attempt, Former, Heir, Inheritance, Step, Times};
use crate::limits::{DELEGATE_ENDING_TIME, UPGRADES_DRAINING_MAX};
use crate::reactor;

/// SIGUSR2 to a process that takes no connections.
pub(super) fn refuse() {
    warn!("Received SIGUSR2: only a process that takes new connections can be upgraded");
}

fn times() -> Times {
    let usual = Times::default();
    let time = |usual| time_or("TIDEGATE_TEST_UPGRADE_TIME", usual);
    let Times { check, start, answer } = usual;
    Times { check: time(check), start: time(start), answer: time(answer) }
}

impl<'a> Start<'a> {
    /// Takes the place of the program that has started this one.
    pub(super) fn succeed(
        self,
        keys: HostKeys,
        signals: &Signals,
        inheritance: &mut Option<Inheritance>,
    ) -> anyhow::Result<Ending> {
        let given = inheritance.as_mut().context("there is nobody whose place to take")?;
        let former = given.listeners.clone();
        let listeners = former.renewed(&self.config.global)?;
        let standings = std::mem::take(&mut given.standings);
        let stale = given.pid_file.take();
        let (manager, number) = match given.line.take() {
            Some((line, front)) => (Manager::Front(Line::inherited(line, front)), front),
            None => (Manager::Direct(Notifier::from_environment()), given.pid()),
        };
        let opened = self.open(keys, listeners.clone(), (given.generations, standings));
        let gateway = opened.inspect_err(|_| listeners.close_except(&former))?;
        let formers = match inheritance.take().map(|given| given.take(times().answer)) {
            Some(Ok(formers)) => formers,
            Some(Err(why)) => {
                listeners.close_except(&former);
                former.resume();
                gateway.current.end();
                return Err(why);
            }
            None => Vec::new(),
        };
        former.close_except(&listeners);
        // Whether or not ours is to be there.
        stale.iter().for_each(|path| pid_file::remove_stale(path, number));
        gateway.begin(formers, signals, manager)
    }
}

impl Gateway<'_> {
    pub(super) fn begin_upgrade(&mut self) {
        let program = &self.start.options.program;
        let path = program.path().display();
        if self.attempt.is_some() {
            return warn!("Received SIGUSR2: an upgrade is under way already");
        }
        if self.formers.len() >= UPGRADES_DRAINING_MAX {
            let why = format!(
                "{UPGRADES_DRAINING_MAX} earlier programs still have sessions; this one goes on"
            );
            error!("Received SIGUSR2: {why}");
            return self.start.answer(Order::Upgrade, || Err(why));
        }
        info!(%path, "Received SIGUSR2; upgrading to {path}");
        match Attempt::begin(program, times()) {
            Ok(attempt) => self.attempt = Some(attempt),
            Err(why) => self.give_up(&why),
        }
    }

    /// Goes on with an upgrade. Answers with the program that is to have our place.
    pub(super) fn step_upgrade(&mut self, manager: &Manager) -> Option<Heir> {
        let stepped = self.attempt.as_mut()?.step().and_then(|step| match step {
            Step::Wait => Ok(None),
            Step::Checked => self.start_heir(manager).map(|()| None),
            Step::Ready(heir) => Ok(heir.leave().map(|()| Some(heir))?),
        });
        let why = match stepped {
            Ok(heir) => return heir,
            Err(why) => why,
        };
        self.give_up(&why);
        if let Some(reload) = &self.start.options.reload
            && std::mem::take(&mut self.reload_waits)
        {
            self.reload(reload, manager);
        }
        None
    }

    fn start_heir(&mut self, manager: &Manager) -> anyhow::Result<()> {
        let standings = self.current.standings();
        let legacy =
            upgrade::legacy(self.started, &self.listeners, &standings, &self.formers, manager)?;
        let (program, open_files) = (&self.start.options.program, self.start.open_files);
        let pid_file = self.pid_file.as_ref().and_then(PidFile::place);
        let Some(attempt) = &mut self.attempt else { return Ok(()) };
        let movers = self.formers.iter().filter(|former| former.moves()).map(Former::pid);
        let movers = movers.chain([process::id()]).collect();
        attempt.start(program, legacy, (open_files, &Aside { pid_file, movers }), times())
    }

    /// Connections of earlier programs come in by the present generation.
    pub(super) fn open_porch(&self) {
        *self.porch.lock().unwrap_or_else(PoisonError::into_inner) = self.current.doorway();
    }

    /// Those that are on their way come in, and no more.
    pub(super) fn close_porch(&mut self) {
        std::mem::take(&mut self.entrances).into_iter().for_each(Entrance::close);
        *self.porch.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Earlier programs may send their connections.
    pub(super) fn take_in(&mut self) {
        self.open_porch();
        for former in self.formers.iter().filter(|former| former.moves()) {
            match Entrance::open(&self.porch) {
                Ok((entrance, way)) => {
                    let host_keys = self.current.host_keys().to_vec();
                    former.offer(host_keys, self.current.has_onward(), &way);
                    self.entrances.push(entrance);
                }
                Err(why) => warn!(%why, "connections stay with the earlier program: {why}"),
            }
        }
    }

    /// Lets those go that have ended.
    pub(super) fn look_after_formers(&mut self) {
        for former in self.formers.extract_if(.., |former| former.is_over()) {
            let logbook = self.start.logbook();
            for (login, process) in former.sessions() {
                if let Some(logbook) = &logbook {
                    logbook.go_on(login, process);
                }
            }
        }
        self.entrances.retain(|entrance| !entrance.is_over());
    }

    fn give_up(&mut self, why: &anyhow::Error) {
        let why = format!("The upgrade has come to nothing, this program goes on: {why:#}");
        error!("{why}");
        self.start.answer(Order::Upgrade, || Err(why));
        self.attempt = None;
        // The other one may have had to close one to open another.
        self.listeners.resume();
    }

    /// Another program accepts from now on. Sessions stay here, and logins that have begun.
    pub(super) fn leave_to(
        mut self,
        heir: Heir,
        signals: &Signals,
        manager: Manager,
    ) -> anyhow::Result<Ending> {
        let pid = heir.pid();
        self.close_porch();
        manager.moved(pid);
        drop(manager);
        info!(pid, "Process {pid} has taken this one's place");
        self.start.tell(|whole| whole.serves = false);
        self.start.answer(Order::Upgrade, || {
            Ok(format!("Process {pid} has taken the place of {own}", own = std::process::id()))
        });
        if self.reload_waits {
            heir.signal(Signal::SIGHUP);
        }
        self.pid_file.into_iter().for_each(PidFile::leave);
        let mut sessions: Vec<_> = self.retired.into_iter().chain([self.current]).collect();
        sessions.iter_mut().for_each(Generation::retire);
        // The other one has the ways to earlier ones.
        let successor = Some((heir, self.listeners));
        Left { sessions, formers: Vec::new(), start: self.start, successor }.end(None, signals)
    }
}

/// What goes on when no connection is taken any more.
pub(super) struct Left<'a> {
    pub(super) sessions: Vec<Generation>,
    pub(super) formers: Vec<Former>,
    pub(super) start: Start<'a>,
    /// It sees by its way to us whether we are there.
    pub(super) successor: Successor,
}

/// The program that has our place, and the sockets that it has too.
pub(super) type Successor = Option<(Heir, Listeners)>;

/// Why a wait for the last session is over.
enum Last {
    Ended,
    /// Sessions are to end, and have this long.
    Signal(Signal, Duration),
}

impl Left<'_> {
    /// Ends as this signal says, or, where none came, with the last session.
    pub(super) fn end(
        mut self,
        signal: Option<Signal>,
        signals: &Signals,
    ) -> anyhow::Result<Ending> {
        let last = match signal {
            Some(signal) => Last::Signal(signal, self.start.config.global.drain_time),
            None => self.wait_for_the_last(signals)?,
        };
        match last {
            Last::Ended => {
                let logbook = self.start.logbook.get();
                if let Some((heir, _)) = &self.successor {
                    for (login, process) in logbook.iter().flat_map(|logbook| logbook.leave()) {
                        heir.leave_session(login, &process);
                    }
                }
                self.start.close_logs();
                Ok(Ending::Over)
            }
            Last::Signal(signal, drain) => self.finish(signal, drain, signals),
        }
    }

    fn finish(
        mut self,
        signal: Signal,
        drain: Duration,
        signals: &Signals,
    ) -> anyhow::Result<Ending> {
        let told = if signal == Signal::SIGTERM { drain } else { Duration::ZERO };
        self.formers.iter().for_each(|former| former.end(signal, told));
        // Whoever sits at the terminal and presses Ctrl-C does not want to wait.
        if signal == Signal::SIGTERM {
            self.drain(reactor::now().after(drain), signals)?;
        }
        self.sessions.into_iter().for_each(Generation::end);
        await_formers(self.formers, signals)?;
        self.start.close_logs();
        Ok(Ending::Signal(signal))
    }

    /// Waits until connections have ended by themselves, or for the signal that ends them.
    fn wait_for_the_last(&mut self, signals: &Signals) -> anyhow::Result<Last> {
        info!("Taking no new connections; those that are open go on");
        let mut pause = ONLY_CHECK;
        loop {
            self.sessions.retain_mut(|generation| !generation.is_over());
            if self.sessions.is_empty() {
                return Ok(Last::Ended);
            }
            let fds: Vec<_> = self.successor.iter().map(|(heir, _)| heir.as_fd()).collect();
            match signals.wait(&fds, Some(pause)).context("cannot wait for signals")? {
                Woken::Signal(Signal::SIGHUP) => self.reload(),
                Woken::Signal(Signal::SIGUSR2) => refuse(),
                Woken::Signal(signal) => {
                    info!("Received signal {}; terminating.", signal as i32);
                    return Ok(Last::Signal(signal, self.start.config.global.drain_time));
                }
                Woken::Ready(_) => {
                    if let Some(last) = self.hear() {
                        return Ok(last);
                    }
                    // Connections may leave from now on.
                    pause = ONLY_CHECK;
                }
                Woken::TimedOut => pause = (pause * 2).min(RETIRED_CHECK),
            }
        }
    }

    /// What the program that has our place says.
    fn hear(&mut self) -> Option<Last> {
        let (heir, listeners) = self.successor.as_ref()?;
        match heir.hear() {
            Ok(Some((Word::End { signal, drain }, _))) => {
                info!("The program that takes connections ends; so does this one");
                let signal = Signal::try_from(signal).unwrap_or(Signal::SIGTERM);
                return Some(Last::Signal(signal, drain));
            }
            Ok(Some((Word::Reopen, _))) => self.reopen_logs(),
            Ok(Some((Word::Moves { format, host_keys, onward }, Some(way)))) => {
                self.move_on(format, (&host_keys, onward), way);
            }
            Ok(_) => {}
            Err(_) => {
                // Sockets that we have still would keep its port from whoever comes next.
                listeners.close_except(&Listeners::default());
                self.successor = None;
            }
        }
        None
    }

    /// Connections go on in the program that has our place, if it understands them.
    fn move_on(&self, format: u32, (host_keys, onward): (&[String], bool), way: OwnedFd) {
        if format != FORMAT {
            return info!("Connections stay here: the next program writes them otherwise");
        }
        let exit = Arc::new(Exit::new(Arc::new(Messenger::from_fd(way))));
        let move_on = |generation: &Generation| generation.move_on(&exit, host_keys, onward);
        match self.sessions.iter().filter(|generation| !move_on(generation)).count() {
            0 => info!("Connections go on in the next program as soon as each can"),
            _ => info!("Connections stay here: the next program has not all of our host keys"),
        }
    }

    /// There is nothing left here that a configuration could change, but for files of logs. Whoever sent the
    /// signal may have meant the program that has our place, of which he does not know yet.
    fn reload(&self) {
        if let Some((heir, _)) = &self.successor {
            let pid = heir.pid();
            info!(pid, "Received SIGHUP; passing it on to process {pid}");
            heir.signal(Signal::SIGHUP);
        }
        self.reopen_logs();
    }

    fn reopen_logs(&self) {
        match audit_outlet(&self.start.config) {
            Ok(outlet) => self.start.reopen_audit(outlet),
            Err(why) => error!("{why:#}"),
        }
    }

    /// Lets connections end by themselves until then, or until another signal than SIGHUP comes.
    fn drain(&mut self, until: Instant, signals: &Signals) -> anyhow::Result<()> {
        self.sessions.iter_mut().for_each(Generation::retire);
        loop {
            self.sessions.retain_mut(|generation| !generation.is_over());
            self.formers.retain(|former| !former.is_over());
            if self.sessions.is_empty() && self.formers.is_empty() {
                info!("All sessions have ended");
                return Ok(());
            }
            if reactor::now() >= until {
                info!("Ending the sessions that are still open");
                return Ok(());
            }
            match signals.wait(&[], Some(ONLY_CHECK)).context("cannot wait for signals")? {
                Woken::Signal(Signal::SIGHUP | Signal::SIGUSR2)
                | Woken::Ready(_)
                | Woken::TimedOut => {}
                Woken::Signal(signal) => {
                    info!("Received signal {}; ending all sessions", signal as i32);
                    self.formers.iter().for_each(|former| former.signal(signal));
                    return Ok(());
                }
            }
        }
    }
}

/// Earlier programs end with us: whoever waits for our end waits for theirs. Each has the time that it
/// takes to end the processes of accounts.
fn await_formers(mut formers: Vec<Former>, signals: &Signals) -> anyhow::Result<()> {
    let until = reactor::now().after(2 * DELEGATE_ENDING_TIME);
    loop {
        formers.retain(|former| !former.is_over());
        if formers.is_empty() || reactor::now() >= until {
            formers.iter().for_each(|former| former.signal(Signal::SIGKILL));
            return Ok(());
        }
        let fds: Vec<_> = formers.iter().map(Former::as_fd).collect();
        signals.wait(&fds, Some(ONLY_CHECK)).context("cannot wait for signals")?;
    }
}
