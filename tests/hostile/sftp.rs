//! The SFTP service before a hostile client.

use tidegate::wire::Message;
use tidegate::wire::channel::{ChannelData, ChannelNumber};
use tidegate::wire::request::RequestBody;

use crate::peer::{Peer, Watch};
use crate::support::Gateway;

const INIT: u8 = 1;
const VERSION: u8 = 2;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const WRITE: u8 = 6;
const SETSTAT: u8 = 9;
const FSETSTAT: u8 = 10;
const OPENDIR: u8 = 11;
const READDIR: u8 = 12;
const REMOVE: u8 = 13;
const MKDIR: u8 = 14;
const RMDIR: u8 = 15;
const REALPATH: u8 = 16;
const STAT: u8 = 17;
const RENAME: u8 = 18;
const READLINK: u8 = 19;
const SYMLINK: u8 = 20;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const EXTENDED: u8 = 200;

const PERMISSION_DENIED: u32 = 3;
const OP_UNSUPPORTED: u32 = 8;

const FOR_READING: [u8; 4] = [0, 0, 0, 1];
/// Reading, writing, and making it if need be.
const FOR_ALL: [u8; 4] = [0, 0, 0, 0x0b];
const NO_ATTRIBUTES: [u8; 4] = [0; 4];

struct Sftp {
    peer: Peer,
    channel: u32,
    stream: Vec<u8>,
}

impl Sftp {
    fn start(gateway: &Gateway) -> Sftp {
        let mut peer = Peer::login(gateway);
        let channel = peer.open_session(0);
        assert!(peer.ask(channel, RequestBody::Subsystem { name: "sftp" }));
        let mut sftp = Sftp { peer, channel, stream: Vec::new() };
        sftp.send(&framed(INIT, &[&3u32.to_be_bytes()]));
        assert_eq!(sftp.hear().expect("an answer")[0], VERSION);
        sftp
    }

    fn send(&mut self, bytes: &[u8]) {
        for data in bytes.chunks(32 << 10) {
            self.peer.say(&ChannelData { recipient: ChannelNumber(self.channel), data });
        }
    }

    /// The next packet; `None` when the session or the connection ends first.
    fn hear(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(head) = self.stream.first_chunk::<4>() {
                let end = 4 + u32::from_be_bytes(*head) as usize;
                if self.stream.len() >= end {
                    let packet = self.stream[4..end].to_vec();
                    self.stream.drain(..end);
                    return Some(packet);
                }
            }
            match self.peer.hear() {
                Ok(message) if message[0] == 94 => {
                    self.stream.extend(ChannelData::parse(&message).expect("whole").data);
                }
                Ok(message) if matches!(message[0], 96 | 97) => return None,
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    fn open(&mut self, path: &[u8], flags: [u8; 4]) -> Vec<u8> {
        self.ask(&request(OPEN, 7, &[&text(path), &flags, &NO_ATTRIBUTES]))
    }

    /// One request and its answer.
    fn ask(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.send(bytes);
        self.hear().expect("an answer")
    }
}

fn framed(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&(body.len() as u32 + 1).to_be_bytes()[..], &[kind], &body].concat()
}

fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

fn request(kind: u8, id: u32, parts: &[&[u8]]) -> Vec<u8> {
    let id = id.to_be_bytes();
    framed(kind, &[&[&id[..]], parts].concat())
}

fn status(answer: &[u8]) -> u32 {
    assert_eq!(answer[0], STATUS, "{answer:?}");
    u32::from_be_bytes([answer[5], answer[6], answer[7], answer[8]])
}

fn handle(answer: &[u8]) -> Option<Vec<u8>> {
    (answer[0] == HANDLE).then(|| answer[9..].to_vec())
}

#[test]
fn case_111_handles() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let mut sftp = Sftp::start(&gateway);
    let mut handles = Vec::new();
    for batch in 0..15u32 {
        let asks: Vec<u8> =
            (0..100).flat_map(|n| request(OPENDIR, batch * 100 + n, &[&text(b"/")])).collect();
        sftp.send(&asks);
        handles.extend((0..100).filter_map(|_| handle(&sftp.hear().expect("an answer"))));
    }
    assert_eq!(handles.len(), 1024);
    assert!(watch.growth() < 16 << 20, "grew by {}", watch.growth());
    let first = handles[0].clone();
    assert_eq!(status(&sftp.ask(&request(CLOSE, 1, &[&text(&first)]))), 0);
    // Stale, closed twice, another's, forged, empty, too long.
    let mut other = Sftp::start(&gateway);
    let mut wrong = vec![first.clone(), vec![], vec![0xff; 4], vec![0xff; 8], vec![0; 256]];
    let mut changed = handles[1].clone();
    changed.iter_mut().for_each(|byte| *byte ^= 0x80);
    wrong.push(changed);
    for bytes in &wrong {
        let offset = [0; 8];
        let length = u32::MAX.to_be_bytes();
        assert_ne!(status(&sftp.ask(&request(CLOSE, 2, &[&text(bytes)]))), 0);
        assert_ne!(status(&sftp.ask(&request(READDIR, 3, &[&text(bytes)]))), 0);
        let read = request(READ, 4, &[&text(bytes), &offset, &length]);
        assert_ne!(status(&sftp.ask(&read)), 0);
    }
    let foreign = other.ask(&request(READDIR, 5, &[&text(&handles[5])]));
    assert_ne!(status(&foreign), 0);
    drop((sftp, other));
    watch.end();
}

/// What another session has open is nothing to copy from or to, whatever its number.
#[test]
fn case_113_copies_are_between_handles_of_their_session() {
    let gateway = Gateway::start(&[]);
    let (source, target) = (gateway.path("source"), gateway.path("target"));
    std::fs::write(&source, b"secret").expect("a file");
    std::fs::write(&target, b"kept").expect("a file");
    let [mut one, mut other] = [(); 2].map(|()| Sftp::start(&gateway));
    let open = |sftp: &mut Sftp, path: &std::path::Path| {
        let path = path.display().to_string();
        text(&handle(&sftp.open(path.as_bytes(), FOR_ALL)).expect("a handle"))
    };
    // Others before them, so that no number is the same in both.
    for _ in 0..3 {
        open(&mut other, &source);
    }
    let (theirs, ours) = (open(&mut other, &source), open(&mut one, &target));
    assert_ne!(theirs, ours);
    let copy = |from: &[u8], to: &[u8]| {
        request(EXTENDED, 1, &[&text(b"copy-data"), from, &[0; 16], to, &[0; 8]])
    };
    for (from, to) in [(&theirs, &ours), (&ours, &theirs)] {
        assert_ne!(status(&one.ask(&copy(from, to))), 0);
    }
    assert_eq!(std::fs::read(&source).expect("it"), b"secret");
    assert_eq!(std::fs::read(&target).expect("it"), b"kept");
    let own = open(&mut one, &source);
    assert_eq!(status(&one.ask(&copy(&own, &ours))), 0, "its own are copied");
    assert_eq!(std::fs::read(&target).expect("it"), b"secret");
}

#[test]
fn case_112_odd_requests() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let mut sftp = Sftp::start(&gateway);
    let unknown = request(EXTENDED, 1, &[&text(b"nobody@example.org"), b"rest"]);
    assert_eq!(status(&sftp.ask(&unknown)), OP_UNSUPPORTED);
    assert_eq!(status(&sftp.ask(&request(99, 2, &[b"what"]))), OP_UNSUPPORTED);
    for path in [vec![b'a'; 64 << 10], vec![b'/'; 64 << 10], b"a\0b".to_vec(), vec![]] {
        let answer = sftp.ask(&request(STAT, 3, &[&text(&path)]));
        assert!(answer[0] != STATUS || status(&answer) != 0, "{} bytes", path.len());
    }
    // A path that claims to be longer than its packet.
    assert_ne!(status(&sftp.ask(&request(STAT, 4, &[&u32::MAX.to_be_bytes(), b"x"]))), 0);
    assert!(handle(&sftp.ask(&request(OPENDIR, 5, &[&text(b"/")]))).is_some(), "all is well");
    drop(sftp);
    // What makes no sense ends the session at most, and nothing else.
    let cases = [
        framed(INIT, &[&3u32.to_be_bytes()]),
        0u32.to_be_bytes().to_vec(),
        u32::MAX.to_be_bytes().to_vec(),
        framed(STAT, &[b"\0"]),
    ];
    for bytes in cases {
        let mut sftp = Sftp::start(&gateway);
        // A request is judged by its first nine bytes.
        sftp.send(&[&bytes[..], &[0; 9]].concat());
        let answer = sftp.hear();
        // A second INIT may be answered like the first.
        if let Some(answer) = answer.filter(|answer| answer[0] != VERSION) {
            assert_ne!(status(&answer), 0, "{bytes:?}");
        }
        sftp.peer.assert_well();
    }
    watch.end();
}

#[test]
fn case_110_offsets_and_lengths_past_every_file() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let path = gateway.path("file").display().to_string();
    std::fs::write(&path, b"0123456789").expect("a file");
    let mut sftp = Sftp::start(&gateway);
    let file = handle(&sftp.open(path.as_bytes(), FOR_ALL)).expect("a handle");
    let read = |offset: u64, length: u32| {
        request(READ, 8, &[&text(&file), &offset.to_be_bytes(), &length.to_be_bytes()])
    };
    let answer = sftp.ask(&read(0, u32::MAX));
    assert_eq!((answer[0], answer.len()), (DATA, 9 + 10), "no more than there is");
    for offset in [10, (1 << 63) - 1, 1 << 63, u64::MAX - 9, u64::MAX] {
        for length in [1, 1 << 31, u32::MAX] {
            assert_ne!(status(&sftp.ask(&read(offset, length))), 0, "{length} at {offset}");
        }
    }
    let write = |offset: u64| {
        request(WRITE, 9, &[&text(&file), &offset.to_be_bytes(), &text(b"0123456789")])
    };
    for offset in [(1 << 63) - 1, 1 << 63, u64::MAX - 9, u64::MAX] {
        assert_ne!(status(&sftp.ask(&write(offset))), 0, "written at {offset}");
    }
    // Many at once, each wanting all there can be.
    let many: Vec<u8> = (0..200).flat_map(|_| read(0, u32::MAX)).collect();
    sftp.send(&many);
    assert!((0..200).all(|_| sftp.hear().expect("an answer").len() == 19));
    assert_eq!(std::fs::read(&path).expect("a file"), b"0123456789");
    // A packet longer than any may be ends the session.
    sftp.send(&[&(300_000u32).to_be_bytes()[..], &[READ], &[0; 20]].concat());
    assert_eq!(sftp.hear(), None);
    sftp.peer.assert_well();
    drop(sftp);
    watch.end();
}

/// Whatever changes something is refused where nothing may be changed, by either spelling.
#[test]
fn case_114_read_only_refuses_every_change() {
    let gateway = Gateway::start(&["Subsystem sftp internal-sftp -R"]);
    let watch = Watch::begin(&gateway);
    let path = gateway.path("file").display().to_string();
    std::fs::write(&path, b"kept").expect("a file");
    let mut sftp = Sftp::start(&gateway);
    let path = text(path.as_bytes());
    let other = text(gateway.path("other").display().to_string().as_bytes());
    let file = sftp.ask(&request(OPEN, 1, &[&path, &FOR_READING, &NO_ATTRIBUTES]));
    let file = text(&handle(&file).expect("reading is allowed"));
    for flags in [0x02u32, 0x0a, 0x1a, 0x06, 0x01 | 0x10, 0x01 | 0x08, 0x3b] {
        let open = request(OPEN, 2, &[&path, &flags.to_be_bytes(), &NO_ATTRIBUTES]);
        assert_eq!(status(&sftp.ask(&open)), PERMISSION_DENIED, "flags {flags:#x}");
    }
    let (size, offset) = ([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], [0; 8]);
    let mut changes: Vec<(u8, Vec<&[u8]>)> = vec![
        (WRITE, vec![&file, &offset, &other]),
        (SETSTAT, vec![&path, &size]),
        (FSETSTAT, vec![&file, &size]),
        (REMOVE, vec![&path]),
        (MKDIR, vec![&other, &NO_ATTRIBUTES]),
        (RMDIR, vec![&other]),
        (RENAME, vec![&path, &other]),
        (SYMLINK, vec![&path, &other]),
    ];
    let names: Vec<Vec<u8>> = [
        "posix-rename@openssh.com",
        "hardlink@openssh.com",
        "lsetstat@openssh.com",
        "fsync@openssh.com",
        "copy-data",
    ]
    .map(|name| text(name.as_bytes()))
    .to_vec();
    changes.push((EXTENDED, vec![&names[0], &path, &other]));
    changes.push((EXTENDED, vec![&names[1], &path, &other]));
    changes.push((EXTENDED, vec![&names[2], &path, &size]));
    changes.push((EXTENDED, vec![&names[3], &file]));
    changes.push((EXTENDED, vec![&names[4], &file, &offset, &offset, &file, &offset]));
    for (kind, parts) in &changes {
        let code = status(&sftp.ask(&request(*kind, 3, parts)));
        assert!(matches!(code, PERMISSION_DENIED | OP_UNSUPPORTED), "{kind}: {code} {parts:?}");
    }
    assert_eq!(std::fs::read(gateway.path("file")).expect("a file"), b"kept");
    assert!(!gateway.path("other").exists());
    drop(sftp);
    watch.end();
}

/// What blocks, never ends, or is the gateway itself: an answer comes at once, whatever it is, and
/// others on the same core go on.
#[test]
fn case_115_files_that_are_none() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let pipe = gateway.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let pipe = pipe.display().to_string();
    let mut sftp = Sftp::start(&gateway);
    let (all, reading) = (FOR_ALL, FOR_READING);
    for (path, flags) in [
        (&*pipe, reading),
        (&pipe, all),
        ("/proc/self/mem", reading),
        ("/proc/self/mem", all),
        ("/proc/thread-self/mem", reading),
        ("/dev/tty", reading),
        ("/proc/self/fd/0/x", reading),
    ] {
        assert_ne!(status(&sftp.open(path.as_bytes(), flags)), 0, "{path}");
    }
    // A length that no disk has.
    let path = gateway.path("sparse").display().to_string();
    let file = handle(&sftp.open(path.as_bytes(), FOR_ALL)).expect("a handle");
    for size in [i64::MAX as u64, 1 << 63, u64::MAX] {
        let attributes = [&[0, 0, 0, 1][..], &size.to_be_bytes()].concat();
        let answer = sftp.ask(&request(FSETSTAT, 1, &[&text(&file), &attributes]));
        assert!(size == i64::MAX as u64 || status(&answer) != 0, "{size}");
        let read = request(READ, 2, &[&text(&file), &[0; 8], &[0, 4, 0, 0]]);
        let answer = sftp.ask(&read);
        assert!(answer[0] == DATA || status(&answer) != 0);
    }
    // What has no end is read as far as it was asked for.
    let zero = handle(&sftp.open(b"/dev/zero", reading)).expect("a handle");
    let answer = sftp.ask(&request(READ, 3, &[&text(&zero), &[0; 8], &u32::MAX.to_be_bytes()]));
    assert!(answer.len() <= 256 << 10, "{}", answer.len());
    drop(sftp);
    watch.end();
}

/// A zero byte ends a path for the kernel and not for the client: no operation takes one.
#[test]
fn case_112_paths_with_a_zero_byte() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let path = gateway.path("authorized_keys").display().to_string();
    let mut sftp = Sftp::start(&gateway);
    let (plain, cut) = (text(path.as_bytes()), text(format!("{path}\0.txt").as_bytes()));
    let none = NO_ATTRIBUTES;
    let rows: [(u8, Vec<&[u8]>); 12] = [
        (OPEN, vec![&cut, &FOR_READING, &none]),
        (SETSTAT, vec![&cut, &none]),
        (OPENDIR, vec![&cut]),
        (REMOVE, vec![&cut]),
        (MKDIR, vec![&cut, &none]),
        (RMDIR, vec![&cut]),
        (REALPATH, vec![&cut]),
        (STAT, vec![&cut]),
        (RENAME, vec![&cut, &plain]),
        (RENAME, vec![&plain, &cut]),
        (READLINK, vec![&cut]),
        (SYMLINK, vec![&plain, &cut]),
    ];
    for (kind, parts) in rows {
        assert_ne!(status(&sftp.ask(&request(kind, 1, &parts))), 0, "{kind}");
    }
    for name in [
        "posix-rename@openssh.com",
        "hardlink@openssh.com",
        "statvfs@openssh.com",
        "expand-path@openssh.com",
        "lsetstat@openssh.com",
    ] {
        let answer = sftp.ask(&request(EXTENDED, 2, &[&text(name.as_bytes()), &cut, &cut]));
        assert_ne!(status(&answer), 0, "{name}");
    }
    drop(sftp);
    assert!(gateway.path("authorized_keys").exists());
    watch.end();
}
