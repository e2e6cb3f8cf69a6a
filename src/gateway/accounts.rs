//! The system's accounts: look-ups in the user database, and acting with an account's rights on
//! files. Everything here may block; it runs on worker threads.

use std::ffi::CString;
use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist, getgroups, setfsgid, setfsuid};

use crate::limits::{ACCOUNT_GROUPS_MAX, SHADOW_ENTRY_BYTES_MAX};
use crate::services::Account;

/// What an empty shell field stands for.
const SHELL: &str = "/bin/sh";

/// The account of that name; `None` when there is none, or none of exactly that name (some
/// databases find `ROOT` when asked for `root`'s sibling).
pub fn by_name(name: &str) -> io::Result<Option<Account>> {
    let user = match User::from_name(name) {
        Ok(user) => user,
        // What databases answer for names they do not know besides saying so.
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => None,
        Err(why) => return Err(why.into()),
    };
    Ok(user.map(account).filter(|account| account.name == name))
}

pub fn by_uid(uid: u32) -> io::Result<Option<Account>> {
    Ok(User::from_uid(Uid::from_raw(uid))?.map(account))
}

/// The account's groups by number, its primary one among them.
pub fn group_ids(account: &Account) -> Vec<u32> {
    let primary = Gid::from_raw(account.gid);
    let listed = CString::new(account.name.as_str())
        .ok()
        .and_then(|name| getgrouplist(&name, primary).ok())
        .unwrap_or_default();
    let mut groups = vec![account.gid];
    groups.extend(listed.into_iter().map(Gid::as_raw).filter(|group| *group != account.gid));
    groups.truncate(ACCOUNT_GROUPS_MAX);
    groups
}

/// The names of groups; those without a name are left out.
pub fn group_names(groups: &[u32]) -> Vec<String> {
    let name = |group: &u32| Group::from_gid(Gid::from_raw(*group)).ok().flatten();
    groups.iter().filter_map(name).map(|group| group.name).collect()
}

/// Why an account that exists is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Its password field begins with `!`: sshd refuses keys too where PAM is not asked.
    Locked,
    /// Its date of expiry has passed.
    Expired,
}

/// Looks into the shadow database, which only root can; `None` when nothing speaks against the
/// account there.
pub fn closed(account: &Account) -> Option<Closed> {
    let shadow = shadow(&account.name)?;
    if shadow.password.starts_with(b"!") {
        return Some(Closed::Locked);
    }
    #[expect(clippy::disallowed_methods, reason = "accounts expire by the calendar")]
    let today = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let day = Duration::from_secs(24 * 60 * 60);
    let today = i64::try_from(today.as_secs() / day.as_secs()).ok()?;
    (shadow.expires > 0 && today > shadow.expires).then_some(Closed::Expired)
}

/// Runs `work` with the account's rights on files, on this thread alone, when we are root and it
/// is not. Aborts the process if the rights cannot be taken back.
pub fn with_rights_of<T>(
    account: &Account,
    groups: &[u32],
    work: impl FnOnce() -> T,
) -> io::Result<T> {
    let uid = Uid::effective();
    if !uid.is_root() || account.uid == 0 {
        return Ok(work());
    }
    let rights = Rights::take(uid, account, groups)?;
    let result = work();
    drop(rights);
    Ok(result)
}

/// Another account's rights on files; root's come back when it is dropped.
struct Rights {
    uid: Uid,
    own: &'static (Vec<Gid>, Gid),
}

impl Rights {
    fn take(uid: Uid, account: &Account, groups: &[u32]) -> io::Result<Rights> {
        let own = Rights { uid, own: own_groups()? };
        let groups = groups.iter().map(|group| Gid::from_raw(*group)).collect::<Vec<_>>();
        set_thread_groups(&groups)?;
        // From here on dropping `own` puts everything back.
        setfsgid(Gid::from_raw(account.gid));
        setfsuid(Uid::from_raw(account.uid));
        if file_uid() != account.uid {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("cannot act as {} (uid {})", account.name, account.uid),
            ));
        }
        Ok(own)
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        let (groups, gid) = self.own;
        setfsuid(self.uid);
        setfsgid(*gid);
        if set_thread_groups(groups).is_err() || file_uid() != self.uid.as_raw() {
            // A thread with somebody else's rights must do no further work.
            std::process::abort();
        }
    }
}

/// Root's own groups, which its process keeps as they were at its start: asked for once, by a thread that has
/// nobody else's.
fn own_groups() -> io::Result<&'static (Vec<Gid>, Gid)> {
    static OWN: OnceLock<(Vec<Gid>, Gid)> = OnceLock::new();
    match OWN.get() {
        Some(own) => Ok(own),
        None => {
            let own = (getgroups()?, Gid::effective());
            Ok(OWN.get_or_init(|| own))
        }
    }
}

/// The uid that this thread's file accesses are judged by.
fn file_uid() -> u32 {
    // An impossible uid changes nothing; the answer is the one in force.
    setfsuid(Uid::from_raw(u32::MAX)).as_raw()
}

/// The C library's setgroups changes every thread; the system call changes this one.
fn set_thread_groups(groups: &[Gid]) -> io::Result<()> {
    let groups = groups.iter().map(|group| group.as_raw()).collect::<Vec<libc::gid_t>>();
    // SAFETY: the kernel reads `len` group numbers from a live array of exactly that length.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn account(user: User) -> Account {
    let shell = if user.shell.as_os_str().is_empty() { PathBuf::from(SHELL) } else { user.shell };
    Account {
        name: user.name,
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        home: user.dir,
        shell,
    }
}

struct Shadow {
    password: Vec<u8>,
    /// Days since 1970; -1 for never.
    expires: i64,
}

fn shadow(name: &str) -> Option<Shadow> {
    let name = CString::new(name).ok()?;
    let mut strings = vec![0_u8; SHADOW_ENTRY_BYTES_MAX];
    let mut entry = std::mem::MaybeUninit::<libc::spwd>::zeroed();
    let mut found = std::ptr::null_mut();
    // SAFETY: every pointer is to live memory of the stated size, which the call fills in.
    let result = unsafe {
        libc::getspnam_r(
            name.as_ptr(),
            entry.as_mut_ptr(),
            strings.as_mut_ptr().cast(),
            strings.len(),
            &raw mut found,
        )
    };
    if result != 0 || found.is_null() {
        return None;
    }
    // SAFETY: the call succeeded, so `found` points to `entry`, whose password points to a
    // terminated string inside `strings`; both outlive this block.
    let (password, expires) = unsafe {
        let password = (*found).sp_pwdp;
        let bytes = match password.is_null() {
            true => Vec::new(),
            false => std::ffi::CStr::from_ptr(password).to_bytes().to_vec(),
        };
        (bytes, (*found).sp_expire)
    };
    zeroize::Zeroize::zeroize(&mut strings);
    Some(Shadow { password, expires })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn our_own_account_is_found_by_name_and_number() {
        let uid = Uid::effective().as_raw();
        let account = by_uid(uid).expect("a database").expect("an account");
        assert_eq!(by_name(&account.name).expect("a database").as_ref(), Some(&account));
        let groups = group_ids(&account);
        assert_eq!(groups.first(), Some(&account.gid));
        assert_eq!(group_names(&groups).is_empty(), groups.is_empty());
    }

    /// SECURITY case 62: whatever is asked for, the answer is an account of that very name or none.
    #[test]
    fn case_62_strange_names_are_nobody() {
        let long = "a".repeat(250_000);
        for name in [
            "",
            "no such user",
            "../root",
            "root\n",
            "a\0b",
            "%u",
            "$(id)",
            "-oProxyCommand=id",
            "ROOT",
            &long,
        ] {
            assert_eq!(by_name(name).expect("a database"), None, "{name:.20?}");
        }
    }

    #[test]
    fn root_reads_files_with_the_rights_of_the_account() {
        if !Uid::effective().is_root() {
            return;
        }
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755))
            .expect("permissions");
        let secret = directory.path().join("secret");
        std::fs::write(&secret, "x").expect("a file");
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o640)).expect("permissions");
        let nobody = by_name("nobody").expect("a database").expect("nobody");
        let groups = group_ids(&nobody);
        let denied = with_rights_of(&nobody, &groups, || std::fs::read(&secret)).expect("rights");
        assert_eq!(denied.expect_err("not readable").kind(), io::ErrorKind::PermissionDenied);
        let owned = with_rights_of(&nobody, &groups, tempfile::tempfile).expect("rights");
        assert_eq!(owned.expect("a file").metadata().expect("metadata").uid(), nobody.uid);
        assert!(std::fs::read(&secret).is_ok(), "root's rights are back");
    }
}
