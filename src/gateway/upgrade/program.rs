//! This program, started again: to check a configuration, and beside this process to take its place.

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io::{self, PipeReader};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigSet, Signal};

use super::{Aside, MOVERS_VARIABLE, PID_FILE_VARIABLE, SOCKET_FD, VARIABLE};

/// How this program was started, to be started in the same way: what the path leads to by then is the
/// next version.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    name: OsString,
    words: Vec<OsString>,
    directory: PathBuf,
}

/// A process that was started beside this one.
#[derive(Debug)]
pub struct Beside {
    pub pid: u32,
    /// Names it for as long as we like, whatever its number is used for later (pidfd_open(2)).
    process: OwnedFd,
}

impl Program {
    /// The one that runs. To be asked before it goes anywhere else.
    pub fn running() -> Program {
        let directory = env::current_dir().unwrap_or_else(|_| "/".into());
        let mut words = env::args_os();
        let name = words.next().unwrap_or_default();
        let itself = Path::new("/proc/self/exe");
        let same = |path: &PathBuf| match (fs::metadata(path), fs::metadata(itself)) {
            (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
            _ => false,
        };
        let path = candidates(&name, &directory).into_iter().find(same);
        let path = path.or_else(|| fs::read_link(itself).ok()).unwrap_or_else(|| itself.into());
        Program { path, name, words: words.collect(), directory }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts it with `-t` behind its words. What it says comes out of the pipe.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn check(&self) -> io::Result<(Child, PipeReader)> {
        let (hears, tells) = io::pipe()?;
        let mut command = Command::new(&self.path);
        command
            .arg0(&self.name)
            .args(&self.words)
            .arg("-t")
            .env_remove(VARIABLE)
            .env_remove(PID_FILE_VARIABLE)
            .env_remove(MOVERS_VARIABLE)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(tells.try_clone()?)
            .stderr(tells);
        Ok((command.spawn()?, hears))
    }

    /// Starts it as a child of our own parent, which so learns how it ends as it would of us, with this
    /// socket and our standard streams. `open_files`: the soft limit that we were started with.
    ///
    /// # Errors
    /// The system refused: there is no memory or number left, or we are the first process of a
    /// container, beside which nothing can be.
    pub fn start_beside(
        &self,
        socket: &OwnedFd,
        open_files: Option<u64>,
        aside: &Aside,
    ) -> io::Result<Beside> {
        let image = Image::new(self, socket.as_raw_fd(), open_files, aside)?;
        let mut process: RawFd = -1;
        let flags = libc::CLONE_PARENT | libc::CLONE_PIDFD | libc::SIGCHLD;
        // SAFETY: without a stack of its own and without CLONE_VM it is a fork; the kernel writes a
        // number into `process`, which outlives the call.
        let pid = unsafe {
            libc::syscall(
                libc::SYS_clone,
                libc::c_long::from(flags),
                0_usize,
                &raw mut process,
                0,
                0,
            )
        };
        match Errno::result(pid) {
            Ok(0) => image.become_it(),
            Ok(pid) => {
                // SAFETY: the kernel has just made this descriptor for us alone.
                let process = unsafe { OwnedFd::from_raw_fd(process) };
                Ok(Beside { pid: pid as u32, process })
            }
            Err(Errno::EINVAL) => Err(io::Error::other(
                "nothing can be started beside the first process of a container; \
                 `tidegate sshd -D` has one in front that stays",
            )),
            Err(why) => Err(why.into()),
        }
    }
}

/// Where a shell would have found it.
fn candidates(name: &OsStr, directory: &Path) -> Vec<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return vec![directory.join(name)];
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| directory.join(folder).join(name)).collect()
}

impl Beside {
    /// Does nothing to one that has ended.
    pub fn signal(&self, signal: Signal) {
        // SAFETY: a descriptor that is open, numbers, and no details of the signal.
        let _ = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.process.as_raw_fd(),
                signal as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
    }
}

/// All that is needed between a fork and an exec, made before.
struct Image {
    path: CString,
    directory: CString,
    words: Words,
    variables: Words,
    socket: RawFd,
    files: Option<libc::rlimit>,
}

/// Texts as execve(2) takes them.
struct Words {
    _texts: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Words {
    fn new(texts: Vec<CString>) -> Words {
        let pointers = texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
        Words { _texts: texts, pointers }
    }
}

impl Image {
    fn new(
        program: &Program,
        socket: RawFd,
        open_files: Option<u64>,
        Aside { pid_file, movers }: &Aside,
    ) -> io::Result<Image> {
        let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::other);
        let words = std::iter::once(&program.name).chain(&program.words);
        let words = words.map(|word| text(word)).collect::<io::Result<Vec<_>>>()?;
        let own = [
            (VARIABLE, Some(std::process::id().to_string().into())),
            (PID_FILE_VARIABLE, pid_file.as_ref().map(|path| path.as_os_str().to_owned())),
            (
                MOVERS_VARIABLE,
                Some(movers.iter().map(|pid| format!("{pid} ")).collect::<String>().into()),
            ),
        ];
        let own = own.into_iter().filter_map(|(name, value)| Some((name.into(), value?)));
        let is_own = |name: &OsString| {
            [VARIABLE, PID_FILE_VARIABLE, MOVERS_VARIABLE].iter().any(|own| name == own)
        };
        let variables = own
            .chain(env::vars_os().filter(|(name, _)| !is_own(name)))
            .map(|(name, value): (OsString, OsString)| {
                text(&[&*name, OsStr::new("="), &*value].into_iter().collect::<OsString>())
            })
            .collect::<io::Result<_>>()?;
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        Ok(Image {
            path: text(program.path.as_os_str())?,
            directory: text(program.directory.as_os_str())?,
            words: Words::new(words),
            variables: Words::new(variables),
            socket,
            files: open_files.map(|soft| libc::rlimit { rlim_cur: soft, rlim_max: hard }),
        })
    }

    /// In the new process, alone in its memory: nothing but system calls, on what was prepared before.
    /// What fails is seen by the one that waits, for the socket closes.
    fn become_it(&self) -> ! {
        // SAFETY: numbers, texts and lists that live during the calls, each list with a null at its end.
        unsafe {
            let placed = match self.socket {
                // Copying a descriptor onto itself would leave it close-on-exec.
                SOCKET_FD => libc::fcntl(SOCKET_FD, libc::F_SETFD, 0),
                socket => libc::dup2(socket, SOCKET_FD),
            };
            let first = SOCKET_FD as libc::c_uint + 1;
            let closed = libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0);
            let limited = self
                .files
                .as_ref()
                .map_or(0, |files| libc::setrlimit(libc::RLIMIT_NOFILE, std::ptr::from_ref(files)));
            let none = SigSet::empty();
            let heard = libc::sigprocmask(libc::SIG_SETMASK, none.as_ref(), std::ptr::null_mut());
            let stands = libc::chdir(self.directory.as_ptr());
            if placed >= 0 && closed == 0 && limited == 0 && heard == 0 && stands == 0 {
                libc::execve(
                    self.path.as_ptr(),
                    self.words.pointers.as_ptr(),
                    self.variables.pointers.as_ptr(),
                );
            }
            libc::_exit(127)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_program_that_runs_is_found_and_started_beside_us() {
        let running = Program::running();
        let real = fs::canonicalize(&running.path).expect("a program");
        assert_eq!(real, fs::read_link("/proc/self/exe").expect("our own"));
        let folder = Path::new("/some/folder");
        assert_eq!(candidates(OsStr::new("./x"), folder), [Path::new("/some/folder/./x")]);
        assert!(candidates(OsStr::new("sh"), folder).contains(&"/bin/sh".into()));
        let shell = |script: &str| Program {
            path: "/bin/sh".into(),
            name: "sh".into(),
            words: ["-c", script, "sh"].map(OsString::from).to_vec(),
            directory: "/usr".into(),
        };
        let (mut child, mut said) =
            shell("echo $1 here; pwd >&2; exit 3").check().expect("it starts");
        let mut text = String::new();
        said.read_to_string(&mut text).expect("text");
        assert_eq!(text, "-t here\n/usr\n");
        assert_eq!(child.wait().expect("an end").code(), Some(3));

        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let script = "echo $TIDEGATE_UPGRADE $PPID $$ >&3; exec sleep 100";
        let beside = shell(script).start_beside(&OwnedFd::from(theirs), None, &Aside::default());
        let beside = beside.expect("it starts");
        let mut ours = std::io::BufReader::new(ours);
        let mut line = String::new();
        std::io::BufRead::read_line(&mut ours, &mut line).expect("a line");
        let (own, parent) = (std::process::id(), std::os::unix::process::parent_id());
        assert_eq!(line, format!("{own} {parent} {}\n", beside.pid));
        beside.signal(Signal::SIGKILL);
        assert_eq!(ours.read(&mut [0]).expect("its end"), 0);
    }
}
