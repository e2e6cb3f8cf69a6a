use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};

use crate::reactor::Token;
use crate::services::{Done, Job};

/// Does the work of a job. Runs on a worker thread and may block.
pub trait Execute: Send + Sync {
    fn run(&self, job: Job) -> Done;
}

/// Where outcomes go: one shard's inbox. Must not block, and must make the shard's wait return.
pub trait Reply: Send + Sync {
    fn deliver(&self, token: Token, done: Done);
}

/// A few threads that do what would stall a shard, behind one bounded queue.
///
/// Dropping it ends it in order: jobs that were begun are finished, those that still wait are
/// answered [`Done::Lost`], and the threads are joined.
pub struct Workers {
    orders: Option<Sender<Order>>,
    threads: Vec<JoinHandle<()>>,
    stopping: Arc<AtomicBool>,
}

struct Order {
    reply: usize,
    token: Token,
    job: Job,
}

/// What every worker thread works with.
struct Bench {
    queue: Receiver<Order>,
    execute: Arc<dyn Execute>,
    replies: Arc<[Arc<dyn Reply>]>,
    stopping: Arc<AtomicBool>,
}

impl Workers {
    /// `jobs_max` bounds the jobs that wait for a thread. `replies` are addressed by their index.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(
        threads: usize,
        jobs_max: usize,
        execute: Arc<dyn Execute>,
        replies: Vec<Arc<dyn Reply>>,
    ) -> io::Result<Workers> {
        let (orders, queue) = bounded(jobs_max);
        let replies: Arc<[Arc<dyn Reply>]> = replies.into();
        let stopping = Arc::new(AtomicBool::new(false));
        let mut workers = Workers { orders: Some(orders), threads: Vec::new(), stopping };
        for n in 0..threads.max(1) {
            let bench = Bench {
                queue: queue.clone(),
                execute: Arc::clone(&execute),
                replies: Arc::clone(&replies),
                stopping: Arc::clone(&workers.stopping),
            };
            let thread = std::thread::Builder::new()
                .name(format!("worker-{n}"))
                .spawn(move || bench.work())?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Queues a job; its outcome goes to reply number `reply` with this token. Never waits.
    ///
    /// # Errors
    /// The queue is full or the workers are stopping: the job comes back.
    pub fn try_submit(&self, reply: usize, token: Token, job: Job) -> Result<(), Job> {
        let Some(orders) = &self.orders else { return Err(job) };
        match orders.try_send(Order { reply, token, job }) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(order) | TrySendError::Disconnected(order)) => Err(order.job),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        drop(self.orders.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Bench {
    fn work(&self) {
        for Order { reply, token, job } in &self.queue {
            let done = if self.stopping.load(Ordering::Acquire) {
                Done::Lost
            } else {
                // A defect in one job costs that job; the executor keeps no state between jobs that
                // a panic could leave half changed (its locks are poisoned).
                catch_unwind(AssertUnwindSafe(|| self.execute.run(job))).unwrap_or(Done::Lost)
            };
            if let Some(reply) = self.replies.get(reply) {
                reply.deliver(token, done);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc;

    use super::*;
    use crate::connection::WindowSize;
    use crate::services::TerminalSpec;

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
        let workers = Workers::start(3, 64, Arc::new(Prompt), vec![first, second]).unwrap();
        for n in 100..150 {
            workers.try_submit(usize::from(n % 2), token(n), job(n)).unwrap();
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
        let workers = Workers::start(1, 2, gated, vec![reply]).unwrap();
        // One may be in the worker's hands and two may wait; the next one must come back.
        let mut accepted = 0;
        let refused = loop {
            match workers.try_submit(0, token(accepted), job(accepted)) {
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
        workers.try_submit(0, token(9), job(9)).unwrap();
        permit.send(()).unwrap();
        assert_eq!(inbox.recv().unwrap().0, token(9));
    }

    #[test]
    fn a_panic_costs_one_job() {
        let (reply, inbox) = inbox();
        let workers = Workers::start(1, 64, Arc::new(Prompt), vec![reply]).unwrap();
        workers.try_submit(0, token(1), job(DEFECTIVE)).unwrap();
        workers.try_submit(0, token(2), job(2)).unwrap();
        assert!(matches!(inbox.recv(), Ok((Token { key: 1, .. }, Done::Lost))));
        assert!(matches!(inbox.recv(), Ok((Token { key: 2, .. }, Done::Signature(Some(_))))));
    }

    #[test]
    fn stopping_answers_what_waits() {
        let (permit, permits) = mpsc::channel();
        let (reply, inbox) = inbox();
        let gated = Arc::new(Gated(Mutex::new(permits)));
        let workers = Workers::start(1, 64, gated, vec![reply]).unwrap();
        for n in 0..5 {
            workers.try_submit(0, token(n), job(n)).unwrap();
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
