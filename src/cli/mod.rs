//! Floor 10: the command line. Each command has one table of flags, from which its help is made.

mod bench;
mod cp;
mod ctl;
mod delegate;
mod effective;
mod flags;
mod helper;
mod letters;
mod passwd;
mod query;
mod replay;
mod serve;
mod sftp_log;
mod sftp_server;
mod ssh;
mod sshd;
mod sshd_flags;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::gateway::config::did_you_mean;
use crate::services::run_prelude;

/// The command line or the configuration is wrong; nothing was started.
const EXIT_USAGE: u8 = 1;
/// Something failed that was well asked for.
const EXIT_FAILED: u8 = 255;

/// Commands and what they do, in one line each.
const COMMANDS: &[(&str, &str)] = &[
    ("serve", "serve SSH and SFTP in the foreground"),
    ("sshd", "take the place of sshd: its flags, its configuration, in the background"),
    ("ssh", "log in at an SSH server and run a command or a shell there"),
    ("cp", "copy files to and from SSH servers"),
    ("ctl", "ask running gateways what they do, and have them reload, upgrade or stop"),
    ("bench", "measure ciphers and key exchanges here, or what a server does under load"),
    ("passwd", "make the hash of a password, or a secret for codes"),
    ("replay", "play a recorded session, or show its text"),
    ("sftp-server", "serve SFTP on standard input and output, for any sshd"),
];

/// Runs what the command line asks for; `args` begin with the program's own name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let name = args.next().unwrap_or_default();
    match Path::new(&name).file_name().and_then(|name| name.to_str()) {
        Some("sshd") => return sshd::run(args),
        Some("sftp-server") => return sftp_server::run(args),
        Some("ssh") => return ssh::run(args),
        _ => {}
    }
    let Some(command) = args.next() else {
        complain(&format!("a command is missing\n\n{}", help()));
        return ExitCode::from(EXIT_USAGE);
    };
    match command.to_str() {
        Some("serve") => serve::run(args),
        Some("sshd") => sshd::run(args),
        Some("sftp-server") => sftp_server::run(args),
        Some("ssh") => ssh::run(args),
        Some("cp") => cp::run(args),
        Some("passwd") => passwd::run(args),
        Some("replay") => replay::run(args),
        Some("ctl") => ctl::run(args),
        Some("bench") => bench::run(args),
        Some("delegate") => delegate::run(args),
        Some("edge") => helper::edge(args),
        Some("signer") => helper::signer(args),
        Some("relay") => helper::relay(args),
        Some("pam") => helper::pam(args),
        Some("session") => session(args),
        Some("help" | "--help" | "-h") => print(&help()),
        Some("version" | "--version" | "-V") => print(&version()),
        _ => {
            let command = command.to_string_lossy();
            let meant = did_you_mean(&command, COMMANDS.iter().map(|(name, _)| *name));
            let hint = match meant {
                Some(meant) => format!("did you mean `tidegate {meant}`?"),
                None => "`tidegate --help` lists the commands".to_owned(),
            };
            complain(&format!("there is no command {command:?}; {hint}\n"));
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// `tidegate session`: what comes before a program in a session's process. Started by a gateway,
/// never by hand, so it has no help of its own.
fn session(words: impl Iterator<Item = OsString>) -> ExitCode {
    let why = run_prelude(words);
    complain(&format!("session: {why}\n"));
    ExitCode::from(EXIT_USAGE)
}

fn help() -> String {
    let mut text = format!("{}\nUsage: tidegate COMMAND [FLAGS]\n\nCommands:\n", version());
    for (name, what) in COMMANDS {
        text.push_str(&format!("  {name:<12} {what}\n"));
    }
    text.push_str(
        "\n`tidegate COMMAND --help` tells more. Without flags, `tidegate serve` listens on\n",
    );
    text.push_str("127.0.0.1 port 2222 and lets in the user who started it.\n");
    text
}

fn version() -> String {
    format!("tidegate {}\n", env!("CARGO_PKG_VERSION"))
}

/// To standard output; a reader that has gone away is no failure.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    ExitCode::SUCCESS
}

/// To standard error, behind our name.
fn complain(text: &str) {
    let _ = write!(io::stderr().lock(), "tidegate: {text}");
}
