//! All integration tests, in one binary so that they link once.

mod convert;
mod files;
mod folders;
mod hostile;
mod merge;
mod outputs;
mod quants;
mod recipe;
mod tokenizer;
mod vocabulary;
