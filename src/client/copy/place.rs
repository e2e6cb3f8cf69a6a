use std::path::Path;

use anyhow::{Result, bail};

/// Where something is: an argument of the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// `None`: here.
    pub host: Option<Host>,
    /// Relative paths start where the shell is, or in the account's home there.
    pub path: Vec<u8>,
}

/// A host as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// `[user@]host`, as `tidegate ssh` reads it.
    pub destination: String,
    /// From `sftp://`.
    pub port: Option<u16>,
}

impl Location {
    /// Reads `[user@]host:path`, `sftp://[user@]host[:port][/path]` (or `scp://`) or a path here. As in scp, a colon
    /// makes it a host's unless a slash stands before it, and `~` is the home there.
    ///
    /// # Errors
    /// It begins like a host's and goes on like none.
    pub fn parse(word: &[u8]) -> Result<Location> {
        let uri_of = |scheme: &[u8]| word.strip_prefix(scheme);
        if let Some(rest) = uri_of(b"sftp://").or_else(|| uri_of(b"scp://")) {
            return uri(rest);
        }
        let Some(colon) = colon(word) else {
            return Ok(Location { host: None, path: word.to_vec() });
        };
        let (front, back) = word.split_at(colon);
        let path = back.get(1..).unwrap_or_default();
        let path = match path {
            b"" | b"~" | b"~/" => b".",
            [b'~', b'/', rest @ ..] => rest,
            [b'~', ..] => bail!(
                "{}: homes of others are written out; a name that begins so is ./~",
                String::from_utf8_lossy(word)
            ),
            path => path,
        };
        Ok(Location { host: Some(host(front, None)?), path: path.to_vec() })
    }

    /// The path's last name; `None` where it has none, such as in `/` and `..`.
    pub fn name(&self) -> Option<Vec<u8>> {
        last_name(&self.path)
    }
}

/// The last name of a path.
pub fn last_name(path: &[u8]) -> Option<Vec<u8>> {
    let name = path.split(|byte| *byte == b'/').rfind(|part| !part.is_empty())?;
    (name != b"." && name != b"..").then(|| name.to_vec())
}

/// `name` inside of `folder`.
pub fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    match folder {
        b"" | b"." => name.to_vec(),
        _ if folder.ends_with(b"/") => [folder, name].concat(),
        _ => [folder, b"/", name].concat(),
    }
}

/// Whether a server may name an entry of a directory so: a name that leads nowhere else.
pub fn is_plain(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}

/// The colon behind a host: none behind a slash, and none in brackets.
fn colon(word: &[u8]) -> Option<usize> {
    let mut in_brackets = false;
    if word.first() == Some(&b':') {
        return None;
    }
    for (at, byte) in word.iter().enumerate() {
        match byte {
            b'[' => in_brackets = true,
            b']' => in_brackets = false,
            b'/' if !in_brackets => return None,
            b':' if !in_brackets => return Some(at),
            _ => {}
        }
    }
    None
}

fn uri(rest: &[u8]) -> Result<Location> {
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    let (front, path) = rest.split_at(end);
    let path = decode(path.get(1..).unwrap_or_default())?;
    let (front, port) = match colon(front) {
        Some(colon) => {
            let digits = String::from_utf8_lossy(front.get(colon + 1..).unwrap_or_default());
            let Ok(port) = digits.parse::<u16>() else {
                bail!("{}: {digits:?} is no port", String::from_utf8_lossy(rest));
            };
            (front.get(..colon).unwrap_or_default(), Some(port))
        }
        None => (front, None),
    };
    let path = if path.is_empty() { b".".to_vec() } else { path };
    Ok(Location { host: Some(host(front, port)?), path })
}

fn host(front: &[u8], port: Option<u16>) -> Result<Host> {
    let Ok(text) = str::from_utf8(front) else {
        bail!("{}: a host is named in UTF-8", String::from_utf8_lossy(front));
    };
    let (user, name) = text.rsplit_once('@').map_or((None, text), |(u, name)| (Some(u), name));
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    if bare.is_empty() || bare.starts_with('-') {
        bail!("{text:?} is no host");
    }
    let destination = match user {
        Some(user) => format!("{user}@{bare}"),
        None => bare.to_owned(),
    };
    Ok(Host { destination, port })
}

/// `%41` and the like.
fn decode(path: &[u8]) -> Result<Vec<u8>> {
    let mut plain = Vec::with_capacity(path.len());
    let mut bytes = path.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            plain.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(high), Some(low)) => plain.push((high * 16 + low) as u8),
            _ => bail!("{}: % and two digits", String::from_utf8_lossy(path)),
        }
    }
    Ok(plain)
}

/// A path here.
pub fn here(path: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(destination: &str, port: Option<u16>, path: &[u8]) -> Location {
        let host = Some(Host { destination: destination.to_owned(), port });
        Location { host, path: path.to_vec() }
    }

    #[test]
    fn arguments_are_read_as_scp_reads_them() {
        for (word, expected) in [
            ("web:a/b", there("web", None, b"a/b")),
            ("ann@web:", there("ann@web", None, b".")),
            ("web:~", there("web", None, b".")),
            ("web:~/a", there("web", None, b"a")),
            ("web:./~a", there("web", None, b"./~a")),
            ("ann@[::1]:/x:y", there("ann@::1", None, b"/x:y")),
            ("sftp://web", there("web", None, b".")),
            ("sftp://ann@web:2222/a%20b", there("ann@web", Some(2222), b"a b")),
            ("sftp://web//etc", there("web", None, b"/etc")),
            ("scp://web:22//etc", there("web", Some(22), b"/etc")),
            ("./a:b", Location { host: None, path: b"./a:b".to_vec() }),
            (":x", Location { host: None, path: b":x".to_vec() }),
            ("plain", Location { host: None, path: b"plain".to_vec() }),
        ] {
            assert_eq!(Location::parse(word.as_bytes()).expect(word), expected, "{word}");
        }
        for word in ["sftp://web:x/", "-oX=y:a", "@:a", "sftp://web/%4", "web:~bob/a"] {
            assert!(Location::parse(word.as_bytes()).is_err(), "{word}");
        }
    }

    #[test]
    fn case_117_names_of_a_server_lead_nowhere_else() {
        for name in [&b""[..], b".", b"..", b"/", b"a/b", b"../x", b"/etc/passwd", b"a\0b"] {
            assert!(!is_plain(name), "{name:?}");
        }
        assert!(is_plain(b"..a") && is_plain(b"\xff\n"));
        assert_eq!(last_name(b"a/b/"), Some(b"b".to_vec()));
        assert_eq!((last_name(b"/"), last_name(b"a/..")), (None, None));
        assert_eq!(join(b"/", b"a"), b"/a");
        assert_eq!(join(b"d", b"a"), b"d/a");
    }
}
