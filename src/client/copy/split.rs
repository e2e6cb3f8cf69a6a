//! One large file in pieces: over several sessions of its host, since a server that takes only so much of a
//! session before it answers takes as much of each, or around the holes that it has here.
//!
//! Pieces are begun in order, and none lies further behind the first that is not whole than
//! [`COPY_IN_FLIGHT_BYTES_MAX`]: an interrupted copy is not trusted for so much.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use anyhow::Result;

use super::file::judge;
use super::remote::{Handle, Remote};
use super::{Copy, UnderWay};
use crate::limits::{
    COPY_IN_FLIGHT_BYTES_MAX, COPY_PIECE_BYTES, COPY_PIECES_OF_ONE, COPY_PIECES_OF_SESSION,
    COPY_SPLIT_BYTES_MIN,
};
use crate::services::sftp_client::{Stretch, Way};
use crate::wire::sftp::{Attributes, open};

/// Where in a stretch there is data: beginnings and ends, in order.
pub type Extents = Vec<(u64, u64)>;

/// A file on both sides.
#[derive(Clone)]
struct Pair {
    way: Way,
    here: Arc<File>,
    /// Where the stretch begins, on both sides.
    base: u64,
    moved: Rc<Cell<u64>>,
}

/// What is still to be moved, as all workers see it.
#[derive(Debug)]
pub struct Work {
    /// What has not been begun: where it begins and ends, in order.
    left: VecDeque<(u64, u64)>,
    piece_bytes: u64,
    under_way: BTreeSet<u64>,
    workers: usize,
    pub failed: Option<anyhow::Error>,
}

impl Work {
    pub fn new(left: impl IntoIterator<Item = (u64, u64)>, piece_bytes: u64) -> Work {
        let (left, under_way) = (left.into_iter().collect(), BTreeSet::new());
        Work { left, piece_bytes, under_way, workers: 0, failed: None }
    }

    /// The next piece, as soon as it may be begun; `None`: there are no more.
    pub async fn next(work: &RefCell<Work>) -> Option<(u64, u64)> {
        std::future::poll_fn(|_| match work.borrow_mut().take() {
            Some(next) => Poll::Ready(next),
            None => Poll::Pending,
        })
        .await
    }

    /// The next piece, if one may be begun. `Some(None)`: there are no more.
    fn take(&mut self) -> Option<Option<(u64, u64)>> {
        let left = self.left.front_mut().filter(|_| self.failed.is_none());
        let Some((from, end)) = left else { return Some(None) };
        let at = *from;
        let first = self.under_way.first().copied().unwrap_or(at);
        let len = (*end - at).min(self.piece_bytes);
        if at + len > first + u64::from(COPY_IN_FLIGHT_BYTES_MAX) {
            return None;
        }
        *from += len;
        if from == end {
            self.left.pop_front();
        }
        self.under_way.insert(at);
        Some(Some((at, len)))
    }

    pub fn ended(&mut self, at: u64, how: Result<()>) {
        self.under_way.remove(&at);
        if let Err(why) = how {
            self.failed.get_or_insert(why);
        }
    }
}

/// Whether more than one session moves a stretch: it is large enough, and one would carry less.
pub fn is_split(copy: &Copy, remote: &Remote, stretch: Stretch) -> bool {
    let deep = remote.offers().deep && copy.plan.streams.is_none();
    let alone = deep || copy.others(remote).is_empty() && !copy.grows(remote);
    stretch.len >= COPY_SPLIT_BYTES_MIN && !alone
}

/// Moves a stretch, over all sessions of the host when it is large enough and one would carry less. `path` is that of the file
/// there. `data`: where in the stretch there is something to be moved, if not everywhere.
pub async fn relocate(
    copy: &Rc<Copy>,
    way: Way,
    (remote, handle, path): (&Remote, &Handle, &[u8]),
    here: &Arc<File>,
    (stretch, under_way): (Stretch, &Rc<UnderWay>),
    data: Option<Extents>,
) -> Result<()> {
    let is_split = is_split(copy, remote, stretch);
    if !is_split && data.is_none() {
        return judge(
            remote.relocate(way, handle, descriptor(here)?, (stretch, &under_way.moved)).await?,
        );
    }
    let moved = Rc::clone(&under_way.moved);
    let data = data.unwrap_or_else(|| vec![(0, stretch.len)]);
    let bytes: u64 = data.iter().map(|(from, end)| end - from).sum();
    moved.set(moved.get() + stretch.len.saturating_sub(bytes));
    let pair = Pair { way, here: Arc::clone(here), base: stretch.here, moved };
    let work = Rc::new(RefCell::new(Work::new(data, COPY_PIECE_BYTES)));
    // One session alone has as much under way as it has otherwise.
    let pieces = if is_split { COPY_PIECES_OF_SESSION } else { COPY_PIECES_OF_ONE };
    let begin = |remote: Remote, handle: Option<Handle>| {
        for _ in 0..pieces {
            let (remote, handle) = (remote.clone(), handle.clone());
            let (pair, work, path) = (pair.clone(), Rc::clone(&work), path.to_vec());
            work.borrow_mut().workers += 1;
            copy.desk.begin(async move {
                run(&remote, handle, &path, &pair, &work).await;
                work.borrow_mut().workers -= 1;
            });
        }
    };
    begin(remote.clone(), Some(handle.clone()));
    // Others are begun with as they come.
    let mut known = vec![remote.station];
    std::future::poll_fn(|_| {
        let others = if is_split { copy.others(remote) } else { Vec::new() };
        for other in others {
            if !known.contains(&other.station) {
                known.push(other.station);
                begin(other, None);
            }
        }
        let done = work.borrow().workers == 0;
        if done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    let failed = work.borrow_mut().failed.take();
    failed.map_or(Ok(()), Err)
}

/// Moves pieces until there are none. Without a handle the session opens the file first; one that
/// cannot leaves the work to the others.
async fn run(
    remote: &Remote,
    handle: Option<Handle>,
    path: &[u8],
    pair: &Pair,
    work: &RefCell<Work>,
) {
    let own = handle.is_none();
    let handle = match handle {
        Some(handle) => handle,
        None => {
            let flags = if pair.way == Way::Get { open::READ } else { open::WRITE };
            match remote.open(path, flags, Attributes::EMPTY).await {
                Ok(handle) => handle,
                Err(_) => return,
            }
        }
    };
    while let Some((at, len)) = Work::next(work).await {
        let how = piece(remote, &handle, pair, at, len).await;
        work.borrow_mut().ended(at, how);
    }
    if own && let Err(why) = remote.close(&handle).await {
        work.borrow_mut().failed.get_or_insert(why.into());
    }
}

async fn piece(remote: &Remote, handle: &Handle, pair: &Pair, at: u64, len: u64) -> Result<()> {
    let fd = descriptor(&pair.here)?;
    let stretch = Stretch { there: pair.base + at, here: pair.base + at, len };
    judge(remote.relocate(pair.way, handle, fd, (stretch, &pair.moved)).await?)
}

/// A descriptor of its own for one move.
pub fn descriptor(file: &File) -> Result<OwnedFd> {
    Ok(file.as_fd().try_clone_to_owned()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_keep_near_the_first_that_is_not_whole() {
        let far = u64::from(COPY_IN_FLIGHT_BYTES_MAX);
        let mut work = Work::new([(0, 10 * far)], COPY_PIECE_BYTES);
        let first = work.take().expect("now").expect("a piece");
        let mut begun = first.1;
        while let Some(Some((at, len))) = work.take() {
            assert!(at + len <= far);
            begun += len;
            if at > first.0 {
                work.ended(at, Ok(()));
            }
        }
        assert_eq!(begun, far);
        assert!(work.take().is_none(), "the first is not whole");
        work.ended(first.0, Ok(()));
        assert!(matches!(work.take(), Some(Some(_))));
        work.ended(0, Err(anyhow::anyhow!("it failed")));
        assert!(matches!(work.take(), Some(None)));
    }

    #[test]
    fn what_lies_behind_a_large_hole_waits_for_what_is_before_it() {
        let far = u64::from(COPY_IN_FLIGHT_BYTES_MAX);
        let mut work = Work::new([(0, 5), (7, 9), (far, far + 1)], 4);
        let mut taken = Vec::new();
        while let Some(Some(piece)) = work.take() {
            taken.push(piece);
        }
        assert_eq!(taken, [(0, 4), (4, 1), (7, 2)]);
        assert!(work.take().is_none(), "the first is not whole");
        work.ended(0, Ok(()));
        assert!(matches!(work.take(), Some(Some((at, 1))) if at == far));
        assert!(matches!(work.take(), Some(None)));
    }
}
