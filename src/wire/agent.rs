//! The agent protocol (draft-ietf-sshm-ssh-agent), as a client of an agent speaks it, and OpenSSH's
//! session binding (PROTOCOL.agent).
//!
//! Every message is a string: a length, a number, the fields. [`frame_bytes`] bounds the length
//! before anything is stored.

use super::{Malformed, NoSpace, Reader, Writer};
use crate::limits::{
    AGENT_COMMENT_BYTES_MAX, AGENT_FRAME_BYTES_MAX, AGENT_IDENTITIES_MAX, HOST_KEY_BYTES_MAX,
    SIGNATURE_BYTES_MAX,
};

/// Flags of a request to sign: what an RSA key hashes with. Without one it would be SHA-1.
pub const SIGN_RSA_SHA2_256: u32 = 2;
pub const SIGN_RSA_SHA2_512: u32 = 4;

const FAILURE: u8 = 5;
const SUCCESS: u8 = 6;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const ADD_IDENTITY: u8 = 17;
const ADD_ID_CONSTRAINED: u8 = 25;
const EXTENSION: u8 = 27;
const EXTENSION_FAILURE: u8 = 28;

const CONSTRAIN_LIFETIME: u8 = 1;
const CONSTRAIN_CONFIRM: u8 = 2;

const SESSION_BIND: &str = "session-bind@openssh.com";

/// What is asked of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentRequest<'a> {
    /// Which keys it has.
    Identities,
    /// A signature over `data` by the key of this blob, which may be a certificate's.
    Sign { key: &'a [u8], data: &'a [u8], flags: u32 },
    /// Takes a private key: its type and numbers, encoded. For so many seconds, and to be used only when
    /// somebody agrees each time.
    Add { key: &'a [u8], comment: &'a [u8], lifetime: Option<u32>, confirm: bool },
    /// Tells which connection signatures will be for (`session-bind@openssh.com`): the host key of
    /// its server, its session identifier and the server's signature over that, and whether the
    /// agent is going to be forwarded over it.
    Bind { host_key: &'a [u8], session_id: &'a [u8], signature: &'a [u8], forwarding: bool },
}

impl AgentRequest<'_> {
    /// At least as many bytes as the frame has.
    pub const fn bytes_max(&self) -> usize {
        // Numbers, lengths and the name of an extension.
        128 + match self {
            AgentRequest::Identities => 0,
            AgentRequest::Sign { key, data, .. } => key.len() + data.len(),
            AgentRequest::Add { key, comment, .. } => key.len() + comment.len(),
            AgentRequest::Bind { host_key, session_id, signature, .. } => {
                host_key.len() + session_id.len() + signature.len()
            }
        }
    }

    /// Writes the whole frame.
    pub fn write(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        let length_at = out.len();
        out.uint32(0)?;
        match self {
            AgentRequest::Identities => out.byte(REQUEST_IDENTITIES)?,
            AgentRequest::Sign { key, data, flags } => {
                out.byte(SIGN_REQUEST)?;
                out.string(key)?;
                out.string(data)?;
                out.uint32(*flags)?;
            }
            AgentRequest::Add { key, comment, lifetime, confirm } => {
                let constrained = *confirm || lifetime.is_some();
                out.byte(if constrained { ADD_ID_CONSTRAINED } else { ADD_IDENTITY })?;
                out.bytes(key)?;
                out.string(comment)?;
                if let Some(seconds) = lifetime {
                    out.byte(CONSTRAIN_LIFETIME)?;
                    out.uint32(*seconds)?;
                }
                if *confirm {
                    out.byte(CONSTRAIN_CONFIRM)?;
                }
            }
            AgentRequest::Bind { host_key, session_id, signature, forwarding } => {
                out.byte(EXTENSION)?;
                out.string(SESSION_BIND.as_bytes())?;
                out.string(host_key)?;
                out.string(session_id)?;
                out.string(signature)?;
                out.boolean(*forwarding)?;
            }
        }
        let len = u32::try_from(out.len() - length_at - 4).map_err(|_| NoSpace)?;
        if len > AGENT_FRAME_BYTES_MAX {
            return Err(NoSpace);
        }
        out.patch_uint32(length_at, len)
    }
}

/// What an agent answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentReply<'a> {
    Identities(Identities<'a>),
    /// A signature blob (RFC 4253 §6.6).
    Signature(&'a [u8]),
    Success,
    /// It would not or could not, or does not know the extension.
    Failure,
}

impl<'a> AgentReply<'a> {
    /// Reads a frame behind its length.
    pub fn parse(frame: &'a [u8]) -> Result<AgentReply<'a>, Malformed> {
        let mut body = Reader::new(frame);
        let reply = match body.byte()? {
            IDENTITIES_ANSWER => AgentReply::Identities(Identities::decode(&mut body)?),
            SIGN_RESPONSE => AgentReply::Signature(body.string(SIGNATURE_BYTES_MAX)?),
            SUCCESS => AgentReply::Success,
            FAILURE | EXTENSION_FAILURE => AgentReply::Failure,
            _ => return Err(Malformed::Number),
        };
        body.end()?;
        Ok(reply)
    }
}

/// Keys that have been walked once, so that reading them again cannot fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identities<'a> {
    count: u32,
    encoded: &'a [u8],
}

impl<'a> Identities<'a> {
    fn decode(body: &mut Reader<'a>) -> Result<Identities<'a>, Malformed> {
        let count = body.uint32()?;
        if count > AGENT_IDENTITIES_MAX {
            return Err(Malformed::OverLimit);
        }
        let encoded = body.rest();
        for _ in 0..count {
            body.string(HOST_KEY_BYTES_MAX)?;
            body.string(AGENT_COMMENT_BYTES_MAX)?;
        }
        Ok(Identities { count, encoded })
    }

    /// The blob of each key and its comment: any bytes at all.
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let mut rest = Reader::new(self.encoded);
        (0..self.count).map_while(move |_| {
            let blob = rest.string(HOST_KEY_BYTES_MAX).ok()?;
            Some((blob, rest.string(AGENT_COMMENT_BYTES_MAX).ok()?))
        })
    }

    pub const fn len(self) -> u32 {
        self.count
    }

    pub const fn is_empty(self) -> bool {
        self.count == 0
    }
}

/// The bytes of the frame that `received` begins with, behind its length; `None` while the length
/// is not all there. An impossible length is an error before anything is stored for it.
pub fn frame_bytes(received: &[u8]) -> Result<Option<u32>, Malformed> {
    let Some((length, _)) = received.split_first_chunk() else { return Ok(None) };
    match u32::from_be_bytes(*length) {
        0 => Err(Malformed::Truncated),
        len if len > AGENT_FRAME_BYTES_MAX => Err(Malformed::OverLimit),
        len => Ok(Some(len)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(request: &AgentRequest<'_>) -> Vec<u8> {
        let mut space = vec![0; 1024];
        let mut out = Writer::new(&mut space);
        request.write(&mut out).expect("room");
        assert!(out.written().len() <= request.bytes_max(), "{request:?}");
        out.written().to_vec()
    }

    fn answer(count: u32, keys: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut space = vec![0; 256 * 1024];
        let mut out = Writer::new(&mut space);
        out.byte(IDENTITIES_ANSWER).and_then(|()| out.uint32(count)).expect("room");
        for (blob, comment) in keys {
            out.string(blob).and_then(|()| out.string(comment)).expect("room");
        }
        out.written().to_vec()
    }

    #[test]
    fn requests_are_those_of_the_draft() {
        assert_eq!(frame(&AgentRequest::Identities), [0, 0, 0, 1, 11]);
        let sign = AgentRequest::Sign { key: b"K", data: b"DD", flags: SIGN_RSA_SHA2_512 };
        let expected = b"\0\0\0\x10\x0d\0\0\0\x01K\0\0\0\x02DD\0\0\0\x04";
        assert_eq!(frame(&sign), expected);
        let add = |lifetime, confirm| {
            frame(&AgentRequest::Add { key: b"KEY", comment: b"me", lifetime, confirm })
        };
        assert_eq!(add(None, false), b"\0\0\0\x0a\x11KEY\0\0\0\x02me");
        let constrained = b"\0\0\0\x10\x19KEY\0\0\0\x02me\x01\0\0\0\x09\x02";
        assert_eq!(add(Some(9), true), constrained);
        let bind = AgentRequest::Bind {
            host_key: b"H",
            session_id: b"I",
            signature: b"S",
            forwarding: true,
        };
        let mut expected = b"\0\0\0\x2d\x1b\0\0\0\x18session-bind@openssh.com".to_vec();
        expected.extend(b"\0\0\0\x01H\0\0\0\x01I\0\0\0\x01S\x01");
        assert_eq!(frame(&bind), expected);
        let data = vec![0; AGENT_FRAME_BYTES_MAX as usize];
        let mut space = vec![0; data.len() * 2];
        let huge = AgentRequest::Sign { key: b"K", data: &data, flags: 0 };
        assert_eq!(huge.write(&mut Writer::new(&mut space)), Err(NoSpace));
    }

    #[test]
    fn replies_are_read_to_their_end() {
        let keys = [(&b"one"[..], &b"me@here"[..]), (b"two", b"\xff")];
        let bytes = answer(2, &keys);
        let Ok(AgentReply::Identities(found)) = AgentReply::parse(&bytes) else { panic!("a list") };
        assert_eq!((found.iter().collect::<Vec<_>>(), found.len()), (keys.to_vec(), 2));
        for cut in 0..bytes.len() {
            assert!(AgentReply::parse(&bytes[..cut]).is_err(), "cut to {cut}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(AgentReply::parse(&longer), Err(Malformed::TrailingData));
        assert_eq!(AgentReply::parse(b"\x0e\0\0\0\x01S"), Ok(AgentReply::Signature(b"S")));
        assert_eq!(AgentReply::parse(&[5]), Ok(AgentReply::Failure));
        assert_eq!(AgentReply::parse(&[28]), Ok(AgentReply::Failure));
        assert_eq!(AgentReply::parse(&[6]), Ok(AgentReply::Success));
        assert_eq!(AgentReply::parse(&[13]), Err(Malformed::Number), "a request is no reply");
        assert_eq!(AgentReply::parse(&[6, 0]), Err(Malformed::TrailingData));
    }

    /// SECURITY case 70: lengths and counts are judged before they size anything.
    #[test]
    fn case_70_frames_are_bounded_before_they_are_believed() {
        assert_eq!(frame_bytes(&[0, 0, 0]), Ok(None));
        assert_eq!(frame_bytes(&[0, 0, 0, 1]), Ok(Some(1)));
        assert_eq!(frame_bytes(&[0, 4, 0, 0, 9]), Ok(Some(AGENT_FRAME_BYTES_MAX)));
        for over in [[0, 4, 0, 1], [0x7f, 0xff, 0xff, 0xff], [0xff; 4]] {
            assert_eq!(frame_bytes(&over), Err(Malformed::OverLimit));
        }
        assert_eq!(frame_bytes(&[0; 4]), Err(Malformed::Truncated), "without a number");
        for count in [AGENT_IDENTITIES_MAX + 1, u32::MAX] {
            assert_eq!(AgentReply::parse(&answer(count, &[])), Err(Malformed::OverLimit));
        }
        assert_eq!(AgentReply::parse(&answer(2, &[(b"K", b"")])), Err(Malformed::Truncated));
        let long = vec![0; HOST_KEY_BYTES_MAX as usize + 1];
        assert_eq!(AgentReply::parse(&answer(1, &[(&long, b"")])), Err(Malformed::OverLimit));
    }
}
