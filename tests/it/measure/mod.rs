//! Importance matrices, evaluation, calibration texts and differences.

pub(crate) mod calibration_texts;
pub(crate) mod diff;
pub(crate) mod evaluation;
pub(crate) mod generated_text;
pub(crate) mod imatrix_files;
pub(crate) mod imatrix_resume;
pub(crate) mod imatrix_shards;
pub(crate) mod imatrix_show;
pub(crate) mod imatrix_texts;
pub(crate) mod text_shares;
