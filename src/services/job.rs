use std::any::Any;
use std::ffi::{CString, OsStr};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::base::wildcard_match;
use crate::connection::{
    Chains, ConnectionConfig, HostKeyProofs, LoginLimits, LoginSession, Presence, Questions,
    Secret, Secrets, Signed,
};
use crate::crypto::kex::Group;
use crate::crypto::{
    Certificate, KexError, KexPiece, KexTask, PrivateKey, PublicKey, SharedSecret, ShownKey,
    SignatureAlgorithm,
};
use crate::limits::PARCEL_BYTES_MAX;
use crate::services::forward::{Display, DisplaySpec, ListenSpec, Listened, Listening};
use crate::services::process::Environment;
use crate::services::rules::USUAL_BYTES;
use crate::services::scp::{ScpDone, ScpJob};
use crate::services::sftp::{FsDone, FsJob};
use crate::services::upstream::{Trouble, Upstream, Way};
use crate::services::{AuthInfo, Child, Place, Root, RoutingDomain, Rules, Terminal, TerminalSpec};
use crate::transport::{RekeyLimits, SignableExchange};
use crate::wire::Reader;

/// Work that would stall a shard: file-system paths, account look-ups, slow signatures, starting
/// processes. Done by the process's worker pool, answered as [`Done`].
#[derive(Debug)]
pub enum Job {
    /// May this key log in as this user? Looks the account up and reads its authorized_keys.
    FindKey {
        user: Box<str>,
        /// What stood behind the user in the login name, for whoever verifies what was signed.
        style: Box<str>,
        key: Box<PublicKey>,
        /// How the key signs; policy may allow only some ways.
        algorithm: SignatureAlgorithm,
        /// What the key was shown in; nothing about it has been checked.
        certificate: Option<Box<Certificate>>,
        /// What it is to have signed as well, for whoever verifies it in the place of the shard.
        signed: Option<Box<Signed>>,
        from: Origin,
        about: About,
    },
    /// Are these this user's? Hashes, which takes tens of milliseconds, and reads files.
    CheckSecrets {
        user: Box<str>,
        secrets: Box<Secrets>,
        from: Origin,
        about: About,
    },
    /// Goes on with a login by keyboard-interactive in the words of PAM's modules; without answers it begins.
    Converse {
        user: Box<str>,
        answers: Option<Vec<Secret>>,
        from: Origin,
        about: About,
    },
    /// May the account of a login that is over be used? Asks PAM.
    Admit {
        grant: Box<Grant>,
        from: Origin,
        about: About,
    },
    /// What holds before the login of this user: banner, tries, whether it may go on at all. May
    /// look the peer's name up.
    Greet {
        user: Box<str>,
        from: Origin,
    },
    /// A client has left that has only asked for the methods of this user: whoever keeps records may want to
    /// know. Nobody waits for an answer.
    Left {
        user: Box<str>,
        from: Origin,
        about: About,
    },
    /// Answers a client's public value in a finite-field key exchange.
    Agree {
        group: Box<Group>,
        client_public: Box<[u8]>,
    },
    /// Does a piece of a key exchange with a host.
    Compute(Box<KexTask>),
    /// Signs with host key number `host_key` of the configuration.
    Sign {
        from: Origin,
        host_key: usize,
        algorithm: SignatureAlgorithm,
        /// The exchange hash.
        message: Box<[u8]>,
        /// What it was made of, for a signer that is to make it himself.
        exchange: Option<SignableExchange>,
    },
    /// Proves to the client of this session that we hold host keys: [`crate::connection::host_key_proof`].
    ProveHostKeys {
        session: Box<[u8]>,
        keys: HostKeyProofs,
    },
    /// Makes a pseudo-terminal: [`super::open_terminal`].
    Terminal(Box<TerminalSpec>),
    /// Starts a program: [`super::spawn()`].
    Spawn(Box<SpawnSpec>),
    /// Paths begin at the root.
    Fs(Root, Box<FsJob>),
    Scp(Root, Box<ScpJob>),
    /// Looks a host's addresses up: [`super::forward::resolve`].
    Resolve {
        host: Box<str>,
        port: u16,
        /// The user who wants to know.
        asker: Arc<str>,
    },
    /// Connects to a socket in the file system: [`super::forward::connect_to_path`].
    ConnectPath(Box<[u8]>),
    /// Connects to an agent that is lent, and tells it first for whom it will sign: a whole frame of its
    /// protocol (OpenSSH PROTOCOL.agent, session-bind).
    ConnectAgent {
        path: Box<[u8]>,
        bind: Box<[u8]>,
    },
    /// Asks the program that knows which hosts a login goes on at.
    FindHosts {
        /// The login's name in the log.
        link: u64,
        upstream: Arc<Upstream>,
        /// The user who has logged in here.
        asker: Arc<str>,
    },
    /// Finds the way to a host of these, by its number: addresses, and the key to log in with.
    FindWay {
        link: u64,
        upstream: Arc<Upstream>,
        host: usize,
        /// The key that is to be certified for this login; `None`: one is made if that is wanted.
        subject: Option<Box<PublicKey>>,
        /// The user who has logged in here.
        asker: Arc<str>,
    },
    /// Is this the host's key?
    JudgeHost {
        link: u64,
        upstream: Arc<Upstream>,
        host: usize,
        shown: ShownKey,
        /// The session's identifier, and the key's signature over it.
        session: Box<[u8]>,
        signature: Box<[u8]>,
    },
    /// Has a login at a host signed by the key that opens it, where that is not here.
    HaveLoginSigned {
        link: u64,
        upstream: Arc<Upstream>,
        algorithm: SignatureAlgorithm,
        session: LoginSession,
    },
    /// Signs a login at another host.
    SignLogin {
        key: Arc<PrivateKey>,
        algorithm: SignatureAlgorithm,
        message: Box<[u8]>,
    },
    /// Listens for a client: [`super::forward::listen_at`].
    Listen {
        spec: Box<ListenSpec>,
        /// The user whose client it is.
        asker: Arc<str>,
    },
    /// [`super::forward::make_agent_socket`].
    MakeAgentSocket,
    /// [`super::forward::listen_as_display`].
    MakeDisplay(Box<DisplaySpec>),
    /// [`super::forward::remove_agent_socket`].
    RemoveAgentSocket(PathBuf),
}

impl Job {
    /// The user who is to have no more than a share of those who do it, since it may wait for other machines for
    /// as long as they like; `None`: nobody need be told from others.
    pub const fn asker(&self) -> Option<&Arc<str>> {
        match self {
            Job::Resolve { asker, .. }
            | Job::FindHosts { asker, .. }
            | Job::FindWay { asker, .. }
            | Job::Listen { asker, .. } => Some(asker),
            _ => None,
        }
    }
}

/// The connection that a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its name in the log; no other connection of the gateway has it.
    pub link: u64,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// Only told where somebody wants to know.
    pub routing: RoutingDomain,
}

#[derive(Debug)]
pub enum Done {
    Key(Option<Box<Grant>>),
    /// What a user is to be asked, or only told.
    Asks(Box<Questions>),
    Admitted(AccountAnswer),
    /// Our public value and the shared secret, for the shard that asked.
    Agreement(Result<(Box<[u8]>, SharedSecret), KexError>),
    /// The piece of the key exchange, for the shard that asked.
    Computed(Result<KexPiece, KexError>),
    Greeted(Greeted),
    /// `None` when the key could not sign; the cause has been logged by the worker.
    Signature(Option<Box<[u8]>>),
    /// A signature for each key, or none at all.
    HostKeysProved(Option<Box<[Box<[u8]>]>>),
    Terminal(std::io::Result<Terminal>),
    Spawned(Result<Child, SpawnFailed>),
    Fs(Box<FsDone>),
    Scp(Box<ScpDone>),
    Hosts(Result<Box<Upstream>, Trouble>),
    Way(Result<Box<Way>, Trouble>),
    Judged(Result<(), Trouble>),
    Resolved(std::io::Result<Vec<SocketAddr>>),
    Connected(std::io::Result<OwnedFd>),
    Listening(std::io::Result<Listening>),
    AgentSocket(std::io::Result<(PathBuf, OwnedFd)>),
    /// With what was asked for.
    Display(Box<DisplaySpec>, std::io::Result<Listened>),
    Removed,
    /// The job was lost to a defect or to the end of the process; it may have been begun.
    Lost,
}

/// What comes of a [`Job::Greet`].
#[derive(Debug)]
pub struct Greeted {
    /// `None`: the configuration wants no such connection (RefuseConnection).
    pub config: Option<Arc<ConnectionConfig>>,
    pub about: About,
}

/// What comes of a [`Job::Admit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountAnswer {
    pub allowed: bool,
    /// What the user is to be told.
    pub text: Box<str>,
}

/// Something that whoever answers keeps for a connection between its questions; nobody else looks into it.
#[derive(Clone)]
pub struct Kept(pub Arc<dyn Any + Send + Sync>);

impl std::fmt::Debug for Kept {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Kept")
    }
}

/// What was found out about a connection when it named its user; the shard only carries it.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The peer's name, if names are looked up and this one leads back to its address.
    pub host: Option<Arc<str>>,
    /// The number of the log level that holds for the connection, if it has its own.
    pub verbosity: Option<u8>,
    /// Where whoever answers for others keeps something.
    pub kept: Option<Kept>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub account: Account,
    /// The key this grant belongs to, or none; checked again when authentication succeeds.
    pub key: Option<PublicKey>,
    /// Runs instead of whatever the client asks for: `ForceCommand`, or the key's `command=`.
    pub forced_command: Option<String>,
    pub pty: bool,
    /// Patterns of the variables a client may set.
    pub accept_env: Vec<String>,
    /// Variables put into every session.
    pub set_env: Vec<(String, String)>,
    pub subsystems: Vec<(String, Subsystem)>,
    /// `TidegateScp internal`: the commands of scp's own protocol are served in process.
    pub scp: bool,
    /// The soft limit of open files for programs; `None` leaves them ours.
    pub open_files: Option<u64>,
    /// What the login's own settings change of its connection; `None`: nothing.
    pub limits: Option<LoginLimits>,
    /// What let the key in (`path:line`), for the log.
    pub source: String,
    /// As [`About::verbosity`]; less than 255.
    pub verbosity: Option<u8>,
    pub rules: Rules,
    /// What a security key has to attest; asked before anything is handed over.
    pub presence: Presence,
    /// What of the file system it has.
    pub place: Place,
    /// Where the login goes on; `None`: here. Such a one stays with the process that made it.
    pub upstream: Option<Arc<Upstream>>,
    /// What it takes to log in as this user; asked before anything is handed over.
    pub demands: Demands,
}

/// What a login's settings ask of whoever logs in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demands {
    pub chains: Chains,
    /// Keyboard-interactive asks for a code.
    pub codes: bool,
}

/// What stands behind a subsystem's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subsystem {
    /// SFTP, served in process: the configured line, `internal-sftp` and its options.
    Sftp(String),
    /// A command for the account's shell.
    Command(String),
}

impl Grant {
    /// `AcceptEnv`: whether a client may set this variable.
    pub fn accepts_variable(&self, name: &str) -> bool {
        self.accept_env.iter().any(|pattern| wildcard_match(pattern.as_bytes(), name.as_bytes()))
    }

    pub fn subsystem(&self, name: &str) -> Option<&Subsystem> {
        self.subsystems.iter().find(|(known, _)| known == name).map(|(_, subsystem)| subsystem)
    }

    /// For the way to the process of the account.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(USUAL_BYTES);
        let mut put = |bytes: &[u8]| {
            out.extend((bytes.len() as u32).to_be_bytes());
            out.extend_from_slice(bytes);
        };
        put(self.account.name.as_bytes());
        put(&self.account.uid.to_be_bytes());
        put(&self.account.gid.to_be_bytes());
        put(self.account.home.as_os_str().as_bytes());
        put(self.account.shell.as_os_str().as_bytes());
        put(self.key.as_ref().map_or(&[], |key| key.blob()));
        put(&[u8::from(self.pty), u8::from(self.scp), self.verbosity.unwrap_or(u8::MAX)]);
        put(&self.open_files.map_or([0; 8], u64::to_be_bytes));
        put(&encode_limits(self.limits));
        put(self.source.as_bytes());
        put(&self.rules.encode());
        self.place.encode(&mut put);
        put(&[u8::from(self.forced_command.is_some())]);
        put(self.forced_command.as_deref().unwrap_or_default().as_bytes());
        put(&(self.accept_env.len() as u32).to_be_bytes());
        self.accept_env.iter().for_each(|pattern| put(pattern.as_bytes()));
        put(&(self.set_env.len() as u32).to_be_bytes());
        for (name, value) in &self.set_env {
            put(name.as_bytes());
            put(value.as_bytes());
        }
        put(&(self.subsystems.len() as u32).to_be_bytes());
        for (name, subsystem) in &self.subsystems {
            put(name.as_bytes());
            let (kind, line) = match subsystem {
                Subsystem::Sftp(line) => (0, line),
                Subsystem::Command(line) => (1, line),
            };
            put(&[kind]);
            put(line.as_bytes());
        }
        out
    }

    /// What [`Grant::encode`] wrote; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Grant> {
        let mut r = Reader::new(bytes);
        let account = Account {
            name: text(&mut r)?,
            uid: number(&mut r)?,
            gid: number(&mut r)?,
            home: path(&mut r)?,
            shell: path(&mut r)?,
        };
        let key = match r.string(PARCEL_BYTES_MAX).ok()? {
            [] => None,
            blob => Some(PublicKey::from_blob(blob).ok()?),
        };
        let &[pty, scp, verbosity] = r.string(3).ok()? else { return None };
        let (pty, scp) = (pty == 1, scp == 1);
        let verbosity = Some(verbosity).filter(|level| *level != u8::MAX);
        let open_files = u64::from_be_bytes(r.string(8).ok()?.try_into().ok()?);
        let open_files = Some(open_files).filter(|limit| *limit > 0);
        let limits = decode_limits(r.string(64).ok()?)?;
        let source = text(&mut r)?;
        let rules = Rules::decode(r.string(PARCEL_BYTES_MAX).ok()?)?;
        let place = Place::decode(&mut r)?;
        let forced = flag(&mut r)?;
        let forced_command = Some(text(&mut r)?).filter(|_| forced);
        let (mut accept_env, mut set_env, mut subsystems) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..number(&mut r)? {
            accept_env.push(text(&mut r)?);
        }
        for _ in 0..number(&mut r)? {
            set_env.push((text(&mut r)?, text(&mut r)?));
        }
        for _ in 0..number(&mut r)? {
            let name = text(&mut r)?;
            let subsystem = match flag(&mut r)? {
                false => Subsystem::Sftp(text(&mut r)?),
                true => Subsystem::Command(text(&mut r)?),
            };
            subsystems.push((name, subsystem));
        }
        r.end().ok()?;
        Some(Grant {
            account,
            key,
            forced_command,
            pty,
            accept_env,
            set_env,
            subsystems,
            scp,
            open_files,
            limits,
            source,
            verbosity,
            rules,
            presence: Presence::TOUCH,
            place,
            upstream: None,
            demands: Demands::default(),
        })
    }
}

/// Empty for none. Zero stands for an absent value: no such limit can be zero.
pub fn encode_limits(limits: Option<LoginLimits>) -> Vec<u8> {
    let Some(LoginLimits { sessions_max, client_alive, rekey }) = limits else {
        return Vec::new();
    };
    // Written again it is to be the same.
    let client_alive = client_alive.filter(|(interval, _)| !interval.is_zero());
    let (interval, count) = client_alive.unwrap_or_default();
    let mut out = Vec::new();
    out.extend(u64::from(sessions_max).to_be_bytes());
    out.extend(interval.as_secs().to_be_bytes());
    out.extend(u64::from(count).to_be_bytes());
    out.extend(rekey.bytes.unwrap_or(0).to_be_bytes());
    out.extend(rekey.time.map_or(0, |time| time.as_secs()).to_be_bytes());
    out.extend(u64::from(rekey.packets).to_be_bytes());
    out
}

/// What [`encode_limits`] wrote; `None` for anything else.
pub fn decode_limits(bytes: &[u8]) -> Option<Option<LoginLimits>> {
    if bytes.is_empty() {
        return Some(None);
    }
    let mut r = Reader::new(bytes);
    let mut next = || r.uint64().ok();
    let sessions_max = u32::try_from(next()?).ok()?;
    let interval = Duration::from_secs(next()?);
    let count = u32::try_from(next()?).ok()?;
    let bytes = Some(next()?).filter(|bytes| *bytes > 0);
    let time = Some(next()?).filter(|time| *time > 0).map(Duration::from_secs);
    let packets = u32::try_from(next()?).ok()?;
    r.end().ok()?;
    let client_alive = Some((interval, count)).filter(|_| !interval.is_zero());
    let rekey = RekeyLimits { bytes, time, packets };
    Some(Some(LoginLimits { sessions_max, client_alive, rekey }))
}

fn text(r: &mut Reader<'_>) -> Option<String> {
    Some(r.utf8(PARCEL_BYTES_MAX).ok()?.to_owned())
}

fn number(r: &mut Reader<'_>) -> Option<u32> {
    Some(u32::from_be_bytes(r.string(4).ok()?.try_into().ok()?))
}

fn flag(r: &mut Reader<'_>) -> Option<bool> {
    Some(r.string(1).ok()? == [1])
}

fn path(r: &mut Reader<'_>) -> Option<PathBuf> {
    Some(PathBuf::from(OsStr::from_bytes(r.string(PARCEL_BYTES_MAX).ok()?)))
}

#[derive(Debug)]
pub enum Program {
    /// The account's login shell.
    Shell,
    /// `shell -c command`.
    Command(CString),
    /// Words in place of what was asked for; the account's shell has no part in it.
    Notice(Notice),
    /// passwd(1), at a terminal: the password has expired.
    NewPassword,
}

/// What a session says before it ends, and how it ends.
#[derive(Debug)]
pub struct Notice {
    pub text: CString,
    /// On the standard error instead of the standard output.
    pub as_error: bool,
    /// Exit status.
    pub status: u8,
}

/// What sshd does in a session before its program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prelude {
    /// Say when the account last logged in, under the conditions of `motd`.
    pub last_login: bool,
    /// Show /etc/motd, if a shell is started on a terminal and there is no `~/.hushlogin`.
    pub motd: bool,
    /// Show what PAM's modules have said, under the conditions of `motd`.
    pub text: bool,
    /// Run `~/.ssh/rc` if there is one.
    pub user_rc: bool,
    /// Else run /etc/ssh/sshrc if there is one.
    pub system_rc: bool,
}

#[derive(Debug)]
pub struct SpawnSpec {
    pub account: Account,
    pub program: Program,
    /// The child gets this and nothing else.
    pub env: Environment,
    /// The variables that `~/.ssh/environment` may set; `None`: it is not read.
    pub user_environment: Option<String>,
    pub prelude: Prelude,
    /// The slave's path when a terminal was requested; it becomes the controlling terminal.
    pub pty: Option<CString>,
    /// The client, whose logins at terminals are recorded.
    pub peer: SocketAddr,
    /// The soft limit of open files, where ours is higher than what programs expect.
    pub open_files: Option<u64>,
    /// The client's X server, which xauth is told of first.
    pub display: Option<Display>,
    /// What the program can read about its login.
    pub auth_info: Option<AuthInfo>,
    /// What PAM's modules tell the user, under the conditions of [`Prelude::motd`].
    pub text: String,
}

#[derive(Debug, thiserror::Error)]
#[error("{program}: {why}")]
pub struct SpawnFailed {
    pub program: String,
    pub why: std::io::Error,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{KeyKind, PrivateKey};

    #[test]
    fn grants_travel_whole() {
        let key = PrivateKey::generate(KeyKind::Ed25519).expect("a key").public().clone();
        let grant = Grant {
            account: Account {
                name: "ann".into(),
                uid: 1000,
                gid: 100,
                home: "/home/ann".into(),
                shell: "/bin/sh".into(),
            },
            key: Some(key),
            forced_command: Some("uptime".into()),
            pty: true,
            accept_env: vec!["LC_*".into()],
            set_env: vec![("A".into(), "b c".into())],
            subsystems: vec![
                ("sftp".into(), Subsystem::Sftp("internal-sftp -R".into())),
                ("x".into(), Subsystem::Command("run x".into())),
            ],
            scp: true,
            open_files: Some(1024),
            limits: Some(LoginLimits {
                sessions_max: 3,
                client_alive: Some((Duration::from_secs(7), 2)),
                rekey: RekeyLimits { bytes: Some(1 << 20), time: None, packets: 9 },
            }),
            verbosity: Some(4),
            source: "/home/ann/.ssh/authorized_keys:3".into(),
            rules: Rules { motd: true, last_login: true, ..Rules::default() },
            presence: Presence::TOUCH,
            place: Place::Chroot("/srv/ann".into()),
            upstream: None,
            demands: Demands::default(),
        };
        let bytes = grant.encode();
        assert_eq!(Grant::decode(&bytes), Some(grant.clone()));
        for cut in 0..bytes.len() {
            assert_eq!(Grant::decode(&bytes[..cut]), None);
        }
        // What stands for nothing is read as nothing, and a grant that was read is known by its bytes.
        let none = Some((Duration::ZERO, 3));
        let limits = grant.limits.map(|limits| LoginLimits { client_alive: none, ..limits });
        let bytes = Grant { limits, ..grant.clone() }.encode();
        assert_eq!(Grant::decode(&bytes).map(|grant| grant.encode()), Some(bytes));
        assert!(grant.accepts_variable("LC_ALL") && !grant.accepts_variable("PATH"));
        assert_eq!(grant.subsystem("sftp"), Some(&Subsystem::Sftp("internal-sftp -R".into())));
        assert_eq!(grant.subsystem("scp"), None);
    }
}
