//! What was read becomes options: defaults where nothing was said, tokens expanded.

use std::path::PathBuf;
use std::time::Duration;

use super::Request;
use super::draft::{Draft, Proxy, RequestTty, SessionType, at_home};
use super::tokens::{Tokens, expand_variables};
use crate::client::{Level, Options};
use crate::gateway::config::{Diagnostic, DriverChoice, Place, is_none};

/// Tokens that stand in most values.
const USUAL: &str = "dhijkLlnpru";

/// `None`: something is wrong, and stands in `errors`.
pub fn settle(draft: Draft, request: &Request, errors: &mut Vec<Diagnostic>) -> Option<Options> {
    let before = errors.len();
    let mut settling = Settling { request, errors, tokens: Tokens::default() };
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
            original: request.host.clone(),
            host: request.host.clone(),
            alias: draft.host_key_alias.clone().unwrap_or_else(|| request.host.clone()),
            port: options.port,
            remote_user: user,
            local_user: request.local_user.clone(),
            home: request.home.as_ref().map_or(String::new(), |home| home.display().to_string()),
            local_host: local_host(),
            uid: nix::unistd::getuid().as_raw(),
            jump: jump_text(draft.proxy.as_ref()),
        };
        if let Some(name) = &draft.host_name {
            options.host_name = self.text("HostName", name, "h");
        }
        // ssh compares names in lower case.
        options.host_name.make_ascii_lowercase();
        self.tokens.host.clone_from(&options.host_name);
        self.refuse_what_is_not_built(&draft);
        self.way(&draft, &mut options);
        self.host_keys(&mut draft, &mut options);
        self.identities(&draft, &mut options);
        self.protection(&mut draft, &mut options);
        self.session(&mut draft, &mut options);
        options
    }

    /// Nothing that was asked for is left out without a word.
    fn refuse_what_is_not_built(&mut self, draft: &Draft) {
        let yes = |flag: Option<bool>| flag == Some(true);
        let forwards = &draft.forwards;
        let agent = draft.forward_agent.as_deref().is_some_and(|word| word != "no");
        let asks_terminal = [Some(RequestTty::Yes), Some(RequestTty::Force)];
        let odd_session = [Some(SessionType::None), Some(SessionType::Subsystem)];
        for (keyword, asked) in [
            ("BindAddress", draft.bind_address.is_some()),
            ("CertificateFile", !draft.certificate_files.is_empty()),
            ("Compression", yes(draft.compression)),
            ("DynamicForward", !forwards.dynamic.is_empty()),
            ("ForkAfterAuthentication", yes(draft.fork_after)),
            ("ForwardAgent", agent),
            ("ForwardX11", yes(draft.forward_x11)),
            ("LocalForward", !forwards.local.is_empty()),
            ("ProxyCommand", matches!(draft.proxy, Some(Proxy::Command(_)))),
            ("ProxyJump", matches!(draft.proxy, Some(Proxy::Jump(_)))),
            ("RekeyLimit", draft.rekey.is_some()),
            ("RemoteForward", !forwards.remote.is_empty()),
            ("RequestTTY", asks_terminal.contains(&draft.request_tty)),
            ("SessionType", odd_session.contains(&draft.session)),
            ("SetEnv", draft.set_env.is_some()),
        ] {
            if asked {
                self.wrong(keyword, "this is not built yet");
            }
        }
    }

    fn way(&mut self, draft: &Draft, options: &mut Options) {
        options.driver = draft.driver.unwrap_or(DriverChoice::Auto);
        (options.ipv4, options.ipv6) = draft.ipv4_ipv6.unwrap_or((true, true));
        options.connect_timeout = draft.connect_timeout.flatten();
        options.connection_attempts = draft.connection_attempts.unwrap_or(1);
        options.tcp_keepalive = draft.tcp_keepalive.unwrap_or(true);
        let interval = draft.alive_interval.filter(|interval| *interval > Duration::ZERO);
        options.server_alive = interval.map(|every| (every, draft.alive_count_max.unwrap_or(3)));
    }

    fn host_keys(&mut self, draft: &mut Draft, options: &mut Options) {
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
        options.identities_only = draft.identities_only.unwrap_or(false);
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
            (options.host_key_algorithms, options.host_keys_chosen) = (algorithms, true);
        }
        if let Some(algorithms) = draft.user_algorithms.take() {
            options.user_algorithms = algorithms;
        }
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
        options.stdin_null = draft.stdin_null.unwrap_or(false);
        options.level = draft.level.unwrap_or(Level::Info);
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
        let variable = |name: &str| std::env::var(name).ok();
        let expanded = match expand_variables(text, variable) {
            Ok(text) => self.text(keyword, &text, USUAL),
            Err(why) => {
                self.wrong(keyword, &why);
                String::new()
            }
        };
        at_home(&expanded, self.request.home.as_ref())
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
        self.errors.push(Diagnostic {
            place: Place { file: "configuration".into(), line: 0 },
            subject: keyword.to_owned(),
            problem: problem.to_owned(),
            legal: None,
            help: None,
        });
    }
}

fn local_host() -> String {
    nix::unistd::gethostname().map_or(String::new(), |name| name.to_string_lossy().into_owned())
}

fn jump_text(proxy: Option<&Proxy>) -> String {
    let Some(Proxy::Jump(hosts)) = proxy else { return String::new() };
    let one = |jump: &super::Jump| {
        let user = jump.user.as_ref().map_or(String::new(), |user| format!("{user}@"));
        let port = jump.port.map_or(String::new(), |port| format!(":{port}"));
        format!("{user}{}{port}", jump.host)
    };
    hosts.iter().map(one).collect::<Vec<_>>().join(",")
}
