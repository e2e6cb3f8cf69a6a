//! The user's agent: which keys it has, and signatures by them. Asked when its answer is needed, and
//! waited for: somebody may be asked to confirm.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};
use zeroize::Zeroizing;

use super::options::AddKeys;
use crate::crypto::PrivateKey;
use crate::limits::AGENT_BIND_TIME_MAX;
use crate::wire::Writer;
use crate::wire::agent::{AgentReply, AgentRequest, frame_bytes};

/// How a server has proved that it is the host it says: its key (or certificate), and its signature over
/// the session's identifier.
#[derive(Clone, Debug)]
pub struct HostProof {
    pub host_key: Box<[u8]>,
    pub signature: Box<[u8]>,
}

impl HostProof {
    const fn request<'a>(&'a self, session_id: &'a [u8], forwarding: bool) -> AgentRequest<'a> {
        let HostProof { host_key, signature } = self;
        AgentRequest::Bind { host_key, session_id, signature, forwarding }
    }

    /// What an agent is told that is lent to programs at the host, as a whole frame. Keys that are
    /// restricted to hosts (`ssh-add -h`) then sign there for the hosts that may be reached from it.
    pub fn lend(&self, session_id: &[u8]) -> Option<Box<[u8]>> {
        framed(&self.request(session_id, true))
    }
}

fn framed(request: &AgentRequest<'_>) -> Option<Box<[u8]>> {
    // It may hold a private key.
    let mut space = Zeroizing::new(vec![0; request.bytes_max()]);
    let mut out = Writer::new(&mut space);
    request.write(&mut out).ok()?;
    Some(out.written().into())
}

/// Connects to an agent and tells it this frame, for programs at a host. As in ssh it is lent as well
/// where it does not know what it is told: it has no keys then that would ask for that.
///
/// # Errors
/// Nobody listens there, or nobody answers in time.
pub fn connect_bound(path: &[u8], bind: &[u8]) -> io::Result<OwnedFd> {
    let mut stream = UnixStream::connect(Path::new(OsStr::from_bytes(path)))?;
    stream.set_read_timeout(Some(AGENT_BIND_TIME_MAX))?;
    stream.set_write_timeout(Some(AGENT_BIND_TIME_MAX))?;
    stream.write_all(bind)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "it answers something else");
    let bytes = frame_bytes(&length).ok().flatten().ok_or_else(odd)?;
    let mut frame = vec![0; bytes as usize];
    stream.read_exact(&mut frame)?;
    match AgentReply::parse(&frame) {
        Ok(AgentReply::Success | AgentReply::Failure) => {}
        _ => return Err(odd()),
    }
    stream.set_nonblocking(true)?;
    Ok(stream.into())
}

/// A connection to an agent.
pub struct Agent {
    stream: UnixStream,
}

impl Agent {
    /// # Errors
    /// Nobody listens there.
    pub fn connect(path: &Path) -> Result<Agent> {
        let stream = UnixStream::connect(path)
            .with_context(|| format!("cannot reach the agent at {}", path.display()))?;
        Ok(Agent { stream })
    }

    /// The blobs of its keys, certificates among them, and their comments.
    ///
    /// # Errors
    /// It breaks off or talks nonsense.
    pub fn identities(&mut self) -> Result<Vec<(Vec<u8>, String)>> {
        let frame = self.ask(&AgentRequest::Identities)?;
        match AgentReply::parse(&frame).context("the agent's answer")? {
            AgentReply::Identities(keys) => {
                let text = |comment| String::from_utf8_lossy(comment).into_owned();
                Ok(keys.iter().map(|(blob, comment)| (blob.to_vec(), text(comment))).collect())
            }
            AgentReply::Failure => Ok(Vec::new()),
            _ => bail!("the agent answers something else"),
        }
    }

    /// A signature blob (RFC 4253 §6.6). `key` may be a certificate's blob.
    ///
    /// # Errors
    /// It refuses, breaks off or talks nonsense.
    pub fn sign(&mut self, key: &[u8], data: &[u8], flags: u32) -> Result<Box<[u8]>> {
        let frame = self.ask(&AgentRequest::Sign { key, data, flags })?;
        match AgentReply::parse(&frame).context("the agent's answer")? {
            AgentReply::Signature(signature) => Ok(signature.into()),
            AgentReply::Failure => bail!("the agent refuses to sign"),
            _ => bail!("the agent answers something else"),
        }
    }

    /// Tells which connection signatures will be for (OpenSSH PROTOCOL.agent, session-bind): it signs with
    /// keys that are restricted to hosts then. False: it does not know of that.
    ///
    /// # Errors
    /// It breaks off or talks nonsense.
    pub fn bind(&mut self, proof: &HostProof, session_id: &[u8]) -> Result<bool> {
        let bind = proof.request(session_id, false);
        let frame = self.ask(&bind)?;
        let reply = AgentReply::parse(&frame).context("the agent's answer")?;
        Ok(reply == AgentReply::Success)
    }

    /// Gives it a private key to keep (ssh_config(5), AddKeysToAgent).
    ///
    /// # Errors
    /// It does not take it, breaks off or talks nonsense.
    pub fn add(&mut self, key: &PrivateKey, comment: &str, how: AddKeys) -> Result<()> {
        let (key, comment) = (key.to_agent()?, comment.as_bytes());
        let AddKeys { confirm, lifetime, .. } = how;
        let frame = self.ask(&AgentRequest::Add { key: &key, comment, lifetime, confirm })?;
        match AgentReply::parse(&frame).context("the agent's answer")? {
            AgentReply::Success => Ok(()),
            _ => bail!("the agent does not take it"),
        }
    }

    /// The answer's frame behind its length.
    fn ask(&mut self, request: &AgentRequest<'_>) -> Result<Vec<u8>> {
        let frame = framed(request).context("too much to ask of an agent")?;
        let frame = Zeroizing::new(frame.into_vec());
        self.stream.write_all(&frame).context("the agent does not listen")?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).context("the agent does not answer")?;
        let Some(bytes) = frame_bytes(&length).context("the agent's answer")? else {
            bail!("the agent answers nothing");
        };
        let mut frame = vec![0; bytes as usize];
        self.stream.read_exact(&mut frame).context("the agent's answer is cut short")?;
        Ok(frame)
    }
}
