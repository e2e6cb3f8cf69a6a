//! Host keys that OpenSSH's client learns (UpdateHostKeys): those to come, before they are in use.

use std::os::unix::process::CommandExt;

use super::*;
use crate::support::openssh::Agent;
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

const AGENTS: [&str; 2] = ["host_ed25519", "host_rsa3072"];

/// A gateway that has only the public halves of two of its keys, in one way each that sshd knows; an agent
/// has the private ones.
fn kept_by_agent(user: &str, owner: Option<u32>) {
    let owned = |command: &mut Command| {
        if let Some(id) = owner {
            command.uid(id).gid(id);
        }
    };
    let mut agent = None;
    let gateway = Gateway::start_with(&[], |command| {
        let config = configuration(command);
        let folder = config.parent().expect("a folder").to_owned();
        let text = fs::read_to_string(&config).expect("the configuration");
        fs::write(&config, format!("HostKeyAgent {}\n{text}", folder.join("keeper").display()))
            .expect("a file");
        let key = fs::read_to_string(folder.join("user_ed25519.pub")).expect("a key");
        fs::write(folder.join("authorized_keys"), key).expect("a file");
        run_ok(Command::new("chown").args(["-R", user]).arg(&folder));
        let started = Agent::start_with(folder.join("keeper"), owned);
        for name in AGENTS {
            started.add(&folder.join(name));
            fs::rename(folder.join(name), folder.join(format!("{name}.kept"))).expect("a key");
        }
        fs::copy(folder.join("host_rsa3072.pub"), folder.join("host_rsa3072")).expect("a key");
        agent = Some(started);
        owned(command);
    });
    let user = format!("User={user}");
    let all: Vec<String> = HOST_KEYS
        .iter()
        .map(|(kind, bits)| gateway.public_key(&format!("host_{kind}{bits}")))
        .collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    gateway.know(&all);
    let by = |algorithm: &str| {
        let algorithm = format!("HostKeyAlgorithms={algorithm}");
        shown(&mut gateway.ssh(&[UPDATE[1], &user, &algorithm], &["echo in"]))
    };
    for algorithm in ["ssh-ed25519", "rsa-sha2-256", "rsa-sha2-512", "ecdsa-sha2-nistp256"] {
        let seen = by(algorithm);
        assert_eq!(seen.out, "in\n", "{algorithm}: {seen:?}\n{}", gateway.log());
    }
    // It proves that it has them, too.
    gateway.know(&all[1..2]);
    let options =
        [UPDATE[0], UPDATE[1], &user, "HostKeyAlgorithms=ecdsa-sha2-*,ssh-ed25519,rsa-sha2-512"];
    gateway.assert_learns(&mut gateway.ssh(&options, &["cat"]), &all);
    let socket = gateway.path("keeper");
    let held = agent.take().expect("it was started");
    held.tell(&["-d"], &gateway.path("host_ed25519.pub"));
    assert_eq!(by("ssh-ed25519").out, "");
    gateway.tells("the agent of HostKeyAgent refuses");
    drop(held);
    let _ = fs::remove_file(&socket);
    assert_eq!(by("rsa-sha2-256").out, "");
    gateway.tells("No such file or directory");
    assert_eq!(by("ecdsa-sha2-nistp256").out, "in\n", "{}", gateway.log());
    // Another one is as good as the first.
    let agent = Agent::start_with(socket, owned);
    AGENTS.iter().for_each(|name| agent.add(&gateway.path(&format!("{name}.kept"))));
    assert_eq!(by("ssh-ed25519").out, "in\n", "{}", gateway.log());
    drop(agent);
    let _ = fs::remove_file(gateway.path("keeper"));
    let mut test = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let test = test.args(["serve", "-t", "-f"]).arg(gateway.path("tidegate_config"));
    let output = test.output().expect("it starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("start the agent first"), "{told}");
}

#[test]
fn an_agent_signs_with_the_host_keys_that_it_has() {
    kept_by_agent("root", None);
}

#[test]
fn an_agent_signs_for_an_unprivileged_gateway() {
    let Some(account) = Account::new() else { return };
    kept_by_agent(&account.name, Some(account.uid));
}
