//! Copies by OpenSSH's scp, over SFTP and over its own protocol, and the SFTP server on plain
//! streams. Where the protocol is spoken by hand, OpenSSH's own scp on the same bytes is the judge.
#![allow(clippy::disallowed_methods, reason = "tests wait on the real clock")]

mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::openssh::Sshd;
use support::{Gateway, keygen, newer_openssh, noise, run_ok, sha256, wait_for};
use tempfile::TempDir;

/// Programs of the account find no scp: what works works without one.
const NO_SCP: &str = "SetEnv PATH=/nowhere";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn gateway() -> Gateway {
    Gateway::start(&[NO_SCP])
}

fn remote(path: &Path) -> String {
    format!("127.0.0.1:{}", path.display())
}

/// scp by OpenSSH's client, `words` last.
fn scp(gateway: &Gateway, words: &[&str]) -> Output {
    scp_by(Path::new("scp"), gateway, words)
}

fn scp_by(program: &Path, gateway: &Gateway, words: &[&str]) -> Output {
    gateway.client(program, &[]).args(words).output().expect("scp starts")
}

fn scp_ok(gateway: &Gateway, words: &[&str]) {
    let output = scp(gateway, words);
    assert!(output.status.success(), "{words:?}: {output:?}\n{}", gateway.log());
}

/// Everything below a directory: kind, mode, content; times too where they were preserved.
fn tree(root: &Path, times: bool) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("a directory").flatten() {
            let (path, meta) = (entry.path(), entry.metadata().expect("its attributes"));
            let mut line = format!("{:o}", meta.mode());
            if times {
                line += &format!(" {}", meta.mtime());
            }
            if meta.is_dir() {
                open.push(path.clone());
            } else if meta.is_file() {
                line += &format!(" {} {}", meta.len(), sha256(&path));
            }
            let name = path.strip_prefix(root).expect("below").as_os_str().as_bytes().to_vec();
            found.insert(name, line);
        }
    }
    found
}

/// A tree with all that makes copying hard.
fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("inner/deep er")).expect("directories");
    fs::create_dir(root.join("empty")).expect("a directory");
    fs::write(root.join("zero"), "").expect("a file");
    fs::write(root.join("one"), "1").expect("a file");
    fs::write(root.join("large"), noise(5 * 1024 * 1024 + 13, 1)).expect("a file");
    fs::write(root.join("inner/middle"), noise(70_000, 2)).expect("a file");
    let odd: [&[u8]; 7] = [
        b"$(id)`id`;&|",
        b"a  b",
        b"-rf",
        b"\xff\xfe",
        b"'\"\\",
        b"*?[x]",
        "\u{e9}\u{4e2d}".as_bytes(),
    ];
    for name in odd {
        fs::write(root.join("inner/deep er").join(OsStr::from_bytes(name)), name).expect("a file");
    }
    for (name, mode) in
        [("one", 0o600), ("large", 0o711), ("inner", 0o751), ("inner/middle", 0o444)]
    {
        fs::set_permissions(root.join(name), PermissionsExt::from_mode(mode)).expect("a mode");
    }
    for (name, time) in [("zero", "1999-01-02 03:04:05"), ("inner", "2005-06-07 08:09:10")] {
        run_ok(Command::new("touch").arg("-d").arg(time).arg(root.join(name)));
    }
}

fn clients() -> Vec<PathBuf> {
    let newer = newer_openssh().map(|folder| folder.join("scp"));
    std::iter::once(PathBuf::from("scp")).chain(newer).collect()
}

/// Both protocols, both ways, by every client there is.
#[test]
fn whole_trees_go_both_ways() {
    let gateway = gateway();
    for (n, client) in clients().iter().enumerate() {
        for mode in ["-O", "-s"] {
            let at = gateway.path(&format!("way{n}{mode}"));
            let (from, to) = (at.join("from"), at.join("to"));
            make_tree(&from);
            fs::create_dir(&to).expect("a directory");
            let path = |path: &Path| path.display().to_string();
            for words in [
                [mode, "-rp", &path(&from), &remote(&to.join("up"))],
                [mode, "-rp", &remote(&from), &path(&to.join("down"))],
            ] {
                let output = scp_by(client, &gateway, &words);
                assert!(output.status.success(), "{words:?}: {output:?}\n{}", gateway.log());
            }
            let original = tree(&from, true);
            assert!(original.len() > 12);
            assert_eq!(tree(&to.join("up"), true), original, "{client:?} {mode} up");
            assert_eq!(tree(&to.join("down"), true), original, "{client:?} {mode} down");
        }
    }
    gateway.tells("scp -f");
    let log = gateway.tells("scp -t");
    assert!(!log.contains("command scp"), "no shell: {log}");
}

#[test]
fn several_sources_patterns_and_targets() {
    let gateway = gateway();
    let from = gateway.path("from");
    fs::create_dir(&from).expect("a directory");
    for name in ["a1", "a2", "b1", "c d", ".hidden"] {
        fs::write(from.join(name), name).expect("a file");
    }
    let names = |folder: &Path| {
        let mut names: Vec<String> = fs::read_dir(folder)
            .expect("a directory")
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names.join("|")
    };
    for mode in ["-O", "-s"] {
        let to = gateway.path(&format!("to{mode}"));
        fs::create_dir(&to).expect("a directory");
        let local = to.display().to_string();
        scp_ok(&gateway, &[mode, &remote(&from.join("a*")), &remote(&from.join("[bx]?")), &local]);
        assert_eq!(names(&to), "a1|a2|b1", "{mode}");
        // Quoted for the far shell, as people have always done it; SFTP takes it with no quotes.
        let spaced = if mode == "-O" { "c\\ d" } else { "c d" };
        scp_ok(&gateway, &[mode, &remote(&from.join(spaced)), &local]);
        assert_eq!(names(&to), "a1|a2|b1|c d", "{mode}");
        // Several sources need a directory (-d on the far side).
        let (a, b) = (from.join("a1").display().to_string(), from.join("b1").display().to_string());
        let output = scp(&gateway, &[mode, &a, &b, &remote(&to.join("a1"))]);
        assert!(!output.status.success(), "{mode} {output:?}");
        let says = if mode == "-O" { "a1: Not a directory" } else { "a1\": Failure" };
        assert!(text(&output.stderr).contains(says), "{output:?}");
        let into = gateway.path(&format!("into{mode}"));
        fs::create_dir(&into).expect("a directory");
        scp_ok(&gateway, &[mode, &a, &b, &remote(&into)]);
        assert_eq!(names(&into), "a1|b1");
        // From one far side to the other, through the client.
        let across = gateway.path(&format!("across{mode}"));
        fs::create_dir(&across).expect("a directory");
        scp_ok(&gateway, &[mode, "-3", &remote(&from.join("a1")), &remote(&across)]);
        assert_eq!(names(&across), "a1", "{mode}");
        let missing = scp(&gateway, &[mode, &remote(&from.join("none*")), &local]);
        assert_eq!(missing.status.code(), Some(1));
        assert!(text(&missing.stderr).contains("No such file or directory"), "{missing:?}");
    }
    // The line that OpenSSH's own server would show.
    let missing = scp(&gateway, &["-O", &remote(&from.join("none")), "/tmp"]);
    let expected = format!("scp: {}: No such file or directory\n", from.join("none").display());
    assert_eq!(text(&missing.stderr), expected);
    let verbose = scp(&gateway, &["-O", "-v", &remote(&from.join("a1")), "/dev/null"]);
    assert!(text(&verbose.stderr).contains("Sending file modes: C0644 2 a1"), "{verbose:?}");
}

/// Key exchanges in the middle of files, a slow client, and ciphers that lay packets out otherwise.
#[test]
fn long_copies_over_changing_keys() {
    let gateway = gateway();
    let from = gateway.path("from");
    fs::write(&from, noise(24 << 20, 4)).expect("a file");
    let sum = sha256(&from);
    let path = from.display().to_string();
    for (n, options) in [
        ["RekeyLimit=3M", "Ciphers=aes256-gcm@openssh.com"],
        ["RekeyLimit=1M", "Ciphers=aes128-ctr"],
        ["RekeyLimit=2M", "Ciphers=chacha20-poly1305@openssh.com"],
    ]
    .iter()
    .enumerate()
    {
        let (up, down) = (gateway.path(&format!("up{n}")), gateway.path(&format!("down{n}")));
        for words in
            [["-O", &path, &remote(&up)], ["-O", &remote(&from), &down.display().to_string()]]
        {
            let mut command = gateway.client(Path::new("scp"), options);
            let output = command.args(words).output().expect("scp starts");
            assert!(output.status.success(), "{options:?} {words:?} {output:?}\n{}", gateway.log());
        }
        assert_eq!((sha256(&up), sha256(&down)), (sum.clone(), sum.clone()), "{options:?}");
    }
    // 16 Mbit/s, so that the window is what holds the server back.
    fs::write(&from, noise(2 << 20, 8)).expect("a file");
    let slow = gateway.path("slow");
    scp_ok(&gateway, &["-O", "-l", "16000", &remote(&from), &slow.display().to_string()]);
    assert_eq!(sha256(&slow), sha256(&from));
}

#[test]
fn homes_and_tildes() {
    let gateway = gateway();
    let home = nix::unistd::User::from_uid(nix::unistd::getuid()).expect("users").expect("me").dir;
    let place = TempDir::with_prefix_in("tidegate-test", &home).expect("a folder at home");
    let name = place.path().file_name().expect("a name").to_string_lossy().into_owned();
    fs::write(gateway.path("x"), "home").expect("a file");
    let local = gateway.path("x").display().to_string();
    for mode in ["-O", "-s"] {
        for (n, way) in
            [format!("~/{name}"), name.clone(), format!("~root/{name}")].iter().enumerate()
        {
            if way.starts_with("~root") && home != Path::new("/root") {
                continue;
            }
            scp_ok(&gateway, &[mode, &local, &format!("127.0.0.1:{way}/up{n}")]);
            let down = gateway.path("down").display().to_string();
            scp_ok(&gateway, &[mode, &format!("127.0.0.1:{way}/up{n}"), &down]);
            assert_eq!(fs::read(gateway.path("down")).expect("it came"), b"home");
            fs::remove_file(gateway.path("down")).expect("removed");
        }
    }
}

#[test]
fn many_small_files_and_a_huge_sparse_one() {
    let gateway = gateway();
    let from = gateway.path("many");
    fs::create_dir(&from).expect("a directory");
    for n in 0..600 {
        fs::write(from.join(format!("f{n}")), noise(n * 7, n as u64)).expect("a file");
    }
    for mode in ["-O", "-s"] {
        let to = gateway.path(&format!("many{mode}"));
        scp_ok(&gateway, &[mode, "-r", &remote(&from), &to.display().to_string()]);
        let back = gateway.path(&format!("back{mode}"));
        scp_ok(&gateway, &[mode, "-r", &to.display().to_string(), &remote(&back)]);
        let run = Command::new("diff").arg("-r").arg(&from).arg(&back).output().expect("diff");
        assert!(run.status.success(), "{}", text(&run.stdout));
    }
    // Past 32 bits, by the protocol alone: what is announced, and where the data begins.
    let sparse = gateway.path("sparse");
    let file = fs::File::create(&sparse).expect("a file");
    file.set_len((4 << 30) + 5).expect("its length");
    let command = format!("scp -f {}", sparse.display());
    let mut client = gateway.ssh(&[], &[&command]);
    let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ssh");
    let mut input = client.stdin.take().expect("its input");
    input.write_all(&[0, 0]).expect("sent");
    let mut got = vec![0; 2 << 20];
    client.stdout.as_mut().expect("its output").read_exact(&mut got).expect("data");
    let line = b"C0644 4294967301 sparse\n";
    assert!(got.starts_with(line) && got[line.len()..].iter().all(|byte| *byte == 0));
    drop(input);
    let _ = client.kill();
    let _ = client.wait();
    wait_for("the file to be closed", || !is_open(&gateway, &sparse));
    gateway.assert_alive_without_path();
}

fn is_open(gateway: &Gateway, path: &Path) -> bool {
    let fds = fs::read_dir(format!("/proc/{}/fd", gateway.serving())).expect("descriptors");
    fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == path))
}

trait Alive {
    fn assert_alive_without_path(&self);
}

impl Alive for Gateway {
    fn assert_alive_without_path(&self) {
        let output = run_ok(&mut self.ssh(&[], &["echo alive"]));
        assert_eq!(output.stdout, b"alive\n");
    }
}

/// What a run of scp's server side said, how it ended and what it left.
#[derive(Debug, PartialEq)]
struct Ended {
    said: String,
    code: Option<i32>,
    left: BTreeMap<Vec<u8>, String>,
}

/// Runs a server side on a script in a directory of its own: OpenSSH's here, or ours over ssh.
fn converse(gateway: Option<&Gateway>, command: &str, script: &[u8], prepare: fn(&Path)) -> Ended {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("p");
    fs::create_dir(&place).expect("a directory");
    prepare(&place);
    let command = command.replace("PLACE", &place.display().to_string());
    let mut run = match gateway {
        Some(gateway) => gateway.ssh(&[], &[&command]),
        None => {
            let mut run = Command::new("sh");
            run.arg("-c").arg(&command);
            run
        }
    };
    let run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = run.spawn().expect("it starts");
    // One that ends early does not read it all.
    let _ = child.stdin.take().expect("its input").write_all(script);
    let output = child.wait_with_output().expect("it ends");
    let said = text(&output.stdout).replace(&folder.path().display().to_string(), "");
    Ended { said, code: output.status.code(), left: tree(folder.path(), false) }
}

fn nothing(_: &Path) {}

/// Into an empty directory.
const HONEST: &[(&str, &[u8])] = &[
    ("scp -t PLACE", b"C0644 3 f\nabc\0"),
    ("scp -t PLACE/new", b"C0600 3 f\nabc\0"),
    ("scp -t PLACE", b"C0444 3 f\nabc\0"),
    ("scp -t PLACE", b"C4777 0 f\n\0C0000 1 g\nx\0"),
    ("scp -p -t PLACE", b"T1 0 2 0\nC4777 3 f\nabc\0"),
    ("scp -p -t PLACE", b"T99999999999999999999 0 2 0\nC0640 0 f\n\0"),
    ("scp -rp -t PLACE", b"T5 0 6 0\nD0500 0 e\nD0711 0 i\nE\nC0400 1 x\nx\0E\n"),
    ("scp -r -t PLACE", b"D0500 0 e\nD0711 0 i\n"),
    ("scp -r -t PLACE/new", b"D0755 0 e\nC0644 1 x\nx\0E\n"),
    ("scp -d -t PLACE", b"C0644 1 x\nx\0"),
    ("scp -d -t PLACE/none", b"C0644 1 x\nx\0"),
    ("scp -t PLACE/no/where", b"C0644 1 x\nx\0"),
    ("scp -t PLACE PLACE", b""),
    ("scp -t PLACE", b""),
    ("scp -t PLACE", b"E\n"),
];

/// Onto what is there already.
const ONTO: &[(&str, &[u8])] = &[
    ("scp -t PLACE", b"C0777 3 f\nabc\0C0644 2 link\nxy\0"),
    ("scp -p -t PLACE", b"C0777 3 f\nabc\0"),
    ("scp -t PLACE", b"C0644 1 d\nx\0C0644 1 ok\nx\0"),
    ("scp -r -t PLACE", b"D0500 0 d\nC0644 1 x\nx\0E\n"),
    ("scp -r -t PLACE", b"D0755 0 f\nC0644 1 x\nx\0E\n"),
    ("scp -d -t PLACE/f", b"C0644 1 x\nx\0"),
];

/// What a client must not be able to do.
const HOSTILE: &[(&str, &[u8])] = &[
    ("scp -rt PLACE", b"C0644 1 ../x\nx\0"),
    ("scp -rt PLACE", b"C0644 1 a/b\nx\0"),
    ("scp -rt PLACE", b"C0644 1 /tmp/tidegate-must-not-exist\nx\0"),
    ("scp -rt PLACE", b"D0755 0 ..\nE\n"),
    ("scp -rt PLACE", b"D0755 0 .\nE\n"),
    ("scp -rt PLACE", b"C0644 1 \nx\0"),
    ("scp -t PLACE", b"D0755 0 d\nE\n"),
    ("scp -t PLACE", b"C0644 -1 x\nx\0"),
    ("scp -t PLACE", b"C0644 99999999999999999999 x\nx\0"),
    ("scp -t PLACE", b"C0644 9223372036854775808 x\nx\0"),
    ("scp -t PLACE", b"C06x4 1 x\nx\0"),
    ("scp -t PLACE", b"C0644 1x\nx\0"),
    ("scp -t PLACE", b"\n"),
    ("scp -t PLACE", b"garbage first\n"),
    ("scp -t PLACE", b"C0644 0 a\n\0garbage later\n"),
    ("scp -t PLACE", b"T-1 0 1 0\n"),
    ("scp -t PLACE", b"T1 0 1\n"),
    ("scp -t PLACE", b"\x01scp: warning\nC0644 1 x\nx\0"),
    ("scp -t PLACE", b"\x02scp: fatal\nC0644 1 x\nx\0"),
    ("scp -t PLACE", b"C0644 1"),
    ("scp -t PLACE", b"C0644 3 f\nabc"),
    ("scp -t PLACE", b"C0644 3 f\nabc\x01cannot\n"),
    ("scp -t PLACE", b"C0644 3 f\nabc\x02cannot\n"),
    ("scp -t /dev/full", b"C0644 3 f\nabc\0C0644 1 g\nx\0"),
    ("scp -t PLACE", b"C0644 2 $(touch pwned)`x`;\nab\0"),
];

fn existing(place: &Path) {
    fs::write(place.join("f"), "longer than what comes").expect("a file");
    fs::set_permissions(place.join("f"), PermissionsExt::from_mode(0o640)).expect("a mode");
    fs::create_dir(place.join("d")).expect("a directory");
    symlink("f", place.join("link")).expect("a link");
}

/// Every script is played to OpenSSH's scp and to ours; both must say and leave the same.
#[test]
fn sinks_behave_as_openssh_s_on_honest_and_hostile_scripts() {
    let gateway = gateway();
    let play = |command: &str, script: &[u8], prepare: fn(&Path)| {
        let expected = converse(None, command, script, prepare);
        let got = converse(Some(&gateway), command, script, prepare);
        let shown = script.get(..80).unwrap_or(script).escape_ascii();
        assert_eq!(got, expected, "{command} <<< {shown}\n{}", gateway.log());
    };
    for (command, script) in HONEST.iter().chain(HOSTILE) {
        play(command, script, nothing);
    }
    for (command, script) in ONTO {
        play(command, script, existing);
    }
    let big = [&b"C0644 300000 big\n"[..], &noise(300_000, 5), b"\0"].concat();
    play("scp -t PLACE", &big, nothing);
    let long_name = format!("C0644 1 {}\nx\0", "n".repeat(300));
    play("scp -t PLACE", long_name.as_bytes(), nothing);
    assert!(!Path::new("/tmp/tidegate-must-not-exist").exists());
    assert!(!gateway.log().contains("command scp"), "{}", gateway.log());
}

#[test]
fn sources_behave_as_openssh_s() {
    let gateway = gateway();
    let prepare: fn(&Path) = |place| {
        fs::write(place.join("f"), "content").expect("a file");
        fs::write(place.join("line\nend\\"), "odd").expect("a file");
        fs::create_dir_all(place.join("d/e")).expect("directories");
        fs::write(place.join("d/e/g"), "").expect("a file");
        symlink("f", place.join("link")).expect("a link");
        symlink("nowhere", place.join("dangling")).expect("a link");
        for name in ["f", "d/e/g", "d/e", "d"] {
            run_ok(Command::new("touch").args(["-d", "@1000"]).arg(place.join(name)));
        }
    };
    let fine = vec![0; 64];
    for (command, script) in [
        ("scp -f PLACE/f", fine.clone()),
        ("scp -pf PLACE/f PLACE/link", fine.clone()),
        ("scp -f PLACE/none PLACE/f PLACE/d", fine.clone()),
        ("scp -f PLACE/dangling", fine.clone()),
        ("scp -f /dev/null", fine.clone()),
        ("scp -rpf PLACE/d/", fine.clone()),
        ("scp -f PLACE/*", fine.clone()),
        ("scp -f PLACE/n*", fine.clone()),
        ("scp -f 'PLACE/f*'", fine.clone()),
        ("scp -f PLACE/f PLACE/f", [&[0, 0][..], b"\x01no\n", &fine].concat()),
        ("scp -f PLACE/f PLACE/f", b"\0\x01no\n\0\0\0\0".to_vec()),
        ("scp -f PLACE/f PLACE/f", b"\0\x02no\n\0\0\0\0".to_vec()),
        ("scp -f PLACE/f PLACE/f", b"\0xno\n\0\0\0\0".to_vec()),
        ("scp -rf PLACE/d PLACE/f", b"\0\x01no\n\0\0\0\0".to_vec()),
        ("scp -pf PLACE/f PLACE/f", b"\0\x01no\n\0\0\0\0\0\0".to_vec()),
        ("scp -f PLACE/f", b"\x01what\n\0\0\0".to_vec()),
        ("scp -f PLACE/f", b"\0".to_vec()),
        ("scp -f PLACE/f", b"\0\0".to_vec()),
        ("scp -f PLACE/f", b"".to_vec()),
        ("scp -f", b"\0".to_vec()),
    ] {
        let mut expected = converse(None, command, &script, prepare);
        let mut got = converse(Some(&gateway), command, &script, prepare);
        // Nobody's times of reading are the same twice.
        for ended in [&mut expected, &mut got] {
            let without = ended.said.lines().map(|line| match line.split_once("T1000 0 ") {
                Some((front, _)) => format!("{front}T1000"),
                None => line.to_owned(),
            });
            ended.said = without.collect::<Vec<_>>().join("\n");
        }
        assert_eq!(got, expected, "{command} <<< {}\n{}", script.escape_ascii(), gateway.log());
    }
    assert!(!gateway.log().contains("command scp"), "{}", gateway.log());
}

/// A file that becomes shorter, or cannot be read, keeps both sides in step.
#[test]
fn files_that_shrink_and_targets_that_fill_up_are_told() {
    let gateway = gateway();
    // A file of /proc says it is empty; one that grows or shrinks is cut or filled with zeroes.
    let shrinking = gateway.path("shrinking");
    fs::write(&shrinking, noise(8 << 20, 3)).expect("a file");
    let command = format!("scp -f {}", shrinking.display());
    let mut client = gateway.ssh(&[], &[&command]);
    let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ssh");
    let (mut input, mut output) =
        (client.stdin.take().expect("in"), client.stdout.take().expect("out"));
    input.write_all(b"\0").expect("sent");
    let line = format!("C0644 {} shrinking\n", 8 << 20);
    let mut said = vec![0; line.len()];
    output.read_exact(&mut said).expect("a line");
    assert_eq!(text(&said), line);
    fs::OpenOptions::new().write(true).open(&shrinking).expect("it").set_len(1000).expect("cut");
    input.write_all(b"\0\0").expect("sent");
    let mut data = vec![1; 8 << 20];
    output.read_exact(&mut data).expect("all of it");
    assert_eq!(&data[..1000], &noise(8 << 20, 3)[..1000]);
    assert!(data[1000..].iter().all(|byte| *byte == 0), "zeroes, and nobody's old data");
    drop(input);
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("the rest");
    assert_eq!(rest, format!("\x01scp: {}: Broken pipe\n", shrinking.display()));
    assert_eq!(client.wait().expect("ends").code(), Some(1));
}

#[test]
fn clients_that_stall_or_leave_hold_nothing() {
    let gateway = gateway();
    // What a first session leaves open for the next ones is no leak.
    gateway.assert_alive_without_path();
    let before = gateway.descriptors();
    let place = gateway.path("place");
    fs::create_dir(&place).expect("a directory");
    fs::write(place.join("big"), noise(4 << 20, 9)).expect("a file");
    let scripts: [(&str, &[u8]); 5] = [
        ("scp -t PLACE", b"C0644 1000000 half\nabc"),
        ("scp -rt PLACE", b"D0755 0 d\nC0644 1000000 half\nabc"),
        ("scp -f PLACE/big", b"\0\0"),
        ("scp -f PLACE/big", b"\0"),
        ("scp -rf PLACE", b"\0\0\0\0"),
    ];
    let mut held: Vec<Child> = Vec::new();
    for (command, script) in scripts {
        let command = command.replace("PLACE", &place.display().to_string());
        let mut client = gateway.ssh(&[], &[&command]);
        let client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut client = client.spawn().expect("ssh");
        client.stdin.as_mut().expect("its input").write_all(script).expect("sent");
        held.push(client);
    }
    wait_for("the halves to arrive", || {
        let half = |path: PathBuf| fs::metadata(path).is_ok_and(|meta| meta.len() == 3);
        half(place.join("half")) && half(place.join("d/half"))
    });
    gateway.assert_alive_without_path();
    for client in &mut held {
        client.kill().expect("killed");
        client.wait().expect("gone");
    }
    let start = Instant::now();
    while gateway.descriptors() > before {
        let open =
            Command::new("ls").arg("-l").arg(format!("/proc/{}/fd", gateway.serving())).output();
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{before}: {}",
            text(&open.expect("ls").stdout)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(fs::read(place.join("half")).expect("it"), b"abc");
    // What has come of a file that never ends is in it; OpenSSH keeps up to a buffer back.
    let cut = converse(Some(&gateway), "scp -t PLACE", b"C0644 10 short\nabc", nothing);
    assert_eq!((&*cut.said, cut.code), ("\0\0\x01scp: Broken pipe\n", Some(1)));
    // A line without an end has a bound.
    let mut client = gateway.ssh(&[], &[&format!("scp -t {}", place.display())]);
    let client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut client = client.expect("ssh");
    let _ = client.stdin.as_mut().expect("input").write_all(&[b'C'; 100_000]);
    let output = client.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "\0\x01scp: protocol error: line too long\n");
}

#[test]
fn what_is_not_plainly_scp_goes_where_it_always_went() {
    let gateway = Gateway::start(&[]);
    let place = gateway.path("place");
    fs::create_dir(&place).expect("a directory");
    let path = place.display();
    let run = |gateway: &Gateway, command: &str, options: &[&str]| {
        let mut run = gateway.ssh(options, &[command]);
        let mut child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ssh");
        child.stdin.take().expect("input").write_all(b"C0644 1 x\nx\0").expect("sent");
        child.wait_with_output().expect("it ends")
    };
    let output = run(&gateway, &format!("scp -t {path}; echo shell"), &[]);
    assert_eq!(text(&output.stdout), "\0\0\0shell\n", "the shell's");
    let output = run(&gateway, &format!("D={path}; scp -t $D"), &[]);
    assert_eq!((text(&output.stdout), output.status.code()), ("\0\0\0".to_owned(), Some(0)));
    let started = || gateway.log().matches("Starting session: command ").count();
    wait_for("the log", || started() == 2);
    let log = gateway.log();
    assert_eq!(log.matches("Starting session: command scp").count(), 1, "{log}");
    let forced = Gateway::start(&["ForceCommand echo forced $SSH_ORIGINAL_COMMAND"]);
    let output = run(&forced, &format!("scp -t {path}"), &[]);
    assert_eq!(text(&output.stdout), format!("forced scp -t {path}\n"));
    let external = Gateway::start(&["TidegateScp external"]);
    let output = run(&external, &format!("scp -t {path}"), &[]);
    assert_eq!(text(&output.stdout), "\0\0\0");
    external.tells("command scp");
}

// ---- SFTP, its options, and the server on plain streams ---------------------------------------

/// The system's own sshd with this Subsystem line; `None` where it cannot run.
fn sshd(folder: &Path, subsystem: &str) -> Option<Sshd> {
    if !Sshd::is_here() {
        return None;
    }
    if !folder.join("sshd_key").exists() {
        keygen(&folder.join("sshd_key"), "ed25519", "");
    }
    let config = format!("HostKey {}/sshd_key\n{subsystem}", folder.display());
    Some(Sshd::start(folder, &config))
}

/// sftp's commands one after the other, and what was printed.
fn sftp(gateway: &Gateway, port: u16, more: &[&str], batch: &str) -> Output {
    let name = gateway.path(&format!("batch{}", batch.len()));
    fs::write(&name, batch).expect("a batch");
    let port = format!("Port={port}");
    let mut command = gateway.client(Path::new("sftp"), &[&port]);
    command.args(more).arg("-b").arg(&name).arg("127.0.0.1");
    command.output().expect("sftp starts")
}

#[test]
fn an_unchanged_sshd_uses_the_binary_as_its_subsystem() {
    let gateway = gateway();
    let binary = env!("CARGO_BIN_EXE_tidegate");
    let at = gateway.folder.path();
    // By the name that sshd_config has had for twenty years.
    symlink(binary, at.join("sftp-server")).expect("a link");
    for subsystem in [
        format!("Subsystem sftp {binary} sftp-server"),
        format!("Subsystem sftp {}/sftp-server -u 077", at.display()),
    ] {
        let Some(server) = sshd(at, &subsystem) else { return };
        let from = at.join("tree");
        if !from.exists() {
            make_tree(&from);
        }
        let there = at.join(format!("there{}", server.port));
        let back = at.join(format!("back{}", server.port));
        let batch = format!(
            "mkdir {0}\nput -rp {1} {0}/up\nget -rp {0}/up {2}\nls -la {0}\ndf {0}\n\
             rename {0}/up/one {0}/up/two\nsymlink two {0}/up/soft\nln {0}/up/two {0}/up/hard\n\
             chmod 600 {0}/up/two\ncp {0}/up/large {0}/up/copy\nrm {0}/up/hard\n",
            there.display(),
            from.display(),
            back.display()
        );
        let output = sftp(&gateway, server.port, &[], &batch);
        let log = fs::read_to_string(at.join("sshd_log")).unwrap_or_default();
        assert!(output.status.success(), "{output:?}\n{log}");
        assert_eq!(tree(&back, true), tree(&from, true), "{subsystem}");
        assert_eq!(sha256(&there.join("up/copy")), sha256(&from.join("large")));
        if subsystem.contains("077") {
            let mode = fs::metadata(&there).expect("made").mode() & 0o777;
            assert_eq!(mode, 0o700, "the umask");
        }
    }
}

/// The same session with OpenSSH's server and with ours, without a network.
#[test]
fn the_server_s_log_reads_as_openssh_s() {
    let Some(session) = LoggedSession::new() else { return };
    for flags in ["-l INFO", "-l VERBOSE", "-l VERBOSE -R", "-l VERBOSE -P opendir,mkdir,stat"] {
        let said = |server: &str| {
            let output = session.run("sftp", &[], &format!("{server} -e {flags}"));
            kept(text(&output.stderr).lines().map(str::to_owned))
        };
        assert_eq!(said(&ours()), said(THEIRS), "{flags}");
    }
}

/// The same in the system's log, which for these programs alone is a socket of the test's.
#[test]
fn the_server_s_syslog_reads_as_openssh_s() {
    let Some(session) = LoggedSession::new() else { return };
    if !nix::unistd::geteuid().is_root() {
        println!("not run: only root has name spaces of its own");
        return;
    }
    let place = session.folder.path().display().to_string();
    let logger = UnixDatagram::bind(format!("{place}/logger")).expect("a logger");
    logger.set_read_timeout(Some(Duration::from_millis(20))).expect("it waits a little");
    fs::create_dir(format!("{place}/dev")).expect("a folder");
    let enter = format!(
        "cd {place} && mount -t tmpfs none dev && touch dev/log dev/null && \
         mount --bind /dev/null dev/null && mount --bind logger dev/log && \
         mount --move dev /dev && cd work && exec \"$@\""
    );
    let enter = ["--mount", "sh", "-ec", &enter, "sh", "sftp"];
    for flags in ["-l INFO", "-f LOCAL3 -l VERBOSE", "-f DAEMON -l ERROR", "-f USER -l QUIET"] {
        let said = |server: &str| {
            let over = AtomicBool::new(false);
            let (output, lines) = thread::scope(|scope| {
                let listener = thread::Builder::new().name("logger".to_owned());
                let listener = listener.spawn_scoped(scope, || until(&over, &logger));
                let output = session.run("unshare", &enter, &format!("{server} {flags}"));
                over.store(true, Ordering::Release);
                (output, listener.expect("a thread").join().expect("no panic"))
            });
            assert!(!text(&output.stderr).contains("session opened"), "{output:?}");
            // <PRIORITY>, the day and the time, and the process differ by what they must.
            let kept = kept(lines.into_iter().map(|line| {
                let (head, said) = line.split_once("]: ").expect("a process");
                let (priority, name) = head.split_once('>').expect("a priority");
                let at = "Mmm dd hh:mm:ss ".len();
                let (name, _) = name[at..].split_once('[').expect("a name");
                format!("{priority} {name} {}", said.trim_end_matches('\0'))
            }));
            assert_eq!(kept.is_empty(), flags.contains("ERROR") || flags.contains("QUIET"));
            kept
        };
        assert_eq!(said(&ours()), said(THEIRS), "{flags}");
    }
}

/// What a logger hears until it is over. Some systems let ten lines wait for it, and no more.
fn until(over: &AtomicBool, logger: &UnixDatagram) -> Vec<String> {
    let (mut lines, mut buffer) = (Vec::new(), [0; 9000]);
    loop {
        let last = over.load(Ordering::Acquire);
        match logger.recv(&mut buffer) {
            Ok(len) => lines.push(text(&buffer[..len])),
            Err(_) if last => return lines,
            Err(_) => {}
        }
    }
}

const THEIRS: &str = "/usr/lib/openssh/sftp-server";

fn ours() -> String {
    format!("{} sftp-server", env!("CARGO_BIN_EXE_tidegate"))
}

/// OpenSSH counts groups as users, and tells of extensions that it does not offer.
fn kept(lines: impl Iterator<Item = String>) -> Vec<String> {
    let kept = |line: &String| {
        let refused = line.split_once("Refusing ").and_then(|(_, rest)| rest.split(' ').next());
        let offered = ["posix-rename", "hardlink", "fsync", "lsetstat", "copy-data"];
        !line.contains("users-groups") && !refused.is_some_and(|word| offered.contains(&word))
    };
    lines.filter(kept).collect()
}

/// A folder with files and a batch for sftp that makes a server tell all that it has to.
struct LoggedSession {
    folder: TempDir,
}

impl LoggedSession {
    fn new() -> Option<LoggedSession> {
        if !Path::new(THEIRS).exists() {
            println!("not run: no sftp-server of OpenSSH's here");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path();
        fs::write(at.join("file"), "hello\n").expect("a file");
        fs::write(at.join("large"), noise(200_000, 5)).expect("a file");
        let batch = "put ../file up\nget ../large back\nls\nmkdir d\nrename up d/two\n\
             chmod 600 d/two\nchown 0 d/two\nln -s two d/soft\nln d/two d/hard\ndf\n-get none\n\
             -rm none\n-rmdir d\n-mkdir d\nput -p ../file kept\nreput ../large kept\nrm d/hard\n\
             rmdir .\n";
        fs::write(at.join("batch"), batch).expect("a batch");
        Some(LoggedSession { folder })
    }

    /// Runs sftp with this server, by a program that takes `words` before its own.
    fn run(&self, program: &str, words: &[&str], server: &str) -> Output {
        let work = self.folder.path().join("work");
        fs::create_dir(&work).expect("a folder");
        let mut command = Command::new(program);
        command.args(words).args(["-q", "-b"]).arg(self.folder.path().join("batch"));
        command.args(["-D", server]).current_dir(&work).stdin(Stdio::null());
        let output = command.output().expect("sftp starts");
        fs::remove_dir_all(work).expect("it goes");
        output
    }
}

#[test]
fn the_server_s_flags_on_the_command_line() {
    let gateway = Gateway::start(&[]);
    let binary = env!("CARGO_BIN_EXE_tidegate");
    let run = |words: &[&str]| {
        let mut run = Command::new(binary);
        run.arg("sftp-server").args(words).stdin(Stdio::null()).output().expect("it starts")
    };
    let names = text(&run(&["-Q", "requests"]).stdout);
    let theirs = Command::new("/usr/lib/openssh/sftp-server").args(["-Q", "requests"]).output();
    if let Ok(theirs) = theirs {
        for name in text(&theirs.stdout).lines() {
            assert!(names.lines().any(|ours| ours == name), "{name} is missing");
        }
    }
    assert!(text(&run(&["-h"]).stdout).contains("-P REQUESTS"));
    for bad in [&["-x"][..], &["-u", "9"], &["-P", "wriet"], &["-Q", "x"], &["x"]] {
        assert_eq!(run(bad).status.code(), Some(1), "{bad:?}");
    }
    assert_eq!(run(&[]).status.code(), Some(0), "an end at once is none");
    assert!(run(&["-l", "INFO"]).stderr.is_empty(), "that is for syslog");
    let told = text(&run(&["-e", "-l", "INFO"]).stderr);
    assert!(told.contains("session opened for local user") && told.contains("session closed"));
    let place = gateway.path("place");
    fs::create_dir(&place).expect("a directory");
    fs::write(place.join("f"), "x").expect("a file");
    let server = format!("{binary} sftp-server -R -d {}", place.display());
    let local = gateway.path("here").display().to_string();
    let output = sftp(&gateway, gateway.port, &["-s", &server], &format!("pwd\nget f {local}\n"));
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).contains(&place.display().to_string()), "{output:?}");
    for change in ["rm f", "mkdir d", "rename f g", "chmod 600 f", "ln -s f g", "put /etc/passwd x"]
    {
        let output = sftp(&gateway, gateway.port, &["-s", &server], &format!("{change}\n"));
        assert_eq!(output.status.code(), Some(1), "{change}: {output:?}");
    }
    assert_eq!(fs::read_dir(&place).expect("it").count(), 1);
}

/// Bits of files are the client's choice within the umask, set-id bits like others, as with OpenSSH; of new
/// folders the kernel takes none of these.
#[test]
fn case_115_set_id_bits_are_set_as_by_openssh() {
    const OPEN: u8 = 3;
    const SETSTAT: u8 = 9;
    const MKDIR: u8 = 14;
    let rows = [(OPEN, 0o4755), (OPEN, 0o2711), (OPEN, 0o7777), (SETSTAT, 0o6755), (MKDIR, 0o2775)];
    let text = |name: &str| [&(name.len() as u32).to_be_bytes()[..], name.as_bytes()].concat();
    let mut asked = vec![0, 0, 0, 5, 1, 0, 0, 0, 3];
    for (at, (kind, mode)) in rows.iter().enumerate() {
        let (id, flags) = ((at as u32).to_be_bytes(), [0, 0, 0, 0x1a]);
        let flags = if *kind == OPEN { &flags[..] } else { &[] };
        let permissions = [[0, 0, 0, 4], u32::to_be_bytes(*mode)].concat();
        let body = [&[*kind][..], &id, &text(&at.to_string()), flags, &permissions].concat();
        asked.extend([&(body.len() as u32).to_be_bytes()[..], &body].concat());
    }
    let made = |server: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("3"), "").expect("a file");
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("umask 022; exec {server}")]).current_dir(folder.path());
        let mut child =
            shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        child.stdin.as_mut().expect("input").write_all(&asked).expect("it reads");
        // OpenSSH's does no more once its input has ended.
        let output = child.stdout.as_mut().expect("output");
        for _ in 0..=rows.len() {
            let mut len = [0; 4];
            output.read_exact(&mut len).expect("an answer");
            let mut packet = vec![0; u32::from_be_bytes(len) as usize];
            output.read_exact(&mut packet).expect("all of it");
        }
        drop(child.stdin.take());
        assert!(child.wait().expect("its end").success());
        let mode = |name: usize| fs::metadata(folder.path().join(name.to_string()));
        [0, 1, 2, 3, 4].map(|name| mode(name).expect("it is there").mode() & 0o7777)
    };
    let ours = made(&ours());
    assert_eq!(ours, [0o4755, 0o2711, 0o7755, 0o6755, 0o755]);
    if Path::new(THEIRS).exists() {
        assert_eq!(made(THEIRS), ours);
    }
}

/// The options of internal-sftp bind, whichever way it is reached.
#[test]
fn case_114_options_of_the_service_in_process() {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().display();
    fs::write(place.path().join("f"), "x").expect("a file");
    for lines in [
        vec![format!("ForceCommand internal-sftp -R -d {path}")],
        vec![format!("Subsystem sftp internal-sftp -R -d {path}")],
        vec![format!(
            "Subsystem sftp internal-sftp -p open,read,close,stat,lstat,fstat,realpath,limits -d {path}"
        )],
    ] {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let gateway = Gateway::start(&lines);
        let local = gateway.path("here").display().to_string();
        let output = gateway.sftp(&[], &format!("pwd\nget f {local}\n"));
        assert!(output.status.success(), "{output:?}\n{}", gateway.log());
        assert!(text(&output.stdout).contains(&path.to_string()), "{output:?}");
        for change in
            ["rm f", "mkdir d", "rename f g", "chmod 600 f", "put /etc/passwd f", "ln f g"]
        {
            let output = gateway.sftp(&[], &format!("{change}\n"));
            assert_eq!(output.status.code(), Some(1), "{lines:?} {change}: {output:?}");
        }
        assert_eq!(fs::read_dir(place.path()).expect("it").count(), 1);
    }
    let gateway = Gateway::start(&["Subsystem sftp internal-sftp -u 027 -P remove"]);
    let output = gateway.sftp(&[], &format!("mkdir {path}/d\nput /etc/passwd {path}/p\n"));
    assert!(output.status.success(), "{output:?}");
    let mode = |name: &str| fs::metadata(place.path().join(name)).expect(name).mode() & 0o777;
    assert_eq!((mode("d"), mode("p")), (0o750, 0o640));
    assert_eq!(gateway.sftp(&[], &format!("rm {path}/p\n")).status.code(), Some(1));
}

/// However many options there are, the last counts as the first does.
#[test]
fn case_79_no_option_of_internal_sftp_is_lost() {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().display();
    fs::write(place.path().join("f"), "x").expect("a file");
    let many = format!("-l INFO -f AUTH -u 027 -d {path} -P symlink,hardlink");
    for keyword in ["ForceCommand", "Subsystem sftp"] {
        for (last, changes) in [("-R", false), ("-e", true)] {
            let line = format!("{keyword} internal-sftp {many} {last}");
            let gateway = Gateway::start(&[&line]);
            let pwd = gateway.sftp(&[], "pwd\n");
            assert!(text(&pwd.stdout).contains(&path.to_string()), "{line}: {pwd:?}");
            let removed = gateway.sftp(&[], "rm f\n");
            assert_eq!(removed.status.success(), changes, "{line}: {removed:?}");
            fs::write(place.path().join("f"), "x").expect("a file");
            let linked = gateway.sftp(&[], "ln -s f g\n");
            assert!(!linked.status.success(), "{line}: {linked:?}");
        }
    }
}

/// What rclone and its like rely on, in process and over plain streams alike.
#[test]
fn large_directories_odd_names_and_errors() {
    let gateway = gateway();
    let place = gateway.path("big");
    fs::create_dir(&place).expect("a directory");
    for n in 0..10_000 {
        fs::write(place.join(format!("file-number-{n:05}")), "").expect("a file");
    }
    fs::write(place.join(OsStr::from_bytes(b"\xff\xfe not UTF-8")), "odd").expect("a file");
    symlink("file-number-00000", place.join("soft")).expect("a link");
    let sparse = fs::File::create(place.join("sparse")).expect("a file");
    sparse.set_len(5 << 30).expect("its length");
    let path = place.display();
    let server = format!("{} sftp-server", env!("CARGO_BIN_EXE_tidegate"));
    for way in [vec![], vec!["-s", &server]] {
        let start = Instant::now();
        let output = sftp(&gateway, gateway.port, &way, &format!("ls -1 {path}\n"));
        assert!(output.status.success(), "{output:?}");
        assert_eq!(text(&output.stdout).lines().count(), 10_003 + 1, "{way:?}");
        assert!(start.elapsed() < Duration::from_secs(30));
        let listed = sftp(&gateway, gateway.port, &way, &format!("ls -l {path}\n"));
        let listed = text(&listed.stdout);
        assert!(listed.contains("5368709120") && listed.contains("lrwxrwxrwx"), "{listed}");
        // OpenSSH's client renames by posix-rename: what is there is replaced.
        fs::write(place.join("old"), "old").expect("a file");
        fs::write(place.join("new"), "new").expect("a file");
        let batch = format!("rename {path}/new {path}/old\nchmod 640 {path}/old\n");
        assert!(sftp(&gateway, gateway.port, &way, &batch).status.success());
        assert_eq!(fs::read(place.join("old")).expect("it"), b"new");
        assert_eq!(fs::metadata(place.join("old")).expect("it").mode() & 0o777, 0o640);
        for (bad, says) in [
            ("chmod 600 BIG/none", "No such file"),
            ("chown 0 BIG/none", "No such file"),
            ("get BIG/none", "not found"),
            ("rmdir BIG", "Failure"),
            ("mkdir BIG", "Failure"),
            ("rename BIG/none BIG/x", "No such file"),
        ] {
            let batch = bad.replace("BIG", &path.to_string());
            let output = sftp(&gateway, gateway.port, &way, &format!("{batch}\n"));
            assert_eq!(output.status.code(), Some(1), "{bad}");
            assert!(text(&output.stderr).contains(says), "{bad}: {output:?}");
        }
        fs::remove_file(place.join("old")).expect("removed");
    }
}
