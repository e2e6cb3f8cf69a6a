//! The SFTP service before a hostile client.

use tidegate::wire::Message;
use tidegate::wire::channel::{ChannelData, ChannelNumber};
use tidegate::wire::request::RequestBody;

use crate::peer::{Peer, Watch};
use crate::support::Gateway;

const INIT: u8 = 1;
const VERSION: u8 = 2;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const OPENDIR: u8 = 11;
const READDIR: u8 = 12;
const STAT: u8 = 17;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const EXTENDED: u8 = 200;

const OP_UNSUPPORTED: u32 = 8;

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
