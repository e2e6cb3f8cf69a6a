//! Settings of the gateway that hold for logins that go on elsewhere, each by itself.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Host, QUICK, proxied, said, ssh, text};
use crate::support::openssh::Agent;
use crate::support::{Gateway, run_ok, wait_for};

/// An agent of the client's with the gateway's user key in it.
pub fn agent(gateway: &Gateway) -> Agent {
    let agent = Agent::start(gateway.path("agent"));
    agent.add(&gateway.path("user_ed25519"));
    agent
}

/// What is not permitted does not reach the host, and the log says by which setting.
fn assert_refused(gateway: &Gateway, setting: &str) {
    gateway.tells(setting);
}

#[test]
fn variables_are_chosen_on_both_sides() {
    let set = "SetEnv=TIDE=high OTHER=x";
    proxied("", &["AcceptEnv TIDE*", "SetEnv GATE=yes"], |_, gateway| {
        let output = ssh(gateway, &[set], &["echo $TIDE-$OTHER-$GATE"]);
        assert_eq!(text(&output.stdout), "high--yes\n", "{}", said(gateway, &output));
    });
}

#[test]
fn agents_and_displays_are_passed_on_where_that_is_permitted() {
    proxied("", &["X11Forwarding no"], |_, gateway| {
        let agent = agent(gateway);
        let options = [&*agent.option(), "ForwardAgent=yes"];
        let output = ssh(gateway, &options, &["ssh-add -l"]);
        assert!(text(&output.stdout).contains("ED25519"), "{}", said(gateway, &output));
        let mut command = gateway.ssh(&[QUICK, "ForwardX11=yes"], &["echo ${DISPLAY-none}"]);
        let output = command.env("DISPLAY", "127.0.0.1:999").output().expect("ssh starts");
        assert_eq!(text(&output.stdout), "none\n", "{}", said(gateway, &output));
        assert_refused(gateway, "X11Forwarding, DisableForwarding or the key's options");
    });
    proxied("", &["AllowAgentForwarding no", "AllowTcpForwarding no"], |host, gateway| {
        let agent = agent(gateway);
        let options = [&*agent.option(), "ForwardAgent=yes"];
        let output = ssh(gateway, &options, &["echo ${SSH_AUTH_SOCK-none}"]);
        assert_eq!(text(&output.stdout), "none\n", "{}", said(gateway, &output));
        assert_refused(gateway, "AllowAgentForwarding, DisableForwarding or the key's options");
        let to = format!("127.0.0.1:{}", host.port);
        let output = gateway.ssh(&[QUICK], &[]).args(["-W", &to]).output().expect("ssh starts");
        assert_eq!(text(&output.stdout), "", "{}", said(gateway, &output));
        assert_refused(
            gateway,
            "forwarding is not permitted (AllowTcpForwarding, DisableForwarding, the key's options",
        );
    });
}

/// How long a client lives whose command waits for what does not come.
fn idle_client(gateway: &Gateway, words: &[&str]) -> Duration {
    let start = Instant::now();
    let mut command = gateway.ssh(&[QUICK], words);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    let mut child = child.expect("ssh starts");
    // Its input stays open until it has ended by itself.
    let input = child.stdin.take();
    child.wait().expect("an end");
    drop(input);
    start.elapsed()
}

#[test]
fn idle_channels_are_closed() {
    for line in ["ChannelTimeout session:command=2", "ChannelTimeout global=2"] {
        proxied("", &[line], |host, gateway| {
            let after = idle_client(gateway, &["echo busy; exec cat"]);
            assert!(after >= Duration::from_secs(2), "{}", gateway.log());
            assert!(after < Duration::from_secs(40), "{}", gateway.log());
            assert_refused(gateway, "closed after 2 s without traffic (ChannelTimeout)");
            // The host has heard of it.
            wait_for("its end", || host.log().contains("Disconnected from user root"));
            // What says something every second goes on.
            let script = "for n in 1 2 3 4; do echo $n; sleep 1; done";
            let output = ssh(gateway, &[], &[script]);
            assert_eq!(text(&output.stdout), "1\n2\n3\n4\n", "{}", said(gateway, &output));
        });
    }
}

#[test]
fn connections_without_channels_end() {
    proxied("", &["UnusedConnectionTimeout 2"], |host, gateway| {
        let mut command = gateway.ssh(&[QUICK, "LogLevel=INFO"], &[]);
        let output = command.arg("-N").output().expect("ssh starts");
        assert_eq!(output.status.code(), Some(255), "{}", said(gateway, &output));
        assert_refused(gateway, "UnusedConnectionTimeout");
        wait_for("its end", || host.log().contains("Disconnected from user root"));
        // One with a session lives on.
        let output = ssh(gateway, &[], &["sleep 3; echo in"]);
        assert_eq!(text(&output.stdout), "in\n", "{}", said(gateway, &output));
    });
}

#[test]
fn sessions_are_counted() {
    proxied("", &["MaxSessions 1"], |_, gateway| {
        let control = format!("ControlPath={}", gateway.path("control").display());
        let mut master = gateway.ssh(&[QUICK, &control, "ControlMaster=yes"], &["echo in; cat"]);
        let streams = master.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut master = streams.spawn().expect("ssh starts");
        let mut line = [0; 3];
        master.stdout.as_mut().expect("output").read_exact(&mut line).expect("a line");
        wait_for("the master", || gateway.path("control").exists());
        let output = gateway.ssh(&[&control, "LogLevel=INFO"], &["true"]).output();
        let output = output.expect("ssh starts");
        let heard = text(&output.stderr);
        assert!(heard.contains("Session open refused by peer"), "{}", said(gateway, &output));
        master.kill().expect("it runs");
        master.wait().expect("its end");
    });
}

/// `ss` shows a socket's class of service.
fn class_of(filter: &str) -> Option<String> {
    let arguments = ["-tinoH", "--tos", "state", "established", filter];
    let seen = text(&run_ok(Command::new("ss").args(arguments)).stdout);
    seen.split_whitespace().find_map(|word| word.strip_prefix("tos:")).map(str::to_owned)
}

#[test]
fn both_connections_are_marked() {
    if Command::new("ss").arg("-V").output().is_err() {
        println!("not run: ss (iproute2) is not installed");
        return;
    }
    let Some(host) = Host::start("") else { return };
    let gateway = host.gateway(&["IPQoS af21 le"]);
    for (tty, class) in [("RequestTTY=force", "0x48"), ("RequestTTY=no", "0x4")] {
        let mut command = gateway.ssh(&[QUICK, tty], &["echo ready; cat"]);
        let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = streams.spawn().expect("ssh starts");
        let mut line = [0; 5];
        child.stdout.as_mut().expect("output").read_exact(&mut line).expect("a line");
        for filter in
            [format!("( sport = :{} )", gateway.port), format!("( dport = :{} )", host.port)]
        {
            assert_eq!(class_of(&filter).as_deref(), Some(class), "{tty} {filter}");
        }
        let _ = child.kill();
        let _ = child.wait();
        let ours = format!("( dport = :{} )", host.port);
        wait_for("the connection to end", || class_of(&ours).is_none());
    }
}
