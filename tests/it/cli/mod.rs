//! The command line: events, files, protection of inputs, the guide.

pub(crate) mod demo;
#[cfg(unix)]
pub(crate) mod guide;
pub(crate) mod input_protection;
pub(crate) mod progress_events;
pub(crate) mod shell_files;
