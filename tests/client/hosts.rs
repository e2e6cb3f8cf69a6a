//! Who the server is: files of host keys, and what is said about them.

use std::fs;
use std::process::Command;

use crate::server::{Server, both, text};
use crate::support::{keygen, run_ok};

fn refused(server: &Server, options: &[&str]) -> String {
    let output = server.ssh(options, &["echo in"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(255), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "");
    text(&output.stderr)
}

fn accepted(server: &Server, options: &[&str]) -> String {
    let output = server.ssh(options, &["echo in"]).output().expect("runs");
    assert_eq!(text(&output.stdout), "in\n", "{}", text(&output.stderr));
    text(&output.stderr)
}

#[test]
fn hosts_are_met_once_and_then_known() {
    both(&[], |server| {
        let file = server.path("known_hosts");
        let _ = fs::remove_file(&file);
        // Nobody can be asked.
        let said = refused(server, &["StrictHostKeyChecking=ask"]);
        assert!(said.contains("SHA256:") && said.contains("BatchMode"), "{said}");
        let said = refused(server, &["StrictHostKeyChecking=yes"]);
        assert!(said.contains("strict checking"), "{said}");
        assert!(!file.exists(), "nothing is noted of a host that was refused");

        let said = accepted(server, &[]);
        assert!(said.contains("Permanently added"), "{said}");
        let noted = fs::read_to_string(&file).expect("a file");
        assert!(noted.starts_with(&format!("[127.0.0.1]:{} ssh-", server.port())), "{noted}");
        assert!(!accepted(server, &["StrictHostKeyChecking=yes"]).contains("added"));
        assert_eq!(fs::read_to_string(&file).expect("a file"), noted, "noted once");

        // The system's own tool hashes the names in it, and so can we.
        run_ok(Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(&file));
        assert!(fs::read_to_string(&file).expect("a file").starts_with("|1|"));
        accepted(server, &["StrictHostKeyChecking=yes"]);
        fs::remove_file(&file).expect("a file");
        accepted(server, &["HashKnownHosts=yes"]);
        assert!(fs::read_to_string(&file).expect("a file").starts_with("|1|"));
        accepted(server, &["StrictHostKeyChecking=yes"]);
        accepted(server, &["HostKeyAlias=web"]);
        let noted = fs::read_to_string(&file).expect("a file");
        assert!(noted.contains("\nweb ssh-"), "{noted}");
    });
}

#[test]
fn changed_and_revoked_keys_are_refused_with_their_place() {
    both(&[], |server| {
        let (file, other) = (server.path("known_hosts"), server.path("other"));
        keygen(&other, "ed25519", "");
        let public = fs::read_to_string(server.path("other.pub")).expect("a key");
        let name = format!("[127.0.0.1]:{}", server.port());
        let changed = format!("# hosts\n{name} {public}");
        fs::write(&file, &changed).expect("a file");
        for strict in ["ask", "yes", "accept-new"] {
            let said = refused(server, &[&format!("StrictHostKeyChecking={strict}")]);
            assert!(said.contains("HAS CHANGED"), "{said}");
            assert!(said.contains(&format!("{}:2", file.display())), "{said}");
            assert_eq!(fs::read_to_string(&file).expect("a file"), changed);
        }
        let said = accepted(server, &["StrictHostKeyChecking=no"]);
        assert!(said.contains("WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED"), "{said}");
        // Nobody wonders why he is not asked for his password.
        for method in ["Password", "Keyboard-interactive"] {
            assert!(said.contains(&format!("{method} authentication is disabled")), "{said}");
        }
        let said = accepted(server, &["StrictHostKeyChecking=no", "PasswordAuthentication=no"]);
        assert!(!said.contains("Password authentication is disabled"), "{said}");
        let removal = format!("ssh-keygen -f '{}' -R '{name}'", file.display());
        assert!(said.contains(&removal), "{said}");
        // It may be somebody in between: nothing of ours is lent to it.
        let lent =
            ["StrictHostKeyChecking=no", "ForwardAgent=/agent", "RemoteForward=0 127.0.0.1:1"];
        let said = accepted(server, &lent);
        for what in ["Agent", "Port"] {
            assert!(said.contains(&format!("{what} forwarding is disabled")), "{said}");
        }
        let said = refused(server, &[&lent[..], &["ExitOnForwardFailure=yes"]].concat());
        assert!(said.contains("forwarding disabled due to host key check failure"), "{said}");

        let own = fs::read_to_string(server.path("host_ed25519.pub")).expect("a key");
        fs::write(&file, format!("{name} {own}@revoked * {own}")).expect("a file");
        let said = refused(server, &["StrictHostKeyChecking=no"]);
        assert!(said.contains("revoked") && said.contains("known_hosts:2"), "{said}");
    });
}

/// An authority that is trusted for the host vouches for a key that nobody knows.
#[test]
fn hosts_are_known_by_certificates_of_authorities() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    for name in ["authority", "host"] {
        keygen(&at(name), "ed25519", "");
    }
    let sign = |principals: &str, name: &str| {
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-h", "-I", "host", "-n", principals, "-s"]).arg(at("authority"));
        run_ok(command.arg(at("host.pub")));
        fs::rename(at("host-cert.pub"), at(name)).expect("a certificate");
    };
    sign("127.0.0.1", "good.pub");
    sign("elsewhere", "other.pub");
    let authority = fs::read_to_string(at("authority.pub")).expect("a key");
    for (certificate, good) in [("good.pub", true), ("other.pub", false)] {
        let lines = [
            format!("HostKey {}", at("host").display()),
            format!("HostCertificate {}", at(certificate).display()),
        ];
        both(&lines.each_ref().map(String::as_str), |server| {
            let file = server.path("known_hosts");
            fs::write(&file, format!("@cert-authority * {authority}")).expect("a file");
            let strict = ["StrictHostKeyChecking=yes"];
            if good {
                let said = accepted(server, &["StrictHostKeyChecking=yes", "LogLevel=DEBUG1"]);
                assert!(said.contains("matches the ED25519 host certificate"), "{said}");
                // A list that somebody chose is asked for as it is.
                let named = "HostKeyAlgorithms=ssh-ed25519-cert-v01@openssh.com";
                let said = accepted(server, &[strict[0], named, "LogLevel=DEBUG1"]);
                assert!(said.contains("matches the ED25519 host certificate"), "{said}");
                let plain = refused(server, &[strict[0], "HostKeyAlgorithms=ssh-ed25519"]);
                assert!(plain.contains("No ED25519 host key is known"), "{plain}");
                // Signed as the user does not want it.
                let said = refused(server, &[strict[0], "CASignatureAlgorithms=rsa-sha2-512"]);
                assert!(said.contains("is no good"), "{said}");
            } else {
                let said = refused(server, &strict);
                assert!(said.contains("is no good"), "{said}");
            }
        });
    }
}
