//! Strings of GGUF files, which may hold any bytes, as Rust strings and back without loss.
//!
//! A byte that is not valid UTF-8 becomes a private-use character from U+10FF00 to U+10FFFF. If a
//! file itself contains such characters, each of their bytes becomes one. So every sequence of
//! bytes has exactly one string.

use std::borrow::Cow;

/// The character that represents byte 0.
const FIRST: u32 = 0x10_ff00;

fn byte_of(c: char) -> Option<u8> {
    u8::try_from(u32::from(c).checked_sub(FIRST)?).ok()
}

/// Returns the string that represents `bytes`.
pub fn text_of_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let stand_in = |byte: &u8| char::from_u32(FIRST + u32::from(*byte)).expect("a character");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match byte_of(c) {
                None => text.push(c),
                Some(_) => {
                    text.extend(c.encode_utf8(&mut [0; 4]).as_bytes().iter().map(stand_in));
                }
            }
        }
        text.extend(chunk.invalid().iter().map(stand_in));
    }
    text
}

/// Returns the bytes that `text` represents.
pub fn bytes_of_text(text: &str) -> Cow<'_, [u8]> {
    if is_utf8(text) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut bytes = Vec::with_capacity(text.len());
    for c in text.chars() {
        match byte_of(c) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Cow::Owned(bytes)
}

/// Whether `text` represents valid UTF-8, which is then `text` itself.
pub fn is_utf8(text: &str) -> bool {
    // The UTF-8 form of every stand-in begins with this byte; few other characters do.
    !text.as_bytes().contains(&0xf4) || text.chars().all(|c| byte_of(c).is_none())
}

/// Returns an escape such as `\xff` if `c` represents a byte that is not valid UTF-8.
pub fn escape_invalid_char(c: char) -> Option<String> {
    byte_of(c).map(|byte| format!("\\x{byte:02x}"))
}

/// Returns `text` for display, with an escape such as `\xff` for each byte that is not valid UTF-8.
pub fn escape_invalid_utf8(text: &str) -> Cow<'_, str> {
    if is_utf8(text) {
        return Cow::Borrowed(text);
    }
    text.chars().map(|c| escape_invalid_char(c).unwrap_or_else(|| c.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_survive_the_round_trip() {
        for bytes in [
            &b"plain"[..],
            b"",
            b"\xff\xfe",
            "caf\u{e9} \u{1f600}".as_bytes(),
            b"\xe2\x96",
            b"a\xc3\x28b\xf0\x9f",
            "\u{10ff41}\u{10ffff}x\u{10fffe}".as_bytes(),
            b"\xf4\x8f\xbd\x81\xf4",
            &(0..=255).collect::<Vec<u8>>(),
        ] {
            let text = text_of_bytes(bytes);
            assert_eq!(bytes_of_text(&text).as_ref(), bytes);
            assert_eq!(std::str::from_utf8(bytes).ok() == Some(&text), is_utf8(&text), "{bytes:?}");
        }
        assert_eq!(escape_invalid_utf8(&text_of_bytes(b"a\xff\xc3b")), "a\\xff\\xc3b");
        assert_ne!(text_of_bytes("\u{10ff41}".as_bytes()), text_of_bytes(b"A"));
    }
}
