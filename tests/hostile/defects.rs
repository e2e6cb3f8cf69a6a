//! Defects of ours, made to order.

use tidegate::wire::Message;
use tidegate::wire::channel::{ChannelClose, ChannelData, ChannelNumber};
use tidegate::wire::number;
use tidegate::wire::request::RequestBody;

use crate::peer::{Farewell, Manner, PLAIN, Peer, Watch, channel_request};
use crate::support::{DEFECT, Gateway, wait_for};

const IN_SERVICE: Manner = Manner { software: "Defect_service", ..PLAIN };
const AT_END: Manner = Manner { software: "Defect_end", ..PLAIN };

fn defects(gateway: &Gateway) -> usize {
    gateway.log().matches(DEFECT).count()
}

/// A session that has begun before goes on.
fn echoes(peer: &mut Peer, channel: u32) {
    peer.say(&ChannelData { recipient: ChannelNumber(channel), data: b"still there" });
    loop {
        let heard = peer.hear().expect("an echo");
        if heard[0] == number::CHANNEL_DATA {
            assert_eq!(ChannelData::parse(&heard).expect("whole").data, b"still there");
            break;
        }
    }
}

#[test]
fn case_131_a_panic_ends_the_connection_it_was_met_on_alone() {
    let mut gateway = Gateway::start(&[]);
    gateway.met_defects = true;
    // One on each shard.
    let mut others: Vec<(Peer, u32)> = (0..4)
        .map(|_| {
            let mut peer = Peer::login(&gateway);
            let channel = peer.exec(0, "exec cat");
            (peer, channel)
        })
        .collect();

    // While a packet is opened, before a key exchange is over.
    let mut stream = gateway.connect().expect("a connection");
    std::io::Write::write_all(&mut stream, b"SSH-2.0-Defect_packet\r\n").expect("written");
    assert!(crate::support::drain(&mut stream).starts_with(b"SSH-2.0-Tidegate"));
    wait_for("the line in the log", || defects(&gateway) == 1);
    others.iter_mut().for_each(|(peer, channel)| echoes(peer, *channel));

    // In a service, with an operation of the connection under way.
    let mut peer = Peer::connect_as(&gateway, IN_SERVICE);
    peer.log_in(&gateway);
    let channel = peer.open_session(0);
    peer.send(&channel_request(channel, RequestBody::Exec { command: b"sleep 60" }));
    assert_eq!(peer.farewell(), Farewell::Closed);
    assert!(peer_line(&gateway, &peer).contains("a defect of this program"));
    others.iter_mut().for_each(|(peer, channel)| echoes(peer, *channel));
    assert_eq!(defects(&gateway), 2);

    // While the end of a channel is dealt with, and again with that of the connection.
    let mut peer = Peer::connect_as(&gateway, AT_END);
    peer.log_in(&gateway);
    let channel = peer.exec(0, "exec cat");
    peer.say(&ChannelClose { recipient: ChannelNumber(channel) });
    assert_eq!(peer.farewell(), Farewell::Closed);
    wait_for("the lines in the log", || defects(&gateway) == 4);

    // Those were enough: new reactors serve now, and whoever is on the old ones stays. As root, an
    // account's process says so, and an edge makes room for another.
    let separated = !gateway.parts("edge").is_empty();
    if separated {
        gateway.tells("should be replaced");
        for _ in 0..2 {
            let mut stream = gateway.connect().expect("a connection");
            std::io::Write::write_all(&mut stream, b"SSH-2.0-Defect_packet\r\n").expect("written");
            crate::support::drain(&mut stream);
        }
        gateway.tells("The edge has ended");
    } else {
        gateway.tells("Received SIGHUP");
    }
    others.iter_mut().for_each(|(peer, channel)| echoes(peer, *channel));
    wait_for("a gateway that listens", || gateway.connect().is_ok());
    gateway.assert_alive();
    others.iter_mut().for_each(|(peer, channel)| echoes(peer, *channel));
    let told = gateway.log();
    assert!(told.contains("a test ordered this service"), "{told}");
    assert!(separated || told.contains("new reactors take the place"), "{told}");
    // What was left behind keeps nobody from ending.
    let pids = gateway.processes();
    drop(others);
    drop(gateway);
    wait_for("the processes to end", || pids.iter().all(|pid| !is_running(*pid)));
}

fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.starts_with(" Z"))
}

fn peer_line(gateway: &Gateway, peer: &Peer) -> String {
    Watch::begin(gateway).last_line(peer.port())
}
