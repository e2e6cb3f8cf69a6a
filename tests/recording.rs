//! Recordings of sessions (TidegateRecord), as whoever is recorded and whoever looks at them sees it.
#![allow(clippy::disallowed_methods, reason = "tests wait on the real clock")]

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::processes::kill;
use support::{Gateway, run_ok, terminal, wait_for};
use tempfile::TempDir;

const TTY: &str = "RequestTTY=force";
const REFUSED: &str = "sessions here are recorded";

fn directory() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("a mode");
    folder
}

fn recording(directory: &Path, lines: &[&str]) -> Gateway {
    recording_by(directory, lines, |_| {})
}

fn recording_by(directory: &Path, lines: &[&str], change: impl FnOnce(&mut Command)) -> Gateway {
    let place = format!("TidegateRecordDirectory {}", directory.display());
    Gateway::start_with(&[&[&*place], lines].concat(), change)
}

/// The recordings there are, the oldest first.
fn recordings(directory: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(directory)
        .expect("a folder")
        .map(|entry| entry.expect("one").path())
        .collect();
    all.sort();
    all
}

/// Its events without their times, once it has ended: a letter and text each.
fn events(path: &Path) -> Vec<(String, String)> {
    let text = || fs::read_to_string(path).expect("a recording");
    wait_for("the recording to end", || text().contains(",\"x\","));
    let text = text();
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let header: Value = serde_json::from_str(lines.next().expect("a header")).expect("JSON");
    assert_eq!(header["version"], 3);
    let event = |line| {
        let (after, code, text): (f64, String, String) = serde_json::from_str(line).expect("JSON");
        assert!(after >= 0.0);
        (code, text)
    };
    lines.map(event).collect()
}

fn output(events: &[(String, String)]) -> String {
    events.iter().filter(|(code, _)| code == "o").map(|(_, text)| &**text).collect()
}

fn replayed(words: &[&str], path: &Path) -> String {
    let mut replay = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = run_ok(replay.arg("replay").args(words).arg(path));
    String::from_utf8(output.stdout).expect("text")
}

/// A program at a terminal of 100 columns.
fn at_terminal(command: Command) -> (Child, File) {
    let (child, master, _) = terminal::start(command, (30, 100));
    (child, master)
}

#[test]
fn what_is_seen_at_a_terminal_is_recorded_and_replayed() {
    let folder = directory();
    let audit = folder.path().with_extension("audit");
    let log = format!("TidegateAuditLog {}", audit.display());
    let gateway = recording(folder.path(), &["TidegateRecord shells", &log]);
    let command =
        "printf 'a\\033]0;title\\007b\\033[31mc\\n'; stty size; read x; stty size; exit 3";
    let (mut child, mut master) = at_terminal(gateway.ssh(&[TTY], &[command]));
    let mut seen = String::new();
    let mut bytes = [0; 512];
    while !seen.contains("30 100") {
        let len = master.read(&mut bytes).expect("output");
        seen += &String::from_utf8_lossy(&bytes[..len]);
    }
    let path = recordings(folder.path()).pop().expect("a recording");
    terminal::resize(&master, (20, 90));
    let resized = || fs::read_to_string(&path).expect("it").contains("\"r\",\"90x20\"");
    wait_for("the size to be recorded", resized);
    master.write_all(b"\n").expect("typed");
    assert_eq!(child.wait().expect("an end").code(), Some(3), "{}", gateway.log());

    let about = fs::metadata(&path).expect("it is there");
    assert_eq!((about.mode() & 0o777, about.uid()), (0o600, nix::unistd::geteuid().as_raw()));
    let all = events(&path);
    let text = output(&all);
    assert!(text.starts_with("a\u{1b}]0;title\u{7}b\u{1b}[31mc\r\n30 100\r\n"), "{text:?}");
    assert!(text.ends_with("20 90\r\n"), "{text:?}");
    assert_eq!(all.last(), Some(&("x".to_owned(), "3".to_owned())));
    // What somebody typed is there as far as the terminal showed it, and no further.
    let header = fs::read_to_string(&path).expect("it").lines().next().expect("one").to_owned();
    let header: Value = serde_json::from_str(&header).expect("JSON");
    assert_eq!((&header["term"]["cols"], &header["term"]["rows"]), (&100.into(), &30.into()));
    assert_eq!(header["command"], command);

    assert!(
        replayed(&["--dump"], &path).starts_with("abc\n30 100\n"),
        "{:?}",
        replayed(&["--dump"], &path)
    );
    let played = replayed(&["--speed", "1000", "--idle", "0.01"], &path);
    assert!(played.starts_with("ab\u{1b}[31mc\r\n30 100\r\n"), "{played:?}");

    assert_exported(&path, &text);

    // What has no terminal is not recorded, nor are files.
    run_ok(&mut gateway.ssh(&[], &["echo plain"]));
    assert!(gateway.sftp(&[], "ls /\n").status.success());
    assert_eq!(recordings(folder.path()).len(), 1);
    let told = || fs::read_to_string(&audit).expect("an audit");
    wait_for("the audit to tell its end", || told().contains("\"record_end\""));
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(told().contains("\"record_start\"") && told().contains(&name), "{}", told());
    let _ = fs::remove_file(&audit);
}

/// Version 2 of it has the same text, by times that do not go back.
fn assert_exported(path: &Path, text: &str) {
    let older = replayed(&["--export", "asciicast"], path);
    let mut lines = older.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let header = lines.next().expect("a header");
    let size = (&header["version"], &header["width"], &header["height"]);
    assert_eq!(size, (&2.into(), &100.into(), &30.into()));
    let (mut last, mut shown) = (0.0, String::new());
    for event in lines {
        let at = event[0].as_f64().expect("a time");
        assert!(at >= last && (event[1] == "o" || event[1] == "r"), "{older}");
        last = at;
        if event[1] == "o" {
            shown += event[2].as_str().expect("text");
        }
    }
    assert_eq!(shown, text);
}

#[test]
fn sessions_without_a_terminal_are_recorded_where_it_says_so() {
    let folder = directory();
    let gateway = recording(folder.path(), &["TidegateRecord sessions"]);
    // Both streams, bytes that are no text, much at once, and a signal's end.
    let script =
        "printf 'out\\377\\n'; sleep 0.05; echo err >&2; sleep 0.05; seq 40000; kill -TERM $$";
    let seen = gateway.ssh(&[], &[script]).output().expect("ssh starts");
    assert_eq!(seen.status.code(), Some(255), "{}", gateway.log());
    let all = events(&recordings(folder.path())[0]);
    let lines: String = (1..=40_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(output(&all), format!("out\u{fffd}\nerr\n{lines}"));
    assert_eq!(seen.stdout, [b"out\xff\n", lines.as_bytes()].concat());
    // A subsystem is none, with this or without; each session has a file of its own.
    assert!(gateway.sftp(&[], "ls /\n").status.success());
    run_ok(&mut gateway.ssh(&[], &["true"]));
    assert_eq!(recordings(folder.path()).len(), 2);
}

/// SECURITY case 105: what cannot be recorded is not seen, unless it says so.
#[test]
fn case_105_without_a_recorder_there_is_no_session() {
    let folder = directory();
    let missing = folder.path().join("missing");
    let gateway = recording(&missing, &["TidegateRecord shells"]);
    let mark = folder.path().join("ran");
    let command = format!("touch {}; echo seen", mark.display());
    let said = gateway.ssh(&[TTY], &[&command]).output().expect("ssh starts");
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(!said.status.success() && text.contains(REFUSED), "{said:?}\n{}", gateway.log());
    assert!(said.stdout.is_empty() && !mark.exists());
    let why = format!("TidegateRecordDirectory {}: No such file", missing.display());
    gateway.tells(&why);
    // Others may not write where recordings are.
    fs::create_dir(&missing).expect("a folder");
    fs::set_permissions(&missing, fs::Permissions::from_mode(0o777)).expect("a mode");
    let said = gateway.ssh(&[TTY], &[&command]).output().expect("ssh starts");
    assert!(!said.status.success() && !mark.exists(), "{said:?}");
    // What is not recorded has no need of it.
    gateway.assert_alive();

    let none = folder.path().join("none");
    let lines = ["TidegateRecord shells", "TidegateRecordOnFailure continue"];
    let gateway = recording(&none, &lines);
    let said = run_ok(&mut gateway.ssh(&[TTY], &[&command]));
    assert_eq!(String::from_utf8_lossy(&said.stdout), "seen\r\n");
    gateway.tells("sessions go on without");
}

/// A session in which what is typed comes back.
fn echo(gateway: &Gateway, options: &[&str]) -> Child {
    let mut ssh = gateway.ssh(options, &["stty -echo 2>/dev/null; echo ready; exec cat"]);
    let ssh = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = ssh.expect("ssh starts");
    expect(&mut child, "ready");
    child
}

/// Reads as much of it, and the end of the line.
fn expect(child: &mut Child, text: &str) {
    let mut seen = String::new();
    let output = child.stdout.as_mut().expect("output");
    while !seen.ends_with('\n') {
        let mut byte = [0];
        output.read_exact(&mut byte).expect("more");
        seen.push(char::from(byte[0]));
    }
    assert_eq!(seen.trim_end(), text);
}

fn say(child: &mut Child, line: &str) {
    child.stdin.as_mut().expect("input").write_all(line.as_bytes()).expect("typed");
}

/// SECURITY R28: nothing is seen that has not been written, and nobody else waits for that.
#[test]
fn r28_a_recorder_that_stands_still_holds_up_its_own_sessions_alone() {
    if !nix::unistd::geteuid().is_root() {
        println!("not run: without root, recorder and sessions are one process");
        return;
    }
    let folder = directory();
    let gateway = recording(folder.path(), &["TidegateRecord shells"]);
    let mut recorded = echo(&gateway, &[TTY]);
    let mut other = echo(&gateway, &[]);
    let path = recordings(folder.path()).pop().expect("a recording");
    let broker = gateway.child.id();
    // The process of the account has no hold of the file.
    let held = fs::read_dir(format!("/proc/{}/fd", gateway.serving())).expect("descriptors");
    let files = held.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    assert!(!files.into_iter().any(|file| file.starts_with(folder.path())));

    kill("-STOP", broker);
    say(&mut recorded, "held\n");
    for n in 0..20 {
        say(&mut other, &format!("{n}\n"));
        expect(&mut other, &n.to_string());
    }
    let fd = std::os::fd::AsFd::as_fd(recorded.stdout.as_ref().expect("output"));
    let mut fds = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN)];
    let arrived = nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).expect("a look");
    assert!(!fs::read_to_string(&path).expect("it").contains("held"));
    kill("-CONT", broker);
    assert_eq!(arrived, 0, "something was seen before it was recorded");
    expect(&mut recorded, "held");
    assert!(fs::read_to_string(&path).expect("it").contains("held"));
    for mut child in [recorded, other] {
        drop(child.stdin.take());
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A gateway whose recordings are on a disk of 64 KiB.
fn recording_on_a_small_disk(folder: &Path, lines: &[&str]) -> Gateway {
    let place = std::ffi::CString::new(folder.as_os_str().as_encoded_bytes()).expect("it");
    recording_by(folder, lines, |command| {
        let mount = move || {
            let none = std::ptr::null();
            let (apart, tmpfs) = (libc::MS_REC | libc::MS_PRIVATE, c"tmpfs".as_ptr());
            // SAFETY: texts that live during the calls.
            let mounted = unsafe {
                libc::unshare(libc::CLONE_NEWNS) == 0
                    && libc::mount(none, c"/".as_ptr(), none, apart, none.cast()) == 0
                    && libc::mount(
                        tmpfs,
                        place.as_ptr(),
                        tmpfs,
                        0,
                        c"size=64k,mode=700".as_ptr().cast(),
                    ) == 0
            };
            if mounted { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        // SAFETY: between fork and exec only system calls are made.
        unsafe { command.pre_exec(mount) };
    })
}

/// SECURITY R28: a disk that is full ends sessions that are recorded there.
#[test]
fn r28_a_full_disk_ends_its_sessions_and_nothing_is_seen_that_is_not_on_it() {
    const SIZE: usize = 64 << 10;
    if !nix::unistd::geteuid().is_root() {
        println!("not run: only root can mount");
        return;
    }
    let folder = directory();
    let gateway = recording_on_a_small_disk(folder.path(), &["TidegateRecord shells"]);
    let said = gateway.ssh(&[TTY], &["stty -opost; seq 1 100000; echo end"]).output().expect("ssh");
    assert!(!said.status.success(), "{}", gateway.log());
    assert!(String::from_utf8_lossy(&said.stderr).contains(REFUSED), "{said:?}");
    assert!(said.stdout.len() < SIZE, "{} bytes of no recording were seen", said.stdout.len());
    gateway.tells("No space left on device");
    gateway.assert_alive();
}

/// Whoever has seen enough has his terminal back.
#[test]
fn a_replay_that_is_left_puts_the_terminal_right() {
    let folder = directory();
    let path = folder.path().join("it.cast");
    let other_screen = "{\"version\":3}\n[0,\"o\",\"\\u001b[?1049hSeen\"]\n[9999,\"o\",\"\"]\n";
    fs::write(&path, other_screen).expect("a recording");
    let mut replay = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    replay.arg("replay").arg(&path);
    let (mut replay, mut screen) = at_terminal(replay);
    let mut shown = Vec::new();
    let mut read_until = |what: &str| {
        let mut chunk = [0; 256];
        while !String::from_utf8_lossy(&shown).contains(what) {
            let len = screen.read(&mut chunk).expect("more");
            shown.extend_from_slice(&chunk[..len]);
        }
    };
    read_until("\x1b[?1049hSeen");
    run_ok(Command::new("kill").args(["-INT", &replay.id().to_string()]));
    read_until("\x1b[?1049l");
    assert_eq!(replay.wait().expect("its end").code(), Some(130));
}

/// Where it says so, a session whose recording fails in its middle goes on, and all of it is seen.
#[test]
fn a_full_disk_is_no_end_where_sessions_go_on_without() {
    if !nix::unistd::geteuid().is_root() {
        println!("not run: only root can mount");
        return;
    }
    let folder = directory();
    let lines = ["TidegateRecord shells", "TidegateRecordOnFailure continue"];
    let gateway = recording_on_a_small_disk(folder.path(), &lines);
    let said = run_ok(&mut gateway.ssh(&[TTY], &["stty -opost; seq 1 20000; echo end"]));
    let expected: String = (1..=20_000).map(|n| format!("{n}\n")).chain(["end\n".into()]).collect();
    assert_eq!(String::from_utf8_lossy(&said.stdout), expected);
    wait_for("the log to tell", || gateway.log().contains("sessions go on without"));
    gateway.tells("No space left on device");
}

/// An upgrade leaves a session and its recording to the program that began them, and nobody can be
/// recorded less for it.
#[test]
fn a_recording_goes_on_across_an_upgrade() {
    let folder = directory();
    let number = folder.path().with_extension("pid");
    let lines = ["TidegateRecord shells", &format!("PidFile {}", number.display())];
    let gateway = recording(folder.path(), &lines);
    let pid = || fs::read_to_string(&number).unwrap_or_default().trim().parse::<i32>().ok();
    wait_for("the PidFile", || pid().is_some());
    let before = pid().expect("a number");
    let mut old = echo(&gateway, &[TTY]);
    let first = recordings(folder.path()).pop().expect("a recording");
    run_ok(Command::new("kill").args(["-USR2", &before.to_string()]));
    wait_for("another program", || pid().is_some_and(|pid| pid != before));
    let mut new = echo(&gateway, &[TTY]);
    let others = recordings(folder.path()).into_iter().filter(|path| *path != first);
    let [second] = &others.collect::<Vec<_>>()[..] else { panic!("{}", gateway.log()) };
    for (child, path, line) in [(&mut old, &first, "old"), (&mut new, second, "new")] {
        say(child, &format!("{line}\n"));
        expect(child, line);
        assert!(fs::read_to_string(path).expect("it").contains(line), "it is seen and not written");
        // The end of the input, as a terminal has it.
        say(child, "\u{4}");
        assert_eq!(child.wait().expect("an end").code(), Some(0), "{}", gateway.log());
        let all = events(path);
        assert_eq!(output(&all), format!("ready\r\n{line}\r\n"));
    }
    let _ = run_ok(Command::new("kill").arg(pid().expect("a number").to_string()));
    let _ = fs::remove_file(&number);
}
