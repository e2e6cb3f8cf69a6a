//! Every keyword of ssh_config(5), and what becomes of it here. `docs/client.md` lists them; a test
//! holds the two together.

use std::time::Duration;

use super::draft::{
    Draft, Jump, Proxy, RequestTty, SessionType, is_any, is_odd_user, parse_destination, port,
    push_new,
};
use crate::client::options::quickest_first;
use crate::client::{AddKeys, Level, StrictHostKeys, UpdateHostKeys};
use crate::crypto::{CipherKind, KexKind, KeyAlgorithm, MacKind, SignatureAlgorithm};
use crate::gateway::config::{
    DriverChoice, Listed, Values, Wrong, did_you_mean, duration, is_none, parse_algorithms_onto,
    size,
};
use crate::services::forward::Permit;

type Done = Result<(), Wrong>;

/// ssh's own bound of what is counted.
const COUNT_MAX: u32 = i32::MAX as u32;
/// ssh's least RekeyLimit.
const REKEY_BYTES_LEAST: u64 = 16;

/// What becomes of a keyword.
pub enum Status {
    /// Host, Match and Include: the reader's.
    Structure,
    Honoured(fn(&mut Draft, &Values<'_>) -> Done),
    /// Read and without effect; nothing that was asked for is missing. Why that is.
    Harmless(&'static str),
    /// These values ask for nothing; every other one is an error, for this reason.
    Absent {
        harmless: &'static [&'static str],
        reason: &'static str,
    },
}

pub struct Keyword {
    pub name: &'static str,
    pub status: Status,
}

const fn honoured(name: &'static str, parse: fn(&mut Draft, &Values<'_>) -> Done) -> Keyword {
    Keyword { name, status: Status::Honoured(parse) }
}

const fn harmless(name: &'static str, why: &'static str) -> Keyword {
    Keyword { name, status: Status::Harmless(why) }
}

const fn absent(
    name: &'static str,
    harmless: &'static [&'static str],
    reason: &'static str,
) -> Keyword {
    Keyword { name, status: Status::Absent { harmless, reason } }
}

const fn structure(name: &'static str) -> Keyword {
    Keyword { name, status: Status::Structure }
}

const NO: &[&str] = &["no"];
const NONE: &[&str] = &["none"];
const GSSAPI: &str = "GSSAPI is not offered to servers";
const SHARING: &str = "every connection is one of its own";
const CANONICAL: &str = "names are connected to as they are written";

/// Every keyword, by its name.
#[rustfmt::skip]
pub const KEYWORDS: &[Keyword] = &[
    honoured("AddKeysToAgent", |d, v| once(&mut d.add_keys, add_keys(v)?)),
    honoured("AddressFamily", |d, v| once(&mut d.ipv4_ipv6, match lower(v)?.as_str() {
        "any" => (true, true),
        "inet" => (true, false),
        "inet6" => (false, true),
        word => return Err(Wrong::new(word, "neither any, inet nor inet6")),
    })),
    honoured("BatchMode", |d, v| once(&mut d.batch, flag(v)?)),
    honoured("BindAddress", |d, v| once(&mut d.bind_address, word(v)?)),
    honoured("BindInterface", |d, v| once(&mut d.bind_interface, word(v)?)),
    absent("CanonicalDomains", NONE, CANONICAL),
    harmless("CanonicalizeFallbackLocal", CANONICAL),
    absent("CanonicalizeHostname", NO, CANONICAL),
    harmless("CanonicalizeMaxDots", CANONICAL),
    harmless("CanonicalizePermittedCNAMEs", CANONICAL),
    honoured("CASignatureAlgorithms", |d, v| {
        algorithms(&mut d.ca_algorithms, &SignatureAlgorithm::EVERY, v, &mut d.left_out)
    }),
    honoured("CertificateFile", |d, v| { push_new(&mut d.certificate_files, word(v)?); Ok(()) }),
    absent("ChannelTimeout", NONE, "channels of a client have no time-outs"),
    absent("CheckHostIP", NO, "hosts are known by name alone"),
    honoured("Ciphers", |d, v| {
        algorithms(&mut d.ciphers, &quickest_first(CipherKind::ALL), v, &mut d.left_out)
    }),
    honoured("ClearAllForwardings", |d, v| once(&mut d.clear_forwards, flag(v)?)),
    honoured("Compression", |d, v| once(&mut d.compression, flag(v)?)),
    honoured("ConnectionAttempts", |d, v| once(&mut d.connection_attempts, v.number(1..=COUNT_MAX)?)),
    honoured("ConnectTimeout", |d, v| once(&mut d.connect_timeout, match is_none(v.one()?) {
        true => None,
        false => Some(v.duration()?),
    })),
    harmless("ControlMaster", SHARING),
    harmless("ControlPath", SHARING),
    harmless("ControlPersist", SHARING),
    honoured("DynamicForward", |d, v| { push_new(&mut d.forwards.dynamic, word(v)?); Ok(()) }),
    absent("EnableEscapeCommandline", NO, "there is no command line behind ~C"),
    harmless("EnableSSHKeysign", "hosts do not log in"),
    honoured("EscapeChar", |d, v| once(&mut d.escape, escape_character(v.one()?)?)),
    honoured("ExitOnForwardFailure", |d, v| once(&mut d.exit_on_forward_failure, flag(v)?)),
    absent("FingerprintHash", &["sha256"], "fingerprints are made with SHA-256"),
    honoured("ForkAfterAuthentication", |d, v| once(&mut d.background, flag(v)?)),
    honoured("ForwardAgent", |d, v| once(&mut d.forward_agent, match flag(v) {
        Ok(yes) => if yes { "yes" } else { "no" }.to_owned(),
        Err(_) => word(v)?,
    })),
    honoured("ForwardX11", |d, v| once(&mut d.forward_x11, flag(v)?)),
    honoured("ForwardX11Timeout", |d, v| once(&mut d.x11_timeout, v.duration()?)),
    honoured("ForwardX11Trusted", |d, v| once(&mut d.x11_trusted, flag(v)?)),
    honoured("GatewayPorts", |d, v| once(&mut d.gateway_ports, flag(v)?)),
    honoured("GlobalKnownHostsFile", |d, v| once(&mut d.global_known_hosts, known_hosts(v)?)),
    harmless("GSSAPIAuthentication", GSSAPI),
    harmless("GSSAPIClientIdentity", GSSAPI),
    harmless("GSSAPIDelegateCredentials", GSSAPI),
    harmless("GSSAPIKexAlgorithms", GSSAPI),
    harmless("GSSAPIKeyExchange", GSSAPI),
    harmless("GSSAPIRenewalForcesRekey", GSSAPI),
    harmless("GSSAPIServerIdentity", GSSAPI),
    harmless("GSSAPITrustDns", GSSAPI),
    honoured("HashKnownHosts", |d, v| once(&mut d.hash_known_hosts, flag(v)?)),
    structure("Host"),
    harmless("HostbasedAcceptedAlgorithms", "hosts do not log in"),
    absent("HostbasedAuthentication", NO, "hosts do not log in"),
    honoured("HostKeyAlgorithms", |d, v| {
        // As in ssh: what is added to or taken from the usual leaves the order to what is known.
        once(&mut d.host_keys_chosen, !v.one()?.starts_with(['+', '-']))?;
        algorithms(&mut d.host_key_algorithms, &KeyAlgorithm::ALL, v, &mut d.left_out)
    }),
    honoured("HostKeyAlias", |d, v| once(&mut d.host_key_alias, word(v)?)),
    honoured("HostName", |d, v| once(&mut d.host_name, word(v)?)),
    honoured("IdentitiesOnly", |d, v| once(&mut d.identities_only, flag(v)?)),
    honoured("IdentityAgent", |d, v| once(&mut d.identity_agent, word(v)?)),
    honoured("IdentityFile", |d, v| { push_new(&mut d.identity_files, word(v)?); Ok(()) }),
    structure("IgnoreUnknown"),
    structure("Include"),
    harmless("IPQoS", "packets are not marked"),
    honoured("KbdInteractiveAuthentication", |d, v| once(&mut d.keyboard_interactive, flag(v)?)),
    harmless("KbdInteractiveDevices", "the server chooses"),
    honoured("KexAlgorithms", |d, v| algorithms(&mut d.kex, KexKind::DEFAULT, v, &mut d.left_out)),
    absent("KnownHostsCommand", NONE, "host keys come from files"),
    harmless("LocalCommand", "PermitLocalCommand is no"),
    honoured("LocalForward", |d, v| { push_new(&mut d.forwards.local, v.many()?.to_vec()); Ok(()) }),
    honoured("LogLevel", |d, v| once(&mut d.level, named(v.one()?, &Level::NAMES)?)),
    harmless("LogVerbose", "it is about ssh's own source files"),
    honoured("MACs", |d, v| algorithms(&mut d.macs, MacKind::DEFAULT, v, &mut d.left_out)),
    structure("Match"),
    honoured("NoHostAuthenticationForLocalhost", |d, v| once(&mut d.no_localhost, flag(v)?)),
    honoured("NumberOfPasswordPrompts", |d, v| once(&mut d.password_prompts, v.number(0..=COUNT_MAX)?)),
    harmless("ObscureKeystrokeTiming", "keystrokes are sent when they are typed"),
    honoured("PasswordAuthentication", |d, v| once(&mut d.password, flag(v)?)),
    absent("PermitLocalCommand", NO, "no commands are run here after a login"),
    honoured("PermitRemoteOpen", |d, v| once(&mut d.remote_open, remote_open(v)?)),
    absent("PKCS11Provider", NONE, "keys come from files and agents"),
    honoured("Port", |d, v| once(&mut d.port, port(v.one()?)?)),
    honoured("PreferredAuthentications", |d, v| once(&mut d.preferred, list(v)?)),
    honoured("ProxyCommand", |d, v| {
        let line = v.line()?;
        // As in ssh: ProxyJump none speaks of ProxyJump alone.
        if matches!(d.proxy, None | Some(Proxy::NoJump)) {
            let direct = is_none(line);
            d.proxy = Some(if direct { Proxy::Direct } else { Proxy::Command(line.to_owned()) });
        }
        Ok(())
    }),
    honoured("ProxyJump", |d, v| once(&mut d.proxy, jumps(v.one()?)?)),
    absent("ProxyUseFdpass", NO, "a ProxyCommand is spoken with through its standard streams"),
    honoured("PubkeyAcceptedAlgorithms", |d, v| {
        algorithms(&mut d.user_algorithms, &KeyAlgorithm::ALL, v, &mut d.left_out)
    }),
    honoured("PubkeyAuthentication", |d, v| once(&mut d.pubkey, match lower(v)?.as_str() {
        "no" | "false" => false,
        "yes" | "true" | "unbound" | "host-bound" => true,
        word => return Err(Wrong::new(word, "neither yes, no, unbound nor host-bound")),
    })),
    honoured("RekeyLimit", rekey_limit),
    honoured("RemoteCommand", |d, v| once(&mut d.remote_command, v.line()?.to_owned())),
    honoured("RemoteForward", |d, v| { push_new(&mut d.forwards.remote, v.many()?.to_vec()); Ok(()) }),
    honoured("RequestTTY", |d, v| once(&mut d.request_tty, named(v.one()?, &[
        ("no", RequestTty::No), ("auto", RequestTty::Auto), ("yes", RequestTty::Yes),
        ("force", RequestTty::Force), ("false", RequestTty::No), ("true", RequestTty::Yes),
    ])?)),
    absent("RequiredRSASize", &["1024", "2048"], "RSA keys of 2048 bits and more are used"),
    absent("RevokedHostKeys", NONE, "revoked keys are those of @revoked lines"),
    harmless("SecurityKeyProvider", "security keys are not used yet"),
    honoured("SendEnv", |d, v| send_env(&mut d.send_env, v.many()?)),
    honoured("ServerAliveCountMax", |d, v| once(&mut d.alive_count_max, v.number(1..=COUNT_MAX)?)),
    honoured("ServerAliveInterval", |d, v| once(&mut d.alive_interval, v.duration()?)),
    honoured("SessionType", |d, v| once(&mut d.session, named(v.one()?, &[
        ("none", SessionType::None), ("subsystem", SessionType::Subsystem),
        ("default", SessionType::Default),
    ])?)),
    honoured("SetEnv", |d, v| once(&mut d.set_env, variables(v.many()?)?)),
    honoured("StdinNull", |d, v| once(&mut d.stdin_null, flag(v)?)),
    honoured("StreamLocalBindMask", |d, v| once(&mut d.bind_mask, mask(v.one()?)?)),
    honoured("StreamLocalBindUnlink", |d, v| once(&mut d.bind_unlink, flag(v)?)),
    honoured("StrictHostKeyChecking", |d, v| once(&mut d.strict, named(v.one()?, &[
        ("yes", StrictHostKeys::Yes), ("ask", StrictHostKeys::Ask),
        ("accept-new", StrictHostKeys::AcceptNew), ("no", StrictHostKeys::No),
        ("off", StrictHostKeys::No), ("false", StrictHostKeys::No), ("true", StrictHostKeys::Yes),
    ])?)),
    harmless("SyslogFacility", "what there is to tell is told on standard error"),
    honoured("Tag", |d, v| once(&mut d.tag, word(v)?)),
    honoured("TCPKeepAlive", |d, v| once(&mut d.tcp_keepalive, flag(v)?)),
    honoured("TidegateDriver", |d, v| once(&mut d.driver, named(v.one()?, &[
        ("auto", DriverChoice::Auto), ("uring", DriverChoice::Uring), ("mio", DriverChoice::Mio),
    ])?)),
    absent("Tunnel", NO, "networks are not tunnelled"),
    harmless("TunnelDevice", "networks are not tunnelled"),
    honoured("UpdateHostKeys", |d, v| once(&mut d.update_host_keys, named(v.one()?, &[
        ("yes", UpdateHostKeys::Yes), ("no", UpdateHostKeys::No), ("ask", UpdateHostKeys::Ask),
        ("true", UpdateHostKeys::Yes), ("false", UpdateHostKeys::No),
    ])?)),
    honoured("User", |d, v| once(&mut d.user, user(v)?)),
    honoured("UserKnownHostsFile", |d, v| once(&mut d.user_known_hosts, known_hosts(v)?)),
    absent("VerifyHostKeyDNS", NO, "host keys come from files"),
    absent("VisualHostKey", NO, "fingerprints are shown as text"),
    harmless("WarnWeakCrypto", "weak algorithms are not offered"),
    honoured("XAuthLocation", |d, v| once(&mut d.xauth, word(v)?)),
];

/// Earlier names of the same.
const ALIASES: &[(&str, &str)] = &[
    ("ChallengeResponseAuthentication", "KbdInteractiveAuthentication"),
    ("SKeyAuthentication", "KbdInteractiveAuthentication"),
    ("PubkeyAcceptedKeyTypes", "PubkeyAcceptedAlgorithms"),
    ("HostbasedKeyTypes", "HostbasedAcceptedAlgorithms"),
    ("DSAAuthentication", "PubkeyAuthentication"),
    ("KeepAlive", "TCPKeepAlive"),
];

/// Keywords of earlier versions, which ssh reads without effect as well.
const FORMER: [&str; 15] = [
    "AFSTokenPassing",
    "Cipher",
    "CompressionLevel",
    "FallBackToRsh",
    "GlobalKnownHostsFile2",
    "KerberosAuthentication",
    "KerberosTGTPassing",
    "Protocol",
    "RhostsAuthentication",
    "RhostsRSAAuthentication",
    "RSAAuthentication",
    "UsePrivilegedPort",
    "UserKnownHostsFile2",
    "UseRoaming",
    "UseRsh",
];

/// In whatever case it is written.
pub fn is_former(name: &str) -> bool {
    FORMER.iter().any(|former| former.eq_ignore_ascii_case(name))
}

/// In whatever case it is written.
pub fn find(name: &str) -> Option<&'static Keyword> {
    let alias = ALIASES.iter().find(|(old, _)| old.eq_ignore_ascii_case(name));
    let name = alias.map_or(name, |(_, new)| new);
    KEYWORDS.iter().find(|keyword| keyword.name.eq_ignore_ascii_case(name))
}

pub fn nearest(name: &str) -> Option<&'static str> {
    did_you_mean(name, KEYWORDS.iter().map(|keyword| keyword.name))
}

/// The first value counts.
#[expect(clippy::unnecessary_wraps, reason = "every parser ends with it")]
fn once<T>(place: &mut Option<T>, value: T) -> Done {
    place.get_or_insert(value);
    Ok(())
}

fn user(values: &Values<'_>) -> Result<String, Wrong> {
    let name = word(values)?;
    match is_odd_user(&name) {
        true => Err(Wrong::new(&name, "no name of a user")),
        false => Ok(name),
    }
}

/// `yes`, `no`, `ask`, `confirm`, how long, or the last two together.
fn add_keys(values: &Values<'_>) -> Result<Option<AddKeys>, Wrong> {
    let words = values.many()?;
    let (first, rest) = match words {
        [first, rest @ ..] if rest.len() <= 1 => (first.to_ascii_lowercase(), rest.first()),
        _ => return Err(Wrong::new(words.join(" "), "too many words")),
    };
    let how = match (first.as_str(), rest) {
        ("no" | "false", None) => return Ok(None),
        ("yes" | "true", None) => AddKeys::default(),
        ("ask", None) => AddKeys { ask: true, ..AddKeys::default() },
        ("confirm", None) => AddKeys { confirm: true, ..AddKeys::default() },
        ("confirm", Some(time)) => {
            AddKeys { confirm: true, lifetime: Some(lifetime(time)?), ask: false }
        }
        (time, None) => AddKeys { lifetime: Some(lifetime(time)?), ..AddKeys::default() },
        (_, Some(more)) => return Err(Wrong::new(more, "only confirm has a time behind it")),
    };
    Ok(Some(how))
}

/// Above zero, as agents count it.
fn lifetime(word: &str) -> Result<u32, Wrong> {
    let seconds = duration(word)?.as_secs();
    let seconds = u32::try_from(seconds).ok().filter(|seconds| *seconds > 0);
    seconds.ok_or_else(|| Wrong::new(word, "no time at all"))
}

fn word(values: &Values<'_>) -> Result<String, Wrong> {
    Ok(values.one()?.to_owned())
}

fn lower(values: &Values<'_>) -> Result<String, Wrong> {
    Ok(values.one()?.to_ascii_lowercase())
}

fn named<T: Copy>(word: &str, names: &[(&str, T)]) -> Result<T, Wrong> {
    match names.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)) {
        Some((_, value)) => Ok(*value),
        None => {
            let legal: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
            Err(Wrong::new(word, format!("none of {}", legal.join(", "))))
        }
    }
}

/// As ssh reads it: sshd knows yes and no alone.
fn flag(values: &Values<'_>) -> Result<bool, Wrong> {
    match lower(values)?.as_str() {
        "yes" | "true" => Ok(true),
        "no" | "false" => Ok(false),
        word => Err(Wrong::new(word, "neither yes nor no")),
    }
}

/// Files; `none` stands alone.
fn known_hosts(values: &Values<'_>) -> Result<Vec<String>, Wrong> {
    let words = values.many()?;
    if words.len() > 1 && words.iter().any(|word| is_none(word)) {
        return Err(Wrong::new("none", "it has to stand alone"));
    }
    Ok(words.to_vec())
}

/// As it is written: `-G` shows it so. `any` and `none` stand alone.
fn remote_open(values: &Values<'_>) -> Result<Vec<String>, Wrong> {
    let words = values.many()?;
    for word in words {
        match is_none(word) || is_any(word) {
            true if words.len() > 1 => return Err(Wrong::new(word, "it has to stand alone")),
            true => {}
            false => drop(Permit::parse(word).map_err(|why| Wrong::new(word, why))?),
        }
    }
    Ok(words.to_vec())
}

fn list(values: &Values<'_>) -> Result<Vec<String>, Wrong> {
    Ok(values.one()?.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

/// A list, or what is to be changed about the usual one. `left_out`: what there is not.
fn algorithms<T: Listed>(
    place: &mut Option<Vec<T>>,
    usual: &[T],
    values: &Values<'_>,
    left_out: &mut Vec<String>,
) -> Done {
    once(place, parse_algorithms_onto(values.one()?, usual, left_out)?)
}

fn escape_character(word: &str) -> Result<Option<u8>, Wrong> {
    match word.as_bytes() {
        _ if is_none(word) => Ok(None),
        [character] => Ok(Some(*character)),
        [b'^', letter] => Ok(Some(letter & 0x1f)),
        _ => Err(Wrong::new(word, "neither a character, ^ and a letter, nor none")),
    }
}

fn jumps(word: &str) -> Result<Proxy, Wrong> {
    if is_none(word) {
        return Ok(Proxy::NoJump);
    }
    let hosts = word.split(',').map(|host| parse_destination(host, true));
    Ok(Proxy::Jump(hosts.collect::<Result<Vec<Jump>, Wrong>>()?))
}

fn rekey_limit(draft: &mut Draft, values: &Values<'_>) -> Done {
    let default = |word: &str| word.eq_ignore_ascii_case("default");
    let (bytes, time) = match values.many()? {
        [bytes] => (bytes, None),
        [bytes, time] => (bytes, Some(time)),
        _ => return Err(Wrong::new("", "a size and a time are expected")),
    };
    let bytes = match bytes.as_str() {
        word if default(word) => None,
        word => match size(word)? {
            1..REKEY_BYTES_LEAST => return Err(Wrong::new(word, "it would rekey all the time")),
            bytes => Some(bytes),
        },
    };
    let time: Option<Duration> = match time {
        Some(time) if !is_none(time) => Some(duration(time)?),
        _ => None,
    };
    once(&mut draft.rekey, (bytes.filter(|bytes| *bytes > 0), time.filter(|t| !t.is_zero())))
}

/// Patterns add up; one that begins with a dash takes those away that it matches.
fn send_env(patterns: &mut Vec<String>, words: &[String]) -> Done {
    for word in words {
        if word.is_empty() || word.contains('=') {
            return Err(Wrong::new(word, "no name of a variable"));
        }
        match word.strip_prefix('-') {
            Some(gone) => {
                patterns.retain(|one| !crate::base::wildcard_match(gone.as_bytes(), one.as_bytes()))
            }
            None => patterns.push(word.clone()),
        }
    }
    Ok(())
}

/// Of several values of one variable the first counts.
fn variables(words: &[String]) -> Result<Vec<(String, String)>, Wrong> {
    let mut list: Vec<(String, String)> = Vec::new();
    for word in words {
        match word.split_once('=') {
            Some((name, _)) if list.iter().any(|(known, _)| known == name) => {}
            Some((name, value)) if !name.is_empty() => {
                list.push((name.to_owned(), value.to_owned()));
            }
            _ => return Err(Wrong::new(word, "no NAME=VALUE")),
        }
    }
    Ok(list)
}

fn mask(word: &str) -> Result<u32, Wrong> {
    let mask = u32::from_str_radix(word, 8).ok().filter(|mask| *mask <= 0o777);
    mask.ok_or_else(|| Wrong::new(word, "no octal mask"))
}
