use std::io;
use std::sync::Arc;

use crate::gateway::edge::words::Tell;
use crate::gateway::socket::Messenger;
use crate::limits::{ANSWERS_HELD_BYTES_MAX, ANSWERS_HELD_MAX};

/// What an edge is told, and by which way: what answers a question goes to the shard that has asked it, and
/// wakes nobody else.
pub struct Ways {
    /// To the edge's first thread.
    edge: Arc<Messenger>,
    shards: Vec<Way>,
    /// Answers wait, for more are about to be there: each by itself would wake its shard.
    holding: bool,
    /// Somebody does not read what he is told.
    stuck: bool,
}

/// To one shard.
struct Way {
    messenger: Messenger,
    held: Vec<Vec<u8>>,
}

impl Ways {
    /// `shards`: those to the edge's shards, in order.
    pub fn new(edge: &Arc<Messenger>, shards: Vec<Messenger>) -> Ways {
        let way = |messenger| Way { messenger, held: Vec::new() };
        let shards = shards.into_iter().map(way).collect();
        Ways { edge: Arc::clone(edge), shards, holding: false, stuck: false }
    }

    pub const fn shards(&self) -> usize {
        self.shards.len()
    }

    pub const fn is_stuck(&self) -> bool {
        self.stuck
    }

    /// From now on answers wait until [`Ways::let_out`], or until there are many.
    pub const fn hold_back(&mut self) {
        self.holding = true;
    }

    pub fn holds_back(&self) -> bool {
        self.shards.iter().any(|way| !way.held.is_empty())
    }

    /// Tells all that waits, and from now on every answer at once.
    pub fn let_out(&mut self) {
        self.holding = false;
        for way in &mut self.shards {
            self.stuck |= way.let_out();
        }
    }

    /// Whoever has asked on behalf of a shard that there is not hears nothing.
    pub fn tell(&mut self, tell: &Tell) {
        let bytes = tell.encode();
        let Some(ticket) = tell.ticket() else {
            self.stuck |= is_full(self.edge.try_send(&bytes, None));
            return;
        };
        let Some(way) = self.shards.get_mut(ticket.shard as usize) else { return };
        let waiting: usize = way.held.iter().map(Vec::len).sum();
        if waiting + bytes.len() > ANSWERS_HELD_BYTES_MAX {
            self.stuck |= way.let_out();
        }
        way.held.push(bytes);
        if !self.holding || way.held.len() >= ANSWERS_HELD_MAX {
            self.stuck |= way.let_out();
        }
    }
}

impl Way {
    /// In one message, so that the shard is woken once. `true`: it does not read.
    fn let_out(&mut self) -> bool {
        let held = std::mem::take(&mut self.held);
        let joined;
        let bytes = match &*held {
            [] => return false,
            [one] => one,
            several => {
                joined = Tell::join(several.iter().map(Vec::as_slice));
                &joined
            }
        };
        is_full(self.messenger.try_send(bytes, None))
    }
}

/// Gone is seen where it is heard.
fn is_full(sent: io::Result<()>) -> bool {
    sent.is_err_and(|why| why.kind() == io::ErrorKind::WouldBlock)
}
