//! `tidegate ctl`: running gateways as their administrator sees them. Whatever they answer is taken for text
//! of strangers: bounded, and shown escaped.

mod exporter;
mod exposition;
mod figures;
mod flags;
mod screen;
mod show;
mod sockets;
mod text;
mod top;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::Value;

use self::flags::{CtlFlags, What, Which};
use self::sockets::{Answers, Place, ask_all, ask_one};
use super::{EXIT_FAILED, EXIT_USAGE, complain, print};
use crate::base::plain_json;
use crate::limits::{CTL_ANSWER_TIME, CTL_DEED_TIME};

/// Runs `ctl` with the words behind it.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let flags = match CtlFlags::parse(args) {
        Ok(flags) if flags.help => return print(&flags::help()),
        Ok(flags) => flags,
        Err(why) => {
            complain(&format!("ctl: {why}; `tidegate ctl --help` tells more\n"));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let done = match (flags.what, flags.listen) {
        (What::Status, _) => status(&flags),
        (What::Top, _) => top::run(&flags),
        (What::Metrics, Some(address)) => exporter::serve(&flags.which, address),
        (What::Metrics, None) => {
            metrics(&flags.which).map(|(text, whole)| end(print(&text), whole))
        }
        (What::Reload | What::Upgrade | What::Stop, _) => deed(&flags),
    };
    done.unwrap_or_else(|why| {
        complain(&format!("ctl: {why}\n"));
        ExitCode::from(EXIT_FAILED)
    })
}

/// A command has failed where one of the gateways has, even if others have answered.
fn end(code: ExitCode, whole: bool) -> ExitCode {
    if whole { code } else { ExitCode::from(EXIT_FAILED) }
}

/// Those of several that have answered well; the others are complained of. And whether all did.
fn heard<T>(
    answers: Answers,
    read: impl Fn(Vec<u8>) -> Result<T, String>,
) -> (Vec<(Place, T)>, bool) {
    let (mut well, mut whole) = (Vec::new(), true);
    for (place, answer) in answers {
        match answer.and_then(&read) {
            Ok(answer) => well.push((place, answer)),
            Err(why) => {
                complain(&format!("ctl: {}: {why}\n", place.name()));
                whole = false;
            }
        }
    }
    (well, whole)
}

fn status(flags: &CtlFlags) -> Result<ExitCode, String> {
    let answers = ask_all(&flags.which, What::Status.name(), CTL_ANSWER_TIME)?;
    let (well, whole) = heard(answers, |answer| {
        let value = figures::object(&answer)?;
        Ok((figures::status(value.clone())?, value))
    });
    let shown = |(status, value): &(figures::Status, Value)| match flags.json {
        true => format!("{}\n", plain_json(&value.to_string())),
        false => show::summary(status).join("\n") + "\n",
    };
    let texts: Vec<String> = well.iter().map(|(_, answer)| shown(answer)).collect();
    let between = if flags.json { "" } else { "\n" };
    Ok(end(print(&texts.join(between)), whole))
}

/// The metrics of all that are meant, and whether all have answered. Where they were not named, each
/// sample says whose it is.
fn metrics(which: &Which) -> Result<(String, bool), String> {
    let answers = ask_all(which, What::Metrics.name(), CTL_ANSWER_TIME)?;
    let (well, whole) = heard(answers, exposition::read);
    let label = |place: &Place| match which {
        Which::All => place.pid.map(|pid| pid.to_string()),
        Which::Socket(_) | Which::Pid(_) => None,
    };
    let texts: Vec<_> = well.into_iter().map(|(place, text)| (label(&place), text)).collect();
    Ok((exposition::merge(&texts), whole))
}

/// Reload, upgrade, stop: of one gateway alone.
fn deed(flags: &CtlFlags) -> Result<ExitCode, String> {
    let request = flags.what.name();
    let answer = match flags.which {
        Which::All => {
            let place = the_one_that_serves(request)?;
            ask_one(&place, request, CTL_DEED_TIME)
                .map_err(|why| format!("{}: {why}", place.name()))?
        }
        _ => {
            let mut answers = ask_all(&flags.which, request, CTL_DEED_TIME)?;
            let (place, answer) = answers.pop().ok_or("no gateway answers")?;
            answer.map_err(|why| format!("{}: {why}", place.name()))?
        }
    };
    let value = figures::object(&answer)?;
    let done = value.get("done").and_then(Value::as_str);
    let done = done.ok_or("its answer does not say what was done")?;
    // The one that is told to stop may be gone; so may be whoever reads this.
    let _ = writeln!(io::stdout().lock(), "{}", text::lines(done));
    Ok(ExitCode::SUCCESS)
}

/// Of those that answer; programs behind an upgrade do not count.
fn the_one_that_serves(request: &str) -> Result<Place, String> {
    let answers = ask_all(&Which::All, What::Status.name(), CTL_ANSWER_TIME)?;
    let read = |answer: Vec<u8>| figures::object(&answer).and_then(figures::status);
    let (well, _) = heard(answers, read);
    let pids = |serves: bool| {
        let those = well.iter().filter(|(_, status)| (status.state == "serving") == serves);
        those.map(|(place, _)| place).collect::<Vec<_>>()
    };
    let named = |places: &[&Place]| {
        let pids = places.iter().filter_map(|place| place.pid).map(|pid| pid.to_string());
        pids.collect::<Vec<_>>().join(" and ")
    };
    match &*pids(true) {
        [one] => Ok((*one).clone()),
        [] => match &*pids(false) {
            [] => Err("no gateway says that it serves; -p names one".to_owned()),
            leaving => Err(format!(
                "no gateway serves; {} only ends with its sessions; -p names it",
                named(leaving)
            )),
        },
        [first, ..] => Err(format!(
            "several gateways serve: {}; say which: tidegate ctl -p {} {request}",
            named(&pids(true)),
            first.pid.unwrap_or_default()
        )),
    }
}
