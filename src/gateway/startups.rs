//! Who may begin a connection: MaxStartups for the whole process, PerSourceMaxStartups and
//! PerSourcePenalties for one source of connections.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::info;

use super::config::{Global, HostList, MaxStartups, Overflow, Penalties, SourceBlocks, Verdict};
use crate::base::Instant;
use crate::limits::{STANDINGS_MAX, STARTUPS_MAX};
use crate::shard::StartupEnd;

/// Unauthenticated connections a process holds, with random early refusal between `start` and
/// `full`, so that a storm cannot shut honest logins out altogether; and what their sources have
/// earned.
#[derive(Debug)]
pub struct Startups {
    start: usize,
    /// Per cent of connections refused at `start`, rising to 100 at `full`.
    rate: u32,
    full: usize,
    open: AtomicUsize,
    /// Steps through the percentages; which connection is refused need not be unpredictable.
    dice: AtomicU32,
    refused: AtomicUsize,
    rules: Rules,
    sources: Mutex<Sources>,
}

/// Why a connection may not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// MaxStartups.
    TooMany,
    /// PerSourceMaxStartups.
    TooManyOfSource,
    /// PerSourcePenalties: what its source did.
    Penalty(&'static str),
    /// PerSourcePenalties overflow:deny-all.
    TooManyPenalties,
}

impl Refused {
    /// The keyword that says so.
    pub const fn keyword(self) -> &'static str {
        match self {
            Refused::TooMany => "MaxStartups",
            Refused::TooManyOfSource => "PerSourceMaxStartups",
            Refused::Penalty(_) => "PerSourcePenalties",
            Refused::TooManyPenalties => "PerSourcePenalties overflow",
        }
    }

    /// It is for what sources have earned.
    pub const fn is_penalty(self) -> bool {
        matches!(self, Refused::Penalty(_) | Refused::TooManyPenalties)
    }
}

/// What a source has earned and not yet served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The block of addresses.
    pub source: IpAddr,
    pub until: Instant,
    /// It keeps the source out.
    pub active: bool,
    /// One of [`REASONS`].
    pub why: &'static str,
}

/// Why sources have penalties.
pub const REASONS: [&str; 5] = [
    "it asked for a user who does not exist",
    "it failed to log in",
    "it did not try to log in",
    "it took too long to log in",
    "its connection was refused",
];

/// A penalty that keeps its source out from now on, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptOut {
    pub time: Duration,
    pub why: &'static str,
}

impl KeptOut {
    pub fn tell(&self, source: IpAddr) {
        let KeptOut { time, why } = self;
        let seconds = time.as_secs_f32();
        info!(%source, seconds, why, "Keeping {source} out for {seconds} s: {why}");
    }
}

#[derive(Debug)]
struct Rules {
    per_source: Option<u32>,
    blocks: SourceBlocks,
    penalties: Penalties,
    exempt: Option<HostList>,
}

/// What is known of sources; touched at the beginning and at the end of a login only.
#[derive(Debug, Default)]
struct Sources {
    /// Unauthenticated connections by source; only kept while PerSourceMaxStartups bounds them.
    open: HashMap<IpAddr, u32>,
    ipv4: Table,
    ipv6: Table,
    /// Peers of open connections that asked for a user who does not exist.
    unknown_users: HashSet<SocketAddr>,
}

/// Penalties of one address family.
#[derive(Debug, Default)]
struct Table {
    penalties: HashMap<IpAddr, Penalty>,
    by_end: BTreeSet<(Instant, IpAddr)>,
}

#[derive(Clone, Copy, Debug)]
struct Penalty {
    until: Instant,
    /// It has reached the least that keeps a source out.
    active: bool,
    why: &'static str,
}

impl Startups {
    /// Bounds as a configuration has them.
    pub fn new(global: &Global) -> Startups {
        Startups::with(
            global.max_startups,
            Rules {
                per_source: global.per_source_startups,
                blocks: global.source_blocks,
                penalties: global.penalties.clone(),
                exempt: global.penalty_exempt.clone(),
            },
        )
    }

    /// No bound at all: for a process that only takes logins over.
    pub fn unbounded() -> Startups {
        let limits = MaxStartups { start: usize::MAX, rate: 0, full: usize::MAX };
        let penalties = Penalties { enabled: false, ..Penalties::default() };
        let blocks = SourceBlocks { ipv4: 32, ipv6: 128 };
        Startups::with(limits, Rules { per_source: None, blocks, penalties, exempt: None })
    }

    fn with(limits: MaxStartups, rules: Rules) -> Startups {
        Startups {
            start: limits.start,
            rate: limits.rate,
            full: limits.full,
            open: AtomicUsize::new(0),
            dice: AtomicU32::new(0),
            refused: AtomicUsize::new(0),
            rules,
            sources: Mutex::default(),
        }
    }

    /// Takes a slot for a connection of this peer.
    ///
    /// # Errors
    /// The connection is to be refused; no slot is taken.
    pub fn admit(&self, peer: IpAddr, now: Instant) -> Result<(), Refused> {
        let admitted = self
            .admit_source(peer, now)
            .and_then(|()| self.admit_any().inspect_err(|_| self.leave_source(peer)));
        if admitted.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    /// Gives a slot back: the connection has logged in or ended. Answers when that brings its
    /// source a penalty that keeps it out.
    pub fn over(&self, peer: SocketAddr, how: StartupEnd, now: Instant) -> Option<KeptOut> {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.leave_source(peer.ip());
        if !self.rules.penalties.enabled {
            return None;
        }
        let unknown_user = self.sources().unknown_users.remove(&peer);
        self.penalise(peer.ip(), how, unknown_user, now)
    }

    /// The peer of an open connection asked for a user who does not exist.
    pub fn note_unknown_user(&self, peer: SocketAddr) {
        if !self.rules.penalties.enabled {
            return;
        }
        let unknown = &mut self.sources().unknown_users;
        // Names of connections that ended before their answer came stay behind.
        if unknown.len() >= STARTUPS_MAX {
            unknown.clear();
        }
        unknown.insert(peer);
    }

    /// Whether that was noted of this peer; not any more now. For whoever tells it to those who count.
    pub fn take_unknown_user(&self, peer: SocketAddr) -> bool {
        self.sources().unknown_users.remove(&peer)
    }

    /// PerSourcePenalties is on.
    pub const fn penalises(&self) -> bool {
        self.rules.penalties.enabled
    }

    /// Whether that was noted of this peer.
    pub fn is_unknown_user(&self, peer: SocketAddr) -> bool {
        self.sources().unknown_users.contains(&peer)
    }

    /// What a connection that somebody else has counted brings its source, as for [`Startups::over`].
    pub fn earn(
        &self,
        peer: IpAddr,
        how: StartupEnd,
        unknown_user: bool,
        now: Instant,
    ) -> Option<KeptOut> {
        let enabled = self.rules.penalties.enabled;
        enabled.then(|| self.penalise(peer, how, unknown_user, now)).flatten()
    }

    /// What sources have earned, for whoever counts next: the last to end first, so many at most.
    pub fn standings(&self, now: Instant) -> Vec<Standing> {
        let sources = &mut *self.sources();
        let mut all = Vec::new();
        for table in [&mut sources.ipv4, &mut sources.ipv6] {
            table.expire(now);
            let last = table.by_end.iter().rev().take(STANDINGS_MAX);
            all.extend(last.filter_map(|(until, source)| {
                let Penalty { active, why, .. } = *table.penalties.get(source)?;
                Some(Standing { source: *source, until: *until, active, why })
            }));
        }
        all
    }

    /// What somebody else has counted of a source.
    pub fn inherit(&self, standing: &Standing) {
        let Standing { source, until, active, why } = *standing;
        let mut sources = self.sources();
        let table = sources.table(source);
        table.remove(source);
        table.penalties.insert(source, Penalty { until, active, why });
        table.by_end.insert((until, source));
    }

    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Takes a slot for a connection of this peer that somebody else has let in.
    pub fn adopt(&self, peer: IpAddr) {
        self.open.fetch_add(1, Ordering::Relaxed);
        if self.rules.per_source.is_some() {
            *self.sources().open.entry(self.rules.blocks.source(peer)).or_default() += 1;
        }
    }

    /// MaxStartups.
    fn admit_any(&self) -> Result<(), Refused> {
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        if open < self.start {
            return Ok(());
        }
        let refuse = open >= self.full || {
            let span = (self.full - self.start).max(1) as u64;
            let over = (open - self.start) as u64;
            let chance = u64::from(self.rate) + u64::from(100 - self.rate.min(100)) * over / span;
            // 37 is coprime to 100: every percentage comes up once in a hundred.
            let roll = self.dice.fetch_add(37, Ordering::Relaxed) % 100;
            u64::from(roll) < chance
        };
        if !refuse {
            return Ok(());
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
        Err(Refused::TooMany)
    }

    /// PerSourcePenalties, then PerSourceMaxStartups.
    fn admit_source(&self, peer: IpAddr, now: Instant) -> Result<(), Refused> {
        let rules = &self.rules;
        if rules.per_source.is_none() && !rules.penalties.enabled {
            return Ok(());
        }
        let source = rules.blocks.source(peer);
        let mut sources = self.sources();
        if rules.penalties.enabled && !self.is_exempt(peer) {
            let (most, overflow) = rules.penalties.of(source);
            sources.table(source).check(source, now, most, overflow)?;
        }
        if let Some(most) = rules.per_source {
            let open = sources.open.entry(source).or_default();
            if *open >= most {
                return Err(Refused::TooManyOfSource);
            }
            *open += 1;
        }
        Ok(())
    }

    fn leave_source(&self, peer: IpAddr) {
        if self.rules.per_source.is_none() {
            return;
        }
        let source = self.rules.blocks.source(peer);
        let mut sources = self.sources();
        if let Some(open) = sources.open.get_mut(&source) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                sources.open.remove(&source);
            }
        }
    }

    fn penalise(
        &self,
        peer: IpAddr,
        how: StartupEnd,
        unknown_user: bool,
        now: Instant,
    ) -> Option<KeptOut> {
        let penalties = &self.rules.penalties;
        let [unknown, failed, idle, late, refused] = REASONS;
        let (time, why) = match how {
            StartupEnd::LoggedIn | StartupEnd::Ours => return None,
            StartupEnd::Attempted if unknown_user => (penalties.invalid_user, unknown),
            StartupEnd::Attempted => (penalties.auth_failure, failed),
            StartupEnd::NoAttempt => (penalties.no_auth, idle),
            StartupEnd::Late => (penalties.grace, late),
            StartupEnd::Refused => (penalties.refused, refused),
        };
        if time.is_zero() || self.is_exempt(peer) {
            return None;
        }
        let source = self.rules.blocks.source(peer);
        self.sources().table(source).add(source, time, why, now, penalties)
    }

    fn is_exempt(&self, peer: IpAddr) -> bool {
        let exempt = self.rules.exempt.as_ref();
        exempt.is_some_and(|list| list.verdict(peer, None) == Verdict::Matches)
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SourceBlocks {
    /// The block of addresses that a peer stands for.
    fn source(self, peer: IpAddr) -> IpAddr {
        match peer.to_canonical() {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.ipv4.min(32))).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.ipv6.min(128))).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        }
    }
}

impl Penalties {
    /// How many sources of the family are remembered, and what happens beyond.
    fn of(&self, source: IpAddr) -> (usize, Overflow) {
        match source {
            IpAddr::V4(_) => (self.sources4 as usize, self.overflow),
            IpAddr::V6(_) => (self.sources6 as usize, self.overflow6.unwrap_or(self.overflow)),
        }
    }
}

impl Sources {
    const fn table(&mut self, source: IpAddr) -> &mut Table {
        match source {
            IpAddr::V4(_) => &mut self.ipv4,
            IpAddr::V6(_) => &mut self.ipv6,
        }
    }
}

impl Table {
    fn check(
        &mut self,
        source: IpAddr,
        now: Instant,
        most: usize,
        overflow: Overflow,
    ) -> Result<(), Refused> {
        self.expire(now);
        if overflow == Overflow::DenyAll && self.penalties.len() > most {
            return Err(Refused::TooManyPenalties);
        }
        match self.penalties.get(&source) {
            Some(penalty) if penalty.active => Err(Refused::Penalty(penalty.why)),
            _ => Ok(()),
        }
    }

    fn add(
        &mut self,
        source: IpAddr,
        time: Duration,
        why: &'static str,
        now: Instant,
        rules: &Penalties,
    ) -> Option<KeptOut> {
        self.expire(now);
        let (most, overflow) = rules.of(source);
        if overflow == Overflow::DenyAll && self.penalties.len() > most {
            return None;
        }
        let before = self.remove(source);
        let runs = before.map_or(Duration::ZERO, |p| p.until.since(now));
        let sum = (runs + time).min(rules.max);
        let was_active = before.is_some_and(|penalty| penalty.active);
        let active = was_active || sum >= rules.min;
        let until = now.after(sum);
        self.penalties.insert(source, Penalty { until, active, why });
        self.by_end.insert((until, source));
        while overflow == Overflow::Permissive && self.penalties.len() > most {
            let (_, first) = self.by_end.pop_first()?;
            self.penalties.remove(&first);
        }
        (active && !was_active).then_some(KeptOut { time: sum, why })
    }

    fn remove(&mut self, source: IpAddr) -> Option<Penalty> {
        let penalty = self.penalties.remove(&source)?;
        self.by_end.remove(&(penalty.until, source));
        Some(penalty)
    }

    fn expire(&mut self, now: Instant) {
        while let Some((until, source)) = self.by_end.first().copied() {
            if until > now {
                return;
            }
            self.by_end.pop_first();
            self.penalties.remove(&source);
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::TooMany => out.write_str("MaxStartups is reached"),
            Refused::TooManyOfSource => out.write_str("PerSourceMaxStartups is reached"),
            Refused::Penalty(why) => write!(out, "PerSourcePenalties: {why}"),
            Refused::TooManyPenalties => {
                out.write_str("PerSourcePenalties: more sources misbehave than are remembered")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::config::parse;

    fn startups(text: &str) -> Startups {
        let config = parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
        Startups::new(&config.global)
    }

    fn peer(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().expect("an address"), 4000)
    }

    /// A connection that ends in this way.
    fn one(startups: &Startups, from: &str, how: StartupEnd, now: Instant) -> Option<KeptOut> {
        let peer = peer(from);
        startups.admit(peer.ip(), now).expect("let in");
        startups.over(peer, how, now)
    }

    fn start() -> Instant {
        Instant::from_nanos(1_000_000_000)
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn refuses_some_from_start_and_all_from_full() {
        let startups = startups("MaxStartups 10:30:100\nPerSourcePenalties no");
        let (from, now) = (peer("192.0.2.1"), start());
        let admitted = (0..1000).filter(|_| startups.admit(from.ip(), now).is_ok()).count();
        assert_eq!(admitted, startups.open());
        assert!((20..=100).contains(&admitted), "{admitted}");
        assert_eq!(startups.refused(), 1000 - admitted);
        for _ in 0..admitted {
            startups.over(from, StartupEnd::NoAttempt, now);
        }
        assert_eq!(startups.open(), 0);
        assert!(startups.admit(from.ip(), now).is_ok());
    }

    #[test]
    fn one_source_has_its_own_bound() {
        let startups =
            startups("PerSourceMaxStartups 2\nPerSourceNetBlockSize 24:64\nPerSourcePenalties no");
        let now = start();
        let admit = |from: &str| startups.admit(peer(from).ip(), now);
        assert_eq!(admit("192.0.2.1"), Ok(()));
        assert_eq!(admit("192.0.2.200"), Ok(()));
        assert_eq!(admit("192.0.2.1"), Err(Refused::TooManyOfSource));
        assert_eq!(admit("192.0.3.1"), Ok(()));
        assert_eq!(admit("2001:db8::1"), Ok(()));
        assert_eq!(admit("2001:db8::ffff"), Ok(()));
        assert_eq!(admit("2001:db8::2"), Err(Refused::TooManyOfSource));
        assert_eq!(admit("2001:db8:0:1::2"), Ok(()));
        // An IPv4 peer of a dual-stack listener is the same source.
        assert_eq!(admit("::ffff:192.0.2.9"), Err(Refused::TooManyOfSource));
        assert_eq!(startups.open(), 6);
        startups.over(peer("192.0.2.200"), StartupEnd::LoggedIn, now);
        assert_eq!(admit("192.0.2.7"), Ok(()));
        assert_eq!(startups.refused(), 3);
    }

    #[test]
    fn a_place_that_is_taken_again_counts_for_its_source_too() {
        let startups = startups("PerSourceMaxStartups 1\nPerSourcePenalties no");
        let (from, now) = (peer("192.0.2.1"), start());
        startups.admit(from.ip(), now).expect("let in");
        startups.over(from, StartupEnd::Ours, now);
        startups.adopt(from.ip());
        assert_eq!(startups.admit(from.ip(), now), Err(Refused::TooManyOfSource));
        startups.over(from, StartupEnd::Ours, now);
        assert_eq!((startups.open(), startups.admit(from.ip(), now)), (0, Ok(())));
    }

    #[test]
    fn a_connection_refused_by_max_startups_is_not_counted_for_its_source() {
        let startups = startups("MaxStartups 1\nPerSourceMaxStartups 2\nPerSourcePenalties no");
        let (from, now) = (peer("192.0.2.1"), start());
        assert_eq!(startups.admit(from.ip(), now), Ok(()));
        for _ in 0..5 {
            assert_eq!(startups.admit(from.ip(), now), Err(Refused::TooMany));
        }
        startups.over(from, StartupEnd::LoggedIn, now);
        assert_eq!(startups.admit(from.ip(), now), Ok(()));
    }

    #[test]
    fn case_126_penalties_add_up_keep_out_and_run_out() {
        let startups = startups("PerSourcePenalties authfail:5 min:15 max:20");
        let (from, now) = ("192.0.2.1", start());
        for _ in 0..5 {
            assert_eq!(startups.admit(peer(from).ip(), now), Ok(()));
        }
        assert_eq!(one(&startups, from, StartupEnd::Attempted, now), None);
        assert_eq!(one(&startups, from, StartupEnd::Attempted, now), None);
        let kept_out = one(&startups, from, StartupEnd::Attempted, now).expect("the third");
        assert_eq!(kept_out.time, seconds(15));
        let late = now.after(seconds(14));
        assert_eq!(startups.admit(peer(from).ip(), late), Err(Refused::Penalty(kept_out.why)));
        assert_eq!(startups.admit(peer("192.0.2.2").ip(), late), Ok(()));
        // Connections that were open already add to it, up to the most.
        for _ in 0..5 {
            assert_eq!(startups.over(peer(from), StartupEnd::Attempted, late), None);
        }
        let later = late.after(seconds(19));
        assert!(startups.admit(peer(from).ip(), later).is_err());
        assert_eq!(startups.admit(peer(from).ip(), later.after(seconds(1))), Ok(()));
    }

    #[test]
    fn each_misdeed_has_its_time_and_logins_have_none() {
        let startups = startups(
            "PerSourcePenalties min:0 authfail:1 invaliduser:2 noauth:3 grace-exceeded:4 \
             refuseconnection:5.5",
        );
        let now = start();
        let time = |from: &str, how| one(&startups, from, how, now).map(|kept| kept.time);
        assert_eq!(time("192.0.2.1", StartupEnd::Attempted), Some(seconds(1)));
        startups.note_unknown_user(peer("192.0.2.2"));
        assert_eq!(time("192.0.2.2", StartupEnd::Attempted), Some(seconds(2)));
        assert_eq!(time("192.0.2.3", StartupEnd::NoAttempt), Some(seconds(3)));
        assert_eq!(time("192.0.2.4", StartupEnd::Late), Some(seconds(4)));
        assert_eq!(time("192.0.2.5", StartupEnd::Refused), Some(Duration::from_millis(5500)));
        assert_eq!(time("192.0.2.6", StartupEnd::LoggedIn), None);
        assert_eq!(time("192.0.2.7", StartupEnd::Ours), None);
        assert!(startups.sources().unknown_users.is_empty());
        // A zero switches one kind off.
        let startups = self::startups("PerSourcePenalties min:0 noauth:0");
        assert_eq!(one(&startups, "192.0.2.3", StartupEnd::NoAttempt, now), None);
    }

    #[test]
    fn exempt_sources_are_never_kept_out() {
        let startups = startups(
            "PerSourcePenalties min:0\nPerSourcePenaltyExemptList 192.0.2.0/24,!192.0.2.9,::1",
        );
        let now = start();
        for from in ["192.0.2.1", "::1"] {
            assert_eq!(one(&startups, from, StartupEnd::Late, now), None);
            assert_eq!(startups.admit(peer(from).ip(), now), Ok(()));
        }
        assert!(one(&startups, "192.0.2.9", StartupEnd::Late, now).is_some());
    }

    #[test]
    fn case_126_beyond_what_is_remembered_the_oldest_go_or_nobody_comes() {
        let now = start();
        let text = "PerSourcePenalties min:0 grace-exceeded:10 noauth:20 max-sources4:2";
        let forgetful = startups(text);
        assert!(one(&forgetful, "192.0.2.1", StartupEnd::Late, now).is_some());
        assert!(one(&forgetful, "192.0.2.2", StartupEnd::NoAttempt, now).is_some());
        assert!(one(&forgetful, "192.0.2.3", StartupEnd::NoAttempt, now).is_some());
        assert_eq!(forgetful.admit(peer("192.0.2.1").ip(), now), Ok(()), "it ended soonest");
        assert!(forgetful.admit(peer("192.0.2.2").ip(), now).is_err());

        let strict = startups(&format!("{text} overflow:deny-all overflow6:permissive"));
        for from in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
            assert!(one(&strict, from, StartupEnd::Late, now).is_some());
        }
        let refused = strict.admit(peer("198.51.100.1").ip(), now);
        assert_eq!(refused, Err(Refused::TooManyPenalties));
        assert_eq!(strict.admit(peer("2001:db8::1").ip(), now), Ok(()));
        let over = now.after(seconds(10));
        assert_eq!(strict.admit(peer("198.51.100.1").ip(), over), Ok(()));
    }

    #[test]
    fn case_126_what_is_remembered_is_bounded() {
        let startups = startups("PerSourcePenalties max-sources4:10\nPerSourceMaxStartups 1");
        let now = start();
        for n in 0..200_u8 {
            one(&startups, &format!("192.0.2.{n}"), StartupEnd::NoAttempt, now);
        }
        let sources = startups.sources();
        assert_eq!((sources.ipv4.penalties.len(), sources.ipv4.by_end.len()), (10, 10));
        assert!(sources.open.is_empty());
    }

    /// Another process goes on where one has ended.
    #[test]
    fn what_was_earned_is_inherited() {
        let text = "PerSourcePenalties authfail:10 noauth:4 min:15\n";
        let (now, first) = (start(), startups(text));
        for (from, how) in [
            ("192.0.2.1", StartupEnd::Attempted),
            ("192.0.2.1", StartupEnd::Attempted),
            ("192.0.2.2", StartupEnd::NoAttempt),
            ("2001:db8::1", StartupEnd::Attempted),
        ] {
            first.earn(peer(from).ip(), how, false, now);
        }
        first.earn(peer("192.0.2.3").ip(), StartupEnd::LoggedIn, false, now);
        let standings = first.standings(now);
        assert_eq!(standings.iter().filter(|standing| standing.active).count(), 1);
        let second = startups(text);
        standings.iter().for_each(|standing| second.inherit(standing));
        assert_eq!(second.standings(now), standings);
        let refused = second.admit(peer("192.0.2.1").ip(), now);
        assert_eq!(refused, Err(Refused::Penalty("it failed to log in")));
        second.admit(peer("192.0.2.2").ip(), now).expect("it has earned too little");
        // What it had counts on.
        assert!(one(&second, "2001:db8::1", StartupEnd::Attempted, now).is_some());
        assert_eq!(second.admit(peer("192.0.2.1").ip(), now.after(seconds(20))), Ok(()));
        assert!(second.standings(now.after(seconds(20))).iter().all(|s| s.source.is_ipv6()));
    }
}
