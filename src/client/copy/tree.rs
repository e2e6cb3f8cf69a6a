//! What the command line names, and what is below it: walked as it is copied, never listed whole.

use std::collections::HashSet;
use std::rc::Rc;

use anyhow::{Context, Result, bail};

use super::file::{self, About, Copied, Kind, Side, SoFar, Spot};
use super::listing::{Listing, Next};
use super::own::Entry;
use super::place::{join, last_name};
use super::trouble::Trouble;
use super::{Copy, own, pattern, survey};
use crate::limits::COPY_DEPTH_MAX;
use crate::wire::sftp::Attributes;

/// The owner lists, reads and writes a directory while it is filled.
const OWNER: u32 = 0o700;

/// A directory being filled. It is given its mode and times when nothing below it is under way.
struct Folder {
    to: Spot,
    /// What is left to be set; `None`: nothing.
    about: Option<About>,
    parent: Option<Rc<Folder>>,
}

/// A directory that is being walked.
struct Level {
    from: Spot,
    folder: Rc<Folder>,
    listing: Listing,
    /// Its path below what the command line named.
    below: Vec<u8>,
}

/// Copies all of it. Files are begun as places are free; what fails is told and counted.
pub async fn copy_all(copy: Rc<Copy>, sources: Vec<Spot>, target: Spot) {
    if let Err(why) = begin(&copy, sources, target).await {
        copy.failed(&why);
    }
}

async fn begin(copy: &Rc<Copy>, sources: Vec<Spot>, target: Spot) -> Result<()> {
    let expanded = expand(copy, sources).await;
    let sources = expanded.len();
    let there = target.look(copy).await.with_context(|| copy.shown(&target))?;
    let into = there.is_some_and(|about| about.kind == Kind::Directory);
    if !into && !copy.plan.recursive && target.path.ends_with(b"/") {
        bail!("{}: no such directory", copy.shown(&target));
    }
    if sources > 1 && !into {
        bail!("{}: several files go into a directory, and it is none", copy.shown(&target));
    }
    if there.is_some_and(|about| about.kind == Kind::Other) {
        bail!("{}: not a regular file, and nothing is put in its place", copy.shown(&target));
    }
    if copy.shows {
        copy.desk.accompany(survey::survey(Rc::clone(copy), expanded.clone()));
    }
    let mut taken = HashSet::new();
    for from in expanded {
        let name = last_name(&from.path);
        // Both at once would be neither.
        if into && name.as_ref().is_some_and(|name| !taken.insert(name.clone())) {
            let shown = copy.shown(&from);
            copy.failed(&anyhow::anyhow!("{shown}: another source goes there under that name"));
            continue;
        }
        let to = match (into, name) {
            (true, Some(name)) => {
                Spot { side: target.side.clone(), path: join(&target.path, &name) }
            }
            // The contents of `.` and `/`, as with scp.
            (true | false, _) => target.clone(),
        };
        if let Err(why) = top(copy, &from, &to, into).await {
            copy.failed(&why);
        }
    }
    Ok(())
}

/// The sources with the patterns in them replaced by what is there.
async fn expand(copy: &Copy, sources: Vec<Spot>) -> Vec<Spot> {
    let mut all = Vec::new();
    for source in sources {
        let Side::There(remote) = &source.side else {
            // The shell has done that.
            all.push(source);
            continue;
        };
        if !pattern::is_one(&source.path) {
            all.push(source);
            continue;
        }
        match pattern::expand(remote, &source.path).await {
            Ok(found) if found.is_empty() => {
                let shown = copy.shown(&source);
                copy.failed(&anyhow::anyhow!("{shown}: no file there fits the pattern"));
            }
            Ok(found) => {
                let spot = |path| Spot { side: source.side.clone(), path };
                all.extend(found.into_iter().map(spot));
            }
            Err(why) => copy.failed(&why.context(copy.shown(&source))),
        }
    }
    all
}

/// Copies one thing that the command line names.
async fn top(copy: &Rc<Copy>, from: &Spot, to: &Spot, into: bool) -> Result<()> {
    let about = from.look(copy).await.with_context(|| copy.shown(from))?;
    let Some(about) = about else { bail!("{}: No such file or directory", copy.shown(from)) };
    match about.kind {
        Kind::Directory if copy.plan.recursive => walk(copy, from, to, about).await,
        Kind::Directory => bail!("{}: it is a directory; -r copies those", copy.shown(from)),
        Kind::Other => bail!("{}: not a regular file", copy.shown(from)),
        Kind::File => {
            if into && last_name(&from.path).is_none() {
                bail!("{}: it has no name of its own", copy.shown(from));
            }
            copy_file(copy, (from.clone(), about.size), to.clone(), None).await;
            Ok(())
        }
    }
}

/// Copies a file as soon as there is a place for it.
async fn copy_file(
    copy: &Rc<Copy>,
    (from, size): (Spot, u64),
    to: Spot,
    folder: Option<Rc<Folder>>,
) {
    let place = copy.places.take().await;
    let copy = Rc::clone(copy);
    let desk = copy.desk.clone();
    desk.begin(async move {
        let copied = copy_surely(&copy, (&from, size), &to).await;
        drop(place);
        match copied {
            Ok(copied) => copy.copied(&from, &to, copied),
            Err(why) => copy.failed(&why),
        }
        if let Some(folder) = folder {
            leave(&copy, folder).await;
        }
    });
}

/// Copies a file, and again where connections are lost meanwhile.
async fn copy_surely(copy: &Rc<Copy>, (from, size): (&Spot, u64), to: &Spot) -> Result<Copied> {
    let mut so_far = SoFar::new(size);
    loop {
        let (from, to) = (copy.spread(from.clone()), copy.spread(to.clone()));
        let copied = file::copy(copy, &from, &to, &mut so_far).await;
        copy.release(&from);
        copy.release(&to);
        match copied {
            Err(why) if Trouble::is_loss(&why) => {
                for side in [&from, &to] {
                    if let Err(why) = copy.wait_for(side).await {
                        copy.give_up(so_far.size);
                        return Err(anyhow::Error::from(why).context(copy.shown(side)));
                    }
                }
            }
            Err(why) => {
                copy.give_up(so_far.size);
                return Err(why);
            }
            Ok(copied) => return Ok(copied),
        }
    }
}

async fn walk(copy: &Rc<Copy>, from: &Spot, to: &Spot, about: About) -> Result<()> {
    let first = enter(copy, from, to, about, (None, Vec::new())).await?;
    let mut levels = vec![first];
    while let Some(level) = levels.last_mut() {
        let (name, told) = match level.next(copy).await {
            Ok(Some(entry)) => entry,
            end => {
                if let Err(why) = end {
                    copy.failed(&why.context(copy.shown(&level.from)));
                }
                if let Some(level) = levels.pop() {
                    level.listing.close(&level.from).await;
                    leave(copy, level.folder).await;
                }
                continue;
            }
        };
        let below = join(&level.below, &name);
        if !copy.plan.filter.takes(&below) {
            continue;
        }
        let from = Spot { side: level.from.side.clone(), path: join(&level.from.path, &name) };
        let to =
            Spot { side: level.folder.to.side.clone(), path: join(&level.folder.to.path, &name) };
        let folder = Rc::clone(&level.folder);
        let above = (level.from.clone(), levels.len() >= COPY_DEPTH_MAX);
        match step(copy, (from, told), to, (folder, below), above).await {
            Ok(inner) => levels.extend(inner),
            Err(why) => copy.failed(&why),
        }
    }
    Ok(())
}

/// One entry of the directory `above`, which may be the deepest there is, and what its listing told of it.
/// `Some`: it is one itself, and goes on inside.
async fn step(
    copy: &Rc<Copy>,
    (from, told): (Spot, Option<About>),
    to: Spot,
    (folder, below): (Rc<Folder>, Vec<u8>),
    (above, deepest): (Spot, bool),
) -> Result<Option<Level>> {
    // A round trip less for each of many files; what is opened is looked at anyway.
    let about = match told {
        Some(about) => Some(about),
        None => from.look(copy).await.with_context(|| copy.shown(&from))?,
    };
    match about {
        None => bail!("{}: a link that leads nowhere", copy.shown(&from)),
        Some(about) if about.kind == Kind::Directory => {
            let shown = copy.shown(&from);
            if deepest {
                bail!("{shown}: more than {COPY_DEPTH_MAX} directories inside one another");
            }
            if told.is_none() && from.leads_back(copy, &above).await {
                bail!("{shown}: a link to a directory that it is in; it is left out");
            }
            Ok(Some(enter(copy, &from, &to, about, (Some(folder), below)).await?))
        }
        Some(about) if about.kind == Kind::Other => {
            bail!("{}: not a regular file", copy.shown(&from))
        }
        Some(about) => {
            copy_file(copy, (from, about.size), to, Some(folder)).await;
            Ok(None)
        }
    }
}

/// Makes a directory and begins to read the other.
async fn enter(
    copy: &Rc<Copy>,
    from: &Spot,
    to: &Spot,
    about: About,
    (parent, below): (Option<Rc<Folder>>, Vec<u8>),
) -> Result<Level> {
    let mode = about.mode & 0o777;
    let made = match copy.plan.dry_run {
        true => false,
        false => make(copy, to, mode | OWNER).await.with_context(|| copy.shown(to))?,
    };
    let set = !copy.plan.dry_run && (copy.plan.preserve || made && mode | OWNER != mode);
    let folder = Folder { to: to.clone(), about: set.then_some(about), parent };
    let listing = Listing::open(copy, from).await.with_context(|| copy.shown(from))?;
    Ok(Level { from: from.clone(), folder: Rc::new(folder), listing, below })
}

/// Makes a directory where none is. True: there was none.
async fn make(copy: &Copy, at: &Spot, mode: u32) -> Result<bool> {
    let failed: anyhow::Error = match &at.side {
        Side::Here => match own::make_directory(copy, &at.path).await? {
            Ok(()) => return Ok(true),
            Err(why) => why.into(),
        },
        Side::There(remote) => match remote.make_directory(&at.path, mode).await {
            Ok(()) => return Ok(true),
            Err(why) => why.into(),
        },
    };
    match at.look(copy).await? {
        Some(about) if about.kind == Kind::Directory => Ok(false),
        Some(_) => bail!("something that is no directory is in its way"),
        None => Err(failed),
    }
}

impl Level {
    /// The next name, and what is known of it if that is a file or a directory, not a link to one;
    /// `None`: there are no more.
    async fn next(&mut self, copy: &Copy) -> Result<Option<Entry>> {
        loop {
            match self.listing.next(copy, &self.from).await? {
                Next::Entry(entry) => return Ok(Some(entry)),
                Next::End => return Ok(None),
                Next::NoName(name) => {
                    let (folder, name) = (copy.shown(&self.from), crate::base::escape(&name));
                    copy.failed(&anyhow::anyhow!(
                        "{folder}: the server names an entry \"{name}\", which is no name; it is left out"
                    ));
                }
            }
        }
    }
}

/// Something below a directory is over. The last one gives it what it is to keep.
async fn leave(copy: &Copy, folder: Rc<Folder>) {
    let mut folder = folder;
    while let Some(Folder { to, about, parent }) = Rc::into_inner(folder) {
        if let Some(about) = about
            && let Err(why) = set(copy, &to, &about).await
        {
            copy.failed(&why.context(copy.shown(&to)));
        }
        match parent {
            Some(parent) => folder = parent,
            None => return,
        }
    }
}

async fn set(copy: &Copy, at: &Spot, about: &About) -> Result<()> {
    let mode = about.mode & 0o777;
    let times = about.times.filter(|_| copy.plan.preserve);
    match &at.side {
        Side::Here => own::set(copy, &at.path, mode, times).await?,
        Side::There(remote) => {
            let attributes = Attributes { permissions: Some(mode), times, ..Attributes::EMPTY };
            remote.set_stat(&at.path, attributes).await?;
        }
    }
    Ok(())
}

/// Which of the names below a directory are copied.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Patterns, and whether they include, as they were given: the first that fits counts.
    pub rules: Vec<(bool, String)>,
}

impl Filter {
    /// `below`: a path below what the command line named. A pattern with a slash is matched with all of
    /// it, any other with its last name.
    pub fn takes(&self, below: &[u8]) -> bool {
        let name = last_name(below).unwrap_or_default();
        let fits = |pattern: &str| {
            let text = if pattern.contains('/') { below } else { &name[..] };
            crate::base::wildcard_match(pattern.trim_start_matches('/').as_bytes(), text)
        };
        self.rules.iter().find(|(_, pattern)| fits(pattern)).is_none_or(|(include, _)| *include)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pattern_that_fits_counts() {
        let rule = |include, pattern: &str| (include, pattern.to_owned());
        let filter =
            Filter { rules: vec![rule(true, "keep.o"), rule(false, "*.o"), rule(false, "a/b")] };
        assert!(filter.takes(b"x/keep.o") && filter.takes(b"x.c"));
        assert!(!filter.takes(b"x/y.o") && !filter.takes(b"a/b") && filter.takes(b"c/a/b"));
    }
}
