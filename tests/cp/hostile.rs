//! Servers that lie: a program behind the sftp subsystem that answers what it was told to.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use crate::server::{Server, text};
use crate::support::{Gateway, make_executable};
use crate::{folder, here, parts, run, there};

/// An SFTP server of one directory `d` with one file `f` of 100 bytes. The file `mode` beside it says
/// in what it lies.
const LIAR: &str = r#"#!/usr/bin/python3
import struct, sys
mode = open(sys.argv[0] + '.mode').read().strip()
inp, out = sys.stdin.buffer, sys.stdout.buffer
def string(b): return struct.pack('>I', len(b)) + b
def send(kind, body):
    out.write(struct.pack('>IB', 1 + len(body), kind) + body); out.flush()
def attrs(m, size=100): return struct.pack('>IQI', 5, size, m)
D, F = 0o40755, 0o100644
listed = False
data = bytes(range(100))
SIZES = {'larger': 200, 'huge': 1 << 62, 'refuse-large': 40 << 20, 'unhashed': 40 << 20}
def names(entries):
    return struct.pack('>I', len(entries)) + b''.join(string(n) + string(n) + attrs(F) for n in entries)
while True:
    head = inp.read(4)
    if len(head) < 4: break
    packet = inp.read(struct.unpack('>I', head)[0])
    kind, rest = packet[0], packet[1:]
    if kind == 1:
        send(2, struct.pack('>I', 3) + (string(b'check-file-handle') + string(b'') if mode in ('full', 'unhashed') else b'')); continue
    ident, body = rest[:4], rest[4:]
    n = struct.unpack('>I', body[:4])[0] if len(body) >= 4 else 0
    arg = body[4:4 + n]
    def status(code): send(101, ident + struct.pack('>I', code) + string(b'so \x1b[31m it is') + string(b''))
    if kind in (17, 7): send(105, ident + attrs(D if arg.endswith(b'd') else F))
    elif kind == 8 and mode == 'sizeless': send(105, ident + struct.pack('>II', 4, F))
    elif kind == 8: send(105, ident + attrs(F, SIZES.get(mode, 100)))
    elif kind == 11: send(102, ident + string(b'dir'))
    elif kind == 3: send(102, ident + string(b'file'))
    elif kind == 12:
        if mode == 'endless': send(104, ident + names([])); continue
        if listed: status(1); continue
        listed = True
        send(104, ident + names([b'f', b'.', b'..', b'', b'/', b'../evil', b'/tmp/evil', b'x/y', b'a\0b']))
    elif kind == 5:
        at, want = struct.unpack('>QI', body[4 + n:16 + n])
        part = data[at:at + want]
        if mode == 'short': part = part[:7]
        if mode == 'long': part = bytes(want + 1)
        if mode == 'nothing': part = b''
        if mode.startswith('refuse'): status(4); continue
        if mode == 'unhashed': part = bytes(min(want, SIZES[mode] - at))
        if mode == 'unasked': send(103, b'\0\0\x77\x77' + string(b'x')); continue
        if mode == 'twice':
            # In one piece: the first alone would be the end of the file.
            both = struct.pack('>IB', 9 + len(part), 103) + ident + string(part)
            out.write(both + both); out.flush(); continue
        if mode == 'giant': out.write(struct.pack('>IB', 0x7fffffff, 103) + ident); out.flush(); continue
        if mode == 'handle': send(102, ident + string(b'file')); continue
        if mode == 'leave': break
        if mode == 'once': open(sys.argv[0] + '.mode', 'w').write('none'); break
        if part or mode in ('nothing',): send(103, ident + string(part))
        else: status(1)
    elif kind == 4:
        open(sys.argv[0] + '.closed', 'a').write(arg.decode() + ' ')
        status(0)
    else: status(4 if mode == 'full' else 8)
"#;

struct Liar {
    server: Server,
    program: PathBuf,
}

impl Liar {
    fn start() -> Liar {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("liar");
        fs::write(&program, LIAR).expect("a program");
        make_executable(&program);
        let line = format!("Subsystem sftp {}", program.display());
        // The folder is the test's until its end.
        std::mem::forget(folder);
        Liar { server: Server::Ours(Gateway::start(&[&line])), program }
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut path = self.program.clone().into_os_string();
        path.push(ending);
        path.into()
    }

    fn lie(&self, mode: &str) {
        fs::write(self.beside(".mode"), mode).expect("a file");
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        let _ = self.program.parent().map(fs::remove_dir_all);
    }
}

#[test]
fn case_117_and_118_nothing_is_written_outside() {
    let liar = Liar::start();
    liar.lie("none");
    let place = folder(&liar.server, "place");
    let output = run(&liar.server, &["-r", "127.0.0.1:d", &here(&place)]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("which is no name"), "{said}");
    assert_eq!(fs::read(place.join("d/f")).expect("a file"), (0..100).collect::<Vec<u8>>());
    assert_eq!(fs::read_dir(place.join("d")).expect("it").count(), 1);
    assert_eq!(fs::read_dir(&place).expect("it").count(), 1);
}

/// SECURITY case 118: a link that somebody has put where a file goes.
#[test]
fn case_118_planted_links_are_not_followed() {
    let liar = Liar::start();
    let place = folder(&liar.server, "planted");
    let (victim, target) = (liar.server.path("victim"), place.join("f"));
    fs::write(&victim, "kept").expect("a file");
    liar.lie("none");
    symlink(&victim, &target).expect("a link");
    let output = run(&liar.server, &["127.0.0.1:f", &here(&target)]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(fs::symlink_metadata(&target).expect("it").is_file(), "the link is replaced");
    assert_eq!(fs::read(&target).expect("it").len(), 100);
    assert_eq!(fs::read(&victim).expect("it"), b"kept");
}

#[test]
fn case_119_a_server_that_lies_is_found_out() {
    let liar = Liar::start();
    let place = folder(&liar.server, "place");
    for (mode, expected) in [
        ("long", "another amount of data"),
        ("nothing", "another amount of data"),
        ("unasked", "what was not asked"),
        ("twice", "what was not asked"),
        ("giant", "longer than any may be"),
        ("handle", "of the wrong kind"),
        ("leave", "connection lost"),
        ("refuse", "so \\x1b[31m it is"),
        ("larger", "become shorter"),
        ("huge", "become shorter"),
        ("sizeless", "does not tell how long it is"),
    ] {
        liar.lie(mode);
        let words = ["--retries", "0", "127.0.0.1:f", &here(&place.join("f"))];
        let output = run(&liar.server, &words);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{mode}: {said}");
        assert!(said.contains(expected), "{mode}: {said}");
        assert!(!place.join("f").exists(), "{mode}");
        // Only one of a file that is worth going on with stays.
        let parts = parts(&place);
        assert_eq!(parts.len(), usize::from(mode == "huge"), "{mode}: {parts:?}");
        parts.iter().for_each(|part| fs::remove_file(part).expect("a part"));
    }
    liar.lie("endless");
    let output = run(&liar.server, &["-r", "127.0.0.1:d", &here(&place)]);
    assert!(text(&output.stderr).contains("lists nothing"), "{}", text(&output.stderr));
    // Short answers are no lie: the rest is asked for again.
    liar.lie("short");
    let output = run(&liar.server, &["127.0.0.1:f", &here(&place.join("f"))]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(fs::read(place.join("f")).expect("a file"), (0..100).collect::<Vec<u8>>());
    // One that is killed is started again.
    liar.lie("once");
    let output = run(&liar.server, &["127.0.0.1:f", &here(&place.join("f"))]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("connected again"), "{said}");
    // What it says it has taken and has not: 100 bytes are there, whatever was sent.
    let from = liar.server.path("from");
    fs::write(&from, "five.").expect("a file");
    let output = run(&liar.server, &[&here(&from), &there(&PathBuf::from("f"))]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
}

/// A server that does things in order is asked to close a file behind its last WRITE. If that fails the name may be
/// another file's already: closing it once more would close that one.
#[test]
fn what_is_closed_is_not_closed_again() {
    let liar = Liar::start();
    liar.lie("full");
    let from = liar.server.path("from");
    fs::write(&from, "five.").expect("a file");
    let words = ["--retries", "0", &here(&from), &there(&PathBuf::from("f"))];
    let output = run(&liar.server, &words);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("so \\x1b[31m it is"), "{said}");
    let closed = fs::read_to_string(liar.beside(".closed")).expect("what was closed");
    assert_eq!(closed, "file ", "{said}");
}

/// A server that says it hashes and then does not: what an interrupted copy has brought is not believed, and copied
/// anew.
#[test]
fn case_119_hashes_that_are_refused_are_done_without() {
    let liar = Liar::start();
    let place = folder(&liar.server, "place");
    let words = ["--retries", "0", "127.0.0.1:f", &here(&place.join("f"))];
    liar.lie("refuse-large");
    assert_eq!(run(&liar.server, &words).status.code(), Some(1));
    let part = parts(&place).pop().expect("a part file");
    fs::write(&part, vec![b'x'; 36 << 20]).expect("another's bytes");
    liar.lie("unhashed");
    let output = run(&liar.server, &words);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(fs::read(place.join("f")).expect("a file") == vec![0; 40 << 20]);
}
