//! How much may be under way, and what of a file is still to be asked for. No I/O.

use std::time::Duration;

use crate::limits::{COPY_IN_FLIGHT_BYTES_MAX, COPY_IN_FLIGHT_BYTES_START};

/// Bytes of files that are asked for, or sent, and not answered yet.
///
/// The bound follows rate x delay without a look at either: as long as an answer takes less than
/// twice the shortest that was seen, the way is not full, and what was answered is added to the
/// bound. More than that would only wait in the other side's queue.
#[derive(Debug)]
pub struct Window {
    bytes_max: u32,
    in_flight: u32,
    shortest: Option<Duration>,
    /// The bound has held something back since the last answer.
    full: bool,
}

impl Default for Window {
    fn default() -> Window {
        Window { bytes_max: COPY_IN_FLIGHT_BYTES_START, in_flight: 0, shortest: None, full: false }
    }
}

impl Window {
    /// There is room for another request; the last one may go past the bound.
    pub const fn has_room(&mut self, planned: u32) -> bool {
        let room = self.in_flight.saturating_add(planned) < self.bytes_max;
        self.full |= !room;
        room
    }

    pub const fn sent(&mut self, bytes: u32) {
        self.in_flight = self.in_flight.saturating_add(bytes);
    }

    /// So many bytes were answered that long after they had been sent.
    pub fn answered(&mut self, bytes: u32, delay: Duration) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
        let shortest = *self.shortest.get_or_insert(delay).min(&mut delay.clone());
        self.shortest = Some(shortest);
        if self.full && delay < shortest.saturating_mul(2) {
            let more = self.bytes_max.saturating_add(bytes);
            self.bytes_max = more.min(COPY_IN_FLIGHT_BYTES_MAX);
        }
        self.full = false;
    }

    #[cfg(test)]
    pub const fn bytes_max(&self) -> u32 {
        self.bytes_max
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
        let mut long = Window::default();
        let mut near = Window::default();
        for round in 0..100 {
            for window in [&mut long, &mut near] {
                while window.has_room(0) {
                    window.sent(1 << 18);
                }
            }
            long.answered(1 << 18, 100 * MILLI);
            near.answered(1 << 18, if round == 0 { MILLI } else { 5 * MILLI });
        }
        assert_eq!(near.bytes_max(), COPY_IN_FLIGHT_BYTES_START + (1 << 18));
        assert!(long.bytes_max() >= 5 * COPY_IN_FLIGHT_BYTES_START);
        assert!(long.bytes_max() <= COPY_IN_FLIGHT_BYTES_MAX);
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
