//! What an edge gives up before a byte from outside reaches it. The order matters: identities, then
//! the promise to gain no new rights, then Landlock, which threads inherit; then the threads and their
//! rings; then the filter of system calls, for all threads at once.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus,
    Scope,
};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, chdir, chroot, setgroups, setresgid, setresuid, setuid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::super::directory::Directory;
use crate::limits::EDGE_FILES_MAX;
use crate::services::Account;

/// Directories that systems keep empty for this; the last is made when there is none.
const ROOTS: [&str; 5] =
    ["/run/sshd", "/var/empty/sshd", "/usr/share/empty.sshd", "/var/empty", "/run/tidegate-empty"];
/// Who an edge is if nobody says: the first of them that there is.
const USERS: [&str; 2] = ["sshd", "nobody"];

/// Who an edge runs as, and what it sees of the file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    pub uid: u32,
    pub gid: u32,
    pub root: PathBuf,
}

impl Cell {
    /// Finds both, as root. `user`: TidegateEdgeUser.
    ///
    /// # Errors
    /// There is no such user, it is root, or no directory is empty and root's alone.
    pub fn find(user: Option<&str>) -> anyhow::Result<Cell> {
        let Account { uid, gid, name, .. } = edge_account(user)?;
        if uid == 0 || gid == 0 {
            bail!("TidegateEdgeUser {name} has root's rights; name an account that has none");
        }
        for root in ROOTS.map(Path::new) {
            if is_empty_and_roots(root) {
                return Ok(Cell { uid, gid, root: root.to_owned() });
            }
        }
        let root = Path::new(ROOTS[ROOTS.len() - 1]);
        let made = fs::DirBuilder::new().mode(0o755).create(root);
        made.with_context(|| format!("cannot make {}", root.display()))?;
        Ok(Cell { uid, gid, root: root.to_owned() })
    }

    /// Gives root's rights up for good. Before any thread exists.
    ///
    /// # Errors
    /// A step failed; the process must end.
    pub fn enter(&self) -> anyhow::Result<Landlocked> {
        limit(Resource::RLIMIT_FSIZE, 0)?;
        limit(Resource::RLIMIT_CORE, 0)?;
        limit(Resource::RLIMIT_NOFILE, EDGE_FILES_MAX)?;
        chroot(&self.root).with_context(|| format!("chroot {}", self.root.display()))?;
        chdir("/").context("chdir /")?;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        setgroups(&[]).context("setgroups")?;
        setresgid(gid, gid, gid).context("setresgid")?;
        setresuid(uid, uid, uid).context("setresuid")?;
        if setuid(Uid::from_raw(0)).is_ok() {
            bail!("root's rights came back");
        }
        prctl::set_dumpable(false).context("PR_SET_DUMPABLE")?;
        prctl::set_no_new_privs().context("PR_SET_NO_NEW_PRIVS")?;
        landlock().context("Landlock")
    }
}

/// Once every thread is there: no new ones, and no system call but those that serving takes.
///
/// # Errors
/// The kernel has no seccomp; the process must end.
pub fn close() -> anyhow::Result<()> {
    limit(Resource::RLIMIT_NPROC, 0)?;
    let filter = SeccompFilter::new(
        rules(std::process::id())?,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into().context("a filter for this processor")?,
    )?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter_all_threads(&program).context("seccomp")?;
    Ok(())
}

/// Whether the kernel's Landlock holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landlocked {
    Yes,
    /// Not all that this program knows of.
    Partly,
    /// This kernel has none.
    No,
}

fn edge_account(user: Option<&str>) -> anyhow::Result<Account> {
    let directory = Directory::default();
    let find = |name: &str| directory.find(name).context("the user database does not answer");
    let wanted: Vec<&str> = user.map_or_else(|| USERS.to_vec(), |user| vec![user]);
    for name in &wanted {
        if let Some(entry) = find(name)? {
            return Ok(entry.account.clone());
        }
    }
    bail!("there is no user {}; TidegateEdgeUser names one", wanted.join(" and no user "))
}

fn is_empty_and_roots(path: &Path) -> bool {
    let ours = |at: &fs::Metadata| at.is_dir() && at.uid() == 0 && at.mode() & 0o022 == 0;
    fs::symlink_metadata(path).is_ok_and(|at| ours(&at))
        && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn limit(what: Resource, most: u64) -> anyhow::Result<()> {
    let (_, hard) = getrlimit(what)?;
    let most = most.min(hard);
    setrlimit(what, most, most).with_context(|| format!("{what:?}"))?;
    Ok(())
}

/// Nothing of the file system, no port, no signal to anybody outside.
fn landlock() -> anyhow::Result<Landlocked> {
    let abi = ABI::V7;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Landlocked::Yes,
        RulesetStatus::PartiallyEnforced => Landlocked::Partly,
        RulesetStatus::NotEnforced => Landlocked::No,
    })
}

/// System calls that are allowed whatever their arguments. None opens, makes or names anything.
const PLAIN: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_accept4,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_shutdown,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_ppoll,
    libc::SYS_io_uring_enter,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_sigaltstack,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The same, which only this processor has.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_time];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// Options of sockets that may be set.
const OPTIONS: [(i32, i32); 6] = [
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_QUICKACK),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
];

fn rules(pid: u32) -> anyhow::Result<BTreeMap<i64, Vec<SeccompRule>>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in PLAIN.iter().chain(OLDER) {
        rules.insert(*call, Vec::new());
    }
    // Memory that can be written to and run is neither made nor made so.
    let exec = libc::PROT_EXEC as u64;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![all([(2, SeccompCmpOp::MaskedEq(exec), 0)])?]);
    }
    for command in [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL] {
        let rule = all([(1, SeccompCmpOp::Eq, command as u64)])?;
        rules.entry(libc::SYS_fcntl).or_default().push(rule);
    }
    for (level, option) in OPTIONS {
        let level = (1, SeccompCmpOp::Eq, level as u64);
        let rule = all([level, (2, SeccompCmpOp::Eq, option as u64)])?;
        rules.entry(libc::SYS_setsockopt).or_default().push(rule);
    }
    // Threads tell their names; a panic that is none of ours to survive ends this process alone.
    let name = all([(0, SeccompCmpOp::Eq, libc::PR_SET_NAME as u64)])?;
    rules.insert(libc::SYS_prctl, vec![name]);
    rules.insert(libc::SYS_tgkill, vec![all([(0, SeccompCmpOp::Eq, u64::from(pid))])?]);
    Ok(rules)
}

/// All of these conditions: an argument's number, how it is compared, and with what.
fn all<const N: usize>(conditions: [(u8, SeccompCmpOp, u64); N]) -> anyhow::Result<SeccompRule> {
    let conditions = conditions.map(|(argument, how, value)| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value)
    });
    Ok(SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)?)
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::io;
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;

    use super::*;
    use crate::gateway::config::DriverChoice;
    use crate::gateway::drivers;

    const INSIDE: &str = "TIDEGATE_TEST_INSIDE";

    /// What system calls say: the number of their error, 0 for none.
    fn errno(result: libc::c_long) -> i32 {
        if result < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 }
    }

    /// How many calls [`try_everything`] makes.
    const CALLS: usize = 14;

    /// Only for a process that may do none of it.
    fn try_everything() -> [(&'static str, i32); CALLS] {
        let path = CString::new("/").expect("a path");
        let at = path.as_ptr();
        let of = |call, one: usize, two: usize, three: usize| {
            // SAFETY: none of these calls is given memory but for a path that outlives it.
            errno(unsafe { libc::syscall(call, one, two, three, 0, 0, 0) })
        };
        let here = libc::AT_FDCWD as usize;
        [
            ("openat", of(libc::SYS_openat, here, at as usize, 0)),
            ("openat2", of(libc::SYS_openat2, here, at as usize, 0)),
            ("socket", of(libc::SYS_socket, libc::AF_INET as usize, libc::SOCK_STREAM as usize, 0)),
            ("connect", of(libc::SYS_connect, 0, 0, 0)),
            ("bind", of(libc::SYS_bind, 0, 0, 0)),
            ("execve", of(libc::SYS_execve, at as usize, 0, 0)),
            ("ptrace", of(libc::SYS_ptrace, 0, 0, 0)),
            ("clone", of(libc::SYS_clone, libc::SIGCHLD as usize, 0, 0)),
            ("kill", of(libc::SYS_kill, 1, 0, 0)),
            ("io_uring_setup", of(libc::SYS_io_uring_setup, 8, 0, 0)),
            ("io_uring_register", of(libc::SYS_io_uring_register, 0, 0, 0)),
            ("setuid", of(libc::SYS_setuid, 0, 0, 0)),
            ("unshare", of(libc::SYS_unshare, libc::CLONE_NEWUSER as usize, 0, 0)),
            ("memfd_create", of(libc::SYS_memfd_create, at as usize, 0, 0)),
        ]
    }

    /// Runs in a process of its own, and says on its standard output what it found.
    fn inside() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let cell = Cell::find(None).expect("a cell");
        let landlocked = cell.enter().expect("entered");
        // Landlock by itself, before the filter hides what it says.
        let connected = TcpStream::connect(address).map_err(|why| why.raw_os_error());
        let listed = fs::read_dir("/").map(|_| ()).map_err(|why| why.raw_os_error());
        let driver = drivers::open_as(DriverChoice::Auto, true).expect("a driver");
        close().expect("closed");
        let status: Vec<i32> = try_everything().into_iter().map(|(_, errno)| errno).collect();
        drop(driver);
        println!("found {landlocked:?} {connected:?} {listed:?} {status:?}");
    }

    /// SECURITY case 132: of what an edge may not do, nothing works.
    #[test]
    fn case_132_an_edge_can_open_and_begin_nothing() {
        if std::env::var_os(INSIDE).is_some() {
            return inside();
        }
        if !nix::unistd::geteuid().is_root() {
            println!("only root can give rights up");
            return;
        }
        let this = std::thread::current().name().expect("a test").to_owned();
        let mut again = Command::new(std::env::current_exe().expect("this program"));
        again.args(["--exact", "--nocapture", &this]).env(INSIDE, "1");
        let output = again.output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let found = text.lines().find_map(|line| line.split_once("found ")).expect(&text).1;
        let denied = format!("{:?}", vec![libc::EPERM; CALLS]);
        assert!(found.ends_with(&denied), "{found}");
        if !found.starts_with("No ") {
            let refused = format!("Err(Some({0})) Err(Some({0}))", libc::EACCES);
            assert!(found.contains(&refused), "Landlock: {found}");
        }
    }

    #[test]
    fn an_edge_is_never_root_and_its_directory_is_roots_and_empty() {
        assert!(Cell::find(Some("root")).is_err());
        assert!(Cell::find(Some("no-such-user-here")).is_err());
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("x"), "").expect("a file");
        assert!(!is_empty_and_roots(folder.path()));
        assert!(!is_empty_and_roots(&folder.path().join("x")));
        assert!(!is_empty_and_roots(Path::new("/nonexistent")));
    }
}
