//! Passwords and codes, typed by a script into OpenSSH's client.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use crate::support::{Gateway, TOTP_SECRET, make_executable, totp};
use crate::{gateway_with, out, user};

/// Of "correct horse", by crypt(3).
const HASH: &str = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$zwtVrjrUCmXcyLTs6oxLTQlzifSUkF8RHJ./tK5KU79";
const PASSWORD: &str = "correct horse";

/// A gateway with a password and a secret for whoever runs the tests. `PATH` in the block is its
/// folder.
fn gateway(block: &str) -> Gateway {
    let me = user();
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().display().to_string();
    let put = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("a mode");
    };
    put("passwords", format!("# ours\nsomebody:{HASH}\n{me}:{HASH}\n"));
    put("codes", format!("{me}:{}\n", TOTP_SECRET.1));
    let gateway = gateway_with(&block.replace("PATH", &at));
    let types = "#!/bin/sh\ncase \"$1\" in *code*) echo \"$CODE\";; *) echo \"$PASSWORD\";; esac\n";
    fs::write(gateway.path("types"), types).expect("a script");
    make_executable(&gateway.path("types"));
    // It lives as long as the gateway's own.
    fs::write(gateway.path("folder"), folder.keep().display().to_string()).expect("a file");
    gateway
}

fn log_in(gateway: &Gateway, methods: &str, password: &str, code: &str, more: &[&str]) -> Output {
    let preferred = format!("PreferredAuthentications={methods}");
    let mut options = more.to_vec();
    options.extend([
        &*preferred,
        "BatchMode=no",
        "NumberOfPasswordPrompts=1",
        "KexAlgorithms=curve25519-sha256",
    ]);
    let mut ssh: Command = gateway.ssh(&options, &["echo in"]);
    ssh.env("SSH_ASKPASS", gateway.path("types")).env("SSH_ASKPASS_REQUIRE", "force");
    ssh.env("PASSWORD", password).env("CODE", code).output().expect("ssh starts")
}

#[test]
fn passwords_of_a_file_let_in() {
    let gateway = gateway(
        "TidegatePasswordFile PATH/passwords\nPubkeyAuthentication no\nPasswordAuthentication yes\n\
         KbdInteractiveAuthentication yes",
    );
    for method in ["password", "keyboard-interactive"] {
        let right = log_in(&gateway, method, PASSWORD, "", &[]);
        assert_eq!(out(&right), "in\n", "{method}: {right:?}\n{}", gateway.log());
        for wrong in ["correct hors", "", "x"] {
            let wrong = log_in(&gateway, method, wrong, "", &[]);
            assert_eq!(out(&wrong), "", "{method}");
            let told = String::from_utf8_lossy(&wrong.stderr).into_owned();
            assert!(told.contains("Permission denied (password,keyboard-interactive)"), "{told}");
        }
        // Somebody has this password and no account, and somebody has neither.
        for stranger in ["User=somebody", "User=nobody-at-all"] {
            assert_eq!(out(&log_in(&gateway, method, PASSWORD, "", &[stranger])), "", "{stranger}");
        }
        let line = format!("Accepted {method} for {}", user());
        gateway.tells(&line);
        let line = format!("Failed {method} for somebody");
        gateway.tells(&line);
    }
    assert!(!gateway.log().contains(PASSWORD), "a password in the log");
    let folder = fs::read_to_string(gateway.path("folder")).expect("its folder");
    let passwords = std::path::Path::new(&folder).join("passwords");
    fs::set_permissions(passwords, PermissionsExt::from_mode(0o644)).expect("a mode");
    assert_eq!(out(&log_in(&gateway, "password", PASSWORD, "", &[])), "", "others may read it");
    gateway.tells("lets others read or write it");
    let _ = fs::remove_dir_all(folder);
}

#[test]
fn other_clients_log_in_with_passwords() {
    let gateway = gateway(
        "TidegatePasswordFile PATH/passwords\nPubkeyAuthentication no\nPasswordAuthentication yes\n\
         KbdInteractiveAuthentication yes",
    );
    let mut sftp = gateway.client("sftp".as_ref(), &["BatchMode=no", "NumberOfPasswordPrompts=1"]);
    sftp.env("SSH_ASKPASS", gateway.path("types")).env("SSH_ASKPASS_REQUIRE", "force");
    let listed = sftp.env("PASSWORD", PASSWORD).arg(format!("127.0.0.1:{}", "/etc/hostname"));
    let listed = listed.arg(gateway.path("fetched")).output().expect("sftp starts");
    assert!(listed.status.success() && gateway.path("fetched").exists(), "{listed:?}");
    let port = gateway.port.to_string();
    let has = |program: &str, word: &str| Command::new(program).arg(word).output().is_ok();
    if has("plink", "-V") {
        let key =
            Command::new("ssh-keygen").arg("-lf").arg(gateway.path("host_ed25519.pub")).output();
        let key = out(&key.expect("ssh-keygen starts"));
        let key = key.split(' ').nth(1).expect("a fingerprint").to_owned();
        for (password, expected) in [(PASSWORD, "in\n"), ("wrong", "")] {
            let mut plink = Command::new("plink");
            plink.args(["-batch", "-hostkey", &key, "-P", &port, "-pw", password]);
            plink.arg(format!("{}@127.0.0.1", user())).arg("echo in");
            let output = plink.env("HOME", gateway.folder.path()).output().expect("plink starts");
            assert_eq!(out(&output), expected, "{output:?}");
        }
    }
    let python = || Command::new("/usr/bin/python3");
    if python().args(["-c", "import paramiko"]).status().is_ok_and(|status| status.success()) {
        let output =
            python().args(["-W", "ignore", "-c", PARAMIKO, &port, &user(), PASSWORD]).output();
        let output = output.expect("python starts");
        assert_eq!(out(&output), "password\nwrong\nprompts\n", "{output:?}\n{}", gateway.log());
    }
}

/// A password, a wrong one, and the same at a prompt.
const PARAMIKO: &str = "
import sys, paramiko
port, user, password = int(sys.argv[1]), sys.argv[2], sys.argv[3]
def transport():
    made = paramiko.Transport(('127.0.0.1', port))
    made.start_client(timeout=20)
    return made
one = transport()
one.auth_password(user, password, fallback=False)
print('password' if one.is_authenticated() else 'refused')
two = transport()
try:
    two.auth_password(user, 'x', fallback=False)
except paramiko.AuthenticationException:
    print('wrong')
three = transport()
three.auth_interactive(user, lambda title, instructions, prompts: [password for _ in prompts])
print('prompts' if three.is_authenticated() else 'refused')
for each in (one, two, three):
    each.close()
";

#[test]
fn files_of_secrets_are_checked_at_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let check = |keyword: &str, text: &str, mode: u32| {
        let path = at("secrets");
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("a mode");
        let config = format!("HostKey {}\n{keyword} {}\n", at("key").display(), path.display());
        fs::write(at("config"), config).expect("a file");
        let mut tidegate = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output = tidegate.args(["serve", "-t", "-f"]).arg(at("config")).output();
        let output = output.expect("it starts");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    crate::support::keygen(&at("key"), "ed25519", "");
    let file = "TidegatePasswordFile";
    let good = format!("# ours\n\nann:{HASH}\nbob:!{HASH}\neve:*\n");
    assert_eq!(check(file, &good, 0o600), (true, String::new()));
    let costly = HASH.replace("$j9T$", "$jFT$");
    for (keyword, text, mode, told) in [
        (file, format!("{good}joe:{costly}\n"), 0o600, "secrets:6: a hash that costs more"),
        (file, format!("{good}joe:secret\n"), 0o600, "secrets:6: a hash of a form"),
        (file, "joe\n".to_owned(), 0o600, "secrets:1: no name and colon"),
        (file, good.clone(), 0o644, "its mode 644 lets others read or write it: chmod 600"),
        (
            "TidegateTotpFile",
            "ann:0189\n".to_owned(),
            0o600,
            "secrets:1: a secret that is not base32",
        ),
        ("TidegateTotpFile", "ann:GEZA\n".to_owned(), 0o600, "secrets:1: a secret of less"),
    ] {
        let (fine, said) = check(keyword, &text, mode);
        assert!(!fine && said.contains(keyword) && said.contains(told), "{text}: {said}");
    }
    fs::remove_file(at("secrets")).expect("removed");
    let mut tidegate = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = tidegate.args(["serve", "-t", "-f"]).arg(at("config")).output();
    assert!(!output.expect("it starts").status.success(), "no such file");
}

#[test]
fn what_is_switched_off_is_not_offered() {
    let offered = |block: &str| {
        let gateway = gateway(block);
        let output = log_in(&gateway, "none", "", "", &[]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let told = told.split_once("Permission denied (").expect("methods").1;
        told.split_once(')').expect("an end").0.to_owned()
    };
    let on = "PasswordAuthentication yes\nKbdInteractiveAuthentication yes\n";
    let file = &format!("TidegatePasswordFile PATH/passwords\n{on}");
    assert_eq!(offered("TidegatePasswordFile PATH/passwords"), "publickey");
    assert_eq!(offered("PasswordAuthentication yes"), "publickey");
    assert_eq!(offered(file), "publickey,password,keyboard-interactive");
    assert_eq!(
        offered("TidegatePasswordFile PATH/passwords\nKbdInteractiveAuthentication yes"),
        "publickey,keyboard-interactive"
    );
    assert_eq!(
        offered("TidegatePasswordFile PATH/passwords\nPasswordAuthentication yes"),
        "publickey,password"
    );
    assert_eq!(offered(&format!("{file}AuthenticationMethods publickey,password")), "publickey");
    let me = user();
    assert_eq!(
        offered(&format!("{file}Match User {me}\nPasswordAuthentication no")),
        "publickey,keyboard-interactive"
    );
}

#[test]
fn a_code_is_the_second_factor() {
    let gateway = gateway(
        "TidegateTotpFile PATH/codes\nTidegatePasswordFile PATH/passwords\n\
         KbdInteractiveAuthentication yes\n\
         AuthenticationMethods publickey,keyboard-interactive keyboard-interactive",
    );
    let both = "publickey,keyboard-interactive";
    let wrong = if totp(0) == "000000" { "000001" } else { "000000" };
    assert_eq!(out(&log_in(&gateway, both, "", wrong, &[])), "");
    assert_eq!(out(&log_in(&gateway, "keyboard-interactive", "", &totp(0), &[])), "", "alone");
    assert_eq!(out(&log_in(&gateway, "keyboard-interactive", PASSWORD, wrong, &[])), "");
    let used = totp(0);
    let first = log_in(&gateway, both, "", &used, &[]);
    assert_eq!(out(&first), "in\n", "{first:?}\n{}", gateway.log());
    assert_eq!(out(&log_in(&gateway, both, "", &used, &[])), "", "again");
    assert_eq!(out(&log_in(&gateway, both, "", &totp(-3), &[])), "", "long ago");
    let next = totp(1);
    let typed = log_in(&gateway, "keyboard-interactive", PASSWORD, &next, &[]);
    assert_eq!(out(&typed), "in\n", "{typed:?}\n{}", gateway.log());
    assert_eq!(out(&log_in(&gateway, "keyboard-interactive", PASSWORD, &next, &[])), "", "again");
    gateway.tells("(a password and a code)");
}

/// A wrong password is held against its source once a connection, and enough of them keep it out, with the
/// right one too.
#[test]
fn failed_passwords_keep_their_source_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("passwords");
    fs::write(&file, format!("{}:{HASH}\n", user())).expect("a file");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("a mode");
    let gateway = Gateway::start(&[
        "PasswordAuthentication yes",
        &format!("TidegatePasswordFile {}", file.display()),
        "PerSourcePenalties authfail:60 noauth:0 min:100",
    ]);
    fs::write(gateway.path("types"), "#!/bin/sh\necho \"$PASSWORD\"\n").expect("a script");
    make_executable(&gateway.path("types"));
    let typed = |password: &str| log_in(&gateway, "password", password, "", &[]);
    assert_eq!(out(&typed("wrong")), "");
    assert_eq!(out(&typed(PASSWORD)), "in\n", "once is not enough: {}", gateway.log());
    assert_eq!(out(&typed("wrong")), "");
    gateway.tells("Keeping 127.0.0.1 out for 1");
    assert_eq!(typed(PASSWORD).status.code(), Some(255));
    let mut told = String::new();
    let read = gateway.connect().expect("a connection").read_to_string(&mut told);
    assert_eq!((read.ok(), &*told), (Some(26), "Not allowed at this time\r\n"));
}

#[test]
fn root_types_no_password_unless_permitted() {
    if user() != "root" {
        return;
    }
    for (mode, expected) in
        [("prohibit-password", ""), ("forced-commands-only", ""), ("no", ""), ("yes", "in\n")]
    {
        let block = format!(
            "TidegatePasswordFile PATH/passwords\nPasswordAuthentication yes\nMatch Address 127.0.0.1\n\
             PermitRootLogin {mode}"
        );
        let gateway = gateway(&block);
        assert_eq!(out(&log_in(&gateway, "password", PASSWORD, "", &[])), expected, "{mode}");
    }
}
