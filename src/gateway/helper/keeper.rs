//! Keeps a helper running: starts one, hears it, and starts another when it ends or lies.

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow};
use crossbeam::channel::{Receiver, Sender, bounded};
use tracing::{debug, error, info};
use zeroize::{Zeroize, Zeroizing};

use super::process::Process;
use super::{Heard, Logs, Watch, lines};
use crate::gateway::batch;
use crate::gateway::socket::Messenger;
use crate::limits::{HEARD_IN_A_ROW_MAX, HELPER_PING_INTERVAL, HELPER_REST, PARCEL_BYTES_MAX};
use crate::wire::Malformed;

/// What no helper that is ours would say. Ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lie(pub &'static str);

/// What helpers of one kind say.
pub trait Spoken: Sized {
    /// # Errors
    /// No such message.
    fn decode(bytes: &[u8]) -> Result<Self, Malformed>;

    /// What of it is for its keeper.
    fn sign(&self) -> Option<Sign>;
}

/// Every helper gives these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It has given up what it does not need, and serves.
    Ready,
    /// It was asked whether it is there.
    Pong,
}

/// Root's side of one kind of helper. The thread that keeps it calls all of this.
pub trait Side: Send + 'static {
    type Said: Spoken;

    /// What it is called in the log, and as a command of ours.
    const NAME: &'static str;

    /// What it does, behind "which".
    const DOES: &'static str;

    fn logs(&self) -> &Logs;

    /// The message that asks it whether it is there.
    fn ping(&self) -> Zeroizing<Vec<u8>>;

    /// One was started, of this number: sends it all that it begins with.
    ///
    /// # Errors
    /// It could not be sent; the text says why.
    fn set_up(&mut self, way: &Arc<Messenger>, pid: u32) -> anyhow::Result<()>;

    /// It serves from now on.
    fn begin(&mut self, way: &Arc<Messenger>);

    /// Does what it asks for.
    ///
    /// # Errors
    /// It lies.
    fn hear(&mut self, said: Self::Said, passenger: Option<OwnedFd>) -> Result<(), Lie>;

    /// Does what else there is to do between two messages. `true`: some is left, and waits for room.
    fn go_on(&mut self) -> bool {
        false
    }

    /// It has not been told all that it was asked for: that waits until nothing more is there to be heard.
    fn holds_back(&self) -> bool {
        false
    }

    /// Tells what waits, and holds nothing back: nothing more is there.
    fn let_out(&mut self) {}

    /// What is wrong with it, if anything is. Ends it.
    fn complaint(&self) -> Option<&'static str> {
        None
    }

    /// It has nothing left to say, and may go.
    fn is_through(&self) -> bool {
        false
    }

    /// There is one for each connection: that one has started is not worth a line.
    fn is_one_of_many(&self) -> bool {
        false
    }

    /// It was not told to end.
    fn is_wanted(&self) -> bool;

    /// There is none now. `served`: the last one did. `fault`: what the log is to be told of its end.
    fn end(&mut self, served: bool, fault: Option<&anyhow::Error>);

    /// Waits before another is started.
    fn rest(&mut self, _served: bool) {
        thread::sleep(HELPER_REST);
    }

    /// There will be none.
    fn close(&mut self) {}
}

/// The thread that keeps a helper.
pub struct Keeper {
    name: &'static str,
    first: Receiver<anyhow::Result<()>>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Starts the first helper; [`Keeper::wait`] says how that went.
    ///
    /// # Errors
    /// There are no threads.
    pub fn start<S: Side>(side: S) -> anyhow::Result<Keeper> {
        let (ready, first) = bounded(1);
        Keeper::spawn(side, Some(ready), first)
    }

    /// The same where nobody waits: that the first does not serve is told as any other's end.
    ///
    /// # Errors
    /// There are no threads.
    pub fn start_unawaited<S: Side>(side: S) -> anyhow::Result<Keeper> {
        Keeper::spawn(side, None, bounded(0).1)
    }

    fn spawn<S: Side>(
        side: S,
        ready: Option<Sender<anyhow::Result<()>>>,
        first: Receiver<anyhow::Result<()>>,
    ) -> anyhow::Result<Keeper> {
        let name = S::NAME;
        let keeping = Keeping { side, first: ready };
        let thread = thread::Builder::new()
            .name(format!("{name}'s keeper"))
            .spawn(move || keeping.keep())
            .with_context(|| format!("cannot start the thread that keeps the {name}"))?;
        Ok(Keeper { name, first, thread })
    }

    /// Waits until the first helper serves. Once.
    ///
    /// # Errors
    /// It does not; the text says why.
    pub fn wait(&self) -> anyhow::Result<()> {
        let ended = |_| Err(anyhow!("the thread that keeps the {} has ended", self.name));
        self.first.recv().unwrap_or_else(ended)
    }

    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end. The helper was told to end.
    pub fn join(self) {
        if self.thread.join().is_err() {
            error!("the thread that keeps the {} ended with a panic", self.name);
        }
    }
}

struct Keeping<S> {
    side: S,
    /// Hears once whether the first helper serves.
    first: Option<Sender<anyhow::Result<()>>>,
}

impl<S: Side> Keeping<S> {
    fn keep(mut self) {
        batch::enter();
        loop {
            let mut watch = Watch::new();
            let fault = match self.run_one(&mut watch) {
                Ok(status) if status.success() && !self.side.is_wanted() => None,
                Ok(status) => Some(anyhow!("it ended with {status}")),
                Err(why) => Some(why),
            };
            let served = watch.serves();
            if let Some(first) = self.first.take() {
                self.side.end(served, None);
                drop(first.send(Err(fault.unwrap_or_else(|| anyhow!("it has left")))));
                break;
            }
            self.side.end(served, fault.as_ref());
            if !self.side.is_wanted() {
                break;
            }
            self.side.rest(served);
        }
        self.side.close();
    }

    /// Starts one and hears it until it ends, which is given some time and no more.
    fn run_one(&mut self, watch: &mut Watch) -> anyhow::Result<ExitStatus> {
        let name = S::NAME;
        let (ours, theirs) = Messenger::pair().context("cannot make a socket pair")?;
        let (log, theirs_log) = io::pipe().context("cannot make a pipe")?;
        let child = super::command(name, self.side.logs(), &theirs, theirs_log).spawn();
        let child = child.with_context(|| format!("cannot start the {name}"))?;
        let mut child = Process::new(child, S::DOES, "");
        drop(theirs);
        let pid = child.id();
        let log = lines::pass_on(log, self.side.logs().syslog).context("cannot read its log")?;
        let ours = Arc::new(ours);
        let heard = self.side.set_up(&ours, pid).and_then(|()| {
            match self.side.is_one_of_many() {
                true => debug!(pid, "Started one more {name}, process {pid}"),
                false => info!(pid, "Started the {name}, process {pid}"),
            }
            self.hear(&ours, watch)
        });
        if heard.is_err() {
            child.kill();
        }
        ours.hang_up();
        let status = child.end().with_context(|| format!("the {name} cannot be waited for"))?;
        let _ = log.join();
        heard.map(|()| status)
    }

    /// Answers it until it leaves.
    fn hear(&mut self, ours: &Arc<Messenger>, watch: &mut Watch) -> anyhow::Result<()> {
        let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
        let ping = self.side.ping();
        ours.set_patience(HELPER_PING_INTERVAL)?;
        // Since nothing was held back: some have no answers, and those of others do not wait for them.
        let mut in_a_row = 0;
        loop {
            let busy = self.side.go_on();
            in_a_row += 1;
            let heard = match self.side.holds_back() && in_a_row <= HEARD_IN_A_ROW_MAX {
                true => super::hear_now(ours, &mut buffer)?,
                false => Heard::Nothing,
            };
            let heard = if let Heard::Nothing = heard {
                in_a_row = 0;
                self.side.let_out();
                super::hear(ours, &mut buffer, busy)?
            } else {
                heard
            };
            match heard {
                Heard::Message(len, passenger) => {
                    let bytes = buffer.get_mut(..len).unwrap_or_default();
                    let said = S::Said::decode(bytes);
                    // It may have been a password, or a shared secret.
                    bytes.zeroize();
                    let said = said.map_err(|_| anyhow!("it lied: no message of ours"))?;
                    self.heard(ours, watch, said, passenger)?;
                }
                Heard::Nothing => {}
                Heard::Gone => return Ok(()),
            }
            watch.look(ours, &ping)?;
            if let Some(why) = self.side.complaint() {
                return Err(anyhow!(why));
            }
            if self.side.is_through() {
                self.side.let_out();
                return Ok(());
            }
        }
    }

    fn heard(
        &mut self,
        ours: &Arc<Messenger>,
        watch: &mut Watch,
        said: S::Said,
        passenger: Option<OwnedFd>,
    ) -> anyhow::Result<()> {
        match said.sign() {
            Some(Sign::Ready) if !watch.serves() => {
                watch.begin();
                self.side.begin(ours);
                self.first.take().into_iter().for_each(|first| drop(first.send(Ok(()))));
            }
            // Once is enough.
            Some(Sign::Ready) => {}
            Some(Sign::Pong) => watch.answered(),
            None => {
                let heard = self.side.hear(said, passenger);
                heard.map_err(|lie| anyhow!("it lied: {}", lie.0))?;
            }
        }
        Ok(())
    }
}
