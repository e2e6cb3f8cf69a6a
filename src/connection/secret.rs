use std::fmt;

use zeroize::Zeroizing;

/// Something that proves who somebody is: told to one and to nobody else, never shown, wiped when it goes.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    pub const fn new(bytes: Zeroizing<Vec<u8>>) -> Secret {
        Secret(bytes)
    }

    pub fn copy(bytes: &[u8]) -> Secret {
        Secret(Zeroizing::new(bytes.to_vec()))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What a login has to prove itself with, besides keys; all that is there has to be right.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    pub password: Option<Secret>,
    /// A code for one time (RFC 6238).
    pub code: Option<Secret>,
    /// They were typed at prompts.
    pub prompted: bool,
}
