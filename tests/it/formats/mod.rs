//! Files read and written: GGUF, safetensors, PyTorch, adapters, quantized checkpoints.

pub(crate) mod folders;
pub(crate) mod foreign_files;
pub(crate) mod gguf_bytes;
pub(crate) mod hostile_files;
pub(crate) mod json_dialect;
pub(crate) mod lora;
pub(crate) mod lora_kinds;
pub(crate) mod model_cards;
pub(crate) mod outputs;
pub(crate) mod pytorch;
pub(crate) mod quantized_models;
pub(crate) mod quantized_packed;
pub(crate) mod quantized_sources;
pub(crate) mod split;
pub(crate) mod tensor_types;
pub(crate) mod weight_files;
