//! Who is logged in at a terminal, and who was: /run/utmp, /var/log/wtmp and /var/log/lastlog, kept
//! as sshd keeps them, for who(1), last(1) and PrintLastLog; and in /var/log/btmp who did not get in by what
//! he typed, for lastb(1). Files that are not there are not made.
//!
//! No file is locked: any account may hold a lock on them, and would then hold up logins. Records
//! of wtmp are appended whole; those of utmp have places of their own.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::offset_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use tracing::warn;

use crate::limits::CLIENT_NAMES_MAX;
use crate::services::Account;
use crate::services::lastlog::{self, LastLogin};

const RECORD_BYTES: usize = size_of::<libc::utmpx>();

/// A session at a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The shell, or what runs in its place.
    pub pid: u32,
    /// The terminal without `/dev/`, as `pts/3`.
    pub line: String,
    pub user: String,
    pub uid: u32,
    /// `None` where it cannot be vouched for.
    pub peer: Option<IpAddr>,
    /// The client's name, once it is looked for among those that were told.
    pub host: Option<Arc<str>>,
}

/// A session that has begun at a terminal.
#[derive(Clone, Copy, Debug)]
pub struct Begun<'a> {
    pub pid: u32,
    /// Its path.
    pub terminal: &'a str,
    pub account: &'a Account,
    pub peer: SocketAddr,
}

/// Hears of sessions at terminals when they begin, and of what is typed and does not let in.
pub trait Recorder: Send + Sync {
    fn begun(&self, session: &Begun<'_>);

    /// `host`: the client's name, where such names are looked up.
    fn failed(&self, user: &str, peer: IpAddr, host: Option<&str>);

    /// A client's name was looked up (UseDNS): records have it in the place of the address.
    fn named(&self, peer: IpAddr, host: &Arc<str>);
}

/// The records of this machine. Only root can keep them.
pub struct Logbook {
    epoll: Epoll,
    /// Sessions that have not ended, by the mark that the kernel gives back.
    open: Mutex<Open>,
    /// The last clients' names, the newest last.
    names: Mutex<VecDeque<(IpAddr, Arc<str>)>>,
}

#[derive(Default)]
struct Open {
    next: u64,
    sessions: BTreeMap<u64, (Login, OwnedFd)>,
}

impl Recorder for Logbook {
    fn begun(&self, session: &Begun<'_>) {
        let Account { name, uid, .. } = session.account;
        let line = session.terminal.trim_start_matches("/dev/").to_owned();
        let (user, peer) = (name.clone(), Some(session.peer.ip()));
        self.begin(Login { pid: session.pid, line, user, uid: *uid, peer, host: None });
    }

    fn failed(&self, user: &str, peer: IpAddr, host: Option<&str>) {
        let mut record = Record::new(libc::LOGIN_PROCESS, std::process::id(), NO_TERMINAL);
        record.set_user(user);
        record.set_host(Some(peer), host);
        record.set_address(Some(peer));
        if let Err(why) = append_failure(&lastlog::path("btmp"), &record.bytes()) {
            warn!(%why, "a login that failed could not be recorded: {why}");
        }
    }

    fn named(&self, peer: IpAddr, host: &Arc<str>) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.retain(|(known, _)| *known != peer);
        if names.len() >= CLIENT_NAMES_MAX {
            names.pop_front();
        }
        names.push_back((peer, Arc::clone(host)));
    }
}

/// Sshd has the address in the place of a name that is longer (sshd(8), -u), though not of logins that failed.
const HOST_BYTES_MAX: usize = 65;

/// In the place of a terminal, of a login that failed.
const NO_TERMINAL: &str = "ssh:notty";

impl Logbook {
    /// Starts the thread that notes when sessions end.
    ///
    /// # Errors
    /// The system lacks a descriptor or a thread.
    pub fn open() -> anyhow::Result<Arc<Logbook>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let logbook = Arc::new(Logbook { epoll, open: Mutex::default(), names: Mutex::default() });
        let watched = Arc::clone(&logbook);
        thread::Builder::new()
            .name("logbook".to_owned())
            .spawn(move || watched.watch())
            .context("cannot start the thread that records logins")?;
        Ok(logbook)
    }

    /// Notes that a session has begun, and its end when its process has ended.
    pub fn begin(&self, mut login: Login) {
        login.host = login.peer.and_then(|peer| self.name_of(peer));
        let host = host_of(login.peer, login.host.as_deref());
        let last = LastLogin { time: now().0, line: login.line.clone(), host };
        let mut open = self.sessions();
        // Whoever had the terminal has it no more, though his process may be there.
        let before = open.sessions.iter().find(|(_, (known, _))| known.line == login.line);
        if let Some(mark) = before.map(|(mark, _)| *mark) {
            self.end(&mut open, mark);
        }
        let outcome = note(&login, true).and_then(|()| lastlog::write(login.uid, &last));
        tell(&login, outcome.and_then(|()| self.follow(&mut open, login.clone())));
    }

    /// The sessions that are open are another process's from now on, which notes their ends.
    pub fn leave(&self) -> Vec<(Login, OwnedFd)> {
        std::mem::take(&mut self.sessions().sessions).into_values().collect()
    }

    /// Notes the end of a session that another process has left to this one.
    pub fn go_on(&self, login: Login, process: OwnedFd) {
        let mut open = self.sessions();
        let mark = open.next;
        open.next += 1;
        let watched = self.epoll.add(&process, EpollEvent::new(EpollFlags::EPOLLIN, mark));
        tell(&login, watched.map_err(io::Error::from));
        open.sessions.insert(mark, (login, process));
    }

    /// The sessions that are open end with this process.
    pub fn close(&self) {
        for (login, _) in std::mem::take(&mut self.sessions().sessions).into_values() {
            tell(&login, note(&login, false));
        }
    }

    fn name_of(&self, peer: IpAddr) -> Option<Arc<str>> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let found = names.iter().rev().find(|(known, _)| *known == peer);
        let found = found.map(|(_, host)| Arc::clone(host));
        found.filter(|host| host.len() <= HOST_BYTES_MAX)
    }

    fn sessions(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There are no more of them than terminals.
    fn follow(&self, open: &mut Open, login: Login) -> io::Result<()> {
        // SAFETY: takes two numbers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, login.pid, 0) };
        if fd < 0 {
            // It has ended already.
            return note(&login, false);
        }
        // SAFETY: the kernel has just made this descriptor for us alone.
        let process = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        if !Path::new("/dev").join(&login.line).exists() {
            return note(&login, false);
        }
        let mark = open.next;
        open.next += 1;
        self.epoll.add(&process, EpollEvent::new(EpollFlags::EPOLLIN, mark))?;
        open.sessions.insert(mark, (login, process));
        Ok(())
    }

    fn end(&self, open: &mut Open, mark: u64) {
        if let Some((login, process)) = open.sessions.remove(&mark) {
            let _ = self.epoll.delete(&process);
            tell(&login, note(&login, false));
        }
    }

    fn watch(&self) {
        let mut ended = [EpollEvent::empty(); 16];
        loop {
            let count = self.epoll.wait(&mut ended, EpollTimeout::NONE).unwrap_or(0);
            for event in ended.iter().take(count) {
                self.end(&mut self.sessions(), event.data());
            }
        }
    }
}

/// The terminal of this path, without `/dev/`, unless it is another account's. A session may have
/// ended, and its terminal with it, before it is recorded.
pub fn line_of(path: &str, uid: u32) -> Option<String> {
    let line = path.strip_prefix("/dev/")?;
    let number = line.strip_prefix("pts/")?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let is_free = match std::fs::metadata(path) {
        Ok(terminal) => terminal.uid() == uid,
        Err(why) => why.kind() == io::ErrorKind::NotFound,
    };
    (is_number && is_free).then(|| line.to_owned())
}

fn tell(login: &Login, outcome: io::Result<()>) {
    if let Err(why) = outcome {
        let (user, line) = (&login.user, &login.line);
        warn!(%user, %line, %why, "a login of {user} at {line} could not be recorded: {why}");
    }
}

/// Writes a session's begin or end to utmp and wtmp; no end where the terminal has been somebody else's since.
fn note(login: &Login, begins: bool) -> io::Result<()> {
    let (utmp, new) = (lastlog::path("utmp"), record(login, begins).bytes());
    if !begins && is_anothers(&utmp, &new)? {
        return Ok(());
    }
    put_in_place(&utmp, &new)?;
    let last = match begins {
        true => record(login, true),
        // As logwtmp(3) writes it, by which sshd ends sessions.
        false => Record::new(libc::DEAD_PROCESS, login.pid, &login.line),
    };
    append(&lastlog::path("wtmp"), &last.bytes())
}

fn append(path: &Path, record: &[u8; RECORD_BYTES]) -> io::Result<()> {
    use io::Write;
    match existing(OpenOptions::new().append(true), path)? {
        Some(mut file) => file.write_all(record),
        None => Ok(()),
    }
}

/// To a file that nobody else reads: people type their passwords for their names.
fn append_failure(path: &Path, record: &[u8; RECORD_BYTES]) -> io::Result<()> {
    use io::Write;
    let Some(mut file) = existing(OpenOptions::new().append(true), path)? else { return Ok(()) };
    let found = file.metadata()?;
    if !found.is_file() || found.uid() != 0 || found.mode() & 0o017 != 0 {
        let why = format!("{} is not root's alone and its group's", path.display());
        return Err(io::Error::other(why));
    }
    file.write_all(record)
}

/// Over the record of the same terminal, or behind all others.
fn put_in_place(path: &Path, record: &[u8; RECORD_BYTES]) -> io::Result<()> {
    let Some(file) = existing(OpenOptions::new().read(true).write(true), path)? else {
        return Ok(());
    };
    match find(&file, record) {
        Some((place, _)) => file.write_all_at(record, place),
        None => append(path, record),
    }
}

/// What there is of the same terminal, and where.
fn find(file: &File, record: &[u8; RECORD_BYTES]) -> Option<(u64, [u8; RECORD_BYTES])> {
    let mut known = [0; RECORD_BYTES];
    let mut place = 0;
    while file.read_exact_at(&mut known, place).is_ok() {
        if is_of_terminal(&known) && id_of(&known) == id_of(record) {
            return Some((place, known));
        }
        place += RECORD_BYTES as u64;
    }
    None
}

/// Another session at the same terminal is there, whoever has recorded it.
fn is_anothers(path: &Path, record: &[u8; RECORD_BYTES]) -> io::Result<bool> {
    let Some(file) = existing(OpenOptions::new().read(true), path)? else { return Ok(false) };
    let Some((_, known)) = find(&file, record) else { return Ok(false) };
    let there = |pid: i32| pid > 0 && kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH);
    let user = kind_of(&known) == Some(libc::USER_PROCESS);
    Ok(user && pid_of(&known) != pid_of(record) && pid_of(&known).is_some_and(there))
}

fn existing(how: &mut OpenOptions, path: &Path) -> io::Result<Option<File>> {
    match how.custom_flags(libc::O_NOFOLLOW).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(why),
    }
}

const ID: usize = offset_of!(libc::utmpx, ut_id);

fn id_of(record: &[u8; RECORD_BYTES]) -> Option<&[u8]> {
    record.get(ID..ID + 4)
}

const PID: usize = offset_of!(libc::utmpx, ut_pid);

fn pid_of(record: &[u8; RECORD_BYTES]) -> Option<i32> {
    record.get(PID..)?.first_chunk().map(|pid| i32::from_ne_bytes(*pid))
}

fn kind_of(record: &[u8; RECORD_BYTES]) -> Option<i16> {
    record.first_chunk().map(|kind| i16::from_ne_bytes(*kind))
}

/// Records of the machine's starts and the like have no terminal.
fn is_of_terminal(record: &[u8; RECORD_BYTES]) -> bool {
    let kind = kind_of(record);
    let kinds = [libc::INIT_PROCESS, libc::LOGIN_PROCESS, libc::USER_PROCESS, libc::DEAD_PROCESS];
    kind.is_some_and(|kind| kinds.contains(&kind))
}

/// A record as fields and as bytes; in the bytes between its fields zeros stay.
#[repr(C)]
union Layout {
    bytes: [u8; RECORD_BYTES],
    fields: libc::utmpx,
}

struct Record(Layout);

impl Record {
    fn new(kind: libc::c_short, pid: u32, line: &str) -> Record {
        let mut record = Record(Layout { bytes: [0; RECORD_BYTES] });
        let fields = record.fields();
        fields.ut_type = kind;
        fields.ut_pid = pid as i32;
        put(&mut fields.ut_line, line);
        let (seconds, micros) = now();
        fields.ut_tv.tv_sec = seconds as _;
        fields.ut_tv.tv_usec = micros as _;
        record
    }

    fn fields(&mut self) -> &mut libc::utmpx {
        // SAFETY: the fields are numbers, of which all bits zero are valid ones.
        unsafe { &mut self.0.fields }
    }

    fn set_user(&mut self, user: &str) {
        put(&mut self.fields().ut_user, user);
    }

    /// The name, or the address as a text.
    fn set_host(&mut self, peer: Option<IpAddr>, host: Option<&str>) {
        put(&mut self.fields().ut_host, &host_of(peer, host));
    }

    fn set_address(&mut self, peer: Option<IpAddr>) {
        let mut address = [0; 16];
        let octets = match peer.map(|peer| peer.to_canonical()) {
            Some(IpAddr::V4(ip)) => ip.octets().to_vec(),
            Some(IpAddr::V6(ip)) => ip.octets().to_vec(),
            None => Vec::new(),
        };
        address.iter_mut().zip(octets).for_each(|(to, from)| *to = from);
        for (word, bytes) in self.fields().ut_addr_v6.iter_mut().zip(address.as_chunks::<4>().0) {
            *word = i32::from_ne_bytes(*bytes);
        }
    }

    fn bytes(self) -> [u8; RECORD_BYTES] {
        // SAFETY: every byte had a value before the fields were set.
        unsafe { self.0.bytes }
    }
}

/// What utmp has of a session; of one that has ended what logout(3) leaves there.
fn record(login: &Login, begins: bool) -> Record {
    let kind = if begins { libc::USER_PROCESS } else { libc::DEAD_PROCESS };
    let mut record = Record::new(kind, login.pid, &login.line);
    // The last four letters, as sshd abbreviates it.
    let id = login.line.len().saturating_sub(4);
    put(&mut record.fields().ut_id, login.line.get(id..).unwrap_or_default());
    if begins {
        record.set_user(&login.user);
        record.set_host(login.peer, login.host.as_deref());
    }
    record.set_address(login.peer);
    record
}

fn host_of(peer: Option<IpAddr>, host: Option<&str>) -> String {
    let address = || peer.map(|peer| peer.to_canonical().to_string()).unwrap_or_default();
    host.map_or_else(address, str::to_owned)
}

/// Cut to the field; the rest of it stays zero.
fn put(field: &mut [libc::c_char], text: &str) {
    field.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from as libc::c_char);
}

/// Seconds since 1970, and microseconds.
#[expect(clippy::disallowed_methods, reason = "records bear the time of day")]
fn now() -> (i64, u32) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_secs() as i64, now.subsec_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(line: &str) -> Login {
        let (user, peer) = ("ann".to_owned(), "192.0.2.7".parse().ok());
        Login { pid: 7, line: line.to_owned(), user, uid: 1000, peer, host: None }
    }

    #[test]
    fn each_terminal_has_one_place_in_utmp() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("utmp");
        put_in_place(&path, &record(&login("pts/3"), true).bytes()).expect("nothing to do");
        assert!(!path.exists(), "what the system does not keep is not made");
        // The machine's own start has the letters of no terminal.
        let mut boot = [0; RECORD_BYTES];
        boot[..2].copy_from_slice(&libc::BOOT_TIME.to_ne_bytes());
        boot[ID..ID + 4].copy_from_slice(b"ts/3");
        std::fs::write(&path, boot).expect("a file");
        for (line, begins, records) in
            [("pts/3", true, 2), ("pts/13", true, 3), ("pts/3", false, 3), ("pts/3", true, 3)]
        {
            put_in_place(&path, &record(&login(line), begins).bytes()).expect("a record");
            let bytes = std::fs::read(&path).expect("the file");
            assert_eq!(bytes.len(), records * RECORD_BYTES, "{line} {begins}");
            assert_eq!(bytes[..RECORD_BYTES], boot);
        }
    }

    /// SECURITY case 130: nobody ends the record of whoever has had his terminal since.
    #[test]
    fn case_130_an_end_is_noted_of_ones_own_session_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("utmp");
        std::fs::write(&path, "").expect("a file");
        let of = |pid, begins| record(&Login { pid, ..login("pts/3") }, begins).bytes();
        let (here, gone) = (std::process::id(), i32::MAX as u32);
        assert!(!is_anothers(&path, &of(7, false)).expect("read"), "nobody's");
        for (pid, anothers) in [(here, true), (gone, false)] {
            put_in_place(&path, &of(pid, true)).expect("a record");
            assert_eq!(is_anothers(&path, &of(7, false)).expect("read"), anothers, "{pid}");
            assert!(!is_anothers(&path, &of(pid, false)).expect("read"), "its own");
        }
        put_in_place(&path, &of(here, false)).expect("a record");
        assert!(!is_anothers(&path, &of(7, false)).expect("read"), "it has ended");
    }

    #[test]
    fn only_terminals_of_the_account_are_taken_for_its_own() {
        for path in ["/dev/null", "/dev/pts/../null", "/dev/pts/", "/dev/pts/x", "pts/1", "/etc"] {
            assert_eq!(line_of(path, 0), None, "{path}");
        }
        assert_eq!(line_of("/dev/pts/1048576", 0).as_deref(), Some("pts/1048576"));
    }
}
