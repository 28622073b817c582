//! Files read and written: GGUF, safetensors, PyTorch, adapters, quantized checkpoints.

pub mod foreign_files;
pub mod gguf_bytes;
pub mod json_dialect;
pub mod lora;
pub mod lora_kinds;
pub mod model_cards;
pub mod outputs;
pub mod pytorch;
pub mod quantized_models;
pub mod quantized_packed;
pub mod quantized_sources;
pub mod split;
pub mod tensor_types;
pub mod weight_files;
