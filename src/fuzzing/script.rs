//! A fuzzer's bytes as a program: what a hostile peer says and what our owner does meanwhile.

use std::time::Duration;

use super::Input;
use super::puppet::payload_of;
use super::rig::{Habits, Rig};
use crate::connection::{ChannelId, ChannelKind, ChannelRequest};
use crate::wire::channel::{
    ChannelClose, ChannelData, ChannelEof, ChannelExtendedData, ChannelFailure, ChannelNumber,
    ChannelOpen, ChannelOpenConfirmation, ChannelOpenFailure, ChannelSuccess, ChannelWindowAdjust,
    GlobalBody, GlobalRequest, OpenKind, RequestFailure, RequestSuccess,
};
use crate::wire::request::{self, RequestBody};

/// A server of ours before anybody has logged in. The first byte: whether keys are there already.
pub fn server_preauth(data: &[u8]) {
    preauth(true, data);
}

/// A client of ours before it has logged in.
pub fn client_preauth(data: &[u8]) {
    preauth(false, data);
}

/// A server of ours behind a login.
pub fn server_postauth(data: &[u8]) {
    run(Rig::authenticated(true), Input::new(data));
}

/// A client of ours behind its login.
pub fn client_postauth(data: &[u8]) {
    run(Rig::authenticated(false), Input::new(data));
}

fn preauth(serves: bool, data: &[u8]) {
    let mut input = Input::new(data);
    let rig = match input.byte() % 2 {
        0 => Rig::established(serves),
        _ => Rig::fresh(serves),
    };
    run(rig, input);
}

/// Steps of one program; more only repeat what fewer can show, and take longer.
const STEPS_MAX: usize = 400;

fn run(mut rig: Rig, mut input: Input<'_>) {
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        step(&mut rig, &mut input);
    }
    rig.finish();
}

/// One step. The numbers are the corpus's: new ones go at the end.
pub(super) fn step(rig: &mut Rig, input: &mut Input<'_>) {
    match input.byte() % 16 {
        0 | 1 => {
            let packet = rig.puppet.anything(input.string());
            rig.deliver(&packet);
        }
        2 => {
            rig.puppet.astray = true;
            rig.deliver(input.string());
        }
        3 => exchange(rig, input.byte()),
        4 => rig.wait(Duration::from_millis(1 << (input.byte() % 24))),
        5 => rig.step = usize::from(input.byte()),
        6 => rig.habits = Habits(input.byte()),
        7 => {
            rig.answer();
            rig.run();
        }
        8 => {
            rig.call(|conn, env| conn.rekey(env));
            rig.run();
        }
        9 => rig.hand_over(),
        10..=12 => {
            let message = message(rig, input);
            rig.say(&message);
        }
        13 | 14 => {
            owner(rig, input);
            rig.run();
        }
        _ => {
            let request = rig.signed_request();
            rig.say(&request);
        }
    }
}

/// Parts of a key exchange, in whatever order.
fn exchange(rig: &mut Rig, part: u8) {
    let bytes = match part % 6 {
        0 => rig.puppet.offer(),
        1 => rig.puppet.half(),
        2 => rig.puppet.new_keys(),
        3 => rig.puppet.identify(),
        4 => return rig.exchange(),
        // Everything in one piece.
        _ => [rig.puppet.offer(), rig.puppet.half()].concat(),
    };
    rig.deliver(&bytes);
}

/// The number of a channel the subject knows, or any other.
fn recipient(rig: &Rig, input: &mut Input<'_>) -> ChannelNumber {
    let choice = usize::from(input.byte());
    ChannelNumber(match rig.channels.get(choice % 8) {
        Some(id) if choice < 248 => id.number(),
        _ => choice as u32,
    })
}

/// A well-formed message of RFC 4254, so that the fuzzer need not learn to write one.
fn message(rig: &Rig, input: &mut Input<'_>) -> Vec<u8> {
    let kind = input.byte() % 16;
    if kind < 3 {
        let window_bytes = amount(input);
        let open = ChannelOpen {
            sender: ChannelNumber(u32::from(input.byte() % 8)),
            window_bytes,
            packet_bytes_max: amount(input),
            kind: match input.byte() % 8 {
                0 => {
                    OpenKind::DirectTcpip { host: "h", port: 22, origin_host: "o", origin_port: 1 }
                }
                1 => OpenKind::ForwardedTcpip {
                    address: "a",
                    port: 80,
                    origin_host: "o",
                    origin_port: 1,
                },
                2 => OpenKind::Other { name: "x11", rest: input.string() },
                _ => OpenKind::Session,
            },
        };
        return payload_of(&open);
    }
    let recipient = recipient(rig, input);
    match kind {
        3 => payload_of(&ChannelOpenConfirmation {
            recipient,
            sender: ChannelNumber(u32::from(input.byte() % 8)),
            window_bytes: amount(input),
            packet_bytes_max: amount(input),
            rest: &[],
        }),
        4 => {
            let failure = ChannelOpenFailure { recipient, reason: 1, text: "no", language: "" };
            payload_of(&failure)
        }
        5 => payload_of(&ChannelWindowAdjust { recipient, bytes: amount(input) }),
        6 => payload_of(&ChannelData { recipient, data: &vec![0x61; len(input)] }),
        7 => {
            let data_type = u32::from(input.byte());
            payload_of(&ChannelExtendedData { recipient, data_type, data: &vec![0x65; len(input)] })
        }
        8 => payload_of(&ChannelEof { recipient }),
        9 => payload_of(&ChannelClose { recipient }),
        10 => payload_of(&ChannelSuccess { recipient }),
        11 => payload_of(&ChannelFailure { recipient }),
        12 => match input.byte() % 4 {
            0 => payload_of(&RequestSuccess { rest: &[] }),
            1 => payload_of(&RequestFailure),
            2 => payload_of(&GlobalRequest { want_reply: true, request: GlobalBody::KeepAlive }),
            _ => {
                let request = GlobalBody::TcpipForward { address: "", port: 8080 };
                payload_of(&GlobalRequest { want_reply: true, request })
            }
        },
        _ => {
            let want_reply = input.byte().is_multiple_of(2);
            payload_of(&request::ChannelRequest { recipient, want_reply, body: body(input) })
        }
    }
}

fn body<'a>(input: &mut Input<'a>) -> RequestBody<'a> {
    let side = u32::from(input.byte());
    match side % 10 {
        0 => RequestBody::PtyReq {
            term: "xterm",
            columns: side,
            rows: side,
            width_pixels: 0,
            height_pixels: u32::MAX,
            modes: b"\x03\0\0\0\x7f\0",
        },
        1 => RequestBody::Env { name: b"LANG", value: input.string() },
        2 => RequestBody::Shell,
        3 => RequestBody::Exec { command: input.string() },
        4 => RequestBody::Subsystem { name: "sftp" },
        5 => RequestBody::Signal { name: "TERM" },
        6 => RequestBody::ExitStatus { code: side },
        7 => RequestBody::EndOfWrite,
        8 => RequestBody::Break { milliseconds: side },
        _ => RequestBody::Other { name: "x11-req", rest: input.string() },
    }
}

/// Sizes round the edges that matter.
fn amount(input: &mut Input<'_>) -> u32 {
    match input.byte() % 8 {
        0 => 0,
        1 => u32::MAX,
        2 => 32 * 1024,
        3 => 2 * 1024 * 1024,
        4 => 256,
        5 => u32::from(input.byte()),
        6 => u32::from(input.uint16()),
        _ => input.uint32(),
    }
}

fn len(input: &mut Input<'_>) -> usize {
    match input.byte() % 4 {
        0 => usize::from(input.byte()),
        1 => 32 * 1024,
        2 => usize::from(input.uint16()) % (34 * 1024),
        _ => 0,
    }
}

/// Something our side does of its own accord.
fn owner(rig: &mut Rig, input: &mut Input<'_>) {
    let kind = input.byte() % 20;
    if kind == 0 {
        let id = rig.call(|conn, env| conn.open(&ChannelKind::Session, env)).flatten();
        rig.channels.extend(id);
        return;
    }
    if kind == 1 {
        rig.call(|conn, env| conn.send_global("keepalive@openssh.com", true, env));
        return;
    }
    let choice = usize::from(input.byte());
    let Some(id) = rig.channels.get(choice % rig.channels.len().max(1)).copied() else { return };
    about(rig, id, kind, input);
}

fn about(rig: &mut Rig, id: ChannelId, kind: u8, input: &mut Input<'_>) {
    match kind {
        2 => drop(rig.call(|conn, env| conn.accept_open_default(id, env))),
        3 => {
            let (window, packet) = (amount(input), amount(input));
            rig.call(|conn, env| conn.accept_open(id, window, packet, env));
        }
        4 => drop(rig.call(|conn, env| conn.reject_open(id, 4, "no", env))),
        5 | 6 => drop(rig.call(|conn, env| conn.reply(id, kind == 5, env))),
        7 => drop(rig.call(|conn, env| conn.send_eof(id, env))),
        8 => drop(rig.call(|conn, env| conn.close(id, env))),
        9 => drop(rig.call(|conn, env| conn.exit_status(id, 3, env))),
        10 => drop(rig.call(|conn, env| conn.exit_signal(id, "KILL", true, "", env))),
        11 => {
            let bytes = amount(input);
            rig.call(|conn, env| conn.consumed(id, bytes, env));
        }
        12 | 13 => {
            let extended = (kind == 13).then_some(1);
            rig.write_data(id, extended, len(input));
        }
        14 => rig.plan(id, input.byte().is_multiple_of(4).then_some(1), amount(input)),
        15 => rig.send_around(id, amount(input)),
        16 => rig.seal(amount(input)),
        17 => rig.drop_plan(),
        18 => {
            rig.call(|conn, env| conn.request(id, &ChannelRequest::Shell, true, env));
        }
        _ => {
            // Credit set aside and given back: nothing may have changed.
            let before = rig.conn.credit(id);
            let reserved = rig.conn.reserve(id, amount(input));
            rig.conn.refund(id, reserved);
            assert_eq!(rig.conn.credit(id), before);
        }
    }
}
