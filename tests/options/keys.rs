//! authorized_keys: each option by itself.

use super::{allow, client, here, shown, ssh, text, with_blocks};
use crate::support::{Gateway, run_ok, wait_for};

const TTY: &str = "RequestTTY=force";
const NO_TTY: &str = "PTY allocation request failed on channel 0";

/// What a session with these options in front of its key prints.
fn says(gateway: &Gateway, options: &str, ssh_options: &[&str], words: &[&str]) -> String {
    allow(gateway, options);
    let output = run_ok(&mut here(gateway, ssh_options, words));
    text(&output.stdout).trim_end().to_owned()
}

#[test]
fn permits_and_restrictions() {
    let gateway = Gateway::start(&[]);
    for (options, terminal) in [
        ("", true),
        ("no-pty", false),
        ("NO-PTY", false),
        ("restrict", false),
        ("restrict,pty", true),
        ("pty,restrict", false),
        ("no-agent-forwarding,no-X11-forwarding,no-port-forwarding,no-user-rc", true),
        ("restrict,agent-forwarding,X11-forwarding,port-forwarding,user-rc", false),
    ] {
        allow(&gateway, options);
        let seen = shown(&mut here(&gateway, &[TTY], &["tty"]));
        assert_eq!(seen.out.contains("/dev/pts/"), terminal, "{options}: {seen:?}");
        assert_eq!(seen.err.contains(NO_TTY), !terminal, "{options}: {seen:?}");
    }
}

#[test]
fn commands_addresses_and_times() {
    let gateway = Gateway::start(&[]);
    let forced = r#"command="echo \"$SSH_ORIGINAL_COMMAND\", forced""#;
    assert_eq!(says(&gateway, forced, &[], &["ls", "-l"]), "ls -l, forced");
    assert_eq!(says(&gateway, forced, &[], &[]), ", forced");
    for (options, allowed) in [
        ("from=\"127.0.0.1\"", true),
        ("from=\"127.0.0.*\"", true),
        ("from=\"127.0.0.0/8\"", true),
        ("from=\"10.0.0.0/8,127.0.0.?\"", true),
        ("from=\"127.0.0.0/8,!127.0.0.1\"", false),
        ("from=\"!127.0.0.1,*\"", false),
        ("from=\"!10.0.0.1\"", false),
        ("from=\"10.0.0.0/8\"", false),
        ("from=\"::1\"", false),
        ("expiry-time=\"20990101\"", true),
        ("expiry-time=\"209901010000Z\"", true),
        ("expiry-time=\"20200101\"", false),
        ("expiry-time=\"20200101000000Z\"", false),
        ("expiry-time=\"20990101\",expiry-time=\"20200101\"", false),
    ] {
        allow(&gateway, options);
        let seen = shown(&mut here(&gateway, &[], &["echo in"]));
        assert_eq!(seen.out == "in\n", allowed, "{options}: {seen:?}\n{}", gateway.log());
        assert_eq!(seen.err.contains("Permission denied (publickey)"), !allowed, "{seen:?}");
    }
    for reason in ["from= does not allow 127.0.0.1", "its expiry-time 20200101 has passed"] {
        gateway.tells(reason);
    }
}

/// What is unknown, wrong, or belongs to something not built yet refuses the line, and the log
/// names file, line and option. A later line may still let the key in, and the log says the same.
#[test]
fn case_77_what_is_not_enforced_refuses_the_line() {
    let gateway = Gateway::start(&[]);
    let file = gateway.path("authorized_keys").display().to_string();
    for (options, name) in [
        ("no-ptyy", "no-ptyy"),
        ("permitopen=\"localhost\"", "permitopen"),
        ("permitlisten=\"localhost\"", "permitlisten"),
        ("tunnel=\"1\"", "tunnel"),
        ("principals=\"a\"", "principals"),
        ("environment=\"A-B=1\"", "environment"),
        ("expiry-time=\"tomorrow\"", "expiry-time"),
        ("from=\"10.0.0.1/8\"", "from"),
        ("command=ls", "command"),
        ("command=\"internal-sftp -Z\"", "command"),
    ] {
        allow(&gateway, options);
        let seen = shown(&mut here(&gateway, &[], &["echo in"]));
        assert_eq!((seen.code, &*seen.out), (Some(255), ""), "{options}");
        let expected = format!("{file}:1: option");
        let told = |log: &str| {
            let mut lines = log.lines().rev().filter(|line| line.contains(&expected));
            lines.next().is_some_and(|line| line.contains(name))
        };
        wait_for(options, || told(&gateway.log()));
    }
    // The line behind a refused one counts, and the refused one is still told about.
    allow(&gateway, "frobnicate");
    let key = std::fs::read_to_string(gateway.path("authorized_keys")).expect("keys");
    let both = format!("{key}{}", key.replacen("frobnicate ", "", 1));
    std::fs::write(gateway.path("authorized_keys"), both).expect("keys");
    assert_eq!(shown(&mut here(&gateway, &[], &["echo in"])).out, "in\n");
    wait_for("the note", || {
        let log = gateway.log();
        let told = |line: &str| line.contains("Passed over") && line.contains("frobnicate");
        log.lines().any(|line| told(line) && line.contains(&format!("{file}:2")))
    });
}

#[test]
fn variables_of_a_key_need_permission() {
    let (gateway, ports) = with_blocks(&["PermitUserEnvironment A*,!AB"], &["SetEnv AC=admin"]);
    let keys = "environment=\"A=1\",environment=\"A=2\",environment=\"AB=3\",environment=\"AC=key\",\
                environment=\"B=4\"";
    let script = "echo $A-$AB-$AC-$B";
    assert_eq!(says(&gateway, keys, &[], &[script]), "1--key-");
    let seen = shown(&mut ssh(&gateway, ports[0], &[], &[script]));
    assert_eq!(seen.out, "1--admin-\n", "{seen:?}");
    gateway.tells("PermitUserEnvironment does not let B be set");
    let gateway = Gateway::start(&[]);
    assert_eq!(says(&gateway, keys, &[], &[script]), "---", "off unless switched on");
}

/// SECURITY case 78 and sshd_config(5): the administrator's command wins, then the key's, whatever
/// is asked for.
#[test]
fn case_78_a_forced_command_is_not_got_round() {
    let (gateway, ports) = with_blocks(
        &["Subsystem own echo subsystem"],
        &["ForceCommand echo admin-$SSH_ORIGINAL_COMMAND", "ForceCommand internal-sftp"],
    );
    allow(&gateway, "command=\"echo key-$SSH_ORIGINAL_COMMAND\"");
    let run = |port, words: &[&str]| shown(&mut ssh(&gateway, port, &[], words));
    assert_eq!(run(gateway.port, &["id"]).out, "key-id\n");
    assert_eq!(run(ports[0], &["id"]).out, "admin-id\n");
    assert_eq!(run(ports[0], &[]).out, "admin-\n");
    let subsystem = |port: u16, name: &str| {
        let mut ssh = client(&gateway, &[&format!("Port={port}")]);
        shown(ssh.args(["-s", "127.0.0.1", name]))
    };
    let own = subsystem(gateway.port, "own");
    assert_eq!(own.out, "key-echo subsystem\n", "{own:?}");
    let own = subsystem(ports[0], "sftp");
    assert_eq!(own.out, "admin-internal-sftp\n", "{own:?}");
    let none = subsystem(ports[0], "nosuch");
    assert_eq!((none.code, &*none.out), (Some(255), ""), "{none:?}");
    assert!(none.err.contains("subsystem request failed on channel 0"), "{none:?}");
    let only = run(ports[1], &["id"]);
    assert_eq!((only.code, &*only.out), (Some(1), "This service allows sftp connections only.\n"));
    assert_eq!(run(ports[1], &[]).code, Some(1));
    let port = format!("Port={}", ports[1]);
    let listed = gateway.sftp(&[&port], "ls /\n");
    assert!(listed.status.success() && text(&listed.stdout).contains("/etc"), "{listed:?}");
}
