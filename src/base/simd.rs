//! SIMD levels: the instruction sets that numeric code is compiled for, and the choice at run time.
//!
//! Code is written once, in plain Rust over arrays, and inlined into one wrapper per level, where
//! the compiler vectorizes it: a [`Work`], or a function defined by [`levels`]. Rust neither fuses
//! nor reorders float operations, so such code gives the same bits at every level. Not here: code
//! in intrinsics, which `kernels` selects by [`Level::instructions`].

use std::sync::OnceLock;

/// The environment variable that lowers the level: `baseline`, `avx2` or `avx512`, which is without
/// bf16. It never raises the level above what the CPU supports; other values are ignored.
const VARIABLE: &str = "AQUEDUCT_SIMD";

/// A set of vector instructions. Ordered: a later one includes the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum InstructionSet {
    /// What every CPU of the target has: SSE2 on x86-64, NEON on AArch64.
    Baseline,
    /// AVX2 and fused multiply-add.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with dot products of bf16.
    Avx512Bf16,
}

/// An instruction set that this CPU supports. Only detection makes a value, so that holding one
/// proves that code compiled for the set can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Level(InstructionSet);

/// A computation to run at a level. Implementations, and all functions they call, must be
/// `#[inline(always)]`: only code inlined into the wrappers is compiled for their instruction sets.
pub(crate) trait Work {
    /// The result of the computation.
    type Output;

    /// Computes the result.
    fn run(self) -> Self::Output;
}

impl Level {
    /// The level that every CPU supports.
    #[cfg(test)]
    pub(crate) const BASELINE: Level = Level(InstructionSet::Baseline);

    /// All levels that this CPU supports, lowest first.
    #[cfg(test)]
    pub(crate) fn available() -> impl Iterator<Item = Level> {
        use InstructionSet::{Avx2, Avx512, Avx512Bf16, Baseline};
        let best = supported();
        let all = [Baseline, Avx2, Avx512, Avx512Bf16];
        all.into_iter().filter(move |set| *set <= best).map(Level)
    }

    /// The level in use: the best that this CPU supports, or a lower one that `AQUEDUCT_SIMD`
    /// names. Decided at the first call.
    pub(crate) fn current() -> Level {
        static CURRENT: OnceLock<Level> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let name = std::env::var(VARIABLE).unwrap_or_default();
            Level(limit(&name).min(supported()))
        })
    }

    /// The instruction set of this level.
    pub(crate) fn instructions(self) -> InstructionSet {
        self.0
    }

    /// Runs `work`, compiled for this level.
    pub(crate) fn run<W: Work>(self, work: W) -> W::Output {
        match self.0 {
            // SAFETY: a Level exists only if the CPU supports its instruction set.
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => unsafe { run_avx2(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 | InstructionSet::Avx512Bf16 => unsafe { run_avx512(work) },
            _ => work.run(),
        }
    }
}

/// The highest instruction set that a value of the environment variable permits.
fn limit(name: &str) -> InstructionSet {
    match name {
        "baseline" => InstructionSet::Baseline,
        "avx2" => InstructionSet::Avx2,
        "avx512" => InstructionSet::Avx512,
        _ => InstructionSet::Avx512Bf16,
    }
}

/// The best instruction set that this CPU supports.
fn supported() -> InstructionSet {
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if avx2 && avx512 && is_x86_feature_detected!("avx512bf16") {
            return InstructionSet::Avx512Bf16;
        }
        if avx2 && avx512 {
            return InstructionSet::Avx512;
        }
        if avx2 {
            return InstructionSet::Avx2;
        }
    }
    InstructionSet::Baseline
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2<W: Work>(work: W) -> W::Output {
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn run_avx512<W: Work>(work: W) -> W::Output {
    work.run()
}

/// Defines a function whose body, another function that is `#[inline(always)]`, is compiled for
/// every level and runs at [`Level::current`].
macro_rules! levels {
    ($(#[$doc:meta])* $visibility:vis fn $name:ident ($($arg:ident: $type:ty),*) $(-> $ret:ty)? = $body:ident;) => {
        $(#[$doc])*
        $visibility fn $name($($arg: $type),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::base::simd::{InstructionSet, Level};
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) $(-> $ret)? {
                    $body($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($arg: $type),*) $(-> $ret)? {
                    $body($($arg),*)
                }
                match Level::current().instructions() {
                    InstructionSet::Baseline => {}
                    // SAFETY: a Level exists only if the CPU supports its instruction set.
                    InstructionSet::Avx2 => return unsafe { avx2($($arg),*) },
                    // SAFETY: as above.
                    _ => return unsafe { avx512($($arg),*) },
                }
            }
            $body($($arg),*)
        }
    };
}
pub(crate) use levels;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_lowers_the_level_only() {
        assert_eq!(limit("baseline"), InstructionSet::Baseline);
        assert_eq!(limit("avx2"), InstructionSet::Avx2);
        assert_eq!(limit("avx512"), InstructionSet::Avx512);
        for other in ["", "AVX2", "neon"] {
            assert_eq!(limit(other).min(supported()), supported());
        }
        let levels: Vec<Level> = Level::available().collect();
        assert_eq!(levels[0], Level::BASELINE);
        assert!(levels.is_sorted());
        assert!(levels.contains(&Level::current()));
    }
}
