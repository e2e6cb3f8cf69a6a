//! Servers that break the rules, as whoever starts `tidegate ssh` or `tidegate cp` meets them: every run
//! ends, says who did what, and never looks as if all were well.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tidegate::base::Instant;
use tidegate::crypto::{KexKind, KeyKind, PrivateKey, RandomPool};
use tidegate::transport::{
    Answer, Carved, Env, Error, HostKey, Outbox, Preferences, Query, Server, ServerConfig,
    Transport,
};
use tidegate::wire::auth::{
    AuthMethod, PublicKeyAttempt, PublicKeyOk, UserAuthFailure, UserAuthRequest, UserAuthSuccess,
};
use tidegate::wire::channel::{
    ChannelClose, ChannelData, ChannelEof, ChannelNumber, ChannelOpen, ChannelOpenConfirmation,
    ChannelOpenFailure, ChannelSuccess, ChannelWindowAdjust, OpenKind,
};
use tidegate::wire::request::{ChannelRequest, RequestBody};
use tidegate::wire::transport::{Disconnect, ServiceAccept, ServiceRequest};
use tidegate::wire::{Message, NameList, Writer, number};

use crate::server::text;
use crate::support::{driver, keygen};

/// What a server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    // ---- Before there are keys ----
    Leaves,
    SpeaksHttp,
    SpeaksVersion1,
    Noise,
    Silence,
    SilentInExchange,
    SignsWithAnotherKey,
    // ---- In the login ----
    SilentBeforeLogin,
    SilentAtKey,
    LeavesInLogin,
    DisconnectsInLogin,
    OpensBeforeLogin,
    RefusesEveryKey,
    // ---- In the session ----
    SilentAtOpen,
    OpensNoSession,
    LeavesSession,
    Disconnects,
    PacketTooLarge,
    OverrunsWindow,
    AdjustsPastEnd,
    UnknownChannel,
    DataBehindEof,
    Malformed,
    Unexpected,
    Garbled,
    AnotherKeyInRekey,
    ClosesWithoutStatus,
    FallsSilent,
    // ---- As a host on the way ----
    TalksOnTheWay,
}

/// With a part of what a user reads of it.
const LIES: &[(Lie, &str)] = &[
    (Lie::Leaves, "lost"),
    (Lie::SpeaksHttp, "lost"),
    (Lie::SpeaksVersion1, "the peer does not speak SSH 2.0"),
    (Lie::Noise, "lost"),
    (Lie::Silence, "no key exchange within ConnectTimeout"),
    (Lie::SilentInExchange, "no key exchange within ConnectTimeout"),
    (
        Lie::SilentBeforeLogin,
        "no answer to the request for ssh-userauth (ServerAliveInterval 1, ServerAliveCountMax 1)",
    ),
    (Lie::SilentAtKey, "no answer to authentication by publickey (ServerAliveInterval 1, "),
    (Lie::SignsWithAnotherKey, "the server's signature does not verify"),
    (Lie::LeavesInLogin, "lost"),
    (Lie::DisconnectsInLogin, "go away"),
    (Lie::OpensBeforeLogin, "lost"),
    (Lie::RefusesEveryKey, "Permission denied"),
    (Lie::OpensNoSession, "no sessions today"),
    (Lie::LeavesSession, "lost"),
    (Lie::Disconnects, "go away"),
    (Lie::PacketTooLarge, "channel data over the packet limit"),
    (Lie::AdjustsPastEnd, "window"),
    (Lie::UnknownChannel, "channel"),
    (Lie::DataBehindEof, "EOF"),
    (Lie::Malformed, "lost"),
    (Lie::Unexpected, "lost"),
    (Lie::Garbled, "lost"),
    (Lie::AnotherKeyInRekey, "the server's signature does not verify"),
    (Lie::ClosesWithoutStatus, "closed"),
    (Lie::FallsSilent, "lost"),
];

/// One connection of it.
struct Rogue {
    stream: TcpStream,
    transport: Transport<Server>,
    key: Arc<PrivateKey>,
    other: PrivateKey,
    entropy: RandomPool,
    clock: u64,
    lie: Lie,
    inbox: Vec<u8>,
    /// The client's channel, and the most that it takes in a packet.
    channel: u32,
    packet: u32,
    /// What it takes until it says that it takes more.
    window: u32,
    exchanges: u32,
}

impl Rogue {
    fn new(stream: TcpStream, lie: Lie, key: Arc<PrivateKey>) -> Rogue {
        stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a time");
        stream.set_write_timeout(Some(Duration::from_secs(5))).expect("a time");
        let other = PrivateKey::generate(KeyKind::Ed25519).expect("a key");
        let mut preferences = Preferences::new("Rogue_1").expect("a name");
        preferences.kex = vec![KexKind::Curve25519];
        let config = ServerConfig::new(preferences, vec![HostKey::new(key.public().clone())]);
        Rogue {
            stream,
            transport: Transport::new(Arc::new(config)),
            key,
            other,
            entropy: RandomPool::secure(),
            clock: 1_000_000_000,
            lie,
            inbox: Vec::new(),
            channel: 0,
            packet: 0,
            window: 0,
            exchanges: 0,
        }
    }

    fn with<T>(
        &mut self,
        work: impl FnOnce(&mut Transport<Server>, &mut Env<'_>) -> Result<T, Error>,
    ) -> Option<T> {
        let mut bytes = vec![0; 300 << 10];
        let now = Instant::from_nanos(self.clock);
        let out = Outbox::new(&mut bytes, 0);
        let mut env = Env { now, entropy: &mut self.entropy, out };
        let answer = work(&mut self.transport, &mut env);
        let used = env.out.used();
        self.stream.write_all(&bytes[..used]).ok()?;
        answer.ok()
    }

    fn say<'m, M: Message<'m>>(&mut self, message: &M) -> Option<()> {
        let mut space = vec![0; 300 << 10];
        let mut out = Writer::new(&mut space);
        message.write(&mut out).expect("room");
        let payload = out.written().to_vec();
        self.say_raw(&payload)
    }

    fn say_raw(&mut self, payload: &[u8]) -> Option<()> {
        self.with(|transport, env| transport.send_payload(payload, env))
    }

    /// Until the client has gone. `None`: it has, or we have.
    fn serve(&mut self) -> Option<()> {
        match self.lie {
            Lie::Leaves => return None,
            Lie::SpeaksHttp => {
                let _ = self.stream.write_all(b"HTTP/1.1 400 Bad Request\r\nServer: web\r\n\r\n");
                return None;
            }
            Lie::SpeaksVersion1 => {
                let _ = self.stream.write_all(b"SSH-1.5-old\r\n");
            }
            Lie::Noise => {
                let _ = self.stream.write_all(b"SSH-2.0-Noise\r\n");
                let _ = self.stream.write_all(&[0x5a; 4096]);
            }
            Lie::Silence => {}
            _ => self.with(|transport, env| transport.start(env))?,
        }
        let mut bytes = [0; 65_536];
        // Nobody is waited for beyond half a minute.
        for _ in 0..1_500 {
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.inbox.extend_from_slice(&bytes[..count]),
                Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
            self.clock += 20_000_000;
            let mute = matches!(
                self.lie,
                Lie::SpeaksVersion1 | Lie::Noise | Lie::Silence | Lie::SilentInExchange
            );
            while !mute && self.listen()? {}
        }
        None
    }

    fn listen(&mut self) -> Option<bool> {
        let mut inbox = std::mem::take(&mut self.inbox);
        let carved = self.with(|transport, env| transport.carve(env, &mut inbox))?;
        let (used, heard) = match carved {
            Carved::Need { .. } => (0, None),
            Carved::Handled { used } => (used, None),
            Carved::Payload { used, payload } => {
                (used, Some(payload.of(&inbox).expect("inside").to_vec()))
            }
            Carved::Unpacked { .. } => panic!("nobody agreed to compress"),
        };
        inbox.drain(..used as usize);
        self.inbox = inbox;
        self.sign()?;
        if let Some(heard) = heard {
            self.hear(&heard)?;
        }
        Some(used > 0)
    }

    fn sign(&mut self) -> Option<()> {
        let Some(Query::Sign { algorithm, message, .. }) = self.transport.query() else {
            return Some(());
        };
        self.exchanges += 1;
        let wrong = match self.lie {
            Lie::SignsWithAnotherKey => true,
            Lie::AnotherKeyInRekey => self.exchanges > 1,
            _ => false,
        };
        let key = if wrong { &self.other } else { &*self.key };
        let signature = key.sign(*algorithm, message.as_ref()).expect("signs");
        let answer = Answer::Signature(Some(signature.into()));
        self.with(|transport, env| transport.answer(answer, env))
    }

    fn hear(&mut self, payload: &[u8]) -> Option<()> {
        match payload.first().copied()? {
            number::SERVICE_REQUEST if self.lie == Lie::SilentBeforeLogin => Some(()),
            number::USERAUTH_REQUEST if self.lie == Lie::SilentBeforeLogin => Some(()),
            number::CHANNEL_OPEN if self.lie == Lie::SilentAtOpen => Some(()),
            number::SERVICE_REQUEST => {
                self.say(&ServiceAccept { name: b"ssh-userauth" })?;
                if self.lie == Lie::OpensBeforeLogin {
                    self.say(&ChannelOpen {
                        sender: ChannelNumber(7),
                        window_bytes: 1 << 20,
                        packet_bytes_max: 32 << 10,
                        kind: OpenKind::Session,
                    })?;
                }
                Some(())
            }
            number::USERAUTH_REQUEST => self.judge(payload),
            number::CHANNEL_OPEN => {
                let open = ChannelOpen::parse(payload).ok()?;
                (self.channel, self.packet) = (open.sender.0, open.packet_bytes_max);
                self.window = open.window_bytes;
                let recipient = open.sender;
                if self.lie == Lie::OpensNoSession {
                    let text = "no sessions today";
                    return self.say(&ChannelOpenFailure {
                        recipient,
                        reason: 1,
                        text,
                        language: "",
                    });
                }
                self.say(&ChannelOpenConfirmation {
                    recipient,
                    sender: ChannelNumber(7),
                    window_bytes: 1 << 20,
                    packet_bytes_max: 32 << 10,
                    rest: &[],
                })?;
                let body = RequestBody::ExitStatus { code: 0 };
                let news = ChannelRequest { recipient, want_reply: false, body };
                let times = if self.lie == Lie::TalksOnTheWay { 4_000 } else { 0 };
                (0..times).try_for_each(|_| self.say(&news))
            }
            number::CHANNEL_REQUEST => {
                let request = ChannelRequest::parse(payload).ok()?;
                let recipient = ChannelNumber(self.channel);
                if request.want_reply {
                    self.say(&ChannelSuccess { recipient })?;
                    self.misbehave(recipient)?;
                }
                Some(())
            }
            _ => Some(()),
        }
    }

    fn judge(&mut self, payload: &[u8]) -> Option<()> {
        match self.lie {
            Lie::LeavesInLogin => return None,
            Lie::DisconnectsInLogin => return self.disconnect(),
            _ => {}
        }
        let request = UserAuthRequest::parse(payload).ok()?;
        match request.method {
            AuthMethod::PublicKey(_) if self.lie == Lie::SilentAtKey => Some(()),
            AuthMethod::PublicKey(PublicKeyAttempt { algorithm, key, signature, .. })
                if self.lie != Lie::RefusesEveryKey =>
            {
                if signature.is_none() {
                    return self.say(&PublicKeyOk { algorithm, key });
                }
                self.say(&UserAuthSuccess)?;
                self.transport.authenticated();
                Some(())
            }
            _ => {
                let methods = NameList::new(b"publickey").expect("a list");
                self.say(&UserAuthFailure { methods, partial: false })
            }
        }
    }

    fn disconnect(&mut self) -> Option<()> {
        self.say(&Disconnect { reason: 11, description: b"go away" })?;
        None
    }

    /// The client believes that its program runs.
    fn misbehave(&mut self, recipient: ChannelNumber) -> Option<()> {
        let data = vec![b'x'; self.packet as usize + 1];
        match self.lie {
            Lie::LeavesSession => return None,
            Lie::Disconnects => return self.disconnect(),
            Lie::PacketTooLarge => self.say(&ChannelData { recipient, data: &data })?,
            Lie::OverrunsWindow => {
                let data = vec![b'x'; self.packet as usize];
                // Beside what is granted again: a pipe that nobody reads from takes little.
                for _ in 0..=2 * self.window / self.packet {
                    self.say(&ChannelData { recipient, data: &data })?;
                }
            }
            Lie::AdjustsPastEnd => {
                for _ in 0..2 {
                    self.say(&ChannelWindowAdjust { recipient, bytes: u32::MAX })?;
                }
            }
            Lie::UnknownChannel => {
                let recipient = ChannelNumber(recipient.0 + 4_000);
                self.say(&ChannelData { recipient, data: b"x" })?;
            }
            Lie::DataBehindEof => {
                self.say(&ChannelEof { recipient })?;
                self.say(&ChannelData { recipient, data: b"x" })?;
            }
            Lie::Malformed => self.say_raw(&[number::CHANNEL_DATA, 0, 0])?,
            Lie::Unexpected => self.say(&ServiceRequest { name: b"ssh-userauth" })?,
            Lie::Garbled => self.stream.write_all(&[0x5a; 4096]).ok()?,
            Lie::AnotherKeyInRekey => self.with(|transport, env| transport.rekey(env))?,
            Lie::ClosesWithoutStatus => {
                self.say(&ChannelEof { recipient })?;
                self.say(&ChannelClose { recipient })?;
            }
            _ => {}
        }
        Some(())
    }
}

/// A server of this mind; it takes a few connections.
fn start(lie: Lie) -> u16 {
    start_and_tell(lie).0
}

/// The same, which tells when a connection is over.
fn start_and_tell(lie: Lie) -> (u16, Receiver<()>) {
    start_changing([lie; 4])
}

/// One of another mind at each connection.
fn start_changing(lies: [Lie; 4]) -> (u16, Receiver<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let key = Arc::new(PrivateKey::generate(KeyKind::Ed25519).expect("a key"));
    let (tell, over) = channel();
    std::thread::spawn(move || {
        for (stream, lie) in listener.incoming().flatten().zip(lies) {
            let (tell, key) = (tell.clone(), Arc::clone(&key));
            std::thread::spawn(move || {
                Rogue::new(stream, lie, key).serve();
                let _ = tell.send(());
            });
        }
    });
    (port, over)
}

/// A client of a server of this mind: only one that says nothing is given up early.
fn command(at: &Path, (lie, port): (Lie, u16), words: &[&str]) -> Command {
    let patience = |silent: &[Lie]| if silent.contains(&lie) { 1 } else { 30 };
    let early = [Lie::Silence, Lie::SilentInExchange];
    let late = [Lie::SilentBeforeLogin, Lie::SilentAtKey, Lie::FallsSilent];
    let (name, words) = words.split_first().expect("a program");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(name.split(' ')).args(["-F", "none"]);
    let driver = driver().unwrap_or_else(|| "uring".to_owned());
    for option in [
        format!("Port={port}"),
        format!("TidegateDriver={driver}"),
        format!("IdentityFile={}", at.join("key").display()),
        "KexAlgorithms=curve25519-sha256".to_owned(),
        "StrictHostKeyChecking=no".to_owned(),
        "UserKnownHostsFile=none".to_owned(),
        "GlobalKnownHostsFile=none".to_owned(),
        "IdentityAgent=none".to_owned(),
        "BatchMode=yes".to_owned(),
        format!("ConnectTimeout={}", patience(&early)),
        format!("ServerAliveInterval={}", patience(&late)),
        "ServerAliveCountMax=1".to_owned(),
        "LogLevel=ERROR".to_owned(),
    ] {
        command.args(["-o", &option]);
    }
    command.args(words).stdin(Stdio::null());
    command
}

/// Each of them, by a session and by a copy, which hears of some of them in the words of SFTP.
#[test]
fn runs_against_servers_that_break_the_rules_say_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    keygen(&at.join("key"), "ed25519", "");
    let here = at.join("here").display().to_string();
    let mut wrong = Vec::new();
    for (lie, cause) in LIES {
        let port = start(*lie);
        let get = ["cp", "--retries", "0", "127.0.0.1:/there", &here];
        for words in [&["ssh", "127.0.0.1", "cat"][..], &get] {
            let output = command(at, (*lie, port), words).output().expect("it runs");
            let (status, said) = (output.status.code(), text(&output.stderr));
            let failed = if words[0] == "ssh" {
                status == Some(255)
            } else {
                status == Some(1) || status == Some(255)
            };
            let why = words[0] == "cp" || said.contains(cause);
            let told = said.contains("127.0.0.1") && why;
            if !failed || !told || at.join("here").exists() {
                wrong.push(format!("{lie:?} {}: {status:?} {said:?}", words[0]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Our output is not read until the server has been left: so nothing that it sends beyond the window
/// can be granted in time.
#[test]
fn a_server_that_sends_past_our_window_is_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    keygen(&at.join("key"), "ed25519", "");
    let lie = Lie::OverrunsWindow;
    let (port, over) = start_and_tell(lie);
    let mut command = command(at, (lie, port), &["ssh", "127.0.0.1", "cat"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    over.recv_timeout(Duration::from_secs(60)).expect("the server is left");
    let output = child.wait_with_output().expect("it ends");
    let said = text(&output.stderr);
    assert!(said.contains("channel data past the window"), "{said:?}");
    assert_eq!(output.status.code(), Some(255), "{said:?}");
    assert!(output.stdout.len() >= 2 << 20, "what was granted is told: {}", output.stdout.len());
}

/// The first login and those of the load, whose time goes on until they are in.
#[test]
fn a_bench_gives_up_servers_that_stall_in_a_login() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    keygen(&at.join("key"), "ed25519", "");
    let (silent, honest) = (Lie::SilentBeforeLogin, Lie::FallsSilent);
    let first = "no answer to the request for ssh-userauth within 1 s (--";
    let load =
        ["bench load", "127.0.0.1", "--scenario", "auth", "--connections", "1", "--timeout", "1"];
    let transfer = ["bench transfer", "127.0.0.1", "--only", "exec-down/1", "--stall", "1"];
    // Before the first login it is looked whether somebody is there.
    for (words, lies, told) in [
        (&load[..], [silent; 4], first),
        (&transfer, [silent; 4], first),
        (
            &load,
            [honest, honest, silent, silent],
            "no connection came to its end: 1 × auth: time out",
        ),
    ] {
        let (port, _) = start_changing(lies);
        // Neither option is to end it.
        let output = command(at, (Lie::Leaves, port), words).output().expect("it runs");
        let said = text(&output.stderr);
        assert!(said.contains(told), "{words:?}: {said}");
        assert_eq!(output.status.code(), Some(255), "{said}");
    }
}

/// Each host on the way has options of its own; those of the host behind it count from its channel on.
#[test]
fn silent_hosts_on_the_way_are_given_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    keygen(&at.join("key"), "ed25519", "");
    let (alive, connect) = ("ServerAliveInterval 1\n ServerAliveCountMax 1", "ConnectTimeout 1");
    for (lie, host, option, told) in [
        (Lie::SilentBeforeLogin, "gate", alive, "no answer to the request for ssh-userauth"),
        (Lie::SilentAtOpen, "inner", connect, "no answer within ConnectTimeout"),
        (Lie::FallsSilent, "inner", connect, "no key exchange within ConnectTimeout"),
        (Lie::FallsSilent, "inner", alive, "no key exchange (ServerAliveInterval 1, "),
    ] {
        let (status, said) = through(at, lie, &format!("Host {host}\n {option}\n"));
        assert_eq!(status, Some(255), "{lie:?} {option}: {said}");
        assert!(said.contains(told), "{lie:?} {option}: {said}");
    }
}

/// What a host on the way says while we log in behind it is kept for later, and no more of it than there is any reason
/// for.
#[test]
fn a_host_on_the_way_that_talks_without_end_is_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    keygen(&at.join("key"), "ed25519", "");
    let (status, said) = through(at, Lie::TalksOnTheWay, "");
    assert_eq!(status, Some(255), "{said}");
    assert!(said.contains("on the way is lost: it says more than"), "{said}");
}

/// How `tidegate ssh` to a host behind one of this mind ends, and what it says.
fn through(at: &Path, lie: Lie, blocks: &str) -> (Option<i32>, String) {
    let port = start(lie);
    let file = at.join("config");
    let key = at.join("key");
    let lines = format!(
        "{blocks}Host gate\n HostName 127.0.0.1\n Port {port}\nHost *\n IdentityFile {}\n IdentityAgent none\n \
         StrictHostKeyChecking no\n UserKnownHostsFile none\n GlobalKnownHostsFile none\n BatchMode yes\n",
        key.display()
    );
    std::fs::write(&file, lines).expect("a file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let driver = driver().unwrap_or_else(|| "uring".to_owned());
    command.arg("ssh").arg("-F").arg(&file).args(["-J", "gate", "inner", "cat"]);
    command.args(["-o", &format!("TidegateDriver={driver}")]).stdin(Stdio::null());
    let output = command.output().expect("it runs");
    (output.status.code(), text(&output.stderr))
}
