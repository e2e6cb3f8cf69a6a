//! OpenSSH's clients against a running gateway.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::{
    Gateway, HOST_KEYS, ODD_NAMES, forbid, newer_openssh, noise, run_ok, sha256, wait_for,
};
use tidegate::limits::COMMAND_BYTES_MAX;

const MIB: usize = 1 << 20;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_command_runs_with_its_exit_code_and_both_outputs() {
    let gateway = Gateway::start(&[]);
    // The client's own choice of methods, which has this one anyway.
    let own = "KexAlgorithms=+curve25519-sha256";
    let output =
        gateway.ssh(&[own], &["echo out; echo err >&2; exit 7"]).output().expect("ssh starts");
    assert_eq!(output.status.code(), Some(7), "{}", gateway.log());
    assert_eq!(text(&output.stdout), "out\n");
    assert_eq!(text(&output.stderr), "err\n");
    let output = gateway.ssh(&[], &["kill -TERM $$"]).output().expect("ssh starts");
    assert_eq!(output.status.code(), Some(255), "a signal is no exit code");
}

#[test]
fn standard_input_reaches_the_command_and_its_end_too() {
    let gateway = Gateway::start(&[]);
    let data = noise(32 * MIB, 1);
    fs::write(gateway.path("in"), &data).expect("a file");
    let input = fs::File::open(gateway.path("in")).expect("the file");
    let output = run_ok(gateway.ssh(&[], &["sha256sum"]).stdin(input));
    assert_eq!(text(&output.stdout).split(' ').next(), Some(&*sha256(&gateway.path("in"))));
    let input = fs::File::open(gateway.path("in")).expect("the file");
    let output = run_ok(gateway.ssh(&[], &["cat"]).stdin(input));
    assert!(output.stdout == data, "32 MiB through cat come back unchanged");
}

/// OpenSSH's client tells that nobody reads its output any more to servers alone that are called as it is.
#[test]
fn a_command_that_nobody_hears_ends_where_the_server_has_the_name_for_it() {
    let name = "TidegateSoftwareVersion OpenSSH_Tidegate";
    let gateway = Gateway::start(&["VersionAddendum here", name]);
    let mut command = gateway.ssh(&[], &["yes"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("ssh starts");
    let mut out = child.stdout.take().expect("its output");
    out.read_exact(&mut [0; 4]).expect("some of it");
    drop(out);
    wait_for("the end of a command that nobody hears", || {
        child.try_wait().expect("its status").is_some()
    });
}

#[test]
fn environment_follows_accept_env() {
    let gateway = Gateway::start(&["AcceptEnv LANG TIDE_*"]);
    let mut ssh = gateway
        .ssh(&["SendEnv=TIDE_A", "SendEnv=OTHER"], &["echo $TIDE_A-$OTHER-$USER-$SSH_CONNECTION"]);
    let output = run_ok(ssh.env("TIDE_A", "one").env("OTHER", "two"));
    let line = text(&output.stdout);
    assert!(line.starts_with("one--"), "{line}");
    assert!(line.trim_end().ends_with(&format!("127.0.0.1 {}", gateway.port)), "{line}");
}

/// As long as the system starts programs with; what is longer fails by itself.
#[test]
fn long_commands_and_variables_reach_their_program() {
    let gateway = Gateway::start(&["AcceptEnv LONG"]);
    let front = "echo $((${#LONG}+1));:";
    let command = |len: usize| ["x".repeat(70_000), "y".repeat(len - front.len() - 70_002)];
    let longest = COMMAND_BYTES_MAX as usize;
    for compression in ["Compression=no", "Compression=yes"] {
        let options = [compression, "SendEnv=LONG"];
        for (len, said) in [(100_000, "100001\n"), (longest, "100001\n"), (longest + 1, "")] {
            let [one, two] = command(len);
            let mut ssh = gateway.ssh(&options, &[front, &one, &two]);
            let output = ssh.env("LONG", "z".repeat(100_000)).output().expect("ssh starts");
            assert_eq!(text(&output.stdout), said, "{len}: {}", text(&output.stderr));
            assert_eq!(output.status.success(), len <= longest, "{len}");
        }
    }
    gateway.tells("exec: it is too long");
}

#[test]
fn a_terminal_has_its_size_modes_and_a_shell() {
    let gateway = Gateway::start(&[]);
    let mut child = gateway
        .ssh(&["RequestTTY=force"], &[])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ssh starts");
    let mut input = child.stdin.take().expect("its input");
    input.write_all(b"tty; test -t 0 && echo is-a-$((40+2))\nexit 3\n").expect("typing");
    let output = child.wait_with_output().expect("ssh ends");
    let shown = text(&output.stdout);
    assert!(shown.contains("/dev/pts/"), "{shown}");
    assert!(shown.contains("is-a-42"), "{shown}");
    assert_eq!(output.status.code(), Some(3), "{shown}");
}

const KEX: [&str; 8] = [
    "mlkem768x25519-sha256",
    "sntrup761x25519-sha512",
    "sntrup761x25519-sha512@openssh.com",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
];

const HOST_KEY_ALGORITHMS: [&str; 6] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-256",
    "rsa-sha2-512",
];

const MACS: [&str; 4] = [
    "hmac-sha2-256",
    "hmac-sha2-512",
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
];

/// One login to try: the client, and the options that leave it no choice.
type Combination = (PathBuf, [String; 4]);

/// Every cipher, and with every MAC where the cipher needs one.
fn suites() -> Vec<(&'static str, &'static str)> {
    let alone =
        ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"];
    let with_mac = ["aes128-ctr", "aes192-ctr", "aes256-ctr"];
    let pairs = with_mac.iter().flat_map(|cipher| MACS.iter().map(|mac| (*cipher, *mac)));
    alone.iter().map(|cipher| (*cipher, MACS[0])).chain(pairs).collect()
}

/// What this client has of what we have: every pair of names is in one of the logins. On the second driver
/// each name comes up once or twice: what is negotiated does not depend on it.
fn combinations(client: &Path) -> Vec<Combination> {
    let known = text(&run_ok(Command::new(client).args(["-Q", "kex"])).stdout);
    let kexes: Vec<&str> =
        KEX.into_iter().filter(|kex| known.lines().any(|line| line == *kex)).collect();
    assert!(kexes.len() >= 6, "{client:?} has only {kexes:?}");
    let suites = suites();
    let combination = |kex: usize, host_key: usize, suite: usize| {
        let (cipher, mac) = suites[suite % suites.len()];
        let options = [
            format!("KexAlgorithms={}", kexes[kex % kexes.len()]),
            format!("HostKeyAlgorithms={}", HOST_KEY_ALGORITHMS[host_key % 6]),
            format!("Ciphers={cipher}"),
            format!("MACs={mac}"),
        ];
        (client.to_owned(), options)
    };
    if support::driver().as_deref() == Some("mio") {
        return (0..suites.len()).map(|n| combination(n, n, n)).collect();
    }
    let each = |kex| (0..suites.len()).map(move |n| (kex, kex + n, n));
    (0..kexes.len()).flat_map(each).map(|(kex, key, suite)| combination(kex, key, suite)).collect()
}

fn fails(gateway: &Gateway, (client, options): &Combination) -> Option<String> {
    let mut words: Vec<&str> = options.iter().map(String::as_str).collect();
    words.push("UserKnownHostsFile=/dev/null");
    let mut command = gateway.client(client, &words);
    let output = command.args(["127.0.0.1", "echo fine"]).output().expect("ssh starts");
    (output.stdout != b"fine\n").then(|| format!("{options:?}: {}", text(&output.stderr)))
}

#[test]
fn every_algorithm_that_both_have() {
    let gateway = Gateway::start(&[&format!("KexAlgorithms +{}", NIST_KEX.join(","))]);
    let mut clients = vec![PathBuf::from("ssh")];
    clients.extend(newer_openssh().map(|folder| folder.join("ssh")));
    let jobs: Vec<Combination> = clients.iter().flat_map(|c| combinations(c)).collect();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(failure) = fails(&gateway, job) {
                        failures.lock().expect("failures").push(failure);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("failures");
    assert!(failures.is_empty(), "{} of {}: {failures:#?}", failures.len(), jobs.len());
    println!("{} combinations logged in", jobs.len());
}

/// By configuration alone, like the next.
const NIST_KEX: [&str; 3] = ["ecdh-sha2-nistp256", "ecdh-sha2-nistp384", "ecdh-sha2-nistp521"];

const OLD_KEX: [&str; 4] = [
    "diffie-hellman-group14-sha256",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group18-sha512",
    "diffie-hellman-group-exchange-sha256",
];

/// What leaves a client no newer choice.
const OLD_CHOICES: [&str; 9] = [
    "KexAlgorithms=ecdh-sha2-nistp256",
    "KexAlgorithms=ecdh-sha2-nistp384",
    "KexAlgorithms=ecdh-sha2-nistp521",
    "KexAlgorithms=diffie-hellman-group14-sha256",
    "KexAlgorithms=diffie-hellman-group16-sha512",
    "KexAlgorithms=diffie-hellman-group18-sha512",
    "KexAlgorithms=diffie-hellman-group-exchange-sha256",
    "MACs=hmac-sha1",
    "MACs=hmac-sha1-etm@openssh.com",
];

/// The NIST curves, finite-field Diffie-Hellman and HMAC-SHA-1 are there for who configures them, rekeying included,
/// and for nobody else.
#[test]
fn old_algorithms_by_configuration_alone() {
    if support::is_run_again() {
        return;
    }
    let kex = format!("KexAlgorithms +{},{}", OLD_KEX.join(","), NIST_KEX.join(","));
    let macs = "MACs +hmac-sha1,hmac-sha1-etm@openssh.com";
    let gateway = Gateway::start(&[&kex, macs]);
    let fixed = Gateway::start(&[&kex, "ModuliFile /nonexistent/moduli"]);
    let plain = Gateway::start(&[]);
    for choice in OLD_CHOICES {
        for host_key in ["HostKeyAlgorithms=ssh-ed25519", "HostKeyAlgorithms=rsa-sha2-512"] {
            let options = [choice, host_key, "Ciphers=aes128-ctr", "RekeyLimit=64K"];
            let output = run_ok(&mut gateway.ssh(&options, &["head -c 300000 /dev/zero | wc -c"]));
            assert_eq!(text(&output.stdout).trim(), "300000", "{choice}");
        }
        let output = plain.ssh(&[choice, "Ciphers=aes128-ctr"], &["true"]).output().expect("ssh");
        assert_eq!(output.status.code(), Some(255), "{choice}");
    }
    for refusal in ["no common key exchange method", "no common MAC"] {
        plain.tells(refusal);
    }
    let exchange = "KexAlgorithms=diffie-hellman-group-exchange-sha256";
    run_ok(&mut fixed.ssh(&[exchange], &["true"]));
    fixed.tells("group exchange uses the fixed groups");
}

/// `Compression`, where client and server both want it: commands and files, across new keys.
#[test]
fn compression_where_both_want_it() {
    let gateway = Gateway::start(&["Compression yes"]);
    let plain = Gateway::start(&[]);
    let (zeros, random) = (vec![0; 2 * MIB], noise(2 * MIB, 9));
    for cipher in ["Ciphers=aes128-gcm@openssh.com", "Ciphers=aes256-ctr"] {
        for content in [&zeros, &random] {
            let options = ["Compression=yes", cipher, "RekeyLimit=1M"];
            let mut child = gateway
                .ssh(&options, &["cat"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("ssh starts");
            let mut input = child.stdin.take().expect("its input");
            let output = std::thread::scope(|scope| {
                scope.spawn(move || input.write_all(content).expect("written"));
                child.wait_with_output().expect("ssh ends")
            });
            assert!(output.status.success() && output.stdout == *content, "{cipher}");
        }
    }
    gateway.tells("compressed");
    fs::write(gateway.path("source"), noise(2 * MIB, 3)).expect("a file");
    let (source, there, back) =
        (gateway.path("source"), gateway.path("there"), gateway.path("back"));
    let [from, to, home] = [&source, &there, &back].map(|path| path.display().to_string());
    let batch = format!("put {from} {to}\nget {to} {home}\n");
    let output = gateway.sftp(&["Compression=yes"], &batch);
    assert!(output.status.success(), "{}\n{}", text(&output.stderr), gateway.log());
    assert_eq!(sha256(&source), sha256(&back));
    let output = run_ok(&mut plain.ssh(&["Compression=yes"], &["echo fine"]));
    assert_eq!(text(&output.stdout), "fine\n");
    assert!(!plain.log().contains("compressed"), "{}", plain.log());
}

#[test]
fn every_user_key_type_logs_in_and_strangers_do_not() {
    let gateway = Gateway::start(&[]);
    for (kind, bits) in HOST_KEYS {
        let key = format!("IdentityFile={}", gateway.path(&format!("user_{kind}{bits}")).display());
        let output = run_ok(&mut gateway.ssh(&[&key], &["echo in"]));
        assert_eq!(text(&output.stdout), "in\n");
    }
    support::keygen(&gateway.path("stranger"), "ed25519", "");
    let key = format!("IdentityFile={}", gateway.path("stranger").display());
    let output = Command::new("ssh")
        .args(["-F", "/dev/null", "-o", &key, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"])
        .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
        .args(["-o", "IdentityAgent=none", "-p", &gateway.port.to_string(), "127.0.0.1", "true"])
        .output()
        .expect("ssh starts");
    assert_eq!(output.status.code(), Some(255));
    assert!(text(&output.stderr).contains("Permission denied (publickey)"), "{output:?}");
}

#[test]
fn files_travel_both_ways_while_keys_change_every_mebibyte() {
    let gateway = Gateway::start(&[]);
    let size = 64;
    fs::write(gateway.path("source"), noise(size * MIB, 2)).expect("a file");
    let (source, there, back) =
        (gateway.path("source"), gateway.path("there"), gateway.path("back"));
    let batch = format!(
        "put {} {}\nget {} {}\n",
        source.display(),
        there.display(),
        there.display(),
        back.display()
    );
    let output = gateway.sftp(&["RekeyLimit=1M"], &batch);
    assert!(output.status.success(), "{}\n{}", text(&output.stderr), gateway.log());
    assert_eq!(sha256(&source), sha256(&there));
    assert_eq!(sha256(&source), sha256(&back));
    gateway.tells_times("Rekeyed", size);
}

/// What a client may set counts as its right: keys that change with every packet, in both
/// directions of transfer and under a command's output.
#[test]
fn cases_30_34_the_smallest_rekey_limits_are_served() {
    let gateway = Gateway::start(&[]);
    fs::write(gateway.path("source"), noise(2 * MIB, 12)).expect("a file");
    let (source, there, back) =
        (gateway.path("source"), gateway.path("there"), gateway.path("back"));
    let batch = format!(
        "put {} {}\nget {} {}\n",
        source.display(),
        there.display(),
        there.display(),
        back.display()
    );
    let quick = "KexAlgorithms=curve25519-sha256";
    for limit in ["RekeyLimit=300K", "RekeyLimit=16K"] {
        let output = gateway.sftp(&[limit, quick], &batch);
        assert!(output.status.success(), "{limit}: {}\n{}", text(&output.stderr), gateway.log());
        assert_eq!(sha256(&source), sha256(&back), "{limit}");
        let output =
            run_ok(&mut gateway.ssh(&[limit, quick], &["head -c 1000000 /dev/zero | sha256sum"]));
        assert!(text(&output.stdout).starts_with("d29751f2649b32ff"), "{}", text(&output.stdout));
    }
    let mut command = gateway.ssh(&["RekeyLimit=16", quick], &["sha256sum"]);
    command.stdin(fs::File::open(&source).expect("the input"));
    assert!(text(&run_ok(&mut command).stdout).starts_with(&sha256(&source)), "{}", gateway.log());
    gateway.tells_times("Rekeyed", 150);
}

/// A secret in 256 begins with a zero byte that both sides have to leave out. With so small a limit
/// nearly every packet brings an exchange with OpenSSH's code.
///
/// `TIDEGATE_EXCHANGES` asks for at least that many by each method, the slow groups included, and
/// `TIDEGATE_EXCHANGE_METHODS` (separated by commas) for these methods alone.
#[test]
fn case_30_hundreds_of_exchanges_by_all_methods() {
    if support::is_run_again() {
        return;
    }
    let wanted = std::env::var("TIDEGATE_EXCHANGES").map(|n| n.parse().expect("a number")).ok();
    let only = std::env::var("TIDEGATE_EXCHANGE_METHODS").ok();
    let gateway =
        Gateway::start(&[&format!("KexAlgorithms +{},{}", OLD_KEX.join(","), NIST_KEX.join(","))]);
    let newest = newer_openssh().map_or("ssh".into(), |folder| folder.join("ssh"));
    let known = text(&run_ok(Command::new(&newest).args(["-Q", "kex"])).stdout);
    let old: &[&str] = if wanted.is_some() { &OLD_KEX } else { &OLD_KEX[..1] };
    // Under one name each.
    let methods = KEX.iter().filter(|name| !name.contains('@')).chain(old).filter(|method| {
        only.as_ref().is_none_or(|only| only.split(',').any(|name| name == **method))
    });
    let least: usize = wanted.unwrap_or(50);
    // A packet of data, of 32 KiB at most, an exchange; a few go together.
    fs::write(gateway.path("source"), noise((least + least / 4) * 32 * 1024, 30)).expect("a file");
    let sum = sha256(&gateway.path("source"));
    for method in methods.filter(|method| known.lines().any(|line| line == **method)) {
        let before = gateway.log().matches("Rekeyed").count();
        // A cipher of 128 bits, for which a group exchange asks for 3072.
        let exchange = format!("KexAlgorithms={method}");
        let options = [&*exchange, "RekeyLimit=16", "Ciphers=aes128-gcm@openssh.com"];
        let mut command = gateway.client(&newest, &options);
        command.args(["127.0.0.1", "sha256sum"]);
        command.stdin(fs::File::open(gateway.path("source")).expect("the input"));
        let said = text(&run_ok(&mut command).stdout);
        assert!(said.starts_with(&sum), "{method}: {said}");
        let count =
            gateway.tells_times("Rekeyed", before + least).matches("Rekeyed").count() - before;
        println!("{method}: {count} exchanges, each understood");
    }
}

#[test]
fn fifty_sessions_share_one_connection() {
    let gateway = Gateway::start(&["MaxSessions 60"]);
    let socket = gateway.path("mux");
    let path = format!("ControlPath={}", socket.display());
    let mut master = gateway
        .ssh(&[&path, "ControlMaster=yes", "SessionType=none"], &[])
        .spawn()
        .expect("the master starts");
    wait_for("the master connection", || socket.exists());
    let sessions: Vec<_> = (0..50)
        .map(|n| {
            let command = format!("echo {n}; head -c 1048576 /dev/zero | wc -c; sleep 1");
            gateway
                .ssh(&[&path, "ControlMaster=no"], &[&command])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("a session starts")
        })
        .collect();
    for (n, session) in sessions.into_iter().enumerate() {
        let output = session.wait_with_output().expect("a session ends");
        assert_eq!(text(&output.stdout), format!("{n}\n1048576\n"), "{}", text(&output.stderr));
    }
    let log = gateway.tells("Accepted publickey for ");
    assert_eq!(log.matches("Accepted publickey for ").count(), 1, "{log}");
    assert!(log.contains(" ssh2: ED25519 SHA256:"), "{log}");
    let _ = master.kill();
    let _ = master.wait();
}

#[test]
fn clients_killed_in_mid_transfer_leave_nothing_behind() {
    let gateway = Gateway::start(&[]);
    gateway.assert_alive();
    fs::write(gateway.path("source"), noise(64 * MIB, 3)).expect("a file");
    let before = gateway.descriptors();
    for round in 0..6 {
        let (source, target) = (gateway.path("source"), gateway.path("target"));
        let batch = match round % 2 {
            0 => format!("get {} {}\n", source.display(), target.display()),
            _ => format!("put {} {}\n", source.display(), target.display()),
        };
        fs::write(gateway.path("killed"), batch).expect("a batch");
        let mut child = gateway
            .client(Path::new("sftp"), &[])
            .args(["-l", "40000", "-b"])
            .arg(gateway.path("killed"))
            .arg("127.0.0.1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group_leader()
            .spawn()
            .expect("sftp starts");
        std::thread::sleep(Duration::from_millis(400));
        let group = format!("-{}", child.id());
        run_ok(Command::new("kill").args(["-KILL", "--", &group]));
        let _ = child.wait();
        let _ = fs::remove_file(target);
    }
    wait_for("descriptors to be closed", || gateway.descriptors() <= before);
    gateway.assert_alive();
}

/// As with sshd: those at a terminal are told that it is gone, others go on.
#[test]
fn a_dropped_connection_hangs_up_its_terminals_processes() {
    let gateway = Gateway::start(&[]);
    for terminal in [true, false] {
        let mark = format!("31{}.{}", gateway.port, u8::from(terminal));
        let words = [if terminal { "-tt" } else { "-T" }, "127.0.0.1", &format!("sleep {mark}")];
        let mut ssh = gateway.client(Path::new("ssh"), &[]);
        let mut child = ssh.args(words).stdout(Stdio::null()).spawn().expect("ssh starts");
        let running = || {
            let output = Command::new("pgrep").args(["-f", &format!("^sleep {mark}")]).output();
            let output = output.expect("pgrep");
            text(&output.stdout).lines().next().map(str::to_owned)
        };
        wait_for("the command to run", || running().is_some());
        let ended = || gateway.log().matches("Disconnected").count();
        let before = ended();
        let _ = child.kill();
        let _ = child.wait();
        wait_for("the end of the connection", || ended() > before);
        if terminal {
            wait_for("the command to be hung up", || running().is_none());
        } else {
            let pid = running().expect("it goes on");
            run_ok(Command::new("kill").arg(pid));
        }
    }
    gateway.assert_alive();
}

#[test]
fn rsync_and_git_work_over_it() {
    let gateway = Gateway::start(&[]);
    let ssh = format!(
        "ssh -F /dev/null -p {} -i {} -o IdentitiesOnly=yes -o StrictHostKeyChecking=no \
         -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o IdentityAgent=none",
        gateway.port,
        gateway.path("user_ed25519").display()
    );
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/");
    let target = gateway.path("tree");
    run_ok(
        Command::new("rsync")
            .args(["-a", "-e", &ssh, source])
            .arg(format!("127.0.0.1:{}/", target.display())),
    );
    run_ok(Command::new("diff").args(["-r", source]).arg(&target));
    // And back, with odd names among them.
    for name in ODD_NAMES {
        fs::write(target.join(OsStr::from_bytes(name)), name).expect("a file");
    }
    let back = gateway.path("back");
    let from = format!("127.0.0.1:{}/", target.display());
    run_ok(Command::new("rsync").args(["-a", "-e", &ssh, &from]).arg(&back));
    run_ok(Command::new("diff").arg("-r").arg(&target).arg(&back));
    let status = |program: &str, words: &[&str]| {
        let mut command = Command::new(program);
        command.args(words).env("GIT_SSH_COMMAND", &ssh).current_dir(gateway.folder.path());
        command.stderr(Stdio::null()).status().expect("it starts").code()
    };
    assert_eq!(status("rsync", &["-a", "-e", &ssh, "127.0.0.1:/none/such", "none"]), Some(23));
    assert_eq!(status("git", &["clone", "-q", "127.0.0.1:/none/such", "none"]), Some(128));
    // With a key that nobody let in, the programs say what ssh has told them.
    support::keygen(&gateway.path("stranger"), "ed25519", "");
    let unknown = ssh.replace("user_ed25519", "stranger") + " -o BatchMode=yes";
    for (program, words, codes) in [
        // 12 when it hears the end of the stream before that of ssh.
        ("rsync", &["-a", "-e", &*unknown, &*from, "none"][..], &[255, 12][..]),
        ("git", &["clone", "-q", "127.0.0.1:repository", "none"], &[128]),
    ] {
        let mut command = Command::new(program);
        command.args(words).env("GIT_SSH_COMMAND", &unknown).current_dir(gateway.folder.path());
        let output = command.output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        let code = output.status.code().expect("an exit");
        assert!(codes.contains(&code), "{program}: {code}, {said}");
        assert!(said.contains("Permission denied (publickey"), "{program}: {said}");
    }
    let repository = gateway.path("repository");
    let git = |words: &[&str], folder: &Path| {
        run_ok(
            Command::new("git")
                .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
                .args(["-c", "init.defaultBranch=main"])
                .args(words)
                .current_dir(folder)
                .env("GIT_SSH_COMMAND", &ssh),
        )
    };
    fs::create_dir(&repository).expect("a folder");
    git(&["init", "-q"], &repository);
    fs::write(repository.join("file"), noise(3 * MIB, 4)).expect("a file");
    git(&["add", "."], &repository);
    git(&["commit", "-qm", "one"], &repository);
    let from = format!("127.0.0.1:{}", repository.display());
    git(&["clone", "-q", &from, "clone"], gateway.folder.path());
    let clone = gateway.path("clone");
    assert_eq!(sha256(&repository.join("file")), sha256(&clone.join("file")));
    fs::write(clone.join(OsStr::from_bytes(ODD_NAMES[6])), "odd").expect("a file");
    git(&["add", "."], &clone);
    git(&["commit", "-qm", "two"], &clone);
    git(&["push", "-q", "origin", "HEAD:refs/heads/pushed"], &clone);
    let [here, there] = [(&clone, "HEAD"), (&repository, "pushed")]
        .map(|(folder, name)| git(&["rev-parse", name], folder).stdout);
    assert_eq!(here, there);
}

/// The kernel's own refusal, and the one of a sandbox that hides the call.
#[test]
fn where_io_uring_is_refused_it_serves_over_mio_and_says_why() {
    for (errno, why) in [
        (libc::EPERM, "Operation not permitted (os error 1): a seccomp profile"),
        (libc::ENOSYS, "Function not implemented (os error 38): the kernel was built without it"),
    ] {
        let gateway = Gateway::start_on(None, &[], |command| {
            forbid(command, libc::SYS_io_uring_setup, errno);
        });
        let output = run_ok(&mut gateway.ssh(&[], &["echo out"]));
        assert_eq!(text(&output.stdout), "out\n");
        fs::write(gateway.path("source"), noise(8 * MIB, 5)).expect("a file");
        let (source, there, back) =
            (gateway.path("source"), gateway.path("there"), gateway.path("back"));
        let batch = format!("put {0:?} {1:?}\nget {1:?} {2:?}\n", source, there, back);
        let output = gateway.sftp(&[], &batch);
        assert!(output.status.success(), "{}\n{}", text(&output.stderr), gateway.log());
        assert_eq!(sha256(&source), sha256(&back));
        // As root, the edge and the process of the account each tell of their own; the first process and the
        // signer have none.
        let count = gateway.processes().len().saturating_sub(2).max(1);
        let log = gateway.tells_times("; going on with mio (epoll)", count);
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("io_uring")).collect();
        assert_eq!(lines.len(), count, "{log}");
        for line in lines {
            assert!(line.contains("WARN") && line.contains(why), "{log}");
            assert!(line.ends_with("; going on with mio (epoll)"), "{log}");
        }
    }
}

/// A sandbox that is older than openat2(2), by either of the answers that they give: files are served as
/// ever, and nothing that relies on it is promised.
#[test]
fn where_openat2_is_refused_files_are_served_and_roots_are_not() {
    for (errno, why) in
        [(libc::EPERM, "Operation not permitted"), (libc::ENOSYS, "not implemented")]
    {
        let gateway = Gateway::start_with(&[], |command| forbid(command, libc::SYS_openat2, errno));
        let (source, there) = (gateway.path("source"), gateway.path("there"));
        fs::write(&source, noise(MIB, 5)).expect("a file");
        let batch = format!(
            "put {0:?} {1:?}\nget {1:?} {1:?}2\nchmod 600 {1:?}\nls {1:?}\n",
            source, there
        );
        let output = gateway.sftp(&[], &batch);
        assert!(output.status.success(), "{}\n{}", text(&output.stderr), gateway.log());
        assert_eq!(sha256(&source), sha256(&there));
        let folder = tempfile::tempdir().expect("a folder");
        let key = folder.path().join("key");
        support::keygen(&key, "ed25519", "");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["serve", "-f", "/dev/null", "-o", "ListenAddress=127.0.0.1:0", "-h"]);
        command.arg(&key).args(["-o", "ChrootDirectory=/var/empty"]);
        forbid(&mut command, libc::SYS_openat2, errno);
        let output = command.output().expect("it starts");
        let told = text(&output.stderr);
        assert!(!output.status.success(), "{output:?}");
        assert!(
            told.contains("need openat2(2) with RESOLVE_IN_ROOT") && told.contains(why),
            "{told}"
        );
    }
}

#[test]
fn a_driver_that_was_asked_for_is_the_one_that_runs() {
    for (driver, says) in [("uring", "Driver: io_uring with "), ("mio", "Driver: mio (epoll)")] {
        let gateway = Gateway::start_on(Some(driver), &[], |_| {});
        gateway.assert_alive();
        gateway.tells(says);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key");
    support::keygen(&key, "ed25519", "");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["serve", "-f", "/dev/null", "-o", "ListenAddress=127.0.0.1:0"]);
    command.arg("-h").arg(&key).args(["--driver", "uring"]);
    forbid(&mut command, libc::SYS_io_uring_setup, libc::EPERM);
    let output = command.output().expect("it starts");
    assert_eq!(output.status.code(), Some(255), "{output:?}");
    let told = text(&output.stderr);
    assert!(told.contains("io_uring is refused") && told.contains("--driver mio"), "{told}");
}

/// Puts a program at the head of a process group of its own.
trait ProcessGroupLeader {
    fn process_group_leader(&mut self) -> &mut Command;
}

impl ProcessGroupLeader for Command {
    fn process_group_leader(&mut self) -> &mut Command {
        std::os::unix::process::CommandExt::process_group(self, 0)
    }
}
