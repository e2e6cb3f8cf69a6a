use crate::wire::number;

/// Where a connection stands, as far as an incoming message is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Before the peer's first KEXINIT.
    FirstInit,
    /// Both first KEXINITs are known; the peer's public value is next.
    FirstHalf { strict: bool },
    /// The first NEWKEYS of the peer is next.
    FirstNewKeys { strict: bool },
    /// Keys are in use and the peer has not begun to change them (we may have).
    Open,
    /// The peer's KEXINIT has come; its public value is next.
    RekeyHalf,
    /// The peer's NEWKEYS is next.
    RekeyNewKeys,
}

/// What is done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Discarded, as it asks to be.
    Ignore,
    Disconnect,
    ExtInfo,
    KexInit,
    /// The peer's public value.
    Half,
    NewKeys,
    Ping,
    /// Answered with UNIMPLEMENTED (RFC 4253 §11.4).
    Unimplemented,
    /// Belongs to the floors above.
    Deliver,
    /// Ends the connection.
    Refuse(&'static str),
}

/// The one table of what may come when. `half` is the number of the message that the key exchange
/// method waits for: most often 30 from a client, 31 from a server.
pub(super) const fn verdict(place: Place, number: u8, half: u8) -> Verdict {
    match (place, number) {
        (_, number::DISCONNECT) => Verdict::Disconnect,
        // OpenSSH PROTOCOL §1.10: strict key exchange has no room even for these.
        (
            Place::FirstHalf { strict: true } | Place::FirstNewKeys { strict: true },
            number::IGNORE | number::UNIMPLEMENTED | number::DEBUG,
        ) => Verdict::Refuse("an unexpected message during strict key exchange"),
        (_, number::IGNORE | number::UNIMPLEMENTED | number::DEBUG) => Verdict::Ignore,
        (Place::FirstInit | Place::Open, number::KEXINIT) => Verdict::KexInit,
        (_, number::KEXINIT) => Verdict::Refuse("KEXINIT during a key exchange"),
        (Place::FirstNewKeys { .. } | Place::RekeyNewKeys, number::NEWKEYS) => Verdict::NewKeys,
        (_, number::NEWKEYS) => Verdict::Refuse("NEWKEYS out of turn"),
        (Place::FirstHalf { .. } | Place::RekeyHalf, _) if number == half => Verdict::Half,
        (_, 30..=49) => Verdict::Refuse("a key exchange message out of turn"),
        (Place::Open, number::EXT_INFO) => Verdict::ExtInfo,
        (Place::Open, number::PING) => Verdict::Ping,
        (Place::Open, number::PONG) => Verdict::Ignore,
        // RFC 4250 §4.1.1: numbers of this floor that nobody has given a meaning.
        (Place::Open, 0 | 8..=19 | 22..=29) => Verdict::Unimplemented,
        (Place::Open, _) => Verdict::Deliver,
        // RFC 4253 §7.1: behind its KEXINIT the peer sends nothing but the key exchange.
        (Place::RekeyHalf | Place::RekeyNewKeys, _) => {
            Verdict::Refuse("a message during a key exchange")
        }
        (_, _) => Verdict::Refuse("a message before the first key exchange is over"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: [Place; 8] = [
        Place::FirstInit,
        Place::FirstHalf { strict: false },
        Place::FirstHalf { strict: true },
        Place::FirstNewKeys { strict: false },
        Place::FirstNewKeys { strict: true },
        Place::Open,
        Place::RekeyHalf,
        Place::RekeyNewKeys,
    ];

    /// The messages that do something, by place; every other of the 256 ends the connection (or,
    /// where keys are in use, goes up or is answered with UNIMPLEMENTED).
    #[test]
    fn case_12_only_listed_transitions_act() {
        for half in [number::KEX_ECDH_INIT, number::KEX_ECDH_REPLY] {
            for place in PLACES {
                let strict = matches!(
                    place,
                    Place::FirstHalf { strict: true } | Place::FirstNewKeys { strict: true }
                );
                for number in 0..=255u8 {
                    let expected = match number {
                        1 => Some(Verdict::Disconnect),
                        2..=4 => (!strict).then_some(Verdict::Ignore),
                        20 if matches!(place, Place::FirstInit | Place::Open) => {
                            Some(Verdict::KexInit)
                        }
                        21 if matches!(place, Place::FirstNewKeys { .. } | Place::RekeyNewKeys) => {
                            Some(Verdict::NewKeys)
                        }
                        _ if number == half
                            && matches!(place, Place::FirstHalf { .. } | Place::RekeyHalf) =>
                        {
                            Some(Verdict::Half)
                        }
                        20 | 21 | 30..=49 => None,
                        7 if place == Place::Open => Some(Verdict::ExtInfo),
                        192 if place == Place::Open => Some(Verdict::Ping),
                        193 if place == Place::Open => Some(Verdict::Ignore),
                        5 | 6 | 50.. if place == Place::Open => Some(Verdict::Deliver),
                        _ if place == Place::Open => Some(Verdict::Unimplemented),
                        _ => None,
                    };
                    let found = verdict(place, number, half);
                    match expected {
                        Some(expected) => assert_eq!(found, expected, "{place:?} {number}"),
                        None => assert!(matches!(found, Verdict::Refuse(_)), "{place:?} {number}"),
                    }
                }
            }
        }
    }

    #[test]
    fn case_21_roles_are_not_confused() {
        for place in [Place::FirstHalf { strict: false }, Place::RekeyHalf] {
            assert!(matches!(verdict(place, 31, 30), Verdict::Refuse(_)));
            assert!(matches!(verdict(place, 30, 31), Verdict::Refuse(_)));
            assert!(matches!(verdict(place, 33, 31), Verdict::Refuse(_)));
        }
    }
}
