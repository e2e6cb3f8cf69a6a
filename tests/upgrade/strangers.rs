//! Clients that are not OpenSSH's, over an upgrade: their connections move as well.

use super::moving::Script;
use super::*;

fn is_here(command: &mut Command, package: &str) -> bool {
    let is_here = command.output().is_ok_and(|output| output.status.success());
    if !is_here {
        println!("not run: it takes {package}");
    }
    is_here
}

fn echoes_over_upgrades(site: &Site, command: Command) {
    let mut script = Script::start(command);
    for n in 0..2 {
        script.assert_echoes(&format!("{n}").repeat(20_000));
        site.moves();
    }
    // Enough for whoever changes keys by itself.
    (0..50).for_each(|n| script.assert_echoes(&format!("{n}").repeat(20_000)));
    script.finish(7);
}

const SCRIPT: &str = "echo runs; cat; exit 7";

#[test]
fn dropbear_moves() {
    if !is_here(Command::new("dbclient").arg("-V"), "dropbear-bin") {
        return;
    }
    let site = Site::new(&[]);
    let key = site.gateway.path("db_key");
    let mut convert = Command::new("dropbearconvert");
    convert.args(["openssh", "dropbear"]).arg(site.gateway.path("user_ed25519")).arg(&key);
    run_ok(&mut convert);
    let mut command = Command::new("dbclient");
    command.args(["-y", "-y", "-i"]).arg(key).args(["-p", &site.gateway.port.to_string()]);
    command.args(["-l", &site.user, "127.0.0.1", SCRIPT]).env("HOME", site.folder.path());
    echoes_over_upgrades(&site, command);
}

#[test]
fn putty_moves() {
    if !is_here(Command::new("plink").arg("-V"), "putty-tools") {
        return;
    }
    let site = Site::new(&[]);
    let (key, host) = (site.gateway.path("user.ppk"), site.gateway.path("host_ed25519.pub"));
    let mut convert = Command::new("puttygen");
    convert.arg(site.gateway.path("user_ed25519")).args(["-O", "private", "-o"]).arg(&key);
    run_ok(&mut convert);
    let line = run_ok(Command::new("ssh-keygen").arg("-lf").arg(host));
    let line = String::from_utf8_lossy(&line.stdout).into_owned();
    let fingerprint = line.split(' ').nth(1).expect("a fingerprint");
    let mut command = Command::new("plink");
    command.args(["-batch", "-hostkey", fingerprint, "-P", &site.gateway.port.to_string(), "-i"]);
    command.arg(key).arg(format!("{}@127.0.0.1", site.user)).arg(SCRIPT);
    command.env("HOME", site.folder.path());
    echoes_over_upgrades(&site, command);
}

const PARAMIKO: &str = r#"
import sys, paramiko
port, user, key, script = sys.argv[1:]
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect("127.0.0.1", int(port), user, key_filename=key, allow_agent=False, look_for_keys=False)
channel = client.get_transport().open_session()
channel.exec_command(script)
output = channel.makefile("rb")
def show():
    sys.stdout.buffer.write(output.readline())
    sys.stdout.flush()
show()
for line in sys.stdin.buffer:
    channel.sendall(line)
    show()
channel.shutdown_write()
sys.exit(channel.recv_exit_status())
"#;

#[test]
fn paramiko_moves() {
    if !is_here(Command::new("python3").args(["-c", "import paramiko"]), "python3-paramiko") {
        return;
    }
    let site = Site::new(&[]);
    let mut command = Command::new("python3");
    command.args(["-c", PARAMIKO, &site.gateway.port.to_string(), &site.user]);
    command.arg(site.gateway.path("user_ed25519")).arg(SCRIPT);
    echoes_over_upgrades(&site, command);
}
