//! The tokens of a checkpoint by id, as its files spell them: what tells which rows of two models'
//! embeddings mean the same.
//!
//! Read from `tokenizer.json`, else from `tokenizer.model`; then what `added_tokens.json` and
//! `tokenizer_config.json` add, as the transformers library loads them. Nothing is brought to GGUF's
//! spelling here; that is [`crate::model::tokenizer::Vocabulary`]'s.

use super::files::TokenizerFiles;
use super::sentencepiece;
use super::tokenizer_json::AddedToken;
use crate::base::error::Result;
use crate::formats::checkpoint::{Checkpoint, SideFile};
use std::collections::{BTreeMap, HashMap};

/// Ids from here on are no ids: twice the largest vocabulary in the field, and safe to count with.
const ID_LIMIT: u32 = 1 << 22;

/// Texts and ids. Every text has one id and every id one text; ids may have gaps.
#[derive(Clone, Debug, Default)]
pub struct TokenList {
    texts: BTreeMap<u32, String>,
    ids: HashMap<String, u32>,
    /// Tokens that are declared beside the model of the tokenizer, with their flags.
    added: BTreeMap<u32, AddedToken>,
}

impl TokenList {
    /// The tokens of `checkpoint`; `None` if no tokenizer lies beside its weights.
    ///
    /// # Errors
    /// If a file cannot be read, or holds no tokenizer of a known kind.
    pub fn read(checkpoint: &Checkpoint) -> Result<Option<TokenList>> {
        if checkpoint.side_files.iter().any(|file| matches!(file, SideFile::Unavailable { .. })) {
            return Ok(None); // It has tokens, but none that files could be made of.
        }
        let files = TokenizerFiles::read(checkpoint)?;
        let mut list = TokenList::default();
        if let Some((path, _, json)) = &files.json {
            for (id, text) in json.vocab(path)?.into_iter().enumerate() {
                if let Some(text) = text {
                    list.set(id as u32, text);
                }
            }
            json.added_tokens.iter().for_each(|token| list.declare(token.clone()));
        } else if let Some((path, bytes)) = &files.sentencepiece {
            for (id, text) in sentencepiece::pieces(path, bytes)?.into_iter().enumerate() {
                list.set(id as u32, text);
            }
            for (text, id) in &files.added_tokens {
                if let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) {
                    list.declare(AddedToken::plain(id, text));
                }
            }
        } else {
            return Ok(None);
        }
        for token in files.config_added_tokens()? {
            let known = list.id(&token.content).is_some() && list.added.contains_key(&token.id);
            if !known {
                list.declare(token);
            }
        }
        Ok(Some(list))
    }

    /// The token with `id`.
    pub fn text(&self, id: u32) -> Option<&str> {
        self.texts.get(&id).map(String::as_str)
    }

    /// The id of the token `text`.
    pub fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// Ids and texts, by id.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        self.texts.iter().map(|(&id, text)| (id, text.as_str()))
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The id after the last: rows an embedding needs.
    pub fn end(&self) -> u32 {
        self.texts.last_key_value().map_or(0, |(id, _)| id + 1)
    }

    /// Whether the token with `id` is declared beside the tokenizer's model (and so is cut out of texts
    /// before anything else).
    pub fn is_added(&self, id: u32) -> bool {
        self.added.contains_key(&id)
    }

    /// This list without the tokens that have no row in an embedding of `rows`, and their number.
    pub fn within(mut self, rows: usize) -> (TokenList, usize) {
        let limit = u32::try_from(rows).unwrap_or(u32::MAX);
        let beyond = self.texts.split_off(&limit);
        self.added.split_off(&limit);
        self.ids.retain(|_, id| *id < limit);
        (self, beyond.len())
    }

    /// Gives the token `text` the next free id, as an added token that is not special, unless it is
    /// there already. Tells whether it was new.
    pub fn append(&mut self, text: &str) -> bool {
        let is_new = self.id(text).is_none();
        if is_new {
            self.declare(AddedToken::plain(self.end(), text));
        }
        is_new
    }

    /// Declares the added token that `other` has under `id` here too: under the id that its text has,
    /// else the next free one. A declaration that is here already stays. Tells whether the text was new.
    pub fn append_added(&mut self, other: &TokenList, id: u32) -> bool {
        let Some(token) = other.added.get(&id) else { return false };
        let known = self.id(&token.content);
        let id = known.unwrap_or(self.end());
        if !self.added.contains_key(&id) {
            self.declare(AddedToken { id, ..token.clone() });
        }
        known.is_none()
    }

    /// Whether another declaration of an added token `other` has under `id` differs from that here.
    pub fn declares_otherwise(&self, other: &TokenList, id: u32) -> bool {
        let theirs = other.added.get(&id);
        let own = theirs.and_then(|token| self.added.get(&self.id(&token.content)?));
        own.zip(theirs).is_some_and(|(own, theirs)| !own.same_flags(theirs))
    }

    /// The declarations that are here and not in `other`, by id.
    pub(super) fn added_beyond(&self, other: &TokenList) -> Vec<&AddedToken> {
        let new = self.added.iter().filter(|(id, _)| !other.added.contains_key(id));
        new.map(|(_, token)| token).collect()
    }

    fn set(&mut self, id: u32, text: String) {
        // A damaged list of pieces may say a text twice; the first is the one that encoders find.
        if id >= ID_LIMIT || self.ids.contains_key(&text) {
            return;
        }
        self.ids.insert(text.clone(), id);
        if let Some(old) = self.texts.insert(id, text) {
            self.ids.remove(&old);
        }
    }

    fn declare(&mut self, token: AddedToken) {
        if token.id >= ID_LIMIT || token.content.is_empty() {
            return;
        }
        // The text may stand in the model under another id, which then means nothing any more.
        if let Some(old) = self.ids.get(&token.content).copied().filter(|&old| old != token.id) {
            self.ids.remove(&token.content);
            self.texts.remove(&old);
            self.added.remove(&old);
        }
        self.set(token.id, token.content.clone());
        self.added.insert(token.id, token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> TokenList {
        let mut list = TokenList::default();
        texts.iter().enumerate().for_each(|(id, text)| list.set(id as u32, text.to_string()));
        list
    }

    #[test]
    fn appended_tokens_get_the_next_ids_and_known_ones_keep_theirs() {
        let mut one = list(&["<s>", "a", "b"]);
        let mut two = list(&["b", "c"]);
        two.declare(AddedToken { special: true, ..AddedToken::plain(2, "<s>") });
        two.declare(AddedToken { special: true, ..AddedToken::plain(9, "<|x|>") });
        assert_eq!((two.len(), two.end()), (4, 10));
        assert!(one.append("c") && !one.append("a"));
        assert!(!one.append_added(&two, 2), "the text is known");
        assert!(one.append_added(&two, 9));
        assert_eq!((one.id("c"), one.id("<|x|>"), one.end()), (Some(3), Some(4), 5));
        assert!(one.is_added(0) && !one.is_added(1) && one.is_added(3));
        let (one, beyond) = one.within(4);
        assert_eq!((beyond, one.id("<|x|>"), one.text(3)), (1, None, Some("c")));
    }
}
