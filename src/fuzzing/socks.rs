//! Somebody asks by SOCKS where he wants to be connected, at a listener of ours or far away.

use crate::limits::HOST_BYTES_MAX;
use crate::services::forward::Target;
use crate::services::forward::socks::{Refused, Socks, Step, Version};

/// In whatever pieces it comes, the same is said to him and understood of him.
pub fn socks(data: &[u8]) {
    let whole = Talk::of(data, data.len());
    for piece in [1, 3] {
        assert_eq!(Talk::of(data, piece), whole, "in pieces of {piece}");
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Talk {
    said: Vec<u8>,
    /// What it has come to, and how much of what came belongs to the connection.
    end: Option<Result<(Target, Version, usize), Refused>>,
}

impl Talk {
    fn of(data: &[u8], piece: usize) -> Talk {
        let (mut socks, mut said, mut behind) = (Socks::default(), Vec::new(), data.len());
        for chunk in data.chunks(piece.max(1)) {
            let mut rest = chunk;
            loop {
                let before = rest.len();
                let step = socks.take(&mut rest);
                behind -= before - rest.len();
                match step {
                    Ok(Step::Wait(need)) => {
                        assert!(need > 0 && rest.is_empty(), "it waits for what is not there");
                        break;
                    }
                    Ok(Step::Say(text)) => said.extend_from_slice(text),
                    Ok(Step::Asked(target, version)) => {
                        if let Target::Tcp { host, .. } = &target {
                            assert!(host.len() <= HOST_BYTES_MAX as usize);
                        }
                        return Talk { said, end: Some(Ok((target, version, behind))) };
                    }
                    Err(refused) => return Talk { said, end: Some(Err(refused)) },
                }
            }
        }
        Talk { said, end: None }
    }
}
