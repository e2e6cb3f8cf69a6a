use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::driver::SimDriver;
use super::stream::End;
use super::swarm::Swarm;
use super::world::{FIRST_FD, Faults, FileId, Object, World};
use crate::base::Instant;
use crate::reactor::{Errno, Fd, PoolSizes};

/// The world that simulated drivers share. A handle; clones are the same world.
#[derive(Clone, Debug)]
pub struct SimWorld(pub(super) Rc<RefCell<World>>);

impl SimWorld {
    /// A world without faults.
    pub fn calm(seed: u64) -> SimWorld {
        SimWorld::new(seed, Swarm::calm())
    }

    /// A world with these traits and faults; all that is drawn in it comes from `seed`.
    pub fn new(seed: u64, swarm: Swarm) -> SimWorld {
        SimWorld(Rc::new(RefCell::new(World::new(seed, swarm))))
    }

    /// One more event loop in this world.
    pub fn driver(&self, pool: PoolSizes) -> SimDriver {
        SimDriver::new(self.clone(), pool)
    }

    /// The virtual clock.
    pub fn now(&self) -> Instant {
        self.0.borrow().now
    }

    /// Whether a driver has something to do at this very moment: something in the world changed
    /// since its last wait, a waker rang, or it asked to be called again at once.
    pub fn busy(&self) -> bool {
        let world = self.0.borrow();
        world.drivers.iter().any(|driver| {
            driver.alive
                && (driver.seen != world.activity || driver.eager || driver.sleeper.is_rung())
        })
    }

    /// Moves the clock to the next moment at which something can happen. `false` when nothing ever
    /// will.
    pub fn advance_to_next_event(&self) -> bool {
        let mut world = self.0.borrow_mut();
        let now = world.now;
        let event = world.events.range(now.after(Duration::from_nanos(1))..).next().copied();
        let alive = world.drivers.iter().filter(|driver| driver.alive);
        match alive.filter_map(|driver| driver.until).chain(event).min() {
            Some(at) => {
                world.advance(at);
                true
            }
            None => false,
        }
    }

    /// Something outside the world happens at `at`: the clock stops there, and every driver is
    /// turned.
    pub fn wake_at(&self, at: Instant) {
        self.0.borrow_mut().schedule(at);
    }

    /// Moves the clock past whatever happens in between: a machine that was suspended.
    pub fn leap(&self, by: Duration) {
        let mut world = self.0.borrow_mut();
        let at = world.now.after(by);
        world.advance(at);
    }

    /// Switches every fault off; what is stalled goes on.
    pub fn heal(&self) {
        let mut world = self.0.borrow_mut();
        world.swarm = world.swarm.healed();
        let now = world.now;
        for stream in &mut world.streams {
            stream.stalled_until = stream.stalled_until.min(now);
        }
        world.failing.clear();
        world.activity += 1;
    }

    /// The traits and faults in force.
    pub fn swarm(&self) -> Swarm {
        self.0.borrow().swarm.clone()
    }

    /// How often each fault has happened.
    pub fn faults(&self) -> Faults {
        self.0.borrow().faults
    }

    /// A digest of everything that completed so far, where, when and how.
    pub fn trace(&self) -> u64 {
        self.0.borrow().trace
    }

    /// A socket that connections can be made to.
    pub fn listen(&self) -> Fd {
        self.0.borrow_mut().open(Object::Listener { queue: VecDeque::new() })
    }

    /// Connections to this address reach the listener, and are refused once it is closed. An
    /// address that was never published never answers.
    pub fn publish(&self, at: SocketAddr, listener: Fd) {
        self.0.borrow_mut().addresses.insert(at, listener);
    }

    /// Connects to a listener; the other end reaches its accept after the delay. Answers the
    /// client's end.
    pub fn connect(&self, listener: Fd) -> Result<Fd, Errno> {
        self.0.borrow_mut().connect(listener)
    }

    /// A socket listens no more, as after shutdown(2): accepts fail from now on.
    pub fn silence(&self, listener: Fd) {
        let mut world = self.0.borrow_mut();
        if let Some(object) = world.object_mut(listener) {
            *object = Object::Fresh;
        }
        world.activity += 1;
    }

    /// Accepts as a program without a driver does.
    pub fn accept(&self, listener: Fd) -> Result<Fd, Errno> {
        let mut world = self.0.borrow_mut();
        let now = world.now;
        let Some(Object::Listener { queue }) = world.object_mut(listener) else {
            return Err(Errno(libc::EBADF));
        };
        let arrived = queue.front().is_some_and(|(at, _)| *at <= now);
        let accepted = if arrived { queue.pop_front() } else { None };
        accepted.map(|(_, server)| server).ok_or(Errno(libc::EAGAIN))
    }

    /// Two connected sockets with the world's delay between them.
    pub fn socket_pair(&self) -> (Fd, Fd) {
        self.0.borrow_mut().socket_pair()
    }

    /// No bit of what this socket receives flips, or one that is connected to it: what they carry
    /// has no checksum of ours.
    pub fn steady(&self, fd: Fd) {
        self.0.borrow_mut().steady.insert(fd.0);
    }

    /// A pipe: the reading end, the writing end.
    pub fn pipe(&self) -> (Fd, Fd) {
        let mut world = self.0.borrow_mut();
        let capacity = world.swarm.pipe_bytes;
        let stream = world.stream(Duration::ZERO, None, capacity);
        let reader = world.open(Object::Reader { rx: stream });
        let writer = world.open(Object::Writer { tx: stream });
        (reader, writer)
    }

    /// A terminal: the master, the slave. Without slave, reading the master fails with EIO.
    pub fn terminal(&self) -> (Fd, Fd) {
        let mut world = self.0.borrow_mut();
        let capacity = world.swarm.pipe_bytes;
        let down = world.stream(Duration::ZERO, None, capacity);
        let up = world.stream(Duration::ZERO, None, capacity);
        let master = world.open(Object::Duplex { rx: up, tx: down, terminal: true });
        let slave = world.open(Object::Duplex { rx: down, tx: up, terminal: true });
        (master, slave)
    }

    /// Something that becomes readable once, as a pidfd does.
    pub fn exit_event(&self) -> Fd {
        self.0.borrow_mut().open(Object::Exit { fired: false })
    }

    /// The child behind [`SimWorld::exit_event`] ends.
    pub fn exit(&self, fd: Fd) {
        let mut world = self.0.borrow_mut();
        if let Some(Object::Exit { fired }) = world.object_mut(fd) {
            *fired = true;
        }
        world.activity += 1;
    }

    /// A new file.
    pub fn create_file(&self, contents: Vec<u8>) -> FileId {
        let mut world = self.0.borrow_mut();
        world.files.push(contents);
        FileId(world.files.len() as u32 - 1)
    }

    /// A descriptor of a file; closing it leaves the file.
    pub fn open_file(&self, file: FileId) -> Fd {
        self.0.borrow_mut().open(Object::File { file })
    }

    /// What a file holds now.
    pub fn contents(&self, file: FileId) -> Vec<u8> {
        self.0.borrow().files[file.0 as usize].clone()
    }

    /// Gives a file other contents, as a program without a driver does.
    pub fn replace(&self, file: FileId, contents: Vec<u8>) {
        self.0.borrow_mut().files[file.0 as usize] = contents;
    }

    /// Shortens a file, or lengthens it with zeroes.
    pub fn truncate(&self, file: FileId, len: u64) {
        self.0.borrow_mut().files[file.0 as usize].resize(len as usize, 0);
    }

    /// Writes as a program without a driver does; EAGAIN when there is no room.
    pub fn write(&self, fd: Fd, bytes: &[u8]) -> Result<usize, Errno> {
        let mut world = self.0.borrow_mut();
        let tx = world.writable(fd)?;
        let len = bytes.len().min(world.streams[tx].room());
        if len == 0 && !bytes.is_empty() {
            return Err(Errno(libc::EAGAIN));
        }
        world.push(tx, &bytes[..len]);
        Ok(len)
    }

    /// Reads as a program without a driver does; EAGAIN when there is nothing yet, 0 at the end.
    pub fn read(&self, fd: Fd, into: &mut [u8]) -> Result<usize, Errno> {
        let mut world = self.0.borrow_mut();
        let rx = world.readable(fd)?;
        let now = world.now;
        match world.streams[rx].pull(now, into) {
            0 => match world.streams[rx].ending(now) {
                Some(End::OfFile) => Ok(0),
                Some(End::Broken(errno)) => Err(errno),
                None => Err(Errno(libc::EAGAIN)),
            },
            len => {
                world.activity += 1;
                Ok(len)
            }
        }
    }

    /// A driver has an operation on `fd` in flight.
    pub fn is_in_use(&self, fd: Fd) -> bool {
        self.0.borrow().in_use.contains_key(&fd.0)
    }

    /// Closes a descriptor that belongs to no driver.
    pub fn close(&self, fd: Fd) {
        self.0.borrow_mut().close(fd);
    }

    /// Ends the sending direction.
    pub fn shutdown_send(&self, fd: Fd) {
        self.0.borrow_mut().shutdown(fd, false);
    }

    /// Resets the connection: both ends fail, what is under way is lost.
    pub fn reset(&self, fd: Fd) {
        self.0.borrow_mut().reset(fd);
    }

    /// The owner of `fd` stops reading for a while.
    pub fn stall(&self, fd: Fd, time: Duration) {
        let mut world = self.0.borrow_mut();
        if let Ok(rx) = world.readable(fd) {
            let until = world.now.after(time);
            world.streams[rx].stalled_until = until;
            world.schedule(until);
        }
    }

    /// What is open, for finding leaks.
    pub fn open_descriptors(&self) -> Vec<(Fd, &'static str)> {
        let world = self.0.borrow();
        let named = world.objects.iter().enumerate();
        named
            .filter(|(_, object)| !matches!(object, Object::Closed))
            .map(|(at, object)| (Fd(FIRST_FD + at as i32), object.name()))
            .collect()
    }

    /// The ledger: every operation has completed once and none is in flight.
    ///
    /// # Panics
    /// When that is not so.
    pub fn check(&self) {
        let world = self.0.borrow();
        for (number, driver) in world.drivers.iter().enumerate() {
            let settled = driver.completed + driver.abandoned;
            assert_eq!(driver.submitted, settled, "driver {number}: {driver:?}");
        }
        assert!(world.in_use.is_empty(), "{:?}", world.in_use);
    }
}
