//! Model files as tensor sources: the [`source::TensorSource`] trait, GGUF files, and Hugging Face
//! checkpoints (safetensors, PyTorch, LoRA adapters, quantized checkpoints).
//!
//! Only this room knows the byte layouts of model files. Not here: the meaning of the tensors, see
//! [`crate::model`].

pub mod checkpoint;
pub mod file_kind;
pub mod gguf;
pub mod source;
