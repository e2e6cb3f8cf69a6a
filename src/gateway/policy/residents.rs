//! Logins of accounts that exist here alone.

use super::*;
use crate::connection::Secrets;
use crate::gateway::residents::{Resident, Residents};
use crate::services::Files;

impl Policy {
    /// Who exists here alone; nobody where no file says so.
    pub(super) fn residents(&self) -> Arc<Residents> {
        let path = self.config.login.accounts_file.as_deref();
        path.map_or_else(Arc::default, |path| self.registry.now(path))
    }

    pub(super) fn permit_resident(
        &self,
        resident: &Resident,
        mut login: Effective,
        request: &Request<'_>,
    ) -> Result<Grant, Box<Refusal>> {
        // A file for everybody is one for the accounts of the system.
        login.authorized_keys_files.retain(|template| template.contains("%u"));
        let verdict = self.admits_resident(resident, &login, &request.comer());
        let verdict = verdict.and_then(|account| check_key(&login, request).map(|()| account));
        let revoked = check_revoked(&login, request).err();
        // Files that the configuration names for each user, and authorities of certificates.
        let mut search = self.search(&stranger(&resident.name), &[], &login, request);
        let wanted = Use {
            user: &resident.name,
            key: request.key,
            certificate: request.certificate,
            ca_algorithms: &login.ca_algorithms,
            peer: request.peer.ip(),
            host: request.host,
            now: now(),
        };
        let own = authorized_keys::search(&resident.keys, wanted);
        let path = self.config.login.accounts_file.as_deref().unwrap_or(Path::new(""));
        let path = escape(path.as_os_str().as_encoded_bytes());
        let refused = own.refused.iter();
        let at = |number: u32| format!("{path}:{}", resident.line_of(number));
        search.notes.extend(refused.map(|(number, why)| format!("{}: {why}", at(*number))));
        let own = own.found.map(|(number, options)| Found { options, source: at(number) });
        let account = match (verdict, revoked) {
            (Err(reason), _) | (_, Some(reason)) => return refuse(reason, Vec::new()),
            (Ok(account), None) => account,
        };
        match search.found.or(own) {
            Some(found) => self.grant_resident(resident, account, login, found, Some(request.key)),
            None if request.certificate.is_some() => refuse(Reason::NoCertificate, search.notes),
            None => refuse(Reason::NoKey, search.notes),
        }
    }

    /// The same for what was typed, which `right` says is right; what it uses up is used up.
    pub(super) fn permit_resident_secrets(
        &self,
        resident: &Resident,
        login: Effective,
        comer: &Comer<'_>,
        (secrets, right): (&Secrets, bool),
        found: Found,
    ) -> Result<Grant, Box<Refusal>> {
        let account = match self.admits_resident(resident, &login, comer) {
            Ok(account) => account,
            Err(reason) => return refuse(reason, Vec::new()),
        };
        let whole = secrets.password.is_some() && secrets.code.is_some();
        // Chains of methods say by themselves what else has to follow.
        if resident.totp.is_some() && login.authentication_methods.is_empty() && !whole {
            let note = "its TotpSecret asks for a password and a code in one: keyboard-interactive";
            return refuse(Reason::Secrets, vec![note.to_owned()]);
        }
        if !right {
            return refuse(Reason::Secrets, Vec::new());
        }
        self.grant_resident(resident, account, login, found, None)
    }

    /// The account whose rights it has, under its own name.
    fn admits_resident(
        &self,
        resident: &Resident,
        login: &Effective,
        comer: &Comer<'_>,
    ) -> Result<Account, Reason> {
        check_lists(login, &resident.name, &[], comer)?;
        if resident.expires.as_ref().is_some_and(|expires| expires.at < now()) {
            return Err(Reason::Expired);
        }
        if !resident.allows(comer.peer.ip()) {
            return Err(Reason::Source);
        }
        if resident.is_limited() && self.config.separates_connections() {
            return Err(Reason::Quota);
        }
        let database = |why: std::io::Error| Reason::Database(why.to_string());
        let service = match &login.accounts_user {
            Some(name) if self.uid == 0 => {
                let entry = self.directory.find(name).map_err(database)?;
                entry.map(|entry| entry.account.clone()).filter(|account| account.uid != 0)
            }
            _ => self.process.clone().filter(|_| self.uid != 0),
        };
        let apart = |account: &Account| !self.apart.contains(&account.uid);
        let service = service.filter(apart).ok_or(Reason::NoService)?;
        let (home, shell) = (PathBuf::from("/"), PathBuf::new());
        Ok(Account { name: resident.name.clone(), home, shell, ..service })
    }

    fn grant_resident(
        &self,
        resident: &Resident,
        account: Account,
        login: Effective,
        found: Found,
        key: Option<&PublicKey>,
    ) -> Result<Grant, Box<Refusal>> {
        let service = login.accounts_user.clone();
        let files = Files { service, ..resident.files.clone() };
        let place = Place::Files(Box::new(files));
        let mut grant = self.grant(account, login, found, (key, None, place));
        if !resident.forwarding {
            grant.rules.forwarding.tcp = Ways::NONE;
        }
        Ok(grant)
    }
}

fn refuse(reason: Reason, notes: Vec<String>) -> Result<Grant, Box<Refusal>> {
    Err(Box::new(Refusal { reason, notes }))
}
