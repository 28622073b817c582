//! What a model is, in Hugging Face's terms and in GGUF's: architectures, tokenizers, the conversion
//! between both forms, and the forward pass.

pub mod arch;
pub mod convert;
pub mod forward;
pub mod restore;
pub mod tokenizer;
