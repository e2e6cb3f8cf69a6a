//! `tidegate cp`: the flags of scp(1) and its own.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::ExitCode;

use super::ssh::{HostRequest, settle};
use super::{EXIT_FAILED, EXIT_USAGE, complain, letters, print, version};
use crate::client::copy::{self, Host, Location, Plan};
use crate::client::{Level, Options, Voice};
use crate::gateway::config::quote;
use crate::limits::{COPY_RETRIES, COPY_RETRIES_MAX, COPY_SESSIONS_MAX};

/// What the flags say.
#[derive(Clone, Debug, Default)]
pub struct CpFlags {
    pub plan: Plan,
    /// `Keyword value` of ssh_config(5), in the order in which they count.
    pub lines: Vec<String>,
    pub file: Option<PathBuf>,
    pub verbose: u8,
    pub action: Action,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    #[default]
    Copy,
    Version,
    Help,
}

struct Flag {
    /// With its dashes.
    name: &'static str,
    /// What its value is called; `None` for flags without a value.
    value: Option<&'static str>,
    help: &'static str,
    update: fn(&mut CpFlags, &str) -> Result<(), String>,
}

const fn flag(
    name: &'static str,
    value: Option<&'static str>,
    help: &'static str,
    update: fn(&mut CpFlags, &str) -> Result<(), String>,
) -> Flag {
    Flag { name, value, help, update }
}

#[rustfmt::skip]
const FLAGS: &[Flag] = &[
    flag("-3", None, "from one host to another through here, which is done anyway", |_, _| Ok(())),
    flag("-4", None, "use IPv4 only", |f, _| line(f, "AddressFamily inet")),
    flag("-6", None, "use IPv6 only", |f, _| line(f, "AddressFamily inet6")),
    flag("-B", None, "ask nobody for passwords and passphrases", |f, _| line(f, "BatchMode yes")),
    flag("-C", None, "compress", |f, _| line(f, "Compression yes")),
    flag("-c", Some("ciphers"), "ciphers, most wanted first", |f, v| set(f, "Ciphers", v)),
    flag("-F", Some("file"), "the configuration, instead of the usual files; none for none",
        |f, v| { f.file = Some(v.into()); Ok(()) }),
    flag("-i", Some("file"), "log in with this key; may be repeated", |f, v| set(f, "IdentityFile", v)),
    flag("-J", Some("hosts"), "over connections to these hosts, [user@]host[:port] with commas between",
        |f, v| set(f, "ProxyJump", v)),
    flag("-l", Some("limit"), "move no more than so many Kbit a second",
        |f, v| rate(f, v.parse::<u64>().ok().map(|kbit| kbit.saturating_mul(1000 / 8)))),
    flag("-o", Some("option"), "a line of configuration; may be repeated",
        |f, v| { f.lines.push(v.to_owned()); Ok(()) }),
    flag("-P", Some("port"), "connect to this port", |f, v| set(f, "Port", v)),
    flag("-p", None, "keep times and modes", |f, _| { f.plan.preserve = true; Ok(()) }),
    flag("-q", None, "tell errors alone", quiet),
    flag("-r", None, "copy directories and what is below them", |f, _| { f.plan.recursive = true; Ok(()) }),
    flag("-s", None, "use SFTP, which is done anyway", |_, _| Ok(())),
    flag("-T", None, "taken for the sake of scp: names are checked all the same", |_, _| Ok(())),
    flag("-v", None, "tell every file; twice and three times for the connection as well",
        |f, _| { f.verbose = f.verbose.saturating_add(1); f.plan.verbose = true; Ok(()) }),
    flag("--include", Some("pattern"), "copy what it fits, whatever later patterns say; may be repeated",
        |f, v| { f.plan.filter.rules.push((true, v.to_owned())); Ok(()) }),
    flag("--exclude", Some("pattern"), "leave out what it fits below a directory; may be repeated",
        |f, v| { f.plan.filter.rules.push((false, v.to_owned())); Ok(()) }),
    flag("--limit-rate", Some("bytes"), "move no more than so many bytes a second; K, M and G are known",
        |f, v| rate(f, bytes(v))),
    flag("--streams", Some("number"), "SFTP sessions of each host, each on a connection of its own where that helps",
        streams),
    flag("--retries", Some("number"), "how often in a row to try to go on when a host is lost; 0 for never", retries),
    flag("--anew", None, "copy from the beginning what an interrupted copy would go on with",
        |f, _| { f.plan.anew = true; Ok(()) }),
    flag("--fsync", None, "have every file on disk before it is said to be copied",
        |f, _| { f.plan.fsync = true; Ok(()) }),
    flag("--dry-run", None, "tell what would be copied", |f, _| { f.plan.dry_run = true; Ok(()) }),
    flag("--json", None, "tell everything on standard output, one JSON object a line",
        |f, _| { f.plan.json = true; Ok(()) }),
    flag("--version", None, "print the version", |f, _| { f.action = Action::Version; Ok(()) }),
    flag("--help", None, "print this", |f, _| { f.action = Action::Help; Ok(()) }),
];

/// Letters of scp(1) that ask for what there is not, and why.
const ABSENT: &[(char, &str)] = &[
    ('A', "the agent is not lent to hosts that are copied from"),
    ('D', "files are copied from servers, not from programs"),
    ('O', "scp's old protocol is not spoken; every server of today has sftp"),
    ('R', "hosts are not told to connect to one another"),
    ('S', "no other program is run; ProxyCommand is known (-o)"),
    ('X', "the number and size of requests follow what the server takes and the way's delay"),
];

fn line(flags: &mut CpFlags, line: &str) -> Result<(), String> {
    flags.lines.push(line.to_owned());
    Ok(())
}

fn set(flags: &mut CpFlags, keyword: &str, value: &str) -> Result<(), String> {
    flags.lines.push(format!("{keyword} {}", quote(value)));
    Ok(())
}

fn quiet(flags: &mut CpFlags, _: &str) -> Result<(), String> {
    flags.plan.quiet = true;
    line(flags, "LogLevel ERROR")
}

fn rate(flags: &mut CpFlags, bytes: Option<u64>) -> Result<(), String> {
    let bytes = bytes.filter(|bytes| *bytes > 0);
    flags.plan.bytes_a_second = Some(bytes.ok_or("a number above zero")?);
    Ok(())
}

/// `10`, `10K`, `10M`, `10G`.
fn bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.char_indices().next_back()? {
        (at, 'k' | 'K') => (text.get(..at)?, 10),
        (at, 'm' | 'M') => (text.get(..at)?, 20),
        (at, 'g' | 'G') => (text.get(..at)?, 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn streams(flags: &mut CpFlags, value: &str) -> Result<(), String> {
    let number = value.parse().ok().filter(|number| (1..=COPY_SESSIONS_MAX).contains(number));
    let number = number.ok_or_else(|| format!("a number from 1 to {COPY_SESSIONS_MAX}"))?;
    flags.plan.streams = Some(number);
    Ok(())
}

fn retries(flags: &mut CpFlags, value: &str) -> Result<(), String> {
    let number = value.parse().ok().filter(|number| *number <= COPY_RETRIES_MAX);
    flags.plan.retries = number.ok_or_else(|| format!("a number up to {COPY_RETRIES_MAX}"))?;
    Ok(())
}

impl CpFlags {
    /// Reads the words behind `cp`: flags may be bundled, and stand before, between and behind paths.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub fn parse(args: impl Iterator<Item = OsString>) -> Result<CpFlags, String> {
        let mut flags = CpFlags::default();
        flags.plan.retries = COPY_RETRIES;
        let mut args = args;
        let mut paths: Vec<OsString> = Vec::new();
        while let Some(word) = args.next() {
            let bytes = word.as_bytes();
            if bytes == b"--" {
                paths.extend(args);
                break;
            }
            if bytes.len() < 2 || bytes.first() != Some(&b'-') {
                paths.push(word);
                continue;
            }
            let text = word.to_str().ok_or("a flag that is not UTF-8")?;
            if text.starts_with("--") {
                flags.long(text, &mut args)?;
            } else {
                flags.bundle(text.get(1..).unwrap_or_default(), &mut args)?;
            }
        }
        flags.finish(paths)
    }

    fn long(
        &mut self,
        text: &str,
        args: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), String> {
        let (name, inline) = text.split_once('=').map_or((text, None), |(n, v)| (n, Some(v)));
        let Some(flag) = FLAGS.iter().find(|flag| flag.name == name) else {
            return Err(format!("there is no flag {name}; `tidegate cp --help` lists them"));
        };
        let value = match (flag.value, inline) {
            (None, None) => return (flag.update)(self, ""),
            (None, Some(_)) => return Err(format!("{name} takes no value")),
            (Some(_), Some(value)) => value.to_owned(),
            (Some(what), None) => letters::next_value(name, what, args)?,
        };
        (flag.update)(self, &value).map_err(|why| format!("{name}: {why}"))
    }

    fn bundle(
        &mut self,
        letters: &str,
        args: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), String> {
        letters::bundle(self, letters, args, |letter| {
            let is_it = |flag: &&Flag| flag.name.len() == 2 && flag.name.ends_with(letter);
            let flag = FLAGS.iter().find(is_it);
            let flag = flag.ok_or_else(|| letters::unknown(letter, ABSENT, "cp"))?;
            Ok((flag.value, flag.update))
        })
    }

    fn finish(mut self, paths: Vec<OsString>) -> Result<CpFlags, String> {
        if self.action != Action::Copy {
            return Ok(self);
        }
        let read =
            |word: OsString| Location::parse(&word.into_vec()).map_err(|why| format!("{why:#}"));
        let mut places = paths.into_iter().map(read).collect::<Result<Vec<Location>, String>>()?;
        let target = places.pop().filter(|_| !places.is_empty());
        self.plan.target = target.ok_or("something to copy and a place for it are needed")?;
        self.plan.sources = places;
        let all_here = self.plan.sources.iter().all(|source| source.host.is_none());
        if all_here && self.plan.target.host.is_none() {
            return Err("both sides are here; cp(1) copies those".to_owned());
        }
        if self.plan.target.host.is_none() && self.plan.sources.iter().any(|s| s.host.is_none()) {
            return Err("some of it is here already; cp(1) copies that".to_owned());
        }
        match self.verbose {
            0 | 1 => {}
            2 => self.lines.insert(0, "LogLevel DEBUG1".to_owned()),
            _ => self.lines.insert(0, "LogLevel DEBUG3".to_owned()),
        }
        Ok(self)
    }
}

/// Runs `tidegate cp`; `args` are the words behind it.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let flags = match CpFlags::parse(args) {
        Ok(flags) => flags,
        Err(why) => {
            complain(&format!("cp: {why}\n"));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match flags.action {
        Action::Copy => {}
        Action::Version => return print(&version()),
        Action::Help => return print(&help()),
    }
    let voice = Voice::new(Level::Info);
    match copy(&flags, &voice) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_USAGE),
        Err(why) => {
            voice.say(Level::Fatal, format_args!("cp: {why:#}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn copy(flags: &CpFlags, voice: &Voice) -> anyhow::Result<bool> {
    let mut hosts: Vec<(Host, Options)> = Vec::new();
    let places = flags.plan.sources.iter().chain([&flags.plan.target]);
    for host in places.filter_map(|place| place.host.as_ref()) {
        if hosts.iter().any(|(known, _)| known == host) {
            continue;
        }
        let mut lines = flags.lines.clone();
        if let Some(port) = host.port {
            lines.insert(0, format!("Port {port}"));
        }
        let request = HostRequest {
            destination: &host.destination,
            lines: &lines,
            file: flags.file.as_deref(),
        };
        let settled = settle(&request)?;
        voice.set_level(settled.options.level);
        for warning in &settled.warnings {
            voice.info(warning);
        }
        let mut options = settled.options;
        // Nothing is forwarded, and nothing but files is asked for.
        options.forward_nothing();
        hosts.push((host.clone(), options));
    }
    copy::run(&flags.plan, &hosts, voice)
}

fn help() -> String {
    let mut text = String::from(
        "Usage: tidegate cp [FLAGS] SOURCE... TARGET\n\n\
         Copies files to and from SSH servers, by SFTP. A place there is [USER@]HOST:PATH or\n\
         sftp://[USER@]HOST[:PORT]/PATH; relative paths start in the home there. A copy that was\n\
         interrupted goes on when the same command is given again.\n\nFlags:\n",
    );
    for flag in FLAGS {
        let usage = match flag.value {
            Some(value) => format!("{} {value}", flag.name),
            None => flag.name.to_owned(),
        };
        text.push_str(&format!("  {usage:<20} {}\n", flag.help));
    }
    text.push_str(
        "\nExit status: 0 all copied, 1 some of it not, 255 no connection. More: docs/copy.md\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<CpFlags, String> {
        CpFlags::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn flags_may_be_bundled_and_stand_anywhere() {
        let flags = parse(&["-rpP", "22", "a", "--limit-rate=2M", "web:b", "--exclude", "*.o"]);
        let flags = flags.expect("a command line");
        assert!(flags.plan.recursive && flags.plan.preserve);
        assert_eq!(flags.plan.bytes_a_second, Some(2 << 20));
        assert_eq!(flags.lines, ["Port 22"]);
        assert_eq!(flags.plan.sources.len(), 1);
        assert!(!flags.plan.filter.takes(b"x.o"));
        assert!(parse(&["-3sT", "web:a", "db:b"]).is_ok(), "scripts give these to scp");
        let flags = parse(&["-l", "8", "--", "-a", "web:"]).expect("a command line");
        assert_eq!(flags.plan.bytes_a_second, Some(1000));
        assert_eq!(flags.plan.sources.first().map(|s| &s.path[..]), Some(&b"-a"[..]));
    }

    #[test]
    fn slips_are_told() {
        for (words, expected) in [
            (&["a", "b"][..], "both sides are here"),
            (&["a", "web:b", "c"], "some of it is here"),
            (&["a"], "are needed"),
            (&["-O", "a", "web:b"], "-O: scp's old protocol"),
            (&["--streams", "0", "a", "web:b"], "a number from 1 to"),
            (&["--retries", "-1", "a", "web:b"], "a number up to"),
            (&["--limit-rate", "x", "a", "web:b"], "above zero"),
            (&["--fsync=1", "a", "web:b"], "takes no value"),
            (&["--nosuch", "a", "web:b"], "there is no flag --nosuch"),
            (&["a", "web:b", "-P"], "-P needs a value"),
        ] {
            let why = parse(words).expect_err("a slip");
            assert!(why.contains(expected), "{words:?}: {why}");
        }
    }
}
