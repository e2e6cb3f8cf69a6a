//! What handing a login over costs by itself, in one thread: the edge writes the connection down and sends it
//! with its socket, root's process holds the socket against what it was told and passes it on, the process
//! of the account takes it up again. What the login takes besides is in `perf/compare.py --sections separation`.

#[path = "../tests/support/pair.rs"]
mod support;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use support::{Flavour, Pair, Setup};
use tidegate::connection::{Conn, Connection, ConnectionConfig, ConnectionRecord, Presence};
use tidegate::gateway::desk;
use tidegate::gateway::edge::words::Ask;
use tidegate::gateway::moving::{Moving, Stamp};
use tidegate::gateway::parcel::Parcel;
use tidegate::gateway::socket::Messenger;
use tidegate::limits::PARCEL_BYTES_MAX;
use tidegate::reactor::Fd;
use tidegate::services::{Account, Demands, Grant, Rules};
use tidegate::shard::Proof;
use tidegate::transport::Server;

/// The ways between the three, and what each of them has besides the connection.
struct Ways {
    edge: Messenger,
    root: [Messenger; 2],
    account: Messenger,
    buffer: Vec<u8>,
    grant: Grant,
    proofs: Vec<Proof>,
    config: Arc<ConnectionConfig>,
    stamp: Stamp,
}

fn grant() -> Grant {
    Grant {
        account: Account {
            name: "ann".into(),
            uid: 1000,
            gid: 1000,
            home: "/home/ann".into(),
            shell: "/bin/sh".into(),
        },
        key: Some(support::user_key().public().clone()),
        forced_command: None,
        pty: true,
        accept_env: vec!["LANG".into(), "LC_*".into()],
        set_env: Vec::new(),
        subsystems: Vec::new(),
        scp: true,
        open_files: None,
        limits: None,
        source: "/home/ann/.ssh/authorized_keys:1".into(),
        verbosity: None,
        rules: Rules::default(),
        presence: Presence::TOUCH,
        place: Default::default(),
        upstream: None,
        demands: Demands::default(),
    }
}

/// From the edge to the process of the account.
fn hand_over(conn: &Conn, socket: OwnedFd, ways: &mut Ways, pair: &Pair) -> (Conn, OwnedFd) {
    let record = conn.export().expect("it is quiet").to_bytes().expect("room");
    let ask = Ask::HandOver {
        link: 1,
        proofs: ways.proofs.clone(),
        record: record.to_vec(),
        inbound: Vec::new(),
        outbound: vec![0; 36],
    };
    ways.edge.try_send(&ask.encode(), Some(socket.as_fd())).expect("room");
    drop(socket);

    let (len, socket) = ways.root[0].receive_now(&mut ways.buffer).expect("it came");
    let Ok(Ask::HandOver { link, record, inbound, outbound, .. }) =
        Ask::decode(&ways.buffer[..len])
    else {
        unreachable!("it was sent so");
    };
    let socket = socket.expect("with its socket");
    let ends = desk::ends_of(Fd(socket.as_raw_fd())).expect("it is connected");
    let (peer, local, grant) = (ends.peer, ends.local, ways.grant.encode());
    let session = vec![7; 32];
    let (token, luggage) = (Vec::new(), None);
    let mut moving = Moving {
        serial: link,
        peer,
        local,
        session,
        record,
        inbound,
        outbound,
        grant,
        upstream: None,
        token,
        luggage,
        kept: None,
        apart: false,
    };
    moving.token = ways.stamp.token(1000, &moving);
    ways.root[1].try_send(&moving.message(false), Some(socket.as_fd())).expect("room");
    drop(socket);

    let (len, socket) = ways.account.receive_now(&mut ways.buffer).expect("it came");
    let Ok(Parcel::Connection(moving)) = Parcel::decode(&ways.buffer[..len]) else {
        unreachable!("it was sent so");
    };
    let Moving { record, grant, .. } = *moving;
    assert!(Grant::decode(&grant).is_some());
    let record = ConnectionRecord::from_bytes(&record).expect("it was written so");
    let config = Arc::clone(&ways.config);
    let conn = Connection::<Server>::import(config, record, pair.now).expect("it is whole");
    (Conn::Server(conn), socket.expect("with its socket"))
}

fn handing_over(c: &mut Criterion) {
    let setup = Setup::new(Flavour::Gcm);
    let pair = Pair::logged_in(&setup);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let _client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (edge, to_edge) = Messenger::pair().expect("a pair");
    let (to_account, account) = Messenger::pair().expect("a pair");
    let mut ways = Ways {
        edge,
        root: [to_edge, to_account],
        account,
        buffer: vec![0; PARCEL_BYTES_MAX as usize],
        grant: grant(),
        proofs: vec![Proof::Secrets { interactive: false }],
        config: Arc::new(setup.server.clone()),
        stamp: Stamp::default(),
    };
    let accepted = listener.accept().expect("it came").0.into();
    let (mut conn, arrived) = hand_over(&pair.server.conn, accepted, &mut ways, &pair);
    let mut socket = Some(arrived);
    c.bench_function("hand_over", |b| {
        b.iter(|| {
            let from = socket.take().expect("it is there");
            let (next, arrived) = hand_over(&conn, from, &mut ways, &pair);
            (conn, socket) = (next, Some(arrived));
        });
    });
}

criterion_group!(benches, handing_over);
criterion_main!(benches);
