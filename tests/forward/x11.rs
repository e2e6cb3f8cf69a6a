//! The client's X server: `-X`. The X server and its program are ours and speak as much as it takes to
//! see whose cookie arrives; ssh and xauth are Debian's.

use super::*;
use crate::support::display::{assert_half_closes, openssh, putty};

const COOKIE: &str = "000102030405060708090a0b0c0d0e0f";

/// Says where it was sent, then what the X server answers to its cookie.
const PROGRAM: &str = r#"
import os, socket, struct, subprocess, sys
display = os.environ.get("DISPLAY", "")
print(display, flush=True)
if not display: sys.exit()
host, number = display.split(":")
number = number.split(".")[0]
entry = subprocess.run(["xauth", "list", display], capture_output=True, text=True).stdout.split()
cookie = bytes.fromhex(entry[2])
print(entry[0], cookie.hex(), flush=True)
stream = socket.create_connection((host, 6000 + int(number)))
stream.sendall(struct.pack("<BxHHHHxx", 0x6c, 11, 0, 18, 16) + b"MIT-MAGIC-COOKIE-1\0\0" + cookie)
print(stream.makefile().read().strip(), flush=True)
"#;

/// An X server at a display of its own, and what clients need to find it.
struct Server {
    display: String,
    authority: std::path::PathBuf,
}

impl Server {
    fn new(gateway: &Gateway) -> Server {
        let (number, listener) = (700..990)
            .find_map(|n| Some((n, TcpListener::bind((Ipv4Addr::LOCALHOST, 6000 + n)).ok()?)))
            .expect("a free display");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || answer(stream));
            }
        });
        let display = format!("127.0.0.1:{number}.0");
        let authority = gateway.path("client.Xauthority");
        let mut xauth = Command::new("xauth");
        xauth.arg("-f").arg(&authority).args(["add", &display, "MIT-MAGIC-COOKIE-1", COOKIE]);
        run_ok(xauth.stderr(Stdio::null()));
        Server { display, authority }
    }
}

/// The cookie of a connection's first message, then the end.
fn answer(mut stream: TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
    let mut setup = [0; 12 + 20 + 16];
    let whole = stream.read_exact(&mut setup).is_ok();
    let cookie: String = setup[32..].iter().map(|byte| format!("{byte:02x}")).collect();
    let _ = writeln!(stream, "{whole} {cookie}");
}

fn with_server(
    gateway: &Gateway,
    port: u16,
    server: &Server,
    user: &str,
    words: &[&str],
) -> Command {
    let mut options = vec!["ForwardX11=yes", "ForwardX11Trusted=yes", "LogLevel=INFO"];
    let user = format!("User={user}");
    if user != "User=" {
        options.push(&user);
    }
    let mut command = client(gateway, port, &options);
    command.arg("127.0.0.1").args(words);
    command.env("DISPLAY", &server.display).env("XAUTHORITY", &server.authority);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The program's three lines.
fn shown(output: &Output, gateway: &Gateway) -> [String; 3] {
    let said = text(&output.stdout);
    let lines: Vec<String> = said.lines().map(str::to_owned).collect();
    let failed = |_| panic!("{said}\n{}\n{}", text(&output.stderr), gateway.log());
    lines.try_into().unwrap_or_else(failed)
}

fn number(display: &str) -> u16 {
    let (_, number) = display.split_once(':').expect("a display");
    number.split('.').next().and_then(|number| number.parse().ok()).expect("its number")
}

fn program(gateway: &Gateway) -> String {
    let path = gateway.path("program.py");
    fs::write(&path, PROGRAM).expect("the program");
    fs::set_permissions(gateway.folder.path(), Permissions::from_mode(0o755)).expect("a mode");
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("a mode");
    format!("/usr/bin/python3 {}", path.display())
}

#[test]
fn programs_reach_the_clients_server_with_its_cookie() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = folder.path().join("Xauthority").display().to_string();
    let own = format!("SetEnv XAUTHORITY={authority}");
    let host = nix::unistd::gethostname().expect("a name").to_string_lossy().into_owned();
    let blocks = ["X11UseLocalhost no\nX11DisplayOffset 310".to_owned()];
    let (gateway, ports) =
        with_blocks(&["X11Forwarding yes", "X11DisplayOffset 300", &own], &blocks);
    let (server, program) = (Server::new(&gateway), program(&gateway));
    for (port, least, name) in [(gateway.port, 300, "localhost"), (ports[0], 310, host.as_str())] {
        let output = with_server(&gateway, port, &server, "", &[&program]).output();
        let output = output.expect("ssh starts");
        let [display, known, answer] = shown(&output, &gateway);
        assert!(display.starts_with(&format!("{name}:")) && display.ends_with(".0"), "{display}");
        let shown = number(&display);
        assert!((least..least + 50).contains(&shown), "{display}");
        // The client gave us a cookie of its own making, and put the real one in its place.
        let (entered, fake) = known.split_once(' ').expect("an entry");
        // xauth knows that both are this machine.
        assert_eq!(entered, format!("{host}/unix:{shown}"));
        assert_ne!(fake, COOKIE);
        assert_eq!(answer, format!("true {COOKIE}"));
        gateway.tells(&format!("Listening for root: x11-connection from display {display}"));
        gateway.tells("Forwarded x11-connection from");
        // It goes with the session.
        wait_for("the display to go", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, 6000 + shown)).is_err()
        });
    }
    // No process was told a cookie in its words.
    assert!(!gateway.log().contains(COOKIE));
}

#[test]
fn what_forbids_x11_is_told() {
    let blocks = ["X11Forwarding no", "DisableForwarding yes", "X11DisplayOffset 999"];
    let blocks = blocks.map(str::to_owned);
    let (gateway, ports) = with_blocks(&["X11Forwarding yes"], &blocks);
    let server = Server::new(&gateway);
    let refused = |gateway: &Gateway, port: u16, why: &str| {
        let mut command = with_server(gateway, port, &server, "", &["echo \"<$DISPLAY>\""]);
        let output = command.output().expect("ssh starts");
        assert_eq!(text(&output.stdout), "<>\n", "{why}\n{}", gateway.log());
        assert!(text(&output.stderr).contains("X11 forwarding request failed"), "{output:?}");
        gateway.tells(why);
    };
    let settings = "X11Forwarding, DisableForwarding or the key's options";
    refused(&gateway, ports[0], settings);
    refused(&gateway, ports[1], settings);
    // Display 999 is the last there is. Another test program that has it lets it go when it likes.
    let mut last = None;
    wait_for("the last display", || {
        last = TcpListener::bind((Ipv4Addr::LOCALHOST, 6999)).ok();
        last.is_some()
    });
    refused(&gateway, ports[2], "every display's port is taken");
    drop(last);
    let keys = fs::read_to_string(gateway.path("authorized_keys")).expect("keys");
    for (options, permitted) in
        [("no-X11-forwarding ", false), ("restrict ", false), ("restrict,X11-forwarding ", true)]
    {
        let line = keys.replacen("ssh-ed25519", &format!("{options}ssh-ed25519"), 1);
        fs::write(gateway.path("authorized_keys"), line).expect("written");
        if permitted {
            let mut command =
                with_server(&gateway, gateway.port, &server, "", &["test \"$DISPLAY\""]);
            run_ok(&mut command);
        } else {
            refused(&gateway, gateway.port, settings);
        }
    }
    drop(gateway);
    for location in ["none", "/nonexistent/xauth"] {
        let line = format!("XAuthLocation {location}");
        let gateway = Gateway::start(&["X11Forwarding yes", &line]);
        refused(&gateway, gateway.port, "XAuthLocation names no program");
    }
}

/// The process of an account does it with the account's rights; its own rc file takes xauth's part.
#[test]
fn other_accounts_have_displays_too() {
    let Some(account) = Account::new() else { return };
    let gateway = Gateway::start(&["X11Forwarding yes", "X11DisplayOffset 350"]);
    let (server, program) = (Server::new(&gateway), program(&gateway));
    let run = |words: &[&str]| {
        let mut command = with_server(&gateway, gateway.port, &server, &account.name, words);
        command.output().expect("ssh starts")
    };
    let [_, _, answer] = shown(&run(&[&program]), &gateway);
    assert_eq!(answer, format!("true {COOKIE}"));
    let authority = fs::metadata(account.at_home(".Xauthority")).expect("what xauth wrote");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&authority), account.uid);

    fs::create_dir_all(account.at_home(".ssh")).expect("a folder");
    fs::write(account.at_home(".ssh/rc"), "cat > ~/told; env > ~/environment\n").expect("a file");
    fs::remove_file(account.at_home(".Xauthority")).expect("gone");
    let output = run(&["env"]);
    assert!(output.status.success(), "{output:?}");
    let told = fs::read_to_string(account.at_home("told")).expect("what rc was told");
    let words: Vec<&str> = told.trim_end().split(' ').collect();
    assert!(words.len() == 2 && words[0] == "MIT-MAGIC-COOKIE-1", "{told}");
    assert!(!account.at_home(".Xauthority").exists(), "rc is there in place of xauth");
    // The cookie is in nobody's environment.
    let rc = fs::read_to_string(account.at_home("environment")).expect("its environment");
    for environment in [rc, text(&output.stdout)] {
        assert!(environment.contains("DISPLAY=localhost:"), "{environment}");
        assert!(!environment.contains(words[1]) && !environment.contains("TIDEGATE"));
    }
}

#[test]
fn each_direction_of_a_display_ends_on_its_own() {
    let gateway = Gateway::start(&["X11Forwarding yes", "X11DisplayOffset 370"]);
    let options = ["KexAlgorithms=curve25519-sha256"];
    assert_half_closes(&gateway, openssh(&gateway, &options), false);
    if let Some(client) = putty(&gateway) {
        assert_half_closes(&gateway, client, true);
    }
}
