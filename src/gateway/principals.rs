//! Certificates of authorities that the configuration trusts (TrustedUserCAKeys), and the principals
//! that stand for a user (AuthorizedPrincipalsFile, sshd_config(5)).

use super::authorized_keys::{LineError, Use};
use super::key_options::Options;
use crate::crypto::{Certificate, PublicKey};
use crate::limits::AUTHORIZED_KEYS_LINE_BYTES_MAX;

/// Refused lines told about in one search; the rest would only fill the log.
const REFUSED_MAX: usize = 8;

/// The line of this authority in a file of public keys, counted from 1. Other lines are nobody's
/// business here, whatever is wrong with them.
pub fn line_of(authority: &PublicKey, text: &[u8]) -> Option<u32> {
    let has = |line: &[u8]| {
        let line = std::str::from_utf8(line).ok().map(str::trim);
        let key = line.filter(|line| !line.starts_with('#')).map(PublicKey::from_text);
        matches!(key, Some(Ok((key, _))) if key == *authority)
    };
    let at = text.split(|byte| *byte == b'\n').position(has)?;
    u32::try_from(at + 1).ok()
}

/// What a file of principals says about one certificate.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// The first line that lets the certificate in, counted from 1, and what both permit.
    pub found: Option<(u32, Options)>,
    /// Lines that name a principal of it and do not let it in.
    pub refused: Vec<(u32, LineError)>,
}

/// Looks for a principal of the certificate, whose authority is trusted. A line is `[options] name`;
/// what follows a `#` is a comment.
pub fn search(text: &[u8], certificate: &Certificate, wanted: Use<'_>) -> Search {
    let mut search = Search::default();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let Some((options, name)) = split(line) else { continue };
        if !certificate.names_user(name) {
            continue;
        }
        match judge(options, name, certificate, wanted) {
            Ok(options) => {
                search.found = Some((number, options));
                return search;
            }
            Err(why) if search.refused.len() < REFUSED_MAX => search.refused.push((number, why)),
            Err(_) => {}
        }
    }
    search
}

/// Options and name of a line; `None` where there is no name. The last word is the name, as in
/// sshd.
fn split(line: &[u8]) -> Option<(&str, &str)> {
    let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
    let line = std::str::from_utf8(line).ok()?.trim();
    if line.is_empty() || line.len() > AUTHORIZED_KEYS_LINE_BYTES_MAX {
        return None;
    }
    let (options, name) = line.rsplit_once([' ', '\t']).unwrap_or(("", line));
    Some((options.trim(), name))
}

fn judge(
    options: &str,
    name: &str,
    certificate: &Certificate,
    wanted: Use<'_>,
) -> Result<Options, LineError> {
    let options = Options::parse(options)?;
    if options.cert_authority {
        return Err(LineError::NeedlessAuthority);
    }
    options.admit(wanted.peer, wanted.host, wanted.now)?;
    wanted.certify(certificate, certificate.authority(), &[name], options)
}
