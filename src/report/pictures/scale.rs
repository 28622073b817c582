//! Scales of heat maps: values to colours, and the marks beside them.

/// The colours of matplotlib's viridis (Stéfan van der Walt and Nathaniel Smith, CC0), every ninth part:
/// even steps to the eye, and told apart with the usual colour deficiencies and in grey.
const VIRIDIS: [[u8; 3]; 10] = [
    [0x44, 0x01, 0x54],
    [0x48, 0x28, 0x78],
    [0x3e, 0x49, 0x89],
    [0x31, 0x68, 0x8e],
    [0x26, 0x82, 0x8e],
    [0x1f, 0x9e, 0x89],
    [0x35, 0xb7, 0x79],
    [0x6e, 0xce, 0x58],
    [0xb5, 0xde, 0x2b],
    [0xfd, 0xe7, 0x25],
];

/// `#rrggbb` at `position`, 0 to 1.
pub(crate) fn colour(position: f64) -> String {
    let at = position.clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f64;
    let low = (at as usize).min(VIRIDIS.len() - 2);
    let part = at - low as f64;
    let mix = |channel: usize| {
        let [a, b] = [VIRIDIS[low], VIRIDIS[low + 1]].map(|colour| f64::from(colour[channel]));
        (a + (b - a) * part).round() as u8
    };
    format!("#{:02x}{:02x}{:02x}", mix(0), mix(1), mix(2))
}

/// Where values stand between a low and a high end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scale {
    /// Of logarithmic scales, exponents of ten.
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Scale {
    /// From the power of ten below the least of `values` to the one above the greatest; those that are
    /// not above 0 have no place. `None` without any that is.
    pub(crate) fn logarithmic(values: impl Iterator<Item = f64>) -> Option<Scale> {
        let (low, high) = ends(values.filter(|v| *v > 0.0).map(f64::log10))?;
        let low = low.floor();
        Some(Scale { low, high: high.ceil().max(low + 1.0), logarithmic: true })
    }

    /// From the tenth below the least of `values` to `high`.
    pub(crate) fn linear_to(high: f64, values: impl Iterator<Item = f64>) -> Option<Scale> {
        let (least, _) = ends(values)?;
        let low = ((least * 10.0).floor() / 10.0).min(high - 0.1);
        Some(Scale { low, high, logarithmic: false })
    }

    /// Where `value` stands, 0 to 1.
    pub(crate) fn position(&self, value: f64) -> Option<f64> {
        let value = if self.logarithmic { value.log10() } else { value };
        let position = (value - self.low) / (self.high - self.low);
        position.is_finite().then(|| position.clamp(0.0, 1.0))
    }

    /// Positions and texts of at most `most` marks (2 or more), at round values, the low end among them.
    pub(crate) fn marks(&self, most: usize) -> Vec<(f64, String)> {
        let unit = if self.logarithmic { 1.0 } else { 0.1 };
        let units = ((self.high - self.low) / unit).round() as usize;
        let least = units.div_ceil(most.max(2) - 1).max(1);
        // Every third power of ten is as round as any, but not every third tenth.
        let step = if !self.logarithmic && matches!(least, 3 | 4) { 5 } else { least };
        let mark = |n: usize| {
            let value = self.low + n as f64 * unit;
            (n as f64 / units as f64, self.text(value))
        };
        (0..=units).step_by(step).map(mark).collect()
    }

    fn text(&self, value: f64) -> String {
        match (self.logarithmic, value as i32) {
            (false, _) => format!("{value:.1}"),
            (true, exponent @ -3..0) => {
                format!("{:.*}", exponent.unsigned_abs() as usize, 10f64.powi(exponent))
            }
            (true, exponent @ 0..=3) => format!("{}", 10f64.powi(exponent)),
            (true, exponent) => format!("1e{exponent}"),
        }
    }
}

/// The least and the greatest of the values that are finite.
fn ends(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|v| v.is_finite()).fold(None, |ends, v| {
        let (low, high) = ends.unwrap_or((v, v));
        Some((low.min(v), high.max(v)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_run_from_end_to_end() {
        assert_eq!([0.0, 1.0, -3.0, 7.0].map(colour), ["#440154", "#fde725", "#440154", "#fde725"]);
        assert_eq!(colour(1.0 / 9.0), "#482878");
        assert_eq!(colour(0.5 / 9.0), "#461566", "halfway between the first two");
    }

    #[test]
    fn logarithmic_scales_have_powers_of_ten() {
        let scale = Scale::logarithmic([0.0, 0.02, 350.0, f64::NAN].into_iter()).unwrap();
        assert_eq!(scale.position(0.01), Some(0.0));
        assert_eq!(scale.position(1000.0), Some(1.0));
        assert_eq!(scale.position(0.0), None);
        let texts = |most| scale.marks(most).into_iter().map(|(_, text)| text).collect::<Vec<_>>();
        assert_eq!(texts(6), ["0.01", "0.1", "1", "10", "100", "1000"]);
        assert_eq!(texts(4), ["0.01", "1", "100"]);
        assert_eq!(Scale::logarithmic([1e-7, 1e6].into_iter()).unwrap().marks(2)[0].1, "1e-7");
        assert_eq!(Scale::logarithmic([0.0].into_iter()), None);
        assert_eq!(Scale::logarithmic([10.0].into_iter()).unwrap().marks(3).len(), 2);
    }

    #[test]
    fn linear_scales_have_tenths() {
        let scale = Scale::linear_to(1.0, [0.78, 0.99].into_iter()).unwrap();
        let marks: Vec<_> = scale.marks(4).into_iter().map(|(_, text)| text).collect();
        assert_eq!(marks, ["0.7", "0.8", "0.9", "1.0"]);
        assert!((scale.position(0.85).unwrap() - 0.5).abs() < 1e-9);
        let whole = Scale::linear_to(1.0, [0.05].into_iter()).unwrap();
        let marks: Vec<_> = whole.marks(5).into_iter().map(|(_, text)| text).collect();
        assert_eq!(marks, ["0.0", "0.5", "1.0"]);
        let one = Scale::linear_to(1.0, [1.0].into_iter()).unwrap();
        assert_eq!((one.position(1.0), one.marks(4).len()), (Some(1.0), 2));
    }
}
