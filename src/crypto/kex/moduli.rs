//! moduli(5): the groups a server chooses from in group exchange (RFC 4419).

use super::{Group, KexKind};
use crate::base::{Entropy, unhex};
use crate::limits::{DH_BITS_MAX, DH_BITS_MIN};

/// A modulus file's line that holds no usable group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct BadModulus {
    pub line: usize,
    pub why: &'static str,
}

/// The groups of a moduli file.
#[derive(Clone, Debug, Default)]
pub struct Moduli {
    groups: Vec<Modulus>,
}

#[derive(Clone, Debug)]
struct Modulus {
    bits: u32,
    generator: Vec<u8>,
    prime: Vec<u8>,
}

impl Moduli {
    /// Reads a file's text: `time type tests tries size generator modulus` on each line. Lines that
    /// cannot be used are answered beside the groups. Sizes that are never used (below
    /// [`DH_BITS_MIN`]) are passed over in silence, as everybody's file has some.
    pub fn parse(text: &str) -> (Moduli, Vec<BadModulus>) {
        let mut moduli = Moduli::default();
        let mut bad = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match modulus(line) {
                Ok(modulus) if modulus.bits < DH_BITS_MIN || modulus.bits > DH_BITS_MAX => {}
                Ok(modulus) => moduli.groups.push(modulus),
                Err(why) => bad.push(BadModulus { line: number + 1, why }),
            }
        }
        (moduli, bad)
    }

    pub const fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// A group of `bits_min` to `bits_max` bits: one of the smallest that have `bits_wanted`, or of
    /// the largest when none has, at random. Without any in the file, a fixed group of RFC 3526.
    /// `None` when the request contradicts itself or asks for less than [`DH_BITS_MIN`].
    pub fn choose(
        &self,
        [bits_min, bits_wanted, bits_max]: [u32; 3],
        entropy: &mut dyn Entropy,
    ) -> Option<Group> {
        // RFC 8270: a request for less is answered with more, if the client allows any.
        let bits_min = bits_min.max(DH_BITS_MIN);
        let bits_max = bits_max.min(DH_BITS_MAX);
        let bits_wanted = bits_wanted.clamp(DH_BITS_MIN, DH_BITS_MAX);
        if bits_min > bits_max || !(bits_min..=bits_max).contains(&bits_wanted) {
            return None;
        }
        let fits = |modulus: &&Modulus| (bits_min..=bits_max).contains(&modulus.bits);
        let sizes = || self.groups.iter().filter(fits).map(|modulus| modulus.bits);
        let large = sizes().filter(|bits| *bits >= bits_wanted).min();
        let Some(bits) = large.or_else(|| sizes().max()) else {
            return fixed(bits_min, bits_wanted, bits_max);
        };
        let candidates = || self.groups.iter().filter(|modulus| modulus.bits == bits);
        let mut random = [0; 8];
        entropy.fill(&mut random);
        let place = u64::from_le_bytes(random) % candidates().count().max(1) as u64;
        let modulus = candidates().nth(place as usize)?;
        Group::new(&modulus.prime, &modulus.generator)
    }
}

/// As OpenSSH does: the group of RFC 3526 that the client's largest size allows.
fn fixed(bits_min: u32, bits_wanted: u32, bits_max: u32) -> Option<Group> {
    let kinds = [KexKind::DhGroup14, KexKind::DhGroup16, KexKind::DhGroup18];
    let mut groups = kinds.into_iter().filter_map(KexKind::group);
    let fits = |group: &Group| (bits_min..=bits_max).contains(&group.bits());
    let mut best = None;
    for group in groups.by_ref().filter(fits) {
        let enough = group.bits() >= bits_wanted;
        best = Some(group);
        if enough {
            break;
        }
    }
    best
}

/// One line: `time type tests tries size generator modulus`.
fn modulus(line: &str) -> Result<Modulus, &'static str> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, kind, tests, tries, size, generator, prime] = fields[..] else {
        return Err("seven fields are needed: time type tests tries size generator modulus");
    };
    if kind != SAFE_PRIME {
        return Err("the type is not 2, a safe prime");
    }
    let number = |field: &str| field.parse::<u32>();
    let tests = number(tests).map_err(|_| "the tests are not a number")?;
    if tests & COMPOSITE != 0 || tests & !COMPOSITE == 0 {
        return Err("the modulus has not been found prime; run ssh-keygen -M screen on it");
    }
    if number(tries).map_err(|_| "the tries are not a number")? == 0 {
        return Err("the modulus has not been tested; run ssh-keygen -M screen on it");
    }
    let size = number(size).map_err(|_| "the size is not a number")?;
    let generator = unhex(generator).ok_or("the generator is not hexadecimal")?;
    let prime = unhex(prime).ok_or("the modulus is not hexadecimal")?;
    let leading = prime.iter().position(|byte| *byte != 0).unwrap_or(prime.len());
    let prime = prime.get(leading..).unwrap_or(&[]).to_vec();
    let bits = 8 * prime.len() as u32 - prime.first().map_or(0, |first| first.leading_zeros());
    // The file counts from zero.
    if size.checked_add(1) != Some(bits) {
        return Err("the modulus does not have the size that is written before it");
    }
    if (DH_BITS_MIN..=DH_BITS_MAX).contains(&bits) && Group::new(&prime, &generator).is_none() {
        return Err("the modulus is even, or the generator is not one");
    }
    Ok(Modulus { bits, generator, prime })
}

/// moduli(5): the only type in use.
const SAFE_PRIME: &str = "2";
/// moduli(5): a test found the modulus composite.
const COMPOSITE: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SeededEntropy;
    use crate::crypto::kex::primes::{PRIME_2048, PRIME_4096};

    fn file() -> Moduli {
        let text = format!(
            "# Time Type Tests Tries Size Generator Modulus\n\n\
             20260101000000 2 6 100 2047 2 {PRIME_2048}\n\
             20260101000000 2 6 100 4095 5 {PRIME_4096}\n\
             20260101000000 2 6 100 1023 2 {}\n",
            "f".repeat(256)
        );
        let (moduli, bad) = Moduli::parse(&text);
        assert_eq!(bad, []);
        moduli
    }

    #[test]
    fn chooses_the_least_that_is_enough() {
        let choose = |request| {
            let group = file().choose(request, &mut SeededEntropy::new(1))?;
            Some((group.bits(), group.generator()))
        };
        assert_eq!(choose([2048, 2048, 8192]), Some((2048, vec![2])));
        assert_eq!(choose([1024, 1024, 8192]), Some((2048, vec![2])), "RFC 8270");
        assert_eq!(choose([2048, 3072, 8192]), Some((4096, vec![5])));
        assert_eq!(choose([2048, 8192, 8192]), Some((4096, vec![5])));
        assert_eq!(choose([2048, 3072, 4000]), Some((2048, vec![2])));
        // Nothing in the file fits, and one of the fixed groups does.
        assert_eq!(choose([8192, 8192, 8192]), Some((8192, vec![2])));
        let none = Moduli::default().choose([2048, 3072, 8192], &mut SeededEntropy::new(1));
        assert_eq!(none.map(|group| group.bits()), Some(4096));
    }

    /// SECURITY case 28: requests that contradict themselves.
    #[test]
    fn case_28_requests_that_cannot_be_met() {
        for request in [
            [4096, 4096, 2048],
            [2048, 8192, 4096],
            [4096, 2048, 8192],
            [0, 0, 0],
            [1024, 1024, 1024],
            [1 << 31, 1 << 31, 1 << 31],
            [u32::MAX; 3],
        ] {
            assert!(file().choose(request, &mut SeededEntropy::new(1)).is_none(), "{request:?}");
        }
    }

    #[test]
    fn bad_lines_are_named() {
        let lines = [
            ("20260101000000 2 6 100 2047 2", "seven fields"),
            ("20260101000000 4 6 100 2047 2 ff", "type"),
            ("20260101000000 2 7 100 2047 2 ff", "prime"),
            ("20260101000000 2 0 100 2047 2 ff", "prime"),
            ("20260101000000 2 6 0 2047 2 ff", "tested"),
            ("20260101000000 2 6 100 x 2 ff", "size"),
            ("20260101000000 2 6 100 2047 2 ff", "size"),
            ("20260101000000 2 6 100 2047 2 fg", "hexadecimal"),
            ("20260101000000 2 6 100 4294967295 2 ff", "size"),
        ];
        let generator_1 = format!("20260101000000 2 6 100 2047 1 {PRIME_2048}");
        for (line, expected) in lines.into_iter().chain([(&*generator_1, "generator")]) {
            let (moduli, bad) = Moduli::parse(&format!("# a\n{line}\n"));
            assert!(moduli.is_empty());
            assert!(bad.len() == 1 && bad[0].line == 2, "{line}");
            assert!(bad[0].to_string().contains(expected), "{line}: {}", bad[0]);
        }
    }
}
