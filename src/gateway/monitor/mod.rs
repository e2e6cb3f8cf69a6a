//! Root's side of the edge: starts one, answers it, and starts another when it ends or lies. The
//! listening sockets are root's too, so that connections wait meanwhile.

pub mod cases;
pub mod hear;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow};
use crossbeam::channel::{Sender, bounded};
use tracing::{error, info};
use zeroize::Zeroize;

use self::hear::{Clerk, Staff};
use super::batch;
use super::broker::Process;
use super::desk;
use super::edge::words::{Ask, Setup, Tell};
use super::helper::{self, Heard, Logs, Watch, lines};
use super::socket::Messenger;
use crate::limits::{HELPER_PING_INTERVAL, HELPER_REST, PARCEL_BYTES_MAX, STANDINGS_A_MESSAGE};
use crate::reactor::{self, Fd};

/// What an edge is started with, each time.
#[derive(Clone)]
pub struct Plan {
    pub setup: Setup,
    pub listeners: Vec<Arc<OwnedFd>>,
    pub logs: Logs,
    /// Edges of the generation that there have been.
    pub started: Arc<AtomicU64>,
}

/// Keeps an edge running until it is told otherwise.
pub struct Keeper {
    wishes: Arc<Wishes>,
    thread: JoinHandle<()>,
}

/// What is to become of the edge; shared with the thread that keeps it.
#[derive(Default)]
struct Wishes(Mutex<Wish>);

#[derive(Default)]
struct Wish {
    /// The way to the edge, once it serves.
    messenger: Option<Arc<Messenger>>,
    retired: bool,
    stopped: bool,
}

/// Why an edge has ended.
enum End {
    /// As it was told to.
    Over,
    /// It was not to.
    Fault(anyhow::Error),
}

impl Keeper {
    /// Starts the first edge and waits until it serves.
    ///
    /// # Errors
    /// It does not; the text says why.
    pub fn start(plan: Plan, clerk: Arc<Clerk>, staff: Staff) -> anyhow::Result<Keeper> {
        let wishes = Arc::new(Wishes::default());
        let (ready, readied) = bounded(1);
        let keeping = Keeping { plan, clerk, staff, wishes: Arc::clone(&wishes) };
        let thread = thread::Builder::new()
            .name("edge's keeper".to_owned())
            .spawn(move || keeping.keep(ready))
            .context("cannot start the thread that keeps the edge")?;
        match readied.recv() {
            Ok(Ok(())) => Ok(Keeper { wishes, thread }),
            Ok(Err(why)) => Err(why),
            Err(_) => Err(anyhow!("the thread that keeps the edge has ended")),
        }
    }

    /// Passes a connection on that was accepted elsewhere.
    pub fn adopt(&self, clerk: &Clerk, socket: &OwnedFd) {
        if desk::ends_of(Fd(socket.as_raw_fd())).is_none() {
            clerk.pipes.store(true, Ordering::Relaxed);
        }
        let wish = self.wishes.lock();
        let sent = wish
            .messenger
            .as_ref()
            .map(|messenger| messenger.try_send(&Tell::Adopt.encode(), Some(socket.as_fd())));
        if !matches!(sent, Some(Ok(()))) {
            error!("the connection could not be passed on to the edge");
        }
    }

    /// Accepts no more; the edge ends with its last connection.
    pub fn retire(&self) {
        let mut wish = self.wishes.lock();
        wish.retired = true;
        wish.tell(&Tell::Retire);
    }

    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends the edge, if it has not ended, and waits for that.
    pub fn stop(self) {
        {
            let mut wish = self.wishes.lock();
            (wish.retired, wish.stopped) = (true, true);
            wish.tell(&Tell::Stop);
            // One that does not listen is given some time to end, and no more.
            wish.messenger.iter().for_each(|messenger| messenger.hang_up());
        }
        if self.thread.join().is_err() {
            error!("the thread that keeps the edge ended with a panic");
        }
    }
}

impl Wishes {
    fn lock(&self) -> MutexGuard<'_, Wish> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wish {
    /// One that does not read is found out otherwise.
    fn tell(&self, tell: &Tell) {
        if let Some(messenger) = &self.messenger {
            let _ = messenger.try_send(&tell.encode(), None);
        }
    }
}

struct Keeping {
    plan: Plan,
    clerk: Arc<Clerk>,
    staff: Staff,
    wishes: Arc<Wishes>,
}

/// Says once whether the first edge serves.
type First = Sender<anyhow::Result<()>>;

impl Keeping {
    fn keep(mut self, ready: First) {
        batch::enter();
        let mut ready = Some(ready);
        loop {
            let end = self.run_one(&mut ready).unwrap_or_else(End::Fault);
            self.wishes.lock().messenger = None;
            self.clerk.end();
            match (end, ready.take()) {
                (End::Over, _) => return,
                (End::Fault(why), Some(ready)) => return drop(ready.send(Err(why))),
                (End::Fault(why), None) => error!("The edge has ended: {why:#}"),
            }
            if self.wishes.lock().retired {
                return;
            }
            thread::sleep(HELPER_REST);
        }
    }

    /// Starts an edge and answers it until it ends.
    fn run_one(&mut self, ready: &mut Option<First>) -> anyhow::Result<End> {
        let (ours, theirs) = Messenger::pair().context("cannot make a socket pair")?;
        let (log, theirs_log) = io::pipe().context("cannot make a pipe")?;
        let child = self.spawn(&theirs, theirs_log).context("cannot start the edge")?;
        drop(theirs);
        let mut child = Process(child);
        let pid = child.0.id();
        let log =
            lines::pass_on(log, self.plan.logs.syslog).context("cannot read the edge's log")?;
        let ours = Arc::new(ours);
        let mut setup = self.plan.setup.clone();
        // No two connections have the same number in the log.
        setup.first_serial += self.plan.started.fetch_add(1, Ordering::Relaxed) << 24;
        self.clerk.begin(&ours, (setup.first_serial, setup.reactors));
        let heard = self.send_setup(&ours, setup).map_err(Into::into).and_then(|()| {
            info!(pid, "Started the edge, process {pid}");
            self.hear(&ours, ready)
        });
        if heard.is_err() {
            let _ = child.0.kill();
        }
        ours.hang_up();
        let status = child.end().context("the edge cannot be waited for")?;
        let _ = log.join();
        heard?;
        let over = self.wishes.lock().retired && status.success();
        Ok(if over { End::Over } else { End::Fault(anyhow!("it ended with {status}")) })
    }

    fn spawn(&self, theirs: &Messenger, log: io::PipeWriter) -> io::Result<std::process::Child> {
        helper::command("edge", &self.plan.logs, theirs, log).spawn()
    }

    fn send_setup(&self, ours: &Messenger, setup: Setup) -> io::Result<()> {
        let plan = &self.plan;
        ours.try_send(&Tell::Setup(Box::new(setup)).encode(), None)?;
        let standings = self.clerk.startups.standings(reactor::now());
        for some in standings.chunks(STANDINGS_A_MESSAGE) {
            ours.try_send(&Tell::Standings(some.to_vec()).encode(), None)?;
        }
        for listener in &plan.listeners {
            ours.try_send(&Tell::Listener.encode(), Some(listener.as_fd()))?;
        }
        ours.try_send(&Tell::Begin.encode(), None)
    }

    /// Answers an edge until it leaves.
    fn hear(&mut self, ours: &Arc<Messenger>, ready: &mut Option<First>) -> anyhow::Result<()> {
        let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
        let mut watch = Watch::new();
        ours.set_patience(HELPER_PING_INTERVAL)?;
        loop {
            self.staff.retry();
            let busy = !self.staff.waiting.is_empty();
            let (len, passenger) = match helper::hear(ours, &mut buffer, busy)? {
                Heard::Message(len, passenger) => (len, passenger),
                Heard::Gone => return Ok(()),
                Heard::Nothing => {
                    watch.look(ours, &Tell::Ping.encode())?;
                    continue;
                }
            };
            let bytes = buffer.get_mut(..len).unwrap_or_default();
            let ask = Ask::decode(bytes);
            // It may have been a password.
            bytes.zeroize();
            match ask {
                Ok(Ask::Ready) if !watch.serves() => {
                    watch.begin();
                    self.served(ours, ready);
                }
                Ok(Ask::Pong) => watch.answered(),
                Ok(ask) => {
                    let heard = self.clerk.hear(&mut self.staff, ask, passenger);
                    heard.map_err(|lie| anyhow!("it lied: {}", lie.0))?;
                }
                Err(_) => return Err(anyhow!("it lied: no message of ours")),
            }
            watch.look(ours, &Tell::Ping.encode())?;
            if self.clerk.is_stuck() {
                return Err(anyhow!("it does not read what it is told"));
            }
        }
    }

    fn served(&self, ours: &Arc<Messenger>, ready: &mut Option<First>) {
        let mut wish = self.wishes.lock();
        wish.messenger = Some(Arc::clone(ours));
        // What was wished while there was none.
        if wish.stopped {
            wish.tell(&Tell::Stop);
        } else if wish.retired {
            wish.tell(&Tell::Retire);
        }
        if let Some(ready) = ready.take() {
            let _ = ready.send(Ok(()));
        }
    }
}

/// The path of an edge's root, as it travels.
pub fn root_bytes(root: &std::path::Path) -> Vec<u8> {
    OsStr::as_bytes(root.as_os_str()).to_vec()
}
