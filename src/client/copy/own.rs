//! Our own files. A disk, or the machine that has it, may take its time: everything that looks for a name or
//! changes something is done aside, and much of it at once.

use std::fs::{self, File, OpenOptions, Permissions, ReadDir};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::Copy;
use super::file::{About, Kind};
use super::place::here;
use super::split::Extents;
use super::trouble::ours;
use crate::crypto::HashKind;
use crate::limits::{
    COPY_ENTRIES_AT_ONCE, COPY_EXTENTS_MAX, COPY_HOLE_BYTES_MIN, SFTP_COPY_STEP_BYTES,
};

/// An entry of a directory, and what is known of it if it is a file or a directory, not a link to one.
pub type Entry = (Vec<u8>, Option<About>);

/// What a file is to be when it is whole.
#[derive(Clone, Copy, Debug)]
pub struct Finish {
    pub size: u64,
    /// `None`: it has the one it was made with.
    pub mode: Option<u32>,
    /// Access and modification; `None`: as they come.
    pub times: Option<(u32, u32)>,
    /// It is on disk, and so is its name.
    pub fsync: bool,
}

/// What is there, links followed; `None`: nothing.
pub async fn look(copy: &Copy, path: &[u8]) -> Result<Option<About>> {
    let path = path.to_vec();
    let look = move || match fs::metadata(here(&path)) {
        Ok(metadata) => Ok(Some(About::of_metadata(&metadata))),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(told(&why)),
    };
    copy.aside.run(look).await?
}

/// Opens a file that is to be read.
pub async fn open(copy: &Copy, path: &[u8]) -> Result<(Arc<File>, About)> {
    let path = path.to_vec();
    let open = move || {
        // A FIFO would wait for its other end.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let file = options.open(here(&path)).map_err(|why| told(&why))?;
        let about = About::of_metadata(&file.metadata()?);
        Ok((Arc::new(file), about))
    };
    copy.aside.run(open).await?
}

/// Opens the file that another is copied into; `keep`: what is in it is of use.
pub async fn create(copy: &Copy, path: &[u8], mode: u32, keep: bool) -> Result<Arc<File>> {
    let path = path.to_vec();
    let create = move || {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(!keep).mode(mode);
        // Whoever can write into the folder may have put a link there.
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
        let file = options.open(here(&path)).map_err(|why| told(&why))?;
        if About::of_metadata(&file.metadata()?).kind != Kind::File {
            bail!("something that is no file is in its way");
        }
        Ok(Arc::new(file))
    };
    copy.aside.run(create).await?
}

pub async fn about(copy: &Copy, file: &Arc<File>) -> Result<About> {
    let file = Arc::clone(file);
    Ok(copy.aside.run(move || Ok::<_, io::Error>(About::of_metadata(&file.metadata()?))).await??)
}

/// Up to `len` bytes; fewer at the end of the file alone.
pub async fn read(copy: &Copy, file: &Arc<File>, at: u64, len: usize) -> Result<Vec<u8>> {
    let file = Arc::clone(file);
    let read = move || {
        let mut bytes = vec![0; len];
        let mut got = 0;
        while let Some(rest) = bytes.get_mut(got..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, at + got as u64) {
                Ok(0) => break,
                Ok(more) => got += more,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) => return Err(why),
            }
        }
        bytes.truncate(got);
        Ok(bytes)
    };
    Ok(copy.aside.run(read).await??)
}

/// Gives the file what belongs to it, makes sure that it is whole, and puts it in its place.
///
/// # Errors
/// The outer one: it is not what it should be. The inner one: it is, and stays where it was.
pub async fn finish(
    copy: &Copy,
    file: Arc<File>,
    finish: Finish,
    (part, to): (&[u8], &[u8]),
) -> Result<io::Result<()>> {
    let (part, to) = (part.to_vec(), to.to_vec());
    let finish = move || {
        complete(&file, finish)?;
        shut(file)?;
        Ok(put_in_place(&part, &to, finish.fsync))
    };
    copy.aside.run(finish).await?
}

fn complete(file: &File, finish: Finish) -> Result<()> {
    let size = file.metadata()?.len();
    if size > finish.size {
        file.set_len(finish.size)?;
    }
    if let Some(mode) = finish.mode {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    if let Some((access, modification)) = finish.times {
        file.set_times(times(access, modification))?;
    }
    if finish.fsync {
        file.sync_all().context("flushing it")?;
    }
    let there = file.metadata()?.len();
    if there != finish.size {
        bail!("{there} bytes are there, and {} were to be copied", finish.size);
    }
    Ok(())
}

fn put_in_place(part: &[u8], to: &[u8], fsync: bool) -> io::Result<()> {
    fs::rename(here(part), here(to))?;
    if fsync {
        let folder = here(to).parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(here(b".")))?.sync_all()?;
    }
    Ok(())
}

/// Closes it, which may fail where files are another machine's. Nobody else has it.
fn shut(file: Arc<File>) -> io::Result<()> {
    match Arc::into_inner(file) {
        Some(file) => Ok(nix::unistd::close(file)?),
        None => Ok(()),
    }
}

/// SHA-256 of the first so many bytes.
pub async fn hash(copy: &Copy, file: &Arc<File>, len: u64) -> Result<Vec<u8>> {
    let file = Arc::clone(file);
    let hash = move || {
        let mut hasher = HashKind::Sha256.hasher();
        let mut space = vec![0; SFTP_COPY_STEP_BYTES];
        let mut at = 0;
        while at < len {
            let want = (len - at).min(space.len() as u64) as usize;
            let Some(room) = space.get_mut(..want) else { break };
            match file.read_at(room, at) {
                Ok(0) => break,
                Ok(got) => {
                    hasher.update(space.get(..got).unwrap_or_default());
                    at += got as u64;
                }
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) => return Err(why),
            }
        }
        Ok(hasher.finish().as_ref().to_vec())
    };
    Ok(copy.aside.run(hash).await??)
}

/// Where there is data between `start` and `end`, as distances from `start`; what lies between is holes of
/// [`COPY_HOLE_BYTES_MIN`] and more. What is before `from` counts as data, and so does the last byte, so that whoever
/// writes all of it has a file of that length. `None`: there are no such holes, or that is not to be known.
pub async fn data(
    copy: &Copy,
    file: &Arc<File>,
    (start, from, end): (u64, u64, u64),
) -> Result<Option<Extents>> {
    let file = Arc::clone(file);
    copy.aside.run(move || extents(&file, (start, from, end))).await
}

fn extents(file: &File, (start, from, end): (u64, u64, u64)) -> Option<Extents> {
    let about = file.metadata().ok()?;
    let on_disk = about.blocks().saturating_mul(512);
    let least = COPY_HOLE_BYTES_MIN;
    if end.saturating_sub(from) < least || on_disk.saturating_add(least) > about.len() {
        return None;
    }
    let seek = |at: u64, whence| match lseek(file, i64::try_from(at).ok()?, whence) {
        Ok(at) => u64::try_from(at).ok(),
        // Nothing but a hole from there to the end.
        Err(Errno::ENXIO) => Some(end),
        Err(_) => None,
    };
    let mut all: Extents = if from > start { vec![(0, from - start)] } else { Vec::new() };
    let mut at = from;
    while at < end {
        let data = seek(at, Whence::SeekData)?.min(end - 1);
        at = seek(data, Whence::SeekHole)?.clamp(data + 1, end);
        let (data, hole) = (data - start, at - start);
        let full = all.len() == COPY_EXTENTS_MAX;
        match all.last_mut() {
            Some((_, before)) if data - *before < least => *before = hole,
            _ if full => return None,
            _ => all.push((data, hole)),
        }
    }
    Some(all).filter(|all| all.len() > 1 || all.first().is_some_and(|(data, _)| *data > 0))
}

/// It is not needed any more.
pub async fn close(copy: &Copy, file: Arc<File>) -> Result<()> {
    Ok(copy.aside.run(move || shut(file)).await??)
}

pub async fn remove(copy: &Copy, path: &[u8]) -> Result<()> {
    let path = path.to_vec();
    Ok(copy.aside.run(move || fs::remove_file(here(&path))).await??)
}

/// Makes a directory. An error says that there is something, or that it cannot be made.
pub async fn make_directory(copy: &Copy, path: &[u8]) -> Result<io::Result<()>> {
    let path = path.to_vec();
    copy.aside.run(move || fs::create_dir(here(&path))).await
}

/// Where a path leads to, without links.
pub async fn real_path(copy: &Copy, path: &[u8]) -> Result<Vec<u8>> {
    let path = path.to_vec();
    let found = copy.aside.run(move || fs::canonicalize(here(&path))).await??;
    Ok(found.into_os_string().into_vec())
}

/// Gives a directory its mode and times.
pub async fn set(copy: &Copy, path: &[u8], mode: u32, set: Option<(u32, u32)>) -> Result<()> {
    let path = path.to_vec();
    let set = move || {
        if let Some((access, modification)) = set {
            File::open(here(&path))?.set_times(times(access, modification))?;
        }
        fs::set_permissions(here(&path), Permissions::from_mode(mode))
    };
    copy.aside.run(set).await?.map_err(|why| told(&why))
}

pub async fn list(copy: &Copy, path: &[u8]) -> Result<ReadDir> {
    let path = path.to_vec();
    copy.aside.run(move || fs::read_dir(here(&path))).await?.map_err(|why| told(&why))
}

/// The next entries; none: there are no more.
pub async fn entries(copy: &Copy, mut from: ReadDir) -> Result<(ReadDir, Vec<Entry>)> {
    let entries = move || {
        let mut all = Vec::new();
        for entry in from.by_ref().take(COPY_ENTRIES_AT_ONCE) {
            let entry = entry?;
            // What has gone meanwhile is looked for by whoever wants it.
            let about = entry.metadata().ok().map(|metadata| About::of_metadata(&metadata));
            let about = about.filter(|about| about.kind != Kind::Other);
            all.push((entry.file_name().into_vec(), about));
        }
        Ok::<_, io::Error>((from, all))
    };
    copy.aside.run(entries).await?.map_err(|why| told(&why))
}

/// What went wrong, and what can be done.
pub fn told(why: &io::Error) -> anyhow::Error {
    why.raw_os_error().map_or_else(|| anyhow::anyhow!("{why}"), |raw| ours(Errno::from_raw(raw)))
}

fn times(access: u32, modification: u32) -> fs::FileTimes {
    let time = |seconds: u32| -> SystemTime { UNIX_EPOCH + Duration::from_secs(seconds.into()) };
    fs::FileTimes::new().set_accessed(time(access)).set_modified(time(modification))
}
