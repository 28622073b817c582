//! All integration tests, in one binary so that they link once.

mod architectures;
mod build;
mod build_resume;
mod calibrate;
mod calibration;
mod cli;
mod convert;
mod damage;
mod demo;
mod dialect;
mod diff;
mod ends;
mod evaluate;
mod experts;
mod files;
mod folders;
mod foreign_files;
mod ftypes;
#[cfg(unix)]
mod guide;
mod hostile;
#[cfg(feature = "hub")]
mod http;
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "hub")]
mod hub_publish;
#[cfg(feature = "hub")]
mod hub_server;
mod hub_sources;
mod imatrix;
mod imatrix_resume;
mod imatrix_shards;
mod imatrix_show;
mod imatrix_texts;
mod input_protection;
mod inspect;
mod json_dialect;
mod layering;
mod lora;
mod lora_kinds;
mod merge;
mod methods;
mod model;
mod model_cards;
mod outputs;
mod picture;
mod plan;
mod properties;
mod publish;
mod publish_folder;
mod pytorch;
mod quantize_target;
mod quantized_packed;
mod quantized_sources;
mod quants;
mod recipe;
mod recipes;
mod rendered;
mod restore;
mod resume;
mod shards;
mod spellings;
mod split;
mod stress;
mod telling;
mod tensor_types;
mod tied_heads;
mod tokenizer;
mod tokenizer_keys;
mod tokenizers;
mod transformers5;
mod verify;
mod vocabulary;
mod weight_files;
mod wrong;
