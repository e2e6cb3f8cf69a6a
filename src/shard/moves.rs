//! For the simulator: connections that move under their services, and when a shard may sleep.

use super::*;
use crate::connection::{Conn, Connection, ConnectionRecord};
use crate::transport::Server;

impl<D: Driver, O: Outside> Shard<D, O> {
    /// Until when the next turn's wait would sleep if nothing completes and nobody rings.
    pub fn sleeps_until(&mut self) -> Option<Instant> {
        self.wait_until(None)
    }

    /// Takes every connection that is quiet through its record, as a hand-over to another process
    /// does, at whatever its channels are just doing. Answers how many there were.
    ///
    /// # Panics
    /// When a record cannot be written, read or gone on from.
    pub fn move_quiet_links(&mut self) -> u32 {
        let now = self.driver.now();
        let mut moved = 0;
        let keys: Vec<u32> = self.links.iter().map(|(key, _)| key as u32).collect();
        for key in keys {
            let Some(link) = self.links.get_mut(key as usize) else { continue };
            let open = link.state == LinkState::Open && link.answer.is_none();
            let Some(record) = link.conn.export().filter(|_| open) else { continue };
            let bytes = record.to_bytes().expect("a record can be written");
            let record = ConnectionRecord::from_bytes(&bytes).expect("what was written is read");
            let config = Arc::clone(&self.config.connection);
            let conn = Connection::<Server>::import(config, record, now).expect("it goes on");
            link.conn = Conn::Server(conn);
            let limits = link.grant.as_ref().and_then(|grant| grant.limits);
            link.follow(limits, &self.config.connection, now);
            self.mark_dirty(key);
            moved += 1;
        }
        moved
    }
}
