//! File formats as tensor sources: the [`source::TensorSource`] contract, GGUF files, and Hugging Face
//! checkpoints (safetensors, PyTorch, LoRA adapters, quantized checkpoints).
//!
//! Only this room knows the byte layouts of model files. Not here: what the tensors mean.

pub mod checkpoint;
pub mod file_kind;
pub mod gguf;
pub mod source;
