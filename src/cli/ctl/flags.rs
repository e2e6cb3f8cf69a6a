//! The flags of `ctl`: one table for parsing and for help.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::Arg;

use crate::gateway::config::did_you_mean;

/// What a gateway is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Status,
    Top,
    Metrics,
    Reload,
    Upgrade,
    Stop,
}

impl What {
    const ALL: [What; 6] =
        [What::Status, What::Top, What::Metrics, What::Reload, What::Upgrade, What::Stop];

    /// As it is typed, and as the gateway is asked.
    pub const fn name(self) -> &'static str {
        match self {
            What::Status => "status",
            What::Top => "top",
            What::Metrics => "metrics",
            What::Reload => "reload",
            What::Upgrade => "upgrade",
            What::Stop => "stop",
        }
    }

    const fn help(self) -> &'static str {
        match self {
            What::Status => "what it has done since its start, and its processes",
            What::Top => "the same as rates, once a second",
            What::Metrics => "figures in the text format of Prometheus",
            What::Reload => "read the configuration again; its errors change nothing",
            What::Upgrade => "start the program anew beside the sessions of the old one",
            What::Stop => "take no more connections, end when its sessions have",
        }
    }
}

/// Which gateways are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those with a socket in the usual directory.
    All,
    Socket(PathBuf),
    /// The one in the usual directory whose first process has this number.
    Pid(u32),
}

/// What the flags of `ctl` say.
#[derive(Clone, Debug, PartialEq)]
pub struct CtlFlags {
    pub what: What,
    pub which: Which,
    pub json: bool,
    pub interval: Duration,
    pub count: Option<u64>,
    pub listen: Option<SocketAddr>,
    pub help: bool,
}

/// Takes a flag's value over; the value is empty for flags without one.
type Update = fn(&mut CtlFlags, &str) -> Result<(), String>;

struct Flag {
    short: Option<char>,
    long: &'static str,
    /// What the value is called in the help; `None` for flags without a value.
    value: Option<&'static str>,
    /// What it is for; `None`: for all.
    of: Option<What>,
    help: &'static str,
    update: Update,
}

const fn flag(
    (short, long): (Option<char>, &'static str),
    value: Option<&'static str>,
    of: Option<What>,
    help: &'static str,
    update: Update,
) -> Flag {
    Flag { short, long, value, of, help, update }
}

#[rustfmt::skip]
const FLAGS: &[Flag] = &[
    flag((Some('S'), "socket"), Some("FILE"), None, "ask the gateway that listens at this socket (TidegateControl)",
        |flags, value| { flags.which = Which::Socket(value.into()); Ok(()) }),
    flag((Some('p'), "pid"), Some("PID"), None, "ask the gateway whose first process has this number",
        |flags, value| { flags.which = Which::Pid(number(value)?); Ok(()) }),
    flag((None, "json"), None, Some(What::Status), "print JSON, a line for each gateway",
        |flags, _| { flags.json = true; Ok(()) }),
    flag((None, "interval"), Some("SECONDS"), Some(What::Top), "the time between two looks, 1 unless given",
        |flags, value| { flags.interval = interval(value)?; Ok(()) }),
    flag((None, "count"), Some("N"), Some(What::Top), "end after so many",
        |flags, value| { flags.count = Some(number(value)?.into()); Ok(()) }),
    flag((None, "listen"), Some("ADDR:PORT"), Some(What::Metrics), "answer Prometheus here over HTTP, at /metrics",
        |flags, value| { flags.listen = Some(address(value)?); Ok(()) }),
    flag((Some('h'), "help"), None, None, "print this", |flags, _| { flags.help = true; Ok(()) }),
];

impl CtlFlags {
    /// Reads the words behind `ctl`.
    ///
    /// # Errors
    /// One line that says what is wrong and what would be right.
    pub fn parse(args: impl Iterator<Item = OsString>) -> Result<CtlFlags, String> {
        let mut parser = lexopt::Parser::from_args(args);
        let mut flags = CtlFlags {
            what: What::Status,
            which: Which::All,
            json: false,
            interval: Duration::from_secs(1),
            count: None,
            listen: None,
            help: false,
        };
        let (mut what, mut given) = (None, Vec::new());
        while let Some(arg) = parser.next().map_err(|why| why.to_string())? {
            let found = match arg {
                Arg::Value(word) if what.is_none() => {
                    what = Some(named(&word.to_string_lossy())?);
                    continue;
                }
                Arg::Value(word) => return Err(format!("{word:?} is one word too many")),
                Arg::Short(letter) => {
                    let found = FLAGS.iter().find(|flag| flag.short == Some(letter));
                    found.ok_or_else(|| format!("there is no flag -{letter}"))?
                }
                Arg::Long(long) => {
                    FLAGS.iter().find(|flag| flag.long == long).ok_or_else(|| unknown(long))?
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
            None if flags.help => return Ok(flags),
            None => return Err("say what to ask: `ctl status`, for one".to_owned()),
        }
        flags.agree(&given)?;
        Ok(flags)
    }

    /// What was asked for goes together.
    fn agree(&self, given: &[&Flag]) -> Result<(), String> {
        let other = |flag: &&&Flag| flag.of.is_some_and(|of| of != self.what);
        if let Some(flag) = given.iter().find(other) {
            let of = flag.of.map_or("", What::name);
            return Err(format!("--{} is for `ctl {of}`, not for {}", flag.long, self.what.name()));
        }
        let names = given.iter().filter(|flag| matches!(flag.long, "socket" | "pid"));
        match names.count() {
            0 | 1 => Ok(()),
            _ => Err("one gateway at a time: -S or -p, once".to_owned()),
        }
    }
}

/// The help of `ctl`, made from the table.
pub fn help() -> String {
    let mut text = String::from(
        "Usage: tidegate ctl [-S SOCKET | -p PID] COMMAND [FLAGS]\n\n\
         Asks gateways that run on this machine. Without -S and -p: all that the user who asks has\n\
         started; reload, upgrade and stop need one that serves.\n\nCommands:\n",
    );
    for what in What::ALL {
        text.push_str(&format!("  {:<10} {}\n", what.name(), what.help()));
    }
    text.push_str("\nFlags:\n");
    for flag in FLAGS {
        let short = flag.short.map_or_else(|| "    ".to_owned(), |letter| format!("-{letter}, "));
        let value = flag.value.map(|value| format!(" {value}")).unwrap_or_default();
        let usage = format!("{short}--{}{value}", flag.long);
        let only = flag.of.map(|of| format!("{}: ", of.name())).unwrap_or_default();
        text.push_str(&format!("  {usage:<26} {only}{}\n", flag.help));
    }
    text.push_str("\nMore: docs/ctl.md\n");
    text
}

fn named(word: &str) -> Result<What, String> {
    let found = What::ALL.into_iter().find(|what| what.name() == word);
    found.ok_or_else(|| match did_you_mean(word, What::ALL.map(What::name)) {
        Some(meant) => format!("there is no command {word:?}; did you mean {meant}?"),
        None => format!("there is no command {word:?}"),
    })
}

fn unknown(long: &str) -> String {
    match did_you_mean(long, FLAGS.iter().map(|flag| flag.long)) {
        Some(meant) => format!("there is no flag --{long}; did you mean --{meant}?"),
        None => format!("there is no flag --{long}"),
    }
}

fn number(value: &str) -> Result<u32, String> {
    let number = value.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("{value:?} is no number above 0"))
}

/// A tenth of a second to an hour.
fn interval(value: &str) -> Result<Duration, String> {
    let seconds = value.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    let seconds = seconds.ok_or_else(|| format!("{value:?} is no number from 0.1 to 3600"))?;
    Duration::try_from_secs_f64(seconds).map_err(|why| why.to_string())
}

fn address(value: &str) -> Result<SocketAddr, String> {
    value.parse().map_err(|_| format!("{value:?} is no address and port such as 127.0.0.1:9222"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<CtlFlags, String> {
        CtlFlags::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn flags_stand_before_and_behind_the_command() {
        let flags = parse("-S /a/b status --json").expect("flags");
        assert_eq!((flags.what, flags.json), (What::Status, true));
        assert_eq!(flags.which, Which::Socket("/a/b".into()));
        let flags = parse("top --interval 0.5 --count=3 -p 7").expect("flags");
        assert_eq!((flags.interval, flags.count), (Duration::from_millis(500), Some(3)));
        assert_eq!(flags.which, Which::Pid(7));
        let flags = parse("metrics --listen [::1]:9222").expect("flags");
        assert_eq!(flags.listen, "[::1]:9222".parse().ok());
        assert!(parse("--help").expect("flags").help);
    }

    #[test]
    fn what_is_wrong_is_told_with_what_would_be_right() {
        for (line, part) in [
            ("", "say what to ask"),
            ("statsu", "did you mean status?"),
            ("status now", "one word too many"),
            ("status -S a -p 1", "one gateway at a time"),
            ("status -p 0", "no number above 0"),
            ("status -x", "there is no flag -x"),
            ("top --intervall 1", "did you mean --interval?"),
            ("top --interval nan", "from 0.1 to 3600"),
            ("top --interval", "--interval needs a value: SECONDS"),
            ("top --json", "--json is for `ctl status`, not for top"),
            ("metrics --listen 9222", "such as 127.0.0.1:9222"),
        ] {
            let why = parse(line).expect_err(line);
            assert!(why.contains(part), "{line}: {why}");
        }
        for flag in FLAGS {
            assert!(help().contains(flag.help), "{}", flag.long);
        }
    }
}
