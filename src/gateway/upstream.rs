//! What worker threads do for logins that go on elsewhere, and which hosts those are.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tracing::info;

use super::config::{Config, Effective};
use super::host_keys;
use crate::base::wildcard_match;
use crate::connection::{ClientConnectionConfig, LoginMethod, LoginSession};
use crate::crypto::kex::KexKind;
use crate::crypto::keys::known_hosts::{self, HostName, KnownHosts, KnownTypes, Verdict};
use crate::crypto::keys::{CertificateError, CertificateKind, Certification, Extensions};
use crate::crypto::{
    Certificate, CipherKind, KeyAlgorithm, KeyKind, PrivateKey, PublicKey, SignatureAlgorithm,
};
use crate::limits::{
    CERTIFICATE_CLOCK_SKEW, KEY_FILE_BYTES_MAX, KNOWN_HOSTS_BYTES_MAX, UPSTREAM_CERTIFICATE_TIME,
    UPSTREAM_FLEETS_MAX, UPSTREAM_HOSTS_MAX,
};
use crate::services::forward;
use crate::services::upstream::{
    Credential, Fleet, Host, HostKeyPolicy, LoginKey, Trouble, Upstream, Way,
};
use crate::transport::{ClientConfig, Preferences, RekeyLimits};

/// What stands between the user and the target in a login name.
const SEPARATORS: [char; 2] = ['%', '+'];
const SOFTWARE: &str = concat!("Tidegate_", env!("CARGO_PKG_VERSION"));

/// What stands between the two, where login names may name a target.
pub const fn separators(takes_targets: bool) -> &'static [char] {
    if takes_targets { &SEPARATORS } else { &[] }
}

/// The user and the target of a login name like `ann%web1` or `ann+web1:2222`. `None` unless there
/// is exactly one separator, with something on both sides of it (SECURITY case 104).
pub fn split_name(name: &str) -> Option<(&str, &str)> {
    let (user, target) = name.split_once(SEPARATORS)?;
    let whole = !user.is_empty() && !target.is_empty() && !target.contains(SEPARATORS);
    whole.then_some((user, target))
}

/// The host that a target names, if one of the patterns allows it: `host`, `host:port` or
/// `[address]:port`. A pattern without a port is for port 22.
pub fn target(patterns: &[String], target: &str) -> Option<(String, u16)> {
    let (host, port) = host_and_port(target)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || host.starts_with('-') || !host.chars().all(plain) {
        return None;
    }
    let host = host.to_ascii_lowercase();
    let allowed = patterns.iter().any(|pattern| {
        let Some((names, ports)) = host_and_pattern(pattern) else { return false };
        let names = names.to_ascii_lowercase();
        wildcard_match(names.as_bytes(), host.as_bytes())
            && (ports == "*" || ports.parse() == Ok(port))
    });
    allowed.then_some((host, port))
}

/// The answer of TidegateUpstreamCommand: on each line a host, and a port and a user if they are not the
/// usual ones. Empty lines and those that begin with `#` say nothing.
pub fn read_answer(text: &str) -> Result<(Hosts, Option<String>), String> {
    let anything = ["*:*".to_owned()];
    let mut hosts = Hosts::new();
    let mut found: Option<Option<&str>> = None;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (host, port, user) = match *words.as_slice() {
            [] => continue,
            [comment, ..] if comment.starts_with('#') => continue,
            [host] => (host, "22", None),
            [host, port] => (host, port, None),
            [host, port, user] => (host, port, Some(user)),
            _ => return Err(format!("it answers {line:?}, and not a host, a port and a user")),
        };
        if host.contains(':') && host.parse::<Ipv6Addr>().is_err() {
            return Err(format!(
                "it answers {line:?}; a host and its port stand apart, with a blank"
            ));
        }
        let host = target(&anything, &format!("[{host}]:{port}"));
        hosts.push(host.ok_or_else(|| format!("it answers {line:?}, which is no host and port"))?);
        if hosts.len() > UPSTREAM_HOSTS_MAX {
            return Err(format!("it answers more than {UPSTREAM_HOSTS_MAX} hosts"));
        }
        if *found.get_or_insert(user) != user {
            return Err("it answers different users for hosts of one login".to_owned());
        }
    }
    match found {
        Some(user) => Ok((hosts, user.map(str::to_owned))),
        None => Err("it names no host".to_owned()),
    }
}

fn host_and_port(word: &str) -> Option<(&str, u16)> {
    let (host, port) = host_and_pattern(word)?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    Some((host, port))
}

/// A host and what is written as its port.
fn host_and_pattern(word: &str) -> Option<(&str, &str)> {
    if let Some(rest) = word.strip_prefix('[') {
        let (host, behind) = rest.split_once(']')?;
        return match behind.strip_prefix(':') {
            Some(port) => Some((host, port)),
            None => behind.is_empty().then_some((host, "22")),
        };
    }
    match word.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => Some((host, port)),
        _ => Some((word, "22")),
    }
}

/// What is known of hosts, shared by all logins that go on at them.
#[derive(Debug, Default)]
pub struct Fleets(Mutex<BTreeMap<Hosts, Arc<Fleet>>>);

/// Names and ports.
pub type Hosts = Vec<(String, u16)>;

impl Fleets {
    pub fn of(&self, hosts: Hosts) -> Arc<Fleet> {
        let mut fleets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if fleets.len() >= UPSTREAM_FLEETS_MAX {
            fleets.retain(|_, fleet| Arc::strong_count(fleet) > 1);
        }
        let fleet = fleets.entry(hosts.clone()).or_insert_with(|| Arc::new(Fleet::new(hosts)));
        Arc::clone(fleet)
    }

    /// Where a login under these settings goes on.
    pub fn upstream(
        &self,
        config: &Config,
        login: &Effective,
        user: &str,
        hosts: Hosts,
        (client, on_behalf_of): (IpAddr, String),
    ) -> Option<Upstream> {
        let limits = login.limits();
        let connection = connection_config(config, limits.rekey, limits.client_alive)?;
        Some(Upstream {
            fleet: self.of(hosts),
            finder: None,
            user: match &login.upstream_user {
                Some(template) => expand(template, user),
                None => user.to_owned(),
            },
            credential: match (&login.upstream_authority, &login.upstream_identity) {
                _ if login.upstream_agent => Credential::Agent,
                (Some(path), _) => Credential::Authority(path.clone()),
                (None, Some(path)) => Credential::Identity(path.clone()),
                (None, None) => return None,
            },
            on_behalf_of,
            client,
            known_hosts: login.upstream_known_hosts.clone(),
            host_keys: login.upstream_host_keys,
            ca_algorithms: login.ca_algorithms.clone(),
            announces: login.upstream_proxy_protocol,
            share: login.upstream_share,
            config: Arc::new(connection),
        })
    }
}

/// What connections to hosts are made with.
pub fn connection_config(
    config: &Config,
    rekey: RekeyLimits,
    server_alive: Option<(Duration, u32)>,
) -> Option<ClientConnectionConfig> {
    let mut preferences = Preferences::new(SOFTWARE)?;
    preferences.kex = kex(&config.global.kex_algorithms);
    preferences.ciphers = ciphers(&config.global.ciphers);
    preferences.macs.clone_from(&config.global.macs);
    preferences.rekey = rekey;
    let transport = ClientConfig { defers: true, ..ClientConfig::new(preferences) };
    let mut connection = ClientConnectionConfig::new(Arc::new(transport));
    connection.server_alive = server_alive;
    Some(connection)
}

/// `%u` is the login's user.
fn expand(template: &str, user: &str) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((plain, behind)) = rest.split_once('%') {
        text.push_str(plain);
        let mut behind = behind.chars();
        text.push_str(if behind.next() == Some('u') { user } else { "%" });
        rest = behind.as_str();
    }
    text + rest
}

/// Where KexAlgorithms is not set, hosts may have what our own clients need not, and what takes a
/// client a moment comes first: the rest is a worker's for up to tens of milliseconds, and is there
/// for hosts that have nothing else. Known groups come before one that has to be tested.
fn kex(allowed: &[KexKind]) -> Vec<KexKind> {
    if allowed != KexKind::SERVER_DEFAULT {
        return allowed.to_vec();
    }
    let slow = [
        KexKind::Sntrup761X25519,
        KexKind::DhGroup16,
        KexKind::DhGroup18,
        KexKind::DhGroup14,
        KexKind::DhGroupExchange,
    ];
    let quick = KexKind::DEFAULT.iter().copied().filter(|kind| !slow.contains(kind));
    quick.chain(slow).collect()
}

/// The host takes the first of ours that it knows: those that this processor is quick at.
fn ciphers(allowed: &[CipherKind]) -> Vec<CipherKind> {
    let mut chosen = allowed.to_vec();
    chosen.sort_by_key(|kind| match kind {
        CipherKind::Aes128Gcm => 0,
        CipherKind::Aes256Gcm => 1,
        CipherKind::Chacha20Poly1305 => 2,
        _ => 3,
    });
    chosen
}

/// Addresses of a host, and the key that opens it. Blocks.
pub fn find_way(
    upstream: &Upstream,
    number: usize,
    subject: Option<&PublicKey>,
    keys: &dyn LoginKeys,
) -> Result<Way, Trouble> {
    let Some(host) = upstream.fleet.host(number) else {
        return Err(Trouble::plain("there is no such host"));
    };
    let addresses = forward::resolve(&host.name, host.port)
        .map_err(|why| Trouble::plain(format!("cannot find {host}: {why}")))?;
    let proof = match &upstream.credential {
        Credential::Identity(path) => keys.identity(path).and_then(shown),
        Credential::Authority(path) => certified(path, upstream, &addresses, (subject, keys)),
        Credential::Agent => Ok((LoginKey::Agent, LoginMethod::None)),
    };
    let (key, method) = proof.map_err(|why| Trouble {
        said: "the gateway cannot use its key".to_owned(),
        logged: format!("{}: {why}", upstream.credential.place()),
    })?;
    let config = asking_for_known_keys(upstream, host);
    Ok(Way { addresses: addresses.into(), socket: None, config, key, method })
}

/// The gateway's keys for hosts, by the files that the configuration names. Calls may wait.
pub trait LoginKeys: Send + Sync {
    fn identity(&self, path: &Path) -> Result<LoginKey, String>;

    /// A certificate of the authority in this file.
    fn certify(&self, authority: &Path, login: &OneLogin<'_>) -> Result<Certificate, String>;

    /// Signs a login as a user at a host with the key in this file, where it is not here. `None`: it
    /// cannot, and the log has the cause.
    fn sign(
        &self,
        path: &Path,
        user: &str,
        algorithm: SignatureAlgorithm,
        session: LoginSession,
    ) -> Option<Box<[u8]>>;
}

/// What a certificate for one login is made of.
#[derive(Clone, Copy, Debug)]
pub struct OneLogin<'a> {
    /// A key that was made for it.
    pub subject: &'a PublicKey,
    /// Who logs in there.
    pub user: &'a str,
    /// Who logs in here, for the host's log.
    pub key_id: &'a str,
    /// From where, separated by commas; empty: from anywhere.
    pub sources: &'a str,
}

impl OneLogin<'_> {
    /// It counts from now on, for a few minutes.
    ///
    /// # Errors
    /// The authority cannot sign, or it does not fit into a certificate.
    pub fn certify(&self, authority: &PrivateKey) -> Result<Certificate, CertificateError> {
        let now = now();
        let certification = Certification {
            kind: CertificateKind::User,
            serial: now,
            key_id: self.key_id,
            principals: &[self.user],
            valid_after: now.saturating_sub(CERTIFICATE_CLOCK_SKEW.as_secs()),
            valid_before: now.saturating_add(UPSTREAM_CERTIFICATE_TIME.as_secs()),
            force_command: None,
            source_address: Some(self.sources).filter(|sources| !sources.is_empty()),
            verify_required: false,
            extensions: Extensions::USUAL,
        };
        certification.issue(self.subject, authority)
    }
}

/// Keys of this process, read from their files for each login.
#[derive(Clone, Copy, Debug)]
pub struct Files;

impl LoginKeys for Files {
    fn identity(&self, path: &Path) -> Result<LoginKey, String> {
        load_key(path).map(|key| LoginKey::Here(Arc::new(key)))
    }

    fn certify(&self, authority: &Path, login: &OneLogin<'_>) -> Result<Certificate, String> {
        login.certify(&load_key(authority)?).map_err(|why| why.to_string())
    }

    fn sign(
        &self,
        _path: &Path,
        _user: &str,
        _algorithm: SignatureAlgorithm,
        _session: LoginSession,
    ) -> Option<Box<[u8]>> {
        None
    }
}

pub type Proof = (LoginKey, LoginMethod);

/// A login by this key.
pub fn shown(key: LoginKey) -> Result<Proof, String> {
    let public = key.public().ok_or("there is no key")?.clone();
    let algorithm = algorithm_of(&public)?;
    Ok((key, LoginMethod::PublicKey { key: Box::new(public), algorithm }))
}

/// A key that exists for one login, and a certificate for that login: its user, our address as the
/// host sees it (or the client's, where the host is told that), and a few minutes.
fn certified(
    authority: &Path,
    upstream: &Upstream,
    addresses: &[SocketAddr],
    (subject, keys): (Option<&PublicKey>, &dyn LoginKeys),
) -> Result<Proof, String> {
    let key = match subject {
        Some(subject) => LoginKey::Elsewhere(Box::new(subject.clone())),
        None => {
            let key = PrivateKey::generate(KeyKind::Ed25519).map_err(|why| why.to_string())?;
            LoginKey::Here(Arc::new(key))
        }
    };
    let subject = key.public().ok_or("there is no key")?;
    let mut sources = own_addresses(addresses);
    if upstream.announces.is_some() {
        sources.push(upstream.client.to_canonical().to_string());
    }
    let login = OneLogin {
        subject,
        user: &upstream.user,
        key_id: &upstream.on_behalf_of,
        sources: &sources.join(","),
    };
    let certificate = Box::new(keys.certify(authority, &login)?);
    let algorithm = algorithm_of(subject)?;
    Ok((key, LoginMethod::Certificate { certificate, algorithm }))
}

/// The addresses that we reach these from: what the routes say, for nothing is sent.
fn own_addresses(addresses: &[SocketAddr]) -> Vec<String> {
    let mut own: Vec<String> = Vec::new();
    for to in addresses {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).and_then(|socket| {
            socket.connect(to)?;
            socket.local_addr()
        });
        if let Ok(local) = socket {
            let local = local.ip().to_canonical().to_string();
            if !own.contains(&local) {
                own.push(local);
            }
        }
    }
    own
}

/// Certificates expire by the calendar.
fn now() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "certificates expire by the calendar")]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

pub fn algorithm_of(key: &PublicKey) -> Result<SignatureAlgorithm, String> {
    let algorithms = SignatureAlgorithm::for_key(key.kind());
    algorithms.first().copied().ok_or_else(|| "this kind of key cannot sign".to_owned())
}

fn load_key(path: &Path) -> Result<PrivateKey, String> {
    let file = open_key(path).map_err(|why| why.to_string())?;
    host_keys::read_open(file).map_err(|why| why.to_string())
}

/// Opens the file of a key that opens hosts.
pub fn open_key(path: &Path) -> io::Result<File> {
    let (file, metadata) = host_keys::open_plain(path)?;
    if metadata.len() > KEY_FILE_BYTES_MAX {
        return Err(io::Error::other(format!("larger than {KEY_FILE_BYTES_MAX} bytes")));
    }
    Ok(file)
}

/// A host shows the first of its keys that we name: the kinds that it is known by come first, and
/// certificates before all where an authority is trusted for it.
fn asking_for_known_keys(upstream: &Upstream, host: &Host) -> Arc<ClientConnectionConfig> {
    let name = HostName::new(&host.name, host.port);
    let known = read_known_hosts(&upstream.known_hosts).ok();
    let types = name.zip(known).map(|(name, known)| known.types(&name)).unwrap_or_default();
    if types == KnownTypes::default() {
        return Arc::clone(&upstream.config);
    }
    let mut config = (*upstream.config).clone();
    let mut transport = (*config.transport).clone();
    if types.certificates {
        transport.host_key_algorithms = KeyAlgorithm::ALL.to_vec();
    }
    transport.host_key_algorithms.sort_by_key(|algorithm| {
        let known = types.kinds.contains(&algorithm.signature.key_kind());
        (!algorithm.certified, !algorithm.certified && !known)
    });
    config.transport = Arc::new(transport);
    Arc::new(config)
}

/// A file that is not there says nothing.
fn read_known_hosts(path: &Path) -> Result<KnownHosts, String> {
    let mut known = KnownHosts::default();
    let mut text = Vec::new();
    let file = File::open(path);
    match file.and_then(|file| file.take(KNOWN_HOSTS_BYTES_MAX + 1).read_to_end(&mut text)) {
        Ok(_) => known
            .add_file(&path.to_string_lossy(), &text)
            .map_err(|why| format!("{}: {why}", path.display()))?,
        Err(why) if why.kind() == ErrorKind::NotFound => {}
        Err(why) => return Err(format!("{}: {why}", path.display())),
    }
    Ok(known)
}

/// Is this the host's key? Notes it where that is wanted. Blocks.
///
/// # Errors
/// It is not, or nobody knows (SECURITY case 103).
pub fn judge_host(
    upstream: &Upstream,
    number: usize,
    key: &PublicKey,
    certificate: Option<&Certificate>,
) -> Result<(), Trouble> {
    // Of two logins that meet a new host, one notes its key and the other finds it.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let Some(host) = upstream.fleet.host(number) else {
        return Err(Trouble::plain("there is no such host"));
    };
    let trouble = |how: &str, logged: String| {
        Err(Trouble { said: format!("the host key of {host} {how}"), logged })
    };
    let Some(name) = HostName::new(&host.name, host.port) else {
        return trouble("cannot be verified", format!("{host} cannot stand in a known_hosts file"));
    };
    let notes = upstream.host_keys == HostKeyPolicy::AcceptNew;
    let _one = notes.then(|| ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner));
    let known = match read_known_hosts(&upstream.known_hosts) {
        Ok(known) => known,
        Err(why) => {
            let logged = format!("TidegateUpstreamKnownHosts {why}");
            return trouble("cannot be verified", logged);
        }
    };
    let shown = described(key);
    let verdict = match certificate {
        Some(shown) => known.check_certificate(&name, shown, &upstream.ca_algorithms, now()),
        None => known.check(&name, key),
    };
    match verdict {
        Verdict::Known(_) | Verdict::ByCertificate { .. } => Ok(()),
        Verdict::Unknown if notes => note(&upstream.known_hosts, host, &name, key),
        Verdict::Unknown => {
            let logged = unknown(&upstream.known_hosts, &known, &name, &shown);
            trouble("is not known", logged)
        }
        Verdict::Changed { place, known } => {
            let logged = format!(
                "{place} has another key ({known}) for {name}, which shows the {shown}; somebody \
                 may be in between. If the host has a new key, replace that line"
            );
            trouble("has changed", logged)
        }
        Verdict::Revoked(place) => {
            // What is revoked may be what has signed.
            let own = matches!(known.check(&name, key), Verdict::Revoked(_));
            let what = match certificate.filter(|_| !own).map(Certificate::authority) {
                Some(authority) => {
                    format!("{}, which signed the certificate", described(authority))
                }
                None => shown,
            };
            trouble("has been revoked", format!("{place} revokes the {what} of {name}"))
        }
        Verdict::Unreadable { place, why } => {
            let logged = format!("{place} names {name} and cannot be read: {why}");
            trouble("cannot be verified", logged)
        }
        Verdict::BadCertificate { place, why } => {
            let logged = format!("the certificate of {name} under {place} is no good: {why}");
            trouble("cannot be verified", logged)
        }
    }
}

fn described(key: &PublicKey) -> String {
    format!("{} key {}", key.kind().family(), key.fingerprint())
}

/// What the log says of a host that shows a key and stands in no line of the file.
fn unknown(path: &Path, known: &KnownHosts, name: &HostName, shown: &str) -> String {
    let file = path.display();
    if known.types(name).certificates {
        return format!(
            "{file} has an authority for {name}, which shows the {shown} without a certificate of that \
             authority"
        );
    }
    let how = if path.exists() { "does not name" } else { "does not exist, and so does not name" };
    format!("{file} {how} {name}, which shows the {shown}; if that is right, add it there")
}

fn note(path: &Path, host: &Host, name: &HostName, key: &PublicKey) -> Result<(), Trouble> {
    let (file, fingerprint) = (path.display(), key.fingerprint());
    let kind = key.kind().family();
    // Somebody may have left the last line without an end.
    let text = fs::read(path).unwrap_or_default();
    let end = if text.last().is_some_and(|last| *last != b'\n') { "\n" } else { "" };
    let line = format!("{end}{}\n", known_hosts::plain_line(name, key, "").trim_end());
    let written = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    match written {
        Ok(()) => {
            info!(%name, fingerprint, "Noted in {file}: {name} has the {kind} key {fingerprint}");
            Ok(())
        }
        Err(why) => Err(Trouble {
            said: format!("the host key of {host} cannot be noted"),
            logged: format!("TidegateUpstreamKnownHosts {file}: {why}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_nothing_better_are_reached_by_default() {
        let default = kex(KexKind::SERVER_DEFAULT);
        assert_eq!(default.first(), Some(&KexKind::MlKem768X25519));
        assert!(KexKind::ALL.iter().all(|kind| default.contains(kind)), "{default:?}");
        assert_eq!(kex(&[KexKind::Curve25519]), [KexKind::Curve25519], "named");
    }

    #[test]
    fn case_104_login_names_are_split_in_one_way_only() {
        assert_eq!(split_name("ann%web1"), Some(("ann", "web1")));
        assert_eq!(split_name("ann+web1:22"), Some(("ann", "web1:22")));
        let bad =
            ["ann", "", "%", "ann%", "%web1", "ann%%web1", "ann%web1%x", "ann+web1%x", "a++b"];
        for name in bad {
            assert_eq!(split_name(name), None, "{name}");
        }
    }

    #[test]
    fn targets_are_those_of_the_list() {
        let list = ["web*".to_owned(), "[10.0.0.*]:*".to_owned(), "db.internal:2222".to_owned()];
        let found = |word| target(&list, word);
        assert_eq!(found("web1"), Some(("web1".to_owned(), 22)));
        assert_eq!(found("WEB1:22"), Some(("web1".to_owned(), 22)));
        assert_eq!(found("10.0.0.7:2022"), Some(("10.0.0.7".to_owned(), 2022)));
        assert_eq!(found("db.internal:2222"), Some(("db.internal".to_owned(), 2222)));
        for bad in [
            "db.internal",
            "web1:2222",
            "",
            ":22",
            "web1:",
            "web1:0",
            "web1:99999",
            "web1 x",
            "web\u{e4}",
            "web1/..",
            "-web1",
            "[web1",
            "[web1]x",
            "other",
        ] {
            assert_eq!(found(bad), None, "{bad}");
        }
    }

    #[test]
    fn answers_are_hosts_with_ports_and_one_user() {
        let host = |name: &str, port| (name.to_owned(), port);
        assert_eq!(read_answer("web1\n"), Ok((vec![host("web1", 22)], None)));
        let two = "# hosts\n\nWEB1 2222 deploy\n ::1\t22 deploy";
        let expected = (vec![host("web1", 2222), host("::1", 22)], Some("deploy".to_owned()));
        assert_eq!(read_answer(two), Ok(expected));
        let many = "h\n".repeat(UPSTREAM_HOSTS_MAX + 1);
        for bad in
            ["", "#", "web1 0", "web1 x", "web1 22 a b", "-x", "w 22 a\nw 22 b", "w 22 a\nw", &many]
        {
            assert!(read_answer(bad).is_err(), "{bad}");
        }
        for bad in ["web1:2222", "10.0.0.1:22 22", "[::1]:22"] {
            let said = read_answer(bad).expect_err(bad);
            assert!(said.ends_with("a host and its port stand apart, with a blank"), "{said}");
        }
    }

    #[test]
    fn the_user_there_can_be_made_of_the_user_here() {
        assert_eq!(expand("svc-%u", "ann"), "svc-ann");
        assert_eq!(expand("%u%%", "%u"), "%u%");
        assert_eq!(expand("deploy", "ann"), "deploy");
    }
}
