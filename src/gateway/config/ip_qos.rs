//! IPQoS: how packets of a connection are marked for the network.

use super::diagnostic::Wrong;
use super::values::{is_none, number};

/// The byte for IP_TOS and IPV6_TCLASS by what a connection does; `None` leaves the system's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpQos {
    /// Somebody sits at a terminal.
    pub interactive: Option<u8>,
    /// Everything else.
    pub bulk: Option<u8>,
}

impl Default for IpQos {
    /// sshd's: expedited forwarding (EF) and lower effort (CS1).
    fn default() -> IpQos {
        IpQos { interactive: Some(0xb8), bulk: Some(0x20) }
    }
}

/// Names of sshd_config(5): RFC 2474 and RFC 2597 code points, RFC 8622's le, and the old ones of
/// RFC 1349.
const NAMES: [(&str, u8); 26] = [
    ("af11", 0x28),
    ("af12", 0x30),
    ("af13", 0x38),
    ("af21", 0x48),
    ("af22", 0x50),
    ("af23", 0x58),
    ("af31", 0x68),
    ("af32", 0x70),
    ("af33", 0x78),
    ("af41", 0x88),
    ("af42", 0x90),
    ("af43", 0x98),
    ("cs0", 0x00),
    ("cs1", 0x20),
    ("cs2", 0x40),
    ("cs3", 0x60),
    ("cs4", 0x80),
    ("cs5", 0xa0),
    ("cs6", 0xc0),
    ("cs7", 0xe0),
    ("ef", 0xb8),
    ("le", 0x04),
    ("va", 0xb0),
    ("lowdelay", 0x10),
    ("throughput", 0x08),
    ("reliability", 0x04),
];

/// A name, a number up to 255 (decimal, or hexadecimal behind 0x), or none.
pub fn parse(word: &str) -> Result<Option<u8>, Wrong> {
    if is_none(word) {
        return Ok(None);
    }
    if let Some((_, value)) = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)) {
        return Ok(Some(*value));
    }
    let value = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(digits) => u8::from_str_radix(digits, 16).ok(),
        None => number(word, 0..=255).ok().and_then(|value| u8::try_from(value).ok()),
    };
    value.map(Some).ok_or_else(|| {
        let wrong = Wrong::new(word, "neither a class of service nor a number up to 255");
        wrong.help("write a name like af21, cs1, ef or le, or none")
    })
}

/// As a file writes it.
pub fn text(value: Option<u8>) -> String {
    match value {
        None => "none".to_owned(),
        Some(value) => {
            let named = NAMES.iter().find(|(_, known)| *known == value);
            named.map_or_else(|| format!("0x{value:02x}"), |(name, _)| (*name).to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_by_name_and_number() {
        for (word, value) in [
            ("af21", Some(0x48)),
            ("CS1", Some(0x20)),
            ("none", None),
            ("lowdelay", Some(16)),
            ("16", Some(16)),
            ("0xB8", Some(0xb8)),
        ] {
            assert_eq!(parse(word), Ok(value), "{word}");
            assert_eq!(parse(&text(value)), Ok(value), "{word}");
        }
        for bad in ["", "af99", "256", "-1", "0x100", "0x", "+1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(text(Some(1)), "0x01");
    }
}
