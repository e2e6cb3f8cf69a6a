//! `-G`: what holds for a host, a line for each keyword, in the order and the spelling of `ssh -G`.

use std::path::Path;
use std::time::Duration;

use super::draft::{Draft, Proxy, RequestTty, SessionType, jump_text};
use super::settle::{X11_TIMEOUT, XAUTH};
use super::{Said, Settled};
use crate::client::forwards::{Forward, Listen};
use crate::client::{AddKeys, Options, StrictHostKeys, UpdateHostKeys};
use crate::gateway::config::{DriverChoice, is_none, names_of};
use crate::services::forward::{BIND_MASK, Target};

/// What is shown, as it was settled and as it was written.
struct View<'a> {
    options: &'a Options,
    said: &'a Said,
    draft: &'a Draft,
}

/// The values of a keyword, a line each; none where ssh shows none.
type Show = fn(&View<'_>) -> Vec<String>;

impl Settled {
    /// Every keyword that is honoured, with the value that holds. Paths of keys are as they were written
    /// (tokens in them may hang on what is not known yet); known_hosts files and sockets are expanded.
    pub fn dump(&self) -> String {
        let view = View { options: &self.options, said: &self.said, draft: &self.said.draft };
        let mut text = String::new();
        for (name, show) in LINES {
            for value in show(&view) {
                text.push_str(&format!("{} {value}\n", name.to_ascii_lowercase()));
            }
        }
        text
    }
}

#[rustfmt::skip]
const LINES: &[(&str, Show)] = &[
    ("Host", |v| one(&v.options.host)),
    ("User", |v| one(&v.options.user)),
    ("HostName", |v| one(&v.options.host_name)),
    ("Port", |v| one(v.options.port)),
    ("AddressFamily", |v| one(match (v.options.ipv4, v.options.ipv6) {
        (true, false) => "inet",
        (false, true) => "inet6",
        _ => "any",
    })),
    ("BatchMode", |v| flag(v.options.batch)),
    ("Compression", |v| flag(v.options.compression)),
    ("ClearAllForwardings", |v| {
        flag(v.draft.clear_forwards == Some(true) || v.options.stdio_forward.is_some())
    }),
    ("ExitOnForwardFailure", |v| flag(v.options.exit_on_forward_failure)),
    ("ForwardX11", |v| flag(v.draft.forward_x11 == Some(true))),
    ("ForwardX11Trusted", |v| flag(v.draft.x11_trusted == Some(true))),
    ("GatewayPorts", |v| flag(v.options.gateway_ports)),
    ("HashKnownHosts", |v| flag(v.options.hash_known_hosts)),
    ("IdentitiesOnly", |v| flag(v.options.identities_only)),
    ("KbdInteractiveAuthentication", |v| flag(v.options.keyboard_interactive)),
    ("NoHostAuthenticationForLocalhost", |v| flag(v.options.no_localhost)),
    ("PasswordAuthentication", |v| flag(v.options.password)),
    ("PubkeyAuthentication", |v| one(v.options.pubkey)),
    ("RequestTTY", |v| one(match v.options.request_tty {
        RequestTty::No => "false",
        RequestTty::Auto => "auto",
        RequestTty::Yes => "true",
        RequestTty::Force => "force",
    })),
    ("SessionType", |v| one(match v.options.session {
        SessionType::None => "none",
        SessionType::Subsystem => "subsystem",
        SessionType::Default => "default",
    })),
    ("StdinNull", |v| flag(v.options.stdin_null)),
    ("ForkAfterAuthentication", |v| flag(v.options.background)),
    ("StreamLocalBindUnlink", |v| flag(v.options.bind_unlink)),
    ("StrictHostKeyChecking", |v| one(match v.options.strict {
        StrictHostKeys::Yes => "true",
        StrictHostKeys::Ask => "ask",
        StrictHostKeys::AcceptNew => "accept-new",
        StrictHostKeys::No => "false",
    })),
    ("TCPKeepAlive", |v| flag(v.options.tcp_keepalive)),
    ("AddKeysToAgent", |v| one(match v.options.add_keys {
        None => "false".to_owned(),
        Some(AddKeys { ask: true, .. }) => "ask".to_owned(),
        Some(AddKeys { confirm: true, lifetime: None, .. }) => "confirm".to_owned(),
        Some(AddKeys { confirm: true, lifetime: Some(seconds), .. }) => format!("confirm {seconds}"),
        Some(AddKeys { lifetime: Some(seconds), .. }) => seconds.to_string(),
        Some(_) => "true".to_owned(),
    })),
    ("UpdateHostKeys", |v| one(match v.options.update_host_keys {
        UpdateHostKeys::No => "false",
        UpdateHostKeys::Ask => "ask",
        UpdateHostKeys::Yes => "true",
    })),
    ("ConnectionAttempts", |v| one(v.options.connection_attempts)),
    ("ForwardX11Timeout", |v| seconds(v.draft.x11_timeout.unwrap_or(X11_TIMEOUT))),
    ("NumberOfPasswordPrompts", |v| one(v.options.password_prompts)),
    ("ServerAliveCountMax", |v| one(v.draft.alive_count_max.unwrap_or(3))),
    ("ServerAliveInterval", |v| seconds(v.draft.alive_interval.unwrap_or_default())),
    ("BindAddress", |v| some(v.options.bind_address.as_deref())),
    ("BindInterface", |v| some(v.options.bind_interface.as_deref())),
    ("Ciphers", |v| one(names_of(&v.options.ciphers))),
    ("HostKeyAlgorithms", |v| one(names_of(&v.options.host_key_algorithms))),
    ("HostKeyAlias", |v| some(v.options.host_key_alias.as_deref())),
    ("IdentityAgent", |v| {
        some(v.draft.identity_agent.as_deref().map(|word| socket(word, v.options.agent.as_deref())))
    }),
    ("IgnoreUnknown", |v| joined(&v.said.ignored, ",")),
    ("KexAlgorithms", |v| one(names_of(&v.options.kex))),
    ("CASignatureAlgorithms", |v| one(names_of(&v.options.ca_algorithms))),
    ("RemoteCommand", |v| {
        let said = v.draft.remote_command.as_ref().filter(|line| !is_none(line));
        some(said.zip(v.options.command.as_ref()).map(|(_, line)| String::from_utf8_lossy(line)))
    }),
    ("LogLevel", |v| {
        some(Some(v.options.level.name()))
    }),
    ("MACs", |v| one(names_of(&v.options.macs))),
    ("PreferredAuthentications", |v| {
        some(v.draft.preferred.as_ref().map(|methods| methods.join(",")))
    }),
    ("PubkeyAcceptedAlgorithms", |v| one(names_of(&v.options.user_algorithms))),
    ("XAuthLocation", |v| one(v.draft.xauth.as_deref().unwrap_or(XAUTH))),
    ("DynamicForward", |v| forwards(v.options.local_forwards.iter().filter(|f| f.to.is_none()))),
    ("LocalForward", |v| forwards(v.options.local_forwards.iter().filter(|f| f.to.is_some()))),
    ("RemoteForward", |v| remote_forwards(&v.options.remote_forwards)),
    ("PermitRemoteOpen", |v| match &v.draft.remote_open {
        Some(words) => one(words.join(" ")),
        None => one("any"),
    }),
    ("IdentityFile", identity_files),
    ("CertificateFile", |v| v.draft.certificate_files.clone()),
    ("GlobalKnownHostsFile", |v| files(&v.options.global_known_hosts)),
    ("UserKnownHostsFile", |v| files(&v.options.user_known_hosts)),
    ("SendEnv", |v| v.draft.send_env.clone()),
    ("SetEnv", |v| {
        let set = v.draft.set_env.iter().flatten();
        set.map(|(name, value)| format!("{name}={value}")).collect()
    }),
    ("ForwardAgent", |v| one(match v.draft.forward_agent.as_deref() {
        None | Some("no") => "no".to_owned(),
        Some("yes") => "yes".to_owned(),
        Some(word) => socket(word, v.options.forward_agent.as_deref()),
    })),
    ("ConnectTimeout", |v| match v.draft.connect_timeout.flatten() {
        Some(time) => seconds(time),
        None => one("none"),
    }),
    ("EscapeChar", |v| one(escape_character(v.options.escape))),
    ("RekeyLimit", |v| {
        let (bytes, time) = v.options.rekey;
        one(format!("{} {}", bytes.unwrap_or(0), time.unwrap_or_default().as_secs()))
    }),
    ("StreamLocalBindMask", |v| one(format!("0{:o}", v.options.bind_mask.unwrap_or(BIND_MASK)))),
    ("ProxyCommand", |v| some(match &v.draft.proxy {
        Some(Proxy::Command(line)) => Some(line),
        _ => None,
    })),
    ("ProxyJump", |v| some(v.options.via.as_ref().map(|_| jump_text(&v.said.jumps)))),
    ("Tag", |v| some(v.draft.tag.as_deref())),
    ("TidegateDriver", |v| one(match v.options.driver {
        DriverChoice::Auto => "auto",
        DriverChoice::Uring => "uring",
        DriverChoice::Mio => "mio",
    })),
];

fn one(value: impl ToString) -> Vec<String> {
    vec![value.to_string()]
}

fn some(value: Option<impl ToString>) -> Vec<String> {
    value.iter().map(ToString::to_string).collect()
}

fn flag(value: bool) -> Vec<String> {
    one(if value { "yes" } else { "no" })
}

fn seconds(time: Duration) -> Vec<String> {
    one(time.as_secs())
}

fn joined(words: &[String], by: &str) -> Vec<String> {
    if words.is_empty() { Vec::new() } else { one(words.join(by)) }
}

fn files(paths: &[std::path::PathBuf]) -> Vec<String> {
    let words: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    if words.is_empty() { one("none") } else { joined(&words, " ") }
}

/// As they were written; the usual ones below `~`.
fn identity_files(view: &View<'_>) -> Vec<String> {
    if view.options.explicit_identities {
        return view.draft.identity_files.clone();
    }
    let names = view.options.identity_files.iter().filter_map(|path| path.file_name());
    names.map(|name| format!("~/.ssh/{}", name.display())).collect()
}

/// Words that stand for something are shown as they are, and paths as they came to be.
fn socket(word: &str, path: Option<&Path>) -> String {
    match path {
        Some(path)
            if word != "SSH_AUTH_SOCK" && (word.starts_with("${") || !word.starts_with('$')) =>
        {
            path.display().to_string()
        }
        _ => word.to_owned(),
    }
}

fn forwards<'a>(list: impl Iterator<Item = &'a Forward>) -> Vec<String> {
    let line = |forward: &Forward| {
        let listen = match &forward.listen {
            Listen::Tcp { address: Some(address), port } => format!("[{address}]:{port}"),
            Listen::Tcp { address: None, port } => port.to_string(),
            Listen::Path(path) => path.clone(),
        };
        match &forward.to {
            Some(Target::Tcp { host, port }) => format!("{listen} [{host}]:{port}"),
            Some(Target::Path(path)) => format!("{listen} {}", String::from_utf8_lossy(path)),
            None => listen,
        }
    };
    list.map(line).collect()
}

/// As ssh shows those that lead nowhere yet.
fn remote_forwards(list: &[Forward]) -> Vec<String> {
    let ends = |forward: &Forward| if forward.to.is_none() { " [socks]:0" } else { "" };
    let lines = forwards(list.iter()).into_iter().zip(list);
    lines.map(|(line, forward)| line + ends(forward)).collect()
}

/// As vis(3) writes it.
fn escape_character(character: Option<u8>) -> String {
    match character {
        None => "none".to_owned(),
        Some(0x7f) => "\\^?".to_owned(),
        Some(control @ 0..0x20) => format!("\\^{}", (control | 0x40) as char),
        Some(character) => (character as char).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::keywords::{KEYWORDS, Status};
    use super::*;

    #[test]
    fn every_keyword_that_is_honoured_is_shown() {
        let shown: Vec<&str> = LINES.iter().map(|(name, _)| *name).collect();
        for keyword in KEYWORDS {
            let structure = matches!(keyword.name, "Match" | "Include");
            let counts = matches!(keyword.status, Status::Honoured(_) | Status::Structure);
            assert_eq!(shown.contains(&keyword.name), counts && !structure, "{}", keyword.name);
        }
    }

    #[test]
    fn escape_characters_are_written_as_they_are_typed() {
        for (character, expected) in
            [(None, "none"), (Some(b'~'), "~"), (Some(1), "\\^A"), (Some(0x1d), "\\^]")]
        {
            assert_eq!(escape_character(character), expected);
        }
    }
}
