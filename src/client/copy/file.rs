//! One file: opened on both sides, moved, checked, and put in its place.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::desk::both;
use super::own::Finish;
use super::place::{join, last_name};
use super::remote::{Handle, Remote};
use super::resume::Kept;
use super::split::Extents;
use super::trouble::{Trouble, ours};
use super::{Copy, UnderWay, own, resume, split};
use crate::crypto::HashKind;
use crate::limits::{COPY_HASH_BLOCK_BYTES, COPY_IN_FLIGHT_BYTES_DEEP};
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

impl Side {
    fn is_deep(&self) -> bool {
        matches!(self, Side::There(remote) if remote.offers().deep)
    }
}

/// A file on one side.
#[derive(Clone)]
pub struct Spot {
    pub side: Side,
    pub path: Vec<u8>,
}

/// An open file on one side.
pub enum Opened {
    Here(Arc<File>),
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
    /// What a listing tells of an entry; `None`: not what it is.
    pub fn told(attributes: &Attributes) -> Option<About> {
        let tells = attributes.permissions.is_some_and(|mode| mode & libc::S_IFMT != 0);
        tells.then(|| About::of_attributes(attributes))
    }

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

    /// Nobody has written to the file between the two looks, as far as sizes and times tell.
    fn is_of_same(&self, other: &About) -> bool {
        let modified = |about: &About| about.times.map(|(_, modified)| modified);
        self.size == other.size && modified(self) == modified(other)
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
    pub async fn look(&self, copy: &Copy) -> Result<Option<About>> {
        match &self.side {
            Side::Here => own::look(copy, &self.path).await,
            Side::There(remote) => match remote.stat(&self.path).await {
                Ok(attributes) => Ok(Some(About::of_attributes(&attributes))),
                Err(trouble) if trouble.is_no_such_file() => Ok(None),
                Err(trouble) => Err(trouble.into()),
            },
        }
    }

    /// Whether this directory, found by a link in `folder`, is `folder` or one that it is in. Where a server
    /// does not tell, it is not.
    pub async fn leads_back(&self, copy: &Copy, folder: &Spot) -> bool {
        let (to, from) = (self.real_path(copy).await, folder.real_path(copy).await);
        let (Ok(to), Ok(from)) = (to, from) else { return false };
        let behind = from.strip_prefix(to.as_slice());
        behind.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/") || to == b"/")
    }

    async fn real_path(&self, copy: &Copy) -> Result<Vec<u8>> {
        match &self.side {
            Side::Here => own::real_path(copy, &self.path).await,
            Side::There(remote) => Ok(remote.real_path(&self.path).await?),
        }
    }

    /// Opens a file that is to be read.
    async fn open(&self, copy: &Copy) -> Result<(Opened, About)> {
        match &self.side {
            Side::Here => {
                let (file, about) = own::open(copy, &self.path).await?;
                Ok((Opened::Here(file), about))
            }
            Side::There(remote) => {
                let handle = remote.open(&self.path, open::READ, Attributes::EMPTY).await?;
                let attributes = remote.handle_stat(&handle).await?;
                let about = About::of_attributes(&attributes);
                if about.kind == Kind::File && attributes.size.is_none() {
                    let _ = remote.close(&handle).await;
                    bail!(
                        "the server does not tell how long it is, so nobody knows when it is whole"
                    );
                }
                Ok((Opened::There(remote.clone(), handle), about))
            }
        }
    }

    /// Opens the file that another is copied into; `keep`: what is in it is of use, and how much that is is
    /// told where it can be asked in the same round trip.
    async fn create(&self, copy: &Copy, mode: u32, keep: bool) -> Result<(Opened, Option<u64>)> {
        let Side::There(remote) = &self.side else {
            return Ok((Opened::Here(own::create(copy, &self.path, mode, keep).await?), None));
        };
        let attributes = Attributes { permissions: Some(mode), ..Attributes::EMPTY };
        let mut flags = open::READ | open::WRITE | open::CREATE;
        if !keep {
            flags |= open::TRUNCATE;
            let handle = remote.open(&self.path, flags, attributes).await?;
            return Ok((Opened::There(remote.clone(), handle), Some(0)));
        }
        // In whichever order these are done: what was there is what is there.
        let open = remote.open(&self.path, flags, attributes);
        let (told, handle) = both(remote.stat(&self.path), open).await;
        let there = match told {
            Ok(attributes) => attributes.size,
            Err(trouble) => trouble.is_no_such_file().then_some(0),
        };
        Ok((Opened::There(remote.clone(), handle?), there))
    }

    async fn remove(&self, copy: &Copy) -> Result<()> {
        match &self.side {
            Side::Here => own::remove(copy, &self.path).await,
            Side::There(remote) => Ok(remote.remove(&self.path).await?),
        }
    }
}

impl Opened {
    pub async fn about(&self, copy: &Copy) -> Result<About> {
        match self {
            Opened::Here(file) => own::about(copy, file).await,
            Opened::There(remote, handle) => {
                Ok(About::of_attributes(&remote.handle_stat(handle).await?))
            }
        }
    }

    /// Up to `len` bytes; fewer at the end of the file alone.
    pub async fn read(&self, copy: &Copy, at: u64, len: usize) -> Result<Vec<u8>> {
        match self {
            Opened::Here(file) => own::read(copy, file, at, len).await,
            Opened::There(remote, handle) => Ok(remote.read(handle, at, len).await?),
        }
    }

    /// More of a copy may be under way than can be trusted without hashes.
    fn is_deep(&self) -> bool {
        matches!(self, Opened::There(remote, _) if remote.offers().deep)
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
                let file = Arc::clone(file);
                let hash = move || hash_blocks(file.as_fd(), (at, len), COPY_HASH_BLOCK_BYTES);
                Ok(copy.aside.run(hash).await?.context("our file")?)
            }
            Opened::There(remote, handle) => {
                Ok(remote.hashes(handle, (at, len), COPY_HASH_BLOCK_BYTES).await?)
            }
        }
    }

    /// SHA-256 of the first `len` bytes of the file at `path`, and of each of so many blocks behind them
    /// ([`COPY_HASH_BLOCK_BYTES`]), or of fewer; by a command where it is a server's. `None`: it runs none.
    pub async fn sums(
        &self,
        copy: &Copy,
        path: &[u8],
        (len, blocks): (u64, u64),
    ) -> Result<Option<Vec<Vec<u8>>>> {
        let file = match self {
            Opened::Here(file) => file,
            Opened::There(remote, _) => {
                return Ok(remote.hash_by_command(path, (len, blocks)).await?);
            }
        };
        let mut all = vec![own::hash(copy, file, len).await?];
        let rest = self.hashes(copy, len, blocks * u64::from(COPY_HASH_BLOCK_BYTES)).await?;
        all.extend(rest.chunks(HashKind::Sha256.digest_bytes()).map(<[u8]>::to_vec));
        Ok(Some(all))
    }

    async fn close(self, copy: &Copy) -> Result<()> {
        match self {
            Opened::Here(file) => own::close(copy, file).await,
            Opened::There(remote, handle) => Ok(remote.close(&handle).await?),
        }
    }
}

/// What became of one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    pub bytes: u64,
    /// What an earlier copy had brought already.
    pub kept: Kept,
}

/// What tries to copy one file have come to.
#[derive(Clone, Copy, Debug)]
pub struct SoFar {
    /// How far a copy of it was found to be right.
    sure: u64,
    /// Its size, as it was last.
    pub size: u64,
    /// There was a try before.
    tried: bool,
}

impl SoFar {
    pub const fn new(size: u64) -> SoFar {
        SoFar { sure: 0, size, tried: false }
    }
}

/// Copies one file. `so_far`: of the tries before, and of this one.
///
/// # Errors
/// Why not, for the user. What has come stays in the part file where the same command finds it.
pub async fn copy(copy: &Rc<Copy>, from: &Spot, to: &Spot, so_far: &mut SoFar) -> Result<Copied> {
    let (source, about) = from.open(copy).await.with_context(|| copy.shown(from))?;
    so_far.size = about.size;
    let copied = copy_opened(copy, (&source, from), to, &about, so_far).await;
    // It was only read, and nobody waits for that.
    let inner = Rc::clone(copy);
    copy.desk.begin(async move {
        let _ = source.close(&inner).await;
    });
    copied
}

async fn copy_opened(
    copy: &Rc<Copy>,
    (source, from): (&Opened, &Spot),
    to: &Spot,
    about: &About,
    so_far: &mut SoFar,
) -> Result<Copied> {
    match about.kind {
        Kind::File => {}
        Kind::Directory => bail!("{}: it is a directory; -r copies those", copy.shown(from)),
        Kind::Other => bail!("{}: not a regular file", copy.shown(from)),
    }
    if copy.plan.dry_run {
        return Ok(Copied { bytes: about.size, kept: Kept::default() });
    }
    let part = part_of(to, about, source.is_deep() || to.side.is_deep());
    let keep = resume::is_worth_it(about.size);
    let mode = about.mode & KEPT_MODE;
    let goes_on = keep && (so_far.tried || !copy.plan.anew);
    so_far.tried = true;
    let beside = || format!("{}: making a part file beside it", copy.shown(to));
    let (target, there) = part.create(copy, mode | OWNER, goes_on).await.with_context(beside)?;
    let places = ((source, from), (&part, to));
    let sure = keep.then_some((&mut so_far.sure, there));
    let copied = copy_into(copy, target, places, about, sure).await;
    if let Err(why) = &copied
        && (!keep || why.is::<Changed>())
        && (matches!(to.side, Side::Here) || !Trouble::is_loss(why))
    {
        // It is of no use to a later copy.
        let _ = part.remove(copy).await;
    }
    copied
}

/// Fills a part file and puts it in its place. `sure`: how far a copy of it was found to be right, and how
/// long the part file was, if that is known.
async fn copy_into(
    copy: &Rc<Copy>,
    target: Opened,
    ((source, from), (part, to)): ((&Opened, &Spot), (&Spot, &Spot)),
    about: &About,
    sure: Option<(&mut u64, Option<u64>)>,
) -> Result<Copied> {
    let finish = Finish::new(copy, about);
    // Those of a server are asked about again where there was time to change them.
    let looks = sure.is_some() || matches!(source, Opened::Here(_));
    let filled = async {
        let filled = fill(copy, (source, from), (&target, part), (about, finish), sure).await;
        let filled = filled.with_context(|| copy.shown(to))?;
        if looks {
            let now = source.about(copy).await.with_context(|| copy.shown(from))?;
            if !now.is_of_same(about) {
                return Err(anyhow::Error::from(Changed).context(copy.shown(from)));
            }
        }
        Ok(filled)
    };
    match filled.await {
        Ok((copied, told)) => {
            put_in_place(copy, (target, told), (part, to), finish).await?;
            Ok(copied)
        }
        Err(why) => {
            // It has failed already.
            let _ = target.close(copy).await;
            Err(why)
        }
    }
}

/// What was copied is neither what was there nor what is there now.
#[derive(Debug, thiserror::Error)]
#[error("it has changed while it was copied; the same command copies it as it is now")]
struct Changed;

/// Moves what is not there yet. Answers as well what the target was told to be, if it has been finished with
/// along with that.
async fn fill(
    copy: &Rc<Copy>,
    (source, from): (&Opened, &Spot),
    (target, to): (&Opened, &Spot),
    (about, finish): (&About, Finish),
    sure: Option<(&mut u64, Option<u64>)>,
) -> Result<(Copied, Option<Attributes>)> {
    let kept = match &sure {
        Some((_, there)) => {
            let (source, target) = ((source, &from.path[..]), (target, &to.path[..]));
            resume::start(copy, source, target, (about.size, *there)).await?
        }
        None => Kept::default(),
    };
    let start = kept.bytes;
    // Where a hole of ours may stay one: behind all that was there before.
    let there = sure.as_ref().map_or(Some(0), |(_, there)| *there);
    if let Some((sure, _)) = sure
        && start > *sure
    {
        *sure = start;
        copy.advance();
    }
    let stretch = Stretch { there: start, here: start, len: about.size - start };
    let mut told = None;
    if stretch.len > 0 {
        let name = last_name(&from.path).unwrap_or_default();
        let under_way = copy.begin_move(name, stretch.len, start);
        let places = ((source, from), (target, to));
        let data = match there {
            Some(there) => data(copy, places, (stretch, there)).await,
            None => None,
        };
        let moved = relocate(copy, places, (stretch, &under_way), (data, finish)).await;
        copy.end_move(&under_way);
        told = moved?;
    }
    Ok((Copied { bytes: stretch.len, kept }, told))
}

/// What of a stretch has to be sent, if not all of it. `there`: the length of the server's file.
async fn data(
    copy: &Copy,
    ((source, _), (target, _)): ((&Opened, &Spot), (&Opened, &Spot)),
    (stretch, there): (Stretch, u64),
) -> Option<Extents> {
    let (Opened::Here(file), Opened::There(..)) = (source, target) else { return None };
    let (start, end) = (stretch.here, stretch.here + stretch.len);
    own::data(copy, file, (start, there.clamp(start, end), end)).await.ok().flatten()
}

async fn relocate(
    copy: &Rc<Copy>,
    ((source, from), (target, to)): ((&Opened, &Spot), (&Opened, &Spot)),
    stretch: (Stretch, &Rc<UnderWay>),
    (data, finish): (Option<Extents>, Finish),
) -> Result<Option<Attributes>> {
    let moved: Result<()> = match (source, target) {
        (Opened::Here(_), Opened::Here(_)) => bail!("both files are here; cp(1) copies those"),
        (Opened::Here(file), Opened::There(remote, handle))
            if data.is_none()
                && finish.goes_along(remote)
                && !split::is_split(copy, remote, stretch.0) =>
        {
            let fd = split::descriptor(file)?;
            let (stretch, under_way) = stretch;
            let what = (finish.attributes(), finish.fsync, &to.path[..]);
            let put = remote.put_last(handle, fd, (stretch, &under_way.moved), what).await?;
            let (moved, told) = put;
            return judge(moved).map(|()| Some(told));
        }
        (Opened::Here(file), Opened::There(remote, handle)) => {
            split::relocate(copy, Way::Put, (remote, handle, &to.path), file, stretch, data).await
        }
        (Opened::There(remote, handle), Opened::Here(file)) => {
            split::relocate(copy, Way::Get, (remote, handle, &from.path), file, stretch, None).await
        }
        (Opened::There(from, read), Opened::There(to, write)) => {
            super::relay::relay(copy, (from, read), (to, write), stretch).await
        }
    };
    moved.map(|()| None)
}

/// Whether a move has done all that it should.
///
/// # Errors
/// It has not.
pub fn judge(moved: Moved) -> Result<()> {
    match moved {
        Moved::Whole => Ok(()),
        Moved::Short(_) => bail!("the source has become shorter while it was copied"),
        Moved::Here(errno) => Err(ours(errno)),
        Moved::There { code, text } => Err(Trouble::Refused { code, text }.into()),
    }
}

impl Finish {
    fn new(copy: &Copy, about: &About) -> Finish {
        let preserve = copy.plan.preserve;
        let mode = about.mode & KEPT_MODE;
        Finish {
            size: about.size,
            // Made with more than it shall keep, or older than this command.
            mode: (preserve || mode | OWNER != mode).then_some(mode),
            times: about.times.filter(|_| preserve),
            fsync: copy.plan.fsync,
        }
    }

    /// What a server's file is given.
    const fn attributes(self) -> Attributes {
        Attributes { permissions: self.mode, times: self.times, ..Attributes::EMPTY }
    }

    /// A server's file can be finished with in the round trip of its last WRITE.
    fn goes_along(self, remote: &Remote) -> bool {
        let offers = remote.offers();
        offers.in_order && (offers.fsync || !self.fsync)
    }
}

/// Gives the target what belongs to it unless it has been told what it is, makes sure that it is whole, and
/// puts it in its place.
async fn put_in_place(
    copy: &Rc<Copy>,
    (target, told): (Opened, Option<Attributes>),
    (part, to): (&Spot, &Spot),
    finish: Finish,
) -> Result<()> {
    let renamed: Result<()> = match target {
        Opened::Here(file) => {
            let done = own::finish(copy, file, finish, (&part.path, &to.path)).await;
            done.with_context(|| copy.shown(to))?.map_err(|why| own::told(&why))
        }
        Opened::There(remote, handle) => {
            let done = finish_there(&remote, (&handle, told), &part.path, finish).await;
            done.with_context(|| copy.shown(to))?;
            remote.replace(&part.path, &to.path).await.map_err(Into::into)
        }
    };
    let Err(why) = renamed else { return Ok(()) };
    // Servers do not say so themselves.
    if let Ok(Some(About { kind: Kind::Directory, .. })) = to.look(copy).await {
        bail!("{}: a directory is in its way", copy.shown(to));
    }
    Err(why.context(format!("{}: renaming it", copy.shown(part))))
}

async fn finish_there(
    remote: &Remote,
    (handle, told): (&Handle, Option<Attributes>),
    part: &[u8],
    finish: Finish,
) -> Result<()> {
    let told = match told {
        Some(told) => told,
        None => {
            let attributes = finish.attributes();
            if attributes != Attributes::EMPTY {
                remote.handle_set_stat(handle, attributes).await?;
            }
            if finish.fsync {
                if !remote.offers().fsync {
                    bail!("the server cannot flush files (fsync@openssh.com); leave --fsync out");
                }
                remote.fsync(handle).await?;
            }
            remote.stat_and_close(handle, part).await?
        }
    };
    let mut there = told.size.unwrap_or(0);
    if there > finish.size {
        let times = finish.times;
        let attributes = Attributes { size: Some(finish.size), times, ..Attributes::EMPTY };
        remote.set_stat(part, attributes).await?;
        there = remote.stat(part).await?.size.unwrap_or(0);
    }
    if there != finish.size {
        bail!("{there} bytes are there, and {} were to be copied", finish.size);
    }
    Ok(())
}

/// Where a file is while it is copied: beside its place, under a name that changes with its source,
/// so that an interrupted copy is not continued with something else, and none without hashes that may have
/// holes further back than is looked (`deep`).
fn part_of(to: &Spot, about: &About, deep: bool) -> Spot {
    let cut = to.path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let (folder, name) = to.path.split_at(cut);
    let mut hasher = DefaultHasher::new();
    (about.size, about.times.map(|(_, modified)| modified)).hash(&mut hasher);
    deep.then_some(COPY_IN_FLIGHT_BYTES_DEEP).hash(&mut hasher);
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
        let of = |path: &[u8], size, deep| {
            part_of(&Spot { side: Side::Here, path: path.to_vec() }, &about(size), deep).path
        };
        let part = |path: &[u8], size| of(path, size, false);
        assert!(part(b"a/b", 1).starts_with(b"a/.b."));
        assert!(part(b"/b", 1).starts_with(b"/.b.") && part(b"b", 1).starts_with(b".b."));
        assert_ne!(part(b"b", 1), part(b"b", 2), "another source");
        assert_ne!(part(b"b", 1), of(b"b", 1, true), "another trust");
        let (one, other) = ([b'x'; 255], [&[b'x'; 254][..], b"y"].concat());
        assert_eq!(part(&one, 1).len(), 255);
        assert_ne!(part(&one, 1), part(&other, 1));
    }
}
