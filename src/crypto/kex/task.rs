//! The client's arithmetic as pieces of work, so that its owner may have the long ones done elsewhere.

use std::fmt;

use super::{Group, KexKind, KexSecret, SharedSecret};
use crate::base::Entropy;
use crate::crypto::KexError;

/// One piece of a client's key exchange.
pub enum KexTask {
    /// A secret and its public value. Milliseconds in finite fields, up to two in NTRU Prime where the CPU
    /// has no wide vectors.
    Generate(KexKind),
    /// The same in a group of the server's choice, which is looked at first: up to a second.
    GenerateIn(KexKind, Box<Group>),
    /// The shared secret. Milliseconds in finite fields.
    Finish { secret: Box<KexSecret>, server_public: Box<[u8]> },
}

/// What comes of a [`KexTask`].
pub enum KexPiece {
    /// The secret and the public value to send.
    Generated(Box<KexSecret>, Box<[u8]>),
    Shared(SharedSecret),
}

impl KexTask {
    /// Whether it takes too long for a thread that others wait for.
    pub fn is_slow(&self) -> bool {
        match self {
            KexTask::Generate(kind) => kind.group().is_some() || *kind == KexKind::Sntrup761X25519,
            KexTask::GenerateIn(..) => true,
            KexTask::Finish { secret, .. } => secret.is_finite_field(),
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// The server's public value is refused, its group is not safe, or our library failed.
    pub fn run(self, entropy: &mut dyn Entropy) -> Result<KexPiece, KexError> {
        let (secret, public) = match self {
            KexTask::Generate(kind) => KexSecret::generate(kind, entropy)?,
            KexTask::GenerateIn(kind, group) => {
                if !group.looks_safe(entropy) {
                    return Err(KexError::UnsafeGroup);
                }
                KexSecret::generate_in(kind, &group)?
            }
            KexTask::Finish { secret, server_public } => {
                return secret.finish(&server_public).map(KexPiece::Shared);
            }
        };
        Ok(KexPiece::Generated(Box::new(secret), public.into()))
    }
}

impl fmt::Debug for KexTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KexTask")
    }
}

impl fmt::Debug for KexPiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KexPiece")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SeededEntropy;
    use crate::crypto::kex::respond;

    /// What is left where the protocol stands takes well below a millisecond.
    #[test]
    fn slow_pieces_are_told_from_quick_ones() {
        let mut entropy = SeededEntropy::new(5);
        let rows = [
            (KexKind::MlKem768X25519, false, false),
            (KexKind::Sntrup761X25519, true, false),
            (KexKind::Curve25519, false, false),
            (KexKind::EcdhP521, false, false),
            (KexKind::DhGroup14, true, true),
        ];
        for (kind, slow, slow_end) in rows {
            let task = KexTask::Generate(kind);
            assert_eq!(task.is_slow(), slow, "{kind:?}");
            let Ok(KexPiece::Generated(secret, public)) = task.run(&mut entropy) else {
                panic!("{kind:?}")
            };
            let (server_public, shared) = respond(kind, &public, &mut entropy).expect("a reply");
            let task = KexTask::Finish { secret, server_public: server_public.into() };
            assert_eq!(task.is_slow(), slow_end, "{kind:?}");
            assert!(matches!(task.run(&mut entropy), Ok(KexPiece::Shared(same))
                if same.encoded() == shared.encoded()));
        }
    }

    #[test]
    fn case_28_a_group_is_looked_at_before_it_is_used() {
        let mut entropy = SeededEntropy::new(5);
        let mut prime = Group::of_2048_bits().expect("a group").prime();
        prime[100] ^= 0x55;
        let group = Group::new(&prime, &[2]).expect("odd and long enough");
        let task = KexTask::GenerateIn(KexKind::DhGroupExchange, Box::new(group));
        assert!(task.is_slow());
        assert!(matches!(task.run(&mut entropy), Err(KexError::UnsafeGroup)));
    }
}
