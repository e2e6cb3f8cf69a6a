//! Upgrades as an administrator makes them: SIGUSR2 to a gateway with sessions of every kind, under load,
//! and to a program that is no good. `TIDEGATE_UPGRADES=20` has as many in a row, beside 100 logins
//! a second.

#[path = "upgrade/faults.rs"]
mod faults;
#[path = "upgrade/forwards.rs"]
mod forwards;
#[path = "upgrade/moving.rs"]
mod moving;
#[path = "upgrade/onward.rs"]
mod onward;
#[path = "upgrade/sessions.rs"]
mod sessions;
#[path = "upgrade/strangers.rs"]
mod strangers;
mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use support::account::Account;
use support::load::Load;
use support::processes::kill;
use support::{Gateway, run_ok, wait_for};
use tempfile::TempDir;

/// A gateway whose program is a link that can be laid anew, and whose number is in a file.
struct Site {
    folder: TempDir,
    gateway: Gateway,
    user: String,
}

impl Site {
    /// As whoever runs the tests: root, whose gateway is many processes.
    fn new(lines: &[&str]) -> Site {
        Site::start(lines, None, &[])
    }

    /// As an account without rights: one process.
    fn of(account: &Account, lines: &[&str]) -> Site {
        Site::start(lines, Some(account), &[])
    }

    fn start(lines: &[&str], account: Option<&Account>, variables: &[(&str, &str)]) -> Site {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("program");
        symlink(env!("CARGO_BIN_EXE_tidegate"), &program).expect("a link");
        let at = folder.path().display().to_string();
        let recordings = folder.path().join("recordings");
        fs::create_dir(&recordings).expect("a folder");
        fs::set_permissions(&recordings, PermissionsExt::from_mode(0o700)).expect("a mode");
        if let Some(account) = account {
            run_ok(Command::new("chown").args(["-R", &account.name]).arg(folder.path()));
        }
        let number = format!("PidFile {at}/pid");
        let lines: Vec<String> = lines.iter().map(|line| line.replace("{site}", &at)).collect();
        let lines: Vec<&str> = [&*number].into_iter().chain(lines.iter().map(|l| &**l)).collect();
        let gateway = Gateway::start_with(&lines, |command| {
            let mut own = Command::new(&program);
            own.args(command.get_args()).envs(variables.iter().copied());
            for (name, value) in command.get_envs() {
                own.env(name, value.unwrap_or_default());
            }
            if let Some(account) = account {
                let config = own.get_args().nth(2).expect("the configuration").to_owned();
                let at = Path::new(&config).parent().expect("a folder").to_owned();
                let keys = fs::read(at.join("authorized_keys")).expect("keys");
                fs::write(at.join("authorized_keys"), keys).expect("keys");
                run_ok(Command::new("chown").args(["-R", &account.name]).arg(&at));
                std::os::unix::process::CommandExt::uid(&mut own, account.uid);
                std::os::unix::process::CommandExt::gid(&mut own, account.uid);
            }
            *command = own;
        });
        let user = account.map_or("root".to_owned(), |account| account.name.clone());
        let site = Site { folder, gateway, user };
        wait_for("the PidFile", || site.pid().is_some());
        site
    }

    fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.folder.path().join("pid")).ok()?.trim().parse().ok()
    }

    /// The number of the process that takes connections.
    fn now(&self) -> u32 {
        self.pid().expect("a PidFile")
    }

    fn told(&self, what: &str) -> usize {
        self.gateway.log().matches(what).count()
    }

    /// What the path of the program leads to from now on.
    fn lay(&self, program: &Path) {
        let path = self.folder.path().join("program");
        fs::remove_file(&path).expect("gone");
        symlink(program, &path).expect("a link");
    }

    /// A script in the place of the program.
    fn lay_script(&self, script: &str) {
        let path = self.folder.path().join("script");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("a mode");
        self.lay(&path);
    }

    /// Upgrades, and answers with the number before.
    fn upgrade(&self) -> u32 {
        let before = self.now();
        kill("-USR2", before);
        wait_for("another program", || {
            let log = || self.gateway.log();
            assert!(!log().contains("has come to nothing"), "{}", log());
            self.pid().is_some_and(|pid| pid != before)
        });
        before
    }

    /// The same, and nothing stays with the program before, which ends.
    fn moves(&self) {
        let before = self.upgrade();
        wait_for("all connections to move", || !is_there(before));
    }

    fn ssh(&self, options: &[&str], words: &[&str]) -> Command {
        let user = format!("User={}", self.user);
        self.gateway.ssh(&[&[&*user], options].concat(), words)
    }

    fn assert_serves(&self) {
        let output = run_ok(&mut self.ssh(&[], &["echo alive"]));
        assert_eq!(output.stdout, b"alive\n");
    }

    /// A session in which what is typed comes back; keys change every 16 KiB.
    fn session(&self) -> Session {
        let mut session = Session::begin(self.ssh(&["RekeyLimit=16K"], &["cat"]));
        session.assert_well(1);
        session
    }
}

impl Drop for Site {
    /// Ends whichever there is, and waits for it: it is our child too.
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.gateway.log());
        }
        if let Some(pid) = self.pid() {
            kill("-TERM", pid);
            wait_for_the_end_of(pid);
        }
    }
}

/// Sessions stay with the program that they began with, for they are recorded.
const STAY: [&str; 2] = ["TidegateRecord sessions", "TidegateRecordDirectory {site}/recordings"];

/// A client whose input comes back.
struct Session(Child);

impl Session {
    fn begin(mut command: Command) -> Session {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        Session(child.expect("the client starts"))
    }

    /// Many lines go and come back.
    fn assert_well(&mut self, lines: usize) {
        let text = "still here, and keys change\n".repeat(lines);
        let (input, output) = (self.0.stdin.as_mut(), self.0.stdout.as_mut());
        let (input, output) = (input.expect("input"), output.expect("output"));
        let mut back = vec![0; text.len()];
        thread::scope(|scope| {
            scope.spawn(|| input.write_all(text.as_bytes()).expect("typed"));
            output.read_exact(&mut back).expect("an echo");
        });
        assert!(back == text.as_bytes());
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().expect("an end").success());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn stat(pid: u32, field: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(field).map(str::to_owned)
}

/// Not counting one that only waits to be reaped, which is done if it is ours: of a gateway, for others' ends
/// are waited for elsewhere, and one may have the number now.
fn is_there(pid: u32) -> bool {
    let is_over = stat(pid, 0).is_none_or(|state| state == "Z");
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if is_over && name.trim_end() == "program" {
        let _ = waitpid(Pid::from_raw(pid.cast_signed()), Some(WaitPidFlag::WNOHANG));
    }
    !is_over
}

fn wait_for_the_end_of(pid: u32) {
    wait_for("a process to end", || !is_there(pid));
}

/// Processes that these have started, and so on.
fn below(pids: &[u32]) -> Vec<u32> {
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    let all = all.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    let is_child =
        |pid: &u32| stat(*pid, 1).is_some_and(|of| pids.contains(&of.parse().unwrap_or(0)));
    all.filter(is_child).filter(|pid| is_there(*pid)).collect()
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn upgrades() -> usize {
    std::env::var("TIDEGATE_UPGRADES").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// SECURITY R21: upgrades in a row beside idle sessions and a stream of logins: no session ends, no login
/// fails, and nothing is left of any program but the last, where all sessions are.
#[test]
fn r21_upgrades_under_load_refuse_and_lose_nothing() {
    upgrade_under_load(&Site::new(&[]), RATE);
}

#[test]
fn r21_upgrades_under_load_with_a_process_for_each_connection_lose_nothing() {
    if !nix::unistd::geteuid().is_root() {
        return println!("only root has rights to separate");
    }
    // A login there takes a debug build 20 ms of CPU, so two CPUs have no hundred of them in a second.
    upgrade_under_load(&Site::new(&["TidegateIsolation per-connection"]), RATE / 4);
}

#[test]
fn r21_upgrades_of_one_process_under_load_lose_nothing() {
    let Some(account) = Account::new() else { return };
    upgrade_under_load(&Site::of(&account, &[]), RATE);
}

/// Logins a second beside many upgrades.
const RATE: u32 = 100;

fn upgrade_under_load(site: &Site, rate: u32) {
    let count = upgrades();
    let gateway = &site.gateway;
    let mut session = site.session();
    let login = format!("{}@127.0.0.1", site.user);
    let [live, stay] = [10, 3 * count / 2 + 2].map(|n| n.to_string());
    let words = ["--scenario", "idle", "--connections", &live, "--duration", &stay];
    let idle = Load::start_at(gateway, &login, &words);
    let logins = || site.told(" Accepted publickey ");
    wait_for("the sessions", || logins() > 10);
    let rate = if count > 3 { rate } else { 5 }.to_string();
    let seconds = (3 * count / 2 + 1).to_string();
    let words = ["--scenario", "auth", "--rate", &rate, "--duration", &seconds];
    let stream = Load::start_at(gateway, &login, &words);
    let mut held = Vec::new();
    for _ in 0..count {
        let before = site.upgrade();
        site.assert_serves();
        session.assert_well(1);
        // Its sessions have moved, and so have the logins that ended just then.
        wait_for_the_end_of(before);
        held.push(descriptors(site.now()));
    }
    for (what, load) in [("logins", stream), ("sessions", idle)] {
        let run = load.report();
        println!("{what}: {run}");
        assert_eq!(run["errors"], serde_json::json!({}), "{what}: {run}\n{}", gateway.log());
    }
    session.assert_well(4000);
    session.end();
    site.assert_serves();
    println!("descriptors of each: {held:?}");
    let log = gateway.log();
    assert!(!log.contains("ERROR"), "{log}");
}
