//! Message numbers (RFC 4250 §4.1.2) and the ranges they are assigned from (§4.1.1).

/// RFC 4253 §11.1.
pub const DISCONNECT: u8 = 1;
/// RFC 4253 §11.2.
pub const IGNORE: u8 = 2;
/// RFC 4253 §11.4.
pub const UNIMPLEMENTED: u8 = 3;
/// RFC 4253 §11.3.
pub const DEBUG: u8 = 4;
/// RFC 4253 §10.
pub const SERVICE_REQUEST: u8 = 5;
/// RFC 4253 §10.
pub const SERVICE_ACCEPT: u8 = 6;
/// RFC 8308 §2.3.
pub const EXT_INFO: u8 = 7;
/// RFC 4253 §7.1.
pub const KEXINIT: u8 = 20;
/// RFC 4253 §7.3.
pub const NEWKEYS: u8 = 21;
/// RFC 5656 §4; the hybrid methods use the same pair.
pub const KEX_ECDH_INIT: u8 = 30;
/// RFC 5656 §4.
pub const KEX_ECDH_REPLY: u8 = 31;
/// RFC 4419 §5. Shares its number with [`KEX_ECDH_REPLY`]: the method says which is meant.
pub const KEX_DH_GEX_GROUP: u8 = 31;
/// RFC 4419 §5.
pub const KEX_DH_GEX_INIT: u8 = 32;
/// RFC 4419 §5.
pub const KEX_DH_GEX_REPLY: u8 = 33;
/// RFC 4419 §5.
pub const KEX_DH_GEX_REQUEST: u8 = 34;

/// RFC 4252 §5.
pub const USERAUTH_REQUEST: u8 = 50;
/// RFC 4252 §5.1.
pub const USERAUTH_FAILURE: u8 = 51;
/// RFC 4252 §5.1.
pub const USERAUTH_SUCCESS: u8 = 52;
/// RFC 4252 §5.4.
pub const USERAUTH_BANNER: u8 = 53;
/// RFC 4252 §7. Numbers 60 to 79 mean what the method under way says they mean.
pub const USERAUTH_PK_OK: u8 = 60;
/// RFC 4252 §8.
pub const USERAUTH_PASSWD_CHANGEREQ: u8 = 60;
/// RFC 4256 §3.2.
pub const USERAUTH_INFO_REQUEST: u8 = 60;
/// RFC 4256 §3.4.
pub const USERAUTH_INFO_RESPONSE: u8 = 61;

/// RFC 4254 §4.
pub const GLOBAL_REQUEST: u8 = 80;
/// RFC 4254 §4.
pub const REQUEST_SUCCESS: u8 = 81;
/// RFC 4254 §4.
pub const REQUEST_FAILURE: u8 = 82;
/// RFC 4254 §5.1.
pub const CHANNEL_OPEN: u8 = 90;
/// RFC 4254 §5.1.
pub const CHANNEL_OPEN_CONFIRMATION: u8 = 91;
/// RFC 4254 §5.1.
pub const CHANNEL_OPEN_FAILURE: u8 = 92;
/// RFC 4254 §5.2.
pub const CHANNEL_WINDOW_ADJUST: u8 = 93;
/// RFC 4254 §5.2.
pub const CHANNEL_DATA: u8 = 94;
/// RFC 4254 §5.2.
pub const CHANNEL_EXTENDED_DATA: u8 = 95;
/// RFC 4254 §5.3.
pub const CHANNEL_EOF: u8 = 96;
/// RFC 4254 §5.3.
pub const CHANNEL_CLOSE: u8 = 97;
/// RFC 4254 §5.4.
pub const CHANNEL_REQUEST: u8 = 98;
/// RFC 4254 §5.4.
pub const CHANNEL_SUCCESS: u8 = 99;
/// RFC 4254 §5.4.
pub const CHANNEL_FAILURE: u8 = 100;

/// OpenSSH PROTOCOL §1.9 (`ping@openssh.com`), in the local range.
pub const PING: u8 = 192;
/// OpenSSH PROTOCOL §1.9.
pub const PONG: u8 = 193;

/// RFC 4250 §4.1.1: numbers that belong to the key exchange method under way.
pub const fn is_kex_method(number: u8) -> bool {
    matches!(number, 30..=49)
}

/// Why a connection ends: the reason codes of DISCONNECT (RFC 4253 §11.1).
pub mod disconnect {
    pub const HOST_NOT_ALLOWED_TO_CONNECT: u32 = 1;
    pub const PROTOCOL_ERROR: u32 = 2;
    pub const KEY_EXCHANGE_FAILED: u32 = 3;
    pub const MAC_ERROR: u32 = 5;
    pub const COMPRESSION_ERROR: u32 = 6;
    pub const SERVICE_NOT_AVAILABLE: u32 = 7;
    pub const PROTOCOL_VERSION_NOT_SUPPORTED: u32 = 8;
    pub const HOST_KEY_NOT_VERIFIABLE: u32 = 9;
    pub const CONNECTION_LOST: u32 = 10;
    pub const BY_APPLICATION: u32 = 11;
    pub const TOO_MANY_CONNECTIONS: u32 = 12;
    pub const AUTH_CANCELLED_BY_USER: u32 = 13;
    pub const NO_MORE_AUTH_METHODS_AVAILABLE: u32 = 14;
    pub const ILLEGAL_USER_NAME: u32 = 15;
}
