//! Host keys that OpenSSH's client learns (UpdateHostKeys): those to come, before they are in use.

use std::os::unix::process::CommandExt;

use super::*;
use crate::support::{HOST_KEYS, keygen, run_ok};

const UPDATE: [&str; 2] = ["UpdateHostKeys=yes", "StrictHostKeyChecking=yes"];

fn configuration(command: &Command) -> std::path::PathBuf {
    command.get_args().nth(2).expect("the configuration").into()
}

/// Clients that know one key learn the others and the next one; when it takes the place of the first
/// they find it, and forget the first.
fn rotate(user: &str, change: impl FnOnce(&mut Command)) {
    let gateway = Gateway::start_with(&[], |command| {
        let config = configuration(command);
        let next = config.with_file_name("next");
        keygen(&next, "ed25519", "");
        let mut file = OpenOptions::new().append(true).open(&config).expect("the configuration");
        writeln!(file, "HostKey {}", next.display()).expect("a line");
        change(command);
    });
    let mut all: Vec<String> = HOST_KEYS
        .iter()
        .map(|(kind, bits)| gateway.public_key(&format!("host_{kind}{bits}")))
        .collect();
    let next = gateway.public_key("next");
    all.push(next.clone());
    let mut all: Vec<&str> = all.iter().map(String::as_str).collect();
    let user = format!("User={user}");
    for key in [all[0], all[4]] {
        gateway.know(&[key]);
        let algorithms = match key.starts_with("ssh-rsa ") {
            true => "HostKeyAlgorithms=rsa-sha2-256,ssh-ed25519,ecdsa-sha2-*",
            false => "HostKeyAlgorithms=ssh-ed25519,ecdsa-sha2-*,rsa-sha2-512",
        };
        let options = [UPDATE[0], UPDATE[1], &user, algorithms];
        gateway.assert_learns(&mut gateway.ssh(&options, &["cat"]), &all);
    }
    let config = fs::read_to_string(gateway.path("tidegate_config")).expect("the configuration");
    let old = format!("HostKey {}\n", gateway.path("host_ed25519").display());
    assert!(config.contains(&old), "{config}");
    fs::write(gateway.path("tidegate_config"), config.replace(&old, "")).expect("a file");
    run_ok(Command::new("kill").args(["-HUP", &gateway.child.id().to_string()]));
    gateway.tells("is in force for new connections");
    all.remove(0);
    let options =
        [UPDATE[0], UPDATE[1], &user, "HostKeyAlgorithms=ssh-ed25519,ecdsa-sha2-*,rsa-sha2-512"];
    gateway.assert_learns(&mut gateway.ssh(&options, &["cat"]), &all);
    gateway.know(&[&next]);
    let options = [UPDATE[1], &user, "HostKeyAlgorithms=ssh-ed25519"];
    assert_eq!(shown(&mut gateway.ssh(&options, &["echo in"])).out, "in\n", "{}", gateway.log());
}

#[test]
fn clients_learn_the_next_host_key_before_it_is_in_use() {
    rotate("root", |_| {});
}

#[test]
fn an_unprivileged_gateway_tells_its_host_keys_too() {
    let Some(account) = Account::new() else { return };
    rotate(&account.name, |command| {
        let folder = configuration(command).parent().expect("a folder").to_owned();
        let key = fs::read_to_string(folder.join("user_ed25519.pub")).expect("a key");
        fs::write(folder.join("authorized_keys"), key).expect("a file");
        run_ok(Command::new("chown").args(["-R", &account.name]).arg(&folder));
        command.uid(account.uid).gid(account.uid);
    });
}
