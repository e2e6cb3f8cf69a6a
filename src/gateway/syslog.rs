//! The system's log: datagrams to its socket, in the form of RFC 3164 that local loggers read.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::config::Facility;
use super::log_level;
use crate::limits::SYSLOG_BYTES_MAX;

/// A variable that tests set: they must not write into the system's log.
pub const TEST_VARIABLE: &str = "TIDEGATE_TEST_SYSLOG";
/// Where the system's logger listens.
const SOCKET: &str = "/dev/log";
/// The gateway's name in front of each line: what log shippers and ban lists look for.
pub const GATEWAY: &str = "sshd";
/// How long one line may wait for a logger that does not read; then it is lost, as a gateway must
/// not stand still for its log.
const PATIENCE: Duration = Duration::from_millis(200);
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// How urgent a line is; the number is syslog's (RFC 3164 §4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error = 3,
    Warning = 4,
    Info = 6,
    Debug = 7,
}

impl Severity {
    /// Before a line on its way to whoever sends it to the system's log: with the connection that it is
    /// about, if it is about one.
    pub fn mark(self) -> String {
        match log_level::link() {
            Some(link) => format!("<{}>{link}|", self as u8),
            None => format!("<{}>", self as u8),
        }
    }
}

/// The way to the system's logger. Copies share one socket.
#[derive(Clone, Debug)]
pub struct Syslog {
    tag: &'static str,
    facility: Facility,
    path: Arc<PathBuf>,
    /// Absent until a line is to be sent, and after a failure.
    socket: Arc<Mutex<Option<UnixDatagram>>>,
}

impl Syslog {
    /// Nothing is opened yet: a logger may start after us, and start again.
    pub fn new(tag: &'static str, facility: Facility) -> Syslog {
        let path = std::env::var_os(TEST_VARIABLE).map_or(SOCKET.into(), PathBuf::from);
        Syslog { tag, facility, path: Arc::new(path), socket: Arc::default() }
    }

    /// Finds the logger now, for a process that is about to enter another root.
    pub fn open(&self) {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        *socket = self.connect().ok();
    }

    pub const fn facility(&self) -> Facility {
        self.facility
    }

    /// A writer for one line, which is sent whole with each write.
    pub const fn line(&self, severity: Severity) -> Line<'_> {
        Line { syslog: self, severity }
    }

    /// Sends a line. One that cannot be sent is lost, as with the C library's syslog(3).
    pub fn send(&self, severity: Severity, text: &[u8]) {
        let mut bytes = self.header(severity).into_bytes();
        let room = SYSLOG_BYTES_MAX.saturating_sub(bytes.len());
        let text = text.trim_ascii_end();
        bytes.extend_from_slice(text.get(..room).unwrap_or(text));
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*socket
            && !is_broken(&open.send(&bytes))
        {
            return;
        }
        // The logger has been started anew, or for the first time.
        *socket = self.connect().ok();
        if let Some(open) = &*socket {
            let _ = open.send(&bytes);
        }
    }

    fn header(&self, severity: Severity) -> String {
        #[expect(clippy::disallowed_methods, reason = "log lines carry the time of day")]
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(now.as_secs()).unwrap_or_default();
        let priority = self.facility as u32 * 8 + severity as u32;
        let id = log_level::link().unwrap_or(std::process::id().into());
        format!("<{priority}>{} {}[{id}]: ", stamp(seconds), self.tag)
    }

    fn connect(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect(&*self.path)?;
        Ok(socket)
    }
}

/// A logger that is only slow keeps its socket.
fn is_broken(sent: &io::Result<usize>) -> bool {
    sent.as_ref().is_err_and(|why| why.kind() != io::ErrorKind::WouldBlock)
}

/// Writes lines of one severity.
#[derive(Debug)]
pub struct Line<'a> {
    syslog: &'a Syslog,
    severity: Severity,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.syslog.send(self.severity, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `Mmm dd hh:mm:ss` in local time (RFC 3164 §4.1.2).
fn stamp(seconds: i64) -> String {
    let mut time = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live values; all-zero is a valid `tm`.
    let time = unsafe {
        libc::localtime_r(&raw const seconds, time.as_mut_ptr());
        time.assume_init()
    };
    let month = usize::try_from(time.tm_mon).ok().and_then(|month| MONTHS.get(month));
    let (month, day) = (month.unwrap_or(&"Jan"), time.tm_mday);
    format!("{month} {day:>2} {:02}:{:02}:{:02}", time.tm_hour, time.tm_min, time.tm_sec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_form_that_loggers_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let syslog = Syslog {
            tag: GATEWAY,
            facility: Facility::AuthPriv,
            path: Arc::new(path.clone()),
            socket: Arc::default(),
        };
        syslog.send(Severity::Info, b"nobody listens yet");
        let mut buffer = [0; 9000];
        for _ in 0..2 {
            let _ = std::fs::remove_file(&path);
            let logger = UnixDatagram::bind(&path).expect("a logger");
            syslog.line(Severity::Error).write_all(b"Hello, you\n").expect("a line");
            let len = logger.recv(&mut buffer).expect("the line");
            let text = std::str::from_utf8(&buffer[..len]).expect("UTF-8");
            let end = format!(" sshd[{}]: Hello, you", std::process::id());
            assert!(text.starts_with("<83>") && text.ends_with(&end), "{text}");
            assert_eq!(text.len(), "<83>".len() + "Mmm dd hh:mm:ss".len() + end.len());
            // It is sent again to one that takes its place.
        }
        let logger = UnixDatagram::bind(folder.path().join("other")).expect("a logger");
        let syslog = Syslog { path: Arc::new(folder.path().join("other")), ..syslog };
        *syslog.socket.lock().expect("no panic") = None;
        syslog.send(Severity::Debug, &[b'x'; 2 * SYSLOG_BYTES_MAX]);
        assert_eq!(logger.recv(&mut buffer).expect("the line"), SYSLOG_BYTES_MAX);
    }

    #[test]
    fn days_below_ten_are_padded() {
        let text = stamp(1_700_000_000);
        assert!(text.starts_with("Nov 1"), "{text}");
        assert!(stamp(86_400 * 3).contains("  "), "{}", stamp(86_400 * 3));
    }
}
