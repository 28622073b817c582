//! The documentation: commands in README.md and the guide run, links lead somewhere.

#[cfg(unix)]
pub(crate) mod guide;
pub(crate) mod links;
