//! Patterns of file names as `hf upload` reads them.
//!
//! Rules of Python's `fnmatch` module, on the whole path: `*` any characters, `/` among them, `?` one, `[...]` one of a
//! set, `[!...]` one that is not; a pattern that ends in `/` means all in that folder (`huggingface_hub`,
//! `utils/_paths.py`).

use crate::base::error::{Error, Result};
use regex::Regex;

/// A pattern that paths are compared with.
#[derive(Clone, Debug)]
pub(super) struct Pattern(Regex);

impl Pattern {
    fn new(text: &str) -> Result<Pattern> {
        let text = if text.ends_with('/') { format!("{text}*") } else { text.to_string() };
        let mut regex = String::from(r"(?s)\A(?:");
        let mut rest = text.as_str();
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match c {
                '*' => regex.push_str(".*"),
                '?' => regex.push('.'),
                // A bracket may be the first in a set; one that is never closed is itself.
                '[' => match rest
                    .char_indices()
                    .skip(1 + usize::from(rest.starts_with('!')))
                    .find(|(_, c)| *c == ']')
                {
                    Some((end, _)) => {
                        regex.push_str(&set(&rest[..end]));
                        rest = &rest[end + 1..];
                    }
                    None => regex.push_str(r"\["),
                },
                c => regex.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
            }
        }
        regex.push_str(r")\z");
        let built = Regex::new(&regex);
        built
            .map(Pattern)
            .map_err(|_| Error::Usage(format!("{text:?} is no pattern of file names")))
    }

    pub(super) fn all(texts: &[String]) -> Result<Vec<Pattern>> {
        texts.iter().map(|text| Pattern::new(text)).collect()
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        self.0.is_match(path)
    }
}

/// A set of characters: `a-z` is a range, `!` at the beginning means all others.
fn set(text: &str) -> String {
    let (not, text) = match text.strip_prefix('!') {
        Some(rest) => ("^", rest),
        None => ("", text),
    };
    let escaped = |c: char| if c == '-' { "-".to_string() } else { regex::escape(&c.to_string()) };
    let mut inner: String = text.chars().map(escaped).collect();
    // A hyphen at an end is itself.
    if let Some(rest) = inner.strip_prefix('-') {
        inner = format!(r"\-{rest}");
    }
    if inner.len() > 1 && inner.ends_with('-') {
        inner.insert(inner.len() - 1, '\\');
    }
    format!("[{not}{inner}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_fnmatch() {
        // Each checked with fnmatch.fnmatchcase of Python 3.11.
        for (pattern, path, expected) in [
            ("*.gguf", "a.gguf", true),
            ("*.gguf", "stack/a.gguf", true),
            ("*.gguf", "a.gguf.txt", false),
            ("*Q4*", "Name-Q4_K_M.gguf", true),
            ("?.md", "a.md", true),
            ("?.md", "ab.md", false),
            ("[ab].md", "a.md", true),
            ("[ab].md", "c.md", false),
            ("[!ab].md", "c.md", true),
            ("[!ab].md", "a.md", false),
            ("[a-c].md", "b.md", true),
            ("[]x].md", "].md", true),
            ("[!]x].md", "].md", false),
            ("[a-].md", "-.md", true),
            ("[-a].md", "-.md", true),
            ("[^a].md", "^.md", true),
            ("[^a].md", "b.md", false),
            ("[x", "[x", true),
            ("a.b", "axb", false),
            ("a+b", "a+b", true),
            ("A", "a", false),
            ("x*", "x\ny", true),
            (".*", ".hidden/x", true),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap().matches(path), expected, "{pattern} {path}");
        }
        assert!(Pattern::new("stack/").unwrap().matches("stack/deep/x"), "as hf upload has it");
        assert!(Pattern::new("[z-a]").is_err());
    }
}
