//! Keeps a signer running, and gives each one the key files. Root's process opens the files each time and
//! never reads them again.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::bail;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tracing::error;
use zeroize::Zeroizing;

use super::bureau::Bureau;
use super::words::{Say, Setup, Tell};
use crate::gateway::figures::roll::{Presence, roll};
use crate::gateway::helper::Logs;
use crate::gateway::helper::keeper::{self, Lie, Side, Sign, Spoken};
use crate::gateway::socket::Messenger;
use crate::gateway::{host_keys, upstream};
use crate::limits::{HELPER_REST, SIGNER_REST_MAX};
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
    keeper: Option<keeper::Keeper>,
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
        let signer = Signer {
            plan,
            bureau,
            wishes: Arc::clone(&wishes),
            stopped,
            rest: HELPER_REST,
            presence: None,
        };
        Ok(Keeper { wishes, stop: Some(stop), keeper: Some(keeper::Keeper::start(signer)?) })
    }

    /// Waits until the first signer serves. Once.
    ///
    /// # Errors
    /// It does not; the text says why.
    pub fn wait(&self) -> anyhow::Result<()> {
        self.keeper.as_ref().map_or(Ok(()), keeper::Keeper::wait)
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
        self.keeper.take().into_iter().for_each(keeper::Keeper::join);
    }
}

struct Signer {
    plan: Plan,
    bureau: Arc<Bureau>,
    wishes: Arc<Wishes>,
    stopped: Receiver<()>,
    /// Before the next one is started: longer where they do not even begin.
    rest: Duration,
    presence: Option<Presence>,
}

impl Spoken for Say {
    fn decode(bytes: &[u8]) -> Result<Say, Malformed> {
        Say::decode(bytes)
    }

    fn sign(&self) -> Option<Sign> {
        match self {
            Say::Ready => Some(Sign::Ready),
            Say::Pong => Some(Sign::Pong),
            Say::Signed { .. } | Say::Refused { .. } => None,
        }
    }
}

impl Side for Signer {
    type Said = Say;

    const NAME: &'static str = "signer";
    const DOES: &'static str = "signs";

    fn logs(&self) -> &Logs {
        &self.plan.logs
    }

    fn ping(&self) -> Zeroizing<Vec<u8>> {
        Tell::Ping.encode()
    }

    fn set_up(&mut self, way: &Arc<Messenger>, pid: u32) -> anyhow::Result<()> {
        self.presence = Some(roll().enter(Signer::NAME, "", pid, None));
        {
            let mut wish = self.wishes.lock();
            wish.messenger = Some(Arc::clone(way));
            if wish.stopped {
                bail!("none is wanted any more");
            }
        }
        let setup = Tell::Setup(Box::new(self.plan.setup.clone()));
        way.try_send(&setup.encode(), None)?;
        for path in &self.plan.files {
            let file = host_keys::open(path)?;
            way.try_send(&Tell::Key.encode(), Some(file.as_fd()))?;
        }
        for path in &self.plan.upstream_files {
            match upstream::open_key(path) {
                Ok(file) => way.try_send(&Tell::Key.encode(), Some(file.as_fd()))?,
                Err(why) => {
                    let file = path.display();
                    error!("The key {file} opens no host until there is another signer: {why}");
                    way.try_send(&Tell::NoKey.encode(), None)?;
                }
            }
        }
        Ok(way.try_send(&Tell::Begin.encode(), None)?)
    }

    fn begin(&mut self, way: &Arc<Messenger>) {
        self.bureau.begin(way);
    }

    fn hear(&mut self, say: Say, _passenger: Option<OwnedFd>) -> Result<(), Lie> {
        self.bureau.hear(say)
    }

    fn is_wanted(&self) -> bool {
        !self.wishes.lock().stopped
    }

    fn end(&mut self, _served: bool, fault: Option<&anyhow::Error>) {
        self.bureau.end();
        if let Some(why) = fault.filter(|_| self.is_wanted()) {
            error!("The signer has ended: {why:#}. Key exchanges wait for the next one");
        }
    }

    fn rest(&mut self, served: bool) {
        if served {
            self.rest = HELPER_REST;
        } else {
            // Whoever waits is not kept for one that may never come.
            self.bureau.give_up(false);
            self.rest = (self.rest * 2).min(SIGNER_REST_MAX);
        }
        match self.stopped.recv_timeout(self.rest) {
            Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }

    fn close(&mut self) {
        self.bureau.give_up(true);
    }
}
