//! Somebody types through a proxy: what is passed on to a host is answered by it at once. A reactor
//! that goes to sleep in between makes both wait for a CPU to wake up, which takes longer than all that
//! it does with the answer. So where a host has answered fast, the reactor looks for the next answer
//! before it sleeps, in bounds.

use super::*;
use crate::limits::{ANSWER_SAVINGS, ANSWER_SHARE, ANSWER_TIME};

/// How fast the host at the other end of a link answers.
#[derive(Debug, Default)]
pub(super) struct HostPace {
    asked_at: Option<Instant>,
    /// The last answer came within [`ANSWER_TIME`].
    fast: bool,
}

impl HostPace {
    /// Something small is passed on to it.
    pub fn asked(&mut self, now: Instant) {
        self.asked_at.get_or_insert(now);
    }

    /// Something has come from it. Whether it was asked.
    pub fn answered(&mut self, now: Instant) -> bool {
        let Some(asked_at) = self.asked_at.take() else { return false };
        self.fast = now.since(asked_at) <= ANSWER_TIME;
        true
    }
}

/// The answer that a reactor looks for, and the time that it may look.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The link that it comes on, and until when.
    from: Option<(u32, Instant)>,
    /// When a wait began that looks.
    looks_since: Option<Instant>,
    savings: Duration,
    saved_at: Instant,
}

impl Answers {
    /// Looks from now on, if there is time for it.
    fn look(&mut self, key: u32, now: Instant) {
        let earned = now.since(self.saved_at) / ANSWER_SHARE;
        self.savings = self.savings.saturating_add(earned).min(ANSWER_SAVINGS);
        self.saved_at = now;
        if self.savings >= ANSWER_TIME {
            self.from = Some((key, now.after(ANSWER_TIME)));
        }
    }

    fn left(&mut self, now: Instant) -> Option<Duration> {
        let (_, until) = self.from?;
        let left = until.since(now);
        if left.is_zero() {
            self.from = None;
            return None;
        }
        self.looks_since = Some(now);
        Some(left)
    }

    fn looked(&mut self, now: impl FnOnce() -> Instant) {
        if let Some(since) = self.looks_since.take() {
            let took = now().since(since).min(ANSWER_TIME);
            self.savings = self.savings.saturating_sub(took);
        }
    }

    pub fn has_come(&mut self, key: u32) {
        self.from = self.from.filter(|(from, _)| *from != key);
    }
}

impl<D: Driver, O: Outside> Shard<D, O> {
    /// What came on a link and is no part of a stream is about to be passed on to a host.
    pub(super) fn await_answer(&mut self, key: u32) {
        let relay = self.links.get(key as usize).and_then(|link| link.relay.as_ref());
        let Some(host) = relay.filter(|relay| relay.is_down()).and_then(|relay| relay.other) else {
            return;
        };
        let now = self.driver.now();
        let Some(link) = self.links.get_mut(host as usize) else { return };
        link.pace.asked(now);
        if link.pace.fast {
            self.answers.look(host, now);
        }
    }

    /// Before each wait.
    pub(super) fn expect_answer(&mut self) {
        if self.answers.from.is_some() {
            let now = self.driver.now();
            if let Some(left) = self.answers.left(now) {
                self.driver.expect(left);
            }
        }
    }

    /// After it.
    pub(super) fn answer_over(&mut self) {
        let driver = &self.driver;
        self.answers.looked(|| driver.now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_fast_while_it_answers_in_time() {
        let (mut pace, start) = (HostPace::default(), Instant::default());
        assert!(!pace.answered(start), "it was not asked");
        for (after, fast) in [
            (ANSWER_TIME, true),
            (ANSWER_TIME + Duration::from_nanos(1), false),
            (Duration::ZERO, true),
        ] {
            pace.asked(start);
            pace.asked(start.after(ANSWER_TIME));
            assert!(pace.answered(start.after(after)));
            assert_eq!(pace.fast, fast, "{after:?}");
        }
    }

    #[test]
    fn a_reactor_looks_for_its_share_of_the_time() {
        let (mut answers, mut now) = (Answers::default(), Instant::default());
        let (begun, mut looked) = (now, Duration::ZERO);
        for _ in 0..10_000 {
            answers.look(7, now);
            if let Some(left) = answers.left(now) {
                assert!(left <= ANSWER_TIME);
                now = now.after(left);
                answers.looked(|| now);
                looked += left;
            }
            now = now.after(Duration::from_micros(50));
        }
        let share = now.since(begun) / ANSWER_SHARE;
        assert!(looked <= share && looked >= share / 2, "{looked:?} of {share:?}");
    }

    #[test]
    fn it_stops_when_the_answer_has_come_or_time_is_over() {
        let mut answers = Answers { savings: ANSWER_SAVINGS, ..Answers::default() };
        let now = Instant::default();
        answers.look(7, now);
        answers.has_come(8);
        assert_eq!(answers.left(now.after(ANSWER_TIME / 2)), Some(ANSWER_TIME / 2));
        answers.has_come(7);
        assert_eq!(answers.left(now), None);
        answers.look(7, now);
        assert_eq!(answers.left(now.after(ANSWER_TIME)), None);
        assert_eq!(answers.left(now), None);
    }
}
