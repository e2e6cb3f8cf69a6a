//! The flags of `bench`: one table for parsing and for help.

use std::ffi::OsString;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use lexopt::Arg;

use crate::gateway::config::{did_you_mean, quote};
use crate::limits::LINKS_MAX;

/// How long a case is measured unless told otherwise.
const CASE_TIME: Duration = Duration::from_millis(40);
/// The longest a case may be told to take.
const CASE_TIME_MAX: Duration = Duration::from_secs(60);

/// By how many percent something may grow before it is slower: what two runs of one build differ by, which
/// is more for the few that take longest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Of the time a case takes, which is the median where there are percentiles.
    pub median: f64,
    pub p99: f64,
    pub p999: f64,
}

impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds { median: 10.0, p99: 25.0, p999: 50.0 }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Cipher,
    Kex,
    Load,
    Transfer,
}

impl What {
    pub const ALL: [What; 4] = [What::Cipher, What::Kex, What::Load, What::Transfer];

    pub const fn name(self) -> &'static str {
        match self {
            What::Cipher => "cipher",
            What::Kex => "kex",
            What::Load => "load",
            What::Transfer => "transfer",
        }
    }

    const fn help(self) -> &'static str {
        match self {
            What::Cipher => "seal and open packets: every suite, size and library",
            What::Kex => "key exchanges, signatures and whole logins, in memory, by role",
            What::Load => "[USER@]HOST: many connections to an SSH server, and what they take it",
            What::Transfer => "[USER@]HOST: bytes to an SSH server and from it, by exec and SFTP",
        }
    }
}

/// What the flags of `bench` say.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchFlags {
    pub what: What,
    pub json: bool,
    pub html: Option<PathBuf>,
    pub save: Option<PathBuf>,
    pub compare: Option<PathBuf>,
    pub thresholds: Thresholds,
    pub only: Option<String>,
    pub time: Duration,
    /// Measure on so many threads at once; `None`: on one, and on as many as there are CPUs.
    pub threads: Option<usize>,
    /// Every combination instead of one difference at a time.
    pub all: bool,
    pub server: ServerFlags,
    pub load: LoadFlags,
    pub transfer: TransferFlags,
    pub help: bool,
}

/// Which server is measured, and how it is logged in at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerFlags {
    /// `[user@]host`
    pub destination: String,
    /// Lines of configuration, as `tidegate ssh` takes them.
    pub lines: Vec<String>,
    pub config: Option<PathBuf>,
    /// Whoever runs this answers for load on a host that is not this machine.
    pub allowed: bool,
    /// The server's process; `None`: the one that listens there, if it is here.
    pub pid: Option<u32>,
    /// Log in by password.
    pub secret: Option<SecretFrom>,
}

/// Where a secret comes from. Never the command line, which everybody can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretFrom {
    /// The first line of a file.
    File(PathBuf),
    /// A variable of the environment.
    Environment(String),
    Terminal,
}

/// What `bench load` does.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadFlags {
    pub scenarios: Vec<Scenario>,
    /// Connections begun a second, whatever becomes of those before; `None`: as many at a time as
    /// `concurrent` says.
    pub rate: Option<f64>,
    pub concurrent: usize,
    /// Begin no more than so many; `None`: as many as the time has room for. Of `idle`: hold so many.
    pub connections: Option<u64>,
    pub duration: Duration,
    /// Until a connection that is not done counts as failed.
    pub timeout: Duration,
    /// What `exec` runs.
    pub command: String,
    /// Where `forward` leads; `None`: to the server itself.
    pub to: Option<String>,
    /// Round trips of `echo` and `sftp` on one connection, and the bytes of one of `echo`.
    pub messages: u32,
    pub bytes: u32,
}

impl Default for LoadFlags {
    fn default() -> LoadFlags {
        LoadFlags {
            scenarios: vec![Scenario::Auth],
            rate: None,
            concurrent: 16,
            connections: None,
            duration: Duration::from_secs(10),
            timeout: Duration::from_secs(30),
            command: "true".to_owned(),
            to: None,
            messages: 10,
            bytes: 64,
        }
    }
}

/// What `bench transfer` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferFlags {
    /// Connections at one time.
    pub streams: Vec<u32>,
    /// SFTP requests under way, and the bytes that each is about.
    pub depths: Vec<u32>,
    pub sizes: Vec<u32>,
    /// Bytes that a case moves, all streams together.
    pub volume: u64,
    pub rounds: u32,
    /// Until something of which nothing moves has failed.
    pub stall: Duration,
    /// What files on the server are called, but for their ends.
    pub path: Option<String>,
}

impl Default for TransferFlags {
    fn default() -> TransferFlags {
        TransferFlags {
            streams: vec![1, 4],
            depths: vec![1, 16, 64],
            sizes: vec![32 << 10, SIZE_MAX],
            volume: 256 << 20,
            rounds: 3,
            stall: Duration::from_secs(30),
            path: None,
        }
    }
}

/// What each connection does before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Agrees on keys.
    Connect,
    /// Logs in.
    Auth,
    /// Runs a command.
    Exec,
    /// Has `cat` send back what it is sent.
    Echo,
    /// Asks SFTP requests.
    Sftp,
    /// Has the server connect to somewhere and hears the first that is said there.
    Forward,
    /// Logs in and stays.
    Idle,
}

impl Scenario {
    pub const ALL: [Scenario; 7] = [
        Scenario::Connect,
        Scenario::Auth,
        Scenario::Exec,
        Scenario::Echo,
        Scenario::Sftp,
        Scenario::Forward,
        Scenario::Idle,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Scenario::Connect => "connect",
            Scenario::Auth => "auth",
            Scenario::Exec => "exec",
            Scenario::Echo => "echo",
            Scenario::Sftp => "sftp",
            Scenario::Forward => "forward",
            Scenario::Idle => "idle",
        }
    }
}

/// Which flags stand together in the help.
type Group = fn(&Flag) -> bool;
type Update = fn(&mut BenchFlags, &str) -> Result<(), String>;

struct Flag {
    long: &'static str,
    /// As `tidegate ssh` has it.
    short: Option<char>,
    /// What the value is called in the help; `None` for flags without a value.
    value: Option<&'static str>,
    of: &'static [What],
    help: &'static str,
    update: Update,
}

const EVERY: &[What] = &What::ALL;
const HERE: &[What] = &[What::Cipher, What::Kex];
const CASES: &[What] = &[What::Cipher, What::Kex, What::Transfer];
const CIPHER: &[What] = &[What::Cipher];
const KEX: &[What] = &[What::Kex];
const THERE: &[What] = &[What::Load, What::Transfer];
const TRANSFER: &[What] = &[What::Transfer];
const LOAD: &[What] = &[What::Load];

const fn flag(
    long: &'static str,
    value: Option<&'static str>,
    of: &'static [What],
    help: &'static str,
    update: Update,
) -> Flag {
    Flag { long, short: None, value, of, help, update }
}

const fn short(letter: char, flag: Flag) -> Flag {
    Flag { short: Some(letter), ..flag }
}

#[rustfmt::skip]
const FLAGS: &[Flag] = &[
    flag("only", Some("TEXT"), CASES, "only the cases with this in their name",
        |flags, value| { flags.only = Some(value.to_owned()); Ok(()) }),
    flag("time", Some("MS"), HERE, "milliseconds a case takes (40)",
        |flags, value| { flags.time = milliseconds(value)?; Ok(()) }),
    flag("threads", Some("N"), CIPHER, "on so many at once (1, and one a CPU)",
        |flags, value| { flags.threads = Some(number(value, 1..=THREADS_MAX)?); Ok(()) }),
    flag("all", None, KEX, "every method with every pair of keys",
        |flags, _| { flags.all = true; Ok(()) }),
    short('p', flag("port", Some("PORT"), THERE, "connect to this port",
        |flags, value| line(flags, "Port", value))),
    short('l', flag("login", Some("USER"), THERE, "log in as this user",
        |flags, value| line(flags, "User", value))),
    short('i', flag("identity", Some("FILE"), THERE, "log in with this key",
        |flags, value| line(flags, "IdentityFile", value))),
    short('o', flag("option", Some("LINE"), THERE, "a line of configuration, as tidegate ssh has it",
        |flags, value| { flags.server.lines.push(value.to_owned()); Ok(()) })),
    short('F', flag("config", Some("FILE"), THERE, "the configuration, instead of the usual files",
        |flags, value| { flags.server.config = Some(value.into()); Ok(()) })),
    flag("password-file", Some("FILE"), THERE, "log in by the password in its first line",
        |flags, value| { flags.server.secret = Some(SecretFrom::File(value.into())); Ok(()) }),
    flag("password-env", Some("NAME"), THERE, "log in by the password in this variable",
        |flags, value| { flags.server.secret = Some(SecretFrom::Environment(value.into())); Ok(()) }),
    flag("password", None, THERE, "log in by a password, and ask for it",
        |flags, _| { flags.server.secret = Some(SecretFrom::Terminal); Ok(()) }),
    flag("i-may-load-this-host", None, THERE, "the host is not this machine, and that is all right",
        |flags, _| { flags.server.allowed = true; Ok(()) }),
    flag("server-pid", Some("PID"), THERE, "the server's process (the one that listens there)",
        |flags, value| { flags.server.pid = Some(number(value, 1..=u32::MAX)?); Ok(()) }),
    flag("scenario", Some("LIST"), LOAD,
        "connect, auth, exec, echo, sftp, forward, idle (auth)",
        |flags, value| { flags.load.scenarios = scenarios(value)?; Ok(()) }),
    flag("rate", Some("N"), LOAD, "begin so many a second, however long they take",
        |flags, value| { flags.load.rate = Some(rate(value)?); Ok(()) }),
    flag("concurrent", Some("N"), LOAD, "so many at a time (16)",
        |flags, value| { flags.load.concurrent = number(value, 1..=LINKS_MAX)?; Ok(()) }),
    flag("connections", Some("N"), LOAD, "so many in all; idle: hold so many (1000)",
        |flags, value| { flags.load.connections = Some(number(value, 1..=u64::MAX)?); Ok(()) }),
    flag("duration", Some("SECONDS"), LOAD, "begin connections for so long; idle: hold them (10)",
        |flags, value| { flags.load.duration = seconds(value)?; Ok(()) }),
    flag("timeout", Some("SECONDS"), LOAD, "what takes longer has failed (30)",
        |flags, value| { flags.load.timeout = seconds(value)?; Ok(()) }),
    flag("command", Some("TEXT"), LOAD, "what exec runs (true)",
        |flags, value| { flags.load.command = value.to_owned(); Ok(()) }),
    flag("to", Some("HOST:PORT"), LOAD, "where forward leads (the server itself)",
        |flags, value| { flags.load.to = Some(value.to_owned()); Ok(()) }),
    flag("messages", Some("N"), LOAD, "round trips of echo and sftp a connection (10)",
        |flags, value| { flags.load.messages = number(value, 1..=u32::MAX)?; Ok(()) }),
    flag("bytes", Some("N"), LOAD, "of one message of echo (64)",
        |flags, value| { flags.load.bytes = number(value, 1..=ECHO_BYTES_MAX)?; Ok(()) }),
    flag("streams", Some("LIST"), TRANSFER, "connections at one time (1,4)",
        |flags, value| { flags.transfer.streams = numbers(value, 1..=STREAMS_MAX)?; Ok(()) }),
    flag("depth", Some("LIST"), TRANSFER, "SFTP requests under way (1,16,64)",
        |flags, value| { flags.transfer.depths = numbers(value, 1..=DEPTH_MAX)?; Ok(()) }),
    flag("size", Some("LIST"), TRANSFER, "bytes of each, K or M behind the number (32K,255K)",
        |flags, value| { flags.transfer.sizes = sizes(value)?; Ok(()) }),
    flag("volume", Some("SIZE"), TRANSFER, "bytes that a case moves (256M)",
        |flags, value| { flags.transfer.volume = size(value, VOLUME_MAX)?; Ok(()) }),
    flag("rounds", Some("N"), TRANSFER, "of which the median counts (3)",
        |flags, value| { flags.transfer.rounds = number(value, 1..=ROUNDS_MAX)?; Ok(()) }),
    flag("stall", Some("SECONDS"), TRANSFER, "give up when nothing moves for so long (30)",
        |flags, value| { flags.transfer.stall = seconds(value)?; Ok(()) }),
    flag("path", Some("PATH"), TRANSFER, "files there begin with this (/tmp/tidegate-bench-PID)",
        |flags, value| { flags.transfer.path = Some(value.to_owned()); Ok(()) }),
    flag("json", None, EVERY, "print JSON (docs/benchmarking.md describes it)",
        |flags, _| { flags.json = true; Ok(()) }),
    flag("html", Some("FILE"), EVERY, "write one self-contained page with charts",
        |flags, value| { flags.html = Some(value.into()); Ok(()) }),
    flag("save", Some("FILE"), EVERY, "write the JSON to a file too",
        |flags, value| { flags.save = Some(value.into()); Ok(()) }),
    flag("compare", Some("FILE"), EVERY, "compare with a saved file; exit 2 if slower",
        |flags, value| { flags.compare = Some(value.into()); Ok(()) }),
    flag("threshold", Some("LIST"), EVERY, "percent that count as slower (10,p99=25,p99.9=50)",
        |flags, value| thresholds(&mut flags.thresholds, value)),
    short('h', flag("help", None, EVERY, "print this",
        |flags, _| { flags.help = true; Ok(()) })),
];

impl BenchFlags {
    /// Reads the words behind `bench`.
    ///
    /// # Errors
    /// One line that says what is wrong and what would be right.
    pub fn parse(args: impl Iterator<Item = OsString>) -> Result<BenchFlags, String> {
        let mut parser = lexopt::Parser::from_args(args);
        let mut flags = BenchFlags::default();
        let (mut what, mut given) = (None, Vec::new());
        while let Some(arg) = parser.next().map_err(|why| why.to_string())? {
            let found = match arg {
                Arg::Value(value) => {
                    let value = value.to_string_lossy().into_owned();
                    match what {
                        None => what = Some(bench_named(&value)?),
                        Some(_) if !flags.server.destination.is_empty() => {
                            return Err(format!("{value:?} is one word too many"));
                        }
                        Some(_) => flags.server.destination = value,
                    }
                    continue;
                }
                Arg::Long(long) => {
                    FLAGS.iter().find(|f| f.long == long).ok_or_else(|| unknown(long))?
                }
                Arg::Short(letter) => {
                    let found = FLAGS.iter().find(|flag| flag.short == Some(letter));
                    found.ok_or_else(|| format!("there is no flag -{letter}"))?
                }
            };
            let name = found.long;
            let value = match found.value {
                None => OsString::new(),
                Some(what) => {
                    parser.value().map_err(|_| format!("--{name} needs a value: {what}"))?
                }
            };
            let value =
                value.to_str().ok_or_else(|| format!("the value of --{name} is not UTF-8"))?;
            (found.update)(&mut flags, value).map_err(|why| format!("--{name}: {why}"))?;
            given.push(found);
        }
        match what {
            Some(what) => flags.what = what,
            None if flags.help => {}
            None => return Err("say what: `bench cipher`, for one; --help lists all".to_owned()),
        }
        flags.agree(&given)?;
        Ok(flags)
    }

    /// What was asked for goes together.
    fn agree(&self, given: &[&Flag]) -> Result<(), String> {
        if self.help {
            return Ok(());
        }
        if let Some(other) = given.iter().find(|flag| !flag.of.contains(&self.what)) {
            let of: Vec<&str> = other.of.iter().map(|what| what.name()).collect();
            let (name, what) = (other.long, self.what.name());
            return Err(format!(
                "--{name} is for `bench {}`, not for {what}",
                of.join("` and `bench ")
            ));
        }
        let destination = &self.server.destination;
        match (THERE.contains(&self.what), destination.is_empty()) {
            (true, true) => {
                Err(format!("a host is missing: `bench {} localhost`", self.what.name()))
            }
            (false, false) => Err(format!("{destination:?} is one word too many")),
            _ => Ok(()),
        }
    }

    /// Whether a case of this name is to be measured.
    pub fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }

    /// The numbers of threads to measure on, each once.
    pub fn threads(&self) -> Vec<usize> {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        match self.threads {
            Some(threads) => vec![threads],
            None if cpus > 1 => vec![1, cpus],
            None => vec![1],
        }
    }
}

impl Default for BenchFlags {
    fn default() -> BenchFlags {
        BenchFlags {
            what: What::Cipher,
            json: false,
            html: None,
            save: None,
            compare: None,
            thresholds: Thresholds::default(),
            only: None,
            time: CASE_TIME,
            threads: None,
            all: false,
            server: ServerFlags::default(),
            load: LoadFlags::default(),
            transfer: TransferFlags::default(),
            help: false,
        }
    }
}

/// The help of `bench`, made from the table.
pub fn help() -> String {
    let mut text = String::from("Usage: tidegate bench WHAT [FLAGS]\n\nWhat:\n");
    for what in What::ALL {
        text.push_str(&format!("  {:<20} {}\n", what.name(), what.help()));
    }
    let groups: [(&str, Group); 4] = [
        ("Flags", |flag| flag.of.len() == What::ALL.len()),
        ("Flags of cipher, kex and transfer", |flag| flag.of == CASES),
        ("Flags of cipher and kex", |flag| flag.of.iter().all(|what| HERE.contains(what))),
        ("Flags of load and transfer", |flag| flag.of.iter().all(|what| THERE.contains(what))),
    ];
    for (title, is_of) in groups {
        text.push_str(&format!("\n{title}:\n"));
        for flag in FLAGS.iter().filter(|flag| is_of(flag)) {
            let value = flag.value.map(|value| format!(" {value}")).unwrap_or_default();
            let short = flag.short.map(|letter| format!("-{letter}, ")).unwrap_or_default();
            let usage = format!("{short}--{}{value}", flag.long);
            let only = match flag.of {
                [what] => format!("{}: ", what.name()),
                _ => String::new(),
            };
            text.push_str(&format!("  {usage:<24} {only}{}\n", flag.help));
        }
    }
    text
}

fn bench_named(name: &str) -> Result<What, String> {
    let found = What::ALL.into_iter().find(|what| what.name() == name);
    found.ok_or_else(|| match did_you_mean(name, What::ALL.map(What::name)) {
        Some(meant) => format!("there is no bench {name:?}; did you mean {meant}?"),
        None => {
            let all = What::ALL.map(What::name).join(", ");
            format!("there is no bench {name:?}; there are {all}")
        }
    })
}

fn unknown(name: &str) -> String {
    match did_you_mean(name, FLAGS.iter().map(|flag| flag.long)) {
        Some(meant) => format!("there is no flag --{name}; did you mean --{meant}?"),
        None => format!("there is no flag --{name}; `tidegate bench --help` lists them"),
    }
}

fn milliseconds(value: &str) -> Result<Duration, String> {
    let time = value.parse().ok().filter(|ms| *ms > 0).map(Duration::from_millis);
    let most = CASE_TIME_MAX.as_millis();
    time.filter(|time| *time <= CASE_TIME_MAX)
        .ok_or_else(|| format!("{value:?} is no number of milliseconds from 1 to {most}"))
}

/// More threads than this measure nothing but the scheduler.
const THREADS_MAX: usize = 1024;

/// One message of echo fits the first window of any server.
const ECHO_BYTES_MAX: u32 = 32 * 1024;
/// More connections a second than one thread begins anywhere.
const RATE_MAX: f64 = 1e6;
/// More do not come from one thread.
const STREAMS_MAX: u32 = 64;
const DEPTH_MAX: u32 = 1024;
/// OpenSSH's `max-read-length` and `max-write-length` (`limits@openssh.com`): a longer request ends the
/// session there.
const SIZE_MAX: u32 = 255 << 10;
const VOLUME_MAX: u64 = 1 << 40;
const ROUNDS_MAX: u32 = 1000;
const SECONDS_MAX: f64 = 7.0 * 24.0 * 3600.0;

fn number<T>(value: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let number = value.parse().ok().filter(|number| range.contains(number));
    let (least, most) = (range.start(), range.end());
    number.ok_or_else(|| format!("{value:?} is no number from {least} to {most}"))
}

fn numbers(value: &str, range: RangeInclusive<u32>) -> Result<Vec<u32>, String> {
    value.split(',').map(|one| number(one, range.clone())).collect()
}

/// A number of bytes, in K, M or G (of 1024) if that stands behind it.
fn size(value: &str, most: u64) -> Result<u64, String> {
    let (digits, shift) = match value.as_bytes().last() {
        Some(b'k' | b'K') => (value.get(..value.len() - 1), 10),
        Some(b'm' | b'M') => (value.get(..value.len() - 1), 20),
        Some(b'g' | b'G') => (value.get(..value.len() - 1), 30),
        _ => (Some(value), 0),
    };
    let bytes = digits.and_then(|digits| digits.parse::<u64>().ok());
    let bytes = bytes.and_then(|bytes| bytes.checked_mul(1 << shift));
    let bytes = bytes.filter(|bytes| (1..=most).contains(bytes));
    bytes.ok_or_else(|| format!("{value:?} is no size from 1 to {most} bytes"))
}

fn sizes(value: &str) -> Result<Vec<u32>, String> {
    value.split(',').map(|one| Ok(size(one, u64::from(SIZE_MAX))? as u32)).collect()
}

fn positive(value: &str, most: f64) -> Result<f64, String> {
    let number: Option<f64> = value.parse().ok();
    let number = number.filter(|number| number.is_finite() && *number > 0.0 && *number <= most);
    number.ok_or_else(|| format!("{value:?} is no number above 0 and up to {most}"))
}

fn rate(value: &str) -> Result<f64, String> {
    positive(value, RATE_MAX)
}

fn seconds(value: &str) -> Result<Duration, String> {
    positive(value, SECONDS_MAX).map(Duration::from_secs_f64)
}

fn scenarios(value: &str) -> Result<Vec<Scenario>, String> {
    let named = |name: &str| {
        let found = Scenario::ALL.into_iter().find(|scenario| scenario.name() == name);
        found.ok_or_else(|| match did_you_mean(name, Scenario::ALL.map(Scenario::name)) {
            Some(meant) => format!("there is no scenario {name:?}; did you mean {meant}?"),
            None => format!("there is no scenario {name:?}"),
        })
    };
    value.split(',').map(named).collect()
}

fn line(flags: &mut BenchFlags, keyword: &str, value: &str) -> Result<(), String> {
    flags.server.lines.push(format!("{keyword} {}", quote(value)));
    Ok(())
}

/// `10`, or `p99=20`, or several.
fn thresholds(into: &mut Thresholds, value: &str) -> Result<(), String> {
    for one in value.split(',') {
        match one.split_once('=') {
            None => into.median = percent(one)?,
            Some(("p50", value)) => into.median = percent(value)?,
            Some(("p99", value)) => into.p99 = percent(value)?,
            Some(("p99.9", value)) => into.p999 = percent(value)?,
            Some((name, _)) => {
                return Err(format!("{name:?} is not compared; p50, p99 and p99.9 are"));
            }
        }
    }
    Ok(())
}

fn percent(value: &str) -> Result<f64, String> {
    let percent: Option<f64> = value.trim_end_matches('%').parse().ok();
    let percent = percent.filter(|percent| percent.is_finite() && *percent >= 0.0);
    percent.ok_or_else(|| format!("{value:?} is no percentage"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<BenchFlags, String> {
        BenchFlags::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn flags_stand_on_either_side_of_what() {
        let flags =
            parse("--json kex --time 5 --only=sign --compare old.json --threshold 7.5%,p99=9");
        let flags = flags.expect("flags");
        let thresholds = Thresholds { median: 7.5, p99: 9.0, p999: 50.0 };
        assert_eq!((flags.what, flags.json, flags.thresholds), (What::Kex, true, thresholds));
        assert_eq!(flags.time, Duration::from_millis(5));
        assert_eq!(flags.compare, Some("old.json".into()));
        assert!(flags.wants("sign/ssh-ed25519") && !flags.wants("verify/ssh-ed25519"));
        assert_eq!(parse("cipher --threads 3").expect("flags").threads(), [3]);
    }

    #[test]
    fn a_server_is_named_as_ssh_names_it() {
        let flags = parse("load ann@web -p2222 -i key -oTag=x --scenario exec,idle --rate 50");
        let flags = flags.expect("flags");
        assert_eq!(flags.server.destination, "ann@web");
        assert_eq!(flags.server.lines, ["Port 2222", "IdentityFile key", "Tag=x"]);
        assert_eq!(flags.load.scenarios, [Scenario::Exec, Scenario::Idle]);
        assert_eq!((flags.load.rate, flags.server.allowed), (Some(50.0), false));
    }

    #[test]
    fn sizes_and_lists_are_read() {
        let flags = parse("transfer a --size 32K,100 --depth 1,8 --streams 2 --volume 1M");
        let transfer = flags.expect("flags").transfer;
        assert_eq!((transfer.sizes, transfer.depths), (vec![32 << 10, 100], vec![1, 8]));
        assert_eq!((transfer.streams, transfer.volume), (vec![2], 1 << 20));
        for wrong in ["256K", "0", "K", "", "1,", "-1", "99999999999999999999G", "1é"] {
            assert!(sizes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn errors_say_what_would_be_right() {
        for (line, says) in [
            ("", "`bench cipher`"),
            ("ciphers", "did you mean cipher?"),
            ("cipher kex", "one word too many"),
            ("cipher --jason", "did you mean --json?"),
            ("cipher --time 0", "from 1 to 60000"),
            ("cipher --threads 0", "from 1 to 1024"),
            ("cipher --threshold x", "no percentage"),
            ("cipher --threshold p90=5", "p50, p99 and p99.9 are"),
            ("load a --password=secret", "unexpected argument"),
            ("cipher --all", "--all is for `bench kex`, not for cipher"),
            ("kex --rate 5", "--rate is for `bench load`"),
            ("load", "a host is missing"),
            ("load a b", "one word too many"),
            ("load a --scenario ech", "did you mean echo?"),
            ("load a --rate 0", "above 0"),
            ("cipher --html", "needs a value: FILE"),
            ("cipher -j", "no flag -j"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(says), "{line}: {error}");
        }
    }

    #[test]
    fn the_help_shows_every_flag_and_fits() {
        let help = help();
        assert!(FLAGS.iter().all(|flag| help.contains(flag.help)), "{help}");
        assert!(help.lines().all(|line| line.len() <= 100), "{help}");
    }
}
