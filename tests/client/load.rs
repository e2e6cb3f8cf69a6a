//! `tidegate bench load` and `bench transfer` against the servers that `tidegate ssh` logs in at.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;

use serde_json::Value;

use crate::server::{Server, both, text};
use crate::support::driver;
use crate::support::openssh::Agent;

const PASSWORD: &str = "correct horse";
/// Of that, by crypt(3).
const HASH: &str = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$zwtVrjrUCmXcyLTs6oxLTQlzifSUkF8RHJ./tK5KU79";

fn bench(server: &Server, host: &str, words: &[&str]) -> Output {
    run("load", server, host, words)
}

fn run(what: &str, server: &Server, host: &str, words: &[&str]) -> Output {
    run_at(server.port(), what, server, host, words)
}

fn run_at(port: u16, what: &str, server: &Server, host: &str, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["bench", what, host, "-F", "none", "-p", &port.to_string(), "-i"]);
    command.env("BENCH_SECRET", PASSWORD).arg(server.path("user_ed25519")).args(words);
    let driver = driver().unwrap_or_else(|| "uring".to_owned());
    for option in [
        format!("TidegateDriver={driver}"),
        "KexAlgorithms=curve25519-sha256".to_owned(),
        "StrictHostKeyChecking=accept-new".to_owned(),
        format!("UserKnownHostsFile={}", server.path("known_hosts").display()),
        "GlobalKnownHostsFile=none".to_owned(),
        "IdentityAgent=none".to_owned(),
    ] {
        command.args(["-o", &option]);
    }
    command.stdin(Stdio::null()).env("HOME", server.path("")).current_dir(server.path(""));
    command.output().expect("the program runs")
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)))
}

fn median(report: &Value, name: &str) -> f64 {
    let cases = report["cases"].as_array().expect("cases");
    let found = cases.iter().find(|case| case["name"] == name);
    found.unwrap_or_else(|| panic!("no {name}: {report}"))["nanos"].as_f64().expect("a number")
}

#[test]
fn every_kind_of_load_is_timed_by_phase_and_weighed() {
    both(&["MaxStartups 100"], |server| {
        let words = [
            &["--scenario", "auth,exec,echo,sftp,forward,idle", "--connections", "6"][..],
            &["--concurrent", "3", "--duration", "0.5", "--messages", "3", "--json"],
        ];
        let report = report(&bench(server, "127.0.0.1", &words.concat()));
        let runs = report["runs"].as_array().expect("runs");
        assert_eq!(runs.len(), 6);
        for run in runs {
            let started = run["started"].as_u64().expect("a number");
            assert!((1..=6).contains(&started) && run["completed"] == started, "{run}");
            assert_eq!(run["errors"], serde_json::json!({}), "{run}");
            // The server was found by its port.
            assert!(run["server"]["memory_bytes"].as_u64() > Some(1 << 20), "{run}");
            assert!(run["client"]["cpu_seconds"].as_f64() > Some(0.0), "{run}");
        }
        assert_eq!((&runs[5]["started"], &runs[5]["live_max"]), (&6.into(), &6.into()));
        for name in [
            "auth/tcp",
            "auth/version",
            "auth/kex",
            "auth/auth",
            "auth/total",
            "auth/cpu-client",
            "exec/channel",
            "exec/start",
            "exec/work",
            "echo/work",
            "sftp/start",
            "sftp/work",
            "forward/channel",
            "forward/work",
            "idle/total",
            "idle/cpu-server",
        ] {
            let whole = median(&report, &format!("load/{name}"));
            assert!(whole > 0.0 || name == "idle/cpu-server", "{name}");
        }
        let echoes = report["cases"].as_array().expect("cases").iter();
        let echo = echoes.clone().find(|case| case["name"] == "load/echo/work").expect("echoes");
        let done = runs[2]["completed"].as_u64().expect("a number");
        assert_eq!(echo["latency"]["count"], 3 * done, "each message counts");
    });
}

#[test]
fn a_rate_is_kept_and_runs_are_compared() {
    both(&["MaxStartups 100"], |server| {
        let words =
            ["--rate", "40", "--duration", "0.5", "--save", "load.json", "--html", "load.html"];
        let output = bench(server, "127.0.0.1", &words);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let told = text(&output.stdout);
        assert!(told.contains("load/auth, ms") && told.contains("p99.9"), "{told}");
        assert!(told.contains("auth: 20 of 20 connections"), "{told}");
        let page = fs::read_to_string(server.path("load.html")).expect("a page");
        assert!(page.contains("<p>auth: 20 of 20") && !page.contains("src="), "{page}");
        assert!(page.contains("<figcaption>load/auth <small>milliseconds"), "{page}");
        // Five phases, and four figures of each.
        assert_eq!(page.matches("<rect ").count(), 5 * 4, "{page}");
        let saved = fs::read_to_string(server.path("load.json")).expect("saved");
        let mut before: Value = serde_json::from_str(&saved).expect("JSON");
        assert!(before["target"]["software"].as_str().is_some_and(|s| s.starts_with("SSH-2.0-")));
        for case in before["cases"].as_array_mut().expect("cases") {
            case["nanos"] = 1.0.into();
        }
        fs::write(server.path("fast.json"), before.to_string()).expect("written");
        let words = ["--connections", "2", "--compare", "fast.json"];
        let output = bench(server, "127.0.0.1", &words);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
    });
}

#[test]
fn what_fails_is_told_by_phase_and_strangers_are_not_loaded() {
    both(&["MaxStartups 100"], |server| {
        let words = ["--scenario", "exec", "--command", "exit 3", "--connections", "2"];
        let output = bench(server, "127.0.0.1", &words);
        assert_eq!(output.status.code(), Some(255));
        assert!(
            text(&output.stderr).contains("2 × work: exit status 3"),
            "{}",
            text(&output.stderr)
        );
        let words = ["--scenario", "auth,exec", "--command", "exit 3", "--connections", "2"];
        let output = bench(server, "127.0.0.1", &words);
        assert_eq!(output.status.code(), Some(3), "in part: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains("exec, failed: 2 x work: exit status 3"));
        // Nobody has this address.
        let output = bench(server, "192.0.2.1", &[]);
        assert_eq!(output.status.code(), Some(255));
        assert!(
            text(&output.stderr).contains("--i-may-load-this-host"),
            "{}",
            text(&output.stderr)
        );
        let output = bench(server, "127.0.0.1", &["-o", "ProxyJump=elsewhere"]);
        assert!(text(&output.stderr).contains("in the way"), "{}", text(&output.stderr));
    });
}

#[test]
fn transfers_are_timed_both_ways_and_leave_nothing_behind() {
    both(&["MaxStartups 100"], |server| {
        let path = server.path("moved").display().to_string();
        // Requests of odd sizes: the last of a file is shorter.
        let few = ["--volume", "1M", "--rounds", "1", "--depth", "1,8", "--size", "100K", "--json"];
        let more = ["--streams", "1,2", "--path", &path, "--html", "moved.html"];
        let words = [&few[..], &more].concat();
        let report = report(&run("transfer", server, "127.0.0.1", &words));
        for streams in [1, 2] {
            for what in ["exec-down", "exec-up", "sftp-put/8x102400", "sftp-get/1x102400"] {
                let name = format!("transfer/{what}/{streams}");
                assert!(median(&report, &name) > 0.0);
                assert!(median(&report, &format!("{name}/cpu-client")) > 0.0);
                median(&report, &format!("{name}/cpu-server"));
            }
        }
        let page = fs::read_to_string(server.path("moved.html")).expect("a page");
        for chart in ["Rate <small>GiB a second", "CPU <small>seconds a GiB"] {
            assert!(page.contains(&format!("<figcaption>{chart}")), "{page}");
        }
        // Two ways by exec, and two by SFTP with two depths, of one stream and of two.
        assert!(page.matches("<rect ").count() >= 2 * (2 + 2 * 2) * 2, "{page}");
        fs::remove_file(server.path("moved.html")).expect("it");
        let left = fs::read_dir(server.path("")).expect("a folder").flatten();
        let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("moved"));
        assert_eq!(left.count(), 0);

        let words = [&few[..8], &["--path", "/nonexistent/x", "--only", "sftp-put"]].concat();
        let output = run("transfer", server, "127.0.0.1", &words);
        assert_eq!(output.status.code(), Some(255));
        let told = text(&output.stderr);
        assert!(told.contains("transfer/sftp-put/1x102400/1: SFTP: No such file"), "{told}");
    });
}

/// Carries connections to a server, and from so many bytes on nothing.
fn stuck(server: &Server, bytes: i64) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (port, to) = (listener.local_addr().expect("it").port(), server.port());
    thread::spawn(move || {
        for from in listener.incoming().flatten() {
            let to = TcpStream::connect(("127.0.0.1", to)).expect("the server");
            let left = Arc::new(AtomicI64::new(bytes));
            for (from, to) in [(&from, &to), (&to, &from)] {
                let (mut from, mut to) =
                    (from.try_clone().expect("it"), to.try_clone().expect("it"));
                let left = Arc::clone(&left);
                thread::spawn(move || {
                    let mut some = vec![0; 16 << 10];
                    while let Ok(got @ 1..) = from.read(&mut some) {
                        if left.fetch_sub(got as i64, Ordering::Relaxed) <= got as i64 {
                            thread::park();
                        }
                        if to.write_all(&some[..got]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    port
}

#[test]
fn a_transfer_that_stands_still_is_given_up() {
    both(&["MaxStartups 100"], |server| {
        let path = server.path("moved").display().to_string();
        for (what, says) in [("exec-down", ""), ("sftp-put", "moved.*, are not removed")] {
            let words = ["--volume", "4M", "--rounds", "1", "--streams", "1", "--depth", "8"];
            let more = ["--stall", "0.3", "--only", what, "--path", &path];
            let words = [&words[..], &more].concat();
            let port = stuck(server, 1 << 20);
            let output = run_at(port, "transfer", server, "127.0.0.1", &words);
            let told = text(&output.stderr);
            assert_eq!(output.status.code(), Some(255), "{told}");
            let moved = "127.0.0.1: nothing has moved for 0.3 s, after ";
            assert!(told.contains(moved) && told.contains(says), "{told}");
            assert!(told.contains(&format!("transfer/{what}/")), "{told}");
        }
    });
}

#[test]
fn keys_of_agents_are_measured_too() {
    both(&["MaxStartups 100"], |server| {
        let agent = Agent::start(server.path("agent"));
        agent.add(&server.path("user_ed25519"));
        // The file alone would not do.
        let aside = server.path("aside");
        fs::rename(server.path("user_ed25519"), &aside).expect("it");
        let words = ["-o", &agent.option(), "--connections", "3", "--json"];
        let output = bench(server, "127.0.0.1", &words);
        fs::rename(&aside, server.path("user_ed25519")).expect("it");
        let report = report(&output);
        assert_eq!((&report["runs"][0]["completed"], output.status.code()), (&3.into(), Some(0)));
    });
}

#[test]
fn passwords_come_from_files_and_variables() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let me = nix::unistd::User::from_uid(nix::unistd::geteuid()).expect("a database");
    fs::write(at("hashes"), format!("{}:{HASH}\n", me.expect("an account").name)).expect("a file");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(at("hashes"), mode).expect("a mode");
    fs::write(at("right"), format!("{PASSWORD}\nmore\n")).expect("a file");
    fs::write(at("wrong"), "incorrect horse").expect("a file");
    let file = format!("TidegatePasswordFile {}", at("hashes"));
    for method in ["PasswordAuthentication", "KbdInteractiveAuthentication"] {
        let lines = [&file, "PubkeyAuthentication no", &format!("{method} yes")];
        let server = Server::Ours(crate::support::Gateway::start(&lines));
        for from in [["--password-file", &at("right")], ["--password-env", "BENCH_SECRET"]] {
            let words = [&from[..], &["--connections", "2", "--json"]].concat();
            let output = bench(&server, "127.0.0.1", &words);
            let report = report(&output);
            assert_eq!(report["runs"][0]["completed"], 2, "{method}: {report}");
        }
        for (from, says) in [
            (["--password-file", &at("wrong")], "Permission denied"),
            (["--password-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE is not set"),
        ] {
            let output = bench(&server, "127.0.0.1", &from);
            let told = text(&output.stderr);
            assert_eq!(output.status.code(), Some(255), "{told}");
            assert!(told.contains(says) && !told.contains("horse"), "{told}");
        }
    }
}

/// A server that nothing is known of and that lets nobody in.
struct Dropbear(std::process::Child, u16);

impl Dropbear {
    const PROGRAM: &str = "/usr/sbin/dropbear";

    fn start(folder: &std::path::Path) -> Option<Dropbear> {
        if !std::path::Path::new(Dropbear::PROGRAM).exists() {
            let required = std::env::var_os("TIDEGATE_ALL_CLIENTS").is_some();
            assert!(!required, "dropbear is missing: apt-get install dropbear-bin");
            println!("left out: dropbear is missing; apt-get install dropbear-bin");
            return None;
        }
        let key = folder.join("dropbear_key");
        let mut make = Command::new("dropbearkey");
        crate::support::run_ok(make.args(["-t", "ed25519", "-f"]).arg(&key));
        let port = crate::support::free_port();
        let mut command = Command::new(Dropbear::PROGRAM);
        command.args(["-F", "-E", "-s", "-p", &format!("127.0.0.1:{port}"), "-r"]).arg(&key);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        crate::support::wait_for("dropbear", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some(Dropbear(child, port))
    }
}

impl Drop for Dropbear {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Up to the keys, without a user, a key or a host that is known.
#[test]
fn connections_are_measured_where_nobody_is_let_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let measure = |port: u16, count: u32| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["bench", "load", "127.0.0.1", "-F", "none", "-p", &port.to_string()]);
        command.args(["--scenario", "connect", "--concurrent", "2", "--json", "--connections"]);
        // All of them, however long a busy machine takes.
        command.args([&count.to_string(), "--duration", "300"]);
        let driver = driver().unwrap_or_else(|| "uring".to_owned());
        for option in [
            &format!("TidegateDriver={driver}"),
            "KexAlgorithms=curve25519-sha256",
            "BatchMode=yes",
            "IdentityFile=none",
            "IdentityAgent=none",
            "StrictHostKeyChecking=yes",
            "UserKnownHostsFile=none",
            "GlobalKnownHostsFile=none",
        ] {
            command.args(["-o", option]);
        }
        let output = command.stdin(Stdio::null()).current_dir(folder.path()).output();
        let output = output.expect("the program runs");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let report = report(&output);
        let run = &report["runs"][0];
        assert_eq!((&run["completed"], &run["errors"]), (&count.into(), &serde_json::json!({})));
        for phase in ["tcp", "version", "kex", "total"] {
            assert!(median(&report, &format!("load/connect/{phase}")) > 0.0);
        }
        let cases = report["cases"].as_array().expect("cases");
        assert!(cases.iter().all(|case| case["name"] != "load/connect/auth"), "{report}");
    };
    both(&["MaxStartups 100", "PubkeyAuthentication no"], |server| {
        measure(server.port(), 6);
        if let Server::Ours(gateway) = server {
            // They leave as one should.
            gateway.tells_times("measured", 6);
        }
    });
    if let Some(dropbear) = Dropbear::start(folder.path()) {
        // It has five connections of an address that are not logged in, whatever has become of them.
        measure(dropbear.1, 2);
    }
}
