//! `tidegate ssh -G` beside `ssh -G`: the same configurations mean the same.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::server::text;

/// Keywords of ours that OpenSSH does not have, or not yet.
const OURS_ALONE: [&str; 2] = ["tag", "tidegatedriver"];
/// Lists in which each has its own algorithms.
const LISTS: [&str; 6] = [
    "ciphers",
    "macs",
    "kexalgorithms",
    "hostkeyalgorithms",
    "casignaturealgorithms",
    "pubkeyacceptedalgorithms",
];

/// Every value of a keyword, in order.
type Lines = BTreeMap<String, Vec<String>>;

struct Desk(TempDir);

impl Desk {
    fn new() -> Desk {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("port.inc"), "Port 61\n").expect("a file");
        fs::write(folder.path().join("host.inc"), "Host h\n User inc\n").expect("a file");
        Desk(folder)
    }

    /// What a program says of this file and these words; `DIR` stands for the folder.
    fn ask(&self, mut command: Command, config: &str, words: &[&str]) -> Output {
        let at = self.0.path().display().to_string();
        let file = self.0.path().join("config");
        fs::write(&file, config.replace("DIR", &at)).expect("a file");
        command.arg("-F").arg(&file).arg("-G").args(words).current_dir(self.0.path());
        command.env("TIDEGATE_TEST_WORD", "word").env_remove("SSH_AUTH_SOCK");
        command.stdin(Stdio::null()).output().expect("it runs")
    }

    fn theirs(&self, config: &str, words: &[&str]) -> Output {
        self.ask(Command::new("ssh"), config, words)
    }

    fn ours(&self, config: &str, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("ssh");
        self.ask(command, config, words)
    }

    /// Both, which have to agree that it is right.
    fn both(&self, config: &str, words: &[&str]) -> (Lines, Lines) {
        let (theirs, ours) = (self.theirs(config, words), self.ours(config, words));
        for (whose, output) in [("ssh", &theirs), ("we", &ours)] {
            let said = text(&output.stderr);
            assert!(output.status.success(), "{whose}: {config:?} {words:?}: {said}");
        }
        (lines(&theirs.stdout), lines(&ours.stdout))
    }

    /// What is not the same line of a keyword that we honour.
    fn differences(&self, config: &str, words: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        let (mut theirs, ours) = self.both(config, words);
        for (keyword, values) in ours {
            let other = theirs.remove(&keyword).unwrap_or_default();
            let usual = match keyword.as_str() {
                // docs/client.md lists what differs.
                "identityfile" => values.iter().all(|value| value.starts_with("~/.ssh/id_")),
                "forwardx11trusted" => !config.contains("ForwardX11Trusted"),
                word => OURS_ALONE.contains(&word) || LISTS.contains(&word),
            };
            if !usual && values != other {
                found.push(format!("{config:?} {words:?}: {keyword} {values:?}, ssh {other:?}"));
            }
        }
        let honoured = |keyword: &&String| HONOURED_IF_SAID.contains(&keyword.as_str());
        let missing = theirs.keys().filter(honoured);
        found.extend(missing.map(|keyword| format!("{config:?} {words:?}: no {keyword}")));
        found
    }

    fn refused_by_both(&self, config: &str, words: &[&str]) {
        for output in [self.theirs(config, words), self.ours(config, words)] {
            assert_eq!(output.status.code(), Some(255), "{config:?} {words:?}: {output:?}");
        }
    }
}

/// Keywords that are shown where something is said of them.
const HONOURED_IF_SAID: [&str; 16] = [
    "bindaddress",
    "bindinterface",
    "certificatefile",
    "dynamicforward",
    "hostkeyalias",
    "identityagent",
    "ignoreunknown",
    "localforward",
    "preferredauthentications",
    "proxycommand",
    "proxyjump",
    "remotecommand",
    "remoteforward",
    "sendenv",
    "setenv",
    "identityfile",
];

fn lines(bytes: &[u8]) -> Lines {
    let mut lines = Lines::new();
    for line in text(bytes).lines() {
        let (keyword, value) = line.split_once(' ').unwrap_or((line, ""));
        lines.entry(keyword.to_owned()).or_default().push(value.to_owned());
    }
    lines
}

/// Each with the words behind `-G`, the host among them.
#[rustfmt::skip]
const SAME: &[(&str, &[&str])] = &[
    ("", &["h"]),
    // ---- Flags ----
    ("", &["u@H.Example", "-4AC", "-p", "9"]),
    ("", &["-6", "ssh://u@h:33", "-g", "-l", "w", "-n", "-q"]),
    ("", &["-N", "h", "-p", "http"]),
    ("", &["-v", "h"]),
    ("", &["-vv", "-T", "h"]),
    ("", &["-vvv", "-tt", "h"]),
    ("", &["-t", "-X", "-x", "h"]),
    ("", &["-x", "-X", "-A", "-a", "-T", "-t", "-4", "-6", "-v", "-q", "h", "-o", "ForwardX11 no"]),
    ("", &["-o", "ForwardAgent no", "-o", "LogLevel info", "-A", "-tT", "-v", "-l", "a", "-l", "b", "-b", "x", "-b", "y", "h"]),
    ("", &["-Y", "-a", "-e", "none", "h"]),
    ("", &["-f", "-e", "^]", "h", "true"]),
    ("", &["-s", "h", "sftp"]),
    ("AddKeysToAgent yes\n", &["h"]),
    ("AddKeysToAgent no\nAddKeysToAgent ask\n", &["h"]),
    ("AddKeysToAgent confirm\n", &["h"]),
    ("AddKeysToAgent confirm 1m\n", &["-S", "none", "h"]),
    ("AddKeysToAgent 1h\n", &["h"]),
    ("LocalForward 5 h:6\n", &["-W", "a:3", "h"]),
    ("", &["-J", "u@x:22,[::1]:3,ssh://y:http", "h"]),
    ("", &["-i", "none", "-b", "127.0.0.1", "-B", "lo", "-k", "h"]),
    ("", &["-L", "1:h:2", "-L", "[::1]:5:[::2]:6", "-L", "*:6:h:7", "-L", ":5:h:http", "h"]),
    ("", &["-L", "s/t:h:5", "h"]),
    ("", &["-D", "5", "-D", "[::1]:4", "-D", ":3", "h"]),
    ("", &["-R", "6", "-R", "[::1]:4", "-R", "*:3", "-R", "/a/b", "-R", "0", "h"]),
    ("RemoteForward 6\nRemoteForward a:5\nPermitRemoteOpen a:1 [::1]:2 *:* h:*\nPermitRemoteOpen none\n", &["h"]),
    ("PermitRemoteOpen none\n", &["h"]),
    ("PermitRemoteOpen any\n", &["h"]),
    ("", &["-R", "*:6:h:7", "-R", ":6:h:8", "-R", "h:0:j:4", "-R", "/r:/l", "h"]),
    ("Port 1\nUser a\n", &["-o", "Port=2", "-o", "port 3", "-o", "User = b", "h", "-p", "4"]),
    // ---- Lines ----
    ("Port=22\nUser = x\n\"Compression\" \"yes\" # so it is\nPort 3\n\tIdentityFile \"a b\"\n", &["h"]),
    ("BatchMode true\nServerAliveInterval 1m30s\nTunnel false\nCompression YES\n", &["h"]),
    ("Protocol 2\nUsePrivilegedPort no\nCipher 3des\nRhostsRSAAuthentication no\nUseRoaming no\n", &["h"]),
    ("IgnoreUnknown f*,G*\nfoo bar\nGxx y\nChallengeResponseAuthentication no\n", &["h"]),
    // ---- Blocks ----
    ("Host a b !c\n Port 5\nHost !c *\n Port 6\nHost !x\n Port 7\n", &["c"]),
    ("Host a b !c\n Port 5\nHost !c *\n Port 6\n", &["d"]),
    ("Host ABC\n Port 4\nMatch host ABC\n User m\nMatch originalhost aBc\n Compression yes\n", &["ABC"]),
    ("Host abc\n Port 4\nMatch originalhost abc\n User o\n", &["ABC"]),
    ("Match user root,bob\n Port 1\nMatch user !bob,*\n Port 2\n", &["bob@h"]),
    ("User bob\nMatch user bob\n Port 1\nMatch localuser root,nobody\n Compression yes\n", &["h"]),
    ("Match exec \"test %h = h\"\n Port 1\nMatch !exec false\n User x\nMatch exec false\n Compression yes\n", &["h"]),
    ("Match host=h user root,u\n Port 1\nMatch !host h\n User x\nMatch all\n Compression yes\n", &["u@h"]),
    ("HostName real\nMatch host real\n User x\nMatch host h\n Port 1\nMatch originalhost h\n Compression yes\n", &["h"]),
    ("Match canonical\n Port 1\n", &["h"]),
    ("Match canonical\n Port 1\nMatch final\n Compression yes\n", &["h"]),
    ("Match final all\n Port 3\n", &["h"]),
    ("Host h\n HostName real\n LocalForward 5 h:6\n SendEnv A\n CertificateFile x\nMatch final\nHost real\n Port 7\nHost h\n User u\n", &["h"]),
    ("LocalForward 5 h:6\nRemoteForward 5 h:6\nDynamicForward 7\nIdentityFile x\nCertificateFile y\nMatch final host H\n Port 7\n", &["H"]),
    ("Include DIR/*.inc /nowhere\nPort 5\nHost z\n Include DIR/port.inc\n", &["h"]),
    ("Host z\nInclude DIR/*.inc\nHost *\nPort 5\n", &["h"]),
    // ---- Names, tokens, homes ----
    ("HostName %h.x%%y\nHostKeyAlias a-%h\nUser $USER\nBindAddress b-%h\n", &["h"]),
    ("IdentityFile ~/a\nIdentityFile %d/b\nIdentityFile ${HOME}/c\nIdentityFile ~/a\nCertificateFile ~/d-%h\n", &["h"]),
    ("IdentityFile none\nCertificateFile none\nUserKnownHostsFile none\nGlobalKnownHostsFile none\n", &["h"]),
    ("UserKnownHostsFile ~root/x ${TIDEGATE_TEST_WORD}/y %d/z-%h-%p-%r\nGlobalKnownHostsFile /g /h\nUserKnownHostsFile w\n", &["-p", "5", "h"]),
    ("IdentityAgent %d/a-%n\nRemoteCommand echo \"%h %r\" # all of it\n", &["h"]),
    ("IdentityAgent ${TIDEGATE_TEST_WORD}\nForwardAgent DIR\n", &["h"]),
    ("IdentityAgent SSH_AUTH_SOCK\nForwardAgent true\n", &["h"]),
    ("IdentityAgent none\nForwardAgent no\n", &["h"]),
    ("LocalForward ${TIDEGATE_TEST_WORD}/s b:6\nRemoteForward /%h /l-%u\nLocalForward ssh b:http\n", &["h"]),
    ("GatewayPorts yes\nLocalForward 8080 web:80\nLocalForward 127.0.0.1:81 [::1]:81\nRemoteForward 0 web:92\nDynamicForward a:5\n", &["h"]),
    ("ClearAllForwardings yes\nLocalForward 5 h:6\n", &["h"]),
    ("SendEnv LANG LC_*\nSendEnv -LANG X\nSetEnv A=b \"C=d e\" A=f\nSetEnv X=y\n", &["h"]),
    // ---- The way there ----
    ("ProxyJump a\nProxyCommand b\n", &["h"]),
    ("ProxyCommand nc %h '%p'\nProxyJump a\n", &["h"]),
    ("ProxyJump none\nProxyJump a\n", &["h"]),
    ("ProxyJump none\nProxyCommand a\n", &["h"]),
    ("ProxyCommand none\nProxyJump a\n", &["h"]),
    // ---- Values ----
    ("ConnectTimeout 0\nServerAliveInterval 2m\nServerAliveCountMax 9\nConnectionAttempts 12\n", &["h"]),
    ("ConnectTimeout 1h\nNumberOfPasswordPrompts 0\nAddressFamily inet6\n", &["h"]),
    ("RekeyLimit 1.5G 1h\nEscapeChar ^a\nStreamLocalBindMask 7\nStreamLocalBindUnlink yes\n", &["h"]),
    ("RekeyLimit default none\nEscapeChar x\nStreamLocalBindMask 0\nForwardX11Timeout 1w\n", &["h"]),
    ("StrictHostKeyChecking off\nUpdateHostKeys no\nRequestTTY yes\nSessionType none\nLogLevel verbose\n", &["h"]),
    ("StrictHostKeyChecking TRUE\nUpdateHostKeys ask\nRequestTTY auto\nLogLevel debug1\nPubkeyAuthentication no\n", &["h"]),
    ("StrictHostKeyChecking accept-new\nUserKnownHostsFile ~/.ssh/known_hosts\nLogLevel quiet\n", &["h"]),
    ("PreferredAuthentications password,publickey\nPasswordAuthentication no\nXAuthLocation none\nForwardX11Trusted no\n", &["h"]),
    ("IdentitiesOnly yes\nHashKnownHosts yes\nTCPKeepAlive no\nExitOnForwardFailure yes\nNoHostAuthenticationForLocalhost yes\nKbdInteractiveAuthentication no\nStdinNull yes\n", &["h"]),
];

#[test]
fn configurations_mean_what_they_mean_to_openssh() {
    let desk = Desk::new();
    let found: Vec<String> =
        SAME.iter().flat_map(|(config, words)| desk.differences(config, words)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn what_openssh_refuses_is_refused() {
    let desk = Desk::new();
    for config in [
        "Port 0\n",
        "Port 70000\n",
        "Port 5 6\n",
        "Port\n",
        "Prot 5\n",
        "foo bar\nIgnoreUnknown f*\n",
        "Match\n Port 1\n",
        "Match host\n Port 1\n",
        "Match all host h\n Port 1\n",
        "Match host h all x\n",
        "Match final,host h\n",
        "IdentityFile a b\n",
        "UserKnownHostsFile a none\n",
        "SendEnv A=b\n",
        "SetEnv A\n",
        "LocalForward 5\n",
        "LocalForward 5 6\n",
        "RemoteForward 5 6\n",
        "DynamicForward 5:h:6\n",
        "PermitRemoteOpen none a:1\n",
        "PermitRemoteOpen a\n",
        "PermitRemoteOpen a:0\n",
        "EscapeChar xx\n",
        "RekeyLimit 5\n",
        "RekeyLimit none\n",
        "GatewayPorts clientspecified\n",
        "ConnectionAttempts 0\n",
        "Ciphers nope\n",
        "Ciphers +nope\n",
        "CASignatureAlgorithms none\n",
        "IdentityFile \"a\n",
    ] {
        desk.refused_by_both(config, &["h"]);
    }
    for words in [&["-p", "0", "h"][..], &["-e", "ab", "h"], &["-L", "80", "h"], &["-s", "h"]] {
        desk.refused_by_both("", words);
    }
}

/// Each has its own lists; what is added, taken away or put first is the same.
#[test]
fn lists_of_algorithms_are_changed_alike() {
    let desk = Desk::new();
    let (theirs, ours) = desk.both("", &["h"]);
    let list = |lines: &Lines, keyword: &str| -> Vec<String> {
        let value = lines.get(keyword).and_then(|values| values.first()).expect("a list");
        value.split(',').map(str::to_owned).collect()
    };
    for (keyword, value) in [
        ("Ciphers", "aes256-ctr,aes128-gcm@openssh.com,aes256-ctr"),
        ("Ciphers", "^aes256-ctr,chacha20-poly1305@openssh.com"),
        ("Ciphers", "-aes*-ctr"),
        ("Ciphers", "+aes128-ctr"),
        ("MACs", "hmac-sha2-512,hmac-sha2-256"),
        ("MACs", "-hmac-sha2-256*"),
        ("MACs", "^hmac-sha2-512"),
        ("KexAlgorithms", "curve25519-sha256,ecdh-sha2-nistp256"),
        ("KexAlgorithms", "-curve*"),
        ("KexAlgorithms", "^ecdh-sha2-nistp521"),
        ("KexAlgorithms", "+diffie-hellman-group14-sha256"),
        ("HostKeyAlgorithms", "rsa-sha2-512,ssh-ed25519"),
        ("HostKeyAlgorithms", "-ecdsa*"),
        ("HostKeyAlgorithms", "^ssh-ed25519"),
        ("PubkeyAcceptedAlgorithms", "-*cert*"),
        ("CASignatureAlgorithms", "ssh-ed25519"),
        ("CASignatureAlgorithms", "-rsa*"),
    ] {
        let name = keyword.to_ascii_lowercase();
        let (theirs_now, ours_now) = desk.both(&format!("{keyword} {value}\n"), &["h"]);
        let (theirs_now, ours_now) = (list(&theirs_now, &name), list(&ours_now, &name));
        // What both of them know.
        let (theirs, ours) = (list(&theirs, &name), list(&ours, &name));
        let both = |one: &&String| {
            (theirs.contains(one) || theirs_now.contains(one))
                && (ours.contains(one) || ours_now.contains(one))
        };
        let theirs_now: Vec<&String> = theirs_now.iter().filter(both).collect();
        let mut ours_now: Vec<&String> = ours_now.iter().filter(both).collect();
        let head = value.strip_prefix('^').map(|list| list.split(',').count());
        let fixed = head.unwrap_or(if value.starts_with(['+', '-']) { 0 } else { usize::MAX });
        let fixed = fixed.min(ours_now.len());
        assert_eq!(ours_now[..fixed], theirs_now[..fixed], "{keyword} {value}");
        // Behind that the order is each one's own.
        let mut theirs_now = theirs_now.clone();
        theirs_now.sort();
        ours_now.sort();
        assert_eq!(ours_now, theirs_now, "{keyword} {value}");
    }
}

/// `-Q`: what both know has ssh's name, in ssh's form, and what is not known is an error.
#[test]
fn algorithms_are_listed_as_ssh_lists_them() {
    let ask = |mut command: Command, what: &str| {
        let output = command.args(["-Q", what]).stdin(Stdio::null()).output().expect("it runs");
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let ours = |what: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("ssh");
        ask(command, what)
    };
    let theirs = |what: &str| ask(Command::new("ssh"), what);
    let (_, queries, _) = ours("help");
    assert!(queries.lines().count() > 10, "{queries}");
    let keywords = ["Ciphers", "macs", "KexAlgorithms", "HostKeyAlgorithms"];
    for what in queries.lines().chain(keywords) {
        let (ours, theirs) = (ours(what), theirs(what));
        assert_eq!((ours.0, theirs.0), (Some(0), Some(0)), "{what}: {ours:?} {theirs:?}");
        let newer = |name: &&str| name.starts_with("mlkem");
        let known: Vec<&str> = theirs.1.lines().collect();
        let odd: Vec<&str> =
            ours.1.lines().filter(|name| !known.contains(name) && !newer(name)).collect();
        assert!(odd.is_empty() && !ours.1.is_empty(), "{what}: {odd:?}");
    }
    for output in [ours("nosuch"), theirs("nosuch")] {
        assert_eq!(output.0, Some(255));
        assert!(output.2.contains("Unsupported query \"nosuch\""), "{}", output.2);
    }
}
