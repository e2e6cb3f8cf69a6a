//! Accounts that exist here alone (`TidegateAccounts`): a line a setting, in the language of
//! sshd_config, those of an account behind its `Account` line. They have files and nothing else.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::error;

use super::authorized_keys::{self, LineError};
use super::config::{Config, HostList, Verdict, did_you_mean, size, split_keyword, words};
use super::key_options::{Expiry, Options};
use super::{accounts, passwords, totp};
use crate::limits::{ACCOUNT_FOLDERS_MAX, ACCOUNT_KEYS_MAX, ACCOUNTS_MAX};
use crate::services::{Files, Folder, Quota, Rights};

const KEYWORDS: [&str; 12] = [
    "Account",
    "AllowTcpForwarding",
    "Expires",
    "From",
    "Home",
    "Key",
    "PasswordHash",
    "QuotaBytes",
    "QuotaFiles",
    "ReadOnly",
    "Rights",
    "TotpSecret",
];

/// Every account of a file, by the order of names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Residents(Vec<Resident>);

/// An account that exists here alone.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Resident {
    pub name: String,
    /// Lines of keys with their options, as authorized_keys has them.
    pub keys: Vec<u8>,
    /// Where those stand in the file.
    key_lines: Vec<usize>,
    /// As in a file of passwords; `None`: no password lets it in.
    pub hash: Option<String>,
    /// As in a file of codes.
    pub totp: Option<String>,
    /// Where its files are, and what may be done to them; the service is not in here.
    pub files: Files,
    pub expires: Option<Expiry>,
    pub from: Option<HostList>,
    pub forwarding: bool,
}

/// Each process would count for itself.
pub const QUOTA_OF_MANY: &str = "QuotaBytes and QuotaFiles are counted in one process for all connections \
                                 of an account, which TidegateIsolation per-connection does not have";

/// What is wrong with a file, and in which line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}: {problem}")]
pub struct Wrong {
    pub line: usize,
    pub problem: String,
}

impl Residents {
    pub fn find(&self, name: &str) -> Option<&Resident> {
        let at = self.0.binary_search_by(|one| one.name.as_str().cmp(name)).ok()?;
        self.0.get(at)
    }

    /// What a file of passwords would have for all of them; nobody else's line follows for one of them.
    pub fn hashes(&self) -> String {
        let line =
            |one: &Resident| format!("{}:{}\n", one.name, one.hash.as_deref().unwrap_or("!"));
        self.0.iter().map(line).collect()
    }

    /// What a file of codes would have.
    pub fn secrets(&self) -> String {
        let line = |one: &Resident| format!("{}:{}\n", one.name, one.totp.as_deref().unwrap_or(""));
        self.0.iter().map(line).collect()
    }

    /// Reads a file's text. Never panics: fuzzers start here.
    ///
    /// # Errors
    /// The first line that has no meaning, or an account without what it needs.
    pub fn parse(text: &str) -> Result<Residents, Wrong> {
        let mut all: Vec<(usize, Resident)> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let wrong = |problem: String| Wrong { line: at + 1, problem };
            let unclosed = |_| wrong("a quotation mark without its twin".to_owned());
            let Some((keyword, rest)) = split_keyword(line).map_err(unclosed)? else { continue };
            let known = KEYWORDS.iter().find(|known| known.eq_ignore_ascii_case(keyword));
            let Some(known) = known.copied() else {
                let meant =
                    did_you_mean(keyword, KEYWORDS).map(|one| format!("; did you mean {one}?"));
                let meant = meant.unwrap_or_default();
                return Err(wrong(format!("there is no keyword {keyword:.64?}{meant}")));
            };
            let values = words(rest).map_err(unclosed)?;
            if known == "Account" {
                let name = one(&values).and_then(check_name).map_err(wrong)?;
                if all.len() == ACCOUNTS_MAX {
                    return Err(wrong(format!("more than {ACCOUNTS_MAX} accounts")));
                }
                all.push((at + 1, Resident { name: name.to_owned(), ..Resident::default() }));
                continue;
            }
            let Some((_, account)) = all.last_mut() else {
                return Err(wrong(format!("{known} stands before the first Account line")));
            };
            account
                .set(known, rest, &values, at + 1)
                .map_err(|why| wrong(format!("{known}: {why}")))?;
        }
        for (line, account) in &mut all {
            account.settle().map_err(|problem| Wrong { line: *line, problem })?;
        }
        all.sort_by(|(_, one), (_, other)| one.name.cmp(&other.name));
        if let Some([(one, _), (other, account)]) = all
            .windows(2)
            .find_map(|two| <&[_; 2]>::try_from(two).ok().filter(|[a, b]| a.1.name == b.1.name))
        {
            let (first, line) = (one.min(other), *one.max(other));
            return Err(Wrong {
                line,
                problem: format!("Account {} is there in line {first}", account.name),
            });
        }
        Ok(Residents(all.into_iter().map(|(_, one)| one).collect()))
    }
}

impl Resident {
    fn set(
        &mut self,
        keyword: &str,
        rest: &str,
        values: &[String],
        line: usize,
    ) -> Result<(), String> {
        match keyword {
            "Key" => return self.add_key(rest.trim_end(), line),
            "Rights" => return self.add_rights(values),
            _ => {}
        }
        let value = one(values)?;
        match keyword {
            "Home" => {
                let home = PathBuf::from(value);
                if !home.is_absolute() {
                    return Err("not an absolute path".to_owned());
                }
                once(self.files.root.as_os_str().is_empty())?;
                self.files.root = home;
            }
            "PasswordHash" => {
                passwords::check_hash(value)?;
                once(self.hash.is_none())?;
                self.hash = Some(value.to_owned());
            }
            "TotpSecret" => {
                totp::check_secret(value)?;
                once(self.totp.is_none())?;
                self.totp = Some(value.to_owned());
            }
            "QuotaBytes" => limit(&mut self.files.quota.bytes, value)?,
            "QuotaFiles" => limit(&mut self.files.quota.files, value)?,
            "ReadOnly" => {
                let rights = Rights::READ.and(Rights::LIST);
                if yes_or_no(value)? {
                    once(self.files.folders.is_empty())?;
                    self.files.folders.push(Folder { path: "/".to_owned(), rights });
                }
            }
            "AllowTcpForwarding" => self.forwarding = yes_or_no(value)?,
            "Expires" => {
                let options =
                    Options::parse(&format!("expiry-time=\"{}\"", value.replace('"', "")));
                once(self.expires.is_none())?;
                self.expires = options.map_err(|why| why.to_string())?.expiry;
            }
            _ => {
                let list = HostList::new(value)
                    .map_err(|bad| format!("{}: {:.64?}", bad.problem, bad.item))?;
                if !list.is_of_addresses() {
                    return Err("addresses and networks alone count here".to_owned());
                }
                once(self.from.is_none())?;
                self.from = Some(list);
            }
        }
        Ok(())
    }

    fn add_key(&mut self, text: &str, line: usize) -> Result<(), String> {
        if self.key_lines.len() == ACCOUNT_KEYS_MAX {
            return Err(format!("more than {ACCOUNT_KEYS_MAX} keys"));
        }
        match authorized_keys::parse_line(text.as_bytes()) {
            Ok(Some(_)) => {}
            Ok(None) => return Err(LineError::NoKey.to_string()),
            Err(why) => return Err(why.to_string()),
        }
        self.keys.extend_from_slice(text.as_bytes());
        self.keys.push(b'\n');
        self.key_lines.push(line);
        Ok(())
    }

    fn add_rights(&mut self, values: &[String]) -> Result<(), String> {
        let [path, rights] = values else {
            return Err("a folder and what may be done there are expected".to_owned());
        };
        let plain = path == "/"
            || (path.starts_with('/')
                && path.split('/').skip(1).all(|name| !matches!(name, "" | "." | "..")));
        if !plain {
            return Err(format!("{path:.64?} is no path from / without dots and doubled slashes"));
        }
        let rights = Rights::parse(rights).map_err(|word| {
            let names = Rights::NAMES.map(|(name, _)| name);
            format!("{word:.64?} is none of {}, all and none", names.join(", "))
        })?;
        if self.files.folders.len() == ACCOUNT_FOLDERS_MAX {
            return Err(format!("more than {ACCOUNT_FOLDERS_MAX} folders"));
        }
        if self.files.folders.iter().any(|one| one.path == *path) {
            return Err(format!("{path:.64?} has its rights already"));
        }
        self.files.folders.push(Folder { path: path.clone(), rights });
        Ok(())
    }

    fn settle(&self) -> Result<(), String> {
        let name = &self.name;
        if self.files.root.as_os_str().is_empty() {
            return Err(format!("Account {name} has no Home"));
        }
        let folders = &self.files.folders;
        if !folders.is_empty() && folders.iter().all(|one| one.path != "/") {
            return Err(format!(
                "Account {name} has no Rights for /, which hold where no others do"
            ));
        }
        if self.keys.is_empty() && self.hash.is_none() {
            return Err(format!("Account {name} has neither Key nor PasswordHash"));
        }
        Ok(())
    }

    /// Where a key stands in the file, by its number among those of the account.
    pub fn line_of(&self, number: u32) -> usize {
        let at = (number as usize).checked_sub(1).and_then(|at| self.key_lines.get(at));
        at.copied().unwrap_or(0)
    }

    /// It has a quota.
    pub fn is_limited(&self) -> bool {
        self.files.quota != Quota::default()
    }

    /// Whether it may come from there.
    pub fn allows(&self, address: std::net::IpAddr) -> bool {
        self.from.as_ref().is_none_or(|from| from.verdict(address, None) == Verdict::Matches)
    }

    /// What `-T` tells of it: comments, so that it can be fed back.
    pub fn tell(&self, path: &Path) -> String {
        let Files { root, folders, quota, .. } = &self.files;
        let mut text = format!("# account {} of {}\n", self.name, path.display());
        let mut tell = |keyword: &str, value: String| {
            text.push_str(&format!("#   {keyword} {value}\n"));
        };
        tell("Home", root.display().to_string());
        folders.iter().for_each(|one| tell("Rights", format!("{} {}", one.path, one.rights)));
        quota.bytes.iter().for_each(|bytes| tell("QuotaBytes", bytes.to_string()));
        quota.files.iter().for_each(|files| tell("QuotaFiles", files.to_string()));
        self.expires.iter().for_each(|expires| tell("Expires", expires.text.clone()));
        self.from.iter().for_each(|from| tell("From", from.to_string()));
        let count = |is: bool, word: &str| if is { format!(", {word}") } else { String::new() };
        let secrets =
            count(self.hash.is_some(), "a password") + &count(self.totp.is_some(), "codes");
        tell("lets in:", format!("{} keys{secrets}", self.key_lines.len()));
        text
    }
}

fn one(values: &[String]) -> Result<&str, String> {
    match values {
        [value] if !value.is_empty() => Ok(value),
        [] | [_] => Err("a value is missing".to_owned()),
        _ => Err("one value is expected".to_owned()),
    }
}

fn once(first: bool) -> Result<(), String> {
    if first { Ok(()) } else { Err("it is there already".to_owned()) }
}

fn limit(place: &mut Option<u64>, value: &str) -> Result<(), String> {
    once(place.is_none())?;
    let number = size(value).map_err(|_| "a number is expected, like 500M or 10G".to_owned())?;
    *place = Some(number);
    Ok(())
}

fn yes_or_no(value: &str) -> Result<bool, String> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("neither yes nor no".to_owned()),
    }
}

/// What no log, file of passwords or pattern of a configuration takes for something else.
fn check_name(name: &str) -> Result<&str, String> {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '@' | '+');
    let plain = name.len() <= 64 && name.chars().all(fits) && !name.starts_with(['-', '.']);
    if plain {
        Ok(name)
    } else {
        Err("a name has at most 64 letters, digits and . _ - @ +, and begins with no - or ."
            .to_owned())
    }
}

/// The file as it is now.
#[derive(Debug, Default)]
pub struct Registry {
    known: Mutex<Option<(Stamp, Arc<Residents>)>>,
}

/// What changes with a file.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Registry {
    /// Reads the file if it has changed. One that has become unusable changes nothing: who was in it
    /// stays in it, and the log says what is wrong.
    pub fn now(&self, path: &Path) -> Arc<Residents> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(path);
        if let (Some((before, residents)), Ok(now)) = (&*known, &stamp)
            && before == now
        {
            return Arc::clone(residents);
        }
        let read = stamp.map_err(|why| why.to_string()).and_then(|stamp| Ok((stamp, read(path)?)));
        match read {
            Ok((stamp, residents)) => {
                let residents = Arc::new(residents);
                *known = Some((stamp, Arc::clone(&residents)));
                residents
            }
            Err(why) => {
                error!(%why, "TidegateAccounts: {why}; it is used as it was before");
                known.as_ref().map(|(_, residents)| Arc::clone(residents)).unwrap_or_default()
            }
        }
    }
}

fn stamp(path: &Path) -> std::io::Result<Stamp> {
    let meta = fs::metadata(path)?;
    Ok(Stamp { inode: meta.ino(), size: meta.len(), changed: (meta.ctime(), meta.ctime_nsec()) })
}

fn read(path: &Path) -> Result<Residents, String> {
    let text = passwords::read(path).map_err(|why| why.to_string())?;
    Residents::parse(&text).map_err(|wrong| format!("{}:{wrong}", path.display()))
}

/// The accounts of this configuration, for those who ask before anything is served.
///
/// # Errors
/// Their file cannot be used, or nobody does their work.
pub fn check(config: &Config) -> Result<Residents, String> {
    let Some(path) = &config.login.accounts_file else { return Ok(Residents::default()) };
    let uid = nix::unistd::geteuid().as_raw();
    match &config.login.accounts_user {
        None if uid == 0 => {
            return Err(
                "TidegateAccounts needs TidegateAccountsUser: the account that does the work of \
                        those in it"
                    .to_owned(),
            );
        }
        None => {}
        Some(name) => match accounts::by_name(name) {
            Err(why) => return Err(format!("TidegateAccountsUser {name}: {why}")),
            Ok(None) => return Err(format!("TidegateAccountsUser {name}: there is no such user")),
            Ok(Some(account)) if account.uid == 0 => {
                return Err("TidegateAccountsUser: root's rights are not for this".to_owned());
            }
            Ok(Some(account)) if uid != 0 && account.uid != uid => {
                return Err(format!(
                    "TidegateAccountsUser {name}: only root can work as somebody else"
                ));
            }
            Ok(Some(_)) => {}
        },
    }
    let residents = read(path).map_err(|why| format!("TidegateAccounts: {why}"))?;
    let limited = residents.0.iter().find(|one| config.separates_connections() && one.is_limited());
    match limited {
        Some(one) => Err(format!("TidegateAccounts: account {}: {QUOTA_OF_MANY}", one.name)),
        None => Ok(residents),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{KeyKind, PrivateKey};

    const HASH: &str = "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1";

    fn key() -> String {
        let key = PrivateKey::generate(KeyKind::Ed25519).expect("a key");
        key.public().to_openssh_line("ann@home")
    }

    #[test]
    fn a_file_says_who_has_what() {
        let (one, two) = (key(), key());
        let text = format!(
            "# ours\n\nAccount zoe\n  Home /srv/zoe\n  PasswordHash {HASH}\n  ReadOnly yes\n\
             account ann\n\tHome \"/srv/a b\"\n\tKey {one}\n\tKey from=\"10.0.0.0/8\" {two}\n\
             \tRights / read,list\n\tRights /in write\n\tQuotaBytes 10M\n\tQuotaFiles 5\n\
             \tExpires 20300101Z\n\tFrom 192.0.2.0/24,2001:db8::/32\n\tAllowTcpForwarding yes\n\
             \tTotpSecret GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\n"
        );
        let all = Residents::parse(&text).expect("it makes sense");
        let ann = all.find("ann").expect("ann");
        assert_eq!(ann.files.root, Path::new("/srv/a b"));
        assert_eq!((ann.line_of(1), ann.line_of(2), ann.line_of(3)), (9, 10, 0));
        assert_eq!(
            ann.files.quota,
            crate::services::Quota { bytes: Some(10 << 20), files: Some(5) }
        );
        assert_eq!(ann.files.rights_in(b"/in/x"), Rights::WRITE);
        assert!(ann.forwarding && ann.expires.is_some());
        for (address, may) in [("192.0.2.7", true), ("192.0.3.7", false), ("2001:db8::7", true)] {
            assert_eq!(ann.allows(address.parse().expect("an address")), may, "{address}");
        }
        let zoe = all.find("zoe").expect("zoe");
        assert_eq!(zoe.files.rights_in(b"/x").to_string(), "read,list");
        assert!(zoe.allows([127, 0, 0, 1].into()) && !zoe.forwarding);
        assert!(all.find("nobody").is_none());
        assert_eq!(all.hashes(), format!("ann:!\nzoe:{HASH}\n"));
        assert_eq!(all.secrets(), "ann:GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\nzoe:\n");
        let told = ann.tell(Path::new("/etc/accounts"));
        assert!(told.lines().all(|line| line.starts_with('#')), "{told}");
        assert!(told.contains("Rights /in write\n") && told.contains("2 keys, codes"), "{told}");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let good = format!("Account ann\nHome /srv/ann\nPasswordHash {HASH}\n");
        assert!(Residents::parse(&good).is_ok());
        assert_eq!(Residents::parse(""), Ok(Residents::default()));
        for (more, line, problem) in [
            ("Hom /x", 4, "did you mean Home?"),
            ("Home", 4, "a value is missing"),
            ("Home x", 4, "not an absolute path"),
            ("Home /x", 4, "it is there already"),
            ("Home /x /y", 4, "one value is expected"),
            ("Home \"/x", 4, "quotation mark"),
            ("Key x", 4, "no key type"),
            ("Key", 4, "no key type"),
            ("PasswordHash plain", 4, "form that is not known"),
            ("TotpSecret AAAA", 4, "less than ten bytes"),
            ("QuotaBytes much", 4, "a number is expected"),
            ("Rights /", 4, "a folder and what may be done"),
            ("Rights in read", 4, "no path from /"),
            ("Rights /in/../x read", 4, "no path from /"),
            ("Rights / wriet", 4, "\"wriet\" is none of"),
            ("Rights / read\nRights / list", 5, "has its rights already"),
            ("Rights /in read", 1, "no Rights for /"),
            ("ReadOnly maybe", 4, "neither yes nor no"),
            ("ReadOnly yes\nReadOnly yes", 5, "it is there already"),
            ("Expires soon", 4, "Expires"),
            ("From gate.example.org", 4, "addresses and networks"),
            ("Account ann\nHome /x\nPasswordHash *", 4, "is there in line 1"),
            ("Account bob\nPasswordHash *", 4, "has no Home"),
            ("Account bob\nHome /x", 4, "neither Key nor PasswordHash"),
            ("Account -bob", 4, "begins with no -"),
            ("Account b:b", 4, "at most 64 letters"),
            ("Account", 4, "a value is missing"),
        ] {
            let wrong = Residents::parse(&format!("{good}{more}\n")).expect_err(more);
            assert_eq!(wrong.line, line, "{more}: {wrong}");
            assert!(wrong.problem.contains(problem), "{more}: {wrong}");
        }
        let wrong = Residents::parse("Home /x\n").expect_err("nobody's");
        assert_eq!(wrong.to_string(), "1: Home stands before the first Account line");
    }

    #[test]
    fn a_file_that_breaks_is_used_as_it_was() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("accounts");
        let put = |text: &str| {
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
        };
        let registry = Registry::default();
        assert_eq!(*registry.now(&path), Residents::default(), "no file, nobody");
        put(&format!("Account ann\nHome /x\nPasswordHash {HASH}\n"));
        let first = registry.now(&path);
        assert!(first.find("ann").is_some());
        assert!(Arc::ptr_eq(&first, &registry.now(&path)), "not read again");
        put("Account\n");
        assert!(registry.now(&path).find("ann").is_some());
        put(&format!("Account bobby\nHome /x\nPasswordHash {HASH}\n"));
        let last = registry.now(&path);
        assert!(last.find("ann").is_none() && last.find("bobby").is_some());
    }
}
