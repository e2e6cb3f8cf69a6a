use std::ffi::CString;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::crypto::{PublicKey, SignatureAlgorithm};
use crate::reactor::Fd;
use crate::services::sftp::{FsDone, FsJob};

/// Work that would stall a shard: file-system paths, account look-ups, slow signatures, starting
/// processes. Done by the process's worker pool, answered as [`Done`].
#[derive(Debug)]
pub enum Job {
    /// May this key log in as this user? Looks the account up and reads its authorized_keys.
    FindKey {
        user: Box<str>,
        key: Box<PublicKey>,
        peer: SocketAddr,
    },
    /// Signs with host key number `host_key` of the configuration.
    Sign {
        host_key: usize,
        algorithm: SignatureAlgorithm,
        message: Box<[u8]>,
    },
    Spawn(Box<SpawnSpec>),
    Fs(Box<FsJob>),
}

#[derive(Debug)]
pub enum Done {
    Key(Option<Box<Grant>>),
    /// `None` when the key could not sign; the cause has been logged by the worker.
    Signature(Option<Box<[u8]>>),
    Spawned(Result<Spawned, SpawnFailed>),
    Fs(Box<FsDone>),
}

/// A system account as the user database gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: PathBuf,
    pub shell: PathBuf,
}

/// What a key that was found permits; made by policy alone, bound to that key.
#[derive(Clone, Debug)]
pub struct Grant {
    pub account: Account,
    /// The key this grant belongs to; checked again when authentication succeeds.
    pub key: PublicKey,
    /// Runs instead of whatever the client asks for (ForceCommand).
    pub forced_command: Option<String>,
    pub pty: bool,
    /// The path and line that let the key in, for the log.
    pub source: String,
}

#[derive(Debug)]
pub enum Program {
    /// The account's login shell.
    Shell,
    /// `shell -c command`.
    Command(CString),
}

#[derive(Debug)]
pub struct SpawnSpec {
    pub account: Account,
    pub program: Program,
    /// Complete `NAME=value` strings; the child gets these and nothing else.
    pub env: Vec<CString>,
    /// The slave's path when a terminal was requested; it becomes the controlling terminal.
    pub pty: Option<CString>,
}

/// A started child. Descriptors are non-blocking and close-on-exec. With a terminal, `stdin`,
/// `stdout` and `stderr` are absent: the service already has the master.
#[derive(Debug)]
pub struct Spawned {
    pub pid: i32,
    pub pidfd: Fd,
    pub stdin: Option<Fd>,
    pub stdout: Option<Fd>,
    pub stderr: Option<Fd>,
}

#[derive(Debug, thiserror::Error)]
#[error("{program}: {why}")]
pub struct SpawnFailed {
    pub program: String,
    pub why: std::io::Error,
}
