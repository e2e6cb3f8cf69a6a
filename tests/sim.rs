//! Deterministic simulation: whole gateways and their clients, and clients of ours and their hosts, in
//! a world made of one number.
//! docs/simulation.md says what is drawn and what is checked.

#[path = "sim/abroad.rs"]
mod abroad;
#[path = "sim/bytes.rs"]
mod bytes;
#[path = "sim/calls.rs"]
mod calls;
#[path = "sim/chance.rs"]
mod chance;
#[path = "sim/child.rs"]
mod child;
#[path = "sim/client.rs"]
mod client;
#[path = "sim/copy.rs"]
mod copy;
#[path = "sim/draw.rs"]
mod draw;
#[path = "sim/errand.rs"]
mod errand;
#[path = "sim/files.rs"]
mod files;
#[path = "sim/forward.rs"]
mod forward;
#[path = "sim/host.rs"]
mod host;
#[path = "sim/hostile.rs"]
mod hostile;
#[path = "sim/journey.rs"]
mod journey;
#[path = "sim/keys.rs"]
mod keys;
#[path = "sim/line.rs"]
mod line;
#[path = "sim/moving.rs"]
mod moving;
#[path = "sim/office.rs"]
mod office;
#[path = "sim/onward.rs"]
mod onward;
#[path = "sim/program.rs"]
mod program;
#[path = "sim/run.rs"]
mod run;
#[path = "sim/shelf.rs"]
mod shelf;
#[path = "sim/staged.rs"]
mod staged;
#[path = "sim/tally.rs"]
mod tally;
#[path = "sim/task.rs"]
mod task;
#[path = "sim/times.rs"]
mod times;
#[path = "sim/town.rs"]
mod town;
#[path = "sim/transfer.rs"]
mod transfer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use tally::Tally;

/// Seeds of a run that nobody asks more of.
const SEEDS_DEFAULT: u64 = 2_000;
/// The same of the client's role.
const SEEDS_ABROAD: u64 = 500;
/// Where the seeds of such a run start.
const FIRST_SEED: u64 = 1;

/// Seeds that failed once, one a line; what follows a `#` says why.
const FAILED_ONCE: &str = include_str!("sim_seeds.txt");

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.trim().parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Whose role a seed is of.
#[derive(Clone, Copy, Debug)]
struct Role {
    run: fn(u64) -> Tally,
    /// The test that replays one.
    replay: &'static str,
}

const GATEWAY: Role = Role { run: run::run, replay: "one_seed" };
const CLIENT: Role = Role { run: abroad::run, replay: "one_seed_abroad" };

/// Runs a seed; of those that have a trace every tenth runs twice.
fn judge(role: Role, seed: u64) -> Result<Tally, String> {
    let attempt = || {
        let tally = (role.run)(seed);
        if seed.is_multiple_of(10) {
            let again = (role.run)(seed);
            assert_eq!(tally.trace, again.trace, "the same seed went another way");
        }
        tally
    };
    catch_unwind(AssertUnwindSafe(attempt)).map_err(|why| {
        let text = why.downcast_ref::<String>().cloned();
        let text = text.or_else(|| why.downcast_ref::<&str>().map(ToString::to_string));
        format!(
            "seed {seed} failed; TIDEGATE_SEED={seed} cargo test --test sim {}\n{}",
            role.replay,
            text.unwrap_or_default()
        )
    })
}

fn run_all(role: Role, seeds: impl Iterator<Item = u64> + Send) -> Tally {
    let seeds = Mutex::new(seeds);
    let total = Mutex::new(Tally::default());
    let failures = Mutex::new(Vec::new());
    let failed = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = seeds.lock().expect("the lock").next();
                    let Some(seed) = next.filter(|_| failed.load(Ordering::Relaxed) < 5) else {
                        break;
                    };
                    match judge(role, seed) {
                        Ok(tally) => total.lock().expect("the lock").add(tally),
                        Err(why) => {
                            // Of a long run one wants to know before its end.
                            println!("{}", why.lines().next().unwrap_or_default());
                            failed.fetch_add(1, Ordering::Relaxed);
                            failures.lock().expect("the lock").push(why);
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("the lock");
    let total = total.into_inner().expect("the lock");
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    total
}

#[test]
fn seeds() {
    let first = number("TIDEGATE_FIRST_SEED").unwrap_or(FIRST_SEED);
    let count = number("TIDEGATE_SEEDS").unwrap_or(SEEDS_DEFAULT);
    let total = run_all(GATEWAY, first..first + count);
    println!("{total}");
    assert_eq!(total.seeds, count);
    let missing = total.missing(tally::EXERCISED);
    assert!(count < SEEDS_DEFAULT || missing.is_empty(), "never met with: {missing:?}");
    for (what, part) in moving::RUNS {
        let enough = total.times(what) * part >= count;
        assert!(count < SEEDS_DEFAULT || enough, "{what}: {} of {count}", total.times(what));
    }
}

#[test]
fn seeds_that_failed_once() {
    let lines = FAILED_ONCE.lines().map(|line| line.split('#').next().unwrap_or("").trim());
    let seeds = lines.filter(|line| !line.is_empty()).map(|line| line.parse().expect("a seed"));
    let seeds: Vec<u64> = seeds.collect();
    run_all(GATEWAY, seeds.into_iter());
}

/// `TIDEGATE_SEED=n cargo test --test sim one_seed`
#[test]
fn one_seed() {
    let Some(seed) = number("TIDEGATE_SEED") else { return };
    println!("{:#?}", draw::Draw::new(seed));
    match judge(GATEWAY, seed) {
        Ok(tally) => println!("{tally}"),
        Err(why) => panic!("{why}"),
    }
}

/// The same of the client's role.
#[test]
fn seeds_abroad() {
    let first = number("TIDEGATE_FIRST_SEED").unwrap_or(FIRST_SEED);
    let count = number("TIDEGATE_SEEDS").unwrap_or(SEEDS_ABROAD);
    let total = run_all(CLIENT, first..first + count);
    println!("{total}");
    assert_eq!(total.seeds, count);
    let missing = total.missing(tally::EXERCISED_ABROAD);
    assert!(count < SEEDS_ABROAD || missing.is_empty(), "never met with: {missing:?}");
}

/// `TIDEGATE_SEED=n cargo test --test sim one_seed_abroad`
#[test]
fn one_seed_abroad() {
    let Some(seed) = number("TIDEGATE_SEED") else { return };
    println!("{:#?}", journey::Journey::new(seed));
    match judge(CLIENT, seed) {
        Ok(tally) => println!("{tally}"),
        Err(why) => panic!("{why}"),
    }
}
