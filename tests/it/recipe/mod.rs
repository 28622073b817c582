//! The recipe language: what is read, what is refused, what a plan says.

pub(crate) mod dialect;
pub(crate) mod ends;
pub(crate) mod language;
pub(crate) mod leniency;
pub(crate) mod plan;
pub(crate) mod recipe_errors;
pub(crate) mod shipped_recipes;
pub(crate) mod tokenizer_keys;
