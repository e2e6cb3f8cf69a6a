//! Programs that answer a question about a login on their standard output, under the rules of
//! AuthorizedKeysCommand (sshd_config(5)): an absolute path that only root can change, an account of
//! their own, no shell, nothing of our environment, and a limit of time and of output.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Gid, Pid, Uid, geteuid, setgid, setgroups, setuid};

use super::signals;
use crate::base::Instant;
use crate::crypto::{Certificate, PublicKey};
use crate::limits::{
    PROGRAM_ANSWER_BYTES_MAX, PROGRAM_ANSWER_TIME, PROGRAM_ANSWERS_MAX, PROGRAM_TIME_MAX,
};
use crate::reactor;
use crate::services::Account;

/// The tokens that the arguments of a program may have, besides `%%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tokens(&'static str);

/// TidegateUpstreamCommand.
pub const TARGETS: Tokens = Tokens("aCfhktuU");
/// AuthorizedKeysCommand.
pub const KEYS: Tokens = Tokens("CDfhktuU");
/// AuthorizedPrincipalsCommand.
pub const PRINCIPALS: Tokens = Tokens("CDFfhiKksTtuU");
/// The accounts that the last two run as.
pub const USER: Tokens = Tokens("u");

impl fmt::Display for Tokens {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("%%")?;
        let last = self.0.chars().count().saturating_sub(1);
        self.0.chars().enumerate().try_for_each(|(at, token)| {
            write!(out, "{}%{token}", if at == last { " and " } else { ", " })
        })
    }
}

pub(super) const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
/// How often a program that has closed its output is looked at until it ends.
const LOOK_TIME: Duration = Duration::from_millis(5);

/// The login that is asked about.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    pub account: &'a Account,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// Where the connection is routed.
    pub rdomain: Option<&'a str>,
    /// `None` where no key logs in.
    pub key: Option<&'a PublicKey>,
    /// What the key was shown in.
    pub certificate: Option<&'a Certificate>,
}

impl About<'_> {
    /// An argument with its tokens filled in: the user (`%u`), its home (`%h`) and number (`%U`), the
    /// client's address (`%a`), both ends of the connection (`%C`) and its routing domain (`%D`), the
    /// fingerprint of the key (`%f`), type (`%t`) and base64 (`%k`) of it or of its certificate; the
    /// certificate's id (`%i`) and serial number (`%s`), and fingerprint (`%F`), type (`%T`) and base64
    /// (`%K`) of the key that signed it.
    pub fn expand(&self, template: &str) -> String {
        let mut text = String::new();
        let mut rest = template;
        while let Some((plain, behind)) = rest.split_once('%') {
            text.push_str(plain);
            let mut behind = behind.chars();
            text.push_str(&behind.next().and_then(|token| self.token(token)).unwrap_or_default());
            rest = behind.as_str();
        }
        text + rest
    }

    fn token(&self, token: char) -> Option<String> {
        let (peer, local) = (self.peer.ip().to_canonical(), self.local.ip().to_canonical());
        Some(match token {
            '%' => "%".to_owned(),
            'a' => peer.to_string(),
            'C' => format!("{peer} {} {local} {}", self.peer.port(), self.local.port()),
            'D' => self.rdomain?.to_owned(),
            'F' => self.certificate?.authority().fingerprint(),
            'f' => self.key?.fingerprint(),
            'h' => self.account.home.to_string_lossy().into_owned(),
            'i' => self.certificate?.key_id().to_owned(),
            'K' => STANDARD.encode(self.certificate?.authority().blob()),
            'k' => STANDARD.encode(match self.certificate {
                Some(certificate) => certificate.blob(),
                None => self.key?.blob(),
            }),
            's' => self.certificate?.serial().to_string(),
            'T' => self.certificate?.authority().type_name().to_owned(),
            't' => match self.certificate {
                Some(certificate) => certificate.type_name().to_owned(),
                None => self.key?.type_name().to_owned(),
            },
            'u' => self.account.name.clone(),
            'U' => self.account.uid.to_string(),
            _ => return None,
        })
    }
}

/// Whether every token of a template has a meaning.
pub fn has_known_tokens(template: &str, Tokens(tokens): Tokens) -> bool {
    let mut rest = template.chars();
    while let Some(character) = rest.next() {
        let is_known = |token| token == '%' || tokens.contains(token);
        if character == '%' && !rest.next().is_some_and(is_known) {
            return false;
        }
    }
    true
}

/// Runs a program as this account, with these groups of its, and answers what it has written. Blocks for [`PROGRAM_TIME_MAX`] at
/// most.
///
/// # Errors
/// Why it could not be run, or its answer does not count; the text is for the log.
pub fn run(words: &[String], account: &Account, groups: &[u32]) -> Result<Vec<u8>, String> {
    let Some((program, arguments)) = words.split_first() else {
        return Err("there is no program".to_owned());
    };
    check_path(Path::new(program))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs([("PATH", PATH), ("USER", &account.name), ("LOGNAME", &account.name)])
        .env("HOME", &account.home)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0);
    if geteuid().is_root() {
        let groups = groups.iter().map(|group| Gid::from_raw(*group)).collect::<Vec<_>>();
        let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
        let become_it = move || {
            setgroups(&groups)?;
            setgid(gid)?;
            setuid(uid)?;
            Ok(())
        };
        // SAFETY: between fork and exec system calls are made, on memory prepared before.
        unsafe { command.pre_exec(become_it) };
    } else if account.uid != geteuid().as_raw() {
        return Err(format!("only root can start it as {}", account.name));
    }
    // SAFETY: between fork and exec a system call is made.
    unsafe { command.pre_exec(signals::unblock) };
    let child = command.spawn().map_err(|why| format!("cannot start: {why}"))?;
    Running::new(child, PROGRAM_TIME_MAX).answer(reactor::now().after(PROGRAM_TIME_MAX))
}

/// What programs have answered in the last [`PROGRAM_ANSWER_TIME`]; a failure is no answer, and is asked
/// about again.
#[derive(Debug, Default)]
pub struct Answers {
    known: Mutex<HashMap<Question, Answer>>,
}

/// About whom, as which account, and in which words.
type Question = (Box<str>, u32, Box<[String]>);
/// When it was given, and in which words.
type Answer = (Instant, Arc<[u8]>);

impl Answers {
    /// Runs a program, or remembers what it has answered to the same words about the same `user` a
    /// moment ago. Blocks.
    ///
    /// # Errors
    /// As [`run`].
    pub fn ask(
        &self,
        user: &str,
        words: Vec<String>,
        account: &Account,
        groups: &[u32],
    ) -> Result<Arc<[u8]>, String> {
        let question = (user.into(), account.uid, words.into_boxed_slice());
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = |at: Instant| reactor::now().since(at) < PROGRAM_ANSWER_TIME;
        if let Some((_, answer)) = known().get(&question).filter(|(at, _)| is_fresh(*at)) {
            return Ok(Arc::clone(answer));
        }
        // Not under the lock: a slow program is one login's business.
        let answer: Arc<[u8]> = run(&question.2, account, groups)?.into();
        let mut known = known();
        if known.len() >= PROGRAM_ANSWERS_MAX {
            known.retain(|_, (at, _)| is_fresh(*at));
        }
        if known.len() < PROGRAM_ANSWERS_MAX {
            known.insert(question, (reactor::now(), Arc::clone(&answer)));
        }
        Ok(answer)
    }
}

/// Whoever can change the program, or put another in its place, decides about logins.
fn check_path(path: &Path) -> Result<(), String> {
    if !path.is_absolute() {
        return Err("it must be an absolute path".to_owned());
    }
    let real = fs::canonicalize(path).map_err(|why| why.to_string())?;
    for part in real.ancestors() {
        let metadata = fs::metadata(part).map_err(|why| format!("{}: {why}", part.display()))?;
        let owner = metadata.uid();
        let is_ours = owner == 0 || owner == geteuid().as_raw();
        if !is_ours || metadata.mode() & 0o022 != 0 {
            let part = part.display();
            return Err(format!(
                "{part} must belong to root, and nobody else may be able to write to it"
            ));
        }
    }
    Ok(())
}

/// Ended, with all that it has started, when it is dropped before its end was seen.
pub(super) struct Running {
    child: Option<Child>,
    /// How long it may take; for what is said when it takes longer.
    time: Duration,
}

impl Running {
    pub(super) const fn new(child: Child, time: Duration) -> Running {
        Running { child: Some(child), time }
    }

    fn late(&self) -> String {
        format!("it did not answer in {} seconds", self.time.as_secs())
    }

    /// What it writes until it ends, in order, and before `until`.
    pub(super) fn answer(&mut self, until: Instant) -> Result<Vec<u8>, String> {
        let child = self.child.as_mut().ok_or("it is gone")?;
        let mut stdout = child.stdout.take().ok_or("it has no output")?;
        let mut answer = Vec::new();
        let mut space = [0; 4096];
        loop {
            let left = until.since(reactor::now());
            if left.is_zero() {
                return Err(self.late());
            }
            let milliseconds = u16::try_from(left.as_millis()).unwrap_or(u16::MAX).max(1);
            let mut wanted = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
            match poll(&mut wanted, PollTimeout::from(milliseconds)) {
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(why) => return Err(why.to_string()),
            }
            let count = stdout.read(&mut space).map_err(|why| why.to_string())?;
            if count == 0 {
                break;
            }
            answer.extend_from_slice(space.get(..count).unwrap_or_default());
            if answer.len() > PROGRAM_ANSWER_BYTES_MAX {
                return Err(format!("it has written more than {PROGRAM_ANSWER_BYTES_MAX} bytes"));
            }
        }
        let status = self.end(until)?;
        if !status.success() {
            return Err(format!("it ended with {status}"));
        }
        Ok(answer)
    }

    fn end(&mut self, until: Instant) -> Result<ExitStatus, String> {
        loop {
            let child = self.child.as_mut().ok_or("it is gone")?;
            if let Some(status) = child.try_wait().map_err(|why| why.to_string())? {
                self.child = None;
                return Ok(status);
            }
            if until <= reactor::now() {
                return Err(self.late());
            }
            std::thread::sleep(LOOK_TIME);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if let Ok(pid) = i32::try_from(child.id()) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;
    use crate::crypto::{KeyKind, PrivateKey};
    use crate::gateway::accounts;

    fn me() -> Account {
        accounts::by_uid(geteuid().as_raw()).expect("it answers").expect("an account")
    }

    fn shell(script: &str) -> Result<String, String> {
        let words = ["/bin/sh", "-c", script].map(str::to_owned);
        let answer = run(&words, &me(), &[me().gid])?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    #[test]
    fn programs_can_be_ended_in_good_order() {
        // As all threads of a gateway have it; a signal that other tests need not have.
        let _blocked = signals::Signals::catch(&[Signal::SIGURG]).expect("a descriptor");
        // Of what the shell starts: the shell itself blocks them while it forks.
        let blocked = shell("grep SigBlk: /proc/self/status").expect("it runs");
        assert_eq!(blocked, "SigBlk:\t0000000000000000\n");
    }

    #[test]
    fn answers_count_only_whole() {
        assert_eq!(shell("echo $USER; echo err >&2").as_deref(), Ok(&*format!("{}\n", me().name)));
        assert_eq!(shell("cd; env | grep -c TIDE; true").as_deref(), Ok("0\n"));
        assert_eq!(shell("echo out; exit 3"), Err("it ended with exit status: 3".to_owned()));
        let error = shell("head -c 1000000 /dev/zero").expect_err("too much");
        assert!(error.contains("more than"), "{error}");
        // What it leaves behind holds nobody up once it has let go of the output.
        assert_eq!(shell("sleep 5 >/dev/null & echo in").as_deref(), Ok("in\n"));
        // One that does not end is ended, here at once.
        let mut command = Command::new("/bin/sleep");
        let child = command.arg("1000").process_group(0).stdout(Stdio::piped()).spawn();
        let mut running = Running::new(child.expect("it starts"), PROGRAM_TIME_MAX);
        let late = running.late();
        assert_eq!(running.answer(Instant::ZERO), Err(late));
        drop(running);
    }

    #[test]
    fn answers_are_remembered_for_a_moment() {
        let folder = tempfile::tempdir().expect("a folder");
        let (count, answers) = (folder.path().join("count"), Answers::default());
        let ask = |user: &str, script: &str| {
            let script = format!("echo x >> {}; {script}", count.display());
            let words = ["/bin/sh", "-c", &*script].map(str::to_owned);
            answers.ask(user, words.to_vec(), &me(), &[me().gid])
        };
        let runs = || fs::read_to_string(&count).expect("a count").lines().count();
        assert_eq!(ask("ann", "echo in").as_deref(), Ok(&b"in\n"[..]));
        assert_eq!(ask("ann", "echo in").as_deref(), Ok(&b"in\n"[..]));
        assert_eq!(runs(), 1);
        for (more, (user, script)) in [("bob", "echo in"), ("ann", "echo out")].iter().enumerate() {
            assert!(ask(user, script).is_ok());
            assert_eq!(runs(), 2 + more, "of somebody else, or something else");
        }
        for _ in 0..2 {
            assert!(ask("ann", "exit 1").is_err());
        }
        assert_eq!(runs(), 5, "a failure is not remembered");
        let mut known = answers.known.lock().expect("the lock");
        known.values_mut().for_each(|(at, _)| *at = Instant::ZERO);
        for n in 0..PROGRAM_ANSWERS_MAX {
            known
                .insert((n.to_string().into(), 0, Box::default()), (Instant::ZERO, Arc::default()));
        }
        drop(known);
        assert!(ask("ann", "echo in").is_ok());
        assert_eq!(runs(), 6, "what is old does not count");
        assert_eq!(answers.known.lock().expect("the lock").len(), 1, "and makes room");
    }

    #[test]
    fn programs_that_others_can_change_are_not_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("program");
        fs::write(&program, "#!/bin/sh\necho mine\n").expect("a file");
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("a mode");
        // The folder for temporary files is everybody's.
        let words = [program.to_string_lossy().into_owned()];
        let error = run(&words, &me(), &[]).expect_err("not safe");
        assert!(error.contains("must belong to root"), "{error}");
        let error = run(&["sh".to_owned()], &me(), &[]).expect_err("relative");
        assert!(error.contains("absolute"), "{error}");
        assert!(run(&["/nonexistent/program".to_owned()], &me(), &[]).is_err());
        assert!(run(&[], &me(), &[]).is_err());
        if geteuid().is_root() {
            let nobody = accounts::by_name("nobody").expect("it answers").expect("an account");
            let words = ["/usr/bin/id".to_owned(), "-G".to_owned()];
            let own = run(&words, &nobody, &[nobody.gid]);
            assert_eq!(own, Ok(format!("{}\n", nobody.gid).into_bytes()));
            let more = run(&words, &nobody, &[nobody.gid, 4711]);
            assert_eq!(more, Ok(format!("{} 4711\n", nobody.gid).into_bytes()));
        } else {
            let root = accounts::by_uid(0).expect("it answers").expect("an account");
            let error = run(&["/usr/bin/id".to_owned()], &root, &[0]).expect_err("not root");
            assert_eq!(error, "only root can start it as root");
        }
    }

    #[test]
    fn tokens_are_filled_in_once() {
        let key = PrivateKey::generate(KeyKind::Ed25519).expect("a key");
        let account = Account {
            name: "%h".to_owned(),
            uid: 7,
            gid: 7,
            home: PathBuf::from("/home/ann"),
            shell: PathBuf::new(),
        };
        let (peer, local) = (([10, 0, 0, 1], 50_000).into(), ([10, 0, 0, 2], 22).into());
        let key = key.public();
        let mut about = About {
            account: &account,
            peer,
            local,
            rdomain: None,
            key: Some(key),
            certificate: None,
        };
        assert_eq!(about.expand("%u at %a, %%U %U"), "%h at 10.0.0.1, %U 7");
        assert_eq!(about.expand("%C"), "10.0.0.1 50000 10.0.0.2 22");
        let line = key.to_openssh_line("");
        assert_eq!(about.expand("%t %k"), line.trim_end());
        assert_eq!(about.expand("[%D%F%i%K%s%T]"), "[]", "nothing of these is known");
        about.rdomain = Some("vrf-blue");
        assert_eq!(about.expand("%D"), "vrf-blue");
        for (template, known) in [("%u%%", true), ("%", false), ("%s", false), ("plain", true)] {
            assert_eq!(has_known_tokens(template, KEYS), known, "{template}");
        }
        assert!(has_known_tokens("%C%D%F%f%h%i%K%k%s%T%t%u%U%%", PRINCIPALS));
        assert_eq!(USER.to_string(), "%% and %u");
        assert_eq!(KEYS.to_string(), "%%, %C, %D, %f, %h, %k, %t, %u and %U");
    }
}
