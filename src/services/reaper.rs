//! Waits for processes that outlive their channel: they ignored the hang-up, or are about to end
//! and nobody is left to see it. One thread a process, started when the first one comes.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::child::reap;

/// Ended processes collected by one wait.
const BATCH: usize = 32;

static REAPER: OnceLock<Option<Reaper>> = OnceLock::new();
/// Processes waited for, by the number of their pidfd.
static ORPHANS: Mutex<BTreeMap<i32, OwnedFd>> = Mutex::new(BTreeMap::new());

struct Reaper {
    epoll: Epoll,
}

/// Takes over a process whose end nobody else will wait for.
pub fn adopt(pidfd: OwnedFd) {
    let key = pidfd.as_raw_fd();
    let mut orphans = ORPHANS.lock().unwrap_or_else(PoisonError::into_inner);
    let orphan = orphans.entry(key).or_insert(pidfd);
    let watched = REAPER.get_or_init(Reaper::start).as_ref().is_some_and(|reaper| {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, key as u64);
        reaper.epoll.add(orphan, event).is_ok()
    });
    // Without a watch they are looked at whenever another one comes.
    if !watched {
        orphans.retain(|_, pidfd| reap(pidfd).is_none());
    }
}

/// Processes still waited for.
pub fn orphans() -> usize {
    ORPHANS.lock().unwrap_or_else(PoisonError::into_inner).len()
}

impl Reaper {
    fn start() -> Option<Reaper> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).ok()?;
        std::thread::Builder::new()
            .name("reaper".to_owned())
            .stack_size(64 * 1024)
            .spawn(|| {
                if let Some(reaper) = REAPER.wait() {
                    reaper.run();
                }
            })
            .ok()?;
        Some(Reaper { epoll })
    }

    fn run(&self) {
        let mut events = [EpollEvent::empty(); BATCH];
        loop {
            let Ok(count) = self.epoll.wait(&mut events, EpollTimeout::NONE) else { continue };
            let mut orphans = ORPHANS.lock().unwrap_or_else(PoisonError::into_inner);
            for event in events.iter().take(count) {
                let key = event.data() as i32;
                if orphans.get(&key).is_some_and(|pidfd| reap(pidfd).is_some()) {
                    orphans.remove(&key);
                }
            }
        }
    }
}
