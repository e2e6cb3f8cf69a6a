//! The one table of keywords: where each may stand, whether it is honoured, what it accepts.

use super::certificates;
use super::diagnostic::{Wrong, did_you_mean};
use super::dump::{self, View};
use super::forwarding;
use super::front;
use super::honour;
use super::isolation;
use super::login;
use super::pam;
use super::programs;
use super::recording;
use super::roots;
use super::settings::{EffectiveDraft, GlobalDraft};
use super::sources;
use super::upstream;
use super::values::Values;

/// Where a parser puts what it read.
#[derive(Default)]
pub struct Target {
    pub global: GlobalDraft,
    pub login: EffectiveDraft,
    /// Things worth telling that are not errors.
    pub warnings: Vec<String>,
}

pub type Parse = fn(&mut Target, &Values<'_>) -> Result<(), Wrong>;
/// The values of a keyword's lines, one item a line.
pub type Dump = fn(&View<'_>) -> Vec<String>;

/// One keyword of sshd_config(5), or one of ours.
pub struct Keyword {
    /// As the manual writes it; files may use any case.
    pub name: &'static str,
    pub scope: Scope,
    pub status: Status,
}

/// Where a keyword may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Outside of Match blocks, as in sshd.
    Global,
    /// Anywhere.
    Match,
}

/// What happens with a keyword.
pub enum Status {
    /// It does what sshd_config(5) says.
    Honoured { legal: &'static str, parse: Parse, dump: Dump },
    /// Include and Match: structure, not settings.
    Structure { legal: &'static str },
    /// Any value is accepted, because it cannot matter here. Those in `silent` say what happens
    /// anyway; others draw a warning with the reason.
    AcceptedWithWarning { silent: &'static [&'static str], reason: &'static str },
    /// Refused with the reason, except for the values in `accepted`: they ask for what happens
    /// anyway. The first of them is what a dump shows. Those in `offers` would only give clients
    /// more than they get here, so that going on without is safe: they draw a warning.
    NotYet {
        accepted: &'static [&'static str],
        offers: &'static [&'static str],
        reason: &'static str,
    },
}

/// The keyword a file means by `word`, under its own name or an older one.
pub fn find(word: &str) -> Option<&'static Keyword> {
    let name = ALIASES
        .iter()
        .find(|(alias, _)| alias.eq_ignore_ascii_case(word))
        .map_or(word, |(_, name)| *name);
    TABLE.iter().find(|keyword| keyword.name.eq_ignore_ascii_case(name))
}

/// The keyword that an unknown word is most likely meant to be.
pub fn nearest(word: &str) -> Option<&'static str> {
    did_you_mean(word, TABLE.iter().map(|keyword| keyword.name))
}

/// The table as documentation shows it.
pub fn markdown() -> String {
    let mut text =
        String::from("| keyword | in Match | status | values |\n| --- | --- | --- | --- |\n");
    for keyword in TABLE {
        let place = match keyword.scope {
            Scope::Global => "no",
            Scope::Match => "yes",
        };
        let (status, values) = match &keyword.status {
            Status::Honoured { legal, .. } | Status::Structure { legal } => {
                ("honoured", (*legal).to_owned())
            }
            Status::AcceptedWithWarning { silent: [], reason } => {
                ("accepted, with a warning", format!("any; {reason}"))
            }
            Status::AcceptedWithWarning { silent, reason } => (
                "accepted, with a warning",
                format!("any ({} without the warning); {reason}", quoted_list(silent)),
            ),
            Status::NotYet { accepted: [], reason, .. } => ("not yet", format!("none; {reason}")),
            Status::NotYet { accepted, offers: [], reason } => {
                ("not yet", format!("{} only; {reason}", quoted_list(accepted)))
            }
            Status::NotYet { accepted, offers, reason } => {
                let (accepted, offers) = (quoted_list(accepted), quoted_list(offers));
                ("not yet", format!("{accepted}; {offers} with a warning: {reason}"))
            }
        };
        let values = values.replace('|', "\\|");
        text.push_str(&format!("| {} | {place} | {status} | {values} |\n", keyword.name));
    }
    text
}

/// The three lists of the documentation: what is honoured, what is accepted and changes nothing,
/// and what is refused; a heading with the count before each.
pub fn lists() -> String {
    let mut lists = [
        ("Honoured", Vec::new()),
        ("Accepted with a warning", Vec::new()),
        ("Refused", Vec::new()),
    ];
    for keyword in TABLE {
        let (list, line) = match &keyword.status {
            Status::Honoured { .. } | Status::Structure { .. } => (0, String::new()),
            Status::AcceptedWithWarning { silent: [], reason } => (1, format!(": {reason}")),
            Status::AcceptedWithWarning { silent, reason } => {
                (1, format!(" (not for {}): {reason}", quoted_list(silent)))
            }
            Status::NotYet { accepted: [], reason, .. } => (2, format!(": {reason}")),
            Status::NotYet { accepted, offers: [], reason } => {
                (2, format!(" (but for {}): {reason}", quoted_list(accepted)))
            }
            Status::NotYet { accepted, reason, .. } => {
                (1, format!(" (not for {}): not in effect, {reason}", quoted_list(accepted)))
            }
        };
        lists[list].1.push((keyword.name, line));
    }
    let mut text = String::new();
    for (heading, keywords) in lists {
        text.push_str(&format!("### {heading}: {}\n\n", keywords.len()));
        let brief = keywords.iter().all(|(_, line)| line.is_empty());
        if brief {
            let names = keywords.iter().map(|(name, _)| *name).collect::<Vec<_>>();
            text.push_str(&format!("{}.\n\n", names.join(", ")));
            continue;
        }
        for (name, line) in keywords {
            text.push_str(&format!("- {name}{line}\n"));
        }
        text.push('\n');
    }
    text
}

/// `a`, `b` or `c`.
pub fn quoted_list(values: &[&str]) -> String {
    match values {
        [] => String::new(),
        [only] => format!("`{only}`"),
        [front @ .., last] => {
            let front = front.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(", ");
            format!("{front} or `{last}`")
        }
    }
}

/// Older names and what they stand for.
pub const ALIASES: &[(&str, &str)] = &[
    ("ChallengeResponseAuthentication", "KbdInteractiveAuthentication"),
    ("DSAAuthentication", "PubkeyAuthentication"),
    ("HostbasedAcceptedKeyTypes", "HostbasedAcceptedAlgorithms"),
    ("HostDSAKey", "HostKey"),
    ("KeepAlive", "TCPKeepAlive"),
    ("PubkeyAcceptedKeyTypes", "PubkeyAcceptedAlgorithms"),
    ("SkeyAuthentication", "KbdInteractiveAuthentication"),
];

const fn honoured(
    name: &'static str,
    scope: Scope,
    legal: &'static str,
    parse: Parse,
    dump: Dump,
) -> Keyword {
    Keyword { name, scope, status: Status::Honoured { legal, parse, dump } }
}

const fn warned(
    name: &'static str,
    scope: Scope,
    silent: &'static [&'static str],
    reason: &'static str,
) -> Keyword {
    Keyword { name, scope, status: Status::AcceptedWithWarning { silent, reason } }
}

const fn not_yet(
    name: &'static str,
    scope: Scope,
    accepted: &'static [&'static str],
    reason: &'static str,
) -> Keyword {
    Keyword { name, scope, status: Status::NotYet { accepted, offers: &[], reason } }
}

/// Not built yet, and nothing but an offer to clients.
const fn offer(
    name: &'static str,
    scope: Scope,
    accepted: &'static [&'static str],
    offers: &'static [&'static str],
    reason: &'static str,
) -> Keyword {
    Keyword { name, scope, status: Status::NotYet { accepted, offers, reason } }
}

const FORWARDING: &str = "forwarding is not built yet";
const HOSTBASED: &str = "it concerns host-based authentication, which is not offered";
const KERBEROS: &str = "it concerns Kerberos, which is not offered";
const GSSAPI: &str = "it concerns GSSAPI, which is not offered";
const OBSOLETE: &str = "it is obsolete, and sshd ignores it too";
const ONE_PROGRAM: &str = "this server needs no second program";
const WAYS: &str = "yes, all, no, local (to elsewhere) or remote (back to the client)";
const YES_NO: &str = "yes or no";
const SIGNATURES: &str = "signature algorithms with commas between, `*` and `?` for several; \
                          `+list` adds to the default, `-list` removes, `^list` puts first";
const LISTS: &str = "names with commas between; `+list` adds to the default, `-list` removes \
                     (`*` and `?` for several), `^list` puts first";
const PATTERNS: &str = "one or more names; `*` and `?` stand for other characters";
const USERS: &str = "one or more `user` or `user@host`; `*` and `?` stand for other characters, \
                     and a host may be an address with a mask length";

use Scope::{Global, Match};

/// Every keyword, by name.
#[rustfmt::skip]
pub const TABLE: &[Keyword] = &[
    honoured("AcceptEnv", Match, PATTERNS, honour::accept_env, dump::accept_env),
    honoured("AddressFamily", Global, "any, inet or inet6", honour::address_family, dump::address_family),
    honoured("AllowAgentForwarding", Match, YES_NO,
        forwarding::allow_agent_forwarding, forwarding::dump_allow_agent_forwarding),
    honoured("AllowGroups", Match, PATTERNS, honour::allow_groups, dump::allow_groups),
    honoured("AllowStreamLocalForwarding", Match, WAYS,
        forwarding::allow_streamlocal_forwarding, forwarding::dump_allow_streamlocal_forwarding),
    honoured("AllowTcpForwarding", Match, WAYS,
        forwarding::allow_tcp_forwarding, forwarding::dump_allow_tcp_forwarding),
    honoured("AllowUsers", Match, USERS, honour::allow_users, dump::allow_users),
    warned("AFSTokenPassing", Global, &["no"], OBSOLETE),
    honoured("AuthenticationMethods", Match,
        "any, or one or more lists of methods with commas between, like publickey,keyboard-interactive: whoever \
         gets through all of one list is in",
        login::authentication_methods, login::dump_authentication_methods),
    honoured("AuthorizedKeysCommand", Match,
        "none, or the absolute path of a program that answers with lines of authorized_keys, and its \
         arguments, which may have tokens",
        programs::authorized_keys_command, programs::dump_authorized_keys_command),
    honoured("AuthorizedKeysCommandUser", Match, "the account that program runs as, in which %u is the user; or none",
        programs::authorized_keys_command_user, programs::dump_authorized_keys_command_user),
    honoured("AuthorizedKeysFile", Match,
        "one or more paths, in which %h is the home directory, %u the user, %U the user's number, \
         %% a percent sign, and `*`, `?` and `[...]` stand for several; or none",
        honour::authorized_keys_file, dump::authorized_keys_file),
    warned("AuthorizedKeysFile2", Match, &[], "it is obsolete: list the file in AuthorizedKeysFile"),
    honoured("AuthorizedPrincipalsCommand", Match,
        "none, or the absolute path of a program that answers with lines of AuthorizedPrincipalsFile, and its \
         arguments, which may have tokens",
        programs::authorized_principals_command, programs::dump_authorized_principals_command),
    honoured("AuthorizedPrincipalsCommandUser", Match, "the account that program runs as, in which %u is the user; or none",
        programs::authorized_principals_command_user, programs::dump_authorized_principals_command_user),
    honoured("AuthorizedPrincipalsFile", Match,
        "a path, in which %h, %u, %U and %% are as in AuthorizedKeysFile; or none",
        certificates::authorized_principals_file, certificates::dump_authorized_principals_file),
    honoured("Banner", Match, "the path of a text file, or none", honour::banner, dump::banner),
    honoured("CASignatureAlgorithms", Match, SIGNATURES,
        certificates::ca_signature_algorithms, certificates::dump_ca_signature_algorithms),
    honoured("ChannelTimeout", Match,
        "one or more type=time, like session:shell=1h or session:*=10m, where the type may contain \
         `*` and `?`; or none",
        honour::channel_timeout, dump::channel_timeout),
    warned("CheckMail", Global, &[], OBSOLETE),
    honoured("ChrootDirectory", Match,
        "a path, in which %h, %u, %U and %% are as in AuthorizedKeysFile; or none",
        roots::chroot_directory, roots::dump_chroot_directory),
    honoured("Ciphers", Global, LISTS, honour::ciphers, dump::ciphers),
    honoured("ClientAliveCountMax", Match, "a number; 0 never ends a connection",
        honour::client_alive_count_max, dump::client_alive_count_max),
    honoured("ClientAliveInterval", Match, "a time, like 30 or 5m; 0 never asks",
        honour::client_alive_interval, dump::client_alive_interval),
    honoured("Compression", Global, "yes, delayed or no; yes is delayed too", honour::compression, dump::compression),
    warned("DebianBanner", Global, &["no"], "our identification names no distribution"),
    honoured("DenyGroups", Match, PATTERNS, honour::deny_groups, dump::deny_groups),
    honoured("DenyUsers", Match, USERS, honour::deny_users, dump::deny_users),
    honoured("DisableForwarding", Match, YES_NO,
        forwarding::disable_forwarding, forwarding::dump_disable_forwarding),
    honoured("ExposeAuthInfo", Match, YES_NO, login::expose_auth_info, login::dump_expose_auth_info),
    not_yet("FingerprintHash", Global, &["SHA256"], "fingerprints are always SHA-256; keys can be made that share one by MD5"),
    honoured("ForceCommand", Match, "a command line, internal-sftp, or none",
        honour::force_command, dump::force_command),
    honoured("GatewayPorts", Match, "no, yes or clientspecified",
        forwarding::gateway_ports, forwarding::dump_gateway_ports),
    warned("GSSAPIAuthentication", Match, &["no"], GSSAPI),
    warned("GSSAPICleanupCredentials", Global, &[], GSSAPI),
    warned("GSSAPIDelegateCredentials", Global, &[], GSSAPI),
    warned("GSSAPIKexAlgorithms", Global, &[], GSSAPI),
    warned("GSSAPIKeyExchange", Global, &["no"], GSSAPI),
    warned("GSSAPIStoreCredentialsOnRekey", Global, &[], GSSAPI),
    warned("GSSAPIStrictAcceptorCheck", Global, &[], GSSAPI),
    warned("HostbasedAcceptedAlgorithms", Match, &[], HOSTBASED),
    offer("HostbasedAuthentication", Match, &["no"], &["yes"], HOSTBASED),
    warned("HostbasedUsesNameFromPacketOnly", Match, &[], HOSTBASED),
    honoured("HostCertificate", Global, "the path of a certificate for one of the host keys, or none",
        certificates::host_certificate, certificates::dump_host_certificate),
    honoured("HostKey", Global, "the path of a private key that only its owner can read",
        honour::host_key, dump::host_key),
    honoured("HostKeyAgent", Global,
        "the path of an agent's socket, SSH_AUTH_SOCK for the one that this variable names, or none",
        certificates::host_key_agent, certificates::dump_host_key_agent),
    honoured("HostKeyAlgorithms", Global, SIGNATURES, honour::host_key_algorithms, dump::host_key_algorithms),
    warned("IgnoreRhosts", Match, &["yes"], HOSTBASED),
    warned("IgnoreUserKnownHosts", Global, &[], HOSTBASED),
    Keyword { name: "Include", scope: Match, status: Status::Structure {
        legal: "one or more paths, which may contain `*`, `?` and `[...]`; relative ones start at \
                the directory of the main file" } },
    honoured("IPQoS", Match,
        "one or two classes of service, for sessions with a terminal and for the rest: a name like \
         af21, cs1, ef or le, a number up to 255, or none for the system's own",
        honour::ip_qos, dump::ip_qos),
    honoured("KbdInteractiveAuthentication", Match,
        "yes or no; it needs UsePAM, TidegatePasswordFile or TidegateTotpFile",
        login::kbd_interactive_authentication, login::dump_kbd_interactive_authentication),
    warned("KerberosAuthentication", Match, &["no"], KERBEROS),
    warned("KerberosGetAFSToken", Global, &[], KERBEROS),
    warned("KerberosOrLocalPasswd", Global, &[], KERBEROS),
    warned("KerberosTgtPassing", Global, &[], OBSOLETE),
    warned("KerberosTicketCleanup", Global, &[], KERBEROS),
    honoured("KexAlgorithms", Global, LISTS, honour::kex_algorithms, dump::kex_algorithms),
    warned("KeyRegenerationInterval", Global, &[], OBSOLETE),
    honoured("ListenAddress", Global, "address, host, address:port, host:port or [address]:port; then, if wanted, rdomain and the name of a \
         network device",
        honour::listen_address, dump::listen_address),
    honoured("LoginGraceTime", Global, "a time, like 30 or 2m; 0 waits for ever",
        honour::login_grace_time, dump::login_grace_time),
    honoured("LogLevel", Match, "QUIET, FATAL, ERROR, INFO, VERBOSE, DEBUG, DEBUG1, DEBUG2 or DEBUG3",
        honour::log_level, dump::log_level),
    warned("LogVerbose", Match, &["none"], "it names functions of OpenSSH's source"),
    honoured("MACs", Global, LISTS, honour::macs, dump::macs),
    Keyword { name: "Match", scope: Match, status: Status::Structure {
        legal: "all, or one or more of User, Group, Host, Address, LocalAddress, LocalPort, RDomain and \
                Version with a pattern list each, and invalid-user" } },
    honoured("MaxAuthTries", Match, "a number; counts as 1 to 64", honour::max_auth_tries, dump::max_auth_tries),
    honoured("MaxSessions", Match, "a number; counts as 1024 at most", honour::max_sessions, dump::max_sessions),
    honoured("MaxStartups", Global, "a number, or start:rate:full", honour::max_startups, dump::max_startups),
    honoured("ModuliFile", Global, "the path of a moduli(5) file; it is read when KexAlgorithms has group exchange",
        honour::moduli_file, dump::moduli_file),
    warned("PAMAuthenticationViaKbdInt", Global, &[], OBSOLETE),
    honoured("PAMServiceName", Match, "the name of a file in /etc/pam.d; it concerns UsePAM yes",
        pam::pam_service_name, pam::dump_pam_service_name),
    honoured("PasswordAuthentication", Match, "yes or no; it needs UsePAM or TidegatePasswordFile",
        login::password_authentication, login::dump_password_authentication),
    honoured("PermitEmptyPasswords", Match, YES_NO,
        login::permit_empty_passwords, login::dump_permit_empty_passwords),
    honoured("PermitListen", Match,
        "any, none, or one or more port, host:port, address:port or [address]:port, in which a host is \
         a pattern and a port may be `*`",
        forwarding::permit_listen, forwarding::dump_permit_listen),
    honoured("PermitOpen", Match,
        "any, none, or one or more host:port, address:port or [address]:port, in which host and \
         port may be `*`; names are compared as they are, not looked up",
        forwarding::permit_open, forwarding::dump_permit_open),
    honoured("PermitRootLogin", Match, "yes, no, prohibit-password or forced-commands-only",
        honour::permit_root_login, dump::permit_root_login),
    honoured("PermitTTY", Match, YES_NO, honour::permit_tty, dump::permit_tty),
    offer("PermitTunnel", Match, &["no"], &["yes", "point-to-point", "ethernet"], FORWARDING),
    honoured("PermitUserEnvironment", Global,
        "yes, no, or a list of variables with commas between, in which `*` and `?` stand for other \
         characters and `!` denies",
        honour::permit_user_environment, dump::permit_user_environment),
    honoured("PermitUserRC", Match, YES_NO, honour::permit_user_rc, dump::permit_user_rc),
    honoured("PerSourceMaxStartups", Global, "a number of connections, or none",
        sources::per_source_max_startups, sources::dump_max_startups),
    honoured("PerSourceNetBlockSize", Global, "bits of an IPv4 address from 0 to 32, or ipv4:ipv6 with 0 to 128",
        sources::per_source_net_block_size, sources::dump_net_block_size),
    honoured("PerSourcePenalties", Global,
        "yes, no, or one or more of crash:, authfail:, invaliduser:, noauth:, grace-exceeded:, \
         refuseconnection:, max: and min: with a time, max-sources4: and max-sources6: with a number, \
         overflow: and overflow6: with permissive or deny-all",
        sources::per_source_penalties, sources::dump_penalties),
    honoured("PerSourcePenaltyExemptList", Global,
        "addresses with commas between, which may have a mask length; or none",
        sources::per_source_penalty_exempt_list, sources::dump_penalty_exempt_list),
    honoured("PidFile", Global, "a path, or none", honour::pid_file, dump::pid_file),
    honoured("Port", Global, "a port from 0 to 65535; 0 takes a free one", honour::port, dump::port),
    honoured("PrintLastLog", Global, YES_NO, honour::print_last_log, dump::print_last_log),
    honoured("PrintMotd", Global, YES_NO, honour::print_motd, dump::print_motd),
    warned("Protocol", Global, &["2"], "protocol 2 is the only one there is"),
    honoured("PubkeyAcceptedAlgorithms", Match, SIGNATURES,
        honour::pubkey_accepted_algorithms, dump::pubkey_accepted_algorithms),
    honoured("PubkeyAuthentication", Match, YES_NO, honour::pubkey_authentication, dump::pubkey_authentication),
    honoured("PubkeyAuthOptions", Match,
        "none, touch-required, verify-required, or both with a comma between; they concern security keys",
        login::pubkey_auth_options, login::dump_pubkey_auth_options),
    not_yet("RDomain", Match, &["none"],
        "a process cannot be put into a routing domain on Linux, where sshd refuses it too; \
         ListenAddress and Match know routing domains"),
    honoured("RefuseConnection", Match, YES_NO, honour::refuse_connection, dump::refuse_connection),
    honoured("RekeyLimit", Match,
        "bytes, like 1.5G, or default; then, if wanted, a time, like 1h, or none",
        honour::rekey_limit, dump::rekey_limit),
    honoured("RequiredRSASize", Match, "bits, from 2048 to 8192; from 1024 on counts as 2048", honour::required_rsa_size, dump::required_rsa_size),
    warned("ReverseMappingCheck", Global, &[], OBSOLETE),
    honoured("RevokedKeys", Match,
        "the path of a key revocation list or of a file of public keys, or none",
        certificates::revoked_keys, certificates::dump_revoked_keys),
    warned("RhostsAuthentication", Global, &["no"], OBSOLETE),
    warned("RhostsRSAAuthentication", Match, &["no"], OBSOLETE),
    warned("RSAAuthentication", Match, &[], OBSOLETE),
    warned("SecurityKeyProvider", Global, &["internal"], "security keys are the clients' here; no host key is in one"),
    warned("ServerKeyBits", Global, &[], OBSOLETE),
    honoured("SetEnv", Match, "one or more NAME=value", honour::set_env, dump::set_env),
    warned("SshdAuthPath", Global, &[], ONE_PROGRAM),
    warned("SshdSessionPath", Global, &[], ONE_PROGRAM),
    honoured("StreamLocalBindMask", Match, "an octal mask",
        forwarding::streamlocal_bind_mask, forwarding::dump_streamlocal_bind_mask),
    honoured("StreamLocalBindUnlink", Match, YES_NO,
        forwarding::streamlocal_bind_unlink, forwarding::dump_streamlocal_bind_unlink),
    honoured("StrictModes", Global, YES_NO, honour::strict_modes, dump::strict_modes),
    honoured("Subsystem", Match, "a name and a command line, or a name and internal-sftp",
        honour::subsystem, dump::subsystem),
    honoured("SyslogFacility", Global,
        "DAEMON, USER, AUTH, AUTHPRIV or LOCAL0 to LOCAL7; it concerns `tidegate sshd`, which logs to syslog",
        honour::syslog_facility, dump::syslog_facility),
    honoured("TCPKeepAlive", Global, YES_NO, honour::tcp_keep_alive, dump::tcp_keep_alive),
    honoured("TidegateAccounts", Global,
        "the path of a file of accounts that exist here alone, or none",
        roots::accounts, roots::dump_accounts),
    honoured("TidegateAccountsUser", Global,
        "the name of an account that is not root's, or none",
        roots::accounts_user, roots::dump_accounts_user),
    honoured("TidegateAuditLog", Global, "the absolute path of a file, syslog, journald, or none",
        honour::audit_log, dump::audit_log),
    honoured("TidegateAuditOnFailure", Global, "continue, or refuse for logins while the audit cannot be written",
        recording::audit_on_failure, recording::dump_audit_on_failure),
    honoured("TidegateCipherSteering", Global, "yes or no; Ciphers of one's own switch it off",
        honour::cipher_steering, dump::cipher_steering),
    honoured("TidegateControl", Global,
        "auto (a socket of the program's own in /run/tidegate, or the user's runtime directory), an absolute path, or none",
        front::control, front::dump_control),
    honoured("TidegateDrainTime", Global, "a time, like 30 or 5m, up to a week; 0 or none ends sessions at once",
        front::drain_time, front::dump_drain_time),
    honoured("TidegateDriver", Global, "auto (io_uring, and mio where that is refused), uring or mio", honour::driver, dump::driver),
    honoured("TidegateEdgeUser", Global,
        "an account without rights that the edge runs as, or auto for sshd, or nobody where there is none",
        isolation::edge_user, isolation::dump_edge_user),
    honoured("TidegateIsolation", Global,
        "auto or shared: as root, a process without rights for all who have not logged in, and one for each \
         account; per-connection: as root, such processes for each connection; or none, for one process, \
         which root may not have",
        isolation::isolation, isolation::dump_isolation),
    honoured("TidegateLogFormat", Global, "text or json", honour::log_format, dump::log_format),
    honoured("TidegatePasswordFile", Match, "the path of a file of name:hash lines, or none",
        login::password_file, login::dump_password_file),
    honoured("TidegateProxyProtocol", Global,
        "addresses and networks of proxies with commas between, and required or optional; or none",
        front::proxy_protocol, front::dump_proxy_protocol),
    honoured("TidegateProxyProtocolTimeout", Global, "a time from 1 second to 1 minute",
        front::proxy_protocol_timeout, front::dump_proxy_protocol_timeout),
    honoured("TidegateReactors", Global, "a number of event loops from 1 to 1024, or auto for one a core",
        honour::reactors, dump::reactors),
    honoured("TidegateRecord", Match,
        "no, shells for sessions with a terminal, or sessions for those without one too",
        recording::record, recording::dump_record),
    honoured("TidegateRecordDirectory", Match, "an absolute path",
        recording::directory, recording::dump_directory),
    honoured("TidegateRecordOnFailure", Match,
        "refuse, or continue for sessions that go on without a recording",
        recording::on_failure, recording::dump_on_failure),
    honoured("TidegateRelayUser", Global,
        "an account without rights that the relay runs as, which is neither the edge's nor the signer's; or \
         auto for a number that no account has",
        isolation::relay_user, isolation::dump_relay_user),
    honoured("TidegateScp", Match, "internal, or external for the account's shell and its own scp",
        honour::scp, dump::scp),
    honoured("TidegateSignerUser", Global,
        "an account without rights that the signer runs as, which is not the edge's; or auto for a number \
         that no account has",
        isolation::signer_user, isolation::dump_signer_user),
    honoured("TidegateSoftwareVersion", Global,
        "printable text without spaces and minus signs, or none for our own name",
        honour::software_version, dump::software_version),
    honoured("TidegateTotpFile", Match, "the path of a file of name:secret lines, or none",
        login::totp_file, login::dump_totp_file),
    honoured("TidegateUpstream", Match,
        "none, or one or more host, host:port or [address]:port at which logins go on",
        upstream::upstream, upstream::dump_upstream),
    honoured("TidegateUpstreamAgent", Match, YES_NO,
        upstream::upstream_agent, upstream::dump_upstream_agent),
    honoured("TidegateUpstreamCA", Match, "the path of a private key without a passphrase, or none",
        upstream::upstream_authority, upstream::dump_upstream_authority),
    honoured("TidegateUpstreamCommand", Match,
        "none, or the absolute path of a program that answers with hosts, and its arguments, which may have tokens",
        programs::upstream_command, programs::dump_upstream_command),
    honoured("TidegateUpstreamCommandUser", Match, "the account that program runs as, or none",
        programs::upstream_command_user, programs::dump_upstream_command_user),
    honoured("TidegateUpstreamHostKeyPolicy", Match, "strict, or accept-new for hosts that are in no line",
        upstream::upstream_host_keys, upstream::dump_upstream_host_keys),
    honoured("TidegateUpstreamIdentity", Match, "the path of a private key without a passphrase, or none",
        upstream::upstream_identity, upstream::dump_upstream_identity),
    honoured("TidegateUpstreamKnownHosts", Match, "the path of a file of host keys",
        upstream::upstream_known_hosts, upstream::dump_upstream_known_hosts),
    honoured("TidegateUpstreamProxyProtocol", Match, "none, v1 or v2",
        upstream::upstream_proxy_protocol, upstream::dump_upstream_proxy_protocol),
    honoured("TidegateUpstreamShare", Match,
        "no, yes, or how long a connection without logins is kept, like 30 or 5m, up to an hour",
        upstream::upstream_share, upstream::dump_upstream_share),
    honoured("TidegateUpstreamTargets", Match,
        "none, or one or more patterns of host, host:port or [address]:port that login names like \
         user%host may ask for",
        upstream::upstream_targets, upstream::dump_upstream_targets),
    honoured("TidegateUpstreamUser", Match, "a user name, in which %u is the login's; or none for that one alone",
        upstream::upstream_user, upstream::dump_upstream_user),
    honoured("TidegateWindowBudget", Global, "a size, like 256M",
        honour::window_budget, dump::window_budget),
    honoured("TidegateWindowMax", Global, "a size from 16K to 128M",
        honour::window_max, dump::window_max),
    honoured("TrustedUserCAKeys", Match, "the path of a file of public keys, or none",
        certificates::trusted_user_ca_keys, certificates::dump_trusted_user_ca_keys),
    honoured("UnusedConnectionTimeout", Match, "a time, like 30 or 5m, or none",
        honour::unused_connection_timeout, dump::unused_connection_timeout),
    honoured("UseDNS", Global, YES_NO, honour::use_dns, dump::use_dns),
    warned("UseLogin", Global, &["no"], OBSOLETE),
    honoured("UsePAM", Global, "yes or no; yes takes root's rights", pam::use_pam, pam::dump_use_pam),
    warned("UsePrivilegeSeparation", Global, &[], OBSOLETE),
    warned("VerifyReverseMapping", Global, &[], OBSOLETE),
    honoured("VersionAddendum", Global, "printable text, or none", honour::version_addendum, dump::version_addendum),
    honoured("X11DisplayOffset", Match, "the number of the first display, from 0 to 999",
        forwarding::x11_display_offset, forwarding::dump_x11_display_offset),
    honoured("X11Forwarding", Match, YES_NO,
        forwarding::x11_forwarding, forwarding::dump_x11_forwarding),
    honoured("X11UseLocalhost", Match, YES_NO,
        forwarding::x11_use_localhost, forwarding::dump_x11_use_localhost),
    honoured("XAuthLocation", Global, "the path of xauth, or none, which forbids X11",
        forwarding::xauth_location, forwarding::dump_xauth_location),
];
