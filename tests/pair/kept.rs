//! Data of a connection that several clients share, while the keys of one of them change.

use tidegate::base::Span;
use tidegate::limits::{RELAYED_WAITING_MAX, SMALL_BYTES};
use tidegate::reactor::{Chunk, Class, Gather, Pool, PoolSizes};
use tidegate::services::{Command, Outgoing, Surroundings};

use super::*;

/// A client that is slow to agree on keys holds few of the buffers in which everybody receives, none for
/// what is small, and all that has come for it arrives in order.
#[test]
fn what_waits_for_one_of_many_leaves_the_leases_of_all() {
    const PIECES: u32 = 3 * RELAYED_WAITING_MAX as u32;
    let sizes = [(16, 0), (SMALL_BYTES as usize + 1, RELAYED_WAITING_MAX)];
    for (flavour, (len, held)) in [Flavour::Toy, Flavour::Gcm]
        .into_iter()
        .flat_map(|flavour| sizes.map(|size| (flavour, size)))
    {
        let mut pair = Pair::logged_in(&Setup::new(flavour));
        let (id, there) = pair.session();
        let sizes = PoolSizes { small: 16, packet: PIECES + 16, bulk: 1 };
        let mut pool = Pool::new(sizes).expect("a pool");
        let all = pool.free(Class::Packet);
        let mut outgoing = Outgoing::default();
        let now = pair.now;
        pair.client.attempt(now, |conn, env| conn.rekey(env));
        assert!(!pair.client.conn.is_ready());
        let mut expected: Vec<u8> = Vec::new();
        for n in 0..PIECES {
            let mut lease = pool.take(Class::Packet).expect("a lease");
            let text = format!("{n:len$}");
            let span = Span::new(64, text.len() as u32);
            span.of_mut(pool.bytes(&mut lease)).expect("inside").copy_from_slice(text.as_bytes());
            expected.extend(text.as_bytes());
            let client = &mut pair.client;
            assert_eq!(client.conn.reserve(id, span.len), span.len);
            let mut around = Surroundings { now, pool: &mut pool, entropy: &mut client.entropy };
            let data = Chunk { lease, span };
            let pass = Command::Pass { id, extended: None, data, of_many: true };
            outgoing.command(pass, &mut client.conn, &mut around).expect("no error");
        }
        assert_eq!(outgoing.passing() as usize, expected.len());
        assert_eq!(pool.free(Class::Packet), all - held, "{flavour:?}, {len} bytes each");
        pair.run();
        let client = &mut pair.client;
        assert!(client.conn.is_ready(), "{flavour:?}");
        while outgoing.has_waiting() || outgoing.backlog() > 0 {
            let mut around = Surroundings { now, pool: &mut pool, entropy: &mut client.entropy };
            outgoing.resume(&mut client.conn, &mut around).expect("no error");
            let mut gather = outgoing.next_send().expect("something to send");
            let mut sent = Gather::new();
            while let Some(mut chunk) = gather.pop() {
                let bytes = chunk.span.of_mut(pool.bytes(&mut chunk.lease)).expect("inside");
                client.sent.extend(bytes.iter());
                sent.push(chunk).expect("room");
            }
            outgoing.sent(sent, &mut pool);
        }
        pair.run();
        assert_eq!(pair.server.error, None);
        assert!(pair.server.received[&there] == expected, "{flavour:?}");
        assert_eq!(pool.stats().outstanding(), 0, "{flavour:?}");
    }
}
