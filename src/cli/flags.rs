//! The flags of `serve`: one table for parsing and for help.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use lexopt::Arg;

use crate::gateway::config::{did_you_mean, quote};
use crate::gateway::names;

/// What the flags of `serve` say; nothing is looked at or opened yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServeFlags {
    pub file: Option<PathBuf>,
    /// Lines of configuration, in the order of the command line.
    pub options: Vec<String>,
    pub ports: Vec<u16>,
    pub test: bool,
    pub dump: bool,
    pub connection: Connection,
    pub log_file: Option<PathBuf>,
    pub debug: u8,
    pub help: bool,
    pub version: bool,
}

/// `-C`: the connection whose settings `-T` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    pub user: Option<String>,
    pub host: Option<String>,
    pub address: Option<IpAddr>,
    pub local_address: Option<IpAddr>,
    pub local_port: Option<u16>,
    pub rdomain: Option<String>,
    /// The user does not exist, whoever it is.
    pub invalid_user: bool,
}

impl Connection {
    pub fn is_given(&self) -> bool {
        *self != Connection::default()
    }

    /// The address that was connected to; a part that was not told is zero.
    pub fn local(&self) -> Option<SocketAddr> {
        let unspecified = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        (self.local_address.is_some() || self.local_port.is_some()).then(|| {
            let address = self.local_address.unwrap_or(unspecified);
            SocketAddr::new(address, self.local_port.unwrap_or_default())
        })
    }
}

/// Takes a flag's value over; the value is empty for flags without one.
type Update = fn(&mut ServeFlags, &str) -> Result<(), String>;

struct Flag {
    short: Option<char>,
    long: Option<&'static str>,
    /// What the value is called in the help; `None` for flags without a value.
    value: Option<&'static str>,
    help: &'static str,
    update: Update,
}

const fn flag(
    short: Option<char>,
    long: Option<&'static str>,
    value: Option<&'static str>,
    help: &'static str,
    update: Update,
) -> Flag {
    Flag { short, long, value, help, update }
}

#[rustfmt::skip]
const FLAGS: &[Flag] = &[
    flag(Some('f'), Some("config"), Some("FILE"),
        "read this configuration, in the language of sshd_config",
        |flags, value| { flags.file = Some(path(value)?); Ok(()) }),
    flag(Some('o'), None, Some("KEY=VALUE"),
        "a line of configuration that goes before the file",
        |flags, value| { flags.options.push(value.to_owned()); Ok(()) }),
    flag(Some('p'), Some("port"), Some("PORT"),
        "listen on this port; 0 takes a free one; may be repeated",
        |flags, value| {
            let port = value.parse().ok().or_else(|| names::service_port(value));
            let port = port.ok_or_else(|| format!("{value:?} is no port from 0 to 65535"))?;
            flags.ports.push(port);
            Ok(())
        }),
    flag(Some('h'), Some("host-key"), Some("FILE"),
        "prove the server's identity with this private key; may be repeated",
        |flags, value| { flags.options.push(format!("HostKey {}", quote(value))); Ok(()) }),
    flag(Some('4'), None, None, "use IPv4 only",
        |flags, _| { flags.options.push("AddressFamily inet".to_owned()); Ok(()) }),
    flag(Some('6'), None, None, "use IPv6 only",
        |flags, _| { flags.options.push("AddressFamily inet6".to_owned()); Ok(()) }),
    flag(None, Some("driver"), Some("auto|uring|mio"), "the way to the kernel; auto is io_uring if it lets us",
        |flags, value| { flags.options.push(format!("TidegateDriver {}", quote(value))); Ok(()) }),
    flag(None, Some("reactors"), Some("N"),
        "run this many event loops instead of one a core",
        |flags, value| { flags.options.push(format!("TidegateReactors {}", quote(value))); Ok(()) }),
    flag(Some('t'), Some("test"), None,
        "check the configuration and the host keys, then stop",
        |flags, _| { flags.test = true; Ok(()) }),
    flag(Some('T'), Some("dump"), None,
        "check, print the effective settings, then stop",
        |flags, _| { flags.dump = true; Ok(()) }),
    flag(Some('C'), None, Some("SPEC"),
        "with -T: for a connection like user=U,addr=A,host=H,laddr=A,lport=P",
        |flags, value| connection_spec(&mut flags.connection, value)),
    flag(Some('E'), Some("log-file"), Some("FILE"),
        "append log lines to this file",
        |flags, value| { flags.log_file = Some(path(value)?); Ok(()) }),
    flag(Some('e'), None, None, "log to standard error, which is the default",
        |flags, _| { flags.log_file = None; Ok(()) }),
    flag(None, Some("log-format"), Some("text|json"), "how log lines look",
        |flags, value| { flags.options.push(format!("TidegateLogFormat {}", quote(value))); Ok(()) }),
    flag(Some('d'), Some("debug"), None,
        "log more; twice and three times for more still",
        |flags, _| { flags.debug = flags.debug.saturating_add(1); Ok(()) }),
    flag(Some('q'), Some("quiet"), None, "log nothing",
        |flags, _| { flags.options.push("LogLevel QUIET".to_owned()); Ok(()) }),
    flag(Some('D'), None, None, "stay in the foreground, as serve always does", |_, _| Ok(())),
    flag(None, Some("help"), None, "print this",
        |flags, _| { flags.help = true; Ok(()) }),
    flag(Some('V'), Some("version"), None, "print the version",
        |flags, _| { flags.version = true; Ok(()) }),
];

impl ServeFlags {
    /// Reads the words behind `serve`.
    ///
    /// # Errors
    /// One line that says what is wrong and what would be right.
    pub fn parse(args: impl Iterator<Item = OsString>) -> Result<ServeFlags, String> {
        let mut flags = ServeFlags::default();
        let mut parser = lexopt::Parser::from_args(args);
        while let Some(arg) = parser.next().map_err(|why| why.to_string())? {
            let (found, name) = match arg {
                Arg::Short(short) => {
                    (FLAGS.iter().find(|flag| flag.short == Some(short)), format!("-{short}"))
                }
                Arg::Long(long) => {
                    (FLAGS.iter().find(|flag| flag.long == Some(long)), format!("--{long}"))
                }
                Arg::Value(value) => return Err(stray(&value.to_string_lossy())),
            };
            let Some(found) = found else { return Err(unknown(&name)) };
            let value = match found.value {
                None => OsString::new(),
                Some(what) => {
                    parser.value().map_err(|_| format!("{name} needs a value: {what}"))?
                }
            };
            let value =
                value.to_str().ok_or_else(|| format!("the value of {name} is not UTF-8"))?;
            (found.update)(&mut flags, value).map_err(|why| format!("{name}: {why}"))?;
        }
        if flags.connection.is_given() && !flags.dump {
            return Err("-C chooses what -T prints; give -T too".to_owned());
        }
        let debug = match flags.debug {
            0 => return Ok(flags),
            1 => "LogLevel DEBUG",
            2 => "LogLevel DEBUG2",
            _ => "LogLevel DEBUG3",
        };
        flags.options.insert(0, debug.to_owned());
        Ok(flags)
    }
}

/// The help of `serve`, made from the table.
pub fn help() -> String {
    let mut text = String::from(
        "Usage: tidegate serve [FLAGS]\n\n\
         Serves SSH and SFTP in the foreground. Without -f it listens on 127.0.0.1 port 2222, keeps\n\
         host keys in the state directory and lets in the user who started it, by the keys in\n\
         ~/.ssh/authorized_keys.\n\nFlags:\n",
    );
    for flag in FLAGS {
        let names = match (flag.short, flag.long) {
            (Some(short), Some(long)) => format!("-{short}, --{long}"),
            (Some(short), None) => format!("-{short}"),
            (None, long) => format!("    --{}", long.unwrap_or_default()),
        };
        let usage = match flag.value {
            Some(value) => format!("{names} {value}"),
            None => names,
        };
        text.push_str(&format!("  {usage:<26} {}\n", flag.help));
    }
    text.push_str("\nKeywords of the configuration: docs/tidegate_config.5.md\n");
    text
}

fn path(value: &str) -> Result<PathBuf, String> {
    if value.is_empty() { Err("an empty path".to_owned()) } else { Ok(PathBuf::from(value)) }
}

/// One `-C` of serve or sshd.
///
/// # Errors
/// One line that says what is wrong.
pub fn connection_spec(connection: &mut Connection, spec: &str) -> Result<(), String> {
    for part in spec.split(',').filter(|part| !part.is_empty()) {
        if part == "invalid-user" {
            connection.invalid_user = true;
            continue;
        }
        let (name, value) =
            part.split_once('=').ok_or_else(|| format!("{part:?} is no name=value"))?;
        let address = || value.parse().map_err(|_| format!("{value:?} is no address"));
        match name {
            "user" => connection.user = Some(value.to_owned()),
            "host" => connection.host = Some(value.to_owned()),
            "addr" => connection.address = Some(address()?),
            "laddr" => connection.local_address = Some(address()?),
            "lport" => {
                let port = value.parse().ok().or_else(|| names::service_port(value));
                let port = port.ok_or_else(|| format!("{value:?} is no port"))?;
                connection.local_port = Some(port);
            }
            "rdomain" => connection.rdomain = Some(value.to_owned()),
            _ => {
                let known = ["user", "host", "addr", "laddr", "lport", "rdomain"];
                let hint =
                    did_you_mean(name, known).map(|meant| format!("; did you mean {meant}?"));
                return Err(format!("there is no {name:?}{}", hint.unwrap_or_default()));
            }
        }
    }
    Ok(())
}

fn unknown(name: &str) -> String {
    let long = name.strip_prefix("--");
    let names = FLAGS.iter().filter_map(|flag| flag.long);
    match long.and_then(|long| did_you_mean(long, names)) {
        Some(meant) => format!("there is no flag {name}; did you mean --{meant}?"),
        None => format!("there is no flag {name}; `tidegate serve --help` lists them"),
    }
}

fn stray(value: &str) -> String {
    let hint = if value.parse::<u16>().is_ok() {
        "a port is given as -p PORT"
    } else if value.contains('=') {
        "a line of configuration is given as -o KEY=VALUE"
    } else {
        "a configuration is given as -f FILE"
    };
    format!("{value:?} belongs to no flag; {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<ServeFlags, String> {
        ServeFlags::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn flags_in_every_form() {
        let flags = parse("-tfa.conf -p 22 -p0 -oPort=3 -o StrictModes=no --reactors=2 -D -e")
            .expect("flags");
        assert!(flags.test && !flags.dump);
        assert_eq!(flags.file, Some("a.conf".into()));
        assert_eq!(flags.ports, [22, 0]);
        assert_eq!(flags.options, ["Port=3", "StrictModes=no", "TidegateReactors 2"]);
        let flags = parse("-4 -h /k --driver mio --log-format json -q -E log").expect("flags");
        let expected = [
            "AddressFamily inet",
            "HostKey /k",
            "TidegateDriver mio",
            "TidegateLogFormat json",
            "LogLevel QUIET",
        ];
        assert_eq!(flags.options, expected);
        assert_eq!(flags.log_file, Some("log".into()));
        assert_eq!(parse("-ddo LogLevel=INFO").expect("flags").options[0], "LogLevel DEBUG2");
    }

    #[test]
    fn a_connection_to_show_settings_for() {
        let flags = parse("-T -C user=ann,addr=192.0.2.7 -C lport=22,laddr=::1,host=h,rdomain=x");
        let connection = flags.expect("flags").connection;
        assert_eq!(connection.user.as_deref(), Some("ann"));
        assert_eq!(connection.local(), Some("[::1]:22".parse().expect("an address")));
    }

    #[test]
    fn errors_say_what_would_be_right() {
        for (line, says) in [
            ("--prot 22", "did you mean --port?"),
            ("-x", "there is no flag -x; `tidegate serve --help` lists them"),
            ("-p", "-p needs a value: PORT"),
            ("-p 65536", "no port"),
            ("2222", "-p PORT"),
            ("Port=2", "-o KEY=VALUE"),
            ("a.conf", "-f FILE"),
            ("-C user=x", "give -T too"),
            ("-T -C usr=x", "did you mean user?"),
            ("-T -C addr=x", "no address"),
            ("-T -C ann", "no name=value"),
            ("--test=yes", "--test"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(says), "{line}: {error}");
            assert!(!error.contains('\n'), "{line}: {error}");
        }
    }

    #[test]
    fn the_help_shows_every_flag_and_fits() {
        let help = help();
        for flag in FLAGS {
            assert!(help.contains(flag.help), "{}", flag.help);
        }
        assert!(help.lines().all(|line| line.len() <= 100), "{help}");
        let mut shorts: Vec<_> = FLAGS.iter().filter_map(|flag| flag.short).collect();
        shorts.sort_unstable();
        assert!(shorts.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
