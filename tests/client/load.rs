//! `tidegate bench load` and `bench transfer` against the servers that `tidegate ssh` logs in at.

use std::fs;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::server::{Server, both, text};
use crate::support::driver;

fn bench(server: &Server, host: &str, words: &[&str]) -> Output {
    run("load", server, host, words)
}

fn run(what: &str, server: &Server, host: &str, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["bench", what, host, "-F", "none", "-p", &server.port().to_string(), "-i"]);
    command.arg(server.path("user_ed25519")).args(words);
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
        let words = [&few[..], &["--streams", "1,2", "--path", &path]].concat();
        let report = report(&run("transfer", server, "127.0.0.1", &words));
        for streams in [1, 2] {
            for what in ["exec-down", "exec-up", "sftp-put/8x102400", "sftp-get/1x102400"] {
                let name = format!("transfer/{what}/{streams}");
                assert!(median(&report, &name) > 0.0);
                assert!(median(&report, &format!("{name}/cpu-client")) > 0.0);
                median(&report, &format!("{name}/cpu-server"));
            }
        }
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
