//! What a recipe says: YAML text -> [`schema::Document`]s, with all problems reported on the way.
//!
//! `yaml` parses text into a tree with positions. `schema` turns each document of the tree into a
//! typed value, with the help of `inputs`, `ends`, `params` and `tokenizer`. `build_settings` reads
//! the document that configures a build, `mergekit_keys` accepts keys of mergekit without effect.
//!
//! Not here: whether models exist and fit together, which [`super::plan`] decides.

pub(crate) mod build_settings;
pub(crate) mod diagnostics;
pub(crate) mod ends;
pub(crate) mod inputs;
mod mergekit_keys;
pub(crate) mod model_ref;
pub(crate) mod params;
pub(crate) mod schema;
pub(crate) mod seed_text;
pub(crate) mod tokenizer;
pub(crate) mod yaml;
