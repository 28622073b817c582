//! The texts that an importance matrix is computed from: files, parts of the corpus that comes with
//! the program, and conversations.
//!
//! Not here: tokens in chunks and what the model computes from them (`measure::imatrix`).

mod conversations;
mod corpus;
mod text;

pub use conversations::Chats;
pub use corpus::{CORPUS, CorpusPart, parts as calibration_parts};
pub use text::Calibration;
