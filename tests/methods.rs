//! Logins that take several methods, with OpenSSH's client.
#![allow(clippy::disallowed_methods, reason = "tests wait on the real clock")]

#[path = "methods/exposed.rs"]
mod exposed;
#[path = "methods/pam.rs"]
mod pam;
#[path = "methods/passwords.rs"]
mod passwords;
#[path = "methods/programs.rs"]
mod programs;
#[path = "methods/security.rs"]
mod security;
mod support;

use std::fs;
use std::process::Output;

use support::{Gateway, run_ok};

/// Whoever runs the tests; only he can log in where he is not root.
fn user() -> String {
    let output = run_ok(std::process::Command::new("id").arg("-un"));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn log_in(gateway: &Gateway, keys: &[&str], command: &str) -> Output {
    let keys = keys.iter().map(|key| format!("IdentityFile={}", gateway.path(key).display()));
    let mut options =
        vec!["KexAlgorithms=curve25519-sha256".to_owned(), "LogLevel=INFO".to_owned()];
    options.extend(keys);
    let options = options.iter().map(String::as_str).collect::<Vec<_>>();
    // The usual key comes behind those; only what is named first counts here.
    let mut ssh = gateway.ssh(&options, &[command]);
    ssh.output().expect("ssh starts")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn allow(gateway: &Gateway, lines: &[(&str, &str)]) {
    let line = |(options, name): &(&str, &str)| {
        let key = fs::read_to_string(gateway.path(&format!("{name}.pub"))).expect("a key");
        format!("{options} {key}")
    };
    fs::write(gateway.path("authorized_keys"), lines.iter().map(line).collect::<String>())
        .expect("authorized_keys");
}

#[test]
fn two_keys_are_needed_and_both_have_their_say() {
    let gateway = Gateway::start(&["AuthenticationMethods publickey,publickey"]);
    // The key that every client has last is the first of the two here.
    allow(&gateway, &[("", "user_ed25519"), ("", "user_ecdsa256")]);
    let alone = log_in(&gateway, &[], "echo in");
    assert_eq!(out(&alone), "", "one key is not enough");
    let told = String::from_utf8_lossy(&alone.stderr).into_owned();
    assert!(told.contains("Permission denied (publickey)"), "{told}");
    gateway.tells("Partial publickey for ");
    assert!(!gateway.log().contains("Accepted publickey for "), "{}", gateway.log());
    assert_eq!(out(&log_in(&gateway, &["user_ecdsa256"], "echo in")), "in\n", "{}", gateway.log());
    assert_eq!(out(&log_in(&gateway, &["user_ecdsa384"], "echo in")), "", "a stranger's key");

    for tied in ["user_ed25519", "user_ecdsa256"] {
        let free = if tied == "user_ed25519" { "user_ecdsa256" } else { "user_ed25519" };
        allow(&gateway, &[("command=\"echo forced\"", tied), ("", free)]);
        assert_eq!(out(&log_in(&gateway, &["user_ecdsa256"], "echo free")), "forced\n", "{tied}");
    }
    let two = [("command=\"echo a\"", "user_ed25519"), ("command=\"echo b\"", "user_ecdsa256")];
    allow(&gateway, &two);
    assert_eq!(out(&log_in(&gateway, &["user_ecdsa256"], "echo free")), "", "two commands");
}

#[test]
fn methods_depend_on_the_user() {
    let me = user();
    for (block, keys, expected) in [
        (format!("Match User {me}\nAuthenticationMethods publickey,publickey"), 1, ""),
        (format!("Match User {me}\nAuthenticationMethods publickey,publickey"), 2, "in\n"),
        ("Match User somebody\nAuthenticationMethods publickey,publickey".to_owned(), 1, "in\n"),
        ("Match LocalAddress 127.0.0.1\nAuthenticationMethods publickey,publickey".into(), 1, ""),
        (
            format!("Match User {me}\nAuthenticationMethods publickey,publickey publickey"),
            1,
            "in\n",
        ),
        (format!("Match User {me}\nPubkeyAuthentication no"), 2, ""),
    ] {
        let gateway = gateway_with(&block);
        let more: &[&str] = if keys == 2 { &["user_ecdsa256"] } else { &[] };
        let output = log_in(&gateway, more, "echo in");
        assert_eq!(out(&output), expected, "{block}: {output:?}\n{}", gateway.log());
    }
}

/// A gateway whose configuration ends with a block.
fn gateway_with(block: &str) -> Gateway {
    use std::io::Write;
    Gateway::start_with(&[], |command| {
        let config = command.get_args().nth(2).expect("the configuration").to_owned();
        let file = fs::OpenOptions::new().append(true).open(config);
        writeln!(file.expect("the configuration"), "{block}").expect("a block");
    })
}
