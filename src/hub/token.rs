//! The user's access token: where it is read from, and how it is omitted from messages.
//!
//! Places and their order: `huggingface_hub`, `utils/_auth.py` and `constants.py` (2.x).
//! Not here: storing a token, and other ways to sign in (OIDC, notebooks).

use super::cache::{folder_from_env, hub_home};
use std::fmt;

/// A secret. It has no `Display`, and its `Debug` output does not contain it.
pub(super) struct AccessToken(String);

impl AccessToken {
    /// The token from `HF_TOKEN`, from the older `HUGGING_FACE_HUB_TOKEN`, from the file that
    /// `HF_TOKEN_PATH` names, or from the file that `hf auth login` writes.
    pub(super) fn from_env() -> Option<AccessToken> {
        let variable =
            |name: &str| std::env::var(name).ok().and_then(|text| AccessToken::parse(&text));
        let given = variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN"));
        given.or_else(|| {
            let path = folder_from_env("HF_TOKEN_PATH").or(Some(hub_home()?.join("token")))?;
            AccessToken::parse(&std::fs::read_to_string(path).ok()?)
        })
    }

    /// Trims `text`; `None` if the rest is not valid in a header.
    fn parse(text: &str) -> Option<AccessToken> {
        let text = text.trim();
        let printable = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        printable.then(|| AccessToken(text.to_string()))
    }

    /// The value of an `Authorization` header.
    pub(super) fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Replaces the token in `text`, since a server may repeat it in an answer.
    pub(super) fn hide(&self, text: &str) -> String {
        text.replace(&self.0, "(token)")
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_and_messages_omit_the_token() {
        let token = AccessToken::parse(" hf_secret\r\n").unwrap();
        assert_eq!(format!("{token:?}"), "Token(..)");
        assert_eq!(token.authorization(), "Bearer hf_secret");
        assert_eq!(token.hide("no 'hf_secret' here: hf_secret"), "no '(token)' here: (token)");
        for bad in ["", " \n", "two words", "hf_\u{1}", "h\r\nX-Header: f"] {
            assert!(AccessToken::parse(bad).is_none(), "{bad:?}");
        }
    }
}
