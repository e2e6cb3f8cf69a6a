//! What forwarded connections lead to: programs behind sockets, elsewhere in the world.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};

use tidegate::base::Instant;
use tidegate::reactor::Fd;
use tidegate::reactor::sim::SimWorld;

use crate::bytes::Flow;
use crate::forward::{Door, ForwardPlan, Habit};

/// Everybody who can be connected to, by port.
#[derive(Debug, Default)]
pub struct Town {
    targets: BTreeMap<u16, Target>,
}

#[derive(Debug)]
struct Target {
    plan: ForwardPlan,
    /// Absent where nobody listens, or one connects by path.
    listener: Option<Fd>,
    stream: Option<Fd>,
    up: Flow,
    down: Flow,
    reads_at: Instant,
    ended: bool,
    shut: bool,
    /// A client has got all it came for: so must this one.
    complete: bool,
}

impl Town {
    pub fn build(&mut self, plan: &ForwardPlan, world: &SimWorld) {
        let listener = match plan.door {
            Door::Silent | Door::Path => None,
            Door::Open | Door::Named | Door::Shut => {
                let listener = world.listen();
                world.publish(address(plan.port), listener);
                world.steady(listener);
                Some(listener)
            }
        };
        let listener = listener.filter(|listener| {
            let shut = plan.door == Door::Shut;
            if shut {
                world.close(*listener);
            }
            !shut
        });
        let target = Target {
            listener,
            stream: None,
            up: plan.up.clone(),
            down: plan.down.clone(),
            reads_at: Instant::ZERO,
            ended: false,
            shut: false,
            complete: false,
            plan: plan.clone(),
        };
        self.targets.insert(plan.port, target);
    }

    /// Where a name leads: to an address that never answers first.
    pub fn resolve(host: &str, port: u32) -> Option<Vec<SocketAddr>> {
        let port = u16::try_from(port).ok().filter(|_| host == NAME)?;
        Some(vec![([192, 0, 2, 9], port).into(), address(port)])
    }

    /// Connects to a path.
    pub fn connect(&mut self, path: &[u8], world: &SimWorld) -> Option<OwnedFd> {
        let port = std::str::from_utf8(path).ok()?.strip_prefix("/town/")?.parse().ok()?;
        let target: &mut Target = self.targets.get_mut(&port)?;
        if target.plan.door != Door::Path || target.stream.is_some() || target.ended {
            return None;
        }
        let (near, far) = world.socket_pair();
        world.steady(near);
        target.stream = Some(far);
        // SAFETY: a name of the simulated world. The shard takes its number and never drops it.
        Some(unsafe { OwnedFd::from_raw_fd(near.0) })
    }

    /// The client of this one is content.
    pub fn complete(&mut self, port: u16) {
        if let Some(target) = self.targets.get_mut(&port) {
            target.complete = true;
        }
    }

    pub fn step(&mut self, world: &SimWorld) {
        for target in self.targets.values_mut() {
            target.step(world);
        }
    }

    /// Nobody is connected.
    pub fn is_quiet(&self) -> bool {
        self.targets.values().all(|target| target.stream.is_none())
    }

    /// Nobody connects any more.
    ///
    /// # Panics
    /// When a connection is still open, or bytes are missing.
    pub fn close(&mut self, world: &SimWorld) {
        for target in self.targets.values_mut() {
            if let Some(listener) = target.listener.take() {
                world.close(listener);
            }
            assert!(target.stream.is_none(), "still connected: {target:?}");
            assert!(!target.complete || target.up.left() == 0, "bytes are missing: {target:?}");
        }
    }
}

impl Target {
    fn step(&mut self, world: &SimWorld) {
        if self.stream.is_none() && !self.ended {
            self.stream = self.listener.and_then(|listener| world.accept(listener).ok());
        }
        let Some(fd) = self.stream else { return };
        let gone = self.read(fd, world) || self.write(fd, world);
        let resets = matches!(self.plan.habit, Habit::Reset { after } if self.up.at >= after);
        if resets {
            world.reset(fd);
        }
        if gone || resets || (self.ended && self.shut) {
            world.close(fd);
            (self.stream, self.ended) = (None, true);
        }
    }

    /// True: the connection is broken.
    fn read(&mut self, fd: Fd, world: &SimWorld) -> bool {
        let now = world.now();
        if self.ended || now < self.reads_at {
            return false;
        }
        let mut bytes = vec![0; 20_000];
        match world.read(fd, &mut bytes) {
            Ok(0) => self.ended = true,
            Ok(len) => {
                self.up.check(&bytes[..len], "what a target is sent");
                let pause = self.plan.rests.max(std::time::Duration::from_nanos(1));
                self.reads_at = now.after(pause);
                world.wake_at(self.reads_at);
            }
            Err(errno) if errno.0 == libc::EAGAIN => {}
            Err(_) => return true,
        }
        false
    }

    fn write(&mut self, fd: Fd, world: &SimWorld) -> bool {
        let waits = self.plan.habit == Habit::Answer && !self.ended;
        if self.shut || waits {
            return false;
        }
        if self.down.left() == 0 {
            self.shut = true;
            world.shutdown_send(fd);
            return false;
        }
        match world.write(fd, &self.down.peek(9_000)) {
            Ok(len) => {
                self.down.advance(len);
                world.wake_at(world.now().after(std::time::Duration::from_nanos(1)));
                false
            }
            Err(errno) => errno.0 != libc::EAGAIN,
        }
    }
}

fn address(port: u16) -> SocketAddr {
    ([10, 0, 0, 1], port).into()
}

/// The only name that anybody has.
pub const NAME: &str = "town.example";
