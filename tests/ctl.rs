//! `tidegate ctl` as an administrator runs it: against sockets that answer what a test says, good and hostile,
//! and against real gateways.
#![allow(clippy::disallowed_methods, reason = "tests wait on the real clock")]

#[path = "ctl/exporter.rs"]
mod exporter;
#[path = "ctl/exposition.rs"]
mod exposition;
#[path = "ctl/gateway.rs"]
mod gateway;
mod support;
#[path = "ctl/top.rs"]
mod top;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use support::is_run_again;
use tempfile::TempDir;

/// Sockets where gateways of an account without rights have them, and what came to them.
struct Site {
    folder: TempDir,
    requests: Arc<Mutex<Vec<String>>>,
}

/// Somebody without rights, whose sockets are not root's.
const NOBODY: u32 = 65_534;

impl Site {
    fn new() -> Site {
        let folder = tempfile::tempdir().expect("a folder");
        let sockets = folder.path().join("tidegate");
        fs::create_dir(&sockets).expect("a folder");
        for path in [folder.path(), &sockets] {
            fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("a mode");
        }
        Site { folder, requests: Arc::default() }
    }

    fn socket(&self, pid: u32) -> PathBuf {
        self.folder.path().join(format!("tidegate/{pid}.sock"))
    }

    /// A gateway that says what `answer` does to each request.
    fn answers(&self, pid: u32, answer: impl Fn(&str, &mut UnixStream) + Send + 'static) {
        let path = self.socket(pid);
        let listener = UnixListener::bind(&path).expect("a socket");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).expect("a mode");
        let requests = Arc::clone(&self.requests);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (mut stream, mut line) = (stream, String::new());
                let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
                let _ = reader.read_line(&mut line);
                let request = line.trim_end().to_owned();
                requests.lock().expect("a list").push(format!("{pid} {request}"));
                answer(&request, &mut stream);
            }
        });
    }

    /// One that is in this state and does what it is asked.
    fn serves(&self, pid: u32, state: &'static str) {
        self.answers(pid, move |request, stream| {
            let text = match request {
                "status" => format!("{}\n", status(pid, state)),
                "metrics" => metrics(pid),
                request => format!("{{\"done\":\"{request} of {pid}\\nis \\\"done\\\"\"}}\n"),
            };
            stream.write_all(text.as_bytes()).expect("somebody reads");
        });
    }

    fn says(&self, pid: u32, bytes: &[u8]) {
        let bytes = bytes.to_vec();
        self.answers(pid, move |_, stream| drop(stream.write_all(&bytes)));
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("ctl").args(words).env("XDG_RUNTIME_DIR", self.folder.path());
        if nix::unistd::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY).current_dir("/");
        }
        command
    }

    /// What is printed, by a command that succeeds.
    fn ctl(&self, words: &[&str]) -> String {
        text(support::run_ok(&mut self.command(words)).stdout)
    }

    /// What is complained of, by one that fails.
    fn fails(&self, words: &[&str]) -> String {
        let Output { status, stderr, .. } = self.command(words).output().expect("it starts");
        let complaint = text(stderr);
        assert_eq!(status.code(), Some(255), "{words:?}: {complaint}");
        assert_harmless(&complaint);
        complaint
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("a list").clone()
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("text")
}

fn assert_harmless(text: &str) {
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}

fn status(pid: u32, state: &str) -> Value {
    json!({
        "version": "0.1.0", "pid": pid, "state": state, "uptime_seconds": 93_784.5,
        "listeners": ["127.0.0.1:2222", "[::1]:22"], "generations": 2, "what_is_new": [1],
        "processes": [
            { "role": "root", "name": "", "pid": pid, "cpu_seconds": 1.25, "memory_bytes": 3 << 20 },
            { "role": "account", "name": "ann", "pid": 4712, "cpu_seconds": 10.5,
              "memory_bytes": 5 << 20, "connections": 12, "bytes_in": 1024, "bytes_out": 2048 },
        ],
        "totals": {
            "connections_accepted": 700, "connections_refused": 9, "connections_active": 12,
            "key_exchanges": 690, "rekeys": 30,
            "logins": { "publickey": 600, "password": 2, "none": 0 },
            "failures": { "publickey": 3 },
            "sessions_started": 590, "sessions_active": 11, "sessions_passed_on": 3,
            "forwards_started": 20, "forwards_active": 2, "forwards_failed": 1,
            "upstreams_failed": 4, "bytes_in": 3_u64 << 30, "bytes_out": 7168,
        },
        "handshake": {
            "bounds_seconds": [0.001, 0.01], "counts": [50, 40, 0], "sum_seconds": 0.3,
        },
        "login": { "bounds_seconds": [0.001, 0.01], "counts": [0, 10, 90], "sum_seconds": 9 },
    })
}

fn metrics(pid: u32) -> String {
    format!(
        "# HELP tidegate_logins_total Logins.\n# TYPE tidegate_logins_total counter\n\
         tidegate_logins_total{{method=\"publickey\"}} {pid}\n\
         # HELP tidegate_login_seconds Times.\n# TYPE tidegate_login_seconds histogram\n\
         tidegate_login_seconds_bucket{{le=\"0.1\"}} 1\n\
         tidegate_login_seconds_bucket{{le=\"+Inf\"}} 2\n\
         tidegate_login_seconds_sum 3.5\ntidegate_login_seconds_count 2\n\
         # HELP tidegate_uptime_seconds Time.\n# TYPE tidegate_uptime_seconds gauge\n\
         tidegate_uptime_seconds 7\n"
    )
}

/// Only the socket is left of it.
fn leave_dead(path: &Path) {
    drop(UnixListener::bind(path).expect("a socket"));
    fs::set_permissions(path, PermissionsExt::from_mode(0o777)).expect("a mode");
}

#[test]
fn status_sums_up_what_a_gateway_says() {
    if is_run_again() {
        return;
    }
    let site = Site::new();
    site.serves(4711, "serving");
    let shown = site.ctl(&["status"]);
    for line in [
        "gateway 4711 (0.1.0), serving for 1 day 2:03:04",
        "  listens at     127.0.0.1:2222, [::1]:22",
        "  configurations 2 in use, 1 until its connections end",
        "  connections    12 now, 700 accepted, 9 refused",
        "  key exchanges  690, 30 rekeys",
        "  logins         2 password, 600 publickey",
        "  failures       3 publickey",
        "  sessions       11 now, 590 started, 3 passed on",
        "  forwards       2 now, 20 started, 1 failed",
        "  bytes          3.0 GiB in, 7.0 KiB out",
        "  handshake      p50 900 us, p90 8.0 ms, p99 9.8 ms",
        "  login          p50 over 10.0 ms, p90 over 10.0 ms, p99 over 10.0 ms",
        "  hosts behind   4 not reached",
        "  process  name   pid  CPU time   memory  connections       in      out",
        "  account  ann   4712   10.50 s  5.0 MiB           12  1.0 KiB  2.0 KiB",
        "  all                   11.75 s  8.0 MiB           12  1.0 KiB  2.0 KiB",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
    }
    assert!(!shown.contains("defects"), "{shown}");
    let socket = site.socket(4711);
    let named = site.ctl(&["-S", socket.to_str().expect("a path"), "status", "--json"]);
    let value: Value = serde_json::from_str(&named).expect("JSON");
    assert_eq!(value, status(4711, "serving"), "what is not known is passed on");
    assert_eq!(site.ctl(&["status", "--json", "-p", "4711"]), named);
}

#[test]
fn several_gateways_are_shown_and_one_that_serves_is_told_what_to_do() {
    if is_run_again() {
        return;
    }
    let site = Site::new();
    site.serves(8, "serving");
    site.serves(11, "leaving");
    leave_dead(&site.socket(5));
    fs::write(site.folder.path().join("tidegate/notes"), "no socket").expect("a file");
    let shown = site.ctl(&["status"]);
    let titles: Vec<_> = shown.lines().filter(|line| line.starts_with("gateway")).collect();
    assert!(titles[0].starts_with("gateway 8 (0.1.0), serving"), "{titles:?}");
    assert!(titles[1].starts_with("gateway 11 (0.1.0), leaving"), "{titles:?}");
    let objects: Vec<Value> = site
        .ctl(&["status", "--json"])
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(objects, [status(8, "serving"), status(11, "leaving")]);

    let merged = exposition::check(&site.ctl(&["metrics"]));
    let of: Vec<_> =
        merged["tidegate_logins_total"].iter().map(|(l, n)| (&*l["gateway"], *n)).collect();
    assert_eq!(of, [("8", 8.0), ("11", 11.0)]);
    assert_eq!(merged["tidegate_login_seconds_bucket"].len(), 4);
    assert_eq!(site.ctl(&["metrics", "-p", "11"]), metrics(11), "one that is named has no label");

    for deed in ["reload", "upgrade", "stop"] {
        assert_eq!(site.ctl(&[deed]), format!("{deed} of 8\nis \"done\"\n"));
        assert_eq!(site.ctl(&[deed, "-p", "11"]), format!("{deed} of 11\nis \"done\"\n"));
    }
    site.serves(12, "serving");
    let asked = site.requests().len();
    let why = site.fails(&["stop"]);
    assert!(
        why.contains("several gateways serve: 8 and 12; say which: tidegate ctl -p 8 stop"),
        "{why}"
    );
    assert!(site.requests()[asked..].iter().all(|request| request.ends_with(" status")));
}

#[test]
fn where_no_gateway_answers_it_is_told_what_helps() {
    if is_run_again() {
        return;
    }
    let site = Site::new();
    let place = site.folder.path().join("tidegate").display().to_string();
    for word in ["status", "top", "metrics", "reload", "upgrade", "stop"] {
        let why = site.fails(&[word]);
        assert!(why.contains(&format!("none listens at a socket in {place}")), "{why}");
        assert!(why.contains("`tidegate serve` starts one; -S names the socket"), "{why}");
    }
    leave_dead(&site.socket(5));
    assert!(site.fails(&["status"]).contains("none listens"));
    assert!(
        site.fails(&["status", "-p", "5"])
            .contains(&format!("no gateway listens at {place}/5.sock"))
    );
    assert!(site.fails(&["status", "-S", "/nowhere"]).contains("no gateway listens at /nowhere"));
    // It ends while it is asked, as programs do.
    let ending = site.socket(6);
    site.answers(6, move |_, _| fs::remove_file(&ending).expect("its socket"));
    assert!(site.fails(&["status"]).contains("none listens"));
    site.serves(7, "leaving");
    assert!(site.fails(&["reload"]).contains("no gateway serves; 7 only ends with its sessions"));
    if nix::unistd::geteuid().is_root() {
        let closed = site.folder.path().join("tidegate/9.sock");
        let _listener = UnixListener::bind(&closed).expect("a socket");
        fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).expect("a mode");
        assert!(site.fails(&["status", "-p", "9"]).contains("its socket is not for this user"));
        // Another that does not answer does not hide those that do.
        let output = site.command(&["status"]).output().expect("it starts");
        assert_eq!(output.status.code(), Some(255));
        assert!(text(output.stdout).starts_with("gateway 7"));
    }
    // Without a runtime directory it is the state directory.
    let mut command = site.command(&["status"]);
    command.env_remove("XDG_RUNTIME_DIR").env("XDG_STATE_HOME", site.folder.path());
    let complaint = text(command.output().expect("it starts").stderr);
    assert!(complaint.contains(&format!("{place}/run")), "{complaint}");
}

#[test]
fn case_130_hostile_answers_are_bounded_and_harmless() {
    if is_run_again() {
        return;
    }
    let site = Site::new();
    let mut pid = 0;
    let mut hostile = |words: &[&str], bytes: &[u8], part: &str| {
        pid += 1;
        site.says(pid, bytes);
        let why = site.fails(&[words, &["-p", &pid.to_string()]].concat());
        assert!(why.contains(part), "{part}: {why}");
        assert!(why.len() < 8000, "{}", why.len());
    };
    for word in ["status", "top", "metrics", "reload"] {
        hostile(&[word], b"", "it said nothing");
        hostile(&[word], b"{\"error\":\"a\\u001b[2J\\nb\\u202e\"}\n", "a\\x1b[2J\nb\\u{202e}");
        hostile(&[word], b"{\"error", "no JSON");
    }
    let long = format!("{{\"error\":\"{}\"}}", "x".repeat(500_000));
    hostile(&["stop"], long.as_bytes(), "bytes]");
    hostile(&["status"], &b"[".repeat(1 << 19), "no JSON");
    hostile(&["status"], b"[1]\n", "no object");
    hostile(&["status"], b"{\"pid\":\"\\u001b\"}\n", "not understood");
    hostile(&["status"], b"\xff\xfe\n", "no JSON");
    hostile(&["stop"], b"{}\n", "does not say what was done");
    hostile(&["metrics"], b"# HELP a\n# TYP", "cut off");
    hostile(&["metrics"], b"Hello\n", "no metrics");
    hostile(&["metrics"], b"# \xff\n", "no text");

    let endless =
        |_: &str, stream: &mut UnixStream| while stream.write_all(&[b' '; 4096]).is_ok() {};
    site.answers(900, endless);
    assert!(site.fails(&["status", "-p", "900"]).contains("longer than any gateway's"));

    // A whole object needs no line's end; what is in it moves no cursor.
    let mut nasty = status(901, "serv\u{1b}[2Jing");
    nasty["listeners"] = json!(["\u{1b}]0;title\u{7}", "\u{9b}31m"]);
    nasty["processes"][1]["name"] = json!(format!("{}\n\u{202e}", "x".repeat(1000)));
    nasty["totals"]["logins"] = json!({ "\u{1b}c": u64::MAX, "more": u64::MAX });
    nasty["totals"]["bytes_in"] = json!(u64::MAX);
    nasty["handshake"]["counts"] = json!([u64::MAX, u64::MAX, u64::MAX]);
    nasty["uptime_seconds"] = json!(1e300);
    site.says(901, nasty.to_string().as_bytes());
    let shown = site.ctl(&["status", "-p", "901"]);
    assert_harmless(&shown);
    assert!(shown.contains("serv\\x1b[2Jing") && shown.contains("bytes]"), "{shown}");
    assert_harmless(&site.ctl(&["status", "--json", "-p", "901"]));
    let lines = site.ctl(&["top", "--count", "1", "--interval", "0.1", "-p", "901"]);
    assert_harmless(&lines);
    site.says(902, "# TYPE a gauge\na{b=\"\u{1b}[2J\"} 1\n".as_bytes());
    assert_eq!(site.ctl(&["metrics", "-p", "902"]), "# TYPE a gauge\na{b=\"\\\\x1b[2J\"} 1\n");
}

#[test]
fn case_130_a_gateway_that_is_silent_is_given_up() {
    if is_run_again() {
        return;
    }
    let site = Site::new();
    site.serves(1, "serving");
    site.answers(2, |_, stream| {
        stream.write_all(b"{").expect("somebody reads");
        thread::sleep(std::time::Duration::from_secs(3600));
    });
    let output = site.command(&["status"]).output().expect("it starts");
    assert_eq!(output.status.code(), Some(255));
    assert!(text(output.stdout).starts_with("gateway 1 "));
    let complaint = text(output.stderr);
    assert!(complaint.contains("gateway 2: it does not answer within 5 s"), "{complaint}");
    // It listens, and never accepts: others have filled its queue.
    let full = site.socket(3);
    let kind = (nix::sys::socket::AddressFamily::Unix, nix::sys::socket::SockType::Stream);
    let flags = nix::sys::socket::SockFlag::SOCK_CLOEXEC;
    let listener = nix::sys::socket::socket(kind.0, kind.1, flags, None).expect("a socket");
    let address = nix::sys::socket::UnixAddr::new(&full).expect("an address");
    nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &address).expect("a place");
    let queue = nix::sys::socket::Backlog::new(0).expect("a length");
    nix::sys::socket::listen(&listener, queue).expect("a queue");
    fs::set_permissions(&full, PermissionsExt::from_mode(0o777)).expect("a mode");
    let _first = UnixStream::connect(&full).expect("room for one");
    assert!(site.fails(&["status", "-p", "3"]).contains("it takes no connection"));
}
