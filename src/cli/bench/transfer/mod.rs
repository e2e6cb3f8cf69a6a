//! `bench transfer`: how fast bytes go to a server and come from it, and what CPU that takes both.

mod files;
mod out;
mod runner;
mod stream;

use std::rc::Rc;

use anyhow::{Context, Result, bail};

use self::files::{Files, Job, Way};
use self::runner::{Errand, Moved, Runner, Took};
use self::stream::Stream;
use super::Measured;
use super::flags::{BenchFlags, TransferFlags};
use super::report::{Row, Unit};
use super::sample::Sample;
use super::target::{self, Told};
use super::usage::Meter;
use crate::client::{Client, Level, Options, Person, Voice};
use crate::connection::ChannelRequest;
use crate::gateway::drivers::{self, Opened};
use crate::reactor::Driver;

const MIB: f64 = (1 << 20) as f64;
/// How files are made that are then read.
const MAKING: (u32, u32) = (64, 32 * 1024);

/// Measures what the flags ask for.
///
/// # Errors
/// The server cannot be reached or does not let us in, it is not to be loaded, or it does not do what it
/// is asked for.
pub fn measure(flags: &BenchFlags) -> Result<Measured> {
    let voice = Voice::new(Level::Info);
    let options = target::read(&flags.server, &voice)?;
    match drivers::open(options.driver)? {
        Opened::Uring(driver) => measure_on(driver, &options, flags, &voice),
        Opened::Mio(driver, _) => measure_on(driver, &options, flags, &voice),
    }
}

fn measure_on<D: Driver>(
    driver: D,
    options: &Options,
    flags: &BenchFlags,
    voice: &Voice,
) -> Result<Measured> {
    let address = target::find(options, flags.server.allowed)?;
    let cases: Vec<Case> =
        every_case(&flags.transfer).into_iter().filter(|case| flags.wants(&case.name())).collect();
    let Some(most) = cases.iter().map(|case| case.streams).max() else {
        bail!("no case has {:?} in its name", flags.only.as_deref().unwrap_or_default());
    };
    let mut client = Client::new(driver);
    let person = Person::new(options.batch);
    let login_time = Some((flags.transfer.stall, "--stall says how long it may take"));
    let options = &Options { login_time, ..options.clone() };
    let links = (0..most).map(|_| client.log_in(options, person, voice));
    let links = links.collect::<Result<Vec<_>>>()?;
    let first = links.first().and_then(|link| client.shard().client(*link));
    let told = Told::new(first.context("the server has gone")?, address, flags.server.pid);
    let meter = Meter::new(told.pid);
    let mut bench = Bench {
        runner: Runner {
            client: &mut client,
            links,
            meter: &meter,
            moved: Rc::default(),
            host: target::named(&options.host_name, &address.ip().to_string()),
            stall: flags.transfer.stall,
            stalled: false,
        },
        flags: &flags.transfer,
        files: FilesThere::new(&flags.transfer),
    };
    let measured = bench.measure(&cases);
    // What was made is removed, whatever has come of the rest.
    let removed = bench.remove();
    let rows = match (measured, &removed) {
        (Err(why), Err(left)) => bail!("{why:#}; {left:#}"),
        (measured, _) => measured?,
    };
    removed?;
    client.finish()?;
    Ok(Measured { rows, runs: Vec::new(), target: told })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Down,
    Up,
    /// Requests under way, and their size.
    Put(u32, u32),
    Get(u32, u32),
}

#[derive(Clone, Copy, Debug)]
struct Case {
    what: What,
    streams: usize,
}

impl Case {
    fn name(self) -> String {
        let streams = self.streams;
        match self.what {
            What::Down => format!("transfer/exec-down/{streams}"),
            What::Up => format!("transfer/exec-up/{streams}"),
            What::Put(depth, size) => format!("transfer/sftp-put/{depth}x{size}/{streams}"),
            What::Get(depth, size) => format!("transfer/sftp-get/{depth}x{size}/{streams}"),
        }
    }
}

fn every_case(flags: &TransferFlags) -> Vec<Case> {
    let mut cases = Vec::new();
    for streams in flags.streams.iter().map(|streams| *streams as usize) {
        cases.extend([What::Down, What::Up].map(|what| Case { what, streams }));
        for way in [What::Put as fn(u32, u32) -> What, What::Get] {
            for size in &flags.sizes {
                let of = |depth: &u32| Case { what: way(*depth, *size), streams };
                cases.extend(flags.depths.iter().map(of));
            }
        }
    }
    cases
}

/// Files of ours on the server, by stream.
struct FilesThere {
    base: String,
    /// How many there are that can be read, and that were written.
    readable: usize,
    written: usize,
}

impl FilesThere {
    fn new(flags: &TransferFlags) -> FilesThere {
        let own = || format!("/tmp/tidegate-bench-{}", std::process::id());
        let base = flags.path.clone().unwrap_or_else(own);
        FilesThere { base, readable: 0, written: 0 }
    }

    fn path(&self, what: &str, stream: usize) -> Vec<u8> {
        format!("{}.{what}.{stream}", self.base).into_bytes()
    }
}

struct Bench<'a, D: Driver> {
    runner: Runner<'a, D>,
    flags: &'a TransferFlags,
    files: FilesThere,
}

impl<D: Driver> Bench<'_, D> {
    fn measure(&mut self, cases: &[Case]) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for case in cases {
            let name = case.name();
            let took = self.case(*case).with_context(|| name.clone())?;
            let bytes = self.share(case.streams) * case.streams as u64;
            rows.extend(rows_of(&name, bytes, &took));
        }
        Ok(rows)
    }

    /// What each of several moves.
    const fn share(&self, streams: usize) -> u64 {
        self.flags.volume / streams as u64
    }

    fn case(&mut self, case: Case) -> Result<Vec<Took>> {
        match case.what {
            What::Get(..) => self.make_readable(case.streams)?,
            What::Put(..) => self.files.written = self.files.written.max(case.streams),
            What::Down | What::Up => {}
        }
        (0..self.flags.rounds)
            .map(|_| {
                let errands = (0..case.streams).map(|n| self.errand(case, n)).collect();
                self.runner.run(errands)
            })
            .collect()
    }

    fn errand(&self, case: Case, stream: usize) -> Errand {
        let bytes = self.share(case.streams);
        let moved = Rc::clone(&self.runner.moved);
        let exec = |command: String| ChannelRequest::Exec { command: command.into_bytes().into() };
        match case.what {
            What::Down => Errand {
                request: exec(format!("exec sh -c 'echo; read _; exec head -c {bytes} /dev/zero'")),
                guest: Box::new(Stream::taking(bytes, moved)),
                greets: true,
                closes: false,
            },
            What::Up => Errand {
                request: exec("exec sh -c 'echo; exec cat >/dev/null'".to_owned()),
                guest: Box::new(Stream::sending(bytes, moved)),
                greets: true,
                closes: true,
            },
            What::Put(depth, size) => {
                let path = self.files.path("put", stream);
                moving(Job { way: Way::Put, path, bytes, depth, size }, moved)
            }
            What::Get(depth, size) => {
                let path = self.files.path("get", stream);
                moving(Job { way: Way::Get, path, bytes, depth, size }, moved)
            }
        }
    }

    /// One stream reads all, so its file is that large; of several each reads its share.
    fn make_readable(&mut self, streams: usize) -> Result<()> {
        while self.files.readable < streams {
            let stream = self.files.readable;
            self.files.readable += 1;
            let (path, bytes) = (self.files.path("get", stream), self.share(stream + 1));
            let (depth, size) = MAKING;
            let job = Job { way: Way::Put, path, bytes, depth, size };
            let moved = Rc::clone(&self.runner.moved);
            self.runner
                .run(vec![moving(job, moved)])
                .context("a file to be read cannot be made")?;
        }
        Ok(())
    }

    fn remove(&mut self) -> Result<()> {
        let made = (0..self.files.readable).map(|n| self.files.path("get", n));
        let made = made.chain((0..self.files.written).map(|n| self.files.path("put", n)));
        if self.runner.stalled && self.files.readable + self.files.written > 0 {
            bail!("its files there, {}.*, are not removed", self.files.base);
        }
        for path in made.collect::<Vec<_>>() {
            let name = String::from_utf8_lossy(&path).into_owned();
            let outcome = {
                let moved = Rc::clone(&self.runner.moved);
                self.runner.run(vec![session(Files::removing(path, moved))])
            };
            outcome.with_context(|| format!("{name} cannot be removed there"))?;
        }
        Ok(())
    }
}

fn moving(job: Job, moved: Rc<Moved>) -> Errand {
    session(Files::new(job, moved))
}

fn session(files: Files) -> Errand {
    let request = ChannelRequest::Subsystem { name: "sftp".into() };
    Errand { request, guest: Box::new(files), greets: false, closes: false }
}

/// The rate, and the CPU of both, of several rounds of one case.
fn rows_of(name: &str, bytes: u64, rounds: &[Took]) -> Vec<Row> {
    let mib = bytes as f64 / MIB;
    let times = rounds.iter().map(|took| 1e9 * took.time.as_secs_f64() / mib);
    let own = rounds.iter().map(|took| 1e9 * took.own.cpu_seconds / mib);
    let server: Option<Vec<f64>> =
        rounds.iter().map(|took| Some(1e9 * took.server?.cpu_seconds / mib)).collect();
    let mut rows = Vec::new();
    let sample = median(times.collect());
    let gib = sample.per_second / 1024.0;
    rows.push(Row::new(name.to_owned(), Unit::Mebibyte, sample, Some(gib)));
    let sides = [("cpu-client", Some(own.collect())), ("cpu-server", server)];
    for (whose, nanos) in sides {
        let Some(nanos) = nanos else { continue };
        rows.push(Row::new(format!("{name}/{whose}"), Unit::Mebibyte, median(nanos), None));
    }
    rows
}

fn median(mut nanos: Vec<f64>) -> Sample {
    nanos.sort_by(f64::total_cmp);
    let (first, last) = (nanos.first().copied(), nanos.last().copied());
    let median = nanos.get(nanos.len() / 2).copied().unwrap_or_default();
    let spread = last.unwrap_or_default() - first.unwrap_or_default();
    Sample {
        nanos: median,
        spread_percent: 100.0 * spread / median.max(1e-3),
        per_second: 1e9 / median.max(1e-3),
    }
}
