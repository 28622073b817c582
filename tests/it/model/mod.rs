//! Architectures, tokenizers, conversion both ways and the forward pass.

pub(crate) mod added_tokens;
pub(crate) mod architectures;
pub(crate) mod chat_rendering;
pub(crate) mod chat_templates;
pub(crate) mod conversion;
pub(crate) mod experts;
pub(crate) mod forward_pass;
pub(crate) mod multimodal;
pub(crate) mod old_tokenizers;
pub(crate) mod restore;
pub(crate) mod smollm2_tokenizer;
pub(crate) mod spellings;
pub(crate) mod tied_heads;
pub(crate) mod tokenizers;
pub(crate) mod transformers5;
pub(crate) mod vocabulary;
