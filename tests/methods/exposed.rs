//! ExposeAuthInfo, with OpenSSH's client.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::{allow, gateway_with, out, user};
use crate::support::account::Account;
use crate::support::{keygen, run_ok, wait_for};

const TELL: &str = "cat $SSH_USER_AUTH; stat -c '%a %U' $SSH_USER_AUTH; echo $SSH_USER_AUTH";

#[test]
fn sessions_read_what_has_let_them_in() {
    let gateway = gateway_with("ExposeAuthInfo yes\nAuthenticationMethods publickey,publickey");
    fs::set_permissions(gateway.folder.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    allow(&gateway, &[("", "user_ed25519"), ("", "user_ecdsa256")]);
    keygen(&gateway.path("ca"), "ed25519", "");
    let public = |name: &str| {
        let line = fs::read_to_string(gateway.path(name)).expect("a key");
        line.split(' ').take(2).collect::<Vec<_>>().join(" ").trim().to_owned()
    };
    let account = Account::new();
    let mut users = vec![user()];
    users.extend(account.as_ref().map(|account| account.name.clone()));
    let tells = |name: &str| {
        let identity = format!("IdentityFile={}", gateway.path("user_ecdsa256").display());
        let ssh = gateway.ssh(&[&format!("User={name}"), &identity], &[TELL]).output();
        let told = out(&ssh.expect("ssh starts"));
        let (told, path) = told.trim_end().rsplit_once('\n').expect("a path");
        assert!(path.starts_with("/tmp/sshauth."), "{told} {path}\n{}", gateway.log());
        wait_for("its end", || !fs::exists(path).expect("an answer"));
        told.to_owned()
    };
    for name in &users {
        let (first, second) = (public("user_ecdsa256.pub"), public("user_ed25519.pub"));
        let expected = format!("publickey {first}\npublickey {second}\n600 {name}");
        assert_eq!(tells(name), expected);
    }
    // One behind a certificate is told with it.
    let authority = fs::read_to_string(gateway.path("ca.pub")).expect("a key");
    let keys = fs::read_to_string(gateway.path("user_ecdsa256.pub")).expect("a key");
    fs::write(gateway.path("authorized_keys"), format!("{keys}cert-authority {authority}"))
        .expect("a file");
    let mut command = Command::new("ssh-keygen");
    command.current_dir(gateway.folder.path()).args(["-q", "-s", "ca", "-I", "id", "-n"]);
    run_ok(command.args([&*user(), "user_ed25519.pub"]));
    let (first, second) = (public("user_ecdsa256.pub"), public("user_ed25519-cert.pub"));
    let expected = format!("publickey {first}\npublickey {second}\n600 {}", user());
    assert_eq!(tells(&user()), expected);

    let gateway = gateway_with("");
    let output = gateway.ssh(&[], &["echo [$SSH_USER_AUTH]"]).output().expect("ssh starts");
    assert_eq!(out(&output), "[]\n", "off unless asked for");
}
