//! All integration tests, in one binary so that they link once.

mod files;
mod quants;
mod tokenizer;
