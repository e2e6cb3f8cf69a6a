//! Clients of a server, many or busy ones, in one light process:
//!
//!     load login ADDRESS USER KEY-FILE LOGINS AT-ONCE KEX CIPHER
//!     load hold  ADDRESS USER KEY-FILE LOGINS AT-ONCE KEX CIPHER login|sftp|forward
//!     load fair  ADDRESS USER KEY-FILE FLOWS SECONDS FILE
//!     load bulk  ADDRESS USER KEY-FILE MIB REPEATS KEX CIPHER down|up tcp|exec
//!     load files ADDRESS USER KEY-FILE REQUESTS REPEATS KEX CIPHER open|stat FILE
//!
//! `login` logs in over and over, several at once: load without the cost of a client program for each.
//! Each login asks with `none`, asks about the key, signs, opens a session, has the sftp subsystem
//! start and end, and closes, one step at a time. `hold` does half of that and stays, with an sftp
//! session, a forwarded connection or none, until its standard input ends. `fair` types on a terminal
//! beside downloads. `bulk` moves bytes on one channel, to or from a socket behind the server (a
//! forwarded connection) or a command. `files` opens and closes one file over and over, or asks for its
//! attributes, one request after the other.

#![expect(clippy::disallowed_methods, reason = "a program of its own, with a clock of its own")]

#[path = "load/bulk.rs"]
mod bulk;
#[path = "load/client.rs"]
mod client;
#[path = "load/fair.rs"]
mod fair;
#[path = "load/sftp.rs"]
mod sftp;

use std::io::Read;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use client::{Client, Target};
use tidegate::connection::ChannelRequest;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().ok_or_else(|| anyhow!("{what} is missing"));
    let mode = next("login, hold, fair, bulk or files")?;
    let (address, user, key_file) = (next("ADDRESS")?, next("USER")?, next("KEY-FILE")?);
    let count: i64 = next("a count")?.parse().context("a count")?;
    let number: usize =
        next("AT-ONCE, SECONDS or REPEATS")?.parse().context("AT-ONCE, SECONDS or REPEATS")?;
    if mode == "fair" {
        let algorithms = ("curve25519-sha256", "aes128-gcm@openssh.com");
        let target = Target::new(address, user, &key_file, algorithms)?;
        let (flows, time) = (count as usize, Duration::from_secs(number as u64));
        return fair::run(&target, flows, time, &next("FILE")?);
    }
    let algorithms = (next("KEX")?, next("CIPHER")?);
    let target = Target::new(address, user, &key_file, (&algorithms.0, &algorithms.1))?;
    let started = Instant::now();
    match mode.as_str() {
        "login" => {
            several(count, number, || once(&target))?;
            println!("{:.3} s", started.elapsed().as_secs_f64());
        }
        "hold" => {
            let stage = next("login, sftp or forward")?;
            let port = bulk::keep()?;
            let held = several(count, number, || stay(&target, &stage, port))?;
            println!("held {}", held.len());
            std::io::stdin().read_to_end(&mut Vec::new())?;
        }
        "bulk" => {
            let way = match &*next("down or up")? {
                "down" => bulk::Way::Down,
                "up" => bulk::Way::Up,
                other => bail!("{other} is neither down nor up"),
            };
            let over = next("tcp or exec")?;
            for _ in 0..number {
                bulk::run(&target, (count as u64) << 20, way, &over)?;
            }
        }
        "files" => {
            let (what, file) = (next("open or stat")?, next("FILE")?);
            for _ in 0..number {
                sftp::ask(&target, count, &what, &file)?;
            }
        }
        _ => bail!("{mode} is neither login, hold, fair, bulk nor files"),
    }
    Ok(())
}

/// Does something `count` times in `at_once` threads.
fn several<T: Send>(
    count: i64,
    at_once: usize,
    work: impl Fn() -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let left = AtomicI64::new(count);
    let run = || {
        let mut made = Vec::new();
        while left.fetch_sub(1, Ordering::Relaxed) > 0 {
            made.push(work()?);
        }
        Ok(made)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(run)).collect();
        let made: Result<Vec<Vec<T>>> =
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        Ok(made?.into_iter().flatten().collect())
    })
}

fn sftp_subsystem() -> ChannelRequest {
    ChannelRequest::Subsystem { name: "sftp".into() }
}

/// One connection, from its beginning to its end.
fn once(target: &Target) -> Result<()> {
    let mut client = Client::login(target)?;
    let id = client.session(&[sftp_subsystem()])?;
    client.finish(id)
}

/// A connection that is not closed.
fn stay<'a>(target: &'a Target, stage: &str, port: u16) -> Result<Client<'a>> {
    let mut client = Client::login(target)?;
    match stage {
        "sftp" => drop(client.session(&[sftp_subsystem()])?),
        "forward" => drop(client.direct_tcpip(port)?),
        _ => {}
    }
    Ok(client)
}
