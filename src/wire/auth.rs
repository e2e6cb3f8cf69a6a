//! Messages 50 to 61: RFC 4252, RFC 4256, and OpenSSH's host-bound public key method.

use super::{Malformed, Message, NameList, NoSpace, Reader, Writer, number};
use crate::limits::{
    AUTH_METHODS_BYTES_MAX, AUTH_PROMPTS_MAX, BANNER_BYTES_MAX, HOST_KEY_BYTES_MAX,
    LANGUAGE_BYTES_MAX, METHOD_BYTES_MAX, NAME_BYTES_MAX, PASSWORD_BYTES_MAX, PROMPT_BYTES_MAX,
    SIGNATURE_BYTES_MAX, USER_BYTES_MAX,
};

/// The plain public key method (RFC 4252 §7).
pub const METHOD_PUBLIC_KEY: &str = "publickey";
/// RFC 4256. What a request for it says behind the name: no language, no wish for a submethod.
pub const METHOD_INTERACTIVE: &str = "keyboard-interactive";
pub const INTERACTIVE_PLAINLY: &[u8] = &[0; 8];
/// RFC 4252 §8.
pub const METHOD_PASSWORD: &str = "password";
/// The same with the server's host key in what is signed (OpenSSH PROTOCOL §3.1).
pub const METHOD_PUBLIC_KEY_HOST_BOUND: &str = "publickey-hostbound-v00@openssh.com";

/// RFC 4252 §5: one attempt to authenticate as `user` for `service`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserAuthRequest<'a> {
    /// Whatever the peer calls itself; UTF-8, and nothing more has been checked.
    pub user: &'a str,
    pub service: &'a str,
    pub method: AuthMethod<'a>,
}

/// The method of a request and the fields that belong to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod<'a> {
    /// RFC 4252 §5.2: asks which methods may go on.
    None,
    PublicKey(PublicKeyAttempt<'a>),
    /// RFC 4252 §8. `new` is there in a change of password.
    Password {
        password: &'a [u8],
        new: Option<&'a [u8]>,
    },
    /// Any other method; what follows its name is not interpreted.
    Other {
        name: &'a str,
        rest: &'a [u8],
    },
}

/// RFC 4252 §7: a key, and unless this only asks whether it would do, a signature by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKeyAttempt<'a> {
    pub algorithm: &'a str,
    pub key: &'a [u8],
    /// The host key the client was shown; present in the host-bound method alone.
    pub host_key: Option<&'a [u8]>,
    pub signature: Option<&'a [u8]>,
}

impl<'a> AuthMethod<'a> {
    pub fn name(&self) -> &'a str {
        match self {
            AuthMethod::None => "none",
            AuthMethod::PublicKey(PublicKeyAttempt { host_key: Some(_), .. }) => {
                METHOD_PUBLIC_KEY_HOST_BOUND
            }
            AuthMethod::PublicKey(_) => METHOD_PUBLIC_KEY,
            AuthMethod::Password { .. } => METHOD_PASSWORD,
            AuthMethod::Other { name, .. } => name,
        }
    }
}

impl std::fmt::Debug for AuthMethod<'_> {
    /// Names the method and leaves passwords out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AuthMethod").field(&self.name()).finish()
    }
}

impl<'a> Message<'a> for UserAuthRequest<'a> {
    const NUMBER: u8 = number::USERAUTH_REQUEST;

    fn decode(body: &mut Reader<'a>) -> Result<Self, Malformed> {
        let user = body.utf8(USER_BYTES_MAX)?;
        let service = body.utf8(NAME_BYTES_MAX)?;
        let method = match body.utf8(METHOD_BYTES_MAX)? {
            "none" => AuthMethod::None,
            METHOD_PUBLIC_KEY => AuthMethod::PublicKey(PublicKeyAttempt::decode(body, false)?),
            METHOD_PUBLIC_KEY_HOST_BOUND => {
                AuthMethod::PublicKey(PublicKeyAttempt::decode(body, true)?)
            }
            METHOD_PASSWORD => {
                let changes = body.boolean()?;
                let password = body.string(PASSWORD_BYTES_MAX)?;
                let new = if changes { Some(body.string(PASSWORD_BYTES_MAX)?) } else { None };
                AuthMethod::Password { password, new }
            }
            name => AuthMethod::Other { name, rest: body.bytes(body.rest().len())? },
        };
        Ok(UserAuthRequest { user, service, method })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.string(self.user.as_bytes())?;
        out.string(self.service.as_bytes())?;
        out.string(self.method.name().as_bytes())?;
        match &self.method {
            AuthMethod::None => Ok(()),
            AuthMethod::PublicKey(attempt) => attempt.encode(out),
            AuthMethod::Password { password, new } => {
                out.boolean(new.is_some())?;
                out.string(password)?;
                new.map_or(Ok(()), |new| out.string(new))
            }
            AuthMethod::Other { rest, .. } => out.bytes(rest),
        }
    }
}

impl<'a> PublicKeyAttempt<'a> {
    fn decode(body: &mut Reader<'a>, host_bound: bool) -> Result<Self, Malformed> {
        let signed = body.boolean()?;
        let algorithm = body.utf8(NAME_BYTES_MAX)?;
        let key = body.string(HOST_KEY_BYTES_MAX)?;
        let host_key = if host_bound { Some(body.string(HOST_KEY_BYTES_MAX)?) } else { None };
        let signature = if signed { Some(body.string(SIGNATURE_BYTES_MAX)?) } else { None };
        Ok(PublicKeyAttempt { algorithm, key, host_key, signature })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.boolean(self.signature.is_some())?;
        self.encode_key(out)?;
        self.signature.map_or(Ok(()), |signature| out.string(signature))
    }

    /// The fields between the boolean and the signature.
    fn encode_key(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.string(self.algorithm.as_bytes())?;
        out.string(self.key)?;
        self.host_key.map_or(Ok(()), |host_key| out.string(host_key))
    }

    /// RFC 4252 §7: what the key signs. The session identifier binds it to this connection, the
    /// host key of the host-bound method to the server the client believes in.
    pub fn write_signed(
        &self,
        session_id: &[u8],
        user: &str,
        service: &str,
        out: &mut Writer<'_>,
    ) -> Result<(), NoSpace> {
        out.string(session_id)?;
        out.byte(UserAuthRequest::NUMBER)?;
        out.string(user.as_bytes())?;
        out.string(service.as_bytes())?;
        out.string(AuthMethod::PublicKey(*self).name().as_bytes())?;
        out.boolean(true)?;
        self.encode_key(out)
    }

    /// The bytes of [`PublicKeyAttempt::write_signed`].
    pub fn signed_bytes(
        &self,
        session_id: &[u8],
        user: &str,
        service: &str,
    ) -> Result<Vec<u8>, NoSpace> {
        let mut message = vec![0; self.signed_bytes_max(session_id, user, service)];
        let mut out = Writer::new(&mut message);
        self.write_signed(session_id, user, service, &mut out)?;
        let len = out.len();
        message.truncate(len);
        Ok(message)
    }

    /// Bytes that [`PublicKeyAttempt::write_signed`] may need at most, for sizing its target.
    pub fn signed_bytes_max(&self, session_id: &[u8], user: &str, service: &str) -> usize {
        let names = user.len() + service.len() + self.algorithm.len();
        let keys = self.key.len() + self.host_key.map_or(0, <[u8]>::len);
        session_id.len() + names + keys + METHOD_PUBLIC_KEY_HOST_BOUND.len() + 64
    }
}

/// RFC 4252 §5.1: the attempt failed, or (`partial`) succeeded and more is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserAuthFailure<'a> {
    /// Methods that may go on.
    pub methods: NameList<'a>,
    pub partial: bool,
}

impl<'a> Message<'a> for UserAuthFailure<'a> {
    const NUMBER: u8 = number::USERAUTH_FAILURE;

    fn decode(body: &mut Reader<'a>) -> Result<Self, Malformed> {
        let methods = body.name_list(AUTH_METHODS_BYTES_MAX)?;
        Ok(UserAuthFailure { methods, partial: body.boolean()? })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.string(self.methods.as_str().as_bytes())?;
        out.boolean(self.partial)
    }
}

/// RFC 4252 §5.1: the client is who it says. Sent once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserAuthSuccess;

impl<'a> Message<'a> for UserAuthSuccess {
    const NUMBER: u8 = number::USERAUTH_SUCCESS;

    fn decode(_: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(UserAuthSuccess)
    }

    fn encode(&self, _: &mut Writer<'_>) -> Result<(), NoSpace> {
        Ok(())
    }
}

/// RFC 4252 §5.4: text to show before authentication goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserAuthBanner<'a> {
    pub text: &'a str,
    pub language: &'a str,
}

impl<'a> Message<'a> for UserAuthBanner<'a> {
    const NUMBER: u8 = number::USERAUTH_BANNER;

    fn decode(body: &mut Reader<'a>) -> Result<Self, Malformed> {
        let text = body.utf8(BANNER_BYTES_MAX)?;
        Ok(UserAuthBanner { text, language: body.utf8(LANGUAGE_BYTES_MAX)? })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.string(self.text.as_bytes())?;
        out.string(self.language.as_bytes())
    }
}

/// RFC 4252 §7: this key would do, sign with it. The number is shared with [`InfoRequest`]; the
/// method under way says which one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKeyOk<'a> {
    pub algorithm: &'a str,
    pub key: &'a [u8],
}

impl<'a> Message<'a> for PublicKeyOk<'a> {
    const NUMBER: u8 = number::USERAUTH_PK_OK;

    fn decode(body: &mut Reader<'a>) -> Result<Self, Malformed> {
        let algorithm = body.utf8(NAME_BYTES_MAX)?;
        Ok(PublicKeyOk { algorithm, key: body.string(HOST_KEY_BYTES_MAX)? })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.string(self.algorithm.as_bytes())?;
        out.string(self.key)
    }
}

/// RFC 4256 §3.2: questions for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InfoRequest<'a> {
    pub name: &'a str,
    pub instruction: &'a str,
    pub language: &'a str,
    pub prompts: Prompts<'a>,
}

/// Prompts that have been walked once, so that reading them again cannot fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prompts<'a> {
    count: u32,
    encoded: &'a [u8],
}

impl<'a> Prompts<'a> {
    /// So many prompts as they are encoded, each a string and a boolean.
    pub const fn from_parts(count: u32, encoded: &'a [u8]) -> Prompts<'a> {
        Prompts { count, encoded }
    }

    /// Each prompt, and whether what is typed may be shown.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, bool)> {
        let mut rest = Reader::new(self.encoded);
        (0..self.count)
            .map_while(move |_| Some((rest.utf8(PROMPT_BYTES_MAX).ok()?, rest.boolean().ok()?)))
    }

    pub const fn len(self) -> u32 {
        self.count
    }

    pub const fn is_empty(self) -> bool {
        self.count == 0
    }
}

impl<'a> Message<'a> for InfoRequest<'a> {
    const NUMBER: u8 = number::USERAUTH_INFO_REQUEST;

    fn decode(body: &mut Reader<'a>) -> Result<Self, Malformed> {
        let name = body.utf8(PROMPT_BYTES_MAX)?;
        let instruction = body.utf8(PROMPT_BYTES_MAX)?;
        let language = body.utf8(LANGUAGE_BYTES_MAX)?;
        let count = body.uint32()?;
        if count > AUTH_PROMPTS_MAX {
            return Err(Malformed::OverLimit);
        }
        let before = body.rest();
        for _ in 0..count {
            body.utf8(PROMPT_BYTES_MAX)?;
            body.boolean()?;
        }
        let taken = before.len() - body.rest().len();
        let encoded = before.get(..taken).unwrap_or(&[]);
        Ok(InfoRequest { name, instruction, language, prompts: Prompts { count, encoded } })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.string(self.name.as_bytes())?;
        out.string(self.instruction.as_bytes())?;
        out.string(self.language.as_bytes())?;
        out.uint32(self.prompts.count)?;
        out.bytes(self.prompts.encoded)
    }
}

/// RFC 4256 §3.4: the answers, one a prompt. The count is bounded before anything is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct InfoResponse<'a> {
    count: u32,
    encoded: &'a [u8],
}

impl<'a> InfoResponse<'a> {
    /// Answers that are encoded already, each as a string.
    pub const fn new(count: u32, encoded: &'a [u8]) -> InfoResponse<'a> {
        InfoResponse { count, encoded }
    }

    pub const fn len(self) -> u32 {
        self.count
    }

    pub const fn is_empty(self) -> bool {
        self.count == 0
    }

    pub fn answers(self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = Reader::new(self.encoded);
        (0..self.count).map_while(move |_| rest.string(PASSWORD_BYTES_MAX).ok())
    }
}

impl std::fmt::Debug for InfoResponse<'_> {
    /// Answers are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InfoResponse").field("count", &self.count).finish_non_exhaustive()
    }
}

impl<'a> Message<'a> for InfoResponse<'a> {
    const NUMBER: u8 = number::USERAUTH_INFO_RESPONSE;

    fn decode(body: &mut Reader<'a>) -> Result<Self, Malformed> {
        let count = body.uint32()?;
        if count > AUTH_PROMPTS_MAX {
            return Err(Malformed::OverLimit);
        }
        let before = body.rest();
        for _ in 0..count {
            body.string(PASSWORD_BYTES_MAX)?;
        }
        let taken = before.len() - body.rest().len();
        Ok(InfoResponse { count, encoded: before.get(..taken).unwrap_or(&[]) })
    }

    fn encode(&self, out: &mut Writer<'_>) -> Result<(), NoSpace> {
        out.uint32(self.count)?;
        out.bytes(self.encoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written<'a>(message: &impl Message<'a>) -> Vec<u8> {
        let mut space = vec![0; 8192];
        let mut out = Writer::new(&mut space);
        message.write(&mut out).expect("room");
        out.written().to_vec()
    }

    fn attempts() -> Vec<AuthMethod<'static>> {
        let attempt = |host_key, signature| {
            let algorithm = "ssh-ed25519";
            AuthMethod::PublicKey(PublicKeyAttempt { algorithm, key: b"K", host_key, signature })
        };
        vec![
            AuthMethod::None,
            attempt(None, None),
            attempt(None, Some(b"S")),
            attempt(Some(b"H"), None),
            attempt(Some(b"H"), Some(b"S")),
            AuthMethod::Password { password: b"p", new: None },
            AuthMethod::Password { password: b"p", new: Some(b"q") },
            AuthMethod::Other { name: "hostbased", rest: b"\0\0\0\x01x" },
        ]
    }

    #[test]
    fn every_method_round_trips() {
        for method in attempts() {
            let request = UserAuthRequest { user: "me", service: "ssh-connection", method };
            let bytes = written(&request);
            assert_eq!(UserAuthRequest::parse(&bytes), Ok(request));
            // Case 11: a cut message and a trailing byte are both errors.
            for cut in 0..bytes.len() {
                if !matches!(method, AuthMethod::Other { .. }) {
                    assert!(UserAuthRequest::parse(&bytes[..cut]).is_err(), "{method:?} at {cut}");
                }
            }
            let longer = [&bytes[..], &[0]].concat();
            let other = matches!(method, AuthMethod::Other { .. });
            assert_eq!(UserAuthRequest::parse(&longer).is_ok(), other, "{method:?}");
        }
    }

    #[test]
    fn limits_hold_before_anything_is_stored() {
        let long = "u".repeat(USER_BYTES_MAX as usize + 1);
        let method = AuthMethod::None;
        let request = UserAuthRequest { user: &long, service: "ssh-connection", method };
        assert_eq!(UserAuthRequest::parse(&written(&request)), Err(Malformed::OverLimit));
        assert_eq!(
            InfoResponse::parse(&[61, 0xff, 0xff, 0xff, 0xff]),
            Err(Malformed::OverLimit),
            "case 60"
        );
        let endless = [&[60][..], &[0; 12], &[0xff; 4]].concat();
        assert_eq!(InfoRequest::parse(&endless), Err(Malformed::OverLimit), "case 61");
        let bad_user = b"\x32\0\0\0\x01\xff\0\0\0\x01s\0\0\0\x04none";
        assert_eq!(UserAuthRequest::parse(bad_user), Err(Malformed::Utf8));
    }

    #[test]
    fn signed_bytes_are_those_of_rfc_4252() {
        let attempt = PublicKeyAttempt {
            algorithm: "ssh-ed25519",
            key: b"KEY",
            host_key: None,
            signature: None,
        };
        let mut space = vec![0; attempt.signed_bytes_max(b"ID", "me", "svc")];
        let mut out = Writer::new(&mut space);
        attempt.write_signed(b"ID", "me", "svc", &mut out).expect("room");
        let expected = b"\0\0\0\x02ID\x32\0\0\0\x02me\0\0\0\x03svc\0\0\0\x09publickey\x01\
            \0\0\0\x0bssh-ed25519\0\0\0\x03KEY";
        assert_eq!(out.written(), expected);
        let bound = PublicKeyAttempt { host_key: Some(b"HOST"), ..attempt };
        let mut space = vec![0; bound.signed_bytes_max(b"ID", "me", "svc")];
        let mut out = Writer::new(&mut space);
        bound.write_signed(b"ID", "me", "svc", &mut out).expect("room");
        assert!(out.written().ends_with(b"\0\0\0\x03KEY\0\0\0\x04HOST"));
        assert!(out.written().windows(35).any(|w| w == METHOD_PUBLIC_KEY_HOST_BOUND.as_bytes()));
    }

    #[test]
    fn the_rest_round_trips() {
        let methods = NameList::new(b"publickey,password").expect("list");
        let failure = UserAuthFailure { methods, partial: true };
        assert_eq!(UserAuthFailure::parse(&written(&failure)), Ok(failure));
        assert_eq!(UserAuthSuccess::parse(&[52]), Ok(UserAuthSuccess));
        assert_eq!(UserAuthSuccess::parse(&[52, 0]), Err(Malformed::TrailingData));
        let banner = UserAuthBanner { text: "hello\n", language: "en" };
        assert_eq!(UserAuthBanner::parse(&written(&banner)), Ok(banner));
        let ok = PublicKeyOk { algorithm: "ssh-ed25519", key: b"K" };
        assert_eq!(PublicKeyOk::parse(&written(&ok)), Ok(ok));
        let prompts = Prompts { count: 2, encoded: b"\0\0\0\x01a\x01\0\0\0\0\0" };
        let request = InfoRequest { name: "n", instruction: "", language: "", prompts };
        let bytes = written(&request);
        let again = InfoRequest::parse(&bytes).expect("valid");
        assert_eq!(again.prompts.iter().collect::<Vec<_>>(), [("a", true), ("", false)]);
        let response = InfoResponse { count: 2, encoded: b"\0\0\0\x01x\0\0\0\0" };
        let bytes = written(&response);
        let again = InfoResponse::parse(&bytes).expect("valid");
        assert_eq!(again.answers().collect::<Vec<_>>(), [&b"x"[..], b""]);
    }
}
