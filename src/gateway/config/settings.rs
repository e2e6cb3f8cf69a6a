//! What a configuration says, as values: the settings of the process and those of one login.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::ip_qos::IpQos;
use super::patterns::{HostList, UserPattern};
use super::recording;
use crate::connection::{Chains, LoginLimits, Method, Presence};
use crate::crypto::{CipherKind, KexKind, KeyAlgorithm, KeyKind, MacKind, SignatureAlgorithm};
use crate::limits::{
    AUTH_TRIES_DEFAULT, DRAIN_TIME_DEFAULT, LOGIN_GRACE_DEFAULT, PREFACE_TIME_DEFAULT,
    REKEY_PACKETS_MAX, RSA_BITS_MIN, SESSIONS_DEFAULT, WINDOW_BUDGET_BYTES, WINDOW_BYTES_MAX,
};
use crate::services::Recorded;
use crate::services::forward::{BIND_MASK, DisplayRules, GatewayPorts, Permits, Ways};
use crate::services::upstream::HostKeyPolicy;
use crate::transport::RekeyLimits;
use crate::wire::proxy::ProxyVersion;

/// Declares a struct of settings and its draft, in which every field may still be unset.
///
/// `first` fields keep the first value they are given, `all` fields collect, `named` fields collect
/// and keep the first of each name, `nested` ones are settings and drafts of their own.
macro_rules! settings {
    (
        $(#[$doc:meta])* $settings:ident, $draft:ident {
            first { $( $(#[$first_doc:meta])* $first:ident: $first_type:ty, )* }
            all { $( $(#[$all_doc:meta])* $all:ident: $all_type:ty, )* }
            named { $( $(#[$named_doc:meta])* $named:ident: $named_type:ty, )* }
            $( nested { $( $nested:ident: $nested_type:ty, $nested_draft:ty; )* } )?
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $settings {
            $( $(#[$first_doc])* pub $first: $first_type, )*
            $( $(#[$all_doc])* pub $all: Vec<$all_type>, )*
            $( $(#[$named_doc])* pub $named: Vec<$named_type>, )*
            $( $( pub $nested: $nested_type, )* )?
        }

        #[doc = concat!("[`", stringify!($settings), "`] while they are being read.")]
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $draft {
            $( pub $first: Option<$first_type>, )*
            $( pub $all: Vec<$all_type>, )*
            $( pub $named: Vec<$named_type>, )*
            $( $( pub $nested: $nested_draft, )* )?
        }

        impl $draft {
            /// Takes over from a later part of the file what is still unset here.
            pub fn absorb(&mut self, later: &$draft) {
                $( if self.$first.is_none() { self.$first.clone_from(&later.$first); } )*
                $( self.$all.extend_from_slice(&later.$all); )*
                $( self.$named = by_name(&self.$named, &later.$named); )*
                $( $( self.$nested.absorb(&later.$nested); )* )?
            }

            /// What this draft sets, and `base` where it sets nothing.
            pub fn over(&self, base: &$settings) -> $settings {
                $settings {
                    $( $first: self.$first.clone().unwrap_or_else(|| base.$first.clone()), )*
                    $( $all: if self.$all.is_empty() { &base.$all } else { &self.$all }.clone(), )*
                    $( $named: by_name(&self.$named, &base.$named), )*
                    $( $( $nested: self.$nested.over(&base.$nested), )* )?
                }
            }
        }
    };
}

/// Both lists in one; of the same name the earlier wins.
fn by_name(earlier: &[Subsystem], later: &[Subsystem]) -> Vec<Subsystem> {
    let mut both = earlier.to_vec();
    for item in later {
        if !both.iter().any(|known| known.name == item.name) {
            both.push(item.clone());
        }
    }
    both
}

settings! {
    /// What holds for the whole process.
    Global, GlobalDraft {
        first {
            address_family: AddressFamily,
            host_key_algorithms: Vec<KeyAlgorithm>,
            kex_algorithms: Vec<KexKind>,
            /// The groups that group exchange chooses from.
            moduli_file: PathBuf,
            /// Equal to [`CipherKind::ALL`] unless the administrator chose.
            ciphers: Vec<CipherKind>,
            /// Lead clients to AES-GCM where it is the faster cipher; never with ciphers that the
            /// administrator chose.
            cipher_steering: bool,
            /// What a channel's receive window may grow to, and all of them together by; bytes.
            window_max: u32,
            window_budget: u64,
            macs: Vec<MacKind>,
            /// Compress for clients that ask for it.
            compression: bool,
            /// Check who owns and may write authorized_keys and the directories above it.
            strict_modes: bool,
            /// Time from the first byte to the end of the login; `None`: for ever.
            login_grace: Option<Duration>,
            max_startups: MaxStartups,
            /// Unauthenticated connections of one source; `None`: any number.
            per_source_startups: Option<u32>,
            /// How much of an address is one source.
            source_blocks: SourceBlocks,
            /// Sources that are never penalised.
            penalty_exempt: Option<HostList>,
            /// The program that is told of displays; `None`: none is made.
            xauth: Option<PathBuf>,
            /// Who may tell whose connection it passes on.
            proxies: Option<Proxies>,
            /// How long it may take to.
            proxy_time: Duration,
            /// How long sessions may go on when the gateway ends.
            drain_time: Duration,
            tcp_keep_alive: bool,
            /// Show /etc/motd when a shell with a terminal starts.
            print_last_log: bool,
            print_motd: bool,
            /// Which variables accounts may set for themselves in `~/.ssh/environment` and with
            /// `environment=`: a list of patterns; `None`: none.
            user_environment: Option<String>,
            log_format: LogFormat,
            audit_log: AuditLog,
            /// Nobody is let in while the audit cannot be written.
            audit_refuses: bool,
            syslog_facility: Facility,
            /// Look the names of clients up.
            use_dns: bool,
            /// The software version in the identification line (RFC 4253 §4.2); `None`: our own.
            software_version: Option<String>,
            /// What follows it.
            version_addendum: Option<String>,
            pid_file: Option<PathBuf>,
            control: ControlAt,
            /// Event loops; `None`: one a core.
            reactors: Option<usize>,
            driver: DriverChoice,
            /// The account of the edge; `None`: of the usual ones.
            edge_user: Option<String>,
            /// Who the signer runs as; none: a number that is no account's.
            signer_user: Option<String>,
            /// The same for the relay.
            relay_user: Option<String>,
            isolation: Isolation,
            /// The socket of the agent that has host keys of which only the public halves are in files.
            host_key_agent: Option<PathBuf>,
        }
        all {
            ports: u16,
            listen: Listen,
            host_keys: PathBuf,
            host_certificates: PathBuf,
        }
        named {}
        nested {
            penalties: Penalties, PenaltiesDraft;
        }
    }
}

settings! {
    /// What sources that misbehave are kept out for. A penalty adds to one that still runs.
    Penalties, PenaltiesDraft {
        first {
            enabled: bool,
            /// For a connection that made the process fail.
            crash: Duration,
            /// For a connection that ended after failed attempts only.
            auth_failure: Duration,
            /// For one that ended after attempts for a user who does not exist.
            invalid_user: Duration,
            /// For a connection that ended without an attempt.
            no_auth: Duration,
            /// For one that did not log in in time.
            grace: Duration,
            /// For one that RefuseConnection ended.
            refused: Duration,
            /// No source is kept out for longer.
            max: Duration,
            /// A sum below this keeps nobody out yet.
            min: Duration,
            /// IPv4 sources remembered at one time.
            sources4: u32,
            sources6: u32,
            overflow: Overflow,
            /// `None`: as for IPv4.
            overflow6: Option<Overflow>,
        }
        all {}
        named {}
    }
}

settings! {
    /// What holds for one login: a Match block may change all of it.
    Effective, EffectiveDraft {
        first {
            /// Shown before authentication.
            banner: Option<Banner>,
            /// Failed attempts after which a connection ends.
            max_auth_tries: u32,
            /// Sessions of one connection at one time.
            max_sessions: u32,
            /// Chains of methods, any of which lets in; empty: any one method does.
            authentication_methods: Vec<Box<[Method]>>,
            pubkey_authentication: bool,
            password_authentication: bool,
            kbd_interactive_authentication: bool,
            permit_empty_passwords: bool,
            expose_auth_info: bool,
            /// Which sessions are recorded, and where.
            recorded: Recorded,
            record_directory: String,
            /// Sessions go on that cannot be recorded.
            record_continues: bool,
            /// Hashes of passwords; `None`: nobody has one.
            password_file: Option<PathBuf>,
            /// PAM decides about passwords and accounts.
            use_pam: bool,
            /// Its service: a file of /etc/pam.d.
            pam_service: String,
            /// Secrets of codes; `None`: none is asked for.
            totp_file: Option<PathBuf>,
            pubkey_algorithms: Vec<KeyAlgorithm>,
            /// What every security key has to attest.
            pubkey_auth_options: Presence,
            /// How authorities may sign certificates.
            ca_algorithms: Vec<SignatureAlgorithm>,
            /// A file of authorities whose certificates let their principals in.
            trusted_user_ca_keys: Option<PathBuf>,
            /// A template as for files of keys: the principals that stand for a user.
            authorized_principals_file: Option<String>,
            /// Keys and certificates that let nobody in.
            revoked_keys: Option<PathBuf>,
            /// Bits.
            required_rsa_size: u32,
            /// Templates with `%h`, `%u`, `%U`, `%%`; relative ones start at the home directory.
            authorized_keys_files: Vec<String>,
            /// The program that knows keys, and its arguments, where those files have none.
            authorized_keys_command: Vec<String>,
            /// The account that it runs as.
            authorized_keys_command_user: Option<String>,
            /// The program that knows principals, where their file has none.
            authorized_principals_command: Vec<String>,
            authorized_principals_command_user: Option<String>,
            /// `NAME` and value, put into every session's environment.
            set_env: Vec<(String, String)>,
            /// Accounts that exist here alone; the same for all logins.
            accounts_file: Option<PathBuf>,
            /// The account of the system that does the work of those.
            accounts_user: Option<String>,
            /// A template as for files of keys: the directory that is the root of the login.
            chroot_directory: Option<String>,
            /// Runs instead of whatever the client asks for.
            force_command: Option<String>,
            permit_tty: bool,
            /// Who serves scp's own protocol.
            scp: ScpServer,
            /// Run the account's `~/.ssh/rc` before its shell.
            permit_user_rc: bool,
            permit_root_login: RootLogin,
            /// End the connection as soon as it names its user.
            refuse_connection: bool,
            /// Bytes after which new keys are agreed on; `None` leaves it to the cipher.
            rekey_bytes: Option<u64>,
            /// Time after which new keys are agreed on; `None`: no time does it.
            rekey_time: Option<Duration>,
            /// Ask a silent client whether it is there after this time; zero: never.
            client_alive_interval: Duration,
            /// Questions without an answer before the connection ends; 0: never ends it.
            client_alive_count_max: u32,
            /// When idle channels are closed: the first whose pattern matches counts.
            channel_timeouts: Vec<ChannelTimeout>,
            /// Close a connection that has had no channel for this time; `None`: never.
            unused_connection_timeout: Option<Duration>,
            ip_qos: IpQos,
            /// Which way TCP connections are forwarded.
            allow_tcp_forwarding: Ways,
            /// Which way connections of Unix sockets are.
            allow_streamlocal_forwarding: Ways,
            /// Whatever else is said: nothing is forwarded.
            disable_forwarding: bool,
            /// Programs may use the client's agent.
            allow_agent_forwarding: bool,
            x11_forwarding: bool,
            /// The number of the first display.
            x11_display_offset: u16,
            /// Displays can be reached from here alone.
            x11_use_localhost: bool,
            /// Where clients may be connected to.
            permit_open: Permits,
            /// Of lines about the connection; outside of blocks, of all others too.
            log_level: LogLevel,
            /// Where connections are taken for clients.
            permit_listen: Permits,
            /// Where those can come from.
            gateway_ports: GatewayPorts,
            /// The umask of Unix sockets that are made for clients.
            streamlocal_bind_mask: u32,
            /// Remove a socket that is in the way first.
            streamlocal_bind_unlink: bool,
            /// Hosts, any of which the login goes on at; empty: it is served here.
            upstream: Vec<(String, u16)>,
            /// The program that says which, and its arguments, where there are none of those.
            upstream_command: Vec<String>,
            /// The account that it runs as.
            upstream_command_user: Option<String>,
            /// Patterns of the hosts that the login's name may ask for.
            upstream_targets: Vec<String>,
            /// Who logs in there, with `%u` for the user; `None`: the user.
            upstream_user: Option<String>,
            /// The client's agent has the key that logs in there; goes before the files.
            upstream_agent: bool,
            /// The file of the key that logs in there.
            upstream_identity: Option<PathBuf>,
            /// The file of the key that signs certificates for logins there; goes before the other.
            upstream_authority: Option<PathBuf>,
            /// The file of those hosts' keys.
            upstream_known_hosts: PathBuf,
            upstream_host_keys: HostKeyPolicy,
            /// How those hosts are told for whom we come.
            upstream_proxy_protocol: Option<ProxyVersion>,
            /// Logins of one user go on over one connection, and how long it is kept without any.
            upstream_share: Option<Duration>,
        }
        all {
            /// Patterns of the variables a client may set.
            accept_env: String,
            allow_users: UserPattern,
            deny_users: UserPattern,
            allow_groups: String,
            deny_groups: String,
        }
        named {
            /// What clients may start by name.
            subsystems: Subsystem,
        }
    }
}

/// What holds where a configuration says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defaults {
    /// With a configuration file: what sshd_config(5) says.
    File,
    /// Without one: 127.0.0.1 port 2222 and SFTP, so that trying it is one command and harmless.
    NoFile,
}

impl Default for Global {
    fn default() -> Global {
        Global {
            address_family: AddressFamily::Any,
            host_key_algorithms: KeyAlgorithm::ALL.to_vec(),
            kex_algorithms: KexKind::SERVER_DEFAULT.to_vec(),
            moduli_file: PathBuf::from("/etc/ssh/moduli"),
            ciphers: CipherKind::ALL.to_vec(),
            cipher_steering: true,
            window_max: WINDOW_BYTES_MAX,
            window_budget: WINDOW_BUDGET_BYTES,
            macs: MacKind::DEFAULT.to_vec(),
            compression: false,
            strict_modes: true,
            login_grace: Some(LOGIN_GRACE_DEFAULT),
            max_startups: MaxStartups { start: 10, rate: 30, full: 100 },
            per_source_startups: None,
            source_blocks: SourceBlocks { ipv4: 32, ipv6: 128 },
            penalty_exempt: None,
            penalties: Penalties::default(),
            xauth: Some(PathBuf::from(DisplayRules::XAUTH)),
            proxies: None,
            proxy_time: PREFACE_TIME_DEFAULT,
            drain_time: DRAIN_TIME_DEFAULT,
            tcp_keep_alive: true,
            print_last_log: true,
            print_motd: true,
            user_environment: None,
            log_format: LogFormat::Text,
            audit_log: AuditLog::None,
            audit_refuses: false,
            syslog_facility: Facility::Auth,
            use_dns: false,
            software_version: None,
            version_addendum: None,
            pid_file: None,
            control: ControlAt::Auto,
            reactors: None,
            driver: DriverChoice::Auto,
            edge_user: None,
            signer_user: None,
            relay_user: None,
            isolation: Isolation::Auto,
            host_key_agent: None,
            ports: Vec::new(),
            listen: Vec::new(),
            host_keys: Vec::new(),
            host_certificates: Vec::new(),
        }
    }
}

impl Default for Penalties {
    fn default() -> Penalties {
        Penalties {
            enabled: true,
            crash: Duration::from_secs(90),
            auth_failure: Duration::from_secs(5),
            invalid_user: Duration::from_secs(5),
            no_auth: Duration::from_secs(1),
            grace: Duration::from_secs(10),
            refused: Duration::from_secs(10),
            max: Duration::from_secs(600),
            min: Duration::from_secs(15),
            sources4: 65_536,
            sources6: 65_536,
            overflow: Overflow::Permissive,
            overflow6: None,
        }
    }
}

const KEYS_FILES: [&str; 2] = [".ssh/authorized_keys", ".ssh/authorized_keys2"];

impl Default for Effective {
    #[allow(clippy::too_many_lines, reason = "one a setting")]
    fn default() -> Effective {
        Effective {
            banner: None,
            max_auth_tries: AUTH_TRIES_DEFAULT,
            max_sessions: SESSIONS_DEFAULT,
            authentication_methods: Vec::new(),
            pubkey_authentication: true,
            password_authentication: false,
            kbd_interactive_authentication: false,
            permit_empty_passwords: false,
            expose_auth_info: false,
            recorded: Recorded::No,
            record_directory: recording::DIRECTORY.to_owned(),
            record_continues: false,
            password_file: None,
            use_pam: false,
            pam_service: "sshd".to_owned(),
            totp_file: None,
            pubkey_algorithms: KeyAlgorithm::ALL.to_vec(),
            ca_algorithms: SignatureAlgorithm::EVERY.to_vec(),
            pubkey_auth_options: Presence { touch: false, verify: false },
            trusted_user_ca_keys: None,
            authorized_principals_file: None,
            revoked_keys: None,
            required_rsa_size: RSA_BITS_MIN,
            authorized_keys_command: Vec::new(),
            authorized_keys_command_user: None,
            authorized_principals_command: Vec::new(),
            authorized_principals_command_user: None,
            authorized_keys_files: KEYS_FILES.map(str::to_owned).to_vec(),
            set_env: Vec::new(),
            accounts_file: None,
            accounts_user: None,
            chroot_directory: None,
            force_command: None,
            permit_tty: true,
            scp: ScpServer::Internal,
            permit_user_rc: true,
            permit_root_login: RootLogin::ProhibitPassword,
            refuse_connection: false,
            rekey_bytes: None,
            rekey_time: None,
            client_alive_interval: Duration::ZERO,
            client_alive_count_max: 3,
            channel_timeouts: Vec::new(),
            unused_connection_timeout: None,
            ip_qos: IpQos::default(),
            allow_tcp_forwarding: Ways::BOTH,
            allow_streamlocal_forwarding: Ways::BOTH,
            disable_forwarding: false,
            allow_agent_forwarding: true,
            x11_forwarding: false,
            x11_display_offset: DisplayRules::OFFSET,
            x11_use_localhost: true,
            permit_open: Permits::ANY,
            log_level: LogLevel::Info,
            permit_listen: Permits::ANY,
            gateway_ports: GatewayPorts::No,
            streamlocal_bind_mask: BIND_MASK,
            streamlocal_bind_unlink: false,
            upstream: Vec::new(),
            upstream_command: Vec::new(),
            upstream_command_user: None,
            upstream_targets: Vec::new(),
            upstream_user: None,
            upstream_agent: false,
            upstream_identity: None,
            upstream_authority: None,
            upstream_known_hosts: PathBuf::from("/etc/ssh/ssh_known_hosts"),
            upstream_host_keys: HostKeyPolicy::Strict,
            upstream_proxy_protocol: None,
            upstream_share: None,
            accept_env: Vec::new(),
            allow_users: Vec::new(),
            deny_users: Vec::new(),
            allow_groups: Vec::new(),
            deny_groups: Vec::new(),
            subsystems: Vec::new(),
        }
    }
}

impl Effective {
    /// What these settings say about the connection of a login.
    pub const fn limits(&self) -> LoginLimits {
        // With ClientAliveCountMax 0 a silent client is asked for ever (sshd_config(5)).
        let count = match self.client_alive_count_max {
            0 => u32::MAX,
            count => count,
        };
        LoginLimits {
            sessions_max: self.max_sessions,
            client_alive: Some((self.client_alive_interval, count)),
            rekey: RekeyLimits {
                bytes: self.rekey_bytes,
                time: self.rekey_time,
                packets: REKEY_PACKETS_MAX,
            },
        }
    }

    /// What it takes to log in: the chains all of whose methods are offered.
    pub fn chains(&self) -> Chains {
        if self.authentication_methods.is_empty() {
            return Chains::any_of(Method::ALL.into_iter().filter(|method| self.offers(*method)));
        }
        let chains = self.authentication_methods.iter();
        Chains::new(chains.filter(|chain| chain.iter().all(|m| self.offers(*m))).cloned())
    }

    /// A method without its files is none.
    pub const fn offers(&self, method: Method) -> bool {
        match method {
            Method::PublicKey => self.pubkey_authentication,
            Method::Password => {
                let files = self.password_file.is_some() || self.accounts_file.is_some();
                self.password_authentication && (files || self.use_pam)
            }
            Method::KeyboardInteractive => {
                let files = self.password_file.is_some() || self.asks_codes();
                self.kbd_interactive_authentication && (files || self.use_pam)
            }
        }
    }

    /// Whether passwords are PAM's: a file of them goes before it.
    pub const fn asks_pam(&self) -> bool {
        self.use_pam && self.password_file.is_none()
    }

    /// Whether keyboard-interactive is whatever PAM's modules ask.
    pub const fn talks(&self) -> bool {
        self.asks_pam() && !self.asks_codes()
    }

    /// Whether keyboard-interactive asks for a code.
    pub const fn asks_codes(&self) -> bool {
        self.totp_file.is_some() || self.accounts_file.is_some()
    }

    /// Whether a key of this kind may log in with any accepted algorithm.
    pub fn accepts_kind(&self, kind: KeyKind) -> bool {
        self.pubkey_algorithms.iter().any(|algorithm| algorithm.signature.key_kind() == kind)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressFamily {
    Any,
    Inet,
    Inet6,
}

impl AddressFamily {
    pub const fn takes(self, address: IpAddr) -> bool {
        match self {
            AddressFamily::Any => true,
            AddressFamily::Inet => address.is_ipv4(),
            AddressFamily::Inet6 => address.is_ipv6(),
        }
    }

    /// The addresses that stand for "every local one".
    pub fn wildcards(self) -> Vec<IpAddr> {
        let all = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
        all.into_iter().filter(|address| self.takes(*address)).collect()
    }
}

/// One place to listen on. A name is looked up when the server starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub host: ListenHost,
    /// `None` while the Port lines are not known; always known in [`Global`].
    pub port: Option<u16>,
    /// The routing domain that clients come from; `None`: those of no domain.
    pub rdomain: Option<String>,
}

/// What one socket listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub rdomain: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenHost {
    Address(IpAddr),
    Name(String),
}

impl fmt::Display for Listen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            ListenHost::Address(IpAddr::V6(address)) => write!(out, "[{address}]")?,
            ListenHost::Address(address) => write!(out, "{address}")?,
            ListenHost::Name(name) => write!(out, "{name}")?,
        }
        self.port.map_or(Ok(()), |port| write!(out, ":{port}"))?;
        self.rdomain.as_ref().map_or(Ok(()), |name| write!(out, " rdomain {name}"))
    }
}

impl Global {
    /// Every socket address to listen on; looks host names up, so it may block and fail.
    pub fn sockets(&self) -> Result<Vec<Endpoint>, ListenError> {
        let mut sockets = Vec::new();
        for listen in &self.listen {
            let port = listen.port.unwrap_or_default();
            let found = match &listen.host {
                ListenHost::Address(address) => vec![SocketAddr::new(*address, port)],
                ListenHost::Name(name) => (name.as_str(), port)
                    .to_socket_addrs()
                    .map_err(|why| ListenError { name: name.clone(), why: why.to_string() })?
                    .filter(|socket| self.address_family.takes(socket.ip()))
                    .collect(),
            };
            if let (ListenHost::Name(name), true) = (&listen.host, found.is_empty()) {
                let why = "it has no address of the family that AddressFamily allows".to_owned();
                return Err(ListenError { name: name.clone(), why });
            }
            for address in found {
                let socket = Endpoint { address, rdomain: listen.rdomain.clone() };
                if !sockets.contains(&socket) {
                    sockets.push(socket);
                }
            }
        }
        Ok(sockets)
    }
}

/// A host name in ListenAddress that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("ListenAddress {name}: {why}")]
pub struct ListenError {
    pub name: String,
    pub why: String,
}

/// Who carries out the commands that `scp -O` sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScpServer {
    /// This program, without a shell.
    Internal,
    /// The account's shell, with whatever it finds as `scp`.
    External,
}

impl ScpServer {
    pub const ALL: [(&'static str, ScpServer); 2] =
        [("internal", ScpServer::Internal), ("external", ScpServer::External)];
}

/// What a client starts when it asks for a subsystem by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subsystem {
    pub name: String,
    /// `internal-sftp`, or a command line for the account's shell.
    pub command: String,
}

/// Connections that are not logged in yet: refused at random from `start` on, all of them at
/// `full`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxStartups {
    pub start: usize,
    /// Per cent refused at `start`.
    pub rate: u32,
    pub full: usize,
}

/// Peers that are asked whose connection they pass on (the PROXY protocol).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxies {
    pub networks: HostList,
    /// A connection of theirs that does not tell is refused; else it is their own.
    pub required: bool,
}

/// The bits of an address that tell sources apart (PerSourceNetBlockSize).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceBlocks {
    pub ipv4: u8,
    pub ipv6: u8,
}

/// What happens when more sources misbehave than are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// Nobody is let in until some penalties have run out.
    DenyAll,
    /// The penalties that end soonest are forgotten.
    Permissive,
}

/// sshd's levels. `Debug` is DEBUG and DEBUG1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Quiet,
    Fatal,
    Error,
    Info,
    Verbose,
    Debug,
    Debug2,
    Debug3,
}

impl LogLevel {
    pub const ALL: [(&'static str, LogLevel); 9] = [
        ("QUIET", LogLevel::Quiet),
        ("FATAL", LogLevel::Fatal),
        ("ERROR", LogLevel::Error),
        ("INFO", LogLevel::Info),
        ("VERBOSE", LogLevel::Verbose),
        ("DEBUG", LogLevel::Debug),
        ("DEBUG1", LogLevel::Debug),
        ("DEBUG2", LogLevel::Debug2),
        ("DEBUG3", LogLevel::Debug3),
    ];

    /// For where only a number can go.
    pub const fn number(self) -> u8 {
        self as u8
    }

    pub fn of_number(number: u8) -> Option<LogLevel> {
        LogLevel::ALL.into_iter().map(|(_, level)| level).find(|level| level.number() == number)
    }

    /// The name in files; one that [`LogLevel::ALL`] finds again.
    pub fn name(self) -> &'static str {
        LogLevel::ALL.iter().find(|(_, level)| *level == self).map_or("INFO", |(name, _)| *name)
    }
}

/// The way to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverChoice {
    /// io_uring, and mio where it is refused.
    Auto,
    Uring,
    Mio,
}

/// How many processes share the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// As root shared; otherwise there is nothing to separate.
    Auto,
    /// One process without rights for all who have not logged in, and one for each account.
    Shared,
    /// One for each connection, before its login and after it.
    PerConnection,
    /// One process.
    None,
}

/// The socket by which administrators ask and tell (`tidegate ctl`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlAt {
    None,
    /// One of the program's own where it is looked for.
    Auto,
    Path(PathBuf),
}

/// Where the lines about what is done go, besides the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditLog {
    None,
    /// This file, appended to.
    File(PathBuf),
    Syslog,
    Journald,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    /// One JSON object a line.
    Json,
}

/// What lines in the system's log are filed under; the number is syslog's (RFC 3164 §4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facility {
    User = 1,
    Daemon = 3,
    Auth = 4,
    AuthPriv = 10,
    Local0 = 16,
    Local1,
    Local2,
    Local3,
    Local4,
    Local5,
    Local6,
    Local7,
}

impl Facility {
    pub const ALL: [(&'static str, Facility); 12] = [
        ("DAEMON", Facility::Daemon),
        ("USER", Facility::User),
        ("AUTH", Facility::Auth),
        ("AUTHPRIV", Facility::AuthPriv),
        ("LOCAL0", Facility::Local0),
        ("LOCAL1", Facility::Local1),
        ("LOCAL2", Facility::Local2),
        ("LOCAL3", Facility::Local3),
        ("LOCAL4", Facility::Local4),
        ("LOCAL5", Facility::Local5),
        ("LOCAL6", Facility::Local6),
        ("LOCAL7", Facility::Local7),
    ];

    /// The one with syslog's number for it (RFC 3164 §4.1.1).
    pub fn of_number(number: u8) -> Option<Facility> {
        Facility::ALL.iter().map(|(_, known)| *known).find(|known| *known as u8 == number)
    }

    /// The name in files; one that [`Facility::ALL`] finds again.
    pub fn name(self) -> &'static str {
        Facility::ALL.iter().find(|(_, known)| *known == self).map_or("AUTH", |(name, _)| *name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootLogin {
    Yes,
    No,
    /// By key only; the same as `Yes` while there is no other way in.
    ProhibitPassword,
    /// By a key whose line names a command.
    ForcedCommandsOnly,
}

/// One item of ChannelTimeout: a pattern of channel types (`session:shell`, `session:*`,
/// `direct-tcpip`, `global`; `*` and `?` are wildcards) and the time without data after which a
/// channel of such a type is closed; zero: never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelTimeout {
    pub pattern: String,
    pub time: Duration,
}

/// The file named by Banner and its text, read when the configuration was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Banner {
    pub path: PathBuf,
    pub text: Arc<str>,
}
