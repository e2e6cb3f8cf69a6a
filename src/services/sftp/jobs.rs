use super::desk::{Begun, Ended, Running};
use super::fs::{FsDone, FsJob};
use super::handles::HandleName;
use super::intake::writable;
use super::reads::Started;
use super::waiting::{Class, Waiting, What};
use super::{EXIT_BAD_PEER, Sftp, State};
use crate::limits::SFTP_LOOKS_MAX;
use crate::reactor::Op;
use crate::services::{Io, Job};
use crate::wire::sftp::StatusCode;

impl Sftp {
    /// Starts requests in order, as far as those before them allow. True when any was.
    pub(super) fn start_waiting(&mut self, io: &mut Io<'_>) -> bool {
        let mut started = false;
        while let Some(next) = self.waiting.front() {
            // What cannot be sent is not added to: replies wait for the client to read them.
            if !self.desk.replies.is_empty() || !self.may_start(&next.what) {
                break;
            }
            if let Waiting { id, what: What::Read { handle, offset, len } } = *next {
                if self.start_read(id, (handle, offset, len), io) == Started::NotYet {
                    break;
                }
                self.waiting.pop();
            } else if let Some(next) = self.waiting.pop() {
                self.start(next, io);
            }
            started = true;
        }
        started
    }

    /// Nothing that was started is unanswered, writes aside.
    pub(super) fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.reads.is_empty() && self.flushing.is_none()
    }

    fn may_start(&self, what: &What) -> bool {
        if !self.writes.is_empty() || self.flushing.is_some() {
            return false;
        }
        match what.class() {
            Class::Alone => self.is_idle(),
            Class::Look => {
                let alone = self.jobs.iter().any(|(_, job)| job.class == Class::Alone);
                !alone && self.jobs.len() < SFTP_LOOKS_MAX
            }
        }
    }

    fn start_read(
        &mut self,
        id: u32,
        (handle, offset, len): (HandleName, u64, u32),
        io: &mut Io<'_>,
    ) -> Started {
        match self.desk.handles.file(handle) {
            Some(file) => self.reads.start(id, file, (offset, len), &mut self.desk.replies, io),
            None => {
                self.desk.replies.status(id, StatusCode::Failure);
                Started::Yes
            }
        }
    }

    fn start(&mut self, waiting: Waiting, io: &mut Io<'_>) {
        let id = waiting.id;
        match self.desk.begin(waiting) {
            Begun::Answered => {}
            Begun::Job(running, job) => {
                if let (FsJob::Open { flags, .. }, Some(turn)) = (&job, self.turn)
                    && writable(*flags)
                {
                    io.expect(turn);
                }
                self.run(running, job, io);
            }
            Begun::Flush(fd) => {
                self.flushing = Some((id, 0));
                io.submit(super::FLUSH_TAG, Op::Fsync { fd });
            }
        }
    }

    fn run(&mut self, running: Running, job: FsJob, io: &mut Io<'_>) {
        let key = self.jobs.insert(running);
        io.job(super::JOB_TAGS + key as u16, Job::Fs(self.desk.root.clone(), Box::new(job)));
    }

    /// A worker is done, and nobody waits for its answer.
    pub(super) fn job_lost(&mut self, key: usize, done: &FsDone) {
        if let Some(running) = self.jobs.try_remove(key) {
            self.desk.tell(running, done);
        }
    }

    /// A worker is done.
    pub(super) fn job_done(&mut self, key: usize, done: FsDone, io: &mut Io<'_>) {
        let Some(running) = self.jobs.try_remove(key) else { return };
        match self.desk.finish(running, done) {
            Ended::Answered => {}
            Ended::Greeted => self.state = State::Serving,
            Ended::Again(running, job) => match running.rest().filter(|_| self.halted) {
                Some(rest) => self.waiting.push_front(rest, super::FRONT_BYTES),
                None => self.run(running, job, io),
            },
            Ended::Failed => self.state = State::Ending(EXIT_BAD_PEER),
        }
    }
}
