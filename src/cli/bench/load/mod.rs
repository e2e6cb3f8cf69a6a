//! `bench load`: many connections to a server, each timed by phase, from one thread.

mod dial;
mod engine;
mod talk;
mod visit;

use anyhow::{Result, bail};
use nix::sys::resource::{Resource, getrlimit};

use self::engine::{Engine, Outcome};
use self::visit::Phase;
use super::Measured;
use super::flags::{BenchFlags, Scenario};
use super::report::{Row, Run, Unit};
use super::sample::Sample;
use super::target::{self, Target};
use super::usage::Meter;
use crate::client::{Client, Level, Options, Voice};
use crate::gateway::drivers::{self, Opened};
use crate::gateway::serve::raise_open_files;
use crate::limits::LINKS_MAX;
use crate::reactor::Driver;

/// Descriptors that are no connections: standard streams, rings, files, the way to know more.
const OWN_DESCRIPTORS: usize = 64;

/// Measures what the flags ask for.
///
/// # Errors
/// The server cannot be reached or does not let us in, it is not to be loaded, or nothing came of it.
pub fn measure(flags: &BenchFlags) -> Result<Measured> {
    let voice = Voice::new(Level::Info);
    let options = target::read(&flags.server, &voice)?;
    raise_open_files();
    match drivers::open(options.driver)? {
        Opened::Uring(driver) => measure_on(driver, options, flags, &voice),
        Opened::Mio(driver, why) => {
            if let Some(why) = why {
                voice.debug(format_args!("{why}; going on with mio (epoll)"));
            }
            measure_on(driver, options, flags, &voice)
        }
    }
}

fn measure_on<D: Driver>(
    driver: D,
    options: Options,
    flags: &BenchFlags,
    voice: &Voice,
) -> Result<Measured> {
    let address = target::find(&options, flags.server.allowed)?;
    let mut client = Client::new(driver);
    let pid = flags.server.pid;
    let logs_in = flags.load.scenarios.iter().any(|scenario| *scenario != Scenario::Connect);
    let options = Options {
        login_time: Some((flags.load.timeout, "--timeout says how long it may take")),
        ..options
    };
    let target = match logs_in {
        true => Target::meet(&mut client, options, address, (pid, voice))?,
        false => Target::greet(&mut client, options, address, (pid, flags.load.timeout))?,
    };
    let meter = Meter::new(target.told.pid);
    let room = room();
    let (mut rows, mut runs) = (Vec::new(), Vec::new());
    for scenario in &flags.load.scenarios {
        let load = (*scenario, &flags.load);
        let outcome = Engine::new(&mut client, &target, load, (&meter, room))?.run()?;
        rows.extend(rows_of(&outcome));
        runs.push(run_of(outcome));
    }
    client.finish()?;
    if runs.iter().all(|run| run.completed == 0) {
        let errors = runs.iter().flat_map(|run| &run.errors);
        let told: Vec<String> = errors.map(|(why, count)| format!("{count} × {why}")).collect();
        bail!("no connection came to its end: {}", told.join("; "));
    }
    Ok(Measured { rows, runs, target: target.told })
}

/// Connections that this process may have at one time.
fn room() -> usize {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(soft).unwrap_or(usize::MAX).saturating_sub(OWN_DESCRIPTORS).clamp(1, LINKS_MAX)
}

fn rows_of(outcome: &Outcome) -> Vec<Row> {
    let scenario = outcome.scenario.name();
    let per_second = outcome.completed as f64 / outcome.time.as_secs_f64().max(1e-9);
    let mut rows = Vec::new();
    for (phase, histogram) in Phase::ALL.iter().zip(&outcome.phases) {
        if histogram.is_empty() {
            continue;
        }
        let (nanos, spread_percent) = (histogram.quantile(0.5), histogram.spread_percent());
        let sample = Sample { nanos, spread_percent, per_second };
        let mut row = Row::new(format!("load/{scenario}/{phase}"), Unit::Connection, sample, None);
        row.latency = Some(histogram.tell());
        rows.push(row);
    }
    let server = outcome.server.map(|spent| ("cpu-server", spent));
    for (whose, spent) in [Some(("cpu-client", outcome.own)), server].into_iter().flatten() {
        let nanos = 1e9 * spent.cpu_seconds / outcome.completed.max(1) as f64;
        let per_second = 1e9 / nanos.max(1e-3);
        let sample = Sample { nanos, spread_percent: 0.0, per_second };
        rows.push(Row::new(format!("load/{scenario}/{whose}"), Unit::Connection, sample, None));
    }
    rows
}

fn run_of(outcome: Outcome) -> Run {
    Run {
        name: outcome.scenario.name().to_owned(),
        started: outcome.started,
        completed: outcome.completed,
        live_max: outcome.live_max,
        errors: outcome.errors,
        seconds: outcome.time.as_secs_f64(),
        client: outcome.own,
        server: outcome.server,
    }
}
