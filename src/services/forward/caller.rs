//! A channel on which somebody says by SOCKS where he wants to be connected to: what comes of a port that
//! a server listens at for us, and that leads to no one place.

use super::permits::Permits;
use super::socks::{Outcome, Socks, Step, Version};
use super::{Forward, Forwarding, Lists, Note, Phase, Target};
use crate::base::Instant;
use crate::limits::SOCKS_TIME_MAX;
use crate::reactor::Chunk;
use crate::services::Io;

/// Whoever speaks there, until he is connected or turned away.
#[derive(Debug)]
pub struct Caller {
    socks: Socks,
    /// What he speaks, once he has said where to.
    version: Option<Version>,
    /// What he is still to be told.
    unsaid: Vec<u8>,
    /// When he has been told it is over.
    ends: bool,
    /// How long he may take to say where to.
    until: Option<Instant>,
    /// PermitRemoteOpen.
    permits: Permits,
}

impl Caller {
    pub fn new(permits: Permits) -> Box<Caller> {
        let socks = Socks::default();
        let caller =
            Caller { socks, version: None, unsaid: Vec::new(), ends: false, until: None, permits };
        Box::new(caller)
    }

    /// Takes from the front of `bytes` what he says of where to.
    fn hear(&mut self, bytes: &mut &[u8]) -> Result<Option<Target>, &'static str> {
        loop {
            match self.socks.take(bytes) {
                Ok(Step::Wait(_)) => return Ok(None),
                Ok(Step::Say(words)) => self.unsaid.extend_from_slice(words),
                Ok(Step::Asked(target, version)) => {
                    self.version = Some(version);
                    return Ok(Some(target));
                }
                Err(refused) => {
                    self.unsaid.extend_from_slice(refused.say);
                    return Err(refused.why);
                }
            }
        }
    }
}

impl Forward {
    /// The channel is there at once: what is said on it says where to.
    pub(super) fn begin_asking(&mut self, io: &mut Io<'_>) {
        let Some(caller) = &mut self.caller else { return };
        let until = io.now().after(SOCKS_TIME_MAX);
        caller.until = Some(until);
        io.accept();
        io.wake_at(until);
    }

    /// A part of what he says.
    pub(super) fn hear_caller(&mut self, mut data: Chunk, io: &mut Io<'_>) {
        let Some(caller) = &mut self.caller else { return io.discard(data) };
        let mut rest = data.span.of(io.bytes(&mut data.lease)).unwrap_or_default();
        let heard = caller.hear(&mut rest);
        let used = data.span.len - rest.len() as u32;
        io.consumed(used);
        data.span = data.span.skip(used);
        match heard {
            Ok(None) => {
                io.give_back(data.lease);
                self.say(io);
            }
            Ok(Some(target)) => {
                match data.span.is_empty() {
                    true => io.give_back(data.lease),
                    // It is for whom he is connected to.
                    false => self.input.data(data, io),
                }
                self.go_to(target, io);
            }
            Err(why) => {
                io.discard(data);
                self.turn_caller_away(why, io);
            }
        }
    }

    fn go_to(&mut self, target: Target, io: &mut Io<'_>) {
        let Some(caller) = &mut self.caller else { return };
        self.what = format!("SOCKS to {target}");
        let rules = Forwarding { open: caller.permits.clone(), ..Forwarding::default() };
        let listed = match &target {
            Target::Tcp { host, port } => {
                let port = u16::try_from(*port).unwrap_or_default();
                rules.open.permits(host, port)
            }
            Target::Path(path) => rules.open.permits_path(path),
        };
        if !listed {
            let why = "PermitRemoteOpen does not list it".to_owned();
            return self.end_early(why, Outcome::Forbidden, io);
        }
        self.lists = Lists::about(&target, &rules);
        self.phase = Phase::New(target);
        self.begin(io);
    }

    /// He has not said where to in time, or never will.
    pub(super) fn give_caller_up(&mut self, io: &mut Io<'_>) {
        let late = |caller: &Caller| caller.until.is_some_and(|until| until <= io.now());
        if self.caller.as_deref().is_some_and(late) {
            self.turn_caller_away("it has not said in time where to", io);
        }
    }

    /// He will not say more.
    pub(super) fn end_asking(&mut self, io: &mut Io<'_>) {
        // Whoever only looks whether the port is open is not worth a line.
        match self.caller.as_deref().is_some_and(|caller| caller.socks.is_silent()) {
            true => self.leave_caller(io),
            false => self.turn_caller_away("it ends before it says where to", io),
        }
    }

    fn turn_caller_away(&mut self, why: &str, io: &mut Io<'_>) {
        io.note(Note::Failed { what: self.what.clone(), why: why.to_owned() });
        self.leave_caller(io);
    }

    fn leave_caller(&mut self, io: &mut Io<'_>) {
        self.phase = Phase::Failed;
        if let Some(caller) = &mut self.caller {
            caller.ends = true;
        }
        self.say(io);
    }

    /// Tells him what has come of it, if it is he who is to be told. False: there is no caller.
    pub(super) fn answer(&mut self, outcome: Outcome, io: &mut Io<'_>) -> bool {
        let Some(caller) = &mut self.caller else { return false };
        if let Some(version) = caller.version {
            caller.unsaid.extend_from_slice(version.answer(outcome));
        }
        caller.ends = outcome != Outcome::Connected;
        self.say(io);
        true
    }

    /// Says what is to be said, when there is room for it, and goes on.
    pub(super) fn say(&mut self, io: &mut Io<'_>) {
        let Some(caller) = &mut self.caller else { return };
        if !caller.unsaid.is_empty() {
            if !io.reply(&caller.unsaid) {
                return;
            }
            caller.unsaid.clear();
        }
        if caller.ends {
            self.caller = None;
            (self.eof_sent, self.close_sent) = (true, true);
            self.input.stop(io);
            io.eof();
            io.close();
        } else if matches!(self.phase, Phase::Open) {
            self.caller = None;
            self.pump(io);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_behind_where_to_is_left_for_the_connection() {
        let mut caller = Caller::new(Permits::ANY);
        let mut said: &[u8] = &[5, 1, 0, 5, 1, 0, 1, 127, 0, 0];
        assert_eq!(caller.hear(&mut said), Ok(None));
        assert_eq!((said, caller.unsaid.as_slice()), (&[][..], &[5, 0][..]));
        let mut said: &[u8] = &[1, 0, 80, b'G', b'E', b'T'];
        let target = Target::Tcp { host: "127.0.0.1".into(), port: 80 };
        assert_eq!(caller.hear(&mut said), Ok(Some(target)));
        assert_eq!((said, caller.version), (&b"GET"[..], Some(Version::Five)));
    }

    #[test]
    fn whoever_is_turned_away_hears_it_in_his_version() {
        for (said, answer) in [
            (&[5, 1, 0, 5, 3][..], &[5, 0, 5, 7, 0, 1, 0, 0, 0, 0, 0, 0][..]),
            (&[4, 2], &[0, 91, 0, 0, 0, 0, 0, 0]),
            (b"SSH-2.0-x", b""),
        ] {
            let mut caller = Caller::new(Permits::ANY);
            assert!(caller.hear(&mut { said }).is_err(), "{said:?}");
            assert_eq!(caller.unsaid, answer, "{said:?}");
        }
    }
}
