//! Importance matrices, evaluation, calibration texts and differences.

pub mod calibration_texts;
pub mod diff;
pub mod evaluation;
pub mod generated_text;
pub mod imatrix_files;
pub mod imatrix_resume;
pub mod imatrix_shards;
pub mod imatrix_show;
pub mod imatrix_texts;
pub mod text_shares;
