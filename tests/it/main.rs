//! All integration tests, in one binary so that they link once.

mod convert;
mod files;
mod folders;
mod merge;
mod hostile;
mod outputs;
mod quants;
mod recipe;
mod tokenizer;
