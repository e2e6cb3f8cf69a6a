//! An audit (TidegateAuditLog): one JSON object a line for each event of a connection, to a file, syslog or
//! the journal. docs/audit.md is its schema.
//!
//! One thread of the process that listens writes all lines; whoever has something to tell puts it into a
//! bounded queue and goes on, and what finds no room is counted. Other processes send their events there
//! ([`Remote`]), and [`book`] holds them to what they may speak of.

pub mod book;
pub mod entry;
mod line;
mod outlet;
mod told;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use tracing::error;

pub use self::entry::{Entry, Event, Field};
pub use self::line::Line;
pub use self::outlet::{JOURNAL_VARIABLE, Outlet};
pub use self::told::{denied, entry_of, login};
use super::config::{AuditLog, Config};
use super::socket::Messenger;
use crate::base::Instant;
use crate::limits::{AUDIT_QUEUE_MAX, AUDIT_STILL_TIME_MAX};
use crate::reactor;

/// What an `auth` event has for a result.
const SUCCESS: &str = "success";
/// Whose event it is that is nobody's.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
/// How long the writer rests after it has caught up: a login makes several lines within moments.
const REST: Duration = Duration::from_millis(10);
/// How long the end of the process waits for the last lines.
const PATIENCE: Duration = Duration::from_secs(2);

/// Hears of events.
pub trait Auditor: Send + Sync {
    /// Never waits. What there is no room for is counted, and that is told later.
    fn note(&self, entry: Entry);

    /// Tells how many events were lost since that was last told, if nobody else does.
    fn tell_losses(&self) {}

    /// Why what is noted now may never be written.
    fn trouble(&self) -> Option<String> {
        None
    }
}

/// Who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// A process that has root's rights, or the only one.
    Gateway,
    /// The process that strangers speak with.
    Edge,
    /// The process that serves logins which go on elsewhere.
    Relay,
    /// The process of this account.
    Account(Arc<str>),
}

/// The audit of this process and of those that it has started.
#[derive(Debug)]
pub struct Audit {
    orders: Sender<Order>,
    shared: Arc<Shared>,
    /// Tells the sessions of one start of the gateway from those of others.
    run: u32,
}

#[derive(Debug)]
struct Shared {
    outlet: Mutex<Outlet>,
    /// Events without a line, since that was last told.
    lost: AtomicU64,
    health: Mutex<Health>,
}

/// How the last lines went.
#[derive(Debug, Default)]
struct Health {
    /// Why they could not be written.
    fault: Option<String>,
    /// Since when some are being written.
    since: Option<Instant>,
}

#[derive(Debug)]
enum Order {
    Line(Box<Line>),
    /// Answer when everything before this is written.
    Flush(Sender<()>),
    /// Some events have no line.
    Lost,
}

impl Audit {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// There are no threads, or the system has no randomness.
    pub fn start(outlet: Outlet) -> anyhow::Result<Arc<Audit>> {
        let mut run = [0; 4];
        aws_lc_rs::rand::fill(&mut run).ok().context("the system has no randomness")?;
        let run = u32::from_be_bytes(run);
        // Its memory is that of what waits.
        let (orders, ordered) = unbounded();
        let (outlet, lost) = (Mutex::new(outlet), AtomicU64::new(0));
        let shared = Arc::new(Shared { outlet, lost, health: Mutex::default() });
        let writer = Arc::clone(&shared);
        thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.write_all(run, &ordered))
            .context("cannot start the thread that writes the audit")?;
        Ok(Arc::new(Audit { orders, shared, run }))
    }

    /// Goes on elsewhere, or in the same file opened again.
    pub fn replace(&self, outlet: Outlet) {
        *self.shared.outlet() = outlet;
    }

    /// The name that lines have for this connection.
    pub fn session(&self, link: u64) -> String {
        line::session(self.run, link)
    }

    /// Notes an event. Never waits.
    pub fn note(&self, by: Speaker, entry: Entry) {
        #[expect(clippy::disallowed_methods, reason = "an audit has the time of day")]
        let at = SystemTime::now();
        let line = Box::new(Line { at, by, entry });
        if self.orders.len() >= AUDIT_QUEUE_MAX || self.orders.try_send(Order::Line(line)).is_err()
        {
            self.lose(1);
        }
    }

    /// So many events have no line. That is told with the next lines, or without any.
    pub fn lose(&self, count: u64) {
        if self.shared.lost.fetch_add(count, Ordering::Relaxed) == 0 {
            let _ = self.orders.try_send(Order::Lost);
        }
    }

    /// Waits until what was noted is written, but not for a log that stands still.
    pub fn flush(&self) {
        let (done, told) = bounded(1);
        if self.orders.send_timeout(Order::Flush(done), PATIENCE).is_ok() {
            let _ = told.recv_timeout(PATIENCE);
        }
    }
}

impl Auditor for Audit {
    fn note(&self, entry: Entry) {
        self.note(Speaker::Gateway, entry);
    }

    fn trouble(&self) -> Option<String> {
        let health = self.shared.health();
        if let Some(why) = &health.fault {
            return Some(why.clone());
        }
        let still = |since| reactor::now().since(since) >= AUDIT_STILL_TIME_MAX;
        if health.since.is_some_and(still) {
            return Some("it stands still".to_owned());
        }
        // Some have no line, and the one that says so is not written yet.
        (self.shared.lost.load(Ordering::Relaxed) > 0).then(|| "it is behind".to_owned())
    }
}

impl Shared {
    fn outlet(&self) -> MutexGuard<'_, Outlet> {
        self.outlet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, run: u32, orders: &Receiver<Order>) {
        let mut works = true;
        for order in orders {
            let (mut lines, mut waiting) = (Vec::new(), Vec::new());
            // Bounded: whoever notes as fast as this takes would have it gather lines for ever.
            for order in std::iter::once(order).chain(orders.try_iter()).take(AUDIT_QUEUE_MAX) {
                match order {
                    Order::Line(line) => lines.push(*line),
                    Order::Flush(done) => waiting.push(done),
                    Order::Lost => {}
                }
            }
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                #[expect(clippy::disallowed_methods, reason = "an audit has the time of day")]
                let at = SystemTime::now();
                lines.push(Line { at, by: Speaker::Gateway, entry: Entry::lost(lost) });
            }
            let texts: Vec<String> = lines.iter().map(|line| line.text(run)).collect();
            self.health().since = Some(reactor::now());
            let written = self.outlet().write(&lines, &texts);
            let fault = written.as_ref().err().map(|(_, why)| why.to_string());
            *self.health() = Health { fault, since: None };
            match written {
                Ok(()) => works = true,
                Err((unwritten, why)) => {
                    // What says how many were lost was lost too.
                    self.lost.fetch_add(unwritten as u64 + lost, Ordering::Relaxed);
                    if std::mem::replace(&mut works, false) {
                        error!(%why, "TidegateAuditLog: lines are lost: {why}");
                    }
                }
            }
            for done in waiting {
                let _ = done.send(());
            }
            thread::sleep(REST);
        }
    }
}

/// Has the process that listens write.
pub struct Remote {
    messenger: Arc<Messenger>,
    /// The message that carries an event.
    message: fn(Entry) -> Vec<u8>,
    lost: AtomicU64,
}

impl Remote {
    pub fn new(messenger: &Arc<Messenger>, message: fn(Entry) -> Vec<u8>) -> Remote {
        Remote { messenger: Arc::clone(messenger), message, lost: AtomicU64::new(0) }
    }

    /// The same where there is an audit.
    pub fn wanted(
        config: &Config,
        messenger: &Arc<Messenger>,
        message: fn(Entry) -> Vec<u8>,
    ) -> Option<Arc<dyn Auditor>> {
        let wanted = config.global.audit_log != AuditLog::None;
        wanted.then(|| Arc::new(Remote::new(messenger, message)) as Arc<dyn Auditor>)
    }

    fn send(&self, entry: Entry) -> bool {
        self.messenger.try_send(&(self.message)(entry), None).is_ok()
    }
}

impl Auditor for Remote {
    fn note(&self, entry: Entry) {
        self.tell_losses();
        let unsent = u64::from(!self.send(entry));
        self.lost.fetch_add(unsent, Ordering::Relaxed);
    }

    fn tell_losses(&self) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 && !self.send(Entry::lost(lost)) {
            self.lost.fetch_add(lost, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::config::Facility;

    fn entry(number: u64) -> Entry {
        Entry::new(Event::File, number, NOBODY).text(Field::Path, "/x")
    }

    #[test]
    fn a_log_that_stands_still_holds_nobody_up_and_what_is_lost_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit");
        let outlet =
            || Outlet::open(&AuditLog::File(path.clone()), Facility::Auth).expect("a file");
        let audit = Audit::start(outlet()).expect("an audit");
        let held = audit.shared.outlet();
        let count = 3 * AUDIT_QUEUE_MAX as u64;
        (0..count).for_each(|number| audit.note(Speaker::Edge, entry(number)));
        drop(held);
        audit.flush();
        audit.note(Speaker::Gateway, entry(count));
        audit.flush();
        let text = std::fs::read_to_string(&path).expect("lines");
        let (mut written, mut lost) = (0, 0);
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            match line["event"].as_str() {
                Some("lost") => lost += line["count"].as_u64().expect("a count"),
                _ => written += 1,
            }
        }
        assert_eq!(written + lost, count + 1);
        assert!(lost >= count - 2 * AUDIT_QUEUE_MAX as u64, "{lost}");

        // Whoever rotates it moves it away and has it opened again.
        std::fs::rename(&path, folder.path().join("old")).expect("moved");
        audit.replace(outlet());
        audit.note(Speaker::Gateway, entry(7));
        audit.flush();
        let text = std::fs::read_to_string(&path).expect("lines");
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn a_process_that_is_not_heard_counts() {
        let (ours, theirs) = Messenger::pair().expect("a pair");
        let message = |entry: Entry| {
            let mut out = Vec::new();
            entry.encode(&mut out);
            out
        };
        let remote = Remote::new(&Arc::new(ours), message);
        let sent = (0..u64::MAX)
            .find(|number| {
                remote.note(entry(*number));
                remote.lost.load(Ordering::Relaxed) > 0
            })
            .expect("full");
        remote.note(entry(0));
        let mut buffer = [0; 4096];
        for _ in 0..sent {
            theirs.receive(&mut buffer).expect("an entry");
        }
        remote.note(entry(0));
        assert_eq!(remote.lost.load(Ordering::Relaxed), 0);
        let (len, _) = theirs.receive(&mut buffer).expect("an entry");
        let told = Entry::decode(&mut crate::wire::Reader::new(&buffer[..len]));
        assert_eq!(told, Ok(Entry::lost(2)));
    }
}
