//! All integration tests, in one binary so that they link once.

mod files;
mod folders;
mod imatrix;
mod model;
mod quants;
mod tokenizer;
