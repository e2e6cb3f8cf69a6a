//! `-X` and `-Y`: an X server at a socket of this machine, which says whose cookie arrives, and a program
//! at the server that uses the display it was given. xauth is Debian's, or a script that takes its part.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::server::{Server, both, text};
use crate::support::{make_executable, run_ok, wait_for};

const COOKIE: &str = "000102030405060708090a0b0c0d0e0f";
const OTHER: &str = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";

/// Says what it was given, then for each word what the X server answers: `right` and `wrong` are cookies,
/// `pieces` is the right one bit by bit, `late` waits before.
const PROGRAM: &str = r#"
import os, socket, struct, subprocess, sys, time
display = os.environ.get("DISPLAY", "")
if not display: sys.exit("no display")
host, number = display.split(":")
entry = subprocess.run(["xauth", "list", display], capture_output=True, text=True).stdout.split()
print(entry[2], flush=True)
hello = struct.pack("<BxHHHHxx", 0x6c, 11, 0, 18, 16) + b"MIT-MAGIC-COOKIE-1\0\0"
for word in sys.argv[1:]:
    if word == "late": time.sleep(1.2)
    cookie = bytes(16) if word == "wrong" else bytes.fromhex(entry[2])
    stream = socket.create_connection((host, 6000 + int(number.split(".")[0])))
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    message = hello + cookie
    for at in (range(0, 48, 12) if word == "pieces" else [0]):
        stream.sendall(message[at:at + 12] if word == "pieces" else message)
        if word == "pieces": time.sleep(0.05)
    stream.settimeout(20)
    try:
        said = stream.makefile().read().strip()
    except ConnectionResetError:
        said = ""
    print(word, said, flush=True)
"#;

/// An X server; it ends with the test program.
struct Screen {
    number: u16,
    socket: PathBuf,
}

impl Screen {
    fn new() -> Screen {
        let folder = Path::new("/tmp/.X11-unix");
        if fs::create_dir(folder).is_ok() {
            fs::set_permissions(folder, Permissions::from_mode(0o1777)).expect("a mode");
        }
        let bind = |number| {
            let socket = folder.join(format!("X{number}"));
            let listener = UnixListener::bind(&socket).ok()?;
            Some((Screen { number, socket }, listener))
        };
        let (screen, listener) = (700..990).find_map(bind).expect("a free display");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || answer(stream));
            }
        });
        screen
    }

    fn display(&self) -> String {
        format!(":{}", self.number)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
    }
}

/// The cookie of a connection's first message, then the end.
fn answer(mut stream: UnixStream) {
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
    let mut setup = [0; 12 + 20 + 16];
    if stream.read_exact(&mut setup).is_ok() {
        let cookie: String = setup[32..].iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(stream, "{cookie}");
    }
}

/// What the program said, by line, and what the client did.
fn run(server: &Server, screen: &Screen, flags: &[&str], words: &str) -> (Vec<String>, String) {
    let path = server.path("program.py");
    fs::write(&path, PROGRAM).expect("the program");
    let mut command = server.login(&["LogLevel=VERBOSE"]);
    command.args(flags).arg("127.0.0.1").arg(format!("python3 {} {words}", path.display()));
    command.env("DISPLAY", screen.display());
    command.env("XAUTHORITY", server.path("client.Xauthority"));
    let output = command.output().expect("runs");
    let lines = text(&output.stdout).lines().map(str::to_owned).collect();
    (lines, text(&output.stderr))
}

/// Servers that forward X11; xauth writes to no file but the test's there.
fn displays(test: impl Fn(&Server, &Screen)) {
    let folder = tempfile::tempdir().expect("a folder");
    let own = format!("SetEnv XAUTHORITY={}", folder.path().join("Xauthority").display());
    both(&["X11Forwarding yes", "X11DisplayOffset 420", &own], |server| {
        test(server, &Screen::new());
    });
}

#[test]
fn programs_reach_our_x_server_with_its_cookie_and_no_other() {
    displays(|server, screen| {
        let mut xauth = Command::new("xauth");
        xauth.arg("-f").arg(server.path("client.Xauthority"));
        xauth.args(["add", &screen.display(), "MIT-MAGIC-COOKIE-1", COOKIE]);
        run_ok(xauth.stderr(Stdio::null()));
        let (lines, said) = run(server, screen, &["-Y"], "right wrong pieces right");
        assert_ne!(lines.first().map(String::as_str), Some(COOKIE), "{said}");
        let right = format!("right {COOKIE}");
        let expected = [&right, "wrong ", &format!("pieces {COOKIE}"), &right];
        assert_eq!(lines.get(1..), Some(&expected.map(str::to_owned)[..]), "{said}");
        assert!(said.contains("it has another cookie than it was told"), "{said}");
        // Not asked for, and asked for where there is nothing to lend.
        let (lines, said) = run(server, screen, &[], "right");
        assert!(lines.is_empty() && said.contains("no display"), "{lines:?} {said}");
        let mut command = server.login(&["ForwardX11=yes", "ForwardX11Trusted=yes"]);
        command.args(["127.0.0.1", "echo \"<$DISPLAY>\""]).env("DISPLAY", "not a display");
        let output = command.output().expect("runs");
        assert_eq!(text(&output.stdout), "<>\n");
        assert!(text(&output.stderr).contains("invalid; disabling X11 forwarding"));
        // Without xauth the server judges for itself.
        let (lines, said) = run(server, screen, &["-Y", "-o", "XAuthLocation=none"], "right");
        assert!(said.contains("using fake authentication data"), "{said}");
        let [fake, answer] = lines.as_slice() else { panic!("{lines:?} {said}") };
        assert!(answer.len() == 6 + 32 && !answer.contains(fake), "{fake} {answer}");
    });
}

#[test]
fn untrusted_programs_have_a_cookie_of_the_servers_for_a_time() {
    displays(|server, screen| {
        let script = server.path("xauth");
        let told = server.path("told");
        let text = format!(
            "#!/bin/sh\necho \"$*\" >>{0}\ncase \"$*\" in\n\
             *generate*) [ -e {0}.fails ] && exit 1; echo x >\"$2\";;\n\
             *list*) cat \"$2\" >/dev/null && echo \"here:1  MIT-MAGIC-COOKIE-1  {OTHER}\";;\nesac\n",
            told.display()
        );
        fs::write(&script, text).expect("a script");
        make_executable(&script);
        let location = format!("XAuthLocation={}", script.display());
        let (lines, said) = run(server, screen, &["-X", "-o", &location], "right");
        assert_eq!(lines.get(1), Some(&format!("right {OTHER}")), "{said}");
        let orders = fs::read_to_string(&told).expect("what the script was told");
        let orders: Vec<&str> = orders.lines().collect();
        let display = screen.display();
        let [generate, list] = orders.as_slice() else { panic!("{orders:?}") };
        let end = format!(" generate {display} MIT-MAGIC-COOKIE-1 untrusted timeout 1260");
        assert!(generate.starts_with("-f ") && generate.ends_with(&end), "{generate}");
        assert!(list.ends_with(&format!("xauthfile list {display}")), "{list}");
        let file = generate.split(' ').nth(1).expect("a file");
        assert!(!Path::new(file).parent().expect("a folder").exists(), "{file}");
        let flags = ["-X", "-o", &location, "-o", "ForwardX11Timeout=1"];
        let (lines, said) = run(server, screen, &flags, "late");
        assert_eq!(lines.get(1).map(String::as_str), Some("late "), "{said}");
        assert!(said.contains("after ForwardX11Timeout expired"), "{said}");
        // No cookie of the user's own takes the place of one that cannot be made.
        fs::write(format!("{}.fails", told.display()), "").expect("a file");
        let (lines, said) = run(server, screen, &flags[..3], "right");
        assert!(
            lines.is_empty() && said.contains("untrusted X11 forwarding setup failed"),
            "{said}"
        );
    });
}

/// Xvfb, which ends with the test.
struct Xvfb {
    child: Child,
    display: String,
    cookies: PathBuf,
}

impl Xvfb {
    /// `None`, and a line that says so, where Debian's xvfb or x11-utils is not installed.
    fn start(server: &Server) -> Option<Xvfb> {
        if !["/usr/bin/Xvfb", "/usr/bin/xdpyinfo"].iter().all(|path| Path::new(path).exists()) {
            assert!(std::env::var_os("TIDEGATE_ALL_CLIENTS").is_none(), "no Xvfb or no xdpyinfo");
            println!("not run: no Xvfb or no xdpyinfo here");
            return None;
        }
        // It takes the first display that is free, and says which.
        let (cookies, number) = (server.path("screen.Xauthority"), server.path("number"));
        let told = fs::File::create(&number).expect("a file");
        let mut xauth = Command::new("xauth");
        // Its own looks at the cookie alone.
        run_ok(
            xauth.arg("-f").arg(&cookies).args(["add", ":0", ".", COOKIE]).stderr(Stdio::null()),
        );
        let mut command = Command::new("/usr/bin/Xvfb");
        command.args(["-displayfd", "1", "-nolisten", "tcp", "-noreset", "+extension", "SECURITY"]);
        command.arg("-auth").arg(&cookies).stdin(Stdio::null()).stdout(told).stderr(Stdio::null());
        let child = command.spawn().expect("Xvfb starts");
        let mut xvfb = Xvfb { child, display: String::new(), cookies };
        wait_for("Xvfb's display", || {
            let told = fs::read_to_string(&number).expect("a file");
            xvfb.display = format!(":{}", told.trim());
            told.ends_with('\n')
        });
        let mut xauth = Command::new("xauth");
        xauth.arg("-f").arg(server.path("client.Xauthority"));
        run_ok(xauth.args(["add", &xvfb.display, ".", COOKIE]).stderr(Stdio::null()));
        assert!(xvfb.cookies.exists());
        Some(xvfb)
    }
}

impl Drop for Xvfb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A real X server and a real program: it sees all of the server with `-Y`, a part of it with `-X`, nothing of
/// it once the time for that is over, and nothing with a cookie that is not the one it was given.
#[test]
fn a_real_program_sees_a_real_x_server_as_far_as_it_is_trusted() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = format!("SetEnv XAUTHORITY={}", folder.path().join("Xauthority").display());
    both(&["X11Forwarding yes", "X11DisplayOffset 420", &own], |server| {
        let Some(xvfb) = Xvfb::start(server) else { return };
        let run = |flags: &[&str], script: &str| {
            let mut command = server.login(&["LogLevel=VERBOSE"]);
            command.args(flags).args(["127.0.0.1", script]).env("DISPLAY", &xvfb.display);
            command.env("XAUTHORITY", server.path("client.Xauthority"));
            let output = command.output().expect("runs");
            (text(&output.stdout), text(&output.stderr))
        };
        let count = |shown: &str| {
            let line = shown.lines().find(|line| line.starts_with("number of extensions"));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<u32>().ok())
        };
        let (shown, said) = run(&["-Y"], "xdpyinfo");
        let all = count(&shown);
        assert!(
            shown.contains("name of display:    localhost:4") && all.is_some(),
            "{shown}{said}"
        );
        let (shown, said) = run(&["-X"], "xdpyinfo");
        let some = count(&shown);
        assert!(some.is_some() && some < all, "{shown}{said}");
        // What is to be in time takes a busy machine longer than a second.
        let late = |seconds: u32| {
            let timeout = format!("ForwardX11Timeout={seconds}");
            let script = "xdpyinfo >/dev/null && echo in time && sleep";
            run(&["-X", "-o", &timeout], &format!("{script} {seconds}.2 && xdpyinfo 2>&1"))
        };
        let tries = [1, 8, 30].into_iter().map(late).inspect(|(shown, said)| {
            println!("{shown}{said}");
        });
        let in_time = { tries }.find(|(shown, _)| shown.starts_with("in time\n"));
        let (shown, said) = in_time.expect("a cookie that counts for a time");
        assert!(shown.contains("unable to open"), "{shown}{said}");
        assert!(said.contains("after ForwardX11Timeout expired"), "{said}");
        let forged = format!(
            "xauth -f {0} add $DISPLAY . {OTHER} 2>/dev/null; XAUTHORITY={0} xdpyinfo 2>&1",
            folder.path().join("forged").display()
        );
        let (shown, said) = run(&["-Y"], &forged);
        assert!(shown.contains("unable to open display"), "{shown}{said}");
        assert!(said.contains("it has another cookie than it was told"), "{said}");
    });
}
