//! `tidegate bench` as people run it: the program, its files and its exit codes.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn bench(folder: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("bench").args(words).args(["--time", "1"]).current_dir(folder);
    command.output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn ciphers_are_measured_saved_shown_and_compared() {
    let folder = tempfile::tempdir().expect("a folder");
    let only = ["cipher", "--only", "/aes128-gcm@openssh.com/aws-lc-rs/1024/1"];
    let asked = [&only[..], &["--json", "--save", "first.json", "--html", "page.html"]].concat();
    let ran = bench(folder.path(), &asked);
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let report: Value = serde_json::from_slice(&ran.stdout).expect("JSON alone");
    assert_eq!(report["schema"], "tidegate-bench/1");
    let cases = report["cases"].as_array().expect("cases");
    let names: Vec<_> = cases.iter().filter_map(|case| case["name"].as_str()).collect();
    let expected = ["seal", "open"].map(|what| format!("{what}{}", only[2]));
    assert_eq!(names, expected);
    for case in cases {
        assert!(case["nanos"].as_f64() > Some(0.0) && case["gib_per_second"].as_f64() > Some(0.0));
    }
    let saved = fs::read(folder.path().join("first.json")).expect("saved");
    assert_eq!(saved, ran.stdout);
    let page = fs::read_to_string(folder.path().join("page.html")).expect("a page");
    assert!(page.starts_with("<!doctype html>") && page.contains("1024"), "{page}");
    for chart in ["seal, one thread", "open, one thread"] {
        let drawn = format!("<figcaption>{chart}: authenticated ciphers <small>GiB a second");
        assert!(page.contains(&drawn), "{page}");
    }
    assert_eq!(page.matches("<rect ").count(), 2, "a bar for each: {page}");

    // Beside a run that was as fast as can be, everything is slower; beside a slow one, nothing.
    for (nanos, code) in [(1e-3, 2), (1e12, 0)] {
        let mut other = report.clone();
        for case in other["cases"].as_array_mut().expect("cases") {
            case["nanos"] = nanos.into();
        }
        fs::write(folder.path().join("other.json"), other.to_string()).expect("written");
        let ran = bench(folder.path(), &[&only[..], &["--compare", "other.json"]].concat());
        assert_eq!(ran.status.code(), Some(code), "{}", text(&ran.stdout));
        assert!(text(&ran.stdout).contains("compared 2 cases"), "{}", text(&ran.stdout));
    }
}

#[test]
fn ciphers_are_drawn_over_the_sizes() {
    let folder = tempfile::tempdir().expect("a folder");
    let words = ["cipher", "--only", "seal/aes", "--threads", "1", "--html", "page.html"];
    let ran = bench(folder.path(), &words);
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let page = fs::read_to_string(folder.path().join("page.html")).expect("a page");
    for family in ["authenticated ciphers", "aes128-ctr", "aes256-ctr"] {
        assert!(
            page.contains(&format!("<figcaption>seal, one thread: {family} <small>")),
            "{page}"
        );
    }
    // A curve and a line of the key for each suite of each library, and a dot for each size.
    let suites = page.matches("<td>aes").count() / 2;
    assert!(suites > 1 && page.matches("class=\"curve ").count() == 2 * suites, "{page}");
    let dots = page.matches("<circle ").count();
    assert!(dots > 2 * suites && dots.is_multiple_of(suites), "{dots} of {suites}: {page}");
}

#[test]
fn exchanges_and_logins_are_measured_by_role() {
    let folder = tempfile::tempdir().expect("a folder");
    let words = ["kex", "--only", "curve25519-sha256/", "--html", "page.html"];
    let ran = bench(folder.path(), &words);
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let told = text(&ran.stdout);
    for case in [
        "kex/curve25519-sha256/client-start",
        "kex/curve25519-sha256/server",
        "login/curve25519-sha256/ssh-ed25519/ssh-ed25519/client",
        "login/curve25519-sha256/ssh-ed25519/ssh-ed25519/server",
    ] {
        assert!(told.lines().any(|line| line.starts_with(case)), "{case}: {told}");
    }
    let page = fs::read_to_string(folder.path().join("page.html")).expect("a page");
    for chart in ["key exchanges", "logins"] {
        assert!(page.contains(&format!("<figcaption>{chart} <small>microseconds")), "{page}");
    }
    let cases = told.lines().filter(|line| line.contains("curve25519-sha256/")).count();
    assert_eq!(page.matches("<rect ").count(), cases, "a bar for each: {page}");
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is_measured() {
    let folder = tempfile::tempdir().expect("a folder");
    for (words, says) in [
        (&["cipher", "--compare", "missing.json"][..], "missing.json"),
        (&["cipher", "--only", "rot13"], "no case has \"rot13\""),
        (&["speed"], "there is no bench"),
    ] {
        let ran = bench(folder.path(), words);
        assert!(!ran.status.success() && ran.stdout.is_empty());
        assert!(text(&ran.stderr).contains(says), "{}", text(&ran.stderr));
    }
}
