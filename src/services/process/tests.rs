use std::time::Duration;

use super::bench::{Bench, Said, Seen, Setting, exec, pty};
use crate::base::SeededEntropy;
use crate::connection::{ChannelRequest, WindowSize};
use crate::reactor::either::Way;

/// Where things were said, for statements about order.
fn place(seen: &Seen, said: &Said) -> usize {
    seen.said.iter().position(|known| known == said).unwrap_or_else(|| panic!("{said:?}: {seen:?}"))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    crate::base::Entropy::fill(&mut SeededEntropy::new(len as u64), &mut bytes);
    bytes
}

#[test]
fn a_command_runs_from_request_to_close() {
    let seen = Bench::exec("echo out; echo err >&2; exit 7");
    assert_eq!((text(&seen.stdout), text(&seen.stderr)), ("out\n", "err\n"));
    assert_eq!(seen.said.len(), 4, "{seen:?}");
    assert_eq!((&seen.said[0], &seen.said[3]), (&Said::Reply(true), &Said::Close));
    place(&seen, &Said::Status(7));
    place(&seen, &Said::Eof);
}

#[test]
fn death_by_signal_is_told() {
    let seen = Bench::exec("kill -KILL $$");
    place(&seen, &Said::Signal("KILL".to_owned()));
    assert!(!seen.said.contains(&Said::Status(0)));
}

#[test]
fn case_88_only_one_start() {
    let mut bench = Bench::new(&Setting::default());
    bench.jobs_held = true;
    bench.ask(exec("sleep 0.2; echo first"));
    bench.ask(exec("echo second"));
    bench.ask(ChannelRequest::Shell);
    bench.idle(Duration::from_millis(50));
    assert_eq!(bench.seen.said, []);
    bench.jobs_held = false;
    let seen = bench.finish();
    assert_eq!(text(&seen.stdout), "first\n");
    let replies = [Said::Reply(true), Said::Reply(false), Said::Reply(false)];
    assert_eq!(seen.said[..3], replies);
}

#[test]
fn what_was_prepared_is_given_back_for_another_service() {
    let mut bench = Bench::new(&Setting::default());
    bench.jobs_held = true;
    bench.ask(pty(80, 24, &[]));
    for size in [20_000, 1, 1, 20_000, 1] {
        bench.say_all(&noise(size));
    }
    let held = bench.leases();
    bench.make_way();
    assert!(bench.leases() < held);
    bench.jobs_held = false;
    bench.say_close();
    bench.finish();
}

#[test]
fn what_cannot_be_started_is_refused() {
    let mut bench = Bench::new(&Setting::default());
    bench.spoil_shell();
    bench.ask(exec("true"));
    bench.say_all(&noise(100_000));
    bench.until("a refusal", |bench| !bench.seen.said.is_empty());
    assert_eq!(bench.seen.said, [Said::Reply(false)]);
    let why = bench.process.outcome().unwrap();
    assert!(why.starts_with("not started: /no/such/shell: No such file"), "{why}");
    bench.say_close();
    bench.finish();
}

/// A client that wants no answer would wait for ever for a program that is not there.
#[test]
fn what_cannot_be_started_without_an_answer_closes() {
    let mut bench = Bench::new(&Setting::default());
    bench.spoil_shell();
    bench.request(exec("true"), false);
    bench.say_all(&noise(100_000));
    let seen = bench.finish();
    assert_eq!(seen.said, [Said::Close]);
}

#[test]
fn megabytes_pass_through_unharmed() {
    for driver in Way::ALL {
        let setting = Setting { driver, ..Setting::default() };
        let mut bench = Bench::new(&setting);
        bench.ask(exec("exec cat"));
        let block = noise(1 << 20);
        for _ in 0..64 {
            bench.say_all(&block);
        }
        bench.say_eof();
        let seen = bench.finish();
        assert_eq!(seen.stdout.len(), 64 << 20);
        assert!(seen.stdout.chunks(1 << 20).all(|back| back == block));
        place(&seen, &Said::Status(0));
    }
}

#[test]
fn narrow_windows_and_packets_lose_nothing() {
    let sizes = [(1000, 300), (5000, 4000), (20_000, 32_768), (300_000, 4096), (1 << 20, 16_384)];
    for (window, packet) in sizes {
        let mut bench = Bench::new(&Setting { window, packet, ..Setting::default() });
        bench.ask(exec("seq 1 40000; seq 40001 60000 >&2; sleep 0.01; seq 60001 70000"));
        let seen = bench.finish();
        let numbers = |range: std::ops::RangeInclusive<u32>| -> String {
            range.map(|n| format!("{n}\n")).collect()
        };
        assert!(text(&seen.stdout) == numbers(1..=40_000) + &numbers(60_001..=70_000));
        assert!(text(&seen.stderr) == numbers(40_001..=60_000));
    }
}

#[test]
fn a_small_window_does_not_silence_one_stream_for_the_other() {
    // One idle read may not hold all of the window.
    let mut bench = Bench::new(&Setting { window: 4096, packet: 4096, ..Setting::default() });
    bench.ask(exec("echo here >&2; sleep 0.2; echo there >&2; cat"));
    bench.until("errors", |bench| bench.seen.stderr == b"here\nthere\n");
    bench.say_eof();
    bench.finish();
}

#[test]
fn new_keys_in_the_middle_lose_nothing() {
    let setting = Setting { rekey_bytes: Some(800_000), ..Setting::default() };
    let mut bench = Bench::new(&setting);
    bench.ask(exec("exec cat"));
    let sent = noise(3 << 20);
    bench.say_all(&sent);
    bench.say_eof();
    let seen = bench.finish();
    assert!(seen.stdout == sent);
    place(&seen, &Said::Status(0));
}

#[test]
fn a_peer_that_does_not_read_holds_little_and_loses_nothing() {
    for command in ["yes abcdefg | head -c 10000000", "for i in {1..20000}; do echo $i; done"] {
        let mut bench = Bench::new(&Setting { window: 1 << 30, ..Setting::default() });
        bench.ask(exec(command));
        bench.until("the start", |bench| !bench.seen.said.is_empty());
        bench.deaf = true;
        bench.idle(Duration::from_millis(300));
        bench.deaf = false;
        let seen = bench.finish();
        let expected = std::process::Command::new("bash").args(["-c", command]).output().unwrap();
        assert!(seen.stdout == expected.stdout, "{command}");
    }
}

#[test]
fn without_credit_nothing_is_read() {
    let mut bench = Bench::new(&Setting { window: 100_000, ..Setting::default() });
    bench.granting = false;
    bench.ask(exec("yes | head -c 250000"));
    bench.until("a full window", |bench| bench.seen.stdout.len() == 100_000);
    bench.idle(Duration::from_millis(100));
    assert_eq!(bench.seen.stdout.len(), 100_000);
    bench.say_close();
    bench.finish();
}

#[test]
fn half_close_ends_the_input_only() {
    let mut bench = Bench::new(&Setting::default());
    bench.ask(exec("wc -c; sleep 0.1; echo more"));
    bench.say_all(b"12345");
    bench.idle(Duration::from_millis(100));
    assert_eq!(bench.seen.stdout, b"");
    bench.say_eof();
    let seen = bench.finish();
    assert_eq!(text(&seen.stdout), "5\nmore\n");
}

#[test]
fn input_that_nobody_reads_does_not_stall_the_channel() {
    let mut bench = Bench::new(&Setting::default());
    bench.ask(exec("exec 0<&-; sleep 0.3; echo done"));
    for _ in 0..6 {
        bench.say_all(&noise(1 << 20));
    }
    let seen = bench.finish();
    assert_eq!(text(&seen.stdout), "done\n");
}

/// Sends all of it to a program that reads it only in the end, and checks what arrived.
fn keep_waiting(bench: &mut Bench, pieces: std::slice::Chunks<'_, u8>) -> u64 {
    bench.jobs_held = true;
    bench.ask(exec("sleep 0.5; md5sum"));
    let sent = pieces.clone().flatten().copied().collect::<Vec<u8>>();
    let half = pieces.len() / 2;
    for piece in pieces.clone().take(half) {
        bench.say_all(piece);
    }
    let mut most = bench.leases();
    bench.jobs_held = false;
    for piece in pieces.skip(half) {
        bench.say_all(piece);
        most = most.max(bench.leases());
    }
    bench.say_eof();
    let seen = bench.finish();
    let mut child = std::process::Command::new("md5sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &sent).unwrap();
    assert_eq!(seen.stdout, child.wait_with_output().unwrap().stdout);
    most
}

#[test]
fn single_bytes_for_a_program_that_waits_hold_little() {
    let mut bench = Bench::new(&Setting::default());
    let most = keep_waiting(&mut bench, noise(30_000).chunks(1));
    // The shared buffers on offer, one write, what is just being received.
    assert!(most <= 8 + 8 + 2, "{most}");
}

#[test]
fn a_program_that_waits_leaves_buffers_to_others() {
    let mut bench = Bench::new(&Setting { leases: 24, ..Setting::default() });
    let most = keep_waiting(&mut bench, noise(2 << 20).chunks(30_000));
    assert!(most <= 8 + 18 + 8 + 2, "{most}");
    let mut bench = Bench::new(&Setting { leases: 200, ..Setting::default() });
    let most = keep_waiting(&mut bench, noise(2 << 20).chunks(30_000));
    assert!(most > 60, "with enough of them nothing is copied: {most}");
}

#[test]
fn the_status_is_told_before_what_runs_on_has_ended() {
    let mut bench = Bench::new(&Setting::default());
    bench.ask(exec("(sleep 0.3; echo late) & echo early; exit 4"));
    bench.until("the status", |bench| bench.seen.said.contains(&Said::Status(4)));
    assert!(bench.is_reaped());
    assert!(!bench.seen.said.contains(&Said::Eof));
    let seen = bench.finish();
    assert_eq!(text(&seen.stdout), "early\nlate\n");
    assert!(place(&seen, &Said::Eof) < place(&seen, &Said::Close));
}

#[test]
fn what_was_left_in_the_background_in_good_order_lives_on() {
    let mut bench = Bench::new(&Setting::default());
    bench.ask(exec("sleep 1000 >/dev/null 2>&1 </dev/null & echo $!"));
    let seen = bench.finish();
    let pid = nix::unistd::Pid::from_raw(text(&seen.stdout).trim().parse().unwrap());
    assert_eq!(nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL), Ok(()));
}

#[test]
fn a_lost_terminal_takes_its_processes_along() {
    for vanishes in [false, true] {
        let mut bench = Bench::new(&Setting::default());
        bench.ask(pty(80, 24, &[]));
        bench.ask(exec("sleep 1000 & echo $!; sleep 1000"));
        bench.until("a number", |bench| bench.seen.stdout.ends_with(b"\n"));
        let sleeper = text(&bench.seen.stdout).trim().to_owned();
        if vanishes {
            bench.vanish();
        } else {
            bench.say_close();
        }
        bench.finish();
        bench.until("the end of the program", |bench| bench.is_reaped());
        bench.until("the end of its child", |_| {
            let status = std::fs::read_to_string(format!("/proc/{sleeper}/stat"));
            status.map_or(true, |status| status.contains(") Z "))
        });
    }
}

/// What a client writes and closes behind is all read, and the program goes on to its end.
#[test]
fn a_command_outlives_its_channel_and_reads_all_that_came() {
    let sent = noise(300_000);
    for (vanishes, held) in [(false, false), (true, false), (false, true)] {
        let home = tempfile::tempdir().unwrap();
        let (part, whole) = (home.path().join("part"), home.path().join("whole"));
        let home = home.path().to_str().unwrap().to_owned();
        let mut bench = Bench::new(&Setting { home, ..Setting::default() });
        bench.jobs_held = held;
        bench.ask(exec("sleep 0.2; cat >part; mv part whole"));
        bench.say_all(&sent);
        // What a dead connection has brought has to be here.
        bench.idle(Duration::from_millis(50));
        if vanishes {
            bench.vanish();
        } else {
            bench.say_close();
        }
        bench.idle(Duration::from_millis(50));
        bench.jobs_held = false;
        bench.finish();
        bench.until("the end of the program", |bench| bench.is_reaped());
        assert!(!part.exists());
        assert!(std::fs::read(whole).unwrap() == sent);
    }
}

/// Nobody reads what it says, and it hears that.
#[test]
fn a_command_without_a_channel_cannot_write_for_ever() {
    let mut bench = Bench::new(&Setting::default());
    bench.ask(exec("exec yes"));
    bench.until("some of it", |bench| bench.seen.stdout.len() > 100_000);
    bench.say_close();
    bench.finish();
    bench.until("the end of the program", |bench| bench.is_reaped());
}

/// What reads nothing holds a channel's memory for so long and no longer.
#[test]
fn what_is_never_read_does_not_hold_the_channel() {
    let mut bench = Bench::new(&Setting::default());
    bench.ask(exec("exec sleep 6"));
    bench.say_all(&noise(1 << 20));
    bench.say_close();
    bench.finish();
    assert!(!bench.is_reaped());
    bench.until("the end of the program", |bench| bench.is_reaped());
}

/// As in OpenSSH: whoever logs out does not wait for what he leaves in the background.
#[test]
fn a_terminal_is_over_with_its_program() {
    let mut bench = Bench::new(&Setting::default());
    bench.ask(pty(80, 24, &[]));
    bench.ask(exec("trap '' HUP; (sleep 1000; echo late) & echo $!; seq 1 20000; exit 5"));
    let seen = bench.finish();
    place(&seen, &Said::Status(5));
    let (sleeper, numbers) = text(&seen.stdout).split_once("\r\n").unwrap();
    let expected: String = (1..=20_000).map(|n| format!("{n}\r\n")).collect();
    assert!(numbers == expected);
    let group = nix::unistd::Pid::from_raw(sleeper.parse().unwrap());
    assert_eq!(nix::sys::signal::kill(group, nix::sys::signal::Signal::SIGKILL), Ok(()));
}

#[test]
fn a_connection_may_vanish_at_any_time() {
    for turns in 0..60 {
        let mut bench = Bench::new(&Setting::default());
        bench.jobs_held = turns % 7 == 3;
        bench.ask(pty(80, 24, &[0]));
        bench.ask(exec("stty raw -echo; yes abc | head -c 3000000; cat"));
        let mut data = &noise(1 << 20)[..];
        for _ in 0..turns {
            let count = bench.say(data);
            data = &data[count..];
            bench.turn();
        }
        bench.vanish();
        bench.jobs_held = false;
        bench.finish();
        if bench.pid > 0 {
            bench.until("the end of the program", |bench| bench.is_reaped());
        }
    }
}

#[test]
fn a_process_that_ignores_the_hang_up_does_not_hold_the_channel() {
    let mut bench = Bench::new(&Setting::default());
    bench.ask(exec("trap '' HUP; echo set; exec sleep 0.7"));
    bench.until("its answer", |bench| bench.seen.stdout == b"set\n");
    bench.vanish();
    bench.finish();
    assert!(!bench.is_reaped());
    bench.until("the end of the program", |bench| bench.is_reaped());
}

#[test]
fn a_terminal_has_size_modes_and_name() {
    let mut bench = Bench::new(&Setting::default());
    // ECHO off.
    bench.ask(pty(91, 29, &[53, 0, 0, 0, 0, 0]));
    bench.ask(exec("stty size; stty -a | grep -o -e '-echo '; echo $TERM $SSH_TTY; tty; cat"));
    bench.until("the answers", |bench| bench.seen.stdout.split(|b| *b == b'\n').count() == 5);
    bench.say_all(b"unheard\n\x04");
    let seen = bench.finish();
    let lines: Vec<&str> = text(&seen.stdout).lines().collect();
    assert_eq!(lines[..2], ["29 91", "-echo "]);
    assert_eq!(lines[2], format!("vt220 {}", lines[3]));
    assert_eq!(lines[4..], ["unheard"]);
    assert_eq!(seen.said[..2], [Said::Reply(true), Said::Reply(true)]);
    place(&seen, &Said::Status(0));
}

#[test]
fn a_shell_is_driven_through_a_terminal() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().to_str().unwrap().to_owned();
    let mut bench = Bench::new(&Setting { home: home.clone(), ..Setting::default() });
    bench.ask(pty(80, 24, &[]));
    bench.ask(ChannelRequest::Env { name: "PS1".into(), value: (*b"> ").into() });
    bench.ask(ChannelRequest::Shell);
    bench.say_all(b"pwd; echo $SET; echo re''ady\n");
    bench.until("its output", |bench| text(&bench.seen.stdout).contains("ready\r\n"));
    assert!(text(&bench.seen.stdout).contains(&format!("{home}\r\nby us\r\n")));
    let size = WindowSize { columns: 132, rows: 43, ..WindowSize::default() };
    bench.ask(ChannelRequest::WindowChange(size));
    bench.until("its answer", |bench| bench.seen.said.len() == 4);
    bench.say_all(b"stty size\n");
    bench.until("the size", |bench| text(&bench.seen.stdout).contains("43 132\r\n"));
    bench.say_all(b"sleep 1000\n");
    bench.idle(Duration::from_millis(200));
    bench.say_all(b"\x03");
    bench.say_all(b"echo status $?; exit 9\n");
    let seen = bench.finish();
    assert!(text(&seen.stdout).contains("status 130\r\n"), "{}", text(&seen.stdout));
    place(&seen, &Said::Status(9));
    assert!(bench.is_reaped());
}

#[test]
fn much_output_of_a_terminal_is_whole() {
    let mut bench = Bench::new(&Setting::default());
    bench.ask(pty(80, 24, &[]));
    bench.ask(exec("seq 1 200000"));
    let seen = bench.finish();
    let expected: String = (1..=200_000).map(|n| format!("{n}\r\n")).collect();
    assert!(text(&seen.stdout) == expected);
}

#[test]
fn preparations_are_for_before_the_start_and_signals_for_after() {
    let mut bench = Bench::new(&Setting::default());
    let signal = |name: &str| ChannelRequest::Signal { name: name.into() };
    let variable = |name: &str| ChannelRequest::Env { name: name.into(), value: [b'1'].into() };
    bench.ask(signal("TERM"));
    bench.ask(ChannelRequest::Break { milliseconds: 500 });
    bench.ask(ChannelRequest::WindowChange(WindowSize::default()));
    bench.ask(variable("EARLY"));
    bench.ask(exec("trap 'echo usr1' USR1; echo $EARLY$LATE; while :; do sleep 0.02; done"));
    bench.until("its output", |bench| bench.seen.stdout == b"1\n");
    let [no, yes] = [Said::Reply(false), Said::Reply(true)];
    assert_eq!(bench.seen.said, [&no, &no, &no, &yes, &yes].map(Clone::clone));
    bench.ask(variable("LATE"));
    bench.ask(pty(80, 24, &[]));
    for odd in ["BOGUS\n", "SIGTERM", "term", "", "STOP", "9"] {
        bench.ask(signal(odd));
    }
    bench.until("its answers", |bench| bench.seen.said.len() == 13);
    assert!(bench.seen.said[5..].iter().all(|said| *said == no));
    bench.ask(signal("USR1"));
    bench.until("its output", |bench| bench.seen.stdout == b"1\nusr1\n");
    bench.ask(signal("TERM"));
    let seen = bench.finish();
    assert_eq!(seen.said[13..15], [yes.clone(), yes]);
    place(&seen, &Said::Signal("TERM".to_owned()));
}

/// The end of a key exchange is received in a small buffer: output that waits for it holds none of
/// the last, even if there is no other memory for it.
#[test]
fn output_that_waits_for_new_keys_holds_none_of_the_last_buffers() {
    // The other driver has small buffers on offer that nobody can take by hand.
    let mut bench = Bench::new(&Setting { driver: Way::Mio, ..Setting::default() });
    bench.ask(exec("exec cat"));
    bench.until("the program", |bench| !bench.seen.said.is_empty());
    bench.begin_rekey();
    let mut held = bench.take_all();
    let before = bench.leases();
    bench.send_shared(b"in time", held.pop().unwrap());
    assert_eq!(bench.leases(), before - 1);
    bench.give_back(held);
    bench.say_eof();
    let seen = bench.finish();
    assert_eq!(text(&seen.stdout), "in time");
}
