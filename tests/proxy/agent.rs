//! Logins that go on with the keys of the client's agent.

use std::fs;
use std::process::{Command, Stdio};

use super::settings::agent;
use super::{Host, QUICK, said, ssh, text};
use crate::support::{Gateway, keygen, noise, run_ok};

/// A host that lets the client's own key in, and a gateway that has none.
pub fn with_agent(host: &Host, lines: &[&str]) -> Gateway {
    let settings = host.settings();
    let all = [&[&*settings[0], &settings[2], "TidegateUpstreamAgent yes"], lines].concat();
    let gateway = Gateway::start(&all);
    fs::copy(gateway.path("user_ed25519.pub"), host.path("authorized_keys")).expect("its keys");
    gateway
}

#[test]
fn a_login_goes_on_with_the_keys_of_the_clients_agent() {
    let Some(host) = Host::start("") else { return };
    let gateway = with_agent(&host, &[]);
    let agent = agent(&gateway);
    let socket = agent.option();
    let forwarded = [&*socket, "ForwardAgent=yes"];
    let output = ssh(&gateway, &forwarded, &["echo in; echo err >&2; exit 7"]);
    assert_eq!(output.status.code(), Some(7), "{}", said(&gateway, &output));
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("in\n".into(), "err\n".into()));
    // What comes in before the host has opened its session is held, and nothing of it is lost.
    let bytes = noise(3_000_000, 5);
    let options = [&forwarded[..], &[QUICK]].concat();
    let mut command = gateway.ssh(&options, &["cat; ssh-add -l >&2"]);
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = streams.spawn().expect("ssh starts");
    let mut input = child.stdin.take().expect("its input");
    let output = std::thread::scope(|scope| {
        scope.spawn(|| std::io::Write::write_all(&mut input, &bytes).map(|()| drop(input)));
        child.wait_with_output().expect("an end")
    });
    assert!(output.stdout == bytes, "{} bytes\n{}", output.stdout.len(), gateway.log());
    assert!(text(&output.stderr).contains("ED25519"), "the agent is the session's too: {output:?}");
    let output = ssh(&gateway, &[&*socket, "ForwardAgent=yes", "RequestTTY=force"], &["tty"]);
    assert!(text(&output.stdout).contains("/dev/pts/"), "{}", said(&gateway, &output));

    // Without one, and with one that has the wrong keys.
    let refused = |options: &[&str], line: &str| {
        let output = ssh(&gateway, &[options, &["LogLevel=INFO"]].concat(), &["true"]);
        assert_eq!(output.status.code(), Some(255), "{}", said(&gateway, &output));
        let heard = text(&output.stderr);
        assert!(heard.contains(line), "{heard}\n{}", gateway.log());
    };
    refused(&[], "this login goes on with the keys of your agent, and none is forwarded");
    let with = |arguments: &[&str]| {
        let mut add = Command::new("ssh-add");
        run_ok(add.env("SSH_AUTH_SOCK", &agent.socket).arg("-q").args(arguments));
    };
    with(&["-D"]);
    refused(&forwarded, "your agent has no key that the gateway can use");
    keygen(&gateway.path("other"), "ed25519", "");
    with(&[&gateway.path("other").display().to_string()]);
    refused(&forwarded, " does not let root in with the keys of your agent");
    // A second key is tried after the first.
    with(&[&gateway.path("user_rsa3072").display().to_string()]);
    fs::copy(gateway.path("user_rsa3072.pub"), host.path("authorized_keys")).expect("its keys");
    let output = ssh(&gateway, &forwarded, &["echo rsa"]);
    assert_eq!(text(&output.stdout), "rsa\n", "{}", said(&gateway, &output));
    gateway.tells(" with the client's agent");
    assert!(!gateway.log().contains("internal error"), "{}", gateway.log());
}
