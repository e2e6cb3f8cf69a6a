//! Threads for what could wait for a disk: the reactor must not.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::calls;
use crate::limits::QUEUE_ENTRIES_FIRST;
use crate::reactor::files;
use crate::reactor::flights::Id;
use crate::reactor::places::Places;
use crate::reactor::{DriverStats, Errno, Fd, Waker};

/// One operation on a file. Its flight keeps the leases, untouched, until the answer has come.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: Id,
    pub(super) fd: Fd,
    pub(super) work: Work,
}

#[derive(Debug)]
pub(super) enum Work {
    /// All of the places, or to the end of the file.
    Read {
        at: u64,
        places: Places,
    },
    Write {
        at: u64,
        places: Places,
    },
    Sync,
}

// SAFETY: the places point into the pool's region, which stays mapped until every job has been
// answered (or for good), and to bytes of leases that the flight owns and nobody touches meanwhile.
unsafe impl Send for Job {}

/// What became of a job.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) id: Id,
    pub(super) result: Result<u32, Errno>,
    /// System calls it took.
    pub(super) calls: u64,
}

/// The driver's side of its helpers. Threads are started when they are first needed, and stay.
#[derive(Debug)]
pub(super) struct Helpers {
    desk: Arc<Desk>,
    waker: Waker,
    started: usize,
    max: usize,
}

#[derive(Debug)]
struct Desk {
    papers: Mutex<Papers>,
    bell: Condvar,
}

#[derive(Debug)]
struct Papers {
    jobs: VecDeque<Job>,
    answers: Vec<Answer>,
    /// Jobs begun and not answered.
    begun: usize,
    closed: bool,
}

impl Helpers {
    pub(super) fn new(max: usize, waker: Waker) -> Helpers {
        let papers = Papers {
            jobs: VecDeque::with_capacity(QUEUE_ENTRIES_FIRST),
            answers: Vec::with_capacity(QUEUE_ENTRIES_FIRST),
            begun: 0,
            closed: false,
        };
        let desk = Desk { papers: Mutex::new(papers), bell: Condvar::new() };
        Helpers { desk: Arc::new(desk), waker, started: 0, max }
    }

    /// The answer comes by [`Helpers::collect`], after the waker has been rung.
    pub(super) fn submit(&mut self, job: Job) {
        let mut papers = self.desk.papers();
        papers.jobs.push_back(job);
        let work = papers.jobs.len() + papers.begun;
        drop(papers);
        self.desk.bell.notify_one();
        if work > self.started && self.started < self.max {
            self.start();
        }
    }

    /// Takes a job back that nobody has begun.
    pub(super) fn withdraw(&self, id: Id) -> bool {
        let mut papers = self.desk.papers();
        let at = papers.jobs.iter().position(|job| job.id == id);
        at.is_some_and(|at| papers.jobs.remove(at).is_some())
    }

    pub(super) fn collect(&self, into: &mut Vec<Answer>) {
        into.append(&mut self.desk.papers().answers);
    }

    fn start(&mut self) {
        let (desk, waker) = (Arc::clone(&self.desk), self.waker.clone());
        let started = thread::Builder::new()
            .name("reactor-files".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || while desk.work_once(&waker) {});
        match started {
            Ok(_) => self.started += 1,
            // Slow is better than never.
            Err(_) if self.started == 0 => self.desk.work_off(&self.waker),
            Err(_) => {}
        }
    }
}

impl Drop for Helpers {
    /// A thread that hangs on a disk ends when the disk lets it.
    fn drop(&mut self) {
        self.desk.papers().closed = true;
        self.desk.bell.notify_all();
    }
}

impl Desk {
    fn papers(&self) -> MutexGuard<'_, Papers> {
        self.papers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False when there will be no more to do.
    fn work_once(&self, waker: &Waker) -> bool {
        let mut papers = self.papers();
        let job = loop {
            if let Some(job) = papers.jobs.pop_front() {
                break job;
            }
            if papers.closed {
                return false;
            }
            papers = self.bell.wait(papers).unwrap_or_else(PoisonError::into_inner);
        };
        papers.begun += 1;
        drop(papers);
        self.answer(job, waker);
        true
    }

    /// On the reactor's own thread, when no other could be had.
    fn work_off(&self, waker: &Waker) {
        loop {
            let mut papers = self.papers();
            let Some(job) = papers.jobs.pop_front() else { return };
            papers.begun += 1;
            drop(papers);
            self.answer(job, waker);
        }
    }

    fn answer(&self, job: Job, waker: &Waker) {
        let (id, mut stats) = (job.id, DriverStats::default());
        let result = match job.work {
            // SAFETY: see `Job`.
            Work::Read { at, places } => unsafe {
                files::read_slowly(job.fd, at, places, &mut stats)
            },
            // SAFETY: see `Job`.
            Work::Write { at, places } => unsafe {
                files::write_slowly(job.fd, at, &places, &mut stats)
            },
            Work::Sync => calls::sync_slowly(job.fd, &mut stats),
        };
        let mut papers = self.papers();
        papers.begun -= 1;
        papers.answers.push(Answer { id, result, calls: stats.submissions });
        drop(papers);
        waker.wake();
    }
}

/// System calls of one level; the least that threads take.
const STACK_BYTES: usize = 64 * 1024;
