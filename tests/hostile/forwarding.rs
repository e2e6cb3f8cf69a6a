//! What clients ask to have forwarded.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;

use tidegate::limits::{CHANNEL_PACKET_BYTES_MAX, WINDOW_BYTES};
use tidegate::wire::channel::{
    ChannelClose, ChannelData, ChannelNumber, ChannelOpen, ChannelOpenConfirmation,
    ChannelOpenFailure, GlobalBody, GlobalRequest, OpenKind, RequestSuccess, open_failure,
};
use tidegate::wire::{Message, number};

use crate::peer::{Peer, Watch};
use crate::support::{Gateway, free_port, wait_for};

/// The reason why a connection to there is not made.
fn refusal(peer: &mut Peer, host: &str, port: u32) -> u32 {
    let kind = OpenKind::DirectTcpip { host, port, origin_host: "127.0.0.1", origin_port: 1 };
    let (window_bytes, packet_bytes_max) = (1 << 20, 1 << 15);
    let sender = ChannelNumber(7);
    peer.say(&ChannelOpen { sender, window_bytes, packet_bytes_max, kind });
    let answer = peer.hear().expect("an answer");
    ChannelOpenFailure::parse(&answer).unwrap_or_else(|_| panic!("{host:?} {port}")).reason
}

/// Whether a global request is granted, and the port it answers.
fn granted(peer: &mut Peer, request: GlobalBody<'_>) -> Option<u32> {
    peer.say(&GlobalRequest { want_reply: true, request });
    loop {
        let answer = peer.hear().expect("an answer");
        match answer[0] {
            number::REQUEST_FAILURE => return None,
            number::REQUEST_SUCCESS => {
                let success = RequestSuccess::parse(&answer).expect("an answer");
                return Some(success.rest.try_into().map_or(0, u32::from_be_bytes));
            }
            // Whoever looks whether it listens is passed on.
            _ => {}
        }
    }
}

fn listens(port: u32) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port as u16)).is_ok()
}

#[test]
fn case_96_targets_that_are_none() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let mut peer = Peer::login(&gateway);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    let port = u32::from(listener.local_addr().expect("its address").port());
    // What is cut to sixteen bits would reach the listener.
    for wrapped in [65_536 + port, (1 << 31) + port, u32::MAX] {
        let reason = refusal(&mut peer, "127.0.0.1", wrapped);
        assert_eq!(reason, open_failure::ADMINISTRATIVELY_PROHIBITED, "{wrapped}");
    }
    let long = "a".repeat(255);
    let labels = format!("{}.example", "b".repeat(64));
    for (host, port) in [
        ("127.0.0.1", 0),
        ("", port),
        ("127.0.0.1\0.example", port),
        ("127.0.0.1 ", port),
        ("local host", port),
        ("127.0.0.1\n", port),
        (&*long, port),
        (&*labels, port),
    ] {
        assert_eq!(refusal(&mut peer, host, port), open_failure::CONNECT_FAILED, "{host:?} {port}");
    }
    peer.assert_well();
    listener.set_nonblocking(true).expect("an option");
    assert!(listener.accept().is_err(), "something got through");
    drop(peer);
    watch.end();
}

/// And listening is over when the connection is; SECURITY case 100.
#[test]
fn cases_97_100_listening_at_places_that_are_none_or_anothers() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let mut peer = Peer::login(&gateway);
    let address = "127.0.0.1";
    let listen = |port| GlobalBody::TcpipForward { address, port };
    let cancel = |port| GlobalBody::CancelTcpipForward { address, port };
    let free = u32::from(free_port());
    for port in [70_000, 65_536, 65_536 + free, u32::MAX] {
        assert_eq!(granted(&mut peer, listen(port)), None, "{port}");
    }
    assert!(!listens(free) && !listens(70_000 - 65_536));

    let port = granted(&mut peer, listen(0)).expect("a port");
    assert!(port > 0 && listens(port));
    // Another connection cannot end it, nor a name that was not asked for.
    let mut other = Peer::login(&gateway);
    assert_eq!(granted(&mut other, cancel(port)), None);
    let elsewhere = GlobalBody::CancelTcpipForward { address: "localhost", port };
    assert_eq!(granted(&mut peer, elsewhere), None);
    assert_eq!(granted(&mut peer, cancel(port + 65_536)), None);
    assert!(listens(port));
    drop(peer);
    wait_for("it to listen no more", || !listens(port));
    other.assert_well();
    drop(other);
    watch.end();
}

/// What a closed channel brought is written for a while. Where nobody takes it, whoever opens, fills and closes
/// without end is granted less and less meanwhile: it comes to no more than open channels may bring.
#[test]
fn case_86_channels_that_are_closed_full_make_the_next_ones_small() {
    let gateway = Gateway::start(&[]);
    let watch = Watch::begin(&gateway);
    let mut peer = Peer::login(&gateway);
    let path = gateway.path("nobody-reads");
    // Nothing is ever accepted, and what waits for that is taken along at the end.
    let listener = UnixListener::bind(&path).expect("a listener");
    let path = path.to_str().expect("a plain path").as_bytes().to_vec();
    let data = vec![b'x'; CHANNEL_PACKET_BYTES_MAX as usize];
    let mut ours = 0;
    wait_for("a smaller window", || {
        ours += 1;
        let kind = OpenKind::DirectStreamlocal { path: &path };
        let (window_bytes, packet_bytes_max) = (1 << 20, 1 << 15);
        let sender = ChannelNumber(ours);
        peer.say(&ChannelOpen { sender, window_bytes, packet_bytes_max, kind });
        let answer = loop {
            let heard = peer.hear().expect("an answer");
            assert_ne!(heard[0], number::CHANNEL_OPEN_FAILURE, "{ours}");
            if heard[0] == number::CHANNEL_OPEN_CONFIRMATION {
                break heard;
            }
        };
        let open = ChannelOpenConfirmation::parse(&answer).expect("a confirmation");
        let (recipient, granted) = (open.sender, open.window_bytes);
        for _ in 0..granted / CHANNEL_PACKET_BYTES_MAX {
            peer.say(&ChannelData { recipient, data: &data });
        }
        peer.say(&ChannelClose { recipient });
        granted < WINDOW_BYTES
    });
    drop((peer, listener));
    watch.end();
}
