//! Bytes that can be made and checked from any place on, so that nobody has to keep them.

/// Bytes of one direction of one stream, made or checked in order.
#[derive(Clone, Debug)]
pub struct Flow {
    seed: u64,
    pub len: u64,
    /// How many have been made, or checked, so far.
    pub at: u64,
}

impl Flow {
    pub const fn new(seed: u64, len: u64) -> Flow {
        Flow { seed, len, at: 0 }
    }

    pub const fn left(&self) -> u64 {
        self.len - self.at
    }

    /// The next bytes, at most `max`; they stay the next until [`Flow::advance`].
    pub fn peek(&self, max: u64) -> Vec<u8> {
        let mut bytes = vec![0; self.left().min(max) as usize];
        content(self.seed, self.at, &mut bytes);
        bytes
    }

    pub fn advance(&mut self, bytes: usize) {
        self.at += bytes as u64;
        assert!(self.at <= self.len, "{self:?}");
    }

    /// These bytes are the next.
    ///
    /// # Panics
    /// When they are not: something was lost, doubled, mixed up or made up on the way.
    pub fn check(&mut self, bytes: &[u8], what: &str) {
        assert!(bytes.len() as u64 <= self.left(), "{what}: {} bytes past {self:?}", bytes.len());
        check_content(self.seed, self.at, bytes, what);
        self.at += bytes.len() as u64;
    }
}

/// # Panics
/// When `bytes` are not what the content of `seed` has from `at` on.
pub fn check_content(seed: u64, at: u64, bytes: &[u8], what: &str) {
    let mut expected = vec![0; bytes.len()];
    content(seed, at, &mut expected);
    if expected != bytes {
        let first = expected.iter().zip(bytes).position(|(a, b)| a != b).unwrap_or(0);
        panic!(
            "{what}: content {seed} differs at {} (piece {at}+{})",
            at + first as u64,
            bytes.len()
        );
    }
}

/// The bytes of `seed`'s content from `at` on.
pub fn content(seed: u64, at: u64, into: &mut [u8]) {
    let mut word_at = at / 8;
    let mut skip = (at % 8) as usize;
    let mut done = 0;
    while done < into.len() {
        let word = mix(seed ^ mix(word_at)).to_le_bytes();
        let len = (8 - skip).min(into.len() - done);
        into[done..done + len].copy_from_slice(&word[skip..skip + len]);
        done += len;
        skip = 0;
        word_at += 1;
    }
}

pub const fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
