/// A computation worth compiling once for every vector width.
///
/// [`Wide::run`] and what it calls should be `#[inline(always)]`: only what ends up inside the
/// caller is compiled for the wider instructions.
pub trait Wide {
    type Output;

    fn run(self) -> Self::Output;
}

/// Runs `work` with the widest vector instructions that this CPU and this function know: AVX2 on
/// x86-64 where it is there, otherwise what the program was compiled for. The result is the same.
pub fn run_wide<W: Wide>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the one condition of a function with target features is that the CPU has them,
        // and it was asked on the line above.
        return unsafe { run_avx2(work) };
    }
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2<W: Wide>(work: W) -> W::Output {
    work.run()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dot<'a>(&'a [i16], &'a [i16]);

    impl Wide for Dot<'_> {
        type Output = i32;

        #[inline(always)]
        fn run(self) -> i32 {
            self.0.iter().zip(self.1).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
        }
    }

    #[test]
    fn both_ways_give_the_same() {
        for len in 0..100 {
            let left: Vec<i16> = (0..len).map(|i| i * 37 - 1000).collect();
            let right: Vec<i16> = (0..len).map(|i| 900 - i * 11).collect();
            assert_eq!(run_wide(Dot(&left, &right)), Dot(&left, &right).run());
        }
    }
}
