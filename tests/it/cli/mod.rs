//! The command line: events, files, protection of inputs.

pub(crate) mod commands;
pub(crate) mod demo;
pub(crate) mod input_protection;
pub(crate) mod progress_events;
pub(crate) mod shell_files;
