//! Which vector instructions the processor has.

use std::sync::OnceLock;

/// A set of vector instructions. Ordered: a later level includes the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What the target always has: SSE2 on x86-64, NEON on AArch64.
    Baseline,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// AVX-512 foundation, 512-bit vectors.
    Avx512,
}

/// The environment variable that lowers the level: `baseline`, `avx2` or `avx512`. It never raises
/// it over what the processor has.
const VARIABLE: &str = "AQUEDUCT_SIMD";

impl Level {
    /// The best level the processor has.
    fn supported() -> Level {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2 && is_x86_feature_detected!("avx512f") {
                return Level::Avx512;
            }
            if avx2 {
                return Level::Avx2;
            }
        }
        Level::Baseline
    }

    /// The level in use: the processor's, or a lower one that `AQUEDUCT_SIMD` asks for. Decided at
    /// the first call.
    pub fn current() -> Level {
        static CURRENT: OnceLock<Level> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let asked = match std::env::var(VARIABLE).as_deref() {
                Ok("baseline") => Level::Baseline,
                Ok("avx2") => Level::Avx2,
                _ => Level::Avx512,
            };
            asked.min(Level::supported())
        })
    }

    /// Every level the processor can run, for tests.
    pub fn available() -> impl Iterator<Item = Level> {
        let best = Level::supported();
        [Level::Baseline, Level::Avx2, Level::Avx512].into_iter().filter(move |l| *l <= best)
    }
}
