//! Block formats and files against llama.cpp's.

pub(crate) mod block_formats;
pub(crate) mod damaged_scales;
pub(crate) mod file_types;
pub(crate) mod interrupted;
pub(crate) mod kept_shards;
pub(crate) mod quantize_target;
