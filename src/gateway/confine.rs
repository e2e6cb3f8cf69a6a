//! What a process of ours gives up before a byte from outside reaches it. The order matters:
//! identities, then the promise to gain no new rights, then Landlock, which threads inherit; then the
//! threads and their rings; then the filter of system calls, for all threads at once.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus,
    Scope,
};
use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Group, Uid, User, chdir, chroot, setgroups, setresgid, setresuid, setuid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use tracing::{info, warn};

use super::directory::Directory;
use super::parcel::put;
use crate::limits::PARCEL_BYTES_MAX;
use crate::services::Account;
use crate::wire::{Malformed, Reader};

/// Directories that systems keep empty for this; the last is made when there is none.
const ROOTS: [&str; 5] =
    ["/run/sshd", "/var/empty/sshd", "/usr/share/empty.sshd", "/var/empty", "/run/tidegate-empty"];
/// Who an edge is if nobody says: the first of them that there is.
const EDGE_USERS: [&str; 2] = ["sshd", "nobody"];
/// Numbers that no distribution gives to accounts or services, for a process that shares its own with
/// nobody.
const FREE_IDS: std::ops::Range<u32> = 61_000..61_184;
/// Who is taken where those are no numbers, as in containers that have a few.
const LAST_RESORT: &str = "nobody";

/// Who a process of ours runs as, and what it sees of the file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    pub uid: u32,
    pub gid: u32,
    pub root: PathBuf,
}

impl Cell {
    /// Finds both for the edge, as root. `user`: TidegateEdgeUser.
    ///
    /// # Errors
    /// There is no such user, it is root, or no directory is empty and root's alone.
    pub fn find(user: Option<&str>) -> anyhow::Result<Cell> {
        let users = user.map_or_else(|| EDGE_USERS.to_vec(), |user| vec![user]);
        Cell::of(&account(&users, "TidegateEdgeUser")?, "TidegateEdgeUser")
    }

    /// The same for the signer, which shares its number with nobody. `user`: TidegateSignerUser.
    ///
    /// # Errors
    /// As [`Cell::find`], or the account is the edge's.
    pub fn find_apart(user: Option<&str>, edge: &Cell) -> anyhow::Result<Cell> {
        Cell::find_besides(user, "TidegateSignerUser", &[("edge", edge)])
    }

    /// The same for the relay. `user`: TidegateRelayUser.
    ///
    /// # Errors
    /// As [`Cell::find`], or the account is one of the others'.
    pub fn find_for_relay(user: Option<&str>, edge: &Cell, signer: &Cell) -> anyhow::Result<Cell> {
        Cell::find_besides(user, "TidegateRelayUser", &[("edge", edge), ("signer", signer)])
    }

    fn find_besides(
        user: Option<&str>,
        keyword: &str,
        others: &[(&str, &Cell)],
    ) -> anyhow::Result<Cell> {
        let cell = match (user, free_id(others)) {
            (None, Some(id)) => Cell { uid: id, gid: id, root: empty_root()? },
            (None, None) => Cell::of(&account(&[LAST_RESORT], keyword)?, keyword)?,
            (Some(user), _) => Cell::of(&account(&[user], keyword)?, keyword)?,
        };
        if let Some((other, _)) = others.iter().find(|(_, other)| other.uid == cell.uid) {
            bail!("the {other} runs as that account too; {keyword} names another");
        }
        Ok(cell)
    }

    fn of(account: &Account, keyword: &str) -> anyhow::Result<Cell> {
        let Account { uid, gid, name, .. } = account;
        if *uid == 0 || *gid == 0 {
            bail!("{keyword} {name} has root's rights; name an account that has none");
        }
        Ok(Cell { uid: *uid, gid: *gid, root: empty_root()? })
    }

    /// As the process is told of it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.uid.to_be_bytes());
        out.extend(self.gid.to_be_bytes());
        put(out, self.root.as_os_str().as_bytes());
    }

    /// # Errors
    /// It is none.
    pub fn decode(r: &mut Reader<'_>) -> Result<Cell, Malformed> {
        let (uid, gid) = (r.uint32()?, r.uint32()?);
        let root = OsStr::from_bytes(r.string(PARCEL_BYTES_MAX)?).into();
        Ok(Cell { uid, gid, root })
    }

    /// Gives root's rights up for good. Before any thread exists. `files_max`: descriptors that it may
    /// have. Answers whether the kernel's Landlock holds, at least in part.
    ///
    /// # Errors
    /// A step failed; the process must end.
    pub fn enter(&self, files_max: u64) -> anyhow::Result<bool> {
        limit(Resource::RLIMIT_FSIZE, 0)?;
        limit(Resource::RLIMIT_CORE, 0)?;
        limit(Resource::RLIMIT_NOFILE, files_max)?;
        raise_locked_memory();
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
        let landlocked = landlock().context("Landlock")?;
        match landlocked {
            RulesetStatus::FullyEnforced => {}
            RulesetStatus::PartiallyEnforced => {
                info!("This kernel's Landlock keeps less from this process than newer ones");
            }
            RulesetStatus::NotEnforced => {
                warn!("This kernel has no Landlock; this process does without");
            }
        }
        Ok(landlocked != RulesetStatus::NotEnforced)
    }
}

fn empty_root() -> anyhow::Result<PathBuf> {
    for root in ROOTS.map(Path::new) {
        if is_empty_and_roots(root) {
            return Ok(root.to_owned());
        }
    }
    let root = Path::new(ROOTS[ROOTS.len() - 1]);
    let made = fs::DirBuilder::new().mode(0o755).create(root);
    made.with_context(|| format!("cannot make {}", root.display()))?;
    Ok(root.to_owned())
}

/// The first of these users that there is.
fn account(wanted: &[&str], keyword: &str) -> anyhow::Result<Account> {
    let directory = Directory::default();
    let find = |name: &str| directory.find(name).context("the user database does not answer");
    for name in wanted {
        if let Some(entry) = find(name)? {
            return Ok(entry.account.clone());
        }
    }
    bail!("there is no user {}; {keyword} names one", wanted.join(" and no user "))
}

/// A number that is no user's, no group's and none of these processes'.
fn free_id(others: &[(&str, &Cell)]) -> Option<u32> {
    let nobodys = |id: &u32| {
        User::from_uid(Uid::from_raw(*id)).is_ok_and(|user| user.is_none())
            && Group::from_gid(Gid::from_raw(*id)).is_ok_and(|group| group.is_none())
    };
    let there = |id: &u32| ["uid_map", "gid_map"].iter().all(|map| is_mapped(map, *id));
    let taken = |id: &u32| others.iter().any(|(_, other)| other.uid == *id || other.gid == *id);
    FREE_IDS.filter(|id| there(id) && !taken(id)).find(nobodys)
}

/// Whether this user namespace has the number.
fn is_mapped(map: &str, id: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/self/{map}")).unwrap_or_default();
    text.lines().any(|line| {
        let mut fields = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), _, Some(Ok(count))) = (fields.next(), fields.next(), fields.next())
        else {
            return false;
        };
        (first..first.saturating_add(count)).contains(&u64::from(id))
    })
}

fn is_empty_and_roots(path: &Path) -> bool {
    let ours = |at: &fs::Metadata| at.is_dir() && at.uid() == 0 && at.mode() & 0o022 == 0;
    fs::symlink_metadata(path).is_ok_and(|at| ours(&at))
        && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

pub fn limit(what: Resource, most: u64) -> anyhow::Result<()> {
    let (_, hard) = getrlimit(what)?;
    let most = most.min(hard);
    setrlimit(what, most, most).with_context(|| format!("{what:?}"))?;
    Ok(())
}

/// Some kernels count rings by the locked memory of a user, and many processes of ours share one. Answers
/// the limits before, for whoever has to put them back; where this one may not be raised, it stays.
pub fn raise_locked_memory() -> Option<(u64, u64)> {
    let before = getrlimit(Resource::RLIMIT_MEMLOCK).ok()?;
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).ok()?;
    Some(before)
}

/// Nothing of the file system, no port, no signal to anybody outside.
fn landlock() -> anyhow::Result<RulesetStatus> {
    let abi = ABI::V7;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .restrict_self()?;
    Ok(status.ruleset)
}

/// System calls and with what arguments they are allowed; an empty list: with any.
pub type Calls = BTreeMap<i64, Vec<SeccompRule>>;

/// What every process of ours takes to live and to end: memory that cannot be run, waiting for one
/// another's threads, and the way out.
///
/// # Errors
/// A rule cannot be made.
pub fn calls_of_all() -> anyhow::Result<Calls> {
    let mut calls = Calls::new();
    for call in PLAIN {
        calls.insert(*call, Vec::new());
    }
    // Memory that can be written to and run is neither made nor made so.
    let exec = libc::PROT_EXEC as u64;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        calls.insert(call, vec![all([(2, SeccompCmpOp::MaskedEq(exec), 0)])?]);
    }
    // Threads tell their names; a panic that is none of ours to survive ends this process alone.
    let name = all([(0, SeccompCmpOp::Eq, libc::PR_SET_NAME as u64)])?;
    calls.insert(libc::SYS_prctl, vec![name]);
    let own = u64::from(std::process::id());
    calls.insert(libc::SYS_tgkill, vec![all([(0, SeccompCmpOp::Eq, own)])?]);
    Ok(calls)
}

/// None opens, makes or names anything.
const PLAIN: &[i64] = &[
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
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

/// Once every thread is there: no new ones, and no system call but these; any other fails with EPERM.
///
/// # Errors
/// The kernel has no seccomp; the process must end.
pub fn close(calls: Calls) -> anyhow::Result<()> {
    limit(Resource::RLIMIT_NPROC, 0)?;
    let filter = SeccompFilter::new(
        calls,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into().context("a filter for this processor")?,
    )?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter_all_threads(&program).context("seccomp")?;
    Ok(())
}

/// All of these conditions: an argument's number, how it is compared, and with what.
pub fn all<const N: usize>(
    conditions: [(u8, SeccompCmpOp, u64); N],
) -> anyhow::Result<SeccompRule> {
    let conditions = conditions.map(|(argument, how, value)| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value)
    });
    Ok(SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_signer_is_nobody_else() {
        let edge = Cell { uid: 65_534, gid: 65_534, root: "/".into() };
        let why = Cell::find_apart(Some("nobody"), &edge).expect_err("the edge's").to_string();
        assert!(why.contains("TidegateSignerUser names another"), "{why}");
        assert!(Cell::find_apart(Some("root"), &edge).is_err());
        let free = free_id(&[]).expect("a number");
        let signer = Cell { uid: free, gid: free, root: "/".into() };
        assert_ne!(free_id(&[("signer", &signer)]), Some(free));
        assert!(User::from_uid(Uid::from_raw(free)).expect("an answer").is_none());
        assert!(is_mapped("uid_map", 0) && !is_mapped("no_map", 0));
    }
}
