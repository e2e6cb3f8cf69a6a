//! AuthorizedKeysCommand and AuthorizedPrincipalsCommand: programs that answer what a file of keys or
//! of principals would say.

use super::*;
use crate::crypto::keys::Trust;
use crate::gateway::{principals, program};

/// Would a program take this name for an option, or choke on it?
pub(super) fn may_be_told(name: &str) -> bool {
    !name.starts_with('-') && !name.contains(char::is_control)
}

impl Policy {
    /// Asks the programs, where no file lets the key in: for principals, if an authority that is
    /// trusted has signed its certificate, and then for keys.
    ///
    /// Where `account` stands in for another it is the one that programs hear of, so that a name
    /// without an account costs what one with an account does, and none ever reaches a program.
    pub(super) fn ask_programs(
        &self,
        search: &mut Search,
        account: &Account,
        login: &Effective,
        request: &Request<'_>,
        (trusted, wanted): (Option<(&Certificate, String)>, Use<'_>),
    ) {
        if account.uid == NOBODY && !may_be_told(&account.name) {
            return;
        }
        let about = About {
            account,
            peer: request.peer,
            local: request.local,
            rdomain: request.rdomain,
            key: Some(request.key),
            certificate: request.certificate,
        };
        if let Some((certificate, authority)) = trusted {
            self.ask_principals(search, &about, login, request, (certificate, authority, wanted));
        }
        if search.found.is_some() || login.authorized_keys_command.is_empty() {
            return;
        }
        let (words, user) = (&login.authorized_keys_command, &login.authorized_keys_command_user);
        let name = name_of("AuthorizedKeysCommand", words);
        match self.answer(words, user.as_deref(), &about, request.user) {
            Ok(text) => {
                let result = authorized_keys::search(&text, wanted);
                search.take(name, result.found, &result.refused);
            }
            Err(why) => search.notes.push(format!("{name}: {why}")),
        }
    }

    fn ask_principals(
        &self,
        search: &mut Search,
        about: &About<'_>,
        login: &Effective,
        request: &Request<'_>,
        (certificate, authority, wanted): (&Certificate, String, Use<'_>),
    ) {
        let words = &login.authorized_principals_command;
        let trust = Trust {
            authorities: std::slice::from_ref(certificate.authority()),
            algorithms: wanted.ca_algorithms,
        };
        if words.is_empty() {
            return;
        }
        // Anybody can write a certificate that names an authority.
        if let Err(why) = certificate.verify_origin(trust, wanted.now) {
            return search.notes.push(format!("{authority}: {why}"));
        }
        let user = login.authorized_principals_command_user.as_deref();
        let name = name_of("AuthorizedPrincipalsCommand", words);
        match self.answer(words, user, about, request.user) {
            Ok(text) => {
                let result = principals::search(&text, certificate, wanted);
                if result.found.is_none() && result.refused.is_empty() {
                    search.notes.push(format!("{name} lists no principal of the certificate"));
                }
                search.take(format!("{authority}, {name}"), result.found, &result.refused);
            }
            Err(why) => search.notes.push(format!("{name}: {why}")),
        }
    }

    /// What a program says about this login; one without arguments is told the user's name.
    fn answer(
        &self,
        words: &[String],
        user: Option<&str>,
        about: &About<'_>,
        asked: &str,
    ) -> Result<Arc<[u8]>, String> {
        let user = user.ok_or("no account to run it as is configured")?;
        let entry = self.runner(&about.expand(user))?;
        let mut words = words.iter().map(|word| about.expand(word)).collect::<Vec<_>>();
        if words.len() == 1 {
            words.push(about.account.name.clone());
        }
        self.answers.ask(asked, words, &entry.account, &entry.group_ids)
    }

    /// Runs a program as the account of this name.
    pub(super) fn run_as(&self, user: &str, words: &[String]) -> Result<String, String> {
        let entry = self.runner(user)?;
        let answer = program::run(words, &entry.account, &entry.group_ids)?;
        String::from_utf8(answer).map_err(|_| "its answer is not UTF-8".to_owned())
    }

    fn runner(&self, user: &str) -> Result<Arc<Entry>, String> {
        match self.directory.find(user) {
            Ok(Some(entry)) => Ok(entry),
            Ok(None) => Err(format!("there is no user {} to run it as", escape(user.as_bytes()))),
            Err(why) => Err(format!("the user database does not answer: {why}")),
        }
    }
}

impl Search {
    /// What a program's lines come to.
    fn take(
        &mut self,
        name: String,
        found: Option<(u32, Options)>,
        refused: &[(u32, authorized_keys::LineError)],
    ) {
        self.notes.extend(refused.iter().map(|(line, why)| format!("{name}:{line}: {why}")));
        self.found =
            found.map(|(line, options)| Found { options, source: format!("{name}:{line}") });
    }
}

/// The keyword and its program, for the log.
fn name_of(keyword: &str, words: &[String]) -> String {
    let path = words.first().map_or("", String::as_str);
    format!("{keyword} {}", escape(path.as_bytes()))
}
