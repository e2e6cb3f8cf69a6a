use std::ffi::{CStr, CString};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::services::{Account, Rules};

/// What an account's programs are found by, as Debian's login sets it.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/games";
const ROOT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const MAIL_DIRECTORY: &str = "/var/mail/";

/// What a session's environment is made of.
#[derive(Debug)]
pub struct EnvironmentSpec<'a> {
    pub account: &'a Account,
    pub client: SocketAddr,
    pub server: SocketAddr,
    /// The client's variables that AcceptEnv let through.
    pub accepted: &'a [(Box<str>, Box<[u8]>)],
    /// SetEnv.
    pub set: &'a [(String, String)],
    /// TZ and the key's own variables.
    pub rules: &'a Rules,
    /// The slave's path and the client's TERM.
    pub terminal: Option<(&'a CStr, &'a str)>,
    /// What the client asked for when something else is run in its place.
    pub original_command: Option<&'a CStr>,
    /// The socket of the client's agent.
    pub agent: Option<&'a Path>,
    /// The client's X server.
    pub display: Option<&'a str>,
}

/// A session's environment, but for the account's own file, which goes in the middle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    before: Vec<CString>,
    /// What PAM's modules say.
    session: Vec<CString>,
    behind: Vec<CString>,
}

impl Environment {
    /// One more fact of the session, which nobody can change.
    pub fn add(&mut self, name: &str, value: &[u8]) {
        let mut variables = Variables(std::mem::take(&mut self.behind));
        variables.set(name, value);
        self.behind = variables.0;
    }

    /// Complete `NAME=value` strings, with the variables that the account's own file sets.
    pub fn complete(&self, own: &[(String, Vec<u8>)]) -> Vec<CString> {
        let mut variables = Variables(self.before.clone());
        for (name, value) in own {
            variables.set(name, value);
        }
        for variable in self.session.iter().chain(&self.behind) {
            variables.put(variable.clone());
        }
        variables.0
    }
}

impl From<Vec<CString>> for Environment {
    fn from(variables: Vec<CString>) -> Environment {
        Environment { behind: variables, ..Environment::default() }
    }
}

/// The environment of a session's program; nothing of ours is inherited but TZ. In OpenSSH's
/// order, where what comes later wins: the client, the account, the key's options, the account's
/// own file, PAM, SetEnv, the facts of the session.
pub fn environment(spec: &EnvironmentSpec<'_>) -> Environment {
    let mut variables = Variables::default();
    for (name, value) in spec.accepted {
        variables.set(name, value);
    }
    let account = spec.account;
    let shell = account.shell.as_os_str().as_bytes();
    variables.set("USER", account.name.as_bytes());
    variables.set("LOGNAME", account.name.as_bytes());
    variables.set("HOME", account.home.as_os_str().as_bytes());
    variables.set("PATH", if account.uid == 0 { ROOT_PATH } else { PATH }.as_bytes());
    if !spec.rules.uses_pam {
        variables.set("MAIL", format!("{MAIL_DIRECTORY}{}", account.name).as_bytes());
    }
    variables.set("SHELL", if shell.is_empty() { b"/bin/sh" } else { shell });
    if let Some(time_zone) = &spec.rules.time_zone {
        variables.set("TZ", time_zone.as_bytes());
    }
    if let Some((_, term)) = spec.terminal
        && !term.is_empty()
    {
        variables.set("TERM", term.as_bytes());
    }
    for (name, value) in &spec.rules.variables {
        variables.set(name, value.as_bytes());
    }
    let session = spec.rules.session_variables.iter();
    let session = session.filter_map(|variable| CString::new(variable.clone()).ok()).collect();
    Environment { before: variables.0, session, behind: facts(spec).0 }
}

/// What neither the client nor the account can change.
fn facts(spec: &EnvironmentSpec<'_>) -> Variables {
    let mut variables = Variables::default();
    for (name, value) in spec.set {
        variables.set(name, value.as_bytes());
    }
    let (client, server) = (spec.client, spec.server);
    let (client_address, server_address) = (client.ip().to_canonical(), server.ip().to_canonical());
    let from = format!("{client_address} {}", client.port());
    variables.set("SSH_CLIENT", format!("{from} {}", server.port()).as_bytes());
    let connection = format!("{from} {server_address} {}", server.port());
    variables.set("SSH_CONNECTION", connection.as_bytes());
    if let Some((path, _)) = spec.terminal {
        variables.set("SSH_TTY", path.to_bytes());
    }
    if let Some(command) = spec.original_command {
        variables.set("SSH_ORIGINAL_COMMAND", command.to_bytes());
    }
    if let Some(display) = spec.display {
        variables.set("DISPLAY", display.as_bytes());
    }
    if let Some(agent) = spec.agent {
        variables.set("SSH_AUTH_SOCK", agent.as_os_str().as_bytes());
    }
    variables
}

/// A name that can stand before `=`, and a value that can stand behind it.
pub fn is_variable(name: &str, value: &[u8]) -> bool {
    let named = !name.is_empty() && !name.bytes().any(|byte| byte == b'=' || byte == 0);
    named && !value.contains(&0)
}

#[derive(Default)]
struct Variables(Vec<CString>);

impl Variables {
    /// Replaces an earlier value. What cannot be a variable is left out.
    fn set(&mut self, name: &str, value: &[u8]) {
        if !is_variable(name, value) {
            return;
        }
        if let Ok(variable) = CString::new([name.as_bytes(), b"=", value].concat()) {
            self.put(variable);
        }
    }

    fn put(&mut self, variable: CString) {
        let bytes = variable.as_bytes();
        let name = bytes.iter().position(|byte| *byte == b'=').unwrap_or(bytes.len());
        let prefix = bytes.get(..=name).unwrap_or(bytes);
        match self.0.iter_mut().find(|known| known.as_bytes().starts_with(prefix)) {
            Some(known) => *known = variable,
            None => self.0.push(variable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static NO_RULES: std::sync::LazyLock<Rules> = std::sync::LazyLock::new(Rules::default);

    fn account(uid: u32) -> Account {
        Account {
            name: "ada".to_owned(),
            uid,
            gid: 1000,
            home: "/home/ada".into(),
            shell: "/bin/zsh".into(),
        }
    }

    fn spec(account: &Account) -> EnvironmentSpec<'_> {
        EnvironmentSpec {
            account,
            client: "192.0.2.7:50022".parse().unwrap(),
            server: "[::ffff:192.0.2.1]:22".parse().unwrap(),
            accepted: &[],
            set: &[],
            rules: &NO_RULES,
            terminal: None,
            original_command: None,
            agent: None,
            display: None,
        }
    }

    fn texts(environment: Environment) -> Vec<String> {
        environment
            .complete(&[])
            .into_iter()
            .map(|variable| variable.into_string().unwrap())
            .collect()
    }

    #[test]
    fn names_the_account_and_the_connection() {
        assert_eq!(
            texts(environment(&spec(&account(1000)))),
            [
                "USER=ada",
                "LOGNAME=ada",
                "HOME=/home/ada",
                "PATH=/usr/local/bin:/usr/bin:/bin:/usr/games",
                "MAIL=/var/mail/ada",
                "SHELL=/bin/zsh",
                "SSH_CLIENT=192.0.2.7 50022 22",
                "SSH_CONNECTION=192.0.2.7 50022 192.0.2.1 22",
            ]
        );
        let root = texts(environment(&spec(&account(0))));
        assert!(root.contains(&format!("PATH={ROOT_PATH}")));
    }

    #[test]
    fn the_client_cannot_override_the_account_but_the_administrator_can() {
        let account = account(1000);
        let accepted: Vec<(Box<str>, Box<[u8]>)> = vec![
            ("PATH".into(), b"/evil".as_slice().into()),
            ("SSH_CONNECTION".into(), b"1.1.1.1".as_slice().into()),
            ("LANG".into(), b"C".as_slice().into()),
            ("USERX".into(), b"kept".as_slice().into()),
        ];
        let set = [("LANG".to_owned(), "de".to_owned()), ("MAIL".to_owned(), String::new())];
        let spec = EnvironmentSpec { accepted: &accepted, set: &set, ..spec(&account) };
        let texts = texts(environment(&spec));
        let count = |prefix: &str| texts.iter().filter(|text| text.starts_with(prefix)).count();
        assert_eq!(count("PATH="), 1);
        assert_eq!(count("USER"), 2);
        for expected in ["LANG=de", "MAIL=", "USERX=kept"] {
            assert!(texts.contains(&expected.to_owned()), "{expected}");
        }
        assert!(!texts.iter().any(|text| text.contains("evil") || text.contains("1.1.1.1")));
    }

    /// As with sshd: a module does, or nobody.
    #[test]
    fn pam_says_where_mail_lies() {
        let account = account(1000);
        for uses_pam in [false, true] {
            let rules = Rules { uses_pam, ..Rules::default() };
            let texts = texts(environment(&EnvironmentSpec { rules: &rules, ..spec(&account) }));
            assert_eq!(texts.iter().any(|text| text.starts_with("MAIL=")), !uses_pam);
        }
    }

    /// In sshd's order: the client, the account, the key, the account's file, PAM, SetEnv, the facts.
    #[test]
    fn what_comes_later_wins() {
        let account = account(1000);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let set = [pair("A", "set"), pair("LATE", "set")];
        let rules = Rules {
            variables: vec![pair("A", "key"), pair("B", "key"), pair("PATH", "key")],
            time_zone: Some("UTC".into()),
            session_variables: ["MAIL=pam", "A=pam", "SSH_CLIENT=pam", "P=\0"]
                .map(|text| text.as_bytes().to_vec())
                .to_vec(),
            ..Rules::default()
        };
        let spec = EnvironmentSpec { set: &set, rules: &rules, ..spec(&account) };
        let own = ["A", "B", "MAIL", "SSH_CLIENT"].map(|name| (name.to_owned(), b"file".to_vec()));
        let complete = environment(&spec).complete(&own);
        let texts: Vec<_> = complete.iter().map(|text| text.to_str().unwrap()).collect();
        for expected in ["TZ=UTC", "A=set", "B=file", "MAIL=pam", "PATH=key", "LATE=set"] {
            assert!(texts.contains(&expected), "{expected}: {texts:?}");
        }
        assert!(texts.contains(&"SSH_CLIENT=192.0.2.7 50022 22"));
        assert_eq!(texts.iter().filter(|text| text.starts_with("A=")).count(), 1);
    }

    #[test]
    fn terminal_and_forced_command_are_told() {
        let account = account(1000);
        let spec = EnvironmentSpec {
            terminal: Some((c"/dev/pts/9", "xterm")),
            original_command: Some(c"rm -rf x"),
            agent: Some(Path::new("/tmp/a")),
            ..spec(&account)
        };
        let texts = texts(environment(&spec));
        for expected in [
            "TERM=xterm",
            "SSH_TTY=/dev/pts/9",
            "SSH_ORIGINAL_COMMAND=rm -rf x",
            "SSH_AUTH_SOCK=/tmp/a",
        ] {
            assert!(texts.contains(&expected.to_owned()), "{expected}");
        }
    }

    #[test]
    fn case_89_impossible_variables_are_left_out() {
        let account = account(1000);
        let accepted: Vec<(Box<str>, Box<[u8]>)> = vec![
            ("".into(), b"x".as_slice().into()),
            ("A=B".into(), b"x".as_slice().into()),
            ("N\0".into(), b"x".as_slice().into()),
            ("V".into(), b"x\0y".as_slice().into()),
        ];
        let plain = environment(&spec(&account));
        let spec = EnvironmentSpec { accepted: &accepted, ..spec(&account) };
        assert_eq!(environment(&spec), plain);
    }
}
