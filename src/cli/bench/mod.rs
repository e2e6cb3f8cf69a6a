//! `tidegate bench`: what this machine's hardware does with SSH's algorithms, and what an SSH server
//! does with many connections and many bytes: for people who publish figures, choose machines or size servers.

mod chart;
mod cipher;
mod flags;
mod histogram;
mod html;
mod kex;
mod load;
mod login;
mod machine;
mod proof;
mod report;
mod sample;
mod target;
mod transfer;
mod usage;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::{fs, io};

use anyhow::{Context, Result};

use self::flags::{BenchFlags, What};
use self::machine::Machine;
use self::report::{Report, Row, Run};
use self::target::Told;
use super::{EXIT_FAILED, EXIT_USAGE, complain, print};

/// A case is slower than before by more than the threshold.
const EXIT_SLOWER: u8 = 2;

/// Some connections of a load have failed; what the others took is told.
const EXIT_PARTLY: u8 = 3;

/// What was measured of a server.
struct Measured {
    rows: Vec<Row>,
    runs: Vec<Run>,
    target: Told,
}

/// Runs `bench` with the words behind it.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let flags = match BenchFlags::parse(args) {
        Ok(flags) => flags,
        Err(why) => {
            complain(&format!("bench: {why}\n"));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if flags.help {
        return print(&flags::help());
    }
    match measure(&flags) {
        Ok(code) => code,
        Err(why) => {
            complain(&format!("bench: {why:#}\n"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn measure(flags: &BenchFlags) -> Result<ExitCode> {
    // What is asked for last is looked at first: a missing file should not cost a measurement.
    let before = flags.compare.as_deref().map(read).transpose()?;
    let report = run_bench(flags)?;
    if report.cases.is_empty() {
        let only = flags.only.as_deref().unwrap_or_default();
        anyhow::bail!("no case has {only:?} in its name");
    }
    if let Some(path) = &flags.save {
        write(path, &report.to_json()?)?;
    }
    if let Some(path) = &flags.html {
        write(path, &html::page(&report))?;
    }
    let comparison = before.map(|before| report.compare(&before, &flags.thresholds));
    let mut text = if flags.json { report.to_json()? } else { report.to_text() };
    if let Some(comparison) = &comparison {
        let words = comparison.to_text();
        // Standard output stays one JSON document.
        if flags.json { complain(&words) } else { text.push_str(&words) }
    }
    print(&text);
    // A load that failed in part has not measured what it was to: that counts more.
    if report.runs.iter().any(|run| !run.errors.is_empty()) {
        return Ok(ExitCode::from(EXIT_PARTLY));
    }
    let slower = comparison.is_some_and(|comparison| comparison.is_slower());
    Ok(if slower { ExitCode::from(EXIT_SLOWER) } else { ExitCode::SUCCESS })
}

fn run_bench(flags: &BenchFlags) -> Result<Report> {
    let (rows, runs, target) = match flags.what {
        What::Cipher => (cipher::measure(flags)?, Vec::new(), None),
        What::Kex => (kex::measure(flags)?, Vec::new(), None),
        What::Load | What::Transfer => {
            let measured = match flags.what {
                What::Load => load::measure(flags)?,
                _ => transfer::measure(flags)?,
            };
            (measured.rows, measured.runs, Some(measured.target))
        }
    };
    let mut report = Report::new(flags.what.name(), Machine::look(), rows);
    (report.runs, report.target) = (runs, target);
    Ok(report)
}

fn read(path: &Path) -> Result<Report> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Report::from_json(&text).with_context(|| path.display().to_string())
}

fn write(path: &Path, text: &str) -> Result<()> {
    let outcome: io::Result<()> = fs::write(path, text);
    outcome.with_context(|| path.display().to_string())
}
