//! What an edge, a relay, a signer and root's process say to each other.

use super::Input;
use crate::gateway::edge::words::{Ask, Tell};
use crate::gateway::relay::words as relay;
use crate::gateway::signer::words as signer;
use crate::transport::{ExchangeFields, SignableExchange};

/// Behind a byte that says which: a message of an edge, one to it, the same of a signer, the fields of a key
/// exchange, or a message of a relay or one to it. What is read is written the same again, so that nothing has two readings.
pub fn edge(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte() % 7;
    let bytes = input.rest();
    match kind {
        0 => same(bytes, |b| Ask::decode(b).ok(), |ask| ask.encode().to_vec()),
        1 => same(bytes, |b| Tell::decode(b).ok(), Tell::encode),
        2 => same(bytes, |b| signer::Say::decode(b).ok(), signer::Say::encode),
        3 => same(bytes, |b| signer::Tell::decode(b).ok(), |tell| tell.encode().to_vec()),
        5 => same(bytes, |b| relay::Ask::decode(b).ok(), |ask| ask.encode().to_vec()),
        6 => same(bytes, |b| relay::Tell::decode(b).ok(), relay::Tell::encode),
        _ => {
            let encode = |exchange: &SignableExchange| exchange.bytes().to_vec();
            same(bytes, |b| Some(ExchangeFields::decode(b).ok()?.encode()), encode);
            if let Ok(fields) = ExchangeFields::decode(bytes) {
                let _ = fields.check("SSH-2.0-x");
            }
        }
    }
}

fn same<T>(bytes: &[u8], decode: impl Fn(&[u8]) -> Option<T>, encode: impl Fn(&T) -> Vec<u8>) {
    let Some(message) = decode(bytes) else { return };
    let again = encode(&message);
    let message = decode(&again).expect("written and read again");
    assert_eq!(encode(&message), again, "the same again");
}
