//! A gateway that runs as root and serves other accounts, each in a process of its own, and one
//! that an account has started for itself. Makes accounts and removes them, so it runs as root
//! only (`useradd` and `userdel` of the package passwd).
#![allow(clippy::disallowed_methods, reason = "tests wait on the real clock")]

#[path = "accounts/records.rs"]
mod records;
#[path = "accounts/residents.rs"]
mod residents;
#[path = "accounts/roots.rs"]
mod roots;
mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use support::account::Account;
use support::processes::kill;
use support::{Gateway, noise, run_ok, sha256, wait_for};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A gateway of root's whose keys let everybody in, and whose log everybody may read.
fn root_gateway(lines: &[&str], idle: Option<u32>) -> Gateway {
    let gateway = match idle {
        Some(milliseconds) => Gateway::start_with(lines, |command| {
            command.env("TIDEGATE_TEST_IDLE_TIME", milliseconds.to_string());
        }),
        None => Gateway::start(lines),
    };
    // The file of keys is read with the account's rights.
    fs::set_permissions(gateway.folder.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    gateway
}

fn ssh(gateway: &Gateway, user: &str, options: &[&str], words: &[&str]) -> Command {
    let user = format!("User={user}");
    let mut all = vec![&*user];
    all.extend(options);
    gateway.ssh(&all, words)
}

fn says(gateway: &Gateway, account: &Account, script: &str) -> String {
    let output = ssh(gateway, &account.name, &[], &[script]).output().expect("ssh starts");
    assert!(output.status.success(), "{script}: {output:?}\n{}", gateway.log());
    text(&output.stdout).trim_end().to_owned()
}

fn sftp(gateway: &Gateway, account: &Account, options: &[&str], batch: &str) -> Output {
    let user = format!("User={}", account.name);
    let mut all = vec![&*user];
    all.extend(options);
    gateway.sftp(&all, batch)
}

/// A session that stays open; its first output has been seen, and its program runs: a shell that is about to
/// become it may not hear a signal.
fn hold(gateway: &Gateway, account: &Account) -> Child {
    let before = account.processes("sleep");
    let mut child = ssh(gateway, &account.name, &[], &["echo here; exec sleep 1000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("ssh starts");
    let mut here = [0; 5];
    child.stdout.as_mut().expect("output").read_exact(&mut here).expect("the session begins");
    let is_new = |pid: &u32| !before.contains(pid);
    wait_for("its program", || account.processes("sleep").iter().any(is_new));
    child
}

fn end_of(child: &mut Child, limit: Duration) -> i32 {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("its status") {
            return status.code().unwrap_or(-1);
        }
        assert!(start.elapsed() < limit, "the session is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Children of a process that nobody has waited for.
/// What came from the server, by type and size, of a client's debugging; cookies and keys differ
/// anyway.
fn from_the_server(stderr: &[u8], user: &str) -> Vec<String> {
    let lines = text(stderr).replace(user, "USER");
    let told = ["receive packet", "can continue", "ermission"];
    let kept = lines.lines().filter(|line| told.iter().any(|word| line.contains(word)));
    kept.map(str::to_owned).collect()
}

fn zombies(parent: u32) -> usize {
    let output = Command::new("ps").args(["-o", "stat=", "--ppid", &parent.to_string()]).output();
    text(&output.expect("ps").stdout).lines().filter(|line| line.starts_with('Z')).count()
}

#[test]
fn a_command_runs_with_the_rights_of_the_account_and_nothing_more() {
    let Some(account) = Account::new() else { return };
    let gateway = root_gateway(&[], None);
    let rights = text(&run_ok(Command::new("id").arg(&account.name)).stdout);
    assert_eq!(says(&gateway, &account, "id"), rights.trim_end());
    assert!(rights.contains(&account.second_group()), "{rights}");
    assert_eq!(says(&gateway, &account, "pwd"), account.home.path().to_string_lossy());
    assert_eq!(says(&gateway, &account, "umask"), "0022");
    let facts = says(
        &gateway,
        &account,
        "grep -E '^(Uid|Gid|CapPrm|CapEff|CapAmb|SigBlk|SigIgn)' /proc/self/status",
    );
    for line in facts.lines() {
        let (key, values) = line.split_once(':').expect("a field");
        let values: Vec<&str> = values.split_whitespace().collect();
        match key {
            "Uid" => assert_eq!(values, vec![&*account.uid.to_string(); 4]),
            "Gid" => assert!(values.iter().all(|gid| *gid == values[0] && *gid != "0"), "{line}"),
            _ => assert_eq!(values, ["0000000000000000"], "{line}"),
        }
    }
    assert_eq!(facts.lines().count(), 7);
    // Pipes for the three streams, and nothing of ours or of the parent's: not its socket, through
    // which signatures of the host could be had.
    let open = says(&gateway, &account, "exec ls -l /proc/self/fd");
    let open: Vec<&str> = open.lines().filter(|line| line.contains("->")).collect();
    let own = |line: &&&str| !line.contains("/proc/") && !line.contains("/fd");
    assert_eq!(open.iter().filter(own).count(), 3, "{open:?}");
    assert!(open.iter().filter(own).all(|line| line.contains("pipe:")), "{open:?}");
    let environment = says(&gateway, &account, "env");
    assert!(environment.contains(&format!("USER={}", account.name)), "{environment}");
    assert!(environment.contains(&format!("HOME={}", account.home.path().display())));
    for line in environment.lines().filter(|line| !line.starts_with("SSH_")) {
        let name = line.split('=').next().unwrap_or_default();
        let known = ["USER", "LOGNAME", "HOME", "SHELL", "PATH", "PWD", "SHLVL", "_", "TZ", "MAIL"];
        assert!(known.contains(&name), "{line}");
    }
    assert_eq!(account.delegates().len(), 1, "all of it in one process\n{}", gateway.log());
}

#[test]
fn a_terminal_belongs_to_the_account() {
    let Some(account) = Account::new() else { return };
    let gateway = root_gateway(&[], None);
    let mut child = ssh(&gateway, &account.name, &["RequestTTY=force"], &[])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ssh starts");
    let mut input = child.stdin.take().expect("its input");
    let script = b"stat -c 'owner=%U mode=%a' $(tty); : > /dev/tty && echo controls-$((40+2)); \
        ps -o sid=,tpgid= -p $$ | tr -s ' '; echo shell-$$; stty size; exit 3\n";
    input.write_all(script).expect("typing");
    let output = child.wait_with_output().expect("ssh ends");
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{shown}\n{}", gateway.log());
    assert!(shown.contains(&format!("owner={} mode=6", account.name)), "{shown}");
    assert!(!shown.contains("mode=666") && !shown.contains("mode=622"), "{shown}");
    assert!(shown.contains("controls-42"), "{shown}");
}

/// scp's own protocol, served in the account's process: its home, its rights, its umask.
#[test]
fn copies_by_scp_are_those_of_the_account() {
    let Some(account) = Account::new() else { return };
    let gateway = root_gateway(&["SetEnv PATH=/nowhere"], None);
    let secret = gateway.path("secret");
    fs::write(&secret, "for root alone").expect("a file");
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).expect("a mode");
    let scp = |words: &[&str]| {
        let mut command = gateway.client(Path::new("scp"), &[&format!("User={}", account.name)]);
        command.arg("-O").args(words).output().expect("scp starts")
    };
    let local = gateway.path("local");
    fs::write(&local, "mine").expect("a file");
    fs::set_permissions(&local, PermissionsExt::from_mode(0o666)).expect("a mode");
    let (local, far) = (local.display().to_string(), secret.display());
    let output = scp(&[&local, "127.0.0.1:~/up"]);
    assert!(output.status.success(), "{output:?}\n{}", gateway.log());
    let meta = fs::metadata(account.at_home("up")).expect("it is there");
    assert_eq!((meta.uid(), meta.mode() & 0o777), (account.uid, 0o644));
    let output = scp(&[&format!("127.0.0.1:{far}"), "/dev/null"]);
    assert_eq!(text(&output.stderr), format!("scp: {far}: Permission denied\n"));
    assert_eq!(output.status.code(), Some(1));
    let output = scp(&[&local, "127.0.0.1:/etc/tidegate-must-not-exist"]);
    assert!(text(&output.stderr).contains("Permission denied"), "{output:?}");
    gateway.tells("scp -t");
}

#[test]
fn files_are_those_of_the_account() {
    let Some(account) = Account::new() else { return };
    let gateway = root_gateway(&[], None);
    let secret = gateway.path("secret");
    fs::write(&secret, "for root alone").expect("a file");
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).expect("a mode");
    fs::write(gateway.path("public"), "for all").expect("a file");
    let batch = format!("put {} mine\nmkdir inner\n", gateway.path("public").display());
    let output = sftp(&gateway, &account, &[], &batch);
    assert!(output.status.success(), "{output:?}\n{}", gateway.log());
    for name in ["mine", "inner"] {
        let found = fs::metadata(account.at_home(name)).expect("a new file");
        assert_eq!(found.uid(), account.uid, "{name}");
        assert_ne!(found.gid(), 0, "{name}");
        assert_eq!(found.mode() & 0o022, 0, "{name}");
    }
    for batch in [
        format!("get {} {}\n", secret.display(), gateway.path("stolen").display()),
        format!("put {} {}\n", gateway.path("public").display(), gateway.path("new").display()),
        format!("chmod 666 {}\n", secret.display()),
        format!("rm {}\n", secret.display()),
        "get /etc/shadow\n".to_owned(),
    ] {
        let output = sftp(&gateway, &account, &[], &batch);
        assert!(!output.status.success(), "{batch}: {output:?}");
        assert!(text(&output.stderr).contains("ermission denied"), "{batch}: {output:?}");
    }
    let output = ssh(&gateway, &account.name, &[], &[&format!("cat {}", secret.display())])
        .output()
        .expect("ssh starts");
    assert!(!output.status.success() && output.stdout.is_empty());
}

#[test]
fn keys_change_both_ways_with_the_host_key_far_away() {
    let Some(account) = Account::new() else { return };
    // Signatures do not differ by the driver: one kind is enough for the second.
    let kinds = if support::driver().as_deref() == Some("mio") { 1 } else { 3 };
    for host_key in &["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512"][..kinds] {
        let gateway = root_gateway(&[], None);
        let source = gateway.path("source");
        fs::write(&source, noise(24 << 20, 5)).expect("a file");
        let back = gateway.path("back");
        let batch = format!("put {} there\nget there {}\n", source.display(), back.display());
        let algorithm = format!("HostKeyAlgorithms={host_key}");
        let output = sftp(&gateway, &account, &["RekeyLimit=1M", &algorithm], &batch);
        assert!(output.status.success(), "{output:?}\n{}", gateway.log());
        assert_eq!(sha256(&source), sha256(&back));
        gateway.tells_times("Rekeyed", 40);
    }
    // And asked for by us.
    let gateway = root_gateway(&["RekeyLimit 1M"], None);
    let output = ssh(&gateway, &account.name, &[], &["head -c 24000000 /dev/zero"]).output();
    assert_eq!(output.expect("ssh starts").stdout.len(), 24_000_000);
    gateway.tells_times("Rekeyed", 10);
}

#[test]
fn an_idle_process_ends_and_the_next_login_starts_another() {
    let Some(account) = Account::new() else { return };
    let gateway = root_gateway(&[], Some(1000));
    let mut first = hold(&gateway, &account);
    assert_eq!(account.delegates().len(), 1);
    first.kill().and_then(|()| first.wait()).expect("its end");
    wait_for("the idle process to end", || account.delegates().is_empty());
    gateway.tells("has ended");
    assert_eq!(zombies(gateway.child.id()), 0);
    assert_eq!(says(&gateway, &account, "echo two"), "two");
    // Longer than the idle time, and nothing is idle.
    assert_eq!(says(&gateway, &account, "sleep 2; echo three"), "three");
    assert!(!gateway.log().contains("killing"), "{}", gateway.log());
}

/// Logins come just as the process takes its leave, over and over: none is lost.
#[test]
fn no_login_is_lost_to_a_farewell() {
    let Some(account) = Account::new() else { return };
    let gateway = root_gateway(&[], Some(60));
    let started = || gateway.log().matches("Started process").count();
    // A busy machine finds out late that nothing is open: pauses grow until it does.
    let goes_on = |n: u64| n < 20 || n < 200 && started() < 3;
    std::thread::scope(|scope| {
        for lane in 0..2_u64 {
            let (gateway, account, goes_on) = (&gateway, &account, &goes_on);
            scope.spawn(move || {
                for n in (0..).take_while(|n| goes_on(*n)) {
                    assert_eq!(says(gateway, account, "echo in"), "in");
                    let pause = (n * 13 + lane * 7) % 90 * (1 + n / 20);
                    std::thread::sleep(Duration::from_millis(pause));
                }
            });
        }
    });
    gateway.tells_times("Started process", 3);
    wait_for("the last process to end", || account.delegates().is_empty());
    wait_for("no zombies", || zombies(gateway.child.id()) == 0);
}

#[test]
fn a_killed_process_takes_its_own_connections_along_and_no_others() {
    let (Some(one), Some(other)) = (Account::new(), Account::new()) else { return };
    let gateway = root_gateway(&[], None);
    let mut root = ssh(&gateway, "root", &[], &["cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("ssh starts");
    let (mut first, mut second) = (hold(&gateway, &one), hold(&gateway, &one));
    let mut third = hold(&gateway, &other);
    let processes = one.delegates();
    assert_eq!(processes.len(), 1);
    kill("-9", processes[0]);
    for child in [&mut first, &mut second] {
        assert_eq!(end_of(child, Duration::from_secs(20)), 255);
    }
    assert_eq!(third.try_wait().expect("a status"), None);
    assert_eq!(says(&gateway, &one, "echo again"), "again");
    assert_ne!(one.delegates(), processes);
    root.stdin.take().expect("input").write_all(b"still here\n").expect("typing");
    assert_eq!(text(&root.wait_with_output().expect("ssh ends").stdout), "still here\n");
    wait_for("no zombies", || zombies(gateway.child.id()) == 0);
    let _ = third.kill();
    let _ = third.wait();
}

/// An account that stops its process holds up itself and nobody else.
#[test]
fn a_stopped_process_does_not_hold_up_others() {
    let (Some(one), Some(other)) = (Account::new(), Account::new()) else { return };
    let mut gateway = root_gateway(&[], None);
    assert_eq!(says(&gateway, &one, "echo in"), "in");
    kill("-STOP", one.delegates()[0]);
    let mut stuck = ssh(&gateway, &one.name, &[], &["true"]).spawn().expect("ssh starts");
    assert_eq!(says(&gateway, &other, "echo in"), "in");
    // It is not waited for when all end either, or not for long.
    let start = Instant::now();
    kill("-TERM", gateway.child.id());
    assert!(gateway.child.wait().expect("its end").success());
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(one.delegates().is_empty() && other.delegates().is_empty());
    assert_eq!(end_of(&mut stuck, Duration::from_secs(20)), 255);
}

/// What becomes of sessions when root's process is killed is tests/rights.rs's R3.
#[test]
fn all_processes_end_with_the_gateway() {
    let (Some(one), Some(other)) = (Account::new(), Account::new()) else { return };
    let mut gateway = root_gateway(&[], None);
    let mut sessions = [hold(&gateway, &one), hold(&gateway, &one), hold(&gateway, &other)];
    assert_eq!((one.delegates().len(), other.delegates().len()), (1, 1));
    kill("-TERM", gateway.child.id());
    let status = gateway.child.wait().expect("its end");
    assert!(status.success(), "{status}\n{}", gateway.log());
    assert!(one.delegates().is_empty() && other.delegates().is_empty(), "waited for");
    for session in &mut sessions {
        assert_eq!(end_of(session, Duration::from_secs(20)), 255);
    }
    for account in [&one, &other] {
        // Programs without a terminal are not hung up, as with sshd.
        assert!(!account.processes("sleep").is_empty());
    }
    let log = gateway.log();
    let ended =
        |line: &&str| line.contains("Disconnected") && line.contains("server shutting down");
    assert_eq!(log.lines().filter(ended).count(), 3, "{log}");
}

/// A service manager tells all processes at once.
#[test]
fn the_process_of_an_account_ends_in_order_by_a_signal() {
    let Some(account) = Account::new() else { return };
    let gateway = root_gateway(&[], None);
    let mut session = hold(&gateway, &account);
    kill("-TERM", account.delegates()[0]);
    assert_eq!(end_of(&mut session, Duration::from_secs(20)), 255);
    gateway.tells("server shutting down");
    wait_for("its end", || account.delegates().is_empty());
    assert_eq!(says(&gateway, &account, "echo again"), "again");
}

/// Its account may not look into it: it could otherwise have signatures of the host's keys made.
#[test]
fn the_process_is_closed_to_its_own_account() {
    let Some(account) = Account::new() else { return };
    let gateway = root_gateway(&[], None);
    let mut session = hold(&gateway, &account);
    let pid = account.delegates()[0];
    for script in [
        format!("ls /proc/{pid}/fd/3"),
        format!("head -c 1 /proc/{pid}/mem"),
        format!("cat /proc/{pid}/environ"),
        format!("readlink /proc/{pid}/exe"),
    ] {
        let output = ssh(&gateway, &account.name, &[], &[&script]).output().expect("ssh starts");
        assert!(!output.status.success(), "{script}: {output:?}");
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    for field in ["Uid:", "Gid:"] {
        let line = status.lines().find(|line| line.starts_with(field)).expect("a field");
        assert!(line.split_whitespace().skip(1).all(|id| id != "0"), "{line}");
    }
    assert!(status.contains("CapPrm:\t0000000000000000"), "{status}");
    // Nothing but its streams, the parent's socket and its own things.
    let parent = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(gateway.child.id() as i32)));
    let own = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid as i32)));
    assert_ne!(parent.expect("a session"), own.expect("a session"));
    let listening: Vec<PathBuf> = fs::read_dir(format!("/proc/{}/fd", gateway.child.id()))
        .expect("descriptors")
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|to| to.starts_with("/") && !to.starts_with("/dev") && !to.ends_with("log"))
        .collect();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").flatten() {
        let to = fs::read_link(entry.path()).unwrap_or_default();
        assert!(!listening.contains(&to), "{}", to.display());
    }
    let _ = session.kill();
    let _ = session.wait();
}

/// The gateway of somebody who is not root: serves that account, and says nothing of others.
#[test]
fn an_account_serves_itself_alone() {
    let (Some(one), Some(other)) = (Account::new(), Account::new()) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let binary = folder.path().join("tidegate");
    fs::copy(env!("CARGO_BIN_EXE_tidegate"), &binary).expect("a copy that all can run");
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    let gateway = Gateway::start_with(&["LogLevel DEBUG"], |command| {
        let config = command.get_args().nth(2).expect("the configuration").to_owned();
        let at = Path::new(&config).parent().expect("its folder").to_owned();
        run_ok(Command::new("chown").arg("-R").arg(&one.name).arg(at));
        let mut own = Command::new("runuser");
        own.args(["-u", &one.name, "--"]).arg(&binary).args(command.get_args());
        own.current_dir("/");
        *command = own;
    });
    assert_eq!(says(&gateway, &one, "id -un"), one.name);
    let shown = says(&gateway, &one, "exec ls -l /proc/self/fd");
    assert!(!shown.contains("socket:") && !shown.contains("io_uring"), "{shown}");
    let refused = |user: &str| {
        let output = ssh(&gateway, user, &["LogLevel=DEBUG3"], &["true"]).output().expect("ssh");
        assert_eq!(output.status.code(), Some(255));
        from_the_server(&output.stderr, user)
    };
    let stranger = refused("nosuchaccounthere");
    assert!(stranger.iter().any(|line| line.contains("receive packet: type 51")), "{stranger:?}");
    assert_eq!(refused(&other.name), stranger);
    assert_eq!(refused("root"), stranger);
    assert!(other.delegates().is_empty());
}

/// What sshd does: records that who(1) and last(1) read, and a word about the login before.
#[test]
fn logins_at_terminals_are_recorded_and_the_last_one_is_told() {
    let Some(account) = Account::new() else { return };
    let records = tempfile::tempdir().expect("a folder");
    fs::set_permissions(records.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    for name in ["utmp", "wtmp", "lastlog"] {
        fs::write(records.path().join(name), "").expect("a file");
    }
    let start = |lines: &[&str]| {
        let gateway = Gateway::start_with(lines, |command| {
            command.env("TIDEGATE_TEST_LOGINS", records.path());
        });
        fs::set_permissions(gateway.folder.path(), PermissionsExt::from_mode(0o755)).expect("mode");
        gateway
    };
    let who = |name: &str| {
        let output = run_ok(Command::new("who").arg("--ips").arg(records.path().join(name)));
        text(&output.stdout)
    };
    let told = |gateway: &Gateway, user: &str, words: &[&str], input: &str| {
        let mut command = ssh(gateway, user, &["RequestTTY=force"], words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ssh");
        child.stdin.take().expect("input").write_all(input.as_bytes()).expect("room");
        let output = child.wait_with_output().expect("its end");
        assert!(output.status.success(), "{output:?}\n{}", gateway.log());
        text(&output.stdout)
    };
    let gateway = start(&[]);
    for user in [&*account.name, "root"] {
        let first = told(&gateway, user, &[], "exit\n");
        assert!(!first.contains("Last login"), "{first}");
        // Another process writes the record.
        wait_for("a record", || who("wtmp").contains(user));
        let second = told(&gateway, user, &[], "exit\n");
        let line = second.lines().find(|line| line.starts_with("Last login: ")).expect(&second);
        assert!(line.contains(" 20") && line.ends_with(" from 127.0.0.1"), "{second}");
        // As in sshd, a command is recorded, and hears nothing.
        assert_eq!(told(&gateway, user, &["echo here"], ""), "here\r\n");
        // Nor is a session without a terminal a login.
        run_ok(&mut ssh(&gateway, user, &[], &["true"]));
        let begun = || who("wtmp").lines().filter(|line| line.starts_with(user)).count();
        wait_for("three records", || begun() == 3);
        let lines = who("wtmp");
        let mut mine = lines.lines().filter(|line| line.starts_with(user));
        assert!(mine.all(|l| l.contains(" pts/") && l.ends_with(" 127.0.0.1")), "{lines}");
    }
    fs::write(account.at_home(".hushlogin"), "").expect("a file");
    assert!(!told(&gateway, &account.name, &[], "exit\n").contains("Last login"));
    fs::remove_file(account.at_home(".hushlogin")).expect("it goes");
    // While a session lasts, it is among those who are there, under the number of its shell.
    let mut session = ssh(&gateway, &account.name, &["RequestTTY=force"], &["echo $$; cat"]);
    let mut session =
        session.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ssh starts");
    let mut number = String::new();
    let mut output = std::io::BufReader::new(session.stdout.take().expect("its output"));
    std::io::BufRead::read_line(&mut output, &mut number).expect("its number");
    wait_for("the others to have left", || who("utmp").lines().count() == 1);
    let there =
        text(&run_ok(Command::new("who").arg("-u").arg(records.path().join("utmp"))).stdout);
    assert!(there.starts_with(&account.name), "{there}");
    assert!(there.contains(&format!(" {} ", number.trim())), "{there} is not {number}");
    drop(session.stdin.take());
    // It ends with its connection, however that ends.
    session.kill().expect("ssh is there");
    session.wait().expect("its end");
    wait_for("nobody to be there", || who("utmp").is_empty());
    drop(gateway);
    let gateway = start(&["PrintLastLog no"]);
    assert!(!told(&gateway, &account.name, &[], "exit\n").contains("Last login"));
}
