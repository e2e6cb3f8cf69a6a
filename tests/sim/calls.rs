//! Somebody at a port of a host's that leads to a client of ours, and on to where he says by SOCKS.

use std::time::Duration;

use tidegate::base::{Instant, SeededEntropy};
use tidegate::limits::SOCKS_TIME_MAX;
use tidegate::reactor::sim::SimWorld;
use tidegate::services::forward::{Permit, Permits};

use crate::bytes::Flow;
use crate::chance::{one_in, pick, up_to};
use crate::forward::{Door, ForwardPlan, Habit};
use crate::tally::Tally;
use crate::town::NAME;

#[derive(Clone, Debug)]
pub struct CallPlan {
    /// Where he wants to go, and what he says there.
    pub to: ForwardPlan,
    pub version: Version,
    /// Waits for no answer.
    pub hurries: bool,
    pub mistake: Option<Mistake>,
    /// Rests for that long once so many bytes of where to are said.
    pub rests: Option<(usize, Duration)>,
    /// Behind the host's word that it listens.
    pub starts_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Four,
    Five,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// Speaks no SOCKS.
    Noise,
    /// Wants to go where PermitRemoteOpen does not lead.
    Unlisted,
    /// Has no more to say after so many bytes of where to.
    Ends(usize),
}

/// What may be connected to.
pub fn permits() -> Permits {
    let permit = |host: &str| Permit::parse(&format!("{host}:*")).expect("a place");
    Permits(Some(vec![permit("10.0.0.1"), permit(NAME)]))
}

impl CallPlan {
    pub fn draw(to: ForwardPlan, chance: &mut SeededEntropy) -> CallPlan {
        let mut plan = CallPlan {
            to,
            version: pick(chance, [Version::Four, Version::Five]),
            hurries: one_in(chance, 2),
            mistake: None,
            rests: None,
            starts_after: up_to(chance, Duration::from_secs(2)),
        };
        let len = plan.words().concat().len() as u64;
        plan.mistake = match chance.below(12) {
            0 => Some(Mistake::Noise),
            1 => Some(Mistake::Unlisted),
            2 => Some(Mistake::Ends(chance.below(len) as usize)),
            _ => None,
        };
        let times = [
            Duration::from_millis(5),
            Duration::from_secs(3),
            Duration::from_secs(12),
            FOR_EVER,
            FOR_EVER,
        ];
        if one_in(chance, 2) {
            plan.rests = Some((chance.below(len) as usize, pick(chance, times)));
        }
        plan
    }

    /// What he says of where to: up to the first answer, and up to the last.
    pub fn words(&self) -> [Vec<u8>; 2] {
        let host = match (self.mistake, self.to.door) {
            (Some(Mistake::Noise), _) => return [b"GET / HTTP/1.1\r\n\r\n".to_vec(), Vec::new()],
            (Some(Mistake::Unlisted), _) => Some("elsewhere.example"),
            (_, Door::Named) => Some(NAME),
            _ => None,
        };
        let port = self.to.port.to_be_bytes();
        let len = host.map(|host| host.len() as u8).into_iter();
        let name = host.unwrap_or_default().as_bytes();
        match (self.version, host) {
            (Version::Five, None) => {
                [vec![5, 1, 0], [&[5, 1, 0, 1, 10, 0, 0, 1][..], &port].concat()]
            }
            (Version::Five, Some(_)) => {
                let len: Vec<u8> = len.collect();
                [vec![5, 2, 1, 0], [&[5, 1, 0, 3][..], &len, name, &port].concat()]
            }
            (Version::Four, None) => {
                [Vec::new(), [&[4, 1][..], &port, &[10, 0, 0, 1], b"me\0"].concat()]
            }
            (Version::Four, Some(_)) => {
                [Vec::new(), [&[4, 1][..], &port, &[0, 0, 0, 7], b"me\0", name, b"\0"].concat()]
            }
        }
    }
}

/// Longer than anybody waits for him.
pub const FOR_EVER: Duration = Duration::from_secs(3_600);

#[derive(Debug)]
pub struct Caller {
    plan: CallPlan,
    /// What he says of where to, and how much of it he has to say before he has an answer.
    words: Vec<u8>,
    greeting: usize,
    said: usize,
    /// What he was told.
    heard: Vec<u8>,
    up: Flow,
    down: Flow,
    /// When the client was asked for the channel.
    called_at: Instant,
    rests_until: Option<Instant>,
    eof_said: bool,
    eof_heard: bool,
    closed_at: Option<Instant>,
}

/// What he says next.
pub enum Saying {
    Data(Vec<u8>),
    End,
    Close,
}

impl Caller {
    pub fn new(plan: &CallPlan, called_at: Instant) -> Caller {
        let [greeting, request] = plan.words();
        Caller {
            words: [&greeting[..], &request].concat(),
            greeting: greeting.len(),
            said: 0,
            heard: Vec::new(),
            up: plan.to.up.clone(),
            down: plan.to.down.clone(),
            called_at,
            rests_until: None,
            eof_said: false,
            eof_heard: false,
            closed_at: None,
            plan: plan.clone(),
        }
    }

    /// The answers that one gets who is connected.
    fn answers(&self) -> Vec<u8> {
        self.told(Some(0))
    }

    /// Those of one who is told this at last, in version 5; nothing: who is not told anything of where to.
    fn told(&self, code: Option<u8>) -> Vec<u8> {
        let five = self.plan.version == Version::Five && self.plan.mistake != Some(Mistake::Noise);
        let mut answers = if five && self.said >= self.greeting { vec![5, 0] } else { Vec::new() };
        match (code, five) {
            (None, _) => {}
            (Some(code), true) => answers.extend([5, code, 0, 1, 0, 0, 0, 0, 0, 0]),
            (Some(code), false) => answers.extend([0, 90 + code.min(1), 0, 0, 0, 0, 0, 0]),
        }
        answers
    }

    fn is_connected(&self) -> bool {
        self.heard == self.answers()
    }

    pub fn data(&mut self, bytes: &[u8]) {
        assert!(!self.eof_heard, "data behind an end: {self:?}");
        let room = self.answers().len() - self.heard.len();
        let (answer, stream) = bytes.split_at(room.min(bytes.len()));
        self.heard.extend_from_slice(answer);
        assert!(stream.is_empty() || self.is_connected(), "more than a refusal: {self:?}");
        self.down.check(stream, "what a caller is sent");
        assert!(!self.is_connected() || self.is_welcome(), "led to nobody: {self:?}");
    }

    /// There is somebody where he wants to go, and he may.
    fn is_welcome(&self) -> bool {
        self.plan.mistake.is_none() && matches!(self.plan.to.door, Door::Open | Door::Named)
    }

    pub const fn ended(&mut self) {
        self.eof_heard = true;
    }

    pub fn closed(&mut self, now: Instant) {
        self.closed_at.get_or_insert(now);
    }

    pub fn say(&mut self, most: usize, world: &SimWorld) -> Option<Saying> {
        if self.eof_said && self.plan.to.closes_after.is_none() {
            return None;
        }
        let now = world.now();
        if let Some((at, time)) = self.plan.rests
            && self.said == at
        {
            let until = *self.rests_until.get_or_insert_with(|| {
                world.wake_at(now.after(time));
                now.after(time)
            });
            if now < until {
                return None;
            }
        }
        let ends = match self.plan.mistake {
            Some(Mistake::Ends(at)) => at,
            _ => self.words.len(),
        };
        let waits = !self.plan.hurries && self.heard.is_empty() && self.greeting > 0;
        let mut to = if waits { ends.min(self.greeting) } else { ends };
        if let Some((at, _)) = self.plan.rests.filter(|(at, _)| self.said < *at) {
            to = to.min(at);
        }
        if self.said < to {
            let len = (to - self.said).min(most);
            let from = self.said;
            self.said += len;
            let mut data = self.words[from..from + len].to_vec();
            if self.said == self.words.len() && self.plan.hurries && self.plan.mistake.is_none() {
                // What he says there comes with it.
                let more = self.up.peek((most - len) as u64);
                self.up.advance(more.len());
                data.extend(more);
            }
            return (len > 0).then_some(Saying::Data(data));
        }
        if self.said < ends {
            return None;
        }
        match self.plan.mistake {
            Some(Mistake::Ends(_)) => self.end(),
            Some(Mistake::Noise) => None,
            _ => self.go_on(most),
        }
    }

    /// Where to is said.
    fn go_on(&mut self, most: usize) -> Option<Saying> {
        let connected = self.is_connected();
        if connected && self.plan.to.closes_after.is_some_and(|after| self.down.at >= after) {
            return Some(Saying::Close);
        }
        if self.eof_said || !(connected || self.plan.hurries) {
            return None;
        }
        if self.up.left() == 0 {
            return self.end();
        }
        let data = self.up.peek(most as u64);
        self.up.advance(data.len());
        (!data.is_empty()).then_some(Saying::Data(data))
    }

    fn end(&mut self) -> Option<Saying> {
        (!std::mem::replace(&mut self.eof_said, true)).then_some(Saying::End)
    }

    pub fn count(&self, tally: &mut Tally) {
        let late = self.is_late();
        let what = match self.plan.mistake {
            _ if late => "call late".to_owned(),
            Some(Mistake::Ends(_)) => "call ended early".to_owned(),
            Some(mistake) => format!("call {mistake:?}"),
            None => format!("call {:?}", self.plan.to.door),
        };
        tally.count(what, u64::from(self.closed_at.is_some()));
        tally.count("call connected", u64::from(self.is_connected()));
    }

    /// He never said where to, or has broken off.
    fn is_late(&self) -> bool {
        let ends = match self.plan.mistake {
            Some(Mistake::Ends(at)) => at,
            // The first byte tells.
            Some(Mistake::Noise) => 1,
            _ => self.words.len(),
        };
        self.said < ends
    }

    /// He has got what he came for. `calm`: nothing delays anybody.
    pub fn verdict(&self, calm: bool) -> Result<(), String> {
        let Some(closed_at) = self.closed_at else { return Err(format!("not closed: {self:?}")) };
        if self.is_late() {
            let time = closed_at.since(self.called_at);
            let slow = !calm || self.plan.rests.is_some_and(|(_, rest)| rest > SOCKS_TIME_MAX);
            let told = self.heard == self.told(None);
            let fine = time >= SOCKS_TIME_MAX && slow && told && self.eof_heard;
            return if fine {
                Ok(())
            } else {
                Err(format!("turned away after {time:?}: {self:?}"))
            };
        }
        let code = match (self.plan.mistake, self.plan.to.door) {
            (Some(Mistake::Noise | Mistake::Ends(_)), _) => None,
            (Some(Mistake::Unlisted), _) => Some(FORBIDDEN),
            (None, Door::Shut) => Some(REFUSED),
            (None, Door::Silent | Door::Path) => Some(UNREACHABLE),
            (None, Door::Open | Door::Named) => Some(0),
        };
        let closes = self.plan.to.closes_after.is_some();
        let resets = matches!(self.plan.to.habit, Habit::Reset { .. });
        let cut = code != Some(0) || closes || resets;
        let whole = cut || self.up.left() == 0 && self.down.left() == 0;
        let ended = self.eof_heard || closes || resets;
        match self.heard == self.told(code) && whole && ended {
            true => Ok(()),
            false => Err(format!("{self:?}")),
        }
    }

    /// Where he was, if all that he said is there.
    pub fn delivered_to(&self) -> Option<u16> {
        let fine = self.is_connected() && self.up.left() == 0;
        let cut = self.plan.to.closes_after.is_some()
            || matches!(self.plan.to.habit, Habit::Reset { .. });
        (fine && !cut).then_some(self.plan.to.port)
    }
}

/// RFC 1928 §6.
const FORBIDDEN: u8 = 2;
const UNREACHABLE: u8 = 4;
const REFUSED: u8 = 5;
