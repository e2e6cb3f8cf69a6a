//! Clients that do not keep to the protocol, or that stop listening.

use std::fs as files;

use proptest::prelude::*;

use super::rig::{Got, Rig, Setup, encode, init};
use super::*;
use crate::limits::{SFTP_REQUESTS_MAX, WINDOW_BYTES};
use crate::reactor::{Class, PoolSizes};

#[test]
fn nothing_is_served_before_init() {
    let home = home();
    let mut rig = Rig::with(home.path(), Setup::default());
    rig.send(&encode(1, Operation::Remove { path: b"file" }));
    rig.settle();
    assert!(rig.take_replies().is_empty());
    assert_eq!((rig.exit, rig.ended), (Some(EXIT_BAD_PEER), true));
    assert_eq!(rig.leases_out(), 0);
    rig.cut();
}

/// Everybody receives in the small buffers, and whatever comes compressed goes into the larger ones:
/// a session that has to wait must not hold them all.
#[test]
fn data_that_waits_leaves_receive_buffers_to_others() {
    for piece in [10, 3_000, 5_000] {
        let home = home();
        let sizes = PoolSizes { small: 8, packet: 12, ..Setup::default().sizes };
        let mut rig = Rig::greeted_with(home.path(), Setup { sizes, ..Setup::default() });
        let handle = rig.open("file", NEW);
        rig.frozen = true;
        rig.ask(Operation::Stat { path: b"." });
        let content = pattern(60_000);
        let write = |offset: usize, data| {
            let offset = offset as u64;
            encode(77, Operation::Write { handle: &handle, offset, data })
        };
        let stream = [write(0, &content[..40_000]), write(40_000, &content[40_000..])].concat();
        rig.send_in(&stream, piece);
        for class in [Class::Small, Class::Packet] {
            assert!(rig.pool.free(class) > 2, "{} are left of {class:?}", rig.pool.free(class));
        }
        assert!(rig.take_replies().is_empty());
        rig.frozen = false;
        rig.settle();
        assert_eq!(rig.take_replies().len(), 3);
        assert!(files::read(home.path().join("file")).expect("read") == content);
        assert_eq!(rig.leases_out(), 0);
        rig.cut();
    }
}

#[test]
fn impossible_lengths_end_the_session() {
    for len in [0, 4, SFTP_PACKET_BYTES_MAX + 1, u32::MAX] {
        let home = home();
        let mut rig = Rig::greeted(home.path());
        rig.ask(Operation::Stat { path: b"." });
        let mut bytes = len.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[kind::STAT, 0, 0, 0, 9, 0, 0, 0, 1, b'.']);
        rig.send(&bytes);
        rig.settle();
        assert_eq!(rig.take_replies().len(), 1, "what came before is answered");
        assert_eq!(rig.exit, Some(EXIT_BAD_PEER), "{len}");
        assert_eq!(rig.leases_out(), 0);
        rig.cut();
    }
}

/// SECURITY 112, 110: the frame is sound, so the session goes on.
#[test]
fn cases_110_112_bad_requests_are_bad_messages() {
    let home = home();
    let mut rig = Rig::greeted(home.path());
    let handle = rig.open("file", NEW);
    let packet = |kind: u8, id: u32, body: &[u8]| {
        let mut bytes = (5 + body.len() as u32).to_be_bytes().to_vec();
        bytes.push(kind);
        bytes.extend_from_slice(&id.to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    };
    let long_path = Operation::Stat { path: &[b'x'; 65_536] };
    let mut script = encode(1, long_path);
    script.extend(packet(kind::STAT, 2, b""));
    script.extend(packet(kind::STAT, 3, b"\0\0\0\x01.trailing"));
    script.extend(packet(kind::READ, 4, &[0xff; 40]));
    script.extend(packet(kind::WRITE, 5, b""));
    script.extend(packet(kind::WRITE, 6, &[0xff; 90_000]));
    script.extend(packet(kind::WRITE, 7, &[0; 30]));
    // A handle that claims to be longer than its packet, and data that is shorter than its packet:
    // clients send those, and what is behind the data does not count.
    script.extend(packet(kind::WRITE, 8, b"\0\0\0\xc8abc"));
    let mut lying = encode(9, Operation::Write { handle: &handle, offset: 0, data: &[1; 100] });
    let at = lying.len() - 100 - 1;
    lying[at] = 50;
    script.extend(lying);
    script.extend(packet(kind::WRITE, 10, &[0; 250_000]));
    script.extend(encode(11, Operation::Stat { path: b"." }));
    rig.send(&script);
    rig.settle();
    let replies = rig.take_replies();
    assert_eq!(replies.len(), 11);
    let mut codes: Vec<_> = replies[..10].iter().map(|(id, got)| (*id, got.code())).collect();
    codes.sort_unstable();
    let codes: Vec<u32> = codes.into_iter().map(|(_, code)| code).collect();
    assert_eq!(codes, [5, 5, 5, 5, 5, 5, 4, 5, 0, 4]);
    assert!(matches!(replies[10], (11, Got::Attributes(_))));
    assert_eq!(home.path().join("file").metadata().expect("stat").len(), 50);
    assert_eq!(rig.leases_out(), 0);
}

#[test]
fn a_second_init_is_answered_and_pipelined_requests_wait_for_the_first() {
    let home = home();
    let mut rig = Rig::with(home.path(), Setup::default());
    let mut script = init();
    script.extend(encode(1, Operation::RealPath { path: b"." }));
    script.extend(init());
    script.extend(encode(2, Operation::RealPath { path: b"." }));
    rig.send(&script);
    rig.settle();
    let replies = rig.take_replies();
    let ids: Vec<u32> = replies.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [0, 1, 0, 2]);
    let root = home.path().canonicalize().expect("canonical");
    let Got::Names(names) = &replies[1].1 else { panic!("{replies:?}") };
    assert_eq!(names[0].0, root.as_os_str().as_bytes());
}

/// A client that asks and does not listen costs a bounded amount, and is served when it does.
#[test]
fn a_deaf_client_is_waited_for() {
    let home = home();
    for n in 0..200 {
        files::write(home.path().join(format!("{n:0250}")), "").expect("written");
    }
    files::write(home.path().join("file"), pattern(300_000)).expect("written");
    let mut rig = Rig::greeted(home.path());
    let handle = rig.open("file", open::READ);
    let Got::Handle(listing) = rig.call(Operation::OpenDirectory { path: b"." }) else { panic!() };
    rig.deaf = true;
    let mut script = Vec::new();
    let count = 600;
    for n in 0..count {
        let operation = match n % 3 {
            0 => Operation::Read { handle: &handle, offset: 0, len: 261_120 },
            1 => Operation::ReadDirectory { handle: &listing },
            _ => Operation::LinkStat { path: &[b'y'; 100] },
        };
        script.extend(encode(n, operation));
    }
    assert!(script.len() < WINDOW_BYTES as usize);
    rig.send(&script);
    rig.settle();
    assert!(rig.ops_peak <= SFTP_READS_MAX && rig.jobs_peak <= SFTP_LOOKS_MAX);
    assert!(rig.sftp.waiting.len() <= SFTP_REQUESTS_MAX);
    assert!(rig.leases_out() <= 40, "{}", rig.leases_out());
    rig.deaf = false;
    rig.settle();
    let replies = rig.take_replies();
    assert_eq!(replies.len(), count as usize);
    assert_eq!(rig.leases_out(), 0);
}

/// One byte a packet while nothing can be parsed: the bytes are copied together.
#[test]
fn tiny_packets_do_not_pin_a_buffer_each() {
    let home = home();
    let mut rig = Rig::greeted(home.path());
    let handle = rig.open("file", NEW);
    rig.frozen = true;
    rig.ask(Operation::Remove { path: b"gone" });
    let write = encode(77, Operation::Write { handle: &handle, offset: 0, data: &pattern(1_500) });
    rig.send_in(&write, 1);
    rig.settle();
    assert!(rig.leases_out() <= 40, "{}", rig.leases_out());
    rig.frozen = false;
    rig.settle();
    let replies = rig.take_replies();
    assert_eq!(replies.last(), Some(&(77, Got::Status(0, "Success".into()))));
    assert!(files::read(home.path().join("file")).expect("read") == pattern(1_500));
    assert_eq!(rig.leases_out(), 0);
}

/// A client that stops in the middle of a WRITE holds no buffer for long.
#[test]
fn half_a_write_holds_no_lease() {
    let home = home();
    let mut rig = Rig::greeted(home.path());
    let handle = rig.open("file", NEW);
    let write = encode(7, Operation::Write { handle: &handle, offset: 0, data: &pattern(90_000) });
    let mut from = 0;
    for end in [4, 20, 35, 30_000] {
        rig.send(&write[from..end]);
        rig.settle();
        rig.pause();
        assert_eq!(rig.leases_out(), 0, "{end}");
        from = end;
    }
    rig.send(&write[from..60_000]);
    rig.settle();
    assert_ne!(rig.leases_out(), 0, "the rest may come at once");
    rig.pause();
    assert_eq!(rig.leases_out(), 0);
    rig.send(&write[60_000..]);
    rig.settle();
    assert_eq!(rig.take_replies(), [(7, Got::Status(0, "Success".into()))]);
    assert!(files::read(home.path().join("file")).expect("read") == pattern(90_000));
}

/// Data of a WRITE that comes packet by packet goes to the file together.
#[test]
fn a_write_in_many_packets_is_one_operation() {
    let home = home();
    let mut rig = Rig::greeted(home.path());
    let handle = rig.open("file", NEW);
    let write = encode(7, Operation::Write { handle: &handle, offset: 0, data: &pattern(90_000) });
    let before = rig.ops_done;
    for piece in write.chunks(20_000) {
        rig.send(piece);
        rig.settle();
    }
    assert_eq!(rig.take_replies(), [(7, Got::Status(0, "Success".into()))]);
    assert_eq!(rig.ops_done - before, 1);
    assert!(files::read(home.path().join("file")).expect("read") == pattern(90_000));
}

/// SECURITY R1: wherever the client dies, leases and descriptors come back, and what was confirmed
/// is in the file.
#[test]
fn a_client_cut_anywhere_leaves_nothing_behind() {
    for turns in (0..60).step_by(3) {
        let home = home();
        files::write(home.path().join("from"), pattern(500_000)).expect("written");
        let setup = Setup { seed: turns, ..Setup::default() };
        let mut rig = Rig::greeted_with(home.path(), setup);
        let from = rig.open("from", open::READ);
        let to = rig.open("to", NEW);
        rig.frozen = turns % 2 == 0;
        let mut script = Vec::new();
        for n in 0..8u32 {
            let offset = u64::from(n) * 60_000;
            let data = &pattern(60_000);
            script.extend(encode(n, Operation::Write { handle: &to, offset, data }));
            let read = Operation::Read { handle: &from, offset, len: 60_000 };
            script.extend(encode(100 + n, read));
            script.extend(encode(200 + n, Operation::OpenDirectory { path: b"." }));
            script.extend(encode(300 + n, Operation::Fsync { handle: &to }));
        }
        rig.send(&script[..script.len() - 1_000]);
        for _ in 0..turns {
            rig.turn();
        }
        let confirmed = rig.take_replies();
        rig.cut();
        let file = files::read(home.path().join("to")).expect("read");
        for (id, got) in confirmed {
            if id < 8 && got.code() == 0 {
                assert!(file[id as usize * 60_000..][..60_000] == pattern(60_000));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Bytes without sense never panic, never pin memory, and end in a reply or in the end.
    #[test]
    fn noise_is_survived(
        noise in proptest::collection::vec(
            (0u8..=22, proptest::collection::vec(any::<u8>(), 0..80), any::<bool>()), 1..40),
        cut in any::<bool>(),
    ) {
        let home = home();
        let mut rig = Rig::greeted(home.path());
        let handle = rig.open("file", NEW | open::READ);
        let mut script = Vec::new();
        for (kind, body, framed) in noise {
            let kind = if kind > 20 { 200 } else { kind };
            let body = if body.len() % 3 == 0 {
                [&8u32.to_be_bytes()[..], &handle, &body].concat()
            } else {
                body
            };
            let len = if framed { 5 + body.len() as u32 } else { body.len() as u32 * 7 };
            script.extend_from_slice(&len.to_be_bytes());
            script.push(kind);
            script.extend_from_slice(&[0, 0, 0, kind]);
            script.extend(body);
        }
        rig.send_in(&script, 700);
        rig.settle();
        let _ = rig.take_replies();
        if cut {
            rig.cut();
        } else {
            rig.end_of_input();
            rig.settle();
            prop_assert!(rig.exit.is_some());
            prop_assert_eq!(rig.leases_out(), 0);
            rig.cut();
        }
    }
}
