//! What other processes may speak of: their own connections, in bounds. What they say of a connection's
//! client, and of a user who is known, is not asked for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::entry::{Entry, Event, Field};
use crate::base::Instant;
use crate::limits::{AUDIT_LINES_A_SECOND_MAX, AUDIT_LINES_BEFORE_LOGIN_MAX, AUDIT_LINKS_MAX};

/// What no process of ours would say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotIts(pub &'static str);

/// The connections of one process.
#[derive(Debug, Default)]
struct Book {
    links: BTreeMap<u64, Known>,
    /// When the second began whose lines are counted.
    since: Option<Instant>,
    lines: u32,
}

#[derive(Debug)]
struct Known {
    peer: SocketAddr,
    /// Empty while nobody knows.
    user: String,
    lines: u32,
}

impl Book {
    fn open(&mut self, link: u64, peer: SocketAddr, user: &str) {
        // One of which nobody told that it ended makes room.
        if self.links.len() >= AUDIT_LINKS_MAX {
            self.links.pop_first();
        }
        self.links.insert(link, Known { peer, user: user.to_owned(), lines: 0 });
    }

    /// The entry as it goes into the log. `None`: it is about a connection that is not the process's,
    /// or one too many; then it counts as lost.
    fn judge(&mut self, mut entry: Entry, lines_max: u32, now: Instant) -> Option<Entry> {
        if self.since.is_none_or(|since| now.since(since) >= Duration::from_secs(1)) {
            (self.since, self.lines) = (Some(now), 0);
        }
        self.lines = self.lines.saturating_add(1);
        if self.lines > AUDIT_LINES_A_SECOND_MAX {
            return None;
        }
        if entry.event == Event::Lost {
            return Some(Entry::lost(entry.count()));
        }
        let known = self.links.get_mut(&entry.link)?;
        known.lines = known.lines.saturating_add(1);
        let over = known.lines > lines_max;
        entry.peer = known.peer;
        if !known.user.is_empty() {
            entry.user.clone_from(&known.user);
        }
        if entry.event == Event::Disconnect {
            self.links.remove(&entry.link);
        }
        Some(entry).filter(|_| !over)
    }
}

impl Book {
    /// The process has ended: so have its connections.
    fn close(&mut self) -> Vec<Entry> {
        let links = std::mem::take(&mut self.links).into_iter();
        let end = |(link, Known { peer, user, .. }): (u64, Known)| {
            let entry = Entry::new(Event::Disconnect, link, peer).of_user(&user);
            entry.text(Field::Reason, "its process has ended")
        };
        links.map(end).collect()
    }
}

/// The connections of an edge. Their numbers are its own to give, each once: shard by shard they rise.
#[derive(Debug, Default)]
pub struct EdgeBook {
    book: Book,
    first: u64,
    /// The last number of each shard.
    last: Vec<u64>,
}

impl EdgeBook {
    /// For an edge whose shards number connections from `first` on, in turn.
    pub fn new(first: u64, reactors: u32) -> EdgeBook {
        EdgeBook { book: Book::default(), first, last: vec![0; reactors.max(1) as usize] }
    }

    /// What an edge says, as it goes into the log; `None`: it does not, and counts as lost.
    ///
    /// # Errors
    /// No edge says so.
    pub fn hear(&mut self, entry: Entry, now: Instant) -> Result<Option<Entry>, NotIts> {
        match entry.event {
            Event::Connect => {
                let number = entry.link.checked_sub(self.first);
                let number = number.ok_or(NotIts("a connection of another process"))?;
                let shard = (number % self.last.len().max(1) as u64) as usize;
                let last = self.last.get_mut(shard).filter(|last| **last < entry.link);
                *last.ok_or(NotIts("a connection that begins twice"))? = entry.link;
                self.book.open(entry.link, entry.peer, "");
            }
            Event::Auth if entry.is_login() => {
                return Err(NotIts("a login that nobody has checked"));
            }
            Event::KeyExchange | Event::Auth | Event::Refused | Event::Disconnect | Event::Lost => {
            }
            _ => return Err(NotIts("an event that no stranger makes")),
        }
        Ok(self.book.judge(entry, AUDIT_LINES_BEFORE_LOGIN_MAX, now))
    }

    /// The connection is another process's now.
    pub fn leave(&mut self, link: u64) {
        self.book.links.remove(&link);
    }

    /// The edge has ended: what is left to say of its connections.
    pub fn close(&mut self) -> Vec<Entry> {
        self.book.close()
    }
}

/// The connections of an account's process, or of a relay, which were passed to it.
#[derive(Debug, Default)]
pub struct AccountBook {
    book: Book,
    relays: bool,
}

impl AccountBook {
    /// Its connections go on at hosts behind the gateway, of which it tells too.
    pub fn of_a_relay() -> AccountBook {
        AccountBook { relays: true, ..AccountBook::default() }
    }

    pub fn enter(&mut self, link: u64, peer: SocketAddr, user: &str) {
        self.book.open(link, peer, user);
    }

    /// The connection is another program's now.
    pub fn leave(&mut self, link: u64) {
        self.book.links.remove(&link);
    }

    /// As [`EdgeBook::hear`].
    ///
    /// # Errors
    /// No process of an account says so.
    pub fn hear(&mut self, entry: Entry, now: Instant) -> Result<Option<Entry>, NotIts> {
        match entry.event {
            Event::Connect
            | Event::KeyExchange
            | Event::Auth
            | Event::Denied
            | Event::RecordStart
            | Event::RecordEnd => Err(NotIts("an event of somebody who logs in")),
            Event::Upstream | Event::UpstreamFailed if !self.relays => {
                Err(NotIts("an event of a login that goes on elsewhere"))
            }
            _ => Ok(self.book.judge(entry, u32::MAX, now)),
        }
    }

    /// The process has ended: what is left to say of its connections.
    pub fn close(&mut self) -> Vec<Entry> {
        self.book.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u64 = (3 << 32) + 1;

    fn peer(port: u16) -> SocketAddr {
        ([192, 0, 2, 7], port).into()
    }

    fn at(second: u64) -> Instant {
        Instant::from_nanos(second * 1_000_000_000)
    }

    fn edge() -> EdgeBook {
        let mut book = EdgeBook::new(FIRST, 2);
        let connect = Entry::new(Event::Connect, FIRST + 4, peer(1));
        assert_eq!(book.hear(connect.clone(), at(1)), Ok(Some(connect)));
        book
    }

    /// SECURITY case 136: an edge that lies speaks of its own connections, and each has its number once.
    #[test]
    fn case_136_an_edge_speaks_of_its_own_connections_alone() {
        let mut book = edge();
        let failed = |link, port| {
            Entry::new(Event::Auth, link, peer(port)).of_user("ann").text(Field::Result, "failure")
        };
        // Whose client it says it is does not matter.
        assert_eq!(book.hear(failed(FIRST + 4, 9), at(1)), Ok(Some(failed(FIRST + 4, 1))));
        for link in [FIRST, FIRST + 5, 0, u64::MAX] {
            assert_eq!(book.hear(failed(link, 1), at(1)), Ok(None), "{link}");
        }
        let connect = |link| Entry::new(Event::Connect, link, peer(1));
        for link in [0, FIRST - 1, FIRST + 4, FIRST + 2] {
            assert!(book.hear(connect(link), at(1)).is_err(), "{link}");
        }
        // The other shard is not as far.
        assert!(book.hear(connect(FIRST + 1), at(1)).is_ok_and(|entry| entry.is_some()));
        // After its end, and once it has left, there is nothing to say of it.
        let end = |link| Entry::new(Event::Disconnect, link, peer(1));
        assert!(book.hear(end(FIRST + 1), at(1)).is_ok_and(|entry| entry.is_some()));
        book.leave(FIRST + 4);
        for link in [FIRST + 1, FIRST + 4] {
            assert_eq!(book.hear(failed(link, 1), at(1)), Ok(None));
            assert!(book.hear(connect(link), at(1)).is_err());
        }
        for event in Event::ALL {
            let heard = edge().hear(Entry::new(*event, FIRST + 4, peer(1)), at(1));
            let may = [Event::KeyExchange, Event::Auth, Event::Refused, Event::Disconnect];
            assert_eq!(heard.is_ok(), may.contains(event) || *event == Event::Lost, "{event:?}");
        }
        let success = failed(FIRST + 4, 1);
        let success = Entry::new(Event::Auth, success.link, peer(1)).text(Field::Result, "success");
        assert!(edge().hear(success, at(1)).is_err());
    }

    /// SECURITY case 136: nor can it fill the log.
    #[test]
    fn case_136_nobody_floods_the_audit() {
        let mut book = edge();
        let refused = || Entry::new(Event::Refused, FIRST + 4, peer(1));
        let mut heard = 0;
        for _ in 0..1000 {
            heard += usize::from(book.hear(refused(), at(1)).expect("its own").is_some());
        }
        assert_eq!(heard, AUDIT_LINES_BEFORE_LOGIN_MAX as usize - 1);
        let mut book = AccountBook::default();
        book.enter(7, peer(1), "ann");
        let file = || Entry::new(Event::File, 7, peer(1));
        for second in [5, 6] {
            let mut heard = 0;
            for _ in 0..2 * AUDIT_LINES_A_SECOND_MAX {
                heard += u32::from(book.hear(file(), at(second)).expect("its own").is_some());
            }
            assert_eq!(heard, AUDIT_LINES_A_SECOND_MAX);
        }
        for link in 0..2 * AUDIT_LINKS_MAX as u64 {
            book.enter(link, peer(1), "ann");
        }
        assert_eq!(book.book.links.len(), AUDIT_LINKS_MAX);
    }

    /// Nor can an account speak for another.
    #[test]
    fn an_account_speaks_of_its_own_connections_alone() {
        let mut book = AccountBook::default();
        book.enter(7, peer(1), "ann");
        let file = |link| Entry::new(Event::File, link, peer(9)).of_user("bob");
        let heard = book.hear(file(7), at(1)).expect("its own").expect("a line");
        assert_eq!((&*heard.user, heard.peer), ("ann", peer(1)));
        assert_eq!(book.hear(file(8), at(1)), Ok(None));
        for event in [Event::Connect, Event::Auth, Event::Denied, Event::Upstream] {
            assert!(book.hear(Entry::new(event, 7, peer(1)), at(1)).is_err(), "{event:?}");
        }
        let end = Entry::new(Event::Disconnect, 7, peer(1));
        assert!(book.hear(end.clone(), at(1)).is_ok_and(|entry| entry.is_some()));
        assert_eq!(book.hear(end, at(1)), Ok(None));
    }
}
