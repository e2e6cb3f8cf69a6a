//! `tidegate edge`, `tidegate relay`, `tidegate signer` and `tidegate pam`: the process that speaks with those who
//! have not logged in, the one that serves logins which go on elsewhere, the one that holds the host keys, and
//! those that ask PAM. Started by a gateway that runs as root, never by hand, so they have no
//! help of their own.

use std::ffi::OsString;
use std::process::ExitCode;

use lexopt::Arg;

use super::{EXIT_FAILED, EXIT_USAGE, complain};
use crate::gateway::config::{LogFormat, LogLevel};
use crate::gateway::{
    edge as edge_process, pam as pam_process, relay as relay_process, signer as signer_process,
};
use crate::observe::lines;
use crate::observe::log::{self, Levels, LogSetup, Outlet};

/// Runs `edge` with the words behind it.
pub fn edge(args: impl Iterator<Item = OsString>) -> ExitCode {
    run("edge", args, || edge_process::run(lines::write_all))
}

/// Runs `relay` with the words behind it.
pub fn relay(args: impl Iterator<Item = OsString>) -> ExitCode {
    run("relay", args, || relay_process::run(lines::write_all))
}

/// Runs `signer` with the words behind it.
pub fn signer(args: impl Iterator<Item = OsString>) -> ExitCode {
    run("signer", args, signer_process::run)
}

/// Runs `pam`: it has no words behind it, and no log of its own.
pub fn pam(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    match args.next() {
        Some(_) => by_hand("pam"),
        None => end("pam", pam_process::run()),
    }
}

fn run(
    part: &str,
    args: impl Iterator<Item = OsString>,
    serve: impl FnOnce() -> anyhow::Result<()>,
) -> ExitCode {
    let Some(setup) = parse(args) else {
        return by_hand(part);
    };
    end(part, log::start(&setup).map_err(Into::into).and_then(|()| serve()))
}

fn by_hand(part: &str) -> ExitCode {
    complain(&format!("{part}: started by a gateway that runs as root, not by hand\n"));
    ExitCode::from(EXIT_USAGE)
}

fn end(part: &str, outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            complain(&format!("{part}: {why:#}\n"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn parse(args: impl Iterator<Item = OsString>) -> Option<LogSetup> {
    let mut setup = LogSetup {
        levels: Levels { base: LogLevel::Info, own: None },
        format: LogFormat::Text,
        outlet: Outlet::StandardError,
    };
    let level = |name: String| LogLevel::ALL.into_iter().find(|(known, _)| *known == name);
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next().ok()? {
        let Arg::Long(name) = arg else { return None };
        let name = name.to_owned();
        let mut value = || parser.value().ok()?.into_string().ok();
        match name.as_str() {
            "log-format" => {
                setup.format = match value()?.as_str() {
                    "json" => LogFormat::Json,
                    "text" => LogFormat::Text,
                    _ => return None,
                };
            }
            "log-level" => setup.levels.base = level(value()?)?.1,
            "own-log-level" => setup.levels.own = Some(level(value()?)?.1),
            "marked" => setup.outlet = Outlet::Marked,
            _ => return None,
        }
    }
    Some(setup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_gateway_passes_is_understood_and_nothing_else() {
        let parsed = |line: &str| parse(line.split_whitespace().map(OsString::from));
        let line = "--log-format json --log-level DEBUG2 --own-log-level DEBUG3 --marked";
        let setup = parsed(line).expect("flags");
        let levels = Levels { base: LogLevel::Debug2, own: Some(LogLevel::Debug3) };
        assert_eq!((setup.format, setup.levels), (LogFormat::Json, levels));
        assert!(matches!(setup.outlet, Outlet::Marked));
        for bad in ["x", "-r 1", "--log-format xml", "--log-level LOUD", "--other"] {
            assert!(parsed(bad).is_none(), "{bad}");
        }
    }
}
