//! `tidegate pam`: the process in which a login's modules run.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, alarm, initgroups};
use zeroize::Zeroizing;

use super::actors::{Actors, Part, outlast_signals};
use super::library::{Account, Library, Login, Transaction};
use super::talk::{Talk, Voice};
use super::words::{Opened, Order, Prompts, Question, Reply, Stage, Step, Task, Verdict};
use super::{failed, helper};
use crate::base::wildcard_match;
use crate::connection::Secret;
use crate::gateway::signals;
use crate::gateway::socket::Messenger;
use crate::limits::{PAM_TIME_MAX, PARCEL_BYTES_MAX};

/// What is PAM's own, and no session's.
const PRIVATE_VARIABLES: [&str; 2] = ["SSH_AUTH_INFO*", "SSH_CONNECTION*"];

/// Asks what it is told to ask, and keeps the session until the account's processes have ended.
///
/// # Errors
/// It was started by hand, or the gateway is gone.
pub fn run() -> anyhow::Result<()> {
    // No debugger and no core file sees the password.
    nix::sys::prctl::set_dumpable(false)?;
    signals::unblock()?;
    // Modules and what they start have neither of the two.
    let line = Messenger::from_fd(io::stdin().as_fd().try_clone_to_owned()?);
    let log = io::stdout().as_fd().try_clone_to_owned()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    let line = Arc::new(line);
    let mut buffer = Buffer::new();
    let Ok(Some((order, _))) = buffer.next(&line) else { bail!(helper::NOT_BY_HAND) };
    let Order::Begin(question) = order else { bail!(helper::NOT_BY_HAND) };
    let user = question.user.to_owned();
    let (verdict, transaction) = consider(&question, &line);
    line.send(&Reply::Verdict(verdict).encode())?;
    let Some(mut transaction) = transaction else { return Ok(()) };
    transaction.talk().voice = Voice::Nobody;
    let mut buffer = Buffer::new();
    // Gone without a word: nobody has logged in.
    let Some((order, _)) = buffer.next(&line)? else { return Ok(()) };
    let Order::Open { uid: _, gid, open_files, auth_info } = order else {
        bail!("the gateway asks for something else")
    };
    outlast_signals()?;
    let opened = open(&mut transaction, (&user, gid), open_files, auth_info);
    line.send(&Reply::Opened(opened).encode())?;
    let Some((order, socket)) = buffer.next(&line)? else { return Ok(()) };
    let (Order::Start { gid, words, variables }, Some(socket)) = (order, socket) else {
        bail!("the gateway asks for something else")
    };
    let first = Part { gid, words, variables, socket };
    let status = Actors::new(first, log).attend(&line)?;
    // Modules have so long for the end of the session.
    alarm::set(PAM_TIME_MAX.as_secs() as u32);
    drop(transaction);
    if status.success() { Ok(()) } else { bail!("it ended with {status}") }
}

/// What comes next, in memory that is wiped.
pub struct Buffer(Zeroizing<Vec<u8>>);

impl Buffer {
    pub fn new() -> Buffer {
        Buffer(Zeroizing::new(vec![0; PARCEL_BYTES_MAX as usize]))
    }

    /// `None`: the gateway is gone.
    ///
    /// # Errors
    /// The kernel's, or it is no order.
    pub fn next(
        &mut self,
        line: &Messenger,
    ) -> anyhow::Result<Option<(Order<'_>, Option<OwnedFd>)>> {
        let Some((len, passenger)) = helper::next_message(line, &mut self.0)? else {
            return Ok(None);
        };
        let order = Order::decode(self.0.get(..len).unwrap_or_default());
        Ok(Some((order.ok().context(helper::NOT_BY_HAND)?, passenger)))
    }
}

/// The verdict, and where it was a yes what came to it.
fn consider(question: &Question<'_>, line: &Arc<Messenger>) -> (Verdict, Option<Transaction>) {
    let no = |step, text, enough| {
        (Verdict { outcome: Err(step), text, must_change: false, enough }, None)
    };
    let library = match Library::load() {
        Ok(library) => library,
        Err(why) => return no(failed(why), String::new(), false),
    };
    let voice = match question.task {
        Task::Probe | Task::Account => Voice::Nobody,
        Task::Login { password, .. } => {
            let mut text = Zeroizing::new(Vec::with_capacity(password.len() + 1));
            text.extend(password.iter().copied().filter(|byte| *byte != 0));
            text.push(0);
            Voice::Password(text)
        }
        Task::Talk { .. } => {
            let line = Arc::clone(line);
            Voice::User(Box::new(move |prompts| ask(&line, prompts)))
        }
    };
    let Question { service, user, host, connection, .. } = *question;
    let login = Login { service, user, host, connection };
    let mut transaction = match Transaction::start(library, &login, Talk::new(voice)) {
        Ok(transaction) => transaction,
        Err(step) => return no(step, String::new(), false),
    };
    if question.task == Task::Probe {
        let text = String::new();
        return (Verdict { outcome: Ok(()), text, must_change: false, enough: false }, None);
    }
    match decide(&mut transaction, question.task) {
        Err((step, enough)) => no(step, transaction.talk().take_told(), enough),
        Ok(must_change) => {
            let text = transaction.talk().take_told();
            (Verdict { outcome: Ok(()), text, must_change, enough: false }, Some(transaction))
        }
    }
}

/// Whether he gets in only to change his password; else where it was a no, and whether tries are over.
fn decide(transaction: &mut Transaction, task: Task<'_>) -> Result<bool, (Step, bool)> {
    let talks = match task {
        Task::Login { empty_permitted, .. } | Task::Talk { empty_permitted } => {
            transaction.authenticate(empty_permitted)?;
            matches!(task, Task::Talk { .. })
        }
        Task::Account | Task::Probe => false,
    };
    if !talks {
        // As for sshd: what it asks now nobody hears.
        transaction.talk().voice = Voice::Nobody;
    }
    let account = transaction.account().map_err(|step| (step, false))?;
    if account == Account::MustChange && talks {
        transaction.change_password().map_err(|step| (step, false))?;
        return Ok(false);
    }
    Ok(account == Account::MustChange)
}

/// Has the user asked, and waits for what he says for as long as the connection is there.
fn ask(line: &Messenger, prompts: Prompts) -> Option<Vec<Secret>> {
    line.send(&Reply::Prompts(prompts).encode()).ok()?;
    match Buffer::new().next(line) {
        Ok(Some((Order::Answers(answers), _))) => Some(answers),
        _ => None,
    }
}

fn open(
    transaction: &mut Transaction,
    (user, gid): (&str, u32),
    open_files: u64,
    auth_info: &[u8],
) -> Opened {
    let outcome = prepare(transaction, (user, gid), open_files, auth_info);
    let outcome = outcome.and_then(|()| transaction.open());
    let variables = transaction.variables().into_iter().filter(|variable| {
        !PRIVATE_VARIABLES.iter().any(|pattern| wildcard_match(pattern.as_bytes(), variable))
    });
    Opened { outcome, variables: variables.collect(), text: transaction.talk().take_told() }
}

/// What modules find before them: the user's groups, which they may add to, and limits as they were before
/// the gateway raised its own.
fn prepare(
    transaction: &mut Transaction,
    (user, gid): (&str, u32),
    open_files: u64,
    auth_info: &[u8],
) -> Result<(), Step> {
    let failed = |why: String| Step { stage: Stage::Credentials, why };
    let name = CString::new(user).map_err(|why| failed(why.to_string()))?;
    initgroups(&name, Gid::from_raw(gid)).map_err(|why| failed(format!("his groups: {why}")))?;
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, open_files.min(hard), hard);
    }
    let info = [b"SSH_AUTH_INFO_0=", auth_info, b"\0"].concat();
    match CStr::from_bytes_with_nul(&info) {
        Ok(info) if !auth_info.is_empty() => transaction.put(info),
        _ => Ok(()),
    }
}
