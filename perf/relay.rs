//! A long pipe for measurements: passes connections on and holds every byte for a time each way,
//! without limiting their rate. What is held is bounded; a direction that holds `MEMORY-MIB` is not
//! read until some of it has left, so a pipe of 100 ms and 256 MiB carries 2.5 GiB/s.
//!
//!     relay TARGET DELAY-MS [LISTEN [MEMORY-MIB]]
//!
//! It prints the address it listens on (by default a free port of 127.0.0.1) and goes on until it is
//! killed. To both ends the other looks near: the delay is above TCP, whose own round trip stays
//! short and whose windows do not matter. What the peers' protocol keeps under way is all that limits.

#![expect(clippy::disallowed_methods, reason = "a program of its own, with a clock of its own")]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

/// Bytes taken from a socket at once.
const PIECE_BYTES: usize = 256 * 1024;
const MEMORY_MIB_DEFAULT: usize = 256;
/// Connections at one time; each costs four threads.
const CONNECTIONS_MAX: usize = 256;

#[derive(Clone, Copy)]
struct Pipe {
    target: SocketAddr,
    delay: Duration,
    bytes_max: usize,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().ok_or_else(|| anyhow!("{what} is missing"));
    let target = next("TARGET")?.parse().context("TARGET: ADDRESS:PORT")?;
    let delay = Duration::from_millis(next("DELAY-MS")?.parse().context("DELAY-MS")?);
    let listen = next("LISTEN").unwrap_or_else(|_| "127.0.0.1:0".into());
    let mebibytes = next("MEMORY-MIB").map_or(Ok(MEMORY_MIB_DEFAULT), |text| text.parse());
    let pipe = Pipe { target, delay, bytes_max: mebibytes.context("MEMORY-MIB")? << 20 };
    let listener = TcpListener::bind(&listen).with_context(|| listen.clone())?;
    println!("{}", listener.local_addr()?);
    let live = Arc::new(());
    for client in listener.incoming() {
        let client = client?;
        if Arc::strong_count(&live) > CONNECTIONS_MAX {
            eprintln!("relay: {CONNECTIONS_MAX} connections are open; one more is refused");
            continue;
        }
        let held = Arc::clone(&live);
        start("connection", move || {
            if let Err(error) = carry(pipe, client) {
                eprintln!("relay: {error:#}");
            }
            drop(held);
        })?;
    }
    Ok(())
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name.into()).spawn(work).context("a thread could not be started")
}

/// One connection, until both directions have ended.
fn carry(pipe: Pipe, client: TcpStream) -> Result<()> {
    let server = TcpStream::connect(pipe.target).with_context(|| pipe.target.to_string())?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mut threads = Vec::new();
    for (from, to) in [(&client, &server), (&server, &client)] {
        let held = Arc::new(Held::new(pipe));
        let (source, queue) = (from.try_clone()?, Arc::clone(&held));
        threads.push(start("in", move || queue.fill(source))?);
        let sink = to.try_clone()?;
        threads.push(start("out", move || held.drain(sink))?);
    }
    threads.into_iter().for_each(|thread| drop(thread.join()));
    Ok(())
}

/// The bytes of one direction that are under way, each piece with the time at which it may leave.
struct Held {
    pipe: Pipe,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    pieces: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// The other half of this direction has gone.
    broken: bool,
}

impl Held {
    fn new(pipe: Pipe) -> Self {
        Self { pipe, queue: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while `full` says so; none when the direction is broken.
    fn wait(&self, full: impl Fn(&Queue) -> bool) -> Option<MutexGuard<'_, Queue>> {
        let wanted = |queue: &mut Queue| !queue.broken && full(queue);
        let queue = self.changed.wait_while(self.lock(), wanted);
        Some(queue.unwrap_or_else(PoisonError::into_inner)).filter(|queue| !queue.broken)
    }

    /// Reads into the pipe; an empty piece is the end.
    fn fill(&self, mut source: TcpStream) {
        let mut scratch = vec![0; PIECE_BYTES];
        while let Some(queue) = self.wait(|queue| queue.bytes >= self.pipe.bytes_max) {
            drop(queue);
            let got = source.read(&mut scratch).unwrap_or(0);
            let piece = scratch.get(..got).unwrap_or_default().to_vec();
            let mut queue = self.lock();
            queue.bytes += got;
            queue.pieces.push_back((Instant::now() + self.pipe.delay, piece));
            self.changed.notify_all();
            if got == 0 {
                return;
            }
        }
    }

    fn drain(&self, mut sink: TcpStream) {
        while let Some(mut queue) = self.wait(|queue| queue.pieces.is_empty()) {
            let Some((due, piece)) = queue.pieces.pop_front() else { continue };
            drop(queue);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if piece.is_empty() {
                // The end may also be an error; then the peer has gone, and this tells it no lie.
                drop(sink.shutdown(Shutdown::Write));
                return;
            }
            let sent = sink.write_all(&piece);
            let mut queue = self.lock();
            queue.bytes -= piece.len();
            queue.broken = sent.is_err();
            self.changed.notify_all();
        }
        drop(sink.shutdown(Shutdown::Both));
    }
}
