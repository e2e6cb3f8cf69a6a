//! `tidegate ssh`: the flags of ssh(1), read as its getopt loop reads them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{EXIT_FAILED, complain, letters, print, query, version};
use crate::client::background;
use crate::client::config::{self, Files, Request, Settled, parse_destination};
use crate::client::{Form, Forward, Level, Voice, session};
use crate::gateway::accounts;
use crate::gateway::config::{Disk, quote};
use crate::limits::COMMAND_BYTES_MAX;

/// What the flags say; nothing is looked at or connected to yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SshFlags {
    pub destination: String,
    /// Words behind the destination.
    pub command: Option<Vec<u8>>,
    /// `Keyword value`, in the order in which they count.
    pub lines: Vec<String>,
    pub file: Option<PathBuf>,
    pub log_file: Option<PathBuf>,
    /// `-W`
    pub stdio_forward: Option<String>,
    /// How often `-v` was given.
    pub verbose: u8,
    /// Keywords of flags that count before every `-o`, and of which the last counts.
    pub over: Vec<(&'static str, String)>,
    pub action: Action,
    /// `-Q`
    pub query: String,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    #[default]
    Connect,
    /// `-G`
    Dump,
    /// `-V`
    Version,
    /// `--help`
    Help,
    /// `-Q`
    Query,
}

struct Flag {
    letter: char,
    /// What its value is called; `None` for flags without a value.
    value: Option<&'static str>,
    help: &'static str,
    update: fn(&mut SshFlags, &str) -> Result<(), String>,
}

const fn flag(
    letter: char,
    value: Option<&'static str>,
    help: &'static str,
    update: fn(&mut SshFlags, &str) -> Result<(), String>,
) -> Flag {
    Flag { letter, value, help, update }
}

#[rustfmt::skip]
const FLAGS: &[Flag] = &[
    flag('4', None, "use IPv4 only", |f, _| over(f, "AddressFamily", "inet")),
    flag('6', None, "use IPv6 only", |f, _| over(f, "AddressFamily", "inet6")),
    flag('A', None, "let programs there use our agent", |f, _| over(f, "ForwardAgent", "yes")),
    flag('a', None, "do not", |f, _| over(f, "ForwardAgent", "no")),
    flag('B', Some("interface"), "connect over this interface of ours", |f, v| over(f, "BindInterface", v)),
    flag('b', Some("address"), "connect from this address of ours", |f, v| over(f, "BindAddress", v)),
    flag('C', None, "compress", |f, _| over(f, "Compression", "yes")),
    flag('c', Some("ciphers"), "ciphers, most wanted first", |f, v| over(f, "Ciphers", v)),
    flag('D', Some("port"), "take SOCKS connections here and connect them from there",
        |f, v| forward(f, "DynamicForward", v)),
    flag('E', Some("file"), "append what is told to this file",
        |f, v| { f.log_file = Some(v.into()); Ok(()) }),
    flag('e', Some("character"), "what commands to us begin with at a terminal; none for none",
        |f, v| over(f, "EscapeChar", v)),
    flag('F', Some("file"), "the configuration, instead of the usual files; none for none",
        |f, v| { f.file = Some(v.into()); Ok(()) }),
    flag('f', None, "go to the background once logged in; reads nothing",
        |f, _| over(f, "ForkAfterAuthentication", "yes")),
    flag('G', None, "print what holds for this host, as lines of a configuration, and connect to nobody",
        |f, _| { f.action = Action::Dump; Ok(()) }),
    flag('g', None, "let others connect to forwarded ports", |f, _| over(f, "GatewayPorts", "yes")),
    flag('i', Some("file"), "log in with this key; may be repeated", identity),
    flag('J', Some("hosts"), "over connections to these hosts, [user@]host[:port] with commas between",
        |f, v| set(f, "ProxyJump", v)),
    flag('k', None, "offer no GSSAPI, which is never offered", |_, _| Ok(())),
    flag('L', Some("forward"), "take connections at [address:]port and connect them from there to host:port",
        |f, v| forward(f, "LocalForward", v)),
    flag('l', Some("user"), "log in as this user", |f, v| set(f, "User", v)),
    flag('m', Some("macs"), "authentication codes, most wanted first", |f, v| over(f, "MACs", v)),
    flag('N', None, "run nothing there, forward only",
        |f, _| { over(f, "SessionType", "none")?; over(f, "RequestTTY", "no") }),
    flag('n', None, "leave standard input alone", |f, _| over(f, "StdinNull", "yes")),
    flag('o', Some("option"), "a line of configuration; may be repeated",
        |f, v| { f.lines.push(v.to_owned()); Ok(()) }),
    flag('P', Some("tag"), "a tag for Match tagged", |f, v| set(f, "Tag", v)),
    flag('p', Some("port"), "connect to this port", |f, v| set(f, "Port", v)),
    flag('Q', Some("what"), "print which algorithms there are: cipher, mac, kex, key, sig ...; help tells what may be asked",
        |f, v| { (f.action, f.query) = (Action::Query, v.to_owned()); Ok(()) }),
    flag('q', None, "tell nothing", |f, _| over(f, "LogLevel", "QUIET")),
    flag('R', Some("forward"), "take connections there at [address:]port and connect them from here to host:port; a port alone: by SOCKS",
        |f, v| forward(f, "RemoteForward", v)),
    flag('S', Some("path"), "none: share no connection, which is never done", sharing),
    flag('s', None, "the command is the name of a subsystem", |f, _| over(f, "SessionType", "subsystem")),
    flag('T', None, "ask for no terminal", |f, _| over(f, "RequestTTY", "no")),
    flag('t', None, "ask for a terminal; twice: even without one here",
        terminal),
    flag('V', None, "print the version", |f, _| { f.action = Action::Version; Ok(()) }),
    flag('v', None, "tell more; twice and three times for more still",
        verbose),
    flag('W', Some("host:port"), "connect standard input and output from there to this, and nothing else",
        stdio_forward),
    flag('X', None, "let programs there use our X server, as far as it trusts strangers",
        |f, _| over(f, "ForwardX11", "yes")),
    flag('x', None, "do not", |f, _| over(f, "ForwardX11", "no")),
    flag('Y', None, "let programs there do all with our X server",
        |f, _| { over(f, "ForwardX11", "yes")?; over(f, "ForwardX11Trusted", "yes") }),
];

/// Letters of ssh(1) that ask for what there is not, and why.
const ABSENT: &[(char, &str)] = &[
    ('I', "keys come from files and agents, not from PKCS#11 libraries"),
    ('K', "GSSAPI is not offered to servers"),
    ('M', "connections are not shared"),
    ('O', "connections are not shared"),
    ('w', "networks are not tunnelled"),
    ('y', "what there is to tell is told on standard error; -E names a file for it"),
];

fn over(flags: &mut SshFlags, keyword: &'static str, value: &str) -> Result<(), String> {
    flags.over.retain(|(other, _)| *other != keyword);
    flags.over.push((keyword, quote(value)));
    Ok(())
}

/// `-t` behind another one: whether or not there is a terminal here.
fn terminal(flags: &mut SshFlags, _: &str) -> Result<(), String> {
    let again = |(keyword, value): &(&str, String)| *keyword == "RequestTTY" && value != "no";
    let again = flags.over.iter().any(again);
    over(flags, "RequestTTY", if again { "force" } else { "yes" })
}

fn verbose(flags: &mut SshFlags, _: &str) -> Result<(), String> {
    flags.verbose = flags.verbose.saturating_add(1);
    let level = ["DEBUG1", "DEBUG2"].get(usize::from(flags.verbose) - 1);
    over(flags, "LogLevel", level.unwrap_or(&"DEBUG3"))
}

fn set(flags: &mut SshFlags, keyword: &str, value: &str) -> Result<(), String> {
    flags.lines.push(format!("{keyword} {}", quote(value)));
    Ok(())
}

/// `-L`, `-R` or `-D`; paths keep their tokens.
fn forward(flags: &mut SshFlags, keyword: &str, value: &str) -> Result<(), String> {
    let (kind, form) = match keyword {
        "LocalForward" => ("local", Form::Fixed),
        "RemoteForward" => ("remote", Form::Either),
        _ => ("dynamic", Form::Dynamic),
    };
    Forward::parse(&[value.to_owned()], form)
        .map_err(|why| format!("Bad {kind} forwarding specification '{value}': {why}"))?;
    set(flags, keyword, value)
}

/// `-S none` asks for what is always so.
fn sharing(_: &mut SshFlags, value: &str) -> Result<(), String> {
    match value {
        "none" => Ok(()),
        _ => Err("connections are not shared".to_owned()),
    }
}

fn stdio_forward(flags: &mut SshFlags, value: &str) -> Result<(), String> {
    Forward::parse(&["0".to_owned(), value.to_owned()], Form::Fixed)
        .map_err(|_| format!("Bad stdio forwarding specification '{value}'"))?;
    flags.stdio_forward = Some(value.to_owned());
    Ok(())
}

fn identity(flags: &mut SshFlags, value: &str) -> Result<(), String> {
    if !std::path::Path::new(value).exists() && !value.contains(['%', '~', '$']) {
        // As in ssh: the usual ones are tried then.
        complain(&format!("ssh: warning: there is no identity file {value}\n"));
        return Ok(());
    }
    set(flags, "IdentityFile", value)
}

impl SshFlags {
    /// Reads the words behind `ssh`: flags may be bundled, and follow the host.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub fn parse(args: impl Iterator<Item = OsString>) -> Result<SshFlags, String> {
        let mut flags = SshFlags::default();
        let mut args = args.peekable();
        let mut has_host = false;
        while let Some(word) = args.peek() {
            let text = word.to_string_lossy().into_owned();
            match text.as_str() {
                "--help" => flags.action = Action::Help,
                "--" => {
                    args.next();
                    if !has_host {
                        let host = args.next().unwrap_or_default();
                        flags.destination = host.to_string_lossy().into_owned();
                    }
                    break;
                }
                _ if text.len() > 1 && text.starts_with('-') => {
                    args.next();
                    flags.bundle(&text[1..], &mut args)?;
                    continue;
                }
                _ if !has_host => {
                    (flags.destination, has_host) = (text, true);
                }
                _ => break,
            }
            args.next();
        }
        let words: Vec<Vec<u8>> = args.map(OsStringExt::into_vec).collect();
        flags.command = Some(words.join(&b' ')).filter(|command| !command.is_empty());
        flags.finish()
    }

    fn bundle(
        &mut self,
        letters: &str,
        args: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), String> {
        letters::bundle(self, letters, args, |letter| {
            let flag = FLAGS.iter().find(|flag| flag.letter == letter);
            let flag = flag.ok_or_else(|| letters::unknown(letter, ABSENT, "ssh"))?;
            Ok((flag.value, flag.update))
        })
    }

    fn finish(mut self) -> Result<SshFlags, String> {
        let needs_host = matches!(self.action, Action::Connect | Action::Dump);
        if needs_host && self.destination.is_empty() {
            return Err("a host is missing; `tidegate ssh --help` tells more".to_owned());
        }
        let first = self.over.iter().map(|(keyword, value)| format!("{keyword} {value}"));
        self.lines = first.chain(std::mem::take(&mut self.lines)).collect();
        Ok(self)
    }
}

/// Runs `tidegate ssh`; `args` are the words behind it.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = args.collect();
    let flags = match SshFlags::parse(words.iter().cloned()) {
        Ok(flags) => flags,
        Err(why) => return fail(&why),
    };
    match flags.action {
        Action::Connect | Action::Dump => {}
        Action::Version => return print(&version()),
        Action::Help => return print(&help()),
        Action::Query => {
            return query::answer(&flags.query).map_or_else(|why| fail(&why), |text| print(&text));
        }
    }
    let voice = Voice::new(Level::Info);
    match connect(&flags, &words, &voice) {
        Ok(status) => ExitCode::from(status),
        Err(why) => {
            voice.say(Level::Fatal, format_args!("{why:#}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn connect(flags: &SshFlags, words: &[OsString], voice: &Voice) -> anyhow::Result<u8> {
    let request = request(flags)?;
    let settled = config::read(&request, &Disk)?;
    voice.set_level(settled.options.level);
    if let Some(path) = &flags.log_file {
        voice.redirect(path).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))?;
    }
    for warning in &settled.warnings {
        voice.info(warning);
    }
    if flags.action == Action::Dump {
        print(&settled.dump());
        return Ok(0);
    }
    let options = &settled.options;
    let command_bytes = options.command.as_ref().map_or(0, |command| command.len());
    if command_bytes > COMMAND_BYTES_MAX as usize {
        anyhow::bail!(
            "a command of {command_bytes} bytes, and {COMMAND_BYTES_MAX} may be sent; programs read longer \
             scripts from standard input"
        );
    }
    if options.background && !background::is_it() {
        let shell = options.session == config::SessionType::Default && options.command.is_none();
        if shell && options.stdio_forward.is_none() {
            anyhow::bail!("Cannot fork into background without a command to execute.");
        }
        return background::start(words);
    }
    session::run(options, voice)
}

pub(super) fn request(flags: &SshFlags) -> anyhow::Result<Request> {
    let host = HostRequest {
        destination: &flags.destination,
        lines: &flags.lines,
        file: flags.file.as_deref(),
    };
    let (stdio_forward, command) = (flags.stdio_forward.clone(), flags.command.clone());
    Ok(Request { stdio_forward, command, ..host.read()? })
}

/// What a command line says about one host.
pub(super) struct HostRequest<'a> {
    /// `[user@]host`, or a URI.
    pub destination: &'a str,
    pub lines: &'a [String],
    /// `-F`
    pub file: Option<&'a Path>,
}

/// Reads what there is to read about a host.
pub(super) fn settle(host: &HostRequest<'_>) -> anyhow::Result<Settled> {
    Ok(config::read(&host.read()?, &Disk)?)
}

impl HostRequest<'_> {
    fn read(&self) -> anyhow::Result<Request> {
        let destination = parse_destination(self.destination, false)
            .map_err(|wrong| anyhow::anyhow!("{}: {}", wrong.value, wrong.problem))?;
        let account = accounts::by_uid(nix::unistd::getuid().as_raw()).ok().flatten();
        let (local_user, home) = match account {
            Some(account) => (account.name, Some(account.home)),
            None => (std::env::var("USER").unwrap_or_default(), None),
        };
        let mut lines = self.lines.to_vec();
        if let Some(port) = destination.port {
            lines.insert(0, format!("Port {port}"));
        }
        // Hosts on the way are talked of as loudly, and driven alike.
        let wanted = |line: &&String| {
            let line = line.to_ascii_lowercase();
            ["loglevel", "tidegatedriver"].iter().any(|word| line.starts_with(word))
        };
        let way_lines = lines.iter().filter(wanted).cloned().collect();
        let files = match self.file {
            None => Files::Usual,
            Some(path) if path.as_os_str() == "none" => Files::None,
            Some(path) => Files::Only(path.to_owned()),
        };
        Ok(Request {
            host: destination.host,
            user: destination.user,
            lines,
            way_lines,
            files,
            local_user,
            home,
            ..Request::default()
        })
    }
}

fn fail(why: &str) -> ExitCode {
    complain(&format!("ssh: {why}\n"));
    ExitCode::from(EXIT_FAILED)
}

fn help() -> String {
    let mut text = String::from(
        "Usage: tidegate ssh [FLAGS] [USER@]HOST [COMMAND...]\n\n\
         Logs in at an SSH server and runs a command or a shell there. ~/.ssh/config and\n\
         ~/.ssh/known_hosts count as they do for ssh.\n\nFlags:\n",
    );
    for flag in FLAGS {
        let usage = match flag.value {
            Some(value) => format!("-{} {value}", flag.letter),
            None => format!("-{}", flag.letter),
        };
        text.push_str(&format!("  {usage:<14} {}\n", flag.help));
    }
    text.push_str("\nKeywords of the configuration: docs/client.md\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<SshFlags, String> {
        SshFlags::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn flags_may_be_bundled_and_follow_the_host() {
        let flags = parse(&["-qnp", "22", "ann@web", "-lbob", "-o", "Tag=x", "ls", "-l"]);
        let flags = flags.expect("a command line");
        assert_eq!(flags.destination, "ann@web");
        assert_eq!(flags.command.as_deref(), Some(&b"ls -l"[..]));
        let expected = ["LogLevel QUIET", "StdinNull yes", "Port 22", "User bob", "Tag=x"];
        assert_eq!(flags.lines, expected);
        // Of what can be taken back the last counts, and before every line.
        let flags = parse(&["-AXo", "ForwardAgent no", "-xtTa", "web"]).expect("a command line");
        let expected = ["ForwardX11 no", "RequestTTY no", "ForwardAgent no", "ForwardAgent no"];
        assert_eq!(flags.lines, expected);
        let flags = parse(&["-vvt", "web", "--", "-x"]).expect("a command line");
        assert_eq!(flags.lines, ["LogLevel DEBUG2", "RequestTTY yes"]);
        assert_eq!(flags.command.as_deref(), Some(&b"-x"[..]));
        assert_eq!(parse(&["web"]).expect("a command line").command, None);
        assert_eq!(parse(&["-S", "none", "web"]), parse(&["web"]), "what is always so");
    }

    #[test]
    fn slips_are_told() {
        for (words, expected) in [
            (&["-p"][..], "-p needs a value"),
            (&["-p", "1"], "a host is missing"),
            (&["-M", "web"], "-M: connections are not shared"),
            (&["-S", "/tmp/x", "web"], "-S: connections are not shared"),
            (&["-!", "web"], "there is no flag -!"),
            (&["-L", "80", "web"], "-L: Bad local forwarding specification '80'"),
            (&["-R", "80:x", "web"], "-R: Bad remote forwarding specification '80:x'"),
            (&["-D", "1:h:2", "web"], "-D: Bad dynamic forwarding specification '1:h:2'"),
            (&["-W", "host", "web"], "-W: Bad stdio forwarding specification 'host'"),
        ] {
            let why = parse(words).expect_err("a slip");
            assert!(why.contains(expected), "{words:?}: {why}");
        }
    }
}
