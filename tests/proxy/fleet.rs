//! Several hosts for one login, and the forms in which a file of known hosts names them.

use super::*;

/// A login whose session stays until its input ends, and the name of the host that it is at.
fn stay(gateway: &Gateway) -> (Child, String) {
    let mut command = gateway.ssh(&[QUICK], &["x"]);
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = streams.spawn().expect("ssh starts");
    let mut name = [0; 4];
    let heard = child.stdout.as_mut().expect("its output").read_exact(&mut name);
    heard.unwrap_or_else(|why| panic!("{why}\n{}", gateway.log()));
    (child, text(&name).trim_end().to_owned())
}

/// Those with the fewest connections come first, by turns where that is the same; one that is not there
/// is passed over.
#[test]
fn logins_are_shared_out_among_hosts() {
    shared_out("TidegateIsolation auto");
}

/// Where each login has a relay of its own, root's process knows what hosts have.
#[test]
fn logins_of_relays_of_their_own_are_shared_out_among_hosts() {
    if !nix::unistd::geteuid().is_root() {
        println!("not run: only root has rights to separate");
        return;
    }
    shared_out("TidegateIsolation per-connection");
}

fn shared_out(isolation: &str) {
    let (Some(one), Some(two)) = (Host::start(""), Host::start("")) else { return };
    let known = [&one, &two].map(|host| format!("[127.0.0.1]:{} {}", host.port, host.public()));
    fs::write(one.path("known_hosts"), known.join("")).expect("both");
    run_ok(Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(one.path("known_hosts")));
    let hashed = fs::read_to_string(one.path("known_hosts")).expect("the file");
    assert!(hashed.lines().all(|line| line.starts_with("|1|")), "{hashed}");
    fs::copy(one.path("authorized_keys"), two.path("authorized_keys")).expect("one key");
    for (host, name) in [(&one, "one"), (&two, "two")] {
        let line = fs::read_to_string(host.path("authorized_keys")).expect("a key");
        let line = format!("command=\"echo {name}; cat\" {line}");
        fs::write(host.path("authorized_keys"), line).expect("its keys");
    }
    let settings = one.settings();
    let upstream = format!("TidegateUpstream 127.0.0.1:{} 127.0.0.1:{}", one.port, two.port);
    let gateway = Gateway::start(&[isolation, &upstream, &settings[1], &settings[2]]);
    let end = |(mut child, name): (Child, String)| {
        drop(child.stdin.take());
        child.wait().expect("its end");
        name
    };
    // By turns: four one after the other are two each.
    let mut names: Vec<String> = (0..4).map(|_| end(stay(&gateway))).collect();
    names.sort();
    assert_eq!(names, ["one", "one", "two", "two"], "{}", gateway.log());
    // The fewest: beside one that stays, all others that stay make it even.
    let first = stay(&gateway);
    let second = stay(&gateway);
    assert_ne!(first.1, second.1, "{}", gateway.log());
    let (third, fourth) = (stay(&gateway), stay(&gateway));
    assert_ne!(third.1, fourth.1, "{}", gateway.log());
    // Two of one host leave: the next two go there.
    let (left, right) = if first.1 == third.1 { (first, third) } else { (first, fourth) };
    let name = left.1.clone();
    let ends = "Disconnected root from ";
    gateway.tells_times(ends, 4);
    assert_eq!((end(left), end(right)), (name.clone(), name.clone()));
    gateway.tells_times(ends, 6);
    wait_for("two relays, or one for all", || gateway.parts("relay").len() <= 2);
    let next = [stay(&gateway), stay(&gateway)];
    assert_eq!(
        next.each_ref().map(|(_, at)| at.clone()),
        [name.clone(), name],
        "{}",
        gateway.log()
    );
    // One is gone: everybody goes to the other.
    for session in next {
        end(session);
    }
    drop(two);
    for _ in 0..3 {
        assert_eq!(end(stay(&gateway)), "one", "{}", gateway.log());
    }
}
