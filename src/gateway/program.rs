//! Programs that answer a question about a login on their standard output, under the rules of
//! AuthorizedKeysCommand (sshd_config(5)): an absolute path that only root can change, an account of
//! their own, no shell, nothing of our environment, and a limit of time and of output.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};

use crate::base::Instant;
use crate::crypto::PublicKey;
use crate::limits::{PROGRAM_ANSWER_BYTES_MAX, PROGRAM_TIME_MAX};
use crate::reactor;
use crate::services::Account;

/// What the arguments may have tokens for.
pub const TOKENS: &str = "%%, %a, %C, %f, %h, %k, %t, %u and %U";
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
/// How often a program that has closed its output is looked at until it ends.
const LOOK_TIME: Duration = Duration::from_millis(5);

/// The login that is asked about.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    pub account: &'a Account,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// `None` where no key logs in.
    pub key: Option<&'a PublicKey>,
}

impl About<'_> {
    /// An argument with its tokens filled in: the user (`%u`), its home (`%h`) and number (`%U`), the
    /// client's address (`%a`), both ends of the connection (`%C`), and the key's fingerprint (`%f`),
    /// type (`%t`) and base64 (`%k`).
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
            'f' => self.key?.fingerprint(),
            'h' => self.account.home.to_string_lossy().into_owned(),
            'k' => self.key?.to_openssh_line("").split(' ').nth(1)?.to_owned(),
            't' => self.key?.type_name().to_owned(),
            'u' => self.account.name.clone(),
            'U' => self.account.uid.to_string(),
            _ => return None,
        })
    }
}

/// Whether every token of a template has a meaning.
pub fn has_known_tokens(template: &str) -> bool {
    let mut rest = template.chars();
    while let Some(character) = rest.next() {
        if character == '%' && !rest.next().is_some_and(|token| "%aCfhktuU".contains(token)) {
            return false;
        }
    }
    true
}

/// Runs a program as this account and answers what it has written. Blocks for [`PROGRAM_TIME_MAX`] at
/// most.
///
/// # Errors
/// Why it could not be run, or its answer does not count; the text is for the log.
pub fn run(words: &[String], account: &Account) -> Result<String, String> {
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
        // Root's other groups go with this.
        command.uid(account.uid).gid(account.gid);
    } else if account.uid != geteuid().as_raw() {
        return Err(format!("only root can start it as {}", account.name));
    }
    let child = command.spawn().map_err(|why| format!("cannot start: {why}"))?;
    Running(Some(child)).answer(reactor::now().after(PROGRAM_TIME_MAX))
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
struct Running(Option<Child>);

impl Running {
    fn answer(&mut self, until: Instant) -> Result<String, String> {
        let child = self.0.as_mut().ok_or("it is gone")?;
        let mut stdout = child.stdout.take().ok_or("it has no output")?;
        let mut answer = Vec::new();
        let mut space = [0; 4096];
        loop {
            let left = until.since(reactor::now());
            if left.is_zero() {
                return Err(late());
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
        String::from_utf8(answer).map_err(|_| "its answer is not UTF-8".to_owned())
    }

    fn end(&mut self, until: Instant) -> Result<ExitStatus, String> {
        loop {
            let child = self.0.as_mut().ok_or("it is gone")?;
            if let Some(status) = child.try_wait().map_err(|why| why.to_string())? {
                self.0 = None;
                return Ok(status);
            }
            if until <= reactor::now() {
                return Err(late());
            }
            std::thread::sleep(LOOK_TIME);
        }
    }
}

fn late() -> String {
    format!("it did not answer in {} seconds", PROGRAM_TIME_MAX.as_secs())
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else { return };
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
        run(&["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()], &me())
    }

    #[test]
    fn answers_count_only_whole() {
        assert_eq!(shell("echo $USER; echo err >&2").as_deref(), Ok(&*format!("{}\n", me().name)));
        assert_eq!(shell("cd; env | grep -c TIDE; true").as_deref(), Ok("0\n"));
        assert_eq!(shell("echo out; exit 3"), Err("it ended with exit status: 3".to_owned()));
        assert_eq!(shell("printf '\\377'"), Err("its answer is not UTF-8".to_owned()));
        let error = shell("head -c 1000000 /dev/zero").expect_err("too much");
        assert!(error.contains("more than"), "{error}");
        // What it leaves behind holds nobody up once it has let go of the output.
        assert_eq!(shell("sleep 5 >/dev/null & echo in").as_deref(), Ok("in\n"));
        // One that does not end is ended, here at once.
        let mut command = Command::new("/bin/sleep");
        let child = command.arg("1000").process_group(0).stdout(Stdio::piped()).spawn();
        let mut running = Running(Some(child.expect("it starts")));
        assert_eq!(running.answer(Instant::ZERO), Err(late()));
        drop(running);
    }

    #[test]
    fn programs_that_others_can_change_are_not_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("program");
        fs::write(&program, "#!/bin/sh\necho mine\n").expect("a file");
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("a mode");
        // The folder for temporary files is everybody's.
        let words = [program.to_string_lossy().into_owned()];
        let error = run(&words, &me()).expect_err("not safe");
        assert!(error.contains("must belong to root"), "{error}");
        assert!(run(&["sh".to_owned()], &me()).expect_err("relative").contains("absolute"));
        assert!(run(&["/nonexistent/program".to_owned()], &me()).is_err());
        assert!(run(&[], &me()).is_err());
        if geteuid().is_root() {
            let nobody = accounts::by_name("nobody").expect("it answers").expect("an account");
            let words = ["/usr/bin/id".to_owned(), "-G".to_owned()];
            assert_eq!(run(&words, &nobody), Ok(format!("{}\n", nobody.gid)));
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
        let about = About { account: &account, peer, local, key: Some(key.public()) };
        assert_eq!(about.expand("%u at %a, %%U %U"), "%h at 10.0.0.1, %U 7");
        assert_eq!(about.expand("%C"), "10.0.0.1 50000 10.0.0.2 22");
        assert_eq!(format!("{} ", about.expand("%t %k")), key.public().to_openssh_line("") + " ");
        for (template, known) in [("%u%%", true), ("%", false), ("%s", false), ("plain", true)] {
            assert_eq!(has_known_tokens(template), known, "{template}");
        }
    }
}
