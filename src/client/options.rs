use std::path::PathBuf;
use std::time::Duration;

use super::Level;
use super::config::{RequestTty, SessionType};
use super::forwards::Forward;
use super::x11::ForwardX11;
use crate::connection::Secret;
use crate::crypto::{CipherKind, KexKind, KeyAlgorithm, MacKind, SignatureAlgorithm};
use crate::gateway::config::DriverChoice;
use crate::services::forward::{Permits, Target};

/// As ssh has them, where nothing else is set (ssh_config(5), GlobalKnownHostsFile).
const GLOBAL_KNOWN_HOSTS: [&str; 2] = ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"];

/// What is done about a host whose key is not known (ssh_config(5), StrictHostKeyChecking).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StrictHostKeys {
    Yes,
    Ask,
    /// It is noted without a question. One that has changed is refused all the same.
    AcceptNew,
    /// The same, and one that has changed is warned of: passwords are not sent to it.
    No,
}

/// What becomes of host keys that a server tells after the login (ssh_config(5), UpdateHostKeys).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateHostKeys {
    No,
    Ask,
    Yes,
}

/// How a key whose file was opened is given to the agent (ssh_config(5), AddKeysToAgent).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddKeys {
    /// Somebody is asked first.
    pub ask: bool,
    /// The agent asks each time before it signs.
    pub confirm: bool,
    /// Seconds that the agent keeps it.
    pub lifetime: Option<u32>,
}

/// Everything that one connection is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// As it was asked for.
    pub host: String,
    /// A name or an address to connect to.
    pub host_name: String,
    pub port: u16,
    pub user: String,
    pub driver: DriverChoice,

    // ---- The way there ----
    pub ipv4: bool,
    pub ipv6: bool,
    /// `None`: as long as the system tries.
    pub connect_timeout: Option<Duration>,
    pub connection_attempts: u32,
    /// An address of ours, or a name of one, that connections are made from.
    pub bind_address: Option<String>,
    /// An interface of ours that connections are made over.
    pub bind_interface: Option<String>,
    pub server_alive: Option<(Duration, u32)>,
    /// A login takes no longer, people's answers aside, and what has set that, for the user.
    pub login_time: Option<(Duration, &'static str)>,
    pub tcp_keepalive: bool,
    /// It is spoken with through this command's standard streams.
    pub proxy_command: Option<String>,
    /// It is reached over a connection to this host.
    pub via: Option<Box<Options>>,

    // ---- Who the server is ----
    pub user_known_hosts: Vec<PathBuf>,
    pub global_known_hosts: Vec<PathBuf>,
    pub strict: StrictHostKeys,
    pub hash_known_hosts: bool,
    pub update_host_keys: UpdateHostKeys,
    /// The name that the host is known by, in place of its own.
    pub host_key_alias: Option<String>,
    /// This machine is not checked.
    pub no_localhost: bool,

    // ---- Who we are ----
    pub batch: bool,
    pub identity_files: Vec<PathBuf>,
    /// They were named, and are not those that everybody has.
    pub explicit_identities: bool,
    pub certificate_files: Vec<PathBuf>,
    pub identities_only: bool,
    /// The socket of an agent.
    pub agent: Option<PathBuf>,
    /// `None`: no keys are given to it.
    pub add_keys: Option<AddKeys>,
    pub pubkey: bool,
    pub password: bool,
    pub keyboard_interactive: bool,
    /// Methods in the order in which they are tried.
    pub preferred: Vec<String>,
    pub password_prompts: u32,
    /// A password that is known already: nobody is asked for it, and it is tried once.
    pub secret: Option<Secret>,

    // ---- How it is protected ----
    pub ciphers: Vec<CipherKind>,
    pub macs: Vec<MacKind>,
    pub kex: Vec<KexKind>,
    /// Of certificates only where an authority is trusted for the host, unless somebody chose them.
    pub host_key_algorithms: Vec<KeyAlgorithm>,
    /// Somebody chose them: what is known of the host does not change their order.
    pub host_keys_chosen: bool,
    /// What authorities may have signed certificates of hosts with.
    pub ca_algorithms: Vec<SignatureAlgorithm>,
    pub user_algorithms: Vec<KeyAlgorithm>,
    pub compression: bool,
    /// Bytes and time after which new keys are agreed on.
    pub rekey: (Option<u64>, Option<Duration>),

    // ---- What is asked for there ----
    /// What is run; `None`: a shell.
    pub command: Option<Vec<u8>>,
    /// Standard input is left alone.
    pub stdin_null: bool,
    /// It goes on in the background once it is logged in.
    pub background: bool,
    pub session: SessionType,
    pub request_tty: RequestTty,
    /// Sent before it is started.
    pub variables: Vec<(String, String)>,
    /// What lets somebody at the keyboard speak with us.
    pub escape: Option<u8>,

    // ---- Forwarded connections ----
    pub local_forwards: Vec<Forward>,
    pub remote_forwards: Vec<Forward>,
    /// PermitRemoteOpen: where those may lead that say where to themselves.
    pub remote_open: Permits,
    /// `-W`: our standard streams are a connection to this.
    pub stdio_forward: Option<Target>,
    pub exit_on_forward_failure: bool,
    pub gateway_ports: bool,
    pub bind_mask: Option<u32>,
    pub bind_unlink: bool,
    /// The socket of the agent that programs there may use.
    pub forward_agent: Option<PathBuf>,
    /// Programs there may use our X server.
    pub forward_x11: Option<ForwardX11>,
    pub level: Level,
}

/// The agent that the environment names.
fn usual_agent() -> Option<PathBuf> {
    std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(Into::into)
}

impl Options {
    /// The usual, for a host in a user's hands whose home is `home`.
    pub fn new(host: &str, user: &str, home: Option<&std::path::Path>) -> Options {
        let at_home = |names: &[&str]| -> Vec<PathBuf> {
            names.iter().filter_map(|name| Some(home?.join(".ssh").join(name))).collect()
        };
        Options {
            host: host.to_owned(),
            host_name: host.to_owned(),
            port: 22,
            user: user.to_owned(),
            driver: DriverChoice::Auto,
            ipv4: true,
            ipv6: true,
            connect_timeout: None,
            connection_attempts: 1,
            bind_address: None,
            bind_interface: None,
            server_alive: None,
            login_time: None,
            tcp_keepalive: true,
            proxy_command: None,
            via: None,
            user_known_hosts: at_home(&["known_hosts", "known_hosts2"]),
            global_known_hosts: GLOBAL_KNOWN_HOSTS.map(PathBuf::from).into(),
            strict: StrictHostKeys::Ask,
            update_host_keys: UpdateHostKeys::No,
            hash_known_hosts: false,
            host_key_alias: None,
            no_localhost: false,
            batch: false,
            identity_files: at_home(&["id_rsa", "id_ecdsa", "id_ed25519"]),
            explicit_identities: false,
            certificate_files: Vec::new(),
            identities_only: false,
            agent: usual_agent(),
            add_keys: None,
            pubkey: true,
            password: true,
            keyboard_interactive: true,
            preferred: ["publickey", "keyboard-interactive", "password"].map(str::to_owned).into(),
            password_prompts: 3,
            secret: None,
            ciphers: quickest_first(CipherKind::ALL),
            macs: MacKind::DEFAULT.to_vec(),
            kex: KexKind::DEFAULT.to_vec(),
            host_key_algorithms: KeyAlgorithm::ALL.to_vec(),
            host_keys_chosen: false,
            ca_algorithms: SignatureAlgorithm::ALL.to_vec(),
            user_algorithms: KeyAlgorithm::ALL.to_vec(),
            compression: false,
            rekey: (None, None),
            command: None,
            stdin_null: false,
            background: false,
            session: SessionType::Default,
            request_tty: RequestTty::Auto,
            variables: Vec::new(),
            escape: Some(b'~'),
            local_forwards: Vec::new(),
            remote_forwards: Vec::new(),
            remote_open: Permits::ANY,
            stdio_forward: None,
            exit_on_forward_failure: false,
            gateway_ports: false,
            bind_mask: None,
            bind_unlink: false,
            forward_agent: None,
            forward_x11: None,
            level: Level::Info,
        }
    }

    /// Nothing of ours is for this host but the login, and it is asked for nothing that would lead back here.
    pub fn forward_nothing(&mut self) {
        self.local_forwards.clear();
        self.remote_forwards.clear();
        self.stdio_forward = None;
        self.forward_agent = None;
        self.forward_x11 = None;
    }

    /// The name in a known_hosts file, and its port.
    pub fn known_as(&self) -> (&str, u16) {
        match &self.host_key_alias {
            Some(alias) => (alias, 22),
            None => (&self.host_name, self.port),
        }
    }
}

/// The server takes the first of ours that it knows: those that processors are quick at.
pub fn quickest_first(ciphers: &[CipherKind]) -> Vec<CipherKind> {
    let mut ciphers = ciphers.to_vec();
    ciphers.sort_by_key(|kind| match kind {
        CipherKind::Aes128Gcm => 0,
        CipherKind::Aes256Gcm => 1,
        CipherKind::Chacha20Poly1305 => 2,
        _ => 3,
    });
    ciphers
}
