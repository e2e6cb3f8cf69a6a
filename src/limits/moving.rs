//! Bounds of connections that move to the program that has taken this one's place.

use std::time::Duration;

use super::{BULK_SLOT, PARCEL_BYTES_MAX};

/// What a connection's channels are attached to, packed: data that programs have not read is most of it, as much
/// as a window or a few.
pub const LUGGAGE_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Of which so much is in one message with the connection. More travels in a file of its own in memory: what
/// there may be in a queue is not ours to say without rights.
pub const LUGGAGE_INLINE_BYTES_MAX: usize = 32 * 1024;
/// The same of a relay, whose queue is made by root.
pub const RELAY_LUGGAGE_BYTES_MAX: usize = PARCEL_BYTES_MAX as usize / 2;
/// What is packed of a channel beside its data, at most.
pub const LUGGAGE_CHANNEL_BYTES: u32 = 1024;
/// Descriptors of one connection that travel: a program has four, a forwarded connection one. One that has more
/// stays where it is. Root's process has those of one connection of each account at a time.
pub const LUGGAGE_DESCRIPTORS_MAX: usize = 256;
/// Bytes of an SFTP channel that have come and are not read, with which a session can travel; of more than that,
/// what can be done is done first. Some channels together fill a luggage.
pub const SFTP_MOVING_BYTES_MAX: u32 = PARCEL_BYTES_MAX / 8;
/// Bytes that a connection has received and not opened, or sealed and not sent, which travel with it.
pub const MOVING_UNOPENED_BYTES_MAX: u32 = BULK_SLOT;
/// Connections of a shard that are got ready in one turn: each costs some system calls, and others wait.
pub const MOVES_A_TURN: usize = 16;
/// How long a connection may take until nothing of it is under way. Meanwhile it hears nothing.
pub const MOVING_TIME_MAX: Duration = Duration::from_secs(2);
/// How often, and how long each time, it is waited for a relay to read before the next login is passed to it.
pub const RELAY_ROOM_TRIES_MAX: u32 = 2000;
pub const RELAY_ROOM_PAUSE: Duration = Duration::from_millis(1);
/// When it is looked again at one that was in the middle of something, or cannot move at all.
pub const MOVING_LOOK_AGAIN: Duration = Duration::from_secs(1);
/// When one is tried again that was not ready in time, at first and in the end: each time it has stood still in vain.
pub const MOVING_RETRY_MIN: Duration = Duration::from_millis(500);
pub const MOVING_RETRY_MAX: Duration = Duration::from_secs(30);
/// How often it is asked how a program ended of which another process is the parent: until that one has waited
/// for it.
pub const END_UNTOLD_PAUSE: Duration = Duration::from_millis(5);
pub const END_UNTOLD_TRIES_MAX: u32 = 2000;
