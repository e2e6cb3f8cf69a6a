//! How many connections were turned away, told once a second: a storm of them must not become a
//! storm of log lines.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::info;

/// Counts of a process's dropped connections since they were last told.
#[derive(Debug, Default)]
pub struct Drops(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// By reason; a closed set of texts.
    by_reason: BTreeMap<&'static str, u64>,
    last: Option<IpAddr>,
}

/// What was turned away, for the log.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    by_reason: BTreeMap<&'static str, u64>,
    /// The last one's address, if it had one.
    last: Option<IpAddr>,
}

impl Drops {
    /// One more connection of this peer was turned away.
    pub fn count(&self, reason: &'static str, peer: Option<IpAddr>) {
        let mut counts = self.counts();
        *counts.by_reason.entry(reason).or_default() += 1;
        counts.last = peer.or(counts.last);
    }

    /// What was counted since the last call; `None`: nothing.
    pub fn take(&self) -> Option<Told> {
        let Counts { by_reason, last } = std::mem::take(&mut *self.counts());
        (!by_reason.is_empty()).then_some(Told { by_reason, last })
    }

    pub fn is_empty(&self) -> bool {
        self.counts().by_reason.is_empty()
    }

    /// One line about all connections that were turned away since the last.
    pub fn tell(&self) {
        if let Some(told) = self.take() {
            let count = told.total();
            info!(count, "Turned {count} connections away: {told}");
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    pub fn total(&self) -> u64 {
        self.by_reason.values().sum()
    }
}

impl fmt::Display for Told {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (reason, count)) in self.by_reason.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(out, "{comma}{count} for {reason}")?;
        }
        self.last.map_or(Ok(()), |last| write!(out, "; the last from {last}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_counted_and_told_once() {
        let drops = Drops::default();
        assert_eq!(drops.take(), None);
        for n in 0..1000u32 {
            let peer = IpAddr::from([192, 0, 2, (n % 256) as u8]);
            drops.count(["MaxStartups", "PerSourcePenalties"][n as usize % 2], Some(peer));
        }
        drops.count("MaxStartups", None);
        let told = drops.take().expect("something");
        assert_eq!(told.total(), 1001);
        let text = "501 for MaxStartups, 500 for PerSourcePenalties; the last from 192.0.2.231";
        assert_eq!(told.to_string(), text);
        assert_eq!(drops.take(), None);
    }
}
