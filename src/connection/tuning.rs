//! How large a receive window should be: as much as the peer can have on its way. A window that is
//! too small shows by itself, for then the peer waits for every grant, and a larger window does not
//! make it take longer until a grant is used. From far away it shows sooner: nearly all of it comes in
//! less time than a grant takes to be used.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::window::RecvWindow;
use crate::base::Instant;
use crate::limits::{WINDOW_BUDGET_BYTES, WINDOW_FAR_TIMES, WINDOW_TURN_FAR, WINDOW_TURN_MIN};

/// What all windows of a process may grow by together, in bytes: what was granted may come, and is
/// memory if it cannot be written at once.
#[derive(Debug)]
pub struct WindowBudget {
    /// Negative where connections came with windows that had grown elsewhere.
    left: AtomicI64,
}

impl WindowBudget {
    pub fn new(bytes: u64) -> WindowBudget {
        WindowBudget { left: AtomicI64::new(i64::try_from(bytes).unwrap_or(i64::MAX)) }
    }

    /// Bytes that nobody has.
    pub fn left(&self) -> u64 {
        u64::try_from(self.left.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Up to `want` bytes, and at most half of what is left: somebody else may need some too.
    fn take(&self, want: u32) -> u32 {
        let taken = |left: i64| i64::from(want).min(left / 2).max(0);
        let before = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left - taken(left)));
        taken(before.unwrap_or(0)) as u32
    }

    fn insist(&self, bytes: u32) {
        self.left.fetch_sub(bytes.into(), Ordering::Relaxed);
    }

    fn give_back(&self, bytes: u32) {
        self.left.fetch_add(bytes.into(), Ordering::Relaxed);
    }
}

impl Default for WindowBudget {
    fn default() -> WindowBudget {
        WindowBudget::new(WINDOW_BUDGET_BYTES)
    }
}

/// What one connection has of the budget; it goes back with the value.
#[derive(Debug, Default)]
pub(super) struct Share {
    budget: Arc<WindowBudget>,
    taken: u32,
}

impl Share {
    pub(super) const fn new(budget: Arc<WindowBudget>) -> Share {
        Share { budget, taken: 0 }
    }

    /// Up to `want` bytes, and never more than `max` in all.
    pub(super) fn take(&mut self, want: u32, max: u32) -> u32 {
        let taken = self.budget.take(want.min(max.saturating_sub(self.taken)));
        self.taken += taken;
        taken
    }

    /// `bytes` that the peer knows of already, whatever is left.
    pub(super) fn insist(&mut self, bytes: u32) {
        self.taken += bytes;
        self.budget.insist(bytes);
    }

    pub(super) fn give_back(&mut self, bytes: u32) {
        let bytes = bytes.min(self.taken);
        self.taken -= bytes;
        self.budget.give_back(bytes);
    }

    #[cfg(test)]
    pub(super) const fn taken(&self) -> u32 {
        self.taken
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back(self.taken);
    }
}

/// Watches how long grants take until they are used.
#[derive(Debug)]
pub(super) struct Tuning {
    /// The window that the channel began with. What it has more is of the budget.
    floor: u32,
    /// Where it is to be; above the present window only for a moment.
    goal: u32,
    probe: Option<Probe>,
    /// The quickest use of a grant: the way there and back, or longer.
    quickest: Duration,
    /// What has come since, for no longer than half of that.
    burst: (Instant, u32),
}

/// A grant whose use is waited for.
#[derive(Debug)]
struct Probe {
    at: Instant,
    /// What the peer could send without it and has not sent yet.
    left: u32,
}

impl Tuning {
    pub(super) const fn new(floor: u32) -> Tuning {
        let burst = (Instant::ZERO, 0);
        Tuning { floor, goal: floor, probe: None, quickest: Duration::MAX, burst }
    }

    /// What the window has of the budget.
    pub(super) const fn of_budget(&self, window: &RecvWindow) -> u32 {
        window.target().saturating_sub(self.floor)
    }

    /// Much is about to come from a peer that is `turn` away, there and back. Answers how many bytes it is to be
    /// granted beside what it has: some where that is far, and the window is as it was at first.
    pub(super) fn expect(
        &mut self,
        turn: Duration,
        (max, link_max): (u32, u32),
        (window, share): (&mut RecvWindow, &mut Share),
    ) -> u32 {
        self.quickest = self.quickest.min(turn);
        let target = window.target();
        if turn < WINDOW_TURN_FAR || target > self.floor {
            return 0;
        }
        let goal = target.saturating_mul(WINDOW_FAR_TIMES).min(max);
        let more = share.take(goal.saturating_sub(target), link_max);
        window.widen(more);
        self.goal = window.target();
        self.probe = None;
        more
    }

    /// Data of one packet has come.
    pub(super) fn received(&mut self, bytes: u32, window: &RecvWindow, now: Instant) {
        if self.fills(bytes, window, now) {
            self.goal = window.target().saturating_mul(WINDOW_FAR_TIMES);
            self.probe = None;
            return;
        }
        let Some(probe) = &mut self.probe else { return };
        if bytes <= probe.left {
            probe.left -= bytes;
            return;
        }
        let turn = now.since(probe.at);
        self.probe = None;
        let is_first = self.quickest == Duration::MAX;
        self.quickest = self.quickest.min(turn);
        let target = window.target();
        // Twice the window takes the peer twice as long unless it waits for grants. What we are slow
        // at ourselves, no window makes faster.
        let waits = turn >= WINDOW_TURN_MIN && turn < self.quickest.saturating_mul(3) / 2;
        if waits && window.held() <= target / 2 {
            // The first look may be at a peer that is slow, not far away.
            let times = match turn >= WINDOW_TURN_FAR {
                true if is_first => WINDOW_FAR_TIMES / 2,
                true => WINDOW_FAR_TIMES,
                false => 2,
            };
            self.goal = target.saturating_mul(times);
        } else if turn > self.quickest.saturating_mul(4) {
            self.goal = (target / 2).max(self.floor);
        }
    }

    /// A peer that is known to be far away has sent most of its window long before any grant of it can have been
    /// there. In half the time: a slow peer may have been taken for one that is so far away that it takes all.
    fn fills(&mut self, bytes: u32, window: &RecvWindow, now: Instant) -> bool {
        if self.quickest == Duration::MAX || self.quickest < WINDOW_TURN_FAR {
            return false;
        }
        let (since, before) = self.burst;
        let goes_on = now.since(since) < self.quickest / 2;
        let came = if goes_on { before.saturating_add(bytes) } else { bytes };
        self.burst = (if goes_on { since } else { now }, came);
        let target = window.target();
        let fills = came >= target / 4 * 3 && self.goal <= target && window.held() <= target / 2;
        if fills {
            self.burst = (now, 0);
        }
        fills
    }

    /// `bytes` are granted again. Answers how many the peer is told of: more where the window grows,
    /// up to `max`; fewer where it shrinks.
    pub(super) fn granted(
        &mut self,
        bytes: u32,
        max: u32,
        link_max: u32,
        (window, share): (&mut RecvWindow, &mut Share),
        now: Instant,
    ) -> u32 {
        let target = window.target();
        let mut told = bytes;
        if self.goal > target {
            let more = self.goal.min(max).saturating_sub(target);
            let more = share.take(more, link_max);
            window.widen(more);
            told += more;
            self.goal = window.target();
            if more > 0 {
                // The next grant is the first whose use the new window lengthens.
                return told;
            }
        } else if self.goal < target {
            let fewer = window.narrow(bytes.min(target - self.goal));
            share.give_back(fewer);
            told -= fewer;
        }
        if self.probe.is_none() && told > 0 {
            self.probe = Some(Probe { at: now, left: window.granted() - told });
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const PACKET: u32 = 32 << 10;
    const FLOOR: u32 = 2 << 20;
    const MIB: u32 = 1 << 20;

    /// A peer that sends whenever it may, over a path with a delay and a rate.
    struct Path {
        window: RecvWindow,
        tuning: Tuning,
        share: Share,
        now: Instant,
        /// Grants on their way to the peer, and packets on their way to us.
        grants: VecDeque<(Instant, u32)>,
        packets: VecDeque<(Instant, u32)>,
        credit: u32,
        sent_at: Instant,
        received: u64,
    }

    impl Path {
        fn new(budget: &Arc<WindowBudget>) -> Path {
            Path {
                window: RecvWindow::new(FLOOR, PACKET),
                tuning: Tuning::new(FLOOR),
                share: Share::new(Arc::clone(budget)),
                now: Instant::from_nanos(1),
                grants: VecDeque::new(),
                packets: VecDeque::new(),
                credit: FLOOR,
                sent_at: Instant::ZERO,
                received: 0,
            }
        }

        fn expect(&mut self, turn: Duration, max: u32) -> u32 {
            let both = (&mut self.window, &mut self.share);
            let more = self.tuning.expect(turn, (max, u32::MAX), both);
            self.credit += more;
            more
        }

        /// Lets `time` pass in which the peer sends `rate` bytes a second at most.
        fn run(&mut self, time: Duration, each_way: Duration, rate: u64, max: u32) {
            let end = self.now.after(time);
            while self.now < end {
                self.now = self.now.after(Duration::from_micros(100));
                while let Some((at, bytes)) = self.grants.front().copied()
                    && at <= self.now
                {
                    self.grants.pop_front();
                    self.credit += bytes;
                }
                self.sent_at =
                    self.sent_at.max(Instant::from_nanos(self.now.nanos().saturating_sub(100_000)));
                while self.credit >= PACKET && self.sent_at <= self.now {
                    self.credit -= PACKET;
                    let carried = u64::from(PACKET) * 1_000_000_000 / rate;
                    self.sent_at = self.sent_at.after(Duration::from_nanos(carried));
                    self.packets.push_back((self.sent_at.after(each_way), PACKET));
                }
                while let Some((at, bytes)) = self.packets.front().copied()
                    && at <= self.now
                {
                    self.packets.pop_front();
                    self.window.receive(bytes).expect("within the window");
                    self.tuning.received(bytes, &self.window, self.now);
                    self.received += u64::from(bytes);
                    let Some(grant) = self.window.consume(bytes) else { continue };
                    let both = (&mut self.window, &mut self.share);
                    let told = self.tuning.granted(grant, max, u32::MAX, both, self.now);
                    self.grants.push_back((self.now.after(each_way), told));
                    assert!(self.window.target() <= max.max(FLOOR));
                    assert_eq!(self.share.taken(), self.window.target() - FLOOR);
                }
            }
        }
    }

    const SECOND: Duration = Duration::from_secs(1);
    const FAR: Duration = Duration::from_millis(100);

    #[test]
    fn a_long_pipe_is_filled_up_to_the_maximum() {
        let budget = Arc::new(WindowBudget::default());
        let mut path = Path::new(&budget);
        path.run(5 * SECOND, FAR, 1 << 30, 15 * MIB);
        assert_eq!(path.window.target(), 15 * MIB);
        let before = path.received;
        path.run(2 * SECOND, FAR, 1 << 30, 15 * MIB);
        // Fifteen MiB each 200 ms, where two were before.
        assert!((path.received - before) / u64::from(MIB) >= 130, "{}", path.received - before);
        drop(path);
        assert_eq!(budget.left(), WINDOW_BUDGET_BYTES);
    }

    /// The first look takes a turn, and so does the first try; that it is too small shows as it comes.
    #[test]
    fn a_window_from_far_away_has_grown_after_few_turns() {
        let budget = Arc::new(WindowBudget::default());
        let mut path = Path::new(&budget);
        path.run(11 * FAR / 2, FAR, 1 << 32, 64 * MIB);
        assert_eq!(path.window.target(), 64 * MIB);
        let mut near = Path::new(&budget);
        near.run(9 * FAR / 10, FAR / 10, 1 << 32, 64 * MIB);
        assert!(near.window.target() > FLOOR && near.window.target() < 64 * MIB);
    }

    /// What is known of the way and of what is to come saves the look and a try.
    #[test]
    fn what_is_expected_from_far_away_need_not_wait_for_its_window() {
        let budget = Arc::new(WindowBudget::default());
        let mut path = Path::new(&budget);
        path.expect(2 * FAR, 64 * MIB);
        assert_eq!(path.window.target(), FLOOR * WINDOW_FAR_TIMES);
        assert_eq!(path.expect(2 * FAR, 64 * MIB), 0, "once");
        path.run(7 * FAR / 2, FAR, 1 << 32, 64 * MIB);
        assert_eq!(path.window.target(), 64 * MIB);
        assert!(path.received >= u64::from(64 * MIB), "{}", path.received);
        // A line that needs no more than there was gives it back, and one that is near gets nothing.
        let mut slow = Path::new(&budget);
        slow.expect(2 * FAR, 64 * MIB);
        slow.run(20 * SECOND, FAR, 4 << 20, 64 * MIB);
        assert!(slow.window.target() <= 2 * FLOOR, "{}", slow.window.target());
        let mut near = Path::new(&budget);
        assert_eq!(near.expect(WINDOW_TURN_FAR - Duration::from_nanos(1), 64 * MIB), 0);
        // Nor does anybody who is expected pass what is left.
        let little = Arc::new(WindowBudget::new(2 * u64::from(MIB)));
        assert_eq!(Path::new(&little).expect(2 * FAR, 64 * MIB), MIB);
    }

    #[test]
    fn a_window_that_does_not_help_stays_and_an_idle_one_shrinks() {
        let budget = Arc::new(WindowBudget::default());
        // 10 MiB a second over 20 ms need 200 KiB: the first look may cost a doubling.
        let mut path = Path::new(&budget);
        path.run(5 * SECOND, Duration::from_millis(10), 10 << 20, 64 * MIB);
        assert!(path.window.target() <= 2 * FLOOR, "{}", path.window.target());
        // And a fast line without delay never grows.
        let mut near = Path::new(&budget);
        near.run(SECOND, Duration::from_micros(50), 2 << 30, 64 * MIB);
        assert_eq!(near.window.target(), FLOOR);
        // A peer that came to fill a long pipe and then sends a tenth.
        let mut path = Path::new(&budget);
        path.run(5 * SECOND, FAR, 1 << 30, 64 * MIB);
        assert_eq!(path.window.target(), 64 * MIB);
        path.run(120 * SECOND, FAR, 4 << 20, 64 * MIB);
        assert!(path.window.target() <= 4 * FLOOR, "{}", path.window.target());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever comes when, no window passes its maximum and all together never the budget.
        #[test]
        fn windows_stay_within_maximum_and_budget(
            steps in prop::collection::vec((0usize..3, any::<u16>(), any::<u32>()), 1..300),
            max in FLOOR..64 * MIB,
            budget in 0u64..64 << 20,
        ) {
            let shared = Arc::new(WindowBudget::new(budget));
            let mut paths: Vec<Path> = (0..3).map(|_| Path::new(&shared)).collect();
            let mut now = Instant::from_nanos(1);
            for (which, packets, pause) in steps {
                now = now.after(Duration::from_micros(u64::from(pause >> 12)));
                let path = &mut paths[which];
                if packets % 5 == 0 {
                    let turn = Duration::from_micros(u64::from(pause));
                    let both = (&mut path.window, &mut path.share);
                    path.tuning.expect(turn, (max, 32 * MIB), both);
                }
                for _ in 0..packets % 128 {
                    if path.window.receive(PACKET).is_err() {
                        break;
                    }
                    path.tuning.received(PACKET, &path.window, now);
                    if let Some(grant) = path.window.consume(PACKET) {
                        let both = (&mut path.window, &mut path.share);
                        path.tuning.granted(grant, max, 32 * MIB, both, now);
                    }
                }
                let grown: u64 = paths.iter().map(|p| u64::from(p.window.target() - FLOOR)).sum();
                prop_assert_eq!(grown + shared.left(), budget);
                prop_assert!(paths.iter().all(|p| p.window.target() <= max));
                prop_assert!(paths.iter().all(|p| p.window.target() - FLOOR <= 32 * MIB));
            }
            drop(paths);
            prop_assert_eq!(shared.left(), budget);
        }
    }
}
