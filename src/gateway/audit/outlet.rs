//! Where an audit's lines go.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::line::Line;
use crate::gateway::config::{AuditLog, Facility};
use crate::gateway::syslog::{Severity, Syslog};

/// The name in front of lines in the system's log. It is not the gateway's own, for ban lists read that.
const TAG: &str = "tidegate-audit";
/// A variable that tests set: where the journal listens.
pub const JOURNAL_VARIABLE: &str = "TIDEGATE_TEST_JOURNAL";
const JOURNAL: &str = "/run/systemd/journal/socket";
/// How long a line may wait for a journal that does not read; then it is lost.
const PATIENCE: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub enum Outlet {
    File(LogFile),
    Syslog(Syslog),
    Journal(Option<UnixDatagram>),
}

/// Lines that were not written, and why.
pub type Unwritten = (usize, io::Error);

impl Outlet {
    /// # Errors
    /// It is a file that cannot be opened, or none at all; the text names it.
    pub fn open(log: &AuditLog, facility: Facility) -> io::Result<Outlet> {
        Ok(match log {
            AuditLog::None => return Err(io::Error::other("TidegateAuditLog is none")),
            AuditLog::File(path) => Outlet::File(LogFile::open(path)?),
            AuditLog::Syslog => Outlet::Syslog(Syslog::new(TAG, facility)),
            AuditLog::Journald => Outlet::Journal(None),
        })
    }

    /// Writes these lines, whose texts the caller has made.
    pub fn write(&mut self, lines: &[Line], texts: &[String]) -> Result<(), Unwritten> {
        match self {
            Outlet::File(file) => file.write(texts).map_err(|why| (texts.len(), why)),
            Outlet::Syslog(syslog) => {
                texts.iter().for_each(|text| syslog.send(Severity::Info, text.as_bytes()));
                Ok(())
            }
            Outlet::Journal(socket) => {
                let sent = |(line, text): (&Line, &String)| send(socket, line, text).err();
                let faults: Vec<_> = lines.iter().zip(texts).filter_map(sent).collect();
                let count = faults.len();
                faults.into_iter().next().map_or(Ok(()), |why| Err((count, why)))
            }
        }
    }
}

/// A file that is appended to.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    /// The last line has no end.
    torn: bool,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<LogFile> {
        // Opening must not wait for whoever reads a FIFO.
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).custom_flags(flags).open(path);
        let file = file.map_err(|why| {
            io::Error::new(why.kind(), format!("TidegateAuditLog {}: {why}", path.display()))
        })?;
        Ok(LogFile { file, torn: false })
    }

    fn write(&mut self, texts: &[String]) -> io::Result<()> {
        let end = if self.torn { "\n" } else { "" };
        let bytes = format!("{end}{}\n", texts.join("\n"));
        if texts.is_empty() {
            return Ok(());
        }
        // Until all of it is there.
        self.torn = true;
        self.file.write_all(bytes.as_bytes())?;
        self.torn = false;
        Ok(())
    }
}

/// The journal's native protocol: a datagram of `NAME=value` lines.
fn send(socket: &mut Option<UnixDatagram>, line: &Line, text: &str) -> io::Result<()> {
    let user = line.entry.user.replace(char::is_control, "?");
    let event = line.event().name();
    let text = format!(
        "MESSAGE={text}\nPRIORITY=6\nSYSLOG_IDENTIFIER={TAG}\nTIDEGATE_EVENT={event}\n\
         TIDEGATE_USER={user}\n"
    );
    if let Some(open) = socket
        && open.send(text.as_bytes()).is_ok()
    {
        return Ok(());
    }
    // It has been started anew, or for the first time.
    let path = std::env::var_os(JOURNAL_VARIABLE).map_or(JOURNAL.into(), PathBuf::from);
    let open = UnixDatagram::unbound()?;
    open.set_write_timeout(Some(PATIENCE))?;
    open.connect(path)?;
    open.send(text.as_bytes())?;
    *socket = Some(open);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_its_owners_and_a_torn_line_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit");
        let mut file = LogFile::open(&path).expect("a file");
        let mode = file.file.metadata().expect("its mode").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        file.write(&["one".into(), "two".into()]).expect("written");
        file.write(&[]).expect("nothing");
        file.torn = true;
        file.write(&["three".into()]).expect("written");
        LogFile::open(&path).expect("again").write(&["four".into()]).expect("appended");
        let text = std::fs::read_to_string(&path).expect("text");
        assert_eq!(text, "one\ntwo\n\nthree\nfour\n");
        let missing = LogFile::open(&folder.path().join("none/such")).expect_err("no folder");
        assert!(missing.to_string().starts_with("TidegateAuditLog /"), "{missing}");
        assert!(Outlet::open(&AuditLog::None, Facility::Auth).is_err());
    }
}
