//! When and from where an account last logged in at a terminal: /var/log/lastlog (lastlog(8)), one
//! record an account at the place that its uid gives.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::base::escape;

/// Tests name a folder in which lastlog, wtmp and utmp are; nobody else needs another one.
pub const TEST_VARIABLE: &str = "TIDEGATE_TEST_LOGINS";

// <lastlog.h>: seconds since 1970, a terminal's name and a host's, cut or filled up with zeros.
#[cfg(target_arch = "x86_64")]
type Seconds = i32;
#[cfg(not(target_arch = "x86_64"))]
type Seconds = i64;
const TIME_BYTES: usize = size_of::<Seconds>();
const LINE_BYTES: usize = 32;
const HOST_BYTES: usize = 256;
const RECORD_BYTES: usize = TIME_BYTES + LINE_BYTES + HOST_BYTES;

/// A login that was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastLogin {
    /// Seconds since 1970.
    pub time: i64,
    /// The terminal, without /dev/.
    pub line: String,
    /// Empty for a login from the machine itself.
    pub host: String,
}

/// One of the files in which logins are recorded.
pub fn path(name: &str) -> PathBuf {
    match std::env::var_os(TEST_VARIABLE) {
        Some(folder) => Path::new(&folder).join(name),
        None if name == "utmp" => "/run/utmp".into(),
        None => Path::new("/var/log").join(name),
    }
}

/// The last login of an account, if there is a record of one.
pub fn read(uid: u32) -> Option<LastLogin> {
    let mut bytes = [0; RECORD_BYTES];
    File::open(path("lastlog")).ok()?.read_exact_at(&mut bytes, place(uid)).ok()?;
    let (time, rest) = bytes.split_first_chunk::<TIME_BYTES>()?;
    let (line, host) = rest.split_at_checked(LINE_BYTES)?;
    let time = i64::from(Seconds::from_ne_bytes(*time));
    (time != 0).then(|| LastLogin { time, line: text(line), host: text(host) })
}

/// Records a login, where lastlog is kept.
///
/// # Errors
/// The file cannot be written; that there is none is no error.
pub fn write(uid: u32, login: &LastLogin) -> io::Result<()> {
    let file = match OpenOptions::new().write(true).open(path("lastlog")) {
        Ok(file) => file,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(why),
    };
    let time = Seconds::try_from(login.time).unwrap_or(Seconds::MAX);
    let line = login.line.bytes().chain(std::iter::repeat(0)).take(LINE_BYTES);
    let host = login.host.bytes().chain(std::iter::repeat(0)).take(HOST_BYTES);
    let record: Vec<u8> = time.to_ne_bytes().into_iter().chain(line).chain(host).collect();
    file.write_all_at(&record, place(uid))
}

/// What sshd says of it before a shell begins; nothing where there is no record.
pub fn message(uid: u32) -> Option<String> {
    let LastLogin { time, host, .. } = read(uid)?;
    let time = local(time)?;
    // The record may hold what a name server said.
    let host = escape(host.as_bytes()).to_string();
    let from = if host.is_empty() { String::new() } else { format!(" from {host}") };
    Some(format!("Last login: {time}{from}\n"))
}

fn place(uid: u32) -> u64 {
    u64::from(uid) * RECORD_BYTES as u64
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or(&[])).into_owned()
}

/// In the form of ctime(3), without its line end.
fn local(time: i64) -> Option<String> {
    // The C library writes 26 bytes, and more only for years past 9999.
    let mut buffer = [0u8; 64];
    // SAFETY: both pointers are valid for the call, and the buffer is longer than any date.
    let written = unsafe { libc::ctime_r(&time, buffer.as_mut_ptr().cast()) };
    (!written.is_null()).then(|| text(&buffer).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_the_size_and_the_place_of_the_system() {
        assert_eq!(RECORD_BYTES, if TIME_BYTES == 4 { 292 } else { 296 });
        assert_eq!(place(u32::MAX), u64::from(u32::MAX) * RECORD_BYTES as u64);
    }

    #[test]
    fn dates_are_written_as_ctime_writes_them() {
        let date = local(1_000_000_000).expect("a date");
        assert!(date.starts_with("S") && date.ends_with(" 2001") && date.len() == 24, "{date}");
        assert_eq!(local(i64::MAX), None);
        assert_eq!(text(b"pts/3\0\0x"), "pts/3");
    }
}
