//! Disks that are full, broken, closed or gone.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;

use crate::client::{
    BAD_MESSAGE, CREATE, EOF, FAILURE, NO_SUCH_FILE, OK, PERMISSION_DENIED, READ, Sftp, WRITE,
};
use crate::support::account::Account;
use crate::support::{Gateway, noise};

/// A filesystem of a test's own, in memory; gone with the value.
struct Disk(TempDir);

impl Disk {
    /// `None`, and a line that says so, where nothing can be mounted or the kernel lacks an option.
    fn mount(options: &str) -> Option<Disk> {
        let folder = tempfile::tempdir().expect("a folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "none"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Disk(folder));
        }
        println!("not run: this test mounts a filesystem (tmpfs with {options}), as root");
        None
    }

    fn path(&self, name: &str) -> Vec<u8> {
        self.0.path().join(name).as_os_str().as_bytes().to_vec()
    }

    fn change(&self, options: &str) {
        let path = self.0.path();
        let changed = Command::new("mount").args(["-o", options]).arg(path).status();
        assert!(changed.expect("mount starts").success(), "mount -o {options}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Writes until the disk has had enough; what was acknowledged is there.
fn fill(sftp: &mut Sftp, path: &[u8], bytes: &[u8]) -> u32 {
    let handle = sftp.open(path, WRITE | CREATE).expect("a handle");
    let mut acknowledged = 0;
    let mut last = OK;
    // Many at once: those behind the one that fails fail by themselves.
    for (n, piece) in bytes.chunks(100_000).enumerate() {
        sftp.send_write(&handle, n as u64 * 100_000, piece);
    }
    for piece in bytes.chunks(100_000) {
        let (_, status) = sftp.hear_status();
        if last == OK {
            last = status;
        }
        if last == OK {
            acknowledged += piece.len();
        }
    }
    assert_eq!(sftp.close(&handle), OK);
    let file = Path::new(std::ffi::OsStr::from_bytes(path));
    let there = fs::read(file).expect("a file");
    assert!(there[..acknowledged] == bytes[..acknowledged], "acknowledged and not written");
    last
}

#[test]
fn a_full_disk_fails_what_does_not_fit() {
    let Some(disk) = Disk::mount("size=1m") else { return };
    let gateway = Gateway::start(&[]);
    let mut sftp = Sftp::start(&gateway);
    let bytes = noise(3 << 20, 1);
    assert_eq!(fill(&mut sftp, &disk.path("a"), &bytes), FAILURE);
    // The session goes on: there, and elsewhere.
    assert_eq!(sftp.remove(&disk.path("a")), OK);
    assert_eq!(fill(&mut sftp, &disk.path("b"), &bytes[..900_000]), OK);
    let other = gateway.path("other");
    assert_eq!(fill(&mut sftp, other.as_os_str().as_bytes(), &bytes), OK);
    sftp.end();
}

/// With the rights and the quota of an account that is not root.
#[test]
fn quotas_and_permissions_are_those_of_the_account() {
    let Some(account) = Account::new() else { return };
    let gateway = Gateway::start(&[]);
    // The file of keys is read with the account's rights.
    fs::set_permissions(gateway.folder.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let mut sftp = Sftp::start_as(&gateway, Some(&account.name));
    for (name, mode) in [("secret", 0o000), ("given", 0o444)] {
        let file = account.at_home(name);
        fs::write(&file, b"text").expect("a file");
        chown(&file, Some(account.uid), None).expect("an owner");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("a mode");
    }
    let path = |name: &str| account.at_home(name).as_os_str().as_bytes().to_vec();
    assert_eq!(sftp.open(&path("secret"), READ), Err(PERMISSION_DENIED));
    assert_eq!(sftp.open(&path("given"), WRITE), Err(PERMISSION_DENIED));
    assert_eq!(sftp.open(b"/etc/shadow", READ), Err(PERMISSION_DENIED));
    assert_eq!(sftp.open(b"/new", WRITE | CREATE), Err(PERMISSION_DENIED));
    let handle = sftp.open(&path("given"), READ).expect("a handle");
    assert_eq!(sftp.read(&handle, 0, 100), Ok(b"text".to_vec()));
    assert_eq!(sftp.close(&handle), OK);
    if let Some(disk) = Disk::mount("size=8m,mode=777,usrquota,usrquota_block_hardlimit=1m") {
        let bytes = noise(3 << 20, 2);
        assert_eq!(fill(&mut sftp, &disk.path("a"), &bytes), FAILURE);
        assert_eq!(sftp.remove(&disk.path("a")), OK);
        assert_eq!(fill(&mut sftp, &disk.path("b"), &bytes[..900_000]), OK);
    }
    sftp.end();
}

#[test]
fn a_disk_that_turns_read_only_fails_what_would_write() {
    let Some(disk) = Disk::mount("size=4m") else { return };
    let gateway = Gateway::start(&[]);
    let mut sftp = Sftp::start(&gateway);
    assert_eq!(fill(&mut sftp, &disk.path("a"), b"text"), OK);
    disk.change("remount,ro");
    assert_eq!(sftp.open(&disk.path("a"), WRITE), Err(FAILURE));
    assert_eq!(sftp.remove(&disk.path("a")), FAILURE);
    let handle = sftp.open(&disk.path("a"), READ).expect("a handle");
    assert_eq!(sftp.read(&handle, 0, 100), Ok(b"text".to_vec()));
    assert_eq!(sftp.close(&handle), OK);
    disk.change("remount,rw");
    assert_eq!(fill(&mut sftp, &disk.path("a"), b"more"), OK);
    sftp.end();
}

/// The memory of a process reads and writes as EIO where it has none.
#[test]
fn an_error_of_the_disk_fails_what_met_it_alone() {
    if !nix::unistd::geteuid().is_root() {
        println!("not run: this test opens the memory of a process, for which it must run as root");
        return;
    }
    let gateway = Gateway::start(&[]);
    let mut sftp = Sftp::start(&gateway);
    let memory = format!("/proc/{}/mem", std::process::id());
    let handle = sftp.open(memory.as_bytes(), READ | WRITE).expect("a handle");
    assert_eq!(sftp.read(&handle, 0, 4096), Err(FAILURE));
    let word = Box::new(AtomicU64::new(0x5449_4445_4741_5445));
    let at = std::ptr::from_ref(&*word) as u64;
    let there = |word: &AtomicU64| word.load(Ordering::SeqCst).to_ne_bytes();
    assert_eq!(sftp.read(&handle, at, 8), Ok(there(&word).to_vec()));
    assert_eq!(sftp.write(&handle, 0, b"nowhere"), FAILURE);
    // Those around a write that fails are carried out, and said to be.
    let ids = [(at, b"one."), (0, b"two."), (at + 4, b"thr.")]
        .map(|(at, bytes)| sftp.send_write(&handle, at, bytes));
    let mut heard: Vec<(u32, u32)> = ids.iter().map(|_| sftp.hear_status()).collect();
    heard.sort_unstable();
    assert_eq!(heard, [(ids[0], OK), (ids[1], FAILURE), (ids[2], OK)]);
    assert_eq!(&there(&word), b"one.thr.");
    // Nothing stands behind it that could be synchronized: EINVAL.
    assert_eq!(sftp.sync(&handle), BAD_MESSAGE);
    assert_eq!(sftp.read(&handle, 0, 4096), Err(FAILURE));
    assert_eq!(sftp.close(&handle), OK);
    let other = gateway.path("other");
    assert_eq!(fill(&mut sftp, other.as_os_str().as_bytes(), b"text"), OK);
    sftp.end();
}

#[test]
fn what_vanishes_is_said_to_be_gone() {
    let gateway = Gateway::start(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let (file, inner) = (folder.path().join("file"), folder.path().join("inner"));
    let bytes = noise(300_000, 3);
    fs::write(&file, &bytes).expect("a file");
    fs::create_dir(&inner).expect("a folder");
    fs::write(inner.join("name"), b"").expect("a file");
    let (path, inner_path) = (file.as_os_str().as_bytes(), inner.as_os_str().as_bytes());
    let mut sftp = Sftp::start(&gateway);
    let handle = sftp.open(path, READ | WRITE).expect("a handle");
    let listing = sftp.open_directory(inner_path).expect("a handle");
    fs::remove_file(&file).expect("it is there");
    fs::remove_dir_all(&inner).expect("it is there");
    // An open file stays; its name is gone.
    assert_eq!(sftp.size(path), Err(NO_SUCH_FILE));
    assert_eq!(sftp.open(path, READ), Err(NO_SUCH_FILE));
    assert_eq!(sftp.remove(path), NO_SUCH_FILE);
    assert_eq!(sftp.read(&handle, 100_000, 200_000), Ok(bytes[100_000..].to_vec()));
    assert_eq!(sftp.write(&handle, 0, b"nobody's"), OK);
    // A reader that is overtaken finds an end.
    fs::write(&file, b"another").expect("a file");
    assert_eq!(sftp.set_size(&handle, 10), OK);
    assert_eq!(sftp.read(&handle, 10, 1), Err(EOF));
    assert_eq!(sftp.size(path), Ok(7));
    let listed = sftp.read_directory(&listing);
    assert!(listed == Err(EOF) || listed == Err(NO_SUCH_FILE), "{listed:?}");
    assert_eq!(sftp.close(&listing), OK);
    assert_eq!(sftp.open_directory(inner_path), Err(NO_SUCH_FILE));
    assert_eq!(sftp.close(&handle), OK);
    sftp.end();
}
