//! Logins by certificates that `ssh-keygen` signs, with OpenSSH's client.
#![allow(clippy::disallowed_methods, reason = "tests wait on the real clock")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use support::account::Account;
use support::{Gateway, HOST_KEYS, keygen, put_key, run_ok};

/// Whoever runs the tests; only he can log in where he is not root.
fn user() -> String {
    let output = run_ok(Command::new("id").arg("-un"));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What the log says where it may be that an authority was forgotten.
const NO_AUTHORITY: &str = "would have to name its authority";

/// A gateway that trusts no key, and the authorities `ca` and `other` in its folder. `PATH` in a
/// line is that folder.
fn gateway(lines: &[&str]) -> Gateway {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().display().to_string();
    let lines = lines.iter().map(|line| line.replace("PATH", &at)).collect::<Vec<_>>();
    for (kind, bits) in HOST_KEYS {
        put_key(folder.path(), &format!("host_{kind}{bits}"));
    }
    for name in ["user_ed25519", "ca", "other"] {
        keygen(&folder.path().join(name), "ed25519", "");
    }
    keygen(&folder.path().join("ca_rsa"), "rsa", "2048");
    fs::write(folder.path().join("authorized_keys"), "").expect("a file");
    let lines = lines.iter().map(String::as_str).collect::<Vec<_>>();
    Gateway::start_in(folder, &lines)
}

/// Certifies the client's key: where the certificate lies, its client finds it.
fn certify(gateway: &Gateway, key: &str, authority: &str, arguments: &[&str]) {
    let mut command = Command::new("ssh-keygen");
    command.current_dir(gateway.folder.path()).args(["-q", "-s", authority, "-I", "an id"]);
    run_ok(command.args(arguments).arg(format!("{key}.pub")));
}

fn log_in(gateway: &Gateway, options: &[&str], words: &[&str]) -> Output {
    let mut all = options.to_vec();
    all.push("KexAlgorithms=curve25519-sha256");
    gateway.ssh(&all, words).output().expect("ssh starts")
}

fn gets_in(gateway: &Gateway) -> bool {
    log_in(gateway, &[], &["echo in"]).stdout == b"in\n"
}

#[test]
fn an_authority_lets_its_principals_in() {
    let gateway = gateway(&["TrustedUserCAKeys PATH/ca.pub"]);
    let me = user();
    assert!(!gets_in(&gateway), "the key alone is nobody's");
    certify(&gateway, "user_ed25519", "ca", &["-n", &format!("somebody,{me}"), "-z", "77"]);
    assert!(gets_in(&gateway), "{}", gateway.log());
    let fingerprint = |name: &str| {
        let mut command = Command::new("ssh-keygen");
        let output = run_ok(command.arg("-lf").arg(gateway.path(name)));
        String::from_utf8_lossy(&output.stdout).split(' ').nth(1).expect("a word").to_owned()
    };
    // As sshd writes it.
    gateway.tells(&format!(
        "ssh2: ED25519-CERT {} ID an id (serial 77) CA ED25519 {}",
        fingerprint("user_ed25519.pub"),
        fingerprint("ca.pub")
    ));
    for (arguments, reason) in [
        (&["-n", "somebody"][..], "name is not a listed principal"),
        (&[], "it lists no principals"),
        (&["-n", &me, "-V", "0x1:0x2"], "expired: it ended at 1970-01-01T00:00:02Z"),
        (&["-n", &me, "-V", "+1d:+2d"], "not yet valid: it begins at 20"),
        (
            &["-n", &me, "-O", "source-address=192.0.2.0/24"],
            "source-address does not allow 127.0.0.1",
        ),
        (
            &["-n", &me, "-O", "critical:new@example.org=x"],
            "option new@example.org is not understood",
        ),
        (&["-n", &me, "-O", "verify-required"], "it asks for a security key"),
    ] {
        certify(&gateway, "user_ed25519", "ca", arguments);
        assert!(!gets_in(&gateway), "{arguments:?}");
        let log = gateway.tells(reason);
        let line = log.lines().find(|line| line.contains(reason)).expect("it");
        assert!(!line.contains(NO_AUTHORITY), "it is trusted: {line}");
    }
    // A client does not even offer a host's.
    certify(&gateway, "user_ed25519", "ca", &["-h", "-n", &me]);
    assert!(!gets_in(&gateway));
    certify(&gateway, "user_ed25519", "other", &["-n", &me]);
    assert!(!gets_in(&gateway), "an authority that nobody trusts");
    gateway.tells(NO_AUTHORITY);
    certify(&gateway, "user_ed25519", "ca", &["-n", &me, "-O", "source-address=127.0.0.0/8"]);
    assert!(gets_in(&gateway), "{}", gateway.log());
    // The authority's own key is no key of a user's.
    let ca = format!("IdentityFile={}", gateway.path("ca").display());
    assert_ne!(log_in(&gateway, &["CertificateFile=none", &ca], &["echo in"]).stdout, b"in\n");
}

#[test]
fn options_of_certificates_hold() {
    let gateway = gateway(&["TrustedUserCAKeys PATH/ca.pub"]);
    let me = user();
    let with = |options: &[&str]| {
        let options = options.iter().flat_map(|option| ["-O", *option]).collect::<Vec<_>>();
        certify(&gateway, "user_ed25519", "ca", &[&["-n", &*me][..], &options].concat());
    };
    let out = |options: &[&str], words: &[&str]| {
        let output = log_in(&gateway, options, words);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    with(&["force-command=echo forced-$SSH_ORIGINAL_COMMAND"]);
    assert_eq!(out(&[], &["id"]), "forced-id");
    with(&[]);
    assert!(out(&["RequestTTY=force"], &["tty"]).contains("/dev/pts/"));
    with(&["no-pty"]);
    assert!(!out(&["RequestTTY=force"], &["tty"]).contains("/dev/pts/"));
    // A forwarded connection: to the gateway's own port, whose greeting comes back.
    let target = format!("127.0.0.1:{}", gateway.port);
    let forwarded = || {
        let mut ssh = gateway.ssh(&["KexAlgorithms=curve25519-sha256"], &[]);
        let output = ssh.args(["-W", &target]).output().expect("ssh starts");
        output.stdout.starts_with(b"SSH-2.0-")
    };
    assert!(forwarded(), "{}", gateway.log());
    with(&["no-port-forwarding"]);
    assert!(!forwarded());
    // Nothing but what is named.
    with(&["clear", "permit-pty"]);
    assert!(!forwarded());
    assert!(out(&["RequestTTY=force"], &["tty"]).contains("/dev/pts/"));
}

#[test]
fn principals_come_from_a_file() {
    let gateway =
        gateway(&["TrustedUserCAKeys PATH/ca.pub", "AuthorizedPrincipalsFile PATH/principals-%u"]);
    let me = user();
    let file = gateway.path(&format!("principals-{me}"));
    certify(&gateway, "user_ed25519", "ca", &["-n", &format!("ops,{me}")]);
    assert!(!gets_in(&gateway), "without the file nobody gets in, his name or not");
    for (text, allowed) in [
        ("", false),
        (&*me, true),
        ("ops", true),
        ("# who\n\n  dev\nops # them\n", true),
        ("dev\n", false),
        ("op*\n", false),
        ("#ops\n", false),
        ("from=\"127.0.0.1\" ops", true),
        ("from=\"192.0.2.1\" ops", false),
        ("cert-authority ops", false),
        ("frobnicate ops", false),
        ("frobnicate ops\nops", true),
    ] {
        fs::write(&file, text).expect("a file");
        assert_eq!(gets_in(&gateway), allowed, "{text}\n{}", gateway.log());
    }
    fs::write(&file, "command=\"echo $SSH_ORIGINAL_COMMAND, forced\" ops").expect("a file");
    assert_eq!(log_in(&gateway, &[], &["id"]).stdout, b"id, forced\n");
    gateway.tells("lists no principal of the certificate");
}

#[test]
fn authorities_stand_in_authorized_keys() {
    let gateway = gateway(&[]);
    let me = user();
    let ca = fs::read_to_string(gateway.path("ca.pub")).expect("a key");
    let allow = |options: &str| {
        fs::write(gateway.path("authorized_keys"), format!("{options} {ca}")).expect("a file");
        gets_in(&gateway)
    };
    certify(&gateway, "user_ed25519", "ca", &["-n", &format!("ops,{me}")]);
    assert!(allow("cert-authority"), "{}", gateway.log());
    assert!(!allow(""), "a plain line");
    gateway.tells("the line is not marked cert-authority");
    assert!(allow("cert-authority,principals=\"dev,ops\""));
    assert!(!allow("cert-authority,principals=\"dev\""));
    assert!(!allow("cert-authority,from=\"192.0.2.1\""));
    certify(&gateway, "user_ed25519", "ca", &["-n", "ops"]);
    assert!(!allow("cert-authority"), "not for this user");
    assert!(allow("principals=\"ops\",cert-authority"));

    // SECURITY case 73: two commands have to be one.
    let force = ["-n", &me, "-O", "force-command=echo in"];
    certify(&gateway, "user_ed25519", "ca", &force);
    assert!(allow("cert-authority,command=\"echo in\""));
    assert!(!allow("cert-authority,command=\"echo out\""));
    gateway.tells("force two different commands");
    let ca_key = format!("IdentityFile={}", gateway.path("ca").display());
    assert_ne!(log_in(&gateway, &["CertificateFile=none", &ca_key], &["echo in"]).stdout, b"in\n");
}

#[test]
fn algorithms_are_restricted() {
    let gateway = gateway(&[
        "TrustedUserCAKeys PATH/all.pub",
        "CASignatureAlgorithms -rsa-sha2-*",
        "PubkeyAcceptedAlgorithms -ssh-ed25519",
    ]);
    let me = user();
    let read = |name: &str| fs::read_to_string(gateway.path(name)).expect("a key");
    fs::write(gateway.path("all.pub"), format!("# ours\n{}{}", read("ca.pub"), read("ca_rsa.pub")))
        .expect("a file");
    certify(&gateway, "user_ed25519", "ca_rsa", &["-n", &me]);
    assert!(!gets_in(&gateway));
    gateway.tells("signed with rsa-sha2-512, which CASignatureAlgorithms does not list");
    certify(&gateway, "user_ed25519", "ca_rsa", &["-n", &me, "-t", "ssh-rsa"]);
    assert!(!gets_in(&gateway));
    gateway.tells("its certificate is signed in a way that never counts, as with SHA-1 (ssh-rsa)");
    certify(&gateway, "user_ed25519", "ca", &["-n", &me]);
    assert!(gets_in(&gateway), "certified keys are still taken\n{}", gateway.log());
    fs::write(gateway.path("authorized_keys"), read("user_ed25519.pub")).expect("a file");
    fs::remove_file(gateway.path("user_ed25519-cert.pub")).expect("removed");
    assert!(!gets_in(&gateway), "plain ones are not");
}

#[test]
fn every_type_of_key_can_be_certified() {
    let gateway = gateway(&["TrustedUserCAKeys PATH/ca.pub"]);
    let me = user();
    for (kind, bits) in HOST_KEYS {
        let name = format!("key_{kind}{bits}");
        keygen(&gateway.path(&name), kind, bits);
        certify(&gateway, &name, "ca", &["-n", &me]);
        let identity = format!("IdentityFile={}", gateway.path(&name).display());
        let output = log_in(&gateway, &[&identity], &["echo in"]);
        assert_eq!(output.stdout, b"in\n", "{name}: {output:?}\n{}", gateway.log());
    }
}

/// SECURITY case 75.
#[test]
fn case_75_revoked_keys_let_nobody_in() {
    let gateway = gateway(&[
        "TrustedUserCAKeys PATH/ca.pub",
        "RevokedKeys PATH/revoked",
        "TidegateAuditLog PATH/audit",
    ]);
    let me = user();
    let make = |specification: &str| {
        fs::write(gateway.path("specification"), specification).expect("a file");
        let mut command = Command::new("ssh-keygen");
        command.current_dir(gateway.folder.path());
        run_ok(command.args(["-q", "-k", "-f", "revoked", "-s", "ca.pub", "specification"]));
    };
    let read = |name: &str| fs::read(gateway.path(name)).expect("a file");
    let put = |content: &[u8]| fs::write(gateway.path("revoked"), content).expect("a file");
    certify(&gateway, "user_ed25519", "ca", &["-n", &me, "-z", "7"]);
    assert!(!gets_in(&gateway), "the file is missing");
    gateway.tells("RevokedKeys cannot be used, so nobody gets in");
    for (specification, allowed) in
        [("serial: 8\n", true), ("serial: 5-9\n", false), ("id: an id\n", false), ("id: x\n", true)]
    {
        make(specification);
        assert_eq!(gets_in(&gateway), allowed, "{specification}\n{}", gateway.log());
    }
    // Which certificate is told in the log and in the audit.
    gateway.tells("ID an id (serial 7) CA ED25519 SHA256:");
    gateway.tells(&format!(" does not let {me} in: it is revoked by "));
    let audit = fs::read_to_string(gateway.path("audit")).expect("the audit");
    let denied = r#"","certificate_id":"an id","certificate_serial":"7","authority":"SHA256:"#;
    let parts = [r#""event":"denied""#, r#""what":"Key SHA256:"#, denied];
    let is_told = |line: &str| parts.iter().all(|part| line.contains(part));
    assert!(audit.lines().any(is_told), "{audit}");
    put(b"");
    assert!(gets_in(&gateway));
    for name in ["user_ed25519.pub", "ca.pub"] {
        put(&read(name));
        assert!(!gets_in(&gateway), "{name}");
    }
    put(&read("other.pub"));
    assert!(gets_in(&gateway));
    put(b"SSHKRL\n\0\0\0\0\x01");
    assert!(!gets_in(&gateway));
    gateway.tells("malformed key revocation list");
    // Plain keys too.
    fs::remove_file(gateway.path("user_ed25519-cert.pub")).expect("removed");
    fs::write(gateway.path("authorized_keys"), read("user_ed25519.pub")).expect("a file");
    assert!(!gets_in(&gateway));
    put(b"# nobody\n");
    assert!(gets_in(&gateway));
    put(&read("user_ed25519.pub"));
    assert!(!gets_in(&gateway));
}

/// HostCertificate: a client that knows nothing but the authority believes the gateway, also when
/// keys are exchanged again, where as root the account's own process shows the certificate.
#[test]
fn hosts_are_certified_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().display().to_string();
    for (kind, bits) in HOST_KEYS {
        keygen(&folder.path().join(format!("host_{kind}{bits}")), kind, bits);
    }
    for name in ["user_ed25519", "ca"] {
        keygen(&folder.path().join(name), "ed25519", "");
    }
    let authorized = folder.path().join("user_ed25519.pub");
    fs::copy(authorized, folder.path().join("authorized_keys")).expect("a file");
    let mut lines = Vec::new();
    for (kind, bits) in HOST_KEYS {
        let name = format!("host_{kind}{bits}");
        let mut command = Command::new("ssh-keygen");
        command.current_dir(folder.path()).args(["-q", "-h", "-s", "ca", "-I", "gateway"]);
        run_ok(command.args(["-n", "127.0.0.1", &format!("{name}.pub")]));
        lines.push(format!("HostCertificate {at}/{name}-cert.pub"));
    }
    let authority = fs::read_to_string(folder.path().join("ca.pub")).expect("a key");
    fs::write(folder.path().join("known_hosts"), format!("@cert-authority * {authority}"))
        .expect("known_hosts");
    let lines = lines.iter().map(String::as_str).collect::<Vec<_>>();
    let gateway = Gateway::start_in(folder, &lines);
    fs::set_permissions(gateway.folder.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    let account = Account::new();
    let login = format!("User={}", account.as_ref().map_or_else(user, |one| one.name.clone()));
    for algorithm in ["ssh-ed25519", "ecdsa-sha2-nistp521", "rsa-sha2-512", "rsa-sha2-256"] {
        let wanted = format!("HostKeyAlgorithms={algorithm}-cert-v01@openssh.com");
        let options = [&*login, "StrictHostKeyChecking=yes", &wanted, "RekeyLimit=64K"];
        let output = log_in(&gateway, &options, &["head -c 300000 /dev/zero"]);
        assert_eq!(output.stdout.len(), 300_000, "{output:?}\n{}", gateway.log());
    }
    // Without the authority the keys are strangers.
    fs::write(gateway.path("known_hosts"), "").expect("known_hosts");
    let output = log_in(&gateway, &["StrictHostKeyChecking=yes"], &["true"]);
    let heard = String::from_utf8_lossy(&output.stderr);
    assert!(heard.contains("Host key verification failed"), "{heard}");
}
