//! UpdateHostKeys: the user's file follows what a server proves.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use crate::server::{Server, both, text};
use crate::support::{HOST_KEYS, keygen, run_ok, wait_for};

const STRICT: &str = "StrictHostKeyChecking=yes";
const UPDATE: &str = "UpdateHostKeys=yes";

/// Against servers that have one more key, an ECDSA one; both have an Ed25519 key.
fn with_two_keys(test: impl Fn(&Server, &str)) {
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("more");
    keygen(&key, "ecdsa", "256");
    let more = fs::read_to_string(folder.path().join("more.pub")).expect("a key");
    let more = more.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let line = format!("HostKey {}", key.display());
    both(&[&line], |server| test(server, &more));
}

fn public(server: &Server, name: &str) -> String {
    let line = fs::read_to_string(server.path(&format!("{name}.pub"))).expect("a key");
    line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

fn name(server: &Server) -> String {
    format!("[127.0.0.1]:{}", server.port())
}

/// The keys that OpenSSH's own tool finds in the file for the server.
fn known(server: &Server, file: &str) -> BTreeSet<String> {
    let mut command = Command::new("ssh-keygen");
    let output = command.args(["-F", &name(server), "-f"]).arg(server.path(file)).output();
    let output = text(&output.expect("ssh-keygen").stdout);
    let lines = output.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split_whitespace().skip(1).take(2).collect::<Vec<_>>().join(" "))
        .collect()
}

fn all(server: &Server, more: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::from([more.to_owned(), public(server, "host_ed25519")]);
    if let Server::Ours(_) = server {
        keys.extend(HOST_KEYS.map(|(kind, bits)| public(server, &format!("host_{kind}{bits}"))));
    }
    keys
}

/// Runs until the file has these keys for the server.
fn learns(server: &Server, command: &mut Command, file: &str, keys: &BTreeSet<String>) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the client starts");
    wait_for("the file to follow", || known(server, file) == *keys);
    drop(child.stdin.take());
    assert!(child.wait().expect("an end").success());
}

#[test]
fn the_users_file_follows_what_the_server_proves() {
    with_two_keys(|server, more| {
        let (host, own) = (name(server), public(server, "host_ed25519"));
        keygen(&server.path("gone"), "ed25519", "");
        keygen(&server.path("other"), "ed25519", "");
        let (gone, other) = (public(server, "gone"), public(server, "other"));
        fs::write(server.path("real"), format!("{host} {own} with care\n")).expect("a file");
        run_ok(Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(server.path("real")));
        let hashed = fs::read_to_string(server.path("real")).expect("a file");
        fs::remove_file(server.path("real.old")).expect("ssh-keygen's");
        let kept = format!("# mine\n{hashed}elsewhere {other} c\nno line at all\n");
        let before = kept.replace("elsewhere", &format!("{host} {gone} old\nelsewhere"));
        fs::write(server.path("real"), &before).expect("a file");
        symlink("real", server.path("known_hosts")).expect("a link");
        let keys = all(server, more);
        let options = [STRICT, UPDATE, "HashKnownHosts=yes", "HostKeyAlgorithms=ssh-ed25519,*"];
        learns(server, &mut server.ssh(&options, &["cat"]), "known_hosts", &keys);
        let after = fs::read_to_string(server.path("real")).expect("a file");
        let learned = after.strip_prefix(&kept).expect("what was there stays");
        assert_eq!(learned.lines().count(), keys.len() - 1, "{learned}");
        assert!(learned.lines().all(|line| line.starts_with("|1|")), "{learned}");
        assert_eq!(fs::read_to_string(server.path("real.old")).expect("a copy"), before);
        assert!(server.path("known_hosts").symlink_metadata().expect("it").is_symlink());
        // Once is enough, and what was learned is known.
        let options = [STRICT, UPDATE, "HostKeyAlgorithms=ecdsa-sha2-nistp256", "LogLevel=DEBUG1"];
        let said = text(&server.ssh(&options, &["true"]).output().expect("runs").stderr);
        let quiet = "UpdateHostKeys: no new or deprecated keys";
        assert!(said.contains(quiet), "{said}");
        assert_eq!(fs::read_to_string(server.path("real")).expect("a file"), after);
    });
}

#[test]
fn nothing_is_learned_where_ssh_learns_nothing() {
    with_two_keys(|server, more| {
        let (host, own) = (name(server), public(server, "host_ed25519"));
        let (line, wild) =
            (format!("{host} {own}\n"), format!("[127.0.0.*]:{} {own}\n", server.port()));
        let (more_elsewhere, authority) =
            (format!("web {more}\n"), format!("@cert-authority {host} {more}\n"));
        fs::write(server.path("system"), &line).expect("a file");
        let system = format!("GlobalKnownHostsFile={}", server.path("system").display());
        let plain = "HostKeyAlgorithms=ssh-ed25519,ecdsa-sha2-nistp256";
        let rows: [(&str, &[&str], &str); 8] = [
            // Somebody has chosen the file, and did not say so.
            (&line, &[], "no learner"),
            (&line, &["UpdateHostKeys=no"], "no learner"),
            (&line, &["UpdateHostKeys=ask"], "no learner"),
            ("", &[UPDATE, &system], "no learner"),
            (&wild, &[UPDATE], "no learner"),
            (&(line.clone() + &wild), &[UPDATE], "known_hosts:2 has a marker, a pattern"),
            (&(line.clone() + &authority), &[UPDATE], "known_hosts:2 has a marker, a pattern"),
            (&(line.clone() + &more_elsewhere), &[UPDATE], "known_hosts:2 has the same key"),
        ];
        for (lines, options, why) in rows {
            fs::write(server.path("known_hosts"), lines).expect("a file");
            let options = [&[STRICT, plain, "LogLevel=DEBUG1"], options].concat();
            let output = server.ssh(&options, &["echo in"]).output().expect("runs");
            let said = text(&output.stderr);
            assert_eq!(text(&output.stdout), "in\n", "{said}");
            assert!(why == "no learner" || said.contains(why), "{why}: {said}");
            let after = fs::read_to_string(server.path("known_hosts")).expect("a file");
            assert_eq!(after, lines, "{options:?}: {said}");
        }
        // A host that was met without a question has one key for now; the next time it is known.
        fs::write(server.path("known_hosts"), "").expect("a file");
        let options = [UPDATE, plain, "StrictHostKeyChecking=accept-new"];
        run_ok(&mut server.ssh(&options, &["true"]));
        assert_eq!(known(server, "known_hosts").len(), 1);
        let options = [UPDATE, STRICT];
        learns(server, &mut server.ssh(&options, &["cat"]), "known_hosts", &all(server, more));
    });
}

/// A copy learns too, whatever it copies.
#[test]
fn copies_learn_host_keys() {
    with_two_keys(|server, more| {
        let line = format!("{} {}\n", name(server), public(server, "host_ed25519"));
        fs::write(server.path("known_hosts"), line).expect("a file");
        let key = format!("IdentityFile={}", server.path("user_ed25519").display());
        let options = [UPDATE, STRICT, &key, "HostKeyAlgorithms=ssh-ed25519,*"];
        let mut command = server.client("cp", &options);
        let from = format!("127.0.0.1:{}", server.path("host_ed25519.pub").display());
        run_ok(command.arg(from).arg(server.path("copied")));
        assert_eq!(known(server, "known_hosts"), all(server, more));
    });
}
