//! Keeps a signer running: starts one, gives it the key files, hears it, and starts another when it ends
//! or lies. Root's process opens the files each time and never reads them again.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, anyhow};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tracing::{error, info};

use super::bureau::Bureau;
use super::words::{Say, Setup, Tell};
use crate::gateway::batch;
use crate::gateway::broker::Process;
use crate::gateway::helper::{self, Heard, Logs, Watch, lines};
use crate::gateway::socket::Messenger;
use crate::gateway::{host_keys, upstream};
use crate::limits::{HELPER_PING_INTERVAL, HELPER_REST, PARCEL_BYTES_MAX, SIGNER_REST_MAX};
use crate::wire::Malformed;

/// What a signer is started with, each time.
pub struct Plan {
    pub setup: Setup,
    /// The files of its keys.
    pub files: Vec<PathBuf>,
    /// Of those that open hosts.
    pub upstream_files: Vec<PathBuf>,
    pub logs: Logs,
}

/// Keeps a signer running until it is dropped.
pub struct Keeper {
    wishes: Arc<Wishes>,
    /// Closed to end the rest between two signers.
    stop: Option<Sender<()>>,
    first: Receiver<anyhow::Result<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Shared with the thread that keeps the signer.
#[derive(Default)]
struct Wishes(Mutex<Wish>);

#[derive(Default)]
struct Wish {
    messenger: Option<Arc<Messenger>>,
    stopped: bool,
}

impl Wishes {
    fn lock(&self) -> MutexGuard<'_, Wish> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper {
    /// Starts the first signer; [`Keeper::wait`] says how that went.
    ///
    /// # Errors
    /// There are no threads.
    pub fn start(plan: Plan, bureau: Arc<Bureau>) -> anyhow::Result<Keeper> {
        let wishes = Arc::new(Wishes::default());
        let (stop, stopped) = bounded(0);
        let (ready, first) = bounded(1);
        let keeping = Keeping { plan, bureau, wishes: Arc::clone(&wishes), stopped };
        let thread = thread::Builder::new()
            .name("signer's keeper".to_owned())
            .spawn(move || keeping.keep(ready))
            .context("cannot start the thread that keeps the signer")?;
        Ok(Keeper { wishes, stop: Some(stop), first, thread: Some(thread) })
    }

    /// Waits until the first signer serves. Once.
    ///
    /// # Errors
    /// It does not; the text says why.
    pub fn wait(&self) -> anyhow::Result<()> {
        let first = self.first.recv();
        first.unwrap_or_else(|_| Err(anyhow!("the thread that keeps the signer has ended")))
    }
}

impl Drop for Keeper {
    /// Ends the signer and waits for that.
    fn drop(&mut self) {
        {
            let mut wish = self.wishes.lock();
            wish.stopped = true;
            if let Some(messenger) = &wish.messenger {
                // Without a word it would be there for who goes on without us.
                let _ = messenger.try_send(&Tell::Stop.encode(), None);
                messenger.hang_up();
            }
        }
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            error!("the thread that keeps the signer ended with a panic");
        }
    }
}

struct Keeping {
    plan: Plan,
    bureau: Arc<Bureau>,
    wishes: Arc<Wishes>,
    stopped: Receiver<()>,
}

/// Says once whether the first signer serves.
type First = Sender<anyhow::Result<()>>;

impl Keeping {
    fn keep(self, ready: First) {
        batch::enter();
        let (mut ready, mut rest) = (Some(ready), HELPER_REST);
        loop {
            let mut watch = Watch::new();
            let why = self.run_one(&mut watch, &mut ready).err();
            self.bureau.end();
            let why = why.unwrap_or_else(|| anyhow!("it has left"));
            let stopped = self.wishes.lock().stopped;
            if stopped || ready.is_some() {
                ready.into_iter().for_each(|ready| drop(ready.send(Err(anyhow!("{why:#}")))));
                return self.bureau.give_up(true);
            }
            error!("The signer has ended: {why:#}. Key exchanges wait for the next one");
            if watch.serves() {
                rest = HELPER_REST;
            } else {
                // Whoever waits is not kept for one that may never come.
                self.bureau.give_up(false);
                rest = (rest * 2).min(SIGNER_REST_MAX);
            }
            self.rest(rest);
        }
    }

    fn rest(&self, time: Duration) {
        match self.stopped.recv_timeout(time) {
            Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }

    /// Starts a signer and hears it until it ends.
    fn run_one(&self, watch: &mut Watch, ready: &mut Option<First>) -> anyhow::Result<()> {
        let (ours, theirs) = Messenger::pair().context("cannot make a socket pair")?;
        let (log, theirs_log) = io::pipe().context("cannot make a pipe")?;
        let child = helper::command("signer", &self.plan.logs, &theirs, theirs_log).spawn();
        let mut child = Process(child.context("cannot start the signer")?);
        drop(theirs);
        let log = lines::pass_on(log, self.plan.logs.syslog).context("cannot read its log")?;
        let ours = Arc::new(ours);
        {
            let mut wish = self.wishes.lock();
            wish.messenger = Some(Arc::clone(&ours));
            if wish.stopped {
                return Ok(());
            }
        }
        let heard = self.send_setup(&ours).and_then(|()| {
            let pid = child.0.id();
            info!(pid, "Started the signer, process {pid}");
            self.hear(&ours, watch, ready)
        });
        if heard.is_err() {
            let _ = child.0.kill();
        }
        ours.hang_up();
        let status = child.end().context("the signer cannot be waited for")?;
        let _ = log.join();
        heard?;
        Err(anyhow!("it ended with {status}"))
    }

    fn send_setup(&self, ours: &Messenger) -> anyhow::Result<()> {
        let setup = Tell::Setup(Box::new(self.plan.setup.clone()));
        ours.try_send(&setup.encode(), None)?;
        for path in &self.plan.files {
            let file = host_keys::open(path)?;
            ours.try_send(&Tell::Key.encode(), Some(file.as_fd()))?;
        }
        for path in &self.plan.upstream_files {
            match upstream::open_key(path) {
                Ok(file) => ours.try_send(&Tell::Key.encode(), Some(file.as_fd()))?,
                Err(why) => {
                    let file = path.display();
                    error!("The key {file} opens no host until there is another signer: {why}");
                    ours.try_send(&Tell::NoKey.encode(), None)?;
                }
            }
        }
        ours.try_send(&Tell::Begin.encode(), None)?;
        Ok(())
    }

    /// Passes what it says on until it leaves.
    fn hear(
        &self,
        ours: &Arc<Messenger>,
        watch: &mut Watch,
        ready: &mut Option<First>,
    ) -> anyhow::Result<()> {
        let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
        let ping = Tell::Ping.encode();
        ours.set_patience(HELPER_PING_INTERVAL)?;
        loop {
            match helper::hear(ours, &mut buffer, false)? {
                Heard::Message(len, _) => {
                    let bytes = buffer.get(..len).unwrap_or_default();
                    self.heard(ours, Say::decode(bytes), watch, ready)?;
                }
                Heard::Nothing => {}
                Heard::Gone => return Ok(()),
            }
            watch.look(ours, &ping)?;
        }
    }

    fn heard(
        &self,
        ours: &Arc<Messenger>,
        say: Result<Say, Malformed>,
        watch: &mut Watch,
        ready: &mut Option<First>,
    ) -> anyhow::Result<()> {
        match say {
            Ok(Say::Ready) if !watch.serves() => {
                watch.begin();
                self.bureau.begin(ours);
                ready.take().into_iter().for_each(|ready| drop(ready.send(Ok(()))));
            }
            Ok(Say::Pong) => watch.answered(),
            Ok(say) => {
                let heard = self.bureau.hear(say);
                heard.map_err(|lie| anyhow!("it lied: {}", lie.0))?;
            }
            Err(_) => return Err(anyhow!("it lied: no message of ours")),
        }
        Ok(())
    }
}
