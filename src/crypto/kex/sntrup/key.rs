//! Pairs of keys. The two inverses that a pair needs are found by division steps (Bernstein and Yang,
//! "Fast constant-time gcd computation and modular inversion", 2019), whose number and order depend on
//! nothing but the degree.

use zeroize::Zeroizing;

use super::coding::{encode, encode_small};
use super::ring::{HALF_Q, modulo_q, multiply};
use super::{KEY_BYTES, P, Q, SECRET_BYTES, SMALL_BYTES, hash, short};
use crate::base::{Entropy, Wide, run_wide};

/// The coefficients of the modulus, x^761 - x - 1, rounded up to whole vectors.
const PADDED: usize = 768;
/// Division steps after which two polynomials of these degrees have met in a constant.
const STEPS: usize = 2 * P - 1;
/// Room for a polynomial that moves one place at each step.
const MOVING: usize = PADDED + STEPS;

/// An encapsulation key and its secret: f, 1/g, the key, what stands for the secret of a failure, and the
/// key's hash.
pub(in crate::crypto::kex) fn generate(
    entropy: &mut dyn Entropy,
) -> ([u8; KEY_BYTES], Box<Zeroizing<[u8; SECRET_BYTES]>>) {
    let (g, g_inverse) = loop {
        let g = draw_small(entropy);
        // One in many millions has no inverse; that it had none tells nothing of the next.
        if let Some(inverse) = run_wide(InverseModulo3(&g)) {
            break (g, inverse);
        }
    };
    let f = run_wide(super::Short(&short::draw(entropy)));
    let mut failure = Zeroizing::new([0; SMALL_BYTES]);
    entropy.fill(failure.as_mut_slice());
    let numbers = run_wide(Quotient { g: &g, f: &f });
    let mut key = [0; KEY_BYTES];
    fill(&mut key, &[&encode(numbers.as_slice(), Q)]);
    let mut secret = Box::new(Zeroizing::new([0; SECRET_BYTES]));
    let f = Zeroizing::new(encode_small(&f));
    let g_inverse = Zeroizing::new(encode_small(&g_inverse));
    let key_hash = hash(4, &[&key]);
    let parts = [f.as_slice(), g_inverse.as_slice(), &key, failure.as_slice(), key_hash.as_slice()];
    fill(secret.as_mut_slice(), &parts);
    (key, secret)
}

/// Copies the parts, one behind the other.
fn fill(to: &mut [u8], parts: &[&[u8]]) {
    for (to, from) in to.iter_mut().zip(parts.iter().copied().flatten()) {
        *to = *from;
    }
}

/// Coefficients of -1, 0 and 1, each as likely as 30 random bits allow.
fn draw_small(entropy: &mut dyn Entropy) -> Zeroizing<[i16; P]> {
    let mut coefficients = Zeroizing::new([0; P]);
    for (coefficient, number) in coefficients.iter_mut().zip(short::draw(entropy).iter()) {
        *coefficient = (((number & 0x3fff_ffff) * 3) >> 30) as i16 - 1;
    }
    coefficients
}

/// What a division step multiplies all coefficients with.
#[derive(Clone, Copy)]
struct Factor {
    value: i16,
    /// The value divided by [`Q`] modulo 2^16.
    twisted: i16,
}

/// The fields that coefficients are of.
trait Field {
    /// The least residue, and what goes with it.
    fn factor(number: i16) -> Factor;

    /// `a * x - b * y`, times a constant that is the same every time.
    fn combine(a: Factor, x: i16, b: Factor, y: i16) -> i16;
}

struct Modulo3;

impl Field for Modulo3 {
    #[inline(always)]
    fn factor(value: i16) -> Factor {
        Factor { value, twisted: 0 }
    }

    #[inline(always)]
    fn combine(a: Factor, x: i16, b: Factor, y: i16) -> i16 {
        let sum = a.value * x - b.value * y;
        // Within two of zero; all ones where it is 2, and where it is -2.
        let (high, low) = ((1 - sum) >> 15, (sum + 1) >> 15);
        sum - (high & 3) + (low & 3)
    }
}

struct ModuloQ;

impl ModuloQ {
    /// `number * factor / 2^16`, within 2,618 of zero for numbers within 2^15 / 3 (Montgomery).
    #[inline(always)]
    fn times(number: i16, factor: Factor) -> i16 {
        let high = |a: i16, b: i16| ((i32::from(a) * i32::from(b)) >> 16) as i16;
        high(number, factor.value) - high(number.wrapping_mul(factor.twisted), Q as i16)
    }
}

impl Field for ModuloQ {
    #[inline(always)]
    fn factor(number: i16) -> Factor {
        let value = modulo_q(i32::from(number));
        Factor { value, twisted: value.wrapping_mul(INVERSE_OF_Q) }
    }

    #[inline(always)]
    fn combine(a: Factor, x: i16, b: Factor, y: i16) -> i16 {
        ModuloQ::times(x, a) - ModuloQ::times(y, b)
    }
}

/// 1 / [`Q`] modulo 2^16: each round doubles the bits that are right, of which there are three at first.
const INVERSE_OF_Q: i16 = {
    let (q, mut inverse, mut round) = (Q as i16, Q as i16, 0);
    while round < 3 {
        inverse = inverse.wrapping_mul(2i16.wrapping_sub(q.wrapping_mul(inverse)));
        round += 1;
    }
    inverse
};
/// 1 / 3 modulo [`Q`].
const THIRD: i16 = -1530;

/// All ones where a number is not zero.
#[inline(always)]
const fn nonzero(number: i32) -> i32 {
    (number | number.wrapping_neg()) >> 31
}

/// What division steps leave: `constant / first` times the inverse, backwards, if it has one.
struct Divided {
    backwards: Zeroizing<[i16; P]>,
    constant: i16,
    is_inverse: bool,
}

/// Brings the modulus and a polynomial, both backwards, down to a constant. `(f, v)` and `(g, r)` are two
/// pairs whose second, times the polynomial, is the first but for a power of x and one constant.
#[inline(always)]
fn divide<F: Field>(polynomial: &[i16; P], first: i16) -> Divided {
    let modulus = |at: usize| i16::from(at == 0) - i16::from(at == P - 1 || at == P);
    let mut f: Zeroizing<[i16; PADDED]> = Zeroizing::new(std::array::from_fn(modulus));
    let mut r = Zeroizing::new([0i16; PADDED]);
    // g is divided by x at each step, and v multiplied: they are looked at through windows that move.
    let (mut g, mut v) = (Zeroizing::new([0i16; MOVING]), Zeroizing::new([0i16; MOVING]));
    for (to, from) in g.iter_mut().zip(polynomial.iter().rev()) {
        *to = *from;
    }
    r.iter_mut().take(1).for_each(|constant| *constant = first);
    let mut delta = 1i32;
    for step in 0..STEPS {
        let g = g.get_mut(step..step + PADDED).unwrap_or_default();
        let v = v.get_mut(STEPS - 1 - step..STEPS - 1 - step + PADDED).unwrap_or_default();
        let constant = |of: &[i16]| of.first().copied().unwrap_or(0);
        let (f0, g0) = (F::factor(constant(f.as_slice())), F::factor(constant(g)));
        let swap = (-delta >> 31) & nonzero(i32::from(g0.value));
        delta ^= swap & (delta ^ -delta);
        delta += 1;
        let swap = swap as i16;
        let (a, b) = (chosen(swap, g0, f0), chosen(swap, f0, g0));
        advance::<F>(swap, f.as_mut_slice(), g, a, b);
        advance::<F>(swap, v, r.as_mut_slice(), a, b);
    }
    let mut backwards = Zeroizing::new([0; P]);
    for (to, from) in backwards.iter_mut().zip(v.iter()) {
        *to = *from;
    }
    let constant = f.first().copied().unwrap_or(0);
    Divided { backwards, constant, is_inverse: delta == 0 }
}

/// The first where the mask is all ones, else the second.
#[inline(always)]
fn chosen(mask: i16, this: Factor, that: Factor) -> Factor {
    let choose = |this: i16, that: i16| that ^ (mask & (this ^ that));
    Factor { value: choose(this.value, that.value), twisted: choose(this.twisted, that.twisted) }
}

/// One step of one half of both pairs: they change places under the mask, then the lower is combined with
/// the upper.
#[inline(always)]
fn advance<F: Field>(swap: i16, upper: &mut [i16], lower: &mut [i16], a: Factor, b: Factor) {
    for (upper, lower) in upper.iter_mut().zip(lower) {
        let change = swap & (*upper ^ *lower);
        let (above, below) = (*upper ^ change, *lower ^ change);
        *upper = above;
        *lower = F::combine(a, below, b, above);
    }
}

/// 1 / g modulo 3, where there is one.
struct InverseModulo3<'a>(&'a [i16; P]);

impl Wide for InverseModulo3<'_> {
    type Output = Option<Zeroizing<[i16; P]>>;

    #[inline(always)]
    fn run(self) -> Self::Output {
        let divided = divide::<Modulo3>(self.0, 1);
        let mut inverse = Zeroizing::new([0; P]);
        for (to, from) in inverse.iter_mut().zip(divided.backwards.iter().rev()) {
            *to = divided.constant * from;
        }
        divided.is_inverse.then_some(inverse)
    }
}

/// g / 3f modulo [`Q`], as numbers from zero. Every f that is not zero has an inverse.
struct Quotient<'a> {
    g: &'a [i16; P],
    f: &'a [i16; P],
}

impl Wide for Quotient<'_> {
    type Output = Zeroizing<[u16; P]>;

    #[inline(always)]
    fn run(self) -> Zeroizing<[u16; P]> {
        let divided = divide::<ModuloQ>(self.f, THIRD);
        let scale = reciprocal(divided.constant);
        let mut inverse = Zeroizing::new([0; P]);
        for (to, from) in inverse.iter_mut().zip(divided.backwards.iter().rev()) {
            *to = modulo_q(i32::from(scale) * i32::from(modulo_q(i32::from(*from))));
        }
        let mut numbers = Zeroizing::new([0; P]);
        for (number, sum) in numbers.iter_mut().zip(multiply(&inverse, self.g).iter()) {
            *number = (i32::from(modulo_q(*sum)) + HALF_Q) as u16;
        }
        numbers
    }
}

/// 1 / number modulo [`Q`], a prime: the power of Q - 2.
#[inline(always)]
fn reciprocal(number: i16) -> i16 {
    let number = i32::from(modulo_q(i32::from(number)));
    let times = |a: i32, b: i32| i32::from(modulo_q(a * b));
    let (mut power, mut square, mut exponent) = (1, number, Q - 2);
    while exponent > 0 {
        if exponent & 1 == 1 {
            power = times(power, square);
        }
        square = times(square, square);
        exponent >>= 1;
    }
    power as i16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SeededEntropy;
    use crate::crypto::kex::sntrup::ring::modulo_3;

    /// What is multiplied with its inverse is one.
    fn one(product: impl Iterator<Item = i16>) -> bool {
        product.enumerate().all(|(at, coefficient)| coefficient == i16::from(at == 0))
    }

    #[test]
    fn inverses_are_inverses() {
        for seed in 0..8 {
            let g = draw_small(&mut SeededEntropy::new(seed));
            let inverse = InverseModulo3(&g).run().expect("an inverse");
            assert_eq!(run_wide(InverseModulo3(&g)), Some(inverse.clone()));
            assert!(one(multiply(&g, &inverse).iter().map(|sum| modulo_3(*sum))));
            // g / 3f, times f, is a third of g.
            let f = short::short(&short::draw(&mut SeededEntropy::new(100 + seed)));
            let numbers = Quotient { g: &g, f: &f }.run();
            assert_eq!(run_wide(Quotient { g: &g, f: &f }), numbers);
            let h = std::array::from_fn(|at| (i32::from(numbers[at]) - HALF_Q) as i16);
            for (sum, g) in multiply(&h, &f).iter().zip(g.iter()) {
                assert_eq!(modulo_q(3 * i32::from(modulo_q(*sum))), *g);
            }
        }
    }

    #[test]
    fn what_has_no_inverse_is_told() {
        assert_eq!(InverseModulo3(&[0; P]).run(), None);
        let mut one = [0; P];
        one[0] = 1;
        assert_eq!(InverseModulo3(&one).run().as_deref(), Some(&one));
    }

    #[test]
    fn factors_stay_within_their_bounds() {
        assert_eq!(INVERSE_OF_Q.wrapping_mul(Q as i16), 1);
        assert_eq!(modulo_q(3 * i32::from(THIRD)), 1);
        for number in 1..Q {
            let number = number as i16;
            let product = i32::from(modulo_q(i32::from(number))) * i32::from(reciprocal(number));
            assert_eq!(modulo_q(product), 1, "{number}");
        }
        const EDGE: i16 = 2 * 2618;
        for value in -2295..=2295 {
            let factor = ModuloQ::factor(value);
            for number in [-EDGE, -4591, -2296, -1, 0, 1, 2295, 4592, EDGE] {
                let times = i32::from(ModuloQ::times(number, factor));
                assert!(times.abs() <= 2618, "{number} * {value}");
                let back = i64::from(times) << 16;
                let product = i64::from(number) * i64::from(value);
                assert_eq!((back - product) % i64::from(Q), 0, "{number} * {value}");
            }
        }
        for (a, x, b, y) in
            [(1, 1, -1, 1), (1, -1, 1, 1), (0, 1, 1, 1), (1, 1, 1, 1), (-1, 1, 0, 0)]
        {
            let sum = Modulo3::combine(Modulo3::factor(a), x, Modulo3::factor(b), y);
            assert_eq!(sum, modulo_3(i32::from(a * x - b * y)));
        }
    }
}
