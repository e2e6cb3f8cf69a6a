//! Which exec requests are scp's server side, read as a shell would read them.

use std::ffi::OsStr;
use std::path::Path;

/// What a shell does with a word depends on which of its bytes were quoted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    bytes: Vec<(u8, bool)>,
}

/// The front of a word that stands for somebody's home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tilde<'a> {
    /// Empty: one's own.
    pub user: Vec<u8>,
    /// What follows, from the slash on.
    pub below: &'a [(u8, bool)],
}

/// Which side of a copy the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `-f`: files leave.
    Source,
    /// `-t`: files come.
    Sink,
}

/// A command line that asks for nothing but a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub side: Side,
    /// `-r`.
    pub recursive: bool,
    /// `-p`: times and exact modes too.
    pub preserve: bool,
    /// `-d`: the target must be a directory.
    pub directory: bool,
    /// `-v`.
    pub verbose: bool,
    /// Paths; a shell would still expand tildes and patterns in them.
    pub words: Vec<Word>,
}

/// Shells whose reading of a plain command line is the one of this module. Others may forbid what
/// they are asked for (nologin, git-shell, rbash) or read it differently (fish, csh).
const SHELLS: [&str; 8] = ["sh", "bash", "dash", "ash", "ksh", "ksh93", "mksh", "zsh"];

/// What has a meaning to some shell wherever it stands unquoted.
const META: &[u8] = b"$`&;|<>(){}^!\n\r\0";

impl Command {
    /// `None` for everything that is not exactly `scp` with the flags of a server and paths; that is
    /// for the shell.
    pub fn parse(line: &[u8]) -> Option<Command> {
        let mut words = split(line)?.into_iter();
        if words.next()?.text() != b"scp" {
            return None;
        }
        let mut side = None;
        let (mut recursive, mut preserve, mut directory, mut verbose) = Default::default();
        let mut paths: Vec<Word> = Vec::new();
        let mut flags_over = false;
        for word in words {
            let text = word.text();
            let flags = text.strip_prefix(b"-").filter(|rest| !rest.is_empty() && !flags_over);
            let Some(flags) = flags else {
                paths.push(word);
                continue;
            };
            // getopt would look for flags behind paths; nobody's client sends them there.
            if !paths.is_empty() {
                return None;
            }
            if flags == b"-" {
                flags_over = true;
                continue;
            }
            for flag in flags {
                match flag {
                    b'f' if side.is_none() => side = Some(Side::Source),
                    b't' if side.is_none() => side = Some(Side::Sink),
                    b'r' => recursive = true,
                    b'p' => preserve = true,
                    b'd' => directory = true,
                    b'v' => verbose = true,
                    b'q' => {}
                    _ => return None,
                }
            }
        }
        let words = paths;
        Some(Command { side: side?, recursive, preserve, directory, verbose, words })
    }
}

impl Word {
    /// Without its quotes.
    pub fn text(&self) -> Vec<u8> {
        self.bytes.iter().map(|(byte, _)| *byte).collect()
    }

    /// Bytes, and whether each was quoted.
    pub fn bytes(&self) -> &[(u8, bool)] {
        &self.bytes
    }

    /// An unquoted tilde at the front, if there is one.
    pub fn tilde(&self) -> Option<Tilde<'_>> {
        let (first, rest) = self.bytes.split_first()?;
        let end = rest.iter().position(|(byte, _)| *byte == b'/').unwrap_or(rest.len());
        let (name, below) = rest.split_at(end);
        let plain = *first == (b'~', false) && name.iter().all(|(_, quoted)| !quoted);
        plain.then(|| Tilde { user: name.iter().map(|(byte, _)| *byte).collect(), below })
    }

    /// Some shell would make something else of it than tilde and pattern expansion does.
    fn is_odd(&self) -> bool {
        let odd_front =
            self.bytes.first().is_some_and(|(byte, quoted)| !quoted && matches!(byte, b'#' | b'='));
        let odd_tilde = self.tilde().is_some_and(|tilde| {
            tilde.user.first().is_some_and(|byte| matches!(byte, b'+' | b'-' | b'0'..=b'9'))
        });
        odd_front || odd_tilde
    }
}

/// Whether the account's shell reads a plain command as this module does, and forbids nothing.
pub fn is_plain_shell(shell: &Path) -> bool {
    let name = shell.file_name().unwrap_or(OsStr::new(""));
    // No shell at all stands for /bin/sh.
    shell.as_os_str().is_empty() || SHELLS.iter().any(|known| name == *known)
}

/// The words of a line by the quoting rules of POSIX (XCU 2.2). `None` when there is more in it
/// than words.
fn split(line: &[u8]) -> Option<Vec<Word>> {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut rest = line.iter().copied();
    // A `!` or `^` means "not" right behind a bracket, and is a plain character nowhere else.
    let mut behind_bracket = false;
    while let Some(byte) = rest.next() {
        let negates = std::mem::take(&mut behind_bracket) && matches!(byte, b'!' | b'^');
        match byte {
            b' ' | b'\t' => words.extend(word.take()),
            b'\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next()? {
                        b'\'' => break,
                        0 => return None,
                        byte => word.bytes.push((byte, true)),
                    }
                }
            }
            b'"' => double_quoted(&mut rest, word.get_or_insert_default())?,
            b'\\' => match rest.next()? {
                0 | b'\n' => return None,
                byte => word.get_or_insert_default().bytes.push((byte, true)),
            },
            byte if META.contains(&byte) && !negates => return None,
            byte => {
                behind_bracket = byte == b'[';
                word.get_or_insert_default().bytes.push((byte, false));
            }
        }
    }
    words.extend(word);
    (!words.iter().any(Word::is_odd)).then_some(words)
}

/// Up to the closing quote, which is taken too.
fn double_quoted(rest: &mut impl Iterator<Item = u8>, word: &mut Word) -> Option<()> {
    loop {
        match rest.next()? {
            b'"' => return Some(()),
            b'$' | b'`' | 0 => return None,
            b'\\' => match rest.next()? {
                byte @ (b'$' | b'`' | b'"' | b'\\') => word.bytes.push((byte, true)),
                0 | b'\n' => return None,
                byte => word.bytes.extend([(b'\\', true), (byte, true)]),
            },
            byte => word.bytes.push((byte, true)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(line: &str) -> Option<Vec<String>> {
        let command = Command::parse(line.as_bytes())?;
        let text = |word: &Word| String::from_utf8(word.text()).expect("UTF-8");
        Some(command.words.iter().map(text).collect())
    }

    #[test]
    fn what_clients_send_is_understood() {
        let command = Command::parse(b"scp -v -r -p -d -t -- /tmp/x").expect("scp");
        let all = command.recursive && command.preserve && command.directory && command.verbose;
        assert!(all && command.side == Side::Sink);
        let command = Command::parse(b"scp -qrpf a b").expect("scp");
        assert!(command.side == Side::Source && command.words.len() == 2 && !command.verbose);
        for (line, words) in [
            ("scp -f a\\ b", vec!["a b"]),
            ("scp -t 'a b'\"c d\"e", vec!["a bc de"]),
            ("scp -t \"a\\\"b\\c\\\\\"", vec!["a\"b\\c\\"]),
            ("scp  -f\t* ?x [!a]*", vec!["*", "?x", "[!a]*"]),
            ("scp -t ''", vec![""]),
            ("scp -t -", vec!["-"]),
            ("scp -t -- -x", vec!["-x"]),
            ("'scp' -f ~/a", vec!["~/a"]),
            ("scp -f '$(id)' \\;\\`\\&", vec!["$(id)", ";`&"]),
            ("scp -f a#b a=b", vec!["a#b", "a=b"]),
            ("scp -t \u{e9}\u{4e2d}", vec!["\u{e9}\u{4e2d}"]),
            ("scp -f", vec![]),
        ] {
            assert_eq!(texts(line), Some(words.into_iter().map(String::from).collect()), "{line}");
        }
    }

    /// SECURITY 116: what could mean anything to a shell goes to the user's own, unread.
    #[test]
    fn case_116_everything_else_is_for_the_shell() {
        for line in [
            "",
            "scp",
            "scp x",
            "scp -x -t a",
            "/usr/bin/scp -t a",
            "scpx -t a",
            "scp -tf a",
            "scp -t -f a",
            "scp -t a -r",
            "SCP -t a",
            "A=b scp -t a",
            "exec scp -t a",
            "scp -t a; id",
            "scp -t $HOME",
            "scp -t `id`",
            "scp -t a|b",
            "scp -t a&",
            "scp -t a>b",
            "scp -t (a)",
            "scp -t {a,b}",
            "scp -t a\nid",
            "scp -t 'a",
            "scp -t \"a",
            "scp -t a\\",
            "scp -t \"$x\"",
            "scp -t \"`id`\"",
            "scp -t a!b",
            "scp -f a^b",
            "scp -f #a",
            "scp -f =a",
            "scp -f ~+",
            "scp -f ~-/x",
            "scp -f ~1",
            "scp -t \"a\\\nb\"",
            "scp -t a\0b",
            "scp -t 'a\0b'",
            "scp -S x -t a",
            "scp -t a \\",
            "scp --help",
            "scp -t a\r",
        ] {
            assert_eq!(Command::parse(line.as_bytes()), None, "{line:?}");
        }
    }

    /// What we take as words, sh takes as the very same words, and as nothing else.
    #[test]
    fn case_116_sh_reads_the_same_words() {
        let empty = tempfile::tempdir().expect("a folder");
        let alphabet: Vec<char> = " \t'\"\\*?[]!^$`;#=ab-/\u{e9}".chars().collect();
        let (mut state, mut accepted, mut script) = (7_u64, Vec::new(), String::new());
        script.push_str("scp() { printf '<%s>' \"$@\"; printf '\\n.\\n'; }\n");
        while accepted.len() < 400 {
            let mut line = String::from("scp -f ");
            for _ in 0..8 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (state >> 33) as usize % alphabet.len();
                line.push(alphabet[at]);
            }
            if let Some(command) = Command::parse(line.as_bytes()) {
                script.push_str(&format!("{line}\n"));
                accepted.push((line, command));
            }
        }
        let mut run = std::process::Command::new("sh");
        let output = run.arg("-c").arg(&script).current_dir(empty.path()).output();
        let output = output.expect("sh runs");
        let said = String::from_utf8(output.stdout).expect("UTF-8");
        let said: Vec<&str> = said.split("\n.\n").collect();
        assert_eq!(said.len(), accepted.len() + 1, "{}", String::from_utf8_lossy(&output.stderr));
        for ((line, command), said) in accepted.iter().zip(said) {
            let words = command
                .words
                .iter()
                .map(|word| format!("<{}>", String::from_utf8(word.text()).expect("UTF-8")));
            // `--` is for scp itself, and our parser has taken it.
            let said = said.replacen("<-f>", "", 1).replacen("<-->", "", 1);
            let flags = |text: &str| text.starts_with("<-") && !text.starts_with("<->");
            let ours = words.collect::<String>();
            if !flags(&said) {
                assert_eq!(ours, said, "{line:?}");
            }
        }
    }

    #[test]
    fn tildes_are_seen_only_unquoted() {
        let tilde = |line: &str| {
            let command = Command::parse(line.as_bytes()).expect(line);
            let word = command.words.first().expect("a word").clone();
            word.tilde().map(|tilde| (tilde.user, tilde.below.len()))
        };
        assert_eq!(tilde("scp -f ~"), Some((b"".to_vec(), 0)));
        assert_eq!(tilde("scp -f ~/x"), Some((b"".to_vec(), 2)));
        assert_eq!(tilde("scp -f ~ann/x"), Some((b"ann".to_vec(), 2)));
        for quoted in ["'~'/x", "\\~/x", "~'ann'/x", "a~", "./~"] {
            assert_eq!(tilde(&format!("scp -f {quoted}")), None, "{quoted}");
        }
    }

    #[test]
    fn shells_that_forbid_or_differ_are_asked() {
        for plain in ["", "/bin/sh", "/bin/bash", "/usr/bin/zsh", "/bin/dash"] {
            assert!(is_plain_shell(Path::new(plain)), "{plain}");
        }
        for other in [
            "/usr/sbin/nologin",
            "/bin/false",
            "/bin/rbash",
            "/usr/bin/git-shell",
            "/usr/bin/fish",
            "/bin/csh",
            "/",
        ] {
            assert!(!is_plain_shell(Path::new(other)), "{other}");
        }
    }
}
