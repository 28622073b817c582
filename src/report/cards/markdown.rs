//! Texts from elsewhere in Markdown: none of them can end a table's cell, a line or a block of code.

/// `text` on one line, shown as it is in GitHub's and the hub's Markdown, table cells included.
pub(super) fn plain(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() => safe.push(' '),
            '<' => safe.push_str("&lt;"),
            '&' => safe.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '>' | '!' | '$' => {
                safe.push('\\');
                safe.push(c);
            }
            c => safe.push(c),
        }
    }
    safe
}

/// A block of code that `text` cannot end: its fence is longer than any run of backticks in it.
pub(super) fn code_block(language: &str, text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat((longest + 1).max(3));
    let end = if text.ends_with('\n') { "" } else { "\n" };
    format!("{fence}{language}\n{text}{end}{fence}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stay_in_their_place() {
        assert_eq!(plain("a|b\n# <i>`c`"), "a\\|b \\# &lt;i\\>\\`c\\`");
        assert_eq!(code_block("", "x"), "```\nx\n```\n");
        assert_eq!(code_block("yaml", "a\n````\nb\n"), "`````yaml\na\n````\nb\n`````\n");
    }
}
