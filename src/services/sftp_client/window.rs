//! How much may be under way, and what of a file is still to be asked for. No I/O.

use std::time::Duration;

use crate::limits::{
    COPY_IN_FLIGHT_BYTES_DEEP, COPY_IN_FLIGHT_BYTES_MAX, COPY_IN_FLIGHT_BYTES_START,
    COPY_STEP_BYTES,
};

/// Bytes of files that are asked for, or sent, and not answered yet.
///
/// What is sent is bounded by the window of the server's channel, which grows as the server finds right.
/// What is asked for has a bound that follows rate x delay without a look at either: as long as an answer takes
/// less than thrice the shortest that was seen, the way is not full, and the bound grows by twice what was
/// answered. So it is ahead of our channel's window, which grows beside it. More than that would only wait in
/// the server's queue.
#[derive(Debug)]
pub struct Window {
    /// Neither is more than this.
    most: u32,
    asked_max: u32,
    asked: u32,
    sent: u32,
    shortest: Option<Duration>,
    /// The bound was reached, and less than [`COPY_STEP_BYTES`] have been answered since.
    rests: bool,
    /// The bound has held something back since the last answer.
    full: bool,
}

impl Default for Window {
    fn default() -> Window {
        Window {
            most: COPY_IN_FLIGHT_BYTES_MAX,
            asked_max: COPY_IN_FLIGHT_BYTES_START,
            asked: 0,
            sent: 0,
            shortest: None,
            rests: false,
            full: false,
        }
    }
}

impl Window {
    /// Lets more be under way: holes of an interrupted copy are found by hashes.
    pub const fn deepen(&mut self) {
        self.most = COPY_IN_FLIGHT_BYTES_DEEP;
    }

    /// There is room for another READ; the last one may go past the bound.
    pub const fn may_ask(&mut self) -> bool {
        if self.asked >= self.asked_max {
            self.rests = true;
        } else if self.asked_max - self.asked >= COPY_STEP_BYTES {
            self.rests = false;
        }
        self.full |= self.rests;
        !self.rests
    }

    /// There is room for another WRITE beside `planned` bytes.
    pub const fn may_send(&self, planned: u32) -> bool {
        self.sent.saturating_add(planned) < self.most
    }

    /// Bytes that the server owes.
    pub const fn owed(&self) -> u32 {
        self.asked
    }

    pub const fn ask(&mut self, bytes: u32) {
        self.asked = self.asked.saturating_add(bytes);
    }

    pub const fn send(&mut self, bytes: u32) {
        self.sent = self.sent.saturating_add(bytes);
    }

    /// So many bytes that were sent were answered.
    pub const fn confirmed(&mut self, bytes: u32) {
        self.sent = self.sent.saturating_sub(bytes);
    }

    /// So many bytes were answered that long after they had been asked for.
    pub fn answered(&mut self, bytes: u32, delay: Duration) {
        self.asked = self.asked.saturating_sub(bytes);
        let shortest = *self.shortest.get_or_insert(delay).min(&mut delay.clone());
        self.shortest = Some(shortest);
        if self.full && delay < shortest.saturating_mul(3) {
            let more = self.asked_max.saturating_add(bytes.saturating_mul(2));
            self.asked_max = more.min(self.most);
        }
        self.full = false;
    }

    #[cfg(test)]
    pub const fn asked_max(&self) -> u32 {
        self.asked_max
    }
}

/// What of `0..end` nobody has been asked for yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    next: u64,
    end: u64,
    /// What came short.
    again: Vec<(u64, u32)>,
}

impl Ranges {
    pub const fn new(end: u64) -> Ranges {
        Ranges { next: 0, end, again: Vec::new() }
    }

    /// The next piece, of `most` bytes at most. What came short comes first.
    pub fn take(&mut self, most: u32) -> Option<(u64, u32)> {
        if let Some((at, len)) = self.again.pop() {
            let part = len.min(most);
            if part < len {
                self.again.push((at + u64::from(part), len - part));
            }
            return Some((at, part));
        }
        let left = self.end.saturating_sub(self.next);
        let len = u32::try_from(left).unwrap_or(u32::MAX).min(most);
        if len == 0 {
            return None;
        }
        let at = self.next;
        self.next += u64::from(len);
        Some((at, len))
    }

    /// This part of a piece has not come.
    pub fn give_back(&mut self, at: u64, len: u32) {
        let room = self.end.saturating_sub(at);
        let len = u32::try_from(room).unwrap_or(u32::MAX).min(len);
        if len > 0 {
            self.again.push((at, len));
        }
    }

    /// There is nothing at this place, nor behind it.
    pub fn end_at(&mut self, at: u64) {
        self.end = self.end.min(at);
        self.next = self.next.min(self.end);
        let end = self.end;
        self.again.retain(|(from, _)| *from < end);
        for (from, len) in &mut self.again {
            *len = u32::try_from(end - *from).unwrap_or(u32::MAX).min(*len);
        }
    }

    pub fn is_spent(&self) -> bool {
        self.next >= self.end && self.again.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn the_window_grows_where_the_way_is_long_and_rests_where_it_is_full() {
        let [mut long, mut near, mut deep] = [(); 3].map(|()| Window::default());
        deep.deepen();
        for round in 0..1000 {
            for window in [&mut long, &mut near, &mut deep] {
                while window.may_ask() {
                    window.ask(1 << 18);
                }
            }
            long.answered(1 << 18, 100 * MILLI);
            deep.answered(1 << 18, 100 * MILLI);
            near.answered(1 << 18, if round == 0 { MILLI } else { 5 * MILLI });
        }
        assert_eq!(near.asked_max(), COPY_IN_FLIGHT_BYTES_START + (1 << 19));
        assert_eq!(long.asked_max(), COPY_IN_FLIGHT_BYTES_MAX);
        assert_eq!(deep.asked_max(), COPY_IN_FLIGHT_BYTES_DEEP);
    }

    #[test]
    fn reads_are_asked_for_several_at_a_time() {
        const READ: u32 = 1 << 18;
        let (mut window, mut asked) = (Window::default(), Vec::new());
        for round in 0..64 {
            let mut count = 0;
            while window.may_ask() {
                window.ask(READ);
                count += 1;
            }
            asked.push(count);
            // A way that is full: the bound stays.
            window.answered(READ, if round == 0 { MILLI } else { 5 * MILLI });
        }
        let later = asked.iter().skip(8).filter(|count| **count > 0);
        assert!(
            later.clone().count() > 8
                && later.into_iter().all(|count| count * READ == COPY_STEP_BYTES)
        );
        assert!(window.owed() > window.asked_max() - COPY_STEP_BYTES - READ, "much is under way");
    }

    #[test]
    fn what_is_sent_has_a_bound_of_its_own() {
        let mut window = Window::default();
        while window.may_send(1 << 18) {
            window.send(1 << 18);
        }
        assert_eq!(window.sent, COPY_IN_FLIGHT_BYTES_MAX - (1 << 18));
        assert!(window.may_ask(), "nothing was asked for");
        window.confirmed(1 << 18);
        assert!(window.may_send(1 << 18));
    }

    proptest! {
        /// Whatever comes short, every byte is asked for until it has come, and none beyond the end.
        #[test]
        fn every_byte_comes_once(
            end in 0u64..5000,
            most in 1u32..700,
            shorts in proptest::collection::vec(1u32..700, 1..200),
            cut in proptest::option::of(0u64..5000),
        ) {
            let mut ranges = Ranges::new(end);
            let mut seen = vec![0u8; end as usize];
            let file_end = cut.unwrap_or(end).min(end);
            let mut shorts = shorts.iter().cycle();
            while let Some((at, len)) = ranges.take(most) {
                prop_assert!(len <= most && at + u64::from(len) <= end);
                if at >= file_end {
                    ranges.end_at(at);
                    continue;
                }
                let there = u32::try_from(file_end - at).unwrap_or(u32::MAX);
                let got = len.min(*shorts.next().expect("a cycle")).min(there);
                for byte in &mut seen[at as usize..][..got as usize] {
                    *byte += 1;
                }
                ranges.give_back(at + u64::from(got), len - got);
            }
            prop_assert!(ranges.is_spent());
            prop_assert!(seen[..file_end as usize].iter().all(|times| *times == 1));
        }
    }
}
