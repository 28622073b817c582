//! Text helpers of all reports: one-line text from files, numbers, and letters of members.

use crate::formats::gguf;

/// Longer texts are cut in tables.
const MAX_TEXT: usize = 100;

/// Four significant digits.
pub(crate) fn significant(v: f32) -> String {
    match v.abs() {
        0.0 => "0".to_string(),
        a if (1e-3..1e5).contains(&a) => {
            let digits = (3 - a.log10().floor() as i32).max(0) as usize;
            format!("{v:.digits$}")
        }
        _ => format!("{v:.3e}"),
    }
}

/// Appends `c`; what steers a terminal and what is no UTF-8 in a GGUF file is escaped.
fn push_shown(text: &mut String, c: char) {
    match gguf::escape_invalid_char(c) {
        Some(byte) => text.push_str(&byte),
        None if c.is_control() => text.extend(c.escape_default()),
        None => text.push(c),
    }
}

/// `text` in one line, without characters that steer the terminal: names in files may have any.
pub fn escape_control_chars(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        push_shown(&mut escaped, c);
    }
    escaped
}

/// `text` on one line without control characters, cut where it is long.
pub(crate) fn one_line(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        if shown.chars().count() >= MAX_TEXT {
            shown.push('…');
            break;
        }
        // A file's text must not steer the terminal.
        push_shown(&mut shown, c);
    }
    shown
}

/// `A` to `Z`, then `A1` to `Z1` and so on.
pub(crate) fn letter(index: usize) -> String {
    let letter = char::from(b'A' + (index % 26) as u8);
    match index / 26 {
        0 => letter.to_string(),
        round => format!("{letter}{round}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_four_digits() {
        let shown = [0.0, 1.0, 12.3456, 12345.6, 1.0e7, 0.00012346].map(significant);
        assert_eq!(shown, ["0", "1.000", "12.35", "12346", "1.000e7", "1.235e-4"]);
    }

    #[test]
    fn control_characters_are_escaped_and_long_texts_cut() {
        assert_eq!(one_line("a\nb\u{1b}[2J"), "a\\nb\\u{1b}[2J");
        assert_eq!(one_line(&"ä".repeat(200)).chars().count(), MAX_TEXT + 1);
    }
}
