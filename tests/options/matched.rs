//! What depends on the user before the login is over, and what depends on the client's name.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::ToSocketAddrs;

use super::{allow, here, open_to_all, shown};
use crate::support::Gateway;
use crate::support::account::Account;

/// A gateway whose file ends with these lines.
fn ending_with(lines: &[&str], rest: &str) -> Gateway {
    let gateway = Gateway::start_with(lines, |command| {
        let config = command.get_args().nth(2).expect("the configuration").to_owned();
        let mut file = OpenOptions::new().append(true).open(config).expect("the configuration");
        file.write_all(rest.as_bytes()).expect("the rest");
    });
    open_to_all(&gateway);
    gateway
}

fn own_name() -> String {
    let output = std::process::Command::new("id").arg("-un").output().expect("id");
    super::text(&output.stdout).trim().to_owned()
}

#[test]
fn banner_tries_and_log_level_may_depend_on_the_user() {
    let folder = tempfile::tempdir().expect("a folder");
    let banner = folder.path().join("banner");
    fs::write(&banner, "Only for us.\n").expect("a file");
    let rest = format!(
        "Match User {}\nBanner {}\nMaxAuthTries 1\nLogLevel QUIET\n\
         Match invalid-user\nLogLevel DEBUG\n",
        own_name(),
        banner.display()
    );
    let gateway = ending_with(&["LogLevel INFO"], &rest);
    let ours = shown(&mut here(&gateway, &["LogLevel=INFO"], &["echo in"]));
    assert_eq!((ours.code, &*ours.out), (Some(0), "in\n"), "{ours:?}\n{}", gateway.log());
    assert!(ours.err.contains("Only for us."), "{ours:?}");
    let stranger = shown(&mut here(&gateway, &["LogLevel=INFO", "User=no-such"], &["echo in"]));
    assert!(stranger.code == Some(255) && stranger.err.contains("Permission denied"));
    assert!(!stranger.err.contains("Only for us."), "{stranger:?}");
    // A key that is not known is one try, and the last.
    crate::support::keygen(&gateway.path("other"), "ed25519", "");
    let other = format!("IdentityFile={}", gateway.path("other").display());
    let late = shown(&mut here(&gateway, &[&other], &["echo in"]));
    assert!(late.code == Some(255) && late.err.contains("Too many authentication"), "{late:?}");
    let log = gateway.tells("does not let no-such in");
    assert!(log.contains("Connection from 127.0.0.1"), "before the user is known: {log}");
    for quiet in ["Accepted publickey", "Starting session", "Too many authentication"] {
        assert!(!log.contains(quiet), "{quiet}: {log}");
    }
}

/// The level goes along to the process of the account.
#[test]
fn the_log_level_of_a_block_holds_in_the_processes_of_accounts() {
    let Some(account) = Account::new() else { return };
    let rest = format!("Match User {}\nLogLevel VERBOSE\n", account.name);
    let gateway = ending_with(&["LogLevel QUIET", "PerSourcePenalties no"], &rest);
    let user = format!("User={}", account.name);
    assert_eq!(shown(&mut here(&gateway, &[&user], &["echo in"])).out, "in\n");
    assert_eq!(shown(&mut here(&gateway, &[], &["echo in"])).out, "in\n");
    let started = "Starting session: ";
    let log = gateway.tells(started);
    assert!(log.contains(&format!(" for {} from 127.0.0.1", account.name)), "{log}");
    assert_eq!(log.matches("Accepted publickey").count(), 1, "{log}");
    assert_eq!(log.matches(started).count(), 1, "{log}");
    assert!(!log.contains("Serving with"), "{log}");
}

#[test]
fn connections_are_refused_when_the_user_is_known() {
    let rest = "Match User mallory,trudy\nRefuseConnection yes\nMatch all\nRefuseConnection no\n";
    let penalties = "PerSourcePenalties refuseconnection:100 min:150";
    let gateway = ending_with(&[penalties], rest);
    let refused = |user: &str| {
        let user = format!("User={user}");
        let seen = shown(&mut here(&gateway, &["LogLevel=INFO", &user], &["echo in"]));
        assert_eq!((seen.code, &*seen.out), (Some(255), ""), "{seen:?}");
        seen.err
    };
    let told = refused("mallory");
    assert!(told.contains("connection refused"), "{told}");
    assert_eq!(shown(&mut here(&gateway, &[], &["echo in"])).out, "in\n", "{}", gateway.log());
    let line = "administratively prohibited connection for invalid user mallory from 127.0.0.1";
    gateway.tells(line);
    // The second refusal brings the sum over the least that counts.
    refused("trudy");
    gateway.tells("its connection was refused");
    assert_eq!(shown(&mut here(&gateway, &[], &["echo in"])).code, Some(255));
}

#[test]
fn names_of_clients_decide_where_they_are_looked_up() {
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let plain = |line: &&str| line.split_whitespace().next() == Some("127.0.0.1");
    let first = hosts.lines().find(plain).and_then(|line| line.split_whitespace().nth(1));
    if first != Some("localhost") || ("localhost", 0).to_socket_addrs().is_err() {
        println!("not run: 127.0.0.1 is not called localhost here");
        return;
    }
    let rest = "Match Host localhost\nSetEnv NAMED=yes\n";
    let show = ["echo $NAMED"];
    let gateway = ending_with(&["UseDNS yes", "AllowUsers *@local?ost"], rest);
    allow(&gateway, "from=\"localhost\"");
    let seen = shown(&mut here(&gateway, &[], &show));
    assert_eq!(seen.out, "yes\n", "{seen:?}\n{}", gateway.log());
    allow(&gateway, "from=\"elsewhere.example\"");
    assert_eq!(shown(&mut here(&gateway, &[], &show)).code, Some(255));
    allow(&gateway, "from=\"127.0.0.1,!localhost\"");
    assert_eq!(shown(&mut here(&gateway, &[], &show)).code, Some(255));
    drop(gateway);
    // Without look-ups the address stands for the name.
    let gateway = ending_with(&["UseDNS no"], rest);
    assert_eq!(shown(&mut here(&gateway, &[], &show)).out, "\n");
    allow(&gateway, "from=\"localhost\"");
    assert_eq!(shown(&mut here(&gateway, &[], &show)).code, Some(255));
}

#[test]
fn routing_domains_are_devices_that_listeners_are_bound_to() {
    let port = crate::support::free_port();
    let line = format!("ListenAddress 127.0.0.1:{port} rdomain lo");
    let gateway = ending_with(&[&line], "Match RDomain lo\nSetEnv NAMED=yes\n");
    let show = ["echo $NAMED"];
    let bound = shown(&mut super::ssh(&gateway, port, &[], &show));
    assert_eq!(bound.out, "yes\n", "{bound:?}\n{}", gateway.log());
    assert_eq!(shown(&mut here(&gateway, &[], &show)).out, "\n", "{}", gateway.log());
}
