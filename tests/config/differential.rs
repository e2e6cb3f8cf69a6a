//! The same files before us and before the sshd of this machine, and before a newer one where
//! `tests/clients/newer-openssh.sh` has unpacked it: who takes them, and what they then mean. Without
//! an sshd these tests have nothing to compare with and pass.

use std::collections::BTreeMap;
use std::process::Command;

use super::*;
use tidegate::gateway::accounts;

const SSHD: &str = "/usr/sbin/sshd";

/// Keywords whose lines mean the same in both dumps.
type Lines = BTreeMap<String, String>;

struct Bench {
    directory: tempfile::TempDir,
    sshd: PathBuf,
}

impl Bench {
    /// One for each sshd that is here and dumps a configuration.
    fn all() -> Vec<Bench> {
        let newer = std::env::var_os("TIDEGATE_NEWER_OPENSSH").map(PathBuf::from);
        let newer = newer.map(|folder| folder.join("bin/sshd"));
        let benches: Vec<_> =
            newer.into_iter().chain([SSHD.into()]).filter_map(Bench::new).collect();
        if benches.is_empty() {
            eprintln!("no sshd to compare with");
        }
        benches
    }

    fn new(sshd: PathBuf) -> Option<Bench> {
        let directory = tempfile::tempdir().expect("a directory");
        let private = PrivateKey::generate(KeyKind::Ed25519).expect("a key");
        let key = directory.path().join("key");
        fs::write(&key, private.to_openssh("test").expect("a file").as_bytes()).expect("write it");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("permissions");
        let bench = Bench { directory, sshd };
        bench.write("main", "");
        bench.sshd("").is_some().then_some(bench)
    }

    fn sshd_command(&self) -> Command {
        let at = |name| self.directory.path().join(name);
        let mut command = Command::new(&self.sshd);
        command.arg("-T").arg("-f").arg(at("main")).arg("-h").arg(at("key"));
        command
    }

    /// `@` in the text stands for the directory.
    fn write(&self, name: &str, text: &str) {
        let here = self.directory.path().to_str().expect("UTF-8");
        fs::write(self.directory.path().join(name), text.replace('@', here)).expect("a file");
    }

    /// `None` when the file is refused.
    fn sshd(&self, spec: &str) -> Option<Lines> {
        let mut command = self.sshd_command();
        if !spec.is_empty() {
            command.args(["-C", spec]);
        }
        let output = command.output().ok()?;
        output.status.success().then(|| lines(&String::from_utf8_lossy(&output.stdout), false))
    }

    fn ours(&self, spec: &str) -> Option<Lines> {
        let config = load(&self.directory.path().join("main")).ok()?;
        let part = |name: &str| {
            spec.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
        };
        let account = part("user").and_then(|user| accounts::by_name(user).ok().flatten());
        let groups = account.as_ref().map(accounts::group_ids).unwrap_or_default();
        let groups = accounts::group_names(&groups);
        let local: IpAddr = part("laddr").unwrap_or("127.0.0.1").parse().expect("an address");
        let login = config.effective(&Who {
            rdomain: None,
            user: part("user"),
            account: part("user").map(|_| account.is_some()),
            groups: &groups,
            peer: part("addr").map(|peer| peer.parse().expect("an address")),
            host: part("host"),
            local: part("lport").map(|port| (local, port.parse().expect("a port")).into()),
        });
        Some(lines(&config.dump(&login), true))
    }

    /// Both refuse `main`, or both take it and agree about these keywords.
    fn agree(&self, text: &str, spec: &str, keywords: &str) {
        self.write("main", text);
        let (theirs, ours) = (self.sshd(spec), self.ours(spec));
        assert_eq!(ours.is_some(), theirs.is_some(), "who takes this?\n{text}\n-C {spec}");
        let (Some(theirs), Some(ours)) = (theirs, ours) else { return };
        let mentioned = text.to_ascii_lowercase().replace("keepalive", "tcpkeepalive");
        for keyword in keywords.split_whitespace().filter(|k| mentioned.contains(k)) {
            // An older sshd does not print that there is nothing.
            let value = |lines: &Lines| lines.get(keyword).filter(|v| *v != "none").cloned();
            assert_eq!(value(&ours), value(&theirs), "{keyword}\n{text}\n-C {spec}");
        }
    }
}

/// Keyword and value; of several lines, all values in their order. Quotes are ours alone.
fn lines(dump: &str, is_ours: bool) -> Lines {
    let mut lines = Lines::new();
    for line in dump.lines() {
        let (keyword, value) = line.split_once(' ').unwrap_or((line, ""));
        // We write a separator of our own before a value that begins with one.
        let behind = value.strip_prefix("= ").filter(|v| is_ours && v.starts_with('='));
        let value = behind.unwrap_or(value);
        let value = value.replace(['"', '\\'], "");
        let all: &mut String = lines.entry(keyword.to_owned()).or_default();
        if !all.is_empty() {
            all.push(' ');
        }
        all.push_str(&value);
    }
    lines
}

const LINES: &[&str] = &[
    "Port 23",
    "Port=23",
    "Port = 23 # c",
    "Port==23",
    "\"Port\" 23",
    "pOrT\t\t23   ",
    "  \t Port 23",
    "Port 23\r\nPidFile /x\r\n\r\n# c\r\n",
    "Port 23\x0c",
    "Port 23#c",
    "Port",
    "Port \"\"",
    "Port 23 24",
    "Port 23\nPort 24",
    "Port 70000",
    "Port 23\n\n#Port 24\n   # Port 25",
    "Prot 23",
    "PidFile \"/a b\"",
    "PidFile '/a b'",
    "PidFile /a\\ b",
    "PidFile \"/a\\\"b\"",
    "PidFile \"/a'b\"",
    "PidFile /a\"b c\"d",
    "PidFile \"/a",
    "PidFile /it's",
    "PidFile /a#b",
    "AcceptEnv \"#a\"",
    "PidFile #a",
    "PidFile none",
    "PidFile /\u{e4}",
    "KeepAlive no",
    "StrictModes YES",
    "StrictModes true",
    "StrictModes \"no\"",
    "StrictModes no yes",
    "StrictModes no\nStrictModes yes",
    "AddressFamily INET",
    "AddressFamily any\nListenAddress 127.0.0.1\nPort 23\nListenAddress [::1]:24",
    "Port 23\nPort 24",
    "PermitRootLogin without-password",
    "PermitRootLogin Prohibit-Password",
    "VersionAddendum a b # c",
    "VersionAddendum \"a b\"",
    "VersionAddendum none",
    "ForceCommand \"a b\" c # d",
    "ForceCommand =a",
    "ForceCommand = a = b",
    "ForceCommand none",
    "AcceptEnv A B # C\nAcceptEnv D \"E F\"",
    "AcceptEnv A=b",
    "AcceptEnv \"\"",
    "SetEnv A=1 A=2 \"B=x y\"\nSetEnv C=3",
    "SetEnv =A=1",
    "SetEnv A",
    "AllowUsers a b@10.0.0.0/8\nAllowUsers c",
    "AllowUsers a@10.0.0.1/8",
    "AllowUsers a@b@10.0.0.1",
    "DenyUsers \"a b\"",
    "AllowGroups g* ?h",
    "AuthorizedKeysFile none",
    "AuthorizedKeysFile a %h/b /c/%u\nAuthorizedKeysFile d",
    "Subsystem sftp internal-sftp\nSubsystem x \"/c d\" e",
    "Subsystem sftp",
];

#[test]
fn lines_and_words() {
    for bench in Bench::all() {
        for text in LINES {
            let keywords = "port listenaddress pidfile tcpkeepalive strictmodes addressfamily \
                            permitrootlogin versionaddendum forcecommand acceptenv setenv allowusers \
                            denyusers allowgroups authorizedkeysfile subsystem";
            bench.agree(text, "", keywords);
        }
    }
}

const VALUES: &[&str] = &[
    "LoginGraceTime 90",
    "LoginGraceTime 90s",
    "LoginGraceTime 1h30m",
    "LoginGraceTime 1H30M5",
    "LoginGraceTime 1m1m",
    "LoginGraceTime 1w2d",
    "LoginGraceTime 0",
    "LoginGraceTime 1.5h",
    "LoginGraceTime -5",
    "LoginGraceTime none",
    "LoginGraceTime 5000w",
    "LoginGraceTime 99999999999999999999",
    "LoginGraceTime m",
    "RekeyLimit 1G",
    "RekeyLimit 1.5G 1h",
    "RekeyLimit 4K",
    "RekeyLimit 4k none",
    "RekeyLimit 512B",
    "RekeyLimit 1T",
    "RekeyLimit 15",
    "RekeyLimit 1Z",
    "RekeyLimit default 2h",
    "RekeyLimit 1G\nRekeyLimit 2G 1h",
    "RekeyLimit default none\nRekeyLimit 2G 1h",
    "RekeyLimit 1G 1h 2",
    "MaxAuthTries 3",
    "MaxAuthTries 3x",
    "MaxAuthTries -1",
    "MaxSessions 0",
    "MaxStartups 20",
    "MaxStartups 10:30:60",
    "MaxStartups 10:30",
    "MaxStartups 10:101:60",
    "MaxStartups 60:30:10",
    "MaxStartups 0",
    "ClientAliveInterval 5m\nClientAliveCountMax 0",
    "ClientAliveCountMax x",
    "PerSourceMaxStartups 5",
    "PerSourceMaxStartups none",
    "PerSourceMaxStartups x",
    "PerSourceNetBlockSize 24:56",
    "PerSourceNetBlockSize 33",
    "PerSourceNetBlockSize 24:129",
    "RequiredRSASize 4096",
    "LogLevel debug",
    "LogLevel DEBUG3",
    "LogLevel debug4",
    "UnusedConnectionTimeout none",
    "UnusedConnectionTimeout 5m",
    "ChannelTimeout none",
    "ChannelTimeout none x=1",
    "ChannelTimeout session:*=60 x=0",
    "ChannelTimeout =60",
    "ChannelTimeout x",
    "Ciphers aes128-ctr,aes128-ctr,aes256-ctr",
    "Ciphers aes128-ctr,",
    "Ciphers -aes*",
    "Ciphers AES128-CTR",
    "Ciphers bogus",
    "Ciphers +bogus",
    "Ciphers aes*",
    "Ciphers aes128-ctr, aes256-ctr",
    "Ciphers aes128-ctr\nCiphers aes256-ctr",
    "MACs hmac-sha2-512,hmac-sha2-256",
    "KexAlgorithms curve25519-sha256",
    "KexAlgorithms bogus",
    "PubkeyAcceptedAlgorithms ssh-ed25519,rsa-sha2-512",
    "PubkeyAcceptedAlgorithms ssh-ed448",
    "PubkeyAcceptedAlgorithms ssh-ed448*",
];

#[test]
fn numbers_times_sizes_and_lists() {
    for bench in Bench::all() {
        for text in VALUES {
            let mut keywords = "logingracetime rekeylimit maxauthtries maxsessions maxstartups \
                                clientaliveinterval clientalivecountmax persourcemaxstartups \
                                persourcenetblocksize loglevel unusedconnectiontimeout channeltimeout"
                .to_owned();
            // These differ in what there is, so they are compared where the line says all.
            let word = text.split(' ').next().unwrap_or_default().to_ascii_lowercase();
            keywords += &format!(" {word}");
            bench.agree(text, "", &keywords);
        }
        // Of the algorithms both have, lists that start from the default keep the same.
        let both = |text: &str, keyword: &str| -> Option<(String, String)> {
            bench.write("main", text);
            let value = |lines: Option<Lines>| lines?.get(keyword).cloned();
            let (theirs, ours) = (value(bench.sshd(""))?, value(bench.ours(""))?);
            let common = |of: &str, other: &str| {
                let mut names: Vec<_> =
                    of.split(',').filter(|name| other.split(',').any(|o| o == *name)).collect();
                names.sort_unstable();
                names.join(",")
            };
            Some((common(&ours, &theirs), common(&theirs, &ours)))
        };
        for (text, keyword) in [
            ("Ciphers ^aes256-ctr", "ciphers"),
            ("Ciphers +aes256-ctr", "ciphers"),
            ("Ciphers -aes256-ctr,chacha*", "ciphers"),
            ("MACs ^hmac-sha2-512", "macs"),
            ("KexAlgorithms -*nistp*", "kexalgorithms"),
            ("HostKeyAlgorithms ^rsa*", "hostkeyalgorithms"),
            ("PubkeyAcceptedAlgorithms -ecdsa*", "pubkeyacceptedalgorithms"),
        ] {
            let (ours, theirs) = both(text, keyword).unwrap_or_else(|| panic!("{text}"));
            assert!(!ours.is_empty(), "{text}");
            assert_eq!(ours, theirs, "{text}");
        }
    }
}

const CONDITIONS: &[&str] = &[
    "all",
    "ALL",
    "all all",
    "all User root",
    "User root all",
    "User root",
    "User ROOT",
    "user=root",
    "User r?ot,x",
    "User *,!root",
    "User !root",
    "User \"root,x\"",
    "User root # c",
    "User",
    "Usr root",
    "User root Bogus x",
    "Group root",
    "Group !root",
    "Group *,!root",
    "Group no-such-group",
    "Host *.example.ORG",
    "Host 192.0.2.7",
    "Host 192.0.2.0/24",
    "Host 2001:db8::7",
    "Host *,!h.*",
    "Address 192.0.2.0/24",
    "Address 192.0.2.0/24,!192.0.2.7",
    "Address 192.0.2.*",
    "Address 192.0.2.7/24",
    "Address 192.0.2.0/33",
    "Address 2001:DB8::7",
    "Address 2001:db8::/32",
    "Address *",
    "Address ::/0",
    "Address 0.0.0.0/0",
    "LocalAddress 10.0.0.0/8",
    "LocalAddress ::1",
    "LocalPort 22",
    "LocalPort ssh2",
    "User root Address 192.0.2.0/24 LocalPort 22 Host h.*",
    "User root Address 192.0.3.0/24",
];

#[test]
fn match_lines() {
    for bench in Bench::all() {
        let whole = "user=root,host=h.Example.org,addr=192.0.2.7,laddr=10.1.1.1,lport=22";
        let other = "user=no-such-user,host=2001:db8::7,addr=2001:db8:0::7,laddr=::1,lport=23";
        for condition in CONDITIONS {
            let text = format!(
                "PermitTTY yes\nMaxSessions 7\nAcceptEnv A\nMatch {condition}\nPermitTTY no\n\
                 PermitTTY yes\nAcceptEnv B C\nForceCommand first\n\
                 Match all\nForceCommand second\nMaxSessions 3\nAcceptEnv D\n"
            );
            for spec in [whole, other] {
                bench.agree(&text, spec, "permittty maxsessions acceptenv forcecommand");
            }
        }
        for (text, keywords) in [
            ("Match all\nPort 23", "port"),
            (
                "Match User x\nPermitTTY no\nMatch all\nStrictModes no\nLogLevel DEBUG",
                "strictmodes loglevel",
            ),
            ("Match User root\nPort 23", ""),
            ("Match User x\nLogLevel BOGUS", ""),
            ("Match all\nCiphers aes128-ctr", ""),
            (
                "Match all\nSetEnv A=1\nSetEnv B=2\nRekeyLimit 1G\nRekeyLimit 2G 1h",
                "setenv rekeylimit",
            ),
            (
                "AllowUsers a\nDenyGroups g\nMatch all\nAllowUsers b c@10.0.0.0/8\n",
                "allowusers denygroups",
            ),
            ("Match User x\nAllowUsers b\nMatch all\nMaxSessions bogus", ""),
            ("Match all\nAuthorizedKeysFile a b\nAuthorizedKeysFile c", "authorizedkeysfile"),
            (
                "Match all\nPermitRootLogin no\nPubkeyAuthentication no",
                "permitrootlogin pubkeyauthentication",
            ),
            (
                "Match all\nClientAliveInterval 1m\nClientAliveCountMax 9",
                "clientaliveinterval clientalivecountmax",
            ),
            ("Match all\nChannelTimeout x=5\nMatch all\nChannelTimeout none", "channeltimeout"),
            ("ForceCommand a\nMatch all\nForceCommand none", "forcecommand"),
        ] {
            bench.agree(text, whole, keywords);
        }
    }
}

#[test]
fn includes() {
    for bench in Bench::all() {
        bench.write(
            "10.conf",
            "MaxSessions 1\nMatch User root\nForceCommand ten\nMatch all\nAcceptEnv TEN",
        );
        bench.write("20.conf", "MaxSessions 2\nPermitTTY no\nForceCommand twenty\n");
        bench.write("deep", "Include @/20.conf\nMatch LocalPort 22\nInclude @/10.conf\n");
        bench.write("bad", "MaxSessions x\n");
        let at = |name| bench.directory.path().join(name);
        fs::create_dir_all(at("folder/30.conf")).expect("a folder");
        fs::write(at("folder/40.conf"), "MaxSessions 4\n").expect("a file");
        std::os::unix::fs::symlink("/nowhere", at("gone")).expect("a link");
        let spec = "user=root,host=h,addr=192.0.2.7,laddr=10.1.1.1,lport=22";
        let other = "user=nobody,host=h,addr=192.0.2.7,laddr=10.1.1.1,lport=23";
        for text in [
            "Include @/*.conf\nMaxSessions 9\n",
            "MaxSessions 9\nInclude @/20.conf @/10.conf\nPermitTTY yes\n",
            "Match User root\nInclude @/*.conf\nMaxSessions 9\nAcceptEnv MORE\n",
            "Match User nobody\nInclude @/*.conf\nMatch all\nMaxSessions 9\n",
            "Include @/deep\nAcceptEnv A\nForceCommand b\n",
            "Match LocalPort 23\nInclude @/deep\nForceCommand b\nMatch all\nInclude @/10.conf\n",
            "Include @/absent\nMaxSessions 9",
            "Include @/absent*\nMaxSessions 9",
            "Include @/folder\nMaxSessions 9",
            "Include @/folder/*\nMaxSessions 9",
            "Include @/*/*.conf\nMaxSessions 9",
            "Include @/10.conf/x\nMaxSessions 9",
            "Include @/gone\nMaxSessions 9",
            "Include @/gone*\nMaxSessions 9",
            "Include @/bad",
            "Match User zoe\nInclude @/bad",
            "Include",
            "Include \"\"",
            "Include @/main",
            "Include \"@/[12]0.conf\"",
        ] {
            for spec in [spec, other] {
                bench.agree(text, spec, "maxsessions permittty forcecommand acceptenv");
            }
        }
    }
}

/// What sshd prints of itself, defaults and all, is a configuration here.
#[test]
fn what_sshd_prints_is_accepted() {
    for bench in Bench::all() {
        let at = |name| bench.directory.path().join(name);
        bench.write(
            "main",
            "Subsystem sftp internal-sftp\nAllowUsers ann bob@10.0.0.0/8\nSetEnv A=b\n",
        );
        let output = bench.sshd_command().output();
        fs::write(at("main"), output.expect("sshd starts").stdout).expect("a file");
        let config = load(&at("main")).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(config.login.allow_users.len(), 2);
        assert_eq!(config.login.set_env, [("A".to_owned(), "b".to_owned())]);
        super::assert_dump_reads_back(&config, &config.login);
    }
}

/// Where we differ on purpose; docs/configuration.md says why.
#[test]
fn known_differences() {
    for bench in Bench::all() {
        for (text, theirs, ours) in [
            ("Port 0", false, true),
            ("\"Port\"=23", false, true),
            ("ForceCommand it's", false, true),
            ("Match LocalPort 22,23", false, true),
            ("Match User a,,b", true, false),
            ("AllowUsers !root", true, false),
            ("Ciphers -*", true, false),
            ("AuthorizedKeysFile %x", true, false),
        ] {
            bench.write("main", text);
            assert_eq!(bench.sshd("").is_some(), theirs, "sshd: {text}");
            assert_eq!(bench.ours("").is_some(), ours, "ours: {text}");
        }
    }
}

#[test]
fn the_dump_has_the_order_and_the_spelling_of_sshd() {
    for bench in Bench::all() {
        bench.write(
            "main",
            "PidFile none\nUsePAM no\nAllowUsers a b\nDenyGroups c\nAcceptEnv D\nSetEnv E=f\n\
             AllowGroups g\nDenyUsers h\nRequiredRSASize 3072\nSubsystem sftp internal-sftp\n",
        );
        let at = |name| bench.directory.path().join(name);
        let output = bench.sshd_command().output().expect("sshd runs");
        let names = |dump: &str| {
            let mut names: Vec<String> = dump
                .lines()
                .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
                .collect();
            names.dedup();
            names
        };
        let theirs = String::from_utf8_lossy(&output.stdout).into_owned();
        let request = Request {
            file: Some(at("main")),
            options: vec![format!("HostKey={}", at("key").display())],
            ..Request::default()
        };
        let config = Config::load(&request, &Disk).unwrap_or_else(|errors| panic!("{errors}"));
        let ours = config.dump(&config.login);
        let (their_names, our_names) = (names(&theirs), names(&ours));
        let mut shared = their_names.clone();
        // Of these we print what is so here, which sshd of this version does not have or orders anew.
        shared.retain(|name| our_names.contains(name) && name != "unusedconnectiontimeout");
        let mut ordered = our_names.clone();
        ordered.retain(|name| shared.contains(name));
        assert_eq!(ordered, shared);
        assert!(shared.len() > 55, "{}", shared.len());
        // Where the default is another, the table says so; everything else is spelled alike.
        let other_defaults = "passwordauthentication kbdinteractiveauthentication \
            compression ciphers macs kexalgorithms hostkeyalgorithms pubkeyacceptedalgorithms ipqos \
            casignaturealgorithms \
        persourcepenalties";
        let (theirs, ours) = (lines(&theirs, false), lines(&ours, true));
        for name in shared.iter().filter(|n| !other_defaults.split_whitespace().any(|o| o == *n)) {
            assert_eq!(ours.get(name), theirs.get(name), "{name}");
        }
    }
}

/// Runs a property; one directory serves all its cases.
fn always(strategy: &str, property: impl Fn(&Bench, &str)) {
    for bench in Bench::all() {
        let config = ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() };
        let run = proptest::test_runner::TestRunner::new(config).run(&strategy, |text| {
            property(&bench, &text);
            Ok(())
        });
        run.unwrap_or_else(|why| panic!("{why}"));
    }
}

/// Quotes, backslashes, comments and blanks, in any order.
#[test]
fn any_line_is_split_alike() {
    always("[ab \t\"'\\\\#=]{0,14}", |bench, words| {
        bench.agree(&format!("DenyGroups x{words}\n"), "", "denygroups");
    });
}

#[test]
fn any_pattern_list_matches_alike() {
    always("(User|Group|Host) (!?[ro*?t]{1,4},){0,3}!?[ro*?t]{1,4}", |bench, condition| {
        let text = format!("Match {condition}\nPermitTTY no\n");
        bench.agree(&text, "user=root,host=root,addr=192.0.2.7", "permittty");
    });
}
