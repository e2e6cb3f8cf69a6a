use std::sync::Arc;
use std::time::Duration;

use super::tuning::WindowBudget;
use super::{Chains, Method};
use crate::crypto::SignatureAlgorithm;
use crate::limits::{
    AUTH_TRIES_DEFAULT, CHANNEL_PACKET_BYTES_MAX, LOGIN_GRACE_DEFAULT, SESSIONS_DEFAULT,
    WINDOW_BYTES, WINDOW_BYTES_MAX,
};
use crate::transport::{self, RekeyLimits};

/// What a server asks of a login and allows on a connection.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    pub transport: Arc<transport::ServerConfig>,
    /// Shown before the first attempt is answered; what passes
    /// [`crate::limits::BANNER_SENT_BYTES_MAX`] is cut off.
    pub banner: Option<String>,
    /// Banner, tries and methods may depend on the user: ask for them when the name is known.
    pub asks_users: bool,
    /// What may stand in a login name between the user and where he wants to go on. A style (`user:style`) stands
    /// before these, or there is none.
    pub separators: &'static [char],
    /// Signatures of logins are verified by whoever is asked about the key, but for those of security
    /// keys, which say more than that they hold.
    pub verifies_elsewhere: bool,
    /// Failed attempts after which the connection ends.
    pub auth_tries_max: u32,
    /// What it takes to log in.
    pub chains: Chains,
    /// Keyboard-interactive asks for a code.
    pub asks_codes: bool,
    /// Keyboard-interactive asks what somebody else wants to know, round by round.
    pub talks: bool,
    /// Whether the account may be used is asked once everything else of a login is over.
    pub asks_accounts: bool,
    /// From the first byte to the end of the login. `None`: for ever.
    pub login_grace: Option<Duration>,
    /// Session channels at one time.
    pub sessions_max: u32,
    /// Asks a silent peer whether it is there, after this time, and ends the connection after that
    /// many questions without any answer.
    pub client_alive: Option<(Duration, u32)>,
    /// Receive window of a channel that the owner does not size itself.
    pub window_bytes: u32,
    /// What it may grow to while it holds the peer back.
    pub window_bytes_max: u32,
    /// What those of all connections may grow by together.
    pub window_budget: Arc<WindowBudget>,
    /// The largest data packet we ask for.
    pub packet_bytes: u32,
    /// How a user's key may sign.
    pub user_algorithms: Vec<SignatureAlgorithm>,
    /// Spreads the delay of refusals over user names in a way that cannot be computed outside.
    pub delay_secret: u64,
}

impl ConnectionConfig {
    pub fn new(transport: Arc<transport::ServerConfig>) -> ConnectionConfig {
        let user_algorithms = transport.user_algorithms.clone();
        ConnectionConfig {
            transport,
            banner: None,
            asks_users: false,
            separators: &[],
            verifies_elsewhere: false,
            auth_tries_max: AUTH_TRIES_DEFAULT,
            chains: Chains::any_of([Method::PublicKey]),
            asks_codes: false,
            talks: false,
            asks_accounts: false,
            login_grace: Some(LOGIN_GRACE_DEFAULT),
            sessions_max: SESSIONS_DEFAULT,
            client_alive: None,
            window_bytes: WINDOW_BYTES,
            window_bytes_max: WINDOW_BYTES_MAX,
            window_budget: Arc::default(),
            packet_bytes: CHANNEL_PACKET_BYTES_MAX,
            user_algorithms,
            delay_secret: 0,
        }
    }
}

/// What a login's own settings change of a [`ConnectionConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginLimits {
    pub sessions_max: u32,
    pub client_alive: Option<(Duration, u32)>,
    pub rekey: RekeyLimits,
}

impl ConnectionConfig {
    pub fn limits(&self) -> LoginLimits {
        LoginLimits {
            sessions_max: self.sessions_max,
            client_alive: self.client_alive,
            rekey: self.transport.preferences.rekey,
        }
    }

    /// The same configuration with these limits.
    pub fn with_limits(&self, limits: LoginLimits) -> ConnectionConfig {
        let mut config = self.clone();
        let mut transport = (*config.transport).clone();
        transport.preferences.rekey = limits.rekey;
        config.transport = Arc::new(transport);
        config.sessions_max = limits.sessions_max;
        config.client_alive = limits.client_alive;
        config
    }
}

/// The same for the client's role.
#[derive(Clone, Debug)]
pub struct ClientConnectionConfig {
    pub transport: Arc<transport::ClientConfig>,
    /// As [`ConnectionConfig::client_alive`], for a silent server.
    pub server_alive: Option<(Duration, u32)>,
    pub window_bytes: u32,
    pub window_bytes_max: u32,
    pub window_budget: Arc<WindowBudget>,
    pub packet_bytes: u32,
    /// Hands channels of the forwarded types to the owner, who asked for them. Otherwise they are
    /// refused here: a server does not open channels unasked.
    pub takes_forwarded: bool,
    /// The same for channels to our agent.
    pub takes_agent: bool,
    /// The same for channels to our X server.
    pub takes_x11: bool,
    /// Tells the owner which host keys the server says it has.
    pub hears_host_keys: bool,
}

impl ClientConnectionConfig {
    pub fn new(transport: Arc<transport::ClientConfig>) -> ClientConnectionConfig {
        ClientConnectionConfig {
            transport,
            server_alive: None,
            window_bytes: WINDOW_BYTES,
            window_bytes_max: WINDOW_BYTES_MAX,
            window_budget: Arc::default(),
            packet_bytes: CHANNEL_PACKET_BYTES_MAX,
            takes_forwarded: false,
            takes_agent: false,
            takes_x11: false,
            hears_host_keys: false,
        }
    }
}
