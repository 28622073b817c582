//! What every other room stands on: tensor types, errors, progress, sizes, hashes, the memory map, locks,
//! platform-specific file operations, and outputs that are whole or absent.
//!
//! Not here: anything that knows a file format or a model.

pub(crate) mod budget;
pub mod dtype;
pub mod error;
pub mod hash;
pub mod memory;
pub mod mmap;
pub mod output;
pub mod progress;
pub mod resume;
pub(crate) mod simd;
pub mod size;
pub(crate) mod spelling;
pub mod sync;
pub mod system;
