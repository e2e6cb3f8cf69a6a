//! The flags of `bench`: one table for parsing and for help.

use std::ffi::OsString;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use lexopt::Arg;

use crate::gateway::config::did_you_mean;

/// How long a case is measured unless told otherwise.
const CASE_TIME: Duration = Duration::from_millis(40);
/// The longest a case may be told to take.
const CASE_TIME_MAX: Duration = Duration::from_secs(60);
/// A case that is slower by more than this is slower; what two runs of one build differ by.
const THRESHOLD_PERCENT: f64 = 10.0;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Cipher,
    Kex,
}

impl What {
    const ALL: [What; 2] = [What::Cipher, What::Kex];

    pub const fn name(self) -> &'static str {
        match self {
            What::Cipher => "cipher",
            What::Kex => "kex",
        }
    }

    const fn help(self) -> &'static str {
        match self {
            What::Cipher => "seal and open packets: every suite, size and library",
            What::Kex => "key exchanges, signatures and whole logins, in memory, by role",
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
    /// In percent.
    pub threshold: f64,
    pub only: Option<String>,
    pub time: Duration,
    /// Measure on so many threads at once; `None`: on one, and on as many as there are CPUs.
    pub threads: Option<usize>,
    /// Every combination instead of one difference at a time.
    pub all: bool,
    pub help: bool,
}

type Update = fn(&mut BenchFlags, &str) -> Result<(), String>;

struct Flag {
    long: &'static str,
    /// What the value is called in the help; `None` for flags without a value.
    value: Option<&'static str>,
    help: &'static str,
    update: Update,
}

#[rustfmt::skip]
const FLAGS: &[Flag] = &[
    Flag { long: "only", value: Some("TEXT"), help: "only the cases with this in their name",
        update: |flags, value| { flags.only = Some(value.to_owned()); Ok(()) } },
    Flag { long: "time", value: Some("MS"), help: "milliseconds a case takes (40)",
        update: |flags, value| { flags.time = milliseconds(value)?; Ok(()) } },
    Flag { long: "threads", value: Some("N"), help: "cipher: on so many at once (1, and one a CPU)",
        update: |flags, value| { flags.threads = Some(threads(value)?); Ok(()) } },
    Flag { long: "all", value: None, help: "kex: every method with every pair of keys",
        update: |flags, _| { flags.all = true; Ok(()) } },
    Flag { long: "json", value: None, help: "print JSON (docs/benchmarking.md describes it)",
        update: |flags, _| { flags.json = true; Ok(()) } },
    Flag { long: "html", value: Some("FILE"), help: "write one self-contained page with charts",
        update: |flags, value| { flags.html = Some(value.into()); Ok(()) } },
    Flag { long: "save", value: Some("FILE"), help: "write the JSON to a file too",
        update: |flags, value| { flags.save = Some(value.into()); Ok(()) } },
    Flag { long: "compare", value: Some("FILE"), help: "compare with a saved file; exit 2 if slower",
        update: |flags, value| { flags.compare = Some(value.into()); Ok(()) } },
    Flag { long: "threshold", value: Some("PERCENT"), help: "what counts as slower (10)",
        update: |flags, value| { flags.threshold = percent(value)?; Ok(()) } },
    Flag { long: "help", value: None, help: "print this",
        update: |flags, _| { flags.help = true; Ok(()) } },
];

impl BenchFlags {
    /// Reads the words behind `bench`.
    ///
    /// # Errors
    /// One line that says what is wrong and what would be right.
    pub fn parse(args: impl Iterator<Item = OsString>) -> Result<BenchFlags, String> {
        let mut parser = lexopt::Parser::from_args(args);
        let mut flags = BenchFlags::default();
        let mut what = None;
        while let Some(arg) = parser.next().map_err(|why| why.to_string())? {
            let name = match arg {
                Arg::Value(value) => {
                    let value = value.to_string_lossy().into_owned();
                    if what.is_some() {
                        return Err(format!("{value:?} is one word too many"));
                    }
                    what = Some(bench_named(&value)?);
                    continue;
                }
                Arg::Long(long) => long.to_owned(),
                Arg::Short('h') => "help".to_owned(),
                Arg::Short(short) => return Err(format!("there is no flag -{short}")),
            };
            let found = FLAGS.iter().find(|flag| flag.long == name);
            let found = found.ok_or_else(|| unknown(&name))?;
            let value = match found.value {
                None => OsString::new(),
                Some(what) => {
                    parser.value().map_err(|_| format!("--{name} needs a value: {what}"))?
                }
            };
            let value =
                value.to_str().ok_or_else(|| format!("the value of --{name} is not UTF-8"))?;
            (found.update)(&mut flags, value).map_err(|why| format!("--{name}: {why}"))?;
        }
        match what {
            Some(what) => flags.what = what,
            None if flags.help => {}
            None => return Err("say what: `bench cipher` or `bench kex`".to_owned()),
        }
        Ok(flags)
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
            threshold: THRESHOLD_PERCENT,
            only: None,
            time: CASE_TIME,
            threads: None,
            all: false,
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
    text.push_str("\nFlags:\n");
    for flag in FLAGS {
        let value = flag.value.map(|value| format!(" {value}")).unwrap_or_default();
        text.push_str(&format!("  {:<20} {}\n", format!("--{}{value}", flag.long), flag.help));
    }
    text
}

fn bench_named(name: &str) -> Result<What, String> {
    let found = What::ALL.into_iter().find(|what| what.name() == name);
    found.ok_or_else(|| match did_you_mean(name, What::ALL.map(What::name)) {
        Some(meant) => format!("there is no bench {name:?}; did you mean {meant}?"),
        None => format!("there is no bench {name:?}; there are cipher and kex"),
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

fn threads(value: &str) -> Result<usize, String> {
    let threads = value.parse().ok().filter(|threads| (1..=THREADS_MAX).contains(threads));
    threads.ok_or_else(|| format!("{value:?} is no number from 1 to {THREADS_MAX}"))
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
        let flags = parse("--json kex --time 5 --only=sign --compare old.json --threshold 7.5%");
        let flags = flags.expect("flags");
        assert_eq!((flags.what, flags.json, flags.threshold), (What::Kex, true, 7.5));
        assert_eq!(flags.time, Duration::from_millis(5));
        assert_eq!(flags.compare, Some("old.json".into()));
        assert!(flags.wants("sign/ssh-ed25519") && !flags.wants("verify/ssh-ed25519"));
        assert_eq!(parse("cipher --threads 3").expect("flags").threads(), [3]);
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
