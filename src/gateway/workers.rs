use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};

use crossbeam::queue::ArrayQueue;

use crate::base::Instant;
use crate::limits::{ENDING_CHECK, KEY_READ_TIME, WORKERS_LATE_MAX};
use crate::reactor::{self, Token};
use crate::services::{Done, Job};

/// Does the work of a job. Runs on a worker thread and may block.
pub trait Execute: Send + Sync {
    fn run(&self, job: Job) -> Done;

    /// What needs no worker: the answer, where all is known that it takes and nothing has to be waited
    /// for. `None`: [`Execute::run`] is to say.
    fn run_at_once(&self, _job: &Job) -> Option<Done> {
        None
    }

    /// Whether decisions about keys may wait for a program.
    fn asks_programs(&self) -> bool {
        false
    }
}

/// Where outcomes go: one shard's inbox. Must not block, and must make the shard's wait return.
pub trait Reply: Send + Sync {
    fn deliver(&self, token: Token, done: Done);
}

/// A few threads that do what would stall a shard.
///
/// Anybody can have the big-number work of a key exchange done before a login, and at no cost to
/// himself (CVE-2002-20001), and anybody who is logged in can ask for names that no server answers
/// for, or wait for a program that finds hosts. Passwords are hashed for anybody too. At most half of the
/// threads do any of these at one time, and all but one all of them; what remains is for logins and live
/// sessions. Of those that look names up for users or run programs for them, a quarter at most does so for one user
/// ([`Job::asker`]). Whoever has an account says where its files of keys are read, on a server that never answers
/// if he likes: [`Workers::relieve`].
///
/// Dropping it ends it in order: jobs that were begun are finished, those that still wait are
/// answered [`Done::Lost`], and the threads are joined, but for those that have looked for a key for long.
pub struct Workers {
    bench: Arc<Bench>,
    /// Not joined.
    left_behind: bool,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Order {
    reply: Arc<dyn Reply>,
    token: Token,
    job: Job,
}

/// What every worker thread works with. A worker without a job sleeps at once: jobs are rare and a
/// login's few should not pay for threads that spin.
struct Bench {
    queue: ArrayQueue<Order>,
    /// Those of jobs that may not take every thread: see [`lane_of`].
    lanes: [Lane; LANES],
    /// Which of them is looked at first, so that none waits for another that is never empty.
    turn: AtomicUsize,
    running: AtomicUsize,
    running_max: usize,
    asks_programs: bool,
    execute: Arc<dyn Execute>,
    stopping: AtomicBool,
    asleep: AtomicUsize,
    bell: Mutex<()>,
    rings: Condvar,
    /// The threads that look for a key.
    looking: Mutex<Vec<Looking>>,
}

struct Looking {
    thread: ThreadId,
    since: Instant,
    /// The job is one of this lane.
    lane: Option<usize>,
    /// Another has its place: it ends when it is through.
    relieved: bool,
}

struct Lane {
    line: Mutex<Line>,
    running: AtomicUsize,
    running_max: usize,
    asker_max: usize,
}

/// Those who wait, and for whom something is being done.
#[derive(Default)]
struct Line {
    /// Bounded by what was admitted. A full one would hold up jobs of other lanes behind the first that it refused.
    orders: VecDeque<Order>,
    /// Of the jobs that run, one for each.
    askers: Vec<Arc<str>>,
}

impl Lane {
    fn new(running_max: usize) -> Lane {
        let asker_max = (running_max / 4).max(1);
        Lane { line: Mutex::default(), running: AtomicUsize::new(0), running_max, asker_max }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first whose asker has not enough done already.
    fn pop(&self) -> Option<Order> {
        let mut line = self.line();
        let running = |whose| line.askers.iter().filter(|asker| *asker == whose).count();
        let may_run = |whose| running(whose) < self.asker_max;
        let at = line.orders.iter().position(|order| order.job.asker().is_none_or(may_run))?;
        let order = line.orders.remove(at)?;
        line.askers.extend(order.job.asker().cloned());
        Some(order)
    }

    fn is_over(&self, asker: Option<&Arc<str>>) {
        let mut line = self.line();
        if let Some(at) = line.askers.iter().position(|one| Some(one) == asker) {
            line.askers.swap_remove(at);
        }
    }
}

impl Workers {
    /// `jobs_max` bounds the jobs that wait for any thread.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(
        threads: usize,
        jobs_max: usize,
        execute: Arc<dyn Execute>,
    ) -> io::Result<Workers> {
        Workers::start_with(threads, threads / 2, jobs_max, execute)
    }

    /// Those that are there to look names up: all but one may do that at one time, and nobody waits for them at
    /// the end, since it does not matter where it is broken off.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start_resolvers(
        threads: usize,
        jobs_max: usize,
        execute: Arc<dyn Execute>,
    ) -> io::Result<Workers> {
        let workers = Workers::start_with(threads, threads.saturating_sub(1), jobs_max, execute)?;
        Ok(workers.left_behind())
    }

    fn start_with(
        threads: usize,
        lane_max: usize,
        jobs_max: usize,
        execute: Arc<dyn Execute>,
    ) -> io::Result<Workers> {
        let bench = Arc::new(Bench {
            queue: ArrayQueue::new(jobs_max.max(1)),
            lanes: [(); LANES].map(|()| Lane::new(lane_max.max(1))),
            turn: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            running_max: threads.saturating_sub(1).max(1),
            asks_programs: execute.asks_programs(),
            execute,
            stopping: AtomicBool::new(false),
            asleep: AtomicUsize::new(0),
            bell: Mutex::new(()),
            rings: Condvar::new(),
            looking: Mutex::default(),
        });
        let workers = Workers { bench, left_behind: false, threads: Mutex::default() };
        (0..threads.max(1)).try_for_each(|n| workers.start_one(format!("worker-{n}")))?;
        Ok(workers)
    }

    fn start_one(&self, name: String) -> io::Result<()> {
        let bench = Arc::clone(&self.bench);
        let thread = thread::Builder::new().name(name).spawn(move || bench.work())?;
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// Puts another thread in the place of each that has looked for a key for [`KEY_READ_TIME`]; of
    /// [`WORKERS_LATE_MAX`] at a time. To be called now and then.
    pub fn relieve(&self) {
        let now = reactor::now();
        let mut looking = self.bench.looking();
        let relieved = looking.iter().filter(|one| one.relieved).count();
        let late = |one: &&mut Looking| !one.relieved && now.since(one.since) >= KEY_READ_TIME;
        let room = WORKERS_LATE_MAX.saturating_sub(relieved);
        for one in looking.iter_mut().filter(late).take(room) {
            one.relieved = self.start_one("worker".to_owned()).is_ok();
            if let Some(lane) = one.lane.filter(|_| one.relieved) {
                self.bench.make_room(lane);
            }
        }
    }

    /// Workers that nobody waits for at the end: what they do may take long, and it does not matter
    /// where it is broken off.
    #[must_use]
    pub fn left_behind(mut self) -> Workers {
        self.left_behind = true;
        self
    }

    /// The outcome of a job that nothing has to be waited for, on this thread.
    pub fn try_at_once(&self, job: &Job) -> Option<Done> {
        // As in a worker.
        catch_unwind(AssertUnwindSafe(|| self.bench.execute.run_at_once(job))).ok().flatten()
    }

    /// Queues a job; its outcome goes to `reply` with this token. Never waits for one.
    ///
    /// # Errors
    /// The queue of those that any thread may do is full: the job comes back.
    pub fn try_submit(&self, reply: &Arc<dyn Reply>, token: Token, job: Job) -> Result<(), Job> {
        let lane = self.bench.lane_of(&job).and_then(|lane| self.bench.lanes.get(lane));
        let order = Order { reply: Arc::clone(reply), token, job };
        match lane {
            Some(lane) => lane.line().orders.push_back(order),
            None => self.bench.queue.push(order).map_err(|order| order.job)?,
        }
        self.bench.ring(false);
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.bench.stopping.store(true, Ordering::SeqCst);
        self.bench.ring(true);
        let threads = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..).filter(|_| !self.left_behind) {
            self.bench.see_off(thread);
        }
    }
}

impl Bench {
    fn lane_of(&self, job: &Job) -> Option<usize> {
        lane_of(job, self.asks_programs)
    }

    /// Wakes a sleeper, or all. The fences here and in `sleep` see to it that either the sleeper
    /// sees what was queued or the ringer sees the sleeper.
    fn ring(&self, all: bool) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) == 0 {
            return;
        }
        // A sleeper between its last look and its sleep holds the bell. It is let go before the call,
        // or the one that wakes would have to wait for it.
        drop(self.bell.lock().unwrap_or_else(PoisonError::into_inner));
        if all {
            self.rings.notify_all();
        } else {
            self.rings.notify_one();
        }
    }

    /// A job that may be begun now.
    fn take(&self) -> Option<Order> {
        if let Some(order) = self.queue.pop() {
            return Some(order);
        }
        let lanes = self.lanes.len();
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % lanes;
        self.lanes.iter().cycle().skip(first).take(lanes).find_map(|lane| {
            claim(&lane.running, lane.running_max)?;
            let order = claim(&self.running, self.running_max).and_then(|()| {
                let order = lane.pop();
                if order.is_none() {
                    self.running.fetch_sub(1, Ordering::SeqCst);
                }
                order
            });
            if order.is_none() {
                lane.running.fetch_sub(1, Ordering::SeqCst);
            }
            order
        })
    }

    /// A job of a lane is over, or counts no longer. Whoever did it may have other work next.
    fn make_room(&self, lane: usize) {
        let Some(lane) = self.lanes.get(lane) else { return };
        self.running.fetch_sub(1, Ordering::SeqCst);
        lane.running.fetch_sub(1, Ordering::SeqCst);
        if self.lanes.iter().any(|lane| !lane.line().orders.is_empty()) {
            self.ring(false);
        }
    }

    /// The next job; `None` when the workers end.
    fn next(&self) -> Option<Order> {
        loop {
            if let Some(order) = self.take() {
                return Some(order);
            }
            let bell = self.bell.lock().unwrap_or_else(PoisonError::into_inner);
            self.asleep.fetch_add(1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            let order = self.take();
            let ending = self.stopping.load(Ordering::SeqCst);
            if order.is_none() && !ending {
                drop(self.rings.wait(bell).unwrap_or_else(PoisonError::into_inner));
            }
            self.asleep.fetch_sub(1, Ordering::SeqCst);
            if order.is_some() || ending {
                return order;
            }
        }
    }

    fn looking(&self) -> MutexGuard<'_, Vec<Looking>> {
        self.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the end of a thread, but of none that has looked for a key for long.
    fn see_off(&self, thread: JoinHandle<()>) {
        let this = thread.thread().id();
        loop {
            let since = self.looking().iter().find(|one| one.thread == this).map(|one| one.since);
            match since {
                None => return drop(thread.join()),
                Some(since) if reactor::now().since(since) >= KEY_READ_TIME => return,
                Some(_) => thread::sleep(ENDING_CHECK),
            }
        }
    }

    fn begin_to_look(&self, lane: Option<usize>) {
        let (thread, since) = (thread::current().id(), reactor::now());
        self.looking().push(Looking { thread, since, lane, relieved: false });
    }

    /// Whether another has this thread's place.
    fn end_looking(&self) -> bool {
        let mut looking = self.looking();
        let this = thread::current().id();
        let at = looking.iter().position(|one| one.thread == this);
        at.is_some_and(|at| looking.swap_remove(at).relieved)
    }

    fn work(&self) {
        let mut relieved = false;
        while !relieved && let Some(Order { reply, token, job }) = self.next() {
            let (lane, asker) = (self.lane_of(&job), job.asker().cloned());
            let looks = matches!(job, Job::FindKey { .. });
            if looks {
                self.begin_to_look(lane);
            }
            let done = if self.stopping.load(Ordering::Acquire) {
                Done::Lost
            } else {
                // A defect in one job costs that job; the executor keeps no state between jobs that
                // a panic could leave half changed (its locks are poisoned).
                catch_unwind(AssertUnwindSafe(|| self.execute.run(job))).unwrap_or(Done::Lost)
            };
            relieved = looks && self.end_looking();
            if let Some(lane) = lane.and_then(|lane| self.lanes.get(lane)) {
                lane.is_over(asker.as_ref());
            }
            if let Some(lane) = lane.filter(|_| !relieved) {
                self.make_room(lane);
            }
            reply.deliver(token, done);
        }
    }
}

/// One more of `count`, unless there are `max`.
fn claim(count: &AtomicUsize, max: usize) -> Option<()> {
    let more = |count: usize| (count < max).then_some(count + 1);
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok().map(drop)
}

const LANES: usize = 4;

/// Milliseconds of arithmetic that a peer may cause before it has said who it is, and that a host may
/// cause; questions to name
/// servers, any of which may be answered late or never; hashes, which are made to take long; and
/// programs that are asked where logins go on or which keys count, which may take seconds each.
fn lane_of(job: &Job, asks_programs: bool) -> Option<usize> {
    match job {
        Job::Agree { .. } | Job::Compute(_) | Job::Sign { .. } | Job::ProveHostKeys { .. } => {
            Some(0)
        }
        Job::Resolve { .. } | Job::FindWay { .. } => Some(1),
        Job::Listen { spec, .. } if spec.asks_for_a_name() => Some(1),
        Job::CheckSecrets { .. } | Job::Converse { .. } | Job::Admit { .. } => Some(2),
        Job::FindHosts { .. } => Some(3),
        Job::FindKey { .. } if asks_programs => Some(3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Mutex;
    use std::sync::mpsc;

    use super::*;
    use crate::connection::{ClientConnectionConfig, WindowSize};
    use crate::crypto::{KeyKind, PrivateKey, SignatureAlgorithm};
    use crate::services::upstream::{Credential, Fleet, HostKeyPolicy, Trouble, Upstream};
    use crate::services::{About, Origin, RoutingDomain, TerminalSpec};
    use crate::transport::{ClientConfig, Preferences};

    struct Inbox(mpsc::Sender<(Token, Done)>);

    impl Reply for Inbox {
        fn deliver(&self, token: Token, done: Done) {
            let _ = self.0.send((token, done));
        }
    }

    struct Prompt;

    impl Execute for Prompt {
        fn run(&self, job: Job) -> Done {
            signed(job)
        }
    }

    /// Waits for permission before each job.
    struct Gated(Mutex<mpsc::Receiver<()>>);

    impl Execute for Gated {
        fn run(&self, job: Job) -> Done {
            self.0.lock().unwrap().recv().unwrap();
            signed(job)
        }
    }

    const DEFECTIVE: u8 = 13;

    fn signed(job: Job) -> Done {
        if let Job::Sign { message, .. } = job {
            return Done::Signature(Some(message));
        }
        if let Job::Resolve { .. } = job {
            return Done::Resolved(Ok(Vec::new()));
        }
        if let Job::FindHosts { .. } = job {
            return Done::Hosts(Err(Trouble::plain("nobody")));
        }
        let Job::Terminal(spec) = job else { panic!("an unexpected job") };
        assert_ne!(spec.uid, u32::from(DEFECTIVE), "a defect in a job");
        Done::Signature(Some(spec.modes))
    }

    fn job(n: u8) -> Job {
        let (uid, size) = (u32::from(n), WindowSize::default());
        Job::Terminal(Box::new(TerminalSpec { uid, size, modes: Box::new([n]) }))
    }

    fn token(n: u8) -> Token {
        Token { key: u32::from(n), generation: 0, tag: 0 }
    }

    fn inbox() -> (Arc<dyn Reply>, mpsc::Receiver<(Token, Done)>) {
        let (sender, receiver) = mpsc::channel();
        (Arc::new(Inbox(sender)), receiver)
    }

    #[test]
    fn outcomes_come_back_to_the_right_shard() {
        let (first, first_inbox) = inbox();
        let (second, second_inbox) = inbox();
        let workers = Workers::start(3, 64, Arc::new(Prompt)).unwrap();
        for n in 100..150 {
            let reply = if n % 2 == 0 { &first } else { &second };
            workers.try_submit(reply, token(n), job(n)).unwrap();
        }
        for (inbox, parity) in [(first_inbox, 0), (second_inbox, 1)] {
            let mut seen = Vec::new();
            for _ in 0..25 {
                let (token, done) = inbox.recv().unwrap();
                let Done::Signature(Some(bytes)) = done else { panic!("{done:?}") };
                assert_eq!((u32::from(bytes[0]), token.key % 2), (token.key, parity));
                seen.push(token.key);
            }
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 25);
        }
    }

    #[test]
    fn a_full_queue_gives_the_job_back() {
        let (permit, permits) = mpsc::channel();
        let (reply, inbox) = inbox();
        let gated = Arc::new(Gated(Mutex::new(permits)));
        let workers = Workers::start(1, 2, gated).unwrap();
        // One may be in the worker's hands and two may wait; the next one must come back.
        let mut accepted = 0;
        let refused = loop {
            match workers.try_submit(&reply, token(accepted), job(accepted)) {
                Ok(()) => accepted += 1,
                Err(job) if accepted >= 2 => break job,
                Err(_) => panic!("refused with room in the queue"),
            }
            assert!(accepted <= 3);
        };
        assert!(matches!(refused, Job::Terminal(spec) if spec.modes[0] == accepted));
        for n in 0..accepted {
            permit.send(()).unwrap();
            assert_eq!(inbox.recv().unwrap().0, token(n));
        }
        workers.try_submit(&reply, token(9), job(9)).unwrap();
        permit.send(()).unwrap();
        assert_eq!(inbox.recv().unwrap().0, token(9));
    }

    /// Lets jobs of no lane through, and counts those that wait for permission.
    struct Weighed {
        permits: Mutex<mpsc::Receiver<()>>,
        inside: mpsc::Sender<Option<usize>>,
    }

    impl Weighed {
        /// Permits go in at one end, and the lanes of those that wait come out at the other.
        fn new() -> (mpsc::Sender<()>, mpsc::Receiver<Option<usize>>, Arc<Weighed>) {
            let (permit, permits) = mpsc::channel();
            let (inside, begun) = mpsc::channel();
            (permit, begun, Arc::new(Weighed { permits: Mutex::new(permits), inside }))
        }
    }

    impl Execute for Weighed {
        fn run(&self, job: Job) -> Done {
            if lane_of(&job, false).is_some() {
                self.inside.send(lane_of(&job, false)).unwrap();
                self.permits.lock().unwrap().recv().unwrap();
            }
            signed(job)
        }
    }

    fn costly(n: u8) -> Job {
        let algorithm = crate::crypto::SignatureAlgorithm::RsaSha512;
        let from = Origin {
            link: 1,
            peer: ([127, 0, 0, 1], 1).into(),
            local: ([127, 0, 0, 1], 2).into(),
            routing: Default::default(),
        };
        Job::Sign { from, host_key: 0, algorithm, message: Box::new([n]), exchange: None }
    }

    fn question() -> Job {
        Job::Resolve { host: "silent.example".into(), port: 22, asker: "ann".into() }
    }

    /// SECURITY cases 29 and 129: however much arithmetic and however many names wait, other work
    /// goes on.
    #[test]
    fn case_29_slow_jobs_leave_a_thread_to_others() {
        let (permit, begun, weighed) = Weighed::new();
        let (reply, inbox) = inbox();
        let workers = Workers::start(4, 64, weighed).unwrap();
        for n in 0..20 {
            workers.try_submit(&reply, token(n), costly(n)).unwrap();
        }
        let mut kinds = vec![begun.recv().unwrap(), begun.recv().unwrap()];
        for n in 20..40 {
            workers.try_submit(&reply, token(n), question()).unwrap();
        }
        kinds.push(begun.recv().unwrap());
        assert_eq!(kinds, [Some(0), Some(0), Some(1)]);
        for n in 100..140 {
            workers.try_submit(&reply, token(n), job(n)).unwrap();
        }
        let mut others: Vec<u32> = (0..40).map(|_| inbox.recv().unwrap().0.key).collect();
        others.sort_unstable();
        assert!(others.into_iter().eq(100..140), "the others are done");
        assert!(begun.try_recv().is_err(), "and the last thread has taken none of those");
        for _ in 0..40 {
            permit.send(()).unwrap();
        }
        let mut rest: Vec<u32> = (0..40).map(|_| inbox.recv().unwrap().0.key).collect();
        rest.sort_unstable();
        assert!(rest.into_iter().eq(0..40));
    }

    fn search(asker: &str) -> Job {
        let transport = ClientConfig::new(Preferences::new("Test_1").unwrap());
        let upstream = Upstream {
            fleet: Arc::new(Fleet::new([])),
            finder: None,
            user: "ann".into(),
            credential: Credential::Agent,
            on_behalf_of: "ann".into(),
            client: Ipv4Addr::LOCALHOST.into(),
            known_hosts: "/known".into(),
            host_keys: HostKeyPolicy::Strict,
            ca_algorithms: Vec::new(),
            announces: None,
            share: None,
            config: Arc::new(ClientConnectionConfig::new(Arc::new(transport))),
        };
        Job::FindHosts { link: 1, upstream: Arc::new(upstream), asker: asker.into() }
    }

    /// Programs that do not answer hold up neither names nor anything else.
    #[test]
    fn slow_programs_leave_threads_to_names_and_others() {
        let (permit, begun, weighed) = Weighed::new();
        let (reply, inbox) = inbox();
        let workers = Workers::start(4, 64, weighed).unwrap();
        for n in 0..20 {
            workers
                .try_submit(&reply, token(n), search(["ann", "ben"][usize::from(n % 2)]))
                .unwrap();
        }
        let mut kinds = vec![begun.recv().unwrap(), begun.recv().unwrap()];
        for n in 20..40 {
            workers.try_submit(&reply, token(n), question()).unwrap();
        }
        kinds.push(begun.recv().unwrap());
        assert_eq!(kinds, [Some(3), Some(3), Some(1)]);
        workers.try_submit(&reply, token(100), job(100)).unwrap();
        assert_eq!(inbox.recv().unwrap().0, token(100));
        assert!(begun.try_recv().is_err(), "and the last thread has taken none of those");
        for _ in 0..40 {
            permit.send(()).unwrap();
        }
        let mut rest: Vec<u32> = (0..40).map(|_| inbox.recv().unwrap().0.key).collect();
        rest.sort_unstable();
        assert!(rest.into_iter().eq(0..40));
    }

    /// SECURITY case 129: a user whose names no server answers for, however many, waits alone; nor is anything else
    /// turned away for them.
    #[test]
    fn case_129_names_that_nobody_answers_for_hold_up_their_own_user_alone() {
        let (permit, begun, weighed) = Weighed::new();
        let (reply, inbox) = inbox();
        let workers = Workers::start_resolvers(3, 1, weighed).unwrap();
        let ask = |n: u8, asker: &str| {
            let job = Job::Resolve { host: "silent.example".into(), port: 22, asker: asker.into() };
            workers.try_submit(&reply, token(n), job).unwrap();
        };
        for n in 0..20 {
            ask(n, "ann");
        }
        assert_eq!(begun.recv().unwrap(), Some(1));
        ask(20, "ben");
        assert_eq!(begun.recv().unwrap(), Some(1), "another user is heard at once");
        workers.try_submit(&reply, token(100), job(100)).unwrap();
        assert_eq!(inbox.recv().unwrap().0, token(100), "and what waits for nobody");
        assert!(begun.try_recv().is_err(), "the first has no second thread");
        for _ in 0..21 {
            permit.send(()).unwrap();
        }
        let mut all: Vec<u32> = (0..21).map(|_| inbox.recv().unwrap().0.key).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..21));
    }

    /// SECURITY case 64: what fails while a key is judged is an end, never a login.
    #[test]
    fn case_64_a_panic_costs_one_job() {
        let (reply, inbox) = inbox();
        let workers = Workers::start(1, 64, Arc::new(Prompt)).unwrap();
        workers.try_submit(&reply, token(1), job(DEFECTIVE)).unwrap();
        workers.try_submit(&reply, token(2), job(2)).unwrap();
        assert!(matches!(inbox.recv(), Ok((Token { key: 1, .. }, Done::Lost))));
        assert!(matches!(inbox.recv(), Ok((Token { key: 2, .. }, Done::Signature(Some(_))))));
    }

    /// Waits with keys as a program or a server would that does not answer.
    struct Hanging(Mutex<mpsc::Receiver<()>>);

    impl Execute for Hanging {
        fn run(&self, job: Job) -> Done {
            if let Job::FindKey { .. } = job {
                let _ = self.0.lock().unwrap().recv();
                return Done::Key(None);
            }
            signed(job)
        }

        fn asks_programs(&self) -> bool {
            true
        }
    }

    fn look() -> Job {
        let key = PrivateKey::generate(KeyKind::Ed25519).unwrap().public().clone();
        let ends = ([192, 0, 2, 1], 22).into();
        Job::FindKey {
            user: "ann".into(),
            style: Box::default(),
            key: Box::new(key),
            algorithm: SignatureAlgorithm::Ed25519,
            certificate: None,
            signed: None,
            from: Origin { link: 1, peer: ends, local: ends, routing: RoutingDomain::default() },
            about: About::default(),
        }
    }

    /// SECURITY case 129: whoever waits for keys that nobody finds is left to it, and others do his work.
    #[test]
    fn case_129_a_worker_that_looks_for_a_key_for_long_is_relieved() {
        let (permit, permits) = mpsc::channel();
        let (reply, inbox) = inbox();
        let workers = Workers::start(2, 64, Arc::new(Hanging(Mutex::new(permits)))).unwrap();
        // One at a time, as programs are asked.
        (0..3).for_each(|n| workers.try_submit(&reply, token(n), look()).unwrap());
        let wait_until = |done: &dyn Fn() -> bool| {
            while !done() {
                workers.relieve();
                thread::sleep(ENDING_CHECK);
            }
        };
        let looking = || workers.bench.looking().len();
        wait_until(&|| looking() == 3);
        workers.try_submit(&reply, token(9), job(9)).unwrap();
        assert_eq!(inbox.recv().unwrap().0, token(9));
        // Those whose place others have end, and there are as many as at first.
        (0..3).for_each(|_| permit.send(()).unwrap());
        (0..3).for_each(|_| drop(inbox.recv().unwrap()));
        let there = || workers.threads.lock().unwrap().iter().filter(|t| !t.is_finished()).count();
        wait_until(&|| looking() == 0 && there() == 2);
        // And none is waited for at the end.
        workers.try_submit(&reply, token(4), look()).unwrap();
        wait_until(&|| looking() == 1);
        drop(workers);
    }

    #[test]
    fn those_left_behind_are_not_waited_for() {
        let (permit, permits) = mpsc::channel();
        let (reply, inbox) = inbox();
        let gated = Arc::new(Gated(Mutex::new(permits)));
        let workers = Workers::start(1, 4, gated).unwrap().left_behind();
        workers.try_submit(&reply, token(1), job(1)).unwrap();
        // The thread still waits for its permission, so joining it would never end.
        drop(workers);
        permit.send(()).unwrap();
        assert_eq!(inbox.recv().unwrap().0, token(1));
    }

    #[test]
    fn stopping_answers_what_waits() {
        let (permit, permits) = mpsc::channel();
        let (reply, inbox) = inbox();
        let gated = Arc::new(Gated(Mutex::new(permits)));
        let workers = Workers::start(1, 64, gated).unwrap();
        for n in 0..5 {
            workers.try_submit(&reply, token(n), job(n)).unwrap();
        }
        let stopper = std::thread::Builder::new().spawn(move || drop(workers)).unwrap();
        // Enough for all, so that whatever was begun before the stop was seen can finish.
        for _ in 0..5 {
            let _ = permit.send(());
        }
        stopper.join().unwrap();
        let answered: Vec<u32> = inbox.try_iter().map(|(token, _)| token.key).collect();
        assert_eq!(answered, [0, 1, 2, 3, 4]);
    }
}
