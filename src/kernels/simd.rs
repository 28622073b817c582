//! Which vector instructions the processor has.

use std::sync::OnceLock;

/// A set of vector instructions. Ordered: a later level includes the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What the target always has: SSE2 on x86-64, NEON on AArch64.
    Baseline,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// AVX-512 with vectors of all lengths and elements (F, BW, VL).
    Avx512,
    /// AVX-512 with dot products of bf16.
    Avx512Bf16,
}

/// The environment variable that lowers the level: `baseline`, `avx2` or `avx512`, which is without
/// bf16. It never raises it over what the processor has.
const VARIABLE: &str = "AQUEDUCT_SIMD";

impl Level {
    /// The best level the processor has.
    fn supported() -> Level {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl");
            if avx2 && avx512 {
                return match is_x86_feature_detected!("avx512bf16") {
                    true => Level::Avx512Bf16,
                    false => Level::Avx512,
                };
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
                Ok("avx512") => Level::Avx512,
                _ => Level::Avx512Bf16,
            };
            asked.min(Level::supported())
        })
    }

    /// Every level the processor can run, for tests.
    pub fn available() -> impl Iterator<Item = Level> {
        let best = Level::supported();
        let all = [Level::Baseline, Level::Avx2, Level::Avx512, Level::Avx512Bf16];
        all.into_iter().filter(move |level| *level <= best)
    }
}

/// Defines `$name` as `$body`, compiled for AVX2 and AVX-512 too and dispatched at run time.
macro_rules! levels {
    ($(#[$doc:meta])* $name:ident ($($arg:ident: $type:ty),*) $(-> $ret:ty)? = $body:ident) => {
        $(#[$doc])*
        #[allow(unreachable_pub)] // Only some of these functions are exported.
        pub fn $name($($arg: $type),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) $(-> $ret)? {
                    $body($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
                fn avx512($($arg: $type),*) $(-> $ret)? {
                    $body($($arg),*)
                }
                // SAFETY: the level says that the processor has what each is compiled for.
                match $crate::kernels::Level::current() {
                    $crate::kernels::Level::Baseline => {}
                    $crate::kernels::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    _ => return unsafe { avx512($($arg),*) },
                }
            }
            $body($($arg),*)
        }
    };
}
pub(super) use levels;
