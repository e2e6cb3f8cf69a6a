//! The configuration language, through the library's front door: files that are right, files that
//! are wrong with the exact words for each, and properties that hold for any text.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tidegate::crypto::{KeyKind, PrivateKey};
use tidegate::gateway::config::keywords::{self, ALIASES, Scope, Status, TABLE};
use tidegate::gateway::config::{
    Config, ConfigErrors, Disk, Effective, Endpoint, Request, RootLogin, Source, Surroundings, Who,
    parse,
};

#[path = "config/command_line.rs"]
mod command_line;
#[path = "config/differential.rs"]
mod differential;

/// Rewrites expected files instead of comparing with them.
const BLESS: &str = "TIDEGATE_BLESS";

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config")
}

fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let request = Request { file: Some(path.to_owned()), ..Request::default() };
    Config::load(&request, &Disk)
}

fn good(name: &str) -> Config {
    load(&directory().join("good").join(name)).unwrap_or_else(|errors| panic!("{errors}"))
}

fn files(of: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(directory().join(of))
        .expect("the directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "conf"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Compares with a file beside the test, or writes it when asked to.
fn expect_file(path: &Path, actual: &str) {
    if std::env::var_os(BLESS).is_some() {
        fs::write(path, actual).expect("write what is expected");
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(actual, expected, "{} (set {BLESS}=1 to accept)", path.display());
}

/// What is printed is accepted again and means the same.
fn assert_dump_reads_back(config: &Config, login: &Effective) {
    let text = config.dump(login);
    let again = parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    assert_eq!(again.global, config.global, "{text}");
    assert_eq!(&again.login, login, "{text}");
    // The text of a banner is in a file, and what is read here comes without files.
    // What is missing of PAM is told each time.
    let is_told = |subject: &str| ["Banner", "UsePAM yes"].contains(&subject);
    assert!(again.warnings.iter().all(|w| is_told(&w.subject)), "{:?}", again.warnings);
    assert_eq!(again.dump(&again.login), text);
}

fn groups(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn address(text: &str) -> Option<IpAddr> {
    Some(text.parse().expect("an address"))
}

#[test]
fn bad_files_are_refused_with_these_words() {
    let here = directory();
    for file in files("bad") {
        let errors = load(&file).expect_err(&format!("{} must be refused", file.display()));
        let text = format!("{errors}\n").replace(&format!("{}/", here.display()), "");
        expect_file(&file.with_extension("errors"), &text);
    }
}

#[test]
fn good_files_mean_this() {
    for file in files("good") {
        let config = load(&file).unwrap_or_else(|errors| panic!("{errors}"));
        expect_file(&file.with_extension("dump"), &config.dump(&config.login));
        assert_dump_reads_back(&config, &config.login);
    }
}

#[test]
fn match_blocks_override_the_rest_and_the_first_of_them_wins() {
    let config = good("stock.conf");
    let staff = groups(&["staff"]);
    let anna = Who { user: Some("anna"), groups: &staff, ..Who::default() };
    let login = config.effective(&anna);
    assert_eq!(login.force_command, None);
    assert!(login.permit_tty);
    // Lists of matching blocks add up and replace the list of the rest of the file.
    assert_eq!(login.accept_env, ["EDITOR"]);

    let backup = Who { user: Some("backup"), peer: address("198.51.100.8"), ..anna };
    let login = config.effective(&backup);
    let command = "/usr/bin/rrsync \"/srv/a b\" # a comment for the shell";
    assert_eq!(login.force_command.as_deref(), Some(command));
    assert!(!login.permit_tty);
    assert_eq!(login.accept_env, ["NOTHING", "EDITOR"]);
    assert_dump_reads_back(&config, &login);

    let elsewhere = Who { peer: address("198.51.100.7"), ..backup };
    assert_eq!(config.effective(&elsewhere).force_command, None);

    let only = groups(&["users", "sftponly"]);
    let both = Who { groups: &only, ..backup };
    assert_eq!(config.effective(&both).force_command.as_deref(), Some(command));
    let files = Who { user: Some("files"), ..both };
    assert_eq!(config.effective(&files).force_command.as_deref(), Some("internal-sftp"));
    assert_eq!(config.lacks(&Who { user: Some("x"), ..Who::default() }), Some("addr"));
}

#[test]
fn what_is_needed_before_the_login_may_depend_on_addresses_and_users() {
    let scratch = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = scratch.path().join(name);
        fs::write(&path, text).expect("write a file");
        path.display().to_string()
    };
    let inside = write("inside", "Hello, neighbour\n");
    let text = format!(
        "MaxAuthTries 3\nMaxSessions 5\nSubsystem sftp internal-sftp\nSubsystem x /bin/x\n\
         Match Address 10.0.0.0/8\nBanner {inside}\nMaxAuthTries 9\n\
         Match User ann\nMaxSessions 1\nRekeyLimit 1M\nClientAliveInterval 5\n\
         Subsystem x /bin/other\n"
    );
    let config = load(Path::new(&write("main", &text))).unwrap_or_else(|e| panic!("{e}"));
    let near = Who { peer: address("10.1.2.3"), ..Who::default() };
    let login = config.effective(&near);
    let banner = login.banner.as_ref().expect("a banner");
    assert_eq!((&*banner.text, login.max_auth_tries), ("Hello, neighbour\n", 9));
    let far = config.effective(&Who { peer: address("192.0.2.7"), ..Who::default() });
    assert_eq!((far.banner, far.max_auth_tries, far.max_sessions), (None, 3, 5));
    let ann = config.effective(&Who { user: Some("ann"), ..near });
    assert_eq!((ann.max_sessions, ann.rekey_bytes, ann.max_auth_tries), (1, Some(1 << 20), 9));
    assert_eq!(ann.client_alive_interval, Duration::from_secs(5));
    // Subsystems are overridden name by name.
    let commands: Vec<_> =
        ann.subsystems.iter().map(|s| (s.name.as_str(), s.command.as_str())).collect();
    assert_eq!(commands, [("x", "/bin/other"), ("sftp", "internal-sftp")]);
    assert_dump_reads_back(&config, &Effective { banner: None, ..ann });
}

#[test]
fn users_are_asked_about_where_something_before_the_login_depends_on_them() {
    for (text, asks, level) in [
        ("Banner none\nMaxAuthTries 3\nLogLevel DEBUG", false, None),
        ("Match Address 10.0.0.0/8\nMaxAuthTries 3", false, None),
        ("Match User ann\nPermitTTY no", false, None),
        ("Match User ann\nMaxAuthTries 3", true, None),
        ("Match Address 10.0.0.0/8 Group staff\nBanner /etc/issue", true, None),
        ("Match Address 10.0.0.0/8\nLogLevel DEBUG\nMatch all\nLogLevel INFO", true, Some("DEBUG")),
        ("RefuseConnection yes", true, None),
        ("Match Address 10.0.0.0/8\nRefuseConnection yes", true, None),
        ("Match Address 10.0.0.0/8\nRefuseConnection no", false, None),
        ("UseDNS yes", true, None),
    ] {
        let config = parse(text.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(config.asks_users(), asks, "{text}");
        assert_eq!(config.own_log_level().map(|level| level.name()), level, "{text}");
    }
    let text = "LogLevel ERROR\nMatch User ann\nLogLevel VERBOSE\nRefuseConnection yes";
    let config = parse(text.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    let login = config.effective(&Who { user: Some("ann"), ..Who::default() });
    assert_eq!((login.log_level.name(), login.refuse_connection), ("VERBOSE", true));
    assert_dump_reads_back(&config, &login);
    let login = config.effective(&Who { user: Some("bob"), ..Who::default() });
    assert_eq!((login.log_level.name(), login.refuse_connection), ("ERROR", false));
}

#[test]
fn an_include_inside_a_block_needs_the_block_and_ends_with_its_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        fs::write(directory.path().join(name), text).expect("write a file");
    };
    write("main", "Include early*\nMatch User anna\nInclude inner\nPermitTTY no\nForceCommand b\n");
    write("early2.conf", "Port 2\n");
    write("early1.conf", "Port 1\nMatch User zoe\nForceCommand z\n");
    write("inner", "SetEnv A=1\nMatch LocalPort 22\nForceCommand a\n");
    let config = load(&directory.path().join("main")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.global.ports, [1, 2]);
    let who = |user, port: u16| Who {
        user: Some(user),
        local: Some(([127, 0, 0, 1], port).into()),
        ..Who::default()
    };
    let login = config.effective(&who("anna", 22));
    assert_eq!(login.force_command.as_deref(), Some("a"), "the include comes first");
    assert!(!login.permit_tty, "the block goes on behind the include");
    assert_eq!(login.set_env, [("A".to_owned(), "1".to_owned())]);
    assert_eq!(config.effective(&who("anna", 23)).force_command.as_deref(), Some("b"));
    let bob = config.effective(&who("bob", 22));
    assert_eq!((bob.force_command, bob.permit_tty, bob.set_env), (None, true, vec![]));
    assert_eq!(config.effective(&who("zoe", 22)).force_command.as_deref(), Some("z"));
    assert_eq!(config.files.len(), 4);
}

/// A main file, and a directory that cannot be listed.
struct Closed(&'static [u8]);

impl Source for Closed {
    fn read(&self, _: &Path, _: u64) -> io::Result<Vec<u8>> {
        Ok(self.0.to_vec())
    }

    fn list(&self, _: &Path) -> io::Result<Vec<OsString>> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

#[test]
fn what_an_include_does_not_read_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let shown = |name: &str| at(name).display().to_string();
    fs::create_dir_all(at("some.d/inner")).expect("a folder");
    fs::write(at("some.d/a"), "Port 23\n").expect("a file");
    fs::write(at("main"), "# ours\nInclude some.d some.d/* none.d/* none\n").expect("a file");
    let config = load(&at("main")).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.global.ports, [23]);
    let told: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    let nothing = |name| {
        let (main, path) = (shown("main"), shown(name));
        let problem = format!("a directory, of which nothing is read; {path}/* are its files");
        format!("{main}:2: Include {path}: {problem}")
    };
    assert_eq!(told[..2], [nothing("some.d"), nothing("some.d/inner")]);
    assert!(told[2].contains(&format!("Include {}: cannot be read: No such file", shown("none"))));
    assert_eq!(told.len(), 3, "{told:?}");
    // What weakens the server when nobody reads it stops it.
    std::os::unix::fs::symlink(at("gone"), at("some.d/z")).expect("a link");
    let why = load(&at("main")).expect_err("a link to nothing").to_string();
    assert!(
        why.contains(&format!("main:2: Include {}: cannot be read", shown("some.d/z"))),
        "{why}"
    );
    let request = Request { file: Some("/main".into()), ..Request::default() };
    let why = Config::load(&request, &Closed(b"Include /closed.d/*\n")).expect_err("closed");
    assert!(why.to_string().contains("/main:1: Include /closed.d: cannot be read: "), "{why}");
}

#[test]
fn the_command_line_comes_first() {
    let request = Request {
        file: Some(directory().join("good/stock.conf")),
        options: vec!["StrictModes=no".into(), "PermitRootLogin no # not by key either".into()],
        ports: vec![4022, 4023],
        surroundings: Surroundings::default(),
    };
    let config = Config::load(&request, &Disk).unwrap_or_else(|e| panic!("{e}"));
    assert!(!config.global.strict_modes);
    assert_eq!(config.login.permit_root_login, RootLogin::No);
    assert_eq!(config.global.ports, [4022, 4023]);
    let listen: Vec<_> = config.global.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["0.0.0.0:4022", "0.0.0.0:4023", "[::]:2222"]);

    let request = Request { options: vec!["Match all".into(), "Prt=1".into()], ..request };
    let errors = Config::load(&request, &Disk).expect_err("both are wrong").to_string();
    let expected = "command line: Match: a block cannot be opened on the command line\n    \
                    help: write it into a file\n\
                    command line: Prt: there is no such keyword\n    help: did you mean Port?";
    assert_eq!(errors, expected);
}

#[test]
fn without_a_file_it_listens_on_loopback_and_serves_files() {
    let keys = vec![PathBuf::from("/state/ssh_host_ed25519_key")];
    let surroundings = Surroundings { host_keys: keys.clone(), ..Surroundings::default() };
    let request = Request { surroundings, ..Request::default() };
    let config = Config::load(&request, &Disk).unwrap_or_else(|e| panic!("{e}"));
    let sockets = config.global.sockets().expect("addresses");
    let address = "127.0.0.1:2222".parse().expect("an address");
    assert_eq!(sockets, [Endpoint { address, rdomain: None }]);
    assert_eq!(config.login.subsystems[0].name, "sftp");
    assert_eq!(config.global.host_keys, keys);
    assert_eq!(config.global.login_grace, Some(Duration::from_secs(120)));
    assert_dump_reads_back(&config, &config.login);
}

#[test]
fn host_names_are_looked_up_when_the_server_starts() {
    let config = parse(b"AddressFamily inet\nListenAddress localhost:4022").expect("a config");
    let sockets = config.global.sockets().expect("addresses");
    let addresses: Vec<_> = sockets.iter().map(|socket| socket.address).collect();
    assert_eq!(addresses, [([127, 0, 0, 1], 4022).into()]);
    let config = parse(b"ListenAddress host.invalid:1").expect("a config");
    let error = config.global.sockets().expect_err("no such host").to_string();
    assert!(error.starts_with("ListenAddress host.invalid: "), "{error}");
}

/// As sshd, we take what is no address for a pattern of names, whatever it has in it.
#[test]
fn lists_of_hosts_with_blanks_read_back() {
    let config = parse(b"PerSourcePenaltyExemptList \" \" #x").expect("a configuration");
    assert_dump_reads_back(&config, &config.login);
}

#[test]
fn what_changes_nothing_is_told() {
    let text = "Protocol 2\nLogVerbose kex.c:*\nUsePrivilegeSeparation sandbox\nCiphers +3des-cbc\n\
                Banner /nowhere/at/all\nMACs -hmac-sha2-265\n";
    let config = parse(text.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    let told: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    let expected = [
        "config:2: LogVerbose: it changes nothing: it names functions of OpenSSH's source",
        "config:3: UsePrivilegeSeparation: it changes nothing: it is obsolete, and sshd ignores it \
         too",
        "config:4: Ciphers: 3des-cbc is left out: CBC ciphers are not offered",
        "config:6: MACs: -hmac-sha2-265 removes nothing: no MAC is so called; did you mean \
         hmac-sha2-256?",
        "/nowhere/at/all: Banner: cannot be read: no files here; none is shown",
    ];
    assert_eq!(told, expected);
}

/// Every keyword of sshd_config(5) in Debian's openssh-server 1:10.0p1-7+deb13u4 (the items of its
/// list, with those that Debian adds), as it was read in November 2026.
const MANUAL: &str = "AcceptEnv AddressFamily AllowAgentForwarding AllowGroups AllowStreamLocalForwarding \
    AllowTcpForwarding AllowUsers AuthenticationMethods AuthorizedKeysCommand \
    AuthorizedKeysCommandUser AuthorizedKeysFile AuthorizedPrincipalsCommand \
    AuthorizedPrincipalsCommandUser AuthorizedPrincipalsFile Banner CASignatureAlgorithms \
    ChannelTimeout ChrootDirectory Ciphers ClientAliveCountMax ClientAliveInterval Compression \
    DebianBanner DenyGroups DenyUsers DisableForwarding ExposeAuthInfo FingerprintHash \
    ForceCommand GatewayPorts GSSAPIAuthentication GSSAPICleanupCredentials GSSAPIKexAlgorithms \
    GSSAPIKeyExchange GSSAPIStoreCredentialsOnRekey GSSAPIStrictAcceptorCheck \
    HostbasedAcceptedAlgorithms HostbasedAuthentication HostbasedUsesNameFromPacketOnly \
    HostCertificate HostKey HostKeyAgent HostKeyAlgorithms IgnoreRhosts IgnoreUserKnownHosts \
    Include IPQoS KbdInteractiveAuthentication KerberosAuthentication KerberosGetAFSToken \
    KerberosOrLocalPasswd KerberosTicketCleanup KexAlgorithms ListenAddress LoginGraceTime \
    LogLevel LogVerbose MACs Match MaxAuthTries MaxSessions MaxStartups ModuliFile \
    PAMServiceName PasswordAuthentication PermitEmptyPasswords PermitListen PermitOpen \
    PermitRootLogin PermitTTY PermitTunnel PermitUserEnvironment PermitUserRC \
    PerSourceMaxStartups PerSourceNetBlockSize PerSourcePenalties PerSourcePenaltyExemptList \
    PidFile Port PrintLastLog PrintMotd PubkeyAcceptedAlgorithms PubkeyAuthentication \
    PubkeyAuthOptions RefuseConnection RekeyLimit RequiredRSASize RevokedKeys \
    SecurityKeyProvider SetEnv SshdAuthPath SshdSessionPath StreamLocalBindMask \
    StreamLocalBindUnlink StrictModes Subsystem SyslogFacility TCPKeepAlive TrustedUserCAKeys \
    UnusedConnectionTimeout UseDNS UsePAM VersionAddendum X11DisplayOffset X11Forwarding \
    X11UseLocalhost XAuthLocation";

/// What sshd knows besides: on the systems that have it, or of earlier versions of Debian's.
const BESIDE_THE_MANUAL: &str = "GSSAPIDelegateCredentials RDomain";

/// Those of them that sshd lets a Match block set, as `SSHCFG_ALL` in its table, deprecated ones
/// included.
const IN_MATCH: &str = "AcceptEnv AllowAgentForwarding AllowGroups AllowStreamLocalForwarding \
    AllowTcpForwarding AllowUsers AuthenticationMethods AuthorizedKeysCommand \
    AuthorizedKeysCommandUser AuthorizedKeysFile AuthorizedKeysFile2 AuthorizedPrincipalsCommand \
    AuthorizedPrincipalsCommandUser AuthorizedPrincipalsFile Banner CASignatureAlgorithms \
    ChannelTimeout ChrootDirectory ClientAliveCountMax ClientAliveInterval DenyGroups DenyUsers \
    DisableForwarding ExposeAuthInfo ForceCommand GatewayPorts GSSAPIAuthentication \
    HostbasedAcceptedAlgorithms HostbasedAuthentication HostbasedUsesNameFromPacketOnly \
    IgnoreRhosts Include IPQoS KbdInteractiveAuthentication KerberosAuthentication LogLevel \
    LogVerbose Match MaxAuthTries MaxSessions PAMServiceName PasswordAuthentication \
    PermitEmptyPasswords PermitListen PermitOpen PermitRootLogin PermitTTY PermitTunnel PermitUserRC \
    PubkeyAcceptedAlgorithms PubkeyAuthentication PubkeyAuthOptions RDomain RefuseConnection \
    RekeyLimit RequiredRSASize RevokedKeys RhostsRSAAuthentication RSAAuthentication SetEnv \
    StreamLocalBindMask StreamLocalBindUnlink Subsystem TidegatePasswordFile TidegateRecord TidegateRecordDirectory \
    TidegateRecordOnFailure TidegateScp TidegateTotpFile TidegateUpstream TidegateUpstreamCA \
    TidegateUpstreamAgent TidegateUpstreamCommand TidegateUpstreamCommandUser \
    TidegateUpstreamHostKeyPolicy TidegateUpstreamIdentity TidegateUpstreamKnownHosts \
    TidegateUpstreamProxyProtocol TidegateUpstreamShare TidegateUpstreamTargets TidegateUpstreamUser TrustedUserCAKeys \
    UnusedConnectionTimeout X11DisplayOffset X11Forwarding X11UseLocalhost";

#[test]
fn keywords_may_stand_in_match_blocks_where_they_may_in_those_of_sshd() {
    let in_match = |name: &str| IN_MATCH.split_whitespace().any(|known| known == name);
    for keyword in TABLE {
        let expected = if in_match(keyword.name) { Scope::Match } else { Scope::Global };
        assert_eq!(keyword.scope, expected, "{}", keyword.name);
    }
}

#[test]
fn the_table_knows_every_keyword_once() {
    assert_eq!(MANUAL.split_whitespace().count(), 107);
    for name in MANUAL.split_whitespace().chain(BESIDE_THE_MANUAL.split_whitespace()) {
        assert!(keywords::find(name).is_some_and(|k| k.name == name), "{name}");
    }
    let mut names: Vec<_> = TABLE.iter().map(|k| k.name.to_ascii_lowercase()).collect();
    names.extend(ALIASES.iter().map(|(alias, _)| alias.to_ascii_lowercase()));
    names.sort_unstable();
    let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(twice.is_empty(), "{twice:?}");
    for (alias, name) in ALIASES {
        assert!(keywords::find(alias).is_some_and(|k| k.name == *name), "{alias}");
    }
}

#[test]
fn the_values_that_ask_for_what_happens_anyway_are_accepted() {
    for keyword in TABLE {
        let (values, silent) = match &keyword.status {
            Status::NotYet { accepted, .. } => (*accepted, true),
            Status::AcceptedWithWarning { silent: [], .. } => {
                (["anything at all"].as_slice(), false)
            }
            Status::AcceptedWithWarning { silent, .. } => (*silent, true),
            Status::Honoured { .. } | Status::Structure { .. } => continue,
        };
        for value in values {
            let line = format!("{} {value}", keyword.name);
            let config = parse(line.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(config.warnings.is_empty(), silent, "{line}");
        }
        if let Status::NotYet { offers, .. } = &keyword.status {
            for value in *offers {
                let config = parse(format!("{} {value}", keyword.name).as_bytes());
                let warnings = config.unwrap_or_else(|e| panic!("{e}")).warnings;
                let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
                let told = warning.to_string();
                let begin = format!("config:1: {} {value}: not in effect: ", keyword.name);
                assert!(told.starts_with(&begin), "{told}");
            }
        }
        let refused = parse(format!("{} frobnicate", keyword.name).as_bytes()).is_err();
        assert_eq!(refused, matches!(keyword.status, Status::NotYet { .. }), "{}", keyword.name);
    }
}

#[test]
fn the_manual_shows_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tidegate_config.5.md");
    let text = fs::read_to_string(&path).expect("the manual");
    let (begin, end) = ("<!-- keywords -->\n", "<!-- end of keywords -->");
    let (front, rest) = text.split_once(begin).expect("the mark before the table");
    let (_, back) = rest.split_once(end).expect("the mark behind the table");
    let table = keywords::markdown();
    expect_file(&path, &format!("{front}{begin}{table}{end}{back}"));
}

#[test]
fn the_three_lists_stand_in_the_documentation_and_hold_the_whole_manual() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let text = fs::read_to_string(&path).expect("the document");
    let (begin, end) = ("<!-- lists -->\n\n", "<!-- end of lists -->");
    let (front, rest) = text.split_once(begin).expect("the mark before the lists");
    let (lists, back) = rest.split_once(end).expect("the mark behind the lists");
    expect_file(&path, &format!("{front}{begin}{}{end}{back}", keywords::lists()));
    // Every keyword of the manual stands in one list, whatever made them.
    for name in MANUAL.split_whitespace().chain(BESIDE_THE_MANUAL.split_whitespace()) {
        let item = |line: &str| line.starts_with(&format!("- {name}:"));
        let option = |line: &str| line.starts_with(&format!("- {name} ("));
        let word = |line: &str| {
            !line.starts_with('-') && line.trim_end_matches('.').split(", ").any(|w| w == name)
        };
        let places = lists.lines().filter(|line| item(line) || option(line) || word(line)).count();
        assert_eq!(places, 1, "{name}");
    }
}

fn tidegate(args: &[&str]) -> (Option<i32>, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(args)
        .current_dir(directory())
        .output()
        .expect("the program runs");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_program_checks_and_dumps() {
    let scratch = tempfile::tempdir().expect("a directory");
    let key = scratch.path().join("key");
    let private = PrivateKey::generate(KeyKind::Ed25519).expect("a key");
    fs::write(&key, private.to_openssh("test").expect("a file").as_bytes()).expect("write it");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("permissions");
    let key = key.to_str().expect("UTF-8");

    assert_eq!(tidegate(&["serve", "-t", "-h", key]), (Some(0), String::new(), String::new()));
    let with_file = ["serve", "-T", "-h", key, "-f", "good/first_value_wins.conf"];
    let (code, dumped, told) = tidegate(&with_file);
    assert_eq!((code, told.as_str()), (Some(0), ""));
    let again = scratch.path().join("again.conf");
    fs::write(&again, &dumped).expect("write the dump");
    let again = again.to_str().expect("UTF-8");
    let (code, second, told) = tidegate(&["serve", "-Tf", again]);
    assert_eq!((code, told.as_str()), (Some(0), ""));
    // What was measured is measured again; it stands behind a comment sign.
    let [(first, dumped), (_, second)] =
        [&dumped, &second].map(|text| text.split_once('\n').expect("lines"));
    assert_eq!(dumped, second);
    assert!(first.starts_with("# ciphers: aes128-gcm "), "{first}");

    let block = scratch.path().join("block.conf");
    fs::write(&block, "Match User ann\nPermitTTY no\n").expect("write it");
    let block = block.to_str().expect("UTF-8");
    for (user, expected) in [("ann", "permittty no\n"), ("bob", "permittty yes\n")] {
        let spec = format!("user={user}");
        let (code, dumped, _) = tidegate(&["serve", "-T", "-h", key, "-f", block, "-C", &spec]);
        assert_eq!(code, Some(0));
        assert!(dumped.contains(expected), "{user}: {dumped}");
    }
    let (code, _, told) = tidegate(&["serve", "-T", "-h", key, "-f", block, "-C", "lport=22"]);
    assert_eq!(code, Some(1));
    assert_eq!(told, "tidegate: serve: a Match line asks for user; tell it with -C user=...\n");
}

#[test]
fn the_program_refuses_with_everything_that_is_wrong() {
    let (code, out, told) = tidegate(&["serve", "-p", "0", "-f", "bad/not_yet.conf"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    let expected = fs::read_to_string(directory().join("bad/not_yet.errors")).expect("the text");
    let count = expected.lines().filter(|line| line.starts_with("bad/")).count();
    let end = format!("tidegate: {count} errors in the configuration; nothing was started\n");
    assert_eq!(told, expected + &end);

    let (code, _, told) = tidegate(&["serve", "-f", "absent.conf"]);
    assert_eq!(code, Some(1));
    assert!(told.starts_with("absent.conf: cannot be read: No such file"), "{told}");
    for args in [["serve", "--prot"], ["srve", "-t"]] {
        let (code, _, told) = tidegate(&args);
        assert_eq!(code, Some(1));
        assert!(told.contains("did you mean"), "{told}");
    }
    assert_eq!(tidegate(&["serve", "--help"]).0, Some(0));
}

/// Lines that are mostly right, so that the parsers behind the lexer are reached.
fn lines() -> impl Strategy<Value = String> {
    let names = TABLE.iter().map(|k| k.name).collect::<Vec<_>>();
    let words = "yes|no|none|any|all|[0-9]{1,6}[smhdwKMG]?|[a-z!*?@%,.:/+^=-]{0,12}\
                 |\"[a-z \\\\]{0,8}\"|10\\.0\\.0\\.0/8|user|A=b|internal-sftp|aes256-ctr|#x|\\PC{0,4}";
    let line = (prop::sample::select(names), prop::collection::vec(words, 0..4));
    line.prop_map(|(name, words)| format!("{name} {}", words.join(" ")))
}

/// As with sshd, which calls it "AuthenticationMethods cannot be satisfied by enabled authentication methods".
#[test]
fn methods_that_nobody_can_get_through_are_refused() {
    let (keys, typed) =
        ("AuthenticationMethods publickey", "AuthenticationMethods publickey,password");
    let asked = "PasswordAuthentication yes\n";
    for (text, off) in [
        (format!("{typed}\n"), "password"),
        // Nothing says what a password is.
        (format!("{asked}{typed}\n"), "password"),
        (format!("{keys}\nPubkeyAuthentication no\n"), "publickey"),
        ("AuthenticationMethods keyboard-interactive:pam\n".to_owned(), "keyboard-interactive"),
        // Whatever a block says.
        (format!("{typed}\nTidegatePasswordFile /etc/x\nMatch User ann\n{asked}"), "password"),
    ] {
        let errors = parse(text.as_bytes()).expect_err(&text).to_string();
        let expected = format!("nobody can get in: {off} is not offered");
        assert!(errors.contains(&expected), "{text}: {errors}");
    }
    let pam = "UsePAM yes\nAuthenticationMethods publickey,keyboard-interactive:pam";
    let file = format!("TidegatePasswordFile /etc/x\n{asked}");
    for text in [keys, pam, &format!("{file}{typed}"), &format!("{typed} publickey")] {
        let config = parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{text}: {errors}"));
        assert_eq!(config.warnings.len(), 0, "{text}: {:?}", config.warnings);
        assert_dump_reads_back(&config, &config.login);
    }
}

/// Lines without errors.
fn good_lines() -> impl Strategy<Value = String> {
    prop_oneof![
        (1_u16..).prop_map(|port| format!("Port {port}")),
        "ListenAddress (127\\.0\\.0\\.1|\\[::1\\]|localhost)(:[1-9][0-9]{0,3})?( rdomain [a-z]{1,8}-[0-9])?",
        "AuthorizedKeysFile( [a-z/.]{1,8}| \"a b\"){1,3}",
        "AuthorizedPrincipalsFile (none|%h/[a-z/.]{1,8}|\"a b\")",
        "CASignatureAlgorithms [-+^]?(ssh-ed25519|rsa-sha2-256)(,ecdsa-\\*)?",
        "(TrustedUserCAKeys|RevokedKeys|HostCertificate|ChrootDirectory|Tidegate(Password|Totp)File) (none|/[a-z/.]{1,8})",
        "TidegateAccounts(User)? (none|/etc/x)",
        "(Allow|Deny)Users( [a-z*]{1,5}(@(10\\.0\\.0\\.0/8|!::1,\\*\\.example))?){1,3}",
        "(Allow|Deny)Groups( [a-z*?]{1,5}| \"with blank\"){1,3}",
        "AcceptEnv( [A-Z_*?]{1,6}){1,3}",
        "SetEnv( [A-Z]{1,3}=[a-z]{0,3}| \"B=x y\"| 'C=\"q\\\\\\\\'| D=#){1,4}",
        "ForceCommand = [=a-z/\"' #\\\\$]{0,12}[a-z]",
        "DenyGroups = =[a-z]{1,3}",
        "Subsystem [a-z]{1,3}( [a-z/-]{1,5}| \"a \\$b\"| 'it\"s'){1,3}",
        "(TidegateSoftwareVersion [A-Za-z][A-Za-z0-9_.+]{0,20}|VersionAddendum [!-~][ -~]{0,10}[!-~])",
        "RekeyLimit (default|1[KMG]|4096)( none| 1h| 90)?",
        "LoginGraceTime [0-9]{1,4}[smhd]?",
        "ClientAlive(Interval|CountMax) [0-9]{1,4}",
        "MaxStartups [1-9]:[1-9][0-9]?:[1-9][0-9]",
        "Ciphers [+^-]?(aes256-ctr|aes128-gcm@openssh\\.com)",
        "KexAlgorithms [+^-]?(curve25519-sha256|ecdh-sha2-nistp521)",
        "(PubkeyAccepted|HostKey)Algorithms [+^-]?(ssh-ed25519|rsa-sha2-\\*)",
        "(PasswordAuthentication|KbdInteractiveAuthentication|PermitEmptyPasswords|PermitUserRC|PrintLastLog|PrintMotd|ExposeAuthInfo) (yes|no)",
        "PubkeyAuthOptions (none|touch-required|verify-required|touch-required,verify-required)",
        "AuthenticationMethods (any|publickey|publickey,publickey publickey)",
        "(StrictModes|PermitTTY|TCPKeepAlive) (yes|no|YES)",
        "PermitRootLogin (yes|no|without-password|forced-commands-only)",
        "(Banner|PidFile|HostKey) (/[a-z]{1,4}|\"/a b/c\\\\\\\\d\"|'/q\"')",
        "LogLevel (QUIET|info|DEBUG1|DEBUG3)",
        "PerSourceMaxStartups (none|[0-9]{1,3})",
        "PerSourceNetBlockSize (24|0:0|32:64)",
        "PerSourcePenalties (no|yes|(crash|authfail|noauth|min):[0-9]{1,3}(\\.5|m|s)?( max-sources[46]:[0-9]{1,3}| overflow6?:deny-all){0,2})",
        "PerSourcePenaltyExemptList (none|10\\.0\\.0\\.0/8,!10\\.1\\.1\\.1|::1)",
        "ChannelTimeout (none|session:\\*=1h|x11-connection=0 \"a b=5\")",
        "UnusedConnectionTimeout (none|5m|0)",
        "SyslogFacility (AUTHPRIV|daemon|local7)",
        "PermitUserEnvironment (yes|no|LC_\\*,!LC_[A-Z]{2})",
        "IPQoS (none|af21|cs1|ef|0x[0-9a-f]{2}|12) (none|le|7)",
        "Tidegate(CipherSteering|UpstreamAgent) (yes|no)",
        "TidegateWindow(Max (16K|20000|15M|128M)|Budget (0|1G|300M))",
        "Tidegate(Reactors (auto|3)|Driver (auto|uring|MIO)|LogFormat (text|json))",
        "(MaxSessions|MaxAuthTries) [1-9]",
        "AddressFamily any",
        "MACs [+^-]?(hmac-sha2-256|hmac-sha1-etm@openssh\\.com)",
        "Compression (yes|no|delayed)",
        "ModuliFile (/[a-z]{1,4}|\"/a b\")",
        // Without keys nobody gets through the methods above, which is an error.
        "(RequiredRSASize (2048|3072|8192)|PubkeyAuthentication (yes|YES))",
        "(UseDNS|UsePAM|RefuseConnection|DisableForwarding|AllowAgentForwarding) (yes|no)",
        "PAMServiceName [a-z]{1,4}",
        "Tidegate(Scp (internal|external)|AuditLog (none|syslog|Journald|/[a-z]{1,4}|\"/a b\")|UpstreamHostKeyPolicy (strict|accept-new))",
        "X11(DisplayOffset [1-9]?[0-9]{1,2}|(Forwarding|UseLocalhost) (yes|no))",
        "XAuthLocation (none|/[a-z]{1,4})",
        "TidegateProxyProtocol (none|10\\.0\\.0\\.0/8,!10\\.1\\.1\\.1,::1( required| optional)?)",
        "Tidegate(ProxyProtocolTimeout [1-9]|DrainTime (none|0|5m|[1-9][0-9])|Control (none|Auto|/[a-z]{1,4}|\"/a b\"))",
        "TidegateUpstream (none|[a-z]{1,6}(:[1-9][0-9]{0,3})?( \\[::1\\]:22)?)",
        "TidegateUpstreamTargets (none|\\*\\.[a-z]{1,6}(:\\*)?( \"a b\")?)",
        "Tidegate(UpstreamUser (none|deploy|%u-%%|%%)|AuditOnFailure (refuse|continue)|Record( (no|shells|sessions)|Directory /[a-z/]{1,4}|OnFailure (refuse|continue)))",
        "(Authorized(Keys|Principals)|TidegateUpstream)CommandUser (ann|%u)",
        "AuthorizedKeysCommand (none|/[a-z]{1,4}( %f \"a b\" %%)?)\nAuthorizedKeysCommandUser (%u|ann)",
        "AuthorizedPrincipalsCommand (none|/[a-z]{1,4}( %i)?)\nAuthorizedPrincipalsCommandUser (%u|ann)",
        "TidegateUpstreamCommand (none|/[a-z]{1,4}( %u \"a b\" %%)?)",
        "Tidegate((EdgeUser|RelayUser|SignerUser) auto|Isolation (auto|none)|UpstreamProxyProtocol (none|v1|v2)|UpstreamShare (yes|no|0|30|5m))",
        "TidegateUpstream((CA|Identity) (none|/[a-z]{1,4})|KnownHosts /[a-z]{1,4})",
        "Allow(Tcp|StreamLocal)Forwarding (yes|no|all|local|remote)",
        "PermitListen (any|none|([a-z*.]{1,6}:)?([1-9][0-9]{0,3}|\\*)( localhost:22)?)",
        "GatewayPorts (yes|no|clientspecified)",
        "(StreamLocalBind(Mask 0[0-7]{3}|Unlink (yes|no))|HostKeyAgent (none|SSH_AUTH_SOCK|/[a-z]{1,4}))",
        "PermitOpen (any|none|[a-z*.]{1,6}:([1-9][0-9]{0,3}|\\*)( \\[::1\\]:22)?)",
    ]
}

#[test]
fn every_keyword_that_is_honoured_is_among_the_random_lines() {
    let mut runner = TestRunner::deterministic();
    let line = |_| good_lines().new_tree(&mut runner).expect("a line").current();
    let lines: Vec<String> = (0..10_000).map(line).collect();
    let word = |line: &String| line.split([' ', '=']).next().unwrap_or_default().to_owned();
    let drawn: std::collections::BTreeSet<_> = lines.iter().map(word).collect();
    for keyword in TABLE.iter().filter(|k| matches!(k.status, Status::Honoured { .. })) {
        assert!(drawn.contains(keyword.name), "{} is never drawn", keyword.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,80}|[ -~\n\t\"'\\\\=#]{0,200}") {
        let _ = parse(text.as_bytes());
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn no_lines_make_the_parser_panic(lines in prop::collection::vec(lines(), 0..12)) {
        if let Ok(config) = parse(lines.join("\n").as_bytes()) {
            let who = Who { user: Some("user"), peer: address("10.1.2.3"), ..Who::default() };
            assert_dump_reads_back(&config, &config.login);
            assert_dump_reads_back(&config, &config.effective(&who));
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_holds_for_a_login_reads_back(
        lines in prop::collection::vec(good_lines(), 0..8),
        own in prop::collection::vec(good_lines(), 1..24),
    ) {
        let may_stand = |line: &&String| {
            let name = line.split([' ', '=']).next().unwrap_or_default();
            keywords::find(name).is_some_and(|keyword| keyword.scope == Scope::Match)
        };
        let own = own.iter().filter(may_stand).map(String::as_str).collect::<Vec<_>>().join("\n");
        let text = format!("{}\nMatch User ann\n{own}", lines.join("\n"));
        let config = parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        let who = Who { user: Some("ann"), ..Who::default() };
        assert_dump_reads_back(&config, &config.effective(&who));
    }

    #[test]
    fn what_is_dumped_reads_back(lines in prop::collection::vec(good_lines(), 0..24)) {
        let text = lines.join("\n");
        let config = parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        assert_dump_reads_back(&config, &config.login);
    }
}
