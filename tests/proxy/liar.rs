//! Agents that break the rules, where a login goes on with the keys of the client's agent.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use super::agent::with_agent;
use super::settings::agent;
use super::{Host, said, ssh, text};
use crate::support::{Gateway, is_run_again, keygen, run_ok, wait_for};

/// What one answers to a request: bytes to send, or nothing ever.
enum Lie {
    Says(Vec<u8>),
    Leaves,
    Sleeps,
}

type Mind = fn(&Keys, u8) -> Lie;

/// The blobs of a key that the host takes, and of many that it does not.
struct Keys {
    good: Vec<u8>,
    others: Vec<Vec<u8>>,
}

const FAILURE: &[u8] = &[0, 0, 0, 1, 5];
const IDENTITIES: u8 = 11;
const SIGN: u8 = 13;

fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

fn list(keys: &[&[u8]]) -> Vec<u8> {
    let mut body = vec![12];
    body.extend((keys.len() as u32).to_be_bytes());
    for key in keys {
        body.extend(string(key));
        body.extend(string(b"lies"));
    }
    string(&body)
}

fn signature(raw: &[u8]) -> Vec<u8> {
    let blob = [string(b"ssh-ed25519"), string(raw)].concat();
    string(&[&[14], &*string(&blob)].concat())
}

/// Serves one client of an agent.
fn serve(mut stream: UnixStream, keys: &Keys, mind: Mind) {
    loop {
        let mut length = [0; 4];
        if stream.read_exact(&mut length).is_err() {
            return;
        }
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        if body.is_empty() || stream.read_exact(&mut body).is_err() {
            return;
        }
        match mind(keys, body[0]) {
            Lie::Says(bytes) => {
                if stream.write_all(&bytes).is_err() {
                    return;
                }
            }
            Lie::Leaves => return,
            Lie::Sleeps => {
                // Until the other end has gone.
                let _ = stream.read_exact(&mut [0]);
            }
        }
    }
}

/// An agent of this mind; where it listens.
fn liar(gateway: &Gateway, name: &str, mind: Mind) -> String {
    let path = gateway.path(name);
    let listener = UnixListener::bind(&path).expect("a socket");
    let blob = |file: &str| {
        let text = std::fs::read_to_string(gateway.path(file)).expect("a key");
        let base64 = text.split_whitespace().nth(1).expect("its blob").to_owned();
        decoded(&base64)
    };
    let good = blob("user_ed25519.pub");
    let others = (0..1000u32).map(|n| {
        let mut key = good.clone();
        let end = key.len();
        key[end - 4..].copy_from_slice(&n.to_be_bytes());
        key
    });
    let keys = Keys { others: others.collect(), good };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            serve(stream, &keys, mind);
        }
    });
    path.display().to_string()
}

fn decoded(base64: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut have) = (Vec::new(), 0u32, 0);
    for digit in base64.bytes().filter(|digit| *digit != b'=') {
        let value = DIGITS.iter().position(|one| *one == digit).expect("a digit");
        bits = (bits << 6) | value as u32;
        have += 6;
        if have >= 8 {
            have -= 8;
            bytes.push((bits >> have) as u8);
        }
    }
    bytes
}

/// The client hears this one line, the log has it once, and the gateway lives.
fn assert_found_out(gateway: &Gateway, name: &str, mind: Mind, line: &str) {
    let forwarded = format!("ForwardAgent={}", liar(gateway, name, mind));
    // The client has an honest one besides, or it would forward none.
    let own = format!("IdentityAgent={}", gateway.path("agent").display());
    let before = gateway.log().matches(line).count();
    let output = ssh(gateway, &[&own, &forwarded, "LogLevel=INFO"], &["true"]);
    assert_eq!(output.status.code(), Some(255), "{name}: {}", said(gateway, &output));
    let heard = text(&output.stderr);
    assert!(heard.contains(line), "{name}: {heard}\n{}", gateway.log());
    gateway.tells_times(line, before + 1);
    assert!(!gateway.log().contains("internal error"), "{name}: {}", gateway.log());
}

const ODD: &str = "your agent breaks the rules of its protocol";
const REFUSED: &str = " does not let root in with the keys of your agent";

/// SECURITY case 70: nothing that an agent says sizes anything, and nothing counts that it was not
/// asked for.
#[test]
fn case_70_agents_that_lie_are_found_out() {
    let Some(host) = Host::start("") else { return };
    let gateway = with_agent(&host, &[]);
    let _own = agent(&gateway);
    assert_found_out(&gateway, "huge", |_, _| Lie::Says(vec![0xff; 9]), ODD);
    let empty = |_: &Keys, asked: u8| match asked {
        IDENTITIES => Lie::Says(vec![0; 4]),
        _ => Lie::Says(FAILURE.to_vec()),
    };
    assert_found_out(&gateway, "empty", empty, ODD);
    let eager = |keys: &Keys, asked: u8| match asked {
        IDENTITIES => Lie::Says([list(&[&keys.good]), signature(&[7; 64])].concat()),
        _ => Lie::Says(FAILURE.to_vec()),
    };
    assert_found_out(&gateway, "eager", eager, ODD);
    let refusing = |keys: &Keys, asked: u8| match asked {
        IDENTITIES => Lie::Says([&*list(&[&keys.good]), FAILURE].concat()),
        _ => Lie::Says(FAILURE.to_vec()),
    };
    assert_found_out(&gateway, "refusing", refusing, ODD);
    let twice = |keys: &Keys, asked: u8| match asked {
        IDENTITIES => Lie::Says(list(&[&keys.good])),
        SIGN => Lie::Says(list(&[&keys.good])),
        _ => Lie::Says(FAILURE.to_vec()),
    };
    assert_found_out(&gateway, "twice", twice, ODD);
    let boasting = |_: &Keys, asked: u8| match asked {
        IDENTITIES => Lie::Says(string(&[12, 0xff, 0xff, 0xff, 0xff])),
        _ => Lie::Says(FAILURE.to_vec()),
    };
    assert_found_out(&gateway, "boasting", boasting, ODD);
    let leaving = |_: &Keys, asked: u8| match asked {
        IDENTITIES => Lie::Leaves,
        _ => Lie::Says(FAILURE.to_vec()),
    };
    assert_found_out(&gateway, "leaving", leaving, "your agent cannot be reached any more");
    let leaving_later = |keys: &Keys, asked: u8| match asked {
        IDENTITIES => Lie::Says(list(&[&keys.good])),
        SIGN => Lie::Leaves,
        _ => Lie::Says(FAILURE.to_vec()),
    };
    assert_found_out(&gateway, "later", leaving_later, "your agent cannot be reached any more");
    // A signature that is none, and one key after another that nobody knows.
    let forging = |keys: &Keys, asked: u8| match asked {
        IDENTITIES => Lie::Says(list(&[&keys.good])),
        SIGN => Lie::Says(signature(&[7; 64])),
        _ => Lie::Says(FAILURE.to_vec()),
    };
    assert_found_out(&gateway, "forging", forging, REFUSED);
    let many = |keys: &Keys, asked: u8| match asked {
        IDENTITIES => Lie::Says(list(&keys.others.iter().map(|key| &**key).collect::<Vec<_>>())),
        _ => Lie::Says(FAILURE.to_vec()),
    };
    let failed = || host.log().matches("Failed publickey").count();
    let before = failed();
    assert_found_out(&gateway, "many", many, REFUSED);
    assert!(failed() - before <= 5, "{}", host.log());
}

#[test]
fn agents_that_say_nothing_are_not_waited_for_for_ever() {
    if is_run_again() {
        return;
    }
    let Some(host) = Host::start("") else { return };
    let gateway = with_agent(&host, &[]);
    let _own = agent(&gateway);
    let silent = |_: &Keys, asked: u8| match asked {
        IDENTITIES => Lie::Sleeps,
        _ => Lie::Says(FAILURE.to_vec()),
    };
    let unwilling = |keys: &Keys, asked: u8| match asked {
        IDENTITIES => Lie::Says(list(&[&keys.good])),
        SIGN => Lie::Sleeps,
        _ => Lie::Says(FAILURE.to_vec()),
    };
    let unsigned =
        format!("your agent has not signed the login at 127.0.0.1 port {} within 30 s", host.port);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_found_out(&gateway, "silent", silent, "your agent does not answer");
        });
        assert_found_out(&gateway, "unwilling", unwilling, &unsigned);
    });
    let told = format!("Upstream 127.0.0.1 port {} for 127.0.0.1 port ", host.port);
    wait_for("the line of it", || {
        gateway.log().lines().any(|line| line.contains(&told) && line.contains(&unsigned))
    });
}

/// Keys that are bound to hosts (`ssh-add -h`) sign for the host behind the gateway and no other: the
/// agent is shown its proof.
#[test]
fn keys_that_are_bound_to_hosts_sign_for_those() {
    let Some(host) = Host::start("") else { return };
    let gateway = with_agent(&host, &[]);
    let agent = agent(&gateway);
    keygen(&gateway.path("elsewhere"), "ed25519", "");
    let read = |path| std::fs::read_to_string(path).expect("a key");
    let mut known = format!("up {}", host.public());
    known += &format!("elsewhere {}", read(gateway.path("elsewhere.pub")));
    for (kind, bits) in crate::support::HOST_KEYS {
        let key = read(gateway.path(&format!("host_{kind}{bits}.pub")));
        known += &format!("gate {key}");
    }
    std::fs::write(gateway.path("bound_hosts"), known).expect("a file");
    let own = format!("IdentityAgent={}", agent.socket);
    let with = |onward: &str| {
        let mut add = Command::new("ssh-add");
        run_ok(add.env("SSH_AUTH_SOCK", &agent.socket).args(["-q", "-D"]));
        let mut add = Command::new("ssh-add");
        add.env("SSH_AUTH_SOCK", &agent.socket).arg("-q");
        add.arg("-H").arg(gateway.path("bound_hosts"));
        add.args(["-h", "gate", "-h", onward]).arg(gateway.path("user_ed25519"));
        run_ok(&mut add);
        ssh(&gateway, &[&own, "ForwardAgent=yes", "LogLevel=INFO"], &["echo in"])
    };
    let output = with("gate>up");
    assert_eq!(text(&output.stdout), "in\n", "{}", said(&gateway, &output));
    let output = with("gate>elsewhere");
    assert_eq!(text(&output.stdout), "", "{}", said(&gateway, &output));
    assert!(text(&output.stderr).contains(REFUSED), "{}", said(&gateway, &output));
}
