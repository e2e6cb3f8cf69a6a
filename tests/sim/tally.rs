//! What a run came to, and whether all runs together met with everything that they are for.

use std::collections::BTreeMap;
use std::fmt;

/// Counts by name, over one seed or many.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub seeds: u64,
    pub trace: u64,
    counts: BTreeMap<String, u64>,
    /// The most of something that a seed had, and which seed.
    peaks: BTreeMap<&'static str, (u64, u64)>,
}

/// What many seeds together must have met with; a simulator that stops exercising one of these
/// would pass ever more easily.
pub const EXERCISED: &[&str] = &[
    // Ends.
    "client done",
    "client lost",
    "client refused",
    "client vanished",
    "stopped in the middle",
    // Moves and keys.
    "hand-over",
    "hand-over failed",
    "client moved",
    "gateway moved",
    "moved on",
    "moved in",
    "move refused",
    "moved to another shard",
    "moved with sessions",
    "moved with forwarded connections",
    "moved with a terminal",
    "moved with bytes that were not opened",
    "moved with bytes that were not sent",
    "moved with bytes that were not written",
    "end told late",
    "luggage spoilt",
    "client began rekey",
    "rekeyed",
    "receive windows grew",
    "receive windows took most of their budget",
    "data during a key exchange",
    // What clients do.
    "cat",
    "source",
    "sink",
    "early",
    "leave",
    "exit",
    "die",
    "wait",
    "stubborn",
    "deaf",
    "shut",
    "hush",
    "terminal",
    "shell",
    "closed early",
    "file put",
    "file got",
    "file copied",
    "file missed",
    "directory listed",
    "scp to",
    "scp from",
    "scp missed",
    "scp directory",
    "scp left",
    "forward Open",
    "forward Named",
    "forward Path",
    "forward Shut",
    "forward Silent",
    "target answers",
    "target speaks first",
    "target resets",
    "forward closed early",
    "forwarded bytes",
    "login that goes on",
    "login that shares",
    "host tried in vain",
    "host lost",
    "idle too long",
    "seldom heard of",
    "unused too long",
    "silent too long",
    "finite field",
    "compressed data",
    "rest before reading",
    "meddled Flip",
    "meddled Insert",
    "meddled Lose",
    "meddled Double",
    "meddled Silence",
    // The office.
    "job",
    "job lost",
    "job refused",
    "start failed",
    "admission refused",
    "file job failed",
    // Memory.
    "lease refused",
    // The world.
    "short transfer",
    "reset",
    "stall",
    "flipped bit",
    "no shared buffer",
    "full ring",
    "cancel lost",
    "interrupt",
    "accept error",
    "below the receive mark",
    "connection refused",
    "disk error",
    "disk full",
    // Those who break rules.
    "crime Noise",
    "crime Silence",
    "crime Loiter",
    "crime AuthFlood",
    "crime EarlyChannel",
    "crime WindowOverrun",
    "crime PacketTooLarge",
    "crime UnknownChannel",
    "crime DataAfterEof",
    "crime CloseTwice",
    "crime AdjustPastEnd",
    "crime GlobalFlood",
    "crime PingFlood",
    "crime PingDrip",
    "crime OpenFlood",
    "crime RequestFlood",
    "crime IgnoreFlood",
    "crime HalfRekey",
    "crime SftpNoise",
    "crime RandomMessages",
    "crime Hoard",
];

/// The same in the client's role.
pub const EXERCISED_ABROAD: &[&str] = &[
    "abroad done",
    "abroad lost",
    "abroad Echo",
    "abroad Talk",
    "abroad Leave",
    "abroad hung up",
    "abroad Get",
    "abroad Put",
    "abroad refused",
    "abroad short",
    "abroad began rekey",
    "abroad rekeyed",
    "call connected",
    "call Open",
    "call Named",
    "call Shut",
    "call Silent",
    "call Noise",
    "call Unlisted",
    "call ended early",
    "call late",
    "worker lost",
    "host rests",
    "host vanished",
    "lie AdjustsPastEnd",
    "lie AnotherKey",
    "lie AnotherKeyLater",
    "lie AnswersUnasked",
    "lie CloseTwice",
    "lie DataBehindEof",
    "lie Deaf",
    "lie Files(NothingAsked)",
    "lie Files(SuccessForData)",
    "lie Files(TooLong)",
    "lie Files(TooMuch)",
    "lie Files(VersionTwice)",
    "lie ForgedLater",
    "lie HalfRekey",
    "lie Mute",
    "lie OverrunsWindow",
    "lie PacketTooLarge",
    "lie UnknownChannel",
    "lie Withholds",
    "lease refused",
    "short transfer",
    "reset",
    "stall",
    "no shared buffer",
    "full ring",
    "cancel lost",
    "interrupt",
    "connection refused",
    "disk error",
];

impl Tally {
    pub fn count(&mut self, what: impl Into<String>, times: u64) {
        *self.counts.entry(what.into()).or_default() += times;
    }

    pub fn times(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or_default()
    }

    pub fn peak(&mut self, what: &'static str, seed: u64, value: u64) {
        let peak = self.peaks.entry(what).or_insert((value, seed));
        *peak = (*peak).max((value, seed));
    }

    pub fn add(&mut self, other: Tally) {
        self.seeds += other.seeds;
        self.trace ^= other.trace;
        for (what, times) in other.counts {
            self.count(what, times);
        }
        for (what, (value, seed)) in other.peaks {
            self.peak(what, seed, value);
        }
    }

    /// What should have been met with and was not.
    pub fn missing(&self, of: &'static [&'static str]) -> Vec<&'static str> {
        let met = |what: &str| self.counts.get(what).is_some_and(|times| *times > 0);
        of.iter().copied().filter(|what| !met(what)).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} seeds", self.seeds)?;
        for (what, times) in &self.counts {
            writeln!(f, "{times:>12} {what}")?;
        }
        for (what, (value, seed)) in &self.peaks {
            writeln!(f, "{value:>12} {what}, at most (seed {seed})")?;
        }
        Ok(())
    }
}
