//! The least that a program can do in a server's place, and at both ends of a copy: SSH's packets of
//! 32 KiB under AES-128-GCM, one thread, blocking calls, and nothing that is asked for, granted,
//! answered or looked at besides.
//!
//!     floor serve PORT
//!     floor up|down ADDRESS MIB [CALL-KIB]             to a socket of ours behind the server, or from it
//!     floor get|put ADDRESS SOURCE TARGET [CALL-KIB]   a file, from the server or to it
//!     floor pace                                       until it is ended: see below
//!
//! CALL-KIB is the data that a call moves at most (256, as in Tidegate; multiples of 32). The key is the
//! same for everybody and `serve` reads and writes what it is told to: for measurements on one machine.
//!
//! `pace` tells how fast its CPU is while others are measured: the microseconds of CPU time that the same
//! arithmetic takes, some forty times a second. A virtual CPU that shares a core with one of another machine
//! takes half as long again for seconds on end, and nothing else says so.

use std::fs::File;
use std::hint::black_box;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use nix::sys::uio::{preadv, pwritev};
use nix::time::{ClockId, clock_gettime};

/// Of a packet, as OpenSSH sends them.
const DATA: usize = 32 * 1024;
/// Length, padding length, SSH_MSG_CHANNEL_DATA, channel, length of the data.
const HEAD: usize = 4 + 1 + 1 + 4 + 4;
const PADDING: usize = 6;
const TAG: usize = 16;
const PACKET: usize = HEAD + DATA + PADDING + TAG;
/// Of a lease, where nothing else is asked for.
const PACKETS: usize = 8;
/// Bytes of what a client asks for, filled up with line ends.
const ORDER: usize = 1024;
/// What whoever connects hears first, as from an SSH server.
const HELLO: &[u8] = b"floor\n";
/// Rounds of arithmetic, some 0.4 ms in all, and the rest between two of them: together 2 % of the CPU.
const PACE_ROUNDS: u64 = 200_000;
const PACE_REST: Duration = Duration::from_millis(25);

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().ok_or_else(|| anyhow!("{what} is missing"));
    let mode = next("serve, up, down, get, put or pace")?;
    if mode == "pace" {
        return pace();
    }
    if mode == "serve" {
        let port = next("PORT")?.parse().context("PORT")?;
        for socket in TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.incoming() {
            if let Err(error) = serve(socket?) {
                eprintln!("floor: {error:#}");
            }
        }
        return Ok(());
    }
    let mut socket = TcpStream::connect(next("ADDRESS")?)?;
    socket.set_nodelay(true)?;
    socket.read_exact(&mut [0; HELLO.len()])?;
    let what = next("MIB or SOURCE")?;
    let target = if mode == "get" || mode == "put" { next("TARGET")? } else { String::new() };
    let packets = match arguments.next() {
        Some(text) => text.parse::<usize>().context("CALL-KIB")?.div_ceil(DATA / 1024),
        None => PACKETS,
    };
    ensure!(packets > 0, "a call has to move something");
    match mode.as_str() {
        "get" => {
            let bytes = std::fs::metadata(&what)?.len() as usize;
            order(&mut socket, &[&mode, &what, &bytes.to_string(), &packets.to_string()])?;
            let file = File::create(&target)?;
            let pass = |place, data: &mut [IoSlice<'_>]| write_file(&file, place, data);
            Lease::new(packets)?.take(&mut socket, bytes, pass)?;
        }
        "put" => {
            let bytes = std::fs::metadata(&what)?.len() as usize;
            order(&mut socket, &[&mode, &target, &bytes.to_string(), &packets.to_string()])?;
            let file = File::open(&what)?;
            let fill = |place, room: &mut [IoSliceMut<'_>]| read_file(&file, place, room);
            Lease::new(packets)?.give(&mut socket, bytes, fill)?;
        }
        "up" | "down" => {
            let bytes = what.parse::<usize>().context("MIB")? << 20;
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let port = listener.local_addr()?.port().to_string();
            order(&mut socket, &[&mode, &port, &bytes.to_string(), &packets.to_string()])?;
            let up = mode == "up";
            let behind = move || behind(&listener, bytes, up);
            let behind = thread::Builder::new().name("behind".into()).spawn(behind)?;
            // The client's own calls are the same whatever the server's are.
            let mut lease = Lease::new(PACKETS)?;
            if up {
                lease.give(&mut socket, bytes, |_, _| Ok(()))?;
            } else {
                lease.take(&mut socket, bytes, |_, _| Ok(()))?;
            }
            let seen = behind.join().expect("no panic")?;
            ensure!(seen == bytes, "{seen} of {bytes} bytes were seen behind the server");
        }
        _ => bail!("{mode} is neither serve, up, down, get nor put"),
    }
    ensure!(socket.read(&mut [0])? == 0, "more came than was asked for");
    Ok(())
}

fn pace() -> Result<()> {
    loop {
        let before = Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?);
        // Several chains that are independent: what shares the core takes places in which they could go on.
        let mut sums = [1u64, 2, 3, 4, 5, 6];
        for n in 0..PACE_ROUNDS {
            for at in 0..sums.len() {
                let next = sums[(at + 1) % sums.len()] ^ n;
                sums[at] = sums[at].wrapping_add(next);
                sums[at] ^= sums[at] >> 3;
            }
        }
        black_box(sums);
        let after = Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?);
        writeln!(std::io::stdout(), "{}", (after - before).as_micros())?;
        thread::sleep(PACE_REST);
    }
}

/// What the server is to do.
fn order(socket: &mut TcpStream, words: &[&str]) -> Result<()> {
    let mut text = words.join("\n").into_bytes();
    ensure!(text.len() < ORDER, "too long");
    text.resize(ORDER, b'\n');
    Ok(socket.write_all(&text)?)
}

fn serve(mut socket: TcpStream) -> Result<()> {
    socket.set_nodelay(true)?;
    socket.write_all(HELLO)?;
    let mut text = [0; ORDER];
    socket.read_exact(&mut text)?;
    let words: Vec<&str> = std::str::from_utf8(&text)?.split('\n').collect();
    let [mode, what, bytes, packets, ..] = words[..] else { bail!("no order") };
    let (bytes, mut lease) = (bytes.parse()?, Lease::new(packets.parse()?)?);
    match mode {
        "get" => {
            let file = File::open(what)?;
            lease.give(&mut socket, bytes, |place, room| read_file(&file, place, room))
        }
        "put" => {
            let file = File::create(what)?;
            lease.take(&mut socket, bytes, |place, data| write_file(&file, place, data))
        }
        _ => {
            let mut target = TcpStream::connect((Ipv4Addr::LOCALHOST, what.parse()?))?;
            target.set_nodelay(true)?;
            if mode == "up" {
                lease.take(&mut socket, bytes, |_, data| write_all(&mut target, data))
            } else {
                lease.give(&mut socket, bytes, |_, room| read_all(&mut target, room))
            }
        }
    }
}

/// The socket behind the server, as in perf/load.rs.
fn behind(listener: &TcpListener, bytes: usize, up: bool) -> Result<usize> {
    let (mut socket, _) = listener.accept()?;
    let (mut room, mut moved) = (vec![0; 256 * 1024], 0);
    while !up && moved < bytes {
        socket.write_all(&room)?;
        moved += room.len();
    }
    socket.shutdown(Shutdown::Write)?;
    loop {
        match socket.read(&mut room)? {
            0 => return Ok(moved),
            got => moved += got,
        }
    }
}

/// Packets that lie back to back, and the key that both ends have.
struct Lease {
    key: LessSafeKey,
    packets: Vec<u8>,
    counter: u64,
}

impl Lease {
    fn new(packets: usize) -> Result<Lease> {
        let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).map_err(|_| anyhow!("the key"))?;
        let packets = vec![0; packets * PACKET];
        Ok(Lease { key: LessSafeKey::new(key), packets, counter: 0 })
    }

    /// Fills, seals and sends a lease at a time.
    fn give(
        &mut self,
        socket: &mut TcpStream,
        bytes: usize,
        mut fill: impl FnMut(usize, &mut [IoSliceMut<'_>]) -> Result<()>,
    ) -> Result<()> {
        let mut place = 0;
        while place < bytes {
            let count = ((bytes - place) / DATA).min(self.packets.len() / PACKET);
            let packets = &mut self.packets[..count * PACKET];
            let rooms =
                packets.chunks_mut(PACKET).map(|one| IoSliceMut::new(&mut one[HEAD..HEAD + DATA]));
            fill(place, &mut rooms.collect::<Vec<_>>())?;
            for packet in packets.chunks_mut(PACKET) {
                let (head, rest) = packet.split_at_mut(4);
                head.copy_from_slice(&((PACKET - 4 - TAG) as u32).to_be_bytes());
                rest[0] = PADDING as u8;
                let (body, tag) = rest.split_at_mut(PACKET - 4 - TAG);
                let nonce = nonce(&mut self.counter);
                let sealed =
                    self.key.seal_in_place_scatter(nonce, Aad::from(&*head), body, &[], tag);
                sealed.map_err(|_| anyhow!("not sealed"))?;
            }
            socket.write_all(packets)?;
            place += count * DATA;
        }
        Ok(())
    }

    /// Receives, opens and hands on all whole packets that are there.
    fn take(
        &mut self,
        socket: &mut TcpStream,
        bytes: usize,
        mut pass: impl FnMut(usize, &mut [IoSlice<'_>]) -> Result<()>,
    ) -> Result<()> {
        let (mut place, mut begin, mut end) = (0, 0, 0);
        while place < bytes {
            let most = self.packets.len().min((bytes - place) / DATA * PACKET + begin);
            let got = socket.read(&mut self.packets[end..most])?;
            ensure!(got > 0, "it ended early");
            end += got;
            let whole = (end - begin) / PACKET;
            if whole == 0 {
                continue;
            }
            let there = &mut self.packets[begin..begin + whole * PACKET];
            for packet in there.chunks_mut(PACKET) {
                let (head, rest) = packet.split_at_mut(4);
                ensure!(*head == ((PACKET - 4 - TAG) as u32).to_be_bytes(), "a length");
                let (body, tag) = rest.split_at_mut(PACKET - 4 - TAG);
                let nonce = nonce(&mut self.counter);
                let opened =
                    self.key.open_in_place_separate_tag(nonce, Aad::from(&*head), tag, body);
                opened.map_err(|_| anyhow!("a tag"))?;
            }
            let data = there.chunks(PACKET).map(|one| IoSlice::new(&one[HEAD..HEAD + DATA]));
            pass(place, &mut data.collect::<Vec<_>>())?;
            place += whole * DATA;
            begin += whole * PACKET;
            if begin == end {
                (begin, end) = (0, 0);
            }
        }
        Ok(())
    }
}

fn nonce(counter: &mut u64) -> Nonce {
    *counter += 1;
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn read_file(file: &File, place: usize, room: &mut [IoSliceMut<'_>]) -> Result<()> {
    let wanted: usize = room.iter().map(|one| one.len()).sum();
    ensure!(preadv(file.as_fd(), room, place as i64)? == wanted, "the file is shorter");
    Ok(())
}

fn write_file(file: &File, place: usize, data: &mut [IoSlice<'_>]) -> Result<()> {
    let wanted: usize = data.iter().map(|one| one.len()).sum();
    ensure!(pwritev(file.as_fd(), data, place as i64)? == wanted, "the file took less");
    Ok(())
}

fn write_all(socket: &mut TcpStream, mut data: &mut [IoSlice<'_>]) -> Result<()> {
    while !data.is_empty() {
        let sent = socket.write_vectored(data)?;
        IoSlice::advance_slices(&mut data, sent);
    }
    Ok(())
}

fn read_all(socket: &mut TcpStream, mut room: &mut [IoSliceMut<'_>]) -> Result<()> {
    while !room.is_empty() {
        let got = socket.read_vectored(room)?;
        ensure!(got > 0, "it ended early");
        IoSliceMut::advance_slices(&mut room, got);
    }
    Ok(())
}
