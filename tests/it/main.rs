//! All integration tests, in one binary so that they link once.

mod build;
mod cli;
mod convert;
mod damage;
mod demo;
mod dialect;
mod ends;
mod files;
mod folders;
mod ftypes;
mod hostile;
#[cfg(feature = "hub")]
mod hub;
mod imatrix;
mod inspect;
mod layering;
mod lora;
mod merge;
mod methods;
mod model;
mod outputs;
mod picture;
mod plan;
mod properties;
mod pytorch;
mod quants;
mod recipe;
mod recipes;
mod restore;
mod resume;
mod shards;
mod stress;
mod tokenizer;
mod tokenizer_keys;
mod tokenizers;
mod vocabulary;
