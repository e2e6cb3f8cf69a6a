//! What an edge and root's process say to each other.

use super::Input;
use crate::gateway::edge::words::{Ask, Tell};

/// Behind a byte that says which: a message of an edge, or one to it. What is read is written the same
/// again, so that nothing has two readings.
pub fn edge(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte() % 2;
    let bytes = input.rest();
    if kind == 0 {
        if let Ok(ask) = Ask::decode(bytes) {
            let again = ask.encode();
            let ask = Ask::decode(&again).expect("written and read again");
            assert_eq!(*ask.encode(), *again, "the same again");
        }
    } else if let Ok(tell) = Tell::decode(bytes) {
        let again = tell.encode();
        let tell = Tell::decode(&again).expect("written and read again");
        assert_eq!(tell.encode(), again, "the same again");
    }
}
