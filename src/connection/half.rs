//! The two halves of a channel (RFC 4254 §5.3), each a small machine of its own.
//!
//! A channel is gone when both halves are closed: we have sent CLOSE and the peer has. Until then
//! its number stays taken, whatever order the four messages came in.

use crate::transport::Error;

/// Our direction: what we may still send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SendHalf {
    #[default]
    Open,
    /// EOF was asked for while data laid out before it is not sealed yet.
    Draining,
    /// EOF has been sent; requests and CLOSE may follow.
    EofSent,
    /// CLOSE was asked for while data laid out before it is not sealed yet.
    Closing,
    /// CLOSE has been sent; nothing may follow.
    Closed,
}

/// What happens to the sending half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendStep {
    Eof,
    Close,
    /// The last data laid out has been sealed or dropped.
    Drained,
}

/// The message a step asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    Eof,
    Close,
}

impl SendHalf {
    /// Whether new data may be laid out.
    pub const fn takes_data(self) -> bool {
        matches!(self, SendHalf::Open)
    }

    /// Whether data laid out earlier may still be sealed.
    pub const fn seals_data(self) -> bool {
        matches!(self, SendHalf::Open | SendHalf::Draining | SendHalf::Closing)
    }

    /// Takes a step. `busy`: data is laid out and not sealed.
    pub const fn step(self, step: SendStep, busy: bool) -> (SendHalf, Option<Farewell>) {
        match (self, step, busy) {
            (SendHalf::Closed, _, _) => (SendHalf::Closed, None),

            (SendHalf::Open, SendStep::Eof, true) => (SendHalf::Draining, None),
            (SendHalf::Open, SendStep::Eof, false) => (SendHalf::EofSent, Some(Farewell::Eof)),
            (state, SendStep::Eof, _) => (state, None),

            (SendHalf::EofSent, SendStep::Close, _) | (_, SendStep::Close, false) => {
                (SendHalf::Closed, Some(Farewell::Close))
            }
            (_, SendStep::Close, true) => (SendHalf::Closing, None),

            (SendHalf::Draining, SendStep::Drained, _) => (SendHalf::EofSent, Some(Farewell::Eof)),
            (SendHalf::Closing, SendStep::Drained, _) => (SendHalf::Closed, Some(Farewell::Close)),
            (state @ (SendHalf::Open | SendHalf::EofSent), SendStep::Drained, _) => (state, None),
        }
    }
}

/// The peer's direction: what it may still send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecvHalf {
    #[default]
    Open,
    /// No more data; requests and CLOSE may come.
    EofReceived,
    /// Nothing may come.
    Closed,
}

/// A channel message from the peer, as far as this half cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecvStep {
    Data,
    Eof,
    Close,
    /// Requests, replies and window adjustments.
    Other,
}

impl RecvHalf {
    /// Takes a step; an error where RFC 4254 §5.3 forbids it. A second EOF says nothing new and
    /// does no harm, so it is let pass.
    pub const fn step(self, step: RecvStep) -> Result<RecvHalf, Error> {
        match (self, step) {
            (RecvHalf::Closed, _) => Err(Error::PeerMisbehaved("channel message after CLOSE")),
            (RecvHalf::EofReceived, RecvStep::Data) => {
                Err(Error::PeerMisbehaved("channel data after EOF"))
            }
            (_, RecvStep::Close) => Ok(RecvHalf::Closed),
            (_, RecvStep::Eof) => Ok(RecvHalf::EofReceived),
            (state, RecvStep::Data | RecvStep::Other) => Ok(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every state, step and busyness, written out.
    #[test]
    fn the_sending_table() {
        use Farewell as F;
        use SendHalf::{Closed, Closing, Draining, EofSent, Open};
        let table = [
            // state, then (state, farewell) after Eof, Close, Drained; idle, then busy.
            (Open, false, [(EofSent, Some(F::Eof)), (Closed, Some(F::Close)), (Open, None)]),
            (Open, true, [(Draining, None), (Closing, None), (Open, None)]),
            (
                Draining,
                false,
                [(Draining, None), (Closed, Some(F::Close)), (EofSent, Some(F::Eof))],
            ),
            (Draining, true, [(Draining, None), (Closing, None), (EofSent, Some(F::Eof))]),
            (EofSent, false, [(EofSent, None), (Closed, Some(F::Close)), (EofSent, None)]),
            (EofSent, true, [(EofSent, None), (Closed, Some(F::Close)), (EofSent, None)]),
            (Closing, false, [(Closing, None), (Closed, Some(F::Close)), (Closed, Some(F::Close))]),
            (Closing, true, [(Closing, None), (Closing, None), (Closed, Some(F::Close))]),
            (Closed, false, [(Closed, None), (Closed, None), (Closed, None)]),
            (Closed, true, [(Closed, None), (Closed, None), (Closed, None)]),
        ];
        for (state, busy, after) in table {
            let steps = [SendStep::Eof, SendStep::Close, SendStep::Drained];
            assert_eq!(steps.map(|step| state.step(step, busy)), after, "{state:?} busy {busy}");
        }
    }

    /// Whatever the order of steps: at most one EOF, at most one CLOSE, no EOF after CLOSE, and
    /// data is laid out only before either.
    #[test]
    fn every_sequence_of_five_steps_is_legal_on_the_wire() {
        let steps = [SendStep::Eof, SendStep::Close, SendStep::Drained];
        for code in 0..6usize.pow(5) {
            let (mut state, mut said) = (SendHalf::Open, Vec::new());
            for place in 0..5 {
                let digit = code / 6usize.pow(place) % 6;
                let (next, farewell) = state.step(steps[digit / 2], digit % 2 == 1);
                assert!(!next.takes_data() || state.takes_data(), "no way back");
                said.extend(farewell);
                state = next;
            }
            let legal: [&[Farewell]; 4] =
                [&[], &[Farewell::Eof], &[Farewell::Close], &[Farewell::Eof, Farewell::Close]];
            assert!(legal.contains(&&said[..]), "{said:?}");
            assert_eq!(state == SendHalf::Closed, said.contains(&Farewell::Close));
        }
    }

    #[test]
    fn case_84_the_receiving_table() {
        use RecvHalf::{Closed, EofReceived, Open};
        let table = [
            (Open, [Some(Open), Some(EofReceived), Some(Closed), Some(Open)]),
            (EofReceived, [None, Some(EofReceived), Some(Closed), Some(EofReceived)]),
            (Closed, [None, None, None, None]),
        ];
        for (state, after) in table {
            let steps = [RecvStep::Data, RecvStep::Eof, RecvStep::Close, RecvStep::Other];
            assert_eq!(steps.map(|step| state.step(step).ok()), after, "{state:?}");
        }
    }
}
