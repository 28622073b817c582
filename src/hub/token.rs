//! The user's token: where it is found, and that it is shown to nobody.
//!
//! Places and their order: `huggingface_hub`, `utils/_auth.py` and `constants.py` (2.x). Deliberately absent: tokens of
//! other sign-ins (OIDC, notebooks), and storing one.

use super::{folder_from_env, hub_home};
use std::fmt;

/// A secret. Has no `Display`, and its `Debug` tells nothing.
pub(super) struct Token(String);

impl Token {
    /// From `HF_TOKEN`, the older `HUGGING_FACE_HUB_TOKEN`, the file that `HF_TOKEN_PATH` names, or the one that `hf
    /// auth login` writes.
    pub(super) fn from_env() -> Option<Token> {
        let variable = |name: &str| std::env::var(name).ok().and_then(|text| Token::parse(&text));
        let given = variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN"));
        given.or_else(|| {
            let path = folder_from_env("HF_TOKEN_PATH").or(Some(hub_home()?.join("token")))?;
            Token::parse(&std::fs::read_to_string(path).ok()?)
        })
    }

    /// `text` without the white space around it, if it can stand in a header.
    fn parse(text: &str) -> Option<Token> {
        let text = text.trim();
        let printable = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        printable.then(|| Token(text.to_string()))
    }

    /// The value of an `Authorization` header.
    pub(super) fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// `text` without the token, which a server may repeat in an answer.
    pub(super) fn hide(&self, text: &str) -> String {
        text.replace(&self.0, "(token)")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shows_a_token() {
        let token = Token::parse(" hf_secret\r\n").unwrap();
        assert_eq!(format!("{token:?}"), "Token(..)");
        assert_eq!(token.authorization(), "Bearer hf_secret");
        assert_eq!(token.hide("no 'hf_secret' here: hf_secret"), "no '(token)' here: (token)");
        for bad in ["", " \n", "two words", "hf_\u{1}", "h\r\nX-Header: f"] {
            assert!(Token::parse(bad).is_none(), "{bad:?}");
        }
    }
}
