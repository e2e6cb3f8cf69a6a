//! A connection that a client has made for it, as a client sees it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tidegate::base::SeededEntropy;
use tidegate::connection::{ChannelId, ChannelKind, Connection};
use tidegate::transport::{Client as ClientRole, Env, Error};

use crate::bytes::Flow;
use crate::office::Office;
use crate::tally::Tally;
use crate::town::NAME;

/// How its target is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Open,
    /// By a name that has another address first, which never answers.
    Named,
    /// By the path of a socket.
    Path,
    /// Nobody listens there.
    Shut,
    /// Nobody ever answers.
    Silent,
}

/// What its target does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Reads to the end, then answers.
    Answer,
    /// Says what it has to say, ends its direction, and goes on reading.
    Speak,
    /// Breaks the connection off after so many bytes.
    Reset { after: u64 },
}

#[derive(Clone, Debug)]
pub struct ForwardPlan {
    pub door: Door,
    pub habit: Habit,
    /// Names the target.
    pub port: u16,
    pub up: Flow,
    pub down: Flow,
    pub piece: u32,
    /// Received data is consumed in one go whenever so much has come.
    pub gulp: u32,
    /// How long the target rests between two reads.
    pub rests: Duration,
    /// The channel is closed once so much has come.
    pub closes_after: Option<u64>,
}

impl ForwardPlan {
    pub fn channel(&self) -> ChannelKind {
        let host = match self.door {
            Door::Path => {
                let path = format!("/town/{}", self.port).into_bytes().into();
                return ChannelKind::DirectStreamlocal { path };
            }
            Door::Named => NAME,
            Door::Open | Door::Shut | Door::Silent => "10.0.0.1",
        };
        let (port, origin_port) = (u32::from(self.port), 5);
        let origin_host = "192.0.2.7".into();
        ChannelKind::DirectTcpip { host: host.into(), port, origin_host, origin_port }
    }
}

#[derive(Debug)]
pub struct Forward {
    plan: ForwardPlan,
    up: Flow,
    down: Flow,
    started: bool,
    eof_sent: bool,
    eof_seen: bool,
    closing: bool,
    pub owed: u32,
    office: Quiet,
}

/// The office, of which a failure need not tell.
struct Quiet(Rc<RefCell<Office>>);

impl std::fmt::Debug for Quiet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("..")
    }
}

impl Forward {
    pub fn new(plan: ForwardPlan, office: Rc<RefCell<Office>>) -> Forward {
        Forward {
            up: plan.up.clone(),
            down: plan.down.clone(),
            plan,
            started: false,
            eof_sent: false,
            eof_seen: false,
            closing: false,
            owed: 0,
            office: Quiet(office),
        }
    }

    pub const fn opened(&mut self) {
        self.started = true;
    }

    pub fn data(&mut self, extended: Option<u32>, bytes: &[u8]) {
        assert!(extended.is_none() && !self.eof_seen, "{self:?}");
        self.owed += bytes.len() as u32;
        self.down.check(bytes, "what a target says");
    }

    pub const fn ended(&mut self) {
        self.eof_seen = true;
    }

    pub const fn peer_closed(&mut self) {
        self.closing = true;
    }

    pub fn pump(
        &mut self,
        id: ChannelId,
        conn: &mut Connection<ClientRole>,
        env: &mut Env<'_>,
        chance: &mut SeededEntropy,
    ) -> Result<bool, Error> {
        let over = self.eof_seen || self.down.left() == 0;
        if self.owed > 0 && (self.owed >= self.plan.gulp || over || chance.below(4) == 0) {
            conn.consumed(id, std::mem::take(&mut self.owed), env)?;
        }
        if self.closing || !self.started {
            return Ok(false);
        }
        if self.plan.closes_after.is_some_and(|after| self.down.at >= after) {
            self.closing = true;
            conn.close(id, env)?;
            return Ok(false);
        }
        if self.eof_sent {
            return Ok(false);
        }
        if self.up.left() == 0 {
            self.eof_sent = true;
            conn.send_eof(id, env)?;
            return Ok(true);
        }
        let most = u64::from(self.plan.piece.min(conn.credit(id)));
        if most == 0 {
            return Ok(false);
        }
        let bytes = self.up.peek(1 + chance.below(most));
        let written = conn.write_data(id, None, &bytes, env);
        if written {
            self.up.advance(bytes.len());
        }
        Ok(written)
    }

    pub fn count(&self, tally: &mut Tally) {
        tally.count(format!("forward {:?}", self.plan.door), 1);
        let habit = match self.plan.habit {
            Habit::Answer => "target answers",
            Habit::Speak => "target speaks first",
            Habit::Reset { .. } => "target resets",
        };
        tally.count(habit, u64::from(self.started));
        tally.count("forward closed early", u64::from(self.plan.closes_after.is_some()));
        tally.count("forwarded bytes", self.up.at + self.down.at);
    }

    /// # Panics
    /// When it did not get what it came for.
    pub fn check_complete(&self, opened: bool, proxied: bool) {
        let mut office = self.office.0.borrow_mut();
        let faults = office.world.faults();
        let arranged = office.arranged;
        // The host that it goes by may turn the gateway away, or be lost to a bit that flipped.
        let at_host = arranged.refused + arranged.hand_overs + faults.flips;
        let turned_away = if proxied { at_host } else { 0 };
        let lost = arranged.lost + arranged.spoilt;
        let excused = faults.resets + faults.refused + lost + turned_away > 0;
        let reachable = matches!(self.plan.door, Door::Open | Door::Named | Door::Path);
        assert!(!opened || reachable, "connected to nobody: {self:?}");
        assert!(opened || !reachable || excused, "it was refused: {self:?}");
        let breaks = matches!(self.plan.habit, Habit::Reset { .. });
        if !opened || excused || breaks || self.plan.closes_after.is_some() {
            return;
        }
        let reports = &office.reports;
        assert!(self.eof_seen && self.eof_sent, "closed without EOF: {self:?}: {reports:#?}");
        assert_eq!((self.up.left(), self.down.left()), (0, 0), "bytes are missing: {self:?}");
        office.town.complete(self.plan.port);
    }
}
