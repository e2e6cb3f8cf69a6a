use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use zeroize::Zeroizing;

use crate::gateway::socket::Messenger;

/// Connections that have ended, of which root's process has to hear: what its queue has no room for waits
/// here, for whoever says something next.
#[derive(Debug, Default)]
pub struct Owed(Mutex<VecDeque<u64>>);

impl Owed {
    pub fn add(&self, link: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(link);
    }

    /// Tells what is owed, a message each. `false`: some is left.
    pub fn pay(&self, messenger: &Messenger, message: impl Fn(u64) -> Zeroizing<Vec<u8>>) -> bool {
        let mut owed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(link) = owed.front().copied() {
            if messenger.try_send(&message(link), None).is_err() {
                return false;
            }
            owed.pop_front();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::PARCEL_BYTES_MAX;

    #[test]
    fn what_finds_no_room_is_told_later_and_in_order() {
        let (ours, theirs) = Messenger::pair().expect("a pair");
        let bulk = vec![7; PARCEL_BYTES_MAX as usize];
        let filled = (0..1000).take_while(|_| ours.try_send(&bulk, None).is_ok()).count();
        // Whatever room is left.
        while ours.try_send(&[7; 8], None).is_ok() {}
        let owed = Owed::default();
        let message = |link: u64| Zeroizing::new(link.to_be_bytes().to_vec());
        (1..=3).for_each(|link| owed.add(link));
        assert!(filled > 0 && !owed.pay(&ours, message), "there is no room");
        let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
        while theirs.try_receive(&mut buffer).is_ok() {}
        assert!(owed.pay(&ours, message));
        for link in 1..=3_u64 {
            let len = theirs.try_receive(&mut buffer).expect("a message");
            assert_eq!(buffer[..len], link.to_be_bytes());
        }
        assert!(owed.pay(&ours, message) && theirs.try_receive(&mut buffer).is_err());
    }
}
