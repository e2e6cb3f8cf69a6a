//! A defect of ours ends the connection it was met on, and no other.
//!
//! Whatever is done for a connection is called through here. A panic unwinds to this place; what it
//! held on the stack is lost to the pool and counted there, the connection ends without a word, for
//! nobody knows what state its protocol is in, and the shard goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::services::Wishes;

/// The link of services that were left behind.
pub(super) const NOBODY: u32 = u32::MAX;
const DEFECT: &str = "a defect of this program";

impl<D: Driver, O: Outside> Shard<D, O> {
    /// Does something on behalf of the link.
    pub(super) fn contained(&mut self, key: u32, call: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| call(self))).is_err() {
            self.broke(key);
        }
    }

    /// Does something on behalf of the link or attachment with this key.
    pub(super) fn contained_for(&mut self, key: u32, call: impl FnOnce(&mut Self)) {
        let link = match key & OF_ATTACHMENT {
            0 => Some(key),
            _ => self.attachments.get((key & !OF_ATTACHMENT) as usize).map(|a| a.link),
        };
        // What belongs to nobody any more is only given back.
        self.contained(link.unwrap_or(NOBODY), call);
    }

    fn broke(&mut self, key: u32) {
        self.outside.met_defect();
        self.drop_wishes();
        let Some(link) = self.links.get_mut(key as usize) else { return };
        link.defects = link.defects.saturating_add(1);
        match link.defects {
            1 if link.state != LinkState::Terminating => {
                self.mark_dirty(key);
                self.contained(key, |shard| shard.end_for(key, DEFECT));
            }
            // Services that cannot even be told stay behind, and with them what they held.
            1 | 2 => {
                link.channels.clear();
                link.attachments = 0;
                link.state = LinkState::Terminating;
                let left = self.attachments.iter_mut().filter(|(_, left)| left.link == key);
                left.for_each(|(_, left)| left.link = NOBODY);
                self.mark_dirty(key);
            }
            // It cannot be freed either.
            _ => {}
        }
    }

    /// What an unfinished call has asked for is not done on behalf of the next one.
    fn drop_wishes(&mut self) {
        let Wishes { ops, closes, .. } = std::mem::take(&mut self.wishes);
        ops.into_iter().for_each(|(_, op)| op.dissolve(self.driver.pool()));
        closes.into_iter().for_each(|fd| self.driver.close(fd));
    }
}

/// For tests: clients of theirs name what is to go wrong in their identification.
#[cfg(feature = "sim")]
pub(super) fn meet_ordered_defect(link: &Link, place: &str) {
    let rest = link.conn.peer_ident().strip_suffix(place.as_bytes());
    let is_ordered = rest.is_some_and(|rest| rest.ends_with(b"Defect_"));
    assert!(!is_ordered, "a test ordered this {place}");
}

#[cfg(not(feature = "sim"))]
pub(super) const fn meet_ordered_defect(_link: &Link, _place: &str) {}
