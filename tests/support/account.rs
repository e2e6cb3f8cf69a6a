//! Accounts that exist for the time of a test, which root alone can make (`useradd` and `userdel` of
//! the package passwd).

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::run_ok;

/// One change of the user database at a time: its tools lock it and give up.
static DATABASE: Mutex<()> = Mutex::new(());

/// A temporary account with a group of its own and one more; gone with the value.
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub home: TempDir,
}

impl Account {
    /// `None`, and a line that says so, where accounts cannot be made.
    pub fn new() -> Option<Account> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            println!("not run: this test makes accounts, for which it must run as root");
            return None;
        }
        let home = tempfile::tempdir().expect("a home");
        let name =
            format!("tidetest{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut account = Account { name, uid: 0, home };
        let _one = DATABASE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        run_ok(Command::new("groupadd").arg(account.second_group()));
        // A password field that matches no password, but is not locked.
        run_ok(
            Command::new("useradd")
                .args(["-M", "-U", "-s", "/bin/bash", "-p", "*", "-G"])
                .arg(account.second_group())
                .arg("-d")
                .arg(account.home.path())
                .arg(&account.name),
        );
        let found = nix::unistd::User::from_name(&account.name).expect("a database");
        let found = found.expect("the new account");
        let (uid, gid) = (found.uid.as_raw(), found.gid.as_raw());
        chown(account.home.path(), Some(uid), Some(gid)).expect("its home");
        account.uid = uid;
        Some(account)
    }

    /// Changes it, with the flags of usermod.
    pub fn change(&self, flags: &[&str]) {
        let _one = DATABASE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        run_ok(Command::new("usermod").args(flags).arg(&self.name));
    }

    pub fn second_group(&self) -> String {
        format!("{}g", self.name)
    }

    pub fn at_home(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Programs that run as the account, by the name the kernel shows.
    pub fn processes(&self, name: &str) -> Vec<u32> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let field = |key: &str| {
                let line = status.lines().find(|line| line.starts_with(key));
                line.and_then(|line| line.split_whitespace().nth(1)).unwrap_or_default().to_owned()
            };
            if field("Uid:") == self.uid.to_string() && field("Name:") == name {
                found.push(pid);
            }
        }
        found
    }

    pub fn delegates(&self) -> Vec<u32> {
        self.processes("tidegate")
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.uid != 0 {
            let _ = Command::new("pkill").args(["-9", "-U", &self.uid.to_string()]).status();
        }
        let _one = DATABASE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let quiet = |program: &str, words: &[&str]| {
            let _ = Command::new(program).args(words).stderr(Stdio::null()).status();
        };
        quiet("userdel", &["-f", &self.name]);
        quiet("groupdel", &[&self.second_group()]);
    }
}
