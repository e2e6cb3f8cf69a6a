//! AuthorizedKeysCommand and AuthorizedPrincipalsCommand, with OpenSSH's client.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use tempfile::TempDir;

use super::{log_in, out, user};
use crate::support::account::Account;
use crate::support::{Gateway, keygen, run_ok, wait_for};

/// A program below folders that nobody else can write to, and a folder in which it notes what it was
/// told.
struct Script {
    folder: TempDir,
}

impl Script {
    fn new() -> Script {
        let root = nix::unistd::geteuid().is_root();
        let home = std::env::var("HOME").expect("a home");
        let place = if root { "/run" } else { &*home };
        let folder = tempfile::Builder::new().prefix("tidegate-test").tempdir_in(place);
        let script = Script { folder: folder.expect("a folder") };
        fs::create_dir(script.at("told")).expect("a folder");
        fs::set_permissions(script.at("told"), PermissionsExt::from_mode(0o1777)).expect("a mode");
        fs::set_permissions(script.folder.path(), PermissionsExt::from_mode(0o755))
            .expect("a mode");
        script
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Each run notes its words, its account and its environment, then does this.
    fn does(&self, what: &str, mode: u32) {
        let told = self.at("told").display().to_string();
        let note = format!(
            "{{ id -un; id -Gn; printf '%s\\n' \"$@\"; }} >{told}/.$$; mv {told}/.$$ {told}/$$"
        );
        let text = format!("#!/bin/sh\n{note}\nenv >{told}/env\n{what}\n");
        fs::write(self.at("program"), text).expect("a program");
        fs::set_permissions(self.at("program"), PermissionsExt::from_mode(mode)).expect("a mode");
    }

    /// What the runs were told since this was last asked.
    fn told(&self) -> Vec<String> {
        let mut runs = Vec::new();
        for entry in fs::read_dir(self.at("told")).expect("a folder").flatten() {
            let name = entry.file_name();
            // One that begins with a dot is being written.
            if name != "env" && !name.as_encoded_bytes().starts_with(b".") {
                runs.push(fs::read_to_string(entry.path()).expect("a note"));
                fs::remove_file(entry.path()).expect("removed");
            }
        }
        runs
    }
}

/// The account that programs run as.
fn runner() -> &'static str {
    static NAME: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let root = nix::unistd::geteuid().is_root();
    NAME.get_or_init(|| if root { "nobody".to_owned() } else { user() })
}

fn gateway(script: &Script, keyword: &str, words: &str, more: &[&str]) -> Gateway {
    let command = format!("{keyword} {} {words}", script.at("program").display());
    let command_user = format!("{keyword}User {}", runner());
    let mut lines = vec![&*command, &*command_user];
    lines.extend(more);
    let gateway = Gateway::start(&lines);
    fs::write(gateway.path("authorized_keys"), "").expect("a file");
    fs::set_permissions(gateway.folder.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    gateway
}

fn public(gateway: &Gateway, name: &str) -> String {
    fs::read_to_string(gateway.path(&format!("{name}.pub"))).expect("a key").trim().to_owned()
}

fn fingerprint(gateway: &Gateway, name: &str) -> String {
    let path = gateway.path(&format!("{name}.pub"));
    let output = run_ok(Command::new("ssh-keygen").arg("-lf").arg(path));
    out(&output).split(' ').nth(1).expect("a fingerprint").to_owned()
}

#[test]
fn a_program_knows_keys() {
    let script = Script::new();
    // %C makes each question another one, so that nothing is remembered.
    let words = "%u %U %h %f %t %k '%C' [%D] 'two  words' %%u";
    let gateway = gateway(&script, "AuthorizedKeysCommand", words, &[]);
    let key = public(&gateway, "user_ed25519");
    for (what, mode, reason) in [
        ("exit 1", 0o755, "program: it ended with exit status: 1"),
        ("yes", 0o755, "program: it has written more than 65536 bytes"),
        ("kill -9 $$", 0o755, "program: it ended with signal: 9"),
        ("exit 0", 0o755, "the key is in no file of authorized keys"),
        (&*format!("echo 'no-such-option {key}'"), 0o755, "program:1: option \"no-such-option\""),
        (&*format!("echo '{key}'"), 0o775, "must belong to root, and nobody else"),
        (&*format!("echo '{key}'"), 0o644, "program: cannot start"),
        (&*format!("echo '{key}'; exit 2"), 0o755, "it ended with exit status: 2"),
    ] {
        script.does(what, mode);
        assert_eq!(out(&log_in(&gateway, &[], "echo in")), "", "{what}");
        gateway.tells(reason);
    }
    script.told();
    let me = nix::unistd::User::from_name(&user()).expect("a database").expect("an account");
    script.does(&format!("printf '# \\377\\n\\n%s\\n' 'command=\"echo forced\" {key}'"), 0o755);
    assert_eq!(out(&log_in(&gateway, &[], "echo in")), "forced\n", "{}", gateway.log());
    let source = format!("(AuthorizedKeysCommand {}:3)", script.at("program").display());
    gateway.tells(&source);
    let told = script.told();
    let [told] = &*told else { panic!("{told:?}") };
    let lines = told.lines().collect::<Vec<_>>();
    let (kind, base64) = key.split_once(' ').expect("a key");
    let base64 = base64.split(' ').next().expect("a key");
    let [account, _, name, number, home, print, type_name, blob, ends, domain, plain, percent] =
        &*lines
    else {
        panic!("{told}")
    };
    assert_eq!((*account, *name, *number), (runner(), &*me.name, &*me.uid.to_string()));
    assert_eq!((*home, *type_name), (&*me.dir.display().to_string(), kind));
    assert_eq!((*print, *blob), (&*fingerprint(&gateway, "user_ed25519"), base64));
    let ends = ends.split(' ').collect::<Vec<_>>();
    let [client, client_port, server, server_port] = &*ends else { panic!("{told}") };
    assert_eq!((*client, *server), ("127.0.0.1", "127.0.0.1"));
    assert!(client_port.parse::<u16>().is_ok_and(|port| port > 0), "{told}");
    assert_eq!(*server_port, gateway.port.to_string());
    assert_eq!((*domain, *plain, *percent), ("[]", "two  words", "%u"));
    let env = fs::read_to_string(script.at("told/env")).expect("an environment");
    for line in env.lines().filter(|line| !line.starts_with("PWD=") && !line.starts_with('_')) {
        let known = ["PATH=", "USER=", "LOGNAME=", "HOME=", "SHLVL=", "OLDPWD="];
        assert!(known.iter().any(|name| line.starts_with(name)), "{env}");
    }
    assert!(env.contains(&format!("USER={}\n", runner())), "{env}");

    // Nobody who does not exist is ever told of, and the program runs all the same.
    for stranger in ["User=nobody-at-all", "User=nobody%at"] {
        let output = gateway.ssh(&[stranger], &["echo in"]).output().expect("ssh starts");
        assert_eq!(out(&output), "", "{stranger}");
    }
    let told = script.told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().all(|told| told.lines().nth(2) == Some(&*me.name)), "{told:?}");

    // Files go first.
    fs::write(gateway.path("authorized_keys"), format!("{key}\n")).expect("a file");
    assert_eq!(out(&log_in(&gateway, &[], "echo in")), "in\n");
    assert_eq!(script.told(), [""; 0]);
}

#[test]
fn case_129_a_program_that_hangs_holds_up_itself_alone() {
    let script = Script::new();
    let gateway = gateway(&script, "AuthorizedKeysCommand", "", &[]);
    script.does("exec sleep 1000", 0o755);
    let mut hanging = gateway.ssh(&["LogLevel=INFO"], &["echo in"]);
    let hanging = hanging.stderr(std::process::Stdio::piped()).spawn().expect("ssh starts");
    let mut told = Vec::new();
    wait_for("the program", || {
        told.extend(script.told());
        !told.is_empty()
    });
    assert_eq!(told.concat().lines().last(), Some(&*user()), "no arguments: the user alone");
    // Whoever has a key in a file comes in meanwhile.
    let key = public(&gateway, "user_ecdsa256");
    fs::write(gateway.path("authorized_keys"), format!("{key}\n")).expect("a file");
    let identity = format!("IdentityFile={}", gateway.path("user_ecdsa256").display());
    let output = gateway.ssh(&[&identity], &["echo in"]).output().expect("ssh starts");
    assert_eq!(out(&output), "in\n", "{output:?}\n{}", gateway.log());
    let output = hanging.wait_with_output().expect("ssh ends");
    let heard = String::from_utf8_lossy(&output.stderr);
    assert!(heard.contains("Permission denied"), "{heard}");
    let reason = "program: it did not answer in 10 seconds";
    gateway.tells(reason);
    let mut children = Command::new("pgrep");
    children.args(["-f", "^sleep 1000$", "-P"]).arg(gateway.child.id().to_string());
    let running = children.output().expect("pgrep starts");
    assert_eq!(out(&running), "", "it was ended");
}

#[test]
fn a_program_knows_principals() {
    let script = Script::new();
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["ca", "other"] {
        keygen(&folder.path().join(name), "ed25519", "");
    }
    let trusted = format!("TrustedUserCAKeys {}", folder.path().join("ca.pub").display());
    let words = "%u %i %s %F %T %K %f %t %k '%C'";
    let gateway = gateway(&script, "AuthorizedPrincipalsCommand", words, &[&trusted]);
    for name in ["ca", "ca.pub", "other"] {
        fs::copy(folder.path().join(name), gateway.path(name)).expect("a key");
    }
    let certify = |authority: &str, arguments: &[&str]| {
        let mut command = Command::new("ssh-keygen");
        command.current_dir(gateway.folder.path()).args(["-q", "-s", authority, "-I", "an id"]);
        run_ok(command.args(["-z", "77"]).args(arguments).arg("user_ed25519.pub"));
    };
    let gets_in = || out(&log_in(&gateway, &["user_ed25519"], "echo in")) == "in\n";
    script.does("echo '# none'; echo deploy", 0o755);
    assert!(!gets_in(), "no certificate");
    certify("other", &["-n", "deploy"]);
    assert!(!gets_in(), "an authority that nobody trusts");
    certify("ca", &["-n", "deploy", "-V", "0x1:0x2"]);
    assert!(!gets_in(), "expired");
    gateway.tells("expired: it ended at");
    assert_eq!(script.told(), [""; 0], "it was never asked");
    certify("ca", &["-n", &user()]);
    assert!(!gets_in(), "the user's own name is no principal where a program says which are");
    let reason = "program lists no principal of the certificate";
    gateway.tells(reason);
    certify("ca", &["-n", "deploy"]);
    script.told();
    assert!(gets_in(), "{}", gateway.log());
    let source = format!(", AuthorizedPrincipalsCommand {}:2)", script.at("program").display());
    gateway.tells(&source);
    let told = script.told().concat();
    let lines = told.lines().skip(2).collect::<Vec<_>>();
    let authority = public(&gateway, "ca");
    let authority = authority.split(' ').collect::<Vec<_>>();
    let certificate = public(&gateway, "user_ed25519-cert");
    let certificate = certificate.split(' ').collect::<Vec<_>>();
    let expected = [
        &*user(),
        "an id",
        "77",
        &*fingerprint(&gateway, "ca"),
        authority[0],
        authority[1],
        &*fingerprint(&gateway, "user_ed25519"),
        certificate[0],
        certificate[1],
    ];
    assert_eq!(lines[..9], expected);
    for (answer, reason) in [
        ("echo 'from=\"192.0.2.1\" deploy'", "program:1: from= does not allow 127.0.0.1"),
        ("echo deploy; exit 1", "AuthorizedPrincipalsCommand "),
    ] {
        script.does(answer, 0o755);
        assert!(!gets_in(), "{answer}");
        gateway.tells(reason);
    }
    script.does("echo 'command=\"echo forced\" deploy'", 0o755);
    assert_eq!(out(&log_in(&gateway, &["user_ed25519"], "echo in")), "forced\n");
}

/// Without root's rights a program runs as the account that the gateway runs as, or not at all.
#[test]
fn an_unprivileged_gateway_asks_as_itself() {
    let Some(account) = Account::new() else { return };
    let script = Script::new();
    let run = |runs_as: &str| {
        let command = format!("AuthorizedKeysCommand {}", script.at("program").display());
        let user = format!("AuthorizedKeysCommandUser {runs_as}");
        let gateway = Gateway::start_with(&[&command, &user], |command| {
            let config = command.get_args().nth(2).expect("the configuration").to_owned();
            let folder = std::path::Path::new(&config).parent().expect("a folder").to_owned();
            fs::write(folder.join("authorized_keys"), "").expect("a file");
            run_ok(Command::new("chown").args(["-R", &account.name]).arg(&folder));
            command.uid(account.uid).gid(account.uid);
        });
        let key = public(&gateway, "user_ed25519");
        script.does(&format!("echo '{key}'"), 0o755);
        let name = format!("User={}", account.name);
        let output = gateway.ssh(&[&name], &["id -un"]).output().expect("ssh starts");
        (out(&output), gateway)
    };
    let (said, gateway) = run("%u");
    assert_eq!(said, format!("{}\n", account.name), "{}", gateway.log());
    assert!(script.told().concat().starts_with(&account.name));
    let (said, gateway) = run("nobody");
    assert_eq!(said, "", "{}", gateway.log());
    let reason = "only root can start it as nobody";
    gateway.tells(reason);
    assert_eq!(script.told(), [""; 0]);
}
