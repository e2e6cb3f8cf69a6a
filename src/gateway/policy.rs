//! Who may log in with which key, and what that key then permits.

mod pam;
mod places;
mod programs;
mod readers;
mod reasons;
mod residents;
mod search;
mod secrets;

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tracing::{info, warn};

pub use self::pam::Talked;
use self::readers::Readers;
use self::search::{Found, Search, may_be_read_for};
use super::accounts::{self, Closed};
use super::authorized_keys::{self, Use};
use super::chroot;
use super::config::{
    AddressFamily, Config, Disk, Effective, Global, RootLogin, ScpServer, Who, expand_tokens, glob,
    is_internal_sftp, is_pattern,
};
use super::directory::{Directory, Entry};
use super::key_options::{self, Options};
use super::program::{About, Answers};
use super::recent_keys::{Reader, RecentKeys};
use super::relay::destination::Destinations;
use super::residents::Registry;
use super::upstream::{self, Fleets};
use crate::base::{escape, wildcard_match};
use crate::connection::{Method, Presence};
use crate::crypto::keys::revoked;
use crate::crypto::{Certificate, KeyAlgorithm, KeyKind, PublicKey, SignatureAlgorithm};
use crate::limits::{AUTHORIZED_KEYS_BYTES_MAX, BANNER_BYTES_MAX, REVOKED_KEYS_BYTES_MAX};
use crate::reactor;
use crate::services::forward::{DisplayRules, Forwarding, Ways};
use crate::services::upstream::{Finder, Trouble, Upstream};
use crate::services::{Account, AuthInfo, Demands, Grant, Place, Rules, Subsystem, is_listed};

/// While it exists nobody but root has sessions: everybody else is shown its text.
const NO_LOGIN: &str = "/etc/nologin";
const LATE: &str =
    "no file was read: an earlier try still waits for the account's, which do not answer";

/// Stands for the account of a login that has none; the system keeps it from being anybody's.
const NOBODY: u32 = u32::MAX;

/// A key that wants to log in. Everything but the key's own validity is the client's claim.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub user: &'a str,
    pub key: &'a PublicKey,
    pub algorithm: SignatureAlgorithm,
    /// What the key is shown in; nothing about it has been checked.
    pub certificate: Option<&'a Certificate>,
    pub peer: SocketAddr,
    /// The peer's name, if names are looked up.
    pub host: Option<&'a str>,
    pub local: SocketAddr,
    /// Where the connection is routed, if that matters.
    pub rdomain: Option<&'a str>,
}

/// Whoever has named a user and tried nothing yet.
#[derive(Clone, Copy, Debug)]
pub struct Comer<'a> {
    pub user: &'a str,
    pub peer: SocketAddr,
    pub host: Option<&'a str>,
    pub local: SocketAddr,
    pub rdomain: Option<&'a str>,
}

impl<'a> Request<'a> {
    pub const fn comer(&self) -> Comer<'a> {
        let Request { user, peer, host, local, rdomain, .. } = *self;
        Comer { user, peer, host, local, rdomain }
    }
}

impl<'a> Comer<'a> {
    /// And what key it shows.
    pub const fn with(
        self,
        key: &'a PublicKey,
        algorithm: SignatureAlgorithm,
        certificate: Option<&'a Certificate>,
    ) -> Request<'a> {
        let Comer { user, peer, host, local, rdomain } = self;
        Request { user, key, algorithm, certificate, peer, host, local, rdomain }
    }
}

/// Decides by an immutable configuration. Calls may block on the user database and on files.
#[derive(Clone, Debug)]
pub struct Policy {
    config: Arc<Config>,
    /// The account this process runs as; `None` where the database does not know it.
    process: Option<Account>,
    uid: u32,
    /// The accounts of the edge and the signer, which are nobody's to log in as.
    apart: Vec<u32>,
    directory: Arc<Directory>,
    fleets: Arc<Fleets>,
    answers: Arc<Answers>,
    registry: Arc<Registry>,
    recent: Arc<RecentKeys>,
    readers: Arc<Readers>,
}

/// Why a key was not let in: for the log, never for the client.
#[derive(Debug)]
pub struct Refusal {
    pub reason: Reason,
    /// Files and lines that were looked at and did not count, and why.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    UnknownUser,
    /// We are not root, so this process acts for one account only.
    OtherAccount {
        ours: String,
    },
    /// The name asks for a host that is not one of TidegateUpstreamTargets.
    Target(String),
    /// TidegateUpstream without TidegateUpstreamIdentity or TidegateUpstreamCA.
    NoIdentity,
    /// TidegateUpstreamCommand without TidegateUpstreamCommandUser.
    NoCommandUser,
    Database(String),
    Locked,
    Expired,
    Shell(PathBuf),
    RootLogin,
    /// The same of a key that is root's.
    RootKey,
    /// A pattern of this keyword matches.
    Denied {
        keyword: &'static str,
        pattern: String,
    },
    /// This keyword lists whom it allows, and not this user.
    NotAllowed {
        keyword: &'static str,
    },
    /// The account is the edge's or the signer's.
    EdgeUser,
    /// RefuseConnection is yes.
    RefuseConnection,
    MethodOff,
    Algorithm(KeyAlgorithm),
    RsaSize {
        bits: u32,
        least: u32,
    },
    NoKey,
    /// It stands in this file of RevokedKeys.
    Revoked(PathBuf),
    /// The file of RevokedKeys cannot be used, so every key counts as revoked.
    RevokedKeys(String),
    /// It comes from elsewhere than its From says.
    Source,
    /// It has a quota, and each of its connections a process.
    Quota,
    /// Nobody does the work of accounts that exist here alone.
    NoService,
    /// ChrootDirectory cannot be used.
    Chroot(String),
    /// No authority of the certificate is trusted for this user, or it does not count.
    NoCertificate,
    /// `PermitRootLogin forced-commands-only` and a line without `command=`.
    NoForcedCommand,
    /// PermitRootLogin lets root in by keys alone.
    RootPassword,
    /// PAM says no to a password, under this service.
    PamPassword {
        service: String,
        why: String,
    },
    /// PAM does not let the account be used.
    PamAccount {
        service: String,
        why: String,
    },
    /// PAM could not be asked.
    PamFailed {
        service: String,
        why: String,
    },
    /// The password or the code is not the user's, or was used before.
    Secrets,
    /// The audit cannot be written.
    Unheard(String),
}

impl Policy {
    /// A policy for the process that asks.
    pub fn new(config: Arc<Config>) -> Policy {
        let uid = nix::unistd::geteuid().as_raw();
        let process = accounts::by_uid(uid).ok().flatten();
        Policy {
            config,
            process,
            uid,
            apart: Vec::new(),
            directory: Arc::default(),
            fleets: Arc::default(),
            answers: Arc::default(),
            registry: Arc::default(),
            recent: Arc::default(),
            readers: Arc::default(),
        }
    }

    /// The same beside processes of ours of these accounts: whoever logged in as one could reach them.
    pub fn beside(self, others: Vec<u32>) -> Policy {
        Policy { apart: others, ..self }
    }

    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// What it knows logins' hosts by.
    pub fn destinations(&self) -> Destinations {
        Destinations { config: Arc::clone(&self.config), fleets: Arc::clone(&self.fleets) }
    }

    /// The account this process runs as.
    pub const fn process(&self) -> Option<&Account> {
        self.process.as_ref()
    }

    /// What holds for this user before the login is over.
    /// Answers also whether the user exists.
    pub fn greeting(&self, comer: &Comer<'_>) -> (Effective, bool) {
        let (user, _) = self.split(comer.user);
        let entry = self.directory.find(user).ok().flatten();
        let groups = entry.as_ref().map_or(&[][..], |entry| &entry.groups);
        let exists = entry.is_some() || self.residents().find(user).is_some();
        let login = self.effective(&Comer { user, ..*comer }, exists, groups);
        (login, exists)
    }

    fn effective(&self, comer: &Comer<'_>, exists: bool, groups: &[String]) -> Effective {
        self.config.effective(&who(comer, exists, groups))
    }

    /// May this key log in as this user, and what may it do then?
    ///
    /// Reads files of keys whether or not the user exists and may log in: for a user who may not,
    /// those of the account we run as stand in, so that the time tells little. The transport of
    /// the answer hides the rest.
    pub fn permit(&self, request: &Request<'_>) -> Result<Grant, Box<Refusal>> {
        let (user, target) = self.split(request.user);
        let request = &Request { user, ..*request };
        let (entry, database) = match self.directory.find(request.user) {
            Ok(entry) => (entry, None),
            Err(why) => (None, Some(Reason::Database(why.to_string()))),
        };
        let none: (&[u32], &[String]) = (&[], &[]);
        let (group_ids, groups) =
            entry.as_ref().map_or(none, |entry| (&entry.group_ids, &entry.groups));
        let comer = &request.comer();
        let residents = self.residents();
        let resident = residents.find(request.user);
        let login = self.effective(comer, entry.is_some() || resident.is_some(), groups);
        let known = entry.as_ref().map(|entry| &entry.account);
        let route = self.route(&login, target, known, (comer, Some(request.key)));
        if let (Some(resident), Ok(None)) = (resident, &route) {
            return self.permit_resident(resident, login, request);
        }
        let verdict = match (&entry, database, &route) {
            (.., Err(reason)) => Err(reason.clone()),
            (Some(entry), _, Ok(route)) => self
                .admits(entry, &login, comer, route.is_some())
                .and_then(|account| check_key(&login, request).map(|()| account)),
            (None, Some(reason), _) => Err(reason),
            (None, None, Ok(Some(_))) => admits_stranger(&login, comer)
                .and_then(|account| check_key(&login, request).map(|()| account)),
            (None, None, Ok(None)) => Err(Reason::UnknownUser),
        };
        let (account, reason) = match verdict {
            Ok(account) => (Some(account), None),
            Err(reason) => (self.process.clone(), Some(reason)),
        };
        let mut search = Search::default();
        let revoked = check_revoked(&login, request).err();
        if let Some(account) = &account {
            search = self.search(account, group_ids, &login, request);
        }
        let refuse = |reason, notes| Err(Box::new(Refusal { reason, notes }));
        let reason = match (reason, &search.found) {
            (Some(Reason::RootLogin), Some(_)) if revoked.is_none() => Some(Reason::RootKey),
            (reason, _) => reason.or(revoked),
        };
        match (reason, account, search.found) {
            // What stood in for the account is not told.
            (Some(reason), ..) => refuse(reason, Vec::new()),
            (None, Some(account), Some(found)) => {
                if account.uid == 0
                    && login.permit_root_login == RootLogin::ForcedCommandsOnly
                    && found.options.command.is_none()
                {
                    return refuse(Reason::NoForcedCommand, search.notes);
                }
                for note in &search.notes {
                    let (user, source) = (escape(account.name.as_bytes()), &found.source);
                    info!(%user, %source, "Passed over before {source} let {user} in: {note}");
                }
                let upstream = route.ok().flatten();
                let place = match self.place(&account, &login, upstream.as_ref()) {
                    Ok(place) => place,
                    Err(reason) => return refuse(reason, Vec::new()),
                };
                Ok(self.grant_to_key(account, login, found, request, (upstream, place)))
            }
            _ if request.certificate.is_some() => refuse(Reason::NoCertificate, search.notes),
            _ => refuse(Reason::NoKey, search.notes),
        }
    }

    /// The same for a key that has let somebody in a moment ago, where all is known that the answer takes:
    /// looks at files of this machine that were looked at then, reads none of them and asks nobody. `None`:
    /// [`Policy::permit`] is to say.
    pub fn permit_at_once(&self, request: &Request<'_>) -> Option<Grant> {
        let config = &self.config;
        if request.certificate.is_some()
            || config.login.accounts_file.is_some()
            || config.takes_targets()
        {
            return None;
        }
        let entry = self.directory.find_remembered(request.user)?;
        let login = self.effective(&request.comer(), true, &entry.groups);
        let elsewhere = !login.upstream.is_empty() || !login.upstream_command.is_empty();
        if elsewhere || login.revoked_keys.is_some() || login.chroot_directory.is_some() {
            return None;
        }
        let account = self.admits(&entry, &login, &request.comer(), false).ok()?;
        check_key(&login, request).ok()?;
        let reader = Reader { account: &account, groups: &entry.group_ids };
        let wanted = wanted(&account, &login, request);
        let found = search::recent(&self.recent, &login.authorized_keys_files, reader, wanted)?;
        let forced_only = login.permit_root_login == RootLogin::ForcedCommandsOnly;
        if account.uid == 0 && forced_only && found.options.command.is_none() {
            return None;
        }
        Some(self.grant_to_key(account, login, found, request, (None, Place::System)))
    }

    fn grant_to_key(
        &self,
        account: Account,
        login: Effective,
        found: Found,
        request: &Request<'_>,
        (upstream, place): (Option<Upstream>, Place),
    ) -> Grant {
        let key = Some(request.key);
        let mut grant = self.grant(account, login, found, (key, upstream, place));
        if let Some(info) = &mut grant.rules.auth_info {
            *info = AuthInfo::new(Method::PublicKey.name(), key, request.certificate);
        }
        grant
    }

    /// The user of a login name and, where names may have one, the target in it. A name that is an
    /// account's is that account's.
    fn split<'a>(&self, name: &'a str) -> (&'a str, Option<&'a str>) {
        let named = || {
            let listed = self.directory.find(name).ok().flatten().is_some();
            listed || self.residents().find(name).is_some()
        };
        match upstream::split_name(name) {
            Some((user, target)) if self.config.takes_targets() && !named() => (user, Some(target)),
            _ => (name, None),
        }
    }

    /// Where the login goes on, if not here.
    fn route(
        &self,
        login: &Effective,
        target: Option<&str>,
        account: Option<&Account>,
        (comer, key): (&Comer<'_>, Option<&PublicKey>),
    ) -> Result<Option<Upstream>, Reason> {
        let asks = target.is_none() && login.upstream.is_empty();
        let hosts = match target {
            None if asks && login.upstream_command.is_empty() => return Ok(None),
            None => login.upstream.clone(),
            Some(target) => match upstream::target(&login.upstream_targets, target) {
                Some(host) => vec![host],
                None => return Err(Reason::Target(target.to_owned())),
            },
        };
        let with = key.map_or(String::new(), |key| format!(" with {}", key.fingerprint()));
        let client = comer.peer.ip();
        let who = (client, format!("{} from {client}{with}", comer.user));
        let upstream = self.fleets.upstream(&self.config, login, comer.user, hosts, who);
        let mut upstream = upstream.ok_or(Reason::NoIdentity)?;
        if asks {
            upstream.finder = Some(finder(login, account, comer, key)?);
        }
        Ok(Some(upstream))
    }

    /// Asks the program that knows where a login goes on. Blocks.
    ///
    /// # Errors
    /// It cannot be run, or its answer is of no use.
    pub fn find_hosts(&self, upstream: &Upstream) -> Result<Upstream, Trouble> {
        let Some(Finder { words, user }) = &upstream.finder else { return Ok(upstream.clone()) };
        let trouble = |why: String| Trouble {
            said: "the gateway cannot find out where this login goes on".to_owned(),
            logged: format!("TidegateUpstreamCommand {}: {why}", words.join(" ")),
        };
        let answer = self.run_as(user, words).map_err(trouble)?;
        let (hosts, user) = upstream::read_answer(&answer).map_err(trouble)?;
        Ok(Upstream {
            fleet: self.fleets.of(hosts),
            finder: None,
            user: user.unwrap_or_else(|| upstream.user.clone()),
            ..upstream.clone()
        })
    }

    /// Everything about the user.
    fn admits(
        &self,
        entry: &Entry,
        login: &Effective,
        comer: &Comer<'_>,
        routed: bool,
    ) -> Result<Account, Reason> {
        let account = &entry.account;
        if !routed && self.uid != 0 && account.uid != self.uid {
            let ours = self.process.as_ref().map(|process| process.name.clone());
            return Err(Reason::OtherAccount { ours: ours.unwrap_or_default() });
        }
        check_lists(login, &account.name, &entry.groups, comer)?;
        if !routed && self.apart.contains(&account.uid) {
            return Err(Reason::EdgeUser);
        }
        if account.uid == 0 && login.permit_root_login == RootLogin::No {
            return Err(Reason::RootLogin);
        }
        // Where PAM is asked about accounts, it says whether one is closed.
        if self.uid == 0 && (routed || !login.use_pam) {
            match entry.closed {
                Some(Closed::Locked) => return Err(Reason::Locked),
                Some(Closed::Expired) => return Err(Reason::Expired),
                None => {}
            }
        }
        // Nothing of a login that goes on elsewhere runs here.
        // One in a ChrootDirectory is not looked for, as sshd does not: it is another system's.
        let elsewhere = routed || login.chroot_directory.is_some();
        if !elsewhere && !entry.has_shell {
            return Err(Reason::Shell(account.shell.clone()));
        }
        Ok(account.clone())
    }

    /// Looks for the key in the account's files, with the account's rights.
    fn search(
        &self,
        account: &Account,
        groups: &[u32],
        login: &Effective,
        request: &Request<'_>,
    ) -> Search {
        let strict = self.config.global.strict_modes;
        let files = &login.authorized_keys_files;
        let mut search = Search::default();
        // The authorities are the administrator's and are read with our own rights.
        let trusted = search.trusted(login, request);
        let certified = trusted.clone();
        let wanted = wanted(account, login, request);
        let reader = Reader { account, groups };
        if let Some(found) = search::recent(&self.recent, files, reader, wanted) {
            return Search { found: Some(found), ..search };
        }
        let look = || {
            if let Some((certificate, source)) = trusted {
                search.certificate(certificate, source, account, login, (strict, wanted));
            }
            for template in files {
                if !may_be_read_for(account, template) {
                    continue;
                }
                let path = expand_tokens(template, &account.home, &account.name, account.uid);
                // A wildcard in somebody's home directory is a letter like others.
                let several = is_pattern(OsStr::new(template));
                let paths = if several { glob(&path, &Disk, |_, _| ()) } else { vec![path] };
                for path in paths {
                    if search.found.is_some() {
                        return search;
                    }
                    search.file(&path, reader, (strict, wanted), &self.recent);
                }
            }
            search
        };
        let rights = if account.uid == NOBODY { self.process.as_ref() } else { Some(account) };
        let read = || match rights {
            None => look(),
            Some(rights) => accounts::with_rights_of(rights, groups, look)
                .unwrap_or_else(|why| Search::nothing(why.to_string())),
        };
        let read = self.readers.read(account.uid, reactor::now(), read);
        let mut search = read.unwrap_or_else(|| Search::nothing(LATE.to_owned()));
        if search.found.is_none() {
            self.ask_programs(&mut search, account, login, request, (certified, wanted));
        }
        search
    }

    /// Nothing of a login that goes on elsewhere is here.
    fn place(
        &self,
        account: &Account,
        login: &Effective,
        upstream: Option<&Upstream>,
    ) -> Result<Place, Reason> {
        match upstream {
            None => chroot::place(login, account, self.uid).map_err(Reason::Chroot),
            Some(_) => Ok(Place::System),
        }
    }

    fn grant(
        &self,
        account: Account,
        login: Effective,
        found: Found,
        (key, upstream, place): (Option<&PublicKey>, Option<Upstream>, Place),
    ) -> Grant {
        let subsystem = |command: &str| match is_internal_sftp(command) {
            true => Subsystem::Sftp(command.to_owned()),
            false => Subsystem::Command(command.to_owned()),
        };
        let subsystems = login.subsystems.iter();
        let subsystems = subsystems.map(|s| (s.name.clone(), subsystem(&s.command))).collect();
        let mut rules = self.rules(&account, &login, &found);
        rules.forwarding.keep_to(&place);
        // Where blocks exist, what held before the login may differ from what holds now.
        let limits = self.config.has_match_blocks().then(|| login.limits());
        let verbosity = self.config.own_log_level().map(|_| login.log_level.number());
        let presence = Presence {
            touch: login.pubkey_auth_options.touch || !found.options.no_touch,
            verify: login.pubkey_auth_options.verify || found.options.verify,
        };
        let demands = Demands { chains: login.chains(), codes: login.asks_codes() };
        Grant {
            account,
            key: key.cloned(),
            forced_command: login.force_command.or(found.options.command),
            pty: login.permit_tty && found.options.pty && !place.is_files(),
            accept_env: login.accept_env,
            set_env: login.set_env,
            subsystems,
            scp: login.scp == ScpServer::Internal,
            open_files: None,
            limits,
            source: found.source,
            verbosity,
            rules,
            presence,
            place,
            upstream: upstream.map(Arc::new),
            demands,
        }
    }

    fn rules(&self, account: &Account, login: &Effective, found: &Found) -> Rules {
        let global = &self.config.global;
        let options = &found.options;
        let no_login = if account.uid == 0 { None } else { no_login() };
        if no_login.is_some() {
            let user = escape(account.name.as_bytes());
            info!(%user, "{NO_LOGIN} exists: {user} is told so and gets no session");
        }
        let forwarding = forwarding(login, global, &options.forwarding, no_login.is_none());
        let permitted = |name: &str| match &global.user_environment {
            Some(patterns) => is_listed(patterns, name),
            None => false,
        };
        let (variables, others): (Vec<_>, Vec<_>) =
            options.environment.iter().cloned().partition(|(name, _)| permitted(name));
        for (name, _) in others {
            let source = &found.source;
            info!(%source, %name, "{source}: PermitUserEnvironment does not let {name} be set");
        }
        let timeouts = login.channel_timeouts.iter();
        Rules {
            variables,
            user_environment: global.user_environment.clone(),
            time_zone: std::env::var("TZ").ok(),
            no_login,
            last_login: global.print_last_log,
            motd: global.print_motd,
            user_rc: login.permit_user_rc && options.user_rc,
            forced_by_settings: login.force_command.is_some(),
            channel_timeouts: timeouts.map(|item| (item.pattern.clone(), item.time)).collect(),
            unused_timeout: login.unused_connection_timeout,
            interactive_class: login.ip_qos.interactive,
            bulk_class: login.ip_qos.bulk,
            forwarding,
            auth_info: login.expose_auth_info.then(AuthInfo::default),
            audited: false,
            session_variables: Vec::new(),
            uses_pam: login.use_pam,
            session_text: String::new(),
            no_session: None,
            must_change: false,
            record: login.record(),
            places: Vec::new(),
        }
    }
}

fn wanted<'a>(account: &'a Account, login: &'a Effective, request: &Request<'a>) -> Use<'a> {
    Use {
        user: &account.name,
        key: request.key,
        certificate: request.certificate,
        ca_algorithms: &login.ca_algorithms,
        peer: request.peer.ip(),
        host: request.host,
        now: now(),
    }
}

fn who<'a>(comer: &'a Comer<'_>, exists: bool, groups: &'a [String]) -> Who<'a> {
    Who {
        user: Some(comer.user),
        account: Some(exists),
        groups,
        peer: Some(comer.peer.ip()),
        host: comer.host,
        local: Some(comer.local),
        rdomain: comer.rdomain,
    }
}

/// The program that is asked where this login goes on, and with which words.
fn finder(
    login: &Effective,
    account: Option<&Account>,
    comer: &Comer<'_>,
    key: Option<&PublicKey>,
) -> Result<Finder, Reason> {
    if !programs::may_be_told(comer.user) {
        return Err(Reason::UnknownUser);
    }
    let user = login.upstream_command_user.clone().ok_or(Reason::NoCommandUser)?;
    let stranger = stranger(comer.user);
    let about = About {
        account: account.unwrap_or(&stranger),
        rdomain: comer.rdomain,
        key,
        peer: comer.peer,
        local: comer.local,
        certificate: None,
    };
    let words = login.upstream_command.iter().map(|word| about.expand(word)).collect();
    Ok(Finder { words, user })
}

/// A user who exists nowhere but in the configuration: of a login that goes on elsewhere, only the
/// lists and the key are asked about.
fn admits_stranger(login: &Effective, comer: &Comer<'_>) -> Result<Account, Reason> {
    check_lists(login, comer.user, &[], comer)?;
    Ok(stranger(comer.user))
}

/// The account of a user who has none.
fn stranger(name: &str) -> Account {
    Account {
        name: name.to_owned(),
        uid: NOBODY,
        gid: NOBODY,
        home: PathBuf::from("/nonexistent"),
        shell: PathBuf::from("/bin/false"),
    }
}

/// What the settings and the key both permit. `open`: nothing goes round a closed door.
fn forwarding(
    login: &Effective,
    global: &Global,
    key: &key_options::Forwarding,
    open: bool,
) -> Forwarding {
    let (any, family) = (open && !login.disable_forwarding, global.address_family);
    let tcp = login.allow_tcp_forwarding.only_if(any && key.ports);
    Forwarding {
        tcp,
        // sshd's AllowTcpForwarding closes a way for sockets of the file system too.
        streamlocal: login.allow_streamlocal_forwarding.and(tcp),
        open: login.permit_open.clone(),
        key_open: key.open.clone(),
        listen: login.permit_listen.clone(),
        key_listen: key.listen.clone(),
        gateway_ports: login.gateway_ports,
        inet: family != AddressFamily::Inet6,
        inet6: family != AddressFamily::Inet,
        bind_mask: login.streamlocal_bind_mask,
        bind_unlink: login.streamlocal_bind_unlink,
        agent: any && key.agent && login.allow_agent_forwarding,
        x11: any && key.x11 && login.x11_forwarding,
        display: DisplayRules {
            offset: login.x11_display_offset,
            localhost: login.x11_use_localhost,
            xauth: global.xauth.as_ref().map(|path| path.to_string_lossy().into_owned()),
        },
    }
}

/// Keys expire by the calendar.
fn now() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "keys expire by the calendar")]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// The text of /etc/nologin, if there is one; one that cannot be read closes the door all the same.
fn no_login() -> Option<String> {
    if !Path::new(NO_LOGIN).exists() {
        return None;
    }
    let mut text = Vec::new();
    let read = File::open(NO_LOGIN)
        .and_then(|file| file.take(u64::from(BANNER_BYTES_MAX)).read_to_end(&mut text));
    if let Err(why) = read {
        warn!(%why, "{NO_LOGIN} cannot be shown: {why}");
    }
    // No program can be told a NUL.
    text.retain(|byte| *byte != 0);
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// DenyUsers, AllowUsers, DenyGroups, AllowGroups, in sshd's order.
fn check_lists(
    login: &Effective,
    user: &str,
    groups: &[String],
    comer: &Comer<'_>,
) -> Result<(), Reason> {
    let (peer, host) = (comer.peer.ip(), comer.host);
    // Whoever greets says so first; this holds whether or not anybody has.
    if login.refuse_connection {
        return Err(Reason::RefuseConnection);
    }
    if let Some(pattern) = login.deny_users.iter().find(|p| p.matches(user, peer, host)) {
        return Err(Reason::Denied { keyword: "DenyUsers", pattern: pattern.to_string() });
    }
    if !login.allow_users.is_empty()
        && !login.allow_users.iter().any(|p| p.matches(user, peer, host))
    {
        return Err(Reason::NotAllowed { keyword: "AllowUsers" });
    }
    let is_member = |pattern: &&String| {
        groups.iter().any(|group| wildcard_match(pattern.as_bytes(), group.as_bytes()))
    };
    if let Some(pattern) = login.deny_groups.iter().find(is_member) {
        return Err(Reason::Denied { keyword: "DenyGroups", pattern: pattern.clone() });
    }
    if !login.allow_groups.is_empty() && !login.allow_groups.iter().any(|p| is_member(&p)) {
        return Err(Reason::NotAllowed { keyword: "AllowGroups" });
    }
    Ok(())
}

/// The file is read every time, so a key that was revoked is of no use at once. SECURITY case 75:
/// one that cannot be read or understood lets nobody in.
fn check_revoked(login: &Effective, request: &Request<'_>) -> Result<(), Reason> {
    let Some(path) = &login.revoked_keys else { return Ok(()) };
    let text = authorized_keys::read_any(path, REVOKED_KEYS_BYTES_MAX)
        .map_err(|why| Reason::RevokedKeys(why.to_string()))?;
    match revoked::is_revoked(&text, request.key, request.certificate) {
        Ok(false) => Ok(()),
        Ok(true) => Err(Reason::Revoked(path.clone())),
        Err(why) => {
            let path = escape(path.as_os_str().as_encoded_bytes());
            Err(Reason::RevokedKeys(format!("{path}: {why}")))
        }
    }
}

fn check_key(login: &Effective, request: &Request<'_>) -> Result<(), Reason> {
    if !login.pubkey_authentication {
        return Err(Reason::MethodOff);
    }
    let (signature, certified) = (request.algorithm, request.certificate.is_some());
    let algorithm = KeyAlgorithm { signature, certified };
    if !login.pubkey_algorithms.contains(&algorithm) || signature.key_kind() != request.key.kind() {
        return Err(Reason::Algorithm(algorithm));
    }
    let (bits, least) = (request.key.bits(), login.required_rsa_size);
    if request.key.kind() == KeyKind::Rsa && bits < least {
        return Err(Reason::RsaSize { bits, least });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
