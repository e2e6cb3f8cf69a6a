//! Hosts that show certificates, and a file of known hosts that has authorities.

use std::fs;
use std::process::Command;

use super::{Host, proxied, refused, said, ssh, text};
use crate::support::{keygen, run_ok};

/// Has an authority of this name certify the host's key, and sshd show the certificate.
fn certify(host: &Host, authority: &str, arguments: &[&str]) {
    if !host.path(authority).exists() {
        keygen(&host.path(authority), "ed25519", "");
    }
    let mut command = Command::new("ssh-keygen");
    command.current_dir(host.folder.path()).args(["-q", "-h", "-I", "a host", "-s", authority]);
    run_ok(command.args(arguments).arg("host_key.pub"));
}

fn line(host: &Host, marker: &str, key: &str) -> String {
    let public = fs::read_to_string(host.path(&format!("{key}.pub"))).expect("a key");
    format!("{marker} [127.0.0.1]:{} {public}", host.port)
}

/// SECURITY case 103, where an authority stands in for keys.
#[test]
fn case_103_an_authority_speaks_for_its_hosts() {
    // The certificate is there when sshd starts; the tests renew it and have sshd read it again.
    proxied("HostCertificate FOLDER/host_key-cert.pub", &[], |host, gateway| {
        let know = |lines: &[String]| {
            fs::write(host.path("known_hosts"), lines.concat()).expect("known_hosts");
        };
        let renew = |authority: &str, arguments: &[&str]| {
            certify(host, authority, arguments);
            host.reload();
        };
        renew("ca", &["-n", "127.0.0.1"]);
        let authority = line(host, "@cert-authority", "ca");
        know(std::slice::from_ref(&authority));
        let output = ssh(gateway, &[], &["echo in"]);
        assert_eq!(text(&output.stdout), "in\n", "{}", said(gateway, &output));
        // Its key is good for itself where no authority is known.
        host.know(&host.public());
        let output = ssh(gateway, &[], &["echo in"]);
        assert_eq!(text(&output.stdout), "in\n", "{}", said(gateway, &output));

        // A revoked authority or key outweighs everything else.
        for (key, role) in [("ca", ", which signed the certificate of ["), ("host_key", " of [")] {
            know(&[authority.clone(), line(host, "@revoked", key)]);
            let public = host.path(&format!("{key}.pub"));
            let output = run_ok(Command::new("ssh-keygen").arg("-lf").arg(public));
            let fingerprint = text(&output.stdout).split(' ').nth(1).expect("it").to_owned();
            let said = format!(" key {fingerprint}{role}");
            refused(gateway, " has been revoked", &["known_hosts:2 revokes the ", &said]);
        }
        know(std::slice::from_ref(&authority));
        for (arguments, reason) in [
            (&["-n", "elsewhere"][..], "name is not a listed principal"),
            (&[], "it lists no principals"),
            (&["-n", "127.0.0.1", "-V", "0x1:0x2"], "expired: it ended at 1970-01-01T00:00:02Z"),
        ] {
            renew("ca", arguments);
            refused(gateway, " cannot be verified", &["known_hosts:1 is no good: ", reason]);
        }
        renew("other", &["-n", "127.0.0.1"]);
        let reason = "without a certificate of that authority";
        refused(gateway, " is not known", &["known_hosts has an authority for ", reason]);
    });
}
