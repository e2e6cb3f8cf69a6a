//! Where a login goes on, as a relay is told of it: what it takes to try the hosts, to log in, to decide
//! which logins may share a connection, and to say what went wrong. Root's process keeps the original,
//! and goes by that alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::super::parcel::{address, flag, put, put_address};
use super::words::{hosts, put_hosts};
use crate::connection::LoginLimits;
use crate::crypto::KeyAlgorithm;
use crate::gateway::config::Config;
use crate::gateway::edge::words::algorithm;
use crate::gateway::upstream::{Fleets, connection_config};
use crate::limits::{PARCEL_BYTES_MAX, UPSTREAM_NAME_BYTES_MAX};
use crate::services::upstream::{Credential, Finder, HostKeyPolicy, Upstream};
use crate::services::{decode_limits, encode_limits};
use crate::wire::proxy::ProxyVersion;
use crate::wire::{Malformed, Reader};

/// Credentials, by their numbers. Files are named for the log.
const IDENTITY: u8 = 1;
const AUTHORITY: u8 = 2;
const AGENT: u8 = 3;

/// What it takes to know them again.
#[derive(Clone, Debug)]
pub struct Destinations {
    pub config: Arc<Config>,
    pub fleets: Arc<Fleets>,
}

impl Destinations {
    pub fn read(&self, bytes: &[u8]) -> Option<Upstream> {
        decode(bytes, &self.config, &self.fleets).ok()
    }
}

pub fn encode(upstream: &Upstream) -> Vec<u8> {
    let mut out = Vec::new();
    let named: Vec<_> =
        upstream.fleet.hosts().map(|(name, port)| (name.to_owned(), port)).collect();
    put_hosts(&mut out, &named);
    out.push(u8::from(upstream.finder.is_some()));
    put(&mut out, upstream.user.as_bytes());
    let (kind, place) = match &upstream.credential {
        Credential::Identity(path) => (IDENTITY, path.as_path()),
        Credential::Authority(path) => (AUTHORITY, path.as_path()),
        Credential::Agent => (AGENT, Path::new("")),
    };
    out.push(kind);
    put(&mut out, place.as_os_str().as_encoded_bytes());
    put(&mut out, upstream.on_behalf_of.as_bytes());
    put_address(&mut out, &(upstream.client, 0).into());
    put(&mut out, upstream.known_hosts.as_os_str().as_encoded_bytes());
    out.push(u8::from(upstream.host_keys == HostKeyPolicy::AcceptNew));
    out.extend((upstream.ca_algorithms.len() as u32).to_be_bytes());
    upstream.ca_algorithms.iter().for_each(|one| put(&mut out, one.name().as_bytes()));
    out.push(match upstream.announces {
        None => 0,
        Some(ProxyVersion::One) => 1,
        Some(ProxyVersion::Two) => 2,
    });
    out.push(u8::from(upstream.share.is_some()));
    out.extend(upstream.share.map_or(0, |kept| kept.as_secs()).to_be_bytes());
    let limits = LoginLimits {
        sessions_max: 0,
        client_alive: upstream.config.server_alive,
        rekey: upstream.config.transport.preferences.rekey,
    };
    put(&mut out, &encode_limits(Some(limits)));
    out
}

/// What [`encode`] wrote, under a configuration. Logins to the same hosts have one fleet in common.
///
/// # Errors
/// It is nothing that [`encode`] writes.
pub fn decode(bytes: &[u8], config: &Config, fleets: &Fleets) -> Result<Upstream, Malformed> {
    let mut r = Reader::new(bytes);
    let hosts = hosts(&mut r)?;
    let finder = flag(&mut r)?.then(|| Finder { words: Vec::new(), user: String::new() });
    let user = r.utf8(UPSTREAM_NAME_BYTES_MAX)?.to_owned();
    let (kind, place) = (r.byte()?, path(&mut r)?);
    let credential = match kind {
        IDENTITY => Credential::Identity(place),
        AUTHORITY => Credential::Authority(place),
        AGENT => Credential::Agent,
        _ => return Err(Malformed::Number),
    };
    let on_behalf_of = r.utf8(PARCEL_BYTES_MAX)?.to_owned();
    let (client, known_hosts) = (address(&mut r)?.ip(), path(&mut r)?);
    let host_keys = if flag(&mut r)? { HostKeyPolicy::AcceptNew } else { HostKeyPolicy::Strict };
    let count = r.uint32()? as usize;
    // Of all that there are, those of security keys too.
    if count > KeyAlgorithm::ALL.len() {
        return Err(Malformed::OverLimit);
    }
    let ca_algorithms = (0..count).map(|_| algorithm(&mut r)).collect::<Result<_, _>>()?;
    let announces = match r.byte()? {
        0 => None,
        1 => Some(ProxyVersion::One),
        2 => Some(ProxyVersion::Two),
        _ => return Err(Malformed::Number),
    };
    let shares = flag(&mut r)?;
    let share = Some(Duration::from_secs(r.uint64()?)).filter(|_| shares);
    let limits = decode_limits(r.string(64)?).flatten().ok_or(Malformed::Range)?;
    r.end()?;
    let connection = connection_config(config, limits.rekey, limits.client_alive);
    Ok(Upstream {
        fleet: fleets.of(hosts),
        finder,
        user,
        credential,
        on_behalf_of,
        client,
        known_hosts,
        host_keys,
        ca_algorithms,
        announces,
        share,
        config: Arc::new(connection.ok_or(Malformed::Range)?),
    })
}

fn path(r: &mut Reader<'_>) -> Result<PathBuf, Malformed> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    Ok(PathBuf::from(OsStr::from_bytes(r.string(PARCEL_BYTES_MAX)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::config;

    #[test]
    fn where_a_login_goes_on_travels_whole() {
        let config = config::parse(b"Ciphers aes128-gcm@openssh.com\n").expect("it parses");
        let fleets = Fleets::default();
        let rekey = crate::transport::RekeyLimits { bytes: Some(9), time: None, packets: 7 };
        let connection = connection_config(&config, rekey, Some((Duration::from_secs(3), 2)));
        let one = Upstream {
            fleet: fleets.of(vec![("web1".to_owned(), 22), ("::1".to_owned(), 2222)]),
            finder: None,
            user: "deploy".into(),
            credential: Credential::Identity("/key".into()),
            on_behalf_of: "ann from 192.0.2.1".into(),
            client: [192, 0, 2, 1].into(),
            known_hosts: "/known".into(),
            host_keys: HostKeyPolicy::AcceptNew,
            ca_algorithms: config.login.ca_algorithms.clone(),
            announces: None,
            share: Some(Duration::from_secs(60)),
            config: Arc::new(connection.expect("a configuration")),
        };
        let finder = Some(Finder { words: vec!["/find".into()], user: "nobody".into() });
        for upstream in [
            one.clone(),
            Upstream { credential: Credential::Authority("/ca".into()), ..one.clone() },
            Upstream { credential: Credential::Agent, share: None, ..one.clone() },
            Upstream { announces: Some(ProxyVersion::Two), finder, ..one.clone() },
        ] {
            let bytes = encode(&upstream);
            let again = decode(&bytes, &config, &fleets).expect("whole");
            assert_eq!(encode(&again), bytes);
            assert!(Arc::ptr_eq(&again.fleet, &upstream.fleet), "what is known of hosts is shared");
            assert_eq!(again.shares_with(&one), upstream.shares_with(&one));
            for cut in 0..bytes.len() {
                assert!(decode(&bytes[..cut], &config, &fleets).is_err(), "cut at {cut}");
            }
            // Nobody is told what is run.
            assert!(again.finder.is_none_or(|finder| finder.words.is_empty()));
        }
    }
}
