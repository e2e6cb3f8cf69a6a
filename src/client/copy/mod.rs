//! What `tidegate cp` does: files from here to a server, from there to here, and from one server to
//! another.
//!
//! Tasks ([`desk`]) say what is to be done with files, one request after the other; they know no I/O
//! but that of names and attributes of our own files. The bytes are moved by the sessions
//! ([`crate::services::sftp_client`]) on the client's one shard. [`run()`] carries orders from the one
//! to the other.

mod desk;
mod file;
mod place;
mod relay;
mod remote;
mod report;
mod resume;
mod run;
mod split;
mod tree;
mod trouble;

use std::cell::{Cell, RefCell};

pub use place::{Host, Location};
pub use run::run;
pub use tree::Filter;

use self::desk::{Desk, Places};
use self::file::{Copied, Side, Spot};
use self::remote::Remote;
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
    pub filter: Filter,
}

/// One copy under way; its tasks share it.
pub struct Copy {
    pub plan: Plan,
    pub desk: Desk,
    pub places: Places,
    /// The sessions of each host.
    hosts: Vec<(Host, Vec<usize>)>,
    totals: Cell<Totals>,
    /// Bytes of the files that have been begun.
    expected: Cell<u64>,
    news: RefCell<Vec<String>>,
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
    fn new(plan: Plan, desk: Desk, hosts: Vec<(Host, Vec<usize>)>) -> Copy {
        Copy {
            plan,
            desk,
            places: Places::new(COPY_FILES_AT_ONCE),
            hosts,
            totals: Cell::default(),
            expected: Cell::default(),
            news: RefCell::default(),
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
        totals.kept += copied.kept;
        self.totals.set(totals);
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
