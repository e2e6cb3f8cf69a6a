//! The same with real gateways behind the sockets.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::unistd::geteuid;
use serde_json::Value;
use tempfile::TempDir;

use super::{NOBODY, assert_harmless, exposition, text};
use crate::support::account::Account;
use crate::support::processes::{Session, part, wait_for_the_end_of};
use crate::support::{Gateway, run_ok, wait_for};

/// A gateway with a control socket where a test wants it.
struct Asked {
    gateway: Gateway,
    folder: TempDir,
}

impl Asked {
    fn start(lines: &[&str]) -> Asked {
        let folder = tempfile::tempdir().expect("a folder");
        let place = format!("TidegateControl {}", folder.path().join("socket").display());
        let gateway = Gateway::start(&[&[&*place], lines].concat());
        let asked = Asked { gateway, folder };
        wait_for("the control socket", || asked.socket().exists());
        asked
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("ctl").arg("-S").arg(self.socket()).args(words);
        command
    }

    fn ctl(&self, words: &[&str]) -> String {
        let shown = text(run_ok(&mut self.command(words)).stdout);
        assert_harmless(&shown);
        shown
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.ctl(&["status", "--json"])).expect("JSON")
    }

    fn total(&self, name: &str) -> u64 {
        self.status()["totals"][name].as_u64().expect("a number")
    }
}

fn complaint(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.output().expect("it starts");
    assert_eq!(status.code(), Some(255), "{}", String::from_utf8_lossy(&stderr));
    let complaint = text(stderr);
    assert_harmless(&complaint);
    complaint
}

fn sum(counts: &Value) -> u64 {
    counts.as_array().expect("counts").iter().filter_map(Value::as_u64).sum()
}

#[test]
fn a_login_and_its_bytes_are_counted() {
    let asked = Asked::start(&[]);
    let output = run_ok(&mut asked.gateway.ssh(&[], &["head -c 3000000 /dev/zero"]));
    assert_eq!(output.stdout.len(), 3_000_000);
    wait_for("the connection to have ended", || asked.total("connections_active") == 0);
    let status = asked.status();
    let totals = &status["totals"];
    assert_eq!(totals["logins"]["publickey"], 1, "{status:#}");
    assert_eq!(totals["sessions_started"], 1, "{status:#}");
    assert!(totals["connections_accepted"].as_u64() >= Some(1), "{status:#}");
    assert!(totals["bytes_out"].as_u64() > Some(3_000_000), "{status:#}");
    assert!(totals["bytes_in"].as_u64() > Some(1000), "{status:#}");
    assert_eq!(status["state"], "serving");
    assert_eq!(status["pid"], asked.gateway.child.id());
    assert_eq!(status["listeners"][0], format!("127.0.0.1:{}", asked.gateway.port));
    for times in ["handshake", "login"] {
        let (counts, bounds) = (&status[times]["counts"], &status[times]["bounds_seconds"]);
        assert_eq!(sum(counts), 1, "{status:#}");
        let lens = [counts, bounds].map(|list| list.as_array().expect("a list").len());
        assert_eq!(lens[0], lens[1] + 1, "{status:#}");
    }
    let shown = asked.ctl(&["status"]);
    for part in [
        "  logins         1 publickey\n",
        "  sessions       0 now, 1 started, 0 passed on\n",
        "p99 ",
    ] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
    let lines = asked.ctl(&["top", "--interval", "0.2", "--count", "2"]);
    assert_eq!(lines.matches(" accepted/s").count(), 2, "{lines}");
}

#[test]
fn metrics_are_well_formed_and_agree_with_the_status() {
    let asked = Asked::start(&[]);
    let mut session = Session::begin(&asked.gateway, &account_of_this_test());
    session.assert_moves(100_000);
    wait_for("the session to be counted", || asked.total("sessions_active") == 1);
    let page = exposition::check(&asked.ctl(&["metrics"]));
    let value = |name: &str, wanted: &[(&str, &str)]| {
        let fits = |(labels, _): &&exposition::Sample| {
            wanted.iter().all(|(name, value)| labels.get(*name).is_some_and(|is| is == value))
        };
        let found = page.get(&format!("tidegate_{name}"));
        let found = found.and_then(|samples| samples.iter().find(fits));
        found.unwrap_or_else(|| panic!("no {name} {wanted:?}: {page:?}")).1
    };
    let login = [("method", "publickey"), ("result", "accepted")];
    assert_eq!(value("auth_attempts_total", &login), 1.0);
    assert_eq!([value("sessions_active", &[]), value("connections_active", &[])], [1.0, 1.0]);
    assert_eq!(
        [value("login_seconds_count", &[]), value("handshake_seconds_count", &[])],
        [1.0; 2]
    );
    assert!(value("bytes_total", &[("direction", "in")]) > 100_000.0);
    assert!(value("bytes_total", &[("direction", "out")]) > 100_000.0);
    assert_eq!([value("serving", &[]), value("defects_total", &[])], [1.0, 0.0]);
    assert!(page["tidegate_memory_bytes"].iter().all(|(_, bytes)| *bytes > 0.0), "{page:?}");
    // docs/ctl.md names every one.
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ctl.md");
    let docs = fs::read_to_string(docs).expect("the page");
    for name in page.keys() {
        let ends = ["_bucket", "_sum", "_count"];
        let family = ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(docs.contains(&format!("`{family}`")), "{family} is not in docs/ctl.md");
    }
}

fn account_of_this_test() -> String {
    let user = nix::unistd::User::from_uid(geteuid()).expect("a database");
    user.expect("an account").name
}

#[test]
fn reload_tells_what_came_of_it() {
    let asked = Asked::start(&[]);
    let mut session = Session::begin(&asked.gateway, &account_of_this_test());
    let file = asked.gateway.path("tidegate_config");
    let good = fs::read_to_string(&file).expect("the configuration");
    fs::write(&file, format!("{good}MaxAuthTries 3\n")).expect("the configuration");
    assert_ne!(asked.ctl(&["reload"]), "");
    let generations = || asked.status()["generations"].as_u64().expect("a number");
    // The session has the configuration with which it began.
    wait_for("both to be told", || generations() == 2);
    session.assert_well();

    fs::write(&file, format!("{good}MaxAuthTried 3\n")).expect("the configuration");
    let why = complaint(&mut asked.command(&["reload"]));
    let line = good.lines().count() + 1;
    assert!(why.contains(&format!("tidegate_config:{line}")), "{why}");
    assert!(why.contains("MaxAuthTried"), "{why}");
    assert_eq!(generations(), 2, "errors change nothing");
    asked.gateway.assert_alive();
    drop(session);
    wait_for("the older configuration to be out of use", || generations() == 1);
}

#[test]
fn stop_ends_it_and_its_socket() {
    let mut asked = Asked::start(&[]);
    assert!(asked.ctl(&["stop"]).contains("ends"));
    assert!(asked.gateway.child.wait().expect("an end").success(), "{}", asked.gateway.log());
    let why = complaint(&mut asked.command(&["status"]));
    assert!(why.contains("no gateway listens at"), "{why}");
}

/// Two programs, each at a socket of its own, while a session of the first lasts.
#[test]
fn upgrade_shows_two_programs_until_the_sessions_of_the_first_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let number = folder.path().join("pid");
    let pid_file = format!("PidFile {}", number.display());
    // Not root, whose sockets are in one place for the whole machine.
    let account = Account::new();
    let runtime = folder.path().to_owned();
    let gateway = Gateway::start_with(&[&pid_file], |command| {
        command.env("XDG_RUNTIME_DIR", &runtime);
        let Some(account) = &account else { return };
        let config = command.get_args().nth(2).expect("the configuration").to_owned();
        let at = Path::new(&config).parent().expect("a folder").to_owned();
        run_ok(Command::new("chown").args(["-R", &account.name]).args([&at, &runtime]));
        command.uid(account.uid).gid(account.uid);
    });
    let command = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("ctl").args(words).env("XDG_RUNTIME_DIR", folder.path()).current_dir("/");
        if let Some(account) = &account {
            command.uid(account.uid).gid(account.uid);
        }
        command
    };
    let ctl = |words: &[&str]| text(run_ok(&mut command(words)).stdout);
    let user = account.as_ref().map_or_else(account_of_this_test, |account| account.name.clone());
    let mut session = Session::begin(&gateway, &user);
    let before = gateway.child.id();
    let shown = ctl(&["upgrade"]);
    let pid = || fs::read_to_string(&number).ok()?.trim().parse::<u32>().ok();
    wait_for("the other's number", || pid().is_some_and(|pid| pid != before));
    let after = pid().expect("a number");
    assert!(shown.contains(&after.to_string()), "{shown}");
    let states = || {
        // One that is about to end may have no answer any more.
        let output = command(&["status", "--json"]).output().expect("it starts");
        let objects = text(output.stdout);
        let object = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
        let state = |object: Value| (object["pid"].as_u64(), object["state"].clone());
        let mut states: Vec<_> = objects.lines().map(object).map(state).collect();
        states.sort_by_key(|(pid, _)| *pid != Some(before.into()));
        states
    };
    let two = [(Some(before.into()), "leaving".into()), (Some(after.into()), "serving".into())];
    assert_eq!(states(), two);
    session.assert_well();
    let merged = exposition::check(&ctl(&["metrics"]));
    assert_eq!(merged["tidegate_serving"].len(), 2);
    // It is the new one that is told, without being named.
    assert_ne!(ctl(&["reload"]), "");
    drop(session);
    wait_for("the first to end", || states().len() == 1);
    assert!(ctl(&["stop"]).contains("ends"));
    wait_for_the_end_of(after);
}

#[test]
fn processes_of_root_s_gateway_are_listed_with_their_roles() {
    if !geteuid().is_root() {
        println!("not run: only root's gateway has several processes");
        return;
    }
    let Some(account) = Account::new() else { return };
    let asked = Asked::start(&["TidegateIsolation shared"]);
    let _roots = Session::begin(&asked.gateway, "root");
    let mut accounts = Session::begin(&asked.gateway, &account.name);
    accounts.assert_moves(200_000);
    let of = |role: &str| {
        let status = asked.status();
        let all = status["processes"].as_array().expect("processes");
        let pid = |one: &Value| {
            let name = one["name"].as_str().expect("a name").to_owned();
            (name, one["pid"].as_u64().expect("a number") as u32)
        };
        let mut found: Vec<_> = all.iter().filter(|one| one["role"] == role).map(pid).collect();
        found.sort();
        found
    };
    assert_eq!(of("root"), [(String::new(), asked.gateway.child.id())]);
    assert_eq!(of("edge"), [(String::new(), part(&asked.gateway, "edge"))]);
    assert_eq!(of("signer"), [(String::new(), part(&asked.gateway, "signer"))]);
    let names: Vec<String> = of("account").into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["root", &account.name]);
    let mut pids: Vec<u32> = of("account").into_iter().map(|(_, pid)| pid).collect();
    let mut known = asked.gateway.parts("delegate");
    pids.sort_unstable();
    known.sort_unstable();
    assert_eq!(pids, known);
    wait_for("its bytes to be counted where they went", || {
        let status = asked.status();
        let all = status["processes"].as_array().expect("processes");
        let one = all.iter().find(|one| one["name"] == account.name).expect("its process");
        assert_eq!(one["connections"], 1, "{one}");
        one["bytes_in"].as_u64() > Some(200_000) && one["bytes_out"].as_u64() > Some(200_000)
    });
    let shown = asked.ctl(&["status"]);
    assert!(shown.contains(&format!("  account  {}  ", account.name)), "{shown}");
}

#[test]
fn another_user_is_refused() {
    if !geteuid().is_root() {
        println!("not run: it takes two users");
        return;
    }
    let asked = Asked::start(&[]);
    fs::set_permissions(asked.folder.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    let by_another = |words: &[&str]| {
        let mut command = asked.command(words);
        complaint(command.uid(NOBODY).gid(NOBODY).current_dir("/").stdin(Stdio::null()))
    };
    assert!(by_another(&["status"]).contains("its socket is not for this user"));
    // Somebody has opened it to all: the gateway looks who comes.
    fs::set_permissions(asked.socket(), PermissionsExt::from_mode(0o666)).expect("a mode");
    for word in ["status", "top", "metrics", "reload", "upgrade", "stop"] {
        let why = by_another(&[word]);
        assert!(why.contains("only root and whoever the gateway runs as may ask"), "{why}");
    }
    asked.gateway.tells(&format!("Refused user {NOBODY} at the control socket"));
    asked.gateway.assert_alive();
}
