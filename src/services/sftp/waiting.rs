use std::collections::VecDeque;

use super::fs::FsJob;
use super::handles::HandleName;
use crate::limits::{SFTP_REQUESTS_MAX, SFTP_WAITING_BYTES_MAX};
use crate::wire::sftp::{Attributes, StatusCode};

/// A request that has been read and not started.
#[derive(Debug)]
pub struct Waiting {
    pub id: u32,
    pub what: What,
}

#[derive(Debug)]
pub enum What {
    Init,
    Limits,
    /// Nothing to do but to answer.
    Status(StatusCode),
    /// The session may not do this.
    Forbidden(Box<FsJob>),
    Read {
        handle: HandleName,
        offset: u64,
        len: u32,
    },
    Handle {
        name: HandleName,
        ask: HandleAsk,
    },
    Job {
        class: Class,
        job: Box<FsJob>,
    },
    Copy(Box<CopyAsk>),
}

/// A copy-data request: handles with their offsets.
#[derive(Clone, Copy, Debug)]
pub struct CopyAsk {
    pub from: (HandleName, u64),
    pub to: (HandleName, u64),
    /// Zero: up to the end of the source.
    pub len: u64,
}

/// What is asked about an open handle.
#[derive(Debug)]
pub enum HandleAsk {
    Close,
    Stat,
    SetStat(Box<Attributes>),
    ReadDirectory,
    VfsStat,
    Fsync,
    Hash { offset: u64, len: u64, block: u32 },
}

/// What may run at the same time (draft §4.1: the outcome is as if one came after the other).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Changes nothing: runs beside others of its class.
    Look,
    /// Runs alone.
    Alone,
}

impl What {
    pub const fn class(&self) -> Class {
        match self {
            What::Init | What::Copy(_) => Class::Alone,
            What::Limits | What::Status(_) | What::Forbidden(_) | What::Read { .. } => Class::Look,
            What::Job { class, .. } => *class,
            What::Handle { ask: HandleAsk::Stat | HandleAsk::VfsStat, .. } => Class::Look,
            What::Handle { .. } => Class::Alone,
        }
    }
}

/// Requests in the order in which they came.
#[derive(Debug, Default)]
pub struct Queue {
    requests: VecDeque<(Waiting, usize)>,
    bytes: usize,
}

impl Queue {
    /// No more is read from the channel now.
    pub fn is_full(&self) -> bool {
        self.requests.len() >= SFTP_REQUESTS_MAX || self.bytes >= SFTP_WAITING_BYTES_MAX
    }

    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// `bytes`: how long the request was.
    pub fn push(&mut self, waiting: Waiting, bytes: usize) {
        self.bytes += bytes;
        self.requests.push_back((waiting, bytes));
    }

    /// What was begun and is to go on later.
    pub fn push_front(&mut self, waiting: Waiting, bytes: usize) {
        self.bytes += bytes;
        self.requests.push_front((waiting, bytes));
    }

    pub fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.requests.iter().map(|(waiting, _)| waiting)
    }

    pub fn front(&self) -> Option<&Waiting> {
        self.requests.front().map(|(waiting, _)| waiting)
    }

    pub fn pop(&mut self) -> Option<Waiting> {
        let (waiting, bytes) = self.requests.pop_front()?;
        self.bytes -= bytes;
        if self.requests.is_empty() && self.requests.capacity() > SFTP_REQUESTS_MAX / 2 {
            self.requests = VecDeque::new();
        }
        Some(waiting)
    }

    pub fn clear(&mut self) {
        *self = Queue::default();
    }
}
