//! Arithmetic of polynomials modulo x^761 - x - 1, their coefficients modulo 4591 or 3. Constant
//! time: no branch and no address depends on a coefficient. Plain loops that compilers vectorise.

use zeroize::Zeroizing;

use super::{P, Q};

/// [`P`] rounded up to whole vectors.
const PADDED: usize = 768;
/// One factor's coefficients for every power that a product can need, and the padding.
const SPREAD: usize = P + PADDED - 1;

/// The product of two polynomials as plain sums, not reduced: each is within 3 * 761 * the product
/// of the factors' bounds, which keeps 2295 * 1 well inside 32 bits.
#[inline(always)]
pub(super) fn multiply(left: &[i16; P], right: &[i16; P]) -> Zeroizing<[i32; P]> {
    let mut padded = Zeroizing::new([0i16; PADDED]);
    for (to, from) in padded.iter_mut().zip(left) {
        *to = *from;
    }
    let spread = spread(right);
    let mut product = Zeroizing::new([0i32; P]);
    // The coefficient of x^k is one dot product with the window that ends where k begins.
    for (sum, window) in product.iter_mut().rev().zip(spread.windows(PADDED)) {
        *sum = dot(&padded, window);
    }
    // Spreading took x^(P-1) for x^(2P-1) at k = 0, which a product does not have.
    let excess: i32 = left
        .iter()
        .zip(right.iter().rev())
        .map(|(left, right)| i32::from(*left) * i32::from(*right))
        .sum();
    if let Some(first) = product.first_mut() {
        *first -= excess;
    }
    product
}

/// Because x^P = x + 1, the coefficient of x^k in a product is the sum over j of `left[j]` times
/// s(k - j), where `s(t) = right[t] + right[t + P] + right[t + P - 1]` and what is out of range is
/// zero. Here s lies backwards, from t = P - 1 down, so that j counts up.
#[inline(always)]
fn spread(right: &[i16; P]) -> Zeroizing<[i16; SPREAD]> {
    let mut spread = Zeroizing::new([0i16; SPREAD]);
    for (to, from) in spread.iter_mut().zip(right.iter().rev()) {
        *to = *from;
    }
    // t = 0 is at P - 1 and t = -1 at P, where the other two terms begin.
    for shift in [P - 1, P] {
        let wrapped = spread.iter_mut().skip(shift);
        for (to, from) in wrapped.zip(right.iter().rev()) {
            *to += *from;
        }
    }
    spread
}

#[inline(always)]
fn dot(left: &[i16; PADDED], right: &[i16]) -> i32 {
    left.iter().zip(right).map(|(left, right)| i32::from(*left) * i32::from(*right)).sum()
}

/// The residue modulo 4591 nearest to zero, for numbers within 2^23.
#[inline(always)]
pub(super) const fn modulo_q(number: i32) -> i16 {
    const Q32: i32 = Q as i32;
    // 2^18 / Q and 2^27 / Q, rounded: the first step leaves less than 4 Q, the second is exact.
    let number = number - Q32 * ((57 * number) >> 18);
    let number = number - Q32 * ((29_235 * number + (1 << 26)) >> 27);
    number as i16
}

/// The residue modulo 3 nearest to zero, for numbers within 2^15.
#[inline(always)]
pub(super) const fn modulo_3(number: i32) -> i16 {
    (number - 3 * ((10_923 * number + (1 << 14)) >> 15)) as i16
}

/// Rounds a residue modulo 4591 to a multiple of three and answers which, counted from the least.
#[inline(always)]
pub(super) const fn rounded(residue: i16) -> u16 {
    let third = 21_846 * (residue as i32 + HALF_Q) + (1 << 15);
    (third >> 16) as u16
}

/// The multiple of three that [`rounded`] counted.
#[inline(always)]
pub(super) const fn unrounded(count: u16) -> i16 {
    (3 * count as i32 - HALF_Q) as i16
}

/// The largest residue.
pub(super) const HALF_Q: i32 = (Q as i32 - 1) / 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: the product, then x^P = x + 1 from the top.
    fn by_definition(left: &[i16; P], right: &[i16; P]) -> Vec<i32> {
        let mut product = vec![0i32; 2 * P - 1];
        for (i, left) in left.iter().enumerate() {
            for (j, right) in right.iter().enumerate() {
                product[i + j] += i32::from(*left) * i32::from(*right);
            }
        }
        for top in (P..2 * P - 1).rev() {
            product[top - P] += product[top];
            product[top - P + 1] += product[top];
        }
        product.truncate(P);
        product
    }

    #[test]
    fn products_are_those_of_the_definition() {
        let pseudo = |seed: u64, half: i64| {
            std::array::from_fn(|i| {
                let mixed = (seed + i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
                (mixed as i64 % (2 * half + 1) - half) as i16
            })
        };
        let mut cases: Vec<([i16; P], [i16; P])> = vec![
            (pseudo(1, 2295), pseudo(2, 1)),
            (pseudo(3, 2295), [1; P]),
            ([2295; P], [1; P]),
            ([-2295; P], [1; P]),
            ([1; P], [-1; P]),
        ];
        for place in [0, 1, 2, 380, 759, 760] {
            let mut single = [0; P];
            single[place] = 1;
            cases.push((pseudo(4, 2295), single));
            cases.push((single, pseudo(5, 1)));
        }
        for (left, right) in cases {
            assert_eq!(multiply(&left, &right).to_vec(), by_definition(&left, &right));
        }
    }

    #[test]
    fn residues_are_nearest_to_zero() {
        const BOUND: i32 = 3 * 761 * 2295;
        let edges = (-BOUND / 4591..=BOUND / 4591)
            .flat_map(|turns| [-2296, -2295, -1, 0, 1, 2295, 2296].map(|near| turns * 4591 + near));
        for number in edges.chain([-BOUND, BOUND]) {
            let residue = i32::from(modulo_q(number));
            assert!((-2295..=2295).contains(&residue), "{number}");
            assert_eq!((number - residue) % 4591, 0, "{number}");
        }
        for number in -7000..=7000 {
            let residue = i32::from(modulo_3(number));
            assert!((-1..=1).contains(&residue) && (number - residue) % 3 == 0, "{number}");
        }
    }

    #[test]
    fn rounding_goes_to_the_nearest_multiple_of_three() {
        for residue in -2295i16..=2295 {
            let near = unrounded(rounded(residue));
            assert!((residue - near).abs() <= 1 && near % 3 == 0, "{residue}");
            assert!(rounded(residue) < 1531);
        }
    }
}
