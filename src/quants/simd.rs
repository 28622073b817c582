//! SIMD levels: the same safe code, compiled for several instruction sets and chosen at run time.
//!
//! A piece of [`Work`] is written once in plain Rust over arrays of lanes and inlined into a wrapper per
//! level, where the compiler vectorizes it. Rust neither contracts nor reassociates float operations,
//! so every level gives the same bits. Dispatch happens once per call on many rows, never per block. Merging
//! uses the same levels for its sums.

use std::sync::OnceLock;

/// An instruction set that this CPU has: holding a value is the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Level(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Something to compute at a level. Implementations and all they call must be `#[inline(always)]`:
/// only code inlined into the wrappers below is compiled for their instruction sets.
pub(crate) trait Work {
    fn run(self);
}

impl Level {
    /// All levels of this CPU, plainest first.
    pub(crate) fn available() -> Vec<Level> {
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "nothing is added"))]
        let mut levels = vec![Level(Kind::Baseline)];
        #[cfg(target_arch = "x86_64")]
        {
            if std::is_x86_feature_detected!("avx2") {
                levels.push(Level(Kind::Avx2));
            }
            if std::is_x86_feature_detected!("avx512f")
                && std::is_x86_feature_detected!("avx512bw")
                && std::is_x86_feature_detected!("avx512dq")
                && std::is_x86_feature_detected!("avx512vl")
            {
                levels.push(Level(Kind::Avx512));
            }
        }
        levels
    }

    /// The level to use: the CPU's best, or a lower one named by the environment variable
    /// `AQUEDUCT_SIMD` (`baseline`, `avx2`, `avx512`; a level the CPU lacks is ignored).
    pub(crate) fn best() -> Level {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| {
            let levels = Level::available();
            let wanted = std::env::var("AQUEDUCT_SIMD").unwrap_or_default();
            let forced = levels.iter().find(|level| level.name() == wanted);
            *forced.or(levels.last()).expect("the baseline is always there")
        })
    }

    fn name(self) -> &'static str {
        match self.0 {
            Kind::Baseline => "baseline",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
        }
    }

    /// Runs `work`, compiled for this level.
    pub(crate) fn run<W: Work>(self, work: W) {
        match self.0 {
            Kind::Baseline => work.run(),
            // SAFETY: a Level is made by `available` alone, after the CPU's features were detected.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { run_avx2(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { run_avx512(work) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2<W: Work>(work: W) {
    work.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn run_avx512<W: Work>(work: W) {
    work.run();
}
