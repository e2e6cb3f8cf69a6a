//! Channel data costs no allocation, in either direction, once a connection is warm.

#![cfg(all(target_os = "linux", target_env = "gnu"))]

#[path = "support/allocations.rs"]
mod allocations;
#[path = "support/pair.rs"]
mod support;

use std::time::Duration;

use allocations::allocations;
use support::{Flavour, Pair, Setup};

use tidegate::connection::{ChannelId, Conn, Event, Input};
use tidegate::reactor::{Chunk, Class, Pool, PoolSizes};
use tidegate::services::{Command, Outgoing, Surroundings};
use tidegate::transport::{Env, Outbox};

/// The memory a shard would own.
struct Lane {
    lease: Vec<u8>,
    outbox: Vec<u8>,
    /// What the receiver sends back: window adjustments.
    back: Vec<u8>,
}

impl Lane {
    /// Sends up to `want` bytes of data, receives them, grants them again. Answers how many.
    fn turn(&mut self, pair: &mut Pair, (from, to): (ChannelId, ChannelId), want: u32) -> u32 {
        let Lane { lease, outbox, back } = self;
        let now = pair.now;
        let (sender, receiver) = (&mut pair.client, &mut pair.server);
        let room = lease.len() as u32;
        let plan = sender.conn.plan(from, None, 50, room, want).expect("credit");
        assert!(!plan.spans(0).is_empty());
        let total = plan.total();
        let packets =
            sender.conn.seal_plan(&plan, total, lease, &mut sender.entropy).expect("ready");
        let out = Outbox::new(outbox, 0);
        let mut env = Env { now, entropy: &mut receiver.entropy, out };
        let bytes = packets.of_mut(lease).expect("inside");
        assert_eq!(take(&mut receiver.conn, to, bytes, &mut env), total);
        // A status as SFTP sends it, the other way.
        assert!(receiver.conn.write_data(to, None, &[1; 40], &mut env));
        let used = env.out.used();
        back[..used].copy_from_slice(&outbox[..used]);
        let out = Outbox::new(outbox, 0);
        let mut env = Env { now, entropy: &mut sender.entropy, out };
        assert_eq!(take(&mut sender.conn, from, &mut back[..used], &mut env), 40);
        assert_eq!(env.out.used(), 0, "forty bytes are not granted again at once");
        total
    }
}

/// Handles packets of data and window adjustments; answers the data bytes.
fn take(conn: &mut Conn, id: ChannelId, bytes: &mut [u8], env: &mut Env<'_>) -> u32 {
    let (mut at, mut received) = (0, 0);
    while at < bytes.len() {
        match conn.handle_input(env, &mut bytes[at..]).expect("no error") {
            Input::Need { .. } => panic!("whole packets were handed in"),
            Input::Used { used, event } => {
                at += used as usize;
                match event {
                    Some(Event::Data { id: on, extended: None, data }) => {
                        assert_eq!(on, id);
                        received += data.len;
                        conn.consumed(id, data.len, env).expect("no error");
                    }
                    None | Some(Event::WindowOpened(_)) => {}
                    event => panic!("{event:?}"),
                }
            }
        }
        assert!(conn.poll_event().is_none());
    }
    received
}

#[test]
fn steady_state_allocates_nothing() {
    for flavour in [Flavour::Toy, Flavour::Gcm, Flavour::Chacha, Flavour::Ctr] {
        let mut pair = Pair::logged_in(&Setup::new(flavour));
        let channel = pair.session();
        let mut lane = Lane {
            lease: vec![0; 264 * 1024],
            outbox: vec![0; 64 * 1024],
            back: vec![0; 64 * 1024],
        };
        for _ in 0..20 {
            lane.turn(&mut pair, channel, 256 * 1024);
        }
        let mut moved = 0u64;
        let made = allocations(|| {
            for turn in 0..100 {
                let want = [256 * 1024, 1, 32 * 1024, 100_000][turn % 4];
                moved += u64::from(lane.turn(&mut pair, channel, want));
            }
        });
        assert_eq!(made, 0, "{flavour:?}");
        assert!(moved > 8_000_000, "{flavour:?}: {moved}");
    }
}

/// A window that grows is a few numbers that change.
#[test]
fn a_window_grows_without_allocating() {
    let mut setup = Setup::new(Flavour::Gcm);
    setup.server.window_bytes_max = 12 << 20;
    let mut pair = Pair::logged_in(&setup);
    let channel = pair.session();
    let mut lane =
        Lane { lease: vec![0; 264 * 1024], outbox: vec![0; 64 * 1024], back: vec![0; 64 * 1024] };
    lane.turn(&mut pair, channel, 256 * 1024);
    pair.now = pair.now.after(Duration::from_millis(50));
    let mut grown = 0;
    let made = allocations(|| {
        for _ in 0..6 {
            // All there is at once: what is granted again comes from afar.
            grown = pair.client.conn.credit(channel.0);
            let mut left = grown;
            while left > 0 {
                left -= lane.turn(&mut pair, channel, left.min(256 * 1024));
            }
            pair.now = pair.now.after(Duration::from_millis(50));
        }
    });
    assert_eq!(made, 0);
    assert!(grown > 11 << 20, "{grown}");
}

/// The counter counts: a test of nothing would pass the other.
#[test]
fn allocations_are_seen() {
    assert!(allocations(|| drop(std::hint::black_box(Box::new(7)))) > 0);
}

/// A relayed packet goes on in the bytes it came in: no allocation and no copy, by the pool's leases.
#[test]
fn relayed_data_is_sealed_where_it_was_opened() {
    for flavour in [Flavour::Toy, Flavour::Gcm, Flavour::Chacha, Flavour::Ctr] {
        let setup = Setup::new(flavour);
        let (mut down, mut up) = (Pair::logged_in(&setup), Pair::logged_in(&setup));
        let (from, here) = down.session();
        let (to, there) = up.session();
        let mut pool = Pool::new(PoolSizes { small: 4, packet: 8, bulk: 2 }).expect("a pool");
        let mut outgoing = Outgoing::default();
        let mut space = vec![0; 64 * 1024];
        let mut turn = || {
            let mut lease = pool.take(Class::Packet).expect("a lease");
            let room = lease.len();
            let client = &mut down.client;
            let plan = client.conn.plan(from, None, 50, room, 32 * 1024).expect("credit");
            let total = plan.total();
            let packet = client
                .conn
                .seal_plan(&plan, total, pool.bytes(&mut lease), &mut client.entropy)
                .expect("ready");
            // The gateway opens it; its end is where the next would begin.
            let rest = pool.split(&mut lease, packet.end());
            pool.give_back(rest);
            let now = down.now;
            let server = &mut down.server;
            let out = Outbox::new(&mut space, 0);
            let mut env = Env { now, entropy: &mut server.entropy, out };
            let bytes = packet.of_mut(pool.bytes(&mut lease)).expect("inside");
            let before = bytes.as_ptr();
            let input = server.conn.handle_input(&mut env, bytes).expect("no error");
            let Input::Used { event: Some(Event::Data { data, .. }), .. } = input else {
                panic!("{input:?}")
            };
            let data = data.shifted(packet.at);
            server.conn.consumed(here, data.len, &mut env).expect("no error");
            let used = env.out.used();
            // And seals it for the host.
            let middle = &mut up.client;
            assert_eq!(middle.conn.reserve(to, data.len), data.len);
            let mut around = Surroundings { now, pool: &mut pool, entropy: &mut middle.entropy };
            let chunk = Chunk { lease, span: data };
            let command = Command::Pass { id: to, extended: None, data: chunk, of_many: false };
            outgoing.command(command, &mut middle.conn, &mut around).expect("no error");
            let mut sent = outgoing.next_send().expect("a packet");
            let mut chunk = sent.pop().expect("one piece");
            let bytes = chunk.span.of_mut(pool.bytes(&mut chunk.lease)).expect("inside");
            assert_eq!(bytes.as_ptr(), before, "{flavour:?}: moved");
            let server = &mut up.server;
            let mut other = [0; 1024];
            let out = Outbox::new(&mut other, 0);
            let mut env = Env { now, entropy: &mut server.entropy, out };
            assert_eq!(take(&mut server.conn, there, bytes, &mut env), total);
            let granted = env.out.used();
            sent.push(chunk).expect("room");
            outgoing.sent(sent, &mut pool);
            // Both senders hear of more window.
            let mut nothing = [0; 64];
            let client = &mut down.client;
            let out = Outbox::new(&mut nothing, 0);
            let mut env = Env { now, entropy: &mut client.entropy, out };
            take(&mut client.conn, from, &mut space[..used], &mut env);
            let middle = &mut up.client;
            let out = Outbox::new(&mut nothing, 0);
            let mut env = Env { now, entropy: &mut middle.entropy, out };
            take(&mut middle.conn, to, &mut other[..granted], &mut env);
        };
        for _ in 0..20 {
            turn();
        }
        let made = allocations(|| (0..100).for_each(|_| turn()));
        assert_eq!(made, 0, "{flavour:?}");
    }
}
