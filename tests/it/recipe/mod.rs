//! The recipe language: what is read, what is refused, what a plan says.

pub mod dialect;
pub mod ends;
pub mod language;
pub mod leniency;
pub mod plan;
pub mod recipe_errors;
pub mod shipped_recipes;
pub mod tokenizer_keys;
