//! Where gateways listen for their administrators, and asking one of them.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::geteuid;

use super::flags::Which;
use super::text::path;
use crate::gateway::control;
use crate::gateway::host_keys::state_directory;
use crate::limits::{CTL_ANSWER_BYTES_MAX, CTL_CONNECT_TIME, CTL_GATEWAYS_MAX};
use crate::reactor::now;

/// A gateway's control socket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The gateway's first process; `None`: its socket was named.
    pub pid: Option<u32>,
    pub path: PathBuf,
}

impl Place {
    /// What it is called where several are told of.
    pub fn name(&self) -> String {
        match self.pid {
            Some(pid) => format!("gateway {pid}"),
            None => format!("the gateway at {}", path(&self.path)),
        }
    }
}

/// What one answered, or why it did not.
pub type Answers = Vec<(Place, Result<Vec<u8>, String>)>;

enum Trouble {
    /// Nobody listens there any more.
    Gone,
    Other(String),
}

/// Asks each gateway that is meant; those of which only the socket is left are passed over.
///
/// # Errors
/// None is there: where they were looked for, and what helps.
pub fn ask_all(which: &Which, request: &str, time: Duration) -> Result<Answers, String> {
    let (places, looked) = match which {
        Which::Socket(path) => (vec![Place { pid: None, path: path.clone() }], path.clone()),
        Which::Pid(pid) => {
            let path = directory()?.join(format!("{pid}.sock"));
            (vec![Place { pid: Some(*pid), path: path.clone() }], path)
        }
        Which::All => {
            let directory = directory()?;
            (list(&directory)?, directory)
        }
    };
    let mut answers = Answers::new();
    for place in places {
        match ask(&place.path, request, time) {
            Ok(answer) => answers.push((place, Ok(answer))),
            Err(Trouble::Gone) => {}
            Err(Trouble::Other(why)) => answers.push((place, Err(why))),
        }
    }
    if answers.is_empty() { Err(absent(which, &looked)) } else { Ok(answers) }
}

/// Asks one.
///
/// # Errors
/// Why it did not answer.
pub fn ask_one(place: &Place, request: &str, time: Duration) -> Result<Vec<u8>, String> {
    ask(&place.path, request, time).map_err(|trouble| match trouble {
        Trouble::Gone => "it has ended".to_owned(),
        Trouble::Other(why) => why,
    })
}

/// Where the gateways of whoever asks have their sockets.
fn directory() -> Result<PathBuf, String> {
    let is_root = geteuid().is_root();
    let variable = |name: &str| std::env::var_os(name);
    let found = control::directory(is_root, state_directory(is_root, variable), variable);
    found.ok_or_else(|| {
        "neither XDG_RUNTIME_DIR nor HOME says where gateways have their sockets; name one with -S"
            .to_owned()
    })
}

/// The sockets there are, by number of the process; no directory has none.
fn list(directory: &Path) -> Result<Vec<Place>, String> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(why) => return Err(format!("{}: {why}", path(directory))),
    };
    let place = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.strip_suffix(".sock")?.parse().ok()?;
        Some(Place { pid: Some(pid), path: entry.path() })
    };
    let places = entries.flatten().filter_map(place);
    let mut places: Vec<Place> = places.take(CTL_GATEWAYS_MAX).collect();
    places.sort();
    Ok(places)
}

fn absent(which: &Which, looked: &Path) -> String {
    let looked = path(looked);
    let mut text = match which {
        Which::All => format!("no gateway answers: none listens at a socket in {looked}"),
        Which::Socket(_) | Which::Pid(_) => format!("no gateway listens at {looked}"),
    };
    text += "\n  `tidegate serve` starts one; -S names the socket of one that has another place \
             (TidegateControl)";
    let roots = control::directory(true, None, |_| None);
    if !geteuid().is_root() && roots.is_some_and(|roots| roots.exists()) {
        text += "\n  root's gateways answer root: sudo tidegate ctl";
    }
    text
}

/// One that ends while it is asked says nothing, and is gone then.
fn ask(path: &Path, request: &str, time: Duration) -> Result<Vec<u8>, Trouble> {
    let answer = talk(open(path)?, request, time);
    let has_said = answer.as_ref().is_ok_and(|answer| !answer.is_empty());
    if !has_said && matches!(open(path), Err(Trouble::Gone)) { Err(Trouble::Gone) } else { answer }
}

fn talk(mut stream: UnixStream, request: &str, time: Duration) -> Result<Vec<u8>, Trouble> {
    let other = |what: &str, why: std::io::Error| Trouble::Other(format!("{what}: {why}"));
    let until = now().after(time);
    stream.set_write_timeout(Some(time)).map_err(|why| other("its socket", why))?;
    match stream.write_all(format!("{request}\n").as_bytes()) {
        // It may have answered without having listened: that it is busy, for one.
        Err(why) if why.kind() != ErrorKind::BrokenPipe => {
            return Err(other("it hears nothing", why));
        }
        _ => {}
    }
    let (mut answer, mut piece) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let left = until.since(now());
        if left.is_zero() {
            let seconds = time.as_secs();
            return Err(Trouble::Other(format!("it does not answer within {seconds} s")));
        }
        stream.set_read_timeout(Some(left)).map_err(|why| other("its socket", why))?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(answer),
            // So it ends where the request was not even read. An answer that is cut off is no answer.
            Err(why) if why.kind() == ErrorKind::ConnectionReset && !answer.is_empty() => {
                return Ok(answer);
            }
            Ok(len) => answer.extend_from_slice(piece.get(..len).unwrap_or_default()),
            Err(why) if is_early(why.kind()) => {}
            Err(why) => return Err(other("its answer is lost", why)),
        }
        if answer.len() > CTL_ANSWER_BYTES_MAX {
            return Err(Trouble::Other("its answer is longer than any gateway's".to_owned()));
        }
    }
}

/// There may be more later.
const fn is_early(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Connects, and does not wait for ever where many others do.
fn open(path: &Path) -> Result<UnixStream, Trouble> {
    let other = |errno: Errno| Trouble::Other(errno.desc().to_owned());
    let address = UnixAddr::new(path).map_err(other)?;
    let kind = (AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC);
    let socket = socket(kind.0, kind.1, kind.2, None).map_err(other)?;
    let time = TimeVal::milliseconds(CTL_CONNECT_TIME.as_millis() as i64);
    setsockopt(&socket, sockopt::SendTimeout, &time).map_err(other)?;
    match connect(socket.as_raw_fd(), &address) {
        Ok(()) => Ok(UnixStream::from(socket)),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Err(Trouble::Gone),
        Err(Errno::EAGAIN) => Err(Trouble::Other("it takes no connection".to_owned())),
        Err(Errno::EACCES | Errno::EPERM) => {
            Err(Trouble::Other("its socket is not for this user".to_owned()))
        }
        Err(errno) => Err(other(errno)),
    }
}
