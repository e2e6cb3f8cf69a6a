//! What a gateway counts, for whoever looks (`tidegate ctl`): plain counters that each shard keeps for itself,
//! in memory that root's process shares with the processes it has started. Counting takes no lock, no system
//! call and no message; looking costs whoever looks.

mod memory;
pub mod roll;
pub mod told;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{io, iter};

use self::memory::Shared;
use crate::limits::FIGURE_SHEETS_MAX;
use crate::shard::{Report, What};

/// Counters of one shard, by their place in its sheet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Figure {
    /// Connections open now: the only one that also falls.
    Open,
    Accepted,
    Refused,
    KeyExchanges,
    Rekeys,
    /// By method: so many as [`METHODS`].
    Logins,
    Failures = Figure::Logins as usize + METHODS.len(),
    /// Of sessions that are served here.
    SessionsStarted = Figure::Failures as usize + METHODS.len(),
    SessionsEnded,
    /// Sessions that hosts behind the gateway serve.
    SessionsPassedOn,
    ForwardsStarted,
    ForwardsEnded,
    ForwardsFailed,
    UpstreamsFailed,
    /// Connections that ended for a defect or a lack of ours.
    Defects,
    BytesIn,
    BytesOut,
    /// From the accepting of a connection to its first keys: so many as buckets, and the sum of microseconds.
    Handshake,
    /// The same to its login.
    Login = Figure::Handshake as usize + BUCKETS + 1,
}

/// Methods of logins that are told apart; the last one is every other.
pub const METHODS: [&str; 4] = ["publickey", "password", "keyboard-interactive", "other"];

/// Upper bounds of the buckets that times are counted in, in microseconds; the last bucket has the rest.
pub const BOUNDS: [u64; 13] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];
pub const BUCKETS: usize = BOUNDS.len() + 1;

/// Cells of a sheet: no two shards write to one cache line.
pub const CELLS: usize = 64;
const _: () = assert!(Figure::Login as usize + BUCKETS < CELLS);
const SHEET_BYTES: usize = CELLS * size_of::<u64>();

/// The sheets of one process's shards.
#[derive(Debug)]
pub struct Figures(Memory);

#[derive(Debug)]
enum Memory {
    Own(Box<[AtomicU64]>),
    Shared(Shared),
}

impl Figures {
    /// Of a process that nobody else looks into.
    pub fn own(shards: usize) -> Figures {
        Figures(Memory::Own(cells(shards)))
    }

    /// For a process that is about to be started so: ours, and what it is to be sent.
    ///
    /// # Errors
    /// There are no descriptors or there is no memory left.
    pub fn shared(shards: usize) -> io::Result<(Figures, OwnedFd)> {
        let (memory, fd) = Shared::create(shards.clamp(1, FIGURE_SHEETS_MAX) * SHEET_BYTES)?;
        Ok((Figures(Memory::Shared(memory)), fd))
    }

    /// In such a process.
    ///
    /// # Errors
    /// It is not what [`Figures::shared`] makes.
    pub fn received(fd: &OwnedFd) -> io::Result<Figures> {
        Ok(Figures(Memory::Shared(Shared::open(fd, FIGURE_SHEETS_MAX * SHEET_BYTES)?)))
    }

    fn cells(&self) -> &[AtomicU64] {
        match &self.0 {
            Memory::Own(cells) => cells,
            Memory::Shared(memory) => memory.cells(),
        }
    }

    /// All shards' together. Whoever writes there may be hostile: sums end at the largest number.
    pub fn sum(&self) -> Sum {
        let mut sum = Sum::default();
        for sheet in self.cells().chunks_exact(CELLS) {
            for (total, cell) in iter::zip(&mut sum.0, sheet) {
                *total = total.saturating_add(cell.load(Ordering::Relaxed));
            }
        }
        sum
    }

    /// One more, from any thread.
    pub fn count(&self, figure: Figure) {
        if let Some(cell) = self.cells().get(figure as usize) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn cells(shards: usize) -> Box<[AtomicU64]> {
    let count = shards.clamp(1, FIGURE_SHEETS_MAX) * CELLS;
    iter::repeat_with(AtomicU64::default).take(count).collect()
}

/// One shard's sheet. Nobody else writes there.
#[derive(Debug)]
pub struct Sheet {
    figures: Arc<Figures>,
    first: usize,
}

impl Sheet {
    /// Shards past the last sheet share it, and may lose counts to one another.
    pub fn new(figures: Arc<Figures>, shard: usize) -> Sheet {
        let last = (figures.cells().len() / CELLS).saturating_sub(1);
        let first = shard.min(last) * CELLS;
        Sheet { figures, first }
    }

    fn add(&self, place: usize, amount: u64) {
        if let Some(cell) = self.figures.cells().get(self.first + place) {
            cell.store(cell.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
        }
    }

    pub fn count(&self, figure: Figure) {
        self.add(figure as usize, 1);
    }

    /// A turn of the shard is over: bytes that have come and left since the last, and connections it has.
    pub fn turned(&self, (bytes_in, bytes_out): (u64, u64), open: usize) {
        if bytes_in > 0 {
            self.add(Figure::BytesIn as usize, bytes_in);
        }
        if bytes_out > 0 {
            self.add(Figure::BytesOut as usize, bytes_out);
        }
        if let Some(cell) = self.figures.cells().get(self.first + Figure::Open as usize) {
            cell.store(open as u64, Ordering::Relaxed);
        }
    }

    fn count_time(&self, figure: Figure, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.add(figure as usize + bucket(micros), 1);
        self.add(figure as usize + BUCKETS, micros);
    }

    /// What was done, as the log is told of it.
    pub fn note(&self, report: &Report) {
        match &report.what {
            What::Connected { .. } => self.count(Figure::Accepted),
            What::KeyExchanged { first: true, after, .. } => {
                self.count(Figure::KeyExchanges);
                self.count_time(Figure::Handshake, *after);
            }
            What::KeyExchanged { first: false, .. } => self.count(Figure::Rekeys),
            What::Authenticated { method, after, .. } => {
                self.add(Figure::Logins as usize + place_of(method), 1);
                self.count_time(Figure::Login, *after);
            }
            What::AuthFailed { method, .. } => {
                self.add(Figure::Failures as usize + place_of(method), 1);
            }
            What::SessionStarted { .. } => {
                self.count(match goes_on_elsewhere(report) {
                    true => Figure::SessionsPassedOn,
                    false => Figure::SessionsStarted,
                });
            }
            // Why one ends may be told first, without its channel.
            What::SessionEnded { .. } if report.channel.is_some() => {
                self.count(Figure::SessionsEnded);
            }
            What::MovedIn { sessions, .. } if goes_on_elsewhere(report) => {
                self.add(Figure::SessionsPassedOn as usize, (*sessions).into());
            }
            What::MovedOn { .. } if goes_on_elsewhere(report) => {}
            // Here they have begun, and there they go on no more.
            What::MovedIn { sessions, forwards, .. } => {
                self.add(Figure::SessionsStarted as usize, (*sessions).into());
                self.add(Figure::ForwardsStarted as usize, (*forwards).into());
            }
            What::MovedOn { sessions, forwards, .. } => {
                self.add(Figure::SessionsEnded as usize, (*sessions).into());
                self.add(Figure::ForwardsEnded as usize, (*forwards).into());
            }
            What::Forwarding { .. } => self.count(Figure::ForwardsStarted),
            What::Forwarded { .. } => self.count(Figure::ForwardsEnded),
            What::NotForwarded { .. } => self.count(Figure::ForwardsFailed),
            What::UpstreamFailed { .. } => self.count(Figure::UpstreamsFailed),
            What::Disconnected { ours: true, .. } => self.count(Figure::Defects),
            _ => {}
        }
    }
}

fn goes_on_elsewhere(report: &Report) -> bool {
    report.grant.as_ref().is_some_and(|grant| grant.upstream.is_some())
}

fn bucket(micros: u64) -> usize {
    BOUNDS.partition_point(|bound| *bound < micros)
}

fn place_of(method: &str) -> usize {
    let known = METHODS.iter().position(|name| method.starts_with(name));
    known.unwrap_or(METHODS.len() - 1)
}

/// What several shards or processes have counted together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum([u64; CELLS]);

impl Default for Sum {
    fn default() -> Sum {
        Sum([0; CELLS])
    }
}

impl Sum {
    pub fn of(&self, figure: Figure) -> u64 {
        self.at(figure as usize)
    }

    fn at(&self, place: usize) -> u64 {
        self.0.get(place).copied().unwrap_or_default()
    }

    pub fn by_method(&self, figure: Figure) -> impl Iterator<Item = (&'static str, u64)> {
        METHODS.iter().enumerate().map(move |(n, name)| (*name, self.at(figure as usize + n)))
    }

    /// Counts by bucket, and the sum of seconds.
    pub fn times(&self, figure: Figure) -> (Vec<u64>, f64) {
        let counts = (0..BUCKETS).map(|n| self.at(figure as usize + n)).collect();
        (counts, self.at(figure as usize + BUCKETS) as f64 / 1e6)
    }

    /// How many there are of `begun` that have not ended.
    pub fn between(&self, begun: Figure, ended: Figure) -> u64 {
        self.of(begun).saturating_sub(self.of(ended))
    }

    fn add(&mut self, other: &Sum) {
        for (total, more) in iter::zip(&mut self.0, &other.0) {
            *total = total.saturating_add(*more);
        }
    }

    /// What is left of a process that has ended: nothing of it is open.
    fn ended(mut self) -> Sum {
        self.0[Figure::Open as usize] = 0;
        self.0[Figure::SessionsEnded as usize] = self.of(Figure::SessionsStarted);
        self.0[Figure::ForwardsEnded as usize] = self.of(Figure::ForwardsStarted);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::desk::UNKNOWN;

    fn report(what: What, channel: Option<u32>) -> Report {
        Report { serial: 1, peer: UNKNOWN, verbosity: None, what, grant: None, channel }
    }

    fn logged_in(method: &'static str, millis: u64) -> Report {
        let after = Duration::from_millis(millis);
        let (user, source) = ("ann".into(), String::new());
        report(What::Authenticated { user, method, key: None, source, after }, None)
    }

    #[test]
    fn a_session_that_is_told_of_twice_ends_once() {
        let figures = Arc::new(Figures::own(1));
        let sheet = Sheet::new(Arc::clone(&figures), 0);
        let (user, what) = (String::new(), String::new);
        sheet.note(&report(What::SessionStarted { user, what: what() }, Some(0)));
        sheet.note(&report(What::SessionEnded { what: what() }, None));
        let open = || figures.sum().between(Figure::SessionsStarted, Figure::SessionsEnded);
        assert_eq!(open(), 1);
        sheet.note(&report(What::SessionEnded { what: what() }, Some(0)));
        assert_eq!(open(), 0);
    }

    #[test]
    fn what_one_process_counts_another_one_sees() {
        let (ours, fd) = Figures::shared(2).expect("memory");
        let theirs = Arc::new(Figures::received(&fd).expect("the same"));
        let sheets = [0, 1].map(|shard| Sheet::new(Arc::clone(&theirs), shard));
        for (sheet, bytes) in sheets.iter().zip([(7, 0), (1, 3)]) {
            sheet.turned(bytes, 2);
            sheet.turned((0, 0), 1);
            sheet.note(&logged_in("publickey", 3));
        }
        sheets[0].note(&logged_in("gssapi", 60_000));
        let sum = ours.sum();
        assert_eq!(sum.of(Figure::Open), 2);
        assert_eq!((sum.of(Figure::BytesIn), sum.of(Figure::BytesOut)), (8, 3));
        let by_method: Vec<u64> = sum.by_method(Figure::Logins).map(|(_, count)| count).collect();
        assert_eq!(by_method, [2, 0, 0, 1]);
        let (counts, seconds) = sum.times(Figure::Login);
        assert_eq!((counts[2], counts[BUCKETS - 1], counts.iter().sum::<u64>()), (2, 1, 3));
        assert!((seconds - 60.006).abs() < 1e-9, "{seconds}");
    }

    #[test]
    fn times_are_counted_below_their_bounds() {
        assert_eq!([0, 1_000, 1_001, 10_000_000, 10_000_001].map(bucket), [0, 0, 1, 12, 13]);
    }

    /// SECURITY case 136: numbers that a process of ours writes are numbers, whatever they are.
    #[test]
    fn case_136_a_sheet_full_of_nonsense_is_added_up() {
        let (ours, fd) = Figures::shared(3).expect("memory");
        let theirs = Figures::received(&fd).expect("the same");
        theirs.cells().iter().for_each(|cell| cell.store(u64::MAX - 1, Ordering::Relaxed));
        let mut sum = ours.sum();
        assert_eq!(sum.of(Figure::Open), u64::MAX);
        sum.add(&ours.sum().ended());
        assert_eq!(sum.of(Figure::BytesIn), u64::MAX);
        assert_eq!(sum.between(Figure::SessionsStarted, Figure::SessionsEnded), 0);
    }

    #[test]
    fn sheets_are_as_many_as_there_may_be() {
        let (ours, fd) = Figures::shared(FIGURE_SHEETS_MAX + 1).expect("memory");
        let theirs = Arc::new(Figures::received(&fd).expect("the same"));
        Sheet::new(theirs, FIGURE_SHEETS_MAX + 7).count(Figure::Accepted);
        assert_eq!(ours.sum().of(Figure::Accepted), 1);
        let file = OwnedFd::from(tempfile::tempfile().expect("a file"));
        assert!(Figures::received(&file).is_err(), "it is empty");
    }
}
