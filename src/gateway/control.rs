//! Where administrators ask a gateway how it is, and tell it what to do (`tidegate ctl`): a Unix socket that root
//! and whoever the gateway runs as may use. Who connects says one word and is answered; nothing else is read.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, bail};
use crossbeam::channel::{Receiver, Sender, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Pid, geteuid};
use serde_json::json;
use tracing::{debug, info, warn};

use super::config::ControlAt;
use super::figures::roll::roll;
use super::figures::told::{self, Program};
use super::host_keys;
use crate::limits::{
    CONTROL_CALLERS_MAX, CONTROL_LINE_BYTES_MAX, CONTROL_OUTCOME_TIME_MAX, CONTROL_STALE_MAX,
    CONTROL_TALK_TIME_MAX,
};

/// Where sockets are that nobody has given a place.
///
/// `state`: the state directory ([`host_keys::state_directory`]). `None`: there is nowhere to put them.
pub fn directory(
    is_root: bool,
    state: Option<PathBuf>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Option<PathBuf> {
    if is_root {
        return Some(PathBuf::from("/run/tidegate"));
    }
    let runtime = variable("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    runtime.map(|path| path.join("tidegate")).or_else(|| state.map(|path| path.join("run")))
}

/// What can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Reload,
    Upgrade,
}

/// What administrators hear and have said; shared with the thread that listens to them.
#[derive(Debug)]
pub struct Counter {
    program: Mutex<Program>,
    /// Who waits for what comes of an order.
    waiting: Mutex<Vec<(Order, Sender<Outcome>)>>,
    /// SIGHUP has the configuration read again.
    reloads: bool,
    callers: AtomicUsize,
}

/// What came of an order, for whoever has given it.
type Outcome = Result<String, String>;

/// The socket. It goes when this does, unless another program has put its own there.
#[derive(Debug)]
pub struct Control {
    counter: Arc<Counter>,
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// Tells our socket from another of its name.
    inode: u64,
    /// Closed to end the thread.
    _stop: io::PipeWriter,
}

impl Control {
    /// `reloads`: SIGHUP has the configuration read again.
    pub fn new(program: Program, reloads: bool) -> Control {
        let (program, waiting) = (Mutex::new(program), Mutex::default());
        let counter = Counter { program, waiting, reloads, callers: AtomicUsize::new(0) };
        Control { counter: Arc::new(counter), place: None }
    }

    /// Listens there and nowhere else. As with PidFile, a socket that cannot be made is told and stops nothing.
    pub fn listen(&mut self, at: &ControlAt) {
        self.place = None;
        let path = match at {
            ControlAt::None => return,
            ControlAt::Path(path) => Ok(path.clone()),
            ControlAt::Auto => own_path(),
        };
        match path.and_then(|path| self.open(path)) {
            Ok(place) => {
                let path = place.path.display();
                debug!(%path, "Answering tidegate ctl at {path}");
                self.place = Some(place);
            }
            Err(why) => warn!("tidegate ctl is not answered (TidegateControl): {why:#}"),
        }
    }

    fn open(&self, path: PathBuf) -> anyhow::Result<Place> {
        let about = || format!("cannot listen at {}", path.display());
        let listener = bind(&path).with_context(about)?;
        let inode = fs::symlink_metadata(&path).with_context(about)?.ino();
        let (ended, stop) = io::pipe().context("cannot make a pipe")?;
        let counter = Arc::clone(&self.counter);
        let thread = thread::Builder::new().name("control".to_owned()).stack_size(256 * 1024);
        thread.spawn(move || counter.listen(&listener, &ended)).with_context(about)?;
        Ok(Place { path, inode, _stop: stop })
    }

    /// What holds from now on.
    pub fn tell(&self, change: impl FnOnce(&mut Program)) {
        change(&mut self.counter.program());
    }

    /// What came of an order, for all who have given it. Without anybody it is not even made.
    pub fn answer(&self, order: Order, outcome: impl FnOnce() -> Outcome) {
        let mut waiting = self.counter.waiting();
        if !waiting.iter().any(|(of, _)| *of == order) {
            return;
        }
        let outcome = outcome();
        waiting.retain(|(of, to)| {
            let concerned = *of == order;
            if concerned {
                let _ = to.try_send(outcome.clone());
            }
            !concerned
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|there| there.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A place of this program's own, in a directory that nobody else can write to.
fn own_path() -> anyhow::Result<PathBuf> {
    let is_root = geteuid().is_root();
    let variable = |name: &str| std::env::var_os(name);
    let state = host_keys::state_directory(is_root, variable);
    let directory = directory(is_root, state, variable)
        .context("neither XDG_RUNTIME_DIR nor HOME says where")?;
    let about = || format!("cannot use {}", directory.display());
    DirBuilder::new().recursive(true).mode(0o700).create(&directory).with_context(about)?;
    let there = fs::symlink_metadata(&directory).with_context(about)?;
    if !there.is_dir() || there.uid() != geteuid().as_raw() || there.mode() & 0o022 != 0 {
        bail!("{} can be written by others", directory.display());
    }
    remove_stale(&directory);
    Ok(directory.join(format!("{}.sock", std::process::id())))
}

/// Takes sockets away that programs have left which were killed. Those that are there are not disturbed.
fn remove_stale(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).take(CONTROL_STALE_MAX) {
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".sock"));
        let Some(pid) = number.and_then(|number| number.parse::<u32>().ok()) else { continue };
        let refused = |why: &io::Error| why.kind() == io::ErrorKind::ConnectionRefused;
        if !Path::new(&format!("/proc/{pid}")).exists()
            && UnixStream::connect(&path).as_ref().err().is_some_and(refused)
        {
            let _ = fs::remove_file(&path);
        }
    }
}

/// In the place of whatever socket is there: an upgrade's other program goes on without. What is no socket stays.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => fs::remove_file(path)?,
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

impl Counter {
    fn program(&self) -> MutexGuard<'_, Program> {
        self.program.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<(Order, Sender<Outcome>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until the other end of the pipe is closed.
    fn listen(self: Arc<Self>, listener: &UnixListener, ended: &io::PipeReader) {
        loop {
            let mut fds =
                [listener.as_fd(), ended.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            if poll(&mut fds, PollTimeout::NONE).is_err() {
                continue;
            }
            if fds.last().is_some_and(|end| end.any().unwrap_or(true)) {
                return;
            }
            let Ok((mut caller, _)) = listener.accept() else {
                // Out of descriptors: whoever waits can wait a little.
                thread::sleep(CONTROL_TALK_TIME_MAX / 50);
                continue;
            };
            if self.callers.fetch_add(1, Ordering::Relaxed) >= CONTROL_CALLERS_MAX {
                self.callers.fetch_sub(1, Ordering::Relaxed);
                // It fits the buffer of a fresh socket.
                let _ = answer(&mut caller, Err("as many ask already as may at once".to_owned()));
                continue;
            }
            let counter = Arc::clone(&self);
            let thread = thread::Builder::new().name("caller".to_owned()).stack_size(256 * 1024);
            let serve = move || {
                let counter = Leaving(counter);
                if let Err(why) = counter.0.serve(caller) {
                    debug!(%why, "tidegate ctl: {why}");
                }
            };
            if thread.spawn(serve).is_err() {
                self.callers.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn serve(&self, mut caller: UnixStream) -> io::Result<()> {
        caller.set_read_timeout(Some(CONTROL_TALK_TIME_MAX))?;
        caller.set_write_timeout(Some(CONTROL_TALK_TIME_MAX))?;
        let uid = getsockopt(&caller, sockopt::PeerCredentials)?.uid();
        // First of all: who is answered with something unread loses the answer.
        let line = line(&mut caller)?;
        if uid != 0 && uid != geteuid().as_raw() {
            warn!(uid, "Refused user {uid} at the control socket");
            return answer(
                &mut caller,
                Err("only root and whoever the gateway runs as may ask".into()),
            );
        }
        match line.as_str() {
            "status" | "metrics" => {
                let program = self.program().clone();
                let (members, total) = roll().members();
                let text = match line.as_str() {
                    "status" => format!("{}\n", told::status(&program, &members, &total)),
                    _ => told::metrics(&program, &members, &total),
                };
                caller.write_all(text.as_bytes())
            }
            "reload" => {
                let outcome = self.order(Order::Reload, Signal::SIGHUP, uid);
                answer(&mut caller, outcome)
            }
            "upgrade" => {
                let outcome = self.order(Order::Upgrade, Signal::SIGUSR2, uid);
                answer(&mut caller, outcome)
            }
            "stop" => {
                info!(uid, "User {uid} ends the gateway (tidegate ctl stop)");
                answer(
                    &mut caller,
                    Ok("the gateway ends; sessions have TidegateDrainTime".to_owned()),
                )?;
                Ok(kill(Pid::this(), Signal::SIGTERM)?)
            }
            _ => answer(
                &mut caller,
                Err("no such order: status, metrics, reload, upgrade or stop".into()),
            ),
        }
    }

    /// Gives an order as whoever sends the signal would, and waits for what comes of it.
    fn order(&self, order: Order, signal: Signal, uid: u32) -> Outcome {
        if order == Order::Reload && !self.reloads {
            return Err("this gateway does not read its configuration again".to_owned());
        }
        if !self.program().serves {
            return Err("this program takes no connections any more".to_owned());
        }
        info!(uid, "User {uid} sends {signal} by tidegate ctl");
        let (to, outcome): (Sender<Outcome>, Receiver<Outcome>) = bounded(1);
        self.waiting().push((order, to));
        kill(Pid::this(), signal).map_err(|why| why.to_string())?;
        let late = |_| Err("the gateway has not said what came of it; its log tells".to_owned());
        outcome.recv_timeout(CONTROL_OUTCOME_TIME_MAX).unwrap_or_else(late)
    }
}

/// A caller who goes makes room for another.
struct Leaving(Arc<Counter>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.callers.fetch_sub(1, Ordering::Relaxed);
    }
}

fn line(caller: &mut UnixStream) -> io::Result<String> {
    let mut said = Vec::new();
    let mut chunk = [0; CONTROL_LINE_BYTES_MAX];
    while !said.contains(&b'\n') && said.len() < CONTROL_LINE_BYTES_MAX {
        match caller.read(&mut chunk)? {
            0 => break,
            len => said.extend_from_slice(chunk.get(..len).unwrap_or_default()),
        }
    }
    let line = said.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).trim_end().to_owned())
}

fn answer(caller: &mut UnixStream, outcome: Outcome) -> io::Result<()> {
    let document = match outcome {
        Ok(done) => json!({ "done": done }),
        Err(why) => json!({ "error": why }),
    };
    caller.write_all(format!("{document}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;

    use super::*;
    use crate::reactor;

    fn program() -> Program {
        Program { since: reactor::now(), serves: true, listeners: Vec::new(), generations: 1 }
    }

    fn ask(path: &Path, words: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).expect("it listens");
        stream.write_all(words).expect("a word");
        let _ = stream.shutdown(Shutdown::Write);
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        text
    }

    #[test]
    fn sockets_have_their_place() {
        let with = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into())
        };
        let state = || Some(PathBuf::from("/home/ann/.local/state/tidegate"));
        assert_eq!(directory(true, state(), with(&[])), Some("/run/tidegate".into()));
        let runtime = with(&[("XDG_RUNTIME_DIR", "/run/user/7")]);
        assert_eq!(directory(false, state(), runtime), Some("/run/user/7/tidegate".into()));
        let relative = with(&[("XDG_RUNTIME_DIR", "run")]);
        let below = Some("/home/ann/.local/state/tidegate/run".into());
        assert_eq!(directory(false, state(), relative), below);
        assert_eq!(directory(false, None, with(&[])), None);
    }

    #[test]
    fn whoever_asks_is_answered_and_nonsense_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control");
        let mut control = Control::new(program(), false);
        control.listen(&ControlAt::Path(path.clone()));
        assert_eq!(fs::metadata(&path).expect("it is there").mode() & 0o777, 0o600);
        assert!(ask(&path, b"status\n").contains("\"state\":\"serving\""));
        assert!(ask(&path, b"metrics").starts_with("# HELP"));
        for nonsense in
            [&b"\n"[..], b"Status\n", &[0xff; CONTROL_LINE_BYTES_MAX], b"status; stop\n", b""]
        {
            assert!(ask(&path, nonsense).contains("no such order"), "{nonsense:?}");
        }
        assert!(ask(&path, b"reload\n").contains("does not read its configuration again"));
        control.tell(|program| program.serves = false);
        assert!(ask(&path, b"upgrade\n").contains("takes no connections any more"));
        // Silent ones take no more places than there are.
        let silent: Vec<_> = (0..3 * CONTROL_CALLERS_MAX)
            .map(|_| UnixStream::connect(&path).expect("it listens"))
            .collect();
        drop(silent);
        control.listen(&ControlAt::None);
        assert!(!path.exists());
    }

    #[test]
    fn what_killed_programs_have_left_goes_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        // No process has a number that large.
        let (dead, other) = (at("4294967295.sock"), at("mine.sock"));
        let live = at(&format!("{}.sock", std::process::id()));
        for path in [&dead, &other, &live] {
            drop(UnixListener::bind(path).expect("a socket"));
        }
        remove_stale(folder.path());
        assert_eq!([dead, other, live].map(|path| path.exists()), [false, true, true]);
    }

    #[test]
    fn a_socket_that_is_anothers_by_now_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control");
        let [mut first, mut second] = [(); 2].map(|()| Control::new(program(), true));
        first.listen(&ControlAt::Path(path.clone()));
        second.listen(&ControlAt::Path(path.clone()));
        drop(first);
        assert!(ask(&path, b"status\n").contains("pid"));
        drop(second);
        assert!(!path.exists());
        fs::write(&path, "mine").expect("a file");
        let mut third = Control::new(program(), true);
        third.listen(&ControlAt::Path(path.clone()));
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "mine");
    }

    #[test]
    fn orders_are_answered_once_there_is_an_outcome() {
        let control = Control::new(program(), true);
        let (to, outcome) = bounded(1);
        control.counter.waiting().push((Order::Upgrade, to));
        control.answer(Order::Reload, || unreachable!("nobody waits for it"));
        control.answer(Order::Upgrade, || Err("no".to_owned()));
        assert_eq!(outcome.try_recv(), Ok(Err("no".to_owned())));
        control.answer(Order::Upgrade, || unreachable!("it was answered"));
    }
}
