//! What the stock filter of fail2ban makes of the log. Each client has an address of its own.
//!
//! tests/run.sh installs the package. Where it is missing that is said, unless `TIDEGATE_ALL_CLIENTS` is set:
//! then it is a failure.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};

use crate::support::{Gateway, driver, keygen, wait_for};
use crate::{WRONG, audited, audited_by, user, with_password};

const FILTER: &str = "/etc/fail2ban/filter.d/sshd.conf";

fn is_there() -> bool {
    let found = Path::new(FILTER).exists();
    let required = std::env::var_os("TIDEGATE_ALL_CLIENTS").is_some();
    assert!(found || !required, "fail2ban is missing: apt-get install fail2ban");
    if !found {
        println!("left out: fail2ban is missing; apt-get install fail2ban");
    }
    found
}

/// Failures that the filter finds in one of its modes, by address.
fn found(log: &Path, mode: &str) -> BTreeMap<String, usize> {
    let mut filter = Command::new("fail2ban-regex");
    let rules = format!("{FILTER}[mode={mode}]");
    let output = filter.args(["-o", "row", "--usedns", "no"]).arg(log).arg(rules).output();
    let output = output.expect("fail2ban-regex starts");
    let mut failures = BTreeMap::new();
    for row in String::from_utf8_lossy(&output.stdout).lines() {
        let address = row.strip_prefix("['").and_then(|row| row.split_once('\''));
        let (address, _) = address.unwrap_or_else(|| panic!("{row}: {output:?}"));
        *failures.entry(address.to_owned()).or_default() += 1;
    }
    // Whoever looks whether the gateway is there.
    failures.remove("127.0.0.1");
    failures
}

/// Failures are logged as in sshd's INFO.
const LINES: [&str; 4] =
    ["LogLevel INFO", "MaxAuthTries 3", "PidFile none", "DenyUsers *@127.0.0.4"];
/// Where the clients come from. Reactors write in no order between them: the log is whole when each has its end.
const VISITORS: [u8; 10] = [2, 3, 4, 6, 7, 8, 9, 10, 11, 12];

fn is_whole(log: &str) -> bool {
    let ends: Vec<_> = log.lines().filter(|line| line.contains("Disconnected ")).collect();
    let has_end =
        |visitor| ends.iter().any(|end| end.contains(&format!(" 127.0.0.{visitor} port ")));
    VISITORS.iter().all(has_end)
}

/// Good logins and bad ones, the lines of some between those of others.
fn visit(gateway: &Gateway) {
    let from = |address: &str| format!("BindAddress={address}");
    let mut held = gateway.ssh(&[&from("127.0.0.7")], &["echo in; cat"]);
    let mut held = held.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ssh starts");
    let mut word = [0; 3];
    held.stdout.as_mut().expect("a pipe").read_exact(&mut word).expect("in");
    let tries = |address: &str, user: &str| {
        let options = [&*from(address), &format!("User={user}"), "NumberOfPasswordPrompts=2"];
        assert!(!with_password(gateway, WRONG, &options).status.success());
    };
    // Passwords that are wrong, of somebody and of nobody.
    tries("127.0.0.2", &user());
    tries("127.0.0.3", "nobody-at-all");
    // Whoever is not let in from there, with the right key.
    assert!(!gateway.ssh(&[&from("127.0.0.4")], &["true"]).status().expect("ssh").success());
    // Keys of others: one before the right one, and too many.
    let key = |name: &str| format!("IdentityFile={}", gateway.path(name).display());
    let keys = ["other1", "other2", "other3"];
    keys.iter().for_each(|name| keygen(&gateway.path(name), "ed25519", ""));
    let second = gateway.ssh(&[&from("127.0.0.6"), &key("other1")], &["true"]).status();
    assert!(second.expect("ssh").success());
    let too_many: Vec<_> = keys.iter().map(|name| key(name)).collect();
    let mut options: Vec<&str> = too_many.iter().map(String::as_str).collect();
    let address = from("127.0.0.8");
    options.push(&address);
    assert!(!gateway.ssh(&options, &["true"]).status().expect("ssh").success());
    // Who asks for what nobody has, and who says nothing, nonsense or no more than a name.
    let unequal = [&*from("127.0.0.9"), "KexAlgorithms=diffie-hellman-group1-sha1"];
    assert!(!gateway.ssh(&unequal, &["true"]).status().expect("ssh").success());
    for (last, words) in [(10, ""), (11, "GET / HTTP/1.0\r\n\r\n"), (12, "SSH-2.0-x\r\n")] {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None);
        let socket = socket.expect("a socket");
        bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, last, 0)).expect("an address");
        let gateway = SockaddrIn::new(127, 0, 0, 1, gateway.port);
        connect(socket.as_raw_fd(), &gateway).expect("a connection");
        let mut stream = TcpStream::from(socket);
        // All that comes is read, lest the end be a reset.
        stream.read_exact(&mut [0; 8]).expect("an identification");
        stream.write_all(words.as_bytes()).expect("room");
        stream.shutdown(Shutdown::Write).expect("an end");
        let _ = stream.read_to_end(&mut Vec::new());
    }
    drop(held.stdin.take());
    assert!(held.wait().expect("ssh").success());
}

/// What the visits above are worth, as in sshd's log: attempts by password, each; a user who gets in by no
/// means, once; too many keys, once; nothing for those who have got in. Some modes count ends before a login.
fn expected(mode: &str) -> BTreeMap<String, usize> {
    let (ends, unequal) = match mode {
        "normal" => (0, 0),
        "ddos" => (1, 0),
        "extra" => (0, 1),
        _ => (1, 1),
    };
    let logins = [(2, 2 + ends), (3, 3 + ends), (4, 1 + ends), (8, 1)];
    let strangers = [(9, unequal), (10, ends), (11, ends), (12, ends)];
    let found = logins.into_iter().chain(strangers).filter(|(_, count)| *count > 0);
    found.map(|(last, count)| (format!("127.0.0.{last}"), count)).collect()
}

/// Waits until the log has the last of it.
fn assert_found(log: &Path) {
    let text = || fs::read_to_string(log).unwrap_or_default();
    wait_for("the end of each client", || is_whole(&text()));
    for mode in ["normal", "ddos", "extra", "aggressive"] {
        assert_eq!(found(log, mode), expected(mode), "{mode}\n{}", text());
    }
}

#[test]
fn the_stock_filter_finds_in_a_file_who_fails_and_nobody_else() {
    if !is_there() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = audited(&folder, &LINES);
    visit(&gateway);
    assert_found(&gateway.path("log"));
}

/// What arrives at `socket`, written to a file as a logger would.
fn keep(socket: UnixDatagram, file: PathBuf) {
    let mut buffer = [0; 16 * 1024];
    std::thread::spawn(move || {
        let mut kept = String::new();
        while !is_whole(&kept) {
            let len = match socket.recv(&mut buffer) {
                Err(why) if why.kind() == std::io::ErrorKind::Interrupted => continue,
                received => received.expect("lines within the time"),
            };
            let line = String::from_utf8_lossy(&buffer[..len]);
            let (_, line) = line.split_once('>').expect("a priority");
            let (time, rest) = line.split_at("Mmm dd hh:mm:ss ".len());
            kept.push_str(&format!("{time}host {rest}\n"));
            fs::write(&file, &kept).expect("written");
        }
    });
}

#[test]
fn the_stock_filter_finds_in_the_systems_log_who_fails_and_nobody_else() {
    if !is_there() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (path, log) = (folder.path().join("syslog"), folder.path().join("auth.log"));
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a time");
    keep(socket, log.clone());
    let driver = format!("TidegateDriver {}", driver().unwrap_or("auto".to_owned()));
    let gateway = audited_by(&folder, &[&LINES[..], &[&*driver]].concat(), |command| {
        let config = command.get_args().nth(2).expect("the configuration").to_owned();
        let mut sshd = Command::new(command.get_program());
        sshd.args(["sshd", "-D", "-f"]).arg(config);
        sshd.env("TIDEGATE_TEST_SYSLOG", &path).env("TIDEGATE_TEST_LOGINS", folder.path());
        *command = sshd;
    });
    visit(&gateway);
    assert_found(&log);
}
