//! Root's side of the processes that act for accounts: starts one per account at its first login,
//! passes connections to it, and makes the signatures that its rekeys need.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crossbeam::channel::Receiver;
use nix::unistd::{Gid, Uid, getgrouplist};
use tracing::{error, info, warn};

use super::config::LogLevel;
use super::parcel::Parcel;
use super::socket::Messenger;
use crate::crypto::{PrivateKey, SignatureAlgorithm};
use crate::limits::PARCEL_BYTES_MAX;
use crate::services::Account;
use crate::shard::HandOver;

/// The descriptor number at which a delegate finds its end of the socket pair.
pub const DELEGATE_FD: i32 = 3;

/// What a new delegate is told and what its requests are answered with.
pub struct BrokerConfig {
    /// The effective configuration as text, which the delegate reads again.
    pub settings: Vec<u8>,
    pub host_keys: Arc<[PrivateKey]>,
    pub reactors: usize,
    pub log_json: bool,
    pub log_level: LogLevel,
}

/// A running process of one account.
struct Delegate {
    messenger: Messenger,
    sent: Arc<AtomicU64>,
    /// It has said that it is idle and was let go, or it has ended.
    gone: Arc<AtomicBool>,
    /// Held while a connection is sent and while a farewell is answered, so that no connection
    /// is sent to a process that has just been let go.
    door: Arc<Mutex<()>>,
}

/// Serves hand-overs until every shard is gone.
pub fn run(config: &BrokerConfig, connections: &Receiver<Box<HandOver>>) {
    let mut delegates: BTreeMap<u32, Delegate> = BTreeMap::new();
    for connection in connections {
        let account = connection.grant.account.clone();
        // SAFETY: the shard gave this descriptor up when it handed the connection over.
        let socket = unsafe { OwnedFd::from_raw_fd(connection.socket.0) };
        let parcel = Parcel::Connection {
            serial: connection.serial,
            peer: connection.ends.peer,
            local: connection.ends.local,
            record: connection.record.clone(),
            inbound: connection.inbound.clone(),
            grant: connection.grant.encode(),
        };
        let bytes = parcel.encode();
        let living =
            delegates.get(&account.uid).is_some_and(|delegate| delegate.pass(&bytes, &socket));
        if living {
            continue;
        }
        delegates.retain(|_, delegate| !delegate.gone.load(Ordering::Acquire));
        match start(config, &account) {
            Ok(delegate) => {
                if !delegate.pass(&bytes, &socket) {
                    error!(user = account.name, "the new process of {} is gone", account.name);
                }
                delegates.insert(account.uid, delegate);
            }
            Err(why) => {
                let user = &account.name;
                error!(user, %why, "cannot start a process for {user}: {why}");
            }
        }
    }
    for delegate in delegates.values() {
        let _ = delegate.messenger.send(&Parcel::Stop.encode(), None);
    }
}

impl Delegate {
    /// `false` when the process has ended or is ending.
    fn pass(&self, bytes: &[u8], socket: &OwnedFd) -> bool {
        let _door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        if self.gone.load(Ordering::Acquire) {
            return false;
        }
        self.sent.fetch_add(1, Ordering::AcqRel);
        match self.messenger.send(bytes, Some(socket.as_fd())) {
            Ok(()) => true,
            Err(why) => {
                warn!(%why, "a connection could not be passed on: {why}");
                false
            }
        }
    }
}

fn start(config: &BrokerConfig, account: &Account) -> io::Result<Delegate> {
    let (ours, theirs) = Messenger::pair()?;
    let child = spawn(config, account, &theirs)?;
    drop(theirs);
    let host_keys = config.host_keys.iter().map(|key| key.public().blob().to_vec()).collect();
    let setup = Parcel::Setup { config: config.settings.clone(), host_keys };
    ours.send(&setup.encode(), None)?;
    let (user, pid) = (&account.name, child.id());
    info!(user, pid, "Started process {pid} for {user}");
    let delegate = Delegate {
        messenger: ours.try_clone()?,
        sent: Arc::new(AtomicU64::new(0)),
        gone: Arc::new(AtomicBool::new(false)),
        door: Arc::new(Mutex::new(())),
    };
    let listener = Listener {
        messenger: ours,
        child,
        sent: Arc::clone(&delegate.sent),
        gone: Arc::clone(&delegate.gone),
        door: Arc::clone(&delegate.door),
        host_keys: Arc::clone(&config.host_keys),
        user: account.name.clone(),
    };
    thread::Builder::new()
        .name(format!("for {}", account.name))
        .stack_size(256 * 1024)
        .spawn(move || listener.listen())?;
    Ok(delegate)
}

fn spawn(config: &BrokerConfig, account: &Account, theirs: &Messenger) -> io::Result<Child> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let name = CString::new(account.name.as_str())?;
    let groups: Vec<libc::gid_t> = getgrouplist(&name, gid)?.into_iter().map(Gid::as_raw).collect();
    let socket = theirs.as_owned_fd().as_raw_fd();
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("tidegate")
        .arg("delegate")
        .arg("--reactors")
        .arg(config.reactors.to_string())
        .args(["--log-format", if config.log_json { "json" } else { "text" }])
        .args(["--log-level", config.log_level.name()])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    // SAFETY: between fork and exec only async-signal-safe system calls are made, on memory that
    // was prepared before the fork.
    unsafe {
        command.pre_exec(move || {
            // Copying a descriptor onto itself would leave it close-on-exec.
            check(match socket {
                DELEGATE_FD => libc::fcntl(socket, libc::F_SETFD, 0),
                _ => libc::dup2(socket, DELEGATE_FD),
            })?;
            check(libc::setgroups(groups.len(), groups.as_ptr()))?;
            check(libc::setresgid(gid.as_raw(), gid.as_raw(), gid.as_raw()))?;
            check(libc::setresuid(uid.as_raw(), uid.as_raw(), uid.as_raw()))
        });
    }
    command.spawn()
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Hears one delegate until it ends.
struct Listener {
    messenger: Messenger,
    child: Child,
    sent: Arc<AtomicU64>,
    gone: Arc<AtomicBool>,
    door: Arc<Mutex<()>>,
    host_keys: Arc<[PrivateKey]>,
    user: String,
}

impl Listener {
    fn listen(mut self) {
        let mut buffer = vec![0; PARCEL_BYTES_MAX as usize];
        let user = self.user.clone();
        loop {
            let message = match self.messenger.receive(&mut buffer) {
                Ok((0, _)) => break,
                Ok((len, _)) => Parcel::decode(buffer.get(..len).unwrap_or(&[])),
                Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            match message {
                Ok(Parcel::Sign { ticket, host_key, algorithm, message }) => {
                    let signature = self.sign(host_key, &algorithm, &message);
                    let answer = Parcel::Signature { ticket, signature };
                    if self.messenger.send(&answer.encode(), None).is_err() {
                        break;
                    }
                }
                Ok(Parcel::Idle { received }) => {
                    if self.let_go(received) {
                        break;
                    }
                }
                _ => {
                    error!(user, "the process of {user} sent something it may not send");
                    let _ = self.child.kill();
                    break;
                }
            }
        }
        self.gone.store(true, Ordering::Release);
        let status = self.child.wait();
        match status {
            Ok(status) if status.success() => info!(user, "The process of {user} has ended"),
            Ok(status) => error!(user, %status, "The process of {user} ended with {status}"),
            Err(why) => error!(user, %why, "the process of {user} cannot be waited for: {why}"),
        }
    }

    /// Only exchange hashes are signed: a delegate cannot have a longer text of its own signed.
    fn sign(&self, host_key: u32, algorithm: &str, hash: &[u8]) -> Vec<u8> {
        let key = self.host_keys.get(host_key as usize);
        let algorithm = SignatureAlgorithm::from_name(algorithm);
        match (key, algorithm) {
            (Some(key), Some(algorithm)) => key.sign(algorithm, hash).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// Lets an idle process end, unless a connection is on its way to it.
    fn let_go(&self, received: u64) -> bool {
        let _door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        if self.sent.load(Ordering::Acquire) != received {
            return false;
        }
        self.gone.store(true, Ordering::Release);
        let _ = self.messenger.send(&Parcel::Stop.encode(), None);
        true
    }
}
