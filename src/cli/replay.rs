//! `tidegate replay`: plays a recording (TidegateRecord), or shows its text. Who may read the file may do
//! so.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use lexopt::Arg;
use nix::sys::signal::Signal;

use super::{EXIT_FAILED, EXIT_USAGE, complain, print};
use crate::gateway::recording::cast::{Event, Header, Older};
use crate::gateway::recording::screen::{RESET, Screen};
use crate::gateway::signals::{Signals, Woken};
use crate::limits::RECORDING_LINE_BYTES_MAX;

const HELP: &str = "\
Usage: tidegate replay [--speed N] [--idle SECONDS] [--dump] FILE
       tidegate replay --export asciicast FILE

Plays a recorded session (TidegateRecord) as it was seen. What would reach beyond the screen, such as
titles, the clipboard or questions to the terminal, is left out. Whoever may read FILE may do this.

  --speed N        so many times as fast
  --idle SECONDS   no pause is longer
  --dump           its text, at once and without colours and cursors
  --export FORMAT  asciicast: the recording in version 2 of that format, for
                   players that do not know version 3; nothing is left out
  --help           print this
";

struct Options {
    speed: f64,
    idle: Option<Duration>,
    dump: bool,
    export: bool,
    file: PathBuf,
}

/// Runs `replay` with the words behind it.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let options = match parse(args) {
        Ok(Some(options)) => options,
        Ok(None) => return print(HELP),
        Err(why) => {
            complain(&format!("replay: {why}; `tidegate replay --help` tells more\n"));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match play(&options) {
        Ok(None) => ExitCode::SUCCESS,
        // As a shell tells it.
        Ok(Some(signal)) => ExitCode::from(128 | signal as u8),
        Err(why) => {
            complain(&format!("replay: {}: {why}\n", options.file.display()));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// `None`: help is asked for.
fn parse(args: impl Iterator<Item = OsString>) -> Result<Option<Options>, String> {
    let (mut speed, mut idle, mut dump, mut export, mut file) = (1.0, None, false, false, None);
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next().map_err(|why| why.to_string())? {
        match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            Arg::Long("dump") => dump = true,
            Arg::Long("export") => {
                let format = parser.value().map_err(|why| why.to_string())?;
                if format != "asciicast" {
                    return Err("asciicast is the one format that --export knows".to_owned());
                }
                export = true;
            }
            Arg::Long("speed") => speed = number(&mut parser, "--speed")?,
            Arg::Long("idle") => {
                let seconds = number(&mut parser, "--idle")?;
                idle = Some(Duration::try_from_secs_f64(seconds).map_err(|why| why.to_string())?);
            }
            Arg::Value(path) if file.is_none() => file = Some(PathBuf::from(path)),
            arg => return Err(arg.unexpected().to_string()),
        }
    }
    let file = file.ok_or("the name of a recording is missing")?;
    Ok(Some(Options { speed, idle, dump, export, file }))
}

/// Of something that is more than nothing.
fn number(parser: &mut lexopt::Parser, flag: &str) -> Result<f64, String> {
    let value = parser.value().map_err(|why| why.to_string())?;
    let number = value.to_str().and_then(|text| text.parse::<f64>().ok());
    let number = number.filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| format!("{flag} needs a number above 0"))
}

/// Answers the signal that has ended it, if one has.
fn play(options: &Options) -> Result<Option<Signal>, String> {
    let mut lines = Lines::open(&options.file)?;
    let first = lines.next()?.ok_or("it is empty")?;
    let mut out = io::stdout().lock();
    let at_terminal = !options.dump && !options.export && io::stdout().is_terminal();
    // A terminal is put right before we leave.
    let caught = if at_terminal { &ENDS[..] } else { &[] };
    let signals = Signals::catch(caught).map_err(|why| why.to_string())?;
    let mut pauses = Pauses { options, signals, owed: Duration::ZERO };
    let played = if options.export {
        let (older, header) = Older::begin(first)?;
        export(older, &header, &mut lines, &mut out)
    } else {
        Header::parse(first)?;
        let mut screen = Screen::new(options.dump);
        play_events(&mut pauses, &mut lines, &mut screen, &mut out)
    };
    if at_terminal {
        let _ = writeln!(out, "{RESET}");
    }
    match played {
        // Whoever reads has seen enough.
        Err(Trouble::Output(why)) if why.kind() == io::ErrorKind::BrokenPipe => Ok(None),
        Err(Trouble::Output(why)) => Err(format!("cannot be shown: {why}")),
        Err(Trouble::Input(why)) => Err(why),
        Err(Trouble::Signal(signal)) => Ok(Some(signal)),
        Ok(()) => Ok(None),
    }
}

/// Ends of a replay by whoever has seen enough.
const ENDS: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

enum Trouble {
    Input(String),
    Output(io::Error),
    Signal(Signal),
}

/// The time between events.
struct Pauses<'a> {
    options: &'a Options,
    signals: Signals,
    /// Less than can be waited for.
    owed: Duration,
}

impl Pauses<'_> {
    fn wait(&mut self, after: Duration) -> Result<(), Trouble> {
        let Options { speed, idle, .. } = *self.options;
        let after = Duration::try_from_secs_f64(after.as_secs_f64() / speed);
        let after = after.unwrap_or(Duration::MAX);
        self.owed = self.owed.saturating_add(idle.map_or(after, |idle| after.min(idle)));
        let whole = Duration::from_millis(self.owed.as_millis().try_into().unwrap_or(u64::MAX));
        self.owed = self.owed.saturating_sub(whole);
        match self.signals.wait(&[], Some(whole)) {
            Ok(Woken::Signal(signal)) => Err(Trouble::Signal(signal)),
            Ok(Woken::Ready(_) | Woken::TimedOut) => Ok(()),
            Err(why) => Err(Trouble::Input(why.to_string())),
        }
    }
}

fn play_events(
    pauses: &mut Pauses<'_>,
    lines: &mut Lines,
    screen: &mut Screen,
    out: &mut impl Write,
) -> Result<(), Trouble> {
    while let Some(event) = lines.next_event()? {
        if !pauses.options.dump {
            pauses.wait(event.after)?;
        }
        if event.code == "o" {
            out.write_all(screen.show(&event.text).as_bytes()).map_err(Trouble::Output)?;
            out.flush().map_err(Trouble::Output)?;
        }
    }
    Ok(())
}

fn export(
    mut older: Older,
    header: &str,
    lines: &mut Lines,
    out: &mut impl Write,
) -> Result<(), Trouble> {
    out.write_all(header.as_bytes()).map_err(Trouble::Output)?;
    while let Some(event) = lines.next_event()? {
        out.write_all(older.event(&event).as_bytes()).map_err(Trouble::Output)?;
    }
    out.flush().map_err(Trouble::Output)
}

/// The lines of a file, each bounded.
struct Lines {
    reader: BufReader<File>,
    line: Vec<u8>,
    number: u64,
}

impl Lines {
    fn open(path: &Path) -> Result<Lines, String> {
        let file = File::open(path).map_err(|why| why.to_string())?;
        Ok(Lines { reader: BufReader::new(file), line: Vec::new(), number: 0 })
    }

    /// `None` at the end.
    fn next_event(&mut self) -> Result<Option<Event>, Trouble> {
        loop {
            let number = self.number + 1;
            let wrong = |why: String| Trouble::Input(format!("line {number}: {why}"));
            let Some(line) = self.next().map_err(wrong)? else { return Ok(None) };
            if let Some(event) = Event::parse(line).map_err(wrong)? {
                return Ok(Some(event));
            }
        }
    }

    fn next(&mut self) -> Result<Option<&[u8]>, String> {
        self.line.clear();
        let most = RECORDING_LINE_BYTES_MAX as u64 + 1;
        let len = (&mut self.reader).take(most).read_until(b'\n', &mut self.line);
        match len.map_err(|why| why.to_string())? {
            0 => Ok(None),
            len if len > RECORDING_LINE_BYTES_MAX => {
                Err("longer than any that is written".to_owned())
            }
            _ => {
                self.number += 1;
                Ok(Some(&self.line))
            }
        }
    }
}
