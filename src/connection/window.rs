//! Flow control of RFC 4254 §5.2, one direction each. All amounts are bytes.

use crate::transport::Error;

/// What the peer lets us send. Credit is reserved before bytes are read and spent when they are
/// sealed, so nothing is read that cannot be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendWindow {
    /// Granted and neither reserved nor spent.
    remaining: u32,
    reserved: u32,
    packet_bytes_max: u32,
}

impl SendWindow {
    pub const fn new(window_bytes: u32, packet_bytes_max: u32) -> SendWindow {
        SendWindow { remaining: window_bytes, reserved: 0, packet_bytes_max }
    }

    pub const fn remaining(&self) -> u32 {
        self.remaining
    }

    pub const fn reserved(&self) -> u32 {
        self.reserved
    }

    /// The largest data of one packet.
    pub const fn packet_bytes_max(&self) -> u32 {
        self.packet_bytes_max
    }

    /// Sets aside up to `want`; answers how much.
    pub fn reserve(&mut self, want: u32) -> u32 {
        let taken = want.min(self.remaining);
        self.remaining -= taken;
        self.reserved += taken;
        taken
    }

    /// What was set aside and not used. Never more than was.
    pub fn refund(&mut self, unused: u32) {
        let back = unused.min(self.reserved);
        self.reserved -= back;
        self.remaining += back;
    }

    /// What was set aside has been sent.
    pub fn spend(&mut self, bytes: u32) {
        self.reserved = self.reserved.saturating_sub(bytes);
    }

    /// A WINDOW_ADJUST. The window may not pass 2^32 - 1 bytes; a reservation is still part of it.
    pub fn adjust(&mut self, bytes: u32) -> Result<(), Error> {
        let window = u64::from(self.remaining) + u64::from(self.reserved) + u64::from(bytes);
        if window > u64::from(u32::MAX) {
            return Err(Error::PeerMisbehaved("window adjusted past its maximum"));
        }
        self.remaining += bytes;
        Ok(())
    }
}

/// What we let the peer send.
///
/// Invariant: bytes granted, delivered and not consumed yet, and consumed but not granted again
/// always sum up to `target`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecvWindow {
    granted: u32,
    consumed: u32,
    target: u32,
    packet_bytes_max: u32,
}

impl RecvWindow {
    pub const fn new(target: u32, packet_bytes_max: u32) -> RecvWindow {
        RecvWindow { granted: target, consumed: 0, target, packet_bytes_max }
    }

    /// A window carried over from another process; `None` when the sum does not hold.
    pub const fn from_parts(
        granted: u32,
        consumed: u32,
        target: u32,
        packet_bytes_max: u32,
    ) -> Option<RecvWindow> {
        match granted.checked_add(consumed) {
            Some(sum) if sum <= target => {
                Some(RecvWindow { granted, consumed, target, packet_bytes_max })
            }
            _ => None,
        }
    }

    /// Bytes the peer may still send.
    pub const fn granted(&self) -> u32 {
        self.granted
    }

    /// Consumed and not granted again yet.
    pub const fn consumed(&self) -> u32 {
        self.consumed
    }

    pub const fn target(&self) -> u32 {
        self.target
    }

    pub const fn packet_bytes_max(&self) -> u32 {
        self.packet_bytes_max
    }

    /// Delivered to the owner and not consumed.
    pub const fn held(&self) -> u32 {
        self.target - self.granted - self.consumed
    }

    /// Data of one packet has come.
    pub fn receive(&mut self, bytes: u32) -> Result<(), Error> {
        if bytes > self.packet_bytes_max {
            return Err(Error::PeerMisbehaved("channel data over the packet limit"));
        }
        match self.granted.checked_sub(bytes) {
            Some(left) => self.granted = left,
            None => return Err(Error::PeerMisbehaved("channel data past the window")),
        }
        Ok(())
    }

    /// Grants no more than `bytes` at first, and answers what it comes to: nobody has promised room for
    /// more yet.
    pub fn begin_with(&mut self, bytes: u32) -> u32 {
        self.granted = self.granted.min(bytes);
        self.granted
    }

    /// Grants until the peer may send `bytes`, or the target if that is less. `Some(n)`: send a
    /// WINDOW_ADJUST of `n`; as in [`RecvWindow::consume`] it is due in large steps, of an eighth where
    /// that is more than three packets, and in any when less than a packet is granted. What the owner
    /// holds does not count: somebody else has promised room for it.
    pub fn grant_up_to(&mut self, bytes: u32) -> Option<u32> {
        let more = bytes.min(self.target).saturating_sub(self.granted);
        let least = (self.target / 2).min(self.packet_bytes_max.saturating_mul(3));
        let due = least.max(bytes.min(self.target) / 8);
        if more == 0 || (more < due && self.granted >= self.packet_bytes_max) {
            return None;
        }
        self.granted += more;
        Some(more)
    }

    /// The owner is done with that many bytes. `Some(n)`: send a WINDOW_ADJUST of `n`, due when
    /// half the window or three packets have been used, so that few are sent and none is late.
    pub fn consume(&mut self, bytes: u32) -> Option<u32> {
        self.consumed += bytes.min(self.held());
        let due = (self.target / 2).min(self.packet_bytes_max.saturating_mul(3));
        if self.consumed == 0 || self.consumed < due {
            return None;
        }
        let grant = self.consumed;
        self.consumed = 0;
        self.granted += grant;
        Some(grant)
    }

    /// The window is larger from now on, and so is what the peer may send.
    pub const fn widen(&mut self, bytes: u32) {
        let bytes = if bytes > u32::MAX - self.target { u32::MAX - self.target } else { bytes };
        self.target += bytes;
        self.granted += bytes;
    }

    /// The window is smaller from now on, by what was to be granted and the peer does not know of
    /// yet: up to `bytes`. Answers by how much.
    pub fn narrow(&mut self, bytes: u32) -> u32 {
        let bytes = bytes.min(self.granted);
        self.target -= bytes;
        self.granted -= bytes;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn case_81_windows_do_not_wrap() {
        let mut window = SendWindow::new(u32::MAX, 1024);
        assert!(window.adjust(1).is_err());
        assert_eq!(window.reserve(10), 10);
        assert!(window.adjust(1).is_err(), "a reservation is still window");
        window.spend(10);
        assert_eq!(window.adjust(10), Ok(()));
        assert!(window.adjust(u32::MAX).is_err());
        assert_eq!(window.remaining(), u32::MAX);
    }

    #[test]
    fn case_82_overshoot_is_an_error_at_once() {
        let mut window = RecvWindow::new(100, 60);
        assert!(window.receive(61).is_err());
        assert_eq!(window.receive(60), Ok(()));
        assert!(window.receive(41).is_err());
        assert_eq!(window.receive(40), Ok(()));
        assert!(window.receive(1).is_err());
        assert_eq!(window.receive(0), Ok(()));
    }

    #[test]
    fn grants_come_in_large_steps() {
        let mut window = RecvWindow::new(2 << 20, 32 << 10);
        for _ in 0..3 {
            assert_eq!(window.receive(32 << 10), Ok(()));
        }
        assert_eq!(window.consume(32 << 10), None);
        assert_eq!(window.consume(32 << 10), None);
        assert_eq!(window.consume(32 << 10), Some(96 << 10));
        assert_eq!(window.consume(5), None, "nothing is held any more");
        assert_eq!(window.granted(), 2 << 20);
    }

    #[test]
    fn relayed_grants_follow_the_other_side() {
        let mut window = RecvWindow::new(2 << 20, 32 << 10);
        assert_eq!(window.grant_up_to(u32::MAX), None, "no more than at first");
        for _ in 0..7 {
            assert_eq!(window.receive(32 << 10), Ok(()));
        }
        assert_eq!(window.grant_up_to(window.granted()), None);
        assert_eq!(window.grant_up_to(2 << 20), None, "a small step waits");
        assert_eq!(window.receive(32 << 10), Ok(()));
        assert_eq!(window.grant_up_to(2 << 20), Some(256 << 10));
        let mut small = RecvWindow::new(100, 60);
        assert_eq!(small.receive(60), Ok(()));
        assert_eq!(small.grant_up_to(41), Some(1), "the peer could not send a packet");
        assert_eq!((small.granted(), small.consumed(), small.held()), (41, 0, 59));
    }

    proptest! {
        #[test]
        fn send_windows_conserve(steps in prop::collection::vec((0u8..4, any::<u32>()), 0..64)) {
            let mut window = SendWindow::new(1 << 20, 1 << 15);
            let (mut granted, mut spent) = (1u64 << 20, 0u64);
            for (what, n) in steps {
                match what {
                    0 => { window.reserve(n); }
                    1 => window.refund(n),
                    2 => {
                        let n = n.min(window.reserved());
                        window.spend(n);
                        spent += u64::from(n);
                    }
                    _ => if window.adjust(n).is_ok() { granted += u64::from(n); }
                }
                let left = u64::from(window.remaining()) + u64::from(window.reserved());
                prop_assert_eq!(granted, spent + left);
                prop_assert!(left <= u64::from(u32::MAX));
            }
        }

        #[test]
        fn receive_windows_stay_within_their_target(
            target in 1u32..4 << 20,
            steps in prop::collection::vec((any::<bool>(), 0u32..64 << 10), 0..64),
        ) {
            let mut window = RecvWindow::new(target, 32 << 10);
            for (consume, n) in steps {
                let held = window.held();
                if consume {
                    window.consume(n);
                    prop_assert!(window.held() == held - n.min(held));
                } else if window.receive(n).is_ok() {
                    prop_assert!(window.held() == held + n);
                }
                prop_assert!(window.granted() + window.consumed() + window.held() == target);
                prop_assert!(RecvWindow::from_parts(
                    window.granted(), window.consumed(), target, 32 << 10) == Some(window));
            }
        }
    }
}
