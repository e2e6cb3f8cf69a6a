//! OpenSSH PROTOCOL §2.5: a server tells all its host keys, and proves that it holds those it is asked
//! about, so that clients know the next ones before they are in use.

use super::Connection;
use super::machine::Asker;
use super::side::Side;
use crate::base::wildcard_match;
use crate::crypto::{KeyKind, PublicKey, SignatureAlgorithm};
use crate::limits::{
    HOST_KEY_BYTES_MAX, HOST_KEY_PROOFS_MAX, HOST_KEYS_TOLD_BYTES_MAX, HOST_KEYS_TOLD_MAX,
};
use crate::transport::{Client, Env, Error, Negotiated, Server};
use crate::wire::channel::{GlobalBody, GlobalRequest, RequestFailure, RequestSuccess};
use crate::wire::{Malformed, Reader};

/// The request that tells keys.
pub(super) const HOST_KEYS: &str = "hostkeys-00@openssh.com";
/// The request that asks for proofs; its name is part of what is signed.
pub(super) const PROVE: &str = "hostkeys-prove-00@openssh.com";

/// Clients that take the request for a fault of ours, by the names that they give themselves.
const CONFUSED: [&[u8]; 17] = [
    b"TTSSH/1.5.*",
    b"TTSSH/2.1*",
    b"TTSSH/2.2*",
    b"TTSSH/2.3*",
    b"TTSSH/2.4*",
    b"TTSSH/2.5*",
    b"TTSSH/2.6*",
    b"TTSSH/2.70*",
    b"TTSSH/2.71*",
    b"TTSSH/2.72*",
    b"WinSCP_release_4*",
    b"WinSCP_release_5.0*",
    b"WinSCP_release_5.1",
    b"WinSCP_release_5.1.*",
    b"WinSCP_release_5.5*",
    b"WinSCP_release_5.6*",
    b"WinSCP_release_5.7*",
];

/// What a server signs to prove that it holds a key: nothing else begins with this name, so the
/// signature is of no other use.
pub fn host_key_proof(session_id: &[u8], key: &PublicKey) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in [PROVE.as_bytes(), session_id, key.blob()] {
        put(&mut bytes, part);
    }
    bytes
}

/// How a key signs its proof: an RSA key as it would in the key exchange.
fn proof_algorithm(key: &PublicKey, agreed: &Negotiated) -> Option<SignatureAlgorithm> {
    match key.kind() {
        KeyKind::Rsa => Some(agreed.rsa),
        kind => SignatureAlgorithm::for_key(kind).first().copied(),
    }
}

/// The strings that a message consists of, at most `max`.
pub(super) fn strings(rest: &[u8], max: usize) -> Result<Vec<&[u8]>, Malformed> {
    let mut body = Reader::new(rest);
    let mut strings = Vec::new();
    while !body.is_empty() {
        if strings.len() >= max {
            return Err(Malformed::OverLimit);
        }
        strings.push(body.string(HOST_KEY_BYTES_MAX)?);
    }
    Ok(strings)
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn is_confused(peer_ident: &[u8]) -> bool {
    let software = peer_ident.strip_prefix(b"SSH-2.0-").unwrap_or_default();
    CONFUSED.iter().any(|pattern| wildcard_match(pattern, software))
}

impl Connection<Server> {
    /// Tells the client all our host keys, once its login is over. Nobody answers.
    pub fn tell_host_keys(&mut self, env: &mut Env<'_>) -> Result<(), Error> {
        self.check()?;
        if !Server::is_logged_in(&self.login) || is_confused(self.transport.peer_ident()) {
            return Ok(());
        }
        let mut rest = Vec::new();
        for key in self.told_host_keys() {
            put(&mut rest, key.blob());
        }
        if rest.is_empty() {
            return Ok(());
        }
        let request = GlobalBody::Other { name: HOST_KEYS, rest: &rest };
        self.say(&GlobalRequest { want_reply: false, request }, env)
    }

    /// Those that are told and proved, in order: their places are those of the configuration.
    fn told_host_keys(&self) -> impl Iterator<Item = &PublicKey> {
        let mut bytes = 0;
        let keys = self.login.host_keys().iter().map(|key| &key.public).take(HOST_KEYS_TOLD_MAX);
        keys.take_while(move |key| {
            bytes += key.blob().len() + 4;
            bytes <= HOST_KEYS_TOLD_BYTES_MAX
        })
    }

    /// Which keys the client wants proved, and how each signs. `None`: it is refused, as one that has
    /// asked often enough is.
    pub(super) fn proofs_wanted(&mut self, rest: &[u8]) -> Option<HostKeyProofs> {
        if self.channels.proofs_asked >= HOST_KEY_PROOFS_MAX {
            return None;
        }
        self.channels.proofs_asked += 1;
        let agreed = *self.transport.negotiated()?;
        let told: Vec<_> = self.told_host_keys().collect();
        let wanted = strings(rest, told.len()).ok()?;
        let prove = |blob: &&[u8]| {
            let place = told.iter().position(|key| key.blob() == *blob)?;
            Some((place, proof_algorithm(told.get(place)?, &agreed)?))
        };
        wanted.iter().map(prove).collect()
    }

    /// Answers a request for proofs that was heard of: a signature for each key, or none at all.
    /// Requests that came behind it are taken up.
    pub fn prove_host_keys(
        &mut self,
        signatures: Option<&[Box<[u8]>]>,
        env: &mut Env<'_>,
    ) -> Result<(), Error> {
        self.check()?;
        let due = self.channels.global.as_mut().and_then(|globals| globals.due.take());
        if due.is_none() {
            return Ok(());
        }
        match signatures {
            None => self.say(&RequestFailure, env)?,
            Some(signatures) => {
                let mut rest = Vec::new();
                signatures.iter().for_each(|signature| put(&mut rest, signature));
                self.say(&RequestSuccess { rest: &rest }, env)?;
            }
        }
        self.take_up_globals(env).map_err(|error| self.fail(error, env))
    }
}

impl Connection<Client> {
    /// Asks the server to prove that it holds these keys; [`super::Event::HostKeysProved`] follows.
    /// False, and nothing sent, when too many requests are unanswered.
    pub fn ask_proofs(&mut self, keys: &[PublicKey], env: &mut Env<'_>) -> Result<bool, Error> {
        self.check()?;
        if !Client::is_logged_in(&self.login) || self.globals.push(Asker::Proofs).is_err() {
            return Ok(false);
        }
        let mut rest = Vec::new();
        keys.iter().for_each(|key| put(&mut rest, key.blob()));
        let request = GlobalBody::Other { name: PROVE, rest: &rest };
        self.say(&GlobalRequest { want_reply: true, request }, env).map(|()| true)
    }
}

/// Whether a server's answer proves that it holds all of these keys: a signature for each, over the
/// connection's session and the key, and nothing else.
pub fn host_keys_hold(connection: &Connection<Client>, keys: &[PublicKey], answer: &[u8]) -> bool {
    let Some(agreed) = connection.negotiated() else { return false };
    let Ok(signatures) = strings(answer, keys.len()) else { return false };
    let holds = |(key, signature): (&PublicKey, &&[u8])| {
        let bytes = host_key_proof(connection.session_id(), key);
        let holds = |algorithm| key.verify(algorithm, &bytes, signature).is_ok();
        match agreed.host_key.signature.key_kind() == key.kind() {
            true => proof_algorithm(key, agreed).is_some_and(holds),
            // In whichever way such a key signs.
            false => SignatureAlgorithm::for_key(key.kind()).iter().copied().any(holds),
        }
    };
    signatures.len() == keys.len() && keys.iter().zip(&signatures).all(holds)
}

/// Host keys by their places in the configuration, and how each is to sign.
pub type HostKeyProofs = Box<[(usize, SignatureAlgorithm)]>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_confused_by_more_keys() {
        for (ident, confused) in [
            ("SSH-2.0-OpenSSH_9.2p1 Debian-2", false),
            ("SSH-2.0-WinSCP_release_5.7.4", true),
            ("SSH-2.0-WinSCP_release_5.1", true),
            ("SSH-2.0-WinSCP_release_5.13.1", false),
            ("SSH-2.0-WinSCP_release_6.1", false),
            ("SSH-2.0-TTSSH/2.72 Win32", true),
            ("SSH-2.0-TTSSH/2.91 Win32", false),
        ] {
            assert_eq!(is_confused(ident.as_bytes()), confused, "{ident}");
        }
    }

    #[test]
    fn lists_of_keys_are_bounded() {
        let mut rest = Vec::new();
        (0..3).for_each(|_| put(&mut rest, b"key"));
        assert_eq!(strings(&rest, 3).map(|keys| keys.len()), Ok(3));
        assert_eq!(strings(&rest, 2), Err(Malformed::OverLimit));
        assert!(strings(&rest[..rest.len() - 1], 3).is_err());
        assert_eq!(strings(b"", 3), Ok(Vec::new()));
    }
}
