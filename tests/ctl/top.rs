//! `tidegate ctl top`, on a terminal and elsewhere.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use super::{Site, is_run_again, status};
use crate::support::processes::kill;
use crate::support::terminal;

/// A gateway that is busier with each look.
fn busy(site: &Site, pid: u32) {
    let looks = AtomicU64::new(0);
    site.answers(pid, move |_, stream| {
        let look = looks.fetch_add(1, Ordering::Relaxed);
        let mut status = status(pid, "serving");
        status["totals"]["connections_accepted"] = json!(1000 * look);
        status["totals"]["bytes_out"] = json!((look * 64) << 20);
        status["handshake"]["counts"] = json!([look * 10, 0, 0]);
        let text = format!("{status}\n");
        let _ = stream.write_all(text.as_bytes());
    });
}

#[test]
fn top_tells_a_line_an_interval_where_there_is_no_terminal() {
    if is_run_again() {
        return;
    }
    let site = Site::new();
    busy(&site, 1);
    site.serves(2, "leaving");
    let shown = site.ctl(&["top", "--interval", "0.2", "--count", "3"]);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 6, "{shown}");
    for pair in lines.chunks(2) {
        assert!(pair[0].starts_with("gateway 1 (0.1.0), serving for 1 day"), "{shown}");
        assert!(!pair[0].contains(" 0.0 accepted/s") && pair[0].contains(" MiB/s out"), "{shown}");
        assert!(pair[0].contains("handshake p50 500 us, p99 990 us  login none"), "{shown}");
        assert!(pair[1].starts_with("gateway 2 (0.1.0), leaving"), "{shown}");
        assert!(pair[1].contains("0.0 accepted/s") && pair[1].contains("CPU 0 %"), "{shown}");
    }
}

#[test]
fn top_ends_quietly_when_nobody_reads_on() {
    if is_run_again() {
        return;
    }
    let site = Site::new();
    busy(&site, 1);
    let mut command = site.command(&["top", "--interval", "0.1"]);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    assert!(child.wait().expect("an end").success());
    let mut complaint = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut complaint).expect("text");
    assert_eq!(complaint, "");
}

/// A program at a terminal of its own.
struct Terminal {
    child: Child,
    master: File,
    seen: String,
}

impl Terminal {
    fn start(command: Command, rows: u16, columns: u16) -> Terminal {
        let (child, master, _) = terminal::start(command, (rows, columns));
        Terminal { child, master, seen: String::new() }
    }

    /// Reads until this has come since the last call, and answers with all up to it.
    fn see(&mut self, what: &str) -> String {
        let mut bytes = [0; 4096];
        loop {
            if let Some(at) = self.seen.find(what) {
                let rest = self.seen.split_off(at + what.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let len = self.master.read(&mut bytes).unwrap_or(0);
            assert!(len > 0, "it has ended without {what:?}: {:?}", self.seen);
            self.seen += &String::from_utf8_lossy(&bytes[..len]);
        }
    }

    fn resize(&self, rows: u16, columns: u16) {
        terminal::resize(&self.master, (rows, columns));
    }

    /// The terminal is as it was, and this is how the program ended.
    fn end(mut self) -> Option<i32> {
        self.see("\x1b[?7h\x1b[?25h\x1b[?1049l");
        let status = self.child.wait().expect("an end");
        let settings = nix::sys::termios::tcgetattr(&self.master).expect("settings");
        let echo = nix::sys::termios::LocalFlags::ECHO | nix::sys::termios::LocalFlags::ICANON;
        assert!(settings.local_flags.contains(echo), "{settings:?}");
        status.code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn top_draws_in_place_and_leaves_the_terminal_as_it_was() {
    if is_run_again() {
        return;
    }
    let site = Site::new();
    busy(&site, 1);
    let start = |words: &[&str]| Terminal::start(site.command(words), 24, 80);
    let mut terminal = start(&["top", "--interval", "0.2"]);
    terminal.see("\x1b[?1049h\x1b[?25l\x1b[?7l");
    assert!(terminal.see(" accepted/s").contains("gateway 1 (0.1.0), serving"));
    let frame = terminal.see("\x1b[J");
    assert!(frame.contains("\r\n  account  ann   4712"), "{frame:?}");
    // Another size is drawn for at once, and everything fits.
    terminal.resize(6, 20);
    let mut frame = String::new();
    while frame.matches("\r\n").count() != 5 {
        frame = terminal.see("\x1b[J");
    }
    let widths = frame
        .split("\r\n")
        .map(|line| line.trim_start_matches("\x1b[H").trim_end_matches("\x1b[J"));
    assert!(widths.clone().all(|line| line.trim_end_matches("\x1b[K").len() <= 20), "{frame:?}");
    terminal.master.write_all(b"xq").expect("typed");
    assert_eq!(terminal.end(), Some(0));

    let mut terminal = start(&["top", "--interval", "3600"]);
    terminal.see("looking ...");
    terminal.master.write_all(b"\x03").expect("typed");
    assert_eq!(terminal.end(), Some(0));

    for (signal, code) in
        [("-TERM", 128 + libc::SIGTERM), ("-HUP", 128 + libc::SIGHUP), ("-INT", 0)]
    {
        let mut terminal = start(&["top", "--interval", "3600"]);
        terminal.see("looking ...");
        kill(signal, terminal.child.id());
        assert_eq!(terminal.end(), Some(code), "{signal}");
    }
    let terminal = start(&["top", "--interval", "0.1", "--count", "2"]);
    assert_eq!(terminal.end(), Some(0));
}

#[test]
fn top_stops_and_goes_on_with_the_terminal_as_it_was() {
    if is_run_again() {
        return;
    }
    let site = Site::new();
    busy(&site, 1);
    // A shell with jobs: where nobody could let it go on, a program does not stop.
    let script = "set -m; \"$@\"; stty -a; echo stopped; fg; stty -a; echo end";
    let inner = site.command(&["top", "--interval", "0.2"]);
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(inner.get_program());
    command.args(inner.get_args()).env("XDG_RUNTIME_DIR", site.folder.path());
    if nix::unistd::geteuid().is_root() {
        command.uid(super::NOBODY).gid(super::NOBODY).current_dir("/");
    }
    let mut terminal = Terminal::start(command, 24, 200);
    let assert_usual = |settings: &str| {
        assert!(settings.contains(" icanon") && settings.contains(" echo "), "{settings}");
    };
    terminal.see(" accepted/s");
    terminal.master.write_all(b"\x1a").expect("typed");
    terminal.see("\x1b[?1049l");
    assert_usual(&terminal.see("stopped\r\n"));
    terminal.see("\x1b[?1049h");
    terminal.see(" accepted/s");
    terminal.master.write_all(b"q").expect("typed");
    terminal.see("\x1b[?1049l");
    assert_usual(&terminal.see("end\r\n"));
    assert!(terminal.child.wait().expect("an end").success());
}
