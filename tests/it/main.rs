//! All integration tests, in one binary so that they link once.

mod build;
mod cli;
mod docs;
mod formats;
mod library;
mod measure;
mod merge;
mod model;
mod quantize;
mod recipe;
mod report;
mod structure;
mod support;
