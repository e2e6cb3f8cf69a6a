//! From one server to another: through memory here, a few slots of it.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use anyhow::{Context, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::desk::Places;
use super::file::judge;
use super::remote::{Handle, Remote};
use super::split::descriptor;
use super::{Copy, UnderWay};
use crate::limits::{COPY_SLOT_BYTES, COPY_SLOTS};
use crate::services::sftp_client::{Stretch, Way};

/// Moves a stretch; each slot is filled by one session and then emptied by the other.
pub async fn relay(
    copy: &Rc<Copy>,
    (from, read): (&Remote, &Handle),
    (to, write): (&Remote, &Handle),
    (stretch, under_way): (Stretch, &Rc<UnderWay>),
) -> Result<()> {
    let memory = memfd_create("tidegate-cp", MFdFlags::MFD_CLOEXEC).context("memory")?;
    let memory = File::from(memory);
    let places = Places::new(COPY_SLOTS);
    let mut at = 0;
    let outcome = Rc::new(std::cell::RefCell::new(Ok(())));
    while at < stretch.len && outcome.borrow().is_ok() {
        let place = places.take().await;
        let len = (stretch.len - at).min(COPY_SLOT_BYTES);
        let here = place.number as u64 * COPY_SLOT_BYTES;
        let piece = Stretch { there: stretch.there + at, here, len };
        let fds = (descriptor(&memory)?, descriptor(&memory)?);
        let (from, read) = (from.clone(), read.clone());
        let (to, write) = (to.clone(), write.clone());
        let told = Rc::clone(&outcome);
        let moved = Rc::clone(&under_way.moved);
        copy.desk.begin(async move {
            let moved = one((&from, &read), (&to, &write), fds, (piece, &moved)).await;
            if let Err(why) = moved {
                let mut told = told.borrow_mut();
                if told.is_ok() {
                    *told = Err(why);
                }
            }
            drop(place);
        });
        at += len;
    }
    let mut all = Vec::new();
    for _ in 0..COPY_SLOTS {
        all.push(places.take().await);
    }
    outcome.replace(Ok(()))
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
