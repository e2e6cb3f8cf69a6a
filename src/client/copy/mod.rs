//! What `tidegate cp` does: files from here to a server, from there to here, and from one server to
//! another.
//!
//! Tasks ([`desk`]) say what is to be done with files, one request after the other; they know no I/O.
//! Names and attributes of our own files are looked at by other threads ([`own`]). The bytes are moved by the sessions
//! ([`crate::services::sftp_client`]) on the client's one shard. [`run()`] carries orders from the one
//! to the other.

mod aside;
mod commands;
mod desk;
mod file;
mod listener;
mod listing;
mod own;
mod pattern;
mod place;
mod reach;
mod relay;
mod remote;
mod report;
mod resume;
mod run;
mod screen;
mod split;
mod survey;
mod tree;
mod trouble;

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;

pub use place::{Host, Location};
pub use run::run;
pub use tree::Filter;

use self::aside::Aside;
use self::desk::{Desk, Places};
use self::file::{Copied, Side, Spot};
use self::remote::Remote;
use self::survey::Found;
use self::trouble::Trouble;
use crate::base::escape;
use crate::limits::{COPY_FILES_AT_ONCE, COPY_SPLIT_BYTES_MIN};

/// What is to be copied, and how.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub sources: Vec<Location>,
    pub target: Location,
    /// `-r`
    pub recursive: bool,
    /// `-p`: times and modes.
    pub preserve: bool,
    pub fsync: bool,
    /// What an interrupted copy has brought is not gone on with.
    pub anew: bool,
    pub dry_run: bool,
    pub json: bool,
    /// `-q`: no progress and no summary.
    pub quiet: bool,
    /// `-v`: every file is told.
    pub verbose: bool,
    /// `-l`, `--limit-rate`
    pub bytes_a_second: Option<u64>,
    /// SFTP sessions of one host; `None`: as many as help.
    pub streams: Option<usize>,
    /// How often in a row a lost host is tried to be reached.
    pub retries: u32,
    pub filter: Filter,
}

/// One copy under way; its tasks share it.
pub struct Copy {
    pub plan: Plan,
    pub desk: Desk,
    pub aside: Aside,
    pub places: Places,
    hosts: RefCell<Vec<AtHost>>,
    /// Somebody looks at how far it is.
    shows: bool,
    totals: Cell<Totals>,
    /// What there is to be copied, as far as is known.
    found: Cell<Found>,
    /// Files and parts of files that are done for good.
    advanced: Cell<u64>,
    /// What is moved now, the oldest first.
    under_way: RefCell<Vec<Rc<UnderWay>>>,
    news: RefCell<Vec<String>>,
    hasher: RandomState,
}

/// What is open at a host.
#[derive(Clone, Debug)]
pub struct AtHost {
    host: Host,
    stations: Vec<usize>,
    /// There may be more of them later.
    grows: bool,
}

/// A file that is being moved.
#[derive(Debug)]
pub struct UnderWay {
    /// Its last name.
    name: Vec<u8>,
    bytes: u64,
    /// What an earlier copy had brought.
    kept: u64,
    moved: Rc<Cell<u64>>,
}

/// What has been done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub files: u64,
    pub bytes: u64,
    /// Bytes that an earlier copy had brought.
    pub kept: u64,
    pub failed: u64,
    /// Bytes of files that have failed.
    pub given_up: u64,
}

impl Copy {
    fn new(plan: Plan, (desk, aside): (Desk, Aside), hosts: Vec<AtHost>, shows: bool) -> Copy {
        Copy {
            plan,
            desk,
            aside,
            places: Places::new(COPY_FILES_AT_ONCE),
            hosts: RefCell::new(hosts),
            shows,
            totals: Cell::default(),
            found: Cell::default(),
            advanced: Cell::default(),
            under_way: RefCell::default(),
            news: RefCell::default(),
            hasher: RandomState::new(),
        }
    }

    fn spot(&self, location: &Location) -> Spot {
        let hosts = self.hosts.borrow();
        let there = location.host.as_ref().and_then(|host| {
            let at = hosts.iter().find(|at| at.host == *host)?;
            at.stations.first().copied()
        });
        let side = match there {
            Some(station) => Side::There(Remote::new(self.desk.clone(), station)),
            None => Side::Here,
        };
        Spot { side, path: location.path.clone() }
    }

    /// The sessions of this one's host.
    fn stations(&self, remote: &Remote) -> Vec<usize> {
        let hosts = self.hosts.borrow();
        let at = hosts.iter().find(|at| at.stations.contains(&remote.station));
        at.map_or_else(Vec::new, |at| at.stations.clone())
    }

    fn grows(&self, remote: &Remote) -> bool {
        let hosts = self.hosts.borrow();
        hosts.iter().any(|at| at.grows && at.stations.contains(&remote.station))
    }

    /// One more session of a host is open.
    fn add_station(&self, host: &Host, station: usize) {
        let mut hosts = self.hosts.borrow_mut();
        let at = hosts.iter_mut().filter(|at| at.host == *host);
        at.for_each(|at| at.stations.push(station));
    }

    fn stop_growing(&self, host: &Host) {
        let mut hosts = self.hosts.borrow_mut();
        hosts.iter_mut().filter(|at| at.host == *host).for_each(|at| at.grows = false);
    }

    /// Several sessions would do better than this one: there are several files, or a large one.
    fn has_much_for(&self, station: usize) -> bool {
        let large = |one: &Rc<UnderWay>| one.bytes >= COPY_SPLIT_BYTES_MIN;
        let station = self.desk.station(station);
        station.load > 1 || !station.offers.deep && self.under_way.borrow().iter().any(large)
    }

    fn is_open(&self, station: usize) -> bool {
        self.desk.station(station).lost.is_none()
    }

    /// The same file by the session of its host that has least to do.
    fn spread(&self, spot: Spot) -> Spot {
        let Side::There(remote) = &spot.side else { return spot };
        let open = self.stations(remote).into_iter().filter(|number| self.is_open(*number));
        let station = open.min_by_key(|number| self.desk.station(*number).load);
        let station = station.unwrap_or(remote.station);
        self.desk.charge(station, true);
        Spot { side: Side::There(Remote::new(self.desk.clone(), station)), path: spot.path }
    }

    /// The other sessions of the same host that are open.
    fn others(&self, remote: &Remote) -> Vec<Remote> {
        let all = self.stations(remote).into_iter();
        all.filter(|number| *number != remote.station && self.is_open(*number))
            .map(|number| Remote::new(self.desk.clone(), number))
            .collect()
    }

    /// Of a name in a directory; another each time.
    fn hash(&self, name: &[u8]) -> u64 {
        self.hasher.hash_one(name)
    }

    /// Waits until what was lost of a host is there again.
    ///
    /// # Errors
    /// It does not come back.
    async fn wait_for(&self, spot: &Spot) -> Result<(), Trouble> {
        let Side::There(remote) = &spot.side else { return Ok(()) };
        self.desk.any_of(&self.stations(remote)).await
    }

    /// Bytes moved for good.
    fn moved(&self) -> u64 {
        let now: u64 = self.under_way.borrow().iter().map(|one| one.moved.get()).sum();
        self.totals.get().bytes + now
    }

    /// What there is to be moved: no less than what has been begun, and no less than what was found.
    fn expected(&self) -> Found {
        let (totals, found) = (self.totals.get(), self.found.get());
        let under_way = self.under_way.borrow();
        let now: u64 = under_way.iter().map(|one| one.bytes).sum();
        let kept: u64 = under_way.iter().map(|one| one.kept).sum();
        // What is not to be moved, or not any more.
        let less = totals.kept + kept + totals.given_up;
        Found {
            files: found.files.max(totals.files + under_way.len() as u64),
            bytes: found.bytes.saturating_sub(less).max(totals.bytes + now),
            all: found.all,
        }
    }

    /// A file is not copied.
    fn give_up(&self, bytes: u64) {
        let mut totals = self.totals.get();
        totals.given_up += bytes;
        self.totals.set(totals);
    }

    fn advance(&self) {
        self.advanced.set(self.advanced.get() + 1);
    }

    fn begin_move(&self, name: Vec<u8>, bytes: u64, kept: u64) -> Rc<UnderWay> {
        let one = Rc::new(UnderWay { name, bytes, kept, moved: Rc::default() });
        self.under_way.borrow_mut().push(Rc::clone(&one));
        one
    }

    fn end_move(&self, one: &Rc<UnderWay>) {
        self.under_way.borrow_mut().retain(|other| !Rc::ptr_eq(one, other));
    }

    fn release(&self, spot: &Spot) {
        if let Side::There(remote) = &spot.side {
            self.desk.charge(remote.station, false);
        }
    }

    /// A place as it may be shown.
    fn shown(&self, spot: &Spot) -> String {
        let path = escape(&spot.path);
        let Side::There(remote) = &spot.side else { return path.to_string() };
        let hosts = self.hosts.borrow();
        let at = hosts.iter().find(|at| at.stations.contains(&remote.station));
        let name = at.map_or("", |at| at.host.destination.as_str());
        format!("{}:{path}", escape(name.as_bytes()))
    }

    fn copied(&self, from: &Spot, to: &Spot, copied: Copied) {
        let mut totals = self.totals.get();
        totals.files += 1;
        totals.bytes += copied.bytes;
        totals.kept += copied.kept.bytes;
        self.totals.set(totals);
        self.advance();
        let line = report::copied(self, from, to, copied);
        self.news.borrow_mut().extend(line);
    }

    fn failed(&self, why: &anyhow::Error) {
        let mut totals = self.totals.get();
        totals.failed += 1;
        self.totals.set(totals);
        self.news.borrow_mut().push(report::failed(self, why));
    }

    fn take_news(&self) -> Vec<String> {
        std::mem::take(&mut *self.news.borrow_mut())
    }
}
