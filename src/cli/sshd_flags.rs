//! The flags of `sshd`: the letters of sshd(8), read as getopt(3) reads them, with its meanings.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::flags::{self, Connection};
use crate::gateway::config::{self, quote};
use crate::gateway::names;

/// Where sshd looks for its configuration.
const FILE: &str = "/etc/ssh/sshd_config";
/// As many `-p` as sshd takes.
const PORTS_MAX: usize = 256;

/// What the flags say; nothing is looked at or opened yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshdFlags {
    pub file: PathBuf,
    /// Lines of configuration that come before the file, in their order.
    pub options: Vec<String>,
    pub ports: Vec<u16>,
    pub action: Action,
    pub connection: Connection,
    pub foreground: bool,
    pub inetd: bool,
    /// How often `-d` was given.
    pub debug: u8,
    pub stderr: bool,
    pub log_file: Option<PathBuf>,
    /// `-q`: nothing is said, on standard error either.
    pub quiet: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    #[default]
    Serve,
    /// `-t`: look whether everything is all right.
    Check,
    /// `-T`: the same, and print the effective settings.
    CheckAndDump,
    /// `-G`: print the effective settings; host keys do not matter.
    Dump,
    /// `-V`
    Version,
    /// `--help`, which sshd has not.
    Help,
}

/// A command line that sshd would refuse: why, and the status it would end with.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub why: String,
    pub status: u8,
}

struct Flag {
    letter: char,
    /// What its value is called; `None` for flags without a value.
    value: Option<&'static str>,
    help: &'static str,
    update: fn(&mut Reading, &str) -> Result<(), Refused>,
}

/// Flags on their way.
struct Reading {
    flags: SshdFlags,
    /// `-4` and `-6`: the last one wins, over `-o` too.
    family: Option<&'static str>,
    /// `-d` and `-q`: likewise.
    level: Option<Level>,
}

#[derive(Clone, Copy)]
enum Level {
    Quiet,
    Debug(u8),
}

const fn flag(
    letter: char,
    value: Option<&'static str>,
    help: &'static str,
    update: fn(&mut Reading, &str) -> Result<(), Refused>,
) -> Flag {
    Flag { letter, value, help, update }
}

#[rustfmt::skip]
const FLAGS: &[Flag] = &[
    flag('4', None, "use IPv4 only", |r, _| { r.family = Some("inet"); Ok(()) }),
    flag('6', None, "use IPv6 only", |r, _| { r.family = Some("inet6"); Ok(()) }),
    flag('b', Some("bits"), "ignored, as by sshd", |_, _| Ok(())),
    flag('C', Some("spec"), "with -T or -G: for user=U,host=H,addr=A,laddr=A,lport=P,rdomain=D,invalid-user",
        |r, value| flags::connection_spec(&mut r.flags.connection, value)
            .map_err(|why| refused(format!("-C: {why}")))),
    flag('c', Some("file"), "a certificate of a host key", |r, value| option(r, "HostCertificate", value)),
    flag('D', None, "stay in the foreground", |r, _| { r.flags.foreground = true; Ok(()) }),
    flag('d', None, "debug: stay in the foreground, serve one connection, log to standard error", debug),
    flag('E', Some("file"), "append log lines to this file", |r, value| {
        (r.flags.log_file, r.flags.stderr) = (Some(value.into()), true);
        Ok(())
    }),
    flag('e', None, "log to standard error, not to syslog", |r, _| { r.flags.stderr = true; Ok(()) }),
    flag('f', Some("file"), "the configuration, instead of /etc/ssh/sshd_config; none for none",
        |r, value| { r.flags.file = file(value); Ok(()) }),
    flag('G', None, "print the effective settings, then stop",
        |r, _| { r.flags.action = Action::Dump; Ok(()) }),
    flag('g', Some("time"), "how long a login may take", login_grace_time),
    flag('h', Some("file"), "a host key, before those of the configuration; may be repeated",
        |r, value| option(r, "HostKey", value)),
    flag('i', None, "serve the connection that standard input and output are, as inetd gives it",
        |r, _| { r.flags.inetd = true; Ok(()) }),
    flag('k', Some("time"), "ignored, as by sshd", |_, _| Ok(())),
    flag('o', Some("option"), "a line of configuration, before those of the file; may be repeated",
        line),
    flag('p', Some("port"), "listen on this port instead of those of Port lines; may be repeated", port),
    flag('Q', None, "ignored, as by sshd", |_, _| Ok(())),
    flag('q', None, "log nothing", |r, _| { r.level = Some(Level::Quiet); Ok(()) }),
    flag('R', None, "refused: sshd's own, between its processes",
        |_, _| Err(Refused { why: "-R is for sshd's own processes, not for people".to_owned(), status: 255 })),
    flag('r', None, "accepted: nothing is executed anew for a connection anyway", |_, _| Ok(())),
    flag('T', None, "check, print the effective settings, then stop",
        |r, _| { r.flags.action = Action::CheckAndDump; Ok(()) }),
    flag('t', None, "check the configuration and the host keys, then stop",
        |r, _| { r.flags.action = Action::Check; Ok(()) }),
    flag('u', Some("length"), "ignored: records of logins have the address", |_, _| Ok(())),
    flag('V', None, "print the version, then stop", |r, _| { r.flags.action = Action::Version; Ok(()) }),
];

impl SshdFlags {
    /// Reads the words behind the program's name.
    ///
    /// # Errors
    /// What sshd would refuse, and the status it would end with.
    pub fn parse(args: impl Iterator<Item = OsString>) -> Result<SshdFlags, Refused> {
        let mut reading = Reading {
            flags: SshdFlags {
                file: FILE.into(),
                options: Vec::new(),
                ports: Vec::new(),
                action: Action::Serve,
                connection: Connection::default(),
                foreground: false,
                inetd: false,
                debug: 0,
                stderr: false,
                log_file: None,
                quiet: false,
            },
            family: None,
            level: None,
        };
        let (mut args, mut extra) = (args, None);
        while let Some(word) = args.next() {
            match word.as_bytes() {
                b"--" => extra = extra.or(args.next()),
                b"--help" => reading.flags.action = Action::Help,
                [b'-', letters @ ..] if !letters.is_empty() => {
                    bundle(&mut reading, letters, &mut args)?;
                    if matches!(reading.flags.action, Action::Version) {
                        return Ok(reading.flags);
                    }
                }
                // As with getopt, flags may still follow.
                _ => extra = extra.or(Some(word)),
            }
        }
        match extra {
            Some(extra) => Err(refused(format!("extra argument {}", extra.to_string_lossy()))),
            None => reading.finish(),
        }
    }
}

impl Reading {
    fn finish(mut self) -> Result<SshdFlags, Refused> {
        let dumps = matches!(self.flags.action, Action::Dump | Action::CheckAndDump);
        if self.flags.connection.is_given() && !dumps {
            let why = "-C chooses what -T or -G print; give one of them too".to_owned();
            return Err(Refused { why, status: 255 });
        }
        let level = self.level.map(|level| match level {
            Level::Quiet => "LogLevel QUIET",
            Level::Debug(0 | 1) => "LogLevel DEBUG1",
            Level::Debug(2) => "LogLevel DEBUG2",
            Level::Debug(_) => "LogLevel DEBUG3",
        });
        let family = self.family.map(|family| format!("AddressFamily {family}"));
        self.flags.quiet = matches!(self.level, Some(Level::Quiet));
        let first = level.map(str::to_owned).into_iter().chain(family);
        self.flags.options = first.chain(self.flags.options).collect();
        Ok(self.flags)
    }
}

/// The help, made from the table.
pub fn help() -> String {
    let mut text = String::from(
        "Usage: tidegate sshd [FLAGS], or sshd [FLAGS] where that is what the program is called\n\n\
         Serves SSH as sshd(8) does, by its flags and its configuration, in the background.\n\nFlags:\n",
    );
    for flag in FLAGS {
        let usage = match flag.value {
            Some(value) => format!("-{} {value}", flag.letter),
            None => format!("-{}", flag.letter),
        };
        text.push_str(&format!("  {usage:<12} {}\n", flag.help));
    }
    text.push_str("\nKeywords of the configuration: docs/tidegate_config.5.md\n");
    text
}

/// One word of flags: `-Def/etc/x`.
fn bundle(
    reading: &mut Reading,
    letters: &[u8],
    args: &mut impl Iterator<Item = OsString>,
) -> Result<(), Refused> {
    let mut rest = letters;
    while let Some((letter, behind)) = rest.split_first() {
        rest = behind;
        let letter = char::from(*letter);
        let Some(flag) = FLAGS.iter().find(|flag| flag.letter == letter) else {
            let shown = letter.escape_default();
            return Err(refused(format!("unknown option -{shown}; --help lists them")));
        };
        let value = match (flag.value, rest) {
            (None, _) => OsString::new(),
            (Some(what), []) => args
                .next()
                .ok_or_else(|| refused(format!("option -{letter} needs a value: {what}")))?,
            (Some(_), _) => OsString::from_vec(std::mem::take(&mut rest).to_vec()),
        };
        let Some(value) = value.to_str() else {
            return Err(refused(format!("the value of -{letter} is not UTF-8")));
        };
        (flag.update)(reading, value)?;
    }
    Ok(())
}

fn refused(why: String) -> Refused {
    Refused { why, status: super::EXIT_USAGE }
}

fn option(reading: &mut Reading, keyword: &str, value: &str) -> Result<(), Refused> {
    reading.flags.options.push(format!("{keyword} {}", quote(value)));
    Ok(())
}

fn file(value: &str) -> PathBuf {
    if value.eq_ignore_ascii_case("none") { "/dev/null".into() } else { value.into() }
}

fn debug(reading: &mut Reading, _: &str) -> Result<(), Refused> {
    reading.level = Some(match reading.level {
        Some(Level::Debug(times)) => Level::Debug(times.saturating_add(1)),
        // The first -d goes over a -q before it; of a -q behind it, sshd steps up from there.
        Some(Level::Quiet) | None => Level::Debug(1),
    });
    reading.flags.debug = reading.flags.debug.saturating_add(1);
    Ok(())
}

fn login_grace_time(reading: &mut Reading, value: &str) -> Result<(), Refused> {
    let line = format!("LoginGraceTime {}", quote(value));
    if config::parse(line.as_bytes()).is_err() {
        return Err(refused(format!("-g: {value:?} is no time, like 30 or 2m")));
    }
    reading.flags.options.push(line);
    Ok(())
}

fn line(reading: &mut Reading, value: &str) -> Result<(), Refused> {
    if keyword_of(value).0.eq_ignore_ascii_case("Include") {
        let why = "-o: Include stands in files alone; name the file with -f".to_owned();
        return Err(Refused { why, status: 255 });
    }
    reading.flags.options.push(value.to_owned());
    Ok(())
}

/// The keyword of a line, and what stands behind it.
fn keyword_of(line: &str) -> (&str, &str) {
    let line = line.trim();
    let parts = line.split_once(|c: char| c == '=' || c.is_whitespace()).unwrap_or((line, ""));
    (parts.0, parts.1.trim())
}

fn port(reading: &mut Reading, value: &str) -> Result<(), Refused> {
    let port = value.parse().ok().filter(|port| *port > 0);
    let port = port.or_else(|| names::service_port(value)).ok_or_else(|| {
        refused(format!("-p: {value:?} is no port from 1 to 65535, and no service"))
    })?;
    if reading.flags.ports.len() >= PORTS_MAX {
        return Err(refused(format!("-p: more than {PORTS_MAX} ports")));
    }
    if reading.flags.ports.is_empty() {
        // Those of `-o` before the first `-p` stay; later ones go the way of the file's.
        let before = reading.flags.options.iter().map(|line| keyword_of(line));
        let ports = before.filter(|(keyword, _)| keyword.eq_ignore_ascii_case("Port"));
        reading.flags.ports = ports.filter_map(|(_, port)| port.parse().ok()).collect();
    }
    reading.flags.ports.push(port);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<SshdFlags, Refused> {
        SshdFlags::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn letters_stand_alone_together_and_before_their_values() {
        let flags = parse("-Def/etc/x").expect("flags");
        assert!(flags.foreground && flags.stderr);
        assert_eq!(flags.file, PathBuf::from("/etc/x"));
        let flags =
            parse("-p 22 -p2222 -hk -h /l -oPort=3 -4 -o X11Forwarding=no -tD").expect("flags");
        assert_eq!(flags.ports, [22, 2222]);
        assert_eq!(flags.action, Action::Check);
        let expected =
            ["AddressFamily inet", "HostKey k", "HostKey /l", "Port=3", "X11Forwarding=no"];
        assert_eq!(flags.options, expected);
        // A value may look like a flag, and the rest of a word is one whatever it is.
        assert_eq!(parse("-f -D").expect("flags").file, PathBuf::from("-D"));
        assert_eq!(parse("-f=x").expect("flags").file, PathBuf::from("=x"));
        assert_eq!(parse("").expect("flags").file, PathBuf::from(FILE));
        assert_eq!(parse("-f NONE").expect("flags").file, PathBuf::from("/dev/null"));
        let flags = parse("-6i4r -u0 -b 768 -k 1h -Q -c cert -g 5m -E log").expect("flags");
        assert!(flags.inetd && flags.stderr);
        assert_eq!(flags.log_file, Some("log".into()));
        let expected = ["AddressFamily inet", "HostCertificate cert", "LoginGraceTime 5m"];
        assert_eq!(flags.options, expected);
    }

    #[test]
    fn the_level_goes_before_options() {
        for (line, level) in [
            ("-d", "DEBUG1"),
            ("-dd -oLogLevel=INFO", "DEBUG2"),
            ("-dddd", "DEBUG3"),
            ("-q", "QUIET"),
            ("-dq", "QUIET"),
            ("-qd", "DEBUG1"),
        ] {
            let flags = parse(line).expect(line);
            assert_eq!(flags.options[0], format!("LogLevel {level}"), "{line}");
            assert_eq!(flags.debug > 0, line.contains('d'), "{line}");
        }
    }

    #[test]
    fn refusals_have_the_status_of_sshd() {
        for (line, status, says) in [
            ("-x", 1, "unknown option -x"),
            ("--test", 1, "unknown option --"),
            ("-p", 1, "-p needs a value: port"),
            ("-p 0", 1, "no port"),
            ("-p 65536", 1, "no port"),
            ("-t extra", 1, "extra argument extra"),
            ("extra -t", 1, "extra argument extra"),
            ("-t -- -D", 1, "extra argument -D"),
            ("-C user=x", 255, "give one of them"),
            ("-t -C user=x", 255, "give one of them"),
            ("-T -C foo=1", 1, "no \"foo\""),
            ("-R", 255, "not for people"),
            ("-g x", 1, "no time"),
        ] {
            let Refused { why, status: found } = parse(line).expect_err(line);
            assert_eq!(found, status, "{line}: {why}");
            assert!(why.contains(says), "{line}: {why}");
        }
        assert!(parse("-T -C user=x -Caddr=192.0.2.1").expect("flags").connection.is_given());
        assert!(parse("-GC user=x").expect("flags").connection.is_given());
        assert_eq!(parse("-V -x").expect("the version").action, Action::Version);
    }

    #[test]
    fn the_help_shows_every_flag_and_fits() {
        let help = help();
        assert!(FLAGS.iter().all(|flag| help.contains(flag.help)));
        assert!(help.lines().all(|line| line.len() <= 100), "{help}");
    }
}
