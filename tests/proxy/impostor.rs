//! A host that has the right key and keeps none of the rules above the transport: what the gateway's
//! client role is told there must harm neither the gateway nor the client (SECURITY case 106).

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tidegate::base::{Instant, SeededEntropy};
use tidegate::crypto::PrivateKey;
use tidegate::transport::{
    Answer, Carved, Env, HostKey, Outbox, Preferences, Query, Server, ServerConfig, Transport,
};
use tidegate::wire::auth::{AuthMethod, PublicKeyOk, UserAuthRequest, UserAuthSuccess};
use tidegate::wire::channel::{
    ChannelClose, ChannelData, ChannelEof, ChannelNumber, ChannelOpen, ChannelOpenConfirmation,
    ChannelSuccess, OpenKind,
};
use tidegate::wire::request::{ChannelRequest, RequestBody};
use tidegate::wire::transport::ServiceAccept;
use tidegate::wire::{Message, Writer, number};

use super::{Host, QUICK, said, text};
use crate::support::Gateway;

/// How long the host waits for the gateway before it leaves.
const PATIENCE: Duration = Duration::from_secs(30);

struct Impostor {
    stream: TcpStream,
    transport: Transport<Server>,
    key: Arc<PrivateKey>,
    entropy: SeededEntropy,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
}

impl Impostor {
    fn new(stream: TcpStream, key: Arc<PrivateKey>) -> Impostor {
        // A test that waits for ever tells nobody why.
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        stream.set_write_timeout(Some(PATIENCE)).expect("a limit");
        let host_key = HostKey::new(key.public().clone());
        let config = ServerConfig::new(Preferences::default(), vec![host_key]);
        let mut own = Impostor {
            stream,
            transport: Transport::new(Arc::new(config)),
            key,
            entropy: SeededEntropy::new(9),
            inbox: Vec::new(),
            outbox: vec![0; 300 << 10],
        };
        own.with(|transport, env| transport.start(env).expect("starts"));
        own
    }

    fn with(&mut self, work: impl FnOnce(&mut Transport<Server>, &mut Env<'_>)) {
        let now = Instant::from_nanos(1_000_000_000);
        let out = Outbox::new(&mut self.outbox, 0);
        let mut env = Env { now, entropy: &mut self.entropy, out };
        work(&mut self.transport, &mut env);
        let used = env.out.used();
        let _ = self.stream.write_all(&self.outbox[..used]);
    }

    fn say<'m, M: Message<'m>>(&mut self, message: &M) {
        let mut space = vec![0; 64 << 10];
        let mut out = Writer::new(&mut space);
        message.write(&mut out).expect("room");
        let payload = out.written().to_vec();
        self.with(|transport, env| transport.send_payload(&payload, env).expect("it holds"));
    }

    /// The next message; `None`: the gateway has left.
    fn hear(&mut self) -> Option<Vec<u8>> {
        loop {
            let mut inbox = std::mem::take(&mut self.inbox);
            let mut carved = None;
            self.with(|transport, env| carved = transport.carve(env, &mut inbox).ok());
            let (used, message) = match carved? {
                Carved::Need { .. } => (0, None),
                Carved::Handled { used } | Carved::Unpacked { used } => (used, None),
                Carved::Payload { used, payload } => (used, payload.of(&inbox).map(<[u8]>::to_vec)),
            };
            inbox.drain(..used as usize);
            self.inbox = inbox;
            if let Some(Query::Sign { algorithm, message, .. }) = self.transport.query() {
                let signature = self.key.sign(*algorithm, message.as_ref()).expect("signs");
                let answer = Answer::Signature(Some(signature.into()));
                self.with(|transport, env| transport.answer(answer, env).expect("answered"));
            }
            if message.is_some() {
                return message;
            }
            if used == 0 {
                let mut bytes = vec![0; 64 << 10];
                let count = self.stream.read(&mut bytes).ok().filter(|count| *count > 0)?;
                self.inbox.extend(&bytes[..count]);
            }
        }
    }

    /// A message of this number; others are passed over.
    fn wait_for(&mut self, wanted: u8) -> Option<Vec<u8>> {
        loop {
            let message = self.hear()?;
            if message[0] == wanted {
                return Some(message);
            }
        }
    }

    /// Lets everybody in, as a host may.
    fn log_in(&mut self) -> Option<()> {
        self.wait_for(number::SERVICE_REQUEST)?;
        self.say(&ServiceAccept { name: b"ssh-userauth" });
        loop {
            let message = self.wait_for(number::USERAUTH_REQUEST)?;
            let request = UserAuthRequest::parse(&message).expect("a request");
            let AuthMethod::PublicKey(attempt) = request.method else { continue };
            if attempt.signature.is_some() {
                self.say(&UserAuthSuccess);
                self.transport.authenticated();
                return Some(());
            }
            self.say(&PublicKeyOk { algorithm: attempt.algorithm, key: attempt.key });
        }
    }

    /// Confirms the session that it is asked for; answers the gateway's number for it.
    fn confirm(&mut self) -> Option<ChannelNumber> {
        let message = self.wait_for(number::CHANNEL_OPEN)?;
        let recipient = ChannelOpen::parse(&message).expect("an open").sender;
        self.say(&ChannelOpenConfirmation {
            recipient,
            sender: ChannelNumber(7),
            window_bytes: 1 << 20,
            packet_bytes_max: 32 << 10,
            rest: &[],
        });
        self.wait_for(number::CHANNEL_REQUEST)?;
        self.say(&ChannelSuccess { recipient });
        Some(recipient)
    }

    fn end(&mut self, recipient: ChannelNumber, code: u32) {
        let body = RequestBody::ExitStatus { code };
        self.say(&ChannelRequest { recipient, want_reply: false, body });
        self.say(&ChannelEof { recipient });
        self.say(&ChannelClose { recipient });
        while self.hear().is_some() {}
    }
}

/// A gateway whose host does what `script` does, with every connection.
fn before(script: fn(Impostor), more: &str, test: impl FnOnce(&Gateway)) {
    let Some(host) = Host::start("") else { return };
    let text = std::fs::read(host.path("host_key")).expect("a key");
    let key = Arc::new(PrivateKey::from_openssh(text, None).expect("a key"));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    let port = listener.local_addr().expect("its address").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            script(Impostor::new(stream, Arc::clone(&key)));
        }
    });
    let line = format!("[127.0.0.1]:{port} {}", host.public());
    std::fs::write(host.path("known_hosts"), line).expect("known_hosts");
    let settings = host.settings();
    let upstream = format!("TidegateUpstream 127.0.0.1:{port}");
    let gateway = Gateway::start(&[&upstream, &settings[1], &settings[2], more]);
    test(&gateway);
    let log = gateway.log();
    assert!(!log.contains("panicked") && !log.contains("internal error"), "{log}");
}

fn client(gateway: &Gateway) -> std::process::Output {
    let options = [QUICK, "LogLevel=INFO", "ForwardAgent=no"];
    gateway.ssh(&options, &["anything"]).output().expect("ssh starts")
}

#[test]
fn case_106_what_a_host_opens_unasked_is_refused_there() {
    let script = |mut host: Impostor| {
        let Some(()) = host.log_in() else { return };
        let Some(recipient) = host.confirm() else { return };
        let origin = ("127.0.0.1", 1);
        let (address, port) = ("127.0.0.1", 22);
        let (origin_host, origin_port) = origin;
        let kinds = [
            OpenKind::Session,
            OpenKind::ForwardedTcpip { address, port, origin_host, origin_port },
            OpenKind::ForwardedStreamlocal { path: b"/run/x" },
            OpenKind::DirectTcpip { host: address, port, origin_host, origin_port },
            OpenKind::Other { name: "auth-agent@openssh.com", rest: b"" },
            OpenKind::Other { name: "x11", rest: b"\0\0\0\x01x\0\0\0\x01" },
        ];
        for (n, kind) in kinds.into_iter().enumerate() {
            let sender = ChannelNumber(100 + n as u32);
            let (window_bytes, packet_bytes_max) = (1 << 20, 32 << 10);
            host.say(&ChannelOpen { sender, window_bytes, packet_bytes_max, kind });
        }
        let mut refused = 0;
        while refused < 6 {
            match host.hear() {
                Some(message) if message[0] == number::CHANNEL_OPEN_FAILURE => refused += 1,
                Some(message) if message[0] == number::CHANNEL_OPEN_CONFIRMATION => return,
                Some(_) => {}
                None => return,
            }
        }
        host.say(&ChannelData { recipient, data: b"all refused\n" });
        host.end(recipient, 4);
    };
    for share in ["no", "yes"] {
        before(script, &format!("TidegateUpstreamShare {share}"), |gateway| {
            let output = client(gateway);
            assert_eq!(text(&output.stdout), "all refused\n", "{}", said(gateway, &output));
            assert_eq!(output.status.code(), Some(4));
        });
    }
}

#[test]
fn case_106_a_host_that_breaks_rules_is_lost_and_the_client_hears_why() {
    type Script = fn(Impostor);
    let scripts: [(Script, &str); 3] = [
        (
            |mut host| {
                // In before anybody has asked (case 52).
                host.wait_for(number::SERVICE_REQUEST);
                host.say(&UserAuthSuccess);
                while host.hear().is_some() {}
            },
            "a login message that answers nothing",
        ),
        (
            |mut host| {
                let Some(()) = host.log_in() else { return };
                let Some(recipient) = host.confirm() else { return };
                // More than anybody's window (case 82).
                for _ in 0..100 {
                    host.say(&ChannelData { recipient, data: &[b'x'; 32 << 10] });
                }
                while host.hear().is_some() {}
            },
            "channel data past the window",
        ),
        (
            |mut host| {
                let Some(()) = host.log_in() else { return };
                let Some(_) = host.confirm() else { return };
                host.say(&ChannelEof { recipient: ChannelNumber(4000) });
                while host.hear().is_some() {}
            },
            "a message about a channel that is not open",
        ),
    ];
    for (script, why) in scripts {
        before(script, "", |gateway| {
            // Its output is not read: what a client has consumed would be window again, and a slow
            // host could stay within it.
            let mut command = gateway.ssh(&[QUICK, "LogLevel=INFO"], &["anything"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().expect("ssh starts");
            let _unread = child.stdout.take();
            let output = child.wait_with_output().expect("ssh ends");
            assert_eq!(output.status.code(), Some(255), "{}", said(gateway, &output));
            let words = text(&output.stderr);
            assert!(words.contains(why), "{why}: {words}\n{}", gateway.log());
        });
    }
}
