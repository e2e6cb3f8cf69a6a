//! From one server to another: through memory here, a few slots of it.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use anyhow::{Context, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::desk::Places;
use super::file::judge;
use super::remote::{Handle, Remote};
use super::split::{Work, descriptor};
use super::{Copy, UnderWay};
use crate::limits::{COPY_SLOT_BYTES, COPY_SLOTS};
use crate::services::sftp_client::{Stretch, Way};

/// Moves a stretch; each slot is filled by one session and then emptied by the other. None is begun further
/// behind the first that is not empty than an interrupted copy is not trusted for.
pub async fn relay(
    copy: &Rc<Copy>,
    (from, read): (&Remote, &Handle),
    (to, write): (&Remote, &Handle),
    (stretch, under_way): (Stretch, &Rc<UnderWay>),
) -> Result<()> {
    let memory = memfd_create("tidegate-cp", MFdFlags::MFD_CLOEXEC).context("memory")?;
    let memory = File::from(memory);
    let places = Places::new(COPY_SLOTS);
    let work = Rc::new(RefCell::new(Work::new([(0, stretch.len)], COPY_SLOT_BYTES)));
    loop {
        let place = places.take().await;
        let Some((at, len)) = Work::next(&work).await else { break };
        let here = place.number as u64 * COPY_SLOT_BYTES;
        let piece = Stretch { there: stretch.there + at, here, len };
        let fds = (descriptor(&memory)?, descriptor(&memory)?);
        let (from, read) = (from.clone(), read.clone());
        let (to, write) = (to.clone(), write.clone());
        let (work, moved) = (Rc::clone(&work), Rc::clone(&under_way.moved));
        copy.desk.begin(async move {
            let how = one((&from, &read), (&to, &write), fds, (piece, &moved)).await;
            work.borrow_mut().ended(at, how);
            drop(place);
        });
    }
    let mut all = Vec::new();
    for _ in 0..COPY_SLOTS {
        all.push(places.take().await);
    }
    let failed = work.borrow_mut().failed.take();
    failed.map_or(Ok(()), Err)
}

async fn one(
    (from, read): (&Remote, &Handle),
    (to, write): (&Remote, &Handle),
    (into, out): (OwnedFd, OwnedFd),
    (piece, moved): (Stretch, &Rc<Cell<u64>>),
) -> Result<()> {
    // What has come to the other side counts.
    judge(from.relocate(Way::Get, read, into, (piece, &Rc::default())).await?)?;
    judge(to.relocate(Way::Put, write, out, (piece, moved)).await?)
}
