//! What was read becomes options: defaults where nothing was said, tokens expanded.

use std::path::PathBuf;
use std::time::Duration;

use super::Request;
use super::draft::{Draft, Jump, Proxy, RequestTty, SessionType, at_home, is_any, jump_text};
use super::tokens::{Tokens, USUAL, expand_variables};
use crate::base::wildcard_match;
use crate::client::forwards::{Form, Forward};
use crate::client::x11::ForwardX11;
use crate::client::{Level, Options, UpdateHostKeys};
use crate::gateway::config::{Diagnostic, DriverChoice, Place, is_none};
use crate::services::forward::{Permit, Permits};

/// ssh_config(5): XAuthLocation and ForwardX11Timeout.
pub const XAUTH: &str = "/usr/bin/xauth";
pub const X11_TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// `None`: something is wrong, and stands in `errors`.
pub fn settle(
    draft: Draft,
    request: &Request,
    jumps: &[Jump],
    errors: &mut Vec<Diagnostic>,
) -> Option<Options> {
    let before = errors.len();
    let tokens = Tokens { jump: jump_text(jumps), ..Tokens::default() };
    let mut settling = Settling { request, errors, tokens };
    let options = settling.options(draft);
    (errors.len() == before).then_some(options)
}

struct Settling<'a> {
    request: &'a Request,
    errors: &'a mut Vec<Diagnostic>,
    tokens: Tokens,
}

impl Settling<'_> {
    fn options(&mut self, mut draft: Draft) -> Options {
        let request = self.request;
        let user = request.user.clone().or(draft.user.take());
        let user = user.unwrap_or_else(|| request.local_user.clone());
        let mut options = Options::new(&request.host, &user, request.home.as_deref());
        options.port = draft.port.unwrap_or(22);
        self.tokens = Tokens {
            alias: draft.host_key_alias.clone().unwrap_or_else(|| request.host.clone()),
            port: options.port,
            remote_user: user,
            jump: std::mem::take(&mut self.tokens.jump),
            ..Tokens::of(request)
        };
        if let Some(name) = &draft.host_name {
            options.host_name = self.text("HostName", name, "h");
        }
        // ssh compares names in lower case.
        options.host_name.make_ascii_lowercase();
        self.tokens.host.clone_from(&options.host_name);
        self.way(&draft, &mut options);
        self.host_keys(&mut draft, &mut options);
        self.identities(&draft, &mut options);
        self.protection(&mut draft, &mut options);
        self.session(&mut draft, &mut options);
        options
    }

    fn way(&mut self, draft: &Draft, options: &mut Options) {
        options.driver = draft.driver.unwrap_or(DriverChoice::Auto);
        (options.ipv4, options.ipv6) = draft.ipv4_ipv6.unwrap_or((true, true));
        options.connect_timeout = draft.connect_timeout.flatten().filter(|time| !time.is_zero());
        options.connection_attempts = draft.connection_attempts.unwrap_or(1);
        options.bind_address = draft.bind_address.clone();
        options.bind_interface = draft.bind_interface.clone();
        options.tcp_keepalive = draft.tcp_keepalive.unwrap_or(true);
        let interval = draft.alive_interval.filter(|interval| *interval > Duration::ZERO);
        options.server_alive = interval.map(|every| (every, draft.alive_count_max.unwrap_or(3)));
        if let Some(Proxy::Command(line)) = &draft.proxy {
            options.proxy_command = Some(self.text("ProxyCommand", line, "hnpr"));
        }
    }

    fn host_keys(&mut self, draft: &mut Draft, options: &mut Options) {
        // As in ssh: files that somebody chose change by themselves where he wants it.
        let usual =
            draft.user_known_hosts.as_ref().is_none_or(|files| *files == ["~/.ssh/known_hosts"]);
        let update = if usual { UpdateHostKeys::Yes } else { UpdateHostKeys::No };
        options.update_host_keys = draft.update_host_keys.unwrap_or(update);
        if let Some(files) = draft.user_known_hosts.take() {
            options.user_known_hosts = self.files("UserKnownHostsFile", &files);
        }
        if let Some(files) = draft.global_known_hosts.take() {
            options.global_known_hosts = self.files("GlobalKnownHostsFile", &files);
        }
        options.strict = draft.strict.unwrap_or(options.strict);
        options.hash_known_hosts = draft.hash_known_hosts.unwrap_or(false);
        options.no_localhost = draft.no_localhost.unwrap_or(false);
        options.host_key_alias = draft.host_key_alias.take();
    }

    fn identities(&mut self, draft: &Draft, options: &mut Options) {
        options.batch = draft.batch.unwrap_or(false);
        options.explicit_identities = !draft.identity_files.is_empty();
        if options.explicit_identities {
            options.identity_files = self.files("IdentityFile", &draft.identity_files);
        }
        options.certificate_files = self.files("CertificateFile", &draft.certificate_files);
        options.identities_only = draft.identities_only.unwrap_or(false);
        options.add_keys = draft.add_keys.flatten();
        match draft.identity_agent.as_deref() {
            None | Some("SSH_AUTH_SOCK") => {}
            Some(word) if is_none(word) => options.agent = None,
            Some(word) => options.agent = self.agent("IdentityAgent", word),
        }
        options.pubkey = draft.pubkey.unwrap_or(true);
        options.password = draft.password.unwrap_or(true);
        options.keyboard_interactive = draft.keyboard_interactive.unwrap_or(true);
        if let Some(preferred) = &draft.preferred {
            options.preferred.clone_from(preferred);
        }
        options.password_prompts = draft.password_prompts.unwrap_or(3);
    }

    fn protection(&mut self, draft: &mut Draft, options: &mut Options) {
        options.ciphers = draft.ciphers.take().unwrap_or_else(|| options.ciphers.clone());
        options.macs = draft.macs.take().unwrap_or_else(|| options.macs.clone());
        options.kex = draft.kex.take().unwrap_or_else(|| options.kex.clone());
        if let Some(algorithms) = draft.host_key_algorithms.take() {
            options.host_key_algorithms = algorithms;
            options.host_keys_chosen = draft.host_keys_chosen.unwrap_or(true);
        }
        if let Some(algorithms) = draft.ca_algorithms.take() {
            options.ca_algorithms = algorithms;
        }
        if let Some(algorithms) = draft.user_algorithms.take() {
            options.user_algorithms = algorithms;
        }
        options.compression = draft.compression.unwrap_or(false);
        options.rekey = draft.rekey.unwrap_or_default();
    }

    fn session(&mut self, draft: &mut Draft, options: &mut Options) {
        let remote = draft.remote_command.take().filter(|line| !is_none(line));
        options.command = match (self.request.command.clone(), remote) {
            (Some(_), Some(_)) => {
                self.wrong("RemoteCommand", "a command is given on the command line as well");
                None
            }
            (Some(command), None) => Some(command),
            (None, Some(line)) => Some(self.text("RemoteCommand", &line, USUAL).into_bytes()),
            (None, None) => None,
        };
        options.background = draft.background.unwrap_or(false);
        // As in ssh: what is in the background reads nothing.
        options.stdin_null = draft.stdin_null.unwrap_or(false) || options.background;
        options.session = draft.session.unwrap_or(SessionType::Default);
        options.request_tty = draft.request_tty.unwrap_or(RequestTty::Auto);
        options.escape = draft.escape.unwrap_or(Some(b'~'));
        options.variables = variables(draft);
        self.forwards(draft, options);
        if options.session == SessionType::Subsystem && options.command.is_none() {
            self.wrong("SessionType", "a subsystem has to be named, as the command");
        }
        options.level = draft.level.unwrap_or(Level::Info);
    }

    fn forwards(&mut self, draft: &mut Draft, options: &mut Options) {
        options.exit_on_forward_failure = draft.exit_on_forward_failure.unwrap_or(false);
        options.gateway_ports = draft.gateway_ports.unwrap_or(false);
        options.bind_mask = draft.bind_mask;
        options.bind_unlink = draft.bind_unlink.unwrap_or(false);
        options.remote_open = remote_open(draft.remote_open.as_deref());
        options.forward_agent = match draft.forward_agent.as_deref() {
            None | Some("no") => None,
            Some("yes") => options.agent.clone(),
            Some(word) => self.agent("ForwardAgent", word),
        };
        options.forward_x11 = self.forward_x11(draft);
        if let Some(word) = &self.request.stdio_forward {
            // As in ssh: nothing but that.
            options.exit_on_forward_failure = draft.exit_on_forward_failure.unwrap_or(true);
            (options.session, options.request_tty) = (SessionType::None, RequestTty::No);
            match Forward::parse(&["0".to_owned(), word.clone()], Form::Fixed) {
                Ok(forward) => options.stdio_forward = forward.to,
                Err(_) => self.wrong("-W", &format!("{word:?} is no host:port")),
            }
            return;
        }
        if draft.clear_forwards == Some(true) {
            return;
        }
        let forwards = std::mem::take(&mut draft.forwards);
        for words in forwards.local {
            options.local_forwards.extend(self.forward("LocalForward", &words, Form::Fixed));
        }
        for word in forwards.dynamic {
            options.local_forwards.extend(self.forward("DynamicForward", &[word], Form::Dynamic));
        }
        for words in forwards.remote {
            let form = if words.len() == 1 { Form::Either } else { Form::Fixed };
            options.remote_forwards.extend(self.forward("RemoteForward", &words, form));
        }
    }

    fn forward_x11(&mut self, draft: &Draft) -> Option<ForwardX11> {
        let xauth = draft.xauth.as_deref().unwrap_or(XAUTH);
        (draft.forward_x11 == Some(true)).then(|| ForwardX11 {
            trusted: draft.x11_trusted.unwrap_or(false),
            timeout: draft.x11_timeout.unwrap_or(X11_TIMEOUT),
            xauth: Some(xauth).filter(|word| !is_none(word)).map(PathBuf::from),
        })
    }

    fn forward(&mut self, keyword: &str, words: &[String], form: Form) -> Option<Forward> {
        // Tokens and variables are for paths alone, and a home is none of them.
        let expand = |word: &String| match word.contains('/') {
            true => self.expanded(keyword, word),
            false => word.clone(),
        };
        let words: Vec<String> = words.iter().map(expand).collect();
        match Forward::parse(&words, form) {
            Ok(forward) => Some(forward),
            Err(why) => {
                self.wrong(keyword, &why);
                None
            }
        }
    }

    // ---- Values ------------------------------------------------------------------------------

    fn text(&mut self, keyword: &str, text: &str, allowed: &str) -> String {
        match self.tokens.expand(text, allowed) {
            Ok(expanded) => expanded,
            Err(why) => {
                self.wrong(keyword, &why);
                String::new()
            }
        }
    }

    fn path(&mut self, keyword: &str, text: &str) -> PathBuf {
        let expanded = self.expanded(keyword, text);
        at_home(&expanded, self.request.home.as_ref())
    }

    /// With variables and tokens.
    fn expanded(&mut self, keyword: &str, text: &str) -> String {
        let variable = |name: &str| std::env::var(name).ok();
        match expand_variables(text, variable) {
            Ok(text) => self.text(keyword, &text, USUAL),
            Err(why) => {
                self.wrong(keyword, &why);
                String::new()
            }
        }
    }

    /// `none` stands for no file at all.
    fn files(&mut self, keyword: &str, list: &[String]) -> Vec<PathBuf> {
        let named = list.iter().filter(|word| !is_none(word));
        named.map(|word| self.path(keyword, word)).collect()
    }

    /// A socket: a path, or the variable that has it.
    fn agent(&mut self, keyword: &str, word: &str) -> Option<PathBuf> {
        match word.strip_prefix('$') {
            Some(name) if !name.starts_with('{') => {
                std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from)
            }
            _ => Some(self.path(keyword, word)),
        }
    }

    fn wrong(&mut self, keyword: &str, problem: &str) {
        self.errors.push(wrong(keyword, problem));
    }
}

/// About a value that came from somewhere in the files.
pub fn wrong(keyword: &str, problem: &str) -> Diagnostic {
    Diagnostic {
        place: Place { file: "configuration".into(), line: 0 },
        subject: keyword.to_owned(),
        problem: problem.to_owned(),
        legal: None,
        help: None,
    }
}

/// What PermitRemoteOpen lists; its items were read as such before.
fn remote_open(words: Option<&[String]>) -> Permits {
    match words {
        None => Permits::ANY,
        Some([word]) if is_any(word) => Permits::ANY,
        Some([word]) if is_none(word) => Permits::NONE,
        Some(words) => {
            Permits(Some(words.iter().filter_map(|word| Permit::parse(word).ok()).collect()))
        }
    }
}

/// SetEnv, and what of our own environment SendEnv names.
fn variables(draft: &mut Draft) -> Vec<(String, String)> {
    let mut list = draft.set_env.take().unwrap_or_default();
    let sent = |name: &str| {
        let matches = |pattern: &String| wildcard_match(pattern.as_bytes(), name.as_bytes());
        draft.send_env.iter().any(matches)
    };
    for (name, value) in std::env::vars_os() {
        let (Ok(name), Ok(value)) = (name.into_string(), value.into_string()) else { continue };
        if sent(&name) && !list.iter().any(|(known, _)| *known == name) {
            list.push((name, value));
        }
    }
    list
}
