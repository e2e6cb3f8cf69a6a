//! Recordings of sessions (TidegateRecord): a thread for each connection that is recorded hears of its
//! sessions through a socket, writes a file for each, and answers what it has written. As root the threads
//! are root's process's, and so are the files: the process of an account has its end of the socket alone.

pub mod cast;
pub mod screen;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::unistd::geteuid;
use tracing::{error, info};

use self::cast::Writer;
use super::audit::{self, Audit, Entry, Speaker};
use super::batch;
use crate::base::{Instant, Utc, escape};
use crate::limits::{
    CHANNELS_MAX, RECORDER_ANSWER_BYTES_MAX, RECORDER_STACK_BYTES, RECORDERS_MAX,
    RECORDERS_OF_ACCOUNT_MAX, RECORDING_NAMES_MAX, RECORDING_USER_CHARS_MAX, TAPE_FRAME_BYTES_MAX,
};
use crate::reactor;
use crate::services::tape::Screen;
use crate::services::tape::frame::{Answer, Frame};
use crate::services::{Grant, Record};

/// Who may write what others may not read or change.
const MODE: u32 = 0o600;
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Where shards find the recorders of their connections.
pub trait Recorders: Send + Sync {
    /// The way to the recorder of this connection.
    ///
    /// # Errors
    /// There is none; the text says why.
    fn recorder(&self, link: u64, peer: SocketAddr, grant: &Grant) -> Result<OwnedFd, String>;

    /// The connection is over.
    fn ended(&self, _link: u64) {}
}

/// The way to the recorder of a connection that is to have one, for the process that serves it. Where there
/// is none, that finds none with the connection, and does what is to be done then.
pub fn way(
    recorders: &dyn Recorders,
    link: u64,
    peer: SocketAddr,
    grant: &Grant,
) -> Option<OwnedFd> {
    if !grant.rules.record.is_on() {
        return None;
    }
    let told = |why: &String| {
        let user = &grant.account.name;
        error!(link, user, why, "sessions of {user} cannot be recorded: {why}");
    };
    recorders.recorder(link, peer, grant).inspect_err(told).ok()
}

/// Those that another process has started, by connection: its own word for who may be recorded where is
/// not asked for.
#[derive(Debug, Default)]
pub struct Received(Mutex<BTreeMap<u64, OwnedFd>>);

impl Received {
    pub fn add(&self, link: u64, socket: OwnedFd) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(link, socket);
    }
}

impl Recorders for Received {
    fn recorder(&self, link: u64, _peer: SocketAddr, _grant: &Grant) -> Result<OwnedFd, String> {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&link);
        found.ok_or_else(|| "no recorder has come with the connection".to_owned())
    }

    fn ended(&self, link: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&link);
    }
}

/// Starts recorders in this process.
#[derive(Debug)]
pub struct Studio {
    audit: Option<Arc<Audit>>,
    rooms: Arc<Rooms>,
}

impl Studio {
    pub fn new(audit: Option<Arc<Audit>>) -> Studio {
        Studio { audit, rooms: Arc::default() }
    }
}

/// For so many recorders there is room.
#[derive(Debug, Default)]
struct Rooms {
    /// Recorders that run, by account. One whose disk stands still runs until that goes on, whatever has
    /// become of its connection.
    taken: Mutex<BTreeMap<String, usize>>,
}

/// One recorder's.
#[derive(Debug)]
struct Room {
    rooms: Arc<Rooms>,
    user: String,
}

impl Rooms {
    fn taken(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// There is none, or none for this account; the text says which.
    fn take(self: &Arc<Rooms>, user: &str) -> Result<Room, String> {
        let mut taken = self.taken();
        if taken.values().sum::<usize>() >= RECORDERS_MAX {
            return Err(format!("{RECORDERS_MAX} connections are recorded, and no more can be"));
        }
        let own = taken.entry(user.to_owned()).or_default();
        if *own >= RECORDERS_OF_ACCOUNT_MAX {
            let most = RECORDERS_OF_ACCOUNT_MAX;
            return Err(format!("{most} connections of this account are, and no more can be"));
        }
        *own += 1;
        Ok(Room { rooms: Arc::clone(self), user: user.to_owned() })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut taken = self.rooms.taken();
        if let Some(own) = taken.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.user);
            }
        }
    }
}

impl Recorders for Studio {
    fn recorder(&self, link: u64, peer: SocketAddr, grant: &Grant) -> Result<OwnedFd, String> {
        let kind = SockType::SeqPacket;
        let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|why| why.to_string())?;
        let room = self.rooms.take(&grant.account.name)?;
        let Record { directory, .. } = &grant.rules.record;
        // Some may begin before the ends of others are told.
        let sessions_max = grant
            .limits
            .map_or(CHANNELS_MAX, |limits| (limits.sessions_max as usize).saturating_mul(2));
        let session = self.audit.as_ref().map(|audit| audit.session(link));
        let recorder = Recorder {
            link,
            peer,
            user: grant.account.name.clone(),
            session: session.unwrap_or_else(|| format!("{link:x}")),
            directory: PathBuf::from(directory),
            audit: self.audit.clone(),
            recordings: BTreeMap::new(),
            sessions_max: sessions_max.min(CHANNELS_MAX),
            _room: room,
        };
        thread::Builder::new()
            .name("recorder".to_owned())
            .stack_size(RECORDER_STACK_BYTES)
            .spawn(move || recorder.run(&ours))
            .map_err(|why| why.to_string())?;
        Ok(theirs)
    }
}

/// Writes the recordings of one connection.
struct Recorder {
    link: u64,
    peer: SocketAddr,
    user: String,
    session: String,
    directory: PathBuf,
    audit: Option<Arc<Audit>>,
    /// By channel.
    recordings: BTreeMap<u32, Recording>,
    /// Sessions that the connection may have at one time: each has a file open.
    sessions_max: usize,
    _room: Room,
}

/// A file that is being written.
struct Recording {
    path: PathBuf,
    file: File,
    writer: Writer,
    since: Instant,
    /// Bytes of whole lines.
    len: u64,
}

impl Recorder {
    fn run(mut self, socket: &OwnedFd) {
        // Somebody waits to see what he has typed.
        batch::leave();
        let mut buffer = vec![0; TAPE_FRAME_BYTES_MAX + 1];
        let mut taken = 0;
        let mut why = "the connection ended".to_owned();
        loop {
            let len = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(0) => break,
                Ok(len) => len,
                // Whoever left answers unread may have said something before, which is still to come.
                Err(nix::Error::EINTR | nix::Error::ECONNRESET) => continue,
                Err(_) => break,
            };
            let answer = match self.take(buffer.get(..len).unwrap_or_default()) {
                Ok(()) => {
                    taken += 1;
                    Answer::Taken(taken)
                }
                Err(failed) => {
                    why = failed;
                    Answer::Failed(why.clone())
                }
            };
            let mut bytes = answer.encode();
            bytes.truncate(RECORDER_ANSWER_BYTES_MAX);
            // Nobody may be there to hear it any more: what he has shown is recorded all the same.
            let _ = send(socket.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL);
            if matches!(answer, Answer::Failed(_)) {
                break;
            }
        }
        while let Some((channel, recording)) = self.recordings.pop_first() {
            self.end(channel, recording, &why);
        }
    }

    /// # Errors
    /// It was not written; the text says why.
    fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        if bytes.len() > TAPE_FRAME_BYTES_MAX {
            return Err("a message over its limit".to_owned());
        }
        let frame = Frame::decode(bytes).map_err(|why| why.to_string())?;
        let channel = match frame {
            Frame::Begin { channel, columns, rows, terminal, what } => {
                let screen = Screen { columns, rows, terminal: terminal.into() };
                return self.begin(channel, &screen, what);
            }
            Frame::End { channel } => {
                return match self.recordings.remove(&channel) {
                    Some(recording) => {
                        self.end(channel, recording, "the session ended");
                        Ok(())
                    }
                    None => Err("a session that has not begun".to_owned()),
                };
            }
            Frame::Output { channel, .. }
            | Frame::Resize { channel, .. }
            | Frame::Status { channel, .. }
            | Frame::Signal { channel, .. } => channel,
        };
        let recording = self.recordings.get_mut(&channel).ok_or("a session that has not begun")?;
        recording.write(&frame)
    }

    fn begin(&mut self, channel: u32, screen: &Screen, what: &str) -> Result<(), String> {
        if self.recordings.contains_key(&channel) {
            return Err("a session that begins twice".to_owned());
        }
        if self.recordings.len() >= self.sessions_max {
            return Err("more sessions than the connection may have".to_owned());
        }
        let directory = self.directory.display().to_string();
        let named = |why: io::Error| format!("TidegateRecordDirectory {directory}: {why}");
        check(&self.directory).map_err(named)?;
        #[expect(clippy::disallowed_methods, reason = "recordings have the time of day")]
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let stem = format!("{}-{}-{}-{channel}", stamp(at), plain(&self.user), self.session);
        let (path, file) = create(&self.directory, &stem).map_err(named)?;
        let (ip, port) = (self.peer.ip(), self.peer.port());
        let user = escape(self.user.as_bytes());
        let title = format!("{user} from {ip} port {port}, session {}", self.session);
        let (writer, header) = Writer::begin(at.as_secs(), screen, &title, what);
        let mut recording = Recording { path, file, writer, since: reactor::now(), len: 0 };
        recording.put(&header)?;
        let shown = recording.path.display();
        let link = self.link;
        info!(link, %user, path = %shown, "Recording a session of {user} to {shown}");
        self.note(audit::Event::RecordStart, channel, |entry| {
            entry.text(audit::Field::Path, recording.path.as_os_str().as_encoded_bytes())
        });
        self.recordings.insert(channel, recording);
        Ok(())
    }

    fn end(&self, channel: u32, mut recording: Recording, why: &str) {
        let rest = recording.writer.rest(recording.time());
        let why = match recording.put(&rest) {
            Ok(()) => why.to_owned(),
            Err(failed) => failed,
        };
        let (link, path) = (self.link, recording.path.display());
        let user = escape(self.user.as_bytes());
        info!(link, %user, %path, why, "Recorded a session of {user} to {path}: {why}");
        self.note(audit::Event::RecordEnd, channel, |entry| {
            entry
                .text(audit::Field::Path, recording.path.as_os_str().as_encoded_bytes())
                .text(audit::Field::Reason, &why)
                .number(audit::Field::BytesWritten, recording.len)
        });
    }

    fn note(&self, event: audit::Event, channel: u32, more: impl FnOnce(Entry) -> Entry) {
        if let Some(audit) = &self.audit {
            let entry = Entry::new(event, self.link, self.peer).of_user(&self.user);
            let entry = more(entry.number(audit::Field::Channel, channel.into()));
            audit.note(Speaker::Gateway, entry);
        }
    }
}

impl Recording {
    fn time(&self) -> Duration {
        reactor::now().since(self.since)
    }

    fn write(&mut self, frame: &Frame<'_>) -> Result<(), String> {
        let after = self.time();
        let line = match *frame {
            Frame::Output { bytes, .. } => self.writer.output(after, bytes),
            Frame::Resize { columns, rows, .. } => self.writer.resize(after, columns, rows),
            Frame::Status { code, .. } => self.writer.status(after, code),
            Frame::Signal { name, .. } => self.writer.signal(after, name),
            Frame::Begin { .. } | Frame::End { .. } => return Ok(()),
        };
        self.put(&line)
    }

    /// A line that is not whole goes again, as far as it can.
    fn put(&mut self, line: &str) -> Result<(), String> {
        match self.file.write_all(line.as_bytes()) {
            Ok(()) => {
                self.len += line.len() as u64;
                Ok(())
            }
            Err(why) => {
                let _ = self.file.set_len(self.len);
                let path = self.path.display();
                error!(%path, %why, "The recording {path} is cut off: {why}");
                Err(format!("{path}: {why}"))
            }
        }
    }
}

/// Nobody but root and us may put files there or take them away.
fn check(directory: &Path) -> io::Result<()> {
    let about = std::fs::metadata(directory)?;
    if !about.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
    }
    let owned = about.uid() == 0 || about.uid() == geteuid().as_raw();
    if !owned || about.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(io::Error::other("others can write there: chown and chmod 700 it"));
    }
    Ok(())
}

fn create(directory: &Path, stem: &str) -> io::Result<(PathBuf, File)> {
    let mut options = OpenOptions::new();
    options.append(true).create_new(true).mode(MODE).custom_flags(libc::O_NOFOLLOW);
    for number in 0..RECORDING_NAMES_MAX {
        let more = if number == 0 { String::new() } else { format!(".{number}") };
        let path = directory.join(format!("{stem}{more}.cast"));
        match options.open(&path) {
            Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {}
            opened => return opened.map(|file| (path, file)),
        }
    }
    Err(io::Error::from(io::ErrorKind::AlreadyExists))
}

/// The time as file names have it: 20261129T135539Z.
fn stamp(at: Duration) -> String {
    Utc(at.as_secs()).to_string().replace(['-', ':'], "")
}

/// A user's name as part of a file's: no slashes, and no dot in front.
fn plain(user: &str) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '@');
    user.chars().map(|c| if keep(c) { c } else { '_' }).take(RECORDING_USER_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder(folder: &Path) -> Recorder {
        Recorder {
            link: 1,
            peer: SocketAddr::from(([192, 0, 2, 1], 7)),
            user: "ann".to_owned(),
            session: "1".to_owned(),
            directory: folder.to_owned(),
            audit: None,
            recordings: BTreeMap::new(),
            sessions_max: 2,
            _room: Arc::<Rooms>::default().take("ann").expect("a room"),
        }
    }

    /// Nobody is unrecorded, or kept out, because somebody else has many connections.
    #[test]
    fn case_105_one_account_does_not_take_all_recorders() {
        let rooms = Arc::<Rooms>::default();
        let mut all: Vec<Room> =
            (0..RECORDERS_OF_ACCOUNT_MAX).map(|_| rooms.take("ann").expect("a room")).collect();
        let refused = rooms.take("ann").expect_err("one too many");
        assert!(refused.contains("of this account"), "{refused}");
        for number in 0..RECORDERS_MAX - all.len() {
            let user = format!("user{}", number % 100);
            all.push(rooms.take(&user).expect("others have theirs"));
        }
        let refused = rooms.take("zoe").expect_err("none is left");
        assert!(!refused.contains("of this account"), "{refused}");
        all.remove(0);
        drop(rooms.take("ann").expect("one has ended"));
        drop(all);
        assert!(rooms.taken().is_empty(), "nothing is kept of those that have none");
    }

    /// Each recording is a file that root's process has open for whoever acts for an account.
    #[test]
    fn case_105_a_connection_has_so_many_recordings_and_no_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut recorder = recorder(folder.path());
        let screen = Screen::default();
        assert_eq!(recorder.begin(1, &screen, ""), Ok(()));
        assert_eq!(recorder.begin(2, &screen, ""), Ok(()));
        let refused = recorder.begin(3, &screen, "").expect_err("one too many");
        assert!(refused.contains("more sessions"), "{refused}");
        let ended = recorder.recordings.remove(&1).expect("the first");
        recorder.end(1, ended, "the session ended");
        assert_eq!(recorder.begin(3, &screen, ""), Ok(()));
        assert_eq!(folder.path().read_dir().expect("files").count(), 3);
    }

    /// Whoever does something and is gone at once is on record too.
    #[test]
    fn case_105_what_was_said_before_a_connection_ended_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let kind = SockType::SeqPacket;
        let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)
            .expect("a socket pair");
        let channel = 3;
        for frame in [
            Frame::Begin { channel, columns: 80, rows: 24, terminal: "xterm", what: "" },
            Frame::Output { channel, bytes: b"first" },
            Frame::Output { channel, bytes: b"last" },
            Frame::Status { channel, code: 7 },
        ] {
            send(theirs.as_raw_fd(), &frame.encode(), MsgFlags::empty()).expect("sent");
        }
        // An answer that is never read: the kernel then says first that the connection was reset.
        send(ours.as_raw_fd(), b"answer", MsgFlags::empty()).expect("sent");
        drop(theirs);
        recorder(folder.path()).run(&ours);
        let file = folder.path().read_dir().expect("files").next().expect("a file").expect("it");
        let text = std::fs::read_to_string(file.path()).expect("text");
        let events: Vec<&str> =
            text.lines().skip(1).filter_map(|line| line.split_once(',')).map(|e| e.1).collect();
        assert_eq!(events, ["\"o\",\"first\"]", "\"o\",\"last\"]", "\"x\",\"7\"]"]);
    }
}
