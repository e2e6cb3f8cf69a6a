//! Key exchanges with hosts that know none that are quick for a client.

use super::*;

/// Their arithmetic is a worker's, at the beginning and again in the middle of a transfer.
#[test]
fn hosts_with_slow_key_exchanges_alone_are_reached() {
    let methods = [
        "sntrup761x25519-sha512@openssh.com",
        "diffie-hellman-group14-sha256",
        "diffie-hellman-group16-sha512",
        "diffie-hellman-group-exchange-sha256",
    ];
    let hosts: Vec<Host> =
        methods.iter().filter_map(|name| Host::start(&format!("KexAlgorithms {name}"))).collect();
    let Some(first) = hosts.first() else { return };
    let known = hosts.iter().map(|host| format!("[127.0.0.1]:{} {}", host.port, host.public()));
    fs::write(first.path("known_hosts"), known.collect::<String>()).expect("all");
    let keys = first.path("authorized_keys");
    for host in &hosts[1..] {
        fs::copy(&keys, host.path("authorized_keys")).expect("one key");
    }
    let targets: Vec<String> =
        hosts.iter().map(|host| format!("127.0.0.1:{}", host.port)).collect();
    let settings = first.settings();
    let targets = format!("TidegateUpstreamTargets {}", targets.join(" "));
    let user = "TidegateUpstreamUser root";
    let gateway = Gateway::start(&[
        &targets,
        user,
        &settings[1],
        &settings[2],
        "RekeyLimit 1M",
        "LogLevel DEBUG",
    ]);
    for (host, method) in hosts.iter().zip(methods) {
        let login = format!("User=ann%127.0.0.1:{}", host.port);
        let output = ssh(&gateway, &[&login], &["head -c 3000000 /dev/zero; exit 3"]);
        assert_eq!(output.status.code(), Some(3), "{method}: {}", said(&gateway, &output));
        assert_eq!(output.stdout.len(), 3_000_000, "{method}");
    }
    assert!(!gateway.log().contains("internal error"), "{}", gateway.log());
}
