//! The first bytes of a connection, in clear: identification and KEXINIT.

use std::sync::{Arc, LazyLock};

use super::Input;
use super::fixtures::{client_config, server_config};
use super::packet::frame;
use crate::base::{Instant, SeededEntropy};
use crate::crypto::{Geometry, KexKind};
use crate::limits::{OUTBOX_RESERVE, PACKET_LENGTH_PREAUTH_MAX, PACKET_SLOT};
use crate::transport::{
    Carved, Client, ClientConfig, Env, Error, Outbox, Role, Server, ServerConfig, Transport,
};

/// What a peer sends first, up to the end of the clear part. Two bytes pick the role and the size
/// of the pieces it arrives in, which must not matter.
pub fn ident(data: &[u8]) {
    let mut input = Input::new(data);
    let role = input.byte();
    let step = usize::from(input.byte()).max(1);
    let (whole, pieces) = if role.is_multiple_of(2) {
        let run = |step| feed(Transport::<Server>::new(Arc::clone(&SERVER)), input.rest(), step);
        (run(usize::MAX), run(step))
    } else {
        let run = |step| feed(Transport::<Client>::new(Arc::clone(&CLIENT)), input.rest(), step);
        (run(usize::MAX), run(step))
    };
    assert_eq!(whole, pieces, "the pieces that bytes arrive in changed what they mean");
}

static SERVER: LazyLock<Arc<ServerConfig>> =
    LazyLock::new(|| Arc::new(server_config(&[KexKind::Toy])));
static CLIENT: LazyLock<Arc<ClientConfig>> =
    LazyLock::new(|| Arc::new(client_config(&[KexKind::Toy, KexKind::EcdhP256])));
/// Before the client's public value a server computes nothing, so it may offer everything.
static FULL_SERVER: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    let config = server_config(KexKind::DEFAULT);
    Arc::new(ServerConfig { steers: true, ..config })
});

/// A KEXINIT payload behind a byte that picks who reads it.
pub fn kexinit(data: &[u8]) {
    let mut input = Input::new(data);
    let role = input.byte();
    let mut stream = b"SSH-2.0-fuzz\r\n".to_vec();
    stream.extend(frame(Geometry::PLAIN, input.rest()));
    let step = usize::MAX;
    match role % 3 {
        0 => feed(Transport::<Server>::new(Arc::clone(&FULL_SERVER)), &stream, step),
        1 => feed(Transport::<Server>::new(Arc::clone(&SERVER)), &stream, step),
        _ => feed(Transport::<Client>::new(Arc::clone(&CLIENT)), &stream, step),
    };
}

/// What came of a run.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// Payloads handed up.
    payloads: Vec<Vec<u8>>,
    sent: Vec<u8>,
    error: Option<Error>,
}

/// Hands `bytes` to a new transport, `step` more at a time, until it fails, asks or has had all.
fn feed<R: Role>(mut transport: Transport<R>, bytes: &[u8], step: usize) -> Outcome {
    let mut entropy = SeededEntropy::new(7);
    let mut target = vec![0; PACKET_SLOT as usize];
    let mut sent = Vec::new();
    let mut stream = bytes.to_vec();
    let mut buf: &mut [u8] = &mut stream;
    let mut payloads = Vec::new();
    let mut used_out = {
        let out = Outbox::new(&mut target, 0);
        let mut env = Env { now: Instant::ZERO, entropy: &mut entropy, out };
        transport.start(&mut env).expect("a start in an empty outbox");
        env.out.used()
    };
    let mut have = step.min(buf.len());
    let error = loop {
        if transport.query().is_some() {
            break None;
        }
        if target.len() - used_out < OUTBOX_RESERVE as usize {
            sent.extend_from_slice(&target[..used_out]);
            used_out = 0;
        }
        let out = Outbox::new(&mut target, used_out);
        let mut env = Env { now: Instant::ZERO, entropy: &mut entropy, out };
        let carved = transport.carve(&mut env, &mut buf[..have]);
        used_out = env.out.used();
        let used = match carved {
            Err(error) => break Some(error),
            Ok(Carved::Need { total }) => {
                assert!(total as usize > have, "it asks for what it has");
                assert!(total <= PACKET_LENGTH_PREAUTH_MAX + 4, "it asks for too much");
                if have == buf.len() {
                    break None;
                }
                have = have.saturating_add(step).min(buf.len());
                continue;
            }
            Ok(Carved::Handled { used }) => used,
            Ok(Carved::Payload { used, payload }) => {
                payloads.push(payload.of(&buf[..have]).expect("inside the buffer").to_vec());
                used
            }
            Ok(Carved::Unpacked { .. }) => panic!("compressed before anybody logged in"),
        };
        assert!(used > 0 && used as usize <= have, "it used what it had not");
        buf = &mut buf[used as usize..];
        have = (have - used as usize).max(step.min(buf.len()));
    };
    if let Some(error) = &error {
        assert!(!matches!(error, Error::Invariant(_)), "a peer's bytes: {error}");
        let out = Outbox::new(&mut target, used_out);
        let mut env = Env { now: Instant::ZERO, entropy: &mut entropy, out };
        let again = transport.carve(&mut env, &mut []);
        assert_eq!(again.as_ref(), Err(error), "errors stay");
        assert_eq!(env.out.used(), used_out, "and are told once");
    }
    sent.extend_from_slice(&target[..used_out]);
    Outcome { payloads, sent, error }
}
