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
#[cfg(feature = "hub")]
mod hub;
mod imatrix;
mod inspect;
mod layering;
mod lora;
mod merge;
mod model;
mod outputs;
mod plan;
mod properties;
mod pytorch;
mod quants;
mod recipe;
mod recipes;
mod restore;
mod shards;
mod stress;
mod tokenizer;
mod vocabulary;
