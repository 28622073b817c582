//! All integration tests, in one binary so that they link once.

mod build;
mod cli;
mod convert;
mod damage;
mod demo;
mod files;
mod folders;
mod ftypes;
mod hostile;
mod imatrix;
mod inspect;
mod layering;
mod merge;
mod model;
mod outputs;
mod plan;
mod properties;
mod quants;
mod recipe;
mod recipes;
mod shards;
mod stress;
mod tokenizer;
mod tokenizer_keys;
mod tokenizers;
mod vocabulary;
