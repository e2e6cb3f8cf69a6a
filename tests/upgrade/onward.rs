//! Logins that go on at a host behind the gateway move with both their connections.

use super::sessions::{assert_echoes, connect, echo_server, forwarding};
use super::*;
use crate::support::openssh::Sshd;
use crate::support::{free_port, keygen, noise, sha256};

/// A host that changes keys often, and a gateway whose logins go on there. `None`: it cannot run here.
fn site(account: Option<&Account>, lines: &[&str]) -> Option<(Site, Sshd, TempDir)> {
    if !Sshd::is_here() {
        return None;
    }
    let host = tempfile::tempdir().expect("a folder");
    let at = |name: &str| host.path().join(name);
    fs::set_permissions(host.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    for (name, kind) in [("host_key", "ecdsa"), ("gateway_key", "ed25519")] {
        keygen(&at(name), kind, "");
    }
    if let Some(account) = account {
        run_ok(Command::new("chown").arg(&account.name).arg(at("gateway_key")));
    }
    fs::copy(at("gateway_key.pub"), at("authorized_keys")).expect("its keys");
    let config = format!("HostKey {}\nRekeyLimit 128K", at("host_key").display());
    let sshd = Sshd::start(host.path(), &config);
    let public = fs::read_to_string(at("host_key.pub")).expect("a key");
    fs::write(at("known_hosts"), format!("[127.0.0.1]:{} {public}", sshd.port)).expect("a file");
    let own = [
        format!("TidegateUpstream 127.0.0.1:{}", sshd.port),
        format!("TidegateUpstreamIdentity {}", at("gateway_key").display()),
        format!("TidegateUpstreamKnownHosts {}", at("known_hosts").display()),
        "TidegateUpstreamUser root".to_owned(),
    ];
    let lines: Vec<&str> = own.iter().map(String::as_str).chain(lines.iter().copied()).collect();
    Some((Site::start(&lines, account, &[]), sshd, host))
}

/// Sessions, streams and what is on its way go on at the same host, keys change on both sides, and nothing is
/// left of the programs before.
fn pairs_move(site: &Site) {
    let gateway = &site.gateway;
    let (size, echo, ports) = (3 << 20, echo_server(), [free_port(), free_port()]);
    fs::write(gateway.path("big"), noise(size, 5)).expect("a file");
    let mut session = site.session();
    let forwarding = forwarding(site, echo, ports);
    let mut streams = ports.map(connect);
    streams.iter_mut().for_each(|stream| assert_echoes(stream, 1000));
    let mut stream = site.ssh(&["RekeyLimit=1M"], &["cat"]);
    let files = [fs::File::open(gateway.path("big")), fs::File::create(gateway.path("copy"))];
    let [from, to] = files.map(|file| file.expect("a file"));
    let mut stream = stream.stdin(from).stdout(to).spawn().expect("the client starts");
    let arrived = || gateway.path("copy").metadata().map_or(0, |meta| meta.len());
    wait_for("the transfer", || arrived() > 0);
    let before = [site.upgrade(), site.upgrade()];
    session.assert_well(3000);
    streams.iter_mut().for_each(|stream| assert_echoes(stream, 100_000));
    assert!(stream.wait().expect("an end").success(), "{}", gateway.log());
    before.into_iter().for_each(wait_for_the_end_of);
    session.assert_well(3000);
    streams.iter_mut().for_each(|stream| assert_echoes(stream, 200_000));
    let mut later = ports.map(connect);
    later.iter_mut().for_each(|stream| assert_echoes(stream, 100_000));
    assert_eq!(sha256(&gateway.path("copy")), sha256(&gateway.path("big")));
    assert!(site.told(" goes on in the next program") >= 4, "{}", gateway.log());
    site.assert_serves();
    drop((streams, later, forwarding));
    session.end();
    let log = gateway.log();
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn logins_at_hosts_behind_one_process_move() {
    let Some(account) = Account::new() else { return };
    let Some((site, ..)) = &site(Some(&account), &[]) else { return };
    pairs_move(site);
}

#[test]
fn logins_at_hosts_behind_a_relay_move() {
    let Some((site, ..)) = &site(None, &[]) else { return };
    pairs_move(site);
}

#[test]
fn logins_at_hosts_behind_relays_of_their_own_move() {
    let lines = ["TidegateIsolation per-connection"];
    let Some((site, ..)) = &site(None, &lines) else { return };
    pairs_move(site);
}

/// A program under whose configuration no login goes on elsewhere takes none over.
#[test]
fn logins_at_hosts_stay_where_the_next_program_has_no_relay() {
    let Some((site, ..)) = &site(None, &[]) else { return };
    let mut session = site.session();
    let config = site.gateway.path("tidegate_config");
    let text = fs::read_to_string(&config).expect("a configuration");
    let without: String = text
        .lines()
        .filter(|line| !line.starts_with("TidegateUpstream"))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&config, without).expect("a configuration");
    let first = site.upgrade();
    session.assert_well(2000);
    assert!(is_there(first));
    session.end();
    wait_for_the_end_of(first);
    site.assert_serves();
}

/// What several logins have in common, or a login that has more to go through, stays and is served.
#[test]
fn logins_that_share_a_connection_to_their_host_stay() {
    let Some(account) = Account::new() else { return };
    let Some((site, ..)) = &site(Some(&account), &["TidegateUpstreamShare 1m"]) else { return };
    let mut session = site.session();
    let first = site.upgrade();
    session.assert_well(2000);
    assert!(is_there(first));
    assert_eq!(site.told(" goes on in the next program"), 0);
    session.end();
    wait_for_the_end_of(first);
    site.assert_serves();
}

/// A host that goes away while its login may be just moving takes the login with it, and nobody waits.
#[test]
fn a_host_that_ends_with_an_upgrade_ends_its_logins() {
    let Some(account) = Account::new() else { return };
    let Some((site, ..)) = &site(Some(&account), &[]) else { return };
    let mut sessions: Vec<Session> = (0..4)
        .map(|n| {
            let command = format!("echo begun; sleep 0.{n}; kill -9 $PPID; sleep 60");
            let mut session = Session::begin(site.ssh(&[], &[&command]));
            let output = session.0.stdout.as_mut().expect("its output");
            output.read_exact(&mut [0; 6]).expect("its beginning");
            session
        })
        .collect();
    let first = site.upgrade();
    for session in &mut sessions {
        assert!(!session.0.wait().expect("an end").success());
    }
    wait_for_the_end_of(first);
    site.assert_serves();
}
