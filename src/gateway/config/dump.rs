//! The effective settings as lines of sshd_config, in the form of `sshd -T`: what is printed can
//! be fed back and means the same.

use std::path::Path;

use super::algorithms::names_of;
use super::ip_qos;
use super::keywords::{self, Status, TABLE};
use super::lexer::quote;
use super::settings::{
    AddressFamily, AuditLog, DriverChoice, Effective, Global, LogFormat, RootLogin, ScpServer,
};

/// What is dumped.
pub struct View<'a> {
    pub global: &'a Global,
    pub login: &'a Effective,
}

/// The order of `sshd -T`. Keywords that it does not print follow by name.
const ORDER: &str = "Port AddressFamily ListenAddress UsePAM PAMServiceName LoginGraceTime \
    X11DisplayOffset MaxAuthTries MaxSessions ClientAliveInterval ClientAliveCountMax \
    RequiredRSASize StreamLocalBindMask UnusedConnectionTimeout PermitRootLogin IgnoreRhosts \
    IgnoreUserKnownHosts HostbasedAuthentication HostbasedUsesNameFromPacketOnly \
    PubkeyAuthentication KerberosAuthentication KerberosOrLocalPasswd KerberosTicketCleanup \
    GSSAPIAuthentication PasswordAuthentication KbdInteractiveAuthentication PrintMotd PrintLastLog \
    X11Forwarding X11UseLocalhost PermitTTY PermitUserRC StrictModes TCPKeepAlive \
    PermitEmptyPasswords Compression GatewayPorts UseDNS AllowTcpForwarding AllowAgentForwarding \
    DisableForwarding AllowStreamLocalForwarding StreamLocalBindUnlink FingerprintHash \
    ExposeAuthInfo RefuseConnection PidFile ModuliFile XAuthLocation Ciphers MACs Banner \
    ForceCommand ChrootDirectory TrustedUserCAKeys RevokedKeys SecurityKeyProvider \
    AuthorizedPrincipalsFile VersionAddendum AuthorizedKeysCommand AuthorizedKeysCommandUser \
    AuthorizedPrincipalsCommand AuthorizedPrincipalsCommandUser HostKeyAgent KexAlgorithms \
    CASignatureAlgorithms HostbasedAcceptedAlgorithms HostKeyAlgorithms PubkeyAcceptedAlgorithms \
    RDomain SshdSessionPath SshdAuthPath PerSourcePenaltyExemptList LogLevel SyslogFacility \
    AuthorizedKeysFile HostKey HostCertificate AllowUsers DenyUsers AllowGroups DenyGroups \
    AcceptEnv SetEnv AuthenticationMethods LogVerbose ChannelTimeout Subsystem MaxStartups \
    PerSourceMaxStartups PerSourceNetBlockSize PermitTunnel IPQoS RekeyLimit PermitOpen \
    PermitListen PermitUserEnvironment PubkeyAuthOptions PerSourcePenalties";

/// Every setting, a `keyword value` line each, keywords in lower case, in the order of `sshd -T`.
///
/// Keywords whose only accepted value is what happens anyway are shown with that value.
pub fn dump(view: &View<'_>) -> String {
    let ordered = ORDER.split_whitespace().filter_map(keywords::find);
    let others = TABLE.iter().filter(|k| !ORDER.split_whitespace().any(|name| name == k.name));
    let mut text = String::new();
    for keyword in ordered.chain(others) {
        let values = match &keyword.status {
            Status::Honoured { dump, .. } => dump(view),
            Status::NotYet { accepted: [what_happens, ..], .. } => vec![(*what_happens).to_owned()],
            Status::NotYet { .. }
            | Status::AcceptedWithWarning { .. }
            | Status::Structure { .. } => Vec::new(),
        };
        for value in values {
            // One = behind the keyword is taken for a separator: a value needs one before its own.
            let separator = if value.starts_with('=') { " = " } else { " " };
            text.push_str(&format!("{}{separator}{value}\n", keyword.name.to_ascii_lowercase()));
        }
    }
    text
}

pub fn accept_env(view: &View<'_>) -> Vec<String> {
    quoted(&view.login.accept_env)
}

pub fn address_family(view: &View<'_>) -> Vec<String> {
    one(match view.global.address_family {
        AddressFamily::Any => "any",
        AddressFamily::Inet => "inet",
        AddressFamily::Inet6 => "inet6",
    })
}

pub fn allow_groups(view: &View<'_>) -> Vec<String> {
    quoted(&view.login.allow_groups)
}

pub fn allow_users(view: &View<'_>) -> Vec<String> {
    quoted(&view.login.allow_users)
}

pub fn authorized_keys_file(view: &View<'_>) -> Vec<String> {
    let files = &view.login.authorized_keys_files;
    one(if files.is_empty() { "none".to_owned() } else { quoted(files).join(" ") })
}

pub fn banner(view: &View<'_>) -> Vec<String> {
    one(path_or_none(view.login.banner.as_ref().map(|banner| banner.path.as_path())))
}

pub fn channel_timeout(view: &View<'_>) -> Vec<String> {
    let timeouts = view.login.channel_timeouts.iter();
    let words = timeouts.map(|t| quote(&format!("{}={}", t.pattern, t.time.as_secs())));
    let words = words.collect::<Vec<_>>();
    one(if words.is_empty() { "none".to_owned() } else { words.join(" ") })
}

pub fn ciphers(view: &View<'_>) -> Vec<String> {
    one(names_of(&view.global.ciphers))
}

pub fn client_alive_count_max(view: &View<'_>) -> Vec<String> {
    one(view.login.client_alive_count_max)
}

pub fn client_alive_interval(view: &View<'_>) -> Vec<String> {
    one(view.login.client_alive_interval.as_secs())
}

pub fn deny_groups(view: &View<'_>) -> Vec<String> {
    quoted(&view.login.deny_groups)
}

pub fn compression(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.global.compression))
}

pub fn deny_users(view: &View<'_>) -> Vec<String> {
    quoted(&view.login.deny_users)
}

pub fn force_command(view: &View<'_>) -> Vec<String> {
    one(view.login.force_command.as_deref().unwrap_or("none"))
}

pub fn host_key(view: &View<'_>) -> Vec<String> {
    view.global.host_keys.iter().map(|path| quote(&path.to_string_lossy())).collect()
}

pub fn host_key_algorithms(view: &View<'_>) -> Vec<String> {
    one(names_of(&view.global.host_key_algorithms))
}

pub fn ip_qos(view: &View<'_>) -> Vec<String> {
    let qos = view.login.ip_qos;
    one(format!("{} {}", ip_qos::text(qos.interactive), ip_qos::text(qos.bulk)))
}

pub fn kex_algorithms(view: &View<'_>) -> Vec<String> {
    one(names_of(&view.global.kex_algorithms))
}

pub fn listen_address(view: &View<'_>) -> Vec<String> {
    view.global.listen.iter().map(ToString::to_string).collect()
}

pub fn login_grace_time(view: &View<'_>) -> Vec<String> {
    one(view.global.login_grace.unwrap_or_default().as_secs())
}

pub fn log_level(view: &View<'_>) -> Vec<String> {
    one(view.login.log_level.name())
}

pub fn macs(view: &View<'_>) -> Vec<String> {
    one(names_of(&view.global.macs))
}

pub fn max_auth_tries(view: &View<'_>) -> Vec<String> {
    one(view.login.max_auth_tries)
}

pub fn max_sessions(view: &View<'_>) -> Vec<String> {
    one(view.login.max_sessions)
}

pub fn max_startups(view: &View<'_>) -> Vec<String> {
    let limits = view.global.max_startups;
    one(format!("{}:{}:{}", limits.start, limits.rate, limits.full))
}

pub fn permit_root_login(view: &View<'_>) -> Vec<String> {
    // sshd prints the older name of prohibit-password, and scripts look for it.
    one(match view.login.permit_root_login {
        RootLogin::Yes => "yes",
        RootLogin::No => "no",
        RootLogin::ProhibitPassword => "without-password",
        RootLogin::ForcedCommandsOnly => "forced-commands-only",
    })
}

pub fn scp(view: &View<'_>) -> Vec<String> {
    let named = ScpServer::ALL.iter().find(|(_, server)| *server == view.login.scp);
    one(named.map_or("internal", |(name, _)| *name))
}

pub fn permit_tty(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.login.permit_tty))
}

pub fn permit_user_environment(view: &View<'_>) -> Vec<String> {
    one(match view.global.user_environment.as_deref() {
        None => "no".to_owned(),
        Some("*") => "yes".to_owned(),
        Some(patterns) => quote(patterns),
    })
}

pub fn permit_user_rc(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.login.permit_user_rc))
}

pub fn moduli_file(view: &View<'_>) -> Vec<String> {
    one(quote(&view.global.moduli_file.to_string_lossy()))
}

pub fn pid_file(view: &View<'_>) -> Vec<String> {
    one(path_or_none(view.global.pid_file.as_deref()))
}

pub fn port(view: &View<'_>) -> Vec<String> {
    view.global.ports.iter().map(ToString::to_string).collect()
}

pub fn print_last_log(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.global.print_last_log))
}

pub fn print_motd(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.global.print_motd))
}

pub fn pubkey_accepted_algorithms(view: &View<'_>) -> Vec<String> {
    one(names_of(&view.login.pubkey_algorithms))
}

pub fn pubkey_authentication(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.login.pubkey_authentication))
}

pub fn refuse_connection(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.login.refuse_connection))
}

pub fn rekey_limit(view: &View<'_>) -> Vec<String> {
    let seconds = view.login.rekey_time.map_or(0, |time| time.as_secs());
    one(format!("{} {seconds}", view.login.rekey_bytes.unwrap_or(0)))
}

pub fn required_rsa_size(view: &View<'_>) -> Vec<String> {
    one(view.login.required_rsa_size)
}

pub fn set_env(view: &View<'_>) -> Vec<String> {
    let variables = &view.login.set_env;
    let words = variables.iter().map(|(name, value)| quote(&format!("{name}={value}")));
    // One line: of several, only the first would be read back.
    if variables.is_empty() { Vec::new() } else { one(words.collect::<Vec<_>>().join(" ")) }
}

pub fn strict_modes(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.global.strict_modes))
}

pub fn subsystem(view: &View<'_>) -> Vec<String> {
    // The command carries its own quoting.
    view.login.subsystems.iter().map(|s| format!("{} {}", quote(&s.name), s.command)).collect()
}

pub fn syslog_facility(view: &View<'_>) -> Vec<String> {
    one(view.global.syslog_facility.name())
}

pub fn tcp_keep_alive(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.global.tcp_keep_alive))
}

pub fn use_dns(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.global.use_dns))
}

pub fn audit_log(view: &View<'_>) -> Vec<String> {
    one(match &view.global.audit_log {
        AuditLog::None => "none".to_owned(),
        AuditLog::File(path) => quote(&path.to_string_lossy()),
        AuditLog::Syslog => "syslog".to_owned(),
        AuditLog::Journald => "journald".to_owned(),
    })
}

pub fn log_format(view: &View<'_>) -> Vec<String> {
    one(match view.global.log_format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    })
}

pub fn cipher_steering(view: &View<'_>) -> Vec<String> {
    one(yes_no(view.global.cipher_steering))
}

pub fn window_max(view: &View<'_>) -> Vec<String> {
    one(view.global.window_max)
}

pub fn window_budget(view: &View<'_>) -> Vec<String> {
    one(view.global.window_budget)
}

pub fn driver(view: &View<'_>) -> Vec<String> {
    one(match view.global.driver {
        DriverChoice::Auto => "auto",
        DriverChoice::Uring => "uring",
        DriverChoice::Mio => "mio",
    })
}

pub fn reactors(view: &View<'_>) -> Vec<String> {
    one(view.global.reactors.map_or("auto".to_owned(), |count| count.to_string()))
}

pub fn unused_connection_timeout(view: &View<'_>) -> Vec<String> {
    let time = view.login.unused_connection_timeout;
    one(time.map_or("none".to_owned(), |time| time.as_secs().to_string()))
}

pub fn software_version(view: &View<'_>) -> Vec<String> {
    one(view.global.software_version.as_deref().unwrap_or("none"))
}

pub fn version_addendum(view: &View<'_>) -> Vec<String> {
    one(view.global.version_addendum.as_deref().unwrap_or("none"))
}

pub(super) fn one(value: impl ToString) -> Vec<String> {
    vec![value.to_string()]
}

fn quoted(values: &[impl ToString]) -> Vec<String> {
    values.iter().map(|value| quote(&value.to_string())).collect()
}

pub(super) fn path_or_none(path: Option<&Path>) -> String {
    path.map_or("none".to_owned(), |path| quote(&path.to_string_lossy()))
}

pub(super) const fn yes_no(flag: bool) -> &'static str {
    if flag { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_names_every_keyword_of_the_table_once_at_most() {
        let names = ORDER.split_whitespace().collect::<Vec<_>>();
        for (at, name) in names.iter().enumerate() {
            assert!(keywords::find(name).is_some_and(|k| k.name == *name), "{name}");
            assert!(!names[..at].contains(name), "{name} stands twice");
        }
    }
}
