//! The files behind [`super::sftp_server`]: numbers and sizes, and an errno where the script asks
//! for one.

use nix::errno::Errno as Name;

use super::sftp_server::{Desk, Played};
use crate::reactor::{Errno, Fd, Op};
use crate::services::sftp::{FileId, FsDone, FsJob, Opened, Subject};
use crate::services::{Done, Root};
use crate::wire::Writer;
use crate::wire::sftp::{Attributes, VfsStatus, put_name};

/// How often a directory can be read before it ends.
const LISTINGS: u64 = 3;

impl<S: Played> Desk<S> {
    /// Carries out the oldest job.
    pub(super) fn do_job(&mut self) {
        let Some((tag, job)) = self.jobs.pop_front() else { return };
        let done = match self.errno() {
            Some(errno) if !matches!(job, FsJob::Base { .. }) => self.fail(errno, job),
            _ => self.succeed(job),
        };
        self.serve(|sftp, io| sftp.on_done(tag, Done::Fs(Box::new(done)), io));
    }

    /// Carries out one of the operations in flight.
    pub(super) fn do_op(&mut self, choice: usize) {
        let Some((tag, mut op)) = self.ops.remove(choice % self.ops.len().max(1)) else { return };
        let result = match self.errno() {
            Some(errno) => Err(Errno(errno as i32)),
            None => Ok(self.perform(&mut op)),
        };
        self.serve(|sftp, io| sftp.on_completion(tag, op, result, io));
    }

    /// Whether what is done next fails, and how.
    fn errno(&mut self) -> Option<Name> {
        let all = [Name::ENOENT, Name::EACCES, Name::EIO, Name::ENOSPC, Name::EINTR, Name::EAGAIN];
        match self.fate {
            0..64 => None,
            // Every other one fails.
            fate if fate < 192 => {
                self.fate ^= 1;
                (fate & 1 != 0).then(|| all[usize::from(fate / 2) % 6])
            }
            // Interrupted for ever is no way to end.
            fate => Some(all[usize::from(fate) % 4]),
        }
    }

    fn fail(&mut self, errno: Name, job: FsJob) -> FsDone {
        match job {
            // A close that fails has closed all the same.
            FsJob::Close { fd } => self.shut(fd),
            FsJob::ReadDirectory { accounts, .. } if self.fate < 192 => {
                return FsDone::EndOfDirectory { accounts };
            }
            _ => {}
        }
        FsDone::Failed(errno.into())
    }

    fn succeed(&mut self, job: FsJob) -> FsDone {
        if let Some(fd) = descriptor(&job) {
            assert!(self.open.contains_key(&fd.0), "a job on a closed file: {job:?}");
        }
        match job {
            FsJob::Base { home, .. } => FsDone::Base(Root::System, home.to_bytes().into()),
            FsJob::Open { .. } => {
                let fd = self.open_one(self.size);
                // Some are one and the same file.
                let file = FileId { device: 1, inode: (fd.0 % 5) as u64 };
                FsDone::Opened(Opened { fd, file, regular: self.fate % 8 != 7, size: 0 })
            }
            FsJob::OpenDirectory { .. } => FsDone::OpenedDirectory(self.open_one(LISTINGS)),
            FsJob::ReadDirectory { fd, accounts } => {
                let left = self.open.entry(fd.0).or_default();
                if *left == 0 {
                    return FsDone::EndOfDirectory { accounts };
                }
                *left -= 1;
                let mut space = [0; 512];
                let mut out = Writer::new(&mut space);
                for name in [&b"."[..], b"..", b"a file\xff"] {
                    put_name(&mut out, name, b"-rw-r--r--", &attributes()).expect("room");
                }
                FsDone::Entries { count: 3, encoded: out.written().to_vec(), accounts }
            }
            FsJob::Close { fd } => {
                self.shut(fd);
                FsDone::Done
            }
            FsJob::Stat { .. } => FsDone::Attributes(attributes()),
            FsJob::VfsStat { .. } => FsDone::VfsStatus(VfsStatus {
                block_bytes: 4096,
                fragment_bytes: 4096,
                blocks: u64::MAX,
                blocks_free: 1,
                blocks_available: 1,
                files: 1,
                files_free: 1,
                files_available: 1,
                file_system: 7,
                flags: 0,
                name_bytes_max: 255,
            }),
            FsJob::RealPath { base, path } | FsJob::ExpandPath { base, path } => {
                FsDone::Path([&*base, b"/", &*path].concat())
            }
            FsJob::ReadLink { .. } => FsDone::Path(vec![b'x'; 4095]),
            FsJob::HomeDirectory { .. } => FsDone::Path(b"/home/me".to_vec()),
            FsJob::Copy(copy) => {
                assert!(self.open.contains_key(&copy.from.0), "a copy from a closed file");
                let bytes = copy.len.min(u64::from(self.fate) * 1000);
                FsDone::Copied { bytes, ended: bytes < copy.len }
            }
            FsJob::Hash(range) => {
                assert!(self.open.contains_key(&range.fd.0), "a hash of a closed file");
                FsDone::Hashes(vec![self.fate; 32 * (usize::from(self.fate) % 8)])
            }
            FsJob::NamesById { users, groups } => {
                let names = |ids: &[u8]| [0, 0, 0, 1, b'n'].repeat(ids.len() / 4);
                FsDone::Names { users: names(&users), groups: names(&groups) }
            }
            FsJob::SetStat { .. }
            | FsJob::Remove { .. }
            | FsJob::MakeDirectory { .. }
            | FsJob::RemoveDirectory { .. }
            | FsJob::Rename { .. }
            | FsJob::SymbolicLink { .. }
            | FsJob::HardLink { .. } => FsDone::Done,
        }
    }

    pub(super) fn open_one(&mut self, size: u64) -> Fd {
        self.next_fd += 1;
        self.open.insert(self.next_fd, size);
        Fd(self.next_fd)
    }

    fn shut(&mut self, fd: Fd) {
        assert!(self.open.remove(&fd.0).is_some(), "a file closed twice");
        assert!(self.ops.iter().all(|(_, op)| op.fd() != fd), "a file closed in use");
    }

    /// An operation that goes well, if perhaps not all the way.
    fn perform(&mut self, op: &mut Op) -> u32 {
        let size = self.open.get_mut(&op.fd().0).expect("an open file");
        match op {
            Op::ReadAt { at, lease, spans, .. } => {
                let mut left = size.saturating_sub(*at);
                let mut read = 0;
                let bytes = self.pool.bytes(lease);
                for span in spans.iter() {
                    let place = span.of_mut(bytes).expect("inside the lease");
                    let got = left.min(u64::from(span.len));
                    place[..got as usize].fill(0x66);
                    left -= got;
                    read += got as u32;
                }
                read
            }
            Op::WriteAt { at, from, .. } => {
                let all: u32 = from.iter().map(|chunk| chunk.span.len).sum();
                assert!(all > 0, "nothing to write is not written");
                let short = self.fate % 4 == 3 && all > 1;
                let written = if short { all / 2 } else { all };
                *size = (*size).max(at.saturating_add(u64::from(written)));
                written
            }
            Op::Fsync { .. } => 0,
            other => panic!("an operation that is not SFTP's: {other:?}"),
        }
    }
}

fn descriptor(job: &FsJob) -> Option<Fd> {
    match job {
        FsJob::ReadDirectory { fd, .. } | FsJob::Close { fd } => Some(*fd),
        FsJob::Stat { subject } | FsJob::SetStat { subject, .. } | FsJob::VfsStat { subject } => {
            match subject {
                Subject::Handle(fd) => Some(*fd),
                Subject::Path(_) | Subject::Link(_) => None,
            }
        }
        FsJob::Copy(copy) => Some(copy.to),
        _ => None,
    }
}

fn attributes() -> Attributes {
    Attributes { size: Some(1 << 40), permissions: Some(0o100644), ..Attributes::EMPTY }
}
