//! Logins by password and by code.

use super::*;
use crate::connection::{Method, Secrets};
use zeroize::Zeroizing;

use crate::gateway::pam::Seat;
use crate::gateway::residents::Residents;
use crate::gateway::{passwords, totp};

impl Policy {
    /// Do these secrets let this user in, and what may he do then? What PAM says of him is kept in `seat`.
    ///
    /// The files are read and the work of checking is done whether or not the user exists, has a
    /// password or may log in (SECURITY case 65).
    pub fn permit_secrets(
        &self,
        comer: &Comer<'_>,
        secrets: &Secrets,
        seat: &Seat,
    ) -> Result<Grant, Box<Refusal>> {
        let (user, target) = self.split(comer.user);
        let comer = &Comer { user, ..*comer };
        let regard = self.regard(comer, target);
        let Regard { login, verdict, route } = &regard;
        let residents = self.residents();
        let resident = residents.find(user);
        let root = |account: &Account| is_kept_out(account, login);
        let told = match &secrets.password {
            Some(password) if login.asks_pam() && resident.is_none() => {
                let real = matches!(verdict, Ok(account) if !root(account));
                Some(self.ask_pam(login, comer, password, (real, seat)))
            }
            _ => None,
        };
        let (right, notes) = check(login, (&residents, user), secrets, told.as_ref());
        if let (Some(password), Some(_), None) = (&secrets.password, resident, right)
            && login.asks_pam()
        {
            // It takes as long as for others.
            drop(self.ask_pam(login, comer, password, (false, seat)));
        }
        // What is used up is used up: nobody tries a code twice.
        let spend = || right.is_some_and(|step| step.is_none_or(|step| totp::spend(user, step)));
        let options = Options { no_touch: true, ..Options::default() };
        let found = Found { options, source: source_of(secrets).to_owned() };
        if let (Some(resident), Ok(None)) = (resident, route) {
            let judged = (secrets, spend());
            return self.permit_resident_secrets(resident, regard.login, comer, judged, found);
        }
        let refuse = |reason, notes| Err(Box::new(Refusal { reason, notes }));
        let account = match verdict {
            Err(reason) => return refuse(reason.clone(), Vec::new()),
            Ok(account) if root(account) => {
                return refuse(Reason::RootPassword, Vec::new());
            }
            Ok(account) => account.clone(),
        };
        if let Some(Err(reason)) = told {
            return refuse(reason, notes);
        }
        // The last thing, for it uses the code up.
        if !spend() {
            return refuse(Reason::Secrets, notes);
        }
        let method = if secrets.prompted { Method::KeyboardInteractive } else { Method::Password };
        self.let_in(account, regard, found, method)
    }

    /// Whether this user can log in at all, whatever he has or knows.
    ///
    /// # Errors
    /// Why not.
    pub fn may_come(&self, comer: &Comer<'_>) -> Result<(), Reason> {
        let (user, target) = self.split(comer.user);
        let regard = self.regard(&Comer { user, ..*comer }, target);
        if regard.verdict.is_err() && self.residents().find(user).is_some() {
            return Ok(());
        }
        regard.verdict.map(drop)
    }

    /// The grant of a login by what its user knows.
    pub(super) fn let_in(
        &self,
        account: Account,
        regard: Regard,
        found: Found,
        method: Method,
    ) -> Result<Grant, Box<Refusal>> {
        let Regard { login, route, .. } = regard;
        let upstream = route.ok().flatten();
        let place = self.place(&account, &login, upstream.as_ref());
        let place = place.map_err(|reason| Refusal { reason, notes: Vec::new() })?;
        let mut grant = self.grant(account, login, found, (None, upstream, place));
        if let Some(info) = &mut grant.rules.auth_info {
            *info = AuthInfo::new(method.name(), None, None);
        }
        Ok(grant)
    }

    /// What is known of whoever wants to log in by something that he knows, before that is looked at.
    pub(super) fn regard(&self, comer: &Comer<'_>, target: Option<&str>) -> Regard {
        let (entry, database) = match self.directory.find(comer.user) {
            Ok(entry) => (entry, None),
            Err(why) => (None, Some(Reason::Database(why.to_string()))),
        };
        let groups = entry.as_ref().map_or(&[][..], |entry| &entry.groups);
        let exists = entry.is_some() || self.residents().find(comer.user).is_some();
        let login = self.effective(comer, exists, groups);
        let known = entry.as_ref().map(|entry| &entry.account);
        let route = self.route(&login, target, known, (comer, None));
        let verdict = match (&entry, database, &route) {
            (.., Err(reason)) => Err(reason.clone()),
            (Some(entry), _, Ok(route)) => self.admits(entry, &login, comer, route.is_some()),
            (None, Some(reason), _) => Err(reason),
            (None, None, Ok(Some(_))) => admits_stranger(&login, comer),
            (None, None, Ok(None)) => Err(Reason::UnknownUser),
        };
        Regard { login, verdict, route }
    }
}

/// Who wants to log in, as far as that depends on nothing that he knows.
pub(super) struct Regard {
    pub login: Effective,
    pub verdict: Result<Account, Reason>,
    pub route: Result<Option<Upstream>, Reason>,
}

/// Root gets in by keys alone.
pub(super) fn is_kept_out(account: &Account, login: &Effective) -> bool {
    account.uid == 0 && login.permit_root_login != RootLogin::Yes
}

const fn source_of(secrets: &Secrets) -> &'static str {
    match (&secrets.password, &secrets.code) {
        (Some(_), None) => "a password",
        (None, Some(_)) => "a code",
        _ => "a password and a code",
    }
}

/// `None`: something is wrong. Else the step of the code, if there is one.
fn check(
    login: &Effective,
    (residents, user): (&Residents, &str),
    secrets: &Secrets,
    told: Option<&Result<(), Reason>>,
) -> (Option<Option<u64>>, Vec<String>) {
    let mut notes = Vec::new();
    let own = login.accounts_file.is_some();
    let mut text = |path: Option<&Path>, keyword: &str| match path.map(passwords::read) {
        Some(Ok(text)) => text,
        Some(Err(why)) => {
            notes.push(format!("{keyword}: {why}"));
            Default::default()
        }
        None if own || login.use_pam => Default::default(),
        None => {
            notes.push(format!("{keyword} is none"));
            Default::default()
        }
    };
    let mut right = login.offers(Method::Password) || login.offers(Method::KeyboardInteractive);
    right &= secrets.password.is_some() || secrets.code.is_some();
    if let Some(password) = &secrets.password {
        let file = text(login.password_file.as_deref(), passwords::PASSWORDS);
        // Whoever exists here alone comes first, and is searched for in the same way as others.
        let file = Zeroizing::new(residents.hashes() + &file);
        let own = passwords::is_right(&file, user, password.bytes(), login.permit_empty_passwords);
        right &= told.map_or(own, Result::is_ok);
    }
    let mut step = None;
    if let Some(code) = &secrets.code {
        let file = text(login.totp_file.as_deref(), passwords::CODES);
        let file = Zeroizing::new(residents.secrets() + &file);
        step = totp::step_of(&file, user, code.bytes(), now());
        // One who has no codes is asked for one like everybody, and says anything.
        let none = match residents.find(user) {
            Some(one) => one.totp.is_none(),
            None => login.totp_file.is_none(),
        };
        right &= step.is_some() || (none && secrets.password.is_some());
    }
    (right.then_some(step), notes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::connection::Secret;
    use crate::gateway::config::parse;

    const PASSWORD: &str = "Hello world!";
    const HASH: &str = "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1";

    struct Scene {
        folder: tempfile::TempDir,
        me: String,
    }

    impl Scene {
        fn new() -> Scene {
            let uid = nix::unistd::geteuid().as_raw();
            let me = accounts::by_uid(uid).expect("a database").expect("an account").name;
            let folder = tempfile::tempdir().expect("a folder");
            let scene = Scene { folder, me };
            scene.put(&format!("locked:!{HASH}\nlp:{HASH}\n{}:{HASH}\n", scene.me), 0o600);
            scene
        }

        fn put(&self, text: &str, mode: u32) {
            let path = self.folder.path().join("passwords");
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        }

        fn permit(&self, user: &str, password: &str, more: &str) -> Result<Grant, Reason> {
            let path = self.folder.path().join("passwords");
            let text = format!(
                "{more}\nTidegatePasswordFile {}\nPasswordAuthentication yes\nPermitRootLogin yes\n",
                path.display()
            );
            let config = parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
            let password = Some(Secret::copy(password.as_bytes()));
            let secrets = Secrets { password, code: None, prompted: false };
            let comer = Comer {
                user,
                peer: ([192, 0, 2, 7], 50_000).into(),
                host: None,
                local: ([192, 0, 2, 1], 2222).into(),
                rdomain: None,
            };
            let policy = Policy::new(Arc::new(config));
            policy
                .permit_secrets(&comer, &secrets, &Seat::default())
                .map_err(|refusal| refusal.reason)
        }
    }

    #[test]
    fn case_65_the_work_is_the_same_for_everybody() {
        let scene = Scene::new();
        let me = &*scene.me;
        passwords::counting::taken();
        let grant = scene.permit(me, PASSWORD, "").expect("let in");
        assert_eq!((grant.key, &*grant.source), (None, "a password"));
        assert_eq!(grant.rules.auth_info, None, "ExposeAuthInfo is off");
        let told = scene.permit(me, PASSWORD, "ExposeAuthInfo yes").expect("let in");
        assert_eq!(told.rules.auth_info, Some(AuthInfo::new("password", None, None)));
        passwords::counting::taken();
        scene.permit(me, PASSWORD, "").expect("let in");
        assert_eq!(passwords::counting::taken().len(), 1);
        for (user, password, more) in [
            (me, "wrong", ""),
            (me, "", ""),
            (me, PASSWORD, &*format!("DenyUsers {me}")),
            (me, PASSWORD, "AllowUsers nobody-else"),
            ("nobody-at-all", PASSWORD, ""),
            ("locked", PASSWORD, ""),
            ("../../etc/passwd", "x", ""),
        ] {
            let refused = scene.permit(user, password, more).expect_err("refused");
            let computed = passwords::counting::taken();
            assert_eq!(computed.len(), 1, "{user} {password:?} {more:?}: {refused:?}");
        }
    }

    #[test]
    fn case_64_a_file_that_cannot_be_used_lets_nobody_in() {
        let scene = Scene::new();
        let me = &*scene.me;
        let good = format!("{me}:{}\n", HASH);
        scene.put(&good, 0o604);
        assert_eq!(scene.permit(me, PASSWORD, "").err(), Some(Reason::Secrets), "its mode");
        scene.put(&good, 0o640);
        scene.permit(me, PASSWORD, "").expect("a group may read it");
        scene.put(&good.replace("$6$", "$6$rounds=2000000$"), 0o600);
        assert_eq!(scene.permit(me, PASSWORD, "").err(), Some(Reason::Secrets), "its cost");
        fs::remove_file(scene.folder.path().join("passwords")).expect("removed");
        assert_eq!(scene.permit(me, PASSWORD, "").err(), Some(Reason::Secrets), "no file");
        fs::create_dir(scene.folder.path().join("passwords")).expect("a folder");
        assert_eq!(scene.permit(me, "", "PermitEmptyPasswords yes").err(), Some(Reason::Secrets));
    }
}
