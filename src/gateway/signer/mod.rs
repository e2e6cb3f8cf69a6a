//! The signer: the process that holds the host's private keys and those that open hosts behind the
//! gateway, and nothing else. It makes what it signs
//! of typed fields itself. Its keys come as open files, once it has given root's rights up.

pub mod bureau;
mod confine;
mod heirs;
pub mod keeper;
pub mod words;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, bail};
use crossbeam::channel::{Receiver, Sender, bounded};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::SigSet;
use tracing::{debug, error};
use zeroize::{Zeroize, Zeroizing};

use self::heirs::Heirs;
use self::words::{KnownKey, Order, Say, Setup, Signable, Tell, UpstreamKey};
use super::batch;
use super::helper::{self, NOT_BY_HAND};
use super::signals::SIGNALS;
use super::socket::Messenger;
use super::upstream::OneLogin;
use super::{host_agent, host_keys};
use crate::connection::{LoginSession, SERVICE_CONNECTION, host_key_proof};
use crate::crypto::{Digest, KeyError, KeyKind, PrivateKey, PublicKey, SignatureAlgorithm};
use crate::limits::{HEIRS_MAX, PARCEL_BYTES_MAX, SIGNER_FILES_MAX, SLOW_SIGNATURES_MAX};
use crate::transport::SignableExchange;
use crate::wire::auth::PublicKeyAttempt;

/// Signs until the other end is gone.
///
/// # Errors
/// The process was not started by a gateway, was given no key, or could not give its rights up.
pub fn run() -> anyhow::Result<()> {
    nix::sys::prctl::set_name(c"tidegate")?;
    batch::enter();
    let messenger = Arc::new(helper::parent()?);
    // As in an edge: root's process says when this one ends.
    SIGNALS.into_iter().collect::<SigSet>().thread_block()?;
    let mut buffer = Zeroizing::new(vec![0; PARCEL_BYTES_MAX as usize]);
    let Some(Tell::Setup(setup)) = hear(&messenger, &mut buffer)?.map(|(tell, _)| tell) else {
        bail!(NOT_BY_HAND);
    };
    keep_in_memory();
    let files_max = SIGNER_FILES_MAX + HEIRS_MAX as u64 + SLOW_SIGNATURES_MAX as u64;
    setup.cell.enter(files_max).context("cannot give root's rights up")?;
    let keys = take_keys(&messenger, &setup, &mut buffer)?;
    let signing = Signing::new(&setup, keys, &messenger).context("a host key")?;
    let signing = Arc::new(signing);
    let slow = start_slow(&signing, setup.slow_threads.max(1))?;
    confine::close().context("cannot confine the signer")?;
    messenger.send(&Say::Ready.encode())?;
    signing.serve(&slow, &mut buffer)
}

/// The next message, and what came with it; `None` when nobody is there any more.
fn hear(
    messenger: &Messenger,
    buffer: &mut [u8],
) -> anyhow::Result<Option<(Tell, Option<OwnedFd>)>> {
    let next = helper::next_message(messenger, buffer).context(NOT_BY_HAND)?;
    let Some((len, passenger)) = next else { return Ok(None) };
    let bytes = buffer.get_mut(..len).unwrap_or_default();
    let tell = Tell::decode(bytes);
    // It may have held a shared secret.
    bytes.zeroize();
    let tell = tell.context("the gateway sent something that is not for the signer")?;
    Ok(Some((tell, passenger)))
}

/// Keys are not written to a disk that memory is swapped to. Where the system does not let us, its swap
/// is as safe as its other memory.
fn keep_in_memory() {
    let unlimited = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let flags = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE;
    if let Err(why) = unlimited.and_then(|()| mlockall(flags)) {
        debug!(%why, "the signer's memory may be swapped: {why}");
    }
}

/// Private halves of keys.
#[derive(Default)]
pub struct Keys {
    /// None of those that an agent has.
    pub host: Vec<Option<PrivateKey>>,
    /// That open hosts; of one whose file is gone or holds another key there is none.
    pub upstream: Vec<Option<PrivateKey>>,
}

/// The private halves of the keys that are told of, from files that come opened.
fn take_keys(messenger: &Messenger, setup: &Setup, buffer: &mut [u8]) -> anyhow::Result<Keys> {
    let mut keys = Keys::default();
    loop {
        while setup.keys.get(keys.host.len()).is_some_and(|known| known.is_agents) {
            keys.host.push(None);
        }
        let host = setup.keys.get(keys.host.len());
        let upstream = setup.upstream_keys.get(keys.upstream.len());
        match (hear(messenger, buffer)?, host, upstream) {
            (Some((Tell::Key, Some(file))), Some(known), _) => {
                keys.host.push(Some(take_key(file.into(), &known.public)?));
            }
            (Some((Tell::Key, Some(file))), None, Some(known)) => {
                let taken = take_key(file.into(), &known.public);
                let tell = |why| error!("A key that opens hosts is not used: {why:#}");
                keys.upstream.push(taken.map_err(tell).ok());
            }
            (Some((Tell::NoKey, None)), None, Some(_)) => keys.upstream.push(None),
            (Some((Tell::Begin, None)), None, None) => return Ok(keys),
            _ => bail!("the gateway sent no keys"),
        }
    }
}

fn take_key(file: File, public: &[u8]) -> anyhow::Result<PrivateKey> {
    let key = host_keys::read_open(file).context("a key file")?;
    if key.public().blob() != public {
        bail!("a key file holds {}, another key than before", key.public().fingerprint());
    }
    Ok(key)
}

/// A host key.
struct Held {
    private: Option<PrivateKey>,
    public: PublicKey,
    known: KnownKey,
}

impl Held {
    /// By the key, or by the agent that has it.
    fn sign(
        &self,
        algorithm: SignatureAlgorithm,
        text: &[u8],
        agent: Option<&OwnedFd>,
    ) -> Result<Vec<u8>, &'static str> {
        match (&self.private, agent) {
            (Some(private), _) => sign_with(private, algorithm, text),
            (None, _) if algorithm.key_kind() != self.public.kind() => Err(WRONG_ALGORITHM),
            (None, None) => Err(host_agent::GONE),
            (None, Some(agent)) => host_agent::sign(agent, &self.public, algorithm, text),
        }
    }
}

const WRONG_ALGORITHM: &str = "an algorithm that is not the key's";

fn sign_with(
    key: &PrivateKey,
    algorithm: SignatureAlgorithm,
    text: &[u8],
) -> Result<Vec<u8>, &'static str> {
    if algorithm.key_kind() != key.kind() {
        return Err(WRONG_ALGORITHM);
    }
    key.sign(algorithm, text).map_err(|_| "the key could not sign")
}

/// A key that opens hosts.
struct Opener {
    private: Option<PrivateKey>,
    certifies: bool,
}

/// What signing takes.
pub struct Signing {
    keys: Vec<Held>,
    openers: Vec<Opener>,
    ident: String,
    messenger: Arc<Messenger>,
}

type Slow = Sender<(u64, Order, Option<OwnedFd>)>;

/// Threads for what takes milliseconds, so that nothing else waits for it.
pub fn start_slow(signing: &Arc<Signing>, threads: u32) -> anyhow::Result<Slow> {
    let (slow, orders) = bounded(SLOW_SIGNATURES_MAX);
    for n in 0..threads {
        let (signing, orders) = (Arc::clone(signing), Receiver::clone(&orders));
        thread::Builder::new()
            .name(format!("signer-{n}"))
            .spawn(move || {
                let work = || {
                    orders.iter().all(|(ticket, order, agent)| signing.answer(ticket, order, agent))
                };
                if catch_unwind(AssertUnwindSafe(work)).is_err() {
                    // A signer with a defect ends; another takes its place.
                    signing.messenger.hang_up();
                }
            })
            .context("cannot start the signer's threads")?;
    }
    Ok(slow)
}

impl Signing {
    /// # Errors
    /// A public half that is none.
    pub fn new(setup: &Setup, keys: Keys, messenger: &Arc<Messenger>) -> Result<Signing, KeyError> {
        let host = keys.host.into_iter().zip(setup.keys.iter().cloned());
        let openers = keys.upstream.into_iter().zip(&setup.upstream_keys);
        let open =
            |(private, known): (_, &UpstreamKey)| Opener { private, certifies: known.certifies };
        let held = |(private, known): (_, KnownKey)| {
            Ok(Held { private, public: PublicKey::from_blob(&known.public)?, known })
        };
        Ok(Signing {
            keys: host.map(held).collect::<Result<_, KeyError>>()?,
            openers: openers.map(open).collect(),
            ident: setup.ident.clone(),
            messenger: Arc::clone(messenger),
        })
    }

    /// Signs for root's process until it says that this is over; where it is gone without a word, for
    /// those who go on without it.
    ///
    /// # Errors
    /// What came is nothing that root's process sends.
    pub fn serve(&self, slow: &Slow, buffer: &mut [u8]) -> anyhow::Result<()> {
        let mut heirs = Heirs::default();
        loop {
            match hear(&self.messenger, buffer)? {
                None => return heirs.serve(self, buffer),
                Some((Tell::Stop, None)) => return Ok(()),
                Some((Tell::Heir { number }, socket)) => heirs.add(number, socket),
                Some((Tell::NoHeir { number }, None)) => heirs.remove(number),
                Some((Tell::Ping, None)) => {
                    // That nobody takes it shows when there is nothing more to be heard.
                    let _ = self.messenger.send(&Say::Pong.encode());
                }
                Some((Tell::Sign { ticket, order }, agent)) if self.is_slow(&order) => {
                    if slow.try_send((ticket, order, agent)).is_err() {
                        self.refuse(ticket, "more than is done at one time");
                    }
                }
                Some((Tell::Sign { ticket, order }, None)) => {
                    self.answer(ticket, order, None);
                }
                Some(_) => bail!("the gateway sent something that is not for the signer"),
            }
        }
    }

    fn is_slow(&self, order: &Order) -> bool {
        let number = order.key as usize;
        if order.what.is_upstreams() {
            let key = self.openers.get(number).and_then(|key| key.private.as_ref());
            return key.is_some_and(PrivateKey::is_slow);
        }
        // An agent may take its time.
        let is_slow = |key: &Held| key.private.as_ref().is_none_or(PrivateKey::is_slow);
        self.keys.get(number).is_some_and(is_slow)
    }

    /// The key of this number that opens hosts, if it is there and for this.
    fn opener(&self, number: u32, certifies: bool) -> Result<&PrivateKey, &'static str> {
        let opener = self.openers.get(number as usize).filter(|key| key.certifies == certifies);
        let opener = opener.ok_or("a key that there is not")?;
        opener.private.as_ref().ok_or("a key whose file is gone or holds another key")
    }

    /// `false`: nobody listens any more.
    fn answer(&self, ticket: u64, order: Order, agent: Option<OwnedFd>) -> bool {
        match self.sign(&order, agent.as_ref()) {
            Ok(signature) => {
                self.messenger.send(&Say::Signed { ticket, signature }.encode()).is_ok()
            }
            Err(why) => self.refuse(ticket, why),
        }
    }

    fn refuse(&self, ticket: u64, why: &str) -> bool {
        self.messenger.send(&Say::Refused { ticket, why: why.to_owned() }.encode()).is_ok()
    }

    fn sign(&self, order: &Order, agent: Option<&OwnedFd>) -> Result<Vec<u8>, &'static str> {
        let host_key = || self.keys.get(order.key as usize).ok_or("a key that there is not");
        match &order.what {
            Signable::Exchange(exchange) => {
                let key = host_key()?;
                let (algorithm, hash) = self.hash(key, exchange)?;
                key.sign(algorithm, hash.as_ref(), agent)
            }
            Signable::Proof { algorithm, session } => {
                let key = host_key()?;
                key.sign(*algorithm, &host_key_proof(session, &key.public), agent)
            }
            Signable::Login { algorithm, user, session } => {
                sign_login(self.opener(order.key, false)?, *algorithm, user, session)
            }
            Signable::Certificate { subject, user, key_id, sources } => {
                let subject = PublicKey::from_blob(subject).map_err(|_| "no key to certify")?;
                if subject.kind() != KeyKind::Ed25519 {
                    return Err("a key that was not made for one login");
                }
                let login = OneLogin { subject: &subject, user, key_id, sources };
                let certificate = login.certify(self.opener(order.key, true)?);
                Ok(certificate.map_err(|_| "no certificate can say that")?.blob().to_vec())
            }
        }
    }

    /// RFC 4253 §8: the hash of what is no one's but a server's that has this key and our name.
    fn hash(
        &self,
        key: &Held,
        exchange: &SignableExchange,
    ) -> Result<(SignatureAlgorithm, Digest), &'static str> {
        let fields = exchange.fields().map_err(|_| "fields that do not parse")?;
        fields.check(&self.ident)?;
        let algorithm = fields.host_key;
        let shown = match algorithm.certified {
            true if key.known.certificate.is_empty() => {
                return Err("a certificate that there is not");
            }
            true => &key.known.certificate,
            false => &key.known.public,
        };
        Ok((algorithm.signature, fields.hash(shown)))
    }
}

/// RFC 4252 §7, or the same with the host's key.
fn sign_login(
    key: &PrivateKey,
    algorithm: SignatureAlgorithm,
    user: &str,
    session: &LoginSession,
) -> Result<Vec<u8>, &'static str> {
    let attempt = PublicKeyAttempt {
        algorithm: algorithm.name(),
        key: key.public().blob(),
        host_key: Some(&*session.host_key).filter(|key| !key.is_empty()),
        signature: None,
    };
    let message = attempt.signed_bytes(&session.id, user, SERVICE_CONNECTION);
    sign_with(key, algorithm, &message.map_err(|_| "no room for what is signed")?)
}

#[cfg(test)]
pub(super) mod tests;
