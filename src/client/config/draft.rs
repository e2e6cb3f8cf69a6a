use std::path::PathBuf;
use std::time::Duration;

use crate::client::{AddKeys, Level, StrictHostKeys, UpdateHostKeys};
use crate::crypto::{CipherKind, KexKind, KeyAlgorithm, MacKind, SignatureAlgorithm};
use crate::gateway::accounts;
use crate::gateway::config::{DriverChoice, Wrong, number};
use crate::gateway::names::service_port;

/// What has been read so far. `None`: nothing has been said. Paths and commands are as they were
/// written: tokens are expanded when everything is known.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    pub driver: Option<DriverChoice>,
    pub host_name: Option<String>,
    pub port: Option<u16>,
    pub user: Option<String>,
    pub tag: Option<String>,

    pub ipv4_ipv6: Option<(bool, bool)>,
    pub connect_timeout: Option<Option<Duration>>,
    pub connection_attempts: Option<u32>,
    pub bind_address: Option<String>,
    pub bind_interface: Option<String>,
    pub background: Option<bool>,
    pub proxy: Option<Proxy>,
    pub tcp_keepalive: Option<bool>,
    pub alive_interval: Option<Duration>,
    pub alive_count_max: Option<u32>,

    pub user_known_hosts: Option<Vec<String>>,
    pub global_known_hosts: Option<Vec<String>>,
    pub strict: Option<StrictHostKeys>,
    pub update_host_keys: Option<UpdateHostKeys>,
    pub hash_known_hosts: Option<bool>,
    pub host_key_alias: Option<String>,
    pub no_localhost: Option<bool>,

    pub batch: Option<bool>,
    pub identity_files: Vec<String>,
    pub certificate_files: Vec<String>,
    pub identities_only: Option<bool>,
    pub identity_agent: Option<String>,
    /// `Some(None)`: no keys are given to it.
    pub add_keys: Option<Option<AddKeys>>,
    pub pubkey: Option<bool>,
    pub password: Option<bool>,
    pub keyboard_interactive: Option<bool>,
    pub preferred: Option<Vec<String>>,
    pub password_prompts: Option<u32>,

    pub ciphers: Option<Vec<CipherKind>>,
    pub macs: Option<Vec<MacKind>>,
    pub kex: Option<Vec<KexKind>>,
    pub host_key_algorithms: Option<Vec<KeyAlgorithm>>,
    pub host_keys_chosen: Option<bool>,
    pub ca_algorithms: Option<Vec<SignatureAlgorithm>>,
    pub user_algorithms: Option<Vec<KeyAlgorithm>>,
    /// Algorithms that were asked for and that there are not, with the reasons.
    pub left_out: Vec<String>,
    pub compression: Option<bool>,
    pub rekey: Option<(Option<u64>, Option<Duration>)>,

    pub forwards: Forwards,
    pub clear_forwards: Option<bool>,
    pub exit_on_forward_failure: Option<bool>,
    pub gateway_ports: Option<bool>,
    pub bind_mask: Option<u32>,
    pub remote_open: Option<Vec<String>>,
    pub bind_unlink: Option<bool>,
    pub forward_agent: Option<String>,
    pub forward_x11: Option<bool>,
    pub x11_trusted: Option<bool>,
    pub x11_timeout: Option<Duration>,
    pub xauth: Option<String>,

    pub request_tty: Option<RequestTty>,
    pub remote_command: Option<String>,
    pub session: Option<SessionType>,
    pub send_env: Vec<String>,
    pub set_env: Option<Vec<(String, String)>>,
    pub stdin_null: Option<bool>,
    pub escape: Option<Option<u8>>,
    pub level: Option<Level>,
}

/// Forwarded connections, in the order in which they were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwards {
    pub local: Vec<Vec<String>>,
    pub remote: Vec<Vec<String>>,
    pub dynamic: Vec<String>,
}

/// How a host is reached that is not connected to directly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// `none`: directly after all.
    Direct,
    /// Over no other host, whatever ProxyJump says further down.
    NoJump,
    /// Through the standard streams of a command.
    Command(String),
    /// Over connections of our own to these hosts, the first one first.
    Jump(Vec<Jump>),
}

/// One host on the way to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    pub user: Option<String>,
    pub host: String,
    pub port: Option<u16>,
}

/// RequestTTY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestTty {
    No,
    Auto,
    Yes,
    Force,
}

/// SessionType.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionType {
    None,
    Subsystem,
    Default,
}

/// `[user@]host[:port]` or `ssh://[user@]host[:port]`, as it may stand for a host on the way. For the
/// host itself a colon means nothing unless it is a URI.
///
/// # Errors
/// It names no host, or one that would be taken for a flag.
pub fn parse_destination(text: &str, may_have_port: bool) -> Result<Jump, Wrong> {
    let (rest, is_uri) = match text.strip_prefix("ssh://") {
        Some(rest) => (rest.trim_end_matches('/'), true),
        None => (text, false),
    };
    let (user, place) = match rest.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, rest),
    };
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, behind)) => (host, behind.strip_prefix(':')),
        None if is_uri || may_have_port => match place.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') => (host, Some(port)),
            _ => (place, None),
        },
        None => (place, None),
    };
    let port = match port {
        None => None,
        Some(port) => {
            let number = self::port(port).ok();
            Some(number.ok_or_else(|| Wrong::new(text, format!("{port:?} is no port")))?)
        }
    };
    // A host that begins with a dash would be a flag to whatever command it is passed to; no name
    // has blanks or characters that a shell reads.
    let odd = |c: char| c.is_control() || c.is_whitespace() || "'`\"$\\;&<>|(){}".contains(c);
    if host.is_empty() || host.starts_with('-') || host.contains(odd) {
        return Err(Wrong::new(text, "no name of a host"));
    }
    if user.is_some_and(is_odd_user) {
        return Err(Wrong::new(text, "no name of a user"));
    }
    Ok(Jump { user: user.map(str::to_owned), host: host.to_owned(), port })
}

/// A TCP port or the name of a service.
///
/// # Errors
/// It is neither.
pub fn port(word: &str) -> Result<u16, Wrong> {
    match service_port(word) {
        Some(port) => Ok(port),
        None => Ok(number(word, 1..=u32::from(u16::MAX))? as u16),
    }
}

/// What is said twice, by two blocks or two passes, is said once.
pub fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// As they are written.
pub fn jump_text(jumps: &[Jump]) -> String {
    let one = |jump: &Jump| {
        let user = jump.user.as_ref().map_or(String::new(), |user| format!("{user}@"));
        let port = jump.port.map_or(String::new(), |port| format!(":{port}"));
        match jump.host.contains(':') {
            true => format!("{user}[{}]{port}", jump.host),
            false => format!("{user}{}{port}", jump.host),
        }
    };
    jumps.iter().map(one).collect::<Vec<_>>().join(",")
}

/// A login name that would not be one word to a shell, or a flag to a program: commands of the
/// configuration may have it in them (`%r`).
pub fn is_odd_user(user: &str) -> bool {
    let odd = |c: char| c.is_control() || "'`\";&<>|(){}".contains(c);
    let flags = user.starts_with('-') || user.contains(" -");
    user.is_empty() || flags || user.ends_with('\\') || user.contains(odd)
}

/// What PermitRemoteOpen permits everything with.
pub fn is_any(word: &str) -> bool {
    word.eq_ignore_ascii_case("any")
}

/// Where `~` leads, or `~` and a user's name.
pub fn at_home(path: &str, home: Option<&PathBuf>) -> PathBuf {
    let Some(rest) = path.strip_prefix('~') else { return PathBuf::from(path) };
    let (user, below) = rest.split_once('/').unwrap_or((rest, ""));
    let home = match user {
        "" => home.cloned(),
        user => accounts::by_name(user).ok().flatten().map(|account| account.home),
    };
    home.map_or_else(|| PathBuf::from(path), |home| home.join(below))
}
