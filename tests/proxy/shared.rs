//! One connection to a host for several logins of one user.

use super::settings::agent;
use super::*;

const SHARE: &str = "TidegateUpstreamShare yes";

/// Logins that the host has seen.
fn logins(host: &Host) -> usize {
    host.log().matches("Accepted publickey").count()
}

/// A login whose session has answered and stays until its input ends, or the value does.
struct Stay(Child);

impl Drop for Stay {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stay {
    fn start(gateway: &Gateway, options: &[&str]) -> Stay {
        let mut stay = Stay::begin(gateway, options, "echo in; cat");
        stay.hears("in\n", gateway);
        stay
    }

    fn begin(gateway: &Gateway, options: &[&str], words: &str) -> Stay {
        let mut command = gateway.ssh(&[&[QUICK, "LogLevel=INFO"], options].concat(), &[words]);
        let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Stay(streams.spawn().expect("ssh starts"))
    }

    fn hears(&mut self, expected: &str, gateway: &Gateway) {
        let mut heard = vec![0; expected.len()];
        let read = self.0.stdout.as_mut().expect("its output").read_exact(&mut heard);
        read.unwrap_or_else(|why| panic!("{why}\n{}", gateway.log()));
        assert_eq!(text(&heard), expected);
    }

    fn says(&mut self, words: &str, gateway: &Gateway) {
        let written = self.0.stdin.as_mut().expect("its input").write_all(words.as_bytes());
        written.expect("a write");
        self.hears(words, gateway);
    }

    /// It ends as it should.
    fn ends(mut self, gateway: &Gateway) {
        drop(self.0.stdin.take());
        let output = self.output();
        assert!(output.status.success(), "{}", said(gateway, &output));
    }

    /// What it has said that was not heard, and how it has ended.
    fn output(&mut self) -> Output {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        self.0.stdout.as_mut().expect("its output").read_to_end(&mut stdout).expect("all of it");
        self.0.stderr.as_mut().expect("its words").read_to_end(&mut stderr).expect("all of them");
        Output { status: self.0.wait().expect("its end"), stdout, stderr }
    }
}

/// So many bytes come from the host, and are not held up by whatever else goes on.
fn assert_arrives(gateway: &Gateway, len: usize) {
    let mut command = gateway.ssh(&[QUICK], &[&format!("head -c {len} /dev/zero")]);
    let down = fs::File::create(gateway.path("down")).expect("a file");
    let mut child = command.stdout(down).stderr(Stdio::null()).spawn().expect("ssh starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().expect("its status").is_none() {
        if Instant::now() > deadline {
            child.kill().expect("it runs");
            panic!("it is held up\n{}", gateway.log());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let arrived = fs::metadata(gateway.path("down")).expect("a file").len();
    assert_eq!(arrived, len as u64, "{}", gateway.log());
}

#[test]
fn logins_of_one_user_go_on_over_one_connection() {
    proxied("", &[SHARE], |host, gateway| {
        let mut stays: Vec<Stay> =
            (0..6).map(|_| Stay::begin(gateway, &[], "echo in; cat")).collect();
        for stay in &mut stays {
            stay.hears("in\n", gateway);
        }
        // Files both ways, a command's end, a terminal and a forwarded connection beside them.
        let bytes = noise(3 << 20, 7);
        fs::write(gateway.path("big"), &bytes).expect("a file");
        let [big, down, up] = [gateway.path("big"), gateway.path("down"), host.path("up")]
            .map(|path| path.display().to_string());
        let output =
            gateway.sftp(&[QUICK, "RekeyLimit=1M"], &format!("put {big} {up}\nget {up} {down}\n"));
        assert!(output.status.success(), "{}", said(gateway, &output));
        assert!(fs::read(&down).expect("a copy") == bytes && fs::read(&up).expect("one") == bytes);
        let output = ssh(gateway, &["RequestTTY=force"], &["test -t 0 && exit 3"]);
        assert_eq!(output.status.code(), Some(3), "{}", said(gateway, &output));
        let to = format!("127.0.0.1:{}", host.port);
        let output = gateway.ssh(&[QUICK], &[]).args(["-W", &to]).output().expect("ssh starts");
        assert!(text(&output.stdout).starts_with("SSH-2.0-"), "{}", said(gateway, &output));
        for stay in &mut stays {
            stay.says("still here\n", gateway);
        }
        // One is killed: the host's end of it goes too, and the others are not concerned.
        drop(stays.pop().expect("one of them"));
        wait_for("its end at the host", || host.log().contains("Close session: user root"));
        for mut stay in stays {
            stay.says("and here\n", gateway);
            stay.ends(gateway);
        }
        let output = ssh(gateway, &[], &["echo later"]);
        assert_eq!(text(&output.stdout), "later\n", "{}", said(gateway, &output));
        assert_eq!(logins(host), 1, "{}\n{}", host.log(), gateway.log());
        gateway.tells(" over the connection of link ");
        assert!(!gateway.log().contains("internal error"), "{}", gateway.log());
    });
}

/// Without the setting none is shared; a connection is closed with its last login or a while later.
#[test]
fn connections_are_shared_where_that_is_asked_for_and_kept_as_long() {
    proxied("", &[], |host, gateway| {
        let stays: Vec<Stay> = (0..2).map(|_| Stay::start(gateway, &[])).collect();
        stays.into_iter().for_each(|stay| stay.ends(gateway));
        assert_eq!(logins(host), 2, "{}", host.log());
    });
    for kept in ["0", "1"] {
        proxied("", &[&format!("TidegateUpstreamShare {kept}")], |host, gateway| {
            let stays: Vec<Stay> = (0..2).map(|_| Stay::start(gateway, &[])).collect();
            stays.into_iter().for_each(|stay| stay.ends(gateway));
            assert_eq!(logins(host), 1, "{}", host.log());
            wait_for("the connection's end", || host.log().contains("no login goes on over it"));
        });
    }
}

/// SECURITY case 107: what a host opens goes to the client that has asked for it.
#[test]
fn case_107_what_is_one_clients_is_on_a_connection_of_its_own() {
    proxied("", &[SHARE], |host, gateway| {
        let agent = agent(gateway);
        let options = [&*agent.option(), "ForwardAgent=yes", "RequestTTY=force"];
        // A connection that nobody else has used need not be made again.
        let output = ssh(gateway, &options, &["ssh-add -l"]);
        assert!(text(&output.stdout).contains("ED25519"), "{}", said(gateway, &output));
        assert_eq!(logins(host), 1, "{}\n{}", host.log(), gateway.log());
        let mut plain = Stay::start(gateway, &[]);
        let output = ssh(gateway, &options, &["ssh-add -l; tty"]);
        let heard = text(&output.stdout);
        assert!(
            heard.contains("ED25519") && heard.contains("/dev/pts/"),
            "{}",
            said(gateway, &output)
        );
        assert_eq!(logins(host), 3, "{}\n{}", host.log(), gateway.log());
        // While one has an agent there, sessions of the others have none.
        let with_agent = Stay::start(gateway, &options[..2]);
        let output = ssh(gateway, &[], &["echo ${SSH_AUTH_SOCK-none}"]);
        assert_eq!(text(&output.stdout), "none\n", "{}", said(gateway, &output));
        let back = format!("RemoteForward=0 127.0.0.1:{}", gateway.port);
        let listens = Stay::start(gateway, &[&back]);
        assert_eq!(logins(host), 5, "{}\n{}", host.log(), gateway.log());
        plain.says("still here\n", gateway);
        [plain, with_agent, listens].into_iter().for_each(|stay| stay.ends(gateway));
    });
}

/// The host's MaxSessions is for a connection: further ones carry what is beyond it.
#[test]
fn sessions_beyond_what_a_connection_may_have_go_over_another() {
    proxied("Match all\nMaxSessions 2", &[SHARE], |host, gateway| {
        let mut stays: Vec<Stay> =
            (0..5).map(|_| Stay::begin(gateway, &[], "echo in; cat")).collect();
        for stay in &mut stays {
            stay.hears("in\n", gateway);
        }
        assert_eq!(logins(host), 3, "{}\n{}", host.log(), gateway.log());
        for mut stay in stays {
            stay.says("here\n", gateway);
            stay.ends(gateway);
        }
    });
    // A host that opens no session at all is not asked for ever.
    proxied("Match all\nMaxSessions 0", &[SHARE], |_, gateway| {
        let output = ssh(gateway, &["LogLevel=INFO"], &["true"]);
        assert_eq!(output.status.code(), Some(255), "{}", said(gateway, &output));
        assert!(text(&output.stderr).contains("open failed"), "{}", said(gateway, &output));
    });
}

#[test]
fn a_host_that_is_lost_is_one_clear_line_for_each_login() {
    proxied("", &[SHARE], |host, gateway| {
        let stays: Vec<Stay> = (0..3).map(|_| Stay::start(gateway, &[])).collect();
        assert_eq!(logins(host), 1, "{}", host.log());
        host.kill_sessions();
        for mut stay in stays {
            let output = stay.output();
            assert_eq!(output.status.code(), Some(255), "{}", said(gateway, &output));
            let line = text(&output.stderr);
            assert!(
                line.contains("the connection to 127.0.0.1 port "),
                "{line}\n{}",
                gateway.log()
            );
        }
        // The next one makes a new connection.
        Stay::start(gateway, &[]).ends(gateway);
        assert_eq!(logins(host), 2, "{}", host.log());
    });
    proxied("", &[SHARE], |host, gateway| {
        fs::write(host.path("authorized_keys"), "").expect("no keys");
        let stays: Vec<Stay> = (0..3).map(|_| Stay::begin(gateway, &[], "true")).collect();
        for mut stay in stays {
            let output = stay.output();
            let line = text(&output.stderr);
            assert!(line.contains(" does not let root in with the gateway's key"), "{line}");
        }
    });
}

/// R7: a client that reads nothing holds up no other on the same connection.
#[test]
fn r7_a_client_that_does_not_read_holds_up_no_other() {
    proxied("", &[SHARE], |host, gateway| {
        let mut slow: Vec<Stay> =
            ["cat /dev/zero", "yes"].map(|words| Stay::begin(gateway, &[], words)).into();
        for stay in &mut slow {
            stay.0.stdout.as_mut().expect("its output").read_exact(&mut [0]).expect("a byte");
        }
        assert_arrives(gateway, 4 << 20);
        let mut echo = Stay::start(gateway, &[]);
        echo.says("quick\n", gateway);
        echo.ends(gateway);
        assert_eq!(logins(host), 1, "{}", host.log());
    });
}

/// A gateway that is told to end waits for no login that could use a connection which is kept.
#[test]
fn what_is_kept_for_later_logins_ends_with_the_gateway() {
    let Some(host) = Host::start("") else { return };
    let mut gateway = host.gateway(&["TidegateUpstreamShare 1h", "TidegateDrainTime 1h"]);
    Stay::start(&gateway, &[]).ends(&gateway);
    let last = Stay::start(&gateway, &[]);
    run_ok(Command::new("kill").args(["-TERM", &gateway.child.id().to_string()]));
    wait_for("its farewell to new ones", || gateway.connect().is_err());
    last.ends(&gateway);
    let ended = || gateway.child.try_wait().expect("its status").is_some();
    wait_for("its end", ended);
    assert_eq!(logins(&host), 1, "{}", host.log());
}

/// The same of one whose channels are many: what it is granted on all of them is little enough to be
/// kept for it until it reads again.
#[test]
fn a_client_with_many_channels_may_stop_for_a_while() {
    const BYTES: usize = 1_500_000;
    proxied("", &[SHARE, "MaxSessions 40"], |host, gateway| {
        let control = format!("ControlPath={}", gateway.path("control").display());
        let mut master = gateway.ssh(&[QUICK, AES, &control, "ControlMaster=yes"], &[]);
        let mut master = master.arg("-N").spawn().expect("ssh starts");
        wait_for("the master", || gateway.path("control").exists());
        let mut all: Vec<Child> = (0..30)
            .map(|_| {
                let words = format!("echo in; read go; head -c {BYTES} /dev/zero");
                let mut command = gateway.ssh(&[&control], &[&words]);
                let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped());
                streams.spawn().expect("ssh starts")
            })
            .collect();
        for child in &mut all {
            child.stdout.as_mut().expect("its output").read_exact(&mut [0; 3]).expect("a session");
        }
        for child in &mut all {
            child.stdin.take().expect("its input").write_all(b"go\n").expect("a write");
        }
        // All of them send as far as they may.
        let mut echo = Stay::start(gateway, &[]);
        kill("-STOP", master.id());
        assert_arrives(gateway, 3_000_000);
        for _ in 0..20 {
            echo.says("quick\n", gateway);
        }
        echo.ends(gateway);
        kill("-CONT", master.id());
        for child in all {
            let output = child.wait_with_output().expect("an end");
            assert_eq!(output.stdout.len(), BYTES, "{}", said(gateway, &output));
        }
        assert_eq!(logins(host), 1, "{}", host.log());
        master.kill().expect("it runs");
        master.wait().expect("its end");
    });
}

/// A certificate is made for one login; those that it names in the host's log are of the same user, from
/// the same address and with the same key.
#[test]
fn certificates_are_shared_by_those_whom_they_name() {
    let Some(host) = Host::start("") else { return };
    keygen(&host.path("authority"), "ed25519", "");
    fs::write(host.path("authorized_keys"), "").expect("no keys");
    let trusted = format!("TrustedUserCAKeys {}", host.path("authority.pub").display());
    let trusting = Host::run(host.folder.path(), &trusted);
    let line = format!("[127.0.0.1]:{} {}", trusting.port, host.public());
    fs::write(host.path("known_hosts"), line).expect("known_hosts");
    let gateway = Gateway::start(&[
        SHARE,
        &format!("TidegateUpstream 127.0.0.1:{}", trusting.port),
        &format!("TidegateUpstreamCA {}", host.path("authority").display()),
        &host.settings()[2],
    ]);
    let mut stays: Vec<Stay> = (0..2).map(|_| Stay::start(&gateway, &[])).collect();
    assert_eq!(logins(&host), 1, "{}", host.log());
    let other = format!("IdentityFile={}", gateway.path("user_ecdsa256").display());
    stays.push(Stay::start(&gateway, &[&other]));
    assert_eq!(logins(&host), 2, "{}", host.log());
    stays.into_iter().for_each(|stay| stay.ends(&gateway));
}
