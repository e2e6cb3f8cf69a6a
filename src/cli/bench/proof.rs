//! What opens a server that is measured: a key of ours, one that an agent has, or a password.

use std::cell::RefCell;
use std::path::Path;
use std::{env, fs};

use anyhow::{Context, Result, bail};
use zeroize::Zeroizing;

use super::flags::SecretFrom;
use crate::client::{Identity, Options, Person, Signer};
use crate::connection::{LoginMethod, Questions, Secret};
use crate::crypto::SignatureAlgorithm;
use crate::limits::PASSWORD_BYTES_MAX;

/// How each connection logs in.
pub enum Proof {
    Key {
        identity: Box<Identity>,
        /// Asked one at a time.
        signer: RefCell<Signer>,
    },
    Password(Secret),
}

impl Proof {
    /// By what has opened the server once.
    ///
    /// # Errors
    /// Nothing has, or it is not to be had again.
    pub fn new(options: &Options, identity: Option<Identity>, person: Person) -> Result<Proof> {
        match (identity, &options.secret) {
            (Some(identity), _) => {
                let signer = RefCell::new(identity.signer(options, person)?);
                Ok(Proof::Key { identity: Box::new(identity), signer })
            }
            (None, Some(secret)) => Ok(Proof::Password(secret.clone())),
            (None, None) => bail!(
                "the server has taken neither a key nor a password that can be used again; \
                 --identity names a key, --password-file a password"
            ),
        }
    }

    /// What is tried, of the `methods` that the server takes. `None`: none of them is ours.
    pub fn method(&self, methods: &str, options: &Options) -> Option<LoginMethod> {
        let takes = |name: &str| methods.split(',').any(|method| method == name);
        match self {
            Proof::Key { identity, .. } => identity.method(&options.user_algorithms),
            Proof::Password(secret) if takes("password") => {
                Some(LoginMethod::Password(secret.clone()))
            }
            Proof::Password(_) => takes("keyboard-interactive").then_some(LoginMethod::Interactive),
        }
    }

    /// `None`: it cannot be signed.
    pub fn sign(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Option<Box<[u8]>> {
        match self {
            Proof::Key { signer, .. } => signer.borrow_mut().sign(algorithm, message).ok(),
            Proof::Password(_) => None,
        }
    }

    /// `None`: something else than the password is asked for.
    pub fn say(&self, questions: &Questions) -> Option<Vec<Secret>> {
        match self {
            Proof::Key { .. } => None,
            Proof::Password(secret) => questions.answered_by(secret),
        }
    }
}

/// The password that the flags lead to.
///
/// # Errors
/// It is not there.
pub fn password(from: &SecretFrom, options: &Options) -> Result<Secret> {
    let secret = match from {
        SecretFrom::File(path) => first_line(path)?,
        SecretFrom::Environment(name) => {
            let value = env::var_os(name).with_context(|| format!("{name} is not set"))?;
            Zeroizing::new(value.into_encoded_bytes())
        }
        SecretFrom::Terminal => {
            let question = format!("{}@{}'s password: ", options.user, options.host_name);
            Person::new(options.batch).ask_secret(&question).context("no password")?
        }
    };
    if secret.is_empty() || secret.len() > PASSWORD_BYTES_MAX as usize {
        bail!("a password has 1 to {PASSWORD_BYTES_MAX} bytes");
    }
    Ok(Secret::new(secret))
}

fn first_line(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let text = Zeroizing::new(fs::read(path).with_context(|| path.display().to_string())?);
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(Zeroizing::new(line.to_vec()))
}
