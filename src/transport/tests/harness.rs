//! Two transports in memory and whatever lies between them.

use std::sync::{Arc, LazyLock};

use crate::base::{Instant, SeededEntropy};
use crate::crypto::{KeyKind, PrivateKey, kex};
use crate::limits::OUTBOX_RESERVE;
use crate::transport::exchange::{Offered, Step};
use crate::transport::machine::Stage;
use crate::transport::*;
use crate::wire::transport::KexInit;
use crate::wire::{Message, NameList, Writer};

/// One key of each kind, generated once.
pub(super) static HOST_KEYS: LazyLock<Vec<PrivateKey>> = LazyLock::new(|| {
    let kinds = [KeyKind::Ed25519, KeyKind::EcdsaP256];
    kinds.iter().map(|kind| PrivateKey::generate(*kind).expect("a key")).collect()
});

/// A key of the same kind as the first, and not the first.
pub(super) static OTHER_KEY: LazyLock<PrivateKey> =
    LazyLock::new(|| PrivateKey::generate(KeyKind::Ed25519).expect("a key"));

pub(super) fn server_config() -> ServerConfig {
    let keys = HOST_KEYS.iter().map(|key| HostKey::new(key.public().clone())).collect();
    ServerConfig::new(Preferences::new("Server_1 test").expect("valid"), keys)
}

pub(super) fn client_config() -> ClientConfig {
    ClientConfig::new(Preferences::new("Client_1").expect("valid"))
}

/// One end, the bytes on their way to it, and what came of them.
pub(super) struct End<R: Role> {
    pub transport: Transport<R>,
    pub now: Instant,
    pub entropy: SeededEntropy,
    /// Arrived and not carved yet.
    pub inbox: Vec<u8>,
    /// Left, in order, and not delivered yet.
    pub outbox: Vec<u8>,
    pub delivered: Vec<Vec<u8>>,
    pub error: Option<Error>,
    /// Left unanswered while false.
    pub answers: bool,
    pub trusts: bool,
    pub queries: usize,
    /// The private half of a host key, by its place in the configuration.
    pub signer: fn(usize) -> &'static PrivateKey,
    need: usize,
}

impl<R: Role> End<R> {
    pub(super) fn new(config: R::Config, seed: u64) -> End<R> {
        let mut end = End::new_unstarted(config, seed);
        end.call(|transport, env| transport.start(env)).expect("started");
        end
    }

    fn new_unstarted(config: R::Config, seed: u64) -> End<R> {
        End {
            transport: Transport::new(Arc::new(config)),
            now: Instant::from_nanos(1_000_000_000),
            entropy: SeededEntropy::new(seed),
            inbox: Vec::new(),
            outbox: Vec::new(),
            delivered: Vec::new(),
            error: None,
            answers: true,
            trusts: true,
            queries: 0,
            signer: |place| &HOST_KEYS[place],
            need: 1,
        }
    }

    /// An end that goes on from another's record.
    pub(super) fn resumed(config: R::Config, record: &[u8]) -> End<R> {
        let record = TransportRecord::from_bytes(record).expect("a record");
        let mut end = End::new_unstarted(config, 11);
        let config = Arc::clone(&end.transport.config);
        end.transport = Transport::import(config, record, end.now).expect("imported");
        end
    }

    /// Calls with a fresh outbox and keeps what was written.
    pub(super) fn call<T>(&mut self, f: impl FnOnce(&mut Transport<R>, &mut Env<'_>) -> T) -> T {
        self.call_with_room(OUTBOX_RESERVE as usize, f)
    }

    pub(super) fn call_with_room<T>(
        &mut self,
        room: usize,
        f: impl FnOnce(&mut Transport<R>, &mut Env<'_>) -> T,
    ) -> T {
        let mut space = vec![0; room];
        let out = Outbox::new(&mut space, 0);
        let mut env = Env { now: self.now, entropy: &mut self.entropy, out };
        let result = f(&mut self.transport, &mut env);
        let used = env.out.used();
        self.outbox.extend_from_slice(&space[..used]);
        result
    }

    /// Sends what no honest peer would: past every state, under the present keys.
    pub(super) fn inject(&mut self, payload: &[u8]) {
        self.call(|transport, env| transport.wires.emit_payload(payload, env)).expect("room");
    }

    pub(super) fn inject_message<'m>(&mut self, message: &impl Message<'m>) {
        self.inject(&encoded(message));
    }

    /// Takes what is in the inbox, as far as it goes.
    pub(super) fn run(&mut self) {
        while self.error.is_none() && self.settle_query() && self.inbox.len() >= self.need {
            let mut inbox = std::mem::take(&mut self.inbox);
            let have = inbox.len();
            let carved = self.call(|transport, env| transport.carve(env, &mut inbox));
            self.inbox = inbox;
            let used = match carved {
                Ok(Carved::Need { total }) => {
                    assert!(total as usize > have, "asked for what is there");
                    self.need = total as usize;
                    continue;
                }
                Ok(Carved::Handled { used }) => used,
                Ok(Carved::Payload { used, payload }) => {
                    let payload = payload.of(&self.inbox).expect("within the buffer");
                    self.delivered.push(payload.to_vec());
                    used
                }
                Ok(Carved::Unpacked { used }) => {
                    self.delivered.push(self.transport.take_unpacked());
                    used
                }
                Err(error) => {
                    self.error = Some(error);
                    return;
                }
            };
            assert!(used > 0);
            self.inbox.drain(..used as usize);
            self.need = 1;
        }
    }

    /// False while a question stays open.
    fn settle_query(&mut self) -> bool {
        if self.answers
            && let Some(task) = self.transport.take_task()
        {
            return self.settle(Answer::Computed(task.run(&mut SeededEntropy::new(3))));
        }
        let answer = match self.transport.query() {
            None => return true,
            // Taken by the test.
            Some(Query::Compute) => return false,
            Some(_) if !self.answers => return false,
            Some(Query::Agree { group, client_public }) => {
                let agreement = kex::respond_in(group, client_public);
                Answer::Agreement(agreement.map(|(public, secret)| (public.into(), secret)))
            }
            Some(Query::Sign { host_key, algorithm, message, .. }) => {
                let signature = (self.signer)(*host_key).sign(*algorithm, message.as_ref());
                Answer::Signature(Some(signature.expect("signed").into()))
            }
            Some(Query::TrustHostKey { .. }) => Answer::Trust(self.trusts),
        };
        self.settle(answer)
    }

    fn settle(&mut self, answer: Answer) -> bool {
        self.queries += 1;
        match self.call(|transport, env| transport.answer(answer, env)) {
            // One question may lead to the next.
            Ok(()) => self.settle_query(),
            Err(error) => {
                self.error = Some(error);
                true
            }
        }
    }

    /// Seals a payload in place, as bulk data leaves. False when it may not leave now.
    pub(super) fn seal(&mut self, payload: &[u8]) -> bool {
        let packed = self.transport.packs().then(|| self.transport.pack(payload).expect("packed"));
        let payload = packed.as_deref().unwrap_or(payload);
        let len = payload.len() as u32;
        let mut packet = vec![0; self.transport.geometry().wire_len(len) as usize];
        packet[5..][..payload.len()].copy_from_slice(payload);
        let sealed = self.transport.seal(&mut packet, len, &mut self.entropy).is_ok();
        if sealed {
            self.outbox.extend_from_slice(&packet);
        }
        sealed
    }

    pub(super) fn send(&mut self, payload: &[u8]) -> Result<(), Error> {
        self.call(|transport, env| transport.send_payload(payload, env))
    }

    pub(super) fn rekey(&mut self) {
        self.call(|transport, env| transport.rekey(env)).expect("alive");
    }

    /// Feeds bytes and takes what comes of them.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
        self.run();
    }

    #[track_caller]
    pub(super) fn fails_with(&mut self, code: u32) -> Error {
        let error = self.error.clone().expect("an error");
        assert_eq!(error.disconnect_code(), Some(code), "{error}");
        // Errors are sticky, whatever comes next.
        let again = self.call(|transport, env| transport.carve(env, &mut [0; 64]));
        assert_eq!(again, Err(error.clone()));
        assert_eq!(self.send(&[90]), Err(error.clone()));
        assert!(!self.seal(&[90]));
        error
    }
}

/// A server that has read a client's identification.
pub(super) fn greeted_server() -> End<Server> {
    let mut server = End::new(server_config(), 5);
    server.feed(b"SSH-2.0-Peer\r\n");
    server.outbox.clear();
    server
}

/// A client that has read a server's identification.
pub(super) fn greeted_client() -> End<Client> {
    let mut client = End::new(client_config(), 6);
    client.feed(b"SSH-2.0-Peer\r\n");
    client.outbox.clear();
    client
}

/// What an honest client offers first, changed by `change`.
pub(super) fn client_offer(change: impl FnOnce(&mut KexInit<'_>)) -> Vec<u8> {
    changed(&offer_of(&End::<Client>::new(client_config(), 7)), change)
}

/// What an honest server offers first, changed by `change`.
pub(super) fn server_offer(change: impl FnOnce(&mut KexInit<'_>)) -> Vec<u8> {
    changed(&offer_of(&End::<Server>::new(server_config(), 8)), change)
}

pub(super) fn changed(offer: &[u8], change: impl FnOnce(&mut KexInit<'_>)) -> Vec<u8> {
    let mut message = KexInit::parse(offer).expect("an offer");
    change(&mut message);
    encoded(&message)
}

/// The KEXINIT that left behind the identification.
fn offer_of<R: Role>(end: &End<R>) -> Vec<u8> {
    let line = end.outbox.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
    let packet = &end.outbox[line..];
    let length = u32::from_be_bytes(packet[..4].try_into().expect("four")) as usize;
    packet[5..4 + length - packet[4] as usize].to_vec()
}

impl<R: Role> End<R> {
    /// Replaces the KEXINIT that this end sent when it started, before anything was delivered.
    pub(super) fn reoffer(&mut self, change: impl FnOnce(&mut KexInit<'_>)) {
        let offer = changed(&offer_of(self), change);
        let line = self.outbox.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
        self.outbox.truncate(line);
        self.outbox.extend_from_slice(&plain(&offer));
        let Ok(Stage::Greeting(greeting)) = &mut self.transport.stage else { panic!("too late") };
        greeting.exchange.step = Step::Offered(Offered { ours: Some(offer.into()) });
    }
}

pub(super) fn names(list: &'static str) -> NameList<'static> {
    NameList::new(list.as_bytes()).expect("valid")
}

pub(super) struct Pair {
    pub client: End<Client>,
    pub server: End<Server>,
}

impl Pair {
    pub(super) fn new(client: ClientConfig, server: ServerConfig) -> Pair {
        Pair { client: End::new(client, 1), server: End::new(server, 2) }
    }

    /// Default configurations, first key exchange done.
    pub(super) fn established() -> Pair {
        let mut pair = Pair::new(client_config(), server_config());
        pair.settle();
        pair.expect_alive();
        pair
    }

    /// Moves up to `bytes` from the client to the server.
    pub(super) fn deliver_to_server(&mut self, bytes: usize) {
        let bytes = bytes.min(self.client.outbox.len());
        let moved: Vec<u8> = self.client.outbox.drain(..bytes).collect();
        self.server.feed(&moved);
    }

    pub(super) fn deliver_to_client(&mut self, bytes: usize) {
        let bytes = bytes.min(self.server.outbox.len());
        let moved: Vec<u8> = self.server.outbox.drain(..bytes).collect();
        self.client.feed(&moved);
    }

    /// Moves bytes both ways until nothing is on its way.
    pub(super) fn settle(&mut self) {
        self.client.run();
        self.server.run();
        while !(self.client.outbox.is_empty() && self.server.outbox.is_empty()) {
            self.deliver_to_server(usize::MAX);
            self.deliver_to_client(usize::MAX);
        }
    }

    #[track_caller]
    pub(super) fn expect_alive(&self) {
        assert_eq!((&self.client.error, &self.server.error), (&None, &None));
        assert!(self.client.transport.is_ready() && self.server.transport.is_ready());
        assert!(!self.client.transport.is_exchanging() && !self.server.transport.is_exchanging());
        assert_eq!(self.client.transport.session_id(), self.server.transport.session_id());
        assert_eq!(self.client.transport.negotiated(), self.server.transport.negotiated());
        assert_eq!(self.client.transport.exchanges(), self.server.transport.exchanges());
    }

    pub(super) fn set_now(&mut self, now: Instant) {
        self.client.now = now;
        self.server.now = now;
    }
}

pub(super) fn encoded<'m>(message: &impl Message<'m>) -> Vec<u8> {
    let mut space = vec![0; 64 * 1024];
    let mut out = Writer::new(&mut space);
    message.write(&mut out).expect("room");
    out.written().to_vec()
}

/// A packet in clear, as before the first NEWKEYS.
pub(super) fn plain(payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u32;
    let geometry = crate::crypto::Geometry::PLAIN;
    let padding = geometry.padding(len);
    let mut packet = (1 + len + padding).to_be_bytes().to_vec();
    packet.push(padding as u8);
    packet.extend_from_slice(payload);
    packet.resize(packet.len() + padding as usize, 0);
    packet
}
