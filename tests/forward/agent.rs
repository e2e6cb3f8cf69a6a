//! The client's agent: `-A`.

use super::*;
use crate::support::openssh::Agent;

/// An agent of the client's with one key in it.
fn agent_of(gateway: &Gateway) -> Agent {
    let agent = Agent::start(gateway.path("agent"));
    agent.add(&gateway.path("user_ecdsa256"));
    agent
}

fn with_agent(gateway: &Gateway, port: u16, agent: &Agent, user: &str, words: &[&str]) -> Command {
    let own = agent.option();
    let mut options = vec![&*own, "ForwardAgent=yes"];
    let user = format!("User={user}");
    if user != "User=" {
        options.push(&user);
    }
    let mut command = client(gateway, port, &options);
    command.arg("127.0.0.1").args(words);
    command
}

const LIST: &str = "echo \"$SSH_AUTH_SOCK\"; ssh-add -l";

#[test]
fn programs_use_the_agent_and_its_socket_goes_with_the_connection() {
    let gateway = Gateway::start(&[]);
    let agent = agent_of(&gateway);
    let key = fs::read_to_string(gateway.path("user_ecdsa256.pub")).expect("a key");
    let mut log_in = with_agent(&gateway, gateway.port, &agent, "", &[LIST]);
    let output = run_ok(&mut log_in);
    let said = text(&output.stdout);
    let (socket, listed) = said.split_once('\n').expect("two lines");
    assert!(socket.starts_with("/tmp/ssh-"), "{said}");
    let print =
        run_ok(Command::new("ssh-keygen").arg("-lf").arg(gateway.path("user_ecdsa256.pub")));
    let print = text(&print.stdout);
    let print = print.split(' ').nth(1).expect("a fingerprint");
    assert!(listed.contains(print), "{said}\n{key}");
    let directory = Path::new(socket).parent().expect("a directory");
    wait_for("the socket to go", || !directory.exists());

    // It signs: a login from there to here, with no key but the agent's.
    let hop = format!(
        "ssh -F /dev/null -p {} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
         -o LogLevel=ERROR -o BatchMode=yes 127.0.0.1 'echo arrived; stat -c %a:%u \"$SSH_AUTH_SOCK\" || true'",
        gateway.port
    );
    let output = run_ok(&mut with_agent(&gateway, gateway.port, &agent, "", &[&hop]));
    assert!(text(&output.stdout).starts_with("arrived"), "{output:?}");
    gateway.tells("Forwarding agent-connection from /tmp/ssh-");
}

#[test]
fn every_session_of_a_connection_has_the_same_one() {
    let gateway = Gateway::start(&[]);
    let agent = agent_of(&gateway);
    let name = gateway.path("master").display().to_string();
    let mut master = with_agent(&gateway, gateway.port, &agent, "", &[]);
    let mut master = Background(
        master
            .args(["-M", "-S", &name, "echo $SSH_AUTH_SOCK; cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("ssh starts"),
    );
    let stdout = master.0.stdout.as_mut().expect("its output");
    let mut first = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut first).expect("a line");
    assert!(first.starts_with("/tmp/ssh-"), "{first}");
    for _ in 0..2 {
        let mut second = with_agent(&gateway, gateway.port, &agent, "", &[]);
        second.args(["-S", &name, "echo $SSH_AUTH_SOCK; ssh-add -l >&2"]);
        let output = run_ok(&mut second);
        assert_eq!(text(&output.stdout), first);
    }
}

#[test]
fn settings_and_keys_may_forbid_it() {
    let (gateway, ports) = with_blocks(
        &[],
        &["AllowAgentForwarding no".to_owned(), "DisableForwarding yes".to_owned()],
    );
    let agent = agent_of(&gateway);
    let has = |port: u16, options: &str| {
        allow(&gateway, options);
        let mut command = with_agent(&gateway, port, &agent, "", &["echo \"<$SSH_AUTH_SOCK>\""]);
        let said = text(&run_ok(&mut command).stdout);
        assert!(said == "<>\n" || said.starts_with("</tmp/ssh-"), "{said}");
        said != "<>\n"
    };
    assert!(has(gateway.port, ""));
    assert!(has(gateway.port, "no-port-forwarding"));
    assert!(has(gateway.port, "restrict,agent-forwarding"));
    assert!(!has(gateway.port, "restrict"));
    assert!(!has(gateway.port, "no-agent-forwarding"));
    assert!(!has(ports[0], ""));
    assert!(!has(ports[1], ""));
    gateway.tells("Refused the client's agent: AllowAgentForwarding, DisableForwarding or ");
}

#[test]
fn the_socket_is_the_accounts_own() {
    let Some(account) = Account::new() else { return };
    let gateway = Gateway::start(&[]);
    fs::set_permissions(gateway.folder.path(), Permissions::from_mode(0o755)).expect("a mode");
    let agent = agent_of(&gateway);
    let script = "stat -c %a:%U $SSH_AUTH_SOCK $(dirname $SSH_AUTH_SOCK); ssh-add -l | wc -l";
    let output = run_ok(&mut with_agent(&gateway, gateway.port, &agent, &account.name, &[script]));
    let name = &account.name;
    assert_eq!(text(&output.stdout), format!("600:{name}\n700:{name}\n1\n"));
}
