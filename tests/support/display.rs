//! An X server that says little, for programs that use a forwarded display.
#![allow(clippy::disallowed_methods, reason = "tests need no named threads")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Gateway, run_ok};

/// What a program has said before it was done.
const WORDS: usize = 100_000;

/// The program is done first and reads on; then, on a second connection, the server is, and the program
/// goes on to speak.
const PROGRAM: &str = r#"
import os, socket, struct, subprocess
display = os.environ["DISPLAY"]
host, number = display.split(":")
entry = subprocess.run(["xauth", "list", display], capture_output=True, text=True).stdout.split()
hello = struct.pack("<BxHHHHxx", 0x6c, 11, 0, 18, 16) + b"MIT-MAGIC-COOKIE-1\0\0"
def connect():
    stream = socket.create_connection((host, 6000 + int(number.split(".")[0])))
    stream.settimeout(30)
    stream.sendall(hello + bytes.fromhex(entry[2]))
    return stream
first = connect()
first.sendall(b"x" * 100000)
first.shutdown(socket.SHUT_WR)
print(len(first.makefile("rb").read()))
second = connect()
print(len(second.makefile("rb").read()))
second.sendall(b"x" * 100000)
second.close()
"#;

/// Each direction of a display's connection ends on its own, for a client that does not end both by
/// itself: OpenSSH's closes what the X server sends when the program has ended its own direction
/// ("FORCE input drain").
pub fn assert_half_closes(gateway: &Gateway, client: impl FnOnce(&str) -> Command, both: bool) {
    let (number, listener) = (700..990)
        .find_map(|n| Some((n, TcpListener::bind((Ipv4Addr::LOCALHOST, 6000 + n)).ok()?)))
        .expect("a free display");
    let server = std::thread::spawn(move || serve(&listener));
    let (display, authority) = (format!("127.0.0.1:{number}.0"), gateway.path("own.Xauthority"));
    let cookie = "000102030405060708090a0b0c0d0e0f";
    let mut xauth = Command::new("xauth");
    xauth.arg("-f").arg(&authority).args(["add", &display, "MIT-MAGIC-COOKIE-1", cookie]);
    run_ok(xauth.stderr(Stdio::null()));
    fs::write(gateway.path("halves.py"), PROGRAM).expect("a program");
    let words = format!("python3 {}", gateway.path("halves.py").display());
    let mut command = client(&words);
    command.env("DISPLAY", &display).env("XAUTHORITY", &authority).stdin(Stdio::null());
    let output = command.output().expect("ssh starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = if both { WORDS } else { 0 };
    assert_eq!(said, format!("{first}\n{WORDS}\n"), "{output:?}\n{}", gateway.log());
    assert_eq!(server.join().expect("no panic"), [WORDS, WORDS]);
}

/// What came on each of two connections.
fn serve(listener: &TcpListener) -> [usize; 2] {
    let begin = || {
        let (mut stream, _) = listener.accept().expect("a program");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
        stream.read_exact(&mut [0; 48]).expect("its first words");
        stream
    };
    let rest = |stream: &mut TcpStream| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("the end");
        bytes.len()
    };
    let mut first = begin();
    let heard = rest(&mut first);
    first.write_all(&[b'y'; WORDS]).expect("room");
    drop(first);
    let mut second = begin();
    second.write_all(&[b'y'; WORDS]).expect("room");
    second.shutdown(Shutdown::Write).expect("a half-close");
    [heard, rest(&mut second)]
}

/// `ssh -Y`.
pub fn openssh<'a>(gateway: &'a Gateway, options: &'a [&str]) -> impl FnOnce(&str) -> Command + 'a {
    move |words| {
        let all = [&["ForwardX11=yes", "ForwardX11Trusted=yes"], options].concat();
        gateway.ssh(&all, &[words])
    }
}

/// `plink -X`; its key and the gateway's are converted first. `None` without PuTTY.
pub fn putty(gateway: &Gateway) -> Option<impl FnOnce(&str) -> Command> {
    if Command::new("plink").arg("-V").output().is_err() {
        println!("not run: no plink here");
        return None;
    }
    let ppk = gateway.path("display.ppk");
    let user = gateway.path("user_ed25519");
    run_ok(Command::new("puttygen").arg(user).args(["-O", "private", "-o"]).arg(&ppk));
    let mut print = Command::new("ssh-keygen");
    let print = run_ok(print.arg("-lf").arg(gateway.path("host_ed25519.pub")));
    let print = String::from_utf8_lossy(&print.stdout).into_owned();
    let port = gateway.port.to_string();
    Some(move |words: &str| {
        let mut command = Command::new("plink");
        command.args(["-batch", "-X", "-P", &port, "-hostkey"]);
        command.arg(print.split(' ').nth(1).expect("it")).arg("-i").arg(ppk);
        command.args(["root@127.0.0.1", words]);
        command
    })
}
