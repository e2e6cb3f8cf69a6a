//! The rest of the gateway's process, simulated: workers, policy, the other shard, the log.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::CString;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::base::{Instant, SeededEntropy};
use tidegate::connection::{ConnectionConfig, LoginLimits, WindowSize, host_key_proof};
use tidegate::crypto::{PublicKey, SignatureAlgorithm, kex};
use tidegate::reactor::sim::SimWorld;
use tidegate::reactor::{Fd, Token, Waker};
use tidegate::services::scp::ScpJob;
use tidegate::services::sftp::FsJob;
use tidegate::services::upstream::Fleet;
use tidegate::services::{
    Account, Child, Done, Grant, Job, Pipes, Place, Program as Run, Script, SpawnFailed, SpawnSpec,
    Subsystem, Terminal,
};
use tidegate::shard::{Admission, Ends, HandOver, Mail, Outside, Report, StartupEnd, What};

use crate::chance::{hits, one_in, up_to};
use crate::child::{Program, SimChild, Streams};
use crate::files::SimFiles;
use crate::keys;
use crate::moving::Moving;
use crate::onward::Onward;
use crate::tally::Tally;
use crate::times::Times;
use crate::town::Town;

/// What the office is like in one run.
#[derive(Clone, Debug)]
pub struct Manners {
    pub shards: usize,
    /// How long a job may take.
    pub job_time: Duration,
    /// Jobs the workers hold before they refuse more.
    pub jobs_max: usize,
    /// How long programs may be busy with themselves.
    pub dawdles: Duration,
    /// Of a million: jobs whose worker dies.
    pub lost: u32,
    /// Programs that cannot be started.
    pub spawn_fails: u32,
    /// Hand-overs that fail.
    pub hand_over_fails: u32,
    /// Connections refused on sight.
    pub refuses: u32,
    /// File jobs that fail.
    pub files_fail: u32,
    /// What logins are timed by.
    pub times: Times,
    /// How connections move to the program that has this one's place.
    pub moving: Moving,
}

/// Failures of our own that were arranged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arranged {
    pub lost: u64,
    pub spawns: u64,
    pub hand_overs: u64,
    pub refused: u64,
    /// Luggage that was spoilt on its way.
    pub spoilt: u64,
}

pub struct Office {
    pub world: SimWorld,
    pub manners: Manners,
    pub files: SimFiles,
    pub town: Town,
    pub arranged: Arranged,
    /// Jobs done, and connections handed over.
    pub jobs_done: u64,
    pub jobs_refused: u64,
    pub handed_over: u64,
    pub children_started: u64,
    /// Programs of which somebody else was told how they had ended.
    told_late: u64,
    /// What has come of moves.
    pub moves: BTreeMap<&'static str, u64>,
    /// Users whose connection has moved to a shard that is not theirs.
    guests: BTreeSet<(String, usize)>,
    travels: SeededEntropy,
    /// Key exchanges in a finite field.
    pub agreed: u64,
    /// How logins go on, where some do.
    pub onward: Option<Onward>,
    fleet: Arc<Fleet>,
    /// What logins bring with them, where they do.
    pub limits: Option<LoginLimits>,
    /// Connections that count as not logged in yet; each must be taken back once.
    pub startups: i64,
    /// Connections of each shard, those on their way to it included.
    pub load: Vec<i64>,
    pub reports: Vec<Report>,
    pub children: Vec<SimChild>,
    /// The shard that accepts has been told to stop.
    pub stopping: bool,
    /// When the last line about refused connections came, and how many they told of.
    pub drops_told: Option<Instant>,
    pub drops: u64,
    drops_untold: u64,
    /// Of each shard: nothing else tells it that there is mail.
    pub wakers: Vec<Waker>,
    entropy: SeededEntropy,
    jobs: Vec<Queued>,
    mail: Vec<VecDeque<Posted>>,
    /// The slaves of terminals that no program has opened yet, by name.
    slaves: Vec<(CString, Fd)>,
    next_port: u16,
}

impl std::fmt::Debug for Office {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Office").finish_non_exhaustive()
    }
}

struct Queued {
    due: Instant,
    rung: bool,
    shard: usize,
    token: Token,
    job: Job,
}

struct Posted {
    due: Instant,
    rung: bool,
    mail: Mail,
}

/// One shard's view of the office.
pub struct SimOutside {
    pub office: Rc<RefCell<Office>>,
    pub shard: usize,
}

impl Office {
    pub fn new(world: SimWorld, manners: Manners, entropy: SeededEntropy) -> Office {
        let shards = manners.shards;
        let mut files = SimFiles::default();
        files.failing = manners.files_fail;
        let travels = SeededEntropy::new(manners.moving.seed);
        Office {
            world,
            manners,
            files,
            town: Town::default(),
            arranged: Arranged::default(),
            jobs_done: 0,
            jobs_refused: 0,
            handed_over: 0,
            children_started: 0,
            told_late: 0,
            moves: BTreeMap::new(),
            guests: BTreeSet::new(),
            travels,
            agreed: 0,
            onward: None,
            fleet: Onward::fleet(),
            limits: None,
            startups: 0,
            load: vec![0; shards],
            reports: Vec::new(),
            children: Vec::new(),
            stopping: false,
            drops_told: None,
            drops: 0,
            drops_untold: 0,
            wakers: Vec::new(),
            entropy,
            jobs: Vec::new(),
            mail: (0..shards).map(|_| VecDeque::new()).collect(),
            slaves: Vec::new(),
            next_port: 40_000,
        }
    }

    /// Nothing fails any more.
    pub fn heal(&mut self) {
        let manners = &mut self.manners;
        (manners.lost, manners.spawn_fails, manners.hand_over_fails, manners.refuses) =
            (0, 0, 0, 0);
        manners.moving.spoilt = 0;
        self.files.failing = 0;
    }

    pub fn post(&mut self, shard: usize, mail: Mail) {
        let at = self.world.now().after(up_to(&mut self.entropy, self.manners.job_time));
        self.world.wake_at(at);
        self.world.wake_at(self.world.now().after(Duration::from_nanos(1)));
        // It arrives behind what was posted before it.
        let due = self.mail[shard].back().map_or(at, |last| at.max(last.due));
        self.mail[shard].push_back(Posted { due, rung: false, mail });
    }

    /// Wakes the shards for what has become due, once for each piece as a worker does.
    pub fn ring(&mut self) {
        let now = self.world.now();
        for queued in self.jobs.iter_mut().filter(|queued| !queued.rung && queued.due <= now) {
            queued.rung = true;
            self.wakers[queued.shard].wake();
        }
        for (mail, waker) in self.mail.iter_mut().zip(&self.wakers) {
            for posted in mail.iter_mut().filter(|posted| !posted.rung && posted.due <= now) {
                posted.rung = true;
                waker.wake();
            }
        }
    }

    pub fn count(&self, tally: &mut Tally) {
        let Arranged { lost, spawns, hand_overs, refused, spoilt } = self.arranged;
        let rekeyed =
            |report: &&Report| matches!(report.what, What::KeyExchanged { first: false, .. });
        let all = [
            ("job", self.jobs_done),
            ("job lost", lost),
            ("job refused", self.jobs_refused),
            ("start failed", spawns),
            ("admission refused", refused),
            ("refusal told", self.drops),
            ("file job failed", self.files.failed),
            ("hand-over", self.handed_over),
            ("hand-over failed", hand_overs),
            ("program", self.children_started),
            ("finite field", self.agreed),
            ("login that goes on", self.gone_on()),
            ("login that shares", self.sharing()),
            ("host tried in vain", self.in_vain()),
            ("unused too long", self.ended_for(UNUSED)),
            ("silent too long", self.ended_for(SILENT)),
            ("luggage spoilt", spoilt),
            ("end told late", self.told_late),
            ("rekeyed", self.reports.iter().filter(rekeyed).count() as u64),
        ];
        for (what, times) in all.into_iter().chain(self.moves.iter().map(|(what, n)| (*what, *n))) {
            tally.count(what, times);
        }
    }

    /// Whether something that is asked of files may come to nothing, by arrangement.
    pub fn files_may_fail(&self) -> bool {
        let faults = self.world.faults();
        let lost = self.arranged.lost + self.arranged.spoilt;
        self.files.failed + lost + faults.disk_errors + faults.disk_full > 0
    }

    /// Logins that were let in at the host behind.
    pub fn gone_on(&self) -> u64 {
        let is = |report: &&Report| matches!(report.what, What::Upstream { .. });
        self.reports.iter().filter(is).count() as u64
    }

    /// Those of them for which no connection was made.
    pub fn sharing(&self) -> u64 {
        let is = |report: &&Report| matches!(&report.what, What::Upstream { what } if what.contains(" over the connection of link "));
        self.reports.iter().filter(is).count() as u64
    }

    fn in_vain(&self) -> u64 {
        let is = |report: &&Report| matches!(report.what, What::UpstreamFailed { .. });
        self.reports.iter().filter(is).count() as u64
    }

    pub fn ended_for(&self, why: &str) -> u64 {
        let is = |report: &&Report| matches!(&report.what, What::Disconnected { reason, .. } if reason.contains(why));
        self.reports.iter().filter(is).count() as u64
    }

    /// Mail that nobody has read, and jobs that nobody has done.
    pub fn waiting(&self) -> usize {
        self.jobs.len() + self.mail.iter().map(VecDeque::len).sum::<usize>()
    }

    fn note_move(&mut self, what: &'static str) {
        *self.moves.entry(what).or_default() += 1;
    }

    pub fn step_children(&mut self) {
        let Office { children, world, entropy, town, told_late, .. } = self;
        town.step(world);
        for child in children.iter_mut() {
            child.step(world, entropy);
            *told_late += u64::from(std::mem::take(&mut child.told_late));
        }
        children.retain(|child| !child.is_over());
    }

    fn collect(&mut self, shard: usize, mail: &mut Vec<Mail>) {
        let now = self.world.now();
        loop {
            let due: Vec<usize> = (0..self.jobs.len())
                .filter(|n| self.jobs[*n].shard == shard && self.jobs[*n].due <= now)
                .collect();
            if due.is_empty() {
                break;
            }
            let which = due[self.entropy.below(due.len() as u64) as usize];
            let Queued { token, job, .. } = self.jobs.swap_remove(which);
            let done = self.work(job);
            self.jobs_done += 1;
            mail.push(Mail::Done { token, done });
        }
        while self.mail[shard].front().is_some_and(|posted| posted.due <= now) {
            let Some(posted) = self.mail[shard].pop_front() else { break };
            self.stopping |= shard == 0 && matches!(posted.mail, Mail::Stop);
            mail.push(posted.mail);
        }
    }

    fn work(&mut self, job: Job) -> Done {
        // A worker that dies while it closes a file leaves it open: not counted as a leak of ours.
        let closes = match &job {
            Job::Fs(_, job) => matches!(**job, FsJob::Close { .. }),
            Job::Scp(_, job) => matches!(**job, ScpJob::Finish(_)),
            _ => false,
        };
        if !closes && hits(&mut self.entropy, self.manners.lost) {
            self.arranged.lost += 1;
            return Done::Lost;
        }
        match job {
            Job::CheckSecrets { .. } | Job::Converse { .. } => Done::Key(None),
            Job::FindKey { user, key, .. } => Done::Key(self.grant(&user, &key).map(Box::new)),
            Job::Admit { grant, .. } => panic!("nobody asks about {:?}", grant.account),
            Job::Left { user, .. } => panic!("nobody keeps records of {user}"),
            Job::Greet { user, .. } => panic!("nobody asks about {user}"),
            Job::Agree { group, client_public } => {
                self.agreed += 1;
                let agreement = kex::respond_in(&group, &client_public);
                Done::Agreement(agreement.map(|(public, secret)| (public.into(), secret)))
            }
            Job::Compute(task) => Done::Computed(task.run(&mut self.entropy)),
            Job::Sign { algorithm, message, .. } => {
                let signature = keys::slow_host().sign(algorithm, &message).ok();
                Done::Signature(signature.map(Vec::into_boxed_slice))
            }
            Job::ProveHostKeys { session, keys } => {
                let prove = |(_, algorithm): &(usize, SignatureAlgorithm)| {
                    let key = match algorithm {
                        SignatureAlgorithm::Ed25519 => keys::host(),
                        _ => keys::slow_host(),
                    };
                    let bytes = host_key_proof(&session, key.public());
                    key.sign(*algorithm, &bytes).ok().map(Vec::into_boxed_slice)
                };
                Done::HostKeysProved(keys.iter().map(prove).collect())
            }
            Job::Terminal(spec) => Done::Terminal(self.terminal(spec.size)),
            Job::Spawn(spec) => Done::Spawned(self.spawn(&spec)),
            Job::Scp(_, job) => {
                Done::Scp(Box::new(self.files.scp(*job, &self.world, &mut self.entropy)))
            }
            Job::Resolve { host, port, .. } if *host == *crate::town::NAME => {
                let found = Town::resolve(&host, u32::from(port));
                Done::Resolved(found.ok_or_else(|| std::io::ErrorKind::NotFound.into()))
            }
            // Half of all names are unknown; behind the others nobody ever answers.
            Job::Resolve { port, .. } if port % 2 == 0 => {
                Done::Resolved(Ok((1..=3).map(|n| ([192, 0, 2, n], port).into()).collect()))
            }
            Job::Resolve { .. } => Done::Resolved(Err(std::io::ErrorKind::NotFound.into())),
            Job::FindHosts { .. } => panic!("no program says where a login goes on"),
            Job::FindWay { host, .. } => self.onward.as_ref().expect("a way on").way(host),
            Job::JudgeHost { shown, .. } => Onward::judge(&shown.key),
            Job::SignLogin { key, algorithm, message } => {
                let signature = key.sign(algorithm, &message).ok();
                Done::Signature(signature.map(Vec::into_boxed_slice))
            }
            Job::HaveLoginSigned { .. } => panic!("nobody signs elsewhere"),
            Job::Listen { .. } => Done::Listening(Err(std::io::ErrorKind::AddrInUse.into())),
            Job::MakeDisplay(spec) => Done::Display(spec, Err(std::io::ErrorKind::NotFound.into())),
            Job::MakeAgentSocket => Done::AgentSocket(Err(std::io::ErrorKind::NotFound.into())),
            Job::RemoveAgentSocket(path) => panic!("nobody made {path:?}"),
            Job::ConnectAgent { .. } => panic!("no gateway has an agent to lend"),
            Job::ConnectPath(path) => {
                let connected = self.town.connect(&path, &self.world);
                Done::Connected(connected.ok_or_else(|| std::io::ErrorKind::NotFound.into()))
            }
            Job::Fs(_, job) => {
                Done::Fs(Box::new(self.files.run(*job, &self.world, &mut self.entropy)))
            }
        }
    }

    fn terminal(&mut self, size: WindowSize) -> std::io::Result<Terminal> {
        if hits(&mut self.entropy, self.manners.spawn_fails) {
            self.arranged.spawns += 1;
            return Err(std::io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let (master, slave) = self.world.terminal();
        let path = CString::new(format!("/dev/pts/{}", slave.0)).expect("no NUL");
        self.slaves.push((path.clone(), slave));
        Ok(Terminal::scripted(master, path, Arc::new(Mutex::new(size))))
    }

    fn spawn(&mut self, spec: &SpawnSpec) -> Result<Child, SpawnFailed> {
        let command = match &spec.program {
            Run::Shell => "cat".to_owned(),
            Run::Command(command) => command.to_string_lossy().into_owned(),
            Run::Notice(notice) => panic!("nobody was to be told {notice:?}"),
            Run::NewPassword => panic!("no password has expired"),
        };
        let fail = |why: i32| SpawnFailed {
            program: command.clone(),
            why: std::io::Error::from_raw_os_error(why),
        };
        if hits(&mut self.entropy, self.manners.spawn_fails) {
            self.arranged.spawns += 1;
            return Err(fail(libc::EAGAIN));
        }
        let program = Program::parse(&command).ok_or_else(|| fail(libc::ENOENT))?;
        let (streams, pipes) = match &spec.pty {
            Some(path) => {
                let at = self.slaves.iter().position(|(known, _)| known == path);
                let slave = at.map(|at| self.slaves.swap_remove(at).1);
                let terminal = slave.ok_or_else(|| fail(libc::ENXIO))?;
                let streams =
                    Streams { stdin: None, stdout: None, stderr: None, terminal: Some(terminal) };
                (streams, None)
            }
            None => {
                let (theirs_in, ours_in) = self.world.pipe();
                let (ours_out, theirs_out) = self.world.pipe();
                let (ours_err, theirs_err) = self.world.pipe();
                let streams = Streams {
                    stdin: Some(theirs_in),
                    stdout: Some(theirs_out),
                    stderr: Some(theirs_err),
                    terminal: None,
                };
                (streams, Some(Pipes { stdin: ours_in, stdout: ours_out, stderr: ours_err }))
            }
        };
        let watch = self.world.exit_event();
        let script = Arc::new(Mutex::new(Script::default()));
        let dawdles = self.manners.dawdles;
        let child = SimChild::new(program, streams, watch, Arc::clone(&script), dawdles);
        self.children.push(child);
        self.children_started += 1;
        Ok(Child::scripted(watch, pipes, script))
    }

    /// `u0-name` lives on shard 0, `u1-name` on shard 1, and `p0-name` goes on as `u0-name`; nobody
    /// else does.
    fn grant(&self, user: &str, key: &PublicKey) -> Option<Grant> {
        let upstream = self.onward.as_ref().and_then(|onward| onward.of(user, &self.fleet));
        let kind = if upstream.is_some() { 'p' } else { 'u' };
        let home = user.strip_prefix(kind)?.split_once('-')?.0.parse().ok()?;
        if key != keys::user().public() {
            return None;
        }
        let times = &self.manners.times;
        Some(Grant {
            account: Account {
                name: user.to_owned(),
                uid: 1000,
                gid: home,
                home: "/home".into(),
                shell: "/bin/sh".into(),
            },
            key: Some(key.clone()),
            forced_command: None,
            pty: true,
            accept_env: vec!["LC_*".to_owned()],
            set_env: Vec::new(),
            subsystems: vec![("sftp".to_owned(), Subsystem::Sftp("internal-sftp".to_owned()))],
            scp: true,
            open_files: None,
            limits: self.limits.filter(|_| times.with_login),
            rules: times.rules(),
            verbosity: None,
            source: "simulated".to_owned(),
            presence: tidegate::connection::Presence::TOUCH,
            place: Place::System,
            upstream,
            demands: Default::default(),
        })
    }

    /// Terminals that were made and that no program has opened: their slaves go with the last
    /// master.
    pub fn close_slaves(&mut self) {
        for (_, slave) in self.slaves.drain(..) {
            self.world.close(slave);
        }
    }
}

impl Outside for SimOutside {
    fn submit(&mut self, token: Token, job: Job) -> Result<(), Job> {
        let office = &mut *self.office.borrow_mut();
        if office.jobs.len() >= office.manners.jobs_max {
            office.jobs_refused += 1;
            return Err(job);
        }
        let due = office.world.now().after(up_to(&mut office.entropy, office.manners.job_time));
        office.world.wake_at(due.max(office.world.now().after(Duration::from_nanos(1))));
        office.jobs.push(Queued { due, rung: false, shard: self.shard, token, job });
        Ok(())
    }

    fn collect(&mut self, mail: &mut Vec<Mail>) {
        self.office.borrow_mut().collect(self.shard, mail);
    }

    fn greeting(&mut self, _ends: Ends) -> Option<Arc<ConnectionConfig>> {
        None
    }

    fn admit(&mut self, socket: Fd) -> Admission {
        let office = &mut *self.office.borrow_mut();
        if hits(&mut office.entropy, office.manners.refuses) {
            office.arranged.refused += 1;
            office.drops_untold += 1;
            return Admission::Refused;
        }
        office.startups += 1;
        office.next_port += 1;
        let peer = SocketAddr::from(([192, 0, 2, 7], office.next_port));
        let ends = Ends {
            peer,
            local: SocketAddr::from(([192, 0, 2, 1], 22)),
            routing: Default::default(),
        };
        let to = match one_in(&mut office.entropy, 3) {
            true => office.entropy.below(office.manners.shards as u64) as usize,
            false => self.shard,
        };
        office.load[to] += 1;
        if to == self.shard {
            return Admission::Here(ends);
        }
        office.post(to, Mail::Accepted { socket, ends, inbound: Vec::new() });
        Admission::Elsewhere
    }

    /// However many there are, it is told once a second.
    fn tell_drops(&mut self) {
        let office = &mut *self.office.borrow_mut();
        let now = office.world.now();
        assert!(office.drops_untold > 0, "told of nothing");
        if let Some(last) = office.drops_told {
            assert!(
                now.since(last) >= Duration::from_secs(1),
                "told again after {:?}",
                now.since(last)
            );
        }
        office.drops_told = Some(now);
        office.drops += std::mem::take(&mut office.drops_untold);
    }

    fn startup_over(&mut self, _ends: Ends, _how: StartupEnd) {
        self.office.borrow_mut().startups -= 1;
    }

    fn ended(&mut self, _link: Option<u64>) {
        self.office.borrow_mut().load[self.shard] -= 1;
    }

    fn serves(&self, grant: &Grant) -> bool {
        let office = self.office.borrow();
        let shards = office.manners.shards as u32;
        let own = grant.upstream.is_some() || grant.account.gid % shards == self.shard as u32;
        own || office.guests.contains(&(grant.account.name.clone(), self.shard))
    }

    fn hand_over(&mut self, connection: Box<HandOver>) -> Result<(), Box<HandOver>> {
        let office = &mut *self.office.borrow_mut();
        if hits(&mut office.entropy, office.manners.hand_over_fails) {
            office.arranged.hand_overs += 1;
            return Err(connection);
        }
        // What a process boundary would do to it.
        let grant = Grant::decode(&connection.grant.encode()).expect("a grant travels");
        assert_eq!(grant, *connection.grant);
        let home = grant.account.gid as usize % office.manners.shards;
        office.load[home] += 1;
        office.handed_over += 1;
        office.post(home, Mail::HandOver(connection));
        Ok(())
    }

    fn move_on(&mut self, connection: Box<HandOver>) -> Result<(), Box<HandOver>> {
        let office = &mut *self.office.borrow_mut();
        let moving = office.manners.moving.clone();
        if moving.most == 0 || !hits(&mut office.travels, moving.taken) {
            office.note_move("move refused");
            return Err(connection);
        }
        office.manners.moving.most -= 1;
        let mut connection = crate::moving::across(connection);
        crate::moving::kinds(&connection).into_iter().for_each(|what| office.note_move(what));
        if hits(&mut office.travels, moving.spoilt) {
            office.arranged.spoilt += 1;
            crate::moving::spoil(&mut connection, &mut office.travels);
        }
        let shards = office.manners.shards;
        let to = match one_in(&mut office.travels, 3) {
            true => office.travels.below(shards as u64) as usize,
            false => self.shard,
        };
        if to != self.shard {
            office.note_move("moved to another shard");
        }
        office.guests.insert((connection.grant.account.name.clone(), to));
        office.load[to] += 1;
        office.post(to, Mail::HandOver(connection));
        Ok(())
    }

    /// A world has no room for any.
    fn met_defect(&mut self) {
        panic!("a shard panicked: see above");
    }

    fn report(&mut self, report: Report) {
        self.office.borrow_mut().reports.push(report);
    }
}

/// What reports of ends say that were asked for.
const UNUSED: &str = "UnusedConnectionTimeout";
const SILENT: &str = "the peer does not answer";

/// Reports that call an end our own doing, where that was not asked for.
pub fn own_faults(reports: &[Report]) -> Vec<String> {
    // Where a host was lost, its client's connection is ended by us: its outcome is judged.
    let lost = |serial| {
        let is = |one: &Report| matches!(one.what, What::UpstreamFailed { .. });
        reports.iter().any(|one| one.serial == serial && is(one))
    };
    let ours = |report: &Report| match &report.what {
        What::Disconnected { ours: true, reason, .. }
            if !reason.contains(UNUSED) && !lost(report.serial) =>
        {
            Some(reason.clone())
        }
        _ => None,
    };
    reports.iter().filter_map(ours).collect()
}
