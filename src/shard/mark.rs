//! Receiving in large pieces: while the peer owes a service bytes without which there is nothing to
//! do, the socket wakes nobody for a few of them.

use super::*;
use crate::limits::{RECEIVE_MARK_BYTES_MIN, RECEIVE_MARK_TIME};
use crate::transport::CompressionKind;

impl<D: Driver, O: Outside> Shard<D, O> {
    /// Chooses the mark for the receive that is about to be armed, which has `room`.
    pub(super) fn choose_receive_mark(&mut self, key: u32, room: u32) {
        let mark = match self.links.get(key as usize) {
            Some(link) => self.owed(link).min(room),
            None => return,
        };
        self.set_receive_mark(key, if mark < RECEIVE_MARK_BYTES_MIN { 1 } else { mark });
    }

    /// Bytes the peer has yet to send before anything can be done. None where something else may
    /// come first: the words of a key exchange or of another channel. What is compressed may be
    /// any number of bytes.
    fn owed(&self, link: &Link) -> u32 {
        let quiet = link.state == LinkState::Open && link.conn.is_ready() && link.inbound.is_bulk();
        let [(_, number)] = link.channels.as_slice() else { return 0 };
        let awaited = self.attachments.get(*number as usize).map_or(0, |at| at.awaited);
        let plain = || {
            let none = CompressionKind::None;
            link.conn.negotiated().is_some_and(|agreed| agreed.compression_to_server == none)
        };
        if quiet && awaited > 0 && plain() { awaited.saturating_sub(link.inbound.len()) } else { 0 }
    }

    /// A mark that is already so costs nothing.
    pub(super) fn set_receive_mark(&mut self, key: u32, mark: u32) {
        let until = (mark > 1).then(|| self.driver.now().after(RECEIVE_MARK_TIME));
        let Some(link) = self.links.get_mut(key as usize) else { return };
        let Some(fd) = link.socket else { return };
        link.mark_until = until;
        if link.mark != mark {
            link.mark = mark;
            self.driver.set_receive_mark(fd, mark);
        }
    }
}
