//! Too much, too slowly, or for ever.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidegate::wire::channel::{
    ChannelData, ChannelNumber, ChannelWindowAdjust, GlobalBody, GlobalRequest,
};
use tidegate::wire::transport::Ignore;
use tidegate::wire::{Message, number};

use crate::peer::{Manner, PATIENCE, PLAIN, Peer, Watch, encode, open};
use crate::support::{Gateway, wait_for};
use crate::{IDENT, good_kexinit, packet};

fn global_request() -> Vec<u8> {
    let request = GlobalBody::Other { name: "flood@example.org", rest: b"" };
    encode(&GlobalRequest { want_reply: true, request })
}

/// The peer's half of a rekey never comes, and everything else does.
#[test]
fn case_33_a_rekey_without_end() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let mut peer = Peer::login(&gateway);
    let before = watch.growth();
    peer.send(&good_kexinit());
    let ignore = encode(&Ignore { data: &[0; 16 << 10] });
    assert!(peer.flood(&ignore, 1024), "IGNORE is legal here");
    let grown = watch.growth().saturating_sub(before);
    assert!(grown < 2 << 20, "grew by {grown}");
    gateway.assert_alive();
    // What calls for an answer is not legal, so no answers pile up.
    peer.send(&[number::PING, 0, 0, 0, 0]);
    let mut rest = Vec::new();
    peer.stream.read_to_end(&mut rest).expect("an end without a reset");
    assert!(watch.last_line(peer.port()).contains("during a key exchange"));
    watch.end();
}

#[test]
fn case_124_half_open_connections() {
    let gateway = Gateway::start(&["LoginGraceTime 3"]);
    let watch = Watch::begin(&gateway);
    let init = packet(&good_kexinit());
    let stages: [&[u8]; 4] =
        [b"", b"SSH-2.0-slow", IDENT, &[IDENT, &init[..init.len() / 2]].concat()];
    let mut streams: Vec<TcpStream> = Vec::new();
    for n in 0..200 {
        let mut stream = gateway.connect().expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        stream.write_all(stages[n % 4]).expect("written");
        streams.push(stream);
    }
    let peers: Vec<Peer> = (0..8)
        .map(|n| {
            let mut peer = Peer::connect(&gateway);
            if n < 4 {
                peer.ask_service();
            }
            peer
        })
        .collect();
    gateway.assert_alive();
    assert!(watch.growth() < 200 * (32 << 10), "grew by {}", watch.growth());
    for mut stream in streams {
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest);
        assert!(end.is_ok(), "not gone: {end:?}");
    }
    for mut peer in peers {
        peer.assert_dropped(11, "a login that takes too long");
        assert!(watch.last_line(peer.port()).contains("the login took too long"));
    }
    watch.end();
}

/// A peer that reads nothing is read from no longer.
#[test]
fn case_127_a_peer_that_never_reads() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let messages =
        [global_request(), encode(&open(0, 1 << 20, 0)), vec![number::PING, 0, 0, 0, 1, b'p']];
    for message in messages {
        let mut peer = Peer::login(&gateway);
        let before = watch.growth();
        peer.stream.set_write_timeout(Some(Duration::from_secs(1))).expect("a time limit");
        let times = (30 << 20) / peer.sealed(&message).len();
        let mut peer = Peer::login(&gateway);
        peer.stream.set_write_timeout(Some(Duration::from_secs(1))).expect("a time limit");
        let swallowed = peer.flood(&message, times);
        let grown = watch.growth().saturating_sub(before);
        assert!(!swallowed, "message {}: 30 MB were read", message[0]);
        assert!(grown < 4 << 20, "message {}: grew by {grown}", message[0]);
    }
    watch.end();
}

/// A neighbour on the same gateway has its echo all the while.
#[test]
fn case_128_floods_beside_an_honest_session() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for kind in 0..4 {
            let (gateway, over) = (&gateway, &over);
            scope.spawn(move || flood(gateway, kind, over));
        }
        // Each within the time that a peer waits for an answer.
        let slowest = echo(&gateway, 15);
        println!("the slowest echo took {slowest:?}");
        over.store(true, Ordering::Relaxed);
    });
    watch.end();
}

fn flood(gateway: &Gateway, kind: u32, over: &AtomicBool) {
    let mut peer = Peer::login(gateway);
    let channel = peer.exec(0, "cat > /dev/null");
    let recipient = ChannelNumber(channel);
    let message = match kind {
        0 => encode(&Ignore { data: b"" }),
        1 => encode(&ChannelData { recipient, data: b"" }),
        2 => encode(&ChannelData { recipient, data: b"x" }),
        _ => encode(&ChannelWindowAdjust { recipient, bytes: 1 }),
    };
    while !over.load(Ordering::Relaxed) {
        assert!(peer.flood(&message, 500));
    }
    // What is still on its way need not be read.
    reset(peer.stream);
}

#[allow(clippy::disallowed_methods, reason = "tests measure on the real clock")]
fn echo(gateway: &Gateway, times: u32) -> Duration {
    let mut peer = Peer::login(gateway);
    let channel = peer.exec(0, "exec cat");
    let mut slowest = Duration::ZERO;
    for _ in 0..times {
        let begun = std::time::Instant::now();
        peer.say(&ChannelData { recipient: ChannelNumber(channel), data: b"hello" });
        loop {
            let heard = peer.hear().expect("an echo");
            if heard[0] == number::CHANNEL_DATA {
                let data = ChannelData::parse(&heard).expect("whole").data;
                assert_eq!(data, b"hello");
                break;
            }
        }
        slowest = slowest.max(begun.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
    slowest
}

/// Resets at all times, by a peer with SO_LINGER 0.
#[test]
fn resets_leave_nothing() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    for round in 0..40 {
        let peer = if round % 2 == 0 { Peer::connect(&gateway) } else { Peer::login(&gateway) };
        let mut peer = peer;
        if round % 4 == 3 {
            peer.exec(0, "cat /dev/zero");
        }
        reset(peer.stream);
        let mut stream = gateway.connect().expect("a connection");
        let _ = stream.write_all(&IDENT[..round % IDENT.len()]);
        reset(stream);
    }
    watch.end();
}

fn reset(stream: TcpStream) {
    use nix::sys::socket::{setsockopt, sockopt::Linger};
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, Linger, &linger).expect("SO_LINGER");
}

/// Slots of unauthenticated connections come back exactly once: after many storms the limit is
/// where it was.
#[test]
fn case_125_startups_are_given_back() {
    let gateway = Gateway::start(&["MaxStartups 20:100:20"]);
    let watch = Watch::begin(&gateway);
    for round in 0..5 {
        let held: Vec<TcpStream> = (0..40).filter_map(|_| greeted(gateway.address())).collect();
        assert_eq!(held.len(), 20, "round {round}");
        drop(held);
        wait_for("the slots to come back", || greeted(gateway.address()).is_some());
        watch.end();
    }
}

/// A connection that got an identification.
fn greeted(address: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut head = [0; 4];
    (stream.read_exact(&mut head).is_ok() && head == *b"SSH-").then_some(stream)
}

/// What comes instead of an identification.
fn answer(gateway: &Gateway) -> String {
    let mut stream = gateway.connect().expect("a connection");
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}

#[test]
fn a_source_that_does_not_log_in_is_kept_out() {
    // The harness has looked once whether the gateway listens.
    let gateway = Gateway::start(&["PerSourcePenalties noauth:60 min:100"]);
    drop(greeted(gateway.address()).expect("one more is let in"));
    gateway.tells("Keeping 127.0.0.1 out for 1");
    assert_eq!(answer(&gateway), "Not allowed at this time\r\n");
    gateway.tells("it did not try to log in");
}

#[test]
fn one_source_holds_so_many_startups_and_no_more() {
    let gateway = Gateway::start(&["PerSourceMaxStartups 3"]);
    let mut held = Vec::new();
    wait_for("three at a time", || {
        held.extend(greeted(gateway.address()));
        held.len() == 3
    });
    assert_eq!(answer(&gateway), "Exceeded MaxStartups\r\n");
    held.pop();
    wait_for("a free place", || greeted(gateway.address()).is_some());
}

/// Sessions that are read a little at a time hold little, and a transfer beside them goes on.
#[test]
fn r7_slow_readers_beside_a_transfer() {
    const READERS: u64 = 60;
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let mut readers: Vec<Peer> = (0..READERS)
        .map(|_| {
            let mut peer = Peer::login(&gateway);
            let channel = peer.exec(0, "exec cat /dev/zero");
            // As much as fills what lies between us.
            peer.say(&ChannelWindowAdjust { recipient: ChannelNumber(channel), bytes: 64 << 20 });
            peer
        })
        .collect();
    let moved = std::thread::scope(|scope| {
        let transfer = scope.spawn(|| {
            let mut command = gateway.ssh(&[], &["head -c 67108864 /dev/zero"]);
            crate::support::run_ok(&mut command).stdout.len()
        });
        while !transfer.is_finished() {
            for peer in &mut readers {
                let mut sip = [0; 1024];
                assert!(peer.stream.read(&mut sip).expect("something to read") > 0);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        transfer.join().expect("the transfer")
    });
    assert_eq!(moved, 64 << 20);
    // Beside the pool that all share, which is bounded by itself.
    let grown = watch.growth();
    assert!(grown < READERS * (300 << 10) + (64 << 20), "grew by {grown}");
    readers.into_iter().for_each(|peer| reset(peer.stream));
    watch.end();
}

/// More clients than there are descriptors: whoever is served already stays so, nothing spins, and
/// the rest are served once there are some.
#[test]
fn r9_more_clients_than_descriptors() {
    const LIMIT: usize = 80;
    let gateway = Gateway::start_with(&["MaxStartups 1000"], |command| {
        use std::os::unix::process::CommandExt;
        let most = nix::libc::rlimit { rlim_cur: LIMIT as u64, rlim_max: LIMIT as u64 };
        // SAFETY: between fork and exec one system call is made, on memory prepared before.
        unsafe {
            command.pre_exec(move || {
                let done = nix::libc::setrlimit(nix::libc::RLIMIT_NOFILE, &raw const most);
                if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
            });
        }
    });
    let mut live = Peer::login(&gateway);
    let channel = live.exec(0, "exec cat");
    // Whoever accepts.
    let accepts = gateway.parts("edge").first().copied().unwrap_or(gateway.child.id());
    let descriptors =
        || std::fs::read_dir(format!("/proc/{accepts}/fd")).expect("descriptors").count();
    let before = descriptors();
    let crowd: Vec<TcpStream> =
        (before..200).map(|_| gateway.connect().expect("the kernel takes it")).collect();
    wait_for("no descriptor to be left", || descriptors() >= LIMIT);
    let used = cpu_ticks(accepts);
    for _ in 0..10 {
        live.say(&ChannelData { recipient: ChannelNumber(channel), data: b"live" });
        while live.hear().expect("an echo")[0] != number::CHANNEL_DATA {}
        std::thread::sleep(Duration::from_millis(100));
    }
    // A second went by; an attempt to accept is made twice in it.
    let used = cpu_ticks(accepts) - used;
    assert!(used < 50, "{used} of 100 ticks of a second were spent");
    drop(crowd);
    wait_for("descriptors", || descriptors() < 60);
    gateway.assert_alive();
    live.assert_well();
}

/// CPU time that a process has used, in hundredths of a second.
fn cpu_ticks(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(path).expect("its state");
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum()
}

/// A control group that limits memory, with version 1 or 2 of the interface.
struct MemoryLimit {
    folder: PathBuf,
    version2: bool,
}

impl MemoryLimit {
    /// `None`: this machine lets nobody make one.
    fn new(bytes: u64) -> Option<MemoryLimit> {
        let version2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let base = if version2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/memory" };
        let folder = Path::new(base).join(format!("tidegate-test-{}", std::process::id()));
        std::fs::create_dir(&folder).ok()?;
        let group = MemoryLimit { folder, version2 };
        let name = if version2 { "memory.max" } else { "memory.limit_in_bytes" };
        std::fs::write(group.folder.join(name), bytes.to_string()).ok().map(|()| group)
    }

    /// Times that something had to be killed for want of memory.
    fn kills(&self) -> u64 {
        let name = if self.version2 { "memory.events" } else { "memory.oom_control" };
        let text = std::fs::read_to_string(self.folder.join(name)).expect("its events");
        let line = text.lines().find(|line| line.starts_with("oom_kill ")).expect("a count");
        line.trim_start_matches("oom_kill ").parse().expect("a number")
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        wait_for("the control group to be empty", || std::fs::remove_dir(&self.folder).is_ok());
    }
}

/// Slow logins, peers that never read and compressed bombs at once, in little memory.
#[test]
fn r25_little_memory() {
    let Some(limit) = MemoryLimit::new(256 << 20) else {
        eprintln!("not run: no control group for memory can be made here");
        return;
    };
    let members = limit.folder.join("cgroup.procs");
    let gateway = Gateway::start_with(&["Compression yes", "LoginGraceTime 5"], |command| {
        use std::os::unix::process::CommandExt;
        let members = std::fs::OpenOptions::new().write(true).open(&members).expect("its list");
        // SAFETY: between fork and exec one descriptor is written to.
        unsafe { command.pre_exec(move || (&members).write_all(b"0")) };
    });
    let slow: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = gateway.connect().expect("a connection");
            stream.write_all(IDENT).expect("room");
            stream
        })
        .collect();
    let manner = Manner { compresses: true, ..PLAIN };
    for _ in 0..2 {
        // One that is never read from, and one that says what becomes far more.
        let mut deaf = Peer::login(&gateway);
        deaf.stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a time limit");
        let message = global_request();
        assert!(!deaf.flood(&message, (30 << 20) / message.len()), "30 MB were read");
        let mut bomber = Peer::connect_as(&gateway, manner);
        bomber.log_in(&gateway);
        let mut bomb = vec![0; 290_000];
        bomb[0] = number::IGNORE;
        bomb[1..5].copy_from_slice(&(290_000_u32 - 5).to_be_bytes());
        let travelling = bomber.sealed(&bomb);
        bomber.write(&travelling);
        gateway.assert_alive();
    }
    assert_eq!(limit.kills(), 0);
    drop(slow);
    gateway.assert_alive();
    drop(gateway);
}
