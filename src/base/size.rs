//! Sizes and counts as people write them: `5GB`, `500MB`, `1GiB`, `135M` parameters.

/// Names of units, and their bytes.
const UNITS: &[(&str, u64)] = &[
    ("KIB", 1 << 10),
    ("MIB", 1 << 20),
    ("GIB", 1 << 30),
    ("TIB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("K", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("B", 1),
    ("", 1),
];

/// Parses a size in bytes. `GB` is 10^9 and `GiB` 2^30 bytes, in upper or lower case. A plain number is
/// bytes; decimals (`1.5GB`) are allowed.
///
/// # Errors
/// Zero and anything else, with a message for the user.
pub fn parse(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let fail = || format!("'{text}' is not a size; write 5GB, 500MB or 1GiB, for example");
    let digits_end =
        trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits_end);
    let unit = unit.trim().to_ascii_uppercase();
    let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|u| u.1).ok_or_else(fail)?;
    let bytes = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(factor).ok_or_else(fail)?,
        Err(_) => {
            let bytes = number.parse::<f64>().map_err(|_| fail())? * factor as f64;
            // 2^63 rather than u64::MAX, which an f64 cannot hold exactly.
            if bytes < 9.2e18 { bytes as u64 } else { return Err(fail()) }
        }
    };
    if bytes == 0 { Err(fail()) } else { Ok(bytes) }
}

/// Returns `bytes` in the largest decimal unit that makes it 1 or more, with three significant digits:
/// `4.37 GB`.
pub fn display(bytes: u64) -> String {
    let units =
        [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match units.iter().find(|(factor, _)| bytes >= *factor) {
        None => format!("{bytes} B"),
        Some((factor, name)) => {
            let value = bytes as f64 / *factor as f64;
            let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
            format!("{value:.decimals$} {name}")
        }
    }
}

/// Returns a number of parameters as people say it: `135M`, `17.7B`.
pub fn count(n: u64) -> String {
    let n = n as f64;
    match n {
        _ if n >= 9.995e8 => format!("{:.1}B", n / 1e9),
        _ if n >= 9.995e6 => format!("{:.0}M", n / 1e6),
        _ if n >= 1e6 => format!("{:.1}M", n / 1e6),
        _ => format!("{:.0}K", n / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_in_decimal_and_binary_units() {
        assert_eq!(parse("5GB"), Ok(5_000_000_000));
        assert_eq!(parse("500MB"), Ok(500_000_000));
        assert_eq!(parse("1GiB"), Ok(1 << 30));
        assert_eq!(parse("1.5 gb"), Ok(1_500_000_000));
        assert_eq!(parse("123"), Ok(123));
        for bad in ["", "GB", "0", "5XB", "-1GB", "1..5GB", "99999999999TB", "1e999", "nan"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parameters_are_counted_as_people_do() {
        let shown: Vec<_> = [2_200_000, 134_515_008, 999_600_000, 17_711_000_000].map(count).into();
        assert_eq!(shown, ["2.2M", "135M", "1.0B", "17.7B"]);
    }

    #[test]
    fn sizes_display_with_three_digits() {
        let shown: Vec<_> = [999, 1000, 9_994_999, 12_345_678, 123_456_789_000].map(display).into();
        assert_eq!(shown, ["999 B", "1.00 kB", "9.99 MB", "12.3 MB", "123 GB"]);
    }

    #[test]
    fn parameters_display_with_the_letter_people_use() {
        let shown: Vec<_> = [2_500, 1_149_000, 134_515_008, 17_711_500_000].map(count).into();
        assert_eq!(shown, ["2K", "1.1M", "135M", "17.7B"]);
    }
}
