//! PAM, with services of the test's own: the gateway sees them in the place of /etc/pam.d, in a mount
//! namespace that nobody else is in.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc;

use tempfile::TempDir;

use crate::out;
use crate::support::account::Account;
use crate::support::processes::kill;
use crate::support::{Gateway, make_executable, mount_over, run_ok, wait_for};

/// Of "correct horse", by crypt(3).
const HASH: &str = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$zwtVrjrUCmXcyLTs6oxLTQlzifSUkF8RHJ./tK5KU79";
const PASSWORD: &str = "correct horse";

/// What the module asks: says yes to one password, notes who was asked about and whether the password
/// was that one, and hangs as long as a file is there.
const MODULE: &str = r#"#!/bin/sh
password=$(tr -d '\0')
[ "$password" = 'correct horse' ] && verdict=right || verdict=wrong
echo "$PAM_TYPE $PAM_USER $PAM_RHOST $PAM_TTY $PAM_SERVICE ${#password} $verdict" >> "${0%/*}/asked"
tries=0
while [ -e "${0%/*}/hang-$PAM_USER" ] && [ $tries -lt 600 ]; do sleep 0.1; tries=$((tries + 1)); done
[ $verdict = right ]
"#;

/// The module decides; another has credentials, without which PAM refuses.
const ASKS: &str =
    "auth required pam_exec.so quiet expose_authtok FOLDER/module\nauth required pam_permit.so\n";

/// A gateway with these services, and a folder of theirs.
struct Site {
    services: TempDir,
    gateway: Gateway,
}

/// Nothing to do where mounts are not permitted.
fn can_mount() -> bool {
    let output = Command::new("unshare").args(["-m", "true"]).output();
    let can = output.is_ok_and(|output| output.status.success());
    if !can {
        println!("not run: mounts are not permitted here");
    }
    can
}

fn folder(services: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    fs::write(folder.path().join("module"), MODULE).expect("a script");
    make_executable(&folder.path().join("module"));
    for (name, text) in services {
        // Scripts are reached by the folder's own path, which is not the one that the gateway sees.
        let text = text.replace("FOLDER", &folder.path().display().to_string());
        fs::write(folder.path().join(name), text).expect("a service");
    }
    folder
}

impl Site {
    fn new(services: &[(&str, &str)], lines: &[&str]) -> Site {
        let services = folder(services);
        let change = |command: &mut Command| {
            mount_over(command, services.path(), Path::new("/etc/pam.d"));
        };
        let gateway = Gateway::start_with(lines, change);
        let at = gateway.folder.path();
        fs::set_permissions(at, PermissionsExt::from_mode(0o755)).expect("a mode");
        fs::write(gateway.path("types"), "#!/bin/sh\necho \"$PASSWORD\"\n").expect("a script");
        make_executable(&gateway.path("types"));
        Site { services, gateway }
    }

    fn client(&self, user: &str, method: &str, password: &str) -> Command {
        self.client_at("ERROR", user, method, password)
    }

    fn client_at(&self, level: &str, user: &str, method: &str, password: &str) -> Command {
        let level = format!("LogLevel={level}");
        let (user, method) = (format!("User={user}"), format!("PreferredAuthentications={method}"));
        let options = [&*level, &*user, &*method, "BatchMode=no", "NumberOfPasswordPrompts=1"];
        let mut ssh = self.gateway.ssh(&options, &["echo in"]);
        ssh.env("SSH_ASKPASS", self.gateway.path("types")).env("SSH_ASKPASS_REQUIRE", "force");
        ssh.env("PASSWORD", password);
        ssh
    }

    fn log_in(&self, user: &str, method: &str, password: &str) -> Output {
        self.client(user, method, password).output().expect("ssh starts")
    }

    fn assert_in(&self, user: &str, method: &str, password: &str) {
        let output = self.log_in(user, method, password);
        assert_eq!(out(&output), "in\n", "{user} {method}: {output:?}\n{}", self.gateway.log());
    }

    /// He is refused, and the log says why.
    fn assert_out(&self, user: &str, method: &str, password: &str, why: &str) {
        let before = self.gateway.log().matches(why).count();
        let output = self.log_in(user, method, password);
        assert_eq!(out(&output), "", "{user} {method}: {output:?}");
        self.gateway.tells_times(why, before + 1);
    }

    fn asked(&self) -> Vec<String> {
        let text = fs::read_to_string(self.services.path().join("asked")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn sessions(&self) -> Vec<String> {
        let text = fs::read_to_string(self.services.path().join("sessions")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn run(&self, user: &str, flags: &[&str], words: &[&str]) -> Output {
        let mut ssh = self.gateway.ssh(&[&format!("User={user}")], &[]);
        ssh.args(flags).args(words).output().expect("ssh starts")
    }

    fn begin_with(&self, user: &str, words: &[&str]) -> Child {
        let mut client = self.gateway.ssh(&[&format!("User={user}")], words);
        client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("ssh starts")
    }

    fn begin(&self, user: &str, method: &str, password: &str) -> Child {
        let mut client = self.client(user, method, password);
        client.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("ssh starts")
    }
}

#[test]
fn pam_decides_about_passwords_and_accounts() {
    let (Some(ann), Some(bob), true) = (Account::new(), Account::new(), can_mount()) else {
        return;
    };
    let session = "session required pam_permit.so\n";
    let account = format!("account required pam_succeed_if.so quiet user != {}\n", bob.name);
    let service = format!("{ASKS}{account}{session}");
    // So the number of its connection stands before each line, as ban lists want it.
    let level = "LogLevel VERBOSE";
    let lines = ["UsePAM yes", "PermitRootLogin prohibit-password", level];
    let site = Site::new(&[("sshd", &service), ("other", "auth required pam_deny.so\n")], &lines);
    for method in ["password", "keyboard-interactive"] {
        site.assert_in(&ann.name, method, PASSWORD);
        let wrong = "PAM (service sshd) does not take the password";
        site.assert_out(&ann.name, method, "correct hors", wrong);
        let closed = "PAM (service sshd) does not let the account be used";
        site.assert_out(&bob.name, method, PASSWORD, closed);
        site.assert_out("nobody-at-all", method, PASSWORD, "there is no such user");
        site.assert_out("root", method, PASSWORD, "PermitRootLogin lets root in by keys alone");
    }
    // All of them had the same conversation; no module saw a password that must not let in.
    let line = |user: &str, len, verdict| format!("auth {user} 127.0.0.1 ssh sshd {len} {verdict}");
    let once = [
        line(&ann.name, 13, "right"),
        line(&ann.name, 12, "wrong"),
        line(&bob.name, 13, "right"),
        line("nobody-at-all", 13, "wrong"),
        line("root", 13, "wrong"),
    ];
    assert_eq!(site.asked(), [once.clone(), once].concat());
    // Keys are no matter of PAM's, accounts are.
    site.assert_in(&ann.name, "publickey", "");
    site.assert_in("root", "publickey", "");
    let denied = format!(
        "]: Access denied for user {} by PAM account configuration: PAM (service sshd) does not let the \
         account be used: ",
        bob.name
    );
    site.assert_out(&bob.name, "publickey", "", &denied);
    // He hears a failure, and no success before it.
    let mut client = site.client_at("DEBUG3", &bob.name, "publickey", "");
    let told = client.output().expect("ssh starts");
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("Permission denied (publickey"), "{told}");
    assert!(told.contains("receive packet: type 51"), "{told}");
    assert!(!told.contains("receive packet: type 52"), "{told}");
    assert!(bob.delegates().is_empty(), "nothing was started for him");
    assert!(!site.gateway.log().contains(PASSWORD), "a password in the log");
    site.gateway.assert_alive();
}

/// The module that every system has, with the shadow database.
#[test]
fn pam_unix_knows_passwords_and_expired_accounts() {
    let (Some(ann), true) = (Account::new(), can_mount()) else { return };
    let service = "auth required pam_unix.so nodelay nullok\naccount required pam_unix.so\n\
                   session required pam_unix.so\n";
    let site = Site::new(&[("unix", service)], &["UsePAM yes", "PAMServiceName unix"]);
    ann.change(&["-p", HASH]);
    site.assert_in(&ann.name, "password", PASSWORD);
    let wrong = "PAM (service unix) does not take the password";
    site.assert_out(&ann.name, "password", "x", wrong);
    site.assert_out(&ann.name, "password", "", wrong);
    site.assert_out("nobody-at-all", "password", PASSWORD, "there is no such user");
    // Where PAM knows accounts, a locked password is a matter of passwords alone, as for sshd.
    ann.change(&["-p", &format!("!{HASH}")]);
    site.assert_out(&ann.name, "password", PASSWORD, wrong);
    site.assert_in(&ann.name, "publickey", "");
    // No password at all: PermitEmptyPasswords is no, whatever the service says.
    ann.change(&["-p", ""]);
    site.assert_out(&ann.name, "password", "", wrong);
    ann.change(&["-p", HASH, "-e", "1990-01-01"]);
    let expired = "PAM (service unix) does not let the account be used: User account has expired";
    site.assert_out(&ann.name, "password", PASSWORD, expired);
    site.assert_out(&ann.name, "publickey", "", expired);
}

/// Answers by what it is asked, which it notes.
const ANSWERS: &str = r#"#!/bin/sh
echo "$1" | sed 's/^([^)]*) //' >> "${0%/*}/prompts"
case "$1" in
*[Nn]ew*) echo "$NEW" ;;
*) echo "$PASSWORD" ;;
esac
"#;

impl Site {
    /// What was asked, and how it went; with a wrong password the new one is never asked for.
    fn converse(&self, user: &str, password: &str, new: &str) -> (Output, Vec<String>) {
        let (script, prompts) = (self.gateway.path("answers"), self.gateway.path("prompts"));
        fs::write(&script, ANSWERS).expect("a script");
        make_executable(&script);
        let _ = fs::remove_file(&prompts);
        let methods = "publickey,keyboard-interactive";
        let mut client = self.client_at("INFO", user, methods, password);
        client.env("SSH_ASKPASS", &script).env("NEW", new);
        let output = client.output().expect("ssh starts");
        let prompts = fs::read_to_string(&prompts).unwrap_or_default();
        (output, prompts.lines().map(str::to_owned).collect())
    }
}

/// What modules ask reaches the user, round by round; so does a password that has expired. A key comes
/// first here.
#[test]
fn modules_ask_what_they_like() {
    let (Some(ann), true) = (Account::new(), can_mount()) else { return };
    let service = "auth optional pam_echo.so file=FOLDER/hello\n\
                   auth required pam_unix.so nodelay\naccount required pam_unix.so\n\
                   password required pam_unix.so\nsession required pam_permit.so\n";
    let files = [("sshd", service), ("hello", "Hello %u.\n")];
    let chain = "AuthenticationMethods publickey,keyboard-interactive";
    let site = Site::new(&files, &["UsePAM yes", chain]);
    ann.change(&["-p", HASH]);
    let told = |output: &Output, text: &str| {
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(err.contains(text), "{err}\n{}", site.gateway.log());
    };
    let (output, prompts) = site.converse(&ann.name, PASSWORD, "");
    assert_eq!((&*out(&output), &*prompts), ("in\n", &["Password: ".to_owned()][..]));
    told(&output, &format!("Hello {}.", ann.name));
    let (output, wrong) = site.converse(&ann.name, "x", "");
    assert_eq!((&*out(&output), wrong), ("", prompts));
    // What he is told with an account that has ended is a failure all the same.
    ann.change_age(&["-d", "0"]);
    let (output, prompts) = site.converse(&ann.name, PASSWORD, "another horse battery");
    assert_eq!(out(&output), "in\n", "{prompts:?} {output:?}\n{}", site.gateway.log());
    let rounds = ["Password: ", "Current password: ", "New password: ", "Retype new password: "];
    assert_eq!(prompts, rounds);
    told(&output, "You are required to change your password immediately");
    let (output, _) = site.converse(&ann.name, PASSWORD, "");
    assert_eq!(out(&output), "", "the one before");
    let (output, prompts) = site.converse(&ann.name, "another horse battery", "");
    assert_eq!((&*out(&output), prompts.len()), ("in\n", 1), "{output:?}");
    assert!(!site.gateway.log().contains("battery"), "a password in the log");
}

/// The same questions for whoever does not exist, and no answer is right.
#[test]
fn case_65_strangers_are_asked_the_same() {
    let (Some(ann), true) = (Account::new(), can_mount()) else { return };
    let service = "auth required pam_unix.so nodelay\naccount required pam_unix.so\n\
                   session required pam_permit.so\n";
    let site = Site::new(&[("sshd", service)], &["UsePAM yes", "AllowUsers tidetest* root"]);
    for user in [&*ann.name, "tidetest-nobody", "root", "daemon"] {
        site.assert_out(user, "keyboard-interactive", "x", "What was typed does not let ");
        let output = site.client_at("DEBUG2", user, "keyboard-interactive", "x").output();
        let told = String::from_utf8_lossy(&output.expect("ssh starts").stderr).into_owned();
        let rounds = told.matches("input_userauth_info_req: num_prompts 1").count();
        assert_eq!(rounds, 1, "{user}: {told}");
    }
}

const NONE_BLOCKED: &str = "0000000000000000";

/// What a module notes of sessions: when, which signals are blocked, and whose process it runs in.
const NOTES: &str = r#"#!/bin/sh
blocked=$(sed -n 's/^SigBlk:[[:space:]]*//p' /proc/$$/status)
echo "$PAM_TYPE $PAM_USER $PAM_TTY $blocked $(ps -o ppid= -p $$ | tr -d ' ')" >> "${0%/*}/sessions"
"#;

/// Sessions with modules of all sorts; this account gets none.
fn site_with_sessions(bob: &Account, lines: &[&str]) -> Site {
    let service = format!(
        "auth required pam_permit.so\naccount required pam_permit.so\n\
         session required pam_exec.so quiet FOLDER/notes\n\
         session required pam_limits.so conf=FOLDER/limits\n\
         session required pam_env.so conffile=FOLDER/conf envfile=FOLDER/environment\n\
         session required pam_umask.so umask=0027\n\
         session optional pam_echo.so file=FOLDER/hello\n\
         session [success=1 default=ignore] pam_succeed_if.so quiet user != {}\n\
         session required pam_deny.so\n",
        bob.name
    );
    let files = [
        ("sshd", &*service),
        ("notes", NOTES),
        ("limits", "* hard nofile 200\n* soft nofile 100\n* - core 0\n"),
        ("conf", "FROM_CONF DEFAULT=conf-@{PAM_USER}\n"),
        ("environment", "FROM_FILE=file\n"),
        ("hello", "Hello %u.\n"),
    ];
    let lines = [&["UsePAM yes", "PrintLastLog no", "PrintMotd no"], lines].concat();
    let site = Site::new(&files, &lines);
    make_executable(&site.services.path().join("notes"));
    site
}

/// Sessions are opened before anything of the account runs, once for each connection, and closed when it
/// is over, however it ends; what modules say holds for programs.
#[test]
fn pam_opens_and_closes_sessions() {
    let (Some(ann), Some(bob), true) = (Account::new(), Account::new(), can_mount()) else {
        return;
    };
    let site = site_with_sessions(&bob, &[]);
    let sessions = || site.sessions();
    let output = site.run(&ann.name, &[], &[FACTS]);
    let log = site.gateway.log();
    let expected = format!("conf-{} file 0027 100 200\n", ann.name);
    assert_eq!(out(&output), expected, "{output:?}\n{log}");
    wait_for("the end of the session", || sessions().len() == 2);
    let noted = sessions();
    let pid = noted[0].rsplit(' ').next().expect("a process");
    let line = |what: &str, user: &str| format!("{what} {user} ssh {NONE_BLOCKED} {pid}");
    assert_eq!(noted, ["open_session", "close_session"].map(|what| line(what, &ann.name)));
    wait_for("its process to end", || site.gateway.parts("pam").is_empty());
    // Files, and connections that are only forwarded, have one too.
    let output = site.gateway.sftp(&[&format!("User={}", ann.name)], "ls\n");
    assert!(output.status.success(), "{output:?}");
    wait_for("the end of the session", || sessions().len() == 4);
    // A shell at a terminal is told what modules have said.
    let mut ssh = site.gateway.ssh(&[&format!("User={}", ann.name)], &[]);
    let shell = ssh.arg("-tt").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut shell = shell.expect("ssh starts");
    shell.stdin.take().expect("input").write_all(b"env | grep TIDEGATE; exit\n").expect("typed");
    let shown = shell.wait_with_output().expect("its end");
    let shown = out(&shown);
    assert!(shown.contains(&format!("Hello {}.", ann.name)), "{shown}");
    assert!(!shown.contains("TIDEGATE_"), "{shown}");
    wait_for("the end of the session", || sessions().len() == 6);
    // His process is killed: that ends the session too.
    let mut held = site.begin_with(&ann.name, &["exec sleep 1000"]);
    wait_for("a session", || {
        // The processes of sessions before are gone.
        let its_own = ann.delegates().len() == 1;
        sessions().len() == 7 && !ann.processes("sleep").is_empty() && its_own
    });
    let pid = ann.delegates()[0].to_string();
    run_ok(Command::new("kill").args(["-KILL", &pid]));
    assert!(!held.wait().expect("its end").success());
    wait_for("the end of the session", || sessions().len() == 8);
    // A service manager that ends all processes at once reaches the one that keeps the session too, as soon as
    // it is open and when there is a program.
    for runs in [false, true] {
        let (sleeping, noted) = (ann.processes("sleep"), sessions().len());
        let mut held = site.begin_with(&ann.name, &["exec sleep 1000"]);
        wait_for("a session", || {
            // Those of sessions before may be about to end.
            let is_new = |pid: &u32| !sleeping.contains(pid);
            sessions().len() == noted + 1 && (!runs || ann.processes("sleep").iter().any(is_new))
        });
        let pid = sessions()[noted].rsplit(' ').next().expect("a process").to_owned();
        run_ok(Command::new("kill").args(["-TERM", &pid]));
        assert!(!held.wait().expect("its end").success());
        wait_for("the end of the session", || sessions().len() == noted + 2);
    }
    wait_for("their processes to end", || site.gateway.parts("pam").is_empty());
}

/// What a session finds of what modules have set.
const FACTS: &str = "echo $FROM_CONF $FROM_FILE $(umask) $(ulimit -Sn) $(ulimit -Hn)";

/// A gateway whose number is in a file, for it is not always that of our child.
struct Upgraded {
    site: Site,
    folder: TempDir,
}

impl Upgraded {
    fn start(bob: &Account) -> Upgraded {
        let folder = tempfile::tempdir().expect("a folder");
        let line = format!("PidFile {}", folder.path().join("pid").display());
        let upgraded = Upgraded { site: site_with_sessions(bob, &[&line]), folder };
        wait_for("the PidFile", || upgraded.pid().is_some());
        upgraded
    }

    fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.folder.path().join("pid")).ok()?.trim().parse().ok()
    }

    /// Upgrades, and waits until the program before has ended.
    fn upgrade(&self) {
        let before = self.pid().expect("a PidFile");
        kill("-USR2", before);
        wait_for("another program", || self.pid().is_some_and(|pid| pid != before));
        wait_for("the program before to end", || has_ended(before));
    }
}

impl Drop for Upgraded {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            kill("-TERM", pid);
            wait_for("the gateway's end", || has_ended(pid));
        }
    }
}

/// One that only waits to be asked how has ended.
fn has_ended(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.is_empty() || status.contains("State:\tZ")
}

/// A shell at a terminal, with which others may share the connection.
struct Shell(Child, BufReader<ChildStdout>);

impl Shell {
    fn begin(mut ssh: Command) -> Shell {
        ssh.args(["-tt", "exec sh"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = ssh.spawn().expect("ssh starts");
        let shown = BufReader::new(child.stdout.take().expect("its output"));
        Shell(child, shown)
    }

    fn type_line(&mut self, line: &str) {
        writeln!(self.0.stdin.as_mut().expect("input"), "{line}").expect("typed");
    }

    /// What is computed there tells it from an echo.
    fn assert_computes(&mut self) {
        self.type_line("echo $((20 + 1))st word");
        let mut line = String::new();
        while !line.contains("21st word") {
            line.clear();
            assert!(self.1.read_line(&mut line).expect("a line") > 0, "the shell has ended");
        }
    }
}

/// A login goes on in the next program: what keeps its session stays, has that program's processes act, and
/// closes the session once, when the login is over. So it does where the program is killed.
#[test]
fn sessions_go_on_in_the_next_program_and_are_closed_once() {
    let (Some(ann), Some(bob), true) = (Account::new(), Account::new(), can_mount()) else {
        return;
    };
    let count = std::env::var("TIDEGATE_UPGRADES").ok().and_then(|text| text.parse().ok());
    for (count, killed) in [(count.unwrap_or(3), false), (1, true)] {
        let upgraded = Upgraded::start(&bob);
        let gateway = &upgraded.site.gateway;
        let user = format!("User={}", ann.name);
        let path = format!("ControlPath={}", gateway.path("shared").display());
        let mut shell = Shell::begin(gateway.ssh(&[&user, &path, "ControlMaster=yes"], &[]));
        shell.assert_computes();
        for _ in 0..count {
            let before = ann.delegates();
            upgraded.upgrade();
            shell.assert_computes();
            let now = ann.delegates();
            assert!(now.len() == 1 && now != before, "{before:?} {now:?}\n{}", gateway.log());
            // In a session that begins now, all that modules have set is as it was.
            let mut other = gateway.ssh(&[&user, &path, "ControlMaster=no"], &[FACTS]);
            let facts = format!("conf-{} file 0027 100 200\n", ann.name);
            assert_eq!(out(&run_ok(&mut other)), facts);
            assert_eq!(upgraded.site.sessions().len(), 1, "{:?}", upgraded.site.sessions());
        }
        if killed {
            kill("-KILL", upgraded.pid().expect("a PidFile"));
            shell.assert_computes();
            assert_eq!(upgraded.site.sessions().len(), 1);
        }
        shell.type_line("exit 3");
        assert_eq!(shell.0.wait().expect("its end").code(), Some(3), "{}", gateway.log());
        wait_for("the end of the session", || upgraded.site.sessions().len() == 2);
        let noted = upgraded.site.sessions();
        let pid = noted[0].rsplit(' ').next().expect("a process");
        let line = |what: &str| format!("{what} {} ssh {NONE_BLOCKED} {pid}", ann.name);
        assert_eq!(noted, ["open_session", "close_session"].map(line));
        let keeper = pid.parse().expect("a number");
        wait_for("its process to end", || has_ended(keeper) && ann.delegates().is_empty());
        assert_eq!(upgraded.site.sessions().len(), 2, "closed once");
        if !killed {
            let log = gateway.log();
            assert!(!log.contains("ERROR"), "{log}");
            upgraded.site.gateway.assert_alive();
        }
    }
}

#[test]
fn whoever_gets_no_session_is_told_so_and_has_nothing_else() {
    let (Some(bob), true) = (Account::new(), can_mount()) else { return };
    let site = site_with_sessions(&bob, &[]);
    for (flags, words) in [(&[][..], &["echo in"][..]), (&["-s"], &["sftp"])] {
        let output = site.run(&bob.name, flags, words);
        assert_eq!(output.status.code(), Some(254), "{output:?}");
        assert_eq!(out(&output), format!("Hello {}.\n", bob.name));
    }
    let output = site.run(&bob.name, &["-W", &format!("127.0.0.1:{}", site.gateway.port)], &[]);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    site.gateway.tells("PAM: pam_open_session(): ");
}

/// Where each connection has processes of its own, PAM has its own among them: it decides as ever, and ends with
/// the login.
#[test]
fn pam_decides_where_connections_have_processes_of_their_own() {
    let (Some(ann), true) = (Account::new(), can_mount()) else { return };
    let service = format!("{ASKS}account required pam_permit.so\nsession required pam_permit.so\n");
    let lines = ["UsePAM yes", "TidegateIsolation per-connection"];
    let site = Site::new(&[("sshd", &service)], &lines);
    for method in ["password", "keyboard-interactive", "publickey"] {
        site.assert_in(&ann.name, method, PASSWORD);
    }
    assert_eq!(site.asked().len(), 2, "{:?}", site.asked());
    let output = site.log_in(&ann.name, "password", "incorrect zebra");
    assert_eq!(out(&output), "", "{output:?}");
    let mut first = site.begin_with(&ann.name, &["sleep 60"]);
    let mut second = site.begin_with(&ann.name, &["sleep 60"]);
    wait_for("two sessions", || site.gateway.parts("pam").len() == 2);
    for session in [&mut first, &mut second] {
        session.kill().expect("it runs");
        session.wait().expect("its end");
    }
    wait_for("their processes to end", || site.gateway.parts("pam").is_empty());
    site.gateway.assert_alive();
}

#[test]
fn case_129_a_module_that_hangs_holds_up_its_own_login_alone() {
    let (Some(ann), Some(bob), true) = (Account::new(), Account::new(), can_mount()) else {
        return;
    };
    let service = format!("{ASKS}account required pam_permit.so\nsession required pam_permit.so\n");
    let site = Site::new(&[("sshd", &service)], &["UsePAM yes"]);
    let hang = site.services.path().join(format!("hang-{}", ann.name));
    fs::write(&hang, "").expect("a file");
    let begun = |count| wait_for("the module to be asked", || site.asked().len() == count);
    let mut late = site.begin(&ann.name, "password", PASSWORD);
    begun(1);
    let helpers = site.gateway.parts("pam");
    assert_eq!(helpers.len(), 1, "a process of its own");
    let words = fs::read(format!("/proc/{}/cmdline", helpers[0])).expect("its words");
    assert_eq!(words, b"tidegate\0pam\0");
    let environment = fs::read(format!("/proc/{}/environ", helpers[0])).expect("its environment");
    assert_eq!(environment.split(|byte| *byte == 0).filter(|v| !v.is_empty()).count(), 1);
    site.assert_in(&bob.name, "password", PASSWORD);
    site.assert_in(&ann.name, "publickey", "");
    // One whose process is lost is refused.
    let mut lost = site.begin(&ann.name, "password", PASSWORD);
    begun(3);
    // Those of sessions that are over end too.
    wait_for("two processes", || site.gateway.parts("pam").len() == 2);
    let other = site.gateway.parts("pam").into_iter().find(|pid| *pid != helpers[0]);
    let other = other.expect("another process").to_string();
    run_ok(Command::new("kill").args(["-KILL", &other]));
    assert!(!lost.wait().expect("its end").success());
    let why = "PAM (service sshd) cannot be asked, so nobody gets in: the process that asks PAM has \
               ended";
    site.gateway.tells(why);
    fs::remove_file(&hang).expect("removed");
    assert!(late.wait().expect("its end").success(), "it was only late");
    wait_for("its end", || site.gateway.parts("pam").is_empty());
}

/// Traces a process while this is there: whoever started it does not see its end meanwhile, as with one
/// that hangs in the kernel.
struct Holder {
    _release: mpsc::Sender<()>,
}

impl Holder {
    /// `None` where nobody may.
    fn of(pid: u32) -> Option<Holder> {
        let (release, released) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        std::thread::Builder::new()
            .spawn(move || {
                // SAFETY: takes numbers.
                let held = unsafe {
                    libc::ptrace(libc::PTRACE_SEIZE, pid, std::ptr::null_mut::<u8>(), 0_usize)
                };
                tell.send(held).expect("heard");
                let _ = released.recv();
            })
            .expect("a thread");
        let held = told.recv().expect("an answer") == 0;
        held.then_some(Holder { _release: release })
    }
}

/// The same where even killing its process does not end it: whoever lets go of the login does not wait.
#[test]
fn case_129_a_process_that_does_not_end_holds_up_nobody() {
    let (Some(ann), Some(bob), true) = (Account::new(), Account::new(), can_mount()) else {
        return;
    };
    let service = format!("{ASKS}account required pam_permit.so\nsession required pam_permit.so\n");
    let site = Site::new(&[("sshd", &service)], &["UsePAM yes"]);
    // She is asked, and does not answer.
    let (thinks, asked) = (site.gateway.path("thinks"), site.gateway.path("asked"));
    let script =
        format!("#!/bin/sh\ntouch {0}\nwhile [ -e {0} ]; do sleep 0.1; done\n", asked.display());
    fs::write(&thinks, script).expect("a script");
    make_executable(&thinks);
    let mut client = site.client(&ann.name, "keyboard-interactive", "");
    client.env("SSH_ASKPASS", &thinks).stderr(Stdio::null());
    let mut client = client.spawn().expect("ssh starts");
    wait_for("her to be asked", || asked.exists());
    let helpers = site.gateway.parts("pam");
    let [helper] = helpers[..] else { panic!("one process asks: {helpers:?}") };
    let holder = Holder::of(helper);
    if holder.is_none() {
        println!("not run to its end: nobody may trace here");
    }
    client.kill().expect("killed");
    client.wait().expect("its end");
    fs::remove_file(&asked).expect("removed");
    let state = || fs::read_to_string(format!("/proc/{helper}/status")).unwrap_or_default();
    wait_for("it to be killed", || holder.is_none() || state().contains("State:\tZ"));
    for method in ["keyboard-interactive", "password", "publickey"] {
        site.assert_in(&bob.name, method, PASSWORD);
    }
    if holder.is_none() {
        return;
    }
    let late = format!("Process {helper}, which asks PAM for {}, ", ann.name);
    site.gateway.tells(&format!("{late}was killed and does not end"));
    drop(holder);
    site.gateway.tells(&format!("{late}has ended"));
    wait_for("its end", || site.gateway.parts("pam").is_empty());
}

fn library() -> Option<PathBuf> {
    let folders = ["/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64", "/lib", "/usr/lib"];
    folders.iter().map(|at| Path::new(at).join("libpam.so.0")).find(|path| path.exists())
}

/// Where `-t` is run instead: of the gateway's own command line, and of sshd's.
const CHECKS: [&[&str]; 3] = [&["serve"], &["serve", "-t"], &["sshd", "-t"]];

/// What a gateway says that is started, or only looks, with this configuration in a folder of its own.
fn told(config: &str, words: &[&str], change: &dyn Fn(&mut Command)) -> (bool, String) {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).expect("a mode");
    let at = folder.path().join("config");
    fs::write(&at, format!("# ours\n{config}")).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(words).arg("-f").arg(&at).stdin(Stdio::null());
    change(&mut command);
    let output = command.output().expect("it starts");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), told.replace(&at.display().to_string(), "FILE"))
}

#[test]
fn what_pam_needs_is_asked_for_at_the_start_and_by_a_check() {
    let (Some(_), Some(library), true) = (Account::new(), library(), can_mount()) else { return };
    let keys = tempfile::tempdir().expect("a folder");
    let key = keys.path().join("key");
    run_ok(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
    let config = format!("UsePAM yes\nListenAddress 127.0.0.1:0\nHostKey {}\n", key.display());
    let services = folder(&[]);
    let over = |command: &mut Command| {
        mount_over(command, services.path(), Path::new("/etc/pam.d"));
    };
    for words in CHECKS {
        let refused = |config: &str, change: &dyn Fn(&mut Command)| {
            let (fine, told) = told(config, words, change);
            assert!(!fine, "{words:?}: {told}");
            told
        };
        let hides = |command: &mut Command| mount_over(command, Path::new("/dev/null"), &library);
        let told = refused(&config, &hides);
        let expected = "FILE:2: UsePAM yes: libpam.so.0 cannot be loaded";
        assert!(told.contains(expected) && told.contains("libpam0g"), "{told}");
        // Neither the service nor the one that stands in for all.
        let told = refused(&config, &over);
        let expected = "FILE:2: UsePAM yes: PAM cannot go by its service sshd: ";
        assert!(told.contains(expected), "{words:?}: {told}");
        // Of one login alone; the others have one that PAM can read.
        fs::write(services.path().join("sshd"), "auth required pam_deny.so\n").expect("a file");
        fs::write(services.path().join("other"), "auth required pam_deny.so\n").expect("a file");
        fs::write(services.path().join("staff"), "@include nowhere\n").expect("a file");
        let matched = format!("{config}Match User ann\nPAMServiceName staff\n");
        let told = refused(&matched, &over);
        let expected = "FILE:6: UsePAM yes: PAM cannot go by its service staff: ";
        assert!(told.contains(expected), "{words:?}: {told}");
        for service in ["sshd", "other", "staff"] {
            fs::remove_file(services.path().join(service)).expect("it was there");
        }
    }
}

/// PAM does with `other` what it does for sshd then; nobody who writes that name means it.
#[test]
fn a_pam_service_that_is_not_there_is_warned_of() {
    let (Some(_), true) = (Account::new(), can_mount()) else { return };
    let site = Site::new(
        &[("other", "auth required pam_deny.so\naccount required pam_permit.so\n")],
        &["UsePAM yes", "PAMServiceName staff"],
    );
    site.gateway
        .tells("config:2: /etc/pam.d/staff is not there: PAM goes by its service `other` instead");
}

/// Whoever is not root cannot start it, and can check a file that is root's.
#[test]
fn a_check_without_roots_rights_says_what_it_has_not_tried() {
    let Some(ann) = Account::new() else { return };
    let keys = tempfile::tempdir().expect("a folder");
    fs::set_permissions(keys.path(), PermissionsExt::from_mode(0o777)).expect("a mode");
    let key = keys.path().join("key").display().to_string();
    let as_ann = |command: &mut Command| {
        use std::os::unix::process::CommandExt;
        command.uid(ann.uid).gid(ann.uid);
    };
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", &key]);
    as_ann(&mut keygen);
    run_ok(&mut keygen);
    let config = format!("UsePAM yes\nListenAddress 127.0.0.1:0\nHostKey {key}\n");
    for words in CHECKS {
        let (fine, told) = told(&config, words, &as_ann);
        assert!(told.contains("FILE:2: UsePAM yes: only root can ask PAM"), "{words:?}: {told}");
        assert_eq!(fine, words.contains(&"-t"), "{words:?}: {told}");
        let not_tried = told.contains("warning: ") && told.contains("was not tried");
        assert_eq!(not_tried, fine, "{words:?}: {told}");
    }
}

/// Whoever guesses just before LoginGraceTime ends is told of like all who guess. Sshd's log has nothing then.
#[test]
fn a_password_that_is_asked_about_when_the_time_is_over_has_failed() {
    let (Some(ann), true) = (Account::new(), can_mount()) else { return };
    let site = Site::new(&[("sshd", ASKS)], &["UsePAM yes", "LoginGraceTime 3"]);
    let hang = site.services.path().join(format!("hang-{}", ann.name));
    fs::write(&hang, "").expect("a file");
    for (method, count) in [("password", 1), ("keyboard-interactive", 2)] {
        let mut late = site.begin(&ann.name, method, "a guess");
        site.gateway.tells_times("Timeout before authentication for connection from", count);
        site.gateway
            .tells_times(&format!("Failed {method} for {} from 127.0.0.1 port", ann.name), 1);
        assert!(!late.wait().expect("its end").success());
    }
    fs::remove_file(&hang).expect("removed");
}
