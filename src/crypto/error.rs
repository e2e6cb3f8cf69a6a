/// A key or an operation that could not be set up. None of these is the peer's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// The provider does not offer the algorithm.
    #[error("the crypto provider does not offer this algorithm")]
    Unsupported,
    /// Key material of the wrong length or shape.
    #[error("key material does not fit the algorithm")]
    Key,
    /// The library failed where it has no reason to.
    #[error("the crypto library failed")]
    Library,
}

/// Why a key exchange method refused to produce a shared secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KexError {
    /// The peer's public value has the wrong length for the method.
    #[error("a key exchange value of the wrong length")]
    Length,
    /// The peer's public value is not one an honest peer could have made: off the curve, the
    /// point at infinity, compressed, or with a coordinate or coefficient out of its range.
    #[error("an invalid key exchange value")]
    Invalid,
    /// X25519 came out as zero: the peer sent a point of low order (RFC 8731 §3).
    #[error("a key exchange value of low order")]
    LowOrder,
    /// The server chose a group whose modulus is no safe prime (RFC 4419 §3).
    #[error("a Diffie-Hellman group that is not safe")]
    UnsafeGroup,
    /// Our own side failed.
    #[error(transparent)]
    Ours(#[from] CryptoError),
}

/// A packet whose tag does not match: forged, damaged, replayed or out of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a packet failed authentication")]
pub struct BadTag;
