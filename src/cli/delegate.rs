//! `tidegate delegate`: the process that acts for one account. Started by a gateway that runs as
//! root, never by hand, so it has no help of its own.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use lexopt::Arg;

use super::{EXIT_FAILED, EXIT_USAGE, complain};
use crate::gateway::config::{Facility, LogFormat, LogLevel};
use crate::gateway::delegate::{self, Options};
use crate::gateway::syslog::{self, Syslog};
use crate::limits::DELEGATE_IDLE_TIME;
use crate::observe::lines;
use crate::observe::log::{self, Levels, LogSetup, Outlet};

struct Flags {
    uid: u32,
    root: Option<PathBuf>,
    reactors: usize,
    idle_time: Duration,
    log: LogSetup,
}

/// Runs `delegate` with the words behind it.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(flags) = parse(args) else {
        complain("delegate: started by a gateway that runs as root, not by hand\n");
        return ExitCode::from(EXIT_USAGE);
    };
    if let (Some(_), Outlet::Syslog(syslog)) = (&flags.root, &flags.log.outlet) {
        syslog.open();
    }
    let options = Options {
        uid: flags.uid,
        root: flags.root,
        reactors: flags.reactors,
        idle_time: flags.idle_time,
        log: lines::write_all,
    };
    let outcome = log::start(&flags.log).map_err(Into::into).and_then(|()| delegate::run(&options));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            complain(&format!("delegate: {why:#}\n"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn parse(args: impl Iterator<Item = OsString>) -> Option<Flags> {
    let log = LogSetup {
        levels: Levels { base: LogLevel::Info, own: None },
        format: LogFormat::Text,
        outlet: Outlet::StandardError,
    };
    let mut root = None;
    let (mut uid, mut reactors, mut idle_time, mut log) = (None, 1, DELEGATE_IDLE_TIME, log);
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next().ok()? {
        let Arg::Long(name) = arg else { return None };
        let name = name.to_owned();
        let value = parser.value().ok()?;
        if name == "root" {
            root = Some(PathBuf::from(value)).filter(|root| root.is_absolute());
            root.as_ref()?;
            continue;
        }
        let value = value.into_string().ok()?;
        match name.as_str() {
            "uid" => uid = Some(value.parse().ok()?),
            "idle-time" => {
                idle_time = Duration::from_millis(value.parse().ok()?);
            }
            "reactors" => reactors = value.parse().ok().filter(|count| *count > 0)?,
            "log-format" => {
                log.format = match value.as_str() {
                    "json" => LogFormat::Json,
                    "text" => LogFormat::Text,
                    _ => return None,
                };
            }
            "syslog" => {
                let (_, facility) = Facility::ALL.into_iter().find(|(known, _)| *known == value)?;
                log.outlet = Outlet::Syslog(Syslog::new(syslog::GATEWAY, facility));
            }
            "log-level" => {
                let (_, level) = LogLevel::ALL.into_iter().find(|(known, _)| *known == value)?;
                log.levels.base = level;
            }
            "own-log-level" => {
                let (_, level) = LogLevel::ALL.into_iter().find(|(known, _)| *known == value)?;
                log.levels.own = Some(level);
            }
            _ => return None,
        }
    }
    Some(Flags { uid: uid?, root, reactors, idle_time, log })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<Flags> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn what_a_gateway_passes_is_understood_and_nothing_else() {
        let flags = parsed(
            "--uid 7 --reactors 3 --idle-time 50 --log-format json --log-level DEBUG2 \
             --own-log-level DEBUG3",
        )
        .expect("flags");
        assert_eq!((flags.uid, flags.reactors), (7, 3));
        assert_eq!(flags.idle_time, Duration::from_millis(50));
        let levels = Levels { base: LogLevel::Debug2, own: Some(LogLevel::Debug3) };
        assert_eq!((flags.log.format, flags.log.levels), (LogFormat::Json, levels));
        assert!(parsed("--reactors 3").is_none(), "an account is needed");
        for bad in [
            "x",
            "-r 1",
            "--reactors 0",
            "--syslog LOUD",
            "--log-format xml",
            "--log-level LOUD",
            "--other 1",
            "--root x",
        ] {
            assert!(parsed(&format!("--uid 7 {bad}")).is_none(), "{bad}");
        }
    }
}
