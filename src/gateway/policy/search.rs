//! What the files of keys, authorities and principals say about one key.

use super::*;
use crate::gateway::authorized_keys::{FileError, Owner};
use crate::gateway::principals;
use crate::gateway::recent_keys::{KeyLine, Reader, RecentKeys};
use crate::reactor;

/// A key that a line lets in.
#[derive(Debug)]
pub(super) struct Found {
    pub options: Options,
    pub source: String,
}

#[derive(Debug, Default)]
pub(super) struct Search {
    pub found: Option<Found>,
    pub notes: Vec<String>,
}

impl Search {
    pub(super) fn nothing(why: String) -> Search {
        Search { found: None, notes: vec![why] }
    }

    /// The request's certificate, if TrustedUserCAKeys lists its authority, and the line that does.
    pub(super) fn trusted<'a>(
        &mut self,
        login: &Effective,
        request: &Request<'a>,
    ) -> Option<(&'a Certificate, String)> {
        let (certificate, path) = (request.certificate?, login.trusted_user_ca_keys.as_ref()?);
        match authorized_keys::read_any(path, AUTHORIZED_KEYS_BYTES_MAX) {
            Ok(text) => {
                let line = principals::line_of(certificate.authority(), &text)?;
                let path = escape(path.as_os_str().as_encoded_bytes());
                Some((certificate, format!("{path}:{line}")))
            }
            Err(why) => {
                self.notes.push(why.to_string());
                None
            }
        }
    }

    /// Judges a certificate of a trusted authority: for the principals of the user's file where
    /// there is to be one, for the user's own name otherwise.
    pub(super) fn certificate(
        &mut self,
        certificate: &Certificate,
        source: String,
        account: &Account,
        login: &Effective,
        (strict, wanted): (bool, Use<'_>),
    ) {
        let Some(template) = &login.authorized_principals_file else {
            if !login.authorized_principals_command.is_empty() {
                // It is asked with our own rights, later.
                return;
            }
            let authority = certificate.authority();
            // Nothing but the certificate says what its key has to attest.
            let options = Options { no_touch: true, ..Options::default() };
            match wanted.certify(certificate, authority, &[wanted.user], options) {
                Ok(options) => self.found = Some(Found { options, source }),
                Err(why) => self.notes.push(format!("{source}: {why}")),
            }
            return;
        };
        if !may_be_read_for(account, template) {
            return self
                .notes
                .push(format!("{}: not for those without a home", escape(template.as_bytes())));
        }
        let path = expand_tokens(template, &account.home, &account.name, account.uid);
        let text = match authorized_keys::read(&path, owner_of(account), strict) {
            Ok(text) => text,
            // Here the absence of the file is worth a word: without it nobody gets in.
            Err(why) => return self.notes.push(why.to_string()),
        };
        let result = principals::search(&text, certificate, wanted);
        let path = escape(path.as_os_str().as_encoded_bytes());
        if result.found.is_none() && result.refused.is_empty() {
            self.notes.push(format!("{path} lists no principal of the certificate"));
        }
        let refused = result.refused.iter();
        self.notes.extend(refused.map(|(line, why)| format!("{path}:{line}: {why}")));
        self.found = result
            .found
            .map(|(line, options)| Found { options, source: format!("{source}, {path}:{line}") });
    }

    /// `recent`: where the line of a key that is let in is remembered.
    pub(super) fn file(
        &mut self,
        path: &Path,
        reader: Reader<'_>,
        (strict, wanted): (bool, Use<'_>),
        recent: &RecentKeys,
    ) {
        let (owner, begun) = (owner_of(reader.account), reactor::now());
        let (text, seen) = match authorized_keys::read_seen(path, owner, strict) {
            Ok(read) => read,
            Err(why) => {
                // Most accounts have one file of the two that are looked for.
                if !FileError::is_absent(&why) {
                    self.notes.push(why.to_string());
                }
                return;
            }
        };
        let result = authorized_keys::search(&text, wanted);
        // Lines before it that were refused are told of each time.
        let plain = wanted.certificate.is_none() && result.refused.is_empty();
        let plain = plain && reader.account.uid != NOBODY;
        if let Some((number, _)) = result.found.as_ref().filter(|_| plain)
            && let Some(line) = text.split(|byte| *byte == b'\n').nth(*number as usize - 1)
        {
            let (number, text) = (*number, line.into());
            let place = (path, wanted.key.blob());
            recent.remember(place, reader, KeyLine { number, text }, (&seen, begun, wanted.now));
        }
        let path = escape(path.as_os_str().as_encoded_bytes());
        let refused = result.refused.iter();
        self.notes.extend(refused.map(|(line, why)| format!("{path}:{line}: {why}")));
        self.found =
            result.found.map(|(line, options)| Found { options, source: format!("{path}:{line}") });
    }
}

/// What these files have said of a key a moment ago and would say again, without reading them and without
/// anybody's rights: the line of the first file, for there may be others in front of later ones.
pub(super) fn recent(
    recent: &RecentKeys,
    files: &[String],
    reader: Reader<'_>,
    wanted: Use<'_>,
) -> Option<Found> {
    let account = reader.account;
    let template =
        files.first().filter(|_| wanted.certificate.is_none() && account.uid != NOBODY)?;
    if is_pattern(OsStr::new(template)) {
        return None;
    }
    let path = expand_tokens(template, &account.home, &account.name, account.uid);
    let line = recent.find((&path, wanted.key.blob()), reader, reactor::now())?;
    // From elsewhere, or later, another line may count.
    let (_, options) = authorized_keys::search(&line.text, wanted).found?;
    let (path, number) = (escape(path.as_os_str().as_encoded_bytes()), line.number);
    Some(Found { options, source: format!("{path}:{number}") })
}

/// Who has no account has no home, and the gateway keeps his keys.
pub(super) fn may_be_read_for(account: &Account, template: &str) -> bool {
    account.uid != NOBODY || (template.starts_with('/') && !template.contains("%h"))
}

fn owner_of(account: &Account) -> Owner<'_> {
    match account.uid {
        NOBODY => {
            let uid = nix::unistd::geteuid().as_raw();
            Owner { name: "the gateway", uid, home: &account.home }
        }
        uid => Owner { name: &account.name, uid, home: &account.home },
    }
}
