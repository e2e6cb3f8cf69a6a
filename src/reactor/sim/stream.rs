use std::collections::VecDeque;
use std::time::Duration;

use crate::base::Instant;
use crate::reactor::Errno;

/// Bytes on their way in one direction, of a connection or a pipe.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) delay: Duration,
    bytes_per_second: Option<u64>,
    capacity: usize,
    segments: VecDeque<Segment>,
    buffered: usize,
    choked: bool,
    /// Of the last byte sent so far.
    last_arrival: Instant,
    end: Option<(Instant, End)>,
    /// When the reading side was closed.
    pub(super) unread_since: Option<Instant>,
    pub(super) stalled_until: Instant,
    /// So many bytes have to be there before a reader is told.
    pub(super) mark: usize,
}

#[derive(Debug)]
struct Segment {
    arrival: Instant,
    bytes: Vec<u8>,
    read: usize,
}

/// What comes after the last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    OfFile,
    Broken(Errno),
}

impl Stream {
    pub(super) fn new(delay: Duration, bytes_per_second: Option<u64>, capacity: u32) -> Stream {
        Stream {
            delay,
            bytes_per_second,
            capacity: capacity as usize,
            segments: VecDeque::new(),
            buffered: 0,
            choked: false,
            last_arrival: Instant::ZERO,
            end: None,
            unread_since: None,
            stalled_until: Instant::ZERO,
            mark: 1,
        }
    }

    /// Bytes that can be sent now. A stream that was full takes up again when a quarter of it is
    /// free, as TCP does against silly windows.
    pub(super) const fn room(&self) -> usize {
        if self.choked { 0 } else { self.capacity - self.buffered }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.buffered == 0
    }

    pub(super) const fn is_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Sends bytes, at most [`Stream::room`] of them; they arrive in pieces when the stream has a
    /// rate. Each arrival is told to `event`.
    pub(super) fn push(&mut self, now: Instant, bytes: &[u8], mut event: impl FnMut(Instant)) {
        if self.unread_since.is_some() {
            return;
        }
        let piece = if self.bytes_per_second.is_some() { 16 * 1024 } else { bytes.len().max(1) };
        for bytes in bytes.chunks(piece) {
            let carried = self.bytes_per_second.map_or(Duration::ZERO, |rate| {
                Duration::from_nanos(bytes.len() as u64 * 1_000_000_000 / rate)
            });
            let arrival = self.last_arrival.max(now.after(self.delay)).after(carried);
            self.last_arrival = arrival;
            self.buffered += bytes.len();
            self.segments.push_back(Segment { arrival, bytes: bytes.to_vec(), read: 0 });
            event(arrival);
        }
        self.choked |= self.buffered >= self.capacity;
    }

    /// Bytes that can be read now.
    pub(super) fn available(&self, now: Instant) -> usize {
        self.segments
            .iter()
            .take_while(|segment| segment.arrival <= now)
            .map(|segment| segment.bytes.len() - segment.read)
            .sum()
    }

    /// A reader is told nothing yet: less than its mark has come, and more still can.
    pub(super) fn is_below_mark(&self, now: Instant) -> bool {
        let over = self.end.is_some_and(|(at, _)| at <= now);
        self.available(now) < self.mark && !over && !self.choked
    }

    /// Reads arrived bytes; as many as fit.
    pub(super) fn pull(&mut self, now: Instant, into: &mut [u8]) -> usize {
        let mut done = 0;
        while let Some(segment) = self.segments.front_mut()
            && segment.arrival <= now
            && done < into.len()
        {
            let rest = &segment.bytes[segment.read..];
            let len = rest.len().min(into.len() - done);
            into[done..done + len].copy_from_slice(&rest[..len]);
            done += len;
            segment.read += len;
            if segment.read == segment.bytes.len() {
                self.segments.pop_front();
            }
        }
        self.buffered -= done;
        self.choked &= self.capacity - self.buffered < self.capacity / 4;
        done
    }

    /// What a reader of everything so far finds; `None` while more may come.
    pub(super) fn ending(&self, now: Instant) -> Option<End> {
        let (at, end) = self.end?;
        (at <= now && self.available(now) == 0).then_some(end)
    }

    /// No more bytes will be sent. Answers when the reader can know. The first end stands.
    pub(super) fn finish(&mut self, now: Instant, end: End) -> Instant {
        let at = self.last_arrival.max(now.after(self.delay));
        self.end.get_or_insert((at, end)).0
    }

    /// The connection is torn down: what has not arrived never will, and `end` is reached at `at`.
    pub(super) fn tear(&mut self, now: Instant, at: Instant, end: End) {
        while self.segments.back().is_some_and(|segment| segment.arrival > now) {
            if let Some(lost) = self.segments.pop_back() {
                self.buffered -= lost.bytes.len() - lost.read;
            }
        }
        self.choked = false;
        self.last_arrival = now;
        self.end = Some((at, end));
    }

    /// Nobody will read: what is under way vanishes.
    pub(super) fn discard(&mut self, now: Instant) {
        self.segments.clear();
        (self.buffered, self.choked) = (0, false);
        self.unread_since.get_or_insert(now);
    }
}
