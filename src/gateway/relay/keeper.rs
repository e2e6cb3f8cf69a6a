//! Keeps a relay running: starts one, hears it, and starts another when it ends or lies.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow};
use crossbeam::channel::{Sender, bounded};
use tracing::{error, info};
use zeroize::Zeroize;

use super::clerk::Clerk;
use super::words::{Ask, Setup, Tell};
use crate::gateway::batch;
use crate::gateway::broker::Process;
use crate::gateway::helper::{self, Heard, Logs, Watch, lines};
use crate::gateway::monitor::hear::Staff;
use crate::gateway::socket::Messenger;
use crate::limits::{HELPER_PING_INTERVAL, HELPER_REST, PARCEL_BYTES_MAX};
use crate::wire::Malformed;

/// What a relay is started with, each time.
#[derive(Clone)]
pub struct Plan {
    pub setup: Setup,
    pub logs: Logs,
}

/// Keeps a relay running until it is told otherwise.
pub struct Keeper {
    clerk: Arc<Clerk>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Starts the first relay and waits until it serves.
    ///
    /// # Errors
    /// It does not; the text says why.
    pub fn start(plan: Plan, clerk: Arc<Clerk>, staff: Staff) -> anyhow::Result<Keeper> {
        let (ready, readied) = bounded(1);
        let keeping = Keeping { plan, clerk: Arc::clone(&clerk), staff };
        let thread = thread::Builder::new()
            .name("relay's keeper".to_owned())
            .spawn(move || keeping.keep(ready))
            .context("cannot start the thread that keeps the relay")?;
        match readied.recv() {
            Ok(Ok(())) => Ok(Keeper { clerk, thread }),
            Ok(Err(why)) => Err(why),
            Err(_) => Err(anyhow!("the thread that keeps the relay has ended")),
        }
    }

    /// No login comes any more; the relay ends with its last connection.
    pub fn retire(&self) {
        self.clerk.retire();
    }

    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends the relay, if it has not ended, and waits for that.
    pub fn stop(self) {
        self.clerk.stop();
        if self.thread.join().is_err() {
            error!("the thread that keeps the relay ended with a panic");
        }
    }
}

struct Keeping {
    plan: Plan,
    clerk: Arc<Clerk>,
    staff: Staff,
}

/// Says once whether the first relay serves.
type First = Sender<anyhow::Result<()>>;

impl Keeping {
    fn keep(mut self, ready: First) {
        batch::enter();
        let mut ready = Some(ready);
        loop {
            let mut watch = Watch::new();
            let why = self.run_one(&mut watch, &mut ready).err();
            let lost = self.clerk.end(watch.serves());
            match (why, ready.take()) {
                (why, Some(ready)) => {
                    let why = why.unwrap_or_else(|| anyhow!("it has left"));
                    return drop(ready.send(Err(why)));
                }
                (Some(why), None) => {
                    let what = "logins that went on at other hosts are lost";
                    error!(lost, "The relay has ended: {why:#}. {lost} {what}");
                }
                (None, None) => {}
            }
            if self.clerk.is_done() {
                return;
            }
            thread::sleep(HELPER_REST);
        }
    }

    /// Starts a relay and answers it until it ends as it was told to.
    fn run_one(&mut self, watch: &mut Watch, ready: &mut Option<First>) -> anyhow::Result<()> {
        let (ours, theirs) = Messenger::pair().context("cannot make a socket pair")?;
        let (log, theirs_log) = io::pipe().context("cannot make a pipe")?;
        let child = helper::command("relay", &self.plan.logs, &theirs, theirs_log).spawn();
        let mut child = Process(child.context("cannot start the relay")?);
        drop(theirs);
        let pid = child.0.id();
        let log = lines::pass_on(log, self.plan.logs.syslog).context("cannot read its log")?;
        let ours = Arc::new(ours);
        let setup = Tell::Setup(Box::new(self.plan.setup.clone())).encode();
        let (way, _heir) = self.clerk.heir().context("cannot make a socket pair")?;
        let sent = ours.try_send(&setup, Some(way.as_owned_fd().as_fd()));
        drop(way);
        let heard = sent.map_err(Into::into).and_then(|()| {
            info!(pid, "Started the relay, process {pid}");
            self.hear(&ours, watch, ready)
        });
        if heard.is_err() {
            let _ = child.0.kill();
        }
        ours.hang_up();
        let status = child.end().context("the relay cannot be waited for")?;
        let _ = log.join();
        heard?;
        match self.clerk.is_done() && status.success() {
            true => Ok(()),
            false => Err(anyhow!("it ended with {status}")),
        }
    }

    /// Answers a relay until it leaves.
    fn hear(
        &mut self,
        ours: &Arc<Messenger>,
        watch: &mut Watch,
        ready: &mut Option<First>,
    ) -> anyhow::Result<()> {
        let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
        let ping = Tell::Ping.encode();
        ours.set_patience(HELPER_PING_INTERVAL)?;
        loop {
            self.staff.retry();
            let busy = self.clerk.retry() || !self.staff.waiting.is_empty();
            match helper::hear(ours, &mut buffer, busy)? {
                Heard::Message(len, _) => {
                    let bytes = buffer.get_mut(..len).unwrap_or_default();
                    let ask = Ask::decode(bytes);
                    // It may have been a shared secret.
                    bytes.zeroize();
                    self.heard(ours, ask, watch, ready)?;
                }
                Heard::Nothing => {}
                Heard::Gone => return Ok(()),
            }
            watch.look(ours, &ping)?;
            if self.clerk.is_stuck() {
                return Err(anyhow!("it does not read what it is told"));
            }
        }
    }

    fn heard(
        &mut self,
        ours: &Arc<Messenger>,
        ask: Result<Ask, Malformed>,
        watch: &mut Watch,
        ready: &mut Option<First>,
    ) -> anyhow::Result<()> {
        match ask {
            Ok(Ask::Ready) if !watch.serves() => {
                watch.begin();
                self.clerk.begin(ours);
                ready.take().into_iter().for_each(|ready| drop(ready.send(Ok(()))));
            }
            Ok(Ask::Pong) => watch.answered(),
            Ok(ask) => {
                let heard = self.clerk.hear(&mut self.staff, ask);
                heard.map_err(|lie| anyhow!("it lied: {}", lie.0))?;
            }
            Err(_) => return Err(anyhow!("it lied: no message of ours")),
        }
        Ok(())
    }
}
