//! TidegateUpstreamProxyProtocol: hosts are told for whom the gateway comes.

use super::*;

/// Through a real HAProxy, which reads our header and writes its own, to a gateway that goes by it; and
/// straight to that.
#[test]
fn hosts_are_told_the_clients_address_in_both_versions() {
    if Command::new("/usr/sbin/haproxy").arg("-v").output().is_err() {
        println!("not run: no haproxy here");
        return;
    }
    let Some(keys) = Host::start("") else { return };
    let public = fs::read_to_string(keys.path("gateway_key.pub")).expect("a key");
    let host = Gateway::start(&["TidegateProxyProtocol 127.0.0.1 required"]);
    // The host takes the gateway's key from the client's address alone.
    fs::write(host.path("authorized_keys"), format!("from=\"127.0.0.7\" {public}")).expect("it");
    let port = free_port();
    let config = format!(
        "defaults\n mode tcp\n timeout connect 10s\n timeout client 60s\n timeout server 60s\n\
         listen ssh\n bind 127.0.0.1:{port} accept-proxy\n \
         server host 127.0.0.1:{} send-proxy-v2\n",
        host.port
    );
    fs::write(keys.path("haproxy.cfg"), config).expect("its configuration");
    let mut haproxy = Command::new("/usr/sbin/haproxy");
    haproxy.arg("-db").arg("-f").arg(keys.path("haproxy.cfg")).stdin(Stdio::null());
    haproxy.stdout(Stdio::null()).stderr(Stdio::null());
    let mut haproxy = haproxy.spawn().expect("haproxy starts");
    wait_for("haproxy", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
    let [_, identity, known] = keys.settings();
    let start = |version: &str, to: u16| {
        let upstream = format!("TidegateUpstream 127.0.0.1:{to}");
        let version = format!("TidegateUpstreamProxyProtocol {version}");
        let policy = "TidegateUpstreamHostKeyPolicy accept-new";
        Gateway::start(&[&upstream, &version, policy, &identity, &known])
    };
    for (version, to) in [("v1", port), ("v2", port), ("v1", host.port), ("v2", host.port)] {
        let gateway = start(version, to);
        let said = |from: &str| {
            let output = ssh(&gateway, &[&format!("BindAddress={from}")], &["echo $SSH_CLIENT"]);
            text(&output.stdout)
        };
        let heard = said("127.0.0.7");
        assert!(heard.starts_with("127.0.0.7 "), "{heard}\n{}\n{}", gateway.log(), host.log());
        assert_eq!(said("127.0.0.8"), "", "{}", gateway.log());
    }
    // A host that is not told, and insists.
    let gateway = start("none", host.port);
    let output = ssh(&gateway, &["LogLevel=INFO"], &["true"]);
    assert_eq!(output.status.code(), Some(255), "{}", said(&gateway, &output));
    haproxy.kill().expect("it runs");
    haproxy.wait().expect("its end");
}

/// A certificate that is made for a login is good from the address that the host is told.
#[test]
fn certificates_count_from_the_address_that_is_told() {
    let Some(keys) = Host::start("") else { return };
    keygen(&keys.path("authority"), "ed25519", "");
    let trusted = format!("TrustedUserCAKeys {}", keys.path("authority.pub").display());
    let host = Gateway::start(&["TidegateProxyProtocol 127.0.0.1 required", &trusted]);
    fs::write(host.path("authorized_keys"), "").expect("no keys");
    let gateway = Gateway::start(&[
        &format!("TidegateUpstream 127.0.0.1:{}", host.port),
        "TidegateUpstreamProxyProtocol v2",
        "TidegateUpstreamHostKeyPolicy accept-new",
        &format!("TidegateUpstreamCA {}", keys.path("authority").display()),
        &keys.settings()[2],
    ]);
    let output = ssh(&gateway, &["BindAddress=127.0.0.7"], &["echo $SSH_CLIENT"]);
    let heard = text(&output.stdout);
    assert!(heard.starts_with("127.0.0.7 "), "{heard}\n{}\n{}", gateway.log(), host.log());
}

/// sshd takes the header for an identification, and what it says of that is no packet.
#[test]
fn a_host_that_does_not_read_the_header_is_told_of() {
    proxied("", &["TidegateUpstreamProxyProtocol v2"], |_, gateway| {
        let hint = "TidegateUpstreamProxyProtocol is set, does the host read it?";
        refused(gateway, " has failed", &[hint]);
    });
}
