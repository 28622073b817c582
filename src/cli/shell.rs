//! Words of a command line, as one types them.

use std::ffi::OsStr;

/// `word` for a POSIX shell: in quotes where it needs them.
pub(super) fn quoted(word: impl AsRef<OsStr>) -> String {
    let text = word.as_ref().to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_they_need_it() {
        let shown = ["out/a-1.gguf", "my models", "it's", "", "a;b", "ümlaut"].map(quoted);
        assert_eq!(shown, ["out/a-1.gguf", "'my models'", r"'it'\''s'", "''", "'a;b'", "ümlaut"]);
    }
}
