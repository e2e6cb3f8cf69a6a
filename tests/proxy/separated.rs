//! As root, logins that go on elsewhere are a process of their own's, and the keys are the signer's.

use std::fs;

use super::{Host, said, ssh, text};
use crate::support::account::Account;
use crate::support::processes::{
    Session, assert_open, assert_without_rights, field, has, kill, part, seed, wait_for_the_end_of,
};
use crate::support::{Gateway, keygen, wait_for};

/// Root's logins go on at the host, others are served here. Only root has rights to separate.
fn gateway(host: &Host, credential: &str) -> Option<Gateway> {
    if !nix::unistd::geteuid().is_root() {
        println!("only root has rights to separate");
        return None;
    }
    let settings = host.settings();
    let lines = ["Match User root", &settings[0], credential, &settings[2], "Match all"];
    Some(Gateway::start(&lines))
}

fn assert_goes_on(gateway: &Gateway) {
    let output = ssh(gateway, &[], &["echo in"]);
    assert_eq!(text(&output.stdout), "in\n", "{}", said(gateway, &output));
}

/// SECURITY cases 132, 133 and 135: who passes logins on has no rights, and neither it nor anybody but the
/// signer has a key that opens hosts.
#[test]
fn case_132_to_135_a_relay_has_no_rights_and_no_keys() {
    let Some(host) = Host::start("TrustedUserCAKeys FOLDER/authority.pub") else { return };
    keygen(&host.path("authority"), "ed25519", "");
    let identity = host.settings()[1].clone();
    let authority = format!("TidegateUpstreamCA {}", host.path("authority").display());
    for (credential, file) in [(identity, "gateway_key"), (authority, "authority")] {
        let Some(gateway) = gateway(&host, &credential) else { return };
        let session = Session::begin(&gateway, "root");
        gateway.tells("Connection of root goes on in another process");
        let relay = part(&gateway, "relay");
        assert_without_rights(relay);
        assert_open(relay, &["socket:", "pipe:", "anon_inode:", "/dev/null"]);
        let uids = ["edge", "relay", "signer"].map(|name| field(part(&gateway, name), "Uid:"));
        assert!(uids[0] != uids[1] && uids[1] != uids[2], "{uids:?}");
        let secret = seed(&host.path(file));
        let signer = part(&gateway, "signer");
        assert!(has(signer, &secret), "the search finds what is there");
        for pid in [gateway.child.id(), part(&gateway, "edge"), relay] {
            assert!(!has(pid, &secret), "{pid} has the key");
        }
        // Another signer is given the file, and root's process does not read it again.
        kill("-9", signer);
        assert_goes_on(&gateway);
        assert!(has(part(&gateway, "signer"), &secret));
        assert!(!has(gateway.child.id(), &secret), "root's process has the key now");
        drop(session);
    }
}

/// A file that holds another key than before: the key is not used until the next reload, and the signer
/// serves.
#[test]
fn a_key_file_that_changes_counts_from_the_next_reload_on() {
    let Some(host) = Host::start("") else { return };
    let Some(gateway) = gateway(&host, &host.settings()[1]) else { return };
    // It has read the file when it serves, and not when it listens.
    assert_goes_on(&gateway);
    let (key, away) = (host.path("gateway_key"), host.path("away"));
    fs::rename(&key, &away).expect("taken away");
    keygen(&key, "ed25519", "");
    assert_goes_on(&gateway);
    kill("-9", part(&gateway, "signer"));
    let output = ssh(&gateway, &["LogLevel=INFO"], &["true"]);
    assert_eq!(output.status.code(), Some(255), "{}", said(&gateway, &output));
    gateway.tells("A key that opens hosts is not used: a key file holds ");
    // The host is to know the new one.
    let public = fs::read(host.path("gateway_key.pub")).expect("a key");
    fs::write(host.path("authorized_keys"), public).expect("its keys");
    kill("-HUP", gateway.child.id());
    wait_for("the reload", || gateway.log().contains("is in force for new connections"));
    assert_goes_on(&gateway);
}

/// SECURITY R2 and R3: a relay that is stopped or killed takes the logins along that it has passed on, and
/// nobody else. Those that it has outlive root's process.
#[test]
fn r2_and_r3_a_relay_is_replaced_and_outlives_roots_process() {
    let Some(host) = Host::start("") else { return };
    let Some(account) = Account::new() else { return };
    let Some(mut gateway) = gateway(&host, &host.settings()[1]) else { return };
    let mut here = Session::begin(&gateway, &account.name);
    for (signal, why) in [("-STOP", "it does not answer"), ("-9", "it ended with signal: 9")] {
        let mut passed_on = Session::begin(&gateway, "root");
        let relay = part(&gateway, "relay");
        kill(signal, relay);
        let line = format!("The relay has ended: {why}");
        wait_for("another relay", || {
            let log = gateway.log();
            log.contains(&line) && log.contains("1 logins that went on at other hosts are lost")
        });
        passed_on.0.wait().expect("its end");
        here.assert_well();
        assert_goes_on(&gateway);
        assert_ne!(part(&gateway, "relay"), relay);
    }
    let mut passed_on = Session::begin_with(&gateway, "root", &["RekeyLimit=64K"]);
    let [relay, signer] = ["relay", "signer"].map(|name| part(&gateway, name));
    kill("-9", gateway.child.id());
    gateway.child.wait().expect("its end");
    // Their keys change too.
    passed_on.assert_moves(256 << 10);
    here.assert_well();
    drop(passed_on);
    wait_for_the_end_of(relay);
    drop(here);
    wait_for_the_end_of(signer);
}

/// `TidegateIsolation per-connection`: each login that goes on has a relay of its own, without rights, and
/// whoever ends one ends one login. They outlive root's process, as one relay does.
#[test]
fn r2_and_r3_logins_that_go_on_have_relays_of_their_own() {
    if !nix::unistd::geteuid().is_root() {
        return println!("only root has rights to separate");
    }
    let Some(host) = Host::start("") else { return };
    let mut gateway = host.gateway(&["TidegateIsolation per-connection"]);
    assert!(gateway.parts("relay").is_empty());
    assert_goes_on(&gateway);
    wait_for("its relay to end", || gateway.parts("relay").is_empty());
    let begin = |()| Session::begin_with(&gateway, "root", &["RekeyLimit=64K"]);
    let mut sessions = Vec::from([(); 3].map(begin));
    let relays = gateway.parts("relay");
    assert!(relays.len() == 3 && gateway.parts("delegate").is_empty(), "{relays:?}");
    for relay in &relays {
        assert_without_rights(*relay);
        assert_open(*relay, &["socket:", "pipe:", "anon_inode:", "/dev/null"]);
    }
    kill("-9", relays[1]);
    gateway.tells("The relay has ended: it ended with signal: 9 (SIGKILL). 1 logins");
    let mut ended = |session: &mut Session| session.0.try_wait().expect("its status").is_some();
    wait_for("its login to end", || sessions.iter_mut().any(&mut ended));
    sessions.retain_mut(|session| !ended(session));
    assert_eq!(sessions.len(), 2);
    sessions.iter_mut().for_each(|session| session.assert_moves(256 << 10));
    drop(sessions.pop());
    wait_for("its relay to end", || gateway.parts("relay").len() == 1);
    let from = host.path("big");
    fs::write(&from, crate::support::noise(1 << 20, 6)).expect("a file");
    let batch = format!("get {} {}\n", from.display(), gateway.path("big").display());
    let output = gateway.sftp(&[], &batch);
    assert!(output.status.success(), "{}", said(&gateway, &output));
    assert!(fs::read(gateway.path("big")).ok() == fs::read(&from).ok());

    let (relay, signer) = (gateway.parts("relay")[0], part(&gateway, "signer"));
    kill("-9", gateway.child.id());
    gateway.child.wait().expect("its end");
    sessions[0].assert_moves(256 << 10);
    drop(sessions);
    wait_for_the_end_of(relay);
    wait_for_the_end_of(signer);
}
