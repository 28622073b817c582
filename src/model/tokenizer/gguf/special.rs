//! The special tokens of a vocabulary: their ids, whether BOS and EOS are added, and the chat templates.

use crate::formats::gguf::Metadata;
use crate::model::tokenizer::ChatTemplates;

/// What `tokenizer_config.json` calls a special token, and what GGUF does.
#[rustfmt::skip]
const ID_KEYS: &[(&str, &str)] = &[
    ("bos", "tokenizer.ggml.bos_token_id"),
    ("eos", "tokenizer.ggml.eos_token_id"),
    ("unk", "tokenizer.ggml.unknown_token_id"),
    ("sep", "tokenizer.ggml.seperator_token_id"), // The format's own spelling.
    ("pad", "tokenizer.ggml.padding_token_id"),
    ("mask", "tokenizer.ggml.mask_token_id"),
    ("eot", "tokenizer.ggml.eot_token_id"),
    ("eom", "tokenizer.ggml.eom_token_id"),
];

const ADD_KEYS: &[(&str, &str)] = &[
    ("bos", "tokenizer.ggml.add_bos_token"),
    ("eos", "tokenizer.ggml.add_eos_token"),
    ("sep", "tokenizer.ggml.add_sep_token"),
];

fn key(keys: &[(&str, &'static str)], kind: &str) -> Option<&'static str> {
    keys.iter().find(|(k, _)| *k == kind).map(|(_, key)| *key)
}

/// The special tokens of a vocabulary, in the order in which it is written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SpecialTokens {
    ids: Vec<(&'static str, u32)>,
    adds: Vec<(&'static str, bool)>,
    pub chat_templates: ChatTemplates,
}

impl SpecialTokens {
    /// Sets the id of `kind` unless it has one. Ids of `n_vocab` and above are left out.
    pub(crate) fn set_id(&mut self, kind: &'static str, id: Option<u64>, n_vocab: usize) {
        if let Some(id) = id.filter(|&id| (id as usize) < n_vocab)
            && !self.ids.iter().any(|(k, _)| *k == kind)
        {
            self.ids.push((kind, id as u32));
        }
    }

    /// Sets whether tokenizing adds `kind`.
    pub(crate) fn set_add(&mut self, kind: &'static str, add: bool) {
        match self.adds.iter_mut().find(|(k, _)| *k == kind) {
            Some(entry) => entry.1 = add,
            None => self.adds.push((kind, add)),
        }
    }

    /// Sets whether tokenizing adds `kind`, unless that is set already.
    pub(crate) fn set_add_default(&mut self, kind: &'static str, add: bool) {
        if !self.adds.iter().any(|(k, _)| *k == kind) {
            self.adds.push((kind, add));
        }
    }

    /// Writes the keys: ids, then what is added, then chat templates.
    pub(crate) fn write_to(&self, metadata: &mut Metadata) {
        for (kind, id) in &self.ids {
            if let Some(key) = key(ID_KEYS, kind) {
                metadata.set(key, *id);
            }
        }
        for (kind, add) in &self.adds {
            if let Some(key) = key(ADD_KEYS, kind) {
                metadata.set(key, *add);
            }
        }
        self.chat_templates.write_to(metadata);
    }
}
