//! Where log lines go and how they look.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;

use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{self, Writer};
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriter};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::reload::{self, Handle};

use crate::base::plain_json;
pub use crate::base::{Escaped, escape};
use crate::gateway::config::{Config, LogFormat, LogLevel};
use crate::gateway::log_level;
use crate::gateway::syslog::{self, Line, Severity, Syslog};

/// How this process logs.
#[derive(Clone, Debug)]
pub struct LogSetup {
    pub levels: Levels,
    pub format: LogFormat,
    pub outlet: Outlet,
}

/// Where lines go.
#[derive(Clone, Debug)]
pub enum Outlet {
    StandardError,
    Syslog(Syslog),
    /// To standard error, each behind a mark that says how urgent it is: for whoever passes them on to
    /// the system's log.
    Marked,
}

/// Which lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// Those about the process, and about connections without a level of their own.
    pub base: LogLevel,
    /// The most talkative level that a connection may have (LogLevel in a Match block).
    pub own: Option<LogLevel>,
}

impl Levels {
    pub fn of(config: &Config) -> Levels {
        Levels { base: config.login.log_level, own: config.own_log_level() }
    }

    /// Nothing beyond this is ever written.
    fn most(self) -> LevelFilter {
        filter(self.own.map_or(self.base, |own| own.max(self.base)))
    }
}

/// Asks for every line at which level its connection is logged; where none has a level of its own
/// that is known once and for all.
impl Layer<Registry> for Levels {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match self.own {
            _ if *metadata.level() > self.most() => Interest::never(),
            None => Interest::always(),
            Some(_) => Interest::sometimes(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, Registry>) -> bool {
        *metadata.level() <= filter(log_level::own().unwrap_or(self.base))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.most())
    }
}

/// Changes the levels that [`start`] set.
static LEVELS: OnceLock<Handle<Levels, Registry>> = OnceLock::new();

/// Makes this file, appended to, the standard error of the process: for log lines, for those of
/// processes started later, and for whatever else complains there.
///
/// # Errors
/// The file cannot be opened; the text names it.
pub fn redirect(path: &Path) -> io::Result<()> {
    let file = open(path)?;
    nix::unistd::dup2_stderr(file)?;
    Ok(())
}

/// Starts logging for the whole process. Text lines are for people: time, level, the message (the
/// system's log has the first two of its own). JSON lines carry the message and every field, one
/// object a line.
///
/// # Errors
/// Logging has been started before.
pub fn start(setup: &LogSetup) -> io::Result<()> {
    let (subscriber, level) = match &setup.outlet {
        Outlet::Syslog(syslog) => {
            subscriber(setup, BoxMakeWriter::new(ToSyslog(syslog.clone())), false)
        }
        Outlet::Marked => subscriber(setup, BoxMakeWriter::new(ToMarked), false),
        Outlet::StandardError => {
            subscriber(setup, BoxMakeWriter::new(io::stderr), io::stderr().is_terminal())
        }
    };
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)?;
    let _ = LEVELS.set(level);
    Ok(())
}

/// Other levels from now on.
pub fn set_levels(levels: Levels) {
    if let Some(handle) = LEVELS.get() {
        let _ = handle.reload(levels);
    }
}

/// The least severe level of `tracing` that is written at one of sshd's. What sshd adds at VERBOSE we tell at INFO,
/// or not at all.
pub const fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Quiet => LevelFilter::OFF,
        LogLevel::Fatal | LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Info | LogLevel::Verbose => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Debug2 | LogLevel::Debug3 => LevelFilter::TRACE,
    }
}

type Subscriber = Box<dyn tracing::Subscriber + Send + Sync>;

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    file.map_err(|why| io::Error::new(why.kind(), format!("log file {}: {why}", path.display())))
}

fn subscriber(
    setup: &LogSetup,
    writer: BoxMakeWriter,
    colours: bool,
) -> (Subscriber, Handle<Levels, Registry>) {
    let (level, handle) = reload::Layer::new(setup.levels);
    // Whoever reads may be gone, and then nobody can be told.
    let lines = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(colours)
        .with_writer(writer)
        .log_internal_errors(false);
    // Messages are whole sentences; their fields would only repeat them.
    let brief = setup.levels.base < LogLevel::Debug;
    let is_plain = matches!(setup.outlet, Outlet::StandardError);
    let lines = match (setup.format, is_plain) {
        (LogFormat::Json, _) => {
            lines.json().flatten_event(true).map_event_format(PlainJson).boxed()
        }
        (LogFormat::Text, false) => {
            let lines = lines.without_time().with_level(false);
            lines.fmt_fields(format::debug_fn(message_alone)).boxed()
        }
        (LogFormat::Text, true) if brief => {
            lines.fmt_fields(format::debug_fn(message_of_sshd)).boxed()
        }
        (LogFormat::Text, true) => {
            lines.fmt_fields(format::debug_fn(every_field).delimited(" ")).boxed()
        }
    };
    (Box::new(Registry::default().with(level).with(lines)), handle)
}

/// JSON in which nothing moves a cursor.
struct PlainJson<F>(F);

impl<S, N, F: FormatEvent<S, N>> FormatEvent<S, N> for PlainJson<F>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        writer.write_str(&plain_json(&line))
    }
}

/// Each event is one line in the system's log, as severe there as here.
struct ToSyslog(Syslog);

impl<'a> MakeWriter<'a> for ToSyslog {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        self.0.line(Severity::Info)
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line<'a> {
        self.0.line(severity(event))
    }
}

fn severity(event: &Metadata<'_>) -> Severity {
    match *event.level() {
        Level::ERROR => Severity::Error,
        Level::WARN => Severity::Warning,
        Level::INFO => Severity::Info,
        Level::DEBUG | Level::TRACE => Severity::Debug,
    }
}

/// Each event is one line behind its mark.
struct ToMarked;

/// Writes a line whole, with its mark.
struct Marked(Severity);

impl io::Write for Marked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = [self.0.mark().as_bytes(), bytes].concat();
        io::Write::write_all(&mut io::stderr(), &line)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for ToMarked {
    type Writer = Marked;

    fn make_writer(&self) -> Marked {
        Marked(Severity::Info)
    }

    fn make_writer_for(&self, event: &Metadata<'_>) -> Marked {
        Marked(severity(event))
    }
}

fn message_alone(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    if field.name() == "message" { write!(OneLine(writer), "{value:?}") } else { Ok(()) }
}

fn every_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    match field.name() {
        "message" => message_alone(writer, field, value),
        name => write!(OneLine(writer), "{name}={value:?}"),
    }
}

/// Whoever logs escapes what others have written. Where that was forgotten, an event is one line all the
/// same, which does nothing to a terminal (SECURITY case 130).
struct OneLine<'a, 'b>(&'a mut Writer<'b>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive(char::is_control) {
            let plain = piece.trim_end_matches(char::is_control);
            self.0.write_str(plain)?;
            write!(self.0, "{}", escape(piece.get(plain.len()..).unwrap_or_default().as_bytes()))?;
        }
        Ok(())
    }
}

/// The same behind the name that sshd's lines have in the system's log, with the connection's number, if
/// it is about one: ban lists tell by it which lines belong together.
fn message_of_sshd(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    if let (Some(link), "message") = (log_level::link(), field.name()) {
        write!(writer, "{}[{link}]: ", syslog::GATEWAY)?;
    }
    message_alone(writer, field, value)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("the sink").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: LogLevel, format: LogFormat, log: impl FnOnce()) -> String {
        logged_at(Levels { base: level, own: None }, format, log)
    }

    fn logged_at(levels: Levels, format: LogFormat, log: impl FnOnce()) -> String {
        let sink = Sink::default();
        let copy = sink.clone();
        let setup = LogSetup { levels, format, outlet: Outlet::StandardError };
        let writer = BoxMakeWriter::new(move || copy.clone());
        tracing::subscriber::with_default(subscriber(&setup, writer, false).0, log);
        let bytes = sink.0.lock().expect("the sink").clone();
        String::from_utf8(bytes).expect("UTF-8")
    }

    fn greet() {
        tracing::info!(user = "ann", port = 22, "Hello {}", escape(b"a\nb\x1b"));
        tracing::debug!("whisper");
    }

    /// Whoever writes lines tells of those that were lost while there was no room, once for all of them and
    /// without waiting for the end.
    #[test]
    fn lost_lines_are_told_once_there_is_room_again() {
        use crate::gateway::reports;
        use crate::shard::{Report, What};

        let (lines, reports) = reports::channel(2);
        let report = |serial| Report {
            serial,
            peer: ([192, 0, 2, 1], 22).into(),
            verbosity: None,
            what: What::HandedOver { user: "ann".into() },
            grant: None,
            channel: None,
        };
        (0..5).for_each(|serial| lines.put(report(serial)));
        let sink = Sink::default();
        let copy = sink.clone();
        let levels = Levels { base: LogLevel::Info, own: None };
        let setup = LogSetup { levels, format: LogFormat::Text, outlet: Outlet::StandardError };
        let writer = BoxMakeWriter::new(move || copy.clone());
        let told = || String::from_utf8(sink.0.lock().expect("the sink").clone()).expect("UTF-8");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let subscriber = subscriber(&setup, writer, false).0;
                tracing::subscriber::with_default(subscriber, || {
                    crate::observe::lines::write_all(&reports);
                });
            });
            while !told().contains("3 log lines were lost because the log was behind") {
                std::thread::yield_now();
            }
            lines.put(report(5));
            drop(lines);
        });
        assert_eq!(told().matches("of ann goes on in another process").count(), 3, "{}", told());
        assert_eq!(told().matches("were lost").count(), 1, "{}", told());
    }

    #[test]
    fn text_lines_are_time_level_and_message() {
        let text = logged(LogLevel::Info, LogFormat::Text, greet);
        assert!(text.ends_with("  INFO Hello a\\nb\\x1b\n"), "{text}");
        assert_eq!(text.lines().count(), 1);
        let about = || log_level::about(7, None, greet);
        let text = logged(LogLevel::Info, LogFormat::Text, about);
        assert!(text.ends_with("  INFO sshd[7]: Hello a\\nb\\x1b\n"), "{text}");
        let text = logged(LogLevel::Debug, LogFormat::Text, greet);
        assert!(text.contains("user=\"ann\" port=22"), "{text}");
        assert_eq!(text.lines().count(), 2);
        let text = logged(LogLevel::Verbose, LogFormat::Text, greet);
        assert!(text.ends_with("  INFO Hello a\\nb\\x1b\n"), "no debugging of ours: {text}");
        assert_eq!(text.lines().count(), 1);
        assert_eq!(logged(LogLevel::Quiet, LogFormat::Text, greet), "");
        assert_eq!(logged(LogLevel::Error, LogFormat::Text, greet), "");
    }

    /// SECURITY case 130: a name that nobody has escaped forges no line.
    #[test]
    fn case_130_an_event_is_one_line_whatever_is_in_it() {
        let name = "ann\nsshd[1]: Failed password for root\x1b[2J\u{9b}\t\u{e9}\"";
        let log = || tracing::info!(user = %name, "Recorded {name}\r");
        for level in [LogLevel::Info, LogLevel::Debug] {
            let text = logged(level, LogFormat::Text, log);
            assert!(!text.trim_end_matches('\n').contains(char::is_control), "{text:?}");
            assert!(text.contains('\u{e9}'), "{text}");
        }
        let text = logged(LogLevel::Info, LogFormat::Json, log);
        assert!(!text.trim_end_matches('\n').contains(char::is_control), "{text:?}");
        let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read["user"], name);
        let text = logged(LogLevel::Info, LogFormat::Text, log);
        let shown = r#"Recorded ann\nsshd[1]: Failed password for root\x1b[2J\u{9b}\té"\r"#;
        assert!(text.ends_with(&format!("{shown}\n")), "{text}");
    }

    #[test]
    fn a_connection_is_logged_at_its_own_level() {
        let levels = Levels { base: LogLevel::Info, own: Some(LogLevel::Debug) };
        let text = logged_at(levels, LogFormat::Text, || {
            greet();
            log_level::under(Some(LogLevel::Debug.number()), greet);
            log_level::under(Some(LogLevel::Quiet.number()), greet);
            greet();
        });
        assert_eq!(text.matches("Hello").count(), 3, "{text}");
        assert_eq!(text.matches("whisper").count(), 1, "{text}");
        // Nobody is to talk more than was said at the start.
        let silent = Levels { base: LogLevel::Quiet, own: Some(LogLevel::Info) };
        let debug = Some(LogLevel::Debug3.number());
        let text = logged_at(silent, LogFormat::Text, || log_level::under(debug, greet));
        assert_eq!((text.matches("Hello").count(), text.matches("whisper").count()), (1, 0));
    }

    #[test]
    fn json_lines_carry_every_field() {
        let text = logged(LogLevel::Info, LogFormat::Json, greet);
        assert_eq!(text.lines().count(), 1);
        for part in [
            r#""level":"INFO""#,
            r#""message":"Hello a\\nb\\x1b""#,
            r#""user":"ann""#,
            r#""port":22"#,
            r#""timestamp":"20"#,
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_file_is_appended_to_and_a_bad_one_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        std::fs::write(&path, "before\n").expect("a file");
        open(&path).and_then(|mut file| file.write_all(b"after\n")).expect("a log");
        assert_eq!(std::fs::read_to_string(&path).expect("the log"), "before\nafter\n");
        let error = open(&directory.path().join("no/log")).expect_err("no such directory");
        assert!(error.to_string().contains("no/log: "), "{error}");
    }
}
