//! What `tidegate cp` does: files from here to a server, from there to here, and from one server to
//! another.
//!
//! Tasks ([`desk`]) say what is to be done with files, one request after the other; they know no I/O
//! but that of names and attributes of our own files. The bytes are moved by the sessions
//! ([`crate::services::sftp_client`]) on the client's one shard. [`run()`] carries orders from the one
//! to the other.

mod aside;
mod desk;
mod file;
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
use self::trouble::Trouble;
use crate::base::escape;
use crate::limits::COPY_FILES_AT_ONCE;

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
    /// The sessions of each host.
    hosts: Vec<(Host, Vec<usize>)>,
    totals: Cell<Totals>,
    /// Files and parts of files that are done for good.
    advanced: Cell<u64>,
    /// What is moved now, the oldest first.
    under_way: RefCell<Vec<Rc<UnderWay>>>,
    news: RefCell<Vec<String>>,
    hasher: RandomState,
}

/// A file that is being moved.
#[derive(Debug)]
pub struct UnderWay {
    /// Its last name.
    name: Vec<u8>,
    bytes: u64,
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
}

impl Copy {
    fn new(plan: Plan, desk: Desk, aside: Aside, hosts: Vec<(Host, Vec<usize>)>) -> Copy {
        Copy {
            plan,
            desk,
            aside,
            places: Places::new(COPY_FILES_AT_ONCE),
            hosts,
            totals: Cell::default(),
            advanced: Cell::default(),
            under_way: RefCell::default(),
            news: RefCell::default(),
            hasher: RandomState::new(),
        }
    }

    fn spot(&self, location: &Location) -> Spot {
        let there = location.host.as_ref().and_then(|host| {
            let (_, stations) = self.hosts.iter().find(|(known, _)| known == host)?;
            stations.first().copied()
        });
        let side = match there {
            Some(station) => Side::There(Remote::new(self.desk.clone(), station)),
            None => Side::Here,
        };
        Spot { side, path: location.path.clone() }
    }

    /// The same file by the session of its host that has least to do.
    fn spread(&self, spot: Spot) -> Spot {
        let Side::There(remote) = &spot.side else { return spot };
        let host = self.hosts.iter().find(|(_, all)| all.contains(&remote.station));
        let open = host.map_or(&[][..], |(_, all)| all).iter().copied();
        let open = open.filter(|number| self.desk.station(*number).lost.is_none());
        let station = open.min_by_key(|number| self.desk.station(*number).load);
        let station = station.unwrap_or(remote.station);
        self.desk.charge(station, true);
        Spot { side: Side::There(Remote::new(self.desk.clone(), station)), path: spot.path }
    }

    /// The other sessions of the same host that are open.
    fn others(&self, remote: &Remote) -> Vec<Remote> {
        let host = self.hosts.iter().find(|(_, all)| all.contains(&remote.station));
        let all = host.map_or(&[][..], |(_, all)| all).iter().copied();
        all.filter(|number| *number != remote.station)
            .filter(|number| self.desk.station(*number).lost.is_none())
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
        let host = self.hosts.iter().find(|(_, all)| all.contains(&remote.station));
        self.desk.any_of(host.map_or(&[][..], |(_, all)| all)).await
    }

    /// Bytes moved for good.
    fn moved(&self) -> u64 {
        let now: u64 = self.under_way.borrow().iter().map(|one| one.moved.get()).sum();
        self.totals.get().bytes + now
    }

    /// Bytes of all files that have been begun.
    fn expected(&self) -> u64 {
        let now: u64 = self.under_way.borrow().iter().map(|one| one.bytes).sum();
        self.totals.get().bytes + now
    }

    fn advance(&self) {
        self.advanced.set(self.advanced.get() + 1);
    }

    fn begin_move(&self, name: Vec<u8>, bytes: u64) -> Rc<UnderWay> {
        let one = Rc::new(UnderWay { name, bytes, moved: Rc::default() });
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
        let host = self.hosts.iter().find(|(_, all)| all.contains(&remote.station));
        let name = host.map_or("", |(host, _)| host.destination.as_str());
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
