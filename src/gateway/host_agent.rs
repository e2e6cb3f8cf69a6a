//! The agent that has host keys (HostKeyAgent), as sshd asks one: a connection for each signature, so that
//! one that was started again is as good as the one before.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recvmsg, sendmsg, socket,
};

use crate::base::Instant;
use crate::crypto::{PublicKey, SignatureAlgorithm};
use crate::limits::HOST_KEY_AGENT_TIME_MAX;
use crate::reactor;
use crate::wire::Writer;
use crate::wire::agent::{AgentReply, AgentRequest, frame_bytes};

/// The value of HostKeyAgent that stands for the socket which this variable names.
pub const FROM_ENVIRONMENT: &str = "SSH_AUTH_SOCK";

/// The socket that HostKeyAgent names. `None`: it names the environment's, and there is none.
pub fn socket_of(named: &Path) -> Option<PathBuf> {
    match named == Path::new(FROM_ENVIRONMENT) {
        true => {
            std::env::var_os(FROM_ENVIRONMENT).filter(|path| !path.is_empty()).map(PathBuf::from)
        }
        false => Some(named.to_owned()),
    }
}

/// A connection to an agent. Never waits.
///
/// # Errors
/// Nobody listens there, or too many wait to be heard.
pub fn reach(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let agent = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(agent.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(agent)
}

/// Why an agent has not signed.
type Unsigned = &'static str;
pub const GONE: Unsigned = "the agent of HostKeyAgent cannot be reached, or has ended";
const SILENT: Unsigned = "the agent of HostKeyAgent does not answer";
const REFUSED: Unsigned = "the agent of HostKeyAgent refuses; `ssh-add -l` shows which keys it has";
const NO_LIST: Unsigned = "it does not tell which keys it has";
const NONSENSE: Unsigned = "the agent of HostKeyAgent answers what is no signature of this key";

/// A signature blob (RFC 4253 §6.6) over `message`, checked. Waits, but no longer than
/// [`HOST_KEY_AGENT_TIME_MAX`].
///
/// # Errors
/// There is none.
pub fn sign(
    agent: &OwnedFd,
    key: &PublicKey,
    algorithm: SignatureAlgorithm,
    message: &[u8],
) -> Result<Vec<u8>, Unsigned> {
    let flags = algorithm.agent_flags();
    let frame = ask(agent, &AgentRequest::Sign { key: key.blob(), data: message, flags })?;
    match AgentReply::parse(&frame) {
        Ok(AgentReply::Signature(signature)) => {
            key.verify(algorithm, message, signature).map_err(|_| NONSENSE)?;
            Ok(signature.to_vec())
        }
        Ok(AgentReply::Failure) => Err(REFUSED),
        _ => Err(NONSENSE),
    }
}

/// The blobs of the keys that an agent has.
///
/// # Errors
/// It says nothing of the kind.
pub fn keys(agent: &OwnedFd) -> Result<Vec<Vec<u8>>, Unsigned> {
    let frame = ask(agent, &AgentRequest::Identities)?;
    match AgentReply::parse(&frame) {
        Ok(AgentReply::Identities(keys)) => {
            Ok(keys.iter().map(|(blob, _)| blob.to_vec()).collect())
        }
        _ => Err(NO_LIST),
    }
}

/// One answer, behind its length.
fn ask(agent: &OwnedFd, request: &AgentRequest<'_>) -> Result<Vec<u8>, Unsigned> {
    let since = reactor::now();
    let mut space = vec![0; request.bytes_max()];
    let mut out = Writer::new(&mut space);
    request.write(&mut out).map_err(|_| NONSENSE)?;
    let mut rest = out.written();
    while !rest.is_empty() {
        // A signer may send and receive messages, and nothing else.
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        match sendmsg::<()>(agent.as_raw_fd(), &[IoSlice::new(rest)], &[], flags, None) {
            Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
            Err(Errno::EAGAIN) => wait(agent, PollFlags::POLLOUT, since)?,
            Err(Errno::EINTR) => {}
            Err(_) => return Err(GONE),
        }
    }
    let mut length = [0; 4];
    fill(agent, &mut length, since)?;
    let bytes = frame_bytes(&length).ok().flatten().ok_or(NONSENSE)?;
    let mut frame = vec![0; bytes as usize];
    fill(agent, &mut frame, since)?;
    Ok(frame)
}

fn fill(agent: &OwnedFd, mut rest: &mut [u8], since: Instant) -> Result<(), Unsigned> {
    while !rest.is_empty() {
        let mut part = [IoSliceMut::new(rest)];
        let flags = MsgFlags::MSG_DONTWAIT;
        match recvmsg::<()>(agent.as_raw_fd(), &mut part, None, flags).map(|got| got.bytes) {
            Ok(0) => return Err(GONE),
            Ok(got) => rest = rest.get_mut(got..).unwrap_or_default(),
            Err(Errno::EAGAIN) => wait(agent, PollFlags::POLLIN, since)?,
            Err(Errno::EINTR) => {}
            Err(_) => return Err(GONE),
        }
    }
    Ok(())
}

fn wait(agent: &OwnedFd, what: PollFlags, since: Instant) -> Result<(), Unsigned> {
    let left = HOST_KEY_AGENT_TIME_MAX.saturating_sub(reactor::now().since(since));
    let millis = u16::try_from(left.as_millis()).unwrap_or(u16::MAX);
    match poll(&mut [PollFd::new(agent.as_fd(), what)], PollTimeout::from(millis)) {
        Ok(0) => Err(SILENT),
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(_) => Err(GONE),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;
    use crate::crypto::{KeyKind, PrivateKey};

    /// What comes of an agent that answers with these bytes.
    fn answered(key: &PublicKey, answer: Vec<u8>) -> Result<Vec<u8>, Unsigned> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("agent");
        let listener = UnixListener::bind(&path).expect("a socket");
        let agent = reach(&path).expect("it listens");
        let serve = move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut length = [0; 4];
            stream.read_exact(&mut length).expect("a length");
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut request).expect("a request");
            stream.write_all(&answer).expect("an answer");
        };
        let server = thread::Builder::new().name("agent".into()).spawn(serve).expect("a thread");
        let signed = sign(&agent, key, SignatureAlgorithm::Ed25519, b"message");
        server.join().expect("it has answered");
        signed
    }

    fn signature(bytes: &[u8]) -> Vec<u8> {
        let lengths = [(bytes.len() + 5) as u32, bytes.len() as u32].map(u32::to_be_bytes);
        [&lengths[0][..], &[14], &lengths[1], bytes].concat()
    }

    #[test]
    fn case_70_only_signatures_of_the_key_over_the_message_count() {
        let key = PrivateKey::generate(KeyKind::Ed25519).expect("a key");
        let public = key.public().clone();
        let by = |key: &PrivateKey, text: &[u8]| {
            key.sign(SignatureAlgorithm::Ed25519, text).expect("a working key")
        };
        let good = by(&key, b"message");
        assert_eq!(answered(&public, signature(&good)), Ok(good));
        let other = PrivateKey::generate(KeyKind::Ed25519).expect("a key");
        for answer in [
            signature(&by(&key, b"another")),
            signature(&by(&other, b"message")),
            signature(b""),
            vec![0, 0, 0, 1, 6],
            vec![0, 0, 0, 0],
            vec![0xff; 4],
        ] {
            assert_eq!(answered(&public, answer), Err(NONSENSE));
        }
        assert_eq!(answered(&public, vec![0, 0, 0, 1, 5]), Err(REFUSED));
        for cut in [vec![], vec![0, 0], vec![0, 0, 0, 9, 14, 0]] {
            assert_eq!(answered(&public, cut), Err(GONE));
        }
    }

    #[test]
    fn an_agent_that_is_not_there_is_told_at_once() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(reach(&directory.path().join("none")).is_err());
        let path = directory.path().join("agent");
        drop(UnixListener::bind(&path).expect("a socket"));
        assert!(reach(&path).is_err());
    }
}
