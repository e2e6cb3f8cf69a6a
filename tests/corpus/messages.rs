//! One of each message, and of each SFTP packet.

use tidegate::wire::auth::{
    AuthMethod, InfoRequest, InfoResponse, METHOD_PUBLIC_KEY, PublicKeyAttempt, PublicKeyOk,
    UserAuthBanner, UserAuthFailure, UserAuthRequest, UserAuthSuccess,
};
use tidegate::wire::channel::{
    ChannelClose, ChannelData, ChannelEof, ChannelExtendedData, ChannelFailure, ChannelNumber,
    ChannelOpen, ChannelOpenConfirmation, ChannelOpenFailure, ChannelSuccess, ChannelWindowAdjust,
    GlobalBody, GlobalRequest, OpenKind, RequestFailure, RequestSuccess,
};
use tidegate::wire::request::{ChannelRequest, RequestBody};
use tidegate::wire::sftp::{Attributes, Extensions, Names, Operation, Reply, Request, Response};
use tidegate::wire::sftp::{StatusCode, put_name};
use tidegate::wire::transport::{
    Debug, Disconnect, ExtInfo, Ignore, KexEcdhInit, KexEcdhReply, KexInit, NewKeys, Ping, Pong,
    ServiceAccept, ServiceRequest, Unimplemented,
};
use tidegate::wire::{Message, NameList, Writer};

use super::{Seed, payload, seed};

pub fn all() -> Vec<Seed> {
    let mut seeds = transport();
    seeds.extend(userauth());
    seeds.extend(channel());
    seeds.extend(sftp());
    seeds.extend(small());
    seeds
}

/// An offer of one method and what goes with it.
pub fn kexinit(kex: &'static str) -> KexInit<'static> {
    let list = |names: &'static str| NameList::new(names.as_bytes()).expect("valid");
    KexInit {
        cookie: [7; 16],
        kex: list(kex),
        host_key: list("ssh-ed25519"),
        cipher_to_server: list("aes256-gcm@openssh.com"),
        cipher_to_client: list("aes256-ctr,aes128-ctr"),
        mac_to_server: list("hmac-sha2-256"),
        mac_to_client: list("hmac-sha2-256-etm@openssh.com"),
        compression_to_server: list("none"),
        compression_to_client: list("none,zlib@openssh.com"),
        language_to_server: NameList::EMPTY,
        language_to_client: NameList::EMPTY,
        first_kex_packet_follows: false,
    }
}

fn of<'m>(target: &'static str, name: &str, message: &impl Message<'m>) -> Seed {
    seed(target, name, payload(message))
}

fn transport() -> Vec<Seed> {
    const TARGET: &str = "transport_messages";
    let mut space = [0; 256];
    let entries: [(&[u8], &[u8]); 2] =
        [(b"server-sig-algs", b"ssh-ed25519,rsa-sha2-512"), (b"ping@openssh.com", b"0")];
    let info = ExtInfo::build(&entries, &mut space).expect("room");
    let reply = KexEcdhReply { host_key: b"K", server_public: b"Q", signature: b"S" };
    vec![
        of(TARGET, "disconnect", &Disconnect { reason: 11, description: b"bye" }),
        of(TARGET, "ignore", &Ignore { data: b"anything" }),
        of(TARGET, "unimplemented", &Unimplemented { sequence: 9 }),
        of(TARGET, "debug", &Debug { always_display: true, message: b"hello" }),
        of(TARGET, "service-request", &ServiceRequest { name: b"ssh-userauth" }),
        of(TARGET, "service-accept", &ServiceAccept { name: b"ssh-userauth" }),
        of(TARGET, "ext-info", &info),
        of(TARGET, "kexinit", &kexinit("curve25519-sha256,kex-strict-c-v00@openssh.com")),
        of(TARGET, "newkeys", &NewKeys),
        of(TARGET, "kex-init", &KexEcdhInit { client_public: &[9; 32] }),
        of(TARGET, "kex-reply", &reply),
        of(TARGET, "ping", &Ping { data: b"p" }),
        of(TARGET, "pong", &Pong { data: b"p" }),
    ]
}

fn userauth() -> Vec<Seed> {
    const TARGET: &str = "userauth";
    let request = |name: &str, method| {
        let request = UserAuthRequest { user: "me", service: "ssh-connection", method };
        of(TARGET, name, &request)
    };
    let attempt = |host_key, signature| {
        let algorithm = "ssh-ed25519";
        AuthMethod::PublicKey(PublicKeyAttempt { algorithm, key: b"K", host_key, signature })
    };
    let methods = NameList::new(METHOD_PUBLIC_KEY.as_bytes()).expect("valid");
    let two_prompts =
        [&[60, 0, 0, 0, 1, b'n', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2][..], &[0, 0, 0, 1, b'?', 1]]
            .concat();
    let two_prompts = [&two_prompts[..], &[0, 0, 0, 1, b'!', 0]].concat();
    assert!(InfoRequest::parse(&two_prompts).is_ok());
    let answers = [61, 0, 0, 0, 1, 0, 0, 0, 2, b'o', b'k'];
    assert!(InfoResponse::parse(&answers).is_ok());
    vec![
        request("none", AuthMethod::None),
        request("probe", attempt(None, None)),
        request("signed", attempt(None, Some(b"S"))),
        request("host-bound", attempt(Some(b"H"), Some(b"S"))),
        request("password", AuthMethod::Password { password: b"p", new: None }),
        request("password-change", AuthMethod::Password { password: b"p", new: Some(b"q") }),
        request("other", AuthMethod::Other { name: "hostbased", rest: b"\0\0\0\x01x" }),
        of(TARGET, "failure", &UserAuthFailure { methods, partial: false }),
        of(TARGET, "success", &UserAuthSuccess),
        of(TARGET, "banner", &UserAuthBanner { text: "hello\r\n", language: "" }),
        of(TARGET, "key-ok", &PublicKeyOk { algorithm: "ssh-ed25519", key: b"K" }),
        seed(TARGET, "info-request", two_prompts),
        seed(TARGET, "info-response", answers),
    ]
}

/// One message of each kind about `recipient`, by name.
pub fn about_channel(recipient: u32) -> Vec<(String, Vec<u8>)> {
    let recipient = ChannelNumber(recipient);
    let mut all = vec![
        ("adjust", payload(&ChannelWindowAdjust { recipient, bytes: 65_536 })),
        ("data", payload(&ChannelData { recipient, data: b"data" })),
        ("stderr", payload(&ChannelExtendedData { recipient, data_type: 1, data: b"error" })),
        ("eof", payload(&ChannelEof { recipient })),
        ("close", payload(&ChannelClose { recipient })),
        ("success", payload(&ChannelSuccess { recipient })),
        ("failure", payload(&ChannelFailure { recipient })),
    ];
    let (columns, rows, width_pixels, height_pixels) = (80, 24, 640, 480);
    let modes = b"\x03\0\0\0\x7f\x80\0\0\x96\0\0";
    let bodies = [
        RequestBody::PtyReq { term: "xterm", columns, rows, width_pixels, height_pixels, modes },
        RequestBody::Env { name: b"LANG", value: b"C" },
        RequestBody::Shell,
        RequestBody::Exec { command: b"ls -l" },
        RequestBody::Subsystem { name: "sftp" },
        RequestBody::WindowChange { columns, rows, width_pixels, height_pixels },
        RequestBody::XonXoff { client_can_do: true },
        RequestBody::Signal { name: "TERM" },
        RequestBody::Break { milliseconds: 500 },
        RequestBody::ExitStatus { code: 255 },
        RequestBody::ExitSignal { name: "KILL", core_dumped: true, text: "x", language: "" },
        RequestBody::EndOfWrite,
        RequestBody::Other { name: "auth-agent-req@openssh.com", rest: b"" },
    ];
    for body in bodies {
        let want_reply = !matches!(body, RequestBody::ExitStatus { .. });
        all.push((body.name(), payload(&ChannelRequest { recipient, want_reply, body })));
    }
    all.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

/// One message of each kind about opening channels and the connection as a whole.
pub fn about_connection() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let kinds = [
        OpenKind::Session,
        OpenKind::DirectTcpip { host: "::1", port: 22, origin_host: "a", origin_port: 1 },
        OpenKind::ForwardedTcpip { address: "", port: 80, origin_host: "a", origin_port: 1 },
        OpenKind::DirectStreamlocal { path: b"/run/a" },
        OpenKind::ForwardedStreamlocal { path: b"/run/b" },
        OpenKind::Other { name: "x11", rest: b"\0\0\0\x01a\0\0\0\x01" },
    ];
    for kind in kinds {
        let (window_bytes, packet_bytes_max) = (2 << 20, 32_768);
        let sender = ChannelNumber(0);
        let open = ChannelOpen { sender, window_bytes, packet_bytes_max, kind };
        all.push((format!("open-{}", kind.name()), payload(&open)));
    }
    let requests = [
        GlobalBody::TcpipForward { address: "", port: 8080 },
        GlobalBody::CancelTcpipForward { address: "localhost", port: 8080 },
        GlobalBody::StreamlocalForward { path: b"/run/c" },
        GlobalBody::CancelStreamlocalForward { path: b"/run/c" },
        GlobalBody::NoMoreSessions,
        GlobalBody::KeepAlive,
        GlobalBody::Other { name: "hostkeys-00@openssh.com", rest: b"\0\0\0\x01k" },
    ];
    for request in requests {
        let message = GlobalRequest { want_reply: true, request };
        all.push((format!("global-{}", request.name()), payload(&message)));
    }
    all.push(("granted".into(), payload(&RequestSuccess { rest: b"\0\0\0\x50" })));
    all.push(("refused".into(), payload(&RequestFailure)));
    all
}

/// The two answers to an opening of our channel `recipient`.
pub fn open_answers(recipient: u32) -> Vec<(String, Vec<u8>)> {
    let recipient = ChannelNumber(recipient);
    let (sender, window_bytes, packet_bytes_max) = (ChannelNumber(5), 65_536, 32_768);
    let rest = b"";
    let opened =
        ChannelOpenConfirmation { recipient, sender, window_bytes, packet_bytes_max, rest };
    let failed = ChannelOpenFailure { recipient, reason: 1, text: "no", language: "" };
    vec![("opened".into(), payload(&opened)), ("open-failed".into(), payload(&failed))]
}

fn channel() -> Vec<Seed> {
    let all = [about_channel(3), about_connection(), open_answers(3)].concat();
    all.into_iter().map(|(name, bytes)| ("channel", name, bytes)).collect()
}

/// One request of each kind, about paths and handles a fresh session has not.
pub fn sftp_requests() -> Vec<Vec<u8>> {
    let (path, to, handle) = (&b"/tmp/a"[..], &b"b"[..], &b"\0\0\0\x01"[..]);
    let attributes = Attributes {
        size: Some(1 << 20),
        owner: Some((1, 2)),
        permissions: Some(0o100644),
        times: Some((3, 4)),
    };
    let mut space = [0; 64];
    let extensions = Extensions::collect(&[(b"a@b", b"1")], &mut space).expect("room");
    let all = [
        Operation::Init { version: 3, extensions },
        Operation::Open { path, flags: 0x1b, attributes },
        Operation::Close { handle },
        Operation::Read { handle, offset: 1 << 33, len: 32_768 },
        Operation::Write { handle, offset: 1, data: b"xyz" },
        Operation::LinkStat { path },
        Operation::HandleStat { handle },
        Operation::SetStat { path, attributes },
        Operation::HandleSetStat { handle, attributes: Attributes::EMPTY },
        Operation::OpenDirectory { path },
        Operation::ReadDirectory { handle },
        Operation::Remove { path },
        Operation::MakeDirectory { path, attributes },
        Operation::RemoveDirectory { path },
        Operation::RealPath { path: b"." },
        Operation::Stat { path },
        Operation::Rename { from: path, to },
        Operation::ReadLink { path },
        Operation::SymbolicLink { target: to, path },
        Operation::PosixRename { from: path, to },
        Operation::VfsStat { path },
        Operation::HandleVfsStat { handle },
        Operation::HardLink { existing: path, path: to },
        Operation::Fsync { handle },
        Operation::LinkSetStat { path, attributes },
        Operation::Limits,
        Operation::ExpandPath { path: b"~/x" },
        Operation::CopyData { from: handle, from_offset: 1, len: 2, to: handle, to_offset: 3 },
        Operation::HomeDirectory { user: b"me" },
        Operation::NamesById { users: &[0, 0, 0, 1], groups: &[0, 0, 0, 2] },
        Operation::Extended { name: b"x@y", data: b"z" },
        Operation::Unknown { kind: 21, data: b"z" },
    ];
    let write = |(id, operation)| {
        let mut space = [0; 512];
        let mut out = Writer::new(&mut space);
        Request { id, operation }.write(&mut out).expect("room");
        out.written()[4..].to_vec()
    };
    (0..).zip(all).map(write).collect()
}

fn sftp() -> Vec<Seed> {
    let name = |(place, bytes): (usize, Vec<u8>)| {
        seed("sftp", &format!("request-{place:02}-{}", bytes[0]), bytes)
    };
    let mut seeds: Vec<Seed> = sftp_requests().into_iter().enumerate().map(name).collect();
    let mut space = [0; 128];
    let mut out = Writer::new(&mut space);
    put_name(&mut out, b"a", b"-rw-r--r-- 1 me me 0 a", &Attributes::EMPTY).expect("room");
    let replies = [
        Reply::Version { version: 3, extensions: Extensions::NONE },
        Reply::Status { code: StatusCode::NoSuchFile, text: b"No such file" },
        Reply::Handle(b"\0\0\0\x01"),
        Reply::Data(b"data"),
        Reply::Names(Names::from_encoded(1, out.written())),
        Reply::Attributes(Attributes { size: Some(9), ..Attributes::EMPTY }),
        Reply::Extended(b"\0\0\0\0\0\0\0\x01"),
    ];
    for reply in replies {
        let mut space = [0; 256];
        let mut out = Writer::new(&mut space);
        Response { id: 7, reply }.write(&mut out).expect("room");
        let bytes = out.written()[4..].to_vec();
        seeds.push(seed("sftp", &format!("reply-{}", bytes[0]), bytes));
    }
    seeds
}

fn small() -> Vec<Seed> {
    let every_type = b"\x08\x01\x02\x03\x24\x25\x26\x27";
    let strings = b"\0\0\0\x01s\0\0\0\x02\xc3\xa9\0\0\0\x03a,b\0\0\0\x02\0\x80";
    let values = [&[1u8, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 9][..], strings].concat();
    vec![
        seed("reader", "types", [&every_type[..], &[0; 8], &values].concat()),
        seed("reader", "names", b"\x26\x26\x26\x26\x26\x26\x26\x26\x26\x26\x26\x26\x26\x26\x26\x26\0\0\0\x03a,b\0\0\0\0"),
        seed("reader", "mpints", b"\x27\x27\x27\x27\x27\x27\x27\x27\x27\x27\x27\x27\x27\x27\x27\x27\0\0\0\x02\0\x80\0\0\0\0"),
        seed("terminal_modes", "openssh", b"\x81\0\0\x96\0\x80\0\0\x96\0\x01\0\0\0\x03\x02\0\0\0\x1c\0"),
        seed("terminal_modes", "endless", b"\x03\0\0\0\x7f"),
        seed("terminal_modes", "cut", b"\x03\0\0\0\x7f\x2a\0"),
    ]
}
