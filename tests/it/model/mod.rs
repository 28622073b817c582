//! Architectures, tokenizers, conversion both ways and the forward pass.

pub mod added_tokens;
pub mod architectures;
pub mod chat_rendering;
pub mod chat_templates;
pub mod conversion;
pub mod experts;
pub mod forward_pass;
pub mod multimodal;
pub mod old_tokenizers;
pub mod restore;
pub mod smollm2_tokenizer;
pub mod spellings;
pub mod tied_heads;
pub mod tokenizers;
pub mod transformers5;
pub mod vocabulary;
