use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open, openat};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{AccessFlags, Uid, access, geteuid, getuid, pipe2};

use super::birth::{Birth, Step};
use super::child::{Child, Pipes};
use super::job::{Notice, Program, SpawnFailed, SpawnSpec};
use super::pty::{below_devices, devices};
use super::{prelude, user_environment};
use crate::reactor::Fd;

/// What an account without a shell gets.
const DEFAULT_SHELL: &CStr = c"/bin/sh";
/// This very program, also after its file was replaced.
const OURSELVES: &CStr = c"/proc/self/exe";

/// Starts a program as its account, in its home directory, as the leader of a session of its own.
///
/// What it costs does not grow with the size of this process ([`super::birth`]).
///
/// # Errors
/// This process does not run as the account (it must never start a program with the rights of
/// another one), the shell cannot be run, or the system lacks processes, descriptors or memory.
pub fn spawn(spec: &SpawnSpec) -> Result<Child, SpawnFailed> {
    let shell = shell_of(spec);
    start(spec, &shell)
        .map_err(|why| SpawnFailed { program: shell.to_string_lossy().into_owned(), why })
}

/// To be called once, early, before other threads run: children that end can be waited for even if
/// our parent ignored SIGCHLD, and descriptors that we were started with stay with us.
///
/// # Errors
/// The kernel refused (a sandbox, most likely).
pub fn prepare() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default disposition runs no code of ours.
    unsafe { sigaction(Signal::SIGCHLD, &default)? };
    // SAFETY: takes three numbers; marks descriptors, closes none.
    let marked = unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    Errno::result(marked)?;
    Ok(())
}

/// For whoever is started by others, early: new files are not for everybody to write even if they did not
/// care. Like sshd, whose sessions inherit it: at least group and others lose that right.
pub fn restrict_umask() {
    let others = Mode::S_IWGRP | Mode::S_IWOTH;
    umask(umask(others) | others);
}

fn start(spec: &SpawnSpec, shell: &CStr) -> io::Result<Child> {
    let account = Uid::from_raw(spec.account.uid);
    if geteuid() != account || getuid() != account {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    let streams = Streams::new(spec)?;
    let own = spec.user_environment.as_deref();
    let own = own.map(|patterns| user_environment::read(&spec.account.home, patterns));
    let own = own.unwrap_or_default();
    own.complaints.iter().for_each(|complaint| streams.complain(complaint));
    let home = open_home(&spec.account.home);
    let mut steps = streams.steps();
    steps.push(home.as_ref().map_or(Step::Enter(c"/"), |home| Step::EnterOpen(home.as_fd())));
    if let Err(why) = &home {
        // OpenSSH's words, where the user sees them.
        let (home, why) = (spec.account.home.display(), why.desc());
        streams.complain(&format!("Could not chdir to home directory {home}: {why}\n"));
    }
    let (program, arguments) = launch(spec, shell);
    let mut environment = spec.env.complete(&own.variables);
    environment.extend(prelude::variables(spec));
    let open_files = spec.open_files.map(limits_of_files).transpose()?;
    let (arguments, environment) = (&*arguments, &*environment);
    let birth = Birth { program, arguments, environment, steps: &steps, open_files };
    let pid = birth.start()?;
    let pidfd = match watch_process(pid) {
        Ok(pidfd) => pidfd,
        Err(why) => {
            abandon(pid);
            return Err(why);
        }
    };
    drop(steps);
    Ok(Child::system(pid, pidfd, streams.into_pipes()))
}

fn shell_of(spec: &SpawnSpec) -> CString {
    let shell = spec.account.shell.as_os_str().as_bytes();
    match CString::new(shell) {
        Ok(shell) if !shell.is_empty() => shell,
        _ => DEFAULT_SHELL.to_owned(),
    }
}

/// What is run, and with which words.
fn launch<'a>(spec: &SpawnSpec, shell: &'a CStr) -> (&'a CStr, Vec<CString>) {
    match &spec.program {
        Program::Notice(notice) => return (DEFAULT_SHELL, notice_words(notice)),
        Program::NewPassword => return (DEFAULT_SHELL, new_password_words()),
        Program::Shell | Program::Command(_) => {}
    }
    let arguments = arguments(spec, shell);
    match prelude::words(spec) {
        None => (shell, arguments),
        Some(mut words) => {
            words.push(shell.to_owned());
            words.extend(arguments);
            (OURSELVES, words)
        }
    }
}

/// The text is a word of its own, never a part of the script.
fn notice_words(notice: &Notice) -> Vec<CString> {
    let to = if notice.as_error { " >&2" } else { "" };
    let script = format!("printf %s \"$1\"{to}; exit {}", notice.status);
    let script = CString::new(script).unwrap_or_default();
    vec![c"sh".to_owned(), c"-c".to_owned(), script, c"sh".to_owned(), notice.text.clone()]
}

/// A leading dash tells a shell that it is a login shell.
fn arguments(spec: &SpawnSpec, shell: &CStr) -> Vec<CString> {
    let name = shell.to_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let named = |prefix: &[u8]| CString::new([prefix, name].concat()).unwrap_or_default();
    match &spec.program {
        Program::Shell => vec![named(b"-")],
        Program::Command(command) => vec![named(b""), c"-c".to_owned(), command.clone()],
        Program::Notice(notice) => notice_words(notice),
        Program::NewPassword => new_password_words(),
    }
}

/// In sshd's words.
fn new_password_words() -> Vec<CString> {
    let script = c"echo 'WARNING: Your password has expired.' >&2; \
                   echo 'You must change your password now and login again!' >&2; \
                   exec /usr/bin/passwd";
    vec![c"sh".to_owned(), c"-c".to_owned(), script.to_owned()]
}

/// Opened here, so that the directory that was found good is the one that is entered.
fn open_home(home: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let opened = open(home, flags, Mode::empty())?;
    access(home, AccessFlags::X_OK)?;
    Ok(opened)
}

/// The child's three standard streams before it is started.
enum Streams {
    Pipes {
        stdin: Pipe,
        stdout: Pipe,
        stderr: Pipe,
    },
    /// The slave is held open meanwhile, so that what is written to it stays.
    Terminal {
        path: CString,
        slave: OwnedFd,
    },
}

struct Pipe {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl Streams {
    fn new(spec: &SpawnSpec) -> io::Result<Streams> {
        if let Some(path) = &spec.pty {
            let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
            let slave = match devices() {
                Some(devices) => openat(devices, below_devices(path), flags, Mode::empty())?,
                None => open(path.as_c_str(), flags, Mode::empty())?,
            };
            return Ok(Streams::Terminal { path: path.clone(), slave });
        }
        let (stdin, stdin_ours) = pipe2(OFlag::O_CLOEXEC)?;
        let (stdout_ours, stdout) = pipe2(OFlag::O_CLOEXEC)?;
        let (stderr_ours, stderr) = pipe2(OFlag::O_CLOEXEC)?;
        for ours in [&stdin_ours, &stdout_ours, &stderr_ours] {
            fcntl(ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Streams::Pipes {
            stdin: Pipe { ours: stdin_ours, theirs: stdin },
            stdout: Pipe { ours: stdout_ours, theirs: stdout },
            stderr: Pipe { ours: stderr_ours, theirs: stderr },
        })
    }

    /// Opening the slave as a session leader makes it the controlling terminal.
    fn steps(&self) -> Vec<Step<'_>> {
        match self {
            Streams::Terminal { path, .. } => {
                let mut steps = match devices() {
                    // The child is led there for a moment.
                    Some(devices) => {
                        vec![Step::EnterOpen(devices.as_fd()), Step::Open(below_devices(path))]
                    }
                    None => vec![Step::Open(path)],
                };
                steps.extend([1, 2].map(Step::Copy));
                steps
            }
            Streams::Pipes { stdin, stdout, stderr } => [(0, stdin), (1, stdout), (2, stderr)]
                .map(|(number, pipe)| Step::Duplicate(pipe.theirs.as_fd(), number))
                .into(),
        }
    }

    /// Tells the user, without waiting for him to read.
    fn complain(&self, text: &str) {
        let to = match self {
            Streams::Pipes { stderr, .. } => &stderr.theirs,
            Streams::Terminal { slave, .. } => slave,
        };
        let _ = nix::unistd::write(to, text.as_bytes());
    }

    fn into_pipes(self) -> Option<Pipes> {
        match self {
            Streams::Terminal { .. } => None,
            Streams::Pipes { stdin, stdout, stderr } => Some(Pipes {
                stdin: Fd(stdin.ours.into_raw_fd()),
                stdout: Fd(stdout.ours.into_raw_fd()),
                stderr: Fd(stderr.ours.into_raw_fd()),
            }),
        }
    }
}

/// Becomes readable when this process, a child that was not waited for, has ended.
///
/// # Errors
/// The kernel's.
pub fn watch_process(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just given it to us, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A child that cannot be watched is not kept.
fn abandon(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    let _ = nix::sys::signal::killpg(pid, Signal::SIGKILL);
    let _ = nix::sys::wait::waitpid(pid, None);
}

/// We may hold many more descriptors than programs expect to be allowed; those that use `select`
/// break when they are allowed as many. The limit is soft: a program may raise it again.
fn limits_of_files(soft: u64) -> io::Result<libc::rlimit> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(libc::rlimit { rlim_cur: soft.min(hard), rlim_max: hard })
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;
    use std::time::Duration;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule,
    };

    use super::*;
    use crate::connection::WindowSize;
    use crate::services::process::Environment;
    use crate::services::{Account, Exit, Prelude, TerminalSpec, open_terminal, orphans};

    fn spec(program: Program, home: &str) -> SpawnSpec {
        let account = Account {
            name: "somebody".to_owned(),
            uid: geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            home: home.into(),
            shell: "/bin/bash".into(),
        };
        let env = vec![c"PATH=/usr/bin:/bin".to_owned(), c"MARK=a b".to_owned()];
        let env = env.into();
        SpawnSpec {
            account,
            program,
            env,
            user_environment: None,
            prelude: Prelude::default(),
            pty: None,
            peer: ([127, 0, 0, 1], 9).into(),
            open_files: None,
            display: None,
            auth_info: None,
            text: String::new(),
        }
    }

    fn with(spec: &SpawnSpec, variable: CString) -> Environment {
        let mut variables = spec.env.complete(&[]);
        variables.push(variable);
        variables.into()
    }

    fn command(text: &str) -> SpawnSpec {
        spec(Program::Command(CString::new(text).unwrap()), "/")
    }

    fn wait_for(fd: Fd) {
        // SAFETY: the caller keeps it open.
        let fd = unsafe { BorrowedFd::borrow_raw(fd.0) };
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::from(20_000u16)).unwrap();
        assert_eq!(ready, 1, "nothing came");
    }

    fn read_all(fd: Fd) -> String {
        // SAFETY: as above.
        let from = unsafe { BorrowedFd::borrow_raw(fd.0) };
        let (mut all, mut some) = (Vec::new(), [0; 4096]);
        loop {
            wait_for(fd);
            match nix::unistd::read(from, &mut some) {
                // A terminal ends so.
                Ok(0) | Err(Errno::EIO) => break,
                Ok(count) => all.extend_from_slice(&some[..count]),
                Err(Errno::EAGAIN) => {}
                Err(why) => panic!("{why}"),
            }
        }
        String::from_utf8(all).unwrap()
    }

    fn wait_exit(child: &mut Child) -> Exit {
        wait_for(child.watch());
        child.reap().expect("its watch says that it has ended")
    }

    fn run(spec: &SpawnSpec) -> (String, String, Exit) {
        let mut child = spawn(spec).unwrap();
        let pipes = child.take_pipes().unwrap();
        nix::unistd::close(pipes.stdin.0).unwrap();
        let (out, err) = (read_all(pipes.stdout), read_all(pipes.stderr));
        nix::unistd::close(pipes.stdout.0).unwrap();
        nix::unistd::close(pipes.stderr.0).unwrap();
        (out, err, wait_exit(&mut child))
    }

    /// What a command prints on a terminal of its own.
    fn run_on_terminal(program: Program, home: &str, modes: &[u8], input: &[u8]) -> (String, Exit) {
        let size = WindowSize { columns: 101, rows: 37, ..WindowSize::default() };
        let uid = geteuid().as_raw();
        let terminal = open_terminal(&TerminalSpec { uid, size, modes: modes.into() }).unwrap();
        let mut spec = spec(program, home);
        spec.pty = Some(terminal.path().to_owned());
        spec.env = with(&spec, c"PS1=> ".to_owned());
        let mut child = spawn(&spec).unwrap();
        assert!(child.take_pipes().is_none());
        // SAFETY: the terminal is dropped at the end.
        let master = unsafe { BorrowedFd::borrow_raw(terminal.master().0) };
        assert_eq!(nix::unistd::write(master, input).unwrap(), input.len());
        let text = read_all(terminal.master());
        (text, wait_exit(&mut child))
    }

    fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..1000 {
            if holds() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{what} did not come true");
    }

    fn is_alive(pid: i32) -> bool {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_ok()
    }

    #[test]
    fn exit_codes_and_signals_are_told() {
        assert_eq!(run(&command("exit 0")).2, Exit::Status(0));
        assert_eq!(run(&command("exit 250")).2, Exit::Status(250));
        let killed = run(&command("kill -TERM $$")).2;
        assert_eq!(killed, Exit::Signal { name: "TERM", core_dumped: false });
        let killed = run(&command("ulimit -c 0; kill -BUS $$")).2;
        assert_eq!(killed, Exit::Signal { name: "SIG@openssh.com", core_dumped: false });
        let killed = run(&command("kill -s RTMIN $$")).2;
        assert_eq!(killed, Exit::Signal { name: "SIG@openssh.com", core_dumped: false });
    }

    #[test]
    fn streams_are_kept_apart() {
        let (out, err, exit) = run(&command("echo one; echo two >&2; cat; exit 3"));
        assert_eq!((out.as_str(), err.as_str(), exit), ("one\n", "two\n", Exit::Status(3)));
    }

    #[test]
    fn the_environment_is_exact() {
        let (out, ..) = run(&command("exec /usr/bin/env -0"));
        let mut found: Vec<&str> = out.split_terminator('\0').collect();
        found.retain(|variable| {
            // What bash itself adds.
            !["PWD=", "SHLVL=", "_="].iter().any(|prefix| variable.starts_with(prefix))
        });
        found.sort_unstable();
        assert_eq!(found, ["MARK=a b", "PATH=/usr/bin:/bin"]);
    }

    #[test]
    fn nothing_is_inherited_but_three_streams() {
        prepare().unwrap();
        let open_here = std::fs::File::open("/dev/null").unwrap();
        let (out, ..) = run(&command("cd /proc/self/fd && echo [0-9]*"));
        drop(open_here);
        // The fourth is the shell's own, reading the directory.
        assert!(["0 1 2\n", "0 1 2 3\n"].contains(&out.as_str()), "{out}");
    }

    #[test]
    fn signals_are_as_a_fresh_process_expects() {
        // SAFETY: ignoring a signal runs no code.
        unsafe {
            nix::sys::signal::signal(Signal::SIGUSR2, SigHandler::SigIgn).unwrap();
        }
        let (out, ..) = run(&command("grep -E '^Sig(Ign|Blk)' /proc/self/status"));
        // SAFETY: as above.
        unsafe {
            nix::sys::signal::signal(Signal::SIGUSR2, SigHandler::SigDfl).unwrap();
        }
        for line in out.lines() {
            let value = line.split_whitespace().nth(1).unwrap();
            assert_eq!(u64::from_str_radix(value, 16).unwrap(), 0, "{line}");
        }
        assert_eq!(out.lines().count(), 2);
    }

    /// It is set before the program is there: to set it from outside, later, is forbidden here.
    #[test]
    fn the_limit_of_open_files_holds_from_the_first_instruction() {
        let hard = getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
        let of_another = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, 0);
        let rule = SeccompRule::new(vec![of_another.unwrap()]).unwrap();
        let filter = SeccompFilter::new(
            [(libc::SYS_prlimit64, vec![rule])].into(),
            SeccompAction::Allow,
            SeccompAction::Errno(libc::EPERM as u32),
            std::env::consts::ARCH.try_into().unwrap(),
        );
        let filter: BpfProgram = filter.unwrap().try_into().unwrap();
        let confined = || {
            seccompiler::apply_filter(&filter).unwrap();
            let mut spec = command("ulimit -Sn; ulimit -Hn");
            spec.open_files = Some(77);
            run(&spec)
        };
        let (out, ..) = std::thread::scope(|scope| scope.spawn(confined).join().unwrap());
        assert_eq!(out, format!("77\n{hard}\n"));
    }

    #[test]
    fn it_starts_in_the_home_directory() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().to_str().unwrap();
        let (out, err, _) = run(&spec(Program::Command(c"pwd".to_owned()), path));
        assert_eq!((out.trim(), err.as_str()), (path, ""));
    }

    #[test]
    fn without_a_home_it_starts_in_the_root_and_says_so() {
        let (out, err, exit) = run(&spec(Program::Command(c"pwd".to_owned()), "/no/such"));
        assert_eq!((out.as_str(), exit), ("/\n", Exit::Status(0)));
        let expected = "Could not chdir to home directory /no/such: No such file or directory\n";
        assert_eq!(err, expected);
        let (text, _) = run_on_terminal(Program::Command(c"pwd".to_owned()), "/no/such", &[], b"");
        assert_eq!(text, format!("{}\r\n/\r\n", expected.trim_end()));
    }

    #[test]
    fn a_notice_is_said_word_for_word() {
        for (as_error, status) in [(false, 1), (true, 254)] {
            let text = CString::new("$HOME `id` \\n %s\n'\"").unwrap();
            let notice = Notice { text: text.clone(), as_error, status };
            let (out, err, exit) = run(&spec(Program::Notice(notice), "/"));
            let said = text.to_str().unwrap();
            assert_eq!(if as_error { (&*err, &*out) } else { (&*out, &*err) }, (said, ""));
            assert_eq!(exit, Exit::Status(u32::from(status)));
        }
    }

    #[test]
    fn the_account_has_its_own_environment_file() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".ssh")).unwrap();
        let file = home.path().join(".ssh/environment");
        std::fs::write(&file, "OWN=1\nOTHER=2\nodd\nMARK=mine\n").unwrap();
        let script = c"echo $OWN-$OTHER-$MARK".to_owned();
        let mut spec = spec(Program::Command(script), home.path().to_str().unwrap());
        assert_eq!(run(&spec).0, "--a b\n", "not without PermitUserEnvironment");
        spec.user_environment = Some("O*,!OTHER,MARK".to_owned());
        let (out, err, _) = run(&spec);
        assert_eq!(out, "1--a b\n", "what comes later wins");
        assert_eq!(err, format!("Bad line 3 in {}\n", file.display()));
    }

    #[test]
    fn commands_and_login_shells_get_their_names() {
        let (out, ..) = run(&command("echo $0; shopt -q login_shell || echo no login"));
        assert_eq!(out, "bash\nno login\n");
        let home = tempfile::tempdir().unwrap();
        let mut spec = spec(Program::Shell, home.path().to_str().unwrap());
        spec.env = with(&spec, c"BASH_SILENCE_DEPRECATION_WARNING=1".to_owned());
        let mut child = spawn(&spec).unwrap();
        let pipes = child.take_pipes().unwrap();
        // SAFETY: closed below.
        let stdin = unsafe { OwnedFd::from_raw_fd(pipes.stdin.0) };
        nix::unistd::write(&stdin, b"echo $0; shopt -q login_shell && echo login\n").unwrap();
        drop(stdin);
        let out = read_all(pipes.stdout);
        assert!(out.ends_with("-bash\nlogin\n"), "{out}");
        for fd in [pipes.stdout, pipes.stderr] {
            nix::unistd::close(fd.0).unwrap();
        }
        assert_eq!(wait_exit(&mut child), Exit::Status(0));
    }

    #[test]
    fn a_terminal_is_the_controlling_one_of_a_new_session() {
        let script = "test -t 0 && test -t 1 && test -t 2 && echo terminals; \
             tty; ps -o tty=,sid=,pgid=,tpgid= -p $$; echo $$; : > /dev/tty && echo controls";
        let program = Program::Command(CString::new(script).unwrap());
        let (text, exit) = run_on_terminal(program, "/", &[], b"");
        assert_eq!(exit, Exit::Status(0), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        let [terminals, tty, facts, pid, controls] = lines[..] else { panic!("{text}") };
        assert_eq!((terminals, controls), ("terminals", "controls"));
        let facts: Vec<&str> = facts.split_whitespace().collect();
        assert_eq!(tty, format!("/dev/{}", facts[0]));
        assert_eq!(facts[1..], [pid, pid, pid], "leads session, group and foreground");
    }

    #[test]
    fn modes_and_size_reach_the_terminal() {
        // ECHO off, ISIG off, IUTF8 on, IUCLC on, INTR = ^B, speeds 9600.
        let mut modes = Vec::new();
        for (opcode, value) in [(53, 0u32), (50, 0), (42, 1), (37, 1), (1, 2), (128, 9600)] {
            modes.push(opcode);
            modes.extend_from_slice(&value.to_be_bytes());
        }
        modes.extend_from_slice(&[129, 0, 0, 0x25, 0x80, 0]);
        let program = Program::Command(c"stty -a".to_owned());
        let (text, _) = run_on_terminal(program, "/", &modes, b"");
        for expected in ["speed 9600", "rows 37", "columns 101", "intr = ^B"] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        let words: Vec<&str> = text.split([' ', ';', '\r', '\n']).collect();
        for expected in ["-echo", "-isig", "iutf8", "iuclc", "icanon", "opost"] {
            assert!(words.contains(&expected), "{expected}: {text}");
        }
    }

    #[test]
    fn a_window_change_is_seen() {
        let terminal = open_terminal(&TerminalSpec {
            uid: geteuid().as_raw(),
            size: WindowSize::default(),
            modes: Box::new([]),
        })
        .unwrap();
        let script = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done";
        let mut spec = command(script);
        spec.pty = Some(terminal.path().to_owned());
        let mut child = spawn(&spec).unwrap();
        wait_for(terminal.master());
        let size = WindowSize { columns: 10_000, rows: 12, ..WindowSize::default() };
        assert!(terminal.resize(size));
        let text = read_all(terminal.master());
        assert_eq!(text, "ready\r\n12 10000\r\n");
        assert_eq!(wait_exit(&mut child), Exit::Status(0));
    }

    #[test]
    fn interactive_shells_run_on_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().to_str().unwrap();
        let input = b"echo $((6*7)); exit 5\n";
        let (text, exit) = run_on_terminal(Program::Shell, path, &[], input);
        assert!(text.contains("\r\n42\r\n"), "{text}");
        assert_eq!(exit, Exit::Status(5));
    }

    #[test]
    fn refusals_cost_nothing() {
        let before = std::fs::read_dir("/proc/self/fd").unwrap().count();
        let mut other = command("true");
        other.account.uid += 1;
        let why = spawn(&other).unwrap_err();
        assert_eq!(why.why.raw_os_error(), Some(libc::EPERM));
        let mut missing = command("true");
        missing.account.shell = "/no/such/shell".into();
        let why = spawn(&missing).unwrap_err();
        assert_eq!(why.why.raw_os_error(), Some(libc::ENOENT));
        assert_eq!(why.program, "/no/such/shell");
        let mut long = command("true");
        long.env = with(&long, CString::new(vec![b'x'; 4 << 20]).unwrap());
        assert_eq!(spawn(&long).unwrap_err().why.raw_os_error(), Some(libc::E2BIG));
        let uid = geteuid().as_raw() + 1;
        let other = TerminalSpec { uid, size: WindowSize::default(), modes: Box::new([]) };
        assert!(open_terminal(&other).is_err());
        // Other tests open and close descriptors meanwhile.
        eventually("the number of descriptors", || {
            std::fs::read_dir("/proc/self/fd").unwrap().count() <= before
        });
    }

    #[test]
    fn signals_reach_the_whole_group_even_after_its_leader() {
        let mut child = spawn(&command("sleep 1000 & echo $!")).unwrap();
        let pipes = child.take_pipes().unwrap();
        wait_for(pipes.stdout);
        let mut text = [0; 32];
        // SAFETY: closed below.
        let stdout = unsafe { OwnedFd::from_raw_fd(pipes.stdout.0) };
        let count = nix::unistd::read(&stdout, &mut text).unwrap();
        let sleeper: i32 = std::str::from_utf8(&text[..count]).unwrap().trim().parse().unwrap();
        assert_eq!(wait_exit(&mut child), Exit::Status(0));
        assert!(is_alive(sleeper));
        assert!(child.signal(Signal::SIGHUP));
        eventually("the end of the sleeper", || {
            // Whether somebody else has waited for it yet does not matter.
            let status = std::fs::read_to_string(format!("/proc/{sleeper}/stat"));
            status.map_or(true, |status| status.contains(") Z "))
        });
        for fd in [pipes.stdin, pipes.stderr] {
            nix::unistd::close(fd.0).unwrap();
        }
    }

    #[test]
    fn a_dropped_child_is_hung_up_and_reaped() {
        let child = spawn(&command("exec sleep 1000")).unwrap();
        let pid = child.pid();
        assert!(is_alive(pid));
        drop(child);
        eventually("the end of the process", || !is_alive(pid));
    }

    #[test]
    fn a_process_that_ignores_the_hang_up_is_reaped_when_it_ends() {
        let mut child = spawn(&command("trap '' HUP; echo set; exec sleep 0.5")).unwrap();
        let pid = child.pid();
        let pipes = child.take_pipes().unwrap();
        wait_for(pipes.stdout);
        for fd in [pipes.stdin, pipes.stdout, pipes.stderr] {
            nix::unistd::close(fd.0).unwrap();
        }
        child.hang_up();
        assert_eq!(child.retire(), None);
        assert!(is_alive(pid) && orphans() > 0);
        eventually("the end of the process", || !is_alive(pid));
    }

    #[test]
    fn a_pipe_can_be_made_wider() {
        let mut child = spawn(&command("sleep 0.1")).unwrap();
        let pipes = child.take_pipes().unwrap();
        child.widen(pipes.stdout);
        // SAFETY: closed below.
        let stdout = unsafe { OwnedFd::from_raw_fd(pipes.stdout.0) };
        let bytes = fcntl(&stdout, FcntlArg::F_GETPIPE_SZ).unwrap();
        assert_eq!(bytes as u32, crate::limits::PIPE_BYTES);
        for fd in [pipes.stdin, pipes.stderr] {
            nix::unistd::close(fd.0).unwrap();
        }
        wait_exit(&mut child);
    }
}
