//! Helpers of the tests: the program run in a folder of its own, small models, servers.

pub(crate) mod files;
pub(crate) mod folders;
pub(crate) mod golden_models;
#[cfg(feature = "hub")]
pub(crate) mod http;
#[cfg(feature = "hub")]
pub(crate) mod hub_server;
pub(crate) mod program;
pub(crate) mod pytorch_file;
pub(crate) mod recipe_checks;
pub(crate) mod sentencepiece;
pub(crate) mod stress;
pub(crate) mod tiny_llama;
pub(crate) mod tokenizer_members;
