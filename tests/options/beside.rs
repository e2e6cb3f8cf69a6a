//! The same configuration, keys and home under our gateway and under the system's own sshd: what
//! `ssh` prints is the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Shown, allow, client, here, open_to_all, put_at_home, shown_with};
use crate::support::account::Account;
use crate::support::{DEEP, Gateway, free_port, is_run_again, wait_for};

const SSHD: &str = "/usr/sbin/sshd";
/// What sshd wants to exist before it starts.
const SSHD_DIRECTORY: &str = "/run/sshd";

/// The system's sshd with a gateway's keys.
struct Sshd {
    child: Child,
    port: u16,
}

impl Sshd {
    fn start(gateway: &Gateway, lines: &[&str], namespace: Option<&Path>) -> Sshd {
        let port = free_port();
        let at = gateway.folder.path().display();
        let config = format!(
            "{}\nListenAddress 127.0.0.1:{port}\nHostKey {at}/host_ed25519\nUsePAM no\n\
             AuthorizedKeysFile {at}/authorized_keys\nStrictModes no\nPermitRootLogin yes\n\
             PidFile none\nSubsystem sftp internal-sftp\nPrintLastLog no\n\
             KbdInteractiveAuthentication no\nPasswordAuthentication no\n{DEEP}\n",
            lines.join("\n")
        );
        fs::write(gateway.path("sshd_config"), config).expect("a configuration");
        let log = fs::File::create(gateway.path("sshd_log")).expect("a log");
        let mut command = Command::new(SSHD);
        command.args(["-D", "-e", "-f"]).arg(gateway.path("sshd_config"));
        if let Some(etc) = namespace {
            command = within(&command, etc);
        }
        let child = command.env("TZ", "UTC").stdin(Stdio::null()).stderr(log).spawn();
        let mut sshd = Sshd { child: child.expect("sshd starts"), port };
        wait_for("sshd to listen", || {
            if let Some(status) = sshd.child.try_wait().expect("its status") {
                let log = fs::read_to_string(gateway.path("sshd_log")).unwrap_or_default();
                panic!("sshd ended with {status}:\n{log}");
            }
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        sshd
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same program where `/etc` is another directory.
fn within(command: &Command, etc: &Path) -> Command {
    let mut inner = Command::new("unshare");
    inner.args(["-m", "sh", "-c", "mount --bind \"$0\" /etc && exec \"$@\""]).arg(etc);
    inner.arg(command.get_program()).args(command.get_args());
    inner.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    inner
}

/// The account, and what stands in the way of a comparison, said once.
fn ready() -> Option<Account> {
    if is_run_again() {
        return None;
    }
    if !Path::new(SSHD).exists() {
        println!("not run: there is no {SSHD} to compare with");
        return None;
    }
    let account = Account::new()?;
    if !Path::new(SSHD_DIRECTORY).exists() {
        fs::create_dir_all(SSHD_DIRECTORY).expect("sshd's directory");
    }
    Some(account)
}

/// A copy of /etc to change; `None` where namespaces cannot be made.
fn other_etc() -> Option<(tempfile::TempDir, PathBuf)> {
    let folder = tempfile::tempdir().expect("a folder");
    let etc = folder.path().join("etc");
    // Files that come and go while others change the user database are no loss.
    let _ =
        Command::new("cp").args(["-a", "/etc"]).arg(folder.path()).stderr(Stdio::null()).status();
    assert!(etc.join("passwd").exists(), "a copy of /etc");
    let mut attempt = Command::new("true");
    attempt = within(&attempt, &etc);
    if !attempt.status().is_ok_and(|status| status.success()) {
        println!("not run: no mount namespaces here");
        return None;
    }
    Some((folder, etc))
}

/// Ports and terminals differ from session to session.
fn plain(text: &str) -> String {
    let mut lines = text.replace('\r', "").lines().map(str::to_owned).collect::<Vec<_>>();
    // Lines of sshd's log, which `-e` sends to sessions as well.
    let logged = ["refusing non-sftp session", "not allowed because /etc/nologin exists"];
    lines.retain(|line| !logged.iter().any(|text| line.contains(text)));
    for line in &mut lines {
        let fact = ["SSH_CLIENT=", "SSH_CONNECTION=", "SSH_TTY="];
        if fact.iter().any(|name| line.starts_with(name)) {
            let number = |word: &str| word.parse::<u32>().is_ok_and(|number| number > 1000);
            let words = line.split(' ').map(|word| if number(word) { "PORT" } else { word });
            let joined = words.collect::<Vec<_>>().join(" ");
            *line = joined.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
        }
    }
    lines.join("\n")
}

/// Both servers and the account whose sessions are compared.
struct Pair<'a> {
    gateway: &'a Gateway,
    sshd: &'a Sshd,
    account: &'a Account,
}

impl Pair<'_> {
    /// Runs the same with both and answers what both showed.
    fn same(&self, what: &str, flags: &[&str], words: &[&str], input: &str) -> Shown {
        let user = format!("User={}", self.account.name);
        let run = |port: u16| {
            let port = format!("Port={port}");
            let mut ssh = client(self.gateway, &[&port, &user]);
            ssh.args(flags).args(["-o", "SendEnv=TIDE_*", "127.0.0.1"]).args(words);
            ssh.env("TIDE_SENT", "sent").env("TERM", "vt220");
            let Shown { code, out, err } = shown_with(&mut ssh, input);
            // sshd drops what a subsystem writes to its standard error.
            let dropped = flags.contains(&"-s") && code != Some(255);
            let err = if dropped { String::new() } else { plain(&err) };
            Shown { code, out: plain(&out), err }
        };
        let (ours, theirs) = std::thread::scope(|scope| {
            let theirs = scope.spawn(|| run(self.sshd.port));
            (run(self.gateway.port), theirs.join().expect("a client of sshd"))
        });
        assert_eq!(ours, theirs, "{what} {flags:?} {words:?}");
        ours
    }
}

const ENV: &str = "env | LC_ALL=C sort";

#[test]
fn sessions_are_those_of_sshd() {
    let Some(account) = ready() else { return };
    let lines = [
        "PermitUserEnvironment yes",
        "AcceptEnv TIDE_* PATH",
        "SetEnv ADMIN=1 OWN=admin",
        "PrintMotd no",
        "Subsystem env /usr/bin/env",
        "Subsystem lost /no/such/program",
    ];
    let gateway = Gateway::start_with(&lines, |command| {
        command.env("TZ", "UTC");
    });
    open_to_all(&gateway);
    let sshd = Sshd::start(&gateway, &lines, None);
    let pair = Pair { gateway: &gateway, sshd: &sshd, account: &account };
    let seen = pair.same("environment", &[], &[ENV], "");
    for expected in ["TIDE_SENT=sent", "ADMIN=1", "TZ=UTC", "SSH_CLIENT=127.0.0.1 PORT PORT"] {
        assert!(seen.out.contains(expected), "{expected}: {seen:?}");
    }
    pair.same("terminal", &["-tt"], &[ENV], "");
    pair.same("process", &[], &[PROCESS], "");
    pair.same("codes", &[], &["echo out; echo err >&2; exit 7"], "");
    pair.same("signals", &[], &["kill -TERM $$"], "");
    pair.same("no such command", &[], &["/no/such/command"], "");
    pair.same("shell", &["-T"], &[], "echo $0 $-; exit 4\n");
    pair.same("subsystem", &["-s"], &["env"], "");
    pair.same("lost subsystem", &["-s"], &["lost"], "");
    pair.same("unknown subsystem", &["-s"], &["nosuch"], "");
    for options in [
        "environment=\"KEY=1\",environment=\"KEY=2\",environment=\"OWN=key\",environment=\"MAIL=/key\"",
        "command=\"env | LC_ALL=C sort\"",
        "command=\"echo $SSH_ORIGINAL_COMMAND; exit 3\",no-pty",
        "command=\"internal-sftp\"",
        "command=\"/no/such/program\"",
        "restrict,command=\"tty; echo 'a b' \\\"c\\\"\"",
        "no-pty",
        "restrict,pty",
        "no-such-option",
        "from=\"10.0.0.1\"",
        "expiry-time=\"20200101\"",
    ] {
        allow(&gateway, options);
        pair.same(options, &[], &[ENV], "");
        pair.same(options, &["-tt"], &["echo main"], "");
        if !options.contains("sftp") {
            pair.same(options, &["-s"], &["env"], "");
        }
        pair.same(options, &["-s"], &["nosuch"], "");
    }
    allow(&gateway, "");
    let own =
        "# mine\n\n  OWN=file\nFILE=a b # c\nbad\nMAIL=/mine\nADMIN=mine\nSSH_CLIENT=mine\nTZ=x\n";
    put_at_home(&account, ".ssh/environment", own);
    put_at_home(&account, ".ssh/rc", "echo rc $0 $FILE; cat; echo rc-err >&2\n");
    pair.same("files at home", &[], &[ENV], "");
    pair.same("files at home", &["-T"], &[], "echo $0 $FILE\n");
    pair.same("files at home", &["-s"], &["env"], "");
    allow(&gateway, "no-user-rc");
    pair.same("no-user-rc", &[], &["echo main"], "");
    allow(&gateway, "command=\"echo forced; cat\"");
    pair.same("rc before a key's command", &[], &["echo main"], "input\n");
}

/// As in sshd, what stands behind a colon in a login name is a style, which nobody asks for here.
#[test]
fn a_style_is_no_part_of_a_users_name() {
    let Some(account) = ready() else { return };
    let gateway = Gateway::start(&[]);
    open_to_all(&gateway);
    let sshd = Sshd::start(&gateway, &[], None);
    for style in [":skey", ":a:b", ":a%b+c"] {
        for port in [gateway.port, sshd.port] {
            let (port, user) = (format!("Port={port}"), format!("User={}{style}", account.name));
            let seen =
                shown_with(client(&gateway, &[&port, &user]).args(["127.0.0.1", "id -un"]), "");
            assert_eq!(seen.out, format!("{}\n", account.name), "{style} {port}: {seen:?}");
        }
    }
    let accepted = format!("Accepted publickey for {} from 127.0.0.1 port", account.name);
    gateway.tells_times(&accepted, 3);
}

/// What a process has that nobody has said anything about. Two signals of the C library's own are ignored
/// by what this test starts, and by what that starts.
const PROCESS: &str = "echo $0 $-; umask; ulimit -a | grep -v 'open files'; ulimit -Ha; id; nice; pwd; tty; \
                       grep -E '^(Sig(Blk|Ign)|Cap|Groups|NoNewPrivs|Seccomp:)' /proc/self/status | \
                       sed 's/^\\(SigIgn:.*\\)180000000$/\\1000000000/'; cat /proc/self/oom_score_adj; ls /proc/self/fd | wc -l; ps -o pri,cls -p $$";

/// The same with `UsePAM yes` and the same service: what modules set and say, and what they deny.
#[test]
fn sessions_through_pam_are_those_of_sshd() {
    let Some(account) = ready() else { return };
    let Some((_folder, etc)) = other_etc() else { return };
    let service = "auth required pam_permit.so\naccount required pam_permit.so\n\
                   session required pam_limits.so conf=/etc/test-limits\n\
                   session required pam_env.so conffile=/etc/test-conf envfile=/etc/test-env\n\
                   session required pam_umask.so umask=0002\n\
                   session required pam_mkhomedir.so\n\
                   session optional pam_motd.so motd=/etc/test-motd noupdate\n";
    let files = [
        ("pam.d/sshd", service),
        ("test-limits", "* hard nofile 300\n* soft nofile 200\n* - core 0\n* - priority 3\n"),
        ("test-conf", "FROM_CONF DEFAULT=conf\nADMIN DEFAULT=pam\nTIDE_SENT DEFAULT=pam\n"),
        ("test-env", "FROM_FILE=file\nMAIL=pam\nSSH_CLIENT=pam\n"),
        ("test-motd", "From a module.\n"),
    ];
    let write = |name: &str, text: &str| fs::write(etc.join(name), text).expect("a file");
    files.iter().for_each(|(name, text)| write(name, text));
    let lines = [
        "UsePAM yes",
        "AcceptEnv TIDE_*",
        "SetEnv ADMIN=1",
        "PrintMotd no",
        "PermitUserEnvironment yes",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "Subsystem env /usr/bin/env",
    ];
    let gateway = Gateway::start_with(&lines, |command| {
        *command = within(command, &etc);
        command.env("TZ", "UTC");
    });
    open_to_all(&gateway);
    let sshd = Sshd::start(&gateway, &lines, Some(&etc));
    let pair = Pair { gateway: &gateway, sshd: &sshd, account: &account };
    put_at_home(&account, ".ssh/environment", "OWN=file\nFROM_CONF=own\n");
    put_at_home(&account, ".bashrc", "PS1=\n");
    put_at_home(&account, ".bash_profile", "bind 'set enable-bracketed-paste off'\nexit 5\n");
    let seen = pair.same("environment", &[], &[ENV], "");
    for expected in ["FROM_CONF=conf", "FROM_FILE=file", "ADMIN=1", "TIDE_SENT=pam", "OWN=file"] {
        assert!(seen.out.lines().any(|line| line == expected), "{expected}: {seen:?}");
    }
    let seen = pair.same("process", &[], &[PROCESS], "");
    assert!(seen.out.lines().any(|line| line == "0002"), "{seen:?}");
    let seen = pair.same("open files", &[], &["ulimit -Sn; ulimit -Hn"], "");
    assert_eq!(seen.out, "200\n300");
    pair.same("a terminal", &["-tt"], &["umask; ulimit -n; nice; stty -a | head -1"], "");
    pair.same("a subsystem", &["-s"], &["env"], "");
    let seen = pair.same("a shell", &["-tt"], &[], "");
    assert!(seen.out.contains("From a module."), "{seen:?}");
    put_at_home(&account, ".hushlogin", "");
    let seen = pair.same("hushlogin", &["-tt"], &[], "");
    assert!(!seen.out.contains("From a module."), "{seen:?}");
    write("pam.d/sshd", &format!("{service}session required pam_deny.so\n"));
    for (flags, words) in [(&[][..], &["echo main"][..]), (&["-tt"], &[]), (&["-s"], &["env"])] {
        let seen = pair.same("no session", flags, words, "");
        assert_eq!(seen.code, Some(254), "{seen:?}");
    }
}

/// ForceCommand, and what stands in /etc.
#[test]
fn files_in_etc_are_shown_and_run() {
    let Some(account) = ready() else { return };
    let Some((_folder, etc)) = other_etc() else { return };
    fs::write(etc.join("motd"), "Message of\nthe day\n").expect("a file");
    fs::write(etc.join("ssh/sshrc"), "echo sshrc $USER; cat; echo sshrc-err >&2\n")
        .expect("a file");
    let lines = ["PermitUserRC yes", "PrintMotd yes", "Subsystem env /usr/bin/env"];
    let gateway = Gateway::start_with(&lines, |command| {
        *command = within(command, &etc);
        command.env("TZ", "UTC");
    });
    open_to_all(&gateway);
    let sshd = Sshd::start(&gateway, &lines, Some(&etc));
    let pair = Pair { gateway: &gateway, sshd: &sshd, account: &account };
    // Nothing that the shell itself would say.
    put_at_home(&account, ".bashrc", "PS1=\n");
    put_at_home(&account, ".bash_profile", "bind 'set enable-bracketed-paste off'\nexit 5\n");
    let seen = pair.same("motd", &["-tt"], &[], "");
    assert!(seen.out.starts_with("Message of\nthe day\nsshrc "), "{seen:?}");
    assert_eq!(seen.code, Some(5));
    pair.same("no terminal", &["-T"], &[], "");
    pair.same("a command", &["-tt"], &["echo main"], "");
    pair.same("a subsystem", &["-s"], &["env"], "");
    put_at_home(&account, ".hushlogin", "");
    let seen = pair.same("hushlogin", &["-tt"], &[], "");
    assert!(!seen.out.contains("Message"), "{seen:?}");
    put_at_home(&account, ".ssh/rc", "echo own rc\n");
    let seen = pair.same("an rc of one's own", &[], &["echo main"], "");
    assert_eq!(seen.out, "own rc\nmain");
    fs::write(etc.join("nologin"), "Closed\nfor today: $(id) %s\n").expect("a file");
    for (flags, words) in
        [(&[][..], &["echo main"][..]), (&["-T"], &[]), (&["-tt"], &[]), (&["-s"], &["sftp"])]
    {
        let seen = pair.same("nologin", flags, words, "");
        assert_eq!(seen.code, Some(254), "{seen:?}");
        let said = format!("{}{}", seen.out, seen.err);
        if !flags.contains(&"-s") {
            assert_eq!(said, "Closed\nfor today: $(id) %s", "{flags:?}");
        }
    }
    let root = here(&gateway, &["User=root"], &["echo root"]).output().expect("ssh starts");
    assert!(root.status.success(), "{root:?}");
    fs::remove_file(etc.join("nologin")).expect("gone");
    let forced = ["ForceCommand echo forced-$SSH_ORIGINAL_COMMAND", "Subsystem env /usr/bin/env"];
    let gateway = Gateway::start_with(&forced, |command| {
        *command = within(command, &etc);
        command.env("TZ", "UTC");
    });
    open_to_all(&gateway);
    let sshd = Sshd::start(&gateway, &forced, Some(&etc));
    let pair = Pair { gateway: &gateway, sshd: &sshd, account: &account };
    allow(&gateway, "command=\"echo the key's\"");
    pair.same("the administrator's command", &[], &["echo main"], "");
    pair.same("the administrator's command", &["-s"], &["env"], "");
    pair.same("the administrator's command", &["-tt"], &[], "");
}
