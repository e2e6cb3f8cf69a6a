//! Channel data from a client to a server in one thread and no kernel: laid out, sealed, opened,
//! granted again. Packets of 32 KiB, eight a turn, as file data goes; and one alone.

#[path = "../tests/support/pair.rs"]
mod support;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::{Flavour, Pair, Setup};
use tidegate::connection::{ChannelId, Conn, Event, Input};
use tidegate::transport::{Env, Outbox};

fn channel(c: &mut Criterion) {
    let flavours = [("gcm", Flavour::Gcm), ("chacha", Flavour::Chacha), ("toy", Flavour::Toy)];
    for (name, flavour) in flavours {
        let mut pair = Pair::logged_in(&Setup::new(flavour));
        let ids = pair.session();
        let mut lease = vec![0; 264 * 1024];
        let mut outbox = vec![0; 64 * 1024];
        let mut group = c.benchmark_group(format!("channel/{name}"));
        for packets in [1, 8] {
            let bytes = packets * 32 * 1024;
            group.throughput(Throughput::Bytes(u64::from(bytes)));
            group.bench_function(BenchmarkId::from_parameter(packets), |b| {
                b.iter(|| turn(&mut pair, ids, bytes, &mut lease, &mut outbox));
            });
        }
        group.finish();
    }
}

fn turn(
    pair: &mut Pair,
    (from, to): (ChannelId, ChannelId),
    want: u32,
    lease: &mut [u8],
    outbox: &mut [u8],
) {
    let now = pair.now;
    let (sender, receiver) = (&mut pair.client, &mut pair.server);
    let plan = sender.conn.plan(from, None, 50, lease.len() as u32, want).expect("credit");
    assert_eq!(plan.total(), want);
    let packets = sender.conn.seal_plan(&plan, want, lease, &mut sender.entropy).expect("ready");
    let out = Outbox::new(outbox, 0);
    let mut env = Env { now, entropy: &mut receiver.entropy, out };
    let bytes = packets.of_mut(lease).expect("inside the lease");
    assert_eq!(take(&mut receiver.conn, to, bytes, &mut env), want);
    let used = env.out.used();
    let (answers, rest) = outbox.split_at_mut(used);
    let mut env = Env { now, entropy: &mut sender.entropy, out: Outbox::new(rest, 0) };
    take(&mut sender.conn, from, answers, &mut env);
}

fn take(conn: &mut Conn, id: ChannelId, bytes: &mut [u8], env: &mut Env<'_>) -> u32 {
    let (mut at, mut received) = (0, 0);
    while at < bytes.len() {
        match conn.handle_input(env, &mut bytes[at..]).expect("no error") {
            Input::Need { .. } => unreachable!("whole packets were handed in"),
            Input::Used { used, event } => {
                at += used as usize;
                if let Some(Event::Data { data, .. }) = event {
                    received += data.len;
                    conn.consumed(id, data.len, env).expect("no error");
                }
            }
        }
    }
    received
}

criterion_group!(benches, channel);
criterion_main!(benches);
