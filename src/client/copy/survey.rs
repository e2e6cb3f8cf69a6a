//! How much there is to copy: the same directories once more, ahead of the copy, so that what is left can
//! be told. Nothing is kept but the sums.

use std::rc::Rc;

use super::Copy;
use super::file::{About, Kind, Spot};
use super::listing::{Listing, Next};
use super::place::join;
use crate::limits::COPY_DEPTH_MAX;

/// Files that were found, and whether those are all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub files: u64,
    pub bytes: u64,
    pub all: bool,
}

struct Level {
    at: Spot,
    below: Vec<u8>,
    listing: Listing,
}

/// Adds up what is below the sources. What cannot be read is told by the copy.
pub async fn survey(copy: Rc<Copy>, sources: Vec<Spot>) {
    for source in sources {
        if let Ok(Some(about)) = source.look(&copy).await {
            match about.kind {
                Kind::Directory if copy.plan.recursive => walk(&copy, source).await,
                _ => count(&copy, &about),
            }
        }
    }
    let found = copy.found.get();
    copy.found.set(Found { all: true, ..found });
}

async fn walk(copy: &Rc<Copy>, top: Spot) {
    let mut levels = Vec::new();
    levels.extend(enter(copy, top, Vec::new()).await);
    while let Some(level) = levels.last_mut() {
        let Ok(Next::Entry((name, told))) = level.listing.next(copy, &level.at).await else {
            // One that is no name ends it as well: the copy tells of it, and the sum is but a sum.
            if let Some(level) = levels.pop() {
                level.listing.close(&level.at).await;
            }
            continue;
        };
        let below = join(&level.below, &name);
        if !copy.plan.filter.takes(&below) {
            continue;
        }
        let at = Spot { side: level.at.side.clone(), path: join(&level.at.path, &name) };
        let about = match told {
            Some(about) => Some(about),
            None => at.look(copy).await.ok().flatten(),
        };
        match about {
            Some(about) if about.kind == Kind::Directory => {
                let above = level.at.clone();
                let back = told.is_none() && at.leads_back(copy, &above).await;
                if levels.len() < COPY_DEPTH_MAX && !back {
                    levels.extend(enter(copy, at, below).await);
                }
            }
            Some(about) => count(copy, &about),
            None => {}
        }
    }
}

async fn enter(copy: &Rc<Copy>, at: Spot, below: Vec<u8>) -> Option<Level> {
    let listing = Listing::open(copy, &at).await.ok()?;
    Some(Level { at, below, listing })
}

fn count(copy: &Copy, about: &About) {
    if about.kind == Kind::File {
        let found = copy.found.get();
        let (files, bytes) = (found.files + 1, found.bytes.saturating_add(about.size));
        copy.found.set(Found { files, bytes, ..found });
    }
}
