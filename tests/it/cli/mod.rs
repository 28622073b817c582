//! The command line: events, files, protection of inputs, the guide.

pub mod demo;
#[cfg(unix)]
pub mod guide;
pub mod input_protection;
pub mod progress_events;
pub mod shell_files;
