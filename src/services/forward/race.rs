use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::base::Instant;
use crate::limits::{CONNECT_STAGGER_TIME, CONNECT_TIME_MAX, CONNECTS_AT_ONCE_MAX};

/// Attempts to connect to one of several addresses (RFC 8305 §5): the next begins when one has failed
/// or has not succeeded for a moment, and the first that succeeds wins.
#[derive(Debug)]
pub(super) struct Race {
    /// To be tried, in this order.
    rest: VecDeque<SocketAddr>,
    running: Vec<Attempt>,
    /// When the next begins; `None`: when one of those that run has failed.
    next_at: Option<Instant>,
    /// Attempts that have begun; they are numbered by it.
    begun: u16,
}

#[derive(Debug)]
struct Attempt {
    number: u16,
    at: SocketAddr,
    deadline: Instant,
    /// It was told to end, and has not ended.
    late: bool,
}

impl Race {
    pub fn new(addresses: Vec<SocketAddr>, now: Instant) -> Race {
        Race { rest: addresses.into(), running: Vec::new(), next_at: Some(now), begun: 0 }
    }

    /// An attempt that is to begin now, and its number.
    pub fn next(&mut self, now: Instant) -> Option<(u16, SocketAddr)> {
        self.next_at.filter(|at| *at <= now)?;
        self.next_at = None;
        let at = self.rest.pop_front()?;
        let number = self.begun;
        self.begun += 1;
        let deadline = now.after(CONNECT_TIME_MAX);
        self.running.push(Attempt { number, at, deadline, late: false });
        self.plan_next(now.after(CONNECT_STAGGER_TIME));
        Some((number, at))
    }

    /// An attempt whose time is over: it is to be cancelled.
    pub fn next_late(&mut self, now: Instant) -> Option<u16> {
        let attempt = self.running.iter_mut().find(|one| one.deadline <= now && !one.late)?;
        attempt.late = true;
        Some(attempt.number)
    }

    /// An attempt has ended without a connection: where it led, and whether its time was over.
    pub fn failed(&mut self, number: u16, now: Instant) -> Option<(SocketAddr, bool)> {
        let place = self.running.iter().position(|one| one.number == number)?;
        let Attempt { at, late, .. } = self.running.swap_remove(place);
        self.plan_next(now);
        Some((at, late))
    }

    /// Nothing runs and nothing is left.
    pub fn is_lost(&self) -> bool {
        self.running.is_empty() && self.rest.is_empty()
    }

    /// The attempts that run.
    pub fn running(&self) -> impl Iterator<Item = u16> {
        self.running.iter().map(|one| one.number)
    }

    /// When something of it is due.
    pub fn wake_at(&self) -> Option<Instant> {
        let deadlines = self.running.iter().filter(|one| !one.late).map(|one| one.deadline);
        deadlines.chain(self.next_at).min()
    }

    fn plan_next(&mut self, at: Instant) {
        let room = self.running.len() < CONNECTS_AT_ONCE_MAX;
        self.next_at = (room && !self.rest.is_empty()).then_some(at);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn addresses(count: u8) -> Vec<SocketAddr> {
        (0..count).map(|n| SocketAddr::from(([192, 0, 2, n], 1))).collect()
    }

    fn start() -> Instant {
        Instant::from_nanos(1_000_000_000)
    }

    /// What begins at this time, and when something is due then.
    fn begun(race: &mut Race, now: Instant) -> Vec<u16> {
        let mut begun = Vec::new();
        while let Some((number, _)) = race.next(now) {
            begun.push(number);
        }
        begun
    }

    #[test]
    fn attempts_are_staggered_and_bounded() {
        let mut race = Race::new(addresses(8), start());
        let mut now = start();
        for n in 0..CONNECTS_AT_ONCE_MAX as u16 {
            assert_eq!(begun(&mut race, now), [n], "one at a time");
            let early = now.after(CONNECT_STAGGER_TIME - Duration::from_millis(1));
            assert_eq!(begun(&mut race, early), Vec::<u16>::new(), "none before its time");
            now = now.after(CONNECT_STAGGER_TIME);
        }
        assert_eq!(
            begun(&mut race, now.after(Duration::from_secs(1))),
            Vec::<u16>::new(),
            "no more at once"
        );
        assert_eq!(race.running().count(), CONNECTS_AT_ONCE_MAX);
    }

    #[test]
    fn a_failure_begins_the_next_at_once() {
        let mut race = Race::new(addresses(3), start());
        assert_eq!(begun(&mut race, start()), [0]);
        let now = start().after(Duration::from_millis(1));
        assert_eq!(race.failed(0, now), Some((addresses(1)[0], false)));
        assert_eq!(race.failed(0, now), None);
        assert_eq!(begun(&mut race, now), [1]);
        race.failed(1, now);
        assert_eq!(begun(&mut race, now), [2]);
        assert!(!race.is_lost());
        race.failed(2, now);
        assert!(race.is_lost());
        assert_eq!(race.wake_at(), None);
    }

    #[test]
    fn what_does_not_answer_is_given_up() {
        let mut race = Race::new(addresses(1), start());
        assert_eq!(begun(&mut race, start()), [0]);
        let end = start().after(CONNECT_TIME_MAX);
        assert_eq!((race.wake_at(), race.next_late(start())), (Some(end), None));
        assert_eq!((race.next_late(end), race.next_late(end)), (Some(0), None));
        assert_eq!(race.wake_at(), None, "its end is awaited");
        assert_eq!(race.failed(0, end), Some((addresses(1)[0], true)));
        assert!(race.is_lost());
        assert!(Race::new(Vec::new(), start()).is_lost());
    }
}
