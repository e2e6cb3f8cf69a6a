//! PAM (`UsePAM`, sshd_config(5)). Its modules are other people's code, run with root's rights, and may
//! take their time or never return. So each login has a process of its own for them (`tidegate pam`), which
//! root's process starts, asks through a socket pair, and kills when it is late. It lasts as long as the
//! login's session: what modules have changed of the process holds for whatever it starts, so it starts
//! the process that acts for the account, and closes the session when that has ended. At an upgrade it stays,
//! and starts another one, of the new program, to which the connection goes on.

mod actors;
mod library;
pub mod porter;
mod session;
mod talk;
mod words;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

use anyhow::bail;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::geteuid;
use zeroize::Zeroizing;

pub use self::session::run;
pub use self::words::{Opened, Order, Prompts, Question, Reply, Stage, Step, Task, Verdict};
use super::config::{Config, Who};
use super::helper::process::Process;
use super::helper::{self, reaper};
use super::program::PATH;
use super::socket::Messenger;
use crate::limits::{
    ENDING_CHECK, KILLED_PENDING_MAX, PAM_PASSWORD_BYTES_MAX, PAM_TIME_MAX, PARCEL_BYTES_MAX,
};
use crate::{reactor, services};

/// Refuses to begin where PAM is to be asked and cannot be. Answers what may not be meant.
///
/// # Errors
/// We are not root, libpam is missing, or it can make nothing of a service.
pub fn check(config: &Config) -> anyhow::Result<Vec<String>> {
    if !config.login.use_pam {
        return Ok(Vec::new());
    }
    let place = place(config);
    if !geteuid().is_root() {
        bail!(
            "{place}UsePAM yes: only root can ask PAM about others; start the gateway as root, or write \
             UsePAM no"
        );
    }
    let mut told = Vec::new();
    for (service, line) in config.pam_services() {
        let place = line.map_or_else(|| place.clone(), |line| format!("{line}: "));
        let question = Question { service, user: "", host: "", connection: "", task: Task::Probe };
        let answer = Dialogue::begin(question).and_then(|(_, reply)| judged(reply)?.outcome);
        match answer {
            Ok(()) if is_missing(service) => told.push(format!(
                "{place}/etc/pam.d/{service} is not there: PAM goes by its service `other` instead"
            )),
            Ok(()) => {}
            Err(Step { stage: Stage::Start, why }) => bail!(
                "{place}UsePAM yes: PAM cannot go by its service {service}: {why}; the system's log says \
                 what is wrong with /etc/pam.d/{service}, or with what it includes"
            ),
            Err(Step { why, .. }) => bail!("{place}UsePAM yes: {why}"),
        }
    }
    Ok(told)
}

/// The same for whoever only looks at a configuration. It may be root's, and then nobody else can know
/// whether PAM works where it will be used.
///
/// # Errors
/// As those of [`check`], for root.
pub fn check_ahead(config: &Config) -> anyhow::Result<Vec<String>> {
    if geteuid().is_root() || !config.login.use_pam {
        return check(config);
    }
    let place = place(config);
    Ok(vec![format!(
        "{place}UsePAM yes: only root can ask PAM about others; whether it can be asked was not tried"
    )])
}

/// The line that wants PAM.
fn place(config: &Config) -> String {
    let place = config.place_of("UsePAM", &Who::default());
    place.map_or(String::new(), |place| format!("{place}: "))
}

/// PAM looks in the second folder too.
fn is_missing(service: &str) -> bool {
    ["/etc/pam.d", "/usr/lib/pam.d"].iter().all(|folder| {
        let found = Path::new(folder).join(service).symlink_metadata();
        found.is_err_and(|why| why.kind() == io::ErrorKind::NotFound)
    })
}

/// A login's process, which is killed when this goes, if it is our own. Nobody waits for that: modules may hang
/// where they cannot be killed, and whoever lets go of this may hold what other logins need.
#[derive(Debug)]
pub struct Dialogue {
    process: Keeper,
    line: Messenger,
}

#[derive(Debug)]
enum Keeper {
    Own(Process),
    /// An earlier program has started it: its number, and what names it (a pidfd). Without us it closes the
    /// session by itself, in its time.
    Adopted(u32, OwnedFd),
}

impl Dialogue {
    /// Starts a process and asks, for [`PAM_TIME_MAX`] at most.
    ///
    /// # Errors
    /// It could not be asked; the text is for the log.
    pub fn begin(question: Question<'_>) -> Result<(Dialogue, Reply), Step> {
        let hang = reaper::pending();
        if hang >= KILLED_PENDING_MAX {
            return Err(failed(format!("{hang} processes were killed and have not ended")));
        }
        let started = |why: io::Error| failed(format!("cannot start the process: {why}"));
        let (line, theirs) = Messenger::pair().map_err(started)?;
        // What the account's process writes goes where ours does; modules write nowhere.
        let log = io::stderr().as_fd().try_clone_to_owned().map_err(started)?;
        let child = Command::new("/proc/self/exe")
            .arg0("tidegate")
            .arg("pam")
            .env_clear()
            .env("PATH", PATH)
            .current_dir("/")
            .stdin(OwnedFd::from(theirs))
            .stdout(log)
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(started)?;
        let process = Keeper::Own(Process::leader(child, "asks PAM", question.user));
        let dialogue = Dialogue { process, line };
        let reply = dialogue.ask(&Order::Begin(question))?;
        Ok((dialogue, reply))
    }

    /// Asks, and waits for [`PAM_TIME_MAX`] at most.
    ///
    /// # Errors
    /// It does not answer; the text is for the log.
    pub fn ask(&self, order: &Order<'_>) -> Result<Reply, Step> {
        let gone = |_| failed("the process that asks PAM has ended".to_owned());
        self.line.try_send(&order.encode(), None).map_err(gone)?;
        let until = reactor::now().after(PAM_TIME_MAX);
        loop {
            let left = until.since(reactor::now());
            if left.is_zero() {
                let seconds = PAM_TIME_MAX.as_secs();
                return Err(failed(format!("PAM did not answer in {seconds} seconds")));
            }
            let readable = helper::is_readable(&self.line, left);
            if readable.map_err(|why| failed(why.to_string()))? {
                break;
            }
        }
        let mut buffer = Zeroizing::new(vec![0; PARCEL_BYTES_MAX as usize]);
        let received = helper::next_message(&self.line, &mut buffer);
        let Some((len, _)) = received.map_err(|why| failed(why.to_string()))? else {
            return Err(failed("the process that asks PAM has ended".to_owned()));
        };
        Reply::decode(buffer.get(..len).unwrap_or_default())
            .map_err(|_| failed("it answers what nobody understands".to_owned()))
    }

    /// Opens the session. Blocks.
    ///
    /// # Errors
    /// It could not be asked; the text is for the log.
    pub fn open(&self, order: &Order<'_>) -> Result<Opened, Step> {
        match self.ask(order)? {
            Reply::Opened(opened) => Ok(opened),
            _ => Err(failed("it answers what was not asked".to_owned())),
        }
    }

    /// The one that an earlier program has handed on by [`Dialogue::pieces`].
    pub const fn adopted(pid: u32, process: OwnedFd, line: OwnedFd) -> Dialogue {
        let line = Messenger::from_fd(line);
        Dialogue { process: Keeper::Adopted(pid, process), line }
    }

    /// Has it start the process that acts for the account, of this program. Never waits.
    ///
    /// # Errors
    /// It does not listen.
    pub fn start(&self, order: &Order<'_>, theirs: &Messenger) -> io::Result<()> {
        if let Keeper::Adopted(..) = self.process {
            let program = File::open("/proc/self/exe")?;
            self.line.try_send(&Order::Program.encode(), Some(program.as_fd()))?;
        }
        self.line.try_send(&order.encode(), Some(theirs.as_owned_fd().as_fd()))
    }

    pub fn pid(&self) -> u32 {
        match &self.process {
            Keeper::Own(process) => process.id(),
            Keeper::Adopted(pid, _) => *pid,
        }
    }

    /// Whether another program is about to go on with it. Never waits.
    ///
    /// # Errors
    /// It does not listen.
    pub fn expect(&self, expected: bool) -> io::Result<()> {
        self.line.try_send(&Order::Expect(expected).encode(), None)
    }

    /// What another program goes on with it by: the way to it, and what names it.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn pieces(&self) -> io::Result<[OwnedFd; 2]> {
        let process = match &self.process {
            Keeper::Own(process) => services::watch_process(process.id().cast_signed())?,
            Keeper::Adopted(_, process) => process.try_clone()?,
        };
        Ok([self.line.as_owned_fd().try_clone()?, process])
    }

    /// Another program goes on with it.
    pub fn let_go(self) {
        match self.process {
            Keeper::Own(process) => process.let_go(),
            Keeper::Adopted(..) => {}
        }
    }

    /// Ends the process that acts for the account. The session is closed then.
    pub fn kill(&self) {
        let _ = self.line.try_send(&Order::Kill.encode(), None);
    }

    /// Waits for so long; `None`: it is still there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn end(&mut self, time: Duration) -> io::Result<Option<ExitStatus>> {
        match &mut self.process {
            Keeper::Own(process) => process.wait(time),
            Keeper::Adopted(_, process) => wait(process, time),
        }
    }
}

/// Waits so long for the end of a process that another one waits for. `None`: it is still there.
fn wait(process: &OwnedFd, time: Duration) -> io::Result<Option<ExitStatus>> {
    for _ in 0..time.as_millis() / ENDING_CHECK.as_millis() {
        if let Some(status) = services::told_status(process) {
            return Ok(Some(ExitStatus::from_raw(status)));
        }
        thread::sleep(ENDING_CHECK);
    }
    // Nobody asks how it ended, as where the first process of a container waits for none.
    let mut watch = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    Ok((poll(&mut watch, PollTimeout::ZERO)? > 0).then(ExitStatus::default))
}

/// What is known of a login between the questions about it: one connection's, and one question is asked at
/// a time.
#[derive(Debug, Default)]
pub struct Seat(Mutex<Known>);

/// What PAM has said of a login, and the process that has asked it.
#[derive(Debug, Default)]
pub struct Known {
    pub dialogue: Option<Dialogue>,
    /// Modules ask, and their process waits for answers.
    pub talk: Option<Dialogue>,
    /// He was told something, and hears then that it was a no.
    pub no: Option<Step>,
    /// It has said that the account may be used.
    pub verdict: Option<Verdict>,
    /// No module wants to hear more.
    pub enough: bool,
}

impl Known {
    /// What the user has not been told yet.
    pub fn take_text(&mut self) -> String {
        self.verdict.as_mut().map(|verdict| std::mem::take(&mut verdict.text)).unwrap_or_default()
    }
}

impl Seat {
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// # Errors
/// It is no verdict.
pub fn judged(reply: Reply) -> Result<Verdict, Step> {
    match reply {
        Reply::Verdict(verdict) => Ok(verdict),
        _ => Err(failed("it answers what was not asked".to_owned())),
    }
}

/// Nobody could be asked.
pub const fn failed(why: String) -> Step {
    Step { stage: Stage::Process, why }
}

/// A password that is nobody's, in the place of one that must not let in: PAM is asked all the same, so
/// that it takes as long (SECURITY case 65).
pub fn fake(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let junk = b"\x08\n\r\x7fof nobody".iter().cycle();
    Zeroizing::new(junk.take(password.len().min(PAM_PASSWORD_BYTES_MAX)).copied().collect())
}

/// Whether a module could be given it as it is.
pub fn fits(password: &[u8]) -> bool {
    password.len() <= PAM_PASSWORD_BYTES_MAX && !password.contains(&0)
}

/// As much of it as there is room for.
pub fn cut(text: &str, bytes_max: usize) -> &str {
    let end = (0..=text.len().min(bytes_max)).rev().find(|end| text.is_char_boundary(*end));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fake_is_no_password_and_as_long() {
        for len in [0, 1, 12, 100] {
            let password = vec![b'x'; len];
            let fake = fake(&password);
            assert_eq!(fake.len(), len);
            assert!(fits(&fake) && (len == 0 || *fake != password));
        }
        assert!(!fits(b"a\0b") && !fits(&[b'x'; PAM_PASSWORD_BYTES_MAX + 1]));
        assert_eq!(fake(&[b'x'; PAM_PASSWORD_BYTES_MAX + 1]).len(), PAM_PASSWORD_BYTES_MAX);
    }

    #[test]
    fn texts_are_cut_between_letters() {
        assert_eq!((cut("né", 2), cut("né", 3), cut("né", 9), cut("", 0)), ("n", "né", "né", ""));
    }
}
