//! Block formats and files against llama.cpp's.

pub mod block_formats;
pub mod damaged_scales;
pub mod file_types;
pub mod kept_shards;
pub mod quantize_target;
