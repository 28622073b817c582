//! Rows and importance values that are awkward for a search: all finite, from the smallest denormal to
//! near the largest float. `scripts/hash-stress` makes the same ones; all is exact or rounded once.

/// Columns of a row: one block of the largest types, whole blocks of the others.
pub(crate) const ROW_LEN: usize = 256;

pub(crate) const PATTERNS: [&str; 14] = [
    "zero",
    "minus zero",
    "constant",
    "alternating",
    "one-hot",
    "last",
    "bell",
    "ramp",
    "positive",
    "negative",
    "outlier",
    "levels",
    "mixed",
    "half zero",
];

/// Sizes of rows, as powers of two.
const SIZES: [i32; 20] =
    [-149, -140, -130, -126, -110, -75, -52, -40, -24, -14, 0, 10, 15, 17, 20, 30, 50, 62, 66, 127];

pub(crate) const IMPORTANCES: [&str; 9] =
    ["none", "ones", "zeros", "one-hot", "sparse", "denormal", "tiny", "bell", "half zero"];

/// The generator behind all values.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// 24 bits.
    pub(crate) fn next(&mut self) -> u32 {
        let next = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = next.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as u32
    }

    fn unit(&mut self) -> f32 {
        self.next() as f32 / (1 << 24) as f32 - 0.5
    }

    /// -1 to 1, mostly near zero.
    pub(crate) fn bell(&mut self) -> f32 {
        self.unit() + self.unit()
    }
}

/// A power of two, denormal ones included.
pub(crate) fn power(exponent: i32) -> f32 {
    2f64.powi(exponent) as f32
}

/// A row of `pattern`, whose largest magnitude is 1 at most, times two to the `size`.
pub(crate) fn row(pattern: &str, size: i32, random: &mut Random) -> Vec<f32> {
    let mut value = |i: usize| match pattern {
        "zero" => 0.0,
        "minus zero" => [-0.0, 0.0, 0.0][i % 3],
        "constant" => 1.0,
        "alternating" => [1.0, -1.0][i % 2],
        "one-hot" => f32::from(u8::from(i == 37)),
        "last" => -f32::from(u8::from(i == 255)),
        "bell" => random.bell(),
        "ramp" => i as f32 / 256.0,
        "positive" => random.bell().abs(),
        "negative" => -random.bell().abs(),
        "outlier" if i % 64 == 9 => 1.0,
        "outlier" => random.bell() * power(-10),
        "levels" => ((random.next() % 5) as f32 - 2.0) / 2.0,
        "mixed" => random.bell() * power(-2 * (i as i32 / 16)),
        "half zero" if (i / 32).is_multiple_of(2) => 0.0,
        "half zero" => random.bell(),
        _ => unreachable!("{pattern}"),
    };
    (0..ROW_LEN).map(|i| value(i) * power(size)).collect()
}

/// Importance values of the columns.
fn importance(kind: &str, random: &mut Random) -> Option<Vec<f32>> {
    let mut value = |i: usize| match kind {
        "ones" => 1.0,
        "zeros" => 0.0,
        "one-hot" => f32::from(u8::from(i == 40)),
        "sparse" if !random.next().is_multiple_of(40) => 0.0,
        "sparse" => random.bell().abs(),
        "denormal" => (1 + i % 7) as f32 * power(-149),
        "tiny" => power(-100),
        "bell" => {
            let value = random.bell();
            value * value
        }
        "half zero" => f32::from(u8::from(i / 32 % 2 == 1)),
        _ => unreachable!("{kind}"),
    };
    (kind != "none").then(|| (0..ROW_LEN).map(&mut value).collect())
}

/// For each kind of importance, its values and the rows that go with it.
pub(crate) fn cases() -> Vec<(Option<Vec<f32>>, Vec<f32>)> {
    let mut random = Random::new(1);
    let mut cases = Vec::new();
    for kind in IMPORTANCES {
        let importance = importance(kind, &mut random);
        let mut rows = Vec::new();
        for pattern in PATTERNS {
            for size in SIZES {
                // Single huge weights stop the reference in IQ1_M.
                let single = matches!(pattern, "one-hot" | "last");
                if !(single && size > 62) {
                    rows.extend(row(pattern, size, &mut random));
                }
            }
        }
        cases.push((importance, rows));
    }
    cases
}
