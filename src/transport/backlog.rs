use std::fmt;

use zeroize::Zeroizing;

use crate::limits::DEFERRED_BYTES_MAX;

/// Payloads that may not leave yet, in order: a key exchange runs, or the outbox is full.
///
/// One allocation while there is something to keep, none otherwise. Wiped when dropped, because a
/// password may wait here.
#[derive(Default)]
pub(super) struct Backlog {
    /// Each payload behind its length in four bytes.
    bytes: Zeroizing<Vec<u8>>,
    /// Where the oldest payload starts.
    at: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// False, and nothing done, when the payload would pass [`DEFERRED_BYTES_MAX`].
    pub(super) fn push(&mut self, payload: &[u8]) -> bool {
        let held = self.bytes.len() - self.at;
        let Ok(len) = u32::try_from(payload.len()) else { return false };
        if held.saturating_add(payload.len() + 4) > DEFERRED_BYTES_MAX as usize {
            return false;
        }
        if self.at > 0 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        self.bytes.extend_from_slice(&len.to_be_bytes());
        self.bytes.extend_from_slice(payload);
        true
    }

    /// The oldest payload.
    pub(super) fn front(&self) -> Option<&[u8]> {
        let rest = self.bytes.get(self.at..)?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        rest.get(..u32::from_be_bytes(*len) as usize)
    }

    /// Forgets the oldest payload.
    pub(super) fn pop(&mut self) {
        self.at += self.front().map_or(0, |payload| payload.len() + 4);
        if self.is_empty() {
            *self = Backlog::default();
        }
    }
}

impl fmt::Debug for Backlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Backlog({} bytes)", self.bytes.len() - self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_frees_itself() {
        let mut backlog = Backlog::default();
        assert!(backlog.is_empty() && backlog.front().is_none());
        backlog.pop();
        for round in 0..3u8 {
            assert!(backlog.push(&[round]) && backlog.push(&[]) && backlog.push(&[round, 9]));
            assert_eq!(backlog.front(), Some(&[round][..]));
            backlog.pop();
            assert_eq!(backlog.front(), Some(&[][..]));
            backlog.pop();
            assert!(backlog.push(&[7]));
            assert_eq!(backlog.front(), Some(&[round, 9][..]));
            backlog.pop();
            backlog.pop();
            assert!(backlog.is_empty());
            assert_eq!(backlog.bytes.capacity(), 0);
        }
    }

    #[test]
    fn case_33_is_bounded() {
        let mut backlog = Backlog::default();
        let payload = [0; 1020];
        let pushed = (0..1000).take_while(|_| backlog.push(&payload)).count();
        assert_eq!(pushed, 64);
        backlog.pop();
        assert!(backlog.push(&payload) && !backlog.push(&[]));
    }
}
