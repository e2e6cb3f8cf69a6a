//! The keys that open hosts behind the gateway, as root's process has them: their public halves, and the
//! signer for the rest.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::anyhow;
use tracing::error;

use super::config::Config;
use super::execute::wait_for;
use super::host_keys;
use super::signer::bureau::Bureau;
use super::signer::words::{Order, Signable, UpstreamKey};
use super::upstream::{LoginKeys, OneLogin, open_key};
use crate::connection::LoginSession;
use crate::crypto::{Certificate, PublicKey, SignatureAlgorithm};
use crate::limits::{UPSTREAM_KEYS_MAX, UPSTREAM_NAME_BYTES_MAX};
use crate::services::upstream::LoginKey;

/// All files of a configuration that may hold such keys, as they were at its start.
#[derive(Debug, Default)]
pub struct Keyring {
    keys: Vec<(PathBuf, UpstreamKey, PublicKey)>,
    /// Those that cannot be used, and why.
    broken: Vec<(PathBuf, bool, String)>,
}

impl Keyring {
    /// Reads each file once. What was read of private halves is wiped. One that cannot be used is told
    /// of, and again when a login needs it.
    pub fn read(config: &Config) -> Keyring {
        let mut ring = Keyring::default();
        for (certifies, path) in config.upstream_keys() {
            let read = match ring.keys.len() < UPSTREAM_KEYS_MAX {
                true => public_half(path),
                false => Err(anyhow!("one of more than {UPSTREAM_KEYS_MAX}")),
            };
            match read {
                Ok(public) => {
                    let key = UpstreamKey { public: public.blob().to_vec(), certifies };
                    ring.keys.push((path.to_owned(), key, public));
                }
                Err(why) => {
                    let file = path.display();
                    error!("The key {file} opens no host: {why:#}");
                    ring.broken.push((path.to_owned(), certifies, format!("{why:#}")));
                }
            }
        }
        ring
    }

    /// The files, in the order of the keys.
    pub fn files(&self) -> Vec<PathBuf> {
        self.keys.iter().map(|(path, ..)| path.clone()).collect()
    }

    pub fn known(&self) -> Vec<UpstreamKey> {
        self.keys.iter().map(|(_, key, _)| key.clone()).collect()
    }

    pub fn publics(&self) -> Vec<PublicKey> {
        self.keys.iter().map(|(.., public)| public.clone()).collect()
    }

    fn find(&self, wanted: &Path, certifies: bool) -> Result<(u32, &PublicKey), String> {
        let is = |(path, key, _): &(PathBuf, UpstreamKey, _)| {
            path == wanted && key.certifies == certifies
        };
        if let Some(at) = self.keys.iter().position(is)
            && let Some((.., public)) = self.keys.get(at)
        {
            return Ok((at as u32, public));
        }
        let broken =
            self.broken.iter().find(|(path, what, _)| path == wanted && *what == certifies);
        let why = broken.map_or("it is in no configuration", |(.., why)| why);
        Err(format!("{why} (at the start, or the last reload)"))
    }
}

/// What changes with the files.
pub fn fingerprints(config: &Config) -> Vec<String> {
    let one = |(_, path): (bool, &Path)| match public_half(path) {
        Ok(public) => public.fingerprint(),
        Err(why) => format!("{why:#}"),
    };
    config.upstream_keys().into_iter().map(one).collect()
}

/// Of the names of users there, more is not signed.
fn fits(user: &str) -> Result<(), String> {
    match user.len() <= UPSTREAM_NAME_BYTES_MAX as usize {
        true => Ok(()),
        false => Err(format!("the user's name has more than {UPSTREAM_NAME_BYTES_MAX} bytes")),
    }
}

fn public_half(path: &Path) -> anyhow::Result<PublicKey> {
    Ok(host_keys::read_open(open_key(path)?)?.public().clone())
}

/// A keyring, and who signs with its keys.
pub struct Signers {
    pub ring: Arc<Keyring>,
    pub bureau: Arc<Bureau>,
}

impl LoginKeys for Signers {
    fn identity(&self, path: &Path) -> Result<LoginKey, String> {
        let (_, public) = self.ring.find(path, false)?;
        Ok(LoginKey::Elsewhere(Box::new(public.clone())))
    }

    fn certify(&self, authority: &Path, login: &OneLogin<'_>) -> Result<Certificate, String> {
        let (key, _) = self.ring.find(authority, true)?;
        fits(login.user)?;
        let what = Signable::Certificate {
            subject: login.subject.blob().into(),
            user: login.user.into(),
            key_id: login.key_id.into(),
            sources: login.sources.into(),
        };
        let blob = wait_for(&self.bureau, Order { key, what }).ok_or("it did not certify")?;
        Certificate::from_blob(&blob).map_err(|why| why.to_string())
    }

    fn sign(
        &self,
        path: &Path,
        user: &str,
        algorithm: SignatureAlgorithm,
        session: LoginSession,
    ) -> Option<Box<[u8]>> {
        let (key, _) = self.ring.find(path, false).ok().filter(|_| fits(user).is_ok())?;
        let what = Signable::Login { algorithm, user: user.into(), session };
        wait_for(&self.bureau, Order { key, what })
    }
}
