//! Programs that go over ssh, through the proxy: rsync, git, scp, the agent, X11, dropbear and PuTTY.

use std::fs::File;

use super::settings::agent;
use super::*;
use crate::support::display::{assert_half_closes, openssh, putty};

/// OpenSSH's client as other programs are told to start it.
fn transport(gateway: &Gateway) -> String {
    let command = gateway.client(Path::new("ssh"), &[QUICK]);
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    std::iter::once("ssh".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

#[test]
fn rsync_git_and_scp_work_at_the_host() {
    proxied("", &[], |host, gateway| {
        let ssh = transport(gateway);
        let (here, there) = (gateway.path("tree"), host.path("tree"));
        fs::create_dir_all(here.join("deep/er")).expect("a folder");
        fs::write(here.join("deep/er/last"), "").expect("a file");
        for n in 0..40 {
            fs::write(here.join(format!("deep/f{n}")), noise(n * 700, n as u64)).expect("a file");
        }
        let target = |path: &Path| format!("127.0.0.1:{}", path.display());
        let same = |one: &Path, other: &Path| {
            run_ok(Command::new("diff").arg("-r").args([one, other]));
        };

        let rsync = |from: &str, to: &str| {
            run_ok(Command::new("rsync").args(["-a", "-e", &ssh, from, to]));
        };
        rsync(&format!("{}/", here.display()), &target(&there));
        same(&here, &there);
        fs::write(there.join("deep/f7"), "another").expect("a file");
        rsync(&format!("{}/", target(&there)), &here.display().to_string());
        same(&here, &there);

        let git = |at: &Path, words: &[&str]| {
            let who = ["-c", "user.name=a", "-c", "user.email=a@example.org"];
            let mut command = Command::new("git");
            command.arg("-C").arg(at).args(who).args(words).env("GIT_SSH_COMMAND", &ssh);
            run_ok(&mut command);
        };
        let bare = host.path("bare.git");
        run_ok(Command::new("git").args(["init", "-q", "--bare"]).arg(&bare));
        git(&here, &["init", "-q", "-b", "main"]);
        git(&here, &["add", "."]);
        git(&here, &["commit", "-q", "-m", "all of it"]);
        let url = format!("ssh://127.0.0.1{}", bare.display());
        git(&here, &["push", "-q", &url, "main"]);
        git(gateway.path(".").as_path(), &["clone", "-q", "-b", "main", &url, "clone"]);
        same(&here.join("deep"), &gateway.path("clone/deep"));

        for old in [false, true] {
            let (up, down) = (host.path(&format!("up{old}")), gateway.path(&format!("down{old}")));
            for (from, to) in [
                (here.join("deep").display().to_string(), target(&up)),
                (target(&up), down.display().to_string()),
            ] {
                let mut scp = gateway.client(Path::new("scp"), &[QUICK]);
                run_ok(
                    scp.args(if old { &["-O", "-r", "-q"][..] } else { &["-r", "-q"] })
                        .args([from, to]),
                );
            }
            same(&here.join("deep"), &down);
        }
    });
}

#[test]
fn the_agent_and_displays_are_the_clients() {
    proxied("X11Forwarding yes\nX11DisplayOffset 40", &["X11Forwarding yes"], |_, gateway| {
        let agent = agent(gateway);
        let output = ssh(gateway, &[&agent.option(), "ForwardAgent=yes"], &["ssh-add -l"]);
        assert!(text(&output.stdout).contains("256 SHA256:"), "{}", said(gateway, &output));
        drop(agent);

        // An X server that says one line; the program at the host reaches it by its display.
        let (number, listener) = (700..990)
            .find_map(|n| Some((n, TcpListener::bind((Ipv4Addr::LOCALHOST, 6000 + n)).ok()?)))
            .expect("a free display");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a program");
            let mut setup = [0; 48];
            stream.read_exact(&mut setup).expect("its first words");
            stream.write_all(b"a display\n").expect("room");
            setup[32..].to_vec()
        });
        let (display, authority) = (format!("127.0.0.1:{number}.0"), gateway.path("Xauthority"));
        let cookie = "000102030405060708090a0b0c0d0e0f";
        let mut xauth = Command::new("xauth");
        xauth.arg("-f").arg(&authority).args(["add", &display, "MIT-MAGIC-COOKIE-1", cookie]);
        run_ok(xauth.stderr(Stdio::null()));
        let program = r#"
import os, socket, struct, subprocess
display = os.environ["DISPLAY"]
host, number = display.split(":")
entry = subprocess.run(["xauth", "list", display], capture_output=True, text=True).stdout.split()
stream = socket.create_connection((host, 6000 + int(number.split(".")[0])))
setup = struct.pack("<BxHHHHxx", 0x6c, 11, 0, 18, 16) + b"MIT-MAGIC-COOKIE-1\0\0"
stream.sendall(setup + bytes.fromhex(entry[2]))
print(stream.makefile().readline().strip())
"#;
        fs::write(gateway.path("program.py"), program).expect("a program");
        let words = format!("python3 {}", gateway.path("program.py").display());
        let options = [QUICK, "ForwardX11=yes", "ForwardX11Trusted=yes"];
        let mut command = gateway.ssh(&options, &[&words]);
        command.env("DISPLAY", &display).env("XAUTHORITY", &authority);
        let output = command.output().expect("ssh starts");
        assert_eq!(text(&output.stdout), "a display\n", "{}", said(gateway, &output));
        assert_eq!(server.join().expect("no panic"), (0..16).collect::<Vec<u8>>());
    });
}

#[test]
fn dropbear_and_putty_move_files_by_sftp() {
    proxied("", &[], |host, gateway| {
        for program in ["dbclient", "psftp"] {
            if Command::new(program).arg("-V").output().is_err() {
                println!("not run: no {program} here");
                return;
            }
        }
        let bytes = noise(3 << 20, 9);
        fs::write(gateway.path("big"), &bytes).expect("a file");
        let key = gateway.path("dropbear_key");
        let mut convert = Command::new("dropbearconvert");
        run_ok(convert.args(["openssh", "dropbear"]).arg(gateway.path("user_ecdsa256")).arg(&key));
        let script = format!(
            "#!/bin/sh\nexec dbclient -y -y -p {} -i {} root@127.0.0.1 -s sftp\n",
            gateway.port,
            key.display()
        );
        fs::write(gateway.path("dropbear.sh"), script).expect("a script");
        support::make_executable(&gateway.path("dropbear.sh"));
        let moves = |up: &Path, down: &Path| {
            format!(
                "put {} {}\nget {1} {}\n",
                gateway.path("big").display(),
                up.display(),
                down.display()
            )
        };
        let (up, down) = (host.path("up1"), gateway.path("down1"));
        fs::write(gateway.path("batch1"), moves(&up, &down)).expect("a batch");
        let mut sftp = Command::new("sftp");
        sftp.arg("-S").arg(gateway.path("dropbear.sh")).arg("-b").arg(gateway.path("batch1"));
        let output = sftp.arg("127.0.0.1").stdin(Stdio::null()).output().expect("sftp starts");
        assert!(output.status.success(), "{}", said(gateway, &output));
        assert!(fs::read(&up).expect("a copy") == bytes && fs::read(&down).expect("one") == bytes);

        let (ppk, user) = (gateway.path("user.ppk"), gateway.path("user_ed25519"));
        run_ok(Command::new("puttygen").arg(&user).args(["-O", "private", "-o"]).arg(&ppk));
        let mut print = Command::new("ssh-keygen");
        print.arg("-lf").arg(gateway.path("host_ed25519.pub"));
        let print = text(&run_ok(&mut print).stdout);
        let (up, down) = (host.path("up2"), gateway.path("down2"));
        fs::write(gateway.path("batch2"), moves(&up, &down)).expect("a batch");
        let mut psftp = Command::new("psftp");
        psftp.args(["-batch", "-P", &gateway.port.to_string()]);
        psftp.args(["-hostkey", print.split(' ').nth(1).expect("it"), "-i"]).arg(&ppk).arg("-b");
        let output =
            psftp.arg(gateway.path("batch2")).arg("root@127.0.0.1").stdin(Stdio::null()).output();
        let output = output.expect("psftp starts");
        assert!(output.status.success(), "{}", said(gateway, &output));
        assert!(fs::read(&up).expect("a copy") == bytes && fs::read(&down).expect("one") == bytes);
    });
}

/// `TIDEGATE_PROXY_MIB=4096` moves as much, and tells what the copies hash to.
#[test]
fn a_large_file_arrives_with_new_keys_on_both_sides() {
    let mebibytes = std::env::var("TIDEGATE_PROXY_MIB").ok().and_then(|text| text.parse().ok());
    let limit = format!("RekeyLimit {}M", if mebibytes.is_some() { 16 } else { 4 });
    proxied(&limit, &[&limit], |host, gateway| {
        let (big, up, down) = (gateway.path("big"), host.path("up"), gateway.path("down"));
        let piece = noise(1 << 20, 5);
        let mut file = File::create(&big).expect("a file");
        for _ in 0..mebibytes.unwrap_or(16) {
            file.write_all(&piece).expect("room");
        }
        drop(file);
        let [from, there, back] = [&big, &up, &down].map(|path| path.display().to_string());
        let option = limit.replace(' ', "=");
        for (what, copy) in
            [(format!("put {from} {there}\n"), &up), (format!("get {there} {back}\n"), &down)]
        {
            let output = gateway.sftp(&[QUICK, AES, &option], &what);
            assert!(output.status.success(), "{}", said(gateway, &output));
            let (wanted, hash) = (support::sha256(&big), support::sha256(copy));
            assert_eq!(hash, wanted, "{what}");
            println!("{} MiB: {hash} {what}", mebibytes.unwrap_or(16));
        }
        // Each connection of each of the two logins tells its own.
        let rekeyed = gateway.tells_times("Rekeyed: ", 4).matches("Rekeyed: ").count();
        println!("new keys, as the gateway's log has it: {rekeyed} times");
    });
}

#[test]
fn a_transfer_whose_host_dies_ends_with_one_line() {
    proxied("", &[], |host, gateway| {
        let from = host.path("endless");
        File::create(&from).and_then(|file| file.set_len(8 << 30)).expect("a sparse file");
        let mut sftp = gateway.client(Path::new("sftp"), &[QUICK, AES]);
        fs::write(gateway.path("batch"), format!("get {} /dev/null\n", from.display()))
            .expect("it");
        sftp.arg("-b").arg(gateway.path("batch")).arg("127.0.0.1");
        let child = sftp.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("sftp starts");
        gateway.tells("subsystem sftp");
        host.kill_sessions();
        let output = child.wait_with_output().expect("an end");
        let line = text(&output.stderr);
        assert!(!output.status.success());
        assert!(line.contains("the connection to 127.0.0.1 port "), "{line}\n{}", gateway.log());
        let output = ssh(gateway, &[], &["echo in"]);
        assert_eq!(text(&output.stdout), "in\n", "{}", said(gateway, &output));
    });
}

#[test]
fn each_direction_of_a_display_ends_on_its_own() {
    let lines = "X11Forwarding yes\nX11DisplayOffset 380";
    proxied(lines, &["X11Forwarding yes"], |_, gateway| {
        assert_half_closes(gateway, openssh(gateway, &[QUICK]), false);
        if let Some(client) = putty(gateway) {
            assert_half_closes(gateway, client, true);
        }
    });
}
