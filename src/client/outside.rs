use std::mem;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::agent::connect_bound;
use crate::connection::ConnectionConfig;
use crate::gateway::workers::{Execute, Reply, Workers};
use crate::limits::CLIENT_WORKERS;
use crate::reactor::{Fd, Token, Waker};
use crate::services::{Done, Grant, Job, forward};
use crate::shard::{Admission, Ends, HandOver, Mail, Outside, Report, StartupEnd};

/// What is outside of a client's one shard: a few threads for what could block it, started when
/// there is first something to do for them. Nobody connects to a client.
pub struct Lone {
    inbox: Arc<Inbox>,
    workers: Option<Workers>,
}

#[derive(Default)]
struct Inbox {
    mail: Mutex<Vec<Mail>>,
    waker: OnceLock<Waker>,
}

impl Lone {
    /// `waker` is that of the shard's driver.
    pub fn new(waker: Waker) -> Lone {
        let inbox = Arc::new(Inbox::default());
        let _ = inbox.waker.set(waker);
        Lone { inbox, workers: None }
    }

    fn workers(&mut self) -> Option<&Workers> {
        if self.workers.is_none() {
            let jobs_max = crate::limits::JOBS_MAX;
            let workers = Workers::start(CLIENT_WORKERS, jobs_max, Arc::new(Work));
            // A name that nobody answers for does not hold the end of the program up.
            self.workers = workers.ok().map(Workers::left_behind);
        }
        self.workers.as_ref()
    }
}

impl Reply for Inbox {
    fn deliver(&self, token: Token, done: Done) {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        mail.push(Mail::Done { token, done });
        drop(mail);
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }
}

/// What a client's services ask for.
struct Work;

impl Execute for Work {
    fn run(&self, job: Job) -> Done {
        match job {
            Job::Resolve { host, port, .. } => Done::Resolved(forward::resolve(&host, port)),
            Job::ConnectPath(path) => Done::Connected(forward::connect_to_path(&path)),
            Job::ConnectAgent { path, bind } => Done::Connected(connect_bound(&path, &bind)),
            _ => Done::Lost,
        }
    }
}

impl Outside for Lone {
    fn submit(&mut self, token: Token, job: Job) -> Result<(), Job> {
        let reply = Arc::clone(&self.inbox) as Arc<dyn Reply>;
        match self.workers() {
            Some(workers) => workers.try_submit(&reply, token, job),
            None => {
                self.inbox.deliver(token, Done::Lost);
                Ok(())
            }
        }
    }

    fn collect(&mut self, mail: &mut Vec<Mail>) {
        let mut arrived = self.inbox.mail.lock().unwrap_or_else(PoisonError::into_inner);
        mail.append(&mut mem::take(&mut *arrived));
    }

    fn greeting(&mut self, _ends: Ends) -> Option<Arc<ConnectionConfig>> {
        None
    }

    fn admit(&mut self, _socket: Fd) -> Admission {
        Admission::Refused
    }

    fn startup_over(&mut self, _ends: Ends, _how: StartupEnd) {}

    fn ended(&mut self, _link: Option<u64>) {}

    fn serves(&self, _grant: &Grant) -> bool {
        false
    }

    fn hand_over(&mut self, connection: Box<HandOver>) -> Result<(), Box<HandOver>> {
        Err(connection)
    }

    /// Its connection ends, which is heard as any other end; the panic itself has been told.
    fn met_defect(&mut self) {}

    /// A client's connections tell what there is as [`crate::shard::News`].
    fn report(&mut self, _report: Report) {}
}
