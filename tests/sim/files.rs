//! A file system of one level in the simulated world, and what a worker does to it.

use std::collections::BTreeMap;

use nix::errno::Errno;
use tidegate::base::SeededEntropy;
use tidegate::reactor::Fd;
use tidegate::reactor::sim::{FileId, SimWorld};
use tidegate::services::Root;
use tidegate::services::scp::{self, ScpDone, ScpJob, Word, jobs::Kind};
use tidegate::services::sftp::{self, Failure, FsDone, FsJob, Opened, Subject};
use tidegate::wire::Writer;
use tidegate::wire::sftp::{Attributes, StatusCode, open, put_name};

use crate::chance::hits;

/// Names and what they stand for.
#[derive(Debug, Default)]
pub struct SimFiles {
    names: BTreeMap<Vec<u8>, FileId>,
    numbers: Vec<FileId>,
    open: BTreeMap<i32, Handle>,
    /// Jobs that fail for no reason, of a million.
    pub failing: u32,
    pub failed: u64,
}

#[derive(Debug)]
enum Handle {
    File(FileId),
    /// Names not listed yet.
    Directory(Vec<Vec<u8>>),
}

impl SimFiles {
    pub fn put(&mut self, path: &str, contents: Vec<u8>, world: &SimWorld) {
        let file = world.create_file(contents);
        self.numbers.push(file);
        self.names.insert(path.as_bytes().to_vec(), file);
    }

    pub fn contents(&self, path: &str, world: &SimWorld) -> Option<Vec<u8>> {
        self.names.get(path.as_bytes()).map(|file| world.contents(*file))
    }

    pub fn run(&mut self, job: FsJob, world: &SimWorld, entropy: &mut SeededEntropy) -> FsDone {
        let spoiled = hits(entropy, self.failing);
        // A failing close still closes.
        if spoiled && !matches!(job, FsJob::Close { .. } | FsJob::Base { .. }) {
            self.failed += 1;
            return FsDone::Failed(Errno::EIO.into());
        }
        self.attempt(job, world).unwrap_or_else(|errno| FsDone::Failed(Failure::from(errno)))
    }

    pub fn scp(&mut self, job: ScpJob, world: &SimWorld, entropy: &mut SeededEntropy) -> ScpDone {
        let spoiled = hits(entropy, self.failing);
        self.failed += u64::from(spoiled);
        if spoiled && !matches!(job, ScpJob::Finish(_)) {
            return ScpDone::Failed(Errno::EIO);
        }
        match self.attempt_scp(job, world).unwrap_or_else(ScpDone::Failed) {
            ScpDone::Finished(None) if spoiled => {
                ScpDone::Finished(Some(("set times", Errno::EIO)))
            }
            done => done,
        }
    }

    fn attempt_scp(&mut self, job: ScpJob, world: &SimWorld) -> Result<ScpDone, Errno> {
        Ok(match job {
            ScpJob::Expand { words, .. } => {
                let names = words.iter().map(Word::text).collect();
                ScpDone::Expanded { root: Root::System, base: Box::from(*b"/home"), names }
            }
            ScpJob::Open { path } => {
                let file = self.names.get(path.as_bytes()).copied();
                let inside = self.inside(path.as_bytes());
                let kind = match (file, inside.is_empty()) {
                    (Some(_), _) => Kind::File,
                    (None, false) => Kind::Directory,
                    (None, true) => return Err(Errno::ENOENT),
                };
                let size = file.map_or(0, |file| world.contents(file).len() as u64);
                let fd = world.open_file(file.unwrap_or_else(|| world.create_file(Vec::new())));
                if kind == Kind::Directory {
                    self.open.insert(fd.0, Handle::Directory(inside));
                }
                let mode = if kind == Kind::File { 0o100_644 } else { 0o40_755 };
                ScpDone::Opened(scp::jobs::Opened { fd, kind, mode, size, times: (5, 6) })
            }
            ScpJob::Entries { fd } => match self.open.get_mut(&fd.0) {
                Some(Handle::Directory(names)) => {
                    let some = names.split_off(names.len().saturating_sub(2));
                    ScpDone::Entries(some.into_iter().map(Vec::into_boxed_slice).collect())
                }
                _ => return Err(Errno::ENOTDIR),
            },
            ScpJob::Look { path } => {
                let is_directory = !self.inside(path.as_bytes()).is_empty();
                if !is_directory && !self.names.contains_key(path.as_bytes()) {
                    return Err(Errno::ENOENT);
                }
                ScpDone::Looked { is_directory }
            }
            ScpJob::Create { path, .. } => {
                let existed = self.names.contains_key(path.as_bytes());
                match self.open(path.as_bytes(), open::WRITE | open::CREATE, world)? {
                    FsDone::Opened(Opened { fd, .. }) => {
                        ScpDone::Created { fd, existed, regular: true }
                    }
                    other => panic!("{other:?}"),
                }
            }
            ScpJob::Finish(finish) => {
                let file = self.file(finish.fd)?;
                if let Some(size) = finish.size {
                    world.truncate(file, size);
                }
                self.open.remove(&finish.fd.0);
                world.close(finish.fd);
                ScpDone::Finished(None)
            }
            ScpJob::MakeDirectory { path, .. } => {
                ScpDone::Made { existed: !self.inside(path.as_bytes()).is_empty() }
            }
            ScpJob::FinishDirectory { .. } => ScpDone::Done,
        })
    }

    /// The names in a directory, which is there as long as there are some.
    fn inside(&self, directory: &[u8]) -> Vec<Vec<u8>> {
        let below =
            |name: &Vec<u8>| Some(name.strip_prefix(directory)?.strip_prefix(b"/")?.to_vec());
        self.names.keys().filter_map(below).collect()
    }

    fn attempt(&mut self, job: FsJob, world: &SimWorld) -> Result<FsDone, Errno> {
        Ok(match job {
            FsJob::Base { .. } => FsDone::Base(Root::System, Box::from(*b"/home")),
            FsJob::Open { path, flags, .. } => self.open(path.as_bytes(), flags, world)?,
            FsJob::OpenDirectory { .. } => {
                let fd = world.open_file(world.create_file(Vec::new()));
                let names = self.names.keys().cloned().collect();
                self.open.insert(fd.0, Handle::Directory(names));
                FsDone::OpenedDirectory(fd)
            }
            FsJob::ReadDirectory { fd, accounts } => match self.open.get_mut(&fd.0) {
                Some(Handle::Directory(names)) if names.is_empty() => {
                    FsDone::EndOfDirectory { accounts }
                }
                Some(Handle::Directory(names)) => {
                    let some = names.split_off(names.len().saturating_sub(7));
                    let (count, encoded) = (some.len() as u32, encode(&some));
                    FsDone::Entries { count, encoded, accounts }
                }
                _ => return Err(Errno::ENOTDIR),
            },
            FsJob::Close { fd } => {
                self.open.remove(&fd.0).ok_or(Errno::EBADF)?;
                world.close(fd);
                FsDone::Done
            }
            FsJob::Stat { subject } => {
                let file = self.find(&subject)?;
                let size = Some(world.contents(file).len() as u64);
                FsDone::Attributes(Attributes { size, ..Attributes::EMPTY })
            }
            FsJob::SetStat { .. } | FsJob::MakeDirectory { .. } => FsDone::Done,
            FsJob::Remove { path } => {
                self.names.remove(path.as_bytes()).ok_or(Errno::ENOENT)?;
                FsDone::Done
            }
            FsJob::Rename { from, to, replace } => {
                if !replace && self.names.contains_key(to.as_bytes()) {
                    return Err(Errno::EEXIST);
                }
                let file = self.names.remove(from.as_bytes()).ok_or(Errno::ENOENT)?;
                self.names.insert(to.as_bytes().to_vec(), file);
                FsDone::Done
            }
            FsJob::RealPath { path, .. } => FsDone::Path([b"/real/", &*path].concat()),
            FsJob::Copy(copy) => self.copy(&copy, world)?,
            _ => return Ok(FsDone::Failed(Failure::new(StatusCode::OpUnsupported))),
        })
    }

    fn open(&mut self, path: &[u8], flags: u32, world: &SimWorld) -> Result<FsDone, Errno> {
        let known = self.names.get(path).copied();
        let file = match known {
            Some(_) if flags & open::EXCLUSIVE != 0 => return Err(Errno::EEXIST),
            Some(file) => file,
            None if flags & open::CREATE == 0 => return Err(Errno::ENOENT),
            None => {
                let file = world.create_file(Vec::new());
                self.numbers.push(file);
                self.names.insert(path.to_vec(), file);
                file
            }
        };
        if flags & open::TRUNCATE != 0 {
            world.truncate(file, 0);
        }
        let fd = world.open_file(file);
        self.open.insert(fd.0, Handle::File(file));
        let inode = self.numbers.iter().position(|known| *known == file).unwrap_or(0) as u64;
        let file = sftp::FileId { device: 1, inode };
        Ok(FsDone::Opened(Opened { fd, file, regular: true, size: 0 }))
    }

    fn find(&self, subject: &Subject) -> Result<FileId, Errno> {
        match subject {
            Subject::Path(path) | Subject::Link(path) => {
                self.names.get(path.as_bytes()).copied().ok_or(Errno::ENOENT)
            }
            Subject::Handle(fd) => self.file(*fd),
        }
    }

    fn file(&self, fd: Fd) -> Result<FileId, Errno> {
        match self.open.get(&fd.0) {
            Some(Handle::File(file)) => Ok(*file),
            _ => Err(Errno::EBADF),
        }
    }

    /// In small pieces, as a large file would be.
    fn copy(&self, copy: &sftp::Copy, world: &SimWorld) -> Result<FsDone, Errno> {
        let source = world.contents(self.file(copy.from)?);
        let target = self.file(copy.to)?;
        let start = (copy.from_offset as usize).min(source.len());
        let len = (copy.len as usize).min(source.len() - start).min(10_000);
        let mut contents = world.contents(target);
        let at = copy.to_offset as usize;
        contents.resize(contents.len().max(at + len), 0);
        contents[at..at + len].copy_from_slice(&source[start..start + len]);
        world.replace(target, contents);
        Ok(FsDone::Copied { bytes: len as u64, ended: start + len == source.len() })
    }
}

fn encode(names: &[Vec<u8>]) -> Vec<u8> {
    let mut space = vec![0; 16 * 1024];
    let mut out = Writer::new(&mut space);
    for name in names {
        put_name(&mut out, name, name, &Attributes::EMPTY).expect("room for seven names");
    }
    out.written().to_vec()
}
