//! The parsers of the keywords we honour, in the table's order.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::algorithms;
use super::diagnostic::Wrong;
use super::ip_qos::{self, IpQos};
use super::keywords::Target;
use super::lexer::quote;
use super::patterns::{BadHost, NameList, UserPattern};
use super::settings::{
    AddressFamily, AuditLog, Banner, ChannelTimeout, DriverChoice, Facility, Listen, ListenHost,
    LogFormat, LogLevel, MaxStartups, RootLogin, ScpServer, Subsystem,
};
use super::values::{self, Values, is_none};
use crate::limits::{
    AUTH_REQUESTS_MAX, CHANNEL_TIMEOUTS_MAX, CHANNELS_MAX, DEVICE_NAME_BYTES_MAX, ENV_COUNT_MAX,
    RSA_BITS_MAX, RSA_BITS_MIN, STARTUPS_MAX, WINDOW_BYTES_MAX, WINDOW_BYTES_MIN,
};
use crate::services::sftp::{BadOption, Flags};

/// What a parser answers.
pub type Done = Result<(), Wrong>;

/// Bytes of identification that may follow our software version (RFC 4253 §4.2 allows 255 in all).
const ADDENDUM_BYTES_MAX: usize = 180;
/// The table of keywords says so in words.
const _: () = assert!(WINDOW_BYTES_MIN == 16 << 10 && WINDOW_BYTES_MAX == 128 << 20);
const _: () = assert!(RSA_BITS_MIN == 2048 && RSA_BITS_MAX == 8192 && AUTH_REQUESTS_MAX == 64);
/// sshd's least RequiredRSASize; ours is what counts.
const RSA_BITS_LEAST: u32 = 1024;
/// sshd's least RekeyLimit; smaller ones would rekey on every packet.
const REKEY_BYTES_LEAST: u64 = 16;
/// Event loops a process may be asked to run.
const REACTORS_MAX: u32 = 1024;

pub fn accept_env(target: &mut Target, values: &Values<'_>) -> Done {
    for pattern in values.many()? {
        if pattern.is_empty() || pattern.contains('=') {
            return Err(Wrong::new(pattern, "not the name of a variable"));
        }
        target.login.accept_env.push(pattern.clone());
    }
    Ok(())
}

pub fn address_family(target: &mut Target, values: &Values<'_>) -> Done {
    let families = [
        ("any", AddressFamily::Any),
        ("inet", AddressFamily::Inet),
        ("inet6", AddressFamily::Inet6),
    ];
    first(&mut target.global.address_family, choice(values.one()?, &families)?)
}

pub fn allow_groups(target: &mut Target, values: &Values<'_>) -> Done {
    group_patterns(&mut target.login.allow_groups, values)
}

pub fn allow_users(target: &mut Target, values: &Values<'_>) -> Done {
    user_patterns(&mut target.login.allow_users, values)
}

pub fn authorized_keys_file(target: &mut Target, values: &Values<'_>) -> Done {
    let words = values.many()?;
    if let [only] = words
        && is_none(only)
    {
        return first(&mut target.login.authorized_keys_files, Vec::new());
    }
    for word in words {
        if word.is_empty() || is_none(word) {
            return Err(Wrong::new(word, "not a path")
                .help("none stands alone, and means that no file is read"));
        }
        check_tokens(word)?;
    }
    let files = words.iter().map(|word| from_home(word, values)).collect::<Result<_, _>>()?;
    first(&mut target.login.authorized_keys_files, files)
}

pub fn banner(target: &mut Target, values: &Values<'_>) -> Done {
    let path = values.path_or_none()?;
    // The text is read once the whole configuration is known to be right.
    first(&mut target.login.banner, path.map(|path| Banner { path, text: "".into() }))
}

pub fn channel_timeout(target: &mut Target, values: &Values<'_>) -> Done {
    let words = values.many()?;
    if let [only] = words
        && is_none(only)
    {
        return first(&mut target.login.channel_timeouts, Vec::new());
    }
    let mut timeouts = Vec::with_capacity(words.len());
    for word in words {
        let (pattern, time) = word
            .split_once('=')
            .filter(|(pattern, _)| !pattern.is_empty())
            .ok_or_else(|| Wrong::new(word, "not a channel's type, a = and a time"))?;
        let time = values::duration(time)?;
        timeouts.push(ChannelTimeout { pattern: pattern.to_owned(), time });
    }
    if timeouts.len() > CHANNEL_TIMEOUTS_MAX {
        return Err(Wrong::new("", format!("more than {CHANNEL_TIMEOUTS_MAX} timeouts")));
    }
    first(&mut target.login.channel_timeouts, timeouts)
}

pub fn ciphers(target: &mut Target, values: &Values<'_>) -> Done {
    let list = algorithms::parse(values.one()?, &mut target.warnings)?;
    first(&mut target.global.ciphers, list)
}

pub fn client_alive_count_max(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.client_alive_count_max, values.number(0..=i32::MAX as u32)?)
}

pub fn client_alive_interval(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.client_alive_interval, values.duration()?)
}

pub fn deny_groups(target: &mut Target, values: &Values<'_>) -> Done {
    group_patterns(&mut target.login.deny_groups, values)
}

pub fn compression(target: &mut Target, values: &Values<'_>) -> Done {
    let choices = [("yes", true), ("delayed", true), ("no", false)];
    first(&mut target.global.compression, choice(values.one()?, &choices)?)
}

pub fn deny_users(target: &mut Target, values: &Values<'_>) -> Done {
    user_patterns(&mut target.login.deny_users, values)
}

pub fn force_command(target: &mut Target, values: &Values<'_>) -> Done {
    let command = values.line()?;
    check_internal_sftp(command, &mut target.warnings)?;
    let command = (!is_none(command)).then(|| command.to_owned());
    first(&mut target.login.force_command, command)
}

pub fn host_key(target: &mut Target, values: &Values<'_>) -> Done {
    let path = values.path()?;
    if !target.global.host_keys.contains(&path) {
        target.global.host_keys.push(path);
    }
    Ok(())
}

pub fn host_key_algorithms(target: &mut Target, values: &Values<'_>) -> Done {
    let list = algorithms::parse(values.one()?, &mut target.warnings)?;
    first(&mut target.global.host_key_algorithms, list)
}

pub fn ip_qos(target: &mut Target, values: &Values<'_>) -> Done {
    let (interactive, bulk) = match values.many()? {
        [both] => (both, both),
        [interactive, bulk] => (interactive, bulk),
        [_, _, extra, ..] => return Err(Wrong::new(extra, "at most two values are expected")),
        [] => return Ok(()),
    };
    let (interactive, bulk) = (ip_qos::parse(interactive)?, ip_qos::parse(bulk)?);
    first(&mut target.login.ip_qos, IpQos { interactive, bulk })
}

pub fn kex_algorithms(target: &mut Target, values: &Values<'_>) -> Done {
    let list = algorithms::parse(values.one()?, &mut target.warnings)?;
    first(&mut target.global.kex_algorithms, list)
}

pub fn listen_address(target: &mut Target, values: &Values<'_>) -> Done {
    let (word, rdomain) = match values.words.as_slice() {
        [word, keyword, name] if keyword.eq_ignore_ascii_case("rdomain") => {
            (word.as_str(), Some(routing_domain(name, values)?))
        }
        _ => (values.one()?, None),
    };
    let (host, port) = values::host_and_port(word, values.surroundings)?;
    let host = match host.parse::<IpAddr>() {
        Ok(address) => ListenHost::Address(address),
        Err(_) => ListenHost::Name(host_name(word, host)?),
    };
    target.global.listen.push(Listen { host, port, rdomain });
    Ok(())
}

pub fn login_grace_time(target: &mut Target, values: &Values<'_>) -> Done {
    let time = values.duration()?;
    first(&mut target.global.login_grace, (time != Duration::ZERO).then_some(time))
}

pub fn log_level(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.log_level, choice(values.one()?, &LogLevel::ALL)?)
}

pub fn macs(target: &mut Target, values: &Values<'_>) -> Done {
    let list = algorithms::parse(values.one()?, &mut target.warnings)?;
    first(&mut target.global.macs, list)
}

pub fn max_auth_tries(target: &mut Target, values: &Values<'_>) -> Done {
    first(
        &mut target.login.max_auth_tries,
        clamped(values, 1..=AUTH_REQUESTS_MAX, &mut target.warnings)?,
    )
}

pub fn max_sessions(target: &mut Target, values: &Values<'_>) -> Done {
    first(
        &mut target.login.max_sessions,
        clamped(values, 0..=CHANNELS_MAX as u32, &mut target.warnings)?,
    )
}

pub fn max_startups(target: &mut Target, values: &Values<'_>) -> Done {
    let word = values.one()?;
    let most = i32::MAX as u32;
    let parts = word.split(':').collect::<Vec<_>>();
    let mut limits = match parts.as_slice() {
        [full] => {
            let full = values::number(full, 1..=most)? as usize;
            MaxStartups { start: full, rate: 30, full }
        }
        [start, rate, full] => MaxStartups {
            start: values::number(start, 1..=most)? as usize,
            rate: values::number(rate, 1..=100)?,
            full: values::number(full, 1..=most)? as usize,
        },
        _ => return Err(Wrong::new(word, "neither a number nor start:rate:full")),
    };
    if limits.start > limits.full {
        return Err(Wrong::new(word, "start is larger than full"));
    }
    if limits.full > STARTUPS_MAX {
        target.warnings.push(format!("{} counts as {STARTUPS_MAX}, our own bound", limits.full));
        limits.full = STARTUPS_MAX;
        limits.start = limits.start.min(STARTUPS_MAX);
    }
    first(&mut target.global.max_startups, limits)
}

pub fn permit_root_login(target: &mut Target, values: &Values<'_>) -> Done {
    let modes = [
        ("yes", RootLogin::Yes),
        ("no", RootLogin::No),
        ("prohibit-password", RootLogin::ProhibitPassword),
        ("without-password", RootLogin::ProhibitPassword),
        ("forced-commands-only", RootLogin::ForcedCommandsOnly),
    ];
    first(&mut target.login.permit_root_login, choice(values.one()?, &modes)?)
}

pub fn permit_tty(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.permit_tty, values.flag()?)
}

pub fn permit_user_environment(target: &mut Target, values: &Values<'_>) -> Done {
    let word = values.one()?;
    let patterns = match values.flag() {
        Ok(true) => Some("*".to_owned()),
        Ok(false) => None,
        Err(_) if NameList::new(word).is_none() => {
            return Err(Wrong::new(word, "an empty pattern"));
        }
        Err(_) => Some(word.to_owned()),
    };
    first(&mut target.global.user_environment, patterns)
}

pub fn permit_user_rc(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.permit_user_rc, values.flag()?)
}

pub fn moduli_file(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.global.moduli_file, values.path()?)
}

pub fn pid_file(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.global.pid_file, values.path_or_none()?)
}

pub fn port(target: &mut Target, values: &Values<'_>) -> Done {
    let port = values::port(values.one()?, values.surroundings)?;
    if !target.global.ports.contains(&port) {
        target.global.ports.push(port);
    }
    Ok(())
}

pub fn print_last_log(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.global.print_last_log, values.flag()?)
}

pub fn print_motd(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.global.print_motd, values.flag()?)
}

pub fn pubkey_accepted_algorithms(target: &mut Target, values: &Values<'_>) -> Done {
    let list = algorithms::parse(values.one()?, &mut target.warnings)?;
    first(&mut target.login.pubkey_algorithms, list)
}

pub fn pubkey_authentication(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.pubkey_authentication, values.flag()?)
}

pub fn refuse_connection(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.refuse_connection, values.flag()?)
}

pub fn rekey_limit(target: &mut Target, values: &Values<'_>) -> Done {
    let (bytes, time) = match values.many()? {
        [bytes] => (bytes, None),
        [bytes, time] => (bytes, Some(time)),
        [_, _, extra, ..] => return Err(Wrong::new(extra, "at most two values are expected")),
        [] => return Ok(()),
    };
    let size = if bytes.eq_ignore_ascii_case("default") { 0 } else { values::size(bytes)? };
    if size != 0 && size < REKEY_BYTES_LEAST {
        return Err(Wrong::new(bytes, "less than 16 bytes").help("1G is a usual value"));
    }
    first(&mut target.login.rekey_bytes, (size != 0).then_some(size))?;
    // A line that says nothing about the time leaves it to a later one.
    match time {
        Some(word) if !is_none(word) => {
            let time = values::duration(word)?;
            first(&mut target.login.rekey_time, (time != Duration::ZERO).then_some(time))
        }
        _ => Ok(()),
    }
}

pub fn required_rsa_size(target: &mut Target, values: &Values<'_>) -> Done {
    let bits = values.number(RSA_BITS_LEAST..=RSA_BITS_MAX)?;
    if bits < RSA_BITS_MIN {
        target.warnings.push(format!("keys of fewer than {RSA_BITS_MIN} bits are never taken"));
    }
    first(&mut target.login.required_rsa_size, bits.max(RSA_BITS_MIN))
}

pub fn set_env(target: &mut Target, values: &Values<'_>) -> Done {
    let mut variables = Vec::new();
    for word in values.many()? {
        let (name, value) =
            word.split_once('=').ok_or_else(|| Wrong::new(word, "no = between name and value"))?;
        if name.is_empty() {
            return Err(Wrong::new(word, "no name before the ="));
        }
        if !variables.iter().any(|(known, _)| known == name) {
            variables.push((name.to_owned(), value.to_owned()));
        }
    }
    if variables.len() > ENV_COUNT_MAX {
        return Err(Wrong::new("", format!("more than {ENV_COUNT_MAX} variables")));
    }
    first(&mut target.login.set_env, variables)
}

pub fn strict_modes(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.global.strict_modes, values.flag()?)
}

pub fn subsystem(target: &mut Target, values: &Values<'_>) -> Done {
    let (name, command) = match values.many()? {
        [name] => {
            let wrong = Wrong::new(name, "a command is missing behind the name");
            return Err(wrong.help("for files: Subsystem sftp internal-sftp"));
        }
        [name, command @ ..] => (name, command.iter().map(|word| quote(word))),
        [] => return Ok(()),
    };
    let command = command.collect::<Vec<_>>().join(" ");
    check_internal_sftp(&command, &mut target.warnings)?;
    let subsystems = &mut target.login.subsystems;
    if !subsystems.iter().any(|known| known.name == *name) {
        subsystems.push(Subsystem { name: name.clone(), command });
    }
    Ok(())
}

pub fn syslog_facility(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.global.syslog_facility, choice(values.one()?, &Facility::ALL)?)
}

pub fn tcp_keep_alive(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.global.tcp_keep_alive, values.flag()?)
}

pub fn log_format(target: &mut Target, values: &Values<'_>) -> Done {
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    first(&mut target.global.log_format, choice(values.one()?, &formats)?)
}

pub fn audit_log(target: &mut Target, values: &Values<'_>) -> Done {
    let log = match values.one()? {
        word if is_none(word) => AuditLog::None,
        word if word.eq_ignore_ascii_case("syslog") => AuditLog::Syslog,
        word if word.eq_ignore_ascii_case("journald") => AuditLog::Journald,
        word if word.starts_with('/') => AuditLog::File(word.into()),
        word => return Err(Wrong::new(word, "neither an absolute path nor one of the words")),
    };
    first(&mut target.global.audit_log, log)
}

pub fn cipher_steering(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.global.cipher_steering, values.flag()?)
}

pub fn window_max(target: &mut Target, values: &Values<'_>) -> Done {
    let word = values.one()?;
    let legal = u64::from(WINDOW_BYTES_MIN)..=u64::from(WINDOW_BYTES_MAX);
    match values::size(word)? {
        bytes if legal.contains(&bytes) => first(&mut target.global.window_max, bytes as u32),
        _ => Err(Wrong::new(word, "not between 16K and 128M")),
    }
}

pub fn window_budget(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.global.window_budget, values::size(values.one()?)?)
}

pub fn driver(target: &mut Target, values: &Values<'_>) -> Done {
    let drivers =
        [("auto", DriverChoice::Auto), ("uring", DriverChoice::Uring), ("mio", DriverChoice::Mio)];
    first(&mut target.global.driver, choice(values.one()?, &drivers)?)
}

pub fn reactors(target: &mut Target, values: &Values<'_>) -> Done {
    let word = values.one()?;
    let count = match word.eq_ignore_ascii_case("auto") {
        true => None,
        false => Some(values::number(word, 1..=REACTORS_MAX)? as usize),
    };
    first(&mut target.global.reactors, count)
}

pub fn unused_connection_timeout(target: &mut Target, values: &Values<'_>) -> Done {
    let word = values.one()?;
    let time = if is_none(word) { Duration::ZERO } else { values::duration(word)? };
    first(&mut target.login.unused_connection_timeout, (!time.is_zero()).then_some(time))
}

pub fn use_dns(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.global.use_dns, values.flag()?)
}

pub fn scp(target: &mut Target, values: &Values<'_>) -> Done {
    first(&mut target.login.scp, choice(values.one()?, &ScpServer::ALL)?)
}

/// RFC 4253 §4.2: printable US-ASCII without spaces and minus signs.
pub fn software_version(target: &mut Target, values: &Values<'_>) -> Done {
    let word = values.one()?;
    if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'-') {
        let why = "only printable ASCII without spaces and '-' may be a software version";
        return Err(Wrong::new(word, why));
    }
    if word.len() > ADDENDUM_BYTES_MAX {
        return Err(Wrong::new(word, format!("longer than {ADDENDUM_BYTES_MAX} bytes")));
    }
    first(&mut target.global.software_version, (!is_none(word)).then(|| word.to_owned()))
}

pub fn version_addendum(target: &mut Target, values: &Values<'_>) -> Done {
    let text = values.line()?;
    if !text.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return Err(Wrong::new(text, "only printable ASCII may stand in the identification line"));
    }
    if text.len() > ADDENDUM_BYTES_MAX {
        return Err(Wrong::new(text, format!("longer than {ADDENDUM_BYTES_MAX} bytes")));
    }
    first(&mut target.global.version_addendum, (!is_none(text)).then(|| text.to_owned()))
}

/// `internal-sftp`, whatever follows it.
pub fn is_internal_sftp(command: &str) -> bool {
    command.split([' ', '\t']).next() == Some("internal-sftp")
}

/// The options of internal-sftp are taken as they are meant, or not at all.
pub fn check_internal_sftp(command: &str, warnings: &mut Vec<String>) -> Done {
    if !is_internal_sftp(command) {
        return Ok(());
    }
    let flags = Flags::of_internal(command).map_err(|BadOption { word, problem }| {
        let wrong = Wrong::new(&word, problem);
        wrong.help("the options are -R, -P and -p with requests, -u, -d, -e, -f and -l")
    })?;
    let logging =
        [("-e", flags.to_stderr), ("-f", flags.facility.is_some()), ("-l", flags.level.is_some())];
    for (option, _) in logging.into_iter().filter(|(_, given)| *given) {
        warnings.push(format!("internal-sftp {option} changes nothing: the server's log is used"));
    }
    Ok(())
}

/// A number that sshd takes and that counts as our own bound when it is beyond.
fn clamped(
    values: &Values<'_>,
    range: RangeInclusive<u32>,
    warnings: &mut Vec<String>,
) -> Result<u32, Wrong> {
    let number = values.number(0..=i32::MAX as u32)?;
    let counts = number.clamp(*range.start(), *range.end());
    if counts != number {
        warnings.push(format!("{number} counts as {counts}, our own bound"));
    }
    Ok(counts)
}

/// The first value wins; a later one was checked and is dropped.
pub fn first<T>(place: &mut Option<T>, value: T) -> Done {
    if place.is_none() {
        *place = Some(value);
    }
    Ok(())
}

/// The one of several values that is meant.
pub fn choice<T: Copy>(word: &str, choices: &[(&str, T)]) -> Result<T, Wrong> {
    let chosen = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
    chosen.map(|(_, value)| *value).ok_or_else(|| {
        let names = choices.iter().map(|(name, _)| *name);
        let wrong = Wrong::new(word, "not one of the legal values");
        match super::diagnostic::did_you_mean(word, names) {
            Some(meant) => wrong.help(format!("did you mean {meant}?")),
            None => wrong,
        }
    })
}

fn group_patterns(list: &mut Vec<String>, values: &Values<'_>) -> Done {
    for pattern in values.many()? {
        refuse_negation(pattern)?;
        list.push(pattern.clone());
    }
    Ok(())
}

fn user_patterns(list: &mut Vec<UserPattern>, values: &Values<'_>) -> Done {
    for word in values.many()? {
        refuse_negation(word)?;
        let pattern = UserPattern::new(word).map_err(|bad| bad_host(word, &bad))?;
        list.push(pattern);
    }
    Ok(())
}

/// sshd takes the `!` for a part of the name, so that `AllowUsers !root *` lets root in.
fn refuse_negation(pattern: &str) -> Done {
    if pattern.is_empty() {
        return Err(Wrong::new(pattern, "an empty pattern"));
    }
    if pattern.starts_with('!') {
        let wrong = Wrong::new(pattern, "negation has no meaning here");
        return Err(wrong.help("name whom to keep out in DenyUsers or DenyGroups"));
    }
    Ok(())
}

pub fn bad_host(word: &str, bad: &BadHost) -> Wrong {
    let at: &dyn Display = &bad.item;
    Wrong::new(word, format!("{}: {:?}", bad.problem, at.to_string()))
}

/// On Linux a routing domain is a network device.
fn routing_domain(name: &str, values: &Values<'_>) -> Result<String, Wrong> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'"' | b'\'' | b'\\');
    if name.is_empty() || name.len() > DEVICE_NAME_BYTES_MAX as usize || !name.bytes().all(plain) {
        return Err(Wrong::new(name, "not the name of a network device"));
    }
    if values.surroundings.device.is_some_and(|exists| !exists(name)) {
        let wrong = Wrong::new(name, "this machine has no such network device");
        return Err(wrong.help("`ip -brief link` lists them; a routing domain is a VRF device"));
    }
    Ok(name.to_owned())
}

fn host_name(word: &str, host: &str) -> Result<String, Wrong> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '%' | ':');
    if host.is_empty() || !host.chars().all(plain) {
        let wrong = Wrong::new(word, "neither an address nor a host name");
        return Err(wrong.help("for every local address leave ListenAddress out"));
    }
    Ok(host.to_owned())
}

/// As in sshd, `~/` is the home of whoever runs the server, and never that of a user who logs in.
pub fn from_home(template: &str, values: &Values<'_>) -> Result<String, Wrong> {
    let Some(below) = template.strip_prefix('~') else { return Ok(template.to_owned()) };
    let home = values.surroundings.home.as_ref().and_then(|home| home.to_str());
    match (below.strip_prefix('/'), home) {
        (Some(below), Some(home)) => Ok(format!("{}/{below}", home.replace('%', "%%"))),
        _ => Err(Wrong::new(template, "this home directory is not known")
            .help("write %h for the home directory of whoever logs in")),
    }
}

pub fn check_tokens(template: &str) -> Done {
    let mut rest = template.chars();
    while let Some(character) = rest.next() {
        if character != '%' {
            continue;
        }
        match rest.next() {
            Some('%' | 'h' | 'u' | 'U') => {}
            Some(other) => {
                return Err(Wrong::new(template, format!("%{other} has no meaning here")));
            }
            None => return Err(Wrong::new(template, "a lone % at the end; write %% for one")),
        }
    }
    Ok(())
}

/// A template of AuthorizedKeysFile for one account, its tokens filled in.
pub fn expand_tokens(template: &str, home: &std::path::Path, user: &str, uid: u32) -> PathBuf {
    let mut path = std::ffi::OsString::new();
    let mut rest = template;
    while let Some((plain, behind)) = rest.split_once('%') {
        path.push(plain);
        let mut behind = behind.chars();
        match behind.next() {
            Some('h') => path.push(home),
            Some('u') => path.push(user),
            Some('U') => path.push(uid.to_string()),
            _ => path.push("%"),
        }
        rest = behind.as_str();
    }
    path.push(rest);
    home.join(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_filled_in_and_relative_paths_start_at_home() {
        let home = std::path::Path::new("/home/ada");
        for (template, expected) in [
            (".ssh/authorized_keys", "/home/ada/.ssh/authorized_keys"),
            ("%h/.keys", "/home/ada/.keys"),
            ("/etc/keys/%u", "/etc/keys/ada"),
            ("/etc/keys/%U-%%u", "/etc/keys/1000-%u"),
        ] {
            assert_eq!(expand_tokens(template, home, "ada", 1000), PathBuf::from(expected));
        }
        // A user's name is never read as a template again.
        assert_eq!(expand_tokens("/k/%u", home, "%h", 0), PathBuf::from("/k/%h"));
    }

    #[test]
    fn unknown_tokens_are_refused() {
        for bad in ["%x", "a%", "%H"] {
            assert!(check_tokens(bad).is_err(), "{bad}");
        }
        assert!(check_tokens("%h/%%/%u%U").is_ok());
    }

    #[test]
    fn options_of_internal_sftp_are_taken_or_refused() {
        assert!(check_internal_sftp("internal-sftp", &mut Vec::new()).is_ok());
        let mut warnings = Vec::new();
        assert!(check_internal_sftp("internal-sftp -l INFO -f AUTH", &mut warnings).is_ok());
        assert_eq!(warnings.len(), 2);
        for good in ["internal-sftp -R", "internal-sftp -d /x/%u", "internal-sftp -l INFO -u 077"] {
            assert!(check_internal_sftp(good, &mut Vec::new()).is_ok(), "{good}");
        }
        for bad in [
            "internal-sftp -x",
            "internal-sftp -P wriet",
            "internal-sftp -u 9",
            "internal-sftp -d %h",
        ] {
            assert!(check_internal_sftp(bad, &mut Vec::new()).is_err(), "{bad}");
        }
        assert!(check_internal_sftp("internal-sftp-x -R", &mut Vec::new()).is_ok());
    }
}
