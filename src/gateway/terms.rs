//! What a process that serves connections is told at its start of the gateway that it is a part of.

use anyhow::Context;

use super::config::{self, Config};
use super::generation;
use super::parcel::{blobs, put, put_blobs};
use crate::crypto::{Certificate, PublicKey};
use crate::limits::CONFIG_BYTES_MAX;
use crate::transport::HostKey;
use crate::wire::{Malformed, Reader};

/// As they travel. No process but root's reads the configuration's files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The effective configuration as text, without Match blocks.
    pub config: Vec<u8>,
    /// The public halves of the host keys, in order, and the certificates of those that have one.
    pub host_keys: Vec<Vec<u8>>,
    pub certificates: Vec<Vec<u8>>,
}

impl Terms {
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, &self.config);
        put_blobs(out, &self.host_keys);
        put_blobs(out, &self.certificates);
    }

    /// # Errors
    /// They are none.
    pub fn decode(r: &mut Reader<'_>) -> Result<Terms, Malformed> {
        let config = r.string(CONFIG_BYTES_MAX as u32)?.to_vec();
        Ok(Terms { config, host_keys: blobs(r)?, certificates: blobs(r)? })
    }

    /// The configuration, and the host keys as they are offered: somebody else signs with them.
    ///
    /// # Errors
    /// Something of it does not parse.
    pub fn read(&self) -> anyhow::Result<(Config, Vec<HostKey>)> {
        let config = config::parse(&self.config);
        let config = config.context("the gateway's configuration does not parse")?;
        let keys = self.host_keys.iter().map(|blob| PublicKey::from_blob(blob));
        let keys = keys.collect::<Result<Vec<_>, _>>().context("host keys do not parse")?;
        let certificates = self.certificates.iter().map(|blob| Certificate::from_blob(blob));
        let certificates = certificates
            .collect::<Result<Vec<_>, _>>()
            .context("host certificates do not parse")?;
        let offers = generation::offers(&config, &keys, &certificates);
        Ok((config, offers))
    }
}
