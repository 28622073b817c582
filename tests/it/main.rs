//! All integration tests, in one binary so that they link once.

mod convert;
mod files;
mod folders;
mod hostile;
mod outputs;
mod quants;
mod tokenizer;
