//! `tidegate passwd`: what TidegateAccounts, TidegatePasswordFile and TidegateTotpFile keep of a secret.

use std::ffi::OsString;
use std::io::{self, BufRead, IsTerminal, Read};
use std::process::ExitCode;

use lexopt::Arg;
use zeroize::Zeroizing;

use super::{EXIT_FAILED, EXIT_USAGE, complain, print};
use crate::client::Person;
use crate::gateway::{passwords, totp};
use crate::limits::PASSWORD_BYTES_MAX;

const HELP: &str = "\
Usage: tidegate passwd [--totp NAME]

Asks for a password twice, or reads it from the first line of standard input where that is no terminal,
and prints its hash (yescrypt) for PasswordHash in a file of TidegateAccounts, or for TidegatePasswordFile.

  --totp NAME   print a new secret for TotpSecret or TidegateTotpFile instead, and behind it the address
                that apps take it from; NAME is what they show
  --help        print this
";

/// Runs `passwd` with the words behind it.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let mut name = None;
    let mut parser = lexopt::Parser::from_args(args);
    loop {
        match parser.next() {
            Ok(None) => break,
            Ok(Some(Arg::Long("help") | Arg::Short('h'))) => return print(HELP),
            Ok(Some(Arg::Long("totp"))) => match parser.value().map(OsString::into_string) {
                Ok(Ok(value)) => name = Some(value),
                _ => return misused("--totp needs a name"),
            },
            Ok(Some(arg)) => return misused(&arg.unexpected().to_string()),
            Err(why) => return misused(&why.to_string()),
        }
    }
    let made = match name {
        Some(name) => totp::new_secret().map(|secret| {
            let name = percent_encoded(&name);
            format!("{secret}\notpauth://totp/{name}?secret={secret}\n")
        }),
        None => password().and_then(|password| Ok(passwords::hash(&password)? + "\n")),
    };
    match made {
        Ok(text) => print(&text),
        Err(why) => {
            complain(&format!("passwd: {why}\n"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn misused(why: &str) -> ExitCode {
    complain(&format!("passwd: {why}; `tidegate passwd --help` tells more\n"));
    ExitCode::from(EXIT_USAGE)
}

fn password() -> Result<Zeroizing<Vec<u8>>, String> {
    let password = match io::stdin().is_terminal() {
        true => {
            let person = Person::new(false);
            let ask = |question| person.ask_secret(question).map_err(|why| why.to_string());
            let (first, second) = (ask("Password: ")?, ask("The same again: ")?);
            if first != second {
                return Err("those were two different passwords".to_owned());
            }
            first
        }
        false => {
            let mut line = Zeroizing::new(Vec::with_capacity(PASSWORD_BYTES_MAX as usize + 2));
            let input = io::stdin().lock().take(u64::from(PASSWORD_BYTES_MAX) + 2);
            io::BufReader::new(input)
                .read_until(b'\n', &mut line)
                .map_err(|why| why.to_string())?;
            let end = line.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let len = end.unwrap_or(line.len());
            line.truncate(len);
            line
        }
    };
    match password.len() {
        0 => Err("an empty password is none".to_owned()),
        len if len > PASSWORD_BYTES_MAX as usize => {
            Err(format!("longer than {PASSWORD_BYTES_MAX} bytes"))
        }
        _ if password.contains(&0) => Err("a password has no NUL in it".to_owned()),
        _ => Ok(password),
    }
}

fn percent_encoded(name: &str) -> String {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'@');
    let one =
        |byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    name.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_an_address() {
        assert_eq!(percent_encoded("ann@gate"), "ann@gate");
        assert_eq!(percent_encoded("a b?&\u{e9}"), "a%20b%3F%26%C3%A9");
    }

    #[test]
    fn hashes_are_those_of_the_password_and_never_the_same() {
        let hash = passwords::hash(b"correct horse").expect("a hash");
        assert!(hash.starts_with("$y$j9T$") && passwords::check_hash(&hash).is_ok(), "{hash}");
        let file = format!("ann:{hash}\n");
        assert!(passwords::is_right(&file, "ann", b"correct horse", false));
        assert!(!passwords::is_right(&file, "ann", b"correct", false));
        assert_ne!(hash, passwords::hash(b"correct horse").expect("a hash"));
        let secret = totp::new_secret().expect("a secret");
        assert_eq!((secret.len(), totp::check_secret(&secret)), (32, Ok(())));
        assert_ne!(secret, totp::new_secret().expect("a secret"));
    }
}
