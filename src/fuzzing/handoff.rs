//! What one process of ours hands to another: connections, and the messages that carry them.

use std::time::Duration;

use super::Input;
use super::rig::{Rig, START, import};
use crate::connection::{ChannelId, ConnectionRecord};
use crate::gateway::parcel::Parcel;
use crate::services::Grant;

/// Behind a byte that says which: a connection's record, a parcel between processes, or a grant.
///
/// A record that is accepted may still be a lie; whoever acts on it must come to no harm.
pub fn handoff(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 4 {
        0 => parcel(input.rest()),
        1 => grant(input.rest()),
        kind => record(kind == 2, input.rest()),
    }
}

fn parcel(bytes: &[u8]) {
    if let Ok(parcel) = Parcel::decode(bytes) {
        let again = parcel.encode();
        assert_eq!(Parcel::decode(&again), Ok(parcel), "written and read again");
    }
}

fn grant(bytes: &[u8]) {
    if let Some(grant) = Grant::decode(bytes) {
        let again = grant.encode();
        assert_eq!(Grant::decode(&again), Some(grant), "written and read again");
    }
}

fn record(serves: bool, bytes: &[u8]) {
    for real in [false, true] {
        let Ok(record) = ConnectionRecord::from_bytes(bytes) else { return };
        let written = record.to_bytes().expect("what was read can be written");
        assert!(*written == bytes, "a record has one encoding");
        let ids: Vec<_> = record.channels().collect();
        let Ok(conn) = import(serves, real, record, START) else { continue };
        let Some(settled) = conn.export() else {
            go_on(Rig::taken_over(conn), &ids, bytes);
            continue;
        };
        // A silence that is said to have longer to go than it may is cut; nothing else changes.
        assert!(settled.channels().eq(ids.iter().copied()), "taken over with all its channels");
        let settled_bytes = settled.to_bytes().expect("a record fits");
        if let Ok(conn) = import(serves, real, settled, START) {
            go_on(Rig::taken_over(conn), &ids, &settled_bytes);
        }
    }
}

fn go_on(mut rig: Rig, ids: &[ChannelId], bytes: &[u8]) {
    if let Some(again) = rig.conn.export() {
        let again = again.to_bytes().expect("a record fits");
        assert!(*again == bytes, "taken over and handed on");
    }
    for id in ids.iter().copied().take(4) {
        rig.write_data(id, None, 100);
        rig.plan(id, Some(1), 40_000);
        rig.seal(u32::MAX);
        rig.drop_plan();
        rig.call(|conn, env| conn.consumed(id, 1, env));
        rig.call(|conn, env| conn.exit_status(id, 0, env));
        rig.call(|conn, env| conn.close(id, env));
    }
    rig.call(|conn, env| conn.rekey(env));
    rig.wait(Duration::from_secs(1));
    rig.deliver(&[0x55; 64]);
}
