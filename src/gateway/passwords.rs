//! Files of passwords' hashes: `name:hash` a line, in the forms of crypt(5) that are fit for use.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use aws_lc_rs::hmac;
use sha_crypt::ShaCrypt;
use sha_crypt::password_hash::{PasswordHasher, PasswordVerifier};
use yescrypt::{Mode, Params, Yescrypt};
use zeroize::Zeroizing;

use super::authorized_keys::FileError;
use super::config::Config;
use super::totp;
use crate::limits::{
    BCRYPT_COST_MAX, PASSWORD_FILE_BYTES_MAX, PASSWORD_HASH_BYTES_MAX, SHA_CRYPT_ROUNDS_MAX,
    YESCRYPT_BYTES_MAX,
};

/// Checked in the place of a hash that is not there, so that it takes as long: yescrypt as Debian
/// makes it.
const NOBODYS: &str = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$zwtVrjrUCmXcyLTs6oxLTQlzifSUkF8RHJ./tK5KU79";

/// Reads a file of secrets: its owner is root or we, and nobody else reads or writes it.
pub fn read(path: &Path) -> Result<Zeroizing<String>, FileError> {
    let failed = |why| FileError::Io { path: path.to_owned(), why };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let uid = nix::unistd::geteuid().as_raw();
    if !metadata.is_file() {
        return Err(FileError::NotAFile(path.to_owned()));
    }
    if metadata.uid() != 0 && metadata.uid() != uid {
        let owner = "the gateway".to_owned();
        return Err(FileError::Owner { path: path.to_owned(), owner, uid: metadata.uid() });
    }
    if metadata.mode() & 0o027 != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(FileError::Open { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(PASSWORD_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > PASSWORD_FILE_BYTES_MAX {
        let bytes_max = PASSWORD_FILE_BYTES_MAX;
        return Err(FileError::TooLarge { path: path.to_owned(), bytes_max });
    }
    Ok(text)
}

/// Why the gateway does not begin with a file of secrets.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error("{keyword}: {why}")]
    File { keyword: &'static str, why: FileError },
    #[error("{keyword}: {}:{line}: {why}", path.display())]
    Line { keyword: &'static str, path: Box<Path>, line: usize, why: &'static str },
}

/// Reads every file of secrets that the configuration names and checks each line, so that what is
/// wrong with one shows before somebody cannot log in.
///
/// # Errors
/// A file cannot be read, or others may read it; a line has no name, an unknown form or a cost out of
/// bounds.
pub fn check_files(config: &Config) -> Result<(), SecretsError> {
    for (keyword, path) in config.secret_files() {
        let text = read(path).map_err(|why| SecretsError::File { keyword, why })?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let checked = match line.split_once(':') {
                None | Some(("", _)) => Err("no name and colon"),
                Some((_, field)) if keyword == PASSWORDS => check_hash(field),
                Some((_, field)) => totp::check_secret(field),
            };
            let (path, line) = (path.into(), number + 1);
            checked.map_err(|why| SecretsError::Line { keyword, path, line, why })?;
        }
    }
    Ok(())
}

pub const PASSWORDS: &str = "TidegatePasswordFile";
pub const CODES: &str = "TidegateTotpFile";

/// What follows the name and its colon on the first line of this user.
pub fn field_of<'a>(text: &'a str, user: &str) -> Option<&'a str> {
    fields(text).find(|(name, _)| *name == user).map(|(_, field)| field)
}

fn fields(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().map(str::trim_end).filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(':'))
}

/// Whether the password is the one of this user. One hash is computed, whether or not he has a line
/// (SECURITY case 65).
pub fn is_right(text: &str, user: &str, password: &[u8], empty_permitted: bool) -> bool {
    let own = field_of(text, user);
    let hash = own.filter(|hash| form_of(hash).is_ok());
    // Looked for in any case: in a long file that takes a time of its own.
    let other = nobodys(text, user);
    let right = verify(password, hash.unwrap_or(other));
    let empty = own == Some("") && password.is_empty() && empty_permitted;
    let allowed = !password.is_empty() || empty_permitted;
    (hash.is_some() && right && allowed) || empty
}

/// What is computed for a user without a hash: that of another, chosen by the file for each name, so
/// that names without one cost what names with one do, and the same each time.
fn nobodys<'a>(text: &'a str, user: &str) -> &'a str {
    let usable = || fields(text).filter(|(_, hash)| form_of(hash).is_ok());
    let key = hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes());
    let tag = hmac::sign(&key, user.as_bytes());
    let number = tag.as_ref().iter().fold(0, |sum: usize, byte| sum << 8 | usize::from(*byte));
    let chosen = number.checked_rem(usable().count());
    let other = chosen.and_then(|chosen| usable().nth(chosen)).map(|(_, hash)| hash);
    other.unwrap_or(NOBODYS)
}

/// A new hash of this password: yescrypt with the cost of the one above.
///
/// # Errors
/// The system has no randomness, or the password is longer than the hash takes.
pub fn hash(password: &[u8]) -> Result<String, String> {
    let mut salt = [0; 16];
    aws_lc_rs::rand::fill(&mut salt).map_err(|_| "the system has no randomness".to_owned())?;
    let params = Params::new(Mode::Rw, 4096, 32, 1).map_err(|why| why.to_string())?;
    let hash = Yescrypt::from(params).hash_password_with_salt(password, &salt);
    hash.map(|hash| hash.to_string()).map_err(|why| why.to_string())
}

/// The forms that are understood. Others, locked ones among them, match no password.
#[derive(Clone, Copy)]
enum Form {
    Yescrypt,
    Bcrypt,
    Sha,
}

const UNKNOWN: &str = "a hash of a form that is not known: yescrypt ($y$), bcrypt ($2b$), sha512 ($6$) \
                       and sha256 ($5$) are";
const COSTLY: &str = "a hash that costs more than a login may (yescrypt: 64 MiB, bcrypt: cost 14, \
                      sha512 and sha256: 1000000 rounds): make it anew with less";

/// A hash of ours, or one that nothing matches (empty, or locked with `!` or `*`).
pub fn check_hash(hash: &str) -> Result<(), &'static str> {
    let locked = hash.is_empty() || hash.starts_with(['!', '*']);
    if locked { Ok(()) } else { form_of(hash).map(drop) }
}

/// What computing it costs is bounded.
fn form_of(hash: &str) -> Result<Form, &'static str> {
    if hash.len() > PASSWORD_HASH_BYTES_MAX {
        return Err(UNKNOWN);
    }
    let mut parts = hash.split('$').skip(1);
    let (id, parameters) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let (form, is_cheap) = match id {
        "y" => (Form::Yescrypt, yescrypt_bytes(parameters).ok_or(UNKNOWN)? <= YESCRYPT_BYTES_MAX),
        "2a" | "2b" | "2y" => {
            let cost = parameters.parse::<u32>().map_err(|_| UNKNOWN)?;
            (Form::Bcrypt, cost <= BCRYPT_COST_MAX)
        }
        "6" | "5" => {
            let rounds = parameters.strip_prefix("rounds=").map(str::parse::<u64>);
            let rounds = rounds.transpose().map_err(|_| UNKNOWN)?;
            (Form::Sha, rounds.is_none_or(|rounds| rounds <= SHA_CRYPT_ROUNDS_MAX))
        }
        _ => return Err(UNKNOWN),
    };
    if is_cheap { Ok(form) } else { Err(COSTLY) }
}

/// 128 N r. Its parameters are those of crypt_gensalt(3): a flavour, log2 N less one and r less one, a
/// character each. There are more, which would multiply the time; nobody makes hashes with them.
fn yescrypt_bytes(parameters: &str) -> Option<u64> {
    let &[b'j', log, block] = parameters.as_bytes() else { return None };
    let digit = |byte: u8| ALPHABET.iter().position(|known| *known == byte);
    let (log, block) = (u32::try_from(digit(log)?).ok()? + 1, digit(block)? as u64 + 1);
    1u64.checked_shl(log)?.checked_mul(128)?.checked_mul(block)
}

const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Whatever goes wrong, the password is not right (SECURITY case 64).
fn verify(password: &[u8], hash: &str) -> bool {
    #[cfg(test)]
    counting::note(hash);
    // crypt(3) would end at a NUL.
    let whole = !password.contains(&0);
    let right = match form_of(hash) {
        Ok(Form::Yescrypt) => Yescrypt::default().verify_password(password, hash).is_ok(),
        Ok(Form::Bcrypt) => bcrypt::verify(password, hash).unwrap_or(false),
        Ok(Form::Sha) => ShaCrypt::default().verify_password(password, hash).is_ok(),
        Err(_) => false,
    };
    right && whole
}

/// What was computed, for tests.
#[cfg(test)]
pub mod counting {
    use std::cell::RefCell;

    thread_local!(static COMPUTED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) });

    pub fn note(hash: &str) {
        COMPUTED.with_borrow_mut(|computed| computed.push(hash.to_owned()));
    }

    /// The hashes that this thread has computed since it was last asked.
    pub fn taken() -> Vec<String> {
        COMPUTED.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by crypt(3).
    const FILE: &str = "# ours\n\
        yes:$y$j9T$F5Jx5fExrKuPp53xLKQ..1$zwtVrjrUCmXcyLTs6oxLTQlzifSUkF8RHJ./tK5KU79\n\
        locked:!$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1\n\
        sha:$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1\n\
        blow:$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n\
        empty:\nstar:*\nodd:$9$x\ncut:$6$salt\n";

    #[test]
    fn the_forms_of_crypt_are_understood() {
        let right = |user: &str, password: &str| is_right(FILE, user, password.as_bytes(), false);
        assert!(right("sha", "Hello world!"));
        assert!(right("blow", "U*U"));
        assert!(right("yes", "correct horse"));
        for user in ["sha", "blow", "yes"] {
            for password in ["", "x", "Hello world", "hello world!", "U*U*"] {
                assert!(!right(user, password), "{user} {password}");
            }
        }
    }

    #[test]
    fn case_63_what_is_no_usable_hash_lets_nobody_in() {
        for user in ["locked", "empty", "star", "odd", "cut", "nobody", "", "# ours"] {
            for password in ["", "Hello world!", "*", "!", "U*U"] {
                assert!(!is_right(FILE, user, password.as_bytes(), false), "{user} {password:?}");
            }
        }
        assert!(!is_right(FILE, "sha", b"Hello world!\0", false), "a NUL");
        assert!(!is_right(FILE, "sha", b"Hello world!\0x", true), "a NUL");
        assert!(is_right(FILE, "empty", b"", true), "permitted");
        assert!(!is_right(FILE, "empty", b"x", true));
        assert!(!is_right(FILE, "star", b"", true));
        assert!(!is_right("", "sha", b"", true), "no file at all");
    }
    #[test]
    fn case_65_one_hash_is_computed_whoever_it_is() {
        let hashes: Vec<&str> =
            FILE.lines().filter_map(|line| line.split_once(':')).map(|l| l.1).collect();
        let users = ["sha", "blow", "yes", "locked", "empty", "star", "odd", "nobody", ""];
        let mut others = Vec::new();
        for user in users.map(str::to_owned).into_iter().chain((0..9).map(|n| format!("user{n}"))) {
            counting::taken();
            assert!(!is_right(FILE, &user, b"wrong", true), "{user}");
            let computed = counting::taken();
            let [computed] = &*computed else { panic!("{user}: {computed:?}") };
            match field_of(FILE, &user).filter(|hash| form_of(hash).is_ok()) {
                Some(own) => assert_eq!(computed, own),
                None => {
                    assert!(hashes.contains(&&**computed) && form_of(computed).is_ok(), "{user}");
                    others.push(computed.clone());
                }
            }
            assert!(!is_right(FILE, &user, b"wrong", true), "{user}");
            assert_eq!(counting::taken(), [&**computed], "the same again");
        }
        others.sort();
        others.dedup();
        assert!(others.len() > 1, "names without a hash are as various as those with one");
        assert!(!is_right("", "ann", b"wrong", true));
        assert_eq!(counting::taken(), [NOBODYS]);
    }

    #[test]
    fn costs_are_bounded_and_odd_forms_are_refused() {
        let rest = "$F5Jx5fExrKuPp53xLKQ..1$zwtVrjrUCmXcyLTs6oxLTQlzifSUkF8RHJ./tK5KU79";
        let of = |hash: String| check_hash(&hash);
        for parameters in ["j75", "j9T", "jBT"] {
            assert_eq!(of(format!("$y${parameters}{rest}")), Ok(()), "{parameters}");
        }
        for parameters in ["jCT", "jFT", "jBz"] {
            assert_eq!(of(format!("$y${parameters}{rest}")), Err(COSTLY), "{parameters}");
        }
        for parameters in
            ["", "j", "jzT", "jz.", "j9", "j9T.", "j9T/.", "/9T", "..T", "j9!", "j9\u{e4}"]
        {
            assert_eq!(of(format!("$y${parameters}{rest}")), Err(UNKNOWN), "{parameters}");
        }
        for (start, expected) in [
            ("$2b$04$", Ok(())),
            ("$2b$14$", Ok(())),
            ("$2b$15$", Err(COSTLY)),
            ("$2b$31$", Err(COSTLY)),
            ("$2b$-1$", Err(UNKNOWN)),
            ("$2x$05$", Err(UNKNOWN)),
            ("$6$rounds=1000000$", Ok(())),
            ("$6$rounds=1000001$", Err(COSTLY)),
            ("$5$rounds=999999999$", Err(COSTLY)),
            ("$6$rounds=99999999999999999999$", Err(UNKNOWN)),
            ("$1$salt$", Err(UNKNOWN)),
            ("plain", Err(UNKNOWN)),
            ("!", Ok(())),
            ("*", Ok(())),
            ("!$9$x", Ok(())),
            ("", Ok(())),
        ] {
            assert_eq!(of(start.to_owned()), expected, "{start}");
        }
        assert_eq!(of(format!("$6${}", "x".repeat(PASSWORD_HASH_BYTES_MAX))), Err(UNKNOWN));
        assert!(form_of(NOBODYS).is_ok());
    }
}
