//! One file: opened on both sides, moved, checked, and put in its place.

use std::fs::{self, File, OpenOptions, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;

use super::place::{here, join, last_name};
use super::remote::{Handle, Remote};
use super::resume::Kept;
use super::split::descriptor;
use super::trouble::{Trouble, ours};
use super::{Copy, UnderWay, resume, split};
use crate::limits::COPY_HASH_BLOCK_BYTES;
use crate::services::sftp::hash_blocks;
use crate::services::sftp_client::{Moved, Stretch, Way};
use crate::wire::sftp::{Attributes, open};

/// What of a mode is kept: not the set-id bits of somebody else's program.
const KEPT_MODE: u32 = 0o777;
/// The owner reads and writes what is being copied.
const OWNER: u32 = 0o600;
const NAME_BYTES_MAX: usize = 255;

/// A side of a copy.
#[derive(Clone)]
pub enum Side {
    Here,
    There(Remote),
}

/// A file on one side.
#[derive(Clone)]
pub struct Spot {
    pub side: Side,
    pub path: Vec<u8>,
}

/// An open file on one side.
pub enum Opened {
    Here(File),
    There(Remote, Handle),
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    pub kind: Kind,
    pub size: u64,
    pub mode: u32,
    /// Access and modification, in seconds since 1970.
    pub times: Option<(u32, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Other,
}

impl About {
    /// `None` for times: the server does not tell any.
    pub fn of_attributes(attributes: &Attributes) -> About {
        let mode = attributes.permissions.unwrap_or(libc::S_IFREG | 0o644);
        About {
            kind: kind(mode),
            size: attributes.size.unwrap_or(0),
            mode: mode & 0o7777,
            times: attributes.times,
        }
    }

    pub fn of_metadata(metadata: &fs::Metadata) -> About {
        let seconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX);
        About {
            kind: kind(metadata.mode()),
            size: metadata.size(),
            mode: metadata.mode() & 0o7777,
            times: Some((seconds(metadata.atime()), seconds(metadata.mtime()))),
        }
    }
}

fn kind(mode: u32) -> Kind {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => Kind::Directory,
        libc::S_IFREG | 0 => Kind::File,
        _ => Kind::Other,
    }
}

impl Spot {
    /// What is there, links followed; `None`: nothing.
    pub async fn look(&self) -> Result<Option<About>> {
        match &self.side {
            Side::Here => match fs::metadata(here(&self.path)) {
                Ok(metadata) => Ok(Some(About::of_metadata(&metadata))),
                Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(why) => Err(why.into()),
            },
            Side::There(remote) => match remote.stat(&self.path).await {
                Ok(attributes) => Ok(Some(About::of_attributes(&attributes))),
                Err(trouble) if trouble.is_no_such_file() => Ok(None),
                Err(trouble) => Err(trouble.into()),
            },
        }
    }

    /// Opens a file that is to be read.
    async fn open(&self) -> Result<(Opened, About)> {
        match &self.side {
            Side::Here => {
                // A FIFO would wait for its other end.
                let mut options = OpenOptions::new();
                options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
                let file = options.open(here(&self.path)).map_err(|why| own_error(&why))?;
                let about = About::of_metadata(&file.metadata()?);
                Ok((Opened::Here(file), about))
            }
            Side::There(remote) => {
                let handle = remote.open(&self.path, open::READ, Attributes::EMPTY).await?;
                let about = About::of_attributes(&remote.handle_stat(&handle).await?);
                Ok((Opened::There(remote.clone(), handle), about))
            }
        }
    }

    /// Opens the file that another is copied into; `keep`: what is in it is of use.
    async fn create(&self, mode: u32, keep: bool) -> Result<Opened> {
        match &self.side {
            Side::Here => {
                let mut options = OpenOptions::new();
                options.read(true).write(true).create(true).truncate(!keep).mode(mode);
                // Whoever can write into the folder may have put a link there.
                options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
                let file = options.open(here(&self.path)).map_err(|why| own_error(&why))?;
                if About::of_metadata(&file.metadata()?).kind != Kind::File {
                    bail!("something that is no file is in its way");
                }
                Ok(Opened::Here(file))
            }
            Side::There(remote) => {
                let attributes = Attributes { permissions: Some(mode), ..Attributes::EMPTY };
                let mut flags = open::READ | open::WRITE | open::CREATE;
                flags |= if keep { 0 } else { open::TRUNCATE };
                let handle = remote.open(&self.path, flags, attributes).await?;
                Ok(Opened::There(remote.clone(), handle))
            }
        }
    }

    async fn replace(&self, to: &Spot) -> Result<()> {
        match &self.side {
            Side::Here => fs::rename(here(&self.path), here(&to.path))?,
            Side::There(remote) => remote.replace(&self.path, &to.path).await?,
        }
        Ok(())
    }
}

impl Opened {
    pub async fn about(&self) -> Result<About> {
        Ok(match self {
            Opened::Here(file) => About::of_metadata(&file.metadata()?),
            Opened::There(remote, handle) => {
                About::of_attributes(&remote.handle_stat(handle).await?)
            }
        })
    }

    /// Up to `len` bytes; fewer at the end of the file alone.
    pub async fn read(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        match self {
            Opened::Here(file) => {
                let mut bytes = vec![0; len];
                let mut got = 0;
                while got < len {
                    let rest = bytes.get_mut(got..).unwrap_or_default();
                    match file.read_at(rest, at + got as u64)? {
                        0 => break,
                        more => got += more,
                    }
                }
                bytes.truncate(got);
                Ok(bytes)
            }
            Opened::There(remote, handle) => Ok(remote.read(handle, at, len).await?),
        }
    }

    pub fn can_hash(&self) -> bool {
        match self {
            Opened::Here(_) => true,
            Opened::There(remote, _) => remote.offers().check_file,
        }
    }

    /// SHA-256 of each block of a range ([`COPY_HASH_BLOCK_BYTES`]).
    pub async fn hashes(&self, copy: &Copy, at: u64, len: u64) -> Result<Vec<u8>> {
        match self {
            Opened::Here(file) => {
                let fd = descriptor(file)?;
                let hash = move || hash_blocks(fd.as_fd(), (at, len), COPY_HASH_BLOCK_BYTES);
                Ok(copy.aside.run(hash).await?.context("our file")?)
            }
            Opened::There(remote, handle) => {
                Ok(remote.hashes(handle, (at, len), COPY_HASH_BLOCK_BYTES).await?)
            }
        }
    }

    async fn set(&self, size: Option<u64>, mode: Option<u32>, about: &About) -> Result<()> {
        match self {
            Opened::Here(file) => {
                if let Some(size) = size {
                    file.set_len(size)?;
                }
                if let Some(mode) = mode {
                    file.set_permissions(Permissions::from_mode(mode))?;
                }
                if let Some((access, modification)) = about.times {
                    file.set_times(times(access, modification))?;
                }
            }
            Opened::There(remote, handle) => {
                let attributes =
                    Attributes { size, owner: None, permissions: mode, times: about.times };
                if attributes != Attributes::EMPTY {
                    remote.handle_set_stat(handle, attributes).await?;
                }
            }
        }
        Ok(())
    }

    async fn flush(&self, copy: &Copy) -> Result<()> {
        match self {
            Opened::Here(file) => {
                let file = file.try_clone()?;
                copy.aside.run(move || file.sync_all()).await?.context("flushing it")
            }
            Opened::There(remote, _) if !remote.offers().fsync => {
                bail!("the server cannot flush files (fsync@openssh.com); leave --fsync out")
            }
            Opened::There(remote, handle) => Ok(remote.fsync(handle).await?),
        }
    }

    async fn close(self) -> Result<()> {
        match self {
            Opened::Here(_) => Ok(()),
            Opened::There(remote, handle) => Ok(remote.close(&handle).await?),
        }
    }
}

fn own_error(why: &std::io::Error) -> anyhow::Error {
    why.raw_os_error().map_or_else(|| anyhow::anyhow!("{why}"), |raw| ours(Errno::from_raw(raw)))
}

pub fn times(access: u32, modification: u32) -> fs::FileTimes {
    let time = |seconds: u32| -> SystemTime { UNIX_EPOCH + Duration::from_secs(seconds.into()) };
    fs::FileTimes::new().set_accessed(time(access)).set_modified(time(modification))
}

/// What became of one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    pub bytes: u64,
    /// What an earlier copy had brought already.
    pub kept: Kept,
}

/// Copies one file. `sure`: how far a copy of it was found to be right before, and is now.
///
/// # Errors
/// Why not, for the user. What has come stays in the part file where the same command finds it.
pub async fn copy(copy: &Rc<Copy>, from: &Spot, to: &Spot, sure: &mut u64) -> Result<Copied> {
    let (source, about) = from.open().await.with_context(|| copy.shown(from))?;
    let copied = copy_opened(copy, (&source, from), to, &about, sure).await;
    let closed = source.close().await;
    let copied = copied?;
    closed.with_context(|| copy.shown(from))?;
    Ok(copied)
}

async fn copy_opened(
    copy: &Rc<Copy>,
    (source, from): (&Opened, &Spot),
    to: &Spot,
    about: &About,
    sure: &mut u64,
) -> Result<Copied> {
    match about.kind {
        Kind::File => {}
        Kind::Directory => bail!("{}: it is a directory; -r copies those", copy.shown(from)),
        Kind::Other => bail!("{}: not a regular file", copy.shown(from)),
    }
    if copy.plan.dry_run {
        return Ok(Copied { bytes: about.size, kept: Kept::default() });
    }
    let part = part_of(to, about);
    let keep = resume::is_worth_it(about.size);
    let mode = about.mode & KEPT_MODE;
    let target = part.create(mode | OWNER, keep).await.with_context(|| copy.shown(&part))?;
    let copied = fill(copy, (source, from), (&target, &part), about, keep.then_some(sure)).await;
    let finished = match copied {
        Ok(copied) => finish(copy, &target, about, mode).await.map(|()| copied),
        Err(why) => Err(why),
    };
    let closed = target.close().await;
    let copied = finished.with_context(|| copy.shown(to))?;
    closed.with_context(|| copy.shown(to))?;
    part.replace(to).await.with_context(|| format!("{}: renaming it", copy.shown(&part)))?;
    Ok(copied)
}

/// Moves what is not there yet.
async fn fill(
    copy: &Rc<Copy>,
    (source, from): (&Opened, &Spot),
    (target, to): (&Opened, &Spot),
    about: &About,
    sure: Option<&mut u64>,
) -> Result<Copied> {
    let kept = match &sure {
        Some(_) => resume::start(copy, source, target, about.size).await?,
        None => Kept::default(),
    };
    let start = kept.bytes;
    if let Some(sure) = sure
        && start > *sure
    {
        *sure = start;
        copy.advance();
    }
    let stretch = Stretch { there: start, here: start, len: about.size - start };
    if stretch.len > 0 {
        let name = last_name(&from.path).unwrap_or_default();
        let under_way = copy.begin_move(name, stretch.len);
        let moved = relocate(copy, (source, from), (target, to), (stretch, &under_way)).await;
        copy.end_move(&under_way);
        moved?;
    }
    Ok(Copied { bytes: stretch.len, kept })
}

async fn relocate(
    copy: &Rc<Copy>,
    (source, from): (&Opened, &Spot),
    (target, to): (&Opened, &Spot),
    stretch: (Stretch, &Rc<UnderWay>),
) -> Result<()> {
    match (source, target) {
        (Opened::Here(_), Opened::Here(_)) => bail!("both files are here; cp(1) copies those"),
        (Opened::Here(file), Opened::There(remote, handle)) => {
            split::relocate(copy, Way::Put, (remote, handle, &to.path), file, stretch).await
        }
        (Opened::There(remote, handle), Opened::Here(file)) => {
            split::relocate(copy, Way::Get, (remote, handle, &from.path), file, stretch).await
        }
        (Opened::There(from, read), Opened::There(to, write)) => {
            super::relay::relay(copy, (from, read), (to, write), stretch).await
        }
    }
}

/// Whether a move has done all that it should.
///
/// # Errors
/// It has not.
pub fn judge(moved: Moved) -> Result<()> {
    match moved {
        Moved::Whole => Ok(()),
        Moved::Short(_) => bail!("the file has become shorter while it was copied"),
        Moved::Here(errno) => Err(ours(errno)),
        Moved::There { code, text } => Err(Trouble::Refused { code, text }.into()),
    }
}

/// Gives the target what belongs to it, and makes sure that it is whole.
async fn finish(copy: &Rc<Copy>, target: &Opened, about: &About, mode: u32) -> Result<()> {
    let preserve = copy.plan.preserve;
    // Made with more than it shall keep, or older than this command.
    let mode = (preserve || mode | OWNER != mode).then_some(mode);
    let times = about.times.filter(|_| preserve);
    target.set(None, mode, &About { times, ..*about }).await?;
    if copy.plan.fsync {
        target.flush(copy).await?;
    }
    let there = target.about().await?.size;
    if there > about.size {
        target.set(Some(about.size), None, &About { times, ..*about }).await?;
    }
    let there = if there > about.size { target.about().await?.size } else { there };
    if there != about.size {
        bail!("{there} bytes are there, and {} were to be copied", about.size);
    }
    Ok(())
}

/// Where a file is while it is copied: beside its place, under a name that changes with its source,
/// so that an interrupted copy is not continued with something else.
fn part_of(to: &Spot, about: &About) -> Spot {
    let cut = to.path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let (folder, name) = to.path.split_at(cut);
    let mut hasher = DefaultHasher::new();
    (about.size, about.times.map(|(_, modified)| modified)).hash(&mut hasher);
    let tag = format!(".{:08x}.tidegate-part", hasher.finish() as u32);
    let mut part = [b".", name].concat();
    if part.len() + tag.len() > NAME_BYTES_MAX {
        let mut whole = DefaultHasher::new();
        name.hash(&mut whole);
        part.truncate(NAME_BYTES_MAX - tag.len() - 17);
        part.extend_from_slice(format!(".{:016x}", whole.finish()).as_bytes());
    }
    part.extend_from_slice(tag.as_bytes());
    let path = if folder.is_empty() { part } else { join(folder, &part) };
    Spot { side: to.side.clone(), path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_files_lie_beside_their_place_and_fit_any_file_system() {
        let about = |size| About { kind: Kind::File, size, mode: 0o644, times: Some((1, 2)) };
        let part = |path: &[u8], size| {
            part_of(&Spot { side: Side::Here, path: path.to_vec() }, &about(size)).path
        };
        assert!(part(b"a/b", 1).starts_with(b"a/.b."));
        assert!(part(b"/b", 1).starts_with(b"/.b.") && part(b"b", 1).starts_with(b".b."));
        assert_ne!(part(b"b", 1), part(b"b", 2), "another source");
        let (one, other) = ([b'x'; 255], [&[b'x'; 254][..], b"y"].concat());
        assert_eq!(part(&one, 1).len(), 255);
        assert_ne!(part(&one, 1), part(&other, 1));
    }
}
